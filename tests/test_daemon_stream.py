"""The archive as it comes from the engine: late, cut short, refused; and newer engines' answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dimgx
from dimgx import EngineOptions, ImageError, SourceError, TemporaryError
from dimgx.platforms import host_platform, parse_platform
from dimgx.sources import connection
from tests import programs
from tests.dsl import dir_, file, layer, whiteout
from tests.fakeengine import FakeEngine, fake_engine
from tests.listing import list_tar
from tests.opened import plain
from tests.writers import OCI, Picture, docker_archive, image, oci_archive

BASE = layer(dir_("etc"), file("etc/a", b"a" * 5000), file("etc/b", b"b"))
TOP = layer(whiteout("etc/b"), file("top", b"top"))
HISTORY = [
    {"created": "2024-01-01T00:00:00Z", "created_by": "COPY rootfs /"},
    {"created": "2024-01-01T00:00:00Z", "created_by": "ENV A=1", "empty_layer": True},
    {"created": "2024-01-01T00:00:00Z", "created_by": "RUN rm /etc/b; echo top >/top"},
]
APP = image(BASE, TOP, tags=("app:1",), history=HISTORY)
TREE = ["d etc", "f etc/a <5000 bytes 3cb0ba60a5dc>", "f top 'top'"]


def flat(engine: FakeEngine, name: str = "app:1", *words: str) -> list[str]:
    return list_tar(programs.flat_bytes(name, "-H", engine.url, *words))


def names(engine: FakeEngine, name: str = "app:1", *words: str) -> list[str]:
    return [line.split()[1] for line in flat(engine, name, *words)]


def test_archive_that_begins_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No time-out counts while the engine prepares."""
    monkeypatch.setattr(connection, "_ANSWER_S", 0.5)
    with fake_engine(delay_s=2) as engine:
        engine.add(APP, docker_archive(APP))
        with dimgx.open_image("app:1", engine=EngineOptions(host=engine.url)) as found:
            dimgx.flatten(found, tmp_path / "out.tar")
    assert (tmp_path / "out.tar").stat().st_size > 5000


def test_layers_that_are_read_one_by_one_are_saved_once() -> None:
    with fake_engine() as engine:
        engine.add(APP, docker_archive(APP))
        with dimgx.open_image("app:1", engine=EngineOptions(host=engine.url)) as found:
            assert [plain(one) for one in found.layers] == [BASE, TOP]
            assert found.fetch_whole is not None
            assert found.fetch_whole(None).config is not None
        assert sum(path.endswith("/get") for path, _ in engine.asked) == 1


@pytest.mark.parametrize("cut", [0, 1, 700, 4096, 9000])
def test_engine_that_dies_in_the_middle(tmp_path: Path, cut: int) -> None:
    target = tmp_path / "out.tar"
    with fake_engine(cut=cut) as engine:
        engine.add(APP, docker_archive(APP))
        code, told = programs.refused("app:1", "-H", engine.url, "-t", target)
    assert code == 4
    assert "broke off in the middle" in told
    assert not target.exists()


@pytest.mark.parametrize("path", ["json", "history"])
def test_engine_that_dies_in_the_middle_of_an_answer(path: str) -> None:
    with fake_engine(cut=6) as engine:
        engine.add(APP, b"")
        for asked in engine.answers:
            if asked.endswith(path):
                engine.answers[asked] = lambda query: b'{"Id": "sha256:00"}'
        code, told = programs.refused("app:1", "-H", engine.url)
    assert (code, "broke off in the middle of its answer" in told) == (4, True)


def test_answer_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_DOCUMENT_LIMIT", 10_000)
    with fake_engine() as engine:
        engine.answers["/images/app:1/json"] = lambda query: b" " * 20_000
        options = EngineOptions(host=engine.url)
        with pytest.raises(dimgx.SourceError, match="more than the 10000 bytes"):
            dimgx.open_image("app:1", engine=options)


def test_engine_that_fails_to_save() -> None:
    with fake_engine() as engine:
        id = engine.add(APP, b"")
        engine.answers[f"/images/{id}/get"] = lambda query: 500
        code, told = programs.refused("app:1", "-H", engine.url, "-t", "-")
    assert (code, "status 500" in told) == (4, True)


