"""What a person sees while waiting: one line on a terminal, drawn anew, gone at the end."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from dimgx.recipe import Progress

_INTERVAL_S = 0.1
_BAR = 24
_WORDS = {"read": "reading", "write": "writing", "pull": "pulling"}


class ProgressLine:
    """Draws how far the work has come, ten times a second at most. Safe for threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._next_s = 0.0
        self._phase = ""
        self._width = 0

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s and progress.phase == self._phase:
            return
        with self._lock:
            self._next_s, self._phase = now_s + _INTERVAL_S, progress.phase
            self._draw(format_progress(progress.phase, progress.done, progress.total))

    def pull(self, done: int, total: int | None) -> None:
        """Show how far an engine's answer is."""
        from dimgx.recipe import Progress

        self(Progress("pull", done, total))

    def clear(self) -> None:
        """Take the line away."""
        with self._lock:
            if self._width:
                self._draw("")

    def _draw(self, text: str) -> None:
        try:
            # What is wider wraps, and the next line is drawn below it. 0 is an unknown width.
            most = (os.get_terminal_size(self._stream.fileno()).columns or 80) - 1
            text = text[:most]
            self._stream.write(f"\r{text.ljust(min(self._width, most))}" + ("" if text else "\r"))
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone; the work goes on
            return
        self._width = len(text)


def format_progress(phase: str, done: int, total: int | None) -> str:
    """Give one line, as in `writing [######      ]  50% 1.2 of 2.4 GB`."""
    word = _WORDS.get(phase, phase)
    if not total:
        return f"{word} {_size(done, _unit(done))}"
    share = min(done / total, 1.0)
    unit = _unit(total)
    bar = "#" * int(share * _BAR)
    return (
        f"{word} [{bar.ljust(_BAR)}] {share:4.0%} "
        f"{_size(done, unit).split()[0]} of {_size(total, unit)}"
    )


def _unit(size: int) -> int:
    return min((len(str(size)) - 1) // 3, 4)


def _size(size: int, unit: int) -> str:
    return f"{size / 1000**unit:.{min(unit, 1)}f} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"
