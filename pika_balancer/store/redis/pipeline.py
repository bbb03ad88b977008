"""One call at a time to the server, each with everything that has come up since the last.

A process's calls are numbered and never overlap, so the server sees them in order and refuses one that was
overtaken: a reply that was lost, or a call that a network delivered late, changes nothing twice. Whoever has
something to say meanwhile says it with the next call, together with everybody else; that also is why a crowd
costs less per head than one alone.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import attrs

from pika_balancer.clock import Clock
from pika_balancer.store.redis.connection import Away, Connection, ServerRefused
from pika_balancer.store.redis.scripts import script

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


@attrs.frozen
class Reply:
    """What the server said."""

    grants: tuple[tuple[str, str, int], ...]
    """What was handed over to waiters of this process: lease, channel, how many are counted there."""
    now: int
    """The moment, in milliseconds of the server's clock."""
    version: str
    """Of the account map."""
    learning: int
    """Until when the server only counts, 0 if it does not."""
    due: int
    """When it next has to be called, in case somebody waits."""
    items: Sequence[str]
    """What the operation tells."""

    @classmethod
    def read(cls, text: str) -> "Reply":
        """Return the answer that the text is."""
        fields = text.split("\n")
        rest = 1 + 3 * int(fields[0])
        grants = tuple((fields[at], fields[at + 1], int(fields[at + 2])) for at in range(1, rest, 3))
        return cls(
            grants,
            int(fields[rest]),
            fields[rest + 1],
            int(fields[rest + 2]),
            int(fields[rest + 3]),
            fields[rest + 4 :],
        )


class Command(Protocol):
    """What one call says."""

    operation: str
    """Name of the script."""

    def arguments(self) -> Sequence[object]:
        """Return its own arguments, as of now."""
        ...

    def done(self, answer: Reply) -> None:
        """Take the answer."""
        ...

    def failed(self, why: str, *, refused: bool = False) -> None:
        """Take note that there will be none.

        Args:
            why: Words for it; then nobody knows whether it was done. Empty if it surely was not.
            refused: Whether it would be in vain to say it again.
        """
        ...


class Desk(Protocol):
    """Whoever has something to say."""

    def next_batch(self) -> Command | None:
        """Return what to say next; None if there is nothing."""
        ...

    def strange(self) -> None:
        """Take note that the server does not know the process: it has to be told first who it is."""
        ...

    def went_away(self, why: str, *, refused: bool) -> None:
        """Take note that the server cannot be reached, or refuses, as from now."""
        ...

    def detach(self) -> None:
        """Have nobody wait for an answer."""
        ...

    def came_back(self, away: float) -> None:
        """Take note that it answers again, after so many seconds."""
        ...


