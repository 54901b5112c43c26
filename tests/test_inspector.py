"""Rows: what an image's history and layers become."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dimgx.digest import Digest
from dimgx.errors import ImageError
from dimgx.image import Image, Layer, UnreadableBlob
from dimgx.inspector import Row, inspect, layers_of, list_rows
from dimgx.oci import HistoryStep
from tests.dsl import file, layer

ONE = layer(file("a", b"x" * 1000))
TWO = layer(file("b", b"y" * 50_000))
ID = "sha256:" + "1d" * 32


@dataclass(frozen=True)
class Bytes:
    """A blob in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def iter_chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self.data), 1000):
            yield self.data[start : start + 1000]


def stored(data: bytes, plain: bytes | None = None, **more: object) -> Layer:
    diff_id = Digest.of(data if plain is None else plain)
    return Layer(Bytes(data), diff_id=diff_id, **more)  # type: ignore[arg-type]


def two(*steps: HistoryStep, **more: object) -> Image:
    return Image("x", (stored(ONE), stored(TWO)), id=ID, history=steps, **more)  # type: ignore[arg-type]


STEP, EMPTY = HistoryStep(empty=False), HistoryStep(empty=True)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((STEP, EMPTY, STEP, EMPTY), [0, None, 1, None]),
        ((EMPTY, STEP, STEP), [None, 0, 1]),
        ((), [0, 1]),
        ((STEP,), [0, 1]),
        ((STEP, STEP, STEP, EMPTY), [0, 1]),
        ((EMPTY, EMPTY), [0, 1]),
    ],
)
def test_row_is_a_step_where_history_fits_else_a_layer(
    steps: tuple[HistoryStep, ...], expected: list[int | None]
) -> None:
    rows = list_rows(two(*steps))
    assert [row.layer_index for row in rows] == expected
    assert [row.position for row in rows] == list(range(len(expected)))


def test_id_is_own_then_diff_id_then_none_and_the_top_has_the_image_id() -> None:
    own = HistoryStep(empty=False, id="abc" * 4)
    rows = list_rows(two(own, STEP, EMPTY, EMPTY))
    assert [row.id for row in rows] == ["abc" * 4, str(Digest.of(TWO)), None, ID]
    assert [row.image_id for row in rows] == ["abc" * 4, None, None, ID]
    assert rows[0].diff_id == str(Digest.of(ONE))


def test_parent_is_what_the_source_names_else_the_row_below() -> None:
    named = HistoryStep(empty=False, id="2" * 64, parent_id="1" * 64)
    rows = list_rows(two(STEP, named, EMPTY, EMPTY))
    assert [row.parent_id for row in rows] == [None, "1" * 64, "2" * 64, None]


def test_top_row_has_the_tags_of_the_image() -> None:
    rows = list_rows(two(STEP, HistoryStep(empty=False, tags=("b:1",)), tags=("a:1", "b:1")))
    assert [row.tags for row in rows] == [(), ("a:1", "b:1")]


def test_no_layers_and_no_history_are_no_rows() -> None:
    assert list_rows(Image("x", (), id=ID)) == ()
    assert inspect(Image("x", (), id=ID)).rows == ()


def test_no_layers_but_steps_are_empty_rows() -> None:
    rows = list_rows(Image("x", (), id=ID, history=(EMPTY, EMPTY)))
    assert [(row.is_empty, row.size) for row in rows] == [(True, 0), (True, 0)]


@pytest.mark.parametrize("threads", [1, 4])
def test_size_is_that_of_the_plain_tar(threads: int) -> None:
    packed = gzip.compress(TWO[:20_000]) + gzip.compress(TWO[20_000:])
    image = Image("x", (stored(ONE), stored(packed, TWO), stored(b"")), id=ID)
    listing = inspect(image, threads=threads)
    assert [row.size for row in listing.rows] == [0, len(TWO), len(ONE)]
    assert [row.stored_size for row in listing.rows] == [0, len(packed), len(ONE)]


def test_sizes_are_not_measured_unless_wanted() -> None:
    listing = inspect(two(STEP, EMPTY, STEP), sizes=False)
    assert [row.size for row in listing.rows] == [None, 0, None]


@pytest.mark.parametrize("threads", [1, 4])
def test_damaged_layer_is_an_error(threads: int) -> None:
    packed = gzip.compress(TWO)[:-9]
    image = Image("x", (stored(packed, TWO), stored(packed, TWO)), id=ID)
    with pytest.raises(ImageError):
        inspect(image, threads=threads)


def test_layer_that_cannot_be_read_has_no_size() -> None:
    image = Image("x", (stored(ONE), Layer(UnreadableBlob("it is not stored here"))), id=ID)
    assert [row.size for row in inspect(image).rows] == [None, len(ONE)]


@pytest.mark.parametrize(
    ("kind", "expected"), [("blob", len(ONE)), ("unpacked", 42), ("tar", len(ONE))]
)
def test_size_kind_decides_whose_size_is_shown(kind: str, expected: int) -> None:
    step = HistoryStep(empty=False, size=42 if kind != "blob" else None)
    image = Image("x", (stored(ONE),), id=ID, history=(step,), size_kind=kind)  # type: ignore[arg-type]
    assert [row.size for row in inspect(image).rows] == [expected]
    unmeasured = inspect(image, sizes=False)
    assert [row.size for row in unmeasured.rows] == [None if kind == "tar" else expected]


def test_layers_of_rows_keep_their_order_and_leave_out_the_empty() -> None:
    image = two(STEP, EMPTY, STEP)
    rows = list_rows(image)
    assert layers_of(image, (rows[2], rows[1], rows[0])) == (image.layers[1], image.layers[0])


@pytest.mark.parametrize("index", [-1, 2])
def test_rows_of_another_image_have_no_layers(index: int) -> None:
    with pytest.raises(ImageError, match="row @7 is not of x"):
        layers_of(two(), [Row(7, layer_index=index)])
