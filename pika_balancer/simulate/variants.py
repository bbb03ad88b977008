"""Variants of a scenario (more accounts, another rate, slower service), and how bursty it is."""

import itertools
import math
from typing import Final

import attrs

from pika_balancer.distributions import Empirical, Recorded
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.arrivals import Arrivals, Bursty, Daily, OnOff, Poisson, Regular, Trace
from pika_balancer.simulate.closed_form import closed_form, why_unstable
from pika_balancer.simulate.report.numbers import duration, percent
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.run import simulate
from pika_balancer.simulate.scenario import Loss, Queue, Retry, Scenario, SimulatedAccount
from pika_balancer.simulate.streams import Streams

_SAMPLE: Final = 50_000
_LONG_RUN: Final = 100_000
"""Jobs that estimate the long run of a Poisson model well enough for a comparison."""
_COMPARED: Final = {
    Loss: ("refused_fraction",),
    Queue: ("wait.mean",),
    Retry: ("refused_fraction", "wait.mean"),
}
"""The figures compared with Poisson arrivals, by what jobs do when every account is full."""


def with_accounts(scenario: Scenario, count: int) -> Scenario:
    """Return the scenario with `count` accounts: its own first, then more like its last one."""
    own = scenario.accounts
    # Numbered channels continue with the next number.
    numbered = all(account.channel == str(number) for number, account in enumerate(own, 1))
    prefix = "" if numbered else f"{own[-1].channel}+"
    more = (attrs.evolve(own[-1], channel=f"{prefix}{k + numbered}") for k in range(len(own), count))
    return attrs.evolve(scenario, accounts=(*own[:count], *more))