def test_engine_that_forbids() -> None:
    with fake_engine() as engine:
        engine.answers["/images/app:1/json"] = lambda query: 403
        code, told = programs.refused("app:1", "-H", engine.url)
    assert (code, "refused" in told) == (2, True)


def test_image_that_changes_meanwhile(tmp_path: Path) -> None:
    other = image(TOP, BASE, tags=("app:1",), history=HISTORY)
    with fake_engine() as engine:
        engine.add(APP, docker_archive(other))
        code, told = programs.refused("app:1", "-H", engine.url, "-t", tmp_path / "out.tar")
    assert (code, "changed" in told) == (2, True)


def test_archive_that_is_none() -> None:
    with fake_engine() as engine:
        engine.add(APP, b"<html>" + bytes(9000))
        code, told = programs.refused("app:1", "-H", engine.url, "-t", "-")
    assert code == 2
    assert "saved" in told


def test_answer_that_is_no_json() -> None:
    with fake_engine() as engine:
        engine.answers["/images/app:1/json"] = lambda query: b"<html>"
        code, told = programs.refused("app:1", "-H", engine.url)
    assert (code, "JSON" in told) == (2, True)


def test_version_that_is_not_told() -> None:
    with fake_engine() as engine:
        engine.add(APP, b"")
        options = EngineOptions(host=engine.url)
        engine.answers["/version"] = lambda query: {}
        with dimgx.open_image("app:1", engine=options) as found:
            assert found.tags == ("app:1",)
        engine.answers["/version"] = lambda query: 404
        with pytest.raises(SourceError, match="does not tell its version: status 404"):
            dimgx.open_image("app:1", engine=options)


def test_id_that_is_none() -> None:
    with fake_engine() as engine:
        engine.add(APP, b"", inspect={"Id": "sha256:1"})
        with pytest.raises(ImageError, match="'app:1': the image's ID: "):
            dimgx.open_image("app:1", engine=EngineOptions(host=engine.url))


def test_ambiguous_ids_are_shown_as_far_as_they_differ() -> None:
    ids = ["ab" * 8 + f"{number}" * 48 for number in range(10)]
    with fake_engine() as engine:
        engine.answers["/images/json"] = lambda query: [
            {"Id": f"sha256:{id}", "RepoTags": ["a:1"] if id.endswith("0") else None} for id in ids
        ]
        with pytest.raises(SourceError) as raised:
            dimgx.open_image("abab", engine=EngineOptions(host=engine.url))
    assert str(raised.value) == (
        f"the ID abab is ambiguous at the Docker Engine at {engine.url}: {ids[0][:20]} (a:1), "
        + "".join(f"{id[:20]}, " for id in ids[1:8])
        + "2 more"
    )


def test_ancestor_that_was_removed_meanwhile() -> None:
    gone = f"sha256:{'0' * 64}"
    with fake_engine() as engine:
        id = engine.add(APP, b"")
        told = engine.answers[f"/images/{id}/history"]({})
        told[-1]["Id"] = gone
        with dimgx.open_image("app:1", engine=EngineOptions(host=engine.url)) as found:
            assert [step.id for step in found.history] == [gone, None, id]
            assert [step.empty for step in found.history] == [False, True, False]


def test_image_for_another_machine() -> None:
    picture = image(BASE, tags=("app:1",), architecture="s390x")
    with fake_engine() as engine:
        engine.add(picture, b"")
        options = EngineOptions(host=engine.url)
        with dimgx.open_image("app:1", engine=options) as found:
            told = f"the image is for linux/s390x, not for {host_platform()}"
            assert found.warnings == (told,)
        wanted = parse_platform("linux/s390x")
        with dimgx.open_image("app:1", engine=options, platform=wanted) as found:
            assert found.warnings == ()
        engine.add(picture, b"", inspect={"Os": "windows"})
        with pytest.raises(ImageError, match="'app:1' is a Windows image"):
            dimgx.open_image("app:1", engine=options)


