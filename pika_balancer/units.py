"""Durations and rates as people write them: `500ms`, `3min`, `200/s`; and what they probably meant."""

import math
import re
from typing import Final

from pika_balancer.errors import InvalidArgument

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_MEANT: Final = {"mil": "ms", "mse": "ms", "m": "min", "s": "s", "h": "h"}
"""By how a word begins: a lone `m` is more often a minute than anything else."""
_NUMBER: Final = r"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)"
_DURATION: Final = re.compile(_NUMBER + r"\s*([a-zA-Z]*)")
_RATE: Final = re.compile(_NUMBER + r"\s*(?:(?:/|per\s)\s*)?([a-zA-Z]*)")


def parse_duration(text: str, *, field: str) -> float:
    """Return the seconds that `text` means: a number followed by `ms`, `s`, `min` or `h`; bare is seconds.

    Raises:
        InvalidArgument: `text` is no such duration; names `field` and the nearest right form.
    """
    match = _DURATION.fullmatch(text.strip())
    unit = (match[2] or "s") if match else ""
    if match is None or unit not in _SECONDS:
        nearest = _nearest(unit)
        meant = f"{match[1]}{nearest}" if match and nearest else None
        raise _wrong(text, field, "duration", "500ms, 30s, 3min or 1.5h", meant)
    return _finite(float(match[1]) * _SECONDS[unit], text, field)


def parse_rate(text: str, *, field: str) -> float:
    """Return how many per second `text` means: a number, a slash, and `s`, `min` or `h`.

    Raises:
        InvalidArgument: `text` is no such rate; names `field` and the nearest right form.
    """
    match = _RATE.fullmatch(text.strip())
    unit = match[2] if match else ""
    if match is None or "/" not in text or unit not in _SECONDS:
        nearest = _nearest(unit or "s")
        meant = f"{match[1]}/{nearest}" if match and nearest else None
        raise _wrong(text, field, "rate", "200/s, 90/min or 500/h", meant)
    return _finite(float(match[1]) / _SECONDS[unit], text, field)


def _nearest(unit: str) -> str | None:
    """Return the unit that somebody means who writes `unit`, if that can be told."""
    small = unit.lower()
    return small if small in _SECONDS else _MEANT.get(small[:3], _MEANT.get(small[:1]))


def _wrong(text: str, field: str, what: str, forms: str, meant: str | None) -> InvalidArgument:
    hint = f"did you mean {meant}?" if meant else f"write it as {forms}"
    return InvalidArgument(f"{field}: {text!r} is no {what}; {hint}", field=field)


def _finite(value: float, text: str, field: str) -> float:
    if not math.isfinite(value):
        raise InvalidArgument(f"{field}: {text!r} is too large", field=field)
    return value
