from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.dsl import dir_, file, layer
from tests.opened import APP, BASE, OTHER, TOP, opened, problem, read, stored
from tests.writers import (
    archive,
    docker_archive_v1,
    docker_members,
    renamed,
    sha256,
    to_json,
    v1_members,
    write_files,
)


@pytest.mark.parametrize(
    "options",
    [{}, {"repositories": False}, {"directories": False}, {"version": False}],
    ids=str,
)
def test_a_chain_of_parents(options: dict[str, Any], tmp_path: Path) -> None:
    path = stored(tmp_path, docker_archive_v1(APP, **options))
    with opened("docker-archive:" + path) as found:
        assert [one.blob.size for one in found.layers] == [len(BASE), len(TOP)]
        assert read(path) == [BASE, TOP]
        assert found.id == found.history[1].id == sha256(f"v1 0 1 {APP.id()}".encode())
        assert found.history[1].parent_id == found.history[0].id
        assert found.history[0].created_by == "/bin/sh -c step 0"
        assert found.tags == (("example/app:1.0",) if options.get("repositories", True) else ())
        assert str(found.platform) == "linux/amd64"
    members = v1_members(APP, **options)
    assert read(stored(tmp_path, archive(renamed(members, lambda n: b"./" + n)))) == [BASE, TOP]
    files = {m.name.decode(): m.data for m in members if m.kind == "f"}
    assert read(f"docker-archive:{write_files(tmp_path / 'x', files)}") == [BASE, TOP]


@pytest.mark.parametrize("repositories", [True, False])
def test_several_chains(repositories: bool, tmp_path: Path) -> None:
    path = stored(tmp_path, docker_archive_v1(APP, OTHER, repositories=repositories))
    top = sha256(f"v1 0 1 {APP.id()}".encode())
    below = sha256(f"v1 0 0 {APP.id()}".encode())
    other = sha256(f"v1 1 0 {OTHER.id()}".encode())
    text = problem(path)
    assert "2 images" in text and top[:12] in text and other[:12] in text
    assert read(f"{path}:{top}") == read(f"{path}:{top[:9]}") == [BASE, TOP]
    assert read(f"{path}:@sha256:{other}") == [TOP]
    assert read(f"{path}:{below}") == [BASE]
    if repositories:
        assert read(f"{path}:example/other:2") == read(f"{path}:@1") == [TOP]


def test_an_ancestor_with_a_name_of_its_own(tmp_path: Path) -> None:
    below = sha256(f"v1 0 0 {APP.id()}".encode())
    members = v1_members(APP)
    top = json.loads(members[-1].data)
    members.append(file("repositories", to_json(top | {"base": {"1": below, "one": below}})))
    path = stored(tmp_path, archive(members))
    assert read(path + ":base:one") == [BASE]
    with opened(path + ":example/app:1.0") as found:
        assert found.history[0].tags == ("base:1", "base:one")
    assert "base:1 = base:one" in problem(path)


def v1(*steps: tuple[str, object], repositories: object = None) -> bytes:
    members = [dir_("x")]
    for id_, document in steps:
        text = document if isinstance(document, bytes) else to_json(document)
        members += [file(f"{id_}/json", text), file(f"{id_}/layer.tar", layer())]
    if repositories is not None:
        members.append(file("repositories", to_json(repositories)))
    return archive(members)


A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (v1((A, {"parent": A})), "no end"),
        (v1((A, {"parent": A}), repositories={"x": {"1": A}}), "own ancestor"),
        (v1((A, {"parent": B}), (B, {"parent": A}), (C, {"parent": B})), "own ancestor"),
        (v1((A, {"parent": B})), "is missing"),
        (v1((A, b"{")), "not valid JSON"),
        (v1((A, [])), "no JSON object"),
        (v1((A, {"parent": 1})), "no string"),
        (v1((A, {"container_config": {"Cmd": 1}})), "no list"),
        (v1((A, {}), repositories={"x": {"1": B}}), "is missing"),
        (v1((A, {}), repositories={"x": {"1": "../../x"}}), "no ID"),
        (v1((A, {}), repositories={"x": {"1": 1}}), "no ID"),
        (v1((A, {}), repositories={"x": {"1": ""}}), "no ID"),
        (v1((A, {}), repositories={"x": []}), "no tags"),
        (v1((A, {}), repositories=[]), "no JSON object"),
        (v1(repositories={}), "no end|no image"),
        (v1((A, {"os": "windows", "architecture": "amd64"})), "no image for"),
    ],
)
def test_broken_chains(data: bytes, reason: str, tmp_path: Path) -> None:
    assert re.search(reason, problem(stored(tmp_path, data)))


def test_a_chain_that_is_broken_matters_only_to_its_image(tmp_path: Path) -> None:
    path = stored(tmp_path, v1((A, {"os": 1, "architecture": "x"}), (B, {"parent": ""})))
    assert "2 images" in problem(path)
    assert "os is no string" in problem(f"{path}:{A}")
    with opened(f"{path}:{B}") as found:
        assert [(step.created_by, step.parent_id) for step in found.history] == [(None, None)]


def test_a_long_chain_is_no_recursion(tmp_path: Path) -> None:
    ids = [f"{number:064x}" for number in range(3000)]
    steps = [(id_, {"parent": ids[k - 1]} if k else {}) for k, id_ in enumerate(ids)]
    assert len(read(stored(tmp_path, v1(*steps)))) == 3000


def test_a_chain_with_a_missing_layer(tmp_path: Path) -> None:
    members = [m for m in v1_members(APP) if m.data != BASE]
    path = stored(tmp_path, archive(members))
    assert "layer.tar is missing" in problem(path)
    with opened(path) as found:
        assert len(found.layers) == 2


def test_a_chain_that_may_have_been_cut_is_none(tmp_path: Path) -> None:
    members = [m for m in docker_members(APP) if not m.name.endswith((b"s", b".json"))]
    assert read(stored(tmp_path, layer(*members))) == [BASE, TOP]
    assert "cut short" in problem(stored(tmp_path, layer(*members, end=b"")))


def test_a_manifest_counts_before_a_chain(tmp_path: Path) -> None:
    path = stored(tmp_path, archive([*v1_members(OTHER), *docker_members(APP)]))
    assert read(path) == [BASE, TOP]


@pytest.mark.parametrize(("size", "told"), [(7, 7), (-1, None), ("7", None), (None, None)])
def test_a_size_that_is_none_is_unknown(size: object, told: int | None, tmp_path: Path) -> None:
    data = v1((A, {"Size": size}))
    with opened(stored(tmp_path, data)) as found:
        assert [step.size for step in found.history] == [told]
