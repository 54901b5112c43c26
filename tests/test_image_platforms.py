"""Images for several platforms at once: one index of them, or one result for each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dimgx
from dimgx import ResultImage, UsageError, write_images
from tests import ocischema
from tests.dsl import file, layer, whiteout
from tests.programs import dimgx as run_dimgx
from tests.programs import flat_bytes, need, refused, run
from tests.registries import plain_environment, real_registry
from tests.results import files_of
from tests.writers import OCI, Json, Picture, docker_archive, image, oci_layout, to_json

NOTE = "org.opencontainers.image.ref.name"
FULL = "io.containerd.image.name"
BASE = layer(file("etc/all", b"of all"), file("etc/gone", b"x"))
# As the images of Docker Hub are: the variant stands in the index, and in no config.
PICTURES = {
    name: image(
        BASE, layer(whiteout("etc/gone"), file("bin/app", name.encode())),
        architecture=name.split("/")[1], tags=("app",),
    )
    for name in ("linux/amd64", "linux/arm64", "linux/arm/v7")
}  # fmt: skip
ALL = list(PICTURES)
WINDOWS = image(BASE, os="windows", tags=("app",))


def source_layout(place: Path, *pictures: Picture, name: str = "app", **notes: Json) -> str:
    """Write a layout that lists an index of pictures under a name; give its reference."""
    oci_layout(place, *(replace(picture, tags=()) for picture in pictures))
    index = json.loads((place / "index.json").read_bytes())
    index["mediaType"] = f"{OCI}.index.v1+json"
    for entry, picture in zip(index["manifests"], pictures, strict=True):
        spelled = next((key for key, one in PICTURES.items() if one == picture), "")
        if spelled.count("/") == 2:
            entry["platform"]["variant"] = spelled.rpartition("/")[2]
    data = to_json(index)
    digest = dimgx.digest.Digest.of(data)
    (place / "blobs/sha256" / digest.hex).write_bytes(data)
    outer: Json = {
        "mediaType": index["mediaType"], "digest": str(digest), "size": len(data),
        "annotations": {NOTE: name} | notes,
    }  # fmt: skip
    index = {"schemaVersion": 2, "manifests": [outer]}
    (place / "index.json").write_bytes(to_json(index))
    return f"oci:{place}:{name}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def app(place: Path) -> str:
    return source_layout(Path("in"), *PICTURES.values())


def listed(path: str | Path) -> list[Any]:
    """Give what the index of a layout lists; whatever it leads to is there and to the standard."""
    files = files_of(Path(path))
    entries = ocischema.check("image-index", files["index.json"])["manifests"]
    for entry in entries:
        if entry["mediaType"].endswith("index.v1+json"):
            entry["inner"] = ocischema.check("image-index", blob(files, entry))["manifests"]
        for one in entry.get("inner", [entry]):
            manifest = ocischema.check("image-manifest", blob(files, one))
            assert all(blob(files, part) for part in (manifest["config"], *manifest["layers"]))
    return list(entries)


def blob(files: dict[str, bytes], descriptor: Any) -> bytes:
    data = files["blobs/" + descriptor["digest"].replace(":", "/")]
    assert len(data) == descriptor["size"]
    assert str(dimgx.digest.Digest.of(data)) == descriptor["digest"]
    return data


def names(entries: list[Any]) -> list[Any]:
    """Give each entry's notes of its name, and how many images it stands for."""
    notes = [entry.get("annotations", {}) for entry in entries]
    return [
        (own.get(FULL), own.get(NOTE), len(entry.get("inner", [0])))
        for own, entry in zip(notes, entries, strict=True)
    ]


def platforms_of(reference: str) -> list[str]:
    return run_dimgx("--platforms", reference).stdout.decode().split()


