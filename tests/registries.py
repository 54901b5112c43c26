"""Registries for tests: Debian's docker-registry, and a small one that misbehaves as it is told."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import dimgx
from benchmarks.registry import serving
from dimgx import RegistryOptions
from tests.programs import CHECKOUT, need, run
from tests.writers import OCI, Json, Picture, add_blob, add_image, sha256, to_json

USER, PASSWORD = "anna", "pa55-word"
# bcrypt of that password; docker-registry takes no other kind.
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuujh9PDMrNlID7EOhE4sltp3nqIzxR/SS\n"
INDEX_TYPE = f"{OCI}.index.v1+json"


def plain_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `home` the user's, without credentials, proxies or settings of this machine's."""
    for name in (
        "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "DIMGX_CACHE_DIR",
        "CONTAINERS_REGISTRIES_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    return home


# -- certificates --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA of the test's own, in `directory` as --cert-dir takes it."""

    directory: Path

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.crt"

    def issue(
        self,
        place: Path,
        name: str,
        address: str = "IP:127.0.0.1,DNS:registry.test,DNS:registry-1.docker.io",
    ) -> tuple[Path, Path]:
        """Give the paths of a certificate for `address` and of its key."""
        place.mkdir(exist_ok=True)
        key, request, certificate = (place / f"{name}.{end}" for end in ("key", "csr", "pem"))
        extensions = place / f"{name}.ext"
        extensions.write_text(f"subjectAltName={address}\nbasicConstraints=CA:FALSE\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request,
                 "-subj", f"/CN={name}")  # fmt: skip
        _openssl("x509", "-req", "-in", request, "-CA", self.certificate,
                 "-CAkey", self.directory.parent / "ca-key.pem", "-CAcreateserial",
                 "-CAserial", place / "serial", "-days", "2", "-extfile", extensions,
                 "-out", certificate)  # fmt: skip
        return certificate, key


def make_authority(place: Path) -> Authority:
    directory = place / "certs"
    directory.mkdir(parents=True)
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test CA",
             "-keyout", place / "ca-key.pem", "-out", directory / "ca.crt")  # fmt: skip
    return Authority(directory)


def _openssl(*words: object) -> None:
    run([need("openssl"), *map(str, words)])


# -- the real one --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RealRegistry:
    host: str
    pushing: tuple[str, ...]
    """What skopeo needs to push there."""
    data: Path
    """Where it keeps what it has."""

    def push(self, source: str, name: str, *words: str) -> str:
        """Push an image with skopeo; give its reference."""
        target = f"docker://{self.host}/{name}"
        run([need("skopeo"), "copy", "--quiet", *self.pushing, *words, source, target])
        return target


@contextmanager
def real_registry(
    place: Path, *, authority: Authority | None = None, htpasswd: bool = False
) -> Iterator[RealRegistry]:
    """Run docker-registry on a free port of 127.0.0.1."""
    need("docker-registry")
    need("skopeo")
    place.mkdir(parents=True, exist_ok=True)
    pushing = ["--dest-tls-verify=false"]
    auth, tls = None, None
    if htpasswd:
        (place / "htpasswd").write_text(HTPASSWD)
        auth = {"htpasswd": {"realm": "test", "path": str(place / "htpasswd")}}
        pushing += ["--dest-creds", f"{USER}:{PASSWORD}"]
    if authority is not None:
        certificate, key = authority.issue(place / "tls", "registry")
        tls = {"certificate": str(certificate), "key": str(key)}
    with serving(place, auth=auth, tls=tls) as host:
        yield RealRegistry(host, tuple(pushing), place / "data")


# -- the faulty one ------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """One request; rules of a test may answer it, or change what is answered."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.server.registry.answer(self)

    def do_POST(self) -> None:
        self.server.registry.answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send(
        self, status: int, body: bytes = b"", length: int | None = None, **headers: str
    ) -> None:
        """Send an answer; header names have underscores here."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def cut(self) -> None:
        """End the connection after what was sent."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def range_start(self) -> int:
        match = re.fullmatch(r"bytes=([0-9]+)-", self.headers.get("Range", ""))
        return int(match[1]) if match else 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: FaultyRegistry

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that break off are what these tests are about


Rule = Callable[[Handler], bool]
"""Answers a request and gives True, or leaves it to the next."""


