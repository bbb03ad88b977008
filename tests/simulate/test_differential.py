"""Two engines, one truth: the same jobs and chance give the same decisions, whatever the scenario."""

import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer.selection.policy import POLICIES
from pika_balancer.simulate import (
    Bursty,
    Constant,
    Empirical,
    Exponential,
    Failures,
    Faults,
    Loss,
    OnOff,
    Poisson,
    Queue,
    Recorded,
    Regular,
    Result,
    Retry,
    Scenario,
    SimulatedAccount,
    Slowdown,
    Trace,
    collector,
    simulate,
)
from tests.depth import examples, sized

pytestmark = pytest.mark.no_cover  # scenario after scenario; other tests run the same lines

spans = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15) | st.just(math.inf)), max_size=3).map(
    lambda pairs: [(begin, begin + length) for begin, length in pairs]
)
outages: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({}),
    st.fixed_dictionaries({"outages": spans}),
    st.builds(
        lambda up, down: {"failures": Failures(up, down)},
        st.sampled_from([3.0, 20.0]),
        st.sampled_from([1.0, 9.0]),
    ),
)


@st.composite
def fleets(draw: st.DrawFn) -> list[SimulatedAccount]:
    caps = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    return [
        SimulatedAccount(str(place), cap, speed=draw(st.sampled_from([1.0, 1.0, 0.3, 2])), **draw(outages))
        for place, cap in enumerate(caps)
    ]


full = st.one_of(
    st.just(Loss()),
    st.builds(
        Queue,
        limit=st.sampled_from([math.inf, 0, 1, 3, 20]),
        patience=st.sampled_from([None, Constant(2.0), Exponential(3.0), Constant(0.0)]),
    ),
    st.builds(Retry, st.sampled_from([0.5, 2.0]), st.integers(1, 12), jitter=st.sampled_from([0.0, 0.4])),
    st.builds(Retry, st.just(2.0), st.integers(1, 12), exponential=st.sampled_from([True])),
)


