"""An image at a registry on this machine: Debian's docker-registry, filled by skopeo.

The least that it can cost is to fetch all layers with curl, two at a time, straight into the
decoder. What the registry itself takes is in everybody's time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.commands import Command, Dimgx
from benchmarks.corpora import Corpus
from benchmarks.measure import CommandFailed, Job, Steps
from benchmarks.sections import is_met, ratios, timed
from benchmarks.session import Session

Row = dict[str, Any]
NAME = "bench:1"
BASE = "curl | igzip -dc"
ENV = {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
TOOLS = ("docker-registry", "skopeo", "curl", "igzip")


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that runs."""

    host: str
    data: Path

    @property
    def image(self) -> str:
        return f"{self.host}/{NAME}"

    def blobs(self) -> list[Path]:
        """Give the files that it serves."""
        return sorted(self.data.glob("docker/registry/v2/blobs/*/*/*/data"))

    def push(self, corpus: Corpus) -> None:
        """Put an image there as it is.

        Raises: CommandFailed.
        """
        argv = ("skopeo", "copy", "-q", "--dest-tls-verify=false",
                f"oci:{corpus.layout}:1", f"docker://{self.image}")  # fmt: skip
        done = subprocess.run(argv, capture_output=True, check=False, env={**os.environ, **ENV})
        if done.returncode:
            raise CommandFailed(f"skopeo copy: {done.stderr.decode(errors='replace')[-300:]}")


def find(tool: str) -> str | None:
    """Give the path of a tool; daemons are not on everybody's PATH."""
    return shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


@contextmanager
def serving(
    place: Path, *, auth: Mapping[str, Any] | None = None, tls: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run docker-registry on a free port of 127.0.0.1, all of it below `place`; give its host.

    `auth` and `tls` are what its settings have of these. Its data lies in `place`/data.

    Raises: CommandFailed where it does not start.
    """
    program = find("docker-registry")
    assert program is not None
    place.mkdir(parents=True, exist_ok=True)
    config = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}},  # it tells its port
        "storage": {"filesystem": {"rootdirectory": str(place / "data")}},
        "http": {"addr": "127.0.0.1:0", "secret": "of one run", "tls": tls or {}},
        "auth": auth or {},
    }
    (place / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    log = place / "log"
    with log.open("wb") as file:
        argv = [program, "serve", str(place / "config.yml")]
        process = subprocess.Popen(argv, stdout=file, stderr=file)
    try:
        yield _wait_for_host(process, log)
    finally:
        process.terminate()
        process.wait(60)


def _wait_for_host(process: subprocess.Popen[bytes], log: Path) -> str:
    """Give host and port when it listens there."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        has_ended = process.poll() is not None
        told = re.search(r'listening on (127\.0\.0\.1:[0-9]+)[",]', log.read_text())
        if told:
            return told[1]
        if has_ended:
            break
        time.sleep(0.05)
    raise CommandFailed(f"docker-registry does not listen: {log.read_text()[-2000:]}")


def contenders(dimgx: Dimgx, registry: Registry) -> list[Command]:
    """Give the commands; what they read is the registry's."""
    served = registry.blobs()

    def flatten(verify: str) -> Command:
        image = f"docker://{registry.image}"
        return dimgx.flatten(verify, "--verify", verify, image=image, env=ENV, inputs=served)

    def fetch(corpus: Corpus, out: Path) -> Steps:
        script = "set -o pipefail; curl -sSf --noproxy '*' \"$1\" | igzip -dc"
        url = f"http://{registry.host}/v2/{NAME.partition(':')[0]}/blobs/sha256:"
        layers = sorted(corpus.layers(), key=lambda path: -path.stat().st_size)
        return [
            [
                Job(("bash", "-c", script, "sh", url + layer.name), stdout=out / f"{number}.tar")
                for number, layer in enumerate(layers)
            ]
        ]

    def by_skopeo(corpus: Corpus, out: Path) -> Steps:
        copy = ("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{registry.image}",
                f"oci:{out / 'oci'}:1")  # fmt: skip
        return [[Job(copy, env=ENV)], [dimgx.job("-t", out / "flat.tar", f"oci:{out / 'oci'}:1")]]

    def by_crane(corpus: Corpus, out: Path) -> Steps:
        return [[Job(("crane", "export", registry.image, str(out / "flat.tar")), env=ENV)]]

    found = [
        flatten("none"),
        flatten("once"),
        Command(BASE, fetch, inputs=served),
        Command("skopeo copy + dimgx", by_skopeo, "flat.tar", is_strict=True, inputs=served),
    ]
    if shutil.which("crane"):
        found.append(Command("crane export", by_crane, "flat.tar", inputs=served))
    return found


def measure(session: Session, row: rows.RegistryRow) -> Row:
    """dimgx against curl with a decoder, and against other ways to a flat tar."""
    lacking = [tool for tool in TOOLS if find(tool) is None]
    result: Row = {**asdict(row), "against": BASE, "times": {}, **ratios({}, BASE)}
    result |= {"is_met": None, "is_met_verified": None}
    if lacking:
        return {**result, "failure": f"not on PATH: {' '.join(lacking)}"}
    corpus = session.corpus(row.shape, row.variant)
    place = session.work / f"registry-{os.getpid()}"
    try:
        with serving(place) as host:
            registry = Registry(host, place / "data")
            registry.push(corpus)
            times = timed(session, corpus, contenders(session.dimgx, registry))
    except CommandFailed as exc:
        return {**result, "failure": str(exc)}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    result |= {"times": times, **ratios(times, BASE)}
    result["is_met"] = is_met(result["ratio"], row.aim)
    result["is_met_verified"] = is_met(result["ratio_verified"], row.aim_verified)
    return result
