"""Other names for what is written: `--strip-components` and `--prefix`. Pure.

1. First the leading directories are taken off. What has no more names than that is left out.
2. Directories that get one name become one, with the attributes of the one that comes last in the
   order of a walk, or of one that has any. Anything else under one name is an error: which of the
   two was wanted, nobody could tell.
3. Then the prefix goes before what is left. Its own directories are implied ones.
4. Hard links are settled after that, so their targets are the new names. Targets of symlinks are
   data and stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from dimgx.errors import ImageError, UsageError
from dimgx.layers.names import MAX_PATH, WHITEOUT_PREFIX, ancestors, key_of, path_of
from dimgx.layers.tarfields import show


class Renaming(NamedTuple):
    """How names change."""

    strip_components: int = 0
    prefix: bytes = b""
    """A key, or nothing."""

    @classmethod
    def of(cls, strip_components: int, prefix: str | None) -> Renaming:
        """Give the renaming that people ask for; a `/` at the prefix's end may be left out.

        Raises: UsageError for a number or a prefix that makes no sense.
        """
        if strip_components < 0:
            raise UsageError(f"{strip_components} leading directories cannot be taken off")
        return cls(strip_components, parse_prefix(prefix) if prefix is not None else b"")

    def __bool__(self) -> bool:
        return bool(self.strip_components or self.prefix)

    def apply(
        self, numbers: Sequence[int], keys: Sequence[bytes], *, is_implied: Iterable[bool]
    ) -> tuple[list[int], list[bytes]]:
        """Give the numbers that stay, and the new key of each, in the new order of a walk.

        `keys` and `is_implied` (a directory without attributes) go with `numbers`, which are in
        the order of a walk.

        Raises: ImageError where two entries get one name, or nothing is left.
        """
        depth, prefix = self.strip_components, self.prefix
        if depth:
            # Of equals the one that counts is the last, and what is implied counts least.
            found = sorted(
                (parts[depth], not implied, i)
                for i, (key, implied) in enumerate(zip(keys, is_implied, strict=True))
                if len(parts := key.split(b"\0", depth)) > depth and parts[depth]
            )
            _check_clashes([(key, keys[i]) for key, _, i in found])
            last = {key: i for key, _, i in found}
            numbers, keys = [numbers[i] for i in last.values()], list(last)
            if not keys:
                raise ImageError(
                    f"nothing is left of the image: no name has more than {depth} parts"
                )
        if prefix:
            keys = [prefix + key for key in keys]
        # A directory's key is longer than its path.
        for path in (path_of(key) for key in keys if len(key) > MAX_PATH):
            if len(path) > MAX_PATH:
                raise ImageError(
                    f"a name of more than {MAX_PATH} bytes with its prefix: {show(path)}"
                )
        return list(numbers), list(keys)

    def prefix_directories(self) -> list[bytes]:
        """Give the keys of the prefix's own directories, in the order of a walk."""
        return [*reversed(ancestors(self.prefix)), self.prefix] if self.prefix else []


def parse_prefix(text: str) -> bytes:
    """Give the key of the directory that `text` names.

    Raises: UsageError where it is none that names can be put into.
    """
    parts = [part for part in os.fsencode(text).split(b"/") if part not in (b"", b".")]
    if not parts:
        raise UsageError(f"--prefix {text}: it names no directory below the root")
    if b".." in parts or any(part.startswith(WHITEOUT_PREFIX) or b"\0" in part for part in parts):
        raise UsageError(f"--prefix {text}: no directory can have such a name")
    return key_of(b"/".join(parts), is_directory=True)


def _check_clashes(found: Sequence[tuple[bytes, bytes]]) -> None:
    """See that only directories have got one name; `found` has (new key, old key), sorted."""
    for (one, first), (other, second) in pairwise(found):
        is_same = one == other and not one.endswith(b"\0")
        # A directory comes right behind what is no directory and has its name.
        if is_same or other == one + b"\0":
            new = show(path_of(one))
            raise ImageError(
                f"both {show(path_of(first))} and {show(path_of(second))} would become {new}"
                " without their leading directories: --exclude one of them"
            )
