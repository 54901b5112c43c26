"""The line that a person sees while waiting."""

from __future__ import annotations

import os
import pty
import termios
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from dimgx.console.progress import ProgressLine, format_progress
from dimgx.recipe import Progress


@pytest.mark.parametrize(
    ("phase", "done", "total", "expected"),
    [
        ("read", 0, None, "reading 0 B"),
        ("read", 1_234_567, None, "reading 1.2 MB"),
        ("read", 5, 0, "reading 5 B"),
        ("pull", 5 * 10**15, None, "pulling 5000.0 TB"),
        ("write", 0, 1000, "writing [                        ]   0% 0.0 of 1.0 kB"),
        ("write", 1_200_000_000, 2_400_000_000, f"writing [{'#' * 12:24}]  50% 1.2 of 2.4 GB"),
        ("write", 999, 999, f"writing [{'#' * 24}] 100% 999 of 999 B"),
        ("write", 2000, 1000, f"writing [{'#' * 24}] 100% 2.0 of 1.0 kB"),
    ],
)
def test_format(phase: str, done: int, total: int | None, expected: str) -> None:
    assert format_progress(phase, done, total) == expected


def drawn(columns: int, draw: Callable[[ProgressLine], object]) -> str:
    """Give what a terminal of so many columns is sent."""
    far, near = pty.openpty()
    termios.tcsetwinsize(near, (24, columns))
    with open(near, "w", encoding="utf-8") as stream:
        draw(ProgressLine(stream))
    sent = b""
    # What is written may be on its way still; closed, it is read to the end.
    with open(far, "rb", buffering=0) as shown, suppress(OSError):
        while data := shown.read(1 << 16):
            sent += data
    return sent.decode()


def two_phases(line: ProgressLine) -> None:
    line(Progress("read", 12_345_678, None))
    line(Progress("write", 1, 999))
    line.clear()


@pytest.mark.parametrize("columns", [80, 0])
def test_a_shorter_line_covers_the_one_before(columns: int) -> None:
    first, second, third = drawn(columns, two_phases).split("\r")[1:4]
    assert first == "reading 12.3 MB"
    assert len(first) <= len(second)
    assert third.strip() == ""
    assert len(third) == len(second)


@pytest.mark.parametrize("columns", [2, 10, 20, 40])
def test_it_never_wraps(columns: int) -> None:
    lines = drawn(columns, two_phases).split("\r")
    assert max(map(len, lines)) == columns - 1
    assert lines[1] == "reading 12.3 MB"[: columns - 1]


def test_where_nothing_was_drawn_there_is_nothing_to_take_away() -> None:
    assert drawn(80, ProgressLine.clear) == ""


def test_it_is_not_drawn_too_often() -> None:
    def many(line: ProgressLine) -> None:
        for done in range(1000):
            line(Progress("read", done, None))

    assert 1 <= drawn(80, many).count("\r") < 50


def test_it_is_drawn_again_and_at_once_where_something_else_begins() -> None:
    def more(line: ProgressLine) -> None:
        line(Progress("read", 1, None))
        time.sleep(0.11)
        line(Progress("read", 2, None))
        line.pull(3, None)

    assert drawn(80, more) == "\rreading 1 B\rreading 2 B\rpulling 3 B"


def test_a_terminal_that_is_gone_does_not_end_the_work() -> None:
    far, near = pty.openpty()
    stream = open(near, "w", encoding="utf-8")
    line = ProgressLine(stream)
    line(Progress("read", 1, None))
    os.close(far)
    line(Progress("write", 1, None))
    line.clear()
    try:
        stream.close()
    except OSError:
        pass
    line(Progress("read", 1, None))
