"""What an image and a recipe come to: the origin that a target would have."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dimgx.flattening import added_layers, chosen_layers
from dimgx.images.imageconfig import settings_of
from dimgx.images.origin import Origin, marks_of, unusual_level
from dimgx.inspector import layers_of
from dimgx.merging.renaming import parse_prefix
from dimgx.spool import SpoolSpace

if TYPE_CHECKING:
    from dimgx.codec import Coding
    from dimgx.image import Image
    from dimgx.recipe import Recipe


def origin_of_tar(image: Image, recipe: Recipe, coding: Coding) -> Origin:
    """Give the origin of the tar that `recipe` makes of `image`, stored like that.

    No layer of the image is read.

    Raises: LayerSpecError; UsageError; ImageError where a layer has nothing that identifies it;
        what reading an added layer raises.
    """
    return _origin_of(image, recipe)._replace(level=unusual_level(coding))


def origin_of_image(image: Image, recipe: Recipe, created: int | None = None) -> Origin:
    """Give the origin of the image that `recipe` makes of `image`, however it is stored.

    `created` is what takes the place of its time, in seconds since 1970.

    Raises: as `origin_of_tar`; ImageError where the config is malformed.
    """
    return _with_config(_origin_of(image, recipe)._replace(created=created), image)


def origin_of_kept(image: Image) -> Origin:
    """Give the origin of an image that keeps its layers.

    Raises: ImageError where a layer has nothing that identifies it, or the config is malformed.
    """
    return _with_config(Origin(marks_of(image, image.layers), is_kept=True), image)


def _origin_of(image: Image, recipe: Recipe) -> Origin:
    prefix = b"" if recipe.prefix is None else parse_prefix(recipe.prefix).replace(b"\0", b"/")
    return Origin(
        layers=marks_of(image, chosen_layers(image, recipe.layers)),
        below=marks_of(image, layers_of(image, recipe.below)),
        is_squashed=recipe.is_squashed,
        added=_added(recipe),
        paths=tuple(
            "-+"[rule.is_included] + _text(os.fsencode(rule.pattern)) for rule in recipe.paths
        ),
        strip_components=recipe.strip_components,
        prefix=_text(prefix),
        root_entry=recipe.root_entry,
        clamp_mtime=recipe.clamp_mtime,
    )


def _with_config(origin: Origin, image: Image) -> Origin:
    """Add what an image form carries on of an image's config, as far as its source tells it."""
    settings = settings_of(image)
    id: str | None = image.id
    if not image.is_id_of_config:
        id = None if image.config is None else str(image.config.digest)
    return origin._replace(
        image=id,
        settings=settings.digest if settings else None,
        healthcheck=settings.health_digest if settings else None,
        platform=str(image.platform) if image.platform else None,
    )


def _text(name: bytes) -> str:
    """Give what can stand in JSON for a name that may be no UTF-8."""
    return name.decode("utf-8", "backslashreplace")


def _added(recipe: Recipe) -> tuple[str, ...]:
    """Give the diff_ids of what is laid on top: it is read for that."""
    if not recipe.add_layers:
        return ()
    with ExitStack() as stack:
        space = stack.enter_context(SpoolSpace(recipe.memory, recipe.tmpdirs))
        return tuple(str(layer.diff_id) for layer in added_layers(recipe, space, stack))
