"""Names of images at registries, by the tables of the distribution project's own tests."""

from __future__ import annotations

import pytest

from dimgx.errors import UsageError
from dimgx.imagename import parse_image_name

F64, F128 = "f" * 64, "f" * 128
D = "sha256:86e0e091d0da6bde2456dbb48306f3956bbeb2eae1b5b9a43045843f69fe4aaa"

GOOD = [
    # what is written, domain, path, tag, digest
    ("debian", "docker.io", "library/debian", "latest", None),
    ("library/debian", "docker.io", "library/debian", "latest", None),
    ("docker.io/debian", "docker.io", "library/debian", "latest", None),
    ("docker.io/library/debian", "docker.io", "library/debian", "latest", None),
    ("docker.io/library/foo/bar", "docker.io", "library/foo/bar", "latest", None),
    ("index.docker.io/debian", "docker.io", "library/debian", "latest", None),
    ("index.docker.io/docker/docker", "docker.io", "docker/docker", "latest", None),
    ("docker/migrator", "docker.io", "docker/migrator", "latest", None),
    ("store/foo/bar", "docker.io", "store/foo/bar", "latest", None),
    ("ghcr.io/o/n:tag", "ghcr.io", "o/n", "tag", None),
    ("localhost/n", "localhost", "n", "latest", None),
    ("host:65535/n", "host:65535", "n", "latest", None),
    ("localhost:5000/n:1", "localhost:5000", "n", "1", None),
    ("host:5000/n@sha256:" + F64, "host:5000", "n", None, "sha256:" + F64),
    (f"busybox:latest@{D}", "docker.io", "library/busybox", "latest", D),
    ("test_com", "docker.io", "library/test_com", "latest", None),
    ("test_com/foo", "docker.io", "test_com/foo", "latest", None),
    ("test.com:tag", "docker.io", "library/test.com", "tag", None),
    ("test.com:5000", "docker.io", "library/test.com", "5000", None),
    ("test.com/repo:tag", "test.com", "repo", "tag", None),
    ("test:5000/repo:tag", "test:5000", "repo", "tag", None),
    ("test:5000/repo:tag@sha256:" + F64, "test:5000", "repo", "tag", "sha256:" + F64),
    ("lowercase:Uppercase", "docker.io", "library/lowercase", "Uppercase", None),
    ("Docker/docker", "Docker", "docker", "latest", None),
    ("FOO/bar", "FOO", "bar", "latest", None),
    ("a/" * 127 + "a:tag", "docker.io", "a/" * 127 + "a", "tag", None),
    ("sub-dom1.foo.com/bar/baz/quux:some-long-tag", "sub-dom1.foo.com", "bar/baz/quux",
     "some-long-tag", None),
    ("b.gcr.io/test.example.com/my-app:test.example.com", "b.gcr.io",
     "test.example.com/my-app", "test.example.com", None),
    ("xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com", "myimage", "xn--n3h.com", None),
    (f"xn--7o8h.com/myimage:xn--7o8h.com@sha512:{F128}", "xn--7o8h.com", "myimage",
     "xn--7o8h.com", f"sha512:{F128}"),
    ("foo/foo_bar.com:8080", "docker.io", "foo/foo_bar.com", "8080", None),
    ("192.168.1.1", "docker.io", "library/192.168.1.1", "latest", None),
    ("192.168.1.1/repo", "192.168.1.1", "repo", "latest", None),
    ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000", "repo", "5050", None),
    ("127.0.0.1:5000/library/debian", "127.0.0.1:5000", "library/debian", "latest", None),
    ("[2001:db8::1]/repo", "[2001:db8::1]", "repo", "latest", None),
    ("[2001:db8::1]:5000/repo:tag@sha256:" + F64, "[2001:db8::1]:5000", "repo", "tag",
     "sha256:" + F64),
    ("[::1]:5000/repo", "[::1]:5000", "repo", "latest", None),
    ("[fc00:1:2:3:4:5:6:7]:5000/library/debian", "[fc00:1:2:3:4:5:6:7]:5000", "library/debian",
     "latest", None),
    ("docker.io/" + "1a3f5e7d" * 8, "docker.io", "library/" + "1a3f5e7d" * 8, "latest", None),
    ("docker---rules/docker", "docker.io", "docker---rules/docker", "latest", None),
    ("dock__er/docker", "docker.io", "dock__er/docker", "latest", None),
    ("d/docker", "docker.io", "d/docker", "latest", None),
    ("n:" + "t" * 128, "docker.io", "library/n", "t" * 128, None),
]  # fmt: skip
BAD = [
    "", ":justtag", f"@sha256:{F64}", "repo@sha256:" + "f" * 34, f"name@invaliddigest:{F64}",
    "Uppercase:tag", "test:5000/Uppercase/lowercase:tag", "a/" * 128 + "a:tag",
    "aa/asdf$$^/aa", "[2001:db8::1]", "[2001:db8::1]:5000", "[2001:db8::1]:tag",
    "[1::2::3]:5000/repo", "[12345::]/repo", "[1:2]/repo",
    "[fe80::1%eth0]:5000/repo", "[fe80::1%@invalidzone]:5000/repo",
    "https://github.com/docker/docker", "docker/Docker", "-docker", "-docker/docker",
    "-docker.io/docker/docker", "docker///docker", "docker.io/docker/Docker",
    "docker.io/docker///docker", "fc00::1:5000/debian", "[2001:db8:3:4::192.0.2.33]:5000/debian",
    "1a3f5e7d" * 8, "docker-/docker", "-docker-/docker", "____/____", "_docker/_docker",
    "dock..er/docker", "dock_.er/docker", "dock-.er/docker", "docker/", "n:", "n:-foo", "n@foo",
    "n:" + "t" * 129, "this_is_not_a_valid_namespace_because_it_is_too_long" * 5 + "/docker",
    "host:65536/n",
    "host:port/n", "n:a:b", "n\n", "n:tag\n", f"n@sha256:{F64}\n", "n@", "host/..", "host.x/a/../b",
]  # fmt: skip


@pytest.mark.parametrize(("text", "domain", "path", "tag", "digest"), GOOD)
def test_good_names(
    text: str, domain: str, path: str, tag: str | None, digest: str | None
) -> None:
    name = parse_image_name(text)
    assert (name.domain, name.path, name.tag) == (domain, path, tag)
    assert (str(name.digest) if name.digest else None) == digest
    assert name.wanted == (digest or tag)
    assert parse_image_name(str(name)) == name


@pytest.mark.parametrize("text", BAD)
def test_bad_names(text: str) -> None:
    with pytest.raises(UsageError):
        parse_image_name(text)


def test_a_name_with_capitals_is_told_of_them() -> None:
    with pytest.raises(UsageError, match="'docker/Docker': names are in lower case"):
        parse_image_name("docker/Docker")


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("debian", "debian:latest"),
        ("index.docker.io/library/foo:1", "foo:1"),
        ("docker.io/library/foo/bar", "library/foo/bar:latest"),
        ("fooo/bar", "fooo/bar:latest"),
        ("127.0.0.1:8000/private/moonbase:2", "127.0.0.1:8000/private/moonbase:2"),
        (f"debian@{D}", "debian"),
    ],
)
def test_familiar_names(text: str, familiar: str) -> None:
    assert parse_image_name(text).familiar == familiar
