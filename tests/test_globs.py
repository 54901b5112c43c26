"""Patterns of paths: tables, and git, whose own they are, as an oracle."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimgx.errors import UsageError
from dimgx.layers.names import key_of
from dimgx.merging.globs import decode_key, glob_to_regex
from tests.programs import need


def matches(pattern: str, name: str | bytes) -> bool:
    """Tell whether a pattern matches a name; a directory's ends in `/`."""
    raw = name.encode() if isinstance(name, str) else name
    key = key_of(raw.rstrip(b"/"), is_directory=raw.endswith(b"/"))
    return re.match(glob_to_regex(pattern), decode_key(key)) is not None


CASES: list[tuple[str, str, str]] = [
    # pattern, names that match, names that do not
    ("a", "a a/ b/a a/x b/a/x b/a/", "b ab ba b/ab"),
    ("/a", "a a/ a/x a/x/y", "b/a b/a/x ab"),
    ("./a", "a a/x", "b/a"),
    ("//a", "a a/x", "b/a"),
    ("a/b", "a/b a/b/ a/b/c", "b x/a/b a/bc a/c/b"),
    ("a//b", "a/b", "x/a/b"),
    ("a/", "a/ a/x b/a/ b/a/x", "a b/a"),
    ("/a/", "a/ a/x", "a b/a/"),
    ("a/b/", "a/b/ a/b/x", "a/b x/a/b/"),
    ("a/**", "a/x a/x/ a/x/y", "a a/ b/a/x"),
    ("a/**/", "a/x/ a/x/y", "a/ a/x"),
    ("**/a", "a a/ a/x b/a b/c/a", "ab b/ab"),
    ("**/a/b", "a/b x/a/b x/y/a/b/c", "a/x/b"),
    ("a/**/b", "a/b a/x/b a/x/y/b/c", "a ab a/xb b"),
    ("a/**/**/b", "a/b a/x/b", "b"),
    ("a/**/b/**/c", "a/b/c a/x/b/y/c a/b/b/c/d a/b/x/b/c", "a/c a/b a/c/b"),
    ("a/**/b/c/**/d", "a/b/b/c/d a/b/x/b/c/y/d", "a/b/x/c/d"),
    ("**", "a a/ a/b", ""),
    ("*", "a a/ a/b", ""),
    ("/*", "a a/ a/b", ""),
    ("/*/", "a/ a/b", "a"),
    ("a/*", "a/x a/x/y", "a a/ b/a/x"),
    ("a/*/b", "a/x/b a/x/b/c", "a/b a/x/y/b"),
    ("*.pyc", "x.pyc .pyc a/x.pyc x.pyc/y", "x.py x.pycs"),
    ("x*", "x xy x/y a/xyz", "yx"),
    ("*x*", "x axb a/x bxx/y", "y"),
    ("a*b*c", "abc axbyc abbcc a/abc", "ab abcd acb a/b/c"),
    ("*a*ab", "aab xaab aaab aabab", "ab aaba xab"),
    ("a**b", "ab axb", "a/b a/x/b"),
    ("?", "a b/c a/", ""),
    ("/?b", "ab", "b aab x/ab"),
    ("??", "ab x/cd", "a abc"),
    ("[abc]x", "ax cx d/bx", "dx x abx"),
    ("[a-c0-9]", "b 7", "d"),
    ("[!a]", "b a/b", "a"),
    ("[^a]x", "bx", "ax x"),
    ("[]]", "]", "a"),
    ("[!]]", "a", "]"),
    ("[]-]x", "]x -x", "ax"),
    ("[a-]x", "ax -x", "bx"),
    ("[z-a]x", "", "zx ax"),
    ("[!z-a]x", "zx bx", "x"),
    (r"[\]a]x", "]x ax", "bx"),
    (r"[a\-z]x", "ax -x zx", "bx"),
    ("[[:digit:]]", "7", "a"),
    ("[[:upper:]_]x", "Ax _x", "ax"),
    ("[![:alpha:]]x", "1x", "ax"),
    ("[", "[ usr/bin/[", "a"),
    ("[a", "[a", "a"),
    ("[a/b]", "[a/b]", "a b"),
    ("a[", "a[", "a"),
    (r"\*", "* a/*", "a"),
    (r"\[a]", "[a]", "a"),
    (r"sys-\\x2d.d", r"sys-\x2d.d", "sys-x2d.d"),
    ("a.b", "a.b", "axb"),
    ("a+(b)|c", "a+(b)|c", "aab c"),
    ("!a", "!a", "a b"),
    ("#a", "#a", "a"),
    ("0/1", "0/1 0/1/2", "01"),
    ("[0-9]", "0 a/1", "a"),
    ("[!0-9]", "a", "0"),
    (" a", "", "a"),
    ("A", "A", "a"),
    ("é?", "éé éa", "é ée\u0301"),
    ("[à-ü]", "é", "e"),
    ("[!é]", "e ü", "é"),
    ("..a", "..a", "a"),
    ("a..", "a.. b/a..", "a"),
]


