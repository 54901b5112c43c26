"""Other programs that tests run, and what becomes of a test where one is not there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import portable

CHECKOUT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def missing(what: str) -> None:
    """Skip the test, saying what is missing; in CI, where all is there, fail instead."""
    if IN_CI:
        pytest.fail(f"{what}, and CI is to have it")
    pytest.skip(what)


def need(program: str) -> str:
    """Give the path of a program, or skip."""
    path = os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    found = shutil.which(program, path=path)
    if found is None:
        missing(f"{program} is not installed (tests/install-tools gets it)")
    assert found is not None
    return found


def need_root() -> None:
    if os.geteuid() != 0:
        missing("only root may make devices, owners and mounts")


LOAD_ALL = """
import importlib, pkgutil, dimgx
for module in pkgutil.walk_packages(dimgx.__path__, "dimgx."):
    if module.name != "dimgx.__main__":
        importlib.import_module(module.name)
"""
"""Python code that loads all of dimgx, so that what it forks off need not."""

OTHER_USER = 65534
# Others may not be able to read this checkout, or Python itself, so all is loaded before.
_BECOME_OTHER = f"""
import contextlib, os, sys
sys.path.insert(0, {str(CHECKOUT)!r})
import docker, encodings.ascii, encodings.utf_8_sig, grp, json, socket
{LOAD_ALL}
with contextlib.suppress(ImportError):
    import isal.igzip
os.setgroups([])
os.setgid({OTHER_USER})
os.setuid({OTHER_USER})
"""


def run_as_other(script: str, *words: str, ok: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run Python code that uses `dimgx` as a user who is nobody special."""
    return run([sys.executable, "-c", _BECOME_OTHER + script, *words], ok=ok)


@contextmanager
def public_directory() -> Iterator[Path]:
    """Give a directory that any user may reach and write to.

    Not one of pytest's: each run closes the one above them again, for all runs.
    """
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        for parent in Path(name).parents:
            if not parent.stat().st_mode & 0o001:
                os.chmod(parent, parent.stat().st_mode | 0o011)
        yield Path(name)


def run(
    command: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    ok: bool = True,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 120,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program and give what it wrote; with `ok` it must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
        env=None if env is None else {**os.environ, **env},
        check=False,
    )
    if ok and done.returncode != 0:
        told = done.stderr.decode(errors="replace")[-2000:]
        raise AssertionError(f"{command[0]} ended with {done.returncode}: {told}")
    return done


def dimgx(*words: str | Path, **more: object) -> subprocess.CompletedProcess[bytes]:
    """Run the program of this checkout in a process of its own."""
    env = {"PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "error"}
    module = "tests.portable" if portable.IS_WANTED else "dimgx"
    command = [sys.executable, "-m", module, *words]
    return run(command, env=env, **more)  # type: ignore[arg-type]


def flat_bytes(reference: str, *words: str) -> bytes:
    """Give the flat tar of an image by way of the command line."""
    return dimgx(*words, "-t", "-", reference).stdout


def refused(reference: str | Path, *words: str | Path, stdin: bytes = b"") -> tuple[int, str]:
    """Run the program where it must fail; give the exit code and its one line."""
    done = dimgx(*words, str(reference), stdin=stdin, ok=False)
    told = done.stderr.decode(errors="replace")
    assert done.returncode not in (0, 70), told
    assert told.endswith("\n") and told.count("\n") == 1, told
    assert done.stdout == b""
    return done.returncode, told
