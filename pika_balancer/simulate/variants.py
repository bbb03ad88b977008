"""The same scenario with more accounts, other rates or slower service, and how unlike Poisson it is."""

import itertools
import math
from collections.abc import Sequence

import attrs

from pika_balancer.distributions import Empirical, Recorded
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.arrivals import Arrivals, Bursty, Daily, OnOff, Poisson, Regular, Trace
from pika_balancer.simulate.scenario import Queue, Retry, Scenario, SimulatedAccount
from pika_balancer.simulate.streams import Streams

_SAMPLE = 50_000


def with_accounts(scenario: Scenario, count: int) -> Scenario:
    """Return the scenario with so many accounts: its own first ones, then more like its last one."""
    own = scenario.accounts
    more = [_another(own, place) for place in range(len(own), count)]
    return attrs.evolve(scenario, accounts=(*own[:count], *more))


def with_slots(scenario: Scenario, count: int) -> Scenario:
    """Return the scenario with so many slots: the last account that is needed is as large as is needed."""
    accounts: list[SimulatedAccount] = []
    left = count
    own = scenario.accounts
    for place in itertools.count():
        account = own[place] if place < len(own) else _another(own, place)
        accounts.append(attrs.evolve(account, max_jobs=min(left, account.max_jobs)))
        left -= account.max_jobs
        if left <= 0:
            return attrs.evolve(scenario, accounts=accounts)
    raise AssertionError  # pragma: no cover - the count never ends


def with_rate(scenario: Scenario, times: float) -> Scenario:
    """Return the scenario with jobs coming so many times as fast."""
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
            f"the rate of {type(arrivals).__name__} cannot be changed; take one of the library's arrivals",
            field="arrivals",
        )
    return attrs.evolve(scenario, arrivals=other)


def slower(scenario: Scenario, times: float) -> Scenario:
    """Return the scenario with jobs that run so many times longer, on every account."""
    accounts = [attrs.evolve(account, speed=account.speed / times) for account in scenario.accounts]
    return attrs.evolve(scenario, accounts=accounts)


def without_largest(scenario: Scenario) -> Scenario | None:
    """Return the scenario with its largest account banned, None if it has only one."""
    accounts = list(scenario.accounts)
    if len(accounts) == 1:
        return None
    accounts.remove(max(accounts, key=lambda account: account.max_jobs))
    return attrs.evolve(scenario, accounts=accounts)


def as_poisson(scenario: Scenario) -> Scenario | None:
    """Return the scenario with Poisson arrivals of the same rate; None if they come all at once."""
    rate = scenario.arrivals.rate
    if not 0 < rate < math.inf:
        return None
    service = scenario.service
    if isinstance(service, Recorded):
        service = Empirical(service.values)
    return attrs.evolve(scenario, arrivals=Poisson(rate), service=service)


@attrs.frozen
class Burstiness:
    """How unlike Poisson arrivals are."""

    dispersion: float
    """Variance over mean of the arrivals per window; 1 if Poisson, more in bursts."""
    window: float
    """The window, in seconds: a mean service time, for jobs compete with those that came that long before."""
    cv: float
    """Standard deviation over mean of the gaps; 1 if Poisson."""
    significant: bool
    """Whether the dispersion is beyond what Poisson arrivals show by chance, and matters."""

    @property
    def words(self) -> str:
        """What it is, in words."""
        return (
            f"jobs come in bursts: their number in {self.window:.4g} s varies {self.dispersion:.1f} times "
            "as much as that of Poisson arrivals"
        )


def burstiness(scenario: Scenario) -> Burstiness | None:
    """Return how bursty the arrivals are; None if they are Poisson, or too few to tell."""
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


def monotone(scenario: Scenario) -> bool:
    """Return whether more accounts can only lower every figure of a target: loss, or an endless line.

    It is so for accounts of one speed that do not slow down. Where jobs give up or try again, those that are
    run are others with every account, and no such order is known.
    """
    full = scenario.when_full
    patient = not isinstance(full, Queue) or (full.limit == math.inf and full.patience is None)
    return (
        not isinstance(full, Retry)
        and patient
        and scenario.slowdown is None
        and len({account.speed for account in scenario.accounts}) == 1
    )


def _another(own: Sequence[SimulatedAccount], place: int) -> SimulatedAccount:
    last = own[-1]
    # Accounts that nobody named are numbered from 1, and so are those that come after them.
    numbered = all(account.channel == str(number) for number, account in enumerate(own, 1))
    return attrs.evolve(last, channel=str(place + 1) if numbered else f"{last.channel}+{place}")
