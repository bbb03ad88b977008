"""Leases for whoever waits their turn: time limits, refresh, drain, and an eye on what is never given back.

What is in flight, and the line in front of it, live in a store. This room adds what belongs to one process:
leases as context managers, the account map kept up to date, who holds what since when, and an orderly end.
It knows nothing of HTTP: the account map comes from anything that has `accounts()`.
"""

import asyncio
import logging
import math
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self

from pika_balancer.clock import Clock, SystemClock
from pika_balancer.errors import Closed, ForeignLease, InvalidArgument
from pika_balancer.holders import Holder, Place, Statistics, Waiter, Watched, describe
from pika_balancer.leasing import LeaseContext, check_timeout, in_use
from pika_balancer.models import Account, Explanation, Lease, Shortage, Snapshot
from pika_balancer.policy import Weights
from pika_balancer.refresh import AccountSource, Refresher
from pika_balancer.store.base import Store
from pika_balancer.store.memory import MemoryStore

log = logging.getLogger(__name__)


class Balancer:
    """Hand out slots of several accounts, first come, first served, never above a cap.

    For one event loop. Open it with `async with`, or just use it; `close` it at the end.

    Args:
        accounts: The account map's values, in its order; None leaves the map of a given store as it is.
        store: Where in-flight counts live; a new `MemoryStore` by default.
        source: Anything with an async `accounts()`, read by `refresh`.
        refresh_every: Seconds between refreshes in the background; None for none.
        policy: For the default store: a name from `POLICIES` or a function from candidates to weights.
        rng: For the default store: source of chance.
        clock: Measures time-outs, rests, ages and the refresh interval.

    Raises:
        InvalidArgument: An argument cannot work; `field` names it.
    """

    def __init__(
        self,
        accounts: Iterable[Account] | None = None,
        *,
        store: Store | None = None,
        source: AccountSource | None = None,
        refresh_every: float | None = None,
        policy: str | Weights = "random",
        rng: random.Random | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._now = self._clock.now
        self._refresher = Refresher(source, refresh_every, self.update, self._clock)
        if store is not None and (policy != "random" or rng is not None):
            raise InvalidArgument("policy and rng belong to the store that was passed in", field="store")
        if store is None:
            store = MemoryStore(accounts or (), rng=rng, policy=policy, clock=self._clock)
            accounts = None
        self._unsent = None if accounts is None else list(accounts)
        self._opening = asyncio.Lock()
        self._store = store
        self._try_acquire: Callable[[str | None], Lease | None] = store.try_acquire
        self._is_open = False
        self._ended: str | None = None
        self._held: dict[int | str, LeaseContext | Watched] = {}
        self._waiting: dict[LeaseContext, None] = {}
        self._owed: set[asyncio.Future[None]] = set()
        self._leaked = 0
        self._drainers: list[asyncio.Future[None]] = []

    @classmethod
    async def from_client(
        cls,
        client: AccountSource,
        *,
        refresh_every: float | None = None,
        store: Store | None = None,
        policy: str | Weights = "random",
        rng: random.Random | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Fetch the account map and return an open balancer over it; the arguments are the constructor's.

        Raises:
            PikaError: The account map could not be fetched.
        """
        balancer = cls(
            (await client.accounts()).values(),
            store=store,
            source=client,
            refresh_every=refresh_every,
            policy=policy,
            rng=rng,
            clock=clock,
        )
        await balancer._open()
        return balancer

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def lease(self, channel: str | None = None, timeout: float | None = None) -> LeaseContext:
        """Return a context manager that holds a slot: `async with balancer.lease() as lease: ...`.

        Args:
            channel: The only channel that will do; None for any.
            timeout: Seconds to wait at most; 0 to take what is free now or fail; None to wait for ever.

        Entering raises:
            NoCapacity: No slot in time, with the reason; at once where there are no accounts at all.
            UnknownChannel: No account has that channel.
            Closed: The balancer is closed or drains.
        """
        frame = sys._getframe(1)
        return LeaseContext(self, channel, timeout, (frame.f_code, frame.f_lasti))

    def acquire(self, channel: str | None = None, timeout: float | None = None) -> Coroutine[Any, Any, Lease]:
        """Wait for a slot and return its lease, to be given to `release`; arguments and errors as `lease`.

        A lease that is dropped without a release is reported with the place that took it, and taken back.
        """
        frame = sys._getframe(1)
        return self._acquire(LeaseContext(self, channel, timeout, (frame.f_code, frame.f_lasti)))

    async def release(self, lease: Lease) -> None:
        """Give the slot back, to the first in line if there is one; a second time does nothing.

        Raises:
            ForeignLease: The lease was granted by somebody else, another balancer of the same store included.
        """
        owed = self._give_back(lease)
        if owed is not None:
            await asyncio.shield(self._see_to(owed))

    async def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that already runs upstream, even past the cap, and return its lease.

        The same key, usually the job's id, returns the same lease for as long as it is held.
        """
        frame = sys._getframe(1)
        await self._open()
        lease = await self._store.adopt(channel, key)
        if lease.id not in self._held:
            self._watch(lease, (frame.f_code, frame.f_lasti))
        return lease

    async def pause(self, channel: str) -> None:
        """Give the channel no new job until `resume`; its running ones keep their slots."""
        await self._open()
        await self._store.pause(channel)

    async def rest(self, channel: str, seconds: float) -> None:
        """Give the channel no new job for so many seconds from now."""
        if not 0 <= seconds < math.inf:
            raise InvalidArgument("seconds must be finite and 0 or more; pause has no end", field="seconds")
        await self._open()
        await self._store.rest(channel, self._now() + seconds)

    async def resume(self, channel: str) -> None:
        """End a pause and a rest of the channel at once."""
        await self._open()
        await self._store.resume(channel)

    async def update(self, accounts: Iterable[Account]) -> None:
        """Take over a new account map by difference; what is in flight stays counted.

        Who waits for a channel that is gone, or for any when all are gone, gets `NoCapacity`.
        """
        await self._open()
        await self._store.update(accounts)

    async def refresh(self) -> None:
        """Read the account map from the source and take it over.

        Raises:
            PikaError: The source failed; the old map stays.
            InvalidArgument: The balancer has no source.
        """
        await self._refresher.once()

    def snapshot(self) -> Snapshot:
        """Return the books at this moment."""
        return self._store.snapshot()

    def explain(self) -> dict[str, Explanation]:
        """Return per account whether the next pick could choose it, and how probably."""
        return self._store.explain()

    def shortage(self, channel: str | None = None) -> Shortage | None:
        """Return why nothing can be had right now; None if something can."""
        return self._store.shortage(channel)

    def statistics(self) -> Statistics:
        """Return the books, who holds what since when, who waits, and what went wrong so far."""
        now = self._now()
        snapshot = self._store.snapshot()
        return Statistics(
            snapshot=snapshot,
            holders=tuple(
                Holder(lease_id, holding.channel, now - holding.since, describe(holding.place))
                for lease_id, holding in self._held.items()
            ),
            waiters=tuple(
                Waiter(waiting.wish, now - waiting.since, describe(waiting.place))
                for waiting in self._waiting
            ),
            leaked=self._leaked,
            refresh_failures=self._refresher.failures,
        )

    async def drain(self, timeout: float | None = None) -> bool:
        """Grant nothing more and wait until every lease is back; return whether that came about in time.

        Whoever waits in line gets `Closed`. There is no way back: make a new balancer.

        Args:
            timeout: Seconds to wait at most; None to wait for ever.
        """
        check_timeout(timeout)
        self._end("drains")
        await self._refresher.stop()
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            self._stir()

        timer = self._clock.call_later(timeout, expire) if timeout is not None else None
        try:
            # A waiter may have its grant already without having run to take note of it.
            while (self._held or self._waiting or self._owed) and not expired:
                stirred: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._drainers.append(stirred)
                try:
                    await stirred
                finally:
                    self._drainers.remove(stirred)
        finally:
            if timer is not None:
                timer.cancel()
        return not (self._held or self._waiting or self._owed)

    async def close(self) -> None:
        """Grant nothing more, stop refreshing; leases that are out can still be released.

        Whoever waits in line gets `Closed`. A second time does nothing.
        """
        self._end("is closed")
        await self._refresher.stop()
        if self._owed:
            await asyncio.wait(self._owed)
        await self._store.close()

    def __repr__(self) -> str:
        books = self._store.snapshot()
        return (
            f"<Balancer {self._ended or 'of'} {len(books.accounts)} accounts, "
            f"{books.in_flight} of {books.capacity} in flight, {len(self._waiting)} waiting>"
        )

    async def _open(self) -> None:
        self._refuse_if_ended()
        if self._is_open:
            return
        # One at a time: the first map has to arrive before anything that is built on it.
        async with self._opening:
            if self._unsent is not None:
                await self._store.update(self._unsent)
                self._unsent = None
            self._refuse_if_ended()
            if not self._is_open:
                self._is_open = True
                self._refresher.start()

    def _refuse_if_ended(self) -> None:
        if self._ended is not None:
            raise Closed(f"this balancer {self._ended} and grants nothing more; make a new one")

    def _end(self, how: str) -> None:
        self._is_open = False
        self._ended = how
        self._store.dismiss(lambda: Closed(f"this balancer {how}; nobody in line is served any more"))

    async def _acquire(self, wish: LeaseContext) -> Lease:
        lease = self._try_acquire(wish.wish) if self._is_open else None
        if lease is None:
            lease = await self._wait(wish)
        self._watch(lease, wish.place)
        return lease

    async def _wait(self, wish: LeaseContext) -> Lease:
        wish.since = self._now()
        deadline = None if wish.timeout is None else wish.since + wish.timeout
        if not self._is_open:
            await self._open()
        if wish in self._waiting:
            raise in_use()
        self._waiting[wish] = None
        try:
            return await self._store.acquire(wish.wish, deadline)
        finally:
            del self._waiting[wish]
            if self._drainers:
                self._stir()

    def _give_back(self, lease: Lease) -> Awaitable[None] | None:
        if lease.held and lease.id not in self._held:
            raise ForeignLease("this lease was granted elsewhere; release it where it was acquired")
        owed = self._store.release(lease)
        self._held.pop(lease.id, None)
        if self._drainers:
            self._stir()
        return owed

    def _stir(self) -> None:
        """Have whoever drains look again, after everybody else who is ready has run."""
        for drainer in self._drainers:
            _done(drainer)

    def _see_to(self, owed: Awaitable[None]) -> asyncio.Future[None]:
        # Somebody has to hold on to it: a release must reach its store even if the releaser is cancelled.
        task = asyncio.ensure_future(owed)
        self._owed.add(task)
        task.add_done_callback(self._arrived)
        return task

    def _arrived(self, task: asyncio.Future[None]) -> None:
        self._owed.discard(task)
        self._stir()

    def _watch(self, lease: Lease, place: Place) -> None:
        loop = asyncio.get_running_loop()

        def lost(watched: Watched) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._reclaim, watched)

        self._held[lease.id] = Watched(lease, self._now(), place, lost)

    def _reclaim(self, watched: Watched) -> None:
        if watched.lease_id not in self._held:
            return
        self._leaked += 1
        log.warning(
            "lease %r on channel %r was dropped without a release after %.1f s; "
            "it was taken at %s and its slot is free again",
            watched.lease_id,
            watched.channel,
            self._now() - watched.since,
            describe(watched.place),
        )
        owed = self._give_back(watched.stand_in())
        if owed is not None:
            self._see_to(owed)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
