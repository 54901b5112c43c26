"""What a run of the command works on: the images that it opened, and what is around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from dimgx.image import Image
    from dimgx.inspector import Row
    from dimgx.registryoptions import RegistryOptions
    from dimgx.report import Report


class Surroundings(NamedTuple):
    """What the environment gives a run."""

    stdin: BinaryIO | None
    tmpdirs: tuple[str, ...]
    """Where temporary files may lie, best first."""
    source_date_epoch: int | None
    """Seconds since 1970, where $SOURCE_DATE_EPOCH says some."""
    registry: RegistryOptions | None
    report: Report | None = None
    """What is to be told of the run."""
    cancel: Callable[[], bool] | None = None
    """Asked now and then; raises what ends the run, where it is to end."""


class Chosen(NamedTuple):
    """An image that is open, and what is wanted of it."""

    asked: str
    """The reference, as it was written."""
    image: Image
    rows: tuple[Row, ...]
    """In the order in which they cover each other."""
