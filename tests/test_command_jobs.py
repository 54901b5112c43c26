"""Targets with fields, by the command: one result for each image."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.dsl import file, layer
from tests.programs import dimgx, refused
from tests.writers import docker_archive, image

ONE = image(layer(file("one", b"1")), tags=("example/app:1.0",))
TWO = image(layer(file("two", b"2")), tags=("example/app:2.0",), architecture="arm64")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "one.tar").write_bytes(docker_archive(ONE))
    (tmp_path / "two.tar").write_bytes(docker_archive(TWO))
    (tmp_path / "both.tar").write_bytes(docker_archive(ONE, TWO))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def test_one_target_for_each_image(place: Path) -> None:
    template = "out/{name}/{tag}-{platform}-{index}.tar.gz"
    dimgx("-t", template, "docker-archive:both.tar:@0", "docker-archive:both.tar:@1")
    found = sorted(path.relative_to(place / "out") for path in place.glob("out/*/*"))
    assert list(map(str, found)) == [
        "example-app/1.0-linux-amd64-0.tar.gz",
        "example-app/2.0-linux-arm64-1.tar.gz",
    ]
    assert [names(place / "out" / path) for path in found] == [["one"], ["two"]]
    assert (place / "out" / found[0]).read_bytes()[:2] == b"\x1f\x8b"


def test_one_image_with_fields(place: Path) -> None:
    dimgx("-t", "{short}.tar", "./one.tar")
    assert names(place / f"{ONE.id()[:12]}.tar") == ["one"]


def test_two_images_with_one_target_write_nothing(place: Path) -> None:
    before = sorted(place.iterdir())
    code, told = refused("./one.tar", "-t", "new/{name}.tar", "./two.tar")
    assert code == 1
    assert "two images have the target new/example-app.tar" in told
    assert sorted(place.iterdir()) == before


def test_unknown_field_is_told_before_anything_is_opened(place: Path) -> None:
    code, told = refused("./missing.tar", "-t", "{nmae}.tar")
    assert code == 1
    assert "no field {nmae}" in told


def test_missing_tag_is_of_the_image(place: Path) -> None:
    (place / "none.tar").write_bytes(docker_archive(image(layer(file("a")), tags=())))
    code, told = refused("./none.tar", "-t", "new/{name}.tar")
    assert code == 2
    assert "the image has no name" in told
    assert not (place / "new").exists()


def test_existing_target_is_refused_before_the_first_is_written(place: Path) -> None:
    (place / "2.0.tar").write_bytes(b"old")
    code, told = refused("./one.tar", "-t", "{tag}.tar", "./two.tar")
    assert code == 2
    assert "2.0.tar exists" in told
    assert not (place / "1.0.tar").exists()
    dimgx("-w", "-t", "{tag}.tar", "./one.tar", "./two.tar")
    assert [names(place / f"{tag}.0.tar") for tag in (1, 2)] == [["one"], ["two"]]


def test_directories_that_were_made_go_when_nothing_came(place: Path) -> None:
    data = bytearray((place / "one.tar").read_bytes())
    at = data.index(b"one\0")
    data[at] ^= 1  # in the layer: its digest no longer fits
    (place / "bad.tar").write_bytes(data)
    code, _ = refused("./bad.tar", "-t", "a/b/{name}.tar")
    assert code == 2
    assert not (place / "a").exists()
