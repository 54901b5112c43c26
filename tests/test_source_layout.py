from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dimgx.platforms import host_platform
from dimgx.sources import manifests
from tests.dsl import file, hardlink
from tests.opened import APP, ARM, BASE, OTHER, TOP, check, opened, problem, read, stored
from tests.programs import dimgx, refused
from tests.writers import (
    DOCKER,
    OCI,
    Compression,
    Json,
    add_blob,
    add_image,
    archive,
    dir_image,
    docker_members,
    image,
    oci_archive,
    oci_files,
    oci_layout,
    sha256,
    to_json,
    write_files,
)

GZIP = f"{OCI}.layer.v1.tar+gzip"
GONE = {"digest": "sha256:" + "3" * 64, "size": 7}
ATTESTATION = {
    "mediaType": f"{OCI}.manifest.v1+json",
    "digest": "sha256:" + "1" * 64,
    "size": 5,
    "platform": {"os": "unknown", "architecture": "unknown"},
    "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
}


@pytest.mark.parametrize("compression", [None, "gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("nested", [False, True])
def test_layouts(compression: Compression | None, nested: bool, tmp_path: Path) -> None:
    picture = replace(APP, compression=compression)
    directory = oci_layout(tmp_path / "x", picture, nested=nested, default=None)
    path = stored(tmp_path, oci_archive(picture, nested=nested, default=None))
    references = [
        f"oci:{directory}",
        str(directory),
        f"oci-archive:{directory}",
        f"dir:{directory}",
    ]
    references += [f"oci-archive:{path}", path, f"oci:{path}", f"docker-archive:{path}"]
    for reference in references:
        with opened(reference) as found:
            check(found, picture if not nested else replace(picture, tags=()))
            blobs = picture.blobs()
            assert [one.digest and one.digest.hex for one in found.layers] == list(
                map(sha256, blobs)
            )
            assert [one.size for one in found.layers] == list(map(len, blobs))
            assert [str(one.diff_id) for one in found.layers] == picture.diff_ids()
            assert found.id == f"sha256:{picture.id()}"
            assert found.digest is not None
    data = oci_archive(picture, nested=nested, archive_compression="gzip")
    assert read("-", data) == [BASE, TOP]


@pytest.mark.parametrize("docker_types", [False, True])
@pytest.mark.parametrize("version", [False, True])
def test_skopeos_dir(docker_types: bool, version: bool, tmp_path: Path) -> None:
    directory = dir_image(tmp_path / "x", APP, docker_types=docker_types, version=version)
    for word in ("dir:", "oci:", ""):
        with opened(f"{word}{directory}") as found:
            check(found, replace(APP, tags=()))
            assert found.digest is not None
            assert found.digest.hex == sha256((directory / "manifest.json").read_bytes())
    assert read(f"dir:{directory}:@0") == [BASE, TOP]
    assert "no image for linux/arm64" in problem(f"dir:{directory}", platform="linux/arm64")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"manifests": []}, "is an index that lists no image"),
        ({"manifests": [{"artifactType": "application/x"} | GONE]}, "no image, but application/x"),
        ({"config": GONE, "artifactType": "application/x"}, "but application/x in an image's form"),
    ],
)
def test_a_dir_that_is_no_image(document: Json, reason: str, tmp_path: Path) -> None:
    directory = write_files(tmp_path / "x", {"manifest.json": to_json(document)})
    assert reason in problem(f"dir:{directory}")


