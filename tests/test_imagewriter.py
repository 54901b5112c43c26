"""Images as results, in every form and from every source, read back by the sources themselves."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import dimgx
from dimgx import (
    DimgxError,
    ImageError,
    LayerSpecError,
    ResultImage,
    SourceError,
    UsageError,
    write_images,
)
from dimgx.images.origin import parse_origin
from dimgx.targets import archive
from tests.dsl import file, layer, symlink
from tests.opened import opened, plain
from tests.results import (
    APP,
    BASE,
    DIRECTORIES,
    FORMS,
    HISTORY,
    MIDDLE,
    PLATFORM,
    SETTINGS,
    SOURCES,
    TOP,
    config_of,
    files_of,
    flat,
    left,
    manifest_of,
    reference_of,
    sha256,
    write,
)
from tests.writers import docker_archive, image, oci_layout, write_files

forms = pytest.mark.parametrize("form", FORMS)
sources = pytest.mark.parametrize("source", SOURCES)
ARCHIVES = [form for form in FORMS if form not in DIRECTORIES]


@pytest.fixture
def app(tmp_path: Path) -> str:
    return SOURCES["docker-1.10"](tmp_path, APP)


@forms
def test_image_that_changes_when_all_was_read_takes_nothing_away(
    tmp_path: Path, app: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.utime(app)
        fsync(fd)

    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", late)
    expected = flat(app)
    write(app, tmp_path / "out", form)
    assert flat(reference_of(form, tmp_path / "out")) == expected


@pytest.mark.parametrize("form", ARCHIVES)
def test_image_that_changes_while_it_is_read_again_leaves_nothing(
    tmp_path: Path, app: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*args: Any) -> Any:
        os.utime(app)
        return encoding(*args)

    encoding = archive.encoding
    monkeypatch.setattr(archive, "encoding", late)
    before = left(tmp_path)
    with pytest.raises(SourceError, match="changed while it was read"):
        write(app, tmp_path / "out", form, keep_layers=True, compression="gzip")
    assert left(tmp_path) == before


@forms
@sources
def test_one_layer_is_the_flat_tar(tmp_path: Path, form: str, source: str) -> None:
    reference = SOURCES[source](tmp_path, APP)
    result = write(reference, tmp_path / "out", form)
    with opened(reference_of(form, tmp_path / "out"), verify="all") as found:
        assert [plain(one) for one in found.layers] == [flat(reference)]
        assert found.config is not None
        assert found.config.diff_ids == (result.images[0].layers[0].diff_id,)
        assert str(found.platform) == PLATFORM
        if form != "docker-dir" and source != "dir":
            assert found.tags[0] in ("example/app:1.0", "docker.io/example/app:1.0")


@forms
@sources
def test_flattening_the_flattened_changes_nothing(tmp_path: Path, form: str, source: str) -> None:
    reference = SOURCES[source](tmp_path, APP)
    write(reference, tmp_path / "out", form)
    assert flat(reference_of(form, tmp_path / "out")) == flat(reference)


@forms
def test_same_bytes_whatever_source_and_threads(tmp_path: Path, form: str) -> None:
    written = []
    for number, source in enumerate(set(SOURCES) - {"docker-v1"}):
        place = tmp_path / source
        place.mkdir()
        reference = SOURCES[source](place, APP)
        write(reference, place / "out", form, threads=1 + number % 3, names=["example/app:1.0"])
        written.append(files_of(place / "out"))
    assert all(one == other for one, other in pairwise(written))


@pytest.mark.parametrize("keep", [False, True], ids=["flat", "kept"])
@pytest.mark.parametrize("coding", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("source", ["docker-1.10", "oci", "docker-v1"])
@pytest.mark.parametrize("form", ARCHIVES)
def test_a_stream_gets_the_bytes_of_a_file(
    tmp_path: Path, form: str, source: str, coding: str, keep: bool
) -> None:
    reference = SOURCES[source](tmp_path, APP)
    options: dict[str, Any] = {"layer_compression": coding, "keep_layers": keep, "sha256": True}
    in_file = write(reference, tmp_path / "out", form, **options)
    stream = io.BytesIO()
    with dimgx.open_image(reference, platform=PLATFORM) as found:
        streamed = write_images([found], stream, form=form, **options)  # type: ignore[arg-type]
    assert stream.getvalue() == (tmp_path / "out").read_bytes()
    assert streamed == in_file
    assert f"sha256:{in_file.sha256}" == sha256(stream.getvalue())
    assert in_file.size == len(stream.getvalue())


@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("form", ARCHIVES)
def test_an_archive_compressed_as_a_whole(
    tmp_path: Path, app: str, form: str, compression: str
) -> None:
    write(app, tmp_path / "plain", form)
    write(app, tmp_path / "packed", form, compression=compression)
    from tests.opened import iter_decoded, sniff

    packed = (tmp_path / "packed").read_bytes()
    assert b"".join(map(bytes, iter_decoded([packed], sniff(packed)))) == (
        tmp_path / "plain"
    ).read_bytes()


MEDIA_TYPES = {
    ("oci-dir", "none"): "application/vnd.oci.image.layer.v1.tar",
    ("oci-dir", "gzip"): "application/vnd.oci.image.layer.v1.tar+gzip",
    ("oci-dir", "zstd"): "application/vnd.oci.image.layer.v1.tar+zstd",
    ("oci-dir", None): "application/vnd.oci.image.layer.v1.tar+gzip",
    ("docker-dir", "none"): "application/vnd.docker.image.rootfs.diff.tar",
    ("docker-dir", "gzip"): "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ("docker-dir", "zstd"): "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ("docker-dir", None): "application/vnd.docker.image.rootfs.diff.tar",
}


@pytest.mark.parametrize(("form", "coding"), MEDIA_TYPES)
def test_media_types_say_what_is_there(
    tmp_path: Path, app: str, form: str, coding: str | None
) -> None:
    result = write(app, tmp_path / "out", form, layer_compression=coding)
    manifest = manifest_of(tmp_path / "out")
    (described,) = manifest["layers"]
    assert described["mediaType"] == MEDIA_TYPES[form, coding]
    stored = files_of(tmp_path / "out")
    hexes = {name.rpartition("/")[2]: data for name, data in stored.items()}
    for descriptor in (manifest["config"], described):
        data = hexes[descriptor["digest"].removeprefix("sha256:")]
        assert (sha256(data), len(data)) == (descriptor["digest"], descriptor["size"])
    assert str(result.images[0].layers[0].digest) == described["digest"]
    magic = {"none": b"bin/", "gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
    default = "gzip" if form == "oci-dir" else "none"
    assert hexes[described["digest"].removeprefix("sha256:")].startswith(magic[coding or default])


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_levels_count(tmp_path: Path, app: str, coding: str) -> None:
    low = write(app, tmp_path / "1", "oci-dir", layer_compression=coding, level=1)
    high = write(app, tmp_path / "9", "oci-dir", layer_compression=coding, level=9)
    assert high.images[0].layers[0].size < low.images[0].layers[0].size
    assert high.images[0].id == low.images[0].id


def test_a_level_without_compression_has_no_effect(tmp_path: Path, app: str) -> None:
    with pytest.raises(UsageError, match="no effect"):
        write(app, tmp_path / "out", "docker-archive", level=3)
    with pytest.raises(UsageError, match="no effect on layers that are kept"):
        write(app, tmp_path / "out", "oci-dir", level=3, keep_layers=True)
    assert left(tmp_path) == ["source.tar"]
    write(app, tmp_path / "all", "oci-dir", level=3, keep_layers=True, layer_compression="gzip")
    write(app, tmp_path / "a.gz", "oci-archive", level=3, keep_layers=True, compression="gzip")


@pytest.mark.parametrize("form", DIRECTORIES)
def test_a_directory_has_a_path_and_no_compression(tmp_path: Path, app: str, form: str) -> None:
    stream: Any = io.BytesIO()
    for target, options in ((stream, {}), (tmp_path / "out", {"compression": "gzip"})):
        with pytest.raises(UsageError, match="is a directory: it is named by a path"):
            write(app, target, form, **options)
    assert (left(tmp_path), stream.getvalue()) == (["source.tar"], b"")


@forms
def test_settings_are_kept(tmp_path: Path, app: str, form: str) -> None:
    write(app, tmp_path / "out", form)
    config = config_of(reference_of(form, tmp_path / "out"))
    (step,) = config.pop("history")
    assert config.pop("rootfs") == {"type": "layers", "diff_ids": [sha256(flat(app))]}
    assert config == {
        "created": "2024-01-01T00:00:00Z", "architecture": "amd64", "os": "linux",
        "config": SETTINGS, "author": "somebody", "x.unknown": {"kept": [1, None]},
    }  # fmt: skip
    origin = parse_origin(step.pop("comment"))
    assert origin.layers == tuple(sha256(data) for data in (BASE, MIDDLE, TOP))
    assert origin.platform == "linux/amd64"
    names = " ".join(sha256(data)[7:19] for data in (BASE, MIDDLE, TOP))
    assert step == {
        "created": "2024-01-01T00:00:00Z",
        "created_by": f"dimgx: 3 layers flattened: {names}",
    }


def test_created_is_what_was_said(tmp_path: Path, app: str) -> None:
    write(app, tmp_path / "out", "oci-dir", created=1)
    config = config_of(f"oci:{tmp_path}/out")
    assert config["created"] == config["history"][0]["created"] == "1970-01-01T00:00:01Z"


def test_chosen_rows_are_flattened(tmp_path: Path, app: str) -> None:
    write(app, tmp_path / "out", "oci-dir", layers=["@0", "@2"])
    assert flat(f"oci:{tmp_path}/out") == flat(app, layers=["@0", "@2"])
    (step,) = config_of(f"oci:{tmp_path}/out")["history"]
    assert step["created_by"].startswith("dimgx: 2 layers flattened: ")


def test_rows_without_a_layer_are_nothing_to_flatten(tmp_path: Path, app: str) -> None:
    with pytest.raises(LayerSpecError, match="nothing is left"):
        write(app, tmp_path / "out", "oci-dir", layers=["@1"])
    assert left(tmp_path) == ["source.tar"]


def test_what_is_odd_in_the_tree_is_told(tmp_path: Path) -> None:
    picture = image(layer(symlink("bin", "usr/bin"), file("usr/bin/x", b"1")))
    rules = [dimgx.PathRule(is_included=False, pattern="usr")]
    result = write(SOURCES["oci"](tmp_path, picture), tmp_path / "out", "oci-dir", paths=rules)
    assert result.warnings == ("a symlink points at what is left out: 'bin' -> 'usr/bin'",)


@forms
def test_an_image_without_layers(tmp_path: Path, form: str) -> None:
    reference = SOURCES["oci"](tmp_path, image(history=[]))
    write(reference, tmp_path / "flat", form)
    assert flat(reference_of(form, tmp_path / "flat")) == bytes(1024)
    write(reference, tmp_path / "kept", form, keep_layers=True)
    assert flat(reference_of(form, tmp_path / "kept")) == bytes(1024)


@forms
def test_a_damaged_layer_leaves_nothing(tmp_path: Path, form: str) -> None:
    reference = f"oci:{oci_layout(tmp_path / 'source', APP, default=None)}"
    blob = max((tmp_path / "source/blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    before = left(tmp_path)
    for keep in (False, True):
        with pytest.raises(ImageError, match=r"layer \d/3 sha256:"):
            write(reference, tmp_path / "out", form, keep_layers=keep)
        assert left(tmp_path) == before


@pytest.mark.parametrize("keep", [False, True], ids=["flat", "kept"])
@pytest.mark.parametrize("form", ARCHIVES)
def test_nothing_goes_to_a_stream_before_digests_match(
    tmp_path: Path, form: str, keep: bool
) -> None:
    picture = image(BASE, TOP, config={"rootfs": {"type": "layers", "diff_ids": [
        sha256(BASE), sha256(MIDDLE)]}})  # fmt: skip
    reference = SOURCES["docker-1.10"](tmp_path, picture)
    stream = io.BytesIO()
    with (
        dimgx.open_image(reference, platform=PLATFORM) as found,
        pytest.raises(ImageError, match="layer 2/2"),
    ):
        write_images([found], stream, form=form, keep_layers=keep)  # type: ignore[arg-type]
    assert stream.getvalue() == b""


def test_cancelling_leaves_nothing(tmp_path: Path, app: str) -> None:
    for form in FORMS:
        for keep in (False, True):
            with pytest.raises(DimgxError, match="cancelled"):
                write(app, tmp_path / "out", form, keep_layers=keep, cancel=lambda: True)
    assert left(tmp_path) == ["source.tar"]


def test_progress_is_told(tmp_path: Path, app: str) -> None:
    for keep in (False, True):
        told: list[Any] = []
        write(
            app, tmp_path / f"out{keep}", "oci-dir", keep_layers=keep, progress=told.append,
        )  # fmt: skip
        assert max(one.done for one in told if one.phase == "write") > len(BASE) // 3


# -- names and several images ---------------------------------------------------------------------

SECOND = image(
    BASE, TOP, tags=("registry.example:5000/second:2", "third:latest"), history=HISTORY[:1]
)


def write_several(tmp_path: Path, *wanted: ResultImage, **options: Any) -> dict[str, bytes]:
    write_images(wanted, tmp_path / "out", form="docker-archive", **options)
    return files_of(tmp_path / "out")


def test_several_images_in_one_archive(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(docker_archive(APP, SECOND))
    first, second = f"{tmp_path}/in.tar:example/app:1.0", f"{tmp_path}/in.tar:third"
    with (
        dimgx.open_image(first, platform=PLATFORM) as one,
        dimgx.open_image(second, platform=PLATFORM) as two,
    ):
        files = write_several(
            tmp_path, ResultImage(two, ["third"]), ResultImage(one), ResultImage(two, ["x:3"])
        )
    listed = json.loads(files["manifest.json"])
    assert [entry["RepoTags"] for entry in listed] == [["third:latest", "x:3"], ["example/app:1.0"]]
    assert sum(name.endswith("layer.tar") for name in files) == 2
    assert flat(f"{tmp_path}/out:x:3") == flat(second)
    assert flat(f"{tmp_path}/out:example/app:1.0") == flat(first)


def test_a_name_of_several_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(docker_archive(APP, SECOND))
    with (
        dimgx.open_image(f"{tmp_path}/in.tar:@0", platform=PLATFORM) as one,
        dimgx.open_image(f"{tmp_path}/in.tar:@1", platform=PLATFORM) as other,
    ):
        first, second = ResultImage(one, ("x/app:1",)), ResultImage(other, ("x/app:1",))
        with pytest.raises(UsageError, match=r"are both named docker\.io/x/app:1, which is one im"):
            write_images([first, second], tmp_path / "out", form="docker-archive")
        assert left(tmp_path) == ["in.tar"]
        write_images([first, first], tmp_path / "out", form="docker-archive")
        assert len(json.loads(files_of(tmp_path / "out")["manifest.json"])) == 1


@pytest.mark.parametrize("to_stream", [False, True], ids=["file", "stream"])
def test_layers_that_are_shared_are_there_once(tmp_path: Path, to_stream: bool) -> None:
    twice = image(BASE, TOP, TOP, BASE, tags=("twice:1",))
    (tmp_path / "in.tar").write_bytes(docker_archive(APP, SECOND, twice))
    names = ("example/app:1.0", "third", "twice:1")
    images = [dimgx.open_image(f"{tmp_path}/in.tar:{name}", platform=PLATFORM) for name in names]
    stream = io.BytesIO()
    target = stream if to_stream else tmp_path / "out"
    write_images(images, target, form="docker-archive", keep_layers=True)
    if to_stream:
        (tmp_path / "out").write_bytes(stream.getvalue())
    for one in images:
        one.close()
    assert (tmp_path / "out").stat().st_size < len(BASE) + len(MIDDLE) + len(TOP) + 40_000
    for name in names:
        before, after = f"{tmp_path}/in.tar:{name}", f"{tmp_path}/out:{name}"
        with opened(before) as old, opened(after, verify="all") as new:
            assert new.id == old.id
            assert [plain(one) for one in new.layers] == [plain(one) for one in old.layers]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("options", [{"keep_layers": True}, {"squash_from": "@1"}], ids=str)
def test_a_shared_layer_that_two_sources_store_in_two_ways(
    tmp_path: Path, options: Any, coding: Any
) -> None:
    oci_layout(tmp_path / "oci", image(BASE, TOP, tags=("a:1",), compression=coding))
    (tmp_path / "b.tar").write_bytes(docker_archive(image(BASE, layer(file("b")), tags=("b:1",))))
    sources = [str(tmp_path / name) for name in ("oci", "b.tar")]
    target = tmp_path / "out.tar"
    with ExitStack() as stack:
        images = [stack.enter_context(dimgx.open_image(source)) for source in sources]
        write_images(
            images, target, form="docker-archive", layer_compression=coding, **options
        )
    for source, name in zip(sources, ("a:1", "b:1"), strict=True):
        assert flat(f"docker-archive:{target}:{name}") == flat(source)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_a_name_that_is_given_twice_is_there_once(tmp_path: Path, app: str, form: Any) -> None:
    with dimgx.open_image(app) as found:
        for path, names in (("once", ["db:1"]), ("twice", ["db:1", "docker.io/library/db:1"])):
            write_images([dimgx.ResultImage(found, names=names)], tmp_path / path, form=form)
    assert (tmp_path / "twice").read_bytes() == (tmp_path / "once").read_bytes()


def test_the_same_flat_tar_of_two_images_is_there_once(tmp_path: Path) -> None:
    # Not the same layers, so that it is found out only when both have been written.
    one = image(layer(file("a", b"1")), layer(file("b", b"2")), tags=("one:1",))
    two = image(layer(file("b", b"2"), file("a", b"1")), tags=("two:1",))
    other = image(layer(file("c", b"3")), tags=("other:1",))
    (tmp_path / "in.tar").write_bytes(docker_archive(one, two, other))
    images = [dimgx.open_image(f"{tmp_path}/in.tar:@{n}", platform=PLATFORM) for n in range(3)]
    for target in (io.BytesIO(), tmp_path / "out"):
        result = write_images(images, target, form="docker-archive")
        if isinstance(target, io.BytesIO):
            streamed = target.getvalue()
    for opened_image in images:
        opened_image.close()
    assert streamed == (tmp_path / "out").read_bytes()
    assert (result.size, result.sha256) == (len(streamed), None)
    entries = json.loads(files_of(tmp_path / "out")["manifest.json"])
    assert len(entries) == 3 and entries[0]["Layers"] == entries[1]["Layers"]
    assert flat(f"{tmp_path}/out:other:1") == flat(f"{tmp_path}/in.tar:other:1")


def test_members_of_an_archive_are_as_old_as_time_and_root_s(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(docker_archive(image(BASE, TOP, BASE)))
    write(f"{tmp_path}/in.tar", tmp_path / "out", "docker-archive", keep_layers=True)
    with tarfile.open(tmp_path / "out") as archive:
        found = {(m.type, m.mode, m.mtime, m.uid, m.gid) for m in archive}
        (link,) = [archive.extractfile(m) for m in archive if m.issym()]
        assert link is not None and link.read() == BASE
    assert found == {(tarfile.REGTYPE, 0o644, 0, 0, 0), (tarfile.SYMTYPE, 0o777, 0, 0, 0)}


def test_a_docker_dir_holds_one(tmp_path: Path, app: str) -> None:
    with dimgx.open_image(app, platform=PLATFORM) as one, pytest.raises(UsageError, match="2 im"):
        write_images([one, one], tmp_path / "out", form="docker-dir")
    assert left(tmp_path) == ["source.tar"]


def test_repositories_name_the_topmost(tmp_path: Path, app: str) -> None:
    write(app, tmp_path / "out", "docker-archive", names=["a/b:1", "a/b:2", "c.example/d"])
    files = files_of(tmp_path / "out")
    (id,) = {name.partition("/")[0] for name in files if name.endswith("/layer.tar")}
    assert json.loads(files["repositories"]) == {
        "a/b": {"1": id, "2": id}, "c.example/d": {"latest": id},
    }  # fmt: skip
    assert files[f"{id}/VERSION"] == b"1.0"
    told = json.loads(files[f"{id}/json"])
    assert (told["id"], told["config"], told["architecture"]) == (id, SETTINGS, "amd64")


@pytest.mark.parametrize("keep", [False, True], ids=["flat", "kept"])
def test_engines_of_old_read_it(tmp_path: Path, app: str, keep: bool) -> None:
    """Without manifest.json what is left is what they wrote themselves."""
    write(app, tmp_path / "out", "docker-archive", keep_layers=keep)
    files = {n: d for n, d in files_of(tmp_path / "out").items() if n != "manifest.json"}
    (tmp_path / "old.tar").write_bytes(layer(*(file(n, d) for n, d in files.items())))
    assert flat(f"{tmp_path}/old.tar:example/app:1.0") == flat(app)
    with opened(f"{tmp_path}/old.tar:example/app:1.0") as found:
        assert len(found.layers) == (3 if keep else 1)


def test_names_in_an_index(tmp_path: Path, app: str) -> None:
    write(app, tmp_path / "out", "oci-dir", names=["debian:12", "quay.io/x/y"])
    index = json.loads(files_of(tmp_path / "out")["index.json"])
    assert [entry["annotations"] for entry in index["manifests"]] == [
        {
            "io.containerd.image.name": "docker.io/library/debian:12",
            "org.opencontainers.image.ref.name": "12",
        },
        {
            "io.containerd.image.name": "quay.io/x/y:latest",
            "org.opencontainers.image.ref.name": "latest",
        },
    ]


@pytest.mark.parametrize(
    ("config", "platform"),
    [
        ({}, {"platform": {"architecture": "amd64", "os": "linux"}}),
        ({"architecture": "arm", "variant": "v7"},
         {"platform": {"architecture": "arm", "os": "linux", "variant": "v7"}}),
        ({"architecture": ""}, {}),
    ],
)  # fmt: skip
def test_what_an_index_says_of_an_image(
    tmp_path: Path, config: dict[str, Any], platform: dict[str, Any]
) -> None:
    reference = SOURCES["docker-1.10"](tmp_path, image(BASE, config=config, tags=()))
    with dimgx.open_image(reference) as found:
        result = write_images([found], tmp_path / "out", form="oci-dir")
    files, digest = files_of(tmp_path / "out"), str(result.images[0].digest)
    assert json.loads(files["index.json"]) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": len(files["blobs/" + digest.replace(":", "/")]),
                **platform,
            }
        ],
    }


def test_a_tag_alone_is_a_name_in_oci_only(tmp_path: Path) -> None:
    reference = SOURCES["oci"](tmp_path, image(BASE, tags=("latest",)))
    write(reference, tmp_path / "oci", "oci-dir")
    (entry,) = json.loads(files_of(tmp_path / "oci")["index.json"])["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "latest"}
    result = write(reference, tmp_path / "docker", "docker-archive")
    assert json.loads(files_of(tmp_path / "docker")["manifest.json"])[0]["RepoTags"] is None
    assert result.warnings == (
        "'latest' is no name to an engine, and left out (--tag gives one)",
    )


def test_a_tag_alone_names_no_two_images(tmp_path: Path) -> None:
    opened = []
    with ExitStack() as stack:
        for name, picture in (("a", APP), ("b", SECOND)):
            (tmp_path / name).mkdir()
            reference = SOURCES["oci"](tmp_path / name, replace(picture, tags=("latest",)))
            opened.append(stack.enter_context(dimgx.open_image(reference, platform=PLATFORM)))
        result = write_images(opened, tmp_path / "out", form="docker-archive")
    assert result.warnings == (
        "'latest' is no name to an engine, and left out (--tag gives one)",
    )


def test_bad_names_are_refused(tmp_path: Path, app: str) -> None:
    for name in ("Bad", "a b", "a:b:c", "-x", f"a@sha256:{64 * '0'}", "", "a:" + "x" * 129):
        with pytest.raises(UsageError):
            write(app, tmp_path / "out", "docker-archive", names=[name])
    assert left(tmp_path) == ["source.tar"]


# -- squash and keep ------------------------------------------------------------------------------


@forms
def test_kept_layers_are_the_same_layers(tmp_path: Path, form: str) -> None:
    for source in SOURCES:
        place = tmp_path / source
        place.mkdir()
        reference = SOURCES[source](place, APP)
        write(reference, place / "out", form, keep_layers=True)
        with opened(reference) as old, opened(reference_of(form, place / "out")) as new:
            assert [plain(one) for one in new.layers] == [BASE, MIDDLE, TOP]
            if source != "docker-v1":
                assert new.id == old.id
            assert len(new.history) == len(old.history)


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_layer_that_nothing_names_is_there_once(tmp_path: Path, form: str) -> None:
    reference = SOURCES["docker-v1"](tmp_path, image(BASE, TOP, BASE))
    write(reference, tmp_path / "out", form, keep_layers=True)
    assert list(files_of(tmp_path / "out").values()).count(BASE) == 1
    assert not [name for name in left(tmp_path) if ".dimgx" in name]
    with opened(reference_of(form, tmp_path / "out")) as found:
        assert [plain(one) for one in found.layers] == [BASE, TOP, BASE]


OCI_PATHS = [("oci-archive", "oci-dir", "oci-archive"), ("oci-dir", "oci-archive", "oci-dir")]


@pytest.mark.parametrize("path", OCI_PATHS)
@pytest.mark.parametrize("default", [None, "gzip", "zstd"])
def test_oci_to_oci_keeps_the_manifest(tmp_path: Path, path: Any, default: Any) -> None:
    oci_layout(tmp_path / "source", APP, default=default, changes={"annotations": {"a": "b"}})
    reference = f"oci:{tmp_path}/source"
    manifest = manifest_of(tmp_path / "source")
    for number, form in enumerate(path):
        place = tmp_path / f"{number}"
        write(reference, place, form, keep_layers=True)
        reference = reference_of(form, place)
        assert manifest_of(place) == manifest
    blobs = {n: d for n, d in files_of(tmp_path / "source").items() if n.startswith("blobs/")}
    assert {n: d for n, d in files_of(place).items() if n.startswith("blobs/")} == blobs


def test_layers_with_long_digests_keep_them(tmp_path: Path) -> None:
    oci_layout(tmp_path / "source", APP)
    index = json.loads((tmp_path / "source/index.json").read_bytes())
    manifest = manifest_of(tmp_path / "source")
    for each in manifest["layers"]:
        blob = (tmp_path / "source/blobs/sha256" / each["digest"][7:]).read_bytes()
        name = hashlib.sha512(blob).hexdigest()
        each["digest"] = f"sha512:{name}"
        write_files(tmp_path / "source", {f"blobs/sha512/{name}": blob})
    blob = json.dumps(manifest).encode()
    index["manifests"][0] |= {"digest": sha256(blob), "size": len(blob)}
    write_files(
        tmp_path / "source",
        {f"blobs/sha256/{sha256(blob)[7:]}": blob, "index.json": json.dumps(index).encode()},
    )
    for form in ("oci-archive", "oci-dir"):
        write(f"oci:{tmp_path}/source", tmp_path / form, form, keep_layers=True)
        assert manifest_of(tmp_path / form) == manifest
        assert flat(reference_of(form, tmp_path / form)) == flat(f"oci:{tmp_path}/source")


def test_docker_dir_there_and_back(tmp_path: Path) -> None:
    reference = SOURCES["dir"](tmp_path, APP)
    before = files_of(tmp_path / "source")
    write(reference, tmp_path / "same", "docker-dir", keep_layers=True)
    assert files_of(tmp_path / "same") == before
    write(reference, tmp_path / "oci", "oci-dir", keep_layers=True)
    assert manifest_of(tmp_path / "oci")["mediaType"] == (
        "application/vnd.oci.image.manifest.v1+json"
    )
    write(f"oci:{tmp_path}/oci", tmp_path / "back", "docker-dir", keep_layers=True)
    old, new = manifest_of(tmp_path / "source"), manifest_of(tmp_path / "back")
    assert new == old


def test_docker_archive_there_and_back(tmp_path: Path, app: str) -> None:
    write(app, tmp_path / "one", "docker-archive", keep_layers=True)
    write(f"{tmp_path}/one", tmp_path / "oci", "oci-dir", keep_layers=True)
    write(f"oci:{tmp_path}/oci", tmp_path / "dir", "docker-dir", keep_layers=True)
    write(f"dir:{tmp_path}/dir", tmp_path / "two", "docker-archive", keep_layers=True,
          names=["example/app:1.0"])  # fmt: skip
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()


def test_only_what_must_be_is_converted(tmp_path: Path) -> None:
    mixed = image(BASE, MIDDLE, TOP, compression=[None, "gzip", "zstd"])
    reference = SOURCES["oci"](tmp_path, mixed)
    write(reference, tmp_path / "dir", "docker-dir", keep_layers=True)
    before = [each["digest"] for each in manifest_of(tmp_path / "source")["layers"]]
    after = [each["digest"] for each in manifest_of(tmp_path / "dir")["layers"]]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False]
    write(reference, tmp_path / "gz", "oci-dir", keep_layers=True, layer_compression="gzip")
    after = [each["digest"] for each in manifest_of(tmp_path / "gz")["layers"]]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, False]
    odd = image(BASE, TOP, compression=["xz", "bzip2"])
    (tmp_path / "odd.tar").write_bytes(docker_archive(odd))
    write(f"{tmp_path}/odd.tar", tmp_path / "odd", "oci-dir", keep_layers=True)
    types = [each["mediaType"] for each in manifest_of(tmp_path / "odd")["layers"]]
    assert types == ["application/vnd.oci.image.layer.v1.tar+gzip"] * 2


@pytest.mark.parametrize(
    ("form", "verify"), [("docker-archive", "once"), ("oci-archive", "all"), ("oci-dir", "all")]
)
def test_a_layer_that_comes_again_is_checked_by_each_diff_id(
    tmp_path: Path, form: str, verify: str
) -> None:
    diff_ids = [sha256(BASE), f"sha256:{'0' * 64}"]
    picture = image(BASE, BASE, config={"rootfs": {"type": "layers", "diff_ids": diff_ids}})
    reference = SOURCES["oci"](tmp_path, picture)
    with pytest.raises(ImageError, match=r"layer 2/2 .* not sha256:000"):
        write(reference, tmp_path / "out", form, keep_layers=True, verify=verify)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("form", ["docker-archive", "oci-dir"])
def test_a_diff_id_of_another_algorithm_is_checked(
    tmp_path: Path, form: str, compression: Any
) -> None:
    for data in (TOP, BASE):
        diff_ids = [f"sha512:{hashlib.sha512(data).hexdigest()}"]
        config = {"rootfs": {"type": "layers", "diff_ids": diff_ids}}
        picture = image(BASE, compression=[compression], config=config)
        (tmp_path / "in.tar").write_bytes(docker_archive(picture))
        words = f"{tmp_path}/in.tar", tmp_path / "out", form
        if data == TOP:
            with pytest.raises(ImageError, match=r"layer 1/1 .*its tar: digest is sha512:"):
                write(*words, keep_layers=True)
    result = write(*words, keep_layers=True)
    assert [str(one.diff_id) for one in result.images[0].layers] == diff_ids


def test_one_blob_under_two_diff_ids(tmp_path: Path) -> None:
    """A config may say them in any algorithm; a docker-archive has the layer for each."""
    diff_ids = [sha256(BASE), f"sha512:{hashlib.sha512(BASE).hexdigest()}"]
    wanted = {"one": diff_ids[:1], "two": diff_ids[1:], "both": diff_ids}
    pictures = [
        image(*[BASE] * len(ids), tags=(f"{name}:1",),
              config={"rootfs": {"type": "layers", "diff_ids": ids}})
        for name, ids in wanted.items()
    ]  # fmt: skip
    source = oci_layout(tmp_path / "source", *pictures, default=None)
    images = [dimgx.open_image(f"oci:{source}:{name}:1", platform=PLATFORM) for name in wanted]
    write_images(images, tmp_path / "out", form="docker-archive", keep_layers=True)
    for name, ids in wanted.items():
        with dimgx.open_image(f"{tmp_path}/out:{name}:1", platform=PLATFORM) as found:
            assert [str(layer.diff_id) for layer in found.layers] == ids
        assert flat(f"{tmp_path}/out:{name}:1", verify="all") == flat(f"oci:{source}:{name}:1")


@pytest.mark.parametrize("stored", ["sha256", "sha512"])
def test_all_digests_of_a_plain_layer_are_checked(tmp_path: Path, stored: str) -> None:
    config = {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{'0' * 64}"]}}
    source = oci_layout(tmp_path / "source", image(BASE, config=config), default=None)
    manifest = manifest_of(source)
    (described,) = manifest["layers"]
    described["digest"] = f"{stored}:{hashlib.new(stored, BASE).hexdigest()}"
    blob = json.dumps(manifest).encode()
    listed = {"mediaType": manifest["mediaType"], "digest": sha256(blob), "size": len(blob)}
    write_files(source, {
        "blobs/" + described["digest"].replace(":", "/"): BASE,
        f"blobs/sha256/{sha256(blob)[7:]}": blob,
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode(),
    })  # fmt: skip
    with pytest.raises(ImageError, match=r"layer 1/1 .* not sha256:000"):
        write(f"oci:{source}", tmp_path / "out", "oci-dir", keep_layers=True, verify="all")
    with (
        dimgx.open_image(f"oci:{source}") as found,
        pytest.raises(ImageError, match=r"layer 1/1 .* not sha256:000"),
    ):
        dimgx.write_raw(found, tmp_path / "raw.tar", verify="all")
    assert os.listdir(tmp_path) == ["source"]


def test_no_more_of_a_kept_layer_is_checked_than_is_wanted(tmp_path: Path) -> None:
    diff_ids = [sha256(BASE), f"sha256:{'0' * 64}"]
    picture = image(BASE, TOP, config={"rootfs": {"type": "layers", "diff_ids": diff_ids}})
    reference = f"oci:{oci_layout(tmp_path / 'source', picture, default='gzip')}"
    write(reference, tmp_path / "once", "oci-dir", keep_layers=True)
    with pytest.raises(ImageError, match=r"layer 2/2 .* not sha256:000"):
        write(reference, tmp_path / "all", "oci-dir", keep_layers=True, verify="all")
    digest = manifest_of(tmp_path / "source")["layers"][1]["digest"]
    blob = tmp_path / "source/blobs" / digest.replace(":", "/")
    data = bytearray(blob.read_bytes())
    data[4] ^= 1  # a time, which says nothing of the tar
    blob.write_bytes(data)
    with pytest.raises(ImageError, match=r"layer 2/2 .* its blob: digest"):
        write(reference, tmp_path / "all", "oci-dir", keep_layers=True)
    write(reference, tmp_path / "none", "oci-dir", keep_layers=True, verify="none")
    assert flat(f"oci:{tmp_path}/none", verify="none") == flat(f"oci:{tmp_path}/once")


@pytest.mark.parametrize("form", FORMS)
def test_a_plain_layer_that_is_kept_is_what_the_config_says(tmp_path: Path, form: str) -> None:
    """Docker refuses to load such an image."""
    diff_ids = [sha256(BASE), f"sha256:{'0' * 64}"]
    picture = image(BASE, TOP, config={"rootfs": {"type": "layers", "diff_ids": diff_ids}})
    reference = f"oci:{oci_layout(tmp_path / 'source', picture, default=None)}"
    with pytest.raises(ImageError, match=r"layer 2/2 .* its tar: digest is .* not sha256:000"):
        write(reference, tmp_path / "out", form, keep_layers=True)
    write(reference, tmp_path / "out", form, keep_layers=True, verify="none")


@pytest.mark.parametrize("form", FORMS)
def test_config_without_rootfs(tmp_path: Path, form: str) -> None:
    picture = image(BASE, TOP, config={"rootfs": None})
    reference = SOURCES["oci"](tmp_path, picture)
    write(reference, tmp_path / "out", form, keep_layers=True)
    assert flat(reference_of(form, tmp_path / "out")) == flat(reference)


@pytest.mark.parametrize("source", ["docker-1.10", "docker-v1", "oci"])
@forms
def test_squashing_changes_no_tree(tmp_path: Path, form: str, source: str) -> None:
    reference = SOURCES[source](tmp_path, APP)
    rows = range(3) if source == "docker-v1" else range(4)
    for row in rows:
        result = write(reference, tmp_path / "out", form, squash_from=f"@{row}", force=row > 0)
        with opened(reference_of(form, tmp_path / "out"), verify="all") as found:
            kept = row if source == "docker-v1" else (row + 1) // 2
            tars = [plain(one) for one in found.layers]
            assert tars[:-1] == [BASE, MIDDLE, TOP][:kept]
            # A step without a layer stays, also where it is named itself.
            is_empty = source != "docker-v1" and "empty_layer" in HISTORY[row]
            assert len(found.history) == row + 1 + is_empty
            assert not found.history[-1].empty
            assert parse_origin(found.history[-1].comment or "").is_squashed
            assert "squashed" in (found.history[-1].created_by or "")
        assert [layer.diff_id for layer in result.images[0].layers] == [
            layer.diff_id for layer in found.layers
        ]
        assert flat(reference_of(form, tmp_path / "out")) == flat(reference)


def test_squashing_keeps_what_lies_below(tmp_path: Path) -> None:
    oci_layout(tmp_path / "source", APP)
    write(f"oci:{tmp_path}/source", tmp_path / "out", "oci-dir", squash_from="@2")
    old, new = manifest_of(tmp_path / "source"), manifest_of(tmp_path / "out")
    assert new["layers"][0] == old["layers"][0]
    history = config_of(f"oci:{tmp_path}/out")["history"]
    assert history[:2] == HISTORY[:2] and len(history) == 3


@pytest.mark.parametrize(
    ("spec", "problem"),
    [("@9", "no row of this image"), ("@4", "nothing is left"), ("@0:@1", "names 2 rows")],
)
def test_rows_that_nothing_is_squashed_from(
    tmp_path: Path, app: str, spec: str, problem: str
) -> None:
    with pytest.raises(LayerSpecError, match=problem):
        write(app, tmp_path / "out", "oci-dir", squash_from=spec)
    assert left(tmp_path) == ["source.tar"]


def test_odd_bytes_in_a_kept_config(tmp_path: Path) -> None:
    config = APP.config_json().replace(b"somebody", b"some\xffbody")
    config = config.replace(b'{"os"', b'{"id":"x","Parent":"y","os"')
    files = docker_members_with_config(config)
    (tmp_path / "in.tar").write_bytes(files)
    write(f"{tmp_path}/in.tar", tmp_path / "out", "docker-archive", keep_layers=True)
    written = files_of(tmp_path / "out")
    assert config in written.values(), "byte for byte"
    described = [json.loads(data) for name, data in written.items() if name.endswith("/json")]
    assert [one["id"] for one in described] == [
        name.partition("/")[0] for name in written if name.endswith("/json")
    ]
    assert [one.get("parent") for one in described] == [None, *(one["id"] for one in described[:2])]
    write(f"{tmp_path}/in.tar", tmp_path / "flat", "docker-archive")
    assert config_of(f"docker-archive:{tmp_path}/flat")["author"] == "some\ufffdbody"


def docker_members_with_config(config: bytes) -> bytes:
    """Give a docker-archive of APP whose config is another."""
    listed = [{"Config": "c", "RepoTags": ["a:1"], "Layers": ["0", "1", "2"]}]
    members = [file(str(n), data) for n, data in enumerate(APP.layers)]
    return layer(*members, file("c", config), file("manifest.json", json.dumps(listed)))


def test_a_layer_beyond_what_octal_digits_say() -> None:
    from dimgx.targets.archive import _header

    header = _header("a" * 64 + "/layer.tar", 9 << 30)
    assert len(header) == 512, "it fits the room that is kept for it"
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 << 30
