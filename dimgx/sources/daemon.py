"""The Docker Engine, through its API.

1. `inspect` names the image, its layers and its platform; `history` its steps, newest first, each
   with the ID and the tags of the image that it was, as long as the chain of parents goes.
2. The history does not say which steps brought a layer. What the ancestors' own layers, the steps'
   sizes and their commands tell is enough for nearly all images; where it is not, the config of
   the saved image tells (`Described.is_certain`).
3. Platforms: containerd's store tells which it has from API 1.49 on, and the engine describes and
   saves (since 1.48) the one that is named; before, the archive's index has them.

Spec: Docker Engine API; moby daemon/images/image_history.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dimgx.digest import Digest
from dimgx.errors import DimgxError, ImageError
from dimgx.image import Image, SizeKind
from dimgx.jsondoc import Fields
from dimgx.oci import INDEX_TYPES, HistoryStep, parse_platform_fields
from dimgx.platforms import Platform
from dimgx.settings import parse_settings
from dimgx.sources.connection import Connection, Refused, quoted
from dimgx.sources.described import Described

if TYPE_CHECKING:
    from contextlib import ExitStack
    from datetime import datetime

_MISSING = "<missing>"
_NO_TAG = ("<none>:<none>", "<none>@<none>")
# What changes the config alone; whatever else may change files without a byte of content.
_CONFIG_STEP = re.compile(
    r"(?:.*#\(nop\) +)?(?:ARG|CMD|ENTRYPOINT|ENV|EXPOSE|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|SHELL"
    r"|STOPSIGNAL|USER|VOLUME)(?: |$)"
)


class DockerEngine:
    """The Docker Engine at the other end of a connection."""

    size_kind: SizeKind = "unpacked"

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.where = f"the Docker Engine at {connection.endpoint}"

    def describe(self, name: str, platform: Platform | None) -> Described:
        """Give what it tells of an image."""
        is_telling = self.connection.api_version >= (1, 49)
        image = self._inspect(name, {"manifests": "1"} if is_telling else {})
        id = full_id(image.text("Id"), image.what)
        manifests = list(_images_of(image))
        platforms = tuple(platform for platform, _ in manifests)
        choice = _choice_among(platforms, platform)
        if choice:
            # The ID that it tells then is that platform's manifest's, by which it finds nothing.
            image = self._inspect(id, choice)
        digest = _digest_of(image, manifests)
        tags = clean_tags(image.texts("RepoTags"))
        digests = [text.rpartition("@")[2] for text in image.texts("RepoDigests")]
        history = self._history(id, choice)
        steps = [_parse_step(fields) for fields in reversed(history)]
        ancestors = self._ancestors(steps[:-1])
        for i, ancestor in ancestors.items():
            created = rfc3339(ancestor.value("Created")) or steps[i].created
            steps[i] = steps[i]._replace(created=created)
        if steps:
            created = rfc3339(image.value("Created")) or steps[-1].created
            steps[-1] = steps[-1]._replace(id=id, tags=tags, created=created)
        diff_ids = layers_of(image)
        counts = {i: len(layers_of(fields)) for i, fields in ancestors.items()}
        empty = find_empty(steps, counts, len(diff_ids))
        if empty is not None:
            steps = [
                step._replace(empty=is_empty) for step, is_empty in zip(steps, empty, strict=True)
            ]
        return Described(
            id=id,
            tags=tags,
            platform=parse_platform_fields(image),
            diff_ids=diff_ids,
            steps=tuple(_linked(steps)),
            is_certain=empty is not None or not steps,
            ancestors=tuple((counts[i], steps[i].id or "") for i in counts),
            settings=parse_settings(image),
            is_id_of_config="Descriptor" not in image and id not in digests,
            platforms=platforms,
            digest=digest,
        )

    def open_stored(
        self, described: Described, resources: ExitStack, *, verify: bool
    ) -> Image | None:
        """Give an image that it has described as it lies in its own files, if they are here."""
        if not self.connection.has_local_files:
            return None
        what = f"{self.where}: what it tells of itself"
        try:
            info = Fields(self.connection.get(self.connection.url("/info"), "itself"), what)
        except DimgxError:
            return None
        from dimgx.sources.dockerstore import open_stored

        id = Digest.parse(described.id)
        return open_stored(info, id, described.diff_ids, resources, verify=verify)

    def unshare(self) -> tuple[str, ...]:
        """Give the command that leads to where the engine runs."""
        from dimgx.sources.unshared import command_into

        return command_into(self.connection.endpoint.socket_path)

    def iter_saved(self, id: str, platform: Platform | None) -> Iterator[bytes]:
        """Yield the archive of an image."""
        url = self.connection.url(f"/images/{quoted(id)}/get")
        if platform is None or self.connection.api_version < (1, 48):
            return self.connection.iter_get(url, {})
        return self.connection.iter_get(url, _choice(platform))

    def iter_pulled(self, name: str, platform: Platform | None) -> Iterator[Fields]:
        """Fetch an image from its registry."""
        return self.connection.pull(name, str(platform) if platform else None)

    def list_images(self) -> list[tuple[str, tuple[str, ...]]]:
        """Give the ID and the tags of every image, intermediate ones too."""
        url = self.connection.url("/images/json")
        found = self.connection.get(url, "the list of images", {"all": 1})
        return parse_images(found, str(self.connection.endpoint))

    def find_container(self, name: str) -> str | None:
        """Give the image of a container."""
        try:
            url = self.connection.url(f"/containers/{quoted(name)}/json")
            found = Fields(self.connection.get(url, name), name)
        except Refused:
            return None
        config = found.fields("Config")
        return (config and config.text("Image")) or found.text("Image")

    def close(self) -> None:
        """Let go of the connection."""
        self.connection.close()

    def _inspect(self, name: str, params: dict[str, str]) -> Fields:
        url = self.connection.url(f"/images/{quoted(name)}/json")
        what = f"{self.where}: the image {name!r:.200}"
        return Fields(self.connection.get(url, name, params), what)

    def _history(self, id: str, params: dict[str, str]) -> list[Fields]:
        what = f"{self.where}: the history of {id:.20}"
        found = self.connection.get(
            self.connection.url(f"/images/{quoted(id)}/history"), "the history", params
        )
        return Fields({"steps": found}, what).objects("steps")

    def _ancestors(self, steps: Sequence[HistoryStep]) -> dict[int, Fields]:
        """Give what is told of the steps that are images of their own."""
        found = {}
        for index, step in enumerate(steps):
            if step.id is None:
                continue
            try:
                found[index] = self._inspect(step.id, {})
            except Refused:  # removed meanwhile
                continue
        return found


def _choice(platform: Platform) -> dict[str, str]:
    """Give what names a platform in a request."""
    from json import dumps

    return {"platform": dumps({key: value for key, value in platform._asdict().items() if value})}


def _choice_among(platforms: Sequence[Platform], wanted: Platform | None) -> dict[str, str]:
    """Give what names the one that meets `wanted` best, nothing where none does."""
    ranked = [
        (rank, place)
        for place, platform in enumerate(platforms)
        if wanted is not None and (rank := wanted.rank(platform)) is not None
    ]
    return _choice(platforms[min(ranked)[1]]) if ranked else {}


def _images_of(image: Fields) -> Iterator[tuple[Platform, str | None]]:
    """Yield the platforms that are there, with their manifests' IDs, where `inspect` tells them."""
    for manifest in image.objects("Manifests"):
        data = manifest.fields("ImageData")
        fields = data.fields("Platform") if data and manifest.boolean("Available") else None
        platform = parse_platform_fields(fields) if fields is not None else None
        if platform is not None:
            yield platform, manifest.text("Id")


