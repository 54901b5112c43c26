"""The sections of the benchmark; each gives plain values that can be written as JSON."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import commands, huge, rows
from benchmarks.commands import Command
from benchmarks.corpora import Corpus
from benchmarks.measure import CommandFailed, run_for_peak
from benchmarks.session import Outcome, Session
from benchmarks.telling import TELLING

Row = dict[str, Any]


def figures(outcome: Outcome) -> Row:
    """Give an outcome's times in seconds, or why there are none."""
    if outcome.failure is not None or not outcome.samples.wall_s:
        return {"failure": outcome.failure or "not run"}
    samples = outcome.samples
    return {
        "median_s": samples.median_s,
        "min_s": samples.min_s,
        "cpu_s": samples.median_cpu_s,
        "wall_s": [round(value, 4) for value in samples.wall_s],
        "verdict": outcome.verdict,
        "example": outcome.example,
    }


def ratio(one: Row, other: Row, key: str = "median_s") -> float | None:
    if key not in one or key not in other:
        return None
    return float(one[key] / other[key])


def ratios(times: Row, base: str) -> Row:
    """Give what `none` and `once` take in times of `base`; None where one was not timed."""
    least = times.get(base, {})
    return {
        f"ratio{end}{of}": ratio(times.get(name, {}), least, key)
        for name, end in (("none", ""), ("once", "_verified"))
        for key, of in (("median_s", ""), ("min_s", "_of_minima"))
    }


def is_met(value: float | None, aim: float | None) -> bool | None:
    return None if value is None or aim is None else value <= aim


def timed(session: Session, corpus: Corpus, contenders: Sequence[Command]) -> dict[str, Row]:
    """Run commands in turn, and give the figures of each by its name."""
    outcomes = session.compare(corpus, contenders, session.rounds)
    return {name: figures(outcome) for name, outcome in outcomes.items()}


# -- times -----------------------------------------------------------------------------------------


def speed(session: Session, row: rows.SpeedRow) -> Row:
    """dimgx against the least that the work can cost."""
    corpus = session.corpus(row.shape, row.variant)
    base = commands.least(row.against)
    contenders = [
        session.dimgx.flatten("none", "--verify", "none", *row.options),
        session.dimgx.flatten("once", "--verify", "once", *row.options),
        base,
    ]
    times = timed(session, corpus, contenders)
    result: Row = {
        **asdict(row),
        "against": base.name,
        "members": corpus.members,
        "live": corpus.live,
        "plain_bytes": corpus.plain_bytes,
        "times": times,
        **ratios(times, base.name),
    }
    result["is_met"] = is_met(result["ratio"], row.aim)
    result["is_met_verified"] = is_met(result["ratio_verified"], row.aim_verified)
    result["is_stretch_met"] = is_met(result["ratio"], row.stretch)
    return result


def one_cpu(session: Session, row: rows.OneCpuRow) -> Row:
    """dimgx on one CPU against the least that the work can cost there."""
    base = commands.least(row.against)
    own = [session.dimgx.flatten(verify, "--verify", verify) for verify in ("none", "once")]
    contenders = [commands.on_one_cpu(command) for command in (*own, base)]
    times = timed(session, session.corpus(row.shape, row.variant), contenders)
    return {**asdict(row), "times": times, **ratios(times, base.name)}


def peers(session: Session, row: rows.PeerRow) -> Row:
    """dimgx against other tools."""
    corpus = session.corpus(row.shape, row.variant)
    none = session.dimgx.flatten("dimgx --verify none", "--verify", "none")
    once = session.dimgx.flatten("dimgx --verify once")
    outcomes = session.compare(corpus, [none, once, *session.peers], session.peer_rounds)
    times = {name: figures(outcome) for name, outcome in outcomes.items()}
    ratios, verified = (
        {peer.name: ratio(times[peer.name], times[own.name]) for peer in session.peers}
        for own in (none, once)
    )
    fastest = min((value for value in ratios.values() if value is not None), default=None)
    return {
        **asdict(row), "times": times, "times_as_fast": ratios,
        "times_as_fast_verified": verified, "value": fastest,
        "is_met": None if fastest is None else fastest >= row.aim,
    }  # fmt: skip


