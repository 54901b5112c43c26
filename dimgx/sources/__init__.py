"""Where images come from: each source opens a reference and gives an `Image`.

What lies on a disk or comes in on stdin is first made `Files`, whatever it is wrapped in; then the
format is told by what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

from dimgx.errors import SourceError, UsageError
from dimgx.sources.choice import Candidate, Variant, choose_variant, open_chosen
from dimgx.sources.formats import list_stored, read_image
from dimgx.sources.opening import open_files

if TYPE_CHECKING:
    from dimgx.image import Image, Tick
    from dimgx.platforms import Platform
    from dimgx.reference import Reference
    from dimgx.registryoptions import RegistryOptions
    from dimgx.sources.containerd import Kept
    from dimgx.sources.containersstore import ContainersStore
    from dimgx.sources.endpoint import EngineOptions
    from dimgx.spool import SpoolSpace


def open_image(
    reference: Reference,
    *,
    platform: Platform | None = None,
    verify: bool = True,
    stdin: BinaryIO | None = None,
    engine: EngineOptions | None = None,
    spool: SpoolSpace,
    registry: RegistryOptions | None = None,
    tick: Tick | None = None,
) -> Image:
    """Open the image that `reference` means.

    `platform` chooses among several; None means Linux on this machine's CPU, or the only one there
    is. Without `verify` the digests of manifests and configs are not checked. `stdin` is what `-`
    means. Streams and compressed archives are kept in `spool`. `registry` says how a registry is
    reached, None without credentials; `engine` which engine is asked and how. `tick` is told how
    far a stream or a compressed archive is read.

    Raises: SourceError where nothing can be opened there, ImageError where it is no image, is
    damaged, or does not hold what was asked for; TemporaryError where a registry or an engine may
    have it later.
    """
    store = _find_store(reference, engine)
    if store is not None:
        from dimgx.sources.containersstorage import open_image as open_from_store

        return open_from_store(store, reference.name, reference.text, platform, verify=verify)
    if reference.transport == "containerd":
        return _open_kept(reference, platform, verify=verify, engine=engine)
    if reference.is_at_engine:
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
            verify=verify,
        )
    _refuse_engine(reference, engine)
    if reference.transport == "docker":
        return _open_remote(reference, platform, verify=verify, registry=registry)
    with ExitStack() as resources:
        try:
            files = open_files(reference, stdin, spool, resources, tick, verify=verify)
            image = read_image(files, reference, platform)
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
    verify: bool,
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
    store = _find_store(reference, engine)
    if store is not None:
        from dimgx.sources.containersstorage import find_image

        (variant,) = find_image(store, reference.name, reference.text, verify=verify).variants
        return [] if variant.platform is None else [variant.platform]
    if reference.is_at_engine and reference.transport != "containerd":
        from dimgx.sources.endpoint import EngineOptions
        from dimgx.sources.engine import list_engine_platforms
        from dimgx.sources.engines import open_engine

        options = engine or EngineOptions()
        return list_engine_platforms(open_engine(reference, options), reference, options)
    if not reference.is_at_engine:
        _refuse_engine(reference, engine)
    with ExitStack() as resources:
        variants: Sequence[Variant]
        if reference.transport == "containerd":
            kept = _find_kept(reference, resources, verify, engine)
            variants = [variant for variant in kept.candidate.variants if variant.is_stored]
        elif reference.transport == "docker":
            variants = _find_remote(reference, resources, lambda _: None, verify, registry).variants
        else:
            try:
                files = open_files(reference, stdin, spool, resources, tick, verify=verify)
                variants = list_stored(files, reference)
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


def _find_store(reference: Reference, engine: EngineOptions | None) -> ContainersStore | None:
    """Give the store that an image is read from without Podman: where it is named, or Podman away.

    Raises: SourceError, UsageError where that cannot be.
    """
    if reference.transport == "containers-storage":
        from dimgx.sources.containersstorage import parse_store

        _refuse_engine(reference, engine)
        return parse_store(reference.path or "")
    if reference.transport != "podman":
        return None
    from dimgx.sources.endpoint import EngineOptions
    from dimgx.sources.engines import is_podman_here

    options = engine or EngineOptions()
    if not options.is_direct or options.pull != "never" or is_podman_here(options):
        return None
    from dimgx.sources.containersstorage import usual_store

    return usual_store(options)


def _open_kept(
    reference: Reference,
    platform: Platform | None,
    *,
    verify: bool,
    engine: EngineOptions | None,
) -> Image:
    with ExitStack() as resources:
        candidate, blobs = _find_kept(reference, resources, verify, engine)
        variant, odd = choose_variant(candidate, platform, blobs.where)
        image = open_chosen(candidate, variant, odd)
        image.reference = reference.text
        image.size_kind = "blob"
        image.watches, image.store = tuple(blobs.watches()), blobs.root
        image.resources.push(resources.pop_all())
    return image


def _find_kept(
    reference: Reference, resources: ExitStack, verify: bool, engine: EngineOptions | None
) -> Kept:
    from dimgx.sources.containerd import find_kept
    from dimgx.sources.endpoint import EngineOptions

    return find_kept(reference, engine or EngineOptions(), resources, verify=verify)


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
        image = open_chosen(candidate, variant, ())
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
