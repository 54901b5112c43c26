"""The Docker Engine's images read from its own files, against what it saves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import dimgx
from dimgx import EngineOptions
from tests import programs, services
from tests.dsl import dir_, file, layer, symlink, whiteout
from tests.services import Engine
from tests.writers import docker_archive, image

NAME = "direct/app:1"
BASE = layer(file("etc/kept", b"base" * 999), file(b"etc/\xff", b"not UTF-8"), file("gone", b"x"))
TOP = layer(whiteout("gone"), symlink("link", "/etc"), file("etc/new", b"top"), file("empty", b""))
MERGED = layer(dir_("usr"), dir_("usr/lib"), symlink("lib", "usr/lib"), file("lib/x", b"below it"))
PICTURE = image(BASE, TOP, MERGED, layer(), tags=(NAME,))
SAVED = docker_archive(PICTURE)


@pytest.fixture(scope="module")
def docker(docker_engine: Engine) -> Iterator[Engine]:
    docker_engine.run("load", stdin=SAVED)
    yield docker_engine
    docker_engine.run("image", "rm", NAME)


def options(engine: Engine, *, is_direct: bool = True) -> EngineOptions:
    return EngineOptions(host=engine.url, is_direct=is_direct)


def stored(engine: Engine, place: int) -> Path:
    """Give the directory that the files of a layer lie in."""
    told = engine.inspected(NAME)["GraphDriver"]["Data"]
    return Path([told["UpperDir"], *told["LowerDir"].split(":")][::-1][place])


@contextmanager
def moved_away(path: Path) -> Iterator[None]:
    aside = path.with_name(f"{path.name}-aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def entry_of(engine: Engine, place: int) -> Path:
    """Give what the engine's store knows of a layer."""
    (entry,) = (
        path.parent
        for path in (engine.directory / "root").glob("image/overlay2/layerdb/sha256/*/cache-id")
        if path.read_text() == stored(engine, place).parent.name
    )
    return entry


@pytest.mark.parametrize("words", [(), ("--threads", "1"), ("-l", "@0"), ("--verify", "all")])
def test_same_bytes_as_from_what_is_saved(docker: Engine, words: tuple[str, ...]) -> None:
    expected = programs.dimgx("-t", "-", *words, "-", stdin=SAVED).stdout
    for more in ((), ("--no-direct",)):
        assert programs.flat_bytes(NAME, "-H", docker.url, *words, *more) == expected


@pytest.mark.parametrize("is_direct", [True, False])
def test_nothing_is_saved_where_files_can_be_read(docker: Engine, is_direct: bool) -> None:
    with dimgx.open_image(NAME, engine=options(docker, is_direct=is_direct)) as found:
        with dimgx.open_tree(found) as tree:
            assert b"etc/new" in {entry.path for entry in tree}
        assert found.spool is not None
        assert (found.spool.used == 0) == is_direct
        assert found.store == (str(docker.directory / "root") if is_direct else None)


def test_listing_is_the_same(docker: Engine) -> None:
    direct, saved = (
        programs.dimgx("-H", docker.url, "--json", *more, NAME).stdout
        for more in ((), ("--no-direct",))
    )
    assert direct == saved


def test_verbose_tells_where_it_is_read_from(docker: Engine) -> None:
    for more, expected in (((), True), (("--no-direct",), False)):
        told = programs.dimgx("-H", docker.url, "-v", "-t", "-", *more, NAME).stderr.decode()
        assert (f"read from {docker.directory}/root" in told) == expected


@pytest.mark.parametrize(
    "words", [("--format", "oci-archive"), ("--keep-layers", "--format", "docker-archive")]
)
def test_images_are_those_of_what_is_saved(
    docker: Engine, tmp_path: Path, words: tuple[str, ...]
) -> None:
    made = []
    for number, more in enumerate(((), ("--no-direct",))):
        target = tmp_path / f"{number}.tar"
        programs.dimgx("-H", docker.url, "-q", "-t", target, *words, *more, NAME)
        made.append(target.read_bytes())
    assert made[0] == made[1]


def test_layer_of_the_store_as_it_is(docker: Engine) -> None:
    raw = programs.dimgx("-H", docker.url, "--raw", "-l", "@0", "-t", "-", NAME).stdout
    assert raw == BASE


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.write_bytes(b"BASE" * 999), "layer 1/4"),
        (lambda path: path.write_bytes(b"short"), "etc/kept"),
        (lambda path: path.unlink(), "etc/kept"),
    ],
    ids=["changed", "cut", "removed"],
)
def test_files_that_were_changed(docker: Engine, tmp_path: Path, change: object, told: str) -> None:
    path = stored(docker, 0) / "etc/kept"
    data, status = path.read_bytes(), path.stat()
    try:
        change(path)  # type: ignore[operator]
        code, problem = programs.refused(NAME, "-H", docker.url, "-t", tmp_path / "x.tar")
    finally:
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert told in problem


