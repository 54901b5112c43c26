"""The merged tree of an image as a Python value: its entries, and the content of its files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from types import TracebackType

    from dimgx.extractor import Entry, FlatTar


class Tree:
    """The merged tree of an image. A context manager; iterating gives its entries.

    Paths are bytes without a leading or trailing slash; `str` is taken too. The root directory is
    no entry.
    """

    def __init__(self, flat: FlatTar) -> None:
        self._flat = flat

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd but usable, one sentence each."""
        return tuple(self._flat.warnings)

    def __iter__(self) -> Iterator[Entry]:
        return self._flat.iter_entries()

    def open(self, path: str | bytes) -> BufferedReader:
        """Open the file at `path` for reading; a name of a hard-linked file gives its content.

        Raises: ImageError where there is no such entry or it is no regular file.
        """
        from dimgx.stream import open_iterated

        return open_iterated(self._flat.open_file(os.fsencode(path).strip(b"/")))

    def close(self) -> None:
        """Let go of the layers."""
        self._flat.close()

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
