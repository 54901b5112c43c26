"""What README and manual tell people to type is what the program takes."""

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
PAGES = [CHECKOUT / "README.rst", *sorted((CHECKOUT / "docs").glob("*.rst"))]
COMMANDS = [
    re.sub(r"<\(.*?\)", "/dev/fd/63", part).strip()
    for page in PAGES
    for line in re.findall(
        r"^    (?:\$ )?(?!python3)(\S.*)$", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    for part in re.split(r"[|]|&&", line.partition("#")[0])
    if part.split()[:1] == ["dimgx"]
]
MANUAL = (CHECKOUT / "docs" / "command.rst").read_text(encoding="utf-8")
OPTION = re.compile(r"(?<![-\w])--?[a-zA-Z][-a-z0-9]*")


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


def test_manual_tells_of_each_option() -> None:
    summary = dimgx("--help").stdout.decode()
    there = set(OPTION.findall(" ".join(re.findall(r"^  (-.*?)(?:  |$)", summary, re.MULTILINE))))
    options = MANUAL.partition("\nOptions\n---")[2].partition("\nThe target\n")[0]
    assert len(there) > 60
    assert set(OPTION.findall(options)) == there


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
