"""The way from an image and a recipe to a planned flat tar."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from dimgx.errors import LayerSpecError
from dimgx.extent import Extent
from dimgx.image import has_fetched
from dimgx.inspector import layers_of, list_rows
from dimgx.layerspec import find_row, select
from dimgx.spool import SpoolSpace, memory_left

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dimgx.extractor import FlatTar
    from dimgx.image import Image, Layer
    from dimgx.inspector import Row
    from dimgx.readers.fetchall import FetchAll
    from dimgx.readers.streaming import Flow
    from dimgx.recipe import Layers, Recipe


def open_flat_of(image: Image, recipe: Recipe, fetch_all: FetchAll | None = None) -> FlatTar:
    """Read what `recipe` chooses of `image` and plan its flat tar; close that when done.

    What `fetch_all` has of the layers is read from there. The memory of `recipe` is that which is
    left beside what the image keeps so far.

    Raises: ImageError, SourceError, LayerSpecError, UsageError, Cancelled.
    """
    from dimgx.extractor import open_flat

    below = layers_of(image, recipe.below)
    chosen = chosen_layers(image, recipe.layers)
    with ExitStack() as stack:
        stack.enter_context(image.using())
        added: tuple[Layer, ...] = ()
        if recipe.add_layers:
            space = stack.enter_context(SpoolSpace(recipe.memory, recipe.tmpdirs))
            added = added_layers(recipe, space, stack)
            recipe = with_memory_used(recipe, space)
        kept_before = 0 if image.spool is None else image.spool.used
        layers = fetched(image, (*below, *chosen), recipe)
        if image.spool is not None and recipe.memory is not None:
            kept = image.spool.used - kept_before
            recipe = recipe._replace(memory=max(0, recipe.memory - kept))
        if fetch_all is not None:
            layers = fetch_all.replace(layers)
            recipe = with_memory_used(recipe, fetch_all.space)
        flat = open_flat((*layers[len(below) :], *added), recipe, layers[: len(below)])
        flat.keep(stack.pop_all())
    return flat


def fetch_all_of(image: Image, recipe: Recipe, resources: ExitStack) -> FetchAll | None:
    """Give what fetches an image's layers all at once, until `resources` is closed.

    None where they do not come over a network.
    """
    if not has_fetched(image.layers):
        return None
    from dimgx.readers.fetchall import FetchAll

    space = resources.enter_context(SpoolSpace(recipe.memory, recipe.tmpdirs))
    return resources.enter_context(FetchAll(space, recipe.check_cancelled))


def open_flow_of(image: Image, recipe: Recipe, fetch_all: FetchAll | None) -> Flow | None:
    """Give the flat tar of what `recipe` chooses of `image`, merged while it is decoded.

    None where that does not pay or cannot be; close it when done.

    Raises: LayerSpecError; ImageError, SourceError.
    """
    if recipe.below or recipe.add_layers or image.fetch is not None:
        return None
    from dimgx.extractor import open_flow

    return open_flow(chosen_layers(image, recipe.layers), recipe, fetch_all)


def with_pipes_kept(
    recipe: Recipe, resources: ExitStack, beside: Sequence[SpoolSpace | None] = ()
) -> Recipe:
    """Give the recipe with what comes from pipes kept until `resources` is closed.

    So what is laid on top can be read more than once: for its digest, and for each image. What is
    left of `memory` is for the rest, and for what lies in the spaces `beside`.

    Raises: ImageError, SourceError, Cancelled.
    """
    pipes = [path for path in recipe.add_layers if is_pipe(path)]
    # Without a path to what is kept (a /proc that is not mounted) a pipe serves for one reading.
    if not pipes or not os.path.exists("/dev/fd"):
        return recipe
    left = memory_left(recipe.memory, beside)
    space = resources.enter_context(SpoolSpace(left, recipe.tmpdirs))
    kept = {}
    read = added_layers(recipe._replace(add_layers=pipes), space, resources)
    for path, layer in zip(pipes, read, strict=True):
        assert isinstance(layer.blob, Extent)
        kept[path] = f"/dev/fd/{layer.blob.fd}"
    added = tuple(kept.get(path, path) for path in recipe.add_layers)
    return with_memory_used(recipe._replace(add_layers=added), space)


def with_memory_used(recipe: Recipe, *spaces: SpoolSpace | None) -> Recipe:
    """Give the recipe without the memory in which something is kept already."""
    return recipe._replace(memory=memory_left(recipe.memory, spaces))


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Tell whether what is at a path can be read only once."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def added_layers(recipe: Recipe, space: SpoolSpace, resources: ExitStack) -> tuple[Layer, ...]:
    """Give the tars and directories of this machine as layers, good until `resources` is closed.

    Raises: ImageError, SourceError, Cancelled.
    """
    from dimgx.images.addedlayer import open_added_layer

    return tuple(
        open_added_layer(os.fspath(path), space, resources, recipe.check_cancelled)
        for path in recipe.add_layers
    )


def fetched(image: Image, layers: Sequence[Layer], recipe: Recipe) -> Sequence[Layer]:
    """Give `layers` with their blobs at hand, where the source has still to be asked for them."""
    if image.fetch is None:
        return layers
    return image.fetch(layers, partial(recipe.tell, "read"))


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

    Raises: LayerSpecError where not one row is named; ImageError for one of another image;
        UsageError for bad grammar.
    """
    rows = list_rows(image)
    row = find_row(rows, spec)
    layers_of(image, [row])
    position = row.position
    # A step without a layer has nothing to become one: it stays, like those below it. So the layers
    # alone tell what is made.
    while position < len(rows) and rows[position].is_empty:
        position += 1
    return recipe._replace(layers=rows[position:], below=rows[:position], is_squashed=True)


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
