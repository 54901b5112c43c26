"""Digest checks of layers that lie plain, in threads beside everything else.

1. Checks are begun in the order in which they were added. One that fails keeps later ones from
   being begun, so that which error is told does not depend on which thread was faster.
2. A small image gets one thread for all of its layers. Threads of our own, since the pools of
   `concurrent.futures` take 4 ms to import, as long as it takes to check 8 MB.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SHARE = 16 << 20
"""The fewest bytes that are worth another thread."""


class Checks:
    """Functions that raise where a digest does not match, and what they came to."""

    def __init__(self) -> None:
        self._checks: list[Callable[[], None]] = []
        self._size = 0
        self._lock = threading.Lock()
        self._next = 0
        self._failed: tuple[int, BaseException] | None = None
        self._threads: list[threading.Thread] = []

    def add(self, check: Callable[[], None], size: int) -> None:
        """Add one that reads `size` bytes, before the start."""
        self._checks.append(check)
        self._size += size

    def start(self, most: int) -> None:
        """Begin, with at most so many threads."""
        for number in range(min(most, len(self._checks), 1 + self._size // SHARE)):
            thread = threading.Thread(target=self._work, name=f"dimgx-check-{number}")
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                number = self._next
                if self._failed is not None or number == len(self._checks):
                    return
                self._next += 1
            try:
                self._checks[number]()
            except BaseException as exc:
                with self._lock:
                    if self._failed is None or number < self._failed[0]:
                        self._failed = number, exc
                return

    def join(self) -> None:
        """Wait until no thread runs any more."""
        for thread in self._threads:
            with suppress(RuntimeError):  # a signal came before it was started
                thread.join()

    def wait(self) -> None:
        """Wait until all is checked.

        Raises: what the first check that failed has raised.
        """
        self.join()
        if self._failed is not None:
            raise self._failed[1]
