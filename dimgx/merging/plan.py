"""The plan, between merge and emit: what is written, in what order, from which members."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from dimgx.layers.layerindex import REWRITE

NEW = REWRITE + 1
"""The code of what is written as `Plan.written` says, or else is an implied directory."""


class Written(NamedTuple):
    """A name of an inode whose header is put together from several members, all by number."""

    attributes: int
    """The member whose header gives mode, owner and times."""
    content: int | None
    """The member that carries the content; None makes it a hard link to `link`."""
    link: bytes = b""
    """Key of the name that carries the content."""
    xattrs: tuple[int, ...] = ()
    """Members whose xattrs are added, in order."""


class Plan:
    """What is written, in the order of a walk. Some 50 bytes for each path."""

    __slots__ = ("bases", "codes", "names", "numbers", "written")

    def __init__(self, numbers: list[int], bases: list[int], names: dict[int, bytes]) -> None:
        self.numbers = numbers
        """The members that survive, by number."""
        self.codes = b""
        """How the header of each goes out: a code of `layerindex` or of this module."""
        self.bases = bases
        """The number of each layer's first member, newest layer first."""
        self.written: dict[int, Written] = {}
        """What is put together, by number."""
        self.names = names
        """The keys of what goes out under another name than its layer gives it, by number."""

    def locate(self, number: int) -> tuple[int, int]:
        """Give a number's layer (0 is the lowest) and member."""
        depth = bisect_right(self.bases, number) - 1
        return len(self.bases) - 1 - depth, number - self.bases[depth]
