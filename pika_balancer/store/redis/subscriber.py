"""Receives the messages that the server publishes for this process."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from pika_balancer.clock import Timer
from pika_balancer.store.redis.commands import Settings
from pika_balancer.store.redis.connection import Backoff, Connection
from pika_balancer.store.redis.endpoint import Away, Endpoint, ServerRefused

if TYPE_CHECKING:
    from pika_balancer.store.redis.session import Session


class Subscriber:
    """Hands messages to the session from `start` to `stop`; connects again after failures.

    Args:
        session: Receives the messages.
        endpoint: The server.
        settings: How the process takes part.
    """

    def __init__(self, session: "Session", endpoint: Endpoint, settings: Settings) -> None:
        self._session = session
        self._connection = Connection(endpoint)
        self._settings = settings
        self._subscribe = b"SSUBSCRIBE" if endpoint.is_cluster else b"SUBSCRIBE"
        self._channels = (f"{endpoint.prefix}to:{settings.process}", f"{endpoint.prefix}news")
        self._backoff = Backoff(settings.rng, settings.clock)
        self._deadline: Timer | None = None
        self._pings: deque[asyncio.Future[None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_listening = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def check(self) -> None:
        """Connect again unless the server replies to a PING in time."""
        if self._deadline is None and self._ping() is not None:
            self._deadline = self._settings.clock.call_later(self._settings.timeout, self._connection.abort)

    async def caught_up(self) -> None:
        """Return once every message has arrived that was sent before this call, if any can arrive."""
        if self._is_listening and (pong := self._ping()) is not None:
            await pong

    async def _run(self) -> None:
        while True:
            try:
                await self._connection.connect(refresh=False)
                await self._receive()
            except (Away, ServerRefused):
                pass
            finally:
                self._is_listening = False
                self._disarm()
                while self._pings:
                    self._pong()
                await self._connection.disconnect()
            await self._backoff.pause()

    async def _receive(self) -> None:
        self._connection.send(self._subscribe, *self._channels)
        confirmed = 0
        while True:
            kind, *rest = await self._connection.receive()
            if kind in (b"message", b"smessage"):
                self._session.on_message(rest[1].decode())
            elif kind in (b"subscribe", b"ssubscribe"):
                confirmed += 1
                if confirmed == len(self._channels):
                    self._backoff.reset()
                    self._is_listening = True
                    self._session.on_subscribed()
            elif kind == b"pong":
                self._pong()

    def _ping(self) -> asyncio.Future[None] | None:
        """Return a future that is done once the server has replied; messages and replies come in order."""
        if not self._connection.send(b"PING"):
            return None
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pings.append(pong)
        return pong

    def _pong(self) -> None:
        if self._pings and not (pong := self._pings.popleft()).done():
            pong.set_result(None)
        self._disarm()

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
