"""What a program that uses `dimgx` may say, for the type checker alone; nothing runs it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import assert_type

import dimgx


def flatten(reference: str, platform: dimgx.Platform, options: dimgx.TarOptions) -> dimgx.Result:
    """Use names, and the types of what they give."""
    with dimgx.open_image(reference, platform=platform, tmpdir=Path("x")) as image:
        assert_type(image, dimgx.Image)
        rows = dimgx.select(dimgx.inspect(image).rows, ["@0"])
        assert_type(rows, dimgx.Selection)
        with dimgx.open_tree(image, layers=rows.rows) as tree:
            assert_type(tree.find("etc"), dimgx.Entry | None)
        written = dimgx.write_images([image], "x", form="oci-dir", keep_images=True).images
        assert_type(written, tuple[dimgx.WrittenImage, ...])
        assert_type(dimgx.read_origin("x"), tuple[dimgx.Made, ...])
        assert_type(written[0].id, dimgx.Digest)
        return dimgx.flatten(image, io.BytesIO(), **options)


def misspell() -> None:
    """Use a name that there is not: without an error here, the comment would be one."""
    print(dimgx.flaten)  # type: ignore[attr-defined]
