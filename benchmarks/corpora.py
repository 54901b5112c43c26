"""Makes the benchmark's images on disk, once, and keeps what a right answer to them is.

    WORK/SHAPE/facts.json     members, live paths, bytes
    WORK/SHAPE/listing        the merged tree by the model, a line for each path
    WORK/SHAPE/plain.tar      the image, as `docker save` of Docker 25 and later writes it
    WORK/SHAPE/plain/         the same as an OCI layout

and beside them, where they are wanted, gzip.tar, zstd.tar, dot.tar (every name begins with ./), and
gnu.tar, posix.tar, bsdtar.tar (headers spelled as other tools do).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.model import Model
from benchmarks.tarbytes import BLOCK, END, Entry, Spelling, header, write_layer
from benchmarks.trees import Builder, Shape

VERSION = 1
MB = 1_000_000
PIECE = 1 << 20
TAG = "example.com/bench:1"

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("ordinary", 40_000, 1200 * MB, per_package=65, spread=1.7, pax=0.005),
        Shape("many", 300_000, 900 * MB, per_package=30, spread=1.0, pax=0.10),
        Shape("million", 1_000_000, 1000 * MB, per_package=30, spread=0.0, pax=0.0),
        Shape("large", 42, 2000 * MB, layers=3, kind="large"),
        Shape("layers127", 20_320, 60 * MB, layers=127, spread=0.8),
        Shape("small", 1_000, 10 * MB, layers=3, spread=1.2),
        Shape("even", 16_000, 640 * MB, layers=4, kind="even", spread=1.5),
        Shape("one", 30, 1 * MB, layers=1),
        Shape("grow10k", 10_000, 10 * MB, spread=0.0, pax=0.0),
        Shape("grow100k", 100_000, 100 * MB, spread=0.0, pax=0.0),
        Shape("deep", 100_000, 80 * MB, spread=0.0, pax=0.0, depth=30),
        Shape("whiteouts", 500_000, 260 * MB, layers=2, kind="whiteouts", pax=0.0),
        Shape("stack1", 2_000, 2 * MB, layers=1, spread=0.0, pax=0.0),
        Shape("stack16", 32_000, 32 * MB, layers=16, spread=0.0, pax=0.0),
        Shape("stack64", 128_000, 128 * MB, layers=64, spread=0.0, pax=0.0),
        Shape("stack127", 254_000, 254 * MB, layers=127, spread=0.0, pax=0.0),
    )
}

SPELLED: dict[str, tuple[bytes, Spelling]] = {
    "dot": (b"./", "go"),
    "gnu": (b"", "gnu"),
    "posix": (b"", "posix"),
    "bsdtar": (b"", "bsdtar"),
}
"""What stands before names, and who spells them."""

MEDIA_TYPES = {
    "plain": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored layer."""

    digest: str
    size: int
    diff_id: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """One image on disk."""

    directory: Path
    variant: str
    """plain, gzip, zstd, dot, or a spelling."""
    shape: str
    members: int
    live: int
    plain_bytes: int

    @property
    def archive(self) -> Path:
        return self.directory / f"{self.variant}.tar"

    @property
    def layout(self) -> Path:
        return self.directory / self.variant

    @property
    def listing(self) -> Path:
        return self.directory / "listing"

    def layers(self) -> list[Path]:
        """Give the stored layers as files, base to top; they are there if the layout is."""
        manifests = json.loads((self.layout / "index.json").read_bytes())["manifests"]
        manifest = json.loads(blob_path(self.layout, manifests[0]["digest"]).read_bytes())
        return [blob_path(self.layout, layer["digest"]) for layer in manifest["layers"]]


def blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def scaled(shape: Shape, scale: float) -> Shape:
    """Give a smaller image of the same kind."""
    if scale == 1:
        return shape
    least = shape.layers * (2 if shape.kind == "large" else 12)
    members = max(least, int(shape.members * scale)) if shape.kind != "large" else least
    return replace(shape, members=members, plain=max(40_000, int(shape.plain * scale)))


def ensure(work: Path, name: str, variant: str, *, scale: float) -> Corpus:
    """Give an image, made now unless it is there."""
    shape = scaled(SHAPES[name], scale)
    directory = work / (name if scale == 1 else f"{name}-{scale:g}")
    stamp = {"version": VERSION, "shape": asdict(shape), "python": sys.version_info[:2]}
    facts = _read_facts(directory, stamp)
    if facts is None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        facts = {"stamp": stamp, **_make_plain(directory, shape)}
        (directory / "facts.json").write_text(json.dumps(facts))
    if not (directory / f"{variant}.tar").exists():
        if variant in SPELLED:
            _make_spelled(directory, shape, variant)
        elif variant == "plain":
            write_archive(directory / "plain", directory / "plain.tar")
        else:
            _compress(directory, variant)
    return Corpus(directory, variant, name, facts["members"], facts["live"], facts["plain"])


def _read_facts(directory: Path, stamp: dict[str, Any]) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = json.loads((directory / "facts.json").read_text())
    except (OSError, ValueError):
        return None
    return facts if facts["stamp"] == json.loads(json.dumps(stamp)) else None


