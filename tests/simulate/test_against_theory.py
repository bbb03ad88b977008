"""The simulator against the closed forms, and the closed forms against the simulator."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from pika_balancer.selection.policy import POLICIES
from pika_balancer.simulate import (
    Bursty,
    Constant,
    Empirical,
    Exponential,
    Failures,
    Faults,
    Gamma,
    Lognormal,
    Loss,
    Poisson,
    Queue,
    Regular,
    Retry,
    Scenario,
    SimulatedAccount,
    Slowdown,
    Trace,
    Weibull,
    simulate,
    theory,
)
from pika_balancer.simulate.closed_form import closed_form, why_unstable
from tests.depth import sized

pytestmark = pytest.mark.no_cover  # hundreds of runs; other tests run the same lines

RUNS = 30
SHORT = 5
"""By how much the number of jobs is smaller in the short form."""
CAPS = {"1x1": 1, "2x3": 6, "6,6,4": 16, "5x6": 30, "12x10": 120}
LOSS = [
    (caps, load)
    for caps, slots in CAPS.items()
    for load in (part * slots for part in (0.3, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3))
    if theory.erlang_b(slots, load) > 1e-3  # rarer, and too few jobs are refused to compare
]
LINE = [
    (caps, load)
    for caps, slots in CAPS.items()
    for load in (part * slots for part in (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85))
    if theory.erlang_c(slots, load) > 1e-3
]


def agrees(scenario: Scenario, expected: Mapping[str, float], *, jobs: int = 10_000, seed: int = 0) -> None:
    """Check each figure to 4 standard errors, from runs that are independent of each other."""
    jobs = sized(jobs // SHORT, jobs)
    runs = [dict(simulate(scenario, jobs=jobs, seed=seed * 1000 + i).estimates()) for i in range(RUNS)]
    for name, truth in expected.items():
        values = [run[name].value for run in runs]
        error = statistics.stdev(values) / math.sqrt(RUNS)
        off = abs(statistics.fmean(values) - truth)
        assert off <= 4 * error + 1e-9 * abs(truth), (name, truth, statistics.fmean(values), error)


def diagonal(grid: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return one load for each kind of caps, from the least load of the first to the largest of the last."""
    found: list[tuple[str, float]] = []
    for place, caps in enumerate(CAPS):
        loads = [load for name, load in grid if name == caps]
        found.append((caps, loads[place * (len(loads) - 1) // (len(CAPS) - 1)]))
    return found


def test_the_grids_are_large_enough() -> None:
    assert len(LOSS) >= 30
    assert len(LINE) >= 30
    assert len(diagonal(LOSS)) == len(diagonal(LINE)) == len(CAPS)


@pytest.mark.deep
@pytest.mark.parametrize(("caps", "load"), sized(diagonal(LOSS), LOSS))
def test_loss_is_erlang_b(caps: str, load: float) -> None:
    blocked = theory.erlang_b(CAPS[caps], load)
    agrees(
        Scenario(caps, Poisson(load / 180), Exponential(180)),
        {"refused_fraction": blocked, "in_flight": load * (1 - blocked), "time_in_system.mean": 180},
        seed=CAPS[caps] + int(load),
    )


@pytest.mark.deep
@pytest.mark.parametrize(("caps", "load"), sized(diagonal(LINE), LINE))
def test_a_line_is_erlang_c(caps: str, load: float) -> None:
    slots = CAPS[caps]
    expected = {
        "refused_fraction": theory.erlang_c(slots, load),
        "wait.mean": theory.erlang_c_wait(slots, load, service=180),
        "in_flight": load,
    }
    if theory.erlang_c(slots, load) > 0.2:
        expected["wait.p90"] = theory.erlang_c_quantile(slots, load, 0.9, service=180)
    scenario = Scenario(caps, Poisson(load / 180), Exponential(180), Queue())
    agrees(scenario, expected, jobs=20_000, seed=slots)


@pytest.mark.deep
@pytest.mark.parametrize(
    "law",
    [
        Constant(180),
        Lognormal(180, 0.7),
        Lognormal(180, 2),
        Gamma(180, 0.5),
        Weibull(180, 0.7),
        Empirical([20.0, 100.0, 420.0]),
    ],
    ids=lambda law: type(law).__name__,
)
def test_what_is_refused_does_not_depend_on_the_law_of_service_times(law: Lognormal) -> None:
    agrees(Scenario("5x6", Poisson(25 / 180), law), {"refused_fraction": theory.erlang_b(30, 25)}, seed=5)


EXACT = {
    "a bounded line": Scenario("5x6", Poisson(29 / 180), Exponential(180), Queue(limit=10)),
    "a swamped bounded line": Scenario("2x3", Poisson(12 / 180), Exponential(180), Queue(limit=4)),
    "no line": Scenario("2x3", Poisson(5 / 180), Exponential(180), Queue(limit=0)),
    "impatience": Scenario("5x6", Poisson(33 / 180), Exponential(180), Queue(patience=Exponential(100))),
    "great impatience": Scenario("2x3", Poisson(5 / 180), Exponential(180), Queue(patience=Exponential(9))),
    "impatience in a bounded line": Scenario(
        "2x3", Poisson(8 / 180), Exponential(180), Queue(limit=3, patience=Exponential(100))
    ),
    "constant patience": Scenario("5x6", Poisson(33 / 180), Exponential(180), Queue(patience=Constant(60))),
    "long constant patience": Scenario(
        "2x3", Poisson(5 / 180), Exponential(180), Queue(patience=Constant(200))
    ),
    "retries": Scenario("5x6", Poisson(25 / 180), Exponential(180), Retry(15, 10**6, exponential=True)),
    "rare retries": Scenario("2x3", Poisson(4 / 180), Exponential(180), Retry(400, 10**6, exponential=True)),
    "hasty retries": Scenario("2x3", Poisson(4 / 180), Exponential(180), Retry(2, 10**6, exponential=True)),
    "one slot and retries": Scenario(
        "1x1", Poisson(0.5 / 180), Exponential(180), Retry(60, 10**6, exponential=True)
    ),
    "unequal speeds": Scenario(
        [6, 6, 6, 6, SimulatedAccount("slow", 6, 1 / 3)],
        Poisson(20 / 180),
        Lognormal(180, 1),
        policy="weighted",
    ),
    "three speeds and caps": Scenario(
        [SimulatedAccount("a", 2, 2.0), SimulatedAccount("b", 5, 1.0), SimulatedAccount("c", 4, 0.5)],
        Poisson(9 / 180),
        Exponential(180),
        policy="weighted",
    ),
    "one other speed": Scenario(
        [SimulatedAccount(str(i), 6, 2.0) for i in range(5)], Poisson(50 / 180), Exponential(180)
    ),
}


@pytest.mark.deep
@pytest.mark.parametrize("name", EXACT)
def test_every_figure_that_is_foretold_comes_true(name: str) -> None:
    scenario = EXACT[name]
    found = closed_form(scenario)
    assert found is not None
    assert len(found.figures) >= 4
    jobs = 30_000 if isinstance(scenario.when_full, Retry) else 15_000
    agrees(scenario, found.figures, jobs=jobs, seed=len(name))


def test_a_result_names_the_closed_form_that_holds() -> None:
    result = simulate(EXACT["retries"], jobs=2000)
    assert result.theory["wait.mean"] == pytest.approx(0.06209 * 180, rel=1e-3)
    assert result.notes[-1] == "exact value: the retrial queue M/M/c, as no job runs out of tries"
    short = attrs.evolve(EXACT["retries"], when_full=Retry(15, 2, exponential=True))
    assert simulate(short, jobs=2000).theory == {}
    erlang = simulate(Scenario("5x6", Poisson(25 / 180), Lognormal(180, 0.7)), jobs=2000)
    assert erlang.theory["refused_fraction"] == pytest.approx(0.052603, abs=1e-6)
    assert erlang.notes[-1] == "exact value: Erlang B"


BASE = Scenario("5x6", Poisson(25 / 180), Exponential(180))


@pytest.mark.parametrize(
    "change",
    [
        {"arrivals": Regular(0.1)},
        {"arrivals": Bursty(0.1, 2)},
        {"arrivals": Trace([0.0, 1.0])},
        {"slowdown": Slowdown(2, 0.1)},
        {"poll_period": 30.0},
        {"faults": Faults(rate_limited=0.1)},
        {"faults": Faults(accepted=0.1)},
        {"accounts": [SimulatedAccount("a", 6, outages=((5, 9),))]},
        {"accounts": [SimulatedAccount("a", 6, failures=Failures(9, 9))]},
        {"accounts": [6, SimulatedAccount("a", 6, 2.0)]},
        {"accounts": [6, SimulatedAccount("a", 6, 2.0)], "policy": "weighted", "when_full": Queue()},
        {"when_full": Queue(), "service": Lognormal(180, 1)},
        {"when_full": Queue(), "arrivals": Poisson(40 / 180)},
        {"when_full": Queue(limit=3, patience=Constant(60))},
        {"when_full": Queue(patience=Lognormal(60, 2))},
        {"when_full": Retry(15, 80)},
        {"when_full": Retry(15, 80, exponential=True), "service": Constant(180)},
        {"when_full": Retry(15, 80, exponential=True), "arrivals": Poisson(30 / 180)},
        {"when_full": Retry(15, 80, exponential=True), "arrivals": Poisson(29.999999 / 180)},
        {"accounts": "3000x10"},
    ],
    ids=str,
)
def test_no_closed_form_is_claimed_where_none_holds(change: Mapping[str, Any]) -> None:
    assert closed_form(attrs.evolve(BASE, **change)) is None


@pytest.mark.parametrize("policy", POLICIES)
def test_the_rule_does_not_matter_to_the_closed_form(policy: str) -> None:
    found = closed_form(attrs.evolve(BASE, accounts="6,6,4", policy=policy, arrivals=Bursty(0.1, 1)))
    assert found is not None
    assert found.name == "Erlang B"
    assert "utilisation.1" not in found.figures, "unequal caps are used unequally, by a law not known here"


def test_laws_that_are_exponential_by_another_name_are_known() -> None:
    for law in (Gamma(180, 1), Weibull(180, 1)):
        found = closed_form(attrs.evolve(BASE, when_full=Queue(), service=law))
        assert found is not None
        assert found.name == "Erlang C"


def test_who_has_no_steady_state_is_told() -> None:
    swamped = attrs.evolve(BASE, arrivals=Poisson(33 / 180))
    line = attrs.evolve(swamped, when_full=Queue())
    assert simulate(line, jobs=500).notes[-1].startswith("no steady state: 33 erlang offered to 30 slots")
    again = attrs.evolve(swamped, when_full=Retry(15, 80))
    assert "running out of tries" in (why_unstable(again) or "")
    for bounded in (Loss(), Queue(limit=9), Queue(patience=Constant(60))):
        assert why_unstable(attrs.evolve(swamped, when_full=bounded)) is None
    assert why_unstable(attrs.evolve(line, arrivals=Trace([0.0, 1.0]))) is None
    fast = [SimulatedAccount(str(i), 6, 2.0) for i in range(5)]
    assert why_unstable(attrs.evolve(line, accounts=fast)) is None
