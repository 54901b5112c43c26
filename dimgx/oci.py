"""The nouns of an OCI image as values: descriptor, index, manifest, config, step of its history.

Docker's media types stand for the same things as OCI's. Whether a document is an index or a
manifest is told by its fields; a document that could be both is refused, as one reader would see
another image in it than the next.

Spec: image-spec descriptor.md, image-index.md, manifest.md, config.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from dimgx.digest import Digest
from dimgx.errors import ImageError
from dimgx.imagename import normal_name
from dimgx.jsondoc import Fields, parse_json
from dimgx.platforms import Platform, normal_platform

MANIFEST_LIMIT = 4 << 20
"""Most bytes of a manifest or an index, as registries have it."""
CONFIG_LIMIT = 16 << 20
"""Most bytes of a config, and of the index documents of archives."""

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
_DOCKER_REFERENCE_TYPE = "vnd.docker.reference.type"

INDEX_TYPES = frozenset(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
MANIFEST_TYPES = frozenset(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
CONFIG_TYPES = frozenset(
    (
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    )
)
# What tools write that do not know better; skopeo's dir: of an old image has the second.
_VAGUE_CONFIG_TYPES = (None, "application/octet-stream")
_LAYER_TYPE = re.compile(
    r"application/vnd\."
    r"(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar"
    r"|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar)"
    r"(?:[.+][A-Za-z0-9:._-]+)*"
)


class Descriptor(NamedTuple):
    """What points at a blob."""

    media_type: str | None
    digest: Digest
    size: int
    """Bytes of the blob."""
    annotations: Mapping[str, str] = MappingProxyType({})
    platform: Platform | None = None
    artifact_type: str | None = None
    """What it points at says that it is this, which is no image."""
    problem: ImageError | None = None
    """What is wrong with an entry of an index; its digest and size stand for nothing then."""

    @property
    def is_attestation(self) -> bool:
        """What it points at tells about an image, and is none."""
        return _DOCKER_REFERENCE_TYPE in self.annotations or (
            self.platform is not None
            and self.platform.os == self.platform.architecture == "unknown"
        )

    @property
    def is_tar_layer(self) -> bool:
        """The media type is one of a layer that is a tar, whatever its compression."""
        return not self.media_type or _LAYER_TYPE.fullmatch(self.media_type) is not None

    @property
    def is_encrypted(self) -> bool:
        """The media type says that only the holder of a key can read the layer."""
        return "+encrypted" in (self.media_type or "")

    @property
    def is_foreign(self) -> bool:
        """The layer may lie elsewhere than the image, as its licence has it."""
        return is_foreign_type(self.media_type)


class Index(NamedTuple):
    """A list of manifests."""

    manifests: tuple[Descriptor | None, ...]
    """In order; None stands for an entry that is neither an image nor an index."""


class Manifest(NamedTuple):
    """The config and the layers of one image for one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    """Base to top."""
    artifact_type: str | None = None
    """What it says that it is, which is no image."""
    media_type: str | None = None
    data: bytes = b""
    """The document itself."""

    @property
    def is_image(self) -> bool:
        """This is an image: no artifact, and no signature that looks like an image.

        cosign's signatures have an image's config, but no layer of theirs is a layer.
        """
        if self.artifact_type:
            return False
        has_layer = any(layer.is_tar_layer for layer in self.layers)
        if self.config.media_type in CONFIG_TYPES:
            return has_layer or not self.layers
        return has_layer and self.config.media_type in _VAGUE_CONFIG_TYPES

    @property
    def other_type(self) -> str | None:
        """The media type that tells what it is, where it is no image."""
        layers = (layer.media_type for layer in self.layers)
        types = (self.artifact_type, self.config.media_type, *layers)
        return next((one for one in types if one and one not in CONFIG_TYPES), None)


class HistoryStep(NamedTuple):
    """One step of an image's history, as its source tells it; rows are made of these."""

    empty: bool
    """No layer belongs to this step."""
    created: str | None = None
    """RFC 3339 as the source has it."""
    created_by: str | None = None
    comment: str | None = None
    author: str | None = None
    id: str | None = None
    """The step's own image ID where it has one, `sha256:<hex>` or bare hex as the source has it."""
    parent_id: str | None = None
    tags: tuple[str, ...] = ()
    size: int | None = None
    """Bytes that this step added, where the source states them."""


class Config(NamedTuple):
    """What an image's config says, as far as it matters for its root file system."""

    digest: Digest
    data: bytes
    """The document itself."""
    platform: Platform | None
    diff_ids: tuple[Digest, ...] | None
    """Digests of the uncompressed layers, base to top; None where the config has no rootfs."""
    history: tuple[HistoryStep, ...]
    """Base to top."""
    created: str | None = None
    author: str | None = None


