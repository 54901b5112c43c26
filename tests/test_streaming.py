"""Layers that are merged while they are decoded must give what layers read first give."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args
from unittest.mock import ANY

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dimgx import system
from dimgx.layers import tarwalk
from dimgx.layers.layerindex import LayerIndex
from dimgx.layers.names import key_of, normalise
from dimgx.merging import emit
from dimgx.readers import decoders, growing, streaming
from dimgx.readers.growing import OutOfOrder
from dimgx.readers.pieces import Pieces
from tests.cases import flatten_layers
from tests.dsl import (
    END,
    Member,
    SparseForm,
    chardev,
    dir_,
    file,
    hardlink,
    layer,
    opaque,
    pax_header,
    raw,
    sparse,
    symlink,
    whiteout,
)
from tests.programs import CHECKOUT, flat_bytes, refused, run
from tests.stacks import STACKS, expected_of
from tests.writers import compress, docker_archive, image

needs_fork = pytest.mark.skipif("fork" not in system.FEATURES, reason="only Linux forks here")

SLOT = 1024


class InTurn:
    """The decoders' work in this process, in an order that a seed says."""

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        slots: int,
        decode: decoders.Decode,
        count_stored: Callable[[], int],
        clamp_mtime_s: int | None,
    ) -> None:
        self._memory = memoryview(bytearray(slots * SLOT))
        self._group_of = {one: i for i, group in enumerate(groups) for one in group}
        self._queues: list[deque[tuple[int, int, bool]]] = [deque() for _ in groups]
        self._layers = {one: decoders._Coming(one, decode, clamp_mtime_s) for one in self._group_of}
        self.waiting = [0] * len(groups)
        self.random = random.Random(0)

    def order(self, layer: int, slot: int, *, is_urgent: bool) -> None:
        # What is in a slot that is free is not to be used any more.
        self.view(slot, SLOT)[:] = b"\xff" * SLOT
        group = self._group_of[layer]
        self._queues[group].append((layer, slot, is_urgent))
        self.waiting[group] += 1

    @property
    def has_answers(self) -> bool:
        return any(self._queues) and self.random.random() < 0.5

    def wait(self, check: Callable[[], None]) -> list[decoders.Answer]:
        check()
        queue = self.random.choice([queue for queue in self._queues if queue])
        number, slot, is_urgent = queue.popleft()
        self.waiting[self._group_of[number]] -= 1
        layer = self._layers[number]
        size = layer.fill(self.view(slot, SLOT))
        data = layer.walk(1 if is_urgent else self.random.choice([1, SLOT, 4 * SLOT]))
        new = LayerIndex.from_bytes(data) if data else None
        return [decoders.Answer(number, slot, size, layer.pieces.is_whole, 0, new)]

    def view(self, slot: int, size: int) -> memoryview:
        return self._memory[slot * SLOT : slot * SLOT + size]

    def close(self) -> None:
        pass


def stream(tars: Sequence[bytes], seed: int, part: int, slots: int) -> bytes:
    """Give the flat tar of layers, merged while they come.

    Raises: OutOfOrder.
    """
    found: list[bytes] = []
    chance = random.Random(seed)

    def decode(number: int, room: Callable[[], memoryview]) -> Iterator[bytes | memoryview]:
        at = 0
        while at < len(tars[number]):
            piece = tars[number][at : at + chance.choice([1, 100, 512, 1500, 5000])]
            if chance.random() < 0.5:
                place = room()[: len(piece)]
                place[:] = piece[: len(place)]
                yield place
                at += len(place)
            else:
                yield piece
                at += len(piece)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "SLOT", SLOT)
        patch.setattr(streaming, "SLOT", SLOT)
        patch.setattr(streaming, "PART", part)
        patch.setattr(streaming, "Decoders", InTurn)
        # So few are there at once in the slots, where they are looked at, or are put together; but
        # there is room for a PAX header.
        patch.setattr(tarwalk, "CHUNK", chance.choice([8 << 10, 32 << 10]))
        patch.setattr(tarwalk, "BATCH", chance.choice([1, 3, 384]))
        patch.setattr(emit, "DIRECT", chance.choice([512, 64 << 10]))
        flow = streaming.Flow(
            [len(tar) for tar in tars], decode, lambda: 0,
            processes=2, memory=slots * SLOT, tick=lambda _: None, check=lambda: None,
            has_begun=lambda _: chance.random() < 0.7,
        )  # fmt: skip
        flow._decoders.random = chance  # type: ignore[attr-defined]
        flow.emit(lambda data: found.append(bytes(data)))
    return b"".join(found)


