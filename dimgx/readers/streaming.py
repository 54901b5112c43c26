"""Merging layers while they are decoded, so that little of them is held, and nothing long.

Other processes decode and walk (`decoders`); this one merges what is known for good (`parts`) and
writes it. Of the layers of a process the one that is furthest behind in the order of a walk is
decoded next, since all others wait for it.

This goes only with layers whose members lie in the order of a walk, as nearly all do, and where
what was written can be taken back: whether they do is seen at the end. `OutOfOrder` says that they
do not, or that something else is wrong; then all is to be done again in the usual way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dimgx.errors import ImageError
from dimgx.extent import Write
from dimgx.layers.names import name_of
from dimgx.layers.tarwrite import END
from dimgx.merging.emit import Emitter
from dimgx.merging.hardlinks import plan_tree
from dimgx.merging.merge import merge_layers
from dimgx.merging.plan import NEW, Plan, Written
from dimgx.readers.decoders import SLOT, Decode, Decoders, DecodingFailed
from dimgx.readers.growing import OutOfOrder
from dimgx.readers.parts import LayerParts
from dimgx.readers.pieces import Pieces

PART = 16 << 20
"""Bytes walked between two parts that are merged; each costs some 0.1 ms a layer."""
AHEAD, LITTLE_AHEAD = 16, 2
"""Slots that a process is told to fill before it has filled the first; the second where slots are
short."""
SPARE = 16, 4
"""Slots, and more for each layer, that only the layer gets which all others wait for."""
MOST = 512 << 20
"""The most memory used, in bytes."""


class _Layer(LayerParts):
    def __init__(self, number: int, size: int, flow: Flow) -> None:
        super().__init__()
        self.number = number
        self.size = size
        self.pieces = Pieces(lambda at: flow.wait(self, at), flow.free)


def _divide(layers: Sequence[_Layer], count: int) -> list[list[_Layer]]:
    """Divide layers into groups of about one size."""
    groups: list[list[_Layer]] = [[] for _ in range(count)]
    sizes = [0] * count
    for layer in sorted(layers, key=lambda layer: layer.size, reverse=True):
        i = sizes.index(min(sizes))
        groups[i].append(layer)
        sizes[i] += layer.size
    return groups


class Flow:
    """Layers on their way from their blobs into one tar. Used once; to be closed."""

    def __init__(
        self,
        sizes: Sequence[int],
        decode: Decode,
        count_stored: Callable[[], int],
        *,
        processes: int,
        memory: int,
        clamp_mtime_s: int | None = None,
        tick: Callable[[int], None],
        check: Callable[[], None],
        has_begun: Callable[[int], bool],
    ) -> None:
        """`decode(number, room)` decodes a layer, 0 is the lowest, into `room()` where it can.

        `sizes` are the stored bytes of each. At most `memory` bytes of decoded ones are held.
        `count_stored` gives how many stored bytes have been read in a process, and `tick` is called
        with what that comes to here. `check` is called now and then, and where it raises something,
        this counts more than what is wrong with a layer. `has_begun` tells whether a layer can be
        decoded already.

        Raises: OSError, ValueError where no process can be begun, or too little memory is given.
        """
        self._layers = [_Layer(i, size, self) for i, size in enumerate(sizes)]
        self._clamp, self._tick = clamp_mtime_s, tick
        self._check, self._has_begun = check, has_begun
        count = min(processes, len(self._layers))
        self._groups = _divide(self._layers, count)
        slots = min(memory, MOST) // SLOT
        self._spare = SPARE[0] + SPARE[1] * len(self._layers)
        if slots < 2 * self._spare:
            raise ValueError("not enough memory")
        self._slots = _Slots(slots, len(self._groups))
        self._slot_of: dict[int, int] = {}
        self._wanted: _Layer | None = None
        self._can_drop = False
        numbers = [[layer.number for layer in group] for group in self._groups]
        self._decoders = Decoders(numbers, slots, decode, count_stored, clamp_mtime_s)

    def emit(self, write: Write) -> None:
        """Write the flat tar by calls of `write`, whose argument is good until it returns.

        Raises: OutOfOrder, after which nothing that was written counts; Cancelled; what `write`
            raises.
        """

        def written(data: bytes | memoryview) -> None:
            write(data)
            if self._decoders.has_answers:  # who decodes need not wait for who writes
                self._go_on()

        try:
            self._merge(written)
            written(END)
        except (DecodingFailed, ImageError) as exc:
            self._check()
            raise OutOfOrder from exc

    def close(self) -> None:
        """End all processes, and let go of all memory."""
        self._decoders.close()
        # They refer to each other, and what may be done next wants the memory now.
        for layer in self._layers:
            layer.pieces.clear()

    def wait(self, layer: _Layer, at: int) -> bool:
        """Wait for bytes of a layer from `at` on; tell whether they have come."""
        if self._can_drop:
            layer.pieces.drop(at)
        self._wanted = layer
        while layer.pieces.end <= at and not layer.pieces.is_whole:
            self._go_on()
        self._wanted = None
        return layer.pieces.end > at

    def free(self, piece: memoryview) -> None:
        """Take back the slot of a piece that is let go."""
        self._slots.give(self._slot_of.pop(id(piece)))

    def _merge(self, write: Write) -> None:
        edge, walked_then = b"", 0
        while left := [layer for layer in self._layers if not layer.pieces.is_whole]:
            self._go_on()
            # With a directory of that name in another layer, which belongs to it.
            known = min(layer.frontier for layer in left)
            known = known and known.removesuffix(b"\0") + b"\0"
            walked = sum(layer.position for layer in self._layers)
            if known > edge and (self._is_short or walked - walked_then >= PART):
                edge, walked_then = known, walked
                self._emit_part(edge, write)
        self._emit_part(None, write)

    @property
    def _is_short(self) -> bool:
        return len(self._slots) <= self._spare

    def _go_on(self) -> None:
        """Have more decoded, and take what has come."""
        self._give_orders()
        if not any(self._decoders.waiting):
            raise OutOfOrder  # all slots are taken by what waits for something else
        for answer in self._decoders.wait(self._check):
            layer = self._layers[answer.layer]
            if answer.size:
                piece = self._decoders.view(answer.slot, answer.size)
                self._slot_of[id(piece)] = answer.slot
                layer.pieces.append(piece)
            else:
                self._slots.give(answer.slot)
            if answer.new is not None:
                layer.add(answer.new)
            layer.pieces.is_whole = layer.pieces.is_whole or answer.is_end
            self._tick(answer.stored)

    def _give_orders(self) -> None:
        left = (layer for layer in self._layers if not layer.pieces.is_whole)
        first = self._wanted or min(left, key=_behind, default=None)
        for i, group in enumerate(self._groups):
            own = [layer for layer in group if not layer.pieces.is_whole]
            if not own:
                continue
            # A process that waits for what has not begun to come cannot decode another.
            best = self._wanted if self._wanted in own else min(own, key=self._rank)
            while self._slots:
                is_short = self._is_short
                layer = first if is_short else best
                if layer not in own:
                    break
                if self._decoders.waiting[i] >= (LITTLE_AHEAD if is_short else AHEAD):
                    break
                self._decoders.order(layer.number, self._slots.take(i), is_urgent=is_short)

    def _rank(self, layer: _Layer) -> tuple[bool, bytes, int]:
        return not self._has_begun(layer.number), *_behind(layer)

    def _emit_part(self, edge: bytes | None, write: Write) -> None:
        """Merge and write all layers up to the key `edge`."""
        indexes = [layer.cut(edge) for layer in self._layers]
        plan = plan_tree(merge_layers(indexes))
        self._settle_past_links(plan)
        # What is put together may need what lies before.
        self._can_drop = not plan.written
        tars = [layer.pieces for layer in self._layers]
        emitter = Emitter(plan, indexes, tars, clamp_mtime_s=self._clamp)
        emitter.emit(write, end=len(plan.numbers))
        self._can_drop = False
        for layer in self._layers:
            layer.pieces.drop(layer.begin)

    def _settle_past_links(self, plan: Plan) -> None:
        """Say how hard links go out whose file went out with an earlier part."""
        top = len(self._layers) - 1
        past = {
            plan.bases[top - layer.number] + number: (layer, link)
            for layer in self._layers
            for number, link in layer.past.items()
        }
        if not past:
            return
        codes = bytearray(plan.codes)
        for place, number in enumerate(plan.numbers):
            if number not in past:
                continue
            layer, link = past[number]
            if any(upper.hides(link.target) for upper in self._layers[layer.number + 1 :]):
                raise OutOfOrder
            if link.spelled != name_of(link.target):
                # Its own header says of the inode what the file's does.
                plan.written[number] = Written(number, None, link.target)
                codes[place] = NEW
        plan.codes = bytes(codes)


class _Slots:
    """The slots that are free; each process has its own, as far as there are enough.

    Whoever touches a page of memory for the first time pays for it.
    """

    def __init__(self, count: int, processes: int) -> None:
        self._count = count
        self._used: list[list[int]] = [[] for _ in range(processes)]
        self._process_of: dict[int, int] = {}

    def __len__(self) -> int:
        return self._count - len(self._process_of) + sum(map(len, self._used))

    def give(self, slot: int) -> None:
        self._used[self._process_of[slot]].append(slot)

    def take(self, process: int) -> int:
        """Give a slot to a process: the one it used last, as this may still be in the cache."""
        if self._used[process]:
            return self._used[process].pop()
        slot = len(self._process_of)
        if slot == self._count:
            slot = max(self._used, key=len).pop()
        self._process_of[slot] = process
        return slot


def _behind(layer: _Layer) -> tuple[bytes, int]:
    return layer.frontier, -layer.size
