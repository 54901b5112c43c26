"""What the command writes beside the result: the image's run settings, and the report of the run.

1. Both files are begun before the work, so that what cannot be written there is told early, and the
   settings stand ready before the result gets its name. They appear when the result is there.
2. They are replaced as the result is: with -w, and by --update, which is to be run again and again.
   A report of nothing that was made does not replace that of what is there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dimgx.console.targetname import is_template
from dimgx.console.terminal import check_stdout, print_text
from dimgx.errors import UsageError
from dimgx.recipe import check_target

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

    from dimgx.console.context import Chosen
    from dimgx.console.messages import Messages
    from dimgx.console.options import Options
    from dimgx.console.targetname import TargetName
    from dimgx.image import Tick
    from dimgx.report import Report
    from dimgx.targets import Target


class Beside:
    """The files beside one run's result. What was begun goes with `resources` if not finished."""

    def __init__(self, options: Options, resources: ExitStack) -> None:
        """Begin the files that `options` name.

        Raises: UsageError as `check_apart`; SourceError where one exists or cannot be written.
        """
        self._options = options
        if options.target is None or is_template(options.target.path):
            # What fields stand for is known later, and looked at again.
            check_apart(options, ())
        else:
            check_apart(options, (options.target,))
        self._config = _begin(options.write_config, options, resources)
        self._report = _begin(options.report, options, resources)
        self._config_text = ""

    def prepare(self, chosen: Chosen, tick: Tick | None) -> None:
        """Write the image's run settings, if they are asked for, where nobody sees them yet.

        Raises: ImageError for a malformed config; what asking an engine for it raises.
        """
        path = self._options.write_config
        if path is None:
            return
        from dimgx.images.runconfig import run_config_of

        self._config_text = run_config_of(chosen.image, tick).format_for(path)
        if self._config is not None:
            self._config.write(self._config_text.encode())

    def finish(self, report: Report | None, messages: Messages) -> None:
        """Publish the settings and the report.

        Raises: SourceError where they cannot be written.
        """
        if self._config is not None:
            self._config.commit()
        else:  # there may be nothing to print
            print_text(self._config_text)
        if report is None:
            return
        if not report.has_outputs and self._report is not None and self._report.is_atomic:
            if not os.path.exists(str(self._options.report)):
                messages.warn([f"all is up to date, so {self._options.report} is not written"])
            return
        from dimgx.jsondoc import in_lines

        text = in_lines(report.document(messages.warnings))
        if self._report is None:
            print_text(text)
        else:
            self._report.write(text.encode())
            self._report.commit()


def _begin(path: str | None, options: Options, resources: ExitStack) -> Target | None:
    """Begin a file; None stands for standard output."""
    if path is None:
        return None
    if path == "-":
        check_stdout()
        return None
    from dimgx.targets.singlefile import open_target

    force = options.force or options.update
    return open_target(path, force=force, sync=options.sync, resources=resources)


def check_apart(options: Options, targets: Iterable[TargetName]) -> None:
    """See that the results and the files beside them are apart: none is another, nor in another.

    Nor may one be in a directory that is added: what is being written would be a part of that. And
    no file takes the place of what an image is made of, but a result that of the image itself.

    Raises: UsageError.
    """
    sources = _sources(options)
    beside = [path for path in (options.write_config, options.report) if path and path != "-"]
    places = [os.path.realpath(path) for path in beside]
    roots = []
    for target in targets:
        if target.is_stdout:
            check_target("/dev/stdout", options.add_layers)
            continue
        root = os.path.realpath(target.path)
        roots.append(root)
        if any(root.startswith(os.path.join(source, "")) for source in sources):
            raise UsageError(f"{target.path} would be inside what is read: name a place outside it")
        for path, place in zip(beside, places, strict=True):
            if place.startswith(os.path.join(root, "")):
                raise UsageError(
                    f"{path} would be inside the target {target.path}: name a place outside it"
                )
        check_target(target.path, options.add_layers)
    for path, place in zip(beside, places, strict=True):
        check_target(path, options.add_layers)
        is_added = place in map(os.path.realpath, options.add_layers)
        own = os.path.join(place, "")
        if is_added or any(own.startswith(os.path.join(source, "")) for source in sources):
            raise UsageError(f"{path} is read, or inside what is: name another place")
    every = (*places, *roots)
    if len(set(every)) < len(every):
        raise UsageError("the result, --write-config and --report need a file each")


def _sources(options: Options) -> list[str]:
    """Give where the images lie that are files or directories."""
    from dimgx.reference import parse_reference

    found = [parse_reference(text) for text in options.images]
    paths = [one.path for one in found if one.path and one.transport != "containers-storage"]
    return list(map(os.path.realpath, paths))