@pytest.mark.parametrize("target", ["oci:out:flat", "oci-archive:out:flat"])
def test_all_become_one_index(app: str, target: str) -> None:
    run_dimgx("--platform", "all", "-t", target, app)
    (entry,) = listed("out")
    assert entry["annotations"] == {NOTE: "flat"} and "platform" not in entry
    assert [one["platform"] for one in entry["inner"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
        {"architecture": "arm", "os": "linux", "variant": "v7"},
    ]
    assert platforms_of(target) == ALL
    for platform in ALL:
        assert flat_bytes(target, "--platform", platform) == flat_bytes(app, "--platform", platform)
        with dimgx.open_image(target, platform=platform) as found:
            assert len(found.layers) == 1


def test_some_in_the_order_in_which_they_are_said(app: str) -> None:
    run_dimgx("--platform", "armhf,linux/amd64,x86_64", "-t", "oci:out:x", app)
    assert platforms_of("oci:out") == ["linux/arm/v7", "linux/amd64"]
    code, told = refused(app, "--platform", "amd64,s390x", "-t", "oci:none:x")
    assert (code, "holds no image for linux/s390x; there is linux/amd64" in told) == (2, True)
    assert not Path("none").exists()


def test_kept_layers_keep_manifests(app: str) -> None:
    run_dimgx("--platform", "all", "--keep-layers", "-t", "oci:out", app)
    (entry,) = listed("out")
    digests = [one["digest"] for one in entry["inner"]]
    for platform, digest in zip(ALL, digests, strict=True):
        with dimgx.open_image(app, platform=platform) as found:
            assert str(found.digest) == digest
    with dimgx.open_image(app, platform="amd64") as found:
        assert found.tags == (names([entry])[0][1],) == ("app",)


def test_one_only_is_listed_without_an_index(place: Path) -> None:
    app = source_layout(Path("in"), PICTURES["linux/arm64"])
    run_dimgx("--platform", "all", "-t", "oci:out:x", app)
    (entry,) = listed("out")
    assert (entry["platform"]["architecture"], "inner" in entry) == ("arm64", False)


@pytest.mark.parametrize("count", [1, 2])
def test_without_a_platform_that_it_says_it_is_one(place: Path, count: int) -> None:
    picture = image(BASE, os=None, architecture=None, tags=("app:1",))
    Path("in.tar").write_bytes(docker_archive(picture))
    run_dimgx("--platform", ("all", "amd64,arm64")[count - 1], "-t", "oci:out", "./in.tar")
    assert names(listed("out")) == [("docker.io/library/app:1", "1", 1)]


def test_windows_is_left_out(place: Path) -> None:
    app = source_layout(Path("in"), PICTURES["linux/amd64"], WINDOWS)
    done = run_dimgx("--platform", "all", "-t", "oci:out", app)
    assert b"is left out for windows/amd64: no Linux root file system" in done.stderr
    assert platforms_of("oci:out") == ["linux/amd64"]
    code, told = refused(app, "--platform", "linux,windows", "-t", "oci:none")
    assert (code, "is a Windows image" in told) == (2, True)
    only = source_layout(Path("windows"), WINDOWS)
    code, told = refused(only, "--platform", "all", "-t", "oci:none")
    assert (code, "is a Windows image" in told) == (2, True)


def test_what_the_index_says_tells_images_apart_where_configs_are_wrong(place: Path) -> None:
    app = source_layout(Path("in"), *PICTURES.values())
    wrong = [replace(one, architecture="amd64") for one in list(PICTURES.values())[:2]]
    source_layout(Path("wrong"), *wrong)
    path = Path("wrong/index.json")
    (outer,) = json.loads(path.read_bytes())["manifests"]
    inner = json.loads((Path("wrong/blobs/sha256") / outer["digest"][7:]).read_bytes())
    inner["manifests"][1]["platform"]["architecture"] = "arm64"
    path.write_bytes(to_json(inner))
    run_dimgx("--platform", "all", "--tag", "app:2", "-t", "oci:out", "oci:wrong")
    assert platforms_of("oci:out") == ["linux/amd64", "linux/arm64"]
    arm = flat_bytes(app, "--platform", "arm64")
    assert flat_bytes("oci:out", "--platform", "arm64") == arm


def test_images_of_their_own_become_one_under_one_name(place: Path) -> None:
    for number, picture in enumerate(PICTURES.values()):
        Path(f"{number}.tar").write_bytes(docker_archive(replace(picture, tags=("app:1",))))
    words = ("./0.tar", "./1.tar", "./2.tar")
    run_dimgx("-t", "oci:own", *words)
    assert names(listed("own")) == [("docker.io/library/app:1", "1", 3)]
    run_dimgx("--tag", "b:2", "-t", "oci:said:v2", *words)
    assert names(listed("said")) == [
        ("docker.io/library/b:2", "2", 3), (None, "v2", 3),
    ]  # fmt: skip
    assert platforms_of("oci:said:v2") == ["linux/amd64", "linux/arm64", "linux/arm"]
    other = replace(PICTURES["linux/arm64"], layers=(BASE,), tags=("app:1",))
    Path("3.tar").write_bytes(docker_archive(other))
    code, told = refused("./3.tar", "-t", "oci:none", *words)
    assert code == 1
    assert "./1.tar and ./3.tar are both named docker.io/library/app:1" in told
    assert "which is one image's of each platform: write them one by one" in told
    assert not Path("none").exists()
    unknown = replace(other, architecture=None, os=None)
    Path("3.tar").write_bytes(docker_archive(unknown))
    assert refused("./3.tar", "-t", "oci:none", "./0.tar")[0] == 1


def test_a_name_that_only_some_have(place: Path) -> None:
    amd, arm = (PICTURES[name] for name in ALL[:2])
    Path("0.tar").write_bytes(docker_archive(replace(amd, tags=("a:1", "b:1"))))
    Path("1.tar").write_bytes(docker_archive(replace(arm, tags=("b:1", "c:1"))))
    run_dimgx("-t", "oci:out", "./0.tar", "./1.tar")
    assert names(listed("out")) == [
        ("docker.io/library/a:1", "1", 1),
        ("docker.io/library/b:1", "docker.io/library/b:1", 2),
        ("docker.io/library/c:1", "docker.io/library/c:1", 1),
    ]


def test_without_names_as_far_as_platforms_differ(place: Path) -> None:
    pictures = [*PICTURES.values(), replace(PICTURES["linux/arm64"], layers=(BASE,))]
    for number, picture in enumerate(pictures):
        Path(f"{number}.tar").write_bytes(docker_archive(replace(picture, tags=())))
    words = [f"./{number}.tar" for number in range(4)]
    run_dimgx("-t", "oci:out", *words)
    assert names(listed("out")) == [(None, None, 3), (None, None, 1)]
    assert run_dimgx("--check", "-t", "oci:out", *words).stdout == b"up to date\n"
    run_dimgx("--keep-images", "-t", "oci:out", *words[:3])
    assert names(listed("out")) == [(None, None, 1), (None, None, 3)]


def test_from_the_library(app: str) -> None:
    images = [dimgx.open_image(app, platform=one) for one in dimgx.list_platforms(app)]
    wanted = [ResultImage(one, ("app:3",)) for one in images]
    result = write_images(wanted, "out", form="oci-dir")
    (entry,) = listed("out")
    assert [str(one.digest) for one in result.images] == [one["digest"] for one in entry["inner"]]
    with pytest.raises(UsageError, match=r"are both named docker\.io/library/app:3"):
        write_images([*wanted, ResultImage(other_arm(), ("app:3",))], "none", form="oci-dir")
    for one in images:
        one.close()


def other_arm() -> dimgx.Image:
    Path("other.tar").write_bytes(docker_archive(replace(PICTURES["linux/arm64"], layers=(BASE,))))
    return dimgx.open_image("./other.tar", platform="arm64")


# -- one result for each --------------------------------------------------------------------------


def test_a_target_with_fields_is_one_for_each(app: str) -> None:
    run_dimgx("--platform", "all", "-t", "{platform}.tar", app)
    for platform in ALL:
        path = Path(platform.replace("/", "-") + ".tar")
        assert path.read_bytes() == flat_bytes(app, "--platform", platform)
    run_dimgx("--platform", "all", "--tag", "x:1", "-t", "docker-archive:{index}.tar", app)
    with dimgx.open_image("./2.tar", platform="linux/arm") as found:
        assert found.tags == ("x:1",)
    code, told = refused(app, "--platform", "all", "-t", "{tag}.tar")
    assert (code, "two images have the target app.tar" in told) == (1, True)


# -- what is there already ------------------------------------------------------------------------


def check(*words: str) -> str:
    done = run_dimgx("--check", *words, ok=False)
    told = done.stdout.decode().rstrip("\n")
    assert done.returncode == (0 if told == "up to date" else 5), done.stderr
    return told


@pytest.mark.parametrize("target", ["oci:out:x", "oci-archive:out:x"])
@pytest.mark.parametrize("more", [(), ("--keep-layers",)])
def test_update(app: str, target: str, more: tuple[str, ...]) -> None:
    words = (*more, "-t", target, app)
    assert check("--platform", "all", *words) == "there is no target yet"
    run_dimgx("--platform", "all", "--update", *words)
    before = files_of(Path("out"))
    assert check("--platform", "all", *words) == "up to date"
    assert check("--platform", "arm,arm64,amd64", *words) == "up to date"
    assert check("--platform", "arm64,amd64", *words) == "holds image x for linux/arm/v7 too"
    run_dimgx("--platform", "all", "--update", *words)
    assert files_of(Path("out")) == before
    run_dimgx("--platform", "arm64,amd64", "--update", *words)
    assert check("--platform", "all", *words) == "misses image x for linux/arm/v7"
    assert platforms_of(target) == ["linux/arm64", "linux/amd64"]
    run_dimgx("--platform", "arm64", "--update", *words)
    assert names(listed("out")) == [(None, "x", 1)]
    assert check("--platform", "amd64,arm64", *words) == "misses image x for linux/amd64"


def test_update_sees_what_changed_for_one_platform(app: str) -> None:
    run_dimgx("--platform", "all", "-t", "oci:out:x", app)
    changed = replace(PICTURES["linux/arm64"], layers=(BASE,))
    source_layout(Path("new"), PICTURES["linux/arm/v7"], changed, PICTURES["linux/amd64"])
    told = check("--platform", "all", "-t", "oci:out:x", "oci:new")
    assert told.startswith("image x: layer 2 is gone: ")
    run_dimgx("--platform", "all", "--update", "-t", "oci:out:x", "oci:new")
    assert platforms_of("oci:out") == ["linux/arm/v7", "linux/arm64", "linux/amd64"]


def test_origin_tells_each(app: str) -> None:
    run_dimgx("--platform", "all", "-t", "oci:out:x", app)
    lines = map(json.loads, run_dimgx("--origin", "out").stdout.splitlines())
    assert [(one["platform"], one["names"]) for one in lines] == [(name, ["x"]) for name in ALL]


def test_an_index_that_says_more_is_of_others(app: str) -> None:
    run_dimgx("--platform", "all", "-t", "oci:out:x", app)
    path = Path("out/index.json")
    (outer,) = json.loads(path.read_bytes())["manifests"]
    inner = json.loads((Path("out/blobs/sha256") / outer["digest"][7:]).read_bytes())
    data = to_json(inner | {"annotations": {"signed": "by me"}})
    digest = dimgx.digest.Digest.of(data)
    (Path("out/blobs/sha256") / digest.hex).write_bytes(data)
    outer |= {"digest": str(digest), "size": len(data)}
    path.write_bytes(to_json({"schemaVersion": 2, "manifests": [outer]}))
    told = check("--platform", "all", "-t", "oci:out:x", app)
    assert told == f"holds sha256:{digest.hex[:12]} too, which is no image"
    code, told = refused(app, "--platform", "all", "--update", "-t", "oci:out:x")
    assert (code, "use -w/--force to replace it" in told) == (2, True)


def test_other_images_stay(app: str) -> None:
    run_dimgx("--platform", "all", "-t", "oci:out:x", app)
    run_dimgx("--keep-images", "--platform", "arm64", "-t", "oci:out:y", app)
    assert names(listed("out")) == [(None, "x", 3), (None, "y", 1)]
    run_dimgx("--keep-images", "--platform", "amd64,arm64", "-t", "oci:out:y", app)
    run_dimgx("--keep-images", "--platform", "arm64", "-t", "oci:out:x", app)
    assert names(listed("out")) == [(None, "y", 2), (None, "x", 1)]


# -- what other programs make of it, and where it comes from --------------------------------------


def test_skopeo_reads_it(app: str) -> None:
    skopeo = need("skopeo")
    run_dimgx("--platform", "all", "-t", "oci:out:x", app)
    for arch, platform in (("amd64", "linux/amd64"), ("arm64", "linux/arm64")):
        run([skopeo, "copy", "-q", "--override-arch", arch, "oci:out:x", f"dir:{arch}"])
        assert flat_bytes(f"dir:{arch}") == flat_bytes(app, "--platform", platform)
    run([skopeo, "copy", "-q", "--override-arch", "arm", "--override-variant", "v7",
         "oci:out:x", "dir:arm"])  # fmt: skip
    assert flat_bytes("dir:arm") == flat_bytes(app, "--platform", "linux/arm/v7")


@pytest.fixture
def at_registry(place: Path, app: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    plain_environment(place, monkeypatch)
    with real_registry(place / "registry") as registry:
        yield registry.push(app, "team/app:1", "--all")


def test_from_a_registry_and_back(at_registry: str, app: str) -> None:
    run_dimgx("--platform", "all", "--tls-verify=false", "-t", "oci:out", at_registry)
    host = at_registry.removeprefix("docker://").partition("/")[0]
    assert names(listed("out")) == [(f"{host}/team/app:1", "1", 3)]
    back = f"docker://{host}/team/flat:1"
    run([need("skopeo"), "copy", "-q", "--all", "--dest-tls-verify=false", "oci:out:1", back])
    shown = run_dimgx("--platforms", "--tls-verify=false", back).stdout.decode().split()
    assert shown == ALL
    words = ("--platform", "linux/arm64")
    expected = flat_bytes(app, *words)
    assert flat_bytes(back, "--tls-verify=false", *words) == expected


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--platform=all", "several platforms are not looked at at once: name one"),
        ("--platform=amd64,arm64 -q", "several platforms are not looked at at once"),
        ("--platform=all --platforms", "--platforms has no effect on several platforms"),
        ("--platform=all -t x.tar", "several platforms do not go into one tar: oci-archive"),
        ("--platform=all -t docker-archive:x", "do not go into one docker-archive: oci-archive"),
        ("--platform=amd64,arm -t dir:x", "several platforms do not go into one docker-dir"),
        ("--platform=all --load", "several platforms do not go into an engine"),
        ("--platform=all --import", "several platforms do not go into an engine"),
        ("--platform=all --write-config=c -t oci:x", "--write-config has no effect on several pl"),
        ("--platform=all --raw -l @0 -t {index}", "--raw has no effect on several platforms"),
        ("--platform=all,amd64 -t oci:x", "'all' is no platform"),
        ("--platform=amd64, -t oci:x", "'' is no platform"),
        ("--platform= -t oci:x", "'' is not a platform"),
        ("--platform=all -t oci:x -", "standard input can be read once only"),
    ],
)
def test_what_makes_no_sense(app: str, words: str, told: str) -> None:
    *others, last = [*words.split(), *([] if words.endswith(" -") else [app])]
    code, line = refused(last, *others)
    assert (code, told in line) == (1, True), line
    assert sorted(path.name for path in Path().iterdir()) == ["in"]


