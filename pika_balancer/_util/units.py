"""Read and write numbers with units: durations, rates, shares, counts.

Each `format_…` returns a text that its `parse_…` reads as exactly the same number; `readable_duration` a
rounded one.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pika_balancer.errors import InvalidArgument

SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""Units of time, in seconds."""
_NUMBER: Final = r"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)"
_WITH_UNIT: Final = re.compile(_NUMBER + r"\s*([^\W\d_]*)")
_RATE: Final = re.compile(_NUMBER + r"\s*(?:/|per)\s*([^\W\d_]*)")
_PERCENT: Final = re.compile(_NUMBER + r"\s*(%?)")
_COUNT: Final = re.compile(_NUMBER + r"\s*([kKM]?)")
_MOST: Final = 10**12
_SHOWN: Final = 60
"""Characters of a text that a message quotes."""
_ALIKE: Final = {
    other: unit
    for unit, others in {
        "ms": "msec millisecond milliseconds",
        "s": "sec secs second seconds",
        "min": "m mins minute minutes",
        "h": "hr hrs hour hours",
        "d": "day days",
    }.items()
    for other in others.split()
}
"""Units that people write, and the one to suggest: `m` could be a metre, a month or a million."""
_READABLE: Final = {"d": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6}
"""Units in which a duration is shown, in seconds."""
_SHORTEST: Final = 0.9995e-6
"""Shorter durations are shown as 0."""


def parse_duration(text: str, *, field: str = "duration") -> float:
    """Return the seconds that `text` means: `180`, `500ms`, `3min`, `1.5h`, `1d`, `1h30min` or `1h30m`.

    Raises:
        InvalidArgument: `text` is no such duration; names `field` and the nearest right form.
    """
    # One pattern for the whole would take exponential time for `1e1e1e…`.
    parts = [] if _WITH_UNIT.sub("", text).strip() else _WITH_UNIT.findall(text)
    units = [unit or "s" for _, unit in parts]
    if len(parts) > 1:
        # From the largest unit to the smallest, each once: so `m` after `h` can only mean minutes.
        units = ["min" if unit == "m" else unit for _, unit in parts]
    if not parts or units != [unit for unit in reversed(SECONDS) if unit in units]:
        meant = _with(*parts[0]) if len(parts) == 1 else None
        raise wrong(text, field, "duration", "180s, 500ms, 3min or 1.5h", meant)
    total = math.fsum(float(part) * SECONDS[unit] for (part, _), unit in zip(parts, units, strict=True))
    return _finite(total, text, field, "duration")


def format_duration(seconds: float) -> str:
    """Return the shortest text that `parse_duration` reads as exactly `seconds`, 0 or more."""
    return _shortest(seconds, parse_duration, {unit: seconds / scale for unit, scale in SECONDS.items()})


def readable_duration(seconds: float) -> str:
    """Return a duration with three digits in the unit that suits it: `973 µs`, `1.5 s`, `3.08 min`, `2 h`.

    It is `∞` for infinity, and `-` for NaN, which stands for an unknown duration.
    """
    if not math.isfinite(seconds):
        return "∞" if seconds > 0 else "-"
    length, name = unit_of(seconds)
    value = seconds / length if seconds > _SHORTEST else 0.0
    # From where three digits would make `1e+03`.
    return f"{value:,.0f} {name}" if value >= 999.5 else f"{value:.3g} {name}"  # noqa: PLR2004


def unit_of(seconds: float) -> tuple[float, str]:
    """Return the unit that suits so many seconds: its length in seconds, and its name.

    From 2 min, 2 h and 2 d on it is the longer unit; below a second, the shorter one.
    """
    for name, length in _READABLE.items():
        if seconds >= (2 * length if length > 1 else 0.9995 * length) and seconds < math.inf:
            return length, name
    return 1.0, "s"


def parse_rate(text: str, *, field: str = "rate") -> float:
    """Return the jobs per second that `text` means: a number, a slash, and `s`, `min`, `h` or `d`.

    Raises:
        InvalidArgument: `text` is no such rate; names `field` and the nearest right form.
    """
    match = _RATE.fullmatch(text.strip())
    if match is not None and match[2] in SECONDS:
        return _finite(float(match[1]) / SECONDS[match[2]], text, field, "rate")
    match = match or _WITH_UNIT.fullmatch(text.strip())
    meant = _with(f"{match[1]}/", match[2] or "h") if match else None
    raise wrong(text, field, "rate", "500/h, 8/min or 0.14/s", meant)


