"""Blobs that come over a network and are wanted one after the other, fetched some at a time.

1. The blob that is wanted now comes straight from the network, unless it was begun before. The next
   `AHEAD` of those that follow are fetched into the spool meanwhile, as far as memory allows: what
   could be copied straight to its target is not worth a temporary file.
2. What goes wrong is told when it is that blob's turn.
"""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from dimgx.image import is_fetched
from dimgx.readers.coming import AGAIN_S, ComingBlob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dimgx.image import Layer
    from dimgx.spool import SpoolSpace

AHEAD = 3
"""Blobs that are fetched beside the one that is wanted."""


class _Coming(NamedTuple):
    blob: ComingBlob
    thread: Thread


class FetchAhead:
    """Layers whose blobs are fetched ahead. A context manager, which ends what is still coming.

    At most what is left of `space` at the beginning is used. `check` is called now and then, by any
    thread; what it raises ends the fetch.
    """

    def __init__(
        self, layers: Iterable[Layer], space: SpoolSpace, check: Callable[[], None]
    ) -> None:
        """`layers` are those that will be wanted, in this order."""
        self._waiting = [layer for layer in dict.fromkeys(layers) if is_fetched(layer.blob)]
        self._space, self._check = space, check
        self._memory = space.left()
        self._coming: dict[Layer, _Coming] = {}

    def take(self, layer: Layer) -> Layer:
        """Give a layer that is wanted now, with a blob that can be read while it comes."""
        coming = self._coming.get(layer)
        if layer in self._waiting:
            self._waiting.remove(layer)
        self._coming = {other: one for other, one in self._coming.items() if not one.blob.is_spent}
        while self._waiting and len(self._coming.keys() - {layer}) < AHEAD:
            held = sum(other.blob.size or 0 for other in self._coming)
            if held + (self._waiting[0].blob.size or 0) > self._memory:
                break
            other = self._waiting[0]
            blob = ComingBlob(other, self._space.open(other.blob.size or 0), self._check)
            thread = Thread(target=blob.fetch, name="dimgx fetch", daemon=True)
            self._coming[other] = _Coming(blob, thread)
            try:
                thread.start()
            except RuntimeError:  # no more threads may be started
                self._coming.pop(other).blob.close()
                break
            self._waiting.pop(0)
        return layer if coming is None else layer._replace(blob=coming.blob)

    def close(self) -> None:
        """End what is still coming, and wait until it has."""
        for blob, _ in self._coming.values():
            blob.stop()
        for blob, thread in self._coming.values():
            while thread.is_alive():
                # Again and again: a fetch that is between two waits is not woken from the second.
                blob.stop()
                thread.join(AGAIN_S)
            blob.close()

    def __enter__(self) -> FetchAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