def test_history_that_leaves_open_which_steps_have_layers() -> None:
    """Two steps of no size, of which one has a layer: only the image's config tells."""
    nothing = layer(dir_("etc"))
    steps = [
        HISTORY[0],
        {"created_by": "RUN /bin/sh -c true", "empty_layer": True},
        {"created_by": "RUN /bin/sh -c touch /etc"},
    ]
    picture = image(BASE, nothing, tags=("app:1",), history=steps)
    with fake_engine() as engine:
        id = engine.add(picture, docker_archive(picture))
        told = [
            {"Id": id if place == 2 else "<missing>", "CreatedBy": step["created_by"],
             "Created": 1700000000, "Size": 9 if place == 0 else 0}
            for place, step in enumerate(steps)
        ][::-1]  # fmt: skip
        engine.answers[f"/images/{id}/history"] = lambda query: told
        # Nothing is saved just for the rows where they are not wanted.
        options = EngineOptions(host=engine.url, are_rows_wanted=False)
        with dimgx.open_image("app:1", engine=options) as found:
            assert (found.history, len(found.layers)) == ((), 2)
        assert not any(path.endswith("/get") for path, _ in engine.asked)
        document = json.loads(programs.dimgx("-H", engine.url, "--json", "app:1").stdout)
    assert [row["empty"] for row in document["rows"]] == [False, True, False]
    assert [row["size"] for row in document["rows"]] == [0, 0, 9]


def test_history_of_other_steps_than_the_config_has() -> None:
    """The layers themselves are the rows then."""
    picture = image(BASE, TOP, tags=("app:1",), history=[{"created_by": "x"}, {"created_by": "y"}])
    with fake_engine() as engine:
        history = [{"Id": "<missing>", "CreatedBy": "RUN z", "Size": 0}] * 3
        engine.add(picture, docker_archive(picture), history=history)
        rows = json.loads(programs.dimgx("-H", engine.url, "--json", "app:1").stdout)["rows"]
    assert [(row["diff_id"], row["created_by"]) for row in rows[::-1]] == [
        (diff_id, None) for diff_id in picture.diff_ids()
    ]


def test_times_before_1970_and_of_the_year_one() -> None:
    with fake_engine() as engine:
        id = engine.add(APP, b"")
        told = [
            {"Id": id, "CreatedBy": "x", "Created": -62135596800, "Size": 1},
            {"Id": "<missing>", "CreatedBy": "x", "Created": -1, "Size": 0},
            {"Id": "<missing>", "CreatedBy": "x", "Created": 10**15, "Size": 0},
            {"Id": "<missing>", "CreatedBy": "x", "Created": True, "Size": 0},
            {"Id": "<missing>", "CreatedBy": "x", "Created": "2024-01-01T01:02:03.123456789+02:00",
             "Size": 1},
        ]  # fmt: skip
        engine.answers[f"/images/{id}/history"] = lambda query: told
        engine.answers["/images/app:1/json"](None).pop("Created")  # type: ignore[arg-type]
        done = programs.dimgx("-H", engine.url, "--json", "app:1")
        assert [row["created"] for row in json.loads(done.stdout)["rows"]] == [
            "0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", None, None,
            "2024-01-01T01:02:03.123456789+02:00",
        ]  # fmt: skip
        assert programs.dimgx("-H", engine.url, "app:1").stdout.count(b"\n") == 6


ARM = image(TOP, BASE, tags=("app:1",), architecture="arm64", history=HISTORY)


