"""Rules 32 to 42: hard links and duplicates."""

from __future__ import annotations

import pytest

from dimgx.errors import ImageError
from tests.cases import Case, bad, case, check, check_model, flatten_members, table
from tests.dsl import blockdev, chardev, dir_, fifo, file, hardlink, opaque, symlink, whiteout
from tests.listing import raw_members

PAIR = [file("a", "x", mode=0o600), hardlink("b", "a", mode=0o600)]

CASES = [
    case("32-two-names", [PAIR], ["f a 'x' mode=600", "h b = a"]),
    *[
        case(
            f"32-target-names-are-normalised-{n}",
            [[dir_("d"), file("d/a", "x"), hardlink("b", target)]],
            ["f b 'x'", "d d", "h d/a = b"],
        )
        for n, target in enumerate(["d/a", "./d/a", "/d/a", "d/../d//a", "no/../d/./a"])
    ],
    case(
        "32-behind-a-marker-in-an-older-dialect",
        [[whiteout("w", dialect="v7"), file("a", "x"), hardlink("b", "a")]],
        ["f a 'x'", "h b = a"],
    ),
    case(
        "32-behind-all-that-is-no-entry",
        [
            [
                dir_("./"),
                whiteout("v"),
                chardev("w", 0, 0),
                chardev(".wh.x", 0, 0),
                file(".wh..wh.aufs"),
                file("a", "x"),
                file("b", "y"),
                hardlink("c", "a"),
            ]
        ],
        ["f a 'x'", "f b 'y'", "h c = a"],
    ),
    case(
        "32-target-through-a-symlinked-directory-of-the-layer",
        [[file("t/a", "x"), symlink("l", "t"), hardlink("b", "l/a")]],
        ["f b 'x'", "l l -> t", "d t", "h t/a = b"],
    ),
    case(
        "32-target-through-an-absolute-symlink",
        [[file("t/u/a", "x"), symlink("s/l", "/t/u"), hardlink("s/b", "s/l/a")]],
        ["d s", "f s/b 'x'", "l s/l -> /t/u", "d t", "d t/u", "h t/u/a = s/b"],
    ),
    *[
        case(
            f"33-{what}-the-name-that-carried-the-data",
            [[dir_("d"), file("d/a", "x"), hardlink("z", "d/a"), file("e")], upper],
            expected,
        )
        for what, upper, expected in [
            ("overwriting", [file("d/a", "new")], ["d d", "f d/a 'new'", "f e ''", "f z 'x'"]),
            ("removing", [whiteout("d/a")], ["d d", "f e ''", "f z 'x'"]),
            ("retyping", [symlink("d/a", "z")], ["d d", "l d/a -> z", "f e ''", "f z 'x'"]),
            ("making-a-directory-of", [dir_("d/a")], ["d d", "d d/a", "f e ''", "f z 'x'"]),
            ("removing-the-directory-of", [whiteout("d")], ["f e ''", "f z 'x'"]),
            ("making-opaque-the-directory-of", [opaque("d")], ["d d", "f e ''", "f z 'x'"]),
            ("a-file-over-the-directory-of", [file("d")], ["f d ''", "f e ''", "f z 'x'"]),
            (
                "a-symlink-over-the-directory-of",
                [symlink("d", "e")],
                ["l d -> e", "f e ''", "f z 'x'"],
            ),
        ]
    ],
    *[
        case(
            f"33-{what}-the-other-name",
            [[dir_("d"), file("a", "x"), hardlink("d/z", "a")], upper],
            expected,
        )
        for what, upper, expected in [
            ("overwriting", [file("d/z", "new")], ["f a 'x'", "d d", "f d/z 'new'"]),
            ("removing", [whiteout("d/z")], ["f a 'x'", "d d"]),
            ("removing-the-directory-of", [whiteout("d")], ["f a 'x'"]),
        ]
    ],
    case(
        "33-a-new-file-at-the-carriers-name-and-a-new-link-to-it",
        [[file("a", "old"), hardlink("b", "a")], [file("a", "new"), hardlink("c", "a")]],
        ["f a 'new'", "f b 'old'", "h c = a"],
    ),
    case(
        "33-chmod-of-one-name-by-copy",
        [PAIR, [file("a", "x", mode=0o640)]],
        ["f a 'x' mode=640", "f b 'x' mode=600"],
    ),
    case(
        "33-both-names-overwritten",
        [PAIR, [file("a", "1"), file("b", "2")]],
        ["f a '1'", "f b '2'"],
    ),
    case(
        "34-three-names-of-which-one-goes",
        [[file("a", "x"), hardlink("b", "a"), hardlink("c", "b")], [whiteout("a")]],
        ["f b 'x'", "h c = b"],
    ),
    case(
        "34-equal-content-is-not-a-link",
        [[file("a", "x"), file("b", "x")], [file("c", "x")]],
        ["f a 'x'", "f b 'x'", "f c 'x'"],
    ),
    case(
        "34-links-laid-down-twice-are-two-inodes",
        [
            [file("a", "x"), hardlink("b", "a"), hardlink("c", "a")],
            [file("a", "x"), hardlink("b", "a")],
        ],
        ["f a 'x'", "h b = a", "f c 'x'"],
    ),
    case(
        "35-a-link-whose-target-sorts-after-it",
        [[file("z", "x", xattrs={"user.k": b"v"}), hardlink("a", "z")]],
        ["f a 'x' user.k='v'", "h z = a"],
    ),
    case(
        "35-the-right-incarnation",
        [
            [file("t", "one"), hardlink("l1", "t")],
            [file("t", "two"), hardlink("l2", "t")],
            [file("t", "three")],
        ],
        ["f l1 'one'", "f l2 'two'", "f t 'three'"],
    ),
    case(
        "36-to-a-file-of-a-lower-layer",
        [[file("a", "x", mode=0o600)], [hardlink("b", "a", mode=0o600)]],
        ["f a 'x' mode=600", "h b = a"],
    ),
    case(
        "36-to-a-file-two-layers-down-by-another-of-its-names",
        [PAIR, [whiteout("a")], [hardlink("c", "b", mode=0o600)], [whiteout("b")]],
        ["f c 'x' mode=600"],
    ),
    case(
        "36-and-the-target-is-replaced-later",
        [[file("a", "old")], [hardlink("b", "a")], [file("a", "new")]],
        ["f a 'new'", "f b 'old'"],
    ),
    case(
        "36-the-directory-is-in-the-layer-the-file-is-not",
        [[file("d/a", "x")], [dir_("d", mode=0o700), hardlink("d/b", "d/a")]],
        ["d d mode=700", "f d/a 'x'", "h d/b = d/a"],
    ),
    bad(
        "36-behind-a-symlink-of-a-lower-layer",
        [[file("usr/bin/x"), symlink("bin", "usr/bin")], [hardlink("y", "bin/x")]],
        "'y' is a hard link to 'bin/x', which is nowhere",
    ),
    bad("36-no-longer-there", [[file("a")], [whiteout("a")], [hardlink("b", "a")]]),
    bad("36-covered-by-a-file", [[file("d/a")], [file("d")], [hardlink("b", "d/a")]]),
    bad("36-in-an-opaque-directory", [[file("d/a")], [opaque("d")], [hardlink("b", "d/a")]]),
    case(
        "37-before-its-target-the-lower-one-is-meant",
        [[file("a", "old")], [hardlink("b", "a"), file("a", "new")]],
        ["f a 'new'", "f b 'old'"],
    ),
    case(
        "37-before-its-target-and-no-lower-one",
        [[hardlink("b", "a"), file("a", "x", mode=0o600)]],
        ["f a 'x' mode=600", "h b = a"],
    ),
    case(
        "37-before-its-target-in-a-directory-that-follows",
        [[hardlink("b", "d/e/a"), dir_("d/e"), file("d/e/a", "x")]],
        ["f b 'x'", "d d", "d d/e", "h d/e/a = b"],
    ),
    bad(
        "37-before-the-symlink-that-leads-to-its-target",
        [[hardlink("b", "d/a"), symlink("d", "e"), file("e/a", "x")]],
        "'b' is a hard link to 'd/a', which is nowhere",
    ),
    bad("38-to-what-its-own-name-covers", [[file("d/a"), hardlink("d", "d/a")]]),
    bad(
        "38-to-itself-behind-a-symlink", [[symlink("d", "."), hardlink("d/a", "a")]], in_model=False
    ),
    bad("38-to-nothing-at-all", [[file("x"), hardlink("b", "a")]]),
    bad("38-to-a-directory", [[dir_("d"), hardlink("b", "d")]]),
    bad("38-to-a-directory-that-follows", [[hardlink("b", "d"), dir_("d")]]),
    bad("38-to-itself-by-a-symlink", [[symlink("l", "."), hardlink("b", "l/b")]], in_model=False),
    bad("38-to-an-implied-directory", [[file("d/x"), hardlink("b", "d")]]),
    bad(
        "38-to-an-implied-directory-that-is-a-file-in-a-lower-layer",
        [[file("d", "x")], [file("d/y"), hardlink("b", "d")]],
        "a hard link to the directory 'd'",
    ),
    bad("38-to-a-lower-directory", [[dir_("d")], [hardlink("b", "d")]]),
    bad("38-to-itself", [[hardlink("b", "b")]]),
    bad("38-to-itself-by-another-spelling", [[file("b"), hardlink("b", "./b")]]),
    bad("38-in-a-loop", [[hardlink("a", "b"), hardlink("b", "a")]], in_model=False),
    bad("38-to-an-empty-name", [[file("x"), hardlink("b", "")]]),
    bad("38-to-the-root", [[file("x"), hardlink("b", "/")]]),
    bad("38-to-what-lies-below-a-file", [[file("x"), hardlink("b", "x/y")]]),
    bad("38-to-a-marker", [[file(".wh.x"), hardlink("b", ".wh.x")]]),
    case(
        "39-to-a-symlink",
        [[file("t", "x"), symlink("a", "t"), hardlink("b", "a", mode=0o777)]],
        ["l a -> t", "h b = a", "f t 'x'"],
    ),
    case(
        "39-to-a-dangling-symlink",
        [[symlink("a", "/no/such"), hardlink("b", "a", mode=0o777)]],
        ["l a -> /no/such", "h b = a"],
    ),
    case(
        "39-and-leads-to-where-it-does",
        [[dir_("t"), symlink("a", "t"), hardlink("b", "a", mode=0o777), file("b/x")]],
        ["l a -> t", "h b = a", "d t", "f t/x ''"],
    ),
    case(
        "40-devices-and-fifos",
        [
            [
                chardev("c", 1, 3),
                hardlink("c2", "c"),
                blockdev("b", 8, 300),
                hardlink("b2", "b"),
                fifo("p"),
                hardlink("p2", "p"),
            ]
        ],
        ["b b 8,300", "h b2 = b", "c c 1,3", "h c2 = c", "p p", "h p2 = p"],
    ),
    case(
        "40-a-device-whose-first-name-goes",
        [[chardev("a", 5, 1, mode=0o600), hardlink("b", "a", mode=0o600)], [whiteout("a")]],
        ["c b 5,1 mode=600"],
    ),
    case(
        "41-the-last-header-wins",
        [
            [
                file("a", "x", mode=0o644, uid=1, gid=2, mtime=3),
                hardlink("b", "a", mode=0o4755, uid=4, gid=5, mtime=6),
            ]
        ],
        ["f a 'x' mode=4755 owner=4:5 mtime=6", "h b = a"],
    ),
    case(
        "41-of-three",
        [
            [
                file("a", "x", mode=0o600),
                hardlink("b", "a", mode=0o611),
                hardlink("c", "a", mode=0o622),
            ]
        ],
        ["f a 'x' mode=622", "h b = a", "h c = a"],
    ),
    case(
        "41-also-on-an-inode-of-a-lower-layer",
        [[file("a", "x", mode=0o600)], [hardlink("b", "a", mode=0o640, uid=7)]],
        ["f a 'x' mode=640 owner=7:0", "h b = a"],
    ),
    case(
        "41-and-it-stays-when-the-link-goes",
        [[file("a", "x", mode=0o600)], [hardlink("b", "a", mode=0o640)], [whiteout("b")]],
        ["f a 'x' mode=640"],
    ),
    case(
        "41-no-xattrs-take-none-away",
        [
            [
                file("a", "x", xattrs={"user.a": b"1", "security.capability": b"\1\0"}),
                hardlink("b", "a"),
            ]
        ],
        ["f a 'x' security.capability='\\x01\\x00' user.a='1'", "h b = a"],
    ),
    case(
        "41-a-links-xattrs-are-added",
        [
            [
                file("a", "x", xattrs={"user.a": b"1", "user.b": b"1"}),
                hardlink("b", "a", xattrs={"user.b": b"2", "user.c": b"3"}),
            ]
        ],
        ["f a 'x' user.a='1' user.b='2' user.c='3'", "h b = a"],
    ),
    case(
        "41-they-are-added-in-the-order-of-the-layer",
        [
            [
                hardlink("a", "d"),
                file("b", "x"),
                hardlink("c", "b", xattrs={"user.k": b"1"}),
                hardlink("d", "b", xattrs={"user.k": b"2"}),
            ]
        ],
        ["f a 'x' user.k='2'", "h b = a", "h c = a", "h d = a"],
    ),
    case(
        "41-each-link-is-compared-with-its-own-inode",
        [
            [
                file("a", "1", records=((b"atime", b"1"),)),
                hardlink("b", "a", records=((b"atime", b"1"),)),
                file("c", "2", mode=0o600, records=((b"atime", b"1"),)),
                hardlink("d", "c", records=((b"atime", b"1"),)),
            ]
        ],
        ["f a '1'", "h b = a", "f c '2'", "h d = c"],
    ),
    case(
        "42-a-later-file-wins",
        [[file("a", "1"), file("b"), file("a", "2", mode=0o600)]],
        ["f a '2' mode=600", "f b ''"],
    ),
    case(
        "42-two-directories-merge",
        [[dir_("d", mode=0o700), file("d/a"), dir_("d", mode=0o711), file("d/b")]],
        ["d d mode=711", "f d/a ''", "f d/b ''"],
    ),
    case(
        "42-a-file-over-a-directory-of-the-layer",
        [[dir_("d"), file("d/a"), file("d", "x")]],
        ["f d 'x'"],
    ),
    case(
        "42-a-directory-over-a-file-of-the-layer-starts-empty-but-merges-below",
        [[file("d/old")], [file("d", "x"), dir_("d", mode=0o700), file("d/new")]],
        ["d d mode=700", "f d/new ''", "f d/old ''"],
    ),
    case(
        "42-a-link-made-in-between-keeps-the-old-inode",
        [[file("a", "1"), hardlink("b", "a"), file("a", "2"), hardlink("c", "a")]],
        ["f a '2'", "f b '1'", "h c = a"],
    ),
    case(
        "42-a-link-over-an-older-name",
        [[file("a", "1"), file("b", "2"), hardlink("b", "a")]],
        ["f a '1'", "h b = a"],
    ),
    case(
        "42-a-file-over-a-link-to-nothing-but-its-own-directory",
        [[dir_("d/e"), hardlink("d", "d/e"), file("d", "x")]],
        ["f d 'x'"],
    ),
    case(
        "42-a-symlink-over-a-link-to-nothing-makes-a-loop",
        [[symlink("a", "b"), hardlink("a/c", "a/d"), symlink("b", "a")]],
        ["l a -> b", "l b -> a"],
    ),
    case(
        "42-a-file-over-a-link-to-nothing",
        [[file("x")], [hardlink("a", "b"), file("a", "1"), hardlink("c", "a")]],
        ["f a '1'", "h c = a", "f x ''"],
    ),
    bad(
        "42-a-link-to-a-link-to-nothing-that-a-file-replaces",
        [[hardlink("a", "b"), hardlink("c", "a"), file("a")]],
        "'c' is a hard link to 'b', which is nowhere",
        in_model=False,
    ),
    case(
        "42-a-directory-over-a-link-to-nothing",
        [[hardlink("a", "b"), dir_("a"), file("a/x")]],
        ["d a", "f a/x ''"],
    ),
    bad(
        "42-a-file-over-a-link-to-a-link-to-nothing",
        [[hardlink("a", "b"), file("a"), hardlink("b", "c")]],
        "'b' is a hard link to 'c', which is nowhere",
    ),
    case(
        "42-a-symlink-over-a-symlink",
        [[symlink("a", "1"), symlink("a", "2")]],
        ["l a -> 2"],
    ),
    case(
        "42-under-other-spellings",
        [[file("./a", "1"), file("/a", "2"), file("a", "3")]],
        ["f a '3'"],
    ),
]


@table(CASES)
def test_flattening(case: Case) -> None:
    check(case)


@table(CASES)
def test_model(case: Case) -> None:
    check_model(case)


def test_a_dangling_link_is_told_with_its_layer() -> None:
    with pytest.raises(ImageError, match=r"^layer 2/3: 'l' is a hard link to 'nowhere'"):
        flatten_members([[file("a")], [hardlink("l", "nowhere")], [file("b")]])


def test_links_are_spelled_as_their_targets_are() -> None:
    tar = flatten_members([[file("a", "x"), hardlink("b", "./a"), hardlink("c", "/a")]])
    assert [member.target for member in raw_members(tar)] == [b"", b"a", b"a"]


def test_a_link_does_not_say_the_xattrs_of_its_file_again() -> None:
    xattrs = {"user.a": b"1"}
    tar = flatten_members([[file("a", "x", xattrs=xattrs), hardlink("b", "a", xattrs=xattrs)]])
    found = [(member.name, member.records) for member in raw_members(tar)]
    assert found == [(b"a", {b"SCHILY.xattr.user.a": b"1"}), (b"b", {})]
