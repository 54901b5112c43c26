"""Connections for `transport`: they trust whom they are told to; a wait on one can be ended."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests.adapters import BaseAdapter
    from urllib3.connection import HTTPConnection as AnyConnection

_CONNECTIONS = 8
_MOST_INTERIM = 100
"""Answers that only say to go on, before the one that counts."""


class Waiting:
    """Knows which thread waits for an answer on which connection."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._connections: dict[int, AnyConnection] = {}

    @contextmanager
    def on(self, connection: AnyConnection) -> Iterator[None]:
        """Note that this thread waits on `connection` now."""
        with self._lock:
            self._connections[get_ident()] = connection
        try:
            yield
        finally:
            with self._lock:
                del self._connections[get_ident()]

    def wake(self, thread: int) -> None:
        """End the connection on which the thread waits, if it does."""
        with self._lock:
            connection = self._connections.get(thread)
            if connection is not None and connection.sock is not None:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:  # the other side was faster
                    pass


def make_adapter(waiting: Waiting, context: ssl.SSLContext | None) -> BaseAdapter:
    """Give what makes connections for requests: https ones by `context`, plain ones for None."""
    from http.client import HTTPResponse

    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3._version import __version__ as urllib3_version
    from urllib3.connection import HTTPConnection, HTTPSConnection

    if context is not None and urllib3_version.startswith("1."):
        # It checks names itself, and cannot let OpenSSL do so where the host is an address.
        context.check_hostname = False

    class Answer(HTTPResponse):
        _interim_left = _MOST_INTERIM

        def _read_status(self) -> Any:
            # Else it would read on for as long as they come.
            if not self._interim_left:
                raise OSError(errno.EPROTO, "it says 100 Continue without end")
            self._interim_left -= 1
            return super()._read_status()  # type: ignore[misc]  # typeshed leaves it out

    class PlainConnection(HTTPConnection):
        response_class = Answer

        def getresponse(self) -> Any:  # http.client's, or urllib3's own
            with waiting.on(self):
                return super().getresponse()

    class TLSConnection(HTTPSConnection):
        response_class = Answer

        def connect(self) -> None:
            super().connect()
            self.is_verified = True  # or nobody wants it to be: no warning on stderr

        def getresponse(self) -> Any:  # http.client's, or urllib3's own
            with waiting.on(self):
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

        def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
            if context is not None:
                is_checked = context.verify_mode != ssl.CERT_NONE
                conn.cert_reqs = "CERT_REQUIRED" if is_checked else "CERT_NONE"

    return Adapter(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS)
