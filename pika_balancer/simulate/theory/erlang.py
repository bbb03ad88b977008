"""Erlang's formulas: the share of jobs that find every slot taken, and how long they wait.

Loads are in erlang: jobs per second times the mean service time in seconds, which is the mean number of slots
in use if there were slots for all. Slots need not be whole: the formulas have one natural extension to real
numbers, which makes them invertible.

Sources:
    A. K. Erlang, Solution of some problems in the theory of probabilities of significance in automatic
    telephone exchanges, 1917. D. L. Jagerman, Some properties of the Erlang loss function, Bell System
    Technical Journal 53, 1974. A. A. Jagers and E. A. van Doorn, On the continued Erlang loss function,
    Operations Research Letters 5, 1986.
"""

import math
from collections.abc import Callable
from typing import Final

from pika_balancer._util.validators import checked
from pika_balancer.errors import InvalidArgument

MOST_SLOTS: Final = 1_000_000
"""The most slots that a closed form accepts: its recursion takes a step for each."""
NEGLIGIBLE: Final = 1e-300
"""A weight, relative to the largest, that changes no result."""
_PRECISION: Final = 1e-15


def erlang_b(slots: float, load: float) -> float:
    """Return the share of jobs that find every slot taken, if such jobs are lost.

    1/B(c, a) = a ∫₀^∞ e^(-at) (1+t)^c dt, which for whole c is (aᶜ/c!) / Σₖ₌₀ᶜ aᵏ/k!. It holds for Poisson
    arrivals and service times of any distribution with the same mean (M/G/c/c). Stable: the recursion
    B(c) = a B(c-1) / (c + a B(c-1)) adds and multiplies positive numbers only. O(slots).

    Args:
        slots: Number of slots, c; whole or not, 0 or more.
        load: Offered load in erlang, a; 0 or more.

    Raises:
        InvalidArgument: `slots` or `load` is out of range; the error names it.
    """
    slots, load = _slots(slots), checked(load, "load", least=0)
    return _erlang_b(slots, load)


def _erlang_b(slots: float, load: float) -> float:
    if load == 0:
        return float(slots == 0)
    count = int(slots)
    fraction = slots - count
    blocked = min(1.0, 1 / _inverse_b(fraction, load)) if fraction else 1.0
    for taken in range(1, count + 1):
        offered = load * blocked
        blocked = offered / (taken + fraction + offered)
        if blocked == 0:  # it underflows and falls further
            break
    return blocked


def _inverse_b(fraction: float, load: float) -> float:
    """Return 1/B for less than one slot, Γ(1+x, a) eᵃ a⁻ˣ: by a series or a continued fraction."""
    shape = 1 + fraction
    if load <= 1:
        # The lower incomplete gamma function; the difference to Γ(1+x) is at least a third of it.
        term = total = 1 / shape
        order = shape
        while term > total * 1e-17:
            order += 1
            term *= load / order
            total += term
        return math.gamma(shape) * math.exp(load) * math.pow(load, -fraction) - load * total
    # Legendre's continued fraction of the upper one, by Lentz's method (Applied Optics 15, 1976).
    base = load + 1 - shape
    ratio, value = math.inf, 1 / base
    d = value
    step = 0
    while True:
        step += 1
        factor = -step * (step - shape)
        base += 2
        d = 1 / (factor * d + base)
        ratio = base + factor / ratio
        change = ratio * d
        value *= change
        if abs(change - 1) < _PRECISION:
            return load * value


def erlang_b_slots(load: float, blocked: float) -> float:
    """Return the real number of slots at which a share `blocked` of the jobs finds every slot taken.

    The inverse of `erlang_b` in `slots`; round it up for whole slots. It falls as `blocked` grows.

    Args:
        load: Offered load in erlang, above 0.
        blocked: The share, above 0 and below 1.

    Raises:
        InvalidArgument: An argument is out of range, or the answer exceeds a million slots.
    """
    load, blocked = checked(load, "load", above=0), checked(blocked, "blocked", above=0, below=1)
    enough = _first(lambda _taken, lost: lost <= blocked, load)
    return bisect(lambda slots: _erlang_b(slots, load) <= blocked, enough - 1, enough)


def erlang_b_load(slots: float, blocked: float) -> float:
    """Return the load, in erlang, at which a share `blocked` of the jobs finds every slot taken.

    The inverse of `erlang_b` in `load`; it grows with both arguments.

    Args:
        slots: Number of slots; whole or not, above 0.
        blocked: The share, above 0 and below 1.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    slots, blocked = _some(slots), checked(blocked, "blocked", above=0, below=1)
    # The carried load is less than the slots: a (1 - B) < c.
    return bisect(lambda load: _erlang_b(slots, load) >= blocked, 0.0, slots / (1 - blocked))


def erlang_c(slots: float, load: float) -> float:
    """Return the share of jobs that wait, if jobs that find every slot taken wait in one queue.

    C(c, a) = c B / (c - a (1 - B)) with B = `erlang_b(c, a)`; 1 from a = c on, where the queue grows without
    bound. It holds for Poisson arrivals and exponential service times (M/M/c). O(slots).

    Args:
        slots: Number of slots, c; whole or not, 0 or more.
        load: Offered load in erlang, a; 0 or more.

    Raises:
        InvalidArgument: `slots` or `load` is out of range.
    """
    slots, load = _slots(slots), checked(load, "load", least=0)
    return _erlang_c(slots, load)


def _erlang_c(slots: float, load: float) -> float:
    if load >= slots:
        return 1.0
    blocked = _erlang_b(slots, load)
    return slots * blocked / (slots - load + load * blocked)


def erlang_c_wait(slots: float, load: float, *, service: float = 1.0) -> float:
    """Return the mean wait of all jobs, in seconds: C(c, a) s / (c - a), infinite from a = c on.

    The wait of jobs that wait at all is exponential with mean s / (c - a) if they are served in order of
    arrival; the mean does not depend on the order.

    Args:
        slots: Number of slots, c; whole or not, 0 or more.
        load: Offered load in erlang, a; 0 or more.
        service: Mean service time in seconds, s; 1 gives the wait in service times.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    slots, load = _slots(slots), checked(load, "load", least=0)
    service = checked(service, "service", above=0)
    return math.inf if load >= slots else _erlang_c(slots, load) * service / (slots - load)


