"""Compares the in-flight counts with what the service executes: counts others' jobs, frees ended ones."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import attrs

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import Clock
from pika_balancer.dispatch.handle import REFERENCE
from pika_balancer.errors import InvalidArgument, InvalidResponse, NotFound, PikaError
from pika_balancer.models import Job, Lease, Orphan

AT_ONCE: Final = 8
"""Maximum number of jobs that are looked up at the same time."""
_FIRST_PAUSE: Final = 2.0
_SPREAD: Final = 0.2


@attrs.define(eq=False)
class Reconciler:
    """Keeps a balancer's in-flight counts equal to what the service executes, for all submitters.

    It runs periodically only while there is a reason: a job of another submitter is counted, a shared store
    may have orphans, or a job of unknown fate is searched for. Every adopted lease that is not `known` counts
    as another submitter's, so a reconciler takes over what an earlier one left.

    The same goes for the orphans that a dead process leaves in a shared store. An orphan with a key is
    adopted. One without a key (its process died before it knew the job's id) is given up once it has been
    dead for `search_for` and a pass has counted every executing job by its id.
    """

    client: PikaClient
    """Lists and looks up jobs."""
    balancer: Balancer
    """Keeps the in-flight counts."""
    known: Callable[[str], bool]
    """Returns whether a key belongs to a job that the dispatcher follows."""
    claim: Callable[[Job], Awaitable[bool]]
    """Called with every other job; returns whether the dispatcher follows it from now on."""
    refused: Callable[[PikaError], bool]
    """Called with the errors of periodic passes; returns whether to stop."""
    search_for: float
    """Seconds for which the slot of a job of unknown id is kept."""
    every: float
    """Seconds between two passes, ±20 %."""
    rng: random.Random
    """Spreads the passes."""
    clock: Clock
    """Measures the seconds."""
    last_pass: float = attrs.field(init=False, default=-1.0)
    """Start of the last pass that saw every executing job, on the clock; negative before the first."""
    _asked: set[str] = attrs.field(init=False, factory=set[str])
    _inherited: set[str] = attrs.field(init=False, factory=set[str])
    _missing_since: dict[str, float] = attrs.field(init=False, factory=dict[str, float])
    _searches: int = attrs.field(init=False, default=0)
    _closed: bool = attrs.field(init=False, default=False)
    _passing: asyncio.Lock = attrs.field(init=False, factory=asyncio.Lock)
    _passed: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)
    _task: asyncio.Task[None] | None = attrs.field(init=False, default=None)

    async def reconcile(self) -> None:
        """Make one pass: count executing jobs that are not counted, free the slots of ended ones.

        Raises:
            PikaError: The service did not answer everything; what it did answer is counted.
        """
        async with self._passing:
            # First: the process of an orphan was dead before the service lists the jobs.
            keyless = await self._adopt_orphans()
            began = self.clock.now()
            counted = self._others()
            executing = set(await self.client.jobs())
            for key in counted - executing:
                if await self._is_over(key, began):
                    await self.drop(key)
            # A job that executes but is no longer counted is looked up again.
            self._asked &= executing & self._others()
            self._inherited &= counted
            self._missing_since = {k: since for k, since in self._missing_since.items() if k in counted}
            results = await self._look_up(sorted(jobid for jobid in executing if self._is_new(jobid)))
            errors = [result for result in results if isinstance(result, PikaError)]
            if not errors:
                self.last_pass = began
                self._passed.set()
                self._passed = asyncio.Event()
                if keyless and all(results):
                    await self.balancer.store.give_up(keyless)
        self.start()
        # A malformed job may stay malformed: it must not keep a dispatcher from starting.
        for error in errors:
            if not isinstance(error, InvalidResponse):
                raise error

    async def fill(self, channel: str, jobids: Iterable[str]) -> None:
        """Count the jobs that a refusal lists, until the channel is full."""
        for jobid in jobids:
            if self.is_full(channel):
                break
            if not self.known(jobid):
                await self.adopt(channel, jobid)
        self.start()

    async def count(self, channel: str, jobid: str) -> None:
        """Count the job on the channel until it has ended."""
        await self.adopt(channel, jobid)
        self.start()

    def is_full(self, channel: str) -> bool:
        """Return whether the channel is full, not counting the slot of the refused job."""
        accounts = self.balancer.snapshot().accounts
        return all(account.in_flight > account.max_jobs for account in accounts if account.channel == channel)

    async def adopt(self, channel: str, key: str) -> Lease | None:
        """Count the job on this channel only; return None if another process counts it on another one."""
        try:
            return await self.balancer.adopt(channel, key)
        except InvalidArgument:
            elsewhere = self.balancer.adopted().get(key)
        if elsewhere is None:
            return None
        # The refusal of one account may list jobs of another.
        await self.balancer.release(elsewhere)
        return await self.balancer.adopt(channel, key)

    async def drop(self, key: str) -> None:
        """Free the slot that is counted under the key, if any."""
        self._missing_since.pop(key, None)
        lease = self.balancer.adopted().get(key)
        if lease is not None:
            await self.balancer.release(lease)

    def ask_again(self) -> None:
        """Look up every job again in the next pass: one counted as another submitter's may be claimed."""
        self._asked.clear()

    def stop_searching(self, key: str) -> None:
        """Free the slot of a job of unknown id in the next pass."""
        self._missing_since[key] = -math.inf

    async def pass_after(self, moment: float) -> None:
        """Return once a pass that began after `moment` has seen every executing job."""
        self._searches += 1
        self.start()
        try:
            while self.last_pass <= moment:
                await self._passed.wait()
        finally:
            self._searches -= 1

    def start(self) -> None:
        """Run periodically from now on if there is a reason."""
        if self._has_reason() and not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop the passes; the counts stay."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _others(self) -> set[str]:
        return {key for key in self.balancer.adopted() if not self.known(key)}

    async def _is_over(self, key: str, now: float) -> bool:
        """Return whether to free the slot of a job that does not execute."""
        if not key.startswith(REFERENCE):
            if key not in self._inherited:
                return True
            # No pass of this process has seen it execute: it may have been accepted a moment ago.
            try:
                return (await self.client.job(key)).ended
            except NotFound:
                pass
            except PikaError:
                return False
        # The job may still appear, or be resumed here.
        return now - self._missing_since.setdefault(key, now) >= self.search_for

    def _is_new(self, jobid: str) -> bool:
        return jobid not in self._asked and not self.known(jobid)

    async def _look_up(self, jobids: Iterable[str]) -> list[bool | PikaError]:
        """Return for each job whether it is counted, or has ended, or else the error of its look-up."""
        results: list[bool | PikaError] = []
        slots = asyncio.Semaphore(AT_ONCE)

        async def look_up(jobid: str) -> None:
            async with slots:
                try:
                    results.append(await self._count_by_id(jobid))
                except PikaError as error:
                    results.append(error)

        async with asyncio.TaskGroup() as group:
            for jobid in jobids:
                group.create_task(look_up(jobid))
        return results

    async def _count_by_id(self, jobid: str) -> bool:
        try:
            job = await self.client.job(jobid)
        except NotFound:
            return False
        if job.ended or not self._is_new(jobid):
            return True
        try:
            claimed = await self.claim(job)
        except InvalidArgument:
            claimed = True  # counted on another channel by a process that shares the store
        if claimed:
            return True
        if job.channel is None:
            return False
        await self.adopt(job.channel, jobid)
        self._asked.add(jobid)
        if job.reply_ref is not None and not self.known(REFERENCE + job.reply_ref):
            # Counted by its id, the job needs no slot by its reference.
            await self.drop(REFERENCE + job.reply_ref)
        return True

    async def _adopt_orphans(self) -> list[Orphan]:
        """Adopt the store's orphans; return those without a key that have been dead for long enough."""
        keyless: list[Orphan] = []
        for orphan in await self.balancer.store.orphans():
            if orphan.key is None:
                if orphan.dead_for >= self.search_for:
                    keyless.append(orphan)
            elif not self.known(orphan.key):
                self._inherited.add(orphan.key)
                if orphan.key.startswith(REFERENCE):
                    self.ask_again()
                await self.adopt(orphan.channel, orphan.key)
        return keyless

    def _has_reason(self) -> bool:
        return bool(self._searches or self._others()) or self.balancer.store.shared

    async def _run(self) -> None:
        pause = min(_FIRST_PAUSE, self.every)
        failed = False
        while failed or self._has_reason():
            await self.clock.sleep(pause * self.rng.uniform(1 - _SPREAD, 1 + _SPREAD))
            try:
                # If orphans are the only possible reason, ask the store before the service.
                if failed or self._searches or self._others() or await self.balancer.store.orphans():
                    await self.reconcile()
            except PikaError as error:
                if self.refused(error):
                    return
                failed = True
            else:
                failed = False
            pause = self.every
