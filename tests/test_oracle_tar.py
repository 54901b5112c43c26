"""Programs that read tars, extracting our output as root, as oracles for the output."""

from __future__ import annotations

import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimgx.errors import ImageError
from tests import model
from tests.cases import flatten_members
from tests.dsl import (
    Member,
    base256,
    blockdev,
    chardev,
    dir_,
    fifo,
    file,
    hardlink,
    octal,
    opaque,
    sparse,
    symlink,
    whiteout,
)
from tests.engines import comparable, read_tree
from tests.listing import Node, read_tar, short_listing
from tests.programs import need, need_root, public_directory, run

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
LAYERS: list[list[Member]] = [
    [
        dir_("bin", mode=0o755, mtime=1_600_000_000),
        file("bin/ping", b"\x7fELF" * 500, mode=0o755, xattrs={"security.capability": CAPABILITY}),
        file("bin/su", "suid", mode=0o4755, mtime=1_500_000_000),
        hardlink("bin/sudo", "bin/su", mode=0o4755, mtime=1_500_000_000),
        dir_("closed", mode=0o500, mtime=5),
        file("closed/inside", "x", mode=0o400),
        dir_("dev"),
        chardev("dev/null", 1, 3, mode=0o666),
        blockdev("dev/sda", 8, 300, mode=0o660, gid=6),
        fifo("dev/pipe", mode=0o600),
        dir_("etc"),
        file("etc/old", "old"),
        symlink("lib", "usr/lib", uid=7, gid=8),
        symlink("etc/dangling", "/no/such/place"),
        symlink("etc/long", "t/" * 80 + "end"),
        file("etc/" + "n" * 150, "long", dialect="gnu"),
        file(
            "/".join(["deep" * 20] * 4) + "/f",
            "deep",
            dialect="pax",
            mtime="1.5",  # sqfstar 4.5 reads no times without a fraction in PAX records
            overlay={136: octal(1, 12)},
        ),
        file(b"etc/\xff\xfe\n", "bytes"),
        file(
            "etc/\u00e9\u4e2d",
            "unicode",
            mtime="1700000000.123456789",
            overlay={136: octal(1_700_000_000, 12)},  # busybox reads no times in PAX records
        ),
        sparse("var/sparse", [(4096, b"data" * 100), (100_000, b"end")], 1_000_000, "1.0"),
        sparse("var/older", [(4096, b"data" * 100), (100_000, b"end")], 300_000, "gnu"),
        file("var/big", uid=3_000_000_000, gid=2_500_000, data=b"x" * 70_000),
        dir_("tmp", mode=0o1777, xattrs={"user.note": b"kept"}),
        file("usr/lib/a", "a", xattrs={"user.k": b"v"}),
        hardlink("a-first-name", "usr/lib/a"),
        file("./v7", "v7", dialect="v7"),
        file("tmp/seven", "7", typeflag=b"7"),
        file("tmp/named", uname=b"daemon", gname=b"daemon", uid=4242, gid=4243),
    ],
    [
        whiteout("etc/old"),
        opaque("var"),
        file("var/new"),
        sparse("var/sparse", [(0, b"start"), (50_000, b"more")], 60_000, "0.1"),
        whiteout("bin/su"),
        file("usr/lib/b", "b", mtime=0),
        symlink("sbin", "bin"),
        file("sbin/tool", "through the symlink", mode=0o755),
    ],
]


@pytest.fixture(scope="module")
def tar() -> bytes:
    need_root()
    return flatten_members(LAYERS)


def expected() -> list[Node]:
    return model.nodes_of(model.flatten(LAYERS))


def gnu_tar(tar: bytes, root: Path) -> None:
    run([need("tar"), "--xattrs", "--xattrs-include=*", "-xp", "-C", root], stdin=tar)


def bsd_tar(tar: bytes, root: Path) -> None:
    run([need("bsdtar"), "--xattrs", "-xp", "-f", "-", "-C", root], stdin=tar)


def busybox_tar(tar: bytes, root: Path) -> None:
    run([need("busybox"), "tar", "-xp", "-f", "-", "-C", root], stdin=tar)


def python_tar(tar: bytes, root: Path) -> None:
    path = root.parent / "flat.tar"
    path.write_bytes(tar)
    with tarfile.open(path, errorlevel=2) as reader:
        reader.extractall(root, numeric_owner=True, filter="fully_trusted")


def squashfs(tar: bytes, root: Path) -> None:
    path = root.parent / "root.squashfs"
    run([need("sqfstar"), "-quiet", "-no-progress", "-root-mode", "755", path], stdin=tar)
    run([need("unsquashfs"), "-quiet", "-no-progress", "-force", "-dest", root, path])


NO_XATTRS = {"xattrs": False}
READERS: list[tuple[Callable[[bytes, Path], None], dict[str, bool]]] = [
    (gnu_tar, {}),
    (bsd_tar, {}),
    (
        busybox_tar,
        {"directory_times": False, "symlink_times": False, "symlink_owners": False} | NO_XATTRS,
    ),
    (python_tar, {"symlink_times": False} | NO_XATTRS),
    (squashfs, {}),
]


