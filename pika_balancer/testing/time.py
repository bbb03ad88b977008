"""Time in the hands of a test: a clock that it moves, and waiting for what is to come about."""

import asyncio
import heapq
from collections.abc import Callable

from pika_balancer.clock import Clock, SystemClock


class _Alarm:
    """A call that a `ManualClock` owes."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object] | None) -> None:
        self.callback = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """A `Clock` that stands still until `advance()` moves it."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._serial = 0
        self._alarms: list[tuple[float, int, _Alarm]] = []

    def now(self) -> float:
        """Return the time to which the clock was last moved, in seconds."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been moved on by `seconds`; zero or less yields once."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = self.call_later(seconds, lambda: None if future.done() else future.set_result(None))
        try:
            await future
        finally:
            alarm.cancel()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> _Alarm:
        """Arrange for `callback()` once the clock has been moved on by `seconds`."""
        alarm = _Alarm(callback)
        self._serial += 1
        heapq.heappush(self._alarms, (self._now + seconds, self._serial, alarm))
        return alarm

    @property
    def sleeping(self) -> int:
        """How many sleepers and calls wait for the clock to move."""
        return sum(alarm.callback is not None for _, _, alarm in self._alarms)

    async def advance(self, seconds: float) -> None:
        """Move the clock on, waking each sleeper at its own moment and letting it run before the next."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        target = self._now + seconds
        await settle()
        while self._alarms and self._alarms[0][0] <= target:
            due, _, alarm = heapq.heappop(self._alarms)
            self._now = max(self._now, due)
            if alarm.callback is not None:
                callback, alarm.callback = alarm.callback, None
                callback()
                await settle()
        self._now = target
        await settle()


async def settle(turns: int = 20) -> None:
    """Let everything that is ready in the event loop run, `turns` turns long."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def wait_until(
    condition: Callable[[], bool], *, timeout: float = 10.0, clock: Clock | None = None
) -> None:
    """Return as soon as `condition()` holds; raise `TimeoutError` after `timeout` seconds of `clock`."""
    clock = clock or SystemClock()
    deadline = clock.now() + timeout
    while not condition():
        if clock.now() > deadline:
            raise TimeoutError(f"condition still false after {timeout} s: {condition!r}")
        await asyncio.sleep(0.001)
