"""Layers of a registry that are kept: fetched some at a time, told and written in order."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dimgx
from dimgx import ImageError, RegistryOptions
from dimgx.errors import Cancelled
from dimgx.image import Layer
from dimgx.readers.fetchahead import AHEAD, FetchAhead
from dimgx.spool import SpoolSpace
from tests.dsl import file, layer
from tests.registries import FaultyRegistry, Handler, Holds, faulty_registry, interrupt
from tests.results import FORMS, files_of, left
from tests.results import write as write_local
from tests.writers import image, oci_layout, sha256

RANDOM = random.Random(11)
LAYERS = [layer(file(f"f{n}", RANDOM.randbytes(200_000 * (n % 3 + 1)))) for n in range(7)]
APP = image(*LAYERS, tags=("app:1",))
BLOBS = APP.blobs("gzip")
PATHS = [f"/blobs/sha256:{sha256(blob)}" for blob in BLOBS]
ONCE = AHEAD + 1


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with faulty_registry() as registry:
        registry.add(APP)
        yield registry


def keep(registry: FaultyRegistry, path: Path, form: str = "oci-dir", **options: Any) -> None:
    patience = RegistryOptions(retry_time_s=5.0, timeout_s=60.0)
    reference = registry.reference()
    with dimgx.open_image(reference, platform="linux/amd64", registry=patience) as found:
        if "squash_from" not in options:
            options["keep_layers"] = True
        dimgx.write_images([found], path, form=form, **options)  # type: ignore[arg-type]


def fetching() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "fetch" in thread.name]


@pytest.mark.parametrize("how", [{}, {"squash_from": "@6"}], ids=["kept", "squashed"])
def test_some_are_fetched_at_once_and_no_more(
    faulty: FaultyRegistry, tmp_path: Path, how: dict[str, Any]
) -> None:
    asked: list[str] = []

    def look() -> None:
        time.sleep(0.3)  # for one too many
        asked.extend(path for path in PATHS for other, _ in faulty.requests if path in other)

    meeting = threading.Barrier(ONCE, look)

    def rule(handler: Handler) -> bool:
        if any(path in handler.path for path in PATHS[:ONCE]):
            meeting.wait(20)  # which breaks where one waits for another
        return False

    faulty.rules.append(rule)
    keep(faulty, tmp_path / "out", **how)
    assert not meeting.broken and asked == PATHS[:ONCE]
    assert not fetching()


@pytest.mark.parametrize("memory", [0, 300_000, None])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_as_from_disk(
    faulty: FaultyRegistry, tmp_path: Path, form: str, memory: int | None
) -> None:
    """Also where little or nothing can be fetched ahead."""
    local = f"oci:{oci_layout(tmp_path / 'local', APP, default='gzip')}"
    names = ("app:1",) if form == "docker-archive" else ()
    write_local(local, tmp_path / "expected", form, keep_layers=True, names=names)
    patience = RegistryOptions(retry_time_s=5.0, timeout_s=60.0)
    with dimgx.open_image(faulty.reference(), platform="linux/amd64", registry=patience) as found:
        wanted = dimgx.ResultImage(found, names=names)
        dimgx.write_images(
            [wanted], tmp_path / "out", form=form, keep_layers=True, memory=memory,
            tmpdir=str(tmp_path),
        )  # type: ignore[call-overload]  # fmt: skip
    assert files_of(tmp_path / "out") == files_of(tmp_path / "expected")
    assert not fetching()
    assert [sum(path in asked for asked, _ in faulty.requests) for path in PATHS] == [1] * 7


@pytest.mark.parametrize("number", [0, 1, 4, 6])
def test_a_layer_that_is_not_there_is_told_by_its_number(
    faulty: FaultyRegistry, tmp_path: Path, number: int
) -> None:
    del faulty.blobs[sha256(BLOBS[number])]
    with pytest.raises(ImageError, match=rf"layer {number + 1}/7 sha256:{sha256(BLOBS[number])}: "):
        keep(faulty, tmp_path / "out")
    assert not left(tmp_path) and not fetching()


@pytest.mark.parametrize("damaged", [BLOBS[2][:-9] + b"different", BLOBS[2] + b"x"])
def test_a_damaged_layer_is_told_by_its_number(
    faulty: FaultyRegistry, tmp_path: Path, damaged: bytes
) -> None:
    faulty.blobs[sha256(BLOBS[2])] = damaged
    with pytest.raises(ImageError, match=r"layer 3/7 sha256:[0-9a-f]+: its blob"):
        keep(faulty, tmp_path / "out")
    assert not left(tmp_path) and not fetching()


def test_an_error_ends_what_is_still_coming(faulty: FaultyRegistry, tmp_path: Path) -> None:
    held = Holds(PATHS[3], BLOBS[3][:1000])
    faulty.rules.append(held)
    faulty.rules.append(lambda handler: PATHS[0] in handler.path and not held.begun.wait(20))
    del faulty.blobs[sha256(BLOBS[1])]
    with pytest.raises(ImageError, match="layer 2/7"):
        keep(faulty, tmp_path / "out")
    assert held.begun.is_set() and not held.overdue.is_set()
    assert not fetching()
    held.released.set()


def test_what_has_come_of_a_layer_is_written_before_the_rest_comes(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    """And with that the progress goes on."""
    held = Holds(PATHS[1], BLOBS[1][:100_000])
    faulty.rules.append(lambda handler: not held.released.is_set() and held(handler))

    def progress(now: dimgx.Progress) -> None:
        if now.done > len(BLOBS[0]):
            held.released.set()

    keep(faulty, tmp_path / "out", progress=progress)
    assert held.begun.is_set() and not held.overdue.is_set()


def test_a_caller_can_cancel_while_it_waits(faulty: FaultyRegistry, tmp_path: Path) -> None:
    held = Holds(PATHS[1], BLOBS[1][:1000])
    faulty.rules.append(held)
    with pytest.raises(Cancelled):
        keep(faulty, tmp_path / "out", cancel=held.begun.is_set)
    assert not held.overdue.is_set() and not fetching() and not left(tmp_path)
    held.released.set()


@pytest.mark.parametrize(
    ("memory", "begun"), [(0, 0), (len(BLOBS[1]), 1), (len(BLOBS[1]) + len(BLOBS[2]), 2)]
)
def test_no_more_is_fetched_ahead_than_fits_into_memory(
    faulty: FaultyRegistry, tmp_path: Path, memory: int, begun: int
) -> None:
    with (
        dimgx.open_image(faulty.reference(), platform="linux/amd64") as found,
        SpoolSpace(memory, [str(tmp_path)]) as space,
        FetchAhead(found.layers, space, lambda: None) as ahead,
    ):
        ahead.take(found.layers[0])
        assert len(fetching()) <= begun
        for n in range(1, len(BLOBS)):
            taken = ahead.take(found.layers[n])
            assert b"".join(map(bytes, taken.blob.iter_chunks())) == BLOBS[n]
            assert space.used <= memory
    assert sum(any(path in asked for path in PATHS[1:]) for asked, _ in faulty.requests) == 6


def test_a_blob_can_be_read_again(faulty: FaultyRegistry) -> None:
    with (
        dimgx.open_image(faulty.reference(), platform="linux/amd64") as found,
        SpoolSpace(None) as space,
        FetchAhead(found.layers, space, lambda: None) as ahead,
    ):
        ahead.take(found.layers[0])
        second = ahead.take(found.layers[1])
        assert second.blob is not found.layers[1].blob
        for _ in range(2):
            assert b"".join(map(bytes, second.blob.iter_chunks())) == BLOBS[1]
        assert second.blob.size == len(BLOBS[1])


@pytest.mark.parametrize("_again", range(5))  # it mostly is, on Linux
def test_one_that_is_done_leaves_others_alone(faulty: FaultyRegistry, _again: int) -> None:
    """Also where the number of a thread that has ended is that of another now."""
    asked, released = threading.Event(), threading.Event()

    def hold(handler: Handler) -> bool:
        asked.set()
        released.wait(20)
        return False

    def read_second(ahead: FetchAhead) -> bytes:
        return b"".join(map(bytes, ahead.take(layers[1]).blob.iter_chunks()))

    with (
        dimgx.open_image(faulty.reference(), platform="linux/amd64") as found,
        SpoolSpace(None) as space,
        FetchAhead(layers := found.layers[:2], space, lambda: None) as other,
    ):
        with FetchAhead(layers, space, lambda: None) as done:
            done.take(layers[0])
            assert read_second(done) == BLOBS[1]
            while fetching():
                time.sleep(0.01)
            faulty.rules.append(hold)
            other.take(layers[0])
            assert asked.wait(20)
        released.set()
        assert read_second(other) == BLOBS[1]


@pytest.mark.parametrize("number", [0, 1])
def test_an_interrupt_does_not_wait_for_the_network(
    faulty: FaultyRegistry, tmp_path: Path, number: int
) -> None:
    held = Holds(PATHS[number], BLOBS[number][:1000])
    faulty.rules.append(held)
    words = ["--keep-layers", "-t", f"oci:{tmp_path}/out", faulty.reference()]
    assert interrupt(held, *words) == -signal.SIGINT
    assert not held.overdue.is_set() and not left(tmp_path)
    held.released.set()


class Fetched:
    """A blob that says it comes over a network."""

    size = 3

    def iter_chunks(self) -> Iterator[bytes]:
        yield b"abc"

    def abort(self, threads: object) -> None:
        pass


@pytest.mark.usefixtures("no_threads")
def test_without_threads_each_comes_when_it_is_wanted() -> None:
    layers = [Layer(Fetched()) for _ in range(3)]
    with SpoolSpace(None) as space, FetchAhead(layers, space, lambda: None) as ahead:
        assert [ahead.take(layer) for layer in layers] == layers
