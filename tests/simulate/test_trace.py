"""Logs of jobs, as people have them."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate import read_trace

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
    with pytest.raises(InvalidArgument, match="line 2: duration is missing"):
        read_trace(path)


WRONG = {
    "a word": ("arrival\n1\nsoon\n2\n", "line 3: arrival 'soon'"),
    "a negative": ("arrival,duration\n1,-4\n", "line 2: duration '-4'"),
    "nothing": ("arrival,duration\n1,2\n3\n", "line 3: duration is missing"),
    "no number": ("arrival\nnan\n", "line 2: arrival 'nan'"),
    "no date": ("arrival\n2023-13-45\n", "line 2: arrival '2023-13-45' is no date"),
    "many": ("arrival\n" + "x\n" * 9, "line 6: .*and 4 lines more"),
    "no jobs": ("arrival\n", "has no jobs"),
    "empty": ("", "no column 'arrival'"),
    "no column": ("when,what\n1,2\n", "no column 'arrival'; its columns are when, what"),
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
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArgument, match="neither Parquet nor text"):
        read_trace(path)
