"""What goes into the tar, by the command and by the API: paths, names, files of one's own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

import dimgx as package
from dimgx import extractor, system
from dimgx.console import command
from dimgx.console.messages import Messages
from dimgx.extractor import FlatTar
from dimgx.flattening import open_flat_of
from dimgx.image import Layer
from dimgx.recipe import Recipe
from tests.cases import flatten_members
from tests.dsl import dir_, file, hardlink, layer, symlink, whiteout
from tests.listing import list_tar
from tests.programs import CHECKOUT, dimgx, flat_bytes, need, need_root, refused, run
from tests.writers import compress, docker_archive, image, oci_layout

BELOW = [
    dir_("etc", mode=0o750), file("etc/conf", "old"), file("usr/bin/app", "app", mode=0o755),
    hardlink("usr/bin/tool", "usr/bin/app", mode=0o755), symlink("bin", "usr/bin"),
    file("usr/share/doc/app/README", "read"), file("usr/share/doc/app/copyright", "free"),
]  # fmt: skip
ABOVE = [whiteout("etc/conf"), file("etc/new", "new"), file("usr/lib/x.pyc"), dir_("var/cache")]
PICTURE = image(layer(*BELOW), layer(*ABOVE))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.tar").write_bytes(docker_archive(PICTURE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(*words: str | Path) -> list[str]:
    return list_tar(flat_bytes("./app.tar", *map(str, words)))


def test_exclude(place: Path) -> None:
    assert listed("--exclude", "usr/share/doc", "--exclude", "*.pyc", "--exclude", "/var/**") == [
        "l bin -> usr/bin", "d etc mode=750", "f etc/new 'new'", "d usr", "d usr/bin",
        "f usr/bin/app 'app' mode=755", "h usr/bin/tool = usr/bin/app", "d usr/lib", "d usr/share",
        "d var",
    ]  # fmt: skip


def test_include(place: Path) -> None:
    assert listed("--include", "usr/bin/tool") == [
        "d usr", "d usr/bin", "f usr/bin/tool 'app' mode=755",
    ]  # fmt: skip


def test_the_order_of_both_counts(place: Path) -> None:
    copyright = [
        "d usr", "d usr/share", "d usr/share/doc", "d usr/share/doc/app",
        "f usr/share/doc/app/copyright 'free'",
    ]  # fmt: skip
    words = ["--include", "usr/share", "--exclude=usr/share/doc/**", "--include", "copyright"]
    assert listed(*words) == copyright
    assert listed(*words[:2], *words[3:], words[2]) == copyright[:3]
    some = listed("--exclude", "/usr", "--include", "copyright")
    assert [line for line in some if "usr/" in line] == ["l bin -> usr/bin", *copyright[1:]]


def test_what_is_not_in_the_image_is_exit_2_and_nothing_is_written(place: Path) -> None:
    target = place / "out.tar"
    for words, told in (
        (["--include", "etc/conf"], "--include etc/conf matches nothing in the image"),
        (["--exclude", "*"], "nothing is left of the image"),
        (["--strip-components", "9"], "nothing is left of the image"),
        (["--strip-components", "3"], "would become"),
    ):
        picture = image(layer(*BELOW, file("a/b/c/x"), file("a/b/d/x")), layer(*ABOVE))
        (place / "app.tar").write_bytes(docker_archive(picture))
        code, line = refused("./app.tar", "-t", target, *words)
        assert code == 2 and told in line
        assert not target.exists()


def test_bad_patterns_and_prefixes_are_told_before_anything_is_opened(place: Path) -> None:
    for words in (["--include", "/"], ["--exclude", "a/../b"], ["--prefix", ".."], ["--prefix=/"]):
        code, line = refused("./missing.tar", "-t", "out.tar", *words)
        assert code == 1 and (words[0].partition("=")[0] in line or "pattern" in line)


def test_a_symlink_that_points_at_what_is_left_out_is_warned_of(place: Path) -> None:
    done = dimgx("-t", "out.tar", "--exclude", "/usr/bin", "./app.tar")
    told = "a symlink points at what is left out: 'bin' -> 'usr/bin'"
    assert done.stderr.decode() == f"dimgx: warning: {told}\n"
    assert dimgx("-wt", "out.tar", "--exclude", "*.pyc", "./app.tar").stderr == b""


def test_an_exclude_behind_a_symlink_is_warned_of(place: Path) -> None:
    words = ("--exclude", "/bin/app", "--exclude=/usr/bin", "--exclude=*/none", "--exclude=/no/x")
    done = dimgx("-t", "out.tar", *words, "./app.tar")
    assert done.stderr.decode() == (
        "dimgx: warning: --exclude /bin/app matches nothing in the image: /bin is no directory"
        " there, and symbolic links are not followed\n"
        "dimgx: warning: a symlink points at what is left out: 'bin' -> 'usr/bin'\n"
    )
    assert dimgx("-wt", "out.tar", "--exclude", "/bin", "./app.tar").stderr == b""


def test_names(place: Path) -> None:
    words = ["--include", "usr/bin", "--strip-components", "1", "--prefix", "opt/app/"]
    assert listed(*words) == [
        "d opt", "d opt/app", "d opt/app/bin", "f opt/app/bin/app 'app' mode=755",
        "h opt/app/bin/tool = opt/app/bin/app",
    ]  # fmt: skip
    tar = flat_bytes("./app.tar", *words)
    done = subprocess.run([need("tar"), "-t"], input=tar, capture_output=True, check=True)
    assert len(done.stdout.splitlines()) == 5


def test_rows_and_rules_go_together(place: Path) -> None:
    assert listed("-l", "@0", "--include", "etc") == ["d etc mode=750", "f etc/conf 'old'"]
    code, _ = refused("./app.tar", "-l", "@1", "-t", "out.tar", "--include", "bin")
    assert code == 2


OWN = layer(
    file("etc/wsl.conf", "[boot]", uid=3), whiteout("usr/share"), file("etc/new", "own"),
    symlink("sbin", "usr/bin"),
)  # fmt: skip


def test_a_tar_on_top(place: Path) -> None:
    (place / "own.tar").write_bytes(OWN)
    expected = list_tar(flatten_members([BELOW, ABOVE]))
    found = listed("--add-layer", "own.tar")
    assert [line for line in found if line not in expected] == [
        "f etc/new 'own'", "f etc/wsl.conf '[boot]' owner=3:0", "l sbin -> usr/bin",
    ]  # fmt: skip
    assert [line for line in expected if line not in found] == [
        "f etc/new 'new'", "d usr/share", "d usr/share/doc", "d usr/share/doc/app",
        "f usr/share/doc/app/README 'read'", "f usr/share/doc/app/copyright 'free'",
    ]  # fmt: skip


def test_a_directory_on_top_and_the_last_covers(place: Path) -> None:
    for name, data in (("one", "1"), ("two", "2")):
        (place / name / "etc").mkdir(parents=True, mode=0o755)
        (place / name / "etc" / "new").write_text(data)
        (place / name / "etc" / "new").chmod(0o640)
        (place / name / "etc").chmod(0o755)
    found = listed("--add-layer", "one", "--add-layer", "two/")
    assert "f etc/new '2' mode=640" in found and "d etc mode=750" in found
    assert "f etc/new '1' mode=640" in listed("--add-layer", "two", "--add-layer", "one")


def test_rules_and_names_are_for_what_is_added_too(place: Path) -> None:
    (place / "own.tar").write_bytes(OWN)
    words = ["--add-layer", "own.tar", "--include", "etc/wsl.conf", "--prefix", "p"]
    assert listed(*words) == ["d p", "d p/etc mode=750", "f p/etc/wsl.conf '[boot]' owner=3:0"]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's process substitution")
def test_a_tar_from_another_process(place: Path) -> None:
    (place / "own").mkdir()
    (place / "own" / "key").write_text("k")
    shell = need("bash")
    script = (
        f"exec {sys.executable} -m dimgx -t - --include key --add-layer"
        " <(tar -C own --owner=0 --group=0 --mtime=@0 --mode=600 -cz ./key) ./app.tar"
    )
    done = subprocess.run(
        [shell, "-c", script], env={"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin"},
        capture_output=True, check=True,
    )  # fmt: skip
    assert list_tar(done.stdout) == ["f key 'k' mode=600"]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's process substitution")
@pytest.mark.parametrize(
    "words",
    [
        "--update -t out.tar ./app.tar",
        "--update -t docker-archive:out.tar ./app.tar",
        "-t docker-archive:out.tar ./app.tar ./two.tar",
        "-t oci-archive:out.tar --squash-from @0 ./app.tar",
        "-t '{index}.tar' ./app.tar ./two.tar",
    ],
)
def test_a_tar_from_another_process_is_there_for_all_that_want_it(place: Path, words: str) -> None:
    (place / "own.tar").write_bytes(OWN)
    (place / "two.tar").write_bytes(docker_archive(image(layer(file("two", "2")), tags=("two:1",))))
    found = []
    for path in ("own.tar", "<(cat own.tar)", "<(gzip -c own.tar)"):
        script = f"exec {sys.executable} -m dimgx --add-layer {path} {words}"
        env = {"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin"}
        subprocess.run([need("bash"), "-c", script], env=env, check=True)
        outputs = [Path(name) for name in ("out.tar", "0.tar", "1.tar") if Path(name).exists()]
        found.append([output.read_bytes() for output in outputs])
        for output in outputs:
            output.unlink()
    assert found[0] and found[1:] == found[:1] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="name spaces of mounts")
def test_a_pipe_is_read_where_no_descriptor_has_a_path(place: Path) -> None:
    need_root()
    (place / "own.tar").write_bytes(OWN)
    os.mkfifo("pipe")
    script = (
        "mount -t tmpfs tmpfs /proc && { cat own.tar > pipe & }"
        f" && exec {sys.executable} -m dimgx -t - --add-layer pipe ./app.tar"
    )
    done = run([need("unshare"), "--mount", need("sh"), "-c", script],
               env={"PYTHONPATH": str(CHECKOUT)})  # fmt: skip
    assert done.stdout == flat_bytes("./app.tar", "--add-layer", "own.tar")


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs")
@pytest.mark.parametrize("form", ["tar", "oci-archive"])
def test_the_api_reads_a_pipe_once(place: Path, form: str) -> None:
    (place / "own.tar").write_bytes(OWN)
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(OWN,))
    writer.start()
    found = []
    for path in ("own.tar", "pipe"):
        target = io.BytesIO()
        with package.open_image("./app.tar") as opened:
            if form == "tar":
                package.flatten(opened, target, record=True, add_layers=[path])
            else:
                package.write_images([opened], target, form="oci-archive", add_layers=[path])
        found.append(target.getvalue())
    writer.join()
    assert found[0] == found[1]


needs_memory_files = pytest.mark.skipif(
    "memfd" not in system.FEATURES, reason="only Linux keeps files in memory here"
)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Give the memory that is left for the layers, each time that some are opened."""
    found = []
    real = extractor.open_flat

    def open_flat(layers: Sequence[Layer], recipe: Recipe, below: Sequence[Layer]) -> FlatTar:
        found.append(recipe.memory)
        return real(layers, recipe, below)

    monkeypatch.setattr(extractor, "open_flat", open_flat)
    return found


