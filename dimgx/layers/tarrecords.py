"""PAX records in which all is usual: what they say, quickly, and how they go out.

Records are usual where nothing in them changes a member's size, owner or sparse map, and no engine
or tar program reads them differently. Those that nobody is to see are dropped (rules 27 and 45).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dimgx.layers.names import MAX_PATH
from dimgx.layers.tarfields import TIME_RECORDS, is_kept_record

_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=\0]+)=")
_TIME = re.compile(rb"[0-9]{1,19}(?:\.[0-9]*)?")
# None of them twice, each record as long as it says.
_LENGTHS = b"|".join(b"%d [^\n]{%d}\n" % (length, length - 4) for length in range(30, 10, -1))
ONLY_TIMES = re.compile(
    b"(?s)(?:(?=%b)" % _LENGTHS
    + rb"[0-9]{2} ([mac])time=[0-9]{1,19}(?:\.[0-9]*)?\n(?!.* \1time=))+"
)
"""Matches usual records that are nothing but times."""
_UNUSUAL_KEYS = re.compile(rb"(?:size|[ug]id|[ug]name|GNU\.sparse\..*)", re.DOTALL)


class UsualRecords(NamedTuple):
    """What usual records say."""

    path: bytes = b""
    linkpath: bytes = b""
    dropped: int = 0
    """Bytes of the records that nobody is to see."""
    too_late: int = 0
    """Bytes of the records with times that are not to go out."""


def read_usual_records(payload: bytes, clamp_mtime_s: int | None) -> UsualRecords | None:
    """Give what the records of a PAX header say, or None if they are not usual."""
    # What most have is a path alone.
    stated, _, path = payload[:-1].partition(b" path=")
    if path and stated == b"%d" % len(payload) and len(path) <= MAX_PATH and b"\0" not in path:
        return UsualRecords(path) if payload.endswith(b"\n") else None
    texts = {b"path": b"", b"linkpath": b""}
    seen: set[bytes] = set()
    dropped = too_late = 0
    at, end = 0, len(payload)
    while at < end:
        match = _RECORD.match(payload, at)
        if match is None:
            return None
        key, length = match[2], int(match[1])
        at += length
        if at > end or payload[at - 1] != 10 or at <= match.end():
            return None
        value = payload[match.end() : at - 1]
        if key in TIME_RECORDS:
            if key in seen or not _TIME.fullmatch(value):
                return None
            seen.add(key)
            if clamp_mtime_s is not None and _is_too_late(key, value, clamp_mtime_s):
                too_late += length
        elif key in texts:
            if texts[key] or not value or b"\0" in value or len(value) > MAX_PATH:
                return None
            texts[key] = value
        elif is_kept_record(key):
            if key in seen or not (value or key.startswith(b"SCHILY.xattr.")):
                return None
            seen.add(key)
        elif _UNUSUAL_KEYS.fullmatch(key):
            return None
        else:
            dropped += length
    return UsualRecords(texts[b"path"], texts[b"linkpath"], dropped, too_late)


def split_records(payload: bytes) -> dict[bytes, bytes]:
    """Give the records, each with its length and its end, by their keys.

    Of several with one key, which nobody is to see, the last is there.
    """
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(payload):
        space = payload.index(b" ", at)
        end = at + int(payload[at:space])
        records[payload[space + 1 : payload.index(b"=", space)]] = payload[at:end]
        at = end
    return records


def value_of(record: bytes) -> bytes:
    """Give the value of a record."""
    return record.partition(b"=")[2][:-1]


def drop_unseen(records: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Give the records without those that nobody is to see."""
    return {
        key: record
        for key, record in records.items()
        if key in (b"path", b"linkpath") or is_kept_record(key)
    }


def drop_too_late(records: dict[bytes, bytes], clamp_mtime_s: int) -> dict[bytes, bytes]:
    """Give the records without times that may be later than all are to be."""
    return {
        key: record
        for key, record in records.items()
        if key not in TIME_RECORDS or not _is_too_late(key, value_of(record), clamp_mtime_s)
    }


def _is_too_late(key: bytes, value: bytes, clamp_mtime_s: int) -> bool:
    """Tell whether a record has a time that may be later than all are to be."""
    return key != b"mtime" or int(value.partition(b".")[0]) >= clamp_mtime_s
