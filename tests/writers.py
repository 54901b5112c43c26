"""Writes images in every form that can lie on a disk, odd ones included.

An image here is a `Picture`: layers as plain tars, base to top, and a config made from them. A
writer decides the form: `docker_archive` (the vintages of `docker save`), `docker_archive_v1`
(before 1.10), `oci_layout`, `oci_archive`, `dir_image`. Archives are given as bytes.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import zstandard

from tests.dsl import Member, dir_, file, layer, symlink

Compression = Literal["gzip", "bzip2", "xz", "zstd"]
Vintage = Literal["1.10", "digest.tar", "25", "29"]
Json = dict[str, Any]

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
_SUFFIX = {None: "", "gzip": "+gzip", "zstd": "+zstd", "bzip2": "+bzip2", "xz": "+xz"}


def compress(data: bytes, compression: Compression | None) -> bytes:
    """Give the data compressed, the same bytes each time."""
    if compression is None:
        return data
    if compression == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if compression == "bzip2":
        return bz2.compress(data)
    if compression == "xz":
        return lzma.compress(data)
    return zstandard.compress(data)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Picture:
    """What an image is made of, whatever form it is then written in."""

    layers: Sequence[bytes]
    """Plain tars, base to top."""
    tags: Sequence[str] = ()
    os: str | None = "linux"
    architecture: str | None = "amd64"
    variant: str | None = None
    compression: Compression | Sequence[Compression | None] | None = None
    history: Sequence[Json] | None = None
    """None: one step for each layer."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Laid over the config; a value of None takes a key away."""

    def blobs(self, default: Compression | None = None) -> list[bytes]:
        """Give the layers as stored."""
        kinds = self.compression
        if kinds is None or isinstance(kinds, str):
            kinds = [kinds or default] * len(self.layers)
        return [compress(data, kind) for data, kind in zip(self.layers, kinds, strict=True)]

    def media_suffixes(self, default: Compression | None = None) -> list[str]:
        kinds = self.compression
        if kinds is None or isinstance(kinds, str):
            kinds = [kinds or default] * len(self.layers)
        return [_SUFFIX[kind] for kind in kinds]

    def diff_ids(self) -> list[str]:
        return ["sha256:" + sha256(data) for data in self.layers]

    def config_json(self) -> bytes:
        history = self.history
        if history is None:
            history = [
                {"created": f"2024-01-0{1 + k % 9}T00:00:00Z", "created_by": f"step {k}"}
                for k in range(len(self.layers))
            ]
        value: Json = {
            "os": self.os,
            "architecture": self.architecture,
            "variant": self.variant,
            "created": "2024-01-01T00:00:00Z",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids()},
            "history": list(history),
        }
        value |= self.config
        return to_json({key: item for key, item in value.items() if item is not None})

    def id(self) -> str:
        return sha256(self.config_json())

    def platform(self) -> Json:
        value = {"architecture": self.architecture, "os": self.os, "variant": self.variant}
        return {key: item for key, item in value.items() if item is not None}


def image(*layers: bytes, tags: Sequence[str] = ("example/app:1.0",), **more: Any) -> Picture:
    """Give the image of some layers, base to top."""
    return Picture(layers, tags, **more)


def archive(members: Sequence[Member], compression: Compression | None = None) -> bytes:
    """Give the members as an archive file, compressed as a whole if so wished."""
    return compress(layer(*members), compression)


def renamed(members: Sequence[Member], rename: Callable[[bytes], bytes]) -> list[Member]:
    """Give the members with their names changed, as in `./x` or `/x`."""
    return [member.but(name=rename(member.name)) for member in members]


# -- docker-archive -----------------------------------------------------------------------------


