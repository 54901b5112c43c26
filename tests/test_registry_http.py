"""A registry whose HTTP itself is odd: without end, cut in its header, or of another version."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dimgx import TemporaryError
from tests.dsl import file, layer
from tests.registries import (
    FaultyRegistry,
    Handler,
    Rule,
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
