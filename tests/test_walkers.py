"""Walking in several processes must say what walking in one says, and leave none behind."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import pytest

from dimgx import system
from dimgx.readers.walkers import SHARE
from tests.dsl import dir_, file, hardlink, layer, opaque, symlink, whiteout
from tests.programs import CHECKOUT, flat_bytes, refused, run
from tests.writers import docker_archive, image

needs_fork = pytest.mark.skipif("fork" not in system.FEATURES, reason="only Linux forks here")
MANY = [file(f"d/f{i}", b"x" * (i % 1500)) for i in range(300)]
LAYERS = [
    layer(dir_("d"), *MANY, hardlink("d/z", "d/f7"), symlink("s", "d"), dir_("")),
    layer(
        dir_("d"), whiteout("d/f1"), file("e/a", dialect="pax", mtime="1.5"), hardlink("h", "e/a")
    ),
    layer(opaque("e"), file("e/b", "b"), file("g"), hardlink("f", "g")),
    layer(*MANY[:90], *(one.but(name=b"./" + one.name) for one in MANY[90:])),
]

# In a process of its own: pytest's has threads, and such a one does not fork.
COMPARED = """
import os, sys
from functools import partial
from dimgx.readers import walkers
from dimgx.readers.checks import Checks
from dimgx.layers.tarwalk import walk_layer
walkers.SHARE = int(sys.argv[2])
fd = os.open(sys.argv[1], os.O_RDONLY)
jobs, told, at = [], [], 0

def walk(at, size, tick):
    tick(size)
    return walk_layer(fd, at, size, clamp_mtime_s=1)

for size in map(int, sys.argv[3:]):
    jobs.append(walkers.Job(size, partial(walk, at, size)))
    at += size
together = walkers.Walkers()
together.begin(jobs, 3, Checks(print))
found = together.collect(told.append)
for job in found:
    alone = job.walk(lambda _: None)
    for column in alone.__slots__:
        assert getattr(found[job], column) == getattr(alone, column), (job, column)
assert len(found) < len(jobs) or sum(told) == at
print(*sorted(jobs.index(job) for job in found))
assert not together.checking
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("none is left")
"""


def compare(layers: list[bytes], share: int) -> list[str]:
    """Walk layers in three processes; give which were walked, and whether a process is left."""
    with tempfile.NamedTemporaryFile() as joined:
        joined.write(b"".join(layers))
        joined.flush()
        sizes = [str(len(one)) for one in layers]
        command = [sys.executable, "-W", "error", "-c", COMPARED, joined.name, str(share), *sizes]
        return run(command, env={"PYTHONPATH": str(CHECKOUT)}).stdout.decode().splitlines()


@needs_fork
def test_what_other_processes_say_is_the_same() -> None:
    assert compare(LAYERS, 512) == ["0 1 2 3", "none is left"]


@needs_fork
@pytest.mark.parametrize("place", range(3))
def test_what_cannot_be_walked_is_left_to_the_caller(place: int) -> None:
    """It keeps nobody from walking the others."""
    layers = [LAYERS[0], LAYERS[3]]
    layers.insert(place, layer(file("a", "x", checksum=b"000001\0 ")))
    found = compare(layers, 512)
    walked = [str(i) for i in range(3) if i != place]
    assert found == [" ".join(walked), "none is left"]


SLOW = """
import os, sys, time
from functools import partial
from dimgx.layers.layerindex import LayerIndex
from dimgx.readers import walkers
from dimgx.readers.checks import Checks
walkers.SHARE = 1
done, until = sys.argv[1], time.monotonic() + 60

def walk(number, tick):
    if number:
        open(os.path.join(done, str(number)), "x").close()
    while not number and len(os.listdir(done)) < 5:
        assert time.monotonic() < until
        time.sleep(0.001)
    return LayerIndex()

jobs = [walkers.Job(100 - number, partial(walk, number)) for number in range(6)]
together = walkers.Walkers()
together.begin(jobs, 2, Checks(print))
assert len(together.collect(lambda _: None)) == 6
together.close()
"""


@needs_fork
def test_a_layer_that_takes_long_keeps_no_other_waiting(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", SLOW, str(tmp_path)]
    run(command, env={"PYTHONPATH": str(CHECKOUT)})


@needs_fork
def test_more_layers_than_a_pipe_has_room_for_are_walked_by_one() -> None:
    count = 4096
    assert compare([bytes(1024)] * count, 512) == ["", "none is left"]
    assert compare([bytes(1024)] * (count // 2), 512)[0].count(" ") == count // 2 - 1


def test_small_layers_are_not_worth_a_process() -> None:
    assert compare(LAYERS, 1 << 20) == ["", "none is left"]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """An image whose layers are worth a process each."""
    path = tmp_path / "image.tar"
    layers = [layer(file("large", bytes(SHARE)), one) for one in (file("a", "a"), whiteout("b"))]
    path.write_bytes(docker_archive(image(*layers, layer(*MANY)), vintage="1.10"))
    return path


def test_the_command_says_the_same_in_any_number_of_processes(large: Path) -> None:
    assert flat_bytes(str(large)) == flat_bytes(str(large), "--threads", "1")


@pytest.mark.parametrize("damaged", [(0,), (1,), (0, 1)])
def test_a_digest_is_checked_alike_by_any_number_of_processes(
    large: Path, damaged: tuple[int, ...]
) -> None:
    tar = bytearray(large.read_bytes())
    names = [match.start() for match in re.finditer(rb"(?<=\0)large\0{95}", tar)]
    assert len(names) == 2
    for i in damaged:
        tar[names[i] + 5000] = 1
    large.write_bytes(tar)
    said = {
        refused(large, "-t", large.parent / "flat.tar", *words)
        for words in ((), ("--threads", "1"), ("--threads", "2"), ("--threads", "5"))
    }
    assert len(said) == 1, said
    assert f"layer {damaged[0] + 1}/3" in said.pop()[1]


@pytest.mark.parametrize("name", ["a", ".wh.b"])
def test_an_error_is_the_same_in_any_number_of_processes(large: Path, name: str) -> None:
    tar = bytearray(large.read_bytes())
    at = tar.index(name.encode() + b"\0" * 50)
    tar[at + 148 : at + 154] = b"777777"
    large.write_bytes(tar)
    said = {
        refused(large, "--verify", "none", "-t", large.parent / "flat.tar", *words)
        for words in ((), ("--threads", "1"), ("--threads", "3"))
    }
    assert len(said) == 1, said
    assert "checksum" in said.pop()[1]
