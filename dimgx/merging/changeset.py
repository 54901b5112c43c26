"""What upper layers change, as one layer over the lower ones: `--squash-from`. Pure.

The lower layers with this one on top make the tree that all layers make, in every engine:

1. In it is each path whose entry an upper layer has, and, as docker writes layers, each directory
   above one, with the attributes it has: overlay engines reset directories without an entry.
2. Of an inode that an upper layer has a link to, all names are in it, though a lower layer has
   the content: overlay engines refuse links to lower layers, and a link's header changes the inode
   for all names.
3. What the lower layers show and all together do not is hidden by a whiteout at the highest name
   that is gone. Over an entry of that name there is none: what replaces needs no marker, and
   overlay engines refuse a whiteout beside its name.
4. A directory in which nothing of below shows is opaque where that saves markers, so one that was
   made anew has one marker at most. The root never is: overlay engines ignore that.
5. Markers stand right behind their directory, before what is in it.

Costs a second merge, of the lower layers alone, and their headers of directories above a change.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, compress

from dimgx.layers.layerindex import LayerIndex
from dimgx.layers.names import OPAQUE_MARKER, WHITEOUT_PREFIX, ancestors, name_of
from dimgx.layers.tarfields import FILE, Header
from dimgx.layers.tarwrite import build_header
from dimgx.merging.merge import merge_layers
from dimgx.merging.merged import Merged
from dimgx.merging.pathrules import keep_parents


class Changeset:
    """The change of a merged tree into what its upper layers make of the lower ones."""

    def __init__(self, below_count: int) -> None:
        """`below_count` is the number of lower layers."""
        self._below_count = below_count
        self.added = LayerIndex()
        """The markers, as a layer below all others."""
        self.added_tar = b""
        """The tar of that."""

    def change(self, merged: Merged) -> None:
        """Make it of the tree that all layers make."""
        keys = merged.list_keys()
        below = merged.layers[: self._below_count]
        boundary = merged.bases[len(merged.layers) - self._below_count]
        hidden = _hide_what_is_gone(
            merge_layers(below).list_keys(),
            keys,
            [key for key, number in zip(keys, merged.numbers, strict=True) if number >= boundary],
        )
        above = {key for directory, _ in hidden for key in (directory, *ancestors(directory))}
        linked = _find_linked(merged, boundary)
        chosen = [
            number < boundary or number in linked or key in above
            for key, number in zip(keys, merged.numbers, strict=True)
        ]
        keep_parents(keys, chosen)
        self._build_markers([directory + name for directory, name in hidden])
        # A name cannot begin with NUL, so these sort right behind their directory.
        places = [
            *compress(zip(keys, merged.numbers, strict=True), chosen),
            *(
                (directory + b"\0" + name, number)
                for number, (directory, name) in enumerate(hidden, merged.add(self.added))
            ),
        ]
        merged.numbers = [number for _, number in sorted(places)]

    def _build_markers(self, keys: list[bytes]) -> None:
        headers = [build_header(Header(name_of(key), FILE, 0o644)) for key in keys]
        self.added.keys = keys
        self.added.codes = bytearray(len(keys))
        self.added.kinds = bytearray((FILE,)) * len(keys)
        self.added.starts = array("q", accumulate(map(len, headers), initial=0))
        self.added_tar = b"".join(headers)


def _find_linked(merged: Merged, boundary: int) -> set[int]:
    """Find the names of lower inodes that an upper layer links to (2)."""
    found: set[int] = set()
    for carrier, links in merged.inodes.items():
        if any(number < boundary for number in links):
            found.update((carrier, *links))
    return found


def _hide_what_is_gone(
    below: Sequence[bytes], keys: Sequence[bytes], showing: Sequence[bytes]
) -> list[tuple[bytes, bytes]]:
    """Give the markers, as (key of the directory, name of the marker), that hide what is gone.

    `below` are the keys of the lower tree, `keys` those of the whole one, `showing` those of it
    that lower layers have; all in the order of a walk.
    """
    gone = _find_gone(below, keys)
    # For each directory, how many markers it takes to hide what is gone in it and below.
    costs = dict.fromkeys((b"", *gone, *(key for name in gone for key in ancestors(name))), 0)
    costs.update((directory, len(names)) for directory, names in gone.items())
    opaque: set[bytes] = set()
    for directory in sorted(filter(None, costs), reverse=True):
        if costs[directory] > 1 and not _has_below(showing, directory):
            opaque.add(directory)
            costs[directory] = 1
        costs[next(iter(ancestors(directory)), b"")] += costs[directory]
    hidden = [(directory, OPAQUE_MARKER) for directory in opaque if _is_outmost(directory, opaque)]
    for directory, names in gone.items():
        if directory not in opaque and _is_outmost(directory, opaque):
            hidden += [(directory, WHITEOUT_PREFIX + name) for name in names]
    return sorted(hidden)


def _find_gone(below: Sequence[bytes], keys: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """Find, by the directory they were in, the highest names of the lower tree that are gone."""
    there = set(keys)
    gone: dict[bytes, list[bytes]] = {}
    i = 0
    while i < len(below):
        key = below[i]
        i += 1
        if key in there:
            continue
        path = key.removesuffix(b"\0")
        if path not in there and path + b"\0" not in there:
            parent, slash, name = path.rpartition(b"\0")
            gone.setdefault(parent + slash, []).append(name)
        if key.endswith(b"\0"):
            # With it all goes that was in it, whether it was removed or replaced.
            i = bisect_left(below, path + b"\1", i)
    return gone


def _has_below(showing: Sequence[bytes], directory: bytes) -> bool:
    """Tell whether any of `showing` is below a directory."""
    i = bisect_left(showing, directory + b"\1")
    return i < len(showing) and showing[i].startswith(directory)


def _is_outmost(directory: bytes, opaque: set[bytes]) -> bool:
    """Tell whether no directory above is opaque."""
    return opaque.isdisjoint(ancestors(directory))