def names_of(annotations: Mapping[str, str]) -> list[str]:
    """Give the names that the annotations of a layout's entry say: the full one, the tag.

    umoci copies the full name of what it made an image from, and only says the new tag, or name.
    """
    full, ref = annotations.get(CONTAINERD_NAME), annotations.get(REF_NAME)
    if full and ref and "@" not in full:
        tag = full.rpartition("/")[2].partition(":")[2]
        is_name = re.search("[:/]", ref) is not None
        is_same = normal_name(ref) == normal_name(full) if is_name else tag in (ref, "")
        full = full if is_same else None
    return [name for name in (full, ref) if name]


def is_foreign_type(media_type: str | None) -> bool:
    """Tell whether a layer of this media type may lie elsewhere than its image."""
    return ".nondistributable." in (media_type or "") or ".foreign." in (media_type or "")


def parse_platform_fields(fields: Fields) -> Platform | None:
    """Give the platform that stands in an object as os, architecture and variant."""
    os, architecture = fields.text("os"), fields.text("architecture")
    if not architecture:
        return None
    return normal_platform(os or "linux", architecture, fields.text("variant"))


def parse_descriptor(fields: Fields) -> Descriptor:
    """Give the descriptor that a JSON object spells.

    Raises: ImageError where digest or size are missing or malformed.
    """
    size, spelled = fields.integer("size"), fields.text("digest")
    if size is None or not spelled:
        raise ImageError(f"{fields.what}: {'size' if size is None else 'digest'} is missing")
    try:
        digest = Digest.parse(spelled)
    except ImageError as exc:
        raise ImageError(f"{fields.what}: {exc}") from None
    return _make_descriptor(fields, digest, size)


def _make_descriptor(
    fields: Fields, digest: Digest, size: int, problem: ImageError | None = None
) -> Descriptor:
    platform = fields.fields("platform")
    return Descriptor(
        media_type=fields.text("mediaType") or None,
        digest=digest,
        size=size,
        annotations=fields.text_mapping("annotations"),
        platform=None if platform is None else parse_platform_fields(platform),
        artifact_type=_artifact_type(fields),
        problem=problem,
    )


def _artifact_type(fields: Fields) -> str | None:
    """Give the type of an artifact, None where it is that of images or there is none."""
    found = fields.text("artifactType")
    return None if not found or found in CONFIG_TYPES else found


def parse_document(data: bytes, what: str, limit: int = MANIFEST_LIMIT) -> Index | Manifest:
    """Give the index or the manifest that `data` holds.

    Raises: ImageError where it is neither, or both, or of Docker's old schema 1.
    """
    fields = Fields(parse_json(data, what, limit), what)
    if fields.integer("schemaVersion") == 1 or "fsLayers" in fields:
        raise ImageError(
            f"{what} is of Docker's old schema 1, which is not read: convert the image first,"
            " as in `skopeo copy --format oci`"
        )
    has_layers = "layers" in fields or "config" in fields
    if fields.has("manifests") and has_layers:
        raise ImageError(f"{what} is an index and a manifest at once, which is not allowed")
    if has_layers:
        config = fields.fields("config")
        if config is None:
            raise ImageError(f"{what} names no config")
        return Manifest(
            config=parse_descriptor(config),
            layers=tuple(map(parse_descriptor, fields.objects("layers"))),
            artifact_type=_artifact_type(fields),
            media_type=fields.text("mediaType") or None,
            data=data,
        )
    if fields.has("manifests") or (fields.text("mediaType") or "") in INDEX_TYPES:
        return Index(tuple(map(_parse_entry, fields.objects("manifests"))))
    raise ImageError(f"{what} is neither an image manifest nor an index")


def _parse_entry(fields: Fields) -> Descriptor | None:
    media_type = fields.text("mediaType")
    if media_type and media_type not in INDEX_TYPES | MANIFEST_TYPES:
        return None
    try:
        return parse_descriptor(fields)
    except ImageError as exc:
        # Others in the index may be good. By its place it is not the same as another bad one.
        return _make_descriptor(fields, Digest("unknown", fields.what), 0, exc)


def parse_config(data: bytes, what: str) -> Config:
    """Give the config that `data` holds.

    Raises: ImageError where it is no JSON object or a field has the wrong type.
    """
    fields = Fields(parse_json(data, what, CONFIG_LIMIT), what)
    rootfs = fields.fields("rootfs")
    diff_ids = None
    if rootfs is not None and "diff_ids" in rootfs:
        spelled = rootfs.texts("diff_ids")
        try:
            diff_ids = tuple(map(Digest.parse, spelled))
        except ImageError as exc:
            raise ImageError(f"{rootfs.what}: diff_ids: {exc}") from None
    return Config(
        digest=Digest.of(data),
        data=data,
        platform=parse_platform_fields(fields),
        diff_ids=diff_ids,
        history=tuple(map(_parse_step, fields.objects("history"))),
        created=fields.text("created"),
        author=fields.text("author"),
    )


def _parse_step(fields: Fields) -> HistoryStep:
    return HistoryStep(
        empty=fields.boolean("empty_layer"),
        created=fields.text("created"),
        created_by=fields.text("created_by"),
        comment=fields.text("comment"),
        author=fields.text("author"),
    )
