"""The entries of a planned tar: what their headers are to say, and what is in the files.

Each is read from the layers' tars when it is asked for, some 30 us.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from dimgx.errors import ImageError
from dimgx.extent import Readable
from dimgx.layers.layerindex import LayerIndex
from dimgx.layers.names import key_of, name_of
from dimgx.layers.tarfields import DIRECTORY, LINK, Header, is_xattr_record
from dimgx.layers.tarheader import read_header
from dimgx.layers.tarwrite import build_header
from dimgx.merging.plan import Plan, Written

PIECE = 256 << 10
"""The most bytes of a file's content that are given at once."""


class Entries:
    """The entries of a plan; the arguments are those of `Emitter`."""

    def __init__(
        self,
        plan: Plan,
        indexes: Sequence[LayerIndex],
        tars: Sequence[Readable],
        clamp_mtime_s: int | None,
    ) -> None:
        self._plan, self._indexes, self._tars = plan, indexes, tars
        self._clamp = clamp_mtime_s

    def iter_headers(self) -> Iterator[Header]:
        """Yield, in order, what each entry's headers say, with the name as it goes out.

        A hard link's size is 0, its `linkname` the name it goes to.
        """
        for number in self._plan.numbers:
            yield self.describe(number)[0]

    def find(self, path: bytes, *, is_directory: bool = False) -> tuple[Header, int] | None:
        """Find an entry, a directory or none; give its header and the layer of its content."""
        key, numbers = key_of(path, is_directory=is_directory), self._plan.numbers
        i = bisect_left(numbers, key, key=self._key_of)
        # A NUL in a path stands for no slash.
        if b"\0" in path or i == len(numbers) or self._key_of(numbers[i]) != key:
            return None
        return self.describe(numbers[i])

    def read_linkname(self, number: int) -> bytes:
        """Give the link target of a member by its number in the plan."""
        return self._read(number).linkname

    def describe(self, number: int) -> tuple[Header, int]:
        """Give what an entry's headers are to say, and the layer of its content."""
        written = self._plan.written.get(number)
        layer, member = self._plan.locate(number)
        if written is not None:
            header, layer = self._combine(written)
        elif member < self._indexes[layer].member_count:
            header = self._read(number)
        else:
            header = Header(b"", DIRECTORY)  # that no layer has an entry for (rule 21)
        return self._clamped(header)._replace(name=name_of(self._key_of(number))), layer

    def build_root(self) -> bytes:
        """Build the root's own entry from the newest that there is (rule 8)."""
        for layer in reversed(range(len(self._indexes))):
            member = self._indexes[layer].root
            if member is not None:
                header = self._clamped(self._read_member(layer, member))
                return build_header(header._replace(name=b"./"))
        return build_header(Header(b"./", DIRECTORY))

    def iter_content(self, layer: int, header: Header) -> Iterator[bytes | memoryview]:
        """Yield the content of a file that `find` gave; each piece is good until the next.

        Raises: ImageError where the layer's bytes are no longer there.
        """
        tar = self._tars[layer]
        at = header.data_offset
        done = 0
        for start, length in header.sparse or ((0, header.stored_size),):
            yield from _zeros(start - done)
            end = at + length
            while at < end:
                piece = tar.read(at, min(PIECE, end - at))
                if not piece:
                    raise ends_early(end - at)
                yield piece
                at += len(piece)
            done = start + length
        yield from _zeros(header.size - done)

    def _combine(self, written: Written) -> tuple[Header, int]:
        """Put together the header of an inode's name, as the plan says."""
        attributes = self._read(written.attributes)
        records = {k: v for k, v in attributes.records.items() if not is_xattr_record(k)}
        if written.content is None:
            header = attributes._replace(
                kind=LINK, linkname=name_of(written.link), size=0, devmajor=0, devminor=0,
                records=records, stored_size=0, sparse=None,
            )  # fmt: skip
            return header, 0
        header = self._read(written.content)
        for other in (header, *map(self._read, written.xattrs)):
            records.update((k, v) for k, v in other.records.items() if is_xattr_record(k))
        header = header._replace(
            mode=attributes.mode, uid=attributes.uid, gid=attributes.gid, mtime=attributes.mtime,
            records=records, had_pax=header.had_pax or attributes.had_pax,
        )  # fmt: skip
        return header, self._plan.locate(written.content)[0]

    def _key_of(self, number: int) -> bytes:
        if number in self._plan.names:
            return self._plan.names[number]
        layer, member = self._plan.locate(number)
        index = self._indexes[layer]
        if member < index.member_count:
            return index.keys[member]
        return index.implied[member - index.member_count - 1]

    def _read(self, number: int) -> Header:
        return self._read_member(*self._plan.locate(number))

    def _read_member(self, layer: int, member: int) -> Header:
        tar, at = self._tars[layer], self._indexes[layer].starts[member]
        header = read_header(tar.read, at, tar.size)
        if header is None:
            raise ImageError(f"the member at offset {at} is gone: the image changed meanwhile")
        return header

    def _clamped(self, header: Header) -> Header:
        if self._clamp is None:
            return header
        dropped = {b"atime", b"ctime"} | ({b"mtime"} if header.mtime >= self._clamp else set())
        return header._replace(
            mtime=min(header.mtime, self._clamp),
            records={k: v for k, v in header.records.items() if k not in dropped},
        )


def ends_early(missing: int) -> ImageError:
    """Give the error of a layer that ends before its bytes do."""
    return ImageError(
        f"a layer's tar ends {missing} bytes early: it changed while it was read: run this again"
    )


def _zeros(count: int) -> Iterator[bytes]:
    zeros = bytes(min(count, PIECE))
    while count > 0:
        yield zeros[:count]
        count -= PIECE
