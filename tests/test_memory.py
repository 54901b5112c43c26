"""The memory that may be used: all that is kept anywhere counts together."""

from __future__ import annotations

import gzip
import io
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import dimgx
from dimgx import write_images
from dimgx.cli import main
from dimgx.spool import SpoolSpace
from tests.dsl import file, layer
from tests.results import PLATFORM
from tests.writers import docker_archive, image, oci_archive


@pytest.fixture
def kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what all budgets together have in memory: now, and at most."""
    counted = [0, 0]

    def change(size: int) -> None:
        counted[0] += size
        counted[1] = max(counted)

    reserve, release = SpoolSpace.reserve, SpoolSpace.release
    try_reserve = SpoolSpace.try_reserve
    monkeypatch.setattr(
        SpoolSpace, "reserve", lambda space, size: (reserve(space, size), change(size))[0]
    )
    monkeypatch.setattr(
        SpoolSpace, "release", lambda space, size: (release(space, size), change(-size))[0]
    )
    monkeypatch.setattr(
        SpoolSpace, "try_reserve",
        lambda space, size: try_reserve(space, size) and (change(size), True)[1],
    )  # fmt: skip
    return counted


@pytest.mark.parametrize(
    "options", [{}, {"keep_layers": True}, {"squash_from": "@1"}], ids=["flat", "kept", "squashed"]
)
def test_memory_is_for_all_together(kept_in_memory: list[int], options: dict[str, Any]) -> None:
    """What is kept of the images, what layers are made of, and what waits to be written."""
    some = random.Random(1).randbytes
    layers = [layer(file(f"{n}", some(4_000_000))) for n in range(3)]
    limit = 15_000_000
    with ExitStack() as stack:
        wanted = []
        for name in "ab":
            data = docker_archive(image(*layers, tags=(f"{name}:1",)))
            stdin = io.BytesIO(data)
            left = limit - kept_in_memory[0]
            found = dimgx.open_image("-", stdin=stdin, memory=left, platform=PLATFORM)
            wanted.append(stack.enter_context(found))
        assert 12_000_000 < kept_in_memory[0] <= limit
        write_images(wanted, io.BytesIO(), form="oci-archive", memory=limit,
                     layer_compression="gzip", **options)  # fmt: skip
    assert kept_in_memory[0] == 0 < kept_in_memory[1] <= limit


def test_memory_of_the_command_is_for_all_images(
    tmp_path: Path, kept_in_memory: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    some = random.Random(2).randbytes
    for name in "abc":
        picture = image(layer(file(name, some(4_000_000))), tags=(f"{name}:1",))
        Path(f"{name}.tar.gz").write_bytes(gzip.compress(docker_archive(picture), 1))
    words = ["--memory", "5M", "-w", "./a.tar.gz", "./b.tar.gz", "./c.tar.gz", "-t"]
    for target in ("oci-archive:out.tar", "{index}.tar"):
        assert main([*words, target]) == 0
        assert 4_000_000 < kept_in_memory[1] <= 5 << 20


@pytest.mark.parametrize("limit", [16_000_000, 20_000_000])
def test_memory_for_decoded_layers_is_what_the_others_leave(
    kept_in_memory: list[int], limit: int
) -> None:
    some = random.Random(3).randbytes
    layers = [layer(file(f"{n}", some(3_000_000))) for n in range(5)]
    with ExitStack() as stack:
        wanted = []
        for name, count in (("a", 3), ("b", 5)):
            data = oci_archive(image(*layers[:count], tags=(name,)))
            left = limit - kept_in_memory[0] if limit < 20_000_000 else 0
            found = dimgx.open_image("-", stdin=io.BytesIO(data), memory=left, platform=PLATFORM)
            wanted.append(stack.enter_context(found))
        write_images(wanted, io.BytesIO(), form="docker-archive", memory=limit)
    assert kept_in_memory[0] == 0 < kept_in_memory[1] <= limit
