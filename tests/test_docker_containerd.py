"""A Docker Engine that keeps its images in containerd's store, as it does by default since 29."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import dimgx
from dimgx import EngineOptions
from dimgx.platforms import parse_platform
from dimgx.sources.tarsplit import SplitTar
from tests import programs, services
from tests.dsl import dir_, file, layer, whiteout
from tests.listing import list_tar
from tests.services import Engine
from tests.writers import Picture, docker_archive, image, oci_archive

BASE = layer(dir_("etc"), file("etc/a", b"a" * 70_000), file("gone", b"x"))
TOP = layer(whiteout("gone"), file("etc/b", b"b"))
PLAIN = image(BASE, TOP, tags=("example/plain:1",))
GZIP = image(BASE, TOP, tags=("example/gzip:1",), compression="gzip")
ARM = image(BASE, tags=("example/multi:1",), architecture="arm64", compression="gzip")
AMD = image(BASE, TOP, tags=("example/multi:1",), compression="gzip")
NAMES = ("example/plain:1", "example/gzip:1", "example/multi:1")
OTHER = docker_archive(image(BASE, tags=("example/gzip:1",)))
TREE = ["d etc", "f etc/a", "f etc/b"]


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    directory = tmp_path_factory.mktemp("docker")
    with services.running_docker(directory, on_containerd=True) as engine:
        engine.run("load", stdin=docker_archive(PLAIN, vintage="25"))
        engine.run("load", stdin=docker_archive(GZIP, vintage="29"))
        said = engine.run("load", stdin=oci_archive(AMD, ARM, nested=True)).decode()
        engine.run("tag", said.split()[-1], "example/multi:1")
        yield engine


def options(engine: Engine, *, is_direct: bool = True) -> EngineOptions:
    return EngineOptions(host=engine.url, is_direct=is_direct)


def tells_of_platforms(engine: Engine) -> bool:
    return engine.docker_api() >= 49


@pytest.mark.parametrize("name", NAMES)
def test_blobs_are_read_where_they_lie(docker: Engine, name: str) -> None:
    with dimgx.open_image(name, engine=options(docker)) as found:
        with dimgx.open_tree(found) as tree:
            assert [entry.path for entry in tree] == [b"etc", b"etc/a", b"etc/b"]
        assert found.spool is not None and found.spool.used == 0
        assert found.store is not None
        assert found.store.startswith(f"{docker.directory}/root/containerd/")
        assert not any(isinstance(one.blob, SplitTar) for one in found.layers)
        assert found.id == docker.inspected(name)["Id"]
        assert not found.is_id_of_config


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("words", [(), ("-l", "@0"), ("--verify", "all"), ("--threads", "1")])
def test_same_bytes_as_saved(docker: Engine, name: str, words: tuple[str, ...]) -> None:
    expected = programs.dimgx("-t", "-", *words, "-", stdin=docker.run("save", name)).stdout
    for more in ((), ("--no-direct",)):
        assert programs.flat_bytes(name, "-H", docker.url, *words, *more) == expected


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "docker-dir", "oci-dir"])
@pytest.mark.parametrize("words", [(), ("--keep-layers",)], ids=["flat", "kept"])
@pytest.mark.parametrize("name", NAMES)
def test_images_are_those_of_what_is_saved(
    docker: Engine, tmp_path: Path, name: str, words: tuple[str, ...], form: str
) -> None:
    found = []
    for place, more in enumerate(((), ("--no-direct",))):
        path = tmp_path / f"{place}"
        programs.dimgx("-H", docker.url, *words, *more, "--format", form, "-t", path, name)
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        found.append({f"{one.relative_to(path)}": one.read_bytes() for one in files})
    assert found[0] == found[1]


@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_kept_image_has_the_manifest_that_the_engine_has(
    docker: Engine, tmp_path: Path, name: str, is_direct: bool
) -> None:
    more = () if is_direct else ("--no-direct",)
    words = ("--keep-layers", "--format=oci-dir", "-t", tmp_path / "out", name)
    programs.dimgx("-H", docker.url, *more, *words)
    (entry,) = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]
    with dimgx.open_image(name, engine=options(docker, is_direct=is_direct)) as found:
        if found.digest is None and not is_direct:
            assert not tells_of_platforms(docker)
            return
        assert entry["digest"] == str(found.digest)


@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize(
    ("platform", "picture", "tree"),
    [("linux/amd64", AMD, TREE), ("linux/arm64", ARM, ["d etc", "f etc/a", "f gone"])],
)
def test_platforms(
    docker: Engine, platform: str, picture: Picture, tree: list[str], is_direct: bool
) -> None:
    more = () if is_direct else ("--no-direct",)
    words = ("-H", docker.url, "--platform", platform, *more)
    lines = list_tar(programs.flat_bytes("example/multi:1", *words))
    assert [" ".join(line.split()[:2]) for line in lines] == tree
    wanted = parse_platform(platform)
    engine = options(docker, is_direct=is_direct)
    with dimgx.open_image("example/multi:1", engine=engine, platform=wanted) as found:
        assert [str(one.diff_id) for one in found.layers] == picture.diff_ids()
        assert str(found.platform) == platform
        if found.is_id_of_config:  # it was found in what such an engine saves
            assert not tells_of_platforms(docker) and platform == "linux/arm64"
        else:
            assert found.id == docker.inspected("example/multi:1")["Id"]
    told = programs.dimgx("--platforms", "-H", docker.url, "example/multi:1").stdout.split()
    assert told == [b"linux/amd64", b"linux/arm64"][: 1 + tells_of_platforms(docker)]


def test_platform_that_is_not_there(docker: Engine) -> None:
    words = ("-H", docker.url, "--platform", "linux/s390x")
    code, told = programs.refused("example/multi:1", *words)
    expected = "is for linux/amd64, linux/arm64, not for linux/s390x: with --pull always"
    if not tells_of_platforms(docker):  # it is looked for in what is saved
        expected = "holds no image for linux/s390x; there is linux/amd64, linux/arm64"
    assert (code, expected in told) == (2, True)


def test_every_way_to_name_an_image(docker: Engine) -> None:
    id = str(docker.inspected("example/gzip:1")["Id"])
    for name in (id, id[7:], id[7:19], f"example/gzip@{id}", "docker.io/example/gzip:1"):
        with dimgx.open_image(name, engine=options(docker)) as found:
            assert (found.id, found.tags) == (id, ("example/gzip:1",))


@pytest.mark.parametrize("words", [(), ("--keep-layers",)], ids=["flat", "kept"])
@pytest.mark.parametrize("name", NAMES)
def test_loaded_again(docker: Engine, name: str, words: tuple[str, ...]) -> None:
    loaded = programs.dimgx("-H", docker.url, "--load", *words, "--tag", "loaded/again:1", name)
    told = docker.inspected("loaded/again:1")
    assert loaded.stdout.decode().strip() == told["Id"]
    assert told["Config"] == docker.inspected(name)["Config"]
    expected = programs.flat_bytes(name, "-H", docker.url)
    assert programs.flat_bytes("loaded/again:1", "-H", docker.url) == expected
    docker.run("image", "rm", "loaded/again:1")


def test_imported_again(docker: Engine) -> None:
    done = programs.dimgx("-H", docker.url, "--import", "example/gzip:1")
    id = done.stdout.decode().strip()
    expected = programs.flat_bytes("example/gzip:1", "-H", docker.url)
    assert programs.flat_bytes(id, "-H", docker.url) == expected
    docker.run("image", "rm", id)


def test_update_knows_it_from_everywhere(docker: Engine, tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(docker_archive(GZIP))
    words = ("--update", "--format=oci-dir", "-t", tmp_path / "out")
    programs.dimgx(*words, "-H", docker.url, "example/gzip:1")
    for more in (
        ("-H", docker.url, "example/gzip:1"),
        ("-H", docker.url, "--no-direct", "example/gzip:1"),
        (tmp_path / "image.tar",),
    ):
        assert programs.dimgx("--check", *words[1:], *more).returncode == 0
    assert programs.dimgx("--check", *words[1:], "-", stdin=OTHER, ok=False).returncode == 5


def test_a_blob_that_was_changed(docker: Engine, tmp_path: Path) -> None:
    with dimgx.open_image("example/gzip:1", engine=options(docker)) as found:
        assert found.store is not None and found.layers[1].digest is not None
        path = Path(found.store, "blobs/sha256", found.layers[1].digest.hex)
    data = path.read_bytes()
    mode = path.stat().st_mode
    path.chmod(0o644)
    try:
        path.write_bytes(data[:-1] + b"?")
        code, told = programs.refused("example/gzip:1", "-H", docker.url, "-t", tmp_path / "out")
        assert (code, "layer 2/2" in told, (tmp_path / "out").exists()) == (2, True, False)
    finally:
        path.write_bytes(data)
        path.chmod(mode)
