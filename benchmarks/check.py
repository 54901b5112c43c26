"""Says whether a flat tar is right: its listing against the model's, path by path.

The reader is strict with what a root file system needs and lenient with how tools spell it: names
with `./`, PAX or GNU headers, links in either direction of spelling. Times of directories are not
compared where a tool had to unpack into a real directory to get there.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.model import Node, content_id, listing, make_node
from benchmarks.tarbytes import BLOCK, walk_key

KINDS = {b"0": "f", b"\0": "f", b"1": "h", b"2": "l", b"3": "c", b"4": "b", b"5": "d", b"6": "p"}
_XATTR = b"SCHILY.xattr."
DAEMON_FILES = re.compile(
    rb"\.dockerenv|(dev|proc|sys)(/.*)?|etc/(hostname|hosts|mtab|resolv\.conf)|etc"
)
"""What Docker puts into every container."""


class BrokenTar(Exception):
    """The output is no tar that can be read."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an output differs from what is right."""

    paths: int
    missing: int = 0
    extra: int = 0
    different: int = 0
    unordered: int = 0
    """Paths twice, before their parents, links before their targets."""
    example: str = ""

    @property
    def is_right(self) -> bool:
        return not (self.missing or self.extra or self.different or self.unordered)

    def __str__(self) -> str:
        if self.is_right:
            return "right"
        parts = [
            f"{count} {what}"
            for count, what in (
                (self.missing, "missing"),
                (self.extra, "too many"),
                (self.different, "different"),
                (self.unordered, "out of order"),
            )
            if count
        ]
        return ", ".join(parts)


def read_number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ~(0x80 << (8 * (len(field) - 1)))
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def read_records(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(payload):
        space = payload.index(b" ", at)
        end = at + int(payload[at:space])
        key, _, value = payload[space + 1 : end - 1].partition(b"=")
        yield key, value
        at = end


@dataclass(slots=True)
class Flat:
    """A flat tar as read."""

    nodes: dict[bytes, Node]
    unordered: int = 0
    """Paths twice, before their parents, or links before their targets."""
    in_walk_order: bool = True


def read_flat(path: Path) -> Flat:
    """Read a flat tar from disk.

    Raises: BrokenTar.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise BrokenTar("an empty file")
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data, memoryview(data) as view:
            try:
                return _read(data, view)
            except (ValueError, IndexError, KeyError) as exc:
                raise BrokenTar(f"not a tar that can be read: {exc!r}") from exc


def _read(data: mmap.mmap, view: memoryview) -> Flat:
    flat = Flat({})
    nodes = flat.nodes
    records: dict[bytes, bytes] = {}
    at, end = 0, len(data)
    last = b""
    while at + BLOCK <= end:
        block = data[at : at + BLOCK]
        flag = block[156:157]
        if not block[0] and block == bytes(BLOCK):
            break
        size = int(records.get(b"size", b"0")) or read_number(block[124:136])
        payload = at + BLOCK
        if flag in (b"x", b"L", b"K", b"g"):
            text = data[payload : payload + size]
            if flag == b"x":
                records.update(read_records(text))
            elif flag != b"g":
                records[b"path" if flag == b"L" else b"linkpath"] = text.rstrip(b"\0")
            at = payload + size + -size % BLOCK
            continue
        kind = KINDS[flag]
        if kind != "f":
            size = 0
        name, target = _names(block, records)
        if name:
            parent = name.rpartition(b"/")[0]
            flat.unordered += name in nodes or bool(parent and parent not in nodes)
            key = walk_key(name)
            flat.in_walk_order = flat.in_walk_order and last < key
            last = key
            if kind == "h":
                link = target.removeprefix(b"./").strip(b"/")
                flat.unordered += link not in nodes
                nodes[name] = nodes.get(link) or Node("h", b"h", b"dangling " + link)
            else:
                nodes[name] = _node(kind, block, records, view[payload : payload + size], target)
        records = {}
        at = payload + size + -size % BLOCK
    else:
        raise ValueError("no end")
    return flat


def _names(block: bytes, records: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    name = block[:100].split(b"\0")[0]
    if block[345] and block[257:263] == b"ustar\0":
        name = block[345:500].split(b"\0")[0] + b"/" + name
    name = records.get(b"path", name)
    while name.startswith((b"./", b"/")):
        name = name[1:] if name[:1] == b"/" else name[2:]
    name = name.rstrip(b"/")
    return b"" if name == b"." else name, records.get(b"linkpath", block[157:257].split(b"\0")[0])


def _node(
    kind: str, block: bytes, records: Mapping[bytes, bytes], content: memoryview, target: bytes
) -> Node:
    mtime = records.get(b"mtime")
    xattrs = [(k[len(_XATTR) :], v) for k, v in records.items() if k.startswith(_XATTR)]
    device = (0, 0)
    if kind in "cb":
        device = read_number(block[329:337]), read_number(block[337:345])
    return make_node(
        kind,
        read_number(block[100:108]) & 0o7777,
        int(records.get(b"uid", b"0")) or read_number(block[108:116]),
        int(records.get(b"gid", b"0")) or read_number(block[116:124]),
        read_number(block[136:148]) if mtime is None else int(mtime.partition(b".")[0]),
        content_id(content) if kind == "f" else b"",
        target,
        device,
        xattrs,
    )


def compare(
    expected: Mapping[bytes, bytes], flat: Flat, *, is_strict: bool, is_docker: bool = False
) -> Verdict:
    """Compare the lines of an output with the model's.

    Strict: in walk order, and with the times of directories.
    """
    found = listing(flat.nodes)
    missing = extra = different = 0
    example = ""
    for path, line in expected.items():
        other = found.pop(path, None)
        if is_docker and DAEMON_FILES.fullmatch(path):
            continue
        if other is None:
            missing += 1
            example = example or f"no {line.decode()}"
        elif other != line and (is_strict or _timeless(other) != _timeless(line)):
            different += 1
            example = example or f"{other.decode()} instead of {line.decode()}"
    for path, line in found.items():
        if not (is_docker and DAEMON_FILES.fullmatch(path)):
            extra += 1
            example = example or f"{line.decode()} too many"
    unordered = flat.unordered + (is_strict and not flat.in_walk_order)
    return Verdict(len(expected), missing, extra, different, unordered, example)


def _timeless(line: bytes) -> bytes:
    """Leave out a directory's time."""
    if not line.startswith(b"d "):
        return line
    fields = line.split(b" ")
    fields[3] = b"-"
    return b" ".join(fields)


def read_listing(path: Path) -> dict[bytes, bytes]:
    """Read a model's listing; the keys are unescaped paths."""
    result = {}
    for line in path.read_bytes().splitlines():
        name = line.split(b" ", 5)[4]
        if b"\\" in name:
            name = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), name)
        result[name] = line
    return result
