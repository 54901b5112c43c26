"""Layers that an engine keeps unpacked, beside records of their tars, must come out as they were.

Here records are made, and files unpacked, as the engine does it.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
import tarfile
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dimgx
from dimgx import system
from dimgx.digest import Digest
from dimgx.errors import ImageError
from dimgx.image import Image, Layer
from dimgx.jsondoc import Fields
from dimgx.recipe import Progress
from dimgx.sources import tarsplit
from dimgx.sources.dockerstore import chain_ids, open_stored
from dimgx.sources.tarsplit import PIECE, SplitTar
from tests.cases import flatten_layers
from tests.dsl import (
    END,
    Member,
    chardev,
    dir_,
    fifo,
    file,
    hardlink,
    layer,
    opaque,
    symlink,
    whiteout,
)
from tests.leftovers import open_files
from tests.opened import opened
from tests.programs import CHECKOUT, need_root, run
from tests.test_streaming import many_layers
from tests.writers import Picture, docker_archive, image, sha256, to_json

Json = dict[str, Any]

CAN_FORK = "fork" in system.FEATURES
needs_fork = pytest.mark.skipif(not CAN_FORK, reason="only Linux forks here")


def segment(data: bytes) -> Json:
    return {"type": 2, "payload": b64encode(data).decode() or None}


def entry(name: bytes, size: int = 0) -> Json:
    try:
        spelled = {"name": name.decode()}
    except UnicodeDecodeError:
        spelled = {"name_raw": b64encode(name).decode()}
    sized = {"size": size, "payload": "AAAAAAAAAAA="} if size else {"payload": None}
    return {"type": 1, **spelled, **sized}


def lines(entries: Sequence[Json]) -> bytes:
    numbered = ({**one, "position": place} for place, one in enumerate(entries))
    return b"".join(to_json(one) + b"\n" for one in numbered)


def split(tar: bytes) -> tuple[list[Json], dict[bytes, bytes]]:
    """Give the record of a tar, and the content of its files."""
    entries, files, at = [], {}, 0
    for info in tarfile.open(fileobj=io.BytesIO(tar), mode="r:", encoding="utf-8"):
        name = info.name.encode("utf-8", "surrogateescape")
        entries.append(segment(tar[at : info.offset_data]))
        at = info.offset_data + (info.size if info.isreg() else 0)
        entries.append(entry(name, at - info.offset_data))
        if at > info.offset_data:
            files[name] = tar[info.offset_data : at]
    return [*entries, segment(tar[at:])], files


def write(directory: Path, entries: Sequence[Json], files: dict[bytes, bytes]) -> SplitTar:
    """Store a layer."""
    root = directory / "diff"
    root.mkdir(parents=True)
    for name, data in files.items():
        path = os.fsencode(root) + os.path.normpath(b"/" + name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(data)
    record = directory / "tar-split.json.gz"
    record.write_bytes(gzip.compress(lines(entries), 1))
    return SplitTar(f"{record}", f"{root}", sum(map(len, files.values())))


def store(directory: Path, tar: bytes) -> SplitTar:
    return write(directory, *split(tar))


def read(blob: SplitTar) -> bytes:
    return b"".join(map(bytes, blob.iter_chunks()))


def error_of(blob: SplitTar) -> str:
    """Give what is said about a layer that cannot be read, of which nothing stays open."""
    before = open_files()
    with pytest.raises(ImageError) as caught:
        read(blob)
    assert open_files() == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


BYTES = random.Random(1).randbytes(1 << 20)
LAYERS: dict[str, list[Member]] = {
    "nothing": [],
    "all kinds": [
        dir_("d"), file("d/f", "text"), hardlink("d/h", "d/f"), symlink("d/l", "/etc/passwd"),
        fifo("d/p"), chardev("d/c", 1, 3), whiteout("d/w"), opaque("e"), file("d/z", "more"),
    ],
    "long names": [
        dir_("d"), file("d/" + "n" * 150, "1", dialect="gnu"), file("d/" + "m" * 250, "2"),
        file("p/" * 90 + "x", "3", dialect="pax"), hardlink("h" * 120, "t" * 130, dialect="gnu"),
    ],
    "names": [
        file(b"\xff/\xfe", "1"), file(b"\xe9", "2", dialect="pax"), file("./a", "3"),
        file("/b", "4"), file("c//d", "5"), file("c/../e", "6"), file("c/./f", "7"),
        file("\u00e9\u2028<&>", "8"), file(" \n", "9"),
    ],
    "sizes": [
        file(f"{size:07}", BYTES[:size])
        for near in (0, 512, PIECE - 512, PIECE, 2 * PIECE)
        for size in range(max(0, near - 1), min(near + 2, len(BYTES) + 1))
    ],
    "larger than pieces": [file("a", BYTES * 4 + b"a"), file("b"), file("c", BYTES)],
    "directories in turn": [
        *(file(f"{n % 3}/{n % 2}/{n}", f"{n}") for n in range(20)),
        *(file("e/" * depth + "f", f"{depth}") for depth in (3, 4, 2, 0, 300, 1, 3)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", LAYERS)
@pytest.mark.parametrize("end", [END, bytes(512), bytes(10240), END + b"rest" * PIECE])
def test_a_layer_comes_out_as_it_went_in(tmp_path: Path, what: str, end: bytes) -> None:
    tar = layer(*LAYERS[what], end=end)
    blob, before = store(tmp_path, tar), open_files()
    for _ in range(2):
        sizes, found = [], []
        for piece in blob.iter_chunks():
            sizes.append(len(piece))
            found.append(bytes(piece))
        assert b"".join(found) == tar
        assert set(sizes[:-1]) <= {PIECE} and sizes[-1:] != [0]
    assert open_files() == before


PARTS = st.lists(st.tuples(st.booleans(), st.sampled_from([0, 1, 2, 9, 10, 11, 19, 20, 33])))


@given(PARTS)
def test_pieces_are_of_one_size(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[bool, int]]
) -> None:
    entries, files, expected = [], {}, b""
    for place, (is_file, size) in enumerate(parts):
        data = BYTES[place : place + size]
        expected += data
        entries.append(entry(b"%d" % place, size) if is_file else segment(data))
        if is_file:
            files[b"%d" % place] = data
    blob = write(tmp_path_factory.mktemp("layer"), entries, files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarsplit, "PIECE", 10)
        patch.setattr(tarsplit, "_RECORD_PIECE", 100)
        found = [bytes(piece) for piece in blob.iter_chunks()]
    assert found == [expected[at : at + 10] for at in range(0, len(expected), 10)]


def test_several_read_it_at_once(tmp_path: Path) -> None:
    tar = layer(*LAYERS["sizes"])
    blob = store(tmp_path, tar)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, [blob] * 8)) == [tar] * 8


@pytest.mark.parametrize(
    "name",
    ["d/a", "/d/a", "./d/a", "d//a", "d/./a", "x/../d/a", "../d/a", "d/a/", "d/a/.", "d/b/.."],
)
def test_a_name_is_read_as_the_engine_reads_it(tmp_path: Path, name: str) -> None:
    """As Go's filepath.Join does, and never from outside."""
    target = b"d" if name.endswith("..") else b"d/a"
    blob = write(tmp_path, [entry(name.encode(), 4)], {target: b"text"})
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_bytes(b"else")
    assert read(blob) == b"text"


