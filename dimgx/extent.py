"""Bytes at rest: a part of an open file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Extent:
    """A blob at rest: `size` bytes from `offset` on in the open file `fd`. Does not own `fd`."""

    fd: int
    offset: int
    size: int

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in order, 1 MiB at a time.

        Raises: ImageError where the file ends before the extent does.
        """
        from dimgx.system import iter_extent

        return iter_extent(self.fd, self.offset, self.size)
