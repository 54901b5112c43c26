"""A real Docker daemon as an oracle: load, create, export; save; and build."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from tests import services
from tests.cases import flatten_members
from tests.dsl import Member, dir_, file, layer
from tests.engines import (
    Docker,
    agreed,
    comparable,
    read_tree,
    together,
    with_links,
    without_dockers_own,
)
from tests.listing import Node, read_tar, short_listing
from tests.programs import CHECKOUT, dimgx, flat_bytes, need, run
from tests.test_oracle_umoci import CASES
from tests.writers import Vintage, docker_archive, docker_archive_v1, image

OTHERWISE = {
    "1-removed-before": "refuses a file and its whiteout in one layer (13)",
    "2-attributes": "exports no xattrs but capabilities",
    "4-": "resets directories without an entry (21)",
    "12-also-around": "refuses (13)",
    "13-beside-a-new-file-marker-last": "refuses",
    "13-beside-a-new-directory": "refuses, or old children shine through",
    "13-beside-an-implied": "refuses",
    "13-below": "refuses",
    "14-entries-below": "shows what lies below a marker",
    "14-an-opaque-marker": "shows what lies below a marker",
    "15-": "makes the marker's parents (16)",
    "16-creates": "makes the marker's parents",
    "16-does-not": "resets directories without an entry (21)",
    "17-": "refuses",
    "19-": "shows aufs' book-keeping",
    "20-creates": "makes the device's parents",
    "21-old-ones": "resets directories without an entry",
    "21-an-old": "resets directories without an entry",
    "21-the-newest": "resets directories without an entry",
    "21-after-an-opaque-parent": "resets directories without an entry",
    "23-no-write": "resets directories without an entry (21)",
    "24-without": "resets directories without an entry (21)",
    "24-of-nothing": "makes the marker's parents (16)",
    "24-of-a-lower-file": "makes a directory of it",
    "24-with-whiteouts": "resets directories without an entry (21)",
    "25-": "resets directories without an entry (21)",
    "26-through-a-symlink-of-its-own-layer-1": "refuses where the symlink's target is missing (29)",
    "27-": "obeys trusted.overlay.opaque, exports no xattrs",
    "28-": "cannot make a target of 4,096 bytes",
    "29-": "refuses where the symlink's target is missing",
    "30-usrmerge-with-the-symlink": "refuses where the symlink's target is missing (29)",
    "31-": "makes the symlink a directory",
    "32-target-through-an-absolute": "a target's absolute symlink, moved, leads elsewhere",
    "35-a-link-whose": "exports no xattrs but capabilities",
    "36-": "refuses links to lower layers",
    "37-": "refuses links to lower layers",
    "41-also": "refuses links to lower layers",
    "41-and-it": "refuses links to lower layers",
    "41-no-xattrs": "the kernel refuses the made-up capability",
    "41-a-links": "exports no xattrs but capabilities",
    "41-they": "refuses a link before its target",
    "42-": "refuses duplicates",
    "44-before": "has no times before 1970",
    "45-extended": "exports no xattrs but capabilities",
    "45-replaced": "exports no xattrs but capabilities",
    "45-security": "exports no xattrs but capabilities",
    "46-device-numbers": "Linux has 12 and 20 bits",
    "8-": "ignores attributes of the root, and so of what it has moved to",
}
AGREED = agreed(CASES, OTHERWISE)
VINTAGES: list[Vintage] = ["1.10", "digest.tar", "25"]


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with services.running_docker(tmp_path_factory.mktemp("docker")) as engine:
        yield Docker(engine.url)


def unpacked(tar: bytes, directory: Path) -> list[Node]:
    """Give what GNU tar makes of a tar, less what Docker puts into every container."""
    directory.mkdir()
    words = ["--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "-xp", "-C", directory]
    run([need("tar"), *words], stdin=tar)
    return without_dockers_own(read_tree(directory))


def listed(nodes: list[Node]) -> list[str]:
    return short_listing(comparable(with_links(nodes), directory_times=False))


def test_most_cases_are_compared() -> None:
    assert len(AGREED) > 80


def test_export_shows_what_we_flatten(docker: Docker, tmp_path: Path) -> None:
    layers = together(AGREED)
    archive = docker_archive(image(*[layer(*members) for members in layers]))
    docker.run("load", stdin=archive)
    exported = docker.export("example/app:1.0")
    ours = without_dockers_own(read_tar(flatten_members(layers)))
    assert listed(ours) == listed(unpacked(exported, tmp_path / "tree"))


def is_kept(member: Member) -> bool:
    """Tell whether Docker keeps a member's content: not a marker's, so it cannot save that."""
    return not (member.data and b"/.wh." in b"/" + member.name)


def test_files_of_the_engine_give_the_same_bytes(docker: Docker, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    cases = [case for case in AGREED if all(map(is_kept, chain.from_iterable(case.layers)))]
    layers = [layer(*members) for members in together(cases)]
    path.write_bytes(docker_archive(image(*layers, tags=["example/direct:1"])))
    docker.run("load", "-i", path)
    direct = flat_bytes("example/direct:1", "-H", docker.host)
    assert direct == flat_bytes(str(path))


@pytest.mark.parametrize("vintage", VINTAGES)
def test_what_docker_saves_again_gives_the_same_bytes(docker: Docker, vintage: Vintage) -> None:
    picture = image(
        layer(dir_("etc"), file("etc/a", "1"), file("etc/b", "2")),
        layer(file("etc/.wh.a"), file(f"etc/{vintage}", "3")),
        layer(file("etc/.wh.a"), file(f"etc/{vintage}", "3")),
        tags=[f"example/saved:{vintage}"],
    )
    archive = docker_archive(picture, vintage=vintage)
    docker.run("load", stdin=archive)
    saved = docker.run("save", f"example/saved:{vintage}")
    ours = dimgx("-t", "-", "-", stdin=archive).stdout
    assert dimgx("-t", "-", "-", stdin=saved).stdout == ours


def test_an_archive_from_before_1_10(docker: Docker, tmp_path: Path) -> None:
    picture = image(layer(file("a", "1"), file("b")), layer(file(".wh.b")), tags=["old:1"])
    archive = docker_archive_v1(picture)
    docker.run("load", stdin=archive)
    theirs = listed(unpacked(docker.export("old:1"), tmp_path / "tree"))
    assert theirs == ["f a '1'"]
    assert listed(read_tar(dimgx("-t", "-", "-", stdin=archive).stdout)) == theirs


BUILD = """
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "/bin"]
RUN mkdir -p /d/sub /gone /was-dir && echo one > /d/one && ln /d/one /d/two && echo x > /gone/x \\
 && mkfifo /d/pipe && chmod 4755 /d/two && chown 12:34 /d/sub && ln -s ../d/one /was-dir/link
