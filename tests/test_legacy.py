"""The functions that programs written for dimgx 0.2 call."""

from __future__ import annotations

import io
import tarfile
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import dimgx
from dimgx import extractlayers, imagekey, inspectlayers, normalizeimage
from tests import services
from tests.dsl import chardev, dir_, file, hardlink, layer, symlink, whiteout
from tests.listing import list_tar
from tests.services import Engine
from tests.writers import Json, archive, docker_archive, docker_archive_v1, image, v1_members

ONE = {
    "Created": "2015-05-01T12:34:56.789012345Z",
    "Id": "0123456789ABCDEFfedcba98765432100123456789abcdefFEDCBA9876543210",
    "Parent": "FEDCBA98765432100123456789abcdeffedcba98765432100123456789ABCDEF",
    "RepoTags": ["<none>:<none>"],
}
TWO = {
    "Created": 1431216000,
    "Id": "sha256:" + "ab" * 32,
    "ParentId": "",
    "RepoTags": ["foo:bar", "localhost:5000/baz:latest"],
}


def test_normalize() -> None:
    one = normalizeimage(dict(ONE))
    assert one[":id"] == ONE["Id"].lower()
    assert one[":short_id"] == "0123456789ab"
    assert one[":parent_id"] == ONE["Parent"].lower()
    assert one[":created_dt"] == datetime(2015, 5, 1, 12, 34, 56, 789012, UTC)
    assert one[":repo_tags"] == []
    two = normalizeimage(dict(TWO))
    assert (two[":id"], two[":parent_id"]) == ("ab" * 32, "")
    assert two[":created_dt"] == datetime(2015, 5, 10, tzinfo=UTC)
    assert two[":repo_tags"] == ["foo:bar", "localhost:5000/baz", "localhost:5000/baz:latest"]


def test_normalize_a_copy_or_the_thing_itself() -> None:
    own: dict[str, Any] = deepcopy(ONE)
    assert normalizeimage(own, copy=True) is not own
    assert own == ONE
    assert normalizeimage(own) is own
    assert {key: own[key] for key in ONE} == ONE


