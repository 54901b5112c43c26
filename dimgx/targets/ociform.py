"""An OCI layout, in a directory or an archive.

An image is listed once for each of its names: `io.containerd.image.name` has all of it, as Docker
and containerd write it, `org.opencontainers.image.ref.name` the tag, by which skopeo and umoci ask.
Of several names with one tag only the first has that: umoci takes no tag that is there twice.

Spec: image-spec image-layout.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dimgx.digest import Digest
from dimgx.images.imageconfig import dump
from dimgx.images.resultnames import LayoutName
from dimgx.oci import CONTAINERD_NAME, REF_NAME, parse_config
from dimgx.targets.forms import (
    OCI,
    RECORD_NOTE,
    Blobs,
    MadeImage,
    describe,
    make_manifest,
    manifest_type,
)

if TYPE_CHECKING:
    from dimgx.codec import Compression
    from dimgx.images.layerparts import Part, StoredLayer
    from dimgx.images.resultnames import ResultName
    from dimgx.targets.store import Store


class OciForm:
    """An OCI layout that is being written."""

    kept: ClassVar[frozenset[Compression | None]] = frozenset((None, "gzip", "zstd"))
    has_manifest: ClassVar[bool] = True
    has_engine_names: ClassVar[bool] = False

    def __init__(self, store: Store) -> None:
        self._store = store
        store.put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        self._blobs = Blobs(store, "blobs")
        self._listed: list[dict[str, object]] = []

    def add_layer(self, part: Part) -> StoredLayer:
        """Store a layer."""
        return self._blobs.add_layer(part)

    def add_image(self, image: MadeImage) -> Digest:
        """Store config and manifest, and list the image."""
        manifest, config_digest = make_manifest(image, is_oci=True)
        digest = Digest.of(manifest)
        self._blobs.put(config_digest, image.config)
        self._blobs.put(digest, manifest)
        descriptor = describe(manifest_type(is_oci=True), digest, len(manifest))
        platform = _platform(image.config)
        tags: set[str | None] = set()
        for name in image.names or (None,):
            notes = _annotations(name)
            tag = notes.get(REF_NAME)
            if tag in tags:
                del notes[REF_NAME]
            tags.add(tag)
            if image.record is not None:
                notes[RECORD_NOTE] = image.record
            self._listed.append(
                descriptor
                | ({"annotations": notes} if notes else {})
                | ({"platform": platform} if platform else {})
            )
        return digest

    def finish(self) -> dict[str, bytes]:
        """Give the index."""
        index = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.index.v1+json",
            "manifests": self._listed,
        }
        return {"index.json": dump(index)}


def _annotations(name: ResultName | None) -> dict[str, str]:
    if name is None:
        return {}
    if isinstance(name, LayoutName):
        return {REF_NAME: name}
    return {CONTAINERD_NAME: str(name), REF_NAME: name.tag or "latest"}


def _platform(config: bytes) -> dict[str, str]:
    platform = parse_config(config, "the config").platform
    if platform is None:
        return {}
    variant = {"variant": platform.variant} if platform.variant else {}
    return {"architecture": platform.architecture, "os": platform.os} | variant
