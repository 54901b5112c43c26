"""Images as results: flattened to one layer, squashed from a row up, or only brought into a form.

Nothing is shown before every digest that is checked has matched.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, get_args

from dimgx.codec import COMPRESSIONS, Coding
from dimgx.encode import check_level
from dimgx.errors import UsageError
from dimgx.flattening import with_memory_used, with_pipes_kept
from dimgx.image import Image, names_among, told_of
from dimgx.imagemaker import ImageMaker, ResultImage, WrittenImage
from dimgx.images.resultnames import LayoutName
from dimgx.platforms import differ
from dimgx.recipe import (
    CONTENT,
    SHAPE,
    check_list,
    check_target,
    check_time,
    check_unused,
    check_word,
    make_recipe,
)
from dimgx.spool import SpoolSpace
from dimgx.targets.forms import FormName, usual_layer_compression

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from dimgx.codec import Compression
    from dimgx.images.resultnames import ResultName
    from dimgx.inspector import Row
    from dimgx.recipe import Recipe, TarOptions
    from dimgx.report import Report
    from dimgx.targets.forms import Form
    from dimgx.targets.store import Store

LayerCompression = Literal["none", "gzip", "zstd"]


class ImagesResult(NamedTuple):
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
    sync: bool = True,
    sha256: bool = False,
    report: Report | None = None,
    record: bool = False,
    keep_images: bool = False,
    **options: Unpack[TarOptions],
) -> ImagesResult:
    """Write `images` to `target` in the form of an image; all but docker-dir takes several.

    In OCI's forms, images of one name and different platforms are listed as one index.
    Without `keep_layers` and `squash_from` each is flattened to one layer. `layer_compression` is
    that of layers which are made, or cannot stay as they are; None is "none" in Docker's forms and
    "gzip" in OCI's. With `keep_layers` one that is said is for all layers. `compression` is that of
    an archive as a whole. `level` is for that, or else for the layers. `created`, in seconds since
    1970, takes the place of the source's time. What an image was made from stands in its history's
    comment; with `record` it stands beside images that keep their layers, and so their configs,
    too. With `keep_images` an OCI layout that is there keeps what it has, but for what has the name
    of a new image. The other parameters are those of `flatten`, `options` the keys of `TarOptions`.

    Raises: ImageError, SourceError, LayerSpecError, UsageError, TemporaryError, Cancelled.
    """
    recipe = make_recipe(options, report.mark if report else str)
    check_target(target, recipe.add_layers)
    check_word(form, get_args(FormName), "form")
    check_word(layer_compression, (None, *get_args(LayerCompression)), "layer_compression")
    check_time(created, "created")
    check_word(compression, (None, *COMPRESSIONS), "compression")
    wanted = [ResultImage(item) if isinstance(item, Image) else item for item in images]
    if not wanted:
        raise UsageError("no image was given: one at least is needed")
    if keep_images and form != "oci-dir":
        raise UsageError(f"images are kept in an OCI layout (oci-dir), and not in {form}")
    if len(wanted) > 1 and form == "docker-dir":
        raise UsageError(f"{len(wanted)} images do not go into one {form}: all other forms do it")
    for one in wanted:
        check_list(one.names, "names")
        check_list(one.layers, "layers")
    check_names(wanted, form)
    if keep_layers:
        check_unused(recipe, ("layers", *CONTENT, *SHAPE), "where layers are kept")
        if created is not None:
            raise UsageError("created has no effect where layers are kept")
    check_unused(recipe, ("root_entry",), "on the layer of an image")
    if squash_from is not None:
        check_unused(recipe, ("layers",), "with squash_from")
    if (keep_layers or squash_from is not None) and any(one.layers for one in wanted):
        raise UsageError("layers has no effect where layers are kept, or squashed from one up")
    if keep_layers and squash_from is not None:
        raise UsageError("layers are kept, or squashed from one of them up, but not both")
    if keep_layers and level is not None and layer_compression is None and compression is None:
        raise UsageError(
            f"compression level {level} has no effect on layers that are kept: say how to store"
            " them, too (layer_compression)"
        )
    word = layer_compression or usual_layer_compression(form)
    stored = None if word == "none" else word
    check_level(compression or stored, level)
    threads = recipe.worker_count
    archive = Coding(compression, level, threads)
    layers = Coding(stored, None if compression is not None else level, threads)
    with ExitStack() as stack:
        for one in wanted:
            stack.enter_context(one.image.using())
        spaces = [one.image.spool for one in wanted if one.image.spool is not None]
        recipe = with_pipes_kept(recipe, stack, spaces)
        is_hashed = sha256 or report is not None
        store, held = _open_store(
            target,
            form,
            archive,
            with_memory_used(recipe, *spaces),
            stack,
            force=force,
            sync=sync,
            is_hashed=is_hashed,
            has_long_names=any(map(_has_long_names, wanted)),
            keep_images=keep_images,
            # A plain layer of one image is made once more in the end (`ImageMaker._flatten`).
            is_kept=len(wanted) > 1 or stored is not None or keep_layers or squash_from is not None,
        )
        writer = _open_form(form, store)
        if recipe.memory is not None:
            recipe = recipe._replace(memory=recipe.memory - held)
        maker = ImageMaker(writer, recipe, layers, spaces, stack)
        maker.report = report
        maker.is_chosen = keep_layers and layer_compression is not None
        maker.is_alone = len(wanted) == 1
        maker.is_recorded = record
        written = []
        for one in wanted:
            with told_of(*names_among(one.image, (other.image for other in wanted))):
                written.append(
                    maker.add_kept(one) if keep_layers else maker.add(one, squash_from, created)
                )
        last = writer.finish()

        def check() -> None:
            for one in wanted:
                one.image.check_unchanged()

        recipe.mark("write")
        store.publish(last, check)
        recipe.mark("publish")
        result = ImagesResult(tuple(written), store.size, store.sha256, maker.warnings)
        if report is not None:
            _note(report, result, target, form, archive, layers)
            for one in wanted:
                report.warn(one.image.warnings)
        return result


def check_names(wanted: Sequence[ResultImage], form: FormName) -> None:
    """See that no two images would have one name, but in OCI's forms for different platforms.

    Raises: UsageError.
    """
    is_oci = form in ("oci-archive", "oci-dir")
    known: dict[ResultName, list[Image]] = {}
    for one in wanted:
        image = one.image
        for name in one.result_names():
            if not is_oci and isinstance(name, LayoutName):
                continue  # it is left out
            others = known.setdefault(name, [])
            for other in others:
                is_told_apart = is_oci and differ(other.platform, image.platform)
                if other.id != image.id and not is_told_apart:
                    each = " of each platform" if is_oci else ""
                    how = " and --keep-images" if form == "oci-dir" else ""
                    raise UsageError(
                        f"{other.reference} and {image.reference} are both named {name}, which is"
                        f" one image's{each}: write them one by one, with a --tag for each{how}"
                    )
            others.append(image)


def _has_long_names(wanted: ResultImage) -> bool:
    """Tell whether layers have names that do not fit into one block of a header."""
    digests = [layer.digest for layer in wanted.image.layers]
    return any(digest is not None and digest.algorithm != "sha256" for digest in digests)


def _note(
    report: Report,
    result: ImagesResult,
    target: str | os.PathLike[str] | BinaryIO,
    form: FormName,
    archive: Coding,
    layers: Coding,
) -> None:
    """Tell a report what was written."""
    from dimgx.report import Output, name_of

    images = tuple(
        (
            str(one.id),
            str(one.digest) if one.digest else None,
            one.platform,
            tuple(map(str, one.names)),
        )
        for one in result.images
    )
    if not any(layer.is_made for one in result.images for layer in one.layers):
        layers = Coding(None)
    output = Output(name_of(target), form, archive, result.size, result.sha256, layers, images)
    report.add_output(output)
    report.warn(result.warnings)


def _open_form(form: FormName, store: Store) -> Form:
    from dimgx.targets.directory import DirectoryStore
    from dimgx.targets.dockerform import DockerArchiveForm, DockerDirectoryForm
    from dimgx.targets.ociform import OciForm

    if form == "docker-archive":
        return DockerArchiveForm(store)
    if form == "docker-dir":
        return DockerDirectoryForm(store)
    return OciForm(store, store.read_index() if isinstance(store, DirectoryStore) else None)


def _open_store(
    target: str | os.PathLike[str] | BinaryIO,
    form: FormName,
    coding: Coding,
    recipe: Recipe,
    stack: ExitStack,
    *,
    force: bool,
    sync: bool,
    is_hashed: bool,
    has_long_names: bool,
    keep_images: bool,
    is_kept: bool,
) -> tuple[Store, int]:
    """Give what is written to, and how much memory of the recipe it may keep."""
    from dimgx.targets.archive import FileArchive, StreamedArchive
    from dimgx.targets.directory import DirectoryStore
    from dimgx.targets.singlefile import FileTarget, open_place

    if form in ("oci-dir", "docker-dir"):
        if not isinstance(target, (str, os.PathLike)) or coding.compression is not None:
            raise UsageError(f"{form} is a directory: it is named by a path and not compressed")
        directory = DirectoryStore(
            os.fspath(target), force=force, sync=sync, keeps_images=keep_images
        )
        stack.callback(directory.abort)
        directory.create()
        return directory, 0
    opened = open_place(target, force=force, sync=sync, resources=stack)
    if isinstance(opened, FileTarget) and coding.compression is None and not has_long_names:
        return FileArchive(opened, is_hashed=is_hashed), 0
    # One half for what the layers are made of, and one for what is made.
    held = None if recipe.memory is None else recipe.memory // 2 if is_kept else 0
    space = stack.enter_context(SpoolSpace(held, recipe.tmpdirs))
    return StreamedArchive(opened, coding, space, is_hashed=is_hashed), held or 0
