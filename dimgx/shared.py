"""What is open for several users, and is let go of with the last of them."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dimgx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Shared:
    """Counts who uses something that is open; safe for threads.

    Once it is closed there are no new users, and it is let go of when the last one has left. One
    that is dropped is closed by that.
    """

    def __init__(self, let_go: Callable[[], object]) -> None:
        self._let_go = let_go
        # Who is dropped leaves too, maybe while the same thread is in here.
        self._lock = threading.RLock()
        self._is_closed = False
        self._users = 1  # its owner, until it is closed

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Use it within the `with`, whoever closes it meanwhile. `name` is for the error.

        Raises: UsageError where it is closed.
        """
        with self._lock:
            if self._is_closed:
                raise UsageError(f"{name} is closed: open it again")
            self._users += 1
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Let go of it, now or after its users."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._leave()

    def __del__(self) -> None:
        # At its end the process lets go of everything, and threads that hold a lock stand still.
        if not sys.is_finalizing():
            self.close()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            is_last = not self._users
        if is_last:
            self._let_go()
