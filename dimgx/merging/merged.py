"""The merged tree between the merge and the plan, for who wants something else of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from dimgx.layers.layerindex import LayerIndex
from dimgx.merging.plan import NEW

if TYPE_CHECKING:
    from dimgx.merging.hardlinks import Inodes


class Merged:
    """The merged tree before its hard links are settled: members of layers, by number."""

    __slots__ = ("bases", "codes", "inodes", "keys", "names", "numbers")

    def __init__(
        self,
        numbers: list[int],
        keys: list[bytes],
        codes: bytearray,
        bases: list[int],
        inodes: Inodes | None,
    ) -> None:
        self.numbers = numbers
        """A member for each path, in the order of a walk."""
        self.keys = keys
        """By number; what is changed here goes out under its new name."""
        self.codes = codes
        """By number."""
        self.bases = bases
        """The number of each layer's first member, newest layer first."""
        self.inodes = inodes
        """None without hard links."""
        self.names: dict[int, bytes] = {}
        """The keys that were changed, by number."""

    def add(self, index: LayerIndex) -> int:
        """Number what no layer has, as a layer below all others; give its first number."""
        base = len(self.keys)
        self.bases.append(base)
        self.keys += [*index.keys, b"", *index.implied]
        self.codes += bytes((*index.codes, 0, *(NEW for _ in index.implied)))
        return base


class Shape(Protocol):
    """What a merged tree is changed into; used once."""

    added: LayerIndex
    """What no layer has. The plan has it as a layer below all others."""
    added_tar: bytes
    """The tar of that."""

    def change(self, indexes: Sequence[LayerIndex], merged: Merged) -> None:
        """Change the tree that layers with these indexes, lower to upper, make.

        Raises: ImageError where what is wanted of it is not there.
        """

    def find_warnings(self, read_target: Callable[[int], bytes]) -> tuple[str, ...]:
        """Give what is odd about the change; `read_target` reads a symlink by its number."""
