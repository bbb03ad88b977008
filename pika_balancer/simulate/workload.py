"""The jobs of a run and the outages of its accounts, a block at a time, so that memory stays flat.

Both engines are fed from here, with the very same numbers.
"""

import heapq
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, cast

import attrs

from pika_balancer.simulate.arrivals import Trace
from pika_balancer.simulate.scenario import Queue, Scenario, SimulatedAccount
from pika_balancer.simulate.streams import Streams

if TYPE_CHECKING:
    from pika_balancer.distributions import Column

SIZE: Final = 65_536
"""Jobs per block."""


@attrs.frozen
class JobBlock:
    """Some jobs that come one after the other."""

    arrivals: "Column | list[float]"
    """When they come, in seconds, never going back."""
    services: "Column | list[float]"
    """How long they run on an account of speed 1, in seconds."""
    patience: "Column | list[float] | None"
    """How long after its arrival each gives up waiting in line, in seconds; None where they wait for ever."""

    def __len__(self) -> int:
        """Return the number of jobs."""
        return len(self.arrivals)


@attrs.frozen
class Workload:
    """The jobs of one run: up to `jobs` of them, or those that come by `horizon`."""

    scenario: Scenario
    """What is simulated."""
    streams: Streams
    """Where chance comes from."""
    jobs: int | None
    """How many at most."""
    horizon: float
    """Until when, in seconds; infinite where the number of jobs ends the run."""
    vector: bool = attrs.field(factory=lambda: importlib.util.find_spec("numpy") is not None)
    """Whether NumPy draws them; without it the numbers are others, under the same laws."""
    watch: Callable[[int], bool] | None = None
    """Told before each block but the first how many jobs came; where it says False, no more do."""

    def blocks(self) -> Iterator[JobBlock]:
        """Yield the jobs, a block at a time."""
        left = self.jobs if self.jobs is not None else -1
        size = min(SIZE, left) if left >= 0 else SIZE
        for number, block in enumerate(self._vector(size) if self.vector else self._plain(size)):
            if self.watch is not None and number and not self.watch(number * size):
                return
            count = len(block)
            if block.arrivals[-1] > self.horizon:
                count = _reached(block.arrivals, self.horizon)
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
        scenario, streams = self.scenario, self.streams
        services, patience = streams.vector("service"), streams.vector("patience")
        law = scenario.when_full.patience if isinstance(scenario.when_full, Queue) else None
        first = 0
        for arrivals in scenario.arrivals.blocks(streams, size):
            count = len(arrivals)
            yield JobBlock(
                arrivals,
                scenario.service.block(services, first, count),
                None if law is None else law.block(patience, first, count),
            )
            first += count

    def _plain(self, size: int) -> Iterator[JobBlock]:
        scenario, streams = self.scenario, self.streams
        service = scenario.service.one(streams.plain("service"))
        law = scenario.when_full.patience if isinstance(scenario.when_full, Queue) else None
        patience = None if law is None else law.one(streams.plain("patience"))
        times = scenario.arrivals.times(streams)
        while arrivals := list(itertools.islice(times, size)):
            yield JobBlock(
                arrivals,
                [service() for _ in arrivals],
                None if patience is None else [patience() for _ in arrivals],
            )

    @property
    def start(self) -> float:
        """When the run begins, in seconds: at the first arrival of a trace, else at 0."""
        return start_of(self.scenario)

    def outages(self) -> Iterator[tuple[float, int, bool]]:
        """Yield moment, row of the account and whether it goes out (or comes back), in order of time."""
        rows = [_outages(account, row, self.streams) for row, account in enumerate(self.scenario.accounts)]
        return heapq.merge(*rows)


def start_of(scenario: Scenario) -> float:
    """Return when a run begins, in seconds: at the first arrival of a trace, else at 0."""
    return scenario.arrivals.start if isinstance(scenario.arrivals, Trace) else 0.0


def _reached(arrivals: "Column | list[float]", horizon: float) -> int:
    # Whatever holds the numbers, they never go back.
    low, high = 0, len(arrivals)
    while low < high:
        middle = (low + high) // 2
        if arrivals[middle] > horizon:
            high = middle
        else:
            low = middle + 1
    return low


def _outages(account: SimulatedAccount, row: int, streams: Streams) -> Iterator[tuple[float, int, bool]]:
    for begin, end in account.outages:
        yield begin, row, True
        if end < math.inf:
            yield end, row, False
    if (failures := account.failures) is not None:
        rng = streams.plain(f"failures of {row}")
        now = 0.0
        for down in cast("Iterator[bool]", itertools.cycle((True, False))):
            now += rng.expovariate(1 / (failures.mean_up if down else failures.mean_down))
            yield now, row, down
