"""Real engines for tests: a Docker Engine and Podman's service with storage of their own.

Nothing of the machine's own engines is touched: sockets, storage and settings lie in a temporary
directory, and each process is ended by its own id.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.listing import Node, full_listing, read_tar
from tests.programs import OTHER_USER, missing, need, need_root, public_directory, run

_START_S = 60

# What the engine itself puts into every container, on top of the image: mount points for its own
# files and file systems (moby's init layer; the names of Podman's are among them), and the mark by
# which programs know that they are in a container.
ENGINE_OWN = frozenset(
    (
        ".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "etc", "etc/hostname",
        "etc/hosts", "etc/mtab", "etc/resolv.conf", "proc", "run", "run/.containerenv", "sys",
    )
)  # fmt: skip

# Podman 5 raises a step's limits, whether it may or not, unless it is told some.
PODMAN_BUILD = ("--isolation=chroot", "--ulimit=nofile=1024", "--ulimit=nproc=1024")


class Engine:
    """A running engine and the client that speaks to it."""

    def __init__(self, client: Sequence[str], url: str, directory: Path) -> None:
        self._client = tuple(client)
        self.url = url
        self.directory = directory

    def run(self, *words: str | Path, stdin: bytes = b"", ok: bool = True) -> bytes:
        """Run the engine's own client."""
        env = {
            "DOCKER_BUILDKIT": "0",
            "DOCKER_CONFIG": str(self.directory / "client"),
            "DOCKER_HOST": self.url,
            "DOCKER_CONTEXT": "",
        }
        return run([*self._client, *words], stdin=stdin, ok=ok, env=env).stdout

    def ask(self, *words: str | Path) -> list[str]:
        """Give the lines that the client writes."""
        return self.run(*words).decode().splitlines()

    def inspected(self, name: str) -> Any:
        """Give what the engine tells of an image."""
        return json.loads(self.run("image", "inspect", name))[0]

    def docker_api(self) -> int:
        """Give the version of a Docker Engine's API: what follows `1.`."""
        (api,) = self.ask("version", "--format", "{{.Server.APIVersion}}")
        return int(api.removeprefix("1."))

    def build(self, name: str, files: dict[str, bytes], dockerfile: str, *more: str) -> str:
        """Build an image, and give its ID."""
        context = self.directory / f"context-{name.replace('/', '-').replace(':', '-')}"
        for path, data in {**files, "Dockerfile": dockerfile.encode()}.items():
            target = context / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(0o755)
        how = PODMAN_BUILD if "podman" in self._client[0] else ()
        self.run("build", *how, *more, "-t", name, context)
        return self.ask("image", "inspect", "--format", "{{.Id}}", name)[0]

    def exported(self, name: str) -> bytes:
        """Give what a container of the image holds, as a tar."""
        container = self.ask("create", name, "true")[0]
        try:
            return self.run("export", container)
        finally:
            self.run("rm", container)


