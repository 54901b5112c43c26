"""Which image is meant, where a source holds several: by name, ID, digest, place and platform.

1. What was asked for is tried as a name as it is written there, then as Docker completes names,
   then as a digest, then as the beginning of an ID. The first of these that fits decides. A few
   hex digits are more likely a tag that there is not: the beginning of an ID has 7 or more, or
   `sha256:` before it.
2. A digest or ID may name one platform's image inside of an entry; then only that is meant.
3. Without a choice there must be one image. Images of different platforms under one name, or in
   one index, are one image; the platform chooses among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from dimgx.errors import ImageError, SourceError
from dimgx.image import Image
from dimgx.imagename import normal_name, repository
from dimgx.platforms import Platform, host_platform

_ID_START = re.compile(r"sha[0-9]{3}:([0-9a-f]{1,128})|([0-9a-f]{7,128})")
_MOST_SHOWN = 12


class Variant(NamedTuple):
    """An image for one platform, not opened yet."""

    platform: Platform | None
    ids: tuple[str, ...]
    """What it is known by, best first: `sha256:<hex>` of config and manifest, or a v1 ID."""
    content: Callable[[], Image] | ImageError | SourceError
    """What opens it, or what is wrong with it."""

    @property
    def is_stored(self) -> bool:
        """Nothing that it needs to be opened is known to be missing."""
        return not isinstance(self.content, MissingBlob)

    @property
    def is_sound(self) -> bool:
        """Nothing is known to be wrong with it."""
        return callable(self.content)

    def open(self) -> Image:
        """Give the image.

        Raises: what is wrong with it.
        """
        if isinstance(self.content, (ImageError, SourceError)):
            raise self.content
        return self.content()


class Candidate(NamedTuple):
    """An image that a source lists, with its platforms."""

    positions: tuple[int, ...]
    """Its places among all that the source lists, from 0; what `@n` means."""
    names: tuple[str, ...]
    variants: tuple[Variant, ...]
    digests: tuple[str, ...] = ()
    """Digests of the indexes that lead to it."""

    @property
    def short_id(self) -> str:
        """The first 12 digits of the first variant's ID."""
        return next((_bare(v.ids[0])[:12] for v in self.variants if v.ids), "-")


class MissingBlob(ImageError):
    """A blob that a document names is not stored."""


class NoSuchImage(ImageError):
    """What was asked for is not among what there is."""


def alone(problem: ImageError | SourceError) -> ImageError | SourceError:
    """Give an error without what led to it, which would keep the document that was read."""
    problem.__cause__ = problem.__context__ = None
    return problem.with_traceback(None)


