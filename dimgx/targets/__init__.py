"""Where the result goes. A `Target` takes bytes and publishes them when it is told to."""

from __future__ import annotations

from typing import Protocol


class Target(Protocol):
    """Something that takes bytes in order and shows them, whole, at the end."""

    @property
    def is_atomic(self) -> bool:
        """Whether nothing is seen before `commit`; if not, each byte is out once it is written."""

    def write(self, data: bytes | memoryview) -> object:
        """Take `data`, all of it; the caller may reuse it afterwards.

        Raises: SourceError with what is wrong with the place; BrokenPipeError where a reader left.
        """

    def commit(self) -> None:
        """Publish what was written; nothing may be written after that.

        Raises: SourceError where the place cannot be replaced or has no room; then nothing is
        left behind.
        """

    def abort(self) -> None:
        """Drop what was written, as far as it can be; does nothing after a commit."""
