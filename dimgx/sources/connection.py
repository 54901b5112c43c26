"""What is asked of an engine, and what it answers.

An answer that says no is `Refused`, with the engine's own words; what keeps one from coming is
translated by `dockerclient`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dimgx import system
from dimgx.errors import DimgxError, SourceError, TemporaryError
from dimgx.jsondoc import Fields, parse_json
from dimgx.sources.dockerclient import is_transport_error, make_client, one_line, translate
from dimgx.sources.endpoint import EngineEndpoint, EngineOptions

if TYPE_CHECKING:
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
        self.endpoint = endpoint
        self._client = make_client(endpoint, options, None, _ANSWER_S)
        try:
            what = f"{endpoint}: the version"
            self.version = Fields(self.get(self.root_url("/version"), "the version"), what)
            spoken = self.version.text("ApiVersion")
            if spoken and not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4})+", spoken):
                raise SourceError(f"{what}: {spoken!r:.100} is no version of its API")
        except Refused as exc:
            problem = f"the engine at {endpoint} does not tell its version: {exc}"
            raise (TemporaryError if exc.status >= 500 else SourceError)(problem) from exc
        finally:
            self._client.close()
        self._client = make_client(endpoint, options, spoken, _ANSWER_S)

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
            raise SourceError(f"{name:.300} cannot be pulled: {one_line(exc)}") from exc
        except Exception as exc:
            if answers is not None and is_transport_error(exc):
                raise self._broken_off("its answer") from exc
            translate(exc, self.endpoint)

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
                allow_redirects=False,
                timeout=(_CONNECT_S, timeout_s),
            )
            if response.status_code < 300:
                return response
            with response:
                raise Refused(response.status_code, self._message(response))
        except DimgxError:
            raise
        except Exception as exc:
            translate(exc, self.endpoint)

    def _iter_body(self, response: Response, what: str) -> Iterator[bytes]:
        try:
            while piece := response.raw.read(_PIECE, decode_content=True):
                yield piece
        except Exception as exc:
            if not is_transport_error(exc):
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
