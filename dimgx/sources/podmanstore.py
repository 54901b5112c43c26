"""Podman's own store: images read from its files, so that it need not save them.

1. An image's record names its topmost layer. A layer's record has its diff_id, and names the layer
   below; both lists are one JSON document each.
2. A layer lies unpacked, with a record of its tar (`tarsplit`), from which Podman itself saves it.
   It is unpacked right there and never through a mount, so the kernel's redirects and files without
   data, that containers may have, do not matter. Podman is left to it where files lie by their
   digests (composefs), or come from an additional layer store.
3. A layer that was pulled in part (zstd:chunked) lacks the diff_id or the record, or is all there.

What is there has its digest for a name, and is checked like any other image. A service that is seen
through a forwarded socket may mean files of another machine: what is not here, whole, it saves.

Spec: containers/storage images.go, layers.go, drivers/overlay; containers/image storage.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path

from dimgx.digest import Digest
from dimgx.errors import DimgxError
from dimgx.image import Image, Layer
from dimgx.jsondoc import Fields, parse_json
from dimgx.sources.tarsplit import SplitTar
from dimgx.sources.unpacked import open_unpacked

_DOCUMENT_LIMIT = 64 << 20
_LAYER_ID = re.compile(r"[0-9a-f]{64}")
_GZIP = b"\x1f\x8b"


def open_stored(
    directory: str, id: Digest, diff_ids: Sequence[Digest], *, verify: bool
) -> Image | None:
    """Give the image `id` with these layers as it lies in the store; None where it is not there.

    `directory` is where the files of its topmost layer lie, `ROOT/overlay/ID/diff`. The store is
    the one that this is in, of several that Podman may look into.
    """
    try:
        return _open_image(Path(directory).parents[2], id, diff_ids, verify=verify)
    except (OSError, ValueError, IndexError, DimgxError):
        return None  # it is not as expected: Podman knows better


def _open_image(
    root: Path, id: Digest, diff_ids: Sequence[Digest], *, verify: bool
) -> Image | None:
    images = root / "overlay-images"
    records = _read_records(images / "images.json")
    if id.hex not in records:
        return None
    # What is kept of an image has its key for a name, which the colon keeps from standing as it is.
    path = images / id.hex / f"={b64encode(f'{id}'.encode()).decode()}"
    layers = [*_iter_layers(root, records[id.hex].text("layer") or "", diff_ids)]
    return open_unpacked(f"{root}", path, id, layers[::-1], verify=verify)


def _read_records(path: Path) -> dict[str, Fields]:
    """Give the objects of a list by their IDs."""
    with path.open("rb") as file:
        data = file.read(_DOCUMENT_LIMIT + 1)
    records = Fields({"records": parse_json(data, f"{path}", _DOCUMENT_LIMIT)}, f"{path}")
    return {record.text("id") or "": record for record in records.objects("records")}


def _iter_layers(root: Path, top: str, diff_ids: Sequence[Digest]) -> Iterator[Layer]:
    """Yield the layers, top to base, that lie from `top` downwards.

    Raises: ValueError where these are not `diff_ids`; OSError, where one is not all there.
    """
    records = _read_records(root / "overlay-layers/layers.json")
    name = top
    for diff_id in reversed(diff_ids):
        record = records.get(name)
        if record is None or not _LAYER_ID.fullmatch(name):
            raise ValueError(name)
        if record.text("diff-digest") != str(diff_id):
            raise ValueError(name)
        length = record.integer("diff-size")
        blob = SplitTar(*_find_unpacked(root, name), estimate=length or 0)
        yield Layer(blob, diff_id=diff_id, length=length)
        name = record.text("parent") or ""
    if name:
        raise ValueError(name)


def _find_unpacked(root: Path, name: str) -> tuple[str, str]:
    """Give where the record of a layer's tar is, and the directory that has its files.

    Raises: OSError, ValueError where it is not all there, or otherwise than in files of their own.
    """
    record, place = root / "overlay-layers" / f"{name}.tar-split.gz", root / "overlay" / name
    with record.open("rb") as file:
        is_known = file.read(len(_GZIP)) == _GZIP
    directory = place / "diff"
    is_plain = directory.is_dir() and not directory.is_symlink()
    if not is_known or not is_plain or (place / "composefs-data").exists():
        raise ValueError(name)
    return f"{record}", f"{directory}"
