"""The table, the IDs and the JSON document."""

from __future__ import annotations

import json
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


def test_wide_cell_widens_its_column_for_all_rows() -> None:
    rows = (Row(1, tags=("registry.example.com/team/app:1.2.3",)), Row(0, tags=("a:1",)))
    lines = format_table(listing(*rows), width=None, now_s=NOW_S).splitlines()
    assert len({line.index("\t") for line in lines}) == 1
    assert [line.split("\t")[0].strip() for line in lines[1:]] == [
        "registry.example.com/team/app:1.2.3",
        "a:1",
    ]
    # Two blanks at least between cells, whoever splits there.
    assert all(line.split("\t")[0].endswith(" ") for line in lines)


def test_table_on_a_terminal_fits_it() -> None:
    row = Row(0, id="a" * 64, size=1, created_by="RUN " + "x" * 300)
    lines = format_table(listing(row), width=120, now_s=NOW_S).splitlines()
    assert len(lines[1]) == 120
    assert lines[1].endswith("xxx...")


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
        ("2023-11-14T22:12:20", "a minute ago"),
        ("2023-11-14T23:12:20.9+01:00", "59 seconds ago"),
        ("20231114T221220.123456789Z", "59 seconds ago"),
        ("2023-11-13T24:00Z", "22 hours ago"),
    ],
)
def test_created(created: str, expected: str) -> None:
    lines = format_table(listing(Row(0, created=created)), width=None, now_s=NOW_S).splitlines()
    assert lines[1].split("\t")[3].strip() == expected


def test_ids() -> None:
    assert format_ids(listing(*ROWS)) == "c3c3c3c3c3c3\n<none>\na1a1a1a1a1a1\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("a\nb\tc\x1b\x7f", r"a\nb\tc\x1b\x7f"),
        ("\u202e\u2028", r"\u202e\u2028"),
        (b"\xff".decode("utf-8", "surrogateescape"), r"\xff"),
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


def test_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
