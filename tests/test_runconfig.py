"""The run settings: the JSON against its source, the fragment read by real shells."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimgx.errors import ImageError
from dimgx.images.runconfig import RunConfig, is_exported, parse_run_config
from tests.programs import need

SHELLS = ("sh", "dash", "bash", "bash --posix", "busybox sh")
SETTINGS = {
    "User": "1000:100",
    "Env": ["PATH=/usr/bin:/bin", 'GREETING=it\'s a $HOME `date` \\ "day"', "USER=app"],
    "Entrypoint": ["/bin/sh", "-c", 'echo "$0" it\'s'],
    "Cmd": ["a b", "", "$HOME"],
    "WorkingDir": "/srv/my app",
    "Labels": {"z": "1", "a": "2"},
    "ExposedPorts": {"80/tcp": {}},
    "StopSignal": "SIGQUIT",
    "Healthcheck": {"Test": ["NONE"]},
    "X-Unknown": {"kept": True},
}
NASTY = (
    "", " ", "'", '"', "\\", "\\\\", "$", "$(touch hacked)", "`touch hacked`", "*", "~", "a\nb\n",
    "'; touch hacked; '", "-n", "--", "\t", "#", "é\u4e2d", "\x01\x7f", "a'b'c", "$'x'", "{a,b}",
    "\r", "!x",
)  # fmt: skip


def config(settings: Any = None, **more: Any) -> bytes:
    document = {"architecture": "amd64", "os": "linux", "config": settings} | more
    return json.dumps(document).encode()


def parsed(**settings: Any) -> RunConfig:
    return parse_run_config(config(settings), "the config")


def shell(
    program: str, fragment: str, script: str, directory: Path, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a script that reads the fragment in, with the shell's options on that stumble easily."""
    words = program.split()
    words[0] = need(words[0])
    (directory / "app.sh").write_text(fragment, encoding="utf-8", newline="")
    return subprocess.run(
        [*words, "-euc", f". ./app.sh\n{script}"],
        cwd=directory,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"} | environment,
        timeout=30,
        check=True,
    )


def words(program: str, fragment: str, script: str, directory: Path, **more: str) -> list[str]:
    """Give the words that a script prints, a NUL behind each."""
    done = shell(program, fragment, script, directory, **more)
    assert done.stderr == b""
    return done.stdout.decode("utf-8").split("\0")[:-1]


# -- JSON -----------------------------------------------------------------------------------------


def test_json_is_the_config_without_layers() -> None:
    found = json.loads(
        parse_run_config(
            config(
                SETTINGS,
                variant="v3",
                created="2024-01-01T00:00:00Z",
                rootfs={"type": "layers", "diff_ids": []},
                history=[{"created_by": "x"}],
                docker_version="27",
                container_config={"Cmd": ["#(nop)"]},
            ),
            "the config",
        ).format_json()
    )
    assert found == {
        "created": "2024-01-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "variant": "v3",
        "config": SETTINGS,
    }


def test_json_does_not_depend_on_how_the_source_spells_it() -> None:
    ordered = parsed(User="u", Env=["A=1"], Labels={"b": "2", "a": "1"})
    other = parsed(
        labels={"a": "1", "b": "2"}, ENV=["A=1"], user="u", Cmd=None, Volumes={}, Domainname=""
    )
    assert ordered.format_json() == other.format_json()


def test_entrypoint_of_old_may_be_one_text() -> None:
    assert parsed(Entrypoint="/bin/app").settings.entrypoint == ("/bin/app",)
    assert json.loads(parsed(Entrypoint="/bin/app").format_json())["config"] == {
        "Entrypoint": ["/bin/app"]
    }


@pytest.mark.parametrize("data", [None, config(None), config({}), b"{}"])
def test_image_that_says_nothing(data: bytes | None) -> None:
    found = parse_run_config(data, "the config")
    assert json.loads(found.format_json())["config"] == {}
    assert found.format_shell().endswith("WORKDIR='/'\nUSER=''\nENTRYPOINT=\"\"\nCMD=\"\"\n")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"Env": "A=1"}, "Env is no list"),
        ({"Env": [1]}, "Env is no list of strings"),
        ({"User": 0}, "User is no string"),
        ({"WorkingDir": []}, "WorkingDir is no string"),
        ([], "config is no JSON object"),
    ],
)
def test_malformed(settings: Any, problem: str) -> None:
    with pytest.raises(ImageError, match=problem):
        parse_run_config(config(settings), "the config")


