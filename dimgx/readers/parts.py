"""A layer of which ever more is known, cut into parts that are merged with those of other layers.

All layers are cut at the same key, their *edge*, up to which all is known of each of them. What
comes behind it may lie below a directory that was before it, and be hidden by what a layer said of
that: by a whiteout, a non-directory or an opaque marker. Each part has these said again.

`OutOfOrder` refuses what comes too late, as a marker behind what it hides.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import compress, count
from operator import attrgetter

from dimgx.layers.layerindex import LayerIndex, Link
from dimgx.layers.names import ancestors
from dimgx.layers.ownnames import OrderedNames
from dimgx.readers.growing import NewLink, News, OutOfOrder


class LayerParts:
    """One layer, as far as it is known."""

    def __init__(self) -> None:
        self.position = 0
        """Where the last known member ends, bytes from the start of the tar."""
        self.past: dict[int, NewLink] = {}
        """Of the part that was cut last, by number within it: links to members of earlier parts."""
        self._index = LayerIndex()
        # The entries among the members: keys, which ascend, and numbers.
        self._keys: list[bytes] = []
        self._names = OrderedNames(self._keys)
        self._numbers = array("q")
        self._marker = b""
        self._implied: set[bytes] = set()
        self._whiteouts: set[bytes] = set()
        self._opaque: set[bytes] = set()
        # What no part has had yet.
        self._new_implied: list[bytes] = []
        self._new_whiteouts: list[bytes] = []
        self._new_opaque: list[bytes] = []
        self._new_links: list[NewLink] = []
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
        starts = self._index.starts
        return starts[self._cut] if self._cut < len(starts) else self.position

    def add(self, news: News) -> None:
        """Take what is new.

        Raises: OutOfOrder where it comes too late.
        """
        index, edge = self._index, self._edge
        keys, first = news.keys, index.member_count
        if b"" in keys:
            self._numbers.extend(compress(count(first), keys))
            keys = list(filter(None, keys))
        else:
            self._numbers.extend(range(first, first + len(keys)))
        if edge and (
            any(key <= edge for key in (*keys[:1], *news.implied, *news.whiteouts))
            or any(key < edge for key in news.opaque)
        ):
            raise OutOfOrder
        self.position = news.position
        index.starts.frombytes(news.starts)
        index.keys += news.keys
        index.codes += news.codes
        index.kinds += news.kinds
        self._keys += keys
        self._marker = news.marker
        self._implied.update(news.implied)
        self._whiteouts.update(news.whiteouts)
        self._opaque.update(news.opaque)
        self._new_implied += news.implied
        self._new_whiteouts += news.whiteouts
        self._new_opaque += news.opaque
        self._new_links += news.links

    def cut(self, edge: bytes | None) -> LayerIndex:
        """Give the part from the last edge up to this one, included; for None all the rest."""
        index, first, end = self._index, self._cut, self._index.member_count
        if edge is not None:
            place = bisect_right(self._keys, edge)
            if place < len(self._keys):
                end = self._numbers[place]
        starts = index.starts[first : end + 1]
        if end == index.member_count:
            starts.append(self.position)
        part = LayerIndex()
        part.starts = starts
        part.keys = index.keys[first:end]
        part.codes = index.codes[first:end]
        part.kinds = index.kinds[first:end]
        part.implied = sorted(_pop(self._new_implied, edge))
        part.whiteouts = _pop(self._new_whiteouts, edge)
        part.opaque = _pop(self._new_opaque, edge)
        self._say_again(part)
        self.past.clear()
        done = bisect_left(self._new_links, end, key=attrgetter("number"))
        for link in self._new_links[:done]:
            if link.member < first:
                self.past[link.number - first] = link
            else:
                part.links[link.number - first] = Link(
                    link.target, link.member - first, None, link.spelled, is_same=True
                )
        del self._new_links[:done]
        self._cut = end
        if edge is not None:
            self._edge = edge
        return part

    def hides(self, key: bytes) -> bool:
        """Tell whether this layer hides the non-directory `key` of lower ones."""
        directory = key + b"\0"
        above = ancestors(key)
        return (
            self._hides_below(key) or directory in self._implied or directory in self._names
            or any(self._hides_below(parent[:-1]) for parent in above)
            or not self._opaque.isdisjoint((b"", *above))
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
