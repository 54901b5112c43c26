"""LAYER_SPEC: which rows are named, and in what order."""

from __future__ import annotations

import pytest

from dimgx.errors import LayerSpecError, UsageError
from dimgx.inspector import Row
from dimgx.layerspec import number_warnings, select


def row(position: int, image_id: str | None, diff_id: str | None, *tags: str) -> Row:
    return Row(
        position,
        id=image_id or diff_id,
        image_id=image_id,
        diff_id=diff_id,
        tags=tags,
        layer_index=None if diff_id is None else position,
    )


def diff(digits: str) -> str:
    return "sha256:" + digits.ljust(64, "0")


ROWS = (
    row(0, None, diff("aa11"), "debian:jessie", "localhost:5000/base:1"),
    row(1, "bb" * 32, diff("aa22"), "docker.io/library/mid:latest"),
    row(2, None, None),
    row(3, None, diff("cc"), "cafe:beef"),
    row(4, None, diff("cc")),
    row(5, diff("dd"), diff("ee"), "top:latest", "top:1"),
)


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([], [0, 1, 2, 3, 4, 5]),
        (["@0"], [0]),
        (["@-1"], [5]),
        (["@-6"], [0]),
        (["@2"], [2]),
        (["@1:@3"], [1, 2, 3]),
        (["@3:@1"], [3, 2, 1]),
        (["@-2:@-4"], [4, 3, 2]),
        (["@1:@1"], [1]),
        (["aa11"], [0]),
        (["AA11"], [0]),
        (["sha256:aa11"], [0]),
        (["b"], [1]),
        (["bb" * 32], [1]),
        (["dd"], [5]),
        (["ee"], [5]),
        (["cc"], [3, 4]),
        (["cc:cc"], [3, 4]),
        (["cc:dd"], [3, 4, 5]),
        (["dd:cc"], [5, 4, 3]),
        (["aa11:cc"], [0, 1, 2, 3, 4]),
        (["debian:jessie"], [0]),
        (["debian:jessie:@1"], [0, 1]),
        (["@1:debian:jessie"], [1, 0]),
        (["localhost:5000/base:1:top:1"], [0, 1, 2, 3, 4, 5]),
        (["sha256:aa11:sha256:aa22"], [0, 1]),
        (["sha256:aa11:aa22"], [0, 1]),
        (["mid"], [1]),
        (["mid:latest:top"], [1, 2, 3, 4, 5]),
        (["library/mid"], [1]),
        (["cafe:beef"], [3]),
        (["@0", "@-1", "@1"], [0, 5, 1]),
        (["@1", "@2", "@1", "@0"], [2, 1, 0]),
        (["@3", "@4:@2"], [4, 3, 2]),
    ],
)
def test_specs(specs: list[str], expected: list[int]) -> None:
    selection = select(ROWS, iter(specs), strict=True)
    assert [found.position for found in selection.rows] == expected


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([], [5, 4, 3, 2, 1, 0]),
        (["@0:@2"], [2, 1, 0]),
        (["@1", "@2", "@1", "@0"], [0, 2, 1]),
    ],
)
def test_reverse_turns_the_list_round_before_rows_are_used_once(
    specs: list[str], expected: list[int]
) -> None:
    assert [found.position for found in select(ROWS, specs, reverse=True).rows] == expected


UNKNOWN = ["@6", "@-7", "f00d", "ubuntu", "ubuntu:20.04", "@1:@9", "f00d:@1", "@1:f00d", "1",
           "aa112cc"]  # fmt: skip


@pytest.mark.parametrize("spec", UNKNOWN)
def test_spec_that_names_no_row_is_left_out(spec: str) -> None:
    selection = select(ROWS, [spec, "@1"])
    assert [found.position for found in selection.rows] == [1]
    assert selection.unknown == (spec,)


@pytest.mark.parametrize("spec", UNKNOWN)
def test_spec_that_names_no_row_is_an_error_if_strict(spec: str) -> None:
    with pytest.raises(LayerSpecError, match=f"{spec}; it has @0 to @{len(ROWS) - 1}$"):
        select(ROWS, ["@1", spec], strict=True)


@pytest.mark.parametrize(
    "spec",
    ["", "@", "@x", "@1.5", ":", ":@1", "@1:", "-1", "a b", "@1:@2:@3", "sha256:", "@+1", "a\n"],
)
def test_bad_grammar_is_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError, match="is not a layer spec"):
        select(ROWS, [spec])


def test_spec_of_an_image_without_rows_is_told_so() -> None:
    with pytest.raises(LayerSpecError, match=r"named by @0; it has none$"):
        select((), ["@0"], strict=True)


