from __future__ import annotations

import json
from typing import Any

import pytest

from dimgx.digest import Digest
from dimgx.errors import ImageError
from dimgx.oci import Descriptor, Index, Manifest, parse_config, parse_document

HEX = "ab" * 32
OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
LAYER = f"{OCI}.layer.v1.tar"


def descriptor(media_type: str | None = None, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{HEX}", "size": 3} | more


def document(**fields: Any) -> Index | Manifest:
    return parse_document(json.dumps({"schemaVersion": 2} | fields).encode(), "doc")


def manifest(config: str | None, *layers: str | None, **more: Any) -> Manifest:
    found = document(config=descriptor(config), layers=[descriptor(t) for t in layers], **more)
    assert isinstance(found, Manifest)
    return found


@pytest.mark.parametrize(
    ("media_type", "is_layer"),
    [
        (None, True),
        ("", True),
        (LAYER, True),
        (f"{LAYER}+gzip", True),
        (f"{LAYER}+zstd", True),
        (f"{LAYER}+zstd:chunked", True),
        (f"{LAYER}+gzip+encrypted", True),
        (f"{OCI}.layer.nondistributable.v1.tar+gzip", True),
        (f"{DOCKER}.image.rootfs.diff.tar", True),
        (f"{DOCKER}.image.rootfs.diff.tar.gzip", True),
        (f"{DOCKER}.image.rootfs.foreign.diff.tar.gzip", True),
        (f"{OCI}.layer.v1.erofs", False),
        (f"{OCI}.layer.v1.squashfs", False),
        (f"{OCI}.layer.nydus.blob.v1", False),
        (f"{LAYER}gzip", False),
        ("application/vnd.dev.cosign.simplesigning.v1+json", False),
        ("application/vnd.in-toto+json", False),
        ("application/octet-stream", False),
        (f"x{LAYER}", False),
    ],
)
def test_media_types_of_layers(media_type: str | None, is_layer: bool) -> None:
    assert Descriptor(media_type, Digest.of(b""), 0).is_tar_layer is is_layer


CONFIG = f"{OCI}.config.v1+json"
COSIGN = "application/vnd.dev.cosign.simplesigning.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
IS_IMAGE = [
    ("oci", manifest(CONFIG, LAYER), True),
    ("docker", manifest(f"{DOCKER}.container.image.v1+json", f"{LAYER}+gzip"), True),
    ("no layers", manifest(CONFIG), True),
    ("old skopeo dir", manifest("application/octet-stream", LAYER), True),
    ("no media types", manifest(None, None), True),
    ("one odd layer", manifest(CONFIG, LAYER, COSIGN), True),
    ("cosign", manifest(CONFIG, COSIGN), False),
    ("artifact", manifest(EMPTY, LAYER), False),
    ("artifact type", manifest(CONFIG, LAYER, artifactType="application/x"), False),
    ("image as artifact type", manifest(CONFIG, LAYER, artifactType=CONFIG), True),
    ("empty type", manifest("", LAYER), True),
    ("vague and empty", manifest("application/octet-stream"), False),
]


@pytest.mark.parametrize(("found", "expected"), [pytest.param(*c[1:], id=c[0]) for c in IS_IMAGE])
def test_what_is_an_image(found: Manifest, expected: bool) -> None:
    assert found.is_image is expected


def test_entries_of_unknown_media_types_keep_their_place() -> None:
    found = document(
        manifests=[
            {"mediaType": "application/x", "digest": "../../etc/passwd"},
            descriptor(f"{OCI}.manifest.v1+json"),
            descriptor(f"{DOCKER}.distribution.manifest.list.v2+json"),
            descriptor(),
        ]
    )
    assert isinstance(found, Index)
    assert [entry is None for entry in found.manifests] == [True, False, False, False]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (descriptor(platform={"os": "unknown", "architecture": "unknown"}), True),
        (descriptor(annotations={"vnd.docker.reference.type": "attestation-manifest"}), True),
        (descriptor(platform={"os": "linux", "architecture": "amd64"}), False),
        (descriptor(), False),
    ],
)
def test_attestations(entry: dict[str, Any], expected: bool) -> None:
    found = document(manifests=[entry])
    assert isinstance(found, Index) and found.manifests[0] is not None
    assert found.manifests[0].is_attestation is expected