@pytest.mark.parametrize(("pattern", "these", "others"), CASES)
def test_what_matches(pattern: str, these: str, others: str) -> None:
    assert [name for name in these.split() if not matches(pattern, name)] == []
    assert [name for name in others.split() if matches(pattern, name)] == []


def test_names_that_are_no_utf_8() -> None:
    assert matches("?", b"\xff") and not matches("??", b"\xff")
    assert matches("\udcff", b"\xff") and matches("[\udcff]", b"\xff")
    assert matches("a\nb", "a\nb") and matches("*", "a\nb") and matches("a?b", "a\nb")
    assert not matches("a", "a\n")


BAD = ["/", "//", "./", ".", "a/../b", "..", "../a", "a\\", "a\\/b", "[[:foo:]]", "a\0b"]


@pytest.mark.parametrize("pattern", BAD)
def test_what_can_mean_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="is not a pattern of paths"):
        glob_to_regex(pattern)


def test_a_hostile_name_costs_little() -> None:
    name = "a" * 250
    pattern = "*a" * 20 + "*b"
    assert not matches(pattern, "/".join([name] * 15))
    assert not matches("**/".join(["x/"] + ["a/"] * 20) + "b", "x/" + "a/" * 500 + "c")


CHARS = st.sampled_from([*"aab*?", "**", "[ab]", "[!a]", "\\*", "[", "]", "-"])
PARTS = st.one_of(
    st.sampled_from(["a", "b", "**", "*"]), st.lists(CHARS, min_size=1, max_size=4).map("".join)
)
PATTERNS = st.builds(
    lambda start, parts, end: start + "/".join(parts) + end,
    st.sampled_from(["", "", "/"]), st.lists(PARTS, min_size=1, max_size=4),
    st.sampled_from(["", "", "", "/"]),
)  # fmt: skip
TREE = [
    "/".join((*path, name))
    for path in ((), ("a",), ("b",), ("a", "b"), ("b", "a"), ("a", "b", "a"), ("ab", "a", "b"))
    for name in ("ab/", "ba", "a*", "bab", "aab", "aa", "abab", "]", "bb", "-", "[b")
]


def _is_gits(pattern: str) -> bool:
    """Tell whether git means the same by a pattern: an open `[` is no character to it."""
    rest = re.sub(r"\[!?[^]/[]+\]", "", pattern.replace("\\*", ""))
    # It reads a part of stars and more that begins or ends with two as if it had a slash there.
    odd = re.search(r"\*\*[^/]|[^/]\*\*", pattern)
    return "[" not in rest and "\\" not in rest and not odd


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("git")
    subprocess.run([need("git"), "init", "-q", directory], check=True)
    for name in TREE:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if name.endswith("/") else path.touch()
    return directory


@given(PATTERNS.filter(_is_gits))
def test_git_ignores_what_we_match(repository: Path, pattern: str) -> None:
    (repository / ".git" / "info" / "exclude").write_text(pattern + "\n")
    names = [*TREE, "a/", "b/", "a/b/", "b/a/", "a/b/a/", "ab/a/"]
    done = subprocess.run(
        [need("git"), "check-ignore", "--no-index", "--stdin", "-z"],
        cwd=repository,
        input="\0".join(name.rstrip("/") for name in names),  # it sees which are directories
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    ours = {name.rstrip("/") for name in names if matches(pattern, name)}
    assert ours == set(done.stdout.split("\0")) - {""}


def test_a_range_of_one() -> None:
    assert [bool(re.match(glob_to_regex("[b-b]"), text)) for text in "abc"] == [False, True, False]
