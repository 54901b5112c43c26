"""The public functions, as programs use them."""

from __future__ import annotations

import doctest
import errno
import hashlib
import io
import os
import random
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest

import dimgx
from dimgx.spool import SpoolSpace
from dimgx.stream import open_pieces
from tests.dsl import dir_, file, hardlink, layer, symlink, whiteout
from tests.leftovers import running_threads
from tests.writers import archive, docker_archive, image

DOCS = Path(__file__).parent.parent / "docs"
BASE = layer(dir_("etc"), file("etc/motd", b"hello\n"), file("etc/old", b"old"))
TOP = layer(whiteout("etc/old"), dir_("bin"), file("bin/app", b"\x7fELF", mode=0o755))
HISTORY = [
    {"created": "2024-01-01T00:00:00Z", "created_by": "ADD rootfs.tar /"},
    {"created": "2024-01-02T00:00:00Z", "created_by": "COPY app /bin/app"},
    {"created": "2024-01-02T00:00:00Z", "created_by": 'CMD ["/bin/app"]', "empty_layer": True},
]
NAMES = ["bin", "bin/app", "etc", "etc/motd"]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[dimgx.Image]:
    path = tmp_path / "image.tar"
    path.write_bytes(docker_archive(image(BASE, TOP, history=HISTORY)))
    with dimgx.open_image(f"docker-archive:{path}") as found:
        yield found


def big(tmp_path: Path, size: int = 12 << 20) -> Path:
    path = tmp_path / "big.tar"
    path.write_bytes(docker_archive(image(layer(file("big", os.urandom(size))))))
    return path


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def test_examples_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image.tar").write_bytes(docker_archive(image(BASE, TOP, history=HISTORY)))
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(
        str(DOCS / "api.rst"),
        module_relative=False,
        encoding="utf-8",
        optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL,
    )
    assert tried > 15
    assert failed == 0


def test_flatten_to_a_path(opened: dimgx.Image, tmp_path: Path) -> None:
    target = tmp_path / "out.tar"
    result = dimgx.flatten(opened, target, sha256=True)
    data = target.read_bytes()
    assert names(data) == NAMES
    assert (result.size, result.length) == (len(data), len(data))
    assert result.sha256 == hashlib.sha256(data).hexdigest()


def test_flatten_to_a_binary_file_of_any_kind(opened: dimgx.Image, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    dimgx.flatten(opened, buffer)
    with (tmp_path / "raw").open("w+b", buffering=0) as raw:
        dimgx.flatten(opened, raw)
        raw.seek(0)
        assert raw.read() == buffer.getvalue()
    assert names(buffer.getvalue()) == NAMES


def test_flatten_twice_gives_the_same_bytes(opened: dimgx.Image) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    dimgx.flatten(opened, first, threads=1)
    dimgx.flatten(opened, second, threads=4, memory=0)
    assert first.getvalue() == second.getvalue()


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "zstd"])
def test_flatten_compressed_is_the_same_tar(opened: dimgx.Image, compression: str) -> None:
    from dimgx.decode import iter_decoded

    plain, packed = io.BytesIO(), io.BytesIO()
    dimgx.flatten(opened, plain)
    result = dimgx.flatten(opened, packed, compression=compression, level=1)  # type: ignore[arg-type]
    assert b"".join(map(bytes, iter_decoded([packed.getvalue()], compression))) == plain.getvalue()  # type: ignore[arg-type]
    assert (result.size, result.length) == (len(packed.getvalue()), len(plain.getvalue()))


def test_flatten_refuses_an_existing_path_unless_forced(
    opened: dimgx.Image, tmp_path: Path
) -> None:
    target = tmp_path / "out.tar"
    target.write_bytes(b"old")
    with pytest.raises(dimgx.SourceError, match="exists"):
        dimgx.flatten(opened, target)
    assert target.read_bytes() == b"old"
    dimgx.flatten(opened, target, force=True)
    assert names(target.read_bytes()) == NAMES


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["@0"], ["etc", "etc/motd", "etc/old"]),
        (["@0:@-1"], NAMES),
        (["@1", "@0"], ["bin", "bin/app", "etc", "etc/motd", "etc/old"]),
        (["@0", "@1", "@0"], ["bin", "bin/app", "etc", "etc/motd", "etc/old"]),
    ],
)
def test_flatten_chosen_layers(opened: dimgx.Image, layers: list[str], expected: list[str]) -> None:
    buffer = io.BytesIO()
    dimgx.flatten(opened, buffer, layers=layers)
    assert names(buffer.getvalue()) == expected


