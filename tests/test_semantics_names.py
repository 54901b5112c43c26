"""Rules 1 to 11: layers on top of each other, and names."""

from __future__ import annotations

import tracemalloc

import pytest

from dimgx.errors import ImageError
from dimgx.layers import names
from tests.cases import Case, bad, case, check, check_model, flatten_layers, table
from tests.dsl import Member, chardev, dir_, fifo, file, hardlink, layer, symlink, whiteout

CASES = [
    # -- A. the model
    case("1-no-layers", [], []),
    case("1-an-empty-layer-changes-nothing", [[file("a", "x")], []], ["f a 'x'"]),
    case(
        "1-removed-before-added-whatever-the-order",
        [[file("a", "old"), file("b", "old")], [file("a", "new"), whiteout("a"), whiteout("b")]],
        ["f a 'new'"],
    ),
    case(
        "1-the-same-layer-again-applies-again",
        [[file("a", "1")], [file("a", "2")], [file("a", "1")]],
        ["f a '1'"],
    ),
    case(
        "2-directories-merge",
        [[dir_("d"), file("d/a", "1"), file("d/b", "1")], [dir_("d"), file("d/b", "2")]],
        ["d d", "f d/a '1'", "f d/b '2'"],
    ),
    case(
        "2-attributes-of-a-merged-directory-are-the-newer-entrys",
        [
            [dir_("d", mode=0o700, uid=1, gid=2, mtime=3, xattrs={"user.a": b"1"}), file("d/a")],
            [dir_("d", mode=0o711, uid=4, gid=5, mtime=6, xattrs={"user.b": b"2"})],
        ],
        ["d d mode=711 owner=4:5 mtime=6 user.b='2'", "f d/a ''"],
    ),
    case(
        "2-file-over-directory-hides-the-subtree",
        [[dir_("d"), dir_("d/e"), file("d/e/f", "x"), file("d.txt")], [file("d", "now a file")]],
        ["f d 'now a file'", "f d.txt ''"],
    ),
    case(
        "2-directory-over-file-starts-empty",
        [[file("d", "x")], [dir_("d", mode=0o700)]],
        ["d d mode=700"],
    ),
    case(
        "2-directory-over-symlink-starts-empty",
        [[dir_("real"), file("real/x"), symlink("d", "real")], [dir_("d"), file("d/y")]],
        ["d d", "f d/y ''", "d real", "f real/x ''"],
    ),
    case(
        "2-symlink-over-directory-hides-it",
        [[dir_("d"), file("d/a", "x"), dir_("e")], [symlink("d", "e")]],
        ["l d -> e", "d e"],
    ),
    case(
        "2-fifo-over-directory-and-device-over-file",
        [[dir_("d"), file("d/a"), file("f")], [fifo("d"), chardev("f", 1, 3)]],
        ["p d", "c f 1,3"],
    ),
    case(
        "2-nothing-of-a-directory-comes-back",
        [[dir_("d"), file("d/old", "x")], [file("d", "file")], [dir_("d"), file("d/new", "y")]],
        ["d d", "f d/new 'y'"],
    ),
    case(
        "2-nothing-comes-back-below-an-implied-directory-either",
        [[dir_("d"), file("d/s/old", "x")], [symlink("d", "e")], [file("d/s/new", "y")]],
        ["d d", "d d/s", "f d/s/new 'y'"],
    ),
    case(
        "2-a-file-covers-what-two-layers-down-had-below-it",
        [[file("d/a")], [file("d/b")], [file("d", "f")], [], [file("e")]],
        ["f d 'f'", "f e ''"],
    ),
    case(
        "2-a-covered-file-still-hides-what-lay-below-its-name",
        [[dir_("d"), file("d/a")], [file("d")], [whiteout("d")], [dir_("d", mode=0o700)]],
        ["d d mode=700"],
    ),
    case(
        "3-newest-entry-counts-though-the-children-are-older",
        [[dir_("d", mode=0o700), file("d/a")], [file("d/b")], [dir_("d", mode=0o500)]],
        ["d d mode=500", "f d/a ''", "f d/b ''"],
    ),
    case(
        "3-attributes-that-change-back",
        [[dir_("d", mode=0o700)], [dir_("d", mode=0o755)], [dir_("d", mode=0o700)]],
        ["d d mode=700"],
    ),
    case(
        "4-something-below-does-not-change-the-directory",
        [[dir_("d", mode=0o700, uid=7, gid=8, mtime=9)], [file("d/a")]],
        ["d d mode=700 owner=7:8 mtime=9", "f d/a ''"],
    ),
    # -- B. names
    *[
        case(f"5-one-name-{n}", [[file("x", "old")], [file(name, "new")]], ["f x 'new'"])
        for n, name in enumerate(["./x", "/x", ".//x", "././x", "//x", "/./x", ".///.//x"])
    ],
    *[
        case(f"5-one-directory-{n}", [[dir_("a/b"), file("a/b/f")], [member]], expected)
        for n, (member, expected) in enumerate(
            [
                (dir_("./a/b", mode=0o700), ["d a", "d a/b mode=700", "f a/b/f ''"]),
                (dir_("a//b//", mode=0o700), ["d a", "d a/b mode=700", "f a/b/f ''"]),
                (dir_("a/./b/.", mode=0o700), ["d a", "d a/b mode=700", "f a/b/f ''"]),
                (dir_("/a/b", slash=False, mode=0o700), ["d a", "d a/b mode=700", "f a/b/f ''"]),
            ]
        )
    ],
    case("5-x-dot-is-x", [[file("x/.", "f")]], ["f x 'f'"]),
    case("5-names-are-bytes", [[file(b"\xff\xfe", "x")]], ["f \\377\\376 'x'"]),
    case(
        "5-whiteout-names-are-normalised-before-the-basename-is-looked-at",
        [[file("a/x"), file("a/y"), file("z")], [whiteout("./a//x"), file(".//./.wh.z")]],
        ["d a", "f a/y ''"],
    ),
    case("5-a-whiteout-with-slash-and-dot", [[file("a")], [file(".wh.a/.")]], []),
    case("6-dot-dot-by-spelling", [[file("a/../b", "x")]], ["f b 'x'"]),
    case("6-it-need-not-exist", [[file("no/such/../../b/./c/../d", "x")]], ["d b", "f b/d 'x'"]),
    case(
        "6-not-through-a-symlink",
        [[dir_("t/u"), symlink("a", "t/u"), file("a/../b", "x")]],
        ["l a -> t/u", "f b 'x'", "d t", "d t/u"],
    ),
    case("6-a-whiteout-too", [[file("b")], [file("a/../.wh.b")]], []),
    *[
        bad(f"7-leaves-the-root-{n}", [[file("ok"), file(name)]], "(?i)root")
        for n, name in enumerate(["../x", "/../x", "a/../../x", "..", "./../x", "a/../.."])
    ],
    bad("7-the-first-that-leaves", [[file("../x"), file("../y", dialect="v7")]], "x' leaves"),
    bad("7-a-directory-that-leaves", [[dir_("../d")]], "(?i)root"),
    bad("7-a-whiteout-that-leaves", [[file("../.wh.x")]], "(?i)root"),
    bad("7-a-link-target-that-leaves", [[file("x"), hardlink("y", "../x")]], "(?i)root"),
    *[
        case(
            f"8-the-root-is-left-out-{n}",
            [[dir_(name, slash=False, mode=0o700)], [file("a")]],
            ["f a ''"],
        )
        for n, name in enumerate(["./", "/", ".", "./.", "", "a/.."])
    ],
    case("8-the-root-in-base-256", [[dir_("", slash=False, uid=1 << 25, dialect="gnu")]], []),
    *[
        bad(f"8-a-root-that-is-a-{kind}", [[member]], "root|name|directory")
        for kind, member in [
            ("file", file("./", "x")),
            ("symlink", symlink(".", "x")),
            ("fifo", fifo("/")),
            ("hard-link", hardlink("a/..", "b")),
            ("whiteout-of-overlayfs", chardev("./", 0, 0)),
        ]
    ],
    case(
        "9-a-newline-beside-names-that-are-not-as-they-seem",
        [[file("a"), file("b/a")],
         [file("n\nl"), whiteout("a"), file("c//d"), file("e/./f"), dir_("d\n/"), whiteout("b/a")]],
        ["d b", "d c", "f c/d ''", "d d\\012", "d e", "f e/f ''", "f n\\012l ''"],
    ),
    case(
        "9-odd-names-are-ordinary",
        [
            [
                file("a\\b"),
                file("a:b"),
                file("C:x"),
                file("C:\\x"),
                file("-rf"),
                file("new\nline"),
                file("\\x"),
                file("A"),
                file("a"),
                file("\u00e9"),
                file("e\u0301"),
                file(" "),
                file("sys-\\x2dx"),
            ]
        ],
        [
            "f \\040 ''",
            "f -rf ''",
            "f A ''",
            "f C:\\134x ''",
            "f C:x ''",
            "f \\134x ''",
            "f a ''",
            "f a:b ''",
            "f a\\134b ''",
            "f e\\314\\201 ''",
            "f new\\012line ''",
            "f sys-\\134x2dx ''",
            "f \\303\\251 ''",
        ],
    ),
    case(
        "9-a-whiteout-of-one-of-them-leaves-the-others",
        [[file("A"), file("a"), file("a\\b"), file("b")], [whiteout("a\\b"), whiteout("A")]],
        ["f a ''", "f b ''"],
    ),
    case(
        "10-two-dots-at-the-front",
        [
            [
                file("..data", "x"),
                file("...", "y"),
                dir_("..2024"),
                file("..2024/a"),
                file("a../b.."),
            ]
        ],
        ["f ... 'y'", "d ..2024", "f ..2024/a ''", "f ..data 'x'", "d a..", "f a../b.. ''"],
    ),
    case(
        "11-members-of-an-archive-are-ordinary-names-in-a-layer",
        [[file("manifest.json", "x"), file("layer.tar", "y"), file("repositories"), dir_("blobs")]],
        ["d blobs", "f layer.tar 'y'", "f manifest.json 'x'", "f repositories ''"],
    ),
]


