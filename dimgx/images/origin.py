"""What a target was made from, as a record that it carries, so that no work is done twice.

1. A record is one line of JSON: its version (`dimgx`), the ordered diff_ids of what was merged, and
   each option that shapes the content and is not at its default. Nothing in it depends on where an
   image comes from, or on what it is called. Form and compression are not in it, as the target
   itself shows them: so the image is the same, ID and all, in every form, and the tar in each
   compression.
2. A layer without a diff_id is known by its v1 ID (bare hex), or, where a config has no rootfs, by
   its stored blob (`blob:sha256:...`).
3. Image forms carry the config on, so all of it counts there: by the image ID. Docker on
   containerd's store does not tell that; there what every source tells of the config counts, by
   digests of it written one way.
4. A record of another version is ours, but tells nothing: version 0 lies in a directory while what
   it holds is replaced. A text of another shape is nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from dimgx.errors import ImageError
from dimgx.jsondoc import Fields, parse_json

if TYPE_CHECKING:
    from dimgx.codec import Coding
    from dimgx.image import Image, Layer

VERSION = 1
"""Of records. To be raised when the same image and options come to another content."""
LIMIT = 1 << 20
"""Most bytes of a record."""
SILENT = '{"dimgx":0}'
"""A record that tells nothing (rule 4)."""


class NoOrigin(ImageError):
    """There is no record of dimgx."""


class Origin(NamedTuple):
    """What something was made from, and how."""

    layers: tuple[str, ...]
    """What was merged, lower to upper; see rule 2."""
    below: tuple[str, ...] = ()
    """The layers that stayed as they are, below those that were merged."""
    is_squashed: bool = False
    """It is the changeset over `below`, which may be none."""
    is_kept: bool = False
    """Nothing was merged: the layers are those of the image."""
    added: tuple[str, ...] = ()
    """diff_ids of what was laid over the layers."""
    paths: tuple[str, ...] = ()
    """The rules of what is left out: `+` or `-` and a pattern, in order."""
    strip_components: int = 0
    prefix: str = ""
    root_entry: bool = False
    clamp_mtime: int | None = None
    """Seconds since 1970."""
    level: int | None = None
    """Of a tar's compression, where it is not the usual one."""
    created: int | None = None
    """What took the place of an image's time: seconds since 1970."""
    image: str | None = None
    """ID of the image whose config is carried on, where it is known; see rule 3."""
    settings: str | None = None
    """Digest of the run settings, where they are carried on and were known; see rule 3."""
    healthcheck: str | None = None
    """Digest of the health check, or `none`; likewise."""
    platform: str | None = None
    """os/architecture[/variant]; likewise."""
    version: int = VERSION
    """Of the record."""

    def fields(self) -> dict[str, object]:
        """Give the record as a JSON object."""
        if self.version != VERSION:
            return {"dimgx": self.version}
        record: dict[str, object] = {"dimgx": VERSION, "layers": self.layers}
        for name, key in _KEYS.items():
            value = getattr(self, name)
            if value != Origin._field_defaults[name]:
                record[key] = value
        return record

    @property
    def text(self) -> str:
        """The record: JSON on one line, in ASCII."""
        import json

        return json.dumps(self.fields(), separators=(",", ":"))


_KEYS = {
    name: name.removeprefix("is_") for name in Origin._fields if name not in ("layers", "version")
}


def parse_origin(text: str | bytes | None) -> Origin:
    """Give the origin that a record tells.

    Raises: NoOrigin where it is no record of dimgx, or a malformed one.
    """
    data = text.encode() if isinstance(text, str) else text or b""
    try:
        record = Fields(parse_json(data, "the record", LIMIT), "the record of its origin")
        version = record.integer("dimgx")
        if version is None:
            raise ImageError("there is no record of dimgx")
        if version != VERSION:
            return Origin((), version=version)
        return Origin(
            layers=tuple(record.texts("layers")),
            below=tuple(record.texts("below")),
            is_squashed=record.boolean("squashed"),
            is_kept=record.boolean("kept"),
            added=tuple(record.texts("added")),
            paths=tuple(record.texts("paths")),
            strip_components=record.integer("strip_components") or 0,
            prefix=record.text("prefix") or "",
            root_entry=record.boolean("root_entry"),
            clamp_mtime=record.integer("clamp_mtime"),
            level=record.integer("level"),
            created=record.integer("created"),
            image=record.text("image"),
            settings=record.text("settings"),
            healthcheck=record.text("healthcheck"),
            platform=record.text("platform"),
        )
    except ImageError as exc:
        raise NoOrigin(str(exc)) from exc


def unusual_level(coding: Coding) -> int | None:
    """Give the level as a record has it: saying the usual one changes nothing."""
    if coding.level is None or coding.compression is None:
        return coding.level
    from dimgx.encode import usual_level

    return None if coding.level == usual_level(coding.compression) else coding.level


def marks_of(image: Image, layers: Sequence[Layer]) -> tuple[str, ...]:
    """Give what each of `layers`, which are of `image`, is known by; see rule 2.

    Raises: ImageError for a layer that nothing identifies.
    """
    ids = [step.id for step in image.history if not step.empty]
    if len(ids) != len(image.layers):
        ids = [None] * len(image.layers)
    known = dict(zip(image.layers, ids, strict=True))
    return tuple(_mark(layer, known.get(layer)) for layer in layers)


def _mark(layer: Layer, id: str | None) -> str:
    if layer.diff_id is not None:
        return str(layer.diff_id)
    if id is not None:
        return id
    if layer.digest is not None:
        return f"blob:{layer.digest}"
    raise ImageError("a layer has neither a digest nor an ID, so its origin cannot be recorded")
