"""Images handed to real engines: what they then hold, and what a failure leaves there."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dimgx import EngineOptions, SourceError
from dimgx.settings import HealthCheck, Settings
from dimgx.sources.engines import open_target_engine
from dimgx.targets.engine import EngineTarget, Imported
from tests import services
from tests.dsl import file, layer, whiteout
from tests.fakeengine import fake_engine
from tests.programs import dimgx, missing, refused
from tests.services import Engine
from tests.writers import Json, Picture, docker_archive, image

SCHEMA = Path(__file__).parent.parent / "docs" / "report.schema.json"
NASTY: Json = {
    "Env": [
        "PATH=/bin:/usr/bin", "A=b c", 'Q=he said "hi"', "D=$PATH ${A} $$", "E=", "U=ü€",
        "B=back\\slash \\\\ \\n", "S='single'", "X=a=b", "T= lead and trail ", "H=#x",
    ],
    "Entrypoint": ["/bin/busybox", "env"],
    "Cmd": ["/bin/busybox", "echo", "x  y", '$A "q" \\'],
    "User": "12:34",
    "WorkingDir": "/work dir/$x",
    "Labels": {"a": "b", "with space": 'v "q" $y', "x.y/z": "1=2", "empty": "", "bs": "\\"},
    "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
    "Volumes": {"/data": {}, "/v 2/$z": {}},
}  # fmt: skip
HEALTH = {"Test": ["CMD-SHELL", "test -e /x || exit $?"], "Interval": 30 * 10**9, "Retries": 4}
KEYS = sorted(NASTY)
CONTENT = b"what the upper layer brings"


def picture(**config: Any) -> Picture:
    shell = file("bin/busybox", services.busybox(), mode=0o755)
    return image(
        layer(shell, file("etc/old", b"old")),
        layer(whiteout("etc/old"), file("etc/new", CONTENT)),
        tags=("nasty/app:1",),
        config={"config": NASTY | config},
    )


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(
        "docker_engine" if request.param == "docker" else "podman_service"
    )
    return found


def kind(engine: Engine) -> str:
    return "podman" if "podman" in engine.url else "docker"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nasty.tar").write_bytes(docker_archive(picture()))
    return tmp_path


def images(engine: Engine) -> set[str]:
    words = ("images", "--all", "--no-trunc", "--format", "{{.ID}}")
    return {id.removeprefix("sha256:") for id in engine.ask(*words)}


def hand(engine: Engine, action: str, *words: str, stdin: bytes = b"") -> tuple[str, str]:
    """Run the command; give the ID that it prints and what it warns of."""
    done = dimgx(f"{action}={kind(engine)}", "-H", engine.url, *words, stdin=stdin)
    id = done.stdout.decode()
    assert id.startswith("sha256:") and len(id) == 72 and id.endswith("\n")
    return id[:-1], done.stderr.decode()


def test_settings_go_with_an_imported_tar(place: Path, engine: Engine) -> None:
    id, told = hand(engine, "--import", "--tag", "imported:1", "--tag", "imported:2", "./nasty.tar")
    assert told == ""
    found = engine.inspected(id)
    assert {key: found["Config"][key] for key in KEYS} == NASTY
    assert (found["Os"], found["Architecture"]) == ("linux", "amd64")
    assert len(found["RootFS"]["Layers"]) == 1
    names = {name.removeprefix("localhost/") for name in found["RepoTags"]}
    assert names == {"imported:1", "imported:2"}


def test_imported_tree_is_that_of_the_flattened_image(place: Path, engine: Engine) -> None:
    # An engine makes the working directory for a container.
    (place / "plain.tar").write_bytes(docker_archive(picture(WorkingDir="")))
    id, _ = hand(engine, "--import", "./plain.tar")
    dimgx("-t", "flat.tar", "./plain.tar")
    services.compare_with_export((place / "flat.tar").read_bytes(), engine.exported(id))


def test_imported_image_runs(place: Path, docker_engine: Engine) -> None:
    id, _ = hand(docker_engine, "--import", "./nasty.tar")
    assert docker_engine.ask("run", "--rm", "--network=none", id) == ['x  y $A "q" \\']


def test_names_are_those_of_the_archive(place: Path, engine: Engine) -> None:
    id, _ = hand(engine, "--import", "./nasty.tar")
    assert engine.inspected("nasty/app:1")["Id"].removeprefix("sha256:") == id[7:]
    engine.run("rmi", "-f", id)


def test_own_names_stay_with_the_image_that_the_engine_has(place: Path, engine: Engine) -> None:
    engine.run("load", stdin=(place / "nasty.tar").read_bytes())
    before = engine.inspected("nasty/app:1")["Id"]
    reference = "podman:nasty/app:1" if kind(engine) == "podman" else "nasty/app:1"
    done = dimgx("--import", "-H", engine.url, reference)
    id = done.stdout.decode().strip()
    assert engine.inspected("nasty/app:1")["Id"] == before != id
    assert not engine.inspected(id)["RepoTags"]
    engine.run("rmi", "-f", before, id)


def test_rows_that_are_chosen(place: Path, engine: Engine) -> None:
    id, _ = hand(engine, "--import", "-l", "@0", "-", stdin=(place / "nasty.tar").read_bytes())
    names = {node.path for node in services.exported_nodes(engine.exported(id))}
    assert b"etc/old" in names and b"etc/new" not in names


def test_health_check(place: Path, docker_engine: Engine) -> None:
    data = docker_archive(picture(Healthcheck=HEALTH))
    id, told = hand(docker_engine, "--import", "-", stdin=data)
    assert (docker_engine.inspected(id)["Config"]["Healthcheck"], told) == (HEALTH, "")


def test_what_an_engine_cannot_take_is_warned_of(place: Path, engine: Engine) -> None:
    data = docker_archive(picture(Healthcheck=HEALTH, StopSignal="SIGINT"))
    id, told = hand(engine, "--import", "-", stdin=data)
    lost = "Podman imports no health check"
    if kind(engine) == "docker":
        lost = "this Docker Engine imports no stop signal"
        is_lost = engine.docker_api() < 42
        assert engine.inspected(id)["Config"].get("StopSignal") == (None if is_lost else "SIGINT")
        if not is_lost:
            assert told == ""
            return
    assert told == f"dimgx: warning: {lost}, so it is left out (--load keeps it)\n"


def test_ranges_of_ports(place: Path, engine: Engine) -> None:
    """As Podman's own builds have them."""
    data = docker_archive(picture(ExposedPorts={"1000-1002/tcp": {}, "53/udp": {}}))
    id, told = hand(engine, "--import", "-", stdin=data)
    found = engine.inspected(id)["Config"]["ExposedPorts"]
    assert (sorted(found), told) == (["1000/tcp", "1001/tcp", "1002/tcp", "53/udp"], "")


