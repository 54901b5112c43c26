"""An OCI layout, in a directory or an archive.

An image is listed once for each of its names: `io.containerd.image.name` has all of it, as Docker
and containerd write it, `org.opencontainers.image.ref.name` the tag, by which skopeo and umoci ask.
Of several names with one tag only the first has that: umoci takes no tag that is there twice. Each
name is one image's.

Spec: image-spec image-layout.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from dimgx.digest import Digest
from dimgx.imagename import ImageName
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
        store.put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        self._blobs = Blobs(store, "blobs")
        self._images: dict[Digest, _Listed] = {}

    def add_layer(self, part: Part) -> StoredLayer:
        """Store a layer."""
        return self._blobs.add_layer(part)

    def add_image(self, image: MadeImage) -> Digest:
        """Store config and manifest; what comes again is listed once, with all of its names.

        A name of an image before it is this one's from now on.
        """
        manifest, config_digest = make_manifest(image, is_oci=True)
        digest = Digest.of(manifest)
        self._blobs.put(config_digest, image.config)
        self._blobs.put(digest, manifest)
        descriptor = describe(manifest_type(is_oci=True), digest, len(manifest))
        for other in self._images.values():
            other.names[:] = [name for name in other.names if name not in image.names]
        new = _Listed(descriptor, _platform(image.config), image.record, [])
        self._images.setdefault(digest, new).names.extend(image.names)
        return digest

    def finish(self) -> dict[str, bytes]:
        """Give the index."""
        index = self._said | {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.index.v1+json",
            "manifests": self._list_all(),
        }
        return {"index.json": dump(index)}

    def _list_all(self) -> list[object]:
        """Give the descriptors of all images, those that stay first."""
        new = [
            (digest, name, _annotations(name))
            for digest, image in self._images.items()
            for name in image.names or (None,)
        ]
        kept = self._kept
        for digest, _, notes in new:
            kept = [old for old in kept if not _is_replaced(old, notes, digest)]
        tags = {_notes_of(old).get(REF_NAME) for old in kept}
        # A tag that is all of a name comes before one that is a part of it.
        tags.update(str(name) for _, name, _ in new if isinstance(name, LayoutName))
        for _, name, notes in new:
            if isinstance(name, ImageName):
                tag = notes[REF_NAME]
                if tag in tags:
                    del notes[REF_NAME]
                tags.add(tag)
        return [*kept, *(self._images[digest].describe(notes) for digest, _, notes in new)]


class _Listed(NamedTuple):
    """An image that is to be listed, once for each of its names."""

    descriptor: dict[str, object]
    platform: dict[str, str]
    record: str | None
    names: list[ResultName]

    def describe(self, notes: dict[str, str]) -> dict[str, object]:
        """Give its descriptor, annotated."""
        if self.record is not None:
            notes = notes | {RECORD_NOTE: self.record}
        return (
            self.descriptor
            | ({"annotations": notes} if notes else {})
            | ({"platform": self.platform} if self.platform else {})
        )


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
