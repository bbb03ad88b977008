"""What can be wrong with a connection, as plain values; `FaultProxy` makes it so.

What one side says until the other one speaks is *one* request, or reply, in however many pieces it arrives.
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
    """Each request, or reply, goes on later."""

    seconds: float
    """By how much, on the proxy's clock."""
    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The direction that suffers."""


@attrs.frozen
class Drip:
    """Whatever arrives goes on byte by byte."""

    seconds: float
    """Pause after each byte, on the proxy's clock."""
    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The direction that suffers."""


@attrs.frozen
class Stall:
    """Nothing goes on as soon as some bytes have passed; when the fault is withdrawn, all of it does."""

    after: int = 0
    """How many bytes pass; 0 stalls with the first."""
    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The direction that suffers."""


@attrs.frozen
class Drop:
    """A request, or reply, is swallowed whole, and the connection stays."""

    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The direction that suffers."""


@attrs.frozen
class Cut:
    """The connection breaks, on both sides, as soon as some bytes have passed."""

    after: int = 0
    """How many bytes pass; 0 cuts when the first arrives, and lets none through."""
    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The direction whose bytes are counted."""
    reset: bool = attrs.field(default=False, kw_only=True)
    """With a reset, not a proper end."""


@attrs.frozen
class HalfClose:
    """One direction ends as soon as some bytes have passed; the other goes on."""

    after: int = 0
    """How many bytes pass; 0 closes when the first arrives, and lets none through."""
    on: Direction = attrs.field(default=REPLIES, kw_only=True)
    """The direction that ends."""


@attrs.frozen
class BlackHole:
    """A new connection is accepted and never answered; the server does not see it."""


@attrs.frozen
class Reset:
    """A new connection is accepted and reset at once; the server does not see it."""


@attrs.frozen
class Reorder:
    """New connections are held back until there are some, and reach the server last come, first served."""

    count: int = 2
    """How many."""


StreamFault: TypeAlias = Delay | Drip | Stall | Drop | Cut | HalfClose
"""Befalls bytes under way."""
DoorFault: TypeAlias = BlackHole | Reset | Reorder
"""Befalls new connections."""
Fault: TypeAlias = StreamFault | DoorFault
"""Any of them."""


class Injection:
    """A fault at work; also what withdraws it.

    Attributes:
        fault: What goes wrong.
        hits: How often it has struck: requests or replies for a fault of a direction, connections for one at
            the door.
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
        """Whether it counts bytes, and so goes on from one request, or reply, to the next."""
        return isinstance(self.fault, Cut | HalfClose | Stall)

    def withdraw(self) -> None:
        """End the fault; what it holds back goes on. A second time does nothing."""
        self.withdrawn.set()
        self.let_in()
        for over in self._pauses:
            over.set()

    def strikes(self, connection: int, direction: Direction | None, data: bytes = b"") -> bool:
        """Return whether the fault befalls this, and count it if so.

        Args:
            connection: Number of the connection.
            direction: Where the bytes go; None for a connection at the door.
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
        """Return how much of the bytes still passes, and whether the limit is reached with it."""
        passed = self._passed.get(connection, 0)
        head = data[: after - passed]
        self._passed[connection] = passed + len(head)
        return head, passed + len(head) >= after

    async def pause(self, seconds: float, clock: Clock) -> None:
        """Return after so many seconds of the clock, or as soon as the fault is withdrawn."""
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
        """Return when it is this connection's turn to go on."""
        mine = asyncio.Event()
        self._queue.append(mine)
        if len(self._queue) >= count:
            self.let_in()
        await mine.wait()

    def let_in(self) -> None:
        """Let in the connection that came last."""
        if self._queue:
            self._queue.pop().set()
