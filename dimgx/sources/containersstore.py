"""A store of containers/storage, as Podman, CRI-O, buildah and skopeo have it: images in its files.

1. An image's record names its topmost layer. A layer's record has its diff_id, and names the layer
   below; both lists are one JSON document each. What a store has not may be in others, which are
   used beside it and never written.
2. A layer lies unpacked, with a record of its tar (`tarsplit`), from which Podman itself saves it.
   With the driver overlay it is unpacked right there and never through a mount, so the kernel's
   redirects and files without data, that containers may have, do not matter. With vfs the files of
   all layers below lie there too. What lies by its digests (composefs), or comes from an additional
   layer store, is not read.
3. A layer that was pulled in part (zstd:chunked) lacks the diff_id or the record, or is all there.

What is there has its digest for a name, and is checked like any other image.

Spec: containers/storage images.go, layers.go, drivers/overlay, drivers/vfs; containers/image
storage.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dimgx import system
from dimgx.digest import Digest
from dimgx.errors import DimgxError
from dimgx.image import Image, Layer
from dimgx.jsondoc import Fields, parse_json
from dimgx.sources.tarsplit import BY_ENGINE, SplitTar
from dimgx.sources.unpacked import open_unpacked

DRIVERS = ("overlay", "vfs")
"""Those whose layers can be read."""
_DOCUMENT_LIMIT = 64 << 20
_HEX_ID = re.compile(r"[0-9a-f]{64}")
_GZIP = b"\x1f\x8b"


class Record(NamedTuple):
    """What a store keeps of an image or of a layer."""

    root: Path
    """The store that has it."""
    fields: Fields


class ContainersStore:
    """A store at `root`, with others beside it, in which `driver` keeps the layers."""

    def __init__(
        self,
        root: Path,
        driver: str = "overlay",
        beside: Sequence[Path] = (),
        advice: str = BY_ENGINE,
    ) -> None:
        self.root = root
        self._roots = (root, *beside)
        self._driver, self._advice = driver, advice

    def images(self) -> dict[str, Record]:
        """Give the records of all images by their IDs.

        Raises: OSError where there are none, ImageError where they make no sense.
        """
        return self._read("images")

    def open(self, id: str, *, verify: bool) -> Image:
        """Give the image whose ID is `id`, hex digits.

        Raises: OSError, KeyError, ValueError, DimgxError where it is not all there, or otherwise
            than expected.
        """
        root, record = self.images()[id]
        config = _config_of(record, id)
        layers = [*self._iter_layers(record.text("layer") or "")][::-1]
        # What is kept of an image has its key for a name, which the colon keeps from standing so.
        name = f"={b64encode(f'{config}'.encode()).decode()}"
        path = root / f"{self._driver}-images" / id / name
        image = open_unpacked(f"{self.root}", path, config, layers, verify=verify)
        if image is None:
            raise ValueError(f"the image {id} has other layers than it lists")
        return image

    def _read(self, kind: str) -> dict[str, Record]:
        """Give the records of one kind by their IDs; those of the store itself come first."""
        found: dict[str, Record] = {}
        for root in self._roots:
            path = root / f"{self._driver}-{kind}" / f"{kind}.json"
            try:
                with system.open_regular(path) as file:
                    data = file.read(_DOCUMENT_LIMIT + 1)
            except FileNotFoundError:
                if root is self.root:
                    raise
                continue
            document = Fields({"records": parse_json(data, f"{path}", _DOCUMENT_LIMIT)}, f"{path}")
            for fields in document.objects("records"):
                found.setdefault(fields.text("id") or "", Record(root, fields))
        return found

    def _iter_layers(self, top: str) -> Iterator[Layer]:
        """Yield the layers, top to base, that lie from `top` downwards.

        Raises: OSError, ValueError where one is not all there.
        """
        records = self._read("layers") if top else {}
        name = top
        while name:
            record = records.pop(name, None)  # none is below itself
            if record is None or not _HEX_ID.fullmatch(name):
                raise ValueError(f"the layer {name:.100} is not there")
            root, fields = record
            length = fields.integer("diff-size")
            blob = SplitTar(*self._find_unpacked(root, name), length or 0, self._advice)
            diff_id = Digest.parse(fields.text("diff-digest") or "")
            yield Layer(blob, diff_id=diff_id, length=length)
            name = fields.text("parent") or ""

    def _find_unpacked(self, root: Path, name: str) -> tuple[str, str]:
        """Give where the record of a layer's tar is, and the directory that has its files.

        Raises: OSError, ValueError where it is not all there, or not in files of their own.
        """
        place = root / self._driver
        directory = place / "dir" / name if self._driver == "vfs" else place / name / "diff"
        record = root / f"{self._driver}-layers" / f"{name}.tar-split.gz"
        with system.open_regular(record) as file:
            is_known = file.read(len(_GZIP)) == _GZIP
        is_plain = directory.is_dir() and not directory.is_symlink()
        if not is_known or not is_plain or (place / name / "composefs-data").exists():
            raise ValueError(f"the layer {name} is kept in a way that is not known")
        return f"{record}", f"{directory}"


def _config_of(record: Fields, id: str) -> Digest:
    """Give the digest of an image's config, which is its ID as a rule.

    Raises: ValueError where there is none, or more than one.
    """
    named = [name for name in record.texts("big-data-names") if name.startswith("sha256:")]
    if f"sha256:{id}" in named or not named:
        return Digest.parse(f"sha256:{id}")
    if len(named) > 1:
        raise ValueError(f"the image {id} has several configs")
    return Digest.parse(named[0])


def open_stored(
    root: str, driver: str, id: Digest, diff_ids: Sequence[Digest], *, verify: bool
) -> Image | None:
    """Give the image `id` with these layers as it lies in the store of an engine; None if not.

    A store that is seen through a forwarded socket may be on another machine.
    """
    try:
        image = ContainersStore(Path(root), driver).open(id.hex, verify=verify)
    except (OSError, LookupError, ValueError, DimgxError):
        return None  # it is not as expected: the engine knows better
    return image if [layer.diff_id for layer in image.layers] == list(diff_ids) else None
