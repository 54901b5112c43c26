"""New tar headers: written as rule 70 says, so that every reader reads them alike.

Plain POSIX ustar where it is enough; PAX records where there is something that only they can say;
else GNU's long names and base-256 numbers. What is written here is in normal form, so flattening
it again copies it.
"""

from __future__ import annotations

from dimgx.layers.tarfields import BLOCK, BLOCKDEV, CHARDEV, GNU_MAGIC, POSIX_MAGIC, Header, sum_of

END = bytes(2 * BLOCK)
"""The end of an archive: two zero blocks."""

GLOBAL_NAME = b"pax_global_header"
_PAX_NAME, _LONG_NAME = b"././@PaxHeader", b"././@LongLink"


def build_header(header: Header) -> bytes:
    """Give all the header blocks of one member, whose name goes out as it is.

    With `records`, or where it `had_pax`, what does not fit becomes PAX records too.
    """
    name, linkname = header.name, header.linkname
    numbers = {
        b"uid": (header.uid, 8),
        b"gid": (header.gid, 8),
        b"size": (header.size, 12),
        b"mtime": (header.mtime, 12),
    }
    too_large = {
        key for key, (value, width) in numbers.items() if not 0 <= value < 8 ** (width - 1)
    }
    before = b""
    magic = POSIX_MAGIC
    if header.records or header.had_pax:
        pax = dict(header.records)
        if len(name) > 100:
            pax[b"path"] = name
        if len(linkname) > 100:
            pax[b"linkpath"] = linkname
        for key in too_large:
            pax.setdefault(key, b"%d" % numbers[key][0])
            numbers[key] = 0, numbers[key][1]
        if pax:
            payload = b"".join(build_record(key, pax[key]) for key in sorted(pax))
            before = _extended(_PAX_NAME, b"x", payload, POSIX_MAGIC)
    else:
        if len(linkname) > 100:
            before = _extended(_LONG_NAME, b"K", linkname + b"\0", GNU_MAGIC)
        if len(name) > 100:
            before += build_long_name(name)
        if before or too_large:
            magic = GNU_MAGIC
    fields = [_number(value, width) for value, width in numbers.values()]
    devices = b"0000000\0" * 2
    if header.kind in (CHARDEV, BLOCKDEV):
        devices = _number(header.devmajor, 8) + _number(header.devminor, 8)
    return before + _block(
        name[:100].ljust(100, b"\0"),
        b"".join((b"%07o\0" % header.mode, *fields)),
        bytes((header.kind,)) + linkname[:100].ljust(100, b"\0") + magic + bytes(64),
        devices,
    )


def build_long_name(name: bytes) -> bytes:
    """Build GNU's extended header for a name that is too long for a header."""
    return _extended(_LONG_NAME, b"L", name + b"\0", GNU_MAGIC)


def build_global_header(comment: bytes) -> bytes:
    """Give a global PAX header that says `comment` and changes nothing, as `git archive` has it."""
    return _extended(
        GLOBAL_NAME, b"g", build_record(b"comment", comment), POSIX_MAGIC, b"0000666\0"
    )


def _number(value: int, width: int) -> bytes:
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    mask = 1 << (8 * width - 1)
    return ((value & (2 * mask - 1)) | mask).to_bytes(width, "big")


def build_record(key: bytes, value: bytes) -> bytes:
    """Give a PAX record, whose length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _extended(
    name: bytes, typeflag: bytes, payload: bytes, magic: bytes, mode: bytes = b"0000644\0"
) -> bytes:
    head = _block(
        name.ljust(100, b"\0"),
        mode + b"0000000\0" * 2 + b"%011o\0" % len(payload) + b"00000000000\0",
        typeflag + bytes(100) + magic + bytes(64),
        b"0000000\0" * 2,
    )
    return head + payload + bytes(-len(payload) % BLOCK)


def _block(name: bytes, numbers: bytes, middle: bytes, devices: bytes) -> bytes:
    block = (name + numbers + b"        " + middle + devices).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum_of(block) + block[156:]
