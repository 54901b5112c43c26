"""A Unix socket before an engine's own, that passes everything on and notes what is asked."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_REQUEST = re.compile(rb"(GET|POST|HEAD|DELETE) (\S+) HTTP/1\.1\r\n")


@dataclass
class Listener:
    """Where it listens, and what it heard."""

    url: str
    heard: list[bytearray] = field(default_factory=list)
    """All that clients sent, a list item for each connection."""

    def requests(self) -> list[str]:
        """Give the requests without the version of the API and without parameters."""
        found = []
        for method, path in _REQUEST.findall(b"\n".join(self.heard)):
            bare = re.sub(r"^/v[0-9.]+", "", path.decode().partition("?")[0])
            found.append(f"{method.decode()} {bare}")
        return found


class _Server(socketserver.ThreadingUnixStreamServer):
    listener: Listener
    target: str


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        heard = bytearray()
        self.server.listener.heard.append(heard)
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(self.server.target)
            back = threading.Thread(target=_pass, args=(engine, self.request))
            back.start()
            for data in _received(self.request):
                heard += data
                engine.sendall(data)
            engine.shutdown(socket.SHUT_WR)
            back.join()


def _received(one: socket.socket) -> Iterator[bytes]:
    with suppress(ConnectionError):
        while data := one.recv(1 << 16):
            yield data


def _pass(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        for data in _received(one):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


@contextmanager
def listening(url: str, path: Path) -> Iterator[Listener]:
    """Listen at `path`, and pass on to the engine at `url`."""
    with _Server(str(path), _Handler) as server:
        server.target = url.removeprefix("unix://")
        server.listener = Listener(f"unix://{path}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.listener
        finally:
            server.shutdown()
            thread.join()
