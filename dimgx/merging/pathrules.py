"""Which paths of the merged tree go into the tar: `--include` and `--exclude`. Pure.

1. The last rule that matches a path, or a directory above it, decides (`globs` says what matches).
2. Where none does, the first rule decides by its kind: after a first `include` only what is
   included is there, after a first `exclude` all but what is excluded. So what lies below an
   excluded directory can be included again, and the other way round.
3. A directory that has to be there for something below it is there, as the image has it.
4. An include that matches nothing is an error: what was wanted is not in the image. An exclude may
   match nothing; one that leads through a symbolic link, which is not followed, is warned of.

All rules are one regular expression, the last first, so that a path takes one match: about 0.4 us,
and 0.1 us for the parents. Nothing is read of what is left out.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from dimgx.errors import ImageError
from dimgx.merging.globs import decode_key, glob_to_regex


class PathRule(NamedTuple):
    """One `--include` or `--exclude`."""

    is_included: bool
    pattern: str
    """A glob; what is no UTF-8 in it is spelled as by `os.fsdecode`."""


class PathFilter:
    """Some rules, ready to be applied.

    Raises: UsageError for a pattern that can mean nothing.
    """

    def __init__(self, rules: Sequence[PathRule]) -> None:
        self._rules = tuple(rules)
        self._regexes = [glob_to_regex(rule.pattern) for rule in self._rules]
        # Alternatives are tried in order. The group that matched tells which rule it was.
        whole = "|".join(f"({regex})" for regex in reversed(self._regexes))
        self._match = re.compile(whole).match
        default = not self._rules[0].is_included
        self._verdicts = [default, *(rule.is_included for rule in reversed(self._rules))]

    def choose(self, keys: Sequence[bytes]) -> list[bool]:
        """Tell of each of `keys`, a whole tree in the order of a walk, whether it stays.

        Raises: ImageError for an include that matches nothing, or if nothing stays.
        """
        matches = map(self._match, map(decode_key, keys))
        winners = [match.lastindex or 0 if match else 0 for match in matches]
        self._check_includes(keys, winners)
        verdicts = self._verdicts
        chosen = [verdicts[winner] for winner in winners]
        keep_parents(keys, chosen)
        if keys and not any(chosen):
            raise ImageError("nothing is left of the image: --exclude matches all of it")
        return chosen

    def find_warnings(self, keys: Sequence[bytes]) -> tuple[str, ...]:
        """Warn of excludes that can match none of `keys`: a part of their path is no directory."""
        excludes = [rule.pattern for rule in self._rules if not rule.is_included]
        reasons = {pattern: _explain(pattern, keys) for pattern in excludes}
        return tuple(
            f"--exclude {pattern} matches nothing in the image{reason}"
            for pattern, reason in reasons.items()
            if reason
        )

    def _check_includes(self, keys: Sequence[bytes], winners: Sequence[int]) -> None:
        won = set(winners)
        for i, rule in enumerate(self._rules):
            if not rule.is_included or len(self._rules) - i in won:
                continue
            # Another rule may have had the last word on all that it matches.
            match = re.compile(self._regexes[i]).match
            if not any(map(match, map(decode_key, keys))):
                problem = f"--include {rule.pattern} matches nothing in the image"
                raise ImageError(problem + _explain(rule.pattern, keys))


def _explain(pattern: str, keys: Sequence[bytes]) -> str:
    """Say which part of a path that matches nothing is no directory, where that is so.

    `keys` are in the order of a walk.
    """
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    for i in range(1, len(parts)):
        key = os.fsencode("\0".join(parts[:i]))
        place = bisect_left(keys, key)
        if place < len(keys) and keys[place] == key:
            above = "/".join(parts[:i])
            return f": /{above} is no directory there, and symbolic links are not followed"
    return ""


def keep_parents(keys: Sequence[bytes], chosen: list[bool]) -> None:
    """Let the directories above what is chosen be chosen too; `keys` are in the order of a walk."""
    following = b""
    for i in range(len(keys) - 1, -1, -1):
        if chosen[i]:
            following = keys[i]
        elif following.startswith(keys[i]) and keys[i].endswith(b"\0"):
            chosen[i] = True
            following = keys[i]
