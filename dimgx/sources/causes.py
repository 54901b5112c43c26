"""What stands behind an error."""

from __future__ import annotations

from collections.abc import Iterator

from dimgx.errors import DimgxError


def iter_causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was caused by, each once, however its library keeps that.

    What is behind an error of ours is left out: it was caught before this one came about.
    """
    pending, seen = [exc], set[int]()
    while pending:
        found = pending.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, DimgxError):
            continue
        behind = (found.__cause__, found.__context__, getattr(found, "reason", None), *found.args)
        pending += [item for item in behind if isinstance(item, BaseException)]
