"""Measures subjects in alternating order, takes ratios within each round, and reports medians.

The interval of a ratio is that of the sign test: the true median lies between the k-th smallest and the k-th
largest of n ratios with at least 95 % probability, whatever their distribution (k from the binomial
distribution). An aim is met if the whole interval is at or below it, missed if the whole interval is above,
otherwise the row is too noisy. Without an aim, too noisy means that an end of the interval is more than a
fifth away from the median. Fewer than 6 rounds have no interval.
"""

import gc
import importlib
import math
import statistics
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Final

import attrs

ROUNDS: Final = 15
"""Default number of rounds."""
NOISY: Final = 0.2
"""Largest distance of an end of the interval from the median, as a fraction of it, without an aim."""

_SCALES: Final[Mapping[str, list[tuple[str, float]]]] = {
    "s": [("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)],
    "B": [("MB", 1e6), ("kB", 1e3)],
}

Subject = Callable[[], float]
"""Runs one round of its work and returns seconds per operation."""


@attrs.frozen
class Row:
    """One line of the table."""

    question: str
    """Name of the question."""
    subject: str
    """What was measured."""
    seconds: float
    """Median seconds per operation, or a number of `unit`; NaN if it was left out."""
    spread: float
    """Half the range of the middle half of the rounds, as a fraction of the median; 0 for a count."""
    against: str
    """The subject that it is compared with; itself for the reference."""
    ratio: float
    """Median of the ratios within each round; 1.0 is as fast as the other."""
    aim: float | None = None
    """The largest ratio that meets the aim."""
    low: float | None = None
    """Lower end of the ratio's 95 % interval; None for a count and for too few rounds."""
    high: float | None = None
    """Upper end."""
    unit: str = "s"
    """Unit of `seconds`: `s`, `B` for bytes, or a word."""
    note: str = ""
    """A remark, such as why it was left out."""

    @property
    def verdict(self) -> str:
        """`met`, `missed`, `too noisy`, or empty."""
        if math.isnan(self.seconds) or (self.against == self.subject and self.aim is None):
            return ""
        if self.unit != "s":
            return "" if self.aim is None else "met" if self.ratio <= self.aim else "missed"
        if self.low is None or self.high is None:
            return "too noisy"
        if self.aim is not None:
            return "met" if self.high <= self.aim else "missed" if self.low > self.aim else "too noisy"
        return "too noisy" if max(self.high - self.ratio, self.ratio - self.low) > NOISY * self.ratio else ""


def interval(ratios: list[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the median; None for fewer than 6."""
    n = len(ratios)
    if n < 6:
        return None
    # The largest k for which fewer than k of n fair coins show heads with at most 2.5 % probability.
    k, below = 0, 0.0
    while (below := below + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    ordered = sorted(ratios)
    return ordered[k - 1], ordered[n - k]


def compare(
    question: str,
    subjects: Mapping[str, Subject],
    against: str,
    *,
    rounds: int = 15,
    aims: Mapping[str, float] | None = None,
) -> list[Row]:
    """Measure the subjects in alternating order and return a row for each, compared with one of them."""
    for run in subjects.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in subjects}
    order = list(subjects.items())
    for _ in range(rounds):
        for name, run in order:
            gc.collect()
            times[name].append(run())
        # The order alternates, so that no subject always runs directly after the same one.
        order.reverse()
    rows: list[Row] = []
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4)
        ratios = [a / b for a, b in zip(taken, times[against], strict=True)]
        ends = interval(ratios) or (None, None)
        rows.append(
            Row(
                question,
                name,
                median,
                (high - low) / 2 / median,
                against,
                statistics.median(ratios),
                (aims or {}).get(name),
                *ends,
            )
        )
    return rows


def count(question: str, subject: str, value: float, unit: str, against: Row | None = None) -> Row:
    """Return a row for an exact number, compared with another such row or alone."""
    other = subject if against is None else against.subject
    ratio = 1.0 if against is None or not against.seconds else value / against.seconds
    return Row(question, subject, value, 0.0, other, ratio, unit=unit)


def peer(name: str) -> ModuleType | None:
    """Return another library; None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def left_out(question: str, subject: str, why: str) -> Row:
    """Return a row without a figure, and the reason."""
    return Row(question, subject, math.nan, 0.0, subject, math.nan, note=why)


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| question | subject | per operation | spread | ratio | against | aim |",
        "|---|---|---:|---:|---:|---|---:|",
    ]
    return "\n".join(lines + ["| " + " | ".join(_cells(row)) + " |" for row in rows])


def _cells(row: Row) -> list[str]:
    if math.isnan(row.seconds):
        return [row.question, row.subject, f"left out: {row.note}", "", "", "", ""]
    spread = f"±{row.spread:.0%}" if row.unit == "s" else "exact"
    ratio = against = ""
    if row.subject != row.against:
        against = row.against
        ends = "" if row.low is None or row.high is None else f" ({_times(row.low)}–{_times(row.high)})"
        ratio = f"{_times(row.ratio)}{ends}"
    aim = " ".join(["" if row.aim is None else f"≤ {row.aim:g}", row.verdict]).strip()
    subject = f"{row.subject} ({row.note})" if row.note else row.subject
    return [row.question, subject, _amount(row.seconds, row.unit), spread, ratio, against, aim]


def _times(ratio: float) -> str:
    return f"{ratio:.3g}" if ratio < 999.5 else f"{ratio:,.0f}"


def _amount(value: float, unit: str) -> str:
    if unit not in _SCALES:
        return f"{value:,.0f} {unit}"
    # Above this, three digits would show as `1e+03`.
    name, scale = next((each for each in _SCALES[unit] if value >= 0.9995 * each[1]), _SCALES[unit][-1])
    return f"{value / scale:.3g} {name}"
