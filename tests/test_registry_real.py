"""Images pushed by skopeo to docker-registry, with and without passwords and TLS."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cases import flatten_layers
from tests.dsl import file, layer, whiteout
from tests.programs import dimgx, flat_bytes, need, refused, run
from tests.registries import (
    PASSWORD,
    USER,
    Authority,
    RealRegistry,
    make_authority,
    plain_environment,
    real_registry,
)
from tests.test_streaming import counted, many_layers, needs_fork
from tests.writers import image, oci_layout

BASE = layer(file("etc/base", b"below"), file("etc/old", bytes(300_000)))
TOP = layer(whiteout("etc/old"), file("etc/top", random.Random(7).randbytes(400_000)))
APP = image(BASE, TOP, tags=("app",))
ARM = image(TOP, architecture="arm64", tags=("app",))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("plain")) as registry:
        yield registry


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[RealRegistry]:
    place = tmp_path_factory.mktemp("guarded")
    with real_registry(place, authority=authority, htpasswd=True) as registry:
        oci_layout(place / "app", APP)
        registry.push(f"oci:{place / 'app'}:app", "team/app:1")
        yield registry


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials, and without the settings of this machine."""
    return plain_environment(tmp_path, monkeypatch)


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["oci", "v2s2"])
def test_same_bytes_as_on_disk(
    plain: RealRegistry, tmp_path: Path, compression: str | None, kind: str
) -> None:
    if (compression, kind) == ("zstd", "v2s2"):
        pytest.skip("Docker's schema 2 has no zstd")
    picture = image(BASE, TOP, tags=("app",), compression=compression)
    on_disk = f"oci:{oci_layout(tmp_path / 'x', picture, default=None)}:app"
    reference = plain.push(on_disk, f"same/{kind}-{compression or 'tar'}:1", f"--format={kind}")
    assert flat_bytes(reference) == flat_bytes(on_disk)
    copy = f"oci:{tmp_path / 'copy'}:app"
    run([need("skopeo"), "copy", "--quiet", "--src-tls-verify=false", reference, copy])
    assert flat_bytes(reference) == flat_bytes(copy)


def test_listing_is_of_manifest_and_config(plain: RealRegistry, tmp_path: Path) -> None:
    on_disk = f"oci:{oci_layout(tmp_path / 'x', APP)}:app"
    reference = plain.push(on_disk, "listed/app:1.0")
    listed = json.loads(dimgx("--json", reference).stdout)
    blobs = APP.blobs("gzip")
    assert [row["size"] for row in listed["rows"]] == [len(blobs[1]), len(blobs[0])]
    assert listed["image"]["tags"] == [f"{plain.host}/listed/app:1.0"]
    assert dimgx("-q", reference).stdout == dimgx("-q", on_disk).stdout


def test_platforms_of_an_index(plain: RealRegistry, tmp_path: Path) -> None:
    on_disk = f"oci:{oci_layout(tmp_path / 'x', APP, ARM, nested=True)}"
    reference = plain.push(on_disk, "multi/app:1", "--all")
    for one in (reference, on_disk):
        assert dimgx("--platforms", one).stdout == b"linux/amd64\nlinux/arm64\n"
        assert dimgx("--platforms", "--platform", "arm64", one).returncode == 0
        done = dimgx("--platforms", "--platform", "linux/s390x", one, ok=False)
        assert (done.returncode, done.stdout) == (2, b"linux/amd64\nlinux/arm64\n")
        assert b"no image for linux/s390x" in done.stderr
    arm = ("--platform", "linux/arm64")
    assert flat_bytes(reference, *arm) == flat_bytes(on_disk, *arm)
    assert refused(reference, "--platform", "s390x", "-t", tmp_path / "out")[0] == 2


def test_digest_decides(plain: RealRegistry, tmp_path: Path) -> None:
    for tag, picture in (("one", APP), ("two", image(BASE, tags=("app",)))):
        place = oci_layout(tmp_path / tag, picture)
        plain.push(f"oci:{place}:app", f"pinned:{tag}")
    name = f"docker://{plain.host}/pinned"
    digest = json.loads(dimgx("--json", f"{name}:one").stdout)["image"]["digest"]
    for spelled in (f"{name}@{digest}", f"{name}:two@{digest}", f"{name}:gone@{digest}"):
        assert flat_bytes(spelled) == flat_bytes(f"{name}:one")


