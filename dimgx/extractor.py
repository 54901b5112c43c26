"""The extractor: an image's layers in, one flat tar out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, NamedTuple

from dimgx.codec import HEAD, sniff
from dimgx.errors import ImageError, UsageError
from dimgx.extent import Extent, Write
from dimgx.image import Layer, is_assembled, is_fetched
from dimgx.layers.tarfields import FILE, LINK, TYPES, EntryType, Header, show
from dimgx.merging.emit import Emitter
from dimgx.merging.hardlinks import plan_tree
from dimgx.merging.merge import merge_layers
from dimgx.readers.forked import Forked, held_signals
from dimgx.readers.reading import PlainLayer, Reading
from dimgx.recipe import Progress, Recipe
from dimgx.spool import SpoolSpace
from dimgx.system import can_fork, usable_cpus

if TYPE_CHECKING:
    from dimgx.image import Blob
    from dimgx.merging.changeset import Changeset
    from dimgx.merging.content import Content
    from dimgx.merging.figures import LayerFigures
    from dimgx.readers.fetchall import FetchAll
    from dimgx.readers.forked import Advance
    from dimgx.readers.streaming import Flow


class Entry(NamedTuple):
    """An entry of the merged tree."""

    path: bytes
    type: EntryType
    mode: int
    """The low 12 bits."""
    uid: int
    gid: int
    mtime: int
    """Seconds since 1970, rounded down."""
    size: int
    """Bytes of a file's content."""
    linkname: bytes
    """A symlink's target; for a hard link the path of the entry that has the content."""
    xattrs: dict[bytes, bytes]
    devmajor: int
    devminor: int


HALVED = 64 << 20
"""The fewest bytes of a tar of which two processes write a half each."""
STREAMED = 24 << 20
"""The fewest bytes of compressed layers that are worth merging while they are decoded."""


def open_flat(layers: Sequence[Layer], recipe: Recipe, below: Sequence[Layer] = ()) -> FlatTar:
    """Read `layers`, lower to upper, and decide what their flat tar is. Nothing is written yet.

    With layers `below`, the tar is one layer that does to what they make what `layers` do.
    Memory: decoded layers up to `recipe.memory`, and some 400 bytes for each member.

    Raises: ImageError for a layer that is damaged or malformed, and where what is wanted is not in
        the image; SourceError where there is no room for it; UsageError for path rules and names
        that make no sense; Cancelled.
    """
    shape = _shape_of(recipe, len(below))
    with ExitStack() as stack:
        space = stack.enter_context(SpoolSpace(recipe.memory, recipe.tmpdirs))
        layers = (*below, *layers)
        reading = Reading(layers, recipe, space)
        stack.callback(reading.close)
        plain = reading.read_all()
        recipe.mark("read")
        indexes = [layer.tree for layer in plain]
        merged, left_out = merge_layers(indexes), None
        if shape is not None:
            left_out = shape.change(merged)
            plain = [_store(shape, space), *plain]
        is_root_changed = below and any(index.root is not None for index in indexes[len(below) :])
        emitter = Emitter(
            plan_tree(merged),
            [layer.tree for layer in plain],
            [layer.tar for layer in plain],
            root_entry=recipe.root_entry or bool(is_root_changed),
            clamp_mtime_s=recipe.clamp_mtime,
        )
        warnings: tuple[str, ...] = ()
        if left_out is not None:
            warnings = left_out.find_warnings(emitter.entries.read_linkname)
        used = emitter.find_layers_used()
        kept = {plain[i].spool for i in used}
        for layer in plain:
            if layer.spool is not None and layer.spool not in kept:
                layer.spool.close()
        recipe.mark("plan")
        copied = {i for i, layer in enumerate(plain) if layer.spool is not None}
        return FlatTar(emitter, reading, recipe, stack.pop_all(), warnings, len(below), copied)


