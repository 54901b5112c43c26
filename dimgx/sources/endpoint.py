"""Where an engine listens: what was named, else its context, else a default socket.

1. Docker, as its own client has it: `--host`, `DOCKER_HOST`, `DOCKER_CONTEXT`, the current context
   of config.json, a default socket; the first that is there decides.
2. Podman: `--host`, `CONTAINER_HOST`, a default socket, the user's own first.
3. containerd, as its own program has it: `--host`, `CONTAINERD_ADDRESS`, a default socket.
4. Of several default sockets the first that takes a connection counts, else the first that exists.

Spec: docker/cli cli/context/store; podman-system-service(1); containerd's ctr(8).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from dimgx import system
from dimgx.digest import Digest
from dimgx.errors import ImageError, SourceError
from dimgx.jsondoc import Fields, parse_json

if TYPE_CHECKING:
    from dimgx.image import Tick

Pull = Literal["never", "missing", "always"]
PULL = get_args(Pull)
"""When an engine is told to fetch, as `EngineOptions.pull` has it."""

_PIPE = "npipe:////./pipe/docker_engine"
_DOCUMENT_LIMIT = 4 << 20
_WITHOUT_IT = ": mend it, or name the engine without it, with -H or DOCKER_HOST"


class EngineOptions(NamedTuple):
    """Which engine is asked and how, with what engines' own clients take from the environment."""

    host: str | None = None
    """Where it listens, as `docker -H` has it; comes before all else."""
    pull: Pull = "never"
    """When the engine is told to fetch the image first."""
    is_direct: bool = True
    """Its own files are read where they can be; else it is to save the image."""
    docker_host: str | None = None
    docker_context: str | None = None
    docker_config: str | None = None
    """The directory of Docker's config.json."""
    docker_cert_path: str | None = None
    is_tls: bool = False
    """TLS is used, `tcp:` or not."""
    is_tls_verified: bool = False
    container_host: str | None = None
    containerd_address: str | None = None
    containerd_namespace: str | None = None
    """In which a name means something; None for `default`."""
    runtime_dir: str | None = None
    home: str | None = None
    user: str | None = None
    storage_conf: str | None = None
    """The only settings of stores of containers/storage."""
    config_home: str | None = None
    data_home: str | None = None
    are_rows_wanted: bool = True
    """False where layers alone matter: no image is saved just to learn which step brought which."""
    tick: Tick | None = None
    """Called now and then while an image is pulled: bytes done, bytes in all as far as known."""

    @classmethod
    def of(
        cls,
        environment: Mapping[str, str],
        *,
        host: str | None = None,
        pull: Pull = "never",
        tick: Tick | None = None,
        are_rows_wanted: bool = True,
        is_direct: bool = True,
    ) -> EngineOptions:
        """Take what counts from `environment`; what is empty there counts as absent."""

        def get(name: str) -> str | None:
            return environment.get(name) or None

        is_verified = get("DOCKER_TLS_VERIFY") is not None
        return cls(
            host=host,
            pull=pull,
            is_direct=is_direct,
            docker_host=get("DOCKER_HOST"),
            docker_context=get("DOCKER_CONTEXT"),
            docker_config=get("DOCKER_CONFIG"),
            docker_cert_path=get("DOCKER_CERT_PATH"),
            is_tls=is_verified or get("DOCKER_TLS") is not None,
            is_tls_verified=is_verified,
            container_host=get("CONTAINER_HOST"),
            containerd_address=get("CONTAINERD_ADDRESS"),
            containerd_namespace=get("CONTAINERD_NAMESPACE"),
            runtime_dir=get("XDG_RUNTIME_DIR"),
            home=get("HOME") or get("USERPROFILE"),
            user=get("USER"),
            storage_conf=get("CONTAINERS_STORAGE_CONF"),
            config_home=get("XDG_CONFIG_HOME"),
            data_home=get("XDG_DATA_HOME"),
            tick=tick,
            are_rows_wanted=are_rows_wanted,
        )

    @property
    def config_dir(self) -> str | None:
        """The directory of Docker's config.json, where it is known."""
        if self.docker_config:
            return self.docker_config
        return os.path.join(self.home, ".docker") if self.home else None


class Tls(NamedTuple):
    """The files that TLS needs, and whether the server's name is checked."""

    ca: str | None
    cert: str | None
    key: str | None
    is_verified: bool


class EngineEndpoint(NamedTuple):
    """Where an engine listens."""

    url: str
    """unix://, tcp://, ssh://, npipe:// or http(s)://"""
    named_by: str | None = None
    """Who says so; None for a default socket."""
    tls: Tls | None = None

    @property
    def socket_path(self) -> str | None:
        """The path of a Unix socket."""
        return self.url.removeprefix("unix://") if self.url.startswith("unix://") else None

    def __str__(self) -> str:
        return self.url


def find_docker(options: EngineOptions) -> EngineEndpoint | None:
    """Give where the Docker Engine listens; None where nothing says so.

    Raises: SourceError for a context that does not exist or is broken.
    """
    for host, named_by in ((options.host, "--host"), (options.docker_host, "DOCKER_HOST")):
        if host:
            tls = _tls_of(options)
            return EngineEndpoint(_with_port(_spell(host), tls), named_by, tls)
    name, named_by = options.docker_context, "DOCKER_CONTEXT"
    if not name:
        name, named_by = _current_context(options), "the current context"
    if name and name != "default":
        return _open_context(options, name, named_by)
    if os.name == "nt":
        return EngineEndpoint(_PIPE)
    return _first(docker_sockets(options))


