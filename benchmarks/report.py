"""Turns the results into tables in reStructuredText, to be read on a terminal as well."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

WIDTH = 120
"""Columns that a paragraph may have."""


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Give a simple table; the first column says what the line is, or is empty where it goes on."""
    lines = [[cell or "-" for cell in line] if line[0] else line for line in lines]
    widths = [max(len(line[n]) for line in (heads, *lines)) for n in range(len(heads))]
    rule = "  ".join("=" * width for width in widths)
    rows = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in (heads, *lines)]  # fmt: skip
    return "\n".join([rule, rows[0], rule, *rows[1:], rule]) + "\n"


def seconds(times: Row) -> str:
    """Median and minimum."""
    if "median_s" not in times:
        return "failed"
    return f"{times['median_s']:.2f} ({times['min_s']:.2f})"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def pair(value: float | None, of_minima: float | None) -> str:
    return "-" if value is None else f"{number(value)} ({number(of_minima)})"


def yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[value]


def verdict(times: Row) -> str:
    return str(times.get("verdict") or times.get("failure") or "-")


def speed_table(rows: Sequence[Row], *, has_sha: bool) -> str:
    heads = ("image", "against", "s", "none", "once", "none, ratio", "aim", "met", "once, ratio",
             "aim", "met", "stretch", "met", "output")  # fmt: skip
    lines = []
    for row in rows:
        times = row["times"]
        right = {verdict(times["none"]), verdict(times["once"])}
        lines.append(
            (
                row["title"], row["against"], seconds(times[row["against"]]),
                seconds(times["none"]), seconds(times["once"]),
                pair(row["ratio"], row["ratio_of_minima"]), number(row["aim"], 1),
                yes(row["is_met"]),
                pair(row["ratio_verified"], row["ratio_verified_of_minima"]),
                number(row["aim_verified"], 1) if has_sha else "",
                yes(row["is_met_verified"]) if has_sha else "",
                number(row["stretch"], 1), yes(row["is_stretch_met"]), "; ".join(sorted(right)),
            )
        )  # fmt: skip
    return table(heads, lines)


def encode_table(rows: Sequence[Row]) -> str:
    heads = ("output", "against", "s", "plain run", "packed", "ratio", "aim", "met", "stretch",
             "met", "output")  # fmt: skip
    lines = [
        (
            row["title"], row["against"], seconds(row["times"][row["against"]]),
            seconds(row["times"]["plain"]), seconds(row["times"]["packed"]),
            pair(row["ratio"], row["ratio_of_minima"]), number(row["aim"], 1), yes(row["is_met"]),
            number(row["stretch"], 1), yes(row["is_stretch_met"]),
            verdict(row["times"]["packed"]),
        )
        for row in rows
    ]  # fmt: skip
    return table(heads, lines)


def command_table(rows: Sequence[Row]) -> str:
    """Each command's time, dimgx's ratios beside."""
    heads = ("image", "command", "s", "CPU s", "ratio", "aim", "met", "output")
    lines = []
    for row in rows:
        if "failure" in row:
            lines.append((row["title"], row["failure"], *[""] * 6))
        for name, times in row["times"].items():
            end = {"none": "", "once": "_verified"}.get(name)
            cells = ["", "", ""]
            if end is not None:
                cells = [
                    pair(row[f"ratio{end}"], row[f"ratio{end}_of_minima"]),
                    number(row.get(f"aim{end}"), 1),
                    yes(row.get(f"is_met{end}")),
                ]
            shown = f"dimgx --verify {name}" if end is not None else name
            lines.append((row["title"], shown, seconds(times), number(times.get("cpu_s")),
                          *cells, verdict(times)))  # fmt: skip
    return table(heads, lines)


def peer_table(rows: Sequence[Row]) -> str:
    heads = (
        "image",
        "tool",
        "s",
        "CPU s",
        "none is so many times as fast",
        "aim",
        "met",
        "once is",
        "output",
    )
    lines = []
    for row in rows:
        for name, times in row["times"].items():
            value = row["times_as_fast"].get(name)
            is_fastest = value is not None and value == row["value"]
            lines.append(
                (
                    row["title"], name, seconds(times), number(times.get("cpu_s")),
                    number(value, 1), number(row["aim"], 1) if is_fastest else "",
                    yes(row["is_met"]) if is_fastest else "",
                    number(row["times_as_fast_verified"].get(name), 1), verdict(times),
                )
            )  # fmt: skip
    return table(heads, lines)


