"""Several images in an OCI layout: at once, or added to one that has some already."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dimgx
from dimgx import UsageError, system
from dimgx.targets.forms import FormName
from tests import programs
from tests.dsl import file, layer
from tests.programs import dimgx as run_dimgx
from tests.programs import flat_bytes, refused
from tests.results import files_of
from tests.writers import Picture, dir_image, docker_archive, image

A = image(layer(file("a", b"of a")), tags=("example.com/a:1",))
B = image(layer(file("b", b"of b")), tags=("example.com/b:1",))
NAMELESS = image(layer(file("c")), tags=())
REF, FULL = "org.opencontainers.image.ref.name", "io.containerd.image.name"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, picture in (("a", A), ("b", B), ("c", NAMELESS)):
        (tmp_path / f"{name}.tar").write_bytes(docker_archive(picture))
    return tmp_path


def add(target: str, source: str, *words: str) -> None:
    assert run_dimgx("--keep-images", "-t", target, f"./{source}.tar", *words).stderr == b""


def index(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "lay" / "index.json").read_bytes())
    return found


def names(place: Path, target: str = "lay") -> list[tuple[str | None, str | None]]:
    listed = json.loads(files_of(place / target)["index.json"])["manifests"]
    notes = [one.get("annotations", {}) for one in listed]
    return [(one.get(FULL), one.get(REF)) for one in notes]


def expected(picture: Picture) -> bytes:
    return run_dimgx("-t", "-", "-", stdin=docker_archive(picture)).stdout


def test_one_after_the_other(place: Path) -> None:
    add("oci:lay:x", "a")
    first = files_of(place / "lay")
    add("oci:lay:y", "b")
    assert names(place) == [(None, "x"), (None, "y")]
    after = files_of(place / "lay")
    assert {name: data for name, data in after.items() if name in first and name != "index.json"} \
        == {name: data for name, data in first.items() if name != "index.json"}
    assert flat_bytes("oci:lay:x") == expected(A)
    assert flat_bytes("oci:lay:y") == expected(B)


def test_what_has_the_same_name_is_replaced(place: Path) -> None:
    add("oci:lay:x", "a")
    add("oci:lay:y", "a")
    add("oci:lay:x", "b")
    assert names(place) == [(None, "y"), (None, "x")]
    assert flat_bytes("oci:lay:x") == expected(B)
    assert flat_bytes("oci:lay:y") == expected(A)


def test_full_names_that_share_a_tag(place: Path) -> None:
    for source in ("a", "b", "b", "a"):
        add("oci:lay", source)
    assert names(place) == [("example.com/b:1",) * 2, ("example.com/a:1", "1")]
    assert flat_bytes("oci:lay:example.com/a:1") == expected(A)
    assert flat_bytes("oci:lay:example.com/b:1") == expected(B)


@pytest.mark.parametrize("beside", [None, {}, {"annotations": None}, {"annotations": {"x": "y"}}])
def test_a_tag_that_is_all_of_a_name_is_taken_from_a_full_one(
    place: Path, beside: dict[str, Any] | None
) -> None:
    add("oci:lay", "a")
    is_in_other_words = beside is not None
    if beside is not None:
        found = index(place)
        (old,) = found["manifests"]
        notes = old.pop("annotations")
        old |= {**beside, "Annotations": notes}
        (place / "lay" / "index.json").write_text(json.dumps(found))
    add("oci:lay:1", "b")
    assert flat_bytes("oci:lay:example.com/a:1") == expected(A)
    assert flat_bytes("oci:lay:1") == expected(B)
    if not is_in_other_words:
        assert names(place) == [("example.com/a:1",) * 2, (None, "1")]
    add("oci:lay:1", "c")
    add("oci:lay", "b")
    assert flat_bytes("oci:lay:1") == expected(NAMELESS)
    assert flat_bytes("oci:lay:example.com/b:1") == expected(B)
    assert len(index(place)["manifests"]) == 3


def test_what_umoci_made_of_an_image_stays(place: Path) -> None:
    """It copies the full name, and only the tag tells the two apart."""
    umoci = programs.need("umoci")
    add("oci:lay", "a")
    programs.run([umoci, "tag", "--image", "lay:1", "same"])
    programs.run([umoci, "config", "--image", "lay:1", "--tag", "other", "--config.cmd", "x"])
    assert flat_bytes("oci:lay:example.com/a:1") == expected(A)
    Path("new.tar").write_bytes(docker_archive(replace(B, tags=A.tags)))
    add("oci:lay", "new")
    assert [ref for _, ref in names(place)] == ["same", "other", "1"]
    assert flat_bytes("oci:lay:example.com/a:1") == expected(B)
    assert flat_bytes("oci:lay:other") == expected(A)
    add("oci:lay:same", "b")
    assert [ref for _, ref in names(place)] == ["other", "1", "same"]
    assert names(place)[2] == (None, "same")
    full = ("--tag", "example.com/c:9", "--config.cmd", "y")
    programs.run([umoci, "config", "--image", "lay:1", *full])
    add("oci:lay", "new")
    assert flat_bytes("oci:lay:example.com/c:9") == expected(B)
    assert flat_bytes("oci:lay:example.com/a:1") == expected(B)


def test_the_same_without_a_name_is_there_once(place: Path) -> None:
    for source in ("c", "a", "c"):
        add("oci:lay", source)
    assert names(place) == [("example.com/a:1", "1"), (None, None)]


def test_what_else_an_index_says_stays(place: Path) -> None:
    add("oci:lay:x", "a", "--keep-layers")
    found = index(place)
    found["annotations"] = {"made": "by somebody"}
    found["manifests"][0]["artifactType"] = "application/thing"
    (place / "lay" / "index.json").write_text(json.dumps(found))
    add("oci:lay:y", "b")
    after = index(place)
    assert after["annotations"] == found["annotations"]
    assert after["manifests"][0] == found["manifests"][0]


def test_index_in_other_words(place: Path) -> None:
    """It counts as Go reads it: in any case, with what is null absent."""
    add("oci:lay:x", "a")
    (old,) = index(place)["manifests"]
    old["Annotations"], old["Digest"] = old.pop("annotations") | {"odd": [1]}, old.pop("digest")
    odd = {"digest": old["Digest"], "annotations": {REF: ["x"]}}
    bare = {"DIGEST": old["Digest"], "annotations": None}
    words = {"SchemaVersion": 2, "Manifests": [None, old, odd, bare], "Subject": None}
    (place / "lay" / "index.json").write_text(json.dumps(words))
    add("oci:lay:y", "b")
    after = index(place)
    assert after["manifests"][:3] == [old, odd, bare]
    assert after.keys() == {"schemaVersion", "mediaType", "manifests", "Subject"}
    assert (flat_bytes("oci:lay:x"), flat_bytes("oci:lay:y")) == (expected(A), expected(B))
    add("oci:lay:x", "b")
    assert index(place)["manifests"][:2] == [odd, bare]


def test_layout_of_others(place: Path) -> None:
    """And they read it, too."""
    skopeo, umoci = programs.need("skopeo"), programs.need("umoci")
    programs.run([skopeo, "copy", "-q", "--insecure-policy", "docker-archive:a.tar", "oci:lay:a"])
    add("oci:lay:b", "b")
    assert programs.run([umoci, "ls", "--layout", "lay"]).stdout.split() == [b"a", b"b"]
    for tag, picture in (("a", A), ("b", B)):
        programs.run(
            [skopeo, "copy", "-q", "--insecure-policy", f"oci:lay:{tag}", f"dir:copy-{tag}"]
        )
        assert flat_bytes(f"dir:copy-{tag}") == expected(picture)


@pytest.mark.parametrize("name", ["new", "empty"])
def test_where_nothing_is_yet(place: Path, name: str) -> None:
    (place / "empty").mkdir()
    add(f"oci:{name}:x", "a")
    run_dimgx("-t", "oci:other:x", "./a.tar")
    assert files_of(place / name) == files_of(place / "other")


def test_where_no_layout_is(place: Path) -> None:
    (place / "file").touch()
    assert "file is no directory" in refused("./a.tar", "--keep-images", "-t", "oci:file")[1]
    (place / "some").mkdir()
    (place / "some" / "thing").touch()
    told = refused("./a.tar", "--keep-images", "-t", "oci:some")[1]
    assert "some is neither empty nor an image" in told
    dir_image(place / "dir", A)
    told = refused("./a.tar", "--keep-images", "-t", "oci:dir")[1]
    assert "dir holds no OCI layout to add to" in told


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "lay/index.json is not valid JSON"),
        ("[]", "lay/index.json is no JSON object"),
        ('{"manifests":1}', "lay/index.json: manifests is no list"),
        ('{"manifests":[1]}', "is no JSON object"),
        ('{"manifests":[{"digest":1}]}', "digest is no string"),
        ('{"manifests":[{"Annotations":[]}]}', "annotations is no JSON object"),
    ],
)
def test_index_that_makes_no_sense(place: Path, text: str, problem: str) -> None:
    add("oci:lay:x", "a")
    (place / "lay" / "index.json").write_text(text)
    before = files_of(place / "lay")
    code, told = refused("./b.tar", "--keep-images", "-t", "oci:lay:y")
    assert (code, problem in told) == (2, True)
    assert files_of(place / "lay") == before


def test_damaged_image_leaves_all_as_it_was(place: Path) -> None:
    add("oci:lay:x", "a")
    before = files_of(place / "lay")
    data = docker_archive(B)
    (place / "bad.tar").write_bytes(data.replace(b"of b", b"of x"))
    assert refused("./bad.tar", "--keep-images", "-t", "oci:lay:y")[0] == 2
    assert files_of(place / "lay") == before


def test_two_do_not_write_one_layout(place: Path) -> None:
    if "flock" not in system.FEATURES:
        pytest.skip("needs locks on directories")
    add("oci:lay:x", "a")
    fd = os.open("lay", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        code, told = refused("./b.tar", "--keep-images", "-t", "oci:lay:y")
    finally:
        os.close(fd)
    assert (code, "is being written by another program" in told) == (4, True)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("-t", "x.tar"), "--keep-images has no effect on a plain tar"),
        (("-t", "docker-archive:x.tar"), "--keep-images has no effect but in an OCI layout"),
        (("-t", "oci-archive:x.tar"), "--keep-images has no effect but in an OCI layout"),
        (("-t", "dir:x"), "--keep-images has no effect but in an OCI layout"),
        (("--load",), "--keep-images has no effect on what is handed to an engine"),
        (("-w", "-t", "oci:x"), "has no effect with --keep-images"),
        (("--update", "-t", "oci:x"), "--update has no effect with --keep-images"),
        ((), "--keep-images has no effect without a target"),
    ],
)
def test_where_it_has_no_effect(place: Path, words: tuple[str, ...], problem: str) -> None:
    code, told = refused("./a.tar", "--keep-images", *words)
    assert (code, problem in told) == (1, True)


def test_by_the_library(place: Path) -> None:
    with dimgx.open_image(place / "a.tar") as found:
        for name in ("x", "y"):
            one = dimgx.ResultImage(found, names=[f"app:{name}"])
            dimgx.write_images([one], "lay", form="oci-dir", keep_images=True)
        with pytest.raises(dimgx.UsageError, match="not in oci-archive"):
            dimgx.write_images([found], "lay.tar", form="oci-archive", keep_images=True)
    assert [ref for _, ref in names(place)] == ["x", "y"]


# -- at once --------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
def test_several_at_once(place: Path, transport: str) -> None:
    run_dimgx("-t", f"{transport}:out", "./b.tar", "./a.tar", "./c.tar")
    assert names(place, "out") == [
        ("example.com/b:1", "1"), ("example.com/a:1", "example.com/a:1"), (None, None),
    ]  # fmt: skip
    for ref, picture in (("example.com/a:1", A), ("example.com/b:1", B), ("@2", NAMELESS)):
        assert flat_bytes(f"{transport}:out:{ref}") == expected(picture)
    skopeo = programs.need("skopeo")
    for ref, picture in (("1", B), ("example.com/a:1", A)):
        source = f"{transport}:out:{ref}"
        programs.run([skopeo, "copy", "-q", "--insecure-policy", source, "dir:copy"])
        assert flat_bytes("dir:copy") == expected(picture)


def test_several_to_a_pipe_are_what_a_file_has(place: Path) -> None:
    words = ("--format", "oci-archive", "./a.tar", "./b.tar", "-t")
    run_dimgx(*words, "out.tar")
    assert run_dimgx(*words, "-").stdout == Path("out.tar").read_bytes()


def test_layers_that_several_share_are_there_once(place: Path) -> None:
    base = layer(file("base", b"of both"))
    for name in ("x", "y"):
        picture = image(base, layer(file(name)), tags=(f"{name}:1",))
        Path(f"{name}.tar").write_bytes(docker_archive(picture))
    run_dimgx("--keep-layers", "-t", "oci:lay", "./x.tar", "./y.tar")
    blobs = [name for name in files_of(place / "lay") if name.startswith("blobs/")]
    assert len(blobs) == 3 + 2 + 2  # layers, configs, manifests


def test_what_comes_again_is_listed_once_with_all_names(place: Path) -> None:
    Path("again.tar").write_bytes(docker_archive(replace(A, tags=("again:2",))))
    words = ("./a.tar", "./c.tar", "./again.tar", "./a.tar", "./c.tar")
    run_dimgx("-t", "oci:lay", *words)
    assert sorted(names(place), key=str) == [
        ("docker.io/library/again:2", "2"), ("example.com/a:1", "1"), (None, None),
    ]  # fmt: skip
    assert run_dimgx("--check", "-t", "oci:lay", *words).returncode == 0


def test_two_of_one_name_are_refused(place: Path) -> None:
    for source in ("a", "b"):
        run_dimgx("-t", f"oci:of-{source}:latest", f"./{source}.tar")
    before = sorted(os.listdir())
    code, told = refused("oci:of-a", "oci:of-b", "-t", "oci-archive:out.tar")
    assert (code, "are both named latest" in told) == (1, True), told
    assert sorted(os.listdir()) == before
    run_dimgx("-t", "oci:lay", "oci:of-a", "oci:of-a:latest")
    assert names(place) == [(None, "latest")]


@pytest.mark.parametrize("is_bare_first", [False, True])
def test_who_has_no_other_name_than_a_tag_has_it(place: Path, is_bare_first: bool) -> None:
    run_dimgx("-t", "oci:of-a:1", "./a.tar")
    words = ["./b.tar", "oci:of-a"]
    run_dimgx("-t", "oci:lay", *(reversed(words) if is_bare_first else words))
    assert sorted(names(place), key=str) == [("example.com/b:1",) * 2, (None, "1")]
    assert flat_bytes("oci:lay:1") == expected(A)


def test_several_are_added_at_once(place: Path) -> None:
    add("oci:lay", "a")
    Path("other.tar").write_bytes(docker_archive(replace(NAMELESS, tags=A.tags)))
    run_dimgx("--keep-images", "-t", "oci:lay", "./b.tar", "./other.tar")
    assert names(place) == [("example.com/b:1", "1"), ("example.com/a:1",) * 2]
    assert flat_bytes("oci:lay:example.com/a:1") == expected(NAMELESS)


@pytest.mark.parametrize("form", ["oci-dir", "oci-archive"])
def test_an_image_that_is_stored_in_two_ways_is_refused(place: Path, form: FormName) -> None:
    run_dimgx("--keep-layers", "--layer-compression", "zstd", "-t", "oci:packed", "./a.tar")
    before = sorted(os.listdir())
    with dimgx.open_image("./a.tar") as one, dimgx.open_image("oci:packed") as other:
        assert one.id == other.id
        with pytest.raises(UsageError, match=r"com/a:1 would be the name of two images, or of one"):
            dimgx.write_images([one, other], "lay", form=form, keep_layers=True)
        assert sorted(os.listdir()) == before
        dimgx.write_images([one, other], "lay", form="docker-archive", keep_layers=True)
    assert flat_bytes("./lay") == expected(A)


def test_rows_of_an_image_under_its_one_name_are_refused(place: Path) -> None:
    picture = replace(A, layers=(*A.layers, *B.layers))
    Path("two.tar").write_bytes(docker_archive(picture))
    with dimgx.open_image("./two.tar") as found:
        wanted = [dimgx.ResultImage(found, layers=(row,)) for row in ("@0", "@1")]
        for form in ("oci-dir", "docker-archive"):
            with pytest.raises(UsageError, match="leave one out, or write it on its own"):
                dimgx.write_images(wanted, "lay", form=form)  # type: ignore[arg-type]
    assert not Path("lay").exists()


def test_two_of_one_name_are_refused_by_whoever_asks(place: Path) -> None:
    Path("other.tar").write_bytes(docker_archive(replace(B, tags=A.tags)))
    words = ("-t", "oci:lay", "./a.tar")
    for option in ("--check", "--update"):
        code, told = refused("./other.tar", option, *words)
        assert (code, "are both named example.com/a:1" in told) == (1, True), told
    assert "with a --tag for each and --keep-images" in told
    for form in ("docker-archive", "oci-archive"):
        told = refused("./other.tar", "-t", f"{form}:out.tar", "./a.tar")[1]
        assert told.rstrip().endswith("with a --tag for each"), told


def test_what_a_killed_run_has_left_is_removed_by_the_next(place: Path) -> None:
    add("oci:lay", "a")
    rest = place / "lay" / ".dimgx-0123456789abcdef.part"
    for name in (rest, rest.with_name(".dimgx-0123.part"), rest.with_name("part")):
        name.write_bytes(b"x")
    add("oci:lay", "b")
    assert not rest.exists()
    assert {".dimgx-0123.part", "part"} < set(os.listdir("lay"))


def test_an_error_tells_in_which_image_it_is(place: Path) -> None:
    data = docker_archive(B)
    Path("b.tar").write_bytes(data.replace(b"of b", b"of x"))
    for target in ("oci:out", "{index}.tar", "docker-archive:out.tar"):
        code, told = refused("./b.tar", "-t", target, "./a.tar")
        assert (code, told.startswith("dimgx: ./b.tar: layer 1/1 ")) == (2, True), told
    code, told = refused("./b.tar", "-t", "oci:out")
    assert (code, told.startswith("dimgx: layer 1/1 ")) == (2, True), told
    code, told = refused("./b.tar", "--update", "-t", "new-{index}.tar", "./a.tar")
    assert (code, told.startswith("dimgx: ./b.tar: layer 1/1 ")) == (2, True), told


@pytest.mark.parametrize("form", ["docker-dir", "docker-archive"])
def test_names_that_a_form_does_not_hold_are_not_told(place: Path, form: FormName) -> None:
    run_dimgx("-t", "oci:bare:12", "./a.tar")
    for source in ("./a.tar", "oci:bare:12"):
        run_dimgx("--format", form, "-wt", "out", "--report", "report.json", source)
        (output,) = json.loads(Path("report.json").read_bytes())["outputs"]
        is_held = form == "docker-archive" and source == "./a.tar"
        assert output["images"][0]["names"] == ["example.com/a:1"] * is_held
        Path("report.json").unlink()
        if Path("out").is_dir():
            shutil.rmtree("out")


def test_a_layout_that_was_only_begun_is_gone_on_with(place: Path) -> None:
    (place / "lay").mkdir()
    (place / "lay" / ".dimgx-0123456789abcdef.part").write_bytes(b"x")
    (place / "lay" / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
    add("oci:lay", "a")
    assert names(place) == [("example.com/a:1", "1")]
    assert sorted(os.listdir("lay")) == ["blobs", "index.json", "oci-layout"]
    (place / "dir").mkdir()
    (place / "dir" / "version").write_bytes(b"Directory Transport Version: 1.1\n")
    code, told = refused("./a.tar", "--keep-images", "-t", "oci:dir")
    assert (code, "holds no OCI layout to add to" in told) == (2, True)


def test_a_tag_alone_by_the_library(place: Path) -> None:
    with dimgx.open_image("./a.tar") as found:
        wanted = dimgx.ResultImage(found, names=[dimgx.LayoutName("12"), "other:3"])
        result = dimgx.write_images([wanted], "lay", form="oci-dir")
        assert names(place) == [(None, "12"), ("docker.io/library/other:3", "3")]
        assert list(map(str, result.images[0].names)) == ["12", "docker.io/library/other:3"]
        for text in ("", "a b", "-"):
            wanted = dimgx.ResultImage(found, names=[dimgx.LayoutName(text)])
            with pytest.raises(UsageError, match="is no name of an image in an OCI layout"):
                dimgx.write_images([wanted], "none", form="oci-dir")
        same = dimgx.ResultImage(found, names=["x:1", dimgx.LayoutName("docker.io/library/x:1")])
        dimgx.write_images([same], "same", form="oci-dir")
    assert names(place, "same") == [("docker.io/library/x:1", "1")]


def test_rests_are_left_where_nothing_is_locked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be those of a run that still writes."""
    add("oci:lay", "a")
    rest = place / "lay" / ".dimgx-0123456789abcdef.part"
    rest.write_bytes(b"x")
    monkeypatch.setattr(system, "lock_directory", lambda path: None)
    with dimgx.open_image("./b.tar") as found:
        dimgx.write_images([found], "lay", form="oci-dir", keep_images=True)
    assert rest.exists() and len(names(place)) == 2


@pytest.mark.parametrize("option", ["--report", "--write-config"])
def test_what_is_read_is_not_written_to(place: Path, option: str) -> None:
    run_dimgx("-t", "oci:lay", "./a.tar")
    Path("own.tar").write_bytes(layer(file("own")))
    before = {name: data for path in ("lay", ".") for name, data in files_of(Path(path)).items()}
    for source, path in (
        ("./a.tar", "a.tar"), ("oci:lay", "lay/index.json"), ("oci:lay", "lay/new"),
        ("./a.tar", "./own.tar"),
    ):  # fmt: skip
        words = ("-w", "-t", "x.tar", option, path, "--add-layer", "own.tar")
        code, told = refused(source, *words)
        assert (code, f"{path} is read, or inside what is" in told) == (1, True), told
    code, told = refused("oci:lay", "-w", "-t", "lay/oci-layout")
    assert (code, "would be inside what is read" in told) == (1, True), told
    after = {name: data for path in ("lay", ".") for name, data in files_of(Path(path)).items()}
    assert after == before
    run_dimgx("-w", "-t", "a.tar", option, "beside", "./a.tar")
    run_dimgx("-w", "-t", "oci:lay", "oci:lay")
