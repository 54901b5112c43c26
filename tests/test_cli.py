"""The command in a process of its own: what it prints, how it ends, what it leaves behind."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pty
import random
import re
import resource
import select
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.dsl import dir_, file, layer, whiteout
from tests.writers import docker_archive, docker_archive_v1, image, oci_archive

ROOT = Path(__file__).parent.parent
BASE = layer(dir_("etc"), file("etc/motd", b"hello\n"), file("etc/old", b"old"))
TOP = layer(whiteout("etc/old"), dir_("bin"), file("bin/app", b"\x7fELF", mode=0o755))
HISTORY = [
    {"created": "2024-01-01T00:00:00Z", "created_by": "ADD rootfs.tar /"},
    {"created": "2024-01-02T00:00:00Z", "created_by": "RUN a\tb\nc"},
    {"created": "2024-01-02T00:00:00Z", "created_by": 'CMD ["/bin/app"]', "empty_layer": True},
]
NAMES = ["bin", "bin/app", "etc", "etc/motd"]
PICTURE = image(BASE, TOP, history=HISTORY)
BASE_ID, TOP_ID = PICTURE.diff_ids()
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"} | {
    "PYTHONPATH": str(ROOT),
    "COLUMNS": "100",
}


def command(*args: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "dimgx", *args]


def run(
    *args: str, stdin: bytes | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run dimgx; `stdin` None is an empty one."""
    return subprocess.run(
        command(*args),
        input=stdin or b"",
        capture_output=True,
        cwd=cwd,
        env=ENVIRONMENT | environment,
        timeout=60,
        check=False,
    )


def start(*args: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(*args), env=ENVIRONMENT, **more)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "image.tar").write_bytes(docker_archive(PICTURE))
    return tmp_path


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def table(data: bytes) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("\t")] for line in data.decode().splitlines()]


def left(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


# -- listing --------------------------------------------------------------------------------------


def test_table(place: Path) -> None:
    done = run("./image.tar", cwd=place)
    assert (done.returncode, done.stderr) == (0, b"")
    rows = table(done.stdout)
    assert rows[0] == ["REPO TAG", "IMAGE ID", "PARENT ID", "CREATED", "LAYER SIZE",
                       "VIRTUAL SIZE", "@", "CREATED BY"]  # fmt: skip
    image_id, base, top = PICTURE.id()[:12], BASE_ID[7:19], TOP_ID[7:19]
    assert [row[:3] + row[4:] for row in rows[1:]] == [
        ["example/app:1.0", image_id, top, "0 Bytes", "6.7 kB", "2", 'CMD ["/bin/app"]'],
        ["-", top, base, "3.1 kB", "6.7 kB", "1", "RUN a b c"],
        ["-", base, "-", "3.6 kB", "3.6 kB", "0", "ADD rootfs.tar /"],
    ]
    assert all(row[3].endswith("ago") for row in rows[1:])


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["--help"],
        ["./image.tar"],
        ["-t", "-", "./image.tar"],
        ["-t", "out.tar", "./image.tar"],
        ["-l", "9", "-t", "out.tar", "./image.tar"],
        ["./nowhere.tar"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("redirection", ["", " >/dev/full", " >&-"])
def test_installed_program_says_and_makes_the_same(
    place: Path, words: list[str], redirection: str
) -> None:
    own = [sys.executable, "-W", "error", "-c", "from dimgx.cli import program; program()", *words]
    found = []
    for argv in (command(*words), own):
        done = subprocess.run(
            shlex.join(argv) + redirection, shell=True, capture_output=True, cwd=place,
            stdin=subprocess.DEVNULL, env=ENVIRONMENT, timeout=60, check=False,
        )  # fmt: skip
        made = {path.name: path.read_bytes() for path in place.iterdir()}
        found.append((done.returncode, done.stdout, done.stderr, made))
        (place / "out.tar").unlink(missing_ok=True)
    assert found[0] == found[1]


def test_quiet(place: Path) -> None:
    done = run("-q", "./image.tar", cwd=place)
    ids = [PICTURE.id()[:12], TOP_ID[7:19], BASE_ID[7:19]]
    assert done.stdout.decode().split("\n") == [*ids, ""]


def test_json(place: Path) -> None:
    done = run("--json", "./image.tar", cwd=place)
    document = json.loads(done.stdout)
    schema = (ROOT / "docs" / "listing.schema.json").read_text(encoding="utf-8")
    Draft202012Validator(json.loads(schema)).validate(document)
    assert document["image"]["id"] == f"sha256:{PICTURE.id()}"
    assert document["platform"] == {"os": "linux", "architecture": "amd64", "variant": None}
    rows = document["rows"]
    assert [row["diff_id"] for row in rows] == [None, TOP_ID, BASE_ID]
    assert [row["size"] for row in rows] == [0, len(TOP), len(BASE)]
    assert [row["empty"] for row in rows] == [True, False, False]
    assert rows[1]["created_by"] == "RUN a\tb\nc"


def test_json_of_compressed_layers_has_both_sizes(tmp_path: Path) -> None:
    picture = image(BASE, TOP, compression="gzip")
    (tmp_path / "i.tar").write_bytes(oci_archive(picture))
    document = json.loads(run("--json", "oci-archive:i.tar", cwd=tmp_path).stdout)
    assert [row["size"] for row in document["rows"]] == [len(TOP), len(BASE)]
    assert [row["stored_size"] for row in document["rows"]] == [
        len(blob) for blob in reversed(picture.blobs())
    ]
    assert all(row["digest"] != row["diff_id"] for row in document["rows"])


def test_ids_need_no_layer(tmp_path: Path) -> None:
    picture = image(BASE, TOP, compression="gzip")
    damaged = oci_archive(picture).replace(picture.blobs()[0][-8:], bytes(8))
    (tmp_path / "i.tar").write_bytes(damaged)
    assert run("oci-archive:i.tar", cwd=tmp_path).returncode == 2
    assert len(run("-q", "oci-archive:i.tar", cwd=tmp_path).stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], [2, 1, 0]),
        (["-r"], [0, 1, 2]),
        (["-l", "@0", "-l", "@2"], [2, 0]),
        (["-l", "@0", "-l", "@2", "-r"], [0, 2]),
        (["-l", "@0:@1", "-l", "@0"], [0, 1]),
        (["-l", "@-1:@0"], [0, 1, 2]),
        (["-l", BASE_ID[7:15]], [0]),
        (["-l", f"{BASE_ID[:20]}:example/app:1.0"], [2, 1, 0]),
    ],
)
def test_listing_shows_the_covering_row_first(
    place: Path, args: list[str], expected: list[int]
) -> None:
    rows = table(run(*args, "./image.tar", cwd=place).stdout)
    assert [int(row[6]) for row in rows[1:]] == expected


