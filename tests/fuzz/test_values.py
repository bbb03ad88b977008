"""Any bytes give a valid value or an error of this library that can be printed and holds no secret.

Of the thousands of cases for a target the tests take every so many; `python -m tests.fuzz` takes them all.
"""

import itertools
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pika_balancer import distributions
from pika_balancer.errors import InvalidArgument, PikaError
from pika_balancer.simulate.arrivals import Trace
from pika_balancer.simulate.trace import read_trace
from tests.depth import sized
from tests.fuzz import __main__ as fuzz
from tests.fuzz import targets
from tests.fuzz.seeds import FOUND, cases, mutated
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.no_cover  # by the hundred what other tests run once

STRIDES = {
    "parse": 71, "wire": 97, "request": 3, "callbacks": 29, "trace": 3, "jobfile": 5, "journal": 17,
    "records": 2, "forms": 29, "units": 5,
}  # fmt: skip
BLIND = 60
"""Random inputs for each target."""


def fed(name: str) -> Iterator[bytes]:
    yield from FOUND.get(name, ())
    yield from itertools.islice(cases(name), 1, None, sized(STRIDES[name], max(1, STRIDES[name] // 10)))
    rng = random.Random(f"tests {name}")
    yield from (mutated(name, rng) for _ in range(sized(BLIND, 50 * BLIND)))


@pytest.mark.deep
@pytest.mark.parametrize("name", TARGETS)
def test_bad_input_gives_a_value_or_an_error_of_ours(name: str) -> None:
    all_of_them = list(fed(name))
    for case in all_of_them:
        try:
            TARGETS[name](case)
        except Exception as error:
            raise AssertionError(f"{case!r:.2000}") from error
    assert len(all_of_them) > 100


def test_a_fuzzer_reports_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def target(case: bytes) -> None:
        assert b"s" not in case, "there is an s"

    monkeypatch.setattr(fuzz, "TARGETS", {"units": target})
    clock = itertools.count(0.0, 0.01)
    assert fuzz.main(["--target", "units", "--blind", "--seconds", "0.2"], now=lambda: next(clock)) == 1
    out = capsys.readouterr().out
    assert "units: AssertionError: there is an s" in out
    assert "\n  b'180s'\n" in out
    monkeypatch.setattr(fuzz, "TARGETS", {"units": lambda _case: None})
    assert fuzz.main(["--target", "units", "--blind", "--seconds", "0.2"], now=lambda: next(clock)) == 0
    assert "0 failed" in capsys.readouterr().out


def test_every_message_can_be_printed_and_read() -> None:
    error = PikaError("\x1b]0;title\x07 " + "x" * 10_000)
    assert error.message == str(error)
    assert error.message.startswith("\\x1b]0;title\\x07 x")
    assert len(error.message) == 2000


@pytest.mark.parametrize(
    "distribution",
    ["exp:1e200", "fixed:1e16", "exp:1e-200", "lognormal:mean=1s,cv=1e200", "gamma:mean=1s,cv=1e-200"],
)
def test_durations_out_of_range_are_refused_when_they_are_read(distribution: str) -> None:
    with pytest.raises(InvalidArgument, match=r"must be a number from \S+ to 1e\+15"):
        distributions.parse_distribution(distribution)


def test_distributions_at_their_limits_have_moments() -> None:
    for distribution in (
        distributions.Exponential(1e15),
        distributions.Lognormal(1e15, 1e15),
        distributions.Gamma(1e-15, 1e-15),
    ):
        assert 0 <= distribution.variance < float("inf")
        assert distribution.one(random.Random(1))() >= 0


def test_a_duration_that_its_unit_makes_infinite_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("ts,took_h\n0,1\n1,1e306\n")
    with pytest.raises(InvalidArgument, match=r"line 3: duration '1e306'"):
        read_trace(tmp_path / "log.csv")


def test_a_duration_that_is_too_large_for_a_column_does_not_become_a_small_one(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    took = pa.array([2**62, 1], pa.int64()).cast(pa.duration("s"))
    pq.write_table(pa.table({"ts": [0.0, 1.0], "took": took}), tmp_path / "log.parquet")
    with pytest.raises(InvalidArgument, match="is no Parquet that can be read"):
        read_trace(tmp_path / "log.parquet")


def test_a_log_of_years_with_short_jobs_takes_little_memory() -> None:
    tracemalloc.start()
    try:
        assert Trace([0.0, 1.0, 3e8]).dispersion(1e-3) == pytest.approx(1.0)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_windows_are_counted_as_they_were() -> None:
    # By hand: (0,2], (2,4], (4,6] with 2, 0 and 1 jobs; the first of all is in none.
    assert Trace([0.0, 0.5, 2.0, 5.0, 6.5]).dispersion(2.0) == pytest.approx(1.0)


def test_a_good_callback_is_told_after_bad_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(targets, "check_job", lambda job: told.append(job.jobid))
    for body in (b"", b"{}", b'{"jobid": "job:1"}'):
        targets.fuzz_callbacks(body)
    assert told == ["job:1"]
