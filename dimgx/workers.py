"""Threads that take work, as many as the system lets be started, and the caller's own where none.

Control groups and `ulimit -u` bound how many there may be.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _NoThreadError(Exception):
    """Not even one could be started."""


class Workers(ThreadPoolExecutor):
    """A pool that does with fewer threads than it may have; without any, `submit` does the work."""

    _is_alone = False

    def submit(self, work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have `work` done."""
        if not self._is_alone:
            try:
                return super().submit(work, *args, **kwargs)
            except _NoThreadError:
                self._is_alone = True
        done: Future[_T] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except Exception as exc:
            done.set_exception(exc)
        return done

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError as exc:
            # What was submitted is in the queue by now, and those that run will come to it.
            if not self._threads:
                raise _NoThreadError from exc
