"""Where an engine is looked for: options, the environment, contexts, default sockets; and TLS."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import dimgx
from dimgx.errors import SourceError
from dimgx.sources import endpoint
from dimgx.sources.endpoint import EngineEndpoint, EngineOptions, Tls, find_docker, find_podman
from tests import programs
from tests.dsl import file, layer
from tests.fakeengine import fake_engine
from tests.services import Engine
from tests.writers import docker_archive, image


def write_context(home: Path, name: str, host: str, **more: object) -> Path:
    """Write a context as `docker context create` does, and give the directory of its TLS files."""
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = home / ".docker" / "contexts" / "meta" / key / "meta.json"
    meta.parent.mkdir(parents=True)
    docker = {"Host": host, "SkipTLSVerify": False, **more}
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": docker}}))
    return home / ".docker" / "contexts" / "tls" / key / "docker"


def options(home: Path, **environment: str) -> EngineOptions:
    return EngineOptions.of({"HOME": str(home), **environment})


URLS = [
    ("unix:///x/y.sock", "unix:///x/y.sock"),
    ("/x/y.sock", "unix:///x/y.sock"),
    ("unix://", "unix:///var/run/docker.sock"),
    ("tcp://h:1", "tcp://h:1"),
    ("h:1", "tcp://h:1"),
    ("ssh://me@h", "ssh://me@h"),
    (" tcp://h:1 ", "tcp://h:1"),
    ("tcp://h", "tcp://h:2375"),
    ("h", "tcp://h:2375"),
    ("tcp://", "tcp://localhost:2375"),
    ("tcp://:1", "tcp://localhost:1"),
    ("tcp://[::1]", "tcp://[::1]:2375"),
    ("tcp://me@h/x", "tcp://me@h/x"),
]


@pytest.mark.parametrize(("said", "url"), URLS)
def test_spelling_of_an_address(tmp_path: Path, said: str, url: str) -> None:
    found = find_docker(options(tmp_path, DOCKER_HOST=said))
    assert found is not None
    assert (found.url, found.named_by) == (url, "DOCKER_HOST")


def test_option_comes_before_the_environment(tmp_path: Path) -> None:
    told = {"HOME": str(tmp_path), "DOCKER_HOST": "tcp://a:1", "CONTAINER_HOST": "tcp://b:1"}
    for find in (find_docker, find_podman):
        found = find(EngineOptions.of(told, host="tcp://c:1"))
        assert found is not None
        assert (found.url, found.named_by) == ("tcp://c:1", "--host")
    found = find_podman(EngineOptions.of(told))
    assert found is not None
    assert (found.url, found.named_by) == ("tcp://b:1", "CONTAINER_HOST")


def test_contexts(tmp_path: Path) -> None:
    write_context(tmp_path, "far", "ssh://me@far")
    write_context(tmp_path, "near", "unix:///near.sock")
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "near", "auths": {}}')
    cases: list[tuple[dict[str, str], str]] = [
        ({}, "unix:///near.sock"),
        ({"DOCKER_CONTEXT": "far"}, "ssh://me@far"),
        ({"DOCKER_CONTEXT": "far", "DOCKER_HOST": "tcp://h:1"}, "tcp://h:1"),
        ({"DOCKER_CONFIG": str(tmp_path / ".docker"), "HOME": "/nowhere"}, "unix:///near.sock"),
    ]
    for environment, url in cases:
        found = find_docker(options(tmp_path, **environment))
        assert found is not None
        assert found.url == url


def test_context_default_is_a_default_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "docker_sockets", lambda options: [])
    assert find_docker(options(tmp_path, DOCKER_CONTEXT="default")) is None


@pytest.mark.parametrize("by", ["DOCKER_CONTEXT", "config.json"])
def test_context_that_does_not_exist(tmp_path: Path, by: str) -> None:
    environment = {"DOCKER_CONTEXT": "lost"} if by == "DOCKER_CONTEXT" else {}
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "lost"}')
    with pytest.raises(SourceError, match=r"no Docker context 'lost'.*docker context ls"):
        find_docker(options(tmp_path, **environment))


def test_context_that_is_broken(tmp_path: Path) -> None:
    write_context(tmp_path, "odd", "")
    (meta,) = tmp_path.glob(".docker/contexts/meta/*/meta.json")
    for content in (meta.read_text(), '{"Endpoints":{}}', "{}"):
        meta.write_text(content)
        with pytest.raises(SourceError, match="has no Docker Engine's address"):
            find_docker(options(tmp_path, DOCKER_CONTEXT="odd"))


def test_config_of_docker_that_cannot_be_read(tmp_path: Path) -> None:
    config = tmp_path / ".docker" / "config.json"
    config.parent.mkdir()
    config.write_text("{")
    with pytest.raises(SourceError, match=r"config\.json is not valid JSON.*: mend it, or .* -H"):
        find_docker(options(tmp_path))
    config.write_text("")  # Docker's client takes that for none, too
    assert find_docker(options(tmp_path)) == find_docker(options(tmp_path / "nowhere"))
    assert find_docker(options(tmp_path, DOCKER_CONFIG=str(config))) == find_docker(
        options(tmp_path / "nowhere")
    )
    config.unlink()
    config.mkdir()
    with pytest.raises(SourceError, match=r"config\.json: Is a directory: mend it, or .* -H"):
        find_docker(options(tmp_path))


def listening(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    return server


def test_default_sockets_rootless_ones_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = options(tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "run"))
    known = endpoint.docker_sockets(told)
    assert known == [
        "/var/run/docker.sock",
        f"{tmp_path}/run/docker.sock",
        f"{tmp_path}/.docker/run/docker.sock",
        f"{tmp_path}/.docker/desktop/docker.sock",
    ]
    monkeypatch.setattr(endpoint, "docker_sockets", lambda options: known[1:])
    assert find_docker(told) is None
    with listening(Path(known[2])):
        assert find_docker(told) == EngineEndpoint(f"unix://{known[2]}")
        with listening(Path(known[1])):
            assert find_docker(told) == EngineEndpoint(f"unix://{known[1]}")
        # What nobody listens at any more is passed over.
        assert find_docker(told) == EngineEndpoint(f"unix://{known[2]}")
    # If nobody listens anywhere, the first that is there is told of.
    assert find_docker(told) == EngineEndpoint(f"unix://{known[1]}")


@pytest.mark.parametrize("uid", [0, 1000])
def test_podmans_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """The user's own comes first: root's for root."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    roots, own = "/run/podman/podman.sock", f"{tmp_path}/podman/podman.sock"
    told = options(tmp_path, XDG_RUNTIME_DIR=str(tmp_path))
    assert endpoint.podman_sockets(told) == ([own, roots] if uid else [roots, own])


