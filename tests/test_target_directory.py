"""Directories as targets: what may be replaced, and what is left when something goes wrong."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dimgx import ImageError, PathRule, SourceError, TemporaryError, read_origin, system
from dimgx.targets.directory import DirectoryStore
from dimgx.targets.singlefile import open_target
from tests.dsl import file, layer
from tests.programs import CHECKOUT, LOAD_ALL, dimgx, need, need_root, refused, run
from tests.results import (
    APP,
    BASE,
    DIRECTORIES,
    FORMS,
    SOURCES,
    TOP,
    TRANSPORTS,
    files_of,
    flat,
    left,
    reference_of,
    write,
)
from tests.writers import dir_image, docker_archive, image, oci_layout, write_files

OLD = image(layer(file("old", b"o" * 5000)), tags=("old:1",))
directories = pytest.mark.parametrize("form", DIRECTORIES)
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@pytest.fixture
def app(tmp_path: Path) -> str:
    return SOURCES["docker-1.10"](tmp_path, APP)


def old_at(path: Path, form: str) -> bytes:
    """Write an older image there, and give its flat tar."""
    source = path.parent / "old-source.tar"
    source.write_bytes(docker_archive(OLD))
    write(str(source), path, form)
    source.unlink()
    return flat(reference_of(form, path))


@directories
def test_a_directory_that_is_missing_or_empty(tmp_path: Path, app: str, form: str) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    for name in ("empty", "missing"):
        write(app, tmp_path / name, form)
    assert files_of(tmp_path / "empty") == files_of(tmp_path / "missing")
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o700
    assert not [name for name in left(tmp_path) if ".dimgx" in name]


@directories
def test_what_is_there_is_kept_without_force(tmp_path: Path, app: str, form: str) -> None:
    old_at(tmp_path / "out", form)
    before = files_of(tmp_path / "out")
    with pytest.raises(SourceError, match="exists; use -w"):
        write(app, tmp_path / "out", form)
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize("old", DIRECTORIES)
@directories
def test_force_replaces_an_image_of_either_form(
    tmp_path: Path, app: str, form: str, old: str
) -> None:
    old_at(tmp_path / "out", old)
    (tmp_path / "out" / "README").write_bytes(b"mine")
    write(app, tmp_path / "out", form, force=True)
    write(app, tmp_path / "fresh", form)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh") | {"README": b"mine"}
    assert left(tmp_path / "out") == sorted(["README", *left(tmp_path / "fresh")])


@directories
def test_an_image_of_other_programs_is_one(tmp_path: Path, app: str, form: str) -> None:
    if form == "oci-dir":
        oci_layout(tmp_path / "out", OLD, APP)
    else:
        dir_image(tmp_path / "out", OLD, docker_types=True)
    write(app, tmp_path / "out", form, force=True)
    write(app, tmp_path / "fresh", form)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


@directories
def test_a_run_that_fails_leaves_the_mark_of_others(tmp_path: Path, app: str, form: str) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    old_at(out, form)
    mark = out / ("oci-layout" if form == "oci-dir" else "version")
    mark.write_bytes(mark.read_bytes() + b" ")
    before = files_of(out)
    missing = [PathRule(is_included=True, pattern="/nowhere")]
    with pytest.raises(ImageError, match="nowhere"):
        write(app, out, form, force=True, paths=missing)
    assert files_of(out) == before
    write(app, out, form, force=True)
    write(app, fresh, form)
    assert files_of(out) == files_of(fresh)


FOREIGN: dict[str, dict[str, bytes]] = {
    "a-file": {"x": b""},
    "an-index-alone": {"index.json": b"{}"},
    "a-web-site": {"index.json": b"{}", "manifest.json": b"{}", "version": b"1.2\n"},
    "a-version-alone": {"version": b"1.2\n"},
    "blobs-alone": {"blobs/sha256/x": b""},
    "a-mark-among-others": {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "x": b""},
}


@pytest.mark.parametrize("what", FOREIGN)
@directories
def test_a_foreign_directory_is_refused_with_force_too(
    tmp_path: Path, app: str, form: str, what: str
) -> None:
    for name, data in FOREIGN[what].items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(data)
    before = left(tmp_path)
    for force in (False, True):
        with pytest.raises(SourceError, match="neither empty nor an image"):
            write(app, tmp_path / "out", form, force=force)
    assert left(tmp_path) == before


_PART = {".dimgx-0123456789abcdef.part": b"x"}
RESTS: dict[str, dict[str, bytes]] = {
    "parts": _PART,
    "no-index": {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', f"blobs/sha256/{'a' * 64}": b"x"},
    "no-manifest": {"version": b"Directory Transport Version: 1.1\n", "a" * 64: b"x", **_PART},
}


@pytest.mark.parametrize("what", RESTS)
@directories
def test_what_a_killed_run_left_is_replaced(
    tmp_path: Path, app: str, form: str, what: str
) -> None:
    write_files(tmp_path / "out", RESTS[what])
    with pytest.raises(SourceError, match="exists; use -w"):
        write(app, tmp_path / "out", form)
    write(app, tmp_path / "out", form, force=True)
    write(app, tmp_path / "fresh", form)
    assert left(tmp_path / "out") == left(tmp_path / "fresh")


@directories
def test_what_cannot_be_a_directory(tmp_path: Path, app: str, form: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nowhere/at/all")
    for path, problem in (
        ("file", "is no directory"),
        ("file/below", "a part of its path is no directory"),
        ("missing/below", "its directory does not exist"),
        ("dangling", "its directory does not exist"),
    ):
        with pytest.raises(SourceError, match=problem):
            write(app, tmp_path / path, form, force=True)
    assert left(tmp_path) == ["dangling", "file", "source.tar"]


@directories
def test_a_symlink_is_followed(tmp_path: Path, app: str, form: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(app, tmp_path / "link", form)
    assert (tmp_path / "link").is_symlink() and files_of(tmp_path / "real")


@directories
def test_an_image_onto_itself(tmp_path: Path, app: str, form: str) -> None:
    write(app, tmp_path / "out", form, keep_layers=True)
    reference = reference_of(form, tmp_path / "out")
    tar = flat(reference)
    write(reference, tmp_path / "out", form, force=True)
    assert flat(reference) == tar


@directories
def test_an_error_leaves_an_empty_directory_empty(tmp_path: Path, form: str) -> None:
    bad = image(BASE, TOP, config={"rootfs": {"type": "layers", "diff_ids": [
        "sha256:" + 64 * "0", "sha256:" + 64 * "1"]}})  # fmt: skip
    reference = SOURCES["docker-1.10"](tmp_path, bad)
    (tmp_path / "out").mkdir()
    before = left(tmp_path)
    for keep in (False, True):
        code, _ = refused(reference, *["--keep-layers"][: int(keep)], f"--format={form}",
                          "-t", tmp_path / "out")  # fmt: skip
        assert code == 2
        assert left(tmp_path) == before


@posix
@directories
def test_two_do_not_write_one_directory(tmp_path: Path, app: str, form: str) -> None:
    if "flock" not in system.FEATURES:
        pytest.skip("needs locks on directories")
    old_at(tmp_path / "out", form)
    before = files_of(tmp_path / "out")
    fd = os.open(tmp_path / "out", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        code, told = refused(app, "-w", "-t", f"{TRANSPORTS[form]}:{tmp_path}/out")
    finally:
        os.close(fd)
    assert (code, files_of(tmp_path / "out")) == (4, before)
    assert "is being written by another program" in told
    write(app, tmp_path / "out", form, force=True)


@directories
def test_a_file_that_another_run_is_writing_there_stays(
    tmp_path: Path, app: str, form: str
) -> None:
    old_at(tmp_path / "out", form)
    other = open_target(str(tmp_path / "out" / "mine"), force=False)
    other.write(b"mine")
    write(app, tmp_path / "out", form, force=True)
    other.commit()
    write(app, tmp_path / "fresh", form)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh") | {"mine": b"mine"}


@directories
def test_a_directory_that_gets_no_name_leaves_nothing(
    tmp_path: Path, app: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(SourceError, match="out cannot be written: no space is left"):
        write(app, tmp_path / "out", form)
    assert left(tmp_path) == ["source.tar"]


def test_a_directory_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path / "out"), force=True)
    store.create()
    store.put("oci-layout", b"{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"")
    with pytest.raises(TemporaryError, match="out appeared meanwhile: run this again"):
        store.publish({"index.json": b"{}"}, lambda: None)
    assert left(tmp_path) == ["out", "out/mine"]


# -- disk full, killed ----------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("form", FORMS)
def test_disk_full(tmp_path: Path, form: str, existing: bool) -> None:
    need_root()
    big = tmp_path / "big.tar"
    big.write_bytes(docker_archive(image(layer(file("big", os.urandom(4 << 20))))))
    place = tmp_path / "small"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place])
    try:
        tar = old_at(place / "out", form) if existing else b""
        before = left(place)
        code, told = refused(big, "-w", f"--format={form}", "-t", place / "out")
        assert code == 2 and "no space is left" in told
        assert left(place) == before
        if existing:
            assert flat(reference_of(form, place / "out")) == tar
    finally:
        run(["umount", "--lazy", place])


@posix
@pytest.mark.parametrize("form", FORMS)
def test_a_limit_on_file_sizes(tmp_path: Path, app: str, form: str) -> None:
    tar = old_at(tmp_path / "out", form)
    before = left(tmp_path)
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))\n"
        "from dimgx.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["-w", "--layer-compression=none", f"--format={form}", "-t", tmp_path / "out", app]
    done = run([sys.executable, "-c", script, *words], ok=False, env={"PYTHONPATH": str(CHECKOUT)})
    assert done.returncode == 2 and b"a file may not be as large" in done.stderr
    assert left(tmp_path) == before
    assert flat(reference_of(form, tmp_path / "out")) == tar


@pytest.mark.parametrize("form", FORMS)
def test_without_sync_the_disk_is_not_waited_for(
    tmp_path: Path, app: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    old_at(tmp_path / "out", form)
    monkeypatch.setattr(os, "fsync", fail)
    for name, force in (("out", True), ("new", False)):
        with pytest.raises(SourceError, match="cannot be written"):
            write(app, tmp_path / name, form, force=force)
        write(app, tmp_path / name, form, force=force, sync=False)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")


@posix
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "empty"])
@directories
def test_the_disk_has_all_names_before_the_image_is_seen(
    tmp_path: Path, app: str, form: str, is_new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name is given after its directory was synced for the last time, or before that is seen."""
    out = tmp_path / "out"
    if not is_new:
        out.mkdir()
    unsynced: set[tuple[int, int]] = set()
    at_sight: list[set[tuple[int, int]]] = []

    def identity(status: os.stat_result) -> tuple[int, int]:
        return status.st_dev, status.st_ino

    def naming(call: Any, *, final: int) -> Any:
        def called(*args: Any, **more: Any) -> None:
            place = Path(args[final])
            if place == out or (not is_new and place.name in ("index.json", "manifest.json")):
                at_sight.append(set(unsynced))
            call(*args, **more)
            unsynced.add(identity(place.parent.stat()))

        return called

    def syncing(fd: int) -> None:
        fsync(fd)
        unsynced.discard(identity(os.fstat(fd)))

    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", syncing)
    for call, final in (("mkdir", 0), ("rename", 1), ("replace", 1)):
        monkeypatch.setattr(os, call, naming(getattr(os, call), final=final))
    write(app, out, form)
    # The name of a new directory that is renamed is in its parent, which is synced afterwards.
    parent = {identity(tmp_path.stat())} if is_new else set()
    assert at_sight == [parent] and unsynced == set()


