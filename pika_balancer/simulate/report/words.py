"""A scenario and its result as text, for the terminal and for the page."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from pika_balancer.distributions import (
    Constant,
    Distribution,
    Empirical,
    Exponential,
    Gamma,
    Lognormal,
    Recorded,
    UniformDistribution,
    Weibull,
)
from pika_balancer.simulate.arrivals import Arrivals, Bursty, Daily, OnOff, Poisson, Regular, Trace
from pika_balancer.simulate.report.numbers import (
    Kind,
    count,
    duration,
    exactly,
    figure,
    percent,
    rate,
    with_interval,
)
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.scenario import Loss, Queue, Retry, Scenario, SimulatedAccount, WhenFull

_MOST_GROUPS: Final = 8
_LEVELS: Final = {
    "mean": "mean",
    "p50": "median",
    "p90": "90% within",
    "p95": "95% within",
    "p99": "99% within",
    "max": "longest",
}
FIGURES: Final[Mapping[str, tuple[str, Kind]]] = {
    "refused_fraction": ("found every account full", "share"),
    "gave_up_fraction": ("gave up", "share"),
    **{f"wait.{level}": (f"wait, {text}", "time") for level, text in _LEVELS.items()},
    **{f"time_in_system.{level}": (f"time in system, {text}", "time") for level, text in _LEVELS.items()},
    "attempts": ("submits per job", "number"),
    "in_flight": ("jobs in flight", "number"),
    "utilisation": ("slots in use", "share"),
    "imbalance": ("imbalance (max − min in flight)", "number"),
}
"""Estimates by name: label and kind."""


def question(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Yield the scenario as pairs of a heading and its text."""
    yield "accounts", accounts(scenario.accounts)
    yield from (("account " + account.channel, text) for account, text in _special(scenario.accounts))
    yield "arrivals", arrivals(scenario.arrivals)
    yield "service", distribution(scenario.service)
    load, slots = scenario.offered_load, scenario.slots
    if math.isfinite(load):
        yield "load", f"{figure(load)} erlang on {count(slots, 'slot')} ({percent(load / slots)})"
    yield "when full", when_full(scenario.when_full)
    policy = scenario.policy
    yield "policy", policy if isinstance(policy, str) else getattr(policy, "__name__", "a function")
    if scenario.slowdown is not None:
        slower = f"{percent(scenario.slowdown.each)} slower for each job above {scenario.slowdown.above}"
        yield "slowdown", f"{slower} at once"
    if scenario.poll_period:
        yield "poll", f"slots become free at the next poll, every {duration(scenario.poll_period)}"
    faults = scenario.faults
    if faults.rate_limited or faults.accepted:
        yield (
            "faults",
            (
                f"{percent(faults.rate_limited)} of submits answered 429, "
                f"{percent(faults.accepted)} accepted and answered 5xx"
            ),
        )


def accounts(these: Sequence[SimulatedAccount]) -> str:
    """Return the number of accounts, their caps and slots."""
    slots = sum(account.max_jobs for account in these)
    groups = [
        (sum(1 for _ in group), cap)
        for cap, group in itertools.groupby(account.max_jobs for account in these)
    ]
    how_many = count(len(these), "account")
    if len(groups) == 1:
        return f"{how_many} with cap {groups[0][1]}; {count(slots, 'slot')}"
    if len(these) <= _MOST_GROUPS:
        groups = [(1, account.max_jobs) for account in these]
    caps = [f"{alike}×{cap}" if alike > 1 else str(cap) for alike, cap in groups]
    if len(caps) > _MOST_GROUPS:
        caps[_MOST_GROUPS - 1 :] = ["…"]
    return f"{how_many} with caps {', '.join(caps)}; {count(slots, 'slot')}"


def arrivals(these: Arrivals) -> str:  # noqa: PLR0911 - one for each class
    """Return a description of arrivals."""
    match these:
        case Poisson():
            return f"{rate(these.rate)}, independent of each other (Poisson)"
        case Bursty():
            return f"{rate(these.rate)}, with gaps of cv {figure(these.cv)} (Poisson has 1)"
        case Regular():
            return f"{rate(these.rate)}, evenly: one every {duration(1 / these.rate)}"
        case OnOff():
            return (
                f"{rate(these.busy_rate)} for {duration(these.busy)}, then {rate(these.quiet_rate)} for "
                f"{duration(these.quiet)}, alternating, on average; {rate(these.rate)} in all"
            )
        case Daily():
            return (
                f"{rate(these.rate)} by a daily profile, {rate(max(these.hourly) / 3600)} in its busiest hour"
            )
        case Trace():
            scaled = "" if these.time_scale == 1 else f"; times × {figure(these.time_scale)}"
            span = (these.arrivals[-1] - these.arrivals[0]) * these.time_scale
            over = f"over {duration(span)} ({rate(these.rate)})" if span else "all at once"
            return f"{count(len(these), 'recorded job')} {over}{scaled}"
        case _:
            return f"{rate(these.rate)} by {type(these).__name__}"


