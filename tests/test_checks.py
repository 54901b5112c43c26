"""Checks in threads: which error is told, and that none runs on."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from dimgx.checks import SHARE, Checks
from dimgx.errors import ImageError


def refuse(text: str, *first: threading.Event) -> None:
    for event in first:
        assert event.wait(10)
    raise ImageError(text)


def test_first_error_is_told_whoever_was_faster() -> None:
    second_is_done = threading.Event()

    def second() -> None:
        second_is_done.set()
        raise ImageError("second")

    checks = Checks()
    checks.add(partial(refuse, "first", second_is_done), SHARE)
    checks.add(second, SHARE)
    checks.start(2)
    with pytest.raises(ImageError, match="first"):
        checks.wait()


def test_after_an_error_nothing_is_begun() -> None:
    done: list[int] = []
    checks = Checks()
    checks.add(partial(done.append, 0), 1)
    checks.add(partial(refuse, "bad"), 1)
    checks.add(partial(done.append, 2), 1)
    checks.start(4)
    with pytest.raises(ImageError, match="bad"):
        checks.wait()
    assert done == [0]


@pytest.mark.parametrize(("size", "most", "expected"), [(1, 4, 1), (SHARE, 4, 3), (SHARE, 2, 2)])
def test_small_layers_share_a_thread(size: int, most: int, expected: int) -> None:
    seen: set[int] = set()
    all_begun = threading.Barrier(expected)

    def check() -> None:
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            all_begun.wait(10)

    checks = Checks()
    for _ in range(3):
        checks.add(check, size)
    checks.start(most)
    checks.wait()
    assert len(seen) == expected


def test_nothing_to_check_starts_nothing() -> None:
    before = threading.active_count()
    checks = Checks()
    checks.start(4)
    assert threading.active_count() == before
    checks.wait()