def _wait(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as tried:
            try:
                tried.connect(str(path))
                return
            except OSError:
                pass
        if process.poll() is not None:
            break
        time.sleep(0.1)
    told = log.read_text(errors="replace").strip().splitlines()[-3:]
    missing(f"{process.args[0]} does not start here: {' | '.join(told)}")  # type: ignore[index]


@contextmanager
def started(
    command: Sequence[str | Path], path: Path, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a program that listens at the socket `path`; what it says goes to `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=out,
            stderr=out,
            env={**os.environ, **(env or {})},
        )
    try:
        _wait(path, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running_docker(
    directory: Path, *options: str, on_containerd: bool = False
) -> Iterator[Engine]:
    """Start a Docker Engine of its own, without a network, on its own store or on containerd's."""
    need_root()
    daemon, client = need("dockerd"), need("docker")
    need("runc")
    path = directory / "docker.sock"
    # Engines that do not know it pass it over.
    settings = directory / "daemon.json"
    settings.write_text(json.dumps({"features": {"containerd-snapshotter": on_containerd}}))
    (directory / "client").mkdir()
    command = [
        daemon, "-H", f"unix://{path}", "--data-root", directory / "root",
        "--exec-root", directory / "exec", "--pidfile", directory / "pid", "--bridge=none",
        "--iptables=false", "--ip6tables=false", "--config-file", settings, *options,
    ]  # fmt: skip
    try:
        with started(command, path, directory / "log"):
            engine = Engine([client], f"unix://{path}", directory)
            if on_containerd:
                status = engine.run("info", "--format", "{{.DriverStatus}}").decode()
                if "io.containerd.snapshotter" not in status:
                    pytest.skip("this Docker Engine has no store of containerd's")
            yield engine
    finally:
        # The daemon mounts its data on themselves and leaves that behind.
        run(["umount", "--lazy", directory / "root"], ok=False)


@contextmanager
def lent(engine: Engine, uid: int = OTHER_USER, gid: int = OTHER_USER) -> Iterator[str]:
    """Give the address of an engine's socket, where any user finds it, as that of `uid`."""
    path = Path(engine.url.removeprefix("unix://"))
    before = path.stat()
    with public_directory() as directory:
        os.link(path, directory / "socket")
        os.chown(path, uid, gid)
        try:
            yield f"unix://{directory}/socket"
        finally:
            os.chown(path, before.st_uid, before.st_gid)


@contextmanager
def fresh_docker(beside: Engine) -> Iterator[Engine]:
    """Start one more Docker Engine, that holds nothing yet."""
    # As short as a socket's path has to be.
    directory = Path(tempfile.mkdtemp(prefix="f", dir=beside.directory))
    with running_docker(directory) as engine:
        yield engine


@contextmanager
def running_podman() -> Iterator[Engine]:
    """Start Podman's service with storage of its own, at a path as short as Podman wants it."""
    need_root()
    program = need("podman")
    directory = Path(tempfile.mkdtemp(prefix="podman-"))
    path = directory / "podman.sock"
    client = [program, "--root", str(directory / "root"), "--runroot", str(directory / "run")]
    service = [*client, "system", "service", "--time=0", f"unix://{path}"]
    try:
        with started(service, path, directory / "log"):
            yield Engine(client, f"unix://{path}", directory)
    finally:
        # Podman mounts its storage on itself and leaves that behind.
        run(["umount", "--lazy", directory / "root" / "overlay"], ok=False)
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def running_containerd() -> Iterator[Engine]:
    """Start a containerd of its own, without what serves Kubernetes."""
    need_root()
    daemon, client = need("containerd"), need("ctr")
    directory = Path(tempfile.mkdtemp(prefix="containerd-"))
    path, settings = directory / "containerd.sock", directory / "config.toml"
    settings.write_text(
        f"""version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{path}"
[ttrpc]
address = "{path}.ttrpc"
"""
    )
    try:
        with started([daemon, "--config", settings], path, directory / "log"):
            yield Engine([client, "--address", str(path)], f"unix://{path}", directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def use_program(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    directory: Path,
    *,
    root: Path | None = None,
    driver: str = "overlay",
    more: str = "",
) -> None:
    """Have the program `podman` use the storage of `engine`, or that in `root`, without a service.

    Its settings are in `directory`.
    """
    place, settings = root or engine.directory, directory / "storage.conf"
    settings.write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{place}/root"\n'
        f'runroot = "{place}/run"\n{more}'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(settings))
    for name in ("CONTAINER_HOST", "DOCKER_HOST", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    if Path("/run/podman/podman.sock").exists():
        missing("a machine without a service of Podman's own is needed")


def busybox() -> bytes:
    """Give a shell and its tools as one program that needs no libraries."""
    data = Path(need("busybox")).read_bytes()
    if b"/ld-linux" in data[:4096]:  # the interpreter that a program with libraries names
        missing("busybox is not linked statically (busybox-static is)")
    return data


def program_with_libraries(name: str) -> dict[str, bytes]:
    """Give a program and all that it needs to run, by path."""
    path = Path(need(name)).resolve()
    files = {f"usr/bin/{name}": path.read_bytes()}
    for line in run(["ldd", path]).stdout.decode().splitlines():
        for word in line.split():
            if word.startswith("/"):
                files[word.lstrip("/")] = Path(word).read_bytes()
    return files


def exported_nodes(tar: bytes) -> Iterator[Node]:
    """Read an engine's export, in whatever order and spelling it is written."""
    kinds = {
        tarfile.REGTYPE: "f", tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.CHRTYPE: "c",
        tarfile.BLKTYPE: "b", tarfile.FIFOTYPE: "p",
    }  # fmt: skip
    nodes: dict[bytes, Node] = {}
    names: dict[bytes, list[bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            path = os.fsencode(member.name).strip(b"/")
            if member.type == tarfile.LNKTYPE:
                first = os.fsencode(member.linkname).strip(b"/")
                names.setdefault(first, [first]).append(path)
                continue
            reader = archive.extractfile(member) if member.isreg() else None
            prefix = "SCHILY.xattr."
            nodes[path] = Node(
                kind=kinds[member.type],
                path=path,
                mode=member.mode & 0o7777,
                uid=member.uid,
                gid=member.gid,
                mtime=int(member.mtime),
                data=reader.read() if reader else b"",
                target=os.fsencode(member.linkname) if member.issym() else b"",
                device=(member.devmajor, member.devminor) if member.isdev() else (0, 0),
                xattrs={
                    os.fsencode(key.removeprefix(prefix)): os.fsencode(value)
                    for key, value in member.pax_headers.items()
                    if key.startswith(prefix)
                },
            )
    for first, group in names.items():
        group.sort(key=lambda path: path.split(b"/"))
        for path in group:
            node = nodes[first]
            nodes[path] = Node(**{**_fields(node), "path": path, "first": group[0]})
    yield from nodes.values()


def _fields(node: Node) -> dict[str, object]:
    return {name: getattr(node, name) for name in Node.__slots__}


def compare_with_export(flat: bytes, exported: bytes) -> None:
    """Compare our flat tar with an engine's export, path by path."""
    ours = lines_of(read_tar(flat))
    theirs = lines_of(exported_nodes(exported))
    assert ours == theirs


def lines_of(nodes: Iterator[Node] | list[Node]) -> list[str]:
    """Give the listing of a tree, without what the engine itself puts there."""
    own = {path.encode() for path in ENGINE_OWN}
    return full_listing(node for node in nodes if node.path not in own).splitlines()
