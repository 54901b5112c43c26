"""What every source ends in: an `Image` with its layers, base to top.

A source (an archive, a layout directory, an engine, a registry) opens a reference and gives one
`Image`. Nothing after that knows where the image came from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar

from dimgx.errors import ImageError, LayerSpecError, SourceError
from dimgx.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from threading import Thread
    from typing import TypeGuard

    from dimgx.digest import Digest
    from dimgx.oci import Config, HistoryStep, Manifest
    from dimgx.platforms import Platform
    from dimgx.settings import Settings
    from dimgx.spool import SpoolSpace

_T = TypeVar("_T")

SizeKind = Literal["unpacked", "tar", "blob"]
"""What a stated layer size measures: files unpacked (an engine), the plain tar, the stored blob."""


class Blob(Protocol):
    """Stored bytes that can be read from their beginning, any number of times."""

    @property
    def size(self) -> int | None:
        """Stored size in bytes, where it is known before reading."""

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in order, in pieces of at most 1 MiB; each is good until the next."""


@contextmanager
def closing_chunks(chunks: Iterator[_T]) -> Iterator[Iterator[_T]]:
    """Give `chunks` of bytes, and let go of them at the end.

    Not left to the collector: behind them may be a connection, or a program that goes on.
    """
    try:
        yield chunks
    finally:
        getattr(chunks, "close", lambda: None)()


class FetchedBlob(Blob, Protocol):
    """A blob that comes over a network while it is read: who reads it mostly waits."""

    def abort(self, threads: Collection[Thread]) -> None:
        """Let those of `threads` that are reading it end soon, with Cancelled."""


def is_fetched(blob: Blob) -> TypeGuard[FetchedBlob]:
    """Tell whether a blob comes over a network."""
    # isinstance() with a protocol takes 20 us.
    return hasattr(blob, "abort")


def has_fetched(layers: Iterable[Layer]) -> bool:
    """Tell whether any of the layers comes over a network."""
    return any(is_fetched(layer.blob) for layer in layers)


class AssembledBlob(Blob, Protocol):
    """A plain tar that is put together while it is read."""

    @property
    def estimate(self) -> int:
        """About how many bytes that are."""


def is_assembled(blob: Blob) -> TypeGuard[AssembledBlob]:
    """Tell whether a blob is put together while it is read."""
    return hasattr(blob, "estimate")


class UnreadableBlob(NamedTuple):
    """A layer that is not there or that nobody here can read, which matters only to who tries."""

    problem: str
    """One line for people."""
    size: int | None = None

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        """Raise ImageError that says what the problem is."""
        raise ImageError(self.problem)


