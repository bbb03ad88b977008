"""One call of the service from its request to its value or error, with a GET's retries.

No frame of this room holds a token in the clear, and an error that leaves it has no foreign frames behind it.
"""

import logging
import random
from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs

from pika_balancer import wire
from pika_balancer.clock import Clock
from pika_balancer.errors import (
    ConnectFailed,
    ConnectionLost,
    LostTrack,
    PikaError,
    RateLimited,
    RequestTimeout,
    ServiceError,
)
from pika_balancer.models import Secret
from pika_balancer.transport import Transport
from pika_balancer.wire import Request

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0
_FLAKY: Final = frozenset({500, 502, 503})
_PASSING: Final = (ConnectFailed, ConnectionLost, RequestTimeout, RateLimited, LostTrack)

_log = logging.getLogger("pika_balancer.client")


@attrs.frozen
class Calls:
    """Makes calls over one transport."""

    transport: Transport = attrs.field(repr=False)
    """Carries a request, once."""
    token: Secret
    """The API token, which no message may show."""
    retries: int
    """How often a failed GET is repeated at most."""
    clock: Clock
    """Runs deadlines and pauses."""
    rng: random.Random
    """Draws the pauses."""
    wall: Callable[[], float]
    """Seconds since 1970."""

    async def make(self, request: Request[T], deadline: float) -> T:
        """Return the value of the request by `deadline`, a moment on the clock.

        Raises:
            PikaError: The call failed. Only a GET is ever repeated before that.
        """
        attempt = 0
        while True:
            try:
                result = await self._attempt(request, deadline)
            except BaseException as stop:
                # A cancellation has come through aiohttp's frames, whose locals hold the tokens.
                stop.__traceback__ = stop.__context__ = stop.__cause__ = None
                raise
            if not isinstance(result, PikaError):
                return result
            pause = self._pause(request, result, attempt)
            if pause is None or pause >= deadline - self.clock.now():
                break
            attempt += 1
            what = (request.method, request.path, type(result).__name__)
            _log.debug("%s %s failed: %s; retry %d in %.2f s", *what, attempt, pause)
            await self.clock.sleep(pause)
        try:
            raise result
        finally:
            del result  # the error's traceback refers to this frame

    async def _attempt(self, request: Request[T], deadline: float) -> T | PikaError:
        answer = await self.transport.send(request, deadline - self.clock.now())
        if isinstance(answer, PikaError):
            return answer
        return wire.outcome(request, answer, now=self.wall(), secrets=(self.token,))

    def _pause(self, request: Request[Any], error: PikaError, attempt: int) -> float | None:
        """Return the seconds to wait before the next attempt, with full jitter; None if there is none."""
        passing = isinstance(error, _PASSING) or (isinstance(error, ServiceError) and error.status in _FLAKY)
        if not request.idempotent or not passing or attempt >= self.retries:
            return None
        jitter = self.rng.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt))
        return max(jitter, error.retry_after or 0.0)
