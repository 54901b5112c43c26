"""What only some systems have, with all of it and with none of it."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from dimgx import cgroup, system
from dimgx.errors import ImageError

FULL = system.FEATURES


@pytest.fixture(params=[FULL, frozenset()], ids=["all", "none"], autouse=True)
def features(request, monkeypatch):
    monkeypatch.setattr(system, "FEATURES", request.param)
    return request.param


@pytest.fixture
def numbers(tmp_path):
    """A file of 3 MiB and a bit in which every four bytes are different."""
    data = b"".join(n.to_bytes(4, "big") for n in range((3 << 18) + 5))
    path = tmp_path / "numbers"
    path.write_bytes(data)
    fd = system.open_read(str(path))
    yield fd, data
    os.close(fd)


def test_pread_reads_at_an_offset(numbers):
    fd, data = numbers
    assert system.pread(fd, 100, 4096) == data[4096:4196]


def test_pread_goes_on_where_a_call_gives_a_part(numbers, monkeypatch, features):
    call = "pread" if "pread" in features else "read"
    whole = getattr(os, call)
    monkeypatch.setattr(os, call, lambda fd, size, *place: whole(fd, min(size, 1000), *place))
    fd, data = numbers
    assert system.pread(fd, 4096, 100) == data[100:4196]
    assert system.pread(fd, 4096, len(data) - 1500) == data[-1500:]


def test_pread_into_fills_a_view(numbers):
    fd, data = numbers
    view = memoryview(bytearray(1000))
    assert system.pread_into(fd, view, len(data) - 300) == 300
    assert view[:300] == data[-300:]


@pytest.mark.skipif("procfs" not in FULL, reason="needs /proc")
def test_what_cannot_be_read_is_named(tmp_path, features):
    fd = system.open_read(str(tmp_path))
    for read in (
        lambda: system.pread(fd, 10, 0),
        lambda: system.pread_into(fd, memoryview(bytearray(10)), 0),
    ):
        with pytest.raises(IsADirectoryError) as caught:
            read()
        assert caught.value.filename == (str(tmp_path) if features else None)
    os.close(fd)


def test_read_into_gives_what_is_there_and_then_the_end():
    reader, writer = os.pipe()
    view = memoryview(bytearray(10))
    os.write(writer, b"abc")
    assert (system.read_into(reader, view), bytes(view[:3])) == (3, b"abc")
    os.write(writer, b"twelve bytes")
    os.close(writer)
    assert (system.read_into(reader, view), bytes(view)) == (10, b"twelve byt")
    assert (system.read_into(reader, view), bytes(view[:2])) == (2, b"es")
    assert system.read_into(reader, view) == 0
    os.close(reader)


def test_reads_in_threads_do_not_disturb_each_other(numbers):
    fd, data = numbers
    wrong = []

    def read(start: int) -> None:
        for offset in range(start, len(data) - 64, 40_000):
            if system.pread(fd, 64, offset) != data[offset : offset + 64]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(n * 4,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, 1), (7, 1 << 20), (1, (3 << 20) - 1)])
def test_iter_extent_gives_its_bytes_in_bounded_pieces(numbers, offset, size):
    fd, data = numbers
    pieces = [bytes(piece) for piece in system.iter_extent(fd, offset, size)]
    assert b"".join(pieces) == data[offset : offset + size]
    assert all(0 < len(piece) <= 1 << 20 for piece in pieces)


def test_iter_extent_says_that_the_file_ends_early(numbers):
    fd, data = numbers
    with pytest.raises(ImageError, match=f"ends 8 bytes early, at offset {len(data)}"):
        list(system.iter_extent(fd, 100, len(data) - 92))


def test_write_at_writes_where_it_is_told(tmp_path):
    fd = system.open_unlinked_file(str(tmp_path))
    system.write_at(fd, b"world", 6)
    system.write_at(fd, memoryview(b"hello "), 0)
    assert system.pread(fd, 100, 0) == b"hello world"
    os.close(fd)


@pytest.mark.parametrize("offset", [0, 1, system.STEP - 1, system.STEP])
def test_files_are_written_in_steps_from_border_to_border(tmp_path, monkeypatch, offset, features):
    steps = []

    def recorded(fd, data, *place):
        steps.append(len(data))
        return write(fd, data, *place)

    call = "pwrite" if "pread" in features else "write"
    write = getattr(os, call)
    data = os.urandom(3 * system.STEP + 7)
    fd = system.open_unlinked_file(str(tmp_path))
    monkeypatch.setattr(os, call, recorded)
    system.write_at(fd, data, offset)
    system.write_at(fd, b"", offset + len(data))
    monkeypatch.undo()
    assert system.pread(fd, 2 * len(data), 0) == bytes(offset) + data
    os.close(fd)
    first = system.STEP - offset % system.STEP
    assert steps[0] == first and max(steps) <= system.STEP and sum(steps) == len(data)
    assert steps[1:-1] == [system.STEP] * len(steps[1:-1])


def test_file_that_is_let_go_of_is_closed_whatever_its_disk_says(tmp_path, monkeypatch):
    def late(fd):
        close(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    close = os.close
    fd = system.open_unlinked_file(str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", late)
        system.let_go(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        system.let_go(fd)


def test_unlinked_file_leaves_nothing(tmp_path):
    fd = system.open_unlinked_file(str(tmp_path))
    system.write_all(fd, b"x" * 1000)
    os.close(fd)
    assert list(tmp_path.iterdir()) == []


def test_interrupt_between_a_file_and_its_descriptor_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args):
        os.close(open_(*args))
        raise KeyboardInterrupt

    open_ = os.open
    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        system.open_unlinked_file(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_unlinked_file_is_private_and_not_inherited(tmp_path):
    fd = system.open_unlinked_file(str(tmp_path))
    assert os.fstat(fd).st_mode & 0o777 == 0o600
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_memory_file_is_there_only_where_the_system_has_it(features):
    fd = system.open_memory_file()
    assert (fd is not None) == ("memfd" in features)
    if fd is not None:
        system.write_at(fd, b"abc", 0)
        assert system.pread(fd, 9, 0) == b"abc"
        os.close(fd)


def test_write_all_waits_for_a_pipe_that_does_not_block():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = os.urandom(1 << 20)
    got = bytearray()

    def read() -> None:
        while piece := os.read(reader, 65536):
            got.extend(piece)

    thread = threading.Thread(target=read)
    thread.start()
    system.write_all(writer, data)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert got == data


def test_write_all_waits_whatever_number_a_pipe_has():
    """`select` takes none above 1,023."""
    fcntl = pytest.importorskip("fcntl")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    reader, writer = os.pipe()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 1100), limits[1]))
    try:
        high = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, 1024)
        os.set_blocking(high, False)
        os.write(high, bytes(system.PIECE))  # as much as it holds
        thread = threading.Timer(0.1, os.read, (reader, system.PIECE))
        thread.start()
        system.write_all(high, b"x")
        thread.join()
        os.close(high)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(writer)
        os.close(reader)


def test_pread_leaves_the_position_where_it_was(tmp_path, features):
    (tmp_path / "f").write_bytes(b"abcdef")
    with open(tmp_path / "f", "rb", buffering=0) as file:
        assert file.read(2) == b"ab"
        assert system.pread(file.fileno(), 2, 3) == b"de"
        assert file.read() == b"cdef"


def test_widen_pipe_makes_it_wider_where_that_can_be(features):
    fcntl = pytest.importorskip("fcntl")
    reader, writer = os.pipe()
    before = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    system.widen_pipe(writer)
    after = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    assert after == (1 << 20 if "pipe size" in features else before)
    os.close(reader)
    os.close(writer)


def test_widen_pipe_and_start_writing_leave_a_file_alone(tmp_path):
    with open(tmp_path / "f", "wb", buffering=0) as file:
        file.write(b"abc")
        system.widen_pipe(file.fileno())
        system.start_writing(file.fileno(), 0, 3)
    assert (tmp_path / "f").read_bytes() == b"abc"


def test_at_least_one_cpu_and_some_memory():
    assert 1 <= system.usable_cpus() <= (os.cpu_count() or 1)
    assert system.free_memory() > 1 << 20


def test_shared_memory_is_in_memory(features):
    if not os.path.isdir("/dev/shm"):
        pytest.skip("has no /dev/shm")
    assert system.is_in_memory("/dev/shm") == ("procfs" in features)
    assert not system.is_in_memory("/proc")


V2 = "36 25 0:31 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "30 25 0:26 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "31 25 0:27 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
CPUS = [
    ("v2", V2, "0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
    ("v2-max", V2, "0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, None),
    (
        "v2-outer-group-is-tighter",
        V2,
        "0::/a/b\n",
        {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "50000 100000\n"},
        0.5,
    ),
    ("v2-top-as-a-container-sees-it", V2, "0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
    ("v2-outside-of-the-namespace", V2, "0::/../x\n", {"cpu.max": "200000 100000\n"}, 2.0),
    (
        "v1",
        V1.format(root="/"),
        "4:cpu,cpuacct:/a\n3:memory:/a\n0::/\n",
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
        2.5,
    ),
    (
        "v1-without-a-quota",
        V1.format(root="/"),
        "4:cpu,cpuacct:/a\n",
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "-1", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
        None,
    ),
    (
        "v1-mounted-at-our-own-group",
        V1.format(root="/docker/0123"),
        "4:cpu,cpuacct:/docker/0123\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        1.0,
    ),
    (
        "v1-mounted-above-our-own-group",
        V1.format(root="/docker/0123"),
        "4:cpu,cpuacct:/docker/0123/sub\n",
        {
            "cpu,cpuacct/sub/cpu.cfs_quota_us": "100000",
            "cpu,cpuacct/sub/cpu.cfs_period_us": "50000",
        },
        2.0,
    ),
    (
        "v2-mounted-at-a-name-with-a-space",
        V2.replace("/cgroup ", "/cgroup\\040x "),
        "0::/a\n",
        {"../cgroup x/a/cpu.max": "150000 100000\n"},
        1.5,
    ),
    ("nothing", "", "", {}, None),
    ("odd-lines", "x\n\n - \na b - c\n", "\n0\n:::\n", {}, None),
]
LIMIT = 1000 << 20
MEMORY = [
    (
        "v2",
        V2,
        "0::/a\n",
        {
            "a/memory.max": str(LIMIT),
            "a/memory.current": str(600 << 20),
            "a/memory.stat": f"anon 5\ninactive_file {100 << 20}\nactive_file 7\n",
        },
        500 << 20,
    ),
    ("v2-max", V2, "0::/a\n", {"a/memory.max": "max", "a/memory.current": "5"}, None),
    (
        "v2-outer-group-is-tighter",
        V2,
        "0::/a/b\n",
        {
            "a/b/memory.max": str(LIMIT),
            "a/b/memory.current": "0",
            "a/memory.max": "5000",
            "a/memory.current": "7000",
        },
        0,
    ),
    (
        "v1",
        V1.format(root="/"),
        "4:cpu,cpuacct:/\n3:memory:/a\n",
        {
            "memory/a/memory.limit_in_bytes": str(LIMIT),
            "memory/a/memory.usage_in_bytes": str(LIMIT),
            "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 4096\n",
        },
        4096,
    ),
    (
        "v1-unlimited",
        V1.format(root="/"),
        "3:memory:/a\n",
        {
            "memory/a/memory.limit_in_bytes": "9223372036854771712",
            "memory/a/memory.usage_in_bytes": "1",
        },
        None,
    ),
    (
        "v2-without-a-stat",
        V2,
        "0::/a\n",
        {"a/memory.max": "7000", "a/memory.current": "4000", "memory.max": "5000"},
        3000,
    ),
    ("nothing", "", "", {}, None),
]


def build_root(path, mountinfo, groups, files):
    (path / "proc/self").mkdir(parents=True)
    (path / "proc/self/mountinfo").write_text(mountinfo)
    (path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("mountinfo", "groups", "files", "quota"), [c[1:] for c in CPUS], ids=[c[0] for c in CPUS]
)
def test_cpu_quota(tmp_path, mountinfo, groups, files, quota):
    assert cgroup.cpu_quota(build_root(tmp_path, mountinfo, groups, files)) == quota


@pytest.mark.parametrize(
    ("mountinfo", "groups", "files", "left"), [c[1:] for c in MEMORY], ids=[c[0] for c in MEMORY]
)
def test_memory_left(tmp_path, mountinfo, groups, files, left):
    assert cgroup.memory_left(build_root(tmp_path, mountinfo, groups, files)) == left


@pytest.mark.parametrize(("quota", "cpus"), [(0.2, 1), (1.5, 2), (1.0, 1), (None, 4), (99.0, 4)])
def test_quota_is_rounded_up(monkeypatch, features, quota, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(cgroup, "cpu_quota", lambda: quota)
    assert system.usable_cpus() == (cpus if "procfs" in features else 4)


def test_free_memory_heeds_the_group(monkeypatch, features):
    monkeypatch.setattr(cgroup, "memory_left", lambda: 12345)
    assert (system.free_memory() == 12345) == ("procfs" in features)
