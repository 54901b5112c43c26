"""Rules 12 to 20: whiteouts, and what other engines use for them."""

from __future__ import annotations

import sys
import tempfile

import pytest

from tests import model
from tests.cases import (
    Case,
    bad,
    case,
    check,
    check_model,
    flatten_layers,
    flatten_members,
    table,
)
from tests.dsl import (
    Member,
    blockdev,
    chardev,
    dir_,
    fifo,
    file,
    hardlink,
    layer,
    opaque,
    symlink,
    whiteout,
)
from tests.listing import list_tar, read_tar
from tests.programs import CHECKOUT, run

TREE = [dir_("d"), file("d/a", "a"), dir_("d/s"), file("d/s/f", "f"), file("e", "e")]

CASES = [
    case(
        "12-removes-a-file", [TREE, [whiteout("e")]], ["d d", "f d/a 'a'", "d d/s", "f d/s/f 'f'"]
    ),
    case("12-removes-a-symlink", [[symlink("l", "t"), file("t")], [whiteout("l")]], ["f t ''"]),
    case("12-removes-a-subtree", [TREE, [whiteout("d")]], ["f e 'e'"]),
    case("12-removes-what-replaced-a-file", [[file("d")], TREE, [whiteout("d")]], ["f e 'e'"]),
    case("12-in-a-directory", [TREE, [whiteout("d/s")]], ["d d", "f d/a 'a'", "f e 'e'"]),
    case(
        "12-exact-name-only",
        [
            [file("foo"), file("foobar"), file("foo.txt"), dir_("x"), file("x/foo"), file("fo")],
            [whiteout("foo")],
        ],
        ["f fo ''", "f foo.txt ''", "f foobar ''", "d x", "f x/foo ''"],
    ),
    case(
        "12-of-several-layers-below",
        [[file("d/a")], [file("d/b")], [file("d/c")], [whiteout("d")]],
        [],
    ),
    case(
        "12-also-around-an-older-one",
        [[file("d/s/x")], [whiteout("d/s"), file("d/s/y")], [whiteout("d"), file("e")]],
        ["f e ''"],
    ),
    case("12-not-of-layers-above", [[file("a")], [whiteout("a")], [file("a", "2")]], ["f a '2'"]),
    case(
        "12-a-name-like-a-marker-s",
        [[file("x.wh.a"), file("a")], [whiteout("a")]],
        ["f x.wh.a ''"],
    ),
    *[
        case(
            f"13-beside-a-new-file-{order}",
            [[file("x", "old"), file("y")], members],
            ["f x 'new'", "f y ''"],
        )
        for order, members in [
            ("marker-first", [whiteout("x"), file("x", "new")]),
            ("marker-last", [file("x", "new"), whiteout("x")]),
        ]
    ],
    *[
        case(
            f"13-beside-a-new-directory-{order}",
            [[dir_("d", mode=0o700), file("d/old")], members],
            ["d d", "f d/new ''"],
        )
        for order, members in [
            ("marker-first", [whiteout("d"), dir_("d"), file("d/new")]),
            ("marker-between", [dir_("d"), whiteout("d"), file("d/new")]),
            ("marker-last", [dir_("d"), file("d/new"), whiteout("d")]),
        ]
    ],
    case(
        "13-beside-an-implied-directory",
        [[dir_("d", mode=0o700), file("d/old")], [file("d/new"), whiteout("d")]],
        ["d d", "f d/new ''"],
    ),
    case(
        "13-below-a-directory-of-the-same-layer",
        [[file("d/s/old")], [whiteout("d/s"), dir_("d/s/t"), whiteout("d")]],
        ["d d", "d d/s", "d d/s/t"],
    ),
    *[
        case(f"14-whatever-its-type-{kind}", [[file("a", "x"), file("b")], [marker]], ["f b ''"])
        for kind, marker in [
            ("content", file(".wh.a", b"content" * 200)),
            ("hard-link", hardlink(".wh.a", ".wh..wh.plnk/0")),
            ("hard-link-to-the-root", hardlink(".wh.a", "/")),
            ("odd-hard-link", hardlink(".wh.a", "/", records=((b"size", b"0"),))),
            ("symlink", symlink(".wh.a", "b")),
            ("directory", dir_(".wh.a")),
            ("char-device-0-0", chardev(".wh.a", 0, 0)),
            ("fifo", fifo(".wh.a")),
            ("char-device", chardev(".wh.a", 1, 3)),
            ("block-device", blockdev(".wh.a", 0, 0)),
        ]
    ],
    case(
        "14-entries-below-a-directory-that-is-a-marker-are-dropped",
        [[file("d/a"), file("x")], [dir_(".wh.d"), file(".wh.d/x", "y"), dir_(".wh.d/e")]],
        ["f x ''"],
    ),
    case(
        "14-an-opaque-marker-of-any-type",
        [[file("d/a")], [dir_("d/.wh..wh..opq"), file("d/b"), file("d/.wh..wh..opq/c")]],
        ["d d", "f d/b ''"],
    ),
    case(
        "14-an-opaque-marker-that-is-a-device",
        [[file("d/a")], [dir_("d"), chardev("d/.wh..wh..opq", 0, 0), file("d/b")]],
        ["d d", "f d/b ''"],
    ),
    case("15-hides-nothing", [[file("a")], [whiteout("b"), whiteout("no/such")]], ["f a ''"]),
    case(
        "15-below-a-file-of-its-own-layer",
        [[file("d/a")], [file("d"), whiteout("d/a")]],
        ["f d ''"],
        in_model=False,
    ),
    case("15-in-the-bottom-layer", [[whiteout("a"), file("b"), opaque("c")]], ["f b ''"]),
    case(
        "15-below-a-file",
        [[file("a", "x")], [whiteout("a/b"), whiteout("a/b/c")]],
        ["f a 'x'"],
    ),
    case("16-creates-nothing", [[file("a")], [whiteout("no/such/dir/x")]], ["f a ''"]),
    case(
        "16-does-not-change-its-directory",
        [[dir_("d", mode=0o700, uid=1, gid=2, mtime=3), file("d/a")], [whiteout("d/a")]],
        ["d d mode=700 owner=1:2 mtime=3"],
    ),
    case(
        "16-its-directory-stays-when-empty",
        [[file("d/s/a")], [whiteout("d/s/a")]],
        ["d d", "d d/s"],
    ),
    *[
        case(f"17-directory-and-children-{order}", [TREE, members], ["f e 'e'"])
        for order, members in [
            ("children-last", [whiteout("d"), whiteout("d/a"), whiteout("d/s/f")]),
            (
                "children-first",
                [whiteout("d/s/f"), whiteout("d/s"), whiteout("d/a"), whiteout("d")],
            ),
            ("opaque-too", [opaque("d"), whiteout("d"), opaque("d/s")]),
        ]
    ],
    *[
        bad(f"18-of-nothing-{base.count('.')}", [[file("a")], [file(base)]], "whiteout")
        for base in (".wh.", ".wh..", ".wh...")
    ],
    *[
        bad(f"18-of-nothing-in-a-directory-{base.count('.')}", [[file("d/" + base)]], "whiteout")
        for base in (".wh.", ".wh..", ".wh...")
    ],
    bad("18-as-a-directory", [[dir_("d/.wh.")]], "whiteout"),
    bad("18-above-an-entry", [[file("d/.wh../x")]], "whiteout"),
    case(
        "18-dots-and-more",
        [[file("..a"), file("...."), file(".a")], [whiteout("..a"), whiteout("....")]],
        ["f .a ''"],
    ),
    case(
        "19-aufs-book-keeping-is-ignored",
        [
            [
                file(".wh..wh.aufs"),
                dir_(".wh..wh.orph", mode=0o700),
                dir_(".wh..wh.plnk", mode=0o700),
                file(".wh..wh.plnk/1.2", "x"),
                file(".wh..wh.orph/a/b", "x"),
                file("a", "y"),
            ]
        ],
        ["f a 'y'"],
    ),
    case(
        "19-hard-links-into-it-get-the-content",
        [
            [
                dir_(".wh..wh.plnk"),
                file(".wh..wh.plnk/1.2", "shared"),
                hardlink("a", ".wh..wh.plnk/1.2"),
                hardlink("d/b", "/.wh..wh.plnk/1.2"),
                file("c", "shared"),
            ]
        ],
        ["f a 'shared'", "f c 'shared'", "d d", "h d/b = a"],
    ),
    case(
        "19-one-link-into-it",
        [[file(".wh..wh.plnk/7", "x", mode=0o600), hardlink("a", "./.wh..wh.plnk/7", mode=0o600)]],
        ["f a 'x' mode=600"],
    ),
    *(
        case(
            f"19-the-last-of-one-name-there-counts-{first}-{last}",
            [
                [
                    file(".wh..wh.plnk/7", "old", dialect=first),
                    file(".wh..wh.plnk/7", "new", dialect=last),
                    hardlink("a", ".wh..wh.plnk/7"),
                ]
            ],
            ["f a 'new'"],
        )
        for first, last in (("ustar", "v7"), ("v7", "ustar"))
    ),
    case(
        "19-a-link-to-a-file-beside-it",
        [[file(".wh..wh.x", "x"), hardlink("a", ".wh..wh.x")]],
        ["f a 'x'"],
    ),
    case(
        "19-a-link-before-it",
        [[hardlink("a", ".wh..wh.plnk/1"), file(".wh..wh.plnk/1", "x")]],
        ["f a 'x'"],
        in_model=False,
    ),
    case(
        "19-links-are-no-links-there",
        [[hardlink(".wh..wh.plnk/1", "../no"), hardlink(".wh..wh.plnk/2", "a"), file("a", "x")]],
        ["f a 'x'"],
    ),
    bad(
        "19-a-link-to-a-link-there",
        [[hardlink(".wh..wh.plnk/1", "no"), hardlink("a", ".wh..wh.plnk/1")]],
        "nowhere",
    ),
    *[
        bad(f"19-a-link-to-a-{what}-there", [[there, hardlink("a", ".wh..wh.plnk/1")]], "nowhere")
        for what, there in [
            ("directory", dir_(".wh..wh.plnk/1")),
            ("device", chardev(".wh..wh.plnk/1", 0, 0)),
            ("fifo", fifo(".wh..wh.plnk/1")),
        ]
    ],
    case(
        "19-it-hides-nothing",
        [[file(".wh.aufs"), file("x")], [file(".wh..wh.aufs"), file(".wh..wh.plnk/x")]],
        ["f x ''"],
    ),
    case(
        "20-device-0-0-is-a-whiteout",
        [TREE, [chardev("d/s", 0, 0), chardev("e", 0, 0)]],
        ["d d", "f d/a 'a'"],
    ),
    case("20-in-the-bottom-layer", [[chardev("x", 0, 0), file("y")]], ["f y ''"]),
    case("20-creates-no-parents", [[file("y")], [chardev("no/x", 0, 0)]], ["f y ''"]),
    case(
        "20-other-devices-are-devices",
        [
            [file("x"), file("y"), file("z")],
            [chardev("x", 0, 1), chardev("y", 1, 0), blockdev("z", 0, 0)],
        ],
        ["c x 0,1", "c y 1,0", "b z 0,0"],
    ),
    case("20-a-v7-name-that-looks-like-one", [[file("a.wh.b", dialect="v7")]], ["f a.wh.b ''"]),
    case(
        "20-names-that-only-look-like-markers",
        [
            [file("h"), file("x"), file("b")],
            [
                file(".wh", "1"),
                file(".whx", "2"),
                file("a.wh.b", "3"),
                file(".WH.x", "4"),
                file("..wh.x", "5"),
                file("wh.b"),
            ],
        ],
        [
            "f ..wh.x '5'",
            "f .WH.x '4'",
            "f .wh '1'",
            "f .whx '2'",
            "f a.wh.b '3'",
            "f b ''",
            "f h ''",
            "f wh.b ''",
            "f x ''",
        ],
    ),
]


