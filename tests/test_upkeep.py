"""`--check`, `--update` and `--origin` on tars: what they tell, write and leave alone."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import re
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dimgx.encode import GZIP_HEADER
from dimgx.layers.tarwrite import build_global_header
from dimgx.targets.state import read_state
from tests.dsl import dir_, file, layer, symlink, whiteout
from tests.programs import dimgx, need, public_directory, refused, run, run_as_other
from tests.writers import docker_archive, docker_archive_v1, image, oci_archive, oci_layout

BASE = layer(dir_("etc"), file("etc/a", b"1"), file("etc/old", b"x" * 3000))
TOP = layer(whiteout("etc/old"), file("etc/b", b"2"), symlink("etc/l", "b"))
NEW = layer(whiteout("etc/old"), file("etc/b", b"3"))
APP, NEXT = image(BASE, TOP), image(BASE, NEW)
SHORT = [f"{id[:19]}" for id in (*APP.diff_ids(), NEXT.diff_ids()[1])]
SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.tar").write_bytes(docker_archive(APP))
    (tmp_path / "next.tar").write_bytes(docker_archive(NEXT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(*words: str, stdin: bytes = b"") -> tuple[int, str]:
    """Give the exit code of --check and its one line."""
    done = dimgx("--check", *words, stdin=stdin, ok=False)
    assert done.stderr == b""
    told = done.stdout.decode()
    assert told.count("\n") == 1 and told.endswith("\n")
    return done.returncode, told[:-1]


def update(*words: str, stdin: bytes = b"") -> None:
    done = dimgx("--update", *words, stdin=stdin)
    assert (done.stdout, done.stderr) == (b"", b"")


def stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_made_once_then_up_to_date_then_replaced(place: Path, suffix: str) -> None:
    target = f"out{suffix}"
    assert check("-t", target, "./app.tar") == (5, "there is no target yet")
    assert not os.path.exists(target)
    update("-t", target, "./app.tar")
    before = stamp(target)
    assert check("-t", target, "./app.tar") == (0, "up to date")
    update("-t", target, "./app.tar")
    assert stamp(target) == before
    outdated = (5, f"layer 2 changed: {SHORT[1]} -> {SHORT[2]}")
    assert check("-t", target, "./next.tar") == outdated
    assert stamp(target) == before
    update("-t", target, "./next.tar")
    assert check("-t", target, "./next.tar") == (0, "up to date")
    dimgx("-t", "plain.tar", "./next.tar")
    assert members(target) == members("plain.tar")


def members(path: str) -> list[tuple[str, bytes, int, int]]:
    import io

    data = run(["bsdtar", "-cf", "-", "--format=ustar", f"@{path}"]).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(m.name, m.type, m.size, int(m.mtime)) for m in tar]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_record_stands_before_the_same_tar(place: Path, suffix: str) -> None:
    update("-t", f"out{suffix}", "./app.tar")
    dimgx("-t", "plain.tar", "./app.tar")
    record = {"dimgx": 1, "layers": APP.diff_ids()}
    text = json.dumps(record, separators=(",", ":")).encode()
    plain = unpacked(f"out{suffix}")
    assert plain == build_global_header(text) + (place / "plain.tar").read_bytes()


def unpacked(path: str) -> bytes:
    data = Path(path).read_bytes()
    for suffix, decompress in ((".gz", gzip), (".bz2", bz2), (".xz", lzma)):
        if path.endswith(suffix):
            return decompress.decompress(data)  # type: ignore[attr-defined, no-any-return]
    if path.endswith(".zst"):
        return run([need("zstd"), "-dc", path]).stdout
    return data


def test_only_update_records(place: Path) -> None:
    dimgx("-t", "out.tar", "./app.tar")
    assert check("-t", "out.tar", "./app.tar") == (5, "not an archive of ours")
    code, told = refused("./app.tar", "--update", "-t", "out.tar")
    assert code == 2
    assert "out.tar exists (not an archive of ours); use -w/--force" in told
    update("-w", "-t", "out.tar", "./app.tar")
    assert check("-t", "out.tar", "./app.tar") == (0, "up to date")


def test_record_changes_nothing_for_other_programs(place: Path) -> None:
    update("-t", "out.tar", "./app.tar")
    dimgx("-t", "plain.tar", "./app.tar")
    for words in (["tar", "-tvf"], ["bsdtar", "-tvf"], ["busybox", "tar", "-tvf"]):
        found = [run([need(words[0]), *words[1:], name]) for name in ("out.tar", "plain.tar")]
        assert found[0].stdout == found[1].stdout != b""
        assert found[0].stderr == found[1].stderr
    with tarfile.open("out.tar") as tar:
        assert tar.getnames() == ["etc", "etc/a", "etc/b", "etc/l"]
        assert json.loads(tar.pax_headers["comment"])["dimgx"] == 1


OPTIONS = [
    (("-l", "@1", "-l", "@0"), f"layer 1 changed: {SHORT[0]} -> {SHORT[1]}"),
    (("-l", "@0"), f"layer 2 is gone: {SHORT[1]}"),
    (("--root-entry",), "--root-entry changed: no -> yes"),
    (("--clamp-mtime",), "--clamp-mtime changed: none -> 86400"),
    (("-z",), None),
    (("--compress-level", "9"), "the compression's level changed: none -> 9"),
    (("--compress-level", "2"), None),
    (("--threads", "1"), None),
    (("--verify", "all"), None),
    (("--exclude", "etc/a"), "--include and --exclude changed: nothing -> -etc/a"),
    (
        ("--include", "etc", "--exclude", "*a"),
        "--include and --exclude changed: nothing -> +etc -*a",
    ),
    (("--strip-components", "1"), "--strip-components changed: 0 -> 1"),
    (("--prefix", "srv/x/"), "--prefix changed: none -> srv/x"),
    (("--add-layer", "own"), "added layer 1 is new: sha256:"),
]


@pytest.mark.parametrize(("words", "reason"), OPTIONS, ids=lambda found: str(found)[:30])
def test_options_that_shape_the_content(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], reason: str | None
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    (place / "own").mkdir()
    (place / "own" / "file").write_text("one")
    update("-t", "out.tar.gz", "./app.tar")
    code, told = check(*words, "-t", "out.tar.gz", "./app.tar")
    assert (code, told[: len(reason or told)]) == (5 if reason else 0, reason or "up to date")
    update(*words, "-t", "out.tar.gz", "./app.tar")
    assert check(*words, "-t", "out.tar.gz", "./app.tar") == (0, "up to date")


def test_own_files_that_changed(place: Path) -> None:
    (place / "own").mkdir()
    (place / "own" / "file").write_text("one")
    (place / "own.tar").write_bytes(TOP)
    words = ("--add-layer", "own", "--add-layer", "own.tar", "-t", "out.tar", "./app.tar")
    update(*words)
    assert check(*words) == (0, "up to date")
    os.utime(place / "own" / "file", (1, 1))
    assert check(*words) == (0, "up to date")
    (place / "own.tar").write_bytes(NEW)
    assert check(*words)[1].startswith(f"added layer 2 changed: {SHORT[1]} -> ")
    (place / "own" / "file").write_text("two")
    assert check(*words)[1].startswith("added layer 1 changed: ")
    update(*words)
    assert check(*words) == (0, "up to date")
    code, told = refused("./app.tar", "--check", "-t", "out.tar", "--add-layer", "missing")
    assert (code, "missing" in told) == (2, True)


def test_spellings_of_a_prefix_are_one(place: Path) -> None:
    update("--prefix", "srv", "-t", "out.tar", "./app.tar")
    for spelling in ("srv/", "./srv", "/srv/"):
        assert check("--prefix", spelling, "-t", "out.tar", "./app.tar") == (0, "up to date")


def test_report_of_an_update(place: Path) -> None:
    """The tar is what was written, record and all."""
    dimgx("--update", "--report", "report.json", "-t", "out.tar", "./app.tar")
    told = json.loads((place / "report.json").read_text())
    data = (place / "out.tar").read_bytes()
    (made,) = told["images"]
    assert made["tar"] == {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_other_compression(place: Path) -> None:
    update("-t", "out", "-z", "./app.tar")
    told = check("-t", "out", "--zstd", "./app.tar")
    assert told == (5, "the compression changed: gzip -> zstd")
    os.rename("out", "out.tar.gz")
    run([need("gzip"), "-d", "out.tar.gz"])
    # What another program unpacked is what dimgx would have written.
    assert check("-t", "out.tar", "./app.tar") == (0, "up to date")


def test_any_source(place: Path) -> None:
    update("-t", "out.tar", "./app.tar")
    (place / "29.tar").write_bytes(docker_archive(APP, vintage="29"))
    (place / "oci.tar.zst").write_bytes(oci_archive(APP, archive_compression="zstd"))
    oci_layout(place / "layout", APP, default="zstd")
    for reference in ("./29.tar", "oci-archive:oci.tar.zst", "oci:layout"):
        assert check("-t", "out.tar", reference) == (0, "up to date")
    data = (place / "app.tar").read_bytes()
    assert check("-t", "out.tar", "-", stdin=data) == (0, "up to date")
    update("-t", "out.tar", "-", stdin=(place / "next.tar").read_bytes())
    assert check("-t", "out.tar", "./next.tar") == (0, "up to date")


def test_image_before_docker_1_10(place: Path) -> None:
    """It has no diff_ids: its own IDs stand in for them."""
    (place / "v1.tar").write_bytes(docker_archive_v1(APP))
    (place / "w1.tar").write_bytes(docker_archive_v1(NEXT))
    update("-t", "out.tar", "./v1.tar")
    assert check("-t", "out.tar", "./v1.tar") == (0, "up to date")
    code, told = check("-t", "out.tar", "./w1.tar")
    assert (code, told[:16]) == (5, "layer 1 changed:")
    assert all(len(id) == 64 for id in origin("out.tar")["layers"])


def test_platform_chooses_what_counts(place: Path) -> None:
    arm = image(TOP, architecture="arm64")
    (place / "both.tar").write_bytes(docker_archive(APP, arm, vintage="29"))
    update("--platform", "linux/amd64", "-t", "out.tar", "./both.tar")
    assert check("--platform", "amd64", "-t", "out.tar", "./both.tar") == (0, "up to date")
    code, told = check("--platform", "arm64", "-t", "out.tar", "./both.tar")
    assert code == 5 and told.startswith("layer 1 changed: ")


def test_image_without_layers(place: Path) -> None:
    (place / "none.tar").write_bytes(docker_archive(image()))
    update("-t", "out.tar", "./none.tar")
    assert check("-t", "out.tar", "./none.tar") == (0, "up to date")
    assert check("-t", "out.tar", "./app.tar") == (5, f"layer 1 is new: {SHORT[0]}")


# -- what is there already -----------------------------------------------------------------------


def foreign(place: Path) -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "text", b"no tar at all\n" * 100
    yield "rootfs", BASE
    yield "packed rootfs", gzip.compress(BASE)
    yield "broken gzip", gzip.compress(BASE)[:-30]
    yield "git archive", build_global_header(b"0fd34b1f5b6e8d7a" * 2) + BASE
    yield "record without a version", build_global_header(b'{"layers":[]}') + BASE
    yield "malformed record", build_global_header(b'{"dimgx":1,"layers":7}') + BASE
    yield "a docker save", docker_archive(APP)
    yield "a packed docker save", docker_archive(APP, archive_compression="gzip")
    yield "an oci-archive", oci_archive(APP)
    broken = bytearray(build_global_header(b'{"dimgx":1,"layers":[]}') + BASE)
    broken[105] ^= 1  # in the mode
    yield "wrong checksum", bytes(broken)
    yield "random", os.urandom(4096)


def test_what_is_not_ours_is_replaced_by_force_only(place: Path) -> None:
    for what, data in foreign(place):
        (place / "out.tar").write_bytes(data)
        told = check("-t", "out.tar", "./app.tar")
        assert told == (5, "not an archive of ours"), what
        assert refused("./app.tar", "--update", "-t", "out.tar")[0] == 2, what
        assert (place / "out.tar").read_bytes() == data, what
        assert refused_origin("out.tar")[0] == 2, what
        update("-w", "-t", "out.tar", "./app.tar")
        assert check("-t", "out.tar", "./app.tar") == (0, "up to date"), what


def refused_origin(target: str) -> tuple[int, str]:
    done = dimgx("--origin", target, ok=False)
    told = done.stderr.decode()
    assert done.stdout == b"" and told.count("\n") == 1
    return done.returncode, told


def test_record_of_another_version_is_ours_and_outdated(place: Path) -> None:
    (place / "out.tar").write_bytes(build_global_header(b'{"dimgx":2,"what":[]}') + BASE)
    told = "made by an incompatible version of dimgx (record 2, not 1)"
    assert check("-t", "out.tar", "./app.tar") == (5, told)
    assert origin("out.tar")["dimgx"] == 2
    update("-t", "out.tar", "./app.tar")
    assert check("-t", "out.tar", "./app.tar") == (0, "up to date")


@pytest.mark.parametrize("left", [512, 1024, 1100, 2048, -512, -1024])
def test_tar_that_lost_its_end_is_made_again(place: Path, left: int) -> None:
    update("-t", "out.tar", "./app.tar")
    data = (place / "out.tar").read_bytes()
    (place / "out.tar").write_bytes(data[:left])
    code, told = check("-t", "out.tar", "./app.tar")
    assert code == 5
    if left not in (512,):
        assert told == "damaged: the tar ends wrongly"
        update("-t", "out.tar", "./app.tar")
        assert (place / "out.tar").read_bytes() == data


def test_tar_that_ends_within_zeros_but_no_block_has_lost_its_end(place: Path) -> None:
    (place / "zeros.tar").write_bytes(docker_archive(image(layer(file("zeros", bytes(9000))))))
    update("-t", "out.tar", "./zeros.tar")
    with (place / "out.tar").open("r+b") as target:
        target.truncate(7000)
    assert check("-t", "out.tar", "./zeros.tar") == (5, "damaged: the tar ends wrongly")


PACKED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def big_archive(place: Path, size: int = 3 << 20) -> None:
    big = image(layer(file("random", os.urandom(size)), file("same", bytes(size // 3))))
    (place / "big.tar").write_bytes(docker_archive(big))


def test_only_head_and_end_of_a_packed_tar_are_read(place: Path) -> None:
    """What lies between is damaged here, and nobody looks."""
    big_archive(place)
    for suffix in PACKED:
        update("-t", f"out{suffix}", "./big.tar")
        with (place / f"out{suffix}").open("r+b") as target:
            target.seek((2 << 20) + (10 << 10))  # far from where a block of zstd begins
            target.write(bytes(1000))
        assert check("-t", f"out{suffix}", "./big.tar") == (0, "up to date")


# Of these nothing can be decoded of a block that is not there as a whole.
LEAST_TOLD = {".tar.bz2": 950_000, ".tar.zst": 140_000}


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("level", [[], ["--compress-level", "9"]])
def test_packed_tar_that_lost_its_end_is_made_again(
    place: Path, suffix: str, level: list[str]
) -> None:
    big_archive(place, 1 << 20)
    words = *level, "-t", f"out{suffix}", "./big.tar"
    update(*words)
    path = place / f"out{suffix}"
    data = path.read_bytes()
    assert check(*words) == (0, "up to date")
    kept = LEAST_TOLD.get(suffix, 4096)
    for lost in (*range(1, 40), 100, 511, 512, 4096, 65537, len(data) - kept):
        path.write_bytes(data[:-lost])
        (found,) = read_state(str(path)) or ()
        assert found.problem == "damaged: the tar ends wrongly", lost
    assert check(*words) == (5, "damaged: the tar ends wrongly")
    update(*words)
    assert path.read_bytes() == data


SEEMING_ENDS = [(".tar.gz", rb"(?s)\0[\0\2\4\6].."), (".tar.xz", rb"YZ")]


@pytest.mark.parametrize(("suffix", "end"), SEEMING_ENDS)
def test_packed_tar_that_was_cut_behind_what_looks_like_an_end(
    place: Path, suffix: str, end: bytes
) -> None:
    """As a length of whole blocks does, or the last two letters of a footer."""
    big_archive(place)
    update("-t", f"out{suffix}", "./big.tar")
    data = (place / f"out{suffix}").read_bytes()
    found = re.compile(end).search(data, 3 << 19)
    assert found is not None
    (place / f"out{suffix}").write_bytes(data[: found.end()])
    told = (5, "damaged: the tar ends wrongly")
    assert check("-t", f"out{suffix}", "./big.tar") == told


PACKERS = [
    ("gz", "gzip"), ("gz", "gzip -1"), ("bz2", "bzip2"), ("xz", "xz -0"), ("xz", "xz -T2"),
    ("zst", "zstd"), ("zst", "zstd --no-check -1"),
]  # fmt: skip


@pytest.mark.parametrize(("suffix", "program"), PACKERS)
def test_tar_that_another_program_packed_again_has_its_end(
    place: Path, suffix: str, program: str
) -> None:
    need(program.split()[0])
    big_archive(place, 1 << 20)
    update("-t", "out.tar", "./big.tar")
    with (place / f"out.tar.{suffix}").open("wb") as packed:
        subprocess.run([*program.split(), "-c", "-q", "out.tar"], stdout=packed, check=True)
    assert check("-t", f"out.tar.{suffix}", "./big.tar") == (0, "up to date")


def as_go_packs(data: bytes) -> bytes:
    """Pack as Go's library does, whose header is the same as ours; so is that of Python 3.15."""
    coder = zlib.compressobj(wbits=-15)
    packed = coder.compress(data) + coder.flush()
    return GZIP_HEADER + packed + struct.pack("<II", zlib.crc32(data), len(data))


