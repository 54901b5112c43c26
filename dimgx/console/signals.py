"""Ending by a signal, after cleaning up: what began the clean-up ends the process as well.

The first SIGINT, SIGTERM, SIGHUP, SIGXCPU or SIGALRM becomes an exception in the main thread, so
that `finally` and `with` do what they do; those that follow are ignored until that is done. Signals
that were ignored from the start (nohup, a background job) stay ignored.

While a thread is started, or a condition entered, none is raised, since that would lose a lock, nor
while a module is loaded, which would be half there, or a program started, which nobody would end; a
timer comes back to it until that is done.
And Python drops an exception that is raised while it finalises an object. So the signal is
remembered: long work asks now and then whether one has come, and the block does not end as if none
had. The main thread hears of it first, and once: what it cleans up then is not interrupted, and
other threads follow.
"""

from __future__ import annotations

import os
import signal
import sys
from _thread import get_ident  # `threading` takes a while to import
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU")
_AGAIN_S = 0.01
_IMPORTLIB = "<frozen importlib"
_SIGALRM = signal.SIGALRM if hasattr(signal, "setitimer") else None
SIGPIPE = getattr(signal, "SIGPIPE", 13)


class Signalled(BaseException):
    """A signal that ends the process."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def heed_children() -> None:
    """Have the exit codes of programs that are started, which are lost where SIGCHLD is ignored."""
    if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def raised_signals() -> Iterator[Callable[[], bool]]:
    """Let the signals that end a process raise `Signalled` within the block.

    The function given raises it again where one has come, and otherwise gives false.
    """
    come: list[int] = []
    is_ending = False
    main_thread = get_ident()

    def handle(number: int, frame: FrameType | None) -> None:
        # Not by SIG_IGN: of a signal that has come already, Python would tell on stderr then.
        if is_ending:
            return
        # The first counts. An alarm that is it is not ours: whoever started this bounds its time.
        if before.get(number) != signal.SIG_IGN:
            come.append(number)
        if _is_delicate(frame):
            _set_timer(_AGAIN_S)
            return
        check()

    def check() -> bool:
        nonlocal is_ending
        if come and (is_ending or get_ident() == main_thread):
            is_ending = True
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
    if _SIGALRM is not None:
        before[_SIGALRM] = signal.signal(_SIGALRM, handle)
    try:
        yield check
        check()
    finally:
        sys.unraisablehook = told
        _set_timer(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_timer(seconds: float) -> None:
    if _SIGALRM is not None:
        with suppress(OSError):  # a sandbox may forbid it: then a signal is heard later
            signal.setitimer(signal.ITIMER_REAL, seconds)


def _is_delicate(frame: FrameType | None) -> bool:
    """Tell whether something is being done there that must not break off halfway.

    A thread or a program is started, a condition entered or left, a module loaded. A condition that
    is left between taking its lock and saying so stays locked for good.
    """
    codes: list[object] = []
    threading = sys.modules.get("threading")
    # It has none of these while it is loaded itself.
    if threading is not None and hasattr(threading, "Thread"):
        condition = threading.Condition
        codes = [
            threading.Thread.start.__code__,
            condition.__enter__.__code__,
            condition.__exit__.__code__,
        ]
    subprocess = sys.modules.get("subprocess")
    if subprocess is not None and hasattr(subprocess, "Popen"):
        codes.append(subprocess.Popen.__init__.__code__)
    while frame is not None:
        if frame.f_code in codes or frame.f_code.co_filename.startswith(_IMPORTLIB):
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
