"""Builds layer tars byte by byte, with none of the clean-up that a tar library does.

    layer(file("etc/a", b"x"), symlink("lib", "usr/lib"), whiteout("etc/b")) -> bytes

A `Member` says what an entry means; its `dialect`, `records` and the other knobs of spelling say
how its header is written. The reference model reads the same members, so one list of members is
both the input of the program and, by way of the model, what is expected of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

BLOCK = 512
END = bytes(2 * BLOCK)

Dialect = Literal["ustar", "gnu", "pax", "v7"]
SparseForm = Literal["0.0", "0.1", "1.0", "gnu"]

_FLAGS = {"f": b"0", "h": b"1", "l": b"2", "c": b"3", "b": b"4", "d": b"5", "p": b"6"}
_MAGIC = {"ustar": b"ustar\x0000", "pax": b"ustar\x0000", "gnu": b"ustar  \0", "v7": bytes(8)}


def to_bytes(name: str | bytes) -> bytes:
    return name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name


@dataclass(frozen=True, slots=True, repr=False)
class Member:
    """One entry of a layer: what it means first, then how it is spelled."""

    kind: str
    """f d l h c b p as in a listing (h: hard link), or `raw`."""
    name: bytes
    """As spelled in the tar."""
    data: bytes = b""
    """A file's content, holes of a sparse file included; for `raw` the bytes themselves."""
    target: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int | str = 0
    """Seconds; as a str it becomes a PAX record word for word."""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    dialect: Dialect = "ustar"
    uname: bytes = b""
    gname: bytes = b""
    records: tuple[tuple[bytes, bytes], ...] = ()
    """More PAX records, written behind those that the member needs."""
    typeflag: bytes | None = None
    size: int | bytes | None = None
    """The size field, where it is to differ from what the data need."""
    overlay: Mapping[int, bytes] = field(default_factory=dict)
    """Bytes laid over the header at an offset, before the checksum is made."""
    checksum: bytes | None = None
    sparse: SparseForm | None = None
    pieces: tuple[tuple[int, int], ...] = ()
    """(offset, length) of a sparse file's stored pieces."""

    def __repr__(self) -> str:
        """Give what differs from a plain member, so that a failing example can be read."""
        plain = Member(self.kind, self.name)
        more = "".join(
            f", {item.name}={getattr(self, item.name)!r}"
            for item in fields(self)
            if getattr(self, item.name) != getattr(plain, item.name)
        )
        return f"Member({self.kind!r}, {self.name!r}{more})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # hypothesis asks for this one

    def but(self, **changes: object) -> Member:
        """Give this member with some things changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def encode(self) -> bytes:
        """Give the member's headers and payload, padded to whole blocks."""
        if self.kind == "raw":
            return self.data
        return _encode(self)


def file(name: str | bytes, data: str | bytes = b"", **more: object) -> Member:
    return Member("f", to_bytes(name), to_bytes(data)).but(**more)


def dir_(name: str | bytes, *, slash: bool = True, **more: object) -> Member:
    raw = to_bytes(name)
    if slash and not raw.endswith(b"/"):
        raw += b"/"
    return Member("d", raw, mode=0o755).but(**more)


def symlink(name: str | bytes, target: str | bytes, **more: object) -> Member:
    return Member("l", to_bytes(name), target=to_bytes(target), mode=0o777).but(**more)


def hardlink(name: str | bytes, target: str | bytes, **more: object) -> Member:
    """A hard link; its header has a file's default attributes, so say which if they differ."""
    return Member("h", to_bytes(name), target=to_bytes(target)).but(**more)


def chardev(name: str | bytes, major: int, minor: int, **more: object) -> Member:
    return Member("c", to_bytes(name), device=(major, minor)).but(**more)


def blockdev(name: str | bytes, major: int, minor: int, **more: object) -> Member:
    return Member("b", to_bytes(name), device=(major, minor)).but(**more)


def fifo(name: str | bytes, **more: object) -> Member:
    return Member("p", to_bytes(name)).but(**more)


def whiteout(name: str | bytes, **more: object) -> Member:
    """The marker that removes `name` from the layers below."""
    parent, slash, base = to_bytes(name).rpartition(b"/")
    return Member("f", parent + slash + b".wh." + base).but(**more)


def opaque(name: str | bytes, **more: object) -> Member:
    """The marker that hides what the layers below have inside the directory `name`."""
    raw = to_bytes(name)
    return Member("f", (raw + b"/" if raw else b"") + b".wh..wh..opq").but(**more)


