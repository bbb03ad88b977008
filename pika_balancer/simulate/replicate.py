"""Many runs on any executor, and their pooled estimates.

Each run has its own seed, made from the common seed and the run's number: results do not depend on who
executes which run, or when. The scenarios of one sweep share the seeds (common random numbers), so their
differences are sharp.
"""

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from functools import partial
from typing import Any, Final, Generic, TypeVar

import attrs

from pika_balancer.errors import InvalidArgument, PikaError
from pika_balancer.simulate.estimate import LEVELS, Durations, Estimate, around
from pika_balancer.simulate.result import ESTIMATES, Result
from pika_balancer.simulate.run import Engine, simulate
from pika_balancer.simulate.scenario import Scenario
from pika_balancer.simulate.streams import mix

T = TypeVar("T")
R = TypeVar("R")

_WINDOW: Final = 256
"""Tasks submitted at once: enough for a cluster, few enough to cancel."""
_TICK: Final = 1.0
"""Seconds between two reports of progress while no task ends."""


@attrs.frozen
class RunProgress:
    """How many tasks of a batch have ended."""

    done: int
    """Tasks that have ended."""
    total: int
    """All tasks."""
    elapsed: float
    """Seconds since the start."""
    left: float
    """Estimated seconds that remain; infinite before the first task has ended."""


@attrs.frozen
class TaskResult(Generic[R]):
    """The results of a batch of tasks."""

    results: tuple[R | None, ...]
    """One for each task, in their order; None for a task that an interrupt kept from ending."""
    interrupted: bool
    """Whether Ctrl-C ended the batch early."""


def run_all(
    work: Callable[[T], R],
    tasks: Sequence[T],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[RunProgress], object] | None = None,
) -> TaskResult[R]:
    """Return the result of `work` for each task, in the order of the tasks.

    Ctrl-C cancels the tasks that have not begun and returns what is done. An error in a task cancels the
    others and is raised.

    Args:
        work: A function that the executor can import by name.
        tasks: Its arguments, one call each.
        executor: Executes the calls; it is not shut down. By default a pool of processes for this batch,
            which needs the usual `if __name__ == "__main__":` in the caller's script.
        workers: Processes of that pool; one for each processor by default. 1 works in this process.
        progress: Called in this thread when a task has ended, and once a second.

    Raises:
        InvalidArgument: `workers` is no whole number of at least 1, or is given with an executor.
        PikaError: The processes of the pool ended unexpectedly.
    """
    if workers is not None and (executor is not None or isinstance(workers, bool) or workers < 1):
        raise InvalidArgument(
            "workers must be 1 or more, and cannot be combined with an executor", field="workers"
        )
    count = min(workers or os.cpu_count() or 1, len(tasks))
    batch = _Batch(work, tasks, progress)
    if executor is not None:
        batch.run_on(executor)
    elif count <= 1:
        batch.run_here()
    else:
        with _pool(count, batch) as pool:
            batch.run_on(pool)
    return TaskResult(tuple(batch.results), batch.interrupted)


