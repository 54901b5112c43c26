from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dimgx
from tests import programs
from tests.dsl import Member, file, hardlink, symlink
from tests.opened import APP, ARM, BASE, OTHER, TOP, check, opened, problem, read, stored
from tests.writers import (
    Compression,
    Picture,
    Vintage,
    archive,
    docker_archive,
    docker_archive_v1,
    docker_members,
    image,
    renamed,
    sha256,
    to_json,
    write_files,
)

VINTAGES: list[Vintage] = ["1.10", "digest.tar", "25", "29"]
vintages = pytest.mark.parametrize("vintage", VINTAGES)


@vintages
@pytest.mark.parametrize("compression", [None, "gzip", "zstd", "xz", "bzip2"])
def test_archives_of_every_vintage(
    vintage: Vintage, compression: Compression | None, tmp_path: Path
) -> None:
    data = docker_archive(APP, vintage=vintage, archive_compression=compression)
    for reference in ("docker-archive:" + stored(tmp_path, data), stored(tmp_path, data)):
        with opened(reference) as found:
            check(found, APP)
            assert found.id == f"sha256:{APP.id()}"
            assert found.reference == reference
            assert [str(one.diff_id) for one in found.layers] == APP.diff_ids()
            assert [step.created_by for step in found.history] == ["step 0", "step 1"]
            assert found.warnings == ()
    assert read("-", data) == [BASE, TOP]


@vintages
@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz", "bzip2"])
def test_layers_of_every_compression(
    vintage: Vintage, compression: Compression, tmp_path: Path
) -> None:
    picture = replace(APP, compression=compression)
    path = stored(tmp_path, docker_archive(picture, vintage=vintage))
    assert read(path) == [BASE, TOP]


@pytest.mark.parametrize("vintage", ["25", "29"])
def test_content_addressed_layers_have_digests(vintage: Vintage, tmp_path: Path) -> None:
    with opened(stored(tmp_path, docker_archive(APP, vintage=vintage))) as found:
        blobs = APP.blobs("gzip" if vintage == "29" else None)
        assert [one.digest and one.digest.hex for one in found.layers] == list(map(sha256, blobs))


@pytest.mark.parametrize("vintage", ["25", "29"])
def test_manifest_is_that_of_the_layout_beside(vintage: Vintage, tmp_path: Path) -> None:
    data = docker_archive(OTHER, APP, vintage=vintage)
    path = stored(tmp_path, data)
    with (
        opened(f"docker-archive:{path}:example/app:1.0") as found,
        opened(f"oci-archive:{path}:example/app:1.0") as other,
    ):
        assert found.manifest is not None and other.manifest is not None
        assert found.manifest.data == other.manifest.data
        assert found.digest == other.digest
        assert [one._replace(blob=None) for one in found.layers] == [
            one._replace(blob=None) for one in other.layers
        ]
    programs.dimgx(
        "--keep-layers", "--format=oci-dir", "-t", tmp_path / "out", f"{path}:example/app:1.0"
    )
    (entry,) = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]
    assert entry["digest"] == str(found.digest)


def test_manifest_of_other_blobs_is_not_taken(tmp_path: Path) -> None:
    """The layout has the same config, but its layers compressed."""
    members = docker_members(APP, vintage="25")
    others = docker_members(APP, vintage="29")
    index = [m for m in others if m.name == b"index.json"]
    with opened(stored(tmp_path, archive([*others, *members, *index]))) as found:
        assert (found.manifest, found.digest) == (None, None)
        assert [str(one.digest) for one in found.layers] == APP.diff_ids()


@vintages
@pytest.mark.parametrize(
    "options",
    [
        {"manifest_last": False},
        {"lower_keys": True},
        {"prefix": "./"},
        {"prefix": "/"},
        {"index": False},
        {"links": False},
    ],
    ids=str,
)
def test_odd_but_usual(vintage: Vintage, options: dict[str, Any], tmp_path: Path) -> None:
    with opened(stored(tmp_path, docker_archive(APP, vintage=vintage, **options))) as found:
        check(found, APP)


