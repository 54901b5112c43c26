"""Headers changed where they lie in a buffer, and their checksums with them."""

from __future__ import annotations

from dimgx.layers.layerindex import STRIP_LEAD, STRIP_OWNER
from dimgx.layers.tarfields import BLOCK, FIFO, FILE, PAX, parse_number, sum_of

_SLASH = ord("/")
PATCHED = 4096
"""Bytes of a member in which all its headers have to be if it is renamed in place."""


def patch_header(chunk: bytearray, at: int, code: int) -> None:
    """Take from the header at `at` what `code` says."""
    taken = 0
    if chunk[at + 156] == PAX:  # the header is behind the PAX header
        at += BLOCK + (int(chunk[at + 124 : at + 135], 8) + BLOCK - 1 & -BLOCK)
    if code & STRIP_LEAD:
        if chunk[at] == _SLASH:
            chunk[at : at + 100] = chunk[at + 1 : at + 100] + b"\0"
            taken = _SLASH
        else:
            chunk[at : at + 100] = chunk[at + 2 : at + 100] + b"\0\0"
            taken = ord(".") + _SLASH
    if code & STRIP_OWNER:
        taken += sum_of(chunk[at + 265 : at + 329])
        chunk[at + 265 : at + 329] = bytes(64)
    chunk[at + 148 : at + 154] = b"%06o" % (int(chunk[at + 148 : at + 154], 8) - taken)


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
    # The checksum may be spelled in any way, so it is made anew.
    chunk[at + 148 : at + 156] = b"        "
    chunk[at + 148 : at + 155] = b"%06o\0" % sum_of(chunk[at : at + BLOCK])
    return True
