"""The arrows joined: open an image, look at it, flatten it. The command uses nothing else.

Nothing here prints, exits, reads the environment, or touches signals, umask or logging. What is
odd but usable comes back as data: `Image.warnings`, `Result.warnings`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, Literal

from dimgx.errors import Cancelled, LayerSpecError
from dimgx.inspector import Listing, Row, layers_of, list_rows
from dimgx.inspector import inspect as _inspect
from dimgx.layerspec import select
from dimgx.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from io import BufferedReader

    from dimgx.codec import Compression
    from dimgx.extractor import ExtractOptions, FlatTar, Progress
    from dimgx.image import Image, Layer
    from dimgx.platforms import Platform
    from dimgx.registryoptions import RegistryOptions
    from dimgx.sources.endpoint import EngineOptions
    from dimgx.targets import Target

    Verify = Literal["once", "all", "none"]
    Layers = Sequence[str | Row]

__all__ = (
    "Listing",
    "Result",
    "Row",
    "Tree",
    "flatten",
    "inspect",
    "list_platforms",
    "open_image",
    "open_stream",
    "open_tree",
    "select",
)


@dataclass(frozen=True, slots=True)
class Result:
    """What `flatten` wrote."""

    size: int
    """Bytes written, after compression."""
    length: int
    """Bytes of the tar before compression."""
    sha256: str | None = None
    """Of the bytes written, in hex, where it was asked for."""
    warnings: tuple[str, ...] = ()


def open_image(
    reference: str,
    *,
    platform: str | Platform | None = None,
    verify: Verify = "once",
    stdin: BinaryIO | None = None,
    memory: int | None = None,
    tmpdir: str | Sequence[str] | None = None,
    registry: RegistryOptions | None = None,
    engine: EngineOptions | None = None,
) -> Image:
    """Open the image that `reference` names; close it when done, or use it in a `with`.

    `platform` picks from an index. `stdin` is what the reference `-` reads. What has to be kept (a
    stream, a compressed archive) lies in memory up to `memory` bytes, a quarter of what is free by
    default, and in a temporary file of the first usable `tmpdir` beyond that. `registry` says how
    registries are reached: without it without credentials, proxies and settings files, with
    `RegistryOptions.from_environment(os.environ)` as podman and Docker would. `engine` says which
    Docker Engine or Podman is asked; without it a default socket's.

    Raises: UsageError for a malformed reference or platform; SourceError where there is no such
        file, name or engine; ImageError where it is no image, or a damaged one, or none of this
        platform; TemporaryError where a registry or an engine may have it later.
    """
    from dimgx.platforms import parse_platform
    from dimgx.reference import parse_reference
    from dimgx.sources import open_image as open_source
    from dimgx.spool import SpoolSpace

    if isinstance(platform, str):
        platform = parse_platform(platform)
    parsed = parse_reference(reference)
    with ExitStack() as stack:
        space = stack.enter_context(SpoolSpace(memory, _directories(tmpdir)))
        image = open_source(
            parsed,
            platform=platform,
            verify=verify,
            stdin=stdin,
            spool=space,
            registry=registry,
            engine=engine,
        )
        image.spool = space
        image.resources.push(stack.pop_all())
    return image


def list_platforms(
    reference: str,
    *,
    stdin: BinaryIO | None = None,
    registry: RegistryOptions | None = None,
    engine: EngineOptions | None = None,
    verify: Verify = "once",
    memory: int | None = None,
    tmpdir: str | Sequence[str] | None = None,
) -> list[Platform]:
    """Give the platforms that the image `reference` is there for. Parameters as of `open_image`."""
    from dimgx.reference import parse_reference
    from dimgx.sources import list_platforms as list_source
    from dimgx.spool import SpoolSpace

    parsed = parse_reference(reference)
    with SpoolSpace(memory, _directories(tmpdir)) as space:
        return list_source(
            parsed, verify=verify, stdin=stdin, spool=space, registry=registry, engine=engine
        )


def inspect(image: Image, *, sizes: bool = True, threads: int | None = None) -> Listing:
    """List what `image` is made of, newest first.

    With `sizes`, the layers whose size nothing states are decoded and counted, which costs time;
    without, their size is None.

    Raises: ImageError where a layer that is measured is damaged.
    """
    return _inspect(image, sizes=sizes, threads=_threads(threads))


def flatten(
    image: Image,
    target: str | os.PathLike[str] | BinaryIO,
    *,
    layers: Layers | None = None,
    compression: Compression | None = None,
    level: int | None = None,
    force: bool = False,
    verify: Verify = "once",
    threads: int | None = None,
    memory: int | None = None,
    tmpdir: str | Sequence[str] | None = None,
    root_entry: bool = False,
    clamp_mtime: int | None = None,
    sha256: bool = False,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Result:
    """Write the flattened tar of `image` to `target`, a path or a binary file open for writing.

    A path appears whole and verified, or not at all; `force` lets it replace a file. A binary
    file, a FIFO or a device gets its first byte when all digests have matched. `layers` are layer
    specs or rows, those named later covering those named earlier; without it all layers, base to
    top. `clamp_mtime` is in seconds since 1970. `progress` and `cancel` are called from time to
    time, maybe in other threads; when `cancel` gives true, `Cancelled` is raised.

    Raises: ImageError, SourceError, LayerSpecError, UsageError, Cancelled.
    """
    from dimgx.encode import check_level
    from dimgx.targets.tarfile import open_stream_target, open_target

    check_level(compression, level)
    chosen = _chosen(image, layers)
    options = _options(verify, threads, memory, tmpdir, root_entry, clamp_mtime, progress, cancel)
    with ExitStack() as stack:
        opened = (
            open_target(os.fspath(target), force=force, resources=stack)
            if isinstance(target, (str, os.PathLike))
            else open_stream_target(target)
        )
        stack.callback(opened.abort)
        flat = stack.enter_context(_open_flat(image, chosen, options))
        if not opened.is_atomic:
            flat.verify()
            image.check_unchanged()
        counter = _Counter(opened, sha256)
        _emit(flat, counter.write, compression, level, threads)
        flat.verify()
        image.check_unchanged()
        opened.commit()
        return Result(counter.size, flat.length, counter.hexdigest(), tuple(flat.warnings))


def open_stream(
    image: Image,
    *,
    layers: Layers | None = None,
    compression: Compression | None = None,
    level: int | None = None,
    verify: Verify = "once",
    threads: int | None = None,
    memory: int | None = None,
    tmpdir: str | Sequence[str] | None = None,
    root_entry: bool = False,
    clamp_mtime: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> BufferedReader:
    """Give the flattened tar as a binary file to read from; close it when done, early or not.

    Its first byte comes when all digests have matched. A thread writes at most 4 MiB ahead. The
    parameters are those of `flatten`.

    Raises: what `flatten` raises, some of it while reading.
    """
    from dimgx.encode import check_level
    from dimgx.stream import open_pulled

    check_level(compression, level)
    chosen = _chosen(image, layers)
    options = _options(verify, threads, memory, tmpdir, root_entry, clamp_mtime, progress, cancel)
    flat = _open_flat(image, chosen, options)

    def produce(write: Callable[[bytes | memoryview], object]) -> None:
        flat.verify()
        image.check_unchanged()
        _emit(flat, write, compression, level, threads)
        image.check_unchanged()

    return open_pulled(produce, flat.close)


def open_tree(
    image: Image,
    *,
    layers: Layers | None = None,
    verify: Verify = "once",
    threads: int | None = None,
    memory: int | None = None,
    tmpdir: str | Sequence[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Tree:
    """Open the merged tree: its entries in the order of a walk, and the content of its files.

    All digests have matched when it is there. The parameters are those of `flatten`.
    """
    chosen = _chosen(image, layers)
    options = _options(verify, threads, memory, tmpdir, False, None, progress, cancel)
    flat = _open_flat(image, chosen, options)
    try:
        flat.verify()
    except BaseException:
        flat.close()
        raise
    return Tree(flat)


class _Counter:
    def __init__(self, target: Target, is_hashed: bool) -> None:
        import hashlib

        self._target = target
        self._hash = hashlib.sha256(usedforsecurity=False) if is_hashed else None
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        if self._hash is not None:
            self._hash.update(data)
        self._target.write(data)
        self.size += len(data)

    def hexdigest(self) -> str | None:
        return None if self._hash is None else self._hash.hexdigest()


def _emit(
    flat: FlatTar,
    write: Callable[[bytes | memoryview], object],
    compression: Compression | None,
    level: int | None,
    threads: int | None,
) -> None:
    from dimgx.codec import open_encoder

    encoder = open_encoder(write, compression, level, _threads(threads))
    try:
        flat.emit(encoder.write)
        encoder.finish()
    except BaseException:
        encoder.abort()
        raise


def _options(
    verify: Verify,
    threads: int | None,
    memory: int | None,
    tmpdir: str | Sequence[str] | None,
    root_entry: bool,
    clamp_mtime: int | None,
    progress: Callable[[Progress], None] | None,
    cancel: Callable[[], bool] | None,
) -> ExtractOptions:
    from dimgx.extractor import ExtractOptions

    return ExtractOptions(
        verify=verify,
        threads=threads,
        memory=memory,
        tmpdirs=_directories(tmpdir),
        root_entry=root_entry,
        clamp_mtime_s=clamp_mtime,
        progress=progress,
        cancel=cancel,
    )


def _open_flat(image: Image, layers: Sequence[Layer], options: ExtractOptions) -> FlatTar:
    from dimgx.extractor import Progress, open_flat

    def tick(done: int, total: int | None) -> None:
        if options.cancel is not None and options.cancel():
            raise Cancelled("cancelled")
        if options.progress is not None:
            options.progress(Progress("read", done, total))

    if image.fetch is not None:
        layers = image.fetch(layers, tick)
    if options.memory is not None and image.spool is not None:
        # What was kept of the source is there already.
        options = replace(options, memory=max(0, options.memory - image.spool.used))
    return open_flat(layers, options)


def _chosen(image: Image, layers: Layers | None) -> tuple[Layer, ...]:
    if layers is None:
        return image.layers
    rows = list_rows(image)
    chosen: list[Row] = []
    for item in layers:
        chosen += select(rows, (item,), strict=True).rows if isinstance(item, str) else (item,)
    # Each row once, at its last place, as the command does.
    last = {row.position: row for row in reversed(chosen)}
    found = layers_of(image, reversed(last.values()))
    if not found:
        raise LayerSpecError("nothing is left to flatten: the chosen rows have no layer")
    return found


def _directories(tmpdir: str | Sequence[str] | None) -> tuple[str, ...]:
    if tmpdir is None:
        return ()
    return (tmpdir,) if isinstance(tmpdir, str) else tuple(tmpdir)


def _threads(threads: int | None) -> int:
    if threads is not None:
        return threads
    from dimgx.system import usable_cpus

    return usable_cpus()