@dataclass
class FaultyRegistry:
    """Serves blobs and manifests from memory, after `rules` have had their say."""

    host: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """By hex digest."""
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Media type and document by tag or digest."""
    rules: list[Rule] = field(default_factory=list)
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    """Path and headers of all that came."""
    is_tls: bool = False

    def add(self, picture: Picture, tag: str = "1", **options: Any) -> Json:
        """Hold an image; give the descriptor of its manifest."""
        stored: dict[str, bytes] = {}
        descriptor = add_image(stored, picture, "gzip", **options)
        self.blobs |= stored
        self.name(descriptor, tag)
        return descriptor

    def add_index(self, entries: list[Json], tag: str) -> Json:
        document = to_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})
        descriptor = add_blob(self.blobs, document, INDEX_TYPE)
        self.name(descriptor, tag)
        return descriptor

    def name(self, descriptor: Json, tag: str) -> None:
        data = self.blobs[descriptor["digest"].removeprefix("sha256:")]
        for key in (tag, descriptor["digest"]):
            self.manifests[key] = (descriptor["mediaType"], data)

    def reference(self, tag: str = "1") -> str:
        return f"docker://{self.host}/app:{tag}"

    def paths(self) -> list[str]:
        """Give what was asked for, without the repository."""
        return [path.removeprefix("/v2/app/") for path, _ in self.requests]

    def answer(self, handler: Handler) -> None:
        self.requests.append((handler.path, dict(handler.headers)))
        for rule in self.rules:
            if rule(handler):
                return
        match = re.fullmatch(r"/v2/(?:[^/]+/)*app/(manifests|blobs|tags)/(.+)", handler.path)
        kind, what = match.groups() if match else ("", "")
        if kind == "manifests" and what in self.manifests:
            media_type, data = self.manifests[what]
            digest = f"sha256:{sha256(data)}"
            handler.send(200, data, Content_Type=media_type, Docker_Content_Digest=digest)
        elif kind == "blobs" and what.removeprefix("sha256:") in self.blobs:
            self.send_blob(handler, self.blobs[what.removeprefix("sha256:")])
        elif kind == "tags":
            tags = [tag for tag in self.manifests if not tag.startswith("sha256:")]
            handler.send(200, to_json({"name": "app", "tags": tags}))
        else:
            problem = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            handler.send(404, to_json(problem))

    @staticmethod
    def send_blob(handler: Handler, data: bytes) -> None:
        start = handler.range_start()
        if start >= len(data) and start:
            handler.send(416)
        elif start:
            stated = f"bytes {start}-{len(data) - 1}/{len(data)}"
            handler.send(206, data[start:], Content_Range=stated)
        else:
            handler.send(200, data)


@contextmanager
def faulty_registry(
    authority: Authority | None = None, place: Path | None = None, **client: bool
) -> Iterator[FaultyRegistry]:
    """Run a faulty registry on a free port of 127.0.0.1, with TLS if there is an authority.

    With `client_certificate` clients have to show one.
    """
    with ExitStack() as stack:
        server = stack.enter_context(_Server(("127.0.0.1", 0), Handler))
        registry = FaultyRegistry(f"127.0.0.1:{server.server_address[1]}")
        server.registry = registry
        if authority is not None:
            assert place is not None
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*authority.issue(place, "faulty"))
            if client.get("client_certificate"):
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(authority.certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            registry.is_tls = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield registry


# -- rules ---------------------------------------------------------------------------------------


def fails(status: int, times: int = 1, part: str = "/", **headers: str) -> Rule:
    """Answer with `status` the first `times` that `part` is asked for."""
    left = [times]

    def rule(handler: Handler) -> bool:
        if part not in handler.path or not left[0]:
            return False
        left[0] -= 1
        handler.body()
        handler.send(status, b"{}", **headers)
        return True

    return rule


class Holds:
    """Answers what is asked for with `body`, short of what it states, and holds the rest back.

    The rest is held until somebody sets `released`. Who leaves earlier has not waited for it;
    `overdue` tells that somebody has, for as long as no test takes.
    """

    def __init__(self, part: str, body: bytes | None) -> None:
        self._part, self._body = part, body
        self.begun, self.released, self.overdue = (threading.Event() for _ in range(3))

    def __call__(self, handler: Handler) -> bool:
        if self._part not in handler.path:
            return False
        if self._body is not None:
            handler.send(200, self._body, len(self._body) + 1_000_000)
        self.begun.set()
        if not self.released.wait(20):
            self.overdue.set()
        handler.close_connection = True
        return True


def interrupt(held: Holds, *words: str | Path) -> int:
    """Run the command, interrupt it when an answer is held back, and give how it ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dimgx", "--platform", "linux/amd64", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert held.begun.wait(20)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate()
    return process.returncode


def wants_token(
    registry: FaultyRegistry, *, realm: str | None = None, uses: int = 1000, **more: Any
) -> Rule:
    """Ask for a token, which its own realm gives; each is good for `uses` requests.

    `more`: `expires_in`, and `check`, which is called with the handler of a token request.
    """
    valid: dict[str, int] = {}

    def rule(handler: Handler) -> bool:
        if handler.path.partition("?")[0] == "/token":
            check = more.get("check")
            if check is not None and not check(handler):
                handler.send(401, b"{}")
                return True
            token = f"token-{len(valid)}-of-the-test"
            valid[token] = uses
            handler.send(200, to_json({"token": token, "expires_in": more.get("expires_in", 300)}))
            return True
        sent = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        if valid.get(sent, 0) > 0:
            valid[sent] -= 1
            return False
        scheme = "https" if registry.is_tls else "http"
        where = realm or f"{scheme}://{registry.host}/token"
        handler.send(
            401, b"{}",
            WWW_Authenticate=f'Bearer realm="{where}",service="test",scope="repository:app:pull"',
        )  # fmt: skip
        return True

    return rule


def wants_password(handler: Handler) -> bool:
    """Ask for user and password."""
    import base64

    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    if handler.headers.get("Authorization") == f"Basic {pair}":
        return False
    handler.send(401, b"{}", WWW_Authenticate='Basic realm="test"')
    return True


# -- reading in this process ---------------------------------------------------------------------


def flat(reference: str, *, layers: Sequence[str] | None = None, **options: Any) -> bytes:
    """Give the flat tar of an image at a registry, reached by these `RegistryOptions`."""
    given = {"retry_time_s": 5.0, "timeout_s": 20.0, **options}
    registry = RegistryOptions(**given)
    with dimgx.open_image(reference, platform="linux/amd64", registry=registry) as image:
        target = io.BytesIO()
        dimgx.flatten(image, target, layers=layers, memory=1 << 26)
        return target.getvalue()


def fault(reference: str, kind: type[dimgx.DimgxError], **options: Any) -> str:
    """Give the one line of an error of this kind, neither a relative's nor with a secret in it."""
    with pytest.raises(dimgx.DimgxError) as raised:
        flat(reference, **options)
    text = str(raised.value)
    assert isinstance(raised.value, kind), (type(raised.value), text)
    shown = "".join(traceback.format_exception(raised.value))
    assert text.isprintable() and len(text) < 1500, text
    assert PASSWORD not in shown and "of-the-test" not in shown
    return text