LIBRARY: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", partial(gzip.compress, mtime=5)),
    ("gzip", as_go_packs),
    ("bzip2", bz2.compress),
    ("xz", partial(lzma.compress, preset=0)),
]


@pytest.mark.parametrize(
    ("compression", "pack"), LIBRARY, ids=["gzip", "gzip-of-go", "bzip2", "xz"]
)
def test_end_of_a_tar_that_another_program_packed(
    tmp_path: Path, compression: str, pack: Callable[[bytes], bytes]
) -> None:
    """That of bzip2 lies at any bit of a byte."""
    path = tmp_path / "out.tar"
    record = pack(build_global_header(b'{"dimgx":1,"layers":[]}'))
    for number in range(24):
        data = record + pack(layer(file("a", b"%d" % number)))
        for lost in (0, 1, 4, 12):
            path.write_bytes(data[: len(data) - lost])
            (found,) = read_state(str(path)) or ()
            assert found.packing == compression
            assert found.problem == ("damaged: the tar ends wrongly" if lost else None), number


def test_target_that_is_neither_file_nor_directory(place: Path) -> None:
    os.mkfifo("pipe")
    for words in ("--check", "--update"):
        code, told = refused("./app.tar", words, "-t", "pipe")
        assert (code, "neither a file nor a directory" in told) == (2, True)


