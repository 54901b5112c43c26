"""Compression: told by magic, decoded, encoded in threads."""

from __future__ import annotations

from dimgx.decode import Compression, iter_decoded, sniff, window_size

__all__ = ["Compression", "iter_decoded", "sniff", "window_size"]