def add_stored(engine: FakeEngine) -> None:
    """Hold an image as containerd's store does since API 1.49, whose ID is that of an index.

    What is told and saved for one platform has the digest of that platform's manifest.
    """
    pictures = {"amd64": image(BASE, tags=("app:1",)), "arm64": ARM}
    index = "sha256:" + "1" * 64
    told, saved = {}, {}
    for architecture, picture in pictures.items():
        saved[architecture] = oci_archive(picture)
        id = engine.add(picture, b"", inspect={"RepoDigests": [f"app@{index}"]})
        digest = _index_digest(saved[architecture])
        told[architecture] = engine.answers[f"/images/{id}/json"]({}) | {
            "Id": digest,
            "Descriptor": {"mediaType": f"{OCI}.manifest.v1+json", "digest": digest},
        }
    shown = told["amd64"] | {
        "Id": index,
        "Descriptor": {"mediaType": f"{OCI}.index.v1+json", "digest": index},
        "Manifests": [
            {"ID": told[name]["Id"] if name in told else "sha256:" + "2" * 64,
             "Available": name in told, "Kind": "image",
             "ImageData": {"Platform": {"os": "linux", "architecture": name}}}
            for name in (*pictures, "s390x")
        ] + [{"Available": True, "Kind": "attestation", "AttestationData": {"For": index}}],
    }  # fmt: skip
    history = [{"Id": index, "CreatedBy": "x", "Created": 1700000000, "Size": 1}]

    def chosen(query: dict[str, str]) -> str:
        return str(json.loads(query["platform"])["architecture"])

    engine.answers = {}
    for name in ("app:1", index):
        engine.answers[f"/images/{name}/json"] = lambda query: (
            told.get(chosen(query), 404) if "platform" in query else shown
        )
        engine.answers[f"/images/{name}/history"] = lambda query: history
        engine.answers[f"/images/{name}/get"] = lambda query: saved[chosen(query)]


def test_platform_goes_to_a_new_engine() -> None:
    with fake_engine(api="1.51") as engine:
        add_stored(engine)
        assert "etc/b" in names(engine, "app:1")
        assert "top" not in names(engine, "app:1", "--platform", "linux/amd64/v3")
        assert "top" in names(engine, "app:1", "--platform", "linux/arm64")
        for words, position in (((), 0), (("--platform", "linux/arm64"), 1)):
            told = json.loads(programs.dimgx("-H", engine.url, "--json", *words, "app:1").stdout)
            assert told["image"]["id"] == "sha256:" + "1" * 64
            assert told["image"]["digest"] == _index_digest(
                oci_archive((image(BASE, tags=("app:1",)), ARM)[position])
            )


@pytest.mark.parametrize("count", [0, 2])
def test_digest_that_is_not_clear_is_not_told(count: int) -> None:
    """Two manifests for one platform, or none that is told."""
    platform = {"os": "linux", "architecture": "amd64"}
    manifests = [
        {"ID": f"sha256:{place + 5}" + "0" * 63, "Available": True,
         "ImageData": {"Platform": platform}} for place in range(count)
    ]  # fmt: skip
    descriptor = {"mediaType": f"{OCI}.index.v1+json", "digest": f"sha256:{'1' * 64}"}
    with fake_engine(api="1.51") as engine:
        engine.add(APP, b"", inspect={"Descriptor": descriptor, "Manifests": manifests})
        with dimgx.open_image("app:1", engine=EngineOptions(host=engine.url)) as found:
            assert found.digest is None


@pytest.mark.parametrize(
    ("told", "is_config"),
    [
        ({}, True),
        ({"RepoDigests": [f"app@sha256:{'2' * 64}"]}, True),
        ({"RepoDigests": [f"app@sha256:{'1' * 64}"]}, False),
        ({"Descriptor": {"digest": f"sha256:{'1' * 64}"}}, False),
    ],
)
def test_id_that_is_of_a_config_or_of_a_manifest(told: dict[str, object], is_config: bool) -> None:
    """The containerd store's IDs are manifests', which it tells in either way."""
    with fake_engine() as engine:
        engine.add(APP, b"", inspect={"Id": f"sha256:{'1' * 64}", **told})
        with dimgx.open_image("app:1", engine=EngineOptions(host=engine.url)) as found:
            assert found.is_id_of_config == is_config


def test_platforms_that_a_new_engine_has() -> None:
    with fake_engine(api="1.51") as engine:
        add_stored(engine)
        words = ("--platforms", "-H", engine.url, "app:1")
        assert programs.dimgx(*words).stdout == b"linux/amd64\nlinux/arm64\n"
        assert programs.dimgx(*words, "--platform", "linux/arm64").returncode == 0
        assert programs.dimgx(*words, "--platform", "linux/s390x", ok=False).returncode == 2
        code, problem = programs.refused("app:1", "-H", engine.url, "--platform", "linux/s390x")
    assert code == 2
    assert "'app:1' is for linux/amd64, linux/arm64, not for linux/s390x: with --pull" in problem


