"""Targets with fields: what they may hold, and what the images give for them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from dimgx.console.targetname import is_template
from dimgx.console.template import (
    check_template,
    expand,
    expand_all,
    make_parents,
    values_of,
)
from dimgx.digest import Digest
from dimgx.errors import ImageError, SourceError, UsageError
from dimgx.image import Image
from dimgx.platforms import parse_platform

ID = "sha256:" + "c0ffee" * 10 + "0123"
DIGEST = Digest.parse("sha256:" + "ab" * 32)


def an_image(reference: str = "example.com:5000/team/app:1.0", *tags: str, **more: object) -> Image:
    values: dict[str, object] = {"id": ID, "platform": parse_platform("linux/arm/v7")} | more
    return Image(reference, (), tags=tags, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["{name}.tar", "a}", "a{{b}}.tar", "{"])
def test_braces_make_a_template(target: str) -> None:
    assert is_template(target)


def test_other_targets_are_none() -> None:
    assert not is_template("a$(name)[tag]%n.tar")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{name}-{tag}.tar.zst", "example.com-5000-team-app-1.0.tar.zst"),
        ("out/{platform}/{index}.tar", "out/linux-arm-v7/3.tar"),
        ("{digest}", "sha256-" + "ab" * 32),
        ("{short}.tar", "abababababab.tar"),
        ("{{{name}}}.tar", "{example.com-5000-team-app}.tar"),
        ("{{name}}.tar", "{name}.tar"),
    ],
)
def test_expansion(template: str, expected: str) -> None:
    image = an_image("docker://example.com:5000/team/app:1.0", digest=DIGEST)
    check_template(template)
    assert expand(template, values_of(image, 3)) == expected


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("{nam}.tar", "no field {nam}: there are name, tag, digest, short, platform, index"),
        ("{}.tar", "no field {}"),
        ("{name!r}.tar", "no field {name!r}"),
        ("{name.x}.tar", "no field {name.x}"),
        ("{name:>9}.tar", "no field {name:>9}"),
        ("{name.tar", "a single {"),
        ("name}.tar", "a single }"),
        ("{name}}.tar", "a single }"),
        ("{{name}.tar", "a single }"),
    ],
)
def test_malformed(target: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_template(target)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "tags", "expected"),
    [
        ("debian", ("debian:latest",), ("debian", "latest")),
        ("docker://debian", (), ("debian", "latest")),
        ("docker://debian:12", (), ("debian", "12")),
        ("docker://docker.io/library/debian:12", (), ("debian", "12")),
        ("podman:localhost/app:2", ("localhost/app:2",), ("localhost/app", "2")),
        ("podman:app:2", ("localhost/app:2",), ("app", "2")),
        # By the name that was asked for, where there are several.
        ("docker-daemon:b:2", ("a:1", "b:2"), ("b", "2")),
        ("docker-archive:/no/such.tar:b:2", ("a:1", "b:2"), ("b", "2")),
        # Asked for without a name: by its own first.
        ("docker-archive:/no/such.tar", ("a:1", "b:2"), ("a", "1")),
        ("docker-archive:/no/such.tar:@1", ("a:1",), ("a", "1")),
        ("./image.tar", ("docker.io/library/a:1",), ("a", "1")),
        ("-", ("a:1",), ("a", "1")),
        ("docker-daemon:c0ffee", ("a:1",), ("a", "1")),
        ("docker-daemon:" + ID, ("a:1",), ("a", "1")),
        # A name that looks like an ID and is a name.
        ("docker://c0ffee", (), ("c0ffee", "latest")),
        ("docker-daemon:c0ffee", ("a:1", "c0ffee:latest"), ("c0ffee", "latest")),
        (f"docker://app@{DIGEST}", (), ("app", None)),
        # In an OCI layout a word alone is a tag.
        ("oci:/no/such:1.0", ("1.0",), (None, "1.0")),
        ("oci:/no/such", ("V1", "v2"), (None, "V1")),
        ("oci:/no/such:2", ("h/a:1", "1", "docker.io/library/b:2", "2"), ("b", "2")),
        ("oci:/no/such:b", ("a:1", "1", "b:latest", "latest"), ("b", "latest")),
        ("oci:/no/such", ("a__b",), (None, None)),
        ("oci:/no/such", ("h/A:1",), (None, None)),
        # As containerd calls what it has by a digest.
        (f"oci-archive:/no/such.tar:h/app@{DIGEST}", ("a:1", f"h/app@{DIGEST}"), ("h/app", None)),
        ("oci-archive:/no/such.tar", (f"docker.io/library/app@{DIGEST}",), ("app", None)),
        ("docker-archive:/no/such.tar", (), (None, None)),
        # What archives hold may be no names at all.
        ("docker-archive:/no/such.tar", ("../../etc/passwd",), (None, None)),
        ("docker-archive:/no/such.tar", ("UPPER:1", "b:2"), ("b", "2")),
    ],
)
def test_name_and_tag(
    reference: str, tags: tuple[str, ...], expected: tuple[str | None, str | None]
) -> None:
    values = values_of(an_image(reference, *tags), 0)
    assert (values["name"], values["tag"]) == expected


def test_digest_is_the_image_id_where_no_manifest_has_one() -> None:
    assert values_of(an_image(), 0)["digest"] == ID
    assert values_of(an_image(id="c0" * 32), 0)["short"] == "c0" * 6


@pytest.mark.parametrize("field", ["name", "tag", "platform"])
def test_what_an_image_lacks_is_an_error(field: str) -> None:
    image = an_image("./image.tar", platform=None)
    with pytest.raises(ImageError, match=f"the image has no {field} .*{{index}}"):
        expand(f"{{{field}}}.tar", values_of(image, 0))


@pytest.mark.parametrize("value", ["", ".", "..", "/", "../x", "-", "a b", "a\nb", "\x1b[31m", "é"])
def test_a_value_that_could_lead_elsewhere_is_refused(value: str) -> None:
    with pytest.raises(ImageError, match="cannot be part of a file's name"):
        expand("{platform}", {"platform": value})


def test_two_images_with_one_target_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    values: list[dict[str, str | None]] = [{"tag": "real"}, {"tag": "other"}, {"tag": "link"}]
    with pytest.raises(UsageError, match=r"the ones numbered 0 and 2 .*\{index\}"):
        expand_all(f"{tmp_path}/{{tag}}/out.tar", values)
    with pytest.raises(UsageError, match="two images have the target same"):
        expand_all("same.tar", values)
    assert expand_all("{tag}.tar", values) == ("real.tar", "other.tar", "link.tar")


def test_parents_are_made_and_stay_where_something_is_in_them(tmp_path: Path) -> None:
    with ExitStack() as stack:
        make_parents(str(tmp_path / "a" / "b" / "x.tar"), stack)
        (tmp_path / "a" / "b" / "x.tar").write_bytes(b"")
    assert (tmp_path / "a" / "b" / "x.tar").exists()


def test_parents_go_again_where_nothing_was_written(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with ExitStack() as stack:
        make_parents(str(tmp_path / "a" / "b" / "c" / "x.tar"), stack)
        assert (tmp_path / "a" / "b" / "c").is_dir()
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_a_parent_that_is_a_file_is_left_to_the_target(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with ExitStack() as stack, pytest.raises(SourceError, match="b cannot be made"):
        make_parents(str(tmp_path / "a" / "b" / "x.tar"), stack)
    assert (tmp_path / "a").is_file()
