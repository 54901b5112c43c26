"""The command's results that are images: from its options to what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dimgx.images.resultnames import own_names, parse_names
from dimgx.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from dimgx.console.chosen import Chosen
    from dimgx.console.jobs import Job
    from dimgx.console.messages import Messages
    from dimgx.console.options import Options
    from dimgx.console.targetname import TargetName
    from dimgx.images.resultnames import ResultName
    from dimgx.imagewriter import ImagesResult
    from dimgx.inspector import Row
    from dimgx.recipe import TarOptions
    from dimgx.report import Report


def write(
    job: Job,
    place: str | BinaryIO,
    rows: Sequence[Sequence[Row] | None],
    options: Options,
    created: int | None,
    messages: Messages,
    shared: TarOptions,
    report: Report | None,
) -> ImagesResult:
    """Write the images of a job to `place` in the form that its target has.

    `rows` are those to flatten of each, `created` is in seconds since 1970.

    Raises: DimgxError.
    """
    from dimgx.imagemaker import ResultImage
    from dimgx.imagewriter import write_images

    target = job.target
    assert target.form != "tar"
    result = write_images(
        [
            ResultImage(item.image, names_for(item, target, options), chosen)
            for item, chosen in zip(job.chosen, rows, strict=True)
        ],
        place,
        form=target.form,
        keep_layers=options.keep_layers,
        squash_from=options.squash_from,
        layer_compression=options.layer_compression,
        compression=target.compression,
        level=options.level,
        created=created,
        force=options.force,
        sync=options.sync,
        sha256=messages.is_verbose,
        report=report,
        record=options.update,
        **shared,
    )
    messages.warn(result.warnings)
    _tell(result, target, messages)
    return result


def names_for(
    chosen: Chosen, target: TargetName | None, options: Options
) -> tuple[ResultName, ...]:
    """Give the names of an image: those said, else that which it was asked by or those it has.

    Raises: UsageError where one is no name.
    """
    given = parse_names(options.tags, None if target is None else target.layout_name)
    return given or own_names(chosen.image, parse_reference(chosen.asked).name)


def _tell(result: ImagesResult, target: TargetName, messages: Messages) -> None:
    if not messages.is_verbose:
        return
    name = "standard output" if target.is_stdout else target.path
    hashed = f", sha256:{result.sha256}" if result.sha256 else ""
    messages.tell(f"{name}: {result.size} bytes{hashed}")
    for image in result.images:
        facts = [f"image {image.id}"]
        if image.digest is not None:
            facts.append(f"manifest {image.digest}")
        facts += [f"layer {layer.digest}, {layer.size} bytes" for layer in image.layers]
        messages.tell(f"{' = '.join(map(str, image.names)) or 'no name'}: {', '.join(facts)}")
