"""Closed forms for single accounts: unequal speeds, and accounts picked blindly.

Sources:
    V. Anantharam, R. Gopinath and D. Hajela, A generalization of the Erlang formula of traffic
    engineering, Queueing Systems 3, 1988, for the policies that cannot change the share refused. F. P. Kelly,
    Reversibility and Stochastic Networks, 1979, for product forms of reversible chains. T. Bonald, M.
    Jonckheere and A. Proutière, Insensitive load balancing, SIGMETRICS 2004, for insensitivity to the
    distribution of service times.
"""

import math
from collections.abc import Iterable, Sequence

import attrs

from pika_balancer._util.validators import checked, checked_whole
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.theory.erlang import MOST_SLOTS, NEGLIGIBLE, bisect, erlang_b

_MOST_SLOTS = 20_000


@attrs.frozen
class Shared:
    """The figures of accounts of unequal speed that share one stream of jobs."""

    refused: float
    """Share of the jobs that find every account full, from 0 to 1."""
    in_flight: tuple[float, ...]
    """Mean jobs in flight on each account, in the order given."""


def weighted(caps: Sequence[int], load: float, times: Sequence[float] = ()) -> Shared:
    """Return the figures of a loss system under `weighted`, which draws an account by its free slots.

    The policy makes the chain reversible, so that it has a product form even with unequal speeds:
    P(n) ∝ (C - |n|)!/C! ∏ₖ binom(capₖ, nₖ) (a tₖ)^nₖ, with C = Σ capₖ. It holds for Poisson arrivals and
    service times of any distribution. Accounts of one speed act as one, since their binomials convolve.

    Args:
        caps: Slots of each account; whole, 1 or more.
        load: Offered load in erlang, a, for accounts of speed 1; 0 or more.
        times: Factor of the service time on each account, tₖ: 3 for an account three times slower; all 1 by
            default.

    Raises:
        InvalidArgument: An argument is out of range, or the slots are more than 20,000.
    """
    slots, load = (
        [checked_whole(cap, "caps", most=MOST_SLOTS) for cap in caps],
        checked(load, "load", least=0),
    )
    slowness = [checked(time, "times", above=0) for time in times] or [1.0] * len(slots)
    if not slots:
        raise InvalidArgument("caps must have at least one account", field="caps")
    if len(slowness) != len(slots):
        raise InvalidArgument(
            f"times must have one value for each of the {len(slots)} accounts", field="times"
        )
    total = sum(slots)
    if total > _MOST_SLOTS:
        raise InvalidArgument(f"caps must add up to at most {_MOST_SLOTS} slots", field="caps")
    if load == 0:
        return Shared(0.0, (0.0,) * len(slots))
    groups: dict[float, int] = {}
    for cap, time in zip(slots, slowness, strict=True):
        groups[time] = groups.get(time, 0) + cap
    tilt = _tilt(groups, load, total)
    laws = {time: _binomial(cap, load * time * tilt) for time, cap in groups.items()}
    logs = [math.lgamma(total - n + 1) - n * math.log(tilt) for n in range(total + 1)]
    law = _convolve(laws.values())
    peak = max(log for log, p in zip(logs, law, strict=True) if p)
    law = [p * math.exp(log - peak) if p else 0.0 for log, p in zip(logs, law, strict=True)]
    weights = [math.exp(min(log - peak, 700.0)) for log in logs]
    everything = math.fsum(law)
    means: dict[float, float] = {}
    for time, own in laws.items():
        others = _convolve(other for key, other in laws.items() if key != time)
        mean = 0.0
        for n, p in enumerate(own):
            if n and p:
                mean += n * p * math.fsum(q * weights[n + m] for m, q in enumerate(others) if q)
        means[time] = mean / everything
    # With every slot taken there is one state. Its logarithm keeps the digits that its weight loses when an
    # almost idle pool makes it smaller than a normal float.
    odds = {time: load * time * tilt for time in groups}
    full = sum(cap * (math.log(odds[time]) - math.log1p(odds[time])) for time, cap in groups.items())
    return Shared(
        min(1.0, math.exp(full + logs[-1] - peak - math.log(everything))),
        tuple(means[time] * cap / groups[time] for cap, time in zip(slots, slowness, strict=True)),
    )


def blind(caps: Sequence[int], load: float, shares: Sequence[float] = ()) -> float:
    """Return the share of jobs refused if each is sent to a random account, full or not.

    Σ pₖ B(capₖ, a pₖ): every account is a loss system of its own, with its share of the load.
    Compare `erlang_b(sum(caps), load)`.

    Args:
        caps: Slots of each account; whole, 1 or more.
        load: Offered load in erlang, a; 0 or more.
        shares: Probability of each account, pₖ, up to a common factor; all alike by default.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    slots, load = (
        [checked_whole(cap, "caps", most=MOST_SLOTS) for cap in caps],
        checked(load, "load", least=0),
    )
    if not slots:
        raise InvalidArgument("caps must have at least one account", field="caps")
    parts = [checked(part, "shares", least=0) for part in shares] or [1.0] * len(slots)
    whole = math.fsum(parts)
    if len(parts) != len(slots) or whole == 0:
        raise InvalidArgument(
            f"shares must have one value for each of the {len(slots)} accounts, not all 0", field="shares"
        )
    return math.fsum(
        part / whole * erlang_b(cap, load * part / whole) for cap, part in zip(slots, parts, strict=True)
    )


def _tilt(groups: dict[float, int], load: float, total: int) -> float:
    """Return a factor that centres the product of binomials at the mode of the distribution.

    At the mode one more job multiplies (C - n)! by about 1/(C - n).
    """

    def beyond(taken: float) -> bool:
        odds = load / (total - taken)
        return sum(cap * odds * time / (1 + odds * time) for time, cap in groups.items()) <= taken

    return 1 / (total - bisect(beyond, 0.0, total - 1.0)) if beyond(total - 1.0) else 1.0


def _binomial(slots: int, odds: float) -> list[float]:
    """Return binom(slots, n) oddsⁿ for every n, divided by their sum."""
    log = math.log(odds)
    bottom = slots * math.log1p(odds)
    top = math.lgamma(slots + 1)
    return [
        math.exp(top - math.lgamma(n + 1) - math.lgamma(slots - n + 1) + n * log - bottom)
        for n in range(slots + 1)
    ]


def _convolve(laws: Iterable[list[float]]) -> list[float]:
    sums = [1.0]
    for law in laws:
        longer, shorter = (law, sums) if len(law) > len(sums) else (sums, law)
        result = [0.0] * (len(law) + len(sums) - 1)
        for shift, p in enumerate(shorter):
            if p > NEGLIGIBLE:
                for n, q in enumerate(longer, shift):
                    result[n] += p * q
        sums = result
    return sums