def test_directory_is_no_target_for_a_tar(place: Path) -> None:
    (place / "out").mkdir()
    for _ in range(2):
        for words in (["--check"], ["--update"], ["--update", "-w"]):
            code, told = refused("./app.tar", *words, "-t", "out")
            assert (code, "is a directory" in told) == (2, True)
        (place / "out" / "file").touch()


def test_target_that_may_not_be_read(place: Path) -> None:
    (place / "loop").symlink_to("loop")
    assert refused("./app.tar", "--check", "-t", "loop")[0] == 2


def test_link_is_followed(place: Path) -> None:
    (place / "link.tar").symlink_to("out.tar")
    assert check("-t", "link.tar", "./app.tar") == (5, "there is no target yet")
    update("-t", "link.tar", "./app.tar")
    assert (place / "link.tar").is_symlink()
    assert check("-t", "out.tar", "./app.tar") == (0, "up to date")


def test_failure_leaves_the_outdated_target(place: Path) -> None:
    update("-t", "out.tar", "./app.tar")
    before = (place / "out.tar").read_bytes()
    data = bytearray(docker_archive(NEXT))
    at = data.index(NEW) + 600
    data[at : at + 1] = b"?"
    (place / "damaged.tar").write_bytes(data)
    assert refused("./damaged.tar", "--update", "-t", "out.tar")[0] == 2
    assert (place / "out.tar").read_bytes() == before