def format_rate(rate: float) -> str:
    """Return the shortest text that `parse_rate` reads as exactly `rate` jobs per second, 0 or more."""
    numbers = {f"/{unit}": rate * scale for unit, scale in SECONDS.items() if unit != "ms"}
    return _shortest(rate, parse_rate, numbers)


def parse_share(text: str, *, field: str = "share") -> float:
    """Return the share, from 0 to 1, that `text` means: `1%` or `0.01`.

    Raises:
        InvalidArgument: `text` is no such share; names `field`, and the nearest right form.
    """
    match = _PERCENT.fullmatch(text.strip())
    if match is None:
        raise wrong(text, field, "share", "1% or 0.01")
    value = float(match[1]) / (100 if match[2] else 1)
    if not 0 <= value <= 1:
        meant = None if match[2] or not value <= 100 else f"{match[1]}%"  # noqa: PLR2004 - per cent
        raise wrong(text, field, "share", "1% or 0.01, from 0 to 1", meant)
    return value


def format_share(value: float) -> str:
    """Return the shortest text that `parse_share` reads as exactly `value`, from 0 to 1."""
    percent = f"{format_number(value * 100)}%"
    return percent if parse_share(percent, field="share") == value else format_number(value)


def parse_number(text: str, *, field: str = "number") -> float:
    """Return a number, 0 or more.

    Raises:
        InvalidArgument: `text` is no such number; names `field`.
    """
    match = re.fullmatch(_NUMBER, text.strip())
    if match is None:
        raise wrong(text, field, "number", "0.7 or 3")
    return _finite(float(match[1]), text, field, "number")


def format_number(value: float) -> str:
    """Return the shortest text that `parse_number` reads as exactly `value`."""
    whole = int(value)
    # Integers are written out up to the size that a float holds exactly.
    return str(whole) if value == whole and whole < 10**15 else repr(value)


def parse_count(text: str, *, field: str = "count", least: int = 1, most: int = _MOST) -> int:
    """Return a whole number from `least` to `most`: `80`, `100_000`, `1e6`.

    Raises:
        InvalidArgument: `text` is no such number; names `field`, and the nearest right form.
    """
    match = _COUNT.fullmatch(text.strip().replace("_", "").replace(",", ""))
    if match is None or match[2]:
        meant = f"{match[1]}e{6 if match[2] == 'M' else 3}" if match else None
        raise wrong(text, field, "whole number", "80 or 1e6", meant)
    number = float(match[1])
    if not least <= number <= most or number != int(number):
        raise InvalidArgument(
            f"{field}: {text!r:.{_SHOWN}} must be a whole number from {least} to {most:,}", field=field
        )
    return int(number)


def wrong(text: str, field: str, what: str, forms: str, meant: str | None = None) -> InvalidArgument:
    """Return the error for a text that is no `what`; it suggests `meant` if given, else the `forms`."""
    sound = meant is not None and len(meant) <= _SHOWN and meant.isprintable()
    hint = f"did you mean {meant}?" if sound else f"write it as {forms}"
    return InvalidArgument(f"{field}: {text!r:.{_SHOWN}} is no {what}; {hint}", field=field)


def nearest(text: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most similar to `text`, None if none is."""
    if len(text) > _SHOWN:  # comparing it would take long
        return None
    words = list(known)
    found = difflib.get_close_matches(text.lower(), words, n=1, cutoff=0.5)
    if found:
        return found[0]
    starts = [word for word in words if text and word.startswith(text.lower())]
    return starts[0] if len(starts) == 1 else None


def _with(number: str, unit: str) -> str | None:
    """Return the number with the unit that was probably meant, None if no unit is similar."""
    small = unit.lower()
    known = small if small in SECONDS else _ALIKE.get(small) or nearest(small, SECONDS)
    return number + known if known else None


def _finite(value: float, text: str, field: str, what: str) -> float:
    if not math.isfinite(value):
        raise InvalidArgument(f"{field}: {text!r:.{_SHOWN}} is too large a {what}", field=field)
    return value


def _shortest(value: float, parse: Callable[[str], float], numbers: Mapping[str, float]) -> str:
    """Return the shortest text of a number and its unit that is read as exactly `value`."""
    texts = [f"{format_number(number)}{unit}" for unit, number in numbers.items() if number < math.inf]
    return min((text for text in texts if parse(text) == value), key=len)
