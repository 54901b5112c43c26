"""A registry that cuts, stalls, lies, limits and redirects: the right bytes, or one line."""

from __future__ import annotations

import gzip
import io
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dimgx
from dimgx import Credentials, ImageError, RegistryOptions, SourceError, TemporaryError
from dimgx.sources.patience import Patience, parse_retry_after
from dimgx.sources.remoteblob import RemoteBlob
from tests.dsl import file, layer, whiteout
from tests.registries import (
    PASSWORD,
    USER,
    FaultyRegistry,
    Handler,
    Holds,
    Rule,
    fails,
    fault,
    faulty_registry,
    flat,
    wants_password,
)
from tests.writers import OCI, image, sha256, to_json

NOISE = random.Random(7).randbytes(300_000)
BASE = layer(file("etc/base", b"below"), file("etc/old", bytes(10_000)))
TOP = layer(whiteout("etc/old"), file("etc/noise", NOISE))
APP = image(BASE, TOP)
BIG = APP.blobs("gzip")[1]
BIG_PATH = f"/blobs/sha256:{sha256(BIG)}"


@pytest.fixture(scope="module")
def expected() -> bytes:
    with faulty_registry() as plain:
        plain.add(APP)
        return flat(plain.reference())


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with faulty_registry() as registry:
        registry.add(APP)
        yield registry


# -- cuts ----------------------------------------------------------------------------------------


def cuts_at(*places: int, part: str = BIG_PATH) -> Rule:
    """Cut the answers to the first requests for `part`, each after so many bytes of the blob."""
    left = list(places)

    def rule(handler: Handler) -> bool:
        if part not in handler.path or not left:
            return False
        place, start = left.pop(0), handler.range_start()
        stated = {"Content_Range": f"bytes {start}-{len(BIG) - 1}/{len(BIG)}"} if start else {}
        handler.send(206 if start else 200, BIG[start:place], len(BIG) - start, **stated)
        handler.cut()
        return True

    return rule


PLACES = [0, 1, 63, 64, 65, 1000, 65_535, 65_536, 65_537, 262_144, len(BIG) - 1]


@pytest.mark.parametrize("place", PLACES)
def test_cut_anywhere(faulty: FaultyRegistry, expected: bytes, place: int) -> None:
    faulty.rules.append(cuts_at(place))
    assert flat(faulty.reference()) == expected
    ranges = [headers.get("Range") for path, headers in faulty.requests if BIG_PATH in path]
    assert ranges == [None, f"bytes={place}-" if place else None]


def test_cut_again_and_again(faulty: FaultyRegistry, expected: bytes) -> None:
    faulty.rules.append(cuts_at(10, 10, 70_000, 70_001, 200_000))
    assert flat(faulty.reference()) == expected


def test_patience_begins_anew_with_what_arrives(faulty: FaultyRegistry, expected: bytes) -> None:
    # To wait so often takes longer than `retry_time_s` in any case.
    faulty.rules.append(cuts_at(*range(66_000, len(BIG), 66_000)))
    assert flat(faulty.reference(), retry_time_s=0.26) == expected


def test_cut_in_the_manifest_and_in_the_config(faulty: FaultyRegistry, expected: bytes) -> None:
    config = APP.config_json()

    def rule(handler: Handler) -> bool:
        is_first = len([path for path, _ in faulty.requests if path == handler.path]) == 1
        if not is_first or BIG_PATH in handler.path:
            return False
        if "manifests" in handler.path:
            handler.send(200, b'{"schema', 500)
        elif sha256(config) in handler.path:
            handler.send(200, config[:10], len(config))
        else:
            return False
        handler.cut()
        return True

    faulty.rules.append(rule)
    assert flat(faulty.reference()) == expected


@pytest.mark.parametrize("step", [0, 1])
def test_cut_for_good_is_given_up(faulty: FaultyRegistry, step: int) -> None:
    """Also where a few bytes arrive each time."""
    faulty.rules.append(cuts_at(*(100 + step * number for number in range(1000))))
    told = fault(faulty.reference(), TemporaryError, retry_time_s=0.6)
    assert "byte 10" in told and "--retry-time" in told


