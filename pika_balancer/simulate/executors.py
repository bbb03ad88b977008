"""Run many tasks on any executor: the same results whatever it is; Ctrl-C keeps what is done.

A task is plain data and its function is importable, so that both travel to other processes or machines.
"""

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from typing import Final, Generic, TypeVar

import attrs

from pika_balancer.errors import InvalidArgument, PikaError

T = TypeVar("T")
R = TypeVar("R")

_WINDOW: Final = 256
"""Tasks handed out at once: enough for any cluster, few enough to watch and to call back."""
_TICK: Final = 1.0
"""Seconds between two reports of progress while no task ends."""


@attrs.frozen
class Progress:
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
class Outcome(Generic[R]):
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
    progress: Callable[[Progress], object] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Outcome[R]:
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
    return Outcome(tuple(run.results), run.interrupted)


class _Run(Generic[T, R]):
    def __init__(
        self,
        work: Callable[[T], R],
        tasks: Sequence[T],
        progress: Callable[[Progress], object] | None,
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
            self._progress(Progress(self._done, total, elapsed, left))


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
