"""The options of the command line, in groups, each with its help."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from dimgx.console.argumenttypes import seconds, size, text_of, truth, whole_number, words_of
from dimgx.console.targetarguments import FLAG, add_target
from dimgx.console.terminal import print_text
from dimgx.errors import SourceError, UsageError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_FILES = ("images", "target", "origin", "report", "write_config", "add_layers", "authfile")
_DIRECTORIES = ("tmpdir", "cert_dir", "cache_dir")
SHELLS = ("bash", "zsh", "tcsh", "fish")
# In these shells shtab's scripts complete the first image only; with these texts replaced, each.
_EVERY_IMAGE = {
    "zsh": (('"(*)::', '"*:'), ("': :_shtab_dimgx_commands' '*::: :->dimgx'", "")),
    "tcsh": (("'p/*/()/'", "'p/*/f/'"),),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ").split()
        if len(words) < len(message.split()):
            from difflib import get_close_matches

            word = words[0].partition("=")[0]
            alike = get_close_matches(word, self._option_string_actions, n=1, cutoff=0.75)
            message += f"; did you mean {alike[0]}?" if alike else ""
        raise UsageError(f"{message} (dimgx -h shows the options)")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse's own hides a full disk and a reader that went away.
        print_text(message)


class _Formatter(argparse.HelpFormatter):
    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap

        # Prefixes such as `oci-archive:` stay whole.
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # What may follow a `=` only is shown so.
        return super()._format_action_invocation(action).replace(" [=", "[=")


class _PrintCompletion(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        try:
            import shtab
        except ImportError:
            raise SourceError(
                "completion needs shtab, which is not installed: pip install shtab, or pipx inject"
                " dimgx shtab"
            ) from None
        for action in parser._actions:
            if not action.option_strings:
                action.nargs = "*"  # hidden while options and images are parsed in turn
            elif str(action.metavar).startswith("[="):
                action.nargs = 0  # the next word is another one
            action.metavar = None  # zsh would take what follows a colon in it for a command
            if action.dest in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own protocol
            elif action.dest in _DIRECTORIES:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # as above
        shell = str(values)
        script = shtab.complete(parser, shell)
        for old, new in _EVERY_IMAGE.get(shell, ()):
            script = script.replace(old, new)
        print_text(script + "\n")
        parser.exit()


def _add_registry(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--creds",
        metavar="USER[:PASSWORD]",
        type=text_of("a user"),
        help="without a password it is asked for (default: what `podman login` and `docker login` "
        "keep, credential helpers too)",
    )
    group.add_argument(
        "--password-stdin", **FLAG, const=True, help="read the password from standard input"
    )
    group.add_argument(
        "--authfile",
        metavar="FILE",
        type=text_of("a file"),
        help="look for credentials there only (default: $REGISTRY_AUTH_FILE, the auth.json of "
        "podman, $DOCKER_CONFIG/config.json, ~/.docker/config.json)",
    )
    group.add_argument(
        "--tls-verify",
        metavar="[=true|false]",
        type=truth,
        help="false takes any certificate, and plain http; true insists on https, for loopback "
        "too (default: https, on loopback plain http as well)",
    )
    group.add_argument(
        "--cert-dir",
        metavar="DIR",
        type=text_of("a directory"),
        help="with CAs (*.crt) and client certificates (*.cert, *.key) (default: certs.d/HOST of "
        "podman and Docker)",
    )
    group.add_argument(
        "--retry-time",
        metavar="SECONDS",
        type=seconds,
        help="how long to try again what fails for the moment (default: 30)",
    )
    group.add_argument(
        "--cache-dir",
        metavar="DIR",
        type=text_of("a directory"),
        help="keep what was fetched there (default: $DIMGX_CACHE_DIR, or nowhere)",
    )
    group.add_argument(
        "--cache-size",
        metavar="SIZE",
        type=size,
        help="at most; what was used longest ago goes (default: 10G)",
    )


def build_parser(version: str) -> argparse.ArgumentParser:
    """Give the parser of the command line; its values are None where nothing was said."""
    parser = _Parser(
        prog="dimgx",
        usage="dimgx [options] [-l LAYER_SPEC]... [-t TARGET] IMAGE...",
        description="Flatten a container image into one root file system tar, or list what it is "
        "made of.",
        epilog="Exit codes: 0 done; 1 the command line is wrong; 2 the image or the world is "
        "wrong, for good; 3 a layer spec names no row, or too many; 4 try again later; 5 --check "
        "would write; 70 a bug in dimgx. A signal ends it by that signal.",
        add_help=False,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )

    source = parser.add_argument_group("source")
    source.add_argument(
        "images",
        metavar="IMAGE",
        nargs="*",
        type=text_of("an image"),
        help="docker://[HOST/]NAME[:TAG][@DIGEST] at a registry, NAME[:TAG] or an ID at the Docker "
        "Engine, podman:NAME, containers-storage:[STORE]NAME, containerd:NAME, "
        "docker-archive:PATH[:REF], oci-archive:PATH[:REF], oci:DIR[:REF], dir:DIR, a path that "
        "begins with / or ./, a file that ends in .tar* or .tgz, or -[:REF] for an archive on "
        "standard input; REF is a name, an ID (7 digits or more of its beginning do), @N or "
        "@sha256:...",
    )
    source.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        action="extend",
        type=words_of("a platform"),
        help="which image of an index (default: linux on this CPU, or the only one there is); "
        "with a target also several, separated by commas, or all",
    )
    source.add_argument(
        "--platforms",
        **FLAG,
        const=True,
        help="list the platforms that there are; with --platform the exit code is 0 if it is "
        "among them, else 2",
    )
    source.add_argument(
        "-H",
        "--host",
        metavar="URL",
        type=text_of("an engine's address"),
        help="where the engine listens: unix://, tcp:// or ssh:// (default: $DOCKER_HOST or the "
        "current Docker context, $CONTAINER_HOST for Podman, $CONTAINERD_ADDRESS for containerd, "
        "else a socket where it usually is)",
    )
    source.add_argument(
        "--pull",
        choices=("never", "missing", "always"),
        help="when the engine is to fetch the image first (default: never)",
    )
    source.add_argument(
        "--direct",
        **FLAG,
        const=True,
        help="read an image of an engine of this machine from the engine's own files, where that "
        "can be (default)",
    )
    source.add_argument(
        "--no-direct", dest="direct", **FLAG, const=False, help="have the engine save it always"
    )
    source.add_argument(
        "--verify",
        choices=("once", "all", "none"),
        help="check each layer against one digest (default), against both of its digests, or "
        "skip digests",
    )
    source.add_argument(
        "--no-verify", dest="verify", **FLAG, const="none", help="the same as --verify none"
    )
    source.add_argument(
        "--threads",
        metavar="N",
        type=whole_number("a number of threads from 1 to 9999", digits=4, least=1),
        help="default: the CPUs that dimgx may use",
    )
    source.add_argument(
        "--memory",
        metavar="SIZE",
        type=size,
        help="for layers decoded or fetched, as in 512M or 2G; beyond it they lie in a temporary "
        "file (default: a quarter of what is free)",
    )
    source.add_argument(
        "--tmpdir",
        metavar="DIR",
        type=text_of("a directory"),
        help="where that file is made (default: $DIMGX_TMPDIR, $TMPDIR, /var/tmp, /tmp, the "
        "first with room)",
    )

    _add_registry(parser.add_argument_group("registry, for docker://"))

    layers = parser.add_argument_group(
        "layers",
        "A LAYER_SPEC is @N (@0 the base, @-1 the top), the beginning of an ID, a tag, or an "
        "inclusive range of two of these, A:B; B:A is its reverse. A row named later covers those "
        "named earlier.",
    )
    layers.add_argument(
        "-l",
        "--layers",
        metavar="LAYER_SPEC",
        action="append",
        help="use these rows only (default: all, base to top); repeatable",
    )
    layers.add_argument("-r", "--reverse", **FLAG, const=True, help="turn the list of rows round")
    layers.add_argument(
        "-R", "--no-reverse", dest="reverse", **FLAG, const=False, help="do not (default)"
    )
    layers.add_argument(
        "-s", "--strict", **FLAG, const=True, help="a LAYER_SPEC that names no row is an error"
    )
    layers.add_argument(
        "-S",
        "--no-strict",
        dest="strict",
        **FLAG,
        const=False,
        help="warn of it and leave it out (default)",
    )

    add_target(parser)

    shown = parser.add_argument_group("what is shown")
    shown.add_argument(
        "-q",
        "--quiet",
        **FLAG,
        const=True,
        help="list only the IDs; with a target: no progress",
    )
    shown.add_argument(
        "-Q", "--no-quiet", dest="quiet", **FLAG, const=False, help="list the table (default)"
    )
    shown.add_argument("--json", **FLAG, const=True, help="list as one JSON document")
    shown.add_argument(
        "-v",
        "--verbose",
        **FLAG,
        const=True,
        help="tell on standard error what was resolved and written: --log-level INFO",
    )
    shown.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        help="what is told on standard error (default: WARNING)",
    )
    shown.add_argument(
        "--log-format",
        metavar="FORMAT",
        type=text_of("a format"),
        help="how it is told, a format of Python's logging module, as in "
        "'%%(levelname)-8s: %%(message)s'",
    )
    shown.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=SHELLS,
        action=_PrintCompletion,
        help=f"print the completion script for {', '.join(SHELLS)} and end",
    )
    shown.add_argument(
        "-V", "--version", action="version", version=f"dimgx {version}", help="print it and end"
    )
    shown.add_argument("-h", "--help", action="help", help="print this and end")
    return parser
