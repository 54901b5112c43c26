"""A process forked off this one, which walks layers first and then checks digests.

Both take long and want nothing of this process but the files that are open when it begins; there,
no other thread is in the way of the interpreter's lock.

1. It does what was given to it at the fork, then what it is asked for by number, and ends when
   nobody is left who could ask. Whatever is said, here and there, is a number of 8 bytes.
2. What goes wrong there is not told: it ends, or says that it could not, and the work is done here
   then, which tells it, as ever.
3. Who forks holds signals back until it is known who ends the process.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock
from typing import TypeAlias

from dimgx import system

Tick: TypeAlias = Callable[[int], None]
"""Called with how many bytes more are done; may raise."""
Check: TypeAlias = Callable[[Tick], None]
"""Reads something and raises where its digest does not match."""

_TOLD = 8 << 20
"""Bytes after which it is told how far a check is."""
_NUMBER = 8


class Forked:
    """A process forked off, as its parent sees it."""

    def __init__(self, walk: Callable[[], None] | None, checks: Sequence[Check]) -> None:
        """Fork. The process calls `walk`, and then those of `checks` that it is asked for.

        To be made within `held_signals`. Raises: OSError.
        """
        self._ending, self._hearing = Lock(), Lock()
        self._has_walked: bool | None = None
        self._pid: int | None = None
        # Both ends of what it is asked through stay open here: no write of ours is a SIGPIPE ever.
        self._asked, self._ask = os.pipe()
        self._told, telling = os.pipe()
        try:
            ours = self._ask, self._told
            self._pid = fork_off(partial(_work, ours, walk, checks, self._asked, telling))
        except OSError:
            self.close()
            raise
        finally:
            os.close(telling)

    def has_walked(self) -> bool:
        """Wait until the walking is over; tell whether all went well."""
        with self._hearing:
            if self._has_walked is None:
                self._has_walked = self._hear() == 1
            return self._has_walked

    def has_checked(self, number: int, tick: Tick) -> bool:
        """Have one of the checks made; tell whether all went well."""
        self.has_walked()
        _say(self._ask, number)
        counted = 0
        try:
            while count := self._hear():
                tick(count)
                counted += count
        except BaseException:
            self.end()
            raise
        if count is None:
            tick(-counted)
        return count is not None

    def end(self) -> None:
        """End the process, whatever it does."""
        with self._ending:
            pid, self._pid = self._pid, None
            if pid is not None:
                end_process(pid)

    def close(self) -> None:
        """End the process, and let go of it when no thread asks it any more."""
        self.end()
        for fd in (self._asked, self._ask, self._told):
            os.close(fd)

    def _hear(self) -> int | None:
        """Give what it says next; None where it has ended."""
        data = os.read(self._told, _NUMBER)
        return int.from_bytes(data, "little") if data else None


def end_process(pid: int) -> None:
    """End a process that was forked off, if it has not ended."""
    with suppress(OSError):
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@contextmanager
def held_signals() -> Iterator[None]:
    """Hold signals back to the end of the block, whatever their handlers do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fork_off(work: Callable[[], None]) -> int:
    """Begin a process that does `work` and nothing else, and give its number.

    To be called within `held_signals`. Raises: OSError.
    """
    pid = os.fork()
    if not pid:
        # Nothing of the caller's may run here, neither clean-up nor what its signal handlers raise.
        with suppress(BaseException):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
            work()
        os._exit(0)
    return pid


def _work(
    foreign: Sequence[int],
    walk: Callable[[], None] | None,
    checks: Sequence[Check],
    asked: int,
    telling: int,
) -> None:
    """Do all that the new process does."""
    for fd in foreign:
        os.close(fd)
    has_walked = True
    if walk is not None:
        try:
            walk()
        except Exception:
            has_walked = False
    _say(telling, int(has_walked))
    gc.collect()  # What a walk has left is not to be kept while digests are computed.
    while number := os.read(asked, _NUMBER):
        _check(checks[int.from_bytes(number, "little")], telling)


def _check(check: Check, telling: int) -> None:
    """Make one check, and say how far it is, and 0 at its end."""
    count = 0

    def tick(size: int) -> None:
        nonlocal count
        count += size
        if count >= _TOLD:
            _say(telling, count)
            count = 0

    check(tick)
    if count:
        _say(telling, count)
    _say(telling, 0)


def _say(fd: int, number: int) -> None:
    system.write_all(fd, number.to_bytes(_NUMBER, "little"))