@pytest.mark.parametrize(("api", "is_taken"), [("1.43", False), ("1.44", True)])
def test_start_interval_of_a_health_check(api: str, is_taken: bool) -> None:
    settings = Settings(healthcheck=HealthCheck(("CMD", "x"), start_interval_ns=5))
    what = Imported((), settings, None)
    with fake_engine(api=api) as fake:
        fake.answers["/images/create"] = lambda query: {"status": "sha256:" + "a" * 64}
        with closing(EngineTarget(open_target_engine("docker", EngineOptions(fake.url)))) as target:
            told = [] if is_taken else [
                "this Docker Engine imports no start interval of a health check, so it is left out"
                " (--load keeps it)"
            ]  # fmt: skip
            assert target.check(what) == told
            target.import_tar((), what)
    said = fake.asked[-1][1]["changes"]
    assert said == f'HEALTHCHECK {"--start-interval=5ns " if is_taken else ""}CMD ["x"]'


def test_engine_that_does_not_tell_what_it_has_loaded() -> None:
    with fake_engine() as fake:
        fake.answers["/images/load"] = lambda query: {"stream": "done"}
        target = EngineTarget(open_target_engine("docker", EngineOptions(fake.url)))
        problem = pytest.raises(SourceError, match="does not tell what it has loaded")
        with closing(target), problem:
            target.load(())


