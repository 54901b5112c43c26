"""Walking several plain layers at once, in as many processes as there are CPUs to use.

The walk is bound by the interpreter, so threads do not help. A process forked off takes a share of
the layers and leaves their indexes in a memory file. Taking them over costs 0.08 us a member, where
the walk costs 1 to 2.

1. Only on Linux, only from a process that has one thread yet, and only where a share is so large
   that the fork (some 3 ms) does not matter.
2. A process that has no more to walk checks digests, if there is enough to check. A thread would do
   that as well, but for the interpreter's lock: beside planning it gets that once in 5 ms.
3. Walking comes first on every CPU, as all else waits for it and nothing waits for a digest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias

from dimgx import system
from dimgx.errors import ImageError
from dimgx.extent import Extent
from dimgx.layers.layerindex import LayerIndex
from dimgx.layers.tarwalk import walk_layer
from dimgx.readers.checks import Checks
from dimgx.readers.forked import Forked, held_signals

SHARE = 24 << 20
"""The fewest bytes of plain layers that are worth a process."""
_MOST = 4

Indexes: TypeAlias = dict[Extent, LayerIndex]


class Walkers:
    """The processes that walk layers, this one among them."""

    def __init__(self) -> None:
        self._forked: list[Forked] = []
        self._checking = 0
        self._own: list[Extent] = []
        self._others: list[tuple[Forked, int, list[Extent]]] = []
        self._clamp_mtime_s: int | None = None

    @property
    def checking(self) -> Sequence[Forked]:
        """Those that make checks as soon as they have walked."""
        return self._forked[: self._checking]

    def begin(
        self,
        tars: Sequence[Extent],
        clamp_mtime_s: int | None,
        processes: int,
        checks: Checks,
    ) -> None:
        """Fork, where that pays, to walk `tars` and then to make `checks`."""
        own, *shares = _divide(tars, min(processes, _MOST))
        checking = min(processes - 1, len(checks.checks), checks.size // SHARE)
        if not (shares or checking) or not system.can_fork():
            return
        self._own, self._clamp_mtime_s = own, clamp_mtime_s
        # An error here, as one of too many processes, leaves more to the others and to this one.
        with suppress(OSError), held_signals():
            for share in shares:
                fd = system.open_memory_file()
                if fd is None:
                    break
                try:
                    forked = Forked(partial(_walk, share, clamp_mtime_s, fd), checks.checks)
                except OSError:
                    os.close(fd)
                    raise
                self._forked.append(forked)
                self._others.append((forked, fd, share))
            while len(self._forked) < checking:
                self._forked.append(Forked(None, checks.checks))
        self._checking = min(checking, len(self._forked))

    def collect(self) -> Indexes:
        """Walk the rest, and give what all have found.

        It lacks tars that could not be walked; all of them, where other processes do not pay.
        """
        found: Indexes = {}
        with suppress(ImageError):
            for tar in self._own:
                found[tar] = walk_layer(
                    tar.fd, tar.offset, tar.size, clamp_mtime_s=self._clamp_mtime_s
                )
        for forked, fd, share in self._others:
            if forked.has_worked():
                found.update(zip(share, _read(fd), strict=True))
        self._close_files()
        for forked in self._forked[self._checking :]:
            forked.end()
        return found

    def end(self) -> None:
        """End all processes, whatever they do."""
        for forked in self._forked:
            forked.end()

    def close(self) -> None:
        """Let go of all, when nobody asks any more."""
        self._close_files()
        for forked in self._forked:
            forked.close()

    def _close_files(self) -> None:
        while self._others:
            os.close(self._others.pop()[1])


def _divide(tars: Sequence[Extent], most: int) -> list[list[Extent]]:
    """Divide `tars` into shares of about one size, the largest first, none of them too small."""
    total = sum(tar.size for tar in tars)
    count = max(1, min(most, len(tars), total // SHARE))
    shares: list[list[Extent]] = [[] for _ in range(count)]
    sizes = [0] * count
    for tar in sorted(tars, key=lambda tar: -tar.size):
        i = sizes.index(min(sizes))
        shares[i].append(tar)
        sizes[i] += tar.size
    if min(sizes) < SHARE:
        return [list(tars)]
    return shares


def _walk(share: list[Extent], clamp_mtime_s: int | None, fd: int) -> None:
    """Walk the tars of `share` and leave their indexes in `fd`."""
    for tar in share:
        index = walk_layer(tar.fd, tar.offset, tar.size, clamp_mtime_s=clamp_mtime_s)
        data = index.to_bytes()
        system.write_all(fd, len(data).to_bytes(8, "little") + data)


def _read(fd: int) -> list[LayerIndex]:
    found = []
    at = 0
    while head := system.pread(fd, 8, at):
        size = int.from_bytes(head, "little")
        found.append(LayerIndex.from_bytes(system.pread(fd, size, at + 8)))
        at += 8 + size
    return found