@st.composite
def jobs_that_come(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        # Whole numbers meet each other: many things happen at one and the same moment.
        gaps = draw(st.lists(st.integers(0, 3), min_size=1, max_size=60))
        times = [sum(gaps[: k + 1]) for k in range(len(gaps))]
        durations = draw(st.lists(st.integers(0, 9), min_size=len(gaps), max_size=len(gaps)))
        return {
            "arrivals": Trace(times, draw(st.sampled_from([1.0, 0.5, 0.1]))),
            "service": Recorded(durations),
        }
    arrivals = st.sampled_from(
        [Poisson(2.0), Poisson(0.4), Bursty(1.5, 3.0), Bursty(1.5, 0.5), Regular(1.0), OnOff(6.0, 4.0, 5.0)]
    )
    service = st.sampled_from([Exponential(3.0), Constant(2.0), Empirical([1.0, 2.0, 2.0, 7.0])])
    return {"arrivals": draw(arrivals), "service": draw(service)}


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    return Scenario(
        draw(fleets()),
        **draw(jobs_that_come()),
        when_full=draw(full),
        policy=draw(st.sampled_from(POLICIES)),
        slowdown=draw(st.none() | st.builds(Slowdown, st.integers(0, 3), st.sampled_from([0.25, 1.0]))),
        poll_period=draw(st.sampled_from([0.0, 0.0, 1.0, 0.7])),
        faults=draw(
            st.builds(
                Faults,
                rate_limited=st.sampled_from([0.0, 0.0, 0.3]),
                accepted=st.sampled_from([0.0, 0.0, 0.2]),
                retry_after=st.sampled_from([0.5, 4.0]),
            )
        ),
        warm_up=draw(st.sampled_from([None, 0.0, 0.3])),
    )


def shown(result: Result) -> str:
    """Return everything that a result says, in a form in which NaN equals NaN."""
    records = result.records
    assert records is not None
    columns = (
        records.arrival,
        records.account,
        records.start,
        records.end,
        records.attempts,
        records.outcome,
    )
    figures = (
        (result.jobs, result.completed, result.refused, result.gave_up, result.unfinished),
        (result.rejected, result.doubled, result.duration, result.batches),
        (list(result.estimates()), result.accounts, result.series),
    )
    return "\n".join([*map(repr, (column.tolist() for column in columns)), *map(repr, figures)])


def balanced(result: Result) -> None:
    records = result.records
    assert records is not None
    outcomes = records.outcome.tolist()
    assert [outcomes.count(kind) for kind in (0, 1, 2)] == [
        result.unfinished,
        result.completed,
        result.gave_up,
    ]
    assert len(records) == result.jobs == result.completed + result.gave_up + result.unfinished


@pytest.mark.deep
@examples(60, 150)
@given(scenarios(), st.integers(0, 2**70), st.integers(1, 80) | st.floats(1.0, 60.0))
def test_both_engines_decide_the_same(scenario: Scenario, seed: int, length: float) -> None:
    how: dict[str, Any] = {"jobs": length} if isinstance(length, int) else {"duration": length}
    fast = simulate(scenario, **how, seed=seed, records=True, engine="numba")
    slow = simulate(scenario, **how, seed=seed, records=True, engine="reference")
    assert shown(fast) == shown(slow)
    balanced(slow)


RULES = [Loss(), Queue(patience=Exponential(1.0)), Retry(0.3, 9, exponential=True)]


@pytest.mark.deep
@pytest.mark.parametrize(
    ("policy", "when_full"),
    sized(
        list(zip(POLICIES, itertools.cycle(RULES), strict=False)), list(itertools.product(POLICIES, RULES))
    ),
)
def test_they_do_over_blocks_of_jobs_a_long_line_and_many_outages(
    policy: str, when_full: Loss | Queue | Retry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pika_balancer.simulate.workload.SIZE", 700)
    failing = [SimulatedAccount(str(k), 6, failures=Failures(1.0, 0.2)) for k in range(5)]
    scenario = Scenario(failing, Poisson(60.0), Exponential(1.0), when_full, policy=policy)
    fast, slow = (
        simulate(scenario, jobs=5000, seed=3, records=True, engine=e) for e in ("numba", "reference")
    )
    assert shown(fast) == shown(slow)


@pytest.mark.parametrize("policy", POLICIES)
def test_they_do_where_slots_form_a_heap(policy: str) -> None:
    scenario = Scenario("40x10", Poisson(390.0), Exponential(1.0), Queue(), policy=policy)
    fast, slow = (
        simulate(scenario, jobs=3000, seed=3, records=True, engine=e) for e in ("numba", "reference")
    )
    assert shown(fast) == shown(slow)


def test_they_count_alike_where_durations_are_no_longer_kept() -> None:
    jobs = collector.EXACT + 5000
    scenario = Scenario("2x2", Poisson(5.0), Exponential(1.0), Queue(limit=3), warm_up=0.01)
    fast, slow = (
        simulate(scenario, jobs=jobs, seed=3, records=True, engine=e) for e in ("numba", "reference")
    )
    assert shown(fast) == shown(slow)


def test_both_see_the_same_classes_and_draw_the_same_numbers() -> None:
    from pika_balancer.simulate import streams  # noqa: PLC0415 - only here
    from pika_balancer.simulate.kernel import steps  # noqa: PLC0415 - only here

    rng = random.Random(1)
    durations = [math.exp(rng.uniform(-13, 22)) for _ in range(2000)] + [1.0, 2.0, 2.0**-20, 1e-300, 1e300]
    assert [steps.class_of(d) for d in durations] == [collector.class_of(d) for d in durations]
    for duration in durations[:2000]:
        low, high = collector.class_bounds(collector.class_of(duration))
        assert low <= duration < high
    import numpy as np  # noqa: PLC0415 - only here

    key = streams.Streams(5).key(1)
    for job, turn in ((0, 0), (1, 0), (10**9, 7), (2**40, 3)):
        assert steps.uniform(np.uint64(key), job, turn) == streams.uniform(key, job, turn)
