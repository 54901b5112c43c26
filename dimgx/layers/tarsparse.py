"""Sparse files in tars, in all four forms: which pieces of a file are really stored.

The forms are GNU's old one (pieces in the header and in blocks behind it) and three of PAX: 0.0 (a
record for each number), 0.1 (all numbers in one record) and 1.0 (the numbers in front of the data).
"""

from __future__ import annotations

from collections.abc import Callable

from dimgx.layers.tarfields import (
    BLOCK,
    DECIMAL,
    FILE,
    Header,
    MalformedTar,
    count_blocks,
    parse_number,
)

MAX_SPARSE_MAP = 1 << 20
"""Most bytes that the map of a sparse member may have where it is text, as in Go's reader.

In memory it takes thirty times as much.
"""
_MAX_BLOCKS = 16 << 20
"""Most bytes of blocks that it may have in GNU's old form."""


def set_sparse(
    header: Header,
    records: dict[bytes, bytes],
    block: bytes,
    read_at: Callable[[int, int], bytes],
) -> Header:
    """Find out whether a member is sparse, and give its header, completed then (rule 52).

    `block` is its header, `records` are its PAX records.

    Raises: MalformedTar where its map makes no sense.
    """
    if block[156] == ord("S"):
        header, values = _gnu_sparse(header, block, read_at)
    elif header.kind == FILE:
        version = records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")
        if version == (b"1", b"0"):
            header, numbers = _sparse_map_in_data(header, read_at)
        elif b"GNU.sparse.map" in records:
            numbers = records[b"GNU.sparse.map"].split(b",")
        elif records.get(b"GNU.sparse.numblocks") == b"0":
            numbers = []
        else:
            return header
        size_text = records.get(b"GNU.sparse.size", records.get(b"GNU.sparse.realsize", b""))
        header = header._replace(
            name=records.get(b"GNU.sparse.name", header.name),
            size=_sparse_number(size_text, header),
        )
        values = [_sparse_number(number, header) for number in numbers]
    else:
        return header
    if len(values) % 2:
        raise MalformedTar("a sparse map of an odd length", header.offset)
    pieces = tuple(zip(values[::2], values[1::2], strict=True))
    at = 0
    for start, length in (*pieces, (header.size, 0)):
        if not at <= start <= start + length <= header.size:
            raise MalformedTar("a sparse map out of order or beyond the size", header.offset)
        at = start + length
    if sum(length for _, length in pieces) != header.stored_size:
        raise MalformedTar("a sparse map that does not fit the stored size", header.offset)
    return header._replace(sparse=pieces, is_normal=False)


def _sparse_number(text: bytes, header: Header) -> int:
    if not DECIMAL.fullmatch(text):
        raise MalformedTar("a sparse map with something that is no number", header.offset)
    return int(text)


def _gnu_sparse(
    header: Header, block: bytes, read_at: Callable[[int, int], bytes]
) -> tuple[Header, list[int]]:
    """Read the old GNU form: four pieces in the header, 21 in each block that follows.

    Gives the header with what it says besides, and the numbers.
    """
    at = header.data_offset
    real_size = parse_number(block[483:495], "the real size", at)
    fields, more = block[386:482], block[482]
    numbers: list[int] = []
    while True:
        for k in range(0, len(fields) - 23, 24):
            if not fields[k]:
                break
            start = parse_number(fields[k : k + 12], "a sparse offset", at)
            length = parse_number(fields[k + 12 : k + 24], "a sparse length", at)
            numbers += (start, length)
        if not more:
            break
        block = read_at(at, BLOCK)
        if len(block) < BLOCK or len(numbers) * 12 > _MAX_BLOCKS:
            raise MalformedTar("a sparse map that does not end", at)
        fields, more = block[:504], block[504]
        at += BLOCK
    return header._replace(data_offset=at, size=real_size), numbers


def _sparse_map_in_data(
    header: Header, read_at: Callable[[int, int], bytes]
) -> tuple[Header, list[bytes]]:
    """Read the map of form 1.0, which stands in whole blocks before the data.

    Gives the header with these taken off, and the numbers.
    """
    limit = min(header.stored_size, MAX_SPARSE_MAP)
    text = b""
    used = 0
    needed = 1
    while text.count(b"\n") < needed:
        if used >= limit:
            raise MalformedTar("a sparse map that does not end", header.offset)
        step = max(BLOCK, min(limit - used, used))
        step -= step % BLOCK
        text += read_at(header.data_offset + used, step)
        used += step
        if b"\n" in text:
            needed = 1 + 2 * _sparse_number(text.partition(b"\n")[0], header)
    lines = text.split(b"\n", needed)
    length = len(text) - len(lines[needed])
    used = BLOCK * count_blocks(length)
    header = header._replace(
        data_offset=header.data_offset + used, stored_size=header.stored_size - used
    )
    return header, lines[1:needed]
