"""What the service says is executing, compared with the books: others' jobs are counted, lost ones found."""

import asyncio
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import Clock
from pika_balancer.dispatch.handle import REFERENCE
from pika_balancer.errors import InvalidArgument, InvalidResponse, NotFound, PikaError
from pika_balancer.models import Job, Lease, Orphan

AT_ONCE: Final = 8
"""How many jobs are asked after at the same time at most."""
_FIRST_LOOK: Final = 2.0
_SPREAD: Final = 0.2


class Reconciler:
    """Keeps a balancer's counts true to what executes upstream, whoever submitted it.

    Looks every so often for as long as somebody else's job is counted, a shared store has orphans, or
    somebody seeks a job of theirs, and not at all otherwise. Everything that the balancer has adopted and
    that is not `known` counts as somebody else's, whoever adopted it: what one lookout leaves behind, the
    next takes over.

    So it goes with what a dead process leaves in a shared store. An orphan that has a key is adopted, and is
    somebody else's job from then on. One that has none, since its process died before it had told the job's
    id, is given up after `lost_for`, by a look that has everything that executes counted by its own id.

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
        search_for: float,
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
        self._search_for = search_for
        self._asked: set[str] = set()
        self._inherited: set[str] = set()
        self._kept_since: dict[str, float] = {}
        self._seekers = 0
        self._closed = False
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
            # Before it looks: what was an orphan then was submitted by somebody who was dead already.
            nameless = await self._inherit()
            began = self._clock.now()
            counted = self._others()
            executing = set(await self._client.jobs())
            for key in counted - executing:
                if await self._is_over(key, began):
                    await self.drop(key)
            # What is not counted any more, and executes, is asked after once more.
            self._asked &= executing & self._others()
            self._inherited &= counted
            self._kept_since = {key: since for key, since in self._kept_since.items() if key in counted}
            unasked = sorted(jobid for jobid in executing if self._is_new(jobid))
            unseen, all_counted = await self._ask_after(unasked)
            if not unseen:
                self.complete_since = began
                self._tell()
                if nameless and all_counted:
                    await self._balancer.store.give_up(nameless)
        self.begin()
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
        self.begin()

    async def watch(self, channel: str, jobid: str) -> None:
        """Count the job on the channel until it is over."""
        await self.adopt(channel, jobid)
        self.begin()

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

    def stop_searching(self, key: str) -> None:
        """Give a slot that was kept for a job of unknown id back with the next look that works."""
        self._kept_since[key] = -math.inf

    async def complete(self, since: float) -> None:
        """Return once a look that began after `since` has seen everything. Looks until then."""
        self._seekers += 1
        self.begin()
        try:
            while self.complete_since <= since:
                if self._looked is None:
                    self._looked = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._looked])
        finally:
            self._seekers -= 1

    async def close(self) -> None:
        """Look no more. What is counted stays counted."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _others(self) -> set[str]:
        return {jobid for jobid in self._balancer.adopted() if not self._known(jobid)}

    async def _is_over(self, key: str, now: float) -> bool:
        """Return whether a slot is free whose job does not execute."""
        if not key.startswith(REFERENCE):
            if key not in self._inherited:
                return True
            # Nobody here has seen it execute: it may have been taken a moment ago.
            try:
                return (await self._client.job(key)).ended
            except NotFound:
                pass
            except PikaError:
                return False
        # Its job may yet appear, and whoever keeps it may yet resume it here.
        return now - self._kept_since.setdefault(key, now) >= self._search_for

    def _is_new(self, jobid: str) -> bool:
        return jobid not in self._asked and not self._known(jobid)

    async def _ask_after(self, jobids: Iterable[str]) -> tuple[list[PikaError], bool]:
        """Ask after all of them; return the errors that there were, and whether every job is counted now."""
        unasked, unseen = deque(jobids), list[PikaError]()
        all_counted = True

        async def ask() -> None:
            nonlocal all_counted
            while unasked:
                try:
                    if not await self._ask(unasked.popleft()):
                        all_counted = False
                except PikaError as error:
                    unseen.append(error)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(unasked))):
                group.create_task(ask())
        return unseen, all_counted and not unseen

    async def _ask(self, jobid: str) -> bool:
        """Find out whose job it is, and see to it that it is counted; return whether it is, or has ended."""
        try:
            job = await self._client.job(jobid)
        except NotFound:
            return False
        if job.ended or not self._is_new(jobid):
            return True
        try:
            claimed = await self._claim(job)
        except InvalidArgument:
            claimed = True  # counted where it is not: somebody who shares the store sees to it
        if claimed:
            return True
        if job.channel is None:
            return False
        await self.adopt(job.channel, jobid)
        self._asked.add(jobid)
        if job.reply_ref is not None and not self._known(REFERENCE + job.reply_ref):
            # Counted by its id, it needs no slot by its reference any more.
            await self.drop(REFERENCE + job.reply_ref)
        return True

    async def _inherit(self) -> list[Orphan]:
        """Adopt the store's orphans; return those that cannot be and have been dead for long enough."""
        nameless: list[Orphan] = []
        for orphan in await self._balancer.store.orphans():
            if orphan.key is None:
                if orphan.dead_for >= self._search_for:
                    nameless.append(orphan)
            elif not self._known(orphan.key):
                self._inherited.add(orphan.key)
                if orphan.key.startswith(REFERENCE):
                    self.ask_again()
                await self.adopt(orphan.channel, orphan.key)
        return nameless

    def begin(self) -> None:
        """Look from now on, every so often, if there is a reason to."""
        if self._has_reason() and not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    def _has_reason(self) -> bool:
        return bool(self._seekers or self._others()) or self._balancer.store.shared

    async def _run(self) -> None:
        pause = min(_FIRST_LOOK, self.every)
        failed = False
        while failed or self._has_reason():
            await self._clock.sleep(pause * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD))
            try:
                # Where there is nothing but the chance of orphans, the store is asked first.
                if failed or self._seekers or self._others() or await self._balancer.store.orphans():
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
