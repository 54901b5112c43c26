"""From indexes and manifests to images, wherever their blobs lie.

1. Entries of unknown media types, attestations, artifacts and signatures are not images; they are
   passed over even if their blobs are missing or bad.
2. An entry that is bad or not stored still counts as an image: it fails when it is chosen.
3. Indexes may hold indexes; how deep, how many manifests and how many bytes in all is bounded.
4. Each document is read once, however often it is listed: by its digest and stated size.

Spec: image-spec image-index.md, manifest.md.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from dimgx.digest import Digest
from dimgx.errors import ImageError, SourceError
from dimgx.image import Blob, Image, Layer, UnreadableBlob
from dimgx.oci import (
    CONFIG_LIMIT,
    INDEX_TYPES,
    MANIFEST_LIMIT,
    Config,
    Descriptor,
    Index,
    Manifest,
    parse_config,
    parse_document,
)
from dimgx.platforms import Platform
from dimgx.sources.choice import Candidate, NoSuchImage, Variant, alone
from dimgx.sources.files import check_digest

if TYPE_CHECKING:
    from typing import TypeGuard

_DEEPEST_INDEX = 8
_MOST_MANIFESTS = 10_000
_MOST_BYTES = 512 << 20
"""Bytes of documents that are kept."""

Kind = Literal["manifest", "config"]
"""What a small blob holds; an index is a manifest here."""
LIMITS: dict[Kind, int] = {"manifest": MANIFEST_LIMIT, "config": CONFIG_LIMIT}
"""Most bytes of it that are read."""


class BlobStore(Protocol):
    """Where the blobs of an image lie."""

    where: str
    """What people call the place."""
    verify: bool
    """Digests are checked."""
    is_far: bool
    """Reading takes a request, so a platform that an index states is believed without it."""

    def read(self, descriptor: Descriptor, kind: Kind, what: str) -> bytes:
        """Give the whole of a small blob, which errors call `what`.

        Raises: MissingBlob where it is not stored; ImageError where it is larger than the limit;
            SourceError, TemporaryError.
        """

    def find(self, layer: Descriptor) -> Blob | None:
        """Give a layer's blob, None where it is not stored."""


