"""The clock that is passed to everything that depends on time."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call; does nothing once it has run."""
        ...


class Clock(Protocol):
    """Source of time. All values are float seconds."""

    def now(self) -> float:
        """Return the seconds since an arbitrary start; never decreases."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return once `now()` has grown by `seconds`; zero or less yields to the event loop once."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback()` in the running event loop once `now()` has grown by `seconds`."""
        ...


class SystemClock:
    """The machine's monotonic clock and the running event loop's timers."""

    # The bare function, not a method: every grant reads the clock.
    now = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, seconds), callback)


@asynccontextmanager
async def alarm(window: asyncio.Timeout, clock: Clock, seconds: float) -> AsyncGenerator[None]:
    """Let `window` expire after `seconds` of `clock`, which need not be the event loop's.

    `async with asyncio.timeout(None) as window, alarm(window, clock, 30): ...`
    """
    loop = asyncio.get_running_loop()
    timer = clock.call_later(seconds, lambda: window.reschedule(loop.time()))
    try:
        yield
    finally:
        timer.cancel()
