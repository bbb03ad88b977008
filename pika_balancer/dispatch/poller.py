"""Polls many jobs periodically, spread over time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from pika_balancer._util.tasks import Tasks
from pika_balancer.clock import Clock, Timer

AT_ONCE: Final = 8
"""Maximum number of polls under way."""
_SPREAD: Final = 0.2
_SOON: Final = 2.0
_MOST_DOUBLINGS: Final = 3


class Poller:
    """Calls `poll` periodically for each key, at most `AT_ONCE` at a time.

    Args:
        poll: Polls the job of a key; returns whether that worked. Must not raise.
        every: Seconds between two polls of one key, ±20 %; doubled by each failure in a row, up to 8 times.
        rng: Spreads the polls.
        clock: Measures the interval.
    """

    def __init__(
        self, poll: Callable[[str], Awaitable[bool]], *, every: float, rng: random.Random, clock: Clock
    ) -> None:
        self._call = poll
        self._every = every
        self._rng = rng
        self._clock = clock
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks = Tasks()
        # The timer of a key's last scheduled poll also tells if the key was removed while that poll runs.
        self._timers: dict[str, Timer] = {}
        self._closed = False

    def add(self, key: str, *, soon: bool = False) -> None:
        """Poll the key from now on, first after the interval, or within two seconds if `soon`."""
        self._schedule(key, 0, self._rng.uniform(0, min(_SOON, self._every)) if soon else None)

    def remove(self, key: str) -> None:
        """Stop polling the key; a poll under way runs to its end."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()

    async def close(self) -> None:
        """Stop polling; return once no poll is under way."""
        self._closed = True
        for key in tuple(self._timers):
            self.remove(key)
        await self._tasks.cancel()

    def _schedule(self, key: str, failures: int, pause: float | None = None) -> None:
        if pause is None:
            pause = self._every * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD)
            pause *= 2.0 ** min(failures, _MOST_DOUBLINGS)
        if not self._closed:
            self._timers[key] = self._clock.call_later(pause, partial(self._start, key, failures))

    def _start(self, key: str, failures: int) -> None:
        self._tasks.spawn(self._poll(key, failures))

    async def _poll(self, key: str, failures: int) -> None:
        timer = self._timers.get(key)
        async with self._slots:
            if timer is None or self._timers.get(key) is not timer:
                return
            worked = await self._call(key)
        if self._timers.get(key) is timer:
            self._schedule(key, 0 if worked else failures + 1)
