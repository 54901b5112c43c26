"""Platforms: `os/arch[/variant]`, their spellings, and which fits which.

Spec: image-spec image-index.md, "platform"; the spellings are those that containerd knows.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from dimgx.errors import UsageError

ALL_PLATFORMS = ("all",)
"""What stands for all that an image is there for, where several can be wanted."""
_SPELLINGS: dict[str, tuple[str, str | None]] = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "x64": ("amd64", None),
    "aarch64": ("arm64", None),
    "aarch64_be": ("arm64be", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
    "i386": ("386", None),
    "i486": ("386", None),
    "i586": ("386", None),
    "i686": ("386", None),
    "x86": ("386", None),
    "ppc64el": ("ppc64le", None),
    "mipsel": ("mipsle", None),
    "mips64el": ("mips64le", None),
    "loongarch64": ("loong64", None),
}
_ARCHITECTURES = frozenset(
    ("386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64")
) | {"ppc64le", "riscv64", "s390x", "wasm"}
_SYSTEMS = {"macos": "darwin"}
_SYSTEM_NAMES = frozenset(
    ("aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "netbsd")
) | {"openbsd", "plan9", "solaris", "wasip1", "windows", "zos"}
# What says nothing beyond the architecture itself.
_PLAIN_VARIANTS = {("amd64", "v1"), ("arm64", "v8")}
# Without a variant asked for, these are taken in this order.
_ARM_ORDER: tuple[str | None, ...] = ("v7", None, "v6", "v5")
_LEVEL = re.compile(r"v([0-9]{1,4})")
_WORD = re.compile(r"[A-Za-z0-9_.-]+")


class Platform(NamedTuple):
    """What an image runs on, in normal form: make it with `normal_platform` or `parse_platform`."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def rank(self, offered: Platform) -> int | None:
        """Tell how well `offered` meets this wish: 0 is best, None is not at all.

        A variant that was asked for is met best by itself, then by the highest of those below it
        (`v6` runs where `v7` does), then by an image that names none. Without one, the most common
        variant comes first.
        """
        if (self.os, self.architecture) != (offered.os, offered.architecture):
            return None
        if self.variant == offered.variant is not None:
            return 0
        if self.variant is not None:
            return _steps_down(self.variant, offered.variant)
        order = _ARM_ORDER if self.architecture == "arm" else (None,)
        if offered.variant in order:
            return order.index(offered.variant)
        digits = re.sub(r"\D", "", offered.variant or "")[:4]
        return len(order) + int(digits or 9999)


def _steps_down(wanted: str, offered: str | None) -> int | None:
    """Tell how far below the variant `wanted` another is, None where it is not below."""
    if offered is None:
        return 10_000
    levels = _LEVEL.fullmatch(wanted), _LEVEL.fullmatch(offered)
    if levels[0] is None or levels[1] is None:
        return None
    steps = int(levels[0][1]) - int(levels[1][1])
    return steps if steps > 0 else None


def normal_platform(system: str, architecture: str, variant: str | None = None) -> Platform:
    """Give the platform in normal form, whatever spelling its parts have."""
    system = system.lower()
    architecture, implied = _SPELLINGS.get(architecture.lower(), (architecture.lower(), None))
    variant = (variant or "").lower() or implied
    if variant and variant.isdigit():
        variant = "v" + variant
    if (architecture, variant) in _PLAIN_VARIANTS:
        variant = None
    return Platform(_SYSTEMS.get(system, system), architecture, variant)


def parse_platform(text: str) -> Platform:
    """Give the platform that `text` spells: os/arch[/variant], arch[/variant], or os.

    Without a system it is Linux, without an architecture this machine's.

    Raises: UsageError where it is spelled otherwise.
    """
    parts = text.split("/")
    if len(parts) <= 3 and all(map(_WORD.fullmatch, parts)):
        first = normal_platform(parts[0], parts[0])
        if first.os not in _SYSTEM_NAMES and first.architecture in _ARCHITECTURES:
            if len(parts) < 3:
                return normal_platform("linux", *parts)
        elif len(parts) > 1:
            return normal_platform(*parts)
        elif first.os in _SYSTEM_NAMES:
            return host_platform()._replace(os=first.os)
    raise UsageError(f"{text!r:.100} is no platform: write os/arch[/variant], as in linux/arm64")


def differ(one: Platform | None, other: Platform | None) -> bool:
    """Tell whether two images are told apart by their platforms, as far as these are known."""
    return one is not None and other is not None and one != other


def host_platform() -> Platform:
    """Give Linux on the CPU of this machine."""
    if hasattr(os, "uname"):  # what platform asks too, but importing that takes 2 ms
        return normal_platform("linux", os.uname().machine)
    import platform

    return normal_platform("linux", platform.machine())


def platform_fields(platform: Platform | None) -> dict[str, str | None] | None:
    """Give the parts of a platform as they stand in the documents that dimgx writes."""
    return None if platform is None else platform._asdict()
