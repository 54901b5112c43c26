"""Work divided among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

_T = TypeVar("_T")


def divide(items: Iterable[_T], count: int, size_of: Callable[[_T], int]) -> list[list[_T]]:
    """Divide `items` into `count` shares of about one size, each with its largest items first."""
    shares: list[list[_T]] = [[] for _ in range(count)]
    sizes = [0] * count
    for item in sorted(items, key=size_of, reverse=True):
        i = sizes.index(min(sizes))
        shares[i].append(item)
        sizes[i] += size_of(item)
    return shares
