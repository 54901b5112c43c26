"""What the values of options may look like."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# argparse takes `-:name`, an image on standard input, for an option; this stands in for its dash.
DASH = "\0stdin"
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]+)?) *([kmgt]?)(i?b|)", re.IGNORECASE)


def size(text: str) -> int:
    """Give the bytes that `text` says."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, as in 512M or 2GiB")
    number, unit, suffix = match.groups()
    base = 1000 if suffix.lower() == "b" else 1024
    return int(float(number) * base ** _UNITS[unit.lower()])


def whole_number(what: str, *, digits: int, least: int = 0) -> Callable[[str], int]:
    """Give a check for a number that is `what`, of so many digits at most."""

    def check(text: str) -> int:
        if not re.fullmatch(f"[0-9]{{1,{digits}}}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return int(text)

    return check


def seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)


def truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def engine_kind(text: str) -> str:
    if text not in ("any", "docker", "podman"):  # the first is what the option alone says
        hint = ": `ctr images import -` reads an archive" if text == "containerd" else ""
        raise argparse.ArgumentTypeError(f"{text!r} is neither docker nor podman{hint}")
    return text


def text_of(what: str) -> Callable[[str], str]:
    """Give a check for a text that is `what`: not empty, without NUL."""

    def check(text: str) -> str:
        if not text or "\0" in text.removeprefix(DASH):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return text

    return check


def words_of(what: str) -> Callable[[str], tuple[str, ...]]:
    """Give a check for a text that is `what`, or several with commas between them."""
    check = text_of(what)
    return lambda text: tuple(check(text).split(","))


def path_rule(*, is_included: bool) -> Callable[[str], tuple[bool, str]]:
    """Give what turns a pattern into a rule: whether it lets paths in, and the pattern."""
    check = text_of("a pattern of paths")
    return lambda text: (is_included, check(text))
