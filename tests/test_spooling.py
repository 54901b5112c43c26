"""Layers that processes decode must come out as those that threads decode."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dimgx import system
from tests.dsl import END, file, layer
from tests.programs import CHECKOUT, run
from tests.test_streaming import many_layers, write_image

pytestmark = pytest.mark.skipif("fork" not in system.FEATURES, reason="only Linux forks here")

# In a process of its own: pytest's has threads, and such a one does not fork. It tells how many
# layers processes have decoded, this one among them.
COUNTED = """
import os, sys
from dimgx import cli
from dimgx.readers import walkers
from dimgx.readers.spooling import Spooling
walkers.SHARE = 1 << 10
take_over, taken = Spooling.take_over, []
def counting(self, layers):
    spools = take_over(self, layers)
    taken.extend(spools)
    return spools
Spooling.take_over = counting
code = cli.main()
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print(len(taken), file=sys.stderr)
sys.exit(code)
"""


def flattened(path: Path, *words: str, ok: bool = True) -> tuple[bytes, list[str]]:
    """Flatten an image with `--root-entry`, which is not done while it is decoded.

    Gives the tar and what was said, the number of layers last.
    """
    options = ["--root-entry", *words, "-t", "-", path]
    command = [sys.executable, "-W", "error", "-c", COUNTED, *options]
    done = run(command, ok=ok, env={"PYTHONPATH": str(CHECKOUT)})
    return done.stdout, done.stderr.decode().splitlines()


@pytest.mark.parametrize("compression", ["gzip", "zstd", "mixed"])
def test_processes_decode_layers(tmp_path: Path, compression: str) -> None:
    layers = many_layers(7)
    forms: Any = ["gzip", None, "zstd", "xz"] if compression == "mixed" else compression
    path = write_image(tmp_path, layers, forms)
    expected, said = flattened(path, "--threads", "1")
    assert said == ["0"]
    for threads in ("2", "3"):
        for verify in ("once", "all", "none"):
            found, said = flattened(path, "--threads", threads, "--verify", verify)
            assert found == expected
            assert said == ["3" if compression == "mixed" else "4"]


def test_threads_decode_layers_where_memory_is_short(tmp_path: Path) -> None:
    path = write_image(tmp_path, many_layers(8))
    expected, _ = flattened(path, "--threads", "1")
    for memory in ("0", "1M"):
        found, said = flattened(path, "--threads", "2", "--memory", memory)
        assert found == expected
        assert said == ["0"]


def test_a_layer_that_gets_too_long_is_left_to_threads(tmp_path: Path) -> None:
    path = write_image(tmp_path, [*many_layers(9), layer(file("zeros", bytes(40 << 20)))])
    expected, _ = flattened(path, "--threads", "1")
    found, said = flattened(path, "--threads", "2", "--memory", "200M")
    assert found == expected
    assert said == ["4"]


@pytest.mark.parametrize("place", range(4))
def test_an_error_is_the_same_in_any_number_of_processes(tmp_path: Path, place: int) -> None:
    layers = many_layers(10)
    layers[place] = layers[place].removesuffix(END) + layer(file("z", checksum=b"000001\0 "))
    path = write_image(tmp_path, layers)
    (_, alone), (_, together) = (flattened(path, "--threads", n, ok=False) for n in "12")
    assert f"layer {place + 1}/4" in alone[0]
    assert together[0] == alone[0]
    assert together[1:] == ["3"]  # the others need not be decoded again
