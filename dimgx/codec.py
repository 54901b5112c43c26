"""Compression in both directions, under one name: `decode` and `encode` have the parts."""

from __future__ import annotations

from dimgx.decode import Compression, iter_decoded, sniff, window_size
from dimgx.encode import Encoder, check_level, open_encoder

__all__ = [
    "Compression",
    "Encoder",
    "check_level",
    "iter_decoded",
    "open_encoder",
    "sniff",
    "window_size",
]