def test_what_has_no_size_is_not_looked_for(tmp_path: Path) -> None:
    entries = [entry(b"none"), {"type": 1, "name": "d/", "size": 0}, segment(b""), segment(b"x")]
    assert read(write(tmp_path, entries, {})) == b"x"


GOOD = [segment(b"head"), entry(b"a", 4), segment(b"tail")]
RECORDS: dict[str, bytes] = {
    "no JSON": b"x",
    "half a line": lines(GOOD)[:-9],
    "no object": b"[]",
    "a number": b"7",
    "a text": b'"type"',
    "no type": b"{}",
    "a type to come": b'{"type":3,"payload":null}',
    "a type that is a text": b'{"type":"2","payload":""}',
    "no payload": b'{"type":2}',
    "a payload that is a number": b'{"type":2,"payload":7}',
    "a payload that is no base64": b'{"type":2,"payload":"a"}',
    "a payload beyond ASCII": b'{"type":2,"payload":"\xc3\xa9"}',
    "no name": b'{"type":1,"size":4}',
    "a name that is a number": b'{"type":1,"size":4,"name":7}',
    "half a character": b'{"type":1,"size":4,"name":"\\ud800"}',
    "a raw name that is a list": b'{"type":1,"size":4,"name_raw":[7]}',
    "a size that is a text": b'{"type":1,"size":"x\\n","name":"a"}',
    "a size that is a list": b'{"type":1,"size":[4],"name":"a"}',
    "a size beyond all": b'{"type":1,"size":Infinity,"name":"a"}',
    "a size that is none": b'{"type":1,"size":NaN,"name":"a"}',
    "a number too long": b'{"type":1,"size":%b,"name":"a"}' % (b"9" * 5000),
    "too deep": b"[" * 200_000,
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_that_is_damaged(tmp_path: Path, what: str) -> None:
    blob = write(tmp_path, GOOD, {b"a": b"text"})
    Path(blob.record).write_bytes(gzip.compress(RECORDS[what]))
    assert f"{blob.record}: it is damaged: --no-direct" in error_of(blob)


def test_a_record_is_cut_or_altered_anywhere(tmp_path: Path) -> None:
    blob = write(tmp_path, GOOD, {b"a": b"text"})
    path = Path(blob.record)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        assert "it is damaged" in error_of(blob)
    for at in range(10, len(data)):  # before it is what gzip makes no use of
        for bit in range(8):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            try:
                assert read(blob) == b"headtexttail"  # such as a bit that fills up a byte
            except ImageError as exc:
                assert "it is damaged" in str(exc)


def test_a_record_that_is_gone(tmp_path: Path) -> None:
    blob = write(tmp_path, GOOD, {b"a": b"text"})
    os.unlink(blob.record)
    assert f"{blob.record}: No such file" in error_of(blob)


@pytest.mark.parametrize("size", [-4, 3, 5, 1 << 40, 1 << 80, True])
def test_a_file_of_another_size(tmp_path: Path, size: int) -> None:
    told = error_of(write(tmp_path, [entry(b"d/a", size)], {b"d/a": b"text"}))
    assert told.startswith(f"{tmp_path}/diff: 'd/a': it is no file of {int(size)} bytes")


def link_outside(path: Path) -> None:
    """Have a link where something was, to what is like it elsewhere."""
    path.rename(path.parent.parent / "moved")
    path.symlink_to("../moved")


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_device(path: Path) -> None:
    """Have a device that nothing stands behind: to open it would tell so."""
    need_root()
    path.unlink()
    os.mknod(path, 0o20666, os.makedev(60, 7))


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "gone": (Path.unlink, "d/a", "'d/a': No such file"),
    "a link": (link_outside, "d/a", "'d/a': it is no file"),
    "a link above": (link_outside, "d", "'d/a': No such file"),
    "a link at the top": (link_outside, "", "diff: Not a directory"),
    "all gone": (lambda path: path.rename(path.parent / "moved"), "", "diff: No such file"),
    "a directory": (make_directory, "d/a", "'d/a': it is no file"),
    "a pipe": (make_pipe, "d/a", "'d/a': it is no file"),
    "a device": (make_device, "d/a", "'d/a': it is no file"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_no_file_is_not_opened(tmp_path: Path, what: str) -> None:
    blob = write(tmp_path, [entry(b"b", 1), entry(b"d/a", 4)], {b"b": b"b", b"d/a": b"text"})
    change, name, told = CHANGES[what]
    change(Path(blob.directory, name))
    assert told in error_of(blob)


LINKS = {
    "lib": "usr/lib",
    "usr/abs": "/usr/lib",
    "usr/lib/back": "../../lib",
    "out": "../../../usr/lib",
    "a/b/c": "../../lib/back/./",
    "self": "self",
    "one": "two",
    "two": "one/x",
    "away": "/no/such",
    "etc": "../outside",
}


@pytest.mark.parametrize("way", ["lib", "usr/abs", "lib/back/back", "out", "a/b/c", "a/b/c/back"])
def test_a_file_below_a_link_of_its_own_layer(tmp_path: Path, way: str) -> None:
    """Links lead where they did when the layer was unpacked: its directory was the root."""
    names = [f"{way}/f", "usr/lib/g", f"{way}/g", "top"]
    blob = write(tmp_path, [entry(name.encode(), 1) for name in names],
                 {b"usr/lib/f": b"f", b"usr/lib/g": b"g", b"top": b"t"})  # fmt: skip
    for name, target in LINKS.items():
        path = Path(blob.directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    before = open_files()
    assert read(blob) == b"fggt"
    assert open_files() == before


@pytest.mark.parametrize("way", ["self", "one", "away", "etc", "lib/g", "lib/no/such"])
def test_a_link_that_leads_to_no_directory_of_the_layer(tmp_path: Path, way: str) -> None:
    blob = write(tmp_path, [entry(f"{way}/f".encode(), 1)], {b"usr/lib/g": b"g"})
    for name, target in LINKS.items():
        path = Path(blob.directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/f").write_bytes(b"f")
    before = open_files()
    assert f"'{way}/f': " in error_of(blob)
    assert open_files() == before


@pytest.mark.parametrize("name", ["", "/", "..", "a\0b", "n" * 300, "b/c"])
def test_a_name_that_no_file_has(tmp_path: Path, name: str) -> None:
    blob = write(tmp_path, [entry(b"d/b", 1), entry(name.encode(), 4)], {b"d/b": b"b", b"b": b"b"})
    assert f"{blob.directory}: '" in error_of(blob)


def test_a_file_is_cut_short_while_it_is_read(tmp_path: Path) -> None:
    blob, before = store(tmp_path, layer(file("d/a", BYTES * 2))), open_files()
    chunks = blob.iter_chunks()
    next(chunks)
    os.truncate(f"{blob.directory}/d/a", PIECE)
    with pytest.raises(ImageError, match="'d/a': it was cut short"):
        list(chunks)
    assert open_files() == before


def test_who_stops_early_leaves_nothing_open(tmp_path: Path) -> None:
    tar = layer(*LAYERS["sizes"], *LAYERS["larger than pieces"])
    blob, before = store(tmp_path, tar), open_files()
    for count in range(len(tar) // PIECE):
        chunks = blob.iter_chunks()
        for _ in range(count):
            next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        assert open_files() == before


@pytest.mark.parametrize("what", [None, "d/b", "d", "record", "no record"])
def test_it_is_told_before_whether_all_may_be_read(tmp_path: Path, what: str | None) -> None:
    entries = [entry(b"d/b", 1), segment(b"x"), entry(b"c"), entry(b"e", 1)]
    blob, before = write(tmp_path, entries, {b"d/b": b"b", b"e": b"e"}), open_files()
    record, directory = Path(blob.record), Path(blob.directory)
    if what == "no record":
        record.unlink()
    elif what == "record":
        record.write_bytes(record.read_bytes()[:-9])
    elif what is not None:
        (directory / what).rename(directory / "else")
    assert blob.is_readable() == (what is None)
    assert open_files() == before


# -- as layers of an image ----------------------------------------------------------------------


def image_of(directory: Path, tars: Sequence[bytes]) -> Image:
    """Store an image's layers."""
    return Image(
        "it",
        tuple(
            Layer(store(directory / f"{place}", tar), diff_id=Digest.of(tar))
            for place, tar in enumerate(tars)
        ),
        id=f"sha256:{sha256(b'')}",
    )


# In a process of its own, for pytest's has threads, and such a one does not fork.
FLATTEN = """
import json, os, sys
import dimgx
from dimgx import extractor
from dimgx.digest import Digest
from dimgx.image import Image, Layer
from dimgx.readers import decoders, streaming, walkers
from dimgx.readers.spooling import Spooling
from dimgx.sources.tarsplit import SplitTar
extractor.STREAMED, streaming.PART, decoders.STEP = 0, 1 << 16, 1 << 16
extractor.usable_cpus = lambda: 2
walkers.SHARE = 1 << 10
streaming.AHEAD = streaming.LITTLE_AHEAD = 1  # so that no process runs away from the others
emit_part, parts = streaming.Flow._emit_part, []
def counted(self, edge, write):
    emit_part(self, edge, write)
    parts.append(edge)
streaming.Flow._emit_part = counted
put, take_over = Spooling._put, Spooling.take_over
adopted, parent, dying = [], os.getpid(), os.pipe()
def failing(self, *args):
    global failure
    index = put(self, *args)
    if failure == "killed":
        if os.getpid() != parent:
            os.write(dying[1], b"x")
            os._exit(1)
        os.read(dying[0], 1)  # so that the other one has taken a layer
        failure = ""
    return index
def counting(self, layers):
    spools = take_over(self, layers)
    adopted.extend(spools)
    return spools
Spooling._put, Spooling.take_over = failing, counting
failure = sys.argv[1]
target, layers, options = json.load(sys.stdin)
layers = tuple(Layer(SplitTar(*blob), diff_id=Digest.parse(id)) for blob, id in layers)
told = []
try:
    with Image("it", layers, id="sha256:" + "0" * 64) as image:
        dimgx.flatten(image, target or sys.stdout.buffer, progress=told.append, **options)
except dimgx.DimgxError as exc:
    sys.exit(f"{type(exc).__name__}: {exc}")
assert all(one.total and one.done <= one.total for one in told if one.phase == "read")
print(len(parts), len(adopted), file=sys.stderr)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    sys.exit()
sys.exit("a process is left")
"""


def flattened(
    stored: Image, target: Path | None, *, failure: str = "", **options: Any
) -> tuple[bytes, str]:
    """Flatten to a file, or else to a pipe; give what was written, and what was said.

    That is how many parts were merged, and how many layers processes put into memory; or an error.
    """
    layers = [(list(one.blob), f"{one.diff_id}") for one in stored.layers]  # type: ignore[call-overload]
    asked = to_json([target and f"{target}", layers, options])
    command = [sys.executable, "-W", "error", "-c", FLATTEN, failure]
    done = run(command, stdin=asked, env={"PYTHONPATH": str(CHECKOUT)}, ok=False)
    written = target.read_bytes() if target is not None and target.exists() else done.stdout
    return written, done.stderr.decode().strip()


WAYS: dict[str, tuple[bool, Json]] = {
    "one thread": (True, {"threads": 1}),
    "little memory": (True, {"threads": 2, "memory": 1 << 20}),
    "none": (True, {"threads": 2, "memory": 0}),
    "a pipe": (False, {"threads": 1}),
    "all digests": (False, {"threads": 2, "memory": 0, "verify": "all"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_image_is_flattened_as_from_an_archive(tmp_path: Path, way: str) -> None:
    tars = many_layers(1)
    is_file, options = WAYS[way]
    target = tmp_path / "flat.tar" if is_file else None
    found, said = flattened(image_of(tmp_path, tars), target, **options)
    assert found == flatten_layers(tars)
    assert said == ("0 0" if options["threads"] == 1 or not CAN_FORK else "0 4")


@needs_fork
@pytest.mark.parametrize("verify", ["once", "all"])
def test_for_a_pipe_it_is_merged_while_it_is_put_together(tmp_path: Path, verify: str) -> None:
    tars = many_layers(1)
    found, said = flattened(image_of(tmp_path, tars), None, threads=2, verify=verify)
    assert found == flatten_layers(tars)
    parts, adopted = map(int, said.split())
    assert parts > 0
    assert adopted == 0


@needs_fork
def test_it_is_merged_while_it_is_put_together(tmp_path: Path) -> None:
    tars = many_layers(2, count=3, largest=400_000)
    stored = image_of(tmp_path, tars)
    for options in ({"threads": 2}, {"threads": 3, "memory": 32 << 20}, {"verify": "none"}):
        target = tmp_path / f"{len(options)}.tar"
        found, said = flattened(stored, target, **{"threads": 2, "force": True, **options})
        assert found == flatten_layers(tars)
        assert int(said.split()[0]) > 3


# What is not merged while it is put together.
WHOLE: dict[str, tuple[bool, Json]] = {
    "names": (True, {"prefix": "opt"}),
    "root": (True, {"root_entry": True}),
    "gzip for a pipe": (False, {"compression": "gzip"}),
    "newest": (False, {"root_entry": True, "clamp_mtime": 1}),
}


@needs_fork
@pytest.mark.parametrize("way", WHOLE)
def test_processes_put_layers_into_memory_or_on_disk(tmp_path: Path, way: str) -> None:
    stored = image_of(tmp_path, many_layers(4))
    is_file, options = WHOLE[way]
    results = set()
    for number, more in enumerate(
        ({"threads": 1}, {"threads": 2}, {"threads": 3}, {"threads": 2, "memory": 1 << 10})
    ):
        target = tmp_path / f"{number}.tar" if is_file else None
        found, said = flattened(stored, target, **options, **more)
        results.add(found)
        assert said == ("0 4" if number else "0 0")
    assert len(results) == 1


@needs_fork
@pytest.mark.parametrize("failure", ["killed", "too long"])
def test_what_a_process_cannot_put_together_is_read_as_usual(
    tmp_path: Path, failure: str
) -> None:
    stored = image_of(tmp_path, many_layers(5))
    expected, _ = flattened(stored, None, root_entry=True, threads=1)
    more = {}
    if failure == "too long":
        wrong = [one._replace(blob=one.blob._replace(estimate=2000)) for one in stored.layers]  # type: ignore[union-attr]
        stored = Image("it", tuple(wrong), id=stored.id)
        more["memory"] = 20_000
    found, said = flattened(stored, None, failure=failure, root_entry=True, threads=2, **more)
    assert found == expected
    # What this process put there counts: all but what the one that is killed has taken.
    assert said == ("0 0" if failure == "too long" else "0 3")


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", ["changed", "gone"])
def test_a_wrong_layer_is_told(tmp_path: Path, threads: int, what: str, is_whole: bool) -> None:
    tars, target = many_layers(3), tmp_path / "flat.tar"
    stored = image_of(tmp_path, tars)
    names = list(split(tars[1])[1])
    path = Path(os.fsdecode(os.fsencode(tmp_path / "1/diff") + b"/" + names[7]))
    if what == "gone":
        path.unlink()
        problem = f"{path.parent.parent}: '{names[7].decode()}': No such file"
    else:
        path.write_bytes(path.read_bytes()[::-1])
        problem = "its tar: digest is"
    found, said = flattened(stored, target, threads=threads, root_entry=is_whole)
    assert found == b""
    assert not target.exists()
    assert f"ImageError: layer 2/4 {stored.layers[1].diff_id}: {problem}" in said


def test_layers_are_listed_with_their_sizes(tmp_path: Path) -> None:
    tars = many_layers(4, count=2)
    listing = dimgx.inspect(image_of(tmp_path, tars))
    assert [row.size for row in listing.rows] == [len(tar) for tar in reversed(tars)]
    assert {row.stored_size for row in listing.rows} == {None}


def test_raw_and_kept_layers_go_to_a_pipe_without_being_stored(tmp_path: Path) -> None:
    tars, before = many_layers(5, count=2), open_files()
    stored, target = image_of(tmp_path, tars), io.BytesIO()
    told: list[Progress] = []
    nowhere: Any = {"memory": 0, "tmpdir": f"{tmp_path}/none"}
    dimgx.write_raw(stored, target, layers=["@1"], progress=told.append, **nowhere)
    assert target.getvalue() == tars[1]
    assert all(one.total and one.done <= one.total for one in told)
    stored = Image("it", stored.layers, id=stored.id, config=config_of(image(*tars)))
    saved = io.BytesIO()
    dimgx.write_images([stored], saved, form="docker-archive", keep_layers=True, **nowhere)
    assert all(tar in saved.getvalue() for tar in tars)
    assert open_files() == before


@pytest.mark.parametrize(
    "options",
    [
        {}, {"squash_from": "@1"}, {"keep_layers": True}, {"form": "oci-archive"},
        {"keep_layers": True, "layer_compression": "gzip"},
    ],
    ids=str,
)  # fmt: skip
def test_an_image_is_written_as_from_an_archive(tmp_path: Path, options: Json) -> None:
    picture, path = image(*many_layers(6, count=3)), tmp_path / "image.tar"
    path.write_bytes(docker_archive(picture, vintage="25"))
    options = {"form": "docker-archive", **options}
    found, told = [], []
    with opened(f"{path}") as one:
        reference, id, tags, config = one.reference, one.id, one.tags, one.config
        layers, more = one.layers, {"platform": one.platform, "history": one.history}
        stored = image_of(tmp_path, picture.layers).layers
        for blobs in (layers, stored):
            given = Image(reference, blobs, id=id, tags=tags, config=config, **more)
            written, report = io.BytesIO(), dimgx.Report()
            dimgx.write_images([given], written, report=report, **options)
            found.append(written.getvalue())
            told.append(report.document()["images"])
            for row in told[-1][0]["layers"]:
                # These an archive has beside the layers.
                assert (row.pop("stored_size") is None) == (blobs is stored)
                del row["digest"], row["media_type"]
    assert found[0] == found[1]
    assert told[0] == told[1]


def test_too_many_files_are_open(tmp_path: Path) -> None:
    import resource

    from dimgx.cli import _is_out_of_files

    stored = image_of(tmp_path, [layer(file("d/" * 300 + "f", "text"))])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        with pytest.raises(ImageError, match=r"layer 1/1 sha256:.*Too many open files") as caught:
            dimgx.flatten(stored, io.BytesIO())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert _is_out_of_files(caught.value)


# -- the engine's store -------------------------------------------------------------------------


def config_of(picture: Picture) -> Any:
    from dimgx.oci import parse_config

    return parse_config(picture.config_json(), "it")


TARS = [layer(dir_("d"), file("d/a", "text")), layer(whiteout("d/a"), file("b", "b")), layer()]
APP = image(*TARS)
INFO: Json = {
    "Driver": "overlay2",
    "DriverStatus": [["Backing Filesystem", "extfs"], ["Native Overlay Diff", "true"]],
}


def make_root(directory: Path) -> Path:
    """Write an engine's files, with one image."""
    root = directory / "root"
    config = root / f"image/overlay2/imagedb/content/sha256/{APP.id()}"
    config.parent.mkdir(parents=True)
    config.write_bytes(APP.config_json())
    diff_ids = list(map(Digest.parse, APP.diff_ids()))
    for place, (tar, chain_id) in enumerate(zip(TARS, chain_ids(diff_ids), strict=True)):
        cache_id = f"{place}" * 64
        blob = store(root / "overlay2" / cache_id, tar)
        entry = root / "image/overlay2/layerdb/sha256" / chain_id.hex
        entry.mkdir(parents=True)
        Path(blob.record).rename(entry / "tar-split.json.gz")
        (entry / "cache-id").write_text(cache_id)
        (entry / "size").write_text(f"{blob.estimate}")
    return root


def find(root: Path | str, *, verify: bool = True, **changes: Any) -> Image | None:
    info = Fields({**INFO, "DockerRootDir": f"{root}", **changes}, "it")
    id = Digest.parse(f"sha256:{APP.id()}")
    diff_ids = list(map(Digest.parse, APP.diff_ids()))
    with ExitStack() as resources:
        return open_stored(info, id, diff_ids, resources, verify=verify)


@pytest.mark.parametrize("option", ["name=rootless", "name=userns", "rootless"])
def test_a_rootless_engine_keeps_files_whole_without_native_diffs(
    tmp_path: Path, option: str
) -> None:
    told = {"DriverStatus": [["Native Overlay Diff", "false"]],
            "SecurityOptions": ["name=seccomp,profile=default", option]}  # fmt: skip
    found = find(make_root(tmp_path), **told)
    assert (found is not None) == (option == "name=rootless")


def test_an_image_is_found_in_the_store(tmp_path: Path) -> None:
    for verify in (True, False):
        found = find(make_root(tmp_path / f"{verify}"), verify=verify)
        assert found is not None
        assert [read(one.blob) for one in found.layers] == TARS  # type: ignore[arg-type]
        assert [f"{one.diff_id}" for one in found.layers] == APP.diff_ids()
        assert [one.weight for one in found.layers] == [4, 1, 0]
        assert found.config is not None and found.config.data == APP.config_json()
        assert (found.id, f"{found.platform}") == (f"sha256:{APP.id()}", "linux/amd64")
        assert len(found.history) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"Driver": "btrfs"}, {"Driver": None}, {"Driver": 7}, {"DriverStatus": None},
        {"DriverStatus": [["Native Overlay Diff", "false"]]}, {"DriverStatus": "true"},
        {"DriverStatus": [["Native Overlay Diff"], "Native Overlay Diff", 7, None, [1, 2]]},
        {"DriverStatus": {"Native Overlay Diff": "true"}}, {"DockerRootDir": None},
        {"DockerRootDir": "root"}, {"DockerRootDir": 7}, {"DockerRootDir": "/no/such"},
        {"DockerRootDir": "/\0"},
    ],
    ids=str,
)  # fmt: skip
def test_an_engine_that_keeps_its_files_otherwise_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Json
) -> None:
    monkeypatch.chdir(tmp_path)  # where `root` is
    assert find(make_root(tmp_path), **changes) is None


@pytest.mark.parametrize(
    ("part", "data"),
    [
        ("layerdb/sha256/*/cache-id", None), ("layerdb/sha256/*/cache-id", b"../../" + b"1" * 64),
        ("layerdb/sha256/*/cache-id", b""), ("layerdb/sha256/*/cache-id", b".."),
        ("layerdb/sha256/*/cache-id", b"\xff"), ("layerdb/sha256/*/cache-id", b"2" * 64 + b"\n/"),
        ("layerdb/sha256/*/size", None), ("layerdb/sha256/*/size", b"-1"),
        ("layerdb/sha256/*/size", b"many"), ("layerdb/sha256/*/size", b"9" * 5000),
        ("layerdb/sha256/*/tar-split.json.gz", None), ("../../overlay2/*/diff", None),
        ("imagedb/content/sha256/*", None), ("imagedb/content/sha256/*", b"{"),
        ("imagedb/content/sha256/*", APP.config_json() + b" "),
        ("imagedb/content/sha256/*", image(*TARS[:2]).config_json()),
    ],
)  # fmt: skip
def test_what_is_not_all_there_is_asked_for(tmp_path: Path, part: str, data: bytes | None) -> None:
    root = make_root(tmp_path)
    path = sorted((root / "image/overlay2").glob(part))[-1]
    path.rename(tmp_path / "old")
    if data is not None:
        path.write_bytes(data)
    assert find(root) is None


def test_the_config_of_an_image_with_other_layers_is_not_taken(tmp_path: Path) -> None:
    """Whether digests are checked or not."""
    root = make_root(tmp_path)
    path = root / f"image/overlay2/imagedb/content/sha256/{APP.id()}"
    path.write_bytes(image(TARS[0], TARS[0], TARS[2]).config_json())
    assert find(root, verify=False) is None
