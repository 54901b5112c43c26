"""The command's run: options and environment in, images opened and chosen from, something done.

What is made of the chosen rows, and where it goes, is in `outputs`.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from dimgx import __version__
from dimgx.console.chosen import Chosen, Surroundings
from dimgx.console.progress import Waiting
from dimgx.console.terminal import is_terminal, print_text, terminal_width
from dimgx.errors import ImageError, SourceError, UsageError
from dimgx.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from dimgx.console.messages import Messages
    from dimgx.console.options import Options
    from dimgx.image import Image, Tick
    from dimgx.sources.endpoint import EngineOptions


def run(args: Sequence[str], messages: Messages, cancel: Callable[[], bool] | None = None) -> int:
    """Do what `args` (without the program's name) ask for, and give the exit code.

    `cancel` is asked now and then; it may raise what ends the run.

    Raises: DimgxError, whose kind tells the exit code.
    """
    from dimgx.console.options import parse_args

    try:
        options = parse_args(args, __version__)
    except SystemExit:  # --help and its kind are done
        return 0
    try:
        messages.set_up(options.log_level, options.log_format)
    except ValueError as exc:
        raise UsageError(f"--log-format: {exc}") from exc
    surroundings = _look_around(options, cancel)
    if options.origin is not None:
        _show_origin(options.origin)
        return 0
    if options.platforms:
        _show_platforms(options, surroundings)
        return 0
    if not options.has_result:
        return _list(options, surroundings, messages)

    from dimgx.console import outputs
    from dimgx.console.beside import Beside

    outputs.check_early(options)
    report = surroundings.report
    with ExitStack() as stack:
        beside = Beside(options, stack)
        chosen = [
            stack.enter_context(_opened(reference, options, surroundings, messages))
            for reference in options.images
        ]
        with Waiting(is_wanted=not options.quiet) as line:
            beside.prepare(chosen[0], None if line is None else line.pull)
        if report is not None:
            report.mark("open")
        if options.add_layers:
            from dimgx.flattening import with_pipes_kept
            from dimgx.recipe import Recipe

            recipe = Recipe(
                add_layers=options.add_layers,
                memory=options.memory,
                tmpdir=surroundings.tmpdirs,
                cancel=surroundings.cancel,
            )
            kept = with_pipes_kept(recipe, stack).add_layers
            options = options._replace(add_layers=tuple(map(str, kept)))
        code = outputs.make(chosen, options, surroundings, messages)
        for item in chosen:
            messages.warn(item.image.warnings)
        beside.finish(report, messages)
    return code


def _show_origin(target: str) -> None:
    from dimgx import api
    from dimgx.console.targetname import target_path
    from dimgx.targets.state import origins_text

    path = target_path(target)
    found = api.read_origin(path)
    print_text(origins_text(found, path))


def _list(options: Options, surroundings: Surroundings, messages: Messages) -> int:
    with _opened(options.images[0], options, surroundings, messages) as chosen:
        _show(chosen, options)
        messages.warn(chosen.image.warnings)
    return 0


@contextmanager
def _opened(
    reference: str, options: Options, surroundings: Surroundings, messages: Messages
) -> Iterator[Chosen]:
    """Open an image and choose from it, for as long as the context lasts."""
    from dimgx import layerspec
    from dimgx.inspector import list_rows

    with _open(reference, options, surroundings) as image:
        _tell_image(image, messages)
        selection = layerspec.select(
            list_rows(image), options.layers, reverse=options.reverse, strict=options.strict
        )
        if selection.unknown:
            messages.warn([_left_out(selection.unknown)])
        yield Chosen(reference, image, selection.rows)


def _open(reference: str, options: Options, surroundings: Surroundings) -> Image:
    from dimgx import api

    with Waiting(is_wanted=not options.quiet) as line:
        tick = None if line is None else line.pull
        return api.open_image(
            reference,
            platform=options.platform,
            verify=options.verify,
            stdin=surroundings.stdin,
            memory=options.memory,
            tmpdir=surroundings.tmpdirs,
            registry=surroundings.registry,
            engine=_engine(reference, options, tick),
            progress=line,
        )


def _engine(reference: str, options: Options, tick: Tick | None) -> EngineOptions | None:
    """Give how an engine is asked; None where nothing says anything about one."""
    from dimgx.console.handover import host_for, kind_of

    is_said = options.host is not None or options.pull != "never"
    if not is_said and kind_of(reference) is None:
        return None
    from dimgx.sources.endpoint import EngineOptions

    return EngineOptions.of(
        os.environ,
        host=host_for(reference, options),
        pull=options.pull,
        tick=tick,
        are_rows_wanted=bool(options.layers or options.squash_from)
        or not (options.check or options.update),
    )


def _left_out(unknown: Sequence[str]) -> str:
    count = len(unknown)
    what = "a layer spec names" if count == 1 else f"{count} layer specs name"
    return f"{what} no row and {'is' if count == 1 else 'are'} left out: {', '.join(unknown)}"


def _show_platforms(options: Options, surroundings: Surroundings) -> None:
    from dimgx import api
    from dimgx.console.listing import escape
    from dimgx.platforms import parse_platform
    from dimgx.sources.endpoint import EngineOptions

    (reference,) = options.images
    wish = None if options.platform is None else parse_platform(options.platform)
    found = api.list_platforms(
        reference,
        stdin=surroundings.stdin,
        registry=surroundings.registry,
        engine=EngineOptions.of(os.environ, host=options.host, pull=options.pull),
        verify=options.verify,
        memory=options.memory,
        tmpdir=surroundings.tmpdirs,
    )
    print_text("".join(f"{escape(str(platform))}\n" for platform in found))
    if wish is not None and found and all(wish.rank(platform) is None for platform in found):
        raise ImageError(f"{reference} holds no image for {wish}")


def _show(chosen: Chosen, options: Options) -> None:
    from dimgx.console import listing
    from dimgx.inspector import inspect
    from dimgx.system import usable_cpus

    threads = options.threads or usable_cpus()
    found = inspect(chosen.image, rows=chosen.rows, sizes=not options.quiet, threads=threads)
    if options.quiet:
        text = listing.format_ids(found)
    elif options.json:
        text = listing.format_json(found)
    else:
        import time

        text = listing.format_table(found, width=terminal_width(), now_s=time.time())
    print_text(text)


def _tell_image(image: Image, messages: Messages) -> None:
    facts = [f"image {image.id}" if image.id else "an image without an ID"]
    if image.digest:
        facts.append(f"manifest {image.digest}")
    if image.platform:
        facts.append(f"platform {image.platform}")
    messages.tell(f"{image.reference}: {', '.join(facts)}")
    for index, layer in enumerate(image.layers):
        names = []
        if layer.digest:
            names.append(f"blob {layer.digest}")
        if layer.diff_id:
            names.append(f"diff_id {layer.diff_id}")
        messages.tell(f"layer {index + 1}/{len(image.layers)}: {', '.join(names) or 'no digest'}")


def _look_around(options: Options, cancel: Callable[[], bool] | None) -> Surroundings:
    registry = report = None
    if options.report is not None:
        from dimgx.report import Report

        report = Report()
    stdin = _check_stdin(options.images)
    if any(image.startswith("docker://") for image in options.images):
        from dimgx.console.access import registry_options

        registry = registry_options(options, os.environ)
    return Surroundings(
        stdin=stdin,
        tmpdirs=_tmpdirs(options.tmpdir),
        source_date_epoch=_source_date_epoch(options),
        registry=registry,
        report=report,
        cancel=cancel,
    )


def _check_stdin(references: Sequence[str]) -> BinaryIO | None:
    reads_stdin = any(parse_reference(text).transport == "stdin" for text in references)
    if sys.stdin is None:
        if reads_stdin:
            raise SourceError("standard input is closed, so no image can be read from it")
        return None
    if reads_stdin and is_terminal(sys.stdin):
        raise UsageError("standard input is a terminal: pipe an image archive into dimgx")
    return sys.stdin.buffer


def _tmpdirs(named: str | None) -> tuple[str, ...]:
    """Give where temporary files may lie, best first."""
    if named is not None and not (os.path.isdir(named) and os.access(named, os.W_OK | os.X_OK)):
        raise SourceError(f"--tmpdir {named} is no directory that can be written to")
    candidates = (
        named,
        os.environ.get("DIMGX_TMPDIR"),
        os.environ.get("TMPDIR"),
        *(("/var/tmp", "/tmp") if os.name == "posix" else (os.environ.get("TEMP"),)),
    )
    return tuple(dict.fromkeys(path for path in candidates if path))


def _source_date_epoch(options: Options) -> int | None:
    makes_times = options.load or (options.target and options.target.form != "tar")
    if not options.clamp_mtime and not makes_times:
        return None
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        if options.clamp_mtime:
            raise UsageError("--clamp-mtime needs SOURCE_DATE_EPOCH, which is not set")
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}, not seconds since 1970")
    return int(text)