@needs_memory_files
@pytest.mark.parametrize("is_command", [True, False])
def test_what_is_kept_of_a_pipe_leaves_less_memory(
    place: Path, is_command: bool, left: list[int | None]
) -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(OWN,))
    writer.start()
    if is_command:
        words = ["--add-layer", "pipe", "--memory", "100000", "-t", "out.tar", "./app.tar"]
        assert command.run(words, Messages()) == 0
    else:
        with package.open_image("./app.tar") as opened:
            package.flatten(opened, "out.tar", record=True, add_layers=["pipe"], memory=100_000)
    writer.join()
    assert left == [100_000 - len(OWN)]


@needs_memory_files
def test_what_is_added_gets_the_memory_that_the_image_leaves(
    place: Path, left: list[int | None]
) -> None:
    (place / "own.tgz").write_bytes(compress(OWN, "gzip"))
    stdin = io.BytesIO(compress((place / "app.tar").read_bytes(), "gzip"))
    with package.open_image("-", stdin=stdin) as opened:
        assert opened.spool is not None and opened.spool.used
        for spare in (1, len(OWN), len(OWN) + 1):
            memory = opened.spool.used + spare
            package.flatten(opened, io.BytesIO(), add_layers=["own.tgz"], memory=memory)
    assert left == [1, 0, 1]


