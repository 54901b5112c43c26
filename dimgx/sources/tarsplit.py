"""The tar of a layer that an engine keeps unpacked, put together as it came.

Beside a layer's files engines keep what else its tar had, so that the tar comes out the same to the
byte and matches its diff_id. This record is JSON, a document a line, gzipped: bytes of the tar as
base64 (type 2), or a file (type 1), whose content belongs there.

Whoever made the layer chose its names, links and devices. So links lead nowhere else than within
the layer's directory, as they did when it was unpacked, and nothing is opened but regular files,
whether digests are checked or not.

Spec: vbatts/tar-split tar/storage; moby layer/layer_store.go; containers/storage layers.go.
"""

from __future__ import annotations

import errno
import os
import stat
from binascii import a2b_base64
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain
from typing import Any, NamedTuple

from dimgx import system
from dimgx.errors import ImageError
from dimgx.layers.names import MAX_PATH
from dimgx.layers.tarfields import show

PIECE = 1 << 19
_RECORD_PIECE = 1 << 18
_FILE, _SEGMENT = 1, 2
_FILE_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY_FLAGS = _FILE_FLAGS | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", 0)
_MOST_LINKS = 40
"""As many as the kernel follows for one name."""
_ODD = frozenset((b"", b".", b".."))
BY_ENGINE = "--no-direct has the engine itself save the image"


class SplitTar(NamedTuple):
    """A layer's plain tar, in parts: a blob that is put together while it is read."""

    record: str
    """The path of what the tar had besides the content of its files."""
    directory: str
    """The path of the directory that these lie in."""
    estimate: int
    """About how many bytes the tar has: those of its files."""
    advice: str = BY_ENGINE
    """What to do where it is not as it was, for errors."""

    @property
    def size(self) -> int | None:
        """None: only reading it tells."""
        return None

    def is_readable(self) -> bool:
        """Tell whether this user may read all of it. About 10 us a file."""
        try:
            with (
                _Directory(self.directory, self.advice) as directory,
                closing(_iter_record(self.record, self.advice)) as parts,
            ):
                return all(isinstance(part, bytes) or directory.may_open(part[0]) for part in parts)
        except ImageError:
            return False

    def iter_chunks(self) -> Iterator[memoryview]:
        """Yield the bytes in order, in pieces of 512 KiB or, the last, less.

        Each is good until the next. Memory: beside that the longest line of the record.

        Raises: ImageError where the record is damaged, or a file is not there as it was.
        """
        buffer, filled = memoryview(bytearray(PIECE)), 0
        with (
            _Directory(self.directory, self.advice) as directory,
            closing(_iter_record(self.record, self.advice)) as parts,
        ):
            for part in parts:
                if isinstance(part, bytes):
                    at = 0
                    while at < len(part):
                        piece = part[at : at + PIECE - filled]
                        buffer[filled : filled + len(piece)] = piece
                        at += len(piece)
                        filled += len(piece)
                        if filled == PIECE:
                            yield buffer
                            filled = 0
                    continue
                name, left = part
                fd = directory.open(name, left)
                try:
                    while left:
                        count = system.read_into(fd, buffer[filled : filled + left])
                        if not count:
                            raise directory.problem(name, "it was cut short meanwhile")
                        left -= count
                        filled += count
                        if filled == PIECE:
                            yield buffer
                            filled = 0
                except OSError as exc:
                    raise directory.problem(name, exc.strerror) from exc
                finally:
                    os.close(fd)
        if filled:
            yield buffer[:filled]


def _iter_record(path: str, advice: str) -> Generator[bytes | tuple[bytes, int], None, None]:
    """Yield what a tar is made of: bytes, and names of files with their sizes.

    Raises: ImageError where the record is not there, or damaged.
    """
    from dimgx.decode import iter_decoded

    try:
        with system.open_regular(path) as file:
            stored = iter(lambda: file.read(_RECORD_PIECE), b"")
            for entry in _iter_documents(iter_decoded(stored, "gzip")):
                kind = entry["type"]
                if kind == _SEGMENT:
                    yield a2b_base64(entry["payload"] or b"")
                elif kind != _FILE:
                    raise ValueError(kind)
                # What has no content, such as a directory, has an entry all the same.
                elif size := entry.get("size"):
                    raw = entry.get("name_raw")  # for what is not UTF-8
                    name = a2b_base64(raw) if raw else entry["name"].encode()
                    yield name, int(size)
    except (
        OSError, ImageError, RecursionError,
        ValueError, KeyError, TypeError, AttributeError, OverflowError,
    ) as exc:  # fmt: skip
        what = getattr(exc, "strerror", None) or "it is damaged"
        raise ImageError(f"{path}: {what}: {advice}") from exc


