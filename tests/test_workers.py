"""A pool where threads cannot be started."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dimgx import flatten, open_image
from dimgx.api import inspect
from dimgx.workers import Workers
from tests.dsl import file, layer
from tests.opened import stored
from tests.writers import docker_archive, image


@pytest.mark.usefixtures("no_threads")
def test_without_threads_the_caller_does_the_work() -> None:
    with Workers(4) as pool:
        numbers = [pool.submit(threading.get_ident).result() for _ in range(3)]
        problem = pool.submit(int, "x").exception()
    assert numbers == [threading.get_ident()] * 3
    assert isinstance(problem, ValueError)


@pytest.mark.usefixtures("no_threads")
def test_the_only_thread_does_all() -> None:
    begun, go = threading.Event(), threading.Event()

    def first() -> int:
        begun.set()
        assert go.wait(10)
        return threading.get_ident()

    with Workers(4) as pool:
        threading.stack_size(0)
        futures = [pool.submit(first)]
        assert begun.wait(10)
        threading.stack_size(1 << 47)
        futures += [pool.submit(threading.get_ident) for _ in range(3)]
        go.set()
        assert len({future.result() for future in futures} - {threading.get_ident()}) == 1


@pytest.mark.parametrize("works", [1, 2, 5])
def test_there_are_no_more_threads_than_work_or_than_there_may_be(works: int) -> None:
    go = threading.Event()
    with Workers(2) as pool:
        futures = [pool.submit(go.wait, 10) for _ in range(works)]
        assert len(pool.threads) == min(works, 2)
        go.set()
        assert all(future.result() for future in futures)


def test_what_is_not_begun_is_cancelled() -> None:
    begun, go = threading.Event(), threading.Event()

    def first() -> bool:
        begun.set()
        return go.wait(10)

    with Workers(1) as pool:
        futures = [pool.submit(first), pool.submit(bool, 1)]
        assert begun.wait(10)
        pool.cancel()
        go.set()
        assert futures[0].result()
        assert futures[1].cancelled()


def test_whatever_ends_the_work_is_told_to_who_waits_for_it() -> None:
    with Workers(1) as pool:
        for error in (ValueError, SystemExit, KeyboardInterrupt):

            def work(error: type[BaseException] = error) -> None:
                raise error

            assert isinstance(pool.submit(work).exception(10), error)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_an_image_is_read_without_threads(compression, tmp_path, no_threads) -> None:  # type: ignore[no-untyped-def]
    layers = [layer(file(f"f{n}", bytes(1000))) for n in range(3)]
    path = stored(tmp_path, docker_archive(image(*layers, compression=compression)))
    with open_image(f"docker-archive:{path}") as found:
        assert [row.size for row in inspect(found, threads=4).rows] == [len(layers[0])] * 3
        alone = flatten(found, tmp_path / "alone.tar", threads=4)
        threading.stack_size(0)
        assert flatten(found, tmp_path / "beside.tar", threads=4) == alone
    assert (tmp_path / "alone.tar").read_bytes() == (tmp_path / "beside.tar").read_bytes()


AT_THE_END = """
import io, sys, threading
import dimgx

def work(main):
    main.join()
    with dimgx.open_image(sys.argv[1]) as image:
        for row in dimgx.inspect(image, threads=2).rows:
            print(row.size)
        target = io.BytesIO()
        dimgx.flatten(image, target, compression="gzip", threads=2)
        print(len(target.getvalue()))

threading.Thread(target=work, args=(threading.current_thread(),)).start()
"""


def test_a_thread_goes_on_when_the_main_thread_has_ended(tmp_path: Path) -> None:
    layers = [layer(file(f"f{n}", bytes(1000))) for n in range(2)]
    path = stored(tmp_path, docker_archive(image(*layers, compression="gzip")))
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END, f"docker-archive:{path}"], capture_output=True, text=True
    )
    target = io.BytesIO()
    with open_image(f"docker-archive:{path}") as found:
        flatten(found, target, compression="gzip")
    sizes = [len(layers[0]), len(layers[1]), len(target.getvalue())]
    assert (done.stdout.split(), done.stderr) == ([str(size) for size in sizes], "")
