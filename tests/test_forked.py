"""A process forked off checks what it is asked to, tells no errors, and is never left behind."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from dimgx import system
from dimgx.readers.walkers import SHARE
from tests.dsl import file, layer
from tests.programs import CHECKOUT, run
from tests.writers import docker_archive, image

pytestmark = pytest.mark.skipif("fork" not in system.FEATURES, reason="only Linux forks here")

# In a process of its own: pytest's has threads, and such a one does not fork.
BEGUN = """
import os, signal, sys, time
from dimgx.readers.checks import Checks, SHARE
from dimgx.errors import ImageError
from dimgx.readers.forked import Forked
PARENT = os.getpid()
counted = []

def good(tick):
    for _ in range(5):
        tick(3 << 20)
    say("good")

def bad(tick):
    tick(9 << 20)
    say("bad")
    raise ImageError("it is bad")

def endless(tick):
    while True:
        tick(8 << 20)
        time.sleep(0.01)

def killed(tick):
    if os.getpid() != PARENT:
        tick(10 << 20)
        os.kill(os.getpid(), signal.SIGKILL)
    good(tick)

def say(what):
    print(what, "here" if os.getpid() == PARENT else "there", flush=True)

def check(*functions, walk=None, tick=counted.append):
    checks = Checks(tick)
    for function in functions:
        checks.add(function, SHARE)
    forked = Forked(walk, checks.checks)
    checks.start(2, [forked])
    checks.join()
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        say("alone")
    forked.close()
    return checks
"""


def said(script: str, *, ok: bool = True) -> list[str]:
    """Run a script after what is above; give the lines that all its processes have written.

    It waits until the last of them has ended.
    """
    command = [sys.executable, "-W", "error", "-c", BEGUN + script]
    done = run(command, ok=ok, env={"PYTHONPATH": str(CHECKOUT)}, timeout_s=30)
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


def test_checks_are_made_there() -> None:
    script = "check(good, good).wait(); print(sum(counted) >> 20)"
    assert said(script) == ["good there", "good there", "alone here", "30"]


def test_checks_that_end_where_they_are_told_of_are_each_made() -> None:
    """What is said of the first must not end the second."""
    script = """
def even(tick):
    tick(8 << 20)
    say("even")

def empty(tick):
    say("empty")

check(empty, even, bad).join()
print(sum(counted) >> 20)
"""
    expected = ["empty there", "even there", "bad there", "bad here", "alone here", "17"]
    assert said(script) == expected


def test_an_error_is_found_again_and_told_here() -> None:
    script = """
try:
    check(good, bad, good).wait()
except ImageError as exc:
    print(exc, sum(counted) >> 20)
"""
    expected = ["good there", "bad there", "bad here", "alone here", "it is bad 24"]
    assert said(script) == expected


def test_what_a_killed_process_leaves_is_done_here() -> None:
    script = "check(killed, good).wait(); print(sum(counted) >> 20)"
    assert said(script) == ["good here", "good here", "alone here", "30"]


def test_checks_are_made_after_a_walk_that_failed() -> None:
    script = """
def walk(tick):
    tick(9 << 20)
    say("walk")
    raise ImageError("no tar")

checks = Checks(counted.append)
checks.add(good, SHARE)
forked = Forked(walk, checks.checks)
ticks = []
print(forked.has_worked(ticks.append), forked.has_worked(), flush=True)
print(ticks[0] >> 20, sum(ticks), flush=True)
checks.start(1, [forked])
checks.wait()
"""
    assert said(script) == ["walk there", "False False", "9 0", "good there"]


def test_what_the_work_says_is_passed_on_without_waiting() -> None:
    script = """
def work(tick):
    tick(8 << 20)
    time.sleep(0.2)
    tick(9 << 20)

forked = Forked(work, ())
ticks, passed = [], []
while not passed:
    forked.pass_on(passed.append)
print(forked.has_worked(ticks.append), passed[0] >> 20, ticks[0] >> 20, flush=True)
forked.pass_on(print)
"""
    assert said(script) == ["True 8 9"]


def test_who_waits_for_the_work_may_cancel_it() -> None:
    script = """
def cancel(size):
    raise ImageError("cancelled")

forked = Forked(endless, ())
try:
    forked.has_worked(cancel)
except ImageError as exc:
    print(exc)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("alone")
"""
    assert said(script) == ["cancelled", "alone"]


def test_cancelling_ends_the_process() -> None:
    script = """
def cancel(size):
    raise ImageError("cancelled")

try:
    check(endless, tick=cancel).wait()
except ImageError as exc:
    print(exc)
"""
    assert said(script) == ["alone here", "cancelled"]


def test_who_checks_beside_it_may_cancel_what_it_works_at() -> None:
    """The caller cannot meanwhile: only one thread hears what it says."""
    script = """
def cancel(size):
    raise ImageError("cancelled")

try:
    check(good, walk=endless, tick=cancel).wait()
except ImageError as exc:
    print(exc)
"""
    assert said(script) == ["alone here", "cancelled"]


def test_ending_it_frees_a_thread_that_waits_for_it() -> None:
    script = """
def stop(size):
    if stopped:
        raise ImageError("stopped")

stopped = []
checks = Checks(stop)
checks.add(lambda tick: time.sleep(60) if os.getpid() != PARENT else tick(1), SHARE)
forked = Forked(None, checks.checks)
checks.start(1, [forked])
stopped.append(True)
forked.end()
checks.join()
forked.close()
print("stopped")
"""
    assert said(script) == ["stopped"]


def test_it_ends_with_its_parent() -> None:
    script = """
forked = Forked(None, [endless])
idle = Forked(None, [endless])

def kill(size):
    say("killed")
    os.kill(os.getpid(), signal.SIGKILL)

forked.has_checked(0, kill)
"""
    assert said(script, ok=False) == ["killed here"]


# Sends itself a signal at the first fork, before anybody knows what was forked off, which sleeps.
SIGNALLED = """
import os, signal, sys, time
from dimgx import extractor
from dimgx.cli import program

extractor.HALVED = extractor.STREAMED = 0
fork = os.fork

def signalled():
    pid = fork()
    if not pid:
        time.sleep(60)
    with open(os.environ["NOTE"], "a") as file:
        file.write(f"{pid}\\n")
    os.kill(os.getpid(), signal.SIGTERM)
    return pid

os.fork = signalled
program()
"""


@pytest.mark.parametrize("way", ["walkers", "halves", "decoders"])
def test_a_signal_just_after_the_fork_leaves_nobody_behind(tmp_path: Path, way: str) -> None:
    size = SHARE if way == "walkers" else 1000
    layers = [layer(file(name, bytes(size))) for name in "ab"]
    packed = image(*layers, compression="gzip" if way == "decoders" else None)
    archive, note, target = tmp_path / "image.tar", tmp_path / "note", tmp_path / "out.tar"
    archive.write_bytes(docker_archive(packed, vintage="25"))
    done = run(
        [sys.executable, "-c", SIGNALLED, "--verify=none", "--threads=2", "-t", target, archive],
        ok=False,
        env={"PYTHONPATH": str(CHECKOUT), "NOTE": str(note)},
        timeout_s=30,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, b"")
    (pid,) = note.read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert sorted(os.listdir(tmp_path)) == ["image.tar", "note"]