def test_platforms_that_come_to_one_image_are_one(app: str) -> None:
    run_dimgx("--platform", "amd64", "--platform", "linux/amd64,x86_64", "-t", "one.tar", app)
    assert Path("one.tar").read_bytes() == flat_bytes(app, "--platform", "amd64")
    run_dimgx("--platform", "arm/v7,arm/v8", "-t", "{platform}.tar", app)
    assert Path("linux-arm-v7.tar").exists()
    run_dimgx("--platform", "amd64", "--platform", "arm64", "-t", "oci:out:x", app)
    assert platforms_of("oci:out") == ["linux/amd64", "linux/arm64"]


def test_a_report_tells_the_platform_of_each(app: str) -> None:
    run_dimgx("--platform", "all", "--report", "report.json", "-t", "oci:out:x", app)
    (output,) = json.loads(Path("report.json").read_bytes())["outputs"]
    told = [(one["platform"]["architecture"], one["names"]) for one in output["images"]]
    assert told == [("amd64", ["x"]), ("arm64", ["x"]), ("arm", ["x"])]


@pytest.mark.parametrize("words", [("--squash-from", "@9"), ("-s", "-l", "@9")])
def test_an_error_tells_for_which_platform_it_is(app: str, words: tuple[str, ...]) -> None:
    code, told = refused(app, "--platform", "arm64,amd64", *words, "-t", "oci:out")
    assert code == 3
    assert told.startswith(f"dimgx: {app} for linux/arm64: no row of this image is named by @9")


