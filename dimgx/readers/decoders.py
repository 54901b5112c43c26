"""Processes that decode and walk layers, into memory that they share with this one.

Threads that decode would wait for the interpreter's lock, which who walks, merges and writes wants
all the time. And memory that is used again and again need not be asked of the system anew, which in
a virtual machine can take longer than decoding.

1. A layer belongs to one process, which decodes it piece by piece, as it is ordered to. Each order
   names a layer and a slot of the memory, and is answered once, when the slot is full or the layer
   ends.
2. The process walks what it has decoded while it is in the CPU's cache, and says what is new.
3. What goes wrong there is not told, only that something did.
4. A process ends when nobody can give it orders any more.
"""

from __future__ import annotations

import mmap
import os
import select
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from dimgx import system
from dimgx.layers.layerindex import LayerIndex
from dimgx.readers.forked import end_process, fork_off, held_signals
from dimgx.readers.growing import GrowingLayer
from dimgx.readers.pieces import Pieces

SLOT = 1 << 19
"""Bytes of a slot."""
STEP = 4 << 20
"""Bytes of a layer that are walked at once; fewer make small batches, which cost more."""

Decode = Callable[[int, Callable[[], memoryview]], Iterator[bytes | memoryview]]
"""Decodes a layer in pieces; the callable gives memory for each, as for `decode.iter_decoded`."""

_ORDER = struct.Struct("<III")
"""A layer's number, a slot's, and whether to walk however little has come."""
_ANSWER = struct.Struct("<IIIIQQ")
"""A layer's number and a slot's; how many bytes the slot has, how the layer stands, stored bytes
read meanwhile, and how many bytes of news follow in the process's own pipe."""
_GOES_ON, _ENDED, _FAILED = range(3)
_ANSWERS = 64
"""Answers that are read at once."""
_AGAIN_MS = 100


class DecodingFailed(Exception):
    """A layer cannot be decoded, or not be walked."""


class Answer(NamedTuple):
    """What an order came to."""

    layer: int
    slot: int
    size: int
    """Bytes that the slot has."""
    is_end: bool
    """Whether the layer ends there."""
    stored: int
    """Bytes of stored layers that were read meanwhile, of this one or another."""
    new: LayerIndex | None
    """What was walked meanwhile, as `GrowingLayer.go_on` gives it."""


class Decoders:
    """Processes for groups of layers, and the slots that they fill."""

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        slots: int,
        decode: Decode,
        count_stored: Callable[[], int],
        clamp_mtime_s: int | None,
    ) -> None:
        """Begin the processes, which only a process with one thread may do.

        `decode(number, room)` begins to decode a layer, in another process, into `room()` where it
        can; `count_stored` tells how many stored bytes were read there.

        Raises: OSError, ValueError where there are no such processes, or not so much memory.
        """
        self._view = memoryview(mmap.mmap(-1, slots * SLOT))
        self._group_of = {layer: i for i, group in enumerate(groups) for layer in group}
        self._orders: list[int] = []
        self._news: list[int] = []
        self.waiting = [0] * len(groups)
        """Orders of each group that are not answered."""
        with ExitStack() as stack, ExitStack() as theirs:
            self._answers, answers = os.pipe()
            stack.callback(os.close, self._answers)
            theirs.callback(os.close, answers)
            self._heard = select.poll()
            self._heard.register(self._answers, select.POLLIN)
            for _ in groups:
                # Both ends stay open here: no order is ever a SIGPIPE.
                orders, order = os.pipe()
                stack.callback(os.close, orders)
                stack.callback(os.close, order)
                self._orders.append(order)
                get, news = os.pipe()
                stack.callback(os.close, get)
                self._news.append(get)
                self._heard.register(get, 0)  # for its end alone
                system.widen_pipe(news)
                worker = _Worker(orders, answers, news, self._view)
                ours = (self._answers, *self._orders, *self._news)
                work = partial(worker.run, ours, decode, count_stored, clamp_mtime_s)
                try:
                    with held_signals():
                        stack.callback(end_process, fork_off(work))
                finally:
                    os.close(news)
            self._resources = stack.pop_all()

    def order(self, layer: int, slot: int, *, is_urgent: bool) -> None:
        """Have the next bytes of a layer decoded into a slot."""
        group = self._group_of[layer]
        os.write(self._orders[group], _ORDER.pack(layer, slot, is_urgent))
        self.waiting[group] += 1

    @property
    def has_answers(self) -> bool:
        """Whether `wait` would not have to wait."""
        return bool(self._heard.poll(0))

    def wait(self, check: Callable[[], None]) -> list[Answer]:
        """Wait for answers, and give one or more; `check` is called now and then.

        Raises: DecodingFailed; what `check` raises.
        """
        while not (heard := dict(self._heard.poll(_AGAIN_MS))):
            check()
        if self._answers not in heard:
            raise DecodingFailed  # a process has ended
        data = os.read(self._answers, _ANSWERS * _ANSWER.size)
        if not data:
            raise DecodingFailed  # all have
        found = []
        for layer, slot, size, state, stored, news_size in _ANSWER.iter_unpack(data):
            if state == _FAILED:
                raise DecodingFailed
            group = self._group_of[layer]
            self.waiting[group] -= 1
            new = None
            if news_size:
                new = LayerIndex.from_bytes(_read_exactly(self._news[group], news_size))
            found.append(Answer(layer, slot, size, state == _ENDED, stored, new))
        return found

    def view(self, slot: int, size: int) -> memoryview:
        """Give the first bytes of a slot."""
        return self._view[slot * SLOT : slot * SLOT + size]

    def close(self) -> None:
        """End the processes, and let go of the memory."""
        self._resources.close()
        self._view = memoryview(b"")


