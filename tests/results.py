"""Images as results: written in every form and from every source, and what was written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dimgx
from dimgx import ImagesResult, ResultImage, write_images
from tests.dsl import dir_, file, hardlink, layer, opaque, symlink, whiteout
from tests.writers import (
    Picture,
    dir_image,
    docker_archive,
    docker_archive_v1,
    image,
    oci_archive,
    oci_layout,
)

FORMS = ("docker-archive", "oci-archive", "oci-dir", "docker-dir")
DIRECTORIES = ("oci-dir", "docker-dir")
TRANSPORTS = {"oci-dir": "oci", "docker-dir": "dir"}
PLATFORM = "linux/amd64"

BASE = layer(
    dir_("bin", mode=0o750),
    file("bin/sh", bytes(range(256)) * 300),
    hardlink("bin/ash", "bin/sh"),
    dir_("etc"),
    file("etc/passwd", b"root:x:0:0\n"),
    file("etc/shadow", b"root", mode=0o600),
    dir_("var"),
    file("var/old", b"old"),
)
MIDDLE = layer(whiteout("etc/passwd"), dir_("var"), opaque("var"), file("var/new", b"new"))
TOP = layer(file("etc/motd", b"hello\n" * 5000), symlink("lib", "usr/lib"))
SETTINGS = {
    "Env": ["PATH=/bin", "Q=\u00e9 \"'"],
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["echo hi"],
    "User": "12:34",
    "Labels": {"a.b": "c"},
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/data": {}},
    "WorkingDir": "/var",
    "StopSignal": "SIGINT",
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30000000000},
}
HISTORY = [
    {"created": "2024-01-01T00:00:00Z", "created_by": "ADD base /"},
    {"created": "2024-01-02T00:00:00Z", "created_by": "ENV PATH=/bin", "empty_layer": True},
    {"created": "2024-01-03T00:00:00Z", "created_by": "RUN middle"},
    {"created": "2024-01-04T00:00:00Z", "created_by": "COPY top /", "comment": "kept"},
    {"created": "2024-01-05T00:00:00Z", "created_by": 'CMD ["echo hi"]', "empty_layer": True},
]
APP = image(
    BASE, MIDDLE, TOP, tags=("example/app:1.0",), history=HISTORY,
    config={"config": SETTINGS, "author": "somebody", "x.unknown": {"kept": [1, None]}},
)  # fmt: skip

Source = Callable[[Path, Picture], str]
"""Writes a picture below a directory, and gives the reference of what it wrote."""


def _in_file(write: Callable[[Picture], bytes]) -> Source:
    def source(directory: Path, picture: Picture) -> str:
        (directory / "source.tar").write_bytes(write(picture))
        return f"{directory}/source.tar"

    return source


SOURCES: Mapping[str, Source] = {
    "docker-1.10": _in_file(docker_archive),
    "docker-25": _in_file(lambda picture: docker_archive(picture, vintage="25")),
    "docker-29": _in_file(lambda picture: docker_archive(picture, vintage="29")),
    "docker-v1": _in_file(docker_archive_v1),
    "oci-archive": _in_file(oci_archive),
    "oci": lambda directory, picture: f"oci:{oci_layout(directory / 'source', picture)}",
    "oci-zstd": lambda directory, picture: (
        f"oci:{oci_layout(directory / 'source', picture, default='zstd')}"
    ),
    "dir": lambda directory, picture: (
        f"dir:{dir_image(directory / 'source', picture, docker_types=True)}"
    ),
}


def reference_of(form: str, path: Path) -> str:
    return f"{TRANSPORTS.get(form, form)}:{path}"


def write(reference: str, path: Path, form: str, **options: Any) -> ImagesResult:
    """Write the image of a reference; names and layers are taken out of `options`."""
    more = {key: options.pop(key) for key in ("names", "layers") if key in options}
    with dimgx.open_image(reference, platform=PLATFORM) as found:
        wanted = ResultImage(found, **more)
        return write_images([wanted], path, form=form, **options)  # type: ignore[arg-type]


def flat(reference: str, **options: Any) -> bytes:
    """Give the flat tar of the image of a reference."""
    stream = io.BytesIO()
    with dimgx.open_image(reference, platform=PLATFORM) as found:
        dimgx.flatten(found, stream, **options)
    return stream.getvalue()


def files_of(path: Path) -> dict[str, bytes]:
    """Give the files of what was written, whichever of the two it is."""
    if path.is_dir():
        return {
            str(file.relative_to(path)): file.read_bytes()
            for file in path.rglob("*")
            if file.is_file()
        }
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            reader = archive.extractfile(member)
            assert reader is not None and member.name not in found
            found[member.name] = reader.read()
    return found


def manifest_of(path: Path) -> Any:
    """Give the one manifest of an OCI layout or a `dir:`."""
    files = files_of(path)
    if "manifest.json" in files:
        return json.loads(files["manifest.json"])
    entries = json.loads(files["index.json"])["manifests"]
    (digest,) = {entry["digest"] for entry in entries}
    return json.loads(files["blobs/" + digest.replace(":", "/")])


def config_of(reference: str) -> Any:
    """Give the config of an image as its source reads it."""
    with dimgx.open_image(reference, platform=PLATFORM) as found:
        assert found.config is not None
        return json.loads(found.config.data)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def left(directory: Path) -> list[str]:
    """Give the names of all there is below a directory."""
    return sorted(
        os.path.relpath(os.path.join(where, name), directory)
        for where, names, others in os.walk(directory)
        for name in names + others
    )
