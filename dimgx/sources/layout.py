"""Content-addressed images: an OCI layout (as a directory or in an archive), and skopeo's `dir:`.

1. Entries of unknown media types, attestations, artifacts and signatures are not images; they are
   passed over even if their blobs are missing or bad.
2. An entry that is bad or not stored still counts as an image: it fails when it is chosen.
3. Entries of one digest are one image, and so are entries of one name (or without any) that differ
   in their platforms. An entry without a name that another entry's index lists is none of its own.
4. Indexes may hold indexes; their depth and number are bounded.

Spec: image-spec image-layout.md, image-index.md; c/image directory transport.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from dimgx.digest import Digest
from dimgx.errors import ImageError
from dimgx.extent import Extent
from dimgx.image import Image
from dimgx.jsondoc import Fields, parse_json
from dimgx.oci import (
    CONFIG_LIMIT,
    CONTAINERD_NAME,
    MANIFEST_LIMIT,
    REF_NAME,
    Config,
    Descriptor,
    Index,
    Manifest,
    Platform,
    parse_config,
    parse_document,
)
from dimgx.sources.choice import Candidate, NoSuchImage, Variant, join_platforms
from dimgx.sources.files import Files, check_digest, read_extent, read_file
from dimgx.sources.manifests import make_image, refuse, require_image

if TYPE_CHECKING:
    from typing import TypeGuard

_DEEPEST_INDEX = 8
_MOST_MANIFESTS = 10_000


class BlobStore(NamedTuple):
    """Blobs by digest."""

    files: Files
    verify: bool
    locate: Callable[[Digest], tuple[str, ...]]
    """Gives the names under which a blob may lie, best first."""

    def find(self, digest: Digest) -> Extent | None:
        """Give the blob's content, or None where it is not stored."""
        for name in self.locate(digest):
            extent = self.files.find(name)
            if extent is not None:
                return extent
        return None

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is stored."""
        return any(self._is_there(name) for name in self.locate(digest))

    def _is_there(self, name: str) -> bool:
        with self.files.open(name) as extent:
            return extent is not None

    def read(self, descriptor: Descriptor, what: str, limit: int) -> bytes:
        """Give the whole of a small blob, checked.

        Raises: ImageError where it is missing, or its size or digest differ.
        """
        what = f"{self.files.where}: the {what} {descriptor.digest}"
        for name in self.locate(descriptor.digest):
            with self.files.open(name) as extent:
                if extent is None:
                    continue
                if extent.size != descriptor.size:
                    raise ImageError(
                        f"{what} has {extent.size} bytes, not {descriptor.size} as stated"
                    )
                data = read_extent(extent, what, limit)
            if self.verify:
                check_digest(data, descriptor.digest, what)
            return data
        raise MissingBlob(f"{what} is missing")


class MissingBlob(ImageError):
    """A blob that a document names is not stored."""


def list_layout(files: Files, *, verify: bool) -> list[Candidate]:
    """Give the images that the index of an OCI layout lists.

    Raises: ImageError where oci-layout or index.json is missing or malformed.
    """
    data = read_file(files, "oci-layout", MANIFEST_LIMIT)
    if data is None:
        raise ImageError(f"{files.where} is no OCI layout: oci-layout is missing")
    what = f"{files.where}: oci-layout"
    version = Fields(parse_json(data, what, MANIFEST_LIMIT), what).text("imagelayoutversion")
    if version != "1.0.0":
        raise ImageError(f"{what}: version {version!r:.100} is not known (1.0.0 is)")
    data = read_file(files, "index.json", CONFIG_LIMIT)
    if data is None:
        raise ImageError(f"{files.where} is no OCI layout: index.json is missing")
    index = parse_document(data, f"{files.where}: index.json", CONFIG_LIMIT)
    if isinstance(index, Manifest):
        raise ImageError(f"{files.where}: index.json is no index")
    store = BlobStore(files, verify, lambda d: (f"blobs/{d.algorithm}/{d.hex}",))
    return _Lister(store).candidates(index)


def list_directory(files: Files, data: bytes, *, verify: bool) -> list[Candidate]:
    """Give the image of a `dir:`, whose manifest.json is `data`.

    Raises: ImageError where it is neither a manifest nor an index.
    """
    store = BlobStore(files, verify, lambda d: (d.hex, f"{d.hex}.manifest.json"))
    document = parse_document(data, f"{files.where}: manifest.json")
    lister = _Lister(store)
    digest = Digest.of(data)
    if isinstance(document, Index):
        variants, digests = lister.look_into(document, 1)
        return [Candidate((0,), (), tuple(variants), (str(digest), *digests))]
    variant = lister.variant(Descriptor(None, digest, len(data)), document)
    return [Candidate((0,), (), (variant,))]


class _Lister:
    """Walks indexes, and opens what is chosen."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._where = store.files.where
        self._nested: set[Digest] = set()
        # Each blob is read once, however often it is listed: by its digest and stated size.
        self._documents: dict[tuple[Digest, int], Index | Manifest] = {}
        self._configs: dict[tuple[Digest, int], Config] = {}
        self._count = 0
        # Media types of what is no image.
        self._others: dict[str, None] = {}

    def candidates(self, index: Index) -> list[Candidate]:
        found: dict[Digest, Candidate] = {}
        for position, entry in enumerate(index.manifests):
            if not self._may_be_image(entry):
                continue
            names = tuple(_names(entry))
            known = found.get(entry.digest)
            if known is None:
                variants, digests = self._look(entry, 0)
                known = Candidate((), (), tuple(variants), tuple(digests))
            found[entry.digest] = known._replace(
                positions=(*known.positions, position),
                names=tuple(dict.fromkeys(known.names + names)),
            )
        images = join_platforms(
            candidate
            for digest, candidate in found.items()
            if candidate.variants and (candidate.names or digest not in self._nested)
        )
        if not images and self._others:
            others = ", ".join(self._others)
            raise NoSuchImage(f"{self._where} holds no image, but {others:.300}")
        return images

    def _may_be_image(self, entry: Descriptor | None) -> TypeGuard[Descriptor]:
        if entry is None or entry.is_attestation:
            return False
        if entry.artifact_type and entry.is_artifact:
            self._others[entry.artifact_type] = None
            return False
        return True

    def _look(self, descriptor: Descriptor, depth: int) -> tuple[list[Variant], list[str]]:
        """Give the images that `descriptor` leads to, and the digests of the indexes between."""
        self._count += 1
        if self._count > _MOST_MANIFESTS:
            raise ImageError(f"{self._where} lists more than {_MOST_MANIFESTS} manifests")
        digest = str(descriptor.digest)
        try:
            document = self._document(descriptor)
        except ImageError as exc:
            opener = partial(refuse, exc)
            is_stored = not isinstance(exc, MissingBlob)
            ids = () if descriptor.problem else (digest,)
            return [Variant(descriptor.platform, ids, opener, is_stored, False)], []
        if isinstance(document, Index):
            variants, digests = self.look_into(document, depth + 1)
            return variants, [digest, *digests]
        if document.is_image:
            return [self.variant(descriptor, document)], []
        if document.other_type:
            self._others[document.other_type] = None
        return [], []

    def _document(self, descriptor: Descriptor) -> Index | Manifest:
        if descriptor.problem is not None:
            raise descriptor.problem
        key = descriptor.digest, descriptor.size
        if key not in self._documents:
            data = self._store.read(descriptor, "manifest", MANIFEST_LIMIT)
            what = f"{self._where}: the manifest {descriptor.digest}"
            self._documents[key] = parse_document(data, what)
        return self._documents[key]

    def look_into(self, index: Index, depth: int) -> tuple[list[Variant], list[str]]:
        """Give the images that an index lists, and the digests of the indexes below."""
        if depth > _DEEPEST_INDEX:
            raise ImageError(f"{self._where}: indexes are nested deeper than {_DEEPEST_INDEX}")
        variants: list[Variant] = []
        digests: list[str] = []
        known = set()
        for entry in index.manifests:
            if not self._may_be_image(entry):
                continue
            if (entry.digest, entry.platform) not in known:
                known.add((entry.digest, entry.platform))
                self._nested.add(entry.digest)
                below = self._look(entry, depth)
                variants += below[0]
                digests += below[1]
        return variants, digests

    def variant(self, descriptor: Descriptor, manifest: Manifest) -> Variant:
        """Give the image of a manifest."""
        platform, is_stored, is_sound = descriptor.platform, True, True
        try:
            platform = platform or self._config(manifest).platform
            is_stored = self._store.has(manifest.config.digest)
        except ImageError as exc:  # opening it says so again
            is_stored, is_sound = not isinstance(exc, MissingBlob), False
        ids = (str(manifest.config.digest), str(descriptor.digest))
        opener = partial(self._open, descriptor, manifest, platform)
        return Variant(platform, ids, opener, is_stored, is_sound)

    def _config(self, manifest: Manifest) -> Config:
        descriptor = manifest.config
        key = descriptor.digest, descriptor.size
        if key not in self._configs:
            data = self._store.read(descriptor, "config", CONFIG_LIMIT)
            what = f"{self._where}: the config {descriptor.digest}"
            self._configs[key] = parse_config(data, what)
        return self._configs[key]

    def _open(self, descriptor: Descriptor, manifest: Manifest, platform: Platform | None) -> Image:
        require_image(self._where, manifest)
        config = self._config(manifest)
        return make_image(
            self._where,
            descriptor,
            manifest,
            config,
            platform,
            lambda layer: self._store.find(layer.digest),
        )


def _names(entry: Descriptor) -> list[str]:
    found = [entry.annotations.get(CONTAINERD_NAME), entry.annotations.get(REF_NAME)]
    return [name for name in found if name]
