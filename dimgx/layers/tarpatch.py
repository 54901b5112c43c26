"""Headers changed where they lie in a buffer, and their checksums with them."""

from __future__ import annotations

from dimgx.layers.layerindex import ADD_SLASH, STRIP_LEAD, STRIP_OWNER
from dimgx.layers.tarfields import BLOCK, FIFO, FILE, PAX, parse_number, sum_of
from dimgx.layers.tarwrite import build_record

PATCHED = 4096
"""Bytes of a member in which all its headers have to be if it is renamed in place."""


def lead_of(name: bytes | bytearray) -> int:
    """Give how many bytes lead a name and mean nothing: those of one `./` or `/`."""
    return 2 if name.startswith(b"./") else int(name.startswith(b"/"))


def strip_path(records: bytes) -> bytes:
    """Give the records of a PAX header, the path's without what leads the name."""
    at = 0
    while at < len(records):
        space = records.index(b" ", at)
        end = at + int(records[at:space])
        if records.startswith(b"path=", space + 1):
            name = records[space + 6 : end - 1]
            return records[:at] + build_record(b"path", name[lead_of(name) :]) + records[end:]
        at = end
    return records


def patch_header(chunk: bytearray, at: int, code: int) -> None:
    """Change in the header at `at` what `code` says; its PAX header must need as many blocks."""
    taken = 0
    if chunk[at + 156] == PAX:  # the header is behind the PAX header
        size = int(chunk[at + 124 : at + 135], 8)
        if code & STRIP_LEAD:
            _patch_path(chunk, at, size)
        at += BLOCK + (size + BLOCK - 1 & -BLOCK)
    if code & STRIP_LEAD:
        # With a prefix, that is what the name begins with.
        begin, end = (at + 345, at + 500) if chunk[at + 345] else (at, at + 100)
        lead = lead_of(chunk[begin : begin + 2])
        taken = sum(chunk[begin : begin + lead])
        chunk[begin:end] = chunk[begin + lead : end] + bytes(lead)
    if code & ADD_SLASH:
        chunk[chunk.index(0, at, at + 100)] = ord("/")
        taken -= ord("/")
    if code & STRIP_OWNER:
        taken += sum_of(chunk[at + 265 : at + 329])
        chunk[at + 265 : at + 329] = bytes(64)
    chunk[at + 148 : at + 154] = b"%06o" % (int(chunk[at + 148 : at + 154], 8) - taken)


def _patch_path(chunk: bytearray, at: int, size: int) -> None:
    begin, end = at + BLOCK, at + BLOCK + size
    records = bytes(chunk[begin:end])
    if b" path=" not in records:
        return
    stripped = strip_path(records)
    chunk[begin:end] = stripped.ljust(size, b"\0")
    chunk[at + 124 : at + 135] = b"%011o" % len(stripped)
    _set_checksum(chunk, at)


def rename_header(chunk: bytearray, at: int, code: int, name: bytes) -> bool:
    """Put `name` into the header at `at`, which is in normal form, and take off what `code` says.

    Gives false, and changes nothing, where the name is in, or needs, an extended header.
    """
    if len(name) > 100:
        return False
    if chunk[at + 156] == PAX:
        size = parse_number(chunk[at + 124 : at + 136], "the size", at)
        behind = BLOCK + (size + BLOCK - 1 & -BLOCK)
        if behind + BLOCK > PATCHED or b" path=" in chunk[at + BLOCK : at + BLOCK + size]:
            return False
        at += behind
    if not FILE <= chunk[at + 156] <= FIFO:
        return False
    chunk[at : at + 100] = name.ljust(100, b"\0")
    if chunk[at + 345]:  # the name's prefix: a GNU header with times there is not in normal form
        chunk[at + 345 : at + 500] = bytes(155)
    if code & STRIP_OWNER:
        chunk[at + 265 : at + 329] = bytes(64)
    _set_checksum(chunk, at)
    return True


def _set_checksum(chunk: bytearray, at: int) -> None:
    """Make a checksum anew: it may have been spelled in any way."""
    chunk[at + 148 : at + 156] = b"        "
    chunk[at + 148 : at + 155] = b"%06o\0" % sum_of(chunk[at : at + BLOCK])
