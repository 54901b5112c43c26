"""Images that a real containerd keeps, against the archives that they were imported from."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import dimgx
from dimgx import EngineOptions
from dimgx.extent import Extent
from dimgx.platforms import parse_platform
from dimgx.sources.endpoint import find_containerd
from tests import programs, services
from tests.dsl import dir_, file, hardlink, layer, opaque, whiteout
from tests.opened import plain
from tests.services import Engine
from tests.writers import OCI as OCI_TYPE
from tests.writers import (
    Picture,
    add_blob,
    add_image,
    docker_archive,
    image,
    oci_archive,
    sha256,
    to_json,
)

BASE = layer(dir_("d"), file("d/a", b"first"), hardlink("d/b", "d/a"), file("x", b"x" * 99_999))
TOP = layer(whiteout("d/a"), opaque("e"), file("e/f", b"second", mode=0o4755))
DOCKER = image(BASE, TOP, tags=("example/docker:1",))
OCI = image(TOP, BASE, tags=("1",), compression=["gzip", "zstd"])
HOST = image(TOP, tags=(), architecture="amd64")
ARM = image(TOP, BASE, tags=(), architecture="arm64")
POD = image(layer(file("k")), tags=("quay.example/pod:1",))
DOCKER_NAME, OCI_NAME, MULTI_NAME = "example/docker:1", "quay.example:5000/oci:1", "multi"
MULTI = oci_archive(HOST, ARM)
AMD64 = ("--platform", "linux/amd64")


def bring(engine: Engine, data: bytes, *words: str, namespace: str = "default") -> None:
    """Import an archive."""
    command = ("--namespace", namespace, "images", "import", "--no-unpack", "--all-platforms")
    engine.run(*command, *words, "-", stdin=data)


def digest_of(engine: Engine, name: str, namespace: str = "default") -> str:
    """Give what a name points at."""
    lines = engine.ask("--namespace", namespace, "images", "list", f'name=="{name}"')
    return lines[1].split()[2]


@pytest.fixture(scope="module")
def containerd(containerd_service: Engine) -> Engine:
    one = containerd_service
    bring(one, docker_archive(DOCKER))
    bring(one, oci_archive(OCI), "--base-name", "quay.example:5000/oci")
    bring(one, MULTI, "--index-name", "docker.io/library/multi:latest")
    bring(one, docker_archive(POD), namespace="k8s.io")
    # As what serves Kubernetes keeps an image that it has pulled.
    digest = digest_of(one, "quay.example/pod:1", "k8s.io")
    for name in (f"sha256:{POD.id()}", f"quay.example/pod@{digest}"):
        one.run("--namespace", "k8s.io", "images", "tag", "quay.example/pod:1", name)
    return one


@pytest.fixture(autouse=True)
def asked(containerd: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is started look for this containerd only."""
    monkeypatch.setenv("CONTAINERD_ADDRESS", containerd.url.removeprefix("unix://"))
    monkeypatch.delenv("CONTAINERD_NAMESPACE", raising=False)


def options(engine: Engine, **more: object) -> EngineOptions:
    return EngineOptions(containerd_address=engine.url, **more)  # type: ignore[arg-type]


def blob(engine: Engine, data: bytes) -> Path:
    """Give where a blob lies."""
    (path,) = engine.directory.glob(f"root/*content*/blobs/sha256/{sha256(data)}")
    return path


def use_program(monkeypatch: pytest.MonkeyPatch, place: Path, words: str, answer: str) -> None:
    """Have a `ctr` that does `answer` where it is called with `words`, a pattern of the shell."""
    path = place / "bin" / "ctr"
    path.parent.mkdir()
    real = programs.need("ctr")
    path.write_text(
        f'#!/bin/sh\nctr={real}\ncase "$*" in {words}) {answer} ;; *) exec "$ctr" "$@"; esac\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


def from_archive(data: bytes, *words: str) -> bytes:
    return programs.dimgx(*words, "-t", "-", "-", stdin=data).stdout


# -- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "archive", "words"),
    [
        (DOCKER_NAME, docker_archive(DOCKER), ()),
        (OCI_NAME, oci_archive(OCI), ()),
        (MULTI_NAME, MULTI, AMD64),
        (MULTI_NAME, MULTI, ("--platform", "linux/arm64")),
    ],
)
def test_same_bytes_as_from_the_archive(name: str, archive: bytes, words: tuple[str, ...]) -> None:
    expected = from_archive(archive, *words)
    for more in ((), ("--no-direct",), ("--verify", "all"), ("--threads", "1")):
        assert programs.flat_bytes(f"containerd:{name}", *words, *more) == expected


