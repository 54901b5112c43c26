"""An image at the Docker Engine that `docker` speaks to: by dimgx, and by the engine's own means.

The image is loaded into the engine, and removed again. What of dimgx's time is the engine's own is
its save, received by curl and thrown away.
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
from benchmarks.sections import ratio, ratios, timed
from benchmarks.session import Session

Row = dict[str, Any]
EXPORT, SAVE = "docker create + export", "the engine's save"
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
    lacking = [tool for tool in ("docker", "curl") if shutil.which(tool) is None]
    if lacking:
        return f"not on PATH: {' '.join(lacking)}"
    if not (os.environ.get("DOCKER_HOST") or "unix://").startswith("unix://"):
        return "DOCKER_HOST is no socket on this machine"
    if not answers("docker", "info", "--format", "{{.ServerVersion}}"):
        return "no Docker Engine answers"
    return None


def contenders(dimgx: Dimgx, image: str) -> list[Command]:
    """Give the commands for the image with the ID `image`."""
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"

    def export(corpus: Corpus, out: Path) -> Steps:
        return [[Job(("sh", "-c", SHELL, "sh", image, str(out / "flat.tar")))]]

    def save(corpus: Corpus, out: Path) -> Steps:
        socket = host.removeprefix("unix://")
        url = f"http://engine/images/{image}/get"
        return [[Job(("curl", "-sSf", "-o", "/dev/null", "--unix-socket", socket, url))]]

    return [
        dimgx.flatten("none", "--verify", "none", image=image),
        dimgx.flatten("once", "--verify", "once", image=image),
        Command(EXPORT, export, "flat.tar", is_docker=True),
        Command(SAVE, save),
    ]


def measure(session: Session, row: rows.EngineRow) -> Row:
    """dimgx against the engine's export, and the share that the engine's save has in it."""
    result: Row = {**asdict(row), "against": EXPORT, "times": {}, **ratios({}, EXPORT)}
    result |= {"share": None, "share_verified": None}
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
    return {
        **result,
        "times": times,
        **ratios(times, EXPORT),
        "share": ratio(times[SAVE], times["none"]),
        "share_verified": ratio(times[SAVE], times["once"]),
    }