def test_end_that_no_length_tells_from_a_cut(faulty: FaultyRegistry, expected: bytes) -> None:
    def rule(handler: Handler) -> bool:
        if BIG_PATH not in handler.path or handler.range_start():
            return False
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BIG[:1000])
        handler.cut()
        return True

    faulty.rules.append(rule)
    assert flat(faulty.reference()) == expected
    ranges = [headers.get("Range") for path, headers in faulty.requests if BIG_PATH in path]
    assert ranges == [None, "bytes=1000-"]


def test_no_such_range_where_all_was_asked_for(faulty: FaultyRegistry) -> None:
    faulty.rules.append(fails(416, times=9, part=BIG_PATH))
    assert "ends before the range" in fault(faulty.reference(), ImageError)
    assert sum(BIG_PATH in path for path, _ in faulty.requests) == 1


@pytest.mark.parametrize("answer", ["200", "416", "wrong 206", "earlier 206", "no range 206"])
def test_answers_to_a_range_request(faulty: FaultyRegistry, expected: bytes, answer: str) -> None:
    def rule(handler: Handler) -> bool:
        start = handler.range_start()
        if BIG_PATH not in handler.path or not start:
            return False
        if answer == "200":
            handler.send(200, BIG)
        elif answer == "416":
            handler.send(416)
        elif answer == "earlier 206":
            handler.send(206, BIG[99:], Content_Range=f"bytes 99-{len(BIG) - 1}/{len(BIG)}")
        elif answer == "wrong 206":
            stated = f"bytes {start + 5}-{len(BIG) - 1}/{len(BIG)}"
            handler.send(206, BIG[start + 5 :], Content_Range=stated)
        else:
            handler.send(206, BIG)
        return True

    faulty.rules += [cuts_at(1000), rule]
    assert flat(faulty.reference()) == expected


# -- silence and limits --------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["/manifests/", BIG_PATH])
def test_silence_is_waited_out_and_tried_again(
    faulty: FaultyRegistry, expected: bytes, part: str
) -> None:
    released = threading.Event()

    def rule(handler: Handler) -> bool:
        if part in handler.path and not released.is_set():
            released.set()
            handler.send(200, b"", 1000)
            time.sleep(1.2)
            handler.close_connection = True
            return True
        return False

    faulty.rules.append(rule)
    assert flat(faulty.reference(), timeout_s=0.5) == expected


def test_silence_for_good(faulty: FaultyRegistry) -> None:
    def rule(handler: Handler) -> bool:
        time.sleep(1)
        return True

    faulty.rules.append(rule)
    told = fault(faulty.reference(), TemporaryError, timeout_s=0.2, retry_time_s=0.5,
                 tls_verify=None)  # fmt: skip
    assert "does not answer in time" in told


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 522])
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_passing_failures(faulty: FaultyRegistry, expected: bytes, status: int, part: str) -> None:
    faulty.rules.append(fails(status, times=2, part=part, Retry_After="0"))
    assert flat(faulty.reference()) == expected


@pytest.mark.parametrize("after", ["soon", "-1", "1.5", "Fri, 31 Dec 99999999999 23:59:59 GMT"])
def test_retry_after_that_says_nothing(
    faulty: FaultyRegistry, expected: bytes, after: str
) -> None:
    faulty.rules.append(fails(503, part="/manifests/", Retry_After=after))
    assert flat(faulty.reference()) == expected


def test_retry_after_0_is_no_leave_to_ask_at_once(faulty: FaultyRegistry) -> None:
    faulty.rules.append(fails(429, times=1000, Retry_After="0"))
    told = fault(faulty.reference(), TemporaryError, retry_time_s=1)
    assert "429" in told and told.endswith("; tried for 1 s (--retry-time): try again later")
    assert len(faulty.requests) < 10


