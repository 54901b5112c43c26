"""What the command makes of the chosen rows, and where it puts that."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from dimgx.console.beside import check_apart
from dimgx.console.jobs import check_absent, check_replaceable, plan_jobs
from dimgx.console.listing import escape
from dimgx.console.progress import Waiting
from dimgx.console.targetname import DIRECTORY_FORMS, is_template
from dimgx.console.terminal import check_stdout, is_terminal, open_stdout, print_text
from dimgx.errors import LayerSpecError, SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from dimgx.api import Result
    from dimgx.console.chosen import Chosen, Surroundings
    from dimgx.console.jobs import Job
    from dimgx.console.messages import Messages
    from dimgx.console.options import Options
    from dimgx.console.progress import ProgressLine
    from dimgx.console.targetname import TargetName
    from dimgx.console.upkeep import Verdict
    from dimgx.inspector import Row
    from dimgx.merging.pathrules import PathRule
    from dimgx.recipe import TarOptions

EXIT_DONE, EXIT_OUTDATED = 0, 5


def check_early(options: Options) -> None:
    """Find out what cannot work before anything is opened.

    Raises: UsageError, SourceError.
    """
    from dimgx.targets.errors import translated

    _check_content(options)
    _check_descriptors(options)
    target = options.target
    if target is None:
        check_stdout()
        return
    if target.is_stdout:
        check_stdout()
        if is_terminal(sys.stdout):
            raise UsageError("standard output is a terminal: redirect it, or name a file with -t")
        return
    if target.path.startswith(("/dev/fd/", "/proc/self/fd/")):
        return
    if is_template(target.path):
        from dimgx.console.template import parse_template

        parse_template(target.path)
        return
    if not options.check:
        # What is there is looked at later, if it matters what it is.
        check_replaceable(target, force=options.force or options.update)
    path = target.path.rstrip("/") if target.form in DIRECTORY_FORMS else target.path
    with translated(target.path):
        os.stat(os.path.join(os.path.dirname(path) or os.curdir, ""))


def _check_descriptors(options: Options) -> None:
    from dimgx.targets.singlefile import check_descriptor

    result = None if options.target is None else options.target.path
    for path in (result, options.write_config, options.report):
        if path is not None:
            check_descriptor(path)


def _check_content(options: Options) -> None:
    """See that what is said about paths makes sense, and that what is to be added is there."""
    if options.paths or options.prefix is not None:
        from dimgx.merging.content import Content

        Content(_path_rules(options), options.strip_components, options.prefix)
    for path in options.add_layers:
        try:
            os.stat(path)
        except OSError as exc:
            raise SourceError(f"{path} cannot be added: {exc.strerror}") from exc


def _path_rules(options: Options) -> tuple[PathRule, ...]:
    from dimgx.merging.pathrules import PathRule

    return tuple(PathRule(is_included, pattern) for is_included, pattern in options.paths)


def make(
    chosen: Sequence[Chosen], options: Options, surroundings: Surroundings, messages: Messages
) -> int:
    """Make what `options` ask for of the images that are open, and give the exit code.

    Raises: DimgxError.
    """
    if options.target is None:
        _hand_over(chosen, options, surroundings, messages)
        return EXIT_DONE
    jobs = plan_jobs(chosen, options.target)
    check_apart(options, (job.target for job in jobs))
    if options.check or options.update:
        verdicts = [(job, _judge(job, options, surroundings)) for job in jobs]
        if options.check:
            return _tell_verdicts(verdicts)
        for job, verdict in verdicts:
            messages.tell(f"{job.target.path}: {verdict.reason}")
            verdict.allow(job.target.path, force=options.force)
        for job, verdict in verdicts:
            if not verdict.is_current:
                force = options.force or verdict.exists
                _do(job, options._replace(force=force), surroundings, messages)
        return EXIT_DONE
    if len(jobs) > 1 and not options.force:
        check_absent(jobs)
    for job in jobs:
        _do(job, options, surroundings, messages)
    return EXIT_DONE


def _judge(job: Job, options: Options, surroundings: Surroundings) -> Verdict:
    """Tell how the target of a job stands."""
    from dimgx.console import upkeep
    from dimgx.recipe import Recipe

    wanted = []
    for one in job.chosen:
        rows = _rows_to_flatten(one, options)
        recipe = Recipe(**_tar_options(options, surroundings, rows, None))
        created = surroundings.source_date_epoch
        wanted.append(upkeep.wanted_of(one, recipe, job.target, options, created))
    return upkeep.judge(job.target.path, wanted, tmpdirs=surroundings.tmpdirs)


def _tell_verdicts(verdicts: Sequence[tuple[Job, Verdict]]) -> int:
    """Print the reasons, with the target where there are several, and give the exit code."""
    for job, verdict in verdicts:
        path = f"{job.target.path}: " if len(verdicts) > 1 else ""
        print_text(f"{escape(path + verdict.reason)}\n")
    is_current = all(verdict.is_current for _, verdict in verdicts)
    return EXIT_DONE if is_current else EXIT_OUTDATED


def _do(job: Job, options: Options, surroundings: Surroundings, messages: Messages) -> None:
    """Make one result."""
    target = job.target
    messages.warn(_target_warnings(target))
    with ExitStack() as stack:
        if options.target is not target:
            from dimgx.console.template import make_parents

            make_parents(target.path, stack)
        if options.raw:
            _write_raw(job.chosen[0], target, options, surroundings, messages)
        elif target.form == "tar":
            _write_tar(job.chosen[0], target, options, surroundings, messages)
        else:
            _write_images(job, options, surroundings, messages)


def _write_images(
    job: Job, options: Options, surroundings: Surroundings, messages: Messages
) -> None:
    from dimgx.console.imageoutput import write

    rows = [_rows_to_flatten(item, options) for item in job.chosen]
    with Waiting(is_wanted=not options.quiet) as line:
        write(
            job,
            _place(job.target),
            rows,
            options,
            surroundings.source_date_epoch,
            messages,
            _tar_options(options, surroundings, None, line),
            surroundings.report,
        )


def _write_raw(
    chosen: Chosen,
    target: TargetName,
    options: Options,
    surroundings: Surroundings,
    messages: Messages,
) -> None:
    from dimgx import api

    with Waiting(is_wanted=not options.quiet) as line:
        result = api.write_raw(
            chosen.image,
            _place(target),
            layers=_rows_to_flatten(chosen, options),
            compression=target.compression,
            level=options.level,
            force=options.force,
            sync=options.sync,
            sha256=messages.is_verbose,
            verify=options.verify,
            threads=options.threads,
            memory=options.memory,
            tmpdir=surroundings.tmpdirs,
            progress=line,
            cancel=surroundings.cancel,
        )
    _tell_tar(result, target, messages)


def _write_tar(
    chosen: Chosen,
    target: TargetName,
    options: Options,
    surroundings: Surroundings,
    messages: Messages,
) -> None:
    from dimgx import api

    rows = _rows_to_flatten(chosen, options)
    with Waiting(is_wanted=not options.quiet) as line:
        result = api.flatten(
            chosen.image,
            _place(target),
            compression=target.compression,
            level=options.level,
            force=options.force,
            sync=options.sync,
            sha256=messages.is_verbose,
            report=surroundings.report,
            record=options.update,
            **_tar_options(options, surroundings, rows, line),
        )
    messages.warn(result.warnings)
    _tell_tar(result, target, messages)


def _tell_tar(result: Result, target: TargetName, messages: Messages) -> None:
    if messages.is_verbose:
        name = "standard output" if target.is_stdout else target.path
        messages.tell(f"{name}: {result.size} bytes, sha256:{result.sha256}")
        if target.compression is not None:
            messages.tell(f"the tar in it: {result.length} bytes")


def _hand_over(
    chosen: Sequence[Chosen], options: Options, surroundings: Surroundings, messages: Messages
) -> None:
    """Hand the images to an engine, and print the IDs that they have there."""
    from dimgx.console import handover

    rows = [_rows_to_flatten(one, options) for one in chosen]
    with closing(handover.open_engine_target(options, os.environ)) as target:
        with Waiting(is_wanted=not options.quiet) as line:
            shared = _tar_options(options, surroundings, None, line)
            if options.load is not None:
                created = surroundings.source_date_epoch
                ids, warnings = handover.load(
                    target, chosen, rows, options, created, surroundings.report, shared
                )
            else:
                ids, warnings = handover.import_tars(
                    target, chosen, rows, options, surroundings.report, shared
                )
        messages.warn(warnings)
        print_text("".join(f"{id}\n" for id in ids))


def _rows_to_flatten(chosen: Chosen, options: Options) -> Sequence[Row] | None:
    """Give the rows that become one layer; None for no choice of them.

    That is where layers are kept or squashed, and an image without layers, which is an empty tar.

    Raises: LayerSpecError for a choice that comes to nothing.
    """
    if options.keep_layers or options.squash_from is not None:
        return None
    if not options.layers and not chosen.image.layers:
        return None
    if not chosen.rows:
        raise LayerSpecError(
            f"nothing is left to flatten: no row is named by {', '.join(options.layers)}; without a"
            " target the rows are listed"
        )
    if all(row.is_empty for row in chosen.rows):
        raise LayerSpecError("nothing is left to flatten: no chosen row has a layer")
    return chosen.rows


def _tar_options(
    options: Options,
    surroundings: Surroundings,
    rows: Sequence[Row] | None,
    progress: ProgressLine | None,
) -> TarOptions:
    """Give the options of the command line that the functions of the library share."""
    return {
        "layers": rows,
        "paths": _path_rules(options) if options.paths else (),
        "strip_components": options.strip_components,
        "prefix": options.prefix,
        "add_layers": options.add_layers,
        "verify": options.verify,
        "threads": options.threads,
        "memory": options.memory,
        "tmpdir": surroundings.tmpdirs,
        "root_entry": options.root_entry,
        "clamp_mtime": surroundings.source_date_epoch if options.clamp_mtime else None,
        "progress": progress,
        "cancel": surroundings.cancel,
    }


def _place(target: TargetName) -> str | BinaryIO:
    return open_stdout() if target.is_stdout else target.path


def _target_warnings(target: TargetName) -> Sequence[str]:
    """Give what is odd about the target's suffix; a device or a FIFO needs none."""
    if target.path.startswith("/dev/fd/"):
        return ()
    if os.path.exists(target.path) and not os.path.isfile(target.path):
        return ()
    return target.warnings
