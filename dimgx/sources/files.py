"""Named files of an image's source: the members of an archive, or what lies in a directory.

Formats (a docker-archive, a layout) are read through `Files` and do not know which of the two it
is. Nothing outside is ever reached, whatever names and links say (rule 66), but for blobs of a
directory, which may be links to where its owner keeps them, as bazel makes them: their names are
their digests, and these guard what the links lead to, where they are checked.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Protocol

from dimgx import system
from dimgx.digest import Digest
from dimgx.errors import ImageError, SourceError
from dimgx.extent import Extent
from dimgx.image import Watch

_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_BLOB = re.compile(r"blobs/[a-z0-9]+/[0-9a-f]+")


class Files(Protocol):
    """Files that can be found by their names, which are relative and have `/` in them."""

    where: str
    """What people call the place."""
    verify: bool
    """Digests of what is read are checked."""
    is_cut: bool
    """An archive without a mark at its end: it may have been cut short between two members."""

    def find(self, name: str) -> Extent | None:
        """Give the content of a regular file, links followed, or None where there is none.

        Raises: ImageError where the name or a link leads outside, in a circle or to no file.
        """

    def read(self, name: str, limit: int, what: str | None = None) -> bytes | None:
        """Give all of a small file, which errors call `what`; nothing is held open afterwards.

        Raises: ImageError, besides, where it is larger than `limit` bytes.
        """

    def names(self) -> Iterable[str]:
        """Give the names of all there is, as far as telling the format needs them."""

    def watches(self) -> Iterator[Watch]:
        """Give what can be looked at again to see that nothing has changed meanwhile."""


def read_extent(extent: Extent, what: str, limit: int) -> bytes:
    """Give the bytes of a small file, which errors call `what`.

    Raises: ImageError where it is larger than `limit` bytes.
    """
    if extent.size > limit:
        raise ImageError(f"{what} has {extent.size} bytes; at most {limit} are read")
    return b"".join(map(bytes, extent.iter_chunks()))


class DirectoryFiles:
    """The files of a directory. Each that `find` gave stays open until `resources` is closed."""

    def __init__(self, path: str, where: str, resources: ExitStack, *, verify: bool) -> None:
        self.where = where
        self.verify = verify
        self.is_cut = False
        self._root = os.path.realpath(path)
        self._resources = resources
        self._found: dict[str, tuple[Extent, Watch]] = {}

    def find(self, name: str) -> Extent | None:
        """Give the content of a regular file, links followed, or None where there is none."""
        path = self._path(name)
        if path not in self._found:
            extent = self._open(path, name)
            if extent is None:
                return None
            self._resources.callback(system.let_go, extent.fd)
            self._found[path] = extent, Watch.of(extent.fd, path)
        return self._found[path][0]

    def read(self, name: str, limit: int, what: str | None = None) -> bytes | None:
        """Give all of a small file, which errors call `what`; nothing is held open afterwards."""
        extent = self._open(self._path(name), name)
        if extent is None:
            return None
        try:
            return read_extent(extent, what or f"{self.where}: {name:.200}", limit)
        finally:
            system.let_go(extent.fd)

    def _path(self, name: str) -> str:
        if "\0" in name:
            raise ImageError(f"{self.where}: {name!r:.200} is no file's name")
        # A name may begin at the root, which is this directory.
        path = os.path.realpath(os.path.join(self._root, name.lstrip("/")))
        # A drive or `/` itself already ends in a separator.
        inside = self._root if self._root.endswith(os.sep) else self._root + os.sep
        if not path.startswith(inside) and not (self.verify and _BLOB.fullmatch(name)):
            raise ImageError(f"{self.where}: {name!r:.200} leads outside of the directory")
        return path

    def _open(self, path: str, name: str) -> Extent | None:
        try:
            # Before it is opened: with some devices that alone does something.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ImageError(f"{self.where}: {name!r:.200} is no regular file")
            fd = os.open(path, _OPEN_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            if os.path.islink(path):
                raise ImageError(f"{self.where}: {name!r:.200} is a link in a circle") from exc
            raise SourceError(f"{path!r:.300}: {exc.strerror}") from exc
        return Extent(fd, 0, os.fstat(fd).st_size)

    def names(self) -> Iterable[str]:
        """Give the names in the directory, and what an image of old has a level deeper."""
        try:
            topmost = sorted(os.listdir(self._root))
        except OSError as exc:
            raise SourceError(f"{self.where}: {exc.strerror}") from exc
        deeper = (f"{name}/{file}" for name in topmost for file in ("json", "layer.tar"))
        return topmost + [p for p in deeper if os.path.lexists(os.path.join(self._root, p))]

    def watches(self) -> Iterator[Watch]:
        """Give each file that `find` gave."""
        return (watch for _, watch in self._found.values())


def check_digest(data: bytes, digest: Digest, what: str) -> None:
    """Check a small blob's content.

    Raises: ImageError where it does not match.
    """
    found = digest.new_hash()
    found.update(data)
    if found.hexdigest() != digest.hex:
        raise ImageError(f"{what} does not match its digest {digest}: pull or copy it again")
