"""The names that an image that is written has.

A source knows an image by names that were meant for an engine (`app:1.0`), or, in an OCI layout,
by any text (`latest`). Only the first are names everywhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dimgx.errors import UsageError
from dimgx.imagename import DOCKER_HUB, ImageName, normal_name, parse_image_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dimgx.image import Image

_REF_NAME = re.compile(r"[A-Za-z0-9]+(?:(?:[-._:@+/]|--)[A-Za-z0-9]+)*")


class LayoutName(str):
    """A name that only an OCI layout takes: any text, such as a tag alone."""


ResultName = ImageName | LayoutName


def is_tag_alone(name: str) -> bool:
    """Tell whether a name in an OCI layout is a tag, as skopeo and umoci ask by one."""
    return not re.search("[:/]", name)


def parse_tag(text: str) -> ImageName:
    """Give the name that `--tag` spells; without a tag in it that is `latest`.

    Raises: UsageError where it is no name by the grammar of registries, or has a digest.
    """
    name = parse_image_name(text)
    if name.digest is not None:
        raise UsageError(f"{text!r:.300}: a name that is given has no digest")
    return name


def parse_layout_name(text: str) -> ResultName:
    """Give a name in an OCI layout; what is a name everywhere is that.

    Raises: UsageError where it is none, by image-spec's annotations.md.
    """
    name = _parse(text)
    if name is None:
        raise UsageError(f"{text!r:.300} is no name of an image in an OCI layout")
    return name


def parse_names(tags: Iterable[str], behind_path: str | None) -> tuple[ResultName, ...]:
    """Give the names that `--tag` gives and the one that stood behind an OCI layout's path.

    That may be any text which is a name there, as skopeo has it.

    Raises: UsageError where one is no name.
    """
    names: list[ResultName] = []
    for tag in tags:
        if tag == behind_path and is_tag_alone(tag):
            names.append(parse_layout_name(tag))
        else:
            names.append(parse_tag(tag))
    return _without_bare_tags(names)


def own_names(image: Image, asked: str | None = None) -> tuple[ResultName, ...]:
    """Give the names of `image`: the one that it was `asked` by, if that is one, else all it has.

    What is no name to an engine comes as a LayoutName.
    """
    found = _without_bare_tags(name for name in map(_parse, image.tags) if name is not None)
    named = [name for name in found if isinstance(name, ImageName)]
    texts = [text for text in found if isinstance(text, LayoutName)]
    if asked is not None:
        full = normal_name(asked)
        # Podman keeps what has no registry in its name under localhost.
        local = full.replace(f"{DOCKER_HUB}/library/", "localhost/", 1)
        for name in named:
            if str(name) in (full, local):
                return (name,)
        if asked in image.tags:  # by a tag alone, in an OCI layout
            tagged = tuple(name for name in named if name.tag == asked)
            if tagged:
                return tagged
        if asked in texts:
            return (LayoutName(asked),)
    return (*named, *texts)


def _without_bare_tags(names: Iterable[ResultName]) -> tuple[ResultName, ...]:
    """Give names, each once, without the tags of others.

    Beside a full name its tag is written anyway, as Docker and containerd do; it is no name of
    its own.
    """
    found = dict.fromkeys(names)
    tags = {name.tag for name in found if isinstance(name, ImageName)}
    return tuple(name for name in found if isinstance(name, ImageName) or name not in tags)


def _parse(text: str) -> ResultName | None:
    if not is_tag_alone(text):
        try:
            name = parse_image_name(text)
        except UsageError:
            pass
        else:
            return name._replace(digest=None) if name.tag is not None else None
    return LayoutName(text) if _REF_NAME.fullmatch(text) else None


def familiar_names(names: Iterable[ResultName]) -> list[str]:
    """Give those that are names to an engine, as Docker shows them."""
    return [name.familiar for name in names if isinstance(name, ImageName)]
