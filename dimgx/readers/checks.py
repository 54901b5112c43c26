"""Digest checks of layers that lie plain, in threads beside everything else.

1. Checks are begun in the order in which they were added. One that fails keeps later ones from
   being begun, so that which error is told does not depend on which thread was faster.
2. A small image gets one thread for all of its layers. Threads of our own, since the pools of
   `concurrent.futures` take 4 ms to import, as long as it takes to check 8 MB.
3. A thread that has a forked process leaves the work to it. One CPU is left to the caller, who
   takes part as soon as there is nothing else to do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice, repeat

from dimgx.readers.forked import Advance, Check, Forked

SHARE = 16 << 20
"""The fewest bytes that are worth another thread."""


class Checks:
    """What is to be checked, and what that came to."""

    def __init__(self, tick: Advance) -> None:
        """`tick` is called by all threads, and ends the check that it is raised in."""
        self._tick = tick
        self.checks: list[Check] = []
        """All, in order."""
        self.size = 0
        """How many bytes they read, all together."""
        self._lock = threading.Lock()
        self._next = 0
        self._failed: tuple[int, BaseException] | None = None
        self._most = 1
        self._threads: list[threading.Thread] = []

    def add(self, check: Check, size: int) -> None:
        """Add one that reads `size` bytes, before the start."""
        self.checks.append(check)
        self.size += size

    def start(self, most: int, forked: Sequence[Forked] = ()) -> None:
        """Begin, with so many threads at most, the caller's counted where there are several.

        Each of the processes `forked`, which know these checks by their numbers, gets a thread.
        """
        self._most = most
        count = min(max(1, most - 1), len(self.checks), 1 + self.size // SHARE)
        for number, process in enumerate(islice(chain(forked, repeat(None)), count)):
            thread = threading.Thread(
                target=self._work, args=(process,), name=f"dimgx-check-{number}"
            )
            self._threads.append(thread)
            try:
                thread.start()
            except RuntimeError:  # no more may be started: `wait` does what these leave
                self._threads.remove(thread)

    def _work(self, forked: Forked | None, caught: type[BaseException] = BaseException) -> None:
        if forked is not None:
            # Until then it takes nothing on that another might begin sooner.
            with self._noting(-1, caught):
                forked.has_worked(self._tick)
        while (number := self._take()) is not None:
            with self._noting(number, caught):
                if forked is None or not forked.has_checked(number, self._tick):
                    self.checks[number](self._tick)
        if forked is not None:
            forked.end()

    @contextmanager
    def _noting(self, number: int, caught: type[BaseException]) -> Iterator[None]:
        """Keep what is raised, unless one of a lower number has failed."""
        try:
            yield
        except caught as exc:
            with self._lock:
                if self._failed is None or number < self._failed[0]:
                    self._failed = number, exc

    def _take(self) -> int | None:
        """Give the number of the check that is to be made next; None if there is none."""
        with self._lock:
            if self._failed is not None or self._next == len(self.checks):
                return None
            self._next += 1
            return self._next - 1

    def join(self) -> None:
        """Wait until no thread runs any more."""
        for thread in self._threads:
            with suppress(RuntimeError):  # a signal came before it was started
                thread.join()

    def wait(self) -> None:
        """Wait until all is checked, and take part in it.

        Raises: what the first check that failed has raised.
        """
        if len(self._threads) < self._most:
            # What a signal raises here is no check's failure.
            self._work(None, Exception)
        self.join()
        if self._failed is not None:
            raise self._failed[1]