def test_platform_with_a_variant_goes_to_a_new_engine() -> None:
    named = {"os": "linux", "architecture": "arm", "variant": "v7"}
    picture = image(BASE, tags=("app:1",), architecture="arm", variant="v7")
    with fake_engine(api="1.51") as engine:
        manifests = [{"Available": True, "ImageData": {"Platform": named}}]
        told = {"Variant": "v7", "Manifests": manifests}
        engine.add(picture, docker_archive(picture), inspect=told)
        flat(engine, "app:1", "--platform", "linux/arm")
        chosen = [json.loads(query["platform"]) for _, query in engine.asked if "platform" in query]
    assert len(chosen) == 3 and all(one == named for one in chosen)


def test_platform_of_an_old_engine_comes_from_the_index(tmp_path: Path) -> None:
    """The containerd store tells of one platform and saves all."""
    amd = image(BASE, TOP, tags=("app:1",), history=HISTORY)
    saved = oci_archive(amd, ARM, nested=True)
    nested = _index_digest(saved)
    with fake_engine(api="1.44") as engine:
        engine.add(amd, saved, inspect={"Id": nested, "RepoDigests": [f"app@{nested}"]})
        assert "etc/b" in names(engine, "app:1", "--platform", "linux/arm64")
        assert "etc/b" not in names(engine, "app:1", "--platform", "linux/amd64")
        assert all("platform" not in query for _, query in engine.asked)


def _index_digest(saved: bytes) -> str:
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        reader = tar.extractfile("index.json")
        assert reader is not None
        return str(json.load(reader)["manifests"][0]["digest"])


@pytest.mark.parametrize("vintage", ["1.10", "digest.tar", "25", "29"])
def test_every_vintage_of_save(vintage: str) -> None:
    picture = Picture((BASE, TOP), ("app:1",), history=HISTORY)
    saved = docker_archive(picture, vintage=vintage)  # type: ignore[arg-type]
    with fake_engine() as engine:
        engine.add(picture, saved)
        assert [line.split()[1] for line in flat(engine)] == ["etc", "etc/a", "top"]


def test_pull_reports_and_fails_as_the_engine_says(tmp_path: Path) -> None:
    answers = [
        {"status": "Pulling fs layer", "id": "abc"},
        {"status": "Downloading", "id": "abc", "progressDetail": {"current": 5, "total": 10}},
        {"status": "Downloading", "id": "def", "progressDetail": {"current": 1, "total": 20}},
        {"status": "Extracting", "id": "abc", "progressDetail": {"current": 9, "total": 10}},
        {"status": "Downloading", "id": "abc", "progressDetail": {}},
        {"status": "Downloading", "progressDetail": {"current": 9, "total": 90}},
        {"status": "Downloading", "id": "ghi", "progressDetail": {"total": 5}},
    ]
    lines = b"\r\n".join(json.dumps(answer).encode() for answer in answers)
    seen: list[tuple[int, int | None]] = []
    with fake_engine() as engine:
        engine.add(APP, docker_archive(APP))
        engine.answers["/images/create"] = lambda query: lines
        options = EngineOptions(
            host=engine.url, pull="always", tick=lambda done, total: seen.append((done, total))
        )
        with dimgx.open_image("app:1", engine=options):
            pass
        assert ("/images/create", {"tag": "1", "fromImage": "app"}) in engine.asked
        assert seen == [(5, 10), (6, 30), (6, 35)]
        engine.answers["/images/create"] = lambda query: b'{"error": "denied: not yours"}'
        code, told = programs.refused("app:1", "-H", engine.url, "--pull", "always")
        assert (code, "denied: not yours" in told) == (2, True)
        problem = "net/http: TLS handshake timeout"
        engine.answers["/images/create"] = lambda query: json.dumps({"error": problem}).encode()
        code, told = programs.refused("app:1", "-H", engine.url, "--pull", "always")
        assert (code, told.endswith(f" cannot pull app:1: {problem}\n")) == (4, True)
        # What is there is not pulled again.
        asked = len([path for path, _ in engine.asked if path == "/images/create"])
        programs.dimgx("-H", engine.url, "--pull", "missing", "-q", "app:1")
        assert asked == len([path for path, _ in engine.asked if path == "/images/create"])


