"""One repository at one registry: its manifests, blobs and tags.

1. The first request finds out whether the registry speaks https; plain http is tried after that
   for loopback and insecure registries only.
2. What may heal (429, 5xx, time-outs, cuts) is tried again for a while; see `patience`.
3. A refusal is told in words: which credentials were tried, which tags are near.

Spec: distribution-spec, "Pull".
"""

from __future__ import annotations

import json
from threading import Event, Thread
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from dimgx.digest import Digest
from dimgx.errors import DimgxError, ImageError, SourceError
from dimgx.oci import INDEX_TYPES, MANIFEST_LIMIT, MANIFEST_TYPES
from dimgx.sources.patience import Patience, Transient, parse_retry_after
from dimgx.sources.proxies import is_loopback
from dimgx.sources.tokens import Authorizer, Denied
from dimgx.sources.transport import (
    Cut,
    NoConnection,
    NotListening,
    NotTLS,
    Transport,
    host_of,
    is_from_elsewhere,
    read_body,
    states_its_end,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from requests import Response

    from dimgx.registryoptions import Credentials, RegistryOptions
    from dimgx.sources.registriesconf import RegistryEndpoint

_ERROR_LIMIT = 64 << 10
_TAGS_LIMIT = 4 << 20
_MOST_TAGS_SHOWN = 5
_MANIFEST_S = 60.0
"""Seconds that a manifest, of some kB as a rule, may take once it has begun."""
_MOST_REFUSALS = 8
_ACCEPTED = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))


class NotThere(SourceError):
    """The registry has no such repository, manifest or blob."""


class BadRange(ImageError):
    """The registry has no bytes in the range that was asked for."""


class FetchedManifest(NamedTuple):
    """A manifest or an index as it came."""

    data: bytes
    media_type: str
    stated_digest: str | None
    """What the registry says its digest is."""


