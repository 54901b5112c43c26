"""Spools: in memory within the budget, on disk beyond it."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from dimgx import system
from dimgx.errors import SourceError
from dimgx.spool import SpoolSpace
from tests.leftovers import open_files

FULL = system.FEATURES
MIB = 1 << 20
PIECE = bytes(range(256)) * 256  # 64 KiB


@pytest.fixture(params=[FULL, frozenset()], ids=["all", "none"], autouse=True)
def features(request, monkeypatch):
    monkeypatch.setattr(system, "FEATURES", request.param)
    return request.param


@pytest.fixture
def has_memory(features):
    return "memfd" in features


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path)


def read(extent):
    return b"".join(bytes(piece) for piece in extent.iter_chunks())


def fill(spool, pieces):
    for _ in range(pieces):
        spool.write(PIECE)


@pytest.mark.parametrize("memory", [0, 1, 100_000, 2 * MIB, 10 * MIB, None])
@pytest.mark.parametrize("pieces", [0, 1, 2, 40])
def test_gives_back_what_was_written(directory, memory, pieces):
    with SpoolSpace(memory, [directory]) as space:
        spool = space.open()
        fill(spool, pieces)
        extent = spool.finish()
        assert (extent.offset, extent.size) == (0, pieces * len(PIECE))
        assert read(extent) == PIECE * pieces


def test_stays_in_memory_within_the_budget(directory, has_memory):
    with SpoolSpace(MIB, [directory]) as space:
        spool = space.open()
        fill(spool, 16)
        assert spool.is_in_memory == has_memory


def test_moves_to_disk_beyond_the_budget(directory):
    with SpoolSpace(MIB, [directory]) as space:
        spool = space.open()
        fill(spool, 17)
        assert not spool.is_in_memory
        assert read(spool.finish()) == PIECE * 17


def test_what_moved_to_disk_leaves_its_memory_to_others(directory, has_memory):
    with SpoolSpace(MIB, [directory]) as space:
        first, second = space.open(), space.open()
        fill(first, 20)
        fill(second, 16)
        assert second.is_in_memory == has_memory


def test_closing_frees_the_budget(directory, has_memory):
    with SpoolSpace(MIB, [directory]) as space:
        for _ in range(5):
            spool = space.open()
            fill(spool, 16)
            assert spool.is_in_memory == has_memory
            spool.close()


def test_closing_twice_frees_it_once(directory):
    with SpoolSpace(MIB, [directory]) as space:
        spool = space.open()
        fill(spool, 16)
        spool.close()
        spool.close()
        assert space.try_reserve(MIB)
        assert not space.try_reserve(1)


def test_decoders_windows_are_counted(directory, has_memory):
    with SpoolSpace(MIB, [directory]) as space:
        space.reserve(MIB - len(PIECE))
        spool = space.open()
        spool.write(PIECE)
        assert spool.is_in_memory == has_memory
        spool.write(PIECE)
        assert not spool.is_in_memory
        space.release(MIB - len(PIECE))
        other = space.open()
        fill(other, 16)
        assert other.is_in_memory == has_memory


def test_what_will_not_fit_begins_on_disk(directory, has_memory):
    with SpoolSpace(MIB, [directory]) as space:
        assert space.open(expected=MIB).is_in_memory == has_memory
        assert not space.open(expected=MIB + 1).is_in_memory


def test_free_memory_is_looked_at_again_for_each_spool(directory, has_memory, monkeypatch):
    free = 400 * MIB
    monkeypatch.setattr(system, "free_memory", lambda: free)
    with SpoolSpace(None, [directory]) as space:
        first = space.open()
        fill(first, 16)
        assert first.is_in_memory == has_memory
        # Ours is a quarter of what would be free without us, of which 1 MiB is used.
        free = 11 * MIB
        assert space.left() == (2 * MIB if has_memory else 11 * MIB // 4)
        free = 2 * MIB
        assert space.left() == (0 if has_memory else MIB // 2)
        second = space.open()
        second.write(PIECE)
        assert not second.is_in_memory
        assert first.is_in_memory == has_memory


def test_leaves_no_file_and_no_descriptor(directory):
    before = open_files()
    with SpoolSpace(MIB, [directory]) as space:
        for pieces in (0, 3, 40):
            fill(space.open(), pieces)
        assert os.listdir(directory) == []
    assert os.listdir(directory) == []
    assert not open_files() - before


def test_several_threads_share_one_budget(directory):
    with SpoolSpace(2 * MIB, [directory]) as space:
        spools = [space.open() for _ in range(8)]
        threads = [
            threading.Thread(target=fill, args=(spool, n + 4)) for n, spool in enumerate(spools)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        in_memory = sum(spool.size for spool in spools if spool.is_in_memory)
        assert in_memory <= 2 * MIB
        for n, spool in enumerate(spools):
            assert read(spool.finish()) == PIECE * (n + 4)


def test_takes_the_first_directory_that_can_be_written(tmp_path):
    missing, file, good = tmp_path / "missing", tmp_path / "file", tmp_path / "good"
    file.write_bytes(b"")
    good.mkdir()
    with SpoolSpace(0, [str(missing), str(file), str(good)]) as space:
        _, directory, _ = space.open_file(0)
        assert directory == str(good)


def test_says_what_was_tried_where_no_directory_can_be_written(tmp_path):
    missing = str(tmp_path / "missing")
    with SpoolSpace(0, [missing]) as space, pytest.raises(SourceError) as caught:
        space.open().write(b"x")
    assert missing in str(caught.value)
    assert "--tmpdir" in str(caught.value)


@pytest.mark.parametrize(
    ("full", "in_memory", "taken"),
    [("", "", "c"), ("c", "", "b"), ("", "c", "c"), ("ca", "b", "b"), ("abc", "c", "c")],
    ids=["first", "room", "named-in-memory", "room-in-memory", "first-where-none-has-room"],
)
def test_the_first_directory_with_room_is_taken(tmp_path, monkeypatch, full, in_memory, taken):
    class Usage:
        def __init__(self, name: str) -> None:
            self.free = 1000 + (64 << 20) - (os.path.basename(name) in full)

    monkeypatch.setattr("shutil.disk_usage", Usage)
    monkeypatch.setattr(system, "is_in_memory", lambda name: os.path.basename(name) in in_memory)
    for name in "abc":
        (tmp_path / name).mkdir()
    with SpoolSpace(0, [str(tmp_path / name) for name in "cba"]) as space:
        fd, directory, is_memory = space.open_file(1000)
        os.close(fd)
    assert (os.path.basename(directory), is_memory) == (taken, taken in in_memory)


def test_a_directory_in_memory_is_counted_as_memory(directory, monkeypatch):
    monkeypatch.setattr(system, "is_in_memory", lambda _: True)
    with SpoolSpace(MIB, [directory]) as space:
        spool = space.open()
        fill(spool, 20)
        assert spool.is_in_memory
        assert space.used == spool.size == 20 * len(PIECE)
        other = space.open()
        other.write(PIECE)
        # Nothing can be refused there, and it is given back all the same.
        spool.close()
        other.close()
        assert space.try_reserve(MIB)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota"), (errno.EFBIG, "large")],
)
def test_a_full_disk_is_told_with_the_directory(directory, monkeypatch, number, words):
    with SpoolSpace(0, [directory]) as space:
        spool = space.open()
        spool.write(PIECE)

        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(system, "write_at", fail)
        with pytest.raises(SourceError) as caught:
            spool.write(PIECE)
        assert directory in str(caught.value)
        assert words in str(caught.value)
        assert "--tmpdir" in str(caught.value)


def test_memory_that_is_out_before_the_budget_is_goes_to_disk(directory, monkeypatch, has_memory):
    if not has_memory:
        pytest.skip("has no files in memory")
    with SpoolSpace(None, [directory]) as space:
        spool = space.open()
        spool.write(PIECE)
        write_at, failures = system.write_at, [OSError(errno.ENOMEM, "out of memory")]

        def fail_once(*args: object) -> None:
            if failures:
                raise failures.pop()
            write_at(*args)

        monkeypatch.setattr(system, "write_at", fail_once)
        fill(spool, 3)
        assert not spool.is_in_memory
        assert read(spool.finish()) == PIECE * 4


def test_a_closed_spool_takes_nothing(directory):
    with SpoolSpace(MIB, [directory]) as space:
        spool = space.open()
        spool.close()
        with pytest.raises(ValueError, match="closed"):
            spool.write(b"x")
        with pytest.raises(ValueError, match="closed"):
            spool.finish()


def test_what_another_process_wrote_is_adopted(directory, has_memory):
    for memory, expected in ((MIB, 0), (0, 1)):
        with SpoolSpace(memory, [directory]) as space:
            spool = space.open(expected)
            os.pwrite(spool.finish().fd, PIECE, 0)
            spool.adopt()
            assert read(spool.finish()) == PIECE
            assert space.used == (len(PIECE) if has_memory and memory else 0)
            spool.close()
            assert space.used == 0
