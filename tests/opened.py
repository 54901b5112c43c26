"""Opens images as the sources do, and compares what came out with what was put in."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dimgx.codec import sniff
from dimgx.decode import iter_decoded
from dimgx.errors import DimgxError
from dimgx.image import Image, Layer
from dimgx.platforms import parse_platform
from dimgx.reference import parse_reference
from dimgx.sources import open_image
from dimgx.spool import SpoolSpace
from tests.dsl import file, layer
from tests.writers import Picture, image

BASE = layer(file("etc/base", b"below"))
TOP = layer(file("etc/top", b"above"))
APP = image(BASE, TOP)
OTHER = image(TOP, tags=("example/other:2",))
ARM = image(TOP, BASE, architecture="arm64")


@contextmanager
def opened(
    reference: str,
    stdin: bytes | BinaryIO | None = None,
    *,
    platform: str | None = "linux/amd64",
    verify: str = "once",
) -> Iterator[Image]:
    """Open an image; `platform` is not left to the machine that the tests run on."""
    stream = io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin
    wanted = None if platform is None else parse_platform(platform)
    parsed = parse_reference(reference)
    with SpoolSpace(1 << 24) as space:
        options: dict[str, Any] = {"platform": wanted, "verify": verify != "none", "stdin": stream}
        with open_image(parsed, spool=space, **options) as found:
            yield found
            found.check_unchanged()


def plain(one: Layer) -> bytes:
    """Give the plain tar of a layer."""
    data = b"".join(map(bytes, one.blob.iter_chunks()))
    return b"".join(map(bytes, iter_decoded([data], sniff(data))))


def check(found: Image, expected: Picture) -> None:
    """Compare an open image with the picture it was written from."""
    assert [plain(one) for one in found.layers] == list(expected.layers)
    assert sorted(found.tags) == sorted(expected.tags)
    assert str(found.platform) == f"{expected.os}/{expected.architecture}"
    assert [one.blob.size for one in found.layers if one.size] == [
        one.size for one in found.layers if one.size
    ]


def read(reference: str, stdin: bytes | BinaryIO | None = None, **options: Any) -> list[bytes]:
    """Give the plain layers of an image."""
    with opened(reference, stdin, **options) as found:
        return [plain(one) for one in found.layers]


def problem(reference: str, stdin: bytes | BinaryIO | None = None, **options: Any) -> str:
    """Give the error of opening an image and reading its layers, which must be one line."""
    with pytest.raises(DimgxError) as raised:
        read(reference, stdin, **options)
    text = str(raised.value)
    assert text.isprintable() and len(text) < 2500, text
    return text


def stored(directory: Path, data: bytes, name: str = "image.tar") -> str:
    """Write an archive; give its path."""
    path = directory / name
    path.write_bytes(data)
    return str(path)
