"""What is pushed in one thread, pulled in another: the flat tar as a file that can be read, and
what wants to read a file as one that can be written.

The queue between them holds at most four pieces of 1 MiB. Closing the file early stops the thread.
"""

from __future__ import annotations

import io
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from dimgx.errors import Cancelled, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import ReadableBuffer, WriteableBuffer

    from dimgx.extent import Write

_QUEUED = 4
_PIECE = 1 << 20
_PATIENCE_S = 5
_T = TypeVar("_T")


class _StoppedError(Exception):
    """Nobody reads any more."""


class _Channel:
    """A bounded queue of pieces with an end, or an error, behind the last."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._is_stopped = False
        self._is_ended = False
        self._error: BaseException | None = None

    def write(self, data: bytes | memoryview) -> None:
        for start in range(0, len(data), _PIECE):
            piece = bytes(data[start : start + _PIECE])
            with self._changed:
                self._changed.wait_for(lambda: len(self._pieces) < _QUEUED or self._is_stopped)
                if self._is_stopped:
                    raise _StoppedError
                self._pieces.append(piece)
                self._changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        with self._changed:
            self._is_ended, self._error = True, error
            self._changed.notify_all()

    def read(self) -> bytes:
        """Give the next piece; empty at the end. Raises what ended the writer."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._is_ended or self._is_stopped)
            if self._pieces:
                piece = self._pieces.popleft()
                self._changed.notify_all()
                return piece
            if self._error is not None:
                raise self._error
            return b""

    def fail(self, error: BaseException) -> None:
        """Let the reader meet `error` next, whatever was written before."""
        with self._changed:
            self._pieces.clear()
            self.end(error)

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._pieces.clear()
            self._changed.notify_all()


def _produce(
    channel: _Channel,
    produce: Callable[[Write], object],
    close: Callable[[], object],
) -> None:
    error: BaseException | None = None
    try:
        produce(channel.write)
    except _StoppedError:
        pass
    except BaseException as exc:
        error = exc
    try:
        close()
    except BaseException as exc:
        error = error or exc
    channel.end(error)


def _start(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError as exc:
        raise SourceError(
            "no more threads may be started: raise the limit of the control group (pids.max) or of"
            " the user (`ulimit -u`), or use fewer threads"
        ) from exc


def _join(thread: threading.Thread, timeout_s: float | None = None) -> None:
    with suppress(RuntimeError):  # it was never started
        thread.join(timeout_s)


class _PiecedFile(io.RawIOBase):
    def __init__(self, read: Callable[[], bytes], close: Callable[[], object]) -> None:
        self._read, self._close = read, close
        self._rest = memoryview(b"")
        self._error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if not self._rest and not self.closed:
            if self._error is not None:
                raise self._error
            try:
                self._rest = memoryview(self._read())
            except Exception as exc:
                self._error = exc  # what broke off has no end
                raise
        if self.closed:  # before this was called, or meanwhile: that is no end, either
            raise ValueError("I/O operation on closed file")
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._close()


def open_pulled(
    produce: Callable[[Write], object],
    close: Callable[[], object],
) -> io.BufferedReader:
    """Give what `produce` writes, run in a thread of its own, as a binary file.

    `close` is called there after it. Reading raises what either of them raises.
    """
    channel = _Channel()
    # The thread does not know the file, so one that is dropped is closed.
    thread = threading.Thread(
        target=_produce, args=(channel, produce, close), name="dimgx-stream", daemon=True
    )

    def stop() -> None:
        # When the interpreter ends, the thread stands still, and can no longer be waited for.
        if not sys.is_finalizing():
            channel.stop()
            _join(thread)

    # Not through an iterator: whatever `produce` raises is to come out, StopIteration as well.
    file = open_pieces(channel.read, stop)
    try:
        _start(thread)
    except BaseException:
        close()
        raise
    return file


def open_pieces(read: Callable[[], bytes], close: Callable[[], object]) -> io.BufferedReader:
    """Give what `read` gives, up to an empty piece, as one file; `close` is called with its own."""
    return io.BufferedReader(_PiecedFile(read, close), _PIECE)


class Pushed(io.RawIOBase, Generic[_T]):
    """A binary file whose bytes `consume` gets, run in a thread of its own.

    `finish` ends it and gives what `consume` gave. Without that, closing it makes reading there
    raise `Cancelled`, and calls `stop`. Writing and `finish` raise what ended `consume` early.
    """

    def __init__(
        self,
        consume: Callable[[Iterable[bytes]], _T],
        name: str = "-",
        stop: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        """What people call the place that the bytes go to."""
        self._stop = stop
        self._channel = _Channel()
        self._results: list[_T] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(
            target=self._consume, args=(consume,), name="dimgx-push", daemon=True
        )
        _start(self._thread)

    def _consume(self, consume: Callable[[Iterable[bytes]], _T]) -> None:
        try:
            self._results.append(consume(iter(self._channel.read, b"")))
        except BaseException as exc:
            self._errors.append(exc)
        self._channel.stop()

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Pass `data` on; waits while four pieces are on their way."""
        view = memoryview(data).cast("B")
        try:
            self._channel.write(view)
        except _StoppedError:
            self._thread.join()
            # Without an error it had all that it wanted, and takes no notice of the rest.
            if self._errors:
                raise self._errors[0] from None
        return len(view)

    def finish(self) -> _T:
        """Say that this was all, and give what came of it."""
        self._channel.end(None)
        self._thread.join()
        super().close()
        if self._errors:
            raise self._errors[0]
        return self._results[0]

    def close(self) -> None:
        """Break off, unless it is finished."""
        if not self.closed:
            super().close()
            self._channel.fail(Cancelled("cancelled"))
            self._stop()
            # Whoever waits for an answer, and not for bytes, is not waited for.
            _join(self._thread, _PATIENCE_S)
