"""The truth: a plain event loop that drives the shipped `Selector` under a virtual clock.

At one and the same moment slots free first, then accounts go out or come back, then jobs are tried again, and
then new ones come: a job that arrives when a slot frees finds it free. Among slots that free together the one
whose job started first is the first.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator
from typing import Final, cast

import attrs

from pika_balancer.models import Account, Lease
from pika_balancer.selection.selector import Selector
from pika_balancer.simulate.collector import Collector, Counting
from pika_balancer.simulate.records import JobFate, Records
from pika_balancer.simulate.scenario import Loss, Queue, Retry, Scenario
from pika_balancer.simulate.streams import DELAY, FAULT, PICK, Streams, uniform
from pika_balancer.simulate.workload import Workload


@attrs.define(eq=False)
class _Job:
    number: int
    arrival: float
    service: float
    deadline: float
    tries: int = 0
    picks: int = 0


_Event = tuple[float, int, _Job | None, Lease | None]
"""When something happens, a serial number that no other has, whose job it is and what lease ends."""


class _Chance:
    """What the selector draws from: the numbers that belong to the job that is being placed."""

    def __init__(self, streams: Streams) -> None:
        self._key = streams.key(PICK)
        self._job = self._turn = 0

    def belong(self, job: _Job) -> None:
        """Draw for this job's next pick from now on."""
        self._job, self._turn = job.number, 2 * job.picks

    def random(self) -> float:
        """Return the next number in [0, 1)."""
        drawn = uniform(self._key, self._job, self._turn)
        self._turn += 1
        return drawn


_NEVER: Final = (math.inf, 0, False)


