"""Arrivals and durations in seconds, from the cells of a log."""

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

_ERA: Final = 1e8
"""Numbers of seconds above this (three years) count from the first one."""
_FINER: Final = ((1e11, 1e-3, "milliseconds"), (1e14, 1e-6, "microseconds"), (1e17, 1e-9, "nanoseconds"))
"""Numbers above a bound are not seconds of the epoch, but counted in this unit."""
_LARGEST: Final = 1e20


class Moments:
    """A column of arrivals: all of them numbers, or all dates with a time.

    Args:
        unit: Seconds in the unit of the numbers; None if unknown.
    """

    def __init__(self, unit: float | None) -> None:
        self._unit = unit
        self._dated: bool | None = None
        self._large: bool | None = None
        self._no_zone = False
        self.notes: list[str] = []
        """Assumptions, as sentences."""

    @staticmethod
    def like(cell: str) -> bool:
        """Return whether a cell can be an arrival."""
        try:
            Moments(None).read(cell)
        except ValueError:
            return False
        return True

    def read(self, cell: Any) -> float:
        """Return the number or date in a cell as a float; `to_seconds` converts the column.

        Raises:
            ValueError: It is no arrival, or differs in kind or unit from those before.
        """
        try:
            value = float(cell)
        except (TypeError, ValueError):
            return self._date(cell)
        if not 0 <= value < math.inf:
            raise ValueError(f"arrival {cell!r:.40} is no number of at least 0")
        if self._dated is not False:
            self._expect(cell, dated=False)
        large = value > _FINER[0][0]
        if value >= _LARGEST:
            raise ValueError(f"arrival {cell!r:.40} is too large for any unit of time")
        if large is not self._large and self._unit is None:
            if self._large is not None:
                raise ValueError(f"arrival {cell!r:.40} is not in the unit of those before it")
            self._large = large
        return value

    def to_seconds(self, values: Sequence[float]) -> list[float]:
        """Return ascending arrivals in seconds; dates count from the first one."""
        first, unit = values[0], self._unit or 1.0
        if self._dated:
            if self._no_zone:
                self.notes.append("dates without a zone are taken as UTC")
            return [value - first for value in values]
        if self._large:
            _, unit, name = next(finer for finer in reversed(_FINER) if first > finer[0])
            self.notes.append(f"arrivals are too large for seconds and are taken as {name}")
        # Small numbers are not shifted, so that rounding cannot reorder them.
        if first * unit > _ERA:
            return [(value - first) * unit for value in values]
        return [value * unit for value in values]

    def _date(self, cell: Any) -> float:
        found = cell
        if isinstance(cell, str):
            text = cell.strip()
            if not text:
                raise ValueError("arrival is missing")
            try:
                found = datetime.fromisoformat(text)
            except ValueError:
                wanted = "date and time" if text[:4].isdecimal() and "-" in text else "number of at least 0"
                raise ValueError(f"arrival {cell!r:.40} is no {wanted}") from None
        elif isinstance(cell, date) and not isinstance(cell, datetime):
            found = datetime.combine(cell, time())
        if cell is None:
            raise ValueError("arrival is missing")
        if not isinstance(found, datetime):
            raise ValueError(f"arrival {cell!r:.40} is no date")  # noqa: TRY004 - a bad cell like any other
        self._expect(cell, dated=True)
        if found.tzinfo is None:
            self._no_zone = True
            found = found.replace(tzinfo=UTC)
        return found.timestamp()

    def _expect(self, cell: Any, *, dated: bool) -> None:
        if self._dated not in {None, dated}:
            kinds = ("a date", "numbers") if dated else ("a number", "dates")
            raise ValueError(f"arrival {cell!r:.40} is {kinds[0]}, but those before it are {kinds[1]}")
        self._dated = dated


def read_duration(cell: Any, unit: float) -> float:
    """Return a duration in seconds from a cell in the given unit.

    Raises:
        ValueError: It is no duration.
    """
    if isinstance(cell, timedelta):
        cell, unit = cell.total_seconds(), 1.0
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number * unit < math.inf:
        missing = cell is None or (isinstance(cell, str) and not cell.strip())
        raise ValueError(
            f"duration {'is missing' if missing else f'{cell!r:.40} is no number of at least 0'}"
        )
    return number * unit
