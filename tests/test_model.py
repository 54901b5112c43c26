"""Random stacks of layers through the program and through the reference model."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

import dimgx
from dimgx import extractor
from dimgx.errors import DimgxError, ImageError
from tests.cases import flatten_layers
from tests.dsl import Member, layer
from tests.listing import list_tar
from tests.stacks import STACKS, expected_of
from tests.test_pathrules import RULES
from tests.test_renaming import PREFIXES
from tests.test_streaming import in_order
from tests.writers import compress, docker_archive, image, oci_archive


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


KINDS = st.lists(st.sampled_from([None, "gzip", "bzip2", "xz", "zstd"]), min_size=4, max_size=4)
MEMORIES = st.sampled_from([None, 0, 1, 3000, 1 << 20])


@given(STACKS, KINDS, st.integers(1, 4), MEMORIES)
def test_the_same_bytes_whatever_the_means(
    layers: list[list[Member]], kinds: list[Any], threads: int, memory: int | None
) -> None:
    assume(expected_of(layers) is not None)
    tars = [layer(*some) for some in layers]
    packed = [compress(tar, kind) for tar, kind in zip(tars, kinds, strict=False)]
    plain = flatten_layers(tars, threads=1)
    assert flatten_layers(packed, threads=threads, memory=memory, verify="none") == plain


# With others, layers are not merged while they are decoded.
FEW_OPTIONS = st.fixed_dictionaries({}, optional={
    "clamp_mtime": st.sampled_from([0, 6, 1_600_000_000]),
    "layers": st.sampled_from([["@0"], ["@-1"], ["@0:@-1"], ["@-1:@0"], ["@0", "@-1"]]),
})  # fmt: skip
MORE_OPTIONS = st.fixed_dictionaries({}, optional={
    "paths": RULES.map(tuple),
    "strip_components": st.integers(0, 2),
    "prefix": st.sampled_from([prefix for prefix in PREFIXES if prefix]),
    "root_entry": st.booleans(),
})  # fmt: skip
OPTIONS = FEW_OPTIONS | st.builds(lambda few, more: few | more, FEW_OPTIONS, MORE_OPTIONS)


def flattened(image: Path, target: Path, **options: Any) -> bytes | type[DimgxError]:
    """Give the tar that is written to `target`, where nothing may be that has failed."""
    try:
        with dimgx.open_image(image) as opened:
            dimgx.flatten(opened, target, force=True, sync=False, **options)
    except DimgxError as error:
        assert "\n" not in str(error)
        assert os.listdir(target.parent) == [], "something was left there"
        return type(error)
    tar = target.read_bytes()
    target.unlink()
    return tar


@settings(
    max_examples=settings().max_examples // 3,  # each is up to ten runs
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.function_scoped_fixture],
)
@given(STACKS, st.integers(0, 3), KINDS, st.integers(1, 3), MEMORIES, OPTIONS)
def test_the_same_bytes_or_error_by_any_way_with_any_options(
    tmp_path: Path, layers: list[list[Member]], how: int, kinds: list[Any],
    threads: int, memory: int | None, options: dict[str, Any],
) -> None:  # fmt: skip
    """Layers plain or packed, merged while they are decoded or after; files, pipes, streams."""
    if how:  # as tools write them, so that they can be merged while they are decoded
        layers = [in_order(some) for some in layers]
        kinds = [kind or "gzip" for kind in kinds]
    tars = [layer(*some) for some in layers]
    plain, packed, again = (tmp_path / name for name in ("plain", "packed", "again"))
    plain.write_bytes(docker_archive(image(*tars)))
    packed.write_bytes(oci_archive(image(*tars, compression=kinds[: len(tars)])))
    target = tmp_path / "out" / "flat"
    target.parent.mkdir(exist_ok=True)

    found = flattened(plain, target, threads=1, verify="all", **options)
    event(found.__name__ if isinstance(found, type) else "a tar")
    ways: list[tuple[Path, dict[str, Any]]] = [
        (plain, {"threads": threads, "memory": memory}),
        (packed, {"threads": threads, "memory": memory}),
        (packed, {"threads": threads, "report": dimgx.Report()}),
    ]
    for source, way in ways:
        assert flattened(source, target, **way, **options) == found, way
    piped = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        # So small layers would be decoded first, and so small a tar be written by one process.
        patch.setattr(extractor, "STREAMED", 0)
        patch.setattr(extractor, "HALVED", 0)
        assert flattened(plain, target, threads=2, **options) == found
        assert flattened(packed, target, threads=2, verify="none", **options) == found
        if isinstance(found, type):
            return
        with dimgx.open_image(packed) as opened:
            dimgx.flatten(opened, piped, threads=2, memory=memory, **options)
        assert piped.getvalue() == found
    with dimgx.open_image(packed) as opened, dimgx.open_stream(opened, **options) as stream:
        assert stream.read() == found
    recorded = flattened(packed, target, record=True, **options)
    assert isinstance(recorded, bytes) and recorded.endswith(found) and recorded != found
    if "layers" not in options and isinstance(whole := flattened(plain, target), bytes):
        again.write_bytes(docker_archive(image(whole)))
        assert flattened(again, target, **options) == found, "all first, and then the options"


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
