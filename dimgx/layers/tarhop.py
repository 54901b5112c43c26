"""The ordinary headers of a chunk of a tar at once: found by their magic, proved by their sizes.

1. Blocks that have a tar's magic are *candidates*: one strided slice and one `split` find them.
2. The chunk begins with a header, and from there sizes lead from member to member. They are read in
   the lanes of one large number, and must lead from candidate to candidate. What looks like a
   header in a payload breaks this chain, and so does a header without the magic.
3. Hopping ends before whatever is not ordinary, and the walker goes on from there step by step.

Per header, CPython 3.11: 0.05 us to find it, 0.08 to cut it out, 0.1 to prove it. A loop takes 0.6.
"""

from __future__ import annotations

import re
import struct
from itertools import accumulate, compress
from operator import ne
from typing import NamedTuple

from dimgx.layers.tarfields import BLOCK, LONG_LINK, LONG_NAME, PAX

MAX_CHUNK = 256 << 10
"""The most bytes of a chunk."""
MAX_EXTENDED = {PAX: 16 << 10, LONG_NAME: 6 << 10, LONG_LINK: 6 << 10}
"""The types of the extended headers that can be ordinary, with the most bytes of such a one."""
ROOM = 17 << 10
"""The most bytes that the ordinary headers of a member take; any chunk has room for them."""

_MAGIC = b"ustar"
_LANES = MAX_CHUNK // BLOCK
# By the bytes between two magics, eight a block: what cuts out a header and passes the payload.
_FORMATS = {
    8 * blocks - len(_MAGIC): f"{BLOCK}s{(blocks - 1) * BLOCK}x" for blocks in range(1, _LANES)
}
_LAST = f"{BLOCK}s"
_USUAL_SIZE = re.compile(rb"0000[0-7]{7}[ \0]")
_USUAL_KINDS = re.compile(rb"(?:(?:x|K?L?)[0-6])*")
_IS_BARE = bytes(kind in b"123456" for kind in range(256))
_IS_EXTENDED = bytes(kind in MAX_EXTENDED for kind in range(256))


def _lanes(lane: bytes) -> int:
    """Put the same eight bytes into all lanes. A shift to the right gives fewer lanes."""
    return int.from_bytes(lane * _LANES, "little")


# The last seven digits of a size, the first one lowest in its lane, and the byte behind them.
_FORM, _FORM_MASK = _lanes(b"0000000\0"), _lanes(b"\xf8\xf8\xf8\xf8\xf8\xf8\xf8\xdf")
_DIGITS = _lanes(b"\7\7\7\7\7\7\7\0")
_PAIRS, _FOURS = _lanes(b"\xff\0\xff\0\xff\0\xff\0"), _lanes(b"\xff\xff\0\0\xff\xff\0\0")
_HALVES, _ONES = _lanes(b"\xff\xff\xff\xff\0\0\0\0"), _lanes(b"\1\0\0\0\0\0\0\0")
_ROUNDED_UP = _ONES * (BLOCK - 1 << 3)


Extended = tuple[int, bytes, bytes]
"""An ordinary extended header: the number of the header that it stands before, its block, and its
payload."""


class Hops(NamedTuple):
    """The ordinary members that a chunk begins with."""

    headers: bytes
    """Their headers of the types `0` to `6`, joined."""
    starts: list[int]
    """Where they begin, each with the extended headers that are before it."""
    extended: list[Extended]
    """The extended headers."""
    end: int
    """Where the next member begins."""


