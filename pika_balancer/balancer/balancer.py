"""Leases for whoever waits their turn: time limits, refresh, drain, and an eye on what is never given back.

What is in flight, and the line in front of it, live in a store. This room adds what belongs to one process:
leases as context managers, the account map kept up to date, who holds what since when, and an orderly end.
It knows nothing of HTTP: the account map comes from anything that has `accounts()`.
"""

import asyncio
import contextlib
import math
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import CodeType, FrameType, TracebackType
from typing import Any, Final, Protocol, Self

from pika_balancer import events
from pika_balancer._util.tasks import Drain
from pika_balancer.balancer.held import (
    AdoptedLease,
    LeakGuard,
    Place,
    Statistics,
    adopted,
    describe,
    is_adopted,
    is_revoked,
    released,
)
from pika_balancer.balancer.refresh import AccountSource, Refresher
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.errors import Closed, ForeignLease, InvalidArgument, WrongLoop
from pika_balancer.events import Observer, Reporter
from pika_balancer.models import Account, Explanation, Lease, Snapshot, Unavailability, guarded
from pika_balancer.selection.policy import Weights
from pika_balancer.store.base import Store
from pika_balancer.store.memory import MemoryStore

_LONGEST: Final = sys.float_info.max
# `int | float` in its place would make a new object at every lease with a time limit.
_NUMBER: Final = (int, float)


class Desk(Protocol):
    """What a lease context needs of its balancer; see there."""

    _is_open: bool
    _observed: bool
    _held: dict[int | str, Any]
    _now: Callable[[], float]
    _try_acquire: Callable[[str | None], Lease | None]
    _release: Callable[[Lease], Awaitable[None] | None]
    _drain: Drain

    async def _wait(self, wish: "LeaseContext") -> Lease: ...

    def _granted(self, lease: Lease) -> None: ...

    def _give_back(self, lease: Lease) -> Awaitable[None] | None: ...

    def _track(self, owed: Awaitable[None]) -> asyncio.Future[None]: ...


