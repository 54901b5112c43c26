"""What is written for a target that shows each byte at once, held until it may be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dimgx import system

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dimgx.spool import Spool, SpoolSpace


class HeldTarget:
    """Keeps in `space` what is written, to be taken back or passed on."""

    def __init__(self, space: SpoolSpace) -> None:
        self._space = space
        self._spool: Spool | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`.

        Raises: SourceError where neither the budget nor a temporary directory has room for it.
        """
        if self._spool is None:
            self._spool = self._space.open()
        self._spool.write(data)

    def clear(self) -> None:
        """Take back all that was written."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def iter_chunks(self) -> Iterator[memoryview]:
        """Yield all that was written, in order; each piece is good until the next."""
        if self._spool is not None:
            kept = self._spool.finish()
            yield from system.iter_extent(kept.fd, kept.offset, kept.size)
