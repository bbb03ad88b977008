"""How this folder measures: subjects take turns, ratios are taken within a round, medians are reported."""

import gc
import statistics
from collections.abc import Callable, Mapping

import attrs

Subject = Callable[[], float]
"""Runs one round of its work and returns seconds per operation."""


@attrs.frozen
class Row:
    """One line of the table."""

    question: str
    """Which script asks."""
    subject: str
    """What was measured."""
    seconds: float
    """Median seconds per operation."""
    spread: float
    """Half the range of the middle half of the rounds, as a fraction of the median."""
    against: str
    """What it was held against."""
    ratio: float
    """Median of the ratios within each round; 1.0 is as quick as the other."""
    aim: float | None = None
    """The ratio that is aimed at, or less."""


def compare(
    question: str,
    subjects: Mapping[str, Subject],
    against: str,
    *,
    rounds: int = 15,
    aims: Mapping[str, float] | None = None,
) -> list[Row]:
    """Let the subjects take turns and return a row for each, held against one of them."""
    for run in subjects.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, run in subjects.items():
            gc.collect()
            times[name].append(run())
    rows: list[Row] = []
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4)
        ratio = statistics.median(a / b for a, b in zip(taken, times[against], strict=True))
        rows.append(
            Row(question, name, median, (high - low) / 2 / median, against, ratio, (aims or {}).get(name))
        )
    return rows


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| question | subject | time per operation | spread | ratio | against | aim |",
        "|---|---|---:|---:|---:|---|---:|",
    ]
    for row in rows:
        aim = "" if row.aim is None else f"≤ {row.aim:g}"
        itself = row.subject == row.against
        lines.append(
            f"| {row.question} | {row.subject} | {_time(row.seconds)} | ±{row.spread:.0%} | "
            f"{'' if itself else f'{row.ratio:.2f}'} | {'' if itself else row.against} | {aim} |"
        )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"
