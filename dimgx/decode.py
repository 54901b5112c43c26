"""Compressed bytes, decoded in pieces of at most 512 KiB.

Rules:

1. A stream may consist of several parts (gzip members, zstd frames, bzip2 and xz streams); all
   are decoded. What follows the last one must be padding: zeros for gzip, zeros in fours for xz.
2. A stream that ends within a part is an error, and so is one without any part. The parts' own
   checksums are always checked. (A zstd frame need not have one; then only a digest guards it.)
3. What one call of a library may give back is bounded, so a bomb costs time, never memory.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

from dimgx import zstdframes
from dimgx.codec import XZ_MEMORY_LIMIT, Compression
from dimgx.errors import DimgxError, ImageError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

# What a library gives back grows by doubling and shrinks at last. With 1 MiB that made the system
# map and unmap each piece anew: 100,000 page faults for 1.2 GB, 9,000 with half of it.
PIECE = 1 << 19
# Compressed bytes that go to a decoder at once. What is left at the end of a part is copied by the
# libraries, so large pieces would make many small parts slow; but each piece asks for the
# interpreter's lock a few times. So they grow while a part goes on.
_FEED = 1 << 16
_FEED_MAX = 1 << 18

# Also the largest header that isal's reader takes.
_READ = 1 << 18
_GZIP_RESERVED = 0xE0
# What libraries say of a stream that is well but asks for more than they are to take.
_TOO_MUCH = {
    "Frame requires too much memory": "has a window of more than 2 GiB",
    "Memory usage limit": "has a dictionary of more than 2 GiB",
    "header exceeds": "has a header of more than 256 KiB",
}


class _Decoder(Protocol):
    """One part's decoder, as bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes | memoryview, max_length: int) -> bytes: ...


def iter_decoded(
    chunks: Iterable[bytes | memoryview],
    compression: Compression | None,
    room: Callable[[], memoryview] | None = None,
) -> Iterator[bytes | memoryview]:
    """Yield the decoded bytes of `chunks` in pieces of at most 512 KiB, each good until the next.

    Without a compression the chunks are passed on. `room` gives memory for the next piece, which
    lies at its beginning then where the library can decode into memory of others.

    Raises: ImageError for a stream that is damaged, ends early or is followed by something else;
        SourceError where memory is too short; what `chunks` raises.
    """
    source = _Source(chunks)
    if compression is None:
        yield from chunks
    elif compression == "zstd" or (compression == "gzip" and hasattr(load_zlib(), "_GzipReader")):
        stored: _Stored = _ZstdFile(source) if compression == "zstd" else _GzipFile(source)
        yield from _iter_read(stored, source, compression, room or _same_room())
    else:
        yield from _iter_parts(source, compression)


class _Source:
    """Compressed bytes, taken in pieces."""

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._chunks = filter(len, chunks)
        self._chunk = memoryview(b"")
        self._at = 0
        self.taken = 0
        """How many bytes were taken."""
        self.has_failed = False
        """Getting them was an error, so that is no damage of the stream."""

    def take(self, size: int) -> memoryview:
        """Give what comes next, at most `size` bytes, good until the next call; none at the end."""
        if self._at == len(self._chunk):
            try:
                self._chunk, self._at = memoryview(next(self._chunks, b"")), 0
            except BaseException:
                self.has_failed = True
                raise
        piece = self._chunk[self._at : self._at + size]
        self._at += len(piece)
        self.taken += len(piece)
        return piece

    def give_back(self, count: int) -> None:
        """Have the last `count` bytes of the last piece taken again."""
        self._at -= count
        self.taken -= count

    def skip_zeros(self) -> int:
        """Take the zeros that come next, and give how many there are."""
        before = self.taken
        while piece := self.take(_FEED):
            rest = bytes(piece).lstrip(b"\0")
            if rest:
                self.give_back(len(rest))
                break
        return self.taken - before


def _iter_parts(source: _Source, compression: Compression) -> Iterator[bytes]:
    open_part, errors = _OPENERS[compression]()
    parts = 0
    feed: bytes | memoryview
    while feed := source.take(_FEED):
        size = _FEED
        try:
            part = open_part()
            while True:
                piece = part.decompress(feed, PIECE)
                if piece:
                    yield piece
                if part.eof:
                    break
                feed = b""
                if part.needs_input:
                    size = min(2 * size, _FEED_MAX)
                    feed = source.take(size)
                    if not feed:
                        raise ImageError(_text(compression, "ends early", source.taken))
        except errors as exc:
            if source.has_failed:
                raise
            what = "is damaged or followed by something else" if parts else "is damaged"
            raise _problem(exc, compression, what, source.taken - len(feed)) from exc
        source.give_back(len(part.unused_data))
        parts += 1
        padding = 0 if compression == "bzip2" else source.skip_zeros()
        if compression == "xz" and padding % 4:
            raise ImageError(_text(compression, "is padded wrongly", source.taken))
    if not parts:
        raise ImageError(_text(compression, "ends early", source.taken))


def _text(compression: Compression, what: str, taken: int) -> str:
    return f"{compression} stream {what}, at byte {taken}: pull or copy it again"


def _problem(exc: Exception, compression: Compression, what: str, taken: int) -> DimgxError:
    """Give our error for a library's; what zstd wants for its window it calls an allocation."""
    reason = str(exc).strip() or type(exc).__name__
    if isinstance(exc, MemoryError) or "not enough memory" in reason:
        return SourceError(f"there is too little memory to decode {compression}: free some")
    for words, much in _TOO_MUCH.items():
        if words in reason:
            return ImageError(f"{compression} stream {much}, which is not read, at byte {taken}")
    return ImageError(_text(compression, f"{what} ({reason})", taken))


