"""Jobs that find every slot taken and are retried later: the retrial queue M/M/c.

Sources:
    G. I. Falin and J. G. C. Templeton, Retrial Queues, 1997, for the model and its truncation.
"""

import math

import attrs

from pika_balancer._util.validators import checked, checked_whole
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.theory.erlang import MOST_SLOTS

_PRECISION = 1e-13
_MOST_STATES = 1_000_000
"""Limit of the truncation; takes about a second."""


@attrs.frozen
class Retrial:
    """The figures of a pool of slots whose jobs are retried until they start."""

    refused: float
    """Share of jobs whose first attempt finds every slot taken."""
    wait_mean: float
    """Mean seconds from a job's first attempt to its start; infinite without a steady state."""
    attempts_mean: float
    """Mean attempts per job, the successful one included; infinite without a steady state."""
    waiting_mean: float
    """Mean number of jobs between two attempts; infinite without a steady state."""
    in_flight_mean: float
    """Mean number of slots taken, in erlang."""
    utilisation: float
    """Mean share of the slots that are taken."""


def retrial(slots: int, load: float, delay: float, *, service: float = 1.0) -> Retrial:
    """Return the figures of jobs that are retried after exponential delays until they start.

    The chain of (slots taken i, jobs waiting j) goes up from j only through (c, j), so that level j + 1 is
    one vector times P(c, j): solving the tridiagonal equations of each level from the highest one down gives
    the distribution with additions of positive numbers only. The number of levels doubles until the figures
    converge.

    Jobs must never give up, and delays must be exponential: a constant delay shortens the wait by a few per
    cent, and a limit on the attempts hides the lack of a steady state.

    Args:
        slots: Number of slots, c; whole, 1 or more.
        load: Offered load in erlang; 0 or more.
        delay: Mean seconds between two attempts of a job; above 0.
        service: Mean service time in seconds.

    Raises:
        InvalidArgument: An argument is out of range, or the load is so close to the slots that the chain
            would need millions of states.
    """
    slots, load = checked_whole(slots, "slots", most=MOST_SLOTS), checked(load, "load", least=0)
    service = checked(service, "service", above=0)
    rate = service / checked(delay, "delay", above=0)
    if load == 0:
        return Retrial(0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    if load >= slots:
        return Retrial(1.0, math.inf, math.inf, math.inf, float(slots), 1.0)
    levels, before = 16, math.inf
    while True:
        blocked, waiting = _truncated(slots, load, rate, levels)
        if abs(waiting - before) <= _PRECISION * waiting:
            break
        levels, before = 2 * levels, waiting
        if levels * slots > _MOST_STATES:
            raise InvalidArgument(
                f"a load of {load:g} on {slots} slots needs too many states; use a lower load or a "
                "shorter delay",
                field="load",
            )
    wait = waiting * service / load
    return Retrial(blocked, wait, 1 + rate * waiting / load, waiting, load, load / slots)


def _truncated(slots: int, load: float, rate: float, levels: int) -> tuple[float, float]:
    """Return P(every slot taken) and the mean number waiting, if at most `levels` jobs wait."""
    full = free = mean = 0.0  # of the levels above, as multiples of P(c, j)
    above = [0.0] * slots  # P(i, j + 1) for i < c, likewise
    for level in range(levels, -1, -1):
        law = _level(slots, load, level * rate, above, (level + 1) * rate)
        total = math.fsum(law)
        full, free = 1 + full, total + free
        mean += level * (1 + total)
        if level:
            # The flow into the level from below equals the flow of successful retries out of it.
            step = load / (level * rate * total)
            above = [step * p for p in law]
            full, free, mean = full * step, free * step, mean * step
    return full / (full + free), mean / (full + free)


def _level(slots: int, load: float, retries: float, above: list[float], returns: float) -> list[float]:
    """Return P(i, j) / P(c, j) for i < c, from the balance of flows into and out of each of these states.

    (a + i + retries) P(i) = a P(i - 1) + (i + 1) P(i + 1) + returns · P(i - 1, j + 1).
    """
    pivots: list[float] = []
    sums: list[float] = []
    # Elimination without subtraction: each pivot is a plus a sum.
    rest, carried = retries, 0.0
    for i in range(slots):
        if i:
            before = pivots[-1]
            carried = load / before * carried + returns * above[i - 1]
            rest = retries + i * rest / before
        pivots.append(load + rest)
        sums.append(carried)
    law = [0.0] * slots
    right = 1.0
    for i in range(slots - 1, -1, -1):
        right = law[i] = (sums[i] + (i + 1) * right) / pivots[i]
    return law
