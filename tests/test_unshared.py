"""Real rootless engines, whose stores have files that their user may not read but in a namespace.

The user exists in a mount namespace only, where passwd and subuid are files of the test, and so
does a Python that any user may reach.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import programs, services
from tests.dsl import dir_, file, hardlink, layer, opaque, whiteout
from tests.programs import CHECKOUT, need
from tests.writers import docker_archive, image

UID = 45_001
IDS = 1_300_000
"""The first of the user's subordinate IDs."""
IMAGE = image(
    layer(
        dir_("etc"),
        file("etc/shadow", b"below", mode=0o640, gid=42),
        file("etc/passwd", b"open"),
        dir_("lists", mode=0o700, uid=100),
        file("lists/part", b"p" * 700_000, uid=100),
        hardlink("lists/same", "lists/part"),
        file("lists/gone", b"x", uid=100),
    ),
    layer(file("open", b"all of this layer")),
    layer(
        file("etc/shadow", b"above", mode=0o600, uid=12, gid=42),
        file("key", b"k" * 3000, mode=0o400, uid=33, gid=33),
        whiteout("lists/gone"),
    ),
    layer(dir_("srv", mode=0o1777, uid=7), opaque("srv")),
    tags=("closed:1",),
)
SAVED = docker_archive(IMAGE)

_ENTER = r"""
set -eu
for name in passwd group subuid subgid; do mount --bind "$PLACE/$name" "/etc/$name"; done
mount --bind "$BASE" "$PLACE/base"
mount --bind "$SITE" "$PLACE/site"
cd "$PLACE/home"
exec setpriv --reuid="$USER_ID" --regid="$USER_ID" --clear-groups \
    env -i "HOME=$PLACE/home" "XDG_RUNTIME_DIR=$PLACE/run" LC_ALL=C.UTF-8 \
    "PATH=$PLACE/bin:/usr/bin:/bin:/usr/sbin" "LD_LIBRARY_PATH=$PLACE/base/lib" \
    "PYTHONPATH=$PLACE/source:$PLACE/site" PYTHONDONTWRITEBYTECODE=1 "$@"
"""
_KINDS = """
import dimgx, sys
reference, url = sys.argv[1:]
with dimgx.open_image(reference, engine=dimgx.EngineOptions(host=url or None)) as image:
    print(*(type(layer.blob).__name__ for layer in image.fetch(image.layers, None)))
"""
KINDS = ["UnsharedTar", "SplitTar", "UnsharedTar", "SplitTar"]
_AS_USER = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh")


class Rootless:
    """A user with subordinate IDs, who has Podman and dimgx."""

    def __init__(self, place: Path) -> None:
        self.place = place
        base = Path(sys.base_prefix)
        python = Path(os.path.realpath(sys.executable)).relative_to(base.resolve())
        self.dimgx = f"{place}/base/{python} -m dimgx"
        self.store = place / "home" / "store"
        self._env = {
            "PLACE": str(place),
            "BASE": str(base),
            "SITE": sysconfig.get_path("purelib"),
            "USER_ID": str(UID),
        }

    def run(self, *words: str | Path, stdin: bytes = b"") -> tuple[int, bytes, str]:
        """Run a command as the user; give its exit code, and what it wrote to stdout and stderr."""
        done = programs.run([*_AS_USER, *words], stdin=stdin, ok=False, env=self._env)
        return done.returncode, done.stdout, done.stderr.decode()

    @contextmanager
    def serving(self, *words: str | Path) -> Iterator[str]:
        """Have a command of the user listen at a socket, and give its address."""
        path = self.place / "home" / "socket"
        with services.started(
            [*_AS_USER, *words, f"unix://{path}"], path, self.place / "log", env=self._env
        ):
            yield f"unix://{path}"

    def kinds(self, reference: str, url: str | None = None) -> list[str]:
        """Give what the layers of an image are read from."""
        python, *_ = self.dimgx.split()
        code, said, problem = self.run(python, "-c", _KINDS, reference, url or "")
        assert code == 0, problem
        return said.decode().split()

    def podman(self, *words: str, stdin: bytes = b"") -> str:
        code, said, problem = self.run("podman", *words, stdin=stdin)
        assert code == 0, problem
        return said.decode().strip()

    def flat(self, *words: str | Path) -> bytes:
        code, said, problem = self.run(*self.dimgx.split(), "-t", "-", *words)
        assert (code, problem) == (0, ""), problem
        return said

    def refused(self, *words: str | Path) -> tuple[int, str]:
        code, said, problem = self.run(*self.dimgx.split(), *words)
        assert code and not said and "Traceback" not in problem
        return code, problem

    def allow_all_but(self, *commands: str) -> None:
        """Have these of Podman's commands fail."""
        path = self.place / "bin" / "podman"
        cases = "|".join(("-", *commands))
        path.write_text(
            f'#!/bin/sh\ncase "$1" in {cases}) echo "Error: $1 is forbidden" >&2; exit 125;; esac\n'
            f'exec {need("podman")} "$@"\n'
        )
        path.chmod(0o755)


