"""Layers that an engine keeps unpacked, put together by processes, each into a file in memory.

To open many small files is bound by the interpreter: two threads take longer than one.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Protocol

from dimgx import system
from dimgx.errors import ImageError
from dimgx.image import Layer, is_assembled
from dimgx.layers.layerindex import LayerIndex
from dimgx.layers.tarwalk import walk_layer
from dimgx.readers.forked import Advance
from dimgx.readers.walkers import Job
from dimgx.spool import Spool, SpoolSpace

_HEADERS = 1.25
"""How much longer a tar may be than what it has of files, to be put together in memory."""


class Reader(Protocol):
    """What reads layers, in any process."""

    done: int
    """How many bytes of stored layers it has read in this one."""

    def iter_decoded(self, layer: Layer) -> Generator[bytes | memoryview, None, None]:
        """Yield a layer's tar in pieces, each good until the next; its digests are checked."""


class Assembly:
    """Files in memory that processes put layers into, as much as `space` has left at first."""

    def __init__(self, reader: Reader, space: SpoolSpace) -> None:
        self._reader, self._space = reader, space
        self._files: dict[Layer, int] = {}

    def prepare(self, layers: Sequence[Layer], clamp_mtime_s: int | None) -> dict[Layer, Job]:
        """Give what puts each layer into its file.

        Nothing where that does not go for all of `layers`.
        """
        if not all(is_assembled(layer.blob) for layer in layers):
            return {}
        weights = {layer: layer.weight or 0 for layer in layers}
        total, left = sum(weights.values()), self._space.left()
        if total * _HEADERS > left:
            return {}
        jobs = {}
        for layer, weight in weights.items():
            fd = system.open_memory_file()
            if fd is None:
                self.close()
                return {}
            self._files[layer] = fd
            # No process sees how much the others use.
            most = left * weight // total if total else left
            jobs[layer] = Job(weight, partial(self._put, layer, fd, most, clamp_mtime_s))
        return jobs

    def take_over(self, layers: Iterable[Layer]) -> dict[Layer, Spool]:
        """Give the files of those of `layers` that have one; the others are let go of."""
        spools = {}
        for layer in layers:
            if layer in self._files:
                fd = self._files.pop(layer)
                spools[layer] = self._space.adopt(fd, os.fstat(fd).st_size)
        self.close()
        return spools

    def close(self) -> None:
        """Let go of all files that nobody has taken over."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _put(
        self, layer: Layer, fd: int, most: int, clamp_mtime_s: int | None, tick: Advance
    ) -> LayerIndex:
        """Put a layer's tar into the file `fd`, at most so many bytes of it, and walk it.

        Raises: ImageError, also where the tar is longer or there is no room for it.
        """
        size, told = 0, self._reader.done
        with closing(self._reader.iter_decoded(layer)) as pieces:
            for piece in pieces:
                if size + len(piece) > most:
                    raise ImageError("its tar is longer than there is room for")
                try:
                    system.write_at(fd, piece, size)
                except OSError as exc:  # a limit on file sizes stands, or memory is out
                    raise ImageError(f"its tar cannot be kept: {exc.strerror}") from exc
                size += len(piece)
                tick(self._reader.done - told)
                told = self._reader.done
        return walk_layer(fd, 0, size, clamp_mtime_s=clamp_mtime_s)