def absolute_table(rows: Sequence[Row]) -> str:
    heads = ("what", "median (min)", "aim", "met")
    lines = []
    for row in rows:
        if "value_s" in row:
            value = pair(row["value_s"], row["of_minima_s"]).replace(" (", " s (")
            lines.append((row["title"], value, f"{row['aim_s']:.2f} s", yes(row["is_met"])))
        else:
            value = pair(row["value"], row["of_minima"])
            lines.append((row["title"], value, f"{row['aim']:.1f}", yes(row["is_met"])))
    return table(heads, lines)


def growth_table(rows: Sequence[Row]) -> str:
    heads = (
        "series",
        "image",
        "units",
        "s",
        "us each (of minima)",
        "last / cheapest",
        "aim",
        "met",
    )
    lines = []
    for row in rows:
        for point in row["points"]:
            is_last = point is row["points"][-1]
            lines.append(
                (
                    row["title"], point["shape"], f"{point['units']:,}", seconds(point),
                    pair(point.get("each_us"), point.get("each_of_minima_us")),
                    number(row["value"]) if is_last else "",
                    number(row["aim"], 1) if is_last else "",
                    yes(row["is_met"]) if is_last else "",
                )
            )  # fmt: skip
    return table(heads, lines)


def memory_table(rows: Sequence[Row]) -> str:
    heads = (
        "image",
        "members",
        "resident MB",
        "allowed MB",
        "decoded MB",
        "--memory MB",
        "met",
    )
    lines = []
    for row in rows:
        if "failure" in row:
            lines.append((row["id"], f"{row['members']:,}", "failed", "", "", "", ""))
            continue
        lines.append(
            (
                row["id"], f"{row['members']:,}", number(row["resident"] / 1e6, 0),
                number(row["allowed"] / 1e6, 0), number(row["decoded"] / 1e6, 0),
                number(row["memory_option"] / 1e6, 0), yes(row["is_met"]),
            )
        )  # fmt: skip
    return table(heads, lines)


def rightness_table(rows: Sequence[Row]) -> str:
    heads = ("tool", "right", "wrong on")
    lines: list[tuple[str, str, str]] = []
    for row in rows:
        # The columns before take a third of a line at most.
        wrong = textwrap.wrap("; ".join(row["wrong"]), WIDTH * 2 // 3, break_on_hyphens=False)
        first, *others = wrong or [""]
        lines.append((row["tool"], f"{row['right']} of {row['of']}", first))
        lines += [("", "", more) for more in others]
    return table(heads, lines)


SECTIONS = (
    ("speed", "Against copying and decoding"),
    ("encode", "Compressed output"),
    ("registry", "From a registry on this machine"),
    ("engine", "From the Docker Engine"),
    ("one_cpu", "On one CPU"),
    ("absolute", "Start, small images, threads"),
    ("peers", "Other tools"),
    ("growth", "Growth"),
    ("memory", "Memory"),
    ("rightness", "Rightness on small telling images"),
)


def render(results: Row) -> str:
    """Give all tables, each with its heading."""
    machine = results["machine"]
    has_sha = bool(machine["has_sha_instructions"])
    parts = [describe(results)]
    for key, title in SECTIONS:
        rows = results.get(key) or []
        if not rows:
            continue
        text = {
            "speed": lambda rows: speed_table(rows, has_sha=has_sha),
            "encode": encode_table,
            "absolute": absolute_table,
            "registry": command_table,
            "engine": command_table,
            "one_cpu": command_table,
            "peers": peer_table,
            "growth": growth_table,
            "memory": memory_table,
            "rightness": rightness_table,
        }[key](rows)
        parts.append(f"{title}\n{'~' * len(title)}\n\n{text}")
    return "\n".join(parts)


def describe(results: Row) -> str:
    """Say when, where and with what."""
    machine = results["machine"]
    sha = {True: "has", False: "has no", None: "may have"}[machine["has_sha_instructions"]]
    tools = ", ".join(f"{name}: {text}" for name, text in results["tools"].items())
    text = (
        f"{results['date']}: {machine['cpu']}, {machine['cpus']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, {machine['file_system']}, Python {machine['python']} (a loop that "
        f"adds up numbers: {machine['loop_ns']} ns each). "
        f"The CPU {sha} instructions for SHA-256. {results['rounds']} rounds"
        f" ({results['peer_rounds']} of other tools). Load when it began: {machine['load']}. "
        f"{tools}."
    )
    return textwrap.fill(text, WIDTH, break_on_hyphens=False) + "\n"