@pytest.mark.parametrize("picture", [DOCKER, OCI], ids=["docker", "oci"])
def test_blobs_are_read_where_they_lie(containerd: Engine, picture: Picture) -> None:
    name = f"containerd:{DOCKER_NAME if picture is DOCKER else OCI_NAME}"
    with dimgx.open_image(name, engine=options(containerd)) as found:
        assert found.store == str(next(containerd.directory.glob("root/*content*")))
        assert all(isinstance(one.blob, Extent) for one in found.layers)
        assert [plain(one) for one in found.layers] == list(picture.layers)
        assert found.id == f"sha256:{picture.id()}"
    with dimgx.open_image(name, engine=options(containerd, is_direct=False)) as found:
        assert found.store is None
        assert not any(isinstance(one.blob, Extent) for one in found.layers)
        assert [plain(one) for one in found.layers] == list(picture.layers)
        assert found.id == f"sha256:{picture.id()}"


@pytest.mark.parametrize(
    "answer", ["echo '     root    /usr'", "echo root", "echo '     root    /nowhere'", "exit 1"]
)
def test_what_is_not_where_it_is_said_to_be_is_handed_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str
) -> None:
    """As where the socket is another machine's."""
    use_program(monkeypatch, tmp_path, "*plugins*", answer)
    expected = from_archive(docker_archive(DOCKER))
    assert programs.flat_bytes(f"containerd:{DOCKER_NAME}") == expected


def test_who_is_not_root_has_blobs_handed_out(containerd: Engine) -> None:
    """Whoever may use the socket may not read the files for that."""
    script = (
        "engine = dimgx.EngineOptions(host=sys.argv[1])\n"
        f"image = dimgx.open_image('containerd:{DOCKER_NAME}', engine=engine)\n"
        "assert image.store is None\n"
        "sys.stdout.buffer.writelines(image.layers[0].blob.iter_chunks())\n"
    )
    with services.lent(containerd) as url:
        assert programs.run_as_other(script, url).stdout == BASE


def test_listing(containerd: Engine) -> None:
    told = [
        programs.dimgx(*words, "--json", f"containerd:{OCI_NAME}").stdout
        for words in ((), ("--no-direct",), ("-H", containerd.url))
    ]
    assert told[0] == told[1] == told[2]
    value = json.loads(told[0])
    assert [row["size"] for row in value["rows"]] == [len(data) for data in OCI.blobs()[::-1]]
    assert value["rows"][0]["tags"] == [OCI_NAME]


def test_verbose_tells_where_it_is_read_from() -> None:
    told = [
        programs.dimgx("-v", *words, "-t", "-", f"containerd:{DOCKER_NAME}").stderr.decode()
        for words in ((), ("--no-direct",))
    ]
    assert ["content" in text and "read from /" in text for text in told] == [True, False]


def test_the_same_image_in_another_form(tmp_path: Path) -> None:
    programs.dimgx("--keep-layers", "-t", f"oci:{tmp_path}/out", f"containerd:{OCI_NAME}")
    for data in (*OCI.blobs(), OCI.config_json()):
        assert (tmp_path / "out/blobs/sha256" / sha256(data)).read_bytes() == data


def test_update_and_check(tmp_path: Path) -> None:
    words = ("-t", tmp_path / "out.tar", f"containerd:{DOCKER_NAME}")
    assert programs.dimgx("--check", *words, ok=False).returncode == 5
    programs.dimgx("--update", *words)
    assert programs.dimgx("--check", *words).returncode == 0


def test_what_dimgx_writes_can_be_imported(containerd: Engine) -> None:
    data = programs.dimgx("-t", "docker-archive:-:app:flat", f"containerd:{OCI_NAME}").stdout
    bring(containerd, data)
    flat = programs.flat_bytes("containerd:app:flat")
    assert flat == programs.flat_bytes(f"containerd:{OCI_NAME}")
    containerd.run("images", "remove", "--sync", "docker.io/library/app:flat")


# -- names ---------------------------------------------------------------------------------------


def test_names(containerd: Engine) -> None:
    digest = digest_of(containerd, "docker.io/example/docker:1")
    hex = digest.removeprefix("sha256:")
    for name in (
        "example/docker:1", "docker.io/example/docker:1", "index.docker.io/example/docker:1",
        digest, hex, hex[:12], DOCKER.id(), DOCKER.id()[:7], f"sha256:{DOCKER.id()[:9]}",
        f"example/docker@{digest}", f"docker.io/example/docker:1@{digest}",
    ):  # fmt: skip
        with dimgx.open_image(f"containerd:{name}", engine=options(containerd)) as found:
            assert (found.id, found.tags) == (f"sha256:{DOCKER.id()}", ("example/docker:1",))
            assert str(found.digest) == digest
            assert found.reference == f"containerd:{name}"


