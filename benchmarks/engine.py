"""An image at the Docker Engine that `docker` speaks to: by dimgx, and by the engine's own means.

The image is loaded into the engine, and removed again. dimgx reads it from the engine's own files,
where it runs as root and the engine has a store that it knows, and once as the engine saves it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.commands import Command, Dimgx, answers
from benchmarks.corpora import Corpus
from benchmarks.measure import CommandFailed, Job, Steps
from benchmarks.sections import ratios, timed
from benchmarks.session import Session

Row = dict[str, Any]
EXPORT = "docker create + export"
SHELL = 'id=$(docker create "$1" none) && docker export -o "$2" "$id"; docker rm "$id" >/dev/null'


def docker(*words: str | Path) -> str:
    """Run the engine's client and give what it writes.

    Raises: CommandFailed.
    """
    done = subprocess.run(["docker", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailed(f"docker {words[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout


def load(archive: Path) -> str:
    """Load an image into the engine, and give its ID.

    Raises: CommandFailed.
    """
    told = docker("load", "-q", "-i", archive).split()[-1]
    return docker("image", "inspect", "--format", "{{.Id}}", told).strip()


def problem() -> str | None:
    """Say why nothing can be measured, if so."""
    if shutil.which("docker") is None:
        return "not on PATH: docker"
    if not (os.environ.get("DOCKER_HOST") or "unix://").startswith("unix://"):
        return "DOCKER_HOST is no socket on this machine"
    if not answers("docker", "info", "--format", "{{.ServerVersion}}"):
        return "no Docker Engine answers"
    return None


def contenders(dimgx: Dimgx, image: str) -> list[Command]:
    """Give the commands for the image with the ID `image`."""

    def export(corpus: Corpus, out: Path) -> Steps:
        return [[Job(("sh", "-c", SHELL, "sh", image, str(out / "flat.tar")))]]

    return [
        dimgx.flatten("none", "--verify", "none", image=image),
        dimgx.flatten("once", "--verify", "once", image=image),
        dimgx.flatten("dimgx --no-direct", "--no-direct", image=image),
        Command(EXPORT, export, "flat.tar", is_docker=True),
    ]


def measure(session: Session, row: rows.EngineRow) -> Row:
    """dimgx against the engine's export."""
    result: Row = {**asdict(row), "against": EXPORT, "times": {}, **ratios({}, EXPORT)}
    what = problem()
    if what is not None:
        return {**result, "failure": what}
    corpus = session.corpus(row.shape, row.variant)
    try:
        image = load(corpus.archive)
        try:
            times = timed(session, corpus, contenders(session.dimgx, image))
        finally:
            docker("image", "rm", "-f", image)
    except CommandFailed as exc:
        return {**result, "failure": str(exc)}
    return {**result, "times": times, **ratios(times, EXPORT)}
