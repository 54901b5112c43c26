#!/usr/bin/env python3
"""Write a small container image, as `docker save` does, out of the files of this checkout.

    python examples/make_image.py app.tar

No engine, network or clock is asked: the same checkout gives the same image. It has what makes
flattening more than unpacking: a merged /usr, three layers, a file removed by a whiteout, a
directory emptied by an opaque whiteout, a file with two names.
`docker load -i app.tar` and `skopeo inspect docker-archive:app.tar` read it as well.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
CREATED_S = 1_700_000_000
OS_RELEASE = b'NAME="dimgx example"\nID=example\nVERSION_ID=1\n'
LAUNCHER = b'#!/bin/sh\nexec python3 -m dimgx "$@"\n'
PACKAGES = "usr/lib/python3/dist-packages"


class Layer:
    """A layer's tar, entry by entry."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, kind: bytes, mode: int, data: bytes = b"", target: str = "") -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.linkname = kind, mode, target
        info.size, info.mtime = len(data), CREATED_S
        self._tar.addfile(info, io.BytesIO(data))

    def directory(self, name: str, mode: int = 0o755) -> None:
        self.add(name, tarfile.DIRTYPE, mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self.add(name, tarfile.REGTYPE, mode, data)

    def symlink(self, name: str, target: str) -> None:
        self.add(name, tarfile.SYMTYPE, 0o777, target=target)

    def hardlink(self, name: str, target: str, mode: int = 0o644) -> None:
        self.add(name, tarfile.LNKTYPE, mode, target=target)

    def finish(self) -> bytes:
        self._tar.close()
        return self._file.getvalue()


def add_base(layer: Layer) -> None:
    for name in (
        "etc",
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/share",
        "usr/share/doc",
        "var",
        "var/cache",
    ):
        layer.directory(name)
    layer.directory("tmp", 0o1777)
    layer.directory("root", 0o700)
    layer.symlink("bin", "usr/bin")
    layer.symlink("lib", "usr/lib")
    layer.file("etc/os-release", OS_RELEASE)
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    layer.file("var/cache/left-over", b"what the base left behind\n" * 40)
    for path in sorted(CHECKOUT.glob("*.rst")):
        layer.file(f"usr/share/doc/{path.name}", path.read_bytes())


def add_application(layer: Layer) -> None:
    layer.directory("usr/lib/python3")
    layer.directory(PACKAGES)
    for path in sorted(path.parent for path in (CHECKOUT / "dimgx").rglob("__init__.py")):
        layer.directory(f"{PACKAGES}/{path.relative_to(CHECKOUT).as_posix()}")
    for path in sorted((CHECKOUT / "dimgx").rglob("*.py")):
        layer.file(f"{PACKAGES}/{path.relative_to(CHECKOUT).as_posix()}", path.read_bytes())
    layer.file("usr/bin/dimgx", LAUNCHER, 0o755)


def add_clean_up(layer: Layer) -> None:
    layer.file("usr/share/doc/.wh.CHANGELOG.rst", b"")
    layer.file("var/cache/.wh..wh..opq", b"")
    layer.file("usr/bin/dimgx-flatten", LAUNCHER, 0o755)
    layer.hardlink("usr/bin/dimgx-list", "usr/bin/dimgx-flatten", 0o755)


STEPS: list[tuple[str, Callable[[Layer], None]]] = [
    ("ADD base /", add_base),
    (f"COPY dimgx /{PACKAGES}/dimgx", add_application),
    (
        "RUN rm -r /usr/share/doc/CHANGELOG.rst /var/cache/* && ln dimgx-flatten dimgx-list",
        add_clean_up,
    ),
]


def main(path: str) -> None:
    layers = []
    for _, fill in STEPS:
        layer = Layer()
        fill(layer)
        layers.append(layer.finish())
    digests = [hashlib.sha256(data).hexdigest() for data in layers]
    created = "2023-11-14T22:13:20Z"
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": {"Cmd": ["dimgx", "--help"], "Env": ["PATH=/usr/bin"]},
            "history": [{"created": created, "created_by": step} for step, _ in STEPS],
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        }
    ).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [
        {
            "Config": config_name,
            "RepoTags": ["example/app:1.0"],
            "Layers": [f"{digest}/layer.tar" for digest in digests],
        }
    ]
    archive = Layer()
    for digest, data in zip(digests, layers, strict=True):
        archive.file(f"{digest}/layer.tar", data)
    archive.file(config_name, config)
    archive.file("manifest.json", json.dumps(manifest).encode())
    Path(path).write_bytes(archive.finish())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} ARCHIVE")
    main(sys.argv[1])
