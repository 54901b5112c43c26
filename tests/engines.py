"""Engines and programs as oracles: what they make of an image, as the nodes of a listing."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tests.cases import Case
from tests.dsl import Member
from tests.listing import Node, walk_key
from tests.programs import need, run

_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
}
# What Docker puts into every container.
_DOCKERS_OWN = {
    b".dockerenv", b"dev", b"dev/console", b"dev/pts", b"dev/shm", b"proc", b"sys", b"etc",
    b"etc/hosts", b"etc/hostname", b"etc/resolv.conf", b"etc/mtab",
}  # fmt: skip


def read_tree(root: Path) -> list[Node]:
    """Give what lies below a directory of this machine, in walk order."""
    top = os.fsencode(root)
    found: list[tuple[Node, tuple[int, int], int]] = []
    for directory, names, others in os.walk(top):
        for name in names + others:
            path = os.path.join(directory, name)
            found.append(_read_node(path, path[len(top) + 1 :]))
    found.sort(key=lambda item: walk_key(item[0].path))
    firsts: dict[tuple[int, int], bytes] = {}
    nodes = []
    for node, inode, links in found:
        first = firsts.setdefault(inode, node.path) if links > 1 and node.kind != "d" else None
        nodes.append(replace(node, first=first))
    return nodes


def _read_node(path: bytes, name: bytes) -> tuple[Node, tuple[int, int], int]:
    status = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    data = target = b""
    if kind == "f":
        with open(path, "rb") as stream:
            data = stream.read()
    elif kind == "l":
        target = os.readlink(path)
    node = Node(
        kind,
        name,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns // 10**9,
        data,
        target,
        (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in "cb" else (0, 0),
        None,
        {
            os.fsencode(key): os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        },
    )
    return node, (status.st_dev, status.st_ino), status.st_nlink


def with_links(nodes: Sequence[Node]) -> list[Node]:
    """Name each group of hard links by those of its names that are there."""
    names: dict[bytes, list[bytes]] = {}
    for node in nodes:
        if node.first is not None:
            names.setdefault(node.first, []).append(node.path)
    return [
        replace(node, first=names[node.first][0] if len(names[node.first]) > 1 else None)
        if node.first is not None
        else node
        for node in nodes
    ]


def comparable(
    nodes: Sequence[Node],
    *,
    directory_times: bool = True,
    symlink_times: bool = True,
    symlink_owners: bool = True,
    xattrs: bool = True,
) -> list[Node]:
    """Leave out what an oracle does not keep, and modes of symlinks, which nobody sees."""
    result = []
    for node in nodes:
        node = replace(node, mode=0o777) if node.kind == "l" else node
        if (node.kind == "d" and not directory_times) or (node.kind == "l" and not symlink_times):
            node = replace(node, mtime=0)
        if node.kind == "l" and not symlink_owners:
            node = replace(node, uid=0, gid=0)
        if not xattrs:
            node = replace(node, xattrs={})
        result.append(node)
    return result


def agreed(cases: Sequence[Case], otherwise: Mapping[str, str]) -> list[Case]:
    """Give the cases that an engine is known to answer as we do.

    `otherwise` names the others by the beginnings of their ids, each with what the engine makes
    of them. Cases that are errors, and those written in raw bytes, are left out as well.
    """
    for start in otherwise:
        assert any(case.id.startswith(start) for case in cases), f"no case begins with {start}"
    return [
        case
        for case in cases
        if isinstance(case.expected, list)
        and case.in_model
        and not case.id.startswith(tuple(otherwise))
    ]


def under(number: int, case: Case) -> list[list[Member]]:
    """Give a case's layers moved into a directory of their own, so that many fit one image."""
    top = b"case%03d/" % number

    def moved(member: Member) -> Member:
        target = top + member.target if member.kind == "h" else member.target
        return member.but(name=top + member.name, target=target)

    return [[moved(member) for member in members] for members in case.layers]


def together(cases: Sequence[Case]) -> list[list[Member]]:
    """Give the layers of one image that holds all the cases side by side."""
    layers: list[list[Member]] = []
    for number, case in enumerate(cases):
        for position, members in enumerate(under(number, case)):
            if position == len(layers):
                layers.append([])
            layers[position] += members
    return layers


class Docker:
    """The command `docker` with a daemon."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._command = [need("docker"), "-H", host]

    def run(self, *words: str | Path, stdin: bytes = b"", ok: bool = True, **env: str) -> bytes:
        done = run([*self._command, *words], stdin=stdin, ok=ok, env=env)
        return done.stdout

    def export(self, name: str) -> bytes:
        """Give the tar of the file system that a container of the image `name` sees."""
        container = self.run("create", name, "/no-command").decode().strip()
        try:
            return self.run("export", container)
        finally:
            self.run("rm", container)


def without_dockers_own(nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if node.path not in _DOCKERS_OWN]
