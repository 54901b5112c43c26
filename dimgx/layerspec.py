"""LAYER_SPEC: which rows of an image are meant, and in what order they cover each other.

1. A part is `@n` (from the base; negative from the top), a prefix of an image ID or diff_id (1 to
   64 hex digits, with or without `sha256:`), or a tag.
2. A spec is a part, or two parts with a colon between them: an inclusive range, `b:a` being the
   reverse of `a:b`. Tags and IDs hold colons themselves, so what is wholly a known part is that;
   else it is split at the one colon where both sides name a row.
3. A part that hits several rows of one diff_id (a layer that is there twice) means them all; one
   that hits different IDs is ambiguous.
4. The specs make one list; a row named later covers those named earlier. Turned round if asked;
   then each row is used once, at its last place.
"""

from __future__ import annotations

import re
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from dimgx.errors import LayerSpecError, UsageError
from dimgx.imagename import normal_name
from dimgx.recipe import check_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dimgx.inspector import Row

_POSITION = re.compile(r"@(-?[0-9]{1,99})")
_ID = re.compile(r"(?:sha256:)?([0-9a-fA-F]{1,64})")
# A name with an optional tag and digest: loose, since it only has to tell a typo from a name.
_TAG = r"[A-Za-z0-9][A-Za-z0-9._/-]*(?::[A-Za-z0-9._/-]+){0,2}(?:@sha256:[0-9a-f]{64})?"
_PART = rf"(?:@-?[0-9]{{1,99}}|(?:sha256:)?[0-9a-fA-F]{{1,64}}|{_TAG})"
_SPEC = re.compile(rf"{_PART}(?::{_PART})?")
_NUMBERS = re.compile(r"([0-9]{1,4})(?::([0-9]{1,4}))?")
_CANDIDATES_SHOWN = 8


class Selection(NamedTuple):
    """The rows that layer specs name."""

    rows: tuple[Row, ...]
    """In the order in which they are laid on each other: the last covers those before it."""
    unknown: tuple[str, ...] = ()
    """Specs that named no row, as they were given."""


class _AmbiguousError(LayerSpecError):
    """More than one row where one is needed."""


def select(
    rows: Sequence[Row], specs: Iterable[str] = (), *, reverse: bool = False, strict: bool = False
) -> Selection:
    """Give the rows that `specs` name, of `rows` in whatever order. Without specs: all of them.

    Raises: UsageError for bad grammar; LayerSpecError for an ambiguous spec, and with `strict` for
        one that names no row.
    """
    check_list(specs, "specs")
    specs, rows = tuple(specs), sorted(rows, key=attrgetter("position"))
    for spec in specs:
        if not _SPEC.fullmatch(spec):
            raise UsageError(
                f"{spec!r} is not a layer spec: @N, the beginning of an ID, a tag, or FIRST:LAST"
            )
    chosen = [] if specs else list(range(len(rows)))
    unknown = []
    for spec in specs:
        found = _resolve(rows, spec)
        if found is None:
            unknown.append(spec)
        else:
            chosen += found
    if unknown and strict:
        there = f"it has @0 to @{rows[-1].position}" if rows else "it has none"
        raise LayerSpecError(f"no row of this image is named by {', '.join(unknown)}; {there}")
    if reverse:
        chosen.reverse()
    # A dict keeps the first of equals, so the list goes through it from its end.
    once = list(dict.fromkeys(reversed(chosen)))
    return Selection(tuple(rows[index] for index in reversed(once)), tuple(unknown))


def number_warnings(specs: Iterable[str], count: int) -> list[str]:
    """Give a warning for each spec that looks like numbers of rows, of which there are `count`."""
    return [
        f"-l {spec} is the beginning of an ID, not a row's number: that is written"
        f" @{spec.replace(':', ':@')}"
        for spec in specs
        if (numbers := _NUMBERS.fullmatch(spec))
        and all(int(number) < count for number in numbers.groups(default="0"))
    ]


