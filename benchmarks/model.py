"""What a right answer is: a plain model of layers, and the listing that both sides are put into.

Deliberately slow and simple: dictionaries of paths, one layer after the other. It knows what the
benchmark's own images need, which is whiteouts, opaque whiteouts, replaced types, implied
directories and hard links.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from benchmarks.tarbytes import Entry, walk_key

_ODD = re.compile(rb"[^!-\[\]-~]")


class Node:
    """One inode; names that share a Node are hard links of each other."""

    __slots__ = ("attributes", "kind", "rest")

    def __init__(self, kind: str, attributes: bytes, rest: bytes) -> None:
        self.kind = kind
        self.attributes = attributes
        self.rest = rest


def escape(raw: bytes) -> bytes:
    """Give a path with bytes that are no printable ASCII, blanks and backslashes as \\ooo."""
    return _ODD.sub(lambda found: b"\\%03o" % found[0][0], raw)


def content_id(data: bytes | memoryview) -> bytes:
    return b"%d %b" % (len(data), hashlib.sha256(data).hexdigest()[:20].encode())


def make_node(
    kind: str,
    mode: int,
    uid: int,
    gid: int,
    mtime: int,
    content: bytes = b"",
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: Iterable[tuple[bytes, bytes]] = (),
) -> Node:
    """Give the inode with its text: a symlink's mode is nobody's."""
    if kind == "l":
        mode = 0o777
        rest = escape(target)
    elif kind == "f":
        rest = content
    elif kind in "cb":
        rest = b"%d,%d" % device
    else:
        rest = b"-"
    for key, value in sorted(xattrs):
        rest += b" %b=%b" % (escape(key), value.hex().encode())
    return Node(kind, b"%b %04o %d:%d %d" % (kind.encode(), mode, uid, gid, mtime), rest)


def node_of(entry: Entry) -> Node:
    """Give the inode that a member is, which is no hard link."""
    return make_node(
        entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime,
        content_id(entry.data) if entry.kind == "f" else b"",
        entry.target, entry.device, entry.xattrs,
    )  # fmt: skip


class Model:
    """The merged tree, to which layers are applied base to top."""

    def __init__(self) -> None:
        self.live: dict[bytes, Node] = {}

    def apply(self, entries: Iterable[Entry]) -> None:
        """Lay one layer over the tree."""
        own: dict[bytes, Node] = {}
        gone: set[bytes] = set()
        emptied: set[bytes] = set()
        for entry in entries:
            parent, slash, base = entry.path.rpartition(b"/")
            if base == b".wh..wh..opq":
                emptied.add(parent)
            elif base.startswith(b".wh."):
                gone.add(parent + slash + base[4:])
            elif entry.kind == "h":
                own[entry.path] = own.get(entry.target) or self.live[entry.target]
            else:
                own[entry.path] = node_of(entry)
        self._remove(gone, emptied, {path for path, node in own.items() if node.kind != "d"})
        self._imply_parents(own)
        self.live.update(own)

    def _remove(self, gone: set[bytes], emptied: set[bytes], files: set[bytes]) -> None:
        inside_of_gone = {b"": b"" in emptied}

        def is_inside(directory: bytes) -> bool:
            known = inside_of_gone.get(directory)
            if known is None:
                known = directory in gone or directory in emptied or directory in files
                known = known or is_inside(directory.rpartition(b"/")[0])
                inside_of_gone[directory] = known
            return known

        self.live = {
            path: node
            for path, node in self.live.items()
            if path not in gone and not is_inside(path.rpartition(b"/")[0])
        }

    def _imply_parents(self, own: dict[bytes, Node]) -> None:
        for path in list(own):
            parent = path.rpartition(b"/")[0]
            while parent and parent not in own:
                below = self.live.get(parent)
                if below is not None and below.kind == "d":
                    break
                own[parent] = make_node("d", 0o755, 0, 0, 0)
                parent = parent.rpartition(b"/")[0]

    def lines(self) -> list[bytes]:
        """Give the listing, a line for each path in walk order."""
        return list(listing(self.live).values())


def listing(nodes: Mapping[bytes, Node]) -> dict[bytes, bytes]:
    """Give each path's line, in walk order; names of one inode say which of them is the first."""
    paths = sorted(nodes, key=walk_key)
    firsts: dict[int, bytes] = {}
    shared: set[int] = set()
    for path in paths:
        node = nodes[path]
        if node.kind != "d" and firsts.setdefault(id(node), path) != path:
            shared.add(id(node))
    result = {}
    for path in paths:
        node = nodes[path]
        line = b"%b %b %b" % (node.attributes, escape(path), node.rest)
        if id(node) in shared:
            line += b" =" + escape(firsts[id(node)])
        result[path] = line
    return result
