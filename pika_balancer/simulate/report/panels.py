"""The pictures of a simulation: jobs in flight over time, the law of the waits, how busy each account is.

Each function draws on matplotlib's axes. What is drawn is said in words by the function beside it, for those
who cannot see it.
"""

import math
from typing import Final

from pika_balancer.simulate.report.canvas import Axes, Palette
from pika_balancer.simulate.report.numbers import count, duration, figure, percent, unit_of
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.scenario import Scenario

_MOST_NAMED: Final = 24
"""Accounts, at most, that have a bar with a name; more are drawn as a skyline."""
_LONGEST_NAME: Final = 24
_FAR: Final = 0.62
"""From this part of the axis on, a label stands on the left of its point."""
_SHARES: Final = (0.5, 0.1, 0.05, 0.01)


def draw_in_flight(axes: Axes, result: Result, palette: Palette) -> None:
    """Draw the jobs in flight over time, and the capacity above them."""
    series = result.series
    axes.set_title("Jobs in flight")
    if not series.in_flight:
        _nothing(axes, "no job came", palette)
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
    _label(axes, edges[-1], steps[-1][1], f"capacity {steps[-1][1]}", palette.limit)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.18 * max(highest, *series.in_flight))
    axes.set_xlabel(f"simulated time ({unit})")
    axes.set_ylabel("jobs")
    axes.locator_params(axis="y", integer=True)


def say_in_flight(result: Result) -> str:
    """Return what is to be seen in the picture of jobs in flight."""
    series = result.series
    if not series.in_flight:
        return "No job came."
    most, piece = figure(max(series.in_flight)), duration(series.width)
    return (
        f"Jobs in flight over {duration(len(series.in_flight) * series.width)}: "
        f"{figure(result.in_flight.value)} on average, at most {most} over {piece}, "
        f"of {count(result.scenario.slots, 'slot')}."
    )


def capacity(scenario: Scenario, start: float, end: float) -> list[tuple[float, int]]:
    """Return from when on there are how many slots: all but those of accounts that are out by plan."""
    moments = {start}
    for account in scenario.accounts:
        moments.update(moment for outage in account.outages for moment in outage if start < moment < end)
    return [
        (moment, sum(a.max_jobs for a in scenario.accounts if not _out(a.outages, moment)))
        for moment in sorted(moments)
    ]


def somebody_waited(result: Result) -> bool:
    """Return whether there is a law of waits to draw."""
    return result.wait.max > 0 and len(result.wait.tail) > 1


def draw_waits(axes: Axes, result: Result, palette: Palette) -> None:
    """Draw which share of the jobs waited longer than a time, for every time."""
    axes.set_title("Waits")
    tail = result.wait.tail
    length, unit = unit_of(result.wait.max)
    least = max(tail[-2][1], 1e-4)
    times = [seconds / length for seconds, _ in tail]
    shares = [max(share, least / 2) for _, share in tail]
    axes.step(times, shares, where="post", color=palette.accent, linewidth=1.6)
    axes.set_yscale("log")
    axes.set_ylim(least / 1.5, 1.3)
    axes.set_xlim(0, max(times) * 1.04)
    axes.yaxis.set_major_formatter(_percent_tick)
    axes.yaxis.set_minor_formatter(_no_tick)
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


def say_waits(result: Result) -> str:
    """Return what is to be seen in the picture of the waits."""
    levels = ", ".join(
        f"{percent(share)} waited longer than {duration(estimate)}"
        for share, estimate in zip(_SHARES, _levels(result), strict=True)
        if estimate > 0
    )
    return f"Of the jobs, {levels or 'few waited'}; the longest wait was {duration(result.wait.max)}."


def draw_accounts(axes: Axes, result: Result, palette: Palette) -> None:
    """Draw how busy each account is, with its interval."""
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
        axes.set_xlabel("account, by its place in the list")
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


def accounts_height(result: Result) -> float:
    """Return how high the picture of the accounts should be, in inches."""
    count = len(result.accounts)
    return 2.9 if count > _MOST_NAMED else 1.1 + 0.26 * count


def say_accounts(result: Result) -> str:
    """Return what is to be seen in the picture of the accounts."""
    values = [account.utilisation.value for account in result.accounts]
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "How busy the accounts are is not known."
    if len(known) == 1:
        return f"The account has {percent(known[0])} of its slots in use."
    spread = f"from {percent(min(known))} to {percent(max(known))}"
    return f"Share of its slots that each of the {len(values)} accounts has in use: {spread}."


def _levels(result: Result) -> tuple[float, ...]:
    wait = result.wait
    return wait.p50.value, wait.p90.value, wait.p95.value, wait.p99.value


def _reach(value: float, end: float) -> float:
    reach = 100 * abs(value - end)
    return 0.0 if math.isnan(reach) else reach


def _out(outages: tuple[tuple[float, float], ...], moment: float) -> bool:
    return any(begin <= moment < end for begin, end in outages)


def _name(result: Result, row: int) -> str:
    """Return the channel, or its place where a picture could not show it."""
    account = result.accounts[row]
    channel = account.channel
    fit = channel.isascii() and channel.isprintable() and len(channel) <= _LONGEST_NAME
    return f"{channel if fit else f'no. {row + 1}'} ({account.max_jobs})"


def _percent_tick(share: float, _place: int) -> str:
    return percent(share)


def _no_tick(_share: float, _place: int) -> str:
    return ""


def _label(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    where = {"xytext": (0, 4), "textcoords": "offset points", "ha": "right", "va": "bottom"}
    axes.annotate(text, (x, y), color=colour, fontsize=9, **where)


def _nothing(axes: Axes, why: str, palette: Palette) -> None:
    axes.set_axis_off()
    axes.text(0.0, 0.5, why, transform=axes.transAxes, color=palette.quiet, va="center")
