"""Looking at each of many jobs again and again, spread over time: never all at once."""

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable
from typing import Final

from pika_balancer.clock import Clock, Timer

AT_ONCE: Final = 8
"""How many looks are under way at most."""
_SPREAD: Final = 0.2
_SOON: Final = 2.0
_MOST_DOUBLINGS: Final = 3


class Poller:
    """Calls `look` for each key every so often, for as long as the key is in it.

    Args:
        look: Looks at what the key names; returns whether that worked. Must not raise.
        every: Seconds between two looks at one key, give or take a fifth. After a look that did not work it
            is twice as long, up to eight times.
        rng: Spreads the looks.
        clock: Measures the seconds.
    """

    def __init__(
        self, look: Callable[[str], Awaitable[bool]], *, every: float, rng: random.Random, clock: Clock
    ) -> None:
        self._look = look
        self._every = every
        self._rng = rng
        self._clock = clock
        self._serial = 0
        self._turns: dict[str, int] = {}
        self._line: list[tuple[float, int, str]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._failures: dict[str, int] = {}
        self._timer: Timer | None = None
        self._closed = False

    def add(self, key: str, *, soon: bool = False) -> None:
        """Begin to look at what the key names, `every` from now.

        Args:
            key: Names it.
            soon: Whether to begin within two seconds: for what may have ended long ago.
        """
        self._put(key, self._rng.uniform(0, min(_SOON, self._every)) if soon else self._pause())

    def discard(self, key: str) -> None:
        """Look at it no more; a look that is under way ends by itself."""
        self._turns.pop(key, None)
        self._failures.pop(key, None)

    async def close(self) -> None:
        """Look at nothing any more; returns once no look is under way."""
        self._closed = True
        self._turns.clear()
        self._disarm()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _pause(self, failures: int = 0) -> float:
        often = self._every * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD)
        return often * 2.0 ** min(failures, _MOST_DOUBLINGS)

    def _put(self, key: str, pause: float) -> None:
        if self._closed:
            return
        self._serial += 1
        self._turns[key] = self._serial
        heapq.heappush(self._line, (self._clock.now() + pause, self._serial, key))
        if self._line[0][1] == self._serial:  # otherwise what comes first is seen to already
            self._go_on()

    def _go_on(self) -> None:
        """Begin what is due, as far as that may be, and see to it that the next is not forgotten."""
        self._disarm()
        while self._line and len(self._running) < AT_ONCE:
            moment, turn, key = self._line[0]
            if self._turns.get(key) == turn:
                wait = moment - self._clock.now()
                if wait > 0:
                    self._timer = self._clock.call_later(wait, self._go_on)
                    return
                task = asyncio.get_running_loop().create_task(self._turn(key, turn))
                self._running.add(task)
                task.add_done_callback(self._over)
            heapq.heappop(self._line)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _turn(self, key: str, turn: int) -> None:
        worked = await self._look(key)
        if self._turns.get(key) == turn:
            failures = self._failures[key] = 0 if worked else self._failures.get(key, 0) + 1
            self._put(key, self._pause(failures))

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._closed:
            self._go_on()
