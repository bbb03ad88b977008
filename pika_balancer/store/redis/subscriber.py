"""Receives the messages that other processes and the server send to this process."""

import asyncio
import random
from collections import deque
from collections.abc import Callable

from pika_balancer.clock import Clock, Timer
from pika_balancer.store.redis.connection import Away, Backoff, Connection, ServerRefused


class Subscriber:
    """Receives messages for a process from `start` to `stop`; connects again after failures.

    Args:
        connection: The connection to the server.
        process: Id of the process.
        on_message: Called with each message.
        on_ready: Called when messages arrive (again); messages sent before that are lost.
        timeout: Seconds to wait for a reply to `check`.
        rng: Spreads the attempts.
        clock: Measures the pauses.
    """

    def __init__(
        self,
        connection: Connection,
        process: str,
        on_message: Callable[[str], object],
        on_ready: Callable[[], object],
        *,
        timeout: float,
        rng: random.Random,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._process = process
        self._on_message = on_message
        self._on_ready = on_ready
        self._timeout = timeout
        self._clock = clock
        self._backoff = Backoff(rng, clock)
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
            self._deadline = self._clock.call_later(self._timeout, self._connection.abort_listening)

    async def caught_up(self) -> None:
        """Return once every message has arrived that was sent before this call, if any can arrive."""
        if self._is_listening and (pong := self._ping()) is not None:
            await pong

    async def _run(self) -> None:
        while True:
            try:
                await self._connection.listen(self._process, self._on_message, self._ready, self._pong)
            except (Away, ServerRefused):
                pass
            finally:
                self._is_listening = False
                self._disarm()
                while self._pings:
                    self._pong()
            await self._backoff.pause()

    def _ping(self) -> asyncio.Future[None] | None:
        """Return a future that is done once the server has replied; messages and replies come in order."""
        if not self._connection.ping():
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

    def _ready(self) -> None:
        self._backoff.reset()
        self._is_listening = True
        self._on_ready()
