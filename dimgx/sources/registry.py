"""Images straight from a registry.

1. The places to look are tried in order: mirrors, then the registry itself. The first that has the
   manifest serves the whole image.
2. A manifest is what its digest says, whoever sends it. The one asked for is fetched each time;
   those below it, and configs, may come from the cache.
3. Of an index only the manifest of the wanted platform is fetched, where the index names platforms.
4. Layers are not touched before somebody reads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from dimgx.digest import Digest
from dimgx.errors import DimgxError, ImageError
from dimgx.imagename import ImageName, parse_image_name
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
from dimgx.sources.auth import find_credentials
from dimgx.sources.blobcache import BlobCache
from dimgx.sources.choice import Candidate, Variant
from dimgx.sources.files import check_digest
from dimgx.sources.manifests import make_image, refuse, require_image
from dimgx.sources.registriesconf import RegistryEndpoint, find_endpoints
from dimgx.sources.registryclient import FetchedManifest, NotThere, RegistryClient
from dimgx.sources.remoteblob import RemoteBlob
from dimgx.sources.tokens import Denied

if TYPE_CHECKING:
    from dimgx.image import Blob, Image
    from dimgx.platforms import Platform
    from dimgx.registryoptions import RegistryOptions

_DEEPEST_INDEX = 8
_MOST_MANIFESTS = 1_000
_FOREIGN = (
    "it is a foreign layer, which lies elsewhere, as its licence has it; `skopeo copy` to a dir:"
    " fetches it from there"
)
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"


def find_remote(
    text: str,
    options: RegistryOptions,
    resources: ExitStack,
    warn: Callable[[str], None],
    *,
    verify: bool,
) -> Candidate:
    """Give the image that the name `text` means at its registry, with its platforms.

    Connections are closed with `resources`. With `verify` false digests are not checked.

    Raises: UsageError for a name that is none; SourceError, TemporaryError, ImageError.
    """
    name = parse_image_name(text)
    endpoints = find_endpoints(options, name, warn)
    passed_over: list[str] = []
    for endpoint in endpoints:
        client: RegistryClient | None = None
        troubles: list[str] = []
        try:
            client = _open_client(endpoint, options, resources, troubles.append)
            fetched = client.get_manifest(name.wanted)
        except DimgxError as exc:
            if endpoint is not endpoints[-1]:
                passed_over.append(f"the mirror {endpoint.host}/{endpoint.path}: {exc}")
                continue
            if isinstance(exc, Denied):
                exc = Denied("; ".join((str(exc), *troubles, *_missing_files(options))))
            raise _with_mirrors(_with_tags(exc, client, name), passed_over) from None
        for text in (*troubles, *(f"passed over {text}" for text in passed_over)):
            warn(text)
        client.persist()
        return _Repository(client, name, options, verify=verify).candidate(fetched)
    raise AssertionError


def _open_client(
    endpoint: RegistryEndpoint,
    options: RegistryOptions,
    resources: ExitStack,
    warn: Callable[[str], None],
) -> RegistryClient:
    # Those that were named are for the registry that was named.
    credentials = None if endpoint.is_mirror else options.credentials
    if credentials is None:
        credentials = find_credentials(options.auth_files, endpoint.domain, endpoint.path, warn)
    client = RegistryClient(endpoint, options, credentials)
    resources.callback(client.close)
    return client


def _missing_files(options: RegistryOptions) -> list[str]:
    """Tell that the one file that was named for credentials, where it was one, is not there."""
    # Of several that are looked through by default most are not there.
    if options.credentials is not None or len(options.auth_files) != 1:
        return []
    (name,) = options.auth_files
    return [] if os.path.exists(name) else [f"there is no file {name} to look for them in"]


def _with_tags(exc: DimgxError, client: RegistryClient | None, name: ImageName) -> DimgxError:
    """Give the error with the tags that may have been meant."""
    if (
        client is None
        or not isinstance(exc, NotThere)
        or name.digest is not None
        or name.tag is None
    ):
        return exc
    near = client.near_tags(name.tag)
    return NotThere(f"{exc}; near tags: {', '.join(near):.500}") if near else exc


def _with_mirrors(exc: DimgxError, passed_over: list[str]) -> DimgxError:
    if not passed_over:
        return exc
    return type(exc)(f"{exc} (before that {'; '.join(passed_over)})")


def _add_warning(image: Image, text: str) -> None:
    image.warnings += (text,)


class _Repository:
    """Makes images of what the manifests of one repository say."""

    def __init__(
        self, client: RegistryClient, name: ImageName, options: RegistryOptions, *, verify: bool
    ) -> None:
        self._client, self._name, self._verify = client, name, verify
        self._where = f"docker://{name}"
        self._cache = (
            BlobCache(options.cache_dir, options.cache_size) if options.cache_dir else None
        )
        self._blobs: dict[Digest, RemoteBlob] = {}
        self._configs: dict[Digest, Config] = {}
        self._seen: set[tuple[Digest, Platform | None]] = set()

    def candidate(self, fetched: FetchedManifest) -> Candidate:
        """Give the image that the manifest asked for stands for.

        Raises: ImageError where it is not what its digest says, or is malformed.
        """
        digest = self._check(fetched)
        document = self._parse(fetched.data, digest, fetched.media_type)
        descriptor = Descriptor(fetched.media_type or None, digest, len(fetched.data))
        variants = self._variants(descriptor, document, 0)
        if not variants:
            raise ImageError(f"{self._where} is an index that lists no image")
        names = (self._name.familiar,) if self._name.tag else ()
        return Candidate((0,), names, tuple(variants), (str(digest),))

    def _check(self, fetched: FetchedManifest) -> Digest:
        wanted = self._name.digest
        if wanted is None:
            digest = Digest.of(fetched.data)
            stated = fetched.stated_digest
            if not self._verify or not stated or fetched.media_type.startswith(_SCHEMA_1):
                return digest
            try:
                wanted = Digest.parse(stated)
            except ImageError as exc:
                raise ImageError(f"{self._where}: its Docker-Content-Digest: {exc}") from None
        if self._verify:
            check_digest(fetched.data, wanted, f"the manifest of {self._where}")
        return wanted

    def _parse(self, data: bytes, digest: Digest, media_type: str) -> Index | Manifest:
        what = f"{self._where}: the manifest {digest}"
        if media_type.startswith(_SCHEMA_1):
            raise ImageError(
                f"{what} is of Docker's old schema 1, which is not read: push the image anew with"
                " a client of this decade"
            )
        return parse_document(data, what)

    def _variants(
        self, descriptor: Descriptor, document: Index | Manifest, depth: int
    ) -> list[Variant]:
        if isinstance(document, Manifest):
            if depth and not document.is_image:
                return []
            return [self._variant(descriptor, document)]
        if depth >= _DEEPEST_INDEX:
            raise ImageError(f"{self._where}: indexes are nested deeper than {_DEEPEST_INDEX}")
        found: list[Variant] = []
        for entry in document.manifests:
            if entry is None or entry.is_attestation or entry.is_artifact:
                continue
            # One manifest may be listed for several platforms.
            if (entry.digest, entry.platform) in self._seen:
                continue
            self._seen.add((entry.digest, entry.platform))
            if len(self._seen) > _MOST_MANIFESTS:
                raise ImageError(f"{self._where} lists more than {_MOST_MANIFESTS} manifests")
            is_index = entry.media_type in INDEX_TYPES
            if entry.platform is not None and not is_index and entry.problem is None:
                ids = (str(entry.digest),)
                found.append(Variant(entry.platform, ids, partial(self._open_entry, entry)))
                continue
            try:
                below = self._document(entry)
            except (ImageError, NotThere) as exc:  # others in the index may be good
                found.append(Variant(entry.platform, (), partial(refuse, exc), is_sound=False))
            else:
                found += self._variants(entry, below, depth + 1)
        return found

    def _variant(self, descriptor: Descriptor, manifest: Manifest) -> Variant:
        require_image(self._where, manifest)
        config = self._config(manifest)
        platform = descriptor.platform or config.platform
        ids = (str(config.digest), str(descriptor.digest))
        return Variant(platform, ids, partial(self._open, descriptor, manifest))

    def _open_entry(self, entry: Descriptor) -> Image:
        document = self._document(entry)
        if isinstance(document, Index):
            raise ImageError(f"{self._where}: {entry.digest} is an index, not a manifest as stated")
        return self._open(entry, document)

    def _open(self, descriptor: Descriptor, manifest: Manifest) -> Image:
        require_image(self._where, manifest)
        config = self._config(manifest)
        platform = descriptor.platform or config.platform
        image = make_image(self._where, descriptor, manifest, config, platform, self._blob)
        image.size_kind = "blob"
        if self._cache is not None:
            self._cache.tell(partial(_add_warning, image))
        return image

    def _blob(self, layer: Descriptor) -> Blob:
        if layer.digest not in self._blobs:
            absence = _FOREIGN if layer.is_foreign else ""
            self._blobs[layer.digest] = RemoteBlob(
                self._client, layer.digest, layer.size, self._cache, absence
            )
        return self._blobs[layer.digest]

    def _document(self, entry: Descriptor) -> Index | Manifest:
        if entry.problem is not None:
            raise entry.problem
        what = f"{self._where}: the manifest {entry.digest}"
        if entry.size > MANIFEST_LIMIT:
            raise ImageError(f"{what} has {entry.size} bytes; at most {MANIFEST_LIMIT} are read")
        fetch = partial(self._fetch_manifest, entry)
        return parse_document(self._read(entry, what, fetch), what)

    def _fetch_manifest(self, entry: Descriptor) -> bytes:
        return self._client.get_manifest(str(entry.digest)).data

    def _config(self, manifest: Manifest) -> Config:
        descriptor = manifest.config
        if descriptor.digest not in self._configs:
            what = f"{self._where}: the config {descriptor.digest}"
            if descriptor.size > CONFIG_LIMIT:
                raise ImageError(
                    f"{what} has {descriptor.size} bytes; at most {CONFIG_LIMIT} are read"
                )
            fetch = partial(self._fetch_config, descriptor, what)
            self._configs[descriptor.digest] = parse_config(
                self._read(descriptor, what, fetch), what
            )
        return self._configs[descriptor.digest]

    def _fetch_config(self, descriptor: Descriptor, what: str) -> bytes:
        found = bytearray()
        for chunk in RemoteBlob(self._client, descriptor.digest, descriptor.size).iter_chunks():
            found += chunk
            if len(found) > descriptor.size:
                raise ImageError(f"{what} has more than the {descriptor.size} bytes stated")
        return bytes(found)

    def _read(self, descriptor: Descriptor, what: str, fetch: Callable[[], bytes]) -> bytes:
        """Give a small blob or a manifest, from the cache if it is there, checked."""
        if self._cache is None:
            return self._checked(descriptor, what, fetch())
        slot = self._cache.open(descriptor.digest, descriptor.size, Event())
        try:
            stored = slot.iter_stored()
            if stored is not None:
                return b"".join(map(bytes, stored))
            data = self._checked(descriptor, what, fetch())
            slot.write(data)
            slot.commit()
            return data
        finally:
            slot.close()

    def _checked(self, descriptor: Descriptor, what: str, data: bytes) -> bytes:
        if len(data) != descriptor.size:
            raise ImageError(f"{what} has {len(data)} bytes, not {descriptor.size} as stated")
        if self._verify:
            check_digest(data, descriptor.digest, what)
        return data
