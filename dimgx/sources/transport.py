"""HTTP to a registry and to where it sends us on: one request at a time, its failures translated.

1. Redirects are followed here, ten at most. Credentials go to the origin that they are for and to
   no other; there is no way from https back to http but where that is allowed anyway.
2. No URL beyond its host is shown in an error: blob stores have signatures in them.
3. Nothing is read from the environment, no cookie is kept, no blob is decompressed.
4. Blanks around the value of a field are no part of it (RFC 9110, 5.5).
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Thread, Timer
from time import monotonic
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import urljoin, urlsplit

from dimgx.errors import DimgxError, ImageError, SourceError
from dimgx.sources.adapter import Waiting, iter_causes, make_adapter
from dimgx.sources.patience import Transient
from dimgx.sources.proxies import find_proxy, is_loopback
from dimgx.sources.tls import Certificates, find_certificates, make_context
from dimgx.sources.urls import split_url

if TYPE_CHECKING:
    from requests import Response, Session
    from requests.adapters import BaseAdapter

    from dimgx.registryoptions import RegistryOptions
    from dimgx.sources.registriesconf import RegistryEndpoint

_MOST_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_PIECES = (1 << 16, 1 << 20)
_SOON_S = 0.1
_FOR_ANOTHER = 62, 64
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_NO_TUNNEL = re.compile("Tunnel connection failed: ([0-9]{3})")
"""What http.client says when a proxy does not connect us."""
_T = TypeVar("_T", bound=BaseException)


class NoConnection(SourceError):
    """No connection comes about: no such host, or no TLS with it."""


class NotTLS(NoConnection):
    """The other side does not speak TLS there."""


class Cut(Transient):
    """The other side hung up while TLS was being agreed on."""


class NotListening(Transient):
    """Nobody listens there."""


class Transport:
    """Connections on behalf of one registry. Any thread may use it."""

    def __init__(self, options: RegistryOptions, endpoint: RegistryEndpoint) -> None:
        self._options, self._endpoint = options, endpoint
        self.is_insecure = endpoint.is_insecure
        """Certificates are not checked, and plain http is as good."""
        self.timeout_s = options.timeout_s
        self._waiting = Waiting()
        self._session = self._make_session()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Mapping[str, str] | None = None,
    ) -> Response:
        """Give the answer to a request, its body unread; whoever reads it closes it.

        Raises: Transient for what may heal, NotListening, NotTLS, SourceError for what will not.
        """
        from dimgx import __version__

        sent = {
            "User-Agent": f"dimgx/{__version__}",
            "Accept-Encoding": "identity",
            **headers,
        }
        seen = set()
        hops: list[Response] = []
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._send_once(method, url, sent, body)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not location:
                response.history = hops
                return response
            response.close()
            hops.append(response)
            if method != "GET":
                raise SourceError(f"{host_of(url)} redirects a {method}, which is not followed")
            target = self._follow(url, location)
            if target in seen:
                raise SourceError(f"{host_of(url)} redirects in a circle")
            seen.add(target)
            if _origin(target) != _origin(url):
                sent.pop("Authorization", None)
            url = target
        raise SourceError(f"{host_of(url)} redirects more than {_MOST_REDIRECTS} times")

    def wake(self, thread: Thread) -> None:
        """Make the thread that waits for an answer fail at once."""
        self._waiting.wake(thread)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _follow(self, url: str, location: str) -> str:
        """Give the URL that a redirect leads to, where that may be gone to."""
        try:
            target = urljoin(url, location)
        except ValueError:
            target = ""
        parts = split_url(target)
        if parts is None:
            raise SourceError(f"{host_of(url)} redirects to what is no http or https URL")
        allowed = self.is_insecure or is_loopback(parts.hostname or "")
        if parts.scheme == "http" and urlsplit(url).scheme == "https" and not allowed:
            raise SourceError(
                f"{host_of(url)} redirects from https to plain http at {host_of(target)}, which"
                " only --tls-verify=false allows"
            )
        return target

    def _send_once(
        self, method: str, url: str, headers: Mapping[str, str], body: Mapping[str, str] | None
    ) -> Response:
        import requests

        # A user and a password in a URL, which a registry may choose, would count without `auth`.
        request = requests.Request(method, url, dict(headers), data=body, auth=lambda sent: sent)
        host, proxy = host_of(url), find_proxy(self._options.proxies, *_origin(url))
        try:
            # Not by way of Session.send, which reads the bodies of redirects whole.
            response = self._session.get_adapter(url).send(
                request.prepare(),
                stream=True,
                timeout=self.timeout_s,
                proxies={urlsplit(url).scheme: proxy} if proxy else {},
                verify=not self.is_insecure,
            )
        except (requests.RequestException, OSError, ValueError) as exc:
            fail(exc, host, host_of(proxy) if proxy else None)
        for name, value in response.headers.items():
            response.headers[name] = value.strip(" \t")  # http.client keeps those behind it
        if response.status_code == 407 and proxy is not None:
            response.close()
            raise _refused_by_proxy(host_of(proxy), host, "407")
        return response

    def _make_session(self) -> Session:
        import requests

        session = requests.Session()
        certificates = find_certificates(self._options, self._endpoint.domain)
        session.mount("https://", self._adapter(certificates._replace(own=())))
        if certificates.own:
            session.mount(f"https://{self._endpoint.host}/", self._adapter(certificates))
        session.mount("http://", make_adapter(self._waiting, None))
        return session

    def _adapter(self, certificates: Certificates) -> BaseAdapter:
        bundles = self._options.ca_bundles
        context = make_context(certificates, bundles, verify=not self.is_insecure)
        return make_adapter(self._waiting, context)


def iter_body(response: Response, host: str, *, decode: bool = False) -> Iterator[bytes]:
    """Yield the body as it comes, 64 KiB to 1 MiB at a time; `decode` undoes a Content-Encoding.

    Large pieces cost less, small ones are there sooner: what is slow comes in small ones.

    Raises: Transient where it is cut or stalls.
    """
    from urllib3.exceptions import HTTPError

    size = _PIECES[0]
    while True:
        started = monotonic()
        try:
            data: bytes = response.raw.read(size, decode_content=decode)
        except (HTTPError, OSError, ValueError) as exc:
            fail(exc, host, None)
        if not data:
            return
        size = size * 2 if monotonic() - started < _SOON_S else size // 2
        size = min(max(size, _PIECES[0]), _PIECES[1])
        yield data


def read_body(
    response: Response, host: str, limit: int, what: str, time_s: float | None = None
) -> bytes:
    """Give the whole of a small body, and close the response.

    It may take `time_s` in all; for None only silence is bounded.

    Raises: ImageError where it is larger than `limit` bytes; Transient where it is cut or late.
    """
    is_late = Event()
    try:
        stated = stated_length(response)
        found = bytearray()
        if stated is not None and stated > limit:
            raise ImageError(f"{what} has {stated} bytes; at most {limit} are read")
        with _ended_after(time_s, response, is_late):
            for piece in iter_body(response, host, decode=True):
                found += piece
                if len(found) > limit:
                    raise ImageError(f"{what} has more than the {limit} bytes that are read")
    except Transient:
        if not is_late.is_set():
            raise
    finally:
        response.close()
    if is_late.is_set():  # what ends without an error then need not be whole
        raise Transient(f"{host} does not answer in time")
    return bytes(found)


@contextmanager
def _ended_after(time_s: float | None, response: Response, is_late: Event) -> Iterator[None]:
    """Hang up after that time, and set `is_late`.

    A socket's own time-out begins anew with each byte that comes.
    """

    def hang_up() -> None:
        is_late.set()
        with suppress(OSError, RuntimeError, ValueError):  # it has ended meanwhile
            response.raw.shutdown()

    if time_s is None:
        yield
        return
    timer = Timer(time_s, hang_up)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:  # no more threads may be started
        yield
        return
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def stated_length(response: Response) -> int | None:
    """Give how many bytes a body has by its header; None where that says nothing."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def states_its_end(response: Response) -> bool:
    """Tell whether a body that is cut can be told from a whole one by its framing.

    Where a connection ends in the header, what states it may be lacking.

    Spec: RFC 9112, 6.3 and 8.
    """
    coding = response.headers.get("Transfer-Encoding", "").lower()
    return stated_length(response) is not None or "chunked" in coding


