"""What the benchmark ran on, told generally."""

from __future__ import annotations

import os
import platform
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

LOOPS = 200_000


def describe(work: Path) -> dict[str, Any]:
    """Give the kind of CPU, how many, memory, system and file system."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    release = re.match(r"[\d.]+\d", platform.release())
    return {
        "cpu": _cpu_model(),
        "cpus": cpus,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {release[0] if release else ''}".strip(),
        "file_system": _file_system(work),
        "python": platform.python_version(),
        "has_sha_instructions": has_sha_instructions(),
        "load": round(os.getloadavg()[0], 1),
        "loop_ns": round(min(_loop_s() for _ in range(5)) * 1e9 / LOOPS),
    }


def _loop_s() -> float:
    """Time a loop that shows how fast Python itself is here."""
    started = time.process_time()
    total = 0
    for number in range(LOOPS):
        total += number
    return time.process_time() - started


def _cpu_fields() -> dict[str, str]:
    fields: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    return fields


def _cpu_model() -> str:
    return _cpu_fields().get("model name") or platform.processor() or platform.machine()


def has_sha_instructions() -> bool | None:
    """Tell whether the CPU computes SHA-256 itself; None where that is not known."""
    fields = _cpu_fields()
    flags = fields.get("flags") or fields.get("Features")
    return None if flags is None else bool({"sha_ni", "sha2"} & set(flags.split()))


def _file_system(work: Path) -> str:
    """Give the type of the file system that a directory lies on."""
    best, kind = -1, "unknown file system"
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, point, found, *_ = line.split()
            if work.resolve().is_relative_to(point) and len(point) > best:
                best, kind = len(point), found
    return kind
