"""One question, one answer: what a run promises beside being right."""

import csv
import importlib
import importlib.util
import math
import os
import pickle
import subprocess
import sys
import zlib
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate import (
    Constant,
    Daily,
    Exponential,
    Faults,
    Loss,
    Poisson,
    Queue,
    Recorded,
    Result,
    Retry,
    Scenario,
    SimulatedAccount,
    Slowdown,
    Trace,
    simulate,
)
from pika_balancer.simulate.kernel import loop
from pika_balancer.simulate.result import Table
from tests.depth import sized

pq: Any = importlib.import_module("pyarrow.parquet")  # it has no types to check against
ROOT = Path(__file__).parent.parent.parent
BUSY = Scenario("2x3", Poisson(6.0), Exponential(1.0), Retry(0.5, 4))


def python(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def without(names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it seem that these modules are not installed."""
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in names else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_the_same_seed_gives_the_same_result() -> None:
    one, same, other = (simulate(BUSY, jobs=20_000, seed=seed, records=True) for seed in (5, 5, 6))
    assert one == same
    assert one != attrs.evolve(same, seed=6)
    assert one.refused != other.refused


def test_a_result_travels() -> None:
    result = simulate(BUSY, jobs=1000)
    assert pickle.loads(pickle.dumps(result)).to_dict() == result.to_dict()


def test_a_run_by_duration_tells_what_is_unfinished() -> None:
    for scenario in (BUSY, Scenario("2x3", Poisson(12.0), Exponential(1.0), Queue())):
        result = simulate(scenario, duration=500.0, seed=1)
        assert result.unfinished > 0
        assert result.jobs == result.completed + result.gave_up + result.unfinished
        assert result.duration == pytest.approx(450.0, abs=2.0)
        assert result.warm_up == "the first 0.1 of the simulated time count in no estimate"


def test_the_warm_up_is_stated() -> None:
    assert simulate(BUSY, jobs=1000).warm_up == "the first 0.1 of the jobs count in no estimate"
    trace = Scenario("2x3", Trace([1.0, 2.0]), Constant(1.0))
    assert simulate(trace).warm_up == "none: every job counts"
    assert (
        simulate(Scenario("2x3", Daily([9.0] * 24), Constant(1.0)), jobs=50).warm_up
        == "none: every job counts"
    )


def test_a_short_run_claims_no_interval() -> None:
    result = simulate(BUSY, jobs=50)
    assert math.isnan(result.refused_fraction.low)
    assert result.to_dict()["refused_fraction_ci"] is None
    none = simulate(Scenario([1], Poisson(1e-9), Constant(1.0)), duration=1.0)
    assert none.jobs == 0
    assert none.to_dict()["wait"]["mean"] is None


def test_what_never_happened_is_not_taken_for_impossible() -> None:
    result = simulate(Scenario("10x10", Poisson(1.0), Exponential(1.0)), jobs=10_000)
    assert result.refused == 0
    assert result.refused_fraction.low == 0.0
    assert result.refused_fraction.high == pytest.approx(3.689 / 9000, rel=1e-3)


@pytest.mark.parametrize("table", get_args(Table))
def test_tables_are_written(table: Table, tmp_path: Path) -> None:
    result = simulate(BUSY, jobs=2000, records=True)
    result.to_csv(tmp_path / "t.csv", table)
    result.to_parquet(tmp_path / "t.parquet", table)
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns: dict[str, list[Any]] = pq.read_table(tmp_path / "t.parquet").to_pydict()
    assert list(rows[0]) == list(columns)
    assert len(rows) == len(next(iter(columns.values())))
    if table == "jobs":
        assert columns["outcome"].count("completed") == result.completed
        assert {row["channel"] for row in rows} == {"1", "2", ""}


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    result = simulate(BUSY, jobs=10)
    with pytest.raises(InvalidArgument, match="records=True"):
        result.to_csv(tmp_path / "t.csv", "jobs")
    with pytest.raises(InvalidArgument, match="no table"):
        result.to_csv(tmp_path / "t.csv", "all")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(InvalidArgument, match="no estimate 'p95'"):
        result.estimate("p95")
    assert result.estimate("wait.p95") == result.wait.p95


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = simulate(BUSY, jobs=10)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pika-balancer\[parquet\]"):
        result.to_parquet(tmp_path / "t.parquet")


def test_the_series_adds_up_and_stays_short() -> None:
    result = simulate(Scenario("5x6", Poisson(25.0), Exponential(1.0), warm_up=0.0), jobs=50_000)
    flying = result.series.in_flight
    assert 120 <= len(flying) <= 241
    assert sum(flying) / len(flying) == pytest.approx(result.in_flight.value, rel=0.01)
    # Arrivals all at the end: the pieces, chosen for an even pace, are made wider.
    late = simulate(Scenario("5x6", Trace([0.0] * 100 + [9e5, 1e6]), Constant(1.0)), duration=2e6)
    assert len(late.series.in_flight) <= 241


@pytest.mark.parametrize("missing", [{"numba"}, {"numba", "numpy"}])
def test_without_the_extra_the_slow_engine_steps_in_and_says_so(
    missing: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = simulate(BUSY, jobs=3000, seed=4)
    without(missing, monkeypatch)
    with pytest.warns(RuntimeWarning, match="pika-balancer\\[sim\\]"):
        slow = simulate(BUSY, jobs=3000, seed=4)
    assert slow.engine == "reference"
    assert "slow engine" in slow.notes[0]
    if missing == {"numba"}:
        assert list(slow.estimates()) == list(full.estimates())
    else:  # other numbers, under the same laws
        assert slow.refused_fraction.value == pytest.approx(full.refused_fraction.value, abs=0.08)
        queue = Scenario("2x3", Poisson(5.0), Exponential(1.0), Queue(patience=Exponential(1.0)))
        with pytest.warns(RuntimeWarning, match="slow engine"):
            assert simulate(queue, duration=50.0).jobs == pytest.approx(250, abs=80)
    with pytest.raises(ImportError, match=r"pika-balancer\[sim\]"):
        simulate(BUSY, jobs=10, engine="numba")


def test_the_simulator_imports_without_any_extra() -> None:
    python(
        "import sys\nfor name in ('numpy', 'numba', 'pyarrow'): sys.modules[name] = None\n"
        "import pika_balancer.simulate"
    )
    assert "numpy" not in python("import sys, pika_balancer.simulate; print(*sys.modules)").split()


def test_a_policy_of_ones_own_is_simulated_slowly_and_says_so() -> None:
    result = simulate(
        Scenario("2x3", Poisson(6.0), Exponential(1.0), policy=lambda c: [1.0] * len(c)), jobs=500
    )
    assert result.engine == "reference"
    assert result.notes == (
        "a policy of your own is simulated by the slow engine",
        "exact value: Erlang B",  # for every policy that uses any free slot
    )


def test_the_compiled_loop_is_made_anew_when_a_part_of_it_changes() -> None:
    """Numba's cache knows only the file of the loop itself; this number makes that file change too."""
    parts = b"".join((Path(loop.__file__).parent / name).read_bytes() for name in ("steps.py", "arrays.py"))
    assert f"{zlib.crc32(parts):08x}" == loop.BUILT_WITH


def test_it_compiles_where_nothing_can_be_written() -> None:
    script = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"  # as if no folder could be written
        "from pika_balancer.simulate import streams\nfrom pika_balancer.simulate.kernel import steps\n"
        "import numpy as np\n"
        "assert steps.uniform(np.uint64(5), 1, 2) == streams.uniform(5, 1, 2)"
    )
    python(script)


FEW = 400_000
MANY = sized(2_400_000, 4_000_000)
PEAKS = f"""
import re
from pathlib import Path
from pika_balancer.simulate import *
scenario = Scenario("5x6", Poisson(25.0), Exponential(1.0), Retry(1 / 12, 80))
for jobs, records in (({FEW}, False), ({MANY}, False), ({MANY}, True)):
    result = simulate(scenario, jobs=jobs, records=records)
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.deep
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read in /proc")
def test_memory_does_not_grow_with_the_number_of_jobs() -> None:
    # Peaks in kB; not `ru_maxrss`, which begins with that of this very process.
    few, many, kept = map(int, python(PEAKS).split())
    all_floats = (MANY - FEW) * 8 / 1000
    assert many - few < all_floats / 2
    assert kept - few > all_floats  # as it is where every job is kept


# Extras, by hand.


def by_job(result: Result) -> list[tuple[int, float, float, int]]:
    records = result.records
    assert records is not None
    return list(zip(records.account, records.start, records.end, records.attempts, strict=True))


def traced(arrivals: list[float], durations: list[float], accounts: Any = "1", **more: Any) -> Result:
    return simulate(Scenario(accounts, Trace(arrivals), Recorded(durations), **more), records=True)


def test_a_slot_is_freed_at_the_next_poll() -> None:
    result = traced([0, 12, 15, 40], [12, 1, 15, 0], poll_period=15.0)
    assert [outcome for *_, outcome in by_job(result)] == [1, 1, 1, 1]
    assert [end for _, _, end, _ in by_job(result)][0:3:2] == [15.0, 30.0]
    assert result.gave_up == 1
    assert by_job(result)[3][2] == 45.0


def test_a_slow_account_takes_longer_and_many_at_once_too() -> None:
    half = [SimulatedAccount("1", 3, speed=0.5)]
    result = traced([0, 1, 2], [10, 10, 10], half, slowdown=Slowdown(above=1, each=0.5))
    assert [end - start for _, start, end, _ in by_job(result)] == [20.0, 30.0, 40.0]


def test_an_account_that_is_out_gets_no_job_and_ends_those_it_has() -> None:
    out = [SimulatedAccount("1", 2, outages=[(5, 20)])]
    result = traced([0, 6, 20, 25], [10, 1, 1, 1], out)
    assert result.refused == result.gave_up == 1
    assert [start for _, start, _, _ in by_job(result)][2:] == [20.0, 25.0]
    assert result.completed == 3
    line = traced([0, 6], [10, 1], out, when_full=Queue())
    assert [start for _, start, _, _ in by_job(line)] == [0.0, 20.0]


def test_patience_ends_and_a_line_is_bounded() -> None:
    line = traced([0, 1, 2, 3], [10, 5, 5, 5], when_full=Queue(limit=2, patience=Constant(8.5)))
    # The fourth finds two waiting; patience of the second ends at 9.5, before a slot frees at 10.
    assert [start for _, start, _, _ in by_job(line)][2] == 10.0
    assert (line.completed, line.gave_up, line.refused) == (2, 2, 3)
    assert line.wait.max == 8.0


def test_tries_are_counted_and_end() -> None:
    result = traced([0, 1, 2], [10, 1, 1], when_full=Retry(3.0, 3))
    # The second job tries at 1, 4 and 7, the third at 2, 5 and 8; the slot frees at 10.
    assert result.gave_up == 2
    assert [tries for *_, tries in by_job(result)] == [1, 3, 3]
    again = traced([0, 1, 2], [10, 1, 1], when_full=Retry(3.0, 4))
    assert [start for _, start, _, _ in by_job(again)] == [0.0, 10.0, 11.0]
    assert again.attempts.value == pytest.approx((1 + 4 + 4) / 3)


def test_faults_cost_tries_and_slots() -> None:
    always = Faults(rate_limited=1.0)
    assert traced([0, 1], [1, 1], faults=always).gave_up == 2
    assert traced([0, 1], [1, 1], faults=always, when_full=Retry(1.0, 5)).rejected == 10
    ghosts = traced([0, 5], [9, 1], "2", faults=Faults(accepted=1.0), when_full=Retry(2.0, 3))
    assert (ghosts.completed, ghosts.gave_up, ghosts.jobs) == (0, 2, 2)
    # Two runs for the first job fill both slots from 2 to 9; one more for the other follows then.
    assert ghosts.doubled == 3
    some = Scenario("5x6", Poisson(20.0), Exponential(1.0), Retry(0.1, 10**6), faults=Faults(0.1, 0.05))
    result = simulate(some, jobs=200_000)
    submits = result.rejected + result.doubled + result.completed
    assert result.rejected / submits == pytest.approx(0.1, abs=0.003)
    assert result.doubled / submits == pytest.approx(0.05, abs=0.003)
    # Each job runs 1 + 0.05/0.85 times on average, the abandoned runs included.
    assert result.in_flight.value == pytest.approx(20 * (1 + 0.05 / 0.85), rel=0.01)
    line = Scenario("5x6", Poisson(20.0), Exponential(1.0), Queue(), faults=Faults(0.1, retry_after=2.0))
    assert simulate(line, jobs=200_000).wait.mean.value == pytest.approx(2.0 * 0.1 / 0.9, rel=0.1)
    lost = Scenario("5x6", Poisson(1.0), Exponential(1.0), Loss(), faults=Faults(0.1))
    assert simulate(lost, jobs=9000).refused == 0
