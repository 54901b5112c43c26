"""An image whose layers an engine keeps unpacked, and whose config it keeps in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dimgx import system
from dimgx.digest import Digest
from dimgx.image import Image, Layer
from dimgx.oci import CONFIG_LIMIT, parse_config
from dimgx.sources.files import check_digest


def open_unpacked(
    root: str, path: Path, id: Digest, layers: Sequence[Layer], *, verify: bool
) -> Image | None:
    """Give the image `id`, whose config lies at `path` in the store at `root`.

    None where the config has other layers than `layers`.

    Raises: OSError where it cannot be read, ImageError where it is not what its digest says.
    """
    with system.open_regular(path) as file:
        data = file.read(CONFIG_LIMIT + 1)
    if verify:
        check_digest(data, id, f"{path}")
    config = parse_config(data, f"{path}")
    if config.diff_ids != tuple(layer.diff_id for layer in layers):
        return None
    return Image(
        reference=root,
        layers=tuple(layers),
        config=config,
        id=str(id),
        platform=config.platform,
        history=config.history,
    )
