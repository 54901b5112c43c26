"""The line that a person sees while waiting."""

from __future__ import annotations

import io

import pytest

from dimgx.console.progress import ProgressLine, format_progress
from dimgx.extractor import Progress


@pytest.mark.parametrize(
    ("phase", "done", "total", "expected"),
    [
        ("read", 0, None, "reading 0 B"),
        ("read", 1_234_567, None, "reading 1.2 MB"),
        ("read", 5, 0, "reading 5 B"),
        ("write", 0, 1000, "writing [                        ]   0% 0.0 of 1.0 kB"),
        ("write", 1_200_000_000, 2_400_000_000, f"writing [{'#' * 12:24}]  50% 1.2 of 2.4 GB"),
        ("write", 999, 999, f"writing [{'#' * 24}] 100% 999 of 999 B"),
        ("write", 2000, 1000, f"writing [{'#' * 24}] 100% 2.0 of 1.0 kB"),
    ],
)
def test_format(phase: str, done: int, total: int | None, expected: str) -> None:
    assert format_progress(phase, done, total) == expected


def test_a_shorter_line_covers_the_one_before() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    line(Progress("read", 12_345_678, None))
    line(Progress("write", 1, 999))
    line.clear()
    first, second, third = stream.getvalue().split("\r")[1:4]
    assert len(first) <= len(second)
    assert third.strip() == ""
    assert len(third) == len(second)


def test_it_is_not_drawn_too_often() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    for done in range(1000):
        line(Progress("read", done, None))
    assert stream.getvalue().count("\r") < 50


def test_a_terminal_that_is_gone_does_not_end_the_work() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    stream.close()
    line(Progress("read", 1, None))
    line.clear()
