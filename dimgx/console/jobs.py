"""Jobs: each makes one result. A target with fields makes one of each image, others one of all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from dimgx.console.targetname import DIRECTORY_FORMS, is_template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dimgx.console.chosen import Chosen
    from dimgx.console.targetname import TargetName


class Job(NamedTuple):
    """One result that is to be made."""

    chosen: tuple[Chosen, ...]
    """The images that go into it, in order."""
    target: TargetName
    """Where it goes, its fields filled in."""


def plan_jobs(chosen: Sequence[Chosen], target: TargetName) -> tuple[Job, ...]:
    """Give what is to be made of the images that are open.

    Raises: UsageError for a bad template, or where two images come to one target; ImageError where
        an image does not have what a field stands for.
    """
    if not is_template(target.path):
        return (Job(tuple(chosen), target),)
    from dimgx.console.template import expand_all, parse_template, values_of

    template = parse_template(target.path)
    values = [values_of(item.image, index) for index, item in enumerate(chosen)]
    return tuple(
        Job((item,), target._replace(path=path))
        for item, path in zip(chosen, expand_all(template, values), strict=True)
    )


def check_replaceable(target: TargetName, *, force: bool) -> None:
    """See that what is at a target's place, if anything, may be replaced.

    Raises: SourceError.
    """
    if target.form in DIRECTORY_FORMS:
        from dimgx.targets.directory import DirectoryStore

        DirectoryStore(target.path, force=force)
    elif not force and os.path.isfile(target.path):
        from dimgx.targets.singlefile import exists

        raise exists(target.path)


def check_absent(jobs: Sequence[Job]) -> None:
    """See that nothing would be replaced, before the first of several targets is written.

    Raises: SourceError.
    """
    for job in jobs:
        check_replaceable(job.target, force=False)