@pytest.fixture(scope="module")
def rootless() -> Iterator[Rootless]:
    programs.need_root()
    for name in ("podman", "newuidmap", "setpriv", "unshare"):
        need(name)
    with programs.public_directory() as place:
        for name in ("home/.config/containers", "run", "bin", "base", "site", "source"):
            (place / name).mkdir(parents=True)
        shutil.copytree(CHECKOUT / "dimgx", place / "source" / "dimgx")
        for name, line in (
            ("passwd", f"user:x:{UID}:{UID}::{place}/home:/bin/sh"),
            ("group", f"user:x:{UID}:"),
            ("subuid", f"user:{IDS}:65536"),
            ("subgid", f"user:{IDS}:65536"),
        ):
            (place / name).write_text(f"root:x:0:0::/root:/bin/sh\n{line}\n")
        settings = place / "home/.config/containers/storage.conf"
        settings.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{place}/home/store"\n'
            f'runroot = "{place}/run/store"\n'
        )
        for path in ("home", "home/.config", "home/.config/containers", "run"):
            os.chown(place / path, UID, UID)
        (place / "run").chmod(0o700)
        user = Rootless(place)
        try:
            user.allow_all_but()
            code, _, problem = user.run("podman", "load", stdin=SAVED)
            if code:
                programs.missing(f"a user's Podman does not work here: {problem.strip()[-300:]}")
            yield user
        finally:
            # It holds the user's namespace.
            with suppress(FileNotFoundError):
                os.kill(int((place / "run/libpod/tmp/pause.pid").read_text()), signal.SIGKILL)


@pytest.fixture
def user(rootless: Rootless) -> Rootless:
    """The user, whose Podman saves nothing."""
    rootless.allow_all_but("save")
    return rootless


@pytest.fixture(scope="module")
def expected() -> bytes:
    return programs.dimgx("-t", "-", "-", stdin=SAVED).stdout


def test_store_has_files_that_are_closed(user: Rootless) -> None:
    (path,) = user.store.glob("overlay/*/diff/key")
    assert path.stat().st_uid == IDS + 32
    assert user.run("cat", path)[0] == 1


@pytest.mark.parametrize(
    "words", [(), ("--threads", "1"), ("--verify", "all"), ("--memory", "100K")]
)
def test_same_bytes_as_from_the_archive(
    user: Rootless, expected: bytes, words: Sequence[str]
) -> None:
    assert user.flat(*words, "podman:closed:1") == expected


@pytest.mark.parametrize("position", [0, 1, 2])
def test_layer_as_it_is(user: Rootless, position: int) -> None:
    words = ("--raw", "-l", f"@{position}", "podman:closed:1")
    assert user.flat(*words) == IMAGE.layers[position]


def test_from_a_service(user: Rootless, expected: bytes) -> None:
    user.allow_all_but("save", "unshare")
    with user.serving("podman", "system", "service", "--time=0") as url:
        assert user.flat("-H", url, "podman:closed:1") == expected
        assert user.kinds("podman:closed:1", url) == KINDS


def test_from_a_docker_engine(user: Rootless, expected: bytes) -> None:
    # What dockerd-rootless.sh does, but for a network.
    engine = [
        need("rootlesskit"), "--net=host", "--copy-up=/run", "--propagation=rslave",
        "sh", "-c", 'rm -f /run/docker; exec "$@"', "sh", need("dockerd"), "--rootless",
        "--bridge=none", "--iptables=false", "--ip6tables=false",
        "--data-root", user.place / "home/docker", "--exec-root", user.place / "run/docker",
        "--pidfile", user.place / "run/docker.pid", "-H",
    ]  # fmt: skip
    with user.serving(*engine) as url:
        code, _, problem = user.run(need("docker"), "-H", url, "load", stdin=SAVED)
        assert code == 0, problem
        assert user.kinds("closed:1", url) == KINDS
        assert user.flat("-H", url, "closed:1") == expected
        assert user.flat("-H", url, "--no-direct", "closed:1") == expected


def test_it_is_saved_where_nothing_can_read_it(user: Rootless, expected: bytes) -> None:
    user.allow_all_but("unshare")
    assert user.flat("podman:closed:1") == expected
    user.allow_all_but("unshare", "save")
    code, told = user.refused("-t", "-", "podman:closed:1")
    assert (code, "save is forbidden" in told) == (2, True)


def test_without_direct_it_is_saved(user: Rootless, expected: bytes) -> None:
    assert "save is forbidden" in user.refused("-t", "-", "--no-direct", "podman:closed:1")[1]
    user.allow_all_but("unshare")
    assert user.flat("--no-direct", "podman:closed:1") == expected


def test_changed_file_is_an_error(user: Rootless) -> None:
    user.podman("load", stdin=docker_archive(CHANGED))
    (path,) = user.store.glob("overlay/*/diff/changed")
    target = user.place / "home" / "out.tar"
    for content, problem in (
        (b"wrong", "digest is sha256:"),
        (b"longer", f"{path.parent}: 'changed': it is no file of 5 bytes any more: --no-direct"),
    ):
        path.write_bytes(content)
        code, told = user.refused("-t", target, "podman:changed:1")
        assert (code, problem in told, told.count("\n")) == (2, True, 1)
        assert not target.exists()
    user.podman("rmi", "changed:1")


CHANGED = image(layer(file("changed", b"right", mode=0o600, uid=5)), tags=("changed:1",))
