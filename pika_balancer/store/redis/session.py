"""One process's session with the server: what it sends next, when, and what each reply changes."""

import asyncio
import math
import weakref
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from pika_balancer import events
from pika_balancer.clock import Timer
from pika_balancer.errors import NoCapacity, PikaError, StoreUnavailable, WrongLoop
from pika_balancer.models import Grantor
from pika_balancer.selection.errors import adopted_elsewhere, unknown_channel
from pika_balancer.store.errors import no_capacity, unavailable
from pika_balancer.store.redis.commands import (
    Acquire,
    Call,
    Command,
    Heartbeat,
    Peek,
    Release,
    Reply,
    Settings,
    settle,
)
from pika_balancer.store.redis.endpoint import Endpoint
from pika_balancer.store.redis.leases import Entry, GrantedSlot, Leases, SharedLease, WaitRequest
from pika_balancer.store.redis.pipeline import Pipeline
from pika_balancer.store.redis.replica import Replica
from pika_balancer.store.redis.subscriber import Subscriber

_HEARTBEAT_WHILE_WAITING: Final = 5.0
"""Seconds between heartbeats while a request waits: the message with its grant may be lost."""
_TICK: Final = 0.005
"""Seconds between two alarms for the same event: the server's clock may be behind."""
_NOTHING_DUE: Final = 2**52
_BATCH: Final = 100
"""Most requests or releases in one call: the server serves no other process meanwhile."""


