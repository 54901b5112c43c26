from __future__ import annotations

import pytest

from dimgx.errors import UsageError
from dimgx.imagename import normal_name, repository
from dimgx.reference import Reference, parse_reference

HEX = "ab" * 32
FILES = {"image.tar", "a:b.tgz", "a", "./x", "/tmp/a:b", "a:b", "d:e", "x.tar.zst", "C:\\x.tar"}

CASES = [
    ("docker-archive:image.tar", "docker-archive", "image.tar", None),
    ("docker-archive:image.tar:app:1", "docker-archive", "image.tar", "app:1"),
    ("docker-archive:image.tar:@0", "docker-archive", "image.tar", "@0"),
    (f"oci-archive:a:h:5/x@sha256:{HEX}", "oci-archive", "a", f"h:5/x@sha256:{HEX}"),
    ("oci:a:b:c", "oci", "a:b", "c"),
    ("oci:a:c", "oci", "a", "c"),
    ("oci:gone:c:d", "oci", "gone", "c:d"),
    ("oci:gone", "oci", "gone", None),
    ("oci:C:\\x.tar:ref", "oci", "C:\\x.tar", "ref"),
    ("oci:D:\\x.tar", "oci", "D:\\x.tar", None),
    ("dir:d:e", "dir", "d:e", None),
    ("dir:/tmp/a:b:c", "dir", "/tmp/a:b", "c"),
    ("docker-archive:-", "stdin", None, None),
    ("docker-archive:-:app", "stdin", None, "app"),
    ("-", "stdin", None, None),
    ("-:app:1", "stdin", None, "app:1"),
    ("-:@1", "stdin", None, "@1"),
    ("./x", "path", "./x", None),
    ("./x:app", "path", "./x", "app"),
    ("./gone:app", "path", "./gone", "app"),
    ("../gone", "path", "../gone", None),
    (".", "path", ".", None),
    ("/gone", "path", "/gone", None),
    ("/tmp/a:b", "path", "/tmp/a:b", None),
    ("C:\\gone.tar", "path", "C:\\gone.tar", None),
    ("image.tar", "path", "image.tar", None),
    ("image.tar:app", "path", "image.tar", "app"),
    ("x.tar.zst", "path", "x.tar.zst", None),
    ("a:b.tgz", "path", "a:b.tgz", None),
    ("a:b.tgz:app", "path", "a:b.tgz", "app"),
    ("gone.tar", "path", "gone.tar", None),
    ("gone.tgz:app", "path", "gone.tgz", "app"),
    ("gone.txz", "path", "gone.txz", None),
    ("gone.tbz:@1", "path", "gone.tbz", "@1"),
    ("GONE.TGZ", "path", "GONE.TGZ", None),
    ("a", "docker-daemon", None, "a"),
    ("app:a", "docker-daemon", None, "app:a"),
    ("docker-archve:gone", "docker-daemon", None, "docker-archve:gone"),
    ("d:e", "docker-daemon", None, "d:e"),
    ("app", "docker-daemon", None, "app"),
    ("host:5000/o/n:tag", "docker-daemon", None, "host:5000/o/n:tag"),
    (f"app@sha256:{HEX}", "docker-daemon", None, f"app@sha256:{HEX}"),
    (f"sha256:{HEX}", "docker-daemon", None, f"sha256:{HEX}"),
    ("docker-daemon:app:1", "docker-daemon", None, "app:1"),
    ("docker:dind", "docker-daemon", None, "docker:dind"),
    ("oci/thing:1", "docker-daemon", None, "oci/thing:1"),
    ("dir", "docker-daemon", None, "dir"),
    ("podman", "docker-daemon", None, "podman"),
    ("docker-daemon:app@0123abc", "docker-daemon", None, "app@0123abc"),
    ("docker://debian:12", "docker", None, "debian:12"),
    ("docker://h:5/x", "docker", None, "h:5/x"),
    ("podman:app", "podman", None, "app"),
    ("containerd:quay.io/app:1", "containerd", None, "quay.io/app:1"),
    ("containerd", "docker-daemon", None, "containerd"),
    ("containers-storage:localhost/app:1", "podman", None, "localhost/app:1"),
    ("containers-storage:@0123abc", "podman", None, "0123abc"),
    ("containers-storage:h:5/app@0123abc", "podman", None, "0123abc"),
    ("containers-storage:app@sha256:0123abc", "podman", None, "app@sha256:0123abc"),
    ("containers-storage:[overlay@/x+/y]app:1", "containers-storage", "overlay@/x+/y", "app:1"),
    ("containers-storage:[/x:a.b=c,d]app@0123abc", "containers-storage", "/x:a.b=c,d", "0123abc"),
    ("containers-storage:[/x]", "containers-storage", "/x", None),
]


