"""Why a target is not what it is to be: one line of reason, from the origins of both.

Reasons come in the order in which they tell most: what is damaged, the record's version, the form,
the layers from the base up, then the options.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dimgx.imagename import normal_name
from dimgx.images.origin import Origin

NOT_OURS = "not an archive of ours"
BROKEN_OFF = "a run that was to write it broke off"


class Made(NamedTuple):
    """One image of a target, or its tar: what it is called there, and made from."""

    names: tuple[str, ...]
    origin: Origin
    form: str = "tar"
    """tar, docker-archive, oci-archive, oci-dir or docker-dir."""
    packing: str | None = None
    """The compression of the one file: none, gzip, ...; None where it does not matter."""
    compression: str | None = None
    """Of an image's layers, or the topmost; likewise."""
    is_mixed: bool = False
    """Layers below that are stored otherwise."""
    is_ours: bool = True
    """Else there is no record, and the layers are taken for kept ones."""
    problem: str | None = None
    """What is damaged."""
    beside: str | None = None
    """Digest of something in its layout that is no image, and so nothing of dimgx."""
    kept: Origin | None = None
    """The same image as one whose layers were kept, where its record says that it was flattened."""


def difference(found: Origin, wanted: Origin) -> str | None:
    """Say in one line what makes `found` another origin than `wanted`; None where nothing does."""
    if not found.version:
        return BROKEN_OFF
    if found.version != wanted.version:
        return (
            f"made by an incompatible version of dimgx (record {found.version}, not"
            f" {wanted.version})"
        )
    changed = _changed(found.below + found.layers, wanted.below + wanted.layers, "layer")
    if changed is not None:
        return changed
    if _how(found) != _how(wanted):
        return f"{_how(found)}, now {_how(wanted)}"
    changed = _changed(found.added, wanted.added, "added layer")
    if changed is not None:
        return changed
    for name, label in _LABELS.items():
        before, now = getattr(found, name), getattr(wanted, name)
        if before != now:
            return f"{label} changed: {_show(before)} -> {_show(now)}"
    if found.image is not None and found.image == wanted.image:
        return None
    for name, label in _KNOWN_OR_NOT.items():
        before, now = getattr(found, name), getattr(wanted, name)
        # Where a source does not tell, that is no reason to do it all again.
        if before and now and before != now:
            return f"{label} changed: {_short(before)} -> {_short(now)}"
    return None


_LABELS = {
    "paths": "--include and --exclude",
    "strip_components": "--strip-components",
    "prefix": "--prefix",
    "root_entry": "--root-entry",
    "clamp_mtime": "--clamp-mtime",
    "level": "the compression's level",
    "created": "SOURCE_DATE_EPOCH",
}
_KNOWN_OR_NOT = {
    "settings": "the run settings",
    "healthcheck": "the health check",
    "platform": "the platform",
    # Last: the others tell more of what changed in it.
    "image": "the image",
}


def _how(origin: Origin) -> str:
    if origin.is_kept:
        return "layers kept"
    if origin.is_squashed:
        return f"squashed from layer {len(origin.below) + 1} on"
    return "flattened"


def _changed(found: Sequence[str], wanted: Sequence[str], what: str) -> str | None:
    for place, (before, now) in enumerate(zip(found, wanted, strict=False), 1):
        if before != now:
            return f"{what} {place} changed: {_short(before)} -> {_short(now)}"
    place = min(len(found), len(wanted))
    if len(found) < len(wanted):
        return f"{what} {place + 1} is new: {_short(wanted[place])}"
    if len(found) > len(wanted):
        return f"{what} {place + 1} is gone: {_short(found[place])}"
    return None


def _short(mark: str) -> str:
    """Give the first 12 digits of an ID, with the words before it."""
    head, colon, digits = mark.rpartition(":")
    return f"{head}{colon}{digits[:12]}"


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value) or "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)