def test_link_in_a_layer_leads_nowhere(docker: Engine, tmp_path: Path) -> None:
    """Not even where digests are not checked."""
    outside, inside = tmp_path / "outside", stored(docker, 0) / "etc"
    outside.mkdir()
    (outside / "kept").write_bytes(b"mine" * 999)
    with moved_away(inside):
        inside.symlink_to(outside)
        try:
            code, told = programs.refused(
                NAME, "-H", docker.url, "--verify", "none", "-t", tmp_path / "x.tar"
            )
        finally:
            inside.unlink()
    assert code == 2
    assert "--no-direct" in told


def is_direct(engine: Engine) -> bool:
    with dimgx.open_image(NAME, engine=options(engine)) as found:
        return found.store is not None


def test_what_is_not_there_as_expected_is_saved(docker: Engine) -> None:
    assert is_direct(docker)
    entry = entry_of(docker, 1)
    for name in ("cache-id", "size", "tar-split.json.gz"):
        with moved_away(entry / name):
            assert not is_direct(docker)
    with moved_away(entry / "cache-id"):
        expected = programs.dimgx("-t", "-", "-", stdin=SAVED).stdout
        assert programs.flat_bytes(NAME, "-H", docker.url) == expected


def kinds_for_another_user(url: str) -> set[str]:
    """Give what the layers' blobs are for who is not root."""
    script = (
        "engine = dimgx.EngineOptions(host=sys.argv[1])\n"
        f"image = dimgx.open_image({NAME!r}, engine=engine)\n"
        "assert image.store is None  # as it is not known yet\n"
        "print(*(type(one.blob).__name__ for one in image.fetch(image.layers, None)))\n"
    )
    return set(programs.run_as_other(script, url).stdout.decode().split())


def test_who_is_not_root_has_it_saved(docker: Engine) -> None:
    with services.lent(docker) as url:
        assert kinds_for_another_user(url) == {"Extent"}


def test_who_may_read_all_of_it_does(docker: Engine) -> None:
    """A rootless engine's files are its user's, but for those that a layer gives to another."""
    root, own = docker.directory / "root", stored(docker, 0) / "etc/kept"
    places = [stored(docker, place) for place in range(4)]
    opened = [*root.parents, root, root / "overlay2", *(path.parent for path in places)]
    opened += [root / "image", *(root / "image").rglob("*"), own]
    with ExitStack() as stack:
        for path in opened:
            mode = path.stat().st_mode
            if not mode & 0o001:
                stack.callback(path.chmod, mode)
                path.chmod(mode | 0o005)
        url = stack.enter_context(services.lent(docker))
        assert kinds_for_another_user(url) == {"SplitTar"}
        own.chmod(0o600)
        assert kinds_for_another_user(url) == {"Extent"}


@pytest.mark.parametrize("word", ["--direct", "--no-direct"])
def test_choice_for_an_image_that_is_at_no_engine(tmp_path: Path, word: str) -> None:
    (tmp_path / "a.tar").write_bytes(SAVED)
    code, told = programs.refused(tmp_path / "a.tar", word)
    assert (code, "has no effect on an image that is at no engine" in told) == (1, True)


def test_what_else_engines_put_into_layers(docker: Engine) -> None:
    docker.build("direct/made", {"root/bin/busybox": services.busybox()}, MADE)
    saved = docker.run("save", "direct/made")
    expected = programs.dimgx("-t", "-", "-", stdin=saved).stdout
    assert programs.flat_bytes("direct/made", "-H", docker.url) == expected
    docker.run("image", "rm", "direct/made")


MADE = r"""FROM scratch
COPY root/ /
SHELL ["/bin/busybox", "sh", "-ec"]
RUN PATH=/; b=/bin/busybox; $b mkdir -p /a/b/c /d; echo 1 >/a/b/c/f; $b ln /a/b/c/f /d/hard; \
    $b dd if=/dev/zero of=/sparse bs=1 count=1 seek=3000000; $b mkfifo /d/p; $b ln -s /a /d/link
RUN /bin/busybox rm -r /a; /bin/busybox mkdir /a; echo 2 >/a/f
"""
