"""The pure rooms: schedules, histograms held against exact quantiles, and what a tally adds up to."""

import math
import sys
from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer.loadtest.compare import ratios, turns
from pika_balancer.loadtest.latency import Latencies
from pika_balancer.loadtest.recorder import Recorder
from pika_balancer.simulate.arrivals import Poisson
from pika_balancer.simulate.streams import Streams
from tests.depth import examples


def exact(values: Sequence[float], share: float) -> float:
    """Return the shortest of the values that at least that share of them do not exceed."""
    return next(v for v in sorted(values) if sum(w <= v for w in values) >= share * len(values) - 1e-9)


def of(values: Sequence[float], digits: int = 3) -> Latencies:
    latencies = Latencies(digits)
    for value in values:
        latencies.record(value)
    return latencies


DURATIONS = st.lists(st.floats(0, 3600) | st.floats(0, 0.01), min_size=1, max_size=60)
SHARES = st.sampled_from([0.0, 0.07, 0.5, 0.9, 0.99, 0.999, 1.0])


@pytest.mark.deep
@examples(30, 100)
@given(values=DURATIONS, share=SHARES)
def test_quantiles_are_the_exact_ones_or_a_little_above(values: list[float], share: float) -> None:
    found, right = of(values).quantile(share), exact(values, share)
    assert found is not None
    assert right <= found or math.isclose(right, found)
    assert found <= right * 1.001 + 2e-6


@pytest.mark.deep
@examples(30, 100)
@given(one=DURATIONS, other=DURATIONS, share=SHARES)
def test_two_histograms_add_up_to_that_of_all(one: list[float], other: list[float], share: float) -> None:
    total, all_at_once = of(one), of(one + other)
    total.add(of(other))
    assert total.quantile(share) == all_at_once.quantile(share)
    assert (total.count, total.max) == (all_at_once.count, all_at_once.max)
    assert total.mean == pytest.approx(all_at_once.mean)


def test_nothing_has_no_quantile_and_what_is_out_of_range_counts_at_its_edge() -> None:
    empty = Latencies()
    assert (empty.quantile(0.5), empty.quantiles([0.5]), empty.mean, empty.count) == (None, [], None, 0)
    assert of([-1.0]).quantile(1) == 0.0
    assert of([1e9]).quantile(1) == pytest.approx(86400, rel=0.001)


def test_encoded_histogram_is_read_by_the_library_itself() -> None:
    from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]  # noqa: PLC0415 - has no types

    read = HdrHistogram.decode(of([0.001, 0.25]).encoded())
    assert (read.total_count, read.get_max_value() // 1000) == (2, 250)


def test_missing_library_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    with pytest.raises(ImportError, match=r"pip install 'pika-balancer\[load\]'"):
        Latencies()


def test_poisson_schedule_has_the_rate_and_the_spread_of_one_and_goes_by_its_seed() -> None:
    def gaps(seed: int) -> list[float]:
        moments = list(islice(Poisson(50.0).times(Streams(seed)), 20_000))
        return [b - a for a, b in zip([0.0, *moments], moments, strict=False)]

    taken = gaps(1)
    mean = sum(taken) / len(taken)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in taken) / len(taken))
    # Four standard errors of either.
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert deviation == pytest.approx(1 / 50, rel=0.05)
    assert gaps(1) == taken != gaps(2)


def test_tally_follows_jobs_through_line_slot_refusal_and_end() -> None:
    tally = Recorder(seconds=10.0, warm_up=1.0)
    tally.begin(100.0)
    early, late, sad, slow = (tally.start(at, at) for at in (100.5, 102.0, 103.0, 104.0))
    assert (tally.jobs, tally.offered, tally.waiting, tally.running) == (4, 3, 4, 0)
    for flight in (early, late, sad):
        flight.sent("1")
    assert (tally.waiting, tally.running, tally.peak, tally.peaks["1"]) == (1, 3, 3, 3)
    tally.answered("RateLimited", 429)
    late.back()
    late.sent("2")
    assert (tally.waiting, tally.running, dict(tally.on)) == (1, 3, {"1": 2, "2": 1})
    early.accepted(101.0)
    early.ended(105.0, "completed")
    late.accepted(102.5)
    late.ended(106.0, "failed")
    sad.failed("PromptRejected")
    tally.close(110.0)
    slow.cut(111.0)
    assert tally.under_way == 0
    assert (tally.window, tally.completed, tally.refused, tally.unfinished) == (9.0, 1, 1, 1)
    assert (tally.statuses, tally.failures) == ({"completed": 1, "failed": 1}, {"PromptRejected": 1})
    # The job of the warm-up is in no latency; the one that was cut counts with the time that it had.
    assert (tally.accepted.count, tally.ended.count, tally.ended.max) == (2, 2, 7.0)


def test_job_that_ends_after_the_window_is_no_throughput() -> None:
    tally = Recorder(seconds=10.0)
    tally.begin(0.0)
    flight = tally.start(9.0, 9.0)
    tally.close(10.0)
    tally.close(99.0)
    flight.ended(12.0, "completed")
    assert (tally.window, tally.completed, tally.ended.count) == (10.0, 0, 1)


def test_stretches_add_up() -> None:
    total = Recorder(seconds=10.0)
    for begun in (0.0, 500.0):
        tally = Recorder(seconds=10.0)
        tally.begin(begun)
        for second in range(3):
            flight = tally.start(begun + second, begun + second)
            flight.sent("1")
            tally.look(begun + second)
            flight.accepted(begun + second)
            flight.ended(begun + second + 0.5, "completed")
        tally.close(begun + 10)
        total.add(tally)
    assert (total.jobs, total.offered, total.completed, total.window) == (6, 6, 6, 20.0)
    assert (total.peak, dict(total.peaks), dict(total.sent)) == (1, {"1": 1}, {"1": 6})
    series = total.series()
    assert [point.jobs for point in series] == [2, 2, 2]
    assert [point.in_flight for point in series] == [1, 1, 1]
    assert series[0].p50_s == pytest.approx(0.5, rel=0.01)


def test_turns_alternate_in_who_is_first() -> None:
    assert list(turns(3)) == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]


def turn(seconds: float) -> Recorder:
    tally = Recorder(seconds=1.0)
    flight = tally.start(0.0, 0.0)
    flight.sent("1")
    flight.accepted(seconds / 2)
    flight.ended(seconds, "completed")
    tally.close(1.0)
    return tally


def test_ratios_are_taken_pair_by_pair_and_say_when_they_cannot_tell() -> None:
    first = [turn(0.1), turn(0.2), turn(0.4)] * 2
    found = {ratio.figure: ratio for ratio in ratios(first, [turn(0.2), turn(0.4), turn(0.8)] * 2)}
    assert found["ended p50"].median == pytest.approx(2, rel=0.01)
    assert found["ended p50"].differs
    assert not found["completed per second"].differs
    mixed = {ratio.figure: ratio for ratio in ratios(first, [turn(0.2), turn(0.1)] * 3)}
    assert (mixed["ended p50"].low < 1 < mixed["ended p50"].high, mixed["ended p50"].differs) == (True, False)


def test_too_few_pairs_cannot_tell_and_a_turn_that_measured_nothing_counts_in_none() -> None:
    first, second = [turn(0.1)] * 6, [turn(0.2)] * 5
    found = {ratio.figure: ratio for ratio in ratios(first, [*second, Recorder(seconds=1.0)])}
    assert (found["ended p50"].pairs, found["ended p50"].low > 1, found["ended p50"].differs) == (
        5,
        True,
        False,
    )
    assert ratios(first, []) == ratios([], first) == []
