"""The store of one process: a `Selector` and a queue of futures.

Invariant between any two calls: no waiter could be served. Every change that may free a slot (a release, the
end of a cooldown, a resume, a new account map) grants it to the wait queue before it returns. A newcomer that
finds a free slot can therefore take it without checking the queue.
"""

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Sequence

from pika_balancer.clock import Clock, SystemClock, Timer
from pika_balancer.errors import NoCapacity, PikaError, WrongLoop
from pika_balancer.events import Reporter
from pika_balancer.models import Account, Explanation, Lease, Orphan, Snapshot, Unavailability
from pika_balancer.selection.policy import Weights
from pika_balancer.selection.selector import Selector
from pika_balancer.selection.wait_queue import WaitQueue
from pika_balancer.store.errors import no_capacity

_Waiter = asyncio.Future[Lease]


class MemoryStore:
    """The default store, for one process and one event loop.

    Args:
        accounts: The values of the account map.
        rng: Source of randomness for the picks.
        policy: A name from `POLICIES`, or a function from candidates to weights.
        clock: Measures deadlines and cooldowns.
    """

    def __init__(
        self,
        accounts: Iterable[Account] = (),
        *,
        rng: random.Random | None = None,
        policy: str | Weights = "random",
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._selector = Selector(accounts, rng=rng, policy=policy)
        self._queue: WaitQueue[_Waiter] = WaitQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alarm: Timer | None = None
        self._alarm_at = math.inf
        # Bound once: the hot path calls these two.
        self.try_acquire = self._selector.try_acquire
        self._give_back = self._selector.release

    async def acquire(self, channel: str | None, deadline: float | None) -> Lease:
        loop = self._bind()
        lease = self.try_acquire(channel)
        if lease is not None:
            return lease
        if not len(self._selector):
            raise self._no_capacity(channel)
        waiter: _Waiter = loop.create_future()
        timer: Timer | None = None
        if deadline is not None:
            left = deadline - self._clock.now()
            if left <= 0:
                raise self._no_capacity(channel)
            timer = self._clock.call_later(left, lambda: self._give_up(waiter, channel))
        self._queue.add(waiter, channel)
        if self._selector.next_wake < math.inf:
            self._arm()
        try:
            return await waiter
        except BaseException:
            served = not self._queue.remove(waiter, channel)
            if served and not waiter.cancelled() and waiter.exception() is None:
                # Granted in the same tick as the cancellation: pass the slot on.
                self.release(waiter.result())
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self, lease: Lease) -> None:
        if self._give_back(lease) and self._queue.size:
            # lease.channel without its two properties: this is the hot path.
            self._grant(self._selector.account_at(lease.row).channel)

    async def adopt(self, channel: str, key: str) -> Lease:
        return self._selector.adopt(channel, key)

    @property
    def shared(self) -> bool:
        """False: no other process can use it."""
        return False

    async def orphans(self) -> Sequence[Orphan]:
        """Return nothing: the counts end with this process."""
        return ()

    async def give_up(self, orphans: Iterable[Orphan]) -> None:
        """Do nothing: there are no orphans."""

    async def update(self, accounts: Iterable[Account]) -> None:
        """Apply a new account map; fail the waiters that no account can serve any more."""
        self._selector.update(accounts)
        channels = {account.channel for account in self._selector.snapshot().accounts if not account.removed}
        for waiter, channel in self._queue:
            if not channels or (channel is not None and channel not in channels):
                self._give_up(waiter, channel)
        self._grant_all()

    async def pause(self, channel: str) -> None:
        self._selector.pause(channel)

    async def cool_down(self, channel: str, until: float) -> None:
        self._selector.cool_down(channel, until)
        self._arm()

    async def resume(self, channel: str) -> None:
        self._selector.resume(channel)
        self._grant_all()

    def fail_waiters(self, error: Callable[[], PikaError]) -> None:
        for waiter, channel in self._queue:
            self._fail(waiter, channel, error())

    async def close(self) -> None:
        """Do nothing: another balancer may use the store, and its cooldowns must end."""

    def attach(self, reporter: Reporter) -> None:
        """Do nothing: this store has no events of its own."""

    def snapshot(self) -> Snapshot:
        self._wake(self._clock.now())
        return self._selector.snapshot()

    def explain(self) -> dict[str, Explanation]:
        self._wake(self._clock.now())
        return self._selector.explain()

    def why_unavailable(self, channel: str | None = None) -> Unavailability | None:
        self._wake(self._clock.now())
        return self._selector.why_unavailable(channel)

    def _grant(self, channel: str) -> None:
        """Grant the one slot that became free on a channel."""
        while (first := self._queue.first(channel)) is not None and self._serve(*first):
            pass

    def _grant_all(self) -> None:
        """Grant all free slots in queue order. One pass is enough, since grants only take slots."""
        for waiter, channel in self._queue:
            self._serve(waiter, channel)

    def _serve(self, waiter: _Waiter, channel: str | None) -> bool:
        """Grant the waiter a slot if there is one; return whether it left the queue without one."""
        lease: Lease | None = None
        if not waiter.done():
            try:
                lease = self.try_acquire(channel)
            except Exception as error:  # noqa: BLE001 - a user's policy failed: the waiter gets its error, not the releaser
                waiter.set_exception(error)
            else:
                if lease is None:
                    return False
                waiter.set_result(lease)
        # A waiter that is already done was cancelled, and its task has not run yet.
        self._queue.remove(waiter, channel)
        return lease is None

    def _give_up(self, waiter: _Waiter, channel: str | None) -> None:
        self._fail(waiter, channel, self._no_capacity(channel))

    def _fail(self, waiter: _Waiter, channel: str | None, error: PikaError) -> None:
        self._queue.remove(waiter, channel)
        if not waiter.done():
            waiter.set_exception(error)

    def _no_capacity(self, channel: str | None) -> NoCapacity:
        return no_capacity(self._selector.why_unavailable(channel), channel, self._clock.now())

    def _bind(self) -> asyncio.AbstractEventLoop:
        """Bind the store to the running loop, end due cooldowns, and return the loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._queue.size:
                raise WrongLoop("this store has waiters in another event loop; use one store per event loop")
            # A timer of another loop would never fire.
            self._disarm()
            self._loop = loop
        if self._selector.next_wake < math.inf:
            self._wake(self._clock.now())
        return loop

    def _wake(self, now: float) -> None:
        """End due cooldowns and grant the slots that this frees."""
        if now >= self._selector.next_wake:
            self._selector.wake(now)
            self._grant_all()

    def _arm(self) -> None:
        """Set the timer for the next end of a cooldown."""
        moment = self._selector.next_wake
        if self._alarm_at <= moment:
            return
        self._disarm()
        self._alarm_at = moment
        self._alarm = self._clock.call_later(moment - self._clock.now(), self._ring)

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._alarm_at = None, math.inf

    def _ring(self) -> None:
        # A timer of the loop may fire one clock tick early; the cooldown has ended all the same.
        moment = max(self._alarm_at, self._clock.now())
        self._disarm()
        self._wake(moment)
        if self._selector.next_wake < math.inf:
            self._arm()
