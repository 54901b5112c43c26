"""Some hundred ordinary tar headers at once, looked at by columns instead of one by one.

Joined headers make a table with rows of 512 bytes, and a strided slice is a column of it. Whatever
is not quite ordinary in a batch is named as *unusual*, for the walker to parse alone.

The checksums are compared as one sum. Two errors that cancel out pass it; a tar checksum is no more
than that anyway. Figures per member, CPython 3.11: 0.05 us for the checksums, 0.1 for numbers and
magic, 0.3 for names and keys. A loop over members would take 2 us, one with objects 10.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from functools import lru_cache
from typing import NamedTuple

from dimgx.layers.layerindex import (
    ADD_SLASH,
    CLAMP,
    COPY,
    DROP_RECORDS,
    RESIZE,
    STRIP_LEAD,
    STRIP_OWNER,
)
from dimgx.layers.names import MAX_PATH
from dimgx.layers.tarfields import (
    BLOCK,
    BLOCKDEV,
    CHARDEV,
    DIRECTORY,
    GNU_FIELDS,
    GNU_MAGIC,
    LINK,
    LONG_NAME,
    PAX,
    POSIX_MAGIC,
    SYMLINK,
    count_blocks,
    cut,
    is_plain_owner,
    newest_field,
)
from dimgx.layers.tarhop import Extended
from dimgx.layers.tarpatch import lead_of
from dimgx.layers.tarrecords import ONLY_TIMES, UsualRecords, read_usual_records

try:
    from isal.isal_zlib import adler32  # ten times as fast as zlib's
except ImportError:
    from zlib import adler32

_NAMES = re.compile(rb"(?s)(?=([^\0]{0,100})).{512}")
_NAMES_BEHIND_DOT = re.compile(rb"(?s)\./(?=([^\0]{0,98})).{510}")
_NAMES_BEHIND_SLASH = re.compile(rb"(?s)/(?=([^\0]{0,99})).{511}")
_PREFIXES = re.compile(rb"(?s)(?=.{345}([^\0]{0,155})).{512}")
_CLEAN_NAME = re.compile(
    rb"(?s)(?!\.{1,2}(?:/|\Z)|\.wh\.)[^/]+(?:/(?!\.{1,2}(?:/|\Z)|\.wh\.)[^/]+)*"
)
# A table costs the same however many slashes there are; replace() costs 10 ns for each.
_SLASH_TO_NUL, _ENDS_TO_NEWLINE = bytes.maketrans(b"/", b"\0"), bytes.maketrans(b"/.", b"\n\n")
# Mode, uid, gid, size and time: columns that hold digits, that may also hold fill, that end one.
_DIGITS = (*range(100, 106), *range(108, 114), *range(116, 122), *range(124, 135), *range(136, 147))
_FILL = (106, 114, 122)
_ENDS = (107, 115, 123, 135, 147)
_NO_DEVICES = re.compile(rb"(?:\0{8}|0{6}[0 \0][ \0])*")
_USUAL_NUMBERS = re.compile(
    rb"(?s)(?:[0-7]{6}[0-7 \0][ \0]){3}(?:[0-7]{11}[ \0]){2}[0-7]{6}\0 .{173}"
    rb"(?:\0{16}|(?:0{6}[0 \0][ \0]){2})"
)
_ADLER_MODULUS = 65521
# From the owners' numbers to their names: none, or root's with zeros.
_PLAIN_OWNERS = re.compile(
    rb"(?s)(?:[0 \0]{7}.[0 \0]{7}.{142}(?:root|\0{4})\0{28}(?:root|\0{4})\0{28}|.{157}\0{64})"
)


class Batch(NamedTuple):
    """What a batch of headers says; what it says of unusual ones does not count."""

    keys: list[bytes]
    kinds: bytearray
    codes: bytearray
    links: list[tuple[int, bytes]]
    """The hard links: number of the header, target as it is spelled."""
    odd_names: dict[int, bytes]
    """Names that are not normalised, or perhaps whiteouts, by the number of their header."""
    unusual: set[int]
    """Numbers of the headers that must be parsed alone."""


def parse_batch(
    joined: bytes, extended: Sequence[Extended] = (), clamp_mtime_s: int | None = None
) -> Batch:
    """Look at the headers `joined`: 512 bytes each, of the types `0` to `6`, at least one.

    `extended` has what stands before them: PAX headers, long names and link targets.
    """
    unusual = _find_unusual(joined)
    kinds = joined[156::BLOCK]
    names, codes = _find_names(joined)
    said = _Said(names, codes, {}, set(), unusual)
    if extended:
        said.read(extended, kinds, clamp_mtime_s)
    _add_prefixes(joined, names, codes, said.renamed)
    for i in find_kind(kinds, DIRECTORY):
        if names[i] and not names[i].endswith(b"/") and i not in said.renamed:
            name, _, behind = _field(joined, i, 0, 100).partition(b"\0")
            if len(name) < 100 and not behind.strip(b"\0"):  # else that joins the name
                names[i] += b"/"
                codes[i] |= ADD_SLASH
    _mark_owners(joined, codes)
    if clamp_mtime_s is not None:
        newest = newest_field(clamp_mtime_s)
        for i in range(len(kinds)):
            if _field(joined, i, 136, 147) > newest:
                codes[i] |= CLAMP
    keys, odd_names = _make_keys(names, kinds)
    links = [
        (i, said.targets.get(i) or cut(_field(joined, i, 157, 257))) for i in find_kind(kinds, LINK)
    ]
    return Batch(keys, bytearray(kinds), codes, links, odd_names, unusual)


def _find_names(joined: bytes) -> tuple[list[bytes], bytearray]:
    """Give the names without a leading `./` or `/`, and STRIP_LEAD where there was one, or COPY."""
    first, second = joined[::BLOCK], joined[1::BLOCK]
    count = len(first)
    if first == b"." * count and second == b"/" * count:
        return _NAMES_BEHIND_DOT.findall(joined), bytearray((STRIP_LEAD,)) * count
    if first == b"/" * count:
        return _NAMES_BEHIND_SLASH.findall(joined), bytearray((STRIP_LEAD,)) * count
    names: list[bytes] = _NAMES.findall(joined)
    codes = bytearray((COPY,)) * count
    for i in find_kind(first, ord(".")):
        if second[i] == ord("/"):
            names[i] = names[i][2:]
            codes[i] = STRIP_LEAD
    for i in find_kind(first, ord("/")):
        names[i] = names[i][1:]
        codes[i] = STRIP_LEAD
    return names, codes


def _add_prefixes(
    joined: bytes, names: list[bytes], codes: bytearray, renamed: Container[int]
) -> None:
    """Put prefixes before names, but those of `renamed`, which have none.

    What another dialect's magic has there is unusual as it is.
    """
    firsts = joined[345::BLOCK]
    places = _find_nonzero(firsts)
    if not places:
        return
    prefixes: list[bytes] = _PREFIXES.findall(joined)
    for i in places:
        if i in renamed:
            continue
        prefix, name = prefixes[i], names[i]
        if codes[i] & STRIP_LEAD:  # nothing leads what is not at the beginning
            codes[i] &= ~STRIP_LEAD
            name = cut(_field(joined, i, 0, 100))
        if firsts[i] in b"./":
            lead = lead_of(prefix)
            if lead < len(prefix):  # else nothing would be left: not a prefix any more
                prefix = prefix[lead:]
                codes[i] |= STRIP_LEAD if lead else COPY
        names[i] = prefix + b"/" + name


def _field(joined: bytes, i: int, begin: int, end: int) -> bytes:
    """Give a field of the header number `i`."""
    return joined[i * BLOCK + begin : i * BLOCK + end]


def find_kind(kinds: bytes, kind: int) -> list[int]:
    """Give the numbers of the members of one kind."""
    found = []
    i = kinds.find(kind)
    while i >= 0:
        found.append(i)
        i = kinds.find(kind, i + 1)
    return found


def _find_nonzero(column: bytes) -> list[int]:
    return [i for i, byte in enumerate(column) if byte] if column.strip(b"\0") else []


@lru_cache(maxsize=4)
def _magic_columns(count: int) -> tuple[bytes, bytes]:
    posix, gnu = (
        b"".join(bytes((byte,)) * count for byte in magic) for magic in (POSIX_MAGIC, GNU_MAGIC)
    )
    return posix, gnu


def _find_unusual(joined: bytes) -> set[int]:
    """Find what the walker must parse alone: dialects, numbers, devices, empty symlinks."""
    unusual: set[int] = set()
    count = len(joined) // BLOCK
    magic = b"".join([joined[column::BLOCK] for column in range(257, 265)])
    all_posix, all_gnu = _magic_columns(count)
    if magic not in (all_posix, all_gnu):
        magics = POSIX_MAGIC, GNU_MAGIC
        unusual.update(i for i in range(count) if _field(joined, i, 257, 265) not in magics)
    unusual.update(_find_nonzero(joined[508::BLOCK]))  # star's trailer
    for column in GNU_FIELDS if magic != all_posix else ():
        for i in _find_nonzero(joined[column::BLOCK]):
            if _field(joined, i, 257, 265) == GNU_MAGIC:
                unusual.add(i)
    kinds = joined[156::BLOCK]
    unusual.update(find_kind(kinds, CHARDEV), find_kind(kinds, BLOCKDEV))
    unusual.update(i for i in find_kind(kinds, SYMLINK) if not joined[i * BLOCK + 157])
    digits, fill, ends = (
        b"".join([joined[column::BLOCK] for column in columns])
        for columns in (_DIGITS, _FILL, _ENDS)
    )
    # From the first header's device numbers to the end of the last one's.
    words = memoryview(joined)[329 : len(joined) - BLOCK + 345].cast("Q")
    majors, minors = words[::64].tobytes(), words[1::64].tobytes()
    if (
        digits.translate(None, b"01234567")
        or fill.translate(None, b"01234567 \0")
        or ends.translate(None, b" \0")
        or majors != minors
        or not _are_none(majors)
        or not _sums_match(joined)
    ):
        usual = [i for i in range(count) if _USUAL_NUMBERS.match(joined, i * BLOCK + 100)]
        if not _sums_match(b"".join([_field(joined, i, 0, BLOCK) for i in usual])):
            usual = [i for i in usual if _sums_match(_field(joined, i, 0, BLOCK))]
        unusual.update(set(range(count)).difference(usual))
    return unusual


def _are_none(numbers: bytes) -> bool:
    """Tell whether fields of 8 bytes with device numbers have none, spelled as all read it."""
    first = numbers[:8]
    if numbers.count(first) * 8 == len(numbers):  # all are spelled alike, as a rule
        numbers = first
    return _NO_DEVICES.fullmatch(numbers) is not None


def _sums_match(joined: bytes) -> bool:
    """Compare the sum of all checksums, six octal digits each, with the sum of all bytes."""
    count = len(joined) // BLOCK
    stored = fields = 0
    for column in range(148, 154):
        # The low half of an Adler-32 is one more than the sum of the bytes.
        digits = joined[column::BLOCK]
        if digits.translate(None, b"01234567"):
            return False
        total = (adler32(digits) & 0xFFFF) - 1
        stored = stored * 8 + total - ord("0") * count
        fields += total
    if joined[154::BLOCK].strip(b"\0") or joined[155::BLOCK].strip(b" "):
        return False
    fields += ord(" ") * count
    actual = (adler32(joined) & 0xFFFF) - 1 - fields + 8 * ord(" ") * count
    return (stored - actual) % _ADLER_MODULUS == 0


def _mark_owners(joined: bytes, codes: bytearray) -> None:
    """Mark the headers that name an owner other than root for 0 (rule 43)."""
    if not any(joined[265::BLOCK]) and not any(joined[297::BLOCK]):
        return
    for i in range(len(codes)):
        if _PLAIN_OWNERS.match(joined, i * BLOCK + 108):
            continue
        owners = _field(joined, i, 265, 329)
        uid = _field(joined, i, 108, 115).strip(b"0 \0")
        gid = _field(joined, i, 116, 123).strip(b"0 \0")
        if not is_plain_owner(cut(owners[:32]), len(uid)) or not is_plain_owner(
            cut(owners[32:]), len(gid)
        ):
            codes[i] |= STRIP_OWNER


def _make_keys(names: list[bytes], kinds: bytes) -> tuple[list[bytes], dict[int, bytes]]:
    """Give the names' keys, and by their numbers the names that need a closer look.

    That is a name with an empty part or one that begins with a dot, a directory's without a slash
    at its end (where there is no room for it), and any other's with one.
    """
    directories = find_kind(kinds, DIRECTORY)
    bare = names
    if directories:
        bare = names[:]
        for i in directories:
            bare[i] = names[i].removesuffix(b"/")
    odd = {i for i in directories if len(bare[i]) == len(names[i])}
    joined = b"\n".join(bare)
    keys = joined.translate(_SLASH_TO_NUL).split(b"\n")
    if len(keys) > len(names):  # a name with a newline
        keys = [name.replace(b"/", b"\0") for name in bare]
        odd.update(i for i, name in enumerate(bare) if not _CLEAN_NAME.fullmatch(name))
    else:
        # With one byte for all that ends a part and dots, what is odd has two of it in a row.
        parts = b"\n%b\n" % joined.translate(_ENDS_TO_NEWLINE)
        i = passed = 0
        at = parts.find(b"\n\n")
        while at >= 0:
            i += joined.count(b"\n", passed, at)
            passed = at
            if joined.startswith(b".wh.", at):
                odd.add(i)
            else:
                if not _CLEAN_NAME.fullmatch(bare[i]):
                    odd.add(i)
                # One look at a name is enough, however many dots it has.
                at = joined.find(b"\n", at)
                if at < 0:
                    break
            at = parts.find(b"\n\n", at + 1)
    for i in directories:
        keys[i] += b"\0"
    return keys, {i: names[i] for i in odd}


class _Said(NamedTuple):
    """What the extended headers of a batch say, put where it belongs."""

    names: list[bytes]
    codes: bytearray
    targets: dict[int, bytes]
    """Targets of hard links and symlinks."""
    renamed: set[int]
    """Who has its name from there."""
    unusual: set[int]

    def read(self, extended: Sequence[Extended], kinds: bytes, clamp_mtime_s: int | None) -> None:
        unusual_heads = _find_unusual(b"".join([block for _, block, _ in extended]))
        self.unusual.update(extended[place][0] for place in unusual_heads)
        for i, block, payload in extended:
            if block[156] != PAX:
                is_usual = self._take_long(i, kinds[i], block[156], payload)
            elif clamp_mtime_s is None and ONLY_TIMES.fullmatch(payload):
                continue
            else:
                records = read_usual_records(payload, clamp_mtime_s)
                is_usual = self._take_records(i, kinds[i], len(payload), records)
            if not is_usual:
                self.unusual.add(i)

    def _take_long(self, i: int, kind: int, typeflag: int, payload: bytes) -> bool:
        """Take what a GNU long header says; tell whether that is usual."""
        text = cut(payload)
        if typeflag != LONG_NAME:
            self.targets[i] = text
            return kind in (LINK, SYMLINK) and 0 < len(text) <= MAX_PATH
        lead = self._rename(i, text)
        size, blocks = len(text) - lead, count_blocks(len(payload))
        if lead and (size <= 100 or count_blocks(size + 1) != blocks):
            self.codes[i] |= RESIZE
        # Whatever is changed in such a header, the name is written anew, with one NUL behind it.
        return 0 < len(text) <= MAX_PATH and count_blocks(len(text) + 1) == blocks

    def _take_records(self, i: int, kind: int, size: int, records: UsualRecords | None) -> bool:
        """Take what `size` bytes of PAX records say; tell whether that is usual."""
        if records is None or (records.linkpath and kind not in (LINK, SYMLINK)):
            return False
        if records.linkpath:
            self.targets[i] = records.linkpath
        left = size
        if records.dropped:
            left -= records.dropped
            self.codes[i] |= DROP_RECORDS
        if records.too_late:
            left -= records.too_late
            self.codes[i] |= CLAMP
        if records.path and (lead := self._rename(i, records.path)):
            # It stays a record if it is still long, with perhaps a digit less for its length.
            is_long = len(records.path) - lead > 100
            left -= lead + 1 if is_long else BLOCK
        if count_blocks(left) != count_blocks(size):
            self.codes[i] |= RESIZE
        return True

    def _rename(self, i: int, name: bytes) -> int:
        """Put a name in its place; give how many bytes lead it."""
        lead = lead_of(name)
        self.names[i] = name[lead:]
        self.codes[i] = self.codes[i] & ~STRIP_LEAD | (STRIP_LEAD if lead else COPY)
        self.renamed.add(i)
        return lead
