"""Checks against registries and engines: manifest and config are fetched, and never a layer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import dimgx as library
from dimgx import EngineOptions, RegistryOptions
from dimgx.images.wanted import origin_of_image
from dimgx.recipe import Recipe
from tests.dsl import file, layer, whiteout
from tests.fakeengine import fake_engine
from tests.listener import listening
from tests.programs import dimgx, refused
from tests.registries import (
    RealRegistry,
    faulty_registry,
    plain_environment,
    real_registry,
)
from tests.services import Engine
from tests.writers import docker_archive, image, oci_layout

BASE = layer(file("etc/base", b"below"), file("etc/old", bytes(30_000)))
TOP = layer(whiteout("etc/old"), file("etc/top", b"above"))
NEW = layer(file("etc/top", b"newer"))
SETTINGS = {
    "config": {
        "Env": ["PATH=/bin:/usr/bin", "A=b c"],
        "Entrypoint": ["/bin/app"],
        "Cmd": ["-x", "y z"],
        "User": "1:2",
        "WorkingDir": "/srv",
        "Labels": {"b": "2", "a": "1"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "StopSignal": "SIGINT",
        "StopTimeout": 9,
        "OnBuild": ["RUN make"],
        "Shell": ["/bin/bash", "-c"],
        "Healthcheck": {"Test": ["CMD", "/bin/true"], "Interval": 30 * 10**9, "Retries": 3},
    }
}
APP = image(BASE, TOP, tags=("example/app:1",), config=SETTINGS)
NEXT = replace(APP, layers=(BASE, NEW))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return plain_environment(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


def check(*words: str) -> tuple[int, str]:
    done = dimgx("--check", *words, ok=False)
    assert done.stderr == b"", done.stderr
    return done.returncode, done.stdout.decode().removesuffix("\n")


def short(number: int, picture: object = APP) -> str:
    return str(picture.diff_ids()[number])[:19]  # type: ignore[attr-defined]  # a Picture


def test_registry_whose_layers_are_gone(registry: RealRegistry, tmp_path: Path) -> None:
    """The registry itself has lost them, so whoever asks for one gets nothing."""
    pictures = {"one": APP, "two": NEXT}
    for name, picture in pictures.items():
        oci_layout(tmp_path / name, picture, default="gzip")
        registry.push(f"oci:{tmp_path / name}:example/app:1", name)
    one, two = (f"docker://{registry.host}/{name}" for name in pictures)
    dimgx("--update", "-t", "out.tar.gz", one)
    for path in registry.data.glob("docker/registry/v2/blobs/sha256/*/*/data"):
        if path.read_bytes()[:2] == b"\x1f\x8b":
            path.unlink()
    assert refused(one, "-t", "again.tar")[0] == 2
    assert check("-t", "out.tar.gz", one) == (0, "up to date")
    told = f"layer 2 changed: {short(1)} -> {short(1, NEXT)}"
    assert check("-t", "out.tar.gz", two) == (5, told)
    assert dimgx("--update", "-t", "out.tar.gz", one).stdout == b""
    assert check("-l", "@0", "-t", "out.tar.gz", one) == (5, f"layer 2 is gone: {short(1)}")


@pytest.mark.parametrize("words", [(), ("-l", "@0:@1")])
@pytest.mark.parametrize("action", ["--check", "--update"])
def test_what_a_check_asks_a_registry_for(words: tuple[str, ...], action: str) -> None:
    with faulty_registry() as registry:
        registry.add(APP)
        dimgx("--update", "-t", "out.tar", registry.reference())
        registry.requests.clear()
        dimgx(action, *words, "-t", "out.tar", registry.reference())
        asked = [path for path in registry.paths() if path != "/v2/"]
        assert asked == ["manifests/1", f"blobs/sha256:{APP.id()}"]


def test_multi_arch_image(home: Path) -> None:
    arm = replace(APP, layers=(BASE, NEW), architecture="arm64")
    with faulty_registry() as registry:
        entries = [
            registry.add(picture) | {"platform": picture.platform()} for picture in (APP, arm)
        ]
        registry.add_index(entries, "2")
        reference = registry.reference("2")
        dimgx("--update", "--platform", "linux/arm64", "-t", "out.tar", reference)
        registry.requests.clear()
        expected = (0, "up to date")
        assert check("--platform", "linux/arm64", "-t", "out.tar", reference) == expected
        told = f"layer 2 changed: {short(1, arm)} -> {short(1)}"
        assert check("--platform", "linux/amd64", "-t", "out.tar", reference) == (5, told)
        assert not any(
            f"blobs/{layer['digest']}" in registry.paths()
            for entry in entries
            for layer in json.loads(registry.blobs[entry["digest"][7:]])["layers"]
        )


def test_registry_that_cannot_be_asked_is_not_up_to_date() -> None:
    with faulty_registry() as registry:
        registry.add(APP)
        reference = registry.reference()
        dimgx("--update", "-t", "out.tar", reference)
    assert refused(reference, "--check", "-t", "out.tar", "--retry-time", "1")[0] == 4


# -- engines -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def docker(docker_engine: Engine) -> Engine:
    docker_engine.run("load", stdin=docker_archive(APP))
    return docker_engine


@pytest.fixture(scope="module")
def podman(podman_service: Engine) -> Engine:
    podman_service.run("load", stdin=docker_archive(APP))
    return podman_service


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_what_a_check_asks_an_engine_for(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    engine: Engine = request.getfixturevalue(kind)
    name = "podman:example/app:1" if kind == "podman" else "example/app:1"
    dimgx("-H", engine.url, "--update", "-t", "out.tar", name)
    with listening(engine.url, tmp_path / "s") as listener:
        assert check("-H", listener.url, "-t", "out.tar", name) == (0, "up to date")
        dimgx("-H", listener.url, "--update", "-t", "out.tar", name)
        code, told = check("-H", listener.url, "-l", "@0", "-t", "out.tar", name)
        assert (code, told) == (5, f"layer 2 is gone: {short(1)}")
        asked = listener.requests()
    assert any(path.endswith("/json") for path in asked)
    assert not any("/get" in path or path.startswith("POST") for path in asked), asked


@pytest.mark.parametrize("way", [(), ("--keep-layers",)])
def test_engine_that_tells_no_image_id(way: tuple[str, ...]) -> None:
    """On containerd's store the ID is that of the manifest; what is told of the config counts."""
    Path("app.tar").write_bytes(docker_archive(APP))
    words = (*way, "--tag", "example/app:1", "-t", "docker-archive:out.tar")
    dimgx("--update", *words, "./app.tar")
    told = {"Id": "sha256:" + "d" * 64, "Descriptor": {}, "Config": SETTINGS["config"]}
    with fake_engine(api="1.49") as engine:
        engine.add(APP, docker_archive(APP), inspect=told)
        assert check("-H", engine.url, *words, "example/app:1") == (0, "up to date")
        other = SETTINGS["config"] | {"OnBuild": ["RUN other"]}
        engine.add(APP, b"", inspect=told | {"Config": other})
        code, reason = check("-H", engine.url, *words, "example/app:1")
        assert (code, reason.startswith("the run settings changed: ")) == (5, True)
        assert not any("/get" in path for path, _ in engine.asked)


