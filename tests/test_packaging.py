"""The house: what is imported when, which way imports point, what setup.cfg says."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import dimgx
from tests.dsl import file, layer
from tests.programs import missing
from tests.writers import docker_archive, image, oci_archive

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dimgx"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
COMMAND = {"dimgx.__main__", "dimgx.cli"}
COMMAND.update(name for name in MODULES if name.startswith("dimgx.console"))
HEAVY = (
    "dataclasses",
    "dateutil",
    "docker",
    "humanize",
    "inspect",
    "isal",
    "json",
    "logging",
    "lzma",
    "requests",
    "tarfile",
    "zstandard",
)


def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def loaded_after(code: str) -> set[str]:
    """Give the modules that a bare interpreter has loaded after it ran `code`."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.split())


def imports_of(path: Path, *, with_types: bool = False) -> set[str]:
    """Give what of the package a module imports when it runs, also within functions."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        is_for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if is_for_types and not with_types:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name for name in found if name in MODULES}


def test_imports_go_one_way() -> None:
    # `from dimgx import __version__` needs nothing of what the package imports when asked.
    graph = {
        name: imports_of(path, with_types=name != "dimgx") - {"dimgx"}
        for name, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_packages_go_one_way() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if name.count(".") == 2:
            others = {other for other in imports_of(path, with_types=True) if other.count(".") == 2}
            package = name.rpartition(".")[0]
            graph.setdefault(package, set()).update(other.rpartition(".")[0] for other in others)
    assert len(graph) > 5
    TopologicalSorter({name: others - {name} for name, others in graph.items()}).prepare()


def test_what_developers_are_told_is_there() -> None:
    text = (ROOT / "docs" / "development.rst").read_text(encoding="utf-8")
    told = set(re.findall(r"``(dimgx/\w+)/``", text))
    packages = {f"dimgx/{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert told == packages
    table = text.partition("Where things are")[2].partition("Imports go one way")[0]
    modules = {path.stem for path in MODULES.values()} | {path.name for path in PACKAGE.iterdir()}
    named = set(re.findall(r"``([a-z]+)``", table))
    assert "merge" in named and named <= modules


@pytest.mark.parametrize("name", sorted(MODULES))
def test_library_does_not_know_the_command(name: str) -> None:
    if name not in COMMAND:
        assert not imports_of(MODULES[name]) & COMMAND


@pytest.mark.parametrize("name", sorted(set(MODULES) - COMMAND - {"dimgx"}))
def test_core_does_not_know_the_functions_that_join_it(name: str) -> None:
    if name != "dimgx.api":
        assert "dimgx.api" not in imports_of(MODULES[name])


@pytest.mark.parametrize("name", sorted(set(MODULES) - COMMAND))
def test_library_leaves_the_process_alone(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    touched = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    called = {node.func.id for node in ast.walk(tree)
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
    forbidden = {"os.environ", "os.getenv", "os.umask", "os._exit", "sys.exit", "signal.signal"}
    if name == "dimgx.readers.forked":  # what it ends is a process that it forked off itself
        forbidden.remove("os._exit")
    assert not touched & forbidden
    assert "print" not in called


@pytest.mark.parametrize("name", sorted(MODULES))
def test_module_is_of_a_size_to_read(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 400


def test_import_is_light() -> None:
    loaded = loaded_after("import dimgx")
    assert {name for name in loaded if name.startswith("dimgx")} == {"dimgx"}


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version_loads_next_to_nothing(option: str) -> None:
    before = loaded_after("")
    loaded = loaded_after(f"from dimgx.cli import main; main([{option!r}])") - before
    assert loaded <= {"__future__", "dimgx", "dimgx.cli", "dimgx.errors"}


def test_help_loads_nothing_heavy() -> None:
    # argparse itself loads shutil for the terminal's width, with it lzma, and from 3.14 on colours.
    argparse_alone = "import argparse; argparse.ArgumentParser().format_help()"
    loaded = loaded_after("from dimgx.cli import main; main(['--help'])")
    loaded -= loaded_after(argparse_alone)
    assert loaded.isdisjoint(HEAVY)
    assert not any(name.startswith("dimgx.sources") for name in loaded)


UNNEEDED = {
    *("concurrent.futures", "logging", "platform", "select", "selectors", "shutil", "socket"),
    *("subprocess", "tarfile", "tempfile", "urllib.parse", "zstandard", "bz2", "lzma"),
    *("ast", "dataclasses", "inspect"),
    *("dimgx.encode", "dimgx.legacy", "dimgx.report", "dimgx.stream"),
    *("dimgx.merging.content", "dimgx.merging.figures", "dimgx.merging.pathrules"),
    *("dimgx.console.imageoutput", "dimgx.console.template"),
    *("dimgx.images.origin", "dimgx.images.resultnames"),
    *("dimgx.targets.state", "dimgx.sources.endpoint"),
    *("dimgx.sources.layout", "dimgx.sources.parentchain", "dimgx.sources.registry"),
}


PICTURE = image(layer(file("etc/a", b"x")))


@pytest.mark.parametrize(
    ("transport", "archive", "needed"),
    [
        ("docker-archive", docker_archive(PICTURE, vintage="digest.tar"), set()),
        ("oci-archive", oci_archive(PICTURE, default=None), {"dimgx.sources.layout"}),
        # The layout beside has the manifest; several compressed layers are decoded at once, and the
        # library's pool of threads logs.
        (
            "docker-archive",
            docker_archive(PICTURE, vintage="29"),
            {"concurrent.futures", "logging", "dimgx.sources.layout"},
        ),
    ],
    ids=["plain", "layout", "gzip"],
)
def test_run_loads_what_it_needs(
    tmp_path: Path, transport: str, archive: bytes, needed: set[str]
) -> None:
    (tmp_path / "image.tar").write_bytes(archive)
    words = ["-t", str(tmp_path / "flat.tar"), f"{transport}:{tmp_path / 'image.tar'}"]
    loaded = loaded_after(f"from dimgx.cli import main; assert main({words!r}) == 0")
    # What the parts of the standard library that are needed load themselves is theirs.
    parts = [
        "typing; typing.NamedTuple('Any', [('it', 'int')])",
        "contextlib; contextlib.ExitStack().enter_context(contextlib.nullcontext())",
    ]
    parts += [name for name in needed if not name.startswith("dimgx.")]
    theirs = loaded_after("\n".join(f"import {part}" for part in parts))
    assert loaded & UNNEEDED == (needed | theirs) & UNNEEDED


# An engine that is not there is looked for, and then some more is done.
AT_AN_ENGINE = """
import dimgx
try:
    dimgx.open_image('app', engine=dimgx.EngineOptions(host='{host}'))
