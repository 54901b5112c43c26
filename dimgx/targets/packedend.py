"""Whether a compressed tar has its end, without decoding it where that can be seen.

Spec: RFC 1952, 2.3.1 (gzip: the length is last); the .xz file format, 2.1.2 (the footer); bzip2's
end has a magic number too, at any bit; RFC 8878, 3.1.1 (the headers of a zstd frame and its blocks
say where it ends; there is one block in 128 KiB).
"""

from __future__ import annotations

from binascii import crc32
from typing import TYPE_CHECKING

from dimgx.decode import iter_decoded
from dimgx.encode import GZIP_END, GZIP_HEADER
from dimgx.errors import ImageError
from dimgx.layers.tarfields import BLOCK
from dimgx.zstdframes import FrameEnds

if TYPE_CHECKING:
    from dimgx.codec import Compression
    from dimgx.extent import Extent

_BZIP2_END = 0x177245385090
_HEADERS = 18
"""Bytes read for each header of a zstd stream; more than the largest has."""


def has_end(extent: Extent, compression: Compression) -> bool:
    """Tell whether a tar that `compression` has packed into `extent` has its end.

    A few bytes are read; of zstd some of each block; of gzip all, where they begin as ours do but
    end otherwise.
    """
    match compression:
        case "gzip":
            return _has_gzip_end(extent)
        case "bzip2":
            return _has_bzip2_end(extent.read(extent.size - 11, 11))
        case "xz":
            return _has_xz_end(extent.read(extent.size - 12, 12))
        case "zstd":
            return _has_zstd_end(extent)


def _has_gzip_end(extent: Extent) -> bool:
    length = 8 + len(GZIP_END)
    end = extent.read(extent.size - length, length)
    if int.from_bytes(end[-4:], "little") % BLOCK:
        return False
    if end.startswith(GZIP_END) or extent.read(0, len(GZIP_HEADER)) != GZIP_HEADER:
        return True
    # Ours, cut off, or what Go's or Python's library has packed again.
    try:
        for _ in iter_decoded(extent.iter_chunks(), "gzip"):
            pass
    except ImageError:
        return False
    return True


def _has_bzip2_end(end: bytes) -> bool:
    """Look for the magic number, a checksum of 32 bits and up to 7 bits of fill."""
    bits = int.from_bytes(end, "big") >> 32
    return any(bits >> fill & 0xFFFFFFFFFFFF == _BZIP2_END for fill in range(8))


def _has_xz_end(footer: bytes) -> bool:
    return footer.endswith(b"YZ") and footer[:4] == crc32(footer[4:10]).to_bytes(4, "little")


def _has_zstd_end(extent: Extent) -> bool:
    ends = FrameEnds()
    while ends.position < extent.size:
        ends.pass_over(min(ends.ahead, extent.size - ends.position))
        ends.follow(extent.read(ends.position, _HEADERS))
    return ends.is_at_end
