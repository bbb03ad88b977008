"""Many runs, on any executor, and what they say together.

Each run has a seed of its own, made from the seed of the whole and the run's number: results do not depend on
who does which run, or when. Scenarios of one sweep share the seeds, so that their differences are sharp.
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
from typing import Any, Final, Generic, TypeVar

import attrs

from pika_balancer.errors import InvalidArgument, PikaError
from pika_balancer.simulate.estimate import LEVELS, Durations, Estimate, student
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.run import Engine, simulate
from pika_balancer.simulate.scenario import Scenario
from pika_balancer.simulate.streams import mix

T = TypeVar("T")
R = TypeVar("R")

_WINDOW: Final = 256
"""Tasks handed out at once: enough for any cluster, few enough to watch and to call back."""
_TICK: Final = 1.0
"""Seconds between two reports of progress while no task ends."""


@attrs.frozen
class RunProgress:
    """How far a run of tasks has come."""

    done: int
    """Tasks that have ended."""
    total: int
    """Tasks in all."""
    elapsed: float
    """Seconds since the start."""
    left: float
    """Seconds that the rest will take at the pace so far; infinite before the first task has ended."""


@attrs.frozen
class TaskResult(Generic[R]):
    """What came of the tasks."""

    results: tuple[R | None, ...]
    """One for each task, in their order; None for a task that an interrupt kept from ending."""
    interrupted: bool
    """Whether Ctrl-C ended the run early."""


def run_all(
    work: Callable[[T], R],
    tasks: Sequence[T],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[RunProgress], object] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> TaskResult[R]:
    """Return what `work` makes of each task, in the order of the tasks, whoever does which of them and when.

    Ctrl-C calls back what has not begun, and returns what is done. An error in a task calls back the rest and
    is raised.

    Args:
        work: A function that can be imported by name where the executor runs it.
        tasks: What to hand to it, one at a time.
        executor: Who works; it is not shut down. A pool of processes for this run alone by default, for which
            the caller's script needs the usual `if __name__ == "__main__":`.
        workers: Processes of that pool; as many as there are processors by default. 1 works in this process.
        progress: Called in this thread whenever a task has ended, and once a second.
        now: Seconds since an arbitrary moment, for the progress.

    Raises:
        InvalidArgument: `workers` is no whole number of at least 1, or is given beside an executor.
        PikaError: The processes of the pool cannot work.
    """
    if workers is not None and (executor is not None or isinstance(workers, bool) or workers < 1):
        raise InvalidArgument(
            "workers must be a whole number, 1 or more, and goes without an executor", field="workers"
        )
    count = min(workers or os.cpu_count() or 1, len(tasks))
    run = _Run(work, tasks, progress, now)
    if executor is not None:
        run.on(executor)
    elif count <= 1:
        run.here()
    else:
        with _pool(count, run) as pool:
            run.on(pool)
    return TaskResult(tuple(run.results), run.interrupted)


class _Run(Generic[T, R]):
    def __init__(
        self,
        work: Callable[[T], R],
        tasks: Sequence[T],
        progress: Callable[[RunProgress], object] | None,
        now: Callable[[], float],
    ) -> None:
        self._work = work
        self._tasks = tasks
        self._progress = progress
        self._now = now
        self._begun = now()
        self._done = 0
        self.results: list[R | None] = [None] * len(tasks)
        self.interrupted = False

    def here(self) -> None:
        try:
            for index, task in enumerate(self._tasks):
                self._keep(index, self._work(task))
        except KeyboardInterrupt:
            self.interrupted = True

    def on(self, executor: Executor) -> None:
        waiting = iter(enumerate(self._tasks))
        running: dict[Future[R], int] = {}
        try:
            while self._hand_out(executor, waiting, running):
                ended, _ = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
                for future in ended:
                    self._keep(running.pop(future), future.result())
                if not ended:
                    self._tell()
        except KeyboardInterrupt:
            self.interrupted = True
            for future, index in running.items():
                if not future.cancel() and future.done() and future.exception() is None:
                    self.results[index] = future.result()
        finally:
            for future in running:
                future.cancel()

    def _hand_out(
        self, executor: Executor, waiting: Iterator[tuple[int, T]], running: dict[Future[R], int]
    ) -> bool:
        """Submit as many tasks as may be out at once; return whether any is."""
        for index, task in itertools.islice(waiting, _WINDOW - len(running)):
            running[executor.submit(self._work, task)] = index
        return bool(running)

    def _keep(self, index: int, result: R) -> None:
        self.results[index] = result
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            elapsed, total = self._now() - self._begun, len(self._tasks)
            left = elapsed / self._done * (total - self._done) if self._done else math.inf
            self._progress(RunProgress(self._done, total, elapsed, left))


@contextlib.contextmanager
def _pool(count: int, run: "_Run[T, R]") -> Generator[ProcessPoolExecutor]:
    # Fresh processes, not forks: this one may have threads, and a fork of a process with threads may hang.
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts_to_the_parent
    )
    whole = False
    try:
        yield pool
        whole = not run.interrupted
    except BrokenExecutor as error:
        raise PikaError(
            "the worker processes ended before their work; a script needs its calls under "
            "`if __name__ == '__main__':`, and workers=1 does without processes"
        ) from error
    finally:
        if not whole:
            # Nobody waits for what is still being worked on: its result would not be kept.
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_COUNTS: Final = ("jobs", "completed", "refused", "gave_up", "unfinished", "rejected", "doubled")


@attrs.frozen
class Pooled:
    """Independent runs of one scenario, together."""

    scenario: Scenario = attrs.field(repr=False)
    """What was simulated."""
    runs: tuple[Result, ...] = attrs.field(repr=False)
    """The runs that ended, in the order of their numbers."""
    estimates: Mapping[str, Estimate]
    """By name, as a result has them: the mean over the runs, with a 95 % confidence interval from how they
    scatter (Student's t); the interval of the run itself where there is only one. `wait.max` and
    `time_in_system.max` are the longest of all."""
    counts: Mapping[str, int]
    """Jobs, completed, refused, … as a result has them, summed over the runs."""
    interrupted: bool
    """Whether Ctrl-C kept some runs from ending."""

    def result(self) -> Result:
        """Return the runs as one result: counts summed, estimates and intervals as they say together.

        What has neither, jobs in flight over time and the whole law of waits, is the first run's.

        Raises:
            InvalidArgument: No run has ended.
        """
        if not self.runs:
            raise InvalidArgument("no run has ended, and nothing is known", field="runs")
        first, known = self.runs[0], self.estimates
        if len(self.runs) == 1:
            return first

        def law(name: str, own: Durations) -> Durations:
            fields: dict[str, Any] = {field: known[f"{name}.{field}"] for field in ("mean", *LEVELS)}
            return attrs.evolve(own, **fields, max=known[f"{name}.max"].value)

        names = ("refused_fraction", "gave_up_fraction", "attempts", "in_flight", "utilisation", "imbalance")
        fields: dict[str, Any] = {name: known[name] for name in names} | dict(self.counts)
        accounts = tuple(
            attrs.evolve(
                account,
                jobs=sum(run.accounts[place].jobs for run in self.runs),
                share=known[f"share.{place + 1}"],
                utilisation=known[f"utilisation.{place + 1}"],
            )
            for place, account in enumerate(first.accounts)
        )
        word = f"{len(self.runs)} independent runs; jobs in flight over time are the first one's"
        return attrs.evolve(
            first,
            **fields,
            wait=law("wait", first.wait),
            time_in_system=law("time_in_system", first.time_in_system),
            accounts=accounts,
            duration=math.fsum(run.duration for run in self.runs),
            batches=len(self.runs),
            notes=tuple(dict.fromkeys((*(note for run in self.runs for note in run.notes), word))),
            theory=first.theory if all(run.theory for run in self.runs) else {},
            elapsed_s=math.fsum(run.elapsed_s for run in self.runs),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON: times in seconds, fractions from 0 to 1, null where unknown."""
        return {
            "runs": len(self.runs),
            "interrupted": self.interrupted,
            **self.counts,
            "estimates": {
                name: [end if math.isfinite(end) else None for end in (one.value, one.low, one.high)]
                for name, one in self.estimates.items()
            },
        }


@attrs.frozen
class _Task:
    scenario: Scenario
    jobs: int | None
    duration: float | None
    seed: int
    engine: Engine


def seed_of(seed: int, run: int) -> int:
    """Return the seed of a run: 64 bits, well mixed from the seed of the whole and the run's number."""
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
    """Simulate a scenario so many times independently, and return what the runs say together.

    Args:
        scenario: What to simulate.
        runs: How many runs.
        jobs: Jobs of each run.
        duration: Seconds of simulated time of each run, instead.
        seed: Fixes all chance.
        engine: As `simulate` takes it.
        executor: Who works: any executor, a cluster's too. A pool of processes by default.
        workers: Processes of that pool; 1 works in this process.
        progress: Called whenever a run has ended, and once a second.

    Raises:
        InvalidArgument: An argument cannot be; `field` names it.
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
    """Simulate each scenario so many times, and return what the runs of each say, in the order given.

    Ctrl-C ends it early and keeps the runs that have ended: `interrupted` says so. The arguments are those of
    `replicate`.

    Raises:
        InvalidArgument: An argument cannot be; `field` names it.
    """
    asked = list(scenarios)
    if type(runs) is not int or runs < 1:
        raise InvalidArgument("runs must be a whole number of at least 1", field="runs")
    tasks = [
        _Task(scenario, jobs, duration, seed_of(seed, run), engine)
        for scenario in asked
        for run in range(runs)
    ]
    outcome = run_all(_simulate, tasks, executor=executor, workers=workers, progress=progress)
    found: list[Pooled] = []
    for place, scenario in enumerate(asked):
        ended = tuple(r for r in outcome.results[place * runs : (place + 1) * runs] if r is not None)
        found.append(
            Pooled(
                scenario,
                ended,
                pool(ended),
                {name: sum(getattr(run, name) for run in ended) for name in _COUNTS},
                len(ended) < runs,
            )
        )
    return tuple(found)


def pool(results: Sequence[Result]) -> dict[str, Estimate]:
    """Return by name what independent runs of one scenario say together; see `Pooled.estimates`."""
    if len(results) == 1:
        return dict(results[0].estimates())
    columns: dict[str, list[float]] = {}
    for result in results:
        for name, estimate in result.estimates():
            columns.setdefault(name, []).append(estimate.value)
    return {name: _together(name, values) for name, values in columns.items()}


def _together(name: str, values: Sequence[float]) -> Estimate:
    seen = [value for value in values if not math.isnan(value)]
    if not seen:
        return Estimate(math.nan)
    if name.endswith(".max"):
        return Estimate(max(seen))
    mean = math.fsum(seen) / len(seen)
    if len(seen) == 1:
        return Estimate(mean)
    variance = math.fsum((value - mean) ** 2 for value in seen) / (len(seen) - 1)
    half = student(len(seen) - 1) * math.sqrt(variance / len(seen))
    return Estimate(mean, max(0.0, mean - half), mean + half)


def _simulate(task: _Task) -> Result:
    return simulate(task.scenario, jobs=task.jobs, duration=task.duration, seed=task.seed, engine=task.engine)