def in_order(members: Sequence[Member]) -> list[Member]:
    """Give members in the order of a walk, each path once, as most layers have them."""
    return [one for _, one in sorted({sort_key(one): one for one in members}.items())]


def sort_key(one: Member) -> bytes:
    return key_of(normalise(one.name, 0), is_directory=one.kind == "d")


def test_pieces_are_one_behind_the_other() -> None:
    coming, freed = [b"i", b"defgh"], []

    def wait(at: int) -> bool:
        pieces.is_whole = not coming
        if coming:
            pieces.append(memoryview(coming.pop()))
        return not pieces.is_whole

    pieces = Pieces(wait, freed.append)
    pieces.append(memoryview(b"abc"))
    assert pieces.size > 9
    found = [pieces.view_or_read(at, 5, least) for at, least in ((0, 2), (0, 4), (3, 5), (4, 5))]
    assert found == [b"abc", b"abcd", b"defgh", b"efghi"]
    pieces.drop(2)
    assert (freed, pieces.begin) == ([], 0)
    for before in (3, 2):
        pieces.drop(before)
    assert (freed, pieces.begin) == ([b"abc"], 3)
    assert [pieces.read(at, 2) for at in (6, 7, 8, 9)] == [b"gh", b"hi", b"i", b""]
    assert pieces.size == 9
    pieces.drop(9)
    assert (freed, pieces.begin) == ([b"abc", b"defgh", b"i"], 9)


SEEDS = st.integers(0, 1 << 30)
PARTS = st.sampled_from([1, 1024, 4096])


@settings(max_examples=400)
@given(STACKS, SEEDS, PARTS, st.booleans())
def test_random_stacks_are_merged_alike_or_refused(
    layers: list[list[Member]], seed: int, part: int, is_sorted: bool
) -> None:
    if is_sorted:
        layers = [in_order(some) for some in layers]
    tars = [layer(*some) for some in layers]
    try:
        found = stream(tars, seed, part, 200)
    except OutOfOrder:
        event("refused")
        return
    event("merged")
    assert expected_of(layers) is not None
    assert found == flatten_layers(tars)


KINDS = ["file"] * 8 + ["dir", "symlink", "link", "link", "whiteout", "opaque"]


def random_layer(chance: random.Random) -> list[Member]:
    """Make up a layer as tools write them: in order, links behind what they name."""
    paths = {
        "/".join(chance.choice("abcdefgh") + chance.choice(["", "", ".x", "-y"]) for _ in range(n))
        for n in (chance.randint(1, 4) for _ in range(chance.randint(1, 40)))
    }
    found: dict[bytes, Member] = {}
    taken: set[str] = set()
    files: list[str] = []
    has_parents = chance.random() < 0.8
    for path in sorted(paths, key=lambda path: path.split("/")):
        parents = [path[:i] for i, letter in enumerate(path) if letter == "/"]
        if taken.intersection((path, *parents)):
            continue
        if has_parents:
            for parent in parents:
                found.setdefault(parent.encode(), dir_(parent, mode=chance.choice([0o755, 0o700])))
        if path.encode() in found:
            continue
        kind = chance.choice(KINDS)
        uid = chance.choice([0, 0, 0, 5])
        if kind == "dir":
            found[path.encode()] = dir_(path, uid=uid)
            if chance.random() < 0.2:
                found[f"{path}/".encode()] = opaque(path)
            continue
        taken.add(path)
        if kind == "whiteout":
            found[path.encode()] = whiteout(path)
        elif kind == "symlink":
            found[path.encode()] = symlink(path, "a/b")
        elif kind == "link" and files:
            target = chance.choice(files)
            found[path.encode()] = hardlink(path, target, uid=5 if chance.random() < 0.02 else 0)
        else:
            data = b"x" * chance.choice([0, 10, 600, 3000, 9000])
            is_pax = chance.random() < 0.1
            more: dict[str, Any] = {"mtime": "7.5", "dialect": "pax"} if is_pax else {}
            found[path.encode()] = file(path, data, uid=uid, **more)
            if not uid and not more:
                files.append(path)
    members = [found[path] for path in sorted(found, key=lambda path: path.split(b"/"))]
    if chance.random() < 0.3:
        return [dir_("./"), *(one.but(name=b"./" + one.name) for one in members)]
    return members


