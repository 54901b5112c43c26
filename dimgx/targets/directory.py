"""An image's form as a directory.

1. A directory that is not there is written under a temporary name beside its own and renamed when
   it is whole.
2. One that is there is written in place: first everything that its old index does not name, then
   the index in one step, then what no index names any more is removed. Killed on the way it is the
   old image still, or the new one, with rests beside it that the next run which writes removes.
3. Only an empty directory is written to, with `force` also one that holds an image in a directory's
   form, or what a run that was killed has left of one. Files that belong to no form stay.
4. Two programs do not write one directory at once.
5. A record that lies in a file of its own tells nothing while the index changes: so none ever tells
   of what is not there.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from dimgx import system
from dimgx.errors import SourceError, TemporaryError
from dimgx.images.origin import SILENT
from dimgx.oci import MANIFEST_LIMIT
from dimgx.targets.errors import NO_DIRECTORY, translated
from dimgx.targets.filewriter import FileWriter, sync_directory, sync_file
from dimgx.targets.forms import RECORD_FILE
from dimgx.targets.singlefile import exists
from dimgx.targets.store import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dimgx.images.layerparts import Part, StoredLayer

_INDEXES = ("index.json", "manifest.json")
_MARKS = {"oci-layout": b"imageLayoutVersion", "version": b"Directory Transport Version"}
_MOST_OF_A_MARK = 4096
_SILENCE = SILENT.encode() + b"\n"
# Not what `singlefile` names its own: another run may be writing a file there.
_TEMPORARY = re.compile(r"\.dimgx-[0-9a-f]{16}\.part")
_OWN = re.compile(
    r"oci-layout|index\.json|version|manifest\.json|dimgx\.origin\.json"
    r"|[0-9a-f]{64,128}(?:\.manifest\.json)?|signature-[0-9]+|blobs/[a-z0-9]+/[0-9a-f]{64,128}"
    rf"|{_TEMPORARY.pattern}"
)


class DirectoryStore:
    """The files of an image in a directory."""

    def __init__(
        self, path: str, *, force: bool, sync: bool = True, keeps_images: bool = False
    ) -> None:
        """Look at the place, and make what can be made before anything is read.

        Without `sync` the disk is not waited for. With `keeps_images` a layout that is there
        already keeps all that it has.

        Raises: SourceError where it is no directory, or one that may not be replaced.
        """
        if not path:
            raise SourceError("a target needs a name")
        self._path, self._sync, self._keeps_images = path, sync, keeps_images
        self._place = os.path.realpath(path)
        self._sizes: dict[str, int] = {}
        """Of the files that have their names, in bytes."""
        self._marks: dict[str, bytes] = {}
        """Files that are there, and are written anew only when all else is."""
        self._made: list[str] = []
        self._root = ""
        """What is written to: a new directory under a temporary name, else the place itself."""
        self._index = ""
        """Where the index lies until it is seen."""
        self._lock: int | None = None
        if os.path.lexists(self._place) and not os.path.isdir(self._place):
            raise SourceError(f"{path} {NO_DIRECTORY}")
        self._is_new = not os.path.isdir(self._place)
        if not self._is_new:
            with translated(path):
                self._check_replaceable(force)

    def _check_replaceable(self, force: bool) -> None:
        names = os.listdir(self._place)
        is_marked = _is_marked(self._place)
        is_layout = _INDEXES[0] in names and is_marked
        # What a killed run has left of a layout is as good as nothing.
        is_rest = "version" not in names and is_unfinished(self._place)
        if not names or (self._keeps_images and (is_layout or is_rest)):
            return
        is_image = is_marked and any(name in _INDEXES for name in names)
        if not is_image and not is_unfinished(self._place):
            raise SourceError(f"{self._path} is neither empty nor an image: name another directory")
        if self._keeps_images:
            raise SourceError(f"{self._path} holds no OCI layout to add to: name another directory")
        if not force:
            more = ", or --keep-images to add to it" if is_layout else ""
            raise exists(self._path, more)

    def create(self) -> None:
        """Make the directory that is written to."""
        with translated(self._path):
            if self._is_new:
                parent = os.path.dirname(self._place)
                self._root = os.path.join(parent, f".dimgx-{os.urandom(8).hex()}.tmp")
                os.mkdir(self._root)
                # What is removed with all that is in it stays where the umask closed it to us.
                self._made.append(self._root)
                return
            self._root = self._place
            try:
                self._lock = system.lock_directory(self._place)
            except BlockingIOError as exc:
                raise TemporaryError(
                    f"{self._path} is being written by another program: run this again"
                ) from exc
            if self._lock is None:
                return  # where nothing is locked they may be those of a run that still writes
            for name in filter(_TEMPORARY.fullmatch, os.listdir(self._place)):
                with suppress(OSError):  # left by a run that was killed
                    os.unlink(os.path.join(self._place, name))

    def read_index(self) -> tuple[bytes, str] | None:
        """Give the index of a layout that keeps its images, and its path; None where none is kept.

        Raises: SourceError where it cannot be read.
        """
        if self._is_new or not self._keeps_images:
            return None
        name = _INDEXES[0]
        with (
            translated(self._path),
            suppress(FileNotFoundError),
            open(os.path.join(self._place, name), "rb") as file,
        ):
            return file.read(MANIFEST_LIMIT + 1), os.path.join(self._path, name)
        return None

    def put(self, name: str, data: bytes) -> None:
        """Put a small file there."""
        if name in _MARKS and os.path.lexists(os.path.join(self._root, name)):
            self._marks[name] = data
            return
        with translated(self._path):
            self._publish(self._write_small(data), name, len(data))

    def _write_small(self, data: bytes) -> str:
        place = self._temporary_place()
        with open(place, "wb") as file:
            file.write(data)
            if self._sync:
                file.flush()
                sync_file(file.fileno())
        return place

    def link(self, name: str, target: str) -> None:
        """Raise: no form in a directory has links."""
        raise NotImplementedError

    def put_part(self, part: Part) -> tuple[Slot, StoredLayer]:
        """Write a layer under a temporary name."""
        place = self._temporary_place()
        with translated(self._path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            fd = os.open(place, flags, 0o666)
        writer = FileWriter(fd, is_synced=self._sync)

        def write(data: bytes | memoryview) -> None:
            with translated(self._path):
                writer.write(data)

        try:
            stored = part.emit(write)
            with translated(self._path):
                writer.sync()
        finally:
            os.close(fd)
        return Slot(stored.size, place=place), stored

    def name(self, slot: Slot, name: str) -> None:
        """Give the layer its name."""
        with translated(self._path):
            self._publish(slot.place, name, slot.size)

    def drop(self, slot: Slot) -> None:
        """Remove the layer again."""
        with translated(self._path):
            os.unlink(slot.place)
        self._made.remove(slot.place)

    def publish(self, last: Mapping[str, bytes], check: Callable[[], None]) -> None:
        """Put the index and what is to be seen behind it, and remove what it does not name."""
        try:
            check()
            with translated(self._path):
                places = {name: self._write_small(data) for name, data in last.items()}
                self._index = next(iter(places.values()))
                if not (self._is_new or self._keeps_images):
                    self._silence_record(last)
                for name, data in self._marks.items():
                    self._publish(self._write_small(data), name, len(data))
                self._sync_names()
                for name, place in places.items():
                    self._publish(place, name, len(last[name]))
                    self._sync_directory(self._root)
                if self._is_new:
                    self._rename()
                    self._sync_directory(os.path.dirname(self._place))
            if not (self._is_new or self._keeps_images):
                self._remove_others()
        finally:
            self.abort()

    def _silence_record(self, last: Mapping[str, bytes]) -> None:
        """Have a record that tells nothing, where there is one or will be (rule 5)."""
        if RECORD_FILE in last or os.path.lexists(os.path.join(self._root, RECORD_FILE)):
            self._publish(self._write_small(_SILENCE), RECORD_FILE, len(_SILENCE))
            del self._sizes[RECORD_FILE]  # it is none of the image's files

    def _sync_names(self) -> None:
        """Sync all directories of the image, so that its index never names what is not there."""
        directories = {""}
        for name in self._sizes:
            while name := os.path.dirname(name):
                directories.add(name)
        for directory in sorted(directories, reverse=True):
            self._sync_directory(os.path.join(self._root, directory))

    def _sync_directory(self, directory: str) -> None:
        if self._sync:
            sync_directory(directory)

    def _rename(self) -> None:
        try:
            os.rename(self._root, self._place)
        except OSError as exc:
            # On some systems also an empty one is in the way.
            if os.path.lexists(self._place):
                raise TemporaryError(f"{self._path} appeared meanwhile: run this again") from exc
            raise

    def _remove_others(self) -> None:
        """Remove what belongs to a form of an image and is not of this one.

        Another form's index goes first, as what it names goes next.
        """
        for name in sorted(_iter_own(self._place), key=lambda name: name not in _INDEXES):
            if name not in self._sizes:
                with suppress(OSError):
                    os.unlink(os.path.join(self._place, name))
        blobs = os.path.join(self._place, "blobs")
        with suppress(OSError):
            for name in os.listdir(blobs):
                with suppress(OSError):
                    os.rmdir(os.path.join(blobs, name))
            os.rmdir(blobs)

    def abort(self) -> None:
        """Remove what was made, unless it belongs to an image that is seen."""
        if self._index and not os.path.lexists(self._index):
            self._made.clear()
        self._index = ""
        if self._is_new and self._root:
            shutil.rmtree(self._root, ignore_errors=True)
        # The longest first: directories are empty by then.
        for place in sorted(self._made, key=len, reverse=True):
            with suppress(OSError):
                os.rmdir(place) if os.path.isdir(place) else os.unlink(place)
        self._made.clear()
        # Forgotten first: an interrupt may come right behind, and the number is another's then.
        lock, self._lock = self._lock, None
        if lock is not None:
            system.let_go(lock)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(self._sizes.values())

    @property
    def sha256(self) -> str | None:
        """It is no single file."""
        return None

    def _temporary_place(self) -> str:
        """Give the path for a file that is to be renamed."""
        place = os.path.join(self._root, f".dimgx-{os.urandom(8).hex()}.part")
        self._made.append(place)
        return place

    def _publish(self, place: str, name: str, size: int) -> None:
        # What is made is noted first: an interrupt may come right behind it.
        final = os.path.join(self._root, name)
        directory = self._root
        for part in name.split("/")[:-1]:
            directory = os.path.join(directory, part)
            if not os.path.isdir(directory):
                self._made.append(directory)
                os.mkdir(directory)
        if not os.path.lexists(final):
            self._made.append(final)
        os.replace(place, final)
        self._made.remove(place)
        self._sizes[name] = size


def is_unfinished(directory: str) -> bool:
    """Tell whether a directory holds what a run that was killed may have left, and nothing else.

    Raises: OSError.
    """
    names = os.listdir(directory)
    if not all(map(_is_own, names)) or any(name in _INDEXES for name in names):
        return False
    return bool(names) and (all(map(_TEMPORARY.fullmatch, names)) or _is_marked(directory))


def _is_marked(directory: str) -> bool:
    """Tell whether a file says that this is a form of an image."""
    for name, mark in _MARKS.items():
        with suppress(OSError), open(os.path.join(directory, name), "rb") as file:
            if mark in file.read(_MOST_OF_A_MARK):
                return True
    return False


def _is_own(name: str) -> bool:
    return name == "blobs" or _OWN.fullmatch(name) is not None


def _iter_own(root: str) -> Iterator[str]:
    """Yield the names of the files below `root` that a form of an image may have."""
    for directory, names, files in os.walk(root):
        relative = os.path.relpath(directory, root).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        if prefix.count("/") >= 2:
            names.clear()
        elif not prefix:
            names[:] = [name for name in names if name == "blobs"]
        for name in files:
            if _OWN.fullmatch(prefix + name):
                yield prefix + name