def _make_plain(directory: Path, shape: Shape) -> dict[str, int]:
    model = Model()
    members = plain = 0
    blobs = []
    with LayoutWriter(directory / "plain") as layout:
        for entries in Builder(shape).layers():
            blobs.append(layout.add_layer(entries))
            members += len(entries)
            plain += blobs[-1].size
            model.apply(entries)
        layout.finish(blobs, "plain")
    lines = model.lines()
    (directory / "listing").write_bytes(b"".join(line + b"\n" for line in lines))
    return {"members": members, "live": len(lines), "plain": plain}


def _make_spelled(directory: Path, shape: Shape, variant: str) -> None:
    """Make the same image with other headers."""
    with LayoutWriter(directory / variant) as layout:
        blobs = [
            layout.add_layer(entries, *SPELLED[variant]) for entries in Builder(shape).layers()
        ]
        layout.finish(blobs, "plain")
    write_archive(directory / variant, directory / f"{variant}.tar")


def _compress(directory: Path, variant: str) -> None:
    """Make the compressed twin of the plain layout, two layers at a time."""
    plain = Corpus(directory, "plain", "", 0, 0, 0)
    with LayoutWriter(directory / variant) as layout, ThreadPoolExecutor(2) as pool:
        sources = plain.layers()
        blobs = list(pool.map(lambda source: layout.add_compressed(source, variant), sources))
        layout.finish(blobs, variant)
    write_archive(directory / variant, directory / f"{variant}.tar")


class LayoutWriter:
    """Writes an OCI layout that Docker 25's manifest.json stands in as well."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = directory / "blobs" / "sha256"

    def __enter__(self) -> LayoutWriter:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.blobs.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        for left in self.blobs.glob("tmp-*"):
            left.unlink()

    def add_layer(
        self, entries: Sequence[Entry], prefix: bytes = b"", spelling: Spelling = "go"
    ) -> Blob:
        """Store a plain layer."""
        path = self.blobs / "tmp-layer"
        with path.open("wb", buffering=0) as file:
            written = write_layer(entries, file.write, prefix, spelling)
        path.rename(self.blobs / written.digest)
        return Blob(written.digest, written.size, written.digest)

    def add_compressed(self, source: Path, variant: str) -> Blob:
        """Store a plain layer's compressed twin."""
        path = self.blobs / f"tmp-{source.name}"
        digest = hashlib.sha256()
        with path.open("wb", buffering=0) as file:
            for piece in compressed(source, variant):
                digest.update(piece)
                file.write(piece)
        path.rename(self.blobs / digest.hexdigest())
        size = (self.blobs / digest.hexdigest()).stat().st_size
        return Blob(digest.hexdigest(), size, source.name)

    def add_json(self, value: object, media_type: str) -> dict[str, Any]:
        data = json.dumps(value, separators=(",", ":")).encode()
        name = hashlib.sha256(data).hexdigest()
        (self.blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    def finish(self, blobs: Sequence[Blob], variant: str) -> None:
        """Write what names the layers."""
        created = "2024-01-01T00:00:00Z"
        config = self.add_json(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": created,
                "config": {"Cmd": ["/bin/sh"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{b.diff_id}" for b in blobs]},
                "history": [{"created": created, "created_by": "bench"} for _ in blobs],
            },
            "application/vnd.oci.image.config.v1+json",
        )
        layers = [
            {"mediaType": MEDIA_TYPES[variant], "digest": f"sha256:{b.digest}", "size": b.size}
            for b in blobs
        ]
        media_type = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}
        descriptor = self.add_json(manifest, media_type)
        descriptor["annotations"] = {
            "io.containerd.image.name": TAG,
            "org.opencontainers.image.ref.name": "1",
        }
        files = {
            "oci-layout": {"imageLayoutVersion": "1.0.0"},
            "index.json": {"schemaVersion": 2, "manifests": [descriptor]},
            "manifest.json": [
                {
                    "Config": f"blobs/sha256/{config['digest'][7:]}",
                    "RepoTags": [TAG],
                    "Layers": [f"blobs/sha256/{b.digest}" for b in blobs],
                }
            ],
        }
        for name, value in files.items():
            (self.directory / name).write_text(json.dumps(value, separators=(",", ":")))


def compressed(source: Path, variant: str) -> Iterator[bytes]:
    """Yield a file's bytes compressed, as registries' layers are: gzip -6, zstd -3."""
    if variant == "gzip":
        import zlib

        encoder: Any = zlib.compressobj(6, zlib.DEFLATED, 31)
    else:
        import zstandard

        encoder = zstandard.ZstdCompressor(level=3).compressobj()
    with source.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            yield encoder.compress(piece)
    yield encoder.flush()


def write_archive(layout: Path, archive: Path) -> None:
    """Put a layout into a tar, as `docker save` does: blobs first, manifest.json near the end."""
    part = archive.with_suffix(".part")
    blobs = sorted((layout / "blobs" / "sha256").iterdir())
    files = [*blobs, *(layout / name for name in ("index.json", "manifest.json", "oci-layout"))]
    with part.open("wb", buffering=0) as out:
        for name in (b"blobs/", b"blobs/sha256/"):
            out.write(header(name, 0o755, 0, 0, 0, 0, b"5"))
        for path in files:
            name = os.fsencode(path.relative_to(layout))
            size = path.stat().st_size
            out.write(header(name, 0o644, 0, 0, size, 0, b"0"))
            with path.open("rb", buffering=0) as file:
                while piece := file.read(PIECE):
                    out.write(piece)
            out.write(bytes(-size % BLOCK))
        out.write(END)
    part.rename(archive)
