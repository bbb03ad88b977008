"""Loss, a limited wait queue, and impatience: the figures of one pool of slots in the steady state.

All are birth-and-death chains: jobs arrive at rate a per service time, and leave at rate min(n, c), plus, if
they are impatient, a rate proportional to the number waiting. The chain is solved from its largest
probability outwards, so that neither thousands of slots nor extreme loads overflow.

Sources:
    A. K. Erlang 1917 for the loss system. C. Palm, Research on telephone traffic carried by full availability
    groups, Tele 1957, for impatience, and O. Garnett, A. Mandelbaum and M. Reiman, Designing a call center
    with impatient customers, Manufacturing & Service Operations Management 4, 2002, for its use. F. Baccelli
    and G. Hebuterne, On queues with impatient customers, Performance '81, for patience of any distribution.
"""

import math
from collections.abc import Callable, Iterable
from itertools import count

import attrs

from pika_balancer._util.validators import checked, checked_whole
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.theory.erlang import MOST_SLOTS, NEGLIGIBLE, bisect, erlang_c

_SMALL = 1e-4
"""Below this an exponential is replaced by its series, to avoid cancellation."""
_LONGEST = 1_000_000
"""Maximum number of waiting jobs that a chain is solved for."""


@attrs.frozen
class Station:
    """The long-run figures of a pool of slots. Shares are of all jobs that arrive, from 0 to 1."""

    refused: float
    """Share of jobs refused on arrival, because every slot was taken and the queue was full."""
    gave_up: float
    """Share of jobs that left the queue because their patience ended."""
    delayed: float
    """Share of jobs that entered the queue, whether they were served or not."""
    wait_mean: float
    """Mean seconds in the queue of all jobs that were not refused, including those that gave up; infinite
    without a steady state, NaN if every job is refused."""
    served_wait_mean: float
    """Mean seconds in the queue of the jobs that were served."""
    in_flight_mean: float
    """Mean number of slots taken, in erlang."""
    line_mean: float
    """Mean number of jobs in the queue; infinite without a steady state."""
    utilisation: float
    """Mean share of the slots that are taken."""


def mgcc(slots: int, load: float) -> Station:
    """Return the figures of the loss system: jobs that find every slot taken are refused (M/G/c/c).

    P(n in flight) ∝ aⁿ/n!, n = 0 … c, for service times of any distribution with that mean.

    Args:
        slots: Number of slots, c; whole, 1 or more.
        load: Offered load in erlang, a; 0 or more.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    return mmck(slots, load, line=0)


def mmck(slots: int, load: float, *, line: float = math.inf, service: float = 1.0) -> Station:
    """Return the figures of a queue with a limited number of places (M/M/c/K, K = c + places).

    P(n) ∝ aⁿ / ∏ᵢ₌₁ⁿ min(i, c). Without a limit it is Erlang's waiting system (M/M/c).

    Args:
        slots: Number of slots, c; whole, 1 or more.
        load: Offered load in erlang, a; 0 or more.
        line: Places in the queue, whole or infinite, 0 or more.
        service: Mean service time in seconds.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    return erlang_a(slots, load, math.inf, line=line, service=service)