def test_an_error_that_tells_the_image_tells_the_platform_too(app: str) -> None:
    words = ("--platform", "arm64,s390x", "-t", "oci:out")
    told = refused(app, *words)[1]
    assert told.startswith("dimgx: ") and told.count("linux/s390x") == told.count("holds") == 1
    code, told = refused(app, "--platform", "arm64,amd64", "--include", "nope", "-t", "oci:out")
    assert (code, told.startswith(f"dimgx: {app} for linux/arm64: --include")) == (2, True), told


def test_all_are_those_that_are_listed_with_and_without_a_variant(place: Path) -> None:
    plain = image(BASE, layer(file("bin/app", b"plain")), architecture="arm", tags=("app",))
    app = source_layout(Path("in"), *PICTURES.values(), plain)
    every = [*ALL, "linux/arm"]
    assert platforms_of(app) == every
    run_dimgx("--platform", "all", "-t", "oci:out:x", app)
    assert platforms_of("oci:out") == every
    (entry,) = listed("out")
    assert len({one["digest"] for one in entry["inner"]}) == 4


def test_one_manifest_for_two_platforms(place: Path) -> None:
    """As of an image that holds nothing of a machine, and is listed for several."""
    amd = PICTURES["linux/amd64"]
    source_layout(Path("in"), amd, amd)
    (outer,) = json.loads(Path("in/index.json").read_bytes())["manifests"]
    inner = json.loads((Path("in/blobs/sha256") / outer["digest"][7:]).read_bytes())
    inner["manifests"][1]["platform"]["architecture"] = "arm64"
    data = to_json(inner)
    digest = dimgx.digest.Digest.of(data)
    (Path("in/blobs/sha256") / digest.hex).write_bytes(data)
    outer |= {"digest": str(digest), "size": len(data)}
    Path("in/index.json").write_bytes(to_json({"schemaVersion": 2, "manifests": [outer]}))
    words = ("--keep-layers", "--tag", "x:1", "-t", "oci:out", "oci:in")
    run_dimgx("--platform", "all", "--update", *words)
    assert platforms_of("oci:out") == ["linux/amd64", "linux/arm64"]
    assert check("--platform", "all", *words) == "up to date"
    assert check("--platform", "arm64", *words) == "holds image x:1 for linux/amd64 too"


def test_a_pipe_is_not_read_for_several_platforms(app: str) -> None:
    os.mkfifo("fifo")
    code, told = refused("./fifo", "--platform", "all", "-t", "oci:out")
    assert (code, "fifo is a pipe, which can be read once" in told) == (1, True), told
