"""A registry whose HTTP itself is odd: without end, cut in its header, or of another version."""

from __future__ import annotations

import random
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimgx import DimgxError, ImageError, Proxies, SourceError, TemporaryError
from dimgx.sources import registryclient
from tests.dsl import file, layer
from tests.registries import (
    FaultyRegistry,
    Handler,
    Rule,
    fails,
    fault,
    faulty_registry,
    flat,
    make_authority,
    wants_token,
)
from tests.writers import image, sha256

APP = image(layer(file("noise", random.Random(8).randbytes(100_000))))
BLOB = APP.blobs("gzip")[0]
BLOB_PATH = f"/blobs/sha256:{sha256(BLOB)}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def expected() -> bytes:
    with faulty_registry() as plain:
        plain.add(APP)
        return flat(plain.reference())


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with faulty_registry() as registry:
        registry.add(APP)
        yield registry


def sends(head: bytes, ever: bytes = b"", part: str = BLOB_PATH, times: int = 1000) -> Rule:
    """Send what is no whole answer, and end the connection.

    `ever` follows for as long as somebody reads, up to 100 MiB: what is bounded reads less.
    """
    left = [times]

    def rule(handler: Handler) -> bool:
        if part not in handler.path or not left[0]:
            return False
        left[0] -= 1
        handler.close_connection = True
        try:
            handler.wfile.write(head)
            for _ in range((100 << 20) // len(ever) if ever else 0):
                handler.wfile.write(ever)
        except OSError:
            return True
        handler.cut()
        return True

    return rule


ENDLESS = [
    (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "it says 100 without end"),
    (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 1000, "it says 103 without end"),
    (b"HTTP/1.1 103 x\r\n", b"A: b\r\n" * 9999, "fields without end after an answer that says"),
    (CHUNKED + b"3\r\nabc\r\n0\r\n", b"A: b\r\n" * 9999, "fields without end after its last chunk"),
    (CHUNKED + b"0\r\n", b"x" * 65_536, "fields without end after its last chunk"),
    (CHUNKED + b"-1\r\n", bytes(1 << 20), "a chunk of fewer than 0 bytes"),
    (CHUNKED + b"-5\r\n", b"", "a chunk of fewer than 0 bytes"),
]


@pytest.mark.parametrize(("head", "ever", "problem"), ENDLESS, ids=range(len(ENDLESS)))
def test_without_end(
    faulty: FaultyRegistry, expected: bytes, head: bytes, ever: bytes, problem: str
) -> None:
    faulty.rules.append(sends(head, ever))
    told = fault(faulty.reference(), TemporaryError, retry_time_s=0.3)
    assert f"the connection to {faulty.host} broke: it " in told and problem in told
    faulty.rules[:] = [sends(head, ever, times=1)]
    assert flat(faulty.reference()) == expected


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_answer_that_says_to_go_on_before_the_one_that_counts(
    faulty: FaultyRegistry, expected: bytes, status: int
) -> None:
    def rule(handler: Handler) -> bool:
        handler.wfile.write(f"HTTP/1.1 {status} Wait\r\nLink: </x>\r\n\r\n".encode() * 2)
        return False

    faulty.rules.append(rule)
    assert flat(faulty.reference()) == expected


def test_other_protocol_that_nobody_asked_for(faulty: FaultyRegistry) -> None:
    faulty.rules.append(fails(101, times=99))
    assert "answers with status 101" in fault(faulty.reference(), SourceError)


@pytest.mark.parametrize("times", [1, 1000])
def test_answers_that_say_to_go_on_before_a_proxy_connects_us(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    def connect(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * times)
        handler.send(403)

    monkeypatch.setattr(Handler, "do_CONNECT", connect, raising=False)
    with faulty_registry() as proxy:
        options = {"proxies": Proxies(https=f"http://{proxy.host}"), "retry_time_s": 0.3}
        kind = SourceError if times == 1 else TemporaryError
        told = fault("docker://registry.test/n", kind, **options)
    assert ("to registry.test (403)" if times == 1 else "says 103 without end") in told


def test_a_proxys_password_is_sent_as_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def connect(handler: Handler) -> None:
        sent.append(handler.headers.get("Proxy-Authorization"))
        handler.send(403)

    monkeypatch.setattr(Handler, "do_CONNECT", connect, raising=False)
    with faulty_registry() as proxy:
        for user in ("anna:p%C3%BC%E2%82%AC", "anna:plain", "anna", ""):
            url = f"http://{user}@{proxy.host}" if user else f"http://{proxy.host}"
            fault("docker://registry.test/n", SourceError, proxies=Proxies(https=url))
    texts = [text and b64decode(text.removeprefix("Basic ")) for text in sent]
    assert texts[:2] == ["anna:p\u00fc\u20ac".encode(), b"anna:plain"] and texts[-1] is None


def test_blanks_behind_the_values_of_a_header(faulty: FaultyRegistry, expected: bytes) -> None:
    media_type, data = faulty.manifests["1"]

    def rule(handler: Handler) -> bool:
        if "/manifests/" in handler.path:
            digest = f"sha256:{sha256(data)} \t"
            stated = {"Content_Type": f"{media_type} ", "Docker_Content_Digest": digest}
            handler.send(200, data, **stated)
        elif not handler.path.endswith("?moved"):
            handler.send(307, Location=f"{handler.path}?moved  ")
        else:
            digest = handler.path.partition("?")[0].rpartition(":")[2]
            faulty.send_blob(handler, faulty.blobs[digest])
        return True

    faulty.rules.append(rule)
    assert flat(faulty.reference()) == expected


# -- an end that nothing states ------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\n"
CUT = {
    "header": HEAD,
    "field": HEAD + b"Content-Le",
    "document": HEAD + b'\r\n{"schemaVersion": 2,',
}


@pytest.mark.parametrize("part", ["/manifests/", "/token"])
@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_cut_where_nothing_states_the_end(
    faulty: FaultyRegistry, expected: bytes, part: str, cut: bytes
) -> None:
    faulty.rules[:] = [sends(cut, part=part, times=1), wants_token(faulty)]
    assert flat(faulty.reference()) == expected
    faulty.rules[:] = [sends(cut, part=part), wants_token(faulty)]
    assert "broke off at byte" in fault(faulty.reference(), TemporaryError, retry_time_s=0.3)


def test_mirror_that_cuts_where_nothing_states_the_end(
    faulty: FaultyRegistry, expected: bytes, tmp_path: Path
) -> None:
    with faulty_registry() as mirror:
        mirror.rules.append(sends(HEAD, part="/manifests/"))
        conf = tmp_path / "registries.conf"
        conf.write_text(
            f'[[registry]]\nlocation = "{faulty.host}"\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}"\n'
        )
        assert flat(faulty.reference(), conf_files=(str(conf),)) == expected
        assert mirror.requests


@pytest.mark.parametrize("is_whole", [True, False])
def test_end_that_nothing_states_is_no_cut(
    faulty: FaultyRegistry, expected: bytes, is_whole: bool
) -> None:
    media_type, data = faulty.manifests["1"]
    document = data if is_whole else b"<p>log in first"
    head = f"HTTP/1.0 200 OK\r\nContent-Type: {media_type}\r\n\r\n"
    faulty.rules.append(sends(head.encode() + document, part="/manifests/"))
    if is_whole:
        assert flat(faulty.reference()) == expected
    else:
        assert "a web page" in fault(faulty.reference(), ImageError)
    assert len(faulty.requests) == (3 if is_whole else 1)


# -- drop by drop --------------------------------------------------------------------------------


class Drips:
    """Answers what `part` is in with a byte now and then, never silent for as long as a time-out.

    `overdue` tells that somebody has read on for as long as no test takes.
    """

    def __init__(self, part: str, head: bytes, drop: bytes = b" ") -> None:
        self._part, self._head, self._drop = part, head, drop
        self.overdue = threading.Event()

    def __call__(self, handler: Handler) -> bool:
        if self._part not in handler.path:
            return False
        handler.close_connection = True
        handler.wfile.write(self._head)
        try:
            for _ in range(200):
                handler.wfile.write(self._drop)
                time.sleep(0.1)
        except OSError:
            return True
        self.overdue.set()
        return True


LONG = b"Content-Length: 9999\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "kind", "problem"),
    [
        (b"HTTP/1.1 503 Busy\r\n" + LONG, TemporaryError, "fails (503)"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", TemporaryError, "fails (503)"),
        (b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n1;", SourceError, "status 400"),
        (b"HTTP/1.1 403 No\r\n" + LONG, SourceError, "is refused (403)"),
    ],
    ids=range(4),
)
@pytest.mark.parametrize("is_tls", [False, True])
def test_error_that_comes_drop_by_drop(
    tmp_path: Path, head: bytes, kind: type[DimgxError], problem: str, is_tls: bool
) -> None:
    drips = Drips("/manifests/", head)
    authority = make_authority(tmp_path / "ca") if is_tls else None
    with faulty_registry(authority, tmp_path) as faulty:
        faulty.rules.append(drips)
        given = {"timeout_s": 0.5, "retry_time_s": 0.1, "tls_verify": None if is_tls else False}
        given |= {"cert_dir": str(authority.directory)} if authority else {}
        assert problem in fault(faulty.reference(), kind, **given)
    assert not drips.overdue.is_set()


@pytest.mark.parametrize("head", [LONG, b"\r\n"])
@pytest.mark.parametrize("status", [200, 503])
def test_token_that_comes_drop_by_drop(faulty: FaultyRegistry, status: int, head: bytes) -> None:
    drips = Drips("/token", f"HTTP/1.1 {status} x\r\n".encode() + head)
    faulty.rules += [drips, wants_token(faulty)]
    told = fault(faulty.reference(), TemporaryError, timeout_s=0.5, retry_time_s=0.1)
    assert f"{faulty.host} does not answer in time" in told
    assert not drips.overdue.is_set()


@pytest.mark.parametrize("head", [LONG, b"\r\n"])
def test_manifest_that_comes_drop_by_drop(
    faulty: FaultyRegistry, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registryclient, "_MANIFEST_S", 0.5)
    drips = Drips("/manifests/", b"HTTP/1.1 200 OK\r\n" + head)
    faulty.rules.append(drips)
    told = fault(faulty.reference(), TemporaryError, retry_time_s=0.1)
    assert f"{faulty.host} does not answer in time" in told
    assert not drips.overdue.is_set()


def test_tags_that_come_drop_by_drop(faulty: FaultyRegistry) -> None:
    drips = Drips("/tags/", b"HTTP/1.1 200 OK\r\n" + LONG)
    faulty.rules.append(drips)
    assert "manifest unknown" in fault(faulty.reference("2"), SourceError, timeout_s=0.5)
    assert not drips.overdue.is_set()
