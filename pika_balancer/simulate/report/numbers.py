"""Numbers as people read them: three significant digits, a suitable unit, no more digits than are known."""

import math
from typing import Final, Literal

from pika_balancer.simulate.estimate import Estimate

Kind = Literal["share", "time", "number"]
"""The kind of a figure: a share from 0 to 1, a duration in seconds, or a plain number."""

UNKNOWN: Final = "-"
"""The text of an unknown value."""

_UNITS: Final = ((2 * 86400.0, 86400.0, "d"), (7200.0, 3600.0, "h"), (120.0, 60.0, "min"))
_RATES: Final = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d"))
_DIGITS: Final = 3
_SHARP: Final = 0.003
"""An interval narrower than this share of its estimate allows one more digit."""
_MOST_DECIMALS: Final = 8


def figure(value: float) -> str:
    """Return a number with three significant digits: `12,345`, `83.1`, `0.0526`; `-` if unknown."""
    if not math.isfinite(value):
        return "∞" if value > 0 else UNKNOWN
    places = _decimals(value)
    if places > _MOST_DECIMALS:
        return f"{value:.2g}"
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if places else text


def percent(share: float) -> str:
    """Return a share, from 0 to 1, in per cent."""
    return _with(figure(100 * share), "%")


def duration(seconds: float) -> str:
    """Return a duration in a suitable unit."""
    length, name = unit_of(seconds)
    return _with(figure(seconds / length), f" {name}")


def rate(per_second: float) -> str:
    """Return a rate in the first unit that makes it whole, or else in the first that makes it 1 or more."""
    if not math.isfinite(per_second):
        return figure(per_second)
    fitting = [(per_second * length, name) for length, name in _RATES if per_second * length >= 1]
    whole = [(value, name) for value, name in fitting if math.isclose(value, round(value), rel_tol=1e-9)]
    value, name = (whole or fitting or [(per_second * _RATES[-1][0], _RATES[-1][1])])[0]
    return f"{figure(value)}/{name}"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 slot`, `2 slots`; `many` is an irregular plural."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def unit_of(seconds: float) -> tuple[float, str]:
    """Return a suitable unit for a duration: its length in seconds, and its name."""
    known = seconds if math.isfinite(seconds) else 0.0
    return next(((length, name) for least, length, name in _UNITS if known >= least), (1.0, "s"))


def plain(value: float, kind: Kind) -> str:
    """Return a figure of that kind."""
    return {"share": percent, "time": duration, "number": figure}[kind](value)


def with_interval(estimate: Estimate, kind: Kind) -> tuple[str, str]:
    """Return an estimate and its interval with the same number of decimals; `-` if there is none."""
    scale, unit = 1.0, ""
    if kind == "share":
        scale, unit = 0.01, "%"
    elif kind == "time":
        # An estimate of 0 takes its unit from the upper end.
        scale, name = unit_of(estimate.value or estimate.high)
        unit = f" {name}"
    value, low, high = (end / scale for end in (estimate.value, estimate.low, estimate.high))
    if math.isnan(low):
        return plain(estimate.value, kind), UNKNOWN
    places = _decimals(value or high) + ((high - low) / 2 < _SHARP * value)
    if places > _MOST_DECIMALS:
        return plain(estimate.value, kind), f"{plain(estimate.low, kind)} to {plain(estimate.high, kind)}"
    text = f"{value:,.{places}f}{unit}" if value else plain(0.0, kind)
    return text, f"{low:,.{places}f} to {high:,.{places}f}{unit}"


def exactly(value: float, kind: Kind) -> str:
    """Return an exact figure, with one more digit than an estimate."""
    return with_interval(Estimate(value, value, value), kind)[0]


def _decimals(value: float) -> int:
    return max(0, _DIGITS - 1 - math.floor(math.log10(abs(value)))) if value else 0


def _with(text: str, unit: str) -> str:
    return text if text == UNKNOWN else text + unit
