"""Layers that processes decode, or put together from an engine's files, and walk, each in a spool.

To open many small files is bound by the interpreter, and two threads take twice as long as two
processes. Where layers are decoded it is the walk that is bound by it; there a tenth is gained.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Protocol

from dimgx import system
from dimgx.errors import ImageError
from dimgx.extent import Extent
from dimgx.image import Layer, is_assembled
from dimgx.layers.layerindex import LayerIndex
from dimgx.layers.tarwalk import walk_layer
from dimgx.readers.forked import Advance
from dimgx.readers.walkers import Job, is_worth_processes
from dimgx.spool import Spool, SpoolSpace

_HEADERS, _DECODED = 2, 6
"""How many times as long as what it has of files, or as its blob, a tar may be to fit in memory."""


class Reader(Protocol):
    """What reads layers, in any process."""

    done: int
    """How many bytes of stored layers it has read in this one."""

    def iter_decoded(self, layer: Layer) -> Generator[bytes | memoryview, None, None]:
        """Yield a layer's tar in pieces, each good until the next; its digests are checked."""


class Spooling:
    """Spools for processes to put layers into."""

    def __init__(self, reader: Reader, space: SpoolSpace) -> None:
        self._reader, self._space = reader, space
        self._spools: dict[Layer, Spool] = {}

    def prepare(self, layers: Sequence[Layer], clamp_mtime_s: int | None) -> dict[Layer, Job]:
        """Give what puts each layer into its spool; nothing where that does not pay, or go for all.

        It is in memory if there is room for all of them, or on disk. How much there will be is not
        known of what is compressed: such layers are left to threads, whose spools move by
        themselves, if memory is short.

        Raises: SourceError where there is no place for spools.
        """
        blobs = [layer.blob for layer in layers]
        is_assembly = all(map(is_assembled, blobs))
        if not all(isinstance(blob, Extent) or is_assembled(blob) for blob in blobs):
            return {}
        weights = {layer: layer.weight or 0 for layer in layers}
        total = sum(weights.values())
        if not is_worth_processes(total):
            return {}
        left = self._space.left()
        in_memory = total * (_HEADERS if is_assembly else _DECODED) <= left
        if not in_memory and not is_assembly:
            return {}
        jobs = {}
        for layer, weight in weights.items():
            spool = self._space.open(0 if in_memory else left + 1)
            self._spools[layer] = spool
            fd = spool.finish().fd
            # No process sees how much the others use.
            most = left * weight // total if spool.is_in_memory else None
            jobs[layer] = Job(weight, partial(self._put, layer, fd, most, clamp_mtime_s))
        return jobs

    def take_over(self, layers: Iterable[Layer]) -> dict[Layer, Spool]:
        """Give the spools of those of `layers` that have one; the others are let go of."""
        found = {layer: self._spools.pop(layer) for layer in layers if layer in self._spools}
        for spool in found.values():
            spool.adopt()
        for spool in self._spools.values():
            spool.close()
        return found

    def _put(
        self, layer: Layer, fd: int, most: int | None, clamp_mtime_s: int | None, tick: Advance
    ) -> LayerIndex:
        """Put a layer's tar into the file `fd`, at most so many bytes of it, and walk it.

        Raises: ImageError, also where the tar is longer or there is no room for it.
        """
        size, told = 0, self._reader.done
        with closing(self._reader.iter_decoded(layer)) as pieces:
            for piece in pieces:
                if most is not None and size + len(piece) > most:
                    raise ImageError("its tar is longer than there is room for")
                try:
                    system.write_at(fd, piece, size)
                except OSError as exc:  # a limit on file sizes stands, or the disk is full
                    raise ImageError(f"its tar cannot be kept: {exc.strerror}") from exc
                size += len(piece)
                tick(self._reader.done - told)
                told = self._reader.done
        return walk_layer(fd, 0, size, clamp_mtime_s=clamp_mtime_s)