def test_retry_after_is_waited_for(faulty: FaultyRegistry, expected: bytes) -> None:
    faulty.rules.append(fails(503, part="/manifests/", Retry_After="1"))
    started = time.monotonic()
    assert flat(faulty.reference()) == expected
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_a_date_without_a_zone_is_not_local(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """As in the oldest of the three forms that RFC 9110 has (5.6.7)."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for form in ("%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S GMT"):
            text = time.strftime(form, time.gmtime(time.time() + 100))
            found = parse_retry_after({"Retry-After": text})
            assert found is not None and 90 < found < 101
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("after", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_rate_limit_says_when_to_come_back(faulty: FaultyRegistry, after: str) -> None:
    faulty.rules.append(fails(429, times=9, Retry_After=after))
    told = fault(faulty.reference(), TemporaryError)
    assert "429" in told and "come back in" in told and (after != "3600" or "3600 s" in told)
    assert len(faulty.requests) == 1


def test_failures_for_good(faulty: FaultyRegistry) -> None:
    faulty.rules.append(fails(500, times=1000))
    assert "fails (500)" in fault(faulty.reference(), TemporaryError, retry_time_s=0.3)
    assert len(faulty.requests) > 1
    faulty.requests.clear()
    assert "(500)" in fault(faulty.reference(), TemporaryError, retry_time_s=0)
    assert len(faulty.requests) == 1


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "pause", lambda _, problem: pytest.fail(f"waits: {problem}"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "refuses the connection" in fault(f"docker://{host}/app", TemporaryError)


def test_host_that_is_not() -> None:
    told = fault("docker://no-such-host.invalid/app", dimgx.DimgxError)
    assert "no-such-host.invalid" in told


def test_name_that_cannot_be_looked_up_at_the_moment(
    faulty: FaultyRegistry, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, failures = socket.getaddrinfo, [socket.EAI_AGAIN]

    def fail(*words: object, **more: object) -> object:
        if failures:
            raise socket.gaierror(failures.pop(), "try again")
        return look_up(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert flat(faulty.reference()) == expected
    failures += [socket.EAI_AGAIN] * 2
    told = fault(faulty.reference(), TemporaryError, retry_time_s=0)
    assert told == f"the name of {faulty.host} cannot be looked up at the moment: try again later"


def test_error_while_another_one_is_dealt_with() -> None:
    try:
        flat("docker://no-such-host.invalid/app")
    except SourceError:
        assert "refuses the connection" in fault("docker://127.0.0.1:1/app", TemporaryError)


# -- lies ----------------------------------------------------------------------------------------


def test_blob_that_does_not_match(faulty: FaultyRegistry) -> None:
    bad = bytearray(BIG)
    bad[200_000] ^= 1
    faulty.blobs[sha256(BIG)] = bytes(bad)
    told = fault(faulty.reference(), ImageError)
    assert "layer 2/2" in told and sha256(BIG) in told


@pytest.mark.parametrize("change", [-5, 5])
def test_blob_of_another_size(faulty: FaultyRegistry, change: int) -> None:
    faulty.blobs[sha256(BIG)] = BIG[:change] if change < 0 else BIG + bytes(change)
    told = fault(faulty.reference(), ImageError)
    assert "layer 2/2" in told and ("early" in told or "more than" in told)


def test_blob_that_is_missing(faulty: FaultyRegistry) -> None:
    del faulty.blobs[sha256(BIG)]
    assert "not whole" in fault(faulty.reference(), ImageError)


def test_foreign_layer_that_lies_elsewhere(faulty: FaultyRegistry) -> None:
    kinds = [None, f"{OCI}.layer.nondistributable.v1.tar+gzip"]
    faulty.add(APP, media_types=kinds)
    assert flat(faulty.reference())  # one that the registry has is a layer like any other
    del faulty.blobs[sha256(BIG)]
    told = fault(faulty.reference(), ImageError)
    assert "foreign layer" in told and "skopeo copy" in told and "not whole" not in told


def test_config_that_does_not_match(faulty: FaultyRegistry) -> None:
    digest = APP.id()
    faulty.blobs[digest] = faulty.blobs[digest].replace(b"amd64", b"arm64")
    assert digest in fault(faulty.reference(), ImageError)


def test_config_of_another_size(faulty: FaultyRegistry) -> None:
    faulty.blobs[APP.id()] += b"\n"
    size = len(APP.config_json())
    assert f"has more than the {size} bytes stated" in fault(faulty.reference(), ImageError)


def test_manifest_that_does_not_match(faulty: FaultyRegistry) -> None:
    other = faulty.add(image(BASE), tag="2")
    faulty.manifests[other["digest"]] = faulty.manifests["1"]
    name = faulty.reference().rpartition(":")[0]
    assert other["digest"] in fault(f"{name}@{other['digest']}", ImageError)


def test_stated_digest_that_is_none(faulty: FaultyRegistry) -> None:
    media_type, data = faulty.manifests["1"]

    def answer(handler: Handler) -> bool:
        handler.send(200, data, Content_Type=media_type, Docker_Content_Digest="none")
        return True

    faulty.rules.append(answer)
    told = fault(faulty.reference(), ImageError)
    assert told.startswith(f"{faulty.reference()}: its Docker-Content-Digest: 'none' is not")


def test_manifest_that_is_too_large(faulty: FaultyRegistry) -> None:
    media_type, data = faulty.manifests["1"]
    faulty.manifests["1"] = (media_type, data + b" " * (4 << 20))
    assert "at most 4194304" in fault(faulty.reference(), ImageError)


def test_manifest_that_comes_compressed(faulty: FaultyRegistry, expected: bytes) -> None:
    """Nobody asked for that, but some proxies do it; the limit is for what it comes to."""
    media_type, data = faulty.manifests["1"]

    def answer(handler: Handler) -> bool:
        if "/manifests/" not in handler.path:
            return False
        handler.send(200, gzip.compress(data), Content_Type=media_type, Content_Encoding="gzip")
        return True

    faulty.rules.append(answer)
    assert flat(faulty.reference()) == expected
    data += b" " * (4 << 20)
    assert "more than the 4194304 bytes" in fault(faulty.reference(), ImageError)


def test_manifest_that_never_ends(faulty: FaultyRegistry) -> None:
    def rule(handler: Handler) -> bool:
        if "/manifests/" not in handler.path:
            return False
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b" " * 65536)
        except OSError:
            pass
        handler.close_connection = True
        return True

    faulty.rules.append(rule)
    assert "more than the 4194304 bytes" in fault(faulty.reference(), ImageError)


@pytest.mark.parametrize(
    ("media_type", "document"),
    [
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", {"schemaVersion": 1}),
        ("application/json", {"schemaVersion": 1, "fsLayers": [], "history": []}),
    ],
)
def test_schema_1(faulty: FaultyRegistry, media_type: str, document: dict[str, object]) -> None:
    faulty.manifests["old"] = (media_type, to_json(document))
    assert "schema 1" in fault(faulty.reference("old"), ImageError)


def test_schema_1_by_a_digest_without_its_signatures(faulty: FaultyRegistry) -> None:
    digest = f"sha256:{'1' * 64}"
    media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    faulty.manifests[digest] = (media_type, to_json({"schemaVersion": 1}))
    assert "schema 1" in fault(f"docker://{faulty.host}/app@{digest}", ImageError)


def test_answers_that_make_no_sense(faulty: FaultyRegistry) -> None:
    faulty.manifests["text"] = ("text/plain", b"log in first")
    assert "not valid JSON" in fault(faulty.reference("text"), ImageError)
    faulty.manifests["html"] = ("text/html", b"\n<html>log in first</html>")
    assert fault(faulty.reference("html"), ImageError) == (
        f"{faulty.host} answers with a web page, not with the manifest html: is it a registry, and"
        " does no login page or proxy stand before it?"
    )
    for status in (302, 407, 418, 501):
        faulty.rules[:] = [fails(status, times=9)]
        assert f"answers with status {status}" in fault(faulty.reference(), SourceError)


def test_missing_tag(faulty: FaultyRegistry) -> None:
    for tag in ("v1.2.3", "v1.2.4", "nightly"):
        faulty.add(APP, tag)
    told = fault(faulty.reference("v1.2.5"), SourceError)
    assert "near tags" in told and "v1.2.4" in told and "nightly" not in told
    told = fault(faulty.reference("other"), SourceError)
    assert "near tags: " in told and told.endswith("v1.2.4, nightly")
    faulty.rules.append(fails(500, times=9, part="/tags/"))
    assert fault(faulty.reference("v1.2.5"), SourceError).endswith("manifest unknown")
    odd = (b'{"tags": null}', b'{"tags": [1, "v1.2.5\\u0007"]}', b"[]", b'{"tags": 5}', b"<p>")
    for tags in odd:
        faulty.rules[:] = [lambda handler, tags=tags: tags_are(handler, tags)]
        assert fault(faulty.reference("v1.2.5"), SourceError).endswith("manifest unknown")


def tags_are(handler: Handler, body: bytes) -> bool:
    if "/tags/" not in handler.path:
        return False
    handler.send(200, body)
    return True


# -- indexes -------------------------------------------------------------------------------------


def test_only_the_wanted_manifest_of_an_index_is_fetched(
    faulty: FaultyRegistry, expected: bytes
) -> None:
    wanted = faulty.add(APP) | {"platform": {"os": "linux", "architecture": "amd64"}}
    others = []
    for architecture in ("arm64", "s390x"):
        other = faulty.add(image(BASE, architecture=architecture), architecture)
        others.append(other | {"platform": {"os": "linux", "architecture": architecture}})
    attestation = faulty.add(image(TOP), "att") | {
        "platform": {"os": "unknown", "architecture": "unknown"}
    }
    inner = faulty.add_index([wanted, attestation], "inner")
    faulty.add_index([*others, inner], "outer")
    faulty.requests.clear()
    assert flat(faulty.reference("outer")) == expected
    fetched = [path for path in faulty.paths() if "manifests" in path]
    assert fetched == [f"manifests/{name}" for name in ("outer", inner["digest"], wanted["digest"])]
    found = dimgx.list_platforms(faulty.reference("outer"))
    assert list(map(str, found)) == ["linux/arm64", "linux/s390x", "linux/amd64"]


def test_manifest_that_an_index_lists_for_several_platforms(
    faulty: FaultyRegistry, expected: bytes
) -> None:
    one = faulty.add(APP)
    systems = ("arm64", "amd64")
    entries = [one | {"platform": {"os": "linux", "architecture": name}} for name in systems]
    faulty.add_index([*entries, *entries], "shared")
    assert flat(faulty.reference("shared")) == expected
    found = dimgx.list_platforms(faulty.reference("shared"))
    assert list(map(str, found)) == ["linux/arm64", "linux/amd64"]


def test_manifest_that_two_indexes_list(faulty: FaultyRegistry) -> None:
    """It stays the only one, which is taken on any machine."""
    one = faulty.add(image(BASE, architecture="s390x"), "other")
    one |= {"platform": {"os": "linux", "architecture": "s390x"}}
    attestation = {"digest": f"sha256:{'0' * 64}", "size": 3}
    attestation |= {"platform": {"os": "unknown", "architecture": "unknown"}}
    inner = [faulty.add_index([one, *more], "inner") for more in ([], [attestation])]
    faulty.add_index(inner, "outer")
    with dimgx.open_image(faulty.reference("outer")) as found:
        assert "the image is for linux/s390x" in found.warnings[0]


def test_bad_entry_of_an_index_matters_only_when_it_is_chosen(
    faulty: FaultyRegistry, expected: bytes
) -> None:
    bad = {"mediaType": f"{OCI}.manifest.v1+json", "digest": "blake3:" + "0" * 64, "size": 3}
    faulty.add_index([bad, faulty.add(APP)], "bad")
    assert flat(faulty.reference("bad")) == expected
    bad["platform"] = {"os": "linux", "architecture": "amd64"}
    faulty.add_index([bad, faulty.add(APP)], "bad")
    assert "blake3 is not known" in fault(faulty.reference("bad"), ImageError)


@pytest.mark.parametrize("kind", ["manifest", "index"])
def test_missing_entry_of_an_index_matters_only_when_it_is_chosen(
    faulty: FaultyRegistry, expected: bytes, kind: str
) -> None:
    gone = {"mediaType": f"{OCI}.{kind}.v1+json", "digest": f"sha256:{'0' * 64}", "size": 3}
    good = faulty.add(APP) | {"platform": {"os": "linux", "architecture": "amd64"}}
    faulty.add_index([gone, good], "sparse")
    assert flat(faulty.reference("sparse")) == expected
    assert list(map(str, dimgx.list_platforms(faulty.reference("sparse")))) == ["linux/amd64"]
    faulty.add_index([gone], "gone")
    assert f"{gone['digest']} of" in fault(faulty.reference("gone"), SourceError)
    with pytest.raises(SourceError, match=r"0000 of .* is not there"):
        dimgx.list_platforms(faulty.reference("gone"))


def test_why_an_image_without_a_platform_cannot_be_read(faulty: FaultyRegistry) -> None:
    entries = [faulty.add(image(BASE, architecture=name)) for name in ("amd64", "s390x", "ppc64")]
    faulty.add_index(entries, "mixed")
    faulty.rules.append(fails(403, 1, entries[0]["digest"]))
    told = fault(faulty.reference("mixed"), ImageError)
    assert "there is unknown, linux/s390x, linux/ppc64 (" in told and "is refused (403)" in told


def test_index_that_holds_itself_in_ever_new_guises(faulty: FaultyRegistry) -> None:
    inner = faulty.add(APP)
    for depth in range(12):
        inner = faulty.add_index([inner], f"depth{depth}")
    assert "nested deeper" in fault(faulty.reference("depth11"), ImageError)


def test_signature_is_no_image(faulty: FaultyRegistry) -> None:
    kind = "application/vnd.dev.cosign.simplesigning.v1+json"
    faulty.add(image(BASE), "sig", media_types=[kind])
    assert "no image" in fault(faulty.reference("sig"), ImageError)


# -- what is fetched, and when -------------------------------------------------------------------


def test_opening_fetches_no_layer(faulty: FaultyRegistry) -> None:
    with dimgx.open_image(faulty.reference(), platform="linux/amd64") as found:
        listing = dimgx.inspect(found)
    assert [row.size for row in listing.rows] == [len(BIG), len(APP.blobs("gzip")[0])]
    assert listing.size_kind == "blob"
    assert faulty.paths() == ["manifests/1", f"blobs/sha256:{APP.id()}"]


def test_chosen_layers_only(faulty: FaultyRegistry) -> None:
    flat(faulty.reference(), layers=["@0"])
    assert not any(BIG_PATH in path for path, _ in faulty.requests)
    assert all(headers["Accept-Encoding"] == "identity" for _, headers in faulty.requests)


def test_top_layers_are_begun_first_and_several_at_once(faulty: FaultyRegistry) -> None:
    layers = [layer(file(f"f{k}", random.Random(k).randbytes(1000))) for k in range(6)]
    picture = image(*layers)
    faulty.add(picture, "six")
    barrier = threading.Barrier(4, timeout=20)
    order = []

    def rule(handler: Handler) -> bool:
        if "/blobs/" in handler.path and picture.id() not in handler.path:
            order.append(handler.path.rpartition(":")[2])
            if len(order) <= 4:
                barrier.wait()  # breaks where fewer than four come at once
        return False

    faulty.rules.append(rule)
    flat(faulty.reference("six"))
    digests = [sha256(blob) for blob in picture.blobs("gzip")]
    assert set(order[:4]) == set(digests[2:]) and set(order[4:]) == set(digests[:2])


@pytest.mark.parametrize("missed", [0, 1, 2])
def test_one_refused_layer_ends_the_rest(
    faulty: FaultyRegistry, monkeypatch: pytest.MonkeyPatch, missed: int
) -> None:
    """However often its end is called for just before it begins to wait."""
    left = [missed]
    abort = RemoteBlob.abort

    def abort_too_early(blob: RemoteBlob, threads: list[threading.Thread]) -> None:
        left[0] -= 1
        if left[0] < 0:
            abort(blob, threads)

    monkeypatch.setattr(RemoteBlob, "abort", abort_too_early)
    low = sha256(APP.blobs("gzip")[0])
    held = Holds(BIG_PATH, BIG[:1000])
    faulty.rules.append(held)
    del faulty.blobs[low]
    assert low in fault(faulty.reference(), ImageError, timeout_s=60)
    assert not held.overdue.is_set()
    held.released.set()


def test_layer_that_is_there_twice_is_fetched_once(faulty: FaultyRegistry) -> None:
    faulty.add(image(TOP, BASE, TOP), "twice")
    flat(faulty.reference("twice"))
    assert sum(BIG_PATH in path for path, _ in faulty.requests) == 1


def test_image_can_be_read_again_after_a_reader_left(
    faulty: FaultyRegistry, expected: bytes
) -> None:
    with dimgx.open_image(faulty.reference(), platform="linux/amd64") as found:
        chunks = found.layers[1].blob.iter_chunks()
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]  # a generator
        for _ in range(2):
            target = io.BytesIO()
            dimgx.flatten(found, target)
            assert target.getvalue() == expected


# -- redirects -----------------------------------------------------------------------------------


def redirects(target: str, part: str = "/blobs/") -> Rule:
    """Send whoever wants a blob to the same path at `target`."""

    def rule(handler: Handler) -> bool:
        if part not in handler.path or "signature" in handler.path:
            return False
        where = f"{target}{handler.path}?signature=of-the-test"
        handler.send(307, b"", Location=where)
        return True

    return rule


def blob_store(registry: FaultyRegistry) -> None:
    """Make a registry serve what is redirected to it."""

    def rule(handler: Handler) -> bool:
        digest = handler.path.partition("?")[0].rpartition(":")[2]
        if "signature" not in handler.path or digest not in registry.blobs:
            return False
        registry.send_blob(handler, registry.blobs[digest])
        return True

    registry.rules.append(rule)


def test_redirects_take_no_credentials_along(faulty: FaultyRegistry, expected: bytes) -> None:
    with faulty_registry() as store:
        store.blobs |= faulty.blobs
        blob_store(store)
        store.rules.append(cuts_at(5000))
        # Another name of the same machine is another host.
        host = store.host.replace("127.0.0.1", "localhost")
        faulty.rules += [wants_password, redirects(f"http://{host}")]
        assert flat(faulty.reference(), credentials=Credentials(USER, PASSWORD)) == expected
        assert len(store.requests) >= 3
        assert not any("Authorization" in headers for _, headers in store.requests)
        assert any("Authorization" in headers for _, headers in faulty.requests)


@pytest.mark.parametrize("own", [Credentials(USER, PASSWORD), Credentials(identity_token="secret")])
@pytest.mark.parametrize("part", ["/blobs/", "/manifests/"])
@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_where_a_redirect_leads_cannot_ask_for_credentials(
    faulty: FaultyRegistry, own: Credentials, part: str, scheme: str
) -> None:
    with faulty_registry() as other:
        host = other.host.replace("127.0.0.1", "localhost")

        def challenge(handler: Handler) -> bool:
            asked = f'{scheme} realm="http://{host}/token",service="s"'
            handler.send(401, b"", WWW_Authenticate=asked)
            return True

        other.rules.append(challenge)
        faulty.rules.append(redirects(f"http://{host}", part))
        told = fault(faulty.reference(), SourceError, credentials=own)
        assert f"is refused by {host}, where {faulty.host} sends" in told
        assert len(other.requests) == 1  # no token was asked for
        assert not any("Authorization" in headers for _, headers in other.requests)


def test_blob_store_that_refuses_is_named(faulty: FaultyRegistry) -> None:
    with faulty_registry() as store:
        store.rules.append(fails(403, times=9))
        faulty.rules.append(redirects(f"http://{store.host}"))
        told = fault(faulty.reference(), SourceError)
        assert f"is refused by {store.host}, where {faulty.host} sends who asks" in told


def test_redirect_within_the_registry_keeps_them(faulty: FaultyRegistry, expected: bytes) -> None:
    faulty.rules += [wants_password, redirects(f"http://{faulty.host}")]
    blob_store(faulty)
    assert flat(faulty.reference(), credentials=Credentials(USER, PASSWORD)) == expected


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("/v2/app/manifests/1", "circle"),
        ("/v2/app/manifests/{n}", "more than 10 times"),
        ("ftp://127.0.0.1/x", "no http"),
        ("http://127.0.0.1:notaport/x", "no http"),
        ("http://[::1/x", "no http"),
        ("http://a b/\x01", "no http"),
        ("http://*/x", "there is no host *:"),
        ("http://\xe9\xbf/x", "there is no host "),
        ("http://a..b/x", "no http"),
    ],
)
def test_redirects_that_lead_nowhere(faulty: FaultyRegistry, location: str, problem: str) -> None:
    def rule(handler: Handler) -> bool:
        handler.send(307, b"", Location=location.replace("{n}", str(len(faulty.requests))))
        return True

    faulty.rules.append(rule)
    assert problem in fault(faulty.reference(), SourceError)


def test_failing_blob_store_shows_no_signature(faulty: FaultyRegistry) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        faulty.rules.append(redirects(f"http://127.0.0.1:{taken.getsockname()[1]}", BIG_PATH))
        told = fault(faulty.reference(), TemporaryError, retry_time_s=0.3)
        assert "refuses" in told


# -- ends ----------------------------------------------------------------------------------------


def ended_early(faulty: FaultyRegistry, begun: threading.Event) -> object:
    """Fetch the top layer, abort that once it has `begun` to wait, and give how it ended."""
    options = RegistryOptions(timeout_s=60)
    with dimgx.open_image(faulty.reference(), platform="linux/amd64", registry=options) as found:
        blob = found.layers[1].blob
        outcome: list[object] = []

        def work() -> None:
            try:
                outcome.extend(blob.iter_chunks())
            except dimgx.DimgxError as exc:
                outcome.append(exc)

        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(20)
        while thread.is_alive():
            blob.abort([thread])  # type: ignore[attr-defined]  # of a fetched one
            thread.join(0.1)
        return outcome[-1]


def test_cancelling_wakes_who_waits_for_bytes(faulty: FaultyRegistry) -> None:
    held = Holds(BIG_PATH, BIG[:70_000])
    faulty.rules.append(held)
    assert isinstance(ended_early(faulty, held.begun), dimgx.Cancelled)
    assert not held.overdue.is_set()
    held.released.set()


@pytest.mark.parametrize("sent", [None, BIG[:1000]])
def test_cancelling_is_asked_for_while_nothing_comes(
    faulty: FaultyRegistry, sent: bytes | None
) -> None:
    held = Holds(BIG_PATH, sent)
    faulty.rules.append(held)
    faulty.add(image(TOP), "silent")
    options = RegistryOptions(timeout_s=60)
    with (
        dimgx.open_image(faulty.reference("silent"), registry=options) as found,
        pytest.raises(dimgx.Cancelled),
    ):
        dimgx.flatten(found, io.BytesIO(), cancel=held.begun.is_set)
    assert not held.overdue.is_set()
    held.released.set()


def test_cancelling_wakes_who_waits_for_a_connection(faulty: FaultyRegistry) -> None:
    begun, released, overdue = (threading.Event() for _ in range(3))

    def serve() -> None:
        client = server.accept()[0]
        with client:
            client.recv(1)  # of what begins TLS
            begun.set()
            if not released.wait(20):
                overdue.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        faulty.rules.append(redirects(f"https://127.0.0.1:{server.getsockname()[1]}", BIG_PATH))
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert isinstance(ended_early(faulty, begun), dimgx.Cancelled)
        assert not overdue.is_set()
        released.set()
        thread.join()


def test_one_that_is_cancelled_leaves_others_of_the_image_alone(
    faulty: FaultyRegistry, expected: bytes
) -> None:
    asked, both, released = threading.Semaphore(0), threading.Event(), threading.Event()

    def hold(handler: Handler) -> bool:
        if BIG_PATH in handler.path:
            asked.release()
            released.wait(20)
        return False

    faulty.rules.append(hold)
    target = io.BytesIO()
    errors: list[BaseException] = []

    def cancelled() -> None:
        try:
            dimgx.flatten(found, io.BytesIO(), cancel=lambda: both.wait(20))
        except dimgx.Cancelled as exc:
            errors.append(exc)

    options = RegistryOptions(timeout_s=60)
    with dimgx.open_image(faulty.reference(), platform="linux/amd64", registry=options) as found:
        threads = [
            threading.Thread(target=cancelled),
            threading.Thread(target=dimgx.flatten, args=(found, target)),
        ]
        for thread in threads:
            thread.start()
        assert asked.acquire(timeout=20) and asked.acquire(timeout=20)
        both.set()
        threads[0].join()
        released.set()
        threads[1].join()
    assert len(errors) == 1 and target.getvalue() == expected


def test_no_thread_is_left(faulty: FaultyRegistry, tmp_path: Path) -> None:
    flat(faulty.reference())
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("dimgx")]


def test_layers_of_other_kinds(faulty: FaultyRegistry) -> None:
    kinds = [f"{OCI}.layer.v1.tar+gzip+encrypted", None]
    faulty.add(APP, "locked", media_types=kinds)
    assert "encrypted" in fault(faulty.reference("locked"), ImageError)
    assert flat(faulty.reference("locked"), layers=["@1"])


# -- order ---------------------------------------------------------------------------------------


def test_the_top_layers_are_fetched_first_but_what_all_would_wait_for_before_them() -> None:
    sizes = [900_000, *[20_000 + number for number in range(7)]]
    layers = [layer(file(f"f{size}", random.Random(size).randbytes(size))) for size in sizes]
    shown = image(*layers)
    first = threading.Barrier(4)
    lock, asked = threading.Lock(), []

    def together(handler: Handler) -> bool:
        if "/blobs/" in handler.path and handler.path.endswith(tuple(digests)):
            with lock:
                asked.append(digests.index(handler.path.rpartition(":")[2]))
                waits = len(asked) <= 4
            if waits:
                first.wait(20)
        return False

    with faulty_registry() as registry:
        registry.add(shown)
        digests = [sha256(blob) for blob in shown.blobs("gzip")]
        registry.rules.append(together)
        tar = flat(registry.reference(), timeout_s=20.0)
    assert len(tar) > sum(sizes)
    assert sorted(asked[:4]) == [0, 5, 6, 7] and sorted(asked) == list(range(8))
