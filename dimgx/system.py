"""What only some operating systems have, each with a fallback that works everywhere.

`FEATURES` names what this system has; every function looks there before it uses one. Tests put
an empty set in its place and run everything again, which is then much what Windows and macOS see.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from dimgx import cgroup
from dimgx.errors import ImageError

if sys.platform != "win32":
    # Here, as it may be a file of its own, and there may be no descriptor left later.
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

FEATURES: frozenset[str] = frozenset(
    name
    for name, is_there in {
        "pread": hasattr(os, "pread") and hasattr(os, "pwrite"),
        "preadv": hasattr(os, "preadv"),
        "memfd": hasattr(os, "memfd_create"),
        "eventfd": hasattr(os, "eventfd"),
        # By /proc alone such a file gets a name.
        "tmpfile": hasattr(os, "O_TMPFILE") and os.path.exists("/proc/self/fd"),
        "affinity": hasattr(os, "sched_getaffinity"),
        "fadvise": hasattr(os, "posix_fadvise"),
        "flock": hasattr(os, "O_DIRECTORY"),
        "fork": sys.platform == "linux",
        "procfs": os.path.exists("/proc/self/mountinfo"),
        "pipe size": os.path.exists("/proc/sys/fs/pipe-max-size"),
    }.items()
    if is_there
)

PIECE = 1 << 20
# Bytes written to a file at once. Linux takes memory for a file in pieces as large as what is
# written; a large one is rarely one that was used just now, and in a virtual machine perhaps one
# that the host has taken back: 1.2 GB took 1.15 s 256 KiB at once, 64 KiB at once 0.74 (medians).
STEP = 64 << 10
_O_BINARY: int = getattr(os, "O_BINARY", 0)
_O_TEMPORARY: int = getattr(os, "O_TEMPORARY", 0)
_BUFFERED = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)
# Where nothing tells how much memory is free; enough for most images, little for most machines.
_MEMORY_GUESS = 1 << 30

# Without pread a read is a seek and a read, which no other thread may come between.
_seek_lock = threading.Lock()


def open_read(path: str | bytes) -> int:
    """Give a file descriptor of `path` for reading, whatever bytes the file holds.

    Raises: OSError as `os.open` does.
    """
    return os.open(path, os.O_RDONLY | _O_BINARY)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading, and nothing else: a pipe would be waited for.

    Raises: OSError as `open` does, and where it is no regular file.
    """
    # Before it is opened: with some devices that alone does something.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    flags = getattr(os, "O_NONBLOCK", 0)
    return open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags))


def let_go(fd: int) -> None:
    """Close a file that was read, or that nobody wants any more.

    What its disk reports only now (over a network some do) takes nothing from what was read.
    """
    try:
        os.close(fd)
    except OSError as exc:
        if exc.errno == errno.EBADF:  # it was not open, which is a mistake of ours
            raise


def plain_descriptor(file: BinaryIO) -> int | None:
    """Give the descriptor of an open file whose bytes are those of the file object.

    None where there is no descriptor, or something between the two: gzip, TLS, HTTP, or an object
    that passes on all but what it changes.
    """
    raw = getattr(file, "raw", None) if type(file) in _BUFFERED else file
    return raw.fileno() if type(raw) is io.FileIO else None


def is_root() -> bool:
    """Tell whether any file here may be read."""
    return getattr(os, "geteuid", lambda: None)() == 0