def host_of(url: str) -> str:
    """Give host and port of a URL, and nothing of it that could be secret."""
    return urlsplit(url).netloc.rpartition("@")[2]


def is_from_elsewhere(response: Response) -> bool:
    """Tell whether an answer comes from another origin than was asked.

    Such a one may not ask who we are: it would get a password by that.
    """
    return any(_origin(hop.url) != _origin(response.url) for hop in response.history)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]


def fail(exc: Exception, host: str, proxy: str | None) -> NoReturn:
    """Raise our error for one of requests, urllib3, ssl or socket; OSError for too many files."""
    for cause in iter_causes(exc):
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            raise cause from None  # no trouble of the host's
    # The other's text may hold the URL, and with it a signature: it is dropped.
    raise translate(exc, host, proxy) from None


def translate(exc: Exception, host: str, proxy: str | None) -> DimgxError:
    """Give our error for one of requests, urllib3, ssl or socket, without what could be secret."""
    import requests
    from urllib3.exceptions import ProxyError

    where = f"the proxy {proxy} to {host}" if proxy else host
    is_of_proxy = _find(exc, ProxyError) is not None
    tunnel = next(filter(None, (_NO_TUNNEL.match(str(e)) for e in iter_causes(exc))), None)
    if tunnel is not None:
        return _refused_by_proxy(proxy, host, tunnel[1])
    if is_of_proxy:
        host = f"the proxy {proxy}"
    problem = _tls_problem(exc, host, is_of_proxy=is_of_proxy)
    if problem is not None:
        return problem
    lookup = _find(exc, socket.gaierror)
    if lookup is not None and lookup.errno == getattr(socket, "EAI_AGAIN", None):
        return Transient(f"the name of {where} cannot be looked up at the moment")
    if lookup is not None or isinstance(exc, requests.exceptions.InvalidURL):
        if is_of_proxy:
            return NoConnection(f"there is no host {proxy}: check the proxy that is set")
        return NoConnection(f"there is no host {host}: check the name, or set a proxy")
    if _find(exc, ConnectionRefusedError):
        return NotListening(f"{where} refuses the connection: nothing listens there")
    if _find(exc, TimeoutError) or "timeout" in type(exc).__name__.lower():
        return Transient(f"{where} does not answer in time")
    if isinstance(exc, ValueError) and not _find(exc, OSError):
        return SourceError(f"{host} gave a URL or an answer that makes no sense")
    reason = next(
        (e.strerror for e in iter_causes(exc) if isinstance(e, OSError) and e.strerror), None
    )
    return Transient(f"the connection to {where} broke" + (f": {reason}" if reason else ""))


