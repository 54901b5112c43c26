"""Why a target is outdated: one line for each way in which it can be."""

from __future__ import annotations

import pytest

from dimgx.images.origin import Origin
from dimgx.images.outdated import Made, difference, why_outdated

A, B, C = ("sha256:" + letter * 64 for letter in "abc")
SHORT_A, SHORT_B, SHORT_C = ("sha256:" + letter * 12 for letter in "abc")
TWO = Origin((A, B))

DIFFERENCES = [
    ("layer", Origin((A, C)), f"layer 2 changed: {SHORT_B} -> {SHORT_C}"),
    ("order", Origin((B, A)), f"layer 1 changed: {SHORT_A} -> {SHORT_B}"),
    ("more", Origin((A, B, C)), f"layer 3 is new: {SHORT_C}"),
    ("fewer", Origin((A,)), f"layer 2 is gone: {SHORT_B}"),
    ("v1 id", Origin((A, "b" * 64)), f"layer 2 changed: {SHORT_B} -> {'b' * 12}"),
    ("blob", Origin((f"blob:{A}", B)), f"layer 1 changed: {SHORT_A} -> blob:{SHORT_A}"),
    ("squashed", Origin((B,), below=(A,), is_squashed=True),
     "flattened, now squashed from layer 2 on"),
    ("squashed all", TWO._replace(is_squashed=True), "flattened, now squashed from layer 1 on"),
    ("kept", TWO._replace(is_kept=True), "flattened, now layers kept"),
    ("added", TWO._replace(added=(C,)), f"added layer 1 is new: {SHORT_C}"),
    ("paths", TWO._replace(paths=("+etc", "-x")),
     "--include and --exclude changed: nothing -> +etc -x"),
    ("strip", TWO._replace(strip_components=1), "--strip-components changed: 0 -> 1"),
    ("prefix", TWO._replace(prefix="a/"), "--prefix changed: none -> a/"),
    ("root", TWO._replace(root_entry=True), "--root-entry changed: no -> yes"),
    ("clamp", TWO._replace(clamp_mtime=0), "--clamp-mtime changed: none -> 0"),
    ("level", TWO._replace(level=9), "the compression's level changed: none -> 9"),
    ("created", TWO._replace(created=0), "SOURCE_DATE_EPOCH changed: none -> 0"),
    ("version", Origin((), version=2),
     "made by an incompatible version of dimgx (record 1, not 2)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "reason"), [case[1:] for case in DIFFERENCES], ids=[case[0] for case in DIFFERENCES]
)
def test_difference(wanted: Origin, reason: str) -> None:
    assert difference(TWO, wanted) == reason
    assert difference(wanted, wanted) is None


def test_record_of_another_version_is_outdated() -> None:
    told = difference(Origin((), version=2), TWO)
    assert told == "made by an incompatible version of dimgx (record 2, not 1)"
    told = difference(Origin((), version=0), TWO)
    assert told == "a run that was to write it broke off"


@pytest.mark.parametrize("field", ["settings", "healthcheck", "platform", "image"])
def test_what_one_side_does_not_know_is_no_difference(field: str) -> None:
    one, other = TWO._replace(**{field: A}), TWO._replace(**{field: B})
    assert difference(one, TWO) is None
    assert difference(TWO, one) is None
    told = difference(one, other)
    assert told is not None and told.endswith(f" changed: {SHORT_A} -> {SHORT_B}")


def test_same_image_is_the_same_whatever_its_source_tells_of_it() -> None:
    one = TWO._replace(image=A, platform="linux/arm/v7", settings=B)
    other = TWO._replace(image=A, platform="linux/arm", healthcheck=B, settings=C)
    assert difference(one, other) is None
    told = difference(one, other._replace(image=B))
    assert told == f"the run settings changed: {SHORT_B} -> {SHORT_C}"


def made(*names: str, layers: tuple[str, ...] = (A,), **more: object) -> Made:
    return Made(names, Origin(layers), form="docker-archive", **more)  # type: ignore[arg-type]


SETS = [
    ("same", [made("a:1"), made("b:2", layers=(B,))], [made("b:2", layers=(B,)), made("a:1")],
     None),
    ("misses", [made("a:1")], [made("a:1"), made("b:2")], "misses image b:2"),
    ("too many", [made("a:1"), made("c:1")], [made("a:1")], "holds image c:1 too"),
    ("renamed", [made("a:1")], [made("b:1")], "misses image b:1"),
    ("one more name", [made("a:1", "c:1")], [made("a:1")], "holds image c:1 too"),
    ("one name fewer", [made("a:1")], [made("a:1", "c:1")], "misses image c:1"),
    ("two names apart", [made("a:1"), made("b:1")], [made("a:1", "b:1")], None),
    ("changed", [made("a:1"), made("b:2")], [made("a:1"), made("b:2", layers=(B,))],
     f"image b:2: layer 1 changed: {SHORT_A} -> {SHORT_B}"),
    ("swapped", [made("a:1"), made("b:1", layers=(B,))], [made("a:1", layers=(B,)), made("b:1")],
     f"image a:1: layer 1 changed: {SHORT_A} -> {SHORT_B}"),
    ("completed", [made("docker.io/library/a:latest")], [made("a")], None),
    ("nameless", [made(), made(layers=(B,))], [made(layers=(B,)), made()], None),
    ("nameless twice", [made(), made()], [made(), made()], None),
    ("nameless once more", [made(), made()], [made()], f"holds image of layer {SHORT_A} too"),
    ("one name of two", [made("a:1"), made("a:1", layers=(B,))],
     [made("a:1"), made("a:1", layers=(B,))], None),
    ("one name of two, of which one is there", [made("a:1", layers=(B,))],
     [made("a:1"), made("a:1", layers=(B,))], "misses image a:1"),
    ("one name of two, of which one is wanted", [made("a:1"), made("a:1", layers=(B,))],
     [made("a:1", layers=(B,))], "holds image a:1 too"),
    ("one name of two in another order", [made("a:1"), made("a:1", layers=(B,))],
     [made("a:1", layers=(B,)), made("a:1")],
     f"image a:1: layer 1 changed: {SHORT_A} -> {SHORT_B}"),
    ("one name of two that are one", [made("a:1")], [made("a:1"), made("a:1")], None),
    ("nameless twice, stored once", [made()], [made(), made()], None),
    ("with a name and without", [made("a:1")], [made("a:1"), made()], None),
    ("misses nameless", [made(), made(layers=(C,))], [made(), made(layers=(B,))],
     f"misses image of layer {SHORT_B}"),
    ("holds nameless", [made("a:1"), made()], [made("a:1")], f"holds image of layer {SHORT_A} too"),
    ("other nameless", [made(), made(layers=(B,))], [made(layers=(C,))],
     f"misses image of layer {SHORT_C}"),
    ("without anything", [made(), made(layers=())], [made()], "holds image without a name too"),
    ("only nameless", [made()], [made(layers=(B,))],
     f"layer 1 changed: {SHORT_A} -> {SHORT_B}"),
    ("lost its name", [made()], [made("a:1")], "misses image a:1"),
    ("empty", [], [made("a:1")], "misses image a:1"),
    ("not ours", [made("a:1", is_ours=False)], [made("a:1")], "not an archive of ours"),
    ("damaged", [made("a:1"), made("b:1", problem="damaged: x")], [made("a:1"), made("b:1")],
     "damaged: x"),
    ("packed", [made("a:1", packing="none")], [made("a:1", packing="gzip")],
     "the compression changed: none -> gzip"),
    ("layers packed", [made("a:1", compression="none")], [made("a:1", compression="zstd")],
     "the layers' compression changed: none -> zstd"),
    ("packed somehow", [made("a:1", packing="gzip", compression="zstd")], [made("a:1")], None),
    ("mixed below", [made("a:1", compression="gzip", is_mixed=True)],
     [made("a:1", compression="gzip")], None),
    ("form", [made("a:1")], [made("a:1")._replace(form="oci-archive")],
     "the form changed: docker-archive -> oci-archive"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "wanted", "reason"), [case[1:] for case in SETS], ids=[case[0] for case in SETS]
)
def test_several_images(found: list[Made], wanted: list[Made], reason: str | None) -> None:
    assert why_outdated(found, wanted) == reason
    assert why_outdated(wanted, wanted) in (None, "not an archive of ours")


def test_image_of_another_program_is_current_where_layers_are_kept() -> None:
    kept = Made(("a:1",), Origin((A, B), is_kept=True), form="docker-archive")
    theirs = kept._replace(is_ours=False)
    assert why_outdated([theirs], [kept]) is None
    newer = kept._replace(origin=Origin((A, C), is_kept=True))
    assert why_outdated([theirs], [newer]) == f"layer 2 changed: {SHORT_B} -> {SHORT_C}"
    mixed, packed = (
        kept._replace(compression="gzip", is_mixed=is_mixed) for is_mixed in (True, False)
    )
    told = why_outdated([mixed], [packed])
    assert told == "the layers' compression changed: mixed -> gzip"


def test_a_run_that_broke_off_is_told_whatever_is_wanted() -> None:
    kept = Origin((A, B), is_kept=True)
    silent = Made((), Origin((), version=0), form="docker-dir", kept=kept)
    told = why_outdated([silent], [Made((), kept, form="docker-dir")])
    assert told == "a run that was to write it broke off"