RUN rm /d/one && rm -r /gone && mkdir /gone && echo new > /gone/new && mv /d/sub /d/moved
RUN rm -r /was-dir && echo file > /was-dir && rm /bin/vi && ln -sf busybox /bin/ls
RUN mkdir /d/one && touch /d/one/inside && chmod 700 /d
"""


def test_what_docker_builds(docker: Docker, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy(need("busybox"), context / "busybox")
    (context / "Dockerfile").write_text(BUILD)
    docker.run("build", "--network=none", "-t", "built:1", context, DOCKER_BUILDKIT="0")
    exported = docker.export("built:1")
    archive = tmp_path / "built.tar"
    docker.run("save", "-o", archive, "built:1")
    ours = read_tar(flat_bytes(f"docker-archive:{archive}"))
    theirs = unpacked(exported, tmp_path / "tree")
    assert listed(without_dockers_own(ours)) == listed(theirs)
    paths = {node.path for node in ours}
    assert {b"d/one/inside", b"d/two", b"gone/new", b"was-dir", b"bin/sh"} <= paths
    assert not {b"gone/x", b"was-dir/link", b"bin/vi", b"d/sub"} & paths


def test_docker_loads_the_readmes_image(docker: Docker, tmp_path: Path) -> None:
    archive = tmp_path / "app.tar"
    run([sys.executable, CHECKOUT / "examples" / "make_image.py", archive])
    docker.run("load", "-i", archive)
    theirs = listed(unpacked(docker.export("example/app:1.0"), tmp_path / "tree"))
    ours = read_tar(flat_bytes(str(archive)))
    assert listed(without_dockers_own(ours)) == theirs
