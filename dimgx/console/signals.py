"""Ending by a signal, after cleaning up: what began the clean-up ends the process as well.

The first SIGINT, SIGTERM or SIGHUP becomes an exception in the main thread, so that `finally` and
`with` do what they do; those that follow are ignored until that is done. Signals that were ignored
from the start (nohup, a background job) stay ignored.

Python drops an exception that is raised while it finalises an object; and while a thread is started
none is raised, since that would lose a lock. So the signal is remembered: long work asks now and
then whether one has come, and the block does not end as if none had.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGPIPE = getattr(signal, "SIGPIPE", 13)


class Signalled(BaseException):
    """A signal that ends the process."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def raised_signals() -> Iterator[Callable[[], bool]]:
    """Let the signals that end a process raise `Signalled` within the block.

    The function given raises it again where one has come, and otherwise gives false.
    """
    caught: list[signal.Signals] = []
    come: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        come.append(number)
        if _is_starting_thread(frame):
            return
        for other in caught:
            signal.signal(other, signal.SIG_IGN)
        raise Signalled(number)

    def check() -> bool:
        if come:
            raise Signalled(come[0])
        return False

    def drop(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type is not Signalled:
            told(lost)

    told, sys.unraisablehook = sys.unraisablehook, drop
    before = {}
    for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handle)
            caught.append(number)
    try:
        yield check
        check()
    finally:
        sys.unraisablehook = told
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_starting_thread(frame: FrameType | None) -> bool:
    threading = sys.modules.get("threading")
    while threading is not None and frame is not None:
        if frame.f_code is threading.Thread.start.__code__:
            return True
        frame = frame.f_back
    return False


def die_by(number: int) -> NoReturn:
    """End this process by the signal `number`, so that the shell sees it."""
    if os.name == "posix":
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    os._exit(128 + number)
