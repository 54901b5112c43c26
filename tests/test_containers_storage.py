"""Images of a store of containers/storage that skopeo made, read without Podman."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dimgx
from dimgx import EngineOptions, SourceError, UsageError, system
from dimgx.sources.containersstorage import parse_store, usual_store
from tests import programs
from tests.dsl import file, hardlink, layer, opaque, whiteout
from tests.programs import dimgx as run_dimgx
from tests.programs import flat_bytes, refused
from tests.writers import docker_archive, image

APP = image(
    layer(file("etc/a", b"below"), file("d/x", b"x" * 70_000), file("gone"), hardlink("y", "d/x")),
    layer(whiteout("gone"), file("etc/a", b"above", mode=0o4711, uid=7)),
    layer(opaque("d"), file("d/new", b"new")),
    tags=("example.com/app:1",),
)
OWN = image(layer(file("own")), tags=("localhost/own:2",))
ARM = image(layer(file("arm")), tags=("docker.io/library/arm:latest",), architecture="arm64")


class Store:
    """Where a driver keeps images."""

    def __init__(self, driver: str, place: Path) -> None:
        self.driver, self.root, self._run = driver, place / "root", place / "run"

    def put(self, picture: object, name: str) -> None:
        """Have skopeo put an image in."""
        path = self._run.with_name("in.tar")
        path.write_bytes(docker_archive(picture))  # type: ignore[arg-type]
        target = f"containers-storage:[{self.driver}@{self.root}+{self._run}]{name}"
        programs.run(
            [programs.need("skopeo"), "copy", "-q", "--insecure-policy", f"docker-archive:{path}",
             target]
        )  # fmt: skip

    def spelled(self, name: str, driver: str = "") -> str:
        return f"containers-storage:[{driver}{self.root}+{self._run}]{name}"


@pytest.fixture(scope="module", params=["overlay", "vfs"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    programs.need_root()
    made = Store(request.param, tmp_path_factory.mktemp(request.param))
    for picture, name in ((APP, "example.com/app:1"), (OWN, "localhost/own:2"), (ARM, "arm")):
        made.put(picture, name)
    yield made
    programs.run(["umount", "--lazy", made.root / made.driver], ok=False)


@pytest.fixture
def alone(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store as the usual one, where there is no Podman."""
    if Path("/run/podman/podman.sock").exists():
        programs.missing("a machine without a service of Podman's own is needed")
    conf = tmp_path / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "{store.driver}"\ngraphroot = "{store.root}"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(conf))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CONTAINER_HOST", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return store


EXPECTED = {"example.com/app:1": APP, "localhost/own:2": OWN}


def expected_of(picture: object) -> bytes:
    return run_dimgx("-t", "-", "-", stdin=docker_archive(picture)).stdout  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [(), ("--threads", "1"), ("--verify", "all"), ("-l", "@1:@2")])
def test_same_bytes_as_from_the_archive(store: Store, words: tuple[str, ...]) -> None:
    expected = run_dimgx("-t", "-", *words, "-", stdin=docker_archive(APP)).stdout
    assert flat_bytes(store.spelled("example.com/app:1"), *words) == expected


@pytest.mark.parametrize("position", range(3))
def test_layer_as_it_is(store: Store, position: int) -> None:
    flat = flat_bytes(store.spelled("example.com/app:1"), "--raw", "-l", f"@{position}")
    assert flat == APP.layers[position]


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("example.com/app:1", APP),
        (f"@{APP.id()}", APP),
        (f"@{APP.id()[:7]}", APP),
        (APP.id()[:12], APP),
        (f"example.com/app:1@{APP.id()}", APP),
        ("own:2", OWN),
        ("localhost/own:2", OWN),
    ],
    ids=str,
)
def test_names(store: Store, name: str, picture: object) -> None:
    assert flat_bytes(store.spelled(name)) == expected_of(picture)
    assert flat_bytes(store.spelled(name, f"{store.driver}@")) == expected_of(picture)


def test_digest_of_the_manifest(store: Store) -> None:
    records = json.loads((store.root / f"{store.driver}-images/images.json").read_text())
    (digest,) = (one["digest"] for one in records if one["names"] == ["example.com/app:1"])
    assert flat_bytes(store.spelled(f"example.com/app@{digest}")) == expected_of(APP)
    assert refused(store.spelled(f"localhost/own@{digest}"))[0] == 2


