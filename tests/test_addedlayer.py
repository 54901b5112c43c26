"""Files of one's own on top: tars and directories of this machine as layers."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dimgx.errors import Cancelled, ImageError, SourceError
from dimgx.extractor import open_flat
from dimgx.image import Layer
from dimgx.images import addedlayer
from dimgx.images.addedlayer import open_added_layer
from dimgx.recipe import Recipe
from dimgx.spool import SpoolSpace
from tests.dsl import END, dir_, file, hardlink, layer, symlink, whiteout
from tests.listing import list_tar, raw_members, read_tar
from tests.opened import plain
from tests.programs import need, need_root, run
from tests.writers import compress

needs_posix = pytest.mark.skipif(os.name != "posix", reason="modes, FIFOs and links of POSIX")


@contextmanager
def added(path: Path | str, **more: Any) -> Iterator[Layer]:
    with ExitStack() as stack:
        space = stack.enter_context(SpoolSpace(1 << 20))
        yield open_added_layer(str(path), space, stack, **more)


def tar_of(path: Path | str) -> bytes:
    """Give the plain tar that a tar or a directory is, having checked its diff_id."""
    with added(path) as one:
        tar = plain(one)
        assert str(one.diff_id) == f"sha256:{hashlib.sha256(tar).hexdigest()}"
    return tar


def over(base: bytes, path: Path, tmp_path: Path) -> list[str]:
    """Give the listing of a layer with what `path` is on top of it."""
    below = tmp_path / "below.tar"
    below.write_bytes(base)
    with (
        added(below) as lower,
        added(path) as upper,
        open_flat([lower, upper], Recipe()) as flat,
    ):
        pieces: list[bytes] = []
        flat.emit(lambda piece: pieces.append(bytes(piece)))
        flat.verify()
    return list_tar(b"".join(pieces))


BASE = layer(
    dir_("root", mode=0o700, mtime=3), dir_("tmp", mode=0o1777), dir_("etc", uid=5),
    file("etc/a", "old", mode=0o600, uid=5), file("etc/b", "b"),
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    for name in ("etc/new", "root", "tmp", "empty"):
        (top / name).mkdir(parents=True)
        (top / name).chmod(0o755)
    (top / "etc").chmod(0o755)
    for name, data in (("etc/a", "new"), ("root/k", "key"), ("tmp/t", ""), ("etc/.wh.b", "")):
        (top / name).write_text(data)
        (top / name).chmod(0o644)
    (top / "root/k").chmod(0o600)
    return top


@needs_posix
def test_a_directory_on_top(tree: Path, tmp_path: Path) -> None:
    assert over(BASE, tree, tmp_path) == [
        "d empty", "d etc owner=5:0", "f etc/a 'new'", "d etc/new", "d root mode=700 mtime=3",
        "f root/k 'key' mode=600", "d tmp mode=1777", "f tmp/t ''",
    ]  # fmt: skip


@needs_posix
def test_what_a_directory_becomes(tree: Path) -> None:
    (tree / "root").chmod(0o2750)
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o4755)
    os.symlink("../nowhere", tree / "etc" / "link")
    os.mkfifo(tree / "pipe")
    (tree / "pipe").chmod(0o622)
    os.link(tree / "run", tree / "a-name")
    os.utime(tree / "run", (5, 5))
    assert list_members(tar_of(tree)) == [
        "f a-name mode=4755", "d empty/", "f etc/.wh.b", "f etc/a", "l etc/link -> ../nowhere",
        "d etc/new/", "p pipe mode=622", "d root/ mode=2750", "f root/k mode=600",
        "h run = a-name mode=4755", "f tmp/t",
    ]  # fmt: skip


def list_members(tar: bytes) -> list[str]:
    """Give each member in its order, markers too; owners and times have to be zero."""
    flags = {b"0": "f", b"1": "h", b"2": "l", b"5": "d", b"6": "p"}
    usual = {"f": 0o644, "h": 0o644, "l": 0o777, "d": 0o755, "p": 0o644}
    lines = []
    for member in raw_members(tar):
        kind, mode = flags[member.flag], member.number(100, 8)
        line = f"{kind} {member.name.decode()}"
        if member.target:
            line += (" -> " if kind == "l" else " = ") + member.target.decode()
        lines.append(line + (f" mode={mode:o}" if mode != usual[kind] else ""))
        assert [member.number(at, width) for at, width in ((108, 8), (116, 8), (136, 12))] == [
            0
        ] * 3
    return lines


@needs_posix
def test_the_same_files_give_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run(["cp", "-r", tree, other])  # another place, other times, another order on disk
    for path in (other / "etc" / "a", other / "tmp"):
        os.utime(path, (1, 1))
    (other / "zz").touch()
    (other / "zz").unlink()
    (other / "root/k").chmod(0o600)
    assert tar_of(other) == tar_of(tree) == tar_of(f"{tree}/")


def test_long_names_and_large_files(tmp_path: Path) -> None:
    top = tmp_path / "top"
    deep = top.joinpath(*["d" * 90] * 3)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"x" * 2_500_001)
    (member,) = raw_members(tar_of(top))
    assert member.name == b"/".join([*[b"d" * 90] * 3, b"file"])
    assert member.data == b"x" * 2_500_001


def test_an_empty_directory(tmp_path: Path) -> None:
    assert tar_of(tmp_path) == END


@needs_posix
def test_names_of_any_bytes(tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("its file system refuses such names")
    (tmp_path / "a\nb").touch()
    with open(os.fsencode(tmp_path) + b"/\xff", "wb"):
        pass
    assert [node.path for node in read_tar(tar_of(tmp_path))] == [b"a\nb", b"\xff"]


def test_capabilities_stay_and_other_attributes_do_not(tmp_path: Path) -> None:
    need_root()
    path = tmp_path / "ping"
    path.touch()
    run([need("setcap"), "cap_net_raw+ep", path])
    os.setxattr(path, "user.origin", b"x")
    (node,) = read_tar(tar_of(tmp_path))
    assert list(node.xattrs) == [b"security.capability"]
    assert node.xattrs[b"security.capability"] == os.getxattr(path, "security.capability")


def test_devices(tmp_path: Path) -> None:
    need_root()
    os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    (tmp_path / "null").chmod(0o666)
    os.mknod(tmp_path / "disk", 0o60660, os.makedev(8, 300))
    (tmp_path / "disk").chmod(0o660)
    assert list_tar(tar_of(tmp_path)) == ["b disk 8,300 mode=660", "c null 1,3 mode=666"]


OWN = layer(
    dir_("etc", mode=0o700, uid=7), file("etc/a", "1", uid=7, mtime=9), hardlink("b", "etc/a"),
    symlink("c", "etc"), whiteout("d"),
)  # fmt: skip


@pytest.mark.parametrize("kind", [None, "gzip", "bzip2", "xz", "zstd"])
def test_a_tar_is_taken_as_it_is(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "own.tar"
    path.write_bytes(compress(OWN, kind))
    assert tar_of(path) == OWN


def test_a_plain_tar_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "own.tar"
    path.write_bytes(OWN)
    with ExitStack() as stack:
        space = stack.enter_context(SpoolSpace(1 << 20))
        open_added_layer(str(path), space, stack)
        assert space.used == 0


@needs_posix
@pytest.mark.parametrize("data", [OWN, gzip.compress(OWN, mtime=0)])
def test_a_tar_from_a_pipe(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    try:
        assert tar_of(path) == OWN
    finally:
        writer.join()


def test_a_tar_of_gnu_tar(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "wsl.conf").write_text("[boot]\nsystemd=true\n")
    words = ["--owner=0", "--group=0", "--mode=644", "--mtime=@0", "-C", tmp_path / "in"]
    run([need("tar"), *words, "-czf", tmp_path / "own.tgz", "./wsl.conf"])
    assert over(layer(file("x")), tmp_path / "own.tgz", tmp_path) == [
        "f wsl.conf '[boot]\\nsystemd=true\\n'", "f x ''",
    ]  # fmt: skip


def test_gnu_tar_unpacks_what_a_directory_becomes(tree: Path, tmp_path: Path) -> None:
    (tree / "etc/.wh.b").unlink()
    out = tmp_path / "out"
    out.mkdir()
    run([need("tar"), "-xp", "-C", out], stdin=tar_of(tree))
    subprocess.run(["diff", "-r", tree, out], check=True)


def problem(path: Path | str, error: type[Exception]) -> str:
    with pytest.raises(error) as raised, added(path):
        pass
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_is_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "own.tar"
    path.write_bytes(b"no tar at all" * 100)
    assert problem(path, ImageError).startswith(f"{path} is no tar: ")
    path.write_bytes(b"")
    assert problem(path, ImageError) == f"{path} is no tar: it is empty"
    assert problem("/dev/null", ImageError) == "/dev/null is no tar: it is empty"
    path.write_bytes(gzip.compress(b"no tar at all" * 100))
    assert problem(path, ImageError).startswith(f"{path} is no tar: ")
    path.write_bytes(compress(OWN, "gzip")[:-9])
    assert problem(path, ImageError).startswith(f"{path}: ")


def test_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "own.tar"
    assert problem(path, SourceError) == f"{path} cannot be added: No such file or directory"


@needs_posix
def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path has to be short
        try:
            made.bind("socket")
        finally:
            os.chdir(here)
        assert problem(tmp_path, SourceError).endswith(
            "/socket cannot be added: no tar holds a socket"
        )


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 3_000_000)

    def grow() -> None:
        with (tmp_path / "a").open("ab") as stream:
            stream.write(b"2")

    with (
        pytest.raises(SourceError, match=r"/a changed while it was read: run this again$"),
        added(tmp_path, tick=grow),
    ):
        pass


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 3_000_000)
    with (
        pytest.raises(SourceError, match=r"/a changed while it was read: run this again$"),
        added(tmp_path, tick=lambda: os.truncate(tmp_path / "a", 10)),
    ):
        pass


def test_a_file_that_is_another_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(path: bytes) -> int:
        (tmp_path / "other").replace(os.fsdecode(path))
        return open_read(path)

    open_read = addedlayer.open_read
    monkeypatch.setattr(addedlayer, "open_read", late)
    for name in ("a", "other"):
        (tmp_path / name).write_bytes(b"1")
    with (
        pytest.raises(SourceError, match=r"/a changed while it was read: run this again$"),
        added(tmp_path),
    ):
        pass


def test_a_plain_tar_that_changes_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "own.tar"
    path.write_bytes(OWN)
    with added(path) as one:
        path.write_bytes(OWN[:1024] + b"?" + OWN[1025:])
        with open_flat([one], Recipe()) as flat, pytest.raises(ImageError, match="its tar"):
            flat.verify()


def test_who_waits_may_give_up(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 3_000_000)

    def cancel() -> None:
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled), added(tmp_path, tick=cancel):
        pass
