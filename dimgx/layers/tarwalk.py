"""The walk over a layer's tar: from header to header, in batches, into a `LayerIndex`.

1. Small members lie close together: then all headers of a chunk are found at once (`tarhop`).
   Elsewhere a loop cuts out the header, looks at its type and size, and hops to the next.
2. Ordinary headers are looked at in batches (`tarbatch`). Together this costs about 1 us a member;
   payload is not looked at.
3. A header with something unusual, and a member with extended headers other than a PAX header or
   GNU's long name and link target, is parsed alone (`tarheader`, some 30 us), which also finds the
   exact error.
4. What the members mean together is settled at the end (`ownlayer`).
5. A layer that is still being decoded can be followed: the walk stops where the next headers are
   not all there yet, and goes on from there. It looks for headers in what has just come, while
   that is in the CPU's cache and need not be copied, and makes larger batches of them.

A chunk of 32 KiB reads little payload of large files; of small ones 256 KiB hold more to be looked
at together. Mapping the file instead was slower (page faults), and so were larger batches.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from dimgx.layers.layerindex import REWRITE, LayerIndex
from dimgx.layers.ownlayer import OwnLayer
from dimgx.layers.placing import Placing
from dimgx.layers.tarfields import BLOCK, FIFO, FILE, Header, MalformedTar
from dimgx.layers.tarheader import read_header
from dimgx.layers.tarhop import MAX_CHUNK, MAX_EXTENDED, ROOM, Extended, hop, is_ordinary
from dimgx.layers.tarwrite import build_header
from dimgx.system import pread

CHUNK = 32 << 10
"""Bytes read at a time, at first and after large files; twice as many each time else."""
DENSE = 4 << 10
"""Bytes for each member in a chunk, headers and all, up to which more is read at a time."""
BATCH = 384
"""Members after which a batch is taken, at the end of the chunk."""

NO_END = 1 << 62
"""Where a tar ends whose end is not known yet."""

_NO_SIZE = b"00000000000\0"
# The row of a batch for a member that is parsed alone. Where all names begin with `./`, so does
# this one, as batches of such names are looked at faster.
_STAND_IN = build_header(Header(b"./-", FILE))
# How the types of a member's extended headers may follow each other.
_ORDERS = (b"x", b"K", b"L", b"KL")
_cut_block = struct.Struct(f"{BLOCK}s").unpack_from


def walk_layer(fd: int, offset: int, size: int, *, clamp_mtime_s: int | None = None) -> LayerIndex:
    """Walk the tar of `size` bytes at `offset` in `fd` and give its index.

    With `clamp_mtime_s` (seconds since 1970), members that are newer are marked for rewriting.
    Memory: the index, some MiB, and 20 MiB where headers say as much as they can.

    Raises: MalformedTar where the tar breaks off or makes no sense.
    """

    def read(at: int, count: int) -> bytes:
        return pread(fd, count, offset + at)

    walk = LayerWalk(read, clamp_mtime_s)
    walk.go_on(size, is_whole=True)
    walk.settle()
    return walk.index


class _NotYet(Exception):
    """What is to be read has not come yet."""


class LayerWalk:
    """The walk over a tar that may still be growing."""

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        clamp_mtime_s: int | None = None,
        *,
        keeps_attributes: bool = False,
        view: Callable[[int, int, int], bytes | memoryview] | None = None,
    ) -> None:
        """`read(offset, size)` gives bytes of the tar that are there.

        What is walked can be read by `view(offset, size, least)` instead, which gives fewer of
        them, but no fewer than `least`. They need to be good only until `go_on` or `look`
        returns.
        """
        self._read = read
        self._view = view or (lambda at, size, _least: read(at, size))
        self._size, self._is_whole, self._end = 0, False, NO_END
        self._chunk: bytes | memoryview = b""
        self._chunk_at, self._chunk_size = 0, CHUNK
        # So many bytes have to be there before it pays to go on.
        self._wanted = 0
        self.index = LayerIndex()
        """What the members walked so far say; complete when it is settled."""
        self.own = OwnLayer(self.index, self._read_at, self._read_header_at)
        """What is to be settled of them."""
        self.position = 0
        """Where the last of them ends: bytes from the start of the tar, there yet or not."""
        self.global_from: int | None = None
        """The first member behind a global header."""
        # Of the batch: headers, one or more in each piece, and, by their numbers in it, members
        # that are parsed alone and extended headers.
        self._blocks: list[bytes] = []
        self._alone: dict[int, Header] = {}
        self._extended: list[Extended] = []
        self._placing = Placing(
            self.index,
            self.own,
            self._read_header_at,
            clamp_mtime_s,
            keeps_attributes=keeps_attributes,
        )
        self.attributes_of = self._placing.attributes_of

    def go_on(self, size: int, *, is_whole: bool) -> None:
        """Walk as far as the first `size` bytes, which are there now, allow.

        Raises: MalformedTar where the tar breaks off or makes no sense.
        """
        self._size, self._is_whole = size, is_whole
        if is_whole:
            self._end = size
        self._walk()
        self._take_batch()
        self._chunk = b""  # what it views may be gone later

    def look(self, size: int) -> None:
        """Find headers as far as the first `size` bytes allow, but make little of them yet.

        Raises: MalformedTar where the tar makes no sense.
        """
        self._size = size
        self._walk()
        self._chunk = b""

    def settle(self) -> None:
        """Complete the index of a tar that is walked whole.

        Raises: MalformedTar where the members contradict each other.
        """
        index = self.index
        index.starts.append(min(self.position, self._size))
        if self.position > self._size:
            index.codes[-1] = REWRITE  # its padding is missing
        if self.global_from is not None:
            # A reader of the layer might apply the global header to all of these (rule 70).
            count = index.member_count - self.global_from
            index.codes[self.global_from :] = bytes((REWRITE,)) * count
        self.own.settle()

    def _walk(self) -> None:
        """Hop from header to header up to the end of the tar, or to where bytes lack."""
        starts, keys = self.index.starts, self.index.keys
        while self._is_whole or self._size >= max(self._wanted, self.position + CHUNK):
            if len(starts) - len(keys) >= BATCH:
                self._take_batch()
            if not self._walk_chunk():
                break

    def _walk_chunk(self) -> bool:
        """Take the members that begin in the chunk at `position`; tell whether more may follow."""
        starts, before = self.index.starts, len(self.index.starts)
        self._chunk_at = self.position
        self._chunk = chunk = self._read_chunk(self._chunk_size)
        last = len(chunk) - BLOCK
        k = self._hop() if self._chunk_size > CHUNK else 0
        while True:
            k = self._hop_on(k, last)
            if k > last >= 0:  # in another chunk; one without a whole block may be the tar's end
                break
            if 0 < k > last - ROOM and chunk[k + 156] in MAX_EXTENDED:
                break  # how a member goes out must not depend on where chunks end
            try:
                header = read_header(self._read_at, self._chunk_at + k, self._end)
            except _NotYet:
                # Twice as much: however long these headers are, few are read again and again.
                self._wanted = 2 * self._size - (self._chunk_at + k)
                break
            if header is None:
                self.position = self._chunk_at + k
                return False
            if header.had_global and self.global_from is None:
                self.global_from = len(starts)
            self._alone[self._batch_size] = header
            self._blocks.append(_STAND_IN)
            starts.append(self._chunk_at + k)
            k = header.end - self._chunk_at
            if header.data_offset - header.offset > ROOM:
                self._take_batch()  # some hundred that say so much would fill the memory
        self.position = self._chunk_at + k
        # Where small files lie close together, more can be looked at together.
        is_dense = (len(starts) - before) * DENSE >= len(chunk)
        self._chunk_size = min(2 * self._chunk_size, MAX_CHUNK) if is_dense else CHUNK
        return True

    @property
    def _batch_size(self) -> int:
        """The number of members in the batch."""
        return len(self.index.starts) - self.index.member_count

    def _hop(self) -> int:
        """Take the ordinary members that the chunk begins with; give where the next one begins."""
        hops = hop(self._chunk, self._chunk_at, self._end)
        if hops is None:
            return 0
        count = self._batch_size
        self._extended += [(count + n, block, payload) for n, block, payload in hops.extended]
        self._blocks.append(hops.headers)
        self.index.starts.fromlist(hops.starts)
        return hops.end - self._chunk_at

    def _hop_on(self, k: int, last: int) -> int:
        """Take the ordinary members from `k` on one by one; give where another one begins.

        A header begins at `last` at the latest.
        """
        chunk, chunk_at, limit = self._chunk, self._chunk_at, self._end - self._chunk_at
        add_start, add_block = self.index.starts.append, self._blocks.append
        extended: list[Extended] | None
        while k <= last:
            (block,) = _cut_block(chunk, k)
            kind, at, extended = block[156], k, None
            if not FILE <= kind <= FIFO:
                if kind not in MAX_EXTENDED:
                    break
                extended, at = self._cut_extended(k)
                if at > last:
                    break
                (block,) = _cut_block(chunk, at)
                kind = block[156]
                if not FILE <= kind <= FIFO:
                    break
            digits = block[124:136]
            step = BLOCK
            if digits != _NO_SIZE:
                try:
                    step = int(digits[:11], 8) + 1023 & -BLOCK
                except ValueError:
                    break
                if digits[11] > 32 or step < BLOCK or at + step > limit:
                    break
                if kind != FILE and step != BLOCK:
                    break
            if extended:
                self._extended += extended
            add_block(block)
            add_start(chunk_at + k)
            k = at + step
        return k

    def _cut_extended(self, k: int) -> tuple[list[Extended], int]:
        """Cut out the extended headers from `k` on; give them, and where the header is.

        It is where the unusual one is, if one is, or beyond the chunk.
        """
        chunk, found, kinds, number = self._chunk, list[Extended](), b"", self._batch_size
        while k + BLOCK <= len(chunk):
            (block,) = _cut_block(chunk, k)
            kind, digits = block[156], block[124:136]
            if kind not in MAX_EXTENDED or kinds + bytes((kind,)) not in _ORDERS:
                break
            try:
                size = int(digits[:11], 8)
            except ValueError:
                break
            payload = bytes(chunk[k + BLOCK : k + BLOCK + size])
            if digits[11] > 32 or not is_ordinary(kind, payload, size):
                break
            found.append((number, block, payload))
            kinds += bytes((kind,))
            k += BLOCK + (size + 511 & -BLOCK)
        return found, k

    def _read_chunk(self, size: int) -> bytes | memoryview:
        size = min(size, self._size - self._chunk_at)
        return self._view(self._chunk_at, size, CHUNK) if size > 0 else b""

    def _read_at(self, at: int, size: int) -> bytes:
        """Read from the chunk at hand, or else from the file."""
        if at + size > self._size:
            if not self._is_whole:
                raise _NotYet
            size = self._size - at
        k = at - self._chunk_at
        if k >= 0 and k + size <= len(self._chunk):
            return bytes(self._chunk[k : k + size])
        return self._read(at, size) if size > 0 else b""

    def _read_header_at(self, at: int) -> Header:
        header = read_header(self._read_at, at, self._end)
        if header is None:
            raise MalformedTar("the tar changed while it was read", at)
        return header

    def _take_batch(self) -> None:
        """Take the headers at hand into the index."""
        if self._blocks:
            self._placing.take(b"".join(self._blocks), self._alone, self._extended)
            self._blocks.clear()
            self._alone.clear()
            self._extended.clear()
