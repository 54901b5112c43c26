"""Where images come from: each source opens a reference and gives an `Image`.

What lies on a disk or comes in on stdin is first made `Files`, whatever it is wrapped in; then the
format is told by what they hold. The transport's word only tells which index counts where there is
both Docker's `manifest.json` and OCI's `index.json`; where what was asked for is not in the one,
the other is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from dimgx.errors import ImageError, SourceError, UsageError
from dimgx.jsondoc import parse_json
from dimgx.oci import CONFIG_LIMIT
from dimgx.platforms import host_platform
from dimgx.sources.choice import (
    Candidate,
    NoSuchImage,
    Variant,
    choose_candidate,
    choose_variant,
)
from dimgx.sources.dockersave import list_saved
from dimgx.sources.files import Files, read_file
from dimgx.sources.opening import open_files

if TYPE_CHECKING:
    from dimgx.image import Image, Tick
    from dimgx.platforms import Platform
    from dimgx.reference import Reference
    from dimgx.registryoptions import RegistryOptions
    from dimgx.sources.endpoint import EngineOptions
    from dimgx.spool import SpoolSpace

_Lister = Callable[[], list[Candidate]]

_ROOT_DIRECTORIES = frozenset(
    ("bin", "dev", "etc", "home", "lib", "opt", "proc", "root", "sbin", "sys", "tmp", "usr", "var")
)


def open_image(
    reference: Reference,
    *,
    platform: Platform | None = None,
    verify: str = "once",
    stdin: BinaryIO | None = None,
    engine: EngineOptions | None = None,
    spool: SpoolSpace,
    registry: RegistryOptions | None = None,
    tick: Tick | None = None,
) -> Image:
    """Open the image that `reference` means.

    `platform` chooses among several; None means Linux on this machine's CPU, or the only one there
    is. With `verify` "none" the digests of manifests and configs are not checked. `stdin` is what
    `-` means. Streams and compressed archives are kept in `spool`. `registry` says how a registry
    is reached, None without credentials; `engine` which engine is asked and how. `tick` is told how
    far a stream or a compressed archive is read.

    Raises: SourceError where nothing can be opened there, ImageError where it is no image, is
    damaged, or does not hold what was asked for; TemporaryError where a registry or an engine may
    have it later.
    """
    if reference.transport in ("docker-daemon", "podman"):
        from dimgx.sources.endpoint import EngineOptions
        from dimgx.sources.engine import open_engine_image
        from dimgx.sources.engines import open_engine

        options = engine or EngineOptions()
        return open_engine_image(
            open_engine(reference, options),
            reference,
            platform=platform,
            options=options,
            spool=spool,
            read=partial(read_image, verify=verify != "none"),
        )
    _refuse_engine(reference, engine)
    if reference.transport == "docker":
        return _open_remote(reference, platform, verify=verify != "none", registry=registry)
    with ExitStack() as resources:
        try:
            files = open_files(reference, stdin, spool, resources, tick, verify=verify != "none")
            image = read_image(files, reference, platform, verify=verify != "none")
        except OSError as exc:
            raise SourceError(f"{reference.text!r:.300}: {exc.strerror or exc}") from exc
        image.reference = reference.text
        image.watches = tuple(files.watches())
        image.resources.push(resources.pop_all())
    return image


def _refuse_engine(reference: Reference, engine: EngineOptions | None) -> None:
    if engine is not None and (engine.host or engine.pull != "never"):
        option = "--host" if engine.host else "--pull"
        raise UsageError(f"{option} has no effect: {reference.text!r:.300} is at no engine")


def list_platforms(
    reference: Reference,
    *,
    verify: str,
    stdin: BinaryIO | None,
    spool: SpoolSpace,
    registry: RegistryOptions | None,
    engine: EngineOptions | None,
    tick: Tick | None,
) -> list[Platform]:
    """Give the platforms that the image which `reference` means is there for, in its order.

    None at all means that the image does not say its platform; it is taken for any.

    The parameters and errors are those of `open_image`.
    """
    if reference.transport in ("docker-daemon", "podman"):
        from dimgx.sources.endpoint import EngineOptions
        from dimgx.sources.engine import list_engine_platforms
        from dimgx.sources.engines import open_engine

        options = engine or EngineOptions()
        return list_engine_platforms(open_engine(reference, options), reference, options)
    _refuse_engine(reference, engine)
    with ExitStack() as resources:
        if reference.transport == "docker":
            variants: Sequence[Variant] = _find_remote(
                reference, resources, lambda _: None, verify != "none", registry
            ).variants
        else:
            try:
                files = open_files(
                    reference, stdin, spool, resources, tick, verify=verify != "none"
                )
                variants = _list_stored(files, reference, verify=verify != "none")
            except OSError as exc:
                raise SourceError(f"{reference.text!r:.300}: {exc.strerror or exc}") from exc
        found = dict.fromkeys(variant.platform for variant in variants)
        platforms = [platform for platform in found if platform is not None]
        if not platforms:
            # What cannot be read says no platform either, and is not to be taken for any.
            for variant in variants:
                if not variant.is_sound:
                    variant.open()
    return platforms


def _open_remote(
    reference: Reference,
    platform: Platform | None,
    *,
    verify: bool,
    registry: RegistryOptions | None,
) -> Image:
    warnings: list[str] = []
    image: Image | None = None

    def warn(text: str) -> None:
        if image is None:
            warnings.append(text)
        else:
            image.warnings += (text,)

    with ExitStack() as resources:
        candidate = _find_remote(reference, resources, warn, verify, registry)
        variant, odd = choose_variant(candidate, platform, reference.text)
        image = _open(candidate, variant, ())
        image.warnings += (*warnings, *odd)
        image.reference = reference.text
        image.size_kind = "blob"
        image.resources.push(resources.pop_all())
    return image


def _find_remote(
    reference: Reference,
    resources: ExitStack,
    warn: Callable[[str], None],
    verify: bool,
    registry: RegistryOptions | None,
) -> Candidate:
    from dimgx.registryoptions import RegistryOptions
    from dimgx.sources.registry import find_remote

    options = registry or RegistryOptions()
    return find_remote(reference.name or "", options, resources, warn, verify=verify)


def _iter_chosen(
    files: Files, reference: Reference, *, verify: bool
) -> Iterator[Candidate | ImageError]:
    """Yield the image that is meant as each format of `files` has it, or why it has none.

    Raises: ImageError where several may be meant.
    """
    for lister in _listers(files, reference, verify=verify):
        try:
            candidates = lister()
        except ImageError as exc:
            yield exc
            continue
        try:
            chosen = choose_candidate(candidates, reference.name, files.where)
        except NoSuchImage as exc:
            yield exc
        else:
            yield chosen


def _list_stored(files: Files, reference: Reference, *, verify: bool) -> list[Variant]:
    """Give those variants of the image that is meant which `files` hold, in all formats."""
    problem: ImageError | None = None
    variants: list[Variant] = []
    for found in _iter_chosen(files, reference, verify=verify):
        if isinstance(found, ImageError):
            problem = problem or found
        else:
            variants += found.variants
    if not variants:
        raise problem or _no_image(files)
    stored = [variant for variant in variants if variant.is_stored]
    if not stored:
        raise NoSuchImage(f"{files.where} holds none of the images that its index lists")
    return stored


def read_image(
    files: Files, reference: Reference, platform: Platform | None, *, verify: bool
) -> Image:
    """Give the image that `files` hold, the one that `reference` means.

    Raises: ImageError where they hold none, a damaged one, or not what was asked for.
    """
    wish = platform or host_platform()
    problem: ImageError | None = None
    second_best = None
    unfit: list[Variant] = []
    for found in _iter_chosen(files, reference, verify=verify):
        if isinstance(found, ImageError):
            problem = problem or found
            continue
        try:
            variant, warnings = choose_variant(found, platform, files.where)
        except NoSuchImage as exc:
            problem = problem or exc
            unfit += found.variants
            continue
        # The next format may have the very platform, where this one has what runs there as well.
        is_best = variant.platform is None or wish.rank(variant.platform) == 0
        if is_best and not warnings:
            return _open(found, variant, ())
        second_best = second_best or (found, variant, tuple(warnings))
    if second_best is not None:
        return _open(*second_best)
    if unfit and isinstance(problem, NoSuchImage):
        # It says what there is, in all formats together.
        choose_variant(Candidate((), (), tuple(unfit)), platform, files.where)
    raise problem or _no_image(files)


def read_images(files: Files, reference: Reference, *, verify: bool) -> list[Image]:
    """Give all images that `files` hold, by the index that counts for the transport.

    Raises: ImageError where they hold none, or one of them is damaged.
    """
    for lister in _listers(files, reference, verify=verify):
        return [
            _open(candidate, variant, ())
            for candidate in lister()
            for variant in candidate.variants
        ]
    raise _no_image(files)


def _open(candidate: Candidate, variant: Variant, warnings: tuple[str, ...]) -> Image:
    image = variant.open()
    platforms = [image.platform, image.config.platform if image.config else None]
    if any(found is not None and found.os == "windows" for found in platforms):
        raise ImageError(
            f"{image.reference} is a Windows image, which has no Linux root file system"
        )
    image.tags = candidate.names
    image.warnings += warnings
    return image


def _listers(files: Files, reference: Reference, *, verify: bool) -> list[_Lister]:
    """Give what lists the images of `files`, the format that counts first."""
    found: list[_Lister] = []
    data = read_file(files, "manifest.json", CONFIG_LIMIT)
    has_index = any(files.find(name) is not None for name in ("index.json", "oci-layout"))
    if data is not None:
        found.append(partial(_list_manifest, files, data, verify=verify))
    if has_index:
        found.append(partial(_list_index, files, verify=verify))
    if reference.transport in ("oci", "oci-archive"):
        found.reverse()
    if not found:
        from dimgx.sources.parentchain import find_ids, list_chains

        ids = find_ids(files.names())
        named = files.find("repositories") is not None
        # What is left of a newer archive without its last members looks much like a chain.
        if named or (ids and not files.is_cut):
            found.append(partial(list_chains, files, ids, reference.name))
    return found


def _list_manifest(files: Files, data: bytes, *, verify: bool) -> list[Candidate]:
    document = parse_json(data, f"{files.where}: manifest.json", CONFIG_LIMIT)
    if isinstance(document, list):
        return list_saved(files, document, verify=verify)
    from dimgx.sources.layout import list_directory

    return list_directory(files, data, verify=verify)


def _list_index(files: Files, *, verify: bool) -> list[Candidate]:
    from dimgx.sources.layout import list_layout

    return list_layout(files, verify=verify)


def _no_image(files: Files) -> ImageError:
    names = [name.partition("/")[0] for name in files.names()]
    if len(_ROOT_DIRECTORIES.intersection(names)) > 2 or ".dockerenv" in names:
        return ImageError(
            f"{files.where} is a root file system already, as `docker export` writes it, and no"
            " image: there is nothing to flatten"
        )
    below = {name for name in files.names() if name.count("/") == 1}
    for directory in dict.fromkeys(names):
        if below & {f"{directory}/manifest.json", f"{directory}/oci-layout"}:
            return ImageError(
                f"{files.where} holds an image below {directory!r:.100}: unpack it and give that"
                " directory"
            )
    hint = ", and it ends like one that was cut short" if files.is_cut else ""
    return ImageError(
        f"{files.where} is no container image: there is no manifest.json, index.json or"
        f" repositories in it{hint}"
    )