def test_verbose_tells_why(place: Path) -> None:
    update("-t", "out.tar", "./app.tar")
    told = dimgx("--update", "-v", "-t", "out.tar", "./next.tar").stderr.decode()
    assert f"out.tar: layer 2 changed: {SHORT[1]} -> {SHORT[2]}\n" in told
    told = dimgx("--update", "-v", "-t", "out.tar", "./next.tar").stderr.decode()
    assert "out.tar: up to date\n" in told


# -- several targets -----------------------------------------------------------------------------


def test_targets_with_fields(place: Path) -> None:
    other = image(TOP, tags=("example/app:2.0",))
    (place / "other.tar").write_bytes(docker_archive(other))
    words = ("-t", "{name}-{tag}.tar", "./app.tar", "./other.tar")
    update("-t", "{name}-{tag}.tar", "./app.tar")
    done = dimgx("--check", *words, ok=False)
    assert done.returncode == 5
    assert done.stdout.decode().splitlines() == [
        "example-app-1.0.tar: up to date",
        "example-app-2.0.tar: there is no target yet",
    ]
    before = stamp("example-app-1.0.tar")
    update(*words)
    assert stamp("example-app-1.0.tar") == before
    assert dimgx("--check", *words).returncode == 0


def test_nothing_is_written_where_one_of_several_is_not_ours(place: Path) -> None:
    other = image(TOP, tags=("example/app:2.0",))
    (place / "other.tar").write_bytes(docker_archive(other))
    (place / "example-app-2.0.tar").write_bytes(BASE)
    code, told = refused("./app.tar", "--update", "-t", "{name}-{tag}.tar", "./other.tar")
    assert (code, "example-app-2.0.tar exists" in told) == (2, True)
    assert not (place / "example-app-1.0.tar").exists()