def _read_exactly(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, size)
        if not part:
            raise DecodingFailed
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class _Coming:
    """A layer in the process that decodes it."""

    def __init__(self, number: int, decode: Decode, clamp_mtime_s: int | None) -> None:
        self._room = self._rest = memoryview(b"")
        self._stream = decode(number, lambda: self._room)
        # Whoever orders lets no slot be used again before what it has is walked.
        self.pieces = Pieces(lambda _: False, lambda _: None)
        self._walk = GrowingLayer(self.pieces, clamp_mtime_s)
        self._walked = 0
        self._is_walked = False

    def fill(self, slot: memoryview) -> int:
        """Decode the next bytes into `slot`, and give how many there were."""
        filled = 0
        while filled < len(slot):
            if not self._rest:
                self._room = slot[filled:]
                piece = next(self._stream, None)
                if piece is None:
                    self.pieces.is_whole = True
                    break
                self._rest = memoryview(piece)
            part = self._rest[: len(slot) - filled]
            if part.obj is not slot.obj:  # else it was decoded there
                slot[filled : filled + len(part)] = part
            filled += len(part)
            self._rest = self._rest[len(part) :]
        if filled:
            self.pieces.append(slot[:filled])
        return filled

    def walk(self, least: int) -> bytes:
        """Walk what has come, if it is so much or the last; give what is new as bytes."""
        come = self.pieces.end - self._walked
        if self._is_walked:
            return b""
        if come < least and not self.pieces.is_whole:
            self._walk.look(self.pieces.end)
            return b""
        new = self._walk.go_on(self.pieces.end, is_whole=self.pieces.is_whole)
        self._walked, self._is_walked = self.pieces.end, self.pieces.is_whole
        self.pieces.drop(new.starts[-1])
        return new.to_bytes()


class _Worker(NamedTuple):
    """What a process has of its own: ends of pipes, and the memory."""

    orders: int
    answers: int
    news: int
    memory: memoryview

    def run(
        self,
        foreign: Sequence[int],
        decode: Decode,
        count_stored: Callable[[], int],
        clamp_mtime_s: int | None,
    ) -> None:
        """Decode as ordered until there are no more orders. All that the process does."""
        for fd in foreign:
            os.close(fd)
        layers: dict[int, _Coming] = {}
        told, answers = 0, b""
        more_orders = select.poll()
        more_orders.register(self.orders, select.POLLIN)
        while True:
            if answers and not more_orders.poll(0):
                system.write_all(self.answers, answers)
                answers = b""
            order = os.read(self.orders, _ORDER.size)
            if not order:
                break
            number, slot, is_urgent = _ORDER.unpack(order)
            if number not in layers:
                layers[number] = _Coming(number, decode, clamp_mtime_s)
            layer, size, news, state = layers[number], 0, b"", _FAILED
            try:
                size = layer.fill(self.memory[slot * SLOT : (slot + 1) * SLOT])
                news = layer.walk(1 if is_urgent else STEP)
                state = _ENDED if layer.pieces.is_whole else _GOES_ON
            finally:
                stored = count_stored()
                answers += _ANSWER.pack(number, slot, size, state, stored - told, len(news))
                told = stored
                # Together, so that who waits for them is not woken, and given a CPU, for each.
                # All that can be are fewer bytes than a pipe keeps together (PIPE_BUF).
                if news or state != _GOES_ON:
                    system.write_all(self.answers, answers)
                    answers = b""
            system.write_all(self.news, news)
