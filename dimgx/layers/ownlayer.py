"""From the members of a layer to the layer's own tree: step (a) of the model (rule 1).

In nearly every layer each name stands once, parents are directories, and links follow their
targets. Then the members' keys are the tree as they stand, and a few operations on sets prove it
(`ownnames`). Any other layer is replayed member by member (`replay`), some ten times as slow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, compress, repeat
from operator import itemgetter

from dimgx.layers.layerindex import LayerIndex, Link
from dimgx.layers.names import ancestors, check_implied, key_of, normalise
from dimgx.layers.ownnames import Names, names_of
from dimgx.layers.replay import Replay
from dimgx.layers.tarbatch import find_kind
from dimgx.layers.tarfields import (
    BLOCK,
    DIRECTORY,
    EXTENDED,
    LONG_LINK,
    LONG_NAME,
    PAX,
    Header,
    MalformedTar,
    count_blocks,
    is_xattr_record,
    parse_number,
    show,
)
from dimgx.layers.tarrecords import split_records

IS_NO_DIRECTORY = bytes(kind != DIRECTORY for kind in range(256))
_MOST_MARKED = 16 << 20
_NAME_RECORDS = frozenset((b"path", b"linkpath"))


class OwnLayer:
    """What the walk noted of a layer, until `settle()` makes the layer's own tree of it."""

    def __init__(
        self,
        index: LayerIndex,
        read_at: Callable[[int, int], bytes],
        read_header_at: Callable[[int], Header],
    ) -> None:
        """`read_at(offset, size)` reads from the tar, `read_header_at(offset)` parses a member."""
        self._index = index
        self._read_at, self._read_header_at = read_at, read_header_at
        self.links: dict[int, bytes] = {}
        """Targets of hard links, as spelled, by member."""
        self.whiteouts: dict[int, bytes] = {}
        """Keys, spelled as for files, of what whiteouts hide, by member."""
        self.device_whiteouts: dict[int, bytes] = {}
        """Keys of overlayfs' own whiteouts (rule 20), by member."""
        self.opaque: dict[int, bytes] = {}
        """Keys of directories that are opaque, by member; the empty key is the root."""
        self.dropped: dict[bytes, int] = {}
        """Files that are no entries, but that a hard link may name: members by path."""
        self.absent: list[int] = []
        """All members that are no entries and so have the empty key, in order."""

    def settle(self) -> None:
        """Complete the index.

        Raises: MalformedTar where the members contradict each other.
        """
        if not self._settle_plain():
            Replay(self._index, self._read_header_at).run(
                self.links, self.whiteouts, self.device_whiteouts, self.opaque, self.dropped
            )
        self._compare_links()

    def _settle_plain(self) -> bool:
        """Settle a layer in which the order of the members does not matter, or tell it does."""
        index = self._index
        keys, kinds = index.keys, bytes(index.kinds)
        if self.absent:
            kinds = bytes(compress(kinds, keys))
            keys = list(filter(None, keys))
        names = names_of(keys)
        if names is None:
            return False
        places = find_kind(kinds, DIRECTORY)
        implied: set[bytes] = set()
        if not names.is_whole(places):
            directories = {keys[i][:-1] for i in places}
            files = compress(keys, kinds.translate(IS_NO_DIRECTORY))
            implied = find_implied(chain(files, directories), directories)
            if not (names.isdisjoint(directories) and names.isdisjoint(implied)):
                return False
        devices = self.device_whiteouts.values()
        hidden, opaque = [*self.whiteouts.values(), *devices], [*self.opaque.values()]
        if not all(names.isdisjoint(marked) for marked in iter_marked(hidden, opaque)):
            return False
        if any(key in names or key + b"\0" in names or key in implied for key in devices):
            return False
        links = self._resolve_plain_links(names, implied)
        if links is None:
            return False
        index.links = links
        index.implied = sorted([path + b"\0" for path in implied])
        index.whiteouts, index.opaque = hidden, opaque
        return True

    def _resolve_plain_links(self, names: Names, implied: set[bytes]) -> dict[int, Link] | None:
        """Find what the hard links name; None where that depends on the members' order."""
        if not self.links:
            return {}
        starts = self._index.starts
        targets = {
            number: link_target(spelled, starts[number]) for number, spelled in self.links.items()
        }
        # A name's member has a higher number than its place, by the number of those passed over.
        passed = [number - i for i, number in enumerate(self.absent)]
        places = names.find(set(targets.values()))
        numbers = {key: place + bisect_right(passed, place) for key, place in places.items()}
        numbers.update(
            (key_of(path, is_directory=False), number) for path, number in self.dropped.items()
        )
        links: dict[int, Link] = {}
        for number in sorted(targets):
            target, spelled = targets[number], self.links[number]
            found = numbers.get(target)
            if found is None:
                above = (parent[:-1] for parent in ancestors(target))
                if target in implied or not names.isdisjoint((target + b"\0", *above)):
                    return None
                links[number] = Link(target, None, None, spelled)
            elif found == number:
                raise MalformedTar(f"a hard link {show(spelled)} to itself", starts[number])
            elif found > number:
                links[number] = Link(target, None, found, spelled)
            else:
                links[number] = Link(target, found, None, spelled)
        return links

    def _compare_links(self) -> None:
        """Note for each hard link whether its header changes the inode (rule 41)."""
        index = self._index
        at: int | None = None
        carrier: Header | None = None
        for number, link in index.links.items():
            if link.member is not None and self._is_alike(number, link.member):
                index.links[number] = link._replace(is_same=True)
                continue
            header = self._read_header_at(index.starts[number])
            is_bare = not any(map(is_xattr_record, header.records))
            is_same = False
            if link.member is not None:
                if carrier is None or at != link.member:
                    at = link.member
                    carrier = self._read_header_at(index.starts[at])
                is_same = attributes_of(header) == attributes_of(carrier) and all(
                    carrier.records.get(key) == value
                    for key, value in header.records.items()
                    if is_xattr_record(key)
                )
            index.links[number] = link._replace(is_same=is_same, is_bare=is_bare)

    def _is_alike(self, number: int, other: int) -> bool:
        """Tell whether two members spell all attributes alike, and in their headers alone.

        That is a tenth of the cost of parsing them.
        """
        first, second = map(self._read_attributes, (number, other))
        return first is not None and first == second

    def _read_attributes(self, number: int) -> bytes | None:
        """Give mode, owner and time as a header spells them; None where a record may say more."""
        at = self._index.starts[number]
        while (block := self._read_at(at, BLOCK))[156] in EXTENDED:
            size = parse_number(block[124:136], "the size", at)
            if block[156] not in (LONG_NAME, LONG_LINK):
                payload = self._read_at(at + BLOCK, size)
                if block[156] != PAX or not split_records(payload).keys() <= _NAME_RECORDS:
                    return None
            at += BLOCK * (1 + count_blocks(size))
        return block[100:124] + block[136:148]


