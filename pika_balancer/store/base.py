"""Where in-flight counts live, as a protocol: in this process, or shared by many."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from pika_balancer.errors import PikaError
from pika_balancer.events import Reporter
from pika_balancer.models import Account, Explanation, Lease, Orphan, Snapshot, Unavailability


class Store(Protocol):
    """Counts what is in flight and hands out slots, first come, first served.

    Whatever the store, its answers are those of `Selector`. Methods that are not coroutines never do I/O;
    `try_acquire` may decline to answer without it, and `release` returns the I/O that it still owes.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes count here, too, which may die and leave orphans."""
        ...

    def try_acquire(self, channel: str | None = None) -> Lease | None:
        """Grant a slot if that can be done at once, without I/O and without passing anybody in line.

        Raises:
            UnknownChannel: No account has that channel.
        """
        ...

    async def acquire(self, channel: str | None, deadline: float | None) -> Lease:
        """Wait in line for a slot and return its lease.

        If cancelled, at whatever moment, it leaves the line and gives back a slot that was just granted.

        Args:
            channel: Wait for this channel only; None for any.
            deadline: Moment on the store's clock, in seconds, at which to give up; None for never.

        Raises:
            NoCapacity: The deadline passed, or there is no account that could ever serve the wish.
            UnknownChannel: No account has that channel, or it was removed meanwhile.
        """
        ...

    def release(self, lease: Lease) -> Awaitable[None] | None:
        """Give the slot back, to the first in line if there is one; a second time does nothing.

        Raises:
            ForeignLease: The lease was granted by somebody else.
        """
        ...

    async def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that already runs upstream; see `Selector.adopt`."""
        ...

    async def orphans(self) -> Sequence[Orphan]:
        """Return the slots whose processes are dead: to be adopted by their keys, or given up.

        Empty while the store is away.
        """
        ...

    async def give_up(self, orphans: Iterable[Orphan]) -> None:
        """Count orphans no longer whose jobs are known to be over.

        One that has been adopted, or whose process has been heard of, since it was returned keeps its slot.
        """
        ...

    async def update(self, accounts: Iterable[Account]) -> None:
        """Take over a new account map by difference; see `Selector.update`."""
        ...

    async def pause(self, channel: str) -> None:
        """Give the channel no new job until `resume`."""
        ...

    async def cool_down(self, channel: str, until: float) -> None:
        """Give the channel no new job before `until`, a moment on the store's clock, in seconds."""
        ...

    async def resume(self, channel: str) -> None:
        """End a pause and a rest at once."""
        ...

    def fail_waiters(self, error: Callable[[], PikaError]) -> None:
        """Fail everybody in line, each with an error of its own."""
        ...

    async def close(self) -> None:
        """Let go of timers and connections; leases can still be released."""
        ...

    def attach(self, reporter: Reporter) -> None:
        """Tell the reporter from now on what happens to the store itself."""
        ...

    def snapshot(self) -> Snapshot:
        """Return the books as this process knows them."""
        ...

    def explain(self) -> dict[str, Explanation]:
        """Return per account whether the next pick could choose it, and how probably."""
        ...

    def why_unavailable(self, channel: str | None = None) -> Unavailability | None:
        """Return why nothing can be had; None if something can."""
        ...
