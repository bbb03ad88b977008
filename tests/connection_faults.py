"""Faults of a connection, as values for `FaultProxy`.

All bytes that one side sends until the other side sends some are one request or one reply.
"""

import asyncio
from typing import Final, Literal, TypeAlias

import attrs

from pika_balancer.clock import Clock

Direction: TypeAlias = Literal["requests", "replies"]
"""From the client to the server, or back."""

REPLIES: Final[Direction] = "replies"


@attrs.frozen
class Delay:
    """Each request or reply is passed on later."""

    seconds: float
    """The delay, on the proxy's clock."""
    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The faulty direction."""


@attrs.frozen
class Drip:
    """Bytes are passed on one by one."""

    seconds: float
    """Pause after each byte, on the proxy's clock."""
    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The faulty direction."""


@attrs.frozen
class Stall:
    """After some bytes nothing is passed on until the fault is withdrawn."""

    after: int = 0
    """How many bytes pass first."""
    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The faulty direction."""


@attrs.frozen
class Drop:
    """A whole request or reply is lost; the connection stays open."""

    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The faulty direction."""


@attrs.frozen
class Cut:
    """The connection breaks on both sides after some bytes."""

    after: int = 0
    """How many bytes pass first; with 0 it breaks when the first one arrives."""
    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The direction whose bytes count."""
    reset: bool = attrs.field(default=False, kw_only=True)
    """Whether it ends with a reset."""


@attrs.frozen
class HalfClose:
    """One direction ends after some bytes; the other stays open."""

    after: int = 0
    """How many bytes pass first; with 0 it ends when the first one arrives."""
    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The direction that ends."""


@attrs.frozen
class BlackHole:
    """A new connection is accepted and never answered; it does not reach the server."""


@attrs.frozen
class Reset:
    """A new connection is accepted and reset at once; it does not reach the server."""


@attrs.frozen
class Reorder:
    """New connections are held back and then reach the server in reverse order."""

    count: int = 2
    """How many."""


StreamFault: TypeAlias = Delay | Drip | Stall | Drop | Cut | HalfClose
"""Faults of requests and replies."""
DoorFault: TypeAlias = BlackHole | Reset | Reorder
"""Faults of new connections."""
Fault: TypeAlias = StreamFault | DoorFault
"""Any fault."""


class Injection:
    """A fault that was injected.

    Attributes:
        fault: The fault.
        hits: How many requests and replies, or new connections, it has hit.
        withdrawn: Set once it ends.
    """

    def __init__(self, fault: Fault, *, connection: int | None, matching: bytes, times: int | None) -> None:
        self.fault = fault
        self.hits = 0
        self.withdrawn = asyncio.Event()
        self._connection = connection
        self._matching = matching
        self._times = times
        self._passed: dict[int, int] = {}
        self._queue: list[asyncio.Event] = []
        self._pauses: set[asyncio.Event] = set()

    @property
    def goes_on(self) -> bool:
        """Whether it counts bytes across requests and replies."""
        return isinstance(self.fault, Cut | HalfClose | Stall)

    def withdraw(self) -> None:
        """End the fault, and pass on what it holds back; a second call does nothing."""
        self.withdrawn.set()
        self.let_in()
        for over in self._pauses:
            over.set()

    def strikes(self, connection: int, direction: Direction | None, data: bytes = b"") -> bool:
        """Return whether the fault hits these bytes, or a new connection; count it if so.

        Args:
            connection: Number of the connection.
            direction: Direction of the bytes; None for a new connection.
            data: The bytes.
        """
        if (
            self.withdrawn.is_set()
            or getattr(self.fault, "on", None) != direction
            or self._connection not in (None, connection)
            or self._matching not in data
            or (self._times is not None and self.hits >= self._times)
        ):
            return False
        self.hits += 1
        return True

    def share(self, connection: int, data: bytes, after: int) -> tuple[bytes, bool]:
        """Return the bytes that still pass, and whether they reach the limit."""
        passed = self._passed.get(connection, 0)
        head = data[: after - passed]
        self._passed[connection] = passed + len(head)
        return head, passed + len(head) >= after

    async def pause(self, seconds: float, clock: Clock) -> None:
        """Return after `seconds` of the clock, or as soon as the fault is withdrawn."""
        if seconds <= 0 or self.withdrawn.is_set():
            await asyncio.sleep(0)
            return
        over = asyncio.Event()
        timer = clock.call_later(seconds, over.set)
        self._pauses.add(over)
        try:
            await over.wait()
        finally:
            self._pauses.discard(over)
            timer.cancel()

    async def turn(self, count: int) -> None:
        """Return when this connection may go on."""
        mine = asyncio.Event()
        self._queue.append(mine)
        if len(self._queue) >= count:
            self.let_in()
        await mine.wait()

    def let_in(self) -> None:
        """Let the latest held connection go on."""
        if self._queue:
            self._queue.pop().set()
