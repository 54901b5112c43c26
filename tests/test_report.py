"""The report: by its schema, and against what another reader finds in the output."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import dimgx
from dimgx.codec import Coding
from dimgx.decode import iter_decoded
from dimgx.imagewriter import write_images
from dimgx.jsondoc import in_lines
from dimgx.merging.pathrules import PathRule
from dimgx.report import Output, Report, name_of
from tests.dsl import dir_, file, hardlink, layer, symlink, whiteout
from tests.programs import need, run
from tests.test_figures import check_with_tarfile, figures_of
from tests.writers import docker_archive_v1, image, oci_archive

SCHEMA = json.loads(
    (Path(__file__).parent.parent / "docs" / "report.schema.json").read_text(encoding="utf-8")
)
CAPABLE = {"security.capability": b"\1\0\0\2"}
BASE = layer(dir_("etc"), file("etc/motd", b"hello\n"), file("etc/old", b"old"))
TOP = layer(
    whiteout("etc/old"),
    file("bin/app", b"\x7fELF", mode=0o755, xattrs=CAPABLE),
    hardlink("bin/also", "bin/app", mode=0o755),
    symlink("app", "bin/app"),
)


class Clock:
    """A clock that goes one second further each time it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[dimgx.Image]:
    picture = image(BASE, TOP, compression="gzip", tags=("example/app:1.0",))
    (tmp_path / "image.tar").write_bytes(oci_archive(picture))
    with dimgx.open_image(f"oci-archive:{tmp_path / 'image.tar'}") as found:
        yield found


def checked(report: Report, **more: Any) -> dict[str, Any]:
    document = json.loads(in_lines(report.document(**more)))
    Draft202012Validator(SCHEMA).validate(document)
    return document  # type: ignore[no-any-return]  # it is JSON


