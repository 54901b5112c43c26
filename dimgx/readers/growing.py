"""A layer that is walked while it is being decoded: what each step adds to what is known of it.

Nearly every layer lies in the order of a walk. Of such a layer all that sorts before the last
member that has come is known for good: which names, which directories without an entry, what is
hidden in lower layers. `parts` merges layers by what is known of all of them.

Whatever does not fit in is refused with `OutOfOrder`: names that do not ascend, links to anything
but a file before them with the same attributes, and all that makes the order of the members matter.
"""

from __future__ import annotations

import marshal
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain, compress, count, islice
from operator import lt
from typing import NamedTuple

from dimgx.layers.names import MOST_IMPLIED, WHITEOUT_PREFIX, key_of
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


class NewLink(NamedTuple):
    """A hard link to a file before it, whose attributes its header repeats."""

    number: int
    """The member."""
    member: int
    """The member that carries the content."""
    target: bytes
    """The key of that."""
    spelled: bytes
    """The target as it stands in the header."""


class News(NamedTuple):
    """What a step adds: columns of the new members, as in `LayerIndex`, and what they imply."""

    position: int
    """Where the last member ends, bytes from the start of the tar, there yet or not."""
    starts: bytes
    """Where each begins, 8 bytes a number."""
    keys: list[bytes]
    codes: bytes
    kinds: bytes
    implied: list[bytes]
    whiteouts: list[bytes]
    opaque: list[bytes]
    marker: bytes
    """The key at which the last of all whiteouts stands, or a lesser one."""
    links: list[NewLink]

    def to_bytes(self) -> bytes:
        """Give it for another process of this program."""
        return marshal.dumps((*self[:-1], [tuple(link) for link in self.links]), 2)

    @classmethod
    def from_bytes(cls, data: bytes) -> News:
        """Give what `to_bytes` made bytes of."""
        *columns, links = marshal.loads(data)
        return cls._make((*columns, [NewLink(*link) for link in links]))


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
        self._marker = b""
        self._marker_counts = [0, 0]
        self._links: dict[int, NewLink] = {}

    def go_on(self, size: int, *, is_whole: bool) -> News:
        """Walk the bytes up to `size`, which are all for `is_whole`, and give what they say.

        Raises: OutOfOrder; ImageError.
        """
        if not self._taken and size:
            refuse_stranger(self._read)
        self._walk.go_on(size, is_whole=is_whole)
        index, own, first = self._walk.index, self._walk.own, self._taken
        if (
            own.device_whiteouts or own.dropped or self._walk.global_from is not None
            or (is_whole and self._walk.position > size)
        ):  # fmt: skip
            raise OutOfOrder
        if is_whole:
            refuse_windows(index.keys)
        self._taken = index.member_count
        news = index.keys[first:]
        keys, kinds = news, bytes(index.kinds[first:])
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
        implied_keys = [path + b"\0" for path in implied]
        self._implied.update(implied_keys)
        return News(
            self._walk.position, index.starts[first:].tobytes(), news, bytes(index.codes[first:]),
            bytes(index.kinds[first:]), implied_keys, hidden, opaque, self._marker,
            list(self._take_links()),
        )  # fmt: skip

    def look(self, size: int) -> None:
        """Look for headers in bytes that have just come; `go_on` says more of them.

        Raises: ImageError.
        """
        self._walk.look(size)

    def _take_markers(self) -> tuple[list[bytes], list[bytes]]:
        """Give the keys of new whiteouts, and of new opaque directories."""
        own = self._walk.own
        hidden_before, opaque_before = self._marker_counts
        self._marker_counts = [len(own.whiteouts), len(own.opaque)]
        hidden = [
            key_of(path, is_directory=False)
            for path in islice(own.whiteouts.values(), hidden_before, None)
        ]
        opaque = [
            key_of(path, is_directory=True) if path else b""
            for path in islice(own.opaque.values(), opaque_before, None)
        ]
        self._marker = max(map(_marker_key, hidden), default=self._marker)
        return hidden, opaque

    def _take_links(self) -> Iterator[NewLink]:
        walk = self._walk
        index, own = walk.index, walk.own
        for number, spelled in sorted(islice(own.links.items(), len(self._links), None)):
            target = link_target(spelled, index.starts[number])
            place = self._names.find({target}).get(target)
            if place is None:
                raise OutOfOrder
            member = self._numbers[place]
            if member in self._links:
                _, member, target, _ = self._links[member]
            attributes = walk.attributes_of(number)
            if (
                member >= number or index.kinds[member] != FILE
                or attributes is None or attributes != walk.attributes_of(member)
            ):  # fmt: skip
                raise OutOfOrder
            self._links[number] = link = NewLink(number, member, target, spelled)
            yield link


def _marker_key(hidden: bytes) -> bytes:
    """Give where in the order of a walk a whiteout stands: at its own name, or at the hidden one's.

    Some tools do the one, some the other; the lesser key is right for both.
    """
    parent, slash, name = hidden.rpartition(b"\0")
    return min(hidden, parent + slash + WHITEOUT_PREFIX + name)
