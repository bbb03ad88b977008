"""Numbers with units, as people write them: durations, rates, counts, shares; and what they probably meant.

What is read can be written: each `format_…` gives a text that reads as exactly the same number.
"""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Final

from pika_balancer.errors import InvalidArgument

SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""Units of time, in seconds."""
_NUMBER: Final = r"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)"
_DURATION: Final = re.compile(_NUMBER + r"\s*([^\W\d_]*)")
_SEVERAL: Final = re.compile(rf"\s*(?:{_NUMBER}\s*[^\W\d_]+\s*)+")
_RATE: Final = re.compile(_NUMBER + r"\s*(?:/|per)\s*([^\W\d_]*)")
_PERCENT: Final = re.compile(_NUMBER + r"\s*(%?)")
_MOST: Final = 10**12
_SHOWN: Final = 60
"""Characters of a text that a message quotes."""
_ALIKE: Final = {
    "m": "min",
    "minute": "min",
    "minutes": "min",
    "mins": "min",
    "sec": "s",
    "secs": "s",
    "second": "s",
    "seconds": "s",
    "hr": "h",
    "hrs": "h",
    "hour": "h",
    "hours": "h",
    "day": "d",
    "days": "d",
    "msec": "ms",
    "millisecond": "ms",
    "milliseconds": "ms",
}
"""Units that people write, and the one to suggest: `m` could be a metre, a month or a million."""


def parse_duration(text: str, *, field: str = "duration") -> float:
    """Return the seconds that `text` means: `180`, `500ms`, `3min`, `1.5h`, `1d`, `1h30min` or `1h30m`.

    Raises:
        InvalidArgument: `text` is no such duration; names `field` and the nearest right form.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        parts = _DURATION.findall(text)
        units = ["min" if unit == "m" else unit for _, unit in parts]
        # From the largest unit to the smallest, each once: so `m` after `h` cannot be anything but minutes.
        ordered = units and units == [unit for unit in reversed(SECONDS) if unit in units]
        if not (ordered and _SEVERAL.fullmatch(text)):
            raise wrong(text, field, "duration", "180s, 500ms, 3min or 1.5h")
        total = math.fsum(float(part) * SECONDS[unit] for (part, _), unit in zip(parts, units, strict=True))
        return _finite(total, text, field, "duration")
    number, unit = match[1], match[2]
    scale = 1.0 if not unit else SECONDS.get(unit)
    if scale is None:
        raise wrong(text, field, "duration", "180s, 500ms, 3min or 1.5h", _with(number, unit))
    return _finite(float(number) * scale, text, field, "duration")


def format_duration(seconds: float) -> str:
    """Return the shortest text that `parse_duration` reads as exactly `seconds`, 0 or more."""
    texts = [
        f"{_plain(seconds / scale)}{unit}" for unit, scale in SECONDS.items() if seconds / scale < math.inf
    ]
    exact = [text for text in texts if parse_duration(text, field="duration") == seconds]
    return min([f"{_plain(seconds)}s", *exact], key=len)


def parse_rate(text: str, *, field: str = "rate") -> float:
    """Return the jobs per second that `text` means: a number, a slash, and `s`, `min`, `h` or `d`.

    Raises:
        InvalidArgument: `text` is no such rate; names `field` and the nearest right form.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        bare = _DURATION.fullmatch(text.strip())
        meant = _with(f"{bare[1]}/", bare[2] or "h") if bare else None
        raise wrong(text, field, "rate", "500/h, 8/min or 0.14/s", meant)
    number, unit = match[1], match[2]
    if unit not in SECONDS:
        raise wrong(text, field, "rate", "500/h, 8/min or 0.14/s", _with(f"{number}/", unit))
    return _finite(float(number) / SECONDS[unit], text, field, "rate")


def format_rate(rate: float) -> str:
    """Return the shortest text that `parse_rate` reads as exactly `rate` jobs per second, 0 or more."""
    scales = [(unit, scale) for unit, scale in SECONDS.items() if unit != "ms" and rate * scale < math.inf]
    texts = [f"{_plain(rate * scale)}/{unit}" for unit, scale in scales]
    exact = [text for text in texts if parse_rate(text, field="rate") == rate]
    return min([f"{_plain(rate)}/s", *exact], key=len)


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
    percent = f"{_plain(value * 100)}%"
    return percent if parse_share(percent, field="share") == value else _plain(value)


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
    return _plain(value)


def parse_count(text: str, *, field: str = "count", least: int = 1, most: int = _MOST) -> int:
    """Return a whole number from `least` to `most`: `80`, `100_000`, `1e6`.

    Raises:
        InvalidArgument: `text` is no such number; names `field`, and the nearest right form.
    """
    match = re.fullmatch(_NUMBER + r"\s*([kKM]?)", text.strip().replace("_", "").replace(",", ""))
    if match is None:
        raise wrong(text, field, "whole number", "80 or 1e6")
    number = float(match[1])
    if match[2]:
        power = {"k": 3, "K": 3, "M": 6}[match[2]]
        raise wrong(text, field, "whole number", "80 or 1e6", f"{match[1]}e{power}")
    if not least <= number <= most or number != int(number):
        raise InvalidArgument(
            f"{field}: {text!r:.{_SHOWN}} must be a whole number from {least} to {most:,}", field=field
        )
    return int(number)


def wrong(text: str, field: str, what: str, forms: str, meant: str | None = None) -> InvalidArgument:
    """Return the error for a text that is no `what`, with examples, and with what was probably meant."""
    sound = meant is not None and len(meant) <= _SHOWN and meant.isprintable()
    hint = f"did you mean {meant}?" if sound else f"write it as {forms}"
    return InvalidArgument(f"{field}: {text!r:.{_SHOWN}} is no {what}; {hint}", field=field)


def nearest(text: str, known: Iterable[str]) -> str | None:
    """Return the known word that looks most like `text`, None if none does."""
    if len(text) > _SHOWN:  # to compare takes long, and nobody meant that
        return None
    words = list(known)
    found = difflib.get_close_matches(text.lower(), words, n=1, cutoff=0.5)
    if found:
        return found[0]
    starts = [word for word in words if text and word.startswith(text.lower())]
    return starts[0] if len(starts) == 1 else None


def _with(number: str, unit: str) -> str | None:
    """Return the number with the unit that was probably meant, None if that cannot be told."""
    small = unit.lower()
    known = small if small in SECONDS else _ALIKE.get(small) or nearest(small, SECONDS)
    return number + known if known else None


def _finite(value: float, text: str, field: str, what: str) -> float:
    if not math.isfinite(value):
        raise InvalidArgument(f"{field}: {text!r:.{_SHOWN}} is too large a {what}", field=field)
    return value


def _plain(value: float) -> str:
    whole = int(value)
    # Written out as far as a reader likes, and as a float can hold exactly.
    return str(whole) if value == whole and whole < 10**15 else repr(value)
