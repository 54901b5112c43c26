"""What is written, taken by the programs that it is for: docker, podman, skopeo, umoci."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ocischema, services
from tests.engines import comparable, read_tree
from tests.listing import read_tar, short_listing
from tests.programs import dimgx, need, need_root, run
from tests.registries import plain_environment, real_registry
from tests.results import (
    APP,
    BASE,
    FORMS,
    MIDDLE,
    SETTINGS,
    SOURCES,
    TOP,
    config_of,
    files_of,
    flat,
    manifest_of,
    reference_of,
    sha256,
)
from tests.services import Engine
from tests.writers import image, oci_layout

FILE = """FROM scratch
COPY root/ /
ENV GREETING="hello there"
RUN mkdir -p /srv/a /srv/b; echo one >/srv/a/f; ln /srv/a/f /srv/a/g; chown 12:34 /srv/b
LABEL x=y
RUN rm -r /srv/b; echo two >/srv/a/f; ln -s a /srv/b
WORKDIR /srv
USER 0:0
EXPOSE 80
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5m CMD true
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo $GREETING from $(pwd); cat /srv/b/f"]
"""
SAID = b"hello there from /srv\ntwo\n"
CODINGS = ("none", "gzip", "zstd")
NAME = "example/app:1.0"


@pytest.fixture(scope="module")
def docker(docker_engine: Engine) -> Engine:
    tools = ("sh", "mkdir", "ln", "rm", "chown", "cat", "true")
    files = {f"root/bin/{name}": services.busybox() for name in tools}
    docker_engine.build("made:1", files, FILE)
    return docker_engine


@pytest.fixture(scope="module")
def saved(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "made.tar"
    path.write_bytes(docker.run("save", "made:1"))
    return path


@pytest.fixture
def podman() -> Iterator[Engine]:
    """Podman with storage that holds nothing."""
    with services.running_podman() as engine:
        yield engine


def run_it(engine: Engine, name: str) -> bytes:
    return engine.run("run", "--rm", "--network=none", name)


HOW = {
    "flat": (),
    "kept": ("--keep-layers",),
    "gzip": ("--layer-compression", "gzip"),
    "zstd": ("--layer-compression", "zstd"),
    "gzip-as-a-whole": ("-z",),
}


@pytest.mark.parametrize("how", HOW)
def test_docker_loads_and_runs_it(docker: Engine, saved: Path, tmp_path: Path, how: str) -> None:
    if how == "zstd" and int(docker.ask("version", "-f", "{{.Server.Version}}")[0][:2]) < 23:
        pytest.skip("this Docker has no zstd yet")
    path = tmp_path / ("out.tar.gz" if how == "gzip-as-a-whole" else "out.tar")
    names = ("--tag", "loaded:1", "--tag", "other.example/x")
    dimgx(*HOW[how], *names, "--format=docker-archive", "-t", path, str(saved))
    told = docker.run("load", "-i", path)
    try:
        assert b"Loaded image: loaded:1" in told
        assert b"Loaded image: other.example/x:latest" in told
        assert run_it(docker, "loaded:1") == SAID
        new, old = docker.inspected("loaded:1"), docker.inspected("made:1")
        assert new["Config"] == old["Config"]
        kept = len(old["RootFS"]["Layers"])
        assert len(new["RootFS"]["Layers"]) == (kept if how == "kept" else 1)
        assert (new["Id"] == old["Id"]) == (how == "kept")
        services.compare_with_export(flat(str(path)), docker.exported("loaded:1"))
    finally:
        docker.run("image", "rm", "-f", "loaded:1", "other.example/x", ok=False)


@pytest.mark.parametrize("form", FORMS)
def test_podman_loads_it(
    podman: Engine, saved: Path, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "out"
    names = () if form == "docker-dir" else ("--tag", "quay.example/loaded:1")
    dimgx(f"--format={form}", *names, "-t", path, str(saved))
    told = podman.run("load", "-i", path).decode()
    name = told.strip().rpartition(" ")[2]
    if form.endswith("archive"):  # directories are named by their paths, Podman's own too
        assert name == "quay.example/loaded:1"
    services.compare_with_export(flat(reference_of(form, path)), podman.exported(name))
    found = podman.inspected(name)
    assert found["Config"]["Env"] == config_of(str(saved))["config"]["Env"]
    assert found["Config"]["Entrypoint"] == ["/bin/sh", "-c"]
    assert len(found["RootFS"]["Layers"]) == 1


@pytest.mark.parametrize("keep", [(), ("--keep-layers",)], ids=["flat", "kept"])
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("form", FORMS)
def test_skopeo_inspects_it(
    tmp_path: Path, form: str, coding: str, keep: tuple[str, ...]
) -> None:
    source = SOURCES["oci"](tmp_path, APP)
    path = tmp_path / "out"
    dimgx(*keep, f"--format={form}", f"--layer-compression={coding}", "-t", path, source)
    reference = reference_of(form, path)
    if form == "docker-dir" and coding == "zstd":
        pytest.skip("Docker's manifest has no zstd to skopeo")
    told = json.loads(run([need("skopeo"), "inspect", reference]).stdout)
    assert (told["Os"], told["Architecture"], told["Created"]) == (
        "linux", "amd64", "2024-01-01T00:00:00Z",
    )  # fmt: skip
    assert len(told["Layers"]) == (3 if keep else 1)
    assert told["Env"] == SETTINGS["Env"]
    raw_config = run([need("skopeo"), "inspect", "--config", "--raw", reference]).stdout
    assert json.loads(raw_config) == config_of(reference)
    assert config_of(reference)["config"] == SETTINGS
    if form != "docker-archive":
        raw = run([need("skopeo"), "inspect", "--raw", reference]).stdout
        assert json.loads(raw) == manifest_of(path)
        assert told["Digest"] == sha256(raw)


@pytest.mark.parametrize("keep", [(), ("--keep-layers",)], ids=["flat", "kept"])
@pytest.mark.parametrize("to", ["oci", "dir", "docker-archive"])
@pytest.mark.parametrize("form", FORMS)
def test_skopeo_copies_it(
    tmp_path: Path, form: str, to: str, keep: tuple[str, ...]
) -> None:
    source = SOURCES["dir"](tmp_path, APP)
    path = tmp_path / "out"
    dimgx(*keep, f"--format={form}", "-t", path, source)
    copy = f"{to}:{tmp_path}/copy"
    run([need("skopeo"), "copy", "--insecure-policy", reference_of(form, path), copy])
    assert flat(copy) == flat(source)


@pytest.mark.parametrize("coding", ["none", "gzip"])
@pytest.mark.parametrize("keep", [(), ("--keep-layers",)], ids=["flat", "kept"])
def test_umoci_unpacks_it(tmp_path: Path, coding: str, keep: tuple[str, ...]) -> None:
    need_root()
    source = SOURCES["docker-1.10"](tmp_path, APP)
    words = (*keep, f"--layer-compression={coding}", "--format=oci-dir", "-t")
    dimgx(*words, tmp_path / "out", source)
    bundle = tmp_path / "bundle"
    run([need("umoci"), "unpack", "--image", f"{tmp_path}/out:1.0", bundle])
    theirs = short_listing(comparable(read_tree(bundle / "rootfs"), directory_times=False))
    ours = short_listing(comparable(read_tar(flat(source)), directory_times=False))
    assert theirs == ours
    process = json.loads((bundle / "config.json").read_bytes())["process"]
    assert process["args"] == [*SETTINGS["Entrypoint"], *SETTINGS["Cmd"]]
    assert process["cwd"] == "/var"


@pytest.mark.parametrize("keep", [False, True], ids=["flat", "kept"])
@pytest.mark.parametrize("source", [*SOURCES, "saved"])
@pytest.mark.parametrize("form", ["oci-archive", "oci-dir"])
def test_schemas_of_the_image_specification(
    request: pytest.FixtureRequest, tmp_path: Path, form: str, source: str, keep: bool
) -> None:
    saved_path = str(request.getfixturevalue("saved")) if source == "saved" else None
    reference = saved_path or SOURCES[source](tmp_path, APP)
    words = ["--keep-layers"] if keep else []
    dimgx(*words, f"--format={form}", "-t", tmp_path / "out", reference)
    files = files_of(tmp_path / "out")
    ocischema.check("image-layout", files["oci-layout"])
    index = ocischema.check("image-index", files["index.json"])
    assert index["manifests"]
    for entry in index["manifests"]:
        manifest = ocischema.check("image-manifest", _blob(files, entry))
        ocischema.check("config", _blob(files, manifest["config"]))
        for descriptor in (entry, manifest["config"], *manifest["layers"]):
            data = _blob(files, descriptor)
            assert (sha256(data), len(data)) == (descriptor["digest"], descriptor["size"])


def _blob(files: dict[str, bytes], descriptor: Any) -> bytes:
    return files["blobs/" + descriptor["digest"].replace(":", "/")]


@pytest.mark.parametrize("form", FORMS)
def test_an_image_at_an_engine(docker: Engine, saved: Path, tmp_path: Path, form: str) -> None:
    """From an engine as from what it saved, its config included."""
    for number, keep in enumerate(([], ["--keep-layers"], ["-l", "@0"])):
        ours, theirs = tmp_path / f"{number}", tmp_path / f"{number}.saved"
        dimgx(*keep, f"--format={form}", "-H", docker.url, "-t", ours, "made:1")
        dimgx(*keep, f"--format={form}", "-t", theirs, str(saved))
        assert files_of(ours) == files_of(theirs)


def test_an_image_of_podman(podman: Engine, saved: Path, tmp_path: Path) -> None:
    # Podman keeps what has no registry under localhost, newer ones under docker.io, and finds it by
    # its short name.
    full = podman.run("load", "-i", saved).decode().split()[-1]
    assert full in ("localhost/made:1", "docker.io/library/made:1")
    for name in (full, "made:1"):
        path = tmp_path / name.replace("/", "-")
        dimgx("--format=oci-dir", "-H", podman.url, "-t", path, f"podman:{name}")
        assert flat(f"oci:{path}") == flat(str(saved))
        config = config_of(f"oci:{path}")
        assert config["config"]["Cmd"] == config_of(str(saved))["config"]["Cmd"]
        (entry,) = json.loads((path / "index.json").read_bytes())["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == full


@pytest.mark.parametrize("kind", ["oci", "v2s2"])
def test_an_image_at_a_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    plain_environment(tmp_path, monkeypatch)
    place = tmp_path / "registry"
    place.mkdir()
    with real_registry(place) as registry:
        source = f"oci:{oci_layout(tmp_path / 'source', APP)}:{NAME}"
        reference = registry.push(source, NAME, f"--format={kind}")
        for form in FORMS:
            for keep in ((), ("--keep-layers",)):
                dimgx("-w", *keep, f"--format={form}", "-t", tmp_path / form, reference)
                assert flat(reference_of(form, tmp_path / form)) == flat(source)
                if form != "docker-dir":
                    assert NAME in files_of(tmp_path / form)[
                        "manifest.json" if form == "docker-archive" else "index.json"
                    ].decode()  # fmt: skip
        told = run([need("skopeo"), "inspect", "--raw", "--tls-verify=false", reference]).stdout
        mine = "oci-dir" if kind == "oci" else "docker-dir"
        assert told in files_of(tmp_path / mine).values(), "the manifest, byte for byte"
        # As skopeo itself copies it.
        run([need("skopeo"), "copy", "--src-tls-verify=false", reference, f"dir:{tmp_path}/copy"])
        copied = files_of(tmp_path / "copy")
        copied.pop("version")
        blobs = {name.rpartition("/")[2]: data for name, data in files_of(tmp_path / mine).items()}
        if kind == "v2s2":
            blobs.pop("version")
            assert blobs == copied
        else:
            copied.pop("manifest.json")
            assert copied.items() <= blobs.items()


@pytest.mark.parametrize("row", ["@1", "@4", "TOPMOST"])
def test_docker_runs_what_is_squashed(
    docker: Engine, saved: Path, tmp_path: Path, row: str
) -> None:
    path = tmp_path / "out.tar"
    if row == "TOPMOST":  # the topmost row that has a layer, by its diff_id
        row = config_of(str(saved))["rootfs"]["diff_ids"][-1]
    words = ("--squash-from", row, "--tag", "squashed:1")
    dimgx(*words, "-H", docker.url, "-t", f"docker-archive:{path}", "made:1")
    assert flat(str(path)) == flat(str(saved))
    try:
        assert b"Loaded image: squashed:1" in docker.run("load", "-i", path)
        assert run_it(docker, "squashed:1") == SAID
        services.compare_with_export(flat(str(path)), docker.exported("squashed:1"))
        old, new = docker.inspected("made:1"), docker.inspected("squashed:1")
        assert new["Config"] == old["Config"]
        count = len(new["RootFS"]["Layers"]) - 1
        assert new["RootFS"]["Layers"][:count] == old["RootFS"]["Layers"][:count]
        told = docker.ask("history", "--no-trunc", "--format", "{{.CreatedBy}}", "squashed:1")
        assert told[0].startswith("dimgx: ") and "squashed" in told[0]
    finally:
        docker.run("image", "rm", "-f", "squashed:1", ok=False)


@pytest.mark.parametrize("row", ["@0", "@2", "@3"])
def test_umoci_unpacks_what_is_squashed(tmp_path: Path, row: str) -> None:
    need_root()
    source = SOURCES["docker-1.10"](tmp_path, APP)
    dimgx("--squash-from", row, "-t", f"oci:{tmp_path}/out", source)
    bundle = tmp_path / "bundle"
    run([need("umoci"), "unpack", "--image", f"{tmp_path}/out:1.0", bundle])
    theirs = short_listing(comparable(read_tree(bundle / "rootfs"), directory_times=False))
    ours = short_listing(comparable(read_tar(flat(source)), directory_times=False))
    assert theirs == ours


def test_what_is_squashed_at_a_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_environment(tmp_path, monkeypatch)
    place = tmp_path / "registry"
    place.mkdir()
    with real_registry(place) as registry:
        source = f"oci:{oci_layout(tmp_path / 'source', APP)}:{NAME}"
        reference = registry.push(source, NAME, "--format=oci")
        for number, target in enumerate((tmp_path / "0", tmp_path / "1")):
            dimgx("--squash-from", "@2", *["--layer-compression=zstd"][:number],
                  "-t", f"oci:{target}", reference)  # fmt: skip
            assert flat(f"oci:{target}") == flat(source)
            old, new = manifest_of(tmp_path / "source"), manifest_of(target)
            assert new["layers"][0]["digest"] == old["layers"][0]["digest"], "as it was"


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_that_comes_again(docker: Engine, tmp_path: Path, form: str) -> None:
    again = image(BASE, TOP, MIDDLE, TOP, BASE, TOP, tags=("again:1",))
    source = SOURCES["oci"](tmp_path, again)
    dimgx("--keep-layers", f"--format={form}", "-t", tmp_path / "out", source)
    reference = reference_of(form, tmp_path / "out")
    assert flat(reference) == flat(source)
    run([need("skopeo"), "copy", "--insecure-policy", reference, f"oci:{tmp_path}/copy:again"])
    assert flat(f"oci:{tmp_path}/copy") == flat(source)
    if form == "docker-archive":
        docker.run("load", "-i", tmp_path / "out")
        found = docker.inspected("again:1")
        assert found["Id"] == f"sha256:{again.id()}"
        assert len(found["RootFS"]["Layers"]) == 6