@pytest.mark.parametrize("spec", ["aa", "sha256:aa", "a", "aa:@1", "@1:aa"])
def test_ambiguous_prefix_names_its_candidates(spec: str) -> None:
    with pytest.raises(LayerSpecError, match=r"ambiguous: @0 aa1100000000, @1 aa2200000000$"):
        select(ROWS, [spec])


def test_candidates_are_shown_by_the_id_that_fits() -> None:
    rows = (row(0, None, diff("b1")), row(1, "b2" * 32, diff("a")), row(2, "c" * 64, diff("b3")))
    shown = "@0 b10000000000, @1 b2b2b2b2b2b2, @2 b30000000000"
    with pytest.raises(LayerSpecError, match=f"ambiguous: {shown}$"):
        select(rows, ["b"])


@pytest.mark.parametrize("prefix", ["a" * 8, "sha256:" + "A" * 9, "a" * 30])
def test_candidates_are_shown_as_far_as_they_can_be_told_apart(prefix: str) -> None:
    digits = prefix.removeprefix("sha256:").lower()
    rows = (row(0, None, diff(f"{digits}12345")), row(1, None, diff(f"{digits}67890")))
    shown = f"@0 {digits}1234, @1 {digits}6789"
    with pytest.raises(LayerSpecError, match=f"spec {prefix} is ambiguous: {shown}$"):
        select(rows, [prefix])


@pytest.mark.parametrize("spec", ["cc:@4", "@3:cc", "cc:@3", "@4:cc"])
def test_range_within_the_rows_that_its_part_names_is_ambiguous(spec: str) -> None:
    with pytest.raises(LayerSpecError, match=f"spec {spec} is ambiguous: @3 cc0+, @4 cc0+$"):
        select(ROWS, [spec])


@pytest.mark.parametrize(
    ("count", "end"), [(8, "@7 a70000000000"), (9, "0 and 1 more"), (10, "0 and 2 more")]
)
def test_many_candidates_are_not_all_shown(count: int, end: str) -> None:
    with pytest.raises(LayerSpecError, match=f"ambiguous: @0 a0.*{end}$"):
        select([row(n, None, diff(f"a{n}")) for n in range(count)], ["a"])


def test_tag_of_several_rows_is_ambiguous() -> None:
    rows = (row(0, None, diff("a1"), "x:1"), row(1, None, None, "x:1"), row(2, None, diff("c1")))
    for spec in ("x:1", "x:1:@2", "@2:x:1"):
        with pytest.raises(LayerSpecError, match=r"x:1 is ambiguous: @0 a10000000000, @1 <none>$"):
            select(rows, [spec])


def test_range_whose_other_reading_is_ambiguous_is_taken() -> None:
    rows = (*ROWS, row(6, None, diff("f1"), "a:1"))
    assert [found.position for found in select(rows, ["a:1:dd"]).rows] == [6, 5]


def test_range_that_may_be_split_in_two_ways_is_ambiguous() -> None:
    rows = (row(0, None, diff("a1"), "x:latest"), row(1, None, diff("b1"), "b1:c1"),
            row(2, None, diff("c1"), "x:b1"))  # fmt: skip
    with pytest.raises(LayerSpecError, match="may mean x to b1:c1 or x:b1 to c1"):
        select(rows, ["x:b1:c1"])


def test_known_tag_wins_over_a_range() -> None:
    rows = (row(0, None, diff("a1")), row(1, None, diff("b1")), row(2, None, diff("c1"), "a1:b1"))
    assert [found.position for found in select(rows, ["a1:b1"]).rows] == [2]


def test_range_between_interleaved_doubles_is_ambiguous() -> None:
    rows = tuple(row(n, None, diff("a1" if n % 2 else "b1")) for n in range(4))
    for spec in ("a1:b1", "b1:@0", "@3:a1"):
        with pytest.raises(LayerSpecError, match="ambiguous"):
            select(rows, [spec])


@pytest.mark.parametrize(
    ("spec", "spelled"), [("0", "@0"), ("12", "@12"), ("3:1", "@3:@1"), ("00", "@00")]
)
def test_number_without_a_sign_is_warned_of(spec: str, spelled: str) -> None:
    assert number_warnings(["@1", spec, "ab"], 13) == [
        f"-l {spec} is the beginning of an ID, not a row's number: that is written {spelled}"
    ]


@pytest.mark.parametrize("spec", ["13", "@1", "@1:@2", "1:13", "sha256:1", "app:1", "1a", "00001"])
def test_what_can_be_no_number_of_a_row_is_not_warned_of(spec: str) -> None:
    assert number_warnings([spec], 13) == []
