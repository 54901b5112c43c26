"""A layer of one's own: a tar of this machine, or a directory, that is laid on top of an image.

A tar, compressed or not, is taken as it is. Of a directory only what is the same wherever it is
checked out goes in, so that the same files give the same bytes on every machine:

1. names, in the order of a walk, content, the targets of symlinks, the numbers of devices;
2. permission bits; of the extended attributes `security.capability`;
3. no owner and no time: all belongs to 0:0 and is as old as an implied directory, time 0;
4. a directory of mode 0755 with something in it has no entry, so one that the image has stays as it
   is (1777 of `/tmp`, 0700 of `/root`), and a new one is 0755 0:0 anyway; others have their entry;
5. names of one inode become hard links. Nothing is followed: a symlink is a symlink.

`.wh.NAME` removes NAME, as in any layer. Who wants owners, times or all directories makes a tar.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from dimgx.codec import HEAD, read_head, sniff
from dimgx.decode import iter_decoded
from dimgx.digest import Digest
from dimgx.errors import ImageError, SourceError
from dimgx.extent import Extent
from dimgx.image import Layer
from dimgx.layers.names import MAX_PATH
from dimgx.layers.tarfields import (
    BLOCK,
    BLOCKDEV,
    CHARDEV,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    SYMLINK,
    Header,
    MalformedTar,
)
from dimgx.layers.tarheader import read_header
from dimgx.layers.tarwrite import END, build_header
from dimgx.system import PIECE, let_go, open_read

if TYPE_CHECKING:
    from contextlib import ExitStack

    from dimgx.spool import SpoolSpace

_CAPABILITY = "security.capability"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARDEV,
    stat.S_IFBLK: BLOCKDEV,
    stat.S_IFIFO: FIFO,
}


def open_added_layer(
    path: str, space: SpoolSpace, resources: ExitStack, tick: Callable[[], None] | None = None
) -> Layer:
    """Give the layer that the tar or the directory `path` is, with its diff_id.

    A plain tar is read where it lies, and stays open until `resources` is closed; all else is kept
    in `space`. `tick` is called for each piece that is read.

    Raises: SourceError where it cannot be read, or changes meanwhile; ImageError where it is no
        tar.
    """
    try:
        if os.path.isdir(path):
            return _spool(_gathered(_iter_directory(os.fsencode(path))), space, tick)
        return _open_tar(path, space, resources, tick)
    except OSError as exc:
        where = os.fsdecode(exc.filename) if exc.filename else path
        raise SourceError(f"{where} cannot be added: {exc.strerror or exc}") from exc


def _open_tar(
    path: str, space: SpoolSpace, resources: ExitStack, tick: Callable[[], None] | None
) -> Layer:
    fd = open_read(path)
    resources.callback(let_go, fd)
    status = os.fstat(fd)
    chunks: Iterator[bytes | memoryview]
    if stat.S_ISREG(status.st_mode):
        whole = Extent(fd, 0, status.st_size)
        head, chunks = whole.read(0, HEAD), whole.iter_chunks()
        if sniff(head) is None:
            _check_tar(whole, path)
            return Layer(whole, diff_id=_digest(chunks, tick))
    else:  # a pipe
        chunks = iter(lambda: os.read(fd, PIECE), b"")
        head = read_head(chunks)
        chunks = chain((head,), chunks)
    try:
        layer = _spool(iter_decoded(chunks, sniff(head)), space, tick)
    except ImageError as exc:
        raise ImageError(f"{path}: {exc}") from exc
    assert isinstance(layer.blob, Extent)
    _check_tar(layer.blob, path)
    return layer


def _check_tar(tar: Extent, path: str) -> None:
    """See that it begins like a tar; what is wrong further on shows when it is walked."""
    if not tar.size:
        # A pipe that somebody else has read, more likely than an empty layer.
        raise ImageError(f"{path} is no tar: it is empty")
    try:
        read_header(tar.read, 0, tar.size)
    except MalformedTar as exc:
        raise ImageError(f"{path} is no tar: {exc}") from exc


def _digest(chunks: Iterator[bytes | memoryview], tick: Callable[[], None] | None) -> Digest:
    """Give the digest of what is read."""
    summed = hashlib.sha256(usedforsecurity=False)
    for chunk in chunks:
        if tick is not None:
            tick()
        summed.update(chunk)
    return Digest("sha256", summed.hexdigest())


def _spool(
    chunks: Iterator[bytes | memoryview], space: SpoolSpace, tick: Callable[[], None] | None
) -> Layer:
    spool = space.open()

    def kept() -> Iterator[bytes | memoryview]:
        for chunk in chunks:
            spool.write(chunk)
            yield chunk

    diff_id = _digest(kept(), tick)
    return Layer(spool.finish(), diff_id=diff_id)


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces joined to larger ones: a directory's headers and files may be small and many."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _iter_directory(top: bytes) -> Iterator[bytes]:
    """Yield the tar of what is in a directory."""
    firsts: dict[tuple[int, int], bytes] = {}
    waiting = [(name, os.path.join(top, name)) for name in sorted(os.listdir(top), reverse=True)]
    while waiting:
        name, path = waiting.pop()
        status = os.lstat(path)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            raise SourceError(f"{os.fsdecode(path)} cannot be added: no tar holds a socket")
        if len(name) > MAX_PATH:
            raise SourceError(f"{os.fsdecode(path)} cannot be added: a name of {len(name)} bytes")
        mode = _mode(status, kind)
        if kind == DIRECTORY:
            inside = sorted(os.listdir(path), reverse=True)
            if mode != 0o755 or not inside:
                yield build_header(Header(name + b"/", kind, mode))
            waiting += [(name + b"/" + base, os.path.join(path, base)) for base in inside]
            continue
        inode = status.st_dev, status.st_ino
        if status.st_nlink > 1 and inode in firsts:
            yield build_header(Header(name, LINK, mode, linkname=firsts[inode]))
            continue
        firsts[inode] = name
        if kind == FILE:
            yield from _iter_file(name, path, mode, status)
        elif kind == SYMLINK:
            yield build_header(Header(name, kind, mode, linkname=os.readlink(path)))
        else:
            major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
            yield build_header(Header(name, kind, mode, devmajor=major, devminor=minor))
    yield END


def _iter_file(name: bytes, path: bytes, mode: int, seen: os.stat_result) -> Iterator[bytes]:
    """Yield a file's header and content.

    Raises: SourceError where it is no longer the file that was `seen`, or changes meanwhile.
    """
    changed = f"{os.fsdecode(path)} changed while it was read: run this again"
    fd = open_read(path)
    try:
        status = os.fstat(fd)
        if not os.path.samestat(status, seen):
            raise SourceError(changed)
        yield build_header(Header(name, FILE, mode, size=status.st_size, records=_records(fd)))
        left = status.st_size
        while piece := os.read(fd, PIECE):
            left -= len(piece)
            if left < 0:
                break
            yield piece
        if left:
            raise SourceError(changed)
        yield bytes(-status.st_size % BLOCK)
    finally:
        let_go(fd)


def _mode(status: os.stat_result, kind: int) -> int:
    if kind == SYMLINK:
        return 0o777
    if os.name == "nt":  # where modes say nothing
        return 0o755 if kind == DIRECTORY else 0o644
    return stat.S_IMODE(status.st_mode)


def _records(fd: int) -> dict[bytes, bytes]:
    """Give the PAX records of an open file: its capabilities, if it has any."""
    try:
        found = os.getxattr(fd, _CAPABILITY)
    except (AttributeError, OSError):  # not on this system, or none
        return {}
    return {b"SCHILY.xattr." + _CAPABILITY.encode(): found}
