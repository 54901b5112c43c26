"""What is told on standard error: at most one error, or warnings and facts about a success."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dimgx.console.listing import escape
from dimgx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_RANKS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}
_PREFIXES = {"ERROR": "", "WARNING": "warning: ", "INFO": ""}


def _check_format(log_format: str) -> None:
    import logging

    record = logging.LogRecord("dimgx", logging.ERROR, "", 0, "%s", ("a text",), None)
    try:
        logging.Formatter(log_format).format(record)
    except KeyError as exc:
        raise ValueError(f"there is no {exc} in a record of Python's logging") from exc
    except TypeError as exc:
        raise ValueError(str(exc)) from exc


class Messages:
    """Keeps warnings and facts until success is certain, each kind once.

    With a format of its own every line goes through Python's logging module.
    """

    def __init__(self) -> None:
        self._rank = _RANKS["WARNING"]
        self._format: str | None = None
        self._kept: dict[tuple[str, str], int] = {}
        self.warnings: dict[str, int] = {}
        """What was warned of, shown or not, and how often."""

    @property
    def is_verbose(self) -> bool:
        """Facts are wanted."""
        return self._rank <= _RANKS["INFO"]

    def set_up(self, level: str, log_format: str | None) -> None:
        """Choose what is shown, and how.

        Raises: UsageError for a format that logging does not take.
        """
        self._rank = _RANKS[level]
        if level == "DEBUG" or log_format is not None:
            import logging

            if log_format is not None:
                try:
                    _check_format(log_format)
                except ValueError as exc:
                    raise UsageError(f"--log-format: {exc}") from exc
            logging.basicConfig(
                level=level, format=log_format or "dimgx: %(levelname)s: %(name)s: %(message)s"
            )
            # It would show the signatures that blob stores have in their URLs, also in warnings.
            logging.getLogger("urllib3").setLevel(logging.CRITICAL)
            self._format = log_format

    def warn(self, texts: Iterable[str]) -> None:
        """Keep warnings."""
        for text in texts:
            self.warnings[text] = self.warnings.get(text, 0) + 1
            self._keep("WARNING", text)

    def tell(self, text: str) -> None:
        """Keep a fact, which only `-v` shows."""
        self._keep("INFO", text)

    def show_kept(self) -> None:
        """Write what was kept, in the order in which it came."""
        for (level, text), count in self._kept.items():
            self._write(level, text if count == 1 else f"{text} ({count} times)")

    def fail(self, text: str) -> None:
        """Write the one line that says what is wrong."""
        self._write("ERROR", text)

    def _keep(self, level: str, text: str) -> None:
        if _RANKS[level] >= self._rank:
            self._kept[level, text] = self._kept.get((level, text), 0) + 1

    def _write(self, level: str, text: str) -> None:
        line = escape(text)
        if self._format is not None:
            import logging

            logging.getLogger("dimgx").log(_RANKS[level], "%s", line)
        elif sys.stderr is not None:
            try:
                print(f"dimgx: {_PREFIXES[level]}{line}", file=sys.stderr, flush=True)
            except OSError:  # nobody to tell
                pass
