"""Members into a layer's index: what each is called, what kind it is, and what it means besides.

Ordinary headers come in batches. Those of them that are odd in some way, and members that were
parsed alone, are looked at one by one.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

from dimgx.layers.layerindex import COPY, REWRITE, LayerIndex
from dimgx.layers.names import (
    AUFS_PREFIX,
    MAX_PATH,
    OPAQUE_MARKER,
    WHITEOUT_PREFIX,
    key_of,
    name_of,
    normalise,
    path_of,
)
from dimgx.layers.ownlayer import OwnLayer
from dimgx.layers.tarbatch import PaxHeader, parse_batch
from dimgx.layers.tarfields import CHARDEV, DIRECTORY, FILE, LINK, Header, MalformedTar, show

NO_END = 1 << 62
"""Where a tar ends whose end is not known yet."""

# What goes the long way round through _place() is longer names, and markers of all other kinds.
_PLAIN_WHITEOUT = re.compile(rb"(?s)((?:[^/.][^/]*/)*)\.wh\.([^/.][^/]*)")
# Words of 8 bytes in a header, in which mode, owner and time lie.
_ATTRIBUTES = (12, 13, 14, 15, 17, 18)


class _Attributes(NamedTuple):
    """What the headers of a batch say of mode, owner and time: 48 bytes for each."""

    base: int
    """The number of the batch's first member."""
    positions: list[int]
    """Of members that were parsed alone: how many ordinary ones are before each."""
    odd: set[int]
    """Ordinary headers that more is to be known of."""
    columns: list[bytes]

    def find(self, number: int) -> bytes | None:
        place = number - self.base
        for passed, position in enumerate(self.positions):
            if position + passed == number - self.base:
                return None
            place -= position + passed < number - self.base
        if place in self.odd or 8 * place >= len(self.columns[0]):
            return None
        words = b"".join([column[8 * place : 8 * place + 8] for column in self.columns])
        return words[4:28] + words[32:44]