def test_listing_is_that_of_the_archive(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(docker_archive(APP))
    told = [
        json.loads(run_dimgx("--json", reference).stdout)
        for reference in (store.spelled("example.com/app:1"), f"{tmp_path}/a.tar")
    ]
    assert told[0]["image"] == told[1]["image"]
    for rows in (found["rows"] for found in told):
        for row in rows:
            for key in ("digest", "media_type", "stored_size"):  # of what is not stored
                del row[key]
    assert told[0]["rows"] == told[1]["rows"]


def test_verbose_tells_where_it_is_read_from(store: Store) -> None:
    told = run_dimgx("-v", "-t", "-", store.spelled("own:2")).stderr.decode()
    assert f"read from {store.root}\n" in told


def test_platform(store: Store) -> None:
    reference = store.spelled("arm")
    assert run_dimgx("--platforms", reference).stdout == b"linux/arm64\n"
    assert flat_bytes(reference, "--platform", "linux/arm64") == expected_of(ARM)
    code, told = refused(reference, "-t", "-", "--platform", "linux/s390x")
    assert (code, "holds no image for linux/s390x; there is linux/arm64" in told) == (2, True)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("app:1", "has no image 'app:1' (similar: example.com/app:1); its registry may: dimgx"),
        ("nothing:1", "(it has: "),
        ("@0123456", "has no image '0123456'"),
        ("", "holds 3 images: name one behind the bracket (it has: "),
    ],
)
def test_image_that_is_not_there(store: Store, name: str, problem: str) -> None:
    code, told = refused(store.spelled(name))
    assert (code, problem in told) == (2, True)


@pytest.mark.parametrize("option", ["-H", "--pull", "--direct", "--no-direct"])
def test_options_for_engines_have_no_effect(store: Store, option: str) -> None:
    value = {"-H": ["unix:///x"], "--pull": ["always"]}.get(option, [])
    code, told = refused(store.spelled("own:2"), option, *value)
    assert (code, "has no effect" in told) == (1, True)


def test_changed_file_is_an_error(store: Store, tmp_path: Path) -> None:
    picture = image(layer(file("changed", b"right")))
    store.put(picture, "example.com/changed:1")
    pattern = "vfs/dir/*/changed" if store.driver == "vfs" else "overlay/*/diff/changed"
    (path,) = store.root.glob(pattern)
    reference, target = store.spelled("example.com/changed:1"), tmp_path / "out.tar"
    for content, problem in (
        (b"wrong", "digest is sha256:"),
        (b"longer", "it is no file of 5 bytes any more: the store is damaged, or somebody"),
    ):
        path.write_bytes(content)
        code, told = refused(reference, "-t", target)
        assert (code, problem in told, target.exists()) == (2, True, False)


def test_damaged_store(store: Store, tmp_path: Path) -> None:
    images = tmp_path / "root" / f"{store.driver}-images"
    images.mkdir(parents=True)
    reference = f"containers-storage:[{tmp_path}/root]own:2"
    assert refused(reference)[1].endswith("root: No such file or directory\n")
    records = store.root / images.name / "images.json"
    (images / "images.json").write_bytes(records.read_bytes())
    code, told = refused(reference)
    assert (code, "cannot be read from the store" in told) == (2, True)
    (images / "images.json").write_text("[{")
    assert "images.json is not valid JSON" in refused(reference)[1]


@pytest.mark.parametrize("word", ["podman", "containers-storage"])
def test_usual_store_where_there_is_no_podman(alone: Store, word: str) -> None:
    assert flat_bytes(f"{word}:example.com/app:1") == expected_of(APP)
    assert run_dimgx("--platforms", f"{word}:arm").stdout == b"linux/arm64\n"
    for words in (("--no-direct",), ("--pull", "missing")):
        code, told = refused(f"{word}:own:2", *words)
        assert (code, "no Podman is here" in told) == (2, True)


def test_store_beside_the_usual_one(alone: Store, tmp_path: Path) -> None:
    root = tmp_path / "empty"
    for kind in ("images", "layers"):
        (root / f"{alone.driver}-{kind}").mkdir(parents=True)
        (root / f"{alone.driver}-{kind}" / f"{kind}.json").write_text("[]")
    conf = tmp_path / "storage.conf"
    conf.write_text(
        f'[storage]\ngraphroot = "{root}"\n[storage.options]\n'
        f'additionalimagestores = ["{tmp_path}/none", "{alone.root}"]\n'
    )
    assert flat_bytes("podman:example.com/app:1") == expected_of(APP)
    option = f"{alone.driver}.imagestore={alone.root}"
    reference = f"containers-storage:[{root}+{root}:x=y,{option}]own:2"
    assert flat_bytes(reference) == expected_of(OWN)


def test_store_that_others_may_not_read(store: Store) -> None:
    script = "import dimgx, sys; dimgx.open_image(sys.argv[1])"
    done = programs.run_as_other(script, store.spelled("own:2"), ok=False)
    assert b"SourceError" in done.stderr and b"run dimgx as root" in done.stderr


