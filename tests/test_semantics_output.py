"""Rules 68 to 73: what the flat tar looks like, header by header."""

from __future__ import annotations

import io
import tarfile

import pytest

from dimgx.errors import ImageError
from tests.cases import flatten_layers, flatten_members
from tests.dsl import (
    Member,
    base256,
    blockdev,
    chardev,
    dir_,
    extended,
    fifo,
    file,
    gnu_long,
    hardlink,
    layer,
    octal,
    pax_header,
    pax_record,
    raw,
    sparse,
    symlink,
    whiteout,
)
from tests.listing import list_tar, raw_members, read_tar, short_listing
from tests.writers import compress

NORMAL: list[Member] = [
    blockdev("b", 8, 1),
    chardev("c", 1, 3),
    chardev("c2", 1, 3, overlay={329: b"      1\0"}),
    dir_("d", mode=0o700, uid=5, gid=6, mtime=7),
    file("d/empty"),
    file("d/f", b"x" * 1500, mode=0o4755, mtime=1700000000),
    hardlink("d/h", "d/f", mode=0o4755, mtime=1700000000),
    file("d/i", "x", uid=15, overlay={108: b"     17\0"}),
    hardlink("d/j", "d/i", uid=15, overlay={116: b"      0\0"}),
    file("d/root", uname=b"root", gname=b"root"),
    file("g" * 150, "gnu", dialect="gnu"),
    fifo("p"),
    file("p" * 150, "pax", dialect="ustar"),
    symlink("s", "d/f"),
    symlink("t", "target/" * 30, dialect="gnu"),
    symlink("u", "target/" * 30, dialect="ustar"),
    file("v", "big owner", uid=1 << 25, dialect="gnu"),
    file("w", "big owner", uid=1 << 25, dialect="ustar"),
    file("x", "xattrs", xattrs={"user.a": b"1", "security.capability": b"\1\2\0"}),
    file("y", "time", mtime="1700000000.5"),
    file(b"z\xff", "bytes"),
]


def test_69_parents_children_links_in_walk_order() -> None:
    layers = [
        [file("z/y/x", "1"), file("a.b"), dir_("a"), hardlink("0", "z/y/x")],
        [file("a/1"), file("a-b"), whiteout("a.b")],
    ]
    assert [m.name for m in raw_members(flatten_members(layers))] == [
        b"0", b"a/", b"a/1", b"a-b", b"z/", b"z/y/", b"z/y/x",
    ]  # fmt: skip


def test_69_implied_directories_are_written() -> None:
    (first, second, _) = raw_members(flatten_members([[file("a/b/c", mtime=5)]]))
    for member, name in ((first, b"a/"), (second, b"a/b/")):
        assert (member.name, member.flag, member.number(100, 8)) == (name, b"5", 0o755)
        assert [member.number(108, 8), member.number(116, 8), member.number(136, 12)] == [0, 0, 0]


def test_69_an_empty_image_is_an_empty_tar() -> None:
    assert flatten_layers([]) == bytes(1024)
    assert flatten_members([[file("a")], [whiteout("a")]]) == bytes(1024)


def test_70_headers_in_normal_form_go_through_byte_for_byte() -> None:
    tar = layer(*NORMAL)
    assert flatten_layers([tar]) == tar


@pytest.mark.parametrize("number", range(len(NORMAL)))
def test_70_also_when_only_one_of_a_layer_survives(number: int) -> None:
    kept = NORMAL[number]
    if kept.kind == "h" or b"/" in kept.name.rstrip(b"/"):
        return
    others = [
        whiteout(m.name.rstrip(b"/")) for m in NORMAL if b"/" not in m.name[:-1] and m != kept
    ]
    expected = [m for m in NORMAL if m.name.split(b"/")[0] == kept.name.rstrip(b"/")]
    assert flatten_members([NORMAL, others]) == layer(*expected)


def test_70_so_does_what_fills_a_files_last_block() -> None:
    tar = layer(raw(file("a", b"abc" + b"\x7f" * 509, size=3).encode()), file("z", "end"))
    assert flatten_layers([tar]) == tar
    assert list_tar(tar) == ["f a 'abc'", "f z 'end'"]


