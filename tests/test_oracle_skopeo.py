"""skopeo and podman carry an image from form to form; the flat tar stays the same."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cases import flatten_layers
from tests.dsl import dir_, file, hardlink, layer, symlink, whiteout
from tests.programs import CHECKOUT, flat_bytes, need, need_root, run
from tests.writers import docker_archive, image

LAYERS = [
    layer(dir_("etc"), file("etc/a", "1"), hardlink("etc/b", "etc/a"), symlink("l", "etc")),
    layer(whiteout("etc/a"), file("new", b"x" * 100_000, xattrs={"user.a": b"1"})),
    layer(),
    layer(whiteout("etc/a"), file("etc/c", mode=0o4755)),
]
FORMS = [
    "docker-archive:{}/d.tar:copy/app:2.0",
    "oci-archive:{}/o.tar:2.0",
    "oci:{}/o:2.0",
    "dir:{}/dir",
]
COMPRESSION = [[], ["--dest-compress-format", "zstd"], ["--dest-compress-format", "gzip"]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    path = tmp_path_factory.mktemp("source") / "image.tar"
    path.write_bytes(docker_archive(image(*LAYERS)))
    return f"docker-archive:{path}", flatten_layers(LAYERS)


def copy(source: str, target: str, *words: str, policy: Path) -> None:
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    run([need("skopeo"), "--policy", policy, "copy", "-q", *words, source, target])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("words", COMPRESSION, ids=["as-is", "zstd", "gzip"])
def test_every_form_gives_the_same_bytes(
    form: str, words: list[str], source: tuple[str, bytes], tmp_path: Path
) -> None:
    reference, expected = source
    target = form.format(tmp_path)
    try:
        copy(reference, target, *words, policy=tmp_path / "policy.json")
    except AssertionError as exc:
        if "zstd" not in words or "none of which support it" not in str(exc):
            raise
        pytest.skip("this skopeo puts no zstd into what Docker saves")
    assert flat_bytes(target) == expected
    assert flat_bytes(target, "--verify", "all") == expected


def test_there_and_back_again(source: tuple[str, bytes], tmp_path: Path) -> None:
    reference, expected = source
    policy = tmp_path / "policy.json"
    for number, form in enumerate([*FORMS, FORMS[0]]):
        directory = tmp_path / str(number)
        directory.mkdir()
        target = form.format(directory)
        copy(reference, target, policy=policy)
        reference = target
    assert flat_bytes(reference) == expected


def test_the_readmes_image_is_one_for_skopeo(tmp_path: Path) -> None:
    archive = tmp_path / "app.tar"
    run([sys.executable, CHECKOUT / "examples" / "make_image.py", archive])
    target = f"oci:{tmp_path}/layout:latest"
    copy(f"docker-archive:{archive}", target, policy=tmp_path / "policy.json")
    assert flat_bytes(target) == flat_bytes(f"docker-archive:{archive}")


@pytest.fixture
def short() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="p", dir="/tmp") as directory:
        yield directory


def test_podman_saves_what_it_loaded(source: tuple[str, bytes], tmp_path: Path, short: str) -> None:
    need_root()
    reference, expected = source
    # Podman takes no path of more than 50 characters here.
    place = ["--root", f"{short}/root", "--runroot", f"{short}/run", "--storage-driver=vfs"]
    podman = [need("podman"), *place, "--cgroup-manager=cgroupfs", "--events-backend=none"]
    run([*podman, "load", "-q", "-i", reference.partition(":")[2]])
    for form in ("docker-archive", "oci-archive"):
        saved = tmp_path / f"{form}.tar"
        run([*podman, "save", "-q", f"--format={form}", "-o", saved, "example/app:1.0"])
        assert flat_bytes(f"{form}:{saved}") == expected
