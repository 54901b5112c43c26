"""What a run did, as one JSON document: `docs/report.rst` and `report.schema.json` tell the keys.

A `Report` is given along while the work is done, and notes what passes by. Where none is given
nothing is counted, hashed or timed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from dimgx.codec import Coding
from dimgx.encode import describe_encoder
from dimgx.merging.figures import FS_BLOCK, LayerFigures, TarFigures
from dimgx.platforms import platform_fields

if TYPE_CHECKING:
    from dimgx.extractor import FlatTar
    from dimgx.image import Image, Layer
    from dimgx.platforms import Platform

VERSION = 1
"""Grows when a key changes its meaning or goes; new keys do not count."""


def name_of(target: str | os.PathLike[str] | BinaryIO) -> str:
    """Give what a report calls a target: its path, or the name that a file says it has."""
    if isinstance(target, (str, os.PathLike)):
        return os.fspath(target)
    name = getattr(target, "name", None)
    return name if isinstance(name, str) and name else "-"


class Output(NamedTuple):
    """What was written, to a file, a directory or an engine."""

    target: str
    form: str
    coding: Coding
    """Of the file as a whole."""
    size: int
    """Bytes written, all files of a directory together."""
    sha256: str | None
    """Of the file, in hex; a directory has none."""
    layers: Coding = Coding(None)
    """Of the layers that were made or coded anew."""
    images: tuple[tuple[str, str | None, Platform | None, tuple[str, ...]], ...] = ()
    """ID, digest of the manifest, platform and names of each image in it."""


class ImageReport(NamedTuple):
    """What was made of one image."""

    image: Image
    layers: list[tuple[Layer, LayerFigures | None]]
    """Those that went in, base to top; without figures where they were not merged."""
    tar: TarFigures | None = None
    """Of the flat tar, if there is one."""


class Report:
    """Notes what a run does; `document()` tells it. Not for several threads at once."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._begun = self._marked = clock()
        self._seconds: dict[str, float] = {}
        self._warnings: Counter[str] = Counter()
        self._images: list[ImageReport] = []
        self._outputs: list[Output] = []

    def mark(self, phase: str) -> None:
        """Note that `phase` ends now: what passed since the last mark was its time."""
        now = self._clock()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._marked
        self._marked = now

    def add_flat(self, image: Image, flat: FlatTar) -> TarFigures:
        """Note what is flattened of an image; give what its tar has to be passed to, once."""
        tar = TarFigures()
        self._images.append(ImageReport(image, flat.count_layers(), tar))
        return tar

    def add_again(self, image: Image, tar: TarFigures) -> None:
        """Note that an image is, layer for layer, one whose tar was noted already."""
        known = next(part for part in self._images if part.tar is tar)
        self._images.append(ImageReport(image, known.layers, tar))

    def add_kept(self, image: Image) -> None:
        """Note an image whose layers stay as they are."""
        self._images.append(ImageReport(image, [(layer, None) for layer in image.layers]))

    def add_output(self, output: Output) -> None:
        """Note something that was written."""
        self._outputs.append(output)

    @property
    def has_outputs(self) -> bool:
        """Something was written."""
        return bool(self._outputs)

    def warn(self, texts: Iterable[str]) -> None:
        """Note warnings."""
        self._warnings.update(texts)

    def document(self, warnings: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Give the document; `warnings` with their counts stand in for those that were noted."""
        import platform

        from dimgx import __version__

        total = self._clock() - self._begun
        warnings = self._warnings if warnings is None else warnings
        return {
            "version": VERSION,
            "program": {
                "name": "dimgx",
                "version": __version__,
                "python": platform.python_version(),
            },
            "images": list(map(_image, self._images)),
            "outputs": list(map(_output, self._outputs)),
            "seconds": {name: round(value, 6) for name, value in self._seconds.items()}
            | {"total": round(total, 6)},
            "warnings": [{"text": text, "count": n} for text, n in warnings.items()],
        }


def _image(part: ImageReport) -> dict[str, Any]:
    image = part.image
    return {
        "reference": image.reference,
        "id": image.id,
        "digest": str(image.digest) if image.digest else None,
        "tags": list(dict.fromkeys(image.tags)),
        "platform": platform_fields(image.platform),
        "layers": [_layer(layer, figures) for layer, figures in part.layers],
    } | _tar(part.tar, [figures for _, figures in part.layers if figures is not None])


def _layer(layer: Layer, figures: LayerFigures | None) -> dict[str, Any]:
    return {
        "digest": str(layer.digest) if layer.digest else None,
        "diff_id": str(layer.diff_id) if layer.diff_id else None,
        "media_type": layer.media_type,
        "stored_size": layer.stored_size,
        "length": figures.length if figures else layer.length,
        "entries": figures.entries if figures else None,
        "kept": figures.kept if figures else None,
        "covered": figures.covered if figures else None,
        "whiteouts": figures.whiteouts if figures else None,
    }


def _tar(tar: TarFigures | None, layers: Sequence[LayerFigures]) -> dict[str, Any]:
    if tar is None:
        return dict.fromkeys(("tar", "entries", "xattrs", "file_system"))
    implied = tar.total - sum(figures.kept for figures in layers)
    return {
        "tar": {"length": tar.length, "sha256": tar.sha256},
        "entries": {"total": tar.total} | tar.by_type | {"implied": implied},
        "xattrs": dict(sorted(tar.xattrs.items())),
        "file_system": {
            "bytes": tar.content,
            "inodes": tar.inodes,
            "blocks": tar.blocks,
            "block_size": FS_BLOCK,
        },
    }


def _output(output: Output) -> dict[str, Any]:
    return {
        "target": output.target,
        "form": output.form,
        "compression": output.coding.compression,
        "encoder": _encoder(output.coding),
        "layer_compression": output.layers.compression,
        "layer_encoder": _encoder(output.layers),
        "size": output.size,
        "sha256": output.sha256,
        "images": [
            {
                "id": id,
                "digest": digest,
                "platform": platform_fields(platform),
                "names": list(names),
            }
            for id, digest, platform, names in output.images
        ],
    }


def _encoder(coding: Coding) -> dict[str, Any] | None:
    if coding.compression is None:
        return None
    name, version, level = describe_encoder(coding.compression, coding.level)
    return {"name": name, "version": version, "level": level}
