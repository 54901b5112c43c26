"""One tar member's headers: raw blocks in, a `Header` out, by the rules of Go's archive/tar.

All engines read layers with Go's reader, so where tar dialects leave room, its reading counts.

1. The dialect is told by the magic: `ustar\\0` is POSIX (with a prefix for the name), `ustar  \\0`
   is GNU (its prefix field holds times), anything else is V7, which has neither (rules 47, 48).
2. Extended headers come before the header they speak of: `x` (PAX records), `L` and `K` (GNU long
   name and long link target). A PAX record overrides a header field, a GNU long name overrides
   both (rule 49). A global header `g` has no effect at all (rule 50).
3. Numbers are octal, or base-256 where the first bit is set (rule 51).
4. Sparse files in all four forms end in one list of (offset, length) of real data (rule 52).
5. Nothing is allocated that only a size field claims: extended headers are bounded.

Parsing one member like this costs some 20 us, or 35 with an extended header. That is for odd
members; the walker handles ordinary ones in bulk and comes here for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from dimgx.layers.tarfields import (
    BLOCK,
    BLOCKDEV,
    CHARDEV,
    DECIMAL,
    DIRECTORY,
    EXTENDED,
    FILE,
    GLOBAL,
    GNU_FIELDS,
    GNU_MAGIC,
    LINK,
    LONG_LINK,
    LONG_NAME,
    PAX,
    POSIX_MAGIC,
    SYMLINK,
    TIME_RECORDS,
    Header,
    MalformedTar,
    check_sum,
    count_blocks,
    cut,
    is_kept_record,
    is_plain_owner,
    is_plainly_spelled,
    parse_number,
    parse_records,
    show,
)
from dimgx.layers.tarsparse import set_sparse

MAX_EXTENDED_SIZE = 1 << 20
"""Most bytes that one extended header may have, as in Go's reader."""

_ID_MASK = (1 << 32) - 1
_MOST_DEVICES = 1 << 31
_STAR = b"tar\0"
_TIME = re.compile(rb"-?[0-9]{1,19}(?:\.([0-9]*))?")
_FIELD_RECORDS = frozenset(b"path linkpath size uid gid uname gname".split())
_KINDS = {kind: kind for kind in b"0123456"} | {0: FILE, ord("7"): FILE, ord("S"): FILE}


class _Extended:
    """The extended headers before a header."""

    __slots__ = ("had_global", "is_normal", "long_link", "long_name", "offset", "records", "types")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        """Of the first of them, or of the header."""
        self.records: dict[bytes, bytes] = {}
        self.long_name = b""
        self.long_link = b""
        self.types = b""
        self.is_normal = True
        self.had_global = False

    def add(self, typeflag: int, payload: bytes, offset: int) -> None:
        if typeflag in self.types:
            self.is_normal = False
        if typeflag == GLOBAL:
            # It reaches every later member, but nothing in it counts (rule 50).
            self.had_global = True
            parse_records(payload, offset)
            return
        self.types += bytes((typeflag,))
        if typeflag == LONG_NAME:
            self.long_name = cut(payload)
        elif typeflag == LONG_LINK:
            self.long_link = cut(payload)
        else:
            self._add_records(parse_records(payload, offset))

    def _add_records(self, records: list[tuple[bytes, bytes]]) -> None:
        self.records = merged = dict(records)
        sparse_map = [
            value for key, value in records if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        ]
        if sparse_map:
            merged[b"GNU.sparse.map"] = b",".join(sparse_map)
        if len(merged) != len(records):
            self.is_normal = False
        for key, value in list(merged.items()):
            if not value and not key.startswith(b"SCHILY.xattr."):
                del merged[key]
                self.is_normal = False


