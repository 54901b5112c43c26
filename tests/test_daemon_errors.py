"""What an engine's troubles come to: one line and the right exit code."""

from __future__ import annotations

import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests import programs, services
from tests.dsl import file, layer
from tests.fakeengine import fake_engine
from tests.services import Engine
from tests.writers import docker_archive, image

EMPTY = {"DOCKER_HOST": "", "DOCKER_CONTEXT": "", "CONTAINER_HOST": "", "DOCKER_TLS_VERIFY": ""}


@pytest.fixture(scope="module")
def docker(docker_engine: Engine) -> Engine:
    files = {"root/bin/busybox": services.busybox()}
    for name in ("app/web:1", "app/web:2", "lone"):
        docker_engine.build(name, files, f"FROM scratch\nCOPY root/ /\nLABEL name={name}\n")
    return docker_engine


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give a home without settings, in an environment that names no engine."""
    for name in (*EMPTY, "DOCKER_CERT_PATH", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def refused(name: str, engine: Engine, *words: str) -> tuple[int, str]:
    return programs.refused(name, "-H", engine.url, *words)


def test_no_such_image(docker: Engine) -> None:
    code, told = refused("app/web:3", docker)
    assert code == 2
    assert "similar: app/web:1, app/web:2" in told or "similar: app/web:2, app/web:1" in told
    assert "docker://app/web:3" in told
    assert "--pull missing" in told


def test_misspelled_name(docker: Engine) -> None:
    assert "similar: lone" in refused("lome", docker)[1]


def test_unlike_names_are_not_called_similar(docker: Engine) -> None:
    assert "similar" not in refused("nginx", docker)[1]


def test_name_of_another_owner(docker: Engine) -> None:
    assert "app/web:1" in refused("other/web", docker)[1]


def test_ambiguous_id_lists_the_candidates(docker: Engine) -> None:
    ids = docker.ask("images", "-a", "-q", "--no-trunc")
    # With more than sixteen images two begin alike.
    for number in range(17 - len(set(ids))):
        docker.build(f"more:{number}", {}, f"FROM lone\nLABEL number={number}\n")
    ids = sorted({line.removeprefix("sha256:") for line in
                  docker.ask("images", "-a", "-q", "--no-trunc")})  # fmt: skip
    first = next(a[0] for a, b in pairwise(ids) if a[0] == b[0])
    code, told = refused(first, docker)
    assert code == 2
    assert "ambiguous" in told
    shown = re.findall("[0-9a-f]{12}", told)
    assert len(shown) >= 2
    assert all(digits.startswith(first) for digits in shown)


def test_unknown_id(docker: Engine) -> None:
    """No registry has IDs, and none is like another."""
    code, told = refused("000000000000", docker)
    assert (code, told.endswith(" has no image '000000000000'\n")) == (2, True)


def test_name_of_a_container(docker: Engine) -> None:
    docker.run("create", "--name", "box", "app/web:1", "true")
    code, told = refused("box", docker)
    docker.run("rm", "box")
    assert code == 2
    assert "is a container" in told
    assert "its image is app/web:1" in told


def test_name_of_a_file_too(
    docker: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thing").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "./thing" in refused("thing", docker)[1]


@pytest.mark.parametrize("prefix", ["", "podman:"])
def test_no_engine_is_here(clean: Path, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    if any(map(os.path.exists, ("/var/run/docker.sock", "/run/podman/podman.sock"))):
        programs.missing("a machine without an engine of its own is needed")
    monkeypatch.setenv("PATH", str(clean))
    (clean / "storage.conf").write_text(f'[storage]\ngraphroot = "{clean}/none"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", f"{clean}/storage.conf")
    code, told = programs.refused(f"{prefix}debian:12")
    assert code == 2
    assert ".sock" in told
    assert "dimgx [options] docker://debian:12" in told


def test_no_docker_is_here_but_podman(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says Docker gets no other engine; who says none is told of the other one."""
    if os.path.exists("/var/run/docker.sock"):
        programs.missing("a machine without an engine of its own is needed")
    path = clean / "podman" / "podman.sock"
    path.parent.mkdir()
    path.touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(clean))
    code, told = programs.refused("debian:12")
    assert (code, "; Podman is here: dimgx [options] podman:debian:12;" in told) == (2, True)
    (clean / "in.tar").write_bytes(docker_archive(image(layer(file("a")))))
    code, told = programs.refused(clean / "in.tar", "--load=docker")
    assert (code, "no Docker Engine is here" in told) == (2, True)