def test_70_pax_records_go_through_in_their_order() -> None:
    records = ((b"SCHILY.xattr.user.z", b"1"), (b"mtime", b"5.25"), (b"SCHILY.xattr.user.a", b"2"))
    tar = layer(file("a", "x", mtime=5, records=records))
    assert flatten_layers([tar]) == tar


def one_member(*members: Member) -> tuple[bytes, list[tarfile.TarInfo]]:
    tar = flatten_members([members])
    with tarfile.open(fileobj=io.BytesIO(tar)) as reader:
        return tar, reader.getmembers()


@pytest.mark.parametrize(
    "member",
    [
        file("./a", "x"),
        file("/a", "x"),
        file("a", "x", dialect="v7"),
        file("a", "x", typeflag=b"7"),
        file("a", "x", typeflag=b"\0"),
        file("a/", "x"),
        file("a", "x", uname=b"daemon"),
        file("a", "x", records=((b"LIBARCHIVE.xattr.user.a", b"MQ"),)),
        file("a", "x", records=((b"SCHILY.ino", b"5"),)),
        file("a", "x", records=((b"path", b""),)),
        sparse("a", [(0, b"x")], 1, "0.1"),
        sparse("a", [(0, b"x")], 1, "gnu"),
    ],
)
def test_70_anything_else_is_rewritten_to_a_plain_ustar_header(member: Member) -> None:
    tar, _ = one_member(member)
    (written,) = raw_members(tar)
    assert (written.flag, written.name, written.data) == (b"0", b"a", b"x")
    assert written.block[:2] == b"a\0"
    assert written.records.keys() <= {b"path", b"mtime", b"uid", b"gid", b"size"}


EVIL = file("evil", mode=0o4755).encode()
PLAIN = {"mode": 0o755, "uid": 5, "gid": 6, "mtime": 7}


@pytest.mark.parametrize("before", [0, 300])
@pytest.mark.parametrize(
    ("at", "spelling", "dialect"),
    [
        (100, b"\0\x30000755", "ustar"),
        (100, b"\0\0000755\0", "ustar"),
        (100, b"755\0junk", "ustar"),
        (100, base256(0o755, 8), "ustar"),
        (108, b"\0\0\x3000005", "ustar"),
        (116, b"6\x000000\0 ", "gnu"),
        (116, b"\0     6\0", "ustar"),
        (124, b"\0\0\x30000001000", "ustar"),
        (124, b"1000\x000000000", "ustar"),
        (136, b"\0\x30000000007", "ustar"),
        (329, b"\x30\x007777\0\0", "ustar"),
        (329, b"\x30\0\x30\0\0\0\0\0", "ustar"),
        (337, b"\0\0\0\0\0\0\x30\0", "gnu"),
        (329, bytes(8), "ustar"),
        (337, b" " * 8, "ustar"),
        (345, octal(1_500_000_000, 12), "gnu"),
        (357, octal(1_500_000_000, 12), "gnu"),
        (386, octal(0, 12) + octal(512, 12), "gnu"),
        (483, octal(3, 12), "gnu"),
    ],
)
def test_70_what_not_every_reader_reads_alike_is_spelled_anew(
    at: int, spelling: bytes, dialect: str, before: int
) -> None:
    """Where a size counts as none, the payload is members."""
    odd = file("m", EVIL, dialect=dialect, overlay={at: spelling}, **PLAIN)
    others = [file(f"a{k:03}", "x", dialect=dialect) for k in range(before)]
    plain = layer(*others, file("m", EVIL, **PLAIN), file("z", "end"))
    assert flatten_members([[*others, odd, file("z", "end")]]) == plain


def test_70_empty_fields_are_zeros() -> None:
    odd = file("a", overlay=dict.fromkeys((100, 108, 116), b" " * 8) | {136: b" " * 12})
    plain = [file("a", mode=0), symlink("l", "t"), file("z", "end")]
    members = [odd, symlink("l", "t", size=b" " * 12), file("z", "end")]
    assert flatten_members([members]) == layer(*plain)


