"""What is pushed into a reader that runs in a thread of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from dimgx import Cancelled, SourceError
from dimgx.stream import Pushed, open_pulled
from tests.dsl import file, layer
from tests.writers import docker_archive, image


def test_reader_gets_all_in_order() -> None:
    pushed = Pushed(b"".join)
    pieces = [bytes([i]) * (i * 30_000) for i in range(1, 60)]
    for piece in pieces:
        assert pushed.write(piece) == len(piece)
    assert pushed.finish() == b"".join(pieces)


def test_large_piece_comes_in_pieces() -> None:
    pushed = Pushed(lambda chunks: [len(chunk) for chunk in chunks])
    pushed.write(bytes((5 << 20) + 1))
    assert pushed.finish() == [1 << 20] * 5 + [1]


def test_writer_waits_for_the_reader() -> None:
    go, seen = threading.Event(), []

    def slowly(chunks: Iterable[bytes]) -> int:
        go.wait()
        return sum(map(len, chunks))

    pushed = Pushed(slowly)

    def write() -> None:
        for _ in range(8):
            pushed.write(b"x")
            seen.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    while len(seen) < 4:
        pass
    assert writer.is_alive()
    go.set()
    writer.join()
    assert pushed.finish() == 8


def test_error_of_the_reader_ends_the_writer() -> None:
    def refuse(chunks: Iterable[bytes]) -> None:
        next(iter(chunks))
        raise ValueError("no more")

    pushed = Pushed(refuse)
    with pytest.raises(ValueError, match="no more"):
        for _ in range(10_000):
            pushed.write(b"x")
    pushed.close()


def test_error_at_the_end_is_raised_by_finish() -> None:
    def refuse(chunks: Iterable[bytes]) -> None:
        list(chunks)
        raise ValueError("not so")

    pushed = Pushed(refuse)
    pushed.write(b"x")
    with pytest.raises(ValueError, match="not so"):
        pushed.finish()


def test_reader_that_has_enough() -> None:
    pushed = Pushed(lambda chunks: next(iter(chunks)))
    for _ in range(100):
        pushed.write(b"x")
    assert pushed.finish() == b"x"


def test_breaking_off_reaches_the_reader() -> None:
    met: list[BaseException] = []

    def read(chunks: Iterable[bytes]) -> None:
        try:
            list(chunks)
        except Cancelled as exc:
            met.append(exc)
            raise

    with Pushed(read) as pushed:
        pushed.write(b"x" * 100)
    assert len(met) == 1
    assert "dimgx-push" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.usefixtures("no_threads")
def test_no_thread_for_the_reader_is_told() -> None:
    with pytest.raises(SourceError, match=r"no more threads may be started: .*pids\.max"):
        Pushed(b"".join)


@pytest.mark.parametrize("is_good", [True, False])
def test_what_is_pulled_is_closed_before_its_end_is_seen(is_good: bool) -> None:
    closed: list[bool] = []

    def produce(write: Callable[[bytes], object]) -> None:
        write(b"x")
        if not is_good:
            raise StopIteration("no more")

    with open_pulled(produce, lambda: closed.append(True)) as file:
        assert file.read(1) == b"x"
        if is_good:
            assert file.read() == b""
        else:
            with pytest.raises(StopIteration, match="no more"):
                file.read()
        assert closed == [True]


@pytest.mark.usefixtures("no_threads")
def test_no_thread_for_the_writer_is_told_and_all_is_closed() -> None:
    closed: list[bool] = []
    with pytest.raises(SourceError, match="no more threads may be started"):
        open_pulled(lambda write: write(b"x"), lambda: closed.append(True))
    assert closed == [True]


def test_stream_that_is_left_open_does_not_keep_the_process(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(docker_archive(image(layer(file("f", bytes(8 << 20))))))
    code = """
import dimgx
stream = dimgx.open_stream(dimgx.open_image("image.tar"))
print(stream.read(1))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=tmp_path, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"b'f'\n", b"", 0)