@pytest.mark.parametrize(("text", "transport", "path", "name"), CASES)
def test_a_reference_is_taken_apart(
    text: str, transport: str, path: str | None, name: str | None
) -> None:
    found = parse_reference(text, exists=FILES.__contains__, is_file=FILES.__contains__)
    assert found == Reference(text, transport, path, name)  # type: ignore[arg-type]
    assert str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "-:",
        "-x",
        "docker-archive:",
        "oci:a:",
        "docker://",
        "docker:///x",
        "docker-daemon:",
        "a b",
        "a\nb",
        "a//b",
        "image.tar:",
        "podman:-x",
        "docker:app:1",
        "app:1:2",
        "podman:app:1:2",
        "containers-storage:[/x",
        "containers-storage:[/x]-x",
        "https://example.com/x",
        "docker-archive:-:",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_reference(text, exists=FILES.__contains__, is_file=FILES.__contains__)
    assert str(raised.value).isprintable()
    assert ("docker://[host" in str(raised.value)) == ("://" in text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("docker-archve:image.tar", "./image.tar"),
        ("oci-dir:a", "./a"),
        ("file:image.tar", "./image.tar"),
        ("tar:/tmp/a:b", "/tmp/a:b"),
        ("tarball:./x", "./x"),
    ],
)
def test_a_word_before_a_path_that_means_no_form(text: str, path: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_reference(text, exists=FILES.__contains__, is_file=FILES.__contains__)
    word = text.partition(":")[0]
    assert str(raised.value) == (
        f"{word}: is none of docker-archive:, oci-archive:, oci:, dir:; the path alone is {path}"
    )


@pytest.mark.parametrize("text", ["https://h/x", "docker://", "docker://https://h/x", "oras://y"])
def test_who_writes_another_url_is_told_how_one_asks_a_registry(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_reference(text)
    assert str(raised.value) == (
        f"{text!r} names no image: one at a registry is written"
        " docker://[host[:port]/]name[:tag][@digest]"
    )


@pytest.mark.parametrize(
    "text",
    [
        "docker://anna:pa55@example.org:5000/owner/app:1",
        "docker://https://anna:pa55@example.org/app",
        "docker://anna:pa55@example.org/app@sha256:" + 64 * "0",
        "https://anna:pa55@example.org/app",
        "anna:pa55@example.org/app",
        "docker-daemon:anna:pa55@example.org/app",
        "podman::pa55@example.org/app",
    ],
)
def test_a_password_that_stands_before_the_host_is_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="--creds USER:PASSWORD") as raised:
        parse_reference(text)
    assert "pa55" not in str(raised.value)


def test_odd_bytes_are_a_path() -> None:
    assert parse_reference("./\udcff\0x").path == "./\udcff\0x"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("x", "docker.io/library/x:latest"),
        ("x:1", "docker.io/library/x:1"),
        ("o/x", "docker.io/o/x:latest"),
        ("docker.io/x", "docker.io/library/x:latest"),
        ("index.docker.io/o/x:2", "docker.io/o/x:2"),
        ("localhost/x", "localhost/x:latest"),
        ("h:5/x", "h:5/x:latest"),
        ("ghcr.io/o/n:t", "ghcr.io/o/n:t"),
        (f"x@sha256:{HEX}", f"docker.io/library/x@sha256:{HEX}"),
        (f"h:5/x:1@sha256:{HEX}", f"h:5/x:1@sha256:{HEX}"),
    ],
)
def test_names_are_completed_as_docker_does(name: str, full: str) -> None:
    assert normal_name(name) == full
    assert normal_name(full) == full


def test_a_repository_has_neither_tag_nor_digest() -> None:
    assert repository("h:5/x:1@sha256:00") == "h:5/x"
    assert repository("x") == "docker.io/library/x"
