"""Results of many runs do not depend on the executor, and their intervals cover the truth."""

import json
import math
from concurrent.futures import Executor, ThreadPoolExecutor
from statistics import fmean, stdev

import attrs
import pytest

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate import Exponential, Poisson, Queue, Scenario, simulate, theory
from pika_balancer.simulate.estimate import student
from pika_balancer.simulate.replicate import Pooled, RunProgress, pool, replicate, seed_of, sweep
from tests.depth import sized

SCENARIO = Scenario("5x6", Poisson(25 / 180), Exponential(180))


def figures(pooled: Pooled) -> object:
    """Return all that a run found, as text: NaN equals itself there."""
    runs = [repr(attrs.evolve(run, elapsed_s=0.0)) for run in pooled.runs]
    return repr(pooled.estimates), pooled.counts, runs


def test_results_do_not_depend_on_the_executor() -> None:
    def ask(*, executor: Executor | None = None, workers: int | None = None) -> object:
        return figures(replicate(SCENARIO, runs=5, jobs=3000, seed=7, executor=executor, workers=workers))

    alone = ask(workers=1)
    assert ask(workers=2) == alone
    with ThreadPoolExecutor(3) as threads:
        assert ask(executor=threads) == alone


def test_the_same_on_a_cluster() -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        there = replicate(SCENARIO, runs=3, jobs=1000, executor=client.get_executor())
    assert figures(there) == figures(replicate(SCENARIO, runs=3, jobs=1000, workers=1))


def test_runs_differ_and_scenarios_of_a_sweep_meet_the_same_jobs() -> None:
    more = attrs.evolve(SCENARIO, accounts="6x6")
    one, other = sweep([SCENARIO, more], runs=3, jobs=2000, seed=1, workers=1)
    assert len({run.refused for run in one.runs}) > 1
    assert (
        [run.seed for run in one.runs]
        == [run.seed for run in other.runs]
        == [seed_of(1, i) for i in range(3)]
    )
    assert one.scenario == SCENARIO
    assert other.counts["refused"] < one.counts["refused"]
    assert figures(replicate(more, runs=3, jobs=2000, seed=1, workers=1)) == figures(other)
    assert len({seed_of(seed, run) for seed in range(50) for run in range(50)}) == 2500


def test_counts_add_up_means_are_means_and_the_longest_is_the_longest() -> None:
    pooled = replicate(attrs.evolve(SCENARIO, when_full=Queue()), runs=6, jobs=2000, workers=1)
    for name in ("jobs", "completed", "refused", "gave_up", "unfinished"):
        assert pooled.counts[name] == sum(getattr(run, name) for run in pooled.runs)
    values = [run.wait.mean.value for run in pooled.runs]
    estimate = pooled.estimates["wait.mean"]
    assert estimate.value == pytest.approx(fmean(values))
    assert estimate.half_width == pytest.approx(2.5706 * stdev(values) / math.sqrt(6), rel=1e-3)
    assert pooled.estimates["wait.max"].value == max(run.wait.max for run in pooled.runs)
    document = json.loads(json.dumps(pooled.to_dict(), allow_nan=False))
    assert document["runs"] == 6
    assert document["estimates"]["wait.max"][1:] == [None, None]


def test_one_run_keeps_its_own_intervals() -> None:
    pooled = replicate(SCENARIO, runs=1, jobs=5000, seed=3, workers=1)
    alone = simulate(SCENARIO, jobs=5000, seed=seed_of(3, 0))
    assert repr(pooled.estimates) == repr(dict(alone.estimates()))
    assert pool([]) == {}


def test_runs_make_one_result_that_adds_up() -> None:
    pooled = replicate(attrs.evolve(SCENARIO, when_full=Queue()), runs=4, jobs=2000, seed=5, workers=1)
    result = pooled.result()
    assert dict(result.estimates()) == dict(pooled.estimates)
    assert result.jobs == 8000 == result.completed + result.gave_up + result.unfinished
    assert result.completed == sum(account.jobs for account in result.accounts)
    assert result.refused == sum(run.refused for run in pooled.runs)
    assert (result.batches, result.theory) == (4, pooled.runs[0].theory)
    assert [note for note in result.notes if "independent runs" in note]
    assert len(set(result.notes)) == len(result.notes)
    assert replicate(SCENARIO, runs=1, jobs=500, workers=1).result().jobs == 500


def test_no_run_makes_no_result() -> None:
    def interrupt(_at: RunProgress) -> None:
        raise KeyboardInterrupt

    none = sweep([SCENARIO] * 2, runs=1, jobs=50, workers=1, progress=interrupt)[1]
    with pytest.raises(InvalidArgument, match="no run has ended"):
        none.result()


@pytest.mark.deep
@pytest.mark.no_cover  # hundreds of runs of the same lines
def test_intervals_of_runs_cover_the_truth() -> None:
    truth = theory.erlang_b(30, 25)
    seeds, least = sized((40, 34), (100, 88))
    covered = 0
    for seed in range(seeds):
        pooled = replicate(SCENARIO, runs=5, jobs=sized(1000, 4000), seed=seed, workers=1)
        estimate = pooled.estimates["refused_fraction"]
        covered += estimate.low <= truth <= estimate.high
    # 95 % of them; a binomial count is below these bounds in one of three hundred tries or fewer.
    assert covered >= least


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (29, 2.045), (120, 1.980)]
)
def test_students_t_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, rel=2e-3)


def test_an_interrupt_keeps_the_runs_that_have_ended() -> None:
    def interrupt(at: RunProgress) -> None:
        if at.done == 4:
            raise KeyboardInterrupt

    whole, half, none = sweep([SCENARIO] * 3, runs=3, jobs=500, workers=1, progress=interrupt)
    assert [len(pooled.runs) for pooled in (whole, half, none)] == [3, 1, 0]
    assert [pooled.interrupted for pooled in (whole, half, none)] == [False, True, True]
    assert none.estimates == {}
    assert none.counts["jobs"] == 0


@pytest.mark.parametrize("runs", [0, -1, 1.5, True])
def test_senseless_runs_are_refused(runs: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        replicate(SCENARIO, runs=runs, jobs=10)
    assert caught.value.field == "runs"
