"""URLs as settings and registries write them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_HOST = re.compile(r"[^\s.]+(?:\.[^\s.]+)*\.?")


def split_url(text: str) -> SplitResult | None:
    """Give the parts of an http or https URL, None for what is none or has no host."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # raises where it is no number
    except ValueError:
        return None
    is_host = parts.hostname is not None and _HOST.fullmatch(parts.hostname)
    return parts if is_host and parts.scheme in ("http", "https") else None
