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

Parsing one member like this costs about 10 us. That is for odd members; the walker handles
ordinary ones in bulk and comes here for the rest.
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
    GNU_FIELDS,
    LINK,
    PAX,
    SYMLINK,
    Header,
    MalformedTar,
    check_sum,
    cut,
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
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_KEPT_RECORDS = frozenset(
    b"path linkpath size uid gid mtime atime ctime uname gname RHT.security.selinux".split()
)
_KINDS = {kind: kind for kind in b"0123456"} | {0: FILE, ord("7"): FILE, ord("S"): FILE}


class _Extended:
    """The extended headers before a header."""

    __slots__ = ("is_normal", "long_link", "long_name", "records", "types")

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.long_name = b""
        self.long_link = b""
        self.types = b""
        self.is_normal = True

    def add(self, typeflag: int, payload: bytes, offset: int) -> None:
        if typeflag in self.types:
            self.is_normal = False
        if typeflag == ord("g"):
            # It reaches every later member, but nothing in it counts (rule 50).
            parse_records(payload, offset)
            return
        self.types += bytes((typeflag,))
        if typeflag == ord("L"):
            self.long_name = cut(payload)
        elif typeflag == ord("K"):
            self.long_link = cut(payload)
        else:
            self._add_records(parse_records(payload, offset), offset)

    def _add_records(self, records: list[tuple[bytes, bytes]], offset: int) -> None:
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