def distribution(this: Distribution) -> str:  # noqa: PLR0911 - one for each class
    """Return a description of a distribution of durations."""
    mean = f"mean {duration(this.mean)}"
    match this:
        case Constant():
            return f"{duration(this.mean)} each"
        case Exponential():
            return f"exponential, {mean}"
        case UniformDistribution():
            return f"uniform, {duration(this.low)} to {duration(this.high)}"
        case Lognormal() | Gamma():
            return f"{type(this).__name__.lower()}, {mean}, cv {figure(this.cv)}"
        case Weibull():
            return f"Weibull, {mean}, shape {figure(this.shape)}"
        case Recorded():
            return f"as recorded, {mean}, cv {figure(_cv(this))}"
        case Empirical():
            return (
                f"drawn from {count(len(this.values), 'recorded duration')}, {mean}, cv {figure(_cv(this))}"
            )
        case _:
            return f"{type(this).__name__}, {mean}, cv {figure(_cv(this))}"


def when_full(this: WhenFull) -> str:
    """Return a description of what a job does that finds every account full."""
    match this:
        case Loss():
            return "a job that finds every account full is lost"
        case Queue():
            limit = "" if this.limit == math.inf else f", at most {figure(this.limit)} of them"
            patience = "" if this.patience is None else f"; patience {distribution(this.patience)}"
            return f"jobs wait, first come first served{limit}{patience}"
        case Retry():
            varied = "" if not this.jitter else f" ± {percent(this.jitter)}"
            varied = " on average (exponential)" if this.exponential else varied
            tries = count(this.attempts, "try", "tries")
            return f"tried again every {duration(this.delay)}{varied}, {tries} in all"


def answer(result: Result) -> str:
    """Return the result in sentences."""
    if not result.jobs:
        return "No job arrived."
    jobs, rule = count(result.jobs, "job"), result.scenario.when_full
    refused, interval = with_interval(result.refused_fraction, "share")
    sentences = [f"{refused} of {jobs} found every account full"]
    if interval != "-":
        sentences[0] += f" (95% interval {interval})"
    if isinstance(rule, Loss):
        sentences[0] += " and were lost" if result.gave_up else ""
    else:
        wait = result.wait
        if result.completed and wait.max > 0:
            sentences.append(
                f"the wait was {duration(wait.mean.value)} on average, "
                f"at most {duration(wait.p95.value)} for 95% of the jobs"
            )
        elif result.completed:
            sentences.append("no job waited")
        if result.gave_up:
            sentences.append(f"{percent(result.gave_up_fraction.value)} gave up")
    if math.isfinite(result.utilisation.value):
        sentences.append(f"the slots were in use {percent(result.utilisation.value)} of the time")
    if result.unfinished:
        sentences.append(f"{count(result.unfinished, 'job')} had not ended when the run did")
    return ". ".join(text[0].upper() + text[1:] for text in sentences) + "."


def lines(result: Result) -> list[tuple[str, str, str, str]]:
    """Return label, estimate, interval and exact value of the figures that matter in the scenario."""
    rule, theory, known = result.scenario.when_full, result.theory, dict(result.estimates())
    left_out = {f"time_in_system.{level}" for level in _LEVELS if level != "mean"}
    if isinstance(rule, Loss):
        left_out |= {"gave_up_fraction", *(f"wait.{level}" for level in _LEVELS)}
    if not isinstance(rule, Retry):
        left_out.add("attempts")
    return [
        (label, *with_interval(known[name], kind), exactly(theory[name], kind) if name in theory else "")
        for name, (label, kind) in FIGURES.items()
        if name not in left_out
    ]


def _special(these: Iterable[SimulatedAccount]) -> Iterator[tuple[SimulatedAccount, str]]:
    """Yield the accounts that have more than a cap, with a description."""
    for account in these:
        facts = [f"speed {figure(account.speed)}"] if account.speed != 1 else []
        for begin, end in account.outages:
            until = "on" if end == math.inf else f"to {duration(end)}"
            facts.append(f"out from {duration(begin)} {until}")
        if account.failures is not None:
            up, down = account.failures.mean_up, account.failures.mean_down
            facts.append(f"fails every {duration(up)} for {duration(down)}, on average")
        if facts:
            yield account, "; ".join(facts)


def _cv(this: Distribution) -> float:
    return math.sqrt(this.variance) / this.mean if this.mean else 0.0
