"""The benchmark's own parts: its images, its model, its reader, and one run with tiny images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import check, report, run, sections
from benchmarks.commands import Dimgx
from benchmarks.corpora import ensure
from benchmarks.measure import CommandFailed, Job, run_for_peak
from benchmarks.measure import run as run_steps
from benchmarks.model import Model
from benchmarks.session import Session
from benchmarks.tarbytes import Entry, write_layer
from benchmarks.telling import TELLING, Telling
from tests.programs import IN_CI


@pytest.mark.parametrize("telling", [pytest.param(t, id=t.id) for t in TELLING])
def test_model_agrees_with_the_answers_written_by_hand(telling: Telling) -> None:
    model = Model()
    for entries in telling.layers:
        model.apply(entries)
    assert model.lines() == list(telling.listing().values())


def test_reader_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    entries = [
        Entry("d", b"a", 0o750, 1, 2, 3),
        Entry("f", b"a/" + b"deep/" * 30 + b"x", 0o644, 0, 0, 7, b"long"),
        Entry("f", b"a/f", 0o4755, 1, 2, 5, b"x" * 700, fraction=b"5", xattrs=((b"user.k", b"v"),)),
        Entry("h", b"a/g", 0o4755, 1, 2, 5, target=b"a/f"),
        Entry("l", "ü".encode(), 0o777, target=b"t" * 200),
        Entry("c", b"z", 0o600, device=(1, 3)),
    ]
    with (tmp_path / "x.tar").open("wb") as file:
        write_layer(entries, file.write)
    model = Model()
    model.apply(entries)
    expected = dict(zip(sorted_paths(model), model.lines(), strict=True))
    verdict = check.compare(expected, check.read_flat(tmp_path / "x.tar"), is_strict=False)
    # The writer writes no parents that it is not given.
    assert (verdict.missing, verdict.different, verdict.extra) == (30, 0, 0)


def sorted_paths(model: Model) -> list[bytes]:
    return sorted(model.live, key=lambda path: path.replace(b"/", b"\0"))


def test_verdict_says_what_is_wrong(tmp_path: Path) -> None:
    right = [Entry("f", b"a", 0o644, data=b"x"), Entry("f", b"b", 0o644, data=b"y")]
    model = Model()
    model.apply(right)
    expected = dict(zip(sorted_paths(model), model.lines(), strict=True))
    with (tmp_path / "x.tar").open("wb") as file:
        write_layer([right[0]._replace(data=b"z"), Entry("f", b"c", 0o644)], file.write)
    verdict = check.compare(expected, check.read_flat(tmp_path / "x.tar"), is_strict=True)
    assert str(verdict) == "1 missing, 1 too many, 1 different"
    assert not verdict.is_right


@pytest.mark.parametrize("damage", [b"", b"no tar", b"\0" * 512])
def test_reader_of_no_tar(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(damage)
    if damage == b"\0" * 512:
        assert not check.read_flat(tmp_path / "x.tar").nodes
    else:
        with pytest.raises(check.BrokenTar):
            check.read_flat(tmp_path / "x.tar")


def test_same_seed_gives_the_same_image(tmp_path: Path) -> None:
    one = ensure(tmp_path / "1", "ordinary", "plain", scale=0.002)
    two = ensure(tmp_path / "2", "ordinary", "plain", scale=0.002)
    assert one.archive.read_bytes() == two.archive.read_bytes()
    assert 0.5 < one.live / one.members < 0.9


def test_failing_command_says_why() -> None:
    with pytest.raises(CommandFailed, match="exit 3: why"):
        run_steps([[Job(("sh", "-c", "echo why >&2; exit 3"))]])
    with pytest.raises(CommandFailed, match="no-such-tool"):
        run_steps([[Job(("no-such-tool",))]])
    with pytest.raises(CommandFailed, match="not done in time"):
        run_steps([[Job(("sleep", "20"))]], timeout_s=0.2)


def test_peak_is_the_childs_own() -> None:
    here = bytearray(200_000_000)
    peak = run_for_peak(Job(("sleep", "0.2")))
    assert len(here) > peak.resident > 0


def test_run_with_tiny_images(tmp_path: Path) -> None:
    said: list[str] = []
    session = Session(
        work=tmp_path, dimgx=Dimgx(), rounds=1, peer_rounds=0, scale=0.002, say=said.append
    )
    wanted = ["ordinary", "ordinary-gzip", "many-dot", "gzip-out", "start", "rightness"]
    wanted += ["registry", "engine"]
    saved: list[report.Row] = []
    results = run.run(session, wanted, lambda some: saved.append(json.loads(json.dumps(some))))
    assert len(saved) == len(wanted) and saved[-1] == json.loads(json.dumps(results))
    first, last = saved[0], saved[-1]
    assert [row["id"] for row in first["speed"]] == ["ordinary"] and not first["encode"]
    assert run.joined(first, last) == last, "what was cut goes on with --join"
    assert run.wrong_outputs(results) == []
    for name in ("none", "dimgx --no-direct", "dimgx --verify once", "cp"):
        wrong = {"id": "row", "times": {name: {"verdict": "other", "example": "x"}}}
        told = run.wrong_outputs(results | {"peers": [wrong]})
        assert told == ([] if name == "cp" else [f"row, {name}: other x"])
    assert [row["id"] for row in results["speed"]] == ["ordinary", "ordinary-gzip", "many-dot"]
    for row in results["speed"]:
        if shutil.which(row["against"].split()[0]):
            assert row["ratio"] > 0 and row["ratio_verified"] > 0
        assert row["times"]["none"]["verdict"] == row["times"]["once"]["verdict"] == "right"
    assert results["rightness"][0]["right"] == results["rightness"][0]["of"] == len(TELLING)
    for row in (*results["registry"], *results["engine"]):
        if "failure" not in row:
            assert row["ratio"] > 0 and row["ratio_verified"] > 0
            assert row["times"]["none"]["verdict"] == row["times"]["once"]["verdict"] == "right"
        elif IN_CI and row["id"] == "registry":
            pytest.fail(row["failure"])
    results["memory"] = [sections.memory(session, "many", "gzip")]
    assert results["memory"][0]["resident"] > 0
    json.dumps(results)
    text = report.render(results)
    for title in (
        "Against copying and decoding",
        "From a registry on this machine",
        "Memory",
    ):
        assert title in text
    assert not list(tmp_path.glob("out-*"))


def test_what_a_tool_gets_wrong_goes_on_in_more_lines() -> None:
    wrong = {f"an image that has the number {i}": "different" for i in range(20)}
    text = report.rightness_table(
        [
            {"tool": "other", "right": 3, "of": 23, "wrong": wrong},
            {"tool": "dimgx", "right": 23, "of": 23, "wrong": {}},
        ]
    )
    lines = text.splitlines()
    assert max(map(len, lines)) <= report.WIDTH
    *told, last = lines[3:-1]
    assert told[0].startswith("other  3 of 23   an image")
    assert all(line.startswith(" " * 17) for line in told[1:])
    assert " ".join(line[17:] for line in told) == "; ".join(wrong)
    assert last == "dimgx  23 of 23  -"
