"""A lease as a context manager: taken on the way in, given back on the way out, whatever happens between."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Protocol

from pika_balancer.errors import InvalidArgument
from pika_balancer.holders import Place
from pika_balancer.models import Lease

_LONGEST: Final = sys.float_info.max


class Desk(Protocol):
    """What a lease context needs of its balancer; see there."""

    _is_open: bool
    _observed: bool
    _held: dict[int | str, Any]
    _now: Callable[[], float]
    _try_acquire: Callable[[str | None], Lease | None]

    async def _wait(self, wish: "LeaseContext") -> Lease: ...

    def _granted(self, lease: Lease) -> None: ...

    def _give_back(self, lease: Lease) -> Awaitable[None] | None: ...

    def _see_to(self, owed: Awaitable[None]) -> asyncio.Future[None]: ...


class LeaseContext:
    """`async with` this to hold a slot; made by `Balancer.lease`."""

    # While it waits and while it holds, it is also its own entry in the balancer's lists of who does.
    __slots__ = ("_balancer", "lease", "place", "since", "timeout", "wish")

    def __init__(self, balancer: "Desk", wish: str | None, timeout: float | None, place: Place) -> None:
        check_timeout(timeout)
        self._balancer = balancer
        self.wish = wish
        self.timeout = timeout
        self.place = place
        self.lease: Lease | None = None

    since: float
    """When it began to wait or to hold, on the balancer's clock."""

    @property
    def channel(self) -> str:
        """The channel on which the slot is, while it is held."""
        return self.lease.channel if self.lease is not None else ""

    async def __aenter__(self) -> Lease:
        """Wait for a slot and take it."""
        balancer = self._balancer
        if self.lease is not None:
            raise in_use()
        lease = balancer._try_acquire(self.wish) if balancer._is_open else None
        if lease is None:
            lease = await balancer._wait(self)
        elif balancer._observed:
            balancer._granted(lease)
        self.lease = lease
        self.since = balancer._now()
        balancer._held[lease.id] = self
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the slot back."""
        lease, self.lease = self.lease, None
        if lease is not None and (owed := self._balancer._give_back(lease)) is not None:
            sent = self._balancer._see_to(owed)
            # An abandoned coroutine that is being closed may not wait for anything.
            if kind is not GeneratorExit:
                await asyncio.shield(sent)


def in_use() -> InvalidArgument:
    """Return the error for a context that is entered a second time before it was left."""
    return InvalidArgument("this lease context is in use; call lease() once per `async with`")


def check_timeout(timeout: object) -> None:
    """Raise `InvalidArgument` unless `timeout` is None or a number of seconds to wait."""
    if timeout is not None and not (isinstance(timeout, int | float) and 0 <= timeout <= _LONGEST):
        raise InvalidArgument(
            "timeout must be a number of seconds, 0 or more; None waits for ever", field="timeout"
        )