def test_what_is_for_builds(place: Path, engine: Engine) -> None:
    lines = ['RUN x  "a $b"', "COPY . /src"]
    data = docker_archive(picture(OnBuild=lines, Shell=["/bin/bash", "-c"]))
    id, told = hand(engine, "--import", "-", stdin=data)
    name, lost = ("this Docker Engine", ["SHELL"])
    if kind(engine) == "podman":
        name, lost = "Podman", ["ONBUILD", "SHELL"]
    else:
        assert engine.inspected(id)["Config"]["OnBuild"] == lines
    assert told.splitlines() == [
        f"dimgx: warning: {name} imports no {word}, so it is left out (--load keeps it)"
        for word in lost
    ]


def test_settings_that_cannot_be_told_leave_nothing(place: Path, docker_engine: Engine) -> None:
    before = images(docker_engine)
    data = docker_archive(picture(Env=["A=b\nUSER root"]))
    code, told = refused("-", "--import=docker", "-H", docker_engine.url, stdin=data)
    assert (code, "ENV with a newline" in told) == (2, True)
    assert images(docker_engine) == before


def damaged() -> bytes:
    found = picture()
    data = bytearray(docker_archive(found))
    at = data.index(CONTENT, data.index(found.layers[1]))
    data[at : at + 3] = b"???"
    return bytes(data)


@pytest.mark.parametrize("action", ["--load", "--import"])
def test_damaged_image_leaves_nothing(place: Path, engine: Engine, action: str) -> None:
    before = images(engine)
    (place / "damaged.tar").write_bytes(damaged())
    words = (f"{action}={kind(engine)}", "-H", engine.url)
    code, told = refused("./damaged.tar", *words)
    assert (code, "digest" in told) == (2, True)
    assert images(engine) == before


def test_name_that_is_none(place: Path, engine: Engine) -> None:
    for action in ("--load", "--import"):
        words = (f"{action}={kind(engine)}", "-H", engine.url, "--tag", "upper/CASE:1")
        code, told = refused("./nasty.tar", *words)
        assert (code, "lower case" in told) == (1, True)


def test_engine_that_is_not_there(place: Path) -> None:
    code, told = refused("./nasty.tar", "--import=docker", "-H", f"unix://{place}/none")
    assert (code, "does not answer" in told) == (4, True)


