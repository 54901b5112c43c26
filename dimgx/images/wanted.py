"""What an image and a recipe come to: the origin that a target would have."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypedDict

from dimgx.flattening import added_layers, chosen_layers
from dimgx.images.imageconfig import settings_of
from dimgx.images.origin import Origin, marks_of, unusual_level
from dimgx.inspector import layers_of
from dimgx.merging.renaming import parse_prefix
from dimgx.spool import SpoolSpace

if TYPE_CHECKING:
    from dimgx.codec import Compression
    from dimgx.image import Image
    from dimgx.recipe import Recipe


class _Carried(TypedDict):
    image: str | None
    settings: str | None
    healthcheck: str | None
    platform: str | None


def carried(image: Image) -> _Carried:
    """Give what of an image's config an image form carries on, as far as its source tells it."""
    settings, platform = settings_of(image), image.platform
    id = image.id
    if not image.is_id_of_config:
        id = None if image.config is None else str(image.config.digest)
    return {
        "image": id,
        "settings": settings.digest if settings else None,
        "healthcheck": settings.health_digest if settings else None,
        "platform": str(platform) if platform else None,
    }


def origin_of(
    image: Image,
    recipe: Recipe,
    *,
    compression: Compression | None = None,
    level: int | None = None,
    is_image: bool = False,
    is_squashed: bool = False,
    created: int | None = None,
) -> Origin:
    """Give the origin of what `recipe` makes of `image`. No layer of it is read.

    `compression` and `level` are those of a tar. An image has the same ID whatever they are.
    `created` is what takes the place of its time, in seconds since 1970.

    Raises: LayerSpecError; UsageError; ImageError where a layer has nothing that identifies it;
        what reading an added layer raises.
    """
    prefix = b"" if recipe.prefix is None else parse_prefix(recipe.prefix).replace(b"\0", b"/")
    origin = Origin(
        layers=marks_of(image, chosen_layers(image, recipe.layers)),
        below=marks_of(image, layers_of(image, recipe.below)),
        is_squashed=is_squashed,
        added=_added(recipe),
        paths=tuple(
            "-+"[rule.is_included] + _text(os.fsencode(rule.pattern)) for rule in recipe.paths
        ),
        strip_components=recipe.strip_components,
        prefix=_text(prefix),
        root_entry=recipe.root_entry,
        clamp_mtime=recipe.clamp_mtime,
        level=unusual_level(level, compression),
        created=created,
    )
    return origin._replace(**carried(image)) if is_image else origin


def origin_of_kept(image: Image) -> Origin:
    """Give the origin of an image that keeps its layers."""
    return Origin(marks_of(image, image.layers), is_kept=True, **carried(image))


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
