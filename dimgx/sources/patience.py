"""How long a request that fails for the moment is tried again, and how long to wait between."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from threading import Event

from dimgx.errors import Cancelled, TemporaryError

_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 8.0
_WORTHY_PROGRESS = 64 << 10
"""Bytes after which a connection counts as one that works."""


class Transient(TemporaryError):
    """A failure that trying again may heal."""

    def __init__(self, text: str, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s
        """Seconds that the other side asks for."""


class Patience:
    """Counts down from the first failure on; bytes that arrive start it anew."""

    def __init__(self, time_s: float, stopped: Event) -> None:
        self._time_s, self._stopped = time_s, stopped
        self._deadline: float | None = None
        self._tries = 0
        self._progress = 0
        self._has_come = False

    @property
    def is_fresh(self) -> bool:
        """Nothing has failed or come yet."""
        return self._deadline is None and not self._has_come

    def progress(self, size: int) -> None:
        """Tell that `size` bytes have come."""
        self._progress += size
        self._has_come = True
        if self._deadline is not None and self._progress >= _WORTHY_PROGRESS:
            self._deadline, self._tries = None, 0

    def pause(self, problem: Transient) -> None:
        """Wait before the next try.

        Raises: TemporaryError where the time is up, or would be before the other side is ready
            again; Cancelled where somebody wants an end.
        """
        self._progress = 0
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._time_s
        left = self._deadline - now
        wait = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**self._tries) * random.uniform(0.5, 1)
        wait = min(wait, max(left, 0))
        if problem.wait_s is not None:
            # Never less: an answer that says 0 each time would have us ask without a pause.
            wait = max(wait, problem.wait_s + random.uniform(0, min(1, problem.wait_s / 10)))
        if left <= 0 or wait > left:
            raise TemporaryError(_given_up(problem, self._time_s)) from None
        self._tries = min(self._tries + 1, 16)
        if self._stopped.wait(wait):
            raise Cancelled("cancelled")


def _given_up(problem: Transient, time_s: float) -> str:
    if problem.wait_s is not None and problem.wait_s >= 1:
        return f"{problem}; come back in {_spell(problem.wait_s)}"
    tried = f"; tried for {time_s:g} s (--retry-time)" if time_s else ""
    return f"{problem}{tried}: try again later"


def _spell(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds:.0f} s ({minutes} minutes)"


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Give the seconds that the header Retry-After asks for, None where it says nothing.

    Spec: RFC 9110, 10.2.3: a number of seconds, or a date.
    """
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    from datetime import UTC
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text)
        # One without a zone is in UTC, too, as in the form of asctime.
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
