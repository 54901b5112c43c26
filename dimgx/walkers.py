"""Walking several plain layers at once, in as many processes as there are CPUs to use.

The walk is bound by the interpreter, so threads do not help. A process forked off takes a share of
the layers and leaves their indexes in a memory file. Taking them over costs 0.08 us a member, where
the walk costs 1 to 2.

1. Only on Linux, only from a process that has one thread yet, and only where a share is so large
   that the fork (some 3 ms) does not matter.
2. What goes wrong there is not told: the layer is walked here then, which tells it, as ever.
3. A process forked off is gone when the block that began it ends.
"""

from __future__ import annotations

import marshal
import os
import signal
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NoReturn, TypeAlias

from dimgx import system
from dimgx.errors import ImageError
from dimgx.extent import Extent
from dimgx.layerindex import LayerIndex, Link
from dimgx.tarwalk import walk_layer

SHARE = 24 << 20
"""The fewest bytes of plain layers that are worth a process."""
_MOST = 4

Indexes: TypeAlias = dict[Extent, LayerIndex]


@contextmanager
def walking(
    tars: Sequence[Extent], clamp_mtime_s: int | None, processes: int
) -> Iterator[Callable[[], Indexes]]:
    """Begin to walk `tars` in other processes; the function given walks the rest and collects.

    What it gives lacks tars that could not be walked; all of them, where this does not pay.
    """
    shares = _divide(tars, min(processes, _MOST))
    with ExitStack() as stack:
        others: list[tuple[int, int, list[Extent]]] = []
        for share in shares[1:] if system.can_fork() else []:
            fd = system.open_memory_file()
            if fd is None:
                break
            stack.callback(os.close, fd)
            pid = os.fork()
            if not pid:
                _work(share, clamp_mtime_s, fd)
            stack.callback(_end, pid)
            others.append((pid, fd, share))

        def collect() -> Indexes:
            if not others:
                return {}
            found: Indexes = {}
            with suppress(ImageError):
                for tar in shares[0]:
                    found[tar] = walk_layer(
                        tar.fd, tar.offset, tar.size, clamp_mtime_s=clamp_mtime_s
                    )
            for pid, fd, share in others:
                if _has_done(pid):
                    found.update(zip(share, _read(fd), strict=True))
            return found

        yield collect


def _divide(tars: Sequence[Extent], most: int) -> list[list[Extent]]:
    """Divide `tars` into shares of about one size, the largest first, none of them too small."""
    total = sum(tar.size for tar in tars)
    count = max(1, min(most, len(tars), total // SHARE))
    shares: list[list[Extent]] = [[] for _ in range(count)]
    sizes = [0] * count
    for tar in sorted(tars, key=lambda tar: -tar.size):
        i = sizes.index(min(sizes))
        shares[i].append(tar)
        sizes[i] += tar.size
    if min(sizes) < SHARE:
        return [list(tars)]
    return shares


def _work(share: list[Extent], clamp_mtime_s: int | None, fd: int) -> NoReturn:
    """Walk the tars of `share` and leave their indexes in `fd`. All that the new process does."""
    status = 1
    # Nothing of the caller's may run here, neither clean-up nor what its signal handlers raise.
    with suppress(BaseException):
        for tar in share:
            index = walk_layer(tar.fd, tar.offset, tar.size, clamp_mtime_s=clamp_mtime_s)
            data = _flattened(index)
            system.write_all(fd, len(data).to_bytes(8, "little") + data)
        status = 0
    os._exit(status)


def _has_done(pid: int) -> bool:
    """Wait until a process forked off ends; tell whether it did all that it should."""
    try:
        return os.waitpid(pid, 0)[1] == 0
    except ChildProcessError:  # whoever uses us has it that nobody waits for children
        return False


def _end(pid: int) -> None:
    with suppress(OSError):
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _read(fd: int) -> list[LayerIndex]:
    found = []
    at = 0
    while head := system.pread(fd, 8, at):
        size = int.from_bytes(head, "little")
        found.append(_raised(system.pread(fd, size, at + 8)))
        at += 8 + size
    return found


def _flattened(index: LayerIndex) -> bytes:
    links = [
        (number, link.target, link.member, link.following, link.spelled, link.is_same, link.is_bare)
        for number, link in index.links.items()
    ]
    values = (
        index.starts.tobytes(), bytes(index.codes), bytes(index.kinds), links,
        index.keys, index.implied, index.whiteouts, index.opaque, index.root,
    )  # fmt: skip
    return marshal.dumps(values, 2)  # newer versions look for equal objects, which takes longer


def _raised(data: bytes) -> LayerIndex:
    starts, codes, kinds, links, keys, implied, whiteouts, opaque, root = marshal.loads(data)
    return LayerIndex(
        starts=array("q", starts), codes=bytearray(codes), kinds=bytearray(kinds),
        links={number: Link(*link) for number, *link in links},
        keys=keys, implied=implied, whiteouts=whiteouts, opaque=opaque, root=root,
    )  # fmt: skip
