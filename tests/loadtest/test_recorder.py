"""Schedules, histograms against exact quantiles, totals of measurements, and comparisons."""

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


def test_recorder_follows_jobs_through_wait_slot_refusal_and_end() -> None:
    recorder = Recorder(seconds=10.0, warm_up=1.0)
    recorder.begin(100.0)
    early, late, sad, slow = (recorder.start(at, at) for at in (100.5, 102.0, 103.0, 104.0))
    assert (recorder.jobs, recorder.offered, recorder.waiting, recorder.in_flight) == (4, 3, 4, 0)
    for job in (early, late, sad):
        recorder.sent(job, "1")
    assert (recorder.waiting, recorder.in_flight, recorder.peak, recorder.peaks["1"]) == (1, 3, 3, 3)
    recorder.submit_failed("RateLimited", 429)
    recorder.returned(late)
    recorder.sent(late, "2")
    assert (recorder.waiting, recorder.in_flight, dict(recorder.on_channel)) == (1, 3, {"1": 2, "2": 1})
    recorder.job_accepted(early, 101.0)
    recorder.job_ended(early, 105.0, "completed")
    recorder.job_accepted(late, 102.5)
    recorder.job_ended(late, 106.0, "failed")
    recorder.job_failed(sad, "PromptRejected")
    recorder.close(110.0)
    recorder.job_cut(slow, 111.0)
    assert (recorder.waiting, recorder.in_flight) == (0, 0)
    assert (recorder.window, recorder.completed, recorder.refused, recorder.unfinished) == (9.0, 1, 1, 1)
    assert (recorder.statuses, recorder.failures) == ({"completed": 1, "failed": 1}, {"PromptRejected": 1})
    # The job of the warm-up is in no latency; the one that was cut counts with the time that it had.
    assert (recorder.accepted.count, recorder.ended.count, recorder.ended.max) == (2, 2, 7.0)


def test_job_that_ends_after_the_window_is_no_throughput() -> None:
    recorder = Recorder(seconds=10.0)
    recorder.begin(0.0)
    job = recorder.start(9.0, 9.0)
    recorder.close(10.0)
    recorder.close(99.0)
    recorder.job_ended(job, 12.0, "completed")
    assert (recorder.window, recorder.completed, recorder.ended.count) == (10.0, 0, 1)


def test_stretches_add_up() -> None:
    total = Recorder(seconds=10.0)
    for begun in (0.0, 500.0):
        recorder = Recorder(seconds=10.0)
        recorder.begin(begun)
        for second in range(3):
            job = recorder.start(begun + second, begun + second)
            recorder.sent(job, "1")
            recorder.sample(begun + second)
            recorder.job_accepted(job, begun + second)
            recorder.job_ended(job, begun + second + 0.5, "completed")
        recorder.close(begun + 10)
        total.add(recorder)
    assert (total.jobs, total.offered, total.completed, total.window) == (6, 6, 6, 20.0)
    assert (total.peak, dict(total.peaks), dict(total.sent_to)) == (1, {"1": 1}, {"1": 6})
    series = total.series()
    assert [point.jobs for point in series] == [2, 2, 2]
    assert [point.in_flight for point in series] == [1, 1, 1]
    assert series[0].p50_s == pytest.approx(0.5, rel=0.01)


def test_turns_alternate_in_who_is_first() -> None:
    assert list(turns(3)) == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]


def turn(seconds: float) -> Recorder:
    recorder = Recorder(seconds=1.0)
    job = recorder.start(0.0, 0.0)
    recorder.sent(job, "1")
    recorder.job_accepted(job, seconds / 2)
    recorder.job_ended(job, seconds, "completed")
    recorder.close(1.0)
    return recorder


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
