"""What the command line makes of registries: options, exit codes, what is told and what never."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import signal
import sys
import tarfile
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimgx.console.access import registry_options
from dimgx.console.options import parse_args
from dimgx.errors import UsageError
from dimgx.registryoptions import RegistryOptions
from tests.dsl import file, layer
from tests.programs import dimgx, refused, run
from tests.registries import (
    PASSWORD,
    USER,
    FaultyRegistry,
    Handler,
    Holds,
    fails,
    faulty_registry,
    interrupt,
    plain_environment,
    wants_password,
    wants_token,
)
from tests.writers import docker_archive, image, oci_layout

APP = image(layer(file("a", b"a")), tags=("app",))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return plain_environment(tmp_path, monkeypatch)


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with faulty_registry() as registry:
        registry.add(APP)
        yield registry


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--creds", "u:p", "x.tar"], "--creds has no effect"),
        (["--tls-verify=false", "oci:x"], "--tls-verify has no effect"),
        (["--cache-dir", "x", "-"], "--cache-dir has no effect"),
        (["--password-stdin", "docker://x"], "--creds USER"),
        (["--password-stdin", "--creds", "u:p", "docker://x"], "--creds USER"),
        (["--creds", "u", "--authfile", "f", "docker://x"], "exclude each other"),
        (["--creds", "u", "--password-stdin", "-t", "{index}.tar", "docker://x", "-"], "read once"),
        (
            ["--creds", "u:p", "-t", "{index}.tar", "docker://x", "docker://a.b/c", "docker://y"],
            "--creds is for one registry, and the images are of docker.io and a.b:",
        ),
        (["--retry-time", "soon", "docker://x"], "seconds"),
        (["--retry-time", "-1", "docker://x"], ""),
        (["--tls-verify=maybe", "docker://x"], ""),
        (["--tls-verify", "false", "docker://x"], "--tls-verify=false"),
        (["--platforms", "-t", "out.tar", "docker://x"], "--platforms"),
        (["--platforms", "-l", "@0", "docker://x"], "--platforms"),
        (["--platforms", "--json", "docker://x"], "--platforms"),
        (["--platforms", "-q", "x.tar"], "--platforms"),
    ],
)
def test_options_that_make_no_sense(words: list[str], problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_args(words, "1")
    assert problem in str(raised.value)


def test_tls_verify_never_takes_the_image() -> None:
    for words, value in (
        (["docker://x"], None),
        (["--tls-verify", "docker://x"], True),
        (["--tls-verify=true", "docker://x"], True),
        (["docker://x", "--tls-verify=false"], False),
    ):
        parsed = parse_args(words, "1")
        assert (parsed.images, parsed.tls_verify) == (("docker://x",), value)


def test_options_do_not_show_the_password() -> None:
    assert PASSWORD not in repr(parse_args(["--creds", f"u:{PASSWORD}", "docker://x"], "1"))


def test_options_come_before_the_environment(tmp_path: Path) -> None:
    (tmp_path / "auth.json").touch()
    said = {"authfile": f"{tmp_path}/auth.json", "cache-dir": f"{tmp_path}/a/cache",
            "cert-dir": "certs", "retry-time": "1.5", "cache-size": "1k"}  # fmt: skip
    words = [f"--{name}={value}" for name, value in said.items()]
    environ = {"DIMGX_CACHE_DIR": f"{tmp_path}/other", "REGISTRY_AUTH_FILE": "/other"}
    found = registry_options(parse_args([*words, "--tls-verify=false", "docker://x"], "1"), environ)
    assert found.auth_files == (said["authfile"],)
    assert (found.cache_dir, found.cache_size) == (said["cache-dir"], 1024)
    assert (found.cert_dir, found.retry_time_s, found.tls_verify) == ("certs", 1.5, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "auth.json"]
    nothing = parse_args(["docker://x"], "1")
    assert registry_options(nothing, {"HOME": "/h"}) == RegistryOptions.from_environment(
        {"HOME": "/h"}
    )


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--creds", ":p"], "names no user"),
        (["--creds", "u", "--password-stdin"], "standard input holds no password"),
        (["--creds", "u"], "no terminal to ask at"),
        (["--authfile", "none.json"], "--authfile none.json: No such file or directory"),
        (["--cache-dir", "file/cache"], "--cache-dir file/cache: Not a directory"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_asked(
    words: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert problem in refused("docker://127.0.0.1:1/x", *words, stdin=b"\n")[1]


@pytest.mark.parametrize("buffering", [-1, 0])
def test_password_that_comes_in_pieces(monkeypatch: pytest.MonkeyPatch, buffering: int) -> None:
    """Without a buffer is how PYTHONUNBUFFERED opens standard input."""
    reader, writer = os.pipe()

    def send() -> None:
        os.write(writer, b"pass")
        while fcntl.ioctl(reader, termios.FIONREAD, bytes(4)) != bytes(4):
            os.sched_yield()
        os.write(writer, b"word\n")
        os.close(writer)

    sender = threading.Thread(target=send, daemon=True)
    with open(reader, "rb", buffering=buffering) as stdin:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stdin))
        sender.start()
        options = parse_args(["--creds", "u", "--password-stdin", "docker://x"], "1")
        found = registry_options(options, {}).credentials
        sender.join()
    assert found is not None
    assert found.password == "password"


def test_exit_codes(faulty: FaultyRegistry) -> None:
    faulty.rules.append(fails(429, times=9, Retry_After="60"))
    code, told = refused(faulty.reference())
    assert code == 4 and "come back in 60 s" in told
    faulty.rules[:] = [fails(502, times=99)]
    assert refused(faulty.reference(), "--retry-time", "0.2")[0] == 4
    faulty.rules.clear()
    assert refused(faulty.reference("none"))[0] == 2
    assert refused("docker://127.0.0.1:1/x")[0] == 4
    assert refused("docker://no-such-host.invalid/x", "--retry-time", "0")[0] in (2, 4)
    assert refused("docker://x/Y")[0] == 1


def test_images_of_other_kinds_beside_one_of_a_registry(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    faulty.rules.append(wants_password)
    (tmp_path / "b.tar").write_bytes(docker_archive(image(layer(file("b")), tags=("b:1",))))
    words = ["--creds", f"{USER}:{PASSWORD}", "--tls-verify=false", "--platform", "linux/amd64"]
    target = tmp_path / "all.tar"
    dimgx(*words, "-t", f"docker-archive:{target}", faulty.reference(), tmp_path / "b.tar")
    with tarfile.open(target) as archive:
        listed = archive.extractfile("manifest.json")
        assert listed is not None
        names = [one["RepoTags"] for one in json.load(listed)]
    assert names == [[f"{faulty.host}/app:1"], ["b:1"]]


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_no_secret_is_ever_told(faulty: FaultyRegistry, level: str) -> None:
    def check(handler: Handler) -> bool:
        return handler.headers["Authorization"].startswith("Basic ")

    faulty.rules.append(wants_token(faulty, check=check))
    for _ in range(2):
        done = dimgx("--creds", f"{USER}:{PASSWORD}", "--log-level", level, "-t", "-",
                     "--platform", "linux/amd64", faulty.reference(), ok=False)  # fmt: skip
        assert PASSWORD.encode() not in done.stderr and b"of-the-test" not in done.stderr
        faulty.rules[:] = [fails(403, times=99)]


@pytest.mark.parametrize("words", [("--log-format", "%(message)s"), ("--log-level", "DEBUG")])
def test_signature_of_a_url_is_not_told_with_an_odd_header(
    faulty: FaultyRegistry, words: tuple[str, str]
) -> None:
    def odd(handler: Handler) -> bool:
        path, _, signature = handler.path.partition("?")
        if "/blobs/" not in path:
            return False
        if not signature:
            handler.send(307, Location=f"{path}?X-Signature=of-the-test")
            return True
        data = faulty.blobs[path.rpartition(":")[2]]
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nno colon here\r\n\r\n"
        handler.wfile.write(head.encode() + data)
        return True

    faulty.rules.append(odd)
    done = dimgx(*words, "-t", "-", "--platform", "linux/amd64", faulty.reference())
    assert b"of-the-test" not in done.stderr and b"Traceback" not in done.stderr


def test_authfile_that_is_not_there(faulty: FaultyRegistry, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, reason in (("none", "No such file or directory"), ("file/a", "Not a directory")):
        code, told = refused(faulty.reference(), "--authfile", tmp_path / name)
        assert (code, told.strip()) == (2, f"dimgx: --authfile {tmp_path / name}: {reason}")


def test_settings_that_are_named_and_not_there(
    faulty: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Podman, too, does not go on without what blocks registries and names their mirrors."""
    (tmp_path / "file").touch()
    for name, reason in (("none", "No such file or directory"), ("file/a", "Not a directory")):
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / name))
        code, told = refused(faulty.reference())
        problem = f"CONTAINERS_REGISTRIES_CONF {tmp_path / name}: {reason}"
        assert (code, told.strip()) == (2, f"dimgx: {problem}")
    assert faulty.paths() == []
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", os.devnull)
    assert dimgx("-q", "--platform", "linux/amd64", faulty.reference()).stdout


