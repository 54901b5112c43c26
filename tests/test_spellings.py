"""What tar programs write for one and the same tree, each in its own way, means the same."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cases import flatten_layers, open_layers
from tests.engines import read_tree
from tests.listing import full_listing, read_tar
from tests.programs import need, need_root, run

DEEP = "opt/lib/node_modules/a-package-with-a-name/node_modules/another-one/dist/internal/of/it"
CAPABILITY = bytes.fromhex("0100000200040000") + bytes(12)
GNU = ("tar", "--sort=name")
BSD = ("bsdtar",)

# Programs, and whether they keep extended attributes.
WRITERS: dict[str, tuple[tuple[str, ...], bool]] = {
    "GNU tar": ((*GNU, "--format=gnu"), False),
    "GNU tar, posix": ((*GNU, "--format=posix"), False),
    "GNU tar, posix, xattrs": (
        (*GNU, "--format=posix", "--xattrs", "--xattrs-include=*"), True,
    ),
    "GNU tar, posix, no times": ((*GNU, "--format=posix", "--pax-option=delete=?time"), False),
    "GNU tar, in no order": (("tar", "--sort=none", "--format=gnu"), False),
    "bsdtar, pax": ((*BSD, "--format=pax"), True),
    "bsdtar, restricted pax": ((*BSD, "--format=paxr"), True),
    "bsdtar, gnutar": ((*BSD, "--format=gnutar"), False),
    "busybox": (("busybox", "tar"), False),
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with names and link targets of all lengths, in which times have fractions."""
    need_root()
    top = tmp_path_factory.mktemp("spellings") / "tree"
    deep = top / DEEP
    deep.mkdir(parents=True)
    for length in (1, 7, 8, 9, 10, 40, 100, 155, 200, 255):
        path = deep / "n".ljust(length, "n")
        path.write_bytes(b"x" * length)
        os.symlink("t" * (length + 60), deep / "s".ljust(length, "s"))
        os.link(path, top / f"h{length}")
    (top / "owned").write_bytes(b"1")
    os.chown(top / "owned", 1234, 4321)
    (top / "ping").write_bytes(b"2" * 700)
    os.setxattr(top / "ping", "security.capability", CAPABILITY)
    (top / "größe-\N{SNOWMAN}").write_bytes(b"3")
    (deep / "empty").mkdir(mode=0o700)
    for number, path in enumerate(sorted(top.rglob("*"))):
        time_ns = (1_500_000_000 + number) * 10**9 + 250_000_000 * (number % 3)
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
    return top


def expected_of(tree: Path, *, with_xattrs: bool) -> str:
    nodes = read_tree(tree)
    return full_listing(nodes if with_xattrs else [replace(one, xattrs={}) for one in nodes])


def flat_of(tar: bytes) -> bytes:
    """Flatten a layer, and see that no member had to be parsed alone but the root."""
    with open_layers([tar]) as flat:
        (index,) = flat._emitter._indexes
        flat_codes = bytes(index.codes)
    assert flat_codes.translate(None, bytes(range(64))) in (b"", bytes((64,))), "parsed alone"
    flat_tar = flatten_layers([tar])
    assert flatten_layers([flat_tar]) == flat_tar, "flattening the flattened changes it"
    return flat_tar


@pytest.mark.parametrize("where", [".", "*"])
@pytest.mark.parametrize("writer", WRITERS)
def test_programs(writer: str, where: str, tree: Path) -> None:
    command, with_xattrs = WRITERS[writer]
    need(command[0])
    names = [where] if where == "." else sorted(map(str, os.listdir(tree)))
    tar = run([*command, "-C", tree, "-cf", "-", *names]).stdout
    flat = flat_of(tar)
    assert full_listing(read_tar(flat)) == expected_of(tree, with_xattrs=with_xattrs)


@pytest.mark.parametrize("name", ["pax", "gnu"])
def test_python(name: str, tree: Path) -> None:
    form = tarfile.PAX_FORMAT if name == "pax" else tarfile.GNU_FORMAT
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for one in sorted(os.listdir(tree)):
            tar.add(tree / one, one)
    flat = flat_of(stream.getvalue())
    assert full_listing(read_tar(flat)) == expected_of(tree, with_xattrs=False)
