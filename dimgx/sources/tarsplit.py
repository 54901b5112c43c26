"""The tar of a layer that an engine keeps unpacked, put together as it came.

Beside a layer's files engines keep what else its tar had, so that the tar comes out the same to the
byte and matches its diff_id. This record is JSON, a document a line, gzipped: bytes of the tar as
base64 (type 2), or a file (type 1), whose content belongs there.

Whoever made the layer chose its links. So none is followed: nothing outside of the layer's
directory is reached, whether digests are checked or not.

Spec: vbatts/tar-split tar/storage; moby layer/layer_store.go; containers/storage layers.go.
"""

from __future__ import annotations

import os
import stat
from binascii import a2b_base64
from collections.abc import Iterator
from typing import Any, NamedTuple

from dimgx import system
from dimgx.errors import ImageError, SourceError
from dimgx.layers.tarfields import show

PIECE = 1 << 19
_RECORD_PIECE = 1 << 18
_FILE, _SEGMENT = 1, 2
_FILE_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY_FLAGS = _FILE_FLAGS | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", 0)
_HINT = "--no-direct has the engine itself save the image"


class SplitTar(NamedTuple):
    """A layer's plain tar, in parts: a blob that is put together while it is read."""

    record: str
    """The path of what the tar had besides the content of its files."""
    directory: str
    """The path of the directory that these lie in."""
    estimate: int
    """About how many bytes the tar has: those of its files."""

    @property
    def size(self) -> int | None:
        """None: only reading it tells."""
        return None

    def iter_chunks(self) -> Iterator[memoryview]:
        """Yield the bytes in order, in pieces of at most 512 KiB; each is good until the next.

        Raises: SourceError where a file is not there as it was; ImageError where the record is
            damaged.
        """
        buffer, filled = memoryview(bytearray(PIECE)), 0
        for part in self._iter_parts():
            if isinstance(part, _File):
                fd, left = part
                while left:
                    count = system.read_into(fd, buffer[filled : filled + left])
                    if not count:
                        raise SourceError(f"{self.directory}: a file was cut short: {_HINT}")
                    left -= count
                    filled += count
                    if filled == PIECE:
                        yield buffer
                        filled = 0
                continue
            rest = part
            while rest:
                piece = rest[: PIECE - filled]
                buffer[filled : filled + len(piece)] = piece
                filled += len(piece)
                rest = rest[len(piece) :]
                if filled == PIECE:
                    yield buffer
                    filled = 0
        if filled:
            yield buffer[:filled]

    def _iter_parts(self) -> Iterator[bytes | _File]:
        """Yield bytes of the tar, and files that stay open until the next."""
        try:
            with _Directory(self.directory) as directory:
                for entry in _iter_record(self.record):
                    kind = entry["type"]
                    if kind == _SEGMENT:
                        yield a2b_base64(entry["payload"] or "")
                    elif kind == _FILE and entry.get("size"):
                        yield from directory.open(_name_of(entry), entry["size"])
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ImageError(f"{self.record} is damaged: {_HINT}") from exc


class _File(NamedTuple):
    """The content of a file: that many bytes of an open one."""

    fd: int
    size: int


def _iter_record(path: str) -> Iterator[dict[str, Any]]:
    import gzip
    import io
    import json

    with gzip.open(path) as file, io.BufferedReader(file) as lines:
        while some := lines.readlines(_RECORD_PIECE):
            # Many at once, which is three times as fast.
            yield from json.loads(b"[%b]" % b",".join(some))


def _name_of(entry: dict[str, Any]) -> bytes:
    # The other form is for what is not UTF-8.
    return a2b_base64(entry["name_raw"]) if "name_raw" in entry else entry["name"].encode()


class _Directory:
    """Opens what lies below a directory, following no links. A context manager."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._root = os.open(path, _DIRECTORY_FLAGS)
        self._inner: bytes | None = None
        self._fd = -1

    def __enter__(self) -> _Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        os.close(self._root)

    def open(self, name: bytes, size: int) -> Iterator[_File]:
        """Yield a file, which is open until it is asked for the next.

        Raises: SourceError where it is not there with `size` bytes.
        """
        inner, _, own = name.rpartition(b"/")
        try:
            if inner != self._inner:
                self._enter(inner)
            fd = os.open(own, _FILE_FLAGS, dir_fd=self._fd)
        except OSError as exc:
            raise self._problem(name, f"{exc.strerror}") from exc
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                raise self._problem(name, f"it is no file of {size} bytes any more")
            yield _File(fd, size)
        finally:
            os.close(fd)

    def _enter(self, inner: bytes) -> None:
        self._leave()
        # Most names that follow are in the same directory.
        fd = os.dup(self._root)
        try:
            for name in os.path.normpath(b"/" + inner).split(b"/"):
                if name:
                    below = os.open(name, _DIRECTORY_FLAGS, dir_fd=fd)
                    os.close(fd)
                    fd = below
        except OSError:
            os.close(fd)
            raise
        self._fd, self._inner = fd, inner

    def _leave(self) -> None:
        if self._inner is not None:
            os.close(self._fd)
            self._inner = None

    def _problem(self, name: bytes, what: str) -> SourceError:
        return SourceError(f"{self._path}: {show(name)}: {what}: {_HINT}")