@pytest.mark.parametrize("seed", range(24))
def test_layers_as_tools_write_them_are_merged_alike(seed: int) -> None:
    chance = random.Random(seed)
    merged = 0
    for _ in range(15):
        tars = [layer(*random_layer(chance)) for _ in range(chance.randint(1, 5))]
        expected = flatten_layers(tars)
        try:
            found = stream(tars, chance.randrange(1 << 30), chance.choice([1, 2000]), 120)
        except OutOfOrder:
            continue
        assert found == expected
        merged += 1
    assert merged


def with_signed_sum(member: Member) -> Member:
    """Give a member of one header with its checksum as old programs made it (rule 51)."""
    block = member.but(checksum=b" " * 8).encode()[:512]
    total = sum(block) - 256 * sum(byte > 127 for byte in block)
    return member.but(checksum=b"%06o\0 " % total)


def mixed_layer(chance: random.Random, count: int) -> list[Member]:
    """Make up many members in order, of which few, half or all are odd in one way or another."""

    def often() -> float:
        return chance.choice([0, 0, 0.003, 0.5, 1])

    is_dotted, is_owned, is_pax, is_gnu, has_path, is_huge, is_magic = (often() for _ in range(7))
    is_signed = often()
    found: list[Member] = []
    for number in range(count):
        more: dict[str, Any] = {}
        if chance.random() < is_owned:
            more |= {"uid": chance.choice([0, 5]), "uname": b"bob", "gname": b"staff"}
        if chance.random() < is_pax:
            more |= {"mtime": f"{number}.5", "dialect": "pax"}
        elif chance.random() < is_gnu:
            more |= {"dialect": "gnu"}
        if chance.random() < is_huge:
            more |= {"gid": 1 << 30}
        dot = "./" if chance.random() < is_dotted else ""
        name = f"{dot}f{number:06}"
        if chance.random() < has_path:
            name += "-" * 100
        if chance.random() < 0.1:
            found.append(dir_(name, **more))
        else:
            found.append(file(name, b"x" * chance.choice([0, 0, 10, 600, 3000]), **more))
        if chance.random() < is_magic / 2 and "dialect" not in more and len(name) < 100:
            found[-1] = found[-1].but(dialect="v7")
        elif chance.random() < is_signed / 2 and not more and found[-1].kind == "f" and number % 2:
            found[-1] = with_signed_sum(file(f"{dot}f{number:06}".encode() + b"\xe9"))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_how_a_member_goes_out_does_not_depend_on_its_neighbours(seed: int) -> None:
    """Neither the memory that it lies in nor who is looked at together is the same here."""
    chance = random.Random(seed)
    tars = [layer(*mixed_layer(chance, chance.choice([20, 900]))) for _ in range(2)]
    assert stream(tars, seed, 2000, 600) == flatten_layers(tars)


@pytest.mark.parametrize(
    "more",
    [{}, {"uid": 5, "uname": b"joe"}, {"uid": 5, "uname": b"joe", "dialect": "gnu"}],
    ids=str,
)
@pytest.mark.parametrize("dot", ["", "./"])
def test_a_link_whose_file_went_out_before_goes_out_as_ever(dot: str, more: dict[str, Any]) -> None:
    """Its header loses what others lose, and says the rest in the words that it has."""
    files = [file(f"{dot}b{number:02}", "x" * 3000, **more) for number in range(20)]
    links = [hardlink(f"{dot}c", "a", **more), hardlink(f"{dot}d", f"{dot}a", **more)]
    tars = [layer(file(f"{dot}a", "x" * 3000, **more), *files, *links)]
    assert stream(tars, 1, 1, 120) == flatten_layers(tars)


