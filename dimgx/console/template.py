"""Targets with fields: `{name}-{tag}.tar.zst` names one target for each of several images.

1. `{field}` stands for what is known of the image, `{{` and `}}` for a brace. A target with a brace
   is a template, any other is a path as it stands.
2. What images say of themselves comes from strangers: `/`, `:` and their like become `-`, and what
   then could still lead to another place than a file of that name is refused.
3. Where an image has no such thing (no name, no tag), that is an error: a word made up for it would
   be the same for the next image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from dimgx.errors import ImageError, SourceError, UsageError

if TYPE_CHECKING:
    from dimgx.image import Image

_FIELDS = ("name", "tag", "digest", "short", "platform", "index")

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SEPARATORS = re.compile(r"[/\\:@]+")
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def check_template(text: str) -> None:
    """See that each brace in `text` is that of a field, or one of two.

    Raises: UsageError.
    """
    for match in _PART.finditer(text):
        found, field = match[0], match[1]
        if field is not None and field not in _FIELDS:
            raise UsageError(
                f"the target {text!r:.300} has no field {{{field:.50}}}: there are "
                f"{', '.join(_FIELDS)} ({{{{ is a brace)"
            )
        if found in ("{", "}"):
            raise UsageError(f"the target {text!r:.300} has a single {found}: write it twice")


def expand(template: str, values: Mapping[str, str | None]) -> str:
    """Give the target's name for one image.

    Raises: ImageError where the image has no such thing, or what it has cannot be in a name.
    """

    def stands_for(match: re.Match[str]) -> str:
        field: str | None = match[1]
        return match[0][:1] if field is None else _clean(field, values.get(field), template)

    return _PART.sub(stands_for, template)


def expand_all(template: str, images: Sequence[Mapping[str, str | None]]) -> tuple[str, ...]:
    """Give the target of each image.

    Raises: UsageError where two images come to one target; ImageError as `expand`.
    """
    targets: dict[str, int] = {}
    expanded = []
    for number, values in enumerate(images):
        target = expand(template, values)
        place = os.path.realpath(target)
        if place in targets:
            raise UsageError(
                f"two images have the target {target:.300}, the ones numbered {targets[place]} and "
                f"{number} from 0 (add a field: {{index}} is always another)"
            )
        targets[place] = number
        expanded.append(target)
    return tuple(expanded)


def make_parents(target: str, resources: ExitStack) -> None:
    """Make the directories above `target` that are missing.

    When `resources` is closed, those that are still empty, as nothing was written, go again.

    Raises: SourceError where one cannot be made.
    """
    missing = []
    above = os.path.dirname(target)
    while above and not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    for directory in reversed(missing):
        try:
            os.mkdir(directory)
        except FileExistsError:
            continue  # made by somebody else meanwhile, or no directory: the target will tell
        except OSError as exc:
            raise SourceError(f"{directory} cannot be made: {exc.strerror or exc}") from exc
        resources.callback(_remove_empty, directory)


def _remove_empty(directory: str) -> None:
    with suppress(OSError):
        os.rmdir(directory)


def values_of(image: Image, index: int) -> dict[str, str | None]:
    """Give what the fields stand for; `index` is the image's number on the command line, from 0."""
    name, tag = _name_of(image)
    digest = str(image.digest or image.id)
    return {
        "name": name,
        "tag": tag,
        "digest": digest,
        "short": digest.rpartition(":")[2][:12],
        "platform": str(image.platform) if image.platform else None,
        "index": str(index),
    }


def _name_of(image: Image) -> tuple[str | None, str | None]:
    """Give the name and the tag that the image was asked by, else its own first."""
    from dimgx.imagename import ImageName, parse_image_name
    from dimgx.images.resultnames import ResultName, is_tag_alone, own_names
    from dimgx.reference import parse_reference

    reference = parse_reference(image.reference)
    asked = reference.name or ""
    digits = image.id.removeprefix("sha256:")
    # No registry knows an ID; elsewhere what is the beginning of one is a name if it is an own one.
    is_id = reference.transport != "docker" and digits.startswith(asked.removeprefix("sha256:"))
    names: list[ResultName] = list(own_names(image, asked))
    if not is_id and not (asked in image.tags and is_tag_alone(asked)):
        with suppress(UsageError):  # something that only its archive takes for a name
            names.insert(0, parse_image_name(asked))
    for tag in image.tags:
        if not is_tag_alone(tag):  # with a digest in the place of a tag it names the image, too
            with suppress(UsageError):
                names.append(parse_image_name(tag))
    for name in names:
        if isinstance(name, ImageName):
            return name.familiar.removesuffix(f":{name.tag}"), name.tag
        if is_tag_alone(name):
            return None, name
    return None, None


def _clean(field: str, value: str | None, template: str) -> str:
    if value is None:
        others = "{digest}, {short} and {index}" if field in ("name", "tag") else "{index}"
        raise ImageError(f"the target {template!r:.300}: the image has no {field} (try {others})")
    cleaned = _SEPARATORS.sub("-", value)
    if not _SAFE.fullmatch(cleaned):
        raise ImageError(
            f"the target {template!r:.300}: the image's {field} {value!r:.200} cannot be part of a "
            "file's name"
        )
    return cleaned
