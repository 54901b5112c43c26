"""Layers of a registry that are merged while they come, each fetched once whatever happens."""

from __future__ import annotations

import gzip
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

import dimgx
from dimgx import system
from dimgx.image import Layer
from dimgx.readers.fetchall import MOST, SMALL, FetchAll
from dimgx.readers.growing import OutOfOrder
from dimgx.spool import SpoolSpace
from tests.cases import flatten_layers
from tests.dsl import file, layer
from tests.programs import CHECKOUT, run
from tests.registries import FaultyRegistry, Handler, Holds, fails, faulty_registry, interrupt
from tests.results import left
from tests.test_fetchahead import Fetched
from tests.test_streaming import COUNTED, TWO_CPUS, counted, many_layers, needs_fork
from tests.writers import image, sha256

LAYERS = many_layers(21)
APP = image(*LAYERS, tags=("app:1",))
BLOBS = APP.blobs("gzip")
PATHS = [f"/blobs/sha256:{sha256(blob)}" for blob in BLOBS]


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with faulty_registry() as registry:
        registry.add(APP)
        yield registry


def merge(
    registry: FaultyRegistry, target: Path, *words: str, **more: Any
) -> tuple[int, bool, str]:
    """Run the program as `counted` does, with the image of the registry."""
    words = ("--platform", "linux/amd64", "-t", str(target), *words, registry.reference())
    return counted(*words, **more)


def asked(registry: FaultyRegistry) -> list[int]:
    """Give how often each layer was asked for."""
    return [sum(path in other for other, _ in registry.requests) for path in PATHS]


@needs_fork
@pytest.mark.parametrize("verify", ["none", "once", "all"])
def test_layers_are_merged_while_they_come(
    faulty: FaultyRegistry, tmp_path: Path, verify: str
) -> None:
    target = tmp_path / "flat.tar"
    assert merge(faulty, target, "--threads", "3", "--verify", verify) == (ANY, True, "")
    assert target.read_bytes() == flatten_layers(LAYERS)
    assert asked(faulty) == [1] * len(BLOBS)


def merge_and_release(
    registry: FaultyRegistry, target: Path, held: Holds, before: str
) -> tuple[int, bool, str]:
    """Hold something back until the program, as changed by `before`, calls `sign()`."""
    place = target.with_name("sign")
    registry.rules.append(lambda handler: not held.released.is_set() and held(handler))

    def look() -> None:
        while not place.exists() and not held.overdue.is_set():
            time.sleep(0.01)
        held.released.set()

    thread = threading.Thread(target=look)
    thread.start()
    before = f"def sign(): open({str(place)!r}, 'w').close()\n{before}"
    found = merge(registry, target, "--threads", "2", before=before)
    thread.join()
    assert held.begun.is_set() and not held.overdue.is_set()
    return found


MERGED = """
part = streaming.Flow._emit_part
def telling_part(self, edge, write):
    part(self, edge, write)
    sign()
streaming.Flow._emit_part = telling_part
"""


