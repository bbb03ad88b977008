"""Read a log of jobs, CSV or Parquet: arrivals and, if present, durations.

Other columns, blank lines, the order of rows, a byte order mark, and `;`, `|` or tabs between columns do not
matter. A row that cannot be read is an error that names its line. Assumptions are returned as notes.
"""

import csv
import importlib
import io
import itertools
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
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
_UNIT: Final = re.compile(r"(?:_?\(?([a-z]+)\)?)?")
"""A unit appended to the name of a column."""
_SHOWN: Final = 5
_NAMED: Final = 12
_LONGEST_NAME: Final = 1000

Rows = Iterable[tuple[int, Sequence[Any]]]
"""Lines (or rows, from 1) and their cells."""
Column = tuple[int, float | None]
"""Index of a column, and seconds in its unit; None if its name has no unit."""


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
        start = file.read(4)
        if start == b"PAR1":
            (rows, came, ran), unit = _parquet(file, path, arrival, duration), "row"
        else:
            (rows, came, ran), unit = _csv(start + file.read(), path, arrival, duration), "line"
    moments = Moments(came[1])
    arrivals, durations = array("d"), array("d")
    faults: list[str] = []
    for line, cells in rows:
        try:
            moment = moments.read(_cell(cells, came))
            if ran is not None:
                durations.append(read_duration(_cell(cells, ran), ran[1] or 1.0))
            arrivals.append(moment)
        except ValueError as fault:
            faults.append(f"{unit} {line}: {fault}" if len(faults) < _SHOWN else "")
    if faults:
        more = f" (and {len(faults) - _SHOWN} {unit}s more)" if len(faults) > _SHOWN else ""
        raise InvalidArgument(f"{path}: {'; '.join(faults[:_SHOWN])}{more}", field="trace")
    if not arrivals:
        raise InvalidArgument(f"{path} has no jobs", field="trace")
    order = sorted(range(len(arrivals)), key=arrivals.__getitem__)
    return Recording(
        Trace(moments.to_seconds([arrivals[place] for place in order]), time_scale),
        Recorded([durations[place] for place in order]) if durations else None,
        tuple(f"{path.name}: {note}" for note in moments.notes),
    )


def import_pyarrow() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`, which have no types.

    Raises:
        ImportError: The extra `parquet` is missing.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'pika-balancer[parquet]'") from error


def _cell(cells: Sequence[Any], column: Column) -> Any:
    return cells[column[0]] if column[0] < len(cells) else None


def _csv(
    content: bytes, path: Path, arrival: str | None, duration: str | None
) -> tuple[Rows, Column, Column | None]:
    if content.startswith(b"\x1f\x8b"):
        raise InvalidArgument(f"{path} is compressed; unpack it first", field="trace")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} is neither Parquet nor text in UTF-8", field="trace") from None
    head = re.sub(r'"[^"]*"', "", text.lstrip().partition("\n")[0])
    delimiter = max(",;\t|", key=head.count)
    rows = _cells(io.StringIO(text, newline=""), delimiter, path)
    line, header = next(rows, (0, None))
    if header is None:
        raise InvalidArgument(f"{path} is empty; it needs a column of arrivals", field="trace")
    if arrival is not None or duration is not None or not Moments.like(header[0]):
        return rows, *_columns(header, arrival, duration, path)
    if len(header) > 2:  # noqa: PLR2004 - arrivals and durations
        raise InvalidArgument(
            f"{path}: line {line} has {len(header)} columns, and the file has no header", field="trace"
        )
    return itertools.chain([(line, header)], rows), (0, None), (1, None) if len(header) > 1 else None


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
) -> tuple[Rows, Column, Column | None]:
    pa, pq = import_pyarrow()
    try:
        file = pq.ParquetFile(content)
        names: list[str] = list(file.schema_arrow.names)
        came, ran = _columns(names, arrival, duration, path)
        table = file.read(columns=[names[came[0]], *([names[ran[0]]] if ran else [])])
        columns = [_values(column, pa) for column in table.columns]
    except InvalidArgument:
        raise
    # A damaged file raises OSError, a date outside Python's range one of the others.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        fault = str(error).partition("\n")[0].rstrip(".")
        raise InvalidArgument(f"{path} is no Parquet that can be read: {fault:.200}", field="trace") from None
    return enumerate(zip(*columns, strict=True), 1), (0, came[1]), (1, ran[1]) if ran else None


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
) -> tuple[Column, Column | None]:
    """Return the columns of arrivals and, if there is one, of durations."""
    came = _column(header, arrival, ARRIVALS)
    ran = _column(header, duration, DURATIONS)
    if came is not None and (ran is not None or duration is None):
        return came, ran
    wanted, field = (arrival or "arrival", "arrival") if came is None else (duration, "duration")
    like = "" if arrival or duration else ", nor one such as submitted_at, created_at or timestamp"
    shown = ", ".join(f"{name:.40}" for name in header[:_NAMED])
    more = f" and {len(header) - _NAMED} more" if len(header) > _NAMED else ""
    raise InvalidArgument(
        f"{path} has no column {wanted!r:.60}{like}; its columns are {shown}{more}. Name the right one",
        field=field,
    )


def _column(header: list[str], name: str | None, known: tuple[str, ...]) -> Column | None:
    columns = [_snake(column) for column in header]
    for start in known if name is None else (_snake(name),):
        for place, column in enumerate(columns):
            match = _UNIT.fullmatch(column.removeprefix(start)) if column.startswith(start) else None
            if match and (match[1] is None or match[1] in _UNITS):
                return place, _UNITS.get(match[1] or _last_word(column))
    return None


def _snake(name: str) -> str:
    """Return the name of a column in snake case: `createdAt`, `Created At` as `created_at`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[\s\-.]+", "_", name.strip()[:_LONGEST_NAME]).lower()


def _last_word(column: str) -> str:
    return column.rpartition("_")[2] if "_" in column else ""
