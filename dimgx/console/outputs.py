"""What the command makes of the chosen rows, and where it puts that."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dimgx.console.beside import check_apart
from dimgx.console.context import Job, path_rules
from dimgx.console.listing import escape
from dimgx.console.targetname import DIRECTORY_FORMS, is_template
from dimgx.console.terminal import check_stdout, is_terminal, open_stdout, print_text
from dimgx.errors import SourceError, UsageError
from dimgx.image import names_among, told_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from dimgx.console.context import Chosen, Context
    from dimgx.console.options import Options
    from dimgx.console.targetname import TargetName
    from dimgx.recipe import TreeOptions

EXIT_DONE, EXIT_OUTDATED = 0, 5


def check_early(options: Options) -> None:
    """Find out what cannot work before anything is opened.

    Raises: UsageError, SourceError.
    """
    from dimgx.targets.errors import translated

    _check_content(options)
    is_descriptor = _check_descriptors(options)
    target = options.target
    if target is None:
        check_stdout()
        return
    if target.is_stdout:
        check_stdout()
        if is_terminal(sys.stdout):
            raise UsageError("standard output is a terminal: redirect it, or name a file with -t")
        return
    if is_template(target.path):
        from dimgx.console.template import check_template

        check_template(target.path)
        return
    if is_descriptor:
        return
    if not options.check:
        # What is there is looked at later, if it matters what it is.
        force = options.force or options.update
        _check_replaceable(target, force=force, keep_images=options.keep_images)
    path = target.path.rstrip("/") if target.form in DIRECTORY_FORMS else target.path
    with translated(path):  # without the slash, which a directory's name may have
        os.stat(os.path.join(os.path.dirname(path) or os.curdir, ""))


def _check_descriptors(options: Options) -> bool:
    """See that what is to be written to is open, and tell whether the result goes there."""
    from dimgx.targets.singlefile import check_descriptor

    for path in (options.write_config, options.report):
        if path is not None:
            check_descriptor(path)
    return options.target is not None and check_descriptor(options.target.path)


def _check_content(options: Options) -> None:
    """See that what is said about paths makes sense, and that what is to be added is there."""
    if options.paths or options.prefix is not None:
        from dimgx.merging.content import Content

        Content(path_rules(options), options.strip_components, options.prefix)
    for path in options.add_layers:
        try:
            os.stat(path)
        except OSError as exc:
            raise SourceError(f"{path} cannot be added: {exc.strerror}") from exc


def make(chosen: Sequence[Chosen], context: Context) -> int:
    """Make what is asked for of the images that are open, and give the exit code.

    Raises: DimgxError.
    """
    options = context.options
    if options.target is None:
        from dimgx.console.imageoutput import hand_over

        print_text("".join(f"{id}\n" for id in hand_over(chosen, context)))
        return EXIT_DONE
    jobs = _plan_jobs(chosen, options.target)
    check_apart(options, (job.target for job in jobs))
    if options.check or options.update:
        return _keep_up_to_date(jobs, context)
    if len(jobs) > 1 and not options.force:
        # Before the first is written.
        for job in jobs:
            _check_replaceable(job.target, force=False, keep_images=options.keep_images)
    for job in jobs:
        _do(job, context)
    return EXIT_DONE


def _plan_jobs(chosen: Sequence[Chosen], target: TargetName) -> tuple[Job, ...]:
    """Give what is to be made: with fields in the target one of each image, else one of all.

    Raises: UsageError where two images come to one target; ImageError where an image does not have
        what a field stands for.
    """
    if not is_template(target.path):
        return (Job(tuple(chosen), target),)
    from dimgx.console.template import expand_all, values_of

    values = [values_of(item.image, index) for index, item in enumerate(chosen)]
    return tuple(
        Job((item,), target._replace(path=path), tuple(one for one in chosen if one is not item))
        for item, path in zip(chosen, expand_all(target.path, values), strict=True)
    )


def _check_replaceable(target: TargetName, *, force: bool, keep_images: bool) -> None:
    """See that what is at a target's place, if anything, may be replaced.

    Raises: SourceError.
    """
    if target.form in DIRECTORY_FORMS:
        from dimgx.targets.directory import DirectoryStore

        DirectoryStore(target.path, force=force, keeps_images=keep_images)
    elif not force and os.path.isfile(target.path):
        from dimgx.targets.singlefile import exists

        raise exists(target.path)


def _keep_up_to_date(jobs: Sequence[Job], context: Context) -> int:
    """Make those results that are outdated, or with --check print why they are; give the exit code.

    Raises: DimgxError.
    """
    from dimgx.console.upkeep import judge

    options = context.options
    verdicts = [(job, judge(job, context)) for job in jobs]
    if options.check:
        for job, verdict in verdicts:
            path = f"{job.target.path}: " if len(verdicts) > 1 else ""
            print_text(f"{escape(path + verdict.reason)}\n")
        is_current = all(verdict.is_current for _, verdict in verdicts)
        return EXIT_DONE if is_current else EXIT_OUTDATED
    for job, verdict in verdicts:
        context.messages.tell(f"{job.target.path}: {verdict.reason}")
        verdict.allow(job.target.path, force=options.force)
    for job, verdict in verdicts:
        if not verdict.is_current:
            force = options.force or verdict.exists
            _do(job, context._replace(options=options._replace(force=force)))
    return EXIT_DONE


def _do(job: Job, context: Context) -> None:
    """Make one result."""
    target = job.target
    context = context.beside(job.others)
    context.messages.warn(_target_warnings(target))
    names = names_among(job.chosen[0].image, (other.image for other in job.others))
    with told_of(*names), ExitStack() as stack:
        if context.options.target is not target:
            from dimgx.console.template import make_parents

            make_parents(target.path, stack)
        if target.form == "tar":
            _write_tar(job.chosen[0], target, context)
        else:
            from dimgx.console.imageoutput import tell_images, write_images

            with context.waiting() as line:
                result = write_images(job.chosen, target, _place(target), context, line)
            tell_images(result, target, context)


def _write_tar(chosen: Chosen, target: TargetName, context: Context) -> None:
    """Write the flat tar of an image, or with --raw that of a layer as it is."""
    from dimgx import api

    options, messages = context.options, context.messages
    place = _place(target)
    with context.waiting() as line:
        shared = context.tar_options(chosen.rows, line)
        if options.raw:
            # What shapes a flat tar does not go with --raw.
            of_a_layer: TreeOptions = shared
            result = api.write_raw(
                chosen.image,
                place,
                compression=target.compression,
                level=options.compress_level,
                force=options.force,
                sync=options.sync,
                sha256=messages.is_verbose,
                **of_a_layer,
            )
        else:
            result = api.flatten(
                chosen.image,
                place,
                compression=target.compression,
                level=options.compress_level,
                force=options.force,
                sync=options.sync,
                sha256=messages.is_verbose,
                report=context.report,
                record=options.update,
                **shared,
            )
    messages.warn(result.warnings)
    if messages.is_verbose:
        messages.tell(f"{target.shown}: {result.size} bytes, sha256:{result.sha256}")
        if target.compression is not None:
            messages.tell(f"the tar in it: {result.length} bytes")


def _place(target: TargetName) -> str | BinaryIO:
    return open_stdout() if target.is_stdout else target.path


def _target_warnings(target: TargetName) -> Sequence[str]:
    """Give what is odd about the target's suffix; a device, a FIFO or a descriptor needs none."""
    from dimgx.targets.singlefile import check_descriptor

    if check_descriptor(target.path):
        return ()
    if os.path.exists(target.path) and not os.path.isfile(target.path):
        return ()
    return target.warnings
