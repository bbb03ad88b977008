"""What one process holds of a shared pool and waits for, under the names that the server uses.

A lease has its name before it is asked for: the process and a number. A repeated call therefore means the
same lease, and a request waits under the name of its lease to come. The lease of an adopted job is named `=`
and its key in every process.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Generator, Sequence
from itertools import islice

import attrs

from pika_balancer.errors import PikaError
from pika_balancer.models import Grantor, Lease

Entry = tuple[str, str, str, object]
"""One entry of a heartbeat: name, `h` (held) or `w` (waiting), channel, time of the grant or ticket."""


class SharedLease(Lease):
    """A lease of a shared store, which can be revoked."""

    __slots__ = ("_revoked",)

    def __init__(self, grantor: Grantor, row: int, lease_id: int | str) -> None:
        super().__init__(grantor, row, lease_id)
        self._revoked = False

    @property
    def revoked(self) -> bool:
        """Whether the store stopped counting the lease without a release; then it is not held any more."""
        return self._revoked

    def end(self, *, revoked: bool) -> None:
        """Mark the lease as not held."""
        self._revoked, self.held = revoked, False


@attrs.define(eq=False)
class GrantedSlot:
    """A slot that this process holds."""

    channel: str
    """Its channel."""
    since: int
    """When it was granted, in milliseconds of the server's clock."""
    lease: "weakref.ref[SharedLease]"
    """A weak reference, so that a dropped lease can be reported."""
    adopted: SharedLease | None = None
    """The lease again if it was adopted: it can be asked for again by its key."""

    def end(self, *, revoked: bool) -> None:
        """Mark the lease as not held: released by another process that shares it, or revoked."""
        if (lease := self.lease()) is not None:
            lease.end(revoked=revoked)


@attrs.define(eq=False)
class WaitRequest:
    """A request for a slot."""

    name: str
    """Name of the lease to come."""
    channel: str | None
    """The only acceptable channel; None for any."""
    may_wait: bool
    """Whether it joins the wait queue if nothing is free."""
    future: "asyncio.Future[Lease]"
    """The lease, or why there is none."""
    u: float
    """Random number in [0, 1) that decides the pick."""
    ticket: str = ""
    """Its place in the wait queue; empty until the server has told it."""

    def fail(self, error: PikaError) -> None:
        """Set the error, unless the request has its result."""
        if not self.future.done():
            self.future.set_exception(error)


@attrs.define
class Leases:
    """Everything that the process holds, waits for, or is about to ask for or release."""

    held: dict[str, GrantedSlot] = attrs.Factory(dict[str, GrantedSlot])
    """By name."""
    waiting: dict[str, WaitRequest] = attrs.Factory(dict[str, WaitRequest])
    """Requests that were sent, by name, in order of arrival."""
    unsent: dict[str, WaitRequest] = attrs.Factory(dict[str, WaitRequest])
    """Requests that were not, by name."""
    adopting: list[Entry] = attrs.Factory(list[Entry])
    """Entries of adoptions whose reply has not been handled yet."""
    releases: "dict[str, asyncio.Future[None]]" = attrs.Factory(dict[str, "asyncio.Future[None]"])
    """Releases that the server does not know of yet, by name; done when it does."""

    def requests(self) -> list[WaitRequest]:
        """Return the requests without a result, in order of arrival."""
        return [*self.waiting.values(), *self.unsent.values()]

    def send(self, count: int) -> list[WaitRequest]:
        """Move the first unsent requests to the waiting ones; return them."""
        sent = list(islice(self.unsent.values(), count))
        for request in sent:
            del self.unsent[request.name]
            self.waiting[request.name] = request
        return sent

    def send_again(self, requests: Sequence[WaitRequest]) -> None:
        """Move requests back to the front of the unsent ones: the server has not seen them."""
        again = [request for request in requests if self.waiting.pop(request.name, None) is not None]
        self.unsent = {request.name: request for request in again} | self.unsent

    def adopted(self, name: str, channel: str) -> SharedLease | None:
        """Return the adopted lease of that name on that channel if this process holds it.

        One on another channel has ended: a process that shared it released it, and it was adopted anew.
        """
        slot = self.held.get(name)
        if slot is not None and slot.channel != channel:
            slot.end(revoked=False)
            del self.held[name]
            return None
        return None if slot is None else slot.adopted

    @contextlib.contextmanager
    def state_as_held(self, name: str, channel: str, since: int) -> Generator[None]:
        """State the lease in heartbeats during its adoption: a heartbeat without it would release it."""
        entry: Entry = (name, "h", channel, since)
        self.adopting.append(entry)
        try:
            yield
        finally:
            self.adopting.remove(entry)

    def statement(self) -> list[Entry]:
        """Return the entries of a heartbeat; see `heartbeat.lua`."""
        return [
            *(entry for entry in self.adopting if entry[0] not in self.held),
            *((name, "h", slot.channel, slot.since) for name, slot in self.held.items()),
            *((name, "w", request.channel or "", request.ticket) for name, request in self.waiting.items()),
        ]
