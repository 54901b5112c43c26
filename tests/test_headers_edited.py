"""Headers that are changed as bytes must say what the same headers say that are written anew."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dimgx.layers import tarbatch
from dimgx.layers.layerindex import REWRITE
from dimgx.layers.tarfields import Header
from dimgx.layers.tarheader import read_header
from tests.cases import flatten_layers, open_members
from tests.dsl import (
    Member,
    dir_,
    extended,
    file,
    gnu_long,
    hardlink,
    layer,
    octal,
    pax_header,
    raw,
    symlink,
)
from tests.listing import full_listing, read_tar
from tests.programs import need, run
from tests.test_tarhop import all_of

FOREIGN: list[tuple[bytes, bytes]] = [
    (b"comment", b"made by hand"),
    (b"comment", b"x" * 600),
    (b"comment", b""),
    (b"LIBARCHIVE.creationtime", b"1700000000.5"),
    (b"SCHILY.ino", b"17"),
    (b"SCHILY.xattr.trusted.k", b"v"),
    (b"a key = with\n", b" path=no"),
    (b"hdrcharset", b"BINARY"),
]
KEPT: list[tuple[bytes, bytes]] = [
    (b"mtime", b"1700000000.123456789"),
    (b"mtime", b"999.5"),
    (b"mtime", b"1000"),
    (b"mtime", b"1001.000"),
    (b"atime", b"5.5"),
    (b"ctime", b"6"),
    (b"SCHILY.xattr.user.path", b"9 path=wrong\n"),
    (b"SCHILY.xattr.user.e", b""),
    (b"SCHILY.xattr.security.capability", bytes(range(20)) * 22),
    (b"SCHILY.acl.access", b"user::rw-"),
    (b"RHT.security.selinux", b"l:m:n"),
]
# Around all sizes at which a name fits into a header, or takes one block less without its lead.
LENGTHS = st.sampled_from(
    [3, 60, 97, 98, 99, 100, 101, 102, 103, 104, 150, 250, 255, 480, *range(488, 516), 1000]
)


@st.composite
def spelled(draw: st.DrawFn, number: int) -> Member:
    """Draw a member in a spelling that some tool has."""
    length = draw(LENGTHS)
    # Each directory on the way is a member of the result, so there are few.
    way = ("/" + "d" * 20) * (length // 60)
    name = draw(st.sampled_from(["", "./", "/"])) + f"top/{number:03}{way}"
    name = name.ljust(length, "n")
    more: dict[str, Any] = {
        "dialect": draw(st.sampled_from(["ustar", "gnu", "gnu"])),
        "mtime": draw(st.sampled_from([0, 999, 1000, 1001, 1 << 31])),
        "uid": draw(st.sampled_from([0, 0, 1000])),
        "uname": draw(st.sampled_from([b"", b"root", b"user"])),
    }
    if draw(st.booleans()):
        extra = draw(st.lists(st.sampled_from([*FOREIGN, *KEPT]), max_size=4))
        more["records"] = tuple({record[0]: record for record in extra}.values())
    if draw(st.integers(0, 4)) == 0:
        more["records"] = (*more.get("records", ()), (b"path", name.encode()))
        more["dialect"] = "ustar"
    kind = draw(st.sampled_from("ffdlh"))
    if kind == "d":
        return dir_(name, slash=draw(st.booleans()), **more)
    target = "t".ljust(draw(LENGTHS), "t")
    if kind == "l":
        return symlink(name, target, **more)
    if kind == "h":
        return hardlink(name, draw(st.sampled_from(["", "./"])) + "carrier" + "r" * 90, **more)
    return file(name, b"x" * draw(st.sampled_from([0, 1, 600])), **more)


@st.composite
def layers(draw: st.DrawFn) -> list[Member]:
    some = [draw(spelled(number)) for number in range(draw(st.integers(1, 12)))]
    # One too large to be held with others.
    large = file("./top/large" + "e" * 100, b"l" * 300_000, dialect="gnu", mtime=2000)
    return [file("carrier" + "r" * 90), *some, *draw(st.sampled_from([[], [large]]))]


WAYS: list[dict[str, Any]] = [
    {},
    {"clamp_mtime": 1000},
    {"clamp_mtime": 0},
    {"clamp_mtime": 10**12},
    {"prefix": "p" * 20},
    {"strip_components": 1},
    {"strip_components": 1, "prefix": "p/q", "clamp_mtime": 1000},
]


def headers_of(tar: bytes) -> list[Header]:
    """Give what all headers say, but where they are and how they say it."""
    found, at = [], 0
    while (header := read_header(lambda k, n: tar[k : k + n], at, len(tar))) is not None:
        assert header.is_normal, header
        at = header.end
        # The same whether a record or the field says it.
        records = dict(header.records)
        found.append(header._replace(offset=0, data_offset=0, had_pax=False, records=records))
    return found


def check(members: Sequence[Member], **options: Any) -> bytes:
    source = layer(*members)
    tar = flatten_layers([source], **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarbatch, "_find_unusual", all_of)
        anew = flatten_layers([source], **options)
    assert headers_of(tar) == headers_of(anew)
    assert full_listing(read_tar(tar)) == full_listing(read_tar(anew))
    clamp = {key: value for key, value in options.items() if key == "clamp_mtime"}
    assert flatten_layers([tar], **clamp) == tar, "flattening the flattened changes it"
    return tar


@given(layers(), st.sampled_from(WAYS))
@example([file("./" + "n" * 99, dialect="gnu"), file("./" + "m" * 511, dialect="gnu")], {})
def test_they_say_the_same(members: list[Member], options: dict[str, Any]) -> None:
    check(members, **options)


LONG = "long/" + "n" * 120
EDITED = [
    file("./" + LONG + "1", "1", dialect="gnu", uname=b"me", uid=5),
    hardlink("./" + LONG + "2", LONG + "1", dialect="gnu", uid=5),
    symlink("./" + LONG + "3", "t" * 150, dialect="gnu"),
    file("./l4", "4", mtime="1700000000.25", records=((b"path", b"./%b4" % LONG.encode()),)),
    file("e", "5", records=(FOREIGN[0], KEPT[0])),
    file("f", "6", records=(FOREIGN[1],), mtime=5),
    file("g", "7", mtime=1 << 31),
    dir_("./h" * 60, dialect="gnu"),
]


def test_none_of_them_is_parsed_alone() -> None:
    """Without this all that is said here would hold for a walk that parses all of them alone."""
    with open_members([EDITED], clamp_mtime=1000) as flat:
        (index,) = flat._emitter._indexes
        assert len(index.codes) == len(EDITED)
        assert REWRITE not in index.codes


@pytest.mark.parametrize("program", ["tar", "bsdtar", "python", "busybox tar"])
@pytest.mark.parametrize("options", [{}, {"clamp_mtime": 1000}, {"prefix": "pre/fix"}])
def test_tar_programs_read_them(
    program: str, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tar = check(EDITED, **options)
    nodes = {node.path: node for node in read_tar(tar)}
    if program == "python":
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            found = {os.fsencode(one.name): (one.mtime, one.linkname) for one in opened}
        for path, (mtime, linkname) in found.items():
            assert int(mtime) == nodes[path].mtime
            if nodes[path].kind == "l":
                assert os.fsencode(linkname) == nodes[path].target
    else:
        need(program.split()[0])
        where = tmp_path_factory.mktemp("tar")
        (where / "flat.tar").write_bytes(tar)
        run([*program.split(), "-C", str(where), "-xf", str(where / "flat.tar")])
        (where / "flat.tar").unlink()
        found = {}
        for root, directories, files in os.walk(os.fsencode(where)):
            for name in (*directories, *files):
                path = os.path.relpath(os.path.join(root, name), os.fsencode(where))
                found[path] = (0, "")
                node = nodes[path]
                if node.kind == "f":
                    with open(os.path.join(root, name), "rb") as content:
                        assert content.read() == node.data
                if program != "busybox tar":  # it sets no directory's, and knows no record of it
                    assert int(os.lstat(os.path.join(root, name)).st_mtime) == node.mtime, path
    assert set(found) == set(nodes)


@pytest.mark.parametrize("typeflags", [b"LK", b"KK", b"LL", b"xL", b"xK", b"Lx", b"KLK", b"xx"])
def test_other_orders_are_parsed_alone(typeflags: bytes) -> None:
    headers = {
        ord("L"): gnu_long(b"L", b"l" * 120),
        ord("K"): gnu_long(b"K", b"k" * 120),
        ord("x"): pax_header([KEPT[0]]),
    }
    odd = [raw(b"".join(headers[typeflag] for typeflag in typeflags)), symlink("s", "t")]
    for at in (0, 50):
        check([*(file(f"a{i}") for i in range(at)), *odd, *(file(f"b{i}") for i in range(50))])


def test_a_prefix_that_means_nothing_is_nothing_to_gnu() -> None:
    """What is behind a prefix of no length, in a header that becomes GNU's."""
    odd = file("top/" + "n" * 90, overlay={386: octal(5, 12), 483: octal(7, 12)})
    tar = check([odd], prefix="p" * 20)
    assert tar[2 * 512 + 156] == ord("L")  # behind two directories


