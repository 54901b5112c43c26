"""The members of an archive, by name, read in place.

1. Only headers are read: the walk hops over contents, so tens of gigabytes cost nothing.
2. A later member of a name replaces the earlier one. A hard link means what its target was when
   the link was written, or, where the target comes later, what it is in the end.
3. Symlinks are followed component by component as in a root file system of its own: an absolute
   target begins at the archive's root, and `..` above that root is an error (rule 66).
4. A link that nobody asks for is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dimgx.errors import ImageError
from dimgx.extent import Extent
from dimgx.image import Watch
from dimgx.layers import tarfields
from dimgx.layers.names import MAX_PATH, MAX_SYMLINKS
from dimgx.layers.tarheader import read_header
from dimgx.sources.files import read_extent

# Small members and the headers around them come with one read.
_CHUNK = 8192


class _Link(NamedTuple):
    """A member that only leads to another, relative to the directory `base`."""

    base: tuple[str, ...]
    target: str


class _Other(NamedTuple):
    """A member that is no regular file."""

    kind: str


class ArchiveFiles:
    """The members of the tar that lies in an extent."""

    def __init__(
        self, extent: Extent, where: str, watch: Watch | None = None, *, verify: bool = True
    ) -> None:
        """Index the archive.

        Raises: ImageError where it is damaged or a member's name leads outside.
        """
        self.where, self.verify = where, verify
        self._watch = watch
        self._extent = extent
        self._members: dict[str, Extent | _Link | _Other] = {}
        read_at = _Reader(extent).read_at
        # `tar -V` puts the label of the whole first, with a header of a type of its own.
        offset = tarfields.BLOCK if read_at(0, tarfields.BLOCK)[156:157] == b"V" else 0
        try:
            while True:
                header = read_header(read_at, offset, extent.size)
                if header is None:
                    break
                self._add(header)
                offset = header.end
            self.is_cut = offset >= extent.size
        except tarfields.MalformedTar as exc:
            raise ImageError(f"{where} is damaged: {exc}") from exc

    def _add(self, header: tarfields.Header) -> None:
        parts = self._resolve(_text(header.name), follow=False)
        member: Extent | _Link | _Other
        if header.kind == tarfields.FILE and header.sparse is None:
            offset = self._extent.offset + header.data_offset
            member = Extent(self._extent.fd, offset, header.size)
        elif header.kind == tarfields.SYMLINK:
            member = _Link(parts[:-1], _text(header.linkname))
        elif header.kind == tarfields.LINK:
            target = _text(header.linkname)
            try:
                now = self._members.get("/".join(self._resolve(target, follow=False)))
            except ImageError:  # it leads outside, which matters only if it is asked for
                now = None
            member = now or _Link((), target)
        elif header.kind == tarfields.FILE:
            member = _Other(
                "a sparse member, which is not read: pack the archive anew without"
                " tar's -S (bsdtar: with --no-read-sparse)"
            )
        else:
            member = _Other("no regular file")
        self._members["/".join(parts)] = member

    def _resolve(self, path: str, *, follow: bool) -> tuple[str, ...]:
        """Give the components that `path` comes to from the archive's root.

        Raises: ImageError where it leads outside or in a circle.
        """
        found: list[str] = []
        pending = path.split("/")[::-1]
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                if not found:
                    raise ImageError(f"{self.where}: {path!r:.200} leads outside of the archive")
                found.pop()
            elif part not in ("", "."):
                found.append(part)
                member = self._members.get("/".join(found)) if follow else None
                if isinstance(member, _Link):
                    links += 1
                    if links > MAX_SYMLINKS or len(member.target) > MAX_PATH:
                        raise ImageError(f"{self.where}: {path!r:.200} is a link in a circle")
                    found = [] if member.target.startswith("/") else list(member.base)
                    pending += member.target.split("/")[::-1]
        return tuple(found)

    def find(self, name: str) -> Extent | None:
        """Give the content of a regular file, links followed, or None where there is none."""
        member = self._members.get(name)
        if not isinstance(member, Extent):
            if len(name) > MAX_PATH:
                raise ImageError(f"{self.where}: a member's name of {len(name)} characters")
            member = self._members.get("/".join(self._resolve(name, follow=True)))
        if isinstance(member, _Link):  # it leads to the root, or past what is a link itself
            member = _Other("a link to no file")
        if isinstance(member, _Other):
            raise ImageError(f"{self.where}: {name!r:.200} is {member.kind}")
        return member

    def read(self, name: str, limit: int, what: str | None = None) -> bytes | None:
        """Give all of a small file, which errors call `what`."""
        extent = self.find(name)
        if extent is None:
            return None
        return read_extent(extent, what or f"{self.where}: {name:.200}", limit)

    def names(self) -> Iterable[str]:
        """Give the names of all members in the order of the archive."""
        return self._members

    def watches(self) -> Iterator[Watch]:
        """Give the archive itself where it is a file on disk."""
        if self._watch is not None:
            yield self._watch


class _Reader:
    """Reads headers of a tar with few system calls; one chunk is remembered."""

    def __init__(self, extent: Extent) -> None:
        self._extent = extent
        self._start = 0
        self._chunk = b""

    def read_at(self, offset: int, size: int) -> bytes:
        start = offset - self._start
        if not 0 <= start <= len(self._chunk) - size:
            self._chunk = self._extent.read(offset, max(size, _CHUNK))
            self._start = offset
            start = 0
        return self._chunk[start : start + size]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
