"""What `docker save` wrote before 1.10: `<id>/json` names a parent, `<id>/layer.tar` is the layer.

An image is the chain from an ID to the base. `repositories` gives the IDs that have names; without
it, images are those that are nobody's parent. Nothing in this format guards the layers.

Spec: docker-image-spec v1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

from dimgx.errors import ImageError
from dimgx.image import Image, Layer, UnreadableBlob
from dimgx.jsondoc import Fields, clean, parse_json
from dimgx.oci import CONFIG_LIMIT, HistoryStep, parse_config, parse_platform_fields
from dimgx.platforms import Platform
from dimgx.sources.choice import Candidate, Variant, id_start
from dimgx.sources.files import Files

_ID = re.compile(r"[0-9a-f]{64}")


def find_ids(names: Iterable[str]) -> list[str]:
    """Give the IDs whose `json` is among the names of an archive, in order."""
    known = dict.fromkeys(names)
    parts = (name.partition("/") for name in known)
    return [
        head
        for head, _, rest in parts
        if rest == "json" and (_ID.fullmatch(head) or f"{head}/layer.tar" in known)
    ]


def list_chains(files: Files, ids: list[str], ref: str | None) -> list[Candidate]:
    """Give the images of an archive that has the directories `ids`.

    An ID that `ref` names counts as an image too, even if another is built on it.

    Raises: ImageError where `repositories` is malformed or no image is left.
    """
    reader = _Reader(files)
    tags = _read_repositories(files)
    heads = list(tags)
    if not heads:
        parents = {reader.parent(id) for id in ids}
        heads = [id for id in ids if id not in parents]
        if not heads:
            raise ImageError(f"{files.where}: the chain of parents is broken: it has no end")
    wanted = id_start(ref or "")
    if wanted and not any(id.startswith(wanted) for id in heads):
        heads += [id for id in ids if id.startswith(wanted)]
    return [
        Candidate(
            (position,),
            tuple(tags.get(id, ())),
            (Variant(reader.platform(id), (id,), partial(reader.open, id, tags)),),
        )
        for position, id in enumerate(heads)
    ]


def _read_repositories(files: Files) -> dict[str, list[str]]:
    """Give names by ID, in order."""
    data = files.read("repositories", CONFIG_LIMIT)
    if data is None:
        return {}
    what = f"{files.where}: repositories"
    document = parse_json(data, what, CONFIG_LIMIT)
    if not isinstance(document, dict):
        raise ImageError(f"{what} is no JSON object")
    names: dict[str, list[str]] = {}
    for name, tags in document.items():
        if not isinstance(tags, dict):
            raise ImageError(f"{what}: {name!r:.200} has no tags")
        for tag, id in tags.items():
            if not isinstance(id, str) or "/" in id or not id:
                raise ImageError(f"{what}: {id!r:.200} is no ID")
            names.setdefault(clean(id), []).append(clean(f"{name}:{tag}"))
    return names


class _Reader:
    """Reads each `<id>/json` once, and opens chains."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._known: dict[str, tuple[Fields, bytes]] = {}

    def _json(self, id: str) -> tuple[Fields, bytes]:
        if id not in self._known:
            what = f"{self._files.where}: {id:.64}/json"
            data = self._files.read(f"{id}/json", CONFIG_LIMIT)
            if data is None:
                raise ImageError(f"{what} is missing: the chain of parents is broken")
            self._known[id] = Fields(parse_json(data, what, CONFIG_LIMIT), what), data
        return self._known[id]

    def parent(self, id: str) -> str | None:
        """Give the ID of the parent."""
        return self._json(id)[0].text("parent") or None

    def platform(self, id: str) -> Platform | None:
        """Give the platform, or None also where the document is bad, which opening tells."""
        try:
            return parse_platform_fields(self._json(id)[0])
        except ImageError:
            return None

    def open(self, id: str, tags: dict[str, list[str]]) -> Image:
        """Give the image whose top is `id`.

        Raises: ImageError where the chain of parents is broken or goes in a circle.
        """
        chain: dict[str, None] = {}
        above: str | None = id
        while above is not None:
            if above in chain:
                raise ImageError(
                    f"{self._files.where}: the chain of parents is broken: {above:.64} is its own"
                    " ancestor"
                )
            chain[above] = None
            above = self.parent(above)
        ids = list(chain)[::-1]
        return Image(
            reference=self._files.where,
            layers=tuple(map(self._layer, ids)),
            config=parse_config(self._json(id)[1], f"{self._files.where}: {id:.64}/json"),
            id=id,
            platform=self.platform(id),
            history=tuple(self._step(own, tuple(tags.get(own, ()))) for own in ids),
        )

    def _layer(self, id: str) -> Layer:
        name = f"{id}/layer.tar"
        problem = f"{self._files.where}: the layer {name:.80} is missing"
        return Layer(self._files.find(name) or UnreadableBlob(problem))

    def _step(self, id: str, tags: tuple[str, ...]) -> HistoryStep:
        fields = self._json(id)[0]
        made_by = fields.fields("container_config")
        command = made_by.words("Cmd") if made_by else []
        return HistoryStep(
            empty=False,
            created=fields.text("created"),
            created_by=" ".join(command) or None,
            comment=fields.text("comment") or None,
            author=fields.text("author") or None,
            id=id,
            parent_id=self.parent(id),
            tags=tags,
            size=_size_of(fields),
        )


def _size_of(fields: Fields) -> int | None:
    """Give the stated size; None where it is no size, as the -1 that Docker wrote at times."""
    try:
        return fields.integer("Size")
    except ImageError:
        return None
