"""Patterns of paths: globs as in .gitignore, turned into regular expressions over keys.

1. A pattern is anchored at the root if it has a `/` at its beginning or in its middle; any other
   matches at every depth. Symlinks are not followed.
2. `*` is any run of characters but `/`, `?` one of them, `[...]` one of a set (`!` or `^` for all
   others, ranges, `[:digit:]` and its kind); `\\` takes the meaning from what follows. A `[` that
   nothing closes is an ordinary character, as in a shell.
3. `**` as a whole part is any number of directories, none included: `a/**/b` is `a/b` too. At the
   end it is all that is below, without the directory itself. In a longer part it is `*`.
4. With a `/` at its end it matches directories only.
5. What matches a directory matches all that is below it.

A character is one of UTF-8, or a byte that is none. Keys make 4 and 5 cheap: a directory's ends in
NUL, and begins the keys of all that is below. What stands before a later `*` or `**` is matched
where it comes first and never again, which loses nothing, and keeps a hostile name from costing
more than its length times the pattern's.
"""

from __future__ import annotations

import os
import re
import string

from dimgx.errors import UsageError

_NAME = r"[^\x00]"
_CLASSES = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, [*range(1, 32), 127])),
    "digit": string.digits,
    "graph": "".join(map(chr, range(33, 127))),
    "lower": string.ascii_lowercase,
    "print": "".join(map(chr, range(32, 127))),
    "punct": string.punctuation,
    "space": string.whitespace,
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}
_POSIX_CLASS = re.compile(r"\[:([a-z]*):\]")


def decode_key(key: bytes) -> str:
    """Give a key as the text that the regular expressions match."""
    return key.decode("utf-8", "surrogateescape")


def glob_to_regex(pattern: str) -> str:
    """Give a regular expression that, matched at the beginning of a key, does what `pattern` says.

    Raises: UsageError for a pattern that can mean nothing.
    """
    # Whatever the locale, a pattern of the command line is the bytes that were typed.
    pattern = decode_key(os.fsencode(pattern))
    if "\0" in pattern:
        raise UsageError(f"{pattern!r} is not a pattern of paths: it holds a NUL")
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if not parts:
        raise UsageError(f"{pattern!r} is not a pattern of paths: it names nothing below the root")
    if ".." in parts:
        raise UsageError(f"{pattern!r} is not a pattern of paths: no name is ..")
    is_anchored = "/" in pattern.rstrip("/")
    end = r"\x00" if pattern.endswith("/") else r"(?:\x00|\Z)"
    if parts[-1] == "**":
        parts[-1] = "*"  # rule 5 does the rest
    groups: list[list[str]] = [[]] if is_anchored else [[], []]
    for part in parts:
        if part == "**":
            groups.append([])
        else:
            groups[-1].append(_part_to_regex(part, pattern))
    first, *others = [r"\x00".join(group) for group in groups if group or group is groups[0]]
    # Between the groups lie any directories. A group is some parts in a row.
    regex = first
    for i, group in enumerate(others):
        regex += r"\x00" if regex and i == 0 else ""
        any_directories = rf"(?:{_NAME}+\x00)*?"
        if i == len(others) - 1:
            regex += any_directories + group
        else:
            regex += rf"(?>{any_directories}{group}\x00)"
    return regex + end


def _part_to_regex(part: str, pattern: str) -> str:
    """Give the expression of one name."""
    chunks = [""]
    i = 0
    while i < len(part):
        char = part[i]
        i += 1
        if char == "*":
            if chunks[-1] or len(chunks) == 1:
                chunks.append("")
        elif char == "?":
            chunks[-1] += _NAME
        elif char == "[" and (end := _find_end(part, i)):
            chunks[-1] += _set_to_regex(part[i:end], pattern)
            i = end + 1
        else:
            if char == "\\":
                if i == len(part):
                    raise UsageError(f"{pattern!r} is not a pattern of paths: nothing follows \\")
                char = part[i]
                i += 1
            chunks[-1] += re.escape(char)
    if len(chunks) == 1:
        return chunks[0]
    if not any(chunks):
        return f"{_NAME}+"
    first, *middle, last = chunks
    found = "".join(f"(?>{_NAME}*?{chunk})" for chunk in middle)
    return f"{first}{found}{_NAME}*{last}"


def _find_end(part: str, start: int) -> int:
    """Find the `]` that closes a set whose inside begins at `start`; 0 where there is none."""
    i = start + (part[start : start + 1] in ("!", "^"))
    first = i
    while i < len(part):
        if part[i] == "]" and i > first:
            return i
        match = _POSIX_CLASS.match(part, i)
        i = match.end() if match else i + 1 + (part[i] == "\\")
    return 0


def _set_to_regex(inside: str, pattern: str) -> str:
    """Give the expression of a set, of which `inside` is what stands between the brackets."""
    is_negated = inside[0] in "!^"
    items = ""
    i = int(is_negated)
    while i < len(inside):
        match = _POSIX_CLASS.match(inside, i)
        if match:
            if match[1] not in _CLASSES:
                raise UsageError(
                    f"{pattern!r} is not a pattern of paths: there is no class {match[0]}"
                )
            items += re.escape(_CLASSES[match[1]])
            i = match.end()
            continue
        low, i = _take_char(inside, i)
        if inside[i : i + 1] == "-" and i + 1 < len(inside):
            high, i = _take_char(inside, i + 1)
            if low <= high:
                items += f"{re.escape(low)}-{re.escape(high)}"
        else:
            items += re.escape(low)
    if is_negated:
        return rf"[^\x00{items}]"
    return f"[{items}]" if items else "(?!)"


def _take_char(inside: str, i: int) -> tuple[str, int]:
    """Give the character at `i`, what a backslash guards being one, and where the next is."""
    i += inside[i] == "\\" and i + 1 < len(inside)
    return inside[i], i + 1
