"""What a run of the command works with: what was asked for, what is around it, what it opened."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from itertools import starmap
from typing import TYPE_CHECKING, NamedTuple

from dimgx.console.progress import ProgressLine
from dimgx.console.terminal import is_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import BinaryIO

    from dimgx.console.messages import Messages
    from dimgx.console.options import Options
    from dimgx.console.targetname import TargetName
    from dimgx.image import Image
    from dimgx.inspector import Row
    from dimgx.merging.pathrules import PathRule
    from dimgx.recipe import TarOptions
    from dimgx.registryoptions import RegistryOptions
    from dimgx.report import Report


class Context(NamedTuple):
    """One run: its options, and what the environment gives it."""

    options: Options
    messages: Messages
    stdin: BinaryIO | None
    tmpdirs: tuple[str, ...]
    """Where temporary files may lie, best first."""
    source_date_epoch: int | None
    """Seconds since 1970, where $SOURCE_DATE_EPOCH says some."""
    registry: RegistryOptions | None
    report: Report | None
    """What is to be told of the run."""
    cancel: Callable[[], bool] | None
    """Asked now and then; raises what ends the run, where it is to end."""
    others: tuple[Chosen, ...] = ()
    """What is open beside what is worked on."""

    @property
    def memory(self) -> int | None:
        """What is left of `--memory` beside what the others keep, in bytes."""
        from dimgx.spool import memory_left

        return memory_left(self.options.memory, (one.image.spool for one in self.others))

    def beside(self, chosen: Iterable[Chosen]) -> Context:
        """Give the context for work beside images that are open."""
        return self._replace(others=tuple(chosen))

    @contextmanager
    def waiting(self) -> Iterator[ProgressLine | None]:
        """Show on standard error, if that is a terminal, how far the work is while it lasts."""
        if self.options.quiet or not is_terminal(sys.stderr):
            yield None
            return
        line = ProgressLine(sys.stderr)
        try:
            yield line
        finally:
            line.clear()

    def tar_options(self, rows: Sequence[Row] | None, progress: ProgressLine | None) -> TarOptions:
        """Give the options of the command line that the functions of the library share."""
        options = self.options
        return {
            "layers": rows,
            "paths": path_rules(options),
            "strip_components": options.strip_components,
            "prefix": options.prefix,
            "add_layers": options.add_layers,
            "verify": options.verify,
            "threads": options.threads,
            "memory": self.memory,
            "tmpdir": self.tmpdirs,
            "root_entry": options.root_entry,
            "clamp_mtime": self.source_date_epoch if options.clamp_mtime else None,
            "progress": progress,
            "cancel": self.cancel,
        }


def path_rules(options: Options) -> tuple[PathRule, ...]:
    """Give the rules that --include and --exclude say."""
    if not options.paths:
        return ()
    from dimgx.merging.pathrules import PathRule

    return tuple(starmap(PathRule, options.paths))


class Chosen(NamedTuple):
    """An image that is open, and what is wanted of it."""

    asked: str
    """The reference, as it was written."""
    image: Image
    rows: Sequence[Row] | None
    """In the order in which they cover each other; None for all that the image has."""


class Job(NamedTuple):
    """One result that is to be made."""

    chosen: tuple[Chosen, ...]
    """The images that go into it, in order."""
    target: TargetName
    """Where it goes, its fields filled in."""
    others: tuple[Chosen, ...] = ()
    """The images that are open for other results."""
