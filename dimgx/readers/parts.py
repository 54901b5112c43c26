"""A layer of which ever more is known, cut into parts that are merged with those of other layers.

All layers are cut at the same key, their *edge*, up to which all is known of each of them. What
comes behind it may lie below a directory that was before it, and be hidden by what a layer said of
that: by a whiteout, a non-directory or an opaque marker. Each part has these said again.

`OutOfOrder` refuses what comes too late, as a marker behind what it hides.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import compress, count, takewhile

from dimgx.layers.layerindex import LayerIndex, Link
from dimgx.layers.names import WHITEOUT_PREFIX, ancestors
from dimgx.layers.ownnames import OrderedNames
from dimgx.readers.growing import OutOfOrder


class LayerParts:
    """One layer, as far as it is known."""

    def __init__(self) -> None:
        self.past: dict[int, Link] = {}
        """Of the part that was cut last, by number within it: links to members of earlier parts."""
        # All members, and of the rest what no part has had yet.
        self._index = LayerIndex()
        self._index.starts.append(0)
        # The entries among the members: keys, which ascend, and numbers.
        self._keys: list[bytes] = []
        self._names = OrderedNames(self._keys)
        self._numbers = array("q")
        self._marker = b""
        self._implied: set[bytes] = set()
        self._whiteouts: set[bytes] = set()
        self._opaque: set[bytes] = set()
        self._cut = 0
        self._edge = b""

    @property
    def frontier(self) -> bytes:
        """The key up to which all is known."""
        # Where many names are whited out, these show how far it is.
        return max(self._marker, self._keys[-1] if self._keys else b"")

    @property
    def begin(self) -> int:
        """Where the first member begins that no part has had."""
        return self._index.starts[self._cut]

    @property
    def position(self) -> int:
        """Where the last known member ends, bytes from the start of the tar, there yet or not."""
        return self._index.starts[-1]

    def add(self, new: LayerIndex) -> None:
        """Take what `GrowingLayer.go_on` has given.

        Raises: OutOfOrder where it comes too late.
        """
        index, edge = self._index, self._edge
        keys, first = new.keys, index.member_count
        if b"" in keys:
            self._numbers.extend(compress(count(first), keys))
            keys = list(filter(None, keys))
        else:
            self._numbers.extend(range(first, first + len(keys)))
        if any(key <= edge for key in (*keys[:1], *new.implied, *new.whiteouts)) or any(
            key < edge for key in new.opaque
        ):
            raise OutOfOrder
        index.starts[-1:] = new.starts
        index.keys += new.keys
        index.codes += new.codes
        index.kinds += new.kinds
        index.implied += new.implied
        index.whiteouts += new.whiteouts
        index.opaque += new.opaque
        index.links.update(new.links)
        self._keys += keys
        self._marker = max(map(_marker_key, new.whiteouts), default=self._marker)
        self._implied.update(new.implied)
        self._whiteouts.update(new.whiteouts)
        self._opaque.update(new.opaque)

    def cut(self, edge: bytes | None) -> LayerIndex:
        """Give the part from the last edge up to this one, included; for None all the rest."""
        index, first, end = self._index, self._cut, self._index.member_count
        if edge is not None:
            place = bisect_right(self._keys, edge)
            if place < len(self._keys):
                end = self._numbers[place]
        part = LayerIndex()
        part.starts = index.starts[first : end + 1]
        part.keys = index.keys[first:end]
        part.codes = index.codes[first:end]
        part.kinds = index.kinds[first:end]
        part.implied = _pop(index.implied, edge)
        part.whiteouts = _pop(index.whiteouts, edge)
        part.opaque = _pop(index.opaque, edge)
        self._say_again(part)
        self.past.clear()
        for number in tuple(takewhile(lambda number: number < end, index.links)):
            link = index.links.pop(number)
            assert link.member is not None
            if link.member < first:
                self.past[number - first] = link
            else:
                part.links[number - first] = link._replace(member=link.member - first)
        self._cut, self._edge = end, edge or self._edge
        return part

    def hides(self, key: bytes) -> bool:
        """Tell whether this layer hides the non-directory `key` of lower ones, and not all."""
        directory = key + b"\0"
        above = ancestors(key)
        return (
            self._hides_below(key) or directory in self._implied or directory in self._names
            or any(self._hides_below(parent[:-1]) for parent in above)
            or not self._opaque.isdisjoint(above)
        )  # fmt: skip

    def _say_again(self, part: LayerIndex) -> None:
        """Add what the layer said of the directories that the edge lies in, or is."""
        if not self._edge:
            return
        for path in (self._edge.removesuffix(b"\0"), *(key[:-1] for key in ancestors(self._edge))):
            if self._hides_below(path):
                part.whiteouts.append(path)
            if path + b"\0" in self._opaque:
                part.opaque.append(path + b"\0")
        if b"" in self._opaque:
            part.opaque.append(b"")

    def _hides_below(self, path: bytes) -> bool:
        return path in self._whiteouts or path in self._names


def _pop(keys: list[bytes], edge: bytes | None) -> list[bytes]:
    """Take the keys up to `edge` out of a list, and give them; for None all."""
    found = keys[:] if edge is None else [key for key in keys if key <= edge]
    keys[:] = [] if edge is None else [key for key in keys if key > edge]
    return found


def _marker_key(hidden: bytes) -> bytes:
    """Give where in the order of a walk a whiteout stands: at its own name, or at the hidden one's.

    Some tools do the one, some the other; the lesser key is right for both.
    """
    parent, slash, name = hidden.rpartition(b"\0")
    return min(hidden, parent + slash + WHITEOUT_PREFIX + name)
