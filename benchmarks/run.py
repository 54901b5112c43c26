"""The command: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import chart, commands, engine, machine, registry, report, rows, sections
from benchmarks.commands import Dimgx
from benchmarks.report import Row
from benchmarks.session import Session

HERE = Path(__file__).resolve().parent
BEGIN, END = ".. the last table begins here\n", ".. the last table ends here\n"
QUICK_SCALE = 0.02
TIMED = ("speed", "encode", "registry", "engine", "one_cpu", "peers", "absolute")
Step = Callable[[], list[Row]]
SINGLE: dict[str, Callable[[Session], Row]] = {
    "start": sections.start,
    "small": sections.small,
    "layers127": sections.layers127,
    "scaling": sections.scaling,
}


def row_ids() -> list[str]:
    """Give the names that --only knows."""
    return [
        *(row.id for row in rows.SPEED),
        *(row.id for row in rows.ENCODE),
        *(row.id for row in rows.REGISTRY),
        *(row.id for row in rows.ENGINE),
        *(row.id for row in rows.ONE_CPU),
        *(row.id for row in rows.PEERS),
        *SINGLE,
        *(f"growth-{series.id}" for series in rows.GROWTH),
        "memory",
        "rightness",
    ]


HUGE = "huge"
"""A row that only --only runs."""


def default_work_dir() -> Path:
    """Give a place for large files: /tmp is memory on many machines."""
    large = Path("/var/tmp")
    return (large if large.is_dir() else Path(tempfile.gettempdir())) / "dimgx-benchmarks"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure dimgx against copying, decoding and the other tools on PATH.",
        epilog=f"Rows: {' '.join(row_ids())}; only when asked for: {HUGE}",
    )
    parser.add_argument("--only", action="append", metavar="ROW", help="run this row; repeatable")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each row (default 5)")
    parser.add_argument("--peer-rounds", type=int, default=3, help="rounds of other tools")
    parser.add_argument("--no-peers", action="store_true", help="leave the other tools out")
    parser.add_argument("--quick", action="store_true", help="images of a fiftieth of the size")
    parser.add_argument("--dimgx", metavar="COMMAND", help="the dimgx to run; default: this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--join", type=Path, metavar="FILE", help="take the rows that are not run from this --json"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the chart there")
    parser.add_argument(
        "--readme", action="store_true", help="put tables and chart into benchmarks/"
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=default_work_dir(),
        help="where images (about 13 GB) and outputs go; default %(default)s",
    )
    parser.add_argument("--clean", action="store_true", help="remove the images and end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0 if every output was right."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.clean:
        shutil.rmtree(options.work_dir, ignore_errors=True)
        return 0
    wanted = options.only or row_ids()
    unknown = sorted(set(wanted) - {*row_ids(), HUGE})
    if unknown:
        parser.error(f"no such row: {' '.join(unknown)}; there are {' '.join(row_ids())}")
    options.work_dir.mkdir(parents=True, exist_ok=True)
    session = Session(
        work=options.work_dir.resolve(),
        dimgx=Dimgx(options.dimgx),
        rounds=options.rounds,
        peer_rounds=options.peer_rounds,
        scale=QUICK_SCALE if options.quick else 1.0,
        peers=() if options.no_peers else commands.find_peers(),
        say=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
    )
    if options.readme and options.only and not options.join:
        parser.error("--readme with --only leaves out all other rows: --join what they were")
    earlier = json.loads(options.join.read_text()) if options.join else {}

    def save(results: Row) -> None:
        if options.json:
            text = json.dumps(joined(results, earlier), indent=1)
            options.json.write_text(text + "\n")

    results = run(session, wanted, save)
    wrong = wrong_outputs(results)
    results = joined(results, earlier)
    text = report.render(results)
    print(text)
    if options.svg and results["speed"]:
        options.svg.write_text(chart.draw(results["speed"]))
    if options.readme:
        update_readme(HERE / "README.rst", text)
        (HERE / "chart.svg").write_text(chart.draw(results["speed"]))
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


def run(
    session: Session, wanted: Sequence[str], save: Callable[[Row], None] = lambda results: None
) -> Row:
    """Run the rows and give all figures; `save` is called with those so far after each."""
    # The first run compiles what Python has not compiled yet.
    session.dimgx_is_ready()
    results: Row = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine.describe(session.work),
        "tools": {
            name: version
            for name in ("igzip", "zstd", "crane", "undocker", "umoci", "docker")
            if (version := commands.tool_version(name)) is not None
        },
        "rounds": session.rounds,
        "peer_rounds": session.peer_rounds,
        "scale": session.scale,
    }
    results |= {key: [] for key, _ in report.SECTIONS}
    for key, measured in steps(session, wanted):
        results[key] += measured()
        save(results)
    return results


def steps(session: Session, wanted: Sequence[str]) -> Iterator[tuple[str, Step]]:
    """Yield what is to be measured, and in which section it comes."""
    each: list[tuple[str, Callable[[Session, Any], Row], Sequence[Any]]] = [
        ("speed", sections.speed, rows.SPEED),
        ("encode", sections.encode, rows.ENCODE),
        ("registry", registry.measure, rows.REGISTRY),
        ("engine", engine.measure, rows.ENGINE),
        ("one_cpu", sections.one_cpu, rows.ONE_CPU),
        ("peers", sections.peers, rows.PEERS if session.peers else ()),
    ]
    for key, measure, some in each:
        for row in some:
            if row.id in wanted:
                yield key, lambda measure=measure, row=row: [measure(session, row)]
    for name, make in SINGLE.items():
        if name in wanted:
            yield "absolute", lambda make=make: [make(session)]
    for series in rows.GROWTH:
        if f"growth-{series.id}" in wanted:
            yield "growth", lambda series=series: [sections.growth(session, series)]
    if "memory" in wanted:
        for image in rows.MEMORY:
            yield "memory", lambda image=image: [sections.memory(session, *image)]
    if HUGE in wanted:
        for huge in rows.HUGE:
            yield "memory", lambda huge=huge: [sections.huge_memory(session, *huge)]
    if "rightness" in wanted:
        tools = [session.dimgx.flatten("dimgx"), *session.peers]
        yield "rightness", lambda: sections.rightness(session, tools)


def joined(results: Row, earlier: Row) -> Row:
    """Give all figures, with the rows of an earlier run that these do not have, in usual order."""
    order = row_ids()
    found = dict(results)
    for key, _ in report.SECTIONS:
        name = "tool" if key == "rightness" else "id"
        there = {row[name] for row in results[key]}
        more = [row for row in earlier.get(key, ()) if row[name] not in there]
        found[key] = sorted(
            [*results[key], *more],
            key=lambda row: order.index(row[name]) if row[name] in order else -1,
        )
    return found


def wrong_outputs(results: Row) -> list[str]:
    """Give a line for each output of dimgx that is not right, and for each run that failed."""
    wrong: list[str] = []
    own = ("none", "once", "plain", "packed", "one thread", "two threads")
    for row in (row for key in TIMED for row in results[key]):
        for name, times in row["times"].items():
            if name not in own and "dimgx" not in name:
                continue
            problem = times.get("failure") or times.get("verdict")
            if problem not in (None, "right"):
                wrong.append(f"{row['id']}, {name}: {problem} {times.get('example', '')}")
    for row in results["growth"]:
        wrong += [
            f"{row['id']}, {point['shape']}: {point.get('failure') or point['verdict']}"
            for point in row["points"]
            if (point.get("failure") or point["verdict"]) != "right"
        ]
    wrong += [
        f"memory, {row['id']}: {row['failure']}" for row in results["memory"] if "failure" in row
    ]
    for row in results["rightness"]:
        if row["tool"] == "dimgx":
            wrong += [f"telling image, {name}: {what}" for name, what in row["wrong"].items()]
    return wrong


def update_readme(path: Path, text: str) -> None:
    """Put the tables between the two marks."""
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