def _digest_of(image: Fields, manifests: Sequence[tuple[Platform, str | None]]) -> Digest | None:
    """Give the digest of an image's manifest, where it is told: by itself, or by its platform."""
    descriptor = image.fields("Descriptor")
    if descriptor is None:
        return None
    digest = descriptor.text("digest")
    if descriptor.text("mediaType") in INDEX_TYPES:
        platform = parse_platform_fields(image)
        ids = [id for one, id in manifests if one == platform]
        digest = ids[0] if len(ids) == 1 else None
    return parse_told(digest, image.what) if digest else None


def parse_told(digest: str, what: str) -> Digest:
    """Give a digest that an engine tells.

    Raises: ImageError where it is none.
    """
    try:
        return Digest.parse(digest)
    except ImageError as exc:
        raise ImageError(f"{what}: {exc}") from None


def full_id(text: str | None, what: str) -> str:
    """Give an image ID as `sha256:<hex>`, however the engine spells it.

    Raises: ImageError where it is none.
    """
    spelled = (text or "").lower()
    whole = spelled if ":" in spelled else f"sha256:{spelled}"
    return str(parse_told(whole, f"{what}: the image's ID"))


def clean_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Give names that are names."""
    return tuple(tag for tag in tags if tag and tag not in _NO_TAG)


def layers_of(image: Fields) -> tuple[Digest, ...]:
    """Give the diff_ids that `inspect` lists, base to top."""
    rootfs = image.fields("RootFS")
    return tuple(parse_told(one, image.what) for one in rootfs.texts("Layers")) if rootfs else ()


def parse_images(found: object, what: str) -> list[tuple[str, tuple[str, ...]]]:
    """Give ID and tags of each image of an engine's list."""
    images = Fields({"images": found}, what).objects("images")
    return [
        (full_id(image.text("Id"), what), clean_tags(image.texts("RepoTags"))) for image in images
    ]


