"""An image's form as a tar archive.

1. In a file that can be gone back in, a layer is written behind room for its header, which is
   filled in when name and size are known: nothing is written twice or kept beside. The room is one
   block, in which a name with a sha256 digest fits.
2. To a pipe, a device or through a compressor, and where names are longer than that, nothing goes
   out before all is known and checked. A part that is repeatable is only hashed at first; any other
   is kept in a spool until then.
3. Both give the same bytes: files in the order in which they were put, without directories, with
   mode 0644, time 0 and root as owner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dimgx.digest import Tally
from dimgx.encode import encoding
from dimgx.extent import Extent
from dimgx.layers.tarfields import BLOCK, FILE, SYMLINK, Header
from dimgx.layers.tarwrite import END, build_header
from dimgx.targets.store import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dimgx.codec import Coding
    from dimgx.extent import Write
    from dimgx.images.layerparts import Part, StoredLayer
    from dimgx.spool import SpoolSpace
    from dimgx.targets import Target
    from dimgx.targets.singlefile import FileTarget


def _header(name: str, size: int) -> bytes:
    return build_header(Header(name.encode(), FILE, 0o644, size=size))


def _link_header(name: str, target: str) -> bytes:
    return build_header(Header(name.encode(), SYMLINK, 0o777, linkname=target.encode()))


class FileArchive:
    """An archive in a file that can be gone back in (rule 1)."""

    def __init__(self, target: FileTarget, *, is_hashed: bool) -> None:
        self._target = target
        self._is_hashed = is_hashed
        self.sha256: str | None = None

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._target.end

    def put(self, name: str, data: bytes) -> None:
        """Put a small file there."""
        self._target.write(_header(name, len(data)) + data + bytes(-len(data) % BLOCK))

    def link(self, name: str, target: str) -> None:
        """Put a symlink there."""
        self._target.write(_link_header(name, target))

    def put_part(self, part: Part) -> tuple[Slot, StoredLayer]:
        """Write a layer behind room for its header."""
        begin = self._target.end
        self._target.write(bytes(BLOCK))
        stored = part.emit(self._target.write)
        self._target.write(bytes(-stored.size % BLOCK))
        return Slot(stored.size, begin), stored

    def name(self, slot: Slot, name: str) -> None:
        """Fill the header in."""
        header = _header(name, slot.size)
        assert len(header) == BLOCK, "names are short"
        self._target.rewrite(header, slot.position)

    def drop(self, slot: Slot) -> None:
        """Go back to where the last layer began."""
        self._target.truncate(slot.position)

    def publish(self, last: Mapping[str, bytes], check: Callable[[], None]) -> None:
        """Put the last files and the end of the archive, and give the file its name."""
        for name, data in last.items():
            self.put(name, data)
        self._target.write(END)
        check()
        if self._is_hashed:  # headers were filled in late, so not before
            tally = Tally(len)  # it goes nowhere
            for chunk in self._target.iter_chunks():
                tally.write(chunk)
            self.sha256 = tally.sha256
        self._target.commit()


class _Piece(NamedTuple):
    """A member that goes out in the end: its header, and where its content comes from."""

    header: bytes
    size: int
    content: bytes | Extent | Part

    def emit(self, write: Write) -> None:
        """Write the content."""
        if isinstance(self.content, bytes):
            write(self.content)
        elif isinstance(self.content, Extent):
            for chunk in self.content.iter_chunks():
                write(chunk)
        else:
            self.content.emit(write)


class StreamedArchive:
    """An archive that goes out in one go when all of it is known (rule 2)."""

    def __init__(
        self, target: Target, coding: Coding, space: SpoolSpace, *, is_hashed: bool
    ) -> None:
        """`coding` is of the archive as a whole; what is kept until the end lies in `space`."""
        self._target, self._coding, self._space = target, coding, space
        self._tally = Tally(target.write, is_hashed=is_hashed)
        self._pieces: list[_Piece] = []

    def put(self, name: str, data: bytes) -> None:
        """Remember a small file."""
        self._pieces.append(_Piece(_header(name, len(data)), len(data), data))

    def link(self, name: str, target: str) -> None:
        """Remember a symlink."""
        self._pieces.append(_Piece(_link_header(name, target), 0, b""))

    def put_part(self, part: Part) -> tuple[Slot, StoredLayer]:
        """Learn what a layer is, and keep it if need be."""
        content: Extent | Part = part
        if part.is_repeatable:
            stored = part.emit(len)  # it is only hashed
        else:
            spool = self._space.open()
            stored = part.emit(spool.write)
            content = spool.finish()
        self._pieces.append(_Piece(b"", stored.size, content))
        return Slot(stored.size, len(self._pieces) - 1), stored

    def name(self, slot: Slot, name: str) -> None:
        """Give the layer its header."""
        piece = self._pieces[slot.position]
        self._pieces[slot.position] = piece._replace(header=_header(name, slot.size))

    def drop(self, slot: Slot) -> None:
        """Forget the last layer."""
        del self._pieces[slot.position :]

    def publish(self, last: Mapping[str, bytes], check: Callable[[], None]) -> None:
        """Write everything."""
        for name, data in last.items():
            self.put(name, data)
        check()
        with encoding(self._tally.write, self._coding) as write:
            for piece in self._pieces:
                write(piece.header)
                piece.emit(write)
                write(bytes(-piece.size % BLOCK))
            write(END)
        check()  # Parts have been read once more.
        self._target.commit()

    @property
    def size(self) -> int:
        """Bytes that went out."""
        return self._tally.size

    @property
    def sha256(self) -> str | None:
        """Of these."""
        return self._tally.sha256
