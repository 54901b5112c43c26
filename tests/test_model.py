"""Random stacks of layers through the program and through the reference model."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from dimgx.errors import ImageError
from tests.cases import flatten_layers
from tests.dsl import Member, layer
from tests.listing import list_tar
from tests.stacks import STACKS, expected_of
from tests.writers import compress


@given(STACKS)
def test_program_and_model_agree(layers: list[list[Member]]) -> None:
    expected = expected_of(layers)
    tars = [layer(*some) for some in layers]
    if expected is None:
        try:
            found = list_tar(flatten_layers(tars))
        except ImageError as error:
            assert "\n" not in str(error)
            return
        raise AssertionError(f"not refused: {found}")
    tar = flatten_layers(tars)
    assert list_tar(tar) == expected
    assert flatten_layers([tar]) == tar, "flattening the flattened changes it"


@given(
    STACKS,
    st.lists(st.sampled_from([None, "gzip", "bzip2", "xz", "zstd"]), min_size=4, max_size=4),
    st.integers(1, 4),
    st.sampled_from([None, 0, 1, 3000, 1 << 20]),
)
def test_the_same_bytes_whatever_the_means(
    layers: list[list[Member]], kinds: list[Any], threads: int, memory: int | None
) -> None:
    assume(expected_of(layers) is not None)
    tars = [layer(*some) for some in layers]
    packed = [compress(tar, kind) for tar, kind in zip(tars, kinds, strict=False)]
    plain = flatten_layers(tars, threads=1)
    assert flatten_layers(packed, threads=threads, memory=memory, verify="none") == plain


@given(STACKS)
def test_layers_one_by_one_or_all_at_once(layers: list[list[Member]]) -> None:
    """A layer that hides nothing and links to nothing below may be flattened by itself first."""
    assume(expected_of(layers) is not None)
    whole = flatten_layers([layer(*some) for some in layers])
    try:
        base = flatten_layers([layer(*some) for some in layers[:-1]])
    except ImageError:
        return
    assert flatten_layers([base, layer(*layers[-1])]) == whole
