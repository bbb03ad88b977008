"""Leases with fair waiting, time limits, refresh of the account map, leak detection and drain.

A store keeps the in-flight counts and the wait queue. The balancer adds what belongs to one process: leases
as context managers, background refresh, the list of held leases, and an orderly end. It knows nothing of
HTTP: the account map comes from any object with `accounts()`.
"""

import asyncio
import contextlib
import math
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import CodeType, FrameType
from typing import Any, Final, Self

from pika_balancer import events
from pika_balancer._util.tasks import Drain
from pika_balancer.balancer.held import (
    AdoptedLease,
    Holder,
    LeakGuard,
    Place,
    Statistics,
    Waiter,
    adopted,
    describe,
    is_adopted,
    is_revoked,
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
# A constant: `int | float` in the check would create an object for every lease with a time limit.
_NUMBER: Final = (int, float)
_NEW: Final = object.__new__
_IN_USE: Final = "this lease context is in use; call lease() once per `async with`"


class LeaseContext:
    """Context manager that holds a slot; made by `Balancer.lease`."""

    # It doubles as the balancer's record of a waiter and of a held lease: one object per lease, not three.
    __slots__ = ("_balancer", "_code", "_instruction", "lease", "since", "timeout", "wanted")

    _balancer: "Balancer"
    _code: CodeType
    _instruction: int
    wanted: str | None
    """The only acceptable channel; None for any."""
    timeout: float | None
    """Maximum wait in seconds; None waits forever."""
    lease: Lease | None
    """The lease while it is held."""
    since: float
    """Start of the wait or of the lease, on the balancer's clock."""

    @property
    def place(self) -> Place:
        """Source position of the call."""
        return self._code, self._instruction

    @property
    def channel(self) -> str:
        """The channel of the slot while it is held, else an empty string."""
        return self.lease.channel if self.lease is not None else ""

    async def __aenter__(self) -> Lease:
        """Wait for a slot and take it."""
        balancer = self._balancer
        if self.lease is not None:
            raise InvalidArgument(_IN_USE)
        lease = balancer._try_acquire(self.wanted) if balancer._is_open else None
        if lease is None:
            lease = await balancer._wait(self)
        elif balancer._observed:
            balancer._granted(lease)
        self.lease = lease
        self.since = balancer._now()
        balancer._held[lease.id] = self
        return lease

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Give the slot back."""
        lease, self.lease = self.lease, None
        if lease is None:
            return
        balancer = self._balancer
        if lease.held and not balancer._observed:
            # Balancer._give_back inlined: this is the hot path.
            owed = balancer._release(lease)
            del balancer._held[lease.id]
            if balancer._drain.waiting:
                balancer._drain.notify()
        else:
            owed = balancer._give_back(lease)
        if owed is not None:
            sent = balancer._track(owed)
            # A coroutine that is being closed must not await.
            if kind is not GeneratorExit:
                await asyncio.shield(sent)


def context(
    balancer: "Balancer", channel: str | None, timeout: float | None, frame: FrameType
) -> LeaseContext:
    """Return a lease context for a call made in `frame`; check `timeout`."""
    if timeout is not None:
        check_timeout(timeout)
    # Bypasses the constructor, whose call would cost half of a whole uncontended `asyncio.Semaphore`.
    made = _NEW(LeaseContext)
    made._balancer = balancer
    made.wanted = channel
    made.timeout = timeout
    made._code = frame.f_code
    made._instruction = frame.f_lasti
    made.lease = None
    return made


def check_timeout(timeout: object) -> None:
    """Raise `InvalidArgument` unless `timeout` is None or a number of seconds."""
    if timeout is not None and not (isinstance(timeout, _NUMBER) and 0 <= timeout <= _LONGEST):
        raise InvalidArgument(
            "timeout must be a number of seconds, 0 or more; None waits forever", field="timeout"
        )


class Balancer:
    """Grant slots of several accounts in order of arrival, never above a cap.

    For one event loop. Use it with `async with`, or call `close` at the end.

    Args:
        accounts: The values of the account map, in its order; None keeps the map of the given store.
        store: Keeps the in-flight counts; a new `MemoryStore` by default.
        source: Object with an async `accounts()`, read by `refresh`.
        refresh_every: Seconds between background refreshes; None for none.
        policy: For the default store: a name from `POLICIES`, or a function from candidates to weights.
        rng: For the default store: source of randomness.
        clock: Measures time limits, cooldowns, ages and the refresh interval.
        observer: Called with every event; see `pika_balancer.events`.

    Attributes:
        reporter: Passes events to the observer and to the log.
        store: Keeps the in-flight counts.

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
        # Without an observer a grant creates no event.
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
        """Fetch the account map and return an open balancer; arguments as for the constructor.

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
            if not isinstance(error, WrongLoop):  # the store is open in another event loop
                await self.close()
            raise
        return self

    async def __aexit__(self, *_reason: object) -> None:
        await self.close()

    def lease(self, channel: str | None = None, timeout: float | None = None) -> LeaseContext:
        """Return a context manager that holds a slot: `async with balancer.lease() as lease: ...`.

        Args:
            channel: The only acceptable channel; None for any.
            timeout: Maximum wait in seconds; 0 takes a free slot or fails at once; None waits forever.

        Entering raises:
            NoCapacity: No slot was free in time; `reason` says why. At once if there are no accounts.
            UnknownChannel: No account has that channel.
            Closed: The balancer is closed or draining.
        """
        return context(self, channel, timeout, sys._getframe(1))

    def acquire(self, channel: str | None = None, timeout: float | None = None) -> Coroutine[Any, Any, Lease]:
        """Wait for a slot and return its lease; pass it to `release`. Arguments and errors as for `lease`.

        If the lease is garbage-collected unreleased, its slot is freed and a `Leaked` event names the caller.
        """
        return self._acquire(context(self, channel, timeout, sys._getframe(1)))

    async def release(self, lease: Lease) -> None:
        """Give the slot back, to the first waiter that can use it; a second release does nothing.

        Raises:
            ForeignLease: Another balancer granted the lease, even one of the same store.
        """
        if (owed := self._give_back(lease)) is not None:
            await asyncio.shield(self._track(owed))

    def release_nowait(self, lease: Lease) -> None:
        """Give the slot back as `release` does, without waiting for the store to confirm it."""
        if (owed := self._give_back(lease)) is not None:
            self._track(owed)

    async def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that the service already executes, even above the cap, and return its lease.

        The same key, usually the job's id, returns the same lease as long as it is held, to every balancer of
        the store. Works on a draining or closed balancer, too: the job holds its slot all the same.
        """
        frame = sys._getframe(1)
        if self._ended is None:
            await self._open()
        lease = await self.store.adopt(channel, key)
        if not is_adopted(self._held, lease):
            self._held[lease.id] = AdoptedLease(lease, self._now(), (frame.f_code, frame.f_lasti))
            self.reporter.report(events.Adopted(at=self._now(), channel=channel, jobid=key))
        return lease

    def adopted(self) -> dict[str, Lease]:
        """Return the held leases that this balancer adopted, by their keys."""
        self._prune()
        return adopted(self._held)

    async def pause(self, channel: str) -> None:
        """Give the channel no new job until `resume`; its jobs in flight keep their slots."""
        await self._open()
        await self.store.pause(channel)
        self.reporter.report(events.Paused(at=self._now(), channel=channel))

    async def cool_down(self, channel: str, seconds: float) -> None:
        """Give the channel no new job for `seconds` from now; a cooldown that lasts longer stays."""
        if not 0 <= seconds < math.inf:
            raise InvalidArgument(
                "seconds must be finite and 0 or more; for no end use pause", field="seconds"
            )
        await self._open()
        await self.store.cool_down(channel, self._now() + seconds)
        self.reporter.report(events.CoolingDown(at=self._now(), channel=channel, seconds=seconds))

    async def resume(self, channel: str) -> None:
        """End a pause and a cooldown of the channel at once."""
        await self._open()
        await self.store.resume(channel)
        self.reporter.report(events.Resumed(at=self._now(), channel=channel))

    async def update(self, accounts: Iterable[Account]) -> None:
        """Apply a new account map; jobs in flight stay counted.

        Waiters for a removed channel, or all waiters if no account is left, get `NoCapacity`.
        """
        await self._open()
        accounts = list(accounts)
        await self.store.update(accounts)
        self.reporter.report(events.Refreshed(at=self._now(), accounts=len(accounts)))

    async def refresh(self) -> None:
        """Read the account map from the source and apply it.

        Raises:
            PikaError: The source failed; the old map stays in use.
            InvalidArgument: The balancer has no source.
        """
        await self._refresher.once()

    def snapshot(self) -> Snapshot:
        """Return the in-flight counts."""
        return self.store.snapshot()

    def explain(self) -> dict[str, Explanation]:
        """Return each account's probability at the next pick, or why it cannot be picked."""
        return self.store.explain()

    def why_unavailable(self, channel: str | None = None) -> Unavailability | None:
        """Return why no slot is free now, on the channel or on any; None if one is."""
        return self.store.why_unavailable(channel)

    def statistics(self) -> Statistics:
        """Return the in-flight counts, this process's leases and waiters, and what went wrong so far."""
        self._prune()
        now = self._now()
        return Statistics(
            snapshot=self.store.snapshot(),
            holders=tuple(
                Holder(key, held.channel, now - held.since, describe(held.place))
                for key, held in self._held.items()
            ),
            waiters=tuple(Waiter(w.wanted, now - w.since, describe(w.place)) for w in self._waiting),
            leaked=self._leaked,
            refresh_failures=self._refresher.failures,
        )

    async def drain(self, timeout: float | None = None) -> bool:
        """Grant nothing more and wait until every lease is released; return False if time ran out.

        Waiters get `Closed`. A drained balancer cannot be used again.

        Args:
            timeout: Maximum wait in seconds; None waits forever.
        """
        check_timeout(timeout)
        self._end("is draining")
        await self._refresher.stop()
        # A waiter may have been granted a slot without having run since.
        return await self._drain.wait(timeout)

    async def close(self) -> None:
        """Grant nothing more and stop refreshing; held leases can still be released.

        Waiters get `Closed`. Closing twice does nothing.
        """
        self._end("is closed")
        # If one step is cancelled, the later ones still run.
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(self.store.close)
            steps.push_async_callback(self._drain.settle)
            await self._refresher.stop()

    @guarded
    def __repr__(self) -> str:
        snapshot = self.store.snapshot()
        return (
            f"<Balancer {self._ended or 'of'} {len(snapshot.accounts)} accounts, "
            f"{snapshot.in_flight} of {snapshot.capacity} in flight, {len(self._waiting)} waiting>"
        )

    async def _open(self) -> None:
        self._refuse_if_ended()
        # One at a time: the first map must arrive before anything else uses the store.
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
            raise Closed(f"this balancer {self._ended}; make a new one")

    def _end(self, how: str) -> None:
        self._is_open = False
        self._ended = how
        self.store.fail_waiters(lambda: Closed(f"this balancer {how}: closed while waiting"))

    async def _acquire(self, waiter: LeaseContext) -> Lease:
        lease = self._try_acquire(waiter.wanted) if self._is_open else None
        if lease is None:
            lease = await self._wait(waiter)
        elif self._observed:
            self._granted(lease)
        loop = asyncio.get_running_loop()

        def dropped(guard: LeakGuard) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._reclaim, guard)

        self._held[lease.id] = LeakGuard(lease, self._now(), waiter.place, dropped)
        return lease

    async def _wait(self, waiter: LeaseContext) -> Lease:
        waiter.since = self._now()
        deadline = None if waiter.timeout is None else waiter.since + waiter.timeout
        if not self._is_open:
            await self._open()
        if waiter in self._waiting:
            raise InvalidArgument(_IN_USE)
        self._waiting[waiter] = None
        try:
            lease = await self.store.acquire(waiter.wanted, deadline)
        except BaseException as error:
            if self._observed:
                now, why = self._now(), type(error).__name__
                waited = now - waiter.since
                self.reporter.report(events.Unserved(at=now, channel=waiter.wanted, waited=waited, why=why))
            raise
        finally:
            del self._waiting[waiter]
            if self._drain.waiting:
                self._drain.notify()
        if self._observed:
            self._granted(lease, self._now() - waiter.since)
        return lease

    def _granted(self, lease: Lease, waited: float = 0.0) -> None:
        event = events.Acquired(at=self._now(), channel=lease.channel, lease_id=lease.id, waited=waited)
        self.reporter.report(event)

    def _busy(self) -> bool:
        self._prune()
        return bool(self._held or self._waiting)

    def _prune(self) -> None:
        """Drop adopted leases that another balancer of the same store has released."""
        for lease in adopted(self._held).values():
            if not lease.held:
                self._forget(lease)

    def _give_back(self, lease: Lease) -> Awaitable[None] | None:
        if not lease.held:
            if is_adopted(self._held, lease) or is_revoked(self._held, lease):
                self._forget(lease)
            return None
        if lease.id not in self._held:
            raise ForeignLease("another balancer granted this lease; release it there", channel=lease.channel)
        owed = self._release(lease)
        self._forget(lease)
        if self._drain.waiting:
            self._drain.notify()
        return owed

    def _forget(self, lease: Lease) -> None:
        holding = self._held.pop(lease.id)
        if isinstance(holding, LeakGuard):
            holding.forget()
        if self._observed:
            now = self._now()
            self.reporter.report(
                events.Released(at=now, channel=lease.channel, lease_id=lease.id, held=now - holding.since)
            )

    def _reclaim(self, guard: LeakGuard) -> None:
        if guard.lease_id not in self._held:
            return
        self._leaked += 1
        now, lease = self._now(), guard.stand_in()
        held, place = now - guard.since, describe(guard.place)
        self.reporter.report(
            events.Leaked(at=now, channel=lease.channel, lease_id=lease.id, held=held, place=place)
        )
        self.release_nowait(lease)