def raw(data: bytes) -> Member:
    """Bytes of a tar, as they are."""
    return Member("raw", b"", data)


def sparse(
    name: str | bytes,
    pieces: Iterable[tuple[int, bytes]],
    size: int,
    form: SparseForm,
    **more: object,
) -> Member:
    """A sparse file of `size` bytes with data at the given offsets."""
    content = bytearray(size)
    spans = []
    for offset, data in pieces:
        content[offset : offset + len(data)] = data
        spans.append((offset, len(data)))
    return file(name, bytes(content), sparse=form, pieces=tuple(spans)).but(**more)


def layer(*members: Member, end: bytes = END) -> bytes:
    """Give the plain tar of the members, with `end` behind them."""
    return b"".join(member.encode() for member in members) + end


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def octal(number: int, width: int) -> bytes:
    """Give a number as a NUL-terminated octal field."""
    return b"%0*o\0" % (width - 1, number)


def base256(number: int, width: int) -> bytes:
    """Give a number as GNU tar writes those that do not fit into octal digits."""
    raw_number = (number % (1 << (8 * width - 1))) | (1 << (8 * width - 1))
    if number < 0:
        raw_number |= 1 << (8 * width - 2)
    return raw_number.to_bytes(width, "big")


def pax_record(key: bytes, value: bytes) -> bytes:
    """Give one PAX record; its length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(rest) + len(b"%d" % length) != length:
        length = len(rest) + len(b"%d" % length)
    return b"%d" % length + rest


def extended(
    typeflag: bytes, payload: bytes, *, name: bytes = b"extended", **more: object
) -> bytes:
    """Give an extended header (x, g, L, K) of one block and its payload."""
    head = Member("f", name, typeflag=typeflag, size=len(payload)).but(**more)
    return _block(head) + padded(payload)


def pax_header(records: Iterable[tuple[bytes, bytes]], typeflag: bytes = b"x") -> bytes:
    payload = b"".join(pax_record(key, value) for key, value in records)
    return extended(typeflag, payload, name=b"PaxHeaders/x")


def gnu_long(typeflag: bytes, value: bytes) -> bytes:
    """Give a GNU long name (L) or long link target (K)."""
    return extended(typeflag, value + b"\0", name=b"././@LongLink", dialect="gnu")


def _number(value: int, width: int, dialect: Dialect) -> bytes:
    if 0 <= value < 8 ** (width - 1):
        return octal(value, width)
    if dialect == "gnu":
        return base256(value, width)
    return octal(0, width)  # a PAX record says it


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Give (prefix, name) that fit a ustar header, or None."""
    if len(name) <= 100:
        return b"", name
    for at in range(min(155, len(name) - 2), 0, -1):
        if name[at : at + 1] == b"/" and 0 < len(name) - at - 1 <= 100:
            return name[:at], name[at + 1 :]
    return None


def _block(member: Member, size: int = 0, name: bytes | None = None, target: bytes = b"") -> bytes:
    """Give the header block alone; what does not fit is cut off."""
    dialect = member.dialect
    prefix = b""
    name = member.name if name is None else name
    if dialect in ("ustar", "pax"):
        prefix, name = _split_name(name) or (b"", name)
    flag = member.typeflag
    if flag is None:
        flag = _FLAGS[member.kind]
        if dialect == "v7" and member.kind in "fd":
            flag = b"\0"
    stated = size if member.size is None else member.size
    raw_size = stated if isinstance(stated, bytes) else _number(stated, 12, dialect)
    mtime = member.mtime if isinstance(member.mtime, int) else 0
    block = bytearray(BLOCK)

    def put(at: int, data: bytes, width: int) -> None:
        block[at : at + min(width, len(data))] = data[:width]

    put(0, name, 100)
    put(100, octal(member.mode, 8), 8)
    put(108, _number(member.uid, 8, dialect), 8)
    put(116, _number(member.gid, 8, dialect), 8)
    put(124, raw_size, 12)
    put(136, _number(mtime, 12, dialect), 12)
    put(148, b"        ", 8)
    put(156, flag, 1)
    put(157, target, 100)
    put(257, _MAGIC[dialect], 8)
    if dialect != "v7":
        put(265, member.uname, 32)
        put(297, member.gname, 32)
        put(329, _number(member.device[0], 8, dialect), 8)
        put(337, _number(member.device[1], 8, dialect), 8)
        put(345, prefix, 155)
    for at, data in member.overlay.items():
        put(at, data, len(data))
    put(148, member.checksum or b"%06o\0 " % sum(block), 8)
    return bytes(block)