@pytest.mark.parametrize("spelled", [b"\0\0%06o", b" %06o\0", b"%06o\0\0", b"%06o  "])
def test_70_checksums_are_spelled_so_that_every_reader_reads_them(spelled: bytes) -> None:
    plain = file("a", "x").encode()
    odd = raw(plain[:148] + spelled % int(plain[148:154], 8) + plain[156:])
    tar = flatten_members([[odd, file("z", "end")]])
    assert list_tar(tar) == ["f a 'x'", "f z 'end'"]
    assert (tar == layer(file("a", "x"), file("z", "end"))) == (spelled == b"\0\0%06o")


@pytest.mark.parametrize("magic", [bytes(8), b"ustar 00", b"ustar\0  "])
def test_70_a_long_names_header_has_a_magic_too(magic: bytes) -> None:
    """busybox refuses a header without one."""
    name = "a" * 120
    odd = raw(extended(b"L", name.encode() + b"\0", overlay={257: magic}))
    tar = flatten_members([[odd, file("n", "x")]])
    assert list_tar(tar) == [f"f {name} 'x'"]
    assert [tar[at + 257 : at + 262] for at in (0, 1024)] == [b"ustar"] * 2


@pytest.mark.parametrize("spelled", [base256(-1, 8), b"0000000\0", b"0000007\0"])
def test_70_an_owner_that_pax_overrides_is_spelled_anew(spelled: bytes) -> None:
    odd = file("a", "x", overlay={116: spelled}, records=((b"gid", b"6"),))
    assert flatten_members([[odd]]) == layer(file("a", "x", gid=6))


@pytest.mark.parametrize("field", [b"00000000000\0", b"00000000777\0"])
def test_70_a_size_that_pax_overrides_is_spelled_anew(field: bytes) -> None:
    """busybox does not look into PAX headers."""
    odd = file("a", "x" * 600, size=field, records=((b"size", b"600"),))
    assert flatten_members([[odd]]) == layer(file("a", "x" * 600))


def test_70_what_pax_says_as_the_header_does_is_copied() -> None:
    same = file("a", "x", uid=5, records=((b"gid", b"0"), (b"size", b"1"), (b"uid", b"5")))
    large = file("b", "x", uid=3_000_000, dialect="pax")
    assert flatten_members([[same, large]]) == layer(same, large)


@pytest.mark.parametrize(
    "header",
    [
        gnu_long(b"L", b""),
        gnu_long(b"K", b""),
        extended(b"x", pax_record(b"mtime", b"0"), size=b"\0\0%010o" % 11),
        extended(b"x", pax_record(b"mtime", b"0"), overlay={100: bytes(8)}),
    ],
)
def test_70_extended_headers_that_not_every_reader_reads_alike_go(header: bytes) -> None:
    tar = flatten_members([[raw(header), file("a", "x", dialect="gnu"), file("z", "end")]])
    assert tar == layer(file("a", "x"), file("z", "end"))


def test_70_a_pax_size_of_what_has_no_data_goes() -> None:
    tar = flatten_members([[raw(pax_header([(b"size", b"512")])), symlink("l", "x"), file("z")]])
    assert [member.records for member in raw_members(tar)] == [{}, {}]


def test_70_a_long_size_of_a_pax_header_hides_no_name() -> None:
    """Eleven of its twelve digits lead to a payload that looks like a header."""
    value = b"v" * 300 + file("evil").encode() + b"w" * 600
    record = pax_record(b"SCHILY.xattr.user.a", value)
    header = extended(b"x", record, size=b"%012o" % len(record))
    tar = flatten_members([[raw(header), file("a", "x")]], prefix="p")
    (_, found) = raw_members(tar)
    assert (found.name, found.records) == (b"p/a", {b"SCHILY.xattr.user.a": value})


