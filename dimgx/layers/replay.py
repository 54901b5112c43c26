"""The slow, exact way to a layer's own tree: one member after the other, as an engine does it.

It is needed where order matters: names that stand twice (rule 42), entries whose parent is a
symlink of the same layer (rule 29), links and whiteouts through such symlinks. About 10 us a
member.
"""

from __future__ import annotations

from collections.abc import Callable

from dimgx.layers.layerindex import REWRITE, LayerIndex, Link
from dimgx.layers.names import (
    MAX_PATH,
    MAX_SYMLINKS,
    WHITEOUT_PREFIX,
    check_implied,
    normalise,
    path_of,
)
from dimgx.layers.tarfields import DIRECTORY, LINK, SYMLINK, Header, MalformedTar, show

MAX_TARGETS = MAX_PATH
"""Bytes that their targets may have together: these are walked for each name anew."""


class _Node:
    """A name in the tree; directories have children."""

    __slots__ = ("children", "kind", "number", "target")

    def __init__(self, number: int | None, kind: int) -> None:
        self.number = number
        """The member, or None for a directory that is only implied."""
        self.kind = kind
        """The kind of the inode: of what a hard link names, where that is known."""
        self.target = b""
        """Of a symlink."""
        self.children: dict[bytes, _Node] | None = {} if kind == DIRECTORY else None


