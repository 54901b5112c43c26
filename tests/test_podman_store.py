"""Images read from the files of a real Podman, against what it makes of them when it saves them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dimgx
from dimgx import EngineOptions
from dimgx.digest import Digest
from dimgx.sources.containersstore import open_stored
from dimgx.sources.tarsplit import SplitTar
from tests import programs, services
from tests.dsl import dir_, file, hardlink, layer, opaque, symlink, whiteout
from tests.opened import plain
from tests.results import files_of
from tests.services import Engine
from tests.writers import docker_archive, image, oci_archive

FILE = r"""FROM scratch
COPY root/ /
RUN mkdir -p /srv/a /srv/b/c; echo one >/srv/a/f; ln /srv/a/f /srv/a/g; mkfifo /srv/p; \
    echo >/srv/b/c/x
RUN rm -r /srv/b; echo two >/srv/a/f; chmod 4711 /srv/a/g; ln -s a /srv/b
"""

ODD = (
    layer(
        dir_("d"),
        file("d/a", b"first"),
        hardlink("d/b", "d/a"),
        file(b"d/\xff\xfe", b"not UTF-8"),
        file(b"\xe9/x", b"nor is this"),
        file("/".join(["deep" * 20] * 9), b"long", dialect="pax"),
        file("big", os.urandom(600_000) * 3),
        symlink("d/away", "/etc/passwd"),
    ),
    layer(),
    layer(whiteout("d/a"), file("d/c", b"second"), file("e/f", b"third", uid=12, mode=0o4755)),
    layer(opaque("d"), file("d/d", b"fourth"), file("none")),
    layer(),
)
"""What the tars of layers may hold besides."""
SMALL = image(layer(file("a", b"below"), file("x/b", b"b" * 9999)), layer(file("c", b"above")),
              tags=("small:1",))  # fmt: skip
ZSTD = image(*SMALL.layers, tags=(), compression=["gzip", "zstd"], os="linux", architecture="arm64")
NAMES = ("oci", "dock", "odd:1", "zstd:1")


@pytest.fixture(scope="module")
def podman(podman_service: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    files = {f"root/bin/{name}": services.busybox() for name in
             ("sh", "mkdir", "ln", "rm", "chmod", "mkfifo")}  # fmt: skip
    for form in ("oci", "docker"):
        podman_service.build(form[:4], files, FILE, "--format", form)
    for picture in (image(*ODD, tags=("odd:1",)), SMALL):
        podman_service.run("load", stdin=docker_archive(picture))
    path = tmp_path_factory.mktemp("zstd") / "zstd.tar"
    path.write_bytes(oci_archive(ZSTD))
    place = podman_service.directory
    target = f"containers-storage:[overlay@{place}/root+{place}/run]localhost/zstd:1"
    programs.run([programs.need("skopeo"), "copy", "--insecure-policy", "-q",
                  f"oci-archive:{path}", target])  # fmt: skip
    yield podman_service
    podman_service.run("rmi", "--force", "odd:1", "small:1", "zstd:1", "dock", "oci")


@pytest.fixture
def alone(podman: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    """The program `podman`, which saves nothing, with the same storage."""
    services.use_program(podman, monkeypatch, tmp_path)
    path = tmp_path / "bin" / "podman"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\n[ "$1" != save ] || exit 1\nexec {programs.need("podman")} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin:/usr/sbin")
    return podman


def is_direct(engine: Engine, name: str) -> bool:
    with dimgx.open_image(f"podman:{name}", engine=EngineOptions(host=engine.url)) as found:
        assert found.layers
        return all(isinstance(layer.blob, SplitTar) for layer in found.layers)


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_as_saved(podman: Engine, tmp_path: Path, name: str) -> None:
    words = ("--platform", "linux/arm64") if name == "zstd:1" else ()
    saved = programs.flat_bytes(f"podman:{name}", "-H", podman.url, "--no-direct", *words)
    assert programs.flat_bytes(f"podman:{name}", "-H", podman.url, *words) == saved
    path = tmp_path / "saved.tar"
    form = "oci-archive" if name == "zstd:1" else "docker-archive"
    path.write_bytes(podman.run("save", "--format", form, name))
    assert programs.flat_bytes(str(path), *words) == saved


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_saved(podman: Engine, name: str) -> None:
    with dimgx.open_image(f"podman:{name}", engine=EngineOptions(host=podman.url)) as found:
        assert found.spool is not None
        for one in found.layers:
            assert isinstance(one.blob, SplitTar)
            assert one.diff_id == Digest.of(data := plain(one))
            assert len(data) == one.blob.estimate == one.length
        assert found.spool.used == 0


def test_program_saves_nothing(alone: Engine, tmp_path: Path) -> None:
    for name in ("oci", "odd:1"):
        flat = programs.flat_bytes(f"podman:{name}")
        assert flat == programs.flat_bytes(f"podman:{name}", "-H", alone.url, "--no-direct")
    programs.dimgx("--keep-layers", "-t", f"oci:{tmp_path}/out", "podman:odd:1")
    assert programs.refused("podman:dock", "--no-direct", "-t", "-")[0] == 2


def test_listing_is_the_same(podman: Engine) -> None:
    for name in ("dock", "odd:1"):
        told = [
            programs.dimgx("-H", podman.url, *words, "--json", f"podman:{name}").stdout
            for words in ((), ("--no-direct",))
        ]
        assert told[0] == told[1]


@pytest.mark.parametrize(("name", "form"), [("oci", "docker-archive"), ("dock", "oci-archive")])
def test_images_made_of_it_are_the_same(
    podman: Engine, tmp_path: Path, name: str, form: str
) -> None:
    for keep in ((), ("--keep-layers",), ("-l", "@1:@2")):
        made = []
        for words in ((), ("--no-direct",)):
            path = tmp_path / f"made{len(keep)}{len(words)}"
            programs.dimgx("-H", podman.url, *words, *keep, "--format", form,
                           "-t", path, f"podman:{name}")  # fmt: skip
            made.append(files_of(path))
        assert made[0] == made[1]


def test_layer_as_it_is(podman: Engine) -> None:
    words = ("-H", podman.url, "--raw", "-l", "@0", "-t", "-", "podman:odd:1")
    assert programs.dimgx(*words).stdout == ODD[0]


def test_changed_file_is_an_error(podman: Engine, tmp_path: Path) -> None:
    picture = image(layer(file("this", b"right")), tags=("changed:1",))
    podman.run("load", stdin=docker_archive(picture))
    target = tmp_path / "out.tar"
    (path,) = podman.directory.glob("root/overlay/*/diff/this")
    words = ("-H", podman.url, "-t", target)
    for content, problem in (
        (b"wrong", "digest is sha256:"),
        (b"longer", "it is no file of 5 bytes any more: --no-direct has"),
        (None, "'this': No such file or directory: --no-direct has"),
    ):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        code, told = programs.refused("podman:changed:1", *words)
        assert (code, problem in told, target.exists()) == (2, True, False)
    podman.run("rmi", "changed:1")


@pytest.fixture
def store(podman: Engine, tmp_path: Path) -> Path:
    """A copy of the store, for one test: its records, and links to the layers' places."""
    real, root = podman.directory / "root", tmp_path / "root"
    for name in ("overlay-images", "overlay-layers"):
        shutil.copytree(real / name, root / name)
    (root / "overlay").mkdir()
    for path in (real / "overlay").iterdir():
        (root / "overlay" / path.name).symlink_to(path)
    return root


