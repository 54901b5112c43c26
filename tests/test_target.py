"""Targets: whole or not at all, and nothing left behind."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from dimgx import system
from dimgx.errors import SourceError
from dimgx.targets import errors
from dimgx.targets.singlefile import open_stream_target, open_target
from tests.leftovers import open_files

DATA = os.urandom(3 << 20)
FULL = system.FEATURES
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@pytest.fixture(params=[FULL, frozenset()], ids=["all", "none"], autouse=True)
def features(request, monkeypatch):
    monkeypatch.setattr(system, "FEATURES", request.param)


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def put(path, data=DATA, *, force=False):
    target = open_target(str(path), force=force)
    for start in range(0, len(data), 256 << 10):
        target.write(memoryview(data)[start : start + (256 << 10)])
    target.commit()


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def fail_with(number):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


# Files


def test_a_new_file(tmp_path):
    put(tmp_path / "out.tar")
    assert (tmp_path / "out.tar").read_bytes() == DATA
    assert os.listdir(tmp_path) == ["out.tar"]


def test_a_large_file_in_small_pieces(tmp_path):
    target = open_target(str(tmp_path / "out.tar"), force=False)
    for _ in range(40):
        target.write(DATA[: 1 << 20])
    target.commit()
    assert (tmp_path / "out.tar").read_bytes() == DATA[: 1 << 20] * 40


def test_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put("out.tar")
    assert os.listdir(tmp_path) == ["out.tar"]


def test_nothing_is_seen_before_the_commit(tmp_path):
    path = tmp_path / "out.tar"
    target = open_target(str(path), force=False)
    target.write(DATA)
    assert target.is_atomic
    assert not path.exists()
    target.commit()
    assert path.exists()


def test_an_old_file_is_whole_until_the_commit(tmp_path):
    path = tmp_path / "out.tar"
    path.write_bytes(b"old")
    target = open_target(str(path), force=True)
    target.write(DATA)
    assert path.read_bytes() == b"old"
    target.commit()
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("is_there", [False, True])
def test_what_is_written_has_no_name_where_that_can_be(tmp_path, is_there):
    nameless = system.open_nameless_file(str(tmp_path), 0o600)
    if nameless is not None:
        os.close(nameless)
    if is_there:
        (tmp_path / "out.tar").write_bytes(b"old")
    target = open_target(str(tmp_path / "out.tar"), force=is_there)
    target.write(DATA)
    assert len(os.listdir(tmp_path)) == is_there + (nameless is None)
    target.commit()
    assert os.listdir(tmp_path) == ["out.tar"]


def test_what_is_taken_back_is_gone(tmp_path):
    target = open_target(str(tmp_path / "out.tar"), force=False)
    target.write(DATA)
    target.truncate(5)
    assert target.end == 5
    target.write(b"end")
    target.commit()
    assert (tmp_path / "out.tar").read_bytes() == DATA[:5] + b"end"


def test_abort_leaves_nothing(tmp_path):
    target = open_target(str(tmp_path / "out.tar"), force=False)
    target.write(DATA)
    target.abort()
    target.abort()
    assert os.listdir(tmp_path) == []


def test_abort_after_a_commit_does_nothing(tmp_path):
    path = tmp_path / "out.tar"
    target = open_target(str(path), force=False)
    target.write(DATA)
    target.commit()
    target.abort()
    assert path.read_bytes() == DATA


def test_an_existing_file_is_refused(tmp_path):
    path = tmp_path / "out.tar"
    path.write_bytes(b"old")
    with pytest.raises(SourceError, match=r"out\.tar exists; use -w/--force to replace it"):
        open_target(str(path), force=False)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.tar"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_appeared_meanwhile_is_not_replaced(tmp_path, monkeypatch, has_links):
    if not has_links:
        without_hard_links(monkeypatch)
    path = tmp_path / "out.tar"
    target = open_target(str(path), force=False)
    target.write(DATA)
    path.write_bytes(b"somebody's")
    with pytest.raises(SourceError, match="exists; use -w"):
        target.commit()
    assert path.read_bytes() == b"somebody's"
    assert os.listdir(tmp_path) == ["out.tar"]


def without_hard_links(monkeypatch):
    # No file system has files without names then.
    monkeypatch.setattr(system, "FEATURES", system.FEATURES - {"tmpfile"})
    monkeypatch.setattr(os, "link", fail_with(errno.EPERM))


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    without_hard_links(monkeypatch)
    put(tmp_path / "out.tar")
    assert (tmp_path / "out.tar").read_bytes() == DATA
    assert os.listdir(tmp_path) == ["out.tar"]


@posix
def test_what_is_there_is_there_though_the_temporary_name_stays(tmp_path, monkeypatch):
    target = open_target(str(tmp_path / "out.tar"), force=False)
    target.write(DATA)
    # As in a directory that takes names and gives none back (`chattr +a`).
    monkeypatch.setattr(os, "unlink", fail_with(errno.EPERM))
    target.commit()
    assert (tmp_path / "out.tar").read_bytes() == DATA


@posix
def test_mode_comes_from_the_umask(tmp_path, umask):
    put(tmp_path / "out.tar")
    assert mode_of(tmp_path / "out.tar") == 0o640


@posix
@pytest.mark.parametrize("mode", [0o600, 0o444, 0o664, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path, umask, mode):
    path = tmp_path / "out.tar"
    path.write_bytes(b"old")
    path.chmod(mode)
    put(path, force=True)
    assert mode_of(path) == mode


@posix
def test_what_replaces_a_private_file_is_private_all_the_time(tmp_path, monkeypatch):
    path = tmp_path / "out.tar"
    path.write_bytes(b"old")
    path.chmod(0o600)
    # So it is as it was made, whether or not it has had a name meanwhile.
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: None)
    put(path, force=True)
    assert path.read_bytes() == DATA
    assert mode_of(path) == 0o600


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_replaced_file_keeps_its_owner(tmp_path):
    path = tmp_path / "out.tar"
    path.write_bytes(b"old")
    os.chown(path, 12, 34)
    path.chmod(0o4755)
    put(path, force=True)
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)
    assert mode_of(path) == 0o4755


@posix
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS])
def test_an_owner_that_cannot_be_kept_takes_setuid_along(tmp_path, monkeypatch, number):
    """EINVAL is that of a user namespace that does not have the owner: he is nobody there."""
    path = tmp_path / "out.tar"
    path.write_bytes(b"old")
    path.chmod(0o6755)
    monkeypatch.setattr(os, "fchown", fail_with(number))
    put(path, force=True)
    assert mode_of(path) == 0o755


@posix
@pytest.mark.parametrize("steps", [1, 2])
def test_what_a_symlink_leads_to_is_replaced(tmp_path, steps):
    real = tmp_path / "real" / "out.tar"
    real.parent.mkdir()
    real.write_bytes(b"old")
    (tmp_path / "two").symlink_to("real/out.tar")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    put(tmp_path / ("two" if steps == 1 else "one"), force=True)
    assert (tmp_path / "one").is_symlink()
    assert real.read_bytes() == DATA
    assert os.listdir(real.parent) == ["out.tar"]


@posix
def test_a_symlink_to_an_existing_file_is_refused_without_force(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(SourceError, match="link exists"):
        open_target(str(tmp_path / "link"), force=False)


@posix
def test_a_dangling_symlink_gets_its_file(tmp_path):
    (tmp_path / "link").symlink_to("sub/out.tar")
    (tmp_path / "sub").mkdir()
    put(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "sub/out.tar").read_bytes() == DATA


@posix
def test_a_loop_of_symlinks_is_an_error(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(SourceError, match="too many symbolic links"):
        open_target(str(tmp_path / "a"), force=True)


def test_the_longest_name_there_is(tmp_path):
    name = "n" * 251 + ".tar"
    put(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_too_long_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="name is too long"):
        put(tmp_path / ("n" * 300))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", "/"])
@pytest.mark.parametrize("force", [False, True])
def test_a_directory_is_refused(tmp_path, name, force):
    with pytest.raises(SourceError, match="is a directory"):
        open_target(str(tmp_path) + name, force=force)


def test_a_name_with_a_slash_at_its_end_means_a_directory(tmp_path):
    with pytest.raises(SourceError, match=r"ends in a slash is a directory's: name a file, or let"):
        put(f"{tmp_path}/missing/")
    assert os.listdir(tmp_path) == []


def test_a_missing_directory_is_one_clear_error(tmp_path):
    path = tmp_path / "missing" / "out.tar"
    with pytest.raises(SourceError) as caught:
        open_target(str(path), force=False)
    assert str(caught.value) == (
        f"{path} cannot be written: its directory does not exist: make it first"
    )


def test_a_file_in_place_of_a_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceError, match="no directory"):
        open_target(str(tmp_path / "file" / "out.tar"), force=False)


def test_an_empty_name_is_an_error():
    with pytest.raises(SourceError, match="needs a name"):
        open_target("", force=False)


NUMBERS = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO]


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["write", "fsync", "link", "replace"])
def test_an_error_of_the_system_names_the_target_and_leaves_nothing(
    tmp_path, monkeypatch, number, call
):
    path = tmp_path / "out.tar"
    if call == "replace":
        path.write_bytes(b"old")
    target = open_target(str(path), force=call == "replace")
    monkeypatch.setattr(os, call, fail_with(number))
    if call == "write":
        monkeypatch.setattr(os, "pwrite", fail_with(number), raising=False)
    if call == "link":
        monkeypatch.setattr(os, "rename", fail_with(number))
    with pytest.raises(SourceError) as caught:
        target.write(DATA)
        target.commit()
    monkeypatch.undo()
    target.abort()
    assert str(caught.value).startswith(f"{path} cannot be written: ")
    assert errors.REASONS[number] in str(caught.value)
    assert os.listdir(tmp_path) == (["out.tar"] if call == "replace" else [])


@posix
def test_the_disk_has_the_file_before_it_is_seen_and_then_its_name(tmp_path, monkeypatch):
    path = tmp_path / "out.tar"
    synced = []

    def recorded(fd):
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), path.exists()))
        fsync(fd)

    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", recorded)
    put(path)
    assert synced == [(False, False), (True, True)]


def test_the_disk_is_not_waited_for_where_nobody_cares(tmp_path, monkeypatch):
    for call in ("fsync", "posix_fadvise"):
        monkeypatch.setattr(os, call, fail_with(errno.EIO), raising=False)
    target = open_target(str(tmp_path / "out.tar"), force=False, sync=False)
    for _ in range(11):
        target.write(DATA)
    target.commit()
    assert (tmp_path / "out.tar").read_bytes() == DATA * 11


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch, call):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    target = open_target(str(tmp_path / "out.tar"), force=False)
    monkeypatch.setattr(os, call, interrupt)
    if call == "write":
        monkeypatch.setattr(os, "pwrite", interrupt, raising=False)
    try:
        target.write(DATA)
        target.commit()
    except KeyboardInterrupt:
        target.abort()
    else:
        pytest.fail("was not interrupted")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV])
def test_a_bind_mounted_file_says_that_it_is_one(tmp_path, monkeypatch, number):
    path = tmp_path / "out.tar"
    path.write_bytes(b"old")
    target = open_target(str(path), force=True)
    monkeypatch.setattr(os, "replace", fail_with(number))
    with pytest.raises(SourceError, match="bind-mounted"):
        target.commit()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.tar"]


def test_a_real_bind_mount(tmp_path):
    path = tmp_path / "out.tar"
    path.write_bytes(b"old")
    (tmp_path / "other").write_bytes(b"other")
    try:
        mounted = subprocess.run(
            ["mount", "--bind", tmp_path / "other", path], capture_output=True, check=False
        )
    except OSError:
        pytest.skip("has no mount")
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        with pytest.raises(SourceError, match="bind-mounted"):
            put(path, force=True)
        assert sorted(os.listdir(tmp_path)) == ["other", "out.tar"]
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_real_full_disk(tmp_path):
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path],
            capture_output=True,
            check=False,
        )
    except OSError:
        pytest.skip("has no mount")
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        target = open_target(str(tmp_path / "out.tar"), force=False)
        with pytest.raises(SourceError, match="no space is left"):
            target.write(DATA)
        target.abort()
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# In place


@posix
def test_dev_null_needs_no_force():
    target = open_target("/dev/null", force=False)
    assert not target.is_atomic
    target.write(DATA)
    target.commit()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no /dev/full")
def test_dev_full_is_full():
    target = open_target("/dev/full", force=False)
    with pytest.raises(SourceError, match="/dev/full cannot be written: no space is left"):
        target.write(DATA)
    target.abort()


@posix
def test_a_fifo_is_written_in_place(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    got = []
    thread = threading.Thread(target=lambda: got.append(path.read_bytes()))
    thread.start()
    put(path)
    thread.join()
    assert got == [DATA]
    assert stat.S_ISFIFO(path.stat().st_mode)


@posix
@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_an_open_descriptor_is_written_where_it_stands(tmp_path, form):
    if not os.path.isdir(os.path.dirname(form) or "/"):
        pytest.skip("has no such directory")
    with open(tmp_path / "out", "w+b", buffering=0) as file:
        file.write(b"before ")
        path = f"/dev/fd/{file.fileno()}"
        if form == "link":
            (tmp_path / "link").symlink_to(path)
            path = str(tmp_path / "link")
        else:
            path = form.format(file.fileno())
        put(path, b"tar")
        file.write(b" after")
    assert (tmp_path / "out").read_bytes() == b"before tar after"


@pytest.mark.parametrize("is_linked", [False, True])
def test_the_pipe_of_another_process(tmp_path, is_linked):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("has no /proc")
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        path = f"/proc/{other.pid}/fd/1"
        if is_linked:
            (tmp_path / "link").symlink_to(path)
            path = str(tmp_path / "link")
        put(path, b"tar")
        other.stdin.close()
        assert other.stdout.read() == b"tar"


def test_a_file_that_another_process_has_open_is_replaced(tmp_path):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("has no /proc")
    with open(tmp_path / "out", "w+b") as out:
        out.write(b"old")
        out.flush()
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out) as other:
            put(f"/proc/{other.pid}/fd/1", b"tar", force=True)
        assert (tmp_path / "out").read_bytes() == b"tar"
        assert os.pread(out.fileno(), 10, 0) == b"old"
        assert os.listdir(tmp_path) == ["out"]


@posix
def test_dev_stdout_is_standard_output():
    code = (
        "from dimgx.targets.singlefile import open_target\n"
        "t = open_target('/dev/stdout', force=False); t.write(b'tar'); t.commit(); print('!')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"tar!\n"


@posix
def test_a_descriptor_that_is_not_open_is_an_error():
    for number in (987, 1 << 31, 1 << 80):
        with pytest.raises(SourceError, match="not open for writing"):
            open_target(f"/dev/fd/{number}", force=False)


@posix
def test_a_socket_is_refused(tmp_path, monkeypatch):
    import socket

    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(SourceError, match="a socket"):
            open_target("s", force=True)


# Files that are open already


def test_a_file_object(tmp_path):
    with open(tmp_path / "out", "wb") as file:
        target = open_stream_target(file)
        target.write(DATA)
        target.write(memoryview(b"end"))
        target.commit()
        assert (tmp_path / "out").read_bytes() == DATA + b"end"
        assert not file.closed


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no /dev/full")
def test_what_a_buffer_cannot_get_rid_of_is_told_by_the_commit():
    file = open("/dev/full", "wb")
    target = open_stream_target(file)
    target.write(b"few")
    with pytest.raises(SourceError, match="/dev/full cannot be written: no space is left"):
        target.commit()
    with suppress(OSError):
        file.close()


def test_bytes_in_memory():
    file = io.BytesIO(b"0123")
    file.seek(2)
    target = open_stream_target(file)
    target.write(b"abc")
    target.commit()
    assert file.getvalue() == b"01abc"


def test_a_raw_file_that_writes_only_a_part_each_time():
    class Slow(io.RawIOBase):
        got = b""

        def writable(self):
            return True

        def write(self, data):
            self.got += bytes(data[:1000])
            return min(1000, len(data))

    file = Slow()
    target = open_stream_target(file)
    target.write(DATA[:54321])
    target.commit()
    assert file.got == DATA[:54321]


@posix
@pytest.mark.parametrize("has_poll", [True, False])
def test_a_socket_that_does_not_block_is_waited_for(monkeypatch, has_poll):
    if not has_poll:
        monkeypatch.delattr("select.poll")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    got, waits = bytearray(), []
    wait_writable = system.wait_writable

    def read():
        while piece := theirs.recv(65536):
            got.extend(piece)

    thread = threading.Thread(target=read)

    def wait(fd):
        if not waits:
            thread.start()
        waits.append(fd)
        wait_writable(fd)

    class Socket(socket.SocketIO):
        refused = 0

        def write(self, data):
            assert self.refused == len(waits)
            written = super().write(data)
            self.refused += written is None
            return written

    monkeypatch.setattr(system, "wait_writable", wait)
    with theirs:
        with ours, Socket(ours, "w") as file:
            target = open_stream_target(file)
            target.write(DATA)
            target.write(b"end")
            target.commit()
        assert waits
        thread.join()
    assert got == DATA + b"end"


@pytest.mark.parametrize(("count", "has_descriptor"), [(0, False), (None, False), (0, True)])
def test_a_file_that_takes_nothing_is_an_error(count, has_descriptor):
    class Full(io.RawIOBase):
        calls = 0

        def writable(self):
            return True

        def fileno(self):
            return 1 if has_descriptor else super().fileno()

        def write(self, data):
            self.calls += 1
            assert self.calls < 9
            return count

    target = open_stream_target(Full())
    with pytest.raises(SourceError, match="cannot be written: it takes no more bytes"):
        target.write(DATA)


def test_a_buffer_without_a_descriptor():
    class Kept(io.RawIOBase):
        got = b""

        def writable(self):
            return True

        def write(self, data):
            self.got += bytes(data)
            return len(data)

    kept = Kept()
    target = open_stream_target(io.BufferedWriter(kept))
    target.write(DATA[:9999])
    target.commit()
    assert kept.got == DATA[:9999]


@pytest.mark.parametrize("is_buffered", [False, True])
def test_what_is_between_a_file_and_its_descriptor_is_not_passed_by(is_buffered):
    class Coded(io.RawIOBase):  # as of a socket with TLS
        def writable(self):
            return True

        def fileno(self):
            return writer

        def write(self, data):
            return os.write(writer, bytes(data).hex().encode()) // 2

    reader, writer = os.pipe()
    file = io.BufferedWriter(Coded()) if is_buffered else Coded()
    target = open_stream_target(file)
    target.write(b"secret")
    target.commit()
    os.close(writer)
    with open(reader, "rb") as got:
        assert got.read() == b"secret".hex().encode()


def test_an_object_that_passes_on_all_but_what_it_changes():
    class Coded:
        def write(self, data):
            return file.write(bytes(data).hex().encode()) // 2

        def __getattr__(self, name):
            return getattr(file, name)

    reader, writer = os.pipe()
    with open(writer, "wb") as file:
        target = open_stream_target(Coded())
        target.write(b"secret")
        target.commit()
    with open(reader, "rb") as got:
        assert got.read() == b"secret".hex().encode()


def test_an_object_that_says_nothing_of_what_it_took():
    class Body:
        got = b""

        def write(self, data):
            self.got += bytes(data)

    body = Body()
    target = open_stream_target(body)
    target.write(b"abc")
    target.commit()
    assert body.got == b"abc"


@pytest.mark.parametrize("kind", ["buffered", "raw"])
def test_a_pipe(kind):
    reader, writer = os.pipe()
    got = bytearray()

    def read():
        while piece := os.read(reader, 65536):
            got.extend(piece)

    thread = threading.Thread(target=read)
    thread.start()
    with open(writer, "wb", buffering=0 if kind == "raw" else 8192) as file:
        if kind == "buffered":
            file.write(b"earlier ")
        target = open_stream_target(file)
        target.write(DATA)
        target.commit()
    thread.join()
    os.close(reader)
    assert got == (b"earlier " if kind == "buffered" else b"") + DATA


@posix
def test_a_reader_that_leaves_is_a_broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as file:
        target = open_stream_target(file)
        with pytest.raises(BrokenPipeError):
            target.write(DATA)
        target.abort()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no /dev/full")
@pytest.mark.parametrize("named", ["/dev/full", b"/dev/full", Path("/dev/full")])
@pytest.mark.parametrize("buffering", [0, 4096])
def test_a_file_object_is_called_by_its_name(named, buffering):
    with open(named, "wb", buffering=buffering) as file:
        target = open_stream_target(file)
        with pytest.raises(SourceError, match=r"^/dev/full cannot be written: no space"):
            target.write(DATA)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no /dev/full")
def test_an_object_without_a_name_is_the_target():
    with open(os.open("/dev/full", os.O_WRONLY), "wb", buffering=0) as file:
        target = open_stream_target(file)
        with pytest.raises(SourceError, match=r"^the target cannot be written: no space"):
            target.write(DATA)


@posix
def test_standard_output_is_called_so():
    code = """
from dimgx.targets.singlefile import open_stream_target
try:
    with open(1, "wb", buffering=0, closefd=False) as file:
        open_stream_target(file).write(b"more")
except Exception as exc:
    sys.exit(str(exc))
"""
    with open("/dev/null", "rb") as readable:
        done = subprocess.run(
            [sys.executable, "-c", "import sys" + code],
            stdout=readable, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.stderr == b"stdout cannot be written: it is not open for writing\n"


@pytest.mark.parametrize("buffering", [0, 4096])
def test_a_file_that_is_open_for_reading_says_so(tmp_path, buffering):
    (tmp_path / "in").write_bytes(b"x")
    with open(tmp_path / "in", "rb", buffering=buffering) as file:
        target = open_stream_target(file)
        with pytest.raises(SourceError, match="in cannot be written: it is not open for writing"):
            target.write(DATA)


def test_no_descriptor_is_left(tmp_path):
    before = open_files()
    put(tmp_path / "a")
    put(tmp_path / "a", force=True)
    put("/dev/null")
    put("/dev/fd/2", b"")
    open_target(str(tmp_path / "b"), force=False).abort()
    assert not open_files() - before