def erlang_a(
    slots: int, load: float, patience: float, *, line: float = math.inf, service: float = 1.0
) -> Station:
    """Return the figures of a queue that jobs leave when their patience ends (M/M/c+M, Palm's Erlang A).

    Patience is exponential: the chain leaves state n at rate min(n, c)/s + max(0, n - c)/patience. With
    impatience every load has a steady state.

    Args:
        slots: Number of slots, c; whole, 1 or more.
        load: Offered load in erlang, a; 0 or more.
        patience: Mean seconds after which a job gives up; above 0, infinite for never.
        line: Places in the queue, whole or infinite, 0 or more.
        service: Mean service time in seconds, s.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    slots, load, line = (
        checked_whole(slots, "slots", most=MOST_SLOTS),
        checked(load, "load", least=0),
        _places(line),
    )
    service = checked(service, "service", above=0)
    leaving = service / checked(patience, "patience", above=0, infinite=True)
    if line == math.inf and not leaving:
        return _endless(slots, load, service)
    law = _solve(slots, load, slots + line, lambda n: min(n, slots) + max(0, n - slots) * leaving)
    refused = law[-1] if len(law) - 1 == slots + line else 0.0
    busy = math.fsum(min(n, slots) * p for n, p in enumerate(law))
    waiting = math.fsum((n - slots) * p for n, p in enumerate(law) if n > slots)
    delayed = math.fsum(law[slots:]) - refused
    gave_up = waiting * leaving / load if load else 0.0
    accepted = load * (1 - refused)
    wait = waiting * service / accepted if accepted else (math.nan if load else 0.0)
    served = wait
    if leaving and load:
        standing = law[slots:] if line == math.inf else law[slots : slots + int(line)]
        served = _served(standing, slots, leaving) * service * load / busy
    return Station(refused, gave_up, delayed, wait, served, busy, waiting, busy / slots)


def constant_patience(slots: int, load: float, patience: float, *, service: float = 1.0) -> Station:
    """Return the figures of a queue that each job leaves after the same time unserved (M/M/c+D).

    The wait that a job would have without impatience has an atom at 0 and the density
    λ P(c - 1) e^(-(c/s - λ) t) up to the patience, and falls like e^(-c t / s) beyond; a job gives up if that
    wait exceeds its patience (Baccelli and Hebuterne 1981).

    Args:
        slots: Number of slots, c; whole, 1 or more.
        load: Offered load in erlang, a = λ s; 0 or more.
        patience: Seconds after which a job gives up; above 0 and finite.
        service: Mean service time in seconds, s.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    slots, load = checked_whole(slots, "slots", most=MOST_SLOTS), checked(load, "load", least=0)
    service = checked(service, "service", above=0)
    limit = checked(patience, "patience", above=0) / service
    if load == 0:
        return Station(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    free = _solve(slots, load, slots - 1, float)
    # The weight of the free states is 1, scaled down where the integrals would overflow.
    rate = slots - load
    start = free[-1] * load
    scale = math.exp(min(0.0, rate * limit))
    within, moment = (start * value for value in _integrals(rate, limit))
    beyond = start * math.exp(-max(0.0, rate * limit)) / slots
    total = scale + within + beyond
    gave_up, delayed = beyond / total, (within + beyond) / total
    # Jobs that give up wait for their patience.
    wait = moment / total + gave_up * limit
    served = moment / (scale + within)
    busy = load * (1 - gave_up)
    return Station(0.0, gave_up, delayed, wait * service, served * service, busy, load * wait, busy / slots)


def mmck_quantile(
    slots: int, load: float, share_within: float, *, line: float, service: float = 1.0
) -> float:
    """Return the wait, in seconds, that a share of the jobs that were not refused does not exceed.

    A job that finds n ≥ c in the system waits for n - c + 1 ends, which come at rate c/s: its wait has an
    Erlang distribution. Served in order of arrival. Without a limit use `erlang_c_quantile`.

    Args:
        slots: Number of slots, c; whole, 1 or more.
        load: Offered load in erlang, above 0.
        share_within: The share: 0.95 for p95; above 0 and below 1.
        line: Places in the queue; whole, 0 or more, finite.
        service: Mean service time in seconds, s.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    slots, load = checked_whole(slots, "slots", most=MOST_SLOTS), checked(load, "load", above=0)
    within, places = (
        checked(share_within, "share_within", above=0, below=1),
        checked(_places(line), "line", least=0),
    )
    service = checked(service, "service", above=0)
    found = _solve(slots, load, slots + places, lambda n: float(min(n, slots)))[:-1]
    accepted = math.fsum(found)
    taken = found[slots:]
    while len(taken) > 1 and taken[-1] < 1e-20 * accepted:
        taken.pop()

    def beyond(ends: float) -> float:
        """Return P(W > t) for the t in which this number of ends is expected."""
        log, total, left = math.log(ends), 0.0, 0.0
        for place, probability in enumerate(taken):
            left += math.exp(place * log - ends - math.lgamma(place + 1))
            total += probability * min(1.0, left)
        return total / accepted

    if math.fsum(taken) <= accepted * (1 - within):
        return 0.0
    most = 1.0
    while beyond(most) > 1 - within:
        most *= 2
    return bisect(lambda ends: beyond(ends) <= 1 - within, most * 1e-18, most) * service / slots


def _endless(slots: int, load: float, service: float) -> Station:
    if load >= slots:
        return Station(0.0, 0.0, 1.0, math.inf, math.inf, float(slots), math.inf, 1.0)
    waiting = erlang_c(slots, load)
    line = waiting * load / (slots - load)
    wait = waiting * service / (slots - load)
    return Station(0.0, 0.0, waiting, wait, wait, load, line, load / slots)


def _served(standing: list[float], slots: int, leaving: float) -> float:
    """Return the mean wait of an arrival times whether it is served, in service times.

    The k-th waiting job is served with probability c / (c + k θ), and then moves up at rates c + i θ for
    i = 1 … k, of the ends and departures before it.
    """
    total = steps = 0.0
    for place, p in enumerate(standing, 1):
        steps += 1 / (slots + place * leaving)
        total += p * slots / (slots + place * leaving) * steps
    return total


def _solve(slots: int, load: float, most: float, deaths: Callable[[int], float]) -> list[float]:
    """Return the distribution of a chain with births at rate `load`, from 0 to `most` or until negligible.

    It has at least one entry for every slot.
    """
    if load == 0:
        return [1.0] + [0.0] * (slots - 1)
    top = 0  # the mode: the next state is left faster than it is reached
    while top < most and deaths(top + 1) < load:
        top += 1
        if top > slots + _LONGEST:
            raise InvalidArgument(
                "the queue grows beyond a million jobs; use a shorter patience", field="patience"
            )
    states = count(top + 1) if most == math.inf else range(top + 1, int(most) + 1)
    up = _products(load / deaths(n) for n in states)
    down = _products(deaths(n) / load for n in range(top, 0, -1))
    weights = [0.0] * (top - len(down)) + down[::-1] + [1.0] + up
    weights += [0.0] * (slots - len(weights))
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _products(steps: Iterable[float]) -> list[float]:
    """Return the products of the first steps, of the first two, and so on, until they are negligible."""
    products: list[float] = []
    weight = 1.0
    for step in steps:
        weight *= step
        if weight < NEGLIGIBLE:
            break
        products.append(weight)
    return products


def _places(line: float) -> float:
    places = line if line == math.inf else checked(line, "line", least=0)
    if places != math.inf and (places != int(places) or places > _LONGEST):
        raise InvalidArgument(
            f"line must be a whole number of places, or infinite, not {line!r}", field="line"
        )
    return places


def _integrals(rate: float, limit: float) -> tuple[float, float]:
    """Return ∫₀ˡ e^(-rate t) dt and ∫₀ˡ t e^(-rate t) dt; times e^(rate l) where the rate is negative."""
    x = abs(rate) * limit
    if x < _SMALL:
        plain = limit * (1 - x / 2 + x * x / 6)
        moment = limit * limit * (1 / 2 - x / 3 + x * x / 8)
    else:
        plain = -math.expm1(-x) / abs(rate)
        moment = (plain - limit * math.exp(-x)) / abs(rate)
    # With time reversed the exponent changes its sign.
    return plain, limit * plain - moment if rate < 0 else moment
