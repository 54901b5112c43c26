"""The command line as people write it."""

from __future__ import annotations

import pytest

from dimgx.console.arguments import LOG_LEVELS, build_parser
from dimgx.console.options import Options, parse_args
from dimgx.console.targetname import SUFFIXES, TargetName
from dimgx.errors import UsageError


def parse(*args: str) -> Options:
    return parse_args(args, "1")


def target(*args: str) -> TargetName:
    found = parse(*args, "image").target
    assert found is not None
    return found


def test_options_may_stand_anywhere() -> None:
    options = parse("-l", "@0", "image", "-l", "@1:@2", "-r")
    assert (options.images, options.layers, options.reverse) == (("image",), ("@0", "@1:@2"), True)


def test_letters_may_be_joined() -> None:
    options = parse("-rzwtout.tar.gz", "image")
    assert (options.reverse, options.force) == (True, True)
    assert options.target == TargetName("out.tar.gz", "tar", "gzip")


@pytest.mark.parametrize("option", ["-t", "--target", "-o", "--output"])
def test_target_has_two_names(option: str) -> None:
    assert target(option, "x.tar") == TargetName("x.tar", "tar", None)


@pytest.mark.parametrize("image", ["-", "-:app:1.0", "-:@0"])
def test_image_on_standard_input(image: str) -> None:
    assert parse("-q", image).images == (image,)
    assert parse(image, "-q").images == (image,)


def test_what_looks_like_an_image_may_be_a_pattern() -> None:
    options = parse("--exclude", "-:x", "--include", "-:y", "-t", "x.tar", "image")
    assert options.paths == ((False, "-:x"), (True, "-:y"))


def test_later_one_of_a_pair_counts() -> None:
    options = parse("-r", "-R", "-t", "x.tar", "-W", "-w", "-l@1", "-s", "-S", "-q", "-Q", "image")
    assert (options.reverse, options.force, options.strict, options.quiet) == (
        False,
        True,
        False,
        False,
    )


def test_the_disk_is_waited_for_unless_told_otherwise() -> None:
    assert parse("-t", "x.tar", "image").sync
    assert not parse("-t", "x.tar", "--no-sync", "image").sync
    assert parse("-t", "x.tar", "--no-sync", "--sync", "image").sync
    assert not parse("-t", "-", "--report", "r.json", "--no-sync", "image").sync


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_suffix_decides(suffix: str) -> None:
    for path in (f"a{suffix}", f"./x.zst/A{suffix.upper()}"):
        assert target("-t", path) == TargetName(path, "tar", SUFFIXES[suffix])


@pytest.mark.parametrize("path", ["out", "out.gz", "rootfs.zip", "tar"])
def test_unknown_suffix_is_plain_with_a_warning(path: str) -> None:
    found = target("-t", path)
    assert found.compression is None
    assert "suffix" in found.warnings[0]
    assert target("-C", "-t", path).warnings == ()


def test_a_path_that_looks_cut_is_warned_of() -> None:
    for text in ("oci-archive:x:y.tar", "docker-archive:2024-01-01T10:20:30.TAR.gz"):
        assert "the image's name: --format" in target("-t", text).warnings[0]
    assert target("-t", "oci-archive:x.tar:y").warnings == ()


def test_option_wins_over_the_suffix_with_a_warning() -> None:
    found = target("-z", "-t", "out.tar.bz2")
    assert found.compression == "gzip"
    assert found.warnings == ("the target's name ends in .tar.bz2, but gzip was asked for",)
    assert target("-C", "-t", "out.tgz").compression is None


