"""Where the files of an image's form are put: a tar archive, or a directory.

1. A layer is written before its name is known, as that may hold its digest.
2. Nothing is seen before `publish`.
3. The files do not depend on the store, nor an archive on whether it can be gone back in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dimgx.images.layerparts import Part, StoredLayer


class Slot(NamedTuple):
    """Where a layer lies that has no name yet; where that is, only its store knows."""

    size: int
    """Bytes of the layer as stored."""
    position: int = 0
    """In an archive."""
    place: str = ""
    """In a directory: the file's path."""


class Store(Protocol):
    """Takes files by their names, which are relative and have `/` in them."""

    def put(self, name: str, data: bytes) -> None:
        """Put a small file there.

        Raises: SourceError with what is wrong with the place.
        """

    def link(self, name: str, target: str) -> None:
        """Put a symlink there."""

    def put_part(self, part: Part) -> tuple[Slot, StoredLayer]:
        """Write a layer; it may be dropped until something else is put, and is named once.

        Raises: SourceError; what writing the part raises.
        """

    def name(self, slot: Slot, name: str) -> None:
        """Give a layer its name."""

    def drop(self, slot: Slot) -> None:
        """Take back the layer that was put last: it is there already."""

    def publish(self, last: Mapping[str, bytes], check: Callable[[], None]) -> None:
        """Put the files `last`, which make an image of the rest, and show everything.

        `check` raises where that has changed which the parts are read from. It is called when all
        of them are read, and before anything is seen.

        Raises: SourceError where the place cannot be replaced or has no room; what `check` raises.
        """

    @property
    def size(self) -> int:
        """Bytes of the archive, or of all files together, once it is published."""

    @property
    def sha256(self) -> str | None:
        """Of the archive, in hex, once it is published and where it was asked for."""
