"""The reference engine: a plain event loop that drives the shipped `Selector` under a virtual clock.

At one moment slots become free first, then accounts go out or come back, then jobs are retried, and then new
jobs arrive: a job that arrives when a slot becomes free gets it. Slots that become free together do so in the
order in which their jobs started.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

import attrs

from pika_balancer.models import Account, Lease
from pika_balancer.selection.selector import Selector
from pika_balancer.simulate.collector import Collector, Counting, JobFate, Records
from pika_balancer.simulate.scenario import Loss, Queue, Retry, Scenario
from pika_balancer.simulate.streams import DELAY, FAULT, PICK, Streams, uniform
from pika_balancer.simulate.workload import Workload

if TYPE_CHECKING:
    from pika_balancer.distributions import Column


@attrs.define(eq=False)
class _Job:
    number: int
    arrival: float
    service: float
    deadline: float
    tries: int = 0
    picks: int = 0


_Event = tuple[float, int, _Job | None, Lease | None]
"""Time, unique serial number, job, and the lease that ends."""


class _JobRandom:
    """The selector's random source: yields the numbers of the job that is being submitted."""

    def __init__(self, streams: Streams) -> None:
        self._key = streams.key(PICK)
        self._job = self._turn = 0

    def next_pick(self, job: _Job) -> None:
        """Switch to the numbers of this job's next pick."""
        self._job, self._turn = job.number, 2 * job.picks

    def random(self) -> float:
        drawn = uniform(self._key, self._job, self._turn)
        self._turn += 1
        return drawn


def _floats(column: "Column | list[float]") -> list[float]:
    return column if isinstance(column, list) else cast("list[float]", column.tolist())


_NEVER: Final = (math.inf, 0, False)


