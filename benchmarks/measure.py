"""Runs commands and tells what they took: wall time, CPU time of the whole tree, memory.

Memory that a virtual machine has given back to its host costs seconds a gigabyte to touch again,
so before each timed run as much as the run may need is touched and freed, for everybody alike.
"""

from __future__ import annotations

import mmap
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

PIECE = 1 << 20
PAGE = 4096
AT_ONCE = 2
"""How many jobs of a step run together."""
TIMEOUT_S = 900
LOOK_S = 0.004
"""How often the memory of a run is looked at."""


class CommandFailed(Exception):
    """A command ended badly, or not in time."""


@dataclass(frozen=True, slots=True)
class Job:
    """One process of a command."""

    argv: tuple[str, ...]
    stdin: Path | None = None
    stdout: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment."""


Steps = Sequence[Sequence[Job]]
"""Steps run one after the other; the jobs of one step AT_ONCE together."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took, in seconds."""

    wall_s: float
    cpu_s: float


@dataclass(slots=True)
class Samples:
    """What the rounds of one command took."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def add(self, run: Run) -> None:
        self.wall_s.append(run.wall_s)
        self.cpu_s.append(run.cpu_s)

    @property
    def median_s(self) -> float:
        return statistics.median(self.wall_s)

    @property
    def min_s(self) -> float:
        return min(self.wall_s)

    @property
    def median_cpu_s(self) -> float:
        return statistics.median(self.cpu_s)


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory that a run held, in bytes."""

    resident: int
    """What all processes of the tree held together, but for what follows."""
    decoded: int
    """What lay in memory files (memfd) and in memory that the processes share."""


def touch_memory(size: int) -> None:
    """Touch `size` bytes of memory, or half of what is free if that is less, and free them."""
    size = min(size, free_memory() // 2)
    if size < PAGE:
        return
    with mmap.mmap(-1, size) as memory:
        try:
            memory.madvise(23)  # MADV_POPULATE_WRITE
        except (AttributeError, OSError, ValueError):
            zeros = bytes(PIECE)
            for _ in range(size // PIECE):
                memory.write(zeros)


def free_memory() -> int:
    """Give the memory that is free without dropping any page cache, in bytes."""
    with suppress(OSError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemFree:"):
                return int(line.split()[1]) * 1024
    return 1 << 30


def warm(paths: Sequence[Path]) -> None:
    """Read files, so that they lie in the page cache."""
    buffer = bytearray(PIECE)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def run(steps: Steps, *, timeout_s: float = TIMEOUT_S) -> Run:
    """Run a command and tell what it took.

    Raises: CommandFailed.
    """
    cpu_s = 0.0
    started = time.perf_counter()
    for jobs in steps:
        cpu_s += _run_step(jobs, started + timeout_s)
    return Run(time.perf_counter() - started, cpu_s)


def _run_step(jobs: Sequence[Job], deadline: float) -> float:
    waiting = list(reversed(jobs))
    running: dict[int, Process] = {}
    cpu_s = 0.0
    late = threading.Event()

    def give_up() -> None:
        late.set()
        for pid in list(running):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    timer = threading.Timer(max(0.1, deadline - time.perf_counter()), give_up)
    timer.daemon = True
    timer.start()
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE and not late.is_set():
                job = waiting.pop()
                process = Process(job)
                running[process.pid] = process
            pid, status, usage = os.wait4(-1, 0)
            if pid not in running:
                continue
            process = running.pop(pid)
            cpu_s += usage.ru_utime + usage.ru_stime
            process.finish(os.waitstatus_to_exitcode(status), is_late=late.is_set())
    finally:
        timer.cancel()
        give_up()
        for process in running.values():
            process.popen.wait()
            process.errors.close()
    return cpu_s


class Process:
    """A job that runs, in a process group of its own; what it says on stderr is kept.

    Raises: CommandFailed where it cannot be started.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.errors = tempfile.TemporaryFile()
        with ExitStack() as files:
            files.push(lambda kind, *_: self.errors.close() if kind else None)
            stdin = files.enter_context(job.stdin.open("rb")) if job.stdin else None
            stdout = files.enter_context(job.stdout.open("wb")) if job.stdout else None
            try:
                self.popen = subprocess.Popen(
                    job.argv,
                    stdin=stdin or subprocess.DEVNULL,
                    stdout=stdout or subprocess.DEVNULL,
                    stderr=self.errors,
                    env={**os.environ, **job.env},
                    start_new_session=True,
                )
            except OSError as exc:
                raise CommandFailed(f"{job.argv[0]}: {exc.strerror}") from exc
        self.pid = self.popen.pid

    def finish(self, returncode: int, *, is_late: bool = False) -> None:
        """Look at how it ended.

        Raises: CommandFailed.
        """
        self.popen.returncode = returncode
        with self.errors as errors:
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").strip()
        if is_late:
            raise CommandFailed(f"{self.job.argv[0]}: not done in time")
        if returncode:
            last = said.splitlines()[-1] if said else "no message"
            raise CommandFailed(f"{' '.join(self.job.argv[:3])}: exit {returncode}: {last}")


# -- memory ----------------------------------------------------------------------------------------


def run_for_peak(job: Job) -> Peak:
    """Run one job, untimed, and watch its memory.

    What processes share counts once (/proc/PID/smaps_rollup, proportional sizes), and is looked at
    every few milliseconds, since the kernel keeps no high-water mark of that.

    Raises: CommandFailed.
    """
    process = Process(job)
    resident = decoded = 0
    deadline = time.perf_counter() + TIMEOUT_S
    status = None
    while status is None:
        held = shared = 0
        for pid in _tree(process.pid):
            own, mapped = _proportional(pid)
            held, shared = held + own, shared + mapped
        resident = max(resident, held)
        decoded = max(decoded, shared + _memory_files(process.pid))
        if time.perf_counter() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            process.popen.wait()
            process.finish(-signal.SIGKILL, is_late=True)
        time.sleep(LOOK_S)
        status = process.popen.poll()
    process.finish(status)
    return Peak(resident, decoded)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            yield from _tree(int(child))


def _proportional(pid: int) -> tuple[int, int]:
    """Give a process's part of memory of its own or from files, and of memory that is shared."""
    sizes = {"Pss_Anon:": 0, "Pss_File:": 0, "Pss_Shmem:": 0}
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            name, size, *_ = line.split()
            if name in sizes:
                sizes[name] = int(size) * 1024
    return sizes["Pss_Anon:"] + sizes["Pss_File:"], sizes["Pss_Shmem:"]


def _memory_files(pid: int) -> int:
    total = 0
    with suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{fd}"
            with suppress(OSError):
                if os.readlink(path).startswith("/memfd:"):
                    total += os.stat(path).st_blocks * 512
    return total
