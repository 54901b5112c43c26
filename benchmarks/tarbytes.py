"""Writes layer tars from plain entries, fast enough for a million of them.

The writer knows nothing of dimgx and nothing of Python's tarfile (which needs minutes for a million
members): a header is one format string, written as Go's archive/tar writes those of a real layer,
or as other tools do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

BLOCK = 512
END = bytes(2 * BLOCK)
FLUSH_AT = 1 << 20

Spelling = Literal["go", "gnu", "posix", "bsdtar"]
"""As Go does it, GNU tar, GNU tar with --format=posix, bsdtar with --format=pax."""
POSIX_MAGIC, GNU_MAGIC = b"ustar\00000", b"ustar  \0"
FLAGS = {"f": b"0", "h": b"1", "l": b"2", "c": b"3", "b": b"4", "d": b"5", "p": b"6"}


class Entry(NamedTuple):
    """One member of a layer; a marker is a file with a marker's name."""

    kind: str
    """f d l c b p, or h for a hard link."""
    path: bytes
    """Without a leading or a trailing slash."""
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    data: bytes = b""
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    fraction: bytes = b""
    """Digits of the mtime behind the point; they take a PAX header."""


def walk_key(path: bytes) -> bytes:
    """Give the key in whose order a walk meets the paths: parents first, siblings by bytes."""
    return path.replace(b"/", b"\0")


def header(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    flag: bytes,
    target: bytes = b"",
    prefix: bytes = b"",
    device: tuple[int, int] = (0, 0),
    magic: bytes = POSIX_MAGIC,
) -> bytes:
    """Give one header with its checksum."""
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.ljust(100, b"\0"), mode, uid, gid, size, mtime,
    )  # fmt: skip
    tail = b"%b%b%b%b%07o\0%07o\0%b" % (
        flag, target.ljust(100, b"\0"), magic, bytes(64), *device, prefix.ljust(167, b"\0"),
    )  # fmt: skip
    return b"%b%06o\0 %b" % (head, sum(head) + 256 + sum(tail), tail)


def pax_record(key: bytes, value: bytes) -> bytes:
    """Give one record, its length counted in."""
    body = len(key) + len(value) + 3
    length = body + len(str(body))
    length = body + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Cut a name into ustar's prefix and name, where it fits and is ASCII."""
    if not name.isascii():
        return None
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", len(name) - 101)
    if cut < 0 or cut > 155 or cut == len(name) - 1:
        return None
    return name[:cut], name[cut + 1 :]


def long_header(flag: bytes, text: bytes) -> bytes:
    """Give GNU tar's header for what is too long for a header."""
    size = len(text) + 1
    head = header(b"././@LongLink", 0o644, 0, 0, size, 0, flag, magic=GNU_MAGIC)
    return head + text + bytes(1 + -size % BLOCK)


def encode_gnu(entry: Entry, name: bytes, target: bytes) -> bytes:
    """Give an entry as GNU tar writes it, which has neither records nor prefixes."""
    size = len(entry.data)
    return b"".join(
        (
            long_header(b"K", target) if len(target) > 100 else b"",
            long_header(b"L", name) if len(name) > 100 else b"",
            header(
                name[:100], entry.mode, entry.uid, entry.gid, size, entry.mtime,
                FLAGS[entry.kind], target[:100], b"", entry.device, GNU_MAGIC,
            ),
            entry.data,
            bytes(-size % BLOCK),
        )
    )  # fmt: skip


def more_records(entry: Entry, spelling: Spelling) -> bytes:
    """Give the records that some tools write for every file."""
    if spelling == "go":
        return b""
    records = b"".join(
        pax_record(key, b"%d.%09d" % (entry.mtime, len(entry.data)))
        for key in (b"mtime", b"atime", b"ctime")
    )
    if spelling == "bsdtar":
        records += b"".join(
            pax_record(key, b"%d" % len(entry.path))
            for key in (b"LIBARCHIVE.creationtime", b"SCHILY.dev", b"SCHILY.ino", b"SCHILY.nlink")
        )
    return records


def encode(entry: Entry, prefix: bytes = b"", spelling: Spelling = "go") -> bytes:
    """Give an entry's headers and padded payload; `prefix` goes before its name."""
    name = prefix + entry.path
    if entry.kind == "d":
        name += b"/"
    target = entry.target
    if entry.kind == "h":
        target = prefix + target
    if spelling == "gnu":
        return encode_gnu(entry, name, target)
    records = more_records(entry, spelling)
    split = split_name(name)
    if split is None or (spelling == "posix" and split[0]):
        records += pax_record(b"path", name)
        split = b"", name.decode("utf-8", "replace").encode("ascii", "replace")[:100]
    if len(target) > 100 or not target.isascii():
        records += pax_record(b"linkpath", target)
        target = b""
    if entry.fraction and spelling == "go":
        records += pax_record(b"mtime", b"%d.%b" % (entry.mtime, entry.fraction))
    for key, value in entry.xattrs:
        records += pax_record(b"SCHILY.xattr." + key, value)
    size = len(entry.data)
    parts = []
    if records:
        base = b"PaxHeaders.0/" + split[1].rstrip(b"/").rpartition(b"/")[2][:80]
        parts += [
            header(base, 0o644, 0, 0, len(records), 0, b"x"),
            records,
            bytes(-len(records) % BLOCK),
        ]
    parts.append(
        header(
            split[1], entry.mode, entry.uid, entry.gid, size, entry.mtime, FLAGS[entry.kind],
            target, split[0], entry.device,
        )
    )  # fmt: skip
    if size:
        parts += [entry.data, bytes(-size % BLOCK)]
    return b"".join(parts)


class Written(NamedTuple):
    """What writing a layer gave."""

    size: int
    digest: str
    """Hexadecimal sha256 of the tar."""


def write_layer(
    entries: Iterable[Entry],
    write: Callable[[bytes], object],
    prefix: bytes = b"",
    spelling: Spelling = "go",
) -> Written:
    """Write a layer's tar and tell its size and digest."""
    digest = hashlib.sha256()
    size = pending = 0
    parts: list[bytes] = []
    if prefix:
        parts.append(header(prefix, 0o755, 0, 0, 0, 0, b"5"))
    for entry in entries:
        part = encode(entry, prefix, spelling)
        parts.append(part)
        pending += len(part)
        if pending >= FLUSH_AT:
            block = b"".join(parts)
            digest.update(block)
            write(block)
            size += len(block)
            parts.clear()
            pending = 0
    parts.append(END)
    block = b"".join(parts)
    digest.update(block)
    write(block)
    return Written(size + len(block), digest.hexdigest())