@pytest.mark.parametrize("layers", [["f00d"], ["@0", "@9"], ["@2"], []])
def test_flatten_nothing_is_an_error(
    opened: dimgx.Image, layers: list[str], tmp_path: Path
) -> None:
    with pytest.raises(dimgx.LayerSpecError):
        dimgx.flatten(opened, tmp_path / "out.tar", layers=layers)
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"verify": False}, {"verify": "All"}, {"threads": 0}, {"threads": -1}, {"memory": -5},
        {"layers": "@0"}, {"add_layers": "/etc"}, {"add_layers": Path("/etc")}, {"paths": "/x"},
        {"compression": "lz4"}, {"compression": "none"}, {"compression": "gzip", "level": 10},
        {"level": 3},
    ],
    ids=str,
)  # fmt: skip
def test_flatten_refuses_what_makes_no_sense(
    opened: dimgx.Image, options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(dimgx.UsageError):
        dimgx.flatten(opened, tmp_path / "out.tar", **options)
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"], ids=ascii)
def test_a_target_that_can_be_no_file_is_refused(opened: dimgx.Image, name: str) -> None:
    for write in (dimgx.flatten, dimgx.write_raw):
        with pytest.raises(dimgx.UsageError, match="can be the name of no file"):
            write(opened, name)
    for form in ("oci-archive", "oci-dir"):
        with pytest.raises(dimgx.UsageError, match="can be the name of no file"):
            dimgx.write_images([opened], Path(name), form=form)


def test_nothing_is_written_into_a_directory_that_is_added(
    opened: dimgx.Image, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "link.tar").symlink_to(own / "out.tar")
    for target in (own / "out.tar", str(tmp_path / "link.tar")):
        with pytest.raises(dimgx.UsageError, match="own, which is added: name a place outside it"):
            dimgx.flatten(opened, target, add_layers=[own])
    with pytest.raises(dimgx.UsageError, match="own, which is added"):
        dimgx.write_images([opened], own / "out", form="oci-dir", add_layers=[str(own)])
    assert list(own.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [{"form": "tarball"}, {"form": "oci-dir", "layer_compression": "xz"},
     {"form": "docker-archive", "compression": "none"}],
    ids=str,
)  # fmt: skip
def test_images_are_not_written_in_a_form_that_there_is_not(
    opened: dimgx.Image, options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(dimgx.UsageError):
        dimgx.write_images([opened], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir", "docker-dir"])
def test_no_images_are_not_written(tmp_path: Path, form: Any) -> None:
    with pytest.raises(dimgx.UsageError, match="no image was given"):
        dimgx.write_images([], tmp_path / "out", form=form)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("layers", "@1", ["bin", "bin/app"]),
        ("paths", dimgx.PathRule(is_included=False, pattern="/etc"), ["bin", "bin/app"]),
        ("add_layers", "added", ["bin", "bin/app", "etc", "etc/motd", "f"]),
    ],
)
def test_option_that_can_be_gone_through_once(
    opened: dimgx.Image, option: str, value: object, expected: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "f").touch()
    options: dict[str, Any] = {option: iter([value])}
    dimgx.flatten(opened, "out.tar", record=True, **options)
    assert names((tmp_path / "out.tar").read_bytes()) == expected


def test_tmpdir_that_can_be_gone_through_once(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(docker_archive(image(BASE, compression="gzip")))
    (tmp_path / "added.tar").write_bytes(TOP)
    tmpdir: Any = iter([f"{tmp_path}/missing"])
    options: Any = {"add_layers": [tmp_path / "added.tar"], "memory": 0, "tmpdir": tmpdir}
    with (
        dimgx.open_image(tmp_path / "image.tar") as found,
        pytest.raises(dimgx.SourceError, match="missing"),
    ):
        dimgx.flatten(found, io.BytesIO(), **options)


def test_layers_of_a_result_that_can_be_gone_through_once(
    opened: dimgx.Image, tmp_path: Path
) -> None:
    wanted = dimgx.ResultImage(opened, layers=iter(["@1"]))  # type: ignore[arg-type]
    dimgx.write_images([wanted], tmp_path / "out.tar", form="docker-archive")
    with dimgx.open_image(tmp_path / "out.tar") as found, dimgx.open_tree(found) as tree:
        assert [entry.path for entry in tree] == [b"bin", b"bin/app"]


def test_image_that_is_closed(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(docker_archive(image(layer(file("a")))))
    with dimgx.open_image(tmp_path / "image.tar") as found:
        pass
    for use in (
        lambda: dimgx.inspect(found),
        lambda: dimgx.flatten(found, io.BytesIO()),
        lambda: dimgx.open_stream(found),
        lambda: dimgx.open_tree(found),
        lambda: dimgx.write_raw(found, io.BytesIO()),
        lambda: dimgx.write_images([found], tmp_path / "out", form="oci-dir"),
    ):
        with pytest.raises(dimgx.UsageError, match="is closed"):
            use()
    with pytest.raises(dimgx.UsageError, match="verify"):
        dimgx.open_image(tmp_path / "image.tar", verify="some")  # type: ignore[arg-type]
    engine = dimgx.EngineOptions(pull="sometimes")  # type: ignore[arg-type]
    with pytest.raises(dimgx.UsageError, match="pull"):
        dimgx.open_image(tmp_path / "image.tar", engine=engine)


def test_flatten_an_image_without_layers_is_an_empty_tar(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(docker_archive(image()))
    buffer = io.BytesIO()
    with dimgx.open_image(f"docker-archive:{tmp_path / 'image.tar'}") as found:
        dimgx.flatten(found, buffer)
    assert names(buffer.getvalue()) == []


def damaged(tmp_path: Path) -> str:
    """Give the reference of an image whose plain layer is not what its digest says."""
    good = docker_archive(image(BASE, TOP))
    path = tmp_path / "damaged.tar"
    path.write_bytes(good.replace(b"hello\n", b"hallo\n"))
    return f"docker-archive:{path}"


def one_layer(found: dimgx.Image, target: Any, **more: Any) -> object:
    return dimgx.write_raw(found, target, layers=["@0"], **more)


@pytest.mark.parametrize("make", [dimgx.flatten, one_layer])
def test_damaged_image_leaves_nothing_at_the_target(
    tmp_path: Path, make: Callable[..., object]
) -> None:
    reference = damaged(tmp_path)
    with dimgx.open_image(reference) as found, pytest.raises(dimgx.ImageError, match="sha256"):
        make(found, tmp_path / "out.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.tar"]


@pytest.mark.parametrize("make", [dimgx.flatten, one_layer])
def test_damaged_image_gives_a_file_object_no_byte(
    tmp_path: Path, make: Callable[..., object]
) -> None:
    buffer = io.BytesIO()
    with dimgx.open_image(damaged(tmp_path)) as found, pytest.raises(dimgx.ImageError):
        make(found, buffer)
    assert buffer.getvalue() == b""


def test_damaged_image_gives_a_stream_no_byte(tmp_path: Path) -> None:
    with dimgx.open_image(damaged(tmp_path)) as found:
        stream = dimgx.open_stream(found)
        with stream, pytest.raises(dimgx.ImageError):
            stream.read(1)


@pytest.mark.parametrize("compression", ["zstd", None])
def test_a_stream_is_little_ahead(compression: Any, tmp_path: Path) -> None:
    """Encoders give pieces of any size."""
    picture = image(layer(file("large", random.Random(3).randbytes(20 << 20))))
    (tmp_path / "large.tar").write_bytes(docker_archive(picture))
    with (
        dimgx.open_image(tmp_path / "large.tar") as found,
        dimgx.open_stream(found, compression=compression) as stream,
    ):
        pieces = list(iter(lambda: len(stream.raw.read(64 << 20) or b""), 0))
    assert sum(pieces) > 20 << 20 and max(pieces) <= 1 << 20


def with_a_report(found: dimgx.Image, target: Any, **more: Any) -> object:
    return dimgx.flatten(found, target, report=dimgx.Report(), **more)


def by_a_stream(found: dimgx.Image, target: io.BytesIO, **more: Any) -> None:
    with dimgx.open_stream(found, **more) as stream:
        while data := stream.read(512):
            target.write(data)


def streamed(found: dimgx.Image, target: Any, **more: Any) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dimgx.extractor.STREAMED", 0)
        return dimgx.flatten(found, target, threads=2, **more)


class Changing:
    """An image that can be merged while it is decoded, and changes in a phase of the work."""

    def __init__(self, tmp_path: Path, phase: str) -> None:
        self.path, self.phase = tmp_path / "image.tar", phase
        ordered = layer(dir_("bin"), file("bin/app"), whiteout("etc/old"))
        self.path.write_bytes(docker_archive(image(BASE, ordered, compression="gzip")))

    def enter(self, phase: str) -> None:
        if phase == self.phase:
            os.utime(self.path, ns=(1, 1))

    def make(self, make: Callable[..., object], target: object) -> None:
        opened = dimgx.open_image(self.path)
        with opened as found, pytest.raises(dimgx.SourceError, match="changed"):
            make(found, target, progress=lambda progress: self.enter(progress.phase))


@pytest.mark.parametrize(
    ("make", "phase"),
    [
        *((dimgx.flatten, phase) for phase in ("read", "write")),
        *((with_a_report, phase) for phase in ("read", "write")),
        (one_layer, "read"),
        (streamed, "read"),
    ],
)
def test_source_that_changes_meanwhile_gives_no_file(
    tmp_path: Path, make: Callable[..., object], phase: str
) -> None:
    Changing(tmp_path, phase).make(make, tmp_path / "out.tar")
    assert os.listdir(tmp_path) == ["image.tar"]


@pytest.mark.parametrize("make", [dimgx.flatten, with_a_report, one_layer, by_a_stream])
def test_source_that_changes_meanwhile_gives_no_byte_or_an_error(
    tmp_path: Path, make: Callable[..., object]
) -> None:
    early = io.BytesIO()
    Changing(tmp_path, "read").make(make, early)
    assert early.getvalue() == b""

    class Late(io.BytesIO):
        def write(self, data: Any) -> int:
            late.enter("write")
            return super().write(data)

    late = Changing(tmp_path, "write")
    late.make(make, Late())


def test_progress_is_told_while_a_stream_is_read() -> None:
    data = docker_archive(image(BASE, TOP))
    seen: list[dimgx.Progress] = []
    with dimgx.open_image("-", stdin=io.BytesIO(data), progress=seen.append):
        assert {progress.phase for progress in seen} == {"read"}
        assert (seen[0].done, seen[-1].done) == (0, len(data))
    with pytest.raises(dimgx.Cancelled):
        dimgx.open_image("-", stdin=io.BytesIO(data), cancel=lambda: True)


@pytest.mark.parametrize("use", [dimgx.open_image, dimgx.list_platforms])
def test_reading_a_compressed_archive_can_be_cancelled(
    tmp_path: Path, use: Callable[..., object]
) -> None:
    path = tmp_path / "image.tar.gz"
    path.write_bytes(docker_archive(image(BASE), archive_compression="gzip"))
    told: list[dimgx.Progress] = []
    with pytest.raises(dimgx.Cancelled):
        use(path, progress=told.append, cancel=lambda: bool(told))
    assert told[-1].total == path.stat().st_size


def test_progress_of_a_compressed_archive_has_a_total(tmp_path: Path) -> None:
    packed = tmp_path / "image.tar.gz"
    packed.write_bytes(docker_archive(image(BASE, TOP), archive_compression="gzip"))
    seen: list[dimgx.Progress] = []
    with dimgx.open_image(str(packed), progress=seen.append):
        size = packed.stat().st_size
        assert (seen[-1].done, {progress.total for progress in seen}) == (size, {size})


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "zstd"])
def test_error_of_the_callback_is_raised_as_it_is(tmp_path: Path, compression: Any) -> None:
    path = tmp_path / "image.tar.packed"
    path.write_bytes(docker_archive(image(BASE), archive_compression=compression))
    error = ValueError("no")

    def fail(progress: dimgx.Progress) -> None:
        if progress.done:
            raise error

    with pytest.raises(ValueError, match="no") as caught:
        dimgx.open_image(path, progress=fail)
    assert caught.value is error


def test_progress_ends_at_its_total(opened: dimgx.Image) -> None:
    seen: list[dimgx.Progress] = []
    dimgx.flatten(opened, io.BytesIO(), progress=seen.append)
    written = [progress for progress in seen if progress.phase == "write"]
    assert written
    assert all(b.done >= a.done for a, b in pairwise(written))
    assert all(p.total is None or p.done <= p.total for p in seen)


@pytest.mark.parametrize("after", [0, 3])
def test_cancel_leaves_nothing_at_the_target(tmp_path: Path, after: int) -> None:
    calls = 0

    def cancel() -> bool:
        nonlocal calls
        calls += 1
        return calls > after

    path = big(tmp_path)
    with dimgx.open_image(f"docker-archive:{path}") as found, pytest.raises(dimgx.Cancelled):
        dimgx.flatten(found, tmp_path / "out.tar", cancel=cancel)
    assert [path.name for path in tmp_path.iterdir()] == ["big.tar"]


def test_stream_is_what_flatten_writes(opened: dimgx.Image) -> None:
    buffer = io.BytesIO()
    dimgx.flatten(opened, buffer)
    with dimgx.open_stream(opened) as stream:
        assert stream.readable()
        assert stream.read(3) + stream.read1(5) + stream.read() == buffer.getvalue()
        assert stream.read() == b""


def test_stream_of_many_pieces_and_readinto(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with dimgx.open_image(f"docker-archive:{big(tmp_path)}") as found:
        dimgx.flatten(found, buffer)
        got = zlib.crc32(b"")
        block = bytearray(70_001)
        with dimgx.open_stream(found) as stream:
            while size := stream.readinto(block):
                got = zlib.crc32(memoryview(block)[:size], got)
    assert got == zlib.crc32(buffer.getvalue())


@pytest.mark.parametrize("error", [KeyError, StopIteration])
def test_stream_raises_what_a_callback_raises(
    opened: dimgx.Image, error: type[Exception]
) -> None:
    def progress(state: dimgx.Progress) -> None:
        if state.phase == "write":
            raise error

    with dimgx.open_stream(opened, progress=progress) as stream:
        for _ in range(2):
            with pytest.raises(error):
                stream.read()


def test_stream_closed_early_stops_its_thread(tmp_path: Path) -> None:
    before = running_threads()
    with dimgx.open_image(f"docker-archive:{big(tmp_path)}") as found:
        with dimgx.open_stream(found) as stream:
            assert len(stream.read(10)) == 10
        assert not running_threads() - before
        dimgx.open_stream(found).close()
        assert not running_threads() - before


def test_tree_entries_and_files(tmp_path: Path) -> None:
    data = layer(
        dir_("d", mtime=7),
        file(
            "d/f", b"content", mode=0o4755, uid=1, gid=2, xattrs={"user.a": b"\0b"},
            records=((b"atime", b"1.5"),),
        ),
        hardlink("d/g", "d/f", mode=0o4755, uid=1, gid=2),
        symlink("l", "d/f"),
    )
    (tmp_path / "image.tar").write_bytes(docker_archive(image(data)))
    with (
        dimgx.open_image(f"docker-archive:{tmp_path / 'image.tar'}") as found,
        dimgx.open_tree(found) as tree,
    ):
        entries = {entry.path: entry for entry in tree}
        assert list(entries) == [b"d", b"d/f", b"d/g", b"l"]
        assert [entry.type for entry in tree] == ["directory", "file", "link", "symlink"]
        inode = entries[b"d/f"]
        assert (inode.mode, inode.uid, inode.gid, inode.size) == (0o4755, 1, 2, 7)
        assert inode.xattrs == {b"user.a": b"\0b"}
        assert entries[b"d/g"].linkname == b"d/f"
        assert entries[b"l"].linkname == b"d/f"
        for name in ("d/f", b"d/g", "/d/f"):
            with tree.open(name) as content:
                assert content.read() == b"content"
        for name in ("d", "l", "missing", "d\0f"):
            with pytest.raises(dimgx.ImageError):
                tree.open(name)


def test_image_from_a_stream(tmp_path: Path) -> None:
    kinds: tuple[Literal["gzip", "zstd"] | None, ...] = (None, "gzip", "zstd")
    for compression in kinds:
        data = docker_archive(image(BASE, TOP), archive_compression=compression)
        buffer = io.BytesIO()
        with dimgx.open_image("-", stdin=io.BytesIO(data)) as found:
            dimgx.flatten(found, buffer)
        assert names(buffer.getvalue()) == NAMES


@pytest.mark.parametrize("data", [b"", b"no tar", archive([file("x", b"")])])
def test_no_image(data: bytes) -> None:
    with pytest.raises(dimgx.DimgxError):
        dimgx.open_image("-", stdin=io.BytesIO(data))


def test_unknown_platform_word_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(dimgx.UsageError):
        dimgx.open_image(f"docker-archive:{tmp_path}", platform="linux/")


RULE = dimgx.PathRule(False, "etc")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"keep_layers": True, "paths": [RULE]}, "paths has no effect where layers are kept"),
        ({"keep_layers": True, "layers": ["@0"]}, "layers has no effect where layers are kept"),
        ({"keep_layers": True, "add_layers": ["x"]}, "add_layers has no effect"),
        ({"keep_layers": True, "prefix": "a"}, "prefix has no effect"),
        ({"keep_layers": True, "root_entry": True}, "root_entry has no effect"),
        ({"keep_layers": True, "clamp_mtime": 0}, "clamp_mtime has no effect"),
        ({"keep_layers": True, "created": 0}, "created has no effect where layers are kept"),
        ({"root_entry": True}, "root_entry has no effect on the layer of an image"),
        ({"created": -1}, "created is seconds since 1970, and cannot be -1"),
        ({"clamp_mtime": -1}, "clamp_mtime is seconds since 1970, and cannot be -1"),
        ({"squash_from": "@1", "layers": ["@0"]}, "layers has no effect with squash_from"),
    ],
    ids=str,
)
def test_options_that_would_have_no_effect_on_an_image(
    opened: dimgx.Image, tmp_path: Path, options: Any, problem: str
) -> None:
    target = tmp_path / "out"
    with pytest.raises(dimgx.UsageError, match=problem):
        dimgx.write_images([opened], target, form="oci-dir", **options)
    assert not target.exists()


