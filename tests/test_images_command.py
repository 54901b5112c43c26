"""The command line where the result is an image, or one layer as it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.programs import dimgx, refused
from tests.results import (
    APP,
    BASE,
    FORMS,
    HISTORY,
    MIDDLE,
    SOURCES,
    TOP,
    TRANSPORTS,
    config_of,
    files_of,
    flat,
    left,
    manifest_of,
    reference_of,
    sha256,
)
from tests.writers import compress, docker_archive, image, oci_layout

SECOND = image(BASE, tags=("second:2",), history=HISTORY[:1])


@pytest.fixture
def app(tmp_path: Path) -> str:
    return SOURCES["docker-1.10"](tmp_path, APP)


@pytest.fixture
def several(tmp_path: Path) -> Path:
    (tmp_path / "in.tar").write_bytes(docker_archive(APP, SECOND))
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_both_spellings_of_a_form(tmp_path: Path, app: str, form: str) -> None:
    dimgx(f"--format={form}", "-t", tmp_path / "one", app)
    dimgx("-t", f"{TRANSPORTS.get(form, form)}:{tmp_path}/two", app)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert flat(reference_of(form, tmp_path / "one")) == flat(app)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_standard_output(tmp_path: Path, app: str, form: str) -> None:
    dimgx(f"--format={form}", "-t", tmp_path / "out", app)
    assert dimgx(f"--format={form}", "-t", "-", app).stdout == (tmp_path / "out").read_bytes()
    from_stdin = dimgx(f"--format={form}", "-t", "-", "-", stdin=Path(app).read_bytes()).stdout
    assert from_stdin == (tmp_path / "out").read_bytes()


def test_suffix_compresses_the_archive(tmp_path: Path, app: str) -> None:
    dimgx("--format=docker-archive", "-t", tmp_path / "out.tar.gz", app)
    assert (tmp_path / "out.tar.gz").read_bytes().startswith(b"\x1f\x8b")
    assert flat(f"{tmp_path}/out.tar.gz") == flat(app)


def test_chosen_rows(tmp_path: Path, app: str) -> None:
    dimgx("-l", "@0", "-t", f"oci:{tmp_path}/out", app)
    assert flat(f"oci:{tmp_path}/out") == flat(app, layers=["@0"])
    code, told = refused(app, "-l", "@1", "-t", f"oci:{tmp_path}/none")
    assert (code, "nothing is left" in told) == (3, True)


def test_source_date_epoch(
    tmp_path: Path, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    dimgx("-t", f"oci:{tmp_path}/out", app)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    dimgx("-t", f"oci:{tmp_path}/dated", app)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "999999999999")
    assert refused(app, "-t", f"oci:{tmp_path}/bad")[0] == 1
    assert config_of(f"oci:{tmp_path}/out")["created"] == "2024-01-01T00:00:00Z"
    assert config_of(f"oci:{tmp_path}/dated")["created"] == "1970-01-02T00:00:00Z"


def test_source_date_epoch_beyond_the_year_9999(
    tmp_path: Path, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "253402300800")
    code, told = refused(app, "-t", f"oci:{tmp_path}/out")
    assert (code, "SOURCE_DATE_EPOCH: 253402300800 seconds" in told) == (1, True), told
    dimgx("--clamp-mtime", "-t", tmp_path / "out.tar", app)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "253402300799")
    dimgx("-t", f"oci:{tmp_path}/out", app)


def test_verbose_tells_what_was_written(tmp_path: Path, app: str) -> None:
    told = dimgx("-v", "-t", f"docker-archive:{tmp_path}/out", app).stderr.decode()
    data = (tmp_path / "out").read_bytes()
    assert f"{tmp_path}/out: {len(data)} bytes, {sha256(data)}" in told
    assert f"docker.io/example/app:1.0: image sha256:{config_name(tmp_path / 'out')}" in told
    told = dimgx("-v", "-t", f"oci:{tmp_path}/dir", app).stderr.decode()
    (descriptor,) = manifest_of(tmp_path / "dir")["layers"]
    assert f"layer {descriptor['digest']}, {descriptor['size']} bytes" in told
    (tmp_path / "bare.tar").write_bytes(docker_archive(image(BASE, tags=())))
    told = dimgx("-v", "-t", f"dir:{tmp_path}/bare", f"{tmp_path}/bare.tar").stderr.decode()
    assert "dimgx: no name: image sha256:" in told


def config_name(path: Path) -> str:
    (name,) = [name for name in files_of(path) if "/" not in name and len(name) == 69]
    return name.removesuffix(".json")


# -- names ----------------------------------------------------------------------------------------


def tags_of(path: Path) -> list[list[str] | None]:
    return [one["RepoTags"] for one in json.loads(files_of(path)["manifest.json"])]


def test_each_under_the_name_it_was_asked_by(several: Path) -> None:
    place = several / "in.tar"
    dimgx("--format=docker-archive", "-t", several / "out.tar", f"{place}:second:2",
          f"docker-archive:{place}:@0", f"{place}:example/app:1.0")  # fmt: skip
    assert tags_of(several / "out.tar") == [["second:2"], ["example/app:1.0"]]
    assert flat(f"{several}/out.tar:second:2") == flat(f"{place}:second:2")


def test_one_image_under_two_names(several: Path) -> None:
    twice = several / "twice.tar"
    twice.write_bytes(docker_archive(image(BASE, tags=("a:1", "b:2", "c:3"), history=HISTORY[:1])))
    dimgx("--format=docker-archive", "-t", several / "out.tar", f"{twice}:b:2", f"{twice}:a:1")
    assert tags_of(several / "out.tar") == [["b:2", "a:1"]]
    assert sum(name.endswith("layer.tar") for name in files_of(several / "out.tar")) == 1
    dimgx("--format=docker-archive", "-t", several / "all.tar", twice)
    assert tags_of(several / "all.tar") == [["a:1", "b:2", "c:3"]]


def test_tags_take_the_place_of_its_own(several: Path, app: str) -> None:
    words = ("--tag", "x", "--tag", "quay.io/y:2", "-t", f"docker-archive:{several}/out:z:3")
    dimgx(*words, app)
    assert tags_of(several / "out") == [["x:latest", "quay.io/y:2", "z:3"]]


def test_a_layout_takes_a_tag_behind_its_path(tmp_path: Path, app: str) -> None:
    dimgx("-t", f"oci:{tmp_path}/out:v1", app)
    (entry,) = json.loads(files_of(tmp_path / "out")["index.json"])["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "v1"}


BAD = [
    (("--tag", "Bad", "--format=oci-dir"), "names are in lower case"),
    (("--tag", f"a@sha256:{64 * '0'}", "--format=oci-dir"), "no digest"),
    (("--tag", "a", "--format=docker-dir"), "--tag has no effect"),
    (("--tag", "a"), "--tag has no effect on a plain tar"),
    (("--keep-layers",), "--keep-layers has no effect on a plain tar"),
    (("--keep-layers", "-l", "@0", "--format=oci-dir"), "-l has no effect with --keep-layers"),
    (("--layer-compression=gzip",), "--layer-compression has no effect on a plain tar"),
    (("--raw", "--format=oci-dir"), "--format has no effect with --raw"),
    (("--compress-level=3", "--format=docker-archive"), "has no effect without compression"),
    (("--compress-level=3", "--keep-layers", "--format=oci-dir"), "on layers that are kept: say"),
    (("--compress-level=3", "--layer-compression=none", "--format=oci-dir"), "has no effect"),
    (("-z", "--format=oci-dir"), "a compression has no effect on oci-dir"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "problem"), BAD)
def test_what_has_no_effect_is_exit_1(
    tmp_path: Path, app: str, words: tuple[str, ...], problem: str
) -> None:
    before = left(tmp_path)
    code, told = refused(app, *words, "-t", tmp_path / "out.tar")
    assert (code, problem in told) == (1, True), told
    assert left(tmp_path) == before


@pytest.mark.parametrize(
    "words", [("--format=docker-dir",), (), ("--format=docker-archive", "--tag", "a")]
)
def test_several_images_and_one_of_them_only(several: Path, words: tuple[str, ...]) -> None:
    before = left(several)
    code, _ = refused(
        f"{several}/in.tar:@0", *words, "-t", several / "out.tar", f"{several}/in.tar:@1"
    )
    assert code == 1
    assert left(several) == before


def test_a_template_makes_one_of_each(several: Path) -> None:
    (several / "one").mkdir()
    place = several / "in.tar"
    target = f"{several}/one/{{index}}"
    dimgx("--format=oci-dir", "-t", target, f"{place}:@0", f"{place}:@1")
    assert flat(f"oci:{several}/one/1") == flat(f"{place}:@1")
    before = left(several)
    code, told = refused(f"{place}:@1", "--format=oci-dir", "-t", target, f"{place}:@0")
    assert (code, "exists" in told) == (2, True)
    assert left(several) == before


# -- a layer as it is -----------------------------------------------------------------------------

LAYERS = (BASE, MIDDLE, TOP)
ODD = b"no tar at all, but a layer" * 100


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("row", [0, 2, 3])
def test_raw_is_the_layers_own_tar(tmp_path: Path, source: str, row: int) -> None:
    reference = SOURCES[source](tmp_path, APP)
    number = (row + 1) // 2 if source != "docker-v1" else min(row, 2)
    row = row if source != "docker-v1" else number
    dimgx("--raw", "-l", f"@{row}", "-t", tmp_path / "out.tar", reference)
    assert (tmp_path / "out.tar").read_bytes() == LAYERS[number]
    assert dimgx("--raw", "-l", f"@{row}", "-t", "-", reference).stdout == LAYERS[number]
    packed = dimgx("--raw", "-l", f"@{row}", "--zstd", "-t", "-", reference).stdout
    (tmp_path / "packed").write_bytes(packed)
    assert packed.startswith(b"\x28\xb5\x2f\xfd")


def test_raw_is_byte_for_byte(tmp_path: Path) -> None:
    reference = SOURCES["oci"](tmp_path, image(ODD))
    assert dimgx("--raw", "-t", "-", reference).stdout == ODD


def test_raw_wants_one_layer(tmp_path: Path, app: str) -> None:
    for words, number in (((), 3), (("-l", "@0:@2"), 2)):
        code, told = refused(app, "--raw", *words, "-t", tmp_path / "out.tar")
        assert (code, f"{number} were chosen" in told) == (3, True)
    assert refused(app, "--raw", "-l", "@1", "-t", tmp_path / "out.tar")[0] == 3
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize("to_stdout", [False, True], ids=["file", "stdout"])
@pytest.mark.parametrize("default", [None, "gzip", "zstd"])
def test_raw_is_verified(tmp_path: Path, default: str | None, to_stdout: bool) -> None:
    data = os.urandom(5000)
    reference = f"oci:{oci_layout(tmp_path / 'x', image(data), default=default)}"  # type: ignore[arg-type]
    blob = tmp_path / "x/blobs/sha256" / sha256(compress(data, default))[7:]  # type: ignore[arg-type]
    blob.write_bytes(compress(data[::-1], default))  # type: ignore[arg-type]
    target = "-" if to_stdout else str(tmp_path / "out.tar")
    code, told = refused(reference, "--raw", "-t", target)
    assert (code, "layer 1/1 sha256:" in told) == (2, True)
    assert not (tmp_path / "out.tar").exists()
    dimgx("--raw", "--verify=none", "-t", tmp_path / "out.tar", reference)
    assert (tmp_path / "out.tar").read_bytes() == data[::-1]


def test_raw_layers_one_over_the_other_are_the_tree(tmp_path: Path, app: str) -> None:
    tars = [dimgx("--raw", "-l", f"@{row}", "-t", "-", app).stdout for row in (0, 2, 3)]
    (tmp_path / "again.tar").write_bytes(docker_archive(image(*tars)))
    assert flat(f"{tmp_path}/again.tar") == flat(app)