@pytest.mark.parametrize("leads", [("/",), ("./",), ("/", "./"), ("", "/"), ("", "/", "./")])
@pytest.mark.parametrize("dialect", ["ustar", "gnu"])
def test_70_what_leads_a_name_is_taken_off_where_it_lies(
    leads: tuple[str, ...], dialect: str
) -> None:
    """Names that fill the field, times in PAX headers and owners to blank are among them."""
    names = ["a", "d/b", "n" * 98, "x" * 99, "y" * 50]
    members = [
        file(f"{k:03}/{name}"[: 100 - len(leads[k % len(leads)])], name, dialect=dialect)
        for k in range(200)
        for name in names
    ]
    members[7::11] = [member.but(records=((b"mtime", b"1.5"),)) for member in members[7::11]]
    members[5::13] = [member.but(uname=b"daemon") for member in members[5::13]]
    led = [
        member.but(name=leads[k // len(names) % len(leads)].encode() + member.name)
        for k, member in enumerate(members)
    ]
    plain = [member.but(uname=b"") if member.uname == b"daemon" else member for member in members]
    tar = flatten_members([led])
    assert tar == flatten_members([plain])
    assert sorted(node.path for node in read_tar(tar) if node.kind == "f") == sorted(
        member.name for member in members
    )


@pytest.mark.parametrize("lead", [b"/", b"./"])
@pytest.mark.parametrize("before", [0, 400])
def test_70_what_leads_a_path_in_a_pax_header_is_taken_off(lead: bytes, before: int) -> None:
    """Wherever its record stands, also where a shorter one needs a digit or a block less."""
    path = b"path"
    others = [
        (b"mtime", b"1.5"), (b"SCHILY.xattr.user.k", b"\n9 path=/x\n"), (b"atime", b"7"),
        (b"SCHILY.xattr.user.z", b" path=/y"),
    ]  # fmt: skip
    names = [bytes([97 + k % 26]) * k for k in (*range(1, 130), *range(440, 520), 985, 986, 999)]
    paths = [b"%03d/%b" % (k, name) for k, name in enumerate(names)]

    def members(lead: bytes, field: bytes) -> list[Member]:
        found = [file(b"0%03d" % k) for k in range(before)]
        for k, name in enumerate(paths):
            records = [*others[: k % 5], (path, lead + name), *others[k % 5 :]]
            if k % 3:
                records = [(path, lead + name)]
            main = (field + name)[:100] if k % 2 else b"what no one reads"
            found.append(raw(pax_header(records)))
            found.append(file(main, "x", uname=b"me" if k % 7 == 0 else b""))
        return found

    tar = flatten_members([members(lead, lead)])
    plain = flatten_members([members(b"", b"")])
    assert list_tar(tar) == list_tar(plain)
    assert len(tar) <= len(plain)
    led = [member.records.get(path, b"").startswith(lead) for member in raw_members(tar)]
    assert not any(led)
    assert flatten_layers([tar]) == tar


@pytest.mark.parametrize("lead", ["", "/", "./"])
@pytest.mark.parametrize("slash", [False, True])
def test_70_a_name_with_a_prefix_is_patched_there(lead: str, slash: bool) -> None:
    """Go's writer splits names so, with all that leads them."""
    names = [f"{'p' * k}/{'n' * (150 - k)}" for k in range(50, 130)]
    members = [dir_(lead + name, slash=slash) for name in names]
    others = [file(f"{lead}{name}/f", "x", uname=b"me") for name in names]
    plain = [*(dir_(name) for name in names), *(file(f"{name}/f", "x") for name in names)]
    tar = flatten_members([[*members, *others]])
    assert list_tar(tar) == list_tar(flatten_members([plain]))
    assert all(member.flag in b"05" for member in raw_members(tar))
    assert sum(bool(member.block[345]) for member in raw_members(tar)) > 100
    assert flatten_layers([tar]) == tar


@pytest.mark.parametrize("prefix", [b"/", b".", b"./", b"/a", b"./a", b"//a", b"a/"])
def test_70_whatever_a_prefix_is_the_name_is_right(prefix: bytes) -> None:
    members = [file(f"f{k}", "x", overlay={345: prefix}) for k in range(3)]
    where = prefix.strip(b"./").decode()
    expected = [f"d {where}"] * bool(where) + [
        f"f {where}{'/' * bool(where)}f{k} 'x'" for k in range(3)
    ]
    assert list_tar(flatten_members([members])) == expected


@pytest.mark.parametrize("lead", ["", "/", "./"])
@pytest.mark.parametrize("dialect", ["ustar", "gnu", "pax"])
def test_70_a_directorys_slash_is_added_where_there_is_room(lead: str, dialect: str) -> None:
    names = [*("d" * k for k in range(1, 102)), *(f"{'e' * 60}/{'f' * k}" for k in range(30, 60))]

    def members(slash: bool) -> list[Member]:
        found = []
        for k, name in enumerate(names):
            more = {"mode": 0o750, "uid": k, "uname": b"me" if k % 7 == 0 else b""}
            records = ((b"mtime", b"1.5"),) if k % 5 == 0 else ()
            member = dir_(lead + name, slash=slash, dialect=dialect, records=records, **more)
            found += [member, file(f"{lead}{name}/x", "x", dialect=dialect)]
        return [*found, dir_(lead or "./", slash=False), dir_(f"{lead}w/.wh.x", slash=slash)]

    tar = flatten_members([members(False)])
    assert list_tar(tar) == list_tar(flatten_members([members(True)]))
    directories = [member for member in raw_members(tar) if member.flag == b"5"]
    assert len(directories) == len(names) + 1  # that of the names with two parts is implied
    assert all(member.name.endswith(b"/") for member in directories)
    assert flatten_layers([tar]) == tar


@pytest.mark.parametrize("lead", [b"", b"/", b"./"])
def test_70_what_lies_behind_a_name_does_not_join_it(lead: bytes) -> None:
    junk = {len(lead) + 2: b"junk", 90: b"more"}
    members = [dir_("00", slash=False, overlay={0: lead + b"d\0", **junk}), file("d/f", "x")]
    members.append(dir_("00", slash=False, overlay={0: lead + b"e\0", 99: b"\1"}))
    tar = flatten_members([members])
    assert list_tar(tar) == ["d d", "f d/f 'x'", "d e"]
    assert flatten_layers([tar]) == tar


def test_70_two_sources_for_a_name_become_one() -> None:
    members = [raw(pax_header([(b"path", b"p" * 120)])), raw(gnu_long(b"L", b"q" * 120)), file("a")]
    (written,) = raw_members(flatten_members([members]))
    assert written.name == b"q" * 120
    assert (b"path" in written.records) != written.long_name


def test_70_a_long_name_that_changes_stays_long() -> None:
    for dialect in ("gnu", "ustar", "pax"):
        for name in ("n" * 101, "d/" * 60 + "n", "n" * 3000):
            (*_, written) = raw_members(
                flatten_members([[file("./" + name, "x", dialect=dialect)]])
            )
            assert written.name == name.encode()


def test_70_a_size_on_a_symlink_goes() -> None:
    tar, members = one_member(symlink("l", "t", size=700), file("z", "end"))
    assert [m.name for m in members] == ["l", "z"]
    assert list_tar(tar) == ["l l -> t", "f z 'end'"]


def test_70_trusted_xattrs_go_and_others_stay() -> None:
    tar, _ = one_member(file("a", xattrs={"trusted.x": b"1", "user.y": b"2"}))
    assert raw_members(tar)[0].records == {b"SCHILY.xattr.user.y": b"2"}


def test_70_a_global_header_is_not_copied() -> None:
    tar = flatten_members([[raw(pax_header([(b"uid", b"7")], b"g")), file("a"), file("b")]])
    assert list_tar(tar) == ["f a ''", "f b ''"]
    assert flatten_members([[file("a"), file("b")]]) == tar


def test_71_layers_that_only_an_inode_is_put_together_of_are_kept() -> None:
    """None of their members goes out as it is: content, xattrs, attributes, and the root's."""
    layers = [
        [file("a", "x")],
        [hardlink("z", "a")],
        [hardlink("b", "z", xattrs={"user.k": b"v"})],
        [hardlink("c", "z", mode=0o600)],
        [dir_("./", mode=0o700)],
        [whiteout("a"), whiteout("b"), whiteout("c"), file("e")],
    ]
    tar = flatten_layers([compress(layer(*members), "gzip") for members in layers], root_entry=True)
    root, *nodes = read_tar(tar, root_entry=True)
    assert root.mode == 0o700
    assert short_listing(nodes) == ["f e ''", "f z 'x' mode=600 user.k='v'"]


def test_71_links_are_written_anew_where_names_change_places() -> None:
    members = [
        file("z", "data", mode=0o600, xattrs={"user.k": b"v"}, mtime="7.5"),
        hardlink("m", "z", mode=0o640, uid=3, mtime=9),
        hardlink("a", "z", mode=0o640, uid=3, mtime=9),
    ]
    tar = flatten_members([members])
    a, m, z = raw_members(tar)
    assert (a.flag, a.data, a.records.get(b"SCHILY.xattr.user.k")) == (b"0", b"data", b"v")
    assert [(x.flag, x.target, x.data) for x in (m, z)] == [(b"1", b"a", b"")] * 2
    for x in (a, m, z):
        assert (x.number(100, 8), x.number(108, 8, b"uid")) == (0o640, 3)
    assert b"path" not in a.records
    assert flatten_layers([tar]) == tar


def test_71_a_link_to_a_long_name() -> None:
    for name in ("a" * 200, "a/" * 100 + "b"):
        for dialect in ("gnu", "ustar"):
            members = [file(name, "x", dialect=dialect), hardlink("z" * 150, name, dialect=dialect)]
            tar = flatten_members([members])
            assert flatten_layers([tar]) == tar
            assert raw_members(tar)[-1].target == name.encode()


def test_72_the_longest_names_and_one_more() -> None:
    longest = "/".join(["d" * 100] * 40)
    longest += "/" + "n" * (4096 - len(longest) - 1)
    assert len(longest) == 4096
    tar = flatten_members([[file(longest, "x"), symlink("s", "t" * 4096), hardlink("h", longest)]])
    assert len(list_tar(tar)) == 43
    for too_long in (
        file(longest + "n"),
        dir_("d/" * 2048 + "d"),
        symlink("s", "t" * 4097),
        hardlink("h", "t" * 4097),
        file("n" * 5000, dialect="gnu"),
        file("n/" * 50000 + "n", dialect="gnu"),
    ):
        with pytest.raises(ImageError, match=r"4096|4,096"):
            flatten_members([[file("ok"), too_long]])


@pytest.mark.parametrize(
    "names",
    [
        ["Files/a", "Hives/System_Base"],
        ["Files/Windows/a"],
        ["Files/Windows/a", "Hives/System_Base", "UtilityVM/Files/a"],
    ],
)
def test_73_windows_layers_are_refused_by_name(names: list[str]) -> None:
    with pytest.raises(ImageError, match="Windows"):
        flatten_members([list(map(file, names))])


@pytest.mark.parametrize(
    "names",
    [
        ["Files/a", "Files/Windows"],
        ["Hives/a", "UtilityVM/a"],
        ["Files/Windows/a", "Hives/a", "usr/a"],
        ["Hives/a", *(f"Files/Windows/{number}" for number in range(70)), "usr/a"],
    ],
)
def test_73_what_only_has_such_names_is_not(names: list[str]) -> None:
    assert len(raw_members(flatten_members([list(map(file, names))]))) > len(names)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"hsqs" + bytes(5000), "(?i)squashfs"),
        (bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(5000), "(?i)erofs"),
        (b"PK\3\4" + b"x" * 5000, "tar"),
        (b"\x7fELF" + bytes(5000), "tar"),
        (b"<html>" * 1000, "tar"),
    ],
)
def test_73_what_is_no_tar_is_refused_by_name(start: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=name):
        flatten_layers([start])


