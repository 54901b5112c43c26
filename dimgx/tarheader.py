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
from dataclasses import dataclass, field

from dimgx.errors import ImageError

BLOCK = 512
"""Bytes of a tar block."""
MAX_EXTENDED_SIZE = 1 << 20
"""Most bytes that one extended header may have, as in Go's reader."""
MAX_SPARSE_MAP = 16 << 20
"""Most bytes that the map of a sparse member may have."""

FILE, LINK, SYMLINK, CHARDEV, BLOCKDEV, DIRECTORY, FIFO = b"0123456"
"""The kinds of members, as in a normal header's type field."""

_OCTAL = re.compile(rb"[0-7]+")
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_KEPT_RECORDS = frozenset(
    b"path linkpath size uid gid mtime atime ctime uname gname RHT.security.selinux".split()
)
_TYPES = dict.fromkeys(b"0123456", None) | {0: FILE, ord("7"): FILE, ord("S"): FILE}


class MalformedTar(ImageError):
    """A tar stream breaks off or its headers make no sense."""

    def __init__(self, problem: str, offset: int) -> None:
        super().__init__(f"{problem} at offset {offset} of the tar")
        self.offset = offset


@dataclass(slots=True)
class Header:
    """What all the headers of one member say together."""

    name: bytes
    """As spelled, not normalised."""
    kind: int
    """One of FILE ... FIFO."""
    linkname: bytes
    mode: int
    """The low 12 bits."""
    uid: int
    gid: int
    mtime: int
    """Seconds, rounded down; a fraction is in `records`."""
    size: int
    """Bytes of the file's content; 0 for all that is no file."""
    devmajor: int
    devminor: int
    records: dict[bytes, bytes]
    """PAX records that belong to the file and have no field of their own: xattrs, ACLs, times."""
    had_pax: bool
    offset: int
    """Of the first of its headers, bytes from the start of the tar."""
    data_offset: int
    """Of the first byte behind its headers (and, with `sparse`, behind the sparse map)."""
    stored_size: int
    """Bytes of payload that lie in the tar from `data_offset` on."""
    sparse: tuple[tuple[int, int], ...] | None
    """(offset, length) of each piece of real data, in order; None where all of it is."""
    is_normal: bool
    """All is in normal form but, perhaps, the spelling of the name (rule 70)."""

    @property
    def end(self) -> int:
        """Where the next member's headers begin."""
        return self.data_offset + -(-self.stored_size // BLOCK) * BLOCK

    @property
    def xattrs(self) -> dict[bytes, bytes]:
        """The extended attributes by their names."""
        prefix = b"SCHILY.xattr."
        return {k[len(prefix) :]: v for k, v in self.records.items() if k.startswith(prefix)}


def parse_number(raw: bytes, what: str, offset: int) -> int:
    """Give the number in a header field: octal, empty (0) or base-256.

    Raises: MalformedTar where it is none of these.
    """
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") & ((1 << (8 * len(raw) - 1)) - 1)
        if raw[0] & 0x40:
            value -= 1 << (8 * len(raw) - 1)
        if not -(1 << 63) <= value < 1 << 63:
            raise MalformedTar(f"{what} is out of range in the header", offset)
        return value
    digits = raw.strip(b" \0").partition(b"\0")[0]
    if not digits:
        return 0
    if not _OCTAL.fullmatch(digits):
        raise MalformedTar(f"{what} is no number in the header", offset)
    return int(digits, 8)


def check_sum(block: bytes, offset: int) -> bool:
    """Check a header block's checksum; tell whether it is the usual, unsigned sum.

    Raises: MalformedTar where neither the unsigned nor the (historic) signed sum fits.
    """
    try:
        stored = parse_number(block[148:156], "the checksum", offset)
    except MalformedTar:
        stored = -1
    rest = block[:148] + b"        " + block[156:]
    unsigned = sum(rest)
    if stored == unsigned:
        return True
    if stored == unsigned - 256 * sum(byte > 127 for byte in rest):
        return False
    raise MalformedTar("a header with a wrong checksum", offset)


def parse_records(payload: bytes, offset: int) -> list[tuple[bytes, bytes]]:
    """Give the records of a PAX extended header in order.

    Raises: MalformedTar where a record's length does not fit or its key or value is not allowed.
    """
    records = []
    at = 0
    while at < len(payload):
        space = payload.find(b" ", at, at + 20)
        length = payload[at:space] if space > at else b""
        end = at + int(length) if length.isdigit() else 0
        if not space + 2 < end <= len(payload) or payload[end - 1] != 0x0A:
            raise MalformedTar("a PAX record whose length does not fit", offset)
        key, equals, value = payload[space + 1 : end - 1].partition(b"=")
        if not key or not equals or b"\0" in key:
            raise MalformedTar("a PAX record without a key", offset)
        if b"\0" in value and key in (b"path", b"linkpath", b"uname", b"gname"):
            raise MalformedTar(f"a NUL in the PAX record {key.decode()}", offset)
        records.append((key, value))
        at = end
    return records


def cut(raw: bytes) -> bytes:
    """Give a text field up to its first NUL."""
    return raw.partition(b"\0")[0]


def is_plain_owner(name: bytes, number: int) -> bool:
    """Tell whether an owner's name may stay: none, or root for 0 (rule 43)."""
    return not name or (name == b"root" and number == 0)


@dataclass(slots=True)
class _Extended:
    """The extended headers before a header."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    long_name: bytes = b""
    long_link: bytes = b""
    types: bytes = b""
    is_normal: bool = True

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
        if typeflag not in b"xgLK":
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
        if not is_unsigned:
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
    if typeflag not in _TYPES:
        raise MalformedTar(f"a member of unknown type {chr(typeflag)!r}", offset)
    kind = _TYPES[typeflag] or typeflag
    magic, records = block[257:263], extended.records
    is_star = block[508:512] == b"tar\0" and magic == b"ustar\0"
    is_ustar = magic == b"ustar\0"
    is_gnu = block[257:265] == b"ustar  \0"
    normal = (
        is_unsigned
        and extended.is_normal
        and (is_gnu or (is_ustar and block[263:265] == b"00"))
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
        normal = normal and not prefix
    if prefix:
        name = prefix + b"/" + name
    header = Header(
        name=extended.long_name or records.get(b"path", name),
        kind=kind,
        linkname=extended.long_link or records.get(b"linkpath", cut(block[157:257])),
        mode=parse_number(block[100:108], "the mode", at) & 0o7777,
        uid=_number(records, b"uid", block[108:116], at),
        gid=_number(records, b"gid", block[116:124], at),
        mtime=parse_number(block[136:148], "the time", at),
        size=0,
        devmajor=0,
        devminor=0,
        records={},
        had_pax=b"x"[0] in extended.types,
        offset=offset,
        data_offset=at + BLOCK,
        stored_size=0,
        sparse=None,
        is_normal=normal,
    )
    if typeflag == 0 and header.name.endswith(b"/"):
        header.kind = kind = DIRECTORY
    _set_size(header, block, records, at)
    if (is_ustar or is_gnu) and kind in (CHARDEV, BLOCKDEV):
        header.devmajor = parse_number(block[329:337], "the device number", at)
        header.devminor = parse_number(block[337:345], "the device number", at)
    if kind not in (LINK, SYMLINK):
        if b"linkpath" in records or extended.long_link:
            header.is_normal = False
        header.linkname = b""
    _set_records(header, records, is_ustar or is_gnu, block)
    _set_sparse(header, records, block, read_at, end)
    if not header.name and kind != DIRECTORY:
        raise MalformedTar("a member without a name that is no directory", offset)
    if kind == SYMLINK and not header.linkname:
        raise MalformedTar("a symlink without a target", offset)
    if header.data_offset + header.stored_size > end:
        raise MalformedTar(
            f"{header.name!r:.200} says it has {header.stored_size} bytes, but the tar ends"
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
    if not _DECIMAL.fullmatch(value):
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


def _set_sparse(
    header: Header,
    records: dict[bytes, bytes],
    block: bytes,
    read_at: Callable[[int, int], bytes],
    end: int,
) -> None:
    if block[156] == ord("S"):
        numbers, real_size = _gnu_sparse(header, block, read_at)
    elif header.kind == FILE and any(key.startswith(b"GNU.sparse.") for key in records):
        header.is_normal = False
        header.name = records.get(b"GNU.sparse.name", header.name)
        size_text = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
        version = records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")
        if version == (b"1", b"0"):
            numbers = _sparse_map_in_data(header, read_at, end)
        elif b"GNU.sparse.map" in records:
            numbers = list(records[b"GNU.sparse.map"].split(b","))
        elif records.get(b"GNU.sparse.numblocks") == b"0":
            numbers = []
        else:
            return
        real_size = _sparse_number(size_text or b"", header)
    else:
        return
    header.is_normal = False
    values = [n if isinstance(n, int) else _sparse_number(n, header) for n in numbers]
    if len(values) % 2:
        raise MalformedTar("a sparse map of an odd length", header.offset)
    pieces = tuple(zip(values[::2], values[1::2], strict=True))
    at = 0
    for start, length in pieces:
        if start < at or start + length > real_size:
            raise MalformedTar("a sparse map out of order or beyond the size", header.offset)
        at = start + length
    if sum(length for _, length in pieces) != header.stored_size:
        raise MalformedTar("a sparse map that does not fit the stored size", header.offset)
    header.size, header.sparse = real_size, pieces


def _sparse_number(text: bytes, header: Header) -> int:
    if not _DECIMAL.fullmatch(text):
        raise MalformedTar("a sparse map with something that is no number", header.offset)
    return int(text)


def _gnu_sparse(
    header: Header, block: bytes, read_at: Callable[[int, int], bytes]
) -> tuple[list[bytes | int], int]:
    """Read the old GNU form: four pieces in the header, 21 in each block that follows."""
    at = header.data_offset
    real_size = parse_number(block[483:495], "the real size", at)
    fields, more = block[386:482], block[482]
    numbers: list[bytes | int] = []
    while True:
        for k in range(0, len(fields) - 23, 24):
            if not fields[k]:
                break
            start = parse_number(fields[k : k + 12], "a sparse offset", at)
            length = parse_number(fields[k + 12 : k + 24], "a sparse length", at)
            if start < 0 or length < 0:
                raise MalformedTar("a negative number in a sparse map", at)
            numbers += (start, length)
        if not more:
            break
        block = read_at(at, BLOCK)
        if len(block) < BLOCK or len(numbers) * 12 > MAX_SPARSE_MAP:
            raise MalformedTar("a sparse map that does not end", at)
        fields, more = block[:504], block[504]
        at += BLOCK
    header.data_offset = at
    return numbers, real_size


def _sparse_map_in_data(
    header: Header, read_at: Callable[[int, int], bytes], end: int
) -> list[bytes | int]:
    """Read the map of form 1.0, which stands in whole blocks before the data."""
    limit = min(header.stored_size, MAX_SPARSE_MAP, end - header.data_offset)
    text = b""
    used = 0
    needed = 1
    while text.count(b"\n") < needed:
        if used >= limit:
            raise MalformedTar("a sparse map that does not end", header.offset)
        step = max(BLOCK, min(limit - used, used))
        step -= step % BLOCK
        text += read_at(header.data_offset + used, step)
        used += step
        if b"\n" in text:
            needed = 1 + 2 * _sparse_number(text.partition(b"\n")[0], header)
    lines = text.split(b"\n", needed)
    length = len(text) - len(lines[needed])
    used = -(-length // BLOCK) * BLOCK
    header.data_offset += used
    header.stored_size -= used
    return list(lines[1:needed])
