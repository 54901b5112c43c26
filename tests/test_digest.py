"""Digests: their grammar, and streams that are checked against them."""

from __future__ import annotations

import hashlib

import pytest

from dimgx.digest import Digest, iter_verified
from dimgx.errors import ImageError

DATA = b"abcdefgh" * 1000
GOOD = Digest.of(DATA)


def test_parse_and_spell():
    text = "sha256:" + "0123456789abcdef" * 4
    digest = Digest.parse(text)
    assert (digest.algorithm, digest.hex) == ("sha256", "0123456789abcdef" * 4)
    assert str(digest) == text


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_registered_algorithms(algorithm):
    value = hashlib.new(algorithm, DATA).hexdigest()
    digest = Digest.parse(f"{algorithm}:{value}")
    hasher = digest.new_hash()
    hasher.update(DATA)
    assert hasher.hexdigest() == digest.hex


WRONG = [
    "",
    "sha256",
    "sha256:",
    "sha256:abc",
    "sha256:" + "A" * 64,
    "sha256:" + "0" * 63,
    "sha256:" + "0" * 65,
    "sha256:" + "g" * 64,
    "SHA256:" + "0" * 64,
    "md5:" + "0" * 32,
    " sha256:" + "0" * 64,
    "sha256:" + "0" * 64 + "\n",
    "sha256:" + "\u0660" * 64,
    "sha256:../../" + "0" * 58,
    None,
    7,
    b"sha256:" + b"0" * 64,
]


@pytest.mark.parametrize("text", WRONG, ids=repr)
def test_what_is_no_digest_is_refused_in_one_line(text):
    with pytest.raises(ImageError) as caught:
        Digest.parse(text)
    assert str(caught.value).isprintable()


def run(digest, size, data=DATA, cut=1000):
    chunks = [memoryview(data)[start : start + cut] for start in range(0, len(data), cut)]
    return b"".join(bytes(chunk) for chunk in iter_verified(chunks, digest, size, "layer 3/7"))


@pytest.mark.parametrize("digest", [None, GOOD])
@pytest.mark.parametrize("size", [None, len(DATA)])
def test_passes_on_what_is_right(digest, size):
    assert run(digest, size) == DATA


def test_passes_on_nothing():
    assert run(Digest.of(b""), 0, b"") == b""


@pytest.mark.parametrize("digest", [None, GOOD])
def test_a_short_stream_is_an_error(digest):
    with pytest.raises(ImageError, match="layer 3/7: ends 5 bytes early, at byte 7995 of 8000"):
        run(digest, len(DATA), DATA[:-5])


def test_a_long_stream_is_an_error_before_its_end():
    seen = 0

    def chunks():
        while True:
            yield DATA

    with pytest.raises(ImageError, match=f"layer 3/7: has more than the {len(DATA) + 1} bytes"):
        for chunk in iter_verified(chunks(), None, len(DATA) + 1, "layer 3/7"):
            seen += len(chunk)
    assert seen == len(DATA)


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_other_bytes_are_an_error_that_names_both_digests(size):
    other = b"x" + DATA[1:]
    with pytest.raises(ImageError) as caught:
        run(GOOD, size, other)
    assert str(GOOD) in str(caught.value)
    assert str(Digest.of(other)) in str(caught.value)


def test_an_error_comes_only_after_all_bytes_were_passed_on():
    verified = iter_verified([b"a", b"b"], GOOD, None, "it")
    assert [next(verified), next(verified)] == [b"a", b"b"]
    with pytest.raises(ImageError):
        next(verified)
