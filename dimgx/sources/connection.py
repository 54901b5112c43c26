"""HTTP to an engine, over whatever its address asks for; the `docker` package knows how.

Foreign errors are translated here and nowhere else:

1. Nothing listens where something was named, or it does not answer: TemporaryError.
2. Permission, TLS, an unknown host, a package that is missing: SourceError, for good.
3. An answer that says no: `Refused`, with the engine's own words.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from dimgx import system
from dimgx.errors import DimgxError, SourceError, TemporaryError
from dimgx.jsondoc import Fields, parse_json
from dimgx.sources.adapter import Waiting, iter_causes, make_adapter
from dimgx.sources.endpoint import EngineEndpoint, EngineOptions, connect_problem
from dimgx.sources.tls import Certificates, make_context

if TYPE_CHECKING:
    from docker import APIClient
    from requests import Response

_CONNECT_S = 20
_ANSWER_S = 120
"""For short answers; an archive may take any time to begin."""
_DOCUMENT_LIMIT = 64 << 20
_PIECE = 1 << 20


class Refused(DimgxError):
    """The engine answered that it will not, or cannot."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_unknown(self) -> bool:
        """There is no such thing."""
        return self.status == 404


class RefusedForm(Refused):
    """An engine says no to the form it was to save an image in; asked again, it takes another."""


class Connection:
    """A connection to one engine; close it when done. `version` is what it tells of itself.

    Raises: TemporaryError, SourceError, as the rules have it, from each method.
    """

    def __init__(self, endpoint: EngineEndpoint, options: EngineOptions) -> None:
        from docker.constants import MINIMUM_DOCKER_API_VERSION

        self.endpoint = endpoint
        self._client = _connect(endpoint, options, MINIMUM_DOCKER_API_VERSION)
        try:
            what = f"{endpoint}: the version"
            self.version = Fields(self.get(self.root_url("/version"), "the version"), what)
            spoken = self.version.text("ApiVersion") or MINIMUM_DOCKER_API_VERSION
        except Refused as exc:
            raise SourceError(f"the engine at {endpoint} does not tell its version: {exc}") from exc
        finally:
            self._client.close()
        self._client = _connect(endpoint, options, spoken)

    @property
    def api_version(self) -> tuple[int, ...]:
        """The version of Docker's API that is spoken, as in (1, 41)."""
        digits = (part for part in str(self._client.api_version).split(".") if part.isdigit())
        return tuple(map(int, digits))

    @property
    def has_local_files(self) -> bool:
        """Whether the engine's own files may be here, for this user to read."""
        path = self.endpoint.socket_path
        return path is not None and (system.is_root() or os.stat(path).st_uid == os.geteuid())

    def url(self, path: str) -> str:
        """Give the address of `path` in Docker's API."""
        return f"{self._client.base_url}/v{self._client.api_version}{path}"

    def root_url(self, path: str) -> str:
        """Give the address of `path` with its own version, as Podman's own API has it."""
        return f"{self._client.base_url}{path}"

    def get(self, url: str, what: str, params: Mapping[str, str | int] | None = None) -> object:
        """Give the JSON value at `url`, which errors call `what`.

        Raises: Refused, besides.
        """
        with self._request(url, params, _ANSWER_S) as response:
            data = self._read_document(response)
        return parse_json(data, f"{self.endpoint}: {what}", _DOCUMENT_LIMIT)

    def iter_get(self, url: str, params: Mapping[str, str]) -> Iterator[bytes]:
        """Yield what the engine sends, however long it takes to begin.

        Raises: Refused, besides.
        """
        with self._request(url, params, None) as response:
            yield from self._iter_body(response, "the image")

    def post(
        self, url: str, chunks: Iterable[bytes], params: Mapping[str, str | Sequence[str]]
    ) -> list[Fields]:
        """Send a tar that comes in pieces, and give the objects that are answered, in order.

        However long it takes. Where `chunks` raises, the engine sees a tar that breaks off.

        Raises: Refused, besides; SourceError where the answer tells of an error.
        """
        with self._request(url, params, None, iter(chunks)) as response:
            data = self._read_document(response)
        what = f"{self.endpoint}: the answer"
        lines = [line for line in data.split(b"\n") if line.strip()]
        answers = [Fields(parse_json(line, what, _DOCUMENT_LIMIT), what) for line in lines]
        for answer in answers:
            problem = answer.text("error")
            if problem:
                raise SourceError(f"the engine at {self.endpoint}: {' '.join(problem.split())}")
        return answers

    def pull(self, name: str, platform: str | None) -> Iterator[Fields]:
        """Let the engine pull `name` with the user's credentials, and yield what it reports.

        Raises: Refused, besides.
        """
        from docker.errors import APIError, DockerException

        what = f"{self.endpoint}: the answer to pulling"
        answers: Any = None
        try:
            answers = self._client.pull(name, stream=True, decode=True, platform=platform)
            for answer in answers:
                yield Fields(answer, what)
        except APIError as exc:
            raise Refused(exc.status_code or 500, str(exc.explanation or exc)) from exc
        except DockerException as exc:  # credentials, as a rule
            raise SourceError(f"{name:.300} cannot be pulled: {_one_line(exc)}") from exc
        except Exception as exc:
            if answers is not None and _is_transport_error(exc):
                raise self._broken_off("its answer") from exc
            _translate(exc, self.endpoint)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _request(
        self,
        url: str,
        params: Mapping[str, str | int | Sequence[str]] | None,
        timeout_s: int | None,
        body: Iterator[bytes] | None = None,
    ) -> Response:
        try:
            response = self._client.request(
                "GET" if body is None else "POST",
                url,
                params=dict(params or {}),
                data=body,
                headers={} if body is None else {"Content-Type": "application/x-tar"},
                stream=True,
                timeout=(_CONNECT_S, timeout_s),
            )
            if response.status_code < 400:
                return response
            with response:
                raise Refused(response.status_code, self._message(response))
        except DimgxError:
            raise
        except Exception as exc:
            _translate(exc, self.endpoint)

    def _iter_body(self, response: Response, what: str) -> Iterator[bytes]:
        try:
            while piece := response.raw.read(_PIECE, decode_content=True):
                yield piece
        except Exception as exc:
            if not _is_transport_error(exc):
                raise
            raise self._broken_off(what) from exc

    def _broken_off(self, what: str) -> TemporaryError:
        return TemporaryError(
            f"the engine at {self.endpoint} broke off in the middle of {what}: look whether it"
            " still runs and has room on its disk, and try again"
        )

    def _read_document(self, response: Response) -> bytes:
        """Give all of a short answer."""
        found = bytearray()
        for piece in self._iter_body(response, "its answer"):
            found += piece
            if len(found) > _DOCUMENT_LIMIT:
                raise SourceError(
                    f"the engine at {self.endpoint} answers with more than the {_DOCUMENT_LIMIT}"
                    " bytes that are read"
                )
        return bytes(found)

    def _message(self, response: Response) -> str:
        """Give the engine's own words about what is wrong.

        Raises: SourceError where it is that TLS is not spoken.
        """
        data = b""
        try:
            data = self._read_document(response)
            value = parse_json(data, "the answer", _DOCUMENT_LIMIT)
            fields = Fields(value, "the answer")
            text = fields.text("message") or fields.text("cause")
        except DimgxError:
            text = None
        if b"HTTP request to an HTTPS server" in data:
            raise SourceError(
                f"the engine at {self.endpoint} speaks TLS only: set DOCKER_TLS_VERIFY=1"
            )
        return " ".join((text or response.reason or f"status {response.status_code}").split())[:500]