@pytest.mark.parametrize("path", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_plain(path: str) -> None:
    found = target("-t", path)
    assert (found.is_stdout, found.compression, found.warnings) == (True, None, ())
    assert target("--zstd", "-t", path).compression == "zstd"


@pytest.mark.parametrize(
    ("option", "expected"),
    [("-j", "bzip2"), ("-z", "gzip"), ("-C", None), ("-J", "xz"), ("--zstd", "zstd")],
)
def test_compression(option: str, expected: str | None) -> None:
    assert target(option, "-t", "x").compression == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1000", 1000),
        ("512M", 512 << 20),
        ("512m", 512 << 20),
        ("2G", 2 << 30),
        ("1GiB", 1 << 30),
        ("1.3k", 1331),
        (" 2G ", 2 << 30),
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
    assert (options.threads, options.memory, options.tmpdir, options.platform) == (
        None, None, None, (),
    )  # fmt: skip


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
        ["--no-sync", "image"],
        ["--no-sync", "-t", "-", "image"],
        ["--no-sync", "--check", "-t", "x.tar", "image"],
        ["--no-sync", "--load", "image"],
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
        ["--threads", "1_0", "image"],
        ["--threads", "10000", "image"],
        ["--memory", "much", "image"],
        ["--memory", "-1", "image"],
        ["--memory", "9" * 400, "image"],
        ["--log-level", "LOUD", "image"],
        ["-v", "--log-level", "ERROR", "image"],
        ["--print-completion", "powershell"],
        ["--origin", "x.tar", "image"],
        ["--origin", "x.tar", "-q"],
        ["--include", "a", "image"],
        ["--report", "r.json", "image"],
        ["--write-config", "c.json", "image"],
        ["--update", "image"],
        ["--check", "-t", "-", "image"],
        ["--check", "--update", "-t", "x.tar", "image"],
        ["--check", "-w", "-t", "x.tar", "image"],
        ["--check", "--report", "-", "-t", "x.tar", "image"],
        ["--report", "-", "-t", "-", "image"],
        ["--load", "-t", "x.tar", "image"],
        ["--load", "--import", "image"],
        ["--load", "-w", "image"],
        ["--load=rkt", "image"],
        ["--import", "--keep-layers", "image"],
        ["--tag", "a", "-t", "x.tar", "image"],
        ["--keep-layers", "-t", "x.tar", "image"],
        ["--keep-layers", "-l", "@0", "-t", "oci:x", "image"],
        ["--keep-layers", "--squash-from", "@1", "-t", "oci:x", "image"],
        ["--squash-from", "@1", "-t", "x.tar", "image"],
        ["--squash-from", "@1", "--prefix", "a", "-t", "oci:x", "image"],
        ["--root-entry", "-t", "oci:x", "image"],
        ["--raw", "--exclude", "a", "-t", "x.tar", "image"],
        ["--raw", "-t", "oci-archive:x.tar", "image"],
        ["--strip-components", "-1", "-t", "x.tar", "image"],
        ["--format", "oci-dir", "-t", "oci-archive:x", "image"],
        ["--format", "squashfs", "-t", "x", "image"],
        ["-z", "-t", "oci:x", "image"],
        ["-t", "oci:-", "image"],
        ["-t", "oci:", "image"],
        ["-t", "oci:x:", "image"],
        ["-t", "docker-daemon:x", "image"],
        ["-t", "containers-storage:x", "image"],
        ["-t", "podman:x", "image"],
        ["-t", "containerd:x", "image"],
        ["--load=containerd", "image"],
        ["-t", "docker://x/y", "image"],
        ["--compress-level", "3", "-t", "docker-archive:x.tar", "image"],
        ["--compress-level", "10", "-t", "oci:x", "image"],
        ["-t", "x.tar", "a", "b"],
        ["-t", "dir:x", "a", "b"],
        ["-t", "docker-archive:x.tar", "--tag", "n", "a", "b"],
        ["-t", "docker-archive:x.tar:n", "a", "b"],
        ["-t", "docker-archive:x.tar", "-", "-:b"],
        ["-t", "{name}.tar", "--write-config", "c.json", "a", "b"],
        ["--platforms", "a", "b"],
    ],
)
def test_wrong_command_line(args: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(*args)


SITUATIONS = {
    "list": ["image"],
    "remote": ["docker://image"],
    "platforms": ["--platforms", "image"],
    "tar": ["-t", "x.tar", "image"],
    "stdout": ["-t", "-", "image"],
    "raw": ["-t", "x.tar", "--raw", "image"],
    "check": ["-t", "x.tar", "--check", "image"],
    "update": ["-t", "x.tar", "--update", "image"],
    "several": ["-t", "{name}.tar", "image", "other"],
    "archive": ["-t", "oci-archive:x.tar", "image"],
    "oci": ["-t", "oci:x", "image"],
    "dir": ["-t", "dir:x", "image"],
    "keep": ["-t", "oci:x", "--keep-layers", "image"],
    "squash": ["-t", "oci:x", "--squash-from", "@1", "image"],
    "load": ["--load", "image"],
    "import": ["--import", "image"],
    "origin": ["--origin", "x.tar"],
}
RESULTS = "tar stdout raw check update several archive oci dir keep squash load import"


def is_taken(*args: str) -> bool:
    try:
        parse(*args)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "situations"),
    [
        ("-t=x.tar --json", "list remote"),
        ("--load", "list remote load"),
        ("--import", "list remote import"),
        ("-q --threads=1", f"list remote {RESULTS}"),
        (
            "-l@0 -r -sl@0",
            "list remote tar stdout raw check update several archive oci dir load import",
        ),
        ("-w --no-sync", "tar raw update several archive oci dir keep squash"),
        ("-z", "tar stdout raw check update several archive"),
        ("--compress-level=0", "archive oci squash"),
        ("--format=tar", "tar stdout check update several"),
        ("--raw", "tar stdout raw"),
        ("--update", "tar update several archive oci dir keep squash"),
        ("--check", "tar check several archive oci dir keep squash"),
        (
            "--include=a --strip-components=1 --prefix=a",
            "tar stdout check update several archive oci dir load import",
        ),
        (
            "--add-layer=a --clamp-mtime",
            "tar stdout check update several archive oci dir squash load import",
        ),
        ("--root-entry", "tar stdout check update several load import"),
        ("--layer-compression=gzip", "archive oci dir keep squash load"),
        ("--tag=a", "archive oci keep squash load import"),
        ("--squash-from=@1", "archive oci dir squash load"),
        ("--keep-layers", "archive oci dir keep load"),
        (
            "--write-config=c.json",
            "tar stdout raw update archive oci dir keep squash load import",
        ),
        (
            "--report=r.json",
            "tar stdout update several archive oci dir keep squash load import",
        ),
        ("--direct --no-direct", f"list {RESULTS}"),
        ("--platforms", "list remote platforms"),
        (
            "--platform=linux/amd64 --host=unix:///x --pull=never --verify=all --memory=1G"
            " --tmpdir=d",
            f"list remote platforms {RESULTS}",
        ),
        (
            "--creds=a:b --authfile=f --tls-verify --cert-dir=d --retry-time=1 --cache-dir=d"
            " --cache-size=1G",
            "remote",
        ),
        ("-v --log-level=INFO --log-format=x", f"list remote platforms {RESULTS} origin"),
    ],
)
def test_option_is_taken_where_it_has_an_effect(options: str, situations: str) -> None:
    for option in options.split():
        taken = [name for name, words in SITUATIONS.items() if is_taken(option, *words)]
        assert taken == situations.split(), option


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-W image", "-w/-W has no effect without a target (-t)"),
        ("-z image", "a compression has no effect without a target (-t)"),
        ("--exclude a image", "--include and --exclude have no effect without a target (-t)"),
        ("--add-layer a image", "--add-layer has no effect without a target (-t)"),
        ("--tag a -t x.tar image", "--tag has no effect on a plain tar: choose the form of an"
                                   " image (--format)"),
        ("-r --keep-layers --load image", "-r/-R has no effect with --keep-layers"),
        ("--load --import image", "--load and --import exclude each other"),
        ("-t x.tar --load image", "-t and --load exclude each other"),
    ],
)  # fmt: skip
def test_options_are_told_as_they_are_written(line: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*line.split())
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["-t", "a.tar", "image", "-o", "b.tar"], "-t/--target/-o/--output"),
        (["-t", "a.tar", "-t", "a.tar", "image"], "-t/--target/-o/--output"),
        (["-t", "a.tar", "--report", "a", "--report", "-", "image"], "--report"),
        (["-t", "a.tar", "--write-config=a", "--write-config=b", "image"], "--write-config"),
        (["--origin", "a.tar", "--origin", "b.tar"], "--origin"),
    ],
)
def test_of_two_places_none_is_passed_over(args: list[str], option: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*args)
    assert str(caught.value) == (
        f"argument {option}: given twice, and one run takes one (dimgx -h shows the options)"
    )