class _Batch(Generic[T, R]):
    def __init__(
        self, work: Callable[[T], R], tasks: Sequence[T], progress: Callable[[RunProgress], object] | None
    ) -> None:
        self._work = work
        self._tasks = tasks
        self._progress = progress
        self._began = time.monotonic()
        self._done = 0
        self.results: list[R | None] = [None] * len(tasks)
        self.interrupted = False

    def run_here(self) -> None:
        try:
            for index, task in enumerate(self._tasks):
                self._finish(index, self._work(task))
        except KeyboardInterrupt:
            self.interrupted = True

    def run_on(self, executor: Executor) -> None:
        pending = iter(enumerate(self._tasks))
        running: dict[Future[R], int] = {}
        try:
            while self._submit(executor, pending, running):
                ended, _ = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
                for future in ended:
                    self._finish(running.pop(future), future.result())
                if not ended:
                    self._report()
        except KeyboardInterrupt:
            self.interrupted = True
            for future, index in running.items():
                if not future.cancel() and future.done() and future.exception() is None:
                    self.results[index] = future.result()
        finally:
            for future in running:
                future.cancel()

    def _submit(
        self, executor: Executor, pending: Iterator[tuple[int, T]], running: dict[Future[R], int]
    ) -> bool:
        """Fill the window and return whether any task is running."""
        for index, task in itertools.islice(pending, _WINDOW - len(running)):
            running[executor.submit(self._work, task)] = index
        return bool(running)

    def _finish(self, index: int, result: R) -> None:
        self.results[index] = result
        self._done += 1
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            elapsed, total = time.monotonic() - self._began, len(self._tasks)
            left = elapsed / self._done * (total - self._done) if self._done else math.inf
            self._progress(RunProgress(self._done, total, elapsed, left))


@contextlib.contextmanager
def _pool(count: int, batch: "_Batch[T, R]") -> Generator[ProcessPoolExecutor]:
    # New processes, not forks: a fork of a process with threads may hang.
    before = set(multiprocessing.active_children())
    # Ctrl-C reaches every process of the terminal's job; only the parent acts on it.
    ignore_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=ignore_interrupts)
    complete = False
    try:
        yield pool
        complete = not batch.interrupted
    except BrokenExecutor as error:
        raise PikaError(
            "the worker processes ended unexpectedly: put the calls of a script under "
            "`if __name__ == '__main__':`, or pass workers=1 to do without processes"
        ) from error
    finally:
        if not complete:
            # The result of a running task is not needed any more.
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
        pool.shutdown(cancel_futures=True)


_COUNTS: Final = ("jobs", "completed", "refused", "gave_up", "unfinished", "rejected", "doubled")


@attrs.frozen
class Pooled:
    """The pooled results of independent runs of one scenario."""

    scenario: Scenario = attrs.field(repr=False)
    """The scenario simulated."""
    runs: tuple[Result, ...] = attrs.field(repr=False)
    """The runs that ended, in the order of their numbers."""
    estimates: Mapping[str, Estimate]
    """By name, as in a result: the mean over the runs, with a 95 % confidence interval from their scatter
    (Student's t); the run's own interval if there is only one. `wait.max` and `time_in_system.max` are the
    longest of all."""
    counts: Mapping[str, int]
    """Jobs, completed, refused, … as in a result, summed over the runs."""
    interrupted: bool
    """Whether Ctrl-C kept some runs from ending."""

    def result(self) -> Result:
        """Return the runs as one result: counts summed, estimates and intervals pooled.

        Jobs in flight over time and the tails of the durations are those of the first run.

        Raises:
            InvalidArgument: No run has ended.
        """
        if not self.runs:
            raise InvalidArgument("no run has ended, so there is no result", field="runs")
        first, pooled = self.runs[0], self.estimates
        if len(self.runs) == 1:
            return first

        def durations(name: str, own: Durations) -> Durations:
            fields: dict[str, Any] = {field: pooled[f"{name}.{field}"] for field in ("mean", *LEVELS)}
            return attrs.evolve(own, **fields, max=pooled[f"{name}.max"].value)

        fields: dict[str, Any] = {name: pooled[name] for name in ESTIMATES} | dict(self.counts)
        accounts = tuple(
            attrs.evolve(
                account,
                jobs=sum(run.accounts[place].jobs for run in self.runs),
                share=pooled[f"share.{place + 1}"],
                utilisation=pooled[f"utilisation.{place + 1}"],
            )
            for place, account in enumerate(first.accounts)
        )
        note = f"{len(self.runs)} independent runs; jobs in flight over time are those of the first"
        return attrs.evolve(
            first,
            **fields,
            wait=durations("wait", first.wait),
            time_in_system=durations("time_in_system", first.time_in_system),
            accounts=accounts,
            duration=math.fsum(run.duration for run in self.runs),
            batches=len(self.runs),
            notes=tuple(dict.fromkeys((*(note for run in self.runs for note in run.notes), note))),
            theory=first.theory if all(run.theory for run in self.runs) else {},
            elapsed_s=math.fsum(run.elapsed_s for run in self.runs),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON: times in seconds, fractions from 0 to 1, null where unknown."""
        return {
            "runs": len(self.runs),
            "interrupted": self.interrupted,
            **self.counts,
            "estimates": {name: estimate.to_list() for name, estimate in self.estimates.items()},
        }


def seed_of(seed: int, run: int) -> int:
    """Return the seed of a run: 64 bits, well mixed from the common seed and the run's number."""
    return mix(mix(seed) + run + 1)


def replicate(
    scenario: Scenario,
    *,
    runs: int,
    jobs: int | None = None,
    duration: float | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[RunProgress], object] | None = None,
) -> Pooled:
    """Simulate a scenario several times independently and return the pooled results.

    Ctrl-C ends it early and keeps the runs that have ended; `interrupted` is then set.

    Args:
        scenario: The scenario to simulate.
        runs: Number of runs.
        jobs: Jobs of each run.
        duration: Seconds of simulated time of each run, instead.
        seed: Fixes all random numbers.
        engine: As `simulate` takes it.
        executor: Any executor, a cluster's too; by default a pool of processes.
        workers: Processes of that pool; 1 works in this process.
        progress: Called when a run has ended, and once a second.

    Raises:
        InvalidArgument: An argument is out of range; `field` names it.
    """
    return sweep(
        [scenario],
        runs=runs,
        jobs=jobs,
        duration=duration,
        seed=seed,
        engine=engine,
        executor=executor,
        workers=workers,
        progress=progress,
    )[0]


