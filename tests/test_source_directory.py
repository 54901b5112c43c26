from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimgx.errors import SourceError
from tests.dsl import file, layer
from tests.leftovers import open_files
from tests.opened import APP, BASE, TOP, opened, problem, read
from tests.programs import dimgx, refused
from tests.writers import (
    docker_members,
    image,
    oci_archive,
    oci_files,
    oci_layout,
    sha256,
    to_json,
    write_files,
)


def blob_of(directory: Path) -> Path:
    """Give the path of the first layer."""
    return directory / "blobs/sha256" / sha256(APP.blobs("gzip")[0])


def test_links_within_the_directory(tmp_path: Path) -> None:
    directory = oci_layout(tmp_path / "x", APP)
    path = blob_of(directory)
    path.rename(directory / "elsewhere")
    path.symlink_to("../../elsewhere")
    (tmp_path / "link").symlink_to("x")
    assert read(f"oci:{tmp_path}/link") == [BASE, TOP]
    path.unlink()
    path.symlink_to(directory / "elsewhere")
    assert read(f"oci:{directory}") == [BASE, TOP]


def test_links_out_of_the_directory(tmp_path: Path) -> None:
    directory = oci_layout(tmp_path / "x", APP)
    path = directory / "index.json"
    path.rename(tmp_path / "elsewhere")
    for target in ("../elsewhere", str(tmp_path / "elsewhere"), "/dev/null", "/"):
        path.symlink_to(target)
        assert "outside" in problem(f"oci:{directory}")
        path.unlink()
    # A neighbour whose name only begins like the directory's is outside as well.
    (tmp_path / "xyz").write_bytes(b"")
    path.symlink_to("../xyz")
    assert "outside" in problem(f"oci:{directory}")


def test_a_blob_may_be_a_link_out_of_the_directory(tmp_path: Path) -> None:
    """As bazel has the layers of a base image, which lie elsewhere among its results."""
    directory = oci_layout(tmp_path / "x", APP)
    path = blob_of(directory)
    path.rename(tmp_path / "elsewhere")
    for target in ("../../../elsewhere", tmp_path / "elsewhere"):
        path.symlink_to(target)
        assert read(f"oci:{directory}") == [BASE, TOP]
        assert "outside" in problem(f"oci:{directory}", verify="none")
        path.unlink()
    for device in ("/dev/null", "/"):
        path.symlink_to(device)
        assert "no regular file" in problem(f"oci:{directory}")
        path.unlink()
    other = image(layer(file("etc/base", b"other"))).blobs("gzip")[0]
    (tmp_path / "other").write_bytes(other)
    path.symlink_to(tmp_path / "other")
    assert "layer 1/2" in refused(f"oci:{directory}", "-t", tmp_path / "out.tar")[1]
    path.unlink()
    (directory / "blobs").rename(tmp_path / "blobs")
    (directory / "blobs").symlink_to("../blobs")
    (tmp_path / "elsewhere").rename(tmp_path / path.relative_to(directory))
    assert read(f"oci:{directory}") == [BASE, TOP]


def test_odd_files_in_the_directory(tmp_path: Path) -> None:
    directory = oci_layout(tmp_path / "x", APP)
    path = blob_of(directory)
    path.unlink()
    os.mkfifo(path)
    assert "no regular file" in problem(f"oci:{directory}")
    path.unlink()
    path.mkdir()
    assert "no regular file" in problem(f"oci:{directory}")
    path.rmdir()
    path.symlink_to(path.name)
    assert "circle" in problem(f"oci:{directory}")
    path.unlink()
    assert "is missing" in problem(f"oci:{directory}")
    (directory / "oci-layout").unlink()
    os.mkfifo(directory / "oci-layout")
    assert "no regular file" in problem(f"oci:{directory}")


def test_names_that_mean_something_else(tmp_path: Path) -> None:
    files = oci_files(APP)
    manifest = [{"Config": "/etc/passwd", "Layers": []}]
    directory = write_files(tmp_path / "x", {"manifest.json": to_json(manifest)})
    assert "missing" in problem(f"docker-archive:{directory}")
    for config, reason in (("manifest.json/x", "missing"), ("n" * 300, "too long")):
        write_files(directory, {"manifest.json": to_json([{"Config": config, "Layers": []}])})
        assert reason in problem(f"docker-archive:{directory}")
    for config in ("../secret", "a/../../secret", "x\0y"):
        manifest = [{"Config": config, "Layers": []}]
        write_files(directory, files | {"manifest.json": to_json(manifest)})
        assert problem(f"docker-archive:{directory}")


def test_a_document_has_a_limit_before_it_is_read(tmp_path: Path) -> None:
    directory = write_files(tmp_path / "x", {"manifest.json": b""})
    for size, reason in ((16 << 20, "not valid JSON"), ((16 << 20) + 1, "at most 16777216 are")):
        os.truncate(directory / "manifest.json", size)
        assert reason in problem(f"dir:{directory}")


def test_the_root_is_a_directory_like_any_other() -> None:
    assert "is a root file system already" in problem("dir:/")


def test_a_blob_that_changes_meanwhile(tmp_path: Path) -> None:
    directory = oci_layout(tmp_path / "x", APP)
    with (
        pytest.raises(SourceError, match="changed while it was read"),
        opened(f"oci:{directory}"),
        blob_of(directory).open("ab") as stream,
    ):
        stream.write(b"more")


def test_everything_is_closed_again(tmp_path: Path) -> None:
    directory = oci_layout(tmp_path / "x", APP)
    before = open_files()
    read(f"oci:{directory}")
    problem(f"oci:{directory}:nothing")
    (tmp_path / "image.tar").write_bytes(oci_archive(APP))
    read(f"oci-archive:{tmp_path}/image.tar")
    problem(f"oci-archive:{tmp_path}/image.tar:nothing")
    read("-", oci_archive(APP, archive_compression="gzip"))
    assert not open_files() - before


def test_a_layer_of_many_places_is_opened_once(tmp_path: Path) -> None:
    picture = image(*[BASE] * 3000)
    assert len(read(f"oci:{oci_layout(tmp_path / 'x', picture)}")) == 3000


@pytest.fixture
def few_files() -> Iterator[None]:
    """No more than a hundred files may be open, unless a process allows itself more."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_documents_do_not_stay_open(tmp_path: Path) -> None:
    pictures = [image(layer(file(f"{k}")), tags=(f"a:{k}",)) for k in range(120)]
    wanted = f"{oci_layout(tmp_path / 'x', *pictures)}:a:77"
    assert read(f"oci:{wanted}") == [layer(file("77"))]
    members = docker_members(*pictures, vintage="digest.tar")
    directory = write_files(tmp_path / "y", {m.name.decode(): m.data for m in members})
    assert read(f"docker-archive:{directory}:a:77") == [layer(file("77"))]


@pytest.mark.usefixtures("few_files")
def test_more_layers_than_files_are_usually_open(tmp_path: Path) -> None:
    picture = image(*[layer(file(f"{k}")) for k in range(120)])
    assert dimgx("-t", "-", f"oci:{oci_layout(tmp_path / 'x', picture)}").stdout