@pytest.mark.parametrize(("reader", "kept"), READERS)
def test_extracting_gives_the_models_tree(
    reader: Callable[[bytes, Path], None], kept: dict[str, bool], tar: bytes, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    reader(tar, root)
    found = comparable(read_tree(root), **kept)
    assert short_listing(found) == short_listing(comparable(expected(), **kept))


def test_nobody_else_may_extract_it_too() -> None:
    """Without root, with a plain `tar -x`: a directory's members come before its mode is set."""
    need_root()
    members = [
        dir_("closed", mode=0o555, mtime=1_000_000),
        file("closed/a", "x"),
        dir_("closed/deeper", mode=0o500, mtime=2_000_000),
        file("closed/deeper/b", "y"),
        hardlink("closed/c", "closed/a"),
    ]
    tar = flatten_members([members, [file("closed/z", "late")]])
    with public_directory() as root:
        subprocess.run(
            [need("tar"), "-x", "-C", str(root)], input=tar, check=True, user=65534, group=65534
        )
        assert [(n.path, n.mode, n.mtime) for n in read_tree(root) if n.kind == "d"] == [
            (b"closed", 0o555, 1_000_000),
            (b"closed/deeper", 0o500, 2_000_000),
        ]


def test_listing_by_gnu_tar_is_without_a_word_of_complaint(tar: bytes) -> None:
    done = run([need("tar"), "-tv"], stdin=tar, env={"LC_ALL": "C"})
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) == len(expected())


@st.composite
def spellings(draw: st.DrawFn, number: int, width: int) -> bytes:
    """A number as some writer may have put it into a field, and as none ever did."""
    digits = b"%o" % number
    fill = st.lists(st.sampled_from([b"\0", b" ", b"0"]), max_size=width - len(digits))
    before = b"".join(draw(fill))
    behind = draw(st.sampled_from([b"\0", b" ", b"\0" * width, b" " * width, b" \0" * width]))
    return draw(
        st.sampled_from(
            [
                (before + digits + behind)[:width].ljust(width, b"\0"),
                (b"0" * width + digits)[-width:],
                (b" " * width + digits + behind[:1])[-width:],
                base256(number, width),
                bytes(width),
            ]
        )
    )


@st.composite
def odd_files(draw: st.DrawFn) -> Member:
    payload = draw(st.sampled_from([b"", b"x", file("evil", mode=0o4755).encode() * 2]))
    uid = draw(st.sampled_from([0, 5, 8**7]))
    numbers = {100: 0o4755, 108: uid, 116: 6, 124: len(payload), 136: 1_234_567, 329: 0, 337: 3}
    overlay = {
        at: draw(spellings(number, 12 if at in (124, 136) else 8))
        for at, number in numbers.items()
        if draw(st.integers(0, 3)) == 0
    }
    dialect = draw(st.sampled_from(["ustar", "gnu"]))
    if dialect == "gnu" and draw(st.booleans()):
        overlay[draw(st.sampled_from([345, 357, 386, 483]))] = octal(700, 12)
    records: list[tuple[bytes, bytes]] = []
    if uid < 8**7:  # else only a record can say it, and busybox reads none
        said = {b"uid": b"5", b"gid": b"7", b"size": b"%d" % len(payload), b"mtime": b"5.5"}
        keys = draw(st.lists(st.sampled_from(sorted(said)), unique=True, max_size=2))
        records = [(key, said[key]) for key in keys]
    return file("f", payload, dialect=dialect, overlay=overlay, records=tuple(records))


@given(st.lists(odd_files(), min_size=1, max_size=6))
def test_all_read_of_odd_numbers_what_the_index_says(odd: list[Member]) -> None:
    members = [one.but(name=b"f%d" % i) for i, one in enumerate(odd)]
    try:
        tar = flatten_members([[*members, file("z", "end")]])
    except ImageError:
        return
    found = [
        (stat.filemode(stat.S_IFREG | n.mode), f"{n.uid}/{n.gid}", len(n.data), n.path.decode())
        for n in read_tar(tar)
    ]
    numeric = "--numeric-owner"
    commands = ((need("tar"), numeric), (need("bsdtar"), numeric), (need("busybox"), "tar"))
    listed = [run([*command, "-tvf", "-"], stdin=tar, env={"LC_ALL": "C"}) for command in commands]
    assert [done.stderr for done in listed] == [b""] * 3
    gnu, bsd, box = (
        [line.split() for line in done.stdout.decode().splitlines()] for done in listed
    )
    assert [(line[0], line[1], int(line[2]), line[-1]) for line in gnu] == found
    assert [(line[0], "/".join(line[2:4]), int(line[4]), line[-1]) for line in bsd] == found
    assert [(line[0], line[1], int(line[2]), line[-1]) for line in box] == found