def encode(session: Session, row: rows.EncodeRow) -> Row:
    """Compressed output against a plain run and then the encoder alone."""
    corpus = session.corpus("ordinary")
    flat = corpus.directory / "flat.tar"
    encoder = commands.encode(row.tool, flat)
    plain = session.dimgx.flatten("plain", "--verify", "none")
    packed = session.dimgx.flatten("packed", "--verify", "none", row.option, output=row.output)
    try:
        session.make_flat(corpus, flat)
        times = timed(session, corpus, [plain, packed, encoder])
    except CommandFailed as exc:
        times = {name: {"failure": str(exc)} for name in ("plain", "packed", encoder.name)}
    finally:
        flat.unlink(missing_ok=True)
    result: Row = {**asdict(row), "against": encoder.name, "times": times}
    result |= {"ratio": None, "ratio_of_minima": None}
    for key, field in (("ratio", "median_s"), ("ratio_of_minima", "min_s")):
        if all(field in found for found in times.values()):
            least = float(times["plain"][field]) + float(times[encoder.name][field])
            result[key] = float(times["packed"][field]) / least
    result["is_met"] = is_met(result["ratio"], row.aim)
    result["is_stretch_met"] = is_met(result["ratio"], row.stretch)
    return result


def layers127(session: Session) -> Row:
    """What 127 small layers add to copying the archive."""
    added = difference(session, "layers127", session.dimgx.flatten("dimgx"), commands.copy())
    return {"id": "layers127", "title": "127 small layers: added to cp", **added} | verdict_of(
        added["value_s"], rows.LAYERS_AIM_S
    )


def start(session: Session) -> Row:
    """What `dimgx --version` adds to a bare interpreter."""
    added = difference(session, "one", session.dimgx.version(), commands.bare_python())
    return {"id": "start", "title": "dimgx --version: added to python -c pass", **added} | (
        verdict_of(added["value_s"], rows.START_AIM_S)
    )


def small(session: Session) -> Row:
    """An image of 10 MB, all told."""
    times = timed(session, session.corpus("small"), [session.dimgx.flatten("dimgx")])
    value = times["dimgx"].get("median_s")
    return {
        "id": "small", "title": "image of 10 MB, all told", "times": times, "value_s": value,
        "of_minima_s": times["dimgx"].get("min_s"), **verdict_of(value, rows.SMALL_AIM_S),
    }  # fmt: skip


def difference(session: Session, shape: str, one: Command, other: Command) -> Row:
    times = timed(session, session.corpus(shape), [one, other])
    first, second = times[one.name], times[other.name]
    result: Row = {"times": times, "value_s": None, "of_minima_s": None}
    if "median_s" in first and "median_s" in second:
        result["value_s"] = first["median_s"] - second["median_s"]
        result["of_minima_s"] = first["min_s"] - second["min_s"]
    return result


def verdict_of(value: float | None, aim: float) -> Row:
    return {"aim_s": aim, "is_met": is_met(value, aim)}


def scaling(session: Session) -> Row:
    """Two threads against one, on gzip layers of similar sizes."""
    corpus = session.corpus("even", "gzip")
    one = session.dimgx.flatten("one thread", "--verify", "none", "--threads", "1")
    two = session.dimgx.flatten("two threads", "--verify", "none", "--threads", "2")
    times = timed(session, corpus, [one, two])
    value = ratio(times[one.name], times[two.name])
    return {
        "id": "scaling", "title": "--threads 2, times as fast as 1", "times": times,
        "value": value, "of_minima": ratio(times[one.name], times[two.name], "min_s"),
        "aim": rows.SCALING_AIM, "is_met": None if value is None else value >= rows.SCALING_AIM,
    }  # fmt: skip