def find_podman(options: EngineOptions) -> EngineEndpoint | None:
    """Give where Podman's service listens; None where nothing says so."""
    for host, named_by in ((options.host, "--host"), (options.container_host, "CONTAINER_HOST")):
        if host:
            return EngineEndpoint(_spell(host), named_by, _tls_of(options))
    return _first(podman_sockets(options))


def find_containerd(options: EngineOptions) -> EngineEndpoint | None:
    """Give where containerd listens; None where nothing says so."""
    named = ((options.host, "--host"), (options.containerd_address, "CONTAINERD_ADDRESS"))
    for host, named_by in named:
        if host:
            return EngineEndpoint(_spell(host), named_by)
    return _first(containerd_sockets())


def docker_sockets(options: EngineOptions) -> list[str]:
    """Give the paths of the Docker Engine's default sockets, best first."""
    found = ["/var/run/docker.sock"]
    if options.runtime_dir:
        found.append(os.path.join(options.runtime_dir, "docker.sock"))
    if options.home:
        found.append(os.path.join(options.home, ".docker", "run", "docker.sock"))
        found.append(os.path.join(options.home, ".docker", "desktop", "docker.sock"))
    return found


def podman_sockets(options: EngineOptions) -> list[str]:
    """Give the paths of Podman's default sockets, best first: the user's own, then root's."""
    found = []
    if options.runtime_dir:
        found.append(os.path.join(options.runtime_dir, "podman", "podman.sock"))
    root = "/run/podman/podman.sock"
    return [root, *found] if system.is_root() else [*found, root]


def containerd_sockets() -> list[str]:
    """Give the paths of containerd's default sockets, best first: its own, then Kubernetes'."""
    return [
        "/run/containerd/containerd.sock",
        "/run/k3s/containerd/containerd.sock",  # of RKE2, too
        "/run/k0s/containerd.sock",
        "/var/snap/microk8s/common/run/containerd.sock",
    ]


def _first(paths: list[str]) -> EngineEndpoint | None:
    there = [path for path in paths if os.path.exists(path)]
    for path in there:
        if connect_problem(path) is None:
            return EngineEndpoint(f"unix://{path}")
    return EngineEndpoint(f"unix://{there[0]}") if there else None


def connect_problem(path: str) -> OSError | None:
    """Try to connect to a Unix socket, and give what is in the way."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        tried.settimeout(10)
        try:
            tried.connect(path)
        except OSError as exc:
            return exc
    return None


def _spell(host: str) -> str:
    """Give `host` with its scheme: a path is a socket, and the rest is reached by TCP."""
    host = host.strip()
    if host.startswith("/"):
        return f"unix://{host}"
    if host in ("unix:", "unix://"):
        return "unix:///var/run/docker.sock"
    return host if "://" in host else f"tcp://{host}"


def _with_port(url: str, tls: Tls | None) -> str:
    """Give a tcp:// address with host and port, as Docker's own client completes it."""
    place = url.removeprefix("tcp://")
    found = re.fullmatch(r"(\[[^]]*\]|[^]:[/@]*)(?::([^]:/@]*))?", place)
    if place == url or found is None:
        return url
    return f"tcp://{found[1] or 'localhost'}:{found[2] or (2375 if tls is None else 2376)}"


def _tls_of(options: EngineOptions) -> Tls | None:
    if not options.is_tls and not options.docker_cert_path:
        return None
    directory = options.docker_cert_path or options.config_dir or "."
    return _tls_in(directory, is_verified=options.is_tls_verified)


def _tls_in(directory: str, *, is_verified: bool) -> Tls:
    paths = (os.path.join(directory, f"{name}.pem") for name in ("ca", "cert", "key"))
    ca, cert, key = (path if os.path.exists(path) else None for path in paths)
    return Tls(ca, cert, key, is_verified)


def _current_context(options: EngineOptions) -> str | None:
    if not options.config_dir:
        return None
    config = _read_document(os.path.join(options.config_dir, "config.json"))
    return config.text("currentContext") if config else None


def _open_context(options: EngineOptions, name: str, named_by: str) -> EngineEndpoint:
    directory = os.path.join(options.config_dir or ".", "contexts")
    key = Digest.of(os.fsencode(name)).hex
    meta = _read_document(os.path.join(directory, "meta", key, "meta.json"))
    if meta is None:
        raise SourceError(
            f"there is no Docker context {name!r:.100}, which {named_by} names:"
            " `docker context ls` lists them"
        )
    endpoints = meta.fields("Endpoints")
    docker = endpoints.fields("docker") if endpoints else None
    host = docker.text("Host") if docker else None
    if docker is None or not host:
        raise SourceError(f"the Docker context {name!r:.100} has no Docker Engine's address")
    files = os.path.join(directory, "tls", key, "docker")
    tls = None
    if os.path.isdir(files):
        tls = _tls_in(files, is_verified=not docker.boolean("SkipTLSVerify"))
    return EngineEndpoint(_spell(host), f"the context {name!r:.100}", tls)


def _read_document(path: str) -> Fields | None:
    """Give a JSON document, None where there is no such file, or an empty one."""
    try:
        with open(path, "rb") as file:
            data = file.read(_DOCUMENT_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise SourceError(f"{path}: {exc.strerror}{_WITHOUT_IT}") from exc
    if not data.strip():
        return None
    try:
        return Fields(parse_json(data, path, _DOCUMENT_LIMIT), path)
    except ImageError as exc:
        raise SourceError(f"{exc}{_WITHOUT_IT}") from exc
