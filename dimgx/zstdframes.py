"""What the headers of a zstd stream say: where its frames end, and how large their window is.

The library's reader ends without an error where a stream is cut off.

Spec: RFC 8878, 3.1.1 (frames and blocks) and 3.1.2 (skippable frames).
"""

from __future__ import annotations

MAX_WINDOW_SIZE = 1 << 31
"""Bytes; more than any encoder takes."""

MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
"""The magic numbers of skippable frames but for the first byte, which is 0x50 to 0x5f."""
_START, _SKIPPABLE_SIZE, _BLOCK_SIZE = 5, 8, 3
"""Bytes that say how a frame goes on: the magic number and the descriptor; of a skippable frame,
the magic number and the size. And the bytes of a block's header."""
_RLE, _RESERVED = 1, 3
"""Types of blocks: of one byte, repeated; and one that there is not."""
_ID_WIDTHS = 0, 1, 2, 4
"""Bytes of a dictionary's number."""


def is_skippable(head: bytes) -> bool:
    """Tell whether `head` begins a skippable frame, as zstd:chunked and pzstd have first."""
    return head[1:4] == _SKIPPABLE and head[0] >> 4 == 5


def window_size(head: bytes) -> int:
    """Give the window of the frame that `head`, its first 18 bytes or more, begins with.

    In bytes. Spec: RFC 8878, 3.1.1.1.
    """
    if head[:4] != MAGIC or len(head) < 6:
        return 8 << 20  # a skippable frame: what follows is seldom larger
    descriptor = head[4]
    if not descriptor & 0x20:
        base = 1 << (10 + (head[5] >> 3))
        window = base + base // 8 * (head[5] & 7)
    else:
        at = 5 + _ID_WIDTHS[descriptor & 3]
        width = (1, 2, 4, 8)[descriptor >> 6]
        window = int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)
    return min(window, MAX_WINDOW_SIZE)


class FrameEnds:
    """Follows a stream, piece by piece."""

    def __init__(self) -> None:
        self.position = 0
        """Bytes that were followed."""
        self._head = b""
        self._need = _START
        self._skip = 0
        self._in_frame = self._has_checksum = self._is_lost = False

    @property
    def is_at_end(self) -> bool:
        """Whether a frame ends here, and no other has begun."""
        return bool(self.position) and not (
            self._head or self._skip or self._in_frame or self._is_lost
        )

    @property
    def ahead(self) -> int:
        """How many of the bytes that come next say nothing here."""
        return self._skip

    def pass_over(self, count: int) -> None:
        """Go on by `count` bytes that say nothing, at most `ahead`."""
        self.position += count
        self._skip -= count

    def follow(self, piece: bytes | memoryview) -> None:
        """Go on by `piece`. What is no frame is not followed any further."""
        size, at = len(piece), 0
        self.position += size
        while not self._is_lost:
            if self._skip >= size - at:
                self._skip -= size - at
                return
            at += self._skip
            self._skip = 0
            part = bytes(piece[at : at + self._need - len(self._head)])
            at += len(part)
            self._head += part
            if len(self._head) < self._need:
                return
            if self._in_frame:
                self._enter_block(int.from_bytes(self._head, "little"))
            else:
                self._enter_frame(self._head)

    def _enter_block(self, header: int) -> None:
        is_last, kind, size = header & 1, header >> 1 & 3, header >> 3
        self._head = b""
        self._skip = 1 if kind == _RLE else size
        self._is_lost = kind == _RESERVED
        if is_last:
            self._in_frame, self._need = False, _START
            self._skip += 4 if self._has_checksum else 0

    def _enter_frame(self, head: bytes) -> None:
        if head[:4] == MAGIC:
            descriptor = head[4]
            is_single = descriptor >> 5 & 1
            content_size = (is_single, 2, 4, 8)[descriptor >> 6]
            self._skip = (not is_single) + _ID_WIDTHS[descriptor & 3] + content_size
            self._has_checksum = bool(descriptor & 4)
            self._in_frame, self._need, self._head = True, _BLOCK_SIZE, b""
        elif is_skippable(head):
            if len(head) < _SKIPPABLE_SIZE:
                self._need = _SKIPPABLE_SIZE
                return
            self._skip = int.from_bytes(head[4:], "little")
            self._need, self._head = _START, b""
        else:
            self._is_lost = True
