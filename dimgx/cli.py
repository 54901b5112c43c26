"""The command: argv, environment, terminal, exit codes. Nothing below it knows of these."""

from __future__ import annotations

import io
import os
import sys

from dimgx import __version__
from dimgx.errors import (
    DimgxError,
    ImageError,
    LayerSpecError,
    SourceError,
    TemporaryError,
    UsageError,
)

# Not the one of typing: `--version` is done before that is imported.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from dimgx.image import Image
    from dimgx.inspector import Row
    from dimgx.messages import Messages
    from dimgx.options import Options
    from dimgx.registryoptions import RegistryOptions

EXIT_DONE, EXIT_USAGE, EXIT_WORLD, EXIT_LAYER_SPEC, EXIT_LATER, EXIT_BUG = 0, 1, 2, 3, 4, 70


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default this process's, and give its exit code.

    A signal that ends it, and a reader of standard output that goes away, end the process.
    """
    args = sys.argv[1:] if argv is None else list(argv)
    if args in (["-V"], ["--version"]):
        # What a script asks first needs no parser.
        try:
            print(f"dimgx {__version__}", flush=True)
        except OSError:
            pass  # It goes wrong once more below, and is told there.
        else:
            return EXIT_DONE
    from dimgx.messages import Messages
    from dimgx.signals import SIGPIPE, Signalled, die_by, raised_signals

    messages = Messages()
    try:
        with raised_signals():
            return _run_guarded(args, messages)
    except Signalled as exc:
        die_by(exc.number)
    except BrokenPipeError:
        die_by(SIGPIPE)


def _run_guarded(args: Sequence[str], messages: Messages) -> int:
    """Run, and turn whatever goes wrong into one line and an exit code."""
    try:
        _run(args, messages)
        _print()
    except BrokenPipeError:
        raise
    except DimgxError as exc:
        messages.fail(str(exc))
        return _exit_code(exc)
    except OSError as exc:
        # The disk, the memory of the kernel, a file that went away: the world's, not ours.
        where = f"{os.fsdecode(exc.filename)}: " if exc.filename else ""
        messages.fail(f"{where}{exc.strerror or exc}")
        return EXIT_WORLD
    except Exception:
        import traceback

        traceback.print_exc()
        return EXIT_BUG
    messages.show_kept()
    return EXIT_DONE


def _exit_code(exc: DimgxError) -> int:
    if isinstance(exc, UsageError):
        return EXIT_USAGE
    if isinstance(exc, LayerSpecError):
        return EXIT_LAYER_SPEC
    return EXIT_LATER if isinstance(exc, TemporaryError) else EXIT_WORLD


def _run(args: Sequence[str], messages: Messages) -> None:
    from dimgx.options import parse_args

    try:
        options = parse_args(args, __version__)
    except SystemExit:  # --help and its kind are done
        return
    try:
        messages.set_up(options.log_level, options.log_format)
    except ValueError as exc:
        raise UsageError(f"--log-format: {exc}") from exc
    stdin = _check_stdin(options.image)
    clamp_mtime = _source_date_epoch() if options.clamp_mtime else None
    tmpdirs = _tmpdirs(options.tmpdir)
    stdout = _check_target(options) if options.target is not None else None

    registry = None
    if options.image.startswith("docker://"):
        from dimgx.access import registry_options

        registry = registry_options(options, os.environ)
    if options.platforms:
        _show_platforms(options, stdin, tmpdirs, registry)
        return

    from dimgx import layerspec
    from dimgx.inspector import list_rows

    image = _open(options, stdin, tmpdirs, registry)
    with image:
        _tell_image(image, messages)
        selection = layerspec.select(
            list_rows(image), options.layers, reverse=options.reverse, strict=options.strict
        )
        if selection.unknown:
            messages.warn([_left_out(selection.unknown)])
        if options.target is None:
            _show(image, selection.rows, options)
        else:
            messages.warn(_suffix_warnings(options))
            _write(image, selection.rows, options, stdout, tmpdirs, clamp_mtime, messages)
        messages.warn(image.warnings)


def _open(
    options: Options,
    stdin: BinaryIO | None,
    tmpdirs: Sequence[str],
    registry: RegistryOptions | None,
) -> Image:
    from dimgx import api
    from dimgx.progress import ProgressLine
    from dimgx.sources.endpoint import EngineOptions

    line = ProgressLine(sys.stderr) if not options.quiet and _is_terminal(sys.stderr) else None

    def tick(done: int, total: int | None) -> None:
        if line is not None:
            from dimgx.reading import Progress

            line(Progress("pull", done, total))

    try:
        return api.open_image(
            options.image,
            platform=options.platform,
            verify=options.verify,
            stdin=stdin,
            memory=options.memory,
            tmpdir=tmpdirs,
            registry=registry,
            engine=EngineOptions.of(os.environ, host=options.host, pull=options.pull, tick=tick),
        )
    finally:
        if line is not None:
            line.clear()


def _left_out(unknown: Sequence[str]) -> str:
    count = len(unknown)
    what = "a layer spec names" if count == 1 else f"{count} layer specs name"
    return f"{what} no row and {'is' if count == 1 else 'are'} left out: {', '.join(unknown)}"


def _show_platforms(
    options: Options,
    stdin: BinaryIO | None,
    tmpdirs: Sequence[str],
    registry: RegistryOptions | None,
) -> None:
    from dimgx import api
    from dimgx.platforms import parse_platform
    from dimgx.sources.endpoint import EngineOptions

    wish = None if options.platform is None else parse_platform(options.platform)
    found = api.list_platforms(
        options.image,
        stdin=stdin,
        registry=registry,
        engine=EngineOptions.of(os.environ, host=options.host, pull=options.pull),
        verify=options.verify,
        memory=options.memory,
        tmpdir=tmpdirs,
    )
    if sys.stdout is None:
        raise SourceError("standard output is closed, so there is nowhere to list to")
    _print("".join(f"{platform}\n" for platform in found))
    if wish is not None and all(wish.rank(platform) is None for platform in found):
        raise ImageError(f"{options.image} holds no image for {wish}")


def _show(image: Image, rows: Sequence[Row], options: Options) -> None:
    from dimgx import listing
    from dimgx.inspector import inspect
    from dimgx.system import usable_cpus

    threads = options.threads or usable_cpus()
    found = inspect(image, rows=rows, sizes=not options.quiet, threads=threads)
    if options.quiet:
        text = listing.format_ids(found)
    elif options.json:
        text = listing.format_json(found)
    else:
        import time

        text = listing.format_table(found, width=_terminal_width(), now_s=time.time())
    if sys.stdout is None:
        raise SourceError("standard output is closed, so there is nowhere to list to")
    _print(text)


def _write(
    image: Image,
    rows: Sequence[Row],
    options: Options,
    stdout: BinaryIO | None,
    tmpdirs: Sequence[str],
    clamp_mtime: int | None,
    messages: Messages,
) -> None:
    from dimgx import api
    from dimgx.progress import ProgressLine

    assert options.target is not None
    # An image without layers is an empty tar; a choice that comes to nothing is a mistake.
    chosen = rows if options.layers or image.layers else None
    if chosen is not None and all(row.is_empty for row in chosen):
        raise LayerSpecError("nothing is left to flatten: no chosen row has a layer")
    line = ProgressLine(sys.stderr) if not options.quiet and _is_terminal(sys.stderr) else None
    try:
        result = api.flatten(
            image,
            options.target if stdout is None else stdout,
            layers=chosen,
            compression=options.compression,
            level=options.level,
            force=options.force,
            verify=options.verify,
            threads=options.threads,
            memory=options.memory,
            tmpdir=tmpdirs,
            root_entry=options.root_entry,
            clamp_mtime=clamp_mtime,
            sha256=messages.is_verbose,
            progress=line,
        )
    finally:
        if line is not None:
            line.clear()
    messages.warn(result.warnings)
    if messages.is_verbose:
        name = "standard output" if options.to_stdout else options.target
        messages.tell(f"{name}: {result.size} bytes, sha256:{result.sha256}")
        if options.compression is not None:
            messages.tell(f"the tar in it: {result.length} bytes")


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


def _check_stdin(reference: str) -> BinaryIO | None:
    if sys.stdin is None:
        if _reads_stdin(reference):
            raise SourceError("standard input is closed, so no image can be read from it")
        return None
    if _reads_stdin(reference) and _is_terminal(sys.stdin):
        raise UsageError("standard input is a terminal: pipe an image archive into dimgx")
    return sys.stdin.buffer


def _reads_stdin(reference: str) -> bool:
    return reference == "-" or reference.startswith("-:")


def _check_target(options: Options) -> BinaryIO | None:
    """Give standard output as a file if that is the target, and find out early what cannot work."""
    assert options.target is not None
    if not options.to_stdout:
        if options.target.startswith(("/dev/fd/", "/proc/self/fd/")):
            return None
        if not options.force and os.path.isfile(options.target):
            raise SourceError(f"{options.target} exists; use -w/--force to replace it")
        if not os.path.isdir(os.path.dirname(options.target) or os.curdir):
            raise SourceError(f"{options.target} cannot be written: its directory does not exist")
        return None
    if sys.stdout is None:
        raise SourceError("standard output is closed, so there is nowhere to write to")
    if _is_terminal(sys.stdout):
        raise UsageError("standard output is a terminal: redirect it, or name a file with -t")
    sys.stdout.flush()
    return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)


def _suffix_warnings(options: Options) -> Sequence[str]:
    """Give what is odd about the target's suffix; a device or a FIFO needs none."""
    assert options.target is not None
    if os.path.exists(options.target) and not os.path.isfile(options.target):
        return ()
    if options.target.startswith("/dev/fd/"):
        return ()
    return options.warnings


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


def _source_date_epoch() -> int:
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        raise UsageError("--clamp-mtime needs SOURCE_DATE_EPOCH, which is not set")
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}, not seconds since 1970")
    return int(text)


def _is_terminal(stream: object) -> bool:
    try:
        return stream is not None and bool(stream.isatty())  # type: ignore[attr-defined]  # a file
    except ValueError:  # closed
        return False


def _terminal_width() -> int | None:
    if not _is_terminal(sys.stdout):
        return None
    import shutil

    return shutil.get_terminal_size().columns


def _print(text: str = "") -> None:
    """Write to standard output, whatever its encoding, and see that it arrives."""
    if sys.stdout is None:
        return
    try:
        if text and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        _drop_stdout()
        raise SourceError(f"standard output cannot be written: {exc.strerror or exc}") from exc


def _drop_stdout() -> None:
    """Forget what could not be written, so that the interpreter does not try once more."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
