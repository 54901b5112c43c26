"""Content-addressed images: an OCI layout (as a directory or in an archive), and skopeo's `dir:`.

Entries of one digest are one image, and so are entries of one name (or without any) that differ in
their platforms. An entry without a name that another entry's index lists is none of its own.

Spec: image-spec image-layout.md; c/image directory transport.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from dimgx.digest import Digest
from dimgx.errors import ImageError
from dimgx.extent import Extent
from dimgx.jsondoc import Fields, parse_json
from dimgx.oci import (
    CONFIG_LIMIT,
    MANIFEST_LIMIT,
    Descriptor,
    Index,
    Manifest,
    names_of,
    parse_document,
)
from dimgx.sources.choice import Candidate, MissingBlob, join_platforms
from dimgx.sources.files import Files
from dimgx.sources.manifests import LIMITS, Kind, ManifestReader


class StoredBlobs:
    """Blobs that lie in files; `locate` gives the names under which one may lie, best first."""

    is_far = False

    def __init__(self, files: Files, locate: Callable[[Digest], tuple[str, ...]]) -> None:
        self.where, self.verify = files.where, files.verify
        self._files, self._locate = files, locate

    def read(self, descriptor: Descriptor, kind: Kind, what: str) -> bytes:
        for name in self._locate(descriptor.digest):
            data = self._files.read(name, LIMITS[kind], what)
            if data is not None:
                return data
        raise MissingBlob(f"{what} is missing")

    def find(self, layer: Descriptor) -> Extent | None:
        return next(filter(None, map(self._files.find, self._locate(layer.digest))), None)


def blob_paths(digest: Digest) -> tuple[str, ...]:
    """Give where a blob lies in an OCI layout, and in whatever else keeps blobs so."""
    return (f"blobs/{digest.algorithm}/{digest.hex}",)


def list_layout(files: Files) -> list[Candidate]:
    """Give the images that the index of an OCI layout lists.

    Raises: ImageError where oci-layout or index.json is missing or malformed.
    """
    data = files.read("oci-layout", MANIFEST_LIMIT)
    if data is None:
        raise ImageError(f"{files.where} is no OCI layout: oci-layout is missing")
    what = f"{files.where}: oci-layout"
    version = Fields(parse_json(data, what, MANIFEST_LIMIT), what).text("imageLayoutVersion")
    if not version:
        raise ImageError(f"{what}: imageLayoutVersion is missing")
    if version != "1.0.0":
        raise ImageError(f"{what}: version {version!r:.100} is not known (1.0.0 is)")
    data = files.read("index.json", CONFIG_LIMIT)
    if data is None:
        raise ImageError(f"{files.where} is no OCI layout: index.json is missing")
    index = parse_document(data, f"{files.where}: index.json", CONFIG_LIMIT)
    if isinstance(index, Manifest):
        raise ImageError(f"{files.where}: index.json is no index")
    blobs = StoredBlobs(files, blob_paths)
    return list_entries(ManifestReader(blobs), index)


def list_directory(files: Files, data: bytes) -> list[Candidate]:
    """Give the image of a `dir:`, whose manifest.json is `data`.

    Raises: ImageError where it is neither a manifest nor an index, or lists no image.
    """
    blobs = StoredBlobs(files, lambda d: (d.hex, f"{d.hex}.manifest.json"))
    document = parse_document(data, f"{files.where}: manifest.json")
    descriptor = Descriptor(None, Digest.of(data), len(data))
    return [ManifestReader(blobs).candidate(descriptor, document)]


def list_entries(reader: ManifestReader, index: Index) -> list[Candidate]:
    """Give the images that the entries of an index are, or lead to, with their names.

    Raises: NoSuchImage where all that is there is something else.
    """
    entries: dict[Digest, list[tuple[int, Descriptor]]] = {}
    for position, entry in enumerate(index.manifests):
        if reader.may_be_image(entry):
            entries.setdefault(entry.digest, []).append((position, entry))
    found: dict[Digest, Candidate] = {}
    for digest, same in entries.items():
        variants, digests = reader.look(same[0][1])
        names = chain.from_iterable(names_of(entry.annotations) for _, entry in same)
        found[digest] = Candidate(
            tuple(position for position, _ in same),
            tuple(dict.fromkeys(names)),
            variants,
            tuple(digests),
        )
    images = join_platforms(
        candidate
        for digest, candidate in found.items()
        if candidate.variants and (candidate.names or digest not in reader.nested)
    )
    problem = reader.problem()
    if problem is not None and not images:
        raise problem
    return images
