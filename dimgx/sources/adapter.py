"""What makes requests' connections: they trust whom they are told to, and a wait can be ended.

Also why one failed, whichever library says so.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, Lock, Thread, current_thread
from typing import TYPE_CHECKING, Any

from dimgx.errors import DimgxError

if TYPE_CHECKING:
    from requests.adapters import BaseAdapter
    from urllib3.connection import HTTPConnection as AnyConnection

_CONNECTIONS = 8
_MOST_INTERIM = 99
"""Answers that only say to go on, before the one that counts; fewer than newer Pythons take."""
_MOST_FIELDS = 100
"""Fields of an answer, as http.client takes them in a header, where nobody looks at them."""
_LONGEST_LINE = 1 << 16
_SWITCHING_PROTOCOLS = 101


def iter_causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was caused by, each once, however its library keeps that.

    What is behind an error of ours is left out: it was caught before this one came about.
    """
    pending, seen = [exc], set[int]()
    while pending:
        found = pending.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, DimgxError):
            continue
        behind = (found.__cause__, found.__context__, getattr(found, "reason", None), *found.args)
        pending += [item for item in behind if isinstance(item, BaseException)]


class Waiting:
    """Knows what threads wait for, and how that is ended."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ends: dict[Thread, Callable[[], object]] = {}

    @contextmanager
    def ended_by(self, end: Callable[[], object]) -> Iterator[None]:
        """Note that this thread waits now, until `end` is called."""
        with self._lock:
            self._ends[current_thread()] = end
        try:
            yield
        finally:
            with self._lock:
                del self._ends[current_thread()]

    def wake(self, thread: Thread) -> None:
        """End what the thread waits for, if it does."""
        with self._lock:
            end = self._ends.get(thread)
            if end is not None:
                end()


def _hang_up(connection: AnyConnection) -> None:
    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other side was faster
            pass


def _connect(connection: AnyConnection, connect: Callable[[], None], waiting: Waiting) -> None:
    """Call `connect`, and leave it to itself where this thread is woken.

    To look a name up, to connect and to agree on TLS cannot be ended, so a thread does it.

    Raises: what `connect` raises; OSError where it was left to itself.
    """
    problems: list[BaseException] = []
    is_over, is_left = Event(), Event()

    def work() -> None:
        try:
            connect()
        except BaseException as exc:
            problems.append(exc)
        if is_left.is_set():
            connection.close()
        is_over.set()

    def leave() -> None:
        is_left.set()
        is_over.set()

    thread = Thread(target=work, name="dimgx connect", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads may be started
        connect()
        return
    with waiting.ended_by(leave):
        is_over.wait()
    if is_left.is_set():
        raise OSError(errno.ECANCELED, "nobody wants it any more")
    thread.join()
    if problems:
        raise problems[0]


def make_adapter(waiting: Waiting, context: ssl.SSLContext | None) -> BaseAdapter:
    """Give what makes connections for requests: https ones by `context`, plain ones for None."""
    from base64 import b64encode
    from http.client import HTTPResponse

    from requests.adapters import HTTPAdapter
    from requests.utils import get_auth_from_url
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Answer(HTTPResponse):
        """Bounds what http.client reads on for as long as it comes; an OSError tells of it."""

        def _read_status(self) -> Any:
            """Give the status line that counts, after those of interim answers.

            http.client passes over 100 only, and over none of a proxy's that connects us.

            Spec: RFC 9110, 15.2.
            """
            for _ in range(_MOST_INTERIM + 1):
                line = super()._read_status()  # type: ignore[misc]  # typeshed leaves it out
                status = line[1]
                if status >= 200 or status == _SWITCHING_PROTOCOLS:  # which nobody asked for
                    return line
                self._skip_fields("an answer that says to go on")
            raise OSError(errno.EPROTO, f"it says {status} without end")

        def _read_next_chunk_size(self) -> int:
            # http.client takes a sign, and reads all that comes for -1.
            size: int = super()._read_next_chunk_size()  # type: ignore[misc]
            if size < 0:
                raise OSError(errno.EPROTO, "it states a chunk of fewer than 0 bytes")
            return size

        def _read_and_discard_trailer(self) -> None:
            self._skip_fields("its last chunk")

        def _skip_fields(self, after: str) -> None:
            """Read up to the empty line; too long a line counts as several."""
            for _ in range(_MOST_FIELDS + 1):
                if self.fp.readline(_LONGEST_LINE) in (b"\r\n", b"\n", b""):
                    return
            raise OSError(errno.EPROTO, f"it sends fields without end after {after}")

    class PlainConnection(HTTPConnection):
        response_class = Answer

        def connect(self) -> None:
            _connect(self, super().connect, waiting)

        def getresponse(self) -> Any:  # http.client's, or urllib3's own
            with waiting.ended_by(partial(_hang_up, self)):
                return super().getresponse()

    class TLSConnection(HTTPSConnection):
        response_class = Answer

        def connect(self) -> None:
            _connect(self, super().connect, waiting)
            self.is_verified = True  # or nobody wants it to be: no warning on stderr

        def getresponse(self) -> Any:  # http.client's, or urllib3's own
            with waiting.ended_by(partial(_hang_up, self)):
                return super().getresponse()

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class TLSPool(HTTPSConnectionPool):
        ConnectionCls = TLSConnection

    pools = {"http": PlainPool, "https": TLSPool}
    more: dict[str, Any] = {} if context is None else {"ssl_context": context}

    class Adapter(HTTPAdapter):
        """Uses the context as it is; requests itself would trust certifi's CAs besides."""

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **(kwargs | more))
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            manager = super().proxy_manager_for(proxy, **(kwargs | more))
            manager.pool_classes_by_scheme = pools
            return manager

        def proxy_headers(self, proxy: str) -> dict[str, str]:
            user, password = get_auth_from_url(proxy)
            if not user:
                return {}
            # As UTF-8, as Go's programs and curl have it; requests' own takes Latin-1 only.
            pair = b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()
            return {"Proxy-Authorization": f"Basic {pair}"}

        def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
            if context is not None:
                is_checked = context.verify_mode != ssl.CERT_NONE
                conn.cert_reqs = "CERT_REQUIRED" if is_checked else "CERT_NONE"

    return Adapter(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS)
