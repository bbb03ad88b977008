"""The simulator against a count by hand and against known figures; theory at large is next door."""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pika_balancer.selection.policy import POLICIES, Candidate
from pika_balancer.simulate import (
    Estimate,
    Exponential,
    Lognormal,
    Loss,
    Poisson,
    Queue,
    Recorded,
    Result,
    Retry,
    Scenario,
    SimulatedAccount,
    Trace,
    simulate,
    theory,
)
from tests.depth import sized

pytestmark = pytest.mark.no_cover  # millions of jobs; other tests run the same lines with fewer

STUDENT = 2.045
"""The 97.5 % quantile of Student's t for 30 batches."""


def errors(estimate: Estimate, truth: float) -> float:
    """Return by how many standard errors the estimate misses the truth."""
    return abs(estimate.value - truth) / (estimate.half_width / STUDENT)


def run(load: float, when_full: Loss | Queue | Retry | None = None, **more: Any) -> Result:
    how: dict[str, Any] = {"accounts": "5x6", "service": Exponential(1.0), "policy": "random"} | more
    jobs, seed = how.pop("jobs", 1_000_000), how.pop("seed", 1)
    scenario = Scenario(arrivals=Poisson(load), when_full=when_full or Loss(), **how)
    return simulate(scenario, jobs=jobs, seed=seed)


