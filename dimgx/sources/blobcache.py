"""A directory of blobs by digest that many processes may share.

1. A blob lies under `blobs/<algorithm>/<hex>`. It gets there by a rename, once it is whole and
   its digest is right; it is checked again each time before it is used, and a bad one is removed.
2. While it comes it lies under `partial/`, locked: another process that wants the same blob waits
   for it, as long as it grows. A lock ends with its process: a file without one was left by a
   process that was killed, and goes when the next blob is stored.
3. The cache never stands in the way: where it cannot be written, the blob just goes by, and that is
   told once. What is no regular file there is no blob, and is not waited for.
4. Use sets a file's time; over the bound the blobs used longest ago are removed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from dimgx import system
from dimgx.digest import Digest
from dimgx.errors import Cancelled, ImageError
from dimgx.extent import Extent

if TYPE_CHECKING:
    from hashlib import _Hash

_POLL_S = 0.1
_STALLED_POLLS = 100
_ANY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_READ = os.O_RDONLY | _ANY
_WRITE = os.O_RDWR | os.O_CREAT | _ANY | getattr(os, "O_NOFOLLOW", 0)


class BlobCache:
    """Blobs in `directory`, at most `limit` bytes of them."""

    def __init__(self, directory: str, limit: int, warn: Callable[[str], None]) -> None:
        """`warn` is called once, by any thread, when it is known that it cannot be written."""
        self._directory, self._limit, self._warn = directory, limit, warn
        self._has_warned = False

    def note(self, exc: OSError) -> None:
        """Take note that the cache cannot be written."""
        if not self._has_warned:
            self._has_warned = True
            self._warn(f"the cache at {self._directory} cannot be written: {exc.strerror}")

    def iter_through(
        self, digest: Digest, size: int, fetched: Iterator[bytes], stopped: Event
    ) -> Iterator[bytes | memoryview]:
        """Yield a blob's bytes: those that are there, else those of `fetched`, which are kept.

        Raises: Cancelled; what `fetched` raises.
        """
        slot = self.open(digest, size, stopped)
        try:
            stored = slot.iter_stored()
            if stored is not None:
                yield from stored
                return
            for chunk in fetched:
                slot.write(chunk)
                yield chunk
            slot.commit()
        finally:
            slot.close()

    def open(self, digest: Digest, size: int, stopped: Event) -> Slot:
        """Give the place of one blob: it is there, or it is to be written.

        Waits for another process that is fetching the same. Raises: Cancelled.
        """
        slot = self._find(digest, size, stopped)
        if slot is not None:
            return slot
        if size > self._limit:
            return Slot()
        path = self._path("partial", digest)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.makedirs(os.path.dirname(self._path("blobs", digest)), exist_ok=True)
            locked = self._lock(path, stopped)
        except OSError as exc:
            self.note(exc)
            return Slot()
        if locked is None:
            return Slot()
        fd, path = locked
        with ExitStack() as stack:
            stack.callback(system.let_go, fd)
            stack.callback(_remove, path)
            # The process that we waited for has stored it.
            found = self._find(digest, size, stopped)
            if found is not None:
                return found
            stack.pop_all()
        return Slot(fd, coming=_Coming(self, digest, path, digest.new_hash()))

    def store(self, digest: Digest, path: str) -> None:
        """Put a blob that is whole and right, at `path`, where it belongs, and make room."""
        target = self._path("blobs", digest)
        try:
            os.replace(path, target)
            self._sweep()
            self._trim(target)
        except OSError as exc:
            self.note(exc)
            _remove(path)

    def _path(self, part: str, digest: Digest) -> str:
        return os.path.join(self._directory, part, digest.algorithm, digest.hex)

    def _entries(self, part: str) -> Iterator[os.DirEntry[str]]:
        for algorithm in os.scandir(os.path.join(self._directory, part)):
            yield from os.scandir(algorithm.path) if algorithm.is_dir() else ()

    def _find(self, digest: Digest, size: int, stopped: Event) -> Slot | None:
        path = self._path("blobs", digest)
        try:
            fd = os.open(path, _READ)
        except OSError:
            return None
        with ExitStack() as stack:
            stack.callback(system.let_go, fd)
            found = os.fstat(fd).st_size
            try:
                is_right = _has_digest(fd, found, digest, stopped)
            except (OSError, ImageError):  # a bad disk, or cut meanwhile: fetched again it is fine
                is_right = False
            if is_right:
                if found != size:  # whoever states that size is wrong
                    return None
                try:
                    os.utime(path)
                except OSError:  # another user's file, or gone meanwhile: it can be read still
                    pass
                stack.pop_all()
                return Slot(fd, Extent(fd, 0, size))
        _remove(path)
        return None

    def _lock(self, path: str, stopped: Event) -> tuple[int, str] | None:
        """Open the file at `path`, or one beside it, for this process alone, and give its path.

        None where another one is stuck.
        """
        try:
            import fcntl
        except ImportError:  # no locks of this kind: the name is this process's own
            path = f"{path}.{os.getpid()}"
            return os.open(path, _WRITE | os.O_TRUNC, 0o666), path
        last, stalled = -1, 0
        while True:
            with ExitStack() as stack:
                fd = os.open(path, _WRITE, 0o666)
                stack.callback(system.let_go, fd)
                if not _is_regular(fd):
                    return None
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    size = os.fstat(fd).st_size
                    stalled = 0 if size != last else stalled + 1
                    last = size
                    if stalled > _STALLED_POLLS:
                        return None
                    if stopped.wait(_POLL_S):
                        raise Cancelled("cancelled") from None
                    continue
                if _is_at(fd, path):  # else it was stored or given up meanwhile: look again
                    stack.callback(_remove, path)
                    os.ftruncate(fd, 0)
                    stack.pop_all()
                    return fd, path

    def _sweep(self) -> None:
        """Remove what nobody is fetching any more."""
        try:
            import fcntl
        except ImportError:
            return
        for entry in self._entries("partial"):
            try:
                fd = os.open(entry.path, _WRITE)
            except OSError:  # another user's
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(fd, entry.path):
                    _remove(entry.path)
            except OSError:  # somebody is
                pass
            finally:
                system.let_go(fd)

    def _trim(self, newest: str) -> None:
        """Remove what was used longest ago, as far as the bound wants it."""
        found = []
        for entry in self._entries("blobs"):
            try:
                status = entry.stat()
            except OSError:
                continue
            found.append((entry.path == newest, status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, _, size, _ in found)
        for _, _, size, path in sorted(found):
            if total <= self._limit:
                return
            _remove(path)
            total -= size


class _Coming(NamedTuple):
    """A blob that is being written."""

    cache: BlobCache
    digest: Digest
    path: str
    """Where it lies until it is whole."""
    hash: _Hash
    """Of what has been written."""


class Slot:
    """The place of one blob: stored, or coming, or neither: then all that is written is dropped."""

    def __init__(
        self, fd: int | None = None, stored: Extent | None = None, coming: _Coming | None = None
    ) -> None:
        self._fd, self._stored, self._coming = fd, stored, coming

    def iter_stored(self) -> Iterator[bytes | memoryview] | None:
        """Give the blob's bytes, checked already; None where they are to be fetched."""
        return None if self._stored is None else self._stored.iter_chunks()

    def write(self, data: bytes | memoryview) -> None:
        """Append what was fetched."""
        coming = self._coming
        if coming is None or self._fd is None:
            return
        coming.hash.update(data)
        try:
            system.write_all(self._fd, data)
        except OSError as exc:  # the disk is full
            coming.cache.note(exc)
            self.close()

    def commit(self) -> None:
        """Keep what was written, if it is what its digest says."""
        coming = self._coming
        if coming is None:
            return
        if coming.hash.hexdigest() == coming.digest.hex:
            if os.name == "nt":
                self._close_file()
            coming.cache.store(coming.digest, coming.path)
            self._coming = None
        self.close()

    def close(self) -> None:
        """Let go; what is not committed is forgotten."""
        if self._coming is not None:
            _remove(self._coming.path)
            self._coming = None
        self._close_file()

    def _close_file(self) -> None:
        # Forgotten first: an interrupt may come right behind, and the number is another's then.
        fd, self._fd = self._fd, None
        if fd is not None:
            system.let_go(fd)


def _has_digest(fd: int, size: int, digest: Digest, stopped: Event) -> bool:
    found = digest.new_hash()
    for piece in Extent(fd, 0, size).iter_chunks():
        if stopped.is_set():
            raise Cancelled("cancelled")
        found.update(piece)
    return found.hexdigest() == digest.hex


def _is_regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
