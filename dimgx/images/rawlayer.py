"""One layer as it is: its plain tar, verified, whiteouts and all."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from dimgx.codec import Coding
from dimgx.errors import LayerSpecError
from dimgx.flattening import chosen_layers, fetched
from dimgx.images.layerparts import KeptPart

if TYPE_CHECKING:
    from dimgx.extent import Extent, Write
    from dimgx.image import Image
    from dimgx.recipe import Recipe


class RawLayer:
    """The one layer that a recipe chooses, as a plain tar. A context manager."""

    def __init__(self, image: Image, recipe: Recipe) -> None:
        """Choose it.

        Raises: LayerSpecError where there is not one layer.
        """
        layers = chosen_layers(image, recipe.layers)
        if len(layers) != 1:
            raise LayerSpecError(
                f"one layer is written as it is, and {len(layers)} were chosen: name one with -l"
            )
        (layer,) = fetched(image, layers, recipe)
        self._recipe = recipe
        self._done = 0
        self._total = layer.weight
        self._part = KeptPart(
            layer,
            layers[0].name_among(image.layers),
            allowed=(None,),
            coding=Coding(None),
            verify=recipe.verify,
            tick=self._tick,
        )
        self._kept: Extent | None = None
        self._resources = ExitStack()

    def verify(self) -> None:
        """Check its digest before the first byte is written.

        Memory: a layer that does not lie plain on a disk is kept, as `Recipe.memory` says.

        Raises: ImageError where it does not match.
        """
        if self._part.is_repeatable:
            self._part.emit(len)  # it is only checked
            return
        from dimgx.spool import SpoolSpace

        recipe = self._recipe
        space = SpoolSpace(recipe.memory, recipe.tmpdirs)
        spool = self._resources.enter_context(space).open()
        self._part.emit(spool.write)
        self._kept = spool.finish()

    def emit(self, write: Write) -> None:
        """Write the tar by calls of `write`; when it returns, the digest has matched.

        Raises: ImageError where it does not; Cancelled; what `write` raises.
        """
        if self._kept is None:
            self._part.emit(write)
            return
        for chunk in self._kept.iter_chunks():
            write(chunk)

    def _tick(self, size: int) -> None:
        self._done += size
        self._recipe.tell("read", self._done, self._total)

    def __enter__(self) -> RawLayer:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()