def test_8_a_root_entry_on_request() -> None:
    plain = [[file("a")], [file("b")]]
    assert list_tar(flatten_members(plain, root_entry=True), root_entry=True) == [
        "d .", "f a ''", "f b ''",
    ]  # fmt: skip
    with_entries = [
        [dir_("./", mode=0o700, uid=1, mtime=5, xattrs={"user.a": b"1"})],
        [dir_("/", mode=0o711, gid=2, mtime=6, xattrs={"user.b": b"2"}), file("a")],
        [file("b")],
    ]
    tar = flatten_members(with_entries, root_entry=True)
    assert list_tar(tar, root_entry=True) == [
        "d . mode=711 owner=0:2 mtime=6 user.b='2'", "f a ''", "f b ''",
    ]  # fmt: skip
    assert flatten_layers([tar], root_entry=True) == tar
    assert list_tar(flatten_members(with_entries)) == ["f a ''", "f b ''"]


@pytest.mark.parametrize("more", [{"dialect": "v7"}, {"records": ((b"SCHILY.ino", b"5"),)}])
def test_70_what_is_written_anew_is_plain_up_to_100_bytes(more: dict[str, object]) -> None:
    name, target = "n" * 100, "t" * 100
    tar = flatten_members([[file(name, "x", **more), symlink("s", target, **more)]])
    assert tar == layer(file(name, "x"), symlink("s", target))


