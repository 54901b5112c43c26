"""A registry whose HTTP itself is odd: without end, cut in its header, or of another version."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dimgx import Proxies, SourceError, TemporaryError
from tests.dsl import file, layer
from tests.registries import (
    FaultyRegistry,
    Handler,
    Rule,
    fails,
    fault,
    faulty_registry,
    flat,
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