def test_default_is_the_engine_that_is_there(
    place: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    id = dimgx("--import", "--tag", "by/default:1", "./nasty.tar").stdout.decode().strip()
    assert docker_engine.inspected("by/default:1")["Id"] == id


def test_from_one_engine_into_the_other(
    place: Path, docker_engine: Engine, podman_service: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-H names the one that has the image; the other is found as ever."""
    docker_engine.run("load", stdin=docker_archive(picture()))
    monkeypatch.setenv("CONTAINER_HOST", podman_service.url)
    done = dimgx("--import=podman", "-H", docker_engine.url, "--tag", "moved:1", "nasty/app:1")
    id = done.stdout.decode().strip()
    # With that its client would take itself for a remote one.
    monkeypatch.delenv("CONTAINER_HOST")
    assert f"sha256:{podman_service.inspected('moved:1')['Id']}" == id
    docker_engine.run("rmi", "nasty/app:1")


@pytest.fixture
def alone(podman_service: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    """The program `podman` with the same storage, and no service that is known."""
    services.use_program(podman_service, monkeypatch, tmp_path)
    return podman_service


def test_program_podman_imports(place: Path, alone: Engine) -> None:
    done = dimgx("--import=podman", "--tag", "prog:1", "--tag", "prog:2", "./nasty.tar")
    id = done.stdout.decode().strip()
    found = alone.inspected(id)
    assert {key: found["Config"][key] for key in KEYS} == NASTY
    assert sorted(found["RepoTags"]) == ["localhost/prog:1", "localhost/prog:2"]


def test_program_podman_gets_nothing_of_a_damaged_image(place: Path, alone: Engine) -> None:
    before = images(alone)
    (place / "damaged.tar").write_bytes(damaged())
    assert refused("./damaged.tar", "--import=podman")[0] == 2
    assert images(alone) == before


# -- load ----------------------------------------------------------------------------------------

EVERYTHING = {"StopSignal": "SIGINT", "Healthcheck": HEALTH}


def test_loaded_image_keeps_all_settings(place: Path, engine: Engine) -> None:
    data = docker_archive(picture(**EVERYTHING))
    id, told = hand(engine, "--load", "-", stdin=data)
    assert told == ""
    found = engine.inspected(id)
    assert {key: found["Config"][key] for key in KEYS} == NASTY
    assert found["Config"]["StopSignal"] == "SIGINT"
    health = found["Config"].get("Healthcheck") or found["Healthcheck"]
    assert health == HEALTH
    assert len(found["RootFS"]["Layers"]) == 1
    names = [name.removeprefix("localhost/") for name in found["RepoTags"]]
    assert names in (["nasty/app:1"], ["docker.io/nasty/app:1"])
    engine.run("rmi", "-f", id)


def test_loaded_image_is_the_one_of_the_archive(place: Path, engine: Engine) -> None:
    """The same bytes as in a docker-archive, so that its ID is known before."""
    id, _ = hand(engine, "--load", "./nasty.tar")
    dimgx("-t", "docker-archive:flat.tar", "./nasty.tar")
    listed = json.loads(dimgx("--json", "./flat.tar").stdout)
    assert listed["rows"][0]["id"] == id
    engine.run("rmi", "-f", id)


def test_loaded_image_runs(place: Path, docker_engine: Engine) -> None:
    id, _ = hand(docker_engine, "--load", "--tag", "run/me", "./nasty.tar")
    assert docker_engine.ask("run", "--rm", "--network=none", "run/me") == ['x  y $A "q" \\']
    assert docker_engine.inspected("run/me:latest")["Id"] == id
    docker_engine.run("rmi", "-f", id)


@pytest.mark.parametrize(("option", "form"), [("--load", "docker-archive"), ("--import", "tar")])
def test_report_tells_what_an_engine_took(
    place: Path, engine: Engine, option: str, form: str
) -> None:
    id, _ = hand(engine, option, "--report", "report.json", "./nasty.tar")
    document = json.loads((place / "report.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    (output,) = document["outputs"]
    assert (output["form"], output["compression"]) == (form, None)
    assert engine.url.removeprefix("unix://") in output["target"]
    assert [found["id"] for found in output["images"]] == ([id] if option == "--load" else [])
    (made,) = document["images"]
    assert [(found["kept"], found["covered"]) for found in made["layers"]] == [(1, 1), (1, 0)]
    engine.run("rmi", "-f", id)


def test_image_that_the_engine_has_is_loaded_beside_it(place: Path, engine: Engine) -> None:
    engine.run("load", stdin=(place / "nasty.tar").read_bytes())
    before = engine.inspected("nasty/app:1")["Id"]
    reference = "podman:nasty/app:1" if kind(engine) == "podman" else "nasty/app:1"
    id = dimgx("--load", "-H", engine.url, reference).stdout.decode().strip()
    assert engine.inspected("nasty/app:1")["Id"] == before != id.removeprefix("sha256:")
    found = engine.inspected(id)
    assert not found["RepoTags"]
    assert len(found["RootFS"]["Layers"]) == 1
    engine.run("rmi", "-f", before, id)


def test_several_images_are_loaded_at_once(place: Path, engine: Engine) -> None:
    other = image(layer(file("other", b"x")), tags=("other/app:2",))
    (place / "other.tar").write_bytes(docker_archive(other))
    words = (f"--load={kind(engine)}", "-H", engine.url, "./nasty.tar", "./other.tar")
    ids = dimgx(*words).stdout.decode().split()
    assert len(ids) == 2
    for name, id in zip(("nasty/app:1", "other/app:2"), ids, strict=True):
        assert engine.inspected(name)["Id"].removeprefix("sha256:") == id[7:]
    engine.run("rmi", "-f", *ids)


def test_two_of_one_name_are_not_loaded(place: Path, engine: Engine) -> None:
    """Docker would give it to the last, and Podman load the first alone."""
    before = images(engine)
    other = image(layer(file("other", b"x")), tags=("nasty/app:1",))
    (place / "other.tar").write_bytes(docker_archive(other))
    for option in ("--load", "--import"):
        words = (f"{option}={kind(engine)}", "-H", engine.url, "./nasty.tar")
        code, told = refused("./other.tar", *words)
        assert (code, "are both named docker.io/nasty/app:1" in told) == (1, True), told
    assert images(engine) == before


def test_only_some_of_the_images_are_at_an_engine(place: Path, engine: Engine) -> None:
    if kind(engine) != "docker":
        return
    engine.run("load", stdin=Path("nasty.tar").read_bytes())
    words = ("-H", engine.url, "--pull", "missing", "-t", "{index}.tar", "nasty/app:1")
    dimgx(*words, "./nasty.tar")
    assert Path("0.tar").read_bytes() == Path("1.tar").read_bytes()
    code, told = refused("./nasty.tar", "-H", engine.url, "-t", "none.tar")
    assert (code, "--host has no effect" in told) == (1, True)
    engine.run("rmi", "nasty/app:1")


def test_layers_are_kept(place: Path, engine: Engine) -> None:
    id, _ = hand(engine, "--load", "--keep-layers", "./nasty.tar")
    assert id == f"sha256:{picture().id()}"
    assert engine.inspected(id)["RootFS"]["Layers"] == picture().diff_ids()
    engine.run("rmi", "-f", id)


def test_program_podman_loads(place: Path, alone: Engine) -> None:
    id = dimgx("--load=podman", "--tag", "prog:3", "./nasty.tar").stdout.decode().strip()
    assert f"sha256:{alone.inspected('prog:3')['Id']}" == id


def test_program_podman_loads_nothing_of_a_damaged_image(place: Path, alone: Engine) -> None:
    before = images(alone)
    (place / "damaged.tar").write_bytes(damaged())
    assert refused("./damaged.tar", "--load=podman")[0] == 2
    assert images(alone) == before


@pytest.mark.parametrize("option", ["--load=podman", "--import=podman"])
def test_docker_is_not_taken_for_podman(place: Path, docker_engine: Engine, option: str) -> None:
    before = images(docker_engine)
    code, told = refused("./nasty.tar", option, "-H", docker_engine.url)
    assert (code, "is no Podman: --load=docker and --import=docker mean it" in told) == (2, True)
    assert images(docker_engine) == before


@pytest.mark.parametrize("option", ["--load=podman", "--import=podman"])
def test_program_podman_that_takes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """It ends before it has read all that comes; what it says of that is told."""
    path = place / "bin" / "podman"
    path.parent.mkdir()
    path.write_text('#!/bin/sh\necho "Error: no space left" >&2; exit 125\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    for name in ("CONTAINER_HOST", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    if Path("/run/podman/podman.sock").exists():
        missing("a machine without a service of Podman's own is needed")
    code, told = refused("./nasty.tar", option)
    assert (code, told.endswith("no space left\n")) == (2, True)
