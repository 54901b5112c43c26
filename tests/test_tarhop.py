"""Hopping through a chunk at once must say what the walker says that goes step by step."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dimgx.errors import ImageError
from dimgx.layers import tarbatch, tarwalk
from dimgx.layers.layerindex import COPY, REWRITE, STRIP_LEAD, LayerIndex
from dimgx.layers.tarhop import MAX_CHUNK, hop
from tests.dsl import (
    END,
    Member,
    base256,
    chardev,
    dir_,
    extended,
    file,
    gnu_long,
    hardlink,
    layer,
    pax_header,
    pax_record,
    raw,
    sparse,
    symlink,
    whiteout,
)
from tests.stacks import members

INNER = layer(file("inner", "i" * 700), dir_("in"), symlink("in/s", "t"))
XATTR = {"user.a": b"1"}
LONG = "n" * 90 + "/" + "m" * 90
SMALL = [file(f"f{i}", b"x" * (i * 97 % 1500)) for i in range(40)]
MIXED = [dir_("d"), *SMALL, symlink("s", "d"), hardlink("z", "f7"), whiteout("d/w"), dir_("e")]
DOTTED = [one.but(name=b"./" + one.name) for one in MIXED]
# A header's first block of records, and behind it what looks like another header.
HEADER_IN_PAX = pax_record(b"SCHILY.xattr.user.a", b"v" * 487 + layer(file("a"))[:512])

TARS = {
    "small": layer(*MIXED),
    "a tar in a file": layer(file("a", INNER), file("b", INNER + b"x"), *SMALL),
    "a tar's header in a file": layer(file("a", b"p" * 512 + INNER[:512]), *SMALL),
    "tars in tars": layer(file("a", layer(file("b", INNER), *SMALL[:9])), file("c", INNER)),
    "only a magic in a file": layer(file("a", (b"\0" * 257 + b"ustar" + bytes(250)) * 3), *SMALL),
    "a magic across blocks": layer(
        *SMALL, file("a", b"usta".rjust(264).ljust(512) + b"r".rjust(257)), *SMALL
    ),
    "larger than a chunk": layer(file("a", b"a" * 40000), file("b"), file("c", b"c" * 300000)),
    "much more than a chunk": layer(
        *SMALL, file("a", (bytes(1024) + INNER).ljust((8**7) + 1024, b"\0")), *MIXED[-4:]
    ),
    "huge claims": layer(*SMALL, file("a", "x", size=1 << 40)),
    "base-256 size": layer(*SMALL, file("a", "x" * 600, size=base256(600, 12)), *MIXED[-4:]),
    "sizes with blanks": layer(*SMALL, file("a", "x" * 600, size=b"00000001130 "), file("y")),
    "sizes that begin blank": layer(*SMALL, file("a", "x" * 600, size=b"       1130 "), file("y")),
    "sizes of twelve digits": layer(*SMALL, file("a", "x" * 600, size=b"000000001130"), file("y")),
    "PAX of twelve digits": layer(
        *SMALL[:3],
        file("pax", HEADER_IN_PAX, typeflag=b"x", size=b"%012o" % len(HEADER_IN_PAX)),
        file("a"),
        *MIXED,
    ),
    "no number as a size": layer(*SMALL, file("a", "x", size=b"0000000000x\0"), file("y")),
    "PAX": layer(*(one.but(dialect="pax") for one in MIXED), file(LONG, "x", dialect="pax")),
    "PAX size": layer(*SMALL, raw(pax_header([(b"size", b"3")])), file("a", "abc", size=0)),
    "PAX in a row": layer(*SMALL, raw(pax_header([(b"path", b"p")]) * 2), file("a"), *MIXED),
    "PAX at the end": layer(*SMALL, raw(pax_header([(b"path", b"p")]))),
    "PAX before a prefix": layer(*SMALL, file(LONG, mtime="1.5"), file(LONG + "2", xattrs=XATTR)),
    "PAX path before a prefix": layer(*SMALL, raw(pax_header([(b"path", b"p")])), file(LONG)),
    "PAX twice in one": layer(*SMALL, raw(pax_header([(b"path", b"p")] * 2)), file("a")),
    "PAX too long": layer(*SMALL, raw(extended(b"x", b"99 path=p\n")), file("a"), *MIXED[-4:]),
    "PAX too short": layer(*SMALL, raw(extended(b"x", b"9 path=p\n")), file("a"), *MIXED[-4:]),
    "times in PAX": layer(*SMALL, *(one.but(mtime="1.5") for one in MIXED)),
    "empty PAX": layer(raw(pax_header([])), *SMALL[:3], raw(pax_header([])), *SMALL[3:]),
    "global PAX": layer(*SMALL, raw(pax_header([(b"uid", b"7")], b"g")), *MIXED[-4:]),
    "GNU": layer(*(one.but(dialect="gnu") for one in MIXED), file(LONG, "x", dialect="gnu")),
    "GNU long link": layer(*SMALL, raw(gnu_long(b"K", b"t" * 150)), symlink("s", "t"), dir_("q")),
    "GNU long both": layer(
        *SMALL, symlink("./" + LONG, "t" * 150, dialect="gnu"),
        hardlink(LONG + "2", LONG, dialect="gnu"), file(LONG + "3", "x" * 600, dialect="gnu"),
        *MIXED[-4:],
    ),
    "GNU long, but of a file": layer(*SMALL, raw(gnu_long(b"K", b"t")), file("a", "x"), *SMALL),
    "GNU long, but empty": layer(*SMALL, raw(gnu_long(b"L", b"")), file("a", "x"), *SMALL),
    "GNU long twice": layer(*SMALL, raw(gnu_long(b"L", b"n") * 2), file("a", "x"), *SMALL),
    "GNU long in a row": layer(*SMALL, raw(gnu_long(b"L", LONG.encode())), *MIXED[-4:]),
    "GNU long at the end": layer(*SMALL, raw(gnu_long(b"K", b"t") + gnu_long(b"L", b"n"))),
    "GNU long, too long": layer(*SMALL, raw(gnu_long(b"L", b"n" * 4097)), file("a"), *MIXED[-4:]),
    "GNU long, much too long": layer(*SMALL, raw(gnu_long(b"L", b"n" * 9000)), file("a")),
    "GNU long, behind PAX": layer(
        *SMALL, raw(pax_header([(b"path", b"p")]) + gnu_long(b"L", b"n")), file("a"), *MIXED[-4:]
    ),
    "GNU long link before a long name that is empty": layer(
        *SMALL, raw(gnu_long(b"K", b"t" * 150) + extended(b"L", b"", dialect="gnu")),
        symlink("s", "t"), *MIXED[-4:],
    ),
    "GNU long link before a much too long name": layer(
        *SMALL, raw(gnu_long(b"K", b"t" * 150) + gnu_long(b"L", b"n" * 9000)), symlink("s", "t"),
    ),
    "GNU long link of 4097": layer(*SMALL, raw(gnu_long(b"K", b"t" * 4097)), symlink("s", "t")),
    "foreign PAX": layer(*SMALL, *(one.but(records=((b"comment", b"c"),)) for one in MIXED)),
    "foreign PAX that makes no sense": layer(
        *SMALL, raw(extended(b"x", b"11 comment=\n13 com\0ent=x\n")), file("a"), *MIXED[-4:]
    ),
    "an empty ACL": layer(*SMALL, file("a", records=((b"SCHILY.acl.access", b""),)), *SMALL),
    "link targets in PAX": layer(
        *SMALL, hardlink("h", LONG), file(LONG),
        hardlink("i", "f1", records=((b"linkpath", b"f2"),)),
        file("j", records=((b"linkpath", b"f2"),)), *MIXED[-4:],
    ),
    "a PAX header of many digits": layer(
        *SMALL, raw(extended(b"x", b"0" * 5000 + b" path=x\n")), file("a"), *MIXED[-4:]
    ),
    "V7": layer(*(one.but(dialect="v7") for one in MIXED)),
    "V7 between": layer(*SMALL, file("v", "x" * 600, dialect="v7"), *MIXED[-4:]),
    "type NUL": layer(*SMALL, file("v", "x" * 600, typeflag=b"\0"), *MIXED[-4:]),
    "type 7": layer(*SMALL, file("v", "x" * 600, typeflag=b"7"), *MIXED[-4:]),
    "sizes of links": layer(*SMALL, symlink("s", "t", size=700), hardlink("h", "f7", size=5)),
    "PAX, size of a link": layer(
        *SMALL, raw(pax_header([(b"mtime", b"1.5")])), symlink("s", "t", size=700), dir_("q")
    ),
    "devices": layer(*SMALL, chardev("c", 1, 3), chardev("gone", 0, 0), *MIXED[-4:]),
    "sparse": layer(*SMALL, sparse("s", [(10, b"data")], 700, "1.0"), *MIXED[-4:]),
    "dots": layer(*DOTTED),
    "dots before 98 bytes": layer(file("./" + "n" * 98, mode=0o777), *DOTTED),
    "dots, also in PAX": layer(*DOTTED, raw(pax_header([(b"path", b"./p")])), file("./a", "x")),
    "dots, not in PAX": layer(*DOTTED, raw(pax_header([(b"path", b"p")])), file("./a", "x")),
    "dots, only in PAX": layer(*DOTTED, raw(pax_header([(b"path", b"./p")])), file("a", "x")),
    "wrong checksum": layer(*SMALL, file("a", "x", checksum=b"000001\0 "), file("y")),
    "no end": layer(*MIXED, end=b""),
    "ends in a header": layer(*MIXED, end=b"")[:-100],
    "ends in a payload": layer(*SMALL, file("a", b"x" * 5000), end=b"")[:-3000],
    "ends in padding": layer(*SMALL, file("a", b"x" * 5000), end=b"")[:-5],
    "one block of zeros": layer(*MIXED, end=END[:512]),
    "members behind the end": layer(*SMALL) + layer(*MIXED),
    "nothing": layer(),
    "more than a chunk": layer(*(file(f"g{i}", b"y" * (i % 9 * 300)) for i in range(900))),
    "empty files": layer(*(file(f"e{i}") for i in range(2 * MAX_CHUNK // 512))),
}


def all_of(joined: bytes) -> set[int]:
    return set(range(len(joined) // 512))


def walk(tar: bytes, *, at_once: bool, chunk: int, alone: bool = False) -> LayerIndex | str:
    """Walk a tar in chunks that grow from a size or, step by step, stay as they are.

    With `alone`, no header is looked at in a batch; all are parsed one by one.

    Gives the index or the error. In how many steps a header loses what it may not have is no part
    of what a layer says: that depends on the headers beside it. What is no entry does not go out.
    Nor does the order of markers count, as they all hide at once.
    """
    with tempfile.TemporaryFile() as opened, pytest.MonkeyPatch.context() as patch:
        opened.write(b"before" + tar + b"behind")
        opened.flush()
        patch.setattr(tarwalk, "CHUNK", chunk)
        patch.setattr(tarwalk, "DENSE", 1 << 40 if at_once else 0)
        if alone:
            patch.setattr(tarbatch, "_find_unusual", all_of)
        try:
            index = tarwalk.walk_layer(opened.fileno(), 6, len(tar))
            for i, key in enumerate(index.keys):
                index.codes[i] = REWRITE if key and index.codes[i] else COPY
            index.whiteouts.sort()
            index.opaque.sort()
            return index
        except ImageError as error:
            return str(error)


def columns(walked: LayerIndex | str) -> dict[str, object] | str:
    if isinstance(walked, str):
        return walked
    return {name: getattr(walked, name) for name in LayerIndex.__slots__}


def check(tar: bytes) -> None:
    expected = columns(walk(tar, at_once=False, chunk=32 << 10, alone=True))
    assert columns(walk(tar, at_once=False, chunk=32 << 10)) == expected
    for chunk in (512, 1024, 2560, 32 << 10):
        assert columns(walk(tar, at_once=True, chunk=chunk)) == expected, chunk


@pytest.mark.parametrize("tar", TARS.values(), ids=TARS)
def test_what_one_walk_says_the_other_says(tar: bytes) -> None:
    check(tar)


@pytest.mark.parametrize("where", ["also in", "not in", "only in"])
def test_dots_and_pax(where: str) -> None:
    index = walk(TARS[f"dots, {where} PAX"], at_once=True, chunk=32 << 10)
    assert isinstance(index, LayerIndex)
    assert index.keys[-2:] == [b"e\0", b"p"]
    assert index.keys[0] == b"d\0"


@pytest.mark.parametrize(("what", "count"), [("sizes", len(SMALL) + 2), ("PAX", len(MIXED) + 4)])
def test_twelve_digits_lead_where_they_say(what: str, count: int) -> None:
    index = walk(TARS[f"{what} of twelve digits"], at_once=False, chunk=32 << 10)
    assert isinstance(index, LayerIndex), index
    assert index.member_count == count


@pytest.mark.parametrize("cut", range(0, 3 * 512, 100))
def test_chunks_that_end_anywhere(cut: int) -> None:
    """Headers and PAX headers lie across the borders of chunks, and exactly at them."""
    pairs = [file(f"p{i}", b"z" * 700, mtime="1.5") for i in range(300)]
    check(layer(file("first", b"1" * cut), *SMALL, *pairs))


def damages() -> Iterator[tuple[int, int]]:
    for at in (100, 107, 124, 127, 128, 133, 134, 135, 148, 156, 157, 257, 262, 264, 345):
        for value in (0, 32, ord("0"), ord("1"), ord("7"), ord("8"), ord("x"), 255):
            yield at, value


def test_a_damaged_header_is_told_alike() -> None:
    whole = layer(*SMALL[:6], file("p", "pp", mtime="1.5"), *SMALL[6:9])
    for number in (0, 5, 9):
        for at, value in damages():
            tar = bytearray(whole)
            tar[whole.index(b"f%d\0" % min(number, 8)) + at] = value
            check(bytes(tar))


@given(st.lists(members(), max_size=30), st.integers(0, 1 << 20), st.integers(0, 255))
@example([], 0, 0)
@example([file("a/a/.wh..wh..opq"), chardev("a/.wh..wh..opq", 0, 0)], 0, 0)
def test_random_layers_and_damages(some: list[Member], at: int, value: int) -> None:
    tar = bytearray(layer(*some))
    check(bytes(tar))
    tar[at % len(tar)] = value
    check(bytes(tar))


@pytest.mark.parametrize("chunk", [3072, 3584, 32 << 10])
@pytest.mark.parametrize("cut", [0, 500, 1000])
@pytest.mark.parametrize("dialect", ["pax", "gnu"])
def test_how_a_member_goes_out_does_not_depend_on_chunks(
    cut: int, chunk: int, dialect: str
) -> None:
    """Extended headers that lie across the border of a chunk are taken with those beside them."""
    if dialect == "gnu":
        pairs = [symlink(f"./{i:0200}", "t" * 150, dialect="gnu") for i in range(300)]
    else:
        pairs = [file(f"./p{i}", b"z" * 700, mtime="1.5") for i in range(300)]
    tar = layer(file("./first", b"1" * cut), *pairs)
    with tempfile.TemporaryFile() as opened, pytest.MonkeyPatch.context() as patch:
        opened.write(tar)
        opened.flush()
        patch.setattr(tarwalk, "CHUNK", chunk)
        index = tarwalk.walk_layer(opened.fileno(), 0, len(tar))
    assert index.codes == bytes((STRIP_LEAD,)) * 301


def test_members_are_taken_at_once() -> None:
    """Without this all that is said above would hold for a function that does nothing."""
    tar = layer(*SMALL, *(one.but(mtime="1.5") for one in MIXED))
    found = hop(tar, 0, len(tar))
    assert found is not None
    assert (len(found.starts), found.end) == (len(SMALL) + len(MIXED), len(tar) - len(END))
    assert len(found.headers) == 512 * len(found.starts)
    assert [number for number, *_ in found.extended] == [*range(len(SMALL), len(found.starts))]