def sweep(
    scenarios: Iterable[Scenario],
    *,
    runs: int = 1,
    jobs: int | None = None,
    duration: float | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[RunProgress], object] | None = None,
) -> tuple[Pooled, ...]:
    """Simulate each scenario several times and return the pooled results of each, in the order given.

    Ctrl-C and the other arguments work as in `replicate`.

    Raises:
        InvalidArgument: An argument is out of range; `field` names it.
    """
    given = list(scenarios)
    if type(runs) is not int or runs < 1:
        raise InvalidArgument("runs must be a whole number of at least 1", field="runs")
    tasks = [(scenario, seed_of(seed, run)) for scenario in given for run in range(runs)]
    work = partial(_simulate, jobs=jobs, duration=duration, engine=engine)
    results = run_all(work, tasks, executor=executor, workers=workers, progress=progress).results
    pooled: list[Pooled] = []
    for place, scenario in enumerate(given):
        ended = tuple(run for run in results[place * runs : (place + 1) * runs] if run is not None)
        counts = {name: sum(getattr(run, name) for run in ended) for name in _COUNTS}
        pooled.append(Pooled(scenario, ended, pool(ended), counts, interrupted=len(ended) < runs))
    return tuple(pooled)


def pool(results: Sequence[Result]) -> dict[str, Estimate]:
    """Return the pooled estimates of independent runs of one scenario by name; see `Pooled.estimates`."""
    if len(results) == 1:
        return dict(results[0].estimates())
    columns: dict[str, list[float]] = {}
    for result in results:
        for name, estimate in result.estimates():
            columns.setdefault(name, []).append(estimate.value)
    return {name: _pooled(name, values) for name, values in columns.items()}


def _pooled(name: str, values: Sequence[float]) -> Estimate:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Estimate(math.nan)
    if name.endswith(".max"):
        return Estimate(max(known))
    return around(math.fsum(known) / len(known), known)


def _simulate(task: tuple[Scenario, int], **options: Any) -> Result:
    scenario, seed = task
    return simulate(scenario, seed=seed, **options)
