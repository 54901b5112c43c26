"""How an engine is reached: by the `docker` package, which speaks what an address asks for.

Foreign errors are translated here and nowhere else:

1. Nothing listens where something was named, or it does not answer: TemporaryError.
2. Permission, TLS, an unknown host, a package that is missing: SourceError, for good.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from dimgx.errors import SourceError, TemporaryError
from dimgx.sources.adapter import Waiting, iter_causes, make_adapter
from dimgx.sources.endpoint import EngineEndpoint, EngineOptions, connect_problem
from dimgx.sources.tls import Certificates, make_context

if TYPE_CHECKING:
    from docker import APIClient


def check_socket(endpoint: EngineEndpoint) -> None:
    """See that somebody listens at an endpoint, where that is a Unix socket.

    Raises: TemporaryError, SourceError, as the rules have it.
    """
    path = endpoint.socket_path
    problem = connect_problem(path) if path is not None else None
    if problem is not None:
        translate(problem, endpoint)


def make_client(
    endpoint: EngineEndpoint, options: EngineOptions, version: str | None, timeout_s: int
) -> APIClient:
    """Give a client; it asks nothing yet, but by ssh it connects.

    `version` is that of Docker's API, None for the lowest that the package speaks.

    Raises: TemporaryError, SourceError, as the rules have it.
    """
    check_socket(endpoint)
    if endpoint.url.startswith("ssh://"):
        _check_ssh(endpoint)
    context = _tls_context(endpoint)
    from shutil import which

    if "docker" not in sys.modules:
        # That is what only ssh needs, and it takes as long to load as all the rest.
        with _loaded_when_used("paramiko"):
            import_module("docker")
    from docker import APIClient
    from docker.constants import MINIMUM_DOCKER_API_VERSION
    from docker.errors import DockerException

    config = os.path.join(options.docker_config, "config.json") if options.docker_config else None
    _check_config(config)
    try:
        client = APIClient(
            base_url=endpoint.url,
            version=version or MINIMUM_DOCKER_API_VERSION,
            timeout=timeout_s,
            tls=context is not None,
            use_ssh_client=which("ssh") is not None,
        )
        if context is not None:
            client.mount("https://", make_adapter(Waiting(), context))
            client.verify = context.verify_mode != ssl.CERT_NONE
            # Else the environment's own authorities would count, also where none are to be asked.
            client.trust_env = False
        if endpoint.url.startswith("ssh://"):
            # Else port 22 would take the place of the one that the user's ssh config has.
            adapter: Any = client.get_adapter(client.base_url)
            adapter.ssh_host = endpoint.url.removeprefix("ssh://")
        if config is not None:
            client.reload_config(config)
        return client
    except Exception as exc:
        if isinstance(exc, (DockerException, ValueError)) or is_transport_error(exc):
            translate(exc, endpoint)
        raise


def _check_config(path: str | None) -> None:
    """See that the `docker` package can read Docker's config.json, as it does in any case.

    `path` is None where it looks for the file itself.
    """
    from docker.auth import load_config
    from docker.utils.config import find_config_file

    try:
        load_config(path)
    except Exception as exc:  # any: it takes for granted what Docker's own client writes
        raise SourceError(
            f"{find_config_file(path)!s} is not as Docker's client writes it: mend its auths, or"
            " set DOCKER_CONFIG to a directory with another"
        ) from exc


def _check_ssh(endpoint: EngineEndpoint) -> None:
    from importlib.util import find_spec

    if find_spec("paramiko") is None:
        raise SourceError(f"{endpoint}: ssh needs one more package: pip install 'dimgx[ssh]'")


@contextmanager
def _loaded_when_used(name: str) -> Iterator[None]:
    """Have what is imported meanwhile get a package that is loaded when it is first used."""
    from importlib.util import find_spec

    if name in sys.modules or find_spec(name) is None:
        yield
        return
    stand_in: Any = ModuleType(name)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:  # else another thread does the same
            del sys.modules[name]
        stand_in.__getattr__ = lambda attribute: getattr(import_module(name), attribute)


def _tls_context(endpoint: EngineEndpoint) -> ssl.SSLContext | None:
    """Give how TLS is spoken there, None where it is not.

    Raises: SourceError where a certificate or a key cannot be used.
    """
    tls = endpoint.tls
    if tls is None or not endpoint.url.startswith(("tcp://", "https://")):
        return None
    if (tls.cert is None) != (tls.key is None):
        raise SourceError(
            f"{endpoint}: TLS needs both cert.pem and key.pem, and only {tls.cert or tls.key} is"
            " there"
        )
    own = ((tls.cert, tls.key),) if tls.cert and tls.key else ()
    bundles = (tls.ca,) if tls.ca else ()
    return make_context(Certificates(own=own), bundles, verify=tls.is_verified)


def is_transport_error(exc: BaseException) -> bool:
    from http.client import HTTPException

    from urllib3.exceptions import HTTPError

    # Those that are a ValueError too say that there can be no such address.
    is_no_address = isinstance(exc, ValueError) and not isinstance(exc, ssl.SSLError)
    return isinstance(exc, (OSError, HTTPError, HTTPException)) and not is_no_address


def translate(exc: Exception, endpoint: EngineEndpoint) -> NoReturn:
    """Raise what a failure to reach the engine means.

    Raises: TemporaryError, SourceError.
    """
    causes = list(iter_causes(exc))
    named = f" ({endpoint.named_by})" if endpoint.named_by else ""
    where = f"the engine at {endpoint}{named}"
    for cause in causes:
        # First, as these are numbered in a way of their own.
        if isinstance(cause, ssl.SSLError):
            advice = "ca.pem, cert.pem and key.pem are looked for in DOCKER_CERT_PATH"
            if cause.reason == "WRONG_VERSION_NUMBER":
                advice = "it is not spoken there: unset DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"
            raise SourceError(f"{where}: TLS failed: {one_line(cause)}: {advice}") from exc
        if isinstance(cause, socket.gaierror):
            raise SourceError(f"{where}: the host is not known: {one_line(cause)}") from exc
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM):
            raise SourceError(f"{where}: permission denied{_group_hint(endpoint)}") from exc
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            raise SourceError(f"{where}: {one_line(cause)}") from cause  # no trouble of its own
    if not any(map(is_transport_error, causes)):
        told = next((cause for cause in causes if isinstance(cause, OSError)), exc)
        raise SourceError(f"{where}: {one_line(told)}") from exc
    text = one_line(exc)
    from http.client import BadStatusLine, RemoteDisconnected

    if any(isinstance(cause, RemoteDisconnected) for cause in causes):
        text = "the connection was closed without an answer"
    elif any(isinstance(cause, BadStatusLine) for cause in causes):
        text = "what it says is no HTTP"
    reason = next(
        (os.strerror(c.errno) for c in causes if isinstance(c, OSError) and c.errno), text
    )
    is_ssh = endpoint.url.startswith("ssh://")
    advice = f"try `ssh {endpoint.url} docker version`" if is_ssh else "is it started?"
    raise TemporaryError(f"{where} does not answer: {reason}: {advice}") from exc


def _group_hint(endpoint: EngineEndpoint) -> str:
    """Say who may use the socket."""
    path = endpoint.socket_path
    if path is None:
        return ""
    try:
        status = os.stat(path)
    except OSError:
        return f": the directory of {path} is closed to you"
    name = str(status.st_gid)
    try:
        import grp

        name = grp.getgrgid(status.st_gid).gr_name
    except (ImportError, KeyError):
        pass
    if status.st_gid == 0 or not status.st_mode & stat.S_IWGRP:
        return f": {path} is for root only (sudo)"
    return f": {path} is for the group {name}: `sudo usermod -aG {name} $USER`, then log in again"


def one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300]