def test_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_empty_report() -> None:
    document = checked(Report(Clock()))
    assert (document["images"], document["outputs"], document["warnings"]) == ([], [], [])
    assert document["seconds"] == {"total": 1.0}


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "xz", "zstd"])
def test_figures_are_those_of_the_output(
    opened: dimgx.Image, tmp_path: Path, compression: Any
) -> None:
    report = Report()
    target = tmp_path / "out.tar"
    result = dimgx.flatten(opened, target, compression=compression, report=report, sha256=True)
    document = checked(report)
    (part,), (output,) = document["images"], document["outputs"]
    stored = target.read_bytes()
    tar = b"".join(map(bytes, iter_decoded([stored], compression)))
    assert output["target"] == str(target)
    assert output["size"] == len(stored) == result.size
    assert output["sha256"] == hashlib.sha256(stored).hexdigest() == result.sha256
    assert output["compression"] == compression
    assert (output["encoder"] is None) == (compression is None)
    assert part["tar"] == {"length": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
    check_with_tarfile(tar, figures_of(tar))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        members = archive.getmembers()
    assert part["entries"] == {
        "total": len(members), "file": 2, "link": 1, "symlink": 1, "chardev": 0, "blockdev": 0,
        "directory": 2, "fifo": 0, "implied": 1,
    }  # fmt: skip
    assert part["xattrs"] == {"security.capability": 1}
    assert part["file_system"] == {
        "bytes": sum(member.size for member in members if member.isreg()),
        "inodes": len(members) - 1 + 1,
        "blocks": 2 + 3,  # two files, three directories
        "block_size": 4096,
    }


def test_layers_and_source(opened: dimgx.Image) -> None:
    report = Report()
    dimgx.flatten(opened, io.BytesIO(), report=report)
    (part,) = checked(report)["images"]
    assert part["reference"] == opened.reference
    assert (part["id"], part["digest"]) == (opened.id, str(opened.digest))
    assert part["tags"] == ["example/app:1.0"]
    assert part["platform"] == {"os": "linux", "architecture": "amd64", "variant": None}
    assert [one["diff_id"] for one in part["layers"]] == [str(one.diff_id) for one in opened.layers]
    assert [one["length"] for one in part["layers"]] == [len(BASE), len(TOP)]
    assert [one["digest"] for one in part["layers"]] == [str(one.digest) for one in opened.layers]
    assert [one["stored_size"] for one in part["layers"]] == [one.size for one in opened.layers]
    figures = [(one["entries"], one["kept"], one["covered"], one["whiteouts"])
               for one in part["layers"]]  # fmt: skip
    assert figures == [(3, 2, 1, 0), (3, 3, 0, 1)]
    kept = sum(one["kept"] for one in part["layers"])
    assert part["entries"]["total"] == kept + part["entries"]["implied"]


def test_entries_are_those_that_gnu_tar_lists(opened: dimgx.Image, tmp_path: Path) -> None:
    report = Report()
    dimgx.flatten(opened, tmp_path / "out.tar", report=report)
    listed = run([need("tar"), "-tf", tmp_path / "out.tar"]).stdout.splitlines()
    (part,) = checked(report)["images"]
    assert part["entries"]["total"] == len(listed)


def test_phases_add_up(opened: dimgx.Image) -> None:
    report = Report(Clock())
    report.mark("open")
    dimgx.flatten(opened, io.BytesIO(), report=report)
    seconds = checked(report)["seconds"]
    assert list(seconds) == ["open", "read", "plan", "check", "write", "publish", "total"]
    assert seconds["check"] == 2  # before the first byte, and at the end
    assert sum(seconds.values()) - seconds["total"] == seconds["total"] - 1


def test_several_images_in_one_report(opened: dimgx.Image, tmp_path: Path) -> None:
    report = Report()
    for name in ("a", "b"):
        dimgx.flatten(opened, tmp_path / name, report=report)
    document = checked(report)
    assert [output["target"] for output in document["outputs"]] == [
        str(tmp_path / "a"), str(tmp_path / "b")
    ]  # fmt: skip
    assert document["images"][0] == document["images"][1]


def test_layers_that_are_kept_have_no_figures(opened: dimgx.Image) -> None:
    report = Report()
    report.add_kept(opened)
    report.add_output(Output("dir", "oci-dir", Coding(None), 12345, None))
    (part,) = checked(report)["images"]
    assert [part[key] for key in ("tar", "entries", "xattrs", "file_system")] == [None] * 4
    assert [one["kept"] for one in part["layers"]] == [None, None]


def test_what_is_left_out_is_covered(opened: dimgx.Image) -> None:
    """What path rules and a prefix add to the plan is in no layer."""
    report = Report()
    rules = (PathRule(False, "/bin"),)
    dimgx.flatten(opened, io.BytesIO(), report=report, paths=rules, prefix="sub/dir/")
    (part,) = checked(report)["images"]
    assert [(one["entries"], one["kept"]) for one in part["layers"]] == [(3, 2), (3, 1)]
    assert part["entries"]["total"] == 5  # sub, dir, etc, motd, app
    assert part["entries"]["implied"] == 2


def test_layers_below_a_changeset_stay_as_they_are(opened: dimgx.Image) -> None:
    from dimgx.flattening import open_flat_of
    from dimgx.inspector import list_rows
    from dimgx.recipe import Recipe

    rows = list_rows(opened)
    with open_flat_of(opened, Recipe(layers=rows[1:], below=rows[:1])) as flat:
        report = Report()
        flat.emit(report.add_flat(opened, flat).write)
    (part,) = checked(report)["images"]
    assert [one["entries"] for one in part["layers"]] == [None, 3]
    assert part["entries"]["total"] == 3 + 3  # bin, etc and etc/.wh.old


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir", "docker-dir"])
@pytest.mark.parametrize("layer_compression", ["none", "gzip", "zstd"])
def test_image_forms(
    opened: dimgx.Image, tmp_path: Path, form: Any, layer_compression: Any
) -> None:
    plain = tmp_path / "plain.tar"
    dimgx.flatten(opened, plain)
    report = Report()
    target = tmp_path / "target"
    result = write_images(
        [opened], target, form=form, layer_compression=layer_compression, report=report
    )
    document = checked(report)
    (part,), (output,) = document["images"], document["outputs"]
    assert part["tar"]["sha256"] == hashlib.sha256(plain.read_bytes()).hexdigest()
    assert part["entries"]["total"] == 6
    assert (output["form"], output["compression"], output["encoder"]) == (form, None, None)
    assert output["layer_compression"] == (
        None if layer_compression == "none" else layer_compression
    )
    (made,) = result.images
    assert output["images"] == [
        {
            "id": str(made.id),
            "digest": str(made.digest) if made.digest else None,
            "platform": {"os": "linux", "architecture": "amd64", "variant": None},
            "names": [] if form == "docker-dir" else ["docker.io/example/app:1.0"],
        }
    ]
    assert output["size"] == sum(
        path.stat().st_size for path in (target, *target.rglob("*")) if path.is_file()
    )
    if target.is_file():
        assert output["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    else:
        assert output["sha256"] is None
    assert {"read", "plan", "write", "publish"} <= document["seconds"].keys()


def test_image_form_to_a_pipe_counts_once(opened: dimgx.Image) -> None:
    report = Report()
    sink = io.BytesIO()
    write_images([opened], sink, form="docker-archive", report=report)
    document = checked(report)
    assert document["images"][0]["entries"]["total"] == 6
    (output,) = document["outputs"]
    assert (output["target"], output["size"]) == ("-", len(sink.getvalue()))
    assert output["sha256"] == hashlib.sha256(sink.getvalue()).hexdigest()


def test_digests_that_a_source_does_not_state_are_null(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(docker_archive_v1(image(BASE)))
    report = Report()
    with dimgx.open_image(f"docker-archive:{tmp_path / 'image.tar'}") as found:
        dimgx.flatten(found, io.BytesIO(), report=report)
    (part,) = checked(report)["images"]
    (told,) = part["layers"]
    assert (part["digest"], told["digest"], told["diff_id"]) == (None, None, None)


def test_one_image_under_two_names_is_told_twice(opened: dimgx.Image, tmp_path: Path) -> None:
    report = Report()
    write_images([opened, opened], tmp_path / "a.tar", form="docker-archive", report=report)
    one, two = checked(report)["images"]
    assert one == two


def test_kept_layers(opened: dimgx.Image, tmp_path: Path) -> None:
    report = Report()
    write_images([opened], tmp_path / "d", form="oci-dir", keep_layers=True, report=report)
    (part,) = checked(report)["images"]
    assert part["tar"] is None
    assert [one["kept"] for one in part["layers"]] == [None, None]


@pytest.mark.parametrize(
    ("source", "form", "expected"),
    [(None, "oci-dir", None), ("zstd", "oci-dir", None), ("zstd", "docker-dir", None),
     ("bzip2", "oci-dir", "gzip"), (None, "docker-archive", None)],
)  # fmt: skip
def test_compression_of_layers_is_that_of_those_made_here(
    tmp_path: Path, source: Any, form: Any, expected: str | None
) -> None:
    (tmp_path / "image.tar").write_bytes(oci_archive(image(BASE, TOP, compression=source)))
    report = Report()
    with dimgx.open_image(tmp_path / "image.tar") as found:
        write_images([found], tmp_path / "d", form=form, keep_layers=True, report=report)
    (output,) = checked(report)["outputs"]
    assert output["layer_compression"] == expected
    assert (output["layer_encoder"] is None) == (expected is None)


def test_warnings_have_counts(opened: dimgx.Image) -> None:
    report = Report()
    report.warn(["odd", "odder", "odd"])
    assert checked(report)["warnings"] == [
        {"text": "odd", "count": 2}, {"text": "odder", "count": 1}
    ]  # fmt: skip
    assert checked(report, warnings={"other": 3})["warnings"] == [{"text": "other", "count": 3}]


@pytest.mark.parametrize(
    ("compression", "level", "names", "expected"),
    [
        ("gzip", 9, {"zlib"}, 9),
        ("gzip", None, {"isa-l", "zlib"}, None),
        ("bzip2", 0, {"libbz2"}, 1),
        ("bzip2", None, {"libbz2"}, 9),
        ("xz", None, {"liblzma"}, 6),
        ("zstd", None, {"libzstd"}, 3),
        ("zstd", 19, {"libzstd"}, 19),
    ],
)
def test_encoder(compression: Any, level: int | None, names: set[str], expected: Any) -> None:
    report = Report()
    report.add_output(Output("x", "tar", Coding(compression, level), 1, "0" * 64))
    encoder = checked(report)["outputs"][0]["encoder"]
    assert encoder["name"] in names
    assert expected is None or encoder["level"] == expected
    if encoder["name"] in ("isa-l", "zlib", "libzstd"):
        assert encoder["version"][0].isdigit()


def test_nothing_is_counted_without_one(
    opened: dimgx.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("counted")

    monkeypatch.setattr("dimgx.merging.figures.TarFigures.write", never)
    monkeypatch.setattr("dimgx.merging.figures.count_layers", never)
    dimgx.flatten(opened, io.BytesIO())


def test_a_target_is_called_by_its_path_or_the_name_that_it_says(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as named, open(named.fileno(), "wb", closefd=False) as bare:
        targets = (tmp_path / "out", str(tmp_path / "out"), named, bare, io.BytesIO())
        path = str(tmp_path / "out")
        assert list(map(name_of, targets)) == [path, path, path, "-", "-"]
