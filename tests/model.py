"""The plain reference model: rule 1's three steps written down, right before fast.

For each layer, base to top:
(a) build the layer's own tree from its entries alone, in their order;
(b) remove from the tree below what the layer's whiteouts and opaque markers name;
(c) lay the layer's tree over what is left.

Names of files are entries in directories that point to shared `Inode`s, as on a real file system,
so that hard links need no rules of their own. What SEMANTICS leaves open raises `Unspecified`; the
generators of random layers throw such stacks away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from tests.dsl import Member
from tests.listing import Node, short_listing, walk_key

NOWHERE = b"\0"
"""A path that nothing has."""
_TWO_OF_ONE_NAME = "overlayfs' whiteout and another entry of one name in one layer"


class Malformed(Exception):
    """The image is one that has to be refused."""


class Unspecified(Exception):
    """No rule says what this means."""


@dataclass(eq=False, slots=True)
class Inode:
    """A file of any kind; two names that point to it are hard links of each other."""

    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    data: bytes = b""
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    children: dict[bytes, Inode] = field(default_factory=dict)
    implied: bool = False
    """A directory that has no entry of its own in its layer."""
    later: bytes | None = None
    """A hard link whose target may follow in the layer: where to (rule 37)."""


@dataclass(slots=True)
class OwnTree:
    """One layer by itself: step (a)."""

    below: Inode
    root: Inode = field(default_factory=lambda: Inode("d", implied=True))
    whiteouts: list[bytes] = field(default_factory=list)
    devices: list[bytes] = field(default_factory=list)
    """Those whiteouts that are overlayfs' devices (rule 20)."""
    opaque: list[bytes] = field(default_factory=list)
    hidden: dict[bytes, Inode] = field(default_factory=dict)
    """aufs' own files, which only hard links can reach (rule 19)."""
    joined: list[Inode] = field(default_factory=list)
    """Lower layers' files that hard links of this layer name."""
    directories: list[bytes] = field(default_factory=list)
    """Targets of hard links that were directories when the links came."""
    bad: int = 0
    """Hard links that can mean nothing, whatever follows."""


def flatten(layers: Sequence[Sequence[Member]]) -> Inode:
    """Give the root directory of the flattened image.

    Raises: Malformed, Unspecified.
    """
    root = Inode("d", implied=True)
    for members in layers:
        own = build_own_tree(members, root)
        for path in own.opaque:
            directory = look_up(root, path)
            if directory is not None and directory.kind == "d":
                directory.children.clear()
        for path in own.whiteouts:
            parent, _, name = path.rpartition(b"/")
            directory = look_up(root, parent)
            if directory is not None and directory.kind == "d":
                directory.children.pop(name, None)
        lay_over(root, own.root)
    return root


def lay_over(lower: Inode, upper: Inode) -> None:
    """Merge the directory `upper` into `lower`: step (c)."""
    if not upper.implied:
        lower.implied = False
        lower.mode, lower.uid, lower.gid = upper.mode, upper.uid, upper.gid
        lower.mtime, lower.xattrs = upper.mtime, upper.xattrs
    for name, child in upper.children.items():
        old = lower.children.get(name)
        if child.kind == "d":
            if old is None or old.kind != "d":
                old = lower.children[name] = Inode("d", implied=True)
            lay_over(old, child)
        else:
            lower.children[name] = child


def look_up(root: Inode, path: bytes) -> Inode | None:
    """Give what lies at a path, following no symlinks (rules 30, 31)."""
    at = root
    for part in path.split(b"/") if path else []:
        if at.kind != "d" or part not in at.children:
            return None
        at = at.children[part]
    return at