class Session:
    """What one process holds and waits for, kept in agreement with the server.

    A session is open from its first use to `close`. While the server is away, requests wait, and releases and
    calls are kept and sent when it is back. A process that the server does not know sends a heartbeat first.

    Args:
        endpoint: The server.
        settings: How the process takes part.
        grantor: The store, for its leases.
        report: Receives the events.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Settings,
        grantor: Grantor,
        report: Callable[[events.Event], object],
    ) -> None:
        self._endpoint, self._settings, self._clock = endpoint, settings, settings.clock
        self._grantor, self._report = grantor, report
        self.leases = Leases()
        self.replica = Replica()
        self._pipeline = Pipeline(self, endpoint, settings)
        self._subscriber = Subscriber(self, endpoint, settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: list[Call] = []
        self._takes_part = self._is_known = self._is_leaving = False
        self._must_heartbeat = self._must_peek = False
        self._away_reported = False
        self._serial, self._offset = 0, 0.0
        self._timer: Timer | None = None
        self._timer_at, self._due = math.inf, math.inf
        self._last_heartbeat = self._confirmed_at = -math.inf

    leases: Leases
    """What the process holds and waits for."""
    replica: Replica
    """The accounts as the server last told."""

    @property
    def is_away(self) -> bool:
        """Whether the server could not be reached when last tried."""
        return self._pipeline.away_since is not None

    def is_open(self) -> bool:
        """Return whether the session is open in the running loop.

        Raises:
            WrongLoop: It is open in another event loop.
        """
        if self._loop not in (None, asyncio.get_running_loop()):
            raise WrongLoop("this store works in another event loop; close it there, or use one per loop")
        return self._loop is not None

    def open(self) -> asyncio.AbstractEventLoop:
        """Open the session unless it is open; return the running loop."""
        loop = asyncio.get_running_loop()
        if not self.is_open():
            self._loop = loop
            self._is_leaving = False
            self._subscriber.start()
            self._last_heartbeat = self._clock.now()
            self._arm()
        return loop

    async def close(self) -> None:
        """Send what is left, tell the server that the process leaves, and disconnect."""
        self._is_leaving = True
        self._pipeline.notify()
        # If a step is cancelled, the steps after it still run.
        try:
            await self._pipeline.stop()
        finally:
            self._disarm()
            try:
                await self._subscriber.stop()
            finally:
                self._loop = None
                await self._endpoint.close()

    async def settle(self) -> None:
        """Return once nothing is under way between this process and the server.

        Raises:
            StoreUnavailable: The server cannot be reached.
        """
        # A message may leave something to send: it may grant a slot to a cancelled request.
        for step in (self._pipeline.idle, self._subscriber.caught_up, self._pipeline.idle):
            await step()
            if self.is_away:
                raise self.unavailable()

    # --- requests and leases ---------------------------------------------------------------------------

    def request(self, channel: str | None, *, may_wait: bool) -> WaitRequest:
        """Ask for a slot."""
        future = self.open().create_future()
        self._takes_part = True
        self._serial += 1
        name = f"{self._settings.process}/{self._serial}"
        request = WaitRequest(name, channel, may_wait, future, self._settings.rng.random())
        self.leases.unsent[name] = request
        if not self.is_away:
            self._pipeline.notify()
        elif not may_wait:
            self.fail(request, self.unavailable(channel))
        return request

    def cancel(self, request: WaitRequest) -> None:
        """Withdraw a request, or release its lease if it was granted meanwhile."""
        future = request.future
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().held = False
            if request.name in self.leases.held:
                self.release(request.name)
        else:
            self._leave_queue(request)

    def time_out(self, request: WaitRequest) -> None:
        """Fail a request with the reason that the server gives then."""
        if request.future.done():
            return
        self._leave_queue(request)
        if self.is_away:
            request.fail(self.unavailable(request.channel))
            return

        def fail(peeked: "asyncio.Future[Reply | None]") -> None:
            reply = None if peeked.cancelled() else peeked.result()
            if reply is None:
                request.fail(self.unavailable(request.channel))
            else:
                self.update_accounts(reply.items)
                request.fail(self._no_capacity(request.channel))

        self.call("peek").add_done_callback(fail)

    def fail(self, request: WaitRequest, error: PikaError) -> None:
        """Withdraw a request and set its error."""
        self._leave_queue(request)
        request.fail(error)

    def release(self, name: str) -> asyncio.Future[None]:
        """Release a lease or withdraw a request; the future is done when the server knows, or is away."""
        self.leases.held.pop(name, None)
        future: asyncio.Future[None] = self.open().create_future()
        self.leases.releases[name] = future
        if self.is_away:
            future.set_result(None)
        self._pipeline.notify()
        return future

    async def adopt(self, channel: str, key: str) -> SharedLease:
        """Count a job that already runs; at once if the server is away."""
        name = f"={key}"
        self.open()
        counted = channel
        if not self.is_away:
            try:
                with self.leases.state_as_held(name, channel, self._server_now()):
                    reply = await self.call("adopt", lambda: (name, channel))
            except asyncio.CancelledError:
                # The server may count the job: a heartbeat that does not state it frees the slot.
                self._send_heartbeat()
                raise
            if reply is not None:
                counted, taken = reply.items
                self.replica.count(counted, int(taken))
        known = self.leases.adopted(name, counted)
        if counted != channel:
            raise adopted_elsewhere(key, counted, channel)
        return self._hold(name, channel, key, adopted=True) if known is None else known

    def call(
        self, operation: str, arguments: Callable[[], Sequence[object]] = tuple, *, takes_part: bool = True
    ) -> "asyncio.Future[Reply | None]":
        """Send another operation; its reply is None if the server is away, and it is sent later then.

        Args:
            operation: Name of the script.
            arguments: Returns its arguments at the moment of sending.
            takes_part: Whether the server has to know the process; False for what any caller may use.
        """
        self._takes_part = self._takes_part or takes_part
        call = Call(operation, arguments, self.open().create_future())
        self._calls.append(call)
        if self.is_away:
            settle(call.future, None)
        self._pipeline.notify()
        return call.future

    def unavailable(self, channel: str | None = None) -> StoreUnavailable:
        """Return the error for a request that needs the unreachable server."""
        since = self._pipeline.away_since
        away = None if since is None else self._clock.now() - since
        return unavailable(self._endpoint.address, self._pipeline.why, away, channel)

    def _no_capacity(self, channel: str | None) -> NoCapacity:
        now = self._clock.now()
        return no_capacity(self.replica.why_unavailable(channel, now), channel, now)

    def _leave_queue(self, request: WaitRequest) -> None:
        unsent = self.leases.unsent.pop(request.name, None)
        if unsent is None and self.leases.waiting.pop(request.name, None) is not None:
            self.release(request.name)

    def _hold(self, name: str, channel: str, lease_id: str, *, adopted: bool = False) -> SharedLease:
        lease = SharedLease(self._grantor, self.replica.row_of(channel), lease_id)
        kept = lease if adopted else None
        self.leases.held[name] = GrantedSlot(channel, self._server_now(), weakref.ref(lease), kept)
        return lease

    def _grant(self, name: str, channel: str) -> None:
        request = self.leases.waiting.pop(name, None)
        if request is None:
            return  # a repeated grant, or the request was withdrawn: its release is on the way
        if request.future.done():
            self.release(name)
        else:
            request.future.set_result(self._hold(name, channel, name))

    def _revoke(self, name: str, why: str) -> None:
        slot = self.leases.held.pop(name)
        slot.end(revoked=True)
        lease_id = name.removeprefix("=")
        self._report(
            events.LeaseRevoked(at=self._clock.now(), channel=slot.channel, lease_id=lease_id, why=why)
        )

    # --- what is sent next -----------------------------------------------------------------------------

    def next_command(self) -> Command | None:
        """Return the command to send next: a heartbeat that is due, then releases, calls and requests."""
        leases = self.leases
        # A call that was cancelled before it was sent is dropped.
        self._calls = [call for call in self._calls if not (call.is_done or call.future.cancelled())]
        if self._is_leaving and not self._is_known and not leases.releases and not self._calls:
            return None
        command: Command | None = None
        if self._takes_part and (self._must_heartbeat or not self._is_known):
            self._must_heartbeat = False
            command = Heartbeat(self, self._settings, leaving=False)
        elif leases.releases:
            command = Release(self, list(islice(leases.releases, _BATCH)))
        elif self._calls:
            command = self._calls[0]
        elif leases.unsent:
            command = Acquire(self, leases.send(_BATCH))
        elif self._is_leaving:
            command = Heartbeat(self, self._settings, leaving=True)
        elif self._must_peek:
            self._must_peek = False
            command = Peek(self)
        return command

    def _send_heartbeat(self) -> None:
        self._must_heartbeat = True
        self._pipeline.notify()

    # --- what replies and messages change --------------------------------------------------------------

    def apply(self, reply: Reply) -> None:
        """Apply what every reply tells: time, version of the account map, grants, and what is due."""
        self._offset = self._clock.now() - reply.now / 1000
        learning_until = self._local(reply.learning) if reply.learning else -math.inf
        if self.replica.note(reply.version, learning_until):
            self._must_peek = True
        for name, channel, taken in reply.grants:
            self.replica.count(channel, taken)
            self._grant(name, channel)
        self._due = self._local(reply.due) if reply.due < _NOTHING_DUE else math.inf
        if self.leases.waiting:
            self._arm()

    def resolve(self, request: WaitRequest, code: str, detail: str) -> None:
        """Apply the result of one request; see `acquire.lua`."""
        if code.startswith("g"):
            self.replica.count(detail, int(code[2:]))
            self._grant(request.name, detail)
        elif request.name not in self.leases.waiting:
            return
        elif code == "w":
            request.ticket = detail
            self._arm()
        else:
            del self.leases.waiting[request.name]
            why = unknown_channel if code == "u" else self._no_capacity
            request.fail(why(request.channel))

    def update_accounts(self, fields: Sequence[str]) -> None:
        """Apply the state of all accounts; requests that none of them can serve fail."""
        self._must_peek = False
        self.replica.update(fields, self._offset)
        for request in list(self.leases.waiting.values()):
            if request.ticket and not self.replica.has(request.channel):
                self.fail(request, self._no_capacity(request.channel))

    def reconcile(self, statement: Sequence[Entry], reply: Reply, *, leaving: bool) -> None:
        """Apply the reply to a heartbeat; see `heartbeat.lua`."""
        self._is_known = not leaving
        self._confirmed_at = self._pipeline.replied_to
        self._last_heartbeat = self._clock.now()
        end = 1 + 2 * int(reply.items[0])
        results = zip(statement, reply.items[1:end:2], reply.items[2:end:2], strict=True)
        for (name, *_), code, detail in results:
            if (request := self.leases.waiting.get(name)) is not None:
                if code == "g":
                    self._grant(name, detail)
                else:
                    request.ticket = detail
            elif name in self.leases.held and code == "r":
                self.leases.held.pop(name).end(revoked=False)
            elif name in self.leases.held and code == "l":
                self._revoke(name, "it was orphaned for too long, or a repair freed it")
        self.update_accounts(reply.items[end:])
        self._arm()

    def on_unknown(self) -> None:
        """Send a heartbeat first: the server does not know the process, or not any more."""
        self._is_known = False

    def on_away(self, why: str, *, refused: bool) -> None:
        """Report that the server is away and resolve what must not wait for it."""
        self._is_known = False
        if not self._away_reported:
            self._away_reported = True
            address = self._endpoint.address
            self._report(events.StoreAway(at=self._clock.now(), address=address, why=why))
        self.resolve_calls()
        for request in self.leases.requests():
            if refused or not request.may_wait:
                self.fail(request, self.unavailable(request.channel))

    def on_back(self, away: float) -> None:
        """Report that the server replies again, after `away` seconds."""
        self._away_reported = False
        address = self._endpoint.address
        self._report(events.StoreBack(at=self._clock.now(), address=address, away=away))

    def resolve_calls(self) -> None:
        """End the wait for releases and calls; they are kept."""
        for future in self.leases.releases.values():
            settle(future, None)
        for call in self._calls:
            settle(call.future, None)

    def on_subscribed(self) -> None:
        """Ask for grants that were sent while no message could arrive."""
        if self.leases.waiting:
            self._send_heartbeat()

    def on_message(self, text: str) -> None:
        """Apply a message: a grant to a waiter of this process, or that the accounts have changed."""
        name, *grant = text.split("\n")
        if grant:
            self.replica.count(grant[0], int(grant[1]))
            self._grant(name, grant[0])
        elif name != self._settings.process:
            self._must_peek = True
            self._pipeline.notify()

    # --- time ------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the timer for the next heartbeat."""
        if self._loop is None:
            return
        moment = self._last_heartbeat + self._settings.lease_ttl / 3
        if self.leases.waiting:
            soonest = max(self._due, self._last_heartbeat + _TICK)
            moment = min(moment, self._last_heartbeat + _HEARTBEAT_WHILE_WAITING, soonest)
        if moment != self._timer_at:
            self._disarm()
            self._timer_at = moment
            self._timer = self._clock.call_later(moment - self._clock.now(), self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, math.inf

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self._last_heartbeat = self._clock.now()
        self._pipeline.check()
        self._subscriber.check()
        if now > self._confirmed_at + self._settings.lease_ttl + self._settings.orphan_ttl:
            for name in list(self.leases.held):
                self._revoke(name, "no heartbeat reached the store before the lease expired there")
        self._send_heartbeat()
        self._arm()

    def _server_now(self) -> int:
        """Return the present time in milliseconds of the server's clock."""
        return max(0, round((self._clock.now() - self._offset) * 1000))

    def _local(self, moment: float) -> float:
        """Return a time of the server's clock, in milliseconds, in seconds of this process's clock."""
        return moment / 1000 + self._offset
