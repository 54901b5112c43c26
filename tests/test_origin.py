"""The record: what is in it, what is not, and what is read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import dimgx
from dimgx.codec import Coding
from dimgx.encode import usual_level
from dimgx.images.origin import NoOrigin, Origin, marks_of, parse_origin, unusual_level
from dimgx.images.wanted import origin_of_image
from dimgx.recipe import Recipe
from tests.dsl import file, layer
from tests.writers import docker_archive, docker_archive_v1, image, oci_layout

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
FULL = Origin(
    layers=(A, B),
    below=(B,),
    is_squashed=True,
    is_kept=True,
    added=(A,),
    paths=("+etc", "-*.pyc"),
    strip_components=2,
    prefix="srv/é/",
    root_entry=True,
    clamp_mtime=7,
    level=9,
    created=0,
    image=A,
    settings=A,
    healthcheck="none",
    platform="linux/arm/v7",
)
BASE, TOP = layer(file("etc/a", b"1")), layer(file("etc/b", b"2"))


@pytest.mark.parametrize("origin", [Origin(()), Origin((A,)), Origin((A,), clamp_mtime=0), FULL])
def test_record_is_read_back(origin: Origin) -> None:
    assert parse_origin(origin.text) == origin


def test_record_is_one_line_of_ascii() -> None:
    assert FULL.text.isascii() and FULL.text.isprintable()
    assert " " not in FULL.text


def test_record_has_nothing_that_is_at_its_default() -> None:
    assert Origin((A,)).text == f'{{"dimgx":1,"layers":["{A}"]}}'


def test_record_of_another_version_tells_nothing() -> None:
    found = parse_origin('{"dimgx": 2, "layers": {"of": "another shape"}}')
    assert (found.version, found.layers) == (2, ())
    assert found.text == '{"dimgx":2}'


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "0fd34b1f5b6e8d7a",
        "{",
        "[]",
        "{}",
        '{"dimgx": null}',
        '{"dimgx": "1"}',
        '{"dimgx": 1, "layers": "a"}',
        '{"dimgx": 1, "layers": [1]}',
        '{"dimgx": 1, "strip_components": -1}',
        '{"dimgx": 1, "root_entry": "yes"}',
        '{"dimgx":' + "[" * 100_000,
        '{"dimgx": 1, "x": "' + "x" * (1 << 20) + '"}',
    ],
)
def test_what_is_no_record(text: str | None) -> None:
    with pytest.raises(NoOrigin):
        parse_origin(text)


def test_usual_level_is_as_good_as_none() -> None:
    assert unusual_level(Coding("gzip", usual_level("gzip"))) is None
    assert unusual_level(Coding("gzip", 3)) == 3
    assert unusual_level(Coding("gzip", None)) is None
    assert unusual_level(Coding("xz", 6)) is None
    assert unusual_level(Coding("zstd", 6)) == 6


def marks(path: Path, reference: str = "", **options: object) -> tuple[str, ...]:
    with dimgx.open_image(reference or str(path)) as found:
        return origin_of_image(found, Recipe(**options)).layers  # type: ignore[arg-type]  # a few of them


def test_same_record_whatever_the_source(tmp_path: Path) -> None:
    picture = image(BASE, TOP)
    (tmp_path / "a.tar").write_bytes(docker_archive(picture))
    (tmp_path / "b.tar").write_bytes(
        docker_archive(replace(picture, tags=("other:2",)), vintage="29")
    )
    oci_layout(tmp_path / "c", picture, default="zstd")
    origins = []
    for name in ("a.tar", "b.tar", "c"):
        with dimgx.open_image(str(tmp_path / name)) as found:
            origins.append(origin_of_image(found, Recipe()))
    assert origins[0] == origins[1] == origins[2]
    assert origins[0].layers == tuple(picture.diff_ids())
    assert origins[0].platform == "linux/amd64"
    assert origins[0].image == f"sha256:{picture.id()}"


def test_rows_count_in_the_order_in_which_they_cover(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(docker_archive(image(BASE, TOP)))
    base, top = image(BASE, TOP).diff_ids()
    path = tmp_path / "a.tar"
    assert marks(path) == marks(path, layers=["@0:@1"]) == (base, top)
    assert marks(path, layers=["@1:@0"]) == (top, base)
    assert marks(path, layers=["@1"]) == (top,)
    assert marks(path, layers=["@1", "@0", "@1"]) == (base, top)


def test_layer_without_a_diff_id_has_its_v1_id(tmp_path: Path) -> None:
    path = tmp_path / "v1.tar"
    path.write_bytes(docker_archive_v1(image(BASE, TOP)))
    with dimgx.open_image(str(path)) as found:
        ids = tuple(step.id for step in found.history)
        assert marks_of(found, found.layers) == ids
    assert all(len(id or "") == 64 for id in ids)


def test_layer_without_config_and_id_has_its_blob(tmp_path: Path) -> None:
    oci_layout(tmp_path, image(BASE, config={"rootfs": None, "history": None}))
    with dimgx.open_image(str(tmp_path)) as found:
        (mark,) = marks_of(found, found.layers)
        assert mark == f"blob:{found.layers[0].digest}"


def test_same_layer_twice_stands_twice(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(docker_archive(image(BASE, TOP, BASE)))
    assert marks(tmp_path / "a.tar") == tuple(image(BASE, TOP, BASE).diff_ids())


def test_names_and_layers_elsewhere_do_not_count() -> None:
    assert set(json.loads(FULL.text)) == {
        "dimgx", "layers", "below", "squashed", "kept", "added", "paths", "strip_components",
        "prefix", "root_entry", "clamp_mtime", "level", "created", "image", "settings",
        "healthcheck", "platform",
    }  # fmt: skip
