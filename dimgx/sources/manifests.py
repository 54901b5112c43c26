"""From a manifest and its config to an image, wherever the two lie."""

from __future__ import annotations

from collections.abc import Callable

from dimgx.digest import Digest
from dimgx.errors import DimgxError, ImageError
from dimgx.image import Blob, Image, Layer, UnreadableBlob
from dimgx.oci import Config, Descriptor, Manifest, Platform


def require_image(where: str, manifest: Manifest) -> None:
    """Refuse what only has an image's form.

    Raises: ImageError.
    """
    if not manifest.is_image:
        what = f"{manifest.other_type or 'something else':.200}"
        raise ImageError(f"{where} holds no image, but {what} in an image's form")


def refuse(problem: DimgxError) -> Image:
    """Open an image of which only its problem is known, which is raised."""
    raise problem


def make_image(
    where: str,
    descriptor: Descriptor,
    manifest: Manifest,
    config: Config,
    platform: Platform | None,
    find: Callable[[Descriptor], Blob | None],
) -> Image:
    """Give the image of a manifest; `find` gives a layer's blob, None where it is not stored.

    Raises: ImageError where config and manifest do not fit each other.
    """
    diff_ids = config.diff_ids
    if diff_ids is not None and len(diff_ids) != len(manifest.layers):
        raise ImageError(
            f"{where}: the config has {len(diff_ids)} layers, but the manifest lists"
            f" {len(manifest.layers)}"
        )
    return Image(
        reference=where,
        layers=tuple(
            _make_layer(where, layer, diff_ids[i] if diff_ids else None, find)
            for i, layer in enumerate(manifest.layers)
        ),
        config=config,
        id=str(config.digest),
        digest=descriptor.digest,
        manifest=manifest,
        platform=platform,
        history=config.history,
    )


def _make_layer(
    where: str,
    layer: Descriptor,
    diff_id: Digest | None,
    find: Callable[[Descriptor], Blob | None],
) -> Layer:
    blob = find(layer)
    problem = None
    if layer.is_encrypted:
        problem = "it is encrypted: decrypt the image first, as in `skopeo copy --decryption-key`"
    elif not layer.is_tar_layer:
        problem = f"it is no tar: its media type is {layer.media_type!r:.200}"
    elif blob is None and layer.is_foreign:
        problem = "it is not stored with the image, as its licence has it (a foreign layer)"
    elif blob is None:
        problem = "its blob is missing: pull or copy it again"
    if problem is not None or blob is None:
        # Whoever reads it says which layer it is.
        blob = UnreadableBlob(f"{where}: {problem}", layer.size)
    return Layer(blob, layer.digest, layer.size, diff_id, layer.media_type)
