"""Where to look for an image: mirrors, other locations, blocked and insecure registries.

1. Of the tables of registries.conf the one with the longest prefix of the name counts; its mirrors
   come first, then its location. `blocked` ends it.
2. Where no table names mirrors, those of the Docker daemon's settings stand for Docker Hub's.
3. What either of the two calls insecure is.

Spec: containers-registries.conf(5); Docker's daemon.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from dimgx.errors import ImageError, SourceError
from dimgx.imagename import DOCKER_HUB, ImageName, is_host
from dimgx.jsondoc import Fields, parse_json
from dimgx.sources.tomldoc import TOML_LIMIT, parse_toml
from dimgx.sources.urls import split_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from dimgx.registryoptions import RegistryOptions

_FILE_LIMIT = 4 << 20
_HUB_HOST = "registry-1.docker.io"


class RegistryEndpoint(NamedTuple):
    """A place where an image may lie."""

    domain: str
    """What credentials and certificates are looked up by."""
    path: str
    """The repository there."""
    is_insecure: bool = False
    is_mirror: bool = False
    scheme: str | None = None
    """The only one to use, where settings name it."""

    @property
    def host(self) -> str:
        """`host[:port]` to connect to."""
        return _HUB_HOST if self.domain in (DOCKER_HUB, "index.docker.io") else self.domain


class _Mirror(NamedTuple):
    location: str
    is_insecure: bool
    pulls: str | None


class _Table(NamedTuple):
    prefix: str
    location: str
    is_insecure: bool
    is_blocked: bool
    mirrors: tuple[_Mirror, ...]


class _Daemon(NamedTuple):
    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()


def find_endpoints(
    options: RegistryOptions, name: ImageName, warn: Callable[[str], None]
) -> list[RegistryEndpoint]:
    """Give the places to look for `name`, in order; the last is the registry itself.

    Raises: SourceError where it is blocked or settings are malformed.
    """
    table = _choose(_read_tables(options.conf_files, warn), name)
    daemon = _read_daemon(options.daemon_files)
    if table is not None and table.is_blocked:
        raise SourceError(f"{name} is blocked by registries.conf, in the table {table.prefix!r}")
    found: list[RegistryEndpoint] = []
    primary = RegistryEndpoint(name.domain, name.path)
    if table is not None:
        for mirror in table.mirrors:
            unwanted = "digest-only" if name.digest is None else "tag-only"
            if mirror.pulls != unwanted:
                place = _rewrite(name, table.prefix, mirror.location)
                found.append(place._replace(is_insecure=mirror.is_insecure, is_mirror=True))
        primary = _rewrite(name, table.prefix, table.location)
        primary = primary._replace(is_insecure=table.is_insecure)
    if not found and primary.domain == DOCKER_HUB:
        found += [_mirror_of(url, name) for url in daemon.mirrors]
    places = [
        place._replace(is_insecure=place.is_insecure or _is_insecure(place.domain, daemon.insecure))
        for place in (*found, primary)
    ]
    if options.tls_verify is not None:
        places = [place._replace(is_insecure=not options.tls_verify) for place in places]
    return places


def _mirror_of(url: str, name: ImageName) -> RegistryEndpoint:
    parts = split_url(url if "://" in url else f"https://{url}")
    if parts is None:
        raise SourceError(
            f"Docker's settings: the registry mirror {url!r:.200} is no http or https URL"
        )
    path = "/".join(filter(None, (parts.path.strip("/"), name.path)))
    return RegistryEndpoint(
        parts.netloc.rpartition("@")[2], path, is_mirror=True, scheme=parts.scheme
    )


def _choose(tables: Iterable[_Table], name: ImageName) -> _Table | None:
    spelled = str(name)
    fitting = [table for table in tables if _fits(table.prefix, spelled, name.domain)]
    # A whole name beats a wildcard, as it says more.
    return max(fitting, key=lambda t: (len(t.prefix), t.prefix[:1] != "*"), default=None)


def _fits(prefix: str, spelled: str, domain: str) -> bool:
    if prefix.startswith("*."):
        return domain.partition(":")[0].endswith(prefix[1:])
    return spelled.startswith(prefix) and (
        len(spelled) == len(prefix) or spelled[len(prefix)] in ":/@"
    )


def _rewrite(name: ImageName, prefix: str, location: str) -> RegistryEndpoint:
    """Give the place that `location` puts in the place of `prefix`.

    Raises: SourceError where there can be no such place.
    """
    repository = name.repository
    if location and prefix.startswith("*."):
        repository = location + repository.removeprefix(name.domain)
    elif location:
        # A prefix may go as far as a tag or digest; the repository is what matters here.
        repository = location + repository[len(prefix) :]
    domain, _, path = repository.partition("/")
    if not is_host(domain):
        raise SourceError(f"registries.conf: the location {location!r:.200} is no host[:port]/path")
    head, slash, last = path.partition("@")[0].rpartition("/")
    return RegistryEndpoint(domain, head + slash + last.partition(":")[0])


def _read_tables(files: Sequence[str], warn: Callable[[str], None]) -> Iterable[_Table]:
    found: dict[str, _Table] = {}
    for name in files:
        try:
            with open(name, "rb") as file:
                data = file.read(TOML_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            warn(f"{name} cannot be read, so what it says of registries is not known:"
                 f" {exc.strerror}")  # fmt: skip
            continue
        document = parse_toml(data, name)
        if "registries" in document:
            warn(f"{name} is of the old version 1, which is not read")
            continue
        try:
            tables = [_parse_table(table) for table in document.objects("registry")]
        except ImageError as exc:
            raise SourceError(str(exc)) from None
        # Of one file the first counts, of several the last.
        found |= {table.prefix: table for table in reversed(tables)}
    return found.values()


def _parse_table(table: Fields) -> _Table:
    location = _location(table)
    prefix = (table.text("prefix") or "").rstrip("/") or location
    if not prefix:
        raise ImageError(f"{table.what} has neither prefix nor location")
    # What would fit nothing would block nothing, either.
    if "://" in prefix or (prefix.startswith("*.") and re.search("[/:@]", prefix)):
        raise ImageError(f"{table.what}: prefix {prefix!r:.200} can fit no image: write"
                         " host[:port][/path] or *.domain")  # fmt: skip
    by_digest = table.boolean("mirror-by-digest-only")
    mirrors = tuple(
        _Mirror(
            _location(mirror),
            mirror.boolean("insecure"),
            "digest-only" if by_digest else _pulls(mirror),
        )
        for mirror in table.objects("mirror")
        if _location(mirror)
    )
    return _Table(prefix, location, table.boolean("insecure"), table.boolean("blocked"), mirrors)


def _pulls(mirror: Fields) -> str | None:
    value = mirror.text("pull-from-mirror")
    if value not in (None, "", "all", "digest-only", "tag-only"):
        raise ImageError(f"{mirror.what}: pull-from-mirror {value!r:.100} is none of all,"
                         " digest-only, tag-only")  # fmt: skip
    return value


def _location(fields: Fields) -> str:
    return re.sub(r"^https?://", "", fields.text("location") or "").rstrip("/")


def _read_daemon(files: Sequence[str]) -> _Daemon:
    """Give what the first readable file of a Docker daemon says; others' files may be hidden."""
    for name in files:
        try:
            with open(name, "rb") as file:
                data = file.read(_FILE_LIMIT + 1)
        except OSError:
            continue
        if not data.strip():
            continue
        try:
            fields = Fields(parse_json(data, name, _FILE_LIMIT), name)
            return _Daemon(
                tuple(fields.texts("registry-mirrors")), tuple(fields.texts("insecure-registries"))
            )
        except ImageError as exc:
            raise SourceError(f"Docker's settings: {exc}") from None
    return _Daemon()


def _is_insecure(domain: str, rules: Iterable[str]) -> bool:
    """Tell whether the daemon's `insecure-registries` hold a host: by name, or by network.

    For Docker, Docker Hub is never insecure, whatever stands there.
    """
    if domain in (DOCKER_HUB, "index.docker.io", _HUB_HOST):
        return False
    host = domain.rpartition(":")[0] if re.search(r":[0-9]+$", domain) else domain
    for rule in rules:
        plain = re.sub(r"^https?://", "", rule).rstrip("/")
        if plain in (domain, host):
            return True
        try:
            if ip_address(host.strip("[]")) in ip_network(plain, strict=False):
                return True
        except ValueError:
            continue
    return False