def growth(session: Session, series: rows.Series) -> Row:
    """Time for each unit along a series.

    What grows is the question, so where the images grow the figure is what each further unit costs,
    from one image to the next; for images of other kinds it is the whole time, the start taken off.
    """
    command = session.dimgx.flatten("dimgx", "--verify", "none")
    parted = [image.partition(":") for image in ("one", *series.images)]
    corpora = [session.corpus(shape, variant or "plain") for shape, _, variant in parted]
    outcomes = [Outcome() for _ in corpora]
    for _ in range(session.rounds):
        for corpus, outcome in zip(corpora, outcomes, strict=True):
            if outcome.failure is None:
                session.say(f"growth {series.id}: {corpus.shape} {corpus.variant}")
                session.one_round(corpus, command, outcome)
    base = figures(outcomes[0])
    points: list[Row] = []
    before = {"units": 0, **base}
    for corpus, outcome in zip(corpora[1:], outcomes[1:], strict=True):
        units = corpus.members if series.unit == "member" else len(corpus.layers())
        shape = " ".join((corpus.shape, corpus.variant)).removesuffix(" plain")
        point: Row = {"shape": shape, "units": units, **figures(outcome)}
        point |= cost_of_each(point, before)
        points.append(point)
        if series.is_growing:
            before = point
    # What the start costs varies by more than the smallest image takes: it has no say.
    counted = points[1:] if series.is_growing else points
    each = [point["each_of_minima_us"] for point in counted if "each_of_minima_us" in point]
    is_whole = len(each) == len(counted) > 1 and min(each) > 0
    value = each[-1] / min(each[:-1]) if is_whole else None
    return {
        **asdict(series), "points": points, "value": value,
        "is_met": is_met(value, series.aim),
    }  # fmt: skip


def cost_of_each(point: Row, before: Row) -> Row:
    """Give the time of each unit that `point` has more than `before`, in microseconds."""
    more = point["units"] - before["units"]
    if more <= 0 or "median_s" not in point or "median_s" not in before:
        return {}
    fields = {"each_us": "median_s", "each_of_minima_us": "min_s", "each_cpu_us": "cpu_s"}
    return {name: (point[key] - before[key]) / more * 1e6 for name, key in fields.items()}


# -- memory ----------------------------------------------------------------------------------------


def memory(session: Session, shape: str, variant: str) -> Row:
    """The most memory of one run that is not timed."""
    corpus = session.corpus(shape, variant)
    out = session.fresh_directory()
    try:
        return peak_row(session, corpus, str(out / "flat.tar"), out)
    finally:
        shutil.rmtree(out)


def huge_memory(session: Session, size: int, variant: str) -> Row:
    """The same for an image larger than the memory; its flat tar goes nowhere."""
    need = 0 if variant == "plain" else size + huge.GB
    free = shutil.disk_usage(session.work).free
    if free < need:
        row = {"id": f"huge-{size // huge.GB}-{variant}", "members": 0, "is_met": None}
        return {**row, "failure": f"needs {need / 1e9:.0f} GB on disk, {free / 1e9:.0f} are free"}
    corpus = huge.make(session.work, size, variant)
    out = session.fresh_directory()
    try:
        return peak_row(session, corpus, "-", out)
    finally:
        shutil.rmtree(corpus.directory)
        shutil.rmtree(out)


def peak_row(session: Session, corpus: Corpus, target: str, tmpdir: Path) -> Row:
    """Flatten once and hold the peak against what is allowed."""
    allowed = rows.MEMORY_BASE + rows.MEMORY_PER_MEMBER * corpus.members
    row: Row = {
        "id": f"{corpus.shape}-{corpus.variant}",
        "members": corpus.members,
        "allowed": allowed,
        "memory_option": rows.MEMORY_OPTION,
    }
    session.say(f"memory of {row['id']}")
    job = session.dimgx.job(
        "--memory", str(rows.MEMORY_OPTION), "--tmpdir", tmpdir, "-t", target,
        f"docker-archive:{corpus.archive}",
    )  # fmt: skip
    try:
        peak = run_for_peak(job)
    except CommandFailed as exc:
        return {**row, "failure": str(exc), "is_met": None}
    spare = max(0, peak.decoded - rows.MEMORY_OPTION)
    return {
        **row,
        "resident": peak.resident,
        "decoded": peak.decoded,
        "is_met": peak.resident + spare <= allowed,
    }


# -- rightness -------------------------------------------------------------------------------------


def rightness(session: Session, tools: Sequence[Command]) -> list[Row]:
    """Run every tool on the telling images and compare with the answers written by hand."""
    corpora = [telling.make(session.work) for telling in TELLING]
    result = []
    for tool in tools:
        wrong: dict[str, str] = {}
        for corpus in corpora:
            outcome = Outcome()
            session.one_round(corpus, tool, outcome)
            if outcome.verdict != "right":
                wrong[corpus.shape] = outcome.failure or outcome.example or str(outcome.verdict)
        result.append(
            {
                "tool": tool.name,
                "right": len(corpora) - len(wrong),
                "of": len(corpora),
                "wrong": wrong,
            }
        )
    return result
