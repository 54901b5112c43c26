"""Images as results: flattened to one layer, squashed from a row up, or only brought into a form.

1. An image of the result is some layers of the source's, kept as they are, and at most one that is
   made, on top of them: all kept (`keep_layers`), none kept (flattened), or some (`squash_from`).
2. Layers that are kept keep their digests wherever the form allows; where all of them are, config
   and manifest do too.
3. Nothing is shown before every digest that is checked has matched.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, Literal

from dimgx.errors import Cancelled, LayerSpecError, UsageError
from dimgx.image import Image
from dimgx.imageconfig import created_of, kept_steps, made_step, make_config, time_of
from dimgx.imagename import ImageName
from dimgx.inspector import Row, layers_of, list_rows
from dimgx.layerparts import Coding, FlatPart, KeptPart
from dimgx.reading import has_fetched
from dimgx.recipe import Recipe, chosen_rows, directories, open_flat_of, ticker
from dimgx.resultnames import LayoutName, own_names, parse_tag
from dimgx.spool import SpoolSpace
from dimgx.targets.forms import MadeImage

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from typing import Unpack

    from dimgx.codec import Compression
    from dimgx.digest import Digest
    from dimgx.figures import TarFigures
    from dimgx.image import Layer
    from dimgx.layerparts import Part, StoredLayer
    from dimgx.recipe import Layers, TarOptions
    from dimgx.report import Report
    from dimgx.resultnames import ResultName
    from dimgx.targets.forms import Form, FormName
    from dimgx.targets.store import Store

LayerCompression = Literal["none", "gzip", "zstd"]


@dataclass(frozen=True, slots=True)
class ResultImage:
    """An image that is to be written: what it is made of, and what it is called."""

    image: Image
    names: Sequence[ResultName | str] | None = None
    """As after `--tag`; None for those that the source has."""
    layers: Layers | None = None
    """What is flattened of it, in the place of the option that is for all."""
    origin: str | None = None
    """What it was made from, for its history's comment."""


@dataclass(frozen=True, slots=True)
class WrittenImage:
    """An image that was written."""

    id: Digest
    """Of its config."""
    digest: Digest | None
    """Of its manifest, in the forms that have one."""
    names: tuple[ResultName, ...]
    layers: tuple[StoredLayer, ...]
    """Base to top."""


@dataclass(frozen=True, slots=True)
class ImagesResult:
    """What `write_images` wrote."""

    images: tuple[WrittenImage, ...]
    size: int
    """Bytes written: of the archive, after compression, or of all files of a directory."""
    sha256: str | None = None
    """Of the archive, in hex, where it was asked for."""
    warnings: tuple[str, ...] = ()


