"""What the command writes beside the result: --write-config and --report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tests.dsl import file, layer
from tests.listing import list_tar
from tests.programs import CHECKOUT, dimgx, need, need_root, refused, run
from tests.results import files_of
from tests.services import Engine, busybox
from tests.writers import Picture, dir_image, docker_archive, image, oci_layout

SETTINGS = {
    "Env": ["PATH=/usr/bin:/bin", "SAYS=it's"],
    "Entrypoint": ["/bin/echo"],
    "Cmd": ["a b", "c"],
    "WorkingDir": "/srv",
    "User": "1000",
}
PICTURE = image(
    layer(file("srv/x", b"x"), file("srv/y")),
    tags=("example/app:1.0",),
    config={"config": SETTINGS},
)
SCHEMA = json.loads((CHECKOUT / "docs" / "report.schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "image.tar").write_bytes(docker_archive(PICTURE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def valid(text: bytes | str) -> dict[str, object]:
    document = json.loads(text)
    Draft202012Validator(SCHEMA).validate(document)
    return document  # type: ignore[no-any-return]  # it is JSON


def test_both_beside_a_tar(place: Path) -> None:
    done = dimgx("-t", "o.tar.gz", "--write-config", "c.json", "--report", "r.json", "./image.tar")
    assert (done.stdout, done.stderr) == (b"", b"")
    assert left(place) == ["c.json", "image.tar", "o.tar.gz", "r.json"]
    assert json.loads((place / "c.json").read_bytes())["config"] == SETTINGS
    (output,) = valid((place / "r.json").read_bytes())["outputs"]  # type: ignore[misc]
    assert output["target"] == "o.tar.gz"
    assert output["size"] == (place / "o.tar.gz").stat().st_size


def test_fragment_starts_what_the_image_starts(place: Path) -> None:
    dimgx("-t", "o.tar", "--write-config", "c.sh", "./image.tar")
    script = '. ./c.sh && echo "$WORKDIR $USER $SAYS" && eval "exec env -- $ENV $ENTRYPOINT $CMD"'
    done = subprocess.run(
        [need("sh"), "-euc", script], cwd=place, capture_output=True, text=True, check=True
    )
    assert done.stdout == "/srv 1000 it's\na b c\n"


def test_config_is_the_same_from_every_source(place: Path) -> None:
    oci_layout(place / "layout", PICTURE)
    dir_image(place / "dir", PICTURE)
    for suffix in (".json", ".sh"):
        texts = {
            dimgx("-t", f"{kind}{suffix}.tar", "--write-config", f"{kind}{suffix}", reference)
            and (place / f"{kind}{suffix}").read_text()
            for kind, reference in {
                "a": "./image.tar", "b": "oci:layout", "c": "dir:dir"
            }.items()
        }  # fmt: skip
        assert len(texts) == 1, texts


@pytest.mark.parametrize(
    ("words", "is_report"), [(["--report", "-"], True), (["--write-config", "-"], False)]
)
def test_to_standard_output(place: Path, words: list[str], is_report: bool) -> None:
    done = dimgx("-t", "o.tar", *words, "./image.tar")
    assert left(place) == ["image.tar", "o.tar"]
    document = json.loads(done.stdout)
    assert ("config" in document) is not is_report
    if is_report:
        valid(done.stdout)


def test_beside_a_tar_on_standard_output(place: Path) -> None:
    done = dimgx("-t", "-", "--report", "r.json", "--write-config", "c.sh", "./image.tar")
    assert list_tar(done.stdout)
    (output,) = valid((place / "r.json").read_bytes())["outputs"]  # type: ignore[misc]
    assert (output["target"], output["size"]) == ("-", len(done.stdout))
    dimgx("-w", "-t", "-", "--report", "r.json", "--write-config", "c.sh", "./image.tar")


def test_report_tells_warnings_and_phases(place: Path) -> None:
    dimgx("-t", "o.strange", "-l", "@0", "-l", "f00d", "--report", "r.json", "./image.tar")
    document = valid((place / "r.json").read_bytes())
    assert document["warnings"] == [
        {"text": "a layer spec names no row and is left out: f00d", "count": 1},
        {"text": "the target's suffix is not known, so a plain tar is written", "count": 1},
    ]
    seconds = document["seconds"]
    assert list(seconds) == ["open", "read", "plan", "write", "check", "publish", "total"]  # type: ignore[call-overload]


def test_one_report_of_several_targets(place: Path) -> None:
    other = image(layer(file("y", b"y")), tags=("example/app:2.0",))
    (place / "other.tar").write_bytes(docker_archive(other))
    dimgx("-t", "{tag}.tar", "--report", "r.json", "./image.tar", "./other.tar")
    document = valid((place / "r.json").read_bytes())
    targets = [output["target"] for output in document["outputs"]]  # type: ignore[attr-defined]
    assert targets == ["1.0.tar", "2.0.tar"]
    assert len(document["images"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [[], ["-w"]])
@pytest.mark.parametrize("target", ["o.tar", "oci:o", "{tag}.tar"])
def test_what_is_up_to_date_keeps_its_report(place: Path, target: str, words: list[str]) -> None:
    update = ["--update", *words, "-t", target, "--report", "r.json", "--write-config", "c.json"]
    dimgx(*update, "./image.tar")
    before = files_of(place)
    (place / "c.json").write_bytes(b"old")
    done = dimgx(*update, "./image.tar")
    assert (done.stderr, files_of(place)) == (b"", before)

    (place / "r.json").unlink()
    done = dimgx(*update, "./image.tar")
    assert done.stderr == b"dimgx: warning: all is up to date, so r.json is not written\n"
    assert left(place) == sorted({name.partition("/")[0] for name in before} - {"r.json"})

    for stream in ("-", "/dev/stdout"):
        done = dimgx("--update", "-t", target, "--report", stream, "./image.tar")
        document = valid(done.stdout)
        assert (document["images"], document["outputs"], done.stderr) == ([], [], b"")


@pytest.mark.parametrize("words", [[], ["--keep-layers"], ["--exclude", "/srv/y"]])
@pytest.mark.parametrize("target", ["docker-archive:o", "oci-archive:o", "oci:o", "dir:o"])
def test_beside_an_image(place: Path, target: str, words: list[str]) -> None:
    beside = ["--report", "r.json", "--write-config", "c.json"]
    dimgx("-t", target, *words, *beside, "./image.tar")
    document = valid((place / "r.json").read_bytes())
    (output,) = document["outputs"]  # type: ignore[misc]
    assert output["target"] == "o"
    assert len(output["images"]) == 1
    assert json.loads((place / "c.json").read_bytes())["config"] == SETTINGS


# Ends with an error where it waits for the disk.
UNSYNCED = """
import os, sys
from dimgx.cli import main

