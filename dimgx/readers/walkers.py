"""Reading and walking several layers at once, in as many processes as there are CPUs to use.

The walk is bound by the interpreter, and so is putting together a tar of many small files; there
threads do not help. Processes forked off leave indexes in memory files. Taking them over costs
0.08 us a member, where the walk costs 1 to 2.

1. Only on Linux, only from a process that has one thread yet, and only where a share is so large
   that the fork (some 3 ms) does not matter.
2. Each takes the largest layer that none has taken, until there is none: how long one takes depends
   on its members, and its size tells little of that.
3. A process that has no more to walk checks digests, if there is enough to check. A thread would do
   that as well, but for the interpreter's lock: beside planning it gets that once in 5 ms.
4. Walking comes first on every CPU, as all else waits for it and nothing waits for a digest.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeAlias

from dimgx import system
from dimgx.errors import ImageError
from dimgx.layers.layerindex import LayerIndex
from dimgx.readers.checks import Checks
from dimgx.readers.forked import Advance, Forked, held_signals

SHARE = 24 << 20
"""The fewest bytes of layers that are worth a process."""
_MOST = 4
_NUMBER = 2
"""Bytes of a layer's number."""
_MOST_JOBS = 4096 // _NUMBER
"""The most layers whose numbers any pipe has room for."""
_HEAD = "<HQ"


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
        self._jobs: list[Job] = []
        self._queue: int | None = None
        self._files: list[int] = []

    @property
    def checking(self) -> Sequence[Forked]:
        """Those that make checks as soon as they have walked."""
        return self._forked[: self._checking]

    def begin(self, jobs: Sequence[Job], processes: int, checks: Checks) -> None:
        """Fork, where that pays, to do `jobs` and then to make `checks`."""
        others = _count_others(jobs, min(processes, _MOST))
        checking = min(processes - 1, len(checks.checks), checks.size // SHARE)
        if not (others or checking) or not system.can_fork():
            return
        # An error here, as one of too many processes, leaves more to this one and the others.
        with suppress(OSError), held_signals():
            if others:
                self._jobs = sorted(jobs, key=_size_of, reverse=True)
                self._queue = queue = _make_queue(len(jobs))
            while len(self._forked) < others:
                fd = system.open_memory_file()
                if fd is None:
                    break
                self._files.append(fd)
                work = partial(_walk, self._jobs, queue, fd)
                self._forked.append(Forked(work, checks.checks))
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
        walking = self._forked[: len(self._files)]

        def tick_all(size: int) -> None:
            tick(size)
            for forked in walking:
                forked.pass_on(tick)

        while self._queue is not None and (number := _take(self._queue)) is not None:
            job = self._jobs[number]
            with suppress(ImageError):
                found[job] = job.walk(tick_all)
        for forked, fd in zip(walking, self._files, strict=False):
            if forked.has_worked(tick):
                found.update((self._jobs[number], index) for number, index in _iter_read(fd))
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
        if self._queue is not None:
            self._files.append(self._queue)
            self._queue = None
        while self._files:
            os.close(self._files.pop())


def _count_others(jobs: Sequence[Job], most: int) -> int:
    """Tell how many processes besides this one are worth it, of `most` that there may be in all."""
    if len(jobs) > _MOST_JOBS:
        return 0
    sizes = sorted(map(_size_of, jobs))
    return max(0, min(most - 1, len(jobs) - 1, sum(sizes[:-1]) // SHARE))


def _size_of(job: Job) -> int:
    return job.size


def _make_queue(count: int) -> int:
    """Give a pipe out of which processes take the numbers up to `count`, each of them once.

    Raises: OSError.
    """
    queue, end = os.pipe()
    try:
        system.write_all(end, b"".join(n.to_bytes(_NUMBER, "little") for n in range(count)))
    finally:
        os.close(end)
    return queue


def _take(queue: int) -> int | None:
    """Take the next number; None if there is none."""
    data = os.read(queue, _NUMBER)
    return int.from_bytes(data, "little") if data else None


def _walk(jobs: Sequence[Job], queue: int, fd: int, tick: Advance) -> None:
    """Do what is to be taken of `jobs` and leave the indexes in `fd`, as far as there are."""
    while (number := _take(queue)) is not None:
        with suppress(ImageError):
            data = jobs[number].walk(tick).to_bytes()
            head = struct.pack(_HEAD, number, len(data))
            system.write_all(fd, head + data)


def _iter_read(fd: int) -> Iterator[tuple[int, LayerIndex]]:
    """Yield the numbers and indexes that a process has left."""
    at = 0
    while head := system.pread(fd, struct.calcsize(_HEAD), at):
        number, size = struct.unpack(_HEAD, head)
        at += len(head)
        yield number, LayerIndex.from_bytes(system.pread(fd, size, at))
        at += size