def write_images(
    images: Sequence[Image | ResultImage],
    target: str | os.PathLike[str] | BinaryIO,
    *,
    form: FormName,
    keep_layers: bool = False,
    squash_from: str | Row | None = None,
    layer_compression: LayerCompression | None = None,
    compression: Compression | None = None,
    level: int | None = None,
    created: int | None = None,
    force: bool = False,
    sha256: bool = False,
    report: Report | None = None,
    **options: Unpack[TarOptions],
) -> ImagesResult:
    """Write `images` to `target` in the form of an image; only a docker-archive takes several.

    Without `keep_layers` and `squash_from` each is flattened to one layer. `layer_compression` is
    that of layers which are made, or cannot stay as they are; None is "none" in Docker's forms and
    "gzip" in OCI's. With `keep_layers` one that is said is for all layers. `compression` is that of
    an archive as a whole. `level` is for that, or else for the layers. `created` is in seconds
    since 1970. The other parameters are those of `flatten`, `options` the fields of `Recipe`.

    Raises: ImageError, SourceError, LayerSpecError, UsageError, TemporaryError, Cancelled.
    """
    from dimgx.encode import check_level

    recipe = Recipe(**options, phase=None if report is None else report.mark)
    mark = recipe.phase or str
    wanted = [ResultImage(item) if isinstance(item, Image) else item for item in images]
    if len(wanted) != 1 and form != "docker-archive":
        raise UsageError(f"{len(wanted)} images do not go into one {form}: docker-archive does it")
    if keep_layers and squash_from is not None:
        raise UsageError("layers are kept, or squashed from one of them up, but not both")
    default = "gzip" if form in ("oci-archive", "oci-dir") else "none"
    stored: Compression | None = _compression(layer_compression or default)
    if compression is None:
        check_level(stored, level)
    else:
        check_level(compression, level)
    threads = recipe.worker_count
    archive = Coding(compression, level, threads)
    layers = Coding(stored, None if compression is not None else level, threads)
    with ExitStack() as stack:
        is_hashed = sha256 or report is not None
        store = _open_store(target, form, archive, recipe, stack, force=force, is_hashed=is_hashed)
        writer = _Writer(_open_form(form, store), recipe, layers, stack)
        writer.report = report
        writer.is_chosen = keep_layers and layer_compression is not None
        writer.is_alone = len(wanted) == 1
        written = tuple(
            writer.add_kept(one, created) if keep_layers else writer.add(one, squash_from, created)
            for one in wanted
        )
        writer.finish()
        for one in wanted:
            one.image.check_unchanged()
        mark("write")
        store.publish()
        for one in wanted:
            one.image.check_unchanged()
        mark("publish")
        result = ImagesResult(written, store.size, store.sha256, writer.warnings)
        if report is not None:
            _note(report, result, target, form, archive, layers)
            for one in wanted:
                report.warn(one.image.warnings)
        return result


def _note(
    report: Report,
    result: ImagesResult,
    target: str | os.PathLike[str] | BinaryIO,
    form: FormName,
    archive: Coding,
    layers: Coding,
) -> None:
    """Tell a report what was written."""
    from dimgx.report import Output

    report.add_output(
        Output(
            os.fspath(target) if isinstance(target, (str, os.PathLike)) else "-",
            form,
            archive.compression,
            archive.level,
            result.size,
            result.sha256,
            layers.compression,
            layers.level,
            tuple(
                (str(one.id), str(one.digest) if one.digest else None, tuple(map(str, one.names)))
                for one in result.images
            ),
        )
    )
    report.warn(result.warnings)


def _compression(word: str) -> Compression | None:
    return "gzip" if word == "gzip" else "zstd" if word == "zstd" else None


def _open_form(form: FormName, store: Store) -> Form:
    from dimgx.targets.dockerform import DockerArchiveForm, DockerDirectoryForm
    from dimgx.targets.ociform import OciForm

    if form == "docker-archive":
        return DockerArchiveForm(store)
    return DockerDirectoryForm(store) if form == "docker-dir" else OciForm(store)


def _open_store(
    target: str | os.PathLike[str] | BinaryIO,
    form: FormName,
    coding: Coding,
    recipe: Recipe,
    stack: ExitStack,
    *,
    force: bool,
    is_hashed: bool,
) -> Store:
    from dimgx.targets.archive import FileArchive, StreamedArchive
    from dimgx.targets.directory import DirectoryStore
    from dimgx.targets.tarfile import FileTarget, open_stream_target, open_target

    path = os.fspath(target) if isinstance(target, (str, os.PathLike)) else None
    if form in ("oci-dir", "docker-dir"):
        if path is None or coding.compression is not None:
            raise UsageError(f"{form} is a directory: it is named by a path and not compressed")
        directory = DirectoryStore(path, force=force)
        stack.callback(directory.abort)
        directory.create()
        return directory
    if path is not None:
        opened = open_target(path, force=force, resources=stack)
    else:
        assert not isinstance(target, (str, os.PathLike))
        opened = open_stream_target(target)
        stack.callback(opened.abort)
    if isinstance(opened, FileTarget) and coding.compression is None:
        return FileArchive(opened, is_hashed=is_hashed)
    space = stack.enter_context(SpoolSpace(recipe.memory, directories(recipe.tmpdir)))
    return StreamedArchive(opened, coding, space, is_hashed=is_hashed)


