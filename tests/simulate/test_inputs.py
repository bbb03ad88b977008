"""What a scenario is made of: laws with the moments that they state, arrivals, accounts, refusals."""

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from pika_balancer import Account
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate import (
    Arrivals,
    Bursty,
    Constant,
    Daily,
    Distribution,
    Empirical,
    Exponential,
    Failures,
    Faults,
    Gamma,
    Lognormal,
    OnOff,
    Poisson,
    Queue,
    Recorded,
    Regular,
    Retry,
    Scenario,
    SimulatedAccount,
    Slowdown,
    Trace,
    Weibull,
    simulate,
)
from pika_balancer.simulate.scenario import accounts_of
from pika_balancer.simulate.streams import Streams, uniform
from pika_balancer.simulate.workload import Workload
from tests.depth import sized

LAWS: list[Distribution] = [
    Exponential(180.0),
    Constant(42.0),
    Lognormal(180.0, 0.7),
    Lognormal(3.0, 0.0),
    Gamma(60.0, 0.5),
    Gamma(60.0, 1.5),
    Weibull(60.0, 0.8),
    Weibull(60.0, 3.0),
    Empirical([1.0, 2.0, 2.0, 11.0]),
]
COUNT = sized(20_000, 200_000)
MANY = sized(20_000, 100_000)


def by_block(law: Distribution) -> list[float]:
    return list(law.block(Streams(7).vector("service"), 0, COUNT).tolist())


def one_by_one(law: Distribution) -> list[float]:
    draw = law.one(random.Random(7))
    return [draw() for _ in range(COUNT)]


@pytest.mark.deep
@pytest.mark.parametrize("draw", [by_block, one_by_one])
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_a_law_has_the_mean_and_variance_that_it_states(
    law: Distribution, draw: Callable[[Distribution], list[float]]
) -> None:
    drawn = draw(law)
    mean = math.fsum(drawn) / COUNT
    squares = [(value - mean) ** 2 for value in drawn]
    variance = math.fsum(squares) / COUNT
    # The standard error of a variance comes from the fourth moment, which is estimated too.
    fourth = math.fsum(square * square for square in squares) / COUNT
    assert mean == pytest.approx(law.mean, abs=4.5 * math.sqrt(law.variance / COUNT) + 1e-9)
    assert variance == pytest.approx(law.variance, abs=4.5 * math.sqrt(fourth / COUNT) + 1e-9)
    assert min(drawn) >= 0


def test_recorded_durations_come_in_their_order() -> None:
    law = Recorded([3.0, 1.0, 2.0])
    draw = law.one(random.Random(1))
    assert [draw() for _ in range(3)] == [3.0, 1.0, 2.0]
    assert law.block(Streams(1).vector("service"), 1, 2).tolist() == [1.0, 2.0]


ARRIVALS: list[tuple[Arrivals, float | None]] = [
    (Poisson(2.0), 1.0),
    (Bursty(2.0, 3.0), 9.0),
    (Bursty(2.0, 0.5), 0.25),
    (Regular(2.0), 0.0),
    (OnOff(5.0, busy=4.0, quiet=6.0), None),
    (OnOff(3.0, busy=40.0, quiet=60.0, quiet_rate=0.5), None),
    (Daily([0.0] * 8 + [600.0] * 8 + [60.0] * 8), None),
]
"""Laws of arrivals, and the squared coefficient of variation of their gaps where they are independent."""


def in_blocks(arrivals: Arrivals, count: int) -> list[float]:
    blocks = arrivals.blocks(Streams(3), 1000)
    return list(itertools.islice(itertools.chain.from_iterable(block.tolist() for block in blocks), count))


def in_turn(arrivals: Arrivals, count: int) -> list[float]:
    return list(itertools.islice(arrivals.times(Streams(3)), count))


@pytest.mark.deep
@pytest.mark.parametrize("draw", [in_blocks, in_turn])
@pytest.mark.parametrize(("arrivals", "squared"), ARRIVALS, ids=repr)
def test_arrivals_have_the_rate_that_they_state(
    arrivals: Arrivals, squared: float | None, draw: Callable[[Arrivals, int], list[float]]
) -> None:
    times = draw(arrivals, MANY)
    wider = math.sqrt(100_000 / MANY)
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(arrivals.rate, rel=0.06 * wider)
    if squared is not None:
        gaps = [after - before for before, after in itertools.pairwise([0.0, *times])]
        mean = sum(gaps) / len(gaps)
        variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
        assert variance / mean**2 == pytest.approx(squared, rel=0.05 * wider, abs=1e-9)


