"""The family of errors. Each message says what is wrong, where, and what to do about it."""

from __future__ import annotations


class DimgxError(Exception):
    """The root of all errors that dimgx raises on purpose; its text is one line for people."""


class UsageError(DimgxError):
    """What the caller asked for makes no sense (bad grammar, options that exclude each other)."""


class ImageError(DimgxError):
    """The image is wrong for good: malformed, damaged, or nothing that can be flattened."""


class SourceError(DimgxError):
    """The world around the image is wrong for good: no such file, target exists, no permission."""


class LayerSpecError(DimgxError):
    """A layer spec names no row, or more than one where one is needed."""


class TemporaryError(DimgxError):
    """Something that may work later: a service that does not answer, a rate limit."""


class Cancelled(DimgxError):
    """The caller's `cancel` callback said to stop."""
