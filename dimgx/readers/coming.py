"""A blob on its way from a network into a spool, to be read while it comes.

1. What has come can be read at once, by any thread of this process. A spool is let go when it was
   read to the end; who reads the blob again fetches it again.
2. A process that is forked off before the fetch begins can read it too, as long as the spool stays
   in memory: it looks into the same memory, and is told how much is there.
3. Nothing is checked here but that the blob gets neither longer nor shorter than is stated: that is
   its reader's business, and so is the error, which is told to who reads it here.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from dimgx import system
from dimgx.digest import iter_verified
from dimgx.errors import Cancelled
from dimgx.image import closing_chunks, is_fetched

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from dimgx.image import Blob, Layer
    from dimgx.spool import Spool

_PIECE = 1 << 20
AGAIN_S = 0.1
"""How long nobody looks whether to go on."""


class ComingBlob:
    """The blob of a layer, and the spool that it comes into. Somebody else has it fetched."""

    def __init__(self, layer: Layer, spool: Spool, check: Callable[[], None]) -> None:
        """`check` is called now and then, by any thread; what it raises ends the fetch."""
        assert is_fetched(layer.blob)
        self._blob, self._stated, self._check = layer.blob, layer.size, check
        self._spool = spool
        # Guards the spool, which may move from memory to disk, and what follows.
        self._changed = threading.Condition()
        self._is_whole = False
        self.error: BaseException | None = None
        """Why it does not come."""
        self._is_stopped = False
        self._left: set[threading.Thread] = set()
        self._fetching: tuple[threading.Thread, ...] = ()
        self._counter: int | None = None
        self.is_spent = False
        """It was read to the end, and is no longer here."""

    @property
    def size(self) -> int | None:
        """Bytes, as the manifest states them."""
        return self._blob.size

    @property
    def come(self) -> int:
        """Bytes that have come."""
        return self._spool.size

    @property
    def has_begun(self) -> bool:
        """Whether bytes of it are here, or all that there are."""
        return self._spool.size > 0 or self._is_whole

    @property
    def has_moved(self) -> bool:
        """Whether it is no longer where other processes look for it."""
        return not self._spool.is_in_memory

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in order, as they come; each piece is good until the next.

        Raises: what fetching them raises; Cancelled after `abort`.
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

    def abort(self, threads: Collection[threading.Thread]) -> None:
        """Let those of `threads` that are reading end soon, with Cancelled."""
        with self._changed:
            self._left.update(threads)
            self._changed.notify_all()
        self._blob.abort(threads)

    def share(self) -> Blob:
        """Give the blob as one process can read it, once, that is forked off before the fetch.

        To be called once. Raises: OSError where there is no such memory, or too many open files.
        """
        if self.has_moved:
            raise OSError(errno.ENOMEM, "there is no such memory")
        fd = self._spool.finish().fd
        assert self.size is not None
        self._counter = system.open_counter()
        return _SharedBlob(fd, self._counter, self.size)

    def fetch(self) -> None:
        """Fetch it all, in any thread; what goes wrong is told to who reads it."""
        self._fetching = (threading.current_thread(),)
        try:
            with closing_chunks(self._blob.iter_chunks()) as chunks:
                for chunk in iter_verified(chunks, None, self._stated, "its blob"):
                    self._check()
                    if self._is_stopped:
                        raise Cancelled("cancelled")
                    with self._changed:
                        self._spool.write(chunk)
                        if self._counter is not None:
                            system.add_to_counter(self._counter, len(chunk))
                        self._changed.notify_all()
        except BaseException as exc:
            self._end(exc)
        else:
            self._end(None)

    def stop(self) -> None:
        """Let the fetch end soon; to be called again until it has."""
        self._is_stopped = True
        self._blob.abort(self._fetching)

    def close(self) -> None:
        """Let go of what came, when nobody fetches it any more."""
        self._spool.close()
        if self._counter is not None:
            os.close(self._counter)
            self._counter = None

    def _read_into(self, buffer: memoryview, at: int) -> int:
        """Wait for bytes from `at` on, and give how many were put into `buffer`; 0 at the end."""
        with self._changed:
            while self._spool.size <= at and not self._is_whole:
                if self.error is not None:
                    raise self.error
                if threading.current_thread() in self._left:
                    raise Cancelled("cancelled")
                self._changed.wait(AGAIN_S)
                self._check()
            return self._spool.finish().read_into(buffer, at) if at < self._spool.size else 0

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self.error, self._is_whole = error, error is None
            self._changed.notify_all()


class _SharedBlob(NamedTuple):
    """A blob that another process fetches into memory: to be read once, to its end."""

    fd: int
    counter: int
    """Bytes that have come and nobody has asked for."""
    size: int

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in order, as they come; each piece is good until the next."""
        buffer = memoryview(bytearray(min(_PIECE, self.size)))
        at = end = 0
        while at < self.size:
            if at == end:
                end += system.take_from_counter(self.counter)
            count = system.pread_into(self.fd, buffer[: end - at], at)
            at += count
            yield buffer[:count]
