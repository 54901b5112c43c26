"""Makes the layers of an image from a seed: packages installed, upgraded and removed.

A layer lies in the order of a walk, as engines write them, with an entry for each directory on the
way. A package is a directory of files; upper layers bring new packages, write others anew (whole,
in part, or under an opaque whiteout) and white some out, so that what survives of a layer is runs
of neighbours of some length, as in real images.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.tarbytes import Entry, walk_key

PLACES = (
    b"usr/lib/python3/dist-packages",
    b"usr/share/doc",
    b"usr/lib/x86_64-linux-gnu",
    b"opt/app/node_modules",
    b"opt/app/vendor/bundle/ruby/gems",
    b"var/lib/service/data",
    b"usr/share/icons/hicolor/scalable",
)
SUFFIXES = (b".py", b".js", b".so", b".h", b".json", b".txt", b".mo", b"")
SYLLABLES = (
    "ba", "co", "di", "fu", "ga", "he", "jo", "ka", "li", "mu",
    "ne", "pa", "qui", "ro", "sa", "ti", "va", "we", "xy", "zo",
)  # fmt: skip
EPOCH = 1_600_000_000
POOL = 48 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """What an image is to look like; the same shape and Python always give the same bytes."""

    name: str
    members: int
    plain: int
    """Bytes of all layers, about."""
    layers: int = 5
    per_package: int = 30
    spread: float = 1.2
    """Sigma of the logarithm of file sizes; 0 for sizes all alike."""
    pax: float = 0.02
    """Share of members with an extended header."""
    depth: int = 0
    """Directories to put around each package."""
    kind: str = "packages"
    """packages, large (few files, no packages), even (layers alike) or whiteouts."""
    seed: int = 20140609


class Pool:
    """Bytes to cut contents from: text of Python's library with pieces that do not compress."""

    def __init__(self, size: int, seed: int) -> None:
        rng = random.Random(seed)
        library = Path(sysconfig.get_paths()["stdlib"])
        text = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))
        parts: list[bytes] = []
        made = 0
        while made < size:
            start = rng.randrange(len(text) - 24_000)
            parts.append(text[start : start + rng.randrange(2_000, 24_000)])
            parts.append(rng.randbytes(rng.randrange(500, 5_000)))
            made += len(parts[-1]) + len(parts[-2])
        self.bytes = b"".join(parts)

    def cut(self, rng: random.Random, size: int) -> bytes:
        """Give `size` bytes from somewhere, as many pieces as that takes."""
        room = len(self.bytes) - size
        if room > 0:
            start = rng.randrange(room)
            return self.bytes[start : start + size]
        start = rng.randrange(len(self.bytes))
        return (self.bytes[start:] + self.bytes * (size // len(self.bytes) + 1))[:size]


@dataclass(slots=True)
class Package:
    """A directory of files."""

    root: bytes
    files: list[bytes] = field(default_factory=list)


class Builder:
    """Makes one image's layers, one after the other."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.rng = random.Random(shape.seed)
        self.pool = Pool(min(POOL, 2 * shape.plain + (1 << 20)), shape.seed)
        self.packages: list[Package] = []
        self.serial = 0
        self.entries: dict[bytes, Entry] = {}
        each = shape.plain / shape.members
        self.mean = max(16.0, (each - 512 - 1024 * shape.pax) / 0.92 - 256)

    def layers(self) -> Iterator[list[Entry]]:
        """Yield each layer's entries, base to top."""
        make = {
            "packages": self._package_layer,
            "large": self._large_layer,
            "even": self._even_layer,
            "whiteouts": self._whiteout_layer,
        }[self.shape.kind]
        for number in range(self.shape.layers):
            self.entries = {}
            make(number)
            yield sorted(self.entries.values(), key=lambda entry: walk_key(entry.path))

    # -- kinds of layers ----------------------------------------------------------------------

    def _package_layer(self, number: int) -> None:
        count = self.shape.layers
        base_share = 1.0 if count == 1 else max(0.36, 1 / count) if count < 20 else 1 / count
        share = base_share if number == 0 else (1 - base_share) / (count - 1)
        quota = int(self.shape.members * share)
        if number:
            # Much of an upper layer changes what is there; of many small ones, most add.
            few = count < 20
            for package in self.rng.sample(self.packages, len(self.packages)):
                if len(self.entries) >= quota * (0.42 if few else 0.15):
                    break
                self._change(package)
            for _ in range(max(int(few), quota // (self.shape.per_package * 25))):
                if self.packages:
                    self._remove(self.packages.pop(self.rng.randrange(len(self.packages))))
        fresh = []
        while len(self.entries) < quota:
            fresh.append(self._install(quota - len(self.entries)))
        self.packages += fresh

    def _large_layer(self, number: int) -> None:
        size = self.shape.plain // self.shape.members
        for index in range(self.shape.members // self.shape.layers):
            # The first file of each layer is written anew in the next.
            name = b"0" if index == 0 else b"%d-%d" % (number, index)
            self._add_file(b"data/blobs/" + name, self.pool.cut(self.rng, size - 512))

    def _even_layer(self, number: int) -> None:
        quota = self.shape.members // self.shape.layers
        while len(self.entries) < quota:
            self._install(quota - len(self.entries))

    def _whiteout_layer(self, number: int) -> None:
        half = self.shape.members // 2
        for index in range(half):
            directory = b"srv/cache/%03x" % (index // 100)
            name = b"%05d" % index
            if number == 0:
                self._add_file(directory + b"/" + name, b"")
            elif index % 50:
                self._add_file(directory + b"/.wh." + name, b"")

    # -- packages ------------------------------------------------------------------------------

    def _word(self) -> bytes:
        pick = self.rng.choice
        return (pick(SYLLABLES) + pick(SYLLABLES) + pick(SYLLABLES)).encode()

    def _install(self, room: int) -> Package:
        rng = self.rng
        self.serial += 1
        place = PLACES[rng.randrange(len(PLACES))]
        deep = b"".join(b"/%02d" % ((self.serial >> n) % 4) for n in range(self.shape.depth))
        package = Package(b"%b%b/%b-%d" % (place, deep, self._word(), self.serial))
        subs = [b""] * 3 + [self._word() + b"/" for _ in range(rng.randrange(3))]
        for index in range(max(1, min(room, rng.randrange(2, 2 * self.shape.per_package)))):
            name = b"%b%b%d%b" % (
                subs[rng.randrange(len(subs))], self._word(), index,
                SUFFIXES[rng.randrange(len(SUFFIXES))],
            )  # fmt: skip
            self._add_member(package, name)
        return package

    def _add_member(self, package: Package, name: bytes) -> None:
        rng = self.rng
        path = package.root + b"/" + name
        chance = rng.random()
        if chance < 0.04 and package.files:
            self._add_parents(path)
            target = rng.choice(package.files).rpartition(b"/")[2]
            self.entries[path] = Entry("l", path, 0o777, 0, 0, self._time(), target=target)
        elif chance < 0.045 and self._link(package, path):
            pass
        else:
            self._add_file(path, self.pool.cut(rng, self._size()))
        package.files.append(name)

    def _link(self, package: Package, path: bytes) -> bool:
        """Make a hard link to a file of the package that comes before it in the walk."""
        first = package.root + b"/" + package.files[0] if package.files else b""
        old = self.entries.get(first)
        if old is None or old.kind != "f" or old.xattrs or old.fraction:
            return False
        if walk_key(first) > walk_key(path):
            return False
        self._add_parents(path)
        self.entries[path] = Entry("h", path, old.mode, old.uid, old.gid, old.mtime, target=first)
        return True

    def _change(self, package: Package) -> None:
        rng = self.rng
        how = rng.random()
        if how < 0.04:
            self._add_file(package.root + b"/.wh..wh..opq", b"")
        kept = []
        for name in package.files:
            path = package.root + b"/" + name
            chance = rng.random() if 0.04 <= how < 0.4 else 0.0
            if chance < 0.7:
                self._add_file(path, self.pool.cut(rng, self._size()))
                kept.append(name)
            elif chance < 0.8:
                parent, _, base = path.rpartition(b"/")
                self._add_file(parent + b"/.wh." + base, b"")
            else:
                kept.append(name)
        package.files = kept

    def _remove(self, package: Package) -> None:
        if package.root not in self.entries:
            parent, _, base = package.root.rpartition(b"/")
            self._add_file(parent + b"/.wh." + base, b"")

    # -- entries -------------------------------------------------------------------------------

    def _time(self) -> int:
        return EPOCH + self.rng.randrange(100_000_000)

    def _size(self) -> int:
        spread = self.shape.spread
        if not spread:
            return self.rng.randrange(int(2 * self.mean))
        drawn = self.rng.lognormvariate(0, spread) / 2.718281828 ** (spread * spread / 2)
        return min(int(self.mean * drawn), 64 << 20)

    def _add_parents(self, path: bytes) -> None:
        parent = path.rpartition(b"/")[0]
        while parent and parent not in self.entries:
            self.entries[parent] = Entry("d", parent, 0o755, 0, 0, self._time())
            parent = parent.rpartition(b"/")[0]

    def _add_file(self, path: bytes, data: bytes) -> None:
        rng = self.rng
        self._add_parents(path)
        mode, owner, fraction = 0o644, 0, b""
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        chance = rng.random()
        if chance < self.shape.pax and data:
            if chance < self.shape.pax * 0.1:
                xattrs = ((b"security.capability", bytes.fromhex("0100000200040000" + "00" * 12)),)
            else:
                fraction = b"%09d" % rng.randrange(1, 10**9)
        elif chance > 0.85:
            mode = 0o755
        elif chance > 0.83:
            owner = 1000
        self.entries[path] = Entry(
            "f", path, mode, owner, owner, self._time(), data, xattrs=xattrs, fraction=fraction
        )