def hop(chunk: bytes | memoryview, at: int, limit: int) -> Hops | None:
    """Give the members that `chunk` begins with, as far as all is ordinary, or None.

    The chunk, of at most MAX_CHUNK bytes, lies at `at` in the tar, which ends at `limit`; so do
    starts and end. The first of its blocks must be where a member begins.
    """
    words = memoryview(chunk)[: len(chunk) & -BLOCK].cast("Q")
    gaps = list(map(len, words[32::64].tobytes().split(_MAGIC)))
    if gaps[0] != 1:
        return None
    del gaps[0], gaps[-1]
    try:
        form = "".join(map(_FORMATS.__getitem__, gaps)) + _LAST
    except KeyError:  # the end of one block and the beginning of another: no magic at all
        return None
    blocks = struct.Struct(form).unpack_from(chunk)
    joined = b"".join(blocks)
    steps = _prove(joined, gaps)
    starts = list(accumulate(steps, initial=at))
    kinds = joined[156 : len(steps) * BLOCK : BLOCK]
    count = len(steps) - (starts[-1] > limit)
    bare = kinds.translate(_IS_BARE)
    if max(compress(steps, bare), default=BLOCK) != BLOCK:
        count = min(count, next(i for i, step in enumerate(steps) if bare[i] and step != BLOCK))
    if kinds.translate(None, b"0123456"):
        usual = _USUAL_KINDS.match(kinds, 0, count)
        count = usual.end() if usual else 0
    is_extended = kinds[:count].translate(_IS_EXTENDED)
    extended: list[Extended] = []
    for i in compress(range(count), is_extended):
        begin = starts[i] - at + BLOCK
        size = int(joined[i * BLOCK + 124 : i * BLOCK + 135], 8)
        payload = bytes(chunk[begin : begin + size])
        if not is_ordinary(kinds[i], payload, size):
            count = i
            if i and is_extended[i - 1]:
                count = i - 1
                extended.pop()
            break
        extended.append((i - len(extended), blocks[i], payload))
    if not count:
        return None
    if extended:
        is_header = is_extended[:count].translate(b"\1\0" + bytes(254))
        joined = b"".join(compress(blocks, is_header))
        # Where its first extended header begins, a member does, and not at what is behind that.
        return Hops(joined, list(compress(starts, b"\1" + is_header[:-1])), extended, starts[count])
    return Hops(joined[: count * BLOCK], starts[:count], extended, starts[count])


def is_ordinary(kind: int, payload: bytes, size: int) -> bool:
    """Tell whether an extended header is, whose payload should have `size` bytes."""
    return (
        0 < size <= MAX_EXTENDED[kind]
        and len(payload) == size
        and not (kind == PAX and b"size=" in payload)
    )


def _prove(joined: bytes, gaps: list[int]) -> list[int]:
    """Give the distances from the first header to the second and so on, as far as they are proved.

    `gaps` are the bytes between the magics of these headers, eight for each block.
    """
    words = memoryview(joined)
    low = words.cast("Q")[16::64].tobytes()
    count = len(low) // 8
    spare = 64 * (_LANES - count)
    number = int.from_bytes(low, "little")
    is_usual = number & (_FORM_MASK >> spare) == _FORM >> spare
    if not is_usual or words.cast("I")[31::128].tobytes() != b"0000" * count:
        sizes = (joined[i + 124 : i + 136] for i in range(0, len(joined), BLOCK))
        count = next(i for i, size in enumerate(sizes) if not _USUAL_SIZE.fullmatch(size))
        return _prove(joined[: count * BLOCK], gaps[: count - 1]) if count else []
    # Digits become pairs, pairs fours, fours the size; there is one digit 0 too many at its end.
    number &= _DIGITS
    number = (number << 3) + (number >> 8) & _PAIRS
    number = (number << 6) + (number >> 16) & _FOURS
    number = (number << 12) + (number >> 32) & _HALVES
    number = ((number + (_ROUNDED_UP >> spare)) >> 12 & _HALVES) + (_ONES >> spare)
    steps = list(struct.unpack(f"<{count}Q", (number << 9).to_bytes(8 * count, "little")))
    number = (number << 3) - (_ONES >> spare) * len(_MAGIC)
    proved = struct.unpack(f"<{count}Q", number.to_bytes(8 * count, "little"))
    if proved[:-1] != tuple(gaps):
        del steps[next(compress(range(count), map(ne, proved, gaps))) + 1 :]
    return steps
