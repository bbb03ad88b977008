"""Reads a log of jobs, CSV or Parquet: when each came and, if it is there, how long it ran.

Forgiving about what it does not need (other columns, blank lines, the order of rows, a byte order mark, `;`
or tabs between columns) and strict about what it does: a row that cannot be read is named by its line.
"""

import csv
import importlib
import math
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import attrs

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.arrivals import Trace
from pika_balancer.simulate.laws import Recorded

ARRIVALS: Final = (
    "arrival", "arrival_time", "arrived", "arrived_at", "submitted", "submitted_at", "created", "created_at",
    "timestamp", "time",
)  # fmt: skip
"""Names that a column of arrivals may have, in any case and with a unit behind, the first that is there."""
DURATIONS: Final = ("duration", "service", "service_time", "runtime", "run_time", "elapsed")
"""The same for durations."""
_UNITS: Final = {
    "": 1.0,
    "s": 1.0,
    "sec": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "min": 60.0,
    "h": 3600.0,
}
_SHOWN: Final = 5

Row = tuple[int, Any, Any]
"""Line (or row, from 1), arrival and duration as they stand there; no duration is None."""


@attrs.frozen
class Recording:
    """A log of jobs."""

    arrivals: Trace
    """When they came."""
    durations: Recorded | None
    """How long they ran; None where the log does not say."""


def read_trace(
    path: str | Path, *, arrival: str | None = None, duration: str | None = None, time_scale: float = 1.0
) -> Recording:
    """Return the jobs of a log, in the order of arrival.

    Arrivals are numbers, or dates and times in ISO 8601, which count from the first one. A unit may stand
    behind a column's name, as in `arrival_s` or `duration_ms`; without one, seconds. A file without a header
    has arrivals in its first column and durations, if any, in its second.

    Args:
        path: A CSV file, or a Parquet file (which needs the extra `parquet`).
        arrival: The column of arrivals, where its name is none of `ARRIVALS`.
        duration: The column of durations, where its name is none of `DURATIONS`.
        time_scale: Multiplies the moments of arrival and leaves durations alone.

    Raises:
        InvalidArgument: A column is missing, or rows cannot be read; they are named by line.
        OSError: The file cannot be read.
        ImportError: It is Parquet and pyarrow is missing.
    """
    path = Path(path)
    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    rows, units = (_parquet if parquet else _csv)(path, arrival, duration)
    jobs: list[tuple[float, float | None]] = []
    wrong: list[str] = []
    for line, came, ran in rows:
        try:
            jobs.append(
                (_moment(came, units[0]), None if ran is None else _number(ran, "duration") * units[1])
            )
        except ValueError as problem:
            wrong.append(f"line {line}: {problem}")
    if wrong:
        more = f" (and {len(wrong) - _SHOWN} lines more)" if len(wrong) > _SHOWN else ""
        raise InvalidArgument(f"{path}: {'; '.join(wrong[:_SHOWN])}{more}", field="trace")
    if not jobs:
        raise InvalidArgument(f"{path} has no jobs", field="trace")
    jobs.sort(key=lambda job: job[0])
    # Dates count from the first one; numbers stay as they are, so that no rounding moves one past another.
    first = jobs[0][0] if jobs[0][0] > _ERA else 0.0
    durations = [ran for _, ran in jobs if ran is not None]
    return Recording(
        Trace((came - first for came, _ in jobs), time_scale),
        Recorded(durations) if len(durations) == len(jobs) else None,
    )


_ERA: Final = 1e8
"""Above so many seconds a moment is a date: more than three years from 0."""


def _csv(path: Path, arrival: str | None, duration: str | None) -> tuple[Iterator[Row], tuple[float, float]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} is neither Parquet nor text in UTF-8", field="trace") from None
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    lines: Iterator[tuple[int, list[str]]] = (
        (reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)
    )
    line, header = next(lines, (0, [""]))
    if arrival is None and duration is None and _plain(header[0]):
        places, units = (0, 1 if len(header) > 1 else -1), (1.0, 1.0)
        lines = iter([(line, header), *lines])
    else:
        places, units = _columns(header, arrival, duration, path)

    def rows() -> Iterator[Row]:
        for number, cells in lines:
            found = [cells[place] if place < len(cells) else "" for place in places]
            yield number, found[0], found[1] if places[1] >= 0 else None

    return rows(), units


def _parquet(
    path: Path, arrival: str | None, duration: str | None
) -> tuple[Iterator[Row], tuple[float, float]]:
    try:
        pq = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'pika-balancer[parquet]'") from error
    file = pq.ParquetFile(path)
    names: list[str] = list(file.schema_arrow.names)
    (came, ran), units = _columns(names, arrival, duration, path)
    table = file.read(columns=[names[came], *([names[ran]] if ran >= 0 else [])])
    arrivals: Iterable[Any] = table.column(0).to_pylist()
    durations: Iterable[Any] = table.column(1).to_pylist() if ran >= 0 else [None] * len(table)
    missing = "" if ran >= 0 else None
    rows = (
        (number, came, missing if ran is None else ran)
        for number, (came, ran) in enumerate(zip(arrivals, durations, strict=True), 1)
    )
    return rows, units


def _columns(
    header: list[str], arrival: str | None, duration: str | None, path: Path
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return the places of both columns, -1 for no durations, and the seconds in a unit of each."""
    came = _column(header, arrival, ARRIVALS)
    ran = _column(header, duration, DURATIONS)
    for wanted, found, field in ((arrival or "arrival", came, "arrival"), (duration, ran, "duration")):
        if wanted is not None and found is None:
            raise InvalidArgument(
                f"{path} has no column {wanted!r}; its columns are {', '.join(header)}. Name the right one",
                field=field,
            )
    none = (-1, 1.0)
    (a, b), (c, d) = came or none, ran or none
    return (a, c), (b, d)


def _column(header: list[str], asked: str | None, known: tuple[str, ...]) -> tuple[int, float] | None:
    plain = [name.strip().lower().replace(" ", "_") for name in header]
    for name in (asked.strip().lower().replace(" ", "_"),) if asked is not None else known:
        for place, found in enumerate(plain):
            match = re.fullmatch(rf"{re.escape(name)}(?:_\(?([a-z]+)\)?)?", found)
            if match and (match[1] or "") in _UNITS:
                return place, _UNITS[match[1] or _unit(found)]
    return None


def _unit(name: str) -> str:
    """Return the unit that a column's own name ends in, if any."""
    end = name.rpartition("_")[2] if "_" in name else ""
    return end if end in _UNITS else ""


def _plain(cell: str) -> bool:
    try:
        _moment(cell, 1.0)
    except ValueError:
        return False
    return True


def _moment(value: Any, unit: float) -> float:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, str) and re.match(r"\s*\d{4}-\d\d", value):
        try:
            return datetime.fromisoformat(value.strip()).timestamp()
        except ValueError:
            raise ValueError(f"arrival {value!r:.40} is no date and time") from None
    return _number(value, "arrival") * unit


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        shown = f"{value!r:.40}" if value not in {"", None} else "is missing and"
        raise ValueError(f"{what} {shown} is no number of at least 0")
    return number
