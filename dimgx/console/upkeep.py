"""Whether a target is up to date: what `--check` tells and `--update` goes by."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from dimgx.codec import Coding
from dimgx.console.imageoutput import names_for, result_image
from dimgx.console.targetname import DIRECTORY_FORMS
from dimgx.errors import SourceError
from dimgx.flattening import squashed_from
from dimgx.images.origin import NoOrigin
from dimgx.images.outdated import BROKEN_OFF, NOT_OURS, Made, why_outdated
from dimgx.images.wanted import origin_of_image, origin_of_kept, origin_of_tar
from dimgx.recipe import Recipe
from dimgx.targets.directory import is_unfinished
from dimgx.targets.errors import NAME_A_FILE, NO_DIRECTORY
from dimgx.targets.forms import usual_layer_compression
from dimgx.targets.state import read_state, shown_names

if TYPE_CHECKING:
    from dimgx.console.context import Chosen, Context, Job
    from dimgx.console.targetname import TargetName

CURRENT = "up to date"
MISSING = "there is no target yet"


class Verdict(NamedTuple):
    """How a target stands."""

    reason: str
    """One line."""
    is_current: bool = False
    may_replace: bool = True
    """There is nothing, or something that dimgx made."""
    exists: bool = True

    def allow(self, path: str, *, force: bool) -> None:
        """See that what is there may be replaced.

        Raises: SourceError where it is not ours, and `force` does not say that it may go.
        """
        if not self.may_replace and not force:
            raise SourceError(f"{path} exists ({self.reason}); use -w/--force to replace it")


def judge(job: Job, context: Context) -> Verdict:
    """Tell whether the target of a job holds what is wanted there; no layer is read for it.

    Raises: SourceError where it cannot be read, or is a directory where a file is wanted;
        LayerSpecError, ImageError, UsageError.
    """
    path, form = job.target.path, job.target.form
    if form != "tar":
        from dimgx.imagewriter import check_names

        check_names([result_image(one, job.target, context.options) for one in job.chosen], form)
    wanted = [_wanted_of(one, job.target, context) for one in job.chosen]
    if os.path.isdir(path) and form not in DIRECTORY_FORMS:
        raise SourceError(f"{path} is a directory: {NAME_A_FILE}")
    if os.path.isfile(path) and form in DIRECTORY_FORMS:
        raise SourceError(f"{path} {NO_DIRECTORY}")
    try:
        if os.path.isdir(path) and is_unfinished(path):
            return Verdict(BROKEN_OFF)
        found = read_state(path, tmpdirs=context.tmpdirs)
    except NoOrigin:
        return Verdict(NOT_OURS, may_replace=False)
    if found is None:
        return Verdict(MISSING, exists=False)
    reason = why_outdated(found, wanted)
    if reason is None:
        return Verdict(CURRENT, is_current=True)
    may_replace = all(made.is_ours and made.beside is None for made in found)
    return Verdict(reason, may_replace=may_replace)


def _wanted_of(chosen: Chosen, target: TargetName, context: Context) -> Made:
    """Give what the target would hold of an image."""
    options, recipe = context.options, Recipe(**context.tar_options(chosen.rows, None))
    created = context.source_date_epoch
    image = chosen.image
    if target.form == "tar":
        origin = origin_of_tar(image, recipe, Coding(target.compression, options.compress_level))
        return Made((), origin, packing=target.compression or "none")
    compression: str | None = options.layer_compression
    if options.keep_layers:
        origin = origin_of_kept(image)
    else:
        compression = compression or usual_layer_compression(target.form)
        if options.squash_from is not None:
            recipe = squashed_from(image, recipe, options.squash_from)
        origin = origin_of_image(image, recipe, created)
    return Made(
        names=shown_names(names_for(chosen, target, options), target.form),
        origin=origin,
        form=target.form,
        packing=None if target.form in DIRECTORY_FORMS else target.compression or "none",
        compression=compression,
    )
