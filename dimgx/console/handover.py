"""Results that go into an engine: which one it is, and the way there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from dimgx.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dimgx.console.chosen import Chosen
    from dimgx.console.options import Options
    from dimgx.images.resultnames import ResultName
    from dimgx.inspector import Row
    from dimgx.recipe import TarOptions
    from dimgx.report import Report
    from dimgx.targets.engine import EngineTarget, Imported

_KINDS = {"docker-daemon": "docker", "podman": "podman"}
_R = TypeVar("_R")
_T = TypeVar("_T")


def kind_of(reference: str) -> str | None:
    """Give the kind of engine that an image is kept by; None for one from elsewhere."""
    return _KINDS.get(parse_reference(reference).transport)


def host_for(reference: str, options: Options) -> str | None:
    """Give the address that `-H` says for the engine of an image.

    An image from elsewhere leaves it to the engine that is to take it.
    """
    takes = options.load or options.import_
    return None if takes and kind_of(reference) is None else options.host


def open_engine_target(options: Options, environment: Mapping[str, str]) -> EngineTarget:
    """Give the engine that is to take the images.

    That is the one named, else the one that all of them came from, else one that is there.

    Raises: SourceError, TemporaryError.
    """
    from dimgx.sources.endpoint import EngineOptions
    from dimgx.sources.engines import open_target_engine
    from dimgx.targets.engine import EngineTarget

    kind: str = options.load or options.import_ or "any"
    origins = {kind_of(reference) for reference in options.images}
    (origin,) = origins if len(origins) == 1 else (None,)
    if kind == "any":
        kind = origin or "any"
    # `-H` means the engine that the images come from where that is another one.
    others = origins - {None, kind}
    host = None if others and kind != "any" else options.host
    engine = EngineOptions.of(environment, host=host)
    return EngineTarget(open_target_engine(kind, engine))


def engine_names(options: Options, chosen: Chosen) -> tuple[ResultName, ...]:
    """Give the names of an image in an engine: those said, else those it has elsewhere.

    In an engine that it may come from its own names stay with it.

    Raises: UsageError where one is no name.
    """
    if not options.tags and kind_of(chosen.asked) is not None:
        return ()
    from dimgx.console.imageoutput import names_for

    return names_for(chosen, None, options)


def load(
    target: EngineTarget,
    chosen: Sequence[Chosen],
    rows: Sequence[Sequence[Row] | None],
    options: Options,
    created: int | None,
    report: Report | None,
    shared: TarOptions,
) -> tuple[Sequence[str], Sequence[str]]:
    """Load images, of which `rows` are flattened, into an engine; give their IDs, and warnings.

    Raises: DimgxError.
    """
    from dimgx.imagemaker import ResultImage
    from dimgx.imagewriter import write_images

    images = [
        ResultImage(one.image, engine_names(options, one), own)
        for one, own in zip(chosen, rows, strict=True)
    ]
    result, ids = push(
        target.load,
        partial(
            write_images,
            images,
            form="docker-archive",
            keep_layers=options.keep_layers,
            squash_from=options.squash_from,
            layer_compression=options.layer_compression,
            created=created,
            report=report,
            **shared,
        ),
        target.where,
    )
    return ids, result.warnings


def import_tars(
    target: EngineTarget,
    chosen: Sequence[Chosen],
    rows: Sequence[Sequence[Row] | None],
    options: Options,
    report: Report | None,
    shared: TarOptions,
) -> tuple[Sequence[str], Sequence[str]]:
    """Import flattened tars with the images' settings; give the IDs, and warnings.

    Raises: DimgxError, as far as it can before anything is sent.
    """
    from dimgx.api import flatten

    found = [_imported(options, one) for one in chosen]
    warnings = [warning for what in found for warning in target.check(what)]
    ids = []
    for one, what, own in zip(chosen, found, rows, strict=True):
        shared["layers"] = own
        result, id = push(
            partial(target.import_tar, what=what),
            partial(flatten, one.image, report=report, **shared),
            target.where,
        )
        warnings += result.warnings
        ids.append(id)
    return ids, warnings


def _imported(options: Options, chosen: Chosen) -> Imported:
    """Give what goes with the plain tar of an image.

    Raises: ImageError where its config is malformed; UsageError for a bad name.
    """
    from dimgx.images.imageconfig import settings_of
    from dimgx.images.resultnames import familiar_names
    from dimgx.settings import Settings
    from dimgx.targets.engine import Imported

    settings = settings_of(chosen.image) or Settings()
    names = tuple(familiar_names(engine_names(options, chosen)))
    return Imported(names, settings, chosen.image.platform)


def push(
    consume: Callable[[Iterable[bytes]], _T], produce: Callable[[BinaryIO], _R], name: str
) -> tuple[_R, _T]:
    """Let `produce` write to a file that `consume` reads meanwhile, and give what came of both.

    What either raises is raised; then the other sees its end of the file break off.
    """
    from dimgx.stream import Pushed

    pushed = Pushed(consume, name)
    try:
        result = produce(cast("BinaryIO", pushed))
        return result, pushed.finish()
    finally:
        pushed.close()