@table(CASES)
def test_flattening(case: Case) -> None:
    check(case)


@table(CASES)
def test_model(case: Case) -> None:
    check_model(case)


@pytest.mark.parametrize("more", [[], [file("x"), file("x")]], ids=["plain", "replayed"])
def test_directories_without_entries_are_bounded(
    monkeypatch: pytest.MonkeyPatch, more: list[Member]
) -> None:
    """Rule 72: those above one name can have names a thousand times as long as it is."""
    monkeypatch.setattr(names, "MOST_IMPLIED", 3 << 20)
    deep = b"a/" * 2000 + b"f"
    with pytest.raises(ImageError, match="more than 3 MiB"):
        flatten_layers([layer(file(deep), *more)])
    every = [deep[:end] for end in range(2, len(deep), 2)]
    entries = [dir_(name) for name in every]
    assert flatten_layers([layer(*entries, file(deep), *more)])


def test_directories_without_entries_are_bounded_in_all_layers_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names, "MOST_IMPLIED", 3 << 20)
    layers = [layer(file(b"%d/" % number + b"a/" * 1200 + b"f")) for number in range(3)]
    assert flatten_layers(layers[:2])
    with pytest.raises(ImageError, match="more than 3 MiB"):
        flatten_layers(layers)


def test_directories_without_entries_are_bounded_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule 72, where the members are replayed: a tree of them takes as much as their names."""
    monkeypatch.setattr(names, "MOST_IMPLIED", 3 << 20)
    many = [file(b"%d/" % number + b"a/" * 2000 + b"f") for number in range(100)]
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="more than 3 MiB"):
            flatten_layers([layer(file("x"), file("x"), *many)])
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
