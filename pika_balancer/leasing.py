"""A lease as a context manager: taken on the way in, given back on the way out, whatever happens between."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from types import CodeType, FrameType, TracebackType
from typing import Any, Final, Protocol

from pika_balancer.drain import Drain
from pika_balancer.errors import InvalidArgument
from pika_balancer.holders import Place
from pika_balancer.models import Lease

_LONGEST: Final = sys.float_info.max
# `int | float` in its place would make a new object at every lease with a time limit.
_NUMBER: Final = (int, float)


class Desk(Protocol):
    """What a lease context needs of its balancer; see there."""

    _is_open: bool
    _observed: bool
    _held: dict[int | str, Any]
    _now: Callable[[], float]
    _try_acquire: Callable[[str | None], Lease | None]
    _release: Callable[[Lease], Awaitable[None] | None]
    _drain: Drain

    async def _wait(self, wish: "LeaseContext") -> Lease: ...

    def _granted(self, lease: Lease) -> None: ...

    def _give_back(self, lease: Lease) -> Awaitable[None] | None: ...

    def _see_to(self, owed: Awaitable[None]) -> asyncio.Future[None]: ...


class LeaseContext:
    """`async with` this to hold a slot; made by `Balancer.lease`."""

    # While it waits and while it holds, it is also its own entry in the balancer's lists of who does.
    __slots__ = ("_balancer", "_code", "_instruction", "lease", "since", "timeout", "wish")

    _balancer: Desk
    _code: CodeType
    _instruction: int
    wish: str | None
    """The only channel that will do; None for any."""
    timeout: float | None
    """Seconds to wait at most; None for ever."""
    lease: Lease | None
    """What it holds, while it does."""
    since: float
    """When it began to wait or to hold, on the balancer's clock."""

    @property
    def place(self) -> Place:
        """Where in the source it was asked for."""
        return self._code, self._instruction

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
        if lease is None:
            return
        balancer = self._balancer
        if lease.held and not balancer._observed:
            # Balancer._give_back, without the calls: this is the hot path.
            owed = balancer._release(lease)
            del balancer._held[lease.id]
            if balancer._drain.waiting:
                balancer._drain.stir()
        else:
            owed = balancer._give_back(lease)
        if owed is not None:
            sent = balancer._see_to(owed)
            # An abandoned coroutine that is being closed may not wait for anything.
            if kind is not GeneratorExit:
                await asyncio.shield(sent)


_NEW: Final = object.__new__


def context(balancer: Desk, wish: str | None, timeout: float | None, frame: FrameType) -> LeaseContext:
    """Return a new lease context, asked for in that frame.

    Raises:
        InvalidArgument: `timeout` is not a number of seconds to wait.
    """
    if timeout is not None:
        check_timeout(timeout)
    # Not a constructor: a call of the class would cost half as much again as a whole uncontended semaphore.
    made = _NEW(LeaseContext)
    made._balancer = balancer
    made.wish = wish
    made.timeout = timeout
    made._code = frame.f_code
    made._instruction = frame.f_lasti
    made.lease = None
    return made


def in_use() -> InvalidArgument:
    """Return the error for a context that is entered a second time before it was left."""
    return InvalidArgument("this lease context is in use; call lease() once per `async with`")


def check_timeout(timeout: object) -> None:
    """Raise `InvalidArgument` unless `timeout` is None or a number of seconds to wait."""
    if timeout is not None and not (isinstance(timeout, _NUMBER) and 0 <= timeout <= _LONGEST):
        raise InvalidArgument(
            "timeout must be a number of seconds, 0 or more; None waits for ever", field="timeout"
        )