def test_what_cannot_be_added(place: Path) -> None:
    (place / "own.tar").write_bytes(b"not a tar" * 100)
    (place / "cut.tar").write_bytes(OWN[:515])
    for path, told in (
        ("missing", "missing cannot be added: No such file or directory"),
        ("own.tar/a", "own.tar/a cannot be added: Not a directory"),
        ("own.tar", "own.tar is no tar"),
        ("cut.tar", "cut.tar is no tar"),
    ):
        code, line = refused("./app.tar", "-t", "out.tar", "--add-layer", path)
        assert code == 2 and told in line
        assert not (place / "out.tar").exists()


def test_on_an_image_without_layers(place: Path) -> None:
    (place / "app.tar").write_bytes(docker_archive(image()))
    (place / "own.tar").write_bytes(layer(file("a", "1")))
    assert listed("--add-layer", "own.tar") == ["f a '1'"]


def test_the_same_bytes_from_another_form_and_with_other_means(place: Path) -> None:
    oci_layout(place / "oci", PICTURE)
    (place / "own.tar").write_bytes(OWN)
    words = ["--exclude", "/bin", "--prefix", "root", "--add-layer", "own.tar"]
    once = flat_bytes("./app.tar", *words)
    assert flat_bytes("oci:oci", *words, "--threads", "1", "--memory", "0") == once


