"""Other names: `--strip-components` and `--prefix`, through the whole extractor."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from dimgx.errors import ImageError, UsageError
from dimgx.merging.pathrules import PathRule
from dimgx.merging.renaming import Renaming, parse_prefix
from tests import model
from tests.cases import LayerMembers, flatten_layers, flatten_members, open_members
from tests.dsl import Member, dir_, fifo, file, hardlink, layer, symlink
from tests.engines import read_tree, with_links
from tests.listing import Node, list_tar, read_tar, short_listing, walk_key
from tests.programs import need, need_root, run
from tests.stacks import STACKS, expected_of


def flat(*layers: LayerMembers, **options: Any) -> list[str]:
    return list_tar(flatten_members(layers, **options))


APP = [
    dir_("app", mode=0o700), dir_("app/bin", mode=0o711, mtime=3),
    file("app/bin/run", "1", mode=0o755), hardlink("app/bin/go", "app/bin/run", mode=0o755),
    symlink("app/bin/ls", "/bin/ls"), file("etc", "2"),
]  # fmt: skip


def test_leading_directories_go() -> None:
    assert flat(APP, strip_components=1) == [
        "d bin mode=711 mtime=3", "f bin/go '1' mode=755", "l bin/ls -> /bin/ls",
        "h bin/run = bin/go",
    ]  # fmt: skip
    assert flat(APP, strip_components=2) == ["f go '1' mode=755", "l ls -> /bin/ls", "h run = go"]
    assert flat(APP, strip_components=0) == flat(APP)


def test_a_prefix_comes() -> None:
    assert flat(APP, prefix="root/fs/") == [
        "d root", "d root/fs", "d root/fs/app mode=700", "d root/fs/app/bin mode=711 mtime=3",
        "f root/fs/app/bin/go '1' mode=755", "l root/fs/app/bin/ls -> /bin/ls",
        "h root/fs/app/bin/run = root/fs/app/bin/go", "f root/fs/etc '2'",
    ]  # fmt: skip


def test_both_and_rules_by_the_old_names() -> None:
    rules = (PathRule(True, "app/bin"), PathRule(False, "go"))
    assert flat(APP, strip_components=2, prefix="usr", paths=rules) == [
        "d usr", "l usr/ls -> /bin/ls", "f usr/run '1' mode=755",
    ]  # fmt: skip


def test_an_empty_image_has_its_prefix() -> None:
    assert flat([], prefix="a/b") == ["d a", "d a/b"]


def test_the_first_name_in_the_new_order_carries_the_content() -> None:
    members = [file("a/z", "1"), hardlink("b/c", "a/z")]
    assert flat(members, strip_components=1) == ["f c '1'", "h z = c"]
    assert flat(members, strip_components=1, paths=(PathRule(False, "c"),)) == ["f z '1'"]


def test_a_link_to_a_name_that_vanishes_becomes_the_file() -> None:
    assert flat([file("top", "1"), hardlink("d/x", "top")], strip_components=1) == ["f x '1'"]


def test_the_order_is_that_of_the_new_names() -> None:
    members = [file("a/z"), file("b/y/x"), file("b/y.c"), file("c/a")]
    assert flat(members, strip_components=1) == [
        "f a ''", "d y", "f y/x ''", "f y.c ''", "f z ''",
    ]  # fmt: skip


def test_directories_of_one_name_become_one() -> None:
    members = [dir_("a/d", mode=0o700), file("a/d/x"), dir_("b/d", mode=0o711), file("b/d/y")]
    assert flat(members, strip_components=1) == ["d d mode=711", "f d/x ''", "f d/y ''"]
    implied = [dir_("a/d", mode=0o700), file("a/d/x"), file("b/d/y")]
    assert flat(implied, strip_components=1) == ["d d mode=700", "f d/x ''", "f d/y ''"]


CLASHES = [
    ([file("a/x"), file("b/x")], "both 'a/x' and 'b/x' would become 'x'"),
    ([file("a/x"), dir_("b/x")], "both 'a/x' and 'b/x' would become 'x'"),
    ([dir_("a/x"), file("b/x")], "both 'b/x' and 'a/x' would become 'x'"),
    ([file("a/x"), hardlink("b/x", "a/x")], "both 'a/x' and 'b/x' would become 'x'"),
    ([file("a/d/x"), symlink("b/d/x", "y")], "both 'a/d/x' and 'b/d/x' would become 'd/x'"),
]


@pytest.mark.parametrize(("members", "problem"), CLASHES)
def test_two_of_one_name_are_an_error(members: list[Member], problem: str) -> None:
    with pytest.raises(ImageError, match=f"^{problem} without"):
        flat(members, strip_components=1)
    assert flat(members, strip_components=1, paths=(PathRule(False, "/b/**"),))


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(ImageError, match=r"^nothing is left .* more than 3 parts$"):
        flat(APP, strip_components=3)
    with pytest.raises(ImageError, match="nothing is left"):
        flat([], strip_components=1)


def test_names_too_long_with_a_prefix() -> None:
    name = "/".join(["x" * 200] * 20)
    assert flat([file(name)], prefix="y" * 50)
    with pytest.raises(ImageError, match=r"more than 4096 bytes with its prefix: 'y+/x+'"):
        flat([file(name)], prefix="y" * 100)
    # A directory's key has one byte more, so this file is as long as it.
    longest = f"{name}/{'d' * (4092 - len(name))}"
    assert flat([dir_(longest[:-1] + "a")], prefix="yy")
    with pytest.raises(ImageError, match=r"more than 4096 bytes with its prefix: 'yy/x+'"):
        flat([dir_(longest[:-1] + "a"), file(longest + "b")], prefix="yy")


LONG = "n" * 60 + "/" + "m" * 60


def test_names_of_any_length_and_dialect() -> None:
    members = [
        file(f"d/{LONG}1", "1"), file(f"d/{LONG}2", "2", dialect="gnu"),
        file(f"d/{LONG}3", "3", dialect="pax", mtime="7.5"), file("d/s", "4", uname=b"joe"),
        file("d/x", "5", xattrs={"user.a": b"1"}), symlink("d/" + "l" * 90, "t" * 120),
    ]  # fmt: skip
    whole = flat(members)
    put = flatten_members([members], prefix="p" * 30)
    assert [line.replace("p" * 30 + "/", "") for line in list_tar(put)][1:] == whole
    assert flatten_layers([put]) == put
    assert list_tar(flatten_layers([put], strip_components=1)) == whole


def test_the_root_entry_stays_the_root() -> None:
    members = [dir_("./", mode=0o700), file("a/b")]
    tar = flatten_members([members], root_entry=True, prefix="p")
    assert list_tar(tar, root_entry=True) == ["d . mode=700", "d p", "d p/a", "f p/a/b ''"]


def unchecked() -> None:
    """Of what is in memory nothing can change."""


def test_content_is_found_by_the_new_name() -> None:
    with open_members([APP], strip_components=1, prefix="p") as opened:
        assert b"".join(opened.open_file(b"p/bin/run", unchecked)) == b"1"
        paths = [entry.path for entry in opened.iter_entries()]
        assert paths == [b"p", b"p/bin", b"p/bin/go", b"p/bin/ls", b"p/bin/run"]
        assert [entry.linkname for entry in opened.iter_entries()][-1] == b"p/bin/go"
        with pytest.raises(ImageError, match="there is no file"):
            opened.open_file(b"app/bin/run", unchecked)


@pytest.mark.parametrize(
    ("member", "what"),
    [
        (symlink("x", "/y"), "'x' is a symlink to '/y' in the image: only files have content"),
        (fifo("x"), "'x' is no regular file in the image: only files have content"),
        (dir_("x"), "there is no file 'x' in the image"),
    ],
)
def test_content_of_what_has_none(member: Member, what: str) -> None:
    with open_members([[member]]) as opened, pytest.raises(ImageError) as raised:
        opened.open_file(b"x", unchecked)
    assert str(raised.value) == what


def test_a_symlink_to_a_name_that_vanishes_is_warned_of() -> None:
    members = [
        file("vmlinuz"),
        dir_("boot"),
        symlink("boot/k", "../vmlinuz"),
        symlink("boot/b", "../boot"),
    ]
    with open_members([members], strip_components=1) as opened:
        assert opened.warnings == (
            "a symlink points at what is left out: 'boot/k' -> '../vmlinuz'",
        )


@pytest.mark.parametrize(
    ("text", "key"),
    [("a", b"a\0"), ("a/", b"a\0"), ("/a//b/", b"a\0b\0"), ("./a/.", b"a\0"), ("..a", b"..a\0")],
)
def test_spellings_of_a_prefix(text: str, key: bytes) -> None:
    assert parse_prefix(text) == key


@pytest.mark.parametrize("text", ["", "/", ".", "./", "..", "a/../b", "a/.wh.b", "a\0b"])
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(UsageError, match="--prefix"):
        parse_prefix(text)
    with pytest.raises(UsageError, match="--prefix"):
        flat(APP, prefix=text)


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(UsageError, match="-1"):
        Renaming.of(-1, None)


def renamed(nodes: Sequence[Node], depth: int, prefix: bytes) -> list[Node] | None:
    """Give the nodes under their new names, the plain way; None for a clash or an empty tree."""
    found: dict[bytes, Node] = {}
    for node in nodes:
        parts = node.path.split(b"/")[depth:]
        if not parts:
            continue
        path = b"/".join(parts)
        old = found.get(path)
        if old is not None and not (old.kind == "d" == node.kind):
            return None
        # What has all the attributes of an implied directory may be one.
        is_plain = (node.mode, node.uid, node.gid, node.mtime) == (0o755, 0, 0, 0)
        if old is not None and is_plain and not node.xattrs:
            assume(replace(old, path=b"") == replace(node, path=b""))
        found[path] = replace(node, path=path)
    if depth and not found:
        return None
    moved = [replace(node, path=prefix + path) for path, node in found.items()]
    parts = prefix.split(b"/")[:-1]
    above = [b"/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    moved += [Node("d", path, 0o755, 0, 0, 0) for path in above]
    return with_links(sorted(moved, key=lambda node: walk_key(node.path)))


PREFIXES = ["", "p/", "a/b/", "\u00e9/"]
CHANGES = [pair for pair in product((0, 1, 2), PREFIXES) if pair != (0, "")]


@given(STACKS, st.sampled_from(CHANGES))
def test_names_and_model_agree(layers: list[list[Member]], change: tuple[int, str]) -> None:
    assume(expected_of(layers) is not None)
    depth, prefix = change
    nodes = renamed(model.nodes_of(model.flatten(layers)), depth, prefix.encode())
    options: dict[str, Any] = {"strip_components": depth, "prefix": prefix or None}
    if nodes is None:
        event("refused")
        with pytest.raises(ImageError, match=r"would become|nothing is left"):
            flatten_members(layers, **options)
        return
    event("renamed")
    tar = flatten_members(layers, **options)
    assert list_tar(tar) == short_listing(nodes)
    assert flatten_layers([tar]) == tar


def test_only_links_to_what_lost_its_name_are_warned_of() -> None:
    app = [file("app/a", "x"), dir_("app/d"), symlink("app/l", "a"), symlink("app/m", "d")]
    for more, expected in (
        ([], ()),
        ([file("b"), symlink("app/n", "../b")],
         ("a symlink points at what is left out: 'app/n' -> '../b'",)),
    ):  # fmt: skip
        with open_members([[*app, *more]], strip_components=1) as flat:
            assert flat.warnings == expected


def test_gnu_tar_strips_the_same(tmp_path: Path) -> None:
    need_root()
    members = [*APP[:-1], file("app/bin/deep/er", "x"), file("opt/y", "z")]
    trees = []
    for name, options, words in (
        ("ours", {"strip_components": 1}, []),
        ("theirs", {}, ["--strip-components=1"]),
    ):
        directory = tmp_path / name
        directory.mkdir()
        tar = flatten_members([members], **options)
        run([need("tar"), *words, "-xp", "-C", directory], stdin=tar)
        nodes = [
            replace(node, mtime=0) if node.kind == "l" else node for node in read_tree(directory)
        ]
        trees.append(short_listing(nodes))
    assert trees[0] == trees[1]
    assert len(trees[0]) == 7


def test_gnu_tar_reads_what_is_renamed(tmp_path: Path) -> None:
    tar = flatten_layers([layer(*APP, file(LONG, "long"))], prefix="x/y")
    done = subprocess.run([need("tar"), "-t"], input=tar, capture_output=True, check=True)
    names = [node.path + (b"/" if node.kind == "d" else b"") for node in read_tar(tar)]
    assert done.stdout.splitlines() == names


OLD_PREFIX = "p" * 70 + "/" + "q" * 70
DIALECTS = [
    file("a/usual", "1", uname=b"root", gname=b"root"),
    file("a/owner", "2", uname=b"joe", gname=b"joe", uid=1000),
    file("a/gnu", "3", dialect="gnu", overlay={345: b"00000000017\0"}),
    file("a/v7", "4", dialect="v7"),
    file("a/" + OLD_PREFIX, "5"),
    file("a/pax", "6", dialect="pax", mtime="7.5"),
    file("a/xattr", "7", xattrs={"user.path": b" path=x"}),
    file("a/many", "8", xattrs={f"user.{i}": b"x" * 400 for i in range(12)}),
    file("a/large-id", "9", uid=3_000_000, dialect="gnu"),
    file("a/spelled", "10", checksum=b"%07o\0"),
    file("a/wide", "x" * 300_000),
    file("a/wide-owner", "y" * 300_000, uname=b"joe"),
    file("./a/dot", "11"),
    symlink("a/link", "usual"),
    symlink("a/far", "t" * 150),
    symlink("a/far-gnu", "t" * 150, dialect="gnu"),
]


def spelled(member: Member) -> Member:
    """Give a member whose checksum has seven digits, where it asks for that."""
    if member.checksum is None:
        return member
    plain = member.but(checksum=None).encode()
    return member.but(checksum=b"%07o\0" % int(plain[148:154], 8))


@pytest.mark.parametrize("prefix", ["p", "p" * 88, "p" * 96, "p" * 200])
def test_headers_of_all_kinds_under_a_new_name(prefix: str) -> None:
    members = [spelled(member) for member in DIALECTS]
    whole = flatten_members([members])
    tar = flatten_members([members], prefix=prefix)
    assert [replace(node, path=node.path[len(prefix) + 1 :]) for node in read_tar(tar)[1:]] == [
        replace(node, first=node.first) for node in read_tar(whole)
    ]
    # What is renamed in place and what is built anew is one normal form.
    assert flatten_layers([tar]) == tar
    assert flatten_layers([whole], prefix=prefix) == tar
    assert list_tar(flatten_layers([tar], strip_components=1)) == list_tar(whole)


@pytest.mark.parametrize("count", [1, 2, 700])
def test_what_is_renamed_in_place_and_what_is_not_take_turns(count: int) -> None:
    members = []
    for i in range(count):
        members += [file(f"d/{i:03}a", "x" * i), file(f"d/{i:03}b" + "n" * 60, "y" * (i % 7))]
    tar = flatten_members([members], prefix="p" * 40)
    found = [(node.path, node.data) for node in read_tar(tar) if node.kind == "f"]
    assert found == [
        (b"p" * 40 + b"/" + member.name, member.data)
        for member in sorted(members, key=lambda member: member.name)
    ]


def test_the_prefix_in_a_header_goes_with_its_directory() -> None:
    name = "p" * 60 + "/" + "q" * 60
    tar = flatten_members([[dir_("p" * 60), file(name, b"x")]], strip_components=1)
    assert [node.path.decode() for node in read_tar(tar)] == ["q" * 60]