def read_header(read_at: Callable[[int, int], bytes], offset: int, end: int) -> Header | None:
    """Read and parse the headers of the member that begins at `offset`; None at the tar's end.

    `read_at(offset, size)` gives up to `size` bytes of the tar, which ends at `end`.

    Raises: MalformedTar where the headers are cut short or make no sense.
    """
    extended = _Extended(offset)
    at = offset
    while True:
        block = read_at(at, BLOCK) if at < end else b""
        if len(block) < BLOCK or not block.strip(b"\0"):
            if extended.types:
                raise MalformedTar("an extended header with nothing behind it", offset)
            _check_end(read_at, at, block)
            return None
        if not (check_sum(block, at) and is_plainly_spelled(block) and _is_normal_dialect(block)):
            extended.is_normal = False
        typeflag = block[156]
        if typeflag not in EXTENDED:
            header = set_sparse(_parse(block, extended, at), extended.records, block, read_at)
            _check(header, end)
            return header
        size = parse_number(block[124:136], "the size", at)
        if size < 0:
            raise MalformedTar("a negative size in the header", at)
        if size > MAX_EXTENDED_SIZE:
            raise MalformedTar(f"an extended header of {size} bytes (1 MiB is allowed)", at)
        payload = read_at(at + BLOCK, size)
        if len(payload) < size:
            raise MalformedTar("the tar ends inside an extended header", at)
        extended.add(typeflag, payload, at)
        if not cut(payload):  # an empty long name names nothing to Go, and is the name to others
            extended.is_normal = False
        at += BLOCK * (1 + count_blocks(size))


def _check_end(read_at: Callable[[int, int], bytes], at: int, block: bytes) -> None:
    """Accept the end of a tar: two zero blocks, one, or none (rule 53)."""
    if len(block) < BLOCK:
        if block.strip(b"\0"):
            raise MalformedTar("the tar ends inside a header", at)
        return
    if read_at(at + BLOCK, BLOCK).strip(b"\0"):
        raise MalformedTar("a lone zero block with more behind it", at)


def _check(header: Header, end: int) -> None:
    """See that a member can be, in a tar that ends at `end`."""
    if not header.name and header.kind != DIRECTORY:
        raise MalformedTar("a member without a name that is no directory", header.offset)
    if header.kind == SYMLINK and not header.linkname:
        raise MalformedTar("a symlink without a target", header.offset)
    missing = header.data_offset + header.stored_size - end
    if missing > 0:
        raise MalformedTar(
            f"{show(header.name)} says it has {header.stored_size} bytes, but the tar ends"
            f" {missing} bytes too early",
            header.offset,
        )


def _parse(block: bytes, extended: _Extended, at: int) -> Header:
    """Give what the header at `at` says, with the extended ones before it."""
    typeflag, records = block[156], extended.records
    if typeflag not in _KINDS:
        raise MalformedTar(f"a member of unknown type {chr(typeflag)!r}", extended.offset)
    is_ustar, is_gnu = block[257:263] == b"ustar\0", block[257:265] == GNU_MAGIC
    names = [name for name in (extended.long_name, records.get(b"path")) if name]
    targets = [target for target in (extended.long_link, records.get(b"linkpath")) if target]
    name = names[0] if names else _full_name(block, is_ustar=is_ustar, is_gnu=is_gnu)
    kind = DIRECTORY if typeflag == 0 and name.endswith(b"/") else _KINDS[typeflag]
    linkname = b""
    if kind in (LINK, SYMLINK):
        linkname = targets.pop(0) if targets else cut(block[157:257])
    uid, is_uid_plain = _number(records, b"uid", block[108:116], at)
    gid, is_gid_plain = _number(records, b"gid", block[116:124], at)
    if not 0 <= min(uid, gid) <= max(uid, gid) <= _ID_MASK:
        # Readers disagree on these. Docker hands them to the system, which takes 32 bits.
        uid, gid, is_uid_plain = uid & _ID_MASK, gid & _ID_MASK, False
    mode = parse_number(block[100:108], "the mode", at) & 0o7777
    mtime = parse_number(block[136:148], "the time", at)
    stated = parse_number(block[124:136], "the size", at)
    size, is_size_plain = _number(records, b"size", block[124:136], at)
    if stated < 0:
        raise MalformedTar("a negative size in the header", at)
    device, owners = [0, 0], [b"", b""]
    if is_ustar or is_gnu:
        device = [parse_number(block[k : k + 8], "the device number", at) for k in (329, 337)]
        owners = [cut(block[265:297]), cut(block[297:329])]
    if kind not in (CHARDEV, BLOCKDEV):
        device = [0, 0]
    elif not all(0 <= number < _MOST_DEVICES for number in device):
        raise MalformedTar("a device number that no system has", extended.offset)
    kept, is_all_kept = _keep_records(records, extended.offset)
    if b"mtime" in records:
        mtime = _seconds(records[b"mtime"])
    is_normal = (
        extended.is_normal
        and is_all_kept
        and is_uid_plain
        and is_gid_plain
        and is_size_plain
        and typeflag in b"0123456"
        and len(names) < 2
        and not targets  # but the one that counts
        # Whatever the field says, only files have data (rule 51).
        and (kind == FILE or not (stated or b"size" in records))
        and is_plain_owner(records.get(b"uname", owners[0]), uid)
        and is_plain_owner(records.get(b"gname", owners[1]), gid)
    )
    if kind != FILE:
        size = 0
    return Header(
        name, kind, mode, uid, gid, mtime, linkname, size, device[0], device[1], kept,
        had_pax=PAX in extended.types, offset=extended.offset, data_offset=at + BLOCK,
        stored_size=size, is_normal=is_normal, had_global=extended.had_global,
    )  # fmt: skip


