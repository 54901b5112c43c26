"""An engine that answers as it is told to, for what no real one here does: newer versions of the
API, other stores, delays, dying in the middle. Only the socket is faked; see `services` for real
ones."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.writers import Picture

Json = dict[str, Any]
Answer = Callable[[dict[str, str]], Any]


@dataclass
class FakeEngine:
    """What it answers, and what it was asked."""

    url: str = ""
    api: str = "1.41"
    answers: dict[str, Answer] = field(default_factory=dict)
    """By path, without the version; a value, bytes to send, or an int for a status."""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: dict[str, Any] = field(default_factory=dict)
    """The last request's headers, by path."""
    delay_s: float = 0.0
    """How long it prepares an archive before its first byte."""
    cut: int | None = None
    """After how many bytes of an archive it dies."""

    def add(self, picture: Picture, saved: bytes, **more: Any) -> str:
        """Hold an image, and give its ID."""
        id = f"sha256:{picture.id()}"
        config = json.loads(picture.config_json())
        steps = config["history"]
        told = {
            "Id": id,
            "RepoTags": list(picture.tags),
            "Created": config["created"],
            "Os": picture.os,
            "Architecture": picture.architecture,
            "RootFS": {"Type": "layers", "Layers": picture.diff_ids()},
            **more.pop("inspect", {}),
        }
        id = told["Id"]
        history = [
            {
                "Id": "<missing>",
                "Created": 1700000000 + place,
                "CreatedBy": step.get("created_by", ""),
                "Size": 0 if step.get("empty_layer") else 10,
                "Tags": None,
                "Comment": "",
            }
            for place, step in enumerate(steps)
        ][::-1]
        if history:
            history[0]["Id"] = id
        history = more.pop("history", history)
        for name in (*picture.tags, id):
            self.answers[f"/images/{name}/json"] = lambda query: told
            self.answers[f"/images/{name}/history"] = lambda query: history
            self.answers[f"/images/{name}/get"] = lambda query: saved
        return str(id)


@contextmanager
def fake_engine(*, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[FakeEngine]:
    engine = FakeEngine(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            path = re.sub(r"^/v[0-9.]+", "", unquote(parts.path))
            query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            engine.asked.append((path, query))
            engine.headers[path] = self.headers
            if path in engine.answers:
                value: Any = engine.answers[path](query)
            elif path == "/version":
                value = {"ApiVersion": engine.api, "Components": [{"Name": "Engine"}]}
            else:
                value = 404
            if isinstance(value, bytes):
                self._send_archive(value)
                return
            status = value if isinstance(value, int) else 200
            body = {"message": f"status {status}"} if isinstance(value, int) else value
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _send_archive(self, data: bytes) -> None:
            time.sleep(engine.delay_s)
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")  # which is said, so that nobody asks on it
            self.end_headers()
            end = len(data) if engine.cut is None else engine.cut
            for start in range(0, end, 4096):
                piece = data[start : min(start + 4096, end)]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if engine.cut is None:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    # Who looks only at the address and goes away again is no error.
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    engine.url = f"tcp://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
