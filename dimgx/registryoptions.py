"""How registries are reached: credentials, TLS, proxies, settings files, patience, cache.

The defaults know of nothing on this machine; `RegistryOptions.from_environment` finds what podman,
skopeo and docker would use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_CACHE_SIZE = 10 << 30


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks; secrets show up in no text that is made of this."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """What a token service takes in the place of user and password."""
    registry_token: str = field(default="", repr=False)
    """What the registry itself takes, as it is."""
    origin: str = "what was given"
    """Where they are from, for people."""

    def __str__(self) -> str:
        if self.user:
            return f"user {self.user!r:.100} from {self.origin}"
        return f"a token from {self.origin}"


@dataclass(frozen=True, slots=True)
class Proxies:
    """Where to go through instead of straight to a host."""

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    none: str = ""
    """Hosts that are reached straight, as NO_PROXY has them: names, `.domain`, IPs, networks, *."""


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How registries are reached."""

    credentials: Credentials | None = None
    """For any registry that is asked; else the files below are looked through."""
    auth_files: tuple[str, ...] = ()
    """Those of podman and Docker, first found first. One that is not there is passed over."""
    tls_verify: bool | None = None
    """False lets any certificate pass, and plain http; True insists on https, loopback too."""
    cert_dir: str | None = None
    """Holds *.crt (CAs), *.cert and *.key (this client's) for the registry that is asked."""
    cert_roots: tuple[str, ...] = ()
    """Hold such a directory for each `host[:port]`; the first that has it counts."""
    ca_bundles: tuple[str, ...] = ()
    """Files and directories of the only CAs to trust; none for those of the system."""
    proxies: Proxies = Proxies()
    conf_files: tuple[str, ...] = ()
    """registries.conf and its drop-ins in order: what a later one says of a prefix counts."""
    daemon_files: tuple[str, ...] = ()
    """Settings of Docker daemons (daemon.json)."""
    retry_time_s: float = 30.0
    """How long a request that fails for the moment is tried again."""
    timeout_s: float = 15.0
    """How long a host may be silent."""
    cache_dir: str | None = None
    cache_size: int = DEFAULT_CACHE_SIZE
    """Most bytes in `cache_dir`."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> RegistryOptions:
        """Give what podman, skopeo and docker would use under `environ`."""
        home = environ.get("HOME") or environ.get("USERPROFILE", "")
        config = environ.get("XDG_CONFIG_HOME") or (home and os.path.join(home, ".config"))
        user = os.path.join(home, ".config", "containers") if home else ""
        return cls(
            auth_files=_auth_files(environ, home, config),
            cert_roots=tuple(
                os.path.join(root, "certs.d")
                for root in (user, "/etc/containers", "/etc/docker")
                if root
            ),
            ca_bundles=_ca_bundles(environ),
            proxies=Proxies(
                http=_proxy(environ, "http_proxy"),
                https=_proxy(environ, "https_proxy"),
                none=environ.get("no_proxy") or environ.get("NO_PROXY", ""),
            ),
            conf_files=_conf_files(environ, user),
            daemon_files=tuple(
                os.path.join(root, "daemon.json")
                for root in ("/etc/docker", config and os.path.join(config, "docker"))
                if root
            ),
        )


def _ca_bundles(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Give all that is named for OpenSSL, Go, requests or curl: who named one, trusts it."""
    files = [environ.get(n) for n in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
    directories = environ.get("SSL_CERT_DIR", "").split(os.pathsep)
    there = [path for path in directories if os.path.isdir(path)]
    return tuple(dict.fromkeys([path for path in files if path] + there))


def _proxy(environ: Mapping[str, str], name: str) -> str:
    # A web server sets HTTP_PROXY of its CGI programs from what a visitor says.
    capital = "" if name == "http_proxy" and "REQUEST_METHOD" in environ else name.upper()
    names = (name, capital, "all_proxy", "ALL_PROXY")
    return next((environ[known] for known in names if environ.get(known)), "")


def _conf_files(environ: Mapping[str, str], user: str) -> tuple[str, ...]:
    """Give the file that counts, and the drop-ins that go with it.

    Spec: containers-registries.conf.d(5), "configuration precedence".
    """
    if environ.get("CONTAINERS_REGISTRIES_CONF"):
        return (environ["CONTAINERS_REGISTRIES_CONF"],)
    own = user and os.path.join(user, "registries.conf")
    if own and os.path.exists(own):
        return (own, *_drop_ins(user))
    return (
        "/etc/containers/registries.conf",
        *_drop_ins("/etc/containers"),
        *(_drop_ins(user) if user else ()),
    )


def _drop_ins(root: str) -> list[str]:
    directory = os.path.join(root, "registries.conf.d")
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [os.path.join(directory, name) for name in names if name.endswith(".conf")]


def _auth_files(environ: Mapping[str, str], home: str, config: str) -> tuple[str, ...]:
    named = environ.get("REGISTRY_AUTH_FILE")
    if named:
        return (named,)
    found = []
    if environ.get("XDG_RUNTIME_DIR"):
        found.append(os.path.join(environ["XDG_RUNTIME_DIR"], "containers", "auth.json"))
    elif hasattr(os, "getuid"):
        directory = f"/run/containers/{os.getuid()}"
        # Where root's Podman has closed what is above it, there is nothing of this user's.
        if os.path.isdir(directory):
            found.append(f"{directory}/auth.json")
    if config:
        found.append(os.path.join(config, "containers", "auth.json"))
    if environ.get("DOCKER_CONFIG"):
        found.append(os.path.join(environ["DOCKER_CONFIG"], "config.json"))
    elif home:
        found.append(os.path.join(home, ".docker", "config.json"))
    if home:
        found.append(os.path.join(home, ".dockercfg"))
    return tuple(found)