def test_v1_archive_lists_its_chain(tmp_path: Path) -> None:
    (tmp_path / "i.tar").write_bytes(docker_archive_v1(image(BASE, TOP)))
    rows = table(run("docker-archive:i.tar", cwd=tmp_path).stdout)
    assert len(rows) == 3
    assert rows[1][2] == rows[2][1]
    done = run("-l", rows[2][1], "-t", "-", "docker-archive:i.tar", cwd=tmp_path)
    assert names(done.stdout) == ["etc", "etc/motd", "etc/old"]


def test_table_on_a_terminal_is_cut_to_it(place: Path) -> None:
    picture = image(BASE, history=[{"created_by": "RUN " + "x" * 500}])
    (place / "i.tar").write_bytes(docker_archive(picture))
    lines = on_terminal("./i.tar", cwd=place)[1].splitlines()
    assert len(lines) == 2
    assert len(lines[1]) == 100
    assert lines[1].endswith("...")


# -- flattening -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "magic"),
    [
        ("o.tar", b"bin/"),
        ("o.tgz", b"\x1f\x8b"),
        ("o.tar.bz2", b"BZh"),
        ("o.txz", b"\xfd7zXZ"),
        ("o.tar.zst", b"\x28\xb5\x2f\xfd"),
    ],
)
def test_target(place: Path, target: str, magic: bytes) -> None:
    done = run("-t", target, "./image.tar", cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    data = (place / target).read_bytes()
    assert data.startswith(magic)
    if not target.endswith("zst"):
        assert names(data) == NAMES
    assert left(place) == sorted(["image.tar", target])


@pytest.mark.parametrize("target", ["-", "/dev/stdout", "/dev/fd/1"])
def test_standard_output(place: Path, target: str) -> None:
    done = run("-o", target, "./image.tar", cwd=place)
    assert (done.returncode, done.stderr) == (0, b"")
    assert names(done.stdout) == NAMES


@pytest.mark.parametrize("image_name", ["-", "-:example/app:1.0"])
def test_standard_input(place: Path, image_name: str) -> None:
    done = run("-t", "-", image_name, stdin=(place / "image.tar").read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert names(done.stdout) == NAMES


def test_verbose_tells_digests_and_size(place: Path) -> None:
    done = run("-v", "-z", "-t", "-", "./image.tar", cwd=place)
    lines = done.stderr.decode().splitlines()
    assert all(line.startswith("dimgx: ") for line in lines)
    assert lines[:3] == [
        f"dimgx: ./image.tar: image sha256:{PICTURE.id()}, platform linux/amd64",
        f"dimgx: layer 1/2: diff_id {BASE_ID}",
        f"dimgx: layer 2/2: diff_id {TOP_ID}",
    ]
    import hashlib

    wrote = f"{len(done.stdout)} bytes, sha256:{hashlib.sha256(done.stdout).hexdigest()}"
    assert lines[3] == f"dimgx: standard output: {wrote}"
    assert lines[4:] == [f"dimgx: the tar in it: {len(gzip.decompress(done.stdout))} bytes"]
    plain = run("-v", "-t", "-", "./image.tar", cwd=place)
    assert len(plain.stderr.splitlines()) == 4


@pytest.mark.parametrize(
    ("data", "facts", "first"),
    [
        (docker_archive_v1(PICTURE), "image HEX, platform linux/amd64", "no digest"),
        (
            oci_archive(PICTURE),
            "image sha256:HEX, manifest sha256:HEX, platform linux/amd64",
            f"blob sha256:HEX, diff_id {BASE_ID}",
        ),
    ],
)
def test_verbose_tells_the_digests_that_there_are(
    tmp_path: Path, data: bytes, facts: str, first: str
) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    lines = run("-v", "./a.tar", cwd=tmp_path).stderr.decode().splitlines()
    for line, told in zip(lines, (f"./a.tar: {facts}", f"layer 1/2: {first}"), strict=False):
        assert re.fullmatch(told.replace("HEX", "[0-9a-f]{64}"), line.removeprefix("dimgx: "))


def test_what_is_odd_about_images_is_warned_of_once(place: Path) -> None:
    pictures = [image(layer(file(name)), architecture="mips", tags=(f"{name}:1",)) for name in "ab"]
    (place / "mips.tar").write_bytes(docker_archive(*pictures))
    odd = r"dimgx: warning: the image is for linux/mips, not for \S+"
    for words in ([], ["-q"], ["-t", "o.tar"], ["-t", "-", "--format", "oci-archive"]):
        done = run(*words, "docker-archive:mips.tar:@0", cwd=place)
        assert re.fullmatch(f"{odd}\n", done.stderr.decode())
    both = ["docker-archive:mips.tar:@0", "docker-archive:mips.tar:@1"]
    done = run("-t", "{name}.tar", *both, cwd=place)
    assert re.fullmatch(rf"{odd} \(2 times\)\n", done.stderr.decode())


def test_log_format_shapes_every_line(place: Path) -> None:
    args = ["--log-format", "%(levelname)-8s: %(message)s", "-l", "f00d", "-l", "@0", "./image.tar"]
    assert run(*args, cwd=place).stderr.startswith(b"WARNING : a layer spec names no row")
    assert run(*args, "-s", cwd=place).stderr.startswith(b"ERROR   : no row")
    assert run("--log-level", "ERROR", *args, cwd=place).stderr == b""


def test_debug_tells_what_libraries_say(tmp_path: Path) -> None:
    words = ("-H", "tcp://127.0.0.1:1", "name")
    done = run("--log-level", "DEBUG", *words, DOCKER_CONFIG=str(tmp_path))
    assert done.stderr.startswith(b"dimgx: DEBUG: docker.")
    assert_one_line(run("--log-level", "INFO", *words, DOCKER_CONFIG=str(tmp_path)), 4)


def test_specs_that_name_no_row_leave_nothing_to_flatten(place: Path) -> None:
    done = run("-l", "f00d", "-l", "@7", "-t", "-", "./image.tar", cwd=place)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr == (
        b"dimgx: nothing is left to flatten: no row is named by f00d, @7; without a target the rows"
        b" are listed\n"
    )
    (place / "bare.tar").write_bytes(docker_archive(image()))
    for words, code in (([], 0), (["-l", "f00d"], 3)):
        assert run(*words, "-t", "-", "./bare.tar", cwd=place).returncode == code


def test_reversed_the_base_covers_what_is_above(place: Path) -> None:
    done = run("-r", "-t", "-", "./image.tar", cwd=place)
    assert sorted(names(done.stdout)) == [*NAMES, "etc/old"]


def test_clamp_mtime(place: Path) -> None:
    assert run("--clamp-mtime", "-t", "o.tar", "./image.tar", cwd=place).returncode == 1
    newer = image(layer(file("new", mtime=2000), file("old", mtime=5)))
    (place / "n.tar").write_bytes(docker_archive(newer))
    args = ["--clamp-mtime", "-t", "-", "./n.tar"]
    done = run(*args, cwd=place, SOURCE_DATE_EPOCH="1000")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert [member.mtime for member in tar] == [1000, 5]
    for bad in ("", "now", "-1", "1.5", "²", "9" * 13):
        assert run(*args, cwd=place, SOURCE_DATE_EPOCH=bad).returncode == 1
    # What nothing asks for may be anything.
    assert run("-t", "-", "./n.tar", cwd=place, SOURCE_DATE_EPOCH="now").returncode == 0


def test_temporary_files_lie_where_they_should(place: Path) -> None:
    script = """if True:
        import os, sys
        from dimgx.cli import main

        def hook(event, args):
            if event == "open" and "-place" in str(args[0]):
                os.write(1, (str(args[0]).partition("-place")[0] + "-place ").encode())

        sys.addaudithook(hook)
        sys.exit(main())
    """
    named, own, usual = (place / f"{name}-place" for name in ("named", "own", "usual"))

    def places(*words: str, **environment: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", script, "--memory", "0", "-t", "o.tar", "-w", *words, "-"],
            input=(place / "image.tar").read_bytes(), cwd=place, capture_output=True,
            env=ENVIRONMENT | environment, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        assert names((place / "o.tar").read_bytes()) == NAMES
        return list(dict.fromkeys(done.stdout.decode().split()))

    environment = {"DIMGX_TMPDIR": str(own), "TMPDIR": str(usual)}
    places(**environment)  # none of them is there
    for directory in (named, own, usual):
        directory.mkdir()
    assert places("--tmpdir", str(named), **environment) == [str(named)]
    assert places(**environment) == [str(own)]
    assert places(**environment | {"DIMGX_TMPDIR": ""}) == [str(usual)]
    assert left(named) + left(own) + left(usual) == []
    missing = run("--tmpdir", "nowhere", "./image.tar", cwd=place)
    assert missing.returncode == 2


def test_unknown_suffix_warns_but_a_device_does_not(place: Path) -> None:
    assert b"suffix" in run("-t", "out", "./image.tar", cwd=place).stderr
    assert run("-t", "/dev/null", "./image.tar", cwd=place).stderr == b""


def test_fifo_is_written_in_place(place: Path) -> None:
    os.mkfifo(place / "pipe")
    process = start("-t", "pipe", "./image.tar", cwd=place)
    assert names((place / "pipe").read_bytes()) == NAMES
    assert process.wait(30) == 0
    assert (place / "pipe").is_fifo()


@pytest.mark.parametrize(
    "target", ["/dev/fd/3", "/proc/self/fd/3", "/proc/thread-self/fd/3", "link"]
)
def test_descriptor_is_written_in_place(place: Path, target: str) -> None:
    (place / "link").symlink_to("/dev/fd/3")
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 3>out', "sh", *command("-t", target, "./image.tar")],
        cwd=place,
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert names((place / "out").read_bytes()) == NAMES


def test_options_after_the_image_and_double_dash(place: Path) -> None:
    assert run("./image.tar", "-q", cwd=place).returncode == 0
    assert run("-q", "--", "./image.tar", cwd=place).returncode == 0


@pytest.mark.parametrize("word", ["-V", "--version", "--load", "-q", "--", "-x.tar"])
def test_what_follows_a_double_dash_is_an_image(word: str, place: Path) -> None:
    done = run("-t", "new.tar", "--", word, cwd=place)
    assert done.stdout == b""
    assert word in assert_one_line(done, 2 if word.endswith(".tar") else 1)


@pytest.mark.parametrize(
    ("directory", "reason"),
    [
        ("missing", "its directory does not exist: make it first"),
        ("image.tar", "a part of its path is no directory"),
        ("loop", "too many symbolic links"),
    ],
)
@pytest.mark.parametrize("form", ["", "oci:"])
def test_directory_that_takes_no_target_is_told_by_its_reason(
    place: Path, directory: str, reason: str, form: str
) -> None:
    (place / "loop").symlink_to("loop")
    done = run("-t", f"{form}{directory}/o.tar", "./missing.tar", cwd=place)
    told = assert_one_line(done, 2)
    assert told == f"dimgx: {directory}/o.tar cannot be written: {reason}\n"


@pytest.mark.parametrize("target", ["o.tar", "docker-archive:o.tar", "oci:o", "dir:o"])
def test_target_that_exists_is_told_before_anything_is_opened(place: Path, target: str) -> None:
    assert run("-t", target, "./image.tar", cwd=place).returncode == 0
    told = assert_one_line(run("-t", target, "./missing.tar", cwd=place), 2)
    assert told.startswith(f"dimgx: {target.rpartition(':')[2]} exists")


@pytest.mark.parametrize("target", ["o.tar", "oci:o", "{name}.tar"])
def test_working_directory_that_is_gone_is_said_to_be(place: Path, target: str) -> None:
    (place / "gone").mkdir()
    words = command("-t", target, f"{place}/image.tar")
    done = subprocess.run(
        ["sh", "-c", 'rmdir ../gone && exec "$@"', "sh", *words],
        cwd=place / "gone",
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
        timeout=30,
    )
    told = assert_one_line(done, 2)
    assert told == "dimgx: the working directory is gone: run dimgx in one that is there\n"


# -- what is wrong --------------------------------------------------------------------------------


def assert_one_line(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert text.startswith("dimgx: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert done.stdout == b""
    return text


BAD = [
    ([], 1),
    (["--bogus", "./image.tar"], 1),
    (["a b:c d"], 1),
    (["-l", "@", "./image.tar"], 1),
    (["-l", "-1", "./image.tar"], 1),
    (["--platform", "linux/", "./image.tar"], 1),
    (["--log-format", "%(nothing", "./image.tar"], 1),
    (["--log-format", "%(nothing)s", "./image.tar"], 1),
    (["--log-format", "%(message)d", "./image.tar"], 1),
    (["--log-format", "", "./image.tar"], 1),
    (["--platforms", "--pull", "always", "./image.tar"], 1),
    (["-w", "--format", "docker-archive", "-t", "x", "docker-archive:-", "-:a"], 1),
    (["--platform", "linux/riscv64", "./image.tar"], 2),
    (["./missing.tar"], 2),
    (["docker-archive:missing.tar"], 2),
    (["./image.tar:nothing:1"], 2),
    (["./empty"], 2),
    (["./text"], 2),
    (["./"], 2),
    (["-"], 2),
    (["-t", "existing.tar", "./image.tar"], 2),
    (["-t", "no/such/dir.tar", "./image.tar"], 2),
    (["-w", "-t", "directory.tar", "./image.tar"], 2),
    (["-t", "o.tar", "./damaged.tar"], 2),
    (["-t", "-", "./damaged.tar"], 2),
    (["-t", "/dev/full", "./image.tar"], 2),
    (["-s", "-l", "f00d", "./image.tar"], 3),
    (["-s", "-l", "f00d", "-t", "o.tar", "./image.tar"], 3),
    (["-l", "f00d", "-t", "o.tar", "./image.tar"], 3),
    (["-l", "@2", "-t", "o.tar", "./image.tar"], 3),
    (["-l", "@2", "-t", "-", "./image.tar"], 3),
]


@pytest.mark.parametrize(("args", "code"), BAD, ids=lambda value: str(value))
def test_failure_is_one_line_a_code_and_nothing_else(
    place: Path, args: list[str], code: int
) -> None:
    (place / "empty").touch()
    (place / "text").write_text("no image\n" * 1000, encoding="utf-8")
    (place / "existing.tar").write_bytes(b"old")
    (place / "directory.tar").mkdir()
    good = (place / "image.tar").read_bytes()
    (place / "damaged.tar").write_bytes(good.replace(b"hello\n", b"hallo\n"))
    before = left(place)
    assert_one_line(run(*args, cwd=place), code)
    assert left(place) == before
    assert (place / "existing.tar").read_bytes() == b"old"


def test_every_truncation_of_a_compressed_archive_is_an_error(tmp_path: Path) -> None:
    data = docker_archive(PICTURE, archive_compression="gzip")
    for size in (1, 10, len(data) // 2, len(data) - 9, len(data) - 1):
        assert_one_line(run("-t", "-", "-", stdin=data[:size]), 2)


def test_platforms_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(docker_archive(image(layer(), os="li\n\x1b[31m")))
    done = run("--platforms", "a.tar", cwd=tmp_path)
    assert done.stdout.decode() == "li\\n\\x1b[31m/amd64\n"


def test_platforms_of_an_image_that_does_not_say_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(docker_archive(image(layer(), os="", architecture="")))
    for words in ([], ["--platform", "arm64"]):
        done = run("--platforms", *words, "a.tar", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_platforms_are_of_configs_that_match_their_digest(tmp_path: Path) -> None:
    changed = oci_archive(image(layer()), platforms=False).replace(b'"amd64"', b'"arm64"')
    (tmp_path / "a.tar").write_bytes(changed)
    assert_one_line(run("--platforms", "a.tar", cwd=tmp_path), 2)
    done = run("--verify", "none", "--platforms", "a.tar", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"linux/arm64\n")


def test_names_are_escaped_in_messages(tmp_path: Path) -> None:
    text = assert_one_line(run("./a\n\x1b[31mb.tar", cwd=tmp_path), 2)
    assert r"\x1b[31m" in text


def failing_with(error: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program where something raises `error`."""
    script = (
        "import sys, dimgx.console.options\n"
        f"def fail(*_): raise {error}\n"
        "dimgx.console.options.parse_args = fail\n"
        "from dimgx.cli import main\n"
        "sys.exit(main(['x']))"
    )
    return subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, check=False
    )


def test_bug_is_a_traceback_and_70() -> None:
    done = failing_with("RecursionError")
    assert done.returncode == 70
    assert done.stderr.startswith(b"Traceback")


def test_memory_that_is_out_is_no_bug() -> None:
    assert "--memory" in assert_one_line(failing_with("MemoryError"), 2)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("OSError(28, 'No space left on device')", "No space left on device"),
        ("OSError(28, 'No space left on device', '/x')", "/x: No space left on device"),
        ("OSError(2, 'No such file or directory', b'/x')", "/x: No such file or directory"),
        ("OSError('odd')", "odd"),
    ],
)
def test_what_the_system_refuses_is_no_bug(error: str, told: str) -> None:
    assert assert_one_line(failing_with(error), 2) == f"dimgx: {told}\n"


# -- terminals, closed files, pipes ---------------------------------------------------------------


def on_terminal(*args: str, cwd: Path, stream: str = "stdout") -> tuple[int, str, bytes]:
    """Run with a terminal as a stream; give the exit code, what it shows, the other output."""
    ours, theirs = pty.openpty()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: theirs}
    process = start(*args, cwd=cwd, stdin=subprocess.DEVNULL, **streams)
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 30)[0]:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out, err = process.communicate(timeout=30)
    return process.returncode, shown.decode().replace("\r\n", "\n"), out or err or b""


def test_terminal_gets_no_tar(place: Path) -> None:
    code, shown, err = on_terminal("-t", "-", "./image.tar", cwd=place)
    assert (code, shown) == (1, "")
    assert b"terminal" in err


@pytest.mark.parametrize("image", ["-", "-:app:1", "docker-archive:-", "oci-archive:-:app:1"])
def test_terminal_gives_no_image(place: Path, image: str) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        command(image), stdin=theirs, capture_output=True, env=ENVIRONMENT, check=False, timeout=30
    )
    os.close(ours)
    os.close(theirs)
    assert "terminal" in assert_one_line(done, 1)


def test_progress_is_drawn_on_a_terminal_and_gone_at_the_end(place: Path) -> None:
    code, shown, _ = on_terminal("-t", "o.tar", "./image.tar", cwd=place, stream="stderr")
    assert code == 0
    assert "writing" in shown
    assert "\n" not in shown
    assert shown.endswith("\r")
    code, shown, _ = on_terminal("-q", "-t", "p.tar", "./image.tar", cwd=place, stream="stderr")
    assert (code, shown) == (0, "")


def test_progress_of_what_is_only_looked_at(place: Path) -> None:
    """A compressed archive is decoded for it, and a stream is waited for."""
    packed = place / "packed.tar.gz"
    packed.write_bytes(gzip.compress((place / "image.tar").read_bytes()))
    for option in ("--json", "--platforms"):
        code, shown, out = on_terminal(option, "./packed.tar.gz", cwd=place, stream="stderr")
        assert code == 0
        assert out
        assert "reading" in shown
        assert "\n" not in shown
        assert shown.endswith("\r")


def run_redirected(redirection: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the program with one of its standard files as a shell's `redirection` has it."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command(*args)],
        cwd=cwd,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("args", "closed", "code"),
    [
        (["-t", "-", "./image.tar"], 1, 2),
        (["./image.tar"], 1, 2),
        (["-h"], 1, 2),
        (["-V"], 1, 2),
        (["--load", "-H", "unix:///no/such", "./image.tar"], 1, 2),
        (["--report", "-", "-t", "none.tar", "./image.tar"], 1, 2),
        (["-"], 0, 2),
        (["-t", "o.tar", "./image.tar"], 0, 0),
        (["-t", "o.tar", "./image.tar"], 1, 0),
        (["-t", "o.tar", "./image.tar"], 2, 0),
        (["./missing.tar"], 2, 2),
    ],
)
def test_closed_standard_file(place: Path, args: list[str], closed: int, code: int) -> None:
    done = run_redirected("<&-" if closed == 0 else f"{closed}>&-", *args, cwd=place)
    assert done.returncode == code
    if code and closed != 2:
        stream = "output" if closed else "input"
        assert f"standard {stream} is closed" in assert_one_line(done, code)
    assert "none.tar" not in left(place)
    if "o.tar" in args:
        assert names((place / "o.tar").read_bytes()) == NAMES


@pytest.mark.parametrize(
    "words",
    [
        *(["-t", f"/dev/fd/{number}"] for number in range(3, 8)),
        ["--write-config", "/dev/fd/3", "-t", "o.tar"],
        ["--report", "/dev/stdout", "--write-config", "o.json", "-t", "o.tar"],
    ],
)
def test_descriptor_that_is_not_open_is_no_file_that_was_opened_meanwhile(
    place: Path, words: list[str]
) -> None:
    """What a compressed archive is decoded to, or a file beside the result, could be written to."""
    (place / "image.tar.gz").write_bytes(gzip.compress((place / "image.tar").read_bytes()))
    done = run_redirected(">&-", *words, "./image.tar.gz", cwd=place)
    assert words[1] in assert_one_line(done, 2)
    assert left(place) == ["image.tar", "image.tar.gz"]


@pytest.mark.parametrize("args", [["./image.tar"], ["--json", "./image.tar"], ["-h"], ["-V"]])
def test_full_device_behind_standard_output(place: Path, args: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(*args), cwd=place, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE,
            check=False, timeout=30,
        )  # fmt: skip
    told = b"dimgx: stdout cannot be written: no space is left on its disk\n"
    assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["-v", "-t", "o.tar", "./image.tar"], 0),
        (["./missing.tar"], 2),
        (["--log-format", "%(message)s", "./missing.tar"], 2),
        (["--log-format", "%(message)s", "--json", "-q", "./image.tar"], 1),
    ],
)
@pytest.mark.parametrize(
    "begin", [["-m", "dimgx"], ["-c", "from dimgx.cli import program; program()"]]
)
def test_full_device_behind_standard_error_changes_no_exit_code(
    place: Path, args: list[str], code: int, begin: list[str]
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, *begin, *args], cwd=place, env=ENVIRONMENT | {"PYTHONUNBUFFERED": ""},
            stderr=full, check=False, timeout=30,
        )  # fmt: skip
    assert done.returncode == code


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_that_takes_a_part_only_is_an_error(
    tmp_path: Path, unbuffered: str
) -> None:
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            command("-h"), env=ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered}, stdout=out,
            stderr=subprocess.PIPE, check=False, timeout=30,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        )  # fmt: skip
    told = (
        b"dimgx: stdout cannot be written: a file may not be as large as that there (by `ulimit -f`"
        b", or its file system)\n"
    )
    assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_that_does_not_block_is_waited_for(
    tmp_path: Path, unbuffered: str
) -> None:
    history = [{"created_by": "x" * 1000, "empty_layer": True}] * 3000 + [{"created_by": "y"}]
    (tmp_path / "image.tar").write_bytes(docker_archive(image(BASE, history=history)))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen(
        command("--json", "./image.tar"), cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(writer)
    select.select([reader], [], [])
    with open(reader, "rb") as file:
        listed = file.read()
    assert (process.wait(30), process.communicate()[1]) == (0, b"")
    assert len(json.loads(listed)["rows"]) == 3001


def test_full_device_where_nothing_is_printed(place: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("-t", "o.tar", "./image.tar"), cwd=place, env=ENVIRONMENT, stdout=full,
            stderr=subprocess.PIPE, check=False, timeout=30,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("args", [["-t", "-", "./big.tar"], ["./big.tar"], ["-h"], ["-V"]])
def test_reader_that_goes_away_ends_it_quietly(place: Path, args: list[str]) -> None:
    make_big(place)
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*args, cwd=place, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (-signal.SIGPIPE, b"")


# -- signals --------------------------------------------------------------------------------------


def make_big(place: Path) -> None:
    data = os.urandom(1 << 20) * 24
    (place / "big.tar").write_bytes(docker_archive(image(layer(file("big", data)))))


def wait_for(found: Any, timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_writing(process: subprocess.Popen[bytes], place: Path) -> bool:
    """Tell whether a part of the target is there, with a temporary name or with none."""
    for path in (*place.glob("*.tmp"), *Path(f"/proc/{process.pid}/fd").glob("*")):
        with contextlib.suppress(OSError):  # it has just gone
            is_target = path.parent == place or re.fullmatch(
                rf"{place}/.* \(deleted\)", os.readlink(path)
            )
            if is_target and path.stat().st_size > 0:
                return True
    return False


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU]
)
@pytest.mark.parametrize("existing", [False, True])
def test_signal_in_the_middle_leaves_nothing(
    place: Path, number: signal.Signals, existing: bool
) -> None:
    make_big(place)
    if existing:
        (place / "o.tar.bz2").write_bytes(b"old")
    before = left(place)
    process = start("-w", "-j", "-t", "o.tar.bz2", "./big.tar", cwd=place, stderr=subprocess.PIPE)
    wait_for(lambda: is_writing(process, place))
    process.send_signal(number)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (-number, b"")
    assert left(place) == before
    if existing:
        assert (place / "o.tar.bz2").read_bytes() == b"old"


def test_limit_of_processor_time_that_a_thread_reaches(place: Path) -> None:
    data = random.Random(1).randbytes(24 << 20)
    (place / "big.tar").write_bytes(docker_archive(image(layer(file("a", data)))))
    before = left(place)
    process = start(
        "-J", "--threads", "2", "-t", "o.tar.xz", "./big.tar", cwd=place, stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (1, 4)),
    )  # fmt: skip
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGXCPU, b"")
    assert left(place) == before


def assert_terminated(
    place: Path, script: str, number: int = signal.SIGTERM, words: Sequence[str] = ("-t", "o.tar")
) -> None:
    """See that a run ends by the signal that `script`, which runs before it, makes come."""
    script += f"from dimgx.cli import main\nsys.exit(main({[*words, './image.tar']}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, env=ENVIRONMENT, capture_output=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (-number, b"", b"")
    assert left(place) == ["image.tar"]


@pytest.mark.parametrize("function", ["__enter__", "__exit__"])
@pytest.mark.parametrize("event", ["call", "c_return", "return"])
def test_signal_while_a_condition_is_entered_or_left_loses_no_lock(
    place: Path, function: str, event: str
) -> None:
    """The thread that compresses would wait for that lock, and its end be waited for."""
    make_big(place)
    (place / "big.tar").replace(place / "image.tar")
    script = (
        "import os, signal, sys, threading\n"
        f"code = threading.Condition.{function}.__code__\n"
        "def look(frame, event, arg):\n"
        f"    if frame.f_code is code and event == {event!r}:\n"
        "        if frame.f_back.f_code.co_qualname == 'Future.result':\n"
        "            sys.setprofile(None)\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.setprofile(look)\n"
    )
    assert_terminated(place, script, words=("-t", "o.tar.bz2"))


@pytest.mark.parametrize(
    ("module", "function", "words"),
    [
        ("dimgx.console.outputs", "make", ["-t", "o.tar"]),
        ("dimgx.api", "open_image", []),
        ("dimgx.api", "list_platforms", ["--platforms"]),
    ],
)
def test_signal_that_comes_while_an_object_is_finalised_still_ends_the_run(
    place: Path, module: str, function: str, words: list[str]
) -> None:
    """Python drops what a handler raises there."""
    (place / "image.tar").write_bytes(gzip.compress((place / "image.tar").read_bytes()))
    script = (
        f"import os, signal, sys, {module}\n"
        "class Dying:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        sum(range(1000))\n"
        f"function = {module}.{function}\n"
        "def late(*args, **more):\n"
        "    Dying()\n"
        "    return function(*args, **more)\n"
        f"{module}.{function} = late\n"
    )
    assert_terminated(place, script, words=words)


def test_signal_that_comes_when_nothing_asks_for_it_any_more_ends_the_run(
    place: Path,
) -> None:
    script = (
        "import os, signal, sys, dimgx.console.outputs\n"
        "class Dying:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        sum(range(1000))\n"
        "dimgx.console.outputs.make = lambda *_: (Dying(), 0)[1]\n"
    )
    assert_terminated(place, script)


def test_what_else_is_raised_while_an_object_is_finalised_is_told(place: Path) -> None:
    script = (
        "import sys, dimgx.console.outputs\n"
        "class Dying:\n"
        "    def __del__(self):\n"
        "        raise ValueError('lost')\n"
        "dimgx.console.outputs.make = lambda *_: (Dying(), 0)[1]\n"
        "from dimgx.cli import main\n"
        "sys.exit(main(['-t', 'o.tar', './image.tar']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, env=ENVIRONMENT, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, b"ValueError: lost")


def test_signal_that_comes_while_a_thread_is_started_leaves_that_alone(place: Path) -> None:
    """Else its start lets go of a lock that it does not have."""
    script = (
        "import os, signal, sys, threading, time\n"
        "let_go, sent = threading.Condition._release_save, []\n"
        "def late(condition):\n"
        "    let_go(condition)\n"
        "    sent or os.kill(os.getpid(), signal.SIGTERM)\n"
        "    sent.append(condition)\n"
        "threading.Condition._release_save = late\n"
        # One that has begun by then is not waited for.
        "begin = threading.Thread._bootstrap_inner\n"
        "def when_waited_for(thread):\n"
        "    while not sent:\n"
        "        time.sleep(0.001)\n"
        "    begin(thread)\n"
        "threading.Thread._bootstrap_inner = when_waited_for\n"
    )
    assert_terminated(place, script)


def test_signal_that_comes_while_zstd_works_does_not_wait_for_it(place: Path) -> None:
    """At level 19 one call may take half a minute; here it takes an hour."""
    script = (
        "import hashlib, os, signal, sys, types, dimgx.encode\n"
        "class Coder:\n"
        "    def __init__(self, **_):\n"
        "        self.compressobj = lambda: self\n"
        "    def compress(self, data):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        hashlib.pbkdf2_hmac('sha256', b'', b'', 1 << 31)\n"
        "zstd = types.SimpleNamespace(ZstdCompressor=Coder, ZstdError=OSError)\n"
        "dimgx.encode.load_zstd = lambda: zstd\n"
    )
    assert_terminated(place, script, words=("-t", "o.tar", "--zstd", "--compress-level", "19"))


def test_signal_that_comes_while_modules_are_loaded_waits_for_that(place: Path) -> None:
    """Else they are half there, as `threading` is here."""
    script = (
        "import os, signal, sys\n"
        "for name in ('threading', '_weakrefset'):\n"
        "    sys.modules.pop(name, None)\n"
        "class Finder:\n"
        "    def find_spec(name, *_):\n"
        "        if name == '_weakrefset':\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    assert_terminated(place, script)


def test_signal_that_waited_and_was_asked_for_does_not_interrupt_the_clean_up(place: Path) -> None:
    """The timer that is to come back to it may be late."""
    script = (
        "import os, signal, sys, dimgx.console.outputs\n"
        "class Finder:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'missing':\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Finder)\n"
        "def make(chosen, context):\n"
        "    open('late', 'w').close()\n"
        "    open('rest', 'w').close()\n"
        "    try:\n"
        "        import missing\n"
        "    except ImportError:\n"
        "        os.unlink('late')\n"
        "        context.cancel()\n"
        "    finally:\n"
        "        signal.raise_signal(signal.SIGALRM)\n"
        "        os.unlink('rest')\n"
        "dimgx.console.outputs.make = make\n"
    )
    assert_terminated(place, script)


def test_alarm_that_was_set_before_the_start_ends_it(place: Path) -> None:
    script = (
        "import os, signal, sys, dimgx.console.outputs\n"
        "dimgx.console.outputs.make = lambda *_: os.kill(os.getpid(), signal.SIGALRM)\n"
    )
    assert_terminated(place, script, signal.SIGALRM)


def test_signals_that_come_together_are_one(place: Path) -> None:
    """The one that is seen later is not told of."""
    script = (
        "import os, signal, sys, dimgx.console.outputs\n"
        "make, both = dimgx.console.outputs.make, (signal.SIGINT, signal.SIGTERM)\n"
        "def late(*args):\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, both)\n"
        "    for number in both:\n"
        "        os.kill(os.getpid(), number)\n"
        "    signal.pthread_sigmask(signal.SIG_UNBLOCK, both)\n"
        "    return make(*args)\n"
        "dimgx.console.outputs.make = late\n"
    )
    assert_terminated(place, script, signal.SIGINT)


def test_signal_while_standard_input_is_awaited(place: Path) -> None:
    make_big(place)
    process = start("-t", "o.tar", "-", cwd=place, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    # More than a pipe holds, so that it is being read when this returns.
    process.stdin.write((place / "big.tar").read_bytes()[: 3 << 20])
    process.stdin.flush()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    assert process.communicate()[1] == b""
    assert left(place) == ["big.tar", "image.tar"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGALRM])
def test_ignored_signal_stays_ignored(place: Path, number: signal.Signals) -> None:
    make_big(place)
    process = start(
        "-t", "o.tar.bz2", "./big.tar", cwd=place,
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
    )  # fmt: skip
    wait_for(lambda: is_writing(process, place))
    process.send_signal(number)
    assert process.wait(30) == 0


def test_ignored_end_of_children_does_not_hide_how_they_ended(tmp_path: Path) -> None:
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\necho 'Error: x: image not known' >&2; exit 125\n")
    podman.chmod(0o755)
    done = subprocess.run(
        command("podman:x"), env=ENVIRONMENT | {"PATH": str(tmp_path)}, capture_output=True,
        check=False, timeout=30, preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )  # fmt: skip
    assert "has no image 'x'" in assert_one_line(done, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="nothing tells how much is in use")
def test_little_address_space_is_enough(place: Path) -> None:
    script = (
        "import resource, sys\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "most = pages * resource.getpagesize() + (28 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "from dimgx.cli import main\n"
        "sys.exit(main(['--threads=1', '-t', 'o.tar', './image.tar']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, env=ENVIRONMENT, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert names((place / "o.tar").read_bytes()) == NAMES


@pytest.mark.parametrize("is_for_good", [False, True])
def test_many_layers_where_few_files_may_be_open(place: Path, is_for_good: bool) -> None:
    """The bound that a user may raise is raised."""
    resource = pytest.importorskip("resource")
    layers = [layer(file(f"f{n}", b"")) for n in range(40)]
    (place / "many.tar").write_bytes(docker_archive(image(*layers, compression="gzip")))

    def allow_few() -> None:
        hard = 24 if is_for_good else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, hard))

    done = subprocess.run(
        command("-t", "o.tar", "./many.tar"), cwd=place, env=ENVIRONMENT, capture_output=True,
        preexec_fn=allow_few, check=False, timeout=60,
    )  # fmt: skip
    if is_for_good:
        told = "dimgx: too many files are open: raise `ulimit -n`\n"
        assert assert_one_line(done, 2) == told
    else:
        assert (done.returncode, done.stderr) == (0, b"")
    assert (place / "o.tar").exists() != is_for_good


@pytest.mark.parametrize(
    ("is_it", "error"), [("'image.tar' in path", "EMFILE"), ("flags & os.O_RDWR", "ENFILE")]
)
def test_too_many_files_are_told_so_whatever_was_to_be_opened(
    place: Path, is_it: str, error: str
) -> None:
    script = (
        "import errno, os, sys\n"
        "open_ = os.open\n"
        "def few(path, flags, *args):\n"
        f"    if {is_it}:\n"
        f"        raise OSError(errno.{error}, 'Too many open files')\n"
        "    return open_(path, flags, *args)\n"
        "os.open = few\n"
        "from dimgx.cli import main\n"
        "sys.exit(main(['-t', 'o.tar', './image.tar']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, env=ENVIRONMENT, capture_output=True, check=False
    )
    assert assert_one_line(done, 2) == "dimgx: too many files are open: raise `ulimit -n`\n"


# -- the rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str) -> None:
    import dimgx

    assert run(option).stdout == f"dimgx {dimgx.__version__}\n".encode()
    assert run("-q", option).stdout == f"dimgx {dimgx.__version__}\n".encode()


def test_help() -> None:
    done = run("-h")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: dimgx [options] [-l LAYER_SPEC]... [-t TARGET] IMAGE")


def commands_differ(first: Sequence[str], second: Sequence[str], place: Path) -> bool:
    return run(*first, cwd=place).stdout != run(*second, cwd=place).stdout


def test_same_bytes_from_any_form_and_number_of_threads(place: Path) -> None:
    (place / "oci.tar").write_bytes(oci_archive(image(BASE, TOP, compression="zstd")))
    plain = ["-t", "-", "./image.tar"]
    assert not commands_differ(plain, ["-t", "-", "--threads", "1", "oci-archive:oci.tar"], place)
    assert not commands_differ(
        ["-z", "--threads", "1", *plain], ["-z", "--threads", "3", *plain], place
    )


def test_listing_in_an_encoding_that_lacks_its_letters(tmp_path: Path) -> None:
    picture = image(BASE, history=[{"created_by": "MAINTAINER Jérôme 漢"}])
    (tmp_path / "i.tar").write_bytes(docker_archive(picture))
    done = run("./i.tar", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"MAINTAINER J\xe9r\xf4me \u6f22" in done.stdout


def test_target_behind_a_dangling_link_is_made(place: Path) -> None:
    (place / "link.tar").symlink_to("behind.tar")
    assert run("-t", "link.tar", "./image.tar", cwd=place).returncode == 0
    assert (place / "link.tar").is_symlink()
    assert names((place / "behind.tar").read_bytes()) == NAMES
