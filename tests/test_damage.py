"""Damaged layers, full disks and readers that go away: right, or one line and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dimgx
from dimgx.errors import DimgxError, ImageError, SourceError
from tests.cases import flatten_layers
from tests.dsl import (
    Member,
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
from tests.leftovers import open_files, running_threads
from tests.listing import read_tar
from tests.programs import CHECKOUT, need_root, refused, run
from tests.programs import dimgx as run_dimgx
from tests.writers import Compression, Picture, compress, docker_archive, image

LOWER = layer(dir_("d", mode=0o700), file("d/a", b"x" * 700), hardlink("b", "d/a"), file("c"))
UPPER = layer(
    raw(pax_header([(b"comment", b"x")], b"g")),
    file("./d/n", "new", mtime="1.5", xattrs={"user.a": b"1"}),
    file("L" * 120, "long", dialect="gnu"),
    symlink("s", "t" * 120),
    sparse("p", [(3, b"data")], 600, "1.0"),
    sparse("q", [(3, b"data")], 600, "gnu"),
    hardlink("d/h", "d/n"),
    chardev("e", 1, 3),
    whiteout("b"),
    opaque("o"),
    file("v", "7", dialect="v7"),
)
KINDS: list[Compression | None] = ["gzip", "bzip2", "xz", "zstd"]
BIG = layer(*[file(f"f{number:03}", bytes([number]) * 100_000) for number in range(60)])


def outcome(layers: list[bytes]) -> bytes | None:
    """Flatten; what comes out keeps every promise, what does not is an error of one line."""
    try:
        tar = flatten_layers(layers)
    except ImageError as error:
        assert str(error).isprintable(), error
        return None
    read_tar(tar)
    return tar


def cut_points(length: int) -> Iterator[int]:
    """Every byte where something begins or ends, and some in between."""
    for at in range(length):
        if at % 512 in (0, 1, 2, 100, 124, 148, 156, 157, 257, 345, 500, 510, 511):
            yield at


def test_a_layer_cut_anywhere_is_an_error_or_ends_at_a_member() -> None:
    right = {outcome([LOWER, UPPER[:at]]) for at in range(0, len(UPPER) + 1, 512)} - {None}
    for at in cut_points(len(UPPER)):
        found = outcome([LOWER, UPPER[:at]])
        assert found is None or found in right, at


def test_which_of_two_damaged_layers_is_told_does_not_depend_on_threads() -> None:
    # The larger one is begun first and ends last.
    small = bytearray(compress(UPPER, "gzip"))
    large = bytearray(compress(BIG + os.urandom(512) * 4000, "bzip2"))
    small[-5] ^= 1
    large[-9] ^= 1
    told = set()
    for threads in (1, 2, 2, 3):
        with pytest.raises(ImageError) as raised:
            flatten_layers([bytes(small), bytes(large)], threads=threads)
        told.add(str(raised.value))
    assert len(told) == 1 and "layer 2/2" in told.pop()


def test_a_layer_cut_anywhere_is_an_error_where_its_digest_is_known(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    target = tmp_path / "flat.tar"
    for at in range(0, len(UPPER), 509):
        # The config has the digests of the whole layers.
        whole = image(LOWER, UPPER)
        cut = Picture([LOWER, UPPER[:at]], config={"rootfs": {"diff_ids": whole.diff_ids()}})
        path.write_bytes(docker_archive(cut, vintage="digest.tar"))
        with pytest.raises(ImageError), dimgx.open_image(str(path)) as opened:
            dimgx.flatten(opened, target)
        assert os.listdir(tmp_path) == ["image.tar"]


def test_a_flipped_bit_in_a_header_is_an_error_or_keeps_all_promises() -> None:
    for at in range(0, len(UPPER) - 1024, 5):
        damaged = bytearray(UPPER)
        damaged[at] ^= 1 << (at % 8)
        outcome([LOWER, bytes(damaged)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_layer_cut_at_every_byte_is_an_error(kind: Compression) -> None:
    packed = compress(UPPER, kind)
    for at in range(1, len(packed), 2):
        if kind == "zstd" or at > 4:  # what is cut that short is no stream of that kind, and no tar
            assert outcome([LOWER, packed[:at]]) is None, at


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_in_a_compressed_layer(kind: Compression) -> None:
    packed = compress(UPPER, kind)
    right = flatten_layers([LOWER, UPPER])
    for at in range(len(packed)):
        damaged = bytearray(packed)
        damaged[at] ^= 1 << (at % 8)
        found = outcome([LOWER, bytes(damaged)])
        # Only zstd has no check of its own here; gzip's header has fields that mean nothing.
        assert found in (None, right) or kind == "zstd", at


def test_nothing_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(docker_archive(image(LOWER, compress(UPPER, "gzip")[:-3])))
    files, running = open_files(), running_threads()
    for _ in range(5):
        with pytest.raises(DimgxError), dimgx.open_image(str(path), verify="none") as opened:
            dimgx.flatten(opened, tmp_path / "flat.tar", verify="none")
    assert not open_files() - files and not running_threads() - running
    assert os.listdir(tmp_path) == ["image.tar"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    need_root()
    place = tmp_path / "small"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place])
    yield place
    run(["umount", place])


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.zst", "tar.xz", "tar.bz2"])
def test_a_full_disk_at_the_target(small_disk: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "image.tar"
    noise = b"".join(os.urandom(100_000) for _ in range(30))
    path.write_bytes(docker_archive(image(layer(file("noise", noise)))))
    code, told = refused(path, "-t", small_disk / f"flat.{suffix}")
    assert code == 2 and "space" in told.lower()
    assert os.listdir(small_disk) == []


def test_a_full_disk_behind_an_older_target(small_disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(docker_archive(image(BIG)))
    target = small_disk / "flat.tar"
    target.write_bytes(b"what was there before")
    refused(path, "-w", "-t", target)
    assert os.listdir(small_disk) == ["flat.tar"]
    assert target.read_bytes() == b"what was there before"


def test_a_full_disk_for_temporary_files(small_disk: Path) -> None:
    noise = b"".join(os.urandom(100_000) for _ in range(30))
    packed = compress(layer(file("noise", noise)), "gzip")
    with pytest.raises(DimgxError, match="the disk is full"):
        flatten_layers([packed], memory=0, tmpdir=str(small_disk))
    assert os.listdir(small_disk) == []


def start(*words: str | Path, **more: object) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "dimgx", *map(str, words)]
    return subprocess.Popen(command, env=env, **more)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("words", [(), ("-z",), ("--zstd",)])
def test_a_reader_that_goes_away(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "image.tar"
    noise = [file(f"f{number}", os.urandom(100_000)) for number in range(30)]
    path.write_bytes(docker_archive(image(layer(*noise))))
    process = start("-t", "-", *words, path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert len(process.stdout.read(1)) == 1
    process.stdout.close()
    assert process.wait(60) == -signal.SIGPIPE
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_works(tmp_path: Path, number: signal.Signals) -> None:
    """A FIFO that nobody feeds any further holds the program in the middle of an archive."""
    archive = docker_archive(image(BIG))
    target = tmp_path / "out" / "flat.tar.xz"
    target.parent.mkdir()
    process = start("-t", target, "-", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(archive[: len(archive) // 2])
    process.stdin.flush()
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(60) == -number
    assert process.stderr.read().count(b"\n") <= 1
    assert os.listdir(target.parent) == []
    process.stdin.close()
    process.stderr.close()


def test_an_interrupted_pipe_is_an_error(tmp_path: Path) -> None:
    """What a failed `docker save` leaves in the pipe is not taken for an image."""
    archive = docker_archive(image(LOWER, UPPER))
    for cut in (0, 1, 511, 512, 5000, len(archive) // 2, len(archive) - 1500):
        code, _ = refused("-", "-t", tmp_path / "flat.tar", stdin=archive[:cut])
        assert code == 2, cut
        assert os.listdir(tmp_path) == []
    tar = run_dimgx("-t", "-", "-", stdin=archive).stdout
    assert tar == flatten_layers([LOWER, UPPER])


MANY = [file(f"f{n}", bytes(1000)) for n in range(4000)]
"""More than is written at once, as is the one below."""
ONE = [file("big", bytes(8 << 20))]


@pytest.mark.parametrize("members", [MANY, ONE], ids=["many", "one"])
def test_an_image_that_is_cut_while_it_is_written_out(
    members: list[Member], tmp_path: Path
) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(docker_archive(image(layer(*members))))

    def cut(now: dimgx.Progress) -> None:
        if now.phase == "write":
            os.truncate(path, 3 << 20)

    with (
        dimgx.open_image(path) as found,
        pytest.raises(ImageError, match=r"^a layer's tar ends [0-9]+ bytes early: it changed"),
    ):
        dimgx.flatten(found, tmp_path / "flat.tar", progress=cut)
    assert [*tmp_path.iterdir()] == [path]


def test_an_image_that_is_cut_while_its_files_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(docker_archive(image(layer(*ONE))))
    with dimgx.open_image(path) as found, dimgx.open_tree(found) as tree:
        os.truncate(path, 3 << 20)
        with pytest.raises(SourceError, match=r"image\.tar changed while it was read"):
            list(tree.open(b"big"))
