"""The images that files hold, whatever their format, which is told by what the files are.

The transport's word only tells which index counts where there is both Docker's `manifest.json` and
OCI's `index.json`; where what was asked for is not in the one, the other is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from dimgx.errors import ImageError
from dimgx.jsondoc import parse_json
from dimgx.oci import CONFIG_LIMIT
from dimgx.platforms import host_platform
from dimgx.sources.choice import (
    Candidate,
    NoSuchImage,
    Variant,
    choose_candidate,
    choose_variant,
    open_chosen,
)
from dimgx.sources.dockersave import list_saved
from dimgx.sources.files import Files

if TYPE_CHECKING:
    from dimgx.image import Image
    from dimgx.platforms import Platform
    from dimgx.reference import Reference

_Lister = Callable[[], list[Candidate]]

_ROOT_DIRECTORIES = frozenset(
    ("bin", "dev", "etc", "home", "lib", "opt", "proc", "root", "sbin", "sys", "tmp", "usr", "var")
)


def _iter_chosen(files: Files, reference: Reference) -> Iterator[Candidate | ImageError]:
    """Yield the image that is meant as each format of `files` has it, or why it has none.

    Raises: ImageError where several may be meant.
    """
    for lister in _listers(files, reference):
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


def list_stored(files: Files, reference: Reference) -> list[Variant]:
    """Give those variants of the image that is meant which `files` hold, in all formats.

    Raises: ImageError where they hold none.
    """
    problem: ImageError | None = None
    variants: list[Variant] = []
    for found in _iter_chosen(files, reference):
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


def read_image(files: Files, reference: Reference, platform: Platform | None) -> Image:
    """Give the image that `files` hold, the one that `reference` means.

    Raises: ImageError where they hold none, a damaged one, or not what was asked for.
    """
    wish = platform or host_platform()
    problem: ImageError | None = None
    second_best = None
    unfit: list[Variant] = []
    for found in _iter_chosen(files, reference):
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
            return open_chosen(found, variant, ())
        second_best = second_best or (found, variant, warnings)
    if second_best is not None:
        return open_chosen(*second_best)
    if unfit and isinstance(problem, NoSuchImage):
        # It says what there is, in all formats together.
        choose_variant(Candidate((), (), tuple(unfit)), platform, files.where)
    raise problem or _no_image(files)


def read_images(files: Files, reference: Reference) -> list[Image]:
    """Give all images that `files` hold, by the index that counts for the transport.

    Raises: ImageError where they hold none, or one of them is damaged.
    """
    for lister in _listers(files, reference):
        return [
            open_chosen(candidate, variant, ())
            for candidate in lister()
            for variant in candidate.variants
        ]
    raise _no_image(files)


def _listers(files: Files, reference: Reference) -> list[_Lister]:
    """Give what lists the images of `files`, the format that counts first."""
    found: list[_Lister] = []
    data = files.read("manifest.json", CONFIG_LIMIT)
    has_index = any(files.find(name) is not None for name in ("index.json", "oci-layout"))
    if data is not None:
        found.append(partial(_list_manifest, files, data))
    if has_index:
        found.append(partial(_list_index, files))
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


def _list_manifest(files: Files, data: bytes) -> list[Candidate]:
    document = parse_json(data, f"{files.where}: manifest.json", CONFIG_LIMIT)
    if isinstance(document, list):
        return list_saved(files, document)
    from dimgx.sources.layout import list_directory

    return list_directory(files, data)


def _list_index(files: Files) -> list[Candidate]:
    from dimgx.sources.layout import list_layout

    return list_layout(files)


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
