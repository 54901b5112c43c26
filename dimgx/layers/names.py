"""Names inside an image: paths as bytes, and the keys that sort them in the order of a walk.

A *path* is normalised: no leading or trailing `/`, no `.`, no `..`; `b""` is the root (rules 5-7).

A *key* is a path in which `/` is NUL, with one more NUL at the end for a directory. NUL is less
than every byte of a name, so sorting keys gives the order of a depth-first walk with siblings
sorted by bytes: `a`, then the directory `a`, then all that is below it, then `a.txt`. And what lies
below a directory is a range of neighbours: `key <= k < key[:-1] + b"\\1"`.
"""

from __future__ import annotations

from dimgx.errors import ImageError
from dimgx.layers.tarfields import MalformedTar, show

MAX_PATH = 4096
"""Longest name and link target in bytes; Linux makes no longer ones (rule 72)."""
MAX_SYMLINKS = 40
"""Symlinks followed for one name, as in Linux."""
MOST_IMPLIED = 256 << 20
"""Bytes of names of directories that a layer, or all layers of an image together, need but have no
entries for; real ones need some MiB. A small layer can need any number (rule 72).
"""

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
AUFS_PREFIX = b".wh..wh."


def normalise(name: bytes, offset: int) -> bytes:
    """Give the path that `name` spells, from a member at `offset` of its tar.

    Raises: MalformedTar where it leaves the root or is too long.
    """
    if len(name) > MAX_PATH:
        raise MalformedTar(f"a name of {len(name)} bytes (4096 is the most)", offset)
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise MalformedTar(f"{show(name)} leaves the root", offset)
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def check_implied(size: int) -> None:
    """Refuse more than `MOST_IMPLIED` bytes.

    Raises: ImageError.
    """
    if size > MOST_IMPLIED:
        raise ImageError(
            f"the directories that are needed but have no entries have names of more than"
            f" {MOST_IMPLIED >> 20} MiB"
        )


def key_of(path: bytes, *, is_directory: bool) -> bytes:
    """Give the key of a path other than the root."""
    return path.replace(b"/", b"\0") + (b"\0" if is_directory else b"")


def path_of(key: bytes) -> bytes:
    """Give the path of a key."""
    return key.rstrip(b"\0").replace(b"\0", b"/")


def name_of(key: bytes) -> bytes:
    """Give the name of a key as it goes out: a directory's with one trailing `/` (rule 70)."""
    return key.replace(b"\0", b"/")


def ancestors(key: bytes) -> list[bytes]:
    """Give the keys of the directories above, nearest first."""
    found = []
    end = key.rfind(b"\0", 0, len(key) - 1)
    while end > 0:
        found.append(key[: end + 1])
        end = key.rfind(b"\0", 0, end)
    return found
