"""The command's run: options and environment in, images opened and chosen from, something done.

What is made of the chosen rows, and where it goes, is in `outputs`.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from dimgx import __version__
from dimgx.console.context import Chosen, Context
from dimgx.console.terminal import is_terminal, print_text, terminal_width
from dimgx.errors import ImageError, LayerSpecError, SourceError, UsageError
from dimgx.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from dimgx.console.messages import Messages
    from dimgx.console.options import Options
    from dimgx.image import Image
    from dimgx.inspector import Row
    from dimgx.platforms import Platform


def run(args: Sequence[str], messages: Messages, cancel: Callable[[], bool] | None = None) -> int:
    """Do what `args` (without the program's name) ask for, and give the exit code.

    `cancel` is asked now and then; it may raise what ends the run.

    Raises: DimgxError, whose kind tells the exit code.
    """
    from dimgx.console.options import parse_args

    try:
        options = parse_args(args, __version__, messages.set_up)
    except SystemExit:  # --help and its kind are done
        return 0
    context = _look_around(options, messages, cancel)
    if options.origin is not None:
        _show_origin(options.origin)
        return 0
    if options.platforms:
        _show_platforms(context)
        return 0
    if not options.has_result:
        return _list(context)

    from dimgx.console import outputs
    from dimgx.console.beside import Beside

    outputs.check_early(options)
    with ExitStack() as stack:
        beside = Beside(options, stack)
        chosen: list[Chosen] = []
        for reference in options.images:
            chosen += _open_all(reference, context.beside(chosen), stack)
        with context.waiting() as line:
            beside.prepare(chosen[0], None if line is None else line.pull)
        if context.report is not None:
            context.report.mark("open")
        if options.add_layers:
            context = _with_pipes_kept(chosen, context, stack)
        code = outputs.make(chosen, context)
        for item in chosen:
            messages.warn(item.image.warnings)
        beside.finish(context.report, messages)
    return code


def _open_all(reference: str, context: Context, resources: ExitStack) -> Sequence[Chosen]:
    """Open an image for each platform that it is wanted for; the same one comes once."""
    from dimgx.image import told_of

    found: dict[object, Chosen] = {}
    platforms = _wanted_platforms(reference, context)
    for platform in platforms:
        is_alone = len(context.options.images) == len(platforms) == 1
        beside = context.beside((*context.others, *found.values()))
        with told_of(None if is_alone else reference, platform if len(platforms) > 1 else None):
            opened = resources.enter_context(_opened(reference, platform, beside))
        image = opened.image
        found.setdefault((image.id, image.digest, image.platform), opened)
    return tuple(found.values())


def _with_pipes_kept(chosen: Sequence[Chosen], context: Context, resources: ExitStack) -> Context:
    """Give the context with what is added from pipes kept: several results may want it."""
    from dimgx.flattening import with_pipes_kept
    from dimgx.recipe import make_recipe

    spaces = [one.image.spool for one in chosen]
    recipe = make_recipe(context.tar_options(None, None))
    recipe = with_pipes_kept(recipe, resources, spaces)
    options = context.options._replace(
        add_layers=tuple(map(str, recipe.add_layers)), memory=recipe.memory
    )
    return context._replace(options=options)


def _show_origin(target: str) -> None:
    from dimgx import api
    from dimgx.console.targetname import target_path
    from dimgx.targets.state import origins_text

    path = target_path(target)
    if path == "-":
        raise UsageError("--origin looks into a file, not into standard input: name the target")
    found = api.read_origin(path)
    print_text(origins_text(found, path))


def _list(context: Context) -> int:
    options = context.options
    reference = options.images[0]
    (platform,) = _wanted_platforms(reference, context)
    with _opened(reference, platform, context) as chosen:
        _show(chosen, options)
        context.messages.warn(chosen.image.warnings)
    return 0


@contextmanager
def _opened(reference: str, platform: Platform | None, context: Context) -> Iterator[Chosen]:
    """Open an image and choose from it, for as long as the context lasts."""
    from dimgx import layerspec
    from dimgx.inspector import list_rows

    options = context.options
    with _open(reference, platform, context) as image:
        _tell_image(image, context.messages)
        rows = list_rows(image)
        context.messages.warn(layerspec.number_warnings(options.layers, len(rows)))
        selection = layerspec.select(
            rows, options.layers, reverse=options.reverse, strict=options.strict
        )
        if selection.unknown:
            context.messages.warn([_left_out(selection.unknown)])
        rows = selection.rows
        yield Chosen(
            reference,
            image,
            _rows_to_flatten(image, rows, options) if options.has_result else rows,
        )


def _open(reference: str, platform: Platform | None, context: Context) -> Image:
    from dimgx import api
    from dimgx.console.engines import engine_options

    options = context.options
    with context.waiting() as line:
        return api.open_image(
            reference,
            platform=platform,
            verify=options.verify,
            stdin=context.stdin,
            memory=context.memory,
            tmpdir=context.tmpdirs,
            registry=context.registry,
            engine=engine_options(reference, options, None if line is None else line.pull),
            progress=line,
            cancel=context.cancel,
        )


def _rows_to_flatten(image: Image, rows: Sequence[Row], options: Options) -> Sequence[Row] | None:
    """Give the rows that become one layer; None for no choice of them.

    That is where layers are kept or squashed, and an image without layers, which is an empty tar.

    Raises: LayerSpecError where no row is left.
    """
    if options.keep_layers or options.squash_from is not None:
        return None
    if not options.layers and not image.layers:
        return None
    if not rows:
        raise LayerSpecError(
            f"nothing is left to flatten: no row is named by {', '.join(options.layers)}; without a"
            " target the rows are listed"
        )
    return rows


def _left_out(unknown: Sequence[str]) -> str:
    count = len(unknown)
    what = "a layer spec names" if count == 1 else f"{count} layer specs name"
    return f"{what} no row and {'is' if count == 1 else 'are'} left out: {', '.join(unknown)}"


def _wanted_platforms(reference: str, context: Context) -> Sequence[Platform | None]:
    """Give the platforms that an image is wanted for; None is this machine's, or the only one.

    Raises: UsageError where one is misspelled; DimgxError where they cannot be listed.
    """
    if not context.options.platform:
        return (None,)
    from dimgx.platforms import ALL_PLATFORMS, parse_platform

    if context.options.platform != ALL_PLATFORMS:
        return tuple(dict.fromkeys(map(parse_platform, context.options.platform)))
    listed = _list_platforms(reference, context)
    found = [platform for platform in listed if platform.os != "windows"]
    odd = ", ".join(str(platform) for platform in listed if platform.os == "windows")
    if found and odd:
        context.messages.warn([f"{reference} is left out for {odd}: no Linux root file system"])
    return [_alone_among(platform, found) for platform in found] or (None,)


def _alone_among(platform: Platform, others: Sequence[Platform]) -> Platform:
    """Give the wish that this one meets, and no variant of it that is among the others."""
    kin = [other for other in others if other[:2] == platform[:2]]
    # Without any it would be met by the most common one, as `linux/arm` is by v7.
    return platform._replace(variant="") if platform.variant is None and len(kin) > 1 else platform


def _show_platforms(context: Context) -> None:
    from dimgx.console.listing import escape
    from dimgx.platforms import parse_platform

    (reference,) = context.options.images
    wish = next(map(parse_platform, context.options.platform), None)
    found = _list_platforms(reference, context)
    print_text("".join(f"{escape(str(platform))}\n" for platform in found))
    if wish is not None and found and all(wish.rank(platform) is None for platform in found):
        raise ImageError(f"{reference} holds no image for {wish}")


def _list_platforms(reference: str, context: Context) -> list[Platform]:
    from dimgx import api
    from dimgx.console.engines import engine_options

    options = context.options
    with context.waiting() as line:
        return api.list_platforms(
            reference,
            stdin=context.stdin,
            registry=context.registry,
            engine=engine_options(reference, options, None if line is None else line.pull),
            verify=options.verify,
            memory=context.memory,
            tmpdir=context.tmpdirs,
            progress=line,
            cancel=context.cancel,
        )


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
    facts = [f"image {image.id}"]
    if image.digest:
        facts.append(f"manifest {image.digest}")
    if image.platform:
        facts.append(f"platform {image.platform}")
    if image.store:
        facts.append(f"read from {image.store}")
    messages.tell(f"{image.reference}: {', '.join(facts)}")
    for index, layer in enumerate(image.layers):
        names = []
        if layer.digest:
            names.append(f"blob {layer.digest}")
        if layer.diff_id:
            names.append(f"diff_id {layer.diff_id}")
        messages.tell(f"layer {index + 1}/{len(image.layers)}: {', '.join(names) or 'no digest'}")


def _look_around(
    options: Options, messages: Messages, cancel: Callable[[], bool] | None
) -> Context:
    registry = report = None
    if options.report is not None:
        from dimgx.report import Report

        report = Report()
    stdin = _check_stdin(options.images)
    if any(image.startswith("docker://") for image in options.images):
        from dimgx.console.access import registry_options

        registry = registry_options(options, os.environ)
    return Context(
        options=options,
        messages=messages,
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
    if makes_times:
        from dimgx.images.imageconfig import time_of

        try:
            time_of(int(text))
        except UsageError as exc:
            raise UsageError(f"SOURCE_DATE_EPOCH: {exc}") from None
    return int(text)
