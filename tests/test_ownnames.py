"""A layer's names: the same answers whether its keys ascend or not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimgx.layers.ownnames import names_of

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


PARTS = st.lists(st.sampled_from([b"a", b"a.", b"b"]), min_size=1, max_size=4)


@given(
    st.sets(
        st.builds(lambda parts, end: b"\0".join(parts) + end, PARTS, st.sampled_from([b"", b"\0"]))
    )
)
def test_whole_is_what_has_all_its_directories(some: set[bytes]) -> None:
    keys = sorted(some)
    places = [i for i, key in enumerate(keys) if key.endswith(b"\0")]
    names = names_of(keys)
    assert names is not None
    parents = {key[: at + 1] for key in keys for at, byte in enumerate(key[:-1]) if byte == 0}
    files = {keys[i][:-1] for i in places} & some
    assert names.is_whole(places) == (parents <= some and not files)


def test_many_names_are_whole() -> None:
    keys = sorted(b"d%d\0" % (i // 9 * 9) + b"f%d" % i * (i % 9 > 0) for i in range(9000))
    names = names_of(keys)
    assert names is not None
    places = [i for i, key in enumerate(keys) if key.endswith(b"\0")]
    assert names.is_whole(places)
    gone = keys.pop(places.pop())
    assert not names.is_whole(places), gone
