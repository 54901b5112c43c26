from __future__ import annotations

import pytest

from dimgx.errors import UsageError
from dimgx.platforms import Platform, host_platform, normal_platform, parse_platform


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/i686", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("arm64", "linux/arm64"),
        ("x86_64", "linux/amd64"),
        ("arm64/v8", "linux/arm64"),
        ("aarch64/v9", "linux/arm64/v9"),
        ("arm/7", "linux/arm/v7"),
        ("armhf", "linux/arm/v7"),
        ("linux", str(host_platform())),
        ("macOS", f"darwin/{host_platform().architecture}"),
        ("windows/amd64", "windows/amd64"),
        ("plan10/x", "plan10/x"),
    ],
)
def test_spellings_of_a_platform(text: str, shown: str) -> None:
    assert str(parse_platform(text)) == shown


@pytest.mark.parametrize(
    "text", ["", "/", "plan10", "linux/", "arm/v7/x", "linux/arm/v7/x", "a b/c", "/amd64"]
)
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="os/arch"):
        parse_platform(text)


@pytest.mark.parametrize(
    ("wanted", "offered", "best"),
    [
        ("linux/arm", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/arm", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm", ["linux/arm/v6", "linux/arm"], "linux/arm"),
        ("linux/arm", ["linux/arm/v8"], "linux/arm/v8"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm"], "linux/arm"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v7", ["linux/arm", "linux/arm/v5"], "linux/arm/v5"),
        ("linux/arm/v8", ["linux/arm/v6", "linux/arm/v7", "linux/arm64"], "linux/arm/v7"),
        ("linux/arm/x", ["linux/arm/v5"], None),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm64"], None),
        ("linux/arm64", ["linux/arm64/v9", "linux/arm64/v8"], "linux/arm64"),
        ("linux/arm64/v9", ["linux/arm64"], "linux/arm64"),
        ("linux/arm64/v9", ["linux/arm64/v8.7"], None),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64/v2"], "linux/amd64/v2"),
        ("linux/amd64", ["linux/amd64/v2", "linux/amd64"], "linux/amd64"),
        ("linux/amd64/v3", ["linux/amd64"], "linux/amd64"),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2"], "linux/amd64/v2"),
        ("linux/amd64/v3", ["linux/amd64/v4"], None),
        ("linux/ppc64le/power9", ["linux/ppc64le", "linux/ppc64le/power8"], "linux/ppc64le"),
        ("linux/amd64", ["windows/amd64", "linux/386"], None),
    ],
)
def test_the_best_of_several(wanted: str, offered: list[str], best: str | None) -> None:
    ranks = {text: parse_platform(wanted).rank(parse_platform(text)) for text in offered}
    fitting = {text: rank for text, rank in ranks.items() if rank is not None}
    found = min(fitting, key=fitting.__getitem__) if fitting else None
    assert (found and str(parse_platform(found))) == best


def test_the_machine_has_a_platform() -> None:
    assert host_platform().os == "linux"
    assert host_platform().architecture
    assert host_platform().rank(host_platform()) == 0


def test_what_is_unknown_keeps_its_name() -> None:
    assert normal_platform("plan9", "sparc", "x") == Platform("plan9", "sparc", "x")


def test_a_variant_of_any_length_is_the_last_to_be_taken() -> None:
    ranks = [Platform("linux", "amd64").rank(normal_platform("linux", "amd64", v))
             for v in ("v2", "9" * 5000)]  # fmt: skip
    assert None not in ranks and ranks == sorted(ranks)  # type: ignore[type-var]