class Reference:
    """One run, event by event."""

    def __init__(
        self, scenario: Scenario, workload: Workload, collector: Collector, records: Records | None
    ) -> None:
        self._scenario = scenario
        self._workload = workload
        self._records = records
        self._count = Counting(collector)
        self._collector = collector
        self._full = scenario.when_full
        self._random = _JobRandom(workload.streams)
        self._channels = [account.channel for account in scenario.accounts]
        self._selector = Selector(
            [Account(account.channel, account.max_jobs) for account in scenario.accounts],
            # The selector calls nothing but `random()`.
            rng=cast("random.Random", self._random),
            policy=scenario.policy,
        )
        self._serial = 0
        self._running: list[_Event] = []
        self._orbit: list[_Event] = []
        self._queue: deque[_Job] = deque()
        self._fault_key = workload.streams.key(FAULT)
        self._delay_key = workload.streams.key(DELAY)

    def run(self) -> None:
        """Run every job to its end, or all of them to the horizon."""
        horizon = self._workload.horizon
        outages = self._workload.outages()
        outage = next(outages, _NEVER)
        jobs = self._jobs()
        job = next(jobs, None)
        last = self._collector.frame.start
        while True:
            arrival = job.arrival if job is not None else math.inf
            again = self._orbit[0][0] if self._orbit else math.inf
            now = min(arrival, again, outage[0])
            if job is None and not self._running and not self._orbit and (not self._queue or now == math.inf):
                break
            if self._running and self._running[0][0] <= min(now, horizon):
                self._end(heapq.heappop(self._running))
            elif now > horizon or now == math.inf:
                break
            elif outage[0] <= now:
                self._switch(*outage)
                outage = next(outages, _NEVER)
            elif again <= now:
                self._submit(cast("_Job", heapq.heappop(self._orbit)[2]), now)
            elif job is not None:
                self._count.arrive(job.number, now)
                self._submit(job, now)
                last = now
                job = next(jobs, None)
                if job is None and horizon == math.inf:
                    self._count.end_measuring(last)
        self._drop_impatient(horizon)
        self._count.end_measuring(last if horizon == math.inf else horizon)

    def _jobs(self) -> Iterator[_Job]:
        number = 0
        for block in self._workload.blocks():
            patience = itertools.repeat(math.inf) if block.patience is None else _floats(block.patience)
            for arrival, service, patient in zip(
                _floats(block.arrivals), _floats(block.services), patience, strict=False
            ):
                if self._records is not None:
                    self._records.arrive(arrival)
                yield _Job(number, arrival, service, arrival + patient)
                number += 1

    def _submit(self, job: _Job, now: float) -> None:
        """Submit a job that has just arrived, or is retried."""
        job.tries += 1
        if self._start(job, now):
            return
        if job.tries == 1:
            self._count.refuse(job.number, job.arrival)
        full = self._full
        if isinstance(full, Loss):
            self._give_up(job)
        elif isinstance(full, Retry):
            self._retry(job, now)
        else:
            if len(self._queue) >= full.limit:
                self._drop_impatient(now)
            if len(self._queue) >= full.limit or job.deadline < now:
                self._give_up(job)
            else:
                self._queue.append(job)

    def _start(self, job: _Job, now: float) -> bool:
        """Return whether the job got a free slot, even if the service then answers with a fault."""
        self._random.next_pick(job)
        lease = self._selector.try_acquire()
        if lease is None:
            return False
        fault = uniform(self._fault_key, job.number, job.picks)
        job.picks += 1
        faults = self._scenario.faults
        if fault < faults.rate_limited:
            self._collector.rejected += 1
            self._selector.release(lease)
            self._retry(job, now)
        elif fault < faults.rate_limited + faults.accepted:
            self._collector.doubled += 1
            self._occupy(lease, job, None, now)
            self._retry(job, now)
        else:
            spread = self._count.spread
            end = self._occupy(lease, job, job, now)
            self._count.start(job.number, job.arrival, lease.row, now, end, job.tries, spread)
            if self._records is not None:
                self._records.begin(job.number, lease.row, now, end, job.tries)
        return True

    def _occupy(self, lease: Lease, job: _Job, owner: _Job | None, now: float) -> float:
        scenario = self._scenario
        self._count.change(lease.row, 1, now)
        hold = job.service / scenario.accounts[lease.row].speed
        if scenario.slowdown is not None:
            over = self._count.in_flight[lease.row] - scenario.slowdown.above
            if over > 0:
                hold *= 1.0 + scenario.slowdown.each * over
        end = now + hold
        if scenario.poll_period:
            # Rounding may put the multiple just before the end.
            end = max(end, math.ceil(end / scenario.poll_period) * scenario.poll_period)
        self._push(self._running, end, owner, lease)
        return end

    def _push(self, heap: list[_Event], when: float, job: _Job | None, lease: Lease | None = None) -> None:
        self._serial += 1
        heapq.heappush(heap, (when, self._serial, job, lease))

    def _retry(self, job: _Job, now: float) -> None:
        """Schedule the next try of a job that got no slot, or whose submit failed."""
        full = self._full
        if isinstance(full, Loss) or (isinstance(full, Retry) and job.tries >= full.attempts):
            self._give_up(job)
        elif isinstance(full, Queue):
            self._push(self._orbit, now + self._scenario.faults.retry_after, job)
        else:
            drawn = uniform(self._delay_key, job.number, job.tries)
            delay = full.delay
            if full.exponential:
                delay *= -math.log1p(-drawn)
            elif full.jitter:
                delay *= 1.0 + full.jitter * (2.0 * drawn - 1.0)
            self._push(self._orbit, now + delay, job)

    def _give_up(self, job: _Job) -> None:
        self._count.give_up(job.number, job.arrival, job.tries)
        if self._records is not None:
            self._records.give_up(job.number, job.tries)

    def _end(self, event: _Event) -> None:
        now, _, job, held = event
        lease = cast("Lease", held)
        self._count.change(lease.row, -1, now)
        self._selector.release(lease)
        if job is not None:
            self._collector.completed += 1
            if self._records is not None:
                self._records.outcome[job.number] = JobFate.COMPLETED
        self._serve(now)

    def _switch(self, now: float, account: int, out: bool) -> None:  # noqa: FBT001 - unpacked from an event
        if out:
            self._selector.pause(self._channels[account])
        else:
            self._selector.resume(self._channels[account])
            self._serve(now)

    def _serve(self, now: float) -> None:
        """Start waiting jobs, first come first served, while slots are free."""
        while self._queue:
            job = self._queue[0]
            if job.deadline < now:
                self._give_up(self._queue.popleft())
            elif self._start(job, now):
                self._queue.popleft()
            else:
                return

    def _drop_impatient(self, now: float) -> None:
        """Remove the jobs whose patience has ended from the wait queue."""
        waiting = list(self._queue)
        self._queue.clear()
        for job in waiting:
            if job.deadline < now:
                self._give_up(job)
            else:
                self._queue.append(job)