@pytest.mark.parametrize(
    "text", ["", "x", "overlay@x", "overlay@", "@/x", "Overlay@/x", "+/x", "/x\n+y:z\n@"]
)
def test_what_names_no_store(text: str) -> None:
    with pytest.raises(UsageError, match="names no store") as raised:
        parse_store(text)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "has no images that a driver keeps; dimgx reads those of overlay and vfs"),
        ("btrfs@{}", "has no images that the driver btrfs keeps"),
        ("overlay@{}/vfs", "has no images that the driver overlay keeps"),
    ],
)
def test_where_no_store_is(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "vfs" / "vfs-images").mkdir(parents=True)
    with pytest.raises(SourceError) as raised:
        parse_store(text.format(tmp_path))
    assert problem in str(raised.value)


def _conf(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "data/containers/storage"),
        ({"own": '[storage]\ngraphroot = "{}/a"\n'}, "a"),
        ({"own": '[storage]\ngraphroot = "$HOME/b"\n'}, "b"),
        ({"own": "[storage]\n"}, "data/containers/storage"),
        ({"own": ""}, "data/containers/storage"),
        ({"system": '[storage]\ngraphroot = "{}/a"\n'}, "data/containers/storage"),
        ({"system": '[storage]\nrootless_storage_path = "{}/u-$USER-$UID/$X"\n'}, "u-me-7/$X"),
        ({"own": "", "system": '[storage]\nrootless_storage_path = "{}/a"\n'},
         "data/containers/storage"),
        ({"own": '[storage]\ngraphroot = "{}/none"\n'}, None),
    ],
)  # fmt: skip
def test_store_of_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: str | None
) -> None:
    monkeypatch.setattr(system, "is_root", lambda: False)
    monkeypatch.setattr("os.geteuid", lambda: 7)
    places = {"own": tmp_path / ".config/containers/storage.conf", "system": tmp_path / "s.conf"}
    for name, text in files.items():
        _conf(places[name], text.replace("{}", str(tmp_path)))
    monkeypatch.setattr("dimgx.sources.containersstorage._SYSTEM_FILES", (str(places["system"]),))
    for root in ("data/containers/storage", "a", "b", "u-me-7/$X"):
        (tmp_path / root / "overlay-images").mkdir(parents=True)
    options = EngineOptions(home=f"{tmp_path}", user="me", data_home=f"{tmp_path}/data")
    found = usual_store(options)
    assert (found and str(found.root)) == (expected and f"{tmp_path}/{expected}")


def test_store_of_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "is_root", lambda: True)
    system_file = _conf(tmp_path / "s.conf", f'[storage]\ngraphroot = "{tmp_path}/a"\n')
    own = _conf(tmp_path / "o.conf", f'[storage]\ngraphroot = "{tmp_path}/b"\n')
    monkeypatch.setattr("dimgx.sources.containersstorage._SYSTEM_FILES", (str(system_file),))
    for root in "ab":
        (tmp_path / root / "overlay-images").mkdir(parents=True)
    found = [usual_store(EngineOptions(storage_conf=conf)) for conf in (None, str(own))]
    assert [store and store.root.name for store in found] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[storage", "is not valid TOML"),
        ("a = " + "[" * 10_000, "is nested too deep"),
        ("storage = 1", "storage"),
        ('[storage]\ngraphroot = "{}"\ndriver = "zfs"\n', "that the driver zfs keeps"),
        ("[storage]\ngraphroot = 1\n", "graphroot"),
    ],
)
def test_settings_that_make_no_sense(
    tmp_path: Path, text: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "is_root", lambda: True)
    conf = _conf(tmp_path / "s.conf", text.replace("{}", str(tmp_path)))
    with pytest.raises(SourceError) as raised:
        usual_store(EngineOptions(storage_conf=str(conf)))
    assert problem in str(raised.value)


def test_settings_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system, "is_root", lambda: False)
    assert usual_store(EngineOptions()) is None
    with pytest.raises(SourceError, match="No such file"):
        usual_store(EngineOptions(storage_conf=str(tmp_path / "none.conf")))


def test_a_pipe_in_a_store_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "overlay-images").mkdir()
    os.mkfifo(tmp_path / "overlay-images" / "images.json")
    reference = f"containers-storage:[overlay@{tmp_path}]x"
    code, told = programs.refused(reference)
    assert (code, "no regular file" in told) == (2, True), told


def test_closed_files_of_a_store(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who is not root has each file looked at, and gets there by no command that is not here."""
    monkeypatch.setattr(system, "is_root", lambda: False)
    closed: Callable[..., bool] = lambda *_, **__: False  # noqa: E731
    with dimgx.open_image(store.spelled("example.com/app:1")) as found:
        assert found.fetch is not None
        assert found.fetch(found.layers, None) == found.layers
        monkeypatch.setattr("os.access", closed)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SourceError, match="podman unshare"):
            found.fetch(found.layers, None)