def _full_name(block: bytes, *, is_ustar: bool, is_gnu: bool) -> bytes:
    """Give the name in a header, with the prefix that some dialects have."""
    name, prefix = cut(block[:100]), b""
    if is_ustar:
        prefix = cut(block[345 : 476 if block[508:512] == _STAR else 500])
    elif is_gnu and block[345]:
        prefix = _old_go_prefix(block)
    return prefix + b"/" + name if prefix else name


def _is_normal_dialect(block: bytes) -> bool:
    if block[257:265] == GNU_MAGIC:
        return not any(block[at] for at in GNU_FIELDS)
    return block[257:265] == POSIX_MAGIC and block[508:512] != _STAR


def _old_go_prefix(block: bytes) -> bytes:
    """Give the prefix that Go before 1.8 wrote over the times of a GNU header (rule 48)."""
    try:
        for raw in (block[345:357], block[357:369]):
            if raw[0]:
                parse_number(raw, "", 0)
    except MalformedTar:
        prefix = cut(block[345:500])
        return prefix if prefix.isascii() else b""
    return b""


def _number(records: dict[bytes, bytes], key: bytes, raw: bytes, offset: int) -> tuple[int, bool]:
    """Give a number, and whether the field, which some read alone, says the same if it can."""
    value = records.get(key)
    field = parse_number(raw, key.decode(), offset)
    if value is None:
        return field, True
    if not DECIMAL.fullmatch(value):
        raise MalformedTar(f"the PAX record {key.decode()} is no number", offset)
    number = int(value)
    return number, number == field or number >= 8 ** (len(raw) - 1)


def _keep_records(records: dict[bytes, bytes], offset: int) -> tuple[dict[bytes, bytes], bool]:
    """Give the records that have no field of their own, and whether none is dropped."""
    kept: dict[bytes, bytes] = {}
    is_all_kept = True
    for key, value in records.items():
        if key in TIME_RECORDS:
            match = _TIME.fullmatch(value)
            if not match:
                raise MalformedTar(f"the PAX record {key.decode()} is no time", offset)
            if key != b"mtime" or (match[1] or b"").strip(b"0"):
                kept[key] = value
        elif is_kept_record(key):
            kept[key] = value
        elif key not in _FIELD_RECORDS:
            is_all_kept = False
    return kept, is_all_kept


def _seconds(time: bytes) -> int:
    """Give a time that a record says, rounded down."""
    whole, _, fraction = time.partition(b".")
    return int(whole) - (whole.startswith(b"-") and bool(fraction.strip(b"0")))
