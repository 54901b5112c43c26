"""A layer's names: the same answers whether its keys ascend or not."""

from __future__ import annotations

import random

import pytest

from dimgx.ownnames import names_of

KEYS = [b"a", b"a-", b"b\0", b"b\0c", b"b\0d\0", b"b\0d\0e", b"z"]


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_order_does_not_matter(seed: int | None) -> None:
    keys = KEYS[:]
    if seed is not None:
        random.Random(seed).shuffle(keys)
    names = names_of(keys)
    assert names is not None
    assert all(key in names for key in KEYS)
    absent = [b"", b"a\0", b"b", b"b\0d", b"zz"]
    assert not any(key in names for key in absent)
    assert names.isdisjoint(absent)
    assert names.isdisjoint([])
    assert not names.isdisjoint([*absent, b"z"])
    assert names.find({b"b\0c", b"z", b"b", b"zz"}) == {
        b"b\0c": keys.index(b"b\0c"),
        b"z": keys.index(b"z"),
    }


@pytest.mark.parametrize("keys", [[b"a", b"a"], [b"b", b"a", b"b"]])
def test_a_name_that_stands_twice(keys: list[bytes]) -> None:
    assert names_of(keys) is None


def test_no_names() -> None:
    names = names_of([])
    assert names is not None
    assert b"a" not in names
    assert names.find({b"a"}) == {}
