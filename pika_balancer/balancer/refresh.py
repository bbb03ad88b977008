"""The account map kept up to date in the background, come what may."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from pika_balancer.clock import Clock
from pika_balancer.errors import InvalidArgument, PikaError
from pika_balancer.events import RefreshFailed, Reporter
from pika_balancer.models import Account


class AccountSource(Protocol):
    """Whatever can tell the account map; `PikaClient` does."""

    async def accounts(self) -> Mapping[str, Account]:
        """Return the account map, keyed by channel."""
        ...


class Refresher:
    """Reads an account map from its source and hands it on, once or again and again.

    Args:
        source: Where the map comes from; None if there is nowhere to read it.
        every: Seconds between reads in the background; None for none.
        take: What gets the accounts.
        clock: Measures the interval.
        reporter: Is told of reads that fail in the background.

    Raises:
        InvalidArgument: The interval is not a positive number, or there is no source to read.
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
    """Reads that failed since the last one that worked."""

    async def once(self) -> None:
        """Read the map and hand it on; see `Balancer.refresh`."""
        if self._source is None:
            raise InvalidArgument(
                "there is no source to refresh from; use from_client or source=", field="source"
            )
        # One at a time, or an old answer that comes late would undo a newer one.
        async with self._reading:
            await self._take((await self._source.accounts()).values())
        self.failures = 0

    def start(self) -> None:
        """Begin to read in the background, if an interval was given."""
        if self._every is not None:
            self._task = asyncio.create_task(self._run(self._every))

    async def stop(self) -> None:
        """End the reading in the background; returns once it has ended."""
        task, self._task = self._task, None
        # A task that reads the map may be the one that stops; one of a loop that is gone is done.
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, every: float) -> None:
        while True:
            await self._clock.sleep(every)
            try:
                await self.once()
            except asyncio.CancelledError as error:
                # Not ours, if nobody has cancelled this task: something within the source was.
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - whatever the source throws, the old map still serves
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        # Only our own errors are known to hold no token.
        what = str(error) if isinstance(error, PikaError) else type(error).__name__
        self._reporter.tell(RefreshFailed(at=self._clock.now(), failures=self.failures, why=what))
