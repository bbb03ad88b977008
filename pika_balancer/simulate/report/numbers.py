"""Figures as people read them: three digits that count, a unit that fits, and never more than is known."""

import math
from typing import Final, Literal

from pika_balancer.simulate.estimate import Estimate

Kind = Literal["share", "time", "number"]
"""What a figure is: a share from 0 to 1, a duration in seconds, or just a number."""

UNKNOWN: Final = "-"
"""Stands for what is not known."""

_UNITS: Final = ((2 * 86400.0, 86400.0, "d"), (7200.0, 3600.0, "h"), (120.0, 60.0, "min"))
_RATES: Final = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d"))
_DIGITS: Final = 3
_SHARP: Final = 0.003
"""An interval that is narrower than this share of its estimate is worth another digit."""
_SMALLEST: Final = 8
"""Decimals, at most, that are written out."""


def figure(value: float) -> str:
    """Return a number with three digits that count: `12,345`, `83.1`, `0.0526`; `-` where it is unknown."""
    if not math.isfinite(value):
        return "∞" if value > 0 else UNKNOWN
    places = _decimals(value)
    if places > _SMALLEST:
        return f"{value:.2g}"
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if places else text


def percent(share: float) -> str:
    """Return a share, from 0 to 1, as per cent."""
    return _with(figure(100 * share), "%")


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    length, name = unit_of(seconds)
    return _with(figure(seconds / length), f" {name}")


def rate(per_second: float) -> str:
    """Return a rate of jobs, in a unit that makes it a whole number, or else in the first that makes it 1."""
    if not math.isfinite(per_second):
        return figure(per_second)
    fitting = [(per_second * length, name) for length, name in _RATES if per_second * length >= 1]
    whole = [(value, name) for value, name in fitting if math.isclose(value, round(value), rel_tol=1e-9)]
    value, name = (whole or fitting or [(per_second * _RATES[-1][0], _RATES[-1][1])])[0]
    return f"{figure(value)}/{name}"


def count(number: int, one: str, many: str = "") -> str:
    """Return so many of something: `1 slot`, `2 slots`; `many` where that is more than an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def unit_of(seconds: float) -> tuple[float, str]:
    """Return the unit that suits so many seconds: its length in seconds, and its name."""
    known = seconds if math.isfinite(seconds) else 0.0
    return next(((length, name) for least, length, name in _UNITS if known >= least), (1.0, "s"))


def plain(value: float, kind: Kind) -> str:
    """Return a figure of that kind."""
    return {"share": percent, "time": duration, "number": figure}[kind](value)


def with_interval(estimate: Estimate, kind: Kind) -> tuple[str, str]:
    """Return an estimate and its interval, both with as many decimals; `-` where there is none."""
    scale, unit = 1.0, ""
    if kind == "share":
        scale, unit = 0.01, "%"
    elif kind == "time":
        # Waits that are mostly nothing have their unit from what they may be.
        scale, name = unit_of(estimate.value or estimate.high)
        unit = f" {name}"
    value, low, high = (end / scale for end in (estimate.value, estimate.low, estimate.high))
    if math.isnan(low):
        return plain(estimate.value, kind), UNKNOWN
    places = _decimals(value or high) + ((high - low) / 2 < _SHARP * value)
    if places > _SMALLEST:
        return plain(estimate.value, kind), f"{plain(estimate.low, kind)} to {plain(estimate.high, kind)}"
    text = f"{value:,.{places}f}{unit}" if value else plain(0.0, kind)
    return text, f"{low:,.{places}f} to {high:,.{places}f}{unit}"


def exactly(value: float, kind: Kind) -> str:
    """Return a figure that is known exactly, with a digit more than others have."""
    return with_interval(Estimate(value, value, value), kind)[0]


def _decimals(value: float) -> int:
    return max(0, _DIGITS - 1 - math.floor(math.log10(abs(value)))) if value else 0


def _with(text: str, unit: str) -> str:
    return text if text == UNKNOWN else text + unit
