"""The command's results that are images, in a form of their own or handed to an engine."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, cast

from dimgx.console.engines import kind_of, open_engine_target
from dimgx.images.resultnames import own_names, parse_names
from dimgx.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dimgx.console.context import Chosen, Context
    from dimgx.console.options import Options
    from dimgx.console.progress import ProgressLine
    from dimgx.console.targetname import Form, TargetName
    from dimgx.imagemaker import ResultImage
    from dimgx.images.resultnames import ResultName
    from dimgx.imagewriter import ImagesResult
    from dimgx.targets.engine import EngineTarget, Imported


def write_images(
    chosen: Sequence[Chosen],
    target: TargetName | None,
    place: str | BinaryIO,
    context: Context,
    progress: ProgressLine | None,
) -> ImagesResult:
    """Write images to `place` in the form that `target` has, that of an engine without one.

    Raises: DimgxError.
    """
    from dimgx import imagewriter

    options = context.options
    form: Form = "docker-archive" if target is None else target.form
    assert form != "tar"
    return imagewriter.write_images(
        [result_image(one, target, options) for one in chosen],
        place,
        form=form,
        keep_layers=options.keep_layers,
        keep_images=options.keep_images,
        squash_from=options.squash_from,
        layer_compression=options.layer_compression,
        compression=None if target is None else target.compression,
        level=options.compress_level,
        created=None if options.keep_layers else context.source_date_epoch,
        force=options.force,
        sync=options.sync,
        sha256=context.messages.is_verbose and target is not None,
        report=context.report,
        record=options.update,
        **context.tar_options(None, progress),
    )


def result_image(chosen: Chosen, target: TargetName | None, options: Options) -> ResultImage:
    """Give what is to be written of an image.

    Raises: UsageError where a name is none.
    """
    from dimgx.imagemaker import ResultImage

    return ResultImage(chosen.image, names_for(chosen, target, options), chosen.rows)


def names_for(
    chosen: Chosen, target: TargetName | None, options: Options
) -> tuple[ResultName, ...]:
    """Give the names of an image: those said, else that which it was asked by or those it has.

    In an engine that it may come from its own names stay with it.

    Raises: UsageError where one is no name.
    """
    if options.tags:
        return parse_names(options.tags, None if target is None else target.layout_name)
    if target is None and kind_of(chosen.asked) is not None:
        return ()
    return own_names(chosen.image, parse_reference(chosen.asked).name)


def tell_images(result: ImagesResult, target: TargetName, context: Context) -> None:
    """Tell what was written, where that is wanted."""
    messages = context.messages
    messages.warn(result.warnings)
    if not messages.is_verbose:
        return
    hashed = f", sha256:{result.sha256}" if result.sha256 else ""
    messages.tell(f"{target.shown}: {result.size} bytes{hashed}")
    for image in result.images:
        facts = [f"image {image.id}"]
        if image.digest is not None:
            facts.append(f"manifest {image.digest}")
        facts += [f"layer {layer.digest}, {layer.size} bytes" for layer in image.layers]
        messages.tell(f"{' = '.join(map(str, image.names)) or 'no name'}: {', '.join(facts)}")


def hand_over(chosen: Sequence[Chosen], context: Context) -> Sequence[str]:
    """Load images into an engine, or import their flat tars there; give the IDs.

    Raises: DimgxError.
    """
    with closing(open_engine_target(context.options)) as engine, context.waiting() as line:
        give = _load if context.options.load is not None else _import
        return give(engine, chosen, context, line)


def _load(
    engine: EngineTarget, chosen: Sequence[Chosen], context: Context, progress: ProgressLine | None
) -> Sequence[str]:
    from dimgx.stream import Pushed

    with closing(Pushed(engine.load, engine.where, engine.stop)) as file:
        result = write_images(chosen, None, cast("BinaryIO", file), context, progress)
        ids = file.finish()
    context.messages.warn(result.warnings)
    return ids


def _import(
    engine: EngineTarget, chosen: Sequence[Chosen], context: Context, progress: ProgressLine | None
) -> Sequence[str]:
    from functools import partial

    from dimgx.api import flatten
    from dimgx.imagewriter import check_names
    from dimgx.stream import Pushed

    # As much as can be found out comes before anything is sent.
    check_names([result_image(one, None, context.options) for one in chosen], "docker-archive")
    imported = [_imported(one, context.options) for one in chosen]
    for what in imported:
        context.messages.warn(engine.check(what))
    ids = []
    for one, what in zip(chosen, imported, strict=True):
        beside = context.beside(other for other in chosen if other is not one)
        options = beside.tar_options(one.rows, progress)
        take = partial(engine.import_tar, what=what)
        with closing(Pushed(take, engine.where, engine.stop)) as file:
            result = flatten(one.image, cast("BinaryIO", file), report=context.report, **options)
            ids.append(file.finish())
        context.messages.warn(result.warnings)
    return ids


def _imported(chosen: Chosen, options: Options) -> Imported:
    """Give what goes with the plain tar of an image.

    Raises: ImageError where its config is malformed; UsageError for a bad name.
    """
    from dimgx.images.imageconfig import settings_of
    from dimgx.images.resultnames import familiar_names
    from dimgx.settings import Settings
    from dimgx.targets.engine import Imported

    settings = settings_of(chosen.image) or Settings()
    names = tuple(familiar_names(names_for(chosen, None, options)))
    return Imported(names, settings, chosen.image.platform)
