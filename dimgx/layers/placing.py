"""Members into a layer's index: what each is called, what kind it is, and what it means besides.

They come in batches. Those that are odd in some way are looked at one by one.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
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
)
from dimgx.layers.ownlayer import OwnLayer
from dimgx.layers.tarbatch import parse_batch
from dimgx.layers.tarfields import CHARDEV, DIRECTORY, FILE, LINK, Header, MalformedTar, show
from dimgx.layers.tarhop import Extended

# What goes the long way round through _place() is longer names, and markers of all other kinds.
_PLAIN_WHITEOUT = re.compile(rb"(?s)((?:[^/.][^/]*/)*)\.wh\.([^/.][^/]*)")
# Words of 8 bytes in a header, in which mode, owner and time lie.
_ATTRIBUTES = (12, 13, 14, 15, 17, 18)


class _Attributes(NamedTuple):
    """What the headers of a batch say of mode, owner and time: 48 bytes for each."""

    base: int
    """The number of the batch's first member."""
    odd: set[int]
    """Headers that more is to be known of."""
    columns: list[bytes]

    def find(self, number: int) -> bytes | None:
        place = number - self.base
        if place in self.odd:
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
        self._attributes: list[_Attributes] | None = [] if keeps_attributes else None

    def attributes_of(self, number: int) -> bytes | None:
        """Give mode, owner and time of a member as spelled; None if it has more than one header."""
        assert self._attributes is not None
        i = bisect_right(self._attributes, number, key=attrgetter("base")) - 1
        return self._attributes[i].find(number)

    def take(self, joined: bytes, alone: dict[int, Header], extended: Sequence[Extended]) -> None:
        """Take the members with the headers `joined`, one block for each, into the index.

        By their numbers in this batch, `alone` has what members say whose block counts for nothing.
        `extended` is what stands before headers.

        Raises: MalformedTar.
        """
        index, own = self._index, self._own
        base = index.member_count
        keys, kinds, codes, links, odd_names, unusual = parse_batch(joined, extended, self._clamp)
        unusual.update(alone)
        if self._attributes is not None:
            words = memoryview(joined).cast("Q")
            columns = [words[column::64].tobytes() for column in _ATTRIBUTES]
            odd = unusual.union(number for number, *_ in extended)
            self._attributes.append(_Attributes(base, odd, columns))
        for i in sorted(unusual.union(odd_names)):
            if i in unusual:
                header = alone.get(i) or self._read_header_at(index.starts[base + i])
                keys[i], kinds[i], codes[i] = self._place_header(base + i, header)
            elif plain_whiteout := _PLAIN_WHITEOUT.fullmatch(odd_names[i]):
                hidden = b"".join(plain_whiteout.groups())
                own.whiteouts[base + i] = key_of(hidden, is_directory=False)
                own.absent.append(base + i)
                keys[i] = b""
            else:
                keys[i], codes[i] = self._place(base + i, odd_names[i], kinds[i], codes[i])
        for i, target in links:
            # A marker is no link, whatever its type.
            if keys[i] and i not in unusual:
                own.links[base + i] = target
        index.keys += keys
        index.codes += codes
        index.kinds += kinds

    def _place_header(self, number: int, header: Header) -> tuple[bytes, int, int]:
        """Give the key, kind and code of a member that was parsed alone."""
        code = COPY
        if not header.is_normal or self._is_later(header):
            code = REWRITE
        if len(header.linkname) > MAX_PATH:
            raise MalformedTar("a link target of more than 4096 bytes", header.offset)
        key, code = self._place(number, header.name, header.kind, code)
        if key and header.kind == CHARDEV and not header.devmajor and not header.devminor:
            self._own.device_whiteouts[number] = key
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
            self._index.root = number
            self._own.absent.append(number)
            return b"", REWRITE
        if WHITEOUT_PREFIX in path and self._note_marker(number, path, kind):
            self._own.absent.append(number)
            return b"", REWRITE
        key = key_of(path, is_directory=kind == DIRECTORY)
        return key, code if name == name_of(key) else REWRITE

    def _note_marker(self, number: int, path: bytes, kind: int) -> bool:
        """Note a whiteout, an opaque marker or aufs' book-keeping; tell whether it is one."""
        parts = path.split(b"/")
        marker = next((part for part in parts if part.startswith(WHITEOUT_PREFIX)), None)
        if marker is None:
            return False
        hidden = marker[len(WHITEOUT_PREFIX) :]
        if hidden in (b"", b".", b".."):
            raise MalformedTar(f"a whiteout {show(path)} of nothing", self._index.starts[number])
        parents = parts[: parts.index(marker)]
        is_below_marker = len(parents) < len(parts) - 1
        if marker == OPAQUE_MARKER and not is_below_marker:
            self._own.opaque[number] = b"".join(parent + b"\0" for parent in parents)
        elif is_below_marker or marker.startswith(AUFS_PREFIX):  # rules 14 and 19
            if kind == FILE:
                self._own.dropped[path] = number
        else:
            self._own.whiteouts[number] = b"\0".join((*parents, hidden))
        return True