class RegistryClient:
    """Asks for what one repository holds. Any thread may use it, once the first answer is there."""

    def __init__(
        self, endpoint: RegistryEndpoint, options: RegistryOptions, credentials: Credentials | None
    ) -> None:
        self.endpoint = endpoint
        self._options = options
        self._transport = Transport(options, endpoint)
        self._auth = Authorizer(self._transport, endpoint.host, endpoint.path, credentials)
        self._schemes = _schemes(endpoint, options)
        self._stopped = Event()
        self._has_worked = False

    @property
    def host(self) -> str:
        """`host[:port]`, for people."""
        return self.endpoint.host

    def new_patience(self, stopped: Event) -> Patience:
        """Give the patience for one thing to fetch."""
        return Patience(self._options.retry_time_s, stopped)

    def get_manifest(self, reference: str, *, is_hasty: bool = False) -> FetchedManifest:
        """Give the manifest under a tag or digest, as it came, at most 4 MiB.

        With `is_hasty` what fails is not tried again.

        Raises: NotThere, Denied, SourceError, TemporaryError; ImageError where it is too large, or
            a web page.
        """
        what = f"the manifest {reference}"
        patience = Patience(0 if is_hasty else self._options.retry_time_s, self._stopped)
        while True:
            response = self.get(f"manifests/{reference}", patience,
                                what, {"Accept": _ACCEPTED})  # fmt: skip
            try:
                where = f"{what} at {self.host}"
                data = read_body(response, self.host, MANIFEST_LIMIT, where, _MANIFEST_S)
                if data.lstrip().startswith(b"<"):
                    raise ImageError(
                        f"{host_of(response.url)} answers with a web page, not with {what}: is it a"
                        " registry, and does no login page or proxy stand before it?"
                    )
                if not states_its_end(response) and not _is_whole(data):
                    raise Transient(f"{what} of {self.host} broke off at byte {len(data)}")
            except Transient as exc:
                patience.pause(exc)
                continue
            return FetchedManifest(
                data,
                response.headers.get("Content-Type", "").partition(";")[0].strip(),
                response.headers.get("Docker-Content-Digest"),
            )

    def get_blob(self, digest: Digest, offset: int, patience: Patience) -> Response:
        """Give the answer to a request for the blob's bytes from `offset` on, its body unread.

        Raises: as `get_manifest`; BadRange where the blob has no such bytes.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        return self.get(f"blobs/{digest}", patience, f"the blob {digest}", headers)

    def get(self, path: str, patience: Patience, what: str, headers: Mapping[str, str]) -> Response:
        """Give the answer 200 or 206 to a request below this repository."""
        while True:
            try:
                return self._get_once(f"/v2/{self.endpoint.path}/{path}", what, headers)
            except Transient as exc:
                if isinstance(exc, NotListening) and patience.is_fresh:
                    raise
                patience.pause(exc)

    def wake(self, thread: Thread) -> None:
        """Make the thread that waits for an answer fail at once."""
        self._transport.wake(thread)

    def close(self) -> None:
        """Close all connections."""
        self._stopped.set()
        self._transport.close()

    def _get_once(self, path: str, what: str, headers: Mapping[str, str]) -> Response:
        # Where authorization has worked before, its token may expire under several threads' hands.
        for left in range(_MOST_REFUSALS if self._has_worked else 1, -1, -1):
            header = self._auth.header()
            sent = {**headers, "Authorization": header} if header else dict(headers)
            response = self._send(path, sent)
            if response.status_code != 401 or not left or is_from_elsewhere(response):
                break
            try:
                again = self._auth.refused(header, response)
            finally:
                response.close()
            if not again:
                break
        if response.status_code in (200, 206):
            self._has_worked = True
            return response
        raise self._problem(response, what)

    def _send(self, path: str, headers: Mapping[str, str]) -> Response:
        """Send a request by the first scheme that the registry speaks."""
        while len(self._schemes) > 1:
            try:
                response = self._transport.send("GET", self._url(path), headers)
            except (NoConnection, Transient) as exc:
                # Nothing but TLS itself is a reason to do without, where it is checked.
                if isinstance(exc, NotTLS):
                    self._schemes = self._schemes[1:]
                elif isinstance(exc, Cut) or self.endpoint.is_insecure:
                    return self._send_plain(path, headers, exc)
                else:
                    raise
            else:
                self._schemes = self._schemes[:1]
                return response
        return self._transport.send("GET", self._url(path), headers)

    def _send_plain(self, path: str, headers: Mapping[str, str], problem: DimgxError) -> Response:
        """Try plain http with a registry that may or may not speak TLS, as `problem` leaves open.

        Raises: `problem` where it does not speak that either.
        """
        try:
            response = self._transport.send("GET", f"http://{self.host}{path}", headers)
        except DimgxError as exc:
            # What may heal is tried again, by either; where nobody listens for TLS, plain counts.
            is_first = isinstance(problem, Transient) and not isinstance(problem, NotListening)
            raise problem if is_first else exc from None
        if response.status_code == 400:  # as those answer who want TLS
            response.close()
            raise problem
        self._schemes = self._schemes[1:]
        return response

    def _url(self, path: str) -> str:
        return f"{self._schemes[0]}://{self.endpoint.host}{path}"

    def _problem(self, response: Response, what: str) -> DimgxError:
        """Give the error that an answer stands for."""
        status = response.status_code
        said = self._auth.redact(self._read_problem(response))
        where = f"{what} of {self.host}/{self.endpoint.path}"
        if status == 429:
            wait = parse_retry_after(response.headers)
            return Transient(f"{self.host} limits how often one may ask (429){said}", wait)
        if status in (408, 500, 502, 503, 504) or status > 504:
            return Transient(f"{self.host} fails ({status}){said}",
                             parse_retry_after(response.headers))  # fmt: skip
        if status in (401, 403) and is_from_elsewhere(response):
            return Denied(f"{where} is refused by {host_of(response.url)}, where {self.host} sends"
                          f" who asks for it ({status}){said}")  # fmt: skip
        if status in (401, 403):
            return Denied(f"{where} is refused ({status}){said}; {self._auth.tried()}")
        if status == 404:
            return NotThere(f"{where} is not there (404){said}")
        if status == 416:
            return BadRange(f"{where} ends before the range that was asked for")
        return SourceError(f"{where}: {self.host} answers with status {status}{said}")

    def _read_problem(self, response: Response) -> str:
        """Give what the registry says itself, as ": CODE: message"."""
        time_s = self._options.timeout_s
        try:
            data = read_body(response, self.host, _ERROR_LIMIT, "an error", time_s)
            errors = json.loads(data)["errors"]
            texts = [f"{e.get('code', '')}: {e.get('message', '')}" for e in errors[:2]]
        except (DimgxError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return ""
        shown = "".join(char if char.isprintable() else " " for char in "; ".join(texts))
        return f": {shown:.300}"

    def near_tags(self, wanted: str) -> Sequence[str]:
        """Give the tags of the repository that look most like `wanted`, as far as it lists them."""
        from difflib import get_close_matches

        try:
            patience = Patience(0, self._stopped)
            response = self.get("tags/list?n=1000", patience, "the list of tags", {})
            time_s = self._options.timeout_s
            data = read_body(response, self.host, _TAGS_LIMIT, "the tags", time_s)
            tags = json.loads(data)["tags"]
            known = [tag for tag in tags if isinstance(tag, str) and tag.isprintable()]
        except (DimgxError, ValueError, LookupError, TypeError, RecursionError):
            return ()
        near = get_close_matches(wanted, known[:5000], _MOST_TAGS_SHOWN, 0.4)
        return near or known[-_MOST_TAGS_SHOWN:]


def _is_whole(data: bytes) -> bool:
    """Tell whether a document ends where its JSON does."""
    try:
        json.loads(data.decode("utf-8-sig", errors="replace"))
    except ValueError:
        return False
    except RecursionError:  # who reads it tells of that
        pass
    return True


def _schemes(endpoint: RegistryEndpoint, options: RegistryOptions) -> tuple[str, ...]:
    if endpoint.scheme is not None:
        return (endpoint.scheme,)
    host = urlsplit(f"//{endpoint.host}").hostname or ""
    is_near = is_loopback(host) and options.tls_verify is not True
    return ("https", "http") if endpoint.is_insecure or is_near else ("https",)
