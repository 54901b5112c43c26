"""Rules 43 to 46: modes, owners, times, extended attributes, devices."""

from __future__ import annotations

from tests.cases import Case, bad, case, check, check_model, flatten_members, table
from tests.dsl import base256, blockdev, chardev, dir_, fifo, file, hardlink, octal, symlink
from tests.listing import raw_members

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ACL = {"records": ((b"SCHILY.acl.access", b"user::rw-,user:7:r--,group::r--"),)}

CASES = [
    case(
        "43-all-twelve-bits",
        [
            [
                file("suid", mode=0o4755),
                file("sgid", mode=0o2755),
                dir_("tmp", mode=0o1777),
                file("all", mode=0o7777),
                file("none", mode=0),
                fifo("p", mode=0o6600),
            ]
        ],
        [
            "f all '' mode=7777",
            "f none '' mode=0",
            "p p mode=6600",
            "f sgid '' mode=2755",
            "f suid '' mode=4755",
            "d tmp mode=1777",
        ],
    ),
    case(
        "43-type-bits-in-the-mode-are-ignored",
        [[file("a", mode=0o100600), dir_("d", mode=0o40711), file("e", mode=0o120640)]],
        ["f a '' mode=600", "d d mode=711", "f e '' mode=640"],
    ),
    case(
        "43-large-owners",
        [
            [
                file("a", uid=2097151, gid=2097152),
                file("b", uid=4294967294, gid=1, dialect="gnu"),
                dir_("c", uid=3000000000, gid=3000000001),
                symlink("d", "x", uid=12345678, gid=87654321),
            ]
        ],
        [
            "f a '' owner=2097151:2097152",
            "f b '' owner=4294967294:1",
            "d c owner=3000000000:3000000001",
            "l d -> x owner=12345678:87654321",
        ],
    ),
    case(
        "43-owner-names-count-for-nothing",
        [
            [
                file("a", uname=b"daemon", gname=b"adm", uid=0, gid=0),
                file("b", uname=b"root", gname=b"root", uid=5, gid=6),
                file("c", uname=b"root", gname=b"root"),
                file("d", records=((b"uname", b"daemon"), (b"gname", b"adm")), uid=1),
                file("e", uname=b"joe", uid=1 << 25, dialect="gnu"),
                file("f", gname=b"joe", gid=1 << 25, dialect="gnu"),
            ]
        ],
        [
            "f a ''",
            "f b '' owner=5:6",
            "f c ''",
            "f d '' owner=1:0",
            "f e '' owner=33554432:0",
            "f f '' owner=0:33554432",
        ],
    ),
    case(
        "43-symlinks-have-an-owner-and-no-mode",
        [[symlink("a", "b", mode=0o600, uid=3, gid=4), symlink("b", "a", mode=0)]],
        ["l a -> b owner=3:4", "l b -> a"],
    ),
    case(
        "44-times-are-kept-of-directories-too",
        [
            [
                file("a", mtime=1),
                dir_("d", mtime=1700000000),
                symlink("l", "x", mtime=1234567890),
                file("z", mtime=8**11 - 1),
            ]
        ],
        [
            "f a '' mtime=1",
            "d d mtime=1700000000",
            "l l -> x mtime=1234567890",
            "f z '' mtime=8589934591",
        ],
    ),
    case(
        "44-before-1970-and-after-2242",
        [
            [
                file("a", mtime=-1),
                file("b", mtime=-1000000, dialect="gnu"),
                file("c", mtime=8**11),
                file("d", mtime=8**11 + 5, dialect="gnu"),
                file("e", mtime="-1.5"),
            ]
        ],
        [
            "f a '' mtime=-1",
            "f b '' mtime=-1000000",
            "f c '' mtime=8589934592",
            "f d '' mtime=8589934597",
            "f e '' mtime=-2",
        ],
    ),
    case(
        "45-extended-attributes-of-files-and-directories",
        [
            [
                file("f", "x", xattrs={"user.a": b"\0\xff=\n", "user.empty": b""}),
                dir_("d", xattrs={"user.d": b"1"}),
                file("ping", mode=0o755, xattrs={"security.capability": CAPABILITY}),
            ]
        ],
        [
            "d d user.d='1'",
            "f f 'x' user.a='\\x00\\xff=\\n' user.empty=''",
            f"f ping '' mode=755 security.capability={repr(CAPABILITY)[1:]}",
        ],
    ),
    case(
        "45-replaced-not-merged",
        [
            [
                file("f", xattrs={"user.a": b"1", "user.b": b"1"}),
                dir_("d", xattrs={"user.a": b"1"}),
                dir_("e", xattrs={"user.a": b"1"}),
            ],
            [file("f", xattrs={"user.b": b"2"}), dir_("d"), file("e/x")],
        ],
        ["d d", "d e user.a='1'", "f e/x ''", "f f '' user.b='2'"],
    ),
    case(
        "45-security-and-posix-attributes-stay-as-they-are",
        [
            [
                file(
                    "f",
                    xattrs={
                        "security.selinux": b"system_u:object_r:etc_t:s0\0",
                        "system.posix_acl_access": b"\2\0\0\0",
                        "security.ima": b"\3",
                    },
                )
            ]
        ],
        [
            "f f '' security.ima='\\x03' security.selinux='system_u:object_r:etc_t:s0\\x00'"
            " system.posix_acl_access='\\x02\\x00\\x00\\x00'"
        ],
    ),
    case(
        "45-schily-acls-stay-as-they-are",
        [[file("f", **ACL)]],
        ["f f '' SCHILY.acl.access='user::rw-,user:7:r--,group::r--'"],
        in_model=False,
    ),
    case(
        "45-records-that-change-nothing-are-dropped",
        [
            [
                file(
                    "f",
                    "x",
                    records=(
                        (b"LIBARCHIVE.xattr.user.a", b"MQ"),
                        (b"LIBARCHIVE.creationtime", b"1"),
                        (b"SCHILY.dev", b"1"),
                        (b"SCHILY.ino", b"2"),
                        (b"SCHILY.nlink", b"3"),
                        (b"SCHILY.fflags", b"nodump"),
                        (b"VENDOR.key", b"4"),
                        (b"comment", b"hello"),
                    ),
                )
            ]
        ],
        ["f f 'x'"],
    ),
    case(
        "46-device-numbers-beyond-255",
        [
            [
                chardev("a", 259, 65537),
                blockdev("b", 8, 1048575, dialect="gnu"),
                chardev("c", 4095, 2097151, mode=0o620, gid=5),
                chardev("d", 1, 1 << 23, dialect="gnu"),
            ]
        ],
        [
            "c a 259,65537",
            "b b 8,1048575",
            "c c 4095,2097151 mode=620 owner=0:5",
            "c d 1,8388608",
        ],
    ),
    *[
        bad(
            f"46-device-numbers-of-no-system-{number}",
            [[chardev("a", 1, 3).but(overlay={329: base256(number, 8)})]],
            "device number",
            in_model=False,
        )
        for number in (-1, 1 << 31, 1 << 59)
    ],
    case("46-fifos", [[fifo("p", mode=0o600, uid=1, mtime=5)]], ["p p mode=600 owner=1:0 mtime=5"]),
]