def test_latest_is_understood(containerd: Engine) -> None:
    chosen = parse_platform("linux/amd64")
    with dimgx.open_image("containerd:multi", engine=options(containerd), platform=chosen) as found:
        assert found.tags == ("multi:latest",)


def test_an_image_has_all_of_its_names(containerd: Engine) -> None:
    # Newer programs would refuse the second one.
    is_strict = "--skip-reference-check" in containerd.run("images", "tag", "--help").decode()
    words = ("images", "tag", *(["--skip-reference-check"] if is_strict else []))
    for name in ("other.example/name:2", "docker.io/Not/A.Docker:Name"):
        containerd.run(*words, "docker.io/example/docker:1", name)
    with dimgx.open_image("containerd:example/docker:1", engine=options(containerd)) as found:
        assert sorted(found.tags) == [
            "docker.io/Not/A.Docker:Name", "example/docker:1", "other.example/name:2",
        ]  # fmt: skip
    containerd.run("images", "remove", "other.example/name:2", "docker.io/Not/A.Docker:Name")


def test_name_that_another_repository_shares(containerd: Engine) -> None:
    """As where Kubernetes has an image by its digest, and a mirror's tag for the same one."""
    digest = digest_of(containerd, "docker.io/example/docker:1")
    name = f"registry.example/own@{digest}"
    containerd.run("images", "tag", "docker.io/example/docker:1", name)
    with dimgx.open_image(f"containerd:{name}", engine=options(containerd)) as found:
        assert (found.id, found.tags) == (f"sha256:{DOCKER.id()}", ("example/docker:1",))
    containerd.run("images", "remove", name)


def test_name_as_it_is_written_comes_before_the_completed_one(containerd: Engine) -> None:
    containerd.run("images", "tag", "quay.example:5000/oci:1", "example/docker:1")
    for name, picture in (("example/docker:1", OCI), ("docker.io/example/docker:1", DOCKER)):
        with dimgx.open_image(f"containerd:{name}", engine=options(containerd)) as found:
            assert found.id == f"sha256:{picture.id()}"
    containerd.run("images", "remove", "example/docker:1")


def test_namespace(containerd: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    code, told = programs.refused("containerd:quay.example/pod:1")
    assert (code, "CONTAINERD_NAMESPACE=k8s.io would find it" in told) == (2, True)
    monkeypatch.setenv("CONTAINERD_NAMESPACE", "k8s.io")
    digest = digest_of(containerd, "quay.example/pod:1", "k8s.io")
    for name in (
        "quay.example/pod:1", f"quay.example/pod@{digest}", f"sha256:{POD.id()}", POD.id()[:13],
    ):  # fmt: skip
        asked = options(containerd, containerd_namespace="k8s.io")
        with dimgx.open_image(f"containerd:{name}", engine=asked) as found:
            assert (found.id, found.tags) == (f"sha256:{POD.id()}", ("quay.example/pod:1",))
        flat = programs.flat_bytes(f"containerd:{name}")
        assert flat == programs.flat_bytes(f"containerd:{name}", "--no-direct")
    # The files of the other namespace are there as well, but its names mean nothing.
    assert programs.refused(f"containerd:{DOCKER_NAME}")[0] == 2


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("example/dokcer:1", "(similar: docker.io/example/docker:1)"),
        ("example/docker:2", "(similar: docker.io/example/docker:1)"),
        ("example/docker", "its registry may: dimgx [options] docker://example/docker"),
        ("0123456789ab", "has no image '0123456789ab'"),
        (f"example/other@sha256:{'0' * 64}", "has no image 'example/other@sha256:000"),
    ],
)
def test_absence(containerd: Engine, name: str, told: str) -> None:
    code, line = programs.refused(f"containerd:{name}")
    assert (code, told in line) == (2, True), line
    assert f"dimgx: containerd at {containerd.url} (namespace default) has no image" in line


