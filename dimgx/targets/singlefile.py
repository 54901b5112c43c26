"""A target that is one file: replaced atomically where it can be, else written in place.

Rules:

1. Symlinks are followed first, as far as their text names what they lead to; that is replaced, not
   they.
2. A regular file, old or new, is written without a name, else under a temporary one in the same
   directory, synced unless the caller has no use for that, and takes its place in one step. It has
   the replaced file's mode and owner, or the mode that the umask gives.
3. Without `force` nothing is replaced, also nothing that appeared since the target was opened.
4. What is no regular file (a device, a FIFO, /dev/fd/N, another process's pipe) is written in
   place. A directory is refused.
5. A broken pipe stays what it is; other errors of the system become ours.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from dimgx import system
from dimgx.errors import SourceError
from dimgx.targets.errors import translated
from dimgx.targets.filewriter import FileWriter, sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from dimgx.targets import Target

_T = TypeVar("_T", bound="Target")

_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/(?:self|thread-self|[0-9]+))/fd/([0-9]+)")
_MAX_LINKS = 40
_MAX_FD = (1 << 31) - 1
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP)
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def open_target(
    path: str, *, force: bool, sync: bool = True, resources: ExitStack | None = None
) -> Target:
    """Give the target that `path` leads to; `force` allows to replace a file that is there.

    Without `sync` the disk is not waited for. With `resources`, its `abort` is left there before
    anything is made, so that an interrupt at any moment (an exception out of a signal handler)
    leaves nothing behind.

    Raises: SourceError where it exists (without `force`), is a directory, or cannot be written.
    """
    if not path:
        raise SourceError("a target needs a name")
    with translated(path):
        place, descriptor = _resolve(path)
        if descriptor is not None:
            return _registered(_own_stream(os.dup(descriptor), path), resources)
        try:
            status = os.stat(place)
        except FileNotFoundError:
            status = None
        if status is None or stat.S_ISREG(status.st_mode):
            target = FileTarget(path, place, status, force=force, sync=sync)
            _registered(target, resources).create()
            return target
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        fd = os.open(place, os.O_WRONLY | getattr(os, "O_NOCTTY", 0))
        return _registered(_own_stream(fd, path), resources)


def check_descriptor(path: str) -> bool:
    """Tell whether `path` stands for a descriptor, and see that it is open then.

    Files that are opened before `open_target` would get its number.

    Raises: SourceError.
    """
    with translated(path):
        _, descriptor = _resolve(path)
        if descriptor is not None:
            os.fstat(descriptor)
    return descriptor is not None


def open_place(
    place: str | os.PathLike[str] | BinaryIO, *, force: bool, sync: bool, resources: ExitStack
) -> Target:
    """Give the target that is a path or a binary file open for writing; `resources` drops it.

    Raises: SourceError as `open_target`.
    """
    if isinstance(place, (str, os.PathLike)):
        return open_target(os.fspath(place), force=force, sync=sync, resources=resources)
    return _registered(open_stream_target(place), resources)


def _registered(target: _T, resources: ExitStack | None) -> _T:
    if resources is not None:
        resources.callback(target.abort)
    return target


def open_stream_target(file: BinaryIO) -> Target:
    """Give a target around a binary file that is open already.

    The file stays open and is the caller's to close; `commit` flushes it. Errors call it by the
    name that it says.
    """
    name = _name_of(file)
    fd = system.plain_descriptor(file)
    if fd is not None and not file.seekable():
        # Nobody asks a pipe for its position, so the buffer can be passed by.
        with translated(name):
            file.flush()
        system.widen_pipe(fd)
        file = open(fd, "wb", buffering=0, closefd=False)
    return _StreamTarget(file, name)


def _own_stream(fd: int, name: str) -> Target:
    """Give a target around a descriptor, which is closed with it (rule 4)."""
    system.widen_pipe(fd)
    return _StreamTarget(open(fd, "wb", buffering=0), name, is_owner=True)


def _name_of(file: BinaryIO) -> str:
    name = getattr(file, "name", None)
    if isinstance(name, (str, bytes)) and name:
        return os.fsdecode(name)
    return "stdout" if name == 1 else "the target"


def _descriptor_of(file: BinaryIO) -> int | None:
    try:
        return file.fileno()
    except io.UnsupportedOperation:
        return None


class FileTarget:
    """A regular file that appears or changes in one step (rules 2 and 3)."""

    is_atomic = True

    def __init__(
        self,
        path: str,
        place: str,
        replaced: os.stat_result | None,
        *,
        force: bool,
        sync: bool,
    ) -> None:
        if replaced and not force:
            raise exists(path)
        self._path = path
        self._place = place
        self._replaced = replaced
        self._force = force
        self._sync = sync
        self._fd = -1
        self._directory = os.path.dirname(place) or os.curdir
        # Short whatever the target's name, which may be as long as a name can be.
        self._temporary = os.path.join(self._directory, f".dimgx-{os.urandom(8).hex()}.tmp")

    def create(self) -> None:
        """Make the temporary file.

        Where it can be it has no name, so that nothing is left whatever ends this process.
        """
        replaced = self._replaced
        # What replaces a private file is private from its first byte on.
        mode = 0o600 if replaced else 0o666
        try:
            nameless = system.open_nameless_file(self._directory, mode)
            self._is_nameless = nameless is not None
            self._fd = os.open(self._temporary, _NEW_FILE, mode) if nameless is None else nameless
            if replaced and hasattr(os, "fchown"):
                mode = stat.S_IMODE(replaced.st_mode)
                try:
                    os.fchown(self._fd, replaced.st_uid, replaced.st_gid)
                except OSError:  # it becomes ours, so it must not run as somebody else
                    mode &= 0o777
                os.fchmod(self._fd, mode)
            self._writer = FileWriter(self._fd, is_synced=self._sync)
        except BaseException:
            self.abort()
            raise

    def write(self, data: bytes | memoryview) -> None:
        with translated(self._path):
            self._writer.write(data)

    @property
    def end(self) -> int:
        """Where the next bytes go."""
        return self._writer.end

    def rewrite(self, data: bytes, offset: int) -> None:
        """Put `data` in the place of what was written at `offset`."""
        with translated(self._path):
            system.write_at(self._fd, data, offset)

    def open_section(self, offset: int) -> Callable[[bytes | memoryview], None]:
        """Give what writes a part of the file, from `offset` on, as others write others."""
        writer = FileWriter(self._fd, is_synced=self._sync, begin=offset)

        def write(data: bytes | memoryview) -> None:
            with translated(self._path):
                writer.write(data)

        return write

    def measure(self) -> int:
        """Give the length of the file in bytes."""
        return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        """Take back what was written behind the first `size` bytes."""
        with translated(self._path):
            self._writer.truncate(size)

    def iter_chunks(self) -> Iterator[memoryview]:
        """Yield what was written, from its beginning; each piece is good until the next."""
        return self._writer.iter_chunks()

    def commit(self) -> None:
        try:
            with translated(self._path):
                self._writer.sync()
                if self._is_nameless:
                    self._give_name()
                fd, self._fd = self._fd, -1
                os.close(fd)
                if self._force:
                    os.replace(self._temporary, self._place)
                elif not self._is_nameless:
                    self._publish_new()
                # It is there, whole: a name that cannot be removed takes nothing from that.
                self._remove_temporary()
                if self._sync:
                    sync_directory(self._directory)
        finally:
            self.abort()

    def abort(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):
                os.close(fd)
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        """Remove the temporary name, if it is there still."""
        if self._temporary:
            # By its name alone, which nobody else has: an interrupt may have come between the
            # file and its descriptor.
            with suppress(OSError):
                os.unlink(self._temporary)
            self._temporary = ""

    def _give_name(self) -> None:
        """Give the nameless file its name, or one that can take the place of what is there."""
        try:
            system.name_file(self._fd, self._temporary if self._force else self._place)
        except FileExistsError as exc:
            raise exists(self._path) from exc
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            self._copy_to_named()

    def _copy_to_named(self) -> None:
        """Copy the file without a name, where a sandbox lets none be linked."""
        status = os.fstat(self._fd)
        with open(os.open(self._temporary, _NEW_FILE, 0o600), "r+b", buffering=0) as copy:
            writer = FileWriter(copy.fileno(), is_synced=self._sync)
            for chunk in system.iter_extent(self._fd, 0, status.st_size):
                writer.write(chunk)
            with suppress(OSError):
                os.fchown(copy.fileno(), status.st_uid, status.st_gid)
            os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode))
            writer.sync()
        self._is_nameless = False

    def _publish_new(self) -> None:
        """Give the file its name unless something has that name by now."""
        try:
            # A link never replaces anything, a rename does.
            os.link(self._temporary, self._place, follow_symlinks=False)
        except FileExistsError as exc:
            raise exists(self._path) from exc
        except (OSError, NotImplementedError):  # a file system without hard links
            if os.path.lexists(self._place):
                raise exists(self._path) from None
            os.rename(self._temporary, self._place)


class _StreamTarget:
    """A binary file that is written as it comes; short writes, as raw ones do them, are carried on.

    With `is_owner` it is raw, and closed in the end.
    """

    is_atomic = False

    def __init__(self, file: BinaryIO, name: str, *, is_owner: bool = False) -> None:
        self._file, self._name, self._is_owner = file, name, is_owner

    def write(self, data: bytes | memoryview) -> None:
        with translated(self._name):
            rest = memoryview(data)
            while rest:
                written = self._file.write(rest)
                if written:
                    rest = rest[written:]
                elif written is None and not isinstance(self._file, io.RawIOBase):
                    return  # objects of other kinds (an HTTP body, a hash) need not tell a count
                else:
                    # None is what a file says that does not block and has no room now.
                    fd = _descriptor_of(self._file) if written is None else None
                    if fd is None:
                        raise SourceError(f"{self._name} cannot be written: it takes no more bytes")
                    system.wait_writable(fd)

    def commit(self) -> None:
        with translated(self._name):
            if self._is_owner:
                with self._file as file:
                    if stat.S_ISBLK(os.fstat(file.fileno()).st_mode):
                        os.fsync(file.fileno())
            elif hasattr(self._file, "flush"):
                self._file.flush()

    def abort(self) -> None:
        if self._is_owner:
            with suppress(OSError):
                self._file.close()


def _resolve(path: str) -> tuple[str, int | None]:
    """Give where `path` leads through symlinks, and the open descriptor that it stands for, if so.

    The links of descriptors themselves lead to names that cannot be opened, or not again.
    """
    place = path
    for _ in range(_MAX_LINKS):
        descriptor = _STANDARD.get(place)
        if descriptor is not None:
            return place, descriptor
        match = _DESCRIPTOR.fullmatch(place)
        if match and (not place.startswith("/proc/") or _is_own(place)):
            return place, min(int(match[1]), _MAX_FD)
        try:
            following = os.path.join(os.path.dirname(place), os.readlink(place))
        except OSError:
            return place, None
        if _is_magic(place, following):
            return place, None
        place = following
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _is_magic(place: str, following: str) -> bool:
    """Tell whether a link leads to a pipe or a device that its text does not name.

    Those of other processes' descriptors (/proc/PID/fd/N) do, and can be opened themselves.
    """
    try:
        status = os.stat(place)
    except OSError:
        return False
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return False
    try:
        return not os.path.samestat(status, os.stat(following))
    except OSError:
        return True


def _is_own(place: str) -> bool:
    return place.split("/")[2] in ("self", "thread-self", str(os.getpid()))


def exists(path: str, more: str = "") -> SourceError:
    """Give the error that something is there already; `more` is what else can be done."""
    return SourceError(f"{path} exists; use -w/--force to replace it{more}")