def join_platforms(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Make one of candidates that have the same names, or none, and differ in their platforms."""
    by_names: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in candidates:
        by_names.setdefault(candidate.names, []).append(candidate)
    joined = []
    for names, group in by_names.items():
        variants = tuple(variant for one in group for variant in one.variants)
        platforms = {variant.platform for variant in variants}
        if None in platforms or len(platforms) < len(variants):
            joined += group
        else:
            positions = tuple(position for one in group for position in one.positions)
            digests = tuple(digest for one in group for digest in one.digests)
            joined.append(Candidate(positions, names, variants, digests))
    return sorted(joined, key=lambda candidate: candidate.positions)


def choose_candidate(candidates: Sequence[Candidate], ref: str | None, where: str) -> Candidate:
    """Give the one image that `ref` means.

    Raises: NoSuchImage where there is none, ImageError where there are several.
    """
    if not candidates:
        raise NoSuchImage(f"{where} holds no image")
    found = list(candidates) if ref is None else _matching(candidates, ref)
    if not found:
        too_short = _with_id(candidates, f"sha256:{ref}", str.startswith)
        hint = "; the beginning of an ID has 7 digits or more" if too_short else ""
        raise NoSuchImage(
            f"{where} holds no image {ref!r:.300}; it holds {_show(candidates)}{hint}"
        )
    if len(found) == 1:
        return found[0]
    problem = (
        f"{where} holds {len(found)} images"
        if ref is None
        else f"{ref!r:.300} fits {len(found)} images in {where}"
    )
    raise ImageError(f"{problem}, name one behind a colon: {_show(found)}")


def id_start(ref: str) -> str | None:
    """Give the hex digits of what may be the beginning of an ID, else None."""
    matched = _ID_START.fullmatch(ref)
    return matched and (matched[1] or matched[2])


def _matching(candidates: Sequence[Candidate], ref: str) -> list[Candidate]:
    if re.fullmatch(r"@[0-9]{1,9}", ref):
        return [c for c in candidates if int(ref[1:]) in c.positions]
    by_name = [c for c in candidates if ref in c.names]
    if by_name:
        return by_name
    name, at, digest = ref.partition("@")
    if not at:
        full = normal_name(ref)
        by_name = [c for c in candidates if full in map(normal_name, c.names)]
        return by_name or _with_id(candidates, ref, str.startswith if id_start(ref) else str.__eq__)
    if name:
        # A name beside the digest must fit where there are names at all.
        candidates = [
            c for c in candidates if not c.names or repository(name) in map(repository, c.names)
        ]
    return _with_id(candidates, digest, str.__eq__)


def _with_id(
    candidates: Sequence[Candidate], ref: str, fits: Callable[[str, str], bool]
) -> list[Candidate]:
    wanted = id_start(ref) or ref
    found = []
    for candidate in candidates:
        variants = candidate.variants
        if not any(fits(_bare(digest), wanted) for digest in candidate.digests):
            variants = tuple(v for v in variants if any(fits(_bare(own), wanted) for own in v.ids))
        if variants:
            found.append(candidate._replace(variants=variants))
    return found


def _bare(text: str) -> str:
    return text.rpartition(":")[2]


def choose_variant(
    candidate: Candidate, wanted: Platform | None, where: str
) -> tuple[Variant, list[str]]:
    """Give the variant for the platform `wanted`, or for this machine, and warnings.

    Raises: NoSuchImage where there is none.
    """
    wish = wanted or host_platform()
    ranked = []
    for place, variant in enumerate(candidate.variants):
        rank = None if variant.platform is None else wish.rank(variant.platform)
        if rank is not None:
            ranked.append((not variant.is_stored, rank, place))
    there = tuple(v for v in candidate.variants if v.is_stored) or candidate.variants
    if ranked:
        best = candidate.variants[min(ranked)[2]]
        if best in there:
            return best, []
        if wanted is not None or len(there) > 1:
            raise NoSuchImage(
                f"{where} lists an image for {wish}, but does not hold it; it holds"
                f" {_show_platforms(there)}"
            )
    if len(there) == 1:
        only = there[0]
        if only.platform is None:
            warning = f"the image does not say its platform; taken for {wish}"
            # What is wrong with it comes first.
            return only, [] if wanted is None or not only.is_sound else [warning]
        if wanted is None:
            return only, [f"the image is for {only.platform}, not for {wish}"]
    offered = _show_platforms(candidate.variants)
    # One that cannot be read may be what was asked for.
    bad = (v.content for v in candidate.variants if v.platform is None and not v.is_sound)
    reason = next((f" ({problem!s:.500})" for problem in bad), "")
    raise NoSuchImage(f"{where} holds no image for {wish}; there is {offered}{reason}")


def open_chosen(candidate: Candidate, variant: Variant, warnings: Iterable[str]) -> Image:
    """Open what was chosen, and have the image tell its names and `warnings`.

    Raises: ImageError where it is damaged, or one of Windows.
    """
    image = variant.open()
    platforms = [image.platform, image.config.platform if image.config else None]
    if any(found is not None and found.os == "windows" for found in platforms):
        raise ImageError(
            f"{image.reference} is a Windows image, which has no Linux root file system"
        )
    image.tags = candidate.names
    image.warnings += tuple(warnings)
    return image


def _show_platforms(variants: Iterable[Variant]) -> str:
    platforms = dict.fromkeys(str(variant.platform or "unknown") for variant in variants)
    return f"{', '.join(platforms):.1000}"


def _show(candidates: Sequence[Candidate]) -> str:
    shown = [_show_one(candidate) for candidate in candidates[:_MOST_SHOWN]]
    if len(candidates) > _MOST_SHOWN:
        shown.append(f"{len(candidates) - _MOST_SHOWN} more")
    return ", ".join(shown)


def _show_one(candidate: Candidate) -> str:
    platforms = dict.fromkeys(str(v.platform) for v in candidate.variants if v.platform)
    facts = [f"@{candidate.positions[0]}", *list(platforms)[:_MOST_SHOWN]]
    if not candidate.names:
        return f"{candidate.short_id} ({', '.join(facts)})"
    names = " = ".join(map(_printable, candidate.names[:_MOST_SHOWN]))
    return f"{names} ({', '.join([candidate.short_id, *facts])})"


def _printable(name: str) -> str:
    return name[:300] if name.isprintable() else f"{name!r:.300}"
