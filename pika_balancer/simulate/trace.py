"""Read a log of jobs, CSV or Parquet: arrivals and, if present, durations.

Other columns, blank lines, the order of rows, a byte order mark, and `;`, `|` or tabs between columns do not
matter. A row that cannot be read is an error that names its line. Assumptions are returned as notes.
"""

import csv
import importlib
import io
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import attrs

from pika_balancer.distributions import Recorded
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.arrivals import Trace
from pika_balancer.simulate.timestamps import Moments, read_duration

ARRIVALS: Final = (
    "arrival", "arrival_time", "arrived", "arrived_at", "submitted", "submitted_at", "submit_time",
    "requested_at", "queued_at", "created", "created_at", "timestamp", "datetime", "date", "time", "ts",
)  # fmt: skip
"""Names of a column of arrivals, in any case and with a unit appended; the first one found counts."""
DURATIONS: Final = (
    "duration", "service", "service_time", "runtime", "run_time", "processing_time", "execution_time",
    "elapsed", "took",
)  # fmt: skip
"""The same for durations."""
_UNITS: Final = {
    "s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0,
    "ms": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "ns": 1e-9,
    "min": 60.0, "minutes": 60.0, "h": 3600.0, "hours": 3600.0, "d": 86400.0, "days": 86400.0,
}  # fmt: skip
_BEHIND: Final = re.compile(r"(?:_?\(?([a-z]+)\)?)?")
"""A unit appended to the name of a column."""
_SHOWN: Final = 5
_NAMED: Final = 12
_LONGEST_NAME: Final = 1000

Row = tuple[int, Any, Any]
"""Line (or row, from 1), and the cells of arrival and duration; None if there is no such column."""


@attrs.frozen
class Recording:
    """A log of jobs."""

    arrivals: Trace
    """When they arrived."""
    durations: Recorded | None
    """How long they ran; None if the log has no durations."""
    notes: tuple[str, ...] = ()
    """Assumptions, as sentences."""


def read_trace(
    path: str | Path, *, arrival: str | None = None, duration: str | None = None, time_scale: float = 1.0
) -> Recording:
    """Return the jobs of a log, in the order of arrival.

    Arrivals are numbers, or dates and times in ISO 8601 (without a zone: UTC), which count from the first
    one. A unit may be appended to a column's name, as in `arrival_s` or `duration_ms`; the default is
    seconds, or a finer unit of the epoch if the numbers are too large for seconds. A file without a header
    has arrivals in its first column, durations, if any, in its second, and no other column.

    Args:
        path: A CSV file, or a Parquet file (which needs the extra `parquet`).
        arrival: The column of arrivals, if its name is none of `ARRIVALS`.
        duration: The column of durations, if its name is none of `DURATIONS`.
        time_scale: Multiplies arrival times but not durations.

    Raises:
        InvalidArgument: A column is missing, or rows cannot be read; the message names their lines.
        OSError: The file cannot be read.
        ImportError: It is Parquet and pyarrow is missing.
    """
    path = Path(path)
    with path.open("rb") as file:
        magic = file.read(4)
        if magic == b"PAR1":
            (rows, units), place = _parquet(file, path, arrival, duration), "row"
        else:
            (rows, units), place = _csv(magic + file.read(), path, arrival, duration), "line"
    moments = Moments(units[0])
    arrivals, durations = array("d"), array("d")
    wrong: list[str] = []
    faults = 0
    for line, came, ran in rows:
        try:
            moment = moments.read(came)
            if ran is not None:
                durations.append(read_duration(ran, units[1] or 1.0))
            arrivals.append(moment)
        except ValueError as problem:
            faults += 1
            if faults <= _SHOWN:
                wrong.append(f"{place} {line}: {problem}")
    if wrong:
        more = f" (and {faults - _SHOWN} {place}s more)" if faults > _SHOWN else ""
        raise InvalidArgument(f"{path}: {'; '.join(wrong)}{more}", field="trace")
    if not arrivals:
        raise InvalidArgument(f"{path} has no jobs", field="trace")
    order = sorted(range(len(arrivals)), key=arrivals.__getitem__)
    return Recording(
        Trace(moments.to_seconds([arrivals[place] for place in order]), time_scale),
        Recorded([durations[place] for place in order]) if durations else None,
        tuple(f"{path.name}: {note}" for note in moments.notes),
    )


_Units = tuple[float | None, float | None]
"""Seconds in the unit of arrivals and of durations, None if the column's name has none."""


