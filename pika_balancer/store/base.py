"""The protocol of a store: it keeps the in-flight counts and the wait queue."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from pika_balancer.errors import PikaError
from pika_balancer.events import Reporter
from pika_balancer.models import Account, Explanation, Lease, Orphan, Snapshot, Unavailability


class Store(Protocol):
    """Counts jobs in flight and grants slots in order of arrival.

    Every store answers as `Selector` does. Methods that are not coroutines do no I/O: a store that needs I/O
    returns None from `try_acquire`, and `release` returns the I/O that is still to be awaited.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes use the store, too; they may die and leave orphans."""
        ...

    def try_acquire(self, channel: str | None = None) -> Lease | None:
        """Grant a slot if that needs no I/O and passes no waiter; else return None.

        Raises:
            UnknownChannel: No account has that channel.
        """
        ...

    async def acquire(self, channel: str | None, deadline: float | None) -> Lease:
        """Wait for a slot and return its lease.

        A cancelled caller leaves the wait queue; a slot that it was granted in that moment goes to the next
        waiter.

        Args:
            channel: The only acceptable channel; None for any.
            deadline: Time on the store's clock, in seconds, at which the wait ends; None for never.

        Raises:
            NoCapacity: The deadline passed, or no account could ever serve the request.
            UnknownChannel: No account has that channel, or it was removed meanwhile.
        """
        ...

    def release(self, lease: Lease) -> Awaitable[None] | None:
        """Give the slot back, to the first waiter that can use it; a second release does nothing.

        Raises:
            ForeignLease: Another store granted the lease.
        """
        ...

    async def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that the service already executes; see `Selector.adopt`."""
        ...

    async def orphans(self) -> Sequence[Orphan]:
        """Return the slots of dead processes: adopt them by their keys, or give them up.

        Empty while the store is away.
        """
        ...

    async def give_up(self, orphans: Iterable[Orphan]) -> None:
        """Free the slots of orphans whose jobs have ended.

        An orphan keeps its slot if it was adopted, or if its process showed a sign of life, since it was
        returned.
        """
        ...

    async def update(self, accounts: Iterable[Account]) -> None:
        """Apply a new account map; see `Selector.update`."""
        ...

    async def pause(self, channel: str) -> None:
        """Give the channel no new job until `resume`."""
        ...

    async def cool_down(self, channel: str, until: float) -> None:
        """Give the channel no new job before `until`, in seconds on the store's clock."""
        ...

    async def resume(self, channel: str) -> None:
        """End a pause and a cooldown at once."""
        ...

    def fail_waiters(self, error: Callable[[], PikaError]) -> None:
        """Fail every waiter, each with an error of its own."""
        ...

    async def close(self) -> None:
        """Cancel timers and close connections; leases can still be released."""
        ...

    def attach(self, reporter: Reporter) -> None:
        """Report events of the store itself to this reporter from now on."""
        ...

    def snapshot(self) -> Snapshot:
        """Return the in-flight counts as this process knows them."""
        ...

    def explain(self) -> dict[str, Explanation]:
        """Return each account's probability at the next pick, or why it cannot be picked."""
        ...

    def why_unavailable(self, channel: str | None = None) -> Unavailability | None:
        """Return why no slot is free, on the channel or on any; None if one is."""
        ...
