"""The command line as people write it, and what it asks for."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dimgx.console.arguments import build_parser
from dimgx.console.argumenttypes import DASH
from dimgx.console.effects import check_effects
from dimgx.console.targetname import TargetName, parse_target
from dimgx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Options(NamedTuple):
    """What one command line asks for, its parts checked against each other.

    The fields are the options, with what is meant where they are not said.
    """

    images: tuple[str, ...] = ()
    """References; none with `origin`, several only where the target takes them."""
    target: TargetName | None = None
    layers: tuple[str, ...] = ()
    reverse: bool = False
    strict: bool = False
    force: bool = False
    sync: bool = True
    """Wait until the disk has what was written."""
    compress_level: int | None = None
    verify: Literal["once", "all", "none"] = "once"
    platform: tuple[str, ...] = ()
    """Which are wanted, or ALL_PLATFORMS; none for the usual one."""
    platforms: bool = False
    host: str | None = None
    pull: Literal["never", "missing", "always"] = "never"
    direct: bool = True
    threads: int | None = None
    memory: int | None = None
    tmpdir: str | None = None
    paths: tuple[tuple[bool, str], ...] = ()
    """Whether it lets in, and the pattern; in the order in which they were said."""
    strip_components: int = 0
    prefix: str | None = None
    add_layers: tuple[str, ...] = ()
    root_entry: bool = False
    clamp_mtime: bool = False
    layer_compression: Literal["none", "gzip", "zstd"] | None = None
    """None for what the form has by default."""
    tags: tuple[str, ...] = ()
    squash_from: str | None = None
    keep_layers: bool = False
    keep_images: bool = False
    raw: bool = False
    load: Literal["any", "docker", "podman"] | None = None
    import_: Literal["any", "docker", "podman"] | None = None
    update: bool = False
    check: bool = False
    origin: str | None = None
    """A target whose origin is shown, without an image."""
    write_config: str | None = None
    report: str | None = None
    json: bool = False
    quiet: bool = False
    log_level: str = "WARNING"
    log_format: str | None = None
    creds: str | None = None
    password_stdin: bool = False
    authfile: str | None = None
    tls_verify: bool | None = None
    cert_dir: str | None = None
    retry_time: float | None = None
    """Seconds."""
    cache_dir: str | None = None
    cache_size: int | None = None

    @property
    def has_result(self) -> bool:
        """Something is made, and not only shown."""
        return self.target is not None or self.load is not None or self.import_ is not None

    def __repr__(self) -> str:
        # Without the credentials, which are secret.
        told = zip(self._fields, self, strict=True)
        shown = ", ".join(f"{name}={value!r}" for name, value in told if name != "creds")
        return f"Options({shown})"


# Alone these mean as much; they never take the next word, which may be the image.
_ALONE = {"--tls-verify": "true", "--load": "any", "--import": "any"}


def parse_args(
    argv: Sequence[str],
    version: str,
    show: Callable[[str, str | None], None] = lambda level, log_format: None,
) -> Options:
    """Give what `argv` (without the program's name) asks for.

    `show` is told how messages are shown, before the parts are checked against each other.

    Raises: UsageError; SystemExit with code 0 for --help, --version and --print-completion.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    dashed = [DASH + arg[1:] if arg.startswith("-:") else arg for arg in argv[:end]]
    dashed = [f"{arg}={_ALONE[arg]}" if arg in _ALONE else arg for arg in dashed]
    for option, word in pairwise(dashed):
        if option == "--tls-verify=true" and word in ("true", "false"):
            raise UsageError(f"write --tls-verify={word}: a word behind a blank is an image")
    # What follows "--" is an image, whatever it looks like; argparse forgets that here.
    dashed += [DASH + arg[1:] if arg.startswith("-") else arg for arg in argv[end + 1 :]]
    parsed = build_parser(version).parse_intermixed_args(dashed)
    said: dict[str, Any] = {name: _undashed(value) for name, value in vars(parsed).items()}
    target = None
    if said["target"] is not None:
        target = parse_target(said["target"], said["format"], said["compression"])
        if target.name is not None:
            said["tags"] = (*(said["tags"] or ()), target.name)
    level = said["log_level"] or ("INFO" if said["verbose"] else Options().log_level)
    show(level, said["log_format"])
    check_effects(said, target)
    said |= {"target": target, "log_level": level}
    return Options(**{name: said[name] for name in Options._fields if said[name] is not None})


def _undashed(value: Any) -> Any:
    """Give what was written where the dash of standard input had a stand-in."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_undashed, value))
    if isinstance(value, str) and value.startswith(DASH):
        return "-" + value.removeprefix(DASH)
    return value
