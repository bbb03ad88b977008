"""The way in, which can be shut: whoever waits on it is told why, and so is whoever comes later."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pika_balancer.errors import PikaError

T = TypeVar("T")


class Gate:
    """Lets waits through until it is shut for a reason."""

    def __init__(self) -> None:
        self.why: PikaError | None = None
        self._waiting: set[asyncio.Timeout] = set()

    why: PikaError | None
    """Why it is shut; None while it is open."""

    def shut(self, why: PikaError) -> None:
        """Fail all waits, now and from now on; the first reason stays."""
        if self.why is None:
            self.why = why
        now = asyncio.get_running_loop().time()
        while self._waiting:
            self._waiting.pop().reschedule(now)

    def check(self) -> None:
        """Raise the reason if it is shut, each time an error of its own."""
        if self.why is not None:
            raise copy.copy(self.why)

    async def wait(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Return what `begin()` leads to; if the gate is shut first, cancel that and raise the reason."""
        self.check()
        try:
            async with asyncio.timeout(None) as waiting:
                self._waiting.add(waiting)
                try:
                    return await begin()
                finally:
                    self._waiting.discard(waiting)
        except TimeoutError:
            self.check()
            raise
