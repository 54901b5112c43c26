"""Podman's service and program, against what Podman itself makes of its images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dimgx
from dimgx import EngineOptions, stream
from tests import programs, services
from tests.dsl import file, layer
from tests.listing import read_tar
from tests.services import Engine
from tests.writers import docker_archive, image, oci_archive

BASE, TOP = layer(file("etc/base", b"below" * 9999)), layer(file("etc/top", b"above"))

FILE = r"""FROM scratch
COPY root/ /
ENV A=1
RUN mkdir -p /srv/a /srv/b/c; echo one >/srv/a/f; ln /srv/a/f /srv/a/g; mkfifo /srv/p; \
    echo >/srv/b/c/x
LABEL x=y
RUN rm -r /srv/b; echo two >/srv/a/f; ln -s a /srv/b; chmod 4711 /srv/a/g; true
RUN rm /srv/b; mkdir -m 700 /srv/b; echo back >/srv/b/y; chown -R 12:34 /srv/b
"""


@pytest.fixture(scope="module")
def podman(podman_service: Engine) -> Engine:
    files = {f"root/bin/{name}": services.busybox() for name in
             ("sh", "mkdir", "ln", "rm", "chmod", "chown", "mkfifo", "true")}  # fmt: skip
    for name, form in (("quay.example:5000/oci/app:1", "oci"), ("dock", "docker")):
        podman_service.build(name, files, FILE, "--format", form)
    podman_service.run("tag", "quay.example:5000/oci/app:1", "second:name")
    return podman_service


NAMES = ("podman:quay.example:5000/oci/app:1", "podman:dock", "containers-storage:second:name")


def rows(name: str, engine: Engine) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(
        programs.dimgx("-H", engine.url, "--json", name).stdout
    )["rows"]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_tree_is_that_of_a_container(podman: Engine, name: str) -> None:
    flat = programs.flat_bytes(name, "-H", podman.url, "--no-direct")
    services.compare_with_export(flat, podman.exported(name.partition(":")[2]))


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_as_from_the_saved_archive(podman: Engine, name: str) -> None:
    saved = podman.run("save", "--format", "docker-archive", name.partition(":")[2])
    flat = programs.flat_bytes(name, "-H", podman.url)
    assert programs.dimgx("-t", "-", "-", stdin=saved).stdout == flat


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_those_of_podman(podman: Engine, name: str) -> None:
    plain = name.partition(":")[2]
    told = json.loads(podman.run("history", "--format", "json", plain))
    found = rows(name, podman)
    assert [[row["created_by"], row["size"], row["created"]] for row in found] == [
        [step["CreatedBy"], step["size"], step["created"]] for step in told
    ]
    config = podman.inspected(plain)
    empty = [step.get("empty_layer", False) for step in config["History"]]
    assert [row["empty"] for row in found[::-1]] == empty
    diff_ids = [row["diff_id"] for row in found[::-1] if not row["empty"]]
    assert diff_ids == config["RootFS"]["Layers"]
    assert found[0]["tags"] == config["RepoTags"]


def test_ancestors_are_the_parents(podman: Engine) -> None:
    name = "dock"
    for row in rows("podman:dock", podman):
        told = podman.inspected(name)
        assert row["id"] == f"sha256:{told['Id']}"
        assert len(told["History"]) == int(str(row["position"])) + 1
        name = told["Parent"]


def test_sizes_are_those_of_the_plain_tars(podman: Engine) -> None:
    saved = podman.run("save", "--format", "docker-archive", "dock")
    archived = json.loads(programs.dimgx("--json", "-", stdin=saved).stdout)
    assert archived["size_kind"] == "tar"
    sizes = [row["size"] for row in rows("podman:dock", podman)]
    assert sizes == [row["size"] for row in archived["rows"]]


def test_only_the_topmost_chosen_image_is_saved(podman: Engine) -> None:
    options = EngineOptions(host=podman.url, is_direct=False)
    with dimgx.open_image("podman:dock", engine=options) as image:
        with dimgx.open_tree(image, layers=["@0"]) as tree:
            assert "bin/sh" in {entry.path.decode() for entry in tree}
        assert image.spool is not None
        base = rows("podman:dock", podman)[-1]
        saved = podman.run("save", "--format", "docker-archive", str(base["id"]))
        assert image.spool.used == len(saved)


def test_docker_reference_at_podmans_socket(podman: Engine) -> None:
    """A DOCKER_HOST that is Podman's, as many have it."""
    assert rows("dock", podman) == rows("podman:dock", podman)
    flat = programs.flat_bytes("dock", "-H", podman.url)
    assert flat == programs.flat_bytes("podman:dock", "-H", podman.url)


