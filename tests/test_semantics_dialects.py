"""Rules 47 to 52: what dialects of tar a layer may be written in."""

from __future__ import annotations

from itertools import product

import pytest

from tests.cases import Case, bad, case, check, check_model, table
from tests.dsl import (
    Member,
    base256,
    chardev,
    dir_,
    extended,
    file,
    gnu_long,
    hardlink,
    octal,
    pax_header,
    pax_record,
    raw,
    sparse,
    symlink,
    whiteout,
)

LONG = "/".join(["d" * 50] * 6) + "/" + "n" * 120
PARENTS = ["d " + "/".join(["d" * 50] * k) for k in range(1, 7)]
PIECES = [(0, b"start"), (1024, b"m" * 600), (5000, b"end")]
HOLED = bytearray(6000)
for _at, _data in PIECES:
    HOLED[_at : _at + len(_data)] = _data
MANY = [(1000 * k, b"%04d" % k) for k in range(50)]
FORMS = ("0.0", "0.1", "1.0", "gnu")


def pax(*records: tuple[bytes, bytes], then: Member) -> list[Member]:
    """PAX records before a member, whatever they say."""
    return [raw(pax_header(records)), then]


def sparse_listing(name: str, data: bytes) -> str:
    from tests.listing import Node, short_listing

    return short_listing([Node("f", name.encode(), 0o644, 0, 0, 0, data)])[0]