@pytest.mark.parametrize("options", [{"keep_layers": True}, {"squash_from": "@1"}], ids=str)
def test_rows_of_one_image_have_no_effect_where_layers_are_kept(
    opened: dimgx.Image, tmp_path: Path, options: Any
) -> None:
    wanted = dimgx.ResultImage(opened, layers=["@0"])
    with pytest.raises(dimgx.UsageError, match="layers has no effect where layers are kept"):
        dimgx.write_images([wanted], tmp_path / "out", form="oci-dir", **options)


@pytest.mark.parametrize("wanted", [{"names": "app"}, {"layers": "@0"}], ids=str)
def test_text_in_the_place_of_a_list(opened: dimgx.Image, tmp_path: Path, wanted: Any) -> None:
    one = dimgx.ResultImage(opened, **wanted)
    with pytest.raises(dimgx.UsageError, match="is a list, also where there is but one"):
        dimgx.write_images([one], tmp_path / "out", form="oci-dir")
    with pytest.raises(dimgx.UsageError, match="specs is a list"):
        dimgx.select(dimgx.inspect(opened).rows, "@0")


@pytest.mark.parametrize("rule", ["a", (True, "a"), None], ids=str)
def test_a_path_rule_is_one(opened: dimgx.Image, tmp_path: Path, rule: Any) -> None:
    target = tmp_path / "out.tar"
    with pytest.raises(dimgx.UsageError, match=r"paths are PathRule values, but .* is none"):
        dimgx.flatten(opened, target, paths=[RULE, rule])
    assert not target.exists()