def test_name_of_something_else(containerd: Engine) -> None:
    """It is there, but nothing that could be flattened."""
    blobs: dict[str, bytes] = {}
    kind = "application/vnd.example.chart"
    config = add_blob(blobs, b"{}", kind)
    what = {"schemaVersion": 2, "mediaType": f"{OCI_TYPE}.manifest.v1+json", "config": config,
            "layers": [add_blob(blobs, b"chart", kind)]}  # fmt: skip
    named = add_blob(blobs, to_json(what), f"{OCI_TYPE}.manifest.v1+json")
    named |= {"annotations": {"org.opencontainers.image.ref.name": "1"}}
    data = oci_archive(extra=[named], extra_blobs=blobs)
    bring(containerd, data, "--base-name", "quay.example/chart")
    code, told = programs.refused("containerd:quay.example/chart:1")
    assert (code, f"holds no image, but {kind}" in told) == (2, True)
    containerd.run("images", "remove", "--sync", "quay.example/chart:1")


# -- platforms -----------------------------------------------------------------------------------


def test_platforms(containerd: Engine) -> None:
    command = ("--platforms", f"containerd:{MULTI_NAME}")
    assert programs.dimgx(*command).stdout == b"linux/amd64\nlinux/arm64\n"
    code, told = programs.refused(f"containerd:{MULTI_NAME}", "--platform", "linux/s390x")
    assert (code, "holds no image for linux/s390x; there is linux/amd64, linux/arm64" in told) == (
        2, True,
    )  # fmt: skip


def test_all_platforms_at_once(containerd: Engine, tmp_path: Path) -> None:
    out = tmp_path / "{platform}.tar"
    programs.dimgx("--platform", "all", "-t", out, f"containerd:{MULTI_NAME}")
    assert len(os.listdir(tmp_path)) == 2
    for name in ("amd64", "arm64"):
        wanted = from_archive(MULTI, "--platform", f"linux/{name}")
        assert (tmp_path / f"linux-{name}.tar").read_bytes() == wanted


def test_platform_that_was_not_pulled(containerd: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index lists it all the same. Elsewhere its blobs are there, but not in this namespace."""
    bring(containerd, MULTI, "--index-name", "docker.io/library/part:1", namespace="part")
    blobs: dict[str, bytes] = {}
    manifest = add_image(blobs, ARM, "gzip")["digest"]
    containerd.run("--namespace", "part", "content", "delete", manifest)
    monkeypatch.setenv("CONTAINERD_NAMESPACE", "part")
    words = ("--no-direct", "containerd:part:1")
    assert programs.dimgx("-t", "-", *AMD64, *words).stdout == from_archive(MULTI, *AMD64)
    code, told = programs.refused(words[1], words[0], "--platform", "linux/arm64")
    assert (code, "lists an image for linux/arm64, but does not hold it" in told) == (2, True)


# -- what goes wrong -----------------------------------------------------------------------------


def test_layer_that_was_discarded(
    containerd: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where containerd is told to keep no blob of what it has unpacked."""
    target = tmp_path / "out.tar"
    bring(containerd, oci_archive(OCI), "--base-name", "quay.example/lost", namespace="lost")
    containerd.run("--namespace", "lost", "content", "delete", f"sha256:{sha256(OCI.blobs()[0])}")
    monkeypatch.setenv("CONTAINERD_NAMESPACE", "lost")
    code, told = programs.refused("containerd:quay.example/lost:1", "--no-direct", "-t", target)
    assert (code, "discard_unpacked_layers" in told, target.exists()) == (2, True, False)
    assert "layer 1/2" in told
    assert programs.dimgx("containerd:quay.example/lost:1", "--no-direct").returncode == 0
    manifest = digest_of(containerd, "quay.example/lost:1", "lost")
    containerd.run("--namespace", "lost", "content", "delete", manifest)
    code, told = programs.refused("containerd:quay.example/lost:1", "--no-direct", "-t", target)
    assert (code, f"the manifest {manifest} is missing" in told) == (2, True)


def test_layer_that_is_not_kept_with_its_image(containerd: Engine) -> None:
    """A foreign one, which containerd does not fetch."""
    blobs: dict[str, bytes] = {}
    kind = f"{OCI_TYPE}.layer.nondistributable.v1.tar"
    lone = image(layer(file("foreign")), tags=())
    named = add_image(blobs, lone, media_types=[kind])
    del blobs[sha256(lone.layers[0])]
    named |= {"annotations": {"org.opencontainers.image.ref.name": "1"}}
    data = oci_archive(extra=[named], extra_blobs=blobs)
    bring(containerd, data, "--base-name", "quay.example/foreign")
    code, told = programs.refused("containerd:quay.example/foreign:1", "-t", "-")
    assert (code, "as its licence has it (a foreign layer)" in told) == (2, True)
    containerd.run("images", "remove", "--sync", "quay.example/foreign:1")


def test_damage(containerd: Engine, tmp_path: Path) -> None:
    picture = image(layer(file("this", b"right" * 99)), tags=("damaged:1",))
    bring(containerd, docker_archive(picture))
    path, out = blob(containerd, picture.layers[0]), tmp_path / "out.tar"
    path.chmod(0o600)
    path.write_bytes(picture.layers[0].replace(b"right", b"wrong"))
    for words in ((), ("--no-direct",)):
        code, told = programs.refused("containerd:damaged:1", *words, "-t", out)
        assert (code, "digest" in told, out.exists()) == (2, True, False)
    containerd.run("images", "remove", "--sync", "docker.io/library/damaged:1")


@pytest.mark.parametrize(
    ("said", "end", "code"),
    [
        ("code = Unavailable desc = transport is closing", "exit 1", 4),  # containerd has ended
        ("no space left on device", "exit 1", 2),
        ("no space left on device", "kill -9 $$", 2),
        ("", "exit 0", 2),
    ],
)
def test_program_that_breaks_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, end: str, code: int
) -> None:
    answer = f'"$ctr" "$@" | head -c 50000; echo "ctr: {said}" >&2; {end}'
    use_program(monkeypatch, tmp_path, f"*content\\ get\\ *{sha256(BASE)}", answer)
    out = tmp_path / "out.tar"
    found, told = programs.refused(f"containerd:{DOCKER_NAME}", "--no-direct", "-t", out)
    assert (found, said in told, out.exists()) == (code, True, False)