@table(CASES)
def test_flattening(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("entry", [[], [dir_("b")]], ids=["implied", "with an entry"])
def test_device_over_a_directory_of_its_own_layer(entry: list[Member]) -> None:
    """Rules 20 and 42: the later of two entries of one name. Docker does so too."""
    layers = [layer(file("z")), layer(*entry, file("b/x", "1"), chardev("b", 0, 0))]
    assert list_tar(flatten_layers(layers)) == ["f z ''"]


def test_deep_whiteouts_take_little_memory() -> None:
    """All directories above these are 4 MB of names for each."""
    deep = b"a/" * 2040
    markers = [whiteout(b"%05d/" % number + deep + b"f") for number in range(200)]
    code = (
        "import io, resource, sys\n"
        "from dimgx.layers.tarwalk import walk_layer\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    index = walk_layer(file.fileno(), 0, file.seek(0, io.SEEK_END))\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(len(index.whiteouts), (after - before) // 1024)"
    )
    with tempfile.NamedTemporaryFile() as tar:
        tar.write(layer(*markers))
        tar.flush()
        done = run([sys.executable, "-c", code, tar.name], env={"PYTHONPATH": str(CHECKOUT)})
    count, taken = map(int, done.stdout.split())
    assert (count, taken < 100) == (200, True), taken


@table(CASES)
def test_model(case: Case) -> None:
    check_model(case)


def test_ranges_that_begin_together() -> None:
    layers = [
        [dir_("d"), dir_("d/c"), file("d/c/f"), file("d/z"), file("e")],
        [dir_("d"), opaque("d"), dir_("d/c"), file("d/c/g")],
        [dir_("d"), whiteout("d/c"), file("d/h")],
    ]
    assert list_tar(flatten_members(layers)) == model.expected_listing(layers)


@pytest.mark.parametrize(
    ("members", "kept"),
    [
        ([dir_("./"), file("./a", "1"), file("./a", "2"), chardev("w", 0, 0)], [b"a"]),
        ([file(".wh..wh.aufs"), file("a", "1"), file("a", "2")], [b"a"]),
        (
            [file("x"), file("d/x"), file("d/y"), file("d/y", "2"), chardev("d/x", 0, 0)],
            [b"d", b"d/y", b"x"],
        ),
    ],
)
def test_markers_of_a_layer_whose_members_come_twice(
    members: list[Member], kept: list[bytes]
) -> None:
    assert [node.path for node in read_tar(flatten_members([members]))] == kept
