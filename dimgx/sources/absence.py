"""Why an engine does not know an image: an ambiguous ID, a container's name, a slip of the hand."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from dimgx.errors import DimgxError, SourceError
from dimgx.imagename import registry_hint, repository, short_name
from dimgx.sources.connection import Refused

if TYPE_CHECKING:
    from dimgx.reference import Reference
    from dimgx.sources.described import Engine

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_MOST_SHOWN = 8


def explain_absence(engine: Engine, reference: Reference) -> SourceError:
    """Give the error that says why `engine` has no image of this name, and what to do."""
    name = reference.name or ""
    try:
        images = engine.list_images()
    except Refused:
        # One broken image in Podman's store is enough; what is asked for is not there all the same.
        images = []
    matched = _ID.fullmatch(name)
    if matched:
        hits = [
            image for image in images if image[0].removeprefix("sha256:").startswith(matched[1])
        ]
        if len(hits) > 1:
            return SourceError(f"the ID {name} is ambiguous at {engine.where}: {_show(hits)}")
    try:
        owner = engine.find_container(name)
    except DimgxError:
        owner = None
    if owner is not None:
        return SourceError(
            f"{name!r:.300} is a container, not an image: its image is {owner:.300}; what the"
            f" container itself holds writes `docker export {name:.300}`"
        )
    similar = similar_names(name, [tag for _, tags in images for tag in tags])
    problem = f"{engine.where} has no image {name!r:.300}{similar}"
    hint = "" if matched else registry_hint(name)
    if hint:
        problem += f"; its registry may: {hint}, or --pull missing lets the engine fetch it"
    return SourceError(problem + hint_of_file(reference))


def hint_of_file(reference: Reference) -> str:
    """Say how to name the file or directory, where there is one of this name."""
    if not os.path.exists(reference.text):
        return ""
    return f"; for the file or directory of that name write ./{reference.text:.300}"


def _show(images: list[tuple[str, tuple[str, ...]]]) -> str:
    shown = []
    # Enough digits to tell all of them apart.
    digits = 12
    while digits < 64 and len({id[: digits + 7] for id, _ in images}) < len(images):
        digits += 4
    for id, tags in images[:_MOST_SHOWN]:
        short = id.removeprefix("sha256:")[:digits]
        shown.append(f"{short} ({tags[0]})" if tags else short)
    if len(images) > _MOST_SHOWN:
        shown.append(f"{len(images) - _MOST_SHOWN} more")
    return ", ".join(shown)


def similar_names(name: str, tags: list[str]) -> str:
    """Tell which tags may have been meant: those of the same repository, then those alike."""
    from difflib import get_close_matches

    wanted = repository(name)
    same = [tag for tag in tags if repository(tag) == wanted]
    # Also under another registry or owner.
    last = wanted.rpartition("/")[2]
    same += [tag for tag in tags if repository(tag).rpartition("/")[2] == last]
    by_name = {short_name(tag): tag for tag in tags}
    alike = get_close_matches(short_name(name), by_name, n=3, cutoff=0.75)
    found = list(dict.fromkeys([*same, *(by_name[one] for one in alike)]))[:4]
    return f" (similar: {', '.join(found)})" if found else ""
