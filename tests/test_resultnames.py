"""Names of images that are written: which a source's are, and how they are spelled."""

from __future__ import annotations

import pytest

from dimgx import Image, UsageError
from dimgx.images.resultnames import familiar_names, own_names, parse_names, parse_tag


def names(tags: tuple[str, ...], asked: str | None = None) -> list[str]:
    return list(map(str, own_names(Image("x", (), id="1", tags=tags), asked)))


TABLE = [
    (("app:1.0",), None, ["docker.io/library/app:1.0"]),
    (("app:1.0", "b/c:2"), None, ["docker.io/library/app:1.0", "docker.io/b/c:2"]),
    (("docker.io/library/app:1.0", "1.0"), None, ["docker.io/library/app:1.0"]),
    (("latest",), None, ["latest"]),
    (("app:1", "app:1"), None, ["docker.io/library/app:1"]),
    (("app:1", "b:2"), "b:2", ["docker.io/library/b:2"]),
    (("app:1", "b:latest"), "b", ["docker.io/library/b:latest"]),
    (("localhost/app:latest", "x:1"), "app", ["localhost/app:latest"]),
    (("app:1", "b:2"), "@0", ["docker.io/library/app:1", "docker.io/library/b:2"]),
    (("app:1", "b:2"), "5d8f0941", ["docker.io/library/app:1", "docker.io/library/b:2"]),
    (("v1", "v2"), "v2", ["v2"]),
    (("a:1", "1", "b:2", "2", "c:2"), "2", ["docker.io/library/b:2", "docker.io/library/c:2"]),
    (("a:1", "b:2"), "2", ["docker.io/library/a:1", "docker.io/library/b:2"]),
    (("odd name", "-"), None, []),
    (("Big/Name:1",), None, ["Big/Name:1"]),
    ((f"app@sha256:{64 * '0'}",), None, []),
    ((f"app:1@sha256:{64 * '0'}",), None, ["docker.io/library/app:1"]),
    ((), "app:1", []),
]


@pytest.mark.parametrize(("tags", "asked", "expected"), TABLE)
def test_own_names(tags: tuple[str, ...], asked: str | None, expected: list[str]) -> None:
    assert names(tags, asked) == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("app", "app:latest"),
        ("library/app:1", "app:1"),
        ("a/b", "a/b:latest"),
        ("docker.io/a/b:c", "a/b:c"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("quay.io/a/b/c:1.0_x-y", "quay.io/a/b/c:1.0_x-y"),
    ],
)
def test_tags_as_docker_shows_them(text: str, shown: str) -> None:
    assert familiar_names([parse_tag(text)]) == [shown]


BAD = ["", "App", "a b", "a:", ":a", "a//b", "a/", "-a", "a:b:c", "a:é", "a:-b", "a" * 300,
       "a:" + "b" * 129, f"a@sha256:{64 * '0'}", 64 * "0", "a__-b", "http://a/b"]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_bad_tags(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_tag(text)
    assert str(caught.value).isprintable()


def test_behind_the_path_of_a_layout_any_text_is_a_name() -> None:
    assert list(map(str, parse_names(["a", "v1.0"], "v1.0"))) == [
        "docker.io/library/a:latest", "v1.0",
    ]  # fmt: skip
    # It is there with the full name already.
    assert list(map(str, parse_names(["a", "latest"], "latest"))) == ["docker.io/library/a:latest"]
    assert list(map(str, parse_names(["v1", "a:v1"], "v1"))) == ["docker.io/library/a:v1"]
    assert list(map(str, parse_names(["a:1"], "a:1"))) == ["docker.io/library/a:1"]
    with pytest.raises(UsageError):
        parse_names(["-"], "-")