def test_headers_too_long_to_be_edited_are_written_anew() -> None:
    many = tuple((b"SCHILY.xattr.user.k%d" % i, b"v" * 3000) for i in range(12))
    members = [file("top/a", "1"), file("top/b", "2" * 700, records=many), file("top/c", "3")]
    check(members, strip_components=1)
    check([*members, file("top/d", "4" * 300_000, records=many)], prefix="p" * 120)


@pytest.mark.parametrize(
    "payload",
    [b"a" * 512, (b"a" * 120).ljust(1200, b"\0"), b"abc".ljust(1024, b"\0")],
    ids=["without its NUL", "with many", "short"],
)
@pytest.mark.parametrize("clamp", [None, 0])
def test_a_gnu_long_name_in_more_or_fewer_blocks_than_it_needs(
    payload: bytes, clamp: int | None
) -> None:
    """It is written anew where something else in the header changes: an owner's name, a time."""
    head = extended(b"L", payload, name=b"././@LongLink", dialect="gnu")
    member = file("cut", b"x", dialect="gnu", uname=b"bob", mtime=7)
    tar = flatten_layers([layer(raw(head + member.encode()), file("b"))], clamp_mtime=clamp)
    (found, _) = read_tar(tar)
    assert (found.path, found.data) == (payload.rstrip(b"\0"), b"x")
