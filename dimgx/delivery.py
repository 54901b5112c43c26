"""From a flat tar to its target: encoded, counted and hashed on the way."""

from __future__ import annotations

from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from dimgx.digest import Tally
from dimgx.flattening import fetch_all_of, open_flow_of
from dimgx.spool import SpoolSpace

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager, ExitStack

    from dimgx.codec import Coding
    from dimgx.extent import Write
    from dimgx.extractor import FlatTar
    from dimgx.image import Image
    from dimgx.images.rawlayer import RawLayer
    from dimgx.merging.figures import TarFigures
    from dimgx.readers.fetchall import FetchAll
    from dimgx.readers.streaming import Flow
    from dimgx.recipe import Recipe
    from dimgx.targets import Target


class Result(NamedTuple):
    """What was written."""

    size: int
    """Bytes written, after compression."""
    length: int
    """Bytes of the tar before compression."""
    sha256: str | None = None
    """Of the bytes written, in hex, where it was asked for."""
    warnings: tuple[str, ...] = ()


def emit(
    flat: FlatTar | Flow | RawLayer,
    write: Write,
    coding: Coding,
    tar: TarFigures | None = None,
    head: bytes = b"",
) -> int:
    """Write a tar by calls of `write`, `head` before it, encoded; `tar` is told of plain bytes.

    Gives how many plain bytes there were.

    Raises: what writing the tar, `write` and the encoder raise.
    """
    encoded: AbstractContextManager[Write] = nullcontext(write)
    if coding.compression is not None:
        from dimgx.encode import encoding

        encoded = encoding(write, coding)
    with encoded as sink:
        plain = Tally(sink if tar is None else tar.passing(sink), is_hashed=False)
        if head:
            plain.write(head)
        flat.emit(plain.write)
    return plain.size


def stream(
    image: Image,
    target: Target,
    recipe: Recipe,
    coding: Coding,
    head: bytes,
    resources: ExitStack,
    *,
    is_hashed: bool,
) -> tuple[Result | None, FetchAll | None]:
    """Flatten into `target` while layers are decoded, `head` before it.

    None, and an empty target, where that does not pay or does not go; what has come over a network
    by then is given, too. A target that shows each byte at once gets them when all are right, so
    what is made meanwhile is held. That does not pay for what takes long to compress: its reader
    would have to wait.

    Raises: LayerSpecError, SourceError, Cancelled; BrokenPipeError.
    """
    from dimgx.targets.singlefile import FileTarget

    write: Write
    undo: Callable[[], None]
    held = None
    if isinstance(target, FileTarget):
        write, undo = target.write, partial(target.truncate, 0)
    elif coding.compression is not None:
        return None, None
    else:
        # One half for layers, as they come, and one for what they make.
        recipe = recipe._replace(memory=SpoolSpace(recipe.memory).left() // 2)
        held = resources.enter_context(SpoolSpace(recipe.memory, recipe.tmpdirs)).open()
        write, undo = held.write, held.close
    fetch_all = fetch_all_of(image, recipe, resources)
    result = _stream(image, write, undo, recipe, coding, head, fetch_all, is_hashed=is_hashed)
    if result is None:
        return None, fetch_all
    image.check_unchanged()
    if held is not None:
        done = 0
        for piece in held.finish().iter_chunks():
            recipe.tell("write", done, result.size)
            target.write(piece)
            done += len(piece)
    return result, fetch_all


def _stream(
    image: Image,
    write: Write,
    undo: Callable[[], None],
    recipe: Recipe,
    coding: Coding,
    head: bytes,
    fetch_all: FetchAll | None,
    *,
    is_hashed: bool,
) -> Result | None:
    """Flatten by calls of `write`, which `undo` takes back where that does not go."""
    from dimgx.readers.growing import OutOfOrder

    flow = open_flow_of(image, recipe, fetch_all)
    if flow is None:
        return None
    with closing(flow):
        tally = Tally(write, is_hashed=is_hashed)
        try:
            length = emit(flow, tally.write, coding, head=head)
        except OutOfOrder:
            undo()
            return None
        return Result(tally.size, length, tally.sha256)


def write_flat(
    flat: FlatTar,
    target: Target,
    coding: Coding,
    head: bytes,
    tar: TarFigures | None,
    *,
    is_hashed: bool,
) -> Result:
    """Write a planned tar, `head` before it; `tar` is told of its bytes.

    Raises: as `emit`; SourceError.
    """
    from dimgx.targets.singlefile import FileTarget

    if (
        coding.compression is None
        and tar is None
        and not is_hashed
        and isinstance(target, FileTarget)
        # By two processes at once, where that goes and pays.
        and flat.emit_halves(lambda offset: target.open_section(len(head) + offset))
    ):
        target.rewrite(head, 0)
        size = target.measure()
        return Result(size, size, None, flat.warnings)
    # The figures of a plain tar have its digest.
    is_hashed = is_hashed or (tar is not None and coding.compression is not None)
    tally = Tally(target.write, is_hashed=is_hashed)
    length = emit(flat, tally.write, coding, tar, head)
    return Result(tally.size, length, tally.sha256, flat.warnings)
