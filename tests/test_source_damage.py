"""Cut at every byte, and with any bit flipped, an image opens right or with an error of ours."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dimgx.errors import DimgxError
from dimgx.image import Image
from tests.dsl import file, layer
from tests.opened import opened, plain, read
from tests.writers import (
    docker_archive,
    docker_archive_v1,
    image,
    oci_archive,
    oci_files,
    write_files,
)

SMALL = image(layer(file("a", b"1")), layer(file("b", b"2")))
ARCHIVES = {
    "1.10": docker_archive(SMALL, vintage="1.10"),
    "25": docker_archive(SMALL, vintage="25"),
    "29": docker_archive(SMALL, vintage="29"),
    "v1": docker_archive_v1(SMALL),
    "oci": oci_archive(SMALL),
    "gzip": docker_archive(SMALL, archive_compression="gzip"),
    "zstd": docker_archive(SMALL, archive_compression="zstd"),
    "xz": docker_archive(SMALL, archive_compression="xz"),
    "bzip2": docker_archive(SMALL, archive_compression="bzip2"),
}


def outcome(reference: str, data: bytes | None) -> str | None:
    """Open an image and read its layers; give the error, or None."""
    try:
        with opened(reference, data, platform=None) as found:
            look(found)
    except DimgxError as exc:
        assert str(exc).isprintable()
        return str(exc)
    return None


def look(found: Image) -> None:
    """Check what can be checked without the layers' digests, as an extractor would go on to."""
    for one in found.layers:
        data = plain(one)
        if one.diff_id is not None and one.diff_id.of(data) == one.diff_id:
            assert data in SMALL.layers


@pytest.mark.parametrize("kind", list(ARCHIVES))
def test_cut_at_every_byte(kind: str) -> None:
    data = ARCHIVES[kind]
    compressed = kind in ("gzip", "zstd", "xz", "bzip2")
    step = 1 if compressed else 64
    sizes = {*range(0, len(data), step), *range(512), *range(len(data) - 1100, len(data))}
    for size in sorted(sizes):
        error = outcome("-", data[: max(0, size)])
        # What lies behind the last member that counts may be missing.
        if error is None:
            assert not compressed and read("-", data[:size], platform=None) == list(SMALL.layers)


@pytest.mark.parametrize("kind", list(ARCHIVES))
def test_flipped_bits(kind: str) -> None:
    data = bytearray(ARCHIVES[kind])
    random.seed(kind)
    places = [random.randrange(len(data) * 8) for _ in range(300)]
    if len(data) < 3000:
        places = list(range(len(data) * 8))[::9]
    for place in places:
        data[place // 8] ^= 1 << place % 8
        outcome("-", bytes(data))
        data[place // 8] ^= 1 << place % 8


def test_damaged_documents(tmp_path: Path) -> None:
    files = oci_files(SMALL, nested=True)
    directory = write_files(tmp_path / "x", files)
    random.seed(1)
    for name, data in files.items():
        for _ in range(40):
            broken = bytearray(data)
            broken[random.randrange(len(broken))] = random.choice(b'\0\x80\xff"{}[],:019-eE\\ux')
            (directory / name).write_bytes(broken)
            outcome(f"oci:{directory}", None)
        for size in range(0, len(data), 7):
            (directory / name).write_bytes(data[:size])
            assert outcome(f"oci:{directory}", None) is not None or name.startswith("blobs/")
        (directory / name).write_bytes(data)
    assert outcome(f"oci:{directory}", None) is None
