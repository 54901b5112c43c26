"""The forms of an image: which files it has, whatever they are put in.

1. A form takes layers first and then the images that are made of them; a layer that comes again
   is stored once.
2. A manifest is made where none is given that fits as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

from dimgx.digest import Digest
from dimgx.images.imageconfig import dump

if TYPE_CHECKING:
    from dimgx.codec import Compression
    from dimgx.images.layerparts import Part, StoredLayer
    from dimgx.images.resultnames import ResultName
    from dimgx.oci import Manifest
    from dimgx.platforms import Platform
    from dimgx.targets.store import Store

FormName = Literal["docker-archive", "oci-archive", "oci-dir", "docker-dir"]

RECORD_NOTE = "dimgx.origin"
"""The annotation of a record that no config has; in manifest.json of an archive a key."""
RECORD_FILE = "dimgx.origin.json"
"""The same in a `dir:`, whose manifest has to stay what it is."""
OCI, DOCKER = "application/vnd.oci.image", "application/vnd.docker"
_LAYER_SUFFIXES: dict[Compression | None, tuple[str, str]] = {
    None: ("", ""),
    "gzip": ("+gzip", ".gzip"),
    "zstd": ("+zstd", ".zstd"),
}


def usual_layer_compression(form: str) -> Literal["gzip", "none"]:
    """Give how the layers that are made for a form are compressed where nothing is said."""
    return "gzip" if form in ("oci-archive", "oci-dir") else "none"


class MadeImage(NamedTuple):
    """An image whose layers are stored."""

    config: bytes
    layers: tuple[StoredLayer, ...]
    """Base to top."""
    names: tuple[ResultName, ...]
    manifest: Manifest | None = None
    """The source's, if it is to stay what it is where it fits."""
    record: str | None = None
    """What it was made from, where its config, being kept, cannot tell."""
    platform: Platform | None = None
    """What its source calls its platform, whatever the config says."""

    @property
    def id(self) -> Digest:
        """The image ID."""
        return Digest.of(self.config)


class Form(Protocol):
    """A form that is being written."""

    kept: ClassVar[frozenset[Compression | None]]
    """How layers may be stored that are kept."""
    has_manifest: ClassVar[bool]
    """A manifest guards the layers, whatever the config says."""
    has_names: ClassVar[bool]
    """Images have names there."""
    has_engine_names: ClassVar[bool]
    """What is no name to an engine is left out."""
    has_indexes: ClassVar[bool]
    """Several images for different platforms may have one name."""

    def add_layer(self, part: Part) -> StoredLayer:
        """Store a layer.

        Raises: SourceError with what is wrong with the place; what writing the part raises.
        """

    def add_image(self, image: MadeImage) -> Digest | None:
        """Store an image whose layers were added; give the digest of its manifest if it has one."""

    def finish(self) -> dict[str, bytes]:
        """Give the files that list the images, by their names: what the store is published with."""


def make_manifest(image: MadeImage, *, is_oci: bool) -> tuple[bytes, Digest]:
    """Give the manifest of an image, and the digest that its config is stored under."""
    if image.manifest is not None and _fits(image.manifest, image, is_oci):
        return image.manifest.data, image.manifest.config.digest
    suffixes = {key: pair[0 if is_oci else 1] for key, pair in _LAYER_SUFFIXES.items()}
    layer_type = f"{OCI}.layer.v1.tar" if is_oci else f"{DOCKER}.image.rootfs.diff.tar"
    config_type = f"{OCI}.config.v1+json" if is_oci else f"{DOCKER}.container.image.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type(is_oci),
        "config": describe(config_type, image.id, len(image.config)),
        "layers": [
            describe(layer_type + suffixes[layer.compression], layer.digest, layer.size)
            for layer in image.layers
        ],
    }
    return dump(manifest), image.id


def _fits(manifest: Manifest, image: MadeImage, is_oci: bool) -> bool:
    """Tell whether a manifest, as it is, is one of `image` in that form."""
    # Without a media type of its own (OCI's may lack it) the config's tells whose it is.
    media_type = manifest.media_type or manifest.config.media_type or OCI
    if media_type.startswith(OCI) != is_oci:
        return False
    layers = [(layer.digest, layer.size) for layer in manifest.layers]
    return layers == [(layer.digest, layer.size) for layer in image.layers]


def manifest_type(is_oci: bool) -> str:
    """Give the media type of a manifest."""
    return f"{OCI}.manifest.v1+json" if is_oci else f"{DOCKER}.distribution.manifest.v2+json"


def describe(media_type: str, digest: Digest, size: int) -> dict[str, object]:
    """Give a descriptor."""
    return {"mediaType": media_type, "digest": str(digest), "size": size}


class Blobs:
    """What a form keeps by its digest, each once."""

    def __init__(self, store: Store, prefix: str) -> None:
        """With an empty `prefix` blobs lie beside everything else, by their hex digits alone."""
        self._store, self._prefix = store, prefix
        self._known: set[Digest] = set()

    def _path(self, digest: Digest) -> str:
        if not self._prefix:
            return digest.hex
        return f"{self._prefix}/{digest.algorithm}/{digest.hex}"

    def put(self, digest: Digest, data: bytes) -> None:
        """Put a small blob there."""
        if digest not in self._known:
            self._known.add(digest)
            self._store.put(self._path(digest), data)

    def add_layer(self, part: Part) -> StoredLayer:
        """Put a layer there."""
        slot, layer = self._store.put_part(part)
        if layer.digest in self._known:
            self._store.drop(slot)
        else:
            self._known.add(layer.digest)
            self._store.name(slot, self._path(layer.digest))
        return layer
