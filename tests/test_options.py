"""The command line as people write it."""

from __future__ import annotations

import pytest

from dimgx.arguments import LOG_LEVELS, build_parser
from dimgx.errors import UsageError
from dimgx.options import SUFFIXES, Options, parse_args


def parse(*args: str) -> Options:
    return parse_args(args, "1")


def test_options_may_stand_anywhere() -> None:
    options = parse("-l", "@0", "image", "-l", "@1:@2", "-r")
    assert (options.image, options.layers, options.reverse) == ("image", ("@0", "@1:@2"), True)


def test_letters_may_be_joined() -> None:
    options = parse("-rzwtout.tar.gz", "image")
    assert (options.reverse, options.force, options.target) == (True, True, "out.tar.gz")
    assert options.compression == "gzip"


@pytest.mark.parametrize("option", ["-t", "--target", "-o", "--output"])
def test_target_has_two_names(option: str) -> None:
    assert parse(option, "x.tar", "image").target == "x.tar"


@pytest.mark.parametrize("image", ["-", "-:app:1.0", "-:@0"])
def test_image_on_standard_input(image: str) -> None:
    assert parse("-q", image).image == image
    assert parse(image, "-q").image == image


def test_later_one_of_a_pair_counts() -> None:
    options = parse("-r", "-R", "-t", "x.tar", "-W", "-w", "-l@1", "-s", "-S", "-q", "-Q", "image")
    assert (options.reverse, options.force, options.strict, options.quiet) == (
        False,
        True,
        False,
        False,
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_suffix_decides(suffix: str) -> None:
    for target in (f"a{suffix}", f"./x.zst/A{suffix.upper()}"):
        options = parse("-t", target, "image")
        assert options.compression == SUFFIXES[suffix]
        assert options.warnings == ()


@pytest.mark.parametrize("target", ["out", "out.gz", "rootfs.zip", "tar"])
def test_unknown_suffix_is_plain_with_a_warning(target: str) -> None:
    options = parse("-t", target, "image")
    assert options.compression is None
    assert "suffix" in options.warnings[0]
    assert parse("-C", "-t", target, "image").warnings == ()


def test_option_wins_over_the_suffix_with_a_warning() -> None:
    options = parse("-z", "-t", "out.tar.bz2", "image")
    assert options.compression == "gzip"
    assert options.warnings == ("the target's name ends in .tar.bz2, but gzip was asked for",)
    assert parse("-C", "-t", "out.tgz", "image").compression is None


@pytest.mark.parametrize("target", ["-", "/dev/stdout"])
def test_standard_output_is_plain(target: str) -> None:
    options = parse("-t", target, "image")
    assert (options.to_stdout, options.compression, options.warnings) == (True, None, ())
    assert parse("--zstd", "-t", target, "image").compression == "zstd"


@pytest.mark.parametrize(
    ("option", "expected"),
    [("-j", "bzip2"), ("-z", "gzip"), ("-C", None), ("-J", "xz"), ("--zstd", "zstd")],
)
def test_compression(option: str, expected: str | None) -> None:
    assert parse(option, "-t", "x", "image").compression == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1000", 1000),
        ("512M", 512 << 20),
        ("512m", 512 << 20),
        ("2G", 2 << 30),
        ("1GiB", 1 << 30),
        ("1.5k", 1536),
        ("3MB", 3_000_000),
        ("1 TiB", 1 << 40),
        ("7B", 7),
    ],
)
def test_memory(text: str, expected: int) -> None:
    assert parse("--memory", text, "image").memory == expected


def test_defaults() -> None:
    options = parse("image")
    assert options.target is None
    assert not any((options.reverse, options.strict, options.force, options.json, options.quiet))
    assert (options.verify, options.log_level) == ("once", "WARNING")
    assert (options.threads, options.memory, options.tmpdir, options.platform) == (None,) * 4


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["a", "b"],
        [""],
        ["--bogus", "image"],
        ["--forc", "-t", "x.tar", "image"],
        ["--targ", "x.tar", "image"],
        ["-t"],
        ["-t", "", "image"],
        ["-w", "image"],
        ["-W", "image"],
        ["-z", "image"],
        ["-C", "image"],
        ["--compress-level", "3", "image"],
        ["--root-entry", "image"],
        ["--clamp-mtime", "image"],
        ["--json", "-t", "x.tar", "image"],
        ["--json", "-q", "image"],
        ["--json", "-Q", "image"],
        ["-w", "-t", "-", "image"],
        ["-s", "image"],
        ["-S", "image"],
        ["-z", "-j", "-t", "x", "image"],
        ["-z", "-C", "-t", "x", "image"],
        ["--compress-level", "3", "-t", "x.tar", "image"],
        ["--compress-level", "3", "-t", "-", "image"],
        ["--compress-level", "10", "-t", "x.tar.gz", "image"],
        ["--compress-level", "-1", "-t", "x.tar.gz", "image"],
        ["--compress-level", "0", "--zstd", "-t", "x", "image"],
        ["--compress-level", "20", "--zstd", "-t", "x", "image"],
        ["--compress-level", "fast", "-t", "x.tgz", "image"],
        ["--verify", "twice", "image"],
        ["--threads", "0", "image"],
        ["--threads", "-2", "image"],
        ["--memory", "much", "image"],
        ["--memory", "-1", "image"],
        ["--log-level", "LOUD", "image"],
        ["-v", "--log-level", "ERROR", "image"],
        ["--print-completion", "powershell"],
    ],
)
def test_wrong_command_line(args: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(*args)


@pytest.mark.parametrize("suffix", [".ext4", ".img", ".squashfs", ".sqfs", ".erofs", ".cpio"])
def test_suffix_of_another_form_is_refused(suffix: str) -> None:
    with pytest.raises(UsageError, match=f"not a {suffix}"):
        parse("-t", f"rootfs{suffix}", "image")


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive", "oci", "dir"])
def test_target_with_a_transport_is_refused(transport: str) -> None:
    with pytest.raises(UsageError, match="no target"):
        parse("-t", f"{transport}:out.tar", "image")
    assert parse("-t", f"./{transport}:out.tar", "image").target == f"./{transport}:out.tar"


@pytest.mark.parametrize("level", LOG_LEVELS)
def test_log_levels(level: str) -> None:
    assert parse("--log-level", level, "image").log_level == level


def test_help_names_every_option() -> None:
    parser = build_parser("1")
    text = parser.format_help()
    for action in parser._actions:
        assert all(option in text for option in action.option_strings)
    for group in ("source:", "layers:", "target:", "what is shown:"):
        assert f"\n{group}\n" in text