def fail(fd):
    raise OSError(5, "waits for the disk")

os.fsync = fail
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [["-t", "o.tar.gz"], ["-t", "o.tar", "--raw"], ["-t", "oci:o"]])
def test_no_file_of_a_run_waits_for_the_disk_without_sync(place: Path, words: list[str]) -> None:
    words = [*words, "--write-config", "c.json"]
    words += [] if "--raw" in words else ["--report", "r.json"]
    for more, code in (([], 2), (["--no-sync"], 0)):
        command = [sys.executable, "-c", UNSYNCED, *words, *more, "./image.tar"]
        done = run(command, ok=False, env={"PYTHONPATH": str(CHECKOUT)})
        assert (done.returncode, b"cannot be written" in done.stderr) == (code, code == 2)
    assert {"c.json"} < set(left(place))


@pytest.mark.parametrize("option", ["--report", "--write-config"])
def test_existing_file_is_replaced_only_with_force(place: Path, option: str) -> None:
    (place / "beside").write_bytes(b"old")
    code, told = refused("./image.tar", "-t", "o.tar", option, "beside")
    assert code == 2
    assert "beside exists" in told
    assert left(place) == ["beside", "image.tar"]
    assert (place / "beside").read_bytes() == b"old"
    dimgx("-w", "-t", "o.tar", option, "beside", "./image.tar")
    assert json.loads((place / "beside").read_bytes())


@pytest.mark.parametrize(
    "words",
    [
        ["-t", "o", "--report", "o"],
        ["-t", "o", "--write-config", "./o"],
        ["-t", "o", "--report", "o/r"],
        ["-t", "o", "--report", "b", "--write-config", "b"],
        ["--load", "-H", "unix:///no/such", "--report", "b", "--write-config", "b"],
        ["-t", "-", "--report", "-"],
        ["-t", "-", "--write-config", "-"],
        ["-t", "o", "--report", "-", "--write-config", "-"],
        ["-t", "-", "--report", "-", "-w"],
        ["--report", "r"],
        ["--write-config", "c"],
    ],
)
def test_what_cannot_go_together(place: Path, words: list[str]) -> None:
    code, _ = refused("./image.tar", *words)
    assert code == 1
    assert left(place) == ["image.tar"]