@pytest.mark.parametrize(
    "options",
    [{"paths": [RULE]}, {"strip_components": 1}, {"prefix": "a"}, {"add_layers": ["x"]},
     {"root_entry": True}, {"clamp_mtime": 0}],
    ids=str,
)  # fmt: skip
def test_a_layer_as_it_is_takes_no_changes(
    opened: dimgx.Image, tmp_path: Path, options: Any
) -> None:
    with pytest.raises(dimgx.UsageError, match="has no effect on a layer that is written as it is"):
        dimgx.write_raw(opened, tmp_path / "out", layers=["@0"], **options)


@pytest.mark.parametrize("option", ["root_entry", "clamp_mtime"])
def test_a_tree_takes_nothing_that_shapes_a_tar(opened: dimgx.Image, option: str) -> None:
    options: Any = {option: 1}
    with pytest.raises(dimgx.UsageError, match=f"{option} has no effect on a tree"):
        dimgx.open_tree(opened, **options)


def test_rows_of_another_image_are_refused(opened: dimgx.Image, tmp_path: Path) -> None:
    path = tmp_path / "other.tar"
    path.write_bytes(docker_archive(image(layer(file("other")), layer(file("more")))))
    with dimgx.open_image(path) as other:
        rows = dimgx.inspect(other).rows
        with pytest.raises(dimgx.ImageError, match="row @0 is not of docker-archive:"):
            dimgx.flatten(opened, tmp_path / "out.tar", layers=rows[1:])
        with pytest.raises(dimgx.ImageError, match="is not of"):
            dimgx.write_images([opened], tmp_path / "o", form="oci-dir", squash_from=rows[0])


