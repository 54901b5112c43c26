"""Symlinks that stay and point at something that was left out: worth a warning.

A target is followed as in a chroot, part by part, through the symlinks of the whole tree. Only the
symlinks that stay, and those on their way, are read, some 10 us each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dimgx.layers.names import MAX_SYMLINKS, path_of
from dimgx.layers.tarfields import SYMLINK, show
from dimgx.merging.merged import Merged


class LeftOut:
    """What is no longer there, and the symlinks of the whole tree and of what is left of it."""

    def __init__(
        self,
        before: Iterable[int],
        gone: Iterable[int],
        merged: Merged,
        warnings: tuple[str, ...] = (),
    ) -> None:
        """Of a tree that had the numbers `before`, those `gone` are missed.

        `warnings` are those that came up while they were chosen.
        """
        self._warnings = warnings
        keys, kinds = merged.keys, merged.kinds
        self._symlinks = {keys[n]: n for n in before if kinds[n] == SYMLINK}
        self._kept = {keys[n]: n for n in merged.numbers if kinds[n] == SYMLINK}
        # Without a symlink that could miss it, it need not be known.
        self._gone = {keys[n].removesuffix(b"\0") for n in gone} if self._kept else set()

    def find_warnings(self, read_target: Callable[[int], bytes]) -> tuple[str, ...]:
        """Give the warnings so far, and one for all symlinks that point at what is gone.

        `read_target` gives the target of the symlink with a number.
        """
        found = list(self._iter_pointing(read_target)) if self._gone else []
        if not found:
            return self._warnings
        key, target = found[0]
        example = f"{show(path_of(key))} -> {show(target)}"
        if len(found) == 1:
            return (*self._warnings, f"a symlink points at what is left out: {example}")
        return (
            *self._warnings,
            f"{len(found)} symlinks point at what is left out, such as {example}",
        )

    def _iter_pointing(self, read_target: Callable[[int], bytes]) -> Iterator[tuple[bytes, bytes]]:
        for key, number in self._kept.items():
            target = read_target(number)
            if self._is_missed(key, target, read_target):
                yield key, target

    def _is_missed(self, key: bytes, target: bytes, read_target: Callable[[int], bytes]) -> bool:
        """Tell whether the way from a symlink along its target meets something that is gone."""
        passed = key.split(b"\0")[:-1]
        for _ in range(MAX_SYMLINKS):
            if target.startswith(b"/"):
                passed = []
            left = target.split(b"/")[::-1]
            while left:
                part = left.pop()
                if part == b"..":
                    del passed[-1:]
                elif part not in (b"", b"."):
                    passed.append(part)
                    here = b"\0".join(passed)
                    if here in self._gone:
                        return True
                    if here in self._symlinks:
                        passed.pop()
                        target = b"/".join((read_target(self._symlinks[here]), *left[::-1]))
                        break
            else:
                return False
        return False
