"""The name of an image at a registry: `[host[:port]/]path[:tag][@digest]`.

1. What stands before the first slash is a host where it has a dot, a colon or a capital letter, or
   is `localhost`; else the name is one of Docker Hub, whose own images lie below `library/`.
2. Without tag and digest the tag is `latest`. Where both are given the digest decides.

Spec: distribution's reference package, grammar and "familiar names".
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dimgx.digest import Digest
from dimgx.errors import ImageError, UsageError

DOCKER_HUB = "docker.io"
_LONGEST_PATH, _HIGHEST_PORT = 255, 65535
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?P<address>[a-fA-F0-9:]+)\])(?::(?P<port>[0-9]{{1,5}}))?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DOMAIN_MARK = re.compile(r"[.:A-Z]")
_BARE_ID = re.compile(r"[0-9a-f]{64}")


class ImageName(NamedTuple):
    """A name, completed and taken apart."""

    domain: str
    """`host[:port]`; `docker.io` for Docker Hub."""
    path: str
    """The repository at that registry, with `library/` where Docker Hub wants it."""
    tag: str | None = None
    digest: Digest | None = None

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return str(self.digest or self.tag)

    @property
    def repository(self) -> str:
        """The name without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The name without what is understood: as `docker images` shows it."""
        name = self.repository
        if self.domain == DOCKER_HUB:
            rest = self.path.removeprefix("library/")
            name = self.path if "/" in rest else rest
        return f"{name}:{self.tag}" if self.tag else name

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def registry_hint(name: str) -> str:
    """Give how the image of that name is asked of its registry; nothing if it is no such name."""
    try:
        parse_image_name(name)
    except UsageError:
        return ""
    return f"dimgx [options] docker://{name}"


def parse_image_name(text: str) -> ImageName:
    """Give the name that `text` spells, completed as Docker completes it.

    Raises: UsageError where the grammar is not met.
    """
    rest, at, digest_text = text.partition("@")
    digest = None
    if at:
        try:
            digest = Digest.parse(digest_text)
        except ImageError as exc:
            raise UsageError(f"{text!r:.300}: {exc}") from None
    if _BARE_ID.fullmatch(text):
        raise UsageError(f"{text} is an ID; a registry is asked by name, as in name@sha256:{text}")
    domain, remainder = _split(rest)
    if not is_host(domain):
        raise _wrong(text, f"{domain!r:.100} is no host[:port]")
    path, colon, tag = remainder.partition(":")
    if not _PATH.fullmatch(path):
        reason = "names are in lower case" if path != path.lower() else "it is no image's name"
        raise _wrong(text, reason)
    if len(path) > _LONGEST_PATH:
        raise _wrong(text, f"names have at most {_LONGEST_PATH} characters")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, f"{tag!r:.150} is no tag")
    return ImageName(domain, path, tag or (None if digest else "latest"), digest)


def is_host(text: str) -> bool:
    """Tell whether `text` is `host[:port]`: a name, an IPv4 or an IPv6 address in brackets."""
    matched = _DOMAIN.fullmatch(text)
    if matched is None or int(matched["port"] or 0) > _HIGHEST_PORT:
        return False
    if matched["address"]:
        from ipaddress import IPv6Address

        try:
            IPv6Address(matched["address"])
        except ValueError:
            return False
    return True


def normal_name(name: str) -> str:
    """Give a name completed like that, whatever its grammar: archives hold odd ones."""
    rest, at, digest = name.partition("@")
    domain, path = _split(rest)
    if not at and ":" not in path.rpartition("/")[2]:
        path += ":latest"
    return f"{domain}/{path}{at}{digest}"


def short_name(name: str) -> str:
    """Give a name without what nearly all have in common: `docker.io/library/x:latest` is `x`."""
    short = normal_name(name).removeprefix(f"{DOCKER_HUB}/").removeprefix("library/")
    return short.removesuffix(":latest")


def repository(name: str) -> str:
    """Give the completed name without tag and digest."""
    rest = normal_name(name).partition("@")[0]
    head, slash, last = rest.rpartition("/")
    return head + slash + last.partition(":")[0]


def _split(rest: str) -> tuple[str, str]:
    """Give the host, Docker Hub where there is none, and what follows it (rule 1)."""
    domain, slash, path = rest.partition("/")
    if not slash or not (_DOMAIN_MARK.search(domain) or domain == "localhost"):
        domain, path = DOCKER_HUB, rest
    elif domain == "index.docker.io":
        domain = DOCKER_HUB
    if domain == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return domain, path


def _wrong(text: str, reason: str) -> UsageError:
    return UsageError(f"{text!r:.300}: {reason} (write [host[:port]/]name[:tag][@digest])")
