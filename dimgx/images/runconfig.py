r"""How an image is to be run, for whoever runs its tar: as JSON, or as a shell fragment.

The JSON is the image's OCI config without `rootfs` and `history`, which tell of layers that the tar
no longer has. It depends on the image alone, not on how its source orders or spells the keys.

Any POSIX shell reads the fragment in by `. ./app.sh`, and starts what the image would start by

    cd "$WORKDIR" && eval "exec env -- $ENV $ENTRYPOINT $CMD"

1. Shells have no lists in common, so ENV, ENTRYPOINT and CMD are texts of quoted words, for `eval`.
2. Besides, each variable of ENV is exported, but for those whose names a shell cannot take (`a-b`),
   has for itself (in bash UID cannot be set) or that this fragment has (many images set USER in
   ENV). ENV, the text, has them all.
3. The five are unset first: what was exported under such a name (USER, mostly) stays the caller's
   no longer, so nothing of them leaks into what is started.

Spec: image-spec config.md, "Properties".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from dimgx.errors import ImageError
from dimgx.jsondoc import Fields, in_lines, parse_json
from dimgx.oci import CONFIG_LIMIT
from dimgx.settings import Settings, parse_process

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dimgx.image import Image, Tick

_KEYS = (
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels",
    "StopSignal", "StopTimeout", "Healthcheck", "Shell", "OnBuild", "ArgsEscaped", "Hostname",
    "Domainname", "MacAddress", "NetworkDisabled", "AttachStdin", "AttachStdout", "AttachStderr",
    "Tty", "OpenStdin", "StdinOnce", "Image", "Memory",
)  # fmt: skip
_SPELLINGS = {key.lower(): key for key in _KEYS}
_ABOVE = ("created", "author", "architecture", "os", "os.version", "os.features", "variant")
_SETTINGS = ("ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What bash, dash, busybox or zsh set themselves, or would work differently with: root's zsh becomes
# the user that USERNAME names.
_SHELLS_OWN = re.compile(
    r"UID|EUID|GID|EGID|USERNAME|GROUPS|PPID|PWD|OLDPWD|IFS|OPT(?:IND|ARG|ERR)|LINENO|RANDOM"
    r"|SRANDOM|SECONDS|EPOCH\w*|BASH\w*|SHELLOPTS|FUNCNAME|DIRSTACK|HISTCMD|PIPESTATUS|COMP_\w*"
    r"|POSIXLY_CORRECT|_"
)

HEAD = r"""# How the image is run, for any POSIX shell. Read this file with `.`, and then:
#   cd "$WORKDIR" && eval "exec env -- $ENV $ENTRYPOINT $CMD"
# ENV, ENTRYPOINT and CMD are quoted words, for eval; USER is user[:group], empty for root.
"""


class RunConfig(NamedTuple):
    """What an image's config says of how it is run."""

    document: Mapping[str, Any]
    """The config without `rootfs` and `history`, its keys spelled as OCI does."""
    settings: Settings = Settings()
    """What of it a shell needs."""

    @property
    def variables(self) -> dict[str, str]:
        """The environment: of one name the last counts, and what has no name does not."""
        named = (entry.partition("=") for entry in self.settings.env)
        return {name: value for name, equals, value in named if name and equals}

    def format_json(self) -> str:
        """Give the config as JSON in lines."""
        return in_lines(self.document)

    def format_shell(self) -> str:
        """Give the fragment for a shell (rules 1 to 3).

        Raises: ImageError where a value holds a NUL, which no shell and no process can have.
        """
        variables, told = self.variables, self.settings
        for text in (*told.env, *told.entrypoint, *told.cmd, told.workdir, told.user):
            if "\0" in text:
                raise ImageError(f"the config holds a NUL, which no shell takes: {text!r:.200}")
        lines = [
            f"export {name}={_quote(value)}\n"
            for name, value in variables.items()
            if is_exported(name)
        ]
        return "".join(
            (
                HEAD,
                *lines,
                f"unset {' '.join(_SETTINGS)}\n",
                f"ENV={_quote_words(f'{name}={value}' for name, value in variables.items())}\n",
                f"WORKDIR={_quote(told.workdir or '/')}\n",
                f"USER={_quote(told.user)}\n",
                f"ENTRYPOINT={_quote_words(told.entrypoint)}\n",
                f"CMD={_quote_words(told.cmd)}\n",
            )
        )

    def format_for(self, path: str) -> str:
        """Give what a file of this name is to hold: of one that ends in `.sh` the fragment."""
        return self.format_shell() if path.endswith(".sh") else self.format_json()


def run_config_of(image: Image, tick: Tick | None) -> RunConfig:
    """Give the run settings of an image that is open.

    An engine is asked for the whole image, unless that was done; `tick` is told how far that is.

    Raises: ImageError where the config is malformed; SourceError, TemporaryError from an engine.
    """
    if image.config is None and image.fetch_whole is not None:
        image = image.fetch_whole(tick)
    data = None if image.config is None else image.config.data
    return parse_run_config(data, f"{image.reference:.300}: the config")


def parse_run_config(data: bytes | None, what: str) -> RunConfig:
    """Give the run settings of the config document `data`; None is an image without one.

    Raises: ImageError where it is no config.
    """
    if data is None:
        return RunConfig({"config": {}})
    value = parse_json(data, what, CONFIG_LIMIT)
    fields = Fields(value, what)
    stated = fields.mapping("config")
    config = {_SPELLINGS.get(name.lower(), name): item for name, item in stated.items()}
    settings = parse_process(Fields(stated, f"{what}: config"))
    read = {
        "Env": list(settings.env),
        "Entrypoint": list(settings.entrypoint),
        "Cmd": list(settings.cmd),
        "WorkingDir": settings.workdir,
        "User": settings.user,
    }
    config |= {name: item for name, item in read.items() if name in config}
    document = {name: fields.value(name) for name in _ABOVE if not _is_nothing(fields.value(name))}
    document["config"] = {
        name: _sorted(config[name]) for name in sorted(config) if not _is_nothing(config[name])
    }
    return RunConfig(document, settings)


def is_exported(name: str) -> bool:
    """Tell whether a variable of ENV can be exported by a fragment without harm (rule 2)."""
    if name in _SETTINGS or not _NAME.fullmatch(name):
        return False
    return not _SHELLS_OWN.fullmatch(name)


def _is_nothing(value: object) -> bool:
    """Tell whether a key might as well be absent; sources differ in whether it is."""
    return value is None or value in ("", [], {})


def _sorted(value: Any) -> Any:
    """Give the value with the keys of its objects in order, as no object here has one."""
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _quote(text: str) -> str:
    """Give the shell word that is `text`."""
    return "'" + text.replace("'", r"'\''") + "'"


def _quote_words(words: Iterable[str]) -> str:
    """Give the shell word that is the text of the quoted `words`."""
    text = " ".join(map(_quote, words))
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'
