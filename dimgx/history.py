"""The steps by which an image came to be."""

from __future__ import annotations

from typing import NamedTuple


class HistoryStep(NamedTuple):
    """One step of an image's history, as its source tells it; rows are made of these."""

    empty: bool
    """No layer belongs to this step."""
    created: str | None = None
    """RFC 3339 as the source has it."""
    created_by: str | None = None
    comment: str | None = None
    author: str | None = None
    id: str | None = None
    """The step's own image ID where it has one, `sha256:<hex>` or bare hex as the source has it."""
    parent_id: str | None = None
    tags: tuple[str, ...] = ()
    size: int | None = None
    """Bytes that this step added, where the source states them."""
