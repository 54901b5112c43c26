"""The arrows joined: open an image, look at it, flatten it.

Nothing here prints, exits, reads the environment, or touches signals, umask or logging. What is
odd but usable comes back as data: `Image.warnings`, `Result.warnings`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, get_args

from dimgx.codec import Coding
from dimgx.delivery import Result, emit, stream, write_flat
from dimgx.digest import Tally
from dimgx.errors import SourceError
from dimgx.flattening import open_flat_of, with_memory_used, with_pipes_kept
from dimgx.inspector import inspect as _inspect
from dimgx.recipe import (
    CONTENT,
    SHAPE,
    Recipe,
    Verify,
    check_memory,
    check_target,
    check_unused,
    check_word,
    directories,
    make_recipe,
)
from dimgx.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader
    from typing import Unpack

    from dimgx.codec import Compression
    from dimgx.extent import Write
    from dimgx.image import Image
    from dimgx.images.outdated import Made
    from dimgx.inspector import Listing
    from dimgx.platforms import Platform
    from dimgx.recipe import Directories, Progress, TarOptions, TreeOptions
    from dimgx.registryoptions import RegistryOptions
    from dimgx.report import Report
    from dimgx.sources.endpoint import EngineOptions


def open_image(
    reference: str | os.PathLike[str],
    *,
    platform: str | Platform | None = None,
    verify: Verify = "once",
    stdin: BinaryIO | None = None,
    memory: int | None = None,
    tmpdir: Directories = None,
    registry: RegistryOptions | None = None,
    engine: EngineOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Image:
    """Open the image that `reference` names; close it when done, or use it in a `with`.

    A path object is a path, whatever else its text could mean. `platform` picks from an index.
    `stdin` is what the reference `-` reads. What has to be kept (a stream, a compressed archive)
    lies in memory up to `memory` bytes, a quarter of what is free by default, and in a temporary
    file of the first usable `tmpdir` beyond that. `registry` says how registries are reached:
    without it without credentials, proxies and settings files, with
    `RegistryOptions.from_environment(os.environ)` as podman and Docker would. `engine` says which
    Docker Engine, Podman or containerd is asked; without it a default socket's. `progress` and
    `cancel` are called while a stream or a compressed archive is read, as in `flatten`, but not
    while an answer is waited for.

    Raises: UsageError for a malformed reference or platform; SourceError where there is no such
        file, name or engine; ImageError where it is no image, or a damaged one, or none of this
        platform; TemporaryError where a registry or an engine may have it later.
    """
    from dimgx.platforms import parse_platform
    from dimgx.reference import parse_reference, spelled
    from dimgx.sources import open_image as open_source
    from dimgx.spool import SpoolSpace

    _check_words(verify, engine)
    check_memory(memory)
    if isinstance(platform, str):
        platform = parse_platform(platform)
    parsed = parse_reference(spelled(reference))
    with ExitStack() as stack:
        space = stack.enter_context(SpoolSpace(memory, directories(tmpdir)))
        image = open_source(
            parsed,
            platform=platform,
            verify=verify != "none",
            stdin=stdin,
            spool=space,
            registry=registry,
            engine=engine,
            tick=partial(Recipe(progress=progress, cancel=cancel).tell, "read"),
        )
        image.spool = space
        image.resources.push(stack.pop_all())
    return image


def list_platforms(
    reference: str | os.PathLike[str],
    *,
    stdin: BinaryIO | None = None,
    registry: RegistryOptions | None = None,
    engine: EngineOptions | None = None,
    verify: Verify = "once",
    memory: int | None = None,
    tmpdir: Directories = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> list[Platform]:
    """Give the platforms that the image `reference` is there for. Parameters as of `open_image`.

    An empty list means that the image does not say its platform; it is taken for any.
    """
    from dimgx.reference import parse_reference, spelled
    from dimgx.sources import list_platforms as list_source
    from dimgx.spool import SpoolSpace

    _check_words(verify, engine)
    check_memory(memory)
    parsed = parse_reference(spelled(reference))
    with SpoolSpace(memory, directories(tmpdir)) as space:
        return list_source(
            parsed,
            verify=verify != "none",
            stdin=stdin,
            spool=space,
            registry=registry,
            engine=engine,
            tick=partial(Recipe(progress=progress, cancel=cancel).tell, "read"),
        )


def _check_words(verify: Verify, engine: EngineOptions | None) -> None:
    check_word(verify, get_args(Verify), "verify")
    if engine is not None:
        from dimgx.sources.endpoint import PULL

        check_word(engine.pull, PULL, "pull")


def inspect(image: Image, *, sizes: bool = True, threads: int | None = None) -> Listing:
    """List what `image` is made of, newest first.

    With `sizes`, the layers whose size nothing states are decoded and counted, which costs time;
    without, their size is None.

    Raises: ImageError where a layer that is measured is damaged.
    """
    threads = make_recipe({"threads": threads}).worker_count
    with image.using():
        return _inspect(image, sizes=sizes, threads=threads)


def flatten(
    image: Image,
    target: str | os.PathLike[str] | BinaryIO,
    *,
    compression: Compression | None = None,
    level: int | None = None,
    force: bool = False,
    sync: bool = True,
    sha256: bool = False,
    report: Report | None = None,
    record: bool = False,
    **options: Unpack[TarOptions],
) -> Result:
    """Write the flattened tar of `image` to `target`, a path or a binary file open for writing.

    A path appears whole and verified, or not at all; `force` lets it replace a file. Without `sync`
    the disk is not waited for, and if the machine crashes soon, the file may be empty or damaged. A
    binary file, a FIFO or a device gets its first byte when all digests have matched. `options` are
    the keys of `TarOptions`: which layers, what of them, how the work is done. `progress` and
    `cancel` are called from time to time, maybe in other threads; when `cancel` gives true,
    `Cancelled` is raised. `report` is told of all that is done, which costs some time. With
    `record` the tar begins with a header that tells what it was made from, and changes nothing
    else.

    Raises: ImageError, SourceError, LayerSpecError, UsageError, Cancelled.
    """
    # Loaded here, since a signal that comes while something is loaded can be lost.
    import dimgx.extractor  # noqa: F401
    from dimgx.targets.singlefile import open_place

    recipe = _make_recipe(image, options, report.mark if report else str)
    check_target(target, recipe.add_layers)
    coding = _coding(compression, level, recipe)
    head = b""
    with ExitStack() as stack:
        stack.enter_context(image.using())
        if record:
            recipe = with_pipes_kept(recipe, stack)
            head = _record(image, recipe, coding)
        opened = open_place(target, force=force, sync=sync, resources=stack)
        fetch_all = None
        if report is None:
            streamed, fetch_all = stream(
                image, opened, recipe, coding, head, stack, is_hashed=sha256
            )
            if streamed is not None:
                opened.commit()
                return streamed
        flat = stack.enter_context(open_flat_of(image, recipe, fetch_all))
        tar = None if report is None else report.add_flat(image, flat)
        if not opened.is_atomic:
            flat.verify()
            image.check_unchanged()
            recipe.mark("check")
        result = write_flat(flat, opened, coding, head, tar, is_hashed=sha256)
        recipe.mark("write")
        flat.verify()
        image.check_unchanged()
        recipe.mark("check")
        opened.commit()
        recipe.mark("publish")
        if report is not None and tar is not None:
            from dimgx.report import Output, name_of

            written = result.size, result.sha256 or tar.sha256
            report.add_output(Output(name_of(target), "tar", coding, *written))
            report.warn((*image.warnings, *result.warnings))
        return result


def write_raw(
    image: Image,
    target: str | os.PathLike[str] | BinaryIO,
    *,
    compression: Compression | None = None,
    level: int | None = None,
    force: bool = False,
    sync: bool = True,
    sha256: bool = False,
    **options: Unpack[TreeOptions],
) -> Result:
    """Write the tar of one layer of `image` to `target`, verified, byte for byte.

    `layers` in `options` must name one row with a layer, where the image has several. The other
    parameters are those of `flatten`.

    Raises: what `flatten` raises; LayerSpecError where not one layer was chosen.
    """
    from dimgx.images.rawlayer import RawLayer
    from dimgx.targets.singlefile import open_place

    recipe = _make_recipe(image, options)
    check_unused(recipe, (*CONTENT, *SHAPE), "on a layer that is written as it is")
    check_target(target, ())
    coding = _coding(compression, level, recipe)
    with ExitStack() as stack:
        stack.enter_context(image.using())
        opened = open_place(target, force=force, sync=sync, resources=stack)
        raw = stack.enter_context(RawLayer(image, recipe))
        if not opened.is_atomic:
            raw.verify()
            image.check_unchanged()
        tally = Tally(opened.write, is_hashed=sha256)
        length = emit(raw, tally.write, coding)
        image.check_unchanged()
        opened.commit()
        return Result(tally.size, length, tally.sha256)


def open_stream(
    image: Image,
    *,
    compression: Compression | None = None,
    level: int | None = None,
    **options: Unpack[TarOptions],
) -> BufferedReader:
    """Give the flattened tar as a binary file to read from; close it when done, early or not.

    Its first byte comes when all digests have matched. A thread writes at most 4 MiB ahead. The
    parameters are those of `flatten`.

    Raises: what `flatten` raises, some of it while reading.
    """
    from dimgx.stream import open_pulled

    recipe = _make_recipe(image, options)
    coding = _coding(compression, level, recipe)
    flat = open_flat_of(image, recipe)

    def produce(write: Write) -> None:
        flat.verify()
        image.check_unchanged()
        emit(flat, write, coding)
        image.check_unchanged()

    return open_pulled(produce, flat.close)


def open_tree(image: Image, **options: Unpack[TreeOptions]) -> Tree:
    """Open the merged tree: its entries in the order of a walk, and the content of its files.

    All digests have matched when it is there. The parameters are those of `flatten`.
    """
    recipe = _make_recipe(image, options)
    check_unused(recipe, SHAPE, "on a tree")
    flat = open_flat_of(image, recipe)
    try:
        flat.verify()
    except BaseException:
        flat.close()
        raise
    return Tree(flat, image.check_unchanged)


def _make_recipe(image: Image, options: TreeOptions, mark: Callable[[str], object] = str) -> Recipe:
    """Give what a caller asks for, with the memory that is left beside what the image keeps."""
    return with_memory_used(make_recipe(options, mark), image.spool)


def read_origin(target: str | os.PathLike[str]) -> tuple[Made, ...]:
    """Give what a tar, or each image of an archive or directory, was made from.

    Of a tar the head and the end are read (all of it where another program has packed it again and
    that cannot be told otherwise), of images no layer. An image without a record (`is_ours` is
    false) counts as one whose layers were kept.

    Raises: ImageError where there is no record, SourceError where nothing can be read.
    """
    from dimgx.targets.state import read_state

    path = os.fspath(target)
    found = read_state(path)
    if found is None:
        raise SourceError(f"{path}: there is nothing, so it has no origin")
    return tuple(found)


def _record(image: Image, recipe: Recipe, coding: Coding) -> bytes:
    """Give the header that tells what a tar was made from."""
    from dimgx.images.wanted import origin_of_tar
    from dimgx.layers.tarwrite import build_global_header

    return build_global_header(origin_of_tar(image, recipe, coding).text.encode())


def _coding(compression: Compression | None, level: int | None, recipe: Recipe) -> Coding:
    """Give how a tar is to be stored.

    Raises: UsageError where there is no such compression or level.
    """
    if compression is not None or level is not None:
        from dimgx.codec import COMPRESSIONS
        from dimgx.encode import check_level

        check_word(compression, (None, *COMPRESSIONS), "compression")
        check_level(compression, level)
    return Coding(compression, level, recipe.worker_count)
