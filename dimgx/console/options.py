"""The command line as people write it, and what it asks for.

An option that would have no effect is an error: who gives one means something by it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dimgx.console.arguments import build_parser
from dimgx.console.argumenttypes import DASH
from dimgx.console.effects import check_effects
from dimgx.console.targetname import TargetName, parse_target
from dimgx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Options(NamedTuple):
    """What one command line asks for, its parts checked against each other."""

    images: tuple[str, ...]
    """References; none with `origin`, several only where the target takes them."""
    target: TargetName | None
    layers: tuple[str, ...]
    reverse: bool
    strict: bool
    force: bool
    sync: bool
    """Wait until the disk has what was written."""
    level: int | None
    verify: Literal["once", "all", "none"]
    platform: str | None
    host: str | None
    pull: Literal["never", "missing", "always"]
    threads: int | None
    memory: int | None
    tmpdir: str | None
    paths: tuple[tuple[bool, str], ...]
    """Whether it lets in, and the pattern; in the order in which they were said."""
    strip_components: int
    prefix: str | None
    add_layers: tuple[str, ...]
    root_entry: bool
    clamp_mtime: bool
    layer_compression: Literal["none", "gzip", "zstd"] | None
    """None for what the form has by default."""
    tags: tuple[str, ...]
    squash_from: str | None
    keep_layers: bool
    raw: bool
    load: Literal["any", "docker", "podman"] | None
    import_: Literal["any", "docker", "podman"] | None
    update: bool
    check: bool
    origin: str | None
    """A target whose origin is shown, without an image."""
    write_config: str | None
    report: str | None
    json: bool
    quiet: bool
    log_level: str
    log_format: str | None
    platforms: bool = False
    creds: str | None = None
    password_stdin: bool = False
    authfile: str | None = None
    tls_verify: bool | None = None
    cert_dir: str | None = None
    retry_time_s: float | None = None
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


def parse_args(argv: Sequence[str], version: str) -> Options:
    """Give what `argv` (without the program's name) asks for.

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
            said["tags"] = [*(said["tags"] or ()), target.name]
    check_effects(said, target)
    return Options(
        images=tuple(said["images"]),
        target=target,
        layers=tuple(said["layers"] or ()),
        reverse=bool(said["reverse"]),
        strict=bool(said["strict"]),
        force=bool(said["force"]),
        sync=said["sync"] is not False,
        level=said["compress_level"],
        verify=said["verify"] or "once",
        platform=said["platform"],
        host=said["host"],
        pull=said["pull"] or "never",
        threads=said["threads"],
        memory=said["memory"],
        tmpdir=said["tmpdir"],
        paths=tuple(said["paths"] or ()),
        strip_components=said["strip_components"] or 0,
        prefix=said["prefix"],
        add_layers=tuple(said["add_layers"] or ()),
        root_entry=bool(said["root_entry"]),
        clamp_mtime=bool(said["clamp_mtime"]),
        layer_compression=said["layer_compression"],
        tags=tuple(said["tags"] or ()),
        squash_from=said["squash_from"],
        keep_layers=bool(said["keep_layers"]),
        raw=bool(said["raw"]),
        load=said["load"],
        import_=said["import_"],
        update=bool(said["update"]),
        check=bool(said["check"]),
        origin=said["origin"],
        write_config=said["write_config"],
        report=said["report"],
        json=bool(said["json"]),
        quiet=bool(said["quiet"]),
        log_level=said["log_level"] or ("INFO" if said["verbose"] else "WARNING"),
        log_format=said["log_format"],
        platforms=bool(said["platforms"]),
        creds=said["creds"],
        password_stdin=bool(said["password_stdin"]),
        authfile=said["authfile"],
        tls_verify=None if said["tls_verify"] is None else said["tls_verify"] == "true",
        cert_dir=said["cert_dir"],
        retry_time_s=said["retry_time"],
        cache_dir=said["cache_dir"],
        cache_size=said["cache_size"],
    )


def _undashed(value: Any) -> Any:
    """Give what was written where the dash of standard input had a stand-in."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_undashed, value))
    if isinstance(value, str) and value.startswith(DASH):
        return "-" + value.removeprefix(DASH)
    return value
