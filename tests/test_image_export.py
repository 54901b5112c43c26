"""What configuration managers do with images and archives of them, at a real Docker Engine.

The tasks are those by which Ansible's `docker_image_export` is tested (community.docker, the
integration target of that name): archives of images by name and ID, by itself and mixed; check
mode; a platform. `--update` makes an archive if need be, `--check` is the check mode;
`--keep-layers` saves as the engine does, without it the archive holds the images flattened.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.programs import dimgx, run
from tests.services import Engine, busybox, fresh_docker
from tests.test_upkeep import stamp

NAMES = ("hello-world:latest", "example/simple:1", "example/simple:2")
# By place in NAMES; `#` is the ID.
TASKS = {
    "archive-1.tar": ("0", "1", "2"),
    "archive-2.tar": ("#0", "#1", "#2"),
    "archive-3.tar": ("0", "#1"),
    "archive-4.tar": ("#0", "0"),
    "archive-5.tar": ("#0",),
}
EXPORT = ("--keep-layers", "--format", "docker-archive")


@pytest.fixture(scope="module")
def ids(docker_engine: Engine) -> list[str]:
    files = {"root/bin/busybox": busybox()}
    text = "FROM scratch\nCOPY root/ /\nCMD {}\n"
    return [
        docker_engine.build(name, files if "simple" in name else {"root/hello": b"hello"},
                            text.format(json.dumps(["/bin/busybox", "echo", name])))
        for name in NAMES
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def place(docker_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spelled(task: tuple[str, ...], ids: list[str]) -> list[str]:
    return [ids[int(word[1:])] if word[0] == "#" else NAMES[int(word)] for word in task]


def meant(task: tuple[str, ...], ids: list[str]) -> list[str]:
    return sorted({ids[int(word.removeprefix("#"))] for word in task})


def export(archive: str, images: list[str], *more: str) -> bool:
    """Do the task; tell whether it changed something."""
    before = stamp(archive) if Path(archive).exists() else None
    done = dimgx("--update", *EXPORT, *more, "-t", archive, *images)
    assert (done.stdout, done.stderr) == (b"", b"")
    return stamp(archive) != before


def would_change(archive: str, images: list[str], *more: str) -> tuple[bool, str]:
    """Do the task in check mode."""
    done = dimgx("--check", *EXPORT, *more, "-t", archive, *images, ok=False)
    assert (done.returncode, done.stderr) in ((0, b""), (5, b""))
    return done.returncode == 5, done.stdout.decode().strip()


def manifest(archive: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(
        run(["tar", "-xf", archive, "manifest.json", "--to-stdout"]).stdout
    )
    return listed


@pytest.mark.parametrize("archive", TASKS)
def test_archive_holds_the_images_of_the_engine(ids: list[str], archive: str) -> None:
    task = TASKS[archive]
    assert would_change(archive, spelled(task, ids)) == (True, "there is no target yet")
    assert not Path(archive).exists()
    assert export(archive, spelled(task, ids))
    configs = [entry["Config"].removesuffix(".json") for entry in manifest(archive)]
    assert len(configs) == len(set(configs))
    assert sorted(f"sha256:{config.rpartition('/')[2]}" for config in configs) == meant(task, ids)
    # And once more, which changes nothing.
    assert would_change(archive, spelled(task, ids)) == (False, "up to date")
    assert not export(archive, spelled(task, ids))


def test_names_are_those_that_were_asked_for(ids: list[str]) -> None:
    export("out.tar", list(NAMES))
    assert [entry["RepoTags"] for entry in manifest("out.tar")] == [[name] for name in NAMES]


def test_platform(ids: list[str]) -> None:
    words = ("--platform", "linux/amd64")
    assert would_change("out.tar", [NAMES[0]], *words)[0]
    assert not Path("out.tar").exists()
    assert export("out.tar", [NAMES[0]], *words)
    assert not would_change("out.tar", [NAMES[0]], *words)[0]


def test_other_images_are_asked_for(ids: list[str]) -> None:
    export("out.tar", list(NAMES[:2]))
    assert would_change("out.tar", list(NAMES)) == (True, "misses image example/simple:2")
    assert would_change("out.tar", [NAMES[0]]) == (True, "holds image example/simple:1 too")
    assert export("out.tar", list(NAMES))
    assert not export("out.tar", list(NAMES))


def test_image_that_was_built_anew(docker_engine: Engine, ids: list[str]) -> None:
    docker_engine.build("moving:1", {"root/f": b"one"}, 'FROM scratch\nCOPY root/ /\nCMD ["a"]\n')
    export("kept.tar", ["moving:1"])
    dimgx("--update", "--format", "docker-archive", "-t", "flat.tar", "moving:1")
    docker_engine.build("moving:1", {"root/f": b"one"}, 'FROM scratch\nCOPY root/ /\nCMD ["b"]\n')
    flat = ("--format", "docker-archive", "-t", "flat.tar", "moving:1")
    # Its layers are what they were.
    assert would_change("kept.tar", ["moving:1"])[1].startswith("the run settings changed: ")
    assert dimgx("--check", *flat, ok=False).stdout.startswith(b"the run settings changed: ")
    docker_engine.build("moving:1", {"root/f": b"two"}, 'FROM scratch\nCOPY root/ /\nCMD ["b"]\n')
    assert would_change("kept.tar", ["moving:1"])[1].startswith("layer 1 changed: ")
    assert export("kept.tar", ["moving:1"])
    assert not export("kept.tar", ["moving:1"])
    docker_engine.run("rmi", "-f", "moving:1")


def test_image_that_is_not_there_changes_nothing(ids: list[str]) -> None:
    export("out.tar", [NAMES[0]])
    before = stamp("out.tar")
    for action in ("--check", "--update"):
        done = dimgx(action, *EXPORT, "-t", "out.tar", NAMES[0], "example/none:1", ok=False)
        assert (done.returncode, done.stdout) == (2, b"")
    assert stamp("out.tar") == before


def test_archive_of_the_engine_itself(docker_engine: Engine, ids: list[str]) -> None:
    """What `docker save` wrote is up to date, and whatever else is there is replaced by force."""
    Path("out.tar").write_bytes(docker_engine.run("save", *NAMES))
    assert would_change("out.tar", list(NAMES)) == (False, "up to date")
    Path("out.tar").write_bytes(b"no archive")
    assert would_change("out.tar", list(NAMES)) == (True, "not an archive of ours")
    assert dimgx("--update", *EXPORT, "-t", "out.tar", *NAMES, ok=False).returncode == 2
    assert export("out.tar", list(NAMES), "-w")


def test_what_was_exported_can_be_loaded_elsewhere(docker_engine: Engine, ids: list[str]) -> None:
    export("kept.tar", list(NAMES))
    dimgx("--update", "--format", "docker-archive", "-t", "flat.tar", *NAMES)
    with fresh_docker(docker_engine) as other:
        other.run("load", "-i", Path("kept.tar"))
        found = [other.ask("image", "inspect", "--format", "{{.Id}}", name)[0] for name in NAMES]
        assert found == ids
        # The same archive is up to date for the other engine's images, too.
        done = dimgx("-H", other.url, "--check", *EXPORT, "-t", "kept.tar", *NAMES)
        assert done.stdout == b"up to date\n"
        other.run("load", "-i", Path("flat.tar"))
        for name in NAMES[1:]:
            assert other.ask("run", "--rm", "--network=none", name) == [name]
    with tarfile.open("flat.tar") as tar:
        assert sum(name.endswith("layer.tar") for name in tar.getnames()) == 3
