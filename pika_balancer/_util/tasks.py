"""Coroutines that must run to completion, and waiting until all tracked work is done."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pika_balancer.clock import Clock


async def shielded(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine to completion even if the caller is cancelled; then raise the cancellation.

    For short work that must not stop half done. A second cancellation is passed on to the coroutine.
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
        # Retrieves the coroutine's error, which the cancellation replaces.
        if not task.cancelled():
            task.exception()
        raise cancelled
    await task


class Drain:
    """Tracks releases until they are done, and waits until nothing is outstanding.

    Args:
        busy: Returns whether anything else is outstanding; called again after each `notify`.
        clock: Measures time limits.
    """

    def __init__(self, busy: Callable[[], bool], clock: Clock) -> None:
        self._busy = busy
        self._clock = clock
        self._owed: set[asyncio.Future[None]] = set()
        self.waiting: list[asyncio.Future[None]] = []
        """Futures of `wait()` callers; if empty, `notify` has nothing to do."""

    def track(self, owed: Awaitable[None]) -> asyncio.Future[None]:
        """Run a release as a task that finishes even if the releaser is cancelled."""
        task = asyncio.ensure_future(owed)
        self._owed.add(task)
        task.add_done_callback(self._arrived)
        return task

    def notify(self) -> None:
        """Make every `wait()` caller check again."""
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout: float | None) -> bool:
        """Wait until nothing is outstanding; return False after `timeout` seconds. None waits forever."""
        expired = timeout == 0

        def expire() -> None:
            nonlocal expired
            expired = True
            self.notify()

        timer = self._clock.call_later(timeout, expire) if timeout else None
        try:
            while self._unsettled() and not expired:
                notified: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self.waiting.append(notified)
                try:
                    await notified
                finally:
                    self.waiting.remove(notified)
        finally:
            if timer is not None:
                timer.cancel()
        return not self._unsettled()

    async def settle(self) -> None:
        """Return once every tracked release is done."""
        if self._owed:
            await asyncio.wait(self._owed)

    def _unsettled(self) -> bool:
        return bool(self._owed) or self._busy()

    def _arrived(self, task: asyncio.Future[None]) -> None:
        self._owed.discard(task)
        self.notify()


class Tasks:
    """Keeps references to tasks until they are done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Start `work` as a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel(self) -> None:
        """Cancel the remaining tasks and wait for them."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Return once no task is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)
