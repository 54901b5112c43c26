"""Layers that are no tar of a root file system of Linux: file systems, and Windows' layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from dimgx.errors import ImageError

_MAGICS = {b"hsqs": "a squashfs", b"-rom1fs-": "a romfs", b"PK\3\4": "a zip archive"}
_EROFS_AT, _EROFS_MAGIC = 1024, b"\xe2\xe1\xf5\xe0"
_WINDOWS_NAMES = frozenset((b"Files", b"Hives", b"UtilityVM"))


def refuse_stranger(read: Callable[[int, int], bytes]) -> None:
    """Refuse a layer that is not a tar at all; `read(offset, size)` gives its bytes.

    Raises: ImageError.
    """
    head = read(0, _EROFS_AT + len(_EROFS_MAGIC))
    for magic, what in _MAGICS.items():
        if head.startswith(magic):
            raise ImageError(f"it is {what}, not a tar; only tar layers can be flattened")
    if head.endswith(_EROFS_MAGIC) and len(head) == _EROFS_AT + len(_EROFS_MAGIC):
        raise ImageError("it is an EROFS, not a tar; only tar layers can be flattened")


def refuse_windows(keys: Sequence[bytes]) -> None:
    """Refuse a layer of a Windows image, which holds no root file system of Linux (rule 73).

    Raises: ImageError.
    """
    names = {key.partition(b"\0")[0] for key in islice(filter(None, keys), 64)}
    if b"Files" in names and names <= _WINDOWS_NAMES:
        names = {key.partition(b"\0")[0] for key in filter(None, keys)}
        has_windows = any(key.startswith(b"Files\0Windows\0") for key in keys)
        if names <= _WINDOWS_NAMES and (b"Hives" in names or has_windows):
            raise ImageError("it is a layer of a Windows image; only Linux images can be flattened")
