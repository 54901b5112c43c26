"""`--squash-from`: the lower layers stay, the upper ones become one that does the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dimgx.image import Layer
from dimgx.inspector import list_rows
from tests.dsl import dir_, file, hardlink, layer, opaque, symlink, whiteout
from tests.engines import comparable, read_tree
from tests.listing import list_tar, raw_members, read_tar, short_listing
from tests.opened import opened, plain
from tests.programs import dimgx, flat_bytes, need, need_root, refused, run
from tests.services import Engine
from tests.writers import docker_archive, image, oci_layout

LAYERS = [
    layer(
        dir_("etc", mode=0o750), file("etc/a", "a"), file("etc/b", "b"), file("var/x", "x"),
        file("var/y", "y"), symlink("lib", "usr/lib"), file("usr/lib/l", "l"), file("gone", "g"),
    ),
    layer(dir_("opt"), file("opt/app", "1", mode=0o755)),
    layer(whiteout("etc/a"), opaque("var"), file("var/z", "z"), hardlink("opt/link", "opt/app",
          mode=0o755)),
    layer(file("lib/new", "n"), whiteout("gone"), file("opt/app", "2", mode=0o755)),
]  # fmt: skip
PICTURE = image(*LAYERS)
FORMS = {
    "docker-archive": "docker-archive:out", "oci-archive": "oci-archive:out", "oci-dir": "oci:out",
    "docker-dir": "dir:out",
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.tar").write_bytes(docker_archive(PICTURE))
    oci_layout(tmp_path / "app", PICTURE, default="gzip")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def layers_of(reference: str) -> list[Layer]:
    with opened(reference) as found:
        return list(found.layers)


@pytest.mark.parametrize("source", ["./app.tar", "oci:app"])
@pytest.mark.parametrize("form", FORMS)
def test_in_each_form(place: Path, form: str, source: str) -> None:
    dimgx("--squash-from", "@2", "-t", FORMS[form], source)
    with opened(source) as old, opened(FORMS[form]) as new:
        tars = [plain(one) for one in new.layers]
        assert tars[:2] == LAYERS[:2] and len(tars) == 3
        assert [one.diff_id for one in new.layers[:2]] == [one.diff_id for one in old.layers[:2]]
        rows = list_rows(new)
        assert len(rows) == 3 and not any(row.is_empty for row in rows)
    assert [member.name.decode() for member in raw_members(tars[2])] == [
        ".wh.gone", "etc/", "etc/.wh.a", "lib/", "lib/new", "opt/", "opt/app", "opt/link", "var/",
        "var/.wh..wh..opq", "var/z",
    ]  # fmt: skip
    assert flat_bytes(FORMS[form]) == flat_bytes(source)


@pytest.mark.parametrize("count", range(4))
def test_from_each_row(place: Path, count: int) -> None:
    dimgx("--squash-from", f"@{count}", "-t", "oci:out", "oci:app")
    old, new = layers_of("oci:app"), layers_of("oci:out")
    assert [one.digest for one in new[:count]] == [one.digest for one in old[:count]]
    assert len(new) == count + 1
    assert flat_bytes("oci:out") == flat_bytes("oci:app")


def test_two_runs_give_the_same_bytes(place: Path) -> None:
    words = ["--squash-from", "@1", "-t"]
    dimgx(*words, "docker-archive:one.tar", "./app.tar")
    dimgx(*words, "docker-archive:two.tar", "--threads", "1", "--memory", "0", "oci:app")
    assert (place / "one.tar").read_bytes() == (place / "two.tar").read_bytes()


def test_with_files_of_ones_own_on_top(place: Path) -> None:
    (place / "own.tar").write_bytes(layer(file("etc/own", "o"), whiteout("opt")))
    words = ["--add-layer", "own.tar"]
    dimgx("--squash-from", "@2", *words, "-t", "oci:out", "oci:app")
    assert len(layers_of("oci:out")) == 3
    assert flat_bytes("oci:out") == flat_bytes("oci:app", *words)


def test_several_images_with_the_same_rows_above_others(place: Path) -> None:
    other = image(layer(file("gone"), file("other")), *LAYERS[1:], tags=("example/other:1",))
    (place / "other.tar").write_bytes(docker_archive(other))
    dimgx("--squash-from", "@1", "-t", "docker-archive:both.tar", "./app.tar", "./other.tar")
    for number, source in enumerate(("./app.tar", "./other.tar")):
        assert flat_bytes(f"docker-archive:both.tar:@{number}") == flat_bytes(source)


def test_no_such_row_is_exit_3(place: Path) -> None:
    for spec in ("@4", "feed", "example/none:1"):
        code, _ = refused("./app.tar", "--squash-from", spec, "-t", "oci:out")
        assert code == 3 and not (place / "out").exists()
    code, told = refused("./app.tar", "--squash-from", "@0:@1", "-t", "oci:out")
    assert code == 3 and "names 2 rows" in told


def test_rows_without_a_layer(place: Path) -> None:
    history: list[dict[str, Any]] = [
        {"created_by": "a"}, {"created_by": "b"}, {"created_by": "c"}, {"created_by": "d"},
        {"created_by": "CMD", "empty_layer": True},
    ]  # fmt: skip
    oci_layout(place / "steps", image(*LAYERS, history=history))
    code, _ = refused("oci:steps", "--squash-from", "@4", "-t", "oci:out")
    assert code == 3
    dimgx("--squash-from", "@3", "-t", "oci:out", "oci:steps")
    with opened("oci:out") as found:
        steps = [row.created_by for row in list_rows(found)]
        assert steps[:3] == ["a", "b", "c"] and len(steps) == 4


def test_umoci_unpacks_it(place: Path) -> None:
    need_root()
    dimgx("--squash-from", "@1", "--tag", "app:squashed", "-t", "oci:out", "oci:app")
    names = run([need("umoci"), "ls", "--layout", "out"]).stdout.decode().split()
    run([need("umoci"), "unpack", "--image", f"out:{names[0]}", "bundle"])
    theirs = comparable(read_tree(place / "bundle" / "rootfs"), directory_times=False)
    ours = comparable(read_tar(flat_bytes("oci:app")), directory_times=False)
    assert short_listing(theirs) == short_listing(ours)


def test_docker_and_podman_show_the_same(
    place: Path, docker_engine: Engine, podman_service: Engine
) -> None:
    words = ["--squash-from", "@1", "--tag", "example/squashed:1", "-t", "docker-archive:out.tar"]
    dimgx(*words, "./app.tar")
    expected = [line for line in list_tar(flat_bytes("./app.tar")) if line != "d etc mode=750"]
    for engine in (docker_engine, podman_service):
        engine.run("load", "-i", place / "out.tar")
        container = engine.ask("create", "example/squashed:1", "/none")[-1]
        tar = engine.run("export", container)
        engine.run("rm", container)
        out = place / "tree"
        out.mkdir()
        run([need("tar"), "-xp", "-C", out], stdin=tar)
        seen = short_listing(comparable(read_tree(out), directory_times=False))
        assert [line for line in expected if line not in seen] == []
        assert not {"f etc/a 'a'", "f var/x 'x'", "f gone 'g'", "l lib -> usr/lib"} & set(seen)
        run(["rm", "-r", out])