def docker_members(
    *pictures: Picture,
    vintage: Vintage = "1.10",
    links: bool = True,
    manifest_last: bool = True,
    lower_keys: bool = False,
    index: bool = True,
    prefix: str = "",
) -> list[Member]:
    """Give the members of an archive as `docker save` (or skopeo) of a vintage writes it.

    `links`: a layer that comes again is a symlink to its first place. `prefix` stands before the
    paths inside manifest.json (not before the members' names: see `renamed`).
    """
    if vintage in ("25", "29"):
        return _docker25_members(pictures, vintage, manifest_last, lower_keys, index, prefix)
    members: list[Member] = []
    manifest: list[Json] = []
    seen: dict[str, str] = {}
    repositories: dict[str, dict[str, str]] = {}
    for number, picture in enumerate(pictures):
        paths = []
        for position, (data, blob) in enumerate(zip(picture.layers, picture.blobs(), strict=True)):
            digest = sha256(data)
            if vintage == "digest.tar":
                path = f"{digest}.tar"
                if path not in seen.values():
                    members.append(file(path, blob))
                    seen[path] = path
                paths.append(path)
                continue
            step = sha256(f"{number} {position} {picture.id()}".encode())
            path = f"{step}/layer.tar"
            parent = {"parent": paths[-1].split("/")[0]} if paths else {}
            step_json = {"id": step, **parent, "os": "linux", "created": "2024-01-01T00:00:00Z"}
            members += [
                dir_(step),
                file(f"{step}/VERSION", b"1.0"),
                file(f"{step}/json", to_json(step_json)),
            ]
            if links and digest in seen:
                members.append(symlink(path, "../" + seen[digest]))
            else:
                members.append(file(path, blob))
                seen[digest] = path
            paths.append(path)
        config_name = f"{picture.id()}.json"
        members.append(file(config_name, picture.config_json()))
        entry = {
            "Config": prefix + config_name,
            "RepoTags": list(picture.tags) or None,
            "Layers": [prefix + path for path in paths],
        }
        manifest.append(
            {key.lower(): value for key, value in entry.items()} if lower_keys else entry
        )
        for tag in picture.tags:
            name, _, word = tag.rpartition(":")
            repositories.setdefault(name, {})[word] = paths[-1].split("/")[0] if paths else ""
    described = file("manifest.json", to_json(manifest))
    members = [*members, described] if manifest_last else [described, *members]
    if vintage == "1.10" and repositories:
        members.append(file("repositories", to_json(repositories)))
    return members