def test_no_engine_is_here_but_a_directory_of_that_name(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.path.exists("/var/run/docker.sock"):
        programs.missing("a machine without an engine of its own is needed")
    (clean / "app").mkdir()
    monkeypatch.chdir(clean)
    code, told = programs.refused("app")
    assert (code, "write ./app" in told) == (2, True)


def test_named_socket_that_is_not_there(clean: Path) -> None:
    code, told = programs.refused("app", "-H", f"unix://{clean}/none.sock")
    assert code == 4
    assert "does not answer" in told


def test_named_host_that_refuses(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free.getsockname()[1]}")
        code, told = programs.refused("app")
    assert code == 4
    assert "DOCKER_HOST" in told


def test_unknown_host(clean: Path) -> None:
    code, told = programs.refused("app", "-H", "tcp://no.such.host.invalid:2375")
    assert (code, "not known" in told) == (2, True)


@pytest.mark.parametrize("url", [
    "tcp://host", "gopher://host:1", "unix://", "tcp://a b:1", "http://*:1", "npipe://x",
])  # fmt: skip
def test_address_that_is_none(clean: Path, url: str) -> None:
    if url == "unix://" and os.path.exists("/var/run/docker.sock"):
        programs.missing("a machine without an engine of its own is needed")
    code, _ = programs.refused("app", "-H", url)
    assert code == (4 if url == "unix://" else 2)


def test_permission_denied(docker: Engine) -> None:
    """The socket belongs to a group, and who is not in it is told so."""
    script = "import dimgx.cli\nsys.exit(dimgx.cli.main(['-H', sys.argv[1], 'lone']))"
    with services.lent(docker, 0, 3) as url:
        done = programs.run_as_other(script, url, ok=False)
    told = done.stderr.decode()
    assert done.returncode == 2, told
    assert "permission denied" in told
    assert "group sys" in told


def test_host_has_no_effect_on_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    for words in (("-H", "unix:///x"), ("--pull", "always")):
        code, told = programs.refused(f"docker-archive:{tmp_path}/a.tar", *words)
        assert (code, "no effect" in told) == (1, True)


def test_pull_fails_where_there_is_no_such_image(docker: Engine) -> None:
    for words in (("--pull", "missing"), ("--pull", "always")):
        code, told = refused("127.0.0.1:9/no/such:1", docker, *words)
        assert code == 4
        assert " cannot pull 127.0.0.1:9/no/such:1: " in told
        assert "connection refused" in told


def _refused_by(
    directory: Path, handler: type[socketserver.BaseRequestHandler]
) -> tuple[str, tuple[int, str]]:
    """Ask who listens at a socket for an image; give the socket, exit code and line."""
    path = str(directory / "s.sock")
    with socketserver.ThreadingUnixStreamServer(path, handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            return path, programs.refused("app:1", "-H", f"unix://{path}")
        finally:
            server.shutdown()
            thread.join()


class _Silent(socketserver.BaseRequestHandler):
    """Hears one request, and hangs up."""

    def handle(self) -> None:
        self.request.recv(1 << 16)


def test_engine_that_hangs_up(tmp_path: Path) -> None:
    path, told = _refused_by(tmp_path, _Silent)
    assert told == (
        4,
        f"dimgx: the engine at unix://{path} (--host) does not answer: the connection was closed"
        " without an answer: is it started?\n",
    )


class _Speaks(socketserver.BaseRequestHandler):
    """Greets as ssh does."""

    def handle(self) -> None:
        self.request.recv(1 << 16)
        self.request.sendall(b"SSH-2.0-x\r\n")


def test_what_is_no_engine(tmp_path: Path) -> None:
    _, (code, told) = _refused_by(tmp_path, _Speaks)
    assert (code, "does not answer: what it says is no HTTP: is it started?" in told) == (4, True)


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (500, 4, "does not tell its version: status 500"),
        (404, 2, "does not tell its version: status 404"),
        (302, 2, "does not tell its version: status 302"),
        ({"ApiVersion": "abc"}, 2, "the version: 'abc' is no version of its API"),
        ({"ApiVersion": "1.4/.."}, 2, "the version: '1.4/..' is no version of its API"),
    ],
)
def test_version_that_is_not_told(answer: Any, code: int, words: str) -> None:
    with fake_engine() as engine:
        engine.answers["/version"] = lambda query: answer
        found, told = programs.refused("app:1", "-H", engine.url)
    assert (found, words in told) == (code, True), told


def test_layers_that_make_no_sense() -> None:
    with fake_engine() as engine:
        engine.add(image(layer(file("a")), tags=("app:1",)), b"", inspect={
            "RootFS": {"Type": "layers", "Layers": ["x"]}})  # fmt: skip
        code, told = programs.refused("app:1", "-H", engine.url)
    assert (code, "the image 'app:1': 'x' is not a digest" in told) == (2, True), told


def test_too_many_files_are_no_trouble_of_the_engine(tmp_path: Path) -> None:
    """Nobody is asked, so it is not for later."""
    path = str(tmp_path / "s.sock")
    script = (
        "import errno, socket, sys\n"
        "connect, seen = socket.socket.connect, []\n"
        "class Socket(socket.socket):\n"
        "    def connect(self, address):\n"
        "        if seen:\n"
        "            raise OSError(errno.EMFILE, 'Too many open files')\n"
        "        seen.append(connect(self, address))\n"
        "socket.socket = Socket\n"
        "from dimgx.cli import main\n"
        f"sys.exit(main(['-H', {path!r}, 'app:1']))"
    )
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=programs.CHECKOUT, capture_output=True, check=False,
            timeout=60,
        )  # fmt: skip
    told = b"dimgx: too many files are open: raise `ulimit -n`\n"
    assert (done.returncode, done.stderr) == (2, told)


class _SpeaksTls(socketserver.BaseRequestHandler):
    """Answers plain HTTP as an engine does that speaks TLS."""

    def handle(self) -> None:
        self.request.recv(1 << 16)
        self.request.sendall(
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
        )


def test_engine_that_speaks_tls(clean: Path) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _SpeaksTls) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"tcp://127.0.0.1:{server.server_address[1]}"
        try:
            told = programs.refused("app:1", "-H", url)
        finally:
            server.shutdown()
            thread.join()
    assert told == (
        2,
        f"dimgx: the engine at {url} speaks TLS only: set DOCKER_TLS_VERIFY=1\n",
    )
