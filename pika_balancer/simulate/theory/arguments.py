"""What the closed forms take, and the search that turns them round."""

import math
from collections.abc import Callable

from pika_balancer.errors import InvalidArgument

MOST_SLOTS = 1_000_000
"""The most slots that a closed form is asked about; the recursions walk through them one by one."""
NEGLIGIBLE = 1e-300
"""A weight, beside the largest, that no figure can show any more."""


def finite(value: float, field: str, *, least: float = 0.0, above: bool = False) -> float:
    """Return `value` as a float.

    Raises:
        InvalidArgument: It is no finite number, is below `least`, or is `least` where it must be `above` it.
    """
    number = _number(value)
    if not (number > least if above else number >= least) or number == math.inf:
        bound = f"above {least:g}" if above else f"{least:g} or more"
        raise InvalidArgument(f"{field} must be a finite number, {bound}, not {value!r}", field=field)
    return number


def positive(value: float, field: str) -> float:
    """Return `value`, which may be infinite, as a float.

    Raises:
        InvalidArgument: It is no number above 0.
    """
    number = _number(value)
    if not number > 0:
        raise InvalidArgument(f"{field} must be a number above 0, or infinite, not {value!r}", field=field)
    return number


def share(value: float, field: str) -> float:
    """Return a probability that can be reached and missed: above 0 and below 1.

    Raises:
        InvalidArgument: It is no such number.
    """
    number = _number(value)
    if not 0 < number < 1:
        raise InvalidArgument(f"{field} must be a number above 0 and below 1, not {value!r}", field=field)
    return number


def slots_of(value: float, field: str = "slots") -> float:
    """Return a number of slots, whole or not, from 0 to `MOST_SLOTS`.

    Raises:
        InvalidArgument: It is no such number.
    """
    number = _number(value)
    if not 0 <= number <= MOST_SLOTS:
        raise InvalidArgument(f"{field} must be from 0 to {MOST_SLOTS}, not {value!r}", field=field)
    return number


def whole_slots(value: int, field: str = "slots", *, least: int = 1) -> int:
    """Return a whole number of slots, from `least` to `MOST_SLOTS`.

    Raises:
        InvalidArgument: It is no such number.
    """
    number = _number(value)
    if not least <= number <= MOST_SLOTS or number != int(number):
        raise InvalidArgument(
            f"{field} must be a whole number from {least} to {MOST_SLOTS}, not {value!r}", field=field
        )
    return int(number)


def bisect(falls: Callable[[float], bool], low: float, high: float) -> float:
    """Return the least number between `low` and `high`, to the last bit or so, for which `falls` is true.

    `falls` is false, then true, and true at `high`. The middle is geometric where that is possible, so that
    answers of every size come out to the same relative accuracy.
    """
    while True:
        middle = math.sqrt(low) * math.sqrt(high) if high > 4 * low > 0 else low + (high - low) / 2
        if not low < middle < high or high - low <= 4 * math.ulp(high):
            return high
        if falls(middle):
            high = middle
        else:
            low = middle


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
