"""Hears what is published for a process, over one connection that is made again whenever it breaks.

A network that swallows everything without a word does not look broken: so the server is asked now and then.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from pika_balancer.clock import Clock, Timer
from pika_balancer.store.link import Away, Link, Refusal

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class Listener:
    """Listens from `start` to `stop`.

    Args:
        link: The way to the server.
        process: Who listens.
        heard: Is told of every message.
        ready: Called whenever messages arrive again: what was said before that is lost.
        patience: Seconds for which an answer to `check` is waited for.
        rng: Spreads the attempts.
        clock: Measures the pauses.
    """

    def __init__(
        self,
        link: Link,
        process: str,
        heard: Callable[[str], object],
        ready: Callable[[], object],
        *,
        patience: float,
        rng: random.Random,
        clock: Clock,
    ) -> None:
        self._link = link
        self._process = process
        self._heard = heard
        self._ready = ready
        self._patience = patience
        self._rng = rng
        self._clock = clock
        self._failures = 0
        self._check: Timer | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_listening = False

    is_listening: bool
    """Whether messages arrive."""

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Listen no more, and disconnect."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def check(self) -> None:
        """Make the connection again unless the server soon gives a sign of life there."""
        if self._check is None and self._link.probe():
            self._check = self._clock.call_later(self._patience, self._link.cut)

    async def _run(self) -> None:
        while True:
            try:
                await self._link.listen(self._process, self._hear, self._is_ready, self._checked)
            except (Away, Refusal):
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**self._failures)
                self._failures += 1
            else:
                pause = _FIRST_PAUSE
            finally:
                self.is_listening = False
                self._checked()
            await self._clock.sleep(pause * self._rng.uniform(0.5, 1.5))

    def _checked(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _hear(self, text: str) -> None:
        self._heard(text)

    def _is_ready(self) -> None:
        self._failures = 0
        self.is_listening = True
        self._ready()