@pytest.mark.parametrize(
    "words",
    [
        ["-t", "-", "--write-config", "/dev/stdout"],
        ["-t", "-", "--report", "out"],
        ["-t", "link", "--report", "-"],
        ["-t", "/dev/fd/1", "--write-config", "link"],
        ["-t", "o", "--report", "-", "--write-config", "link"],
        ["--load", "-H", "unix:///no/such", "--report", "/dev/fd/1"],
    ],
)
def test_one_thing_goes_to_standard_output_whatever_it_is_called(
    place: Path, words: list[str]
) -> None:
    (place / "link").symlink_to("/dev/stdout")
    command = [sys.executable, "-m", "dimgx", "-w", *words, "./image.tar"]
    with (place / "out").open("wb") as out:
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.PIPE, env={"PYTHONPATH": str(CHECKOUT)}
        )
    assert done.returncode == 1
    assert b"would both go to standard output" in done.stderr
    assert (place / "out").read_bytes() == b""
    assert left(place) == ["image.tar", "link", "out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
@pytest.mark.parametrize("option", ["--report", "--write-config"])
def test_what_cannot_be_printed_leaves_the_result(place: Path, option: str) -> None:
    command = [sys.executable, "-m", "dimgx", "-t", "o.tar", option, "-", "./image.tar"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env={"PYTHONPATH": str(CHECKOUT)}
        )
    assert done.returncode == 2
    assert done.stderr == b"dimgx: stdout cannot be written: no space is left on its disk\n"
    assert list_tar((place / "o.tar").read_bytes())


def test_what_goes_nowhere_may_do_so_together(place: Path) -> None:
    command = [sys.executable, "-m", "dimgx", "-t", "-", "--report", "/dev/null", "./image.tar"]
    env = {"PYTHONPATH": str(CHECKOUT)}
    assert subprocess.run(command, stdout=subprocess.DEVNULL, env=env).returncode == 0


@pytest.mark.parametrize("option", ["--report", "--write-config"])
@pytest.mark.parametrize("target", ["oci:k", "dir:k"])
def test_neither_is_in_a_target_that_is_a_directory(place: Path, target: str, option: str) -> None:
    (place / "link").symlink_to("k/r.json")

    def refuse(*words: str) -> None:
        before = files_of(place)
        for path in ("k/r.json", "k/blobs/r.json", "link"):
            code, told = refused("./image.tar", *words, "-t", target, option, path)
            assert (code, files_of(place)) == (1, before)
            assert f"{path} would be inside the target k: name a place outside it" in told

    refuse()
    (place / "k").mkdir()
    refuse()
    dimgx("--update", "-t", target, option, "k.json", "./image.tar")
    refuse("-w")
    refuse("--update")


WITHIN = [
    ("-t", "own/o.tar"),
    ("-t", "own/sub/o.tar"),
    ("-t", "link.tar"),
    ("-t", "oci:own/k"),
    ("-t", "own/{tag}.tar"),
    ("-t", "o.tar", "--report", "own/r.json"),
    ("-t", "o.tar", "--write-config", "own/sub/c.json"),
]


@pytest.mark.parametrize("words", WITHIN, ids=lambda words: words[-1])
def test_nothing_is_written_into_what_is_added(place: Path, words: tuple[str, ...]) -> None:
    (place / "own" / "sub").mkdir(parents=True)
    (place / "link.tar").symlink_to("own/o.tar")
    before = left(place / "own")
    for how in ([], ["-w"], ["--update"], ["--check"][: len(words) < 3]):
        code, told = refused("./image.tar", *how, "--add-layer", "own", *words)
        assert code == 1
        assert "inside own, which is added: name a place outside it" in told
    assert left(place / "own") == before
    dimgx("./image.tar", "--add-layer", "own", "-t", "owner.tar")


@pytest.mark.skipif(sys.platform != "linux", reason="nothing tells where standard output leads")
@pytest.mark.parametrize("target", ["-", "/dev/stdout"])
def test_standard_output_does_not_lead_into_what_is_added(place: Path, target: str) -> None:
    (place / "own").mkdir()
    command = [sys.executable, "-m", "dimgx", "-t", target, "--add-layer", "own", "./image.tar"]
    for out, code in (("own/o.tar", 1), ("o.tar", 0)):
        with (place / out).open("wb") as file:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.PIPE, env={"PYTHONPATH": str(CHECKOUT)}
            )
        assert done.returncode == code
        assert (b"inside own, which is added" in done.stderr) == bool(code)
    # A pipe leads nowhere, and `-` is no file there.
    assert dimgx("-t", target, "--add-layer", ".", "./image.tar").stdout


