"""Credentials that the user has already: podman's and Docker's files, and credential helpers.

1. The files are looked through in order; the first that has something for the image counts.
2. In a file the longest key that the image's name begins with counts (`host/path`, then `host`);
   Docker's old keys are URLs, of which the host counts, after a key that is just the host.
3. A helper that the file names for the host comes before what the file itself holds, and the
   file's common store before that too. A helper that is missing or fails is a warning.

Spec: containers-auth.json(5); Docker's "credential helper protocol".
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from dimgx.errors import ImageError, SourceError
from dimgx.imagename import DOCKER_HUB
from dimgx.jsondoc import Fields, parse_json
from dimgx.registryoptions import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FILE_LIMIT = 4 << 20
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = frozenset((DOCKER_HUB, "index.docker.io", "registry-1.docker.io"))
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_TIME_S = 60
_TOKEN_USER = "<token>"


def find_credentials(
    files: Sequence[str], domain: str, path: str, warn: Callable[[str], None]
) -> Credentials | None:
    """Give what `files` hold for the repository `path` at `domain`, None for nothing.

    Raises: SourceError where a file is malformed.
    """
    for name in files:
        try:
            found = _AuthFile.read(name, warn)
            credentials = None if found is None else found.find(domain, path)
        except ImageError as exc:
            raise SourceError(f"credentials: {exc}") from None
        if credentials is not None:
            return credentials
    return None


class _AuthFile(NamedTuple):
    name: str
    auths: dict[str, Fields]
    store: str | None
    helpers: dict[str, str]
    warn: Callable[[str], None]

    @classmethod
    def read(cls, name: str, warn: Callable[[str], None]) -> _AuthFile | None:
        try:
            with open(name, "rb") as file:
                data = file.read(_FILE_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            warn(f"the credentials in {name} cannot be read: {exc.strerror}")
            return None
        if not data.strip():
            return None
        value = parse_json(data, name, _FILE_LIMIT)
        fields = Fields(value, name)
        # The oldest form is nothing but the map of hosts.
        is_old = os.path.basename(name) == ".dockercfg" and "auths" not in fields
        auths = value if is_old and isinstance(value, dict) else fields.mapping("auths")
        entries = {
            key: Fields(entry, f"{name}: {key}")
            for key, entry in auths.items()
            if isinstance(entry, dict)
        }
        store, helpers = fields.text("credsStore"), fields.text_mapping("credHelpers")
        return cls(name, entries, store, helpers, warn)

    def find(self, domain: str, path: str) -> Credentials | None:
        named = (self.helpers[host] for host in _spellings(domain) if host in self.helpers)
        helper = next(named, self.store)
        found = self._ask(helper, domain) if helper else None
        if found is not None:
            return found
        for key in _keys(domain, path):
            for known in sorted(self.auths, key=lambda known: known != key):
                if key in (known, _normal(known)):
                    found = self._parse(self.auths[known])
                    if found is not None:
                        return found
        return None

    def _parse(self, entry: Fields) -> Credentials | None:
        user, password = entry.text("username") or "", entry.text("password") or ""
        encoded = entry.text("auth")
        if encoded:
            import base64

            # The program `base64` breaks its lines, which Go's reading passes over.
            encoded = re.sub(r"[\r\n]", "", encoded)
            try:
                text = base64.b64decode(encoded, validate=True).decode("utf-8", "surrogateescape")
            except ValueError:  # it is not ASCII, or not base64
                raise ImageError(f"{entry.what}: auth is not valid base64") from None
            user, colon, password = text.partition(":")
            if not colon:
                raise ImageError(f"{entry.what}: auth holds no user and password")
            password = password.strip("\0")
        identity, registry = entry.text("identitytoken") or "", entry.text("registrytoken") or ""
        return _usable(Credentials(user, password, identity, registry, self.name))

    def _ask(self, helper: str, domain: str) -> Credentials | None:
        """Ask a credential helper; what goes wrong with it is a warning."""
        program = f"docker-credential-{helper}"
        if not _HELPER.fullmatch(helper):
            self.warn(f"{self.name}: {helper!r:.100} is no name of a credential helper")
            return None
        for server in (_HUB_KEY, DOCKER_HUB) if domain in _HUB_HOSTS else (domain,):
            try:
                done = subprocess.run(
                    [program, "get"],
                    input=server.encode(),
                    capture_output=True,
                    timeout=_HELPER_TIME_S,
                    check=False,
                )
            except FileNotFoundError:
                self.warn(f"{program}, which {self.name} names, is not installed: going on without")
                return None
            except (OSError, subprocess.TimeoutExpired) as exc:
                reason = getattr(exc, "strerror", None) or "it does not answer"
                self.warn(f"{program}, which {self.name} names, failed: {reason}")
                return None
            if done.returncode == 0:
                return self._answer(program, done.stdout)
            # "Not found" comes as a text in the program's own words.
            if b"not found" not in done.stdout.lower():
                self.warn(f"{program}, which {self.name} names, failed for {domain}")
                return None
        return None

    def _answer(self, program: str, data: bytes) -> Credentials | None:
        try:
            answer = Fields(parse_json(data, program, _FILE_LIMIT), program)
            user, secret = answer.text("username") or "", answer.text("secret") or ""
        except ImageError:  # its text could show what must not be shown
            self.warn(f"{program}, which {self.name} names, gave an answer that is no JSON")
            return None
        return _usable(Credentials(user, secret, origin=program))


def _usable(found: Credentials) -> Credentials | None:
    """Give what was found, a token not as a password; None where it says nothing."""
    if found.user == _TOKEN_USER:
        token = found.identity_token or found.password
        found = replace(found, user="", password="", identity_token=token)
    return found if found.user or found.identity_token or found.registry_token else None


def _spellings(domain: str) -> tuple[str, ...]:
    if domain in _HUB_HOSTS:
        return (DOCKER_HUB, _HUB_KEY, "index.docker.io", "registry-1.docker.io")
    return (domain,)


def _keys(domain: str, path: str) -> Iterator[str]:
    """Yield the keys under which credentials for an image may lie, best first."""
    parts = path.split("/")
    hosts = _spellings(domain)
    for count in range(len(parts), 0, -1):
        for host in hosts:
            yield "/".join((host, *parts[:count]))
    yield from hosts


def _normal(key: str) -> str:
    """Give the host of a key that is a URL; others are as they are."""
    for scheme in ("http://", "https://"):
        if key.startswith(scheme):
            return key.removeprefix(scheme).partition("/")[0]
    return key
