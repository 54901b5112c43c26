"""The Docker Engine's own store: images read from its files, so that it need not save them.

The engine writes all of an image to its disk before it sends the first byte of it; reading what it
keeps takes a fraction of that. It says where that is. Two kinds of store are known:

1. overlay2: layers lie unpacked, each with a record of its tar (`tarsplit`). Where the engine uses
   the kernel's redirects, or files without data, files are not where the record says. What it calls
   native diffs are done without these. A rootless engine has none, but cannot use these, either.
2. containerd's: blobs lie as they were pulled or built.

What is there has its digest for a name, and is checked like any other image. An engine that is seen
through a forwarded socket may mean files of another machine: what is not here, whole, it saves.

Spec: moby image/fs.go, layer/filestore.go; containerd docs/content-flow.md; the kernel's
overlayfs.rst, "User xattr".
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from dimgx.digest import Digest
from dimgx.errors import DimgxError
from dimgx.image import Image, Layer, UnreadableBlob
from dimgx.jsondoc import Fields
from dimgx.oci import MANIFEST_LIMIT, Descriptor
from dimgx.sources.files import DirectoryFiles
from dimgx.sources.layout import StoredBlobs, blob_paths
from dimgx.sources.manifests import ManifestReader
from dimgx.sources.tarsplit import SplitTar
from dimgx.sources.unpacked import open_unpacked

_CONTENT = "io.containerd.content.v1.content"
_CONTAINERD = Path("/var/lib/containerd", _CONTENT)
"""Where containerd keeps blobs that the engine did not start itself."""
_CACHE_ID = re.compile(r"[0-9A-Za-z-]+")


def open_stored(
    info: Fields, id: Digest, diff_ids: Sequence[Digest], resources: ExitStack, *, verify: bool
) -> Image | None:
    """Give the image `id` with these layers as it lies in the store; None where it is not there.

    `info` is what the engine tells of itself. What has to be open is so until `resources` is
    closed.
    """
    try:
        root, status = Path(info.text("DockerRootDir") or ""), dict(_iter_pairs(info))
        if not root.is_absolute():
            return None
        if status.get("driver-type") == "io.containerd.snapshotter.v1":
            return _open_blobs(root, id, diff_ids, resources, verify=verify)
        is_rootless = "name=rootless" in info.texts("SecurityOptions")
        is_whole = is_rootless or status.get("Native Overlay Diff") == "true"
        if info.text("Driver") == "overlay2" and is_whole:
            return _open_unpacked(root, id, diff_ids, verify=verify)
    except (OSError, ValueError, DimgxError):
        pass  # it is not as expected: the engine knows better
    return None


def _iter_pairs(info: Fields) -> Iterator[tuple[str, str]]:
    for item in info.items("DriverStatus"):
        if isinstance(item, list) and len(item) == 2 and all(isinstance(v, str) for v in item):
            yield item[0], item[1]


def _open_unpacked(
    root: Path, id: Digest, diff_ids: Sequence[Digest], *, verify: bool
) -> Image | None:
    store = root / "image/overlay2"
    layers = [
        Layer(_find_unpacked(root, store / "layerdb" / one.algorithm / one.hex), diff_id=diff_id)
        for diff_id, one in zip(diff_ids, chain_ids(diff_ids), strict=True)
    ]
    config = store / "imagedb/content" / id.algorithm / id.hex
    return open_unpacked(f"{root}", config, id, layers, verify=verify)


def chain_ids(diff_ids: Sequence[Digest]) -> Iterator[Digest]:
    """Yield the ChainID of each layer: that of itself over those below it.

    Spec: image-spec config.md, Layer ChainID.
    """
    below: Digest | None = None
    for diff_id in diff_ids:
        if below is not None:
            joined = hashlib.sha256(f"{below} {diff_id}".encode()).hexdigest()
            below = Digest.parse(f"sha256:{joined}")
        else:
            below = diff_id
        yield below


def _find_unpacked(root: Path, layer: Path) -> SplitTar:
    """Give the layer whose entry in the store is `layer`.

    Raises: OSError, ValueError where it is not all there.
    """
    name, size = ((layer / part).read_text("ascii") for part in ("cache-id", "size"))
    if not (_CACHE_ID.fullmatch(name) and size.isdecimal()):
        raise ValueError(layer)
    record, directory = layer / "tar-split.json.gz", root / "overlay2" / name / "diff"
    for path in (record, directory):
        os.stat(path)
    return SplitTar(f"{record}", f"{directory}", int(size))


def _open_blobs(
    root: Path, id: Digest, diff_ids: Sequence[Digest], resources: ExitStack, *, verify: bool
) -> Image | None:
    for content in (root / "containerd/daemon" / _CONTENT, _CONTAINERD):
        files = DirectoryFiles(f"{content}", f"{content}", resources, verify=verify)
        data = files.read(f"blobs/{id.algorithm}/{id.hex}", MANIFEST_LIMIT)
        if data is None:
            continue
        reader = ManifestReader(StoredBlobs(files, blob_paths))
        variants, _ = reader.look(Descriptor(None, id, len(data)))
        for variant in variants:
            if not variant.is_sound:
                continue
            image = variant.open()
            is_whole = not any(isinstance(layer.blob, UnreadableBlob) for layer in image.layers)
            if is_whole and [layer.diff_id for layer in image.layers] == list(diff_ids):
                image.watches = tuple(files.watches())
                return image
    return None