@vintages
@pytest.mark.parametrize("prefix", [b"./", b"/", b".//"])
def test_members_names_may_begin_oddly(vintage: Vintage, prefix: bytes, tmp_path: Path) -> None:
    members = renamed(docker_members(APP, vintage=vintage), lambda name: prefix + name)
    assert read(stored(tmp_path, archive(members))) == [BASE, TOP]


@vintages
def test_an_unpacked_archive_is_read_too(vintage: Vintage, tmp_path: Path) -> None:
    members = docker_members(APP, vintage=vintage)
    files = {m.name.decode(): m.data for m in members if m.kind == "f"}
    assert read(f"docker-archive:{write_files(tmp_path / 'x', files)}") == [BASE, TOP]


def test_suffixes_lie(tmp_path: Path) -> None:
    data = docker_archive(APP, archive_compression="zstd")
    assert read(stored(tmp_path, data, "x.tar.gz")) == [BASE, TOP]
    assert read(stored(tmp_path, docker_archive(APP), "x.tgz")) == [BASE, TOP]


@vintages
def test_one_layer_listed_twice(vintage: Vintage, tmp_path: Path) -> None:
    picture = image(BASE, TOP, BASE)
    assert read(stored(tmp_path, docker_archive(picture, vintage=vintage))) == [BASE, TOP, BASE]


@vintages
def test_no_layers(vintage: Vintage, tmp_path: Path) -> None:
    assert read(stored(tmp_path, docker_archive(image(tags=()), vintage=vintage))) == []


@vintages
@pytest.mark.parametrize(
    ("ref", "picture"),
    [
        ("example/app:1.0", APP),
        ("docker.io/example/app:1.0", APP),
        ("example/other:2", OTHER),
        ("@0", APP),
        ("@1", OTHER),
        (APP.id(), APP),
        (APP.id()[:12], APP),
        (f"sha256:{OTHER.id()}", OTHER),
        (f"@sha256:{OTHER.id()}", OTHER),
        (f"example/other@sha256:{OTHER.id()}", OTHER),
    ],
)
def test_several_images(vintage: Vintage, ref: str, picture: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, docker_archive(APP, OTHER, vintage=vintage))
    for word in ("docker-archive:", "oci-archive:", ""):
        with opened(f"{word}{path}:{ref}") as found:
            assert found.id == f"sha256:{picture.id()}"


@vintages
def test_several_images_need_a_choice(vintage: Vintage, tmp_path: Path) -> None:
    path = stored(tmp_path, docker_archive(APP, OTHER, vintage=vintage))
    refs = ["", ":nothing", ":@2", ":@sha256:" + "0" * 64, ":example/app", ":fedcba98"]
    for ref in [*refs, f":example/app@sha256:{OTHER.id()}"]:
        text = problem(path + ref)
        assert "digits" not in text
        for part in (
            "example/app:1.0",
            "example/other:2",
            APP.id()[:12],
            "@0",
            "@1",
            "linux/amd64",
        ):
            assert part in text


def test_a_name_that_cannot_be_shown_as_it_is(tmp_path: Path) -> None:
    path = stored(tmp_path, docker_archive(replace(APP, tags=("a\nb:1",)), OTHER))
    assert f"'a\\nb:1' ({APP.id()[:12]}, @0, linux/amd64), example/other:2 (" in problem(path)


def test_one_image_under_two_names(tmp_path: Path) -> None:
    for vintage in VINTAGES:
        picture = image(BASE, tags=("a:1", "b:2"))
        path = stored(tmp_path, docker_archive(picture, vintage=vintage))
        for ref in ("", ":a:1", ":b:2"):
            with opened(path + ref) as found:
                assert set(found.tags) >= {"a:1", "b:2"}


def test_one_image_in_two_entries(tmp_path: Path) -> None:
    members = docker_members(APP)
    entries = json.loads(members[-2].data)
    entries.append(entries[0] | {"RepoTags": ["b:2"]})
    members[-2] = file("manifest.json", to_json(entries))
    path = stored(tmp_path, archive(members))
    for ref in ("", ":b:2", ":@0", ":@1"):
        with opened(path + ref) as found:
            assert found.tags == ("example/app:1.0", "b:2")


