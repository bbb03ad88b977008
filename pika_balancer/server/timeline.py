"""Things that are due at a moment: one heap and one timer for any number of entries."""

import asyncio
import functools
import heapq
import math
from collections.abc import Callable

from pika_balancer.clock import Clock, Timer


class Timeline:
    """Calls functions at their moments on a clock, in order, while it is started.

    A stop keeps the entries, so that a restarted server ends the jobs that it had.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._timer: Timer | None = None
        self._armed_for = math.inf
        self._delays: set[asyncio.Future[None]] = set()
        self._started = False

    def start(self) -> None:
        """Begin to call what is due; needs a running event loop. Raises `RuntimeError` if started."""
        if self._started:
            raise RuntimeError("this server runs already; stop it first, or make a second one")
        self._started = True
        self._arm()

    def stop(self) -> None:
        """Call nothing any more, and let every `delay()` return now."""
        self._started = False
        self._disarm()
        for future in self._delays:
            _resolve(future)

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Call `action` at `moment`, never within this call; equal moments keep their order."""
        self._serial += 1
        heapq.heappush(self._entries, (moment, self._serial, action))
        if self._started and moment < self._armed_for:
            self._arm()

    async def delay(self, seconds: float) -> None:
        """Return after `seconds` of the clock, or as soon as the timeline is stopped."""
        if not self._started:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._delays.add(future)
        self.at(self._clock.now() + seconds, functools.partial(_resolve, future))
        try:
            await future
        finally:
            self._delays.discard(future)

    def _arm(self) -> None:
        self._disarm()
        if not self._entries:
            return
        self._armed_for = self._entries[0][0]
        wait = self._armed_for - self._clock.now()
        # What is due already needs no movement of the clock, only another turn of the loop.
        if wait > 0:
            self._timer = self._clock.call_later(wait, self._call)
        else:
            self._timer = asyncio.get_running_loop().call_soon(self._call)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._armed_for = math.inf

    def _call(self) -> None:
        now = self._clock.now()
        while self._entries and self._entries[0][0] <= now:
            heapq.heappop(self._entries)[2]()
        self._arm()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