# Kills a child of its own at the n-th call that changes a file or a directory, for each n until
# one comes to its end; after each the target is read.
KILLER = """
import os, signal, sys
from dimgx.cli import main

CALLS = ("write", "pwrite", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "fsync",
         "open")

def dying(call, count):
    def called(*args, **more):
        count[0] -= 1
        if count[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **more)
    return called

n = 0
while True:
    n += 1
    child = os.fork()
    if child == 0:
        count = [n]
        for name in CALLS:
            setattr(os, name, dying(getattr(os, name), count))
        os._exit(main(sys.argv[1:]))
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, status
        break
    sys.stdout.write("killed\\n")
    sys.stdout.flush()
    assert sys.stdin.readline() == "go on\\n"
print("done")
"""


def at_each_kill(*words: Any) -> Iterator[None]:
    """Run the command with the KILLER, and yield after each kill."""
    import subprocess

    process = subprocess.Popen(
        [sys.executable, "-c", LOAD_ALL + KILLER, *words], env={"PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        while process.stdout.readline() == "killed\n":
            yield
            process.stdin.write("go on\n")
            process.stdin.flush()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@posix
@pytest.mark.parametrize("form", FORMS)
def test_killed_anywhere_the_old_target_is_whole(tmp_path: Path, app: str, form: str) -> None:
    out = tmp_path / "out"
    old, new = old_at(out, form), flat(app)
    words = ["-w", f"--format={form}", "--threads=1", "-t", out, app]
    seen = [flat(reference_of(form, out)) for _ in at_each_kill(*words)]
    assert len(seen) > 10
    kinds = ["old" if one == old else "new" if one == new else "neither" for one in seen]
    assert kinds == sorted(kinds, reverse=True) and set(kinds) <= {"old", "new"}
    assert kinds[0] == "old"
    assert flat(reference_of(form, out)) == new
    if form in DIRECTORIES:
        write(app, tmp_path / "fresh", form)
        assert files_of(out) == files_of(tmp_path / "fresh"), "the rests of the killed are gone"


@posix
@directories
def test_killed_anywhere_on_the_way_to_another_form(tmp_path: Path, app: str, form: str) -> None:
    out = tmp_path / "out"
    old, new = old_at(out, form), flat(app)
    (other,) = set(DIRECTORIES) - {form}
    words = ["-w", f"--format={other}", "--threads=1", "-t", out, app]
    seen = [flat(str(out)) for _ in at_each_kill(*words)]
    assert len(seen) > 10 and set(seen) <= {old, new}
    write(app, tmp_path / "fresh", other)
    assert files_of(out) == files_of(tmp_path / "fresh")


@posix
@directories
def test_killed_anywhere_in_an_empty_directory_it_is_written_the_next_time(
    tmp_path: Path, app: str, form: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    words = ["--update", f"--format={form}", "-t", out, app]
    told = [
        dimgx("--check", *words[1:], ok=False).stdout[:5].decode() for _ in at_each_kill(*words)
    ]
    assert len(told) > 10
    assert told == sorted(told, key=["there", "a run", "up to"].index)
    assert flat(reference_of(form, out)) == flat(app)


@posix
@pytest.mark.parametrize("keeps", [["--keep-layers"], []])
@directories
def test_killed_anywhere_no_record_tells_of_what_is_not_there(
    tmp_path: Path, app: str, form: str, keeps: list[str]
) -> None:
    out, old = tmp_path / "out", f"{tmp_path}/old.tar"
    Path(old).write_bytes(docker_archive(OLD))
    written = write(old, out, form, keep_layers=True, record=True)
    assert written.size == sum(map(len, files_of(out).values()))
    words = ["--update", *keeps, f"--format={form}", "--threads=1", "-t", out, app]
    recorded = []
    for _ in at_each_kill(*words):
        (made,) = read_origin(out)
        recorded.append(made.is_ours)
        told = made.origin.layers
        if told:
            told_of = app if set(told) <= set(APP.diff_ids()) else old
            assert flat(reference_of(form, out)) == flat(told_of)
    assert len(recorded) > 10 and all(recorded)
    assert flat(reference_of(form, out)) == flat(app)


# As KILLER, with SIGTERM just before the n-th call and, for the next n, just behind it; tells after
# each what is in the target, an empty directory, which is made anew.
STOPPER = """
import os, shutil, signal, sys
from dimgx.cli import main

CALLS = ("lstat", "replace", "rename", "unlink", "mkdir", "rmdir", "fsync", "open")

def stopping(call, count):
    def stop():
        count[0] -= 1
        if count[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
    def called(*args, **more):
        stop()
        result = call(*args, **more)
        stop()
        return result
    return called

out, n = sys.argv[1], 0
while True:
    n += 1
    os.mkdir(out)
    child = os.fork()
    if child == 0:
        count = [n]
        for name in CALLS:
            setattr(os, name, stopping(getattr(os, name), count))
        os._exit(main(sys.argv[2:]))
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, status
        break
    assert os.WTERMSIG(status) == signal.SIGTERM
    print(*sorted(os.listdir(out)), flush=True)
    shutil.rmtree(out)
"""


@posix
@directories
def test_a_signal_anywhere_leaves_an_empty_directory_or_an_image(
    tmp_path: Path, app: str, form: str
) -> None:
    write(app, tmp_path / "fresh", form)
    words = [f"--format={form}", "--threads=1", "-t", tmp_path / "out", app]
    command = [sys.executable, "-c", LOAD_ALL + STOPPER, tmp_path / "out", *words]
    done = run(command, env={"PYTHONPATH": str(CHECKOUT)})
    seen = done.stdout.decode().splitlines()
    whole = " ".join(sorted(os.listdir(tmp_path / "fresh")))
    assert len(seen) > 10
    assert seen == sorted(seen) and set(seen) == {"", whole}
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


# With something written it waits for somebody to end it.
HELD = """
import os, sys, time
from dimgx.cli import main

def hold(fd):
    os.write(1, b"held")
    time.sleep(600)

os.fsync = hold
sys.exit(main(sys.argv[1:]))
"""


@posix
@pytest.mark.parametrize("form", FORMS)
def test_a_signal_leaves_nothing(tmp_path: Path, form: str) -> None:
    import subprocess

    new = layer(file("new", os.urandom(1 << 20)))
    (tmp_path / "new.tar").write_bytes(docker_archive(image(new)))
    old_at(tmp_path / "out", form)
    before = left(tmp_path)
    words = ["-w", f"--format={form}", "-t", tmp_path / "out", tmp_path / "new.tar"]
    with subprocess.Popen(
        [sys.executable, "-c", HELD, *words],
        env={"PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdout.read(4) == b"held"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
    assert left(tmp_path) == before


def test_the_same_directory_in_another_way(tmp_path: Path, app: str) -> None:
    """A trailing slash, and a path that is relative."""
    done = dimgx("-t", f"oci:{tmp_path}/out/", app)
    assert done.returncode == 0
    assert flat(f"oci:{tmp_path}/out") == flat(app)


@posix
def test_a_umask_that_closes_directories_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "app.tar").write_bytes(docker_archive(APP))
    # Root, too, is to be as an ordinary user is.
    drop = [need("setpriv"), "--bounding-set=-dac_override,-dac_read_search"]
    dimgx_ = [sys.executable, "-m", "dimgx", "-t", "oci:out", "./app.tar"]
    done = subprocess.run(
        ["sh", "-c", 'umask 0777 && exec "$@"', "sh", *drop[: 2 * (os.geteuid() == 0)], *dimgx_],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, b"out cannot be written" in done.stderr) == (2, True)
    assert left(tmp_path) == ["app.tar"]
