"""A run that is watched, and one that is ended early: it says what it has found by then."""

import math

import attrs
import pytest

from pika_balancer.simulate import Exponential, Poisson, Queue, Scenario, simulate, workload
from pika_balancer.simulate.run import Engine

SIZE = 2_000
ENGINES: tuple[Engine, ...] = ("numba", "reference")
SCENARIO = Scenario(accounts="5x6", arrivals=Poisson(25 / 180), service=Exponential(180), when_full=Queue())


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "SIZE", SIZE)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_watched_run_finds_the_same(engine: Engine) -> None:
    told: list[int] = []

    def watch(jobs: int) -> bool:
        told.append(jobs)
        return True

    watched = simulate(SCENARIO, jobs=SIZE + 1, seed=3, engine=engine, watch=watch)
    assert watched == simulate(SCENARIO, jobs=SIZE + 1, seed=3, engine=engine)
    assert told == [SIZE]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_that_is_ended_early_keeps_what_it_has(engine: Engine) -> None:
    early = simulate(SCENARIO, jobs=4 * SIZE, seed=3, engine=engine, watch=lambda jobs: jobs < SIZE)
    assert early.jobs == early.completed == SIZE
    assert "ended early, after 2,000 jobs; the figures are of those" in early.notes
    # Of 30 batches, those that were never begun count for nothing.
    assert early.batches == 5
    assert early.wait.mean.low < early.wait.mean.value < early.wait.mean.high
    whole = simulate(SCENARIO, jobs=SIZE, seed=3, engine=engine)
    assert (early.refused, early.accounts[0].jobs) == (whole.refused, whole.accounts[0].jobs)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_that_ends_within_its_warm_up_counts_all_the_same(engine: Engine) -> None:
    early = simulate(SCENARIO, jobs=100 * SIZE, seed=3, engine=engine, watch=lambda jobs: jobs < SIZE)
    assert (early.batches, early.warm_up) == (1, "the run ended within its warm-up, and all of it counts")
    whole = simulate(attrs.evolve(SCENARIO, warm_up=0.0), jobs=SIZE, seed=3, engine=engine)
    assert early.refused_fraction.value == whole.refused_fraction.value
    assert early.wait.mean.value == pytest.approx(whole.wait.mean.value)
    assert early.wait.max == pytest.approx(whole.wait.max, rel=1 / 128)
    assert math.isnan(early.wait.mean.low)
