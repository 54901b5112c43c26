"""What is open and runs in this process, to see that a test leaves nothing behind.

What tests before have left, a server's sockets and threads as a rule, may go at any moment: what
counts is what is new, not how many there are.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from tests.programs import missing


def open_files() -> set[tuple[int, int, int]]:
    """Give the descriptors and what each is of; skip where the system does not tell."""
    if not os.path.isdir("/dev/fd"):
        missing("nothing tells what is open here")
    found = set()
    for fd in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):  # it is gone, as the one that the list was read through
            status = os.fstat(fd)
            found.add((fd, status.st_dev, status.st_ino))
    return found


def running_threads() -> set[threading.Thread]:
    """Give the threads that run."""
    return set(threading.enumerate())
