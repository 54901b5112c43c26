"""Bytes at rest, as a part of an open file, and what takes bytes that pass by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dimgx import system

if TYPE_CHECKING:
    from collections.abc import Iterator

Write = Callable[[bytes | memoryview], object]
"""Takes all of some bytes, which are good until it returns."""


class Readable(Protocol):
    """Bytes that can be read from any offset, as a layer's plain tar can."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, at: int, size: int) -> bytes:
        """Give the bytes from `at` on, up to `size` of them; fewer at the end."""

    def read_into(self, view: memoryview, at: int) -> int:
        """Put bytes from `at` on into `view`, as many as are at hand; tell how many, 0 for none."""

    def view(self, at: int, end: int) -> memoryview | None:
        """Give bytes from `at` to `end` as they lie in memory; None where they do not.

        Maybe not all; none where none come any more. Good until the next call of anything.
        """


class Extent(NamedTuple):
    """A blob at rest: `size` bytes from `offset` on in the open file `fd`. Does not own `fd`."""

    fd: int
    offset: int
    size: int

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in order, 1 MiB at a time.

        Raises: ImageError where the file ends before the extent does.
        """
        return system.iter_extent(self.fd, self.offset, self.size)

    def read(self, at: int, size: int) -> bytes:
        """Give the bytes from `at` on, up to `size` of them; fewer at the end."""
        return system.pread(self.fd, max(0, min(size, self.size - at)), self.offset + at)

    def read_into(self, view: memoryview, at: int) -> int:
        """Put bytes from `at` on into `view`, as many as one call gives; tell how many."""
        return system.pread_into(self.fd, view[: self.size - at], self.offset + at)

    def view(self, at: int, end: int) -> None:
        """Give None, as they do not lie in memory."""
