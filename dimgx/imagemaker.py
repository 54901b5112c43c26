"""Images in the making: which layers they keep, which one is made, and what describes them.

1. An image of the result is some layers of the source's, kept as they are, and at most one that is
   made, on top of them: all kept, none kept (flattened), or some (squashed from a row up).
2. Layers that are kept keep their digests wherever the form allows; where all of them are, config
   and manifest do too.
"""

from __future__ import annotations

from contextlib import ExitStack
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from dimgx.errors import LayerSpecError, UsageError
from dimgx.flattening import chosen_rows, open_flat_of, squashed_from, with_memory_used
from dimgx.image import has_fetched
from dimgx.imagename import ImageName
from dimgx.images.imageconfig import created_of, kept_steps, made_step, make_config, time_of
from dimgx.images.layerparts import FlatPart, KeptPart, key_of
from dimgx.images.resultnames import LayoutName, own_names, parse_layout_name, parse_tag
from dimgx.images.wanted import origin_of_image, origin_of_kept
from dimgx.inspector import Row, layers_of, list_rows
from dimgx.platforms import differ
from dimgx.readers.fetchahead import FetchAhead
from dimgx.spool import SpoolSpace
from dimgx.targets.forms import MadeImage

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from dimgx.codec import Coding
    from dimgx.digest import Digest
    from dimgx.image import Image, Layer
    from dimgx.images.layerparts import Part, StoredLayer
    from dimgx.images.resultnames import ResultName
    from dimgx.merging.figures import TarFigures
    from dimgx.platforms import Platform
    from dimgx.recipe import Layers, Recipe
    from dimgx.report import Report
    from dimgx.targets.forms import Form


class ResultImage(NamedTuple):
    """An image that is to be written: what it is made of, and what it is called."""

    image: Image
    names: Sequence[ResultName | str] | None = None
    """As after `--tag`; None for those that the source has."""
    layers: Layers | None = None
    """What is flattened of it, in the place of the option that is for all."""

    def result_names(self) -> tuple[ResultName, ...]:
        """Give what it will be called, as far as the form holds names.

        Raises: UsageError where one of `names` is none.
        """
        if self.names is None:
            return own_names(self.image)
        return tuple(
            dict.fromkeys(
                name
                if isinstance(name, ImageName)
                else (parse_layout_name if isinstance(name, LayoutName) else parse_tag)(name)
                for name in self.names
            )
        )


class WrittenImage(NamedTuple):
    """An image that was written."""

    id: Digest
    """Of its config."""
    digest: Digest | None
    """Of its manifest, in the forms that have one."""
    names: tuple[ResultName, ...]
    """Those that it has there, completed."""
    layers: tuple[StoredLayer, ...]
    """Base to top."""
    platform: Platform | None = None