def why_outdated(found: Sequence[Made], wanted: Sequence[Made]) -> str | None:
    """Say in one line why a target that holds `found` is not `wanted`; None where it is.

    Images are matched by their names, completed as Docker does; those without by their origins.
    Their order does not count.
    """
    beside = next((made.beside for made in found if made.beside), None)
    if beside is not None:
        return f"holds {_short(beside)} too, which is no image"
    damaged = next((made.problem for made in found if made.problem), None)
    if damaged is not None:
        return damaged
    keeps = any(made.origin.is_kept for made in wanted)
    if found and not keeps and not any(made.is_ours for made in found):
        return NOT_OURS
    if found and wanted and found[0].form != wanted[0].form:
        return f"the form changed: {found[0].form} -> {wanted[0].form}"
    if len(found) == len(wanted) == 1:
        reason = _image_difference(found[0], wanted[0])
        return reason or _names_differ(found, wanted)
    problem = _names_differ(found, wanted)
    if problem is not None:
        return problem
    there = _by_name(found)
    for full, (name, group) in _by_name(wanted).items():
        both = (sorted(images, key=_platform_of) for images in (there[full][1], group))
        for own, made in zip(*both, strict=True):
            reason = _image_difference(own, made)
            if reason is not None:
                return f"image {name}: {reason}"
    return None


def _image_difference(found: Made, wanted: Made) -> str | None:
    if not found.is_ours and not wanted.origin.is_kept:
        return NOT_OURS
    reason = difference(found.origin, wanted.origin)
    if (
        wanted.origin.is_kept
        and found.kept
        and found.origin.version
        and difference(found.kept, wanted.origin) is None
    ):
        reason = None  # what was flattened once is an image like any other
    if reason is not None:
        return reason
    # What is said of layers that are kept is said of all.
    layers = "mixed" if found.is_mixed and wanted.origin.is_kept else found.compression
    for what, before, now in (
        ("the compression", found.packing, wanted.packing),
        ("the layers' compression", layers, wanted.compression),
    ):
        if before and now and before != now:
            return f"{what} changed: {before} -> {now}"
    return None


def _names_differ(found: Sequence[Made], wanted: Sequence[Made]) -> str | None:
    there, asked = _by_name(found), _by_name(wanted)
    for full, (name, group) in asked.items():
        others = there[full][1] if full in there else []
        if len(others) < len(group):
            return f"misses image {name}{_platforms_beside(group, others)}"
    for full, (name, group) in there.items():
        others = asked[full][1] if full in asked else []
        if len(others) < len(group):
            return f"holds image {name}{_platforms_beside(group, others)} too"
    nameless = [made for made in wanted if not made.names]
    # One that comes again is stored once, under the names that it has elsewhere.
    for made in nameless:
        if all(_image_difference(own, made) for own in found):
            return f"misses image {_top(made)}"
    beside = [own for own in found if not own.names]
    for number, own in enumerate(beside, 1):
        if number > len(nameless) or all(_image_difference(own, made) for made in nameless):
            return f"holds image {_top(own)} too"
    return None


def _platforms_beside(images: Sequence[Made], others: Sequence[Made]) -> str:
    """Give for which platforms there are images beside others of the same name."""
    known = {_platform_of(other) for other in others}
    found = [_platform_of(image) for image in images if _platform_of(image) not in known]
    return f" for {', '.join(found)}" if others and all(found) and found else ""


def _top(made: Made) -> str:
    """Give what tells an image without a name: its top layer."""
    layers = made.origin.layers
    return f"of layer {_short(layers[-1])}" if layers else "without a name"


def _platform_of(made: Made) -> str:
    return made.origin.platform or ""


def _is_same(one: Made, other: Made) -> bool:
    """Tell whether two of one name are one image: for two platforms its manifest stands twice."""
    platforms = {one.origin.platform, other.origin.platform} - {None}
    return len(platforms) < 2 and _image_difference(one, other) is None


def _by_name(images: Iterable[Made]) -> dict[str, tuple[str, list[Made]]]:
    """Give, by each name completed, the name as it is and the images that have it, each once."""
    found: dict[str, tuple[str, list[Made]]] = {}
    for made in images:
        for name in made.names:
            _, group = found.setdefault(normal_name(name), (name, []))
            if not any(_is_same(known, made) for known in group):
                group.append(made)
    return found
