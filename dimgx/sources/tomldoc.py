"""TOML, as the settings of Podman and its kin are written."""

from __future__ import annotations

from dimgx.errors import SourceError
from dimgx.jsondoc import Fields

TOML_LIMIT = 4 << 20
"""The most bytes of a file that are read."""


def parse_toml(data: bytes, path: str) -> Fields:
    """Give what the file at `path` says; `data` are its bytes, or one more than are read.

    Raises: SourceError where it is too large or no TOML.
    """
    import tomllib

    if len(data) > TOML_LIMIT:
        raise SourceError(f"{path} has more than the {TOML_LIMIT} bytes that are read")
    try:
        return Fields(tomllib.loads(data.decode()), path)
    except RecursionError:
        raise SourceError(f"{path} is not valid TOML: it is nested too deep") from None
    except ValueError as exc:
        raise SourceError(f"{path} is not valid TOML: {exc}") from None
