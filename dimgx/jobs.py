"""Jobs: each makes one result. A target with fields makes one of each image, others one of all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dimgx.imageoutput import check_replaceable
from dimgx.template import expand_all, is_template, parse_template, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dimgx.chosen import Chosen
    from dimgx.targetname import TargetName


@dataclass(frozen=True, slots=True)
class Job:
    """One result that is to be made."""

    chosen: tuple[Chosen, ...]
    """The images that go into it, in order."""
    target: TargetName | None
    """Where it goes, its fields filled in; None for an engine."""


def plan_jobs(chosen: Sequence[Chosen], target: TargetName | None) -> tuple[Job, ...]:
    """Give what is to be made of the images that are open.

    Raises: UsageError for a bad template, or where two images come to one target; ImageError where
        an image does not have what a field stands for.
    """
    if target is None or not is_template(target.path):
        return (Job(tuple(chosen), target),)
    template = parse_template(target.path)
    values = [values_of(item.image, index) for index, item in enumerate(chosen)]
    return tuple(
        Job((item,), replace(target, path=path))
        for item, path in zip(chosen, expand_all(template, values), strict=True)
    )


def check_absent(jobs: Sequence[Job]) -> None:
    """See that nothing would be replaced, before the first of several targets is written.

    Raises: SourceError.
    """
    for job in jobs:
        if job.target is not None:
            check_replaceable(job.target, force=False)