# -- shell ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", SHELLS)
def test_fragment_in_a_shell(program: str, tmp_path: Path) -> None:
    fragment = parse_run_config(config(SETTINGS), "the config").format_shell()
    script = r"""
        printf '%s\0' "$GREETING" "$WORKDIR" "$USER"
        eval "set -- $ENTRYPOINT"; printf '%s\0' "$#" "$@"
        eval "set -- $CMD"; printf '%s\0' "$#" "$@"
        eval "set -- $ENV"; printf '%s\0' "$#" "$@"
    """
    assert words(program, fragment, script, tmp_path, USER="me") == [
        "it's a $HOME `date` \\ \"day\"", "/srv/my app", "1000:100",
        "3", *SETTINGS["Entrypoint"],
        "3", *SETTINGS["Cmd"],
        "3", *SETTINGS["Env"],
    ]  # fmt: skip


@pytest.mark.parametrize("program", SHELLS)
def test_nasty_values_arrive_whole(program: str, tmp_path: Path) -> None:
    found = parsed(
        Env=[f"N{i}={value}" for i, value in enumerate(NASTY)],
        Entrypoint=list(NASTY),
        Cmd=list(NASTY),
        WorkingDir="".join(NASTY),
        User="'\\\"$(touch hacked)",
    )
    names = " ".join(f'"$N{i}"' for i in range(len(NASTY)))
    script = rf"""
        printf '%s\0' {names} "$WORKDIR" "$USER"
        eval "set -- $ENTRYPOINT $CMD"; printf '%s\0' "$@"
    """
    assert words(program, found.format_shell(), script, tmp_path) == [
        *NASTY, "".join(NASTY), "'\\\"$(touch hacked)", *NASTY, *NASTY
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["app.sh"]


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))))
def test_any_words_arrive_whole(tmp_path_factory: pytest.TempPathFactory, cmd: list[str]) -> None:
    directory = tmp_path_factory.mktemp("words")
    fragment = parsed(Cmd=cmd).format_shell()
    script = r"""eval "set -- $CMD"; for word; do printf '%s\0' "$word"; done"""
    assert words("dash", fragment, script, directory) == cmd
    assert words("bash", fragment, script, directory) == cmd


@pytest.mark.parametrize("program", SHELLS)
def test_what_is_started_has_the_environment_of_the_image_alone(
    program: str, tmp_path: Path
) -> None:
    env = ["PATH=/usr/bin:/bin", "USER=app", "WORKDIR=w", "ENV=e", "CMD=c", "UID=7", "a-b=1"]
    env += ["_=x", "IFS=,", "PPID=1", "TWICE=1", "TWICE=2", "EMPTY=", "no name", "=x"]
    found = parsed(Env=env, Entrypoint=["/usr/bin/env"], Cmd=["-0"], User="1000")
    script = 'test "$USER" = 1000 && eval "exec env -i -- $ENV $ENTRYPOINT $CMD"'
    lines = words(program, found.format_shell(), script, tmp_path, USER="me", HOME="/h")
    assert sorted(lines) == sorted(
        set(env) - {"TWICE=1", "no name", "=x"}  # of one name the last counts
    )


@pytest.mark.parametrize("program", SHELLS)
def test_what_the_fragment_sets_itself_is_not_exported(program: str, tmp_path: Path) -> None:
    found = parsed(Env=["USER=app", "SHOWN=1"], User="1000", Cmd=["x"])
    lines = words(program, found.format_shell(), "exec env -0", tmp_path, USER="me", CMD="old")
    seen = dict(line.split("=", 1) for line in lines)
    assert seen.keys().isdisjoint({"USER", "CMD", "ENV", "ENTRYPOINT", "WORKDIR"})
    assert seen["SHOWN"] == "1"


def test_bash_can_export_every_name_that_is_exported() -> None:
    """See that no variable that bash sets for itself is among them, by asking bash."""
    done = subprocess.run(
        [need("bash"), "-c", "readonly -p; compgen -v"], capture_output=True, text=True, check=True
    )
    readonly = [line.split()[2].partition("=")[0] for line in done.stdout.splitlines()
                if line.startswith("declare -")]  # fmt: skip
    assert "UID" in readonly
    assert not any(map(is_exported, readonly))
    assert all(map(is_exported, ("PATH", "HOME", "LANG", "PS1", "TERM", "DEBIAN_FRONTEND", "x_1")))


def test_no_shell_is_made_somebody_else() -> None:
    """See that what zsh takes for an order to change its user and groups is not exported."""
    assert not any(map(is_exported, ("UID", "EUID", "GID", "EGID", "USERNAME")))


def test_workdir_is_the_root_where_there_is_none(tmp_path: Path) -> None:
    script = r"""printf '%s\0' "$WORKDIR" "$USER" "$ENTRYPOINT" "$CMD" "$ENV" """
    assert words("sh", parsed().format_shell(), script, tmp_path) == ["/", "", "", "", ""]


def test_nul_is_refused() -> None:
    with pytest.raises(ImageError, match="holds a NUL"):
        parsed(Env=["A=\0"]).format_shell()


def test_suffix_decides() -> None:
    found = parsed(User="u")
    assert found.format_for("x.sh") == found.format_shell()
    assert found.format_for("x.json") == found.format_for("-") == found.format_json()
