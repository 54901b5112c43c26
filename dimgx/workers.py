"""Threads that take work, as many as the system lets be started, and the caller's own where none.

Control groups and `ulimit -u` bound how many there may be. They are not those of
`concurrent.futures`, which take no work any more when the main thread has come to its end, while
other threads may go on.
"""

from __future__ import annotations

import signal
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class Workers:
    """Some threads that do what is submitted, in that order. A context manager."""

    def __init__(self, most: int, name: str = "dimgx") -> None:
        """At most `most` threads are started, each as there is work for it."""
        self._most, self._name = most, name
        self.threads: list[Thread] = []
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, work: Callable[[*_Args], _T], *args: *_Args) -> Future[_T]:
        """Have `work` done; here and now, where no thread can be started."""
        future: Future[_T] = Future()
        bound = partial(work, *args)
        if len(self.threads) < self._most:
            self._start()
        if self.threads:
            self._waiting.put((future, bound))
        else:
            # What a signal raises here is no failure of the work.
            _do(future, bound, Exception)
        return future

    def _start(self) -> None:
        number = len(self.threads)
        # Whoever ends the process need not wait for them.
        thread = Thread(target=self._run, name=f"{self._name}_{number}", daemon=True)
        self.threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            self.threads.remove(thread)
            self._most = number

    def _run(self) -> None:
        if hasattr(signal, "SIGXCPU"):
            # It goes to the thread that used the time, and would be heard when the main one wakes.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGXCPU})
        while (item := self._waiting.get()) is not None:
            _do(*item, BaseException)
            del item  # so that nothing is kept while the next is waited for
        self._waiting.put(None)  # for the next thread

    def cancel(self) -> None:
        """Cancel all that is not begun."""
        with suppress(Empty):
            while True:
                item = self._waiting.get_nowait()
                if item is not None:
                    item[0].cancel()

    def finish(self) -> None:
        """Let the threads end when all is done; nothing more is submitted."""
        self._waiting.put(None)

    def close(self) -> None:
        """Cancel all that is not begun, and wait until the threads have ended."""
        self.cancel()
        self.finish()
        for thread in self.threads:
            with suppress(RuntimeError):  # a signal came before it was started
                thread.join()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _do(
    future: Future[_T], work: Callable[[], _T], caught: type[Exception] | type[BaseException]
) -> None:
    """Do what a future stands for, unless it is cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except caught as exc:
        future.set_exception(exc)
    else:
        future.set_result(result)
