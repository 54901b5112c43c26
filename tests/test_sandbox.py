"""Sandboxes that forbid a system call, by real filters of the kernel (seccomp).

They are laid by hand, as x86-64 and ARM number their calls: a program for the kernel's filter
machine that says no to one number and yes to all others.
"""

from __future__ import annotations

import errno
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs
from tests.dsl import file, layer
from tests.writers import docker_archive, image

NUMBERS = {
    "x86_64": {
        "fsync": 74, "linkat": 265, "prlimit64": 302, "sched_getaffinity": 204, "setitimer": 38,
    },
    "aarch64": {
        "fsync": 82, "linkat": 37, "prlimit64": 261, "sched_getaffinity": 123, "setitimer": 103,
    },
}.get(platform.machine(), {})  # fmt: skip
pytestmark = pytest.mark.skipif(
    not NUMBERS or sys.platform != "linux", reason="only for Linux on x86-64 and ARM"
)
_RUN_WITHOUT = """
import ctypes, os, struct, sys
number, error = map(int, sys.argv[1:3])
code = struct.pack("HBBI" * 4,
    0x20, 0, 0, 0,  # load the number of the call
    0x15, 0, 1, number,
    0x06, 0, 0, 0x00050000 | error,
    0x06, 0, 0, 0x7fff0000)
text = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(text)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
for call in ((38, 1, 0, 0, 0), (22, 2, program, 0, 0)):
    if prctl(*call):
        sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
os.execv(sys.executable, [sys.executable, "-W", "error", "-m", "dimgx", *sys.argv[3:]])
"""


def limited(call: str, error: int, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run dimgx without a call, which ends with an error."""
    command = [sys.executable, "-c", _RUN_WITHOUT, str(NUMBERS[call]), str(error), *words]
    return programs.run(command, env={"PYTHONPATH": str(programs.CHECKOUT)}, ok=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "image.tar"
    path.write_bytes(docker_archive(image(layer(file("a", b"x" * 5000)))))
    return path


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["linkat", "prlimit64", "sched_getaffinity", "setitimer"])
def test_a_call_that_is_forbidden_is_done_without(
    tmp_path: Path, source: Path, call: str, error: int
) -> None:
    target = tmp_path / "made" / "out.tar"
    target.parent.mkdir()
    expected = programs.flat_bytes(str(source))
    for words in ([], ["-w"]):
        done = limited(call, error, *words, "-t", target, source)
        assert (done.returncode, done.stderr) == (0, b"")
        assert target.read_bytes() == expected
        assert [path.name for path in target.parent.iterdir()] == ["out.tar"]
        target.chmod(0o640)
    assert target.stat().st_mode & 0o777 == 0o640
    refused = limited(call, error, "-t", target, source)
    assert (refused.returncode, b"exists" in refused.stderr) == (2, True)
    assert target.read_bytes() == expected


@pytest.mark.parametrize("target", ["out.tar", "oci:out"])
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS, errno.EINVAL])
def test_a_disk_that_cannot_be_waited_for(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, target: str, error: int
) -> None:
    monkeypatch.chdir(tmp_path)
    done = limited("fsync", error, "-t", target, source)
    told = b"cannot be written: its file system cannot wait for the disk: --no-sync does without\n"
    assert (done.returncode, done.stderr.endswith(told)) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["image.tar"]
    assert limited("fsync", error, "--no-sync", "-t", target, source).returncode == 0