def pread(fd: int, size: int, offset: int) -> bytes:
    """Give `size` bytes from `offset` on; fewer at the file's end only."""
    data = _read_some(fd, size, offset)
    # Before what a disk cannot read, and over a network, a call may give a part of it.
    while data and len(data) < size:
        more = _read_some(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def pread_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset` on as far as one call goes, and give the number of bytes read."""
    if "preadv" in FEATURES:
        try:
            return os.preadv(fd, [view], offset)
        except OSError as exc:
            _name(exc, fd)
            raise
    data = pread(fd, len(view), offset)
    view[: len(data)] = data
    return len(data)


def read_into(fd: int, view: memoryview) -> int:
    """Fill `view` with what `fd` has at hand, waiting for the first byte; 0 at the end."""
    if "preadv" in FEATURES:
        return os.readv(fd, [view])
    data = os.read(fd, len(view))
    view[: len(data)] = data
    return len(data)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`, waiting where `fd` is not ready to take it."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # somebody else made the pipe so, which we share with them
            wait_writable(fd)


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data`, bytes or a view of bytes, to the regular file `fd` at `offset`."""
    rest = memoryview(data)
    while rest:
        if "pread" in FEATURES:
            written = os.pwrite(fd, rest[: STEP - offset % STEP], offset)
        else:
            with _seek_lock:
                os.lseek(fd, offset, os.SEEK_SET)
                written = os.write(fd, rest[: STEP - offset % STEP])
        rest = rest[written:]
        offset += written


def iter_extent(fd: int, offset: int, size: int) -> Iterator[memoryview]:
    """Yield `size` bytes from `offset` on, 1 MiB at a time; each piece is good until the next.

    Raises: ImageError where the file ends before that.
    """
    buffer = memoryview(bytearray(min(PIECE, size)))
    end = offset + size
    while offset < end:
        count = pread_into(fd, buffer[: end - offset], offset)
        if not count:
            raise ImageError(
                f"the file ends {end - offset} bytes early, at offset {offset}: copy it again"
            )
        yield buffer[:count]
        offset += count


def open_memory_file() -> int | None:
    """Give an empty file that lives in memory, or None where the system has no such thing."""
    if "memfd" not in FEATURES:
        return None
    try:
        return os.memfd_create("dimgx")
    except OSError:  # a sandbox that forbids it
        return None


def open_counter() -> int:
    """Give a descriptor of a number, 0 at first, that processes share; to be closed.

    Raises: OSError where the system has no such thing, or too many files are open.
    """
    if "eventfd" not in FEATURES:
        raise OSError(errno.ENOSYS, "there are no shared counters")
    return os.eventfd(0)


def add_to_counter(fd: int, number: int) -> None:
    """Add to a counter, which wakes who waits for it."""
    os.eventfd_write(fd, number)


def take_from_counter(fd: int) -> int:
    """Wait until a counter is not 0; give what it was, and set it to 0."""
    return os.eventfd_read(fd)


def open_nameless_file(directory: str, mode: int) -> int | None:
    """Give an empty file in `directory` that goes away with this process unless it gets a name.

    None where the system, or a file system, has no such thing.
    """
    if "tmpfile" in FEATURES:
        with suppress(OSError):
            return os.open(directory, os.O_RDWR | os.O_TMPFILE, mode)
    return None


def name_file(fd: int, path: str) -> None:
    """Give a nameless file the name `path`.

    Raises: OSError; FileExistsError where something has that name.
    """
    # Python follows the symlink, which leads to the file, only where it is given a directory.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def open_unlinked_file(directory: str) -> int:
    """Give an empty file in `directory` that goes away when it is closed, or with the process.

    Raises: OSError as `os.open` does.
    """
    nameless = open_nameless_file(directory, 0o600)
    if nameless is not None:
        return nameless
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _O_BINARY | _O_TEMPORARY
    path = os.path.join(directory, f".dimgx-{os.urandom(8).hex()}")
    try:
        return os.open(path, flags, 0o600)
    finally:
        # By its name alone: an interrupt may have come between the file and its descriptor.
        if not _O_TEMPORARY:
            with suppress(OSError):
                os.unlink(path)


def lock_directory(path: str) -> int | None:
    """Give a file descriptor that keeps others from doing the same until it is closed.

    None where the system, or a file system, has no such thing.

    Raises: BlockingIOError where another process holds it; OSError.
    """
    if "flock" not in FEATURES:
        return None
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError(exc.errno, exc.strerror) from exc
        return None
    return fd


def is_in_memory(directory: str) -> bool:
    """Tell whether the files of `directory` lie in memory (a tmpfs)."""
    if "procfs" not in FEATURES:
        return False
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in cgroup.read_text("/proc/self/mountinfo").splitlines():
        place, _, kind = line.partition(" - ")
        if place.split()[2:3] == [wanted]:
            return kind.split()[:1] in (["tmpfs"], ["ramfs"])
    return False


def start_writing(fd: int, offset: int, size: int) -> None:
    """Have the system write that part of a file to its disk now rather than later."""
    if "fadvise" in FEATURES:
        # Linux begins to write what is dirty, and keeps it as it is not written yet.
        with suppress(OSError):
            os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)


def widen_pipe(fd: int) -> None:
    """Let `fd`, if it is a pipe, hold 1 MiB, so that writer and reader wait less."""
    if "pipe size" in FEATURES:
        # An error means that it is none, or that the user's pipes hold as much as they may.
        with suppress(OSError):
            if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < PIECE:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIECE)


def usable_cpus() -> int:
    """Give how many CPUs this process may use: affinity and control groups' quotas, at least 1."""
    count = os.cpu_count() or 1
    if "affinity" in FEATURES:
        with suppress(OSError):  # a sandbox may forbid to ask
            count = len(os.sched_getaffinity(0))
    quota = cgroup.cpu_quota() if "procfs" in FEATURES else None
    if quota is not None:
        count = min(count, -int(-quota // 1))
    return max(1, count)


def can_fork() -> bool:
    """Tell whether this process may fork: what other threads hold would stay held in the copy."""
    if "fork" in FEATURES:
        with suppress(OSError):
            return len(os.listdir("/proc/self/task")) == 1
    return False


def free_memory() -> int:
    """Give how many bytes of memory are free, in the machine and in our control groups."""
    free = None
    if "procfs" in FEATURES:
        free = cgroup.read_fields("/proc/meminfo").get("MemAvailable")
    if free is None:
        return _physical_memory() // 2
    left = cgroup.memory_left()
    return free * 1024 if left is None else min(free * 1024, left)


def _physical_memory() -> int:
    try:
        pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _MEMORY_GUESS
    return pages * page if pages > 0 and page > 0 else _MEMORY_GUESS


def _name(exc: OSError, fd: int) -> None:
    """Add to an error which file it is about, where the system tells that."""
    if "procfs" in FEATURES:
        with suppress(OSError):
            exc.filename = os.readlink(f"/proc/self/fd/{fd}")


def _read_some(fd: int, size: int, offset: int) -> bytes:
    if "pread" in FEATURES:
        try:
            return os.pread(fd, size, offset)
        except OSError as exc:
            _name(exc, fd)
            raise
    with _seek_lock:
        # Like pread, leave the position where it was: the file may be somebody's standard input.
        position = os.lseek(fd, 0, os.SEEK_CUR)
        os.lseek(fd, offset, os.SEEK_SET)
        try:
            return os.read(fd, size)
        finally:
            os.lseek(fd, position, os.SEEK_SET)


def wait_writable(fd: int) -> None:
    """Wait until `fd` takes bytes, or writing there is an error."""
    import select

    if not hasattr(select, "poll"):
        select.select([], [fd], [])
        return
    # Unlike select it takes descriptors of any number.
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


def is_readable(fd: int) -> bool:
    """Tell whether reading from a pipe would not have to wait."""
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