@pytest.mark.parametrize("dialect", ["gnu", "ustar"])
def test_70_long_names_that_are_written_anew_keep_their_form(dialect: str) -> None:
    name, target = "n" * 150, "t" * 150
    members = [file("a/../" + name, "x", dialect=dialect), symlink("./s", target, dialect=dialect)]
    tar = flatten_members([members])
    assert list_tar(tar) == [f"f {name} 'x'", f"l s -> {target}"]
    assert [bool(one.records) for one in raw_members(tar)] == [dialect == "ustar"] * 2


@pytest.mark.parametrize("dialects", [("v7", "gnu"), ("gnu", "v7"), ("v7", "v7"), ("gnu", "gnu")])
def test_8_the_last_root_entry_of_a_layer_counts(dialects: tuple[str, str]) -> None:
    members = [dir_("./", mode=0o700 + i, dialect=dialect) for i, dialect in enumerate(dialects)]
    tar = flatten_members([members], root_entry=True)
    assert list_tar(tar, root_entry=True) == ["d . mode=701"]


def test_clamping_times() -> None:
    members = [
        file("a", mtime=100),
        file("b", mtime=1000),
        dir_("d", mtime=1001),
        file("e", mtime="1000.5"),
        file("f", mtime="999.5"),
        file("z", "x", mtime=5000),
        hardlink("y", "z", mtime=5000),
    ]
    tar = flatten_members([members], clamp_mtime=1000)
    assert list_tar(tar) == [
        "f a '' mtime=100",
        "f b '' mtime=1000",
        "d d mtime=1000",
        "f e '' mtime=1000",
        "f f '' mtime=999",
        "f y 'x' mtime=1000",
        "h z = y",
    ]
    by_name = {m.name: m.records.get(b"mtime") for m in raw_members(tar)}
    assert by_name[b"e"] in (None, b"1000") and by_name[b"f"] == b"999.5"
    assert flatten_layers([tar], clamp_mtime=1000) == tar


