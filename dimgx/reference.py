"""What people write for an image, and what it says: `TRANSPORT:PATH[:ref]`, a path, or a name.

The spelling is that of skopeo and podman. Nothing is opened here; files are only asked for their
existence, as names may hold colons: of all ways to cut a text, the longest path that exists wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from dimgx.errors import UsageError

Transport = Literal[
    "docker-archive", "oci-archive", "oci", "dir", "path", "stdin",
    "docker", "docker-daemon", "podman", "containers-storage", "containerd",
]  # fmt: skip

_ON_DISK: dict[str, Transport] = {
    "docker-archive": "docker-archive",
    "oci-archive": "oci-archive",
    "oci": "oci",
    "dir": "dir",
}
PREFIXES = ", ".join(f"{word}:" for word in _ON_DISK)
"""What may stand before the path of an image, or of one that is to be written."""
_NAMED: dict[str, Transport] = {
    "docker-daemon": "docker-daemon",
    "podman": "podman",
    "containers-storage": "podman",
    "containerd": "containerd",
}
_ARCHIVE_NAME = re.compile(r"(?si).*\.(?:tar[^/:]*|tgz|taz|tbz2?|txz|tzst)")
# As c/image has it, `@ID` or `NAME@ID`; a digest there has its algorithm before it.
_STORED_ID = re.compile(r"[^@\[]*@([0-9a-f]+)")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# What curl and git take before a host, and no image's name has: behind its only @ is a digest.
_USER_INFO = re.compile(r"(?:[A-Za-z]+://)?[^/@]*@[^/@]*/")
_IMAGE_NAME = re.compile(r"[A-Za-z0-9\[](?:[A-Za-z0-9_.:@+\[\]-]|/(?!/))*")
_TWO_TAGS = re.compile(r"[^/@:\[]+:[^/@:]*:[^/@]*")


class Reference(NamedTuple):
    """A reference, taken apart."""

    text: str
    """As it was written."""
    transport: Transport
    """`path` for a path without a word before it, `docker` for a registry, `containers-storage`
    for a store that is named."""
    path: str | None = None
    """The file or directory, of the transports that have one; how a store is named."""
    name: str | None = None
    """The image's name at the engine or registry; else which image of an archive is meant."""

    @property
    def is_at_engine(self) -> bool:
        """The image is kept by the Docker Engine, Podman or containerd."""
        return self.transport in ("docker-daemon", "podman", "containerd")

    def __str__(self) -> str:
        return self.text


def parse_reference(
    text: str,
    *,
    exists: Callable[[str], bool] = os.path.exists,
    is_file: Callable[[str], bool] = os.path.isfile,
) -> Reference:
    """Give the reference that `text` spells.

    Raises: UsageError where it is empty or is neither a path nor a name.
    """
    word, colon, rest = text.partition(":")
    if word == "-" and (not colon or rest):
        return Reference(text, "stdin", None, rest or None)
    if colon and word in _ON_DISK:
        if not rest:
            raise UsageError(f"{text!r:.300} names no path")
        if rest == "-" or (rest.startswith("-:") and rest != "-:"):
            return Reference(text, "stdin", None, rest[2:] or None)
        return _cut(text, _ON_DISK[word], rest, exists)
    if word == "containers-storage":
        store, rest = _cut_store(rest)
        stored = _STORED_ID.fullmatch(rest)
        rest = stored[1] if stored else rest
        if store is not None:
            name = _checked(rest, text) if rest else None
            return Reference(text, "containers-storage", store, name)
    if colon and word in _NAMED:
        return Reference(text, _NAMED[word], None, _checked(rest, text))
    if word == "docker" and rest.startswith("//"):
        return Reference(text, "docker", None, _checked(rest[2:], text))
    if _is_path(text, is_file):
        return _cut(text, "path", text, exists)
    if exists(rest) and (_is_path(rest, is_file) or _is_nearly_a_form(word)):
        path = rest if rest.startswith(("/", "./", "../")) else f"./{rest}"
        raise UsageError(f"{word:.100}: is none of {PREFIXES}; the path alone is {path:.300}")
    return Reference(text, "docker-daemon", None, _checked(text, text))


def spelled(reference: str | os.PathLike[str]) -> str:
    """Give a reference as text, a path object so that it can be nothing else than a path."""
    if isinstance(reference, str):
        return reference
    path = os.fspath(reference)
    return path if _is_path(path, lambda _: False) else f"./{path}"


def _cut_store(rest: str) -> tuple[str | None, str]:
    """Give what names a store, in brackets, and what is behind it."""
    if not rest.startswith("["):
        return None, rest
    store, bracket, name = rest[1:].partition("]")
    if not bracket:
        raise UsageError(f"{rest!r:.300} names a store, and lacks the ] behind it")
    return store, name


def _is_path(text: str, is_file: Callable[[str], bool]) -> bool:
    if text.startswith(("/", "./", "../")) or text in (".", "..") or _DRIVE.match(text):
        return True
    # A missing file of such a name is meant as a file all the same: looking for an image
    # `rootfs.tar` at the engine would only blur the message.
    return any(
        _ARCHIVE_NAME.fullmatch(path) and is_file(path) for path, _ in _ways_to_cut(text)
    ) or bool(_ARCHIVE_NAME.fullmatch(text.partition(":")[0]))


def _is_nearly_a_form(word: str) -> bool:
    from difflib import get_close_matches

    return bool(get_close_matches(word, _ON_DISK, cutoff=0.6))


def _ways_to_cut(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield path and ref, the longest path first."""
    yield text, None
    start = 2 if _DRIVE.match(text) else 1
    end = text.rfind(":")
    while end >= start:
        yield text[:end], text[end + 1 :]
        end = text.rfind(":", 0, end)


def _cut(text: str, transport: Transport, rest: str, exists: Callable[[str], bool]) -> Reference:
    ways = list(_ways_to_cut(rest))
    # Where nothing exists the shortest is the likeliest, as refs hold colons more often.
    path, ref = next((way for way in ways if exists(way[0])), ways[-1])
    if ref == "":
        raise UsageError(f"{text!r:.300} names no image behind its last colon")
    return Reference(text, transport, path, ref)


def _checked(name: str, text: str) -> str:
    if _USER_INFO.match(name):  # and no more of it is said, as it may hold a password
        raise UsageError(
            "an image's name has no user and password before its host: say --creds USER:PASSWORD"
            " beside docker://[host[:port]/]name[:tag][@digest]"
        )
    if _TWO_TAGS.fullmatch(name):
        raise UsageError(
            f"{text!r:.300} has a colon too many for an image's name: before one stands docker://"
            " for a registry, or docker-daemon:, podman:, containerd:"
        )
    if _IMAGE_NAME.fullmatch(name):
        return name
    if "://" in text:
        raise UsageError(
            f"{text!r:.300} names no image: one at a registry is written"
            " docker://[host[:port]/]name[:tag][@digest]"
        )
    raise UsageError(
        f"{text!r:.300} is neither a path (begin it with / or ./, or with {PREFIXES} before it) nor"
        " the name of an image"
    )
