"""The merge: from the indexes of all layers to the tree that they make. Pure.

Members of all layers get one row of numbers, newest layer first. Sorting the numbers by key (names
with NUL for `/`) gives the order of a walk, and the sort is stable: among equal keys the newest
comes first, and wins. What hides things hides a range of neighbours, in older layers only, which
are the larger numbers. So what is hidden at a place is said by one number, its *limit*: members
from there on. Exact, if (a) every whiteout and every non-directory hides what lies below its name
in older layers even where it is itself hidden; (b) a directory that a layer only implies is an
entry of that layer; (c) a directory's attributes come from its newest entry in sight that is not
implied. Ranges are subtrees, so they nest, and one sweep with a stack applies them all.

Hard links are settled after that. An inode is named by the member that carries its content, in
whatever layer; what is left of its names decides which one carries the content now (rules 32-41).

Cost: 0.3 us a member, 0.5 us a whiteout, 2 us one that meets a directory; nothing multiplies layers
by members, but for 1 us of a hard link to a file in a lower layer, for each layer between.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import chain, compress, pairwise
from operator import ne

from dimgx.layers.layerindex import LayerIndex
from dimgx.layers.names import ancestors
from dimgx.layers.tarbatch import find_kind
from dimgx.layers.tarfields import DIRECTORY
from dimgx.merging.hardlinks import find_inodes
from dimgx.merging.merged import Merged
from dimgx.merging.plan import NEW

_NEVER = 1 << 62


def merge_layers(layers: Sequence[LayerIndex]) -> Merged:
    """Decide which entries of `layers`, lower to upper, survive.

    Memory: about 150 bytes for each member while it works.

    Raises: ImageError for a hard link to nothing.
    Spec: image-spec layer.md, "Applying Changesets".
    """
    merged = Merged(layers)
    merge = _Merge(merged)
    merged.numbers = merge.find_survivors()
    merged.inodes = find_inodes(merged, merge.find_below)
    return merged


class _Merge:
    def __init__(self, merged: Merged) -> None:
        self._layers = merged.layers[::-1]
        self._bases, self._keys = merged.bases, merged.keys
        self._codes, self._kinds = merged.codes, merged.kinds
        self._hiding: dict[int, tuple[frozenset[bytes], frozenset[bytes]]] = {}
        keys = self._keys
        self._order = sorted(range(len(keys)), key=keys.__getitem__)
        self._sorted = list(map(keys.__getitem__, self._order))
        empty = bisect_right(self._sorted, b"")
        del self._order[:empty], self._sorted[:empty]

    def find_survivors(self) -> list[int]:
        """Sort, hide, settle directories."""
        numbers, unique = self._order, self._sorted
        if len(self._layers) > 1:
            # Bytes, not a list: memory that is touched for the first time costs more than the work.
            is_first = bytes(map(ne, unique, chain((b"",), unique)))
            numbers = list(compress(numbers, is_first))
            unique = list(compress(unique, is_first))
            ranges, places = self._find_ranges(numbers, unique)
            stretches = _nest(ranges, len(unique))
            numbers = _hide(numbers, stretches, places)
            self._settle_directories(numbers, unique, stretches)
        return numbers

    def _find_ranges(
        self, numbers: list[int], unique: list[bytes]
    ) -> tuple[list[tuple[int, int, int]], list[int]]:
        """Find the ranges (start, end, limit) of places in `unique` where something is hidden.

        And places of non-directories that are hidden alone, as most whiteouts have it.
        """
        ranges: list[tuple[int, int, int]] = []
        places: list[int] = []
        bases, count = self._bases, len(unique)
        for index, limit in zip(self._layers, bases[1:], strict=False):
            for key in index.whiteouts:
                start = bisect_left(unique, key)
                if start < count and unique[start] == key:
                    if numbers[start] >= limit:
                        places.append(start)
                    start += 1
                if start < count and unique[start].startswith(key + b"\0"):
                    ranges.append((start, bisect_left(unique, key + b"\1", start), limit))
            for key in index.opaque:
                start = bisect_right(unique, key)
                ranges.append((start, _end_of(unique, key, start), limit))
        # Where a file and a directory have one name, they are neighbours.
        for i in self._find_clashes(numbers, unique):
            depth = bisect_right(bases, numbers[i])
            if numbers[i + 1] < numbers[i]:
                ranges.append((i, i + 1, bases[depth - 1]))
            if depth < len(bases):
                ranges.append((i + 1, _end_of(unique, unique[i + 1], i + 1), bases[depth]))
        return ranges, places

    def _find_clashes(self, numbers: list[int], unique: list[bytes]) -> list[int]:
        """Find the places where one path is a non-directory, and next a directory."""
        kinds = bytes(map(self._kinds.__getitem__, numbers))
        return [i - 1 for i in find_kind(kinds, DIRECTORY) if i and unique[i - 1] == unique[i][:-1]]

    def _settle_directories(
        self, numbers: list[int], unique: list[bytes], stretches: list[tuple[int, int]]
    ) -> None:
        """Give implied directories the attributes that show through from below (rule 21)."""
        if NEW not in self._codes:
            return
        codes = self._codes
        for place in find_kind(bytes(map(codes.__getitem__, numbers)), NEW):
            number = numbers[place]
            key = self._keys[number]
            limit = stretches[bisect_right(stretches, (bisect_left(unique, key), _NEVER)) - 1][1]
            entries = (n for n in self._find(key) if n < limit and codes[n] != NEW)
            numbers[place] = next(entries, number)

    def _find(self, key: bytes) -> list[int]:
        """Give the members of all layers that have a key, newest first."""
        i = bisect_left(self._sorted, key)
        return self._order[i : bisect_right(self._sorted, key, i)]

    def find_below(self, key: bytes, depth: int) -> int | None:
        """Find the non-directory `key` in the tree that the layers below `depth` make (rule 36)."""
        above = ancestors(key)
        for number in self._find(key):
            found = bisect_right(self._bases, number) - 1
            if found > depth:
                between = range(depth + 1, found)
                return None if any(self._hides(d, key, above) for d in between) else number
        return None

    def _hides(self, depth: int, key: bytes, above: list[bytes]) -> bool:
        """Tell whether a layer that has no such entry hides `key` below it."""
        if depth not in self._hiding:
            index = self._layers[depth]
            own = frozenset(chain(index.keys, index.implied, index.whiteouts))
            self._hiding[depth] = own, frozenset(index.opaque)
        own, opaque = self._hiding[depth]
        names = (key, key + b"\0", *(parent[:-1] for parent in above))
        return not own.isdisjoint(names) or not opaque.isdisjoint((*above, b""))


def _end_of(unique: list[bytes], directory: bytes, start: int) -> int:
    """Give the place after the last key below a directory; the root's is empty."""
    return bisect_left(unique, directory[:-1] + b"\1", start) if directory else len(unique)


def _nest(ranges: list[tuple[int, int, int]], count: int) -> list[tuple[int, int]]:
    """Turn nested ranges into stretches (start, limit), each up to the next."""
    ranges.sort(key=lambda item: (item[0], -item[1]))
    stretches = [(0, _NEVER)]
    stack = [(count + 1, _NEVER)]
    for start, end, limit in ranges:
        while stack[-1][0] <= start:
            left, _ = stack.pop()
            stretches.append((left, stack[-1][1]))
        limit = min(limit, stack[-1][1])
        stack.append((end, limit))
        stretches.append((start, limit))
    while len(stack) > 1:
        left, _ = stack.pop()
        stretches.append((left, stack[-1][1]))
    return stretches


def _hide(numbers: list[int], stretches: list[tuple[int, int]], places: list[int]) -> list[int]:
    kept: list[int] = []
    for place in places:
        numbers[place] = -1
    for (start, limit), (end, _) in pairwise([*stretches, (len(numbers), _NEVER)]):
        if limit == _NEVER:
            kept += numbers[start:end]
        else:
            kept += [number for number in numbers[start:end] if number < limit]
    return [number for number in kept if number >= 0] if places else kept
