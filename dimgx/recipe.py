"""What a caller wants of an image as one tree: which layers, what of them, and how to work.

The functions of `api` take these as keyword arguments; `Recipe` is all of them as one value, and
`open_flat_of` the way from an image and a recipe to a planned tar.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from dimgx.errors import Cancelled, LayerSpecError, UsageError
from dimgx.inspector import Row, layers_of, list_rows
from dimgx.layerspec import find_row, select
from dimgx.spool import SpoolSpace
from dimgx.system import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dimgx.extractor import ExtractOptions, FlatTar, Progress
    from dimgx.image import Image, Layer, Tick
    from dimgx.merging.pathrules import PathRule
    from dimgx.readers.reading import Verify
    from dimgx.readers.streaming import Flow

    Layers = Sequence[str | Row]


VERIFY = "once", "all", "none"
"""Which digests are checked, as `Recipe.verify` has it."""


class TreeOptions(TypedDict, total=False):
    """Which layers are merged, what of them goes in, and how the work is done."""

    layers: Layers | None
    paths: Sequence[PathRule]
    strip_components: int
    prefix: str | None
    add_layers: Sequence[str | os.PathLike[str]]
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


class Recipe(NamedTuple):
    """The options of one run; the fields are those of `TarOptions`, and `below`."""

    layers: Layers | None = None
    """Layer specs or rows, those named later covering those named earlier; None for all."""
    below: Sequence[Row] = ()
    """Rows that stay as they are: the tar is one layer that does over them what the others do."""
    paths: Sequence[PathRule] = ()
    """Which paths go in, the last rule that matches deciding; without rules all of them."""
    strip_components: int = 0
    """How many leading directories are taken off all names."""
    prefix: str | None = None
    """A directory that goes before all names."""
    add_layers: Sequence[str | os.PathLike[str]] = ()
    """Tars and directories of this machine that are laid on top, the last covering the others."""
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
    phase: Callable[[str], None] | None = None
    """Called as each phase of the work ends; a report counts its time so."""

    @property
    def worker_count(self) -> int:
        """How many threads encode."""
        return self.threads or usable_cpus()

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
            paths=tuple(self.paths),
            strip_components=self.strip_components,
            prefix=self.prefix,
            progress=self.progress,
            cancel=self.cancel,
            phase=self.phase,
        )


def make_recipe(options: TreeOptions, phase: Callable[[str], None] | None = None) -> Recipe:
    """Give what a caller asks for.

    Raises: UsageError where it makes no sense.
    """
    recipe = Recipe(**options, phase=phase)
    check_word(recipe.verify, VERIFY, "verify")
    if recipe.threads is not None and recipe.threads < 1:
        raise UsageError(f"{recipe.threads} threads do not work: one does, or None for all CPUs")
    if recipe.memory is not None and recipe.memory < 0:
        raise UsageError(f"there are no {recipe.memory} bytes of memory")
    lists: dict[str, Any] = {}
    for name in ("layers", "paths", "add_layers"):
        value = getattr(recipe, name)
        # Its letters would be taken one by one.
        if isinstance(value, str | bytes | os.PathLike):
            raise UsageError(f"{name} is a list, also where there is but one")
        if value is not None:
            # It is gone through more than once, which an iterator does not bear.
            lists[name] = tuple(value)
    return recipe._replace(**lists)


def check_word(value: object, words: Sequence[str | None], what: str) -> None:
    """Refuse a value that is none of `words`.

    Raises: UsageError.
    """
    if value not in words:
        raise UsageError(
            f"{what} is {value!r:.100}, but has to be one of {', '.join(map(str, words))}"
        )


def open_flat_of(image: Image, recipe: Recipe) -> FlatTar:
    """Read what `recipe` chooses of `image` and plan its flat tar; close that when done.

    Raises: ImageError, SourceError, LayerSpecError, UsageError, Cancelled.
    """
    from dimgx.extractor import open_flat

    below = layers_of(image, recipe.below)
    chosen = chosen_layers(image, recipe.layers)
    options = recipe.extract_options()
    with ExitStack() as stack:
        stack.enter_context(image.using())
        used = 0 if image.spool is None else image.spool.used
        added: tuple[Layer, ...] = ()
        if recipe.add_layers:
            space = stack.enter_context(SpoolSpace(options.memory, options.tmpdirs))
            added = added_layers(recipe, space, stack)
            used += space.used
        layers = fetched(image, (*below, *chosen), recipe)
        if options.memory is not None:
            # What was kept of the source is there already.
            options = options._replace(memory=max(0, options.memory - used))
        flat = open_flat((*layers[len(below) :], *added), options, layers[: len(below)])
        flat.keep(stack.pop_all())
    return flat


def open_flow_of(image: Image, recipe: Recipe) -> Flow | None:
    """Give the flat tar of what `recipe` chooses of `image`, merged while it is decoded.

    None where that does not pay or cannot be; close it when done.

    Raises: LayerSpecError; ImageError, SourceError.
    """
    if recipe.below or recipe.add_layers or image.fetch is not None:
        return None
    from dimgx.extractor import open_flow

    options = recipe.extract_options()
    if options.memory is not None and image.spool is not None:
        options = options._replace(memory=max(0, options.memory - image.spool.used))
    return open_flow(chosen_layers(image, recipe.layers), options)


def added_layers(recipe: Recipe, space: SpoolSpace, resources: ExitStack) -> tuple[Layer, ...]:
    """Give the tars and directories of this machine as layers, good until `resources` is closed.

    Raises: ImageError, SourceError, Cancelled.
    """
    from dimgx.images.addedlayer import open_added_layer

    def tick() -> None:
        if recipe.cancel is not None and recipe.cancel():
            raise Cancelled("cancelled")

    return tuple(
        open_added_layer(os.fspath(path), space, resources, tick) for path in recipe.add_layers
    )


def fetched(image: Image, layers: Sequence[Layer], recipe: Recipe) -> Sequence[Layer]:
    """Give `layers` with their blobs at hand, where the source has still to be asked for them."""
    if image.fetch is None:
        return layers
    return image.fetch(layers, ticker(recipe.progress, recipe.cancel))


def ticker(progress: Callable[[Progress], None] | None, cancel: Callable[[], bool] | None) -> Tick:
    """Give what a source tells of bytes done and in all, while it reads.

    It raises Cancelled where `cancel` gives true.
    """

    def tick(done: int, total: int | None) -> None:
        if cancel is not None and cancel():
            raise Cancelled("cancelled")
        if progress is not None:
            # Only here: who lists an image needs nothing of the extractor.
            from dimgx.extractor import Progress

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


def squashed_from(image: Image, recipe: Recipe, spec: str | Row) -> Recipe:
    """Give the recipe by which a row and those above it become one layer over those below.

    Raises: LayerSpecError where not one row is named; UsageError for bad grammar.
    """
    rows = list_rows(image)
    position = find_row(rows, spec).position
    # A step without a layer has nothing to become one: it stays, like those below it. So the layers
    # alone tell what is made.
    while position < len(rows) and rows[position].is_empty:
        position += 1
    return recipe._replace(layers=rows[position:], below=rows[:position])


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
