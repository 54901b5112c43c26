from __future__ import annotations

import gzip
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dimgx.errors import ImageError, SourceError
from dimgx.extent import Extent
from dimgx.reference import parse_reference
from dimgx.sources import open_image
from dimgx.spool import SpoolSpace
from tests.dsl import dir_, file, layer
from tests.opened import APP, BASE, OTHER, TOP, opened, problem, read, stored
from tests.writers import archive, compress, docker_archive, image, oci_archive

ARCHIVE = docker_archive(APP)


@contextmanager
def piped(data: bytes, step: int = 1 << 16) -> Iterator[BinaryIO]:
    """Give the reading end of a pipe into which the data come bit by bit."""
    reading, writing = os.pipe()

    def write() -> None:
        try:
            for start in range(0, len(data), step):
                os.write(writing, data[start : start + step])
        except BrokenPipeError:
            pass
        finally:
            os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with open(reading, "rb") as stream:
            yield stream
    finally:
        thread.join()


@pytest.mark.parametrize("compression", [None, "gzip", "zstd", "xz", "bzip2"])
def test_from_a_pipe(compression: str | None) -> None:
    for data in (ARCHIVE, oci_archive(APP)):
        with piped(compress(data, compression), 1000) as stream:  # type: ignore[arg-type]
            assert read("-", stream) == [BASE, TOP]


def test_from_a_pipe_that_does_not_block() -> None:
    with piped(ARCHIVE, 512) as stream:
        os.set_blocking(stream.fileno(), False)
        assert read("-", stream) == [BASE, TOP]


class _Plain:
    """A reader that can only `read`, as a stranger's may."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(size)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("kind", [_Plain, io.BytesIO])
def test_readers_of_all_kinds(kind: Callable[[bytes], BinaryIO], compression: str | None) -> None:
    # Longer than the buffer that pieces are read into.
    top = layer(file("etc/a", b"x"), file("long", os.urandom(3 << 20)))
    data = compress(docker_archive(image(top)), compression)  # type: ignore[arg-type]
    assert read("-", kind(data)) == [top]


def test_one_of_several_images() -> None:
    for data in (docker_archive(APP, OTHER), oci_archive(APP, OTHER)):
        assert read("-:example/other:2", data) == read("-:@1", data) == [TOP]
        assert "2 images" in problem("-", data)


def test_a_file_on_stdin_is_read_in_place(tmp_path: Path) -> None:
    path = stored(tmp_path, b"#" * 1000 + ARCHIVE)
    with open(path, "rb") as stream:
        stream.seek(1000)
        with opened("-", stream) as found:
            assert isinstance(found.layers[0].blob, Extent)
            assert os.path.sameopenfile(found.layers[0].blob.fd, stream.fileno())
            assert found.watches
            assert read("-", stream) == [BASE, TOP]
        assert stream.tell() == 1000
    path = stored(tmp_path, compress(ARCHIVE, "gzip"))
    with open(path, "rb") as stream:
        assert read("-", stream) == [BASE, TOP]


def test_a_file_on_stdin_may_be_closed_before_the_image(tmp_path: Path) -> None:
    with open(stored(tmp_path, ARCHIVE), "rb") as stream, opened("-", stream) as found:
        stream.close()
        with open(os.devnull, "rb"):  # has its descriptor
            assert [b"".join(map(bytes, one.blob.iter_chunks())) for one in found.layers] == [
                BASE,
                TOP,
            ]


def test_what_a_file_makes_of_its_descriptor_is_read(tmp_path: Path) -> None:
    path = stored(tmp_path, gzip.compress(b"#" * 1000 + ARCHIVE))
    with gzip.open(path, "rb") as stream:
        assert stream.fileno() >= 0
        stream.read(1000)
        assert read("-", stream) == [BASE, TOP]  # type: ignore[arg-type]


@pytest.mark.parametrize("is_buffered", [False, True])
def test_a_file_that_does_not_wait(is_buffered: bool) -> None:
    class Slow(io.RawIOBase):
        rest = ARCHIVE[:700]

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int | None:
            piece = self.rest[: len(buffer)]
            self.rest = self.rest[len(piece) :]
            buffer[: len(piece)] = piece
            return len(piece) or None

    stream: Any = io.BufferedReader(Slow()) if is_buffered else Slow()
    assert "no bytes just now" in problem("-", stream)


def test_named_pipes_and_dev_fd(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(ARCHIVE,))
    thread.start()
    assert read(f"docker-archive:{path}") == [BASE, TOP]
    thread.join()
    if os.path.exists("/dev/fd"):
        with piped(ARCHIVE) as stream:
            assert read(f"/dev/fd/{stream.fileno()}") == [BASE, TOP]


def test_an_empty_stdin() -> None:
    assert problem("-", b"") == "standard input is empty: did the command before it fail?"
    with piped(b"") as stream:
        assert "did the command before it fail?" in problem("-", stream)
    with open(os.devnull, "rb") as null:
        assert "did the command before it fail?" in problem("-", null)


def test_no_stdin() -> None:
    assert "closed" in problem("-")


def test_a_terminal() -> None:
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    with open(leader, "rb"), open(follower, "rb") as stream:
        assert "is a terminal" in problem("-", stream)


def test_a_directory_on_stdin(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)

    class Directory(io.RawIOBase):
        def fileno(self) -> int:
            return fd

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            return len(os.read(fd, 10))

    try:
        assert "irectory" in problem("-", Directory())  # type: ignore[arg-type]
    finally:
        os.close(fd)


def as_text(data: bytes, output: str, line_end: bytes = b"\r\n") -> bytes:
    """Give what PowerShell makes of a program's output."""
    text = data.decode("cp437").replace("\n", line_end.decode())
    return text.encode(output, "replace")


