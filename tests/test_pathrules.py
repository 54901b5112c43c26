"""Which paths go in: `--include` and `--exclude`, through the whole extractor."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from dimgx.errors import ImageError
from dimgx.merging.pathrules import PathFilter, PathRule
from tests import model
from tests.cases import LayerMembers, flatten_layers, flatten_members, open_members
from tests.dsl import Member, dir_, file, hardlink, layer, symlink, whiteout
from tests.engines import with_links
from tests.listing import Node, list_tar, read_tar, short_listing
from tests.programs import need
from tests.stacks import STACKS, expected_of


def rules(text: str) -> tuple[PathRule, ...]:
    """Give the rules that are written as `+pattern -pattern`."""
    return tuple(PathRule(word[0] == "+", word[1:]) for word in text.split())


def chosen(text: str, names: str) -> str:
    """Give those of `names`, in the order of a walk and directories with a slash, that stay."""
    keys = [name.replace("/", "\0").encode() for name in names.split()]
    flags = PathFilter(rules(text)).choose(keys)
    return " ".join(name for name, flag in zip(names.split(), flags, strict=True) if flag)


TREE = "a/ a/b/ a/b/x a/b/y.py a/c b/ b/a/ b/a/x c d.py"
CASES = [
    ("+a", "a/ a/b/ a/b/x a/b/y.py a/c b/ b/a/ b/a/x"),
    ("+/a", "a/ a/b/ a/b/x a/b/y.py a/c"),
    ("+a/b", "a/ a/b/ a/b/x a/b/y.py"),
    ("+a/b/x", "a/ a/b/ a/b/x"),
    ("+*.py", "a/ a/b/ a/b/y.py d.py"),
    ("+/a -/a/b", "a/ a/c"),
    ("+/a/** -/a/b +x", "a/ a/b/ a/b/x a/c b/ b/a/ b/a/x"),
    ("+a +c -a/b", "a/ a/c b/ b/a/ b/a/x c"),
    ("-/a +/a", TREE),
    ("-a", "b/ c d.py"),
    ("-/a", "b/ b/a/ b/a/x c d.py"),
    ("-a/", "b/ c d.py"),
    ("-c/", TREE),
    ("-/a/**", "a/ b/ b/a/ b/a/x c d.py"),
    ("-/a +/a/b/x", "a/ a/b/ a/b/x b/ b/a/ b/a/x c d.py"),
    ("-/a +/a/b -*.py", "a/ a/b/ a/b/x b/ b/a/ b/a/x c"),
    ("-/* +/b", "b/ b/a/ b/a/x"),
    ("-/* +x", "a/ a/b/ a/b/x b/ b/a/ b/a/x"),
    ("-** +c", "a/ a/c c"),
    ("-a -b -d.py", "c"),
    ("-nothing", TREE),
    ("+c -nothing", "a/ a/c c"),
    ("+a/b -a/b/y.py +a/b/y.py", "a/ a/b/ a/b/x a/b/y.py"),
]
REFUSED = [
    (
        "+/c/x/y",
        "--include /c/x/y matches nothing in the image:"
        " /c is no directory there, and symbolic links are not followed",
    ),
    (
        "+a/b/x/*",
        "--include a/b/x/* matches nothing in the image:"
        " /a/b/x is no directory there, and symbolic links are not followed",
    ),
    ("+a/b/x -a/b", "nothing is left of the image: --exclude matches all of it"),
    ("-/*", "nothing is left of the image: --exclude matches all of it"),
    ("+e", "--include e matches nothing in the image"),
    ("+a +/b/x", "--include /b/x matches nothing in the image"),
    ("+c/", "--include c/ matches nothing in the image"),
    ("-a +a/e", "--include a/e matches nothing in the image"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_the_last_that_matches_decides(text: str, expected: str) -> None:
    assert chosen(text, TREE) == expected


@pytest.mark.parametrize(("text", "problem"), REFUSED)
def test_what_is_not_there_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(ImageError) as raised:
        chosen(text, TREE)
    assert str(raised.value) == problem


def test_an_include_may_lose_all_that_it_matches() -> None:
    assert chosen("+a/b/x +c -x", TREE) == "a/ a/c c"


def test_nothing_can_be_left_out_of_nothing() -> None:
    assert chosen("-a", "") == ""


def test_many_rules() -> None:
    many = " ".join(f"-n{i}" for i in range(400))
    names = " ".join(sorted(f"n{i}" for i in range(402)))
    assert chosen(many, names) == "n400 n401"
    assert chosen(f"{many} +n7 +n399", names) == "n399 n400 n401 n7"


USR = [
    dir_("usr", mode=0o711, mtime=5),
    dir_("usr/lib", uid=3),
    file("usr/lib/a", "1", xattrs={"user.x": b"1"}),
    hardlink("usr/lib/b", "usr/lib/a", xattrs={"user.x": b"1"}),
    hardlink("usr/z", "usr/lib/a"),
    symlink("usr/l", "lib/a"),
]


def flat(text: str, *layers: LayerMembers) -> list[str]:
    return list_tar(flatten_members(layers or [USR], paths=rules(text)))


def test_parents_come_as_the_image_has_them() -> None:
    assert flat("+usr/lib/a") == [
        "d usr mode=711 mtime=5", "d usr/lib owner=3:0", "f usr/lib/a '1' user.x='1'",
    ]  # fmt: skip
    assert flat("+a", [file("x/y/a")]) == ["d x", "d x/y", "f x/y/a ''"]


def test_a_hard_link_whose_first_name_falls_away_becomes_the_file() -> None:
    assert flat("-usr/lib/a") == [
        "d usr mode=711 mtime=5", "l usr/l -> lib/a", "d usr/lib owner=3:0",
        "f usr/lib/b '1' user.x='1'", "h usr/z = usr/lib/b",
    ]  # fmt: skip
    assert flat("+usr/z")[1:] == ["f usr/z '1' user.x='1'"]


def test_a_link_across_layers_becomes_the_file() -> None:
    below, above = [file("a", "1", mode=0o600)], [hardlink("b", "a", mode=0o640)]
    assert flat("-a", below, above) == ["f b '1' mode=640"]


def test_what_a_layer_removed_cannot_be_included() -> None:
    with pytest.raises(ImageError, match=r"^--include a matches nothing in the image$"):
        flat("+a", [file("a"), file("b")], [whiteout("a")])


def test_headers_of_what_stays_go_out_as_they_were() -> None:
    tar = layer(file("a", "1"), file("b", "2", dialect="gnu"), file("c", "3"))
    assert flatten_layers([tar], paths=rules("-a")) == tar[1024:]
    assert flatten_layers([tar], paths=rules("-b")) == tar[:1024] + tar[2048:]


def warnings_of(layers: Sequence[LayerMembers], **options: Any) -> tuple[str, ...]:
    with open_members(layers, **options) as opened:
        return opened.warnings


POINTING = [
    ("l", "a/x", True),
    ("l", "/a/x", True),
    ("l", "a", False),
    ("l", "b/y", False),
    ("l", "nowhere", False),
    ("l", "a/nowhere", False),
    ("b/l", "../a/x", True),
    ("b/l", "/a/x", True),
    ("b/l", "a/x", False),
    ("b/l", "../../../a/./x", True),
    ("b/l", "y", False),
    ("b/l", "../b/../a/x/more", True),
    ("l", "to-a/x", True),
    ("l", "to-b/y", False),
    ("l", "to-x/y", True),
    ("l", "loop", False),
    ("l", "l", False),
    ("l", "gone-link", True),
    ("l", "b/to-root/a/x", True),
    ("l", "b/up/x", True),
    ("l", "a/s", True),
    ("l", "a/s/t", True),
]


@pytest.mark.parametrize(("name", "target", "is_warned"), POINTING)
def test_a_symlink_that_points_at_what_is_left_out(name: str, target: str, is_warned: bool) -> None:
    members = [
        file("a/x"), file("a/s/t"), file("a/z"), file("b/y"), symlink("to-a", "/a"),
        symlink("to-b", "b"), symlink("loop", "loop"), symlink("gone-link", "b"),
        symlink("b/to-root", "../../.."), symlink("to-x", "to-a/z"), symlink("b/up", "../a"),
        symlink(name, target),
    ]  # fmt: skip
    found = warnings_of([members], paths=rules("-a/x -a/s -gone-link -to-x"))
    if is_warned:
        assert found == (f"a symlink points at what is left out: {name!r} -> {target!r}",)
    else:
        assert found == ()


def test_one_warning_for_all_of_them() -> None:
    members = [file("a"), *(symlink(f"l{i}", "a") for i in range(12))]
    assert warnings_of([members], paths=rules("-a")) == (
        "12 symlinks point at what is left out, such as 'l0' -> 'a'",
    )
    assert warnings_of([members], paths=rules("-a -l1*"))[0].startswith("9 ")
    assert warnings_of([members], paths=rules("-nothing")) == ()
    assert warnings_of([members]) == ()


GLOBS = st.sampled_from(
    ["a", "b", "/a", "a/", "/b/", "a/b", "a/*", "a/**", "**/b", "a/**/b", "*", "/*", "/*/a", "?",
     "a?", "*.", "c/**/", "/*/*", "b/*/", "**/a/*", "a*", "*/a"]
)  # fmt: skip
RULES = st.lists(st.builds(PathRule, st.booleans(), GLOBS), min_size=1, max_size=4)


def glob(pattern: list[str], path: list[str], is_directory: bool, needs_directory: bool) -> bool:
    """Tell whether a path, or what begins it, matches; part by part, the slow way."""
    if not pattern:
        return is_directory or not needs_directory or bool(path)
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(path) and glob([], path[1:], is_directory, needs_directory)
        return any(
            glob(pattern[1:], path[i:], is_directory, needs_directory) for i in range(len(path) + 1)
        )
    return (
        bool(path)
        and fnmatchcase(path[0], pattern[0])
        and glob(pattern[1:], path[1:], is_directory, needs_directory)
    )


def is_match(rule: PathRule, node: Node) -> bool:
    parts = rule.pattern.strip("/").split("/")
    if not rule.pattern.startswith("/") and len(parts) == 1:
        parts = ["**", *parts]
    path = node.path.decode().split("/")
    return glob(parts, path, node.kind == "d", rule.pattern.endswith("/"))


def expected_nodes(nodes: Sequence[Node], given_rules: Sequence[PathRule]) -> list[Node] | None:
    """Give the nodes that stay, by the rules as they are written; None for an error."""
    for rule in given_rules:
        if rule.is_included and not any(is_match(rule, node) for node in nodes):
            return None
    kept = set()
    for node in nodes:
        verdict = not given_rules[0].is_included
        for rule in given_rules:
            if is_match(rule, node):
                verdict = rule.is_included
        if verdict:
            parts = node.path.split(b"/")
            kept.update(b"/".join(parts[:n]) for n in range(1, len(parts) + 1))
    if nodes and not kept:
        return None
    return with_links([node for node in nodes if node.path in kept])


@given(STACKS, RULES)
def test_rules_and_model_agree(layers: list[list[Member]], given_rules: list[PathRule]) -> None:
    assume(expected_of(layers) is not None)
    nodes = expected_nodes(model.nodes_of(model.flatten(layers)), given_rules)
    if nodes is None:
        event("refused")
        with pytest.raises(ImageError, match=r"matches nothing|nothing is left"):
            flatten_members(layers, paths=tuple(given_rules))
        return
    event("some left out" if len(nodes) < len(model.nodes_of(model.flatten(layers))) else "all")
    tar = flatten_members(layers, paths=tuple(given_rules))
    assert list_tar(tar) == short_listing(nodes)
    assert flatten_layers([tar]) == tar


def test_gnu_tar_leaves_out_the_same(tmp_path: Path) -> None:
    """Its --exclude with --anchored takes plain paths as ours does."""
    whole = flatten_members([USR, [file("usr/lib/deep/er", "2"), file("etc/lib/x")]])
    archive = tmp_path / "whole.tar"
    archive.write_bytes(whole)
    directory = tmp_path / "tree"
    directory.mkdir()
    words = ["--anchored", "--exclude=usr/lib/deep", "--exclude=etc/lib"]
    subprocess.run([need("tar"), "-C", directory, *words, "-xf", archive], check=True)
    theirs = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    ours = read_tar(flatten_layers([whole], paths=rules("-usr/lib/deep -/etc/lib")))
    assert sorted(node.path.decode() for node in ours) == theirs


def test_a_layer_of_which_only_the_root_goes_in() -> None:
    layers = [layer(file("a", b"x")), layer(dir_("./", mode=0o711), file("b", b"x"))]
    compressed = [gzip.compress(data) for data in layers]
    tar = flatten_layers(compressed, root_entry=True, paths=(PathRule(True, "a"),))
    with tarfile.open(fileobj=io.BytesIO(tar)) as found:
        assert [(one.name, one.mode) for one in found] == [(".", 0o711), ("a", 0o644)]
