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
from dimgx.jsondoc import Fields, parse_json
from dimgx.oci import CONTAINERD_NAME, MANIFEST_LIMIT, REF_NAME, parse_config
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
    from collections.abc import Mapping

    from dimgx.codec import Compression
    from dimgx.images.layerparts import Part, StoredLayer
    from dimgx.images.resultnames import ResultName
    from dimgx.targets.store import Store


_KEYS = ("schemaversion", "mediatype", "manifests")
"""Those of an index that are written anew, in small letters."""


class OciForm:
    """An OCI layout that is being written."""

    kept: ClassVar[frozenset[Compression | None]] = frozenset((None, "gzip", "zstd"))
    has_manifest: ClassVar[bool] = True
    has_engine_names: ClassVar[bool] = False

    def __init__(self, store: Store, index: tuple[bytes, str] | None = None) -> None:
        """What the document `index` lists stays, but for what has the name of a new image.

        It comes with what people call it.

        Raises: ImageError where it is malformed.
        """
        self._said: dict[str, object] = {}
        self._kept: list[object] = []
        if index is not None:
            self._said, self._kept = _read_index(*index)
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
            self._kept = [old for old in self._kept if not _is_replaced(old, notes, digest)]
            tag = notes.get(REF_NAME)
            if tag in tags.union(_notes_of(old).get(REF_NAME) for old in self._kept):
                notes.pop(REF_NAME, None)
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
        index = self._said | {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.index.v1+json",
            "manifests": [*self._kept, *self._listed],
        }
        return {"index.json": dump(index)}


def _read_index(data: bytes, what: str) -> tuple[dict[str, object], list[object]]:
    """Give what an index lists, as it is spelled, and what else it says."""
    value = parse_json(data, what, MANIFEST_LIMIT)
    fields = Fields(value, what)
    for entry in fields.objects("manifests"):
        entry.text("digest")
        entry.mapping("annotations")
    assert isinstance(value, dict)
    said = {key: item for key, item in value.items() if key.lower() not in _KEYS}
    return said, [one for one in fields.items("manifests") if one is not None]


def _notes_of(descriptor: object) -> Mapping[str, str]:
    return Fields(descriptor, "a descriptor").text_mapping("annotations")


def _is_replaced(old: object, notes: Mapping[str, str], digest: Digest) -> bool:
    """Tell whether what is listed has the name of a new image, or is that image without one."""
    named = _notes_of(old)
    for key in (CONTAINERD_NAME, REF_NAME):
        if key in named and key in notes:
            return named[key] == notes[key]
    return not (named or notes) and Fields(old, "a descriptor").text("digest") == str(digest)


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