def test_too_many_files_are_no_trouble_of_the_registry() -> None:
    """It is no better later, so nothing is tried again."""
    script = (
        "import errno, socket, sys\n"
        "class Socket(socket.socket):\n"
        "    def connect(self, address):\n"
        "        raise OSError(errno.EMFILE, 'Too many open files')\n"
        "socket.socket = Socket\n"
        "from dimgx.cli import main\n"
        "sys.exit(main(['docker://127.0.0.1:1/app']))"
    )
    done = run([sys.executable, "-c", script], ok=False, timeout_s=20)
    told = b"dimgx: too many files are open: raise `ulimit -n`\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_help_names_it_first() -> None:
    text = dimgx("--help").stdout.decode()
    assert re.search(r"IMAGE\s+docker://", text)


def test_help_keeps_words_before_paths_whole() -> None:
    text = dimgx("--help").stdout.decode()
    words = set(text.replace(",", " ").split())
    assert {"docker-archive:PATH[:REF]", "oci-archive:PATH[:REF]"} <= words
    assert {"docker-archive:PATH[:NAME]", "oci-archive:PATH[:NAME]"} <= words


def test_platforms_of_one_image(faulty: FaultyRegistry, tmp_path: Path) -> None:
    on_disk = f"oci:{oci_layout(tmp_path / 'x', APP)}"
    for reference in (faulty.reference(), on_disk):
        assert dimgx("--platforms", reference).stdout == b"linux/amd64\n"
        assert dimgx("--platforms", "--platform", "amd64", reference).returncode == 0
        assert dimgx("--platforms", "--platform", "arm64", reference, ok=False).returncode == 2


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
@pytest.mark.parametrize("is_begun", [True, False])
def test_interrupt_does_not_wait_for_the_network(
    faulty: FaultyRegistry, tmp_path: Path, part: str, is_begun: bool
) -> None:
    held = Holds(part, b"x" if is_begun else None)
    faulty.rules.append(lambda handler: APP.id() not in handler.path and held(handler))
    target = tmp_path / "out.tar"
    assert interrupt(held, "-t", target, faulty.reference()) == -signal.SIGINT
    assert not held.overdue.is_set()
    assert not target.exists()
    held.released.set()