def test_podman_reference_at_dockers_socket(docker_engine: Engine) -> None:
    docker_engine.build("for/podman", {"root/x": b"x"}, "FROM scratch\nCOPY root/ /\n")
    assert rows("podman:for/podman", docker_engine) == rows("for/podman", docker_engine)


@pytest.fixture
def alone(podman: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    """The program `podman` with the same storage, and no service that is known."""
    services.use_program(podman, monkeypatch, tmp_path)
    return podman


def test_program_where_there_is_no_service(alone: Engine) -> None:
    with_service = programs.dimgx("-H", alone.url, "--json", "podman:dock").stdout
    assert programs.dimgx("--json", "podman:dock").stdout == with_service
    flat = programs.flat_bytes("podman:dock", "-H", alone.url)
    assert programs.flat_bytes("podman:dock", "--no-direct") == flat


def test_program_knows_no_such_image(alone: Engine) -> None:
    code, told = programs.refused("podman:second:nam")
    assert code == 2
    assert "localhost/second:name" in told
    assert "docker://second:nam" in told


def test_program_that_dies(alone: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It ends in the middle of the archive, and says why."""
    real = programs.need("podman")
    path = tmp_path / "bin" / "podman"
    path.parent.mkdir()
    path.write_text(
        f'#!/bin/sh\n[ "$1" = save ] || exec {real} "$@"\n'
        f'{real} "$@" | head -c 100000; echo "Error: no space left" >&2; exit 125\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin:/usr/sbin")
    code, told = programs.refused("podman:dock", "--no-direct", "-t", tmp_path / "out.tar")
    assert (code, "no space left" in told) == (2, True)
    assert not (tmp_path / "out.tar").exists()


def test_absence_where_images_cannot_be_listed(
    alone: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Podman lists none if one of its store is broken."""
    path = tmp_path / "bin" / "podman"
    path.parent.mkdir()
    path.write_text(
        '#!/bin/sh\n[ "$1" = images ] && echo "Error: retrieving parent" >&2 && exit 125\n'
        f'exec {programs.need("podman")} "$@"\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin:/usr/sbin")
    code, told = programs.refused("podman:nope")
    assert code == 2
    assert "has no image 'nope'" in told


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("failed to connect: dial tcp 192.0.2.1:22: connect: connection refused", 4),
        ("unable to connect to Podman socket: dial unix /x: connect: no such file or directory", 4),
        ("failed to connect: dial tcp: lookup x.invalid on 192.0.2.1:53: no such host", 2),
        ("failed to connect: ssh: handshake failed: ssh: unable to authenticate", 2),
    ],
)
def test_program_that_does_not_reach_its_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, code: int
) -> None:
    path = tmp_path / "podman"
    path.write_text(f'#!/bin/sh\necho "Error: {said}" >&2; exit 125\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CONTAINER_HOST", "ssh://root@x.invalid:22/podman.sock")
    found, told = programs.refused("podman:app:1")
    assert (found, told.endswith(f" {said}\n")) == (code, True)


def test_program_that_reaches_no_registry(alone: Engine) -> None:
    code, told = programs.refused("podman:127.0.0.1:9/no/such:1", "--pull", "always")
    assert (code, "cannot pull 127.0.0.1:9/no/such:1: " in told) == (4, True)


def _fake_podman(directory: Path, stage: str) -> dict[str, str]:
    """Put a `podman` in `directory` that at `stage` says more than a pipe holds, and never ends.

    Give the environment of who finds it. The file `begun` has its process when it is about to wait.
    """
    path = directory / "bin" / "podman"
    path.parent.mkdir()
    (directory / "said").write_bytes(layer(file("a", b"a" * 200_000)))
    layers = [f"sha256:{'1' * 64}"]
    told = {"Id": "2" * 64, "Os": "linux", "RootFS": {"Layers": layers}, "History": [{}]}
    path.write_text(
        f'#!/bin/sh\n[ "$1" = image ] && echo \'[{json.dumps(told)}]\' && exit\n'
        f'[ "$1" = history ] && echo "[]" && exit\n[ "$1" = {stage} ] || exit 1\n'
        f'cat "{directory}/said"\necho $$ >"{directory}/begun"\nexec sleep 600\n'
    )
    path.chmod(0o755)
    return {"PATH": f"{path.parent}:/usr/bin:/bin", "PYTHONPATH": str(programs.CHECKOUT)}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("stage", ["pull", "save"])
def test_program_is_not_waited_for_when_it_is_stopped(
    tmp_path: Path, stage: str, name: str
) -> None:
    """It says more than a pipe holds, and goes on for as long as it is let."""
    env, begun = _fake_podman(tmp_path, stage), tmp_path / "begun"
    pull = ["--pull", "always"] if stage == "pull" else []
    command = [sys.executable, "-m", "dimgx", *pull, "-t", tmp_path / "out.tar", "podman:x"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as process:
        while not (begun.exists() and (pid := begun.read_text().strip())):
            assert process.poll() is None
        os.kill(process.pid, getattr(signal, name))
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (-getattr(signal, name), b"")
    assert not Path("/proc", pid).exists()


@pytest.mark.parametrize(
    ("function", "event"),
    [("Popen._execute_child", "return"), ("Popen.__init__", "return"), ("Spool.write", "call")],
)
def test_program_is_ended_though_it_has_just_begun_or_is_not_listened_to(
    tmp_path: Path, function: str, event: str
) -> None:
    env, begun = _fake_podman(tmp_path, "save"), tmp_path / "begun"
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        f"begun = Path({str(begun)!r})\n"
        "def look(frame, event, arg):\n"
        "    name, seen = frame.f_code.co_qualname, frame.f_locals\n"
        "    has_begun = (name, event) == ('Popen._execute_child', 'return')\n"
        "    if has_begun and 'save' in seen['args']:\n"
        "        begun.write_text(str(seen['self'].pid))\n"
        f"    if (name, event) == ({function!r}, {event!r}) and begun.exists():\n"
        "        sys.setprofile(None)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "from dimgx.cli import main\n"
        "sys.setprofile(look)\n"
        f"main(['-t', {str(tmp_path / 'out.tar')!r}, 'podman:x'])"
    )
    done = programs.run([sys.executable, "-c", script], env=env, ok=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, b"")
    assert not Path("/proc", begun.read_text().strip()).exists()


@pytest.mark.parametrize("stage", ["import", "load"])
def test_program_that_reads_nothing_of_what_it_is_fed_is_ended(tmp_path: Path, stage: str) -> None:
    """It would take the end of this process for the end of the tar."""
    env, begun = _fake_podman(tmp_path, stage), tmp_path / "begun"
    picture = image(layer(file("large", bytes(8 << 20))), tags=("large:1",))
    (tmp_path / "in.tar").write_bytes(docker_archive(picture))
    command = [sys.executable, "-m", "dimgx", f"--{stage}=podman", str(tmp_path / "in.tar")]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as process:
        while not (begun.exists() and (pid := begun.read_text().strip())):
            assert process.poll() is None
        started = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (-signal.SIGTERM, b"")
    assert time.monotonic() - started < stream._PATIENCE_S
    assert not Path("/proc", pid).exists()


def test_program_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(_fake_podman(tmp_path, "save")["PATH"].partition(":")[0])
    text = (path / "podman").read_text()
    (path / "podman").write_text(text.replace("exec sleep 600", "kill -9 $$"))
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    code, told = programs.refused("podman:x", "-t", tmp_path / "out.tar")
    assert (code, "podman was ended by signal 9 while it worked" in told) == (4, True), told


@pytest.fixture
def zstd(podman: Engine, tmp_path: Path) -> str:
    """An image with a layer of zstd, which Podman cannot save in Docker's form."""
    picture = image(BASE, TOP, tags=(), compression=["gzip", "zstd"])
    (tmp_path / "zstd.tar").write_bytes(oci_archive(picture))
    store = f"[overlay@{podman.directory}/root+{podman.directory}/run]"
    source, target = f"oci-archive:{tmp_path}/zstd.tar", f"containers-storage:{store}zstd:1"
    programs.run([programs.need("skopeo"), "copy", "--insecure-policy", "-q", source, target])
    return "podman:zstd:1"


def test_layers_that_dockers_form_cannot_hold(alone: Engine, zstd: str) -> None:
    expected = read_tar(programs.flat_bytes(zstd, "-H", alone.url, "--no-direct"))
    assert [node.data for node in expected if node.kind == "f"] == [b"below" * 9999, b"above"]
    # The program has written the first layer when it sees that the second is none for Docker.
    assert read_tar(programs.flat_bytes(zstd, "--no-direct")) == expected


def test_step_without_a_time(podman: Engine) -> None:
    """Podman's service fails when it is asked for the history of such an image."""
    picture = image(TOP, tags=("timeless:1",), history=[{"created_by": "x"}])
    podman.run("load", stdin=docker_archive(picture))
    name = "podman:localhost/timeless:1"
    assert read_tar(programs.flat_bytes(name, "-H", podman.url))
    assert [row["created_by"] for row in rows(name, podman)] == ["x"]


def test_no_such_image(podman: Engine) -> None:
    code, told = programs.refused("podman:second:nme", "-H", podman.url)
    assert code == 2
    assert "localhost/second:name" in told
    assert "docker://second:nme" in told


def test_name_of_a_container(podman: Engine) -> None:
    podman.run("create", "--name", "box", "dock", "true")
    code, told = programs.refused("podman:box", "-H", podman.url)
    podman.run("rm", "box")
    assert code == 2
    assert "is a container" in told
    assert "localhost/dock:latest" in told
