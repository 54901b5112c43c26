"""Standard output and terminals: whether somebody looks, and writing so that it arrives."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from dimgx.console.targetname import STDOUT_TARGETS
from dimgx.errors import SourceError

if TYPE_CHECKING:
    from typing import BinaryIO, TextIO


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person is at the other end of `stream`; Python has None where it is closed."""
    return stream is not None and stream.isatty()


def terminal_width() -> int | None:
    """Give the columns of the terminal that standard output is; None if it is none."""
    if not is_terminal(sys.stdout):
        return None
    import shutil

    return shutil.get_terminal_size().columns


def is_stdout(path: str) -> bool:
    """Tell whether what is written to `path` goes to standard output, whatever it is called."""
    if path in STDOUT_TARGETS:
        return True
    if sys.stdout is None:
        return False
    try:
        is_same = os.path.samefile(path, sys.stdout.fileno())
        # What goes there does not get mixed up.
        return is_same and not os.path.samefile(path, os.devnull)
    except OSError:  # there is no such file, or no descriptor
        return False


def check_stdout() -> None:
    """See that there is a standard output.

    Raises: SourceError where it is closed.
    """
    if sys.stdout is None:
        raise SourceError("standard output is closed, so there is nowhere to write to")


def open_stdout() -> BinaryIO:
    """Give standard output, for bytes and without a buffer."""
    sys.stdout.flush()
    return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)


def print_text(text: str) -> None:
    """Write to standard output, whatever its encoding, and see that it arrives.

    Raises: SourceError where it does not; BrokenPipeError where the reader went away.
    """
    # Where there is nothing to write, it does not matter whether that could be done.
    if not text:
        return
    check_stdout()
    from dimgx.targets.singlefile import open_stream_target

    # With PYTHONUNBUFFERED, `sys.stdout` forgets what a full disk or a pipe did not take.
    open_stream_target(open_stdout()).write(text.encode(sys.stdout.encoding, "backslashreplace"))
