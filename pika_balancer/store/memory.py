"""In-flight counts in this process: a `Selector`, and a line of futures in front of it.

Between any two calls it holds that nobody waits who could be served: every change that may free a slot (a
release, an end of a rest, a resume, a new account map) grants to the line before it returns. So whoever finds
a free slot may take it without looking at the line, and cannot pass anybody by doing so.
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
        accounts: The account map's values.
        rng: Source of chance for the picks.
        policy: A name from `POLICIES` or a function from candidates to weights.
        clock: Measures deadlines and rests.
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
        self._line: WaitQueue[_Waiter] = WaitQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alarm: Timer | None = None
        self._alarm_at = math.inf
        # Bound once: the two calls of the hot path.
        self.try_acquire = self._selector.try_acquire
        self._give_back = self._selector.release

    async def acquire(self, channel: str | None, deadline: float | None) -> Lease:
        """Wait in line for a slot; see `Store.acquire`."""
        loop = self._settle_in()
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
        self._line.join(waiter, channel)
        if self._selector.next_wake < math.inf:
            self._arm()
        try:
            return await waiter
        except BaseException:
            served = not self._line.leave(waiter, channel)
            if served and not waiter.cancelled() and waiter.exception() is None:
                # Granted in the very tick in which the cancellation arrived: the next in line gets it.
                self.release(waiter.result())
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self, lease: Lease) -> None:
        """Give the slot back, to the first in line if there is one; see `Store.release`."""
        if self._give_back(lease) and self._line.size:
            # lease.channel, without its two properties: this is the hot path.
            self._grant(self._selector.account_at(lease.row).channel)

    async def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that already runs upstream; see `Selector.adopt`."""
        return self._selector.adopt(channel, key)

    @property
    def shared(self) -> bool:
        """Return False: no other process can count here."""
        return False

    async def orphans(self) -> Sequence[Orphan]:
        """Return none: what is counted here dies with this process."""
        return ()

    async def give_up(self, orphans: Iterable[Orphan]) -> None:
        """Do nothing: there are no orphans."""

    async def update(self, accounts: Iterable[Account]) -> None:
        """Take over a new account map; whoever waits for what is gone from it is told."""
        self._selector.update(accounts)
        channels = {account.channel for account in self._selector.snapshot().accounts if not account.removed}
        for waiter, channel in self._line:
            if not channels or (channel is not None and channel not in channels):
                self._give_up(waiter, channel)
        self._grant_all()

    async def pause(self, channel: str) -> None:
        """Give the channel no new job until `resume`."""
        self._selector.pause(channel)

    async def cool_down(self, channel: str, until: float) -> None:
        """Give the channel no new job before `until`."""
        self._selector.cool_down(channel, until)
        self._arm()

    async def resume(self, channel: str) -> None:
        """End a pause and a rest at once."""
        self._selector.resume(channel)
        self._grant_all()

    def fail_waiters(self, error: Callable[[], PikaError]) -> None:
        """Fail everybody in line, each with an error of its own."""
        for waiter, channel in self._line:
            self._fail(waiter, channel, error())

    async def close(self) -> None:
        """Do nothing: the store may serve another balancer, whose rests have to end."""

    def attach(self, reporter: Reporter) -> None:
        """Do nothing: nothing happens to what is in this process's own memory."""

    def snapshot(self) -> Snapshot:
        """Return the books at this moment."""
        self._wake(self._clock.now())
        return self._selector.snapshot()

    def explain(self) -> dict[str, Explanation]:
        """Return per account whether the next pick could choose it, and how probably."""
        self._wake(self._clock.now())
        return self._selector.explain()

    def why_unavailable(self, channel: str | None = None) -> Unavailability | None:
        """Return why nothing can be had; None if something can."""
        self._wake(self._clock.now())
        return self._selector.why_unavailable(channel)

    def _grant(self, channel: str) -> None:
        """Serve the line with the one slot that has become free on a channel."""
        while (first := self._line.first(channel)) is not None and self._serve(*first):
            pass

    def _grant_all(self) -> None:
        """Serve the line, in order, with whatever is free: one pass, since serving only takes."""
        for waiter, wish in self._line:
            self._serve(waiter, wish)

    def _serve(self, waiter: _Waiter, wish: str | None) -> bool:
        """Grant the waiter its wish if there is a slot; return whether it left the line without one."""
        lease: Lease | None = None
        if not waiter.done():
            try:
                lease = self.try_acquire(wish)
            except Exception as error:  # noqa: BLE001 - a user's policy failed: its asker is told, not the releaser
                waiter.set_exception(error)
            else:
                if lease is None:
                    return False
                waiter.set_result(lease)
        # A waiter that is done already was cancelled, and its task has not yet run to leave by itself.
        self._line.leave(waiter, wish)
        return lease is None

    def _give_up(self, waiter: _Waiter, channel: str | None) -> None:
        self._fail(waiter, channel, self._no_capacity(channel))

    def _fail(self, waiter: _Waiter, channel: str | None, error: PikaError) -> None:
        self._line.leave(waiter, channel)
        if not waiter.done():
            waiter.set_exception(error)

    def _no_capacity(self, channel: str | None) -> NoCapacity:
        return no_capacity(self._selector.why_unavailable(channel), channel, self._clock.now())

    def _settle_in(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, in which the store now serves, with the rests ended that are over."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._line.size:
                raise WrongLoop(
                    "others wait on this store in another event loop; use one store per event loop"
                )
            # An alarm of a loop that is gone would never ring.
            self._disarm()
            self._loop = loop
        if self._selector.next_wake < math.inf:
            self._wake(self._clock.now())
        return loop

    def _wake(self, now: float) -> None:
        """End the rests that are due and serve the line with what that frees, before anybody else can."""
        if now >= self._selector.next_wake:
            self._selector.wake(now)
            self._grant_all()

    def _arm(self) -> None:
        """See to it that the next end of a rest is noticed."""
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
        # A loop's timer may fire a clock tick early; the rest is over all the same.
        moment = max(self._alarm_at, self._clock.now())
        self._disarm()
        self._wake(moment)
        if self._selector.next_wake < math.inf:
            self._arm()