def test_rows_are_chosen_by_their_numbers(opened: dimgx.Image) -> None:
    rows = dimgx.inspect(opened).rows
    for order in (rows, rows[::-1], rows[1:], [*rows[1:], *rows[:1]]):
        found = dimgx.select(order, ["@1:@0", "@0"])
        assert [row.position for row in found.rows] == [1, 0]
    with pytest.raises(dimgx.LayerSpecError, match="it has @0 to @1"):
        dimgx.select(rows[1:], ["@2"], strict=True)


def test_a_path_object_is_a_path(
    opened: dimgx.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dimgx.write_images([opened], "layout", form="oci-dir")
    for path in (Path("layout"), tmp_path / "layout"):
        with dimgx.open_image(path, tmpdir=tmp_path) as found:
            assert len(found.layers) == 1
        assert dimgx.list_platforms(path)
    with pytest.raises(dimgx.SourceError, match=r"\./missing"):
        dimgx.open_image(Path("missing"))


def test_memory_that_there_cannot_be(tmp_path: Path) -> None:
    for call in (dimgx.open_image, dimgx.list_platforms):
        with pytest.raises(dimgx.UsageError, match="there are no -5 bytes of memory"):
            call(tmp_path, memory=-5)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_content_that_changed_meanwhile_is_not_given(
    tmp_path: Path, compression: Literal["gzip"] | None
) -> None:
    """What was decoded is a copy, which nothing can change."""
    path = tmp_path / "image.tar"
    content = os.urandom(1000)
    saved = docker_archive(image(layer(file("a", content)), compression=compression))
    path.write_bytes(saved)
    with dimgx.open_image(path) as found, dimgx.open_tree(found) as tree:
        with tree.open("a") as before:
            assert before.read() == content
        with open(path, "r+b") as changed:
            changed.seek(0 if compression else saved.find(content))
            changed.write(b"evil")
        os.utime(path, (0, 0))  # as the clock of files may stand still for some milliseconds
        with tree.open("a") as after:
            if compression:
                assert after.read() == content
                return
            for _ in range(2):
                with pytest.raises(dimgx.SourceError, match="changed while it was read"):
                    after.read()


def test_entries_are_found_by_any_spelling(opened: dimgx.Image) -> None:
    with dimgx.open_tree(opened) as tree:
        by_path = {entry.path: entry for entry in tree}
        for path, entry in by_path.items():
            for spelled in (path, b"/" + path, b"./" + path, path + b"/", path.decode()):
                assert tree.find(spelled) == entry
                assert spelled in tree
        for path in ("etc/old", "bin/app/x", "", "/", b"etc\0motd", "nothing"):
            assert tree.find(path) is None
            assert path not in tree
        assert 5 not in tree
        assert tree.open("./etc//motd").read() == b"hello\n"
    with pytest.raises(dimgx.UsageError):
        tree.find("etc")


def test_a_closed_stream_has_no_end(opened: dimgx.Image) -> None:
    stream = dimgx.open_stream(opened)
    raw = stream.raw
    assert stream.read(10)
    stream.close()
    with pytest.raises(ValueError, match="closed file"):
        raw.read(10)


def test_a_stream_that_is_closed_while_it_is_waited_for_has_no_end(opened: dimgx.Image) -> None:
    is_read = threading.Event()
    errors: list[BaseException] = []

    def read(reading: io.RawIOBase) -> None:
        try:
            reading.read(10)
        except ValueError as exc:
            errors.append(exc)

    def wait() -> bytes:
        is_read.set()
        assert is_closed.wait(10)
        return b""

    is_closed = threading.Event()
    file = open_pieces(wait, lambda: None)
    thread = threading.Thread(target=read, args=(file.raw,))
    thread.start()
    assert is_read.wait(10)
    file.raw.close()
    is_closed.set()
    thread.join(10)
    assert [str(error) for error in errors] == ["I/O operation on closed file"]


def test_too_many_files_are_an_error_of_ours(
    opened: dimgx.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("dimgx.system.open_unlinked_file", refuse)
    with SpoolSpace(0) as space, pytest.raises(dimgx.SourceError, match="Too many open files"):
        space.open().write(b"x")
