"""From a flat tar to its target: encoded, counted and hashed on the way."""

from __future__ import annotations

from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from dimgx.digest import Tally
from dimgx.flattening import open_flow_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

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
    from dimgx.targets.singlefile import FileTarget


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
    target: FileTarget,
    recipe: Recipe,
    coding: Coding,
    head: bytes,
    fetch_all: FetchAll | None,
    *,
    is_hashed: bool,
) -> Result | None:
    """Flatten while layers are decoded, into what can be taken back, `head` before it.

    None, and an empty target, where that does not pay or does not go.

    Raises: LayerSpecError, SourceError, Cancelled.
    """
    from dimgx.readers.growing import OutOfOrder

    flow = open_flow_of(image, recipe, fetch_all)
    if flow is None:
        return None
    with closing(flow):
        tally = Tally(target.write, is_hashed=is_hashed)
        try:
            length = emit(flow, tally.write, coding, head=head)
        except OutOfOrder:
            target.truncate(0)
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
