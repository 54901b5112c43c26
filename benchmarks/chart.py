"""Draws the speed rows as an SVG: bars in times of what the work costs at least."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

Row = dict[str, Any]

LEFT, RIGHT, TOP = 270, 70, 64
ROW, BAR = 46, 14
WIDTH = 860
INK, FAINT, NONE, ONCE, AIM = "#24292f", "#d0d7de", "#2563a8", "#8ab4dd", "#b3261e"


def draw(rows: Sequence[Row]) -> str:
    """Give the chart; shorter bars are better, 1 is the least that the work can cost."""
    rows = [row for row in rows if row["ratio"] is not None]
    top = max([1.0, *(max(row["ratio"], row["ratio_verified"] or 0, row["aim"]) for row in rows)])
    scale = (WIDTH - LEFT - RIGHT) / top
    height = TOP + ROW * len(rows) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="24" font-size="15">Time of dimgx, in times of what the work costs at '
        "least (medians; shorter is better)</text>",
        _key(16, NONE, "--verify none"), _key(150, ONCE, "--verify once"),
        f'<line x1="290" x2="290" y1="36" y2="50" stroke="{AIM}" stroke-width="2"/>'
        '<text x="298" y="48">aim, --verify none</text>',
    ]  # fmt: skip
    for mark in range(int(top) + 1):
        x = LEFT + mark * scale
        colour = INK if mark == 1 else FAINT
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height - 12}" stroke="{colour}"/>'
        )
    for index, row in enumerate(rows):
        y = TOP + ROW * index
        parts.append(
            f'<text x="16" y="{y + 14}">{escape(row["title"])}</text>'
            f'<text x="16" y="{y + 30}" font-size="11" fill="#57606a">'
            f"against {escape(row['against'])}</text>"
        )
        for offset, key, colour in ((2, "ratio", NONE), (3 + BAR, "ratio_verified", ONCE)):
            value = row[key]
            if value is None:
                continue
            parts.append(
                f'<rect x="{LEFT}" y="{y + offset}" width="{value * scale:.1f}" height="{BAR}" '
                f'fill="{colour}"/><text x="{LEFT + value * scale + 5:.1f}" '
                f'y="{y + offset + 11}" font-size="11">{value:.2f}</text>'
            )
        x = LEFT + row["aim"] * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 2 * BAR + 5}" stroke="{AIM}" '
            'stroke-width="2"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _key(x: int, colour: str, text: str) -> str:
    return (
        f'<rect x="{x}" y="36" width="14" height="14" fill="{colour}"/>'
        f'<text x="{x + 20}" y="48">{text}</text>'
    )
