"""A tar whose halves two processes write at once: the same bytes, and errors as ever."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings

from dimgx import system
from tests.cases import open_layers, open_members
from tests.dsl import Member, dir_, file, hardlink, layer, symlink, whiteout
from tests.programs import CHECKOUT, flat_bytes, run
from tests.stacks import STACKS, expected_of
from tests.writers import docker_archive, image, oci_layout

needs_fork = pytest.mark.skipif("fork" not in system.FEATURES, reason="only Linux forks here")
RANDOM = random.Random(5)
MANY = [
    layer(*(file(f"{n % 40:02}/{n}", RANDOM.randbytes(n * 7 % 9000)) for n in range(600))),
    layer(*(file(f"{n % 40:02}/{n}", b"new") for n in range(0, 600, 7)), whiteout("05"),
          symlink("s", "t"), file("x", b"x"), hardlink("y", "x")),
]  # fmt: skip

# Halves any tar, and says whether it did. What FAULT says is done in the process of its own.
COMMAND = """
import os, sys, time
from dimgx import extractor, system
from dimgx.cli import main

extractor.HALVED = 0
emit_halves, write_at, own = extractor.FlatTar.emit_halves, system.write_at, os.getpid()

def told(self, open_section):
    for _ in range(500):  # a thread that has ended may be seen for some moments yet
        if len(os.listdir("/proc/self/task")) == 1:
            break
        time.sleep(0.01)
    found = emit_halves(self, open_section)
    if found:
        open(os.environ["HALVED"], "w").close()
    return found

def faulty(fd, data, offset):
    if os.getpid() != own:
        exec(os.environ.get("FAULT", ""))
    write_at(fd, data, offset)
    if os.getpid() == own and "WRITES" in os.environ:
        open(os.environ["WRITES"], "w").close()