class Watch(NamedTuple):
    """What an open file looked like when reading began; shows whether it has changed since."""

    fd: int
    what: str
    """What people call the file."""
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, fd: int, what: str) -> Watch:
        """Look at the open file `fd`."""
        status = os.fstat(fd)
        return cls(fd, what, status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """Look again.

        Raises: SourceError where the file has changed.
        """
        if Watch.of(self.fd, self.what) != self:
            raise SourceError(f"{self.what} changed while it was read: run this again")


class Layer(NamedTuple):
    """One changeset of an image, as stored."""

    blob: Blob
    """The stored bytes, compressed or not; for a layer that is not stored, reading raises."""
    digest: Digest | None = None
    """Digest of the stored blob, where a manifest names it."""
    size: int | None = None
    """Size of the stored blob in bytes that the manifest states; checked with `digest`."""
    diff_id: Digest | None = None
    """Digest of the uncompressed tar, where the config states it."""
    media_type: str | None = None
    length: int | None = None
    """Bytes of the uncompressed tar, where the source states them."""

    @property
    def stored_size(self) -> int | None:
        """Bytes of the stored blob, stated or found; None where neither is known yet."""
        return self.blob.size if self.size is None else self.size

    @property
    def weight(self) -> int | None:
        """About how many bytes are read of it; None where nothing tells."""
        return self.blob.estimate if is_assembled(self.blob) else self.stored_size

    def name_among(self, layers: Sequence[Layer]) -> str:
        """Tell for people which of `layers` this is: `layer 3/7 sha256:...`, 1 is the lowest."""
        name = self.digest or self.diff_id
        place = f"layer {layers.index(self) + 1}/{len(layers)}"
        return place if name is None else f"{place} {name}"


Tick = Callable[[int, int | None], None]
"""Is told of bytes done and in all, where that is known."""
Fetch = Callable[["Sequence[Layer]", Tick | None], tuple[Layer, ...]]
"""Gives the layers that are wanted."""


class Image:
    """An image that is open: its layers can be read until `close()`. A context manager."""

    def __init__(
        self,
        reference: str,
        layers: tuple[Layer, ...],
        *,
        id: str,
        config: Config | None = None,
        settings: Settings | None = None,
        is_id_of_config: bool = True,
        tags: tuple[str, ...] = (),
        digest: Digest | None = None,
        manifest: Manifest | None = None,
        platform: Platform | None = None,
        history: tuple[HistoryStep, ...] = (),
        size_kind: SizeKind = "tar",
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.reference = reference
        """The reference it was opened by, as people write it."""
        self.layers = layers
        """Base to top."""
        self.config = config
        self.settings = settings
        """How it is run, where the source tells that but not the config."""
        self.id = id
        """The image ID: `sha256:<hex>` of the config, or the bare v1 ID of one before 1.10."""
        self.is_id_of_config = is_id_of_config
        """Else it is that of a manifest or an index, as an engine on containerd's store has it."""
        self.tags = tags
        self.digest = digest
        """Digest of the image manifest, where there is one."""
        self.manifest = manifest
        """The manifest itself."""
        self.platform = platform
        self.history = history
        """Base to top; empty where the source has none."""
        self.size_kind: SizeKind = size_kind
        self.warnings = warnings
        """What was odd but usable, one sentence each."""
        self.watches: tuple[Watch, ...] = ()
        """The open files that the image is read from, where they could change meanwhile."""
        self.store: str | None = None
        """The directory of an engine's own files that the layers are read from."""
        self.spool: SpoolSpace | None = None
        """Where what had to be kept of the source lies."""
        self.fetch: Fetch | None = None
        """Where the layers are still elsewhere: gives layers with their blobs at hand."""
        self.fetch_whole: Callable[[Tick | None], Image] | None = None
        """Where the config is still elsewhere too: gives the image with all there is of it."""
        self.resources = ExitStack()
        """What is held open for the layers' blobs; more may be pushed."""
        self._shared = Shared(self.resources.close)

    def __repr__(self) -> str:
        return f"Image({self.reference!r}, id={self.id!r}, tags={self.tags!r})"

    def using(self) -> AbstractContextManager[None]:
        """Give a context in which the layers can be read, whoever closes the image meanwhile.

        Raises: UsageError where it is closed.
        """
        return self._shared.using(f"{self.reference:.300}")

    def check_unchanged(self) -> None:
        """Look whether what the image is read from is still as it was; to be called at the end.

        Raises: SourceError where it is not.
        """
        for watch in self.watches:
            watch.check()

    def close(self) -> None:
        """Close what the layers are read from, as soon as nothing opened from it needs that."""
        self._shared.close()

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def names_among(image: Image, images: Iterable[Image]) -> tuple[str | None, Platform | None]:
    """Give what tells an image from others: its reference, and its platform if one has that, too.

    None where there are no others.
    """
    others = [other for other in images if other is not image]
    is_same = any(other.reference == image.reference for other in others)
    return image.reference if others else None, image.platform if is_same else None


@contextmanager
def told_of(reference: str | None, platform: Platform | None) -> Iterator[None]:
    """Have what is wrong with an image, or with what is wanted of it, begin with these.

    Raises: ImageError, LayerSpecError.
    """
    try:
        yield
    except (ImageError, LayerSpecError) as exc:
        text = str(exc)
        names = [f"{name!s:.300}" for name in (reference, platform) if name is not None]
        missing = [name for name in names if name not in text]
        if not missing:
            raise
        kind = LayerSpecError if isinstance(exc, LayerSpecError) else ImageError
        raise kind(f"{' for '.join(missing)}: {text}") from exc