def _tls_problem(exc: Exception, host: str, *, is_of_proxy: bool) -> DimgxError | None:
    """Give our error where certificates or TLS are what is wrong."""
    certificate = next((e for e in iter_causes(exc) if _is_about_certificate(e)), None)
    if certificate is not None:
        reason = getattr(certificate, "verify_message", "it is for another host").rstrip(".")
        way = "put its CA as ca.crt into a directory for --cert-dir"
        if getattr(certificate, "verify_code", _FOR_ANOTHER[0]) in _FOR_ANOTHER:
            way = "ask by a name that it is for"
        return SourceError(
            f"the certificate of {host} cannot be trusted: {reason}; {way}, or give"
            " --tls-verify=false"
        )
    tls = _find(exc, ssl.SSLError)
    if tls is None:
        return None
    reason = str(getattr(tls, "reason", None) or "the handshake failed")
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        if is_of_proxy:
            return NoConnection(f"{host} does not speak TLS: begin its URL with http://")
        return NotTLS(f"{host} does not speak TLS; --tls-verify=false lets plain http pass")
    if reason == "UNEXPECTED_EOF_WHILE_READING":
        return Cut(f"{host} cut the connection")
    return NoConnection(
        f"TLS with {host} failed: {reason.lower().replace('_', ' ')}; a client certificate"
        " goes into --cert-dir, and --tls-verify=false lets plain http pass"
    )


def _refused_by_proxy(proxy: str | None, host: str, status: str) -> DimgxError:
    problem = f"the proxy {proxy} does not let us through to {host} ({status})"
    if status in ("408", "429") or status >= "500":
        return Transient(problem)
    return NoConnection(
        f"{problem}: put user and password into its URL, or have it allow that host"
    )


def _is_about_certificate(exc: BaseException) -> bool:
    # urllib3 has an error of its own for a name that does not fit.
    return isinstance(exc, ssl.SSLCertVerificationError) or (
        type(exc).__name__ == "CertificateError"
    )


def _find(exc: BaseException, kind: type[_T]) -> _T | None:
    return next((found for found in iter_causes(exc) if isinstance(found, kind)), None)
