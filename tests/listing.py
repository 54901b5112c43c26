"""Reads a flat tar back as strictly as the output contract is written, and shows it as text.

Two spellings of one list of `Node`s: `full_listing` for files on disk (one line a path with mode,
owner, time, size and sha256), `short_listing` for expectations written by hand, in which all that
is usual is left out:

    d etc                         a directory, 0755 0:0, time 0
    f etc/a 'x' mode=600 owner=1:2 mtime=7 user.k='v'
    l lib -> usr/lib
    h etc/b = etc/a               another name of etc/a
    c dev/null 1,3
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BLOCK = 512

_KINDS = {b"0": "f", b"1": "h", b"2": "l", b"3": "c", b"4": "b", b"5": "d", b"6": "p"}
_OWN_RECORDS = re.compile(
    rb"path|linkpath|size|uid|gid|mtime|atime|ctime|uname|gname"
    rb"|SCHILY\.xattr\.(?!trusted\.).+|SCHILY\.acl\..+|RHT\.security\.selinux",
    re.DOTALL,
)
DEFAULT_MODES = {"d": 0o755, "f": 0o644, "c": 0o644, "b": 0o644, "p": 0o644, "l": 0o777}


class ContractError(AssertionError):
    """The tar breaks a promise that every flat tar keeps."""


@dataclass(frozen=True, slots=True)
class Node:
    """One path of a file system."""

    kind: str
    """f d l c b p"""
    path: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    """Whole seconds, rounded down."""
    data: bytes = b""
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    first: bytes | None = None
    """The first name, in walk order, of an inode that has several."""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


def walk_key(path: bytes) -> list[bytes]:
    """The key that sorts paths in walk order: parents first, siblings by bytes."""
    return path.split(b"/")


def escape(raw: bytes) -> str:
    return "".join(chr(c) if 0x21 <= c < 0x7F and c != 0x5C else f"\\{c:03o}" for c in raw)


def full_listing(nodes: Iterable[Node]) -> str:
    """Give the listing with a line for each path, sorted by path, the root left out."""
    lines = []
    for node in sorted(nodes, key=lambda node: node.path):
        if not node.path:
            continue
        mode = "-" if node.kind == "l" else f"{node.mode:04o}"
        mtime = "-" if node.kind == "d" else str(node.mtime)
        parts = [node.kind, mode, f"{node.uid}:{node.gid}", mtime, escape(node.path)]
        if node.kind == "f":
            parts += [str(len(node.data)), hashlib.sha256(node.data).hexdigest()]
        elif node.kind == "l":
            parts.append(escape(node.target))
        elif node.kind in "cb":
            parts.append(f"{node.device[0]},{node.device[1]}")
        else:
            parts.append("-")
        if node.first is not None:
            parts.append("=" + escape(node.first))
        parts += [f"{escape(k)}={v.hex()}" for k, v in sorted(node.xattrs.items())]
        lines.append(" ".join(parts))
    return "".join(line + "\n" for line in lines)


def short_listing(nodes: Iterable[Node]) -> list[str]:
    """Give the lines that tests are written with, in the order of the nodes."""
    lines = []
    for node in nodes:
        path = escape(node.path) or "."
        if node.first not in (None, node.path):
            lines.append(f"h {path} = {escape(node.first or b'')}")
            continue
        parts = [node.kind, path]
        if node.kind == "f":
            text = repr(node.data)[1:]
            if len(node.data) > 60:
                text = f"<{len(node.data)} bytes {hashlib.sha256(node.data).hexdigest()[:12]}>"
            parts.append(text)
        elif node.kind == "l":
            parts += ["->", escape(node.target)]
        elif node.kind in "cb":
            parts.append(f"{node.device[0]},{node.device[1]}")
        if node.kind != "l" and node.mode != DEFAULT_MODES[node.kind]:
            parts.append(f"mode={node.mode:o}")
        if (node.uid, node.gid) != (0, 0):
            parts.append(f"owner={node.uid}:{node.gid}")
        if node.mtime:
            parts.append(f"mtime={node.mtime}")
        parts += [f"{escape(k)}={repr(v)[1:]}" for k, v in sorted(node.xattrs.items())]
        lines.append(" ".join(parts))
    return lines


def list_tar(tar: bytes, *, root_entry: bool = False) -> list[str]:
    return short_listing(read_tar(tar, root_entry=root_entry))


# -- the strict reader ---------------------------------------------------------------------------


def _need(condition: object, problem: str, where: object) -> None:
    if not condition:
        raise ContractError(f"{problem}: {where!r}")


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _number(raw: bytes, where: object) -> int:
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") & ~(0x80 << (8 * (len(raw) - 1)))
        return value - (1 << (8 * len(raw) - 1)) if raw[0] & 0x40 else value
    _need(re.fullmatch(rb" *[0-7]+[ \0]*", raw), "a number not plainly spelled", (where, raw))
    return int(raw.strip(b" \0"), 8)


def parse_pax(payload: bytes) -> list[tuple[bytes, bytes]]:
    """Give the records of an extended header; keys may not come twice."""
    records: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(payload):
        space = payload.index(b" ", at)
        end = at + int(payload[at:space])
        _need(payload[end - 1 : end] == b"\n" and end <= len(payload), "a bad record", payload)
        key, equals, value = payload[space + 1 : end - 1].partition(b"=")
        _need(equals, "a record without =", payload)
        records.append((key, value))
        at = end
    _need(len(dict(records)) == len(records), "a record twice", records)
    return records


@dataclass(frozen=True, slots=True)
class RawMember:
    """One member as it stands in a flat tar."""

    offset: int
    end: int
    block: bytes
    flag: bytes
    name: bytes
    target: bytes
    records: dict[bytes, bytes]
    long_name: bool
    data: bytes

    def number(self, at: int, width: int, key: bytes | None = None) -> int:
        if key is not None and key in self.records:
            return int(self.records[key])
        return _number(self.block[at : at + width], self.name)


def raw_members(tar: bytes) -> list[RawMember]:
    """Cut a flat tar into its members, strict about structure and spelling of headers."""
    _need(len(tar) % BLOCK == 0, "not whole blocks", len(tar))
    members = []
    at = 0
    while True:
        _need(at + 2 * BLOCK <= len(tar), "no two zero blocks at the end", at)
        if not tar[at : at + BLOCK].strip(b"\0"):
            _need(not tar[at:].strip(b"\0"), "something behind the end", at)
            _need(len(tar) - at == 2 * BLOCK, "more than two zero blocks", len(tar) - at)
            return members
        member = _raw_member(tar, at)
        members.append(member)
        at = member.end


def _raw_member(tar: bytes, start: int) -> RawMember:
    at = start
    extended: dict[bytes, bytes] = {}
    while True:
        block = tar[at : at + BLOCK]
        flag = block[156:157]
        name = _text(block[:100])
        _need(block[257:265] in (b"ustar\x0000", b"ustar  \0"), "no magic", (name, block[257:265]))
        total = sum(block[:148]) + sum(block[156:]) + 8 * 32
        _need(_number(block[148:156], name) == total, "a wrong checksum", name)
        size = _number(block[124:136], name)
        for place in (slice(100, 108), slice(108, 116), slice(116, 124), slice(136, 148)):
            _number(block[place], name)
        if block[329:345] != bytes(16):
            _number(block[329:337], name)
            _number(block[337:345], name)
        is_gnu = block[257:265] == b"ustar  \0"
        heeded = is_gnu and [k for k in (345, 357, 386, 483) if block[k]]
        _need(not heeded, "what some readers heed in a GNU header", (name, heeded))
        if flag not in (b"x", b"L", b"K"):
            break
        _need(flag not in extended, "an extended header twice", (name, flag))
        extended[flag] = tar[at + BLOCK : at + BLOCK + size]
        _need(len(extended[flag]) == size, "a cut extended header", name)
        at += BLOCK + -(-size // BLOCK) * BLOCK
    _need(flag in _KINDS, "an unknown type", (name, flag))
    records = dict(parse_pax(extended.get(b"x", b"")))
    if block[257:265] == b"ustar\x0000" and block[345]:
        name = _text(block[345:500]) + b"/" + name
    target = _text(block[157:257])
    _need(not (b"L" in extended and b"path" in records), "two long names", name)
    _need(not (b"K" in extended and b"linkpath" in records), "two long targets", name)
    name = records.get(b"path", _text(extended[b"L"]) if b"L" in extended else name)
    target = records.get(b"linkpath", _text(extended[b"K"]) if b"K" in extended else target)
    for key, value in records.items():
        _need(_OWN_RECORDS.fullmatch(key), "a record that changes nothing", (name, key))
        _need(value or key.startswith(b"SCHILY.xattr."), "an empty record", (name, key))
    size = int(records.get(b"size", size))
    _need(flag == b"0" or size == 0, "a size on what has no data", name)
    data = tar[at + BLOCK : at + BLOCK + size]
    _need(len(data) == size, "a cut file", name)
    end = at + BLOCK + -(-size // BLOCK) * BLOCK
    member = RawMember(start, end, block, flag, name, target, records, b"L" in extended, data)
    for text_at, number_at, key in ((265, 108, b"uid"), (297, 116, b"gid")):
        owner = records.get(key[:1] + b"name", _text(block[text_at : text_at + 32]))
        is_root = owner == b"root" and member.number(number_at, 8, key) == 0
        _need(not owner or is_root, "an owner's name", (name, owner))
    return member


def _floor_seconds(text: bytes) -> int:
    whole, _, fraction = text.partition(b".")
    return int(whole) - (1 if whole.startswith(b"-") and fraction.strip(b"0") else 0)


def read_tar(tar: bytes, *, root_entry: bool = False) -> list[Node]:
    """Give the nodes of a flat tar in its order.

    Raises: ContractError where a rule about the output is broken.
    """
    nodes: dict[bytes, Node] = {}
    links: dict[bytes, bytes] = {}
    last: list[bytes] | None = None
    for number, member in enumerate(raw_members(tar)):
        kind = _KINDS[member.flag]
        path = member.name
        if number == 0 and root_entry:
            _need(path == b"./" and kind == "d", "the root entry is not ./", path)
            path = b""
        else:
            path = _check_name(member, kind, nodes)
            key = walk_key(path)
            _need(last is None or last < key, "not in walk order", path)
            last = key
        node = _node(member, kind, path)
        if kind == "h":
            first = nodes.get(member.target)
            _need(first is not None, "a link to what was not there yet", (path, member.target))
            assert first is not None
            _need(first.kind != "d", "a link to a directory", path)
            _need(member.target not in links, "a link to a link", (path, member.target))
            same = (first.mode, first.uid, first.gid, first.mtime)
            _need(
                (node.mode, node.uid, node.gid, node.mtime) == same,
                "a link with other attributes than its target",
                path,
            )
            links[path] = member.target
        nodes[path] = node
    firsts = set(links.values())
    result = []
    for path, node in nodes.items():
        first_path = links.get(path, path if path in firsts else None)
        first = nodes[first_path] if first_path is not None else node
        result.append(
            Node(
                first.kind, path, first.mode, first.uid, first.gid, first.mtime, first.data,
                first.target, first.device, first_path, first.xattrs,
            )
        )  # fmt: skip
    return result


def _check_name(member: RawMember, kind: str, nodes: Mapping[bytes, Node]) -> bytes:
    name = member.name
    path = name[:-1] if kind == "d" else name
    _need(kind != "d" or name.endswith(b"/"), "a directory without its slash", name)
    parts = path.split(b"/")
    _need(not {b"", b".", b".."} & set(parts), "a name not in normal form", name)
    _need(not any(part.startswith(b".wh.") for part in parts), "a marker", name)
    _need(path not in nodes, "a path twice", name)
    if len(parts) > 1:
        parent = nodes.get(b"/".join(parts[:-1]))
        _need(parent is not None and parent.kind == "d", "no parent directory before", name)
    _need(len(path) <= 4096 and len(member.target) <= 4096, "a name too long", name[:50])
    return path


def _node(member: RawMember, kind: str, path: bytes) -> Node:
    records = member.records
    prefix = b"SCHILY.xattr."
    xattrs = {k[len(prefix) :]: v for k, v in records.items() if k.startswith(prefix)}
    xattrs |= {k: v for k, v in records.items() if k.startswith((b"SCHILY.acl.", b"RHT."))}
    device = (0, 0)
    if kind in ("c", "b"):
        device = (member.number(329, 8), member.number(337, 8))
        _need(kind == "b" or device != (0, 0), "an overlay whiteout", path)
    if kind == "h":
        _need(not xattrs, "a link with xattrs", path)
    if kind == "l":
        _need(member.target, "a symlink to nothing", path)
    if b"mtime" in records:
        mtime = _floor_seconds(records[b"mtime"])
    else:
        mtime = member.number(136, 12)
    return Node(
        kind, path, member.number(100, 8) & 0o7777, member.number(108, 8, b"uid"),
        member.number(116, 8, b"gid"), mtime, member.data if kind == "f" else b"",
        member.target if kind == "l" else b"", device, None, xattrs,
    )  # fmt: skip