@pytest.mark.parametrize(("status", "kind"), [(404, SourceError), (500, TemporaryError)])
def test_pull_that_is_refused(status: int, kind: type[dimgx.DimgxError]) -> None:
    with fake_engine() as engine:
        engine.add(APP, b"")
        engine.answers["/images/create"] = lambda query: status
        with pytest.raises(kind) as raised:
            dimgx.open_image("app:1", engine=EngineOptions(host=engine.url, pull="always"))
    where = f"the Docker Engine at {engine.url}"
    assert type(raised.value) is kind
    assert str(raised.value) == f"{where} cannot pull app:1: status {status}"


def test_what_is_missing_is_pulled_where_that_is_wanted() -> None:
    with fake_engine() as engine:

        def pull(query: dict[str, str]) -> bytes:
            engine.add(APP, b"")
            told = {"current": 1, "total": 2}
            return json.dumps(
                {"status": "Downloading", "id": "abc", "progressDetail": told}
            ).encode()

        engine.answers["/images/create"] = pull
        with pytest.raises(SourceError, match="has no image 'app:1'"):
            dimgx.open_image("app:1", engine=EngineOptions(host=engine.url))
        options = EngineOptions(host=engine.url, pull="missing")
        with dimgx.open_image("app:1", engine=options) as found:
            assert found.tags == ("app:1",)


@pytest.mark.parametrize(
    ("told", "image"),
    [
        ({"Config": {"Image": "app:1"}, "Image": "sha256:0"}, "app:1"),
        ({"Config": {}, "Image": "sha256:0"}, "sha256:0"),
        ({"Image": "sha256:0"}, "sha256:0"),
        ({}, None),
        ([], None),
    ],
)
def test_container_of_that_name(told: object, image: str | None) -> None:
    with fake_engine() as engine:
        engine.answers["/images/json"] = lambda query: []
        engine.answers["/containers/box/json"] = lambda query: told
        with pytest.raises(SourceError) as raised:
            dimgx.open_image("box", engine=EngineOptions(host=engine.url))
    named = f"'box' is a container, not an image: its image is {image};"
    assert str(raised.value).startswith(named) == (image is not None)


def test_credentials_go_with_a_pull(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"auths": {"registry.example:5000": {"auth": "dTpw"}}}'  # u:p
    )
    with fake_engine() as engine:
        engine.answers["/images/create"] = lambda query: b"{}"
        engine.add(image(BASE, TOP, tags=("registry.example:5000/app:1",), history=HISTORY), b"")
        options = EngineOptions(host=engine.url, pull="always", docker_config=str(tmp_path))
        with dimgx.open_image("registry.example:5000/app:1", engine=options):
            pass
        assert engine.headers["/images/create"]["X-Registry-Auth"]


def test_pull_with_credentials_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "not-there"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with fake_engine() as engine:
        code, told = programs.refused("h.io/app:1", "-H", engine.url, "--pull", "always")
    assert (code, told.startswith("dimgx: h.io/app:1 cannot be pulled: ")) == (2, True)
    assert "docker-credential-not-there not installed" in told


def test_engine_that_dies_while_it_pulls() -> None:
    with fake_engine(cut=10) as engine:
        engine.answers["/images/create"] = lambda query: b'{"status": "Downloading"}'
        options = EngineOptions(host=engine.url, pull="always")
        with pytest.raises(TemporaryError, match="broke off in the middle of its answer: look"):
            dimgx.open_image("app:1", engine=options)


@pytest.mark.parametrize("config", ["[]", '{"auths": [1]}', '{"auths": {"x": {"auth": "!!"}}}'])
def test_config_that_docker_has_not_written_is_named(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with fake_engine() as engine:
        options = EngineOptions(host=engine.url, docker_config=str(tmp_path))
        with pytest.raises(SourceError, match=f"^{tmp_path}/config.json is not as .*: mend"):
            dimgx.open_image("app:1", engine=options)
