"""What one layer says, in columns: the value that the walker gives and the merge takes.

Members keep the numbers that they have in the tar, so that neighbours in a layer that both survive
are copied as one range. A member that is no entry (a whiteout, book-keeping, the root) keeps its
place with the empty key, which sorts before all others.
"""

from __future__ import annotations

import marshal
from array import array
from typing import NamedTuple

COPY, STRIP_LEAD, STRIP_OWNER, ADD_SLASH, DROP_RECORDS, CLAMP = 0, 1, 2, 4, 8, 16
"""How a member's headers go out: as they are; without a leading `./` or `/`; without owners' names;
with a slash behind a directory's name; without records that no reader is to see; with no time that
is too late. All but the first may be added."""
RESIZE = 32
"""Added to these where headers may take more or fewer blocks then."""
REWRITE = 64
"""Instead of these: the headers are written anew from what they say."""


class Link(NamedTuple):
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


class LayerIndex:
    """One layer's own tree, and what it hides below. About 200 bytes a member.

    Made empty; who makes it fills it.
    """

    __slots__ = (
        "codes", "implied", "keys", "kinds", "links", "opaque", "root", "starts", "whiteouts",
    )  # fmt: skip

    def __init__(self) -> None:
        self.starts: array[int] = array("q")
        """Where each member begins, bytes from the start of the tar, and, last, the last's end."""
        self.keys: list[bytes] = []
        """Each member's key; empty for a member that is no entry of the layer's own tree."""
        self.codes = bytearray()
        """How each member's header goes out."""
        self.implied: list[bytes] = []
        """Keys of the directories that have no member, but something below them has."""
        self.whiteouts: list[bytes] = []
        """Keys, spelled as for files, of what is hidden in lower layers."""
        self.opaque: list[bytes] = []
        """Keys of the directories whose lower contents are hidden; the empty key is the root."""
        self.links: dict[int, Link] = {}
        """The hard links by their member's number, entries or not."""
        self.root: int | None = None
        """The member that is the root directory itself."""
        self.kinds = bytearray()
        """The kind of each member, one of `tarfields`."""

    @property
    def member_count(self) -> int:
        """The number of members, entries or not."""
        return len(self.keys)

    def to_bytes(self) -> bytes:
        """Give it for another process of this program."""
        links = [(number, *link) for number, link in self.links.items()]
        values = (
            self.starts.tobytes(), bytes(self.codes), bytes(self.kinds), links,
            self.keys, self.implied, self.whiteouts, self.opaque, self.root,
        )  # fmt: skip
        return marshal.dumps(values, 2)  # newer versions look for equal objects, which takes longer

    @classmethod
    def from_bytes(cls, data: bytes) -> LayerIndex:
        """Give what `to_bytes` made bytes of."""
        starts, codes, kinds, links, *rest = marshal.loads(data)
        index = cls()
        index.starts, index.codes = array("q", starts), bytearray(codes)
        index.kinds = bytearray(kinds)
        index.links = {number: Link(*link) for number, *link in links}
        index.keys, index.implied, index.whiteouts, index.opaque, index.root = rest
        return index