@pytest.mark.parametrize(
    ("name", "hint"), [("rkt", ""), ("containerd", ": `ctr images import -` reads an archive")]
)
def test_engine_that_takes_no_image(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(f"--load={name}", "image")
    assert str(caught.value) == (
        f"argument --load: {name!r} is neither docker nor podman{hint} (dimgx -h shows the options)"
    )


@pytest.mark.parametrize("suffix", [".ext4", ".img", ".squashfs", ".sqfs", ".erofs", ".cpio"])
def test_suffix_of_another_form_is_refused(suffix: str) -> None:
    with pytest.raises(UsageError, match=f"not a {suffix}"):
        parse("-t", f"rootfs{suffix}", "image")


TARGETS = [
    ("docker-archive:out.tar", (), TargetName("out.tar", "docker-archive", None)),
    ("docker-archive:o.tgz:app:1", (), TargetName("o.tgz", "docker-archive", "gzip", "app:1")),
    ("oci-archive:/a/o.tar", ("-z",), TargetName("/a/o.tar", "oci-archive", "gzip")),
    ("oci:layout", (), TargetName("layout", "oci-dir", None)),
    ("oci:layout:1.0", (), TargetName("layout", "oci-dir", None, "1.0")),
    ("oci:C:\\layout:1.0", (), TargetName("C:\\layout", "oci-dir", None, "1.0")),
    ("dir:a:b", (), TargetName("a:b", "docker-dir", None)),
    ("a:b", ("--format", "oci-dir"), TargetName("a:b", "oci-dir", None)),
    ("-", ("--format", "oci-archive"), TargetName("-", "oci-archive", None)),
    ("oci-archive:-", (), TargetName("-", "oci-archive", None)),
    ("./oci:out.tar", (), TargetName("./oci:out.tar", "tar", None)),
    ("C:\\out.tar", (), TargetName("C:\\out.tar", "tar", None)),
    ("oci", (), TargetName("oci", "tar", None)),
    ("podman", (), TargetName("podman", "tar", None)),
    ("docker:out.tar", (), TargetName("docker:out.tar", "tar", None)),
    ("s3://out.tar", (), TargetName("s3://out.tar", "tar", None)),
    ("oci:layout", ("--format", "oci-dir"), TargetName("layout", "oci-dir", None)),
]


@pytest.mark.parametrize(("text", "args", "expected"), TARGETS, ids=[text for text, *_ in TARGETS])
def test_target_with_a_form(text: str, args: tuple[str, ...], expected: TargetName) -> None:
    found = target(*args, "-t", text)
    assert found == expected._replace(warnings=found.warnings)


def test_name_behind_the_path_is_a_tag() -> None:
    assert parse("-t", "oci:dir:1.0", "--tag", "b", "image").tags == ("b", "1.0")


def test_paths_keep_their_order() -> None:
    options = parse("--exclude", "a", "--include", "a/b", "--exclude", "c", "-t", "x.tar", "image")
    assert options.paths == ((False, "a"), (True, "a/b"), (False, "c"))


@pytest.mark.parametrize("option", ["--load", "--import"])
def test_engine_is_any_or_named(option: str) -> None:
    for text, expected in ((option, "any"), (f"{option}=podman", "podman")):
        options = parse(text, "image")
        assert expected in (options.load, options.import_)
        assert (options.has_result, options.images) == (True, ("image",))


def test_several_images() -> None:
    assert parse("-t", "docker-archive:x.tar", "a", "b").images == ("a", "b")
    assert parse("-t", "oci:x", "a", "b").images == ("a", "b")
    assert parse("-t", "{name}.tar", "a", "b").images == ("a", "b")
    assert parse("--load", "a", "b").images == ("a", "b")


def test_origin_goes_without_an_image() -> None:
    options = parse("--origin", "x.tar")
    assert (options.origin, options.images, options.has_result) == ("x.tar", (), False)


@pytest.mark.parametrize("level", LOG_LEVELS)
def test_log_levels(level: str) -> None:
    assert parse("--log-level", level, "image").log_level == level


def test_help_names_every_option() -> None:
    parser = build_parser("1")
    text = parser.format_help()
    for action in parser._actions:
        assert all(option in text for option in action.option_strings)
    for group in ("source:", "layers:", "target:", "what goes in:", "what is shown:"):
        assert f"\n{group}\n" in text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("docker-archve:a.tar", "docker-archve"),
        ("docker-archives:a.tar:app", "docker-archives"),
        ("oci-dir:a", "oci-dir"),
        ("docker-dir:a", "docker-dir"),
        ("tar:a.tar", "tar"),
        ("OCI:a", "OCI"),
    ],
)
def test_word_before_a_target_that_means_no_form(text: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse("-t", text, "image")
    assert str(caught.value) == (
        f"{word}: is none of docker-archive:, oci-archive:, oci:, dir:"
        f" (a file of that name is ./{text})"
    )
    assert parse("-t", f"./{text}", "image").target is not None


def test_target_whose_name_has_a_colon() -> None:
    found = parse("-t", "app:1.tar", "image").target
    assert found is not None and (found.path, found.form) == ("app:1.tar", "tar")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--traget", "; did you mean --target?"),
        ("--src-tls-verify=false", "; did you mean --tls-verify?"),
        ("--nothing-like-it", ""),
        ("-x", ""),
    ],
)
def test_option_that_is_none_of_ours(word: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(word, "image")
    assert str(caught.value) == (
        f"unrecognized arguments: {word}{meant} (dimgx -h shows the options)"
    )


@pytest.mark.parametrize("name", ["app", "x.img", "x.zip", "app:1"])
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_archive_of_an_image_may_be_called_what_you_will(name: str, form: str) -> None:
    target = parse("-t", f"./{name}", "--format", form, "image").target
    assert target is not None
    assert (target.path, target.compression, target.warnings) == (f"./{name}", None, ())
