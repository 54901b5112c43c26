"""A listing as people and programs read it: the table, the IDs alone, the JSON document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dimgx.platforms import platform_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from dimgx.inspector import Listing, Row

JSON_VERSION = 1
"""Grows when a key of the JSON document changes its meaning or goes; new keys do not count."""

_HEADINGS = (
    "REPO TAG",
    "IMAGE ID",
    "PARENT ID",
    "CREATED",
    "LAYER SIZE",
    "VIRTUAL SIZE",
    "@",
    "CREATED BY",
)
# In a pipe the columns of old stand where they always stood, a tab after each.
_OLD_WIDTHS = (23, 15, 15, 15, 15, 15, 7)
_TAB = 8
_LEAST_CREATED_BY = 20


def escape(text: str) -> str:
    r"""Give `text` in one line that a terminal shows as it is: control characters as `\xNN`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape_char(char) for char in text)


def _escape_char(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as surrogateescape keeps it
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def short_id(identifier: str | None, absent: str) -> str:
    """Give 12 digits of an ID without its algorithm."""
    return absent if identifier is None else escape(identifier.rpartition(":")[2][:12])


def format_ids(listing: Listing) -> str:
    """Give one ID a line, newest first."""
    return "".join(f"{short_id(row.id, '<none>')}\n" for row in listing.rows)


def format_table(listing: Listing, *, width: int | None, now_s: float) -> str:
    """Give the table, newest first.

    With `width`, the columns of a terminal: no wider than they must be, CREATED BY cut to what is
    left. Without it lines are as long as they are, and columns are a tab apart.
    """
    lines: list[tuple[str, ...]] = [_HEADINGS]
    for row, virtual_size in _with_virtual_sizes(listing.rows):
        lines.append((_shown_tag(row.tags, listing.reference), *_cells(row, virtual_size, now_s)))
    widths = [max(_columns(line[column]) for line in lines) for column in range(len(_HEADINGS) - 1)]
    if width is None:
        # Cells end two characters or more before the next, at a multiple of eight.
        widths = [
            max(old, (need + 1) // _TAB * _TAB + _TAB - 1)
            for old, need in zip(_OLD_WIDTHS, widths, strict=True)
        ]
        separator, room = "\t", None
    else:
        separator = "  "
        room = max(_LEAST_CREATED_BY, width - sum(widths) - len(separator) * len(widths))
    text = []
    for line in lines:
        cells = [
            cell + " " * (wide - _columns(cell)) for cell, wide in zip(line, widths, strict=False)
        ]
        text.append(separator.join([*cells, _cut(line[-1], room)]) + "\n")
    return "".join(text)


def _columns(text: str) -> int:
    """Give how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    wide = sum(east_asian_width(char) in "FW" for char in text)
    return len(text) + wide - sum(map(bool, map(combining, text)))


def _cut(text: str, room: int | None) -> str:
    if room is None or _columns(text) <= room:
        return text
    end = room - 3
    while _columns(text[:end]) > room - 3:
        end -= 1
    return text[:end] + "..."


def _cells(row: Row, virtual_size: int | None, now_s: float) -> tuple[str, ...]:
    """Give what stands in a row behind its tag."""
    return (
        short_id(row.id, "<none>"),
        short_id(row.parent_id, "-"),
        _natural_time(row.created, now_s),
        _natural_size(row.size),
        _natural_size(virtual_size),
        str(row.position),
        escape(" ".join((row.created_by or "").split())) or "-",
    )


def _shown_tag(tags: Sequence[str], reference: str) -> str:
    """Give the tag that was asked for if it is among `tags`, else the first."""
    if not tags:
        return "-"
    from dimgx.imagename import short_name

    asked = f":{reference.removesuffix(':latest')}"
    short = list(map(short_name, tags))
    meant = (tag for tag in short if asked.endswith((f":{tag}", f"/{tag}")))
    return escape(max(meant, key=len, default=short[0]))


def _natural_size(size: int | None) -> str:
    if size is None:
        return "-"
    from humanize import naturalsize

    return naturalsize(size)


def _natural_time(created: str | None, now_s: float) -> str:
    """Give `16 days ago`; `-` for a time that is absent or not RFC 3339."""
    seconds = _seconds(created)
    if seconds is None:
        return "-"
    from datetime import timedelta

    from humanize import naturaltime

    try:
        return naturaltime(timedelta(seconds=now_s - seconds))
    except OverflowError:
        return "-"


def _seconds(created: str | None) -> float | None:
    if not created:
        return None
    from datetime import UTC

    try:
        moment = _parse_time(created)
        if moment.year == 1:  # how Go writes that there is none
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def _parse_time(text: str) -> datetime:
    """Give the moment that `text` states in ISO 8601."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(text)
    except ValueError:
        # It knows forms that the other does not, and takes 20 ms to import.
        from dateutil.parser import isoparse

        return isoparse(text)


def _with_virtual_sizes(rows: Sequence[Row]) -> Iterator[tuple[Row, int | None]]:
    """Yield the rows as they stand, each with the sum of its size and all that lie below it."""
    return reversed(list(zip(reversed(rows), _running_sums(reversed(rows)), strict=True)))


def _running_sums(rows: Iterable[Row]) -> Iterator[int | None]:
    total: int | None = 0
    for row in rows:
        total = None if total is None or row.size is None else total + row.size
        yield total


def json_document(listing: Listing) -> dict[str, Any]:
    """Give the document of `--json`; `docs/json.rst` says what each key means."""
    return {
        "version": JSON_VERSION,
        "reference": listing.reference,
        "image": {
            "id": listing.id,
            "digest": listing.digest,
            "tags": list(listing.tags),
        },
        "platform": platform_fields(listing.platform),
        "size_kind": listing.size_kind,
        "rows": [
            {
                "position": row.position,
                "id": row.id,
                "image_id": row.image_id,
                "parent_id": row.parent_id,
                "tags": list(row.tags),
                "empty": row.is_empty,
                "diff_id": row.diff_id,
                "digest": row.digest,
                "media_type": row.media_type,
                "size": row.size,
                "stored_size": row.stored_size,
                "virtual_size": virtual_size,
                "created": row.created,
                "created_by": row.created_by,
                "comment": row.comment,
                "author": row.author,
            }
            for row, virtual_size in _with_virtual_sizes(listing.rows)
        ],
        "warnings": list(listing.warnings),
    }


def format_json(listing: Listing) -> str:
    """Give the JSON document in lines, its keys in the order of the schema."""
    from dimgx.jsondoc import in_lines

    return in_lines(json_document(listing))
