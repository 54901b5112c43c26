"""From a path or a stream to the files in it, whatever they are wrapped in.

1. An archive on disk is read in place, from stdin too where that is a file (`< image.tar`).
2. A stream, and an archive that is itself compressed, is written to the spool once.
3. Bytes tell what something is. What is no archive gets an error that says what it looks like.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from dimgx import system
from dimgx.codec import read_head, sniff
from dimgx.decode import iter_decoded
from dimgx.errors import ImageError, SourceError
from dimgx.extent import Extent
from dimgx.image import Watch, closing_chunks
from dimgx.layers.tarfields import BLOCK, MalformedTar, check_sum
from dimgx.sources.archive import ArchiveFiles
from dimgx.sources.files import DirectoryFiles, Files

if TYPE_CHECKING:
    from dimgx.image import Tick
    from dimgx.reference import Reference
    from dimgx.spool import SpoolSpace

_PIECE = 1 << 20
_HEAD = 1 << 16
_STDIN = "standard input"

_MAGICS = (
    (b"PK\x03\x04", "a zip file"),
    (b"hsqs", "a squashfs file system"),
    (b"7z\xbc\xaf", "a 7z file"),
    (b"Rar!", "a rar file"),
    (b"\x04\x22\x4d\x18", "lz4-compressed, which is not read"),
    (b"\x1f\x9d", "compressed with compress, which is not read"),
    (b"\x7fELF", "a program"),
    (b"#!", "a program"),
    (b"!<arch>", "a package"),
    (b"\xed\xab\xee\xdb", "a package"),
    (b"0707", "a cpio archive"),
    (b"<", "a web page or XML"),
    (b"{", "a JSON document"),
    (b"[", "a JSON document"),
)


class Opening(NamedTuple):
    """How an archive is opened, whatever it comes from."""

    where: str
    """What people call it."""
    spool: SpoolSpace
    """Where it is kept, as far as it has to be."""
    tick: Tick | None = None
    """Is called while that is done."""
    verify: bool = True
    """Digests of what is in it will be checked."""


def open_files(
    reference: Reference,
    stdin: BinaryIO | None,
    spool: SpoolSpace,
    resources: ExitStack,
    tick: Tick | None = None,
    *,
    verify: bool,
) -> Files:
    """Give the files that the reference's path or stdin holds, as `Opening` has it.

    Raises: SourceError where it cannot be read, ImageError where it is no archive.
    """
    if reference.path is None:
        if stdin is None:
            raise SourceError("standard input is closed: pipe an archive in, as docker save does")
        return _open_stdin(stdin, Opening(_STDIN, spool, tick, verify), resources)
    path = reference.path
    where = path if path.isprintable() else f"{path!r:.300}"
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            return DirectoryFiles(path, where, resources, verify=verify)
        fd = system.open_read(path)
    except (OSError, ValueError) as exc:
        # Other tools write oci://HOST/NAME for what is at a registry.
        rest = reference.text.partition(":")[2]
        is_url = rest.startswith("//") and rest.isprintable()
        hint = f"; at a registry it is docker:{rest:.300}" if is_url else ""
        raise SourceError(f"{where}: {getattr(exc, 'strerror', None) or exc}{hint}") from exc
    resources.callback(system.let_go, fd)
    status = os.fstat(fd)
    opening = Opening(where, spool, tick, verify)
    if stat.S_ISREG(status.st_mode):
        return _open_extent(Extent(fd, 0, status.st_size), opening)
    system.widen_pipe(fd)
    return open_stream(_translated(_iter_fd(fd), where), opening)


def _ticking(
    chunks: Iterator[bytes | memoryview], tick: Tick | None, total: int | None
) -> Iterator[bytes | memoryview]:
    """Pass `chunks` on, and tell `tick` how far that is, from before the first."""
    done = 0
    if tick is not None:
        tick(0, total)
    for chunk in chunks:
        done += len(chunk)
        if tick is not None:
            tick(done, None if total is None else max(done, total))
        yield chunk


def _translated(chunks: Iterator[bytes | memoryview], where: str) -> Iterator[bytes | memoryview]:
    try:
        yield from chunks
    except OSError as exc:
        raise SourceError(f"{where} cannot be read: {exc.strerror or exc}") from exc


def _open_stdin(stdin: BinaryIO, opening: Opening, resources: ExitStack) -> Files:
    fd = system.plain_descriptor(stdin)
    if fd is None:
        return open_stream(_translated(_iter_reader(stdin), _STDIN), opening)
    if os.isatty(fd):
        raise SourceError(
            "standard input is a terminal: pipe an archive in, as in"
            " `docker save NAME | dimgx -t TARGET -`"
        )
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        offset = min(stdin.tell(), status.st_size)
        # The caller may close the file, or drop it, before the image.
        fd = os.dup(fd)
        resources.callback(system.let_go, fd)
        return _open_extent(Extent(fd, offset, status.st_size - offset), opening)
    system.widen_pipe(fd)
    is_blocking = not hasattr(os, "get_blocking") or os.get_blocking(fd)
    chunks = _iter_reader(stdin) if is_blocking else _iter_fd(fd)
    return open_stream(_translated(chunks, _STDIN), opening)


def _iter_reader(reader: BinaryIO) -> Iterator[bytes | memoryview]:
    """Yield what comes, each piece good until the next.

    Raises: SourceError where the file does not wait for what comes.
    """
    fill = getattr(reader, "readinto1", None)
    if fill is None:
        read = getattr(reader, "read1", reader.read)
        while chunk := read(_PIECE):
            yield chunk
        is_end = chunk is not None
    else:
        # One buffer for all: a new one for each piece costs as much as the copying.
        buffer = memoryview(bytearray(_PIECE))
        while count := fill(buffer):
            yield buffer[:count]
        is_end = count is not None
    if not is_end:
        raise SourceError(f"{_STDIN} has no bytes just now: give a file that waits for them")


def _iter_fd(fd: int) -> Iterator[memoryview]:
    """Yield what comes, each piece good until the next."""
    buffer = memoryview(bytearray(_PIECE))
    while True:
        try:
            count = system.read_into(fd, buffer)
        except BlockingIOError:
            import select

            select.select([fd], [], [])
            continue
        if not count:
            return
        yield buffer[:count]


def _open_extent(extent: Extent, opening: Opening) -> ArchiveFiles:
    watch = Watch.of(extent.fd, opening.where)
    head = extent.read(0, _HEAD)
    _refuse_text(head, opening.where)
    if sniff(head) is not None:
        extent = _spool(_ticking(extent.iter_chunks(), opening.tick, extent.size), head, opening)
    return _index(extent, opening, watch)


def open_stream(
    chunks: Iterator[bytes | memoryview], opening: Opening, total: int | None = None
) -> ArchiveFiles:
    """Give the files of an archive that comes in pieces, each good until the next.

    They can be read until the spool is closed. `total` is about how many bytes will come.

    Raises: ImageError where it is no archive.
    """
    with closing_chunks(chunks):
        ticking = _ticking(chunks, opening.tick, total)
        head = read_head(ticking, _HEAD)
        _refuse_text(head, opening.where)
        extent = _spool(chain([head], ticking), head, opening)
    return _index(extent, opening, None)


def _spool(chunks: Iterable[bytes | memoryview], head: bytes, opening: Opening) -> Extent:
    with ExitStack() as resources:
        spool = opening.spool.open()
        resources.callback(spool.close)
        pieces = iter_decoded(chunks, sniff(head))
        try:
            first = read_head(pieces, BLOCK)
            problem = _why_no_tar(first)
            if problem is None:
                for piece in chain([first], pieces):
                    spool.write(piece)
        except ImageError as exc:
            if _has_text_line_ends(head, 4):
                raise _went_through_text(opening.where) from exc
            raise ImageError(f"{opening.where}: {exc}") from exc
        if problem is not None:
            raise ImageError(f"{opening.where} is no {problem}")
        resources.pop_all()
        return spool.finish()


def _why_no_tar(first: bytes) -> str | None:
    """Say why what begins so is no tar, if its first block tells: the rest may be long, or endless.

    What is a damaged tar is told when it is looked through.
    """
    if len(first) < BLOCK or first[257:262] == b"ustar":
        return None
    if not any(first):
        return "container image: it begins with zeros, as an empty tar does"
    try:
        check_sum(first, 0)
    except MalformedTar:
        return f"archive of an image{_looks_like(first)}"
    return None


def _index(extent: Extent, opening: Opening, watch: Watch | None) -> ArchiveFiles:
    where = opening.where
    try:
        return ArchiveFiles(extent, where, watch, verify=opening.verify)
    except ImageError as exc:
        head = extent.read(0, _HEAD)
        if head[257:262] != b"ustar":
            raise ImageError(f"{where} is no archive of an image{_looks_like(head)}") from exc
        if _has_text_line_ends(head, 1):
            raise _went_through_text(where) from exc
        raise


def _looks_like(head: bytes) -> str:
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return f": it looks like {name}"
    start = head[:60].partition(b"\n")[0].strip()
    if start and start.isascii() and start.decode().isprintable():
        return f": it begins with {start.decode()!r}"
    return ": it is no tar, plain or compressed"


def _refuse_text(head: bytes, where: str) -> None:
    """Refuse what is empty and what a shell took for text.

    PowerShell's `>` writes UTF-16; its pipes turn what is no ASCII into `?` or U+FFFD.
    """
    if not head:
        hint = ": did the command before it fail?" if where == _STDIN else ""
        raise ImageError(f"{where} is empty{hint}")
    wide = head[:400]
    if (
        head[:2] in (b"\xff\xfe", b"\xfe\xff")
        or head[:3] == b"\xef\xbb\xbf"
        or head.startswith(
            (b"\x1f?\b", b"\x1f\xef\xbf\xbd", b"(?/?", b"(\xef\xbf\xbd/\xef\xbf\xbd")
        )
        or _is_wide(wide[::2], wide[1::2])
        or _is_wide(wide[1::2], wide[::2])
    ):
        raise _went_through_text(where)


def _is_wide(letters: bytes, zeros: bytes) -> bool:
    return not any(zeros) and len(letters.replace(b"\0", b"")) > 7


def _has_text_line_ends(head: bytes, least: int) -> bool:
    """Tell whether `least` line feeds or more are there, all of them as CR LF."""
    return least <= head.count(b"\n") == head.count(b"\r\n")


def _went_through_text(where: str) -> ImageError:
    return ImageError(
        f"{where} went through a shell that turned bytes into text: let `docker save -o FILE` write"
        " the file, or use cmd or bash"
    )
