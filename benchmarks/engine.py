"""`python -m benchmarks.engine`: an image at a running Docker Engine, by dimgx and by the engine.

The image is loaded into the engine that `docker` speaks to, and removed again. In each round come,
in turn, `docker create` with `docker export`, dimgx, and what of that is the engine's own: its
save, received by curl and thrown away.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import corpora, machine
from benchmarks.measure import Job, Samples, run, touch_memory, warm
from benchmarks.run import default_work_dir

HERE = Path(__file__).resolve().parent
SHELL = 'id=$(docker create "$1" none) && docker export -o "$2" "$id"; docker rm "$id" >/dev/null'


def docker(*words: str | Path) -> str:
    """Run the engine's client and give what it writes."""
    done = subprocess.run(["docker", *map(str, words)], check=True, capture_output=True, text=True)
    return done.stdout


def load(archive: Path) -> str:
    """Load an image into the engine, and give its ID."""
    told = docker("load", "-q", "-i", archive).split()[-1]
    return docker("image", "inspect", "--format", "{{.Id}}", told).strip()


def socket_path() -> str:
    """Give the engine's socket; curl is measured there only."""
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        raise SystemExit("DOCKER_HOST is to be a socket on this machine")
    return host.removeprefix("unix://")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the image's size")
    parser.add_argument("--shape", default="ordinary", choices=sorted(corpora.SHAPES))
    parser.add_argument("--work", type=Path, default=default_work_dir())
    options = parser.parse_args()
    work: Path = options.work
    corpus = corpora.ensure(work, options.shape, "plain", scale=options.scale, layout=True)
    image = load(corpus.archive)
    out, exported = work / "engine-out.tar", work / "engine-export.tar"
    env = {"PYTHONPATH": str(HERE.parent)}
    commands = {
        "docker create + export": Job(("sh", "-c", SHELL, "sh", image, str(exported))),
        "dimgx -t": Job((sys.executable, "-m", "dimgx", "-w", "-t", str(out), image), env=env),
        "dimgx --verify none -t": Job(
            (sys.executable, "-m", "dimgx", "--verify", "none", "-w", "-t", str(out), image),
            env=env,
        ),
        "the engine's save": Job(
            ("curl", "-sf", "-o", "/dev/null", "--unix-socket", socket_path(),
             f"http://engine/images/{image}/get")
        ),
    }  # fmt: skip
    samples = {name: Samples() for name in commands}
    try:
        for name, job in commands.items():  # once, so that all is in the page cache
            run([[job]])
            warm([path for path in (out, exported) if path.exists()])
            print(f"warmed up: {name}", file=sys.stderr)
        for _ in range(options.rounds):
            for name, job in commands.items():
                out.unlink(missing_ok=True)
                exported.unlink(missing_ok=True)
                touch_memory(corpus.plain_bytes * 2)
                samples[name].add(run([[job]]))
    finally:
        docker("image", "rm", image)
        out.unlink(missing_ok=True)
        exported.unlink(missing_ok=True)
    report(samples, corpus, work, options.rounds)
    return 0


def report(samples: dict[str, Samples], corpus: corpora.Corpus, work: Path, rounds: int) -> None:
    """Print the table: seconds, ratios to the engine's export, and shares of its save."""
    facts = machine.describe(work)
    version = docker("version", "--format", "{{.Server.Version}}").strip()
    print(
        f"{corpus.shape}, {corpus.members} members, {corpus.plain_bytes / 1e6:.0f} MB;"
        f" Docker {version}; {facts['cpu']}, {facts['cpus']} CPUs, {facts['system']},"
        f" load {facts['load']}; medians of {rounds} rounds in turn (minima)"
    )
    export, save = samples["docker create + export"], samples["the engine's save"]
    for name, one in samples.items():
        ratios = [own / other for own, other in zip(one.wall_s, export.wall_s, strict=True)]
        shares = [other / own for own, other in zip(one.wall_s, save.wall_s, strict=True)]
        text = f"{name:24} {one.median_s:7.2f} s ({one.min_s:.2f})"
        text += f"  {statistics.median(ratios):5.2f} of the export"
        if name.startswith("dimgx"):
            text += f", the engine's save being {statistics.median(shares):.0%} of it"
        print(text)


if __name__ == "__main__":
    raise SystemExit(main())