def normalise(name: bytes) -> bytes:
    """Give the path that a name spells (rules 5 to 7)."""
    if len(name) > 4096:
        raise Malformed("too long")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise Malformed("leaves the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def build_own_tree(members: Sequence[Member], below: Inode) -> OwnTree:
    own = OwnTree(below)
    for member in members:
        if member.kind == "raw":
            raise Unspecified("the model does not read raw bytes")
        add_entry(own, member)
    settle_links(own)
    if any(look_up(own.root, path) is not None for path in own.devices):
        raise Unspecified(_TWO_OF_ONE_NAME)
    return own


def add_entry(own: OwnTree, member: Member) -> None:
    path = normalise(member.name)
    if len(member.target) > 4096:
        raise Malformed("a target too long")
    parts = path.split(b"/")
    if parts[0].startswith(b".wh..wh.") and parts[0] != b".wh..wh..opq":
        if member.kind == "f":
            own.hidden[path] = inode_of(own, member)  # rule 19
        return
    if any(part.startswith(b".wh.") for part in parts[:-1]):
        check_marker(next(part for part in parts[:-1] if part.startswith(b".wh.")))
        return  # below a marker (rule 14)
    if not path:
        if member.kind != "d":
            raise Malformed("a root that is no directory")
        set_attributes(own.root, member)
        own.root.implied = False
        return
    base = parts[-1]
    if base.startswith(b".wh.") or (member.kind == "c" and member.device == (0, 0)):
        add_marker(own, parts, base)
        return
    directory, resolved = resolve_directory(own, parts[:-1], make=True)
    assert directory is not None
    path = b"/".join([*resolved, base])
    old = directory.children.get(base)
    if member.kind == "d":
        if old is None or old.kind != "d":
            old = directory.children[base] = Inode("d")
        set_attributes(old, member)
        old.implied = False
        return
    if member.kind == "h":
        directory.children.pop(base, None)
    directory.children[base] = inode_of(own, member, path)


def check_marker(base: bytes) -> None:
    if base in (b".wh.", b".wh..", b".wh..."):
        raise Malformed("a whiteout of nothing")


def add_marker(own: OwnTree, parts: Sequence[bytes], base: bytes) -> None:
    _, resolved = resolve_directory(own, parts[:-1], make=False)
    place = list(resolved)
    if base == b".wh..wh..opq":
        own.opaque.append(b"/".join(place))
        return
    if base.startswith(b".wh."):
        check_marker(base)
        base = base[4:]
    else:
        if look_up(own.root, b"/".join([*place, base])) is not None:
            raise Unspecified(_TWO_OF_ONE_NAME)
        own.devices.append(b"/".join([*place, base]))
    own.whiteouts.append(b"/".join([*place, base]))


def resolve_directory(
    own: OwnTree, parts: Sequence[bytes], *, make: bool
) -> tuple[Inode | None, list[bytes]]:
    """Follow the layer's own symlinks as in a chroot (rule 29); give directory and real path.

    With `make`, what is missing is made; without it, the directory may be None.
    """
    pending = list(reversed(parts))
    trail: list[tuple[bytes, Inode | None]] = []
    links = length = 0
    while pending:
        part = pending.pop()
        at = trail[-1][1] if trail else own.root
        if part in (b"", b"."):
            continue
        if part == b"..":
            if trail:
                trail.pop()
            continue
        child = at.children.get(part) if at is not None else None
        if child is None:
            if make:
                assert at is not None
                if part.startswith(b".wh."):
                    raise Malformed("an entry that a symlink leads below a marker's name")
                child = at.children[part] = Inode("d", implied=True)
            trail.append((part, child))
        elif child.kind == "d":
            trail.append((part, child))
        elif child.kind == "l":
            if any(child is inode for inode in own.joined):
                raise Unspecified("a name behind a hard link to a lower layer's symlink")
            links += 1
            length += len(child.target)
            if links > 40 or length > 4096:
                raise Malformed("a loop of symlinks")
            if child.target.startswith(b"/"):
                trail.clear()
            pending += reversed(child.target.split(b"/"))
        elif make:
            raise Malformed("an entry below what is no directory")
        else:
            raise Unspecified("a marker below what is no directory")
    return (trail[-1][1] if trail else own.root), [name for name, _ in trail]


def inode_of(own: OwnTree, member: Member, path: bytes = b"") -> Inode:
    """Give a new inode for an entry that is no directory, or the one that a hard link means."""
    if member.kind != "h":
        inode = Inode(member.kind, data=member.data, target=member.target, device=member.device)
        set_attributes(inode, member)
        return inode
    wanted = normalise(member.target)
    found = own.hidden.get(wanted)
    real = wanted
    if found is None:
        found, real = find_link_target(own, wanted)
    if found is not None and found.kind != "d" and real != path:
        if found.later is not None:
            raise Unspecified("a link to a link whose target is not there yet")
        set_attributes(found, member, is_link=True)
        return found
    if member.xattrs:
        raise Unspecified("xattrs of a link to what follows")
    if path.startswith(wanted + b"/"):
        raise Unspecified("a link to the directory that it makes itself")
    if found is not None:
        own.directories.append(wanted)
    # What is no good now is none the better for what follows.
    is_bad = found is not None or real == path
    own.bad += is_bad
    return Inode("h", later=NOWHERE if is_bad else real)


def find_link_target(own: OwnTree, wanted: bytes) -> tuple[Inode | None, bytes]:
    """Give what a link's target names in the layer itself, else in the layers below (rule 36).

    And the path that leads there without symlinks (rule 32).
    """
    if not wanted or any(part.startswith(b".wh.") for part in wanted.split(b"/")):
        return Inode("d"), wanted  # the root, an empty name or a marker: as bad as a directory
    *parents, base = wanted.split(b"/")
    try:
        directory, resolved = resolve_directory(own, parents, make=False)
    except Unspecified:  # below a file of the layer
        directory, resolved = None, parents
    path = b"/".join([*resolved, base])
    if directory is not None and base in directory.children:
        return directory.children[base], path
    found = look_up(own.below, path)
    if found is not None:
        own.joined.append(found)
    return found, path


def settle_links(own: OwnTree) -> None:
    """Turn links whose target came later in the layer into links (rule 37)."""

    def settle(directory: Inode) -> None:
        for name, child in directory.children.items():
            if child.kind == "d":
                settle(child)
            elif child.later is not None:
                found = look_up(own.root, child.later)
                if found is None or found.kind == "d":
                    raise Malformed("a link to nothing, or to a directory")
                if found.later is not None:
                    raise Unspecified("links in a row to what follows")
                directory.children[name] = found

    for path in own.directories:
        replaced = look_up(own.root, path)
        if replaced is not None and replaced.kind != "d":
            raise Unspecified("a link to what was a directory and is a file in the end")
    settle(own.root)
    if own.bad:
        raise Unspecified("a link that can mean nothing, but is covered in its own layer")


def set_attributes(inode: Inode, member: Member, *, is_link: bool = False) -> None:
    """Give an inode what an entry's header says; a link's xattrs are added (rule 41)."""
    if isinstance(member.mtime, str):
        mtime = Decimal(member.mtime)
        inode.mtime = int(mtime // 1) - (1 if mtime < 0 and mtime % 1 else 0)
    else:
        inode.mtime = member.mtime
    inode.mode, inode.uid, inode.gid = member.mode & 0o7777, member.uid, member.gid
    xattrs = {
        key.encode(): value
        for key, value in member.xattrs.items()
        if not key.startswith("trusted.")
    }
    inode.xattrs = inode.xattrs | xattrs if is_link else xattrs


def nodes_of(root: Inode) -> list[Node]:
    """Give the tree in walk order, as it is to be written."""
    found: list[tuple[bytes, Inode]] = []

    def walk(directory: Inode, prefix: bytes) -> Iterator[tuple[bytes, Inode]]:
        for name, child in directory.children.items():
            path = prefix + name
            yield path, child
            if child.kind == "d":
                yield from walk(child, path + b"/")

    found = sorted(walk(root, b""), key=lambda item: walk_key(item[0]))
    names: dict[int, list[bytes]] = {}
    for path, inode in found:
        names.setdefault(id(inode), []).append(path)
    return [
        Node(
            inode.kind,
            path,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime,
            inode.data,
            inode.target,
            inode.device,
            names[id(inode)][0] if len(names[id(inode)]) > 1 else None,
            inode.xattrs,
        )
        for path, inode in found
    ]


def expected_listing(layers: Sequence[Sequence[Member]]) -> list[str]:
    """Give the short listing that flattening the layers must have.

    Raises: Malformed, Unspecified.
    """
    return short_listing(nodes_of(flatten(layers)))
