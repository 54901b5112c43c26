"""Flatten a container image into one root file system tar.

The public names are loaded when they are first used, so that `import dimgx` costs next to nothing.
`docs/api.rst` shows how they go together.
"""

from __future__ import annotations

# Not the one of typing: importing that takes longer than all the rest.
TYPE_CHECKING = False

__version__ = "1.0.0"

__all__ = (
    "Cancelled",
    "Credentials",
    "Digest",
    "DimgxError",
    "EngineOptions",
    "Entry",
    "Image",
    "ImageError",
    "ImagesResult",
    "Layer",
    "LayerSpecError",
    "LayoutName",
    "Listing",
    "Made",
    "PathRule",
    "Platform",
    "Progress",
    "Proxies",
    "RegistryOptions",
    "Report",
    "Result",
    "ResultImage",
    "Row",
    "Selection",
    "SourceError",
    "TarOptions",
    "TemporaryError",
    "Tree",
    "TreeOptions",
    "UsageError",
    "WrittenImage",
    "__version__",
    "extractlayers",
    "flatten",
    "imagekey",
    "inspect",
    "inspectlayers",
    "list_platforms",
    "normalizeimage",
    "open_image",
    "open_stream",
    "open_tree",
    "read_origin",
    "select",
    "write_images",
    "write_raw",
)

if TYPE_CHECKING:
    from dimgx.api import flatten as flatten
    from dimgx.api import inspect as inspect
    from dimgx.api import list_platforms as list_platforms
    from dimgx.api import open_image as open_image
    from dimgx.api import open_stream as open_stream
    from dimgx.api import open_tree as open_tree
    from dimgx.api import read_origin as read_origin
    from dimgx.api import write_raw as write_raw
    from dimgx.delivery import Result
    from dimgx.digest import Digest
    from dimgx.errors import (
        Cancelled,
        DimgxError,
        ImageError,
        LayerSpecError,
        SourceError,
        TemporaryError,
        UsageError,
    )
    from dimgx.extractor import Entry
    from dimgx.image import Image, Layer
    from dimgx.imagemaker import ResultImage, WrittenImage
    from dimgx.images.outdated import Made
    from dimgx.images.resultnames import LayoutName
    from dimgx.imagewriter import ImagesResult
    from dimgx.imagewriter import write_images as write_images
    from dimgx.inspector import Listing, Row
    from dimgx.layerspec import Selection
    from dimgx.layerspec import select as select
    from dimgx.legacy import extractlayers as extractlayers
    from dimgx.legacy import imagekey as imagekey
    from dimgx.legacy import inspectlayers as inspectlayers
    from dimgx.legacy import normalizeimage as normalizeimage
    from dimgx.merging.pathrules import PathRule
    from dimgx.platforms import Platform
    from dimgx.recipe import Progress, TarOptions, TreeOptions
    from dimgx.registryoptions import Credentials, Proxies, RegistryOptions
    from dimgx.report import Report
    from dimgx.sources.endpoint import EngineOptions
    from dimgx.tree import Tree

_HOMES = {
    "dimgx.errors": (
        "Cancelled",
        "DimgxError",
        "ImageError",
        "LayerSpecError",
        "SourceError",
        "TemporaryError",
        "UsageError",
    ),
    "dimgx.image": ("Image", "Layer"),
    "dimgx.imagemaker": ("ResultImage", "WrittenImage"),
    "dimgx.images.outdated": ("Made",),
    "dimgx.images.resultnames": ("LayoutName",),
    "dimgx.imagewriter": ("ImagesResult", "write_images"),
    "dimgx.inspector": ("Listing", "Row"),
    "dimgx.layerspec": ("Selection", "select"),
    "dimgx.legacy": ("extractlayers", "imagekey", "inspectlayers", "normalizeimage"),
    "dimgx.sources.endpoint": ("EngineOptions",),
    "dimgx.extractor": ("Entry",),
    "dimgx.delivery": ("Result",),
    "dimgx.digest": ("Digest",),
    "dimgx.api": (
        "flatten",
        "inspect",
        "list_platforms",
        "open_image",
        "open_stream",
        "open_tree",
        "read_origin",
        "write_raw",
    ),
    "dimgx.merging.pathrules": ("PathRule",),
    "dimgx.platforms": ("Platform",),
    "dimgx.recipe": ("Progress", "TarOptions", "TreeOptions"),
    "dimgx.registryoptions": ("Credentials", "Proxies", "RegistryOptions"),
    "dimgx.report": ("Report",),
    "dimgx.tree": ("Tree",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


# Seen by a type checker it would give any name a type.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        module = _HOME_OF.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