def test_document_that_does_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_program(monkeypatch, tmp_path, f"*content\\ get\\ *{DOCKER.id()}", "exec cat /dev/zero")
    code, told = programs.refused(f"containerd:{DOCKER_NAME}", "--no-direct")
    assert (code, f"the config sha256:{DOCKER.id()} has more than" in told) == (2, True)


def test_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, containerd: Engine) -> None:
    code, told = programs.refused(f"containerd:{DOCKER_NAME}", "-H", f"unix://{tmp_path}/none")
    assert (code, "--host) does not answer: No such file" in told) == (4, True)
    code, told = programs.refused(f"containerd:{DOCKER_NAME}", "-H", "tcp://127.0.0.1:1")
    assert (code, "listens at a Unix socket, not at tcp://127.0.0.1:1" in told) == (1, True)
    monkeypatch.setenv("CONTAINERD_ADDRESS", f"{tmp_path}/none")
    code, told = programs.refused(f"containerd:{DOCKER_NAME}")
    assert (code, "(CONTAINERD_ADDRESS) does not answer" in told) == (4, True)
    path = containerd.url.removeprefix("unix://")
    for host in (path, containerd.url):
        assert programs.dimgx(f"containerd:{DOCKER_NAME}", "-H", host).returncode == 0


def test_none_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINERD_ADDRESS", "")
    if find_containerd(EngineOptions()) is not None:
        programs.missing("a machine without a containerd of its own is needed")
    code, told = programs.refused(f"containerd:{DOCKER_NAME}")
    assert (code, "no containerd is here: nothing listens at /run/containerd/" in told) == (2, True)


def test_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, told = programs.refused(f"containerd:{DOCKER_NAME}")
    assert (code, "its program `ctr`, which is not in PATH" in told) == (2, True)
    (tmp_path / "ctr").touch(0o755)
    code, told = programs.refused(f"containerd:{DOCKER_NAME}")
    assert (code, told) == (2, f"dimgx: {tmp_path}/ctr: Exec format error\n")


@pytest.mark.parametrize("pull", ["missing", "always"])
def test_pull(pull: str) -> None:
    code, told = programs.refused(f"containerd:{DOCKER_NAME}", "--pull", pull)
    assert (code, f"docker://{DOCKER_NAME} comes from its registry" in told) == (1, True)


def test_into_another_engine(containerd: Engine, docker_engine: Engine) -> None:
    """`-H` is the address of the one that the image comes from."""
    words = ("-H", containerd.url, "--tag", "from/containerd:1", f"containerd:{DOCKER_NAME}")
    env = {"DOCKER_HOST": docker_engine.url, "PYTHONPATH": str(programs.CHECKOUT)}
    programs.run([sys.executable, "-m", "dimgx", "--load=docker", *words], env=env)
    assert docker_engine.ask("images", "-q", "from/containerd:1")
    docker_engine.run("rmi", "from/containerd:1")


def test_back_into_containerd(containerd: Engine) -> None:
    for word in ("--load", "--import"):
        code, told = programs.refused(f"containerd:{DOCKER_NAME}", word)
        assert (code, "| ctr images import -`" in told) == (1, True)
