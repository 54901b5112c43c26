"""A process forked off this one, which walks layers, or writes, and then checks digests.

All of it takes long and wants nothing of this process but the files that are open when it begins;
there, no other thread is in the way of the interpreter's lock.

1. It does what was given to it at the fork, then what it is asked for by number, and ends when
   nobody is left who could ask. Whatever is said, here and there, is a number of 8 bytes: of what
   it does, bytes done, again and again, and at the end 0, or the highest number where it failed.
2. What goes wrong there is not told: it ends, or says that it could not, and the work is done here
   then, which tells it, as ever.
3. Who forks holds signals back until it is known who ends the process.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from threading import Lock
from typing import TypeAlias

from dimgx import system

Advance: TypeAlias = Callable[[int], None]
"""Called with how many bytes more are done; may raise."""
Work: TypeAlias = Callable[[Advance], None]
"""Does something, and tells how far it is."""
Check: TypeAlias = Callable[[Advance], None]
"""Reads something and raises where its digest does not match."""

_TOLD = 8 << 20
"""Bytes after which it is told how far the work, or a check, is."""
_NUMBER = 8
_FAILED = (1 << 8 * _NUMBER) - 1


class Forked:
    """A process forked off, as its parent sees it."""

    def __init__(self, work: Work | None, checks: Sequence[Check]) -> None:
        """Fork. The process calls `work`, and then those of `checks` that it is asked for.

        To be made within `held_signals`. Raises: OSError.
        """
        self._ending, self._hearing = Lock(), Lock()
        self._has_worked: bool | None = None
        self._counted = 0
        self._pid: int | None = None
        # Both ends of what it is asked through stay open here: no write of ours is a SIGPIPE ever.
        with ExitStack() as stack, ExitStack() as theirs:
            asked, self._ask = os.pipe()
            stack.callback(os.close, asked)
            stack.callback(os.close, self._ask)
            self._told, telling = os.pipe()
            stack.callback(os.close, self._told)
            theirs.callback(os.close, telling)
            ours = self._ask, self._told
            self._pid = fork_off(partial(_work, ours, work, checks, asked, telling))
            self._pipes = stack.pop_all()

    def has_worked(self, tick: Advance | None = None) -> bool:
        """Wait until `work` is over; tell whether all went well.

        `tick` is called meanwhile, unless another thread waits for it already.
        Raises: what `tick` raises, after which the process has ended.
        """
        with self._hearing:
            while self._has_worked is None:
                self._has_worked = self._hear(tick or (lambda _: None))
            return self._has_worked

    def pass_on(self, tick: Advance) -> None:
        """Call `tick` for what `work` has said, without waiting for more, or for another thread.

        Raises: what `tick` raises, after which the process has ended.
        """
        if not self._hearing.acquire(blocking=False):
            return
        try:
            while self._has_worked is None and system.is_readable(self._told):
                self._has_worked = self._hear(tick)
        finally:
            self._hearing.release()

    def has_checked(self, number: int, tick: Advance) -> bool:
        """Have one of the checks made; tell whether all went well.

        Raises: what `tick` raises, after which the process has ended.
        """
        self.has_worked()
        _say(self._ask, number)
        while (has_checked := self._hear(tick)) is None:
            pass
        return has_checked

    def end(self) -> None:
        """End the process, whatever it does."""
        with self._ending:
            pid, self._pid = self._pid, None
            if pid is not None:
                end_process(pid)

    def close(self) -> None:
        """End the process, and let go of it when no thread asks it any more."""
        self.end()
        self._pipes.close()

    def _hear(self, tick: Advance) -> bool | None:
        """Hear how far it is, and pass it on; at the end tell whether all went well.

        If not, what was passed on is taken back.
        """
        data = os.read(self._told, _NUMBER)
        count = int.from_bytes(data, "little") if data else _FAILED
        if count not in (0, _FAILED):
            self._counted += count
            try:
                tick(count)
            except BaseException:
                self.end()
                raise
            return None
        counted, self._counted = self._counted, 0
        if count:
            tick(-counted)
        return not count


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
    work: Work | None,
    checks: Sequence[Check],
    asked: int,
    telling: int,
) -> None:
    """Do all that the new process does."""
    for fd in foreign:
        os.close(fd)
    try:
        _tell(work or (lambda _: None), telling)
    except Exception:
        _say(telling, _FAILED)
    gc.collect()  # What the work has left is not to be kept while digests are computed.
    while number := os.read(asked, _NUMBER):
        _tell(checks[int.from_bytes(number, "little")], telling)


def _tell(work: Work, telling: int) -> None:
    """Do something, and say how far it is, and 0 at its end."""
    count = 0

    def tick(size: int) -> None:
        nonlocal count
        count += size
        if count >= _TOLD:
            _say(telling, count)
            count = 0

    work(tick)
    if count:
        _say(telling, count)
    _say(telling, 0)


def _say(fd: int, number: int) -> None:
    system.write_all(fd, number.to_bytes(_NUMBER, "little"))