Store = dict[str, Any]


def stored(place: Path, **changes: Any) -> dimgx.Image | None:
    """Open SMALL in a store, by what Podman tells of it or `changes`."""
    told: Store = {
        "root": f"{place}",
        "driver": "overlay",
        "id": Digest("sha256", SMALL.id()),
        "diff_ids": [Digest.parse(text) for text in SMALL.diff_ids()],
    }
    return open_stored(**{**told, **changes}, verify=True)


def test_store_as_it_is(store: Path) -> None:
    found = stored(store)
    assert found is not None and found.config is not None
    assert found.config.data == SMALL.config_json()
    assert [plain(one) for one in found.layers] == list(SMALL.layers)


@pytest.mark.parametrize(
    "changes",
    [
        {"root": ""},
        {"root": "/nowhere"},
        {"root": "/\0"},
        {"driver": "vfs"},
        {"id": Digest("sha256", "0" * 64)},
        {"diff_ids": []},
        {"diff_ids": [Digest.parse(SMALL.diff_ids()[0])] * 2},
    ],
    ids=repr,
)
def test_store_without_what_is_told(store: Path, changes: Store) -> None:
    assert stored(store, **changes) is None


def _edited(name: str, change: Callable[[Store], object]) -> Callable[[Path], None]:
    """Give what changes the records of SMALL, or of its top layer, in one of the lists."""

    def edit(root: Path) -> None:
        value = json.loads((root / name).read_bytes())
        for record in value:
            if SMALL.diff_ids()[1] == record.get("diff-digest") or record["id"] == SMALL.id():
                change(record)
        (root / name).write_text(json.dumps(value))

    return edit


def _with_top(change: Callable[[Path, str], object]) -> Callable[[Path], None]:
    """Give what changes the top layer of SMALL, which is given by its ID."""

    def edit(root: Path) -> None:
        records = json.loads((root / "overlay-images/images.json").read_bytes())
        (top,) = (record["layer"] for record in records if record["id"] == SMALL.id())
        change(root, top)

    return edit


def _own(root: Path, top: str) -> Path:
    """Put a copy of the place of a layer where there was a link to it."""
    path = root / "overlay" / top
    real = path.resolve()
    path.unlink()
    shutil.copytree(real, path, symlinks=True)
    return path


