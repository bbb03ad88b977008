"""The leases and waiters of one process, and detection of leases that are dropped unreleased."""

import weakref
from collections.abc import Callable, Mapping
from types import CodeType

import attrs

from pika_balancer.models import Lease, Snapshot

Place = tuple[CodeType, int]
"""Source position of a call: code object and instruction. The line number is looked up only when printed. A
frame instead would keep the caller's locals alive."""


def describe(place: Place) -> str:
    """Return the position as `file:line in function`."""
    code, instruction = place
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= instruction < end and number is not None:
            line = number
    return f"{code.co_filename}:{line} in {code.co_name}"


class LeakGuard:
    """Weak reference to a lease; calls `leaked` if it is garbage-collected unreleased.

    Keeps what is needed to release the slot in its place. The garbage collector may run at any point of any
    thread: `leaked` must only schedule the release.
    """

    __slots__ = ("_grantor", "_reference", "_row", "lease_id", "place", "since")

    def __init__(
        self, lease: Lease, since: float, place: Place, leaked: "Callable[[LeakGuard], None]"
    ) -> None:
        self._grantor = lease.grantor
        self._row = lease.row
        self.lease_id = lease.id
        self.since = since
        self.place = place
        self._reference: weakref.ref[Lease] | None = weakref.ref(lease, lambda _: leaked(self))

    @property
    def channel(self) -> str:
        """The channel of the slot."""
        return self._grantor.account_at(self._row).channel

    def forget(self) -> None:
        """Stop watching: the lease was released."""
        self._reference = None

    def stand_in(self) -> Lease:
        """Return a lease of the same slot, to be released in place of the dropped one."""
        return Lease(self._grantor, self._row, self.lease_id)


@attrs.frozen
class AdoptedLease:
    """A lease that `adopt` made; it is found again by its job's id, so it cannot leak."""

    lease: Lease
    since: float
    """Time of the adoption, on the balancer's clock."""
    place: Place
    """Source position of the call."""

    @property
    def channel(self) -> str:
        """The channel of the slot."""
        return self.lease.channel


def is_adopted(held: Mapping[int | str, object], lease: Lease) -> bool:
    """Return whether this very lease is adopted; its key may belong to a newer one by now."""
    holding = held.get(lease.id)
    return isinstance(holding, AdoptedLease) and holding.lease is lease


def is_revoked(held: Mapping[int | str, object], lease: Lease) -> bool:
    """Return whether the store revoked the lease while this process still lists it as held."""
    holding = held.get(lease.id)
    return lease.revoked and holding is not None and not isinstance(holding, AdoptedLease)


def adopted(held: Mapping[int | str, object]) -> dict[str, Lease]:
    """Return the adopted leases by their keys."""
    return {str(key): holding.lease for key, holding in held.items() if isinstance(holding, AdoptedLease)}


@attrs.frozen
class Holder:
    """A held lease, as `statistics()` shows it."""

    lease_id: int | str
    channel: str
    """The channel of the slot."""
    age: float
    """Seconds since the grant."""
    place: str
    """Source position of the call, as `file:line in function`."""


@attrs.frozen
class Waiter:
    """A waiter, as `statistics()` shows it."""

    channel: str | None
    """The only acceptable channel; None for any."""
    age: float
    """Seconds waited so far."""
    place: str
    """Source position of the call, as `file:line in function`."""


@attrs.frozen
class Statistics:
    """State of a balancer at one moment."""

    snapshot: Snapshot
    """The in-flight counts."""
    holders: tuple[Holder, ...]
    """This process's leases, oldest first."""
    waiters: tuple[Waiter, ...]
    """This process's waiters, oldest first."""
    leaked: int
    """Leases so far that were dropped unreleased and taken back."""
    refresh_failures: int
    """Failed refreshes of the account map since the last success."""
