"""Carries the rows out: makes images, runs commands in turn, checks outputs, collects figures."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import check, measure
from benchmarks.commands import Command, Dimgx
from benchmarks.corpora import Corpus, ensure
from benchmarks.measure import CommandFailed, Samples

HEADROOM = 4
"""How much memory is touched before a run, in times of what output and decoded layers may need.

A run may get any memory that is free, and the host takes some back while it is being touched. With
300 MB more than needed `cp` of 2 GB took 0.6 to 3 s.
"""


@dataclass(slots=True)
class Outcome:
    """What a command did in one row."""

    samples: Samples = field(default_factory=Samples)
    failure: str | None = None
    verdict: str | None = None
    """`right`, or in what its output differs; None for what is no flat tar."""
    example: str = ""


@dataclass(slots=True)
class Session:
    """Where and how the benchmark runs."""

    work: Path
    dimgx: Dimgx
    rounds: int
    peer_rounds: int
    scale: float = 1.0
    peers: Sequence[Command] = ()
    say: Callable[[str], None] = lambda text: None
    corpora: dict[tuple[str, str], Corpus] = field(default_factory=dict)
    listings: dict[Path, Mapping[bytes, bytes]] = field(default_factory=dict)

    def dimgx_is_ready(self) -> None:
        """Run dimgx once, so that all of it is read; compile it before, as installing it does.

        Raises: CommandFailed.
        """
        if self.dimgx.package is not None:
            compileall.compile_dir(self.dimgx.package, quiet=1)
        corpus = ensure(self.work, "one", "plain", scale=self.scale)
        out = self.fresh_directory()
        measure.run(self.dimgx.flatten("dimgx").steps(corpus, out))
        shutil.rmtree(out)

    def corpus(self, shape: str, variant: str = "plain") -> Corpus:
        """Give an image, made if it is not there yet."""
        key = (shape, variant)
        if key not in self.corpora:
            self.say(f"image {shape}, {variant}")
            self.corpora[key] = ensure(self.work, shape, variant, scale=self.scale)
            os.sync()
        return self.corpora[key]

    def compare(
        self, corpus: Corpus, contenders: Sequence[Command], rounds: int
    ) -> dict[str, Outcome]:
        """Run commands in turn, round by round; the first output of each is checked."""
        outcomes = {command.name: Outcome() for command in contenders}
        for number in range(rounds):
            for command in contenders:
                outcome = outcomes[command.name]
                if outcome.failure is None:
                    self.say(f"{corpus.shape} {corpus.variant}: {command.name}, {number + 1}")
                    self.one_round(corpus, command, outcome)
        return outcomes

    def one_round(self, corpus: Corpus, command: Command, outcome: Outcome) -> None:
        """Run a command once, in an empty directory that is removed after."""
        out = self.fresh_directory()
        try:
            steps = command.steps(corpus, out)
            # Who syncs its output is not to wait for what the last command left to be written.
            os.sync()
            measure.warm([*self.inputs(corpus, steps), *command.inputs])
            # Output, and decoded layers where there are any.
            copies = 1 if corpus.variant in ("plain", "dot") else 2
            measure.touch_memory(HEADROOM * copies * corpus.plain_bytes)
            outcome.samples.add(measure.run(steps))
            if command.output and outcome.verdict is None:
                self.judge(corpus, command, out / command.output, outcome)
        except CommandFailed as exc:
            outcome.failure = str(exc)
        finally:
            for argv in command.clean_up:
                with suppress(OSError):
                    subprocess.run(argv, capture_output=True, check=False)
            shutil.rmtree(out, ignore_errors=True)

    def fresh_directory(self) -> Path:
        out = self.work / f"out-{os.getpid()}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return out

    def inputs(self, corpus: Corpus, steps: measure.Steps) -> list[Path]:
        """Give the files of an image that a command names."""
        files = []
        for job in (job for jobs in steps for job in jobs):
            files += [job.stdin] if job.stdin else []
            for part in job.argv:
                path = Path(part.removeprefix("docker-archive:"))
                if path.is_relative_to(corpus.directory) and path.is_file():
                    files.append(path)
                elif part.startswith(f"{corpus.layout}:"):
                    files += corpus.layers()
        return files

    def judge(self, corpus: Corpus, command: Command, output: Path, outcome: Outcome) -> None:
        """Compare an output with the model; a compressed one is unpacked first."""
        if output.suffix != ".tar":
            output = unpacked(output)
        if corpus.listing not in self.listings:
            # Listings of a million paths are large; one is enough at a time.
            self.listings.clear()
            self.listings[corpus.listing] = check.read_listing(corpus.listing)
        try:
            verdict = check.compare(
                self.listings[corpus.listing],
                check.read_flat(output),
                is_strict=command.is_strict,
                is_docker=command.is_docker,
            )
        except check.BrokenTar as exc:
            outcome.verdict = str(exc)
        else:
            outcome.verdict = str(verdict)
            outcome.example = verdict.example

    def make_flat(self, corpus: Corpus, path: Path) -> None:
        """Write an image's flat tar with dimgx, for tools that begin with one.

        Raises: CommandFailed.
        """
        image = f"docker-archive:{corpus.archive}"
        measure.run([[self.dimgx.job("--verify", "none", "-w", "-t", path, image)]])


def unpacked(path: Path) -> Path:
    """Unpack a compressed tar beside itself."""
    target = path.with_suffix(".unpacked.tar")
    tool = "zstd" if path.suffix == ".zst" else "gzip"
    with target.open("wb") as file:
        found = subprocess.run((tool, "-dc", str(path)), stdout=file, check=False)
    if found.returncode:
        raise CommandFailed(f"{path.name} cannot be unpacked by {tool}")
    return target
