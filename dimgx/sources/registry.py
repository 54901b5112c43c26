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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from threading import Event
from typing import TYPE_CHECKING

from dimgx.digest import Digest
from dimgx.errors import DimgxError, ImageError
from dimgx.imagename import ImageName, parse_image_name
from dimgx.oci import Descriptor, parse_document
from dimgx.sources.auth import find_credentials
from dimgx.sources.blobcache import BlobCache
from dimgx.sources.choice import Candidate
from dimgx.sources.files import check_digest
from dimgx.sources.manifests import Kind, ManifestReader
from dimgx.sources.registriesconf import RegistryEndpoint, find_endpoints
from dimgx.sources.registryclient import FetchedManifest, NotThere, RegistryClient
from dimgx.sources.remoteblob import RemoteBlob
from dimgx.sources.tokens import Denied

if TYPE_CHECKING:
    from dimgx.registryoptions import RegistryOptions

_FOREIGN = (
    "it is a foreign layer, which lies elsewhere, as its licence has it; `skopeo copy` to a dir:"
    " fetches it from there"
)
_LACKING = "the image is not whole there"
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

    Connections are closed with `resources`. With `verify` false digests are not checked. `warn` is
    also called later, by any thread, when it turns out that the cache cannot be written.

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
            # A mirror that does not answer at once is passed over.
            fetched = client.get_manifest(name.wanted, is_hasty=endpoint.is_mirror)
        except DimgxError as exc:
            if endpoint is not endpoints[-1]:
                passed_over.append(f"the mirror {endpoint.host}/{endpoint.path}: {exc}")
                continue
            if isinstance(exc, Denied):
                exc = Denied("; ".join((str(exc), *troubles, *_missing_files(options))))
            raise _with_mirrors(_with_tags(exc, client, name), passed_over) from None
        for trouble in (*troubles, *(f"passed over {one}" for one in passed_over)):
            warn(trouble)
        cache = None
        if options.cache_dir:
            cache = BlobCache(options.cache_dir, options.cache_size, warn)
        return _Repository(client, name, cache, verify=verify).candidate(fetched)
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
    if client is None or not isinstance(exc, NotThere) or name.digest is not None:
        return exc
    near = client.near_tags(name.wanted)
    return NotThere(f"{exc}; near tags: {', '.join(near):.500}") if near else exc


def _with_mirrors(exc: DimgxError, passed_over: list[str]) -> DimgxError:
    if not passed_over:
        return exc
    return type(exc)(f"{exc} (before that {'; '.join(passed_over)})")


class _Repository:
    """The blobs and manifests of one repository."""

    is_far = True

    def __init__(
        self, client: RegistryClient, name: ImageName, cache: BlobCache | None, *, verify: bool
    ) -> None:
        self._client, self._name, self._cache, self.verify = client, name, cache, verify
        self.where = f"docker://{name}"
        self._blobs: dict[Digest, RemoteBlob] = {}

    def candidate(self, fetched: FetchedManifest) -> Candidate:
        """Give the image that the manifest asked for stands for.

        Raises: ImageError where it is not what its digest says, or is malformed.
        """
        # Asked first: its digest is that of the text without the signatures which it carries.
        if fetched.media_type.startswith(_SCHEMA_1):
            raise ImageError(
                f"{self.where}: the manifest is of Docker's old schema 1, which is not read: push"
                " the image anew with a client of this decade"
            )
        digest = self._check(fetched)
        document = parse_document(fetched.data, f"{self.where}: the manifest {digest}")
        descriptor = Descriptor(fetched.media_type or None, digest, len(fetched.data))
        names = (self._name.familiar,) if self._name.tag else ()
        return ManifestReader(self).candidate(descriptor, document, names)

    def _check(self, fetched: FetchedManifest) -> Digest:
        wanted = self._name.digest
        if wanted is None:
            if not self.verify or not fetched.stated_digest:
                return Digest.of(fetched.data)
            try:
                wanted = Digest.parse(fetched.stated_digest)
            except ImageError as exc:
                raise ImageError(f"{self.where}: its Docker-Content-Digest: {exc}") from None
        if self.verify:
            check_digest(fetched.data, wanted, f"the manifest of {self.where}")
        return wanted

    def find(self, layer: Descriptor) -> RemoteBlob:
        if layer.digest not in self._blobs:
            absence = _FOREIGN if layer.is_foreign else _LACKING
            self._blobs[layer.digest] = RemoteBlob(
                self._client, layer.digest, layer.size, self._cache, absence
            )
        return self._blobs[layer.digest]

    def read(self, descriptor: Descriptor, kind: Kind, what: str) -> bytes:
        if kind == "config":
            chunks = self.find(descriptor).iter_chunks()
        elif self._cache is None:
            chunks = self._iter_manifest(descriptor)
        else:
            fetched = self._iter_manifest(descriptor)
            chunks = self._cache.iter_through(descriptor.digest, descriptor.size, fetched, Event())
        found = bytearray()
        for chunk in chunks:
            found += chunk
            if len(found) > descriptor.size:
                raise ImageError(f"{what} has more than the {descriptor.size} bytes stated")
        return bytes(found)

    def _iter_manifest(self, descriptor: Descriptor) -> Iterator[bytes]:
        yield self._client.get_manifest(str(descriptor.digest)).data