@pytest.mark.deep
def test_the_figures_of_thirty_slots() -> None:
    assert theory.erlang_b(30, 25) == pytest.approx(0.052603, abs=5e-7)
    jobs, width = sized((400_000, 0.003), (4_000_000, 0.001))
    result = run(25.0, jobs=jobs)
    assert errors(result.refused_fraction, 0.052603) < 4
    assert result.refused_fraction.half_width < width
    line = run(27.0, Queue(), jobs=jobs)
    assert errors(line.wait.mean, 0.157136) < 4
    assert errors(line.refused_fraction, 0.471408) < 4
    banned = SimulatedAccount("5", 6, outages=[(0, math.inf)])
    assert errors(run(25.0, accounts=[6, 6, 6, 6, banned], jobs=jobs // 4).refused_fraction, 0.168) < 4


@pytest.mark.deep
@pytest.mark.parametrize("accounts", ["5x6", "1,2,3,4,10,10"])
@pytest.mark.parametrize(
    "when_full", [Loss(), Queue(), Retry(1 / 12, 80)], ids=lambda rule: type(rule).__name__
)
def test_no_policy_changes_refusals_or_waits(accounts: str, when_full: Loss | Queue | Retry) -> None:
    jobs = sized(20_000, 100_000)
    found = {
        (result.refused, result.gave_up, result.wait, result.time_in_system, round(result.in_flight.value, 9))
        for result in (
            run(26.0, when_full, accounts=accounts, policy=policy, service=Lognormal(1.0, 0.7), jobs=jobs)
            for policy in POLICIES
        )
    }
    assert len(found) == 1


@pytest.mark.deep
@pytest.mark.parametrize(
    ("policy", "imbalance"),
    [
        ("least_loaded", 1.35),
        ("two_choices", 1.91),
        ("weighted", 2.13),
        ("round_robin", 2.31),
        ("random", 2.54),
    ],
)
def test_policies_differ_in_balance(policy: str, imbalance: float) -> None:
    result = run(25.0, policy=policy, jobs=sized(250_000, 1_000_000))
    assert result.imbalance.value == pytest.approx(imbalance, abs=0.005 + 2 * result.imbalance.half_width)


@pytest.mark.deep
def test_two_choices_that_may_be_one_and_the_same_balance_less() -> None:
    def twice(candidates: Sequence[Candidate]) -> list[float]:
        loads = [candidate.in_flight for candidate in candidates]
        return [sum((other > load) * 2 + (other == load) for other in loads) for load in loads]

    result = run(25.0, policy=twice, jobs=sized(20_000, 60_000))
    assert result.imbalance.value == pytest.approx(2.05, abs=2 * result.imbalance.half_width)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("policy", "blocking"),
    [
        ("least_loaded", 0.0321),
        ("two_choices", 0.0335),
        ("weighted", 0.0340),
        ("random", 0.0346),
        ("round_robin", 0.0352),
    ],
)
def test_policies_differ_once_an_account_is_slow(policy: str, blocking: float) -> None:
    accounts = [SimulatedAccount(str(k), 6, speed=1 / 3 if k == 0 else 1) for k in range(5)]
    result = run(20.0, accounts=accounts, policy=policy, jobs=sized(500_000, 4_000_000))
    assert result.refused_fraction.value == pytest.approx(
        blocking, abs=0.00005 + 2 * result.refused_fraction.half_width
    )


@pytest.mark.deep
@pytest.mark.parametrize(
    ("load", "retry", "wait"),
    [
        (25.0, Retry(1 / 12, 10**6), 0.0600),
        (27.0, Retry(1 / 12, 10**6), 0.180),
        (25.0, Retry(1 / 12, 10**6, exponential=True), 0.06209),
        (27.0, Retry(1 / 12, 10**6, exponential=True), 0.18573),
    ],
)
def test_waits_of_those_who_try_again(load: float, retry: Retry, wait: float) -> None:
    result = run(load, retry, jobs=sized(300_000, 2_000_000))
    assert result.wait.mean.value == pytest.approx(wait, abs=0.0005 + 2 * result.wait.mean.half_width)
    assert result.gave_up == 0


@pytest.mark.deep
def test_many_tries_hide_that_there_are_too_few_slots() -> None:
    result = run(33.0, Retry(1 / 12, 80), jobs=sized(100_000, 300_000))
    assert result.gave_up_fraction.value == pytest.approx(0.09, abs=0.01)


@pytest.mark.deep
def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    seeds = range(sized(50, 200))
    runs = [run(25.0, jobs=20_000, seed=seed) for seed in seeds]
    covered = {
        "refused": sum(r.refused_fraction.low <= 0.052603 <= r.refused_fraction.high for r in runs),
        "in flight": sum(r.in_flight.low <= 25 * (1 - 0.052603) <= r.in_flight.high for r in runs),
    }
    line = [run(24.0, Queue(), jobs=30_000, seed=seed) for seed in seeds]
    mean = theory.erlang_c_wait(30, 24.0)
    covered["wait"] = sum(r.wait.mean.low <= mean <= r.wait.mean.high for r in line)
    # 95 % of them; a binomial count is below these bounds less than once in a thousand times.
    assert all(sized(42, 178) <= count for count in covered.values()), covered


def by_hand_loss(arrivals: list[float], services: list[float], slots: int) -> int:
    """Count refusals with nothing but a list of moments at which slots free."""
    frees: list[float] = []
    refused = 0
    for arrival, service in zip(arrivals, services, strict=True):
        frees = [moment for moment in frees if moment > arrival]
        if len(frees) == slots:
            refused += 1
        else:
            frees.append(arrival + service)
    return refused


def by_hand_line(arrivals: list[float], services: list[float], slots: int) -> list[float]:
    """Return the starts of jobs that wait: each at its arrival or when the earliest slot frees."""
    frees = [0.0] * slots
    starts: list[float] = []
    for arrival, service in zip(arrivals, services, strict=True):
        start = max(arrival, heapq.heappop(frees))
        heapq.heappush(frees, start + service)
        starts.append(start)
    return starts


def recorded(name: str) -> list[float]:
    path = Path(__file__).parent.parent / "data" / name
    return [float(line) for line in path.read_text().split()[1:]]


def meeting(count: int) -> list[float]:
    """Return whole seconds, so that arrivals and ends meet."""
    rng = random.Random(4)
    return sorted(float(rng.randrange(count // 3)) for _ in range(count))


SOURCES = ["conversations", "code", "whole seconds"]
SCALES = [1.0, 0.1, 3.0]
ENGINES = ["numba", "reference"]


@pytest.mark.deep
@pytest.mark.parametrize(
    ("source", "scale", "engine"),
    sized(
        [
            *zip(SOURCES, SCALES, ["numba"] * 3, strict=True),
            *zip(SOURCES, SCALES[1:] + SCALES[:1], ["reference"] * 3, strict=True),
        ],
        list(itertools.product(SOURCES, SCALES, ENGINES)),
    ),
)
def test_a_trace_is_counted_as_by_hand(source: str, scale: float, engine: str) -> None:
    arrivals = {
        "conversations": lambda: recorded("azure_llm_2023_conv_excerpt.csv"),
        "code": lambda: recorded("azure_llm_2023_code_excerpt.csv"),
        "whole seconds": lambda: meeting(3000),
    }[source]()
    rng = random.Random(8)
    services = [float(rng.randint(0, 12)) for _ in arrivals]
    moments = [arrival * scale for arrival in arrivals]
    for caps in ([6] * 3, [3, 2, 1], [1]):
        trace, law = Trace(arrivals, time_scale=scale), Recorded(services)
        lost = simulate(Scenario(caps, trace, law), engine=engine, seed=2)  # type: ignore[arg-type]  # a name
        assert lost.refused == lost.gave_up == by_hand_loss(moments, services, sum(caps))
        assert lost.jobs == len(arrivals)
        assert lost.refused_fraction.value == pytest.approx(lost.refused / lost.jobs, rel=1e-12)
        line = simulate(Scenario(caps, trace, law, Queue()), engine=engine, records=True)  # type: ignore[arg-type]  # a name
        assert line.records is not None
        starts = by_hand_line(moments, services, sum(caps))
        assert line.records.start.tolist() == starts
        waits = [start - arrival for start, arrival in zip(starts, moments, strict=True)]
        assert line.wait.mean.value == pytest.approx(sum(waits) / len(waits))
        assert line.wait.max == max(waits)
        ordered = sorted(waits)
        place = 0.95 * (len(ordered) - 1)
        low, part = ordered[int(place)], place % 1
        assert line.wait.p95.value == pytest.approx(low + part * (ordered[math.ceil(place)] - low))


def test_a_job_that_arrives_when_a_slot_frees_finds_it_free() -> None:
    scenario = Scenario([1], Trace([0, 5, 9.999]), Recorded([5, 5, 1]))
    assert simulate(scenario).refused == 1


def test_first_come_is_first_served() -> None:
    result = simulate(Scenario("3,2", Poisson(6.0), Exponential(1.0), Queue()), jobs=20_000, records=True)
    assert result.records is not None
    starts = result.records.start.tolist()
    assert starts == sorted(starts)
    assert deque(starts, maxlen=1)[0] >= result.records.arrival[-1]
