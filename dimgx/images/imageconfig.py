"""The config of an image that is made: its source's, with the layers and the history it has now.

1. What says how a container runs is kept as it is, and so is what nobody here knows. What speaks
   of the layers (rootfs, history, a build cache's record of them) is made anew or left out.
2. The history has one step for the layer that was made. Below it stand the steps of the layers
   that were kept, if there are any, empty ones included.
3. Nothing depends on the source's form or name: the same layers and options give the same bytes.

Spec: image-spec config.md.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from dimgx.errors import ImageError, UsageError
from dimgx.jsondoc import Fields, parse_json
from dimgx.oci import CONFIG_LIMIT
from dimgx.settings import parse_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dimgx.digest import Digest
    from dimgx.image import Image
    from dimgx.oci import HistoryStep
    from dimgx.settings import Settings

    Json = dict[str, object]

# A build cache's record names layers by their number: a build would get another layer's content.
_OF_LAYERS = frozenset(("rootfs", "history", "moby.buildkit.cache.v0"))
# Of images before Docker 1.10, each of which has one layer and no rootfs.
_OF_ONE_LAYER = frozenset(("id", "parent", "parent_id", "layer_id", "size", "throwaway"))
_ANEW = frozenset(("created", "architecture", "os", "variant"))
# RFC 3339 as Go's readers take it: without its small letters and leap seconds.
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?!24)[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:Z|[+-][0-9]{2}:[0-5][0-9])"
)
_SHORT = 12


def make_config(
    image: Image, diff_ids: Sequence[Digest], history: Sequence[Json], created: str | None
) -> bytes:
    """Give the config of an image with the layers `diff_ids`, base to top, that runs as `image`.

    `created` replaces the source's time, where that is one.

    Raises: ImageError where the source's config is malformed.
    """
    old = _parse(image)
    fields = Fields(old, "the config")
    left_out = _OF_LAYERS | _ANEW | (frozenset() if fields.has("rootfs") else _OF_ONE_LAYER)
    kept = {
        key: _without_nulls(value) if key.lower() == "config" else value
        for key, value in old.items()
        if key.lower() not in left_out and value is not None
    }
    created = created or created_of(image)
    platform: Json = {
        "architecture": fields.text("architecture") or "",
        "os": fields.text("os") or "linux",
    }
    variant = fields.text("variant")
    if image.platform is not None:
        platform["architecture"] = platform["architecture"] or image.platform.architecture
        variant = variant or image.platform.variant
    if variant:
        platform["variant"] = variant
    return dump(
        ({"created": created} if created else {})
        | platform
        | kept
        | {
            "rootfs": {"type": "layers", "diff_ids": list(map(str, diff_ids))},
            "history": list(history),
        }
    )


def created_of(image: Image) -> str | None:
    """Give the time that the source's config states, if it is one."""
    created = Fields(_parse(image), "the config").text("created")
    return created if created and _is_time(created) else None


def _is_time(text: str) -> bool:
    from datetime import datetime

    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:  # a month 13, say
        return False
    return True


def time_of(seconds: int) -> str:
    """Give RFC 3339 for seconds since 1970."""
    from datetime import UTC, datetime, timedelta

    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        raise UsageError(f"{seconds} seconds since 1970 are no year of four digits") from None
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def made_step(
    verb: str, ids: Sequence[str | None], created: str | None, comment: str | None
) -> Json:
    """Give the step of a layer that was made of the layers `ids`.

    `verb` says what was done to them.
    """
    what = "layer" if len(ids) == 1 else "layers"
    shown = " ".join((id or "").rpartition(":")[2][:_SHORT] or "-" for id in ids)
    step: Json = {"created": created} if created else {}
    step["created_by"] = f"dimgx: {len(ids)} {what} {verb}" + (f": {shown}" if ids else "")
    return step | ({"comment": comment} if comment else {})


def kept_steps(image: Image, rows: int) -> list[Json]:
    """Give the steps of the lowest `rows` rows, as the source tells them.

    Where its history does not fit its layers a row is a layer, and has a step that names it.
    """
    if sum(not step.empty for step in image.history) != len(image.layers):
        ids = [str(layer.diff_id or layer.digest or "") for layer in image.layers[:rows]]
        return [made_step("kept", [id], None, None) for id in ids]
    told = Fields(_parse(image), "the config").items("history")
    if len(told) == len(image.history):
        return [step if isinstance(step, dict) else {} for step in told[:rows]]
    return [_step_json(step) for step in image.history[:rows]]


def _step_json(step: HistoryStep) -> Json:
    told = {
        "created": step.created,
        "created_by": step.created_by,
        "author": step.author,
        "comment": step.comment,
        "empty_layer": step.empty or None,
    }
    return {key: value for key, value in told.items() if value is not None}


def _parse(image: Image) -> Json:
    if image.config is None:
        return {}
    value = parse_json(image.config.data, f"{image.reference:.300}: the config", CONFIG_LIMIT)
    if not isinstance(value, dict):
        raise ImageError(f"{image.reference:.300}: the config is no JSON object")
    return value


def _without_nulls(value: object) -> object:
    """Give an object's fields that are not null, which to Go's readers are as good as absent."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item is not None}


def settings_of(image: Image) -> Settings | None:
    """Give the settings of an image that is open; None where its source tells none.

    Raises: ImageError where the config is malformed.
    """
    if image.settings is not None:
        return image.settings
    if image.config is None:
        return None
    return parse_settings(Fields(_parse(image), f"{image.reference:.300}: the config"))


def dump(value: object) -> bytes:
    """Give compact JSON in ASCII."""
    return json.dumps(value, separators=(",", ":")).encode()
