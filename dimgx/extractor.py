"""The extractor: an image's layers in, one flat tar out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from dimgx.emit import Emitter, Write
from dimgx.errors import Cancelled, ImageError
from dimgx.image import Layer
from dimgx.merge import plan_merge
from dimgx.reading import ExtractOptions, Progress, Reading, has_fetched
from dimgx.spool import SpoolSpace
from dimgx.system import usable_cpus
from dimgx.tarfields import FILE, LINK, show

__all__ = ("Entry", "ExtractOptions", "FlatTar", "Progress", "open_flat")

_MOST_FETCHED = 4
"""Layers that are fetched at once, where the CPUs alone would allow fewer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the merged tree."""

    path: bytes
    type: Literal["file", "link", "symlink", "chardev", "blockdev", "directory", "fifo"]
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


_TYPES: tuple[
    Literal["file", "link", "symlink", "chardev", "blockdev", "directory", "fifo"], ...
] = ("file", "link", "symlink", "chardev", "blockdev", "directory", "fifo")


def open_flat(layers: Sequence[Layer], options: ExtractOptions) -> FlatTar:
    """Read `layers`, lower to upper, and decide what their flat tar is. Nothing is written yet.

    Memory: decoded layers up to `options.memory`, and some 400 bytes for each member.

    Raises: ImageError for a layer that is damaged or malformed; SourceError where there is no
        room for it; Cancelled.
    """
    with ExitStack() as stack:
        space = stack.enter_context(SpoolSpace(options.memory, options.tmpdirs))
        threads = options.threads or usable_cpus()
        if has_fetched(layers):
            threads = max(threads, _MOST_FETCHED)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="dimgx")
        stack.callback(pool.shutdown, cancel_futures=True)
        reading = Reading(layers, options, space, pool)
        stack.callback(reading.stop)
        plain = reading.read_all()
        plan = plan_merge([layer.index for layer in plain])
        emitter = Emitter(
            plan,
            [layer.index for layer in plain],
            [layer.tar for layer in plain],
            root_entry=options.root_entry,
            clamp_mtime_s=options.clamp_mtime_s,
        )
        used = emitter.find_layers_used()
        kept = {id(plain[i].spool) for i in used}
        for layer in plain:
            if layer.spool is not None and id(layer.spool) not in kept:
                layer.spool.close()
        return FlatTar(emitter, reading, options, stack.pop_all())
    raise AssertionError


class FlatTar:
    """The flat tar of some layers, planned and ready to be written. A context manager."""

    warnings: tuple[str, ...] = ()

    def __init__(
        self, emitter: Emitter, reading: Reading, options: ExtractOptions, resources: ExitStack
    ) -> None:
        self._emitter, self._reading, self._options = emitter, reading, options
        self._resources = resources
        self._length: int | None = None

    @property
    def length(self) -> int:
        """The tar's length in bytes."""
        if self._length is None:
            self._length = self._emitter.measure()
        return self._length

    def emit(self, write: Write) -> None:
        """Write the tar by calls of `write`, whose argument is good until it returns.

        Raises: ImageError where a layer's bytes are no longer there; Cancelled; what `write`
            raises.
        """
        cancel, progress = self._options.cancel, self._options.progress
        done = 0
        total = self._emitter.estimate() if progress else 0

        def counted(data: bytes | memoryview) -> None:
            nonlocal done
            if cancel is not None and cancel():
                raise Cancelled("cancelled")
            write(data)
            done += len(data)
            if progress is not None:
                progress(Progress("write", min(done, total), total))

        self._emitter.emit(counted)
        self._length = done

    def verify(self) -> None:
        """Wait until the digests of all layers are checked.

        Raises: ImageError where one does not match; Cancelled.
        """
        self._reading.wait_for_checks()

    def iter_entries(self) -> Iterator[Entry]:
        """Yield the entries of the merged tree in the order of a walk."""
        for name, header, _ in self._emitter.iter_headers():
            yield Entry(
                path=name.removesuffix(b"/"),
                type=_TYPES[header.kind - FILE],
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

    def open_file(self, path: bytes) -> Iterator[bytes]:
        """Give the content of the file `path`, of whatever name a hard-linked file has, in pieces.

        Raises: ImageError where there is no such file.
        """
        found = self._emitter.find(path)
        if found is not None and found[0].kind == LINK:
            found = self._emitter.find(found[0].linkname)
        if found is None or found[0].kind != FILE:
            raise ImageError(f"there is no file {show(path)} in the image")
        header, layer = found
        return map(bytes, self._emitter.iter_content(layer, header))

    def close(self) -> None:
        """Let go of what the layers were decoded to."""
        self._resources.close()

    def __enter__(self) -> FlatTar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