class ImageMaker:
    """Puts layers and images into a form."""

    def __init__(
        self,
        form: Form,
        recipe: Recipe,
        coding: Coding,
        spaces: Sequence[SpoolSpace],
        resources: ExitStack,
    ) -> None:
        """What lies in `spaces` is counted among the memory of `recipe`."""
        self._form, self._recipe, self._coding = form, recipe, coding
        self._resources, self._spaces = resources, list(spaces)
        self._known: dict[Hashable, StoredLayer] = {}
        self._warnings: dict[str, None] = {}
        self._named: dict[ResultName, list[tuple[Digest, Platform | None]]] = {}
        self._done = 0
        self.is_chosen = False
        """Somebody said how layers are to be stored; kept ones too, then."""
        self.is_alone = True
        """There is one image only."""
        self.is_recorded = False
        """What images were made from that keep their configs is noted beside them."""
        self.report: Report | None = None
        """What is to be told of the work."""
        self._figures: dict[Hashable, TarFigures] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd but usable, each once."""
        return tuple(self._warnings)

    def add(
        self, wanted: ResultImage, squash_from: str | Row | None, created_s: int | None
    ) -> WrittenImage:
        """Make one layer of an image, or of its rows from `squash_from` up."""
        image = self._whole(wanted)
        recipe = self._recipe
        if squash_from is not None:
            recipe = squashed_from(image, recipe, squash_from)
            image = self._at_hand(image, layers_of(image, recipe.below))
        elif wanted.layers is not None:
            recipe = recipe._replace(layers=tuple(wanted.layers))
        stored = self._keep(image, layers_of(image, recipe.below))
        rows = list_rows(image) if recipe.layers is None else chosen_rows(image, recipe.layers)
        merged = [row for row in rows if not row.is_empty]
        if not merged and recipe.layers is not None:
            raise LayerSpecError("nothing is left to flatten: the chosen rows have no layer")
        stored.append(self._flatten(image, recipe, merged))
        origin = origin_of_image(image, recipe, created_s)
        created = time_of(created_s) if created_s is not None else created_of(image)
        ids = [row.diff_id or row.digest or row.id for row in merged]
        verb = "squashed" if recipe.is_squashed else "flattened"
        step = made_step(verb, ids, created, origin.text)
        history = [*kept_steps(image, len(recipe.below)), step]
        config = make_config(image, [layer.diff_id for layer in stored], history, created)
        names = wanted.result_names()
        return self._add(MadeImage(config, tuple(stored), names, platform=image.platform))

    def add_kept(self, wanted: ResultImage) -> WrittenImage:
        """Bring an image into the form, as little changed as that allows."""
        image = self._whole(wanted)
        if self.report is not None:
            self.report.add_kept(image)
        stored = tuple(self._keep(image, image.layers))
        config, manifest = image.config, image.manifest
        guards = manifest is not None and self._form.has_manifest
        if config is not None and (config.diff_ids is not None or guards):
            data = config.data
        else:
            diff_ids = [layer.diff_id for layer in stored]
            history = kept_steps(image, len(list_rows(image)))
            data, manifest = make_config(image, diff_ids, history, None), None
        record = origin_of_kept(image).text if self.is_recorded else None
        names = wanted.result_names()
        return self._add(MadeImage(data, stored, names, manifest, record, image.platform))

    def _add(self, made: MadeImage) -> WrittenImage:
        digest = self._form.add_image(made)
        own = digest or made.id
        names: list[ResultName] = []
        for name in made.names if self._form.has_names else ():
            if isinstance(name, LayoutName) and self._form.has_engine_names:
                warning = f"{name!r:.300} is no name to an engine, and left out (--tag gives one)"
                self._warnings[warning] = None
                continue
            named = self._named.setdefault(name, [])
            for other, platform in named:
                is_told_apart = self._form.has_indexes and differ(platform, made.platform)
                if other != own and not is_told_apart:
                    raise UsageError(
                        f"{name} would be the name of two images, or of one that is stored in two"
                        " ways: leave one out, or write it on its own"
                    )
            named.append((own, made.platform))
            names.append(name)
        return WrittenImage(made.id, digest, tuple(names), made.layers, made.platform)

    def _whole(self, wanted: ResultImage) -> Image:
        """Give the image with its config, which an engine may have to be asked for."""
        image = wanted.image
        if image.fetch_whole is None:
            return image
        whole = image.fetch_whole(partial(self._recipe.tell, "read"))
        image = copy(image)
        image.layers, image.config, image.manifest = whole.layers, whole.config, whole.manifest
        return image

    def _at_hand(self, image: Image, below: Sequence[Layer]) -> Image:
        """Give the image with the layers `below` at hand, as they are needed twice.

        Memory: as `Recipe.memory` says, and temporary files beyond that.
        """
        if not has_fetched(below):
            return image
        space = self._space()
        self._resources.enter_context(space)
        self._spaces.append(space)
        here = {}
        with FetchAhead(below, space, self._recipe.check_cancelled) as ahead:
            for layer in dict.fromkeys(below):
                spool = space.open()
                for chunk in ahead.take(layer).blob.iter_chunks():
                    self._recipe.check_cancelled()
                    spool.write(chunk)
                here[layer] = layer._replace(blob=spool.finish())
        image = copy(image)
        image.layers = tuple(here.get(layer, layer) for layer in image.layers)
        return image

    def _space(self) -> SpoolSpace:
        recipe = with_memory_used(self._recipe, *self._spaces)
        return SpoolSpace(recipe.memory, recipe.tmpdirs)

    def _keep(self, image: Image, layers: Sequence[Layer]) -> list[StoredLayer]:
        new = [layer for layer in layers if key_of(layer) not in self._known]
        with (
            self._space() as space,
            FetchAhead(new, space, self._recipe.check_cancelled) as ahead,
        ):
            return [self._put(self._kept_part(image, layer, ahead.take(layer))) for layer in layers]

    def _kept_part(self, image: Image, layer: Layer, at_hand: Layer) -> KeptPart:
        allowed = {self._coding.compression} if self.is_chosen else self._form.kept
        return KeptPart(
            at_hand,
            layer.name_among(image.layers),
            allowed=allowed,
            coding=self._coding,
            verify=self._recipe.verify,
            tick=self._tick,
        )

    def _flatten(self, image: Image, recipe: Recipe, rows: Sequence[Row]) -> StoredLayer:
        ids = [row.diff_id or row.digest for row in rows]
        below = tuple(row.diff_id or row.digest for row in recipe.below if not row.is_empty)
        key = None if None in (*ids, *below) else ("flattened", below, *ids)
        if key in self._known:
            if self.report is not None:
                self.report.add_again(image, self._figures[key])
            return self._known[key]
        with ExitStack() as stack:
            recipe = with_memory_used(recipe, *self._spaces)
            flat = stack.enter_context(open_flat_of(image, recipe))
            # What goes to a pipe is put together again in the end. Of several images each would
            # have to stay in memory until then.
            tar = None if self.report is None else self.report.add_flat(image, flat)
            if tar is not None:
                self._figures[key] = tar
            part = FlatPart(flat, self._coding, key, is_repeatable=self.is_alone, tar=tar)
            stored = self._put(part)
            self._warnings.update(dict.fromkeys(flat.warnings))
            if part.is_repeatable:
                self._resources.push(stack.pop_all())
        return stored

    def _tick(self, size: int) -> None:
        self._done += size
        self._recipe.tell("write", self._done)

    def _put(self, part: Part) -> StoredLayer:
        if part.key in self._known:
            return self._known[part.key]
        stored = self._form.add_layer(part)
        if part.key is not None:
            self._known[part.key] = stored
        return stored