@pytest.mark.parametrize("form", get_args(SparseForm))
def test_a_sparse_file_is_written_out_while_it_comes(form: SparseForm) -> None:
    """Rule 52: also where what it lies in is used again before all of it has come."""
    chance = random.Random(form)
    data = chance.randbytes(60_000)
    members = file("a", "a" * 3000), sparse("b", [(7, data)], 70_000, form), file("c", "c")
    tars = [layer(*members), layer(file("a.txt", "a" * 3000))]
    for part in (1, 4096):
        assert stream(tars, chance.randrange(1 << 30), part, 60) == flatten_layers(tars)


def long(name: str) -> Member:
    """Give a file so long that what is behind it may come after a part was merged."""
    return file(name, "x" * 90_000)


def count_refused(*layers: Sequence[Member]) -> int:
    """Merge layers in ten ways, which must give what is right or be refused; tell how many are.

    In half of them it is all one part.
    """
    tars = [layer(*members) for members in layers]
    refused = 0
    for seed in range(10):
        try:
            found = stream(tars, seed, (1, 1 << 30)[seed % 2], 300)
        except OutOfOrder:
            refused += 1
        else:
            assert found == flatten_layers(tars)
    return refused


UNFIT = {
    "names out of order": [file("b"), file("a")],
    "names out of order later": [file("a"), file("b"), long("c"), file("e"), file("d")],
    "name twice": [long("a"), file("a")],
    "directory behind a file": [long("a"), dir_("a")],
    "directory without an entry behind a file": [long("a"), file("a/b")],
    "whiteout below a file": [long("a"), whiteout("a/b")],
    "file behind a whiteout below it": [whiteout("a/b"), long("-"), file("a")],
    "device as a whiteout": [long("a"), chardev("b", 0, 0)],
    "global header": [raw(pax_header([(b"uid", b"7")], b"g")), file("a")],
    "link to what is no entry": [file(".wh..wh.x", "x"), hardlink("a", ".wh..wh.x")],
    "link to a symlink": [symlink("a", "b", mode=0o644), hardlink("c", "a")],
    "link to a file behind it": [hardlink("a", "b"), file("b")],
    "link to nothing": [file("a"), hardlink("b", "c")],
    "link with another owner": [file("a"), hardlink("b", "a", uid=1)],
    "link to a link with another owner": [file("a"), hardlink("b", "a"), hardlink("c", "b", gid=1)],
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_layer_in_which_the_order_matters_is_refused(what: str) -> None:
    assert count_refused([file("b"), long("d")], UNFIT[what]) == 10


def test_what_is_no_entry_and_links_to_links_are_not_refused() -> None:
    upper = [file(".wh..wh.x"), whiteout("-"), file("a"), long("b"), file("c/.wh..wh.y")]
    links = [hardlink("d", "a"), hardlink("e", "d"), whiteout("f"), long("g"), file("h")]
    assert not count_refused([file("c/a"), long("d")], [*upper, *links])


LATE = {
    "whiteout": ([file("b"), long("d")], [file("a"), long("c"), whiteout("b")]),
    "opaque": ([file("d/b"), long("e")], [dir_("d"), file("d/a"), long("d/c"), opaque("d")]),
    "opaque root": ([file("b"), long("d")], [file("a"), long("c"), opaque("")]),
    "name": ([file(".c"), long("d")], [whiteout("c"), long("-"), file(".c")]),
}


@pytest.mark.parametrize("what", LATE)
def test_what_comes_behind_a_part_that_it_belongs_to_is_refused(what: str) -> None:
    assert count_refused(*LATE[what])


HIDING = {
    "nothing": [file("d/aa")],
    "all": [opaque("")],
    "file": [file("d/a")],
    "whiteout": [whiteout("d/a")],
    "directory": [dir_("d/a")],
    "implied directory": [file("d/a/b")],
    "parent that is a file": [file("d")],
    "whiteout of the parent": [whiteout("d")],
    "opaque parent": [opaque("d")],
}


@pytest.mark.parametrize("what", HIDING)
def test_a_link_is_refused_whose_file_was_hidden_in_an_earlier_part(what: str) -> None:
    lower = [file("d/a", "a"), long("m"), hardlink("n", "d/a")]
    refused = count_refused(lower, [*HIDING[what], long("x")])
    assert (refused > 0) == (what not in ("nothing", "all"))


def test_directories_without_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 72: also where each step adds few."""
    tar = layer(*(file(f"{number:02}/a/b/c/f", "x" * 3000) for number in range(60)))
    assert stream([tar], 1, 1, 200) == flatten_layers([tar])
    monkeypatch.setattr(growing, "MOST_IMPLIED", 1000)
    with pytest.raises(OutOfOrder):
        stream([tar], 1, 1, 200)


def test_directories_that_whiteouts_speak_of_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = ((whiteout(f"{n:02}/a/f"), file(f"{n:02}-", "x" * 3000)) for n in range(60))
    tar = layer(*(member for pair in pairs for member in pair))
    assert stream([tar], 1, 1, 200) == flatten_layers([tar])
    monkeypatch.setattr(growing, "MOST_MARKED", 60 * (2 + 4) - 1)
    with pytest.raises(OutOfOrder):
        stream([tar], 1, 1, 200)
    monkeypatch.setattr(growing, "MOST_MARKED", 60 * (2 + 4))
    assert stream([tar], 1, 1, 200) == flatten_layers([tar])


# In a process of its own: pytest's has threads, and such a one does not fork. What makes parts and
# news rare is made small, and what was done is told.
COUNTED = """
import gc, mmap, os, sys, weakref
from dimgx import cli, extractor
from dimgx.readers import decoders, streaming
extractor.STREAMED, streaming.PART, decoders.STEP = 0, 1 << 16, 1 << 16
emit, emit_part, tried, parts = streaming.Flow.emit, streaming.Flow._emit_part, [], []
gc.disable()
maps = []
class Map(mmap.mmap):
    def __init__(self, *_):
        maps.append(weakref.ref(self))
mmap.mmap = Map
def counted(self, edge, write):
    emit_part(self, edge, write)
    parts.append(edge)
def telling(self, write):
    tried.append(True)
    emit(self, write)
streaming.Flow.emit, streaming.Flow._emit_part = telling, counted
code = 0
try:
    code = cli.main()
except SystemExit as ending:
    code = ending.code
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    left = sum(map() is not None for map in maps)
    print(len(parts), len(tried), parts[-1:] == [None], len(maps), left, file=sys.stderr)
sys.exit(code)
"""


# What a process does when it is to begin with its second layer, where it has several.
KILLED = """
from dimgx.readers import decoders
init, begun = decoders._Coming.__init__, []
def killing(self, *args):
    begun.append(self)
    if len(begun) == 2:
        os.kill(os.getpid(), 9)
    init(self, *args)
decoders._Coming.__init__ = killing
"""


# All processes are gone before anybody hears of the first.
ALL_KILLED = """
from dimgx.readers import decoders
wait = decoders.Decoders.wait
def late(self, check):
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = file.read().split()
    for pid in children:
        os.waitid(os.P_PID, int(pid), os.WEXITED | os.WNOWAIT)
    return wait(self, check)
decoders.Decoders.wait = late
decoders._Coming.__init__ = lambda *args: os.kill(os.getpid(), 9)
"""


# All processes are gone when all has come, and nobody needs them any more.
KILLED_LATE = """
import signal
merge = streaming.Flow._merge
def killing(self, write):
    merge(self, write)
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = file.read().split()
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)
        os.waitid(os.P_PID, int(pid), os.WEXITED | os.WNOWAIT)