def test_latest_and_library_may_be_left_out(tmp_path: Path) -> None:
    pictures = image(BASE, tags=("busybox:latest",)), image(TOP, tags=("docker.io/library/x:1",))
    path = stored(tmp_path, docker_archive(*pictures))
    for ref in ("busybox", "library/busybox", "docker.io/busybox:latest"):
        assert read(f"{path}:{ref}") == [BASE]
    assert read(f"{path}:x:1") == [TOP]


def test_a_name_as_written_counts_before_an_id(tmp_path: Path) -> None:
    named = image(TOP, tags=(APP.id()[:7],))
    path = stored(tmp_path, docker_archive(APP, named, vintage="digest.tar"))
    assert read(f"{path}:{APP.id()[:7]}") == [TOP]


@pytest.mark.parametrize("v1", [False, True])
def test_a_few_digits_are_a_tag_and_no_id(v1: bool, tmp_path: Path) -> None:
    path = stored(tmp_path, docker_archive_v1(APP) if v1 else docker_archive(APP))
    with opened(path) as found:
        id = (found.id or "").removeprefix("sha256:")
    for few in (id[:1], id[:6]):
        assert f"no image '{few}'" in problem(f"{path}:{few}")
        assert "of an ID has 7 digits or more" in problem(f"{path}:{few}")
        # What stands before a colon is a name.
        assert f"no image 'app:{few}'" in problem(f"{path}:app:{few}")
    for start in (id[:7], f"sha256:{id[:1]}", id):
        assert read(f"{path}:{start}") == [BASE, TOP]


def test_an_ambiguous_id_lists_whom_it_fits(tmp_path: Path) -> None:
    pictures = [image(BASE, tags=(f"n:{k}",), config={"x": k}) for k in range(17)]
    first = [picture.id()[0] for picture in pictures]
    twice = next(digit for digit in first if first.count(digit) > 1)
    text = problem(stored(tmp_path, docker_archive(*pictures)) + ":sha256:" + twice)
    assert f"fits {first.count(twice)} images" in text


def test_the_platform_of_a_single_image(tmp_path: Path) -> None:
    path = stored(tmp_path, docker_archive(ARM))
    with opened(path, platform=None) as found:
        assert str(found.platform) == "linux/arm64"
    assert "no image for linux/amd64; there is linux/arm64" in problem(path)
    assert read(path, platform="linux/aarch64") == [TOP, BASE]


def test_platforms_of_one_name(tmp_path: Path) -> None:
    for vintage in VINTAGES:
        path = stored(tmp_path, docker_archive(APP, ARM, vintage=vintage))
        assert read(path, platform="linux/amd64") == [BASE, TOP]
        assert read(path + ":example/app:1.0", platform="linux/arm64") == [TOP, BASE]


def test_an_image_that_does_not_say_its_platform(tmp_path: Path) -> None:
    path = stored(tmp_path, docker_archive(replace(APP, os=None, architecture=None)))
    with opened(path, platform=None) as found:
        assert found.platform is None and found.warnings == ()
    with opened(path, platform="linux/arm64") as found:
        assert "does not say its platform" in found.warnings[0]


def test_a_windows_image_is_refused_by_name(tmp_path: Path) -> None:
    path = stored(tmp_path, docker_archive(replace(APP, os="windows")))
    assert "Windows" in problem(path, platform=None)
    assert "no image for linux/amd64" in problem(path)


def changed(vintage: Vintage, change: Callable[[list[Member]], list[Member]]) -> bytes:
    return archive(change(docker_members(APP, vintage=vintage)))


def edit_manifest(members: list[Member], **values: Any) -> list[Member]:
    return [
        file("manifest.json", to_json([json.loads(m.data)[0] | values]))
        if m.name == b"manifest.json"
        else m
        for m in members
    ]


def with_parents(directory: Path, *pictures: Picture, parents: dict[int, int]) -> str:
    """Store an archive of `pictures`, some of which name another as their parent."""
    members = docker_members(*pictures)
    entries = json.loads(next(m.data for m in members if m.name == b"manifest.json"))
    for child, parent in parents.items():
        entries[child]["Parent"] = f"sha256:{pictures[parent].id()}"
    return stored(directory, archive([*members, file("manifest.json", to_json(entries))]))


