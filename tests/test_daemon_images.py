"""The Docker Engine's images, against what the engine itself makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

import pytest

import dimgx
from dimgx import EngineOptions
from tests import programs, services
from tests.services import Engine

SHELL = 'SHELL ["/bin/busybox", "sh", "-ec"]\n'
HARD_CASES = (
    "FROM scratch\nCOPY root/ /\n"
    + SHELL
    + r"""
RUN /bin/busybox mkdir -p /usr/bin && /bin/busybox --install -s /usr/bin
ENV PATH=/bin:/usr/bin
RUN mkdir -p /srv/keep /srv/gone/below /srv/dir/sub /srv/empty; echo one >/srv/keep/a; \
    echo two >/srv/gone/below/b; echo x >/srv/dir/x; ln /srv/keep/a /srv/keep/hard; \
    ln /srv/keep/a /srv/gone/hard; ln -s /srv/keep /srv/link; mkfifo -m 600 /srv/pipe; \
    mknod -m 640 /srv/null c 1 3; mknod /srv/loop b 7 0; chown 12:34 /srv/empty; \
    touch -d @86400 /srv/keep/old; ln -s nowhere /srv/dangling; mkdir -m 1777 /srv/sticky
RUN rm -r /srv/gone; rm /srv/dir/x
LABEL stage=middle
RUN echo new >/srv/keep/hard
RUN mv /srv/keep /srv/moved; ln -s moved /srv/keep
RUN chmod 4711 /srv/moved/a; chown -h 5:6 /srv/link; chmod 700 /srv/empty
RUN rm -r /srv/dir; ln -s moved /srv/dir
RUN rm /srv/dir; mkdir /srv/dir; echo back >/srv/dir/y; rm /srv/keep; mkdir -m 750 /srv/keep
RUN rm /srv/pipe; mkdir /srv/pipe; echo file >/srv/pipe/f; rmdir /srv/sticky; echo f >/srv/sticky
RUN true
RUN setcap cap_net_bind_service+ep /usr/bin/app
WORKDIR /srv/made/here
RUN i=0; while [ $i -lt 300 ]; do echo $i >f$i; i=$((i+1)); done; rm f1*; mv f2 'n f'; ln f3 f4-same
CMD ["/bin/busybox"]
"""
)


@pytest.fixture(scope="module")
def docker(docker_engine: Engine) -> Engine:
    files = {f"root/{path}": data for path, data in
             services.program_with_libraries("setcap").items()}  # fmt: skip
    files["root/bin/busybox"] = services.busybox()
    files["root/usr/bin/app"] = b"#!/bin/busybox sh\n"
    docker_engine.build("hard/cases:1", files, HARD_CASES)
    docker_engine.build("localhost:5000/team/child", {}, "FROM hard/cases:1\nRUN echo 1 >/one\n")
    return docker_engine


def listing(name: str, engine: Engine, *words: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(
        programs.dimgx("-H", engine.url, "--json", *words, name).stdout
    )
    return document


def rows(name: str, engine: Engine) -> list[dict[str, object]]:
    found = listing(name, engine)["rows"]
    assert isinstance(found, list)
    return found


def flat(name: str, engine: Engine, *words: str) -> bytes:
    return programs.flat_bytes(name, "-H", engine.url, *words)


@pytest.fixture(scope="module")
def hard_cases(docker: Engine) -> bytes:
    return flat("hard/cases:1", docker)


def test_tree_is_that_of_a_container(docker: Engine, hard_cases: bytes) -> None:
    services.compare_with_export(hard_cases, docker.exported("hard/cases:1"))


def test_capability_is_kept(hard_cases: bytes) -> None:
    found = {node.path: node.xattrs for node in services.read_tar(hard_cases)}
    assert b"security.capability" in found[b"usr/bin/app"]


def test_child_is_that_of_a_container(docker: Engine) -> None:
    name = "localhost:5000/team/child"
    services.compare_with_export(flat(name, docker), docker.exported(name))


def test_same_bytes_as_from_the_saved_archive(docker: Engine, hard_cases: bytes) -> None:
    saved = docker.run("save", "hard/cases:1")
    assert programs.dimgx("-t", "-", "-", stdin=saved).stdout == hard_cases
    assert flat("hard/cases:1", docker, "--no-direct") == hard_cases


def test_rows_are_those_of_docker_history(docker: Engine) -> None:
    name = "localhost:5000/team/child"
    form = "{{.ID}}\t{{.CreatedBy}}"
    shown = [line.split("\t") for line in docker.ask(
        "history", "--no-trunc", "--format", form, name)]  # fmt: skip
    assert [[row["id"], row["created_by"]] for row in rows(name, docker)] == shown


def test_sizes_are_those_of_docker_history(docker: Engine) -> None:
    shown = docker.ask("history", "--human=false", "--format", "{{.Size}}", "hard/cases:1")
    assert [str(row["size"]) for row in rows("hard/cases:1", docker)] == shown
    assert listing("hard/cases:1", docker)["size_kind"] == "unpacked"


def test_parents_are_those_of_docker_images(docker: Engine) -> None:
    found = rows("localhost:5000/team/child", docker)
    known = set(docker.ask("images", "-a", "-q", "--no-trunc"))
    assert {row["id"] for row in found} <= known
    for row, below in zip(found, [*found[1:], None], strict=True):
        parent = docker.ask("image", "inspect", "--format", "{{.Parent}}", str(row["id"]))[0]
        assert (row["parent_id"] or "") == parent == (below["id"] if below else "")


def test_tags_of_ancestors(docker: Engine) -> None:
    found = rows("localhost:5000/team/child", docker)
    assert [row["tags"] for row in found if row["tags"]] == [
        ["localhost:5000/team/child:latest"], ["hard/cases:1"]
    ]  # fmt: skip


def test_times_are_those_of_the_images(docker: Engine) -> None:
    for row in rows("hard/cases:1", docker):
        form = "{{json .Created}}"
        told = json.loads(docker.ask("image", "inspect", "--format", form, str(row["id"]))[0])
        assert row["created"] == told


def test_empty_rows_and_layers_are_those_of_the_saved_archive(docker: Engine) -> None:
    document = json.loads(
        programs.dimgx("--json", "-", stdin=docker.run("save", "hard/cases:1")).stdout
    )
    keys = ("empty", "diff_id", "created", "created_by", "position")
    ours = [[row[key] for key in keys] for row in rows("hard/cases:1", docker)]
    assert ours == [[row[key] for key in keys] for row in document["rows"]]


def ids_of(engine: Engine) -> Iterator[str]:
    full = engine.ask("image", "inspect", "--format", "{{.Id}}", "hard/cases:1")[0]
    short = full.removeprefix("sha256:")
    yield from (full, short, short[:12], short[:30], f"sha256:{short[:16]}")
    yield from ("hard/cases:1", "docker.io/hard/cases:1")


def test_names_resolve_as_the_client_resolves_them(docker: Engine) -> None:
    wanted = docker.ask("image", "inspect", "--format", "{{.Id}}", "hard/cases:1")[0]
    for name in ids_of(docker):
        with dimgx.open_image(name, engine=EngineOptions(host=docker.url)) as image:
            assert image.id == wanted, name


def test_row_is_found_by_id_tag_and_place(docker: Engine) -> None:
    name = "localhost:5000/team/child"
    with dimgx.open_image(name, engine=EngineOptions(host=docker.url)) as image:
        listed = dimgx.inspect(image).rows
        top, below = listed[0], listed[1]
        base_to_top = listed[::-1]
        specs = (below.id or "", (below.id or "")[7:19], "hard/cases:1", f"@{below.position}")
        for spec in specs:
            assert dimgx.select(base_to_top, [spec]).rows == (below,), spec
        assert dimgx.select(base_to_top, ["@-1"]).rows == (top,)


def saving(engine: Engine) -> EngineOptions:
    """Ask an engine that is to save what it has."""
    return EngineOptions(host=engine.url, is_direct=False)


def test_only_the_topmost_chosen_image_is_saved(docker: Engine) -> None:
    name = "localhost:5000/team/child"
    with dimgx.open_image(name, engine=saving(docker)) as image:
        row = dimgx.inspect(image).rows[-1]
        with dimgx.open_tree(image, layers=[row]) as tree:
            assert "bin/busybox" in {entry.path.decode() for entry in tree}
        assert image.spool is not None
        # Saved by a name, an archive also tells the name.
        base = max(len(docker.run("save", name)) for name in (row.id or "", *row.tags))
        assert 0 < image.spool.used <= base < len(docker.run("save", name))
        # Its config is in its own archive alone.
        assert image.fetch_whole is not None
        whole = image.fetch_whole(None)
        assert [one.diff_id for one in whole.layers] == [one.diff_id for one in image.layers]


def test_chosen_layers_are_those_of_the_archive(docker: Engine) -> None:
    saved = docker.run("save", "hard/cases:1")
    for spec in ("@3:@7", "@12", "@5"):
        expected = programs.dimgx("-l", spec, "-t", "-", "-", stdin=saved).stdout
        for more in ((), ("--no-direct",)):
            assert flat("hard/cases:1", docker, "-l", spec, *more) == expected


def test_nothing_is_saved_for_a_listing(docker: Engine) -> None:
    with dimgx.open_image("hard/cases:1", engine=saving(docker)) as image:
        dimgx.inspect(image)
        assert image.spool is not None
        assert image.spool.used == 0


@pytest.mark.parametrize("is_direct", [True, False])
def test_layer_can_be_read_without_flattening(docker: Engine, is_direct: bool) -> None:
    engine = EngineOptions(host=docker.url, is_direct=is_direct)
    with dimgx.open_image("hard/cases:1", engine=engine) as image:
        layer = image.layers[0]
        assert layer.diff_id is not None
        state = layer.diff_id.new_hash()
        for chunk in layer.blob.iter_chunks():
            state.update(chunk)
        assert state.hexdigest() == layer.diff_id.hex


def test_progress_and_cancelling_while_the_engine_saves(docker: Engine) -> None:
    seen: list[tuple[str, int]] = []
    with dimgx.open_image("hard/cases:1", engine=saving(docker)) as image:
        with dimgx.open_tree(image, progress=lambda p: seen.append((p.phase, p.done))):
            pass
        assert seen[0] == ("read", 0)
    with (
        dimgx.open_image("hard/cases:1", engine=saving(docker)) as image,
        pytest.raises(dimgx.Cancelled),
    ):
        dimgx.open_tree(image, cancel=lambda: True)


def test_imported_flat_tar_runs(docker: Engine, hard_cases: bytes) -> None:
    docker.run("import", "-", "flat:1", stdin=hard_cases)
    told = docker.ask("run", "--rm", "--network=none", "flat:1", "/bin/busybox", "cat",
                      "/srv/dir/y", "/srv/moved/hard")  # fmt: skip
    assert told == ["back", "new"]


def test_image_without_parents_is_listed_by_its_history(docker: Engine) -> None:
    """What was loaded, as what was pulled, has no ancestors at the engine."""
    docker.run("tag", "hard/cases:1", "keep/a:1")
    saved = docker.run("save", "localhost:5000/team/child")
    with services.fresh_docker(docker) as other:
        other.run("load", stdin=saved)
        found = rows("localhost:5000/team/child", other)
        archived = json.loads(programs.dimgx("--json", "-", stdin=saved).stdout)["rows"]
        keys = ("empty", "diff_id", "created_by", "position")
        assert [[row[key] for key in keys] for row in found] == [
            [row[key] for key in keys] for row in archived
        ]
        assert [row["image_id"] for row in found[1:]] == [None] * (len(found) - 1)
        for row, own in zip(found, archived, strict=True):
            told = datetime.fromisoformat(str(row["created"]))
            assert told.replace(microsecond=0) == datetime.fromisoformat(
                str(own["created"])
            ).replace(microsecond=0)
        expected = programs.dimgx("-t", "-", "-", stdin=saved).stdout
        assert flat("localhost:5000/team/child", other) == expected


def test_explicit_platform_that_does_not_fit(docker: Engine) -> None:
    code, told = programs.refused("hard/cases:1", "-H", docker.url, "--platform", "linux/s390x")
    assert code == 2
    assert "linux/s390x" in told
    assert "--pull always" in told