def _needed_records(member: Member, size: int) -> list[tuple[bytes, bytes]]:
    """Give the PAX records without which the member would not say what it means."""
    always = member.dialect == "pax"
    in_header = member.dialect in ("gnu", "v7")
    records: list[tuple[bytes, bytes]] = []
    if always or (not in_header and _split_name(member.name) is None):
        records.append((b"path", member.name))
    if member.target and (always or (not in_header and len(member.target) > 100)):
        records.append((b"linkpath", member.target))
    numbers: list[tuple[bytes, int, int]] = [(b"uid", member.uid, 8), (b"gid", member.gid, 8)]
    if isinstance(member.mtime, int):
        numbers.append((b"mtime", member.mtime, 12))
    else:
        records.append((b"mtime", member.mtime.encode()))
    if member.kind == "f":
        numbers.append((b"size", size, 12))
    for key, value, width in numbers:
        if always or (not in_header and not 0 <= value < 8 ** (width - 1)):
            records.append((key, b"%d" % value))
    records += [(b"SCHILY.xattr." + k.encode(), v) for k, v in member.xattrs.items()]
    return records


def _encode(member: Member) -> bytes:
    payload = member.data if member.kind == "f" else b""
    head = b""
    block_member = member
    records: list[tuple[bytes, bytes]] = []
    sparse_tail = b""
    if member.sparse is not None:
        payload = b"".join(member.data[at : at + length] for at, length in member.pieces)
        block_member, records, sparse_map, sparse_tail = _encode_sparse(member)
        payload = sparse_map + payload
    records = _needed_records(member, len(payload)) + records + list(member.records)
    if records:
        head += pax_header(records)
    if member.dialect == "gnu":
        if len(member.target) > 100:
            head += gnu_long(b"K", member.target)
        if len(member.name) > 100:
            head += gnu_long(b"L", member.name)
    elif member.dialect == "v7":
        assert len(member.name) <= 100 and len(member.target) <= 100, "V7 has no long names"
    block = _block(block_member, len(payload), block_member.name, member.target)
    return head + block + sparse_tail + padded(payload)


def _encode_sparse(
    member: Member,
) -> tuple[Member, list[tuple[bytes, bytes]], bytes, bytes]:
    """Give the member for the header block, PAX records, the map in the data, blocks behind."""
    size = len(member.data)
    pieces = member.pieces
    listed = [b"%d" % number for piece in pieces for number in piece]
    real = b"%d" % size
    if member.sparse == "gnu":
        spans = [octal(at, 12) + octal(length, 12) for at, length in pieces]
        spans.append(octal(size, 12) + octal(0, 12))
        more = spans[4:]
        overlay = {386: b"".join(spans[:4]), 482: b"\1" if more else b"\0", 483: octal(size, 12)}
        tail = b""
        while more:
            body = b"".join(more[:21])
            more = more[21:]
            tail += body.ljust(504, b"\0") + (b"\1" if more else b"\0") + bytes(7)
        return member.but(typeflag=b"S", dialect="gnu", overlay=overlay), [], b"", tail
    records: list[tuple[bytes, bytes]]
    if member.sparse == "0.0":
        records = [(b"GNU.sparse.size", real), (b"GNU.sparse.numblocks", b"%d" % len(pieces))]
        for at, length in pieces:
            records += [
                (b"GNU.sparse.offset", b"%d" % at),
                (b"GNU.sparse.numbytes", b"%d" % length),
            ]
        return member, records, b"", b""
    name = b"GNUSparseFile.0/" + member.name
    if member.sparse == "0.1":
        records = [
            (b"GNU.sparse.size", real),
            (b"GNU.sparse.numblocks", b"%d" % len(pieces)),
            (b"GNU.sparse.name", member.name),
            (b"GNU.sparse.map", b",".join(listed)),
        ]
        return member.but(name=name), records, b"", b""
    records = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", member.name),
        (b"GNU.sparse.realsize", real),
    ]
    sparse_map = padded(b"".join(n + b"\n" for n in [b"%d" % len(pieces), *listed]))
    return member.but(name=name), records, sparse_map, b""
