"""Logs of jobs, as people have them."""

import gzip
import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate import read_trace
from pika_balancer.simulate.arrivals import Trace

# They have no types to check against.
pa: Any = importlib.import_module("pyarrow")
pq: Any = importlib.import_module("pyarrow.parquet")

READ = {
    "bare": ("0\n1.5\n4\n", [0, 1.5, 4], None),
    "bare, with durations": ("0,3\n1.5,4\n", [0, 1.5], [3, 4]),
    "named": ("arrival_s,duration_s\n0,3\n2,4\n", [0, 2], [3, 4]),
    "other columns, blank lines, any case": (
        "id,Created At,note,Duration\n7,1,x,5\n\n8,2,,6\n",
        [1, 2],
        [5, 6],
    ),
    "semicolons and a byte order mark": ("\ufeffarrival;service\n1;2\n", [1], [2]),
    "tabs": ("arrival\tx\n1\t2\n", [1], None),
    "milliseconds": ("arrival_ms,service_time_ms\n500,2500\n", [0.5], [2.5]),
    "in no order": ("arrival,duration\n9,1\n3,2\n3,4\n", [3, 3, 9], [2, 4, 1]),
    "dates": ("timestamp\n2023-11-16T18:15:46.680\n2023-11-16 18:15:50.680\n", [0, 4], None),
    "dates with zones": (
        "time,duration\n2023-11-16T18:00:00Z,1\n2023-11-16T19:00:09+01:00,2\n",
        [0, 9],
        [1, 2],
    ),
    "dates without dashes": ("ts\n20231116T180000Z\n20231116T180005Z\n", [0, 5], None),
    "names of other ages": ("jobId,createdAt,service_s\n1,0,60\n2,4,5\n", [0, 4], [60, 5]),
    "days and hours": ("arrival_days,duration_hours\n0,1\n5,0.5\n", [0, 432000], [3600, 1800]),
    "quotes, line ends of Windows": ('"note","arrival","duration"\r\n"a\r\nb;;;",0,60\r\n', [0], [60]),
    "line ends of old": ("arrival,duration\r0,60\r5,60\r", [0, 5], [60, 60]),
    "bars": ("arrival|duration\n0|60\n", [0], [60]),
    "a separator within a name": ('arrival,"a;b;c",duration\n0,x,60\n', [0], [60]),
    "seconds of the epoch": ("time\n1700000000\n1700000002.5\n", [0, 2.5], None),
}


@pytest.mark.parametrize("name", READ)
def test_a_csv_is_read(name: str, tmp_path: Path) -> None:
    text, arrivals, durations = READ[name]
    path = tmp_path / "log.csv"
    path.write_text(text, encoding="utf-8")
    recording = read_trace(path, time_scale=2.0)
    assert recording.arrivals.arrivals.tolist() == pytest.approx(arrivals)
    assert recording.arrivals.time_scale == 2.0
    assert (recording.durations.values.tolist() if recording.durations else None) == durations


