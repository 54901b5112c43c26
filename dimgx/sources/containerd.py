"""Images that containerd keeps, as on a node of Kubernetes: read as they were pulled or built.

1. containerd keeps what came from a registry, or from an archive, as it is; so nothing is saved
   first. Its own program `ctr` is asked what names there are, and where the blobs lie.
2. Blobs are read from there, where they may be; else the program hands them out.
3. Names are of one *namespace*. That of Kubernetes is `k8s.io`, which also has each image under
   its digest and its ID; these are no names that people gave.
4. Of an index only the platforms that were pulled are there.

Spec: containerd docs/namespaces.md, docs/content-flow.md, filters/filter.go.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from dimgx.digest import Digest
from dimgx.errors import DimgxError, ImageError, SourceError, TemporaryError, UsageError
from dimgx.image import UnreadableBlob
from dimgx.imagename import normal_name, parse_image_name, registry_hint
from dimgx.oci import CONTAINERD_NAME, Descriptor, Index
from dimgx.sources.absence import hint_of_file, similar_names
from dimgx.sources.choice import Candidate, MissingBlob, NoSuchImage, choose_candidate
from dimgx.sources.dockerclient import check_socket
from dimgx.sources.endpoint import containerd_sockets, find_containerd
from dimgx.sources.files import DirectoryFiles
from dimgx.sources.layout import StoredBlobs, blob_paths, list_entries
from dimgx.sources.manifests import LIMITS, Kind, ManifestReader
from dimgx.sources.program import Program

if TYPE_CHECKING:
    from dimgx.image import Blob, Watch
    from dimgx.reference import Reference
    from dimgx.sources.endpoint import EngineOptions

_DISCARDED = (
    "its blob is missing: where containerd discards what it has unpacked (discard_unpacked_layers),"
    " only docker:// has the image whole"
)
_AWAY = ("failed to dial", "unavailable", "deadline")
"""What `ctr` says where containerd does not answer, or no longer."""
_ROW = re.compile(r"(\S+)\s+(\S+)\s+([a-z0-9]+:[0-9a-f]+)\s")
_ROOT = re.compile(r"(?m)^\s+root\s+(/.*?)\s*$")


class _Entry(NamedTuple):
    """A name that containerd has, and what it points at."""

    name: str
    media_type: str
    digest: Digest


class Kept(NamedTuple):
    """An image that was found, and where it is read from."""

    candidate: Candidate
    blobs: ContainerdBlobs


def find_kept(
    reference: Reference, options: EngineOptions, resources: ExitStack, *, verify: bool
) -> Kept:
    """Give the image that `reference` names, with the platforms that are there.

    What has to be open is so until `resources` is closed.

    Raises: SourceError where there is no such image, or nobody to ask; UsageError; ImageError where
        it is damaged; TemporaryError where containerd does not answer.
    """
    if options.pull != "never":
        raise UsageError(
            f"--pull has no effect: dimgx does not have containerd fetch {reference.text!r:.300};"
            f" docker://{reference.name} comes from its registry, without any engine"
        )
    ctr = _Ctr(options)
    name = reference.name or ""
    named = ctr.named(name)
    # All the names of that image; else it may be meant by a digest or an ID.
    entries = ctr.entries(f"target.digest=={named.digest}") if named else ctr.entries()
    blobs = ContainerdBlobs(ctr, resources, verify=verify, is_direct=options.is_direct)
    index = Index(tuple(map(blobs.describe, entries)))
    # What has exactly this name need not share its repository with its other names.
    meant = name.rpartition("@")[2] if named else name
    try:
        candidates = list_entries(ManifestReader(blobs), index)
        return Kept(choose_candidate(candidates, meant, ctr.where), blobs)
    except NoSuchImage as exc:
        if named:
            raise  # it is there, but is no image
        raise _absence(ctr, reference, entries) from exc


def _absence(ctr: _Ctr, reference: Reference, entries: list[_Entry]) -> SourceError:
    """Give the error that says that there is no such image, and what to do."""
    name = reference.name or ""
    similar = similar_names(name, [entry.name for entry in entries if _is_given(entry.name)])
    problem = f"{ctr.where} has no image {name!r:.300}{similar}"
    others = [one for one in ctr.other_namespaces() if ctr.named(name, one)]
    if others:
        problem += f"; CONTAINERD_NAMESPACE={' or '.join(others)} would find it"
    hint = registry_hint(name)
    if hint:
        problem += f"; its registry may: {hint}"
    return SourceError(problem + hint_of_file(reference))


def _is_given(name: str) -> bool:
    """Tell whether somebody gave this name, and not Kubernetes alone (rule 3)."""
    return "@" not in name and not name.startswith("sha256:")


class _Ctr:
    """containerd, asked through `ctr`."""

    def __init__(self, options: EngineOptions) -> None:
        program = shutil.which("ctr")
        endpoint = find_containerd(options)
        if endpoint is None:
            tried = ", ".join(containerd_sockets())
            raise SourceError(
                f"no containerd is here: nothing listens at {tried}. Start it, or name one with -H"
                " or CONTAINERD_ADDRESS"
            )
        path = endpoint.socket_path
        if path is None:
            raise UsageError(f"containerd listens at a Unix socket, not at {endpoint.url:.300}")
        if program is None:
            raise SourceError(
                "containerd is asked through its program `ctr`, which is not in PATH: install it,"
                " or pipe an archive in, as nerdctl save writes it"
            )
        check_socket(endpoint)
        self._namespace = options.containerd_namespace or "default"
        self.where = f"containerd at {endpoint} (namespace {self._namespace})"
        self._program = Program([program, "--address", path], self._explain)

    def entries(self, *filters: str, namespace: str | None = None) -> list[_Entry]:
        """Give what one of the filters fits, or all that is."""
        said = self._run("images", "list", *filters, namespace=namespace)
        found = []
        for line in said.splitlines()[1:]:
            row = _ROW.match(line)
            if row is not None:
                found.append(_Entry(row[1], row[2], Digest.parse(row[3])))
        return found

    def named(self, name: str, namespace: str | None = None) -> _Entry | None:
        """Give what has this name, as it is written or else as it is completed."""
        # A reference's name holds no quotes.
        filters = (f'name=="{one}"' for one in (name, normal_name(name)))
        found = self.entries(*filters, namespace=namespace)
        return min(found, key=lambda entry: entry.name != name, default=None)

    def other_namespaces(self) -> list[str]:
        """Give the namespaces besides the one that is meant."""
        said = self._run("namespaces", "list", "--quiet").split()
        return [name for name in said if name != self._namespace]

    def content_root(self) -> str | None:
        """Give the directory that has the blobs, where it is told."""
        try:
            found = _ROOT.search(self._run("plugins", "list", "--detailed", "id==content"))
        except DimgxError:
            return None
        return found[1] if found else None

    def digests(self) -> set[str]:
        """Give the digests of the blobs that the program can hand out."""
        return set(self._run("content", "list", "--quiet").split())

    def iter_blob(self, digest: Digest) -> Iterator[bytes]:
        """Yield the bytes of a blob."""
        return self._program.iter_output(
            "--namespace", self._namespace, "content", "get", f"{digest}"
        )

    def _run(self, *words: str, namespace: str | None = None) -> str:
        said = self._program.run("--namespace", namespace or self._namespace, *words)
        return said.decode("utf-8", "replace")

    def _explain(self, text: str) -> DimgxError:
        text = text.removeprefix("ctr: ")[:500]
        is_away = any(words in text.lower() for words in _AWAY)
        return (TemporaryError if is_away else SourceError)(f"{self.where}: {text}")


class ContainerdBlobs:
    """The blobs of one containerd."""

    is_far = False

    def __init__(self, ctr: _Ctr, resources: ExitStack, *, verify: bool, is_direct: bool) -> None:
        self._ctr = ctr
        self.where, self.verify = ctr.where, verify
        self.root = ctr.content_root() if is_direct else None
        """The directory that has them, where it can be looked into."""
        if self.root is not None and not os.access(self.root, os.R_OK | os.X_OK):
            self.root = None
        self._files = self._stored = None
        if self.root is not None:
            self._files = DirectoryFiles(self.root, self.where, resources, verify=verify)
            self._stored = StoredBlobs(self._files, blob_paths)
        self._digests: set[str] | None = None

    def describe(self, entry: _Entry) -> Descriptor:
        """Give an entry as an index has it."""
        try:
            size = len(self._get(entry.digest, "manifest", f"{self.where}: {entry.name}"))
        except ImageError:
            size = 0  # who opens it meets the same problem, and tells it
        annotations = {CONTAINERD_NAME: _familiar(entry.name)} if _is_given(entry.name) else {}
        return Descriptor(entry.media_type, entry.digest, size, annotations)

    def watches(self) -> Iterator[Watch]:
        """Give what can be looked at again to see that nothing has changed meanwhile."""
        if self._files is not None:
            yield from self._files.watches()

    def read(self, descriptor: Descriptor, kind: Kind, what: str) -> bytes:
        return self._get(descriptor.digest, kind, what)

    def find(self, layer: Descriptor) -> Blob | None:
        found = self._stored.find(layer) if self._stored is not None else None
        if found is not None:
            return found
        if self._has(layer.digest):
            return _HandedOut(self._ctr, layer.digest, layer.size)
        if layer.is_foreign:
            return None
        return UnreadableBlob(f"{self.where}: {_DISCARDED}", layer.size)

    def _get(self, digest: Digest, kind: Kind, what: str) -> bytes:
        if self._stored is not None:
            try:
                return self._stored.read(Descriptor(None, digest, 0), kind, what)
            except MissingBlob:
                pass
        if not self._has(digest):
            raise MissingBlob(f"{what} is missing")
        found = bytearray()
        for piece in self._ctr.iter_blob(digest):
            found += piece
            if len(found) > LIMITS[kind]:
                raise ImageError(f"{what} has more than the {LIMITS[kind]} bytes that are read")
        return bytes(found)

    def _has(self, digest: Digest) -> bool:
        if self._digests is None:
            self._digests = self._ctr.digests()
        return str(digest) in self._digests


class _HandedOut(NamedTuple):
    """A layer's blob that the program hands out."""

    ctr: _Ctr
    digest: Digest
    size: int

    def iter_chunks(self) -> Iterator[bytes]:
        return self.ctr.iter_blob(self.digest)


def _familiar(name: str) -> str:
    """Give a name as people write it."""
    try:
        return parse_image_name(name).familiar
    except UsageError:
        return name
