"""The command's process: its limits, signals and exit codes. What it does is in `console`."""

from __future__ import annotations

import os
import sys

from dimgx import __version__
from dimgx.errors import (
    DimgxError,
    LayerSpecError,
    TemporaryError,
    UsageError,
)

# Not the one of typing: `--version` is done before that is imported.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from dimgx.console.messages import Messages

EXIT_DONE, EXIT_USAGE, EXIT_WORLD, EXIT_LAYER_SPEC, EXIT_LATER, EXIT_BUG = 0, 1, 2, 3, 4, 70
# 5, that --check would write, comes from the command itself.

# Not all that may be: programs that are started from here have the same bound, and some of them
# close all files that it allows one by one.
_MOST_FILES = 1 << 16


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default this process's, and give its exit code.

    A signal that ends it, and a reader of standard output that goes away, end the process.
    """
    args = sys.argv[1:] if argv is None else list(argv)
    if args in (["-V"], ["--version"]) and sys.stdout is not None:
        # What a script asks first needs no parser.
        line = f"dimgx {__version__}\n".encode()
        try:
            if os.write(sys.stdout.fileno(), line) == len(line):
                return EXIT_DONE
        except OSError:
            pass  # It goes wrong once more below, and is told there.
    import gc

    from dimgx.console.messages import Messages
    from dimgx.console.signals import SIGPIPE, Signalled, die_by, heed_children, raised_signals

    # A member more is no object that could be in a cycle, but each search for cycles goes through
    # the lists of all members: as often as is usual, that is a seventh of a large image's time.
    gc.set_threshold(100_000, 50, 100)
    # glibc gives blocks of 128 KiB and more back to the kernel as soon as they are free, and new
    # ones have to be touched anew; but it keeps those below the largest that was freed so far.
    try:
        bytes(31 << 20)
    except MemoryError:  # then it is left as it is
        pass
    _allow_many_files()
    heed_children()
    messages = Messages()
    try:
        with raised_signals() as check:
            return _run_guarded(args, messages, check)
    except Signalled as exc:
        die_by(exc.number)
    except BrokenPipeError:
        die_by(SIGPIPE)
    finally:
        _settle_stderr()


def _settle_stderr() -> None:
    """Forget what standard error did not take: Python would try again, and end with 120."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        sys.stderr = None


def _allow_many_files() -> None:
    """Have as many files open as the process may: each layer, decoded or in a directory, is one."""
    try:
        import resource
    except ImportError:  # not on Unix
        return
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # some systems have a lower limit of their own, or none to tell
        pass


def end_at_once() -> None:
    """Let Ctrl-C end the process as other signals do, as long as there is nothing to clean up."""
    # What `signal` is made of, which takes 4 ms to import.
    import _signal  # type: ignore[import-not-found]

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def program() -> NoReturn:
    """Run as the program `dimgx`: as `main`, and end the process.

    All that was opened is closed by then, and nothing is left to be saved. To take the interpreter
    down all the same takes 10 to 30 ms; `python -m dimgx` does it, and so shows what is left open.
    """
    end_at_once()
    os._exit(main())


def _run_guarded(args: Sequence[str], messages: Messages, cancel: Callable[[], bool]) -> int:
    """Run, and turn whatever goes wrong into one line and an exit code."""
    from dimgx.console.command import run

    try:
        code = run(args, messages, cancel)
    except BrokenPipeError:
        raise
    except (DimgxError, OSError) as exc:
        if _is_out_of_files(exc):
            messages.fail("too many files are open: raise `ulimit -n`")
            return EXIT_WORLD
        if isinstance(exc, DimgxError):
            messages.fail(str(exc))
            return _exit_code(exc)
        # The disk, the memory of the kernel, a file that went away: the world's, not ours.
        import errno

        where = f"{os.fsdecode(exc.filename)}: " if exc.filename else ""
        if exc.errno == errno.ENOENT and not where:  # what asks for it names no file
            messages.fail("the working directory is gone: run dimgx in one that is there")
        else:
            messages.fail(f"{where}{exc.strerror or exc}")
        return EXIT_WORLD
    except MemoryError:
        messages.fail("memory is out: free some, or give a smaller --memory or fewer --threads")
        return EXIT_WORLD
    except Exception:
        import traceback

        traceback.print_exc()
        return EXIT_BUG
    messages.show_kept()
    return code


def _is_out_of_files(exc: BaseException) -> bool:
    """Tell whether too many files are open: whatever was to be opened, there is one thing to do."""
    import errno

    while exc.__cause__ is not None:
        exc = exc.__cause__
    return isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE)


def _exit_code(exc: DimgxError) -> int:
    if isinstance(exc, UsageError):
        return EXIT_USAGE
    if isinstance(exc, LayerSpecError):
        return EXIT_LAYER_SPEC
    return EXIT_LATER if isinstance(exc, TemporaryError) else EXIT_WORLD