class _Writer:
    """Puts layers and images into a form."""

    def __init__(self, form: Form, recipe: Recipe, coding: Coding, resources: ExitStack) -> None:
        self._form, self._recipe, self._coding = form, recipe, coding
        self._resources = resources
        self._known: dict[Hashable, StoredLayer] = {}
        self._warnings: dict[str, None] = {}
        self._done = 0
        self.is_chosen = False
        """Somebody said how layers are to be stored; kept ones too, then."""
        self.is_alone = True
        """There is one image only."""
        self.report: Report | None = None
        """What is to be told of the work."""
        self._figures: dict[Hashable, TarFigures] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd but usable, each once."""
        return tuple(self._warnings)

    def finish(self) -> None:
        """Put what lists the images."""
        self._form.finish()

    def add(
        self, wanted: ResultImage, squash_from: str | Row | None, created_s: int | None
    ) -> WrittenImage:
        """Make one layer of an image, or of its rows from `squash_from` up."""
        image = self._whole(wanted)
        recipe = self._recipe
        if wanted.layers is not None:
            recipe = replace(recipe, layers=wanted.layers)
        position = 0
        if squash_from is not None:
            position = _find_row(image, squash_from).position
            image = self._at_hand(image, position)
            rows = list_rows(image)
            recipe = replace(recipe, layers=rows[position:], below=rows[:position])
        below = layers_of(image, list_rows(image)[:position])
        stored = [self._keep(image, layer) for layer in below]
        rows = list_rows(image) if recipe.layers is None else chosen_rows(image, recipe.layers)
        merged = [row for row in rows if not row.is_empty]
        if not merged and recipe.layers is not None:
            raise LayerSpecError("nothing is left to flatten: the chosen rows have no layer")
        stored.append(self._flatten(image, recipe, merged, () if recipe.below else below))
        created = time_of(created_s) if created_s is not None else created_of(image)
        ids = [row.diff_id or row.digest or row.id for row in merged]
        verb = "flattened" if squash_from is None else "squashed"
        step = made_step(verb, ids, created, wanted.origin)
        history = [*kept_steps(image, position), step]
        config = make_config(image, [layer.diff_id for layer in stored], history, created)
        return self._add(wanted, MadeImage(config, tuple(stored), self._names(wanted)))

    def add_kept(self, wanted: ResultImage, created_s: int | None) -> WrittenImage:
        """Bring an image into the form, as little changed as that allows."""
        image = self._whole(wanted)
        if self.report is not None:
            self.report.add_kept(image, image.layers)
        stored = tuple(self._keep(image, layer) for layer in image.layers)
        config, manifest = image.config, image.manifest
        has_rootfs = config is not None and config.diff_ids is not None
        guards = manifest is not None and self._form.has_manifest
        if config is not None and (has_rootfs or guards):
            data = config.data
        else:
            rows = len(list_rows(image))
            created = time_of(created_s) if created_s is not None else created_of(image)
            diff_ids = [layer.diff_id for layer in stored]
            data, manifest = make_config(image, diff_ids, kept_steps(image, rows), created), None
        return self._add(wanted, MadeImage(data, stored, self._names(wanted), manifest))

    def _add(self, wanted: ResultImage, made: MadeImage) -> WrittenImage:
        digest = self._form.add_image(made)
        self._warnings.update(dict.fromkeys(self._form.find_odd_names(made.names)))
        return WrittenImage(made.id, digest, made.names, made.layers)

    def _whole(self, wanted: ResultImage) -> Image:
        """Give the image with its config, which an engine may have to be asked for."""
        image = wanted.image
        if image.fetch_whole is None:
            return image
        whole = image.fetch_whole(ticker(self._recipe.progress, self._recipe.cancel))
        return replace(image, layers=whole.layers, config=whole.config, manifest=whole.manifest)

    def _at_hand(self, image: Image, position: int) -> Image:
        """Give the image with what lies below a row at hand, as it is needed twice.

        Memory: as `Recipe.memory` says, and temporary files beyond that.
        """
        below = layers_of(image, list_rows(image)[:position])
        if not has_fetched(below):
            return image
        space = SpoolSpace(self._recipe.memory, directories(self._recipe.tmpdir))
        self._resources.enter_context(space)
        here = {}
        for layer in dict.fromkeys(below):
            spool = space.open()
            for chunk in layer.blob.iter_chunks():
                self._tick(0)
                spool.write(chunk)
            here[layer] = replace(layer, blob=spool.finish())
        return replace(image, layers=tuple(here.get(layer, layer) for layer in image.layers))

    def _names(self, wanted: ResultImage) -> tuple[ResultName, ...]:
        if wanted.names is None:
            return own_names(wanted.image)
        return tuple(
            name if isinstance(name, (ImageName, LayoutName)) else parse_tag(name)
            for name in wanted.names
        )

    def _keep(self, image: Image, layer: Layer) -> StoredLayer:
        number = image.layers.index(layer) + 1
        name = layer.digest or layer.diff_id
        what = f"layer {number}/{len(image.layers)}" + (f" {name}" if name else "")
        allowed = {self._coding.compression} if self.is_chosen else self._form.kept
        return self._put(
            KeptPart(
                layer,
                what,
                allowed=allowed,
                coding=self._coding,
                verify=self._recipe.verify,
                tick=self._tick,
            )
        )

    def _flatten(
        self, image: Image, recipe: Recipe, rows: Sequence[Row], kept: Sequence[Layer]
    ) -> StoredLayer:
        ids = [row.diff_id or row.digest for row in rows]
        below = tuple(row.diff_id or row.digest for row in recipe.below if not row.is_empty)
        key = None if None in (*ids, *below) else ("flattened", below, *ids)
        if key is not None and key in self._known:
            if self.report is not None:
                self.report.add_again(image, self._figures[key])
            return self._known[key]
        with ExitStack() as stack:
            flat = stack.enter_context(open_flat_of(image, recipe))
            # What goes to a pipe is put together again in the end. Of several images each would
            # have to stay in memory until then.
            tar = None if self.report is None else self.report.add_flat(image, flat, kept)
            if tar is not None:
                self._figures[key] = tar
            part = FlatPart(flat, self._coding, key, is_repeatable=self.is_alone, tar=tar)
            stored = self._put(part)
            self._warnings.update(dict.fromkeys(flat.warnings))
            if part.is_repeatable:
                self._resources.push(stack.pop_all())
        return stored

    def _put(self, part: Part) -> StoredLayer:
        key = part.key
        if key is None or key not in self._known:
            stored = self._form.add_layer(part)
            if key is None:
                return stored
            self._known[key] = stored
        return self._known[key]

    def _tick(self, size: int) -> None:
        recipe = self._recipe
        if recipe.cancel is not None and recipe.cancel():
            raise Cancelled("cancelled")
        self._done += size
        if recipe.progress is not None:
            from dimgx.extractor import Progress

            recipe.progress(Progress("write", self._done, None))


def _find_row(image: Image, spec: str | Row) -> Row:
    """Give the one row that a layer spec names.

    Raises: LayerSpecError where it names none, or several.
    """
    if isinstance(spec, Row):
        return spec
    from dimgx.layerspec import select

    found = select(list_rows(image), (spec,), strict=True).rows
    if len(found) != 1:
        raise LayerSpecError(f"{spec!r:.300} names {len(found)} rows, and one is squashed from")
    return found[0]