# -- --origin ------------------------------------------------------------------------------------


def origin(target: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(dimgx("--origin", target).stdout)
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_origin_is_shown(place: Path, suffix: str) -> None:
    update("-l", "@1", "-l", "@0", "-t", f"out{suffix}", "./app.tar")
    compression = {".tar": "none", ".tar.gz": "gzip", ".tar.bz2": "bzip2", ".tar.xz": "xz",
                   ".tar.zst": "zstd"}[suffix]  # fmt: skip
    assert origin(f"out{suffix}") == {
        "dimgx": 1,
        "layers": APP.diff_ids()[::-1],
        "form": "tar",
        "compression": compression,
    }


def test_origin_of_nothing(place: Path) -> None:
    assert refused_origin("missing.tar") == (
        2, "dimgx: missing.tar: there is nothing, so it has no origin\n"
    )  # fmt: skip
    (place / "empty").mkdir()
    assert refused_origin("empty")[0] == 2
    dimgx("-t", "out.tar", "./app.tar")
    told = "no record of what it was made from: --update writes one"
    what = "app.tar: image example/app:1.0 in it"
    assert refused_origin("app.tar") == (2, f"dimgx: {what} has {told}\n")
    assert refused_origin("out.tar") == (2, f"dimgx: out.tar has {told}\n")


def test_origin_in_a_directory_that_is_closed() -> None:
    with public_directory() as place:
        (place / "closed").mkdir(mode=0o300)
        script = f"import dimgx; dimgx.read_origin({str(place / 'closed')!r})"
        done = run_as_other(script, ok=False)
    assert b"dimgx.errors.SourceError: " in done.stderr and b"Permission denied" in done.stderr


def test_origin_of_standard_input(place: Path) -> None:
    code, told = refused_origin("-")
    assert (code, "not into standard input" in told) == (1, True)


def test_origin_by_the_library(place: Path) -> None:
    import dimgx as library

    with library.open_image("./app.tar") as opened:
        library.flatten(opened, "out.tar.xz", compression="xz", record=True)
        library.flatten(opened, "plain.tar")
    (made,) = library.read_origin("out.tar.xz")
    assert made.origin.layers == tuple(APP.diff_ids())
    assert (made.form, made.packing) == ("tar", "xz")
    with pytest.raises(library.ImageError, match="no record of what it was made from"):
        library.read_origin("plain.tar")
    with pytest.raises(library.SourceError, match="there is nothing"):
        library.read_origin("missing.tar")
