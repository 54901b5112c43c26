"""`--check`, `--update` and `--origin` on targets that are images."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dimgx.images.origin import NoOrigin
from dimgx.targets.state import read_state
from tests.dsl import dir_, file, layer, whiteout
from tests.programs import dimgx, need, refused, run
from tests.test_upkeep import check, refused_origin, update
from tests.writers import Json, docker_archive, docker_archive_v1, image, oci_layout

BASE = layer(dir_("etc"), file("etc/a", b"1"), file("etc/old", b"x" * 3000))
TOP = layer(whiteout("etc/old"), file("etc/b", b"2"))
NEW = layer(whiteout("etc/old"), file("etc/b", b"3"))
APP, NEXT = (image(BASE, top, tags=("example/app:1",)) for top in (TOP, NEW))
OTHER = image(NEW, tags=("other/app:2",))
CHANGED = (
    f"layer 2 changed: {APP.diff_ids()[1][:19]} -> {NEXT.diff_ids()[1][:19]}"
)  # fmt: skip
FORMS = {
    "docker-archive": "docker-archive:out.tar",
    "packed": "docker-archive:out.tar.gz",
    "oci-archive": "oci-archive:out.tar",
    "oci-dir": "oci:out",
    "docker-dir": "dir:out",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, picture in (("app", APP), ("next", NEXT), ("other", OTHER)):
        (tmp_path / f"{name}.tar").write_bytes(docker_archive(picture))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=FORMS)
def target(request: pytest.FixtureRequest) -> str:
    return FORMS[request.param]


def path_of(target: str) -> Path:
    return Path(target.partition(":")[2])


def files(target: str) -> dict[str, tuple[int, int]]:
    """Give what tells that files were written anew."""
    path = path_of(target)
    found = [path, *path.rglob("*")] if path.is_dir() else [path]
    return {str(one): (one.stat().st_ino, one.stat().st_mtime_ns) for one in found}


def origin(target: str) -> list[Json]:
    return [json.loads(line) for line in dimgx("--origin", target).stdout.splitlines()]


def test_made_once_then_up_to_date_then_replaced(place: Path, target: str) -> None:
    assert check("-t", target, "./app.tar") == (5, "there is no target yet")
    assert not path_of(target).exists()
    update("-t", target, "./app.tar")
    before = files(target)
    assert check("-t", target, "./app.tar") == (0, "up to date")
    update("-t", target, "./app.tar")
    assert check("-t", target, "./next.tar") == (5, CHANGED)
    assert files(target) == before
    update("-t", target, "./next.tar")
    assert check("-t", target, "./next.tar") == (0, "up to date")
    assert check("-t", target, "./app.tar")[0] == 5


def test_image_forms_tell_their_origin_always(place: Path, target: str) -> None:
    """Also when --update has not made them."""
    dimgx("-t", target, "./app.tar")
    assert check("-t", target, "./app.tar") == (0, "up to date")
    (told,) = origin(target)
    assert told["layers"] == APP.diff_ids()
    assert told["form"] == next(
        name for name in ("docker-archive", "oci-archive", "oci-dir", "docker-dir")
        if FORMS[name].partition(":")[0] == target.partition(":")[0]
    )  # fmt: skip
    assert told.get("names") == (None if target.startswith("dir:") else ["example/app:1"])
    with_update = origin(target)
    update("-w", "-t", target, "./app.tar")
    assert origin(target) == with_update


def test_layers_carry_no_record(place: Path, target: str) -> None:
    update("-t", target, "./app.tar")
    dimgx("-t", "plain.tar", "./app.tar")
    dimgx("--raw", "-l", "@0", "-t", "raw.tar", target)
    assert Path("raw.tar").read_bytes() == Path("plain.tar").read_bytes()


def test_same_image_in_every_form(place: Path) -> None:
    """The record says nothing of the form, so the image has the same ID in all."""
    ids = set()
    for target in FORMS.values():
        dimgx("-w", "-t", target, "./app.tar")
        document = json.loads(dimgx("--json", target).stdout)
        ids.add(document["rows"][0]["id"])
        if path_of(target).is_dir():
            run(["rm", "-r", path_of(target)])
    assert len(ids) == 1


OPTIONS = [
    (("-l", "@0"), "layer 2 is gone: "),
    (("--layer-compression", "zstd"), "the layers' compression changed: "),
    (("--tag", "other:1"), "misses image other:1"),
    (("--keep-layers",), "flattened, now layers kept"),
    (("--squash-from", "@1"), "flattened, now squashed from layer 2 on"),
    (("--squash-from", "@0"), "flattened, now squashed from layer 1 on"),
    (("--exclude", "etc/a"), "--include and --exclude changed: nothing -> -etc/a"),
]


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
@pytest.mark.parametrize(("words", "reason"), OPTIONS, ids=lambda f: str(f)[:30])
def test_options_that_count(
    place: Path, form: str, words: tuple[str, ...], reason: str | None
) -> None:
    target = FORMS[form]
    update("-t", target, "./app.tar")
    code, told = check(*words, "-t", target, "./app.tar")
    assert code == 5
    assert told.startswith(reason or "the "), told
    update(*words, "-t", target, "./app.tar")
    assert check(*words, "-t", target, "./app.tar") == (0, "up to date")


def test_compression_that_is_said_is_that_of_all_kept_layers(place: Path) -> None:
    oci_layout(place / "mixed", replace(APP, compression=["zstd", "gzip"]))
    words = ("--keep-layers", "-t", "oci:out", "oci:mixed")
    update(*words)
    assert check(*words) == (0, "up to date")
    gzip = ("--layer-compression", "gzip", *words)
    assert check(*gzip) == (5, "the layers' compression changed: mixed -> gzip")
    update(*gzip)
    assert check(*gzip) == (0, "up to date")
    # A layer that is made says nothing of those below it.
    squashed = ("--squash-from", "@1", "--layer-compression", "gzip", "-t", "oci:two", "oci:mixed")
    update(*squashed)
    assert check(*squashed) == (0, "up to date")


def test_squashing_from_a_step_without_a_layer_is_from_the_next_with_one(place: Path) -> None:
    steps = [{"created_by": "a"}, {"created_by": "ENV A=b", "empty_layer": True}]
    picture = replace(APP, history=[*steps, {"created_by": "c"}])
    Path("steps.tar").write_bytes(docker_archive(picture))
    dimgx("--squash-from", "@1", "-t", "oci:one", "./steps.tar")
    update("--squash-from", "@2", "-t", "oci:two", "./steps.tar")
    ids = [dimgx("-q", target).stdout for target in ("oci:one", "oci:two")]
    assert ids[0] == ids[1]
    assert check("--squash-from", "@1", "-t", "oci:two", "./steps.tar") == (0, "up to date")


def test_settings_count(place: Path, target: str) -> None:
    update("-t", target, "./app.tar")
    for config, told in (
        ({"Cmd": ["/bin/other"]}, "the run settings changed: "),
        ({"Cmd": ["/bin/sh"], "Healthcheck": {"Test": ["NONE"]}}, "the health check changed: "),
    ):
        other = replace(APP, config={"config": config})
        Path("other.tar").write_bytes(docker_archive(other))
        code, reason = check("-t", target, "./other.tar")
        assert (code, reason[: len(told)]) == (5, told)


ANOTHER = {
    "on build": {"config": {"Cmd": ["/bin/sh"], "OnBuild": ["RUN make"]}},
    "stop timeout": {"config": {"Cmd": ["/bin/sh"], "StopTimeout": 5}},
    "shell": {"config": {"Cmd": ["/bin/sh"], "Shell": ["/bin/bash", "-c"]}},
    "escaped": {"config": {"Cmd": ["/bin/sh"], "ArgsEscaped": True}},
    "unknown": {"config": {"Cmd": ["/bin/sh"]}, "io.example": 1},
    "author": {"author": "x"},
    "created": {"created": "2025-01-01T00:00:00Z"},
    "variant": {"variant": "v2"},
    "history": {"history": [{"created_by": "a"}, {"created_by": "b"}]},
}
WAYS = {"flattened": (), "squashed": ("--squash-from", "@0"), "kept": ("--keep-layers",)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ANOTHER)
def test_image_with_the_same_layers_is_another(place: Path, way: str, what: str) -> None:
    words = (*WAYS[way], "-t", "oci:out")
    update(*words, "./app.tar")
    Path("other.tar").write_bytes(docker_archive(replace(APP, config=ANOTHER[what])))
    code, reason = check(*words, "./other.tar")
    assert code == 5
    assert " changed: " in reason
    update(*words, "./other.tar")
    assert check(*words, "./other.tar") == (0, "up to date")


@pytest.mark.parametrize("what", ANOTHER)
def test_a_tar_holds_nothing_of_what_makes_it_another_image(place: Path, what: str) -> None:
    update("-t", "flat.tar", "./app.tar")
    Path("other.tar").write_bytes(docker_archive(replace(APP, config=ANOTHER[what])))
    assert check("-t", "flat.tar", "./other.tar") == (0, "up to date")


def test_time_that_takes_the_place_of_the_images(
    place: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    update("-t", target, "./app.tar")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    told = "SOURCE_DATE_EPOCH changed: none -> 0"
    assert check("-t", target, "./app.tar") == (5, told)
    update("-t", target, "./app.tar")
    assert check("-t", target, "./app.tar") == (0, "up to date")
    # An image that only changes its form has a time already.
    update("--keep-layers", "-t", target, "./app.tar")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert check("--keep-layers", "-t", target, "./app.tar") == (0, "up to date")


def test_form_that_changed(place: Path) -> None:
    update("-t", "docker-archive:out.tar", "./app.tar")
    told = "the form changed: docker-archive -> oci-archive"
    assert check("-t", "oci-archive:out.tar", "./app.tar") == (5, told)
    update("-t", "oci-archive:out.tar", "./app.tar")
    told = "the form changed: oci-archive -> tar"
    assert check("-t", "out.tar", "./app.tar") == (5, told)
    update("-t", "out.tar", "./app.tar")
    told = "the form changed: tar -> docker-archive"
    assert check("-t", "docker-archive:out.tar", "./app.tar") == (5, told)
    update("-t", "docker-archive:out.tar", "./app.tar")
    update("-t", "oci:dir", "./app.tar")
    assert check("-t", "dir:dir", "./app.tar") == (
        5, "the form changed: oci-dir -> docker-dir"
    )  # fmt: skip


def test_other_program_that_copies_keeps_the_origin(place: Path) -> None:
    update("-t", "oci:out", "./app.tar")
    run([need("skopeo"), "copy", "-q", "oci:out:1", "dir:copy"])
    assert origin("dir:copy")[0]["layers"] == APP.diff_ids()
    assert check("-t", "dir:copy", "./app.tar")[1] != "not an archive of ours"


def test_flattened_image_that_another_program_saved_is_kept(place: Path) -> None:
    """It holds the same image, as any other does that `docker save` or skopeo writes."""
    dimgx("-t", "docker-archive:flat.tar", "./app.tar")
    run([need("skopeo"), "copy", "-q", "docker-archive:flat.tar", "oci:copy:example/app:1"])
    dimgx("--keep-layers", "-t", "oci:flat", "oci:copy")
    assert check("--keep-layers", "-t", "oci:copy", "oci:flat") == (0, "up to date")
    assert check("-t", "oci:copy", "./app.tar")[0] == 0
    other = ("--tag", "example/app:1", "./other.tar")
    told = f"layer 1 changed: {APP.diff_ids()[0][:19]} -> {OTHER.diff_ids()[0][:19]}"
    assert check("--keep-layers", "-t", "oci:copy", *other) == (5, told)


def test_image_before_docker_1_10(place: Path, target: str) -> None:
    Path("v1.tar").write_bytes(docker_archive_v1(APP))
    update("-t", target, "./v1.tar")
    assert check("-t", target, "./v1.tar") == (0, "up to date")
    assert all(len(id) == 64 for id in origin(target)[0]["layers"])


def test_source_on_standard_input(place: Path, target: str) -> None:
    data = Path("app.tar").read_bytes()
    update("-t", target, "-", stdin=data)
    assert check("-t", target, "-", stdin=data) == (0, "up to date")
    assert check("-t", target, "./app.tar") == (0, "up to date")


# -- what is there already -----------------------------------------------------------------------


def test_what_others_made_is_replaced_by_force_only(place: Path) -> None:
    for target, data in (
        ("docker-archive:out.tar", docker_archive(APP)),
        ("docker-archive:out.tar", BASE),
        ("oci-archive:out.tar", os.urandom(3000)),
    ):
        Path("out.tar").write_bytes(data)
        assert check("-t", target, "./app.tar") == (5, "not an archive of ours")
        code, told = refused("./app.tar", "--update", "-t", target)
        assert (code, "out.tar exists (not an archive of ours)" in told) == (2, True)
        assert Path("out.tar").read_bytes() == data
        assert refused_origin(target)[0] == 2
        update("-w", "-t", target, "./app.tar")
        assert check("-t", target, "./app.tar") == (0, "up to date")


def test_directory_that_is_not_ours(place: Path) -> None:
    oci_layout(place / "out", APP)
    assert check("-t", "oci:out", "./app.tar") == (5, "not an archive of ours")
    assert refused("./app.tar", "--update", "-t", "oci:out")[0] == 2
    update("-w", "-t", "oci:out", "./app.tar")
    assert check("-t", "oci:out", "./app.tar") == (0, "up to date")
    (place / "home").mkdir()
    (place / "home" / "letter").write_text("dear")
    assert check("-t", "oci:home", "./app.tar") == (5, "not an archive of ours")
    assert refused("./app.tar", "--update", "-w", "-t", "oci:home")[0] == 2
    assert os.listdir("home") == ["letter"]


@pytest.mark.parametrize("kind", ["artifact", "unknown", "attested"])
def test_what_is_no_image_is_replaced_by_force_only(place: Path, kind: str) -> None:
    update("-t", "oci:out", "./app.tar")
    index = place / "out" / "index.json"
    listed = json.loads(index.read_bytes())
    data = json.dumps({"schemaVersion": 2, "artifactType": "application/spdx+json"}).encode()
    digest = hashlib.sha256(data).hexdigest()
    blob = place / "out" / "blobs" / "sha256" / digest
    blob.write_bytes(data)
    media_type = "application/vnd.oci.image.manifest.v1+json"
    entry = {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
    listed["manifests"].append(entry | {
        "artifact": {"artifactType": "application/spdx+json"},
        "unknown": {"mediaType": "application/octet-stream"},
        "attested": {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
    }[kind])
    index.write_text(json.dumps(listed))
    before = index.read_bytes()
    told = f"holds sha256:{digest[:12]} too, which is no image"
    for source in ("./app.tar", "./next.tar"):
        assert check("-t", "oci:out", source) == (5, told)
        code, reason = refused(source, "--update", "-t", "oci:out")
        assert (code, f"out exists ({told})" in reason) == (2, True)
        assert (index.read_bytes(), blob.read_bytes()) == (before, data)
    assert origin("oci:out")[0]["layers"] == APP.diff_ids()
    update("-w", "-t", "oci:out", "./next.tar")
    assert check("-t", "oci:out", "./next.tar") == (0, "up to date")
    assert not blob.exists()


def test_image_built_on_one_of_ours_is_not_ours(place: Path) -> None:
    dimgx("-t", "docker-archive:flat.tar", "./app.tar")
    flat = json.loads(dimgx("--json", "./flat.tar").stdout)["rows"][0]
    steps = [
        {"created_by": flat["created_by"], "comment": flat["comment"]},
        {"created_by": "RUN more", "comment": "buildkit"},
    ]
    built = replace(APP, history=steps)
    Path("out.tar").write_bytes(docker_archive(built))
    assert check("-t", "docker-archive:out.tar", "./app.tar") == (5, "not an archive of ours")


def test_empty_directory_is_no_target_yet(place: Path) -> None:
    (place / "out").mkdir()
    assert check("-t", "oci:out", "./app.tar") == (5, "there is no target yet")
    update("-t", "oci:out", "./app.tar")
    assert check("-t", "oci:out", "./app.tar") == (0, "up to date")


def test_damaged_targets_are_made_again(place: Path) -> None:
    """As long as they still tell that they are ours."""
    update("-t", "oci:out", "./app.tar")
    whole = {path: path.read_bytes() for path in (place / "out").rglob("*") if path.is_file()}
    manifest = json.loads(dimgx("--json", "oci:out").stdout)["rows"][0]
    blob = place / "out" / "blobs" / "sha256" / manifest["digest"].partition(":")[2]
    for data, told in ((None, "damaged: its layer 1 is missing"), (b"short", "damaged: its layer")):
        blob.unlink() if data is None else blob.write_bytes(data)
        code, reason = check("-t", "oci:out", "./app.tar")
        assert (code, reason[: len(told)]) == (5, told)
        update("-t", "oci:out", "./app.tar")
        found = {path: path.read_bytes() for path in (place / "out").rglob("*") if path.is_file()}
        assert found == whole
    (place / "out" / "index.json").write_bytes(b"{")
    assert check("-t", "oci:out", "./app.tar") == (5, "not an archive of ours")


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_archive_that_was_cut_is_not_up_to_date(place: Path, part: float) -> None:
    for target in ("docker-archive:out.tar", "oci-archive:out.tar"):
        update("-w", "-t", target, "./app.tar")
        data = Path("out.tar").read_bytes()
        Path("out.tar").write_bytes(data[: int((len(data) - 1024) * part)])
        assert check("-t", target, "./app.tar")[0] == 5
        update("-w", "-t", target, "./app.tar")
        assert Path("out.tar").read_bytes() == data


ID = "ab" * 32
FIRST = ("./", "blobs/", "././blobs/sha256/", "oci-layout", "index.json", "repositories", "etc/")
FIRST += (ID, f"{ID}/", f"{ID}.json", f"{ID}.tar", f"./{ID}/layer.tar", "manifest.json")


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("is_packed", [True, False])
def test_archive_of_images_is_told_by_its_first_member(
    tmp_path: Path, name: str, is_packed: bool
) -> None:
    """If it is packed, since all of it has to be decoded to look at the rest."""
    first = layer(dir_(name.rstrip("/")) if name.endswith("/") else file(name, b""), end=b"")
    data = first + docker_archive(APP)
    path = tmp_path / "out.tar"
    path.write_bytes(gzip.compress(data) if is_packed else data)
    if is_packed and name == "etc/":
        with pytest.raises(NoOrigin):
            read_state(str(path))
        return
    (found,) = read_state(str(path)) or ()
    assert (found.form, found.is_ours, found.problem) == ("docker-archive", False, None)


# -- several images ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
def test_several_images(place: Path, form: str) -> None:
    words = ("--format", form, "-t", "out.tar")
    update(*words, "./app.tar", "./other.tar")
    assert check(*words, "./app.tar", "./other.tar") == (0, "up to date")
    assert check(*words, "./other.tar", "./app.tar") == (0, "up to date")
    assert check(*words, "./app.tar") == (5, "holds image other/app:2 too")
    assert check(*words, "./next.tar", "./other.tar") == (5, f"image example/app:1: {CHANGED}")
    more = image(TOP, tags=("b:2",))
    Path("more.tar").write_bytes(docker_archive(more))
    all_three = ("./app.tar", "./other.tar", "./more.tar")
    assert check(*words, *all_three) == (5, "misses image b:2")
    update(*words, *all_three)
    assert check(*words, *all_three) == (0, "up to date")
    told = origin("out.tar")
    assert [(one["names"], one["layers"]) for one in told] == [
        (list(picture.tags), picture.diff_ids()) for picture in (APP, OTHER, more)
    ]


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_one_image_under_two_names(place: Path, form: str) -> None:
    Path("twice.tar").write_bytes(docker_archive(replace(APP, tags=("again:1",))))
    words = ("--format", form, "-t", "out.tar")
    update(*words, "./app.tar", "./twice.tar")
    (told,) = origin("out.tar")
    assert told["names"] == ["example/app:1", "again:1"]
    assert check(*words, "./app.tar", "./twice.tar") == (0, "up to date")
    assert check(*words, "./app.tar") == (5, "holds image again:1 too")


def test_names_with_one_tag(place: Path) -> None:
    tags = ("app:latest", "registry.io/team/app:latest", "registry.io/team/app:2")
    Path("tags.tar").write_bytes(docker_archive(replace(APP, tags=tags)))
    for words, names in (
        (("--keep-layers", "-t", "oci:out", "docker-archive:tags.tar"), list(tags)),
        (("--tag", "app", "-t", "oci:out:latest", "./app.tar"), ["app:latest"]),
    ):
        update(*words)
        assert origin("oci:out")[0]["names"] == names
        assert check(*words) == (0, "up to date")
        listed = json.loads((place / "out" / "index.json").read_bytes())["manifests"]
        refs = [entry["annotations"].get("org.opencontainers.image.ref.name") for entry in listed]
        assert refs == ["latest", "registry.io/team/app:latest", "2"][: len(names)]
        run([need("umoci"), "stat", "--image", "out:latest"])
        run([need("skopeo"), "inspect", "oci:out:latest"])


def test_another_form_is_told_before_what_is_in_it(place: Path) -> None:
    update("-t", "oci-archive:out", "./app.tar", "./other.tar")
    assert check("-t", "out", "./app.tar") == (5, "the form changed: oci-archive -> tar")
    told = "the form changed: oci-archive -> docker-archive"
    assert check("-t", "docker-archive:out", "./app.tar") == (5, told)
    code, line = refused("./app.tar", "--check", "-t", "oci:out")
    assert (code, line) == (2, "dimgx: out is no directory, which this form of an image is\n")


# -- kept layers ---------------------------------------------------------------------------------


def test_kept_layers(place: Path, target: str) -> None:
    words = ("--keep-layers", "-t", target)
    update(*words, "./app.tar")
    before = files(target)
    assert check(*words, "./app.tar") == (0, "up to date")
    update(*words, "./app.tar")
    assert files(target) == before
    assert check(*words, "./next.tar") == (5, CHANGED)
    update(*words, "./next.tar")
    assert check(*words, "./next.tar") == (0, "up to date")
    (told,) = origin(target)
    assert (told["kept"], told["layers"]) == (True, NEXT.diff_ids())
    assert check("-t", target, "./next.tar") == (5, "layers kept, now flattened")


def test_kept_layers_whose_config_is_made_anew(place: Path, target: str) -> None:
    Path("v1.tar").write_bytes(docker_archive_v1(APP))
    oci_layout(place / "bare", image(BASE, config={"rootfs": None, "history": None}))
    for source in ("./v1.tar", "oci:bare"):
        update("--keep-layers", "-t", target, source)
        assert check("--keep-layers", "-t", target, source) == (0, "up to date")


def test_record_of_kept_layers_changes_no_digest(place: Path) -> None:
    oci_layout(place / "layout", APP)
    before = json.loads(dimgx("--json", "oci:layout").stdout)
    for target in ("oci:out", "oci-archive:out.tar"):
        update("--keep-layers", "-t", target, "oci:layout")
        after = json.loads(dimgx("--json", target).stdout)
        assert after["image"]["digest"] == before["image"]["digest"]
        assert after["rows"][0]["id"] == before["rows"][0]["id"]
    # Others read it all the same.
    raw = run([need("skopeo"), "inspect", "--raw", "oci:out:1"])
    assert json.loads(raw.stdout)["layers"]


def test_what_others_saved_is_current_where_layers_are_kept(place: Path) -> None:
    """It is what would be written, whoever wrote it; outdated, it is theirs."""
    words = ("--keep-layers", "-t", "docker-archive:save.tar")
    Path("save.tar").write_bytes(docker_archive(APP))
    assert check(*words, "./app.tar") == (0, "up to date")
    assert check(*words, "./next.tar") == (5, CHANGED)
    code, told = refused("./next.tar", "--update", *words)
    assert (code, f"save.tar exists ({CHANGED})" in told) == (2, True)
