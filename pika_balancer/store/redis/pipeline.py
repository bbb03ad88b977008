"""Sends a session's commands, one at a time.

The calls of a process are numbered and never overlap. The server sees them in order and refuses a call that a
later one overtook, so a lost reply or a call that the network delivers late changes nothing twice. Everything
that comes up during a call goes out together with the next one: with many tasks that costs less per task.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pika_balancer.store.redis.commands import Command, Reply, Settings
from pika_balancer.store.redis.connection import Backoff, Connection
from pika_balancer.store.redis.endpoint import Away, Endpoint, ServerRefused
from pika_balancer.store.redis.scripts import script

if TYPE_CHECKING:
    from pika_balancer.store.redis.session import Session

_UNKNOWN_PROCESS: Final = "?"
_OVERTAKEN: Final = "<"


class Pipeline:
    """Sends the commands of a session and hands it the replies; connects again after failures.

    Args:
        session: Where the commands come from.
        endpoint: The server.
        settings: How the process takes part.
    """

    def __init__(self, session: "Session", endpoint: Endpoint, settings: Settings) -> None:
        self._session = session
        self._connection = Connection(endpoint)
        self._settings, self._clock = settings, settings.clock
        self._backoff = Backoff(settings.rng, settings.clock)
        milliseconds = (round(seconds * 1000) for seconds in (settings.lease_ttl, settings.orphan_ttl))
        # The first arguments of every call that never change.
        self._fixed = [str(value).encode() for value in (*milliseconds, settings.policy)]
        self._verb = b"SPUBLISH" if endpoint.is_cluster else b"PUBLISH"
        self._seq = 0
        self._task: asyncio.Task[None] | None = None
        self._connected = False
        self._sent: tuple[Command, Sequence[object]] | None = None
        self._sent_at = 0.0
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._reconnecting = False
        self.replied_to = 0.0
        self.away_since: float | None = None
        self.why = ""

    replied_to: float
    """When the call was sent that was replied to last, on the clock."""
    away_since: float | None
    """Since when the server cannot be reached, on the clock; None while it can, or before the first try."""
    why: str
    """Why it cannot be reached."""

    def notify(self) -> None:
        """Send the session's next command, or start the sender; does nothing during a call."""
        if self._task is None or (self._task.done() and not self._task.cancelled()):
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif self._connected and self._sent is None:
            self._send_next()

    def check(self) -> None:
        """Connect again if a reply has not come in time."""
        overdue = self._sent is not None and self._clock.now() - self._sent_at > self._settings.timeout
        if overdue and self._task is not None and not self._reconnecting:
            self._reconnecting = True
            self._task.cancel()

    async def idle(self) -> None:
        """Return once nothing is left to send and every call is replied to, or the server is away."""
        if (task := self._task) is not None and self.away_since is None:
            await asyncio.wait([self._idle_waiter(), task], return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """Send what is left unless the server is away, for the time of one reply at most; then disconnect."""
        task = self._task
        if task is None:
            return
        idle = self._idle_waiter()
        timer = self._clock.call_later(self._settings.timeout, self._set_idle)
        try:
            if self.away_since is None:
                await asyncio.wait([idle, task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            self._task = None
            task.cancel()
            await asyncio.wait([task])

    def _idle_waiter(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle_waiters.append(waiter)
        self.notify()
        return waiter

    def _set_idle(self) -> None:
        for waiter in self._idle_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._idle_waiters.clear()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._connection.connect(refresh=True)
                    self._connected = True
                    self._send_next()
                    await self._receive()
                except (Away, ServerRefused) as error:
                    await self._interrupted(str(error), refused=isinstance(error, ServerRefused))
        except asyncio.CancelledError:
            if self._task is not None:
                # Not by `stop`: the program ends, so that no caller may wait for a reply or start this anew.
                self.away_since = self._clock.now()
                self._session.resolve_calls()
            raise
        finally:
            self._connected = False
            await self._connection.disconnect()

    async def _receive(self) -> None:
        while True:
            try:
                reply = await self._connection.receive()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # Another cancellation in the same tick would not be repeated: it must not be swallowed.
                if not self._reconnecting or task is None or task.uncancel():
                    raise
                raise Away("no answer in time") from None
            if self._sent is None:
                raise Away("a reply without a call")
            command, arguments = self._sent
            if reply is None:
                self._connection.run(script(command.operation), arguments, whole=True)
                continue
            # `_sent` is kept meanwhile: what the reply makes others send goes out together afterwards.
            self._complete(command, reply.decode())
            self._sent = None
            self._send_next()

    def _send_next(self) -> None:
        command = self._session.next_command()
        if command is None:
            self._set_idle()
            return
        self._seq += 1
        settings = self._settings
        arguments = (
            b"" if settings.server_time is None else settings.server_time(),
            settings.process,
            self._seq,
            *self._fixed,
            settings.rng.random(),
            self._verb,
            *command.arguments(),
        )
        self._sent, self._sent_at = (command, arguments), self._clock.now()
        self._connection.run(script(command.operation), arguments)

    def _complete(self, command: Command, text: str) -> None:
        if self.away_since is not None:
            away, self.away_since = self._clock.now() - self.away_since, None
            self._session.on_back(away)
        self._backoff.reset()
        if text == _UNKNOWN_PROCESS:
            self._session.on_unknown()
            command.failed(maybe_done=False)
        elif text == _OVERTAKEN:
            command.failed(maybe_done=True)
        else:
            self.replied_to = self._sent_at
            reply = Reply.parse(text)
            self._session.apply(reply)
            command.done(reply)

    async def _interrupted(self, why: str, *, refused: bool) -> None:
        self._connected = self._reconnecting = False
        sent, self._sent = self._sent, None
        await self._connection.disconnect()
        if self.away_since is None:
            self.away_since = self._clock.now()
        self.why = why
        if sent is not None:
            sent[0].failed(maybe_done=True)
        self._session.on_away(why, refused=refused)
        self._set_idle()
        await self._backoff.pause()
