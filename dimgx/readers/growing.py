"""A layer that is walked while it is being decoded: what each step adds to what is known of it.

Nearly every layer lies in the order of a walk. Of such a layer all that sorts before the last
member that has come is known for good: which names, which directories without an entry, what is
hidden in lower layers. `parts` merges layers by what is known of all of them.

Whatever does not fit in is refused with `OutOfOrder`: names that do not ascend, links to anything
but a file before them with the same attributes, and all that makes the order of the members matter.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import chain, compress, count, islice
from operator import lt

from dimgx.layers.layerindex import LayerIndex, Link
from dimgx.layers.names import MOST_IMPLIED
from dimgx.layers.ownlayer import IS_NO_DIRECTORY, find_implied, iter_marked, link_target
from dimgx.layers.ownnames import OrderedNames
from dimgx.layers.strangers import refuse_stranger, refuse_windows
from dimgx.layers.tarbatch import find_kind
from dimgx.layers.tarfields import DIRECTORY, FILE
from dimgx.layers.tarwalk import LayerWalk
from dimgx.readers.pieces import Pieces

MOST_MARKED = 64 << 20
"""The most bytes of names of directories that whiteouts speak of."""


class OutOfOrder(Exception):
    """Layers cannot be merged part by part."""


class GrowingLayer:
    """A layer, walked as far as it has come."""

    def __init__(self, pieces: Pieces, clamp_mtime_s: int | None) -> None:
        self._read = pieces.read
        self._walk = LayerWalk(
            pieces.read, clamp_mtime_s, keeps_attributes=True, view=pieces.view_or_read
        )
        self._taken = 0
        self._keys: list[bytes] = []
        self._names = OrderedNames(self._keys)
        self._numbers = array("q")
        self._directories: set[bytes] = set()
        self._implied: set[bytes] = set()
        self._implied_size = 0
        self._marked: set[bytes] = set()
        self._marked_size = 0
        self._whiteout_count = self._opaque_count = 0
        self._links: dict[int, Link] = {}

    def go_on(self, size: int, *, is_whole: bool) -> LayerIndex:
        """Walk the bytes up to `size`, which are all for `is_whole`, and give what is new.

        Its links are by the members' numbers in the whole layer, each to a file before it, with the
        same attributes. The last member's end may not be there yet.

        Raises: OutOfOrder; ImageError.
        """
        if not self._taken and size:
            refuse_stranger(self._read)
        self._walk.go_on(size, is_whole=is_whole)
        index, own, first = self._walk.index, self._walk.own, self._taken
        if (
            own.device_whiteouts or self._walk.global_from is not None
            or (is_whole and self._walk.position > size)
        ):  # fmt: skip
            raise OutOfOrder
        if is_whole:
            refuse_windows(index.keys)
        self._taken = index.member_count
        new = LayerIndex()
        new.starts, new.keys = index.starts[first:], index.keys[first:]
        new.starts.append(self._walk.position)
        new.codes, new.kinds = index.codes[first:], index.kinds[first:]
        keys, kinds = new.keys, bytes(new.kinds)
        numbers: Iterable[int] = range(first, self._taken)
        if b"" in keys:
            numbers = compress(count(first), keys)
            kinds = bytes(compress(kinds, keys))
            keys = list(filter(None, keys))
        if not all(map(lt, chain(self._keys[-1:], keys), keys if self._keys else keys[1:])):
            raise OutOfOrder
        self._keys += keys
        self._numbers.extend(numbers)
        directories = [keys[i][:-1] for i in find_kind(kinds, DIRECTORY)]
        self._directories.update(directories)
        paths = chain(compress(keys, kinds.translate(IS_NO_DIRECTORY)), directories)
        implied = find_implied(paths, self._directories)
        implied = {path for path in implied if path + b"\0" not in self._implied}
        hidden, opaque = self._take_markers()
        if not self._names.isdisjoint(chain(directories, implied)):
            raise OutOfOrder
        for marked in iter_marked(hidden, opaque):
            self._marked_size += sum(map(len, marked))
            if self._marked_size > MOST_MARKED or not self._names.isdisjoint(marked):
                raise OutOfOrder
            self._marked |= marked
        if not self._marked.isdisjoint(keys):
            raise OutOfOrder
        self._implied_size += sum(map(len, implied))
        if self._implied_size > MOST_IMPLIED:
            raise OutOfOrder
        new.implied = [path + b"\0" for path in implied]
        self._implied.update(new.implied)
        new.whiteouts, new.opaque = hidden, opaque
        new.links = dict(self._take_links())
        return new

    def look(self, size: int) -> None:
        """Look for headers in bytes that have just come; `go_on` says more of them.

        Raises: ImageError.
        """
        self._walk.look(size)

    def _take_markers(self) -> tuple[list[bytes], list[bytes]]:
        """Give the keys of new whiteouts, and of new opaque directories."""
        own = self._walk.own
        hidden = list(islice(own.whiteouts.values(), self._whiteout_count, None))
        opaque = list(islice(own.opaque.values(), self._opaque_count, None))
        self._whiteout_count, self._opaque_count = len(own.whiteouts), len(own.opaque)
        return hidden, opaque

    def _take_links(self) -> Iterator[tuple[int, Link]]:
        walk = self._walk
        index, own = walk.index, walk.own
        for number, spelled in sorted(islice(own.links.items(), len(self._links), None)):
            target = link_target(spelled, index.starts[number])
            place = self._names.find({target}).get(target)
            if place is None:
                raise OutOfOrder
            member = self._numbers[place]
            attributes = walk.attributes_of(number)
            if (
                member >= number
                or (index.kinds[member] != FILE and member not in self._links)
                or attributes is None or attributes != walk.attributes_of(member)
            ):  # fmt: skip
                raise OutOfOrder
            first = self._links.get(member, Link(target, member, is_same=True))
            self._links[number] = link = first._replace(spelled=spelled)
            yield number, link
