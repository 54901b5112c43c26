"""Makes images that are far larger than the memory, and nearly nothing on disk.

Their files are zeros: holes in a plain archive, the same gzip member again and again in a
compressed one.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.corpora import Blob, Corpus, LayoutWriter
from benchmarks.tarbytes import BLOCK, END, header

GB = 1 << 30
LAYERS = 4
FILE = 512 << 20
"""Bytes of each file."""
UNIT = 64 << 20
"""Zeros that one gzip member stands for."""

Piece = bytes | int
"""Bytes, or a number of zeros."""


def make(work: Path, size: int, variant: str) -> Corpus:
    """Give an image of about `size` bytes, plain or gzip; it is made each time."""
    name = f"huge-{size // GB}"
    directory = work / name
    directory.mkdir(parents=True, exist_ok=True)
    files = max(1, size // FILE // LAYERS)
    layers = [list(_layer(number, files)) for number in range(LAYERS)]
    stored = layers
    if variant == "gzip":
        stored = [list[Piece](_gzip(layer)) for layer in layers]
    with LayoutWriter(directory / variant) as layout:
        blobs = [
            Blob(_digest(kept), sum(map(_length, kept)), _digest(layer))
            for kept, layer in zip(stored, layers, strict=True)
        ]
        layout.finish(blobs, variant)
    _write_archive(directory / variant, directory / f"{variant}.tar", blobs, stored)
    shutil.rmtree(directory / variant)
    members = LAYERS * files
    return Corpus(directory, variant, name, members, members, size)


def _layer(number: int, files: int) -> Iterator[Piece]:
    for index in range(files):
        yield header(b"data/%d-%d" % (number, index), 0o644, 0, 0, FILE, 0, b"0")
        yield FILE
    yield END


def _gzip(layer: Sequence[Piece]) -> Iterator[bytes]:
    unit = _member(bytes(UNIT))
    for piece in layer:
        if isinstance(piece, int):
            yield unit * (piece // UNIT)
        else:
            yield _member(piece)


def _member(data: bytes) -> bytes:
    encoder = zlib.compressobj(6, zlib.DEFLATED, 31)
    return encoder.compress(data) + encoder.flush()


def _length(piece: Piece) -> int:
    return piece if isinstance(piece, int) else len(piece)


def _digest(pieces: Sequence[Piece]) -> str:
    digest = hashlib.sha256()
    zeros = bytes(UNIT)
    for piece in pieces:
        if isinstance(piece, int):
            for _ in range(piece // UNIT):
                digest.update(zeros)
        else:
            digest.update(piece)
    return digest.hexdigest()


def _write_archive(
    layout: Path, archive: Path, blobs: Sequence[Blob], stored: Sequence[Sequence[Piece]]
) -> None:
    with archive.open("wb", buffering=0) as out:
        for blob, pieces in zip(blobs, stored, strict=True):
            name = b"blobs/sha256/" + blob.digest.encode()
            out.write(header(name, 0o644, 0, 0, blob.size, 0, b"0"))
            for piece in pieces:
                if isinstance(piece, int):
                    out.seek(piece, 1)
                else:
                    out.write(piece)
            out.write(bytes(-blob.size % BLOCK))
        files = [path for path in sorted(layout.rglob("*")) if path.is_file()]
        for path in files:
            data = path.read_bytes()
            name = str(path.relative_to(layout)).encode()
            out.write(header(name, 0o644, 0, 0, len(data), 0, b"0"))
            out.write(data + bytes(-len(data) % BLOCK))
        out.write(END)
