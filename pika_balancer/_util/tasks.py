"""Work under way that somebody has to hold on to, and waiting until all of it is settled."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pika_balancer.clock import Clock


async def shielded(work: Coroutine[Any, Any, object]) -> None:
    """Do the work to its end; if cancelled meanwhile, be cancelled after that.

    For work that takes a short time, and whose half would leave something behind. A second cancellation is
    passed on to it.
    """
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            if cancelled is not None:
                task.cancel()
            cancelled = error
    if cancelled is not None:
        # Whatever else it failed with: who was cancelled is not to be told anything else.
        if not task.cancelled():
            task.exception()
        raise cancelled
    await task


class Drain:
    """Sees releases through, and lets somebody wait until nothing is out any more.

    Args:
        busy: Tells whether anything else is still out; asked again after each `stir`.
        clock: Measures how long is waited.
    """

    def __init__(self, busy: Callable[[], bool], clock: Clock) -> None:
        self._busy = busy
        self._clock = clock
        self._owed: set[asyncio.Future[None]] = set()
        self.waiting: list[asyncio.Future[None]] = []
        """Those who wait, for whoever wants to know if a `stir` is of use."""

    def track(self, owed: Awaitable[None]) -> asyncio.Future[None]:
        """Hold on to a release until it is done: it must arrive even if the releaser is cancelled."""
        task = asyncio.ensure_future(owed)
        self._owed.add(task)
        task.add_done_callback(self._arrived)
        return task

    def notify(self) -> None:
        """Have whoever waits look again, after everybody else who is ready has run."""
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout: float | None) -> bool:
        """Return whether everything was settled within `timeout` seconds; None waits for ever."""
        expired = timeout == 0

        def expire() -> None:
            nonlocal expired
            expired = True
            self.notify()

        timer = self._clock.call_later(timeout, expire) if timeout else None
        try:
            while self._unsettled() and not expired:
                stirred: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self.waiting.append(stirred)
                try:
                    await stirred
                finally:
                    self.waiting.remove(stirred)
        finally:
            if timer is not None:
                timer.cancel()
        return not self._unsettled()

    async def settle(self) -> None:
        """Return once every release that was under way has arrived."""
        if self._owed:
            await asyncio.wait(self._owed)

    def _unsettled(self) -> bool:
        return bool(self._owed) or self._busy()

    def _arrived(self, task: asyncio.Future[None]) -> None:
        self._owed.discard(task)
        self.notify()


class Tasks:
    """Tasks that somebody has to hold on to until they are done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run `work` in a task of its own."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel(self) -> None:
        """Cancel what is left; returns once nothing is."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Return once everything that was under way is done."""
        while self._tasks:
            await asyncio.wait(self._tasks)
