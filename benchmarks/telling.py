"""Small images that tell whether a tool is right, each with its answer written by hand.

The answers are the OCI image specification's where it speaks, and what overlay engines show where
it is silent.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpora import Corpus, LayoutWriter, write_archive
from benchmarks.model import Node, listing, node_of
from benchmarks.tarbytes import Entry

CAPABILITY = (b"security.capability", bytes.fromhex("0100000200040000" + "00" * 12))


def file(path: str, data: str = "", mode: int = 0o644, uid: int = 0, **more: object) -> Entry:
    entry = Entry("f", path.encode(), mode, uid, uid, 1_000_000_000, data.encode())
    return entry._replace(**more)  # type: ignore[arg-type]


def folder(path: str, mode: int = 0o755, mtime: int = 1_000_000_000) -> Entry:
    return Entry("d", path.encode(), mode, mtime=mtime)


def implied(path: str) -> Entry:
    """A directory that no layer has an entry for."""
    return folder(path, mtime=0)


def link(path: str, target: str) -> Entry:
    return Entry("l", path.encode(), 0o777, mtime=1_000_000_000, target=target.encode())


def name(path: str, target: str) -> Entry:
    """A hard link."""
    return Entry("h", path.encode(), 0o644, mtime=1_000_000_000, target=target.encode())


@dataclass(frozen=True, slots=True)
class Telling:
    """One image and its answer."""

    id: str
    layers: Sequence[Sequence[Entry]]
    expected: Sequence[Entry]
    """The merged tree; a hard link names its group's first path in the order of a walk."""

    def listing(self) -> dict[bytes, bytes]:
        nodes: dict[bytes, Node] = {}
        for entry in self.expected:
            is_link = entry.kind == "h"
            nodes[entry.path] = nodes[entry.target] if is_link else node_of(entry)
        return listing(nodes)

    def make(self, work: Path) -> Corpus:
        """Write the image, as an archive and as a layout."""
        directory = work / "telling" / self.id
        shutil.rmtree(directory, ignore_errors=True)
        with LayoutWriter(directory / "plain") as layout:
            layout.finish([layout.add_layer(entries) for entries in self.layers], "plain")
        write_archive(directory / "plain", directory / "plain.tar")
        lines = self.listing().values()
        (directory / "listing").write_bytes(b"".join(line + b"\n" for line in lines))
        members = sum(map(len, self.layers))
        return Corpus(directory, "plain", self.id, members, len(self.expected), 0)


A = file("a/one", "old")

TELLING = (
    Telling(
        "hard link, target overwritten",
        [[folder("a"), A, name("a/two", "a/one")], [folder("a"), file("a/one", "new")]],
        [folder("a"), file("a/one", "new"), file("a/two", "old")],
    ),
    Telling(
        "hard links, first name removed",
        [
            [folder("a"), A, name("a/three", "a/one"), name("a/two", "a/one")],
            [folder("a"), file("a/.wh.one")],
        ],
        [folder("a"), file("a/three", "old"), name("a/two", "a/three")],
    ),
    Telling(
        "hard links across directories, one opaque",
        [
            [folder("a"), A, folder("b"), name("b/two", "a/one")],
            [folder("a"), file("a/.wh..wh..opq"), file("a/new", "x")],
        ],
        [folder("a"), file("a/new", "x"), folder("b"), file("b/two", "old")],
    ),
    Telling(
        "opaque directory, marker after its entries",
        [
            [folder("a"), A, folder("a/sub"), file("a/sub/x", "x")],
            [folder("a", 0o700), file("a/keep", "k"), file("a/.wh..wh..opq")],
        ],
        [folder("a", 0o700), file("a/keep", "k")],
    ),
    Telling(
        "whiteout beside a file of that name",
        [[folder("a"), A], [folder("a"), file("a/.wh.one"), file("a/one", "new")]],
        [folder("a"), file("a/one", "new")],
    ),
    Telling(
        "whiteout beside a directory of that name",
        [
            [folder("a"), folder("a/d"), file("a/d/old", "x")],
            [folder("a"), file("a/.wh.d"), folder("a/d", 0o700), file("a/d/new", "y")],
        ],
        [folder("a"), folder("a/d", 0o700), file("a/d/new", "y")],
    ),
    Telling(
        "capabilities and owners",
        [[folder("bin"), file("bin/ping", "x", 0o4755, xattrs=(CAPABILITY,)), file("u", uid=1000)]],
        [folder("bin"), file("bin/ping", "x", 0o4755, xattrs=(CAPABILITY,)), file("u", uid=1000)],
    ),
    Telling(
        "a name twice in one layer",
        [[folder("a"), A, file("a/one", "again", 0o600)]],
        [folder("a"), file("a/one", "again", 0o600)],
    ),
    Telling(
        "a file over a directory, then a directory",
        [
            [folder("a"), A, file("a/two", "x")],
            [file("a", "now a file")],
            [folder("a", 0o711), file("a/three", "y")],
        ],
        [folder("a", 0o711), file("a/three", "y")],
    ),
    Telling(
        "a symlink over a directory",
        [[folder("a"), A, folder("b")], [link("a", "b")]],
        [link("a", "b"), folder("b")],
    ),
    Telling(
        "a directory over a symlink, below it new files",
        [
            [link("lib", "usr/lib"), folder("usr"), folder("usr/lib"), file("usr/lib/x", "x")],
            [file("lib/y", "y")],
        ],
        [
            implied("lib"), file("lib/y", "y"),
            folder("usr"), folder("usr/lib"), file("usr/lib/x", "x"),
        ],
    ),
    Telling(
        "parents without entries keep what they were",
        [
            [folder("a", 0o750), folder("a/b", 0o700), file("a/b/one", "1")],
            [file("a/b/two", "2"), file("new/way/here", "3")],
        ],
        [
            folder("a", 0o750), folder("a/b", 0o700), file("a/b/one", "1"), file("a/b/two", "2"),
            implied("new"), implied("new/way"), file("new/way/here", "3"),
        ],
    ),
    Telling(
        "symlinks that point out of the root",
        [[link("up", "../../etc/passwd"), link("away", "/nowhere"), link("loop", "loop")]],
        [link("away", "/nowhere"), link("loop", "loop"), link("up", "../../etc/passwd")],
    ),
    Telling(
        "names like markers, names with dots and blanks",
        [[file("..data", "1"), file(".wh", "2"), file("a.wh.b", "3"), file("x y\\z", "4")]],
        [file("..data", "1"), file(".wh", "2"), file("a.wh.b", "3"), file("x y\\z", "4")],
    ),
)  # fmt: skip
