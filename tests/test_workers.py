"""A pool where threads cannot be started."""

from __future__ import annotations

import threading

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