def test_the_api(place: Path) -> None:
    rules = [package.PathRule(is_included=False, pattern="usr")]
    (place / "own.tar").write_bytes(OWN)
    with package.open_image("./app.tar") as opened:
        with package.open_tree(opened, paths=rules) as tree:
            paths = [entry.path for entry in tree]
            assert paths == [b"bin", b"etc", b"etc/new", b"var", b"var/cache"]
            assert tree.warnings == ("a symlink points at what is left out: 'bin' -> 'usr/bin'",)
        file_ = io.BytesIO()
        result = package.flatten(
            opened,
            file_,
            paths=rules,
            prefix="p",
            strip_components=1,
            add_layers=[place / "own.tar"],
        )
        assert list_tar(file_.getvalue()) == [
            "d p", "d p/cache", "f p/new 'own'", "f p/wsl.conf '[boot]' owner=3:0",
        ]  # fmt: skip
        assert result.length == len(file_.getvalue())
        with package.open_stream(opened, paths=rules, strip_components=1) as stream:
            assert list_tar(stream.read()) == ["d cache", "f new 'new'"]


def test_rows_below_stay_as_they_are(place: Path) -> None:
    with package.open_image("./app.tar") as opened:
        rows = package.inspect(opened).rows[::-1]
        with open_flat_of(opened, Recipe(layers=rows[1:], below=rows[:1])) as flat:
            names = [entry.path.decode() for entry in flat.iter_entries()]
    assert names == [
        "etc", "etc/.wh.conf", "etc/new", "usr", "usr/lib", "usr/lib/x.pyc", "var", "var/cache",
    ]  # fmt: skip
