"""The server's time: moments of its clock, the wall time of each, and calls that are due."""

import asyncio
import datetime as dt
import functools
import heapq
import math
from collections.abc import Callable

from pika_balancer.clock import Clock, Timer

_UNIX_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Timeline:
    """Calls functions at their moments, in order, while it is started; one heap and one timer for all.

    `stop` keeps the entries, so that a restarted server ends the jobs that it had.

    Args:
        clock: Source of the moments.
        epoch: Wall time of the moment at which the timeline is made.
    """

    def __init__(self, clock: Clock, epoch: dt.datetime) -> None:
        self.clock = clock
        self.origin = clock.now()
        """The moment of `epoch`."""
        self._epoch_ms = round(epoch.timestamp() * 1000)
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._timer: Timer | None = None
        self._armed_for = math.inf
        self._delays: set[asyncio.Future[None]] = set()
        self._started = False

    def unix_ms(self, moment: float) -> int:
        """Return the milliseconds since 1970 at `moment`."""
        return self._epoch_ms + round((moment - self.origin) * 1000)

    def iso(self, moment: float) -> str:
        """Return `moment` as ISO 8601 with milliseconds and `Z`."""
        return utc(self.unix_ms(moment)).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"

    def start(self) -> None:
        """Begin to call what is due; needs a running event loop. Raises `RuntimeError` if started."""
        if self._started:
            raise RuntimeError("this server is already running: stop it first, or make a second one")
        self._started = True
        self._arm()

    def stop(self) -> None:
        """Stop calling, and let every `delay()` return now."""
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
        self.at(self.clock.now() + seconds, functools.partial(_resolve, future))
        try:
            await future
        finally:
            self._delays.discard(future)

    def _arm(self) -> None:
        self._disarm()
        if not self._entries:
            return
        self._armed_for = self._entries[0][0]
        wait = self._armed_for - self.clock.now()
        # What is already due must not wait for the clock to move.
        if wait > 0:
            self._timer = self.clock.call_later(wait, self._call)
        else:
            self._timer = asyncio.get_running_loop().call_soon(self._call)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._armed_for = math.inf

    def _call(self) -> None:
        now = self.clock.now()
        while self._entries and self._entries[0][0] <= now:
            heapq.heappop(self._entries)[2]()
        self._arm()


def utc(ms: int) -> dt.datetime:
    """Return the UTC time of so many milliseconds since 1970."""
    return _UNIX_EPOCH + dt.timedelta(milliseconds=ms)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
