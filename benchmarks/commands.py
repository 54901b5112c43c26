"""The commands that are compared: dimgx, copying, decoding, encoding, and other tools on PATH."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from benchmarks.corpora import TAG, Corpus
from benchmarks.measure import Job, Steps

ROOT = Path(__file__).resolve().parent.parent
CONTAINER = f"dimgx-bench-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Command:
    """One way to do a row's work."""

    name: str
    steps: Callable[[Corpus, Path], Steps]
    """What to run on an image, with a directory that is empty before and removed after."""
    output: str | None = None
    """The flat tar in that directory, where the command makes one."""
    is_strict: bool = False
    """Its output must lie in walk order with the times of directories."""
    is_docker: bool = False
    """Its output has the daemon's own files besides."""
    clean_up: Sequence[tuple[str, ...]] = ()
    """What to run after each round, untimed, whatever it says."""
    inputs: Sequence[Path] = ()
    """Files that are read on its behalf, besides those that its words name."""


class Dimgx:
    """The program that is measured: this checkout's, unless another command is given."""

    def __init__(self, command: str | None = None) -> None:
        # As the installed program does it.
        own = (sys.executable, "-c", "from dimgx.cli import program; program()")
        self.argv = tuple(shlex.split(command)) if command else own
        self.package = None if command else ROOT / "dimgx"
        self.env = {} if command else {"PYTHONPATH": str(ROOT)}

    def job(self, *args: str | Path, env: Mapping[str, str] = MappingProxyType({})) -> Job:
        return Job((*self.argv, *map(str, args)), env={**self.env, **env})

    def flatten(
        self,
        name: str,
        *options: str,
        output: str = "flat.tar",
        image: str | None = None,
        env: Mapping[str, str] = MappingProxyType({}),
        inputs: Sequence[Path] = (),
    ) -> Command:
        """Give the command that flattens `image`, by default the archive."""

        def steps(corpus: Corpus, out: Path) -> Steps:
            source = image or f"docker-archive:{corpus.archive}"
            return [[self.job(*options, "-t", out / output, source, env=env)]]

        return Command(name, steps, output, is_strict=True, inputs=inputs)

    def version(self) -> Command:
        return Command("dimgx --version", lambda corpus, out: [[self.job("--version")]])


def bare_python() -> Command:
    return Command("python -c pass", lambda corpus, out: [[Job((sys.executable, "-c", "pass"))]])


def copy() -> Command:
    """`cp` of the archive: what must be read and written at least."""
    return Command(
        "cp",
        lambda corpus, out: [[Job(("cp", str(corpus.archive), str(out / "copy.tar")))]],
    )


def decode(tool: str) -> Command:
    """Decode all layers to files, two at a time, the largest first."""

    def steps(corpus: Corpus, out: Path) -> Steps:
        layers = sorted(corpus.layers(), key=lambda path: -path.stat().st_size)
        return [
            [
                Job((tool, "-dc", *(("-q",) if tool == "zstd" else ()), str(layer)),
                    stdout=out / f"{number}.tar")
                for number, layer in enumerate(layers)
            ]
        ]  # fmt: skip

    return Command(f"{tool} -dc", steps)


def least(against: str) -> Command:
    """Give the least that a row's work can cost: `cp`, or the decoder of that name."""
    return copy() if against == "cp" else decode(against)


def on_one_cpu(command: Command) -> Command:
    """Give the same, with one of this machine's CPUs for all its processes."""
    cpu = str(min(os.sched_getaffinity(0)))

    def steps(corpus: Corpus, out: Path) -> Steps:
        return [
            [replace(job, argv=("taskset", "-c", cpu, *job.argv)) for job in jobs]
            for jobs in command.steps(corpus, out)
        ]

    return replace(command, steps=steps)


def encode(tool: str, flat: Path) -> Command:
    """Compress the flat tar, as fast as the tool that was written for it can."""
    options = ("-2", "-T", "2") if tool == "igzip" else ("-T2", "-3", "-q")

    def steps(corpus: Corpus, out: Path) -> Steps:
        return [[Job((tool, *options, "-c", str(flat)), stdout=out / "flat.out")]]

    shown = "igzip -2 -T2" if tool == "igzip" else "zstd -T2 -3"
    return Command(shown, steps)


# -- other tools -----------------------------------------------------------------------------------


def _crane(corpus: Corpus, out: Path) -> Steps:
    # An archive comes in on stdin; crane copies it into $TMPDIR first.
    job = Job(
        ("crane", "export", "-", str(out / "flat.tar")),
        stdin=corpus.archive,
        env={"TMPDIR": str(out)},
    )
    return [[job]]


def _undocker(corpus: Corpus, out: Path) -> Steps:
    return [[Job(("undocker", str(corpus.archive), str(out / "flat.tar")))]]


def _umoci(corpus: Corpus, out: Path) -> Steps:
    bundle = str(out / "bundle")
    rootless = () if os.geteuid() == 0 else ("--rootless",)
    unpack = ("umoci", "unpack", *rootless, "--image", f"{corpus.layout}:1", bundle)
    pack = (
        "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name",
        "-C", f"{bundle}/rootfs", "-cf", str(out / "flat.tar"), ".",
    )  # fmt: skip
    return [[Job(unpack)], [Job(pack)]]


def _docker(corpus: Corpus, out: Path) -> Steps:
    return [
        [Job(("docker", "load", "-q", "-i", str(corpus.archive)))],
        [Job(("docker", "create", "--name", CONTAINER, TAG, "/none"))],
        [Job(("docker", "export", "-o", str(out / "flat.tar"), CONTAINER))],
    ]


def find_peers() -> list[Command]:
    """Give the tools that are on PATH and answer."""
    peers = []
    if shutil.which("crane"):
        peers.append(Command("crane export", _crane, "flat.tar"))
    if shutil.which("undocker"):
        peers.append(Command("undocker", _undocker, "flat.tar"))
    if shutil.which("umoci"):
        peers.append(Command("umoci unpack + tar", _umoci, "flat.tar"))
    if shutil.which("docker") and answers("docker", "info", "--format", "{{.ServerVersion}}"):
        clean_up = (("docker", "rm", "-f", CONTAINER), ("docker", "rmi", "-f", TAG))
        peers.append(
            Command("docker load + export", _docker, "flat.tar", is_docker=True, clean_up=clean_up)
        )
    return peers


def answers(*argv: str) -> bool:
    """Tell whether a command ends well, and soon."""
    try:
        found = subprocess.run(argv, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0


def tool_version(name: str) -> str | None:
    """Give the first line of what `NAME --version` says, where the tool is on PATH.

    One without a digit in it says something else.
    """
    path = shutil.which(name)
    if path is None:
        return None
    for option in ("--version", "version"):
        try:
            found = subprocess.run((path, option), capture_output=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        text = (found.stdout or found.stderr).decode("utf-8", "replace").strip()
        line = text.partition("\n")[0].strip("* ")
        if found.returncode == 0 and any(map(str.isdigit, line)):
            return line
    return "there"
