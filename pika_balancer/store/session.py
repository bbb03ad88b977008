"""One process's part in a shared pool: what it says to the server, when, and what it makes of the answers."""

import asyncio
import contextlib
import math
import random
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pika_balancer import events
from pika_balancer.clock import Clock
from pika_balancer.errors import NoCapacity, PikaError, StoreUnavailable, WrongLoop
from pika_balancer.models import AccountState, Grantor
from pika_balancer.store.agenda import Agenda
from pika_balancer.store.batches import Call, settle
from pika_balancer.store.claims import Claims, Holding, SharedLease, Wish
from pika_balancer.store.heartbeat import Heartbeat
from pika_balancer.store.lane import Answer, Batch, Lane
from pika_balancer.store.link import Link
from pika_balancer.store.listener import Listener
from pika_balancer.store.mirror import Mirror, read_survey
from pika_balancer.store.refusals import no_capacity, unavailable, unknown_channel
from pika_balancer.store.share import LocalShare

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
        link: Link,
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
        self._link = link
        self._process = process
        self._grantor = grantor
        self._tell = tell
        self._ttl, self._orphan_ttl, self._patience = ttl, orphan_ttl, patience
        self._share, self._rng, self._clock = share, rng, clock
        self.claims = Claims()
        self.mirror = Mirror()
        self._agenda = Agenda(self, self.claims, label, first_start=first_start)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heartbeat = Heartbeat(ttl, self._ring, clock)
        self._listener = Listener(
            link, process, self._heard, self._listening, patience=patience, rng=rng, clock=clock
        )
        self._told_away = False
        self._due, self._confirmed_at = math.inf, -math.inf
        self._serial, self._offset = 0, 0.0
        self._alone: LocalShare | None = None

    lane: Lane
    """Says it; set by the store, since each of the two needs the other."""
    claims: Claims
    """What the process holds and waits for."""
    mirror: Mirror
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
            self._agenda.leaving = False
            self._listener.start()
            self._heartbeat.beaten()
            self._arm()
        return loop

    async def close(self) -> None:
        """Say what is left to be said, leave, and disconnect."""
        self._agenda.leaving = True
        self.lane.stir()
        # Whichever step is interrupted, those that come after it are taken.
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(self._link.close)
            steps.callback(setattr, self, "_loop", None)
            steps.push_async_callback(self._listener.stop)
            steps.callback(self._heartbeat.stop)
            await self.lane.end(self._patience)

    # --- what is claimed -------------------------------------------------------------------------------

    def wish(self, channel: str | None, *, waits: bool) -> Wish:
        """Ask for a slot."""
        loop = self.open()
        self._agenda.takes_part = True
        self._serial += 1
        name = f"{self._process}/{self._serial}"
        wish = Wish(name, channel, waits, loop.create_future(), self._rng.random())
        self.claims.unsent[name] = wish
        if self.lane.away_since is None:
            self.lane.stir()
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
        if self.lane.away_since is not None:
            wish.fail(self.unavailable(wish.channel))
            return

        def tell(looked: "asyncio.Future[Answer | None]") -> None:
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
        lease = SharedLease(self._grantor, self.mirror.row_of(channel), lease_id)
        self.claims.held[name] = Holding(channel, self.moment(), weakref.ref(lease), lease if keep else None)
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
        if self.lane.away_since is not None:
            future.set_result(None)
            if self._alone is not None:
                self._alone.give_back(name)
                self._serve_alone()
        self.lane.stir()
        return future

    def call(
        self, operation: str, arguments: Callable[[], Sequence[object]], *, takes_part: bool = True
    ) -> Call:
        """Say something else; with `takes_part` False as somebody who only looks at the pool."""
        self._agenda.takes_part = self._agenda.takes_part or takes_part
        call = Call(self, operation, arguments, self.open().create_future())
        self._agenda.calls.append(call)
        if self.lane.away_since is not None:
            settle(call.future, None)
        self.lane.stir()
        return call

    def unavailable(self, channel: str | None = None) -> StoreUnavailable:
        """Return the error for whoever cannot be served without the server."""
        since = self.lane.away_since
        away = None if since is None else self._clock.now() - since
        return unavailable(self._link.address, self.lane.why, away, channel)

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

    def next_batch(self) -> Batch | None:
        """Return what to say next; None if there is nothing."""
        return self._agenda.next()

    def strange(self) -> None:
        """Take note that the server does not know this process: it has been away for long, or forgot."""
        self._agenda.known = False

    def went_away(self, why: str, *, refused: bool) -> None:
        """Take note that the server cannot be reached, or refuses."""
        self._agenda.known = False
        if not self._told_away:
            self._told_away = True
            self._tell(events.StoreAway(at=self._clock.now(), address=self._link.address, why=why))
        self.let_go()
        if self._share is not None and self._alone is None and not refused:
            self._alone = self._share(self.mirror.accounts(self._clock.now()), self.claims)
        self._serve_alone()
        for wish in self.claims.wishes():
            if refused or not wish.waits:
                self.fail(wish, self.unavailable(wish.channel))

    def let_go(self) -> None:
        """Have nobody wait for an answer to what is to be said."""
        for told in self.claims.releases.values():
            settle(told, None)
        for call in self._agenda.calls:
            settle(call.future, None)

    def came_back(self, away: float) -> None:
        """Take note that the server answers again."""
        self._told_away, self._alone = False, None
        self._tell(events.StoreBack(at=self._clock.now(), address=self._link.address, away=away))

    # --- what is answered ------------------------------------------------------------------------------

    def took(self, answer: Answer) -> None:
        """Take note of what every answer tells."""
        self._offset = self._clock.now() - answer.now / 1000
        self.mirror.learning_until = self._here(answer.learning) if answer.learning else -math.inf
        if answer.version != self.mirror.version:
            self.mirror.version = answer.version
            self._agenda.must_look = True
        for name, channel, taken in answer.grants:
            self._grant(name, channel, taken)
        self._due = self._here(answer.due) if answer.due < _NO_HURRY else math.inf
        if self.claims.waiting:
            self._arm()

    def counted(self, channel: str, taken: int) -> None:
        """Take note of how many slots of the channel are taken."""
        self.mirror.count(channel, taken)

    def surveyed(self, fields: Sequence[str]) -> None:
        """Take over how the accounts stand; whoever waits for what is not in the map any more is told."""
        self._agenda.must_look = False
        self.mirror.take_over(read_survey(fields), self._offset)
        for wish in list(self.claims.waiting.values()):
            gone = not len(self.mirror) or (wish.channel is not None and not self.mirror.knows(wish.channel))
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

    def stated(self, claims: Sequence[object], answer: Answer, *, leaves: bool) -> None:
        """Take note of what the server says to all that was stated."""
        self._agenda.known = not leaves
        self._confirmed_at = self.lane.sent_at
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
        return no_capacity(self.mirror.shortage(channel, now), channel, now)

    def _grant(self, name: str, channel: str, taken: int | None) -> None:
        if taken is not None:
            self.mirror.count(channel, taken)
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
            self._tell(events.Lost(at=now, channel=holding.channel, lease_id=lease_id, why=why))

    def _here(self, moment: float) -> float:
        """Return a moment of the server's clock on this one, in seconds."""
        return moment / 1000 + self._offset

    # --- when it is said -------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._loop is not None:
            self._heartbeat.arm(waiting=bool(self.claims.waiting), due=self._due)

    def _ring(self) -> None:
        now = self._clock.now()
        if self.lane.out_since is not None and now - self.lane.out_since > self._patience:
            self.lane.unstick()
        self._listener.check()
        if now > self._confirmed_at + self._ttl + self._orphan_ttl:
            for name in list(self.claims.held):
                self._lose(name, "the store could not be told in time that it is still held")
        self.beat_soon()
        self._arm()

    def beat_soon(self) -> None:
        """State everything anew: what the server sees otherwise is then set right."""
        self._agenda.must_beat = True
        self.lane.stir()

    def _listening(self) -> None:
        if self.claims.waiting:
            self.beat_soon()

    def _heard(self, text: str) -> None:
        name, *grant = text.split("\n")
        if grant:
            self._grant(name, grant[0], int(grant[1]))
        elif name != self._process:
            self._agenda.must_look = True
            self.lane.stir()
