"""The merged tree between the merge and the plan, for who wants something else of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from dimgx.layers.layerindex import LayerIndex, Link
from dimgx.layers.tarfields import DIRECTORY
from dimgx.merging.plan import NEW


class Merged:
    """The merged tree before its hard links are settled: members of layers, by number.

    Members of all layers are numbered in one row, newest layer first. Made without a tree; who
    makes it fills `numbers` and `inodes`.
    """

    __slots__ = (
        "bases", "codes", "inodes", "keys", "kinds", "layers", "links", "names", "numbers",
    )  # fmt: skip

    def __init__(self, layers: Sequence[LayerIndex]) -> None:
        self.layers = layers
        """Those that make the tree, lower to upper."""
        self.bases: list[int] = []
        """The number of each layer's first member, newest layer first."""
        self.keys: list[bytes] = []
        """By number; what is changed here goes out under its new name."""
        self.codes = bytearray()
        """By number."""
        self.kinds = bytearray()
        """By number."""
        self.links: dict[int, Link] = {}
        """All hard links, by number."""
        self.numbers: list[int] = []
        """A member for each path, in the order of a walk."""
        self.inodes: dict[int, list[int]] = {}
        """The links to each member that carries an inode's content, in the order of application,
        whether any name of it is in sight."""
        self.names: dict[int, bytes] = {}
        """The keys that were changed, by number."""
        for index in reversed(layers):
            self.add(index)

    def list_keys(self) -> list[bytes]:
        """Give the keys of the tree, in the order of a walk."""
        return list(map(self.keys.__getitem__, self.numbers))

    def add(self, index: LayerIndex) -> int:
        """Number a layer below all others; give its first number."""
        base = len(self.keys)
        self.bases.append(base)
        # The empty key in between keeps members of two layers from being neighbours.
        self.keys += chain(index.keys, (b"",), index.implied)
        self.codes += index.codes
        self.codes += bytes(1) + bytes((NEW,)) * len(index.implied)
        self.kinds += index.kinds
        self.kinds += bytes(1) + bytes((DIRECTORY,)) * len(index.implied)
        self.links.update((base + member, link) for member, link in index.links.items())
        return base