def test_ancestors_in_the_archive_name_their_steps(tmp_path: Path) -> None:
    base, middle = image(BASE, tags=("base:1",)), image(BASE, TOP, tags=())
    top = image(BASE, TOP, BASE)
    path = with_parents(tmp_path, top, base, middle, parents={0: 2, 2: 1})
    with opened(path + ":@0") as found:
        ids = [f"sha256:{base.id()}", f"sha256:{middle.id()}", None]
        assert [step.id for step in found.history] == ids
        assert [step.tags for step in found.history] == [("base:1",), (), ()]
    path = with_parents(tmp_path, base, APP, parents={0: 1, 1: 1})
    assert read(path + ":@1") == [BASE, TOP]


@pytest.mark.parametrize("history", [[], [{"created_by": "another"}], [{}] * 2, [{}] * 3])
def test_a_parent_whose_history_is_no_beginning_names_no_step(
    history: list[Any], tmp_path: Path
) -> None:
    parent = image(BASE, tags=(), history=history)
    child = image(BASE, TOP, history=[{}, {}])
    with opened(with_parents(tmp_path, parent, child, parents={1: 0}) + ":@1") as found:
        assert [step.id for step in found.history] == [None, None]


@pytest.mark.parametrize("link", [symlink, hardlink])
def test_layers_that_are_links(link: Any, tmp_path: Path) -> None:
    path = f"{sha256(TOP)}.tar"
    members = docker_members(APP, vintage="digest.tar")
    target = "1/layer.tar" if link is hardlink else "./1/layer.tar"
    moved = [m.but(name=b"1/layer.tar") if m.name == path.encode() else m for m in members]
    assert read(stored(tmp_path, archive([*moved, link(path, target)]))) == [BASE, TOP]
    assert read(stored(tmp_path, archive([link(path, target), *moved]))) == [BASE, TOP]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"Layers": ["../../../etc/passwd", "x"]}, "outside"),
        ({"Layers": ["/../x", "y"]}, "outside|missing"),
        ({"Layers": ["gone.tar", "gone.tar"]}, "gone.tar' is missing"),
        ({"Layers": []}, "2 layers, but manifest.json lists 0"),
        ({"Layers": "x"}, "no list"),
        ({"Layers": [1, 2]}, "list of strings"),
        ({"Config": "gone.json"}, "gone.json' is missing"),
        ({"Config": "../x"}, "outside"),
        ({"Config": ""}, "no Config"),
        ({"Config": None}, "no Config"),
        ({"Config": 1}, "no string"),
        ({"RepoTags": "x"}, "no list"),
        ({"Config": "manifest.json"}, "no JSON object"),
    ],
)
def test_a_manifest_that_is_wrong(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    data = changed("digest.tar", lambda members: edit_manifest(members, **values))
    assert re.search(reason, problem(stored(tmp_path, data)))


@vintages
@pytest.mark.parametrize("layers", [(1, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("index", [True, False])
def test_nothing_but_the_config_says_which_layers_there_are(
    vintage: Vintage, layers: tuple[int, int], index: bool, tmp_path: Path
) -> None:
    """Other layers, or another order, are refused, whatever names the archive gives them."""
    members = docker_members(APP, vintage=vintage, index=index)
    found = next(m for m in members if m.name == b"manifest.json")
    paths = json.loads(found.data)[0]["Layers"]
    members = edit_manifest(members, Layers=[paths[i] for i in layers])
    path = stored(tmp_path, archive(members))
    with (
        dimgx.open_image(f"docker-archive:{path}") as opened_image,
        pytest.raises(dimgx.ImageError, match="its tar: digest is"),
    ):
        dimgx.flatten(opened_image, tmp_path / "flat.tar")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b"[" * 99_999, b'"x"', b"\xff\xfe[", b"[null]"]
)
def test_a_manifest_that_is_malformed(text: bytes, tmp_path: Path) -> None:
    data = changed("digest.tar", lambda members: [*members, file("manifest.json", text)])
    assert "manifest.json" in problem(stored(tmp_path, data))


def test_a_bad_config_matters_only_to_its_image(tmp_path: Path) -> None:
    members = docker_members(APP, OTHER, vintage="digest.tar")
    members.append(file(f"{OTHER.id()}.json", b"{"))
    path = stored(tmp_path, archive(members))
    assert read(path + ":example/app:1.0") == [BASE, TOP]
    assert "not valid JSON" in problem(path + ":example/other:2")
    with pytest.raises(dimgx.ImageError, match="not valid JSON"):
        dimgx.list_platforms(path + ":example/other:2")


def test_configs_that_are_bad_are_not_kept(tmp_path: Path) -> None:
    """One file has any number of names in an archive."""
    members = [file("0", bytes(1 << 20)), *(hardlink(f"{k}", "0") for k in range(1, 50))]
    entries = [{"Config": f"{k}", "Layers": [], "RepoTags": [f"app:{k}"]} for k in range(50)]
    path = stored(tmp_path, archive([*members, file("manifest.json", to_json(entries))]))
    tracemalloc.start()
    try:
        assert re.search("holds 50 images, .*, 38 more$", problem(path))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10 << 20


def test_an_edited_config_is_warned_of(tmp_path: Path) -> None:
    members = docker_members(APP, vintage="digest.tar")
    members.append(file(f"{APP.id()}.json", APP.config_json() + b" "))
    path = stored(tmp_path, archive(members))
    with opened(path) as found:
        assert "edited" in found.warnings[0]
    with opened(path, verify="none") as found:
        assert found.warnings == ()


def test_a_config_blob_must_match_its_digest(tmp_path: Path) -> None:
    members = docker_members(APP, vintage="25", index=False)
    members.append(file(f"blobs/sha256/{APP.id()}", APP.config_json() + b" "))
    path = stored(tmp_path, archive(members))
    assert "does not match its digest" in problem(path)
    assert read(path, verify="none") == [BASE, TOP]


def test_a_config_without_rootfs_needs_blob_digests(tmp_path: Path) -> None:
    picture = replace(APP, config={"rootfs": None})
    assert read(stored(tmp_path, docker_archive(picture, vintage="25", index=False))) == [BASE, TOP]
    assert "nothing guards" in problem(stored(tmp_path, docker_archive(picture)))


def test_a_foreign_layer_that_is_not_stored(tmp_path: Path) -> None:
    foreign = {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}
    members = [m for m in docker_members(APP) if m.kind != "f" or m.data != BASE]
    members = edit_manifest(members, LayerSources={APP.diff_ids()[0]: foreign})
    path = stored(tmp_path, archive(members))
    assert "is not stored with the image, as its licence has it" in problem(path)
    with opened(path) as found:
        assert found.layers[0].media_type == foreign["mediaType"]
        assert found.layers[0].blob.size is None


@pytest.mark.parametrize("text", [b'{"manifests":null}', b'{"manifests":[]}', b"", b"{", b"[]"])
@pytest.mark.parametrize("word", ["", "docker-archive:", "oci-archive:"])
def test_a_bad_index_beside_a_good_manifest(text: bytes, word: str, tmp_path: Path) -> None:
    data = changed("25", lambda members: [*members, file("index.json", text)])
    assert read(word + stored(tmp_path, data)) == [BASE, TOP]


@pytest.mark.parametrize("word", ["", "docker-archive:", "oci-archive:"])
def test_a_bad_manifest_beside_a_good_index(word: str, tmp_path: Path) -> None:
    data = changed("25", lambda members: [*members, file("manifest.json", b"[]")])
    assert read(word + stored(tmp_path, data)) == [BASE, TOP]


def test_the_word_picks_the_index_of_a_hybrid(tmp_path: Path) -> None:
    members = docker_members(APP, vintage="25")
    others = docker_members(OTHER, vintage="25")
    index = [m for m in others if m.name == b"index.json"]
    path = stored(tmp_path, archive([*others, *members, *index]))
    assert read("docker-archive:" + path) == read(path) == [BASE, TOP]
    assert read("oci-archive:" + path) == read("oci:" + path) == [TOP]
    assert read(path + ":example/other:2") == [TOP]
    assert read("oci-archive:" + path + ":example/app:1.0") == [BASE, TOP]


def test_a_hybrid_without_oci_layout(tmp_path: Path) -> None:
    members = [m for m in docker_members(APP, vintage="25") if m.name != b"oci-layout"]
    assert read("oci-archive:" + stored(tmp_path, archive(members))) == [BASE, TOP]