def _csv(
    content: bytes, path: Path, arrival: str | None, duration: str | None
) -> tuple[Iterator[Row], _Units]:
    if content.startswith(b"\x1f\x8b"):
        raise InvalidArgument(f"{path} is compressed; unpack it first", field="trace")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} is neither Parquet nor text in UTF-8", field="trace") from None
    head = re.sub(r'"[^"]*"', "", text.lstrip().partition("\n")[0])
    reader = _cells(io.StringIO(text, newline=""), max(",;\t|", key=head.count), path)
    line, header = next(reader, (0, None))
    if header is None:
        raise InvalidArgument(f"{path} is empty; it needs a column of arrivals", field="trace")
    if arrival is not None or duration is not None or not Moments.like(header[0]):
        places, units = _columns(header, arrival, duration, path)
    elif len(header) > 2:  # noqa: PLR2004 - arrivals and durations
        raise InvalidArgument(
            f"{path}: line {line} has {len(header)} columns, and the file has no header", field="trace"
        )
    else:
        places, units = (0, 1 if len(header) > 1 else -1), (None, None)
        reader = _cells(io.StringIO(text, newline=""), max(",;\t|", key=head.count), path)

    def rows() -> Iterator[Row]:
        came, ran = places
        for number, cells in reader:
            width = len(cells)
            yield (
                number,
                cells[came] if came < width else "",
                (cells[ran] if ran < width else "") if ran >= 0 else None,
            )

    return rows(), units


def _cells(text: Iterable[str], delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every row that is not blank."""
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidArgument(
            f"{path}: line {line} is no row of a CSV file: {error}", field="trace"
        ) from None


def _parquet(
    content: BinaryIO, path: Path, arrival: str | None, duration: str | None
) -> tuple[Iterator[Row], _Units]:
    try:
        pa, pq = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'pika-balancer[parquet]'") from error
    try:
        file = pq.ParquetFile(content)
        names: list[str] = list(file.schema_arrow.names)
        (came, ran), units = _columns(names, arrival, duration, path)
        table = file.read(columns=[names[came], *([names[ran]] if ran >= 0 else [])])
        arrivals: Iterable[Any] = _values(table.column(0), pa)
        durations: Iterable[Any] = _values(table.column(1), pa) if ran >= 0 else [None] * len(table)
    except InvalidArgument:
        raise
    # A damaged file raises OSError, a date outside Python's range one of the others.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        fault = str(error).partition("\n")[0].rstrip(".")
        raise InvalidArgument(f"{path} cannot be read as Parquet: {fault:.200}", field="trace") from None
    missing = "" if ran >= 0 else None
    rows = (
        (number, came, missing if ran is None else ran)
        for number, (came, ran) in enumerate(zip(arrivals, durations, strict=True), 1)
    )
    return rows, units


def _values(column: Any, pa: Any) -> list[Any]:
    """Return a column as Python objects, which have no nanoseconds."""
    for is_kind, make in ((pa.types.is_timestamp, pa.timestamp), (pa.types.is_duration, pa.duration)):
        if is_kind(column.type):
            zone = {"tz": column.type.tz} if make is pa.timestamp else {}
            # Nanoseconds are truncated, but other overflows must raise.
            column = column.cast(make("us", **zone), safe=column.type.unit != "ns")
    values: list[Any] = column.to_pylist()
    return values


def _columns(
    header: list[str], arrival: str | None, duration: str | None, path: Path
) -> tuple[tuple[int, int], _Units]:
    """Return the indices of both columns, -1 for no durations, and their units."""
    came = _column(header, arrival, ARRIVALS)
    ran = _column(header, duration, DURATIONS)
    for wanted, found, field in ((arrival or "arrival", came, "arrival"), (duration, ran, "duration")):
        if wanted is not None and found is None:
            like = "" if arrival or duration else ", nor one such as submitted_at, created_at or timestamp"
            shown = ", ".join(f"{name:.40}" for name in header[:_NAMED]) + (
                f" and {len(header) - _NAMED} more" if len(header) > _NAMED else ""
            )
            raise InvalidArgument(
                f"{path} has no column {wanted!r:.60}{like}; its columns are {shown}. Name the right one",
                field=field,
            )
    none = (-1, None)
    (a, b), (c, d) = came or none, ran or none
    return (a, c), (b, d)


def _column(header: list[str], asked: str | None, known: tuple[str, ...]) -> tuple[int, float | None] | None:
    plain = [_snake(name) for name in header]
    for name in (_snake(asked),) if asked is not None else known:
        for place, found in enumerate(plain):
            match = _BEHIND.fullmatch(found.removeprefix(name)) if found.startswith(name) else None
            if match and (match[1] is None or match[1] in _UNITS):
                return place, _UNITS.get(match[1] or _unit(found))
    return None


def _snake(name: str) -> str:
    """Return the name of a column in snake case: `createdAt`, `Created At` as `created_at`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[\s\-.]+", "_", name.strip()[:_LONGEST_NAME]).lower()


def _unit(name: str) -> str:
    """Return the last word of a column's name, which may be a unit."""
    return name.rpartition("_")[2] if "_" in name else ""
