"""What a caller wants of an image as one tree: which layers, what of them, and how to work.

The functions of `api` take these as keyword arguments; `Recipe` is all of them as one value, and
`open_flat_of` the way from an image and a recipe to a planned tar.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypedDict

from dimgx.errors import Cancelled, LayerSpecError
from dimgx.inspector import Row, layers_of, list_rows
from dimgx.layerspec import select

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dimgx.extractor import ExtractOptions, FlatTar, Progress
    from dimgx.image import Image, Layer

    Verify = Literal["once", "all", "none"]
    Layers = Sequence[str | Row]


class TreeOptions(TypedDict, total=False):
    """Which layers are merged, and how the work is done."""

    layers: Layers | None
    verify: Verify
    threads: int | None
    memory: int | None
    tmpdir: str | Sequence[str] | None
    progress: Callable[[Progress], None] | None
    cancel: Callable[[], bool] | None


class TarOptions(TreeOptions, total=False):
    """What besides that shapes the tar."""

    root_entry: bool
    clamp_mtime: int | None


@dataclass(frozen=True, slots=True)
class Recipe:
    """The options of one run; the fields are those of `TarOptions`."""

    layers: Layers | None = None
    """Layer specs or rows, those named later covering those named earlier; None for all."""
    verify: Verify = "once"
    """Which digests are checked: one for each layer, all that there are, or none."""
    threads: int | None = None
    """None for as many as there are CPUs to use."""
    memory: int | None = None
    """Bytes of decoded layers that are kept in memory; None for a quarter of what is free."""
    tmpdir: str | Sequence[str] | None = None
    """Where the rest is kept: the first of these directories that can be written."""
    progress: Callable[[Progress], None] | None = None
    cancel: Callable[[], bool] | None = None
    root_entry: bool = False
    """Write an entry for the root directory (rule 8)."""
    clamp_mtime: int | None = None
    """Members that are newer get this time, seconds since 1970."""

    @property
    def worker_count(self) -> int:
        """How many threads encode."""
        if self.threads is not None:
            return self.threads
        from dimgx.system import usable_cpus

        return usable_cpus()

    def extract_options(self) -> ExtractOptions:
        """Give what the extractor is told."""
        from dimgx.extractor import ExtractOptions

        return ExtractOptions(
            verify=self.verify,
            threads=self.threads,
            memory=self.memory,
            tmpdirs=directories(self.tmpdir),
            root_entry=self.root_entry,
            clamp_mtime_s=self.clamp_mtime,
            progress=self.progress,
            cancel=self.cancel,
        )


def open_flat_of(image: Image, recipe: Recipe) -> FlatTar:
    """Read what `recipe` chooses of `image` and plan its flat tar; close that when done.

    Raises: ImageError, SourceError, LayerSpecError, UsageError, Cancelled.
    """
    from dimgx.extractor import open_flat

    layers = fetched(image, chosen_layers(image, recipe.layers), recipe)
    options = recipe.extract_options()
    if options.memory is not None and image.spool is not None:
        # What was kept of the source is there already.
        options = replace(options, memory=max(0, options.memory - image.spool.used))
    return open_flat(layers, options)


def fetched(image: Image, layers: Sequence[Layer], recipe: Recipe) -> Sequence[Layer]:
    """Give `layers` with their blobs at hand, where the source has still to be asked for them."""
    if image.fetch is None:
        return layers
    return image.fetch(layers, ticker(recipe.progress, recipe.cancel))


def ticker(
    progress: Callable[[Progress], None] | None, cancel: Callable[[], bool] | None
) -> Callable[[int, int | None], None]:
    """Give what a source tells of bytes done and in all, while it reads.

    It raises Cancelled where `cancel` gives true.
    """
    from dimgx.extractor import Progress

    def tick(done: int, total: int | None) -> None:
        if cancel is not None and cancel():
            raise Cancelled("cancelled")
        if progress is not None:
            progress(Progress("read", done, total))

    return tick


def chosen_rows(image: Image, layers: Layers) -> tuple[Row, ...]:
    """Give the rows that `layers` names, each once, the last covering those before it.

    Raises: LayerSpecError for a spec that names no row; UsageError for bad grammar.
    """
    rows = list_rows(image)
    chosen: list[Row] = []
    for item in layers:
        chosen += select(rows, (item,), strict=True).rows if isinstance(item, str) else (item,)
    # Each row once, at its last place, as the command does.
    last = {row.position: row for row in reversed(chosen)}
    return tuple(reversed(last.values()))


def chosen_layers(image: Image, layers: Layers | None) -> tuple[Layer, ...]:
    """Give the layers of the rows that `layers` names, or all, lower to upper.

    Raises: LayerSpecError for a spec that names no row, or where no row has a layer.
    """
    if layers is None:
        return image.layers
    found = layers_of(image, chosen_rows(image, layers))
    if not found:
        raise LayerSpecError("nothing is left to flatten: the chosen rows have no layer")
    return found


def directories(tmpdir: str | Sequence[str] | None) -> tuple[str, ...]:
    """Give one or more directories as a tuple."""
    if tmpdir is None:
        return ()
    return (tmpdir,) if isinstance(tmpdir, str) else tuple(tmpdir)
