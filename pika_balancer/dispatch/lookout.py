"""What the service says is executing, compared with the books: others' jobs are counted, lost ones found."""

import asyncio
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from pika_balancer.balancer import Balancer
from pika_balancer.client import PikaClient
from pika_balancer.clock import Clock
from pika_balancer.dispatch.handle import REFERENCE
from pika_balancer.errors import InvalidArgument, InvalidResponse, NotFound, PikaError
from pika_balancer.models import Job, Lease

AT_ONCE: Final = 8
"""How many jobs are asked after at the same time at most."""
_FIRST_LOOK: Final = 2.0
_SPREAD: Final = 0.2


class Lookout:
    """Keeps a balancer's counts true to what executes upstream, whoever submitted it.

    Looks every so often for as long as somebody else's job is counted or somebody seeks a job of theirs, and
    not at all otherwise. Everything that the balancer has adopted and that is not `known` counts as somebody
    else's, whoever adopted it: what one lookout leaves behind, the next takes over.

    Args:
        client: Asks the service.
        balancer: Keeps the books.
        known: Tells whether an id is that of a job that is followed already.
        claim: Is told of every other job; returns whether it takes care of it.
        refused: Is told of looks that failed; returns whether there is no sense in any more.
        lost_for: Seconds for which a slot is left alone that somebody keeps for a job of unknown id.
        every: Seconds between two looks.
        rng: Spreads the looks.
        clock: Measures the seconds.
    """

    def __init__(
        self,
        client: PikaClient,
        balancer: Balancer,
        *,
        known: Callable[[str], bool],
        claim: Callable[[Job], Awaitable[bool]],
        refused: Callable[[PikaError], bool],
        lost_for: float,
        every: float,
        rng: random.Random,
        clock: Clock,
    ) -> None:
        self._client = client
        self._balancer = balancer
        self._known = known
        self._claim = claim
        self._refused = refused
        self.every = every
        self._rng = rng
        self._clock = clock
        self._lost_for = lost_for
        self._asked: set[str] = set()
        self._kept_since: dict[str, float] = {}
        self._seekers = 0
        self._looking = asyncio.Lock()
        self._looked: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.complete_since = -1.0

    every: float
    """Seconds between two looks, give or take a fifth."""
    complete_since: float
    """When the last look began that saw all there was to see, on the clock; negative before the first."""

    async def look(self) -> None:
        """Ask what executes: count what is not counted, give back what has ended.

        Raises:
            PikaError: The service did not tell all; what it told is counted.
        """
        async with self._looking:
            began = self._clock.now()
            counted = self._others()
            executing = set(await self._client.jobs())
            for key in counted - executing:
                if self._is_over(key, began):
                    await self.drop(key)
            self._asked &= executing
            self._kept_since = {key: since for key, since in self._kept_since.items() if key in counted}
            unasked = deque(sorted(jobid for jobid in executing if self._is_new(jobid)))
            unseen: list[PikaError] = []

            async def ask() -> None:
                while unasked:
                    try:
                        await self._ask(unasked.popleft())
                    except PikaError as error:
                        unseen.append(error)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(unasked))):
                    group.create_task(ask())
            if not unseen:
                self.complete_since = began
                self._tell()
        self._begin()
        # A job that is told in a broken way must not keep anybody from starting, for it may stay so.
        for error in unseen:
            if not isinstance(error, InvalidResponse):
                raise error

    async def count(self, channel: str, jobids: Iterable[str]) -> None:
        """Count jobs that fill the channel, until it is full without the slot of whoever was refused."""
        for jobid in jobids:
            if self.is_full(channel):
                break
            if not self._known(jobid):
                await self.adopt(channel, jobid)
        self._begin()

    async def watch(self, channel: str, jobid: str) -> None:
        """Count the job on the channel until it is over."""
        await self.adopt(channel, jobid)
        self._begin()

    def is_full(self, channel: str) -> bool:
        """Return whether the books have the channel full, not counting the slot of whoever was refused."""
        accounts = self._balancer.snapshot().accounts
        return all(account.in_flight > account.max_jobs for account in accounts if account.channel == channel)

    async def adopt(self, channel: str, jobid: str) -> Lease | None:
        """Count the job on the channel, and nowhere else; None if others count it elsewhere."""
        try:
            return await self._balancer.adopt(channel, jobid)
        except InvalidArgument:
            elsewhere = self._balancer.adopted().get(jobid)
        if elsewhere is None:
            return None
        # An account's refusal may list jobs of other accounts.
        await self._balancer.release(elsewhere)
        return await self._balancer.adopt(channel, jobid)

    async def drop(self, key: str) -> None:
        """Count the job no longer as somebody else's, if it was."""
        self._kept_since.pop(key, None)
        lease = self._balancer.adopted().get(key)
        if lease is not None:
            await self._balancer.release(lease)

    def ask_again(self) -> None:
        """Ask after everything anew: a job of ours may be among what was taken for others'."""
        self._asked.clear()

    def forsake(self, key: str) -> None:
        """Give a slot that was kept for a job of unknown id back with the next look that works."""
        self._kept_since[key] = -math.inf

    async def complete(self, since: float) -> None:
        """Return once a look that began after `since` has seen everything. Looks until then."""
        self._seekers += 1
        self._begin()
        try:
            while self.complete_since <= since:
                if self._looked is None:
                    self._looked = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._looked])
        finally:
            self._seekers -= 1

    async def close(self) -> None:
        """Look no more. What is counted stays counted."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _others(self) -> set[str]:
        return {jobid for jobid in self._balancer.adopted() if not self._known(jobid)}

    def _is_over(self, key: str, now: float) -> bool:
        """Return whether a slot is free whose job does not execute."""
        if not key.startswith(REFERENCE):
            return True
        # Its job may yet appear, and whoever keeps it may yet resume it here.
        return now - self._kept_since.setdefault(key, now) >= self._lost_for

    def _is_new(self, jobid: str) -> bool:
        return jobid not in self._asked and not self._known(jobid)

    async def _ask(self, jobid: str) -> None:
        """Find out whose job it is, and see to it that it is counted."""
        try:
            job = await self._client.job(jobid)
        except NotFound:
            return
        if job.ended or not self._is_new(jobid):
            return
        try:
            claimed = await self._claim(job)
        except InvalidArgument:
            claimed = True  # counted where it is not: somebody who shares the store sees to it
        if not claimed and job.channel is not None:
            await self.adopt(job.channel, jobid)
            self._asked.add(jobid)

    def _begin(self) -> None:
        if (self._seekers or self._others()) and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        pause = min(_FIRST_LOOK, self.every)
        failed = False
        while failed or self._seekers or self._others():
            await self._clock.sleep(pause * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD))
            try:
                await self.look()
            except PikaError as error:
                if self._refused(error):
                    return
                failed = True
            else:
                failed = False
            pause = self.every

    def _tell(self) -> None:
        looked, self._looked = self._looked, None
        if looked is not None and not looked.done():
            looked.set_result(None)
