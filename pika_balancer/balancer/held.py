"""Who holds which slot since when, who waits, and how a lease that was dropped is noticed."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Protocol

import attrs

from pika_balancer.models import Lease, Snapshot

Place = tuple[CodeType, int]
"""Where in the source a lease was asked for: the code and the instruction. The line is looked up when
printed, which makes it cheap to take; the frame itself would keep the caller's locals alive."""


class HeldLease(Protocol):
    """An entry of who holds a slot."""

    @property
    def channel(self) -> str:
        """The channel on which the slot is."""
        ...

    @property
    def since(self) -> float:
        """When it was granted or adopted, on the balancer's clock."""
        ...

    @property
    def place(self) -> Place:
        """Where in the source that was asked for."""
        ...


class Waiting(Protocol):
    """An entry of who waits for a slot."""

    wish: str | None
    """The only channel that will do; None for any."""
    since: float
    """When the wait began, on the balancer's clock."""

    @property
    def place(self) -> Place:
        """Where in the source it was asked for."""
        ...


def describe(place: Place) -> str:
    """Return the place as `file:line in function`."""
    code, instruction = place
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= instruction < end and number is not None:
            line = number
    return f"{code.co_filename}:{line} in {code.co_name}"


class LeakGuard:
    """A lease seen without holding on to it, so that its loss shows.

    Keeps what is needed to give the slot back in the lost lease's name. `lost` is called wherever and
    whenever the garbage collector notices, in the middle of anything: it must only arrange for later.
    """

    __slots__ = ("_grantor", "_reference", "_row", "lease_id", "place", "since")

    def __init__(
        self, lease: Lease, since: float, place: Place, is_revoked: "Callable[[LeakGuard], None]"
    ) -> None:
        self._grantor = lease.grantor
        self._row = lease.row
        self.lease_id = lease.id
        self.since = since
        self.place = place
        self._reference: weakref.ref[Lease] | None = weakref.ref(lease, lambda _: is_revoked(self))

    @property
    def channel(self) -> str:
        """The channel on which the slot is."""
        return self._grantor.account_at(self._row).channel

    def forget(self) -> None:
        """Stop watching: the lease was given back."""
        # Otherwise its end would still be told: what watches it is a part of itself.
        self._reference = None

    def stand_in(self) -> Lease:
        """Return a lease of the same slot, to be released in place of the lost one."""
        return Lease(self._grantor, self._row, self.lease_id)


@attrs.frozen
class AdoptedLease:
    """A lease that the books know by its job's id, and that can be had again by it: no drop loses it."""

    lease: Lease
    """The lease."""
    since: float
    """When it was adopted, on the balancer's clock."""
    place: Place
    """Where it was adopted."""

    @property
    def channel(self) -> str:
        """The channel on which the slot is."""
        return self.lease.channel


def is_adopted(held: Mapping[int | str, object], lease: Lease) -> bool:
    """Return whether that very lease was adopted: its key may have been adopted anew since."""
    holding = held.get(lease.id)
    return isinstance(holding, AdoptedLease) and holding.lease is lease


def is_revoked(held: Mapping[int | str, object], lease: Lease) -> bool:
    """Return whether the lease was granted, got lost, and is still in the list of who holds what."""
    holding = held.get(lease.id)
    return lease.revoked and holding is not None and not isinstance(holding, AdoptedLease)


def adopted(held: Mapping[int | str, object]) -> dict[str, Lease]:
    """Return the leases that were adopted, by their keys."""
    return {str(key): holding.lease for key, holding in held.items() if isinstance(holding, AdoptedLease)}


def released(held: Mapping[int | str, object]) -> list[Lease]:
    """Return the adopted leases that somebody else has given back."""
    return [lease for lease in adopted(held).values() if not lease.held]


@attrs.frozen
class Holder:
    """Somebody who holds a slot."""

    lease_id: int | str
    """The lease's id."""
    channel: str
    """The channel on which the slot is."""
    age: float
    """Seconds since it was granted."""
    place: str
    """Where in the source it was asked for, as `file:line in function`."""


@attrs.frozen
class Waiter:
    """Somebody who waits for a slot."""

    channel: str | None
    """The only channel that will do; None for any."""
    age: float
    """Seconds in line."""
    place: str
    """Where in the source it was asked for, as `file:line in function`."""


@attrs.frozen
class Statistics:
    """What a balancer knows at one moment."""

    snapshot: Snapshot
    """The books."""
    holders: tuple[Holder, ...]
    """This process's leases, oldest first."""
    waiters: tuple[Waiter, ...]
    """This process's waiters, first come first."""
    leaked: int
    """Leases that were dropped without a release and taken back, so far."""
    refresh_failures: int
    """Refreshes of the account map that failed since the last one that worked."""

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        held: Mapping[int | str, "HeldLease"],
        waiting: Iterable["Waiting"],
        now: float,
        *,
        leaked: int,
        refresh_failures: int,
    ) -> "Statistics":
        """Return what there is to tell of the entries at the moment `now`."""
        return cls(
            snapshot=snapshot,
            holders=tuple(
                Holder(key, holding.channel, now - holding.since, describe(holding.place))
                for key, holding in held.items()
            ),
            waiters=tuple(
                Waiter(waiting.wish, now - waiting.since, describe(waiting.place)) for waiting in waiting
            ),
            leaked=leaked,
            refresh_failures=refresh_failures,
        )
