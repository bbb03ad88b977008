"""Time as an argument: the clock that every room with a sense of time is handed."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol


class Timer(Protocol):
    """A call that has been arranged for later."""

    def cancel(self) -> None:
        """Call it off; does nothing once it has happened."""
        ...


class Clock(Protocol):
    """What the library asks of time. All values are float seconds."""

    def now(self) -> float:
        """Return seconds since an arbitrary moment; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return once `now()` has moved on by `seconds`; zero or less yields once."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Arrange for `callback()` once `now()` has moved on by `seconds`, in the running event loop."""
        ...


class SystemClock:
    """The machine's monotonic clock and the running event loop's timers."""

    # The bare function, not a method around it: the clock is read at every grant.
    now = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Sleep in the running event loop."""
        await asyncio.sleep(max(0.0, seconds))

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Arrange a call in the running event loop."""
        return asyncio.get_running_loop().call_later(max(0.0, seconds), callback)


@asynccontextmanager
async def alarm(window: asyncio.Timeout, clock: Clock, seconds: float) -> AsyncGenerator[None]:
    """Let `window` expire after so many seconds of a clock that need not be the event loop's.

    `async with asyncio.timeout(None) as window, alarm(window, clock, 30): ...`
    """
    loop = asyncio.get_running_loop()
    timer = clock.call_later(seconds, lambda: window.reschedule(loop.time()))
    try:
        yield
    finally:
        timer.cancel()
