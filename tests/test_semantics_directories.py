"""Rules 21 to 31: implied and opaque directories, symlinks as parents."""

from __future__ import annotations

import pytest

from tests.cases import Case, bad, case, check, check_model, table
from tests.dsl import chardev, dir_, file, hardlink, opaque, symlink, whiteout

PRIVATE = {"mode": 0o700, "uid": 1, "gid": 2, "mtime": 3}
OPAQUE_BELOW = [dir_("d", **PRIVATE), file("d/a"), dir_("d/s", **PRIVATE), file("d/s/f")]  # type: ignore[arg-type]
USRMERGE = [dir_("usr"), dir_("usr/lib"), file("usr/lib/old"), symlink("lib", "usr/lib")]

CASES = [
    # -- D. implied directories
    case("21-new-ones-are-0755-root", [[file("a/b/c", "x")]], ["d a", "d a/b", "f a/b/c 'x'"]),
    case(
        "21-old-ones-keep-what-they-have",
        [
            [dir_("a", mode=0o1777, uid=5, gid=6, mtime=7, xattrs={"user.x": b"y"})],
            [file("a/b/c")],
            [file("a/b/d")],
        ],
        ["d a mode=1777 owner=5:6 mtime=7 user.x='y'", "d a/b", "f a/b/c ''", "f a/b/d ''"],
    ),
    case(
        "21-an-older-implied-one-does-not-count",
        [[dir_("a", mode=0o700)], [file("a/b")], [file("a/c")]],
        ["d a mode=700", "f a/b ''", "f a/c ''"],
    ),
    case(
        "21-the-newest-entry-counts",
        [[dir_("a", mode=0o700)], [dir_("a", mode=0o711)], [file("a/b")], [file("a/c")]],
        ["d a mode=711", "f a/b ''", "f a/c ''"],
    ),
    case(
        "21-after-a-whiteout-old-attributes-are-gone",
        [[dir_("a", mode=0o700), file("a/x")], [whiteout("a")], [file("a/b")]],
        ["d a", "f a/b ''"],
    ),
    case(
        "21-after-an-opaque-parent-they-are-gone",
        [[dir_("a", mode=0o711), dir_("a/b", mode=0o700)], [opaque("a")], [file("a/b/c")]],
        ["d a mode=711", "d a/b", "f a/b/c ''"],
    ),
    case(
        "21-after-an-opaque-root-they-are-gone",
        [[dir_("a", mode=0o700)], [opaque("")], [file("a/b")]],
        ["d a", "f a/b ''"],
    ),
    case(
        "21-after-a-file-in-between-they-are-gone",
        [[dir_("a", mode=0o700)], [file("a")], [file("a/b")]],
        ["d a", "f a/b ''"],
    ),
    case(
        "21-a-covered-file-still-cuts-them-off",
        [[dir_("a", mode=0o700)], [file("a")], [whiteout("a")], [file("a/b")], [file("a/c")]],
        ["d a", "f a/b ''", "f a/c ''"],
    ),
    case(
        "21-an-old-directory-of-a-parent-that-was-replaced",
        [[dir_("a/b", mode=0o700)], [whiteout("a")], [dir_("a", mode=0o711)], [file("a/b/c")]],
        ["d a mode=711", "d a/b", "f a/b/c ''"],
    ),
    case(
        "22-below-a-lower-file",
        [[file("a", "x", mode=0o600, uid=9)], [file("a/b", "y")]],
        ["d a", "f a/b 'y'"],
    ),
    case(
        "22-deep-below-a-lower-symlink",
        [[symlink("a", "t"), dir_("t", mode=0o700)], [file("a/b/c", "y")]],
        ["d a", "d a/b", "f a/b/c 'y'", "d t mode=700"],
    ),
    bad("22-below-a-file-of-the-same-layer", [[file("a"), file("a/b")]]),
    bad("22-deep-below-a-file-of-the-same-layer", [[file("a"), dir_("a/b/c")]]),
    bad("22-below-a-hard-link", [[file("x"), hardlink("a", "x"), file("a/b")]]),
    bad("22-below-a-device", [[chardev("a", 1, 3), symlink("a/b", "c")]]),
    bad(
        "22-below-a-file-though-a-lower-one-is-a-directory", [[dir_("a")], [file("a"), file("a/b")]]
    ),
    case(
        "23-the-entry-after-its-children",
        [[file("a/b/c"), dir_("a/b", mode=0o711, mtime=5), dir_("a", mode=0o700)]],
        ["d a mode=700", "d a/b mode=711 mtime=5", "f a/b/c ''"],
    ),
    case(
        "23-no-write-permission",
        [[dir_("a", mode=0o000), file("a/b")], [file("a/c")], [whiteout("a/b")]],
        ["d a mode=0", "f a/c ''"],
    ),
    # -- E. opaque directories
    case(
        "24-hides-what-is-below",
        [OPAQUE_BELOW, [dir_("d", mode=0o711), opaque("d")]],
        ["d d mode=711"],
    ),
    case(
        "24-without-an-entry-the-directory-keeps-its-attributes",
        [OPAQUE_BELOW, [opaque("d")]],
        ["d d mode=700 owner=1:2 mtime=3"],
    ),
    *[
        case(
            f"24-keeps-its-own-layers-entries-{where}",
            [OPAQUE_BELOW, members],
            ["d d", "f d/n ''", "d d/s", "f d/s/g ''"],
        )
        for where, members in [
            ("marker-first", [opaque("d"), dir_("d"), file("d/n"), dir_("d/s"), file("d/s/g")]),
            ("marker-between", [dir_("d"), file("d/n"), opaque("d"), dir_("d/s"), file("d/s/g")]),
            ("marker-last", [file("d/s/g"), dir_("d/s"), file("d/n"), dir_("d"), opaque("d")]),
        ]
    ],
    case(
        "24-of-several-layers-but-none-above",
        [[file("d/1")], [file("d/2")], [opaque("d"), file("d/3")], [file("d/4")]],
        ["d d", "f d/3 ''", "f d/4 ''"],
    ),
    case(
        "24-only-inside",
        [[file("d/1"), file("d.x"), file("dd/1"), file("e/d/1")], [opaque("d")]],
        ["d d", "f d.x ''", "d dd", "f dd/1 ''", "d e", "d e/d", "f e/d/1 ''"],
    ),
    case("24-of-nothing", [[file("a")], [opaque("d")], [opaque("e/f")]], ["f a ''"]),
    case("24-of-a-lower-file", [[file("d", "x")], [opaque("d")]], ["f d 'x'"]),
    case(
        "24-with-whiteouts-inside",
        [OPAQUE_BELOW, [opaque("d"), whiteout("d/a"), whiteout("d/n"), file("d/n")]],
        ["d d mode=700 owner=1:2 mtime=3", "f d/n ''"],
    ),
    case(
        "25-inside-a-path-kept-by-deeper-entries",
        [OPAQUE_BELOW, [opaque("d"), file("d/s/g")]],
        ["d d mode=700 owner=1:2 mtime=3", "d d/s", "f d/s/g ''"],
    ),
    case(
        "25-an-opaque-directory-in-an-opaque-directory",
        [OPAQUE_BELOW, [opaque("d"), opaque("d/s"), file("d/s/t/g")]],
        ["d d mode=700 owner=1:2 mtime=3", "d d/s", "d d/s/t", "f d/s/t/g ''"],
    ),
    case(
        "26-in-the-root-hides-everything",
        [OPAQUE_BELOW, [file("new"), opaque("")]],
        ["f new ''"],
    ),
    case("26-with-a-spelling", [OPAQUE_BELOW, [file("./.wh..wh..opq"), file("x")]], ["f x ''"]),
    case(
        "26-and-layers-above-stay",
        [[file("a")], [opaque("")], [file("b")]],
        ["f b ''"],
    ),
    *[
        case(
            f"26-through-a-symlink-of-its-own-layer-{n}",
            [
                [file("old"), *OPAQUE_BELOW],
                [symlink("r", target), file("r/.wh..wh..opq"), file("new", "2")],
            ],
            ["f new '2'", f"l r -> {target}"],
        )
        for n, target in enumerate([".", "no/such/../.."])
    ],
    case(
        "27-trusted-overlay-opaque-is-not-obeyed-and-dropped",
        [
            [file("d/a")],
            [
                dir_("d", xattrs={"trusted.overlay.opaque": b"y", "user.a": b"1"}),
                file("d/b", xattrs={"trusted.x": b"1"}),
            ],
        ],
        ["d d user.a='1'", "f d/a ''", "f d/b ''"],
    ),
    case(
        "27-user-overlay-opaque-is-ordinary",
        [[file("d/a")], [dir_("d", xattrs={"user.overlay.opaque": b"y"})]],
        ["d d user.overlay.opaque='y'", "f d/a ''"],
    ),
    # -- F. symlinks
    case(
        "28-targets-are-data",
        [
            [
                symlink("1", "/abs"),
                symlink("2", "../../../../etc/passwd"),
                symlink("3", "dangling"),
                symlink("4", ".//a/../b/"),
                symlink("5", b"\xff"),
                symlink("6", "."),
                symlink("7", "/"),
                symlink("8", "8"),
                symlink("9", "x" * 4096),
                symlink("a", "x/" * 60 + "y"),
                symlink("b", "a b\nc"),
                symlink("c", ".wh.x"),
            ]
        ],
        [
            "l 1 -> /abs",
            "l 2 -> ../../../../etc/passwd",
            "l 3 -> dangling",
            "l 4 -> .//a/../b/",
            "l 5 -> \\377",
            "l 6 -> .",
            "l 7 -> /",
            "l 8 -> 8",
            "l 9 -> " + "x" * 4096,
            "l a -> " + "x/" * 60 + "y",
            "l b -> a\\040b\\012c",
            "l c -> .wh.x",
        ],
    ),
    *[
        case(
            f"29-through-a-symlink-of-the-same-layer-{n}",
            [[dir_("t", mode=0o700), symlink("l", target), file("l/x", "y")]],
            ["l l -> " + target, "d t mode=700", "f t/x 'y'"],
        )
        for n, target in enumerate(["t", "/t", "./t", "../t", "/../../t", "../../../t/."])
    ],
    case(
        "29-of-a-directory-deeper-down",
        [[dir_("a/b"), symlink("a/l", "../t/u"), file("a/l/x", "y")]],
        ["d a", "d a/b", "l a/l -> ../t/u", "d t", "d t/u", "f t/u/x 'y'"],
    ),
    case(
        "29-of-a-directory-beside-it",
        [[dir_("a"), symlink("a/l", "t"), file("a/l/x")]],
        ["d a", "l a/l -> t", "d a/t", "f a/t/x ''"],
    ),
    case(
        "29-the-directory-is-made",
        [[symlink("l", "t/u"), file("l/x")]],
        ["l l -> t/u", "d t", "d t/u", "f t/u/x ''"],
    ),
    case(
        "29-a-directory-of-a-lower-layer-merges",
        [[dir_("t", mode=0o700), file("t/old")], [symlink("l", "t"), file("l/x")]],
        ["l l -> t", "d t mode=700", "f t/old ''", "f t/x ''"],
    ),
    case(
        "29-over-a-symlink-of-a-lower-layer",
        [[symlink("t", "u"), dir_("u"), file("u/f")], [symlink("l", "t"), file("l/x")]],
        ["l l -> t", "d t", "f t/x ''", "d u", "f u/f ''"],
    ),
    case(
        "29-through-two",
        [[symlink("a", "b"), symlink("b", "c/d"), file("a/x")]],
        ["l a -> b", "l b -> c/d", "d c", "d c/d", "f c/d/x ''"],
    ),
    case(
        "29-all-kinds-of-entries-go-there",
        [
            [
                symlink("l", "t"),
                dir_("l/d", mode=0o700),
                symlink("l/s", "q"),
                chardev("l/c", 1, 3),
                file("f"),
                hardlink("l/h", "f"),
            ]
        ],
        ["f f ''", "l l -> t", "d t", "c t/c 1,3", "d t/d mode=700", "h t/h = f", "l t/s -> q"],
    ),
    case(
        "29-a-whiteout-goes-there-too",
        [[file("t/a"), file("t/b")], [symlink("l", "t"), file("l/.wh.a")]],
        ["l l -> t", "d t", "f t/b ''"],
    ),
    case(
        "29-to-the-root",
        [[symlink("l", "/"), file("l/x"), symlink("d/l", "../.."), file("d/l/y")]],
        ["d d", "l d/l -> ../..", "l l -> /", "f x ''", "f y ''"],
    ),
    case(
        "29-a-whiteout-through-directories-that-are-not-there",
        [[file("t/a"), file("t/b")], [symlink("l", "no/../t/./"), file("l/.wh.a")]],
        ["l l -> no/../t/./", "d t", "f t/b ''"],
    ),
    case(
        "29-the-symlink-itself-may-be-replaced",
        [[symlink("l", "t"), file("l/x"), dir_("l", mode=0o700), file("l/y")]],
        ["d l mode=700", "f l/y ''", "d t", "f t/x ''"],
    ),
    case(
        "29-the-name-itself-is-not-followed",
        [[dir_("t"), symlink("l", "t"), file("l", "x")]],
        ["f l 'x'", "d t"],
    ),
    bad("29-a-loop", [[symlink("a", "b"), symlink("b", "a"), file("a/x")]]),
    bad("29-a-loop-of-one", [[symlink("a", "a"), file("a/x")]]),
    case(
        "29-through-forty",
        [[*(symlink(f"{n:02}", f"{n + 1:02}") for n in range(40)), file("00/x")]],
        [*(f"l {n:02} -> {n + 1:02}" for n in range(40)), "d 40", "f 40/x ''"],
    ),
    bad(
        "29-through-one-more",
        [[*(symlink(f"{n:02}", f"{n + 1:02}") for n in range(41)), file("00/x")]],
        "symlinks",
    ),
    case(
        "29-through-the-longest-targets",
        [[symlink("a", "." + "/" * 2046 + "b"), symlink("b", "." + "/" * 2046 + "c"), file("a/x")]],
        ["l a -> ." + "/" * 2046 + "b", "l b -> ." + "/" * 2046 + "c", "d c", "f c/x ''"],
    ),
    bad(
        "29-through-longer-ones",
        [[symlink("a", "." + "/" * 2046 + "b"), symlink("b", "." + "/" * 2047 + "c"), file("a/x")]],
        "symlinks",
    ),
    bad(
        "29-to-the-name-of-a-marker",
        [[file("a")], [symlink("l", ".wh.a"), file("l/x")]],
        "marker",
    ),
    bad("29-to-the-name-of-aufs-own", [[symlink("l", ".wh..wh.plnk"), file("l/x")]], "marker"),
    bad("29-to-a-file-of-the-same-layer", [[file("t"), symlink("l", "t"), file("l/x")]]),
    case(
        "29-to-what-is-a-file-below",
        [[file("t", "old")], [symlink("l", "t"), file("l/x")]],
        ["l l -> t", "d t", "f t/x ''"],
    ),
    case(
        "30-usrmerge-without-an-entry",
        [USRMERGE, [file("lib/x")]],
        ["d lib", "f lib/x ''", "d usr", "d usr/lib", "f usr/lib/old ''"],
    ),
    case(
        "30-usrmerge-with-an-entry",
        [USRMERGE, [dir_("lib", mode=0o700), file("lib/x")]],
        ["d lib mode=700", "f lib/x ''", "d usr", "d usr/lib", "f usr/lib/old ''"],
    ),
    case(
        "30-usrmerge-with-the-symlink-again",
        [USRMERGE, [symlink("lib", "usr/lib"), file("lib/x")]],
        ["l lib -> usr/lib", "d usr", "d usr/lib", "f usr/lib/old ''", "f usr/lib/x ''"],
    ),
    case(
        "31-whiteout-through-a-lower-symlink-does-nothing",
        [USRMERGE, [whiteout("lib/old")]],
        ["l lib -> usr/lib", "d usr", "d usr/lib", "f usr/lib/old ''"],
    ),
    case(
        "31-an-opaque-marker-neither",
        [USRMERGE, [opaque("lib")]],
        ["l lib -> usr/lib", "d usr", "d usr/lib", "f usr/lib/old ''"],
    ),
]


@table(CASES)
def test_flattening(case: Case) -> None:
    check(case)


@table(CASES)
def test_model(case: Case) -> None:
    check_model(case)


@pytest.mark.parametrize("target", ["/", "..", "/../d/.."])
def test_26_through_a_symlink_that_leads_to_the_root(target: str) -> None:
    layers = [OPAQUE_BELOW, [symlink("r", target), file("r/.wh..wh..opq"), file("new")]]
    check(case("", layers, ["f new ''", f"l r -> {target}"]))
