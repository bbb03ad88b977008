"""When a process next has to show itself: every so often, and sooner if somebody waits for something."""

import math
from collections.abc import Callable
from typing import Final

from pika_balancer.clock import Clock, Timer

_WHILE_WAITING: Final = 5.0
_TICK: Final = 0.005


class Heartbeat:
    """One alarm, set for the next beat.

    Args:
        ttl: Seconds after which a process counts as dead of which nothing is heard; a beat comes at a third.
        ring: Called when a beat is due.
        clock: Measures time.
    """

    def __init__(self, ttl: float, ring: Callable[[], object], clock: Clock) -> None:
        self._every = ttl / 3
        self._ring = ring
        self._clock = clock
        self._last = -math.inf
        self._timer: Timer | None = None
        self._at = math.inf

    def beaten(self) -> None:
        """Take note that there has been a beat just now, or the beginning."""
        self._last = self._clock.now()

    def arm(self, *, waiting: bool, due: float) -> None:
        """Set the alarm.

        Args:
            waiting: Whether somebody waits in line: whose wake-up may have got lost.
            due: When something may happen on the server that has to be called for then, on the clock.
        """
        moment = self._last + self._every
        if waiting:
            # The server's clock may be a moment behind: then not the same alarm again at once.
            moment = min(moment, self._last + _WHILE_WAITING, max(due, self._last + _TICK))
        if moment != self._at:
            self.stop()
            self._at = moment
            self._timer = self._clock.call_later(moment - self._clock.now(), self._rings)

    def stop(self) -> None:
        """Call the alarm off."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at = None, math.inf

    def _rings(self) -> None:
        self._timer, self._at = None, math.inf
        self.beaten()
        self._ring()