class Reference:
    """One run, event by event."""

    def __init__(
        self, scenario: Scenario, workload: Workload, tally: Collector, records: Records | None
    ) -> None:
        self.scenario = scenario
        self.workload = workload
        self.records = records
        self.count = Counting(tally)
        self.tally = tally
        self.full = scenario.when_full
        self.chance = _Chance(workload.streams)
        self.channels = [account.channel for account in scenario.accounts]
        self.rows = {channel: row for row, channel in enumerate(self.channels)}
        self.selector = Selector(
            [Account(account.channel, account.max_jobs) for account in scenario.accounts],
            # The selector asks its source of chance for nothing but `random()`.
            rng=cast("random.Random", self.chance),
            policy=scenario.policy,
        )
        self.serial = 0
        self.running: list[_Event] = []
        self.orbit: list[_Event] = []
        self.line: deque[_Job] = deque()
        self.fault_key = workload.streams.key(FAULT)
        self.delay_key = workload.streams.key(DELAY)

    def run(self) -> None:
        """Carry every job to its end, or all of them to the horizon."""
        horizon = self.workload.horizon
        outages = self.workload.outages()
        outage = next(outages, _NEVER)
        jobs = self._jobs()
        job = next(jobs, None)
        last = self.tally.frame.start
        while True:
            arrival = job.arrival if job is not None else math.inf
            again = self.orbit[0][0] if self.orbit else math.inf
            now = min(arrival, again, outage[0])
            if job is None and not self.running and not self.orbit and (not self.line or now == math.inf):
                break
            if self.running and self.running[0][0] <= min(now, horizon):
                self._end(heapq.heappop(self.running))
            elif now > horizon or now == math.inf:
                break
            elif outage[0] <= now:
                self._switch(*outage)
                outage = next(outages, _NEVER)
            elif again <= now:
                self._try(cast("_Job", heapq.heappop(self.orbit)[2]), now)
            elif job is not None:
                self.count.arrive(job.number, now)
                self._try(job, now)
                last = now
                job = next(jobs, None)
                if job is None and horizon == math.inf:
                    self.count.close(last)
        self._finish(horizon, last)

    def _jobs(self) -> Iterator[_Job]:
        number = 0
        for block in self.workload.blocks():
            arrivals, services = (
                column if isinstance(column, list) else cast("list[float]", column.tolist())
                for column in (block.arrivals, block.services)
            )
            patience = block.patience
            if patience is not None and not isinstance(patience, list):
                patience = cast("list[float]", patience.tolist())
            for place, (arrival, service) in enumerate(zip(arrivals, services, strict=True)):
                deadline = math.inf if patience is None else arrival + patience[place]
                if self.records is not None:
                    self.records.arrive(arrival)
                yield _Job(number, arrival, service, deadline)
                number += 1

    def _try(self, job: _Job, now: float) -> None:
        """Submit a job that has just come, or has come back."""
        job.tries += 1
        if self._place(job, now):
            return
        if job.tries == 1:
            self.count.refuse(job.number, job.arrival)
        full = self.full
        if isinstance(full, Loss):
            self._give_up(job)
        elif isinstance(full, Retry):
            self._again(job, now)
        else:
            if len(self.line) >= full.limit:
                self._thin(now)
            if len(self.line) >= full.limit or job.deadline < now:
                self._give_up(job)
            else:
                self.line.append(job)

    def _place(self, job: _Job, now: float) -> bool:
        """Give the job a slot, if there is one; return whether there was, whatever the service then said."""
        self.chance.belong(job)
        lease = self.selector.try_acquire()
        if lease is None:
            return False
        fault = uniform(self.fault_key, job.number, job.picks)
        job.picks += 1
        faults = self.scenario.faults
        if fault < faults.rate_limited:
            self.tally.rejected += 1
            self.selector.release(lease)
            self._again(job, now)
        elif fault < faults.rate_limited + faults.accepted:
            self.tally.doubled += 1
            self._occupy(lease, job, None, now)
            self._again(job, now)
        else:
            spread = self.count.spread
            end = self._occupy(lease, job, job, now)
            self.count.start(job.number, job.arrival, lease.row, now, end, job.tries, spread)
            if self.records is not None:
                self.records.begin(job.number, lease.row, now, end, job.tries)
        return True

    def _occupy(self, lease: Lease, job: _Job, owner: _Job | None, now: float) -> float:
        scenario = self.scenario
        self.count.fly(lease.row, 1, now)
        hold = job.service / scenario.accounts[lease.row].speed
        if scenario.slowdown is not None:
            over = self.count.flying[lease.row] - scenario.slowdown.above
            if over > 0:
                hold *= 1.0 + scenario.slowdown.each * over
        end = now + hold
        if scenario.poll_period:
            # Rounding may put the multiple just before the end.
            end = max(end, math.ceil(end / scenario.poll_period) * scenario.poll_period)
        self._push(self.running, end, owner, lease)
        return end

    def _push(self, heap: list[_Event], when: float, job: _Job | None, lease: Lease | None = None) -> None:
        self.serial += 1
        heapq.heappush(heap, (when, self.serial, job, lease))

    def _again(self, job: _Job, now: float) -> None:
        """Arrange for the next try of a job that got no slot, or nothing from it."""
        full = self.full
        if isinstance(full, Loss) or (isinstance(full, Retry) and job.tries >= full.attempts):
            self._give_up(job)
        elif isinstance(full, Queue):
            self._push(self.orbit, now + self.scenario.faults.retry_after, job)
        else:
            drawn = uniform(self.delay_key, job.number, job.tries)
            delay = full.delay
            if full.exponential:
                delay *= -math.log1p(-drawn)
            elif full.jitter:
                delay *= 1.0 + full.jitter * (2.0 * drawn - 1.0)
            self._push(self.orbit, now + delay, job)

    def _give_up(self, job: _Job) -> None:
        self.count.give_up(job.number, job.arrival, job.tries)
        if self.records is not None:
            self.records.give_up(job.number, job.tries)

    def _end(self, event: _Event) -> None:
        now, _, job, held = event
        lease = cast("Lease", held)
        self.count.fly(lease.row, -1, now)
        self.selector.release(lease)
        if job is not None:
            self.tally.completed += 1
            if self.records is not None:
                self.records.outcome[job.number] = JobFate.COMPLETED
        self._serve(now)

    def _switch(self, now: float, row: int, out: bool) -> None:  # noqa: FBT001 - as the events have it
        if out:
            self.selector.pause(self.channels[row])
        else:
            self.selector.resume(self.channels[row])
            self._serve(now)

    def _serve(self, now: float) -> None:
        """Let those in line start, first come first served, as far as there are slots."""
        while self.line:
            job = self.line[0]
            if job.deadline < now:
                self._give_up(self.line.popleft())
            elif self._place(job, now):
                self.line.popleft()
            else:
                return

    def _thin(self, now: float) -> None:
        """Take those out of the line whose patience has ended."""
        waiting = list(self.line)
        self.line.clear()
        for job in waiting:
            if job.deadline < now:
                self._give_up(job)
            else:
                self.line.append(job)

    def _finish(self, horizon: float, last: float) -> None:
        self._thin(horizon)
        self.count.close(last if horizon == math.inf else horizon)