class LeaseContext:
    """`async with` this to hold a slot; made by `Balancer.lease`."""

    # While it waits and while it holds, it is also its own entry in the balancer's lists of who does.
    __slots__ = ("_balancer", "_code", "_instruction", "lease", "since", "timeout", "wish")

    _balancer: Desk
    _code: CodeType
    _instruction: int
    wish: str | None
    """The only channel that will do; None for any."""
    timeout: float | None
    """Seconds to wait at most; None for ever."""
    lease: Lease | None
    """What it holds, while it does."""
    since: float
    """When it began to wait or to hold, on the balancer's clock."""

    @property
    def place(self) -> Place:
        """Where in the source it was asked for."""
        return self._code, self._instruction

    @property
    def channel(self) -> str:
        """The channel on which the slot is, while it is held."""
        return self.lease.channel if self.lease is not None else ""

    async def __aenter__(self) -> Lease:
        """Wait for a slot and take it."""
        balancer = self._balancer
        if self.lease is not None:
            raise in_use()
        lease = balancer._try_acquire(self.wish) if balancer._is_open else None
        if lease is None:
            lease = await balancer._wait(self)
        elif balancer._observed:
            balancer._granted(lease)
        self.lease = lease
        self.since = balancer._now()
        balancer._held[lease.id] = self
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the slot back."""
        lease, self.lease = self.lease, None
        if lease is None:
            return
        balancer = self._balancer
        if lease.held and not balancer._observed:
            # Balancer._give_back, without the calls: this is the hot path.
            owed = balancer._release(lease)
            del balancer._held[lease.id]
            if balancer._drain.waiting:
                balancer._drain.notify()
        else:
            owed = balancer._give_back(lease)
        if owed is not None:
            sent = balancer._track(owed)
            # An abandoned coroutine that is being closed may not wait for anything.
            if kind is not GeneratorExit:
                await asyncio.shield(sent)


_NEW: Final = object.__new__


def context(balancer: Desk, wish: str | None, timeout: float | None, frame: FrameType) -> LeaseContext:
    """Return a new lease context, asked for in that frame.

    Raises:
        InvalidArgument: `timeout` is not a number of seconds to wait.
    """
    if timeout is not None:
        check_timeout(timeout)
    # Not a constructor: a call of the class would cost half as much again as a whole uncontended semaphore.
    made = _NEW(LeaseContext)
    made._balancer = balancer
    made.wish = wish
    made.timeout = timeout
    made._code = frame.f_code
    made._instruction = frame.f_lasti
    made.lease = None
    return made


def in_use() -> InvalidArgument:
    """Return the error for a context that is entered a second time before it was left."""
    return InvalidArgument("this lease context is in use; call lease() once per `async with`")


def check_timeout(timeout: object) -> None:
    """Raise `InvalidArgument` unless `timeout` is None or a number of seconds to wait."""
    if timeout is not None and not (isinstance(timeout, _NUMBER) and 0 <= timeout <= _LONGEST):
        raise InvalidArgument(
            "timeout must be a number of seconds, 0 or more; None waits for ever", field="timeout"
        )


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
        observer: Is told every event; see `pika_balancer.events`.

    Attributes:
        reporter: Tells events to that observer and to the log; for whoever builds on this balancer.
        store: Where in-flight counts live.

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
        observer: Observer | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._now = self._clock.now
        self.reporter = Reporter(observer)
        # Apart from the reporter: at a grant nothing is told, or even made, for nobody.
        self._observed = observer is not None
        self._refresher = Refresher(source, refresh_every, self.update, self._clock, self.reporter)
        if store is not None and (policy != "random" or rng is not None):
            raise InvalidArgument("policy and rng belong to the store that was passed in", field="store")
        if store is None:
            store = MemoryStore(accounts or (), rng=rng, policy=policy, clock=self._clock)
            accounts = None
        self._unsent = None if accounts is None else list(accounts)
        self._opening = asyncio.Lock()
        self.store: Store = store
        store.attach(self.reporter)
        self._try_acquire: Callable[[str | None], Lease | None] = store.try_acquire
        self._release: Callable[[Lease], Awaitable[None] | None] = store.release
        self._is_open, self._leaked = False, 0
        self._ended: str | None = None
        self._held: dict[int | str, LeaseContext | LeakGuard | AdoptedLease] = {}
        self._waiting: dict[LeaseContext, None] = {}
        self._drain = Drain(self._busy, self._clock)
        self._track = self._drain.track

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
        observer: Observer | None = None,
    ) -> Self:
        """Fetch the account map and return an open balancer over it; the arguments are the constructor's.

        Raises:
            PikaError: The account map could not be fetched.
        """
        accounts = (await client.accounts()).values()
        return await cls(
            accounts,
            store=store,
            source=client,
            refresh_every=refresh_every,
            policy=policy,
            rng=rng,
            clock=clock,
            observer=observer,
        ).__aenter__()

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException as error:
            if not isinstance(error, WrongLoop):  # else what is open is somebody else's
                await self.close()
            raise
        return self

    async def __aexit__(self, *_reason: object) -> None:
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
        return context(self, channel, timeout, sys._getframe(1))

    def acquire(self, channel: str | None = None, timeout: float | None = None) -> Coroutine[Any, Any, Lease]:
        """Wait for a slot and return its lease, to be given to `release`; arguments and errors as `lease`.

        A lease that is dropped without a release is reported with the place that took it, and taken back.
        """
        return self._acquire(context(self, channel, timeout, sys._getframe(1)))

    async def release(self, lease: Lease) -> None:
        """Give the slot back, to the first in line if there is one; a second time does nothing.

        Raises:
            ForeignLease: The lease was granted by somebody else, another balancer of the same store included.
        """
        if (owed := self._give_back(lease)) is not None:
            await asyncio.shield(self._track(owed))

    def release_nowait(self, lease: Lease) -> None:
        """Give the slot back as `release` does, without waiting until the store has heard of it."""
        if (owed := self._give_back(lease)) is not None:
            self._track(owed)

    async def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that already runs upstream, even past the cap, and return its lease.

        The same key, usually the job's id, returns the same lease for as long as it is held, to whoever
        shares the store. Works while the balancer drains or is closed, too: what runs, counts.
        """
        frame = sys._getframe(1)
        if self._ended is None:
            await self._open()
        lease = await self.store.adopt(channel, key)
        if not is_adopted(self._held, lease):
            self._held[lease.id] = AdoptedLease(lease, self._now(), (frame.f_code, frame.f_lasti))
            self.reporter.tell(events.Adopted(at=self._now(), channel=channel, jobid=key))
        return lease

    def adopted(self) -> dict[str, Lease]:
        """Return the leases that were adopted here and are still held, by their keys."""
        self._prune()
        return adopted(self._held)

    async def pause(self, channel: str) -> None:
        """Give the channel no new job until `resume`; its running ones keep their slots."""
        await self._open()
        await self.store.pause(channel)
        self.reporter.tell(events.Paused(at=self._now(), channel=channel))

    async def cool_down(self, channel: str, seconds: float) -> None:
        """Give the channel no new job for so many seconds from now; a longer rest stays as it is."""
        if not 0 <= seconds < math.inf:
            raise InvalidArgument("seconds must be finite and 0 or more; pause has no end", field="seconds")
        await self._open()
        await self.store.cool_down(channel, self._now() + seconds)
        self.reporter.tell(events.CoolingDown(at=self._now(), channel=channel, seconds=seconds))

    async def resume(self, channel: str) -> None:
        """End a pause and a rest of the channel at once."""
        await self._open()
        await self.store.resume(channel)
        self.reporter.tell(events.Resumed(at=self._now(), channel=channel))

    async def update(self, accounts: Iterable[Account]) -> None:
        """Take over a new account map by difference; what is in flight stays counted.

        Who waits for a channel that is gone, or for any when all are gone, gets `NoCapacity`.
        """
        await self._open()
        accounts = list(accounts)
        await self.store.update(accounts)
        self.reporter.tell(events.Refreshed(at=self._now(), accounts=len(accounts)))

    async def refresh(self) -> None:
        """Read the account map from the source and take it over.

        Raises:
            PikaError: The source failed; the old map stays.
            InvalidArgument: The balancer has no source.
        """
        await self._refresher.once()

    def snapshot(self) -> Snapshot:
        """Return the books at this moment."""
        return self.store.snapshot()

    def explain(self) -> dict[str, Explanation]:
        """Return per account whether the next pick could choose it, and how probably."""
        return self.store.explain()

    def why_unavailable(self, channel: str | None = None) -> Unavailability | None:
        """Return why nothing can be had right now; None if something can."""
        return self.store.why_unavailable(channel)

    def statistics(self) -> Statistics:
        """Return the books, who holds what since when, who waits, and what went wrong so far."""
        self._prune()
        return Statistics.of(
            self.store.snapshot(),
            self._held,
            self._waiting,
            self._now(),
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
        # A waiter may have its grant already without having run to take note of it.
        return await self._drain.wait(timeout)

    async def close(self) -> None:
        """Grant nothing more, stop refreshing; leases that are out can still be released.

        Whoever waits in line gets `Closed`. A second time does nothing.
        """
        self._end("is closed")
        # Whichever step is interrupted, those that come after it are taken.
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(self.store.close)
            steps.push_async_callback(self._drain.settle)
            await self._refresher.stop()

    @guarded
    def __repr__(self) -> str:
        books = self.store.snapshot()
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
                await self.store.update(self._unsent)
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
        self.store.fail_waiters(lambda: Closed(f"this balancer {how}; nobody in line is served any more"))

    async def _acquire(self, wish: LeaseContext) -> Lease:
        lease = self._try_acquire(wish.wish) if self._is_open else None
        if lease is None:
            lease = await self._wait(wish)
        elif self._observed:
            self._granted(lease)
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
            lease = await self.store.acquire(wish.wish, deadline)
        except BaseException as error:
            if self._observed:
                now, why = self._now(), type(error).__name__
                waited = now - wish.since
                self.reporter.tell(events.Unserved(at=now, channel=wish.wish, waited=waited, why=why))
            raise
        finally:
            del self._waiting[wish]
            if self._drain.waiting:
                self._drain.notify()
        if self._observed:
            self._granted(lease, self._now() - wish.since)
        return lease

    def _granted(self, lease: Lease, waited: float = 0.0) -> None:
        event = events.Acquired(at=self._now(), channel=lease.channel, lease_id=lease.id, waited=waited)
        self.reporter.tell(event)

    def _busy(self) -> bool:
        """Return whether a lease is out or somebody waits."""
        self._prune()
        return bool(self._held or self._waiting)

    def _prune(self) -> None:
        """Forget adopted leases that another balancer of the same store has given back."""
        for lease in released(self._held):
            self._strike(lease)

    def _give_back(self, lease: Lease) -> Awaitable[None] | None:
        if not lease.held:
            if is_adopted(self._held, lease) or is_revoked(self._held, lease):
                self._strike(lease)
            return None
        if lease.id not in self._held:
            raise ForeignLease(
                "this lease was granted elsewhere; release it where it was acquired", channel=lease.channel
            )
        owed = self._release(lease)
        self._strike(lease)
        if self._drain.waiting:
            self._drain.notify()
        return owed

    def _strike(self, lease: Lease) -> None:
        holding = self._held.pop(lease.id)
        if isinstance(holding, LeakGuard):
            holding.forget()
        if self._observed:
            now = self._now()
            held = now - holding.since
            event = events.Released(at=now, channel=lease.channel, lease_id=lease.id, held=held)
            self.reporter.tell(event)

    def _watch(self, lease: Lease, place: Place) -> None:
        loop = asyncio.get_running_loop()

        def is_revoked(watched: LeakGuard) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._reclaim, watched)

        self._held[lease.id] = LeakGuard(lease, self._now(), place, is_revoked)

    def _reclaim(self, watched: LeakGuard) -> None:
        if watched.lease_id not in self._held:
            return
        self._leaked += 1
        now = self._now()
        self.reporter.tell(
            events.Leaked(
                at=now,
                channel=watched.channel,
                lease_id=watched.lease_id,
                held=now - watched.since,
                place=describe(watched.place),
            )
        )
        self.release_nowait(watched.stand_in())
