"""Headers of a tar at their edges: numbers, sizes of fields, sparse maps, records."""

from __future__ import annotations

import io
import tarfile
import tempfile
import tracemalloc
from collections.abc import Sequence

import pytest

from dimgx.errors import ImageError
from dimgx.layers.tarfields import Header, MalformedTar
from dimgx.layers.tarheader import read_header
from dimgx.layers.tarwalk import LayerWalk, walk_layer
from dimgx.layers.tarwrite import build_header
from tests.cases import flatten_layers, flatten_members
from tests.dsl import (
    END,
    Dialect,
    Member,
    base256,
    chardev,
    dir_,
    extended,
    file,
    layer,
    octal,
    pax_header,
    pax_record,
    raw,
    sparse,
    symlink,
)

FAR = 9 << 30
"""More bytes than eleven octal digits tell."""


def header_in(data: bytes) -> Header:
    return read_header(lambda at, size: data[at : at + size], 0, 1 << 62)


def header_of(member: Member) -> Header:
    return header_in(member.encode() + END)


def listed(*members: Member) -> dict[str, tarfile.TarInfo]:
    """Give what Python reads of a layer's flat tar."""
    with tarfile.open(fileobj=io.BytesIO(flatten_members([members]))) as tar:
        return {found.name: found for found in tar}


def old_gnu_sparse(numbers: Sequence[bytes], real: bytes) -> Member:
    overlay = {386: b"".join(numbers), 482: b"\0", 483: real}
    return file("s", b"x" * 512, typeflag=b"S", dialect="gnu", overlay=overlay)


def test_an_old_gnu_sparse_map_in_base_256() -> None:
    numbers = [base256(FAR, 12), base256(512, 12)]
    found = header_of(old_gnu_sparse(numbers, base256(FAR + 512, 12)))
    assert (found.sparse, found.size) == (((FAR, 512),), FAR + 512)


def test_an_old_gnu_sparse_map_with_a_negative_length() -> None:
    numbers = [octal(0, 12), octal(512, 12), octal(512, 12), base256(-512, 12)]
    with pytest.raises(MalformedTar, match="sparse map"):
        header_of(old_gnu_sparse([*numbers, octal(0, 12), octal(512, 12)], octal(1024, 12)))


