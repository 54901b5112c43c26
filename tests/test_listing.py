"""The table, the IDs and the JSON document."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dimgx.console.listing import escape, format_ids, format_json, format_table
from dimgx.inspector import Listing, Row
from dimgx.platforms import normal_platform

SCHEMA = json.loads(
    (Path(__file__).parent.parent / "docs" / "listing.schema.json").read_text(encoding="utf-8")
)
NOW_S = 1_700_000_000.0  # 2023-11-14T22:13:20Z
ROWS = (
    Row(
        2,
        id="sha256:" + "c3" * 32,
        image_id="sha256:" + "c3" * 32,
        parent_id=None,
        tags=("nifty-box:latest", "nifty-box:1"),
        size=0,
        created="2023-11-10T22:13:19.123456789Z",
        created_by='CMD ["sh"]',
    ),
    Row(1, layer_index=1, diff_id="sha256:" + "b2" * 32, size=9_400_000, created="yesterday"),
    Row(
        0,
        id="sha256:" + "a1" * 32,
        layer_index=0,
        diff_id="sha256:" + "a1" * 32,
        size=125_100_000,
        stored_size=50_000_000,
        created="2023-11-04T22:13:20+00:00",
        created_by="ADD file:1\tin\n  / \x1b[31m",
        comment="",
    ),
)


def listing(*rows: Row, **more: object) -> Listing:
    values: dict[str, object] = {
        "reference": "x",
        "id": None,
        "digest": None,
        "tags": (),
        "platform": None,
        "size_kind": "tar",
    }
    return Listing(rows=rows, **(values | more))  # type: ignore[arg-type]


TABLE = """\
REPO TAG               \tIMAGE ID       \tPARENT ID      \tCREATED        \tLAYER SIZE     \tVIRTUAL SIZE   \t@      \tCREATED BY
nifty-box              \tc3c3c3c3c3c3   \t-              \t4 days ago     \t0 Bytes        \t134.5 MB       \t2      \tCMD ["sh"]
-                      \t<none>         \t-              \t-              \t9.4 MB         \t134.5 MB       \t1      \t-
-                      \ta1a1a1a1a1a1   \t-              \t10 days ago    \t125.1 MB       \t125.1 MB       \t0      \tADD file:1 in / \\x1b[31m
"""  # noqa: E501


def test_table_in_a_pipe_keeps_the_old_columns() -> None:
    assert format_table(listing(*ROWS), width=None, now_s=NOW_S) == TABLE


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("x/app:1", "x/app:1"),
        ("podman:localhost/x/app:1", "x/app:1"),
        ("docker.io/library/app:1", "app:1"),
        ("docker-archive:a.tar:app:1", "app:1"),
        ("other", "other"),
        ("other:latest", "other"),
        ("app", "z/app"),
        ("x/app:12", "z/app"),
    ],
)
def test_tag_that_was_asked_for_is_shown(reference: str, expected: str) -> None:
    tags = ("z/app:latest", "app:1", "docker.io/x/app:1", "other:latest")
    found = listing(Row(0, tags=tags), reference=reference)
    line = format_table(found, width=None, now_s=NOW_S).splitlines()[1]
    assert line.split()[0] == expected


@pytest.mark.parametrize(("length", "tab"), [(22, 23), (23, 31), (30, 31), (38, 39), (39, 47)])
def test_wide_cell_widens_its_column_for_all_rows(length: int, tab: int) -> None:
    tag = "registry.example.com/".ljust(length, "x")
    rows = (Row(1, tags=(tag,)), Row(0, tags=("a:1",)))
    lines = format_table(listing(*rows), width=None, now_s=NOW_S).splitlines()
    assert {line.index("\t") for line in lines} == {tab}
    assert [line.split("\t")[0].strip() for line in lines[1:]] == [tag, "a:1"]
    # Two blanks at least between cells, whoever splits there.
    assert all(line.split("\t")[0].endswith(" ") for line in lines)


def test_table_on_a_terminal_fits_it() -> None:
    def created_by(text: str, width: int) -> str:
        row = Row(0, id="a" * 64, size=1, created_by=text)
        heading, line = format_table(listing(row), width=width, now_s=NOW_S).splitlines()
        assert width < 100 or len(line) == width
        return line[heading.index("CREATED BY") :]

    cut = created_by("x" * 300, 120)
    assert cut == "x" * (len(cut) - 3) + "..."
    assert created_by("x" * len(cut), 120) == "x" * len(cut)
    # It says something at any width.
    assert created_by("x" * 300, 10) == "x" * 17 + "..."


def test_wide_characters_take_two_columns() -> None:
    """And what goes above another takes none."""
    row = Row(0, id="sha256:" + "1" * 64, created_by="\u65e5" * 60 + "e\u0301" * 60, tags=("x:1",))
    _, line = format_table(listing(row), width=130, now_s=NOW_S).splitlines()
    end = line.rstrip(".")
    assert line.endswith("...") and len(line) + line.count("\u65e5") in (129, 130)
    assert set(end[-10:]) == {"\u65e5"}
    narrow = Row(0, id="sha256:" + "1" * 64, created_by="e\u0301" * 20, tags=("x:1",))
    assert format_table(listing(narrow), width=100, now_s=NOW_S).endswith("e\u0301" * 20 + "\n")


@pytest.mark.parametrize("created_by", [None, "", " \n\t"])
def test_what_is_absent_is_a_dash(created_by: str | None) -> None:
    row = Row(0, created_by=created_by)
    line = format_table(listing(row), width=None, now_s=NOW_S).splitlines()[1]
    assert [cell.strip() for cell in line.split("\t")] == [
        *("-", "<none>", "-", "-", "-", "-", "0", "-")
    ]


def test_unknown_size_makes_the_sums_above_it_unknown() -> None:
    rows = (Row(2, size=1), Row(1, size=None), Row(0, size=5))
    lines = format_table(listing(*rows), width=None, now_s=NOW_S).splitlines()
    sizes = [[cell.strip() for cell in line.split("\t")[4:6]] for line in lines[1:]]
    assert sizes == [["1 Byte", "-"], ["-", "-"], ["5 Bytes", "5 Bytes"]]


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        ("", "-"),
        ("x", "-"),
        ("0001-01-01T00:00:00Z", "-"),
        ("9999-12-31T23:59:59-12:00", "-"),
        ("9999-12-31T24:00Z", "-"),
        ("2023-11-14T22:12:20", "a minute ago"),
        ("2023-11-14T23:12:20.9+01:00", "59 seconds ago"),
        ("20231114T221220.123456789Z", "59 seconds ago"),
        ("2023-11-13T24:00Z", "22 hours ago"),
    ],
)
def test_created(created: str, expected: str) -> None:
    lines = format_table(listing(Row(0, created=created)), width=None, now_s=NOW_S).splitlines()
    assert lines[1].split("\t")[3].strip() == expected


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="cannot set its zone")
def test_time_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ+5")
        time.tzset()
        test_created("2023-11-14T22:12:20", "a minute ago")
    time.tzset()


def test_control_characters_are_shown_in_every_cell() -> None:
    row = Row(0, id="\x1b[1m", parent_id="\x1b[2m", tags=("\x1b[3m",), created_by="\x1b[4m")
    for width in (None, 80):
        line = format_table(listing(row), width=width, now_s=NOW_S).splitlines()[1]
        assert [part[:2] for part in line.split(r"\x1b[")[1:]] == ["3m", "1m", "2m", "4m"]


def test_ids() -> None:
    assert format_ids(listing(*ROWS)) == "c3c3c3c3c3c3\n<none>\na1a1a1a1a1a1\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("a\nb\tc\x1b\x7f", r"a\nb\tc\x1b\x7f"),
        ("\u202e\u2028", r"\u202e\u2028"),
        ("ü\\\0", "ü\\\\x00"),
        (b"\x80\xff".decode("utf-8", "surrogateescape"), r"\x80\xff"),
        ("\udc7f\udd00", r"\udc7f\udd00"),
    ],
)
def test_escape(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_json_meets_its_schema_and_keeps_every_key() -> None:
    platform = normal_platform("linux", "aarch64", "v8")
    text = format_json(listing(*ROWS, platform=platform, warnings=("odd",), tags=("a:1",)))
    document = json.loads(text)
    Draft202012Validator(SCHEMA).validate(document)
    assert document["platform"] == {"os": "linux", "architecture": "arm64", "variant": None}
    assert [row["virtual_size"] for row in document["rows"]] == [
        134_500_000,
        134_500_000,
        125_100_000,
    ]
    assert [row["empty"] for row in document["rows"]] == [True, False, False]
    assert document["rows"][2]["created_by"] == "ADD file:1\tin\n  / \x1b[31m"
    assert document["rows"][2]["comment"] == ""
    assert document["warnings"] == ["odd"]


def test_json_is_ascii_whatever_the_encoding_of_the_output() -> None:
    text = format_json(listing(Row(0, author="ü\udcff")))
    assert text.isascii()
    assert json.loads(text)["rows"][0]["author"] == "ü\udcff"


def test_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
