"""What the README tells people to type is what the program takes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from dimgx import __version__
from dimgx.console.options import parse_args
from dimgx.reference import parse_reference
from tests.listing import list_tar
from tests.programs import CHECKOUT, dimgx, run

README = (CHECKOUT / "README.rst").read_text(encoding="utf-8")
COMMANDS = [
    part.strip()
    for line in re.findall(r"^    (?:\$ )?(?!python3)(\S.*)$", README, re.MULTILINE)
    for part in line.partition("#")[0].split("|")
    if part.split()[:1] == ["dimgx"]
]

OPTION_TABLE = re.findall(r"^``(-.*)``", README, re.MULTILINE)


def test_there_are_two_commands_for_a_fresh_machine() -> None:
    commands = re.findall(r"^    (python3 -m venv .*)$", README, re.MULTILINE)
    assert len(commands) == 2
    assert "-m pytest" in commands[1]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    options = parse_args(shlex.split(command)[1:], __version__)
    for image in options.images:
        parse_reference(image)


def test_options_exist() -> None:
    told = dimgx("--help").stdout.decode()
    for option in set(re.findall(r"(?<![-\w])--?[a-zA-Z][-a-z]*", " ".join(OPTION_TABLE))):
        assert option in told, option


def test_the_example_image_is_the_same_each_time(tmp_path: object) -> None:
    images = []
    for name in ("one.tar", "two.tar"):
        path = f"{tmp_path}/{name}"
        run([sys.executable, CHECKOUT / "examples" / "make_image.py", path])
        with open(path, "rb") as stream:
            images.append(stream.read())
    assert images[0] == images[1]
    lines = list_tar(dimgx("-t", "-", f"{tmp_path}/one.tar").stdout)
    paths = [line.split()[1] for line in lines]
    assert {"bin", "usr/bin/dimgx", "usr/share/doc/README.rst", "var/cache"} <= set(paths)
    assert "usr/share/doc/CHANGELOG.rst" not in paths and "var/cache/left-over" not in paths
    assert "h usr/bin/dimgx-list = usr/bin/dimgx-flatten" in lines