class Pipeline:
    """Says what its desk has to say, one call after another.

    Args:
        link: The way to the server.
        desk: Who has something to say.
        head: The arguments that begin every call, without moment, number and chance: process, ttl,
            orphan_ttl, policy.
        server_time: For tests: returns milliseconds in place of the server's TIME.
        rng: Chance for picks and pauses.
        clock: Measures pauses.
    """

    def __init__(
        self,
        connection: Connection,
        desk: Desk,
        head: tuple[str, int, int, str],
        *,
        server_time: Callable[[], int] | None,
        rng: random.Random,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._desk = desk
        self._process, *self._fixed = (str(value).encode() for value in head)
        self._verb = connection.verb.encode()
        self._server_time = server_time
        self._rng = rng
        self._clock = clock
        self._seq = 0
        self._task: asyncio.Task[None] | None = None
        self._connected = False
        self._out: tuple[Command, Sequence[object]] | None = None
        self._until: list[asyncio.Future[None]] = []
        self._failures = 0
        self._stuck = False
        self.out_since: float | None = None
        self.sent_at = 0.0
        self.away_since: float | None = None
        self.why = ""

    out_since: float | None
    """Since when an answer is waited for, on the clock; None while none is."""
    sent_at: float
    """When the call was sent whose answer came last, on the clock."""
    away_since: float | None
    """Since when the server cannot be reached; None while it can, or has never been tried."""
    why: str
    """Why it cannot."""

    def notify(self) -> None:
        """See to it that everything that is to be said gets said: at once, if no answer is waited for."""
        if self._task is None or (self._task.done() and not self._task.cancelled()):
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif self._connected and self._out is None:
            self._say_next()

    def unstick(self) -> None:
        """Give up waiting for an answer: the server does not tell, or its words were lost."""
        if self._task is not None and self._out is not None and not self._stuck:
            self._stuck = True
            self._task.cancel()

    async def said(self) -> None:
        """Return once every call is answered and nothing is left to be said, or it cannot be said now."""
        if (task := self._task) is not None and self.away_since is None:
            await asyncio.wait([self._nothing_left(), task], return_when=asyncio.FIRST_COMPLETED)

    async def end(self, patience: float) -> None:
        """Return once nothing is left to be said, or it cannot be said now; then disconnect.

        Args:
            patience: Seconds after which it is not tried any longer.
        """
        task = self._task
        if task is None:
            return
        said = self._nothing_left()
        timer = self._clock.call_later(patience, lambda: None if said.done() else said.set_result(None))
        try:
            if self.away_since is None:
                await asyncio.wait([said, task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            self._task = None
            task.cancel()
            await asyncio.wait([task])

    def _nothing_left(self) -> asyncio.Future[None]:
        said: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._until.append(said)
        self.notify()
        return said

    def _all_said(self) -> None:
        for said in self._until:
            if not said.done():
                said.set_result(None)
        self._until.clear()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._connection.connect()
                    self._connected = True
                    self._say_next()
                    await self._hear()
                except (Away, ServerRefused) as error:
                    await self._interrupted(str(error), refused=isinstance(error, ServerRefused))
        except asyncio.CancelledError:
            if self._task is not None:
                # Not by `end`: the whole program ends, and nobody is to wait, or to begin this anew.
                self.away_since = self._clock.now()
                self._desk.detach()
            raise
        finally:
            self._connected = False
            await self._connection.disconnect()

    async def _hear(self) -> None:
        while True:
            try:
                text = await self._connection.receive()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # Whoever else has cancelled it in the same tick will not do it again.
                if not self._stuck or task is None or task.uncancel():
                    raise
                raise Away("no answer in time") from None
            if self._out is None:
                raise Away("an answer that nobody asked for")
            batch, arguments = self._out
            if text is None:
                self._connection.send(script(batch.operation), arguments, whole=True)
                continue
            # Only then is the next one said: whatever the answer makes others say has to wait.
            self._answered(batch, text)
            self._out = None
            self._say_next()

    def _say_next(self) -> None:
        batch = self._desk.next_batch()
        if batch is None:
            self._all_said()
            return
        self._seq += 1
        arguments = (
            b"" if self._server_time is None else self._server_time(),
            self._process,
            self._seq,
            *self._fixed,
            self._rng.random(),
            self._verb,
            *batch.arguments(),
        )
        self._out = batch, arguments
        self.out_since = self._clock.now()
        self._connection.send(script(batch.operation), arguments)

    def _answered(self, batch: Command, text: str) -> None:
        sent_at, self.out_since = self.out_since or 0.0, None
        if self.away_since is not None:
            away, self.away_since = self._clock.now() - self.away_since, None
            self._desk.came_back(away)
        self._failures = 0
        if text == "?":
            self._desk.strange()
            batch.failed("")
        elif text == "<":
            batch.failed("overtaken")
        else:
            self.sent_at = sent_at
            batch.done(Reply.read(text))

    async def _interrupted(self, why: str, *, refused: bool) -> None:
        self._connected = self._stuck = False
        out, self._out, self.out_since = self._out, None, None
        await self._connection.disconnect()
        if self.away_since is None:
            self.away_since = self._clock.now()
        self.why = why
        if out is not None:
            out[0].failed(why, refused=refused)
        self._desk.went_away(why, refused=refused)
        self._all_said()
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**self._failures)
        self._failures += 1
        # Spread, so that all the processes of a pool do not come back in the same moment.
        await self._clock.sleep(pause * self._rng.uniform(0.5, 1.5))
