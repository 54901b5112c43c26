"""An OCI layout, in a directory or an archive.

1. An image is listed once for each of its names: `io.containerd.image.name` has all of it, as
   Docker and containerd write it, `org.opencontainers.image.ref.name` the tag, by which skopeo and
   umoci ask. Of several names with one tag only the first has that, since umoci takes no tag that
   is there twice; for the others it is the full name, as in what Podman saves. A tag that is all of
   a name comes before one that is a part of it.
2. A name is one image's, or that of several for different platforms: then it is listed for an index
   of these.

Spec: image-spec image-layout.md, image-index.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from dimgx.digest import Digest
from dimgx.imagename import ImageName, normal_name
from dimgx.images.imageconfig import dump
from dimgx.images.resultnames import LayoutName, is_tag_alone
from dimgx.jsondoc import Fields, parse_json
from dimgx.oci import CONTAINERD_NAME, MANIFEST_LIMIT, REF_NAME, names_of, parse_config
from dimgx.platforms import differ
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
    from collections.abc import Mapping, Sequence

    from dimgx.codec import Compression
    from dimgx.images.layerparts import Part, StoredLayer
    from dimgx.images.resultnames import ResultName
    from dimgx.platforms import Platform
    from dimgx.targets.store import Store


INDEX_TYPE = f"{OCI}.index.v1+json"
"""The media type of an index."""
_KEYS = ("schemaversion", "mediatype", "manifests")
"""Those of an index that are written anew, in small letters."""


class OciForm:
    """An OCI layout that is being written."""

    kept: ClassVar[frozenset[Compression | None]] = frozenset((None, "gzip", "zstd"))
    has_manifest: ClassVar[bool] = True
    has_names: ClassVar[bool] = True
    has_engine_names: ClassVar[bool] = False
    has_indexes: ClassVar[bool] = True

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
        self._images: dict[tuple[Digest, Platform | None], _Listed] = {}
        """By manifest and platform: an index may list one manifest for several."""

    def add_layer(self, part: Part) -> StoredLayer:
        """Store a layer."""
        return self._blobs.add_layer(part)

    def add_image(self, image: MadeImage) -> Digest:
        """Store config and manifest; what comes again is listed once, with all of its names."""
        manifest, config_digest = make_manifest(image, is_oci=True)
        digest = Digest.of(manifest)
        self._blobs.put(config_digest, image.config)
        self._blobs.put(digest, manifest)
        descriptor = describe(manifest_type(is_oci=True), digest, len(manifest))
        own = parse_config(image.config, "the config").platform
        new = _Listed(descriptor, own, image.platform or own, image.record, [])
        key = digest, new.source_platform
        self._images.setdefault(key, new).names.extend(image.names)
        return digest

    def finish(self) -> dict[str, bytes]:
        """Give the index."""
        return {"index.json": dump(self._said | make_index(self._list_all()))}

    def _list_all(self) -> list[object]:
        """Give the descriptors of all images, those that stay first."""
        new = [(self._one_of(images), name, _annotations(name)) for images, name in self._group()]
        kept = self._kept
        for one, name, _ in new:
            kept = [old for old in kept if not _is_replaced(old, name, one)]
        tags = {str(name) for _, name, _ in new if isinstance(name, LayoutName)}
        kept = [_without_tag(old) if _notes_of(old).get(REF_NAME) in tags else old for old in kept]
        tags.update(_notes_of(old).get(REF_NAME, "") for old in kept)
        for _, name, notes in new:
            if isinstance(name, ImageName):
                if notes[REF_NAME] in tags:
                    notes[REF_NAME] = str(name)
                tags.add(notes[REF_NAME])
        return [*kept, *(one.describe(notes) for one, _, notes in new)]

    def _group(self) -> list[tuple[list[_Listed], ResultName | None]]:
        """Give the images of each name, in order; those without one as far as platforms differ."""
        groups: list[tuple[list[_Listed], ResultName | None]] = []
        for image in self._images.values():
            for name in dict.fromkeys(image.names) or (None,):
                for group, its_name in groups:
                    if name == its_name and all(image.differs(other) for other in group):
                        group.append(image)
                        break
                else:
                    groups.append(([image], name))
        return groups

    def _one_of(self, images: Sequence[_Listed]) -> _Listed:
        """Give what is listed of one image, or of several: an index of them, which is stored."""
        if len(images) == 1:
            return images[0]
        each = (image._replace(platform=image.source_platform) for image in images)
        data = dump(make_index([image.describe({}) for image in each]))
        digest = Digest.of(data)
        self._blobs.put(digest, data)
        return _Listed(describe(INDEX_TYPE, digest, len(data)), None, None, None, [])


class _Listed(NamedTuple):
    """An image that is to be listed, once for each of its names, or an index."""

    descriptor: dict[str, object]
    platform: Platform | None
    """By its config."""
    source_platform: Platform | None
    """By what its source lists it for, which tells variants that configs leave out."""
    record: str | None
    names: list[ResultName]

    def differs(self, other: _Listed) -> bool:
        """Tell whether the two are told apart by their platforms."""
        return differ(self.source_platform, other.source_platform)

    def describe(self, notes: dict[str, str]) -> dict[str, object]:
        """Give its descriptor, annotated."""
        if self.record is not None:
            notes = notes | {RECORD_NOTE: self.record}
        return (
            self.descriptor
            | ({"annotations": notes} if notes else {})
            | ({"platform": _platform(self.platform)} if self.platform else {})
        )


def make_index(manifests: list[object]) -> dict[str, object]:
    """Give an index that lists these descriptors, and says no more."""
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}


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


def _is_replaced(old: object, name: ResultName | None, new: _Listed) -> bool:
    """Tell whether what is listed has the name of a new image, or is that image without one."""
    known = next(iter(names_of(_notes_of(old))), None)
    if name is None or known is None:
        digest = Fields(old, "a descriptor").text("digest")
        return name is known and digest == new.descriptor["digest"]
    if isinstance(name, ImageName) and not is_tag_alone(known):
        known = normal_name(known)
    return known == str(name)


def _without_tag(old: object) -> object:
    """Give what is listed with its full name alone, as its tag is all of another's name."""
    assert isinstance(old, dict)
    # The last of several spellings counts, as in `Fields`.
    *_, key = (key for key in old if key.lower() == "annotations")
    return old | {key: old[key] | {REF_NAME: old[key][CONTAINERD_NAME]}}


def _annotations(name: ResultName | None) -> dict[str, str]:
    if name is None:
        return {}
    if isinstance(name, LayoutName):
        return {REF_NAME: name}
    return {CONTAINERD_NAME: str(name), REF_NAME: name.tag or "latest"}


def _platform(platform: Platform) -> dict[str, str]:
    variant = {"variant": platform.variant} if platform.variant else {}
    return {"architecture": platform.architecture, "os": platform.os} | variant