streaming.Flow._merge = killing
"""


# All is merged, and it is not over before somebody ends it.
HELD = """
import time
merge = streaming.Flow._merge
def held(self, write):
    merge(self, write)
    time.sleep(600)
streaming.Flow._merge = held
"""


# Two processes take turns where there is but one CPU.
ONE_CPU = "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
# Where there are more, `--threads 1` means one.
TWO_CPUS = "extractor.usable_cpus = lambda: 2\n"


def counted(
    *words: str | Path, ok: bool = True, now: str = "", before: str = ""
) -> tuple[int, bool, str]:
    """Run the program; give how many parts were merged, whether all, and what it said.

    It must have tried to merge parts, once, and have let go of the memory that it shared, at once.
    """
    return read_count(run_counted(*words, ok=ok, now=now, before=before))


def piped(*words: str | Path, ok: bool = True) -> tuple[bytes, bool, str]:
    """Do the same, and give what came through a pipe in the place of the number."""
    done = run_counted(*words, "-t", "-", ok=ok)
    _, is_all, said = read_count(done)
    return done.stdout, is_all, said


def run_counted(
    *words: str | Path, ok: bool, now: str = "", before: str = ""
) -> subprocess.CompletedProcess[bytes]:
    code = COUNTED.replace("code = 0", before + "code = 0")
    command = [sys.executable, "-W", "error", "-c", code, *map(str, words)]
    done = run(command, env={"PYTHONPATH": str(CHECKOUT), "SOURCE_DATE_EPOCH": now}, ok=ok)
    assert ok or done.returncode
    return done


def read_count(done: subprocess.CompletedProcess[bytes]) -> tuple[int, bool, str]:
    *said, last = done.stderr.decode().splitlines()
    number, tried, is_all, *maps = last.split()
    assert (tried, maps) == ("1", ["1", "0"])
    return int(number), is_all == "True", "\n".join(said)


def many_layers(
    seed: int, count: int = 4, largest: int = 90_000, *, dot: str = "", **more: object
) -> list[bytes]:
    """Make up layers of some megabytes, a third of whose files have so many bytes."""
    chance = random.Random(seed)
    noise = chance.randbytes((1 << 20) + largest)
    found = []
    for _ in range(count):
        names = sorted({f"d{chance.randrange(9)}/f{chance.randrange(400)}" for _ in range(150)})
        members: list[Member] = [dir_(f"d{i}") for i in range(9)]
        for name in names:
            at = chance.randrange(1 << 20)
            size = chance.choice([10, 3000, largest])
            members.append(file(name, noise[at : at + size], **more))
        members = in_order(members)
        found.append(layer(*(one.but(name=dot.encode() + one.name) for one in members)))
    return found


def write_image(directory: Path, layers: Sequence[bytes], compression: Any = "gzip") -> Path:
    path = directory / "image.tar"
    path.write_bytes(docker_archive(image(*layers, compression=compression), vintage="25"))
    return path


@needs_fork
@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz", "bzip2"])
def test_the_command_merges_while_it_decodes(tmp_path: Path, compression: Any) -> None:
    # To pack is most of the time that bzip2 and xz take; with half as much there are several parts.
    largest = 40_000 if compression in ("bzip2", "xz") else 90_000
    layers, target = many_layers(1, largest=largest), tmp_path / "flat.tar"
    path = write_image(tmp_path, layers, compression)
    for words, before in ((["--threads=2"], ""), (["--threads=3"], ""), ([], ONE_CPU)):
        assert counted(path, *words, "-t", target, before=before) == (ANY, True, "")
        assert target.read_bytes() == flatten_layers(layers)
        target.unlink()


@needs_fork
@pytest.mark.parametrize(
    "spelling", [{"dot": "./"}, {"uname": b"bob", "uid": 5}, {"dot": "./", "gname": b"staff"}]
)
def test_headers_are_patched_beside_content_that_is_not_copied(
    tmp_path: Path, spelling: dict[str, Any]
) -> None:
    layers, target = many_layers(9, **spelling), tmp_path / "flat.tar"
    path = write_image(tmp_path, layers)
    for words in ((), ("-z",)):
        assert counted(path, *words, "-wt", target)[1]
        data = target.read_bytes()
        assert (gzip.decompress(data) if words else data) == flatten_layers(layers)


@needs_fork
def test_several_parts_are_merged_and_little_is_held(tmp_path: Path) -> None:
    layers, target = many_layers(2, count=3, largest=800_000), tmp_path / "flat.tar"
    assert sum(map(len, layers)) > 3 * (32 << 20)  # what is held has to go, thrice at least
    path = write_image(tmp_path, layers, "zstd")
    number, is_all, _ = counted(path, "--memory", "32M", "--clamp-mtime", "-t", target, now="7")
    assert is_all
    assert number > 3
    assert target.read_bytes() == flatten_layers(layers, clamp_mtime=7)


@needs_fork
def test_a_file_larger_than_what_may_be_held_goes_through(tmp_path: Path) -> None:
    noise, target = random.Random(3).randbytes(1 << 20), tmp_path / "flat.tar"
    layers = [layer(file("a", noise * 40), file("b", "b")), layer(file("a.txt"), file("c"))]
    assert counted(write_image(tmp_path, layers), "--memory", "32M", "-t", target)[1]
    assert target.read_bytes() == flatten_layers(layers)


@needs_fork
@pytest.mark.parametrize(
    "upper",
    [
        pytest.param([file("z"), file("a")], id="names out of order"),
        pytest.param([hardlink("a", "d0/f1")], id="a link to a lower layer"),
        pytest.param([file("x", "1"), file("x", "2")], id="a name twice"),
    ],
)
def test_what_cannot_be_merged_by_parts_is_merged_as_usual(
    tmp_path: Path, upper: list[Member]
) -> None:
    lower = [dir_("d0"), file("d0/f1", random.Random(1).randbytes(3 << 20)), file("d0/f2")]
    layers, target = [layer(*lower), layer(*upper)], tmp_path / "flat.tar"
    for words in ((), ("-z",)):
        assert not counted(write_image(tmp_path, layers), *words, "-wt", target)[1]
        data = target.read_bytes()
        assert (gzip.decompress(data) if words else data) == flatten_layers(layers)


@needs_fork
@pytest.mark.parametrize(
    "words",
    [
        ["--root-entry"], ["--include", "d1"], ["--strip-components", "1"], ["--prefix", "p"],
        ["--threads", "1"], ["--add-layer", "own.tar"], [],
    ],
    ids=lambda words: " ".join(words) or "a layer twice",
)  # fmt: skip
def test_parts_are_not_tried_where_more_is_wanted_than_their_whole_tree(
    tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "own.tar").write_bytes(layer(file("own")))
    words = [str(tmp_path / word) if word == "own.tar" else word for word in words]
    one, other = layer(dir_("d1"), file("d1/a", "a")), layer(file("d1/b", "b"))
    path = write_image(tmp_path, [one, other] if words else [one, other, one])
    options = ["--threads", "2", *words, "-t", tmp_path / "flat.tar", path]  # the last one counts
    code = COUNTED.replace("code = 0", TWO_CPUS + "code = 0")
    command = [sys.executable, "-W", "error", "-c", code, *options]
    done = run(command, env={"PYTHONPATH": str(CHECKOUT)})
    assert done.stderr.decode().splitlines()[-1] == "0 0 False 0 0"


@needs_fork
@pytest.mark.parametrize("what", ["a bit", "the end", "a header", "windows", "erofs"])
def test_an_error_is_the_same_as_ever(tmp_path: Path, what: str) -> None:
    layers = many_layers(4)
    if what == "a header":
        layers[1] += layer(file("z", checksum=b"000001\0 "))
        layers[1] = layers[1].replace(END, b"", 1)
    elif what == "windows":
        layers[2] = layer(dir_("Files"), dir_("Files/Windows"), file("Files/Windows/x"))
    elif what == "erofs":
        layers[2] = bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(5000)
    path = write_image(tmp_path, layers)
    data = bytearray(path.read_bytes())
    blob = compress(layers[2], "gzip")
    at = data.index(blob)
    if what == "a bit":
        data[at + 50_000] ^= 8
    elif what == "the end":
        data[at + 100_000 : at + len(blob)] = bytes(len(blob) - 100_000)
    path.write_bytes(data)
    target = tmp_path / "flat.tar"
    _, is_all, said = counted(path, "-t", target, ok=False)
    assert not is_all
    assert said == refused(path, "--threads", "1", "-t", target)[1].strip()
    assert [*tmp_path.iterdir()] == [path]


@needs_fork
@pytest.mark.parametrize("memory", ["64M", "200M"], ids=["on the disk", "in memory"])
def test_for_a_pipe_it_is_held_until_all_is_right(tmp_path: Path, memory: str) -> None:
    layers = many_layers(2, count=3, largest=500_000)
    path = write_image(tmp_path, layers, "zstd")
    flat = flatten_layers(layers)
    assert 32 << 20 < len(flat) < 100 << 20
    for words in ((), ("--verify", "all")):
        assert piped(path, "--memory", memory, *words) == (flat, True, "")
    # By the time that is seen, much has been merged.
    data, blob = bytearray(path.read_bytes()), compress(layers[2], "zstd")
    data[data.index(blob) + len(blob) - 20_000] ^= 8
    path.write_bytes(data)
    found, is_all, said = piped(path, "--memory", memory, ok=False)
    assert (found, is_all) == (b"", False)
    assert said == refused(path, "--threads", "1", "-t", "-")[1].strip()


@needs_fork
def test_for_a_pipe_nothing_is_left_of_what_could_not_be_merged_by_parts(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(3 << 20)
    layers = [layer(file("d0/f1", noise), file("d0/f2")), layer(file("z", noise), file("a"))]
    path = write_image(tmp_path, layers)
    assert piped(path) == (flatten_layers(layers), False, "")


@needs_fork
def test_what_is_compressed_for_a_pipe_is_not_held(tmp_path: Path) -> None:
    layers = many_layers(3)
    command = [sys.executable, "-c", COUNTED, write_image(tmp_path, layers), "-z", "-t", "-"]
    done = run(command, env={"PYTHONPATH": str(CHECKOUT)})
    assert done.stderr.decode().splitlines()[-1] == "0 0 False 0 0"
    assert gzip.decompress(done.stdout) == flatten_layers(layers)


@needs_fork
@pytest.mark.parametrize("killed", [KILLED, ALL_KILLED], ids=["one", "all"])
def test_a_process_that_is_killed_leaves_the_work_to_others(tmp_path: Path, killed: str) -> None:
    layers, target = many_layers(7), tmp_path / "flat.tar"
    path = write_image(tmp_path, layers)
    _, is_all, said = counted(path, "--threads=2", "-t", target, before=killed)
    assert (is_all, said) == (False, "")
    assert target.read_bytes() == flatten_layers(layers)


@needs_fork
def test_a_process_that_is_killed_late_does_no_harm(tmp_path: Path) -> None:
    layers, target = many_layers(8), tmp_path / "flat.tar"
    path = write_image(tmp_path, layers)
    assert counted(path, "-t", target, before=KILLED_LATE) == (ANY, True, "")
    assert target.read_bytes() == flatten_layers(layers)


@needs_fork
def test_compressed_output_is_the_same(tmp_path: Path) -> None:
    layers, target = many_layers(5), tmp_path / "flat.tar.gz"
    path = write_image(tmp_path, layers)
    assert counted(path, "-t", target)[1]
    assert target.read_bytes() == flat_bytes(str(path), "-z")


@needs_fork
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_is_left_when_it_is_stopped(tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path, many_layers(6, count=6))
    code = COUNTED.replace("code = 0", HELD + "code = 0")
    command = [sys.executable, "-c", code, path, "-t", tmp_path / "flat.tar"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (found := children.read_text().split()):
            assert process.poll() is None, "it was over before it was stopped"
        os.kill(process.pid, getattr(signal, name))
        process.wait(20)
    for pid in found:
        for _ in range(200):
            if not Path("/proc", pid).exists():
                break
            time.sleep(0.05)
        assert not Path("/proc", pid).exists()
