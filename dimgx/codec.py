"""Which compression a stream has, and what it takes to decode it: its first bytes tell both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from dimgx import zstdframes

if TYPE_CHECKING:
    from collections.abc import Iterator

Compression = Literal["gzip", "bzip2", "xz", "zstd"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)

HEAD = 64
"""Bytes that all here look at, at most."""
XZ_MEMORY_LIMIT = 2 << 30
"""Bytes: more than `xz -9` (65 MiB) and any --lzma2=dict that its encoder takes (1.5 GiB)."""
_BZIP2_PARTS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
_XZ_MAGIC = b"\xfd7zXZ\0"


class Coding(NamedTuple):
    """How a tar is stored, and by how many threads it is encoded."""

    compression: Compression | None
    level: int | None = None
    threads: int = 1


def read_head(chunks: Iterator[bytes | memoryview], size: int = HEAD) -> bytes:
    """Take chunks until there are `size` bytes or no more, and give them joined."""
    head = b""
    while len(head) < size and (chunk := next(chunks, b"")):
        head += chunk
    return head


def sniff(head: bytes) -> Compression | None:
    """Tell the compression of a stream that begins with `head`, its first 10 bytes or more.

    A stream cut off within its magic number counts as well, but for an empty one.
    """
    if head[:3] == b"\x1f\x8b\x08" or head == b"\x1f\x8b":
        return "gzip"
    if head[:3] == b"BZh" and head[3:4] in b"123456789":
        rest = head[4:10]
        if any(rest == magic[: len(rest)] for magic in _BZIP2_PARTS):
            return "bzip2"
    if head[:6] == _XZ_MAGIC[: len(head)] and len(head) > 1:
        return "xz"
    # Skippable frames, as zstd:chunked and pzstd begin with, have 16 magic numbers.
    if head[:4] == zstdframes.MAGIC or zstdframes.is_skippable(head):
        return "zstd"
    return None


def window_size(head: bytes, compression: Compression | None) -> int:
    """Give how many bytes of memory decoding a stream needs that begins with `head`.

    Looks at the first 64 bytes at most; a later part may need more.
    """
    if compression == "zstd":
        return zstdframes.window_size(head)
    if compression == "xz":
        # The dictionary size is the last byte of the LZMA2 filter (0x21, one byte of properties).
        at = head.find(b"\x21\x01", 13, 40)
        bits = head[at + 2] if at > 0 and len(head) > at + 2 else 22
        return min((2 | bits & 1) << (bits // 2 + 11), XZ_MEMORY_LIMIT)
    return {"gzip": 1 << 18, "bzip2": 4 << 20}.get(compression or "", 0)