def test_podmans_own_socket(tmp_path: Path) -> None:
    if os.path.exists("/run/podman/podman.sock"):
        programs.missing("a machine without a service of Podman's own is needed")
    told = options(tmp_path, XDG_RUNTIME_DIR=str(tmp_path))
    assert find_podman(told) is None
    with listening(tmp_path / "podman" / "podman.sock"):
        found = find_podman(told)
    assert found is not None
    assert found.url == f"unix://{tmp_path}/podman/podman.sock"


def test_tls_files(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (certs / name).write_text("")
    whole = Tls(*(str(certs / name) for name in ("ca.pem", "cert.pem", "key.pem")), True)
    told = {"DOCKER_HOST": "tcp://h:1", "DOCKER_CERT_PATH": str(certs)}
    found = find_docker(options(tmp_path, DOCKER_TLS_VERIFY="1", **told))
    assert found is not None
    assert found.tls == whole
    found = find_docker(options(tmp_path, **told))
    assert found is not None and found.tls is not None
    assert not found.tls.is_verified
    named = {"DOCKER_HOST": "tcp://h:1", "DOCKER_CONFIG": str(certs)}
    found = find_docker(options(tmp_path, DOCKER_TLS_VERIFY="1", **named))
    assert found is not None
    assert found.tls == whole
    found = find_docker(options(tmp_path, DOCKER_TLS_VERIFY="", DOCKER_HOST="tcp://h:1"))
    assert found is not None
    assert found.tls is None


def certificates(directory: Path) -> None:
    """Make an authority, and certificates of it for a server and a client."""
    openssl = programs.need("openssl")
    directory.mkdir()

    def make(*words: str | Path) -> None:
        programs.run([openssl, *words])

    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    make("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "2",
         "-keyout", ca_key, "-out", ca)  # fmt: skip
    for name in ("server", "client"):
        key, request = directory / f"{name}.key", directory / f"{name}.csr"
        extensions = directory / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        make("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key,
             "-out", request)  # fmt: skip
        make("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
             "-days", "2", "-extfile", extensions, "-out", directory / f"{name}.crt")  # fmt: skip
    (directory / "client.crt").rename(directory / "cert.pem")
    (directory / "client.key").rename(directory / "key.pem")


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls") / "certs"
    certificates(directory)
    return directory


def server_context(certs: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "server.crt", certs / "server.key")
    context.load_verify_locations(certs / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


APP = image(layer(file("a", b"a")), tags=("app:1",))


def test_tls_with_certificates(certs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certs))
    with fake_engine(tls=server_context(certs)) as engine:
        engine.add(APP, docker_archive(APP))
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        assert programs.flat_bytes("app:1")[:1] == b"a"


def test_tls_of_a_context(certs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with fake_engine(tls=server_context(certs)) as engine:
        engine.add(APP, docker_archive(APP))
        files = write_context(tmp_path, "remote", engine.url)
        files.mkdir(parents=True)
        for name in ("ca.pem", "cert.pem", "key.pem"):
            (files / name).write_bytes((certs / name).read_bytes())
        (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "remote"}')
        assert programs.flat_bytes("app:1")[:1] == b"a"


@pytest.mark.parametrize("said_by", ["environment", "context"])
def test_tls_that_does_not_look_at_the_certificate(
    said_by: str, certs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither is it warned of, nor do authorities that are for others make it an error."""
    for name in ("DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    certificates(tmp_path / "other")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "other" / "ca.pem"))
    with fake_engine(tls=server_context(certs)) as engine:
        engine.add(APP, docker_archive(APP))
        files = write_context(tmp_path, "blind", engine.url, SkipTLSVerify=True)
        files.mkdir(parents=True)
        for name in ("cert.pem", "key.pem"):
            (files / name).write_bytes((certs / name).read_bytes())
        if said_by == "context":
            monkeypatch.delenv("DOCKER_HOST", raising=False)
            monkeypatch.setenv("DOCKER_CONTEXT", "blind")
        else:
            monkeypatch.setenv("DOCKER_HOST", engine.url)
            monkeypatch.setenv("DOCKER_CERT_PATH", str(files))
        done = programs.dimgx("-t", "-", "app:1")
    assert (done.stdout[:1], done.stderr) == (b"a", b"")


def test_tls_of_a_stranger_is_refused(
    certs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificates(tmp_path / "other")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "other"))
    with fake_engine(tls=server_context(certs)) as engine:
        code, told = programs.refused("app:1", "-H", engine.url)
    assert code == 2
    assert "TLS failed" in told
    assert "DOCKER_CERT_PATH" in told


def test_tls_where_there_is_none(certs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certs))
    with fake_engine() as engine:
        code, told = programs.refused("app:1", "-H", engine.url)
    assert (code, "TLS failed" in told, "it is not spoken there" in told) == (2, True, True)


def test_tls_with_an_encrypted_key_asks_for_no_password(
    certs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cert.pem").write_bytes((certs / "cert.pem").read_bytes())
    programs.run([programs.need("openssl"), "rsa", "-aes256", "-passout", "pass:secret", "-in",
                  certs / "key.pem", "-out", tmp_path / "key.pem"])  # fmt: skip
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    code, told = programs.refused("app:1", "-H", "tcp://127.0.0.1:1")
    assert (code, "the key is encrypted: decrypt it first" in told) == (2, True)


def test_key_without_certificate(
    certs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes((certs / "key.pem").read_bytes())
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    code, told = programs.refused("app:1", "-H", "tcp://127.0.0.1:1")
    assert (code, "key.pem" in told) == (2, True)


@pytest.mark.parametrize("use", [dimgx.open_image, dimgx.list_platforms])
def test_pull_is_one_of_its_words(use: Callable[..., object]) -> None:
    with pytest.raises(dimgx.UsageError, match="pull is 'allways', but has to be one of never, m"):
        use("app:1", engine=EngineOptions.of({}, pull="allways"))  # type: ignore[arg-type]


def test_ssh_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(SourceError, match=r"pip install 'dimgx\[ssh\]'"):
        dimgx.open_image("app:1", engine=EngineOptions(host="ssh://me@127.0.0.1:1"))


def test_ssh_that_does_not_come_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if find_spec("paramiko") is None:
        programs.missing("the package for ssh is not here: pip install '.[ssh]'")
    program = tmp_path / "ssh"
    program.write_text("#!/bin/sh\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = programs.dimgx("-H", "ssh://me@far", "app:1", ok=False)
    assert done.returncode == 4
    # The docker package leaves its process to the collector, which may be told of further down.
    told = done.stderr.decode().splitlines()[0]
    assert told.endswith(": try `ssh ssh://me@far docker version`")


def test_ssh(docker_engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The engine is reached through the program `ssh`, here one that goes nowhere."""
    if find_spec("paramiko") is None:
        programs.missing("the package for ssh is not here: pip install '.[ssh]'")
    docker_engine.build("by/ssh", {"root/a": b"a"}, "FROM scratch\nCOPY root/ /\n")
    program = tmp_path / "ssh"
    program.write_text(
        '#!/bin/sh\nfor word; do last="$last $word"; done\n'
        f'echo "$last" >>{tmp_path}/log\n'
        f"exec {programs.need('docker')} -H {docker_engine.url} system dial-stdio\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin:/usr/sbin")
    assert programs.flat_bytes("by/ssh", "-H", "ssh://me@far")[:1] == b"a"
    # No port is named, so the user's ssh config may.
    said = set((tmp_path / "log").read_text().splitlines())
    assert said == {" -l me -- far docker system dial-stdio"}