@needs_fork
def test_what_is_merged_does_not_wait_for_the_rest(faulty: FaultyRegistry, tmp_path: Path) -> None:
    faulty.add(image(*LAYERS[:2]))
    held, target = Holds(PATHS[0], BLOBS[0][: len(BLOBS[0]) // 2]), tmp_path / "flat.tar"
    assert merge_and_release(faulty, target, held, MERGED)[1:] == (True, "")
    assert target.read_bytes() == flatten_layers(LAYERS[:2])
    assert asked(faulty)[:2] == [2, 1]  # what broke off was asked for again


DECODED = """
go_on = streaming.Flow._go_on
def telling_decoded(self):
    go_on(self)
    if sum(layer.pieces.is_whole for layer in self._layers) == 3:
        sign()
streaming.Flow._go_on = telling_decoded
"""


@needs_fork
@pytest.mark.parametrize("number", [1, 3])
def test_what_has_not_begun_to_come_keeps_no_other_layer_waiting(
    faulty: FaultyRegistry, tmp_path: Path, number: int
) -> None:
    """Each process decodes a larger one besides, for which it waits first."""
    held, target = Holds(PATHS[number], None), tmp_path / "flat.tar"
    assert merge_and_release(faulty, target, held, DECODED)[1:] == (True, "")
    assert target.read_bytes() == flatten_layers(LAYERS)


# All that can come has, and what the other process decodes is decoded.
COME = sum(map(len, BLOBS[1:])), len(BLOBS[2]) + len(BLOBS[3])
TOLD = f"""
from dimgx.recipe import Recipe
tell = Recipe.tell
def telling_progress(self, phase, done, total=None):
    tell(self, phase, done, total)
    if (phase, done, total) == ("read", {sum(COME) // 2}, {sum(map(len, BLOBS))}):
        sign()
Recipe.tell = telling_progress
"""


@needs_fork
def test_progress_is_of_what_has_come_and_what_is_decoded(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    """Though a process waits for the one that does not come, and leaves its other for later."""
    held = Holds(PATHS[0], None)
    assert merge_and_release(faulty, tmp_path / "flat.tar", held, TOLD)[1:] == (True, "")


@needs_fork
def test_what_cannot_be_merged_while_it_comes_is_not_fetched_again(tmp_path: Path) -> None:
    noise = random.Random(5).randbytes(3 << 20)
    layers = [layer(file("a", noise), file("b")), layer(file("z"), file("a"))]
    blobs = image(*layers).blobs("gzip")
    with faulty_registry() as registry:
        registry.add(image(*layers))
        for words in ((), ("-z",)):
            target = tmp_path / f"flat{''.join(words)}"
            registry.requests.clear()
            assert not merge(registry, target, *words)[1]
            data = target.read_bytes()
            assert (gzip.decompress(data) if words else data) == flatten_layers(layers)
            paths = [path for path, _ in registry.requests if "/blobs/" in path]
            assert sorted(path for path in paths if path.endswith(tuple(map(sha256, blobs)))) == (
                sorted(f"/v2/app/blobs/sha256:{sha256(blob)}" for blob in blobs)
            )


@needs_fork
@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("damage", ["not there", "other bytes", "too long", "too short", "refused"])
def test_an_error_is_told_with_the_layer_and_at_once(
    faulty: FaultyRegistry, tmp_path: Path, number: int, damage: str
) -> None:
    blob, name = BLOBS[number], sha256(BLOBS[number])
    if damage == "not there":
        del faulty.blobs[name]
    elif damage == "refused":
        faulty.rules.append(fails(403, 100, PATHS[number]))
    else:
        faulty.blobs[name] = {
            "other bytes": blob[:-9] + b"different",
            "too long": blob + b"x",
            "too short": blob[:-100],
        }[damage]
    # The others are still on their way then, but for where all have to be looked into.
    others = [Holds(path, None) for path in PATHS if path != PATHS[number]]
    if damage != "other bytes":
        faulty.rules += others
    words = ["-t", tmp_path / "flat.tar", faulty.reference()]
    code = COUNTED.replace("code = 0", "extractor.STREAMED = 0\ncode = 0")
    command = [sys.executable, "-W", "error", "-c", code, "--platform", "linux/amd64"]
    done = run([*command, *words], env={"PYTHONPATH": str(CHECKOUT)}, ok=False)
    said = done.stderr.decode().splitlines()[0]
    assert not any(held.overdue.is_set() for held in others)
    for held in others:
        held.released.set()
    faulty.rules[:] = [rule for rule in faulty.rules if rule not in others]
    usual = run(
        [sys.executable, "-m", "dimgx", "--threads", "1", *command[-2:], *words],
        env={"PYTHONPATH": str(CHECKOUT)}, ok=False,
    )  # fmt: skip
    assert (done.returncode, said) == (usual.returncode, usual.stderr.decode().strip())
    assert sha256(blob) in said
    assert not left(tmp_path)


@needs_fork
def test_a_failure_that_may_pass_is_tried_again_once_for_all(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    faulty.rules.append(fails(503, 1000, PATHS[2]))
    _, is_all, said = merge(faulty, tmp_path / "flat.tar", "--retry-time", "0.1", ok=False)
    assert not is_all and "503" in said
    count = asked(faulty)[2]
    assert merge(faulty, tmp_path / "flat.tar", "--retry-time", "0", ok=False)[2]
    assert asked(faulty)[2] == count + 1
    assert not left(tmp_path)


@needs_fork
def test_an_interrupt_does_not_wait_for_what_comes(tmp_path: Path) -> None:
    layers = [layer(file("f", random.Random(n).randbytes(13 << 20))) for n in range(2)]
    app = image(*layers)
    with faulty_registry() as registry:
        registry.add(app)
        blob = app.blobs("gzip")[1]
        held = Holds(f"/blobs/sha256:{sha256(blob)}", blob[: 1 << 20])
        registry.rules.append(held)
        words = ["--threads", "2", "-t", tmp_path / "flat.tar", registry.reference()]
        assert interrupt(held, *words) == -signal.SIGINT
        assert not held.overdue.is_set() and not left(tmp_path)
        held.released.set()


CANCELLED = """
import os, sys
import dimgx
from dimgx import extractor
extractor.STREAMED = 0
reference, target, sign = sys.argv[1:]
with dimgx.open_image(reference, platform="linux/amd64") as image:
    try:
        dimgx.flatten(image, target, threads=2, cancel=lambda: os.path.exists(sign))
    except dimgx.Cancelled:
        print("cancelled")
"""


@needs_fork
def test_a_caller_can_cancel_while_nothing_comes(faulty: FaultyRegistry, tmp_path: Path) -> None:
    held, sign = Holds(PATHS[1], BLOBS[1][:1000]), tmp_path / "sign"

    def rule(handler: Handler) -> bool:
        if PATHS[1] in handler.path:
            threading.Timer(0.3, sign.touch).start()
        return held(handler)

    faulty.rules.append(rule)
    words = [faulty.reference(), tmp_path / "flat.tar", sign]
    done = run(
        [sys.executable, "-W", "error", "-c", CANCELLED, *words], env={"PYTHONPATH": str(CHECKOUT)}
    )
    assert done.stdout == b"cancelled\n"
    assert not held.overdue.is_set() and [*tmp_path.iterdir()] == [sign]
    held.released.set()


@needs_fork
@pytest.mark.parametrize(
    ("words", "before"),
    [
        (("--memory", "8M"), ""),
        ((), "system.FEATURES -= {'eventfd'}\n"),
        ((), "system.FEATURES -= {'memfd'}\n"),
        (("--threads", "1"), ""),
    ],
    ids=["no memory for slots", "no counters", "no memory files", "one thread"],
)
def test_where_it_does_not_go_they_are_read_as_usual(
    faulty: FaultyRegistry, tmp_path: Path, words: tuple[str, ...], before: str
) -> None:
    target = tmp_path / "flat.tar"
    before = TWO_CPUS + (before and "from dimgx import system\n" + before)
    code = COUNTED.replace("code = 0", before + "code = 0")
    words = ("--threads", "2", *words, "--platform", "linux/amd64", "-t", str(target))
    command = [sys.executable, "-W", "error", "-c", code, *words, faulty.reference()]
    done = run(command, env={"PYTHONPATH": str(CHECKOUT)})
    assert done.stderr.decode().splitlines()[-1] == "0 0 False 0 0"
    assert target.read_bytes() == flatten_layers(LAYERS)
    assert asked(faulty) == [1] * len(BLOBS)


# -- without processes ---------------------------------------------------------------------------


def test_some_are_fetched_at_once_and_no_more() -> None:
    app = image(*(layer(file(f"f{n}", "x" * n)) for n in range(MOST + 2)))
    blobs = app.blobs("gzip")
    lock, now, most = threading.Lock(), [0], [0]
    meeting = threading.Barrier(MOST)

    def rule(handler: Handler) -> bool:
        if handler.path.endswith(tuple(map(sha256, blobs))):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
                is_early = sum("/blobs/" in path for path, _ in registry.requests) <= MOST + 1
            if is_early:
                meeting.wait(20)
                time.sleep(0.2)  # for one too many
            with lock:
                now[0] -= 1
        return False

    with ExitStack() as stack:
        registry = stack.enter_context(faulty_registry())
        registry.add(app)
        reference = registry.reference()
        found = stack.enter_context(dimgx.open_image(reference, platform="linux/amd64"))
        space = stack.enter_context(SpoolSpace(None))
        fetch_all = stack.enter_context(FetchAll(space, lambda: None))
        registry.rules.append(rule)
        fetch_all.share(found.layers)
        fetch_all.begin()
        here = fetch_all.replace(found.layers)
        assert [b"".join(map(bytes, one.blob.iter_chunks())) for one in here] == blobs
    assert most[0] == MOST and not meeting.broken


class Sized(Fetched):
    def __init__(self, size: int) -> None:
        self.size = size  # type: ignore[misc]
        self.got = False

    def iter_chunks(self) -> Iterator[bytes]:
        ORDER.append(self.size)
        yield bytes(self.size)


ORDER: list[int] = []


@pytest.mark.usefixtures("no_threads")
def test_small_ones_come_when_some_of_the_large_are_under_way() -> None:
    """Without threads each is fetched when its turn comes."""
    sizes = [2, SMALL, SMALL + 2, 3 * SMALL, 1, SMALL + 1, 2 * SMALL]
    ORDER.clear()
    with SpoolSpace(None) as space, FetchAll(space, lambda: None) as fetch_all:
        fetch_all.share([Layer(Sized(size), size=size) for size in sizes])
        fetch_all.begin()
    large = [3 * SMALL, 2 * SMALL, SMALL + 2]
    assert [*large[: MOST // 2], SMALL, 2, 1, SMALL + 1] == ORDER


@pytest.mark.usefixtures("no_threads")
def test_a_file_in_memory_that_may_not_grow_leaves_it_to_the_usual_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layers = [Layer(Sized(3), size=3)]
    write_at, refused = system.write_at, [OSError(27, "File too large")]

    def write(fd: int, data: bytes | memoryview, offset: int) -> None:
        if refused:
            raise refused.pop()
        write_at(fd, data, offset)

    with SpoolSpace(None, [str(tmp_path)]) as space, FetchAll(space, lambda: None) as fetch_all:
        fetch_all.share(layers)
        monkeypatch.setattr(system, "write_at", write)
        fetch_all.begin()
        with pytest.raises(OutOfOrder):
            fetch_all.check()
        assert b"".join(map(bytes, fetch_all.replace(layers)[0].blob.iter_chunks())) == bytes(3)