def test_clamping_drops_access_and_change_times() -> None:
    times = ((b"atime", b"1500.5"), (b"ctime", b"1400"))
    gnu = {345: octal(1500, 12), 357: octal(1400, 12)}
    members = [
        file("a", mtime="999.5", records=times),
        file("b", mtime=1001, records=times[:1]),
        file("c", mtime=5, dialect="gnu", overlay=gnu),
        file("d", mtime=5, dialect="gnu", overlay={357: octal(1400, 12)}),
        file("e", mtime=5, records=((b"SCHILY.xattr.user.a", b"1"), times[1])),
        hardlink("f", "a", mtime="999.5", records=times),
    ]
    tar = flatten_members([members], clamp_mtime=1000)
    kept = [
        file("a", mtime="999.5"), file("b", mtime=1000), file("c", mtime=5), file("d", mtime=5),
        file("e", mtime=5, xattrs={"user.a": b"1"}), hardlink("f", "a", mtime="999.5"),
    ]  # fmt: skip
    assert list_tar(tar) == list_tar(layer(*kept))
    assert not any({b"atime", b"ctime"} & member.records.keys() for member in raw_members(tar))
    assert flatten_layers([tar], clamp_mtime=1000) == tar
    assert [m.records.get(b"ctime") for m in raw_members(flatten_members([members]))[:2]] == [
        b"1400", None,
    ]  # fmt: skip