@pytest.mark.parametrize("value", [{"manifests": None}, {"mediaType": f"{OCI}.index.v1+json"}])
def test_an_index_may_list_nothing(value: dict[str, Any]) -> None:
    assert document(**value) == Index(())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "neither"),
        ({"schemaVersion": 1, "fsLayers": []}, "schema 1"),
        ({"fsLayers": []}, "schema 1"),
        ({"schemaVersion": 1, "config": descriptor(), "layers": []}, "schema 1"),
        ({"manifests": [], "layers": [descriptor()]}, "at once"),
        ({"manifests": [], "config": descriptor()}, "at once"),
        ({"layers": [descriptor()]}, "no config"),
        ({"config": descriptor(), "layers": {}}, "no list"),
        ({"config": descriptor(), "layers": [1]}, "no JSON object"),
        ({"config": descriptor(), "layers": [None]}, "size is missing"),
        ({"config": descriptor(size=-1)}, "size"),
        ({"config": descriptor(size="3")}, "size"),
        ({"config": descriptor(size=None)}, "size is missing"),
        ({"config": descriptor(digest=None)}, "doc: config: digest is missing"),
        ({"config": descriptor(digest=1)}, "^doc: config: digest is no string$"),
        ({"config": descriptor(mediaType=1)}, "^doc: config: mediaType is no string$"),
        ({"config": descriptor(digest="sha256:../../x")}, "digest"),
        ({"config": descriptor(digest=f"md5:{HEX}")}, "not known"),
        ({"config": descriptor(digest=f"sha256:{HEX.upper()}")}, "hex digits"),
        ({"config": descriptor(platform=[])}, "no JSON object"),
    ],
)
def test_malformed_documents(value: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as raised:
        document(**value)
    assert str(raised.value).startswith("doc")


def test_a_config_without_anything() -> None:
    found = parse_config(b"{}", "doc")
    assert (found.platform, found.diff_ids, found.history) == (None, None, ())
    assert found.digest == Digest.of(b"{}")


def test_a_config_with_everything() -> None:
    value = {
        "architecture": "arm64",
        "variant": "v8",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{HEX}"]},
        "history": [{"created_by": "x", "empty_layer": True, "comment": "c"}, {"author": "me"}],
        "created": "2024-01-01T00:00:00Z",
    }
    found = parse_config(json.dumps(value).encode(), "doc")
    assert str(found.platform) == "linux/arm64"
    assert found.diff_ids == (Digest("sha256", HEX),)
    assert [(s.empty, s.created_by, s.author) for s in found.history] == [
        (True, "x", None),
        (False, None, "me"),
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "doc is no JSON object"),
        ({"rootfs": []}, "doc: rootfs is no JSON object"),
        (
            {"rootfs": {"diff_ids": ["x"]}},
            "doc: rootfs: diff_ids: 'x' is not a digest (as in sha256:<64 hex digits>)",
        ),
        ({"rootfs": {"diff_ids": "x"}}, "doc: rootfs: diff_ids is no list"),
        ({"history": {}}, "doc: history is no list"),
        ({"history": [1]}, "doc: history[0] is no JSON object"),
        ({"history": [{"empty_layer": 1}]}, "doc: history[0]: empty_layer is no boolean"),
        ({"os": 1, "architecture": "x"}, "doc: os is no string"),
    ],
)
def test_malformed_configs(value: Any, reason: str) -> None:
    with pytest.raises(ImageError) as raised:
        parse_config(json.dumps(value).encode(), "doc")
    assert str(raised.value) == reason