MANGLED = [
    ("powershell >", b"\xff\xfe" + as_text(ARCHIVE, "utf-16-le")),
    ("powershell > of gzip", b"\xff\xfe" + as_text(gzip.compress(ARCHIVE), "utf-16-le")),
    ("big endian", b"\xfe\xff" + as_text(ARCHIVE, "utf-16-be")),
    ("no mark", as_text(ARCHIVE, "utf-16-le")),
    ("no mark, big endian", as_text(ARCHIVE, "utf-16-be")),
    ("utf-8 with mark", b"\xef\xbb\xbf" + as_text(ARCHIVE, "utf-8")),
    ("gzip as ascii", as_text(gzip.compress(ARCHIVE), "ascii")),
    ("gzip as utf-8", gzip.compress(ARCHIVE).decode("utf-8", "replace").encode()),
    ("zstd as utf-8", compress(ARCHIVE, "zstd").decode("utf-8", "replace").encode()),
    (
        "zstd as ascii",
        compress(ARCHIVE, "zstd").decode("ascii", "replace").encode("ascii", "replace"),
    ),
    ("line ends", archive([file("a", b"\n" * 40), file("b")]).replace(b"\n", b"\r\n")),
    (
        "line ends of gzip",
        gzip.compress(os.urandom(1) + bytes(range(256)) * 40 + os.urandom(50_000)).replace(
            b"\n", b"\r\n"
        ),
    ),
]