class ManifestReader:
    """Walks indexes, and opens what is chosen."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._where = store.where
        self.nested: set[Digest] = set()
        """What the indexes list that were looked into."""
        self._documents: dict[tuple[Digest, int], Index | Manifest] = {}
        self._configs: dict[tuple[Digest, int], Config] = {}
        self._count = self._kept = 0
        self._others: dict[str, None] = {}
        """Media types of what is no image."""

    def candidate(
        self, descriptor: Descriptor, document: Index | Manifest, names: tuple[str, ...] = ()
    ) -> Candidate:
        """Give the image that the one document stands for which a place has.

        Raises: ImageError where it is an index without an image.
        """
        if isinstance(document, Manifest):
            return Candidate((0,), names, (self._variant(descriptor, document),))
        variants, digests = self._look_into(document, 1)
        if not variants:
            raise self.problem() or NoSuchImage(f"{self._where} is an index that lists no image")
        return Candidate((0,), names, _distinct(variants), (str(descriptor.digest), *digests))

    def problem(self) -> NoSuchImage | None:
        """Give the error that says what there is in the place of images, where something is."""
        if not self._others:
            return None
        return NoSuchImage(f"{self._where} holds no image, but {', '.join(self._others):.300}")

    def may_be_image(self, entry: Descriptor | None) -> TypeGuard[Descriptor]:
        """Tell whether an entry of an index says nothing else of itself (rule 1)."""
        if entry is None or entry.is_attestation:
            return False
        if entry.artifact_type:
            self._others[entry.artifact_type] = None
            return False
        return True

    def look(self, entry: Descriptor) -> tuple[tuple[Variant, ...], list[str]]:
        """Give the images that an entry leads to, and the digests of the indexes between."""
        variants, digests = self._look(entry, 0)
        return _distinct(variants), digests

    def _look(self, entry: Descriptor, depth: int) -> tuple[list[Variant], list[str]]:
        self._count += 1
        if self._count > _MOST_MANIFESTS:
            raise ImageError(f"{self._where} lists more than {_MOST_MANIFESTS} manifests")
        if self._kept > _MOST_BYTES:
            raise ImageError(f"{self._where} lists more than {_MOST_BYTES} bytes of manifests")
        digest = str(entry.digest)
        is_told = entry.platform is not None and entry.media_type not in INDEX_TYPES
        if self._store.is_far and is_told and entry.problem is None:
            return [Variant(entry.platform, (digest,), partial(self._open_entry, entry))], []
        try:
            document = self._document(entry)
        except (ImageError, SourceError) as exc:
            ids = () if entry.problem else (digest,)
            return [Variant(entry.platform, ids, alone(exc))], []
        if isinstance(document, Index):
            variants, digests = self._look_into(document, depth + 1)
            return variants, [digest, *digests]
        if document.is_image:
            return [self._variant(entry, document)], []
        if document.other_type:
            self._others[document.other_type] = None
        return [], []

    def _look_into(self, index: Index, depth: int) -> tuple[list[Variant], list[str]]:
        if depth > _DEEPEST_INDEX:
            raise ImageError(f"{self._where}: indexes are nested deeper than {_DEEPEST_INDEX}")
        variants: list[Variant] = []
        digests: list[str] = []
        for entry in index.manifests:
            if self.may_be_image(entry):
                self.nested.add(entry.digest)
                below = self._look(entry, depth)
                variants += below[0]
                digests += below[1]
        return variants, digests

    def _open_entry(self, entry: Descriptor) -> Image:
        document = self._document(entry)
        if isinstance(document, Index):
            raise ImageError(f"{self._where}: {entry.digest} is an index, not a manifest as stated")
        return self._variant(entry, document).open()

    def _variant(self, descriptor: Descriptor, manifest: Manifest) -> Variant:
        ids = (str(manifest.config.digest), str(descriptor.digest))
        try:
            if not manifest.is_image:
                what = f"{manifest.other_type or 'something else':.200}"
                raise ImageError(f"{self._where} holds no image, but {what} in an image's form")
            config = self._config(manifest.config)
        except (ImageError, SourceError) as exc:
            return Variant(descriptor.platform, ids, alone(exc))
        platform = descriptor.platform or config.platform
        opener = partial(_make_image, self._store, descriptor, manifest, config, platform)
        return Variant(platform, ids, opener)

    def _document(self, descriptor: Descriptor) -> Index | Manifest:
        if descriptor.problem is not None:
            raise descriptor.problem
        key = descriptor.digest, descriptor.size
        if key not in self._documents:
            self._documents[key] = parse_document(*self._read(descriptor, "manifest"))
        return self._documents[key]

    def _config(self, descriptor: Descriptor) -> Config:
        key = descriptor.digest, descriptor.size
        if key not in self._configs:
            self._configs[key] = parse_config(*self._read(descriptor, "config"))
        return self._configs[key]

    def _read(self, descriptor: Descriptor, kind: Kind) -> tuple[bytes, str]:
        """Give a small blob, checked, and what errors call it."""
        what = f"{self._where}: the {kind} {descriptor.digest}"
        if descriptor.size > LIMITS[kind]:
            raise ImageError(f"{what} has {descriptor.size} bytes; at most {LIMITS[kind]} are read")
        data = self._store.read(descriptor, kind, what)
        if len(data) != descriptor.size:
            raise ImageError(f"{what} has {len(data)} bytes, not {descriptor.size} as stated")
        if self._store.verify:
            check_digest(data, descriptor.digest, what)
        self._kept += len(data)
        return data, what


def _distinct(variants: list[Variant]) -> tuple[Variant, ...]:
    """Give each image once for each of its platforms, however many indexes lead to it."""
    return tuple({(one.platform, one.ids or id(one)): one for one in variants}.values())


def _make_image(
    store: BlobStore,
    descriptor: Descriptor,
    manifest: Manifest,
    config: Config,
    platform: Platform | None,
) -> Image:
    diff_ids = config.diff_ids
    if diff_ids is not None and len(diff_ids) != len(manifest.layers):
        raise ImageError(
            f"{store.where}: the config has {len(diff_ids)} layers, but the manifest lists"
            f" {len(manifest.layers)}"
        )
    return Image(
        reference=store.where,
        layers=tuple(
            _make_layer(store, layer, diff_ids[i] if diff_ids else None)
            for i, layer in enumerate(manifest.layers)
        ),
        config=config,
        id=str(config.digest),
        digest=descriptor.digest,
        manifest=manifest,
        platform=platform,
        history=config.history,
    )


def _make_layer(store: BlobStore, layer: Descriptor, diff_id: Digest | None) -> Layer:
    blob = store.find(layer)
    if layer.is_encrypted:
        problem = "it is encrypted: decrypt the image first, as in `skopeo copy --decryption-key`"
    elif not layer.is_tar_layer:
        problem = f"it is no tar: its media type is {layer.media_type!r:.200}"
    elif blob is not None:
        return Layer(blob, layer.digest, layer.size, diff_id, layer.media_type)
    elif layer.is_foreign:
        problem = "it is not stored with the image, as its licence has it (a foreign layer)"
    else:
        problem = "its blob is missing: pull or copy it again"
    # Whoever reads it says which layer it is.
    unread = UnreadableBlob(f"{store.where}: {problem}", layer.size)
    return Layer(unread, layer.digest, layer.size, diff_id, layer.media_type)