def _docker25_members(
    pictures: Sequence[Picture],
    vintage: Vintage,
    manifest_last: bool,
    lower_keys: bool,
    index: bool,
    prefix: str,
) -> list[Member]:
    default: Compression | None = "gzip" if vintage == "29" else None
    blobs: dict[str, bytes] = {}
    manifest: list[Json] = []
    listed: list[Json] = []
    for picture in pictures:
        descriptor = add_image(blobs, picture, default)
        if vintage == "29":
            nested = to_json(
                {
                    "schemaVersion": 2,
                    "mediaType": f"{OCI}.index.v1+json",
                    "manifests": [descriptor | {"platform": picture.platform()}],
                }
            )
            descriptor = add_blob(blobs, nested, f"{OCI}.index.v1+json")
        tags = list(picture.tags)
        for tag in tags or [None]:
            notes = {}
            if tag is not None:
                notes = {
                    "io.containerd.image.name": "docker.io/" + tag,
                    "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
                }
            listed.append(descriptor | ({"annotations": notes} if notes else {}))
        entry = {
            "Config": f"{prefix}blobs/sha256/{picture.id()}",
            "RepoTags": tags or None,
            "Layers": [f"{prefix}blobs/sha256/{sha256(blob)}" for blob in picture.blobs(default)],
        }
        manifest.append(
            {key.lower(): value for key, value in entry.items()} if lower_keys else entry
        )
    members = [dir_("blobs"), dir_("blobs/sha256")]
    members += [file(f"blobs/sha256/{digest}", data) for digest, data in blobs.items()]
    if index:
        value = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": listed}
        members.append(file("index.json", to_json(value)))
    described = file("manifest.json", to_json(manifest))
    members = [*members, described] if manifest_last else [described, *members]
    if index:
        members.append(file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'))
    return members


def docker_archive(
    *pictures: Picture, archive_compression: Compression | None = None, **options: Any
) -> bytes:
    """Give a docker-archive; `options` are those of `docker_members`."""
    return archive(docker_members(*pictures, **options), archive_compression)


def v1_members(
    *pictures: Picture, repositories: bool = True, directories: bool = True, version: bool = True
) -> list[Member]:
    """Give the members of an archive from before Docker 1.10: a chain of parents, no manifest."""
    members: list[Member] = []
    named: dict[str, dict[str, str]] = {}
    for number, picture in enumerate(pictures):
        parent = ""
        chain: list[list[Member]] = []
        for position, blob in enumerate(picture.blobs()):
            step = sha256(f"v1 {number} {position} {picture.id()}".encode())
            described = {
                "id": step,
                "created": f"2014-01-0{1 + position % 9}T00:00:00Z",
                "container_config": {"Cmd": ["/bin/sh", "-c", f"step {position}"]},
                "os": picture.os,
                "architecture": picture.architecture,
            }
            if parent:
                described["parent"] = parent
            chain.append(
                ([dir_(step)] if directories else [])
                + ([file(f"{step}/VERSION", b"1.0")] if version else [])
                + [file(f"{step}/json", to_json(described)), file(f"{step}/layer.tar", blob)]
            )
            parent = step
        # The order of the members says nothing: the newest first, as docker save had it.
        for some in reversed(chain):
            members += some
        for tag in picture.tags:
            name, _, word = tag.rpartition(":")
            named.setdefault(name, {})[word] = parent
    if repositories:
        members.append(file("repositories", to_json(named)))
    return members


def docker_archive_v1(
    *pictures: Picture, archive_compression: Compression | None = None, **options: Any
) -> bytes:
    """Give an archive from before Docker 1.10; `options` are those of `v1_members`."""
    return archive(v1_members(*pictures, **options), archive_compression)


# -- OCI ----------------------------------------------------------------------------------------


def add_blob(blobs: dict[str, bytes], data: bytes, media_type: str) -> Json:
    """Store a blob and give its descriptor."""
    digest = sha256(data)
    blobs[digest] = data
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def add_image(
    blobs: dict[str, bytes],
    picture: Picture,
    default: Compression | None = None,
    *,
    docker_types: bool = False,
    media_types: Sequence[str | None] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Json:
    """Store an image's config, layers and manifest; give the manifest's descriptor."""
    config_type = f"{DOCKER}.container.image.v1+json" if docker_types else f"{OCI}.config.v1+json"
    manifest_type = (
        f"{DOCKER}.distribution.manifest.v2+json" if docker_types else f"{OCI}.manifest.v1+json"
    )
    layers = []
    for position, blob in enumerate(picture.blobs(default)):
        kind = f"{OCI}.layer.v1.tar{picture.media_suffixes(default)[position]}"
        if docker_types:
            kind = f"{DOCKER}.image.rootfs.diff.tar.gzip"
        if media_types is not None and media_types[position] is not None:
            kind = str(media_types[position])
        layers.append(add_blob(blobs, blob, kind))
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": add_blob(blobs, picture.config_json(), config_type),
        "layers": layers,
    } | dict(changes or {})
    return add_blob(blobs, to_json(manifest), manifest_type)


def oci_files(
    *pictures: Picture,
    nested: bool = False,
    platforms: bool = True,
    extra: Sequence[Json] = (),
    extra_blobs: Mapping[str, bytes] | None = None,
    version: str | None = "1.0.0",
    default: Compression | None = "gzip",
    **options: Any,
) -> dict[str, bytes]:
    """Give the files of an OCI layout by their paths.

    `extra`: more descriptors for index.json, before the images. `options` are `add_image`'s.
    """
    blobs: dict[str, bytes] = dict(extra_blobs or {})
    listed: list[Json] = list(extra)
    for picture in pictures:
        descriptor = add_image(blobs, picture, default, **options)
        if platforms:
            descriptor |= {"platform": picture.platform()}
        for tag in picture.tags or [None]:
            notes = {"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {}
            listed.append(descriptor | notes)
    index = {"schemaVersion": 2, "manifests": listed}
    if nested:
        inner = to_json(index | {"mediaType": f"{OCI}.index.v1+json"})
        outer = add_blob(blobs, inner, f"{OCI}.index.v1+json")
        index = {"schemaVersion": 2, "manifests": [outer]}
    files = {f"blobs/sha256/{digest}": data for digest, data in blobs.items()}
    files["index.json"] = to_json(index)
    if version is not None:
        files["oci-layout"] = to_json({"imageLayoutVersion": version})
    return files


def write_files(directory: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def oci_layout(directory: Path, *pictures: Picture, **options: Any) -> Path:
    """Write an OCI layout directory; `options` are those of `oci_files`."""
    return write_files(directory, oci_files(*pictures, **options))


def oci_archive(
    *pictures: Picture, archive_compression: Compression | None = None, **options: Any
) -> bytes:
    """Give an oci-archive; `options` are those of `oci_files`."""
    files = oci_files(*pictures, **options)
    members = [dir_("blobs"), dir_("blobs/sha256")]
    members += [file(name, data) for name, data in files.items()]
    return archive(members, archive_compression)


def dir_image(
    directory: Path,
    picture: Picture,
    *,
    docker_types: bool = False,
    version: bool = True,
    default: Compression | None = "gzip",
) -> Path:
    """Write skopeo's `dir:` form: blobs by hex digest beside manifest.json."""
    blobs: dict[str, bytes] = {}
    descriptor = add_image(blobs, picture, default, docker_types=docker_types)
    manifest = blobs.pop(descriptor["digest"].partition(":")[2])
    files = {**blobs, "manifest.json": manifest}
    if version:
        files["version"] = b"Directory Transport Version: 1.1\n"
    return write_files(directory, files)