@pytest.mark.parametrize(
    ("told", "moment"),
    [
        ("2024-01-01T01:02:03.1+02:00", datetime(2024, 1, 1, 1, 2, 3, 100000,
                                                timezone(timedelta(hours=2)))),
        ("2024-01-01T00:00:00", datetime(2024, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        (-62135596800, datetime(1, 1, 1, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_times(told: object, moment: datetime) -> None:
    found = normalizeimage({"Id": "a" * 64, "Created": told})[":created_dt"]
    assert found == moment
    assert found.utcoffset() == moment.utcoffset()


@pytest.mark.parametrize(
    ("desc", "problem"),
    [
        ({"Created": 0}, "without an ID"),
        ({"Id": "a"}, "no time"),
        ({"Id": "a", "Created": "soon"}, "no time"),
    ],
)
def test_what_is_no_image(desc: dict[str, Any], problem: str) -> None:
    with pytest.raises(dimgx.SourceError, match=problem):
        normalizeimage(desc)


class Client:
    """Has images and gives archives, as the oldest engines wrote them."""

    def __init__(self, count: int = 5) -> None:
        self.ids = [f"{number:02x}" * 32 for number in (0x10, 0x1F, 0x20, 0x33, 0x47)[:count]]
        self.tars = [
            layer(dir_("d"), file("d/0", b"zero"), file("d/1", b"old")),
            layer(file("d/1", b"one")),
            layer(whiteout("d/0")),
            layer(),
            layer(file("d/4", b"four")),
        ]
        self.saved: list[str] = []

    def images(self, *, all: bool) -> list[dict[str, Any]]:
        assert all
        tags = {1: ["mid:1"], 4: ["top:1", "top:latest"]}
        return [
            {"Id": id, "ParentId": self.ids[place - 1] if place else "",
             "Created": 1700000000 + place // 2, "RepoTags": tags.get(place)}
            for place, id in enumerate(self.ids)
        ]  # fmt: skip

    def get_image(self, image: str) -> io.BytesIO:
        self.saved.append(image)
        end = self.ids.index(image) + 1
        members = [
            file(f"{id}/layer.tar", tar) for id, tar in zip(self.ids[:end], self.tars, strict=False)
        ]
        return io.BytesIO(archive(members))


def test_inspect() -> None:
    client = Client()
    found = inspectlayers(client, "top")
    layers = found[":layers"]
    assert [one[":id"] for one in layers] == client.ids[::-1]
    assert [one[":child_ids"] for one in layers] == [[], *([id] for id in client.ids[:0:-1])]
    assert found["top"] == found["top:1"] == found[client.ids[4]] == 0
    assert found["mid:1"] == found["1f"] == found[f"sha256:{client.ids[1]}"] == 3
    assert found["1"] is None
    assert found["10"] == 4
    assert found["2"] == 2


@pytest.mark.parametrize(
    ("spec", "place"), [("mid:1", 1), ("3", 3), ("10", 0), ("sha256:" + "47" * 32, 4)]
)
def test_image_specs(spec: str, place: int) -> None:
    client = Client()
    assert inspectlayers(client, spec)[":layers"][0][":id"] == client.ids[place]


@pytest.mark.parametrize(
    ("spec", "problem"), [("nothing", "no image"), ("sha256:", "no image"), ("1", "ambiguous")]
)
def test_image_specs_that_are_none(spec: str, problem: str) -> None:
    with pytest.raises(dimgx.SourceError, match=problem):
        inspectlayers(Client(), spec)


def test_sorting_by_age_puts_parents_first() -> None:
    client = Client()
    images = [normalizeimage(one) for one in client.images(all=True)]
    newest_first = list(reversed(images))
    assert sorted(newest_first, key=imagekey) == images
    strangers = [normalizeimage({"Id": f"{k}" * 64, "Created": k}) for k in (3, 1, 2)]
    assert [one["Created"] for one in sorted(strangers, key=imagekey)] == [1, 2, 3]


def test_images_that_are_each_others_parents_are_listed_once() -> None:
    class Circle(Client):
        def images(self, *, all: bool) -> list[dict[str, Any]]:
            found = super().images(all=all)
            found[0]["ParentId"] = self.ids[-1]
            return found

    client = Circle()
    assert len(inspectlayers(client, "mid:1")[":layers"]) == 5


def tree(client: Any, layers: Any, *more: Any) -> list[str]:
    """Extract, and give the listing; the TarFile's own padding is taken off."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        extractlayers(client, layers, tar, *more)
        end = tar.offset
    assert len(out.getvalue()) % tarfile.RECORDSIZE == 0
    return list_tar(out.getvalue()[: end + 2 * tarfile.BLOCKSIZE])


def test_extract() -> None:
    client = Client()
    layers = inspectlayers(client, "top")[":layers"]
    assert tree(client, layers) == ["d d", "f d/1 'one'", "f d/4 'four'"]
    assert client.saved == [client.ids[4]]


def test_extract_some_layers() -> None:
    client = Client()
    layers = inspectlayers(client, "top")[":layers"]
    assert tree(client, layers[3:]) == ["d d", "f d/0 'zero'", "f d/1 'one'"]
    assert client.saved == [client.ids[1]]
    assert tree(client, [layers[0], layers[4]])[-1] == "f d/4 'four'"


def test_extract_in_another_order() -> None:
    client = Client()
    layers = inspectlayers(client, "top")[":layers"]
    turned = layers[:2:-1]
    for top in (1, client.ids[1]):
        assert tree(client, turned, top) == ["d d", "f d/0 'zero'", "f d/1 'old'"]


@pytest.mark.parametrize("top", [0, "33" * 32, "sha256:" + "33" * 32])
def test_extract_asks_for_an_id_as_the_engine_spells_it(top: int | str) -> None:
    """containerd's store knows no other spelling of a whole one."""

    class Spelling(Client):
        def images(self, *, all: bool) -> list[dict[str, Any]]:
            return [one | {"Id": f"sha256:{one['Id']}"} for one in super().images(all=all)]

        def get_image(self, image: str) -> io.BytesIO:
            assert image == "sha256:" + self.ids[3]
            return super().get_image(self.ids[3])

    client = Spelling()
    layers = inspectlayers(client, "top")[":layers"]
    assert tree(client, layers[1:], top) == ["d d", "f d/1 'one'"]


def test_extract_from_an_archive_that_names_its_images() -> None:
    class Naming(Client):
        def get_image(self, image: str) -> io.BytesIO:
            return io.BytesIO(docker_archive_v1(picture))

    client = Naming()
    picture = image(*client.tars)
    names = [member.name.decode() for member in v1_members(picture)]
    client.ids = [name[:64] for name in reversed(names) if name.endswith("/layer.tar")]
    layers = inspectlayers(client, "top")[":layers"]
    assert tree(client, layers) == ["d d", "f d/1 'one'", "f d/4 'four'"]
    assert tree(client, layers[3:], client.ids[4]) == ["d d", "f d/0 'zero'", "f d/1 'one'"]


class Newer(Client):
    """Gives archives as engines since 1.10 do: layers are of a history's steps, not of IDs."""

    def __init__(self, count: int, *empty: bool) -> None:
        super().__init__(count)
        history: list[Json] = [{"empty_layer": one} for one in empty]
        self.picture = image(*(self.tars[k] for k in (0, 1, 2, 4)), history=history)

    def get_image(self, image: str) -> Any:
        data = docker_archive(self.picture)
        return iter([data[:3000], data[3000:]])


def test_extract_of_a_history_the_last_steps_are_images_and_the_rest_is_the_base() -> None:
    client = Newer(3, False, False, False, True, False)
    layers = inspectlayers(client, client.ids[2])[":layers"]
    top = client.ids[2]
    assert tree(client, layers) == ["d d", "f d/1 'one'", "f d/4 'four'"]
    assert tree(client, layers[:1], top) == tree(client, layers[:2], top) == ["d d", "f d/4 'four'"]
    assert tree(client, layers[1:2], top) == []
    assert tree(client, layers[2:], top) == ["d d", "f d/1 'one'"]


def test_extract_where_each_step_is_an_image() -> None:
    client = Newer(4, False, False, False, False)
    layers = inspectlayers(client, client.ids[3])[":layers"]
    assert tree(client, layers[2:], client.ids[3]) == ["d d", "f d/0 'zero'", "f d/1 'one'"]


def test_extract_without_a_history_that_fits() -> None:
    for client in (Newer(1), Newer(1, False)):
        layers = inspectlayers(client, client.ids[0])[":layers"]
        assert tree(client, layers) == ["d d", "f d/1 'one'", "f d/4 'four'"]


def test_extract_of_a_damaged_layer_writes_nothing() -> None:
    client = Newer(1)
    digests = [f"sha256:{k:064x}" for k in range(4)]
    client.picture = replace(client.picture, config={"rootfs": {"diff_ids": digests}})
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        with pytest.raises(dimgx.ImageError, match="digest"):
            extractlayers(client, inspectlayers(client, client.ids[0])[":layers"], tar)
        assert tar.getnames() == [] and not out.getvalue()


@pytest.mark.parametrize("client", [Newer(2), Newer(5, False, False, False, False)])
def test_extract_with_more_ancestors_than_steps(client: Client) -> None:
    layers = inspectlayers(client, client.ids[-1])[":layers"]
    with pytest.raises(dimgx.ImageError, match="more ancestors than steps"):
        tree(client, layers)


def test_extract_nothing() -> None:
    client = Client()
    assert tree(client, []) == []
    assert client.saved == []


def test_extract_what_is_no_ancestor() -> None:
    client = Client()
    layers = inspectlayers(client, "top")[":layers"]
    with pytest.raises(dimgx.ImageError, match="no ancestor"):
        tree(client, layers, client.ids[2])


def test_extract_an_index_that_there_is_not() -> None:
    client = Client()
    layers = inspectlayers(client, "top")[":layers"]
    with pytest.raises(IndexError):
        tree(client, layers, len(layers))
    assert client.saved == []


def facts(member: tarfile.TarInfo) -> tuple[object, ...]:
    """Give what both who writes a member and who reads it know."""
    keys = ("name", "type", "mode", "uid", "gid", "mtime", "linkname", "devmajor", "devminor")
    return (*(getattr(member, key) for key in keys), member.size if member.isfile() else 0)


def test_extract_beside_other_members() -> None:
    """What was added before and after stays, compressed or not."""
    client = Client()
    layers = inspectlayers(client, "top")[":layers"]
    client.tars[4] = layer(
        dir_("d", mode=0o700, mtime=7), file("d/4", b"four", uid=8), hardlink("d/5", "d/4"),
        symlink("d/6", "4"), chardev("d/7", 1, 3),
    )  # fmt: skip
    names = ["before", "d", "d/1", "d/4", "d/5", "d/6", "d/7", "after"]
    for mode in ("w", "w:gz"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
            tar.addfile(tarfile.TarInfo("before"))
            extractlayers(client, layers, tar)
            tar.addfile(tarfile.TarInfo("after"))
            known = [facts(member) for member in tar.getmembers()]
        out.seek(0)
        with tarfile.open(fileobj=out) as tar:
            assert tar.getnames() == names
            assert [facts(member) for member in tar.getmembers()] == known


def test_a_real_engine(docker_engine: Engine) -> None:
    import docker

    files = {"root/a": b"a", "root/b": b"b", "more/b": b"new"}
    text = "FROM scratch\nCOPY root/ /\nENV A=1\nCOPY more/ /\nLABEL x=y\n"
    id = docker_engine.build("legacy/app", files, text).removeprefix("sha256:")
    client = docker.APIClient(base_url=docker_engine.url)
    try:
        found = inspectlayers(client, "legacy/app")
        layers = found[":layers"]
        assert [one[":id"] for one in layers] == [
            line.removeprefix("sha256:")
            for line in docker_engine.ask("history", "-q", "--no-trunc", "legacy/app")
        ]
        assert found["legacy/app:latest"] == found[id] == found[id[:12]] == 0
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            extractlayers(client, layers, tar)
        out.seek(0)
        exported = docker_engine.exported("legacy/app")
        assert services.lines_of(services.exported_nodes(out.getvalue())) == services.lines_of(
            services.exported_nodes(exported)
        )
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            extractlayers(client, layers[2:], tar)
            assert tar.getnames() == ["a", "b"]
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            extractlayers(client, layers[:2], tar, "legacy/app")
            assert tar.getnames() == ["b"]
    finally:
        client.close()
