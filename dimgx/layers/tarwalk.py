"""The walk over a layer's tar: from header to header, in batches, into a `LayerIndex`.

1. Small members lie close together: then all headers of a chunk are found at once (`tarhop`).
   Elsewhere a loop cuts out the header, looks at its type and size, and hops to the next.
2. Ordinary headers are looked at in batches (`tarbatch`). Together this costs about 1 us a member;
   payload is not looked at.
3. A header with something unusual, and a member with extended headers other than a PAX header, is
   parsed alone (`tarheader`, some 10 us), which also finds the exact error.
4. What the members mean together is settled at the end (`ownlayer`).
5. A layer that is still being decoded can be followed: the walk stops where the next headers are
   not all there yet, and goes on from there. It looks for headers in what has just come, while
   that is in the CPU's cache and need not be copied, and makes larger batches of them.

A chunk of 32 KiB reads little payload of large files; of small ones 256 KiB hold more to be looked
at together. Mapping the file instead was slower (page faults), and so were larger batches.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from dimgx.layers.layerindex import REWRITE, LayerIndex
from dimgx.layers.ownlayer import OwnLayer
from dimgx.layers.placing import NO_END, Placing
from dimgx.layers.tarbatch import PaxHeader
from dimgx.layers.tarfields import BLOCK, FIFO, FILE, PAX, Header, MalformedTar
from dimgx.layers.tarheader import read_header
from dimgx.layers.tarhop import MAX_CHUNK, MAX_PAX, hop
from dimgx.system import pread

CHUNK = 32 << 10
"""Bytes read at a time, at first and after large files; twice as many each time else."""
DENSE = 4 << 10
"""Bytes for each member in a chunk, headers and all, up to which more is read at a time."""
BATCH = 384
"""Members after which a batch is taken, at the end of the chunk."""

_NO_SIZE = b"00000000000\0"
_cut_block = struct.Struct(f"{BLOCK}s").unpack_from


def walk_layer(fd: int, offset: int, size: int, *, clamp_mtime_s: int | None = None) -> LayerIndex:
    """Walk the tar of `size` bytes at `offset` in `fd` and give its index.

    With `clamp_mtime_s` (seconds since 1970), members that are newer are marked for rewriting.
    Memory: the index, and some 500 KiB.

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
        self._chunk_at = 0
        self.index = LayerIndex()
        """What the members walked so far say; complete when it is settled."""
        self.own = OwnLayer(self.index, self._read_at, self._read_header_at)
        """What is to be settled of them."""
        self.position = 0
        """Where the last of them ends: bytes from the start of the tar, there yet or not."""
        self.global_from: int | None = None
        """The first member behind a global header."""
        # Ordinary headers, one or more in each piece.
        self._blocks: list[bytes] = []
        # Members parsed alone, each with the number of ordinary ones before it in the batch.
        self._alone: list[tuple[int, Header]] = []
        self._pax: dict[int, PaxHeader] = {}
        self._placing = Placing(
            self.index,
            self.own,
            self._read_header_at,
            clamp_mtime_s,
            keeps_attributes=keeps_attributes,
        )
        self.attributes_of = self._placing.attributes_of
        self._steps = self._walk()

    def go_on(self, size: int, *, is_whole: bool) -> None:
        """Walk as far as the first `size` bytes, which are there now, allow.

        Raises: MalformedTar where the tar breaks off or makes no sense.
        """
        self._size, self._is_whole = size, is_whole
        if is_whole:
            self._end = self._placing.end = size
        next(self._steps, None)
        self._take_batch()

    def look(self, size: int) -> None:
        """Find headers as far as the first `size` bytes allow, but make little of them yet.

        Raises: MalformedTar where the tar makes no sense.
        """
        self._size = size
        next(self._steps, None)

    def settle(self) -> None:
        """Complete the index of a tar that is walked whole.

        Raises: MalformedTar where the members contradict each other.
        """
        index = self.index
        index.starts.append(min(self.position, self._size))
        if self.global_from is not None:
            # A reader of the layer might apply the global header to all of these (rule 70).
            count = index.member_count - self.global_from
            index.codes[self.global_from :] = bytes((REWRITE,)) * count
        self.own.settle()

    def _walk(self) -> Iterator[None]:
        """Hop from header to header; stop for a while where bytes lack."""
        index, blocks = self.index, self._blocks
        add_start, add_block = index.starts.append, blocks.append
        k, last, limit, passed = 0, -1, self._end, 0
        chunk_size = CHUNK // 2
        while True:
            while k > last:
                if len(index.starts) - index.member_count >= BATCH:
                    self._take_batch()
                self._chunk_at += k
                # Where small files lie close together, more can be looked at together.
                is_dense = (len(index.starts) - passed) * DENSE >= len(self._chunk)
                chunk_size = min(2 * chunk_size, MAX_CHUNK) if is_dense else CHUNK
                passed = len(index.starts)
                self._chunk = b""
                while not self._is_whole and self._chunk_at + CHUNK > self._size:
                    self.position = self._chunk_at
                    yield
                limit = self._end - self._chunk_at
                self._chunk = self._read_chunk(chunk_size)
                last = len(self._chunk) - BLOCK
                k = self._hop() if chunk_size > CHUNK else 0
                if last < 0:
                    break
            chunk, chunk_at = self._chunk, self._chunk_at
            while k <= last:
                (block,) = _cut_block(chunk, k)
                kind = block[156]
                if kind < FILE or kind > FIFO:
                    break
                digits = block[124:136]
                step = BLOCK
                if digits != _NO_SIZE:
                    try:
                        step = int(digits[:11], 8) + 1023 & -BLOCK
                    except ValueError:
                        break
                    if digits[11] > 32 or step < BLOCK or k + step > limit:
                        break
                    if kind != FILE and step != BLOCK:
                        break
                add_block(block)
                add_start(chunk_at + k)
                k += step
            else:
                if last >= 0:
                    continue
            if last >= 0 and kind == PAX:
                step = self._take_pax(k, last)
                if step:
                    add_start(chunk_at + k)
                    k += step
                    continue
                if k and not self._has_pair(k):
                    # How a member goes out must not depend on where chunks end.
                    last = k - 1
                    continue
            try:
                header, passed_global = read_header(self._read_at, chunk_at + k, self._end)
            except _NotYet:
                self.position = chunk_at + k
                self._chunk = b""  # what it views may be gone then
                # Twice as much is waited for: however long these headers are, few read them again.
                wanted = 2 * self._size - self.position
                yield
                while self._size < wanted and not self._is_whole:
                    yield
                last = k - 1
                continue
            if header is None:
                break
            if passed_global and self.global_from is None:
                self.global_from = len(index.starts)
            self._alone.append((self._ordinary_count, header))
            add_start(chunk_at + k)
            k = header.end - chunk_at
            if header.data_offset - header.offset > MAX_PAX:
                self._take_batch()  # some hundred that say so much would fill the memory
        self.position = chunk_at + k

    @property
    def _ordinary_count(self) -> int:
        """The number of ordinary headers in the batch."""
        return len(self.index.starts) - self.index.member_count - len(self._alone)

    def _hop(self) -> int:
        """Take the ordinary members that the chunk begins with; give where the next one begins."""
        hops = hop(self._chunk, self._chunk_at, self._end)
        if hops is None:
            return 0
        count = self._ordinary_count
        for number, block, payload in hops.pax:
            self._pax[count + number] = PaxHeader(block, payload)
        self._blocks.append(hops.headers)
        self.index.starts.fromlist(hops.starts)
        return hops.end - self._chunk_at

    def _take_pax(self, k: int, last: int) -> int:
        """Take a PAX header and the ordinary header behind it, if both are in the chunk.

        Gives the distance to the next member, or 0 if there is anything unusual.
        """
        chunk = self._chunk
        (head,) = _cut_block(chunk, k)
        try:
            size = int(head[124:135], 8)
        except ValueError:
            return 0
        at = k + BLOCK + (size + 511 & -BLOCK)
        if not 0 < size <= MAX_PAX or head[135] > 32 or at > last:
            return 0
        (block,) = _cut_block(chunk, at)
        try:
            step = int(block[124:135], 8) + 1023 & -BLOCK
        except ValueError:
            return 0
        kind = block[156]
        if (
            not FILE <= kind <= FIFO
            or block[135] > 32
            or step < BLOCK
            or at + step > self._end - self._chunk_at
            or (kind != FILE and step != BLOCK)
        ):
            return 0
        payload = bytes(chunk[k + BLOCK : k + BLOCK + size])
        if b"size=" in payload:
            return 0
        self._pax[self._ordinary_count] = PaxHeader(head, payload)
        self._blocks.append(block)
        return at + step - k

    def _has_pair(self, k: int) -> bool:
        """Tell whether a PAX header, if it is of ordinary size, and the next are in the chunk."""
        digits = bytes(self._chunk[k + 124 : k + 135])
        size = int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else 0
        return size > MAX_PAX or k + 2 * BLOCK + (size + 511 & -BLOCK) <= len(self._chunk)

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
        header, _ = read_header(self._read_at, at, self._end)
        if header is None:
            raise MalformedTar("the tar changed while it was read", at)
        return header

    def _take_batch(self) -> None:
        """Take the headers at hand into the index."""
        self._placing.take(self._blocks, self._alone, self._pax)
        self._blocks.clear()
        self._alone.clear()
        self._pax.clear()
