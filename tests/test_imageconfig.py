"""Configs of images that are made, from configs of all ages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dimgx import Image, UsageError
from dimgx.digest import Digest
from dimgx.images.imageconfig import kept_steps, made_step, make_config, time_of
from dimgx.oci import HistoryStep, parse_config
from dimgx.platforms import parse_platform

ONE = Digest.of(b"1")


def image(config: dict[str, Any] | str | None, platform: str | None = None) -> Image:
    found = Image("x", (), id="1")
    if config is not None:
        data = config if isinstance(config, str) else json.dumps(config)
        found.config = parse_config(data.encode(), "the config")
        found.history = found.config.history
    found.platform = parse_platform(platform) if platform else None
    return found


def made(config: dict[str, Any] | str | None, platform: str | None = None, **more: Any) -> Any:
    data = make_config(image(config, platform), [ONE], [{"created_by": "x"}], more.get("created"))
    value = json.loads(data)
    assert value.pop("rootfs") == {"type": "layers", "diff_ids": [str(ONE)]}
    assert value.pop("history") == [{"created_by": "x"}]
    return value


BARE = {"architecture": "amd64", "os": "linux"}


@pytest.mark.parametrize(
    ("config", "platform", "expected"),
    [
        (BARE, None, BARE),
        (BARE | {"variant": "v3"}, None, BARE | {"variant": "v3"}),
        (BARE | {"rootfs": {"diff_ids": []}, "history": [{}]}, None, BARE),
        (BARE | {"RootFS": {"diff_ids": []}, "History": [{}]}, None, BARE),
        (BARE | {"moby.buildkit.cache.v0": "AAAA"}, None, BARE),
        (BARE | {"moby.buildkit.buildinfo.v1": "AAAA"}, None,
         BARE | {"moby.buildkit.buildinfo.v1": "AAAA"}),
        (BARE | {"os.version": "1", "os.features": ["a"]}, None,
         BARE | {"os.version": "1", "os.features": ["a"]}),
        (BARE | {"config": {"Env": None, "Cmd": ["a"]}, "author": None}, None,
         BARE | {"config": {"Cmd": ["a"]}}),
        (BARE | {"id": "1", "parent": "2", "Size": 3}, None, BARE),
        (BARE | {"rootfs": {}, "id": "1"}, None, BARE | {"id": "1"}),
        ({}, "linux/arm/v7", {"architecture": "arm", "os": "linux", "variant": "v7"}),
        ({"architecture": "arm", "os": "linux"}, "linux/arm/v7",
         {"architecture": "arm", "os": "linux", "variant": "v7"}),
        ({}, None, {"architecture": "", "os": "linux"}),
        (None, "linux/amd64", BARE),
        (BARE | {"created": "2024-01-01T00:00:00.123456789Z"}, None,
         BARE | {"created": "2024-01-01T00:00:00.123456789Z"}),
        (BARE | {"created": "yesterday"}, None, BARE),
        (BARE | {"x": "\u00e9\u20ac"}, None, BARE | {"x": "\u00e9\u20ac"}),
        (BARE | {"x": 2**80, "y": 1.5}, None, BARE | {"x": 2**80, "y": 1.5}),
    ],
)  # fmt: skip
def test_what_is_kept(config: Any, platform: str | None, expected: Any) -> None:
    assert made(config, platform) == expected


@pytest.mark.parametrize(
    ("time", "is_one"),
    [
        ("2024-02-29T23:59:59Z", True),
        ("2024-01-01T00:00:00.123456789+05:30", True),
        ("0001-01-01T00:00:00Z", True),
        ("2024-13-45T99:99:99Z", False),
        ("2023-02-29T00:00:00Z", False),
        ("2024-01-01T24:00:00Z", False),
        ("2024-01-01T00:00:60Z", False),
        ("2024-01-01t00:00:00Z", False),
        ("2024-01-01T00:00:00z", False),
        ("2024-01-01T00:00:00+24:00", False),
        ("2024-01-01T00:00:00+01:60", False),
        ("2024-01-01T00:00:00", False),
        ("2024-01-01", False),
        ("", False),
    ],
)
def test_what_is_no_time_is_left_out(time: str, is_one: bool) -> None:
    assert made(BARE | {"created": time}) == BARE | ({"created": time} if is_one else {})


def test_the_time_that_is_said_wins() -> None:
    old = BARE | {"created": "2024-01-01T00:00:00Z"}
    assert made(old, created="1970-01-01T00:00:00Z")["created"] == "1970-01-01T00:00:00Z"


def test_lone_surrogates_go_through() -> None:
    assert made('{"x": "\\ud800"}')["x"] == "\ud800"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1700000000, "2023-11-14T22:13:20Z")],
)
def test_times(seconds: int, text: str) -> None:
    assert time_of(seconds) == text


def test_a_time_beyond_all_years() -> None:
    with pytest.raises(UsageError, match="no year"):
        time_of(10**12 - 1)


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([], "dimgx: 0 layers flattened"),
        ([str(ONE)], f"dimgx: 1 layer flattened: {ONE.hex[:12]}"),
        ([str(ONE), None, 64 * "a"], f"dimgx: 3 layers flattened: {ONE.hex[:12]} - {12 * 'a'}"),
    ],
)
def test_steps_say_what_was_done(ids: list[str | None], text: str) -> None:
    assert made_step("flattened", ids, None, None) == {"created_by": text}


def test_kept_steps_are_as_they_were() -> None:
    history = [{"created_by": "a", "x": 1}, {"empty_layer": True, "Comment": "c"}, {}, None]
    found = image(BARE | {"history": history})
    found.layers = (None, None, None)  # type: ignore[assignment]  # only their number counts
    assert kept_steps(found, 2) == history[:2]
    assert kept_steps(found, 9) == [*history[:3], {}]


def test_kept_steps_of_an_image_without_its_own_history() -> None:
    from dimgx.extent import Extent
    from dimgx.image import Layer

    found = image(BARE)
    found.layers = (Layer(Extent(0, 0, 0), diff_id=ONE), Layer(Extent(0, 0, 0)))
    assert kept_steps(found, 1) == [{"created_by": f"dimgx: 1 layer kept: {ONE.hex[:12]}"}]
    found.history = (HistoryStep(False, created_by="a"), HistoryStep(False, comment="b"))
    assert kept_steps(found, 2) == [{"created_by": "a"}, {"comment": "b"}]