CASES = [
    *[
        case(
            f"47-{dialect}",
            [
                [
                    dir_("d", dialect=dialect, mode=0o711, uid=1, gid=2, mtime=3),
                    file("d/f", "x", dialect=dialect, mode=0o600, uid=1, gid=2, mtime=3),
                    symlink("l", "d/f", dialect=dialect),
                    hardlink("h", "d/f", dialect=dialect, mode=0o600, uid=1, gid=2, mtime=3),
                    file("n" * 100, "y", dialect=dialect),
                    symlink("s", "t" * 100, dialect=dialect),
                    file("gone", dialect=dialect),
                ],
                [whiteout("gone", dialect=dialect)],
            ],
            [
                "d d mode=711 owner=1:2 mtime=3",
                "f d/f 'x' mode=600 owner=1:2 mtime=3",
                "h h = d/f",
                "l l -> d/f",
                f"f {'n' * 100} 'y'",
                f"l s -> {'t' * 100}",
            ],
        )
        for dialect in ("ustar", "gnu", "pax", "v7")
    ],
    *[
        case(
            f"47-long-names-{dialect}",
            [
                [
                    file(LONG, "x", dialect=dialect),
                    symlink("s", "t" * 300, dialect=dialect),
                    hardlink("h", LONG, dialect=dialect),
                ]
            ],
            [*PARENTS, f"f {LONG} 'x'", f"h h = {LONG}", f"l s -> {'t' * 300}"],
        )
        for dialect in ("ustar", "gnu", "pax")
    ],
    case(
        "47-a-prefix",
        [[file("p" * 90 + "/" + "n" * 90, "x"), file("y", overlay={345: b"a/b"})]],
        ["d a", "d a/b", "f a/b/y ''", "d " + "p" * 90, f"f {'p' * 90}/{'n' * 90} 'x'"],
        in_model=False,
    ),
    *[
        case(
            f"47-a-prefix-before-{name}",
            [[file(name, "x", overlay={345: b"p"}), file("q")]],
            ["d p", "f p/a 'x'", "f q ''"],
            in_model=False,
        )
        for name in ("./a", "/a", "a")
    ],
    case(
        "47-a-prefix-of-star-with-times-behind-it",
        [[file("y", "x", overlay={
            345: b"p" * 131, 476: octal(1700000000, 12), 488: octal(5, 12), 508: b"tar\0",
        })]],
        ["d " + "p" * 131, f"f {'p' * 131}/y 'x'"],
        in_model=False,
    ),
    *[
        bad(
            f"47-no-number-at-{at}-{junk.decode()}",
            [[file("a", "x", overlay={at: junk}), file("b")]],
            "is no number",
            in_model=False,
        )
        # The last bytes of each number, and device numbers where there is no device.
        for at, junk in (
            *product((105, 106, 107, 114, 115, 122, 123, 134, 135, 146, 147), (b"x",)),
            *product((106, 114, 122), (b"8",)),
            (329, b"x" * 8), (337, b"x" * 8), (329, b"x" * 16),
        )
    ],
    case("47-type-7-is-a-file", [[file("a", "x", typeflag=b"7")]], ["f a 'x'"]),
    case("47-type-nul-is-a-file-in-any-dialect", [[file("a", "x", typeflag=b"\0")]], ["f a 'x'"]),
    case(
        "47-type-nul-and-a-slash-is-a-directory",
        [[file("a/", typeflag=b"\0"), file("b/", typeflag=b"\0", dialect="v7", mode=0o700)]],
        ["d a mode=644", "d b mode=700"],
        in_model=False,
    ),
    case("47-type-0-and-a-slash-is-a-file", [[file("a/", "x")]], ["f a 'x'"]),
    case("47-a-directory-without-its-slash", [[dir_("a", slash=False)]], ["d a"]),
    case("47-a-device-and-a-fifo-with-a-slash", [[chardev("c/", 1, 3)]], ["c c 1,3"]),
    *[
        bad(
            f"47-unknown-type-{flag!r}",
            [[file("a", typeflag=flag.encode("latin-1"))]],
            "type",
            in_model=False,
        )
        for flag in ("8", "A", "D", "M", "N", "V", "X", "Z", "\xff")
    ],
    case(
        "48-times-in-a-gnu-header-are-no-prefix",
        [[file("a", "x", dialect="gnu", overlay={345: octal(1700000000, 12), 357: octal(5, 12)})]],
        ["f a 'x'"],
    ),
    case(
        "48-base-256-times-neither",
        [[file("a", dialect="gnu", overlay={345: base256(1 << 40, 12), 357: base256(-5, 12)})]],
        ["f a ''"],
    ),
    case(
        "48-go-before-1.8-wrote-a-prefix-there",
        [[file("n", "x", dialect="gnu", uid=1 << 30, overlay={345: b"usr/share/deep"})]],
        ["d usr", "d usr/share", "d usr/share/deep", "f usr/share/deep/n 'x' owner=1073741824:0"],
        in_model=False,
    ),
    case(
        "49-pax-overrides-the-header",
        [
            pax(
                (b"path", b"other"),
                (b"uid", b"7"),
                (b"gid", b"8"),
                (b"mtime", b"9"),
                (b"size", b"3"),
                then=file("name", "abc", size=0, uid=1, mtime=1),
            )
        ],
        ["f other 'abc' owner=7:8 mtime=9"],
        in_model=False,
    ),
    *[
        case(
            f"49-a-name-that-is-overridden-is-no-marker-and-leads-nowhere-{what}",
            [
                [file("a", "x")],
                [
                    *pax((b"path", b"b"), *more, then=file(".wh.a")),
                    *pax((b"path", b"c"), *more, then=file("../c")),
                ],
            ],
            ["f a 'x'", f"f b ''{owner}", f"f c ''{owner}"],
            in_model=False,
        )
        for what, more, owner in [("alone", [], ""), ("with-more", [(b"uid", b"5")], " owner=5:0")]
    ],
    case(
        "49-linkpath",
        [
            [
                file("a"),
                *pax((b"linkpath", b"b"), then=symlink("s", "x")),
                *pax((b"linkpath", b"a"), then=hardlink("h", "x")),
            ]
        ],
        ["f a ''", "h h = a", "l s -> b"],
        in_model=False,
    ),
    case(
        "49-an-empty-value-means-absent",
        [
            pax(
                (b"path", b""),
                (b"uid", b""),
                (b"mtime", b""),
                (b"size", b""),
                then=file("a", "xy", uid=3, mtime=4),
            )
        ],
        ["f a 'xy' owner=3:0 mtime=4"],
        in_model=False,
    ),
    case("49-an-empty-one", [[raw(pax_header([])), file("a")]], ["f a ''"], in_model=False),
    case(
        "49-the-last-of-two-records-counts",
        [pax((b"uid", b"1"), (b"uid", b"2"), then=file("a"))],
        ["f a '' owner=2:0"],
        in_model=False,
    ),
    case(
        "49-values-are-bytes",
        [pax((b"path", b"\xff\xfe"), (b"hdrcharset", b"BINARY"), then=file("a"))],
        ["f \\377\\376 ''"],
        in_model=False,
    ),
    case(
        "49-a-gnu-long-name-beats-a-pax-path",
        [
            [raw(pax_header([(b"path", b"pax")])), raw(gnu_long(b"L", b"gnu")), file("a", "x")],
            [raw(gnu_long(b"L", b"gnu2")), raw(pax_header([(b"path", b"pax2")])), file("b", "y")],
        ],
        ["f gnu 'x'", "f gnu2 'y'"],
        in_model=False,
    ),
    case(
        "49-a-gnu-long-target-beats-a-pax-linkpath",
        [
            [
                raw(pax_header([(b"linkpath", b"pax")])),
                raw(gnu_long(b"K", b"gnu")),
                symlink("a", "x"),
            ]
        ],
        ["l a -> gnu"],
        in_model=False,
    ),
    case(
        "49-an-extended-header-reaches-one-member",
        [[*pax((b"uid", b"5"), then=file("a")), file("b")]],
        ["f a '' owner=5:0", "f b ''"],
        in_model=False,
    ),
    case(
        "50-global-headers-are-ignored",
        [
            [
                raw(pax_header([(b"comment", b"0123456789abcdef")], typeflag=b"g")),
                file("a", "x"),
                raw(pax_header([(b"uid", b"5"), (b"path", b"evil"), (b"mtime", b"7")], b"g")),
                file("b", "y"),
                raw(pax_header([(b"uid", b"6")], b"g")),
            ]
        ],
        ["f a 'x'", "f b 'y'"],
        in_model=False,
    ),
    case(
        "50-no-parent-for-their-name",
        [[raw(extended(b"g", pax_record(b"comment", b"x"), name=b"no/such/dir")), file("a")]],
        ["f a ''"],
        in_model=False,
    ),
    case(
        "50-between-an-extended-header-and-its-member",
        [[raw(pax_header([(b"uid", b"5")])), raw(pax_header([(b"gid", b"6")], b"g")), file("a")]],
        ["f a '' owner=5:0"],
        in_model=False,
    ),
    case(
        "51-numbers-as-others-write-them",
        [
            [
                file("a", "abc", overlay={124: b"          3\0"}),
                file("b", "abc", overlay={124: b"00000000003 "}),
                file("c", "abc", overlay={124: b"000000000003"}),
                file("d", "abc", overlay={124: base256(3, 12), 108: base256(1 << 31, 8)}),
                file("e", overlay={100: b"644\0\0\0\0\0", 136: b"7 \0" + bytes(9)}),
            ]
        ],
        [
            "f a 'abc'",
            "f b 'abc'",
            "f c 'abc'",
            "f d 'abc' owner=2147483648:0",
            "f e '' mtime=7",
        ],
        in_model=False,
    ),
    case(
        "51-sizes-of-what-has-no-data-are-ignored",
        [
            [
                dir_("d", size=1000),
                symlink("l", "x", size=77),
                file("a", "x"),
                hardlink("h", "a", size=5000),
                chardev("c", 1, 3, size=512),
                file("z", "end"),
            ]
        ],
        ["f a 'x'", "c c 1,3", "d d", "h h = a", "l l -> x", "f z 'end'"],
    ),
    case(
        "51-negative-owners-are-32-bits",
        [[file("a", overlay={108: base256(-2, 8), 116: base256(-1, 8)}), file("b", uid=2**32 - 2)]],
        ["f a '' owner=4294967294:4294967295", "f b '' owner=4294967294:0"],
        in_model=False,
    ),
    case(
        "51-large-owners-are-32-bits",
        [
            [
                file("a", uid=2**32 + 5, gid=2**33, dialect="gnu"),
                file("b", uid=2**40 - 1, dialect="pax"),
                file("c", overlay={116: base256((1 << 62) + 7, 8)}),
            ]
        ],
        ["f a '' owner=5:0", "f b '' owner=4294967295:0", "f c '' owner=0:7"],
        in_model=False,
    ),
    bad("51-a-negative-size", [[file("a", size=base256(-1, 12))]], "size", in_model=False),
    bad("51-a-negative-pax-size", [pax((b"size", b"-1"), then=file("a"))], in_model=False),
    bad(
        "51-a-size-that-is-no-number", [[file("a", size=b"12x45678901\0")]], "size", in_model=False
    ),
    bad("51-a-pax-size-that-is-no-number", [pax((b"size", b"1x"), then=file("a"))], in_model=False),
    bad("51-a-mode-that-is-no-number", [[file("a", overlay={100: b"rwxr-xr\0"})]], in_model=False),
    bad(
        "51-a-device-number-that-is-no-number",
        [[file("a", overlay={329: b"zzzzzzz\0"})]],
        "device",
        in_model=False,
    ),
    bad(
        "51-a-pax-time-that-is-no-number", [pax((b"mtime", b"now"), then=file("a"))], in_model=False
    ),
    bad("51-a-wrong-checksum", [[file("a", checksum=b"000000\0 ")]], "checksum", in_model=False),
    bad(
        "51-a-wrong-checksum-of-a-later-member",
        [[*[file(f"f{k}", b"x" * k) for k in range(50)], file("z", checksum=b"001234\0 ")]],
        "checksum",
        in_model=False,
    ),
    bad(
        "51-a-wrong-checksum-of-an-extended-header",
        [[raw(extended(b"x", pax_record(b"uid", b"1"), checksum=b"000001\0 ")), file("a")]],
        "checksum",
        in_model=False,
    ),
    *[
        bad(
            f"51-an-extended-header-of-{what}",
            [[raw(extended(b"L", b"a", size=size)), file("a")]],
            said,
            in_model=False,
        )
        for what, size, said in [
            ("a-negative-size", base256(-1, 12), "negative size"),
            ("more-than-1-MiB", (1 << 20) + 1, "1 MiB"),
        ]
    ],
    bad("51-a-symlink-without-a-target", [[symlink("a", "")]], "without a target", in_model=False),
    bad("51-a-size-beyond-the-end", [[file("a", "x", size=1 << 20)]], in_model=False),
    bad("51-a-huge-size", [[file("a", "x", size=8**11 - 1)]], in_model=False),
    *[
        bad(
            f"51-a-bad-pax-record-{n}",
            [[raw(extended(b"x", payload)), file("a")]],
            "PAX",
            in_model=False,
        )
        for n, payload in enumerate(
            [
                b"99 uid=1\n",
                b"7 uid=1\n",
                b"9 uid=1\n9 uid",
                b"x uid=1\n",
                b"9 uid=1 ",
                b"0 \n",
                b"6 uid\n",
                b"-9 uid=1\n",
                b"5 =1\n",
            ]
        )
    ],
    bad("51-a-nul-in-a-path", [pax((b"path", b"a\0b"), then=file("a"))], in_model=False),
    *[
        case(
            f"52-sparse-{form}",
            [[sparse("s", PIECES, 6000, form), file("z", "after")]],
            [sparse_listing("s", bytes(HOLED)), "f z 'after'"],
        )
        for form in FORMS
    ],
    *[  # as Go takes them, and so Docker and podman; GNU tar and bsdtar take the last
        case(
            f"52-sparse-{form}-of-two-sizes",
            [[sparse("s", PIECES, size, form, records=((other, number),))]],
            [sparse_listing("s", bytes(HOLED))],
            in_model=False,
        )
        for form, size, other, number in (
            ("0.1", 6000, b"GNU.sparse.realsize", b"9000"),
            ("1.0", 9000, b"GNU.sparse.size", b"6000"),
        )
    ],
    case(
        "52-what-is-not-sparse-has-no-sparse-name",
        [[*pax((b"GNU.sparse.name", b"other"), then=file("a", "x")), file("z", "after")]],
        ["f a 'x'", "f z 'after'"],
        in_model=False,
    ),
    bad(
        "52-a-nul-in-the-name-of-a-sparse-file",
        [[sparse("s", PIECES, 6000, "0.0", records=((b"GNU.sparse.name", b"..\0x"),))]],
        "NUL",
        in_model=False,
    ),
    *[
        case(
            f"52-sparse-many-pieces-{form}",
            [[sparse("s", MANY, 60000, form), file("z", "after")]],
            [
                sparse_listing(
                    "s", b"".join(d.ljust(1000, b"\0") for _, d in MANY).ljust(60000, b"\0")
                ),
                "f z 'after'",
            ],
        )
        for form in FORMS
    ],
    *[
        case(
            f"52-sparse-only-a-hole-{form}",
            [[sparse("s", [], 5000, form), file("z")]],
            [sparse_listing("s", bytes(5000)), "f z ''"],
        )
        for form in FORMS
    ],
    *[
        case(
            f"52-sparse-linked-and-covered-{form}",
            [[sparse("s", PIECES, 6000, form), hardlink("a", "s")], [whiteout("s")]],
            [sparse_listing("a", bytes(HOLED))],
        )
        for form in FORMS
    ],
    case(
        "52-a-map-of-what-is-no-file-says-nothing",
        [pax((b"GNU.sparse.size", b"5"), (b"GNU.sparse.map", b"0,5"), then=dir_("d"))],
        ["d d"],
        in_model=False,
    ),
    bad(
        "52-sparse-of-a-negative-size",
        [[file("s", typeflag=b"S", dialect="gnu", overlay={483: base256(-5, 12)})]],
        "sparse map",
        in_model=False,
    ),
    *[
        bad(
            f"52-sparse-map-{what}",
            [
                [
                    raw(
                        pax_header(
                            [
                                (b"GNU.sparse.size", b"100"),
                                (b"GNU.sparse.numblocks", b"%d" % (len(m) // 2)),
                                (b"GNU.sparse.map", b",".join(m)),
                            ]
                        )
                    ),
                    file("s", "x" * 20),
                ]
            ],
            in_model=False,
        )
        for what, m in [
            ("beyond-the-size", [b"90", b"20"]),
            ("out-of-order", [b"50", b"10", b"0", b"10"]),
            ("overlapping", [b"0", b"10", b"5", b"10"]),
            ("of-too-much", [b"0", b"40"]),
            ("of-letters", [b"0", b"1x"]),
            ("negative", [b"-1", b"20"]),
        ]
    ],
]


@table(CASES)
def test_flattening(case: Case) -> None:
    check(case)


@table(CASES)
def test_model(case: Case) -> None:
    check_model(case)


@pytest.mark.parametrize("count", [1, 3, 255, 256, 257, 1000, 1025])
def test_47_long_names_at_every_place_of_a_batch(count: int) -> None:
    """Extended headers may straddle whatever pieces the walker reads in."""
    members = [
        file(
            f"f{k:04}" + "x" * (100 if k % 3 == 0 else 0),
            b"d" * (k % 700),
            dialect="gnu" if k % 2 else "pax",
        )
        for k in range(count)
    ]
    check(
        case(
            "",
            [members],
            [line for m in members for line in [sparse_listing(m.name.decode(), m.data)]],
        )
    )
