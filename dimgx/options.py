"""The command line as people write it, and what it asks for.

An option that would have no effect is an error: who gives one means something by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dimgx.arguments import DASH, build_parser
from dimgx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dimgx.codec import Compression

STDOUT_TARGETS = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
SUFFIXES: dict[str, Compression | None] = {
    ".tar": None,
    ".tar.gz": "gzip",
    ".tgz": "gzip",
    ".taz": "gzip",
    ".wsl": "gzip",
    ".tar.bz2": "bzip2",
    ".tbz2": "bzip2",
    ".tbz": "bzip2",
    ".tar.xz": "xz",
    ".txz": "xz",
    ".tar.zst": "zstd",
    ".tzst": "zstd",
}
REFUSED_SUFFIXES = (".ext4", ".img", ".squashfs", ".sqfs", ".erofs", ".cpio")
REFUSED_TRANSPORTS = (
    "docker-archive",
    "oci-archive",
    "oci",
    "dir",
    "docker-dir",
    "docker-daemon",
    "containers-storage",
    "podman",
    "docker",
)


@dataclass(frozen=True, slots=True)
class Options:
    """What one command line asks for, its parts checked against each other."""

    image: str
    layers: tuple[str, ...]
    reverse: bool
    strict: bool
    target: str | None
    """A path; None to list the rows. Standard output has `to_stdout` besides."""
    to_stdout: bool
    force: bool
    compression: Compression | None
    level: int | None
    verify: Literal["once", "all", "none"]
    platform: str | None
    host: str | None
    pull: Literal["never", "missing", "always"]
    threads: int | None
    memory: int | None
    tmpdir: str | None
    root_entry: bool
    clamp_mtime: bool
    json: bool
    quiet: bool
    log_level: str
    log_format: str | None
    platforms: bool = False
    creds: str | None = field(default=None, repr=False)
    password_stdin: bool = False
    authfile: str | None = None
    tls_verify: bool | None = None
    cert_dir: str | None = None
    retry_time_s: float | None = None
    cache_dir: str | None = None
    cache_size: int | None = None
    warnings: tuple[str, ...] = ()


def parse_args(argv: Sequence[str], version: str) -> Options:
    """Give what `argv` (without the program's name) asks for.

    Raises: UsageError; SystemExit with code 0 for --help, --version and --print-completion.
    """
    dashed = [DASH + arg[1:] if arg.startswith("-:") else arg for arg in argv]
    # Alone it is true; it never takes the next word, which may be the image.
    dashed = ["--tls-verify=true" if arg == "--tls-verify" else arg for arg in dashed]
    parsed = build_parser(version).parse_intermixed_args(dashed)
    said: dict[str, Any] = {
        name: "-" + value.removeprefix(DASH)
        if isinstance(value, str) and value.startswith(DASH)
        else value
        for name, value in vars(parsed).items()
    }
    _check_effects(said)
    compression, warning = _compression(said)
    level = said["compress_level"]
    if level is not None:
        from dimgx.encode import check_level

        check_level(compression, level)
    return Options(
        image=said["image"],
        layers=tuple(said["layers"] or ()),
        reverse=bool(said["reverse"]),
        strict=bool(said["strict"]),
        target=said["target"],
        to_stdout=said["target"] in STDOUT_TARGETS,
        force=bool(said["force"]),
        compression=compression,
        level=level,
        verify=said["verify"] or "once",
        platform=said["platform"],
        host=said["host"],
        pull=said["pull"] or "never",
        threads=said["threads"],
        memory=said["memory"],
        tmpdir=said["tmpdir"],
        root_entry=bool(said["root_entry"]),
        clamp_mtime=bool(said["clamp_mtime"]),
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
        warnings=(warning,) if warning else (),
    )


_NEED_TARGET = {
    "force": "-w/-W",
    "compression": "a compression",
    "compress_level": "--compress-level",
    "root_entry": "--root-entry",
    "clamp_mtime": "--clamp-mtime",
}


_NEED_REGISTRY = (
    "creds", "password_stdin", "authfile", "tls_verify", "cert_dir", "retry_time", "cache_dir",
    "cache_size",
)  # fmt: skip
_NOT_WITH_PLATFORMS = {
    "target": "-t",
    "layers": "-l",
    "reverse": "-r/-R",
    "json": "--json",
    "quiet": "-q/-Q",
    "threads": "--threads",
}


def _check_effects(said: dict[str, Any]) -> None:
    if not said["image"].startswith("docker://"):
        for name in _NEED_REGISTRY:
            if said[name] is not None:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} has no effect on an image that is not docker://")
    if said["password_stdin"] and (said["creds"] is None or ":" in said["creds"]):
        raise UsageError("--password-stdin goes with --creds USER, without a password there")
    if said["creds"] is not None and said["authfile"] is not None:
        raise UsageError("--creds and --authfile exclude each other")
    if said["platforms"]:
        for name, option in _NOT_WITH_PLATFORMS.items():
            if said[name] is not None:
                raise UsageError(f"{option} has no effect with --platforms")
    target = said["target"]
    if target is None:
        for name, option in _NEED_TARGET.items():
            if said[name] is not None:
                raise UsageError(f"{option} has no effect without a target (-t)")
        if said["json"] and said["quiet"] is not None:
            raise UsageError("--json and -q/-Q exclude each other")
    else:
        if not target:
            raise UsageError("the target is empty")
        if "\0" in target:
            raise UsageError("the target holds a NUL")
        if said["json"]:
            raise UsageError("--json has no effect with a target (-t)")
        if target in STDOUT_TARGETS and said["force"] is not None:
            raise UsageError("-w/-W has no effect on standard output")
    if said["strict"] is not None and not said["layers"]:
        raise UsageError("-s/-S has no effect without a layer spec (-l)")
    if said["verbose"] and said["log_level"]:
        raise UsageError("-v and --log-level exclude each other")


def _compression(said: dict[str, Any]) -> tuple[Compression | None, str | None]:
    """Give the compression that is asked for or that the suffix means, and what is odd in it."""
    target, chosen = said["target"], said["compression"]
    if target is None:
        return None, None
    wanted: Compression | None = None if chosen == "none" else chosen
    if target in STDOUT_TARGETS:
        return wanted, None
    transport, colon, _ = target.partition(":")
    if colon and transport in REFUSED_TRANSPORTS:
        raise UsageError(
            f"dimgx writes a tar; {transport}: is no target (./{target} is a file of that name)"
        )
    name = re.split(r"[/\\]" if "\\" in target else "/", target)[-1].lower()
    suffix = max((s for s in SUFFIXES if name.endswith(s)), key=len, default=None)
    if chosen is not None:
        if suffix is not None and SUFFIXES[suffix] != wanted:
            return wanted, f"the target's name ends in {suffix}, but {_name(wanted)} was asked for"
        return wanted, None
    if suffix is not None:
        return SUFFIXES[suffix], None
    refused = next((s for s in REFUSED_SUFFIXES if name.endswith(s)), None)
    if refused is not None:
        raise UsageError(
            f"dimgx writes a tar, not a {refused} (give -C, -z or another to write one there)"
        )
    return None, "the target's suffix is not known, so a plain tar is written"


def _name(compression: Compression | None) -> str:
    return compression or "a plain tar"
