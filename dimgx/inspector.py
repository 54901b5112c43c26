"""From an image's history to rows: what the listing shows and what a layer spec names.

1. A row is a step of the history, steps without a layer included, where the history has as many
   steps with a layer as there are layers; else a row is a layer.
2. A row's ID is its own image ID where the source has one (the top row's is the image's), else the
   diff_id of its layer; both find it.
3. Rows run base to top inside, as layers do: `@0` is the base. A listing is shown newest first.
4. A size is None where nothing states it and it was not measured.
"""

from __future__ import annotations

from itertools import chain
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from dimgx.errors import ImageError
from dimgx.oci import HistoryStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dimgx.image import Image, Layer, SizeKind
    from dimgx.platforms import Platform


class Row(NamedTuple):
    """One step of an image, as the listing shows it."""

    position: int
    """Its number, from the base: `@0`."""
    id: str | None = None
    """Its own image ID, else the diff_id of its layer (`sha256:<hex>`, or a bare v1 ID)."""
    image_id: str | None = None
    parent_id: str | None = None
    """What the source names as its parent, else the ID of the row below."""
    tags: tuple[str, ...] = ()
    layer_index: int | None = None
    """Which of the image's layers it brought, from the base; None for a step without one."""
    diff_id: str | None = None
    digest: str | None = None
    media_type: str | None = None
    size: int | None = None
    """Bytes; what they measure says `Listing.size_kind`. 0 for a step without a layer."""
    stored_size: int | None = None
    """Bytes of the layer as it is stored, compressed or not."""
    created: str | None = None
    """RFC 3339, as the source has it."""
    created_by: str | None = None
    comment: str | None = None
    author: str | None = None

    @property
    def is_empty(self) -> bool:
        """No layer belongs to this step."""
        return self.layer_index is None


class Listing(NamedTuple):
    """The rows of an image, newest first, and what all of them share."""

    reference: str
    id: str
    digest: str | None
    tags: tuple[str, ...]
    platform: Platform | None
    size_kind: SizeKind
    rows: tuple[Row, ...]
    """Newest first, as they are shown; `rows[-1]` is the base."""
    warnings: tuple[str, ...] = ()


def list_rows(image: Image) -> tuple[Row, ...]:
    """Give the rows of `image`, base to top, without reading a layer."""
    layers, steps = image.layers, image.history
    if sum(not step.empty for step in steps) != len(layers):
        steps = (HistoryStep(empty=False),) * len(layers)
    rows: list[Row] = []
    below: str | None = None
    indexes = iter(range(len(layers)))
    for position, step in enumerate(steps):
        index = None if step.empty else next(indexes)
        rows.append(_make_row(image, position, step, index, below))
        below = rows[-1].id
    if not rows:
        return ()
    top = rows[-1]
    tags = dict.fromkeys((*image.tags, *top.tags))
    rows[-1] = top._replace(id=image.id, image_id=image.id, tags=tuple(tags))
    return tuple(rows)


def _make_row(
    image: Image, position: int, step: HistoryStep, index: int | None, below: str | None
) -> Row:
    layer = None if index is None else image.layers[index]
    diff_id = str(layer.diff_id) if layer and layer.diff_id else None
    size = None if layer else 0
    if step.size is not None and image.size_kind != "tar":
        size = step.size
    elif layer and image.size_kind == "blob":
        size = layer.stored_size
    return Row(
        position,
        id=step.id or diff_id,
        image_id=step.id,
        parent_id=step.parent_id or below,
        tags=step.tags,
        layer_index=index,
        diff_id=diff_id,
        digest=str(layer.digest) if layer and layer.digest else None,
        media_type=layer.media_type if layer else None,
        size=size,
        stored_size=layer.stored_size if layer else None,
        created=step.created,
        created_by=step.created_by,
        comment=step.comment,
        author=step.author,
    )


def inspect(
    image: Image, *, rows: Iterable[Row] | None = None, sizes: bool = True, threads: int = 1
) -> Listing:
    """List what `image` is made of, newest first.

    `rows`, base to top, stand in for all of them (see `select`). With `sizes`, layers whose size
    no one states are read and counted, `threads` at a time: that costs their decoding, no memory.

    Raises: ImageError where a layer that is measured is damaged.
    """
    chosen = list_rows(image) if rows is None else tuple(rows)
    if sizes and image.size_kind == "tar":
        chosen = _measured(image, chosen, threads)
    return Listing(
        reference=image.reference,
        id=image.id,
        digest=str(image.digest) if image.digest else None,
        tags=tuple(dict.fromkeys(image.tags)),
        platform=image.platform,
        size_kind=image.size_kind,
        rows=chosen[::-1],
        warnings=image.warnings,
    )


def _measured(image: Image, rows: Sequence[Row], threads: int) -> tuple[Row, ...]:
    layers = dict.fromkeys(
        image.layers[row.layer_index] for row in rows if row.layer_index is not None
    )
    sizes = _tar_sizes(tuple(layers), threads)
    return tuple(
        row if row.layer_index is None else row._replace(size=sizes[image.layers[row.layer_index]])
        for row in rows
    )


def _tar_sizes(layers: Sequence[Layer], threads: int) -> dict[Layer, int | None]:
    stopped = Event()
    if threads < 2 or len(layers) < 2:
        return {layer: _tar_size(layer, stopped) for layer in layers}
    from dimgx.workers import Workers

    with Workers(min(threads, len(layers))) as pool:
        try:
            sizes = [pool.submit(_tar_size, layer, stopped) for layer in layers]
            return {layer: size.result() for layer, size in zip(layers, sizes, strict=True)}
        finally:
            stopped.set()


def _tar_size(layer: Layer, stopped: Event) -> int | None:
    """Give the length of the plain tar of `layer`, None for one that cannot be read here.

    A gzip member states its length modulo 4 GiB only and other formats may leave it out, so a
    compressed layer is decoded and counted, holding one piece at a time.
    """
    from dimgx.codec import read_head, sniff
    from dimgx.decode import iter_decoded
    from dimgx.image import UnreadableBlob, closing_chunks

    if isinstance(layer.blob, UnreadableBlob):
        return None
    if layer.length is not None:
        return layer.length
    total = 0
    with closing_chunks(layer.blob.iter_chunks()) as chunks:
        head = read_head(chunks)
        compression = sniff(head)
        if compression is None and layer.blob.size is not None:
            return layer.blob.size
        for piece in iter_decoded(chain((head,), chunks), compression):
            if stopped.is_set():
                return None
            total += len(piece)
    return total


def layers_of(image: Image, rows: Iterable[Row]) -> tuple[Layer, ...]:
    """Give the layers that `rows` brought, in their order: the last covers those before it.

    Raises: ImageError for a row that is not of this image.
    """
    chosen = []
    for row in rows:
        if row.layer_index is None:
            continue
        is_there = 0 <= row.layer_index < len(image.layers)
        layer = image.layers[row.layer_index] if is_there else None
        known = layer and layer.diff_id
        if layer is None or (known and row.diff_id and str(known) != row.diff_id):
            raise ImageError(f"row @{row.position} is not of {image.reference}")
        chosen.append(layer)
    return tuple(chosen)
