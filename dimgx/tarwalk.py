"""The walk over a layer's tar: from header to header, in batches, into a `LayerIndex`.

1. Small members lie close together: then all headers of a chunk are found at once (`tarhop`).
   Elsewhere a loop cuts out the header, looks at its type and size, and hops to the next.
2. Ordinary headers are looked at in batches (`tarbatch`). Together this costs about 1 us a member;
   payload is not looked at.
3. A header with something unusual, and a member with extended headers other than a PAX header, is
   parsed alone (`tarheader`, some 10 us), which also finds the exact error.
4. What the members mean together is settled at the end (`ownlayer`).

A chunk of 32 KiB reads little payload of large files; of small ones 256 KiB hold more to be looked
at together. Mapping the file instead was slower (page faults), and so were larger batches.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from dimgx.layerindex import COPY, REWRITE, LayerIndex
from dimgx.names import (
    AUFS_PREFIX,
    MAX_PATH,
    OPAQUE_MARKER,
    WHITEOUT_PREFIX,
    key_of,
    name_of,
    normalise,
)
from dimgx.ownlayer import OwnLayer
from dimgx.system import pread
from dimgx.tarbatch import PaxHeader, parse_batch
from dimgx.tarfields import (
    BLOCK,
    CHARDEV,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    PAX,
    Header,
    MalformedTar,
    show,
)
from dimgx.tarheader import read_header
from dimgx.tarhop import MAX_CHUNK, MAX_PAX, hop

CHUNK = 32 << 10
"""Bytes read at a time, at first and after large files; twice as many each time else."""
DENSE = 4 << 10
"""Bytes for each member in a chunk, headers and all, up to which more is read at a time."""
BATCH = 384
"""Members after which a batch is taken, at the end of the chunk."""

# What goes the long way round through _place() is longer names, and markers of all other kinds.
_PLAIN_WHITEOUT = re.compile(rb"(?s)((?:[^/.][^/]*/)*)\.wh\.([^/.][^/]*)")
_NO_SIZE = b"00000000000\0"


def walk_layer(fd: int, offset: int, size: int, *, clamp_mtime_s: int | None = None) -> LayerIndex:
    """Walk the tar of `size` bytes at `offset` in `fd` and give its index.

    With `clamp_mtime_s` (seconds since 1970), members that are newer are marked for rewriting.
    Memory: the index, and some 500 KiB.

    Raises: MalformedTar where the tar breaks off or makes no sense.
    """
    return _Walk(fd, offset, size, clamp_mtime_s).run()


class _Walk:
    def __init__(self, fd: int, offset: int, size: int, clamp_mtime_s: int | None) -> None:
        self._fd, self._offset, self._size = fd, offset, size
        self._clamp = clamp_mtime_s
        self._newest = None if clamp_mtime_s is None else b"%011o" % max(clamp_mtime_s, 0)
        self._chunk, self._chunk_at = b"", 0
        self._index = LayerIndex()
        self._own = OwnLayer(self._index, self._read_at, self._read_header_at)
        # Ordinary headers, one or more in each piece.
        self._blocks: list[bytes] = []
        # Members parsed alone, each with the number of ordinary ones before it in the batch.
        self._alone: list[tuple[int, Header]] = []
        self._pax: dict[int, PaxHeader] = {}
        self._global_from: int | None = None

    def run(self) -> LayerIndex:
        """Hop from header to header, then settle what they mean together."""
        index, blocks = self._index, self._blocks
        add_start, add_block = index.starts.append, blocks.append
        k, last, limit, passed = 0, -1, self._size, 0
        chunk_size = CHUNK // 2
        while True:
            while k > last:
                if len(index.starts) - index.member_count >= BATCH:
                    self._take_batch()
                self._chunk_at += k
                limit = self._size - self._chunk_at
                # Where small files lie close together, more can be read at once.
                is_dense = (len(index.starts) - passed) * DENSE >= len(self._chunk)
                chunk_size = min(2 * chunk_size, MAX_CHUNK) if is_dense else CHUNK
                passed = len(index.starts)
                self._chunk = b""
                self._chunk = self._read_at(self._chunk_at, chunk_size)
                last = len(self._chunk) - BLOCK
                k = self._hop() if chunk_size > CHUNK else 0
                if last < 0:
                    break
            chunk, chunk_at = self._chunk, self._chunk_at
            while k <= last:
                block = chunk[k : k + BLOCK]
                kind = block[156]
                if kind < FILE or kind > FIFO:
                    break
                digits = block[124:136]
                step = BLOCK
                if digits != _NO_SIZE:
                    try:
                        step = int(digits[:11], 8) + 1023 & -BLOCK
                    except ValueError:
                        break
                    if digits[11] > 32 or step < BLOCK or k + step > limit:
                        break
                    if kind != FILE and step != BLOCK:
                        break
                add_block(block)
                add_start(chunk_at + k)
                k += step
            else:
                if last >= 0:
                    continue
            if last >= 0 and kind == PAX:
                step = self._take_pax(k, last)
                if step:
                    add_start(chunk_at + k)
                    k += step
                    continue
                if k and not self._has_pair(k):
                    # How a member goes out must not depend on where chunks end.
                    last = k - 1
                    continue
            header, passed_global = read_header(self._read_at, chunk_at + k, self._size)
            if header is None:
                break
            if passed_global and self._global_from is None:
                self._global_from = len(index.starts)
            self._alone.append((self._ordinary_count, header))
            add_start(chunk_at + k)
            k = header.end - chunk_at
        self._take_batch()
        index.starts.append(min(chunk_at + k, self._size))
        if self._global_from is not None:
            # A reader of the layer might apply the global header to all of these (rule 70).
            count = index.member_count - self._global_from
            index.codes[self._global_from :] = bytes((REWRITE,)) * count
        self._own.settle()
        return index

    @property
    def _ordinary_count(self) -> int:
        """The number of ordinary headers in the batch."""
        return len(self._index.starts) - self._index.member_count - len(self._alone)

    def _hop(self) -> int:
        """Take the ordinary members that the chunk begins with; give where the next one begins."""
        hops = hop(self._chunk, self._chunk_at, self._size)
        if hops is None:
            return 0
        count = self._ordinary_count
        for number, block, payload in hops.pax:
            self._pax[count + number] = PaxHeader(block, payload)
        self._blocks.append(hops.headers)
        self._index.starts.extend(hops.starts)
        return hops.end - self._chunk_at

    def _take_pax(self, k: int, last: int) -> int:
        """Take a PAX header and the ordinary header behind it, if both are in the chunk.

        Gives the distance to the next member, or 0 if there is anything unusual.
        """
        chunk = self._chunk
        head = chunk[k : k + BLOCK]
        try:
            size = int(head[124:135], 8)
        except ValueError:
            return 0
        at = k + BLOCK + (size + 511 & -BLOCK)
        if not 0 < size <= MAX_PAX or head[135] > 32 or at > last:
            return 0
        block = chunk[at : at + BLOCK]
        try:
            step = int(block[124:135], 8) + 1023 & -BLOCK
        except ValueError:
            return 0
        kind = block[156]
        if (
            not FILE <= kind <= FIFO
            or block[135] > 32
            or step < BLOCK
            or at + step > self._size - self._chunk_at
            or (kind != FILE and step != BLOCK)
        ):
            return 0
        payload = chunk[k + BLOCK : k + BLOCK + size]
        if b"size=" in payload:
            return 0
        self._pax[self._ordinary_count] = PaxHeader(head, payload)
        self._blocks.append(block)
        return at + step - k

    def _has_pair(self, k: int) -> bool:
        """Tell whether a PAX header, if it is of ordinary size, and the next are in the chunk."""
        digits = self._chunk[k + 124 : k + 135]
        size = int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else 0
        return size > MAX_PAX or k + 2 * BLOCK + (size + 511 & -BLOCK) <= len(self._chunk)

    def _read_at(self, at: int, size: int) -> bytes:
        """Read from the chunk at hand, or else from the file."""
        size = min(size, self._size - at)
        k = at - self._chunk_at
        if k >= 0 and k + size <= len(self._chunk):
            return self._chunk[k : k + size]
        return pread(self._fd, size, self._offset + at) if size > 0 else b""

    def _read_header_at(self, at: int) -> Header:
        header, _ = read_header(self._read_at, at, self._size)
        if header is None:
            raise MalformedTar("the tar changed while it was read", at)
        return header

    def _take_batch(self) -> None:
        """Take the headers at hand into the index."""
        blocks, alone, index = self._blocks, self._alone, self._index
        base = index.member_count
        positions = [position for position, _ in alone]
        keys: list[bytes] = []
        kinds, codes = bytearray(), bytearray()
        if blocks:
            batch = parse_batch(b"".join(blocks), self._pax, self._newest)
            keys, codes, kinds = batch.keys, batch.codes, bytearray(batch.kinds)
            for i in sorted(batch.unusual):
                number = base + i + bisect_right(positions, i)
                header = self._read_header_at(index.starts[number])
                keys[i], kinds[i], codes[i] = self._place_header(number, header)
            for i, name in batch.odd_names.items():
                if i not in batch.unusual:
                    number = base + i + bisect_right(positions, i)
                    plain_whiteout = _PLAIN_WHITEOUT.fullmatch(name)
                    if plain_whiteout:
                        self._own.whiteouts[number] = b"".join(plain_whiteout.groups())
                        self._own.absent.append(number)
                        keys[i] = b""
                    else:
                        keys[i], codes[i] = self._place(number, name, kinds[i], codes[i])
            for i, target in batch.links:
                if i not in batch.unusual:
                    self._own.add_link(base + i + bisect_right(positions, i), target)
        done = 0
        for position, header in alone:
            index.keys += keys[done:position]
            index.codes += codes[done:position]
            self._own.kinds += kinds[done:position]
            key, kind, code = self._place_header(index.member_count, header)
            index.keys.append(key)
            index.codes.append(code)
            self._own.kinds.append(kind)
            done = position
        index.keys += keys[done:]
        index.codes += codes[done:]
        self._own.kinds += kinds[done:]
        blocks.clear()
        alone.clear()
        self._pax.clear()

    def _place_header(self, number: int, header: Header) -> tuple[bytes, int, int]:
        """Give the key, kind and code of a member that was parsed alone."""
        code = COPY
        if (
            not header.is_normal
            or header.end > self._size
            or (self._clamp is not None and header.mtime >= self._clamp)
        ):
            code = REWRITE
        if len(header.linkname) > MAX_PATH:
            raise MalformedTar("a link target of more than 4096 bytes", header.offset)
        if header.kind == CHARDEV and not header.devmajor and not header.devminor:
            self._own.device_whiteouts[number] = normalise(header.name, header.offset)
            self._own.absent.append(number)
            return b"", header.kind, REWRITE
        key, code = self._place(number, header.name, header.kind, code)
        if header.kind == LINK:
            self._own.add_link(number, header.linkname)
        return key, header.kind, code

    def _place(self, number: int, name: bytes, kind: int, code: int) -> tuple[bytes, int]:
        """Give the key and code of a member with this name; note what is no entry."""
        path = normalise(name, self._index.starts[number])
        if not path:
            if kind != DIRECTORY:
                raise MalformedTar("a root entry that is no directory", self._index.starts[number])
            self._index.root = max(number, self._index.root or 0)
            self._own.absent.append(number)
            return b"", REWRITE
        if WHITEOUT_PREFIX in path and self._note_marker(number, path):
            self._own.absent.append(number)
            return b"", REWRITE
        key = key_of(path, is_directory=kind == DIRECTORY)
        return key, code if name == name_of(key) else REWRITE

    def _note_marker(self, number: int, path: bytes) -> bool:
        """Note a whiteout, an opaque marker or aufs' book-keeping; tell whether it is one."""
        *parents, base = path.split(b"/")
        top = parents[0] if parents else base
        if top.startswith(AUFS_PREFIX) and path != OPAQUE_MARKER:
            self._own.dropped[path] = number  # rule 19
        elif any(parent.startswith(WHITEOUT_PREFIX) for parent in parents):
            self._own.dropped[path] = number  # rule 14
        elif base == OPAQUE_MARKER:
            self._own.opaque[number] = b"/".join(parents)
        elif base.startswith(AUFS_PREFIX):
            self._own.dropped[path] = number
        elif base.startswith(WHITEOUT_PREFIX):
            hidden = base[len(WHITEOUT_PREFIX) :]
            if hidden in (b"", b".", b".."):
                raise MalformedTar(
                    f"a whiteout {show(path)} of nothing", self._index.starts[number]
                )
            self._own.whiteouts[number] = b"/".join((*parents, hidden))
        else:
            return False
        return True
