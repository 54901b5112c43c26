"""What a caller wants of an image as one tree: which layers, what of them, and how to work.

The functions of `api` take these as keyword arguments; `Recipe` is all of them as one value.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, get_args

from dimgx.errors import Cancelled, UsageError
from dimgx.system import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dimgx.inspector import Row
    from dimgx.merging.pathrules import PathRule

    Layers = Sequence[str | Row]
    Path = str | os.PathLike[str]
    Directories = Path | Sequence[Path] | None

Verify = Literal["once", "all", "none"]
"""Which digests are checked, as `Recipe.verify` has it."""
CONTENT = ("paths", "strip_components", "prefix", "add_layers")
"""The options that change what is in the tar."""
SHAPE = ("root_entry", "clamp_mtime")
"""Those of a tar alone, as `TarOptions` has them."""
Phase = Literal["pull", "read", "write"]


class Progress(NamedTuple):
    """How far the work is."""

    phase: Phase
    done: int
    """Bytes: pulled by an engine, of stored layers while reading, of the tar while writing."""
    total: int | None
    """Bytes that it will be, about, and no fewer than are done; None where that is not known."""


class TreeOptions(TypedDict, total=False):
    """Which layers are merged, what of them goes in, and how the work is done."""

    layers: Layers | None
    paths: Sequence[PathRule]
    strip_components: int
    prefix: str | None
    add_layers: Sequence[str | os.PathLike[str]]
    verify: Verify
    threads: int | None
    memory: int | None
    tmpdir: Directories
    progress: Callable[[Progress], None] | None
    cancel: Callable[[], bool] | None


class TarOptions(TreeOptions, total=False):
    """`TreeOptions`, and what shapes the tar besides."""

    root_entry: bool
    clamp_mtime: int | None


class Recipe(NamedTuple):
    """The options of one run; the fields are those of `TarOptions` and a few more."""

    layers: Layers | None = None
    """Layer specs or rows, those named later covering those named earlier; None for all."""
    below: Sequence[Row] = ()
    """Rows that stay as they are: the tar is one layer that does over them what the others do."""
    is_squashed: bool = False
    """It is that, even if there is nothing below."""
    paths: Sequence[PathRule] = ()
    """Which paths go in, the last rule that matches deciding; without rules all of them."""
    strip_components: int = 0
    """How many leading directories are taken off all names."""
    prefix: str | None = None
    """A directory that goes before all names."""
    add_layers: Sequence[str | os.PathLike[str]] = ()
    """Tars and directories of this machine that are laid on top, the last covering the others."""
    verify: Verify = "once"
    """Which digests are checked: one for each layer, all that there are, or none."""
    threads: int | None = None
    """None for as many as there are CPUs to use."""
    memory: int | None = None
    """Bytes of layers, decoded or fetched, that are kept in memory; None for a quarter of what is
    free."""
    tmpdir: Directories = None
    """Where the rest is kept: the first of these directories that can be written."""
    progress: Callable[[Progress], None] | None = None
    """Called now and then, by any thread."""
    cancel: Callable[[], bool] | None = None
    """Called now and then, by any thread; the work ends with `Cancelled` when it gives true."""
    root_entry: bool = False
    """Write an entry for the root directory (rule 8)."""
    clamp_mtime: int | None = None
    """Members that are newer get this time, seconds since 1970."""
    mark: Callable[[str], object] = str
    """Called as each phase of the work ends; a report counts its time so."""

    @property
    def worker_count(self) -> int:
        """How many threads, or processes, do the work."""
        return self.threads or usable_cpus()

    @property
    def changes_content(self) -> bool:
        """Whether entries are left out, or get other names."""
        return bool(self.paths or self.strip_components or self.prefix is not None)

    @property
    def tmpdirs(self) -> tuple[str, ...]:
        """The directories that `tmpdir` names."""
        return directories(self.tmpdir)

    def check_cancelled(self) -> None:
        """Raise Cancelled if the caller wants that."""
        if self.cancel is not None and self.cancel():
            raise Cancelled("cancelled")

    def tell(self, phase: Phase, done: int, total: int | None = None) -> None:
        """Tell the caller how far the work is, as `Progress` has it.

        Raises: Cancelled if the caller wants that.
        """
        self.check_cancelled()
        if self.progress is not None:
            # An estimate may turn out too low.
            total = None if total is None else max(done, total)
            self.progress(Progress(phase, done, total))


def make_recipe(options: TreeOptions, mark: Callable[[str], object] = str) -> Recipe:
    """Give what a caller asks for.

    Raises: UsageError where it makes no sense.
    """
    recipe = Recipe(**options, mark=mark)
    check_word(recipe.verify, get_args(Verify), "verify")
    if recipe.threads is not None and recipe.threads < 1:
        raise UsageError(f"{recipe.threads} threads do not work: one does, or None for all CPUs")
    check_memory(recipe.memory)
    check_time(recipe.clamp_mtime, "clamp_mtime")
    lists: dict[str, Any] = {"tmpdir": recipe.tmpdirs}
    for name in ("layers", "paths", "add_layers"):
        value = getattr(recipe, name)
        check_list(value, name)
        if value is not None:
            # It is gone through more than once, which an iterator does not bear.
            lists[name] = tuple(value)
    if lists["paths"]:
        from dimgx.merging.pathrules import PathRule

        for rule in lists["paths"]:
            if not isinstance(rule, PathRule):
                raise UsageError(f"paths are PathRule values, but {rule!r:.300} is none")
    return recipe._replace(**lists)


def check_list(value: object, name: str) -> None:
    """Refuse a text where a list of texts is meant: its letters would be taken one by one.

    Raises: UsageError.
    """
    if isinstance(value, str | bytes | os.PathLike):
        raise UsageError(f"{name} is a list, also where there is but one")


def check_memory(memory: int | None) -> None:
    """Refuse a number of bytes that there cannot be.

    Raises: UsageError.
    """
    if memory is not None and memory < 0:
        raise UsageError(f"there are no {memory} bytes of memory")


def check_time(seconds: int | None, what: str) -> None:
    """Refuse a time before 1970, which neither SOURCE_DATE_EPOCH nor a header's field can say.

    Raises: UsageError.
    """
    if seconds is not None and seconds < 0:
        raise UsageError(f"{what} is seconds since 1970, and cannot be {seconds}")


def check_unused(recipe: Recipe, names: Iterable[str], where: str) -> None:
    """Refuse options that are given, but have no effect.

    Raises: UsageError.
    """
    for name in names:
        if getattr(recipe, name) != Recipe._field_defaults[name]:
            raise UsageError(f"{name} has no effect {where}")


def check_target(target: object, added: Iterable[str | os.PathLike[str]]) -> None:
    """See that a file or directory to be written has a path, and is in no directory that is added.

    What is being written would be a part of that. A `target` that is no path at all passes.

    Raises: UsageError.
    """
    if not isinstance(target, str | os.PathLike):
        return
    try:
        place = os.path.realpath(target)
        os.fsencode(place)
    except ValueError:  # a NUL, or a character that the file system's encoding has not
        raise UsageError(f"{os.fspath(target)!r:.300} can be the name of no file") from None
    for name in added:
        if place.startswith(os.path.join(os.path.realpath(name), "")):
            raise UsageError(
                f"{os.fspath(target)} would be inside {os.fspath(name)}, which is added: name a"
                " place outside it"
            )


def check_word(value: object, words: Sequence[str | None], what: str) -> None:
    """Refuse a value that is none of `words`.

    Raises: UsageError.
    """
    if value not in words:
        raise UsageError(
            f"{what} is {value!r:.100}, but has to be one of {', '.join(map(str, words))}"
        )


def directories(tmpdir: Directories) -> tuple[str, ...]:
    """Give one or more directories as a tuple."""
    if tmpdir is None:
        return ()
    if isinstance(tmpdir, str | os.PathLike):
        return (os.fspath(tmpdir),)
    return tuple(os.fspath(one) for one in tmpdir)
