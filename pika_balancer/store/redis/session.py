"""One process's part in a shared pool: what it says to the server, when, and what it makes of the answers."""

import asyncio
import contextlib
import math
import random
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

from pika_balancer import events
from pika_balancer.clock import Clock, Timer
from pika_balancer.errors import NoCapacity, PikaError, StoreUnavailable, WrongLoop
from pika_balancer.models import AccountState, Grantor
from pika_balancer.selection.errors import unknown_channel
from pika_balancer.store.errors import no_capacity, unavailable
from pika_balancer.store.redis.commands import Acquire, Beat, Call, Release, settle
from pika_balancer.store.redis.connection import Connection, Subscriber
from pika_balancer.store.redis.leases import Claims, GrantedSlot, SharedLease, Wish
from pika_balancer.store.redis.local_share import LocalShare
from pika_balancer.store.redis.pipeline import Command, Pipeline, Reply
from pika_balancer.store.redis.replica import Replica, read_survey

_WHILE_WAITING: Final = 5.0
_TICK: Final = 0.005


class Heartbeat:
    """One alarm, set for the next beat.

    Args:
        ttl: Seconds after which a process counts as dead of which nothing is heard; a beat comes at a third.
        ring: Called when a beat is due.
        clock: Measures time.
    """

    def __init__(self, ttl: float, ring: Callable[[], object], clock: Clock) -> None:
        self._every = ttl / 3
        self._ring = ring
        self._clock = clock
        self._last = -math.inf
        self._timer: Timer | None = None
        self._at = math.inf

    def beaten(self) -> None:
        """Take note that there has been a beat just now, or the beginning."""
        self._last = self._clock.now()

    def arm(self, *, waiting: bool, due: float) -> None:
        """Set the alarm.

        Args:
            waiting: Whether somebody waits in line: whose wake-up may have got lost.
            due: When something may happen on the server that has to be called for then, on the clock.
        """
        moment = self._last + self._every
        if waiting:
            # The server's clock may be a moment behind: then not the same alarm again at once.
            moment = min(moment, self._last + _WHILE_WAITING, max(due, self._last + _TICK))
        if moment != self._at:
            self.stop()
            self._at = moment
            self._timer = self._clock.call_later(moment - self._clock.now(), self._rings)

    def stop(self) -> None:
        """Call the alarm off."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at = None, math.inf

    def _rings(self) -> None:
        self._timer, self._at = None, math.inf
        self.beaten()
        self._ring()


_CROWD: Final = 100
"""How many wishes or releases go into one call: the server serves nobody else meanwhile."""


class Outbox:
    """Puts what is to be said in order: who we are, then what frees slots, then what takes them.

    Args:
        session: Takes the answers.
        claims: What the process holds and waits for.
        label: Names the process for people.
        first_start: Whether an empty server has forgotten nothing.

    Attributes:
        takes_part: Whether there was anything to say that only a known process can; otherwise it just looks.
        known: Whether the server knows the process.
        must_beat: Whether everything is to be stated anew.
        must_look: Whether the accounts are to be looked at.
        leaving: Whether the process says goodbye once nothing else is left to be said.
        calls: Whatever else is to be said.
    """

    def __init__(self, session: "Session", claims: Claims, label: str, *, first_start: bool) -> None:
        self._session = session
        self._claims = claims
        self._label = label
        self._first_start = first_start
        self.takes_part = self.known = self.must_beat = self.must_look = self.leaving = False
        self.calls: list[Call] = []

    def next(self) -> Command | None:
        """Return what to say next; None if there is nothing."""
        claims = self._claims
        # Whoever was cancelled before it was said does not want it any more.
        self.calls = [call for call in self.calls if not (call.over or call.future.cancelled())]
        if self.leaving and not self.known and not claims.releases and not self.calls:
            return None
        batch: Command | None = None
        if (self.must_beat or not self.known) and self.takes_part:
            self.must_beat = False
            batch = self._beat(leaves=False)
        elif claims.releases:
            batch = Release(self._session, claims.releases, _CROWD)
        elif self.calls:
            batch = self.calls[0]
        elif claims.unsent:
            wishes = list(islice(claims.unsent.values(), _CROWD))
            for wish in wishes:
                del claims.unsent[wish.name]
                claims.waiting[wish.name] = wish
            batch = Acquire(self._session, wishes)
        elif self.leaving:
            batch = self._beat(leaves=True)
        elif self.must_look:
            self.must_look = False
            batch = Call(self._session, "look", tuple, asyncio.get_running_loop().create_future())
        return batch

    def _beat(self, *, leaves: bool) -> Beat:
        statement = self._claims.statement()
        return Beat(self._session, self._label, statement, first=self._first_start, leaves=leaves)


_NO_HURRY: Final = 2**52


class Session:
    """Keeps what a process claims in step with the server.

    Whatever the process holds, waits for or gives back stands in `claims` first, and is said then. All of it
    together is stated every so often (a *beat*), which keeps the process alive, and after every interruption:
    so whatever was lost on the way, a reply, a wake-up or the server's memory, is made good by the next beat.

    Args:
        link: The way to the server.
        process: Names the process on the server.
        label: Names it for people.
        grantor: Grants the leases.
        tell: Is told events.
        ttl: Seconds without a sign of life after which the process counts as dead.
        orphan_ttl: Seconds for which its leases are counted after that.
        patience: Seconds after which an answer is waited for no more.
        share: Returns what grants slots while the server is away; None if nothing does.
        first_start: Whether an empty server has forgotten nothing.
        rng: Source of chance.
        clock: Measures time.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        process: str,
        label: str,
        grantor: Grantor,
        tell: Callable[[events.Event], object],
        ttl: float,
        orphan_ttl: float,
        patience: float,
        share: Callable[[Iterable[AccountState], Claims], LocalShare] | None,
        first_start: bool,
        rng: random.Random,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._process = process
        self._grantor = grantor
        self._tell = tell
        self._ttl, self._orphan_ttl, self._patience = ttl, orphan_ttl, patience
        self._share, self._rng, self._clock = share, rng, clock
        self.claims = Claims()
        self.replica = Replica()
        self._outbox = Outbox(self, self.claims, label, first_start=first_start)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heartbeat = Heartbeat(ttl, self._ring, clock)
        self._subscriber = Subscriber(
            connection, process, self._heard, self._listening, patience=patience, rng=rng, clock=clock
        )
        self._told_away = False
        self._due, self._confirmed_at = math.inf, -math.inf
        self._serial, self._offset = 0, 0.0
        self._alone: LocalShare | None = None

    pipeline: Pipeline
    """Says it; set by the store, since each of the two needs the other."""
    claims: Claims
    """What the process holds and waits for."""
    replica: Replica
    """What it last heard of the pool."""

    def is_open(self) -> bool:
        """Return whether it is at work in the running loop; raise `WrongLoop` if it is in another one."""
        if self._loop not in (None, asyncio.get_running_loop()):
            raise WrongLoop("this store works in another event loop; close it there, or use one per loop")
        return self._loop is not None

    def open(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, in which it is at work from now on; raise `WrongLoop` as `is_open`."""
        loop = asyncio.get_running_loop()
        if not self.is_open():
            self._loop = loop
            self._outbox.leaving = False
            self._subscriber.start()
            self._heartbeat.beaten()
            self._arm()
        return loop

    async def close(self) -> None:
        """Say what is left to be said, leave, and disconnect."""
        self._outbox.leaving = True
        self.pipeline.notify()
        # Whichever step is interrupted, those that come after it are taken.
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(self._connection.close)
            steps.callback(setattr, self, "_loop", None)
            steps.push_async_callback(self._subscriber.stop)
            steps.callback(self._heartbeat.stop)
            await self.pipeline.end(self._patience)

    # --- what is claimed -------------------------------------------------------------------------------

    def wish(self, channel: str | None, *, waits: bool) -> Wish:
        """Ask for a slot."""
        loop = self.open()
        self._outbox.takes_part = True
        self._serial += 1
        name = f"{self._process}/{self._serial}"
        wish = Wish(name, channel, waits, loop.create_future(), self._rng.random())
        self.claims.unsent[name] = wish
        if self.pipeline.away_since is None:
            self.pipeline.notify()
        else:
            self._serve_alone()
            if not waits:
                self.fail(wish, self.unavailable(channel))
        return wish

    def withdraw(self, wish: Wish) -> None:
        """Ask no more, whether or not there is an answer already."""
        future = wish.future
        if future.done() and not future.cancelled() and future.exception() is None:
            # Granted in the very tick in which the cancellation arrived.
            future.result().held = False
            if wish.name in self.claims.held:
                self.give_back(wish.name)
        else:
            self._leave_line(wish)

    def give_up(self, wish: Wish) -> None:
        """End the wait of whoever has waited long enough, with what the server says then."""
        if wish.future.done():
            return
        self._leave_line(wish)
        if self.pipeline.away_since is not None:
            wish.fail(self.unavailable(wish.channel))
            return

        def tell(looked: "asyncio.Future[Reply | None]") -> None:
            answer = None if looked.cancelled() else looked.result()
            why = self.unavailable if answer is None else self.no_capacity
            wish.fail(why(wish.channel))

        self.call("look", tuple).future.add_done_callback(tell)

    def fail(self, wish: Wish, error: PikaError) -> None:
        """End the wait with an error."""
        self._leave_line(wish)
        wish.fail(error)

    def hold(self, name: str, channel: str, lease_id: str, *, keep: bool = False) -> SharedLease:
        """Return a new lease of a slot that is counted, or will be with the next beat.

        Args:
            name: What the server calls it.
            channel: Where it is.
            lease_id: What people call it.
            keep: Whether it can be had again by its name, and so is never dropped.
        """
        lease = SharedLease(self._grantor, self.replica.row_of(channel), lease_id)
        self.claims.held[name] = GrantedSlot(
            channel, self.moment(), weakref.ref(lease), lease if keep else None
        )
        if self._alone is not None and keep:
            self._alone.count(name, channel)
        return lease

    def moment(self) -> int:
        """Return the present moment on the server's clock, in milliseconds."""
        return max(0, round((self._clock.now() - self._offset) * 1000))

    def give_back(self, name: str) -> asyncio.Future[None]:
        """Have the server know that the lease is over, now or as soon as it is back."""
        self.claims.held.pop(name, None)
        future: asyncio.Future[None] = self.open().create_future()
        self.claims.releases[name] = future
        if self.pipeline.away_since is not None:
            future.set_result(None)
            if self._alone is not None:
                self._alone.give_back(name)
                self._serve_alone()
        self.pipeline.notify()
        return future

    def call(
        self, operation: str, arguments: Callable[[], Sequence[object]], *, takes_part: bool = True
    ) -> Call:
        """Say something else; with `takes_part` False as somebody who only looks at the pool."""
        self._outbox.takes_part = self._outbox.takes_part or takes_part
        call = Call(self, operation, arguments, self.open().create_future())
        self._outbox.calls.append(call)
        if self.pipeline.away_since is not None:
            settle(call.future, None)
        self.pipeline.notify()
        return call

    def unavailable(self, channel: str | None = None) -> StoreUnavailable:
        """Return the error for whoever cannot be served without the server."""
        since = self.pipeline.away_since
        away = None if since is None else self._clock.now() - since
        return unavailable(self._connection.address, self.pipeline.why, away, channel)

    def _serve_alone(self) -> None:
        """Serve the line from this process's own share, if it has one, while the server is away."""
        if self._alone is None:
            return
        now = self._clock.now()
        for wish in self.claims.wishes():
            if (channel := self._alone.take(wish.name, wish.channel, now)) is not None:
                self.claims.unsent.pop(wish.name, None)
                self.claims.waiting[wish.name] = wish
                self._grant(wish.name, channel, None)

    def _leave_line(self, wish: Wish) -> None:
        if self.claims.unsent.pop(wish.name, None) is None and wish.name in self.claims.waiting:
            del self.claims.waiting[wish.name]
            self.give_back(wish.name)

    # --- what is said ----------------------------------------------------------------------------------

    def next_batch(self) -> Command | None:
        """Return what to say next; None if there is nothing."""
        return self._outbox.next()

    def strange(self) -> None:
        """Take note that the server does not know this process: it has been away for long, or forgot."""
        self._outbox.known = False

    def went_away(self, why: str, *, refused: bool) -> None:
        """Take note that the server cannot be reached, or refuses."""
        self._outbox.known = False
        if not self._told_away:
            self._told_away = True
            self._tell(events.StoreAway(at=self._clock.now(), address=self._connection.address, why=why))
        self.detach()
        if self._share is not None and self._alone is None and not refused:
            self._alone = self._share(self.replica.accounts(self._clock.now()), self.claims)
        self._serve_alone()
        for wish in self.claims.wishes():
            if refused or not wish.waits:
                self.fail(wish, self.unavailable(wish.channel))

    def detach(self) -> None:
        """Have nobody wait for an answer to what is to be said."""
        for told in self.claims.releases.values():
            settle(told, None)
        for call in self._outbox.calls:
            settle(call.future, None)

    def came_back(self, away: float) -> None:
        """Take note that the server answers again."""
        self._told_away, self._alone = False, None
        self._tell(events.StoreBack(at=self._clock.now(), address=self._connection.address, away=away))

    # --- what is answered ------------------------------------------------------------------------------

    def took(self, answer: Reply) -> None:
        """Take note of what every answer tells."""
        self._offset = self._clock.now() - answer.now / 1000
        self.replica.learning_until = self._here(answer.learning) if answer.learning else -math.inf
        if answer.version != self.replica.version:
            self.replica.version = answer.version
            self._outbox.must_look = True
        for name, channel, taken in answer.grants:
            self._grant(name, channel, taken)
        self._due = self._here(answer.due) if answer.due < _NO_HURRY else math.inf
        if self.claims.waiting:
            self._arm()

    def counted(self, channel: str, taken: int) -> None:
        """Take note of how many slots of the channel are taken."""
        self.replica.count(channel, taken)

    def surveyed(self, fields: Sequence[str]) -> None:
        """Take over how the accounts stand; whoever waits for what is not in the map any more is told."""
        self._outbox.must_look = False
        self.replica.take_over(read_survey(fields), self._offset)
        for wish in list(self.claims.waiting.values()):
            gone = not len(self.replica) or (
                wish.channel is not None and not self.replica.knows(wish.channel)
            )
            if gone and wish.ticket:
                self.fail(wish, self.no_capacity(wish.channel))

    def answered(self, wish: Wish, code: str, detail: str) -> None:
        """Take note of what became of a wish."""
        if code.startswith("g"):
            self._grant(wish.name, detail, int(code[2:]))
        elif wish.name not in self.claims.waiting:
            return
        elif code == "w":
            wish.ticket = detail
            self._arm()
        else:
            del self.claims.waiting[wish.name]
            wish.fail(unknown_channel(wish.channel) if code == "u" else self.no_capacity(wish.channel))

    def unanswered(self, wishes: Sequence[Wish], *, surely: bool) -> None:
        """Take note that nothing was done about the wishes, or that nobody knows whether it was."""
        if surely:
            again = [wish for wish in wishes if self.claims.waiting.pop(wish.name, None) is not None]
            self.claims.unsent = {wish.name: wish for wish in again} | self.claims.unsent

    def stated(self, claims: Sequence[object], answer: Reply, *, leaves: bool) -> None:
        """Take note of what the server says to all that was stated."""
        self._outbox.known = not leaves
        self._confirmed_at = self.pipeline.sent_at
        self._heartbeat.beaten()
        items = answer.items
        end = 1 + 2 * int(items[0])
        for at in range(1, end, 2):
            name, code, channel = str(claims[2 * (at - 1)]), items[at], items[at + 1]
            if (wish := self.claims.waiting.get(name)) is not None:
                if code == "g":
                    self._grant(name, channel, None)
                else:
                    wish.ticket = channel
            elif code == "r" and (holding := self.claims.held.pop(name, None)) is not None:
                holding.over()
            elif code == "l":
                self._lose(name, "it was an orphan for too long, or was taken away by a repair")
        self.surveyed(items[end:])
        self._arm()

    def no_capacity(self, channel: str | None) -> NoCapacity:
        """Return the error for whoever finds nothing, from what was heard last."""
        now = self._clock.now()
        return no_capacity(self.replica.why_unavailable(channel, now), channel, now)

    def _grant(self, name: str, channel: str, taken: int | None) -> None:
        if taken is not None:
            self.replica.count(channel, taken)
        wish = self.claims.waiting.pop(name, None)
        if wish is None:
            return  # told twice, or withdrawn: then the release is on its way
        if wish.future.done():
            self.give_back(name)
        else:
            wish.future.set_result(self.hold(name, channel, name))

    def _lose(self, name: str, why: str) -> None:
        if (holding := self.claims.held.pop(name, None)) is not None:
            holding.lose()
            now, lease_id = self._clock.now(), name.removeprefix("=")
            self._tell(events.LeaseRevoked(at=now, channel=holding.channel, lease_id=lease_id, why=why))

    def _here(self, moment: float) -> float:
        """Return a moment of the server's clock on this one, in seconds."""
        return moment / 1000 + self._offset

    # --- when it is said -------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._loop is not None:
            self._heartbeat.arm(waiting=bool(self.claims.waiting), due=self._due)

    def _ring(self) -> None:
        now = self._clock.now()
        if self.pipeline.out_since is not None and now - self.pipeline.out_since > self._patience:
            self.pipeline.unstick()
        self._subscriber.check()
        if now > self._confirmed_at + self._ttl + self._orphan_ttl:
            for name in list(self.claims.held):
                self._lose(name, "the store could not be told in time that it is still held")
        self.beat_soon()
        self._arm()

    def beat_soon(self) -> None:
        """State everything anew: what the server sees otherwise is then set right."""
        self._outbox.must_beat = True
        self.pipeline.notify()

    def _listening(self) -> None:
        if self.claims.waiting:
            self.beat_soon()

    def _heard(self, text: str) -> None:
        name, *grant = text.split("\n")
        if grant:
            self._grant(name, grant[0], int(grant[1]))
        elif name != self._process:
            self._outbox.must_look = True
            self.pipeline.notify()
