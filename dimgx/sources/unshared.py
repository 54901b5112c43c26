"""Unpacked layers with files that are closed to this user, read where the user is root.

What an image gives to others than root, a rootless engine gives to its user's subordinate IDs, and
most images have some of it that nobody else may read, such as `/etc/shadow`. In the user namespace
of the engine the user is root, though, and may read all. So a layer that has closed files is put
together by a process in there, which is this module as a program, and comes through a pipe.

Spec: user_namespaces(7); unix(7), SO_PEERCRED; nsenter(1), podman-unshare(1).
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from dimgx import system
from dimgx.errors import ImageError, SourceError, TemporaryError
from dimgx.image import Layer
from dimgx.sources.program import Program
from dimgx.sources.tarsplit import SplitTar

# Modules are looked for where this process does, and not in the current directory.
_CODE = (
    "import sys; sys.path[:] = sys.argv.pop(1).split(':');"
    "from dimgx.sources.unshared import main; sys.exit(main(*sys.argv[1:]))"
)

_PEER = struct.Struct("3i")
"""Process, user and group."""


class UnsharedTar(NamedTuple):
    """A layer's plain tar that a process in a user namespace puts together: a blob."""

    tar: SplitTar
    unshare: tuple[str, ...]

    @property
    def size(self) -> int | None:
        """None: only reading it tells."""
        return None

    def iter_chunks(self) -> Iterator[bytes]:
        """Yield the bytes in order.

        Raises: ImageError as `SplitTar.iter_chunks`, SourceError where nothing can be run.
        """
        return _program(self.unshare).iter_output("write", *_words(self.tar))


def command_into(path: str | None) -> tuple[str, ...]:
    """Give the command that runs another one in the user namespace of who listens at a socket.

    Empty where it cannot be told who that is.
    """
    if path is None or not hasattr(socket, "SO_PEERCRED"):
        return ()
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(path)
            told = asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    except OSError:
        return ()
    process, _, _ = _PEER.unpack(told)
    return "nsenter", "--user", "--preserve-credentials", f"--target={process}"


def open_closed(layers: Sequence[Layer], unshare: tuple[str, ...]) -> tuple[Layer, ...] | None:
    """Give `layers` with blobs that this user may read; None where there is no way to all of them.

    `unshare` is a command that runs another one where this user is root, or empty.
    """
    closed = {
        layer.blob
        for layer in layers
        if isinstance(layer.blob, SplitTar) and not layer.blob.is_readable()
    }
    if not closed:
        return tuple(layers)
    if not unshare:
        return None
    try:
        _program(unshare).run("look", *chain.from_iterable(map(_words, closed)))
    except (ImageError, SourceError, TemporaryError):
        return None
    return tuple(
        layer._replace(blob=UnsharedTar(layer.blob, unshare)) if layer.blob in closed else layer
        for layer in layers
    )


def _program(unshare: tuple[str, ...]) -> Program:
    return Program([*unshare, sys.executable, "-c", _CODE, ":".join(sys.path)], ImageError)


def _words(tar: SplitTar) -> tuple[str, str, str]:
    return tar.record, tar.directory, tar.advice


def main(task: str, *words: str) -> str | int:
    """Be the process in the namespace: `look` whether tars can be read, or `write` them to stdout.

    `words` are three for each tar. Gives what to end with: a code, or words.
    """
    tars = [
        SplitTar(record, directory, 0, advice)
        for record, directory, advice in zip(words[::3], words[1::3], words[2::3], strict=True)
    ]
    if task == "look":
        return int(not all(tar.is_readable() for tar in tars))
    out = sys.stdout.fileno()
    system.widen_pipe(out)
    try:
        for chunk in chain.from_iterable(tar.iter_chunks() for tar in tars):
            system.write_all(out, chunk)
    except (ImageError, BrokenPipeError) as exc:
        return f"{exc}"
    return 0
