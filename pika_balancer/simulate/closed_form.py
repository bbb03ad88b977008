"""The closed form that applies to a scenario, and its exact long-run figures."""

import math
from collections.abc import Mapping

import attrs

from pika_balancer.distributions import Constant, Distribution, Exponential, Gamma, Weibull
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.arrivals import Bursty, Poisson, Trace
from pika_balancer.simulate.estimate import LEVELS
from pika_balancer.simulate.report.numbers import figure
from pika_balancer.simulate.scenario import Loss, Queue, Retry, Scenario
from pika_balancer.simulate.theory import (
    Station,
    constant_patience,
    erlang_a,
    erlang_c_quantile,
    mgcc,
    mmck,
    mmck_quantile,
    retrial,
    weighted,
)

_MOST_SLOTS = 20_000
_MOST_PLACES = 10_000


@attrs.frozen
class Theory:
    """A closed form that is exact for a scenario in the long run."""

    name: str
    """Such as `Erlang B`."""
    figures: Mapping[str, float]
    """Exact values, by the names of a result's estimates: `refused_fraction`, `wait.mean`."""
    premise: str = ""
    """A condition that only the simulation can verify, as text; empty if there is none."""


def closed_form(scenario: Scenario) -> Theory | None:
    """Return the closed form that applies to the scenario, None if there is none here.

    All need Poisson arrivals, slots freed at once, no outages, slowdown or faults. Beyond that:

    - loss with accounts of one speed is Erlang B, for any distribution of service times (M/G/c/c);
    - loss with unequal speeds under the policy `weighted` has a product form, likewise;
    - with exponential service times and one speed a wait queue is Erlang C (M/M/c), with a limit M/M/c/K,
      with exponential patience Erlang A (M/M/c+M), with constant patience M/M/c+D;
    - with exponential delays, retries are the retrial queue, as long as no job runs out of tries.

    The choice of the account makes no difference to these figures, except for the product form.
    """
    if not _plain(scenario):
        return None
    try:
        if len({account.speed for account in scenario.accounts}) > 1:
            return _unequal(scenario, scenario.offered_load)
        return _equal(scenario)
    except InvalidArgument:  # the chain has too many states to solve
        return None


def _equal(scenario: Scenario) -> Theory | None:
    service = scenario.service.mean / scenario.accounts[0].speed
    load = scenario.arrivals.rate * service
    if isinstance(scenario.when_full, Loss):
        return _loss(scenario, load, service)
    if not _memoryless(scenario.service):
        return None
    if isinstance(scenario.when_full, Queue):
        return _queue(scenario, scenario.when_full, load, service)
    return _retry(scenario, scenario.when_full, load, service)


def why_unstable(scenario: Scenario) -> str | None:
    """Return why the scenario has no steady state, as a sentence; None if it has one, or is a trace."""
    full = scenario.when_full
    endless = isinstance(full, Queue) and full.limit == math.inf and full.patience is None
    if not (endless or isinstance(full, Retry)) or isinstance(scenario.arrivals, Trace):
        return None
    load, rate = scenario.offered_load, scenario.total_service_rate
    if load < rate:
        return None
    what = "the wait queue grows without bound" if endless else "jobs leave only by running out of tries"
    return (
        f"no steady state: {figure(load)} erlang offered to {figure(rate)} slots; {what}, and waits depend "
        "on the length of the run"
    )


def _plain(scenario: Scenario) -> bool:
    arrivals = scenario.arrivals
    return (
        (isinstance(arrivals, Poisson) or (isinstance(arrivals, Bursty) and arrivals.cv == 1))
        and scenario.slowdown is None
        and not scenario.poll_period
        and not scenario.faults.rate_limited + scenario.faults.accepted
        and not any(account.outages or account.failures for account in scenario.accounts)
        and scenario.slots <= _MOST_SLOTS
    )


def _memoryless(law: Distribution) -> bool:
    return (
        isinstance(law, Exponential)
        or (isinstance(law, Gamma) and law.cv == 1)
        or (isinstance(law, Weibull) and law.shape == 1)
    )


def _unequal(scenario: Scenario, load: float) -> Theory | None:
    if not isinstance(scenario.when_full, Loss) or scenario.policy != "weighted":
        return None
    caps = [account.max_jobs for account in scenario.accounts]
    found = weighted(caps, load, [1 / account.speed for account in scenario.accounts])
    busy = math.fsum(found.in_flight)
    return Theory(
        "the product form of the policy `weighted`",
        {
            "refused_fraction": found.refused,
            "gave_up_fraction": found.refused,
            "in_flight": busy,
            "utilisation": busy / sum(caps),
        }
        | {
            f"utilisation.{place}": flying / cap
            for place, (flying, cap) in enumerate(zip(found.in_flight, caps, strict=True), 1)
        },
    )


def _loss(scenario: Scenario, load: float, service: float) -> Theory:
    found = mgcc(scenario.slots, load)
    return Theory(
        "Erlang B",
        {"refused_fraction": found.refused, "gave_up_fraction": found.refused}
        | _use(scenario, found.in_flight_mean)
        | {"time_in_system.mean": service},
    )


def _queue(scenario: Scenario, full: Queue, load: float, service: float) -> Theory | None:
    slots, patience = scenario.slots, full.patience
    places = full.limit if full.limit == math.inf else float(int(full.limit))
    if patience is None:
        if why_unstable(scenario) is not None or _MOST_PLACES < places < math.inf:
            return None
        found = mmck(slots, load, line=places, service=service)
        name, waits = "M/M/c/K", {}
        for level, share in LEVELS.items():
            if places == math.inf:
                name = "Erlang C"
                waits[f"wait.{level}"] = erlang_c_quantile(slots, load, share, service=service)
            else:
                waits[f"wait.{level}"] = mmck_quantile(slots, load, share, line=places, service=service)
        return Theory(name, _station(scenario, found, service) | waits)
    if _memoryless(patience):
        found = erlang_a(slots, load, patience.mean, line=places, service=service)
        return Theory("Erlang A", _station(scenario, found, service))
    if isinstance(patience, Constant) and patience.mean and places == math.inf:
        found = constant_patience(slots, load, patience.mean, service=service)
        return Theory("M/M/c with constant patience", _station(scenario, found, service))
    return None


def _station(scenario: Scenario, found: Station, service: float) -> dict[str, float]:
    return {
        "refused_fraction": found.delayed + found.refused,
        "gave_up_fraction": found.refused + found.gave_up,
        "wait.mean": found.served_wait_mean,
        "time_in_system.mean": found.served_wait_mean + service,
    } | _use(scenario, found.in_flight_mean)


def _retry(scenario: Scenario, full: Retry, load: float, service: float) -> Theory | None:
    if not full.exponential or why_unstable(scenario) is not None:
        return None
    found = retrial(scenario.slots, load, full.delay, service=service)
    return Theory(
        "the retrial queue M/M/c",
        {
            "refused_fraction": found.refused,
            "gave_up_fraction": 0.0,
            "wait.mean": found.wait_mean,
            "time_in_system.mean": found.wait_mean + service,
            "attempts": found.attempts_mean,
        }
        | _use(scenario, found.in_flight_mean),
        "no job runs out of tries",
    )


def _use(scenario: Scenario, busy: float) -> dict[str, float]:
    used = {"in_flight": busy, "utilisation": busy / scenario.slots}
    caps = {account.max_jobs for account in scenario.accounts}
    if len(caps) == 1 and isinstance(scenario.policy, str):  # then all accounts are alike
        used |= {
            f"utilisation.{place}": used["utilisation"] for place in range(1, len(scenario.accounts) + 1)
        }
    return used