def rfc3339(created: object) -> str | None:
    """Give a time as RFC 3339: engines tell it as that, or as seconds since 1970."""
    if isinstance(created, str):
        return created or None
    moment = moment_of(created)
    if moment is None:
        return None
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def moment_of(seconds: object) -> datetime | None:
    """Give the time so many seconds after 1970, which may be before it; None for what is none."""
    from datetime import UTC, datetime, timedelta

    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return None


def _parse_step(fields: Fields) -> HistoryStep:
    id = fields.text("Id")
    return HistoryStep(
        empty=False,
        created=rfc3339(fields.value("Created")),
        created_by=fields.text("CreatedBy") or None,
        comment=fields.text("Comment") or None,
        id=None if not id or id == _MISSING else full_id(id, fields.what),
        tags=clean_tags(fields.texts("Tags")),
        size=fields.integer("Size"),
    )


def _linked(steps: Sequence[HistoryStep]) -> Iterator[HistoryStep]:
    """Yield the steps with the parents that have an ID."""
    below: str | None = None
    for step in steps:
        yield step._replace(parent_id=below)
        below = step.id


def find_empty(
    steps: Sequence[HistoryStep], counts: dict[int, int], total: int
) -> list[bool] | None:
    """Tell of each step whether it brought no layer; None where that cannot be told.

    `counts` gives how many layers there are after some of the steps before the last, in their
    order, `total` after the last.
    """
    found: list[bool] = []
    below = 0
    for index, count in (*counts.items(), (len(steps) - 1, total)):
        part = steps[len(found) : index + 1]
        empty = _find_empty_between(part, count - below)
        if empty is None:
            return None
        found += empty
        below = count
    return found


def _find_empty_between(steps: Sequence[HistoryStep], count: int) -> list[bool] | None:
    """Tell which of `steps`, that brought `count` layers together, brought none."""
    if count == len(steps):
        return [False] * count
    sized = [bool(step.size) for step in steps]
    # A layer may be without content: a directory, a change of mode, something removed.
    possible = [
        size or not _CONFIG_STEP.match(step.created_by or "")
        for step, size in zip(steps, sized, strict=True)
    ]
    for guess in (sized, possible):
        if sum(guess) == count:
            return [not is_layer for is_layer in guess]
    return None
