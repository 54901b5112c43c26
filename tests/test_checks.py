"""Checks in threads: which error is told, and that none runs on."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from dimgx.errors import ImageError
from dimgx.readers.checks import SHARE, Checks
from dimgx.readers.forked import Advance
from tests.leftovers import running_threads


def count(size: int) -> None:
    """Be told how far a check is."""


def refuse(text: str, first: threading.Event | None, tick: Advance) -> None:
    assert first is None or first.wait(10)
    raise ImageError(text)


def test_first_error_is_told_whoever_was_faster() -> None:
    second_is_done = threading.Event()

    def second(tick: Advance) -> None:
        second_is_done.set()
        raise ImageError("second")

    checks = Checks(count)
    checks.add(partial(refuse, "first", second_is_done), SHARE)
    checks.add(second, SHARE)
    checks.start(2)
    with pytest.raises(ImageError, match="first"):
        checks.wait()


def test_after_an_error_nothing_is_begun() -> None:
    done: list[int] = []

    def note(number: int, tick: Advance) -> None:
        done.append(number)

    checks = Checks(count)
    checks.add(partial(note, 0), 1)
    checks.add(partial(refuse, "bad", None), 1)
    checks.add(partial(note, 2), 1)
    checks.start(4)
    with pytest.raises(ImageError, match="bad"):
        checks.wait()
    assert done == [0]


@pytest.mark.parametrize(
    ("size", "most", "expected"), [(1, 4, 1), (SHARE, 8, 3), (SHARE, 3, 2), (SHARE, 1, 1)]
)
def test_small_layers_share_a_thread(size: int, most: int, expected: int) -> None:
    all_are_started = threading.Event()

    def check(tick: Advance) -> None:
        assert all_are_started.wait(10)

    before = running_threads()
    checks = Checks(count)
    for _ in range(3):
        checks.add(check, size)
    checks.start(most)
    assert len(running_threads() - before) == expected
    all_are_started.set()
    checks.wait()


def test_who_waits_takes_part() -> None:
    both = threading.Barrier(2)
    seen: list[int] = []

    def check(tick: Advance) -> None:
        both.wait(10)
        seen.append(threading.get_ident())
        tick(5)

    counted: list[int] = []
    checks = Checks(counted.append)
    for _ in range(2):
        checks.add(check, SHARE)
    checks.start(2)
    checks.wait()
    assert threading.get_ident() in seen
    assert len(set(seen)) == 2
    assert counted == [5, 5]


def test_what_interrupts_who_waits_is_no_failure() -> None:
    other_may_fail, caller = threading.Event(), threading.get_ident()

    def check(tick: Advance) -> None:
        if threading.get_ident() == caller:
            raise KeyboardInterrupt
        assert other_may_fail.wait(10)
        raise ImageError("bad")

    checks = Checks(count)
    for _ in range(2):
        checks.add(check, SHARE)
    checks.start(2)
    with pytest.raises(KeyboardInterrupt):
        checks.wait()
    other_may_fail.set()
    checks.join()


def test_nothing_to_check_starts_nothing() -> None:
    before = running_threads()
    checks = Checks(count)
    checks.start(4)
    assert not running_threads() - before
    checks.wait()


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.usefixtures("no_threads")
def test_without_threads_who_waits_does_it_all(most: int) -> None:
    done: list[int] = []
    checks = Checks(done.append)
    for number in range(4):
        checks.add(lambda tick, number=number: tick(number), SHARE)  # type: ignore[misc]
    checks.start(most)
    assert not done
    checks.wait()
    assert done == [0, 1, 2, 3]
