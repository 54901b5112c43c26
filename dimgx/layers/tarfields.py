"""What stands in tar headers: kinds, fields, PAX records, and the `Header` that they amount to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args
from zlib import adler32

from dimgx.errors import ImageError

BLOCK = 512
"""Bytes of a tar block."""
FILE, LINK, SYMLINK, CHARDEV, BLOCKDEV, DIRECTORY, FIFO = b"0123456"
"""The kinds of members, as in a normal header's type field."""
EntryType = Literal["file", "link", "symlink", "chardev", "blockdev", "directory", "fifo"]
TYPES: tuple[EntryType, ...] = get_args(EntryType)
"""What people call the kinds, from FILE on."""
POSIX_MAGIC, GNU_MAGIC = b"ustar\00000", b"ustar  \0"
"""What stands in a header from byte 257 on, by its dialect; old V7 headers have nothing there."""
EXTENDED = b"xgLK"
"""The types of all headers that say something about what follows them."""
PAX, GLOBAL, LONG_NAME, LONG_LINK = EXTENDED
"""Of these: PAX records for one member, or for all that follow; GNU's name, and link target."""
GNU_FIELDS = 345, 357, 386, 483
"""Where a GNU header's access and change time, sparse map and real size begin.

The first is the name's prefix to some readers, and the last two change any file's size to others.
"""

TIME_RECORDS = frozenset((b"mtime", b"atime", b"ctime"))
"""The PAX records with times."""
DECIMAL = re.compile(rb"[0-9]{1,19}")
_OCTAL = re.compile(rb"[0-7]+")
# Spellings of numbers that all of Go, GNU tar, bsdtar, busybox and Python read alike. Only Go takes
# NULs for padding in front, and a blank field is not 0 to everyone.
_PLAIN_OCTAL = re.compile(rb" *[0-7]+[ \0]*")
_PLAIN_NUMBER = re.compile(rb"(?s) *[0-7]+[ \0]*|\x80.*")
_PLAIN_TIME = re.compile(rb"(?s) *[0-7]+[ \0]*|[\x80\xff].*")
_PLAIN_SPELLINGS = (
    (_PLAIN_OCTAL, 100, 108),  # mode
    (_PLAIN_NUMBER, 108, 116),  # uid
    (_PLAIN_NUMBER, 116, 124),  # gid
    (_PLAIN_NUMBER, 124, 136),  # size
    (_PLAIN_TIME, 136, 148),
    (_PLAIN_OCTAL, 148, 156),  # checksum
)
_NO_DEVICES = bytes(16), b"0000000\0" * 2
# Most of what is plain, told in one look at the numbers from the mode to the checksum.
_USUAL_NUMBERS = re.compile(rb"(?:[0-7]{7}\0){3}(?:[0-7]{11}\0){2}[0-7]{6}\0 ")
# In names NUL stands for `/` later on.
_TEXT_RECORDS = frozenset(b"path linkpath uname gname GNU.sparse.name".split())


class MalformedTar(ImageError):
    """A tar stream breaks off or its headers make no sense."""

    def __init__(self, problem: str, offset: int) -> None:
        super().__init__(f"{problem} at offset {offset} of the tar")
        self.offset = offset


