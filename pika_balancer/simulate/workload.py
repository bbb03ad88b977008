"""The jobs of a run and the outages of its accounts, a block at a time, so that memory use is constant.

Both engines get the same numbers from here.
"""

import bisect
import heapq
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, cast

import attrs

from pika_balancer.distributions import Distribution
from pika_balancer.simulate.arrivals import Trace
from pika_balancer.simulate.scenario import Queue, Scenario, SimulatedAccount
from pika_balancer.simulate.streams import Streams

if TYPE_CHECKING:
    from pika_balancer.distributions import Column

SIZE: Final = 65_536
"""Jobs per block."""


@attrs.frozen
class JobBlock:
    """Consecutive jobs."""

    arrivals: "Column | list[float]"
    """When they arrive, in seconds, in ascending order."""
    services: "Column | list[float]"
    """How long they run on an account of speed 1, in seconds."""
    patience: "Column | list[float] | None"
    """Seconds after its arrival at which each gives up waiting; None if they wait without limit."""

    def __len__(self) -> int:
        """Return the number of jobs."""
        return len(self.arrivals)


@attrs.frozen
class Workload:
    """The jobs of one run: up to `jobs` of them, or those that arrive by `horizon`."""

    scenario: Scenario
    streams: Streams
    jobs: int | None
    """Maximum number of jobs."""
    horizon: float
    """When the run is cut off, in seconds; infinite if the number of jobs ends it."""
    vector: bool = attrs.field(factory=lambda: importlib.util.find_spec("numpy") is not None)
    """Whether NumPy draws them; without it the numbers differ, under the same distributions."""
    watch: Callable[[int], bool] | None = None
    """Called before each block but the first with the number of jobs so far; False ends the arrivals."""

    def blocks(self) -> Iterator[JobBlock]:
        """Yield the jobs, a block at a time."""
        left = self.jobs if self.jobs is not None else -1
        size = min(SIZE, left) if left >= 0 else SIZE
        for number, block in enumerate(self._vector(size) if self.vector else self._plain(size)):
            if self.watch is not None and number and not self.watch(number * size):
                return
            count = len(block)
            if block.arrivals[-1] > self.horizon:
                count = bisect.bisect_right(block.arrivals, self.horizon)
            if 0 <= left < count:
                count = left
            if count < len(block):
                patience = None if block.patience is None else block.patience[:count]
                yield JobBlock(block.arrivals[:count], block.services[:count], patience)
                return
            yield block
            left -= count
            if left == 0:
                return

    def _vector(self, size: int) -> Iterator[JobBlock]:
        services, patience = self.streams.vector("service"), self.streams.vector("patience")
        first = 0
        for arrivals in self.scenario.arrivals.blocks(self.streams, size):
            count = len(arrivals)
            yield JobBlock(
                arrivals,
                self.scenario.service.block(services, first, count),
                None if self._patience is None else self._patience.block(patience, first, count),
            )
            first += count

    def _plain(self, size: int) -> Iterator[JobBlock]:
        service = self.scenario.service.one(self.streams.plain("service"))
        patience = None if self._patience is None else self._patience.one(self.streams.plain("patience"))
        times = self.scenario.arrivals.times(self.streams)
        while arrivals := list(itertools.islice(times, size)):
            yield JobBlock(
                arrivals,
                [service() for _ in arrivals],
                None if patience is None else [patience() for _ in arrivals],
            )

    @property
    def _patience(self) -> Distribution | None:
        full = self.scenario.when_full
        return full.patience if isinstance(full, Queue) else None

    def outages(self) -> Iterator[tuple[float, int, bool]]:
        """Yield time, index of the account and whether it goes out (or comes back), in order of time."""
        accounts = enumerate(self.scenario.accounts)
        return heapq.merge(*(_outages(account, index, self.streams) for index, account in accounts))


def start_of(scenario: Scenario) -> float:
    """Return when a run begins, in seconds: at the first arrival of a trace, else at 0."""
    return scenario.arrivals.start if isinstance(scenario.arrivals, Trace) else 0.0


def _outages(account: SimulatedAccount, index: int, streams: Streams) -> Iterator[tuple[float, int, bool]]:
    for begin, end in account.outages:
        yield begin, index, True
        if end < math.inf:
            yield end, index, False
    if (failures := account.failures) is not None:
        rng = streams.plain(f"failures of {index}")
        now = 0.0
        for down in cast("Iterator[bool]", itertools.cycle((True, False))):
            now += rng.expovariate(1 / (failures.mean_up if down else failures.mean_down))
            yield now, index, down
