"""Refresh of the account map in the background."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from pika_balancer.clock import Clock
from pika_balancer.errors import InvalidArgument, PikaError
from pika_balancer.events import RefreshFailed, Reporter
from pika_balancer.models import Account


class AccountSource(Protocol):
    """Object that returns the account map, such as `PikaClient`."""

    async def accounts(self) -> Mapping[str, Account]:
        """Return the account map, keyed by channel."""
        ...


class Refresher:
    """Reads the account map from its source and passes it on, once or periodically.

    Args:
        source: Returns the map; None if there is no source.
        every: Seconds between background reads; None for none.
        take: Called with the accounts.
        clock: Measures the interval.
        reporter: Reports failed background reads.

    Raises:
        InvalidArgument: The interval is not a positive number, or there is no source.
    """

    def __init__(
        self,
        source: AccountSource | None,
        every: float | None,
        take: Callable[[Iterable[Account]], Awaitable[None]],
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        if every is not None and not 0 < every < math.inf:
            raise InvalidArgument("refresh_every must be a positive number of seconds", field="refresh_every")
        if every is not None and source is None:
            raise InvalidArgument("refresh_every needs a source to read from", field="source")
        self._source = source
        self._every = every
        self._take = take
        self._clock = clock
        self._reporter = reporter
        self._task: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self.failures = 0

    failures: int
    """Failed reads since the last success."""

    async def once(self) -> None:
        """Read the map and pass it on; see `Balancer.refresh`."""
        if self._source is None:
            raise InvalidArgument(
                "there is no source to refresh from; use from_client or source=", field="source"
            )
        # One at a time: else a late old answer could undo a newer one.
        async with self._reading:
            await self._take((await self._source.accounts()).values())
        self.failures = 0

    def start(self) -> None:
        """Start the background reads, if an interval was given."""
        if self._every is not None:
            self._task = asyncio.create_task(self._run(self._every))

    async def stop(self) -> None:
        """Stop the background reads; return once they have stopped."""
        task, self._task = self._task, None
        # The caller may be the reading task itself. A task of a closed event loop is done.
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, every: float) -> None:
        while True:
            await self._clock.sleep(every)
            try:
                await self.once()
            except asyncio.CancelledError as error:
                # If this task was not cancelled, something inside the source was: a failure like any other.
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - any error of the source leaves the old map in use
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        # Only this library's errors are known to hold no token.
        what = str(error) if isinstance(error, PikaError) else type(error).__name__
        self._reporter.report(RefreshFailed(at=self._clock.now(), failures=self.failures, why=what))