def iter_marked(hidden: Iterable[bytes], opaque: Iterable[bytes]) -> Iterator[set[bytes]]:
    """Yield the directories, without NUL, that these keys of whiteouts and opaque ones speak of.

    They come in sets of some MiB: all that are above a deep one can be a thousand times as long.
    """
    innermost = {key.rpartition(b"\0")[0] for key in hidden} | {key[:-1] for key in opaque}
    innermost.discard(b"")
    marked, size = set[bytes](), 0
    for key in innermost:
        marked.add(key)
        marked.update([parent[:-1] for parent in ancestors(key)])
        size += len(key) * (1 + key.count(b"\0"))
        if size > _MOST_MARKED:
            yield marked
            marked, size = set(), 0
    yield marked


def find_implied(paths: Iterable[bytes], directories: set[bytes]) -> set[bytes]:
    """Find the directories that none of `directories` is, but one of `paths` is below them.

    These and what is given end without NUL.

    Raises: ImageError for too many.
    """
    # None of the parents ends in NUL, and that of a name at the top is empty.
    parents = map(bytes.rpartition, paths, repeat(b"\0"))
    implied = set(map(itemgetter(0), parents)) - directories
    implied.discard(b"")
    size = sum(map(len, implied))
    check_implied(size)
    for path in tuple(implied):
        while path := path.rpartition(b"\0")[0]:
            if path in directories or path in implied:
                break
            implied.add(path)
            size += len(path)
            check_implied(size)
    return implied


def attributes_of(header: Header) -> tuple[object, ...]:
    """Give what a hard link's header may change in an inode, but xattrs."""
    times = tuple(header.records.get(key) for key in (b"mtime", b"atime", b"ctime"))
    return header.mode, header.uid, header.gid, header.mtime, times


def link_target(spelled: bytes, offset: int) -> bytes:
    """Give the key that a hard link's target spells.

    Raises: MalformedTar where it is empty, the root, or outside.
    """
    path = normalise(spelled, offset)
    if not path:
        raise MalformedTar(f"a hard link to {show(spelled)}", offset)
    return key_of(path, is_directory=False)
