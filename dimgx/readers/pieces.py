"""Bytes that are still coming, held in the pieces in which they come, and let go once used."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

_UNKNOWN = 1 << 62


class Pieces:
    """A `Readable` of the bytes from `begin` to `end`, of which the end moves on as more come."""

    def __init__(self, wait: Callable[[int], bool], free: Callable[[memoryview], None]) -> None:
        """`wait(at)` is asked for bytes from `at` on that are not there; false if none will come.

        `free` gets the pieces that are let go.
        """
        self._wait, self._free = wait, free
        self._pieces: list[memoryview] = []
        self._starts: list[int] = []
        self.begin = 0
        """Where what is held begins, bytes from the start."""
        self.end = 0
        """How many bytes have come."""
        self.is_whole = False
        """Whether these are all."""

    @property
    def size(self) -> int:
        """How many bytes there are; more than there ever will be, while that is not known."""
        return self.end if self.is_whole else _UNKNOWN

    def append(self, piece: memoryview) -> None:
        """Add what comes next."""
        self._starts.append(self.end)
        self._pieces.append(piece)
        self.end += len(piece)

    def read(self, at: int, size: int) -> bytes:
        """Give the bytes from `at` on, up to `size` of them; fewer where no more come."""
        end, found = at + size, []
        while at < end and (part := self.view(at, end)):
            found.append(bytes(part))  # what it lies in may be let go while the rest is waited for
            at += len(part)
        return b"".join(found)

    def read_into(self, view: memoryview, at: int) -> int:
        """Put bytes from `at` on into `view`, as many as one piece has; tell how many."""
        part = self.view(at, at + len(view))
        view[: len(part)] = part
        return len(part)

    def view(self, at: int, end: int) -> memoryview:
        """Give the bytes from `at` to `end` as far as one piece has them; none if no more come."""
        while self.end <= at:
            if not self._wait(at):
                return memoryview(b"")
        assert at >= self.begin, "what was let go is read again"
        i = bisect_right(self._starts, at) - 1
        start = self._starts[i]
        return self._pieces[i][at - start : end - start]

    def view_or_read(self, at: int, size: int, least: int) -> memoryview | bytes:
        """Give up to `size` bytes from `at` on, and at least `least` of those that there are.

        They are not copied if one piece has so many; then they are good until it is let go.
        """
        part = self.view(at, at + size)
        return part if len(part) >= least else self.read(at, min(size, least))

    def clear(self) -> None:
        """Hold nothing any more; none of it is read again."""
        self._pieces.clear()
        self._starts.clear()

    def drop(self, before: int) -> None:
        """Let go of the pieces that end before that offset."""
        count = len(self._pieces)
        if before < self.end:
            count = max(0, bisect_right(self._starts, before) - 1)
        for piece in self._pieces[:count]:
            self._free(piece)
        del self._pieces[:count], self._starts[:count]
        self.begin = self._starts[0] if self._starts else self.end
