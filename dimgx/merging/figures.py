"""What a flat tar amounts to, and what each layer gave to it: the figures of a report.

The figures of the tar are read from its very bytes as they pass by (`TarFigures`), so they hold
whatever made these bytes; those of the layers come from the plan (`count_layers`). Neither is done
where nobody asks: the emitter knows nothing of it.

Costs some 2 us for each member, and a SHA-256 of the tar. Memory: some 150 bytes for each
directory.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from dimgx.extent import Write
from dimgx.layers.layerindex import LayerIndex
from dimgx.layers.tarfields import (
    BLOCK,
    DIRECTORY,
    EXTENDED,
    FILE,
    LINK,
    LONG_LINK,
    LONG_NAME,
    PAX,
    SYMLINK,
    TYPES,
    count_blocks,
    cut,
    is_xattr_record,
    parse_number,
    parse_records,
)
from dimgx.merging.plan import Plan

FS_BLOCK = 4096
"""Bytes of a file system's block."""
INLINE_SYMLINK = 59
"""Bytes of a symlink's target that fit into ext4's inode."""

# Of ext4: a name's entry takes 8 bytes and the name, in fours; `.` and `..` take 12 each; and each
# block ends with a checksum of 12.
_ENTRY, _OWN_ENTRIES, _TAIL = 8, 24, 12


class LayerFigures(NamedTuple):
    """What a layer brought, and what became of it."""

    length: int
    """Bytes of its uncompressed tar."""
    entries: int
    """Its members but for whiteouts, other markers and the root."""
    kept: int
    """Entries that are in the result."""
    whiteouts: int
    """Names that it removes from the layers below, and directories that it makes opaque."""

    @property
    def covered(self) -> int:
        """Entries that a later layer replaced or removed, or that were left out."""
        return self.entries - self.kept


def count_layers(
    plan: Plan, indexes: Sequence[LayerIndex], lengths: Sequence[int]
) -> list[LayerFigures]:
    """Count what the layers, lower to upper, gave to the plan that was made of `indexes`."""
    ordered = sorted(plan.numbers)
    found = []
    # Numbers run newest layer first, behind each layer's members come its implied directories, and
    # behind all layers what is in none.
    for base, index, length in zip(plan.bases, reversed(indexes), reversed(lengths), strict=False):
        end = base + index.member_count
        found.append(
            LayerFigures(
                length=length,
                entries=index.member_count - index.keys.count(b""),
                kept=bisect_left(ordered, end) - bisect_left(ordered, base),
                whiteouts=len(index.whiteouts) + len(index.opaque),
            )
        )
    return found[::-1]


class TarFigures:
    """Counts what stands in a flat tar whose bytes are passed to `write`, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(usedforsecurity=False)
        self._kinds: Counter[int] = Counter()
        self._directories: dict[bytes, int] = {b"": _OWN_ENTRIES}
        self._held = b""
        self._skip = 0
        self._is_ended = False
        self._size: int | None = None
        self._name: bytes | None = None
        self._target_size: int | None = None
        self.length = 0
        """Bytes of the tar."""
        self.content = 0
        """Bytes of all files."""
        self.xattrs: Counter[str] = Counter()
        """How many entries have the extended attribute, by its name."""
        self.has_root = False
        """There is an entry for the root directory."""
        self._blocks = 0

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._hash.update(data)
        size = len(data)
        self.length += size
        if self._skip >= size or self._is_ended:
            self._skip -= size
            return
        chunk = self._held + data if self._held else data
        at, self._skip = self._skip, 0
        size = len(chunk)
        while at + BLOCK <= size and (end := self._take(chunk, at)) is not None:
            at = end
        if at < size:
            self._held = bytes(chunk[at:])
        else:
            self._held, self._skip = b"", at - size

    def passing(self, write: Write) -> Write:
        """Give what takes bytes and passes them on to `write`."""

        def passed(data: bytes | memoryview) -> None:
            self.write(data)
            write(data)

        return passed

    @property
    def sha256(self) -> str:
        """The digest of what was written so far, in hex."""
        return self._hash.hexdigest()

    @property
    def by_type(self) -> dict[str, int]:
        """How many entries there are of each type, the root directory's not counted."""
        counts: dict[str, int] = {name: self._kinds[kind] for kind, name in enumerate(TYPES, FILE)}
        counts["directory"] -= self.has_root
        return counts

    @property
    def total(self) -> int:
        """How many entries there are, the root directory's not counted."""
        return sum(self.by_type.values())

    @property
    def inodes(self) -> int:
        """How many inodes the tree takes: a hard link none, the root directory one."""
        return self.total - self._kinds[LINK] + 1

    @property
    def blocks(self) -> int:
        """How many blocks of 4 KiB the tree takes in a file system like ext4.

        Files and long symlinks in whole blocks, and directories by the names in them.
        """
        room = FS_BLOCK - _TAIL
        return self._blocks + sum(-(-size // room) for size in self._directories.values())

    def _take(self, chunk: bytes | memoryview, at: int) -> int | None:
        """Count the header at `at`; give where the next is.

        None where some of it is to come, or at the end.
        """
        kind = chunk[at + 156]
        if not kind:
            self._is_ended = True
            return None
        stated = parse_number(bytes(chunk[at + 124 : at + 136]), "the size", at)
        if kind in EXTENDED:
            end = at + BLOCK + stated
            padded = end + -stated % BLOCK
            if padded > len(chunk):
                return None
            payload = bytes(chunk[at + BLOCK : end])
            if kind == PAX:
                self._take_records(payload)
            elif kind == LONG_NAME:
                self._name = cut(payload)
            elif kind == LONG_LINK:
                self._target_size = len(cut(payload))
            return padded
        size = stated if self._size is None else self._size
        self._kinds[kind] += 1
        self._count_name(chunk, at, kind)
        if kind == FILE:
            self.content += size
            self._blocks += -(-size // FS_BLOCK)
        elif kind == SYMLINK:
            target = self._target_size
            if target is None:
                target = len(cut(bytes(chunk[at + 157 : at + 257])))
            self._blocks += target > INLINE_SYMLINK
        self._size = self._name = self._target_size = None
        return at + BLOCK * (1 + (count_blocks(size) if kind == FILE else 0))

    def _take_records(self, payload: bytes) -> None:
        for key, value in parse_records(payload, 0):
            if key == b"size":
                self._size = int(value)
            elif key == b"path":
                self._name = value
            elif key == b"linkpath":
                self._target_size = len(value)
            elif is_xattr_record(key):
                self.xattrs[key.removeprefix(b"SCHILY.xattr.").decode(errors="replace")] += 1

    def _count_name(self, chunk: bytes | memoryview, at: int, kind: int) -> None:
        """Add a name to the directory that it is in."""
        name = self._name
        if name is None:
            name = cut(bytes(chunk[at : at + 100]))
            if chunk[at + 345] and chunk[at + 262] == 0:  # a prefix, which GNU's format has not
                name = cut(bytes(chunk[at + 345 : at + 500])) + b"/" + name
        if kind == DIRECTORY:
            name = name.rstrip(b"/")
            if name == b".":
                self.has_root = True
                return
            self._directories[name] = self._directories.get(name, 0) + _OWN_ENTRIES
        parent, _, last = name.rpartition(b"/")
        size = _ENTRY + (len(last) + 3 & -4)
        self._directories[parent] = self._directories.get(parent, 0) + size
