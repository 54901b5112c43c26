"""The options that say what is written, and where: groups of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from dimgx.console.argumenttypes import engine_kind, path_rule, text_of, whole_number
from dimgx.console.targetname import FORMS

FLAG: dict[str, Any] = {"action": "store_const", "default": None}


class _Once(argparse.Action):
    """Takes a place where something is written or looked at: of two, one would be passed over."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "given twice, and one run takes one")
        setattr(namespace, self.dest, values)


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the groups about the result: what goes in, where it goes, images as results."""
    _add_content(parser.add_argument_group("what goes in"))
    _add_place(parser.add_argument_group("target"))
    _add_image(parser.add_argument_group("target: an image"))
    _add_companions(parser.add_argument_group("target: what it was made from"))


def _add_content(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--include",
        metavar="GLOB",
        dest="paths",
        action="append",
        type=path_rule(is_included=True),
        help="only what matches, with its parents, and what is below it; anchored as in "
        ".gitignore; the last of all --include and --exclude that matches wins",
    )
    group.add_argument(
        "--exclude",
        metavar="GLOB",
        dest="paths",
        action="append",
        type=path_rule(is_included=False),
        help="nothing that matches, nor what is below it",
    )
    group.add_argument(
        "--strip-components",
        metavar="N",
        type=whole_number("a number of leading directories", digits=4),
        help="take N leading directories off all names; what has no more than these is left out",
    )
    group.add_argument(
        "--prefix",
        metavar="DIR/",
        type=text_of("a directory"),
        help="put this before all names",
    )
    group.add_argument(
        "--add-layer",
        metavar="TAR|DIR",
        dest="add_layers",
        action="append",
        type=text_of("a tar or a directory"),
        help="lay these files on top, by the same rules; repeatable",
    )
    group.add_argument(
        "--root-entry", **FLAG, const=True, help="begin with ./, the root directory itself"
    )
    group.add_argument(
        "--clamp-mtime", **FLAG, const=True, help="let no time be later than $SOURCE_DATE_EPOCH"
    )


def _add_place(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-t",
        "--target",
        "-o",
        "--output",
        metavar="TARGET",
        action=_Once,
        type=text_of("a target"),
        help="write the flattened tar there, whole and verified or not at all; - is standard "
        "output; docker-archive:PATH[:NAME], oci-archive:PATH[:NAME], oci:DIR[:NAME] and dir:DIR "
        "write an image of one layer; {name} {tag} {digest} {short} {platform} {index} in it are "
        "those of the image",
    )
    group.add_argument("-w", "--force", **FLAG, const=True, help="replace a target that exists")
    group.add_argument(
        "-W", "--no-force", dest="force", **FLAG, const=False, help="refuse to (default)"
    )
    group.add_argument(
        "--sync", **FLAG, const=True, help="wait until the disk has what was written (default)"
    )
    group.add_argument(
        "--no-sync",
        dest="sync",
        **FLAG,
        const=False,
        help="do not wait, where nothing has to outlive a crash of the machine",
    )
    compression = group.add_mutually_exclusive_group()
    for letters, const in (
        (("-j", "--bzip2"), "bzip2"),
        (("-z", "--gzip"), "gzip"),
        (("-C", "--no-compress"), "none"),
        (("-J", "--xz"), "xz"),
        (("--zstd",), "zstd"),
    ):
        compression.add_argument(
            *letters,
            dest="compression",
            **FLAG,
            const=const,
            help=f"compress with {const}" if const != "none" else "write a plain tar",
        )
    group.add_argument(
        "--compress-level",
        metavar="N",
        type=whole_number("a level, a number from 0 on", digits=2),
        help="0-9, zstd 1-19 (default: gzip 2, or 6 without the package isal, bzip2 9, xz 6, "
        "zstd 3)",
    )


def _add_image(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--format",
        choices=FORMS,
        help="of the target (default: tar, or what stands before the target's path)",
    )
    group.add_argument(
        "--layer-compression",
        choices=("none", "gzip", "zstd"),
        help="of the image's layers (default: none in Docker's forms, gzip in OCI's)",
    )
    group.add_argument(
        "--tag",
        metavar="NAME",
        dest="tags",
        action="append",
        type=text_of("a name"),
        help="name the image so (default: the names it has); repeatable",
    )
    group.add_argument(
        "--squash-from",
        metavar="LAYER_SPEC",
        help="make one layer of this row and those above, and leave those below as they are",
    )
    group.add_argument(
        "--keep-layers",
        **FLAG,
        const=True,
        help="flatten nothing: the same image in another form",
    )
    group.add_argument(
        "--keep-images",
        **FLAG,
        const=True,
        help="add to an OCI layout that is there, in the place of what has the same name",
    )
    group.add_argument(
        "--raw",
        **FLAG,
        const=True,
        help="write the one row that -l names as it is: its tar, whiteouts and all",
    )
    group.add_argument(
        "--load",
        metavar="[=docker|podman]",
        type=engine_kind,
        help="hand the image to an engine and print its ID: with = to the one that is named, else "
        "to the one it came from, or else the one that is there",
    )
    group.add_argument(
        "--import",
        dest="import_",
        metavar="[=docker|podman]",
        type=engine_kind,
        help="the same with the plain tar and the image's settings, as `docker import` does",
    )


def _add_companions(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--update",
        **FLAG,
        const=True,
        help="write only if the target was not made from these layers with these options; an "
        "outdated target of dimgx's own is replaced without -w",
    )
    group.add_argument(
        "--check",
        **FLAG,
        const=True,
        help="write nothing; tell by the exit code whether --update would: 0 no, 5 yes",
    )
    group.add_argument(
        "--origin",
        metavar="TARGET",
        action=_Once,
        type=text_of("a file or a directory"),
        help="show what a target was made from, and end",
    )
    group.add_argument(
        "--write-config",
        metavar="PATH",
        action=_Once,
        type=text_of("a file"),
        help="write the image's run settings there too, as JSON, or as a shell fragment if PATH "
        "ends in .sh",
    )
    group.add_argument(
        "--report",
        metavar="PATH|-",
        action=_Once,
        type=text_of("a file"),
        help="write there what was done, as one JSON document",
    )