def quoted(name: str) -> str:
    """Give an image's name as it stands in an address."""
    return quote(name, safe="/:@")


def check_socket(endpoint: EngineEndpoint) -> None:
    """See that somebody listens at an endpoint, where that is a Unix socket.

    Raises: TemporaryError, SourceError, as the rules have it.
    """
    path = endpoint.socket_path
    problem = connect_problem(path) if path is not None else None
    if problem is not None:
        _translate(problem, endpoint)


def _connect(endpoint: EngineEndpoint, options: EngineOptions, version: str) -> APIClient:
    """Give a client; it asks nothing yet, but by ssh it connects."""
    from docker import APIClient
    from docker.errors import DockerException

    check_socket(endpoint)
    if endpoint.url.startswith("ssh://"):
        _check_ssh(endpoint)
    context = _tls_context(endpoint)
    from shutil import which

    config = os.path.join(options.docker_config, "config.json") if options.docker_config else None
    _check_config(config)
    try:
        client = APIClient(
            base_url=endpoint.url,
            version=version,
            timeout=_ANSWER_S,
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
        if isinstance(exc, (DockerException, ValueError)) or _is_transport_error(exc):
            _translate(exc, endpoint)
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


def _is_transport_error(exc: BaseException) -> bool:
    from http.client import HTTPException

    from urllib3.exceptions import HTTPError

    # Those that are a ValueError too say that there can be no such address.
    is_no_address = isinstance(exc, ValueError) and not isinstance(exc, ssl.SSLError)
    return isinstance(exc, (OSError, HTTPError, HTTPException)) and not is_no_address


def _translate(exc: Exception, endpoint: EngineEndpoint) -> NoReturn:
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
            raise SourceError(f"{where}: TLS failed: {_one_line(cause)}: {advice}") from exc
        if isinstance(cause, socket.gaierror):
            raise SourceError(f"{where}: the host is not known: {_one_line(cause)}") from exc
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM):
            raise SourceError(f"{where}: permission denied{_group_hint(endpoint)}") from exc
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            raise SourceError(f"{where}: {_one_line(cause)}") from cause  # no trouble of its own
    if not any(map(_is_transport_error, causes)):
        told = next((cause for cause in causes if isinstance(cause, OSError)), exc)
        raise SourceError(f"{where}: {_one_line(told)}") from exc
    text = _one_line(exc)
    from http.client import RemoteDisconnected

    if any(isinstance(cause, RemoteDisconnected) for cause in causes):
        text = "the connection was closed without an answer"
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


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300]
