"""Reading layers: each becomes a plain tar behind a file descriptor, walked and checked.

1. A layer that lies plain in an archive stays where it is. Any other is decoded into the spool by
   worker threads, largest first, as many at once as there are CPUs. Layers that come over a network
   are begun at the top, but for very large ones, and some more at once; waiting for them keeps no
   other from being decoded.
2. What is plain or decoded is walked by the caller's thread while the workers decode on: no CPU
   waits for the interpreter's lock with a decoder that could run, and no two walks fight for it.
   Where there is but one CPU to use, decoding and walking take turns. Where all layers are on this
   machine, several processes decode and walk them instead (`walkers`, `spooling`).
3. Digests are computed once for each byte: of compressed bytes by the worker that decodes them, of
   plain layers beside everything else, up to `wait_for_checks()`, by the processes that have walked
   or by threads (`checks`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from itertools import chain, islice
from threading import Semaphore
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from dimgx import system
from dimgx.codec import HEAD, read_head, sniff, window_size
from dimgx.decode import iter_decoded
from dimgx.digest import Digest, iter_verified
from dimgx.errors import Cancelled, ImageError
from dimgx.extent import Extent
from dimgx.image import Layer, closing_chunks, has_fetched, is_fetched
from dimgx.layers.layerindex import LayerIndex
from dimgx.layers.names import check_implied
from dimgx.layers.strangers import refuse_stranger, refuse_windows
from dimgx.layers.tarwalk import walk_layer
from dimgx.readers.checks import Checks
from dimgx.readers.walkers import Job, Walkers
from dimgx.recipe import Recipe
from dimgx.spool import Spool, SpoolSpace

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dimgx.readers.forked import Advance
    from dimgx.workers import Workers

_MOST_FETCHED = 4
"""Layers that are fetched at once, where the CPUs alone would allow fewer."""
_AGAIN_S = 0.1

_T = TypeVar("_T")


class PlainLayer(NamedTuple):
    """A layer as a plain tar, walked."""

    tar: Extent
    tree: LayerIndex
    spool: Spool | None


class Reading:
    """Makes plain, walked tars of the layers, and checks their digests."""

    def __init__(self, layers: Sequence[Layer], recipe: Recipe, space: SpoolSpace) -> None:
        self.layers = layers
        """Those that are read, lower to upper."""
        self._recipe, self._space = recipe, space
        self._pool: Workers | None = None
        self._decoding: dict[Future[Spool], Layer] = {}
        self._distinct = dict.fromkeys(layers)
        sizes = [layer.weight for layer in self._distinct]
        self._total = None if None in sizes else sum(filter(None, sizes))
        self._implied_size = 0
        self.done = 0
        """How many bytes of stored layers have been read."""
        self._stopped = False
        self._cpu_count = recipe.worker_count
        self._cpus = Semaphore(self._cpu_count)
        self._walking = self._cpus if self._cpu_count == 1 else nullcontext()
        self._checks = Checks(self.tick)
        self._walkers = Walkers()

    def close(self) -> None:
        """Make the workers end, and wait until they have."""
        self._stopped = True
        self._walkers.end()
        self._checks.join()
        self._walkers.close()
        self._end_decoding()

    def _end_decoding(self) -> None:
        if self._pool is None:
            return
        from concurrent.futures import wait

        self._pool.cancel()
        # Again and again: a fetch that is between two waits just now is not woken from the second.
        while running := {f: layer for f, layer in self._decoding.items() if not f.done()}:
            for layer in running.values():
                if is_fetched(layer.blob):
                    layer.blob.abort(self._pool.threads)
            wait(running, _AGAIN_S)
        self._pool.close()

    def read_all(self) -> list[PlainLayer]:
        """Read every layer once, however often it stands in the image."""
        ordered = sorted(self._distinct, key=lambda layer: -(layer.weight or 0))
        if has_fetched(ordered):
            ordered = self._order_fetched()
        tars = ((layer, self._find_plain(layer)) for layer in ordered)
        plain = {layer: tar for layer, tar in tars if tar is not None}
        for layer, tar in plain.items():
            self._check_plain(layer, tar)
        jobs = {
            layer: Job(tar.size, partial(self._walk_plain, tar)) for layer, tar in plain.items()
        }
        spooling = None
        others = [layer for layer in ordered if layer not in plain]
        if others and self._cpu_count > 1 and system.can_fork():
            from dimgx.readers.spooling import Spooling

            # What is told here, and asked, is for this process alone.
            recipe = self._recipe._replace(progress=None, cancel=None)
            spooling = Spooling(Reading(self.layers, recipe, self._space), self._space)
            jobs |= spooling.prepare(others, recipe.clamp_mtime)
        # The workers begin after it, since a process with several threads cannot fork.
        processes = self._cpu_count if len(jobs) == len(ordered) else 1
        self._walkers.begin([*jobs.values()], processes, self._checks)
        self._checks.start(processes, self._walkers.checking)
        found = self._walkers.collect(self.tick)
        indexes = {layer: found[job] for layer, job in jobs.items() if job in found}
        ready: dict[Layer, tuple[Extent, Spool | None]] = {
            layer: (tar, None) for layer, tar in plain.items()
        }
        if spooling is not None:
            spools = spooling.take_over(indexes)
            ready |= {layer: (spool.finish(), spool) for layer, spool in spools.items()}
        self._begin_decoding([layer for layer in ordered if layer not in ready])
        walked = {
            layer: self._in_context(layer, partial(self._walk, *tar, indexes.get(layer)))
            for layer, tar in ready.items()
        }
        if self._decoding:
            self._walk_decoded(walked)
            self._end_decoding()  # a process with several threads cannot fork, and may want to
        return [walked[layer] for layer in self.layers]

    def _walk_plain(self, tar: Extent, _tick: Advance) -> LayerIndex:
        return walk_layer(tar.fd, tar.offset, tar.size, clamp_mtime_s=self._recipe.clamp_mtime)

    def _begin_decoding(self, layers: list[Layer]) -> None:
        if not layers:
            return
        # Not at the top: it takes 4 ms to import.
        from dimgx.workers import Workers

        threads = self._cpu_count
        if has_fetched(layers):
            threads = max(threads, _MOST_FETCHED)
        self._pool = pool = Workers(threads)
        for layer in layers:
            future = pool.submit(self._in_context, layer, partial(self._decode, layer))
            self._decoding[future] = layer

    def _walk_decoded(self, walked: dict[Layer, PlainLayer]) -> None:
        """Walk layers as they are decoded, and add them to `walked`."""
        from concurrent.futures import FIRST_COMPLETED, wait

        def finish(future: Future[Spool]) -> None:
            layer, spool = self._decoding[future], future.result()
            walk = partial(self._walk, spool.finish(), spool)
            walked[layer] = self._in_context(layer, walk)

        try:
            left = set(self._decoding)
            while left:
                done, left = wait(left, _AGAIN_S, FIRST_COMPLETED)
                for future in done:
                    finish(future)
                self.tick(0)  # where nothing comes, nobody else asks whether it is to end
        except ImageError:
            # What is refused at once need not wait for what takes long.
            if has_fetched(self._decoding.values()):
                raise
            # Which of several errors is told is not to depend on who was faster.
            for future, layer in self._decoding.items():
                if layer not in walked:
                    finish(future)

    def _order_fetched(self) -> list[Layer]:
        """Give the layers from the top, but first those that all others would wait for.

        Such is a layer with more than half of a CPU's share of the bytes: begun last, it would be
        decoded alone at the end.
        """
        layers = list(reversed(self._distinct))
        limit = sum(layer.blob.size or 0 for layer in layers) / self._cpu_count / 2
        return sorted(layers, key=lambda layer: min(0, limit - (layer.blob.size or 0)))

    def wait_for_checks(self) -> None:
        """Wait until all digests are checked.

        Raises: ImageError where one does not match.
        """
        self._checks.wait()

    def tick(self, size: int) -> None:
        """Count `size` bytes as read; end here if the caller wants it.

        Raises: Cancelled.
        """
        if self._stopped:
            raise Cancelled("cancelled")
        self.done += size
        self._recipe.tell("read", self.done, self._total)

    def _in_context(self, layer: Layer, work: Callable[[], _T]) -> _T:
        """Do something with a layer; an error says with which."""
        try:
            return work()
        except ImageError as exc:
            raise ImageError(f"{layer.name_among(self.layers)}: {exc}") from exc

    def _find_plain(self, layer: Layer) -> Extent | None:
        """Give a layer's tar where it lies plain already."""
        blob = layer.blob
        return blob if isinstance(blob, Extent) and not sniff(blob.read(0, HEAD)) else None

    def _check_plain(self, layer: Layer, tar: Extent) -> None:
        """Have a plain layer's digest checked beside everything else."""
        if layer.size not in (None, tar.size):
            raise ImageError(
                f"{layer.name_among(self.layers)}: its blob has {tar.size} bytes where the manifest"
                f" says {layer.size}: pull or copy it again"
            )
        checks = self._wanted_digests(layer)

        def check(tick: Advance) -> None:
            chunks: Iterator[bytes | memoryview] = _ticking(tar.iter_chunks(), tick)
            for digest, size in checks:
                chunks = iter_verified(chunks, digest, size, "its tar")
            for _chunk in chunks:
                pass

        if checks:
            self._checks.add(lambda tick: self._in_context(layer, partial(check, tick)), tar.size)

    def _wanted_digests(self, layer: Layer) -> list[tuple[Digest, int | None]]:
        """Give the digests that a plain layer is checked against; equal ones only once."""
        verify = self._recipe.verify
        if verify == "none":
            return []
        wanted: dict[Digest, int | None] = {}
        if layer.digest is not None:
            wanted[layer.digest] = layer.size
        if layer.diff_id is not None and (verify == "all" or not wanted):
            wanted.setdefault(layer.diff_id, None)
        return list(wanted.items())

    def _decode(self, layer: Layer) -> Spool:
        """Decode a layer into the spool. Runs in a worker."""
        with self._cpus, closing(self.iter_decoded(layer)) as pieces:
            spool = self._space.open()
            for piece in pieces:
                spool.write(piece)
            return spool

    def iter_decoded(
        self, layer: Layer, room: Callable[[], memoryview] | None = None
    ) -> Generator[bytes | memoryview, None, None]:
        """Yield a layer's tar in pieces, each good until the next; its digests are checked.

        `room` gives memory for a piece, as for `decode.iter_decoded`.

        Raises: ImageError; Cancelled.
        """
        with ExitStack() as stack:
            chunks = stack.enter_context(closing_chunks(layer.blob.iter_chunks()))
            if is_fetched(layer.blob):
                chunks = _outside(self._cpus, chunks)
            verify = self._recipe.verify
            digest = None if verify == "none" else layer.digest
            chunks = iter_verified(_ticking(chunks, self.tick), digest, layer.size, "its blob")
            head = read_head(chunks)
            compression = sniff(head)
            window = window_size(head, compression)
            decoded = iter_decoded(chain((head,), chunks), compression, room)
            if layer.diff_id is not None and (
                verify == "all" or (verify == "once" and digest is None)
            ):
                decoded = iter_verified(decoded, layer.diff_id, None, "its tar")
            self._space.reserve(window)
            stack.callback(self._space.release, window)
            for piece in decoded:
                if self._stopped:
                    raise Cancelled("cancelled")
                yield piece

    def _walk(
        self, tar: Extent, spool: Spool | None, index: LayerIndex | None = None
    ) -> PlainLayer:
        refuse_stranger(tar.read)
        clamp = self._recipe.clamp_mtime
        if index is None:
            with self._walking:
                index = walk_layer(tar.fd, tar.offset, tar.size, clamp_mtime_s=clamp)
        refuse_windows(index.keys)
        # Of all layers together, each of which may be within bounds.
        self._implied_size += sum(map(len, index.implied))
        check_implied(self._implied_size)
        return PlainLayer(tar, index, spool)


def _outside(held: Semaphore, chunks: Iterator[_T]) -> Iterator[_T]:
    """Pass `chunks` on, letting go of `held` while each is waited for."""
    while True:
        held.release()
        try:
            found = list(islice(chunks, 1))
        finally:
            held.acquire()
        if not found:
            return
        yield found[0]


def _ticking(chunks: Iterator[bytes | memoryview], tick: Advance) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        tick(len(chunk))
        yield chunk