except dimgx.TemporaryError:
    {then}
"""


def test_what_only_ssh_needs_is_loaded_when_it_is_used() -> None:
    if find_spec("paramiko") is None:
        missing("the package for ssh is not here: pip install '.[ssh]'")
    host, have = "tcp://127.0.0.1:1", "from docker.transport import sshconn"
    assert "paramiko" not in loaded_after(AT_AN_ENGINE.format(host=host, then=have))
    use = f"{have}; sshconn.paramiko.SSHClient; import paramiko; paramiko.SSHClient"
    assert "paramiko" in loaded_after(AT_AN_ENGINE.format(host=host, then=use))


def test_no_client_is_loaded_where_no_engine_listens() -> None:
    loaded = loaded_after(AT_AN_ENGINE.format(host="unix:///no/socket", then="pass"))
    assert loaded.isdisjoint({"docker", "requests"})


def test_every_public_name_can_be_had() -> None:
    assert set(dimgx.__all__) == set(dir(dimgx))
    for name in dimgx.__all__:
        assert getattr(dimgx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dimgx.nothing  # noqa: B018


def test_version_stands_in_one_place() -> None:
    assert config()["metadata"]["version"] == "attr: dimgx.__version__"
    assert dimgx.__version__ in (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")


def lower_bounds() -> dict[str, str]:
    """Give the lowest version that setup.cfg allows of each thing that dimgx needs."""
    lines = config()["options"]["install_requires"].split("\n")
    lines += config()["options.extras_require"]["completion"].split("\n")
    bounds = {}
    for requirement in (Requirement(line) for line in lines if line.strip()):
        (only,) = requirement.specifier
        assert only.operator == ">="
        bounds[requirement.name] = only.version
    return bounds


def test_lowest_versions_are_those_that_are_tested() -> None:
    lines = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split(" == ") for line in lines if line and not line.startswith("#"))
    assert pins == lower_bounds()


def test_every_dependency_is_installed_as_wanted() -> None:
    for name, lowest in lower_bounds().items():
        assert Requirement(f"{name} >= {lowest}").specifier.contains(version(name))


def test_installed_metadata_match_setup_cfg() -> None:
    try:
        stated = requires("dimgx") or []
    except ImportError:
        pytest.skip("dimgx is not installed here, only on the path")
    names = {Requirement(line).name for line in stated if "extra ==" not in line}
    assert names == set(lower_bounds()) - {"shtab"}