@pytest.mark.parametrize(
    ("cells", "unit"),
    [
        (("1700000000000", "1700000002500"), "milliseconds"),
        (("1700000000000000", "1700000002500000"), "microseconds"),
        (("1700000000000000000", "1700000002500000000"), "nanoseconds"),
    ],
)
def test_an_epoch_that_is_not_in_seconds_is_noticed(
    tmp_path: Path, cells: tuple[str, str], unit: str
) -> None:
    path = tmp_path / "log.csv"
    path.write_text("time,duration\n" + "".join(f"{cell},60\n" for cell in cells))
    recording = read_trace(path)
    assert recording.arrivals.arrivals.tolist() == pytest.approx([0.0, 2.5])
    assert recording.notes == (f"log.csv: arrivals are too large for seconds and are taken as {unit}",)
    # A unit in the name of the column decides.
    path.write_text("time_ms\n1700000000000\n1700000002500\n")
    recording = read_trace(path)
    assert (recording.arrivals.arrivals.tolist(), recording.notes) == ([0.0, 2.5], ())


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine stand in a zone that is far from UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_a_date_without_a_zone_is_in_utc_wherever_the_machine_stands(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("time\n2023-11-16T18:00:00Z\n2023-11-16T18:00:05\n")
    recording = read_trace(path)
    assert recording.arrivals.arrivals.tolist() == [0.0, 5.0]
    assert recording.notes == ("log.csv: dates without a zone are taken as UTC",)


def test_dates_before_the_epoch_count_from_the_first_too(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("time\n1969-12-31T23:59:58Z\n1970-01-01T00:00:01Z\n")
    assert read_trace(path).arrivals.arrivals.tolist() == [0.0, 3.0]


def test_no_scale_puts_arrivals_beyond_all_time(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("time\n10\n")
    with pytest.raises(InvalidArgument, match=r"from 1e-15 to 1e\+15") as caught:
        read_trace(path, time_scale=1e308)
    assert caught.value.field == "time_scale"
    with pytest.raises(InvalidArgument, match="would be infinite") as caught:
        Trace([1e300], 1e15)
    assert caught.value.field == "time_scale"


def test_columns_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("arrival,when,took_ms\n9,1,1500\n")
    recording = read_trace(path, arrival="When", duration="took_ms")
    assert recording.arrivals.arrivals.tolist() == [1.0]
    assert recording.durations is not None
    assert recording.durations.values.tolist() == [1.5]


def test_parquet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.bin"
    pq.write_table(pa.table({"who": ["a", "b"], "arrival": [4.0, 1.0], "duration": [7, 8]}), path)
    recording = read_trace(path)
    assert recording.arrivals.arrivals.tolist() == [1.0, 4.0]
    assert recording.durations is not None
    assert recording.durations.values.tolist() == [8.0, 7.0]
    stamps = pa.array([1_700_000_000_000, 1_700_000_003_000], pa.timestamp("ms"))
    pq.write_table(pa.table({"created_at": stamps}), path)
    assert read_trace(path).arrivals.arrivals.tolist() == [0.0, 3.0]
    pq.write_table(pa.table({"arrival": [4.0, 1.0], "duration": [7.0, None]}), path)
    with pytest.raises(InvalidArgument, match="row 2: duration is missing"):
        read_trace(path)
    stamps = pa.array([1_700_000_000_000_000_500, 1_700_000_001_000_000_000], pa.timestamp("ns", tz="UTC"))
    lasted = pa.array([1500, 2500], pa.duration("ms"))
    pq.write_table(pa.table({"created_at": stamps, "duration": lasted}), path)
    recording = read_trace(path)
    assert recording.arrivals.arrivals.tolist() == pytest.approx([0.0, 1.0])
    assert recording.notes == ()
    assert recording.durations is not None
    assert recording.durations.values.tolist() == [1.5, 2.5]
    path.write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(InvalidArgument, match="is no Parquet that can be read"):
        read_trace(path)


WRONG = {
    "a word": ("arrival\n1\nsoon\n2\n", "line 3: arrival 'soon'"),
    "a negative": ("arrival,duration\n1,-4\n", "line 2: duration '-4'"),
    "nothing": ("arrival,duration\n1,2\n3\n", "line 3: duration is missing"),
    "no number": ("arrival\nnan\n", "line 2: arrival 'nan'"),
    "no date": ("arrival\n2023-13-45\n", "line 2: arrival '2023-13-45' is no date"),
    "many": ("arrival\n" + "x\n" * 9, "line 6: .*and 4 lines more"),
    "no jobs": ("arrival\n", "has no jobs"),
    "empty": ("", "log.csv is empty; it needs a column of arrivals"),
    "blank": ("\ufeff\n \n", "is empty"),
    "no name for three": ("17,0,60\n18,5,60\n", "line 1 has 3 columns, and the file has no header"),
    "a number among dates": ("time\n2023-11-16\n5\n", "line 3: arrival '5' is a number, but .* dates"),
    "a date among numbers": ("time\n5\n2023-11-16\n", "line 3: arrival '2023-11-16' is a date, but"),
    "two units": ("time\n5\n1700000000000\n", "line 3: arrival '1700000000000' is not in the unit"),
    "no unit at all": ("time\n1e300\n", "line 2: arrival '1e300' is too large"),
    "a gap": ("time,duration\n,3\n1,\n", "line 2: arrival is missing; line 3: duration is missing"),
    "lines in quotes": ('note,time\n"a\nb",0\n"c\nd",x\n', "line 4: arrival 'x'"),
    "an open quote": ('time,note\n0,a\n1,"b\n2,c\n', "line 3 is no row of a CSV file: unexpected end"),
    "a cell without end": ("time\n" + "9" * 200_000 + "\n", "line 2 is no row of a CSV file: field larger"),
    "no column": (
        "when,what\n1,2\n",
        "no column 'arrival', nor one such as submitted_at, .*; its columns are when, what",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    text, words = WRONG[name]
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=words):
        read_trace(path)


def test_a_column_asked_for_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("arrival\n1\n")
    with pytest.raises(InvalidArgument, match="no column 'took'") as caught:
        read_trace(path, duration="took")
    assert caught.value.field == "duration"
    path.write_bytes(gzip.compress(b"arrival\n1\n"))
    with pytest.raises(InvalidArgument, match="is compressed; unpack it first"):
        read_trace(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArgument, match="neither Parquet nor text"):
        read_trace(path)