@pytest.mark.deep
def test_a_day_has_its_hours() -> None:
    hourly = [float(10 * hour) for hour in range(24)]
    wider = math.sqrt(100_000 / MANY)
    for draw in (in_blocks, in_turn):
        counts = [0] * 24
        for moment in draw(Daily(hourly), MANY):
            counts[int(moment // 3600) % 24] += 1
        assert counts[0] == 0
        for count, expected in zip(counts, hourly, strict=True):
            assert count / MANY == pytest.approx(expected / sum(hourly), abs=0.004 * wider)


def test_on_and_off_are_burstier_than_poisson() -> None:
    times = in_blocks(OnOff(20.0, busy=50.0, quiet=50.0), 50_000)
    assert Trace(times).dispersion(10.0) > 5
    assert Trace(in_blocks(Poisson(10.0), 50_000)).dispersion(10.0) == pytest.approx(1.0, abs=0.15)
    with pytest.raises(InvalidArgument, match="half as long") as caught:
        Trace([0.0, 1.0]).dispersion(1.0)
    assert caught.value.field == "window"


def test_a_trace_is_stretched_and_keeps_its_durations() -> None:
    trace = Trace([2.0, 4.0, 10.0], time_scale=0.5)
    assert in_blocks(trace, 9) == in_turn(trace, 9) == [1.0, 2.0, 5.0]
    assert trace.rate == pytest.approx(0.5)
    assert trace.start == 1.0
    result = simulate(Scenario([3], trace, Recorded([7.0, 8.0, 9.0])), records=True)
    assert result.records is not None
    assert result.records.end.tolist() == [8.0, 10.0, 14.0]
    assert Trace([5.0, 5.0]).rate == math.inf


def test_fewer_jobs_are_the_first_of_more() -> None:
    scenario = Scenario("2x2", Bursty(1.0, 2.0), Lognormal(2.0, 1.0))
    short, long = (
        [
            moment
            for block in Workload(scenario, Streams(1), jobs, math.inf).blocks()
            for moment in block.arrivals
        ]
        for jobs in (700, 90_000)
    )
    assert (len(short), len(long)) == (700, 90_000)
    assert long[:700] == short


def test_numbers_of_a_job_are_even_and_its_own() -> None:
    key = Streams(11).key(1)
    numbers = [uniform(key, job, turn) for job in range(2000) for turn in range(5)]
    assert len(set(numbers)) == len(numbers)
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.012)
    assert all(0 <= number < 1 for number in numbers)
    pairs = [(uniform(key, job, 0), uniform(key, job + 1, 0)) for job in range(5000)]
    assert sum((a - 0.5) * (b - 0.5) for a, b in pairs) / len(pairs) == pytest.approx(0, abs=0.005)
    assert len({Streams(seed).key(1) for seed in (0, 1, 2**64, 2**64 + 1, 2**128)}) == 5


def test_accounts_are_described_in_many_ways() -> None:
    def caps(value: Any) -> list[int]:
        return [account.max_jobs for account in Scenario(value, Poisson(1), Constant(1)).accounts]

    assert caps("5x6") == [6] * 5
    assert caps("6,6, 4") == [6, 6, 4]
    assert caps("3x6,4") == [6, 6, 6, 4]
    assert caps([2, 3]) == [2, 3]
    mapped = Scenario({"77": Account("77", 4), "78": Account("78", 2)}, Poisson(1), Constant(1))
    assert [(a.channel, a.max_jobs) for a in mapped.accounts] == [("77", 4), ("78", 2)]
    assert mapped.slots == 6
    assert mapped.offered_load == 1.0
    out = SimulatedAccount("1", 1, outages=[(5, 9), (1, 3), (2, 4)])
    assert out.outages == ((1.0, 4.0), (5.0, 9.0))


def good(**changes: Any) -> Scenario:
    fields: dict[str, Any] = {"accounts": "2x2", "arrivals": Poisson(1.0), "service": Exponential(1.0)}
    return Scenario(**(fields | changes))


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("accounts", lambda: good(accounts="5 by 6")),
        ("accounts", lambda: good(accounts="0x6")),
        ("accounts", lambda: good(accounts=[])),
        ("accounts", lambda: good(accounts=[0])),
        ("accounts", lambda: good(accounts=6)),
        ("accounts", lambda: good(accounts=[Account("1"), SimulatedAccount("1", 2)])),
        ("arrivals", lambda: good(arrivals=5)),
        ("arrivals", lambda: Trace([3.0, 1.0])),
        ("arrivals", lambda: Trace([])),
        ("arrivals", lambda: Trace([-1.0])),
        ("arrivals", lambda: Trace(["soon"])),  # type: ignore[list-item]  # wrong on purpose
        ("service", lambda: good(service=180)),
        ("service", lambda: good(service=Recorded([1.0]))),
        ("policy", lambda: good(policy="best")),
        ("when_full", lambda: good(when_full="wait")),
        ("poll_period", lambda: good(poll_period=-1)),
        ("warm_up", lambda: good(warm_up=1.0)),
        ("rate", lambda: Poisson(0)),
        ("rate", lambda: Poisson(math.nan)),
        ("rate", lambda: Poisson(rate=True)),
        ("cv", lambda: Bursty(1.0, 0)),
        ("hourly", lambda: Daily([1.0] * 23)),
        ("hourly", lambda: Daily([0.0] * 24)),
        ("mean", lambda: Exponential(math.inf)),
        ("shape", lambda: Weibull(1.0, 0)),
        ("values", lambda: Empirical([])),
        ("values", lambda: Empirical([math.nan])),
        ("limit", lambda: Queue(-1)),
        ("patience", lambda: Queue(patience=60)),  # type: ignore[arg-type]  # wrong on purpose
        ("patience", lambda: Queue(patience=Recorded([1.0]))),
        ("attempts", lambda: Retry(15, 0)),
        ("delay", lambda: Retry(0)),
        ("jitter", lambda: Retry(1, jitter=0.5, exponential=True)),
        ("each", lambda: Slowdown(1, -1)),
        ("accepted", lambda: Faults(0.6, 0.6)),
        ("max_jobs", lambda: SimulatedAccount("1", 0)),
        ("outages", lambda: SimulatedAccount("1", 1, outages=[(3, 2)])),
        ("outages", lambda: SimulatedAccount("1", 1, outages=[3])),
        ("failures", lambda: SimulatedAccount("1", 1, outages=[(1, 2)], failures=Failures(1, 1))),
        ("seed", lambda: simulate(good(), jobs=1, seed=-1)),
        ("jobs", lambda: simulate(good())),
        ("jobs", lambda: simulate(good(), jobs=0)),
        ("duration", lambda: simulate(good(), jobs=1, duration=1.0)),
        ("duration", lambda: simulate(good(), duration=math.inf)),
        ("engine", lambda: simulate(good(), jobs=1, engine="cuda")),  # type: ignore[arg-type]  # wrong on purpose
        ("engine", lambda: simulate(good(policy=lambda c: [1.0] * len(c)), jobs=1, engine="numba")),
        ("scenario", lambda: simulate("5x6", jobs=1)),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_what_cannot_be_is_refused_by_name(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert caught.value.field == field


@pytest.mark.parametrize(
    "accounts", ["99999999999x6", "1x10000001", "2x6,100000x1", [10_000_001], [5_000_001] * 2]
)
def test_no_more_accounts_than_fit_into_memory(accounts: object) -> None:
    with pytest.raises(InvalidArgument, match="at most 10,000,000 slots in all") as caught:
        accounts_of(accounts)
    assert caught.value.field == "accounts"


def test_no_more_records_than_fit_into_memory() -> None:
    scenario = Scenario("2", Poisson(1.0), Exponential(1.0))
    lengths: list[dict[str, Any]] = [{"jobs": 10**9}, {"duration": 1e9}]
    for length in lengths:
        with pytest.raises(InvalidArgument, match="would fill the memory") as caught:
            simulate(scenario, **length, records=True)
        assert caught.value.field == "records"
