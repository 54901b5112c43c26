"""Tables of layers and of the listing that flattening them must give."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests import model
from tests.dsl import Member, file, layer, whiteout
from tests.listing import list_tar

if TYPE_CHECKING:
    from dimgx.extractor import FlatTar

LayerMembers = Sequence[Member]
TWICE = [file("~"), file("~")]


@dataclass(frozen=True, slots=True)
class Case:
    """Layers, base to top, and what becomes of them."""

    id: str
    layers: Sequence[LayerMembers]
    expected: list[str] | str
    """The short listing, or a pattern that the one-line error must match."""
    in_model: bool = True
    """False where the members say with their spelling what the model cannot know."""


def case(id_: str, layers: Sequence[LayerMembers], expected: list[str], **more: Any) -> Case:
    return Case(id_, layers, expected, **more)


def bad(id_: str, layers: Sequence[LayerMembers], error: str = "", **more: Any) -> Case:
    return Case(id_, layers, error, **more)


def table(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Run a test once for each case of a table."""
    assert len({case.id for case in cases}) == len(cases), "an id twice"
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in cases])


@contextmanager
def open_layers(
    layers: Sequence[bytes], *, below_count: int = 0, **options: Any
) -> Iterator[FlatTar]:
    """Plan the flat tar of plain or compressed layers, base to top.

    With `below_count`, as many of them stay below what is flattened. `options` are
    those of `Recipe`. The layers lie one behind the other in one unlinked file.
    """
    from dimgx.extent import Extent
    from dimgx.extractor import open_flat
    from dimgx.image import Layer
    from dimgx.recipe import Recipe

    with ExitStack() as stack:
        stored = stack.enter_context(tempfile.TemporaryFile())
        extents = []
        for data in layers:
            extents.append(Extent(stored.fileno(), stored.tell(), len(data)))
            stored.write(data)
        stored.flush()
        opened = [Layer(blob=extent) for extent in extents]
        below, above = opened[:below_count], opened[below_count:]
        yield stack.enter_context(open_flat(above, Recipe(**options), below=below))


def open_members(layers: Sequence[LayerMembers], **options: Any) -> AbstractContextManager[FlatTar]:
    return open_layers([layer(*members) for members in layers], **options)


def flatten_layers(layers: Sequence[bytes], **options: Any) -> bytes:
    """Flatten layers as `open_layers` does; give the tar's bytes."""
    with open_layers(layers, **options) as flat:
        promised = flat.length
        pieces: list[bytes] = []
        flat.emit(lambda piece: pieces.append(bytes(piece)))
        flat.verify()
        tar = b"".join(pieces)
        assert promised == len(tar), "the length that was promised"
    return tar


def flatten_members(layers: Sequence[LayerMembers], **options: Any) -> bytes:
    return flatten_layers([layer(*members) for members in layers], **options)


def check(case: Case) -> None:
    """Run a case through the program; also flatten what comes out once more.

    It must mean the same where a name in each layer comes twice, and the order of members matters.
    """
    replayed = [*([*TWICE, *members] for members in case.layers), [whiteout("~")]]
    if isinstance(case.expected, str):
        from dimgx.errors import ImageError

        with pytest.raises(ImageError, match=case.expected or None) as caught:
            flatten_members(case.layers)
        assert "\n" not in str(caught.value)
        with pytest.raises(ImageError, match=case.expected or None):
            flatten_members(replayed)
        return
    tar = flatten_members(case.layers)
    assert list_tar(tar) == case.expected
    assert flatten_layers([tar]) == tar, "flattening the flattened changes it"
    assert flatten_members(replayed) == tar, "where a name comes twice it is not the same"


def check_model(case: Case) -> None:
    """See that the model agrees with what was written by hand."""
    if not case.in_model:
        return
    if isinstance(case.expected, str):
        with pytest.raises(model.Malformed):
            model.expected_listing(case.layers)
    else:
        assert model.expected_listing(case.layers) == case.expected
