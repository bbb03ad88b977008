"""The report of a simulation."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Final

from pika_balancer.simulate.report import words
from pika_balancer.simulate.report.canvas import Axes, Palette, log_scale
from pika_balancer.simulate.report.numbers import (
    UNKNOWN,
    count,
    duration,
    figure,
    percent,
    unit_of,
    with_interval,
)
from pika_balancer.simulate.report.page import Page, Picture, Table
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.scenario import Scenario

_MOST_NAMED: Final = 24
"""Maximum number of accounts that get a labelled bar each."""
_LONGEST_NAME: Final = 24
_FAR: Final = 0.62
"""Beyond this part of the axis a label is on the left of its point."""
_SHARES: Final = (0.5, 0.1, 0.05, 0.01)


def report_of(result: Result) -> Page:
    """Return the report of a simulation."""
    return Page(
        title="What the accounts will do",
        answer=words.answer(result),
        question=tuple(words.question(result.scenario)),
        notes=result.notes,
        parts=(figures(result), *pictures(result), accounts(result)),
        footer=footer(result),
    )


def figures(result: Result) -> Table:
    """Return the figures with their intervals, and the exact values that apply."""
    lines = words.lines(result)
    if not any(exact for *_, exact in lines):
        return Table("The figures", ("", "estimate", "95% interval"), [line[:3] for line in lines])
    rows = [(*line, exact or UNKNOWN) for *line, exact in lines]
    return Table("The figures", ("", "estimate", "95% interval", "exact"), rows)


def pictures(result: Result) -> Iterator[Picture]:
    """Yield the pictures of a simulation."""
    yield Picture("flight", partial(_draw_in_flight, result), _say_in_flight(result))
    if result.wait.max > 0 and len(result.wait.tail) > 1:
        yield Picture("waits", partial(_draw_waits, result), _say_waits(result))
    size = len(result.accounts)
    height = 2.9 if size > _MOST_NAMED else 1.1 + 0.26 * size
    yield Picture("accounts", partial(_draw_accounts, result), _say_accounts(result), height)


def accounts(result: Result) -> Table:
    """Return what each account did."""
    rows: list[tuple[str, ...]] = []
    for account in result.accounts:
        share, busy = with_interval(account.share, "share")[0], with_interval(account.utilisation, "share")
        rows.append((account.channel, str(account.max_jobs), f"{account.jobs:,}", share, *busy))
    header = ("account", "cap", "jobs", "share of jobs", "slots in use", "95% interval")
    return Table("The accounts", header, rows)


def footer(result: Result) -> str:
    """Return how the result was made."""
    several = result.batches > 1
    batches = f"intervals from {result.batches} batches" if several else "too short for intervals"
    return (
        f"pika_balancer, engine {result.engine}, seed {result.seed}; "
        f"{duration(result.duration)} of simulated time after the warm-up ({result.warm_up}); {batches}."
    )


def _draw_in_flight(result: Result, axes: Axes, palette: Palette) -> None:
    series = result.series
    axes.set_title("Jobs in flight")
    if not series.in_flight:
        axes.set_axis_off()
        axes.text(0.0, 0.5, "no job arrived", transform=axes.transAxes, color=palette.quiet, va="center")
        return
    length, unit = unit_of(len(series.in_flight) * series.width)
    edges = [(series.start + place * series.width) / length for place in range(len(series.in_flight) + 1)]
    axes.stairs(series.in_flight, edges, color=palette.accent, fill=True, alpha=0.16)
    axes.stairs(series.in_flight, edges, color=palette.accent, linewidth=1.4, baseline=None)
    steps = capacity(result.scenario, series.start, edges[-1] * length)
    moments = [moment / length for moment, _ in steps] + [edges[-1]]
    axes.stairs(
        [slots for _, slots in steps],
        moments,
        color=palette.limit,
        linewidth=1.4,
        linestyle=(0, (5, 3)),
        baseline=None,
    )
    highest = max(slots for _, slots in steps)
    axes.annotate(
        f"capacity {steps[-1][1]}",
        (edges[-1], steps[-1][1]),
        color=palette.limit,
        fontsize=9,
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
    )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.18 * max(highest, *series.in_flight))
    axes.set_xlabel(f"simulated time ({unit})")
    axes.set_ylabel("jobs")
    axes.locator_params(axis="y", integer=True)


def _say_in_flight(result: Result) -> str:
    series = result.series
    if not series.in_flight:
        return "No job arrived."
    most, piece = figure(max(series.in_flight)), duration(series.width)
    return (
        f"Jobs in flight over {duration(len(series.in_flight) * series.width)}: "
        f"{figure(result.in_flight.value)} on average, at most {most} over {piece}, "
        f"of {count(result.scenario.slots, 'slot')}."
    )


def capacity(scenario: Scenario, start: float, end: float) -> list[tuple[float, int]]:
    """Return pairs of a moment and the slots from then on, without accounts in a planned outage."""
    moments = {start}
    for account in scenario.accounts:
        moments.update(moment for outage in account.outages for moment in outage if start < moment < end)
    return [
        (moment, sum(a.max_jobs for a in scenario.accounts if not _out(a.outages, moment)))
        for moment in sorted(moments)
    ]


def _draw_waits(result: Result, axes: Axes, palette: Palette) -> None:
    axes.set_title("Waits")
    tail = result.wait.tail
    length, unit = unit_of(result.wait.max)
    least = max(tail[-2][1], 1e-4)
    times = [seconds / length for seconds, _ in tail]
    shares = [max(share, least / 2) for _, share in tail]
    axes.step(times, shares, where="post", color=palette.accent, linewidth=1.6)
    log_scale(axes, percent)
    axes.set_ylim(least / 1.5, 1.3)
    axes.set_xlim(0, max(times) * 1.04)
    for share, estimate in zip(_SHARES, _levels(result), strict=True):
        if estimate > 0 and share > least:
            axes.plot([estimate / length], [share], "o", color=palette.accent, markersize=5)
            text = f"{percent(share)} wait longer than {duration(estimate)}"
            far = estimate > _FAR * result.wait.max
            axes.annotate(
                text,
                (estimate / length, share),
                xytext=(-8, -5) if far else (7, 4),
                textcoords="offset points",
                ha="right" if far else "left",
                va="top" if far else "bottom",
                fontsize=9,
                color=palette.ink,
            )
    axes.set_xlabel(f"wait ({unit})")
    axes.set_ylabel("share of jobs that wait longer")


def _say_waits(result: Result) -> str:
    levels = ", ".join(
        f"{percent(share)} waited longer than {duration(estimate)}"
        for share, estimate in zip(_SHARES, _levels(result), strict=True)
        if estimate > 0
    )
    return f"Of the jobs, {levels or 'few waited'}; the longest wait was {duration(result.wait.max)}."


def _draw_accounts(result: Result, axes: Axes, palette: Palette) -> None:
    axes.set_title("Slots in use, by account")
    values = [100 * account.utilisation.value for account in result.accounts]
    bars = [0.0 if math.isnan(value) else value for value in values]
    whiskers = [
        [_reach(account.utilisation.value, account.utilisation.low) for account in result.accounts],
        [_reach(account.utilisation.value, account.utilisation.high) for account in result.accounts],
    ]
    if len(bars) > _MOST_NAMED:
        places = [place + 0.5 for place in range(len(bars) + 1)]
        axes.stairs(bars, places, color=palette.accent, fill=True, alpha=0.6)
        axes.set_xlim(places[0], places[-1])
        axes.set_ylim(0, 100)
        axes.set_xlabel("account number")
        axes.set_ylabel("slots in use (%)")
        axes.grid(visible=False, axis="x")
        return
    rows = range(len(bars))
    axes.barh(rows, bars, color=palette.accent, alpha=0.6, height=0.62)
    axes.errorbar(bars, rows, xerr=whiskers, fmt="none", ecolor=palette.ink, elinewidth=1.2, capsize=3)
    axes.set_yticks(rows, labels=[_name(result, row) for row in rows], parse_math=False)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("slots in use (%), with 95% interval")
    axes.grid(visible=False, axis="y")


def _say_accounts(result: Result) -> str:
    values = [account.utilisation.value for account in result.accounts]
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "The use of the accounts is unknown."
    if len(known) == 1:
        return f"Slots in use on the account: {percent(known[0])}."
    spread = f"from {percent(min(known))} to {percent(max(known))}"
    return f"Slots in use on each of the {len(values)} accounts: {spread}."


def _levels(result: Result) -> tuple[float, ...]:
    wait = result.wait
    return wait.p50.value, wait.p90.value, wait.p95.value, wait.p99.value


def _reach(value: float, end: float) -> float:
    reach = 100 * abs(value - end)
    return 0.0 if math.isnan(reach) else reach


def _out(outages: tuple[tuple[float, float], ...], moment: float) -> bool:
    return any(begin <= moment < end for begin, end in outages)


def _name(result: Result, row: int) -> str:
    """Return the channel, or the number of an account whose channel cannot be drawn."""
    account = result.accounts[row]
    channel = account.channel
    fit = channel.isascii() and channel.isprintable() and len(channel) <= _LONGEST_NAME
    return f"{channel if fit else f'no. {row + 1}'} ({account.max_jobs})"