@pytest.mark.parametrize("option", ["--report", "--write-config"])
@pytest.mark.parametrize(
    ("target", "path", "problem"),
    [
        ("{name}.json", "example-app.json", "need a file each"),
        ("{name}.json", "link", "need a file each"),
        ("oci:{tag}", "1.0/r.json", "1.0/r.json would be inside the target 1.0"),
    ],
)
def test_neither_is_what_a_target_with_fields_comes_to(
    place: Path, target: str, path: str, problem: str, option: str
) -> None:
    (place / "1.0").mkdir()
    (place / "link").symlink_to("example-app.json")
    for words in ([], ["-w"], ["--update"]):
        code, told = refused("./image.tar", *words, "-t", target, option, path)
        assert code == 1
        assert problem in told
        assert left(place) == ["1.0", "image.tar", "link"]
        assert left(place / "1.0") == []
    # The fields are no part of a name here.
    dimgx("-t", target, option, "{name}.json", "./image.tar")


@pytest.mark.parametrize("option", ["--report", "--write-config"])
def test_missing_directory_is_told_before_the_work(place: Path, option: str) -> None:
    code, told = refused("./image.tar", "-t", "o.tar", option, "no/such/file")
    assert code == 2
    assert "its directory does not exist" in told
    assert left(place) == ["image.tar"]


def broken(place: Path, picture: Picture) -> None:
    data = docker_archive(picture)
    (place / "bad.tar").write_bytes(data.replace(b"srv/x\0", b"srv/y\0"))


def test_failure_leaves_neither(place: Path) -> None:
    broken(place, PICTURE)
    code, _ = refused("./bad.tar", "-t", "o.tar", "--report", "r.json", "--write-config", "c.sh")
    assert code == 2
    assert left(place) == ["bad.tar", "image.tar"]


def test_config_that_cannot_be_told_leaves_no_target(place: Path) -> None:
    for bad, suffix in (({"Env": 7}, "json"), ({"User": "a\0b"}, "sh")):
        (place / "bad.tar").write_bytes(
            docker_archive(image(layer(file("x")), config={"config": bad}))
        )
        code, told = refused("./bad.tar", "-t", "o.tar", "--write-config", f"c.{suffix}")
        assert code == 2
        assert "config" in told
        assert left(place) == ["bad.tar", "image.tar"]


BUILT = r"""FROM scratch
COPY root/ /
ENV SAYS="it's a \"day\" \$HOME" USER=app
WORKDIR /srv/here
USER 1000:100
LABEL a=b
ENTRYPOINT ["/bin/sh", "-c", "echo \"$0 $1 $SAYS $USER $(pwd)\""]
CMD ["a  b", "c"]
"""
SAID = 'a  b c it\'s a "day" $HOME app /srv/here\n'


def check_engine(engine: Engine, name: str, place: Path) -> None:
    """Compare the settings from an engine with those of what it saves; start what they say."""
    shell = {"root/bin/sh": busybox(), "root/bin/pwd": busybox(), "root/srv/here/file": b""}
    engine.build(name.removeprefix("podman:"), shell, BUILT)
    saved = engine.run("save", name.removeprefix("podman:"))
    for suffix in ("json", "sh"):
        beside = ["--write-config", f"engine.{suffix}"]
        # What is asked for first: one row, and so a part of the image or all of it.
        dimgx("-w", "-H", engine.url, "-l", "@0", "-t", "part.tar", *beside, name)
        part = (place / f"engine.{suffix}").read_bytes()
        dimgx("-w", "-H", engine.url, "-t", "rootfs.tar", *beside, name)
        dimgx("-w", "-t", "o.tar", "--write-config", f"saved.{suffix}", "-", stdin=saved)
        whole = (place / f"engine.{suffix}").read_bytes()
        assert part == whole == (place / f"saved.{suffix}").read_bytes()
    (place / "rootfs").mkdir()
    run([need("tar"), "-xpf", "rootfs.tar", "-C", "rootfs"])
    # As the README has it.
    readme = (CHECKOUT / "README.rst").read_text(encoding="utf-8")
    (start,) = re.findall(r"^ +(eval .*unshare --root=rootfs .*)$", readme, re.MULTILINE)
    script = f". ./engine.sh\n{start}"
    done = run([need("sh"), "-euc", script], env={"USER": "me"})
    assert done.stdout.decode() == SAID


def test_docker_engine(docker_engine: Engine, place: Path) -> None:
    need_root()
    check_engine(docker_engine, "beside/app:1", place)


def test_podman(podman_service: Engine, place: Path) -> None:
    need_root()
    check_engine(podman_service, "podman:localhost/beside/app:1", place)
