"""The rows of the benchmark: an image, what dimgx is held against there, and the aims.

Aims are for two cores and hot memory; those of `--verify once` are for CPUs with instructions for
SHA-256.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """dimgx with `--verify none` and `once` against the least that the work can cost."""

    id: str
    title: str
    shape: str
    variant: str
    against: str
    """cp, igzip or zstd."""
    aim: float
    aim_verified: float
    stretch: float
    options: tuple[str, ...] = ()
    """Of dimgx."""


UNSYNCED = ("--no-sync",)

SPEED = (
    SpeedRow("ordinary", "ordinary image, plain", "ordinary", "plain", "cp", 1.7, 1.9, 1.3),
    SpeedRow("ordinary-gzip", "ordinary image, gzip", "ordinary", "gzip", "igzip", 1.4, 1.5, 1.1),
    SpeedRow("ordinary-zstd", "ordinary image, zstd", "ordinary", "zstd", "zstd", 1.5, 1.6, 1.2),
    SpeedRow("many", "many small members, plain", "many", "plain", "cp", 3, 3.3, 2),
    SpeedRow("many-gzip", "many small members, gzip", "many", "gzip", "igzip", 2, 2.2, 1.5),
    SpeedRow("many-dot", "many small members, names with ./", "many", "dot", "cp", 6, 6.3, 4),
    SpeedRow("million", "a million members, plain", "million", "plain", "cp", 6, 6.3, 3),
    SpeedRow("large", "few large files, plain", "large", "plain", "cp", 1.3, 1.5, 1.1),
    # cp does not wait for the disk either.
    SpeedRow("ordinary-unsynced", "ordinary image, plain, --no-sync", "ordinary", "plain", "cp",
             1.7, 1.9, 1.3, UNSYNCED),
    SpeedRow("many-unsynced", "many small members, plain, --no-sync", "many", "plain", "cp",
             3, 3.3, 2, UNSYNCED),
    SpeedRow("large-unsynced", "few large files, plain, --no-sync", "large", "plain", "cp",
             1.3, 1.5, 1.1, UNSYNCED),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OneCpuRow:
    """The same where there is but one CPU, as in many a container."""

    id: str
    title: str
    shape: str
    variant: str
    against: str


ONE_CPU = (
    OneCpuRow("one-cpu-plain", "ordinary image, plain", "ordinary", "plain", "cp"),
    OneCpuRow("one-cpu-gzip", "ordinary image, gzip", "ordinary", "gzip", "igzip"),
)


@dataclass(frozen=True, slots=True)
class PeerRow:
    """dimgx as people use it against the other tools on PATH."""

    id: str
    title: str
    shape: str
    variant: str
    aim: float
    """How many times as fast as the fastest of them."""


PEERS = (
    PeerRow("peers-ordinary", "ordinary image, plain", "ordinary", "plain", 2.5),
    PeerRow("peers-ordinary-gzip", "ordinary image, gzip", "ordinary", "gzip", 6),
    PeerRow("peers-many", "many small members, plain", "many", "plain", 8),
)


@dataclass(frozen=True, slots=True)
class EncodeRow:
    """Compressed output against a plain run and the tool that only compresses."""

    id: str
    title: str
    option: str
    output: str
    tool: str
    aim: float = 1.1
    stretch: float = 1.0


ENCODE = (
    EncodeRow("gzip-out", "ordinary image to .tar.gz", "-z", "flat.tar.gz", "igzip"),
    EncodeRow("zstd-out", "ordinary image to .tar.zst", "--zstd", "flat.tar.zst", "zstd"),
)


@dataclass(frozen=True, slots=True)
class RegistryRow:
    """An image from a registry on this machine against curl with a decoder."""

    id: str
    title: str
    shape: str
    variant: str
    aim: float
    aim_verified: float


REGISTRY = (
    RegistryRow("registry", "ordinary image, gzip, docker://", "ordinary", "gzip", 1.4, 1.5),
)


@dataclass(frozen=True, slots=True)
class EngineRow:
    """An image from the Docker Engine against its own export."""

    id: str
    title: str
    shape: str
    variant: str


ENGINE = (EngineRow("engine", "ordinary image at the Docker Engine", "ordinary", "plain"),)

LAYERS_AIM_S = 0.15
"""127 layers: what may be added to `cp`."""
START_AIM_S = 0.06
"""`dimgx --version`: what may be added to `python -c pass`."""
SMALL_AIM_S = 0.15
"""An image of 10 MB, all told."""
SCALING_AIM = 1.7
"""Two threads: how many times as fast as one, on gzip layers of similar sizes."""
GROWTH_AIM = 1.3
"""The last further unit of a series, in times of the cheapest before it."""

MEMORY_BASE = 60_000_000
MEMORY_PER_MEMBER = 700
MEMORY_OPTION = 256 << 20
"""What `--memory` says in the memory rows, in bytes."""

MEMORY = (
    ("ordinary", "plain"),
    ("ordinary", "gzip"),
    ("ordinary", "zstd"),
    ("many", "plain"),
    ("many", "gzip"),
    ("many", "dot"),
    ("million", "plain"),
    ("large", "plain"),
    ("deep", "plain"),
    ("whiteouts", "plain"),
)
HUGE = ((2 << 30, "plain"), (20 << 30, "plain"), (2 << 30, "gzip"), (20 << 30, "gzip"))
"""Only where they are asked for: the last takes 20 GB on disk while it runs."""


@dataclass(frozen=True, slots=True)
class Series:
    """Images of one kind and growing size, whose cost for each unit should stay the same."""

    id: str
    title: str
    unit: str
    images: tuple[str, ...]
    """Shapes, with a colon before the variant if it is not plain."""
    is_growing: bool = True
    """Each image is a larger one of the same kind."""
    aim: float | None = GROWTH_AIM


GROWTH = (
    Series("paths", "time for each member", "member", ("grow10k", "grow100k", "million")),
    Series(
        "layers",
        "time for each layer of 2,000",
        "layer",
        ("stack1", "stack16", "stack64", "stack127"),
    ),
    Series("odd", "deep trees, whiteouts", "member", ("grow100k", "deep", "whiteouts"), False),
    Series(
        "spellings",
        "long names, spelled as tools do",
        "member",
        ("deep", "deep:gnu", "deep:posix", "deep:bsdtar"),
        False,
        None,
    ),
)
