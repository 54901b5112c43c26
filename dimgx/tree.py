"""The merged tree of an image as a Python value: its entries, and the content of its files."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from dimgx.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from io import BufferedReader

    from dimgx.extractor import Entry, FlatTar


class Tree:
    """The merged tree of an image. A context manager; iterating gives its entries.

    Paths are bytes without a leading or trailing slash; `str` is taken too. The root directory is
    no entry. Once it is closed all but `warnings` is a UsageError, but the files that it has opened
    can be read on.
    """

    def __init__(self, flat: FlatTar, check: Callable[[], object]) -> None:
        """`check` raises where the image is no longer what its digests were compared with."""
        self._flat, self._check = flat, check
        self._shared = Shared(flat.close)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd but usable, one sentence each."""
        return self._flat.warnings

    def __iter__(self) -> Iterator[Entry]:
        with self._using():
            yield from self._flat.iter_entries()

    def find(self, path: str | bytes) -> Entry | None:
        """Give the entry at `path`, of whatever type; None where there is none.

        Symlinks are not followed. About 20 us.

        Raises: UsageError where the tree is closed.
        """
        with self._using():
            return self._flat.find_entry(_spelled(path))

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str | bytes) and self.find(path) is not None

    def open(self, path: str | bytes) -> BufferedReader:
        """Open the file at `path` for reading; a name of a hard-linked file gives its content.

        Symlinks are not followed.

        Raises: ImageError where there is no such entry or it is no regular file; UsageError where
            the tree is closed; while reading SourceError where the image has changed meanwhile.
        """
        from dimgx.stream import open_pieces

        with ExitStack() as stack:
            stack.enter_context(self._using())
            chunks = self._flat.open_file(_spelled(path), self._check)
            close = stack.pop_all().close
        return open_pieces(partial(next, chunks, b""), close)

    def _using(self) -> AbstractContextManager[None]:
        return self._shared.using("the tree")

    def close(self) -> None:
        """Let go of the layers, as soon as no file of them is open any more."""
        self._shared.close()

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _spelled(path: str | bytes) -> bytes:
    """Give a path as entries have it: `x`, `./x` and `/x/` are one."""
    return b"/".join(part for part in os.fsencode(path).split(b"/") if part not in (b"", b"."))