def test_missing_tag_names_near_ones(plain: RealRegistry, tmp_path: Path) -> None:
    place = oci_layout(tmp_path / "x", APP)
    for tag in ("12.1", "12.2", "edge"):
        plain.push(f"oci:{place}:app", f"tagged/app:{tag}")
    code, told = refused(f"docker://{plain.host}/tagged/app:12.3")
    assert code == 2 and "12.1" in told and "12.2" in told and "edge" not in told
    code, told = refused(f"docker://{plain.host}/no/such:12.3")
    assert code == 2 and "no/such" in told


def test_layers_that_are_chosen(plain: RealRegistry, tmp_path: Path) -> None:
    on_disk = f"oci:{oci_layout(tmp_path / 'x', APP)}:app"
    reference = plain.push(on_disk, "chosen/app:1")
    for spec in ("@0", "@1", "@0:@1", "@1:@0"):
        assert flat_bytes(reference, "-l", spec) == flat_bytes(on_disk, "-l", spec)


def test_http_is_not_taken_where_tls_is_wanted(plain: RealRegistry) -> None:
    code, told = refused(f"docker://{plain.host}/x", "--tls-verify")
    assert code == 2 and "does not speak TLS" in told and "--tls-verify=false" in told


# -- TLS and passwords ---------------------------------------------------------------------------


def test_certificate_of_an_unknown_authority(guarded: RealRegistry) -> None:
    code, told = refused(f"docker://{guarded.host}/team/app:1")
    assert code == 2 and "cannot be trusted" in told
    assert "--cert-dir" in told and "--tls-verify=false" in told


def test_without_credentials(guarded: RealRegistry, authority: Authority) -> None:
    reference = f"docker://{guarded.host}/team/app:1"
    code, told = refused(reference, "--cert-dir", authority.directory)
    assert code == 2 and "401" in told and "no credentials" in told and "--creds" in told


@pytest.mark.parametrize("trust", ["directory", "bundle", "any", "home"])
def test_ways_to_trust(
    guarded: RealRegistry, authority: Authority, trust: str, home: Path,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    words: list[str | Path] = ["--creds", f"{USER}:{PASSWORD}"]
    if trust == "directory":
        words += ["--cert-dir", authority.directory]
    elif trust == "bundle":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    elif trust == "any":
        words += ["--tls-verify=false"]
    else:
        certificates = home / ".config/containers/certs.d" / guarded.host
        certificates.mkdir(parents=True)
        (certificates / "ca.crt").write_bytes(authority.certificate.read_bytes())
    done = dimgx(*words, "-t", "-", f"docker://{guarded.host}/team/app:1")
    assert done.stderr == b""
    assert done.stdout == flat_bytes(f"oci:{oci_layout(tmp_path / 'x', APP)}:app")


@needs_fork
def test_layers_are_merged_while_they_come_over_tls(
    guarded: RealRegistry, authority: Authority, tmp_path: Path
) -> None:
    layers = many_layers(22)
    oci_layout(tmp_path / "app", image(*layers, tags=("app",)), default="zstd")
    name = guarded.push(f"oci:{tmp_path / 'app'}:app", "team/large:1")
    words = ["--creds", f"{USER}:{PASSWORD}", "--cert-dir", authority.directory, "--threads", "2"]
    target = tmp_path / "flat.tar"
    assert counted(*words, "--platform", "linux/amd64", "-t", target, name)[1:] == (True, "")
    assert target.read_bytes() == flatten_layers(layers)


def test_password_from_stdin(guarded: RealRegistry, authority: Authority) -> None:
    words = ["--cert-dir", authority.directory, "--creds", USER, "--password-stdin", "-q"]
    reference = f"docker://{guarded.host}/team/app:1"
    assert dimgx(*words, reference, stdin=f"{PASSWORD}\n".encode()).stdout
    code, told = refused(reference, *words, stdin=b"wrong-one\n")
    assert code == 2 and f"user '{USER}' from --creds" in told and "wrong-one" not in told
    code, told = refused(reference, "--creds", USER)
    assert code == 1 and "--password-stdin" in told


def test_login_by_skopeo_is_known(
    guarded: RealRegistry, authority: Authority, tmp_path: Path
) -> None:
    place = tmp_path / "auth.json"
    run([need("skopeo"), "login", "--tls-verify=false", "--authfile", place, "-u", USER,
         "-p", PASSWORD, guarded.host])  # fmt: skip
    words = ["--cert-dir", authority.directory, "-q", f"docker://{guarded.host}/team/app:1"]
    assert dimgx("--authfile", place, *words).stdout
    (tmp_path / "run/containers").mkdir(parents=True)
    place.rename(tmp_path / "run/containers/auth.json")
    assert dimgx(*words).stdout