@pytest.mark.parametrize(
    "member",
    [
        file("s", typeflag=b"S", dialect="gnu", overlay={482: b"\1"}),
        file(
            "s",
            b"1" * 512,
            records=((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")),
        ),
    ],
    ids=["old GNU", "1.0"],
)
def test_a_sparse_map_that_does_not_end(member: Member) -> None:
    with pytest.raises(MalformedTar, match="does not end"):
        header_in(member.encode())


def test_a_sparse_map_with_an_odd_number_of_numbers() -> None:
    records = (b"GNU.sparse.size", b"1024"), (b"GNU.sparse.map", b"0,512,600")
    with pytest.raises(MalformedTar, match="odd"):
        header_of(file("s", b"x" * 512, records=records))


@pytest.mark.parametrize(("size", "is_read"), [(1 << 20, True), ((1 << 20) + 512, False)])
def test_a_sparse_map_is_bounded(size: int, is_read: bool) -> None:
    """Rule 67: as in Go's reader."""
    pieces = [(0, b"")] * ((size - len("262142\n")) // 4)
    member = sparse("s", pieces, 0, "1.0")
    if is_read:
        assert len(header_of(member).sparse or ()) == len(pieces)
    else:
        with pytest.raises(MalformedTar, match="does not end"):
            header_of(member)


@pytest.mark.parametrize(
    "large",
    [
        # In memory it takes some twenty times what it takes in the tar.
        pytest.param(sparse("", [(0, b"")] * 5000, 0, "1.0"), id="sparse maps"),
        pytest.param(file("", xattrs={"user.a": b"a" * 300_000}), id="attributes"),
    ],
)
def test_what_large_headers_say_is_not_kept(large: Member) -> None:
    """Rule 67."""
    tar = layer(*(large.but(name=b"%d" % number) for number in range(20)))
    with tempfile.TemporaryFile() as stored:
        stored.write(tar)
        stored.flush()
        tracemalloc.start()
        try:
            index = walk_layer(stored.fileno(), 0, len(tar))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (index.member_count, most < 4 << 20) == (20, True), most


@pytest.mark.parametrize("dialect", ["ustar", "gnu"])
@pytest.mark.parametrize("size", [99, 100, 101])
def test_link_targets_about_the_size_of_their_field(size: int, dialect: str) -> None:
    target = b"t" * size
    written_anew = symlink("l", target, dialect=dialect, uname=b"u")
    assert listed(written_anew)["l"].linkname == target.decode()
    assert header_in(build_header(Header(b"l", ord("2"), linkname=target)) + END).linkname == target


@pytest.mark.parametrize(("uid", "magic"), [(0o7777777, b"ustar\00000"), (1 << 21, b"ustar  \0")])
def test_owners_about_the_size_of_their_field(uid: int, magic: bytes) -> None:
    block = build_header(Header(b"f", ord("0"), uid=uid))
    assert (block[257:265], header_in(block + END).uid) == (magic, uid)


def test_negative_numbers() -> None:
    found = header_of(file("f", dialect="gnu", mtime=-5, uid=-1, gid=-1))
    assert (found.mtime, found.uid, found.gid) == (-5, 2**32 - 1, 2**32 - 1)


@pytest.mark.parametrize("time", [-(1 << 63), -1, 0, (1 << 63) - 1])
def test_times_in_base_256(time: int) -> None:
    assert header_of(file("f", overlay={136: base256(time, 12)})).mtime == time


@pytest.mark.parametrize("time", [-(1 << 63) - 1, 1 << 63])
def test_a_time_that_no_reader_could_hold(time: int) -> None:
    with pytest.raises(ImageError, match="out of range"):
        header_of(file("f", overlay={136: base256(time, 12)}))


@pytest.mark.parametrize(
    ("record", "time"),
    [(b"-1.5", -2), (b"-1.0", -1), (b"-1.", -1), (b"-1", -1), (b"-0.5", -1), (b"1.5", 1)],
)
def test_times_are_rounded_down(record: bytes, time: int) -> None:
    assert header_of(file("f", records=((b"mtime", record),))).mtime == time


@pytest.mark.parametrize("prefix", ["p", "p" * 131])
def test_a_prefix_before_the_times_of_star(prefix: str) -> None:
    times = {476: b"00000000001 ", 488: b"00000000002 ", 508: b"tar\0"}
    odd = file("f", b"x", overlay={345: prefix.encode(), **times})
    assert list(listed(file("a"), odd, file("z"))) == ["a", prefix, f"{prefix}/f", "z"]


@pytest.mark.parametrize("at", [106, 107])
def test_a_mode_that_ends_in_something_else(at: int) -> None:
    with pytest.raises(ImageError, match="mode"):
        flatten_members([[file("f", b"x", overlay={at: b"x"}), file("g")]])


@pytest.mark.parametrize(
    "size", [b"-0000000001", b"-0000001000", b"-0000010000", b"00000000009", b"0000000_001"]
)
def test_a_size_that_is_no_octal_number(size: bytes) -> None:
    with pytest.raises(ImageError, match="the size is no number"):
        flatten_members([[file("a"), file("f", size=size + b"\0"), file("g")]])


def test_a_checksum_of_six_digits() -> None:
    large = {157: b"\xff" * 100, 345: b"\xe4" * 150}
    found = header_of(chardev(("\u4e2d" * 33).encode(), 1, 3, overlay=large))
    assert (found.devmajor, found.devminor) == (1, 3)


def test_a_prefix_of_all_its_155_bytes() -> None:
    name = "/".join(("p" * 70, "r" * 80, "q" * 60))
    assert list(listed(chardev(name, 1, 3))) == ["p" * 70, name[:151], name]


@pytest.mark.parametrize(
    ("records", "reason"),
    [(pax_record(b"comment", b"xy")[:-1] + b"z", "does not fit"), (None, "without a key")],
)
def test_a_malformed_record(records: bytes | None, reason: str) -> None:
    bad = pax_header([(b"a\0b", b"x")]) if records is None else extended(b"x", records)
    with pytest.raises(ImageError, match=reason):
        flatten_layers([layer(raw(bad), file("f", b"x"))])


def padded_record(size: int) -> tuple[bytes, bytes]:
    """Give a record of so many bytes in all."""
    key = b"SCHILY.xattr.user.x"
    values = (b"v" * count for count in range(size))
    return next((key, value) for value in values if len(pax_record(key, value)) == size)


@pytest.mark.parametrize("size", [511, 512, 513])
def test_records_that_fill_a_block(size: int) -> None:
    record = padded_record(size)
    members = [
        dir_("./d", records=(record,)),
        dir_("./d/e", records=(record,)),
        file("./d/f", b"x"),
        file("./d/g", b"y" * 600, records=(record,), uname=b"u"),
    ]
    with tarfile.open(fileobj=io.BytesIO(flatten_members([members]))) as tar:
        assert tar.getnames() == ["d", "d/e", "d/f", "d/g"]
        content = tar.extractfile("d/g")
        assert content is not None and content.read() == b"y" * 600
        assert tar.getmember("d/g").uname == ""


def test_headers_larger_than_any_buffer() -> None:
    attributes = {"user.a": b"v" * 300_000, "user.b": b"w"}
    large = file("f", b"x", xattrs=attributes, uname=b"bob")
    found = listed(file("e", b"e"), large, file("g", b"g"))
    assert list(found) == ["e", "f", "g"]
    assert found["f"].pax_headers["SCHILY.xattr.user.a"] == "v" * 300_000


def test_headers_that_come_bit_by_bit_are_read_few_times() -> None:
    tar = pax_header([(b"mtime", b"5")]) * 500 + layer(file("a"))
    sizes: list[int] = []

    def read(at: int, size: int) -> bytes:
        sizes.append(size)
        return tar[at : at + size]

    walk = LayerWalk(read)
    for size in range(0, len(tar), 2048):
        walk.look(size)
    walk.go_on(len(tar), is_whole=True)
    assert walk.index.keys == [b"a"]
    assert sum(sizes) < 5 * len(tar)


def test_a_directory_with_a_size_and_records() -> None:
    directory = dir_("d", records=((b"mtime", b"1.5"),), size=512)
    assert list(listed(directory, file("d/f", b"x"), file("g", b"y"))) == ["d", "d/f", "g"]


def test_the_label_of_selinux_is_kept() -> None:
    record = b"RHT.security.selinux", b"system_u:object_r:etc_t:s0"
    found = listed(file("f", b"x", records=(record,), uname=b"u"))["f"]
    assert found.pax_headers["RHT.security.selinux"] == record[1].decode()


def test_a_files_link_target_is_dropped() -> None:
    assert b"linkpath" not in flatten_members([[file("f", b"x", records=((b"linkpath", b"o"),))]])


@pytest.mark.parametrize(
    "odd", [file("f", b"x", gid=5, uname=b"root", gname=b"root"), file("f", b"x", uname=b"bob")]
)
def test_names_of_owners_that_are_not_both_root(odd: Member) -> None:
    assert flatten_members([[odd, file("g", b"x")]])[265:329] == bytes(64)


def test_what_lies_where_an_old_header_has_no_fields() -> None:
    """Before POSIX a header ended behind the link's target."""
    rest = {257: b"\xff" * 8, 265: b"bob\0" * 16, 329: b"7" * 16, 345: b"dir\0"}
    found = header_of(file("f", b"x", dialect="v7", overlay=rest))
    assert (found.name, found.devmajor, found.devminor) == (b"f", 0, 0)
    (member,) = listed(file("f", b"x", dialect="v7", overlay=rest)).values()
    assert (member.name, member.uname, member.gname) == ("f", "", "")


@pytest.mark.parametrize("dialect", ["ustar", "gnu"])
def test_device_numbers_of_what_is_no_device_do_not_count(dialect: Dialect) -> None:
    numbers = {329: b"0000003\0", 337: b"0000007\0"}
    for member in (file("f", b"x", dialect=dialect, overlay=numbers), dir_("d", overlay=numbers)):
        found = header_of(member)
        assert (found.devmajor, found.devminor) == (0, 0)