def _iter_documents(pieces: Iterable[bytes | memoryview]) -> Iterator[Any]:
    """Yield JSON documents of a line each."""
    import json

    held: list[bytes] = []
    for piece in chain(pieces, (b"\n",)):
        lines, newline, rest = bytes(piece).rpartition(b"\n")
        if newline:
            # All at once, which is three times as fast.
            yield from json.loads(b"[%b]" % b"".join((*held, lines)).replace(b"\n", b","))
            held = []
        held.append(rest)


class _Directory:
    """Opens regular files below a directory, which links do not lead out of. A context manager."""

    def __init__(self, path: str, advice: str) -> None:
        self._path, self._advice = path, advice
        self._inner = b""
        """Where the last file was, as that was spelled."""
        self._names: list[bytes] = []
        """The names on the way there, whose directories are open behind the first of `_fds`."""
        try:
            self._fds = [os.open(path, _DIRECTORY_FLAGS)]
        except OSError as exc:
            raise ImageError(f"{path}: {exc.strerror}: {advice}") from exc

    def __enter__(self) -> _Directory:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)

    def open(self, name: bytes, size: int) -> int:
        """Give the descriptor of a file, which the caller closes.

        Raises: ImageError where it is not there with `size` bytes.
        """
        try:
            own = self._reach(name)
            # Not of what is open: to open a pipe waits, and to open a device may do anything.
            status = os.lstat(own, dir_fd=self._fds[-1])
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                raise self.problem(name, f"it is no file of {size} bytes any more")
            return os.open(own, _FILE_FLAGS, dir_fd=self._fds[-1])
        except (OSError, ValueError) as exc:
            raise self.problem(name, getattr(exc, "strerror", None) or f"{exc}") from exc

    def may_open(self, name: bytes) -> bool:
        """Tell whether this user may read a file."""
        try:
            return os.access(self._reach(name), os.R_OK, dir_fd=self._fds[-1])
        except (OSError, ValueError):
            return False

    def problem(self, name: bytes, what: str | None) -> ImageError:
        """Give the error that says what is wrong with a file."""
        return ImageError(f"{self._path}: {show(name)}: {what}: {self._advice}")

    def _reach(self, name: bytes) -> bytes:
        """Open the directory that has a file, and give the file's name in there."""
        if len(name) > MAX_PATH:  # no tar that is read has such a one, and to follow it takes long
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        inner, _, own = name.rpartition(b"/")
        if own in _ODD:
            inner, _, own = os.path.normpath(b"/" + name).rpartition(b"/")
        if inner != self._inner:
            self._enter(inner)
        return own

    def _enter(self, inner: bytes) -> None:
        """Open a directory, and those above it that are not open."""
        names = [name for name in os.path.normpath(b"/" + inner).split(b"/") if name]
        try:
            self._open_all(names)
        except OSError:
            self._open_all(self._follow(names))
        self._inner = inner

    def _open_all(self, names: list[bytes]) -> None:
        while self._names != names[: len(self._names)]:
            self._names.pop()
            os.close(self._fds.pop())
        for name in names[len(self._names) :]:
            self._fds.append(os.open(name, _DIRECTORY_FLAGS, dir_fd=self._fds[-1]))
            self._names.append(name)

    def _follow(self, names: list[bytes]) -> list[bytes]:
        """Give the way to a directory past the links on it, as if this one here were the root."""
        found: list[bytes] = []
        left, links = names[::-1], 0
        while left:
            name = left.pop()
            if name == b"..":
                found = found[:-1]
            elif name not in _ODD:
                try:
                    target = os.readlink(b"/".join((*found, name)), dir_fd=self._fds[0])
                except OSError:  # it is none
                    found.append(name)
                    continue
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.startswith(b"/"):
                    found = []
                left += target.split(b"/")[::-1]
        return found
