"""Images of public projects, whose right answers real engines confirmed.

They lie beside the checkout (or where DIMGX_TEST_IMAGES says), since they are not ours to copy.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.listing import full_listing, read_tar
from tests.programs import CHECKOUT, dimgx, flat_bytes, missing, refused

IMAGES = Path(os.environ.get("DIMGX_TEST_IMAGES", CHECKOUT.parent / "shared" / "images"))

RIGHT = [
    ("docker-archive:busybox-jib.tar", "busybox-jib"),
    ("docker-archive:buildkit-docker.tar", "buildkit-docker"),
    ("oci:oci-platforms", "oci-platforms"),
    ("docker-archive:alpine-3.10.tar.gz", "alpine-3.10"),
    ("docker-archive:pause-docker1.8.tar", "pause-docker1.8"),
    ("oci:oci-apko", "oci-apko"),
    ("docker-archive:two-images.tar.xz:example.com/empty:latest", "two-images.latest"),
    ("docker-archive:two-images.tar.xz:example.com/empty/but:different", "two-images.different"),
    ("dir:dir-skopeo", "dir-skopeo"),
    ("docker-archive:bazel-whiteout.tar", "bazel-whiteout"),
    ("docker-archive:hello-docker25.tar", "hello-docker25"),
    ("oci-archive:oci-archive-zstd.tar", "oci-archive-zstd"),
    ("docker-archive:busybox-before-1.10.tgz", "busybox-before-1.10"),
]
ARCHIVES = [(text, name) for text, name in RIGHT if "-archive:" in text]


def placed(reference: str) -> str:
    """Give the reference with the directory of the images put in."""
    if not IMAGES.is_dir():
        missing("the real images are not beside the checkout")
    transport, _, rest = reference.partition(":")
    return f"{transport}:{IMAGES}/{rest}"


def right_answer(name: str) -> str:
    return (IMAGES / f"{name}.listing").read_text()


@pytest.mark.parametrize(("reference", "name"), RIGHT)
def test_listing(reference: str, name: str) -> None:
    tar = flat_bytes(placed(reference))
    assert full_listing(read_tar(tar)) == right_answer(name)


@pytest.mark.parametrize(("reference", "name"), RIGHT)
def test_every_digest_on_request_gives_the_same(
    reference: str, name: str, tmp_path: Path
) -> None:
    target = tmp_path / "flat.tar"
    dimgx("--verify", "all", "--threads", "1", "--memory", "0", "-t", target, placed(reference))
    assert full_listing(read_tar(target.read_bytes())) == right_answer(name)


@pytest.mark.parametrize(("reference", "name"), ARCHIVES)
def test_from_stdin(reference: str, name: str) -> None:
    _, path, *rest = placed(reference).split(":", 2)
    tar = dimgx("-t", "-", ":".join(["-", *rest]), stdin=Path(path).read_bytes()).stdout
    assert full_listing(read_tar(tar)) == right_answer(name)


@pytest.mark.parametrize(("reference", "name"), RIGHT)
def test_the_rows_are_listed(reference: str, name: str) -> None:
    lines = dimgx(placed(reference)).stdout.decode().splitlines()
    assert lines[0].startswith("REPO TAG") and len(lines) > 1


def test_broken_parent_chain(tmp_path: Path) -> None:
    target = tmp_path / "flat.tar"
    code, told = refused(placed("docker-archive:broken-parent-loop.tar"), "-t", target)
    assert code == 2 and "parent" in told and not list(tmp_path.iterdir())


def test_two_images_are_named(tmp_path: Path) -> None:
    target = tmp_path / "flat.tar"
    code, told = refused(placed("docker-archive:two-images.tar.xz"), "-t", target)
    assert code == 2
    assert "example.com/empty:latest" in told and "example.com/empty/but:different" in told
    assert not list(tmp_path.iterdir())
