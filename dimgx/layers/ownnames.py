"""The names of one layer, as a set: of keys that ascend, without a set being built.

Nearly every layer lies in the order of a walk. That is seen in 0.02 us a member; then no key
stands twice, and a search finds what a set would, without memory for all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import compress, count, islice, repeat
from operator import eq, lt
from typing import Protocol

_PIECE = 1024
"""Keys that are joined to be looked at together; more fall out of the cache."""


class Names(Protocol):
    """The keys of a layer's entries."""

    def __contains__(self, key: bytes) -> bool: ...

    def isdisjoint(self, others: Iterable[bytes]) -> bool:
        """Tell whether none of `others` is there."""

    def find(self, wanted: set[bytes]) -> dict[bytes, int]:
        """Give the places of those of the wanted keys that are there."""

    def is_whole(self, places: Sequence[int]) -> bool:
        """Tell whether surely each name's directories are there, and none is a file as well.

        `places` are those of the directories.
        """


def names_of(keys: Sequence[bytes]) -> Names | None:
    """Give the names that `keys` are; None where one stands twice."""
    if all(map(lt, keys, islice(keys, 1, None))):
        return OrderedNames(keys)
    found = _Names(keys)
    return found if found.count == len(keys) else None


class OrderedNames:
    """Of keys that ascend, to which greater ones may be added meanwhile."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

    def __contains__(self, key: bytes) -> bool:
        return not self.isdisjoint((key,))

    def isdisjoint(self, others: Iterable[bytes]) -> bool:
        keys, end = self._keys, len(self._keys)
        return not any(
            (i := bisect_left(keys, other)) < end and keys[i] == other for other in others
        )

    def find(self, wanted: set[bytes]) -> dict[bytes, int]:
        keys, end = self._keys, len(self._keys)
        places = ((key, bisect_left(keys, key)) for key in wanted)
        return {key: i for key, i in places if i < end and keys[i] == key}

    def is_whole(self, places: Sequence[int]) -> bool:
        keys = self._keys
        paths = [keys[i][:-1] for i in places]
        if any(map(eq, paths, (keys[i - 1] for i in places))):
            return False
        # A name has as many directories above it as it has NULs (a directory one less). As many are
        # there, of all names together, as there are names below each of the directories.
        ends = map(bisect_left, repeat(keys), [path + b"\1" for path in paths], places)
        below = sum(ends) - sum(places) - len(places)
        pieces = (b"".join(keys[i : i + _PIECE]) for i in range(0, len(keys), _PIECE))
        return below == sum(piece.count(b"\0") for piece in pieces) - len(places)


class _Names:
    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys, self._set = keys, frozenset(keys)
        self.count = len(self._set)

    def __contains__(self, key: bytes) -> bool:
        return key in self._set

    def isdisjoint(self, others: Iterable[bytes]) -> bool:
        return self._set.isdisjoint(others)

    def find(self, wanted: set[bytes]) -> dict[bytes, int]:
        is_wanted = bytes(map(wanted.__contains__, self._keys))
        return dict(
            zip(compress(self._keys, is_wanted), compress(count(), is_wanted), strict=False)
        )

    def is_whole(self, places: Sequence[int]) -> bool:
        return False
