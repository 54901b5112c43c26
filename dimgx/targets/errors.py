"""What goes wrong while a target is written, in words that say what to do."""

from __future__ import annotations

import errno
import io
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dimgx.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_A_FILE = "name a file, or let tar fill it: dimgx -t - IMAGE | tar -xpf - -C DIRECTORY"
NO_DIRECTORY = "is no directory, which this form of an image is"
REASONS = {
    errno.ENOSPC: "no space is left on its disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not be as large as that there (by `ulimit -f`, or its file system)",
    errno.EROFS: "its file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EBUSY: "it is a mount point (a file that is bind-mounted?) and cannot be replaced: "
    "mount its directory instead, or write to stdout",
    errno.EXDEV: "it lies on another file system than its directory (a file that is "
    "bind-mounted?) and cannot be replaced: mount its directory instead, or write to stdout",
    errno.ENOENT: "its directory does not exist: make it first",
    errno.ENOTDIR: "a part of its path is no directory",
    errno.EISDIR: f"it is a directory: {NAME_A_FILE}",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "too many symbolic links",
    errno.ENXIO: "no such device, or a socket",
    errno.EBADF: "it is not open for writing",
    errno.EIO: "the disk or device reports an error",
}


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Make errors of the system ours; `name` is what people call the target.

    Raises: SourceError; BrokenPipeError where a reader left.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        # What Python itself refuses has no number.
        number = errno.EBADF if isinstance(exc, io.UnsupportedOperation) else exc.errno or 0
        reason = REASONS.get(number, exc.strerror or str(exc))
        if number == errno.ENOENT and name.endswith("/"):
            reason = f"a name that ends in a slash is a directory's: {NAME_A_FILE}"
        raise SourceError(f"{name} cannot be written: {reason}") from exc