def _linked(root: Path, top: str) -> None:
    path = _own(root, top) / "diff"
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


IMAGES, LAYERS = "overlay-images/images.json", "overlay-layers/layers.json"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda root: (root / IMAGES).unlink(), id="no images.json"),
        pytest.param(lambda root: (root / IMAGES).write_text("[{"), id="no JSON"),
        pytest.param(lambda root: (root / IMAGES).write_text('{"a":1}'), id="no list"),
        pytest.param(lambda root: (root / IMAGES).write_text("[1]"), id="no objects"),
        pytest.param(lambda root: (root / IMAGES).write_text('[{"id":1}]'), id="no text"),
        pytest.param(lambda root: (root / IMAGES).write_text("[]"), id="no image"),
        pytest.param(lambda root: (root / IMAGES).write_text("[" * 9999), id="deep"),
        pytest.param(lambda root: (root / LAYERS).unlink(), id="no layers.json"),
        pytest.param(lambda root: (root / LAYERS).write_bytes(b""), id="empty layers.json"),
        pytest.param(lambda root: shutil.rmtree(root / "overlay-images" / SMALL.id()),
                     id="no config"),
        pytest.param(lambda root: [path.write_bytes(b"{}") for path in
                                   (root / "overlay-images" / SMALL.id()).iterdir()],
                     id="another config"),
        pytest.param(_edited(IMAGES, lambda record: record.pop("layer")), id="no top layer"),
        pytest.param(_edited(IMAGES, lambda record: record.update(layer="../x")), id="odd layer"),
        pytest.param(_edited(LAYERS, lambda record: record.pop("id")), id="no such layer"),
        pytest.param(_edited(LAYERS, lambda record: record.pop("parent")), id="too few layers"),
        pytest.param(_edited(LAYERS, lambda record: record.pop("diff-digest")), id="no diff_id"),
        pytest.param(_edited(LAYERS, lambda record: record.update({"diff-size": -1})),
                     id="no size"),
        pytest.param(_edited(LAYERS, lambda record: record.update(parent=record["id"])),
                     id="circle"),
        pytest.param(_with_top(lambda root, top: (
            root / "overlay-layers" / f"{top}.tar-split.gz").unlink()), id="no record"),
        pytest.param(_with_top(lambda root, top: (
            root / "overlay-layers" / f"{top}.tar-split.gz").write_bytes(b"{}")), id="plain"),
        pytest.param(_with_top(lambda root, top: (root / "overlay" / top).unlink()), id="no files"),
        pytest.param(_with_top(lambda root, top: (
            _own(root, top) / "composefs-data").mkdir()), id="composefs"),
        pytest.param(_with_top(_linked), id="additional layer store"),
    ],
)  # fmt: skip
def test_store_that_is_not_as_expected(store: Path, damage: Callable[[Path], object]) -> None:
    damage(store)
    assert stored(store) is None


def test_one_more_layer_than_told(store: Path) -> None:
    base = SMALL.diff_ids()[0]
    value = json.loads((store / LAYERS).read_bytes())
    (top,) = (record for record in value if record.get("diff-digest") == SMALL.diff_ids()[1]
              and record["id"] in (store / IMAGES).read_text())  # fmt: skip
    for record in value:
        if record["id"] == top["parent"]:
            assert record["diff-digest"] == base
            record["parent"] = top["id"]
    (store / LAYERS).write_text(json.dumps(value))
    assert stored(store) is None


@pytest.mark.parametrize("kind", ["vfs", "metacopy", "additional store"])
def test_other_stores(
    podman: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    driver = "vfs" if kind == "vfs" else "overlay"
    more = {
        "metacopy": '[storage.options.overlay]\nmountopt = "metacopy=on"\n',
        "additional store": "[storage.options]\nadditionalimagestores = "
        f'["{podman.directory}/root"]\n',
    }
    saved = podman.run("save", "--format", "docker-archive", "dock")
    services.use_program(
        podman, monkeypatch, tmp_path, root=tmp_path, driver=driver, more=more.get(kind, "")
    )
    command = programs.need("podman")
    try:
        if kind != "additional store":
            programs.run([command, "load"], stdin=saved)
            # Where it can, the kernel takes what is below for the data of what has another mode.
            (tmp_path / "Dockerfile").write_text("FROM dock\nRUN chmod 700 /bin/*\n")
            programs.run([command, "build", *services.PODMAN_BUILD, "-t", "dock", tmp_path])
        with dimgx.open_image("podman:dock", engine=EngineOptions()) as found:
            are_direct = [isinstance(one.blob, SplitTar) for one in found.layers]
            assert set(are_direct) == {True}
        flat = programs.flat_bytes("podman:dock")
        assert flat == programs.flat_bytes("podman:dock", "--no-direct")
    finally:
        programs.run(["umount", "--lazy", tmp_path / "root" / "overlay"], ok=False)