@pytest.mark.parametrize("data", [pytest.param(data, id=id_) for id_, data in MANGLED])
def test_bytes_that_a_shell_took_for_text(data: bytes, tmp_path: Path) -> None:
    for text in (problem("-", data), problem(stored(tmp_path, data))):
        assert "turned bytes into text" in text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"Error: No such image: app\n", "begins with 'Error: No such image: app'"),
        (bytes(1024), "is no container image"),
        (b"x\0" * 7, "no tar"),
        (b"\n" * 600, "no archive of an image: it is no tar, plain or compressed"),
        (b"\x01" * 600, "no archive of an image: it is no tar, plain or compressed"),
        (b"PK\x03\x04" + bytes(600), "zip"),
        (b"hsqs" + bytes(600), "squashfs"),
        (b"{}" + b" " * 600, "JSON"),
        (b"\x80" * 600, "no tar"),
        (b"\0", "no container image"),
        (gzip.compress(b"hello, world", mtime=0), "hello, world"),
        (gzip.compress(ARCHIVE)[:-20], "gzip"),
        (compress(ARCHIVE, "zstd")[:-20], "zstd"),
        (compress(ARCHIVE, "xz")[:-20], "xz"),
        (compress(ARCHIVE, "bzip2")[:-20], "bzip2"),
        (ARCHIVE[:2000], "damaged"),
        (b"\x1f\x8b", "gzip"),
    ],
)
def test_what_is_no_archive(data: bytes, reason: str, tmp_path: Path) -> None:
    for text in (problem("-", data), problem(stored(tmp_path, data))):
        assert reason in text


@pytest.mark.parametrize("block", [bytes(512), b"y\n" * 256, b"\x80" * 512])
def test_what_has_no_end_is_refused_by_its_beginning(block: bytes) -> None:
    class Endless(io.RawIOBase):
        taken = 0

        def readinto(self, buffer: Any) -> int:
            self.taken += len(buffer)
            buffer[:] = (block * (len(buffer) // 512 + 1))[: len(buffer)]
            return len(buffer)

    endless = Endless()
    with SpoolSpace(1 << 20) as space, pytest.raises(ImageError, match="standard input is no"):
        open_image(parse_reference("-"), stdin=endless, spool=space)  # type: ignore[arg-type]
    assert endless.taken <= 4 << 20


def test_an_empty_file(tmp_path: Path) -> None:
    path = stored(tmp_path, b"")
    assert problem(path) == f"{path} is empty"


@pytest.mark.parametrize("text", ["./gone", "gone.tar", "oci:./gone", "docker-archive:gone:app"])
def test_a_missing_file(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "gone" in problem(text) and problem(text).endswith("No such file or directory")


def test_who_means_a_registry_is_told_how_one_asks_it() -> None:
    assert problem("oci://no.such:5000/a/b:1") == (
        "//no.such: No such file or directory; at a registry it is docker://no.such:5000/a/b:1"
    )


def test_an_unreadable_file(tmp_path: Path) -> None:
    path = Path(stored(tmp_path, ARCHIVE))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    assert "ermission denied" in problem(str(path))


def test_a_path_with_a_nul() -> None:
    assert "null" in problem("./a\0b")


def test_an_exported_container_is_one_already() -> None:
    exported = layer(*(dir_(name) for name in ("etc", "usr", "bin", "var")), file("etc/passwd"))
    assert "already" in problem("-", exported)
    assert "already" in problem("-", layer(file(".dockerenv"), dir_("x")))


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    assert "is no container image" in problem("-", layer(file("README")))
    assert "is no container image" in problem("-", bytes(10240))
    assert "is no container image" in problem(str(tmp_path))


def test_an_image_one_directory_down(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    text = problem("-", layer(dir_("app"), file("app/oci-layout", b"{}"), file("app/index.json")))
    assert "below 'app'" in text


def test_an_archive_that_changes_meanwhile(tmp_path: Path) -> None:
    path = Path(stored(tmp_path, ARCHIVE))
    with pytest.raises(SourceError, match="changed while it was read"), opened(str(path)):
        os.utime(path, ns=(1, 1))


def test_a_stream_takes_no_more_memory_than_allowed(tmp_path: Path) -> None:
    with SpoolSpace(0, [str(tmp_path)]) as space:
        stdin = io.BytesIO(ARCHIVE)
        with open_image(parse_reference("-"), stdin=stdin, spool=space) as found:
            assert len(found.layers) == 2
