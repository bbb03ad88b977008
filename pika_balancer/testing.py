"""Helpers for tests of programs that use this library: a manual clock, waiting, and the local server.

`LocalServer` is a context manager. With pytest-asyncio in auto mode:

```python
import pytest

from pika_balancer import Balancer, Dispatcher, PikaClient, PromptRejected
from pika_balancer.testing import LocalServer


@pytest.fixture
async def base_url():
    server = LocalServer({"100000000000000001": 1}, service="fixed:0s", faults=["422:1"])
    async with server.run() as url:
        yield url


async def test_a_rejected_prompt_frees_its_slot(base_url):
    async with PikaClient("token", base_url=base_url) as client:
        async with await Balancer.from_client(client) as balancer, Dispatcher(client, balancer) as dispatcher:
            with pytest.raises(PromptRejected):
                await dispatcher.run("create", prompt="a cat on a skateboard")
            assert balancer.snapshot().in_flight == 0
```
"""

import asyncio
import heapq
from collections.abc import Callable

from pika_balancer.clock import Clock, SystemClock
from pika_balancer.server import LocalServer

__all__ = ["LocalServer", "ManualClock", "settle", "wait_until"]


class _Alarm:
    """A scheduled call of a `ManualClock`."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object] | None) -> None:
        self.callback = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """A `Clock` that moves only when `advance()` is called."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._serial = 0
        self._alarms: list[tuple[float, int, _Alarm]] = []

    def now(self) -> float:
        """Return the time in seconds."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has advanced by `seconds`; zero or less yields to the event loop once."""
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
        """Call `callback()` once the clock has advanced by `seconds`."""
        alarm = _Alarm(callback)
        self._serial += 1
        heapq.heappush(self._alarms, (self._now + seconds, self._serial, alarm))
        return alarm

    @property
    def sleeping(self) -> int:
        """Number of sleepers and scheduled calls."""
        return sum(alarm.callback is not None for _, _, alarm in self._alarms)

    async def advance(self, seconds: float) -> None:
        """Advance the clock; each scheduled call runs at its own time, before the next one."""
        if seconds < 0:
            raise ValueError("seconds must be 0 or more; a clock does not go back")
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
    """Let the event loop run for `turns` iterations."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def wait_until(
    condition: Callable[[], bool], *, timeout: float = 60.0, clock: Clock | None = None
) -> None:
    """Return as soon as `condition()` is true; raise `TimeoutError` after `timeout` seconds of `clock`."""
    clock = clock or SystemClock()
    deadline = clock.now() + timeout
    while not condition():
        if clock.now() > deadline:
            raise TimeoutError(f"condition still false after {timeout} s: {condition!r}")
        await asyncio.sleep(0.001)