@table(CASES)
def test_flattening(case: Case) -> None:
    check(case)


@table(CASES)
def test_model(case: Case) -> None:
    check_model(case)


def test_43_owner_names_are_blanked_but_those_of_root() -> None:
    tar = flatten_members(
        [[file("a", uname=b"daemon", gname=b"root", gid=0), file("b", uname=b"root")]]
    )
    owners = [
        (m.block[265:297].rstrip(b"\0"), m.block[297:329].rstrip(b"\0")) for m in raw_members(tar)
    ]
    assert owners == [(b"", b"root"), (b"root", b"")] or owners == [(b"", b""), (b"root", b"")]


def test_44_fractions_of_seconds_stay() -> None:
    tar = flatten_members([[file("a", mtime="1700000000.123456789"), file("b", mtime="-0.25")]])
    assert [m.records.get(b"mtime") for m in raw_members(tar)] == [
        b"1700000000.123456789",
        b"-0.25",
    ]


def test_44_a_fraction_stays_with_the_name_that_carries_the_data() -> None:
    tar = flatten_members([[file("z", "x", mtime="5.5"), hardlink("a", "z", mtime="5.5")]])
    first, link = raw_members(tar)
    assert (first.name, first.data, first.records.get(b"mtime")) == (b"a", b"x", b"5.5")
    assert (link.name, link.target) == (b"z", b"a")


def test_51_empty_number_fields_are_zero() -> None:
    blank = {100: bytes(8), 108: b" " * 7 + b"\0", 116: bytes(8), 136: bytes(12)}
    tar = flatten_members([[file("a", "x", overlay=blank)]])
    (member,) = raw_members(tar)
    assert [member.number(at, 8) for at in (100, 108, 116)] == [0, 0, 0]
    assert member.block[124:136] == octal(1, 12)
