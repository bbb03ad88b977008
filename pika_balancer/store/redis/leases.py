"""What one process holds of a shared pool and waits for, under the names that the server has for it.

A lease has its name before it is asked for: the process and a number. So a call that is repeated means the
same lease, and whoever waits in line waits under the name of the lease to come. An adopted job's lease is
named by its key, after a `=`, whoever adopts it.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Generator

import attrs

from pika_balancer.errors import PikaError
from pika_balancer.models import Grantor, Lease


class SharedLease(Lease):
    """A lease of a shared store, which can get lost."""

    __slots__ = ("_lost",)

    def __init__(self, grantor: Grantor, row: int, lease_id: int | str) -> None:
        super().__init__(grantor, row, lease_id)
        self._lost = False

    @property
    def revoked(self) -> bool:
        """Whether the store stopped counting it without a release; then it is not held any more either."""
        return self._lost

    def lose(self) -> None:
        """Take note that it is not counted any more."""
        self._lost, self.held = True, False


@attrs.define(eq=False)
class GrantedSlot:
    """A slot that this process holds."""

    channel: str
    """Where it is."""
    since: int
    """When it was granted, in milliseconds of the server's clock."""
    lease: "weakref.ref[SharedLease]"
    """Not held on to, so that a lease that is dropped is noticed."""
    kept: SharedLease | None = None
    """The lease again if it was adopted, since it can be had again by its key."""

    def over(self) -> None:
        """Take note that somebody else has given it back, who held it too."""
        if (lease := self.lease()) is not None:
            lease.held = False

    def lose(self) -> None:
        """Take note that it is not counted any more."""
        if (lease := self.lease()) is not None:
            lease.lose()


@attrs.define(eq=False)
class Wish:
    """Somebody who asks for a slot."""

    name: str
    """Of the lease to come."""
    channel: str | None
    """The only channel that will do; None for any."""
    waits: bool
    """Whether it joins the line if nothing is free."""
    future: "asyncio.Future[Lease]"
    """The lease, or why there is none."""
    chance: float
    """Decides the pick, in [0, 1)."""
    ticket: str = ""
    """Its place in line, empty before it has one."""

    def fail(self, error: PikaError) -> None:
        """Tell why there is none, unless there is an answer already."""
        if not self.future.done():
            self.future.set_exception(error)


@attrs.define
class Claims:
    """Everything that the process holds, waits for, or is about to ask for or give back."""

    held: dict[str, GrantedSlot] = attrs.Factory(dict[str, GrantedSlot])
    """By name."""
    waiting: dict[str, Wish] = attrs.Factory(dict[str, Wish])
    """By name, those that have been sent; in the order in which they came."""
    unsent: dict[str, Wish] = attrs.Factory(dict[str, Wish])
    """By name, those that have not."""
    adoptions: list[tuple[str, str, int]] = attrs.Factory(list[tuple[str, str, int]])
    """Name, channel and moment of what is being adopted: somebody has yet to hear that it is held."""
    releases: "dict[str, asyncio.Future[None]]" = attrs.Factory(dict[str, "asyncio.Future[None]"])
    """By name, what is to be given back or waited for no more; done when the server knows."""

    def wishes(self) -> list[Wish]:
        """Return everybody who has no answer yet, in the order in which they came."""
        return [*self.waiting.values(), *self.unsent.values()]

    def adopted(self, name: str, channel: str) -> SharedLease | None:
        """Return the adopted lease of that name on that channel, if it is held here.

        One that is held elsewhere is over: somebody who shared it gave it back, and it was adopted anew.
        """
        holding = self.held.get(name)
        if holding is not None and holding.channel != channel:
            holding.over()
            self.held.pop(name)
            return None
        return None if holding is None else holding.kept

    @contextlib.contextmanager
    def adopting(self, name: str, channel: str, moment: int) -> Generator[None]:
        """State the lease as held meanwhile: else a beat right after the answer would take it back."""
        entry = (name, channel, moment)
        self.adoptions.append(entry)
        try:
            yield
        finally:
            self.adoptions.remove(entry)

    def statement(self) -> list[object]:
        """Return all that the server should know of, four values each; see `beat.lua`."""
        stated: list[object] = []
        for name, channel, moment in self.adoptions:
            if name not in self.held:
                stated += (name, "h", channel, moment)
        for name, holding in self.held.items():
            stated += (name, "h", holding.channel, holding.since)
        for name, wish in self.waiting.items():
            stated += (name, "w", wish.channel or "", wish.ticket)
        return stated

    def __bool__(self) -> bool:
        return bool(self.held or self.waiting or self.unsent or self.releases)