AMBIGUOUS = """FROM scratch
COPY root/ /
RUN ["/bin/busybox", "true"]
RUN ["/bin/busybox", "true"]
MAINTAINER nobody
"""


def test_image_whose_history_is_not_clear_is_not_saved_either(
    docker: Engine, tmp_path: Path
) -> None:
    """Which steps brought a layer would take the archive to know; without -l nobody asks."""
    from tests.services import busybox, fresh_docker

    docker.build("unclear", {"root/bin/busybox": busybox()}, AMBIGUOUS)
    saved = docker.run("save", "unclear")
    directory = docker.directory / "fresh"
    with fresh_docker(docker) as other:
        other.run("load", stdin=saved)
        dimgx("-H", other.url, "--update", "-t", "out.tar", "unclear")
        with listening(other.url, tmp_path / "s") as listener:
            assert check("-H", listener.url, "-t", "out.tar", "unclear") == (0, "up to date")
            assert not any("/get" in path for path in listener.requests())
    shutil.rmtree(directory, ignore_errors=True)


def test_one_target_for_all_sources(
    docker: Engine, podman: Engine, registry: RealRegistry, tmp_path: Path
) -> None:
    """It was made from one of them, and each of the others finds it up to date."""
    (tmp_path / "app.tar").write_bytes(docker_archive(APP))
    oci_layout(tmp_path / "layout", APP)
    where = registry.push(f"oci:{tmp_path / 'layout'}:example/app:1", "same:1")
    sources = [
        ("-H", docker.url, "example/app:1"),
        ("-H", podman.url, "podman:example/app:1"),
        (where,),
        ("./app.tar",),
        ("oci:layout",),
    ]
    for words in sources:
        dimgx("--update", "-w", "-t", "out.tar.zst", *words)
        for others in sources:
            assert check("-t", "out.tar.zst", *others) == (0, "up to date")


def test_settings_are_told_alike_by_all_sources(
    docker: Engine, podman: Engine, registry: RealRegistry, tmp_path: Path
) -> None:
    """An image form carries them on, so they count there."""
    (tmp_path / "app.tar").write_bytes(docker_archive(APP))
    oci_layout(tmp_path / "layout", APP)
    where = registry.push(f"oci:{tmp_path / 'layout'}:example/app:1", "settings:1")
    found = []
    for reference, url in (
        ("./app.tar", None),
        ("example/app:1", docker.url),
        ("podman:example/app:1", podman.url),
        (where, None),
    ):
        engine = EngineOptions(host=url)
        registry_options = RegistryOptions() if reference.startswith("docker://") else None
        with library.open_image(reference, engine=engine, registry=registry_options) as opened:
            found.append(origin_of_image(opened, Recipe()))
            assert opened.spool is not None and opened.spool.used == 0
    assert found[0].settings is not None and found[0].healthcheck not in (None, "none")
    assert found[0].image == f"sha256:{APP.id()}"
    assert found[0] == found[1] == found[3]
    # Podman does not tell all of the settings, but whose they are.
    assert found[2]._replace(settings=found[0].settings) == found[0]