def with_slots(scenario: Scenario, count: int) -> Scenario:
    """Return the scenario with `count` slots: the last account is cut to fit."""
    missing = max(0, count - scenario.slots)
    more = -(-missing // scenario.accounts[-1].max_jobs)
    accounts: list[SimulatedAccount] = []
    left = count
    for account in with_accounts(scenario, len(scenario.accounts) + more).accounts:
        if left > 0:
            accounts.append(attrs.evolve(account, max_jobs=min(left, account.max_jobs)))
            left -= account.max_jobs
    return attrs.evolve(scenario, accounts=accounts)


def with_rate(scenario: Scenario, times: float) -> Scenario:
    """Return the scenario with its rate of arrivals multiplied by `times`."""
    arrivals = scenario.arrivals
    other: Arrivals
    if isinstance(arrivals, Poisson | Regular | Bursty):
        other = attrs.evolve(arrivals, rate=arrivals.rate * times)
    elif isinstance(arrivals, OnOff):
        other = attrs.evolve(
            arrivals, busy_rate=arrivals.busy_rate * times, quiet_rate=arrivals.quiet_rate * times
        )
    elif isinstance(arrivals, Daily):
        other = Daily(jobs * times for jobs in arrivals.hourly)
    elif isinstance(arrivals, Trace):
        other = attrs.evolve(arrivals, time_scale=arrivals.time_scale / times)
    else:
        raise InvalidArgument(
            f"the rate of {type(arrivals).__name__} cannot be changed; use arrivals of this package",
            field="arrivals",
        )
    return attrs.evolve(scenario, arrivals=other)


def slower(scenario: Scenario, times: float) -> Scenario:
    """Return the scenario with service times multiplied by `times`, on every account."""
    accounts = [attrs.evolve(account, speed=account.speed / times) for account in scenario.accounts]
    return attrs.evolve(scenario, accounts=accounts)


def without_largest(scenario: Scenario) -> Scenario | None:
    """Return the scenario without its largest account, None if it has only one."""
    accounts = list(scenario.accounts)
    if len(accounts) == 1:
        return None
    accounts.remove(max(accounts, key=lambda account: account.max_jobs))
    return attrs.evolve(scenario, accounts=accounts)


def as_poisson(scenario: Scenario) -> Scenario | None:
    """Return the scenario with Poisson arrivals of the same rate; None if all jobs arrive at once."""
    rate = scenario.arrivals.rate
    if not 0 < rate < math.inf:
        return None
    service = scenario.service
    if isinstance(service, Recorded):
        service = Empirical(service.values)
    return attrs.evolve(scenario, arrivals=Poisson(rate), service=service)


@attrs.frozen
class Burstiness:
    """How much arrivals differ from Poisson."""

    dispersion: float
    """Variance over mean of the arrivals per window; 1 if Poisson, more in bursts."""
    window: float
    """The window, in seconds: the mean service time, because jobs that arrive within it compete for slots."""
    cv: float
    """Standard deviation over mean of the gaps; 1 if Poisson."""
    significant: bool
    """Whether the dispersion exceeds 1.2 and what Poisson arrivals show by chance."""

    @property
    def text(self) -> str:
        """A sentence for people."""
        return (
            f"jobs come in bursts: the variance of their number in {duration(self.window)} is "
            f"{self.dispersion:.1f} times that of Poisson arrivals"
        )


def burstiness(scenario: Scenario) -> Burstiness | None:
    """Return how much the arrivals differ from Poisson; None if they are Poisson, or too few to tell."""
    arrivals = scenario.arrivals
    if isinstance(arrivals, Poisson):
        return None
    window = scenario.service.mean
    if isinstance(arrivals, Trace):
        trace = arrivals
    else:
        trace = Trace(itertools.islice(arrivals.times(Streams(0)), _SAMPLE))
    try:
        dispersion = trace.dispersion(window)
    except InvalidArgument:  # shorter than two windows
        return None
    gaps = [later - sooner for sooner, later in itertools.pairwise(trace.arrivals)]
    mean = math.fsum(gaps) / len(gaps)
    cv = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean if mean else math.nan
    windows = (trace.arrivals[-1] - trace.arrivals[0]) * trace.time_scale / window
    # The dispersion of Poisson arrivals is a chi-square over its degrees of freedom.
    noise = 3 * math.sqrt(2 / max(1.0, windows - 1))
    return Burstiness(dispersion, window, cv, dispersion > 1 + max(0.2, noise))


def in_bursts(result: Result) -> str | None:
    """Return a note on the bursts in a result's arrivals, compared with Poisson arrivals of the same rate.

    None if the arrivals are no burstier than Poisson arrivals are by chance.
    """
    scenario = result.scenario
    bursts = burstiness(scenario)
    if bursts is None or not bursts.significant:
        return None
    poisson = as_poisson(scenario)
    if poisson is None:
        return bursts.text
    theory = closed_form(poisson)
    known = dict(theory.figures) if theory is not None and not theory.premise else {}
    names = _COMPARED[type(scenario.when_full)]
    if any(name not in known for name in names):
        fast = result.engine != "reference"
        jobs = max(result.jobs, _LONG_RUN) if fast and why_unstable(poisson) is None else result.jobs
        other = simulate(poisson, jobs=jobs, seed=result.seed, engine="auto" if fast else "reference")
        known = {name: estimate.value for name, estimate in other.estimates()}
    compared = (_comparison(name, known[name], result.estimate(name).value) for name in names)
    return f"{bursts.text}; Poisson arrivals of the same rate would give {' and '.join(compared)}"


def _comparison(name: str, poisson: float, here: float) -> str:
    times = f", {here / poisson:.3g} times as much" if poisson > 0 and math.isfinite(here) else ""
    if name == "wait.mean":
        return f"a mean wait of {duration(poisson)} (here {duration(here)}{times})"
    return f"{percent(poisson)} of jobs that find every account full (here {percent(here)}{times})"


def monotone(scenario: Scenario) -> bool:
    """Return whether more accounts can only lower every figure of a target.

    This holds for loss and for an unlimited wait queue, with accounts of one speed that do not slow down. If
    jobs give up or try again, the set of jobs that run depends on the number of accounts, and no order is
    known.
    """
    full = scenario.when_full
    patient = not isinstance(full, Queue) or (full.limit == math.inf and full.patience is None)
    return (
        not isinstance(full, Retry)
        and patient
        and scenario.slowdown is None
        and len({account.speed for account in scenario.accounts}) == 1
    )
