"""What one layer says, in columns: the value that the walker gives and the merge takes.

Members keep the numbers that they have in the tar, so that neighbours in a layer that both survive
are copied as one range. A member that is no entry (a whiteout, book-keeping, the root) keeps its
place with the empty key, which sorts before all others.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

COPY, STRIP_DOT, STRIP_OWNER, REWRITE = 0, 1, 2, 4
"""How a member's header goes out: as it is; without a leading `./`; without owners' names (these
two may be added); or written anew from what it says."""
RENAME = 16
"""Added in a plan to what goes out under another name, but else as it is or without owners."""


@dataclass(frozen=True, slots=True)
class Link:
    """A hard link member: another name for an inode."""

    target: bytes
    """Key of the target, resolved within the layer."""
    member: int | None
    """The member of this layer whose inode it names; None where a lower layer has it."""
    following: int | None = None
    """With `member` None: the later member of that name, meant if no lower layer has it."""
    spelled: bytes = b""
    """The target as it stands in the header."""
    is_same: bool = False
    """Its header gives the inode no other attributes than `member`'s header does."""
    is_bare: bool = True
    """Its header has no xattrs of its own."""


@dataclass(slots=True)
class LayerIndex:
    """One layer's own tree, and what it hides below. About 200 bytes a member."""

    starts: array[int] = field(default_factory=lambda: array("q"))
    """Where each member begins, bytes from the start of the tar, and, last, where the last ends."""
    keys: list[bytes] = field(default_factory=list)
    """Each member's key; empty for a member that is no entry of the layer's own tree."""
    codes: bytearray = field(default_factory=bytearray)
    """How each member's header goes out."""
    implied: list[bytes] = field(default_factory=list)
    """Keys of the directories that have no member, but something below them has."""
    whiteouts: list[bytes] = field(default_factory=list)
    """Keys, spelled as for files, of what is hidden in lower layers."""
    opaque: list[bytes] = field(default_factory=list)
    """Keys of the directories whose lower contents are hidden; the empty key is the root."""
    links: dict[int, Link] = field(default_factory=dict)
    """The hard links by their member's number, entries or not."""
    root: int | None = None
    """The member that is the root directory itself."""
    kinds: bytearray = field(default_factory=bytearray)
    """The kind of each member, one of `tarfields`."""

    @property
    def member_count(self) -> int:
        """The number of members, entries or not."""
        return len(self.keys)