def test_a_dir_with_a_list(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    listed = [add_image(blobs, one) | {"platform": one.platform()} for one in (ARM, APP)]
    manifests = {entry["digest"][7:] for entry in listed}
    files = {f"{k}.manifest.json" if k in manifests else k: v for k, v in blobs.items()}
    files["manifest.json"] = to_json({"schemaVersion": 2, "manifests": listed})
    directory = write_files(tmp_path / "x", files)
    assert read(f"dir:{directory}") == [BASE, TOP]
    assert read(f"dir:{directory}", platform="linux/arm64") == [TOP, BASE]
    assert read(f"dir:{directory}:@sha256:{listed[0]['digest'][7:]}", platform=None) == [TOP, BASE]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("tags", [(), ("multi:1",)])
def test_platforms(nested: bool, tags: tuple[str, ...], tmp_path: Path) -> None:
    pictures = [replace(one, tags=tags) for one in (ARM, APP)]
    path = stored(tmp_path, oci_archive(*pictures, nested=nested))
    assert read(path) == [BASE, TOP]
    assert read(path, platform="linux/arm64/v8") == [TOP, BASE]
    text = problem(path, platform="linux/s390x")
    assert "no image for linux/s390x; there is linux/arm64, linux/amd64" in text


def test_the_platform_may_stand_in_the_config_only(tmp_path: Path) -> None:
    path = stored(
        tmp_path, oci_archive(replace(ARM, tags=()), replace(APP, tags=()), platforms=False)
    )
    assert read(path) == [BASE, TOP]
    assert read(path, platform="linux/arm64") == [TOP, BASE]


def test_the_first_of_equals_in_an_index_wins(tmp_path: Path) -> None:
    path = stored(tmp_path, oci_archive(OTHER, APP, nested=True))
    assert read(path) == [TOP]


def test_nameless_images_of_one_platform_need_a_choice(tmp_path: Path) -> None:
    pictures = [replace(one, tags=()) for one in (OTHER, APP)]
    path = stored(tmp_path, oci_archive(*pictures))
    ids = [one.id()[:12] for one in pictures]
    assert problem(path).endswith(
        f"holds 2 images, name one behind a colon: {ids[0]} (@0, linux/amd64),"
        f" {ids[1]} (@1, linux/amd64)"
    )
    assert read(path + ":@1") == read(f"{path}:{APP.id()[:20]}") == [BASE, TOP]
    assert read(f"{path}:any/name@sha256:{OTHER.id()}") == [TOP]


def test_nameless_images_of_which_one_says_no_platform_need_a_choice(tmp_path: Path) -> None:
    pictures = [replace(OTHER, tags=(), architecture=None), replace(APP, tags=())]
    text = problem(stored(tmp_path, oci_archive(*pictures, platforms=False)))
    assert f"behind a colon: {pictures[0].id()[:12]} (@0), {APP.id()[:12]} (@1," in text


def test_a_name_as_written_counts_before_a_completed_one(tmp_path: Path) -> None:
    pictures = replace(APP, tags=("x",)), replace(OTHER, tags=("x:latest",))
    path = stored(tmp_path, oci_archive(*pictures))
    assert read(f"{path}:x") == [BASE, TOP]
    assert read(f"{path}:x:latest") == [TOP]
    assert "'docker.io/x' fits 2 images" in problem(f"{path}:docker.io/x")


@pytest.mark.parametrize(
    ("ref", "layers"),
    [
        ("example/app:1.0", [BASE, TOP]),
        ("docker.io/example/app:1.0", [BASE, TOP]),
        ("example/other:2", [TOP]),
        ("@0", [BASE, TOP]),
        ("@1", [TOP]),
        (OTHER.id()[:8], [TOP]),
        (f"@sha256:{OTHER.id()}", [TOP]),
    ],
)
def test_several_images(ref: str, layers: list[bytes], tmp_path: Path) -> None:
    directory = oci_layout(tmp_path / "x", APP, OTHER)
    assert read(f"oci:{directory}:{ref}") == layers
    assert read(stored(tmp_path, oci_archive(APP, OTHER)) + f":{ref}") == layers


def test_several_images_need_a_choice(tmp_path: Path) -> None:
    directory = oci_layout(tmp_path / "x", APP, OTHER)
    for ref in ("", ":x", ":@7", ":@sha256:" + "0" * 64):
        text = problem(f"oci:{directory}{ref}")
        assert "example/app:1.0" in text and "example/other:2" in text and "@1" in text


def test_manifests_and_indexes_by_digest(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    inner = [add_image(blobs, one) | {"platform": one.platform()} for one in (APP, ARM)]
    index = to_json({"schemaVersion": 2, "manifests": inner})
    first = add_blob(blobs, index, f"{OCI}.index.v1+json")
    second = add_image(blobs, OTHER)
    path = f"oci:{layout(tmp_path, blobs, [first, second])}"
    assert read(f"{path}:@{first['digest']}") == [BASE, TOP]
    assert read(f"{path}:@{inner[1]['digest']}", platform=None) == [TOP, BASE]
    assert read(f"{path}:{inner[1]['digest'][7:20]}", platform=None) == [TOP, BASE]
    assert read(f"{path}:{ARM.id()}", platform=None) == [TOP, BASE]
    assert read(f"{path}:@{second['digest']}") == [TOP]
    assert "no image for linux/amd64" in problem(f"{path}:@{inner[1]['digest']}")
    assert "no image '@sha256:1" in problem(f"{path}:@sha256:1" + inner[1]["digest"][8:])
    outer = add_blob(blobs, to_json({"manifests": [first, second]}), f"{OCI}.index.v1+json")
    path = f"oci:{layout(tmp_path / 'y', blobs, [outer])}"
    for digest in (first["digest"], outer["digest"]):
        assert read(f"{path}:@{digest}") == [BASE, TOP]


def layout(tmp_path: Path, blobs: dict[str, bytes], listed: list[Json] | None, **more: Any) -> Path:
    files = {f"blobs/sha256/{digest}": data for digest, data in blobs.items()}
    files["index.json"] = to_json({"schemaVersion": 2, "manifests": listed} | more)
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    return write_files(tmp_path / "x", files)


def beside(tmp_path: Path, add: Callable[[dict[str, bytes]], Json], **notes: Any) -> str:
    """Give a layout with an image and what `add` lists beside it."""
    blobs: dict[str, bytes] = {}
    listed = [add(blobs) | notes, add_image(blobs, APP)]
    return f"oci:{layout(tmp_path, blobs, listed)}"


def cosign(blobs: dict[str, bytes]) -> Json:
    kind = "application/vnd.dev.cosign.simplesigning.v1+json"
    return add_image(blobs, OTHER, media_types=[kind])


def artifact(blobs: dict[str, bytes]) -> Json:
    empty = add_blob(blobs, b"{}", "application/vnd.oci.empty.v1+json")
    return add_image(blobs, OTHER, changes={"config": empty, "artifactType": "application/x"})


def test_what_lies_beside_the_image_is_passed_over(tmp_path: Path) -> None:
    gone = {"digest": "sha256:" + "2" * 64, "size": 7}
    kinds: list[Callable[[dict[str, bytes]], Json]] = [
        cosign,
        artifact,
        lambda _: dict(ATTESTATION),
        lambda _: {"mediaType": "application/x", **gone},
        lambda _: {"mediaType": "application/x", "digest": "nonsense", "size": "x"},
        lambda _: {"mediaType": f"{OCI}.manifest.v1+json", "artifactType": "application/x", **gone},
    ]
    for number, add in enumerate(kinds):
        (tmp_path / str(number)).mkdir()
        path = beside(tmp_path / str(number), add)
        assert read(path) == read(path + ":@1") == [BASE, TOP]
        assert "no image '@0'" in problem(path + ":@0")


def test_an_index_with_attestations(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    inner = [dict(ATTESTATION), add_image(blobs, APP) | {"platform": APP.platform()}]
    listed = [add_blob(blobs, to_json({"manifests": inner}), f"{OCI}.index.v1+json")]
    assert read(f"oci:{layout(tmp_path, blobs, listed)}", platform=None) == [BASE, TOP]


def test_only_other_things(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    path = layout(tmp_path, blobs, [cosign(blobs), artifact(blobs), dict(ATTESTATION)])
    kinds = "application/vnd.dev.cosign.simplesigning.v1+json, application/x"
    assert f"holds no image, but {kinds}" in problem(f"oci:{path}")


def helm_chart(blobs: dict[str, bytes]) -> Json:
    config = add_blob(blobs, b"{}", "application/vnd.cncf.helm.config.v1+json")
    return add_image(blobs, OTHER, changes={"config": config})


def octet_streams(blobs: dict[str, bytes]) -> Json:
    return add_image(blobs, OTHER, media_types=["application/octet-stream"])


def listed_artifact(blobs: dict[str, bytes]) -> Json:
    return add_image(blobs, OTHER) | {"artifactType": "application/vnd.x"}


@pytest.mark.parametrize(
    ("add", "kind"),
    [
        (helm_chart, "application/vnd.cncf.helm.config.v1+json"),
        (octet_streams, "application/octet-stream"),
        (listed_artifact, "application/vnd.x"),
    ],
)
def test_what_is_no_image_is_named(
    add: Callable[[dict[str, bytes]], Json], kind: str, tmp_path: Path
) -> None:
    blobs: dict[str, bytes] = {}
    path = layout(tmp_path, blobs, [add(blobs)])
    assert f"holds no image, but {kind}" in problem(f"oci:{path}")


def test_what_says_nothing_of_itself_is_no_image(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    document = to_json({"config": GONE, "layers": []})
    listed = [add_blob(blobs, document, f"{OCI}.manifest.v1+json")]
    assert problem(f"oci:{layout(tmp_path, blobs, listed)}").endswith("holds no image")


def test_an_image_may_be_listed_as_an_artifact_of_its_own_type(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    listed = [add_image(blobs, APP) | {"artifactType": f"{OCI}.config.v1+json"}]
    assert read(f"oci:{layout(tmp_path, blobs, listed)}") == [BASE, TOP]


def test_children_listed_beside_their_index(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    inner = [add_image(blobs, one) | {"platform": one.platform()} for one in (APP, ARM)]
    index = add_blob(blobs, to_json({"manifests": inner}), f"{OCI}.index.v1+json")
    named = index | {"annotations": {"org.opencontainers.image.ref.name": "app:1"}}
    path = f"oci:{layout(tmp_path, blobs, [*inner, named])}"
    assert read(path) == [BASE, TOP]
    assert read(path, platform="linux/arm64") == [TOP, BASE]
    inner[1]["annotations"] = {"org.opencontainers.image.ref.name": "app:1-arm"}
    path = f"oci:{layout(tmp_path / 'y', blobs, [*inner, named])}"
    assert read(path + ":app:1-arm", platform=None) == [TOP, BASE]
    assert "holds 2 images" in problem(path)


def test_one_image_under_two_names(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    entry = add_image(blobs, APP)
    names = [{"org.opencontainers.image.ref.name": name} for name in ("a", "b")]
    listed = [entry | {"annotations": name} for name in names]
    path = f"oci:{layout(tmp_path, blobs, listed)}"
    for ref in ("", ":a", ":b", ":@0", ":@1"):
        with opened(path + ref) as found:
            assert found.tags == ("a", "b")


def test_a_bad_entry_matters_only_when_it_is_chosen(tmp_path: Path) -> None:
    gone = {"mediaType": f"{OCI}.manifest.v1+json", "digest": "sha256:" + "3" * 64, "size": 7}
    notes = {"annotations": {"org.opencontainers.image.ref.name": "gone"}}
    path = beside(tmp_path, lambda _: gone | notes)
    assert "2 images" in problem(path)
    assert "33333 is missing" in problem(path + ":gone")
    assert read(path + ":@1") == [BASE, TOP]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"digest": "blake3:" + "0" * 64, "size": 3}, "blake3 is not known"),
        ({"digest": "sha256:00", "size": 3}, "64 lower-case hex digits"),
        ({"digest": "sha256:" + "0" * 64}, "size is missing"),
        ({"digest": "sha256:" + "0" * 64, "size": -1}, "size is no integer of 0 or more"),
    ],
)
def test_an_entry_that_points_at_nothing(entry: Json, reason: str, tmp_path: Path) -> None:
    entry |= {"mediaType": f"{OCI}.manifest.v1+json"}
    notes = {"annotations": {"org.opencontainers.image.ref.name": "bad"}}
    listed = [entry | notes, entry]
    path = f"oci:{oci_layout(tmp_path / 'x', APP, extra=listed)}"
    assert read(path + ":example/app:1.0") == read(path + ":@2") == [BASE, TOP]
    assert re.search(r"3 images, .*: bad \(-, @0\), - \(@1\), example", problem(path))
    assert reason in problem(path + ":bad") and reason in problem(path + ":@1")
    platform = {"platform": {"os": "linux", "architecture": "s390x"}}
    path = f"oci:{oci_layout(tmp_path / 'y', APP, nested=True, extra=[entry | platform])}"
    assert read(path) == [BASE, TOP]
    assert reason in problem(path, platform="linux/s390x")
    path = f"oci:{oci_layout(tmp_path / 'z', APP, nested=True, extra=[entry])}"
    told = problem(path, platform="linux/s390x")
    assert re.search(rf"no image for .*; there is unknown, linux/\w+ \([^(]*{reason}", told)


def test_the_only_platform_that_is_stored(tmp_path: Path) -> None:
    """`docker save` of an image whose index lists more than was pulled."""
    blobs: dict[str, bytes] = {}
    here = add_image(blobs, ARM) | {"platform": ARM.platform()}
    gone = {"mediaType": f"{OCI}.manifest.v1+json", "digest": "sha256:" + "3" * 64, "size": 7}
    platforms = [{"os": "linux", "architecture": a} for a in ("amd64", "386", "riscv64", "s390x")]
    inner = [gone | {"platform": platform} for platform in platforms] + [here]
    listed = [add_blob(blobs, to_json({"manifests": inner}), f"{OCI}.index.v1+json")]
    path = f"oci:{layout(tmp_path, blobs, listed)}"
    with opened(path, platform=None) as found:
        assert str(found.platform) == "linux/arm64"
    assert "but does not hold it; it holds linux/arm64" in problem(path, platform="linux/s390x")
    assert dimgx("--platforms", path).stdout == b"linux/arm64\n"
    assert dimgx("--platforms", "--platform", "arm64", path).returncode == 0
    assert dimgx("--platforms", "--platform", "s390x", path, ok=False).returncode == 2


def test_what_is_wrong_with_another_platform_does_not_matter(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    entry = add_image(blobs, ARM) | {"platform": ARM.platform()}
    del blobs[ARM.id()]
    path = f"oci:{layout(tmp_path, blobs, [entry])}"
    assert "no image for linux/s390x; there is linux/arm64" in problem(path, platform="s390x")
    assert f"{ARM.id()} is missing" in problem(path, platform=None)


def test_several_platforms_are_stored_but_not_this_machines(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    own = host_platform()._asdict()
    gone = {"mediaType": f"{OCI}.manifest.v1+json", "digest": "sha256:" + "3" * 64, "size": 7}
    inner = [gone | {"platform": own}]
    for os in ("aix", "zos"):
        inner.append(add_image(blobs, ARM) | {"platform": {"os": os, "architecture": "s390x"}})
    listed = [add_blob(blobs, to_json({"manifests": inner}), f"{OCI}.index.v1+json")]
    text = problem(f"oci:{layout(tmp_path, blobs, listed)}", platform=None)
    assert "but does not hold it; it holds aix/s390x, zos/s390x" in text


def test_no_platform_is_stored(tmp_path: Path) -> None:
    gone = {"mediaType": f"{OCI}.manifest.v1+json", "digest": "sha256:" + "3" * 64, "size": 7}
    path = f"oci:{layout(tmp_path, {}, [gone | {'platform': APP.platform()}])}"
    assert "33333 is missing" in problem(path)
    assert b"holds none of the images" in dimgx("--platforms", path, ok=False).stderr


def test_platforms_that_one_format_of_an_archive_leaves_out(tmp_path: Path) -> None:
    """`ctr image export --all-platforms`: Docker's manifest.json has one of them."""
    members = docker_members(APP, vintage="25", index=False)
    files = {member.name.decode(): member.data for member in members if member.kind == "f"}
    files |= oci_files(APP, replace(ARM, tags=APP.tags), default=None)
    path = f"docker-archive:{write_files(tmp_path / 'x', files)}"
    assert dimgx("--platforms", path).stdout == b"linux/amd64\nlinux/arm64\n"
    assert dimgx("--platforms", "--platform", "arm64", path).returncode == 0
    assert read(path, platform="arm64") == [TOP, BASE]
    assert "there is linux/amd64, linux/arm64" in problem(path, platform="s390x")


def test_a_lower_variant_counts_after_the_very_one_in_another_format(tmp_path: Path) -> None:
    low, high = (replace(APP, architecture="arm", variant=v, layers=[BASE]) for v in ("v6", "v7"))
    high = replace(high, layers=[TOP])
    members = docker_members(low, vintage="25", index=False)
    files = {member.name.decode(): member.data for member in members if member.kind == "f"}
    files |= oci_files(high, default=None)
    path = f"docker-archive:{write_files(tmp_path / 'x', files)}"
    for platform, expected in (("arm/v6", BASE), ("arm/v7", TOP)):
        assert read(path, platform=platform) == [expected]


def test_an_image_that_says_no_platform_is_there_for_any(tmp_path: Path) -> None:
    path = stored(tmp_path, oci_archive(replace(APP, architecture=None), platforms=False))
    assert dimgx("--platforms", path).stdout == b""
    assert dimgx("--platforms", "--platform", "arm64", path).returncode == 0
    assert read(path, platform="arm64") == [BASE, TOP]


@pytest.mark.parametrize("depth", [1, 7, 8, 50])
def test_nested_indexes(depth: int, tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    entry = add_image(blobs, APP)
    for _ in range(depth):
        entry = add_blob(blobs, to_json({"manifests": [entry]}), f"{OCI}.index.v1+json")
    path = f"oci:{layout(tmp_path, blobs, [entry])}"
    if depth < 9:
        assert read(path) == [BASE, TOP]
    else:
        assert "nested deeper" in problem(path)


def test_one_image_in_two_indexes(tmp_path: Path) -> None:
    """It stays the only one, which is taken on any machine."""
    blobs: dict[str, bytes] = {}
    entry = add_image(blobs, ARM)
    inner = [
        add_blob(blobs, to_json({"manifests": [entry], "x": k}), f"{OCI}.index.v1+json")
        for k in range(2)
    ]
    listed = [*inner, entry, entry]
    outer = add_blob(blobs, to_json({"manifests": listed}), f"{OCI}.index.v1+json")
    path = f"oci:{layout(tmp_path, blobs, [outer])}"
    with opened(path, platform=None) as found:
        assert "the image is for linux/arm64" in found.warnings[0]


def test_documents_that_are_many_bytes_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "_MOST_BYTES", 80_000)
    blobs: dict[str, bytes] = {}
    entries = [add_image(blobs, image(BASE, config={"x": str(k) * 9000})) for k in range(10)]
    assert "lists more than 80000 bytes" in problem(f"oci:{layout(tmp_path, blobs, entries)}")
    path = f"oci:{layout(tmp_path / 'y', blobs, entries[:9])}"
    assert read(f"{path}:{entries[8]['digest']}") == [BASE]


def test_documents_that_are_bad_are_not_kept(tmp_path: Path) -> None:
    """One file has any number of names in an archive."""
    data = bytes(1 << 20)
    files = [file("blobs/sha256/" + "0" * 64, data)]
    entries = []
    for k in range(1, 50):
        files.append(hardlink(f"blobs/sha256/{k:064x}", files[0].name))
        entry = {"mediaType": f"{OCI}.manifest.v1+json", "digest": f"sha256:{k:064x}"}
        entries.append(entry | {"size": len(data)})
    files.append(file("index.json", to_json({"manifests": entries})))
    files.append(file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'))
    path = stored(tmp_path, archive(files))
    tracemalloc.start()
    try:
        assert "holds 49 images" in problem(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10 << 20


def test_an_index_that_lists_itself(tmp_path: Path) -> None:
    """It cannot have its own digest, but with --verify none nobody looks."""
    own = {"mediaType": f"{OCI}.index.v1+json", "digest": "sha256:" + "4" * 64}
    text = to_json({"manifests": [own | {"size": 1000}] * 1}).ljust(1000)
    path = f"oci:{layout(tmp_path, {'4' * 64: text}, [own | {'size': 1000}])}"
    assert "does not match its digest" in problem(path)
    assert "nested deeper" in problem(path, verify="none")


def test_an_index_that_branches_endlessly(tmp_path: Path) -> None:
    blobs: dict[str, bytes] = {}
    entries = [add_image(blobs, APP)]
    for level in range(7):
        entries = [
            add_blob(
                blobs, to_json({"manifests": entries, "x": [level, k]}), f"{OCI}.index.v1+json"
            )
            for k in range(10)
        ]
    assert "lists more than" in problem(f"oci:{layout(tmp_path, blobs, entries)}")


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (None, "oci-layout is missing"),
        ("2.0.0", "version '2.0.0' is not known"),
        ("", "imageLayoutVersion is missing"),
    ],
)
def test_oci_layout_must_fit(version: str | None, reason: str, tmp_path: Path) -> None:
    assert reason in problem(f"oci:{oci_layout(tmp_path / 'x', APP, version=version)}")
    assert reason in problem(stored(tmp_path, oci_archive(APP, version=version)))


def test_index_json_must_be_there(tmp_path: Path) -> None:
    directory = oci_layout(tmp_path / "x", APP)
    (directory / "index.json").write_bytes(b'{"schemaVersion":2,"manifests":null}')
    assert problem(f"oci:{directory}") == f"{directory} holds no image"
    manifest = {"config": {"digest": "sha256:" + "0" * 64, "size": 3}}
    (directory / "index.json").write_bytes(to_json(manifest))
    assert "index.json is no index" in problem(f"oci:{directory}")
    (directory / "index.json").unlink()
    assert "index.json is missing" in problem(f"oci:{directory}")


def edited(tmp_path: Path, edit: Callable[[Json], object], **options: Any) -> str:
    """Give a layout whose manifest `edit` has changed, with digests that fit."""
    blobs: dict[str, bytes] = {}
    entry = add_image(blobs, APP, "gzip", **options)
    manifest = json.loads(blobs.pop(entry["digest"][7:]))
    edit(manifest)
    listed = [add_blob(blobs, to_json(manifest), f"{OCI}.manifest.v1+json")]
    return f"oci:{layout(tmp_path, blobs, listed)}"


def set_layer(**values: Any) -> Callable[[Json], object]:
    return lambda manifest: manifest["layers"][0].update(values)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (
            set_layer(mediaType=f"{OCI}.layer.v1.squashfs"),
            f"it is no tar: its media type is '{OCI}.layer.v1.squashfs'",
        ),
        (
            set_layer(mediaType=GZIP + "+encrypted"),
            "it is encrypted: decrypt the image first, as in `skopeo copy --decryption-key`",
        ),
        (
            set_layer(digest="sha256:" + "5" * 64),
            "its blob is missing: pull or copy it again",
        ),
        (
            set_layer(
                digest="sha256:" + "5" * 64,
                mediaType=f"{OCI}.layer.nondistributable.v1.tar+gzip",
            ),
            "it is not stored with the image, as its licence has it (a foreign layer)",
        ),
    ],
)
def test_a_layer_that_cannot_be_read_can_be_listed(
    edit: Callable[[Json], object], reason: str, tmp_path: Path
) -> None:
    path = edited(tmp_path, edit)
    with opened(path) as found:
        assert len(found.layers) == 2
        assert found.layers[0].media_type
        digest = found.layers[0].digest
    directory = path.removeprefix("oci:")
    told = f"dimgx: layer 1/2 {digest}: {directory}: {reason}\n"
    assert refused(path, "-t", "-") == (2, told)


def test_a_foreign_layer_that_is_stored(tmp_path: Path) -> None:
    kind = f"{DOCKER}.image.rootfs.foreign.diff.tar.gzip"
    assert read(edited(tmp_path, set_layer(mediaType=kind))) == [BASE, TOP]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m["layers"].pop(), "config has 2 layers, but the manifest lists 1"),
        (set_layer(digest="sha256:../../../etc/passwd"), "digest"),
        (set_layer(digest="md5:" + "0" * 32), "not known"),
        (lambda m: m["config"].update(digest="sha256:" + "6" * 64), "66666 is missing"),
        (lambda m: m["config"].update(size=1), "not 1 as stated"),
        (lambda m: m["config"].update(size=1 << 30), "at most 16777216 are read"),
        (lambda m: m.update(manifests=[]), "at once"),
        (lambda m: m.update(schemaVersion=1), "schema 1"),
    ],
)
def test_a_manifest_that_is_wrong(
    edit: Callable[[Json], object], reason: str, tmp_path: Path
) -> None:
    assert reason in problem(edited(tmp_path, edit))


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_blobs_must_match_their_digests(what: str, tmp_path: Path) -> None:
    directory = oci_layout(tmp_path / "x", APP)
    for path in (directory / "blobs/sha256").iterdir():
        data = path.read_bytes()
        if data.startswith(b"{") and (b'"rootfs"' in data) == (what == "config"):
            path.write_bytes(
                data.replace(b"2024-01-01", b"2025-01-01").replace(b"tar+gz", b"tar+GZ")
            )
    assert "does not match its digest" in problem(f"oci:{directory}")
    with opened(f"oci:{directory}", verify="none") as found:
        assert len(found.layers) == 2


def test_a_config_without_rootfs_and_platform(tmp_path: Path) -> None:
    picture = replace(APP, config={"rootfs": None, "history": None}, os=None, architecture=None)
    path = f"oci:{oci_layout(tmp_path / 'x', picture, platforms=False)}"
    with opened(path, platform=None) as found:
        assert [one.diff_id for one in found.layers] == [None, None]
        assert found.history == () and found.platform is None


def test_no_layers(tmp_path: Path) -> None:
    assert read(f"oci:{oci_layout(tmp_path / 'x', image(tags=()))}") == []


def test_a_windows_image_is_refused_by_name(tmp_path: Path) -> None:
    picture = replace(APP, os="windows")
    directory = oci_layout(tmp_path / "x", picture)
    assert "Windows" in problem(f"oci:{directory}", platform=None)
    blobs: dict[str, bytes] = {}
    listed = [add_image(blobs, picture) | {"platform": APP.platform()}]
    assert "Windows" in problem(f"oci:{layout(tmp_path / 'y', blobs, listed)}")


def test_docker_schema_1_is_refused_by_name(tmp_path: Path) -> None:
    directory = write_files(
        tmp_path / "x", {"manifest.json": b'{"schemaVersion":1,"fsLayers":[],"history":[]}'}
    )
    assert "schema 1" in problem(f"dir:{directory}")
