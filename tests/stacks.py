"""Random stacks of layers, few of which have to be refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any
from zlib import crc32

from hypothesis import assume, event
from hypothesis import strategies as st

from tests import model
from tests.dsl import Member, chardev, dir_, fifo, file, hardlink, sparse, symlink

# Few and short names, so that everything meets everything; some sort between `a` and `a/`. One
# draw for what is several, as drawing takes longer than what is done with it.
_NAMES = ("a", "a", "a", "b", "b", "a.", "a-", "\u00e9")
PATHS = st.one_of(
    *(st.sampled_from(["/".join(names) for names in product(_NAMES, repeat=n)]) for n in (1, 2, 3))
)
SPELLINGS = st.sampled_from(["", "", "", "./", "/", ".//", "c/../"])
_XATTRS: list[dict[str, bytes]] = [
    {}, {}, {}, {"user.a": b"1"}, {"user.b": b"\0\n", "user.a": b"2"},
]  # fmt: skip
TARGETS = st.one_of(
    PATHS, PATHS.map(lambda path: "/" + path), PATHS.map(lambda path: "../" + path),
    st.sampled_from([".", "/", "a", "b"]),
)  # fmt: skip


def _all_attributes() -> list[dict[str, Any]]:
    """Give few values of each, so that entries are often equal in some and different in others."""
    every = product(
        (0o644, 0o755, 0o700, 0o4711), (0, 0, 1, 3_000_000), (0, 5, 1_700_000_000, "7.5"),
        ("ustar", "ustar", "gnu", "pax", "v7"), _XATTRS,
    )  # fmt: skip
    found = []
    for mode, uid, mtime, dialect, xattrs in every:
        if dialect == "v7":
            uid, mtime, xattrs = uid % 1_000_000, 5 if mtime == "7.5" else mtime, {}
        found.append({
            "mode": mode, "uid": uid, "mtime": mtime, "dialect": dialect, "xattrs": xattrs,
        })  # fmt: skip
    return found


ATTRIBUTES = st.sampled_from(_all_attributes())


@st.composite
def members(draw: st.DrawFn) -> Member:
    path = draw(SPELLINGS) + draw(PATHS)
    more = draw(ATTRIBUTES)
    kind = draw(
        st.sampled_from(["file"] * 6 + ["dir"] * 4 + ["symlink"] * 3 + ["hardlink"] * 4
                        + ["whiteout"] * 3 + ["opaque", "device", "fifo", "sparse", "overlay"])
    )  # fmt: skip
    parent, slash, base = path.rpartition("/")
    if kind == "file":
        return file(path, draw(st.sampled_from([b"", b"1", b"2" * 600])), **more)
    if kind == "dir":
        return dir_(path, slash=draw(st.booleans()) or more["dialect"] == "v7", **more)
    if kind == "symlink":
        return symlink(path, draw(TARGETS), **(more | {"mode": 0o777, "xattrs": {}}))
    if kind == "hardlink":
        return hardlink(path, draw(SPELLINGS) + draw(PATHS), **more)
    if kind in ("whiteout", "opaque"):
        where = draw(st.sampled_from([path + "/", parent + slash, parent + slash]))
        name = parent + slash + ".wh." + base if kind == "whiteout" else where + ".wh..wh..opq"
        if draw(st.integers(0, 3)):
            return file(name, **more)
        return chardev(name, 0, draw(st.integers(0, 1)), **(more | {"dialect": "ustar"}))
    if kind == "device":
        return chardev(path, 1, 3, **(more | {"dialect": "ustar"}))
    if kind == "overlay":
        return chardev(path, 0, 0, **(more | {"dialect": "ustar"}))
    if kind == "sparse":
        form = draw(st.sampled_from(["0.0", "0.1", "1.0", "gnu"]))
        return sparse(path, [(10, b"data")], 700, form, **(more | {"dialect": "ustar"}))
    return fifo(path, **more)


def _is_good(layers: Sequence[Sequence[Member]]) -> bool:
    try:
        model.flatten(layers)
    except (model.Malformed, model.Unspecified):
        return False
    return True


def _aimed(member: Member, paths: Sequence[bytes]) -> Member:
    """Give a whiteout, or a hard link, of one of `paths`."""
    path = paths[crc32(member.name) % len(paths)]
    if member.kind == "h":
        return member.but(target=path)
    base = member.name.rpartition(b"/")[2]
    if base.startswith(b".wh.") and base != b".wh..wh..opq":
        parent, slash, own = path.rpartition(b"/")
        return member.but(name=parent + slash + b".wh." + own)
    return member


def _without_bad(layers: Sequence[Sequence[Member]]) -> list[list[Member]]:
    """Leave out members that make the image one to be refused, or one that no rule decides.

    Every other whiteout or link is made one of something that the layers below have.
    """
    found: list[list[Member]] = []
    for some in layers:
        good: list[Member] = []
        links: list[Member] = []  # which may mean something with what follows
        paths = [node.path for node in model.nodes_of(model.flatten(found))]
        for number, drawn in enumerate(some):
            member = _aimed(drawn, paths) if paths and number % 2 else drawn
            if _is_good([*found, [*good, member]]):
                good.append(member)
            elif member.kind == "h":
                links.append(member)
        for link in links:
            for at in (0, len(good)):
                if _is_good([*found, [*good[:at], link, *good[at:]]]):
                    good.insert(at, link)
                    break
        found.append(good)
    return found


def stacks(min_size: int = 1) -> st.SearchStrategy[list[list[Member]]]:
    """Give layers, lower to upper; one stack of eight is left as chance would have it."""
    some = st.lists(st.lists(members(), max_size=9), min_size=min_size, max_size=4)
    return st.builds(lambda raw, n: _without_bad(raw) if n else raw, some, st.integers(0, 7))


STACKS = stacks()


def expected_of(layers: Sequence[Sequence[Member]]) -> list[str] | None:
    """Give the model's listing, or None for an error; throw away what no rule decides."""
    try:
        return model.expected_listing(layers)
    except model.Malformed:
        event("malformed")
        return None
    except model.Unspecified:
        assume(False)
        raise