class Header(NamedTuple):
    """What all the headers of one member say together."""

    name: bytes
    """As spelled, not normalised."""
    kind: int
    """One of FILE ... FIFO."""
    mode: int = 0o755
    """The low 12 bits."""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Seconds, rounded down; a fraction is in `records`."""
    linkname: bytes = b""
    size: int = 0
    """Bytes of the file's content; 0 for all that is no file."""
    devmajor: int = 0
    devminor: int = 0
    records: Mapping[bytes, bytes] = MappingProxyType({})
    """PAX records of the file that have no field of their own: xattrs, ACLs, times."""
    had_pax: bool = False
    offset: int = 0
    """Of the first of its headers, bytes from the start of the tar."""
    data_offset: int = 0
    """Of the first byte behind its headers (and, with `sparse`, behind the sparse map)."""
    stored_size: int = 0
    """Bytes of payload that lie in the tar from `data_offset` on."""
    sparse: tuple[tuple[int, int], ...] | None = None
    """(offset, length) of each piece of real data, in order; None where all of it is."""
    is_normal: bool = True
    """All is in normal form but, perhaps, the spelling of the name (rule 70)."""
    had_global: bool = False
    """A global header is among its headers."""

    @property
    def end(self) -> int:
        """Where the next member's headers begin."""
        return self.data_offset + BLOCK * count_blocks(self.stored_size)

    @property
    def xattrs(self) -> dict[bytes, bytes]:
        """The extended attributes by their names."""
        prefix = b"SCHILY.xattr."
        return {k[len(prefix) :]: v for k, v in self.records.items() if k.startswith(prefix)}


def parse_number(raw: bytes | bytearray, what: str, offset: int) -> int:
    """Give the number in a header field: octal, empty (0) or base-256.

    Raises: MalformedTar where it is none of these.
    """
    usual = raw[:-1]
    if usual.isdigit() and not raw[-1]:
        try:
            return int(usual, 8)
        except ValueError:
            pass  # a digit that is not octal
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


def is_plainly_spelled(block: bytes) -> bool:
    """Tell whether every reader reads the same numbers in a header (rule 70)."""
    if not _USUAL_NUMBERS.match(block, 100) and not all(
        spelling.fullmatch(block, at, end) for spelling, at, end in _PLAIN_SPELLINGS
    ):
        return False
    return block[329:345] in _NO_DEVICES or all(
        _PLAIN_NUMBER.fullmatch(block, at, at + 8) for at in (329, 337)
    )


def sum_of(data: bytes | bytearray) -> int:
    """Give the sum of at most 512 bytes: the low half of an Adler-32, of some 256, is one more."""
    return (adler32(data[:256]) & 0xFFFF) + (adler32(data[256:]) & 0xFFFF) - 2


def check_sum(block: bytes, offset: int) -> bool:
    """Check a header block's checksum; tell whether it is the usual, unsigned sum.

    Raises: MalformedTar where neither the unsigned nor the (historic) signed sum fits.
    """
    try:
        stored = parse_number(block[148:156], "the checksum", offset)
    except MalformedTar:
        stored = -1
    unsigned = sum_of(block) - sum(block[148:156]) + 8 * ord(" ")
    if stored == unsigned:
        return True
    rest = block[:148] + block[156:]
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
        if b"\0" in value and key in _TEXT_RECORDS:
            raise MalformedTar(f"a NUL in the PAX record {key.decode()}", offset)
        records.append((key, value))
        at = end
    return records


def is_xattr_record(key: bytes) -> bool:
    """Tell whether a PAX record is an extended attribute in some dress."""
    return key.startswith((b"SCHILY.xattr.", b"SCHILY.acl.")) or key == b"RHT.security.selinux"


def is_kept_record(key: bytes) -> bool:
    """Tell whether a PAX record goes out that has no field of its own (rules 27 and 45)."""
    return key in TIME_RECORDS or (
        is_xattr_record(key) and not key.startswith(b"SCHILY.xattr.trusted.")
    )


def count_blocks(size: int) -> int:
    """Give how many blocks so many bytes take."""
    return -(-size // BLOCK)


def newest_field(clamp_mtime_s: int) -> bytes:
    """Give the latest time that may go out as a header's field has it, without what ends it."""
    return b"%011o" % min(clamp_mtime_s, 8**11 - 1)


def cut(raw: bytes) -> bytes:
    """Give a text field up to its first NUL."""
    return raw.partition(b"\0")[0]


def show(name: bytes) -> str:
    """Give a name for people: quoted, on one line, not too long."""
    return repr(name[:200].decode("utf-8", "backslashreplace"))


def is_plain_owner(name: bytes, number: int) -> bool:
    """Tell whether an owner's name may stay: none, or root for 0 (rule 43)."""
    return not name or (name == b"root" and number == 0)
