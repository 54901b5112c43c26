"""Where layers lie while they are needed: in memory as far as the budget goes, then on disk.

Rules:

1. A spool begins in memory and stays there while the budget lasts; then it moves itself, whole,
   to an unlinked file in a temporary directory. So it is one file with offsets at any time.
2. The budget counts the spools in memory and what decoders have reserved. What cannot be refused
   (a reservation, a temporary directory that is itself in memory) is counted all the same, and
   leaves less for others.
3. Memory is touched once: pieces are written straight to the file in memory, nothing is joined.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING

from dimgx import system
from dimgx.errors import SourceError
from dimgx.extent import Extent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# A directory with less room than this is passed over while there is a better one.
_ROOM = 64 << 20


class SpoolSpace:
    """The budget of memory and the temporary directories that spools share; safe for threads.

    `memory` is the budget in bytes; None means a quarter of what is free, looked at again each
    time a spool is opened. `tmpdirs` are tried in order.
    """

    def __init__(self, memory: int | None, tmpdirs: Sequence[str] = ()) -> None:
        self._memory = memory
        self._tmpdirs = tuple(tmpdirs)
        self._lock = threading.Lock()
        self._limit = 0
        self.used = 0
        """Bytes of memory that are counted now."""
        self._spools: list[Spool] = []

    def left(self) -> int:
        """Give how many bytes of the budget are left."""
        return max(0, self._find_limit() - self.used)

    def open(self, expected: int = 0) -> Spool:
        """Give an empty spool; one that is expected to outgrow the budget begins on disk."""
        limit = self._find_limit()
        with self._lock:
            self._limit = limit
            fits = self.used + expected <= self._limit
        spool = Spool(self, in_memory=fits)
        self._spools.append(spool)
        return spool

    def _find_limit(self) -> int:
        return (system.free_memory() + self.used) // 4 if self._memory is None else self._memory

    def reserve(self, size: int) -> None:
        """Count `size` bytes that a decoder needs for its window, until they are released."""
        with self._lock:
            self.used += size

    def release(self, size: int) -> None:
        """Give back `size` bytes."""
        with self._lock:
            self.used -= size

    def try_reserve(self, size: int) -> bool:
        """Count `size` bytes if the budget has as many left, and tell whether it had."""
        with self._lock:
            if self.used + size > self._limit:
                return False
            self.used += size
            return True

    def open_file(self, size: int) -> tuple[int, str, bool]:
        """Give an unlinked file for `size` bytes and more, its directory, and if that is memory.

        Raises: SourceError where no directory can be written, or too many files are open.
        """
        import shutil

        found = []
        for directory in self._tmpdirs or _default_tmpdirs():
            with suppress(OSError):
                found.append((shutil.disk_usage(directory).free < size + _ROOM, directory))
        # Stable: among equals the first one named. A small one is better than none.
        for _, directory in sorted(found, key=itemgetter(0)):
            try:
                fd = system.open_unlinked_file(directory)
                return fd, directory, system.is_in_memory(directory)
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE):  # no directory can help it
                    raise SourceError(f"temporary files: {exc.strerror}") from exc
        tried = ", ".join(self._tmpdirs or _default_tmpdirs())
        raise SourceError(
            f"temporary files cannot be written in any of {tried}: name a directory with --tmpdir"
        )

    def close(self) -> None:
        """Close all spools that are still open."""
        for spool in self._spools:
            spool.close()

    def __enter__(self) -> SpoolSpace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Spool:
    """Bytes that are written once, front to back, and can then be read as an `Extent`."""

    def __init__(self, space: SpoolSpace, *, in_memory: bool) -> None:
        self._space = space
        self.size = 0
        """How many bytes have been written."""
        self._charged = 0
        self._fd: int | None = system.open_memory_file() if in_memory else None
        self.is_in_memory = self._fd is not None
        """Whether the bytes lie in memory, and are counted."""
        self._can_move = self.is_in_memory
        self._directory = ""
        self._is_closed = False

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`, which may be reused afterwards.

        Raises: SourceError where the disk is full or no directory can be written.
        """
        size = len(data)
        if self._can_move:
            if self._space.try_reserve(size):
                self._charged += size
                try:
                    system.write_at(self._open_fd(), data, self.size)
                except OSError:  # memory is out, or a limit on file sizes stands
                    self._move()
                else:
                    self.size += size
                    return
            else:
                self._move()
        elif self._fd is None:
            self._move()
        if self.is_in_memory:
            self._space.reserve(size)
            self._charged += size
        self._write_file(data, self.size)
        self.size += size

    def adopt(self) -> None:
        """Take what another process has written to the file that `finish` gave, when it is empty.

        Raises: OSError.
        """
        self.size = os.fstat(self._open_fd()).st_size
        if self.is_in_memory:
            self._space.reserve(self.size)
            self._charged += self.size

    def finish(self) -> Extent:
        """Give what was written; it can be read until the spool is closed."""
        return Extent(self._open_fd(), 0, self.size)

    def close(self) -> None:
        """Let go of the bytes and of their share of the budget."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._fd is not None:
            system.let_go(self._fd)
            self._fd = None
        self._space.release(self._charged)

    def _open_fd(self) -> int:
        if self._fd is None:
            self._move()
        assert self._fd is not None
        return self._fd

    def _move(self) -> None:
        """Go on in an unlinked file, with all that was written so far."""
        if self._is_closed:
            raise ValueError("the spool is closed")
        memory, charged = self._fd, self._charged
        self._fd, self._directory, self.is_in_memory = self._space.open_file(self.size)
        self._can_move = False
        self._charged = 0
        try:
            if memory is not None:
                offset = 0
                for piece in system.iter_extent(memory, 0, self.size):
                    self._write_file(piece, offset)
                    offset += len(piece)
        finally:
            if memory is not None:
                system.let_go(memory)
            self._space.release(charged)
        if self.is_in_memory:
            self._space.reserve(self.size)
            self._charged = self.size

    def _write_file(self, data: bytes | memoryview, offset: int) -> None:
        assert self._fd is not None
        try:
            system.write_at(self._fd, data, offset)
        except OSError as exc:
            reason = {
                errno.ENOSPC: "the disk is full",
                errno.EDQUOT: "the disk quota is used up",
                errno.EFBIG: "a file may not be as large as that (by `ulimit -f`, or there)",
            }.get(exc.errno or 0, exc.strerror)
            raise SourceError(
                f"temporary files in {self._directory}: {reason} after {offset} bytes of one: "
                "name another directory with --tmpdir"
            ) from exc


def _default_tmpdirs() -> tuple[str, ...]:
    if os.name == "posix":
        return ("/var/tmp", "/tmp")
    import tempfile

    return (tempfile.gettempdir(),)


def memory_left(memory: int | None, spaces: Iterable[SpoolSpace | None]) -> int | None:
    """Give what is left of so many bytes beside what `spaces` hold; None stays what it is."""
    used = sum(space.used for space in dict.fromkeys(spaces) if space is not None)
    return None if memory is None else max(0, memory - used)