extractor.FlatTar.emit_halves, system.write_at = told, faulty
sys.exit(main(sys.argv[1:]))
"""


def in_halves(
    tmp_path: Path, *words: str | Path, fault: str = ""
) -> tuple[subprocess.CompletedProcess[bytes], bool]:
    """Run the command; tell whether two processes have written."""
    note = tmp_path / "halved"
    env = {"PYTHONPATH": str(CHECKOUT), "FAULT": fault, "HALVED": str(note)}
    done = run([sys.executable, "-c", COMMAND, *words], ok=False, env=env)
    was_halved = note.exists()
    note.unlink(missing_ok=True)
    return done, was_halved


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "image.tar"
    path.write_bytes(docker_archive(image(*MANY)))
    return path


def parts_of(layers: list[bytes], end: int) -> tuple[bytes, bytes, bytes]:
    """Give a flat tar, and what stands before and after an entry."""
    with open_layers(layers, root_entry=True) as flat:
        found = []
        for first, last in ((0, None), (0, end), (end, None)):
            pieces: list[bytes] = []
            flat._emitter.emit(lambda piece, to=pieces: to.append(bytes(piece)), first, last)
            found.append(b"".join(pieces))
        return found[0], found[1], found[2]


@settings(deadline=None, max_examples=150)
@given(STACKS)
def test_parts_are_the_whole_wherever_it_is_cut(layers: list[list[Member]]) -> None:
    if expected_of(layers) is None:
        return
    tars = [layer(*members) for members in layers]
    with open_layers(tars) as flat:
        count = len(list(flat.iter_entries()))
        middle = flat._emitter.halve(0)
    for end in range(1, count + 1):
        whole, before, after = parts_of(tars, end)
        assert before + after == whole
    if middle is not None:
        with open_layers(tars) as flat:
            pieces: list[bytes] = []
            flat._emitter.emit(lambda piece: pieces.append(bytes(piece)), 0, middle[0])
            assert sum(map(len, pieces)) == middle[1]


@needs_fork
@pytest.mark.parametrize(
    "words",
    [[], ["--root-entry"], ["--update"], ["--no-sync"], ["--exclude", "05"], ["--prefix", "a/b"]],
    ids=" ".join,
)
def test_the_same_bytes(tmp_path: Path, archive: Path, words: list[str]) -> None:
    for name, more in (("1.tar", ["--threads", "1"]), ("2.tar", ["--threads", "2"])):
        target = tmp_path / name
        words_here = [*words, "--verify", "none", "-t", target, *more, archive]
        done, was_halved = in_halves(tmp_path, *words_here)
        assert done.returncode == 0, done.stderr
        assert was_halved == (name == "2.tar" and words[:1] != ["--prefix"])
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


@needs_fork
def test_cancelled_while_the_other_half_is_written(tmp_path: Path, archive: Path) -> None:
    """The other process has written something, and then hangs."""
    code = (
        "import os, sys, time, dimgx; from dimgx import extractor, system\n"
        "from dimgx.readers import forked\n"
        "extractor.HALVED = 0; forked._TOLD = 1\n"
        "own, write_at, has_worked = os.getpid(), system.write_at, forked.Forked.has_worked\n"
        "waits, written = [], []\n"
        "def slow(fd, data, offset):\n"
        "    if os.getpid() != own and written: time.sleep(600)\n"
        "    written.append(write_at(fd, data, offset))\n"
        "def waiting(self, tick=None):\n"
        "    waits.append(self)\n"
        "    return has_worked(self, tick)\n"
        "system.write_at, forked.Forked.has_worked = slow, waiting\n"
        "with dimgx.open_image(sys.argv[1]) as image:\n"
        "    try: dimgx.flatten(image, sys.argv[2], threads=2, verify='none',\n"
        "                       cancel=lambda: bool(waits))\n"
        "    except dimgx.Cancelled: print('cancelled', len(waits))\n"
    )
    env = {"PYTHONPATH": str(CHECKOUT)}
    done = run([sys.executable, "-c", code, archive, tmp_path / "out.tar"], env=env)
    assert done.stdout == b"cancelled 1\n"
    assert os.listdir(tmp_path) == ["image.tar"]


@needs_fork
def test_their_length_is_that_of_the_whole(tmp_path: Path, archive: Path) -> None:
    code = (
        "import sys, dimgx; from dimgx import extractor; extractor.HALVED = 0\n"
        "with dimgx.open_image(sys.argv[1]) as image:\n"
        "    made = dimgx.flatten(image, sys.argv[2], threads=2, verify='none', record=True)\n"
        "print(made.size, made.length)"
    )
    words = [sys.executable, "-c", code, archive, tmp_path / "out.tar"]
    told = run(words, env={"PYTHONPATH": str(CHECKOUT)}).stdout.split()
    assert list(map(int, told)) == [(tmp_path / "out.tar").stat().st_size] * 2


@needs_fork
def test_layers_that_were_decoded(tmp_path: Path) -> None:
    source = f"oci:{oci_layout(tmp_path / 'oci', image(*MANY), default='gzip')}"
    done, was_halved = in_halves(tmp_path, "--threads=2", "-t", tmp_path / "out.tar", source)
    assert (done.returncode, done.stderr, was_halved) == (0, b"", True)
    assert (tmp_path / "out.tar").read_bytes() == flat_bytes(source)


@needs_fork
@pytest.mark.parametrize("words", [["-z"], ["-v"], ["--report", "r.json"]], ids=" ".join)
def test_bytes_that_somebody_has_to_see_are_written_by_one(
    tmp_path: Path, archive: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*words, "--verify", "none", "-t", "out.tar", "--threads", "2"]
    done, was_halved = in_halves(tmp_path, *words, archive)
    assert (done.returncode, was_halved) == (0, False)


@needs_fork
@pytest.mark.parametrize("fault", ["os._exit(0)", "os.kill(os.getpid(), 9)", "raise OSError(5)"])
def test_what_the_other_does_not_write_is_written_here(
    tmp_path: Path, archive: Path, fault: str
) -> None:
    words = ["--verify", "none", "-t", tmp_path / "out.tar", "--threads", "2", archive]
    done, was_halved = in_halves(tmp_path, *words, fault=fault)
    assert (done.returncode, done.stderr, was_halved) == (0, b"", True)
    assert (tmp_path / "out.tar").read_bytes() == flat_bytes(str(archive))


@needs_fork
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_disk_that_is_too_small_is_told_as_ever(
    tmp_path: Path, archive: Path, share: float
) -> None:
    """In the first half, and in the second, which the other process meets."""
    limit = int(share * len(flat_bytes(str(archive))))
    command = COMMAND.replace(
        "extractor.HALVED = 0",
        f"extractor.HALVED = 0\nimport resource\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))",
    )
    target = tmp_path / "out.tar"
    words = ["--verify", "none", "-t", target, "--threads", "2", archive]
    done = run(
        [sys.executable, "-c", command, *words],
        ok=False,
        env={"PYTHONPATH": str(CHECKOUT), "HALVED": os.devnull},
    )
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(f"dimgx: {target} cannot be written: a file may not".encode())
    assert os.listdir(tmp_path) == ["image.tar"]


@needs_fork
def test_a_signal_ends_both(tmp_path: Path, archive: Path) -> None:
    note = tmp_path / "pid"
    fault = f"open({str(note)!r} + '~', 'w').write(str(os.getpid()));" \
            f"os.rename({str(note)!r} + '~', {str(note)!r}); time.sleep(60)"  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--verify=none", "--threads=2", "-t", tmp_path / "out.tar",
         archive],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "FAULT": fault, "WRITES": f"{note}s"},
        stderr=subprocess.PIPE,
    )  # fmt: skip
    end = time.monotonic() + 20
    # Sooner, the one that forks may not know of the other yet.
    while not (note.exists() and Path(f"{note}s").exists()):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == b"" and process.returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
    assert sorted(os.listdir(tmp_path)) == ["image.tar", "pid", "pids"]


def test_few_entries_and_no_entry_at_all() -> None:
    for layers in ([layer()], [layer(dir_("a"))], [layer(file("a", b"x"))]):
        with open_layers(layers) as flat:
            assert flat._emitter.halve(0) is None


def test_the_middle_is_behind_what_is_written_anew() -> None:
    anew = file("b", b"b" * 20_000, records=((b"LIBARCHIVE.x", b"y"),))
    with open_members([[file("a", b"a" * 2000), anew, file("c", b"c" * 2000)]]) as flat:
        middle = flat._emitter.halve(0)
        assert middle is not None
        number, offset = middle
        pieces: list[bytes] = []
        flat._emitter.emit(lambda piece: pieces.append(bytes(piece)), end=number)
        assert sum(map(len, pieces)) == offset
