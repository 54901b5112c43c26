"""containerd's store, as the Docker Engine uses it: no engine here has one, but blobs are blobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dimgx.digest import Digest
from dimgx.image import Image
from dimgx.jsondoc import Fields
from dimgx.sources import dockerstore
from tests.opened import APP, ARM, OTHER, check
from tests.writers import Picture, oci_files, sha256, write_files

Find = Callable[..., Any]
PLACES = ("root/containerd/daemon", "system")


def info(root: Path, **more: object) -> Fields:
    told = {
        "DockerRootDir": str(root),
        "Driver": "overlayfs",
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
    }
    return Fields({**told, **more}, "it")


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Find]:
    system = tmp_path / "system" / "io.containerd.content.v1.content"
    monkeypatch.setattr(dockerstore, "_CONTAINERD", system)
    with ExitStack() as resources:

        def open_it(
            id: str, wanted: Sequence[str], *, verify: bool = True, **more: object
        ) -> Image | None:
            diff_ids = [Digest.parse(text) for text in wanted]
            told = info(tmp_path / "root", **more)
            return dockerstore.open_stored(
                told, Digest.parse(id), diff_ids, resources, verify=verify
            )

        yield open_it


def fill(tmp_path: Path, place: str, *pictures: Picture) -> tuple[str, str]:
    """Put images under one index into the store; give the index's digest and the first manifest's.

    containerd has no oci-layout and index.json: what lies there has its digest for a name.
    """
    files = oci_files(*pictures, nested=True)
    outer = json.loads(files.pop("index.json"))["manifests"][0]["digest"]
    inner = json.loads(files["blobs/sha256/" + outer.removeprefix("sha256:")])["manifests"]
    del files["oci-layout"]
    write_files(tmp_path / place / "io.containerd.content.v1.content", files)
    return outer, inner[0]["digest"]


def blob(tmp_path: Path, place: str, digest: str) -> Path:
    name = digest.replace(":", "/")
    return tmp_path / place / "io.containerd.content.v1.content" / "blobs" / name


@pytest.mark.parametrize("place", PLACES)
def test_blobs_are_found(find: Find, tmp_path: Path, place: str) -> None:
    for id in fill(tmp_path, place, APP):
        found = find(id, APP.diff_ids())
        check(found, replace(APP, tags=()))
        assert [str(one.digest) for one in found.layers] == [
            f"sha256:{sha256(data)}" for data in APP.blobs("gzip")
        ]
        assert len(found.watches) == 2


def test_platform_is_the_one_with_these_layers(find: Find, tmp_path: Path) -> None:
    index, _ = fill(tmp_path, PLACES[0], APP, ARM)
    for picture in (APP, ARM):
        check(find(index, picture.diff_ids()), replace(picture, tags=()))
    assert find(index, OTHER.diff_ids()) is None


def test_platform_that_was_not_pulled(find: Find, tmp_path: Path) -> None:
    """The index lists it all the same."""
    index, arm = fill(tmp_path, PLACES[0], ARM, APP)
    blob(tmp_path, PLACES[0], arm).unlink()
    check(find(index, APP.diff_ids()), replace(APP, tags=()))


@pytest.mark.parametrize("position", [0, 1], ids=["index", "manifest"])
def test_document_with_other_bytes(find: Find, tmp_path: Path, position: int) -> None:
    id = fill(tmp_path, PLACES[0], APP)[position]
    path = blob(tmp_path, PLACES[0], id)
    path.write_bytes(path.read_bytes() + b" ")
    assert find(id, APP.diff_ids()) is None
    assert find(id, APP.diff_ids(), verify=False) is not None


@pytest.mark.parametrize("what", ["index", "manifest", "config", "layer"])
@pytest.mark.parametrize("how", ["missing", "changed", "a directory"])
def test_what_is_not_whole_is_left_to_the_engine(
    find: Find, tmp_path: Path, what: str, how: str
) -> None:
    index, manifest = fill(tmp_path, PLACES[0], APP)
    digests = {
        "index": index,
        "manifest": manifest,
        "config": f"sha256:{APP.id()}",
        "layer": f"sha256:{sha256(APP.blobs('gzip')[1])}",
    }
    path = blob(tmp_path, PLACES[0], digests[what])
    data = path.read_bytes()
    path.unlink()
    if how == "changed":
        path.write_bytes(data.replace(b"sha256", b"SHA256") + b" ")
    elif how == "a directory":
        path.mkdir()
    found = find(index, APP.diff_ids())
    # A layer is checked when it is read.
    assert (found is not None) == (what == "layer" and how == "changed")


def test_engine_with_another_store(find: Find, tmp_path: Path) -> None:
    index, _ = fill(tmp_path, PLACES[0], APP)
    diff_ids = APP.diff_ids()
    assert find(index, diff_ids) is not None
    for more in (
        {"DriverStatus": []},
        {"DriverStatus": [["driver-type", "other"]]},
        {"DriverStatus": [[["driver-type"], "other"], [{}, 1], ["driver-type"], 1]},
        {"DockerRootDir": "root"},
        {"DockerRootDir": None},
    ):
        assert find(index, diff_ids, **more) is None