def erlang_c_beyond(slots: float, load: float, wait: float, *, service: float = 1.0) -> float:
    """Return the share of jobs that wait longer than `wait` seconds, served in order of arrival.

    P(W > t) = C(c, a) e^(-(c - a) t / s); 1 from a = c on.

    Args:
        slots: Number of slots, c; whole or not, 0 or more.
        load: Offered load in erlang, a; 0 or more.
        wait: Seconds, t; 0 or more.
        service: Mean service time in seconds, s.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    slots, load, wait = _slots(slots), checked(load, "load", least=0), checked(wait, "wait", least=0)
    return _beyond(slots, load, wait / checked(service, "service", above=0))


def _beyond(slots: float, load: float, wait: float) -> float:
    return _erlang_c(slots, load) * math.exp(-max(0.0, slots - load) * wait)


def erlang_c_quantile(slots: float, load: float, share_within: float, *, service: float = 1.0) -> float:
    """Return the wait, in seconds, that a share of all jobs does not exceed, served in order of arrival.

    max(0, s ln(C / (1 - q)) / (c - a)); infinite from a = c on.

    Args:
        slots: Number of slots, c; whole or not, 0 or more.
        load: Offered load in erlang, a; 0 or more.
        share_within: The share, q: 0.95 for p95; above 0 and below 1.
        service: Mean service time in seconds, s.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    slots, load = _slots(slots), checked(load, "load", least=0)
    within = checked(share_within, "share_within", above=0, below=1)
    service = checked(service, "service", above=0)
    if load >= slots:
        return math.inf
    waiting = _erlang_c(slots, load)
    return service * math.log(waiting / (1 - within)) / (slots - load) if waiting > 1 - within else 0.0


def erlang_c_slots(load: float, beyond: float, *, wait: float = 0.0, service: float = 1.0) -> float:
    """Return the real number of slots at which a share `beyond` of the jobs waits longer than `wait`.

    The inverse of `erlang_c_beyond`, and with `wait` 0 of `erlang_c`, in `slots`; round it up for
    whole slots.

    Args:
        load: Offered load in erlang, above 0.
        beyond: The share, above 0 and below 1.
        wait: Seconds, 0 or more.
        service: Mean service time in seconds.

    Raises:
        InvalidArgument: An argument is out of range, or the answer exceeds a million slots.
    """
    load, beyond = checked(load, "load", above=0), checked(beyond, "beyond", above=0, below=1)
    wait = checked(wait, "wait", least=0) / checked(service, "service", above=0)

    def suffices(taken: float, blocked: float) -> bool:
        spare = taken - load
        if spare <= 0:
            return False
        return taken * blocked / (spare + load * blocked) * math.exp(-spare * wait) <= beyond

    enough = _first(suffices, load)
    return bisect(lambda slots: _beyond(slots, load, wait) <= beyond, enough - 1, enough)


def erlang_c_load(slots: float, beyond: float, *, wait: float = 0.0, service: float = 1.0) -> float:
    """Return the load, in erlang, at which a share `beyond` of the jobs waits longer than `wait`.

    The inverse of `erlang_c_beyond`, and with `wait` 0 of `erlang_c`, in `load`.

    Args:
        slots: Number of slots; whole or not, above 0.
        beyond: The share, above 0 and below 1.
        wait: Seconds, 0 or more.
        service: Mean service time in seconds.

    Raises:
        InvalidArgument: An argument is out of range.
    """
    slots, beyond = _some(slots), checked(beyond, "beyond", above=0, below=1)
    wait = checked(wait, "wait", least=0) / checked(service, "service", above=0)
    return bisect(lambda load: _beyond(slots, load, wait) >= beyond, 0.0, slots)


def _slots(slots: float) -> float:
    return checked(slots, "slots", least=0, most=MOST_SLOTS)


def _some(slots: float) -> float:
    return checked(slots, "slots", above=0, most=MOST_SLOTS)


def _first(suffices: Callable[[float, float], bool], load: float) -> float:
    """Return the first whole number of slots c for which `suffices(c, B(c))` holds."""
    blocked = 1.0
    for taken in range(1, MOST_SLOTS + 1):
        offered = load * blocked
        blocked = offered / (taken + offered)
        if suffices(taken, blocked):
            return float(taken)
    raise InvalidArgument(f"load {load:g} needs more than {MOST_SLOTS} slots", field="load")


def bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the least number between `low` and `high` for which `holds` is true, to the last few bits.

    `holds` is false, then true, and true at `high`. The middle is geometric where that is possible, so that
    answers of every size come out to the same relative accuracy.
    """
    while True:
        middle = math.sqrt(low) * math.sqrt(high) if high > 4 * low > 0 else low + (high - low) / 2
        if not low < middle < high or high - low <= 4 * math.ulp(high):
            return high
        if holds(middle):
            high = middle
        else:
            low = middle