def _resolve(rows: Sequence[Row], spec: str) -> list[int] | None:
    """Give the indexes that `spec` names, None where it names no row."""
    whole = _resolve_part(rows, spec)
    if whole is not None:
        return whole
    found: dict[int, list[int]] = {}
    ambiguous: _AmbiguousError | None = None
    for place in (index for index, char in enumerate(spec) if char == ":"):
        try:
            first = _resolve_part(rows, spec[:place])
            last = _resolve_part(rows, spec[place + 1 :])
            if first is not None and last is not None:
                found[place] = _range(rows, spec, first, last)
        except _AmbiguousError as exc:
            ambiguous = exc
    if len(found) > 1:
        readings = " or ".join(f"{spec[:place]} to {spec[place + 1 :]}" for place in found)
        raise _AmbiguousError(f"layer spec {spec} may mean {readings}; use @n")
    if found:
        return next(iter(found.values()))
    if ambiguous is not None:
        raise ambiguous
    return None


def _resolve_part(rows: Sequence[Row], part: str) -> list[int] | None:
    position = _POSITION.fullmatch(part)
    if position:
        wanted = int(position[1])
        if wanted < 0:
            return [wanted + len(rows)] if wanted + len(rows) >= 0 else None
        return [i for i, row in enumerate(rows) if row.position == wanted] or None
    by_tag = [index for index, row in enumerate(rows) if _has_tag(row, part)]
    if len(by_tag) > 1:
        raise _ambiguous(rows, part, by_tag)
    if by_tag:
        return by_tag
    matched_id = _ID.fullmatch(part)
    return _by_prefix(rows, part, matched_id[1].lower()) if matched_id else None


def _by_prefix(rows: Sequence[Row], part: str, prefix: str) -> list[int] | None:
    hits = []
    ids = set()
    for index, row in enumerate(rows):
        matching = [
            hexdigits
            for hexdigits in (_hex(row.diff_id), _hex(row.image_id))
            if hexdigits.startswith(prefix)
        ]
        if matching:
            hits.append(index)
            ids.add(matching[0])
    if len(ids) > 1:
        raise _ambiguous(rows, part, hits)
    return hits or None


def _hex(identifier: str | None) -> str:
    return "" if identifier is None else identifier.rpartition(":")[2].lower()


def _has_tag(row: Row, name: str) -> bool:
    wanted = normal_name(name)
    return any(normal_name(tag) == wanted for tag in row.tags)


def _ambiguous(rows: Sequence[Row], part: str, hits: Sequence[int]) -> _AmbiguousError:
    shown = ", ".join(
        f"@{rows[index].position} {_candidate(rows[index], part)}"
        for index in hits[:_CANDIDATES_SHOWN]
    )
    more = len(hits) - _CANDIDATES_SHOWN
    return _AmbiguousError(
        f"layer spec {part} is ambiguous: {shown}" + (f" and {more} more" if more > 0 else "")
    )


def _candidate(row: Row, part: str) -> str:
    prefix = part.removeprefix("sha256:").lower()
    length = max(12, len(prefix) + 4)
    for identifier in (row.diff_id, row.image_id):
        if _hex(identifier).startswith(prefix):
            return _hex(identifier)[:length]
    return _hex(row.id)[:length] or "<none>"


def _range(rows: Sequence[Row], spec: str, first: list[int], last: list[int]) -> list[int]:
    """Give the inclusive range between what two parts name, widest where one names several rows."""
    if first == last:
        return first
    if max(first) < min(last):
        return list(range(min(first), max(last) + 1))
    if min(first) > max(last):
        return list(range(max(first), min(last) - 1, -1))
    raise _ambiguous(rows, spec, sorted({*first, *last}))


def find_row(rows: Sequence[Row], spec: str | Row) -> Row:
    """Give the one row that a layer spec names.

    Raises: LayerSpecError where it names none, or several; UsageError for bad grammar.
    """
    if not isinstance(spec, str):
        return spec
    found = select(rows, (spec,), strict=True).rows
    if len(found) != 1:
        raise LayerSpecError(f"{spec!r:.300} names {len(found)} rows, and one is squashed from")
    return found[0]
