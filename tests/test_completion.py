"""What shells offer behind `dimgx`, by the scripts that `--print-completion` prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs


def script_of(shell: str) -> str:
    done = programs.dimgx("--print-completion", shell)
    assert done.stderr == b""
    return done.stdout.decode()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_every_shell_has_a_script(shell: str) -> None:
    assert "compress-level" in script_of(shell)


def test_bash_completes(tmp_path: Path) -> None:
    script = script_of("bash")
    probe = (
        script
        + '\nCOMP_WORDS=(dimgx --ver); COMP_CWORD=1; COMP_LINE="dimgx --ver"; COMP_POINT=11\n'
        + "_shtab_dimgx dimgx --ver dimgx\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", probe], capture_output=True, check=False, timeout=30)
    assert {"--verify", "--verbose", "--version"} <= set(done.stdout.decode().split())


@pytest.mark.parametrize("words", [["./one.tar", ""], ["--load", ""], ["-q", "./one.tar", "x", ""]])
def test_bash_completes_every_image(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "one.tar").touch()
    script = script_of("bash")
    probe = (
        script
        + f"\nCOMP_WORDS=(dimgx {' '.join(repr(word) for word in words)}); COMP_CWORD={len(words)}"
        + "\n_shtab_dimgx dimgx '' dimgx\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "-c", probe], capture_output=True, check=False, timeout=30, cwd=tmp_path
    )
    assert (done.stderr, done.stdout) == (b"", b"one.tar\n")


@pytest.mark.parametrize(
    ("shell", "every_image"), [("zsh", r'  "\*:docker.*:_files"$'), ("tcsh", r"        'p/\*/f/'$")]
)
def test_other_shells_complete_every_image(shell: str, every_image: str) -> None:
    script = script_of(shell)
    assert re.search(every_image, script, re.MULTILINE)
    assert "*::: :->dimgx')" not in script  # one rest of the words is all that zsh takes
    assert "PASSWORD]" not in script  # behind a colon it would be a command of zsh


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("--ver", {"--verify", "--verbose", "--version"}),
        ("--verify ", {"once", "all", "none"}),
        ("./o", {"./one.tar"}),
        ("-q ./one.tar ./o", {"./one.tar"}),
        ("--load ./o", {"./one.tar"}),
        ("--tmpdir ./", {"./directory/"}),
    ],
)
def test_fish_completes(tmp_path: Path, words: str, offered: set[str]) -> None:
    fish = programs.need("fish")
    (tmp_path / "one.tar").touch()
    (tmp_path / "directory").mkdir()
    probe = f"cd {tmp_path}\n{script_of('fish')}\ncomplete -C 'dimgx {words}'"
    done = programs.run([fish, "--no-config", "-c", probe], env={"HOME": str(tmp_path)})
    assert {line.split("\t")[0] for line in done.stdout.decode().splitlines()} == offered


def test_completion_without_its_package_says_how_to_get_it() -> None:
    script = "import sys; sys.modules['shtab'] = None; from dimgx.cli import main; sys.exit(main())"
    done = programs.run([sys.executable, "-c", script, "--print-completion", "bash"], ok=False)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"pip install shtab, or pipx inject dimgx shtab" in done.stderr
