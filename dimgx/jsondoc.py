"""JSON that strangers wrote, bounded in bytes and depth and read field by field.

Docker, containerd and podman read these documents with Go's encoding/json, so its reading counts:
keys fit in any case, the last of equal keys wins, null is as good as absent, bytes that are not
UTF-8 and lone surrogates become U+FFFD, and a value of the wrong type is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import inf

from dimgx.errors import ImageError

MAX_DEPTH = 128
"""Deepest nesting that is read; real documents stay below 20."""
MAX_ITEMS = 100_000
"""Most items of a list that is read; millions fit into a document, and each takes room."""
MAX_INTEGER = (1 << 63) - 1

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(data: bytes, what: str, limit: int) -> object:
    """Give the value that `data` spells; `what` names the document in errors, `limit` is in bytes.

    Raises: ImageError where it is too large, too deep or not JSON.
    """
    import json

    if len(data) > limit:
        raise ImageError(f"{what} has {len(data)} bytes; at most {limit} are read")
    text = data.decode("utf-8-sig", errors="replace")
    try:
        value: object = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_in_order,
        )
    except RecursionError:
        raise ImageError(f"{what} is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as exc:
        # Its text shows no more of the document than a position, but may be about the
        # interpreter's own limits on integers.
        reason = str(exc).partition(";")[0] if data.strip() else "it is empty"
        raise ImageError(f"{what} is not valid JSON: {reason:.200}") from exc
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise ImageError(f"{what} is nested deeper than {MAX_DEPTH} levels")
    return value


def _in_order(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Give an object whose keys stand where they came last, as another may differ in case only."""
    found: dict[str, object] = {}
    for key, value in pairs:
        found.pop(key, None)
        found[key] = value
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    """Give a number that can be written again, which one beyond all bounds cannot."""
    value = float(text)
    if value in (inf, -inf):
        raise ValueError("a number is out of range")
    return value


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def in_lines(value: object) -> str:
    """Give JSON as people and programs read it, in ASCII."""
    import json

    return json.dumps(value, indent=2) + "\n"


def clean(text: str) -> str:
    """Give `text` with U+FFFD in the place of lone surrogates, so that it can be encoded."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


class Fields:
    """A JSON object whose fields are asked for by name and type.

    Each method gives what stands under `key`, in whatever case, or the empty value where it is
    absent or null, and raises ImageError where it is of another type.
    """

    __slots__ = ("_values", "what")

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise ImageError(f"{what} is no JSON object")
        self._values: dict[str, object] = {key.lower(): item for key, item in value.items()}
        self.what = what

    def __contains__(self, key: str) -> bool:
        return self.value(key) is not None

    def has(self, key: str) -> bool:
        """Tell whether there is such a field, even if it is null."""
        return key.lower() in self._values

    def _wrong(self, key: str, expected: str) -> ImageError:
        return ImageError(f"{self.what}: {key} is no {expected}")

    def value(self, key: str) -> object:
        """Give what stands there, whatever its type."""
        return self._values.get(key.lower())

    def text(self, key: str) -> str | None:
        """Give a string."""
        value = self.value(key)
        if value is None or isinstance(value, str):
            return value and clean(value)
        raise self._wrong(key, "string")

    def integer(self, key: str) -> int | None:
        """Give an integer from 0 to 2^63 - 1."""
        value = self.value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INTEGER:
            raise self._wrong(key, "integer of 0 or more")
        return value

    def boolean(self, key: str) -> bool:
        """Give a truth value; absent is false."""
        value = self.value(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self._wrong(key, "boolean")

    def fields(self, key: str) -> Fields | None:
        """Give an object."""
        value = self.value(key)
        return None if value is None else Fields(value, f"{self.what}: {key}")

    def items(self, key: str) -> list[object]:
        """Give a list."""
        value = self.value(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(key, "list")
        if len(value) > MAX_ITEMS:
            raise ImageError(
                f"{self.what}: {key} has {len(value)} items; at most {MAX_ITEMS} are read"
            )
        return value

    def objects(self, key: str) -> list[Fields]:
        """Give a list of objects."""
        return [
            Fields({} if item is None else item, f"{self.what}: {key}[{i}]")
            for i, item in enumerate(self.items(key))
        ]

    def texts(self, key: str) -> list[str]:
        """Give a list of strings."""
        return [self._item_text(key, item) for item in self.items(key)]

    def _item_text(self, key: str, item: object) -> str:
        if item is None:
            return ""
        if not isinstance(item, str):
            raise self._wrong(key, "list of strings")
        return clean(item)

    def words(self, key: str) -> list[str]:
        """Give a list of strings that may also be spelled as a single one."""
        value = self.value(key)
        return [clean(value)] if isinstance(value, str) else self.texts(key)

    def mapping(self, key: str) -> dict[str, object]:
        """Give an object whose keys are data: they keep their case."""
        value = self.value(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(key, "JSON object")
        return {clean(name): item for name, item in value.items()}

    def text_mapping(self, key: str) -> dict[str, str]:
        """Give an object whose keys are data and whose values are strings (others are left out)."""
        return {k: clean(v) for k, v in self.mapping(key).items() if isinstance(v, str)}
