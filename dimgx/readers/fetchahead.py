"""Blobs that come over a network and are wanted one after the other, fetched some at a time.

1. The blob that is wanted now comes straight from the network, unless it was begun before. The next
   `AHEAD` of those that follow are fetched into the spool meanwhile, as far as memory allows: what
   could be copied straight to its target is not worth a temporary file.
2. What has come of a blob can be read at once. Its place in the spool is let go when it was read to
   the end; who reads it again fetches it again.
3. Nothing is checked here but that no blob gets longer than is stated: that is its reader's
   business, and so is the error, which is told when it is that blob's turn.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dimgx.digest import iter_verified
from dimgx.errors import Cancelled
from dimgx.image import is_fetched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dimgx.image import Layer
    from dimgx.spool import SpoolSpace

AHEAD = 3
"""Blobs that are fetched beside the one that is wanted."""
_PIECE = 1 << 20
_AGAIN_S = 0.1


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
        self._coming = {other: one for other, one in self._coming.items() if not one.is_spent}
        while self._waiting and len(self._coming.keys() - {layer}) < AHEAD:
            held = sum(other.blob.size or 0 for other in self._coming)
            if held + (self._waiting[0].blob.size or 0) > self._memory:
                break
            other = self._waiting[0]
            self._coming[other] = _Coming(other, self._space, self._check)
            try:
                self._coming[other].begin()
            except RuntimeError:  # no more threads may be started
                self._coming.pop(other).close()
                break
            self._waiting.pop(0)
        return layer if coming is None else layer._replace(blob=coming)

    def close(self) -> None:
        """End what is still coming, and wait until it has."""
        for coming in self._coming.values():
            coming.stop()
        for coming in self._coming.values():
            coming.close()

    def __enter__(self) -> FetchAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Coming:
    """A blob on its way into a spool."""

    def __init__(self, layer: Layer, space: SpoolSpace, check: Callable[[], None]) -> None:
        assert is_fetched(layer.blob)
        self._blob, self._stated, self._check = layer.blob, layer.size, check
        self._spool = space.open(layer.blob.size or 0)
        # Guards the spool, which may move from memory to disk, and what follows.
        self._changed = threading.Condition()
        self._is_whole = False
        self._error: BaseException | None = None
        self._is_stopped = False
        self.is_spent = False
        """It was read to the end, and is no longer here."""
        self._thread = threading.Thread(target=self._fetch, name="dimgx fetch", daemon=True)

    def begin(self) -> None:
        """Begin to fetch."""
        self._thread.start()

    @property
    def size(self) -> int | None:
        """Bytes, as the manifest states them."""
        return self._blob.size

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in order, as they come; each piece is good until the next.

        Raises: what fetching them raises.
        """
        if self.is_spent:
            yield from self._blob.iter_chunks()
            return
        buffer = memoryview(bytearray(_PIECE))
        at = 0
        while count := self._read_into(buffer, at):
            at += count
            yield buffer[:count]
        self.is_spent = True
        self._spool.close()

    def stop(self) -> None:
        """Let the fetch end soon."""
        self._is_stopped = True
        self._blob.abort((self._thread,))

    def close(self) -> None:
        """Wait until the fetch has ended, and let go of what came."""
        while self._thread.is_alive():
            # Again and again: a fetch that is between two waits is not woken from the second.
            self.stop()
            self._thread.join(_AGAIN_S)
        self._spool.close()

    def _read_into(self, buffer: memoryview, at: int) -> int:
        """Wait for bytes from `at` on, and give how many were put into `buffer`; 0 at the end."""
        with self._changed:
            while self._spool.size <= at and not self._is_whole:
                if self._error is not None:
                    raise self._error
                self._changed.wait(_AGAIN_S)
                self._check()
            return self._spool.finish().read_into(buffer, at) if at < self._spool.size else 0

    def _fetch(self) -> None:
        """Fetch it all. Runs in a thread of its own."""
        try:
            with ExitStack() as stack:
                chunks = self._blob.iter_chunks()
                # Not left to the collector: it holds a connection.
                stack.callback(getattr(chunks, "close", lambda: None))
                for chunk in iter_verified(chunks, None, self._stated, "its blob"):
                    self._check()
                    if self._is_stopped:
                        raise Cancelled("cancelled")
                    with self._changed:
                        self._spool.write(chunk)
                        self._changed.notify()
        except BaseException as exc:
            self._end(exc)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._error, self._is_whole = error, error is None
            self._changed.notify()