def open_flow(
    layers: Sequence[Layer], recipe: Recipe, fetch_all: FetchAll | None = None
) -> Flow | None:
    """Give the flat tar of `layers`, lower to upper, to be merged while they are decoded.

    None where that does not pay or cannot be: where layers are small or lie plain, or something
    else than their whole tree is wanted, or the system or the memory does not allow it. With
    `fetch_all` they come over a network; it has begun to fetch them then.
    """
    sizes = [layer.weight or 0 for layer in layers]
    processes = recipe.worker_count
    if (
        # Two processes where only one CPU is wanted; where there is but one, they take turns.
        (processes == 1 and usable_cpus() > 1)
        or sum(sizes) < STREAMED
        or len(set(layers)) < len(layers)
        or recipe.changes_content
        or recipe.root_entry
        or not all(_is_streamed(layer.blob) for layer in layers)
        or not can_fork()
    ):
        return None
    from dimgx.readers.streaming import Flow

    space = SpoolSpace(recipe.memory, recipe.tmpdirs)
    memory = space.left() - (sum(sizes) if fetch_all else 0)
    here = Reading(layers, recipe, space)

    decoded = 0

    def tick(size: int) -> None:
        nonlocal decoded
        decoded += size
        # What comes over a network counts by halves: as it comes, and as it is decoded.
        here.tick((fetch_all.size + decoded) // 2 - here.done if fetch_all else size)

    def check() -> None:
        tick(0)
        if fetch_all:
            fetch_all.check()

    try:
        shared = fetch_all.share(layers) if fetch_all else layers
        # Its callbacks are for this process alone.
        reading = Reading(shared, recipe._replace(progress=None, cancel=None), space)
        flow = Flow(
            sizes,
            lambda number, room: reading.iter_decoded(shared[number], room),
            lambda: reading.done,
            processes=processes,
            memory=memory,
            clamp_mtime_s=recipe.clamp_mtime,
            tick=tick,
            check=check,
            has_begun=lambda number: not fetch_all or fetch_all.has_begun(layers[number]),
        )
    except (OSError, ValueError):
        if fetch_all is not None:
            fetch_all.close()
        return None
    if fetch_all is not None:
        fetch_all.begin()
    return flow


def _is_streamed(blob: Blob) -> bool:
    """Tell whether a layer is worth decoding by pieces, as far as can be told without fetching."""
    if isinstance(blob, Extent):
        return sniff(blob.read(0, HEAD)) is not None
    return is_fetched(blob) or is_assembled(blob)


def _shape_of(recipe: Recipe, below_count: int) -> Changeset | Content | None:
    """Give what changes the merged tree; None for nothing."""
    if below_count:
        if recipe.changes_content:
            raise UsageError(
                "path rules and other names go with a whole tree, not with some of its layers"
            )
        from dimgx.merging.changeset import Changeset

        return Changeset(below_count)
    if not recipe.changes_content:
        return None
    from dimgx.merging.content import Content

    return Content(recipe.paths, recipe.strip_components, recipe.prefix)


def _store(shape: Changeset | Content, space: SpoolSpace) -> PlainLayer:
    """Give what a shape has added as a layer."""
    spool = space.open()
    spool.write(shape.added_tar)
    return PlainLayer(spool.finish(), shape.added, spool)


def _checked(pieces: Iterator[bytes], check: Callable[[], object]) -> Iterator[bytes]:
    for piece in pieces:
        check()
        yield piece


def _entry_of(header: Header) -> Entry:
    return Entry(
        path=header.name.removesuffix(b"/"),
        type=TYPES[header.kind - FILE],
        mode=header.mode,
        uid=header.uid,
        gid=header.gid,
        mtime=header.mtime,
        size=header.size,
        linkname=header.linkname,
        xattrs=header.xattrs,
        devmajor=header.devmajor,
        devminor=header.devminor,
    )


class FlatTar:
    """The flat tar of some layers, planned and ready to be written. A context manager."""

    def __init__(
        self,
        emitter: Emitter,
        reading: Reading,
        recipe: Recipe,
        resources: ExitStack,
        warnings: tuple[str, ...],
        below_count: int,
        copied: Set[int],
    ) -> None:
        """`copied` are the layers that are not read from where they lay any more."""
        self._emitter, self._reading, self._recipe = emitter, reading, recipe
        self._resources, self._below_count, self._copied = resources, below_count, copied
        self.warnings = warnings
        """What was odd but usable, one sentence each."""

    @property
    def length(self) -> int:
        """The tar's length in bytes."""
        return self._emitter.measure()

    def emit(self, write: Write) -> None:
        """Write the tar by calls of `write`, whose argument is good until it returns.

        Raises: ImageError where a layer's bytes are no longer there; Cancelled; what `write`
            raises.
        """
        self._emitter.emit(self._watched(write))

    def _watched(self, write: Write, pace: int = 1) -> Write:
        """Give `write` with a look at who cancels, and who is told of progress.

        `pace` is how many bytes are done for each that passes here.
        """
        check_cancelled, progress = self._recipe.check_cancelled, self._recipe.progress
        done = 0
        total = self._emitter.estimate() if progress else 0

        def watched(data: bytes | memoryview) -> None:
            nonlocal done
            check_cancelled()
            write(data)
            done += pace * len(data)
            if progress is not None:
                progress(Progress("write", min(done, total), total))

        return watched

    def emit_halves(self, open_section: Callable[[int], Write]) -> bool:
        """Write both halves of the tar at once, each by calls of what `open_section(offset)` gives.

        The second is written by a process forked off. False, and nothing is written, where there
        can be none, or it does not pay.

        Raises: as `emit`.
        """
        if self._recipe.worker_count < 2 or not can_fork():
            return False
        middle = self._emitter.halve(HALVED)
        if middle is None:
            return False
        number, offset = middle

        def write_second(tick: Advance) -> None:
            write = open_section(offset)

            def told(data: bytes | memoryview) -> None:
                write(data)
                tick(len(data))

            self._emitter.emit(told, first=number)

        with ExitStack() as stack:
            try:
                with held_signals():
                    forked = Forked(write_second, ())
                    stack.enter_context(closing(forked))
            except OSError:
                return False
            self._emitter.emit(self._watched(open_section(0), pace=2), end=number)
            # What hinders it is told here.
            if not forked.has_worked(lambda _: self._recipe.check_cancelled()):
                self._emitter.emit(self._watched(open_section(offset)), first=number)
        return True

    def verify(self) -> None:
        """Wait until the digests of all layers are checked.

        Raises: ImageError where one does not match; Cancelled.
        """
        self._reading.wait_for_checks()

    def count_layers(self) -> list[tuple[Layer, LayerFigures | None]]:
        """Give the layers, lower to upper, and what each gave to the tar; None if it lies below."""
        layers = self._reading.layers
        # What is in no layer counts as one below all.
        figures = self._emitter.count_layers()[-len(layers) :] if layers else []
        upper = (None if i < self._below_count else one for i, one in enumerate(figures))
        return list(zip(layers, upper, strict=True))

    def iter_entries(self) -> Iterator[Entry]:
        """Yield the entries of the merged tree in the order of a walk."""
        return map(_entry_of, self._emitter.entries.iter_headers())

    def find_entry(self, path: bytes) -> Entry | None:
        """Give the entry at `path`, of whatever type."""
        entries = self._emitter.entries
        found = entries.find(path) or entries.find(path, is_directory=True)
        return _entry_of(found[0]) if found else None

    def open_file(self, path: bytes, check: Callable[[], object]) -> Iterator[bytes]:
        """Give the content of the file `path`, of whatever name a hard-linked file has, in pieces.

        `check` is called after each piece that comes from where the layer lies.

        Raises: ImageError where there is no such file; while reading, what `check` raises.
        """
        entries = self._emitter.entries
        found = entries.find(path)
        if found is not None and found[0].kind == LINK:
            found = entries.find(found[0].linkname)
        if found is None:
            raise ImageError(f"there is no file {show(path)} in the image")
        if found[0].kind != FILE:
            target = found[0].linkname
            what = f"a symlink to {show(target)}" if target else "no regular file"
            raise ImageError(f"{show(path)} is {what} in the image: only files have content")
        header, layer = found
        pieces = map(bytes, entries.iter_content(layer, header))
        return pieces if layer in self._copied else _checked(pieces, check)

    def keep(self, resources: ExitStack) -> None:
        """Close `resources` too when this is closed, after everything that may use them."""
        outer = ExitStack()
        outer.push(resources)
        outer.push(self._resources)
        self._resources = outer

    def close(self) -> None:
        """Let go of what the layers were decoded to."""
        self._resources.close()

    def __enter__(self) -> FlatTar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
