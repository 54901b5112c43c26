"""From a flat tar to its target: encoded, counted and hashed on the way."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from dimgx.recipe import open_flow_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dimgx.codec import Compression
    from dimgx.extractor import FlatTar
    from dimgx.image import Image
    from dimgx.images.rawlayer import RawLayer
    from dimgx.merging.figures import TarFigures
    from dimgx.readers.streaming import Flow
    from dimgx.recipe import Recipe
    from dimgx.targets import Target
    from dimgx.targets.singlefile import FileTarget


class Counter:
    """What is between an encoder and a target: counts bytes, and hashes them if wanted."""

    def __init__(self, target: Target, is_hashed: bool) -> None:
        import hashlib

        self._target = target
        self._hash = hashlib.sha256(usedforsecurity=False) if is_hashed else None
        self.size = 0
        """Bytes that have passed."""

    def write(self, data: bytes | memoryview) -> None:
        """Pass `data` on."""
        if self._hash is not None:
            self._hash.update(data)
        self._target.write(data)
        self.size += len(data)

    def hexdigest(self) -> str | None:
        """Give the SHA-256 of what has passed, if it was wanted."""
        return None if self._hash is None else self._hash.hexdigest()


def emit(
    flat: FlatTar | Flow | RawLayer,
    write: Callable[[bytes | memoryview], object],
    compression: Compression | None,
    level: int | None,
    threads: int,
    tar: TarFigures | None = None,
    head: bytes = b"",
) -> None:
    """Write a tar by calls of `write`, `head` before it, encoded; `tar` is told of plain bytes.

    Raises: what writing the tar, `write` and the encoder raise.
    """
    encoder = None
    sink = write
    if compression is not None:
        from dimgx.encode import open_encoder

        encoder = open_encoder(write, compression, level, threads)
        sink = encoder.write

    def counted(data: bytes | memoryview) -> None:
        if tar is not None:
            tar.write(data)
        sink(data)

    try:
        if head:
            counted(head)
        flat.emit(sink if tar is None else counted)
        if encoder is not None:
            encoder.finish()
    except BaseException:
        if encoder is not None:
            encoder.abort()
        raise


def write_halves(flat: FlatTar, target: FileTarget, head: bytes) -> int | None:
    """Write a tar, `head` before it, by two processes at once; give its length in bytes.

    None, and nothing is written, where that does not pay or does not go.

    Raises: as `FlatTar.emit`; SourceError.
    """
    if not flat.emit_halves(lambda offset: target.open_section(len(head) + offset)):
        return None
    target.rewrite(head, 0)
    return target.measure()


def stream(
    image: Image,
    target: FileTarget,
    recipe: Recipe,
    coding: tuple[Compression | None, int | None],
    head: bytes,
    *,
    is_hashed: bool,
) -> tuple[Counter, int] | None:
    """Flatten while layers are decoded, into what can be taken back.

    Gives what was counted and the tar's length in bytes; None, and an empty target, where it does
    not pay or does not go.

    Raises: LayerSpecError, SourceError, Cancelled.
    """
    from dimgx.readers.growing import OutOfOrder

    flow = open_flow_of(image, recipe)
    if flow is None:
        return None
    with closing(flow):
        counter = Counter(target, is_hashed)
        try:
            emit(flow, counter.write, *coding, recipe.worker_count, head=head)
        except OutOfOrder:
            target.truncate(0)
            return None
        return counter, flow.length