def read_header(
    read_at: Callable[[int, int], bytes], offset: int, end: int
) -> tuple[Header | None, bool]:
    """Read and parse the headers of the member that begins at `offset`.

    `read_at(offset, size)` gives up to `size` bytes of the tar, which ends at `end`.
    Gives the header, or None at the end of the tar; and whether a global header was passed.

    Raises: MalformedTar where the headers are cut short or make no sense.
    """
    extended = _Extended()
    at = offset
    passed_global = False
    while True:
        block = read_at(at, BLOCK) if at < end else b""
        if len(block) < BLOCK or not block.strip(b"\0"):
            if extended.types:
                raise MalformedTar("an extended header with nothing behind it", offset)
            _check_end(read_at, at, end, block)
            return None, passed_global
        is_unsigned = check_sum(block, at)
        typeflag = block[156]
        if typeflag not in EXTENDED:
            return _parse(block, is_unsigned, extended, read_at, offset, at, end), passed_global
        size = parse_number(block[124:136], "the size", at)
        if size < 0:
            raise MalformedTar("a negative size in the header", at)
        if size > MAX_EXTENDED_SIZE:
            raise MalformedTar(f"an extended header of {size} bytes (1 MiB is allowed)", at)
        payload = read_at(at + BLOCK, size)
        if len(payload) < size:
            raise MalformedTar("the tar ends inside an extended header", at)
        extended.add(typeflag, payload, at)
        # An empty long name names nothing to Go, and is the name to others.
        if not (is_unsigned and is_plainly_spelled(block) and cut(payload)):
            extended.is_normal = False
        passed_global = passed_global or typeflag == ord("g")
        at += BLOCK + -(-size // BLOCK) * BLOCK


def _check_end(read_at: Callable[[int, int], bytes], at: int, end: int, block: bytes) -> None:
    """Accept the end of a tar: two zero blocks, one, or none (rule 53)."""
    if len(block) < BLOCK:
        if block.strip(b"\0"):
            raise MalformedTar("the tar ends inside a header", at)
        return
    if read_at(at + BLOCK, min(BLOCK, end - at - BLOCK)).strip(b"\0"):
        raise MalformedTar("a lone zero block with more behind it", at)


def _parse(
    block: bytes,
    is_unsigned: bool,
    extended: _Extended,
    read_at: Callable[[int, int], bytes],
    offset: int,
    at: int,
    end: int,
) -> Header:
    typeflag = block[156]
    if typeflag not in _KINDS:
        raise MalformedTar(f"a member of unknown type {chr(typeflag)!r}", offset)
    kind, records = _KINDS[typeflag], extended.records
    is_ustar = block[257:263] == b"ustar\0"
    is_star = is_ustar and block[508:512] == b"tar\0"
    is_gnu = block[257:265] == b"ustar  \0"
    normal = (
        is_unsigned
        and is_plainly_spelled(block)
        and extended.is_normal
        and (
            not any(block[at] for at in GNU_FIELDS)
            if is_gnu
            else is_ustar and block[263:265] == b"00"
        )
        and not is_star
        and typeflag in b"0123456"
        and not (b"path" in records and extended.long_name)
        and not (b"linkpath" in records and extended.long_link)
    )
    name = cut(block[:100])
    prefix = b""
    if is_ustar:
        prefix = cut(block[345 : 476 if is_star else 500])
    elif is_gnu and block[345]:
        prefix = _old_go_prefix(block)
    if prefix:
        name = prefix + b"/" + name
    uid = _number(records, b"uid", block[108:116], at)
    gid = _number(records, b"gid", block[116:124], at)
    if min(uid, gid) < 0:
        # Readers disagree on negative ones. Docker hands them to the system, which takes 32 bits.
        normal = False
        uid, gid = uid & _ID_MASK, gid & _ID_MASK
    header = Header(
        name=extended.long_name or records.get(b"path", name),
        kind=kind,
        linkname=extended.long_link or records.get(b"linkpath", cut(block[157:257])),
        mode=parse_number(block[100:108], "the mode", at) & 0o7777,
        uid=uid,
        gid=gid,
        mtime=parse_number(block[136:148], "the time", at),
        had_pax=PAX in extended.types,
        offset=offset,
        data_offset=at + BLOCK,
        is_normal=normal,
    )
    if typeflag == 0 and header.name.endswith(b"/"):
        header.kind = kind = DIRECTORY
    _set_size(header, block, records, at)
    if is_ustar or is_gnu:
        device = [parse_number(block[k : k + 8], "the device number", at) for k in (329, 337)]
        if kind in (CHARDEV, BLOCKDEV):
            if not all(0 <= number < _MOST_DEVICES for number in device):
                raise MalformedTar("a device number that no system has", offset)
            header.devmajor, header.devminor = device
    if kind not in (LINK, SYMLINK):
        if b"linkpath" in records or extended.long_link:
            header.is_normal = False
        header.linkname = b""
    _set_records(header, records, is_ustar or is_gnu, block)
    set_sparse(header, records, block, read_at, end)
    if not header.name and kind != DIRECTORY:
        raise MalformedTar("a member without a name that is no directory", offset)
    if kind == SYMLINK and not header.linkname:
        raise MalformedTar("a symlink without a target", offset)
    if header.data_offset + header.stored_size > end:
        raise MalformedTar(
            f"{show(header.name)} says it has {header.stored_size} bytes, but the tar ends"
            f" {header.data_offset + header.stored_size - end} bytes too early",
            offset,
        )
    return header


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


def _number(records: dict[bytes, bytes], key: bytes, raw: bytes, offset: int) -> int:
    value = records.get(key)
    number = parse_number(raw, key.decode(), offset)
    if value is None:
        return number
    if not DECIMAL.fullmatch(value):
        raise MalformedTar(f"the PAX record {key.decode()} is no number", offset)
    return int(value)


def _set_size(header: Header, block: bytes, records: dict[bytes, bytes], at: int) -> None:
    raw = parse_number(block[124:136], "the size", at)
    size = _number(records, b"size", block[124:136], at)
    if size < 0 or raw < 0:
        raise MalformedTar("a negative size in the header", at)
    if header.kind == FILE:
        header.size = header.stored_size = size
    elif raw or b"size" in records:
        # Whatever the field says, there are no data (rule 51).
        header.is_normal = False


def _set_records(
    header: Header, records: dict[bytes, bytes], has_owner_names: bool, block: bytes
) -> None:
    uname = gname = b""
    if has_owner_names:
        uname, gname = cut(block[265:297]), cut(block[297:329])
    uname, gname = records.get(b"uname", uname), records.get(b"gname", gname)
    if not is_plain_owner(uname, header.uid) or not is_plain_owner(gname, header.gid):
        header.is_normal = False
    for key, value in records.items():
        if key.startswith((b"SCHILY.xattr.", b"SCHILY.acl.")):
            if key.startswith(b"SCHILY.xattr.trusted."):
                header.is_normal = False  # rule 27
            else:
                header.records[key] = value
        elif key in (b"mtime", b"atime", b"ctime"):
            match = _TIME.fullmatch(value)
            if not match:
                raise MalformedTar(f"the PAX record {key.decode()} is no time", header.offset)
            if key == b"mtime":
                header.mtime = _seconds(match)
            if key != b"mtime" or (match[3] or b"").strip(b"0"):
                header.records[key] = value
        elif key == b"RHT.security.selinux":
            header.records[key] = value
        elif key not in _KEPT_RECORDS:
            header.is_normal = False


def _seconds(match: re.Match[bytes]) -> int:
    whole = int(match[1] + match[2])
    return whole - 1 if match[1] and (match[3] or b"").strip(b"0") else whole
