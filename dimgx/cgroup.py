"""Control groups: what Linux lets this process use of CPUs and memory, versions 1 and 2.

A limit may stand at any level, so every function looks at the process's own group and at all that
contain it, as far up as they can be seen from here. `root` is where `/proc` and the mounts are
looked for: `/`, but in tests.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Version 1 says "no limit" by a number near 2**63.
_UNLIMITED = 1 << 60


def read_text(path: str) -> str:
    """Give the text of a small file, empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def read_fields(path: str) -> dict[str, int]:
    """Give the `name number` lines of a file such as `memory.stat` or `/proc/meminfo`."""
    pairs = re.findall(r"^(\S+?):?\s+(\d+)", read_text(path), re.MULTILINE)
    return {name: int(number) for name, number in pairs}


def cpu_quota(root: str = "/") -> float | None:
    """Give how many CPUs' time the groups grant, the least of them; None without a quota."""
    quotas = []
    for directory, version in _iter_groups("cpu", root):
        if version == 2:
            words = read_text(os.path.join(directory, "cpu.max")).split()
        else:
            words = [
                read_text(os.path.join(directory, f"cpu.cfs_{name}_us")).strip()
                for name in ("quota", "period")
            ]
        # Without a quota the first word is "max" or -1.
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_left(root: str = "/") -> int | None:
    """Give how many bytes the groups still grant, the least of them; None without a limit.

    Page cache that the kernel would give back (files not used lately) counts as left.
    """
    left = []
    for directory, version in _iter_groups("memory", root):
        names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
        limit, usage = (
            read_text(os.path.join(directory, f"memory.{name}")).strip() for name in names
        )
        if not (limit.isdecimal() and usage.isdecimal()) or int(limit) >= _UNLIMITED:
            continue
        stat = read_fields(os.path.join(directory, "memory.stat"))
        # Version 1 has this twice: alone, and with the groups below, as the usage counts them.
        cache = stat.get("total_inactive_file", stat.get("inactive_file", 0))
        left.append(max(0, int(limit) - int(usage) + cache))
    return min(left, default=None)


def _iter_groups(controller: str, root: str) -> Iterator[tuple[str, int]]:
    """Yield directory and version of each group that `controller` accounts us to, inner first."""
    paths: dict[str, str] = {}
    for line in read_text(os.path.join(root, "proc/self/cgroup")).splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in read_text(os.path.join(root, "proc/self/mountinfo")).splitlines():
        place, _, kind = line.partition(" - ")
        kinds, words = kind.split(), place.split()
        if len(words) < 5 or len(kinds) < 3:
            continue
        # Only version 2 has a line for no controller by name.
        version = {"cgroup2": 2, "cgroup": 1}.get(kinds[0], 0)
        key = "" if version == 2 else controller
        if not version or key not in paths or (version == 1 and key not in kinds[2].split(",")):
            continue
        path = paths[key]
        # A container may see its own group mounted as the top, while its path is the host's.
        mounted, top = words[3], os.path.join(root, _unescape(words[4]).lstrip("/"))
        if mounted != "/" and (path + "/").startswith(mounted + "/"):
            path = path[len(mounted) :]
        names = [name for name in path.split("/") if name]
        if ".." in names:
            names = []
        for depth in range(len(names), -1, -1):
            yield os.path.join(top, *names[:depth]), version


def _unescape(text: str) -> str:
    """Give the path that mountinfo spells with octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
