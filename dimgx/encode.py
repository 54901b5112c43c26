"""Encoders: bytes in order go in, compressed bytes in order come out.

Rules:

1. Input is cut into blocks of a fixed size, coded in a pool of threads, and joined in order. So
   the output depends on the input, the level and the library alone: neither on the number of
   threads nor on how the calls of `write` cut the input. (zstd does the same inside its library.)
2. gzip: blocks of raw deflate, each ended by a flush to a byte border, in one member with a header
   that says nothing. bzip2 and xz: each block a stream of its own, which every reader joins.
3. The sink is called from the caller's thread only, so its errors arrive there. At most
   `queue` blocks are under way; a block's buffer is used again when it is written.
4. Any error ends the threads before it reaches the caller.

Tried: 1 MiB blocks cost 0.1 points of size against one long deflate stream, and are as fast as
igzip's own threads; raw deflate beats isal's threaded writer by a fifth.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dimgx import system
from dimgx.decode import load_zlib, load_zstd
from dimgx.errors import SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from dimgx.codec import Coding, Compression
    from dimgx.extent import Write
    from dimgx.workers import Workers

_QUICK_LEVEL = 9
"""The highest level of zstd at which a call takes less than half a second."""
_LEVELS = {"gzip": (0, 9), "bzip2": (0, 9), "xz": (0, 9), "zstd": (1, 19)}
GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
"""It has no name, no time and no operating system."""
_GZIP_LAST_BLOCK = b"\x03\0"
GZIP_END = b"\0\0\xff\xff" + _GZIP_LAST_BLOCK
"""A flush and an empty last block, which stand before checksum and length."""
_MIB = 1 << 20
_ISAL_HIGHEST = 2
_ISAL_FIRST = 8
"""Bytes that isal is given alone at first, at least 4."""
# Of liblzma's presets 0-9: the dictionary, and what one encoder takes (xz(1), "CompMem").
_XZ_DICTIONARY_KIB = (256, 1024, 2048, 4096, 4096, 8192, 8192, 16384, 32768, 65536)
_XZ_ENCODER_MIB = (3, 9, 17, 32, 48, 94, 94, 186, 370, 674)


class Encoder(Protocol):
    """Takes bytes in order; what they become has gone to the sink when `finish` returns."""

    def write(self, data: bytes | memoryview) -> object:
        """Take all of `data`; the caller may reuse it afterwards."""

    def finish(self) -> None:
        """Write what is left, and the end of the stream."""

    def abort(self) -> None:
        """Stop without an end; does nothing after `finish` or an error."""


def usual_level(compression: Compression) -> int:
    """Give the level that is used where none is said."""
    if compression == "gzip":
        import zlib

        return 6 if load_zlib() is zlib else _ISAL_HIGHEST
    return {"bzip2": 9, "xz": 6, "zstd": 3}[compression]


def check_level(compression: Compression | None, level: int | None) -> None:
    """Refuse a level that `compression` does not have.

    Raises: UsageError.
    """
    if level is None:
        return
    if compression is None:
        raise UsageError(f"compression level {level} has no effect without compression")
    lowest, highest = _LEVELS[compression]
    if not lowest <= level <= highest:
        raise UsageError(f"compression level {level}: {compression} has {lowest} to {highest}")


def describe_encoder(
    compression: Compression, level: int | None
) -> tuple[str, str | None, int | None]:
    """Give the library that compresses, its version where it tells one, and the level.

    With these three the same bytes come out again (isal's also depend on the CPU).
    """
    level = usual_level(compression) if level is None else level
    match compression:
        case "gzip":
            import zlib

            fast: Any = load_zlib()
            if fast is zlib or level > _ISAL_HIGHEST:
                return "zlib", zlib.ZLIB_RUNTIME_VERSION, level
            import isal

            return "isa-l", isal.ISAL_VERSION, level
        case "bzip2":
            return "libbz2", None, max(1, level)
        case "xz":
            return "liblzma", None, level
        case "zstd":
            version = ".".join(map(str, load_zstd().ZSTD_VERSION))
            return "libzstd", version, level


@contextmanager
def encoding(write: Write, coding: Coding) -> Iterator[Write]:
    """Give what takes a tar's bytes and calls `write` with them as they are to be stored.

    The stream is whole when the `with` ends; where that raises, it is broken off.

    Raises: as `open_encoder`; what `write` and the encoder raise.
    """
    if coding.compression is None:
        yield write
        return
    encoder = open_encoder(write, coding.compression, coding.level, coding.threads)
    try:
        yield encoder.write
        encoder.finish()
    except BaseException:
        encoder.abort()
        raise


def open_encoder(
    write: Write, compression: Compression, level: int | None, threads: int
) -> Encoder:
    """Give an encoder with one thread or more that calls `write` with compressed bytes.

    Memory: two blocks of 1 MiB a thread for gzip, of 2.7 MB for bzip2; for xz a block of up to
    64 MiB and up to 674 MiB more a thread, and fewer threads where memory is short.

    Raises: UsageError for a level that there is not.
    """
    check_level(compression, level)
    level = usual_level(compression) if level is None else level
    match compression:
        case "gzip":
            return _BlockEncoder(write, _gzip_format(level), threads, queue=2 * threads)
        case "bzip2":
            return _BlockEncoder(write, _bzip2_format(level), threads, queue=2 * threads)
        case "xz":
            size = _xz_block_size(level)
            each = _XZ_ENCODER_MIB[level] * _MIB + 2 * size
            threads = max(1, min(threads, system.free_memory() // 2 // each))
            return _BlockEncoder(write, _xz_format(level), threads, queue=threads + 1)
        case "zstd":
            return _ZstdEncoder(write, level, threads)


class _Format(NamedTuple):
    """How blocks are coded and what stands around them."""

    block_size: int
    encode: Callable[[memoryview, threading.Event], list[bytes]]
    """Give a block's bytes; may give up once the event is set."""
    header: bytes = b""
    crc32: Callable[[memoryview, int], int] | None = None
    """Where it is there, the stream ends with `trailer`, the checksum and the length."""
    trailer: bytes = b""


class _BlockEncoder:
    """Codes blocks in a pool of threads and writes them in order (rules 1 to 4)."""

    def __init__(self, write: Write, form: _Format, threads: int, *, queue: int) -> None:
        from dimgx.workers import Workers

        self._write = write
        self._format = form
        self._queue = queue
        self._pool = Workers(threads, "dimgx-encode")
        self._stop = threading.Event()
        self._pending: deque[tuple[Future[list[bytes]], memoryview]] = deque()
        self._free: list[memoryview] = []
        self._buffer = memoryview(bytearray(form.block_size))
        self._filled = 0
        self._header = form.header
        self._crc = 0
        self._length = 0
        self._is_closed = False

    def write(self, data: bytes | memoryview) -> None:
        """Take all of `data`."""
        self._check_open()
        rest = memoryview(data)
        size = self._format.block_size
        try:
            while rest:
                filled = self._filled
                part = rest[: size - filled]
                self._filled += len(part)
                self._buffer[filled : self._filled] = part
                rest = rest[len(part) :]
                if self._filled == size:
                    self._submit()
        except BaseException:
            self.abort()
            raise

    def finish(self) -> None:
        """Write what is left, and the end of the stream."""
        self._check_open()
        try:
            # A stream of nothing is still a stream.
            if self._filled or not self._length:
                self._submit()
            while self._pending:
                self._take()
            if self._format.crc32:
                end = self._crc.to_bytes(4, "little") + (self._length % 2**32).to_bytes(4, "little")
                self._write(self._format.trailer + end)
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop without an end, and wait for the threads to be gone."""
        self._is_closed = True
        self._stop.set()
        self._pool.close()
        self._pending.clear()
        self._free.clear()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("the encoder is closed")

    def _submit(self) -> None:
        block = self._buffer[: self._filled]
        if self._format.crc32:
            self._crc = self._format.crc32(block, self._crc)
        self._length += self._filled
        future = self._pool.submit(self._format.encode, block, self._stop)
        self._pending.append((future, self._buffer))
        self._filled = 0
        while self._pending and (len(self._pending) >= self._queue or self._pending[0][0].done()):
            self._take()
        if self._free:
            self._buffer = self._free.pop()
        else:
            self._buffer = memoryview(bytearray(self._format.block_size))

    def _take(self) -> None:
        """Wait for the oldest block and write it."""
        future, buffer = self._pending.popleft()
        try:
            pieces = future.result()
        except MemoryError as exc:
            raise SourceError(
                "memory is too short to compress: use fewer threads or a lower level"
            ) from exc
        for piece in (self._header, *pieces):
            if piece:
                self._write(piece)
        self._header = b""
        self._free.append(buffer)


def _gzip_format(level: int) -> _Format:
    import zlib as stdlib

    fast: Any = load_zlib()
    zlib: Any = fast if level <= _ISAL_HIGHEST else stdlib

    def encode(block: memoryview, stop: threading.Event) -> list[bytes]:
        coder = zlib.compressobj(level, zlib.DEFLATED, -15)
        pieces = []
        if zlib is not stdlib:
            # ISA-L 2.32's loop for x86 begins with a hash of the coder's address in the place of
            # the third byte's, so that one block in some thousand came out in one of two ways. A
            # few bytes that are flushed are coded by another function, and then it goes on.
            first, block = block[:_ISAL_FIRST], block[_ISAL_FIRST:]
            pieces = [coder.compress(first), coder.flush(zlib.Z_SYNC_FLUSH)]
        return [*pieces, coder.compress(block), coder.flush(zlib.Z_FULL_FLUSH)]

    return _Format(_MIB, encode, GZIP_HEADER, fast.crc32, _GZIP_LAST_BLOCK)


def _bzip2_format(level: int) -> _Format:
    import bz2

    # bzip2 has no level 0; its own blocks are of 100,000 bytes times the level.
    level = max(1, level)

    def encode(block: memoryview, stop: threading.Event) -> list[bytes]:
        return [bz2.compress(block, level)]

    return _Format(3 * 100_000 * level, encode)


def _xz_block_size(level: int) -> int:
    """Give three dictionaries as xz takes, but from 1 to 64 MiB."""
    return min(max(3 * _XZ_DICTIONARY_KIB[level] * 1024, _MIB), 64 * _MIB)


def _xz_format(level: int) -> _Format:
    import lzma

    def encode(block: memoryview, stop: threading.Event) -> list[bytes]:
        coder = lzma.LZMACompressor(preset=level)
        pieces = []
        # A block may take a minute; somebody may press Ctrl-C meanwhile.
        for start in range(0, len(block), _MIB):
            if stop.is_set():
                return []
            pieces.append(coder.compress(block[start : start + _MIB]))
        return [*pieces, coder.flush()]

    return _Format(_xz_block_size(level), encode)


class _ZstdEncoder:
    """One zstd frame with a checksum, coded by the library's own threads.

    At high levels one call may take half a minute, in which nobody hears a signal. So it is made in
    a thread, and who breaks off waits no longer for it.
    """

    def __init__(self, write: Write, level: int, threads: int) -> None:
        zstd: Any = load_zstd()
        # Without workers the library cuts blocks elsewhere: so one at least.
        coder = zstd.ZstdCompressor(level=level, threads=threads, write_checksum=True)
        self._write = write
        self._error: type[Exception] = zstd.ZstdError
        self._coder: Any = coder.compressobj()
        self._caller: Workers | None = None
        if level > _QUICK_LEVEL:
            from dimgx.workers import Workers

            self._caller = Workers(1, "dimgx-zstd")

    def write(self, data: bytes | memoryview) -> None:
        """Take all of `data`."""
        if self._coder is None:
            raise ValueError("the encoder is closed")
        try:
            piece = self._coded(self._coder.compress, data)
            if piece:
                self._write(piece)
        except BaseException:
            self.abort()
            raise

    def finish(self) -> None:
        """Write what is left, and the end of the frame."""
        if self._coder is None:
            raise ValueError("the encoder is closed")
        try:
            self._write(self._coded(self._coder.flush))
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop without an end; the library's threads end with the coder."""
        self._coder = None
        if self._caller is not None:
            self._caller.finish()

    def _coded(self, code: Callable[..., bytes], *data: bytes | memoryview) -> bytes:
        try:
            if self._caller is None:
                return code(*data)
            # A copy, as it may be read after this was broken off.
            return self._caller.submit(code, *map(bytes, data)).result()
        except self._error as exc:
            raise SourceError(
                "zstd gets too little memory, or too few threads (pids.max, `ulimit -u`), to"
                " compress: use fewer threads or a lower level"
            ) from exc
