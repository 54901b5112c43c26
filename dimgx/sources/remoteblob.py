"""A blob at a registry: read while it comes, over as many connections as break on the way.

1. A connection that ends early is followed by one from where it ended. Only an answer 206 that
   begins there counts; a 200 is the whole blob, and is skipped up to there.
2. Nothing is checked here but how the bytes join; size and digest are the reader's business.
3. With a cache a blob that is there is read from there, and one that was fetched is kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from threading import Event, Lock, Thread, current_thread
from typing import TYPE_CHECKING

from dimgx.digest import Digest
from dimgx.errors import Cancelled, ImageError
from dimgx.sources.patience import Transient
from dimgx.sources.registryclient import BadRange, NotThere
from dimgx.sources.transport import iter_body, stated_length

if TYPE_CHECKING:
    from requests import Response

    from dimgx.sources.blobcache import BlobCache
    from dimgx.sources.registryclient import RegistryClient

_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]*/(?:[0-9]+|\*)")


class RemoteBlob:
    """One blob, by its digest; it can be read any number of times, by several at once."""

    def __init__(
        self,
        client: RegistryClient,
        digest: Digest,
        size: int,
        cache: BlobCache | None,
        absence: str,
    ) -> None:
        """`absence` is what it means where the registry does not have it."""
        self._client, self._digest, self._cache = client, digest, cache
        self._absence = absence
        self.size = size
        """Bytes, as the manifest states them."""
        self._lock = Lock()
        self._fetches: set[_Fetch] = set()

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in order, in pieces of at most 1 MiB, as they come.

        Raises: ImageError where it is not there; Denied, TemporaryError; Cancelled after `abort`.
        """
        fetch = _Fetch(self._client, self._digest, self.size)
        with self._lock:
            self._fetches.add(fetch)
        try:
            chunks = fetch.iter_chunks()
            if self._cache is None:
                yield from chunks
            else:
                yield from self._cache.iter_through(self._digest, self.size, chunks, fetch.stopped)
        except NotThere as exc:
            raise ImageError(f"{exc}: {self._absence}") from None
        finally:
            with self._lock:
                self._fetches.discard(fetch)

    def abort(self, threads: Collection[Thread]) -> None:
        """Let those of `threads` that are reading end soon, with Cancelled."""
        with self._lock:
            fetches = [fetch for fetch in self._fetches if fetch.reader in threads]
        for fetch in fetches:
            fetch.abort()


class _Fetch:
    """One pass over a blob."""

    def __init__(self, client: RegistryClient, digest: Digest, size: int) -> None:
        self._client, self._digest, self._size = client, digest, size
        self._response: Response | None = None
        self.reader = current_thread()
        """The thread that reads."""
        self._takes_ranges = True
        """The registry answers a request for the rest with the rest, as far as is known."""
        self.stopped = Event()

    def abort(self) -> None:
        self.stopped.set()
        self._client.wake(self.reader)
        response = self._response
        if response is not None:
            # Wakes a thread that waits for bytes, unless it has ended meanwhile.
            with suppress(OSError, RuntimeError, ValueError):
                response.raw.shutdown()

    def iter_chunks(self) -> Iterator[bytes]:
        patience = self._client.new_patience(self.stopped)
        offset = 0
        while True:
            asked = offset if self._takes_ranges else 0
            try:
                self._response = self._client.get_blob(self._digest, asked, patience)
            except BadRange:
                if not asked:
                    raise
                # It is shorter than stated, or the registry does not do this: the whole will tell.
                self._takes_ranges = False
                continue
            try:
                position = self._begin(self._response, offset)
                for chunk in iter_body(self._response, self._client.host):
                    if self.stopped.is_set():
                        raise Cancelled("cancelled")
                    new = chunk[offset - position :]
                    position += len(chunk)
                    if new:
                        offset += len(new)
                        patience.progress(len(new))
                        yield new
                if offset >= self._size or _states_its_end(self._response, offset):
                    return
                problem = Transient(self._cut(offset))
            except Transient as exc:
                problem = Transient(f"{self._cut(offset)}: {exc}")
            finally:
                self._response.close()
                self._response = None
            if self.stopped.is_set():
                raise Cancelled("cancelled")
            patience.pause(problem)

    def _begin(self, response: Response, offset: int) -> int:
        """Give where in the blob the body begins.

        Raises: Transient where it is neither the whole blob nor what is lacking.
        """
        if response.status_code != 206:
            return 0
        match = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != offset:
            self._takes_ranges = False
            raise Transient(f"{self._client.host} sends another range than was asked for")
        return offset

    def _cut(self, offset: int) -> str:
        return f"{self._client.host}: the blob {self._digest} broke off at byte {offset} of" \
               f" {self._size}"  # fmt: skip


def _states_its_end(response: Response, offset: int) -> bool:
    """Tell whether the whole blob has come by the registry's own word, shorter than stated."""
    return response.status_code == 200 and stated_length(response) == offset
