"""The plan, between merge and emit: what is written, in what order, from which members."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

NEW = 8
"""The code of what is written as `Plan.written` says, or else is an implied directory."""


@dataclass(frozen=True, slots=True)
class Written:
    """A name of an inode whose header is put together from several members, all by number."""

    attributes: int
    """The member whose header gives mode, owner and times."""
    content: int | None
    """The member that carries the content; None makes it a hard link to `link`."""
    link: bytes = b""
    """Key of the name that carries the content."""
    xattrs: tuple[int, ...] = ()
    """Members whose xattrs are added, in order."""


@dataclass(slots=True)
class Plan:
    """What is written, in the order of a walk. Some 50 bytes for each path."""

    numbers: list[int]
    """The members that survive, by number."""
    codes: bytes
    """How the header of each goes out: a code of `layerindex`, or NEW."""
    bases: list[int]
    """The number of each layer's first member, newest layer first."""
    written: dict[int, Written] = field(default_factory=dict)
    """What is put together, by number."""
    names: dict[int, bytes] = field(default_factory=dict)
    """The keys of what goes out under another name than its layer gives it, by number."""

    def locate(self, number: int) -> tuple[int, int]:
        """Give a number's layer (0 is the lowest) and member."""
        depth = bisect_right(self.bases, number) - 1
        return len(self.bases) - 1 - depth, number - self.bases[depth]
