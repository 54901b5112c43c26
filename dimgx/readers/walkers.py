"""Reading and walking several layers at once, in as many processes as there are CPUs to use.

The walk is bound by the interpreter, and so is putting together a tar of many small files; there
threads do not help. A process forked off takes a share of the layers and leaves their indexes in a
memory file. Taking them over costs 0.08 us a member, where the walk costs 1 to 2.

1. Only on Linux, only from a process that has one thread yet, and only where a share is so large
   that the fork (some 3 ms) does not matter.
2. A process that has no more to walk checks digests, if there is enough to check. A thread would do
   that as well, but for the interpreter's lock: beside planning it gets that once in 5 ms.
3. Walking comes first on every CPU, as all else waits for it and nothing waits for a digest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeAlias

from dimgx import system
from dimgx.errors import ImageError
from dimgx.layers.layerindex import LayerIndex
from dimgx.readers.checks import Checks
from dimgx.readers.forked import Advance, Forked, held_signals
from dimgx.readers.shares import divide

SHARE = 24 << 20
"""The fewest bytes of layers that are worth a process."""
_MOST = 4


class Job(NamedTuple):
    """A layer to be walked, in this process or another."""

    size: int
    """About how many bytes are read for it."""
    walk: Callable[[Advance], LayerIndex]
    """Gives its index; is given what is called with bytes read."""


Indexes: TypeAlias = dict[Job, LayerIndex]


def is_worth_processes(size: int) -> bool:
    """Tell whether so many bytes of layers are worth more processes than one."""
    return size >= 2 * SHARE


class Walkers:
    """The processes that walk layers, this one among them."""

    def __init__(self) -> None:
        self._forked: list[Forked] = []
        self._checking = 0
        self._own: list[Job] = []
        self._others: list[tuple[Forked, int, list[Job]]] = []

    @property
    def checking(self) -> Sequence[Forked]:
        """Those that make checks as soon as they have walked."""
        return self._forked[: self._checking]

    def begin(self, jobs: Sequence[Job], processes: int, checks: Checks) -> None:
        """Fork, where that pays, to do `jobs` and then to make `checks`."""
        own, *shares = _divide(jobs, min(processes, _MOST))
        checking = min(processes - 1, len(checks.checks), checks.size // SHARE)
        if not (shares or checking) or not system.can_fork():
            return
        self._own = own
        # An error here, as one of too many processes, leaves more to the others and to this one.
        with suppress(OSError), held_signals():
            for share in shares:
                fd = system.open_memory_file()
                if fd is None:
                    break
                try:
                    forked = Forked(partial(_walk, share, fd), checks.checks)
                except OSError:
                    os.close(fd)
                    raise
                self._forked.append(forked)
                self._others.append((forked, fd, share))
            while len(self._forked) < checking:
                self._forked.append(Forked(None, checks.checks))
        self._checking = min(checking, len(self._forked))

    def collect(self, tick: Advance) -> Indexes:
        """Do the rest, and give what all have found; `tick` is called meanwhile.

        It lacks layers that could not be read or walked; all of them, where other processes do not
        pay.

        Raises: what `tick` raises.
        """
        found: Indexes = {}

        def tick_all(size: int) -> None:
            tick(size)
            for forked, *_ in self._others:
                forked.pass_on(tick)

        for job in self._own:
            with suppress(ImageError):
                found[job] = job.walk(tick_all)
        for forked, fd, share in self._others:
            if forked.has_worked(tick):
                indexes = zip(share, _read(fd), strict=True)
                found.update((job, index) for job, index in indexes if index is not None)
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


def _divide(jobs: Sequence[Job], most: int) -> list[list[Job]]:
    """Divide `jobs` into shares, none of them too small."""
    total = sum(job.size for job in jobs)
    count = max(1, min(most, len(jobs), total // SHARE))
    shares = divide(jobs, count, _size_of)
    if min(sum(map(_size_of, share)) for share in shares) < SHARE:
        return [list(jobs)]
    return shares


def _size_of(job: Job) -> int:
    return job.size


def _walk(share: list[Job], fd: int, tick: Advance) -> None:
    """Do the jobs of `share` and leave their indexes in `fd`; nothing of what cannot be done."""
    for job in share:
        data = b""
        with suppress(ImageError):
            data = job.walk(tick).to_bytes()
        system.write_all(fd, len(data).to_bytes(8, "little") + data)


def _read(fd: int) -> list[LayerIndex | None]:
    found: list[LayerIndex | None] = []
    at = 0
    while head := system.pread(fd, 8, at):
        size = int.from_bytes(head, "little")
        found.append(LayerIndex.from_bytes(system.pread(fd, size, at + 8)) if size else None)
        at += 8 + size
    return found
