"""The layer that upper layers make over lower ones: `--squash-from`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from dimgx.errors import ImageError, UsageError
from dimgx.merging.pathrules import PathRule
from tests import test_oracle_docker, test_oracle_umoci
from tests.cases import Case, LayerMembers, flatten_layers
from tests.dsl import (
    END,
    Member,
    dir_,
    fifo,
    file,
    hardlink,
    layer,
    opaque,
    symlink,
    whiteout,
)
from tests.engines import Docker, comparable, read_tree, together, without_dockers_own
from tests.listing import list_tar, raw_members, read_tar, short_listing
from tests.programs import need, need_root, run
from tests.services import Engine
from tests.stacks import expected_of, stacks
from tests.writers import docker_archive, image, oci_layout


def squash(below: Sequence[bytes], above: Sequence[bytes], **options: Any) -> bytes:
    """Give the tar of the layer that `above` make over `below`."""
    return flatten_layers([*below, *above], below_count=len(below), **options)


def lines(tar: bytes) -> list[str]:
    """Give each member in its order: kind, name, and what a link leads to."""
    flags = {b"0": "f", b"1": "h", b"2": "l", b"5": "d", b"6": "p"}
    return [
        f"{flags[member.flag]} {member.name.decode()}"
        + (f" = {member.target.decode()}" if member.target else "")
        for member in raw_members(tar)
    ]


OLD = [dir_("d", mode=0o700), file("d/a", "1"), file("d/b", "2"), file("e", "3")]
CASES: list[tuple[str, list[LayerMembers], list[LayerMembers], list[str]]] = [
    ("nothing-new", [OLD], [[]], []),
    ("a-new-file", [OLD], [[file("n")]], ["f n"]),
    ("a-new-file-brings-its-directory", [OLD], [[file("d/n")]], ["d d/", "f d/n"]),
    ("a-file-replaced", [OLD], [[file("e", "4")]], ["f e"]),
    ("the-last-of-two", [OLD], [[file("e", "4")], [file("e", "5")]], ["f e"]),
    ("a-file-removed", [OLD], [[whiteout("e")]], ["f .wh.e"]),
    ("one-in-a-directory", [OLD], [[whiteout("d/a")]], ["d d/", "f d/.wh.a"]),
    ("a-directory-removed", [OLD], [[whiteout("d")]], ["f .wh.d"]),
    ("removed-in-two-steps", [OLD], [[whiteout("d/a")], [whiteout("d")]], ["f .wh.d"]),
    ("made-and-removed-again", [OLD], [[file("n"), file("d/n")], [whiteout("n"), whiteout("d/n")]],
     []),
    ("removed-and-made-again", [OLD], [[whiteout("e")], [file("e", "3")]], ["f e"]),
    ("removes-what-is-not-there", [OLD], [[whiteout("x"), whiteout("y/z"), opaque("v")]], []),
    ("a-directory-made-anew", [OLD], [[whiteout("d"), dir_("d"), file("d/n")]],
     ["d d/", "f d/.wh..wh..opq", "f d/n"]),
    ("made-anew-by-a-later-layer", [OLD], [[whiteout("d")], [file("d/n")]],
     ["d d/", "f d/.wh..wh..opq", "f d/n"]),
    ("opaque", [OLD], [[dir_("d"), opaque("d")]], ["d d/", "f d/.wh..wh..opq"]),
    ("opaque-without-an-entry", [OLD], [[opaque("d"), file("d/.a")]],
     ["d d/", "f d/.wh..wh..opq", "f d/.a"]),
    ("opaque-but-little-there", [[file("d/a")]], [[opaque("d"), file("d/n")]],
     ["d d/", "f d/.wh.a", "f d/n"]),
    ("opaque-and-replaced-name-by-name", [OLD], [[opaque("d"), file("d/a"), file("d/b")]],
     ["d d/", "f d/a", "f d/b"]),
    ("all-removed-one-by-one", [OLD], [[whiteout("d/a"), whiteout("d/b")]],
     ["d d/", "f d/.wh..wh..opq"]),
    ("an-opaque-root-through-a-symlink", [OLD], [[symlink("r", "."), opaque("r"), file("n")]],
     ["f .wh.d", "f .wh.e", "f n", "l r = ."]),
    ("opaque-saves-markers-below",
     [[file("d/s/a"), file("d/t/b"), file("d/u/c"), file("d/u/e")]],
     [[whiteout("d"), file("d/s/n"), file("d/u/n")]],
     ["d d/", "f d/.wh..wh..opq", "d d/s/", "f d/s/n", "d d/u/", "f d/u/n"]),
    ("not-where-something-shows",
     [[file("d/a"), file("d/b"), file("d/s/c"), file("d/s/e"), file("d/s/f")]],
     [[whiteout("d/a"), whiteout("d/s/c"), whiteout("d/s/e")]],
     ["d d/", "f d/.wh.a", "d d/s/", "f d/s/.wh.c", "f d/s/.wh.e"]),
    ("not-where-a-lower-layers-first-member-shows", [[file("d/a"), file("d/b"), file("d/c")]],
     [[whiteout("d/b"), whiteout("d/c")]], ["d d/", "f d/.wh.b", "f d/.wh.c"]),
    ("the-root-is-never-opaque", [OLD], [[opaque(""), file("n")]],
     ["f .wh.d", "f .wh.e", "f n"]),
    ("the-root-opaque-directories-anew", [OLD], [[opaque(""), file("d/n")]],
     ["f .wh.e", "d d/", "f d/.wh..wh..opq", "f d/n"]),
    ("a-file-over-a-directory", [OLD], [[whiteout("d"), file("d")]], ["f d"]),
    ("a-directory-over-a-file", [OLD], [[whiteout("e"), file("e/n")]], ["d e/", "f e/n"]),
    ("a-directory-over-a-symlink", [[symlink("lib", "d"), file("d/a")]], [[file("lib/n")]],
     ["d lib/", "f lib/n"]),
    ("a-directory-between-files", [OLD], [[whiteout("d"), file("d")], [whiteout("d"), dir_("d")]],
     ["d d/", "f d/.wh..wh..opq"]),
    ("attributes-alone", [OLD], [[dir_("d", mode=0o711)]], ["d d/"]),
    ("markers-before-names-that-sort-first", [OLD], [[whiteout("d/a"), file("d/-x"), file("d/.b")]],
     ["d d/", "f d/.wh.a", "f d/-x", "f d/.b"]),
    ("a-link-within", [OLD], [[file("n", "1"), hardlink("m", "n")]], ["f m", "h n = m"]),
    ("a-link-to-below-brings-the-file", [OLD], [[hardlink("n", "e")]], ["f e", "h n = e"]),
    ("its-target-replaced-later", [OLD], [[hardlink("n", "e")], [file("e", "new")]],
     ["f e", "f n"]),
    ("its-target-removed-later", [OLD], [[hardlink("n", "e")], [whiteout("e")]],
     ["f .wh.e", "f n"]),
    ("all-names-come-along", [[file("a/x", "1"), hardlink("b/x", "a/x", mode=0o644)]],
     [[hardlink("c", "a/x")]], ["d a/", "f a/x", "d b/", "h b/x = a/x", "h c = a/x"]),
    ("one-name-of-two-replaced", [[file("x", "1"), hardlink("y", "x")]], [[file("x", "2")]],
     ["f x"]),
    ("one-name-of-two-removed", [[file("x", "1"), hardlink("y", "x")]], [[whiteout("x")]],
     ["f .wh.x"]),
    ("a-link-that-came-and-went-changed-the-mode", [OLD],
     [[hardlink("n", "e", mode=0o600)], [whiteout("n")]], ["f e"]),
    ("a-root-entry", [OLD], [[dir_("./", mode=0o700), fifo("p")]], ["d ./", "p p"]),
    ("links-of-lower-layers-alone", [[file("b", "1")], [hardlink("a", "b")]], [[file("n")]],
     ["f n"]),
    ("one-marker-deep-down", [[file("d/s/a")]],
     [[dir_("d"), dir_("d/s"), whiteout("d/s/a"), file("d/s/n")]],
     ["d d/", "d d/s/", "f d/s/.wh.a", "f d/s/n"]),
    ("one-opaque-marker-deep-down", [[file("d/s/a"), file("d/s/b")]],
     [[dir_("d"), dir_("d/s"), whiteout("d/s/a"), whiteout("d/s/b")]],
     ["d d/", "d d/s/", "f d/s/.wh..wh..opq"]),
    ("three-below", [OLD, [whiteout("e")], [file("f")]], [[whiteout("f"), whiteout("e")]],
     ["f .wh.f"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("below", "above", "expected"), [pytest.param(*case[1:], id=case[0]) for case in CASES]
)
def test_what_is_in_it(
    below: list[LayerMembers], above: list[LayerMembers], expected: list[str]
) -> None:
    lower, upper = [layer(*some) for some in below], [layer(*some) for some in above]
    tar = squash(lower, upper)
    assert lines(tar) == expected
    assert flatten_layers([*lower, tar]) == flatten_layers([*lower, *upper])


def test_a_marker_is_an_empty_file_of_root() -> None:
    (marker,) = raw_members(squash([layer(file("e"))], [layer(whiteout("e"))]))
    numbers = [marker.number(at, 8) for at in (100, 108, 116)]
    assert (marker.name, marker.flag, marker.data, numbers) == (b".wh.e", b"0", b"", [0o644, 0, 0])


def test_directories_above_have_the_attributes_they_have() -> None:
    below = layer(dir_("d", mode=0o750, uid=3, mtime=7, xattrs={"user.a": b"1"}), file("d/s/a"))
    tar = squash([below], [layer(file("d/s/n"), dir_("d2"))])
    named = {node.path: node for node in read_tar(tar)}
    assert short_listing([named[b"d"], named[b"d/s"]]) == [
        "d d mode=750 owner=3:0 mtime=7 user.a='1'",
        "d d/s",
    ]


def test_the_content_of_a_linked_file_comes_from_below() -> None:
    below = layer(file("a", "content", mode=0o600, xattrs={"user.x": b"1"}))
    tar = squash([below], [layer(hardlink("b", "a", mode=0o640))])
    assert list_tar(tar) == ["f a 'content' mode=640 user.x='1'", "h b = a"]


def test_rules_and_names_go_with_whole_trees() -> None:
    for options in ({"paths": (PathRule(True, "a"),)}, {"strip_components": 1}, {"prefix": "p"}):
        with pytest.raises(UsageError, match="whole tree"):
            squash([layer(*OLD)], [layer()], **options)


def markers(tar: bytes) -> list[tuple[int, int]]:
    return [
        (member.offset, member.end)
        for member in raw_members(tar)
        if member.name.rpartition(b"/")[2].startswith(b".wh.")
    ]


@given(stacks(2), st.integers(0, 2))
def test_over_the_lower_layers_it_makes_the_same_tree(
    layers: list[list[Member]], number: int
) -> None:
    assume(expected_of(layers) is not None)
    count = 1 + number % (len(layers) - 1)
    tars = [layer(*some) for some in layers]
    whole = flatten_layers(tars)
    try:
        flatten_layers(tars[:count])
    except ImageError:
        return  # a link that a layer above it made no harm of
    tar = squash(tars[:count], tars[count:])
    assert flatten_layers([*tars[:count], tar]) == whole
    with_root = flatten_layers(tars, root_entry=True)
    assert flatten_layers([*tars[:count], tar], root_entry=True) == with_root
    # Names are told apart by their whole, so no whiteout stands beside its name.
    names = {member.name.rstrip(b"/") for member in raw_members(tar)}
    for name in names:
        directory, slash, base = name.rpartition(b"/")
        if base.startswith(b".wh.") and base != b".wh..wh..opq":
            assert directory + slash + base[4:] not in names
    for start, end in markers(tar):
        event("a marker")
        without = tar[:start] + tar[end:]
        assert flatten_layers([*tars[:count], without]) != whole, "a marker that nothing needs"


@given(stacks(2))
def test_squashing_the_squashed_changes_nothing(layers: list[list[Member]]) -> None:
    assume(expected_of(layers) is not None)
    tars = [layer(*some) for some in layers]
    try:
        tar = squash(tars[:1], tars[1:])
    except ImageError:
        return
    again = squash(tars[:1], [tar])
    assert flatten_layers([tars[0], again]) == flatten_layers(tars)
    assert len(markers(again)) == len(markers(tar))


def test_without_lower_layers_it_is_the_flat_tar() -> None:
    tars = [layer(*OLD), layer(whiteout("d"))]
    assert squash([], tars) == flatten_layers(tars)


def test_nothing_changed_is_an_empty_tar() -> None:
    assert squash([layer(*OLD)], [layer(), layer()]) == END


def test_umoci_makes_the_same_tree_of_it(tmp_path: Path) -> None:
    need_root()
    layers = [layer(*members) for members in together(test_oracle_umoci.AGREED)]
    trees = []
    for count in range(1, len(layers)):
        picture = image(*layers[:count], squash(layers[:count], layers[count:]))
        oci_layout(tmp_path / f"image{count}", picture)
        bundle = tmp_path / f"bundle{count}"
        name = f"{tmp_path}/image{count}:example/app:1.0"
        run([need("umoci"), "unpack", "--image", name, bundle])
        nodes = comparable(read_tree(bundle / "rootfs"), directory_times=False)
        trees.append(short_listing(nodes))
    whole = short_listing(comparable(read_tar(flatten_layers(layers)), directory_times=False))
    assert len(trees) >= 2
    for tree in trees:
        assert tree == whole


def in_directories() -> list[bytes]:
    """Give the layers of an image with the cases of one lower layer side by side."""
    cases = [Case(name, [*below, *above], []) for name, below, above, _ in CASES if len(below) == 1]
    return [layer(*members) for members in together(cases)]


def test_docker_shows_the_same_tree(docker_engine: Engine, tmp_path: Path) -> None:
    """Also of what Docker refuses in layers: links to lower ones, a whiteout beside its name."""
    docker = Docker(docker_engine.url)
    layers = in_directories()
    whole = test_oracle_docker.listed(read_tar(flatten_layers(layers)))
    picture = image(layers[0], squash(layers[:1], layers[1:]), tags=("example/changed:1",))
    docker.run("load", stdin=docker_archive(picture))
    exported = docker.export("example/changed:1")
    assert test_oracle_docker.listed(test_oracle_docker.unpacked(exported, tmp_path / "a")) == whole

    layers = [layer(*members) for members in together(test_oracle_docker.AGREED)]
    for count in range(1, len(layers)):
        tag = f"example/changed:agreed{count}"
        changeset = squash(layers[:count], layers[count:])
        picture = image(*layers[:count], changeset, tags=(tag,))
        docker.run("load", stdin=docker_archive(picture))
        theirs = test_oracle_docker.unpacked(docker.export(tag), tmp_path / f"tree{count}")
        ours = without_dockers_own(read_tar(flatten_layers(layers)))
        assert test_oracle_docker.listed(theirs) == test_oracle_docker.listed(ours)


def test_umoci_makes_the_same_of_the_cases(tmp_path: Path) -> None:
    need_root()
    layers = in_directories()
    oci_layout(tmp_path / "image", image(layers[0], squash(layers[:1], layers[1:])))
    name = f"{tmp_path}/image:example/app:1.0"
    run([need("umoci"), "unpack", "--image", name, tmp_path / "bundle"])
    theirs = comparable(read_tree(tmp_path / "bundle" / "rootfs"), directory_times=False)
    ours = comparable(read_tar(flatten_layers(layers)), directory_times=False)
    assert short_listing(theirs) == short_listing(ours)