class Placing:
    """Puts members into an index, and what they mean besides into an `OwnLayer`."""

    def __init__(
        self,
        index: LayerIndex,
        own: OwnLayer,
        read_header_at: Callable[[int], Header],
        clamp_mtime_s: int | None,
        *,
        keeps_attributes: bool,
    ) -> None:
        self._index, self._own, self._read_header_at = index, own, read_header_at
        self._clamp = clamp_mtime_s
        self._newest = None if clamp_mtime_s is None else b"%011o" % max(clamp_mtime_s, 0)
        self._attributes: list[_Attributes] | None = [] if keeps_attributes else None
        self.end = NO_END
        """Where the tar ends."""

    def attributes_of(self, number: int) -> bytes | None:
        """Give mode, owner and time of a member as spelled; None if it has more than one header."""
        assert self._attributes is not None
        i = bisect_right(self._attributes, number, key=attrgetter("base")) - 1
        return self._attributes[i].find(number) if i >= 0 else None

    def take(
        self, blocks: list[bytes], alone: list[tuple[int, Header]], pax: dict[int, PaxHeader]
    ) -> None:
        """Take members into the index: ordinary headers, one or more in each of `blocks`, what
        stands before them by their numbers, and members parsed alone, each with the number of
        ordinary ones before it.

        Raises: MalformedTar.
        """
        index = self._index
        base = index.member_count
        positions = [position for position, _ in alone]
        keys: list[bytes] = []
        kinds, codes = bytearray(), bytearray()
        if blocks:
            joined = b"".join(blocks)
            batch = parse_batch(joined, pax, self._newest)
            keys, codes, kinds = batch.keys, batch.codes, bytearray(batch.kinds)
            if self._attributes is not None:
                words = memoryview(joined).cast("Q")
                columns = [words[column::64].tobytes() for column in _ATTRIBUTES]
                odd = batch.unusual.union(pax)
                self._attributes.append(_Attributes(base, positions, odd, columns))
            for i in sorted(batch.unusual):
                number = base + i + bisect_right(positions, i)
                header = self._read_header_at(index.starts[number])
                keys[i], kinds[i], codes[i] = self._place_header(number, header)
            for i, name in batch.odd_names.items():
                if i not in batch.unusual:
                    number = base + i + bisect_right(positions, i)
                    plain_whiteout = _PLAIN_WHITEOUT.fullmatch(name)
                    if plain_whiteout:
                        self._own.whiteouts[number] = b"".join(plain_whiteout.groups())
                        self._own.absent.append(number)
                        keys[i] = b""
                    else:
                        keys[i], codes[i] = self._place(number, name, kinds[i], codes[i])
            for i, target in batch.links:
                # A marker is no link, whatever its type.
                if keys[i] and i not in batch.unusual:
                    self._own.links[base + i + bisect_right(positions, i)] = target
        done = 0
        for position, header in alone:
            index.keys += keys[done:position]
            index.codes += codes[done:position]
            index.kinds += kinds[done:position]
            key, kind, code = self._place_header(index.member_count, header)
            index.keys.append(key)
            index.codes.append(code)
            index.kinds.append(kind)
            done = position
        index.keys += keys[done:]
        index.codes += codes[done:]
        index.kinds += kinds[done:]

    def _place_header(self, number: int, header: Header) -> tuple[bytes, int, int]:
        """Give the key, kind and code of a member that was parsed alone."""
        code = COPY
        if not header.is_normal or header.end > self.end or self._is_later(header):
            code = REWRITE
        if len(header.linkname) > MAX_PATH:
            raise MalformedTar("a link target of more than 4096 bytes", header.offset)
        key, code = self._place(number, header.name, header.kind, code)
        if key and header.kind == CHARDEV and not header.devmajor and not header.devminor:
            self._own.device_whiteouts[number] = path_of(key)
            self._own.absent.append(number)
            return b"", header.kind, REWRITE
        if header.kind == LINK and key:
            self._own.links[number] = header.linkname
        return key, header.kind, code

    def _is_later(self, header: Header) -> bool:
        """Tell whether a time may be later than all are to be."""
        return self._clamp is not None and (
            header.mtime >= self._clamp or b"atime" in header.records or b"ctime" in header.records
        )

    def _place(self, number: int, name: bytes, kind: int, code: int) -> tuple[bytes, int]:
        """Give the key and code of a member with this name; note what is no entry."""
        path = normalise(name, self._index.starts[number])
        if not path:
            if kind != DIRECTORY:
                raise MalformedTar("a root entry that is no directory", self._index.starts[number])
            self._index.root = max(number, self._index.root or 0)
            self._own.absent.append(number)
            return b"", REWRITE
        if WHITEOUT_PREFIX in path and self._note_marker(number, path, kind):
            self._own.absent.append(number)
            return b"", REWRITE
        key = key_of(path, is_directory=kind == DIRECTORY)
        return key, code if name == name_of(key) else REWRITE

    def _note_marker(self, number: int, path: bytes, kind: int) -> bool:
        """Note a whiteout, an opaque marker or aufs' book-keeping; tell whether it is one."""
        *parents, base = path.split(b"/")
        is_below_marker = any(parent.startswith(WHITEOUT_PREFIX) for parent in parents)
        if base == OPAQUE_MARKER and not is_below_marker:
            self._own.opaque[number] = b"/".join(parents)
        elif is_below_marker or base.startswith(AUFS_PREFIX):  # rules 14 and 19
            if kind == FILE:
                self._own.dropped[path] = number
        elif base.startswith(WHITEOUT_PREFIX):
            hidden = base[len(WHITEOUT_PREFIX) :]
            if hidden in (b"", b".", b".."):
                raise MalformedTar(
                    f"a whiteout {show(path)} of nothing", self._index.starts[number]
                )
            self._own.whiteouts[number] = b"/".join((*parents, hidden))
        else:
            return False
        return True