class Replay:
    """Replays a layer into its index."""

    def __init__(self, index: LayerIndex, read_header_at: Callable[[int], Header]) -> None:
        self._index, self._read_header_at = index, read_header_at
        self._root: dict[bytes, _Node] = {}
        self._implied_size = 0

    def run(
        self,
        links: dict[int, bytes],
        whiteouts: dict[int, bytes],
        device_whiteouts: dict[int, bytes],
        opaque: dict[int, bytes],
        dropped: dict[bytes, int],
    ) -> None:
        """Settle the index from the members, and from what the walk noted of them by number.

        Raises: MalformedTar where a member cannot be placed.
        """
        index = self._index
        keys, kinds = index.keys, index.kinds
        self._dropped = dropped
        for number in range(len(keys)):
            if number in links:
                self._link(number, links[number])
            elif keys[number]:
                self._place(number, path_of(keys[number]), _Node(number, kinds[number]))
            elif number in whiteouts:
                self._hide(number, whiteouts[number])
            elif number in opaque:
                _, names = self._walk(path_of(opaque[number]), number, create=False)
                index.opaque.append(b"".join(name + b"\0" for name in names))
            elif number in device_whiteouts:
                siblings, name = self._hide(number, device_whiteouts[number])
                siblings.pop(name, None)
        self._find_following()
        self._collect()

    def _walk(
        self, path: bytes, number: int, *, create: bool
    ) -> tuple[dict[bytes, _Node], list[bytes]]:
        """Follow the directories of `path` from the root, through symlinks as in a chroot.

        Gives what is in the last one, and the names from the root to it. What is missing is made;
        without `create` it is made beside the tree, and so is what is no directory.
        """
        offset = self._index.starts[number]
        entered, names, sizes = [self._root], list[bytes](), [0]
        left = path.split(b"/")[::-1]
        followed = length = 0
        while left:
            part = left.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if names:
                    entered.pop()
                    names.pop()
                    sizes.pop()
                continue
            child = entered[-1].get(part)
            if child is None:
                child = _Node(None, DIRECTORY)
                if create:
                    if part.startswith(WHITEOUT_PREFIX):
                        raise MalformedTar(
                            f"a symlink leads {show(path)} to {show(part)}, a marker's name", offset
                        )
                    # Here, as the tree itself takes as much memory as their names.
                    self._implied_size += sizes[-1] + len(part) + 1
                    check_implied(self._implied_size)
                    entered[-1][part] = child
            if child.kind == SYMLINK:
                followed += 1
                length += len(child.target)
                if followed > MAX_SYMLINKS or length > MAX_TARGETS:
                    raise MalformedTar(
                        f"too many or too long symlinks on the way to {show(path)}", offset
                    )
                if child.target.startswith(b"/"):
                    del entered[1:], names[:], sizes[1:]
                left += child.target.split(b"/")[::-1]
            else:
                children = child.children
                if children is None:
                    if create:
                        raise MalformedTar(
                            f"{show(path)} is below something that is no directory", offset
                        )
                    children = {}
                entered.append(children)
                names.append(part)
                sizes.append(sizes[-1] + len(part) + 1)
        return entered[-1], names

    def _place(self, number: int, path: bytes, node: _Node) -> None:
        parent, _, base = path.rpartition(b"/")
        children, _ = self._walk(parent, number, create=True)
        if node.kind == SYMLINK and not node.target:
            node.target = self._read_header_at(self._index.starts[number]).linkname
        old = children.get(base)
        if old is not None and old.kind == DIRECTORY and node.kind == DIRECTORY:
            node.children = old.children
        children[base] = node

    def _hide(self, number: int, key: bytes) -> tuple[dict[bytes, _Node], bytes]:
        """Note what a whiteout hides below; give the directory that it speaks of, and the name."""
        parent, _, base = path_of(key).rpartition(b"/")
        children, names = self._walk(parent, number, create=False)
        self._index.whiteouts.append(b"\0".join((*names, base)))
        return children, base

    def _link(self, number: int, spelled: bytes) -> None:
        """Place a hard link, with the inode that its target has at this moment."""
        index = self._index
        offset = index.starts[number]
        path = normalise(spelled, offset)
        if not path:
            raise MalformedTar(f"a hard link to {show(spelled)}", offset)
        place, _, name = path_of(index.keys[number]).rpartition(b"/")
        siblings, above = self._walk(place, number, create=True)
        # What had the name before is gone when the target is looked up, as engines have it.
        siblings.pop(name, None)
        parent, _, base = path.rpartition(b"/")
        children, names = self._walk(parent, number, create=False)
        found = children.get(base)
        node = _Node(number, LINK)
        if [*names, base] == [*above, name]:
            raise MalformedTar(f"a hard link {show(spelled)} to itself", offset)
        target = b"\0".join((*names, base))
        if found is None:
            link = Link(target, self._dropped.get(path))
        elif found.kind == DIRECTORY:
            raise MalformedTar(f"a hard link to the directory {show(spelled)}", offset)
        else:
            assert found.number is not None
            link = index.links.get(found.number) or Link(target, found.number)
            node.kind, node.target = found.kind, found.target
        index.links[number] = link._replace(spelled=spelled)
        siblings[name] = node

    def _find_following(self) -> None:
        """Let links to what came after them find it, if it is still there (rule 37)."""
        links = self._index.links
        for number, link in links.items():
            if link.member is not None:
                continue
            found = self._find(path_of(link.target))
            if found is not None and found.kind != DIRECTORY:
                links[number] = link._replace(following=found.number)

    def _find(self, path: bytes) -> _Node | None:
        """Give what lies at a path in which no name is a symlink's."""
        *parents, base = path.split(b"/")
        children = self._root
        for name in parents:
            node = children.get(name)
            if node is None or node.children is None:
                return None
            children = node.children
        return children.get(base)

    def _collect(self) -> None:
        """Write the tree's keys into the index; what is not in the tree is no entry."""
        index = self._index
        spelled, index.keys[:] = index.keys[:], [b""] * len(index.keys)
        waiting = [(b"", self._root)]
        while waiting:
            key, children = waiting.pop()
            for name, child in children.items():
                child_key = key + name + (b"\0" if child.kind == DIRECTORY else b"")
                if child.number is None:
                    index.implied.append(child_key)
                else:
                    index.keys[child.number] = child_key
                    if spelled[child.number] != child_key:
                        index.codes[child.number] = REWRITE
                if child.children:
                    waiting.append((child_key, child.children))