_Errors = tuple[type[Exception], ...]


class _Reader(Protocol):
    def readinto(self, view: memoryview, /) -> int: ...


class _Stored(Protocol):
    """Chunks as a file that a library's reader reads."""

    @property
    def errors(self) -> _Errors:
        """What the reader raises where the stream is damaged."""

    @property
    def is_whole(self) -> bool:
        """Whether the stream may end here, as far as the reader does not tell."""

    def open(self) -> _Reader:
        """Give the reader."""


def _same_room() -> Callable[[], memoryview]:
    """Give what gives the same memory for every piece."""
    buffer = memoryview(bytearray(PIECE))
    return lambda: buffer


def _iter_read(
    stored: _Stored, source: _Source, compression: Compression, room: Callable[[], memoryview]
) -> Iterator[memoryview]:
    """Yield what a library's reader decodes, each piece in memory that `room` gives."""
    reader = stored.open()
    errors: _Errors = (EOFError, *stored.errors)
    while True:
        piece = room()
        try:
            size = reader.readinto(piece)
            if not (size or stored.is_whole):
                raise EOFError
        except errors as exc:
            if source.has_failed:
                raise
            if isinstance(exc, EOFError):
                raise ImageError(_text(compression, "ends early", source.taken)) from exc
            what = "is damaged or followed by something else"
            raise _problem(exc, compression, what, source.taken) from exc
        if not size:
            return
        yield piece[:size]


class _GzipFile:
    """For isal's reader, what its own `igzip` decodes with: 8 % less CPU time than by pieces."""

    def __init__(self, source: _Source) -> None:
        from gzip import BadGzipFile

        damage: _Errors = (load_zlib().error,)
        self.errors = *damage, BadGzipFile, ValueError, ArithmeticError, MemoryError
        self._source = source

    @property
    def is_whole(self) -> bool:
        return self._source.taken > 0

    def open(self) -> _Reader:
        zlib: Any = load_zlib()
        reader: _Reader = zlib._GzipReader(self, _READ)
        return reader

    def read(self) -> bytes:
        """Not for use: it is by this name that isal tells a file from bytes."""
        raise NotImplementedError

    def readinto(self, view: memoryview) -> int:
        flags_at = 3 - self._source.taken
        part = self._source.take(len(view))
        # isal lets these pass, zlib does not. Headers of later members are not seen here.
        if 0 <= flags_at < len(part) and part[flags_at] & _GZIP_RESERVED:
            self._source.give_back(len(part))
            raise ValueError("unknown flags in the header")
        view[: len(part)] = part
        return len(part)


class _ZstdFile:
    """For zstandard's reader, which says nothing where a frame is cut off.

    It takes a quarter less CPU time than the standard library's, whose pieces are copied twice.
    """

    def __init__(self, source: _Source) -> None:
        damage: _Errors = (load_zstd().ZstdError,)
        self.errors = *damage, MemoryError
        self._source = source
        self._ends = zstdframes.FrameEnds()

    @property
    def is_whole(self) -> bool:
        return self._ends.is_at_end

    def open(self) -> _Reader:
        zstd: Any = load_zstd()
        decoder = zstd.ZstdDecompressor(max_window_size=zstdframes.MAX_WINDOW_SIZE)
        reader: _Reader = decoder.stream_reader(self, read_size=_READ, read_across_frames=True)
        return reader

    def read(self, _: int) -> memoryview:
        """Give the next chunk, however large; nothing at the end."""
        chunk = self._source.take(sys.maxsize)
        self._ends.follow(chunk)
        return chunk


class _GzipMember:
    """One gzip member behind the face that the other decoders have."""

    __slots__ = ("_inner", "_is_full", "_rest")

    def __init__(self) -> None:
        import zlib

        self._inner = zlib.decompressobj(31)
        self._rest = b""
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        # After a full piece the library may hold more, even if it has taken all of the input.
        return not (self._rest or self._is_full)

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes | memoryview, max_length: int) -> bytes:
        piece = self._inner.decompress(data or self._rest, max_length)
        self._rest = self._inner.unconsumed_tail
        self._is_full = len(piece) == max_length
        return piece


def load_zlib() -> ModuleType:
    """Give isal's zlib where it is installed, several times as fast, else the usual one."""
    import importlib

    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return importlib.import_module("zlib")


def load_zstd() -> ModuleType:
    """Give the module that codes zstd.

    Raises: SourceError where it is not installed.
    """
    import importlib

    try:
        return importlib.import_module("zstandard")
    except ImportError as exc:
        raise SourceError("zstd needs a package: pip install zstandard") from exc


_Opener = tuple["Callable[[], _Decoder]", _Errors]


def _open_gzip() -> _Opener:
    import zlib

    return _GzipMember, (zlib.error, ValueError, MemoryError)


def _open_bzip2() -> _Opener:
    import bz2

    return bz2.BZ2Decompressor, (OSError, ValueError, MemoryError)


def _open_xz() -> _Opener:
    import lzma

    errors = (lzma.LZMAError, MemoryError)
    return (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY_LIMIT)), errors


_OPENERS: dict[str, Callable[[], _Opener]] = {
    "gzip": _open_gzip,
    "bzip2": _open_bzip2,
    "xz": _open_xz,
}
