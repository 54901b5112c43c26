from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from dimgx.errors import ImageError
from dimgx.extent import Extent
from dimgx.sources.archive import ArchiveFiles
from dimgx.sources.files import Files
from tests.dsl import Member, dir_, fifo, file, gnu_long, hardlink, layer, raw, sparse, symlink
from tests.programs import need, run

LONG = "d" * 90 + "/" + "n" * 120


@pytest.fixture
def files(tmp_path: Path, request: pytest.FixtureRequest) -> Files:
    members: list[Member] = request.param
    path = tmp_path / "x.tar"
    # Something before the archive shows that offsets count from where it begins.
    path.write_bytes(b"?" * 77 + layer(*members))
    stream = path.open("rb")
    request.addfinalizer(stream.close)
    size = path.stat().st_size - 77
    return ArchiveFiles(Extent(stream.fileno(), 77, size), "x.tar")


def archive(*members: Member) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("files", [list(members)], indirect=True)


def get(files: Files, name: str) -> bytes | None:
    return files.read(name, 1 << 20)


@archive(
    file("a", b"1"),
    file("./b", b"2"),
    file("/c", b"3"),
    file("d//e/./f", b"4"),
    file(LONG, b"5", dialect="pax"),
    file(LONG + "x", b"6", dialect="gnu"),
    file("empty"),
    file("g/../h", b"7"),
    file("caf\u00e9", b"8"),
    file(b"raw\xff", b"9"),
    dir_("dir"),
    file("v7", b"0", dialect="v7"),
)
def test_members_are_found_however_they_are_spelled(files: Files) -> None:
    for name, data in [("a", b"1"), ("b", b"2"), ("c", b"3"), ("d/e/f", b"4"), (LONG, b"5")]:
        assert get(files, name) == get(files, "./" + name) == get(files, "/" + name) == data
    assert get(files, LONG + "x") == b"6"
    assert get(files, "empty") == b""
    assert get(files, "h") == b"7"
    assert get(files, "caf\u00e9") == b"8"
    assert get(files, "raw\udcff") == b"9"
    assert get(files, "v7") == b"0"
    assert get(files, "gone") is None
    assert get(files, "a/b") is None


@archive(file("a", b"old"), hardlink("link", "a"), file("a", b"new"), dir_("b"), file("b", b"2"))
def test_a_later_member_of_a_name_wins(files: Files) -> None:
    assert get(files, "a") == b"new"
    assert get(files, "link") == b"old"
    assert get(files, "b") == b"2"


@archive(
    symlink("1/layer.tar", "../2/layer.tar"),
    file("2/layer.tar", b"two"),
    symlink("3/layer.tar", "/2/layer.tar"),
    hardlink("4/layer.tar", "./2/layer.tar"),
    hardlink("5/layer.tar", "6/layer.tar"),
    file("6/layer.tar", b"six"),
    hardlink("7/layer.tar", "1/layer.tar"),
    symlink("8", "2"),
    symlink("9", "8/../6"),
)
def test_links_are_followed(files: Files) -> None:
    for directory in "123478":
        assert get(files, f"{directory}/layer.tar") == b"two"
    for directory in "569":
        assert get(files, f"{directory}/layer.tar") == b"six"


@archive(
    symlink("loop", "loop"),
    symlink("a", "b"),
    symlink("b", "a"),
    symlink("grow", "grow/grow"),
    hardlink("self", "self"),
    symlink("out", "../x"),
    symlink("deep/out", "../../x"),
    hardlink("hard", "../x"),
    dir_("dir"),
    fifo("fifo"),
    sparse("sparse", [(0, b"x")], 4096, "1.0"),
    symlink("nowhere", "/etc/passwd"),
)
def test_what_cannot_be_read_is_refused_only_when_it_is_asked_for(files: Files) -> None:
    for name in ("loop", "a", "grow", "self", "grow/x"):
        with pytest.raises(ImageError, match="circle"):
            files.find(name)
    for name in ("out", "deep/out", "hard", "../x", "a/../../x", ".."):
        with pytest.raises(ImageError, match=r"outside|circle"):
            files.find(name)
    for name in ("dir", "fifo"):
        with pytest.raises(ImageError, match=f"'{name}' is no regular file"):
            files.find(name)
    with pytest.raises(ImageError, match="pack the archive anew without tar's -S"):
        files.find("sparse")
    assert files.find("nowhere") is None
    with pytest.raises(ImageError, match="characters"):
        files.find("x/" * 100_000)


@archive(symlink(".", "x"), symlink("root", "."), symlink("a", "x"), symlink("a/b", "."),
         hardlink("hard", "a/b"))  # fmt: skip
def test_a_link_that_leads_to_a_link_is_no_file(files: Files) -> None:
    for name in ("root", "hard"):
        with pytest.raises(ImageError, match=f"'{name}' is a link to no file"):
            files.find(name)


def index(data: bytes, tmp_path: Path) -> ArchiveFiles:
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with path.open("rb") as stream:
        return ArchiveFiles(Extent(stream.fileno(), 0, len(data)), "x.tar")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (layer(file("../x")), "outside"),
        (layer(file("a/../../x")), "outside"),
        (layer(file("a", b"x" * 600))[:700], "ends"),
        (layer(file("a"))[:100], "ends"),
        (layer(file("a", checksum=b"0000000\0")), "checksum"),
        (layer(file("a", size=b"zzzzzzzzzzzz")), "size"),
        (layer(file("a", size=10**9)), "ends"),
        (layer(raw(gnu_long(b"L", b"x" * 5)[:512])), "ends|nothing"),
        (layer(file("a"))[:-512] + b"x" * 512, "lone zero block"),
    ],
)
def test_a_damaged_archive_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=reason) as raised:
        index(data, tmp_path)
    assert "x.tar" in str(raised.value)


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(10240) + b"behind the end"])
def test_an_archive_may_end_in_many_ways(end: bytes, tmp_path: Path) -> None:
    assert list(index(layer(file("a"), end=end), tmp_path).names()) == ["a"]


def test_an_archive_by_another_tar(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(300):
            member = tarfile.TarInfo(f"caf\u00e9/{number}" + "x" * number)
            member.size = number * 7
            tar.addfile(member, io.BytesIO(bytes([number & 255]) * member.size))
    data = stream.getvalue()
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with path.open("rb") as opened:
        files = ArchiveFiles(Extent(opened.fileno(), 0, len(data)), "x.tar")
        for number in range(300):
            name = f"caf\u00e9/{number}" + "x" * number
            assert get(files, name) == bytes([number & 255]) * (number * 7)


def test_contents_are_not_read(tmp_path: Path) -> None:
    """Gigabytes of holes are indexed at once."""
    path = tmp_path / "x.tar"
    size = 7 << 30
    header = file("big", size=size).encode()
    tail = layer(file("manifest.json", b"[]"))
    with path.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + size)
        stream.seek(0, 2)
        stream.write(tail)
    with path.open("rb") as stream:
        total = path.stat().st_size
        files = ArchiveFiles(Extent(stream.fileno(), 0, total), "x.tar")
        assert files.find("big") == Extent(stream.fileno(), 512, size)
        assert get(files, "manifest.json") == b"[]"


def test_gzip_is_not_a_tar(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        index(gzip.compress(bytes(1024)), tmp_path)


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_an_archive_with_a_label(form: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"data")
    run(
        [
            need("tar"),
            f"--format={form}",
            "-V",
            "label",
            "-cf",
            tmp_path / "x.tar",
            "-C",
            tmp_path,
            "x",
        ]
    )
    assert "x" in index((tmp_path / "x.tar").read_bytes(), tmp_path).names()
