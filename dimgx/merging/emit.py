"""The emitter: a plan and the layers' tars in, one tar out.

1. Survivors that are neighbours in one layer go as one range, headers and payload alike, through
   one small buffer that is written when it is full. On one file system this beat mmap, sendfile,
   copy_file_range and splice, whose page faults and calls cost more than a copy in the cache.
2. Headers that only lose what leads a name, owners' names or records, or get a slash, another name
   or time, are patched in such a range (`tarpatch`, 0.7 us a member, 4 to 15 if rebuilt).
   Where they take more or fewer blocks then, what is between them is copied from a second buffer.
3. All other headers are read again and written anew (`tarwrite`), some 60 us each.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise, starmap
from operator import sub
from typing import TYPE_CHECKING

from dimgx.extent import Readable, Write
from dimgx.layers.layerindex import COPY, RESIZE, REWRITE, LayerIndex
from dimgx.layers.names import name_of
from dimgx.layers.tarfields import BLOCK, Header, count_blocks
from dimgx.layers.tarpatch import HEADERS, Edited, edit_headers, patch_header
from dimgx.layers.tarwrite import END, build_header
from dimgx.merging.entries import Entries, ends_early
from dimgx.merging.plan import NEW, Plan

if TYPE_CHECKING:
    from dimgx.merging.figures import LayerFigures

BUFFER = 256 << 10
"""Bytes gathered before they are written."""

DIRECT = 64 << 10
"""Bytes that lie in memory which are worth being written on their own."""

FEW = 1000
"""Headers that may be built once more to know where the second half of a tar begins."""

# Codes of a run: copied; patched; patched to another size; or one that is written anew.
_STRETCHES = re.compile(rb"(?s)\0+|[\x01-\x1f]+|[\x20-\x3f]+|.")


class Emitter:
    """Writes the tar that a plan describes, as often as it is asked to.

    `indexes` and `tars` (the plain tars) run lower to upper, as those that the plan was made of.
    """

    def __init__(
        self,
        plan: Plan,
        indexes: Sequence[LayerIndex],
        tars: Sequence[Readable],
        *,
        root_entry: bool = False,
        clamp_mtime_s: int | None = None,
    ) -> None:
        self._plan, self._indexes, self._tars = plan, indexes, tars
        self._root_entry = root_entry
        self.entries = Entries(plan, indexes, tars, clamp_mtime_s)
        """What the headers are to say."""
        # Places in the plan where no neighbour of the member before stands.
        self._breaks: array[int] | None = None
        self._clamp = clamp_mtime_s
        self._bytes = bytearray(BUFFER)
        self._buffer = memoryview(self._bytes)
        self._filled = 0
        self._second: bytearray | None = None
        self._write: Write = len

    def emit(self, write: Write, first: int = 0, end: int | None = None) -> None:
        """Write the tar by calls of `write`, whose argument is good until it returns.

        With `first` or `end`, only from that entry on, or only up to that one.

        Raises: ImageError where a layer's bytes are no longer there; what `write` raises.
        """
        self._write, self._filled = write, 0
        if self._root_entry and not first:
            self._put(self.entries.build_root())
        self._put_entries(first, end)
        if end is None:
            self._put(END)
        self._flush()

    def _put_entries(self, begin: int, end: int | None) -> None:
        for layer, first, last, code, number in self._iter_runs(begin, end):
            if code == COPY:
                starts = self._indexes[layer].starts
                self._copy(layer, starts[first], starts[last])
            elif code < RESIZE:
                self._patch(layer, first, last)
            elif code < REWRITE:
                self._put_edited(layer, first, last, number)
            else:
                self._put_built(number)

    def measure(self) -> int:
        """Give the length in bytes of the tar, building all new headers for it."""
        return len(END) + self._measure_root() + sum(starmap(self._measure_run, self._iter_runs()))

    def halve(self, least: int) -> tuple[int, int] | None:
        """Give the entry with which about the second half of the tar begins, and its offset there.

        None where the tar seems to have fewer bytes than `least`, where that is no entry but the
        first, or too many new headers would have to be built.
        """
        if len(self._plan.codes.translate(None, bytes(range(RESIZE)))) > FEW:
            return None
        total = self.estimate()
        if total < least:
            return None
        half = total // 2
        place, at = 0, self._measure_root()
        for layer, first, last, code, number in self._iter_runs():
            length = self._measure_run(layer, first, last, code, number)
            if at + length > half and code < RESIZE:
                starts = self._indexes[layer].starts
                member = bisect_left(starts, starts[first] + half - at, first, last)
                place += member - first
                return (place, at + starts[member] - starts[first]) if place else None
            place += last - first
            at += length
        return None

    def _measure_root(self) -> int:
        return len(self.entries.build_root()) if self._root_entry else 0

    def _measure_run(self, layer: int, first: int, last: int, code: int, number: int) -> int:
        starts = self._indexes[layer].starts
        if code < RESIZE:
            return starts[last] - starts[first]
        if code < REWRITE:
            return sum(map(len, self._iter_edited(layer, first, last, number)))
        header, _ = self.entries.describe(number)
        return len(build_header(header)) + BLOCK * count_blocks(header.size)

    def estimate(self) -> int:
        """Give about the length in bytes, quickly: as if no header changed its size."""
        total = len(END)
        for layer, first, last, code, _ in self._iter_runs():
            starts = self._indexes[layer].starts
            if code != NEW:
                total += starts[last] - starts[first]
        return total

    def find_layers_used(self) -> set[int]:
        """Give the layers whose bytes are needed."""
        plan = self._plan
        used = {layer for layer, first, _, code, _ in self._iter_runs() if code != NEW}
        for written in plan.written.values():
            for number in (written.attributes, written.content, *written.xattrs):
                if number is not None:
                    used.add(plan.locate(number)[0])
        if self._root_entry:
            used.update(i for i, index in enumerate(self._indexes) if index.root is not None)
        return used

    def count_layers(self) -> list[LayerFigures]:
        """Count what each layer, lower to upper, gave to the tar."""
        from dimgx.merging.figures import count_layers

        return count_layers(self._plan, self._indexes, [tar.size for tar in self._tars])

    def _iter_runs(
        self, begin: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield (layer, first member, after the last, code, number of the first) in order.

        They are those of the entries from `begin` on, up to `last` where that is given. Members of
        a run are neighbours and of one way to go out: copied, patched, or one alone.
        """
        plan, numbers = self._plan, self._plan.numbers
        if self._breaks is None:
            steps = map(sub, islice(numbers, 1, None), numbers)
            self._breaks = array("q", [j for j, step in enumerate(steps, 1) if step != 1])
        breaks = self._breaks
        end = len(numbers) if last is None else last
        for stretch in _STRETCHES.finditer(plan.codes, begin, end):
            start, stop = stretch.span()
            code = plan.codes[start]
            inner = breaks[bisect_left(breaks, start + 1) : bisect_left(breaks, stop)]
            for a, b in pairwise((start, *inner, stop)):
                layer, member = plan.locate(numbers[a])
                yield layer, member, member + b - a, code, numbers[a]

    def _put(self, data: bytes | memoryview) -> None:
        if len(data) > BUFFER - self._filled:
            self._flush()
            if len(data) > BUFFER:
                self._write(data)
                return
        self._buffer[self._filled : self._filled + len(data)] = data
        self._filled += len(data)

    def _flush(self) -> None:
        if self._filled:
            self._write(self._buffer[: self._filled])
            self._filled = 0

    def _copy(self, layer: int, start: int, end: int) -> None:
        """Copy a range of a layer's tar."""
        tar = self._tars[layer]
        while end - start >= DIRECT and (view := tar.view(start, end)) is not None:
            if not view:
                raise ends_early(end - start)
            self._flush()
            self._write(view)
            start += len(view)
        self._gather(tar, start, end)

    def _gather(self, tar: Readable, start: int, end: int) -> None:
        """Put a range of a tar into the buffer, which is written only where it is full."""
        while start < end:
            if self._filled == BUFFER:
                self._flush()
            room = min(BUFFER - self._filled, end - start)
            count = tar.read_into(self._buffer[self._filled : self._filled + room], start)
            if not count:
                raise ends_early(end - start)
            self._filled += count
            start += count

    def _patch(self, layer: int, first: int, last: int) -> None:
        """Copy neighbours whose headers are patched, as many at once as can be held."""
        starts, codes = self._indexes[layer].starts, self._indexes[layer].codes
        while first < last:
            at = starts[first]
            if BUFFER - self._filled < min(BUFFER // 2, starts[last] - at):
                self._flush()
            until, end = _find_held(starts, first, last, BUFFER - self._filled)
            place = self._filled
            self._gather(self._tars[layer], at, end)
            for member in range(first, until):
                here = place + starts[member] - at
                patch_header(self._bytes, here, codes[member], self._clamp)
            self._copy(layer, end, starts[until])
            first = until

    def _put_edited(self, layer: int, first: int, last: int, number: int) -> None:
        """Put neighbours whose headers may take more or fewer blocks than they did."""
        for piece in self._iter_edited(layer, first, last, number):
            if isinstance(piece, range):
                self._copy(layer, piece.start, piece.stop)
            elif len(piece) < DIRECT:
                self._put(piece)
            else:
                self._flush()
                self._write(piece)

    def _iter_edited(
        self, layer: int, first: int, last: int, number: int
    ) -> Iterator[bytes | memoryview | range]:
        """Yield what neighbours become: bytes that are good until the next, or where some lie.

        `number` is the first one's.
        """
        starts, tar = self._indexes[layer].starts, self._tars[layer]
        if self._second is None:
            self._second = bytearray(BUFFER)
        buffer = self._second
        view = memoryview(buffer)
        while first < last:
            at = starts[first]
            until, end = _find_held(starts, first, last, BUFFER)
            _read_all(tar, view[: end - at], at)
            passed = 0
            for member in range(first, until):
                here = starts[member] - at
                edited = self._edit(buffer, here, layer, member, number)
                if len(edited.blocks) == edited.before:
                    buffer[here : here + edited.before] = edited.blocks
                else:
                    if here > passed:
                        yield view[passed:here]
                    yield edited.blocks
                    passed = here + edited.before
                number += 1
            if end - at > passed:
                yield view[passed : end - at]
            if starts[until] > end:
                yield range(max(end, at + passed), starts[until])
            first = until

    def _edit(self, buffer: bytearray, here: int, layer: int, member: int, number: int) -> Edited:
        """Give the headers of a member that may take more or fewer blocks than they did."""
        code, key = self._indexes[layer].codes[member], self._plan.names.get(number)
        name = None if key is None else name_of(key)
        edited = edit_headers(buffer, here, code, name, self._clamp)
        if edited is None:
            header, _ = self.entries.describe(number)
            edited = Edited(build_header(header), header.data_offset - header.offset)
        return edited

    def _put_built(self, number: int) -> None:
        """Put an entry with new headers."""
        header, layer = self.entries.describe(number)
        self._put(build_header(header))
        self._put_content(layer, header)

    def _put_content(self, layer: int, header: Header) -> None:
        if header.sparse is None:
            self._copy(layer, header.data_offset, header.data_offset + header.size)
        else:
            for piece in self.entries.iter_content(layer, header):
                self._put(bytes(piece))
        self._put(bytes(-header.size % BLOCK))


def _find_held(starts: array[int], first: int, last: int, room: int) -> tuple[int, int]:
    """Give after which member, and where, what can be held of some neighbours ends.

    Of one that is too large, that is no more than its headers and a bit.
    """
    at = starts[first]
    until = bisect_right(starts, at + room, first, last + 1) - 1
    if until == first:
        return first + 1, min(at + HEADERS, starts[first + 1])
    return until, starts[until]


def _read_all(tar: Readable, view: memoryview, at: int) -> None:
    """Fill `view` with a tar's bytes from `at` on."""
    while view:
        count = tar.read_into(view, at)
        if not count:
            raise ends_early(len(view))
        view, at = view[count:], at + count
