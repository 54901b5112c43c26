"""Layers that come over a network all at once, for processes that decode them while they come.

Merging needs the beginnings of all layers before it can go on with any, so no layer waits for
another to be whole, as far as so many connections are decent. What has come stays in memory until
the end: who finds out that the layers have to be read again need not fetch them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dimgx.errors import ImageError
from dimgx.readers.coming import AGAIN_S, ComingBlob
from dimgx.readers.growing import OutOfOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from dimgx.image import Layer
    from dimgx.spool import SpoolSpace
    from dimgx.workers import Workers

MOST = 6
"""Layers that are fetched at once, as by podman and skopeo."""
SMALL = 1 << 20
"""The most bytes of a blob that takes hardly longer to come than to be asked for."""


class FetchAll:
    """Blobs that are fetched into `space`. A context manager, which ends what is still coming."""

    def __init__(self, space: SpoolSpace, check: Callable[[], None]) -> None:
        """`check` is called now and then, by any thread; what it raises ends a fetch."""
        self.space, self._check = space, check
        self._layers: Sequence[Layer] = ()
        self._blobs: dict[Layer, ComingBlob] = {}
        self._pool: Workers | None = None
        self._fetches: list[Future[None]] = []

    @property
    def size(self) -> int:
        """Bytes that have come of all."""
        return sum(blob.come for blob in self._blobs.values())

    def share(self, layers: Sequence[Layer]) -> list[Layer]:
        """Give layers, all different, as processes forked off before `begin` can read each once.

        Raises: OSError where the system has no such memory, or too many files are open.
        """
        self._layers = layers
        for layer in layers:
            spool = self.space.open(layer.blob.size or 0)
            self._blobs[layer] = ComingBlob(layer, spool, self._check)
        return [layer._replace(blob=blob.share()) for layer, blob in self._blobs.items()]

    def begin(self) -> None:
        """Begin to fetch."""
        from dimgx.workers import Workers

        self._pool = Workers(MOST, "dimgx fetch")
        for blob in _in_turn(self._blobs.values()):
            self._fetches.append(self._pool.submit(blob.fetch))
        self._pool.finish()

    def has_begun(self, layer: Layer) -> bool:
        """Tell whether bytes of a layer are here."""
        return self._blobs[layer].has_begun

    def check(self) -> None:
        """See that all comes, and into memory.

        Raises: what `check` raises, and what fetching a blob has raised; OutOfOrder where what came
            is where other processes cannot read it.
        """
        self._check()
        for layer, blob in self._blobs.items():
            if isinstance(blob.error, ImageError):
                raise ImageError(f"{layer.name_among(self._layers)}: {blob.error}") from blob.error
            if blob.error is not None:
                raise blob.error
            if blob.has_moved:
                raise OutOfOrder

    def replace(self, layers: Sequence[Layer]) -> list[Layer]:
        """Give `layers` with the blobs that are here, or on their way."""
        return [
            layer._replace(blob=self._blobs[layer]) if layer in self._blobs else layer
            for layer in layers
        ]

    def close(self) -> None:
        """End what is still coming, and let go of what came."""
        if self._pool is not None:
            from concurrent.futures import wait

            self._pool.cancel()
            # Again and again: a fetch that is between two waits is not woken from the second.
            while not all(fetch.done() for fetch in self._fetches):
                for blob in self._blobs.values():
                    blob.stop()
                wait(self._fetches, AGAIN_S)
            self._pool.close()
        for blob in self._blobs.values():
            blob.close()
        self._blobs = {}

    def __enter__(self) -> FetchAll:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _in_turn(blobs: Iterable[ComingBlob]) -> list[ComingBlob]:
    """Give blobs in the order in which they are to be fetched.

    What takes longest comes first, as it would be fetched alone at the end; but when that is under
    way come the small ones, which would keep merging from beginning.
    """
    falling = sorted(blobs, key=lambda blob: -(blob.size or 0))
    large = [blob for blob in falling if (blob.size or 0) > SMALL]
    return large[: MOST // 2] + falling[len(large) :] + large[MOST // 2 :]
