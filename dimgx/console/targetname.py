"""What people write for a target, and what it says: a path or `TRANSPORT:PATH[:NAME]`.

1. `docker-archive:`, `oci-archive:`, `oci:` and `dir:` before a path choose the form of the result,
   as `--format` does; what stands behind the next colon of the first three is a name for the image.
   (`./oci:x` is a file of that name.)
2. What is written to one file, tar or archive, is compressed as an option says, or else as its
   suffix does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from dimgx.errors import UsageError
from dimgx.reference import PREFIXES

if TYPE_CHECKING:
    from dimgx.codec import Compression

    _Asked = Compression | Literal["none"] | None

Form = Literal["tar", "docker-archive", "oci-archive", "oci-dir", "docker-dir"]
FORMS: tuple[Form, ...] = get_args(Form)
DIRECTORY_FORMS = frozenset(("oci-dir", "docker-dir"))
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
_NO_TAR: dict[str, str | None] = {
    ".ext4": "mke2fs",
    ".img": "mke2fs",
    ".squashfs": "sqfstar",
    ".sqfs": "sqfstar",
    ".erofs": "mkfs.erofs",
    ".cpio": None,
}
"""Suffixes of what is no tar, and what makes it of one."""
_TRANSPORTS: dict[str, Form] = {
    "docker-archive": "docker-archive",
    "oci-archive": "oci-archive",
    "oci": "oci-dir",
    "dir": "docker-dir",
}
INTO_CONTAINERD = "`dimgx -t docker-archive:-:NAME IMAGE | ctr images import -`"
"""How an image gets there, which takes archives only."""
_ENGINES = ("docker-daemon", "containers-storage", "podman")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class TargetName(NamedTuple):
    """A target, taken apart."""

    path: str
    form: Form
    compression: Compression | None
    """Of the one file as a whole."""
    name: str | None = None
    """The image's name that was written behind the path."""
    warnings: tuple[str, ...] = ()

    @property
    def is_stdout(self) -> bool:
        return self.path in STDOUT_TARGETS

    @property
    def shown(self) -> str:
        """What people call it."""
        return "standard output" if self.is_stdout else self.path

    @property
    def layout_name(self) -> str | None:
        """The name where it is one in an OCI layout, which takes any text."""
        return self.name if self.form in ("oci-archive", "oci-dir") else None


def parse_target(text: str, form: Form | None, compression: _Asked) -> TargetName:
    """Give what the target `text` says, with what `--format` and a compression option say.

    `compression` is "none" for a plain file, None where nothing was said.

    Raises: UsageError where they contradict each other or name no target.
    """
    path, spelled, name = _cut(text)
    if form is not None and spelled is not None and form != spelled:
        raise UsageError(f"--format {form} and the target {text!r:.300} contradict each other")
    chosen: Form = form or spelled or "tar"
    if chosen in DIRECTORY_FORMS:
        if compression is not None:
            raise UsageError(
                f"a compression has no effect on {chosen}, which is a directory:"
                " --layer-compression is that of the layer"
            )
        if path in STDOUT_TARGETS:
            raise UsageError(f"{chosen} is a directory: name one, standard output is none")
        return TargetName(path, chosen, None, name)
    packed, warning = _compression(path, compression, is_tar=chosen == "tar")
    warnings = [warning] if warning else []
    if name is not None and name.lower().endswith(tuple(SUFFIXES)):
        warnings.append(
            f"the target is {path}, and {name} the image's name: --format {chosen} takes a path"
            " with colons"
        )
    return TargetName(path, chosen, packed, name, tuple(warnings))


def target_path(text: str) -> str:
    """Give the path of a target, whatever form is spelled before it.

    Raises: UsageError where it names none.
    """
    return _cut(text)[0]


def _cut(text: str) -> tuple[str, Form | None, str | None]:
    """Give path, form and name."""
    transport, colon, rest = text.partition(":")
    if not colon:
        return text, None, None
    if transport == "containerd":
        raise UsageError(f"containerd: is no target: pipe an archive into it: {INTO_CONTAINERD}")
    if transport in _ENGINES:
        raise UsageError(f"{transport}: is no target: --load and --import hand an image to it")
    if transport == "docker" and rest.startswith("//"):
        raise UsageError("dimgx does not push to registries: write an archive, and push that")
    form = _TRANSPORTS.get(transport)
    if form is None:
        _check_word(transport, text)
        return text, None, None
    path, name = rest, None
    if form != "docker-dir":
        at = rest.find(":", 2 if _DRIVE.match(rest) else 0)
        if at >= 0:
            path, name = rest[:at], rest[at + 1 :]
    if not path or name == "":
        raise UsageError(f"{text!r:.300} names no {'image' if path else 'path'}")
    return path, form, name


def _check_word(word: str, text: str) -> None:
    """Refuse what stands before a colon and is nearly the word for a form."""
    from difflib import get_close_matches

    is_near = "/" not in word and get_close_matches(word.lower(), _TRANSPORTS, cutoff=0.8)
    if word in FORMS or is_near:
        raise UsageError(
            f"{word:.100}: is none of {PREFIXES} (a file of that name is ./{text:.300})"
        )


def _compression(
    path: str, chosen: _Asked, *, is_tar: bool
) -> tuple[Compression | None, str | None]:
    """Give the compression that is asked for or that the suffix means, and what is odd in it.

    An archive of an image may be called what you will.
    """
    wanted = None if chosen is None or chosen == "none" else chosen
    if path in STDOUT_TARGETS:
        return wanted, None
    name = re.split(r"[/\\]" if "\\" in path else "/", path)[-1].lower()
    suffix = max((s for s in SUFFIXES if name.endswith(s)), key=len, default=None)
    if chosen is not None:
        if suffix is not None and SUFFIXES[suffix] != wanted:
            asked = wanted or "a plain tar"
            return wanted, f"the target's name ends in {suffix}, but {asked} was asked for"
        return wanted, None
    if suffix is not None or not is_tar:
        return SUFFIXES[suffix] if suffix else None, None
    refused = next((s for s in _NO_TAR if name.endswith(s)), None)
    if refused is not None:
        maker = _NO_TAR[refused]
        hint = f": {maker} makes it of one, as in the README" if maker else ""
        raise UsageError(
            f"dimgx writes a tar, not a {refused}{hint} (give -C, -z or another for a tar there)"
        )
    return None, "the target's suffix is not known, so a plain tar is written"


def is_template(target: str) -> bool:
    """Tell whether a target has fields, or doubled braces; `template` reads it."""
    return "{" in target or "}" in target
