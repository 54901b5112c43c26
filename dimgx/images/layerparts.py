"""Layers on their way into an image: each is a part that writes its stored bytes and tells of them.

1. What a layer is called by (diff_id, digest, size) is known when it has been written, no sooner.
   Every digest that is to be checked has been checked then.
2. A part that is repeatable may be written twice for little: nothing need be kept of the first
   time. Others come over a network, or cost their compression.
3. A kept layer's bytes go out as they are where their compression is among the allowed ones; else
   they are decoded, and coded anew.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dimgx.codec import HEAD, read_head, sniff
from dimgx.decode import iter_decoded
from dimgx.digest import Digest, Tally, iter_verified
from dimgx.encode import encoding
from dimgx.errors import ImageError
from dimgx.extent import Extent
from dimgx.image import closing_chunks, is_assembled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator

    from dimgx.codec import Coding, Compression
    from dimgx.extent import Write
    from dimgx.extractor import FlatTar
    from dimgx.image import Layer
    from dimgx.merging.figures import TarFigures
    from dimgx.recipe import Verify


class StoredLayer(NamedTuple):
    """A layer as it lies in an image."""

    diff_id: Digest
    """Of its plain tar."""
    digest: Digest
    """Of the bytes as they are stored."""
    size: int
    """Of those, in bytes."""
    compression: Compression | None
    is_made: bool = False
    """Its bytes were put together here, and not copied from the source."""


class Part(Protocol):
    """A layer that can be written."""

    @property
    def key(self) -> Hashable:
        """What two parts of the same bytes have in common; None where nothing is known."""

    @property
    def is_repeatable(self) -> bool:
        """Writing it again costs no more than reading its bytes (rule 2)."""

    def emit(self, write: Write) -> StoredLayer:
        """Write its stored bytes by calls of `write`, and tell of them.

        Raises: ImageError where a digest does not match; Cancelled; what `write` raises.
        """


def key_of(layer: Layer) -> Hashable:
    """Give the key of a layer that is kept: with another diff_id a blob has to be checked again."""
    digests = layer.digest, layer.diff_id
    return digests if any(digests) else None


def _write_coded(produce: Callable[[Write], object], coding: Coding, write: Write) -> StoredLayer:
    """Write a tar as `coding` says; `produce` gives its bytes."""
    stored = Tally(write)
    if coding.compression is None:
        produce(stored.write)
        return StoredLayer(stored.digest, stored.digest, stored.size, None, is_made=True)
    with encoding(stored.write, coding) as encode:
        plain = Tally(encode)
        produce(plain.write)
    return StoredLayer(plain.digest, stored.digest, stored.size, coding.compression, is_made=True)


class FlatPart:
    """A flat tar as a layer."""

    def __init__(
        self,
        flat: FlatTar,
        coding: Coding,
        key: Hashable,
        *,
        is_repeatable: bool,
        tar: TarFigures | None,
    ) -> None:
        """`flat` must stay open as long as it may be repeated. `tar` is told of its bytes, once."""
        self._flat, self._coding, self._tar = flat, coding, tar
        self._stored: StoredLayer | None = None
        self.key = key
        # A plain tar is put together from the layers again.
        self.is_repeatable = is_repeatable and coding.compression is None

    def emit(self, write: Write) -> StoredLayer:
        """Write it."""
        if self._stored is not None and self.is_repeatable:
            self._flat.emit(write)
            return self._stored
        stored = _write_coded(self._produce, self._coding, write)
        self._flat.verify()
        self._stored = stored
        return stored

    def _produce(self, write: Write) -> None:
        self._flat.emit(write if self._tar is None else self._tar.passing(write))


class KeptPart:
    """A layer of the source, kept (rule 3)."""

    def __init__(
        self,
        layer: Layer,
        what: str,
        *,
        allowed: Collection[Compression | None],
        coding: Coding,
        verify: Verify,
        tick: Callable[[int], None],
    ) -> None:
        """`what` names it in errors; `coding` is for what cannot stay; `tick` is told of bytes."""
        self._layer, self._what = layer, what
        self._allowed, self._coding = allowed, coding
        self._verify, self._tick = verify, tick

    @property
    def key(self) -> Hashable:
        """Its digests."""
        return key_of(self._layer)

    @property
    def is_repeatable(self) -> bool:
        """It lies on a disk as it is to be stored, in one piece or many."""
        blob = self._layer.blob
        if isinstance(blob, Extent):
            return sniff(blob.read(0, HEAD)) in self._allowed
        return is_assembled(blob) and None in self._allowed

    def emit(self, write: Write) -> StoredLayer:
        """Write it."""
        try:
            with closing_chunks(self._layer.blob.iter_chunks()) as blob:
                return self._emit(self._checked(blob), write)
        except ImageError as exc:
            raise ImageError(f"{self._what}: {exc}") from exc

    def _checked(self, blob: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        digest = None if self._verify == "none" else self._layer.digest
        for chunk in iter_verified(blob, digest, self._layer.size, "its blob"):
            self._tick(len(chunk))
            yield chunk

    def _emit(self, chunks: Iterator[bytes | memoryview], write: Write) -> StoredLayer:
        head = read_head(chunks)
        compression = sniff(head)
        chunks = chain((head,), chunks)
        if compression in self._allowed:
            return self._copy(chunks, compression, write)
        return self._convert(chunks, compression, write)

    def _copy(
        self, chunks: Iterator[bytes | memoryview], compression: Compression | None, write: Write
    ) -> StoredLayer:
        layer = self._layer
        # Each byte is hashed once: a blob whose sha256 is stated is checked on its way in.
        stated = layer.digest if layer.digest and layer.digest.algorithm == "sha256" else None
        tally = Tally(write, is_hashed=stated is None)

        def passed() -> Iterator[bytes | memoryview]:
            for chunk in chunks:
                tally.write(chunk)
                yield chunk

        diff_id = layer.diff_id
        is_wanted = self._verify == "all" or (self._verify == "once" and layer.digest is None)
        if compression is not None and (diff_id is None or is_wanted):
            plain = Tally(len)  # it goes nowhere
            for piece in self._decoded(passed(), compression):
                plain.write(piece)
            self._check_tar(plain.digest)
            diff_id = diff_id or plain.digest
        else:
            for _ in self._decoded(passed(), None) if is_wanted else passed():
                pass
        found = stated or tally.digest
        if compression is None:
            # Of a plain tar both are of the same bytes, so that this costs nothing.
            self._check_tar(found)
            diff_id = diff_id or found
        assert diff_id is not None
        return StoredLayer(diff_id, layer.digest or found, tally.size, compression)

    def _convert(
        self, chunks: Iterator[bytes | memoryview], compression: Compression | None, write: Write
    ) -> StoredLayer:
        def produce(write: Write) -> None:
            for piece in self._decoded(chunks, compression):
                write(piece)

        stored = _write_coded(produce, self._coding, write)
        self._check_tar(stored.diff_id)
        return stored._replace(diff_id=self._layer.diff_id or stored.diff_id)

    def _decoded(
        self, chunks: Iterator[bytes | memoryview], compression: Compression | None
    ) -> Iterator[bytes | memoryview]:
        """Give the tar. Where its digest is none that is counted anyway, it is checked here."""
        tar, stated = iter_decoded(chunks, compression), self._layer.diff_id
        if self._verify == "none" or stated is None or stated.algorithm == "sha256":
            return tar
        return iter_verified(tar, stated, None, "its tar")

    def _check_tar(self, found: Digest) -> None:
        stated = self._layer.diff_id
        if self._verify == "none" or stated is None or stated.algorithm != found.algorithm:
            return
        if stated != found:
            raise ImageError(f"its tar: digest is {found}, not {stated}: pull or copy it again")
