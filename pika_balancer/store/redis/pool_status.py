"""The state of a shared pool at one moment: slots taken, waiters, processes, faults."""

from collections.abc import Iterator
from typing import Final

import attrs

from pika_balancer.models import Orphan, Snapshot
from pika_balancer.store.redis.commands import Reply
from pika_balancer.store.redis.replica import Replica


@attrs.frozen
class PoolProcess:
    """A process that uses the pool."""

    id: str
    """Id on the server."""
    name: str
    """Name for people: `RedisStore(name=)`, or host and process id."""
    alive: bool
    """Whether it called within its `lease_ttl`; a process that closed its store is not alive."""
    expires: float
    """Seconds until it counts as dead without another call; zero or less if it does."""
    holds: int
    """Leases that it holds."""
    waits: int
    """Requests of it that wait in the queue."""


@attrs.frozen
class PoolHolder:
    """A taken slot."""

    lease_id: str
    """Id of the lease."""
    jobid: str | None
    """The key by which it was adopted, usually the id of its job; None if it has none."""
    channel: str
    """Channel of the slot."""
    process: str
    """Id of the process that holds it."""
    name: str
    """Name of that process."""
    age: float
    """Seconds since it was granted or adopted."""
    orphan: bool
    """Whether its process is dead. Its job may still run, so the slot stays counted."""
    expires: float | None
    """Seconds until an orphan is dropped; None for the slot of a living process."""


@attrs.frozen
class PoolWaiter:
    """A request in the wait queue."""

    channel: str | None
    """The only acceptable channel; None for any."""
    process: str
    """Id of the process that asked."""
    name: str
    """Name of that process."""
    age: float
    """Seconds in the queue."""


@attrs.frozen
class PoolStatus:
    """The state of a pool at one moment."""

    snapshot: Snapshot
    """The accounts and their in-flight counts."""
    holders: tuple[PoolHolder, ...]
    """The taken slots, longest first."""
    waiters: tuple[PoolWaiter, ...]
    """The wait queue, in order."""
    processes: tuple[PoolProcess, ...]
    """The processes, by name."""
    learning: float
    """Seconds for which the server, which was empty, still counts but grants nothing; 0 if it grants."""
    faults: tuple[str, ...]
    """Entries that disagree with each other; `RedisStore.repair` corrects them."""

    @property
    def orphans(self) -> tuple[PoolHolder, ...]:
        """The slots of dead processes."""
        return tuple(holder for holder in self.holders if holder.orphan)


ADOPTED: Final = "="
"""First character of the server's name of an adopted lease."""


def read_pool_status(reply: Reply, *, orphan_ttl: float, now: float) -> PoolStatus:
    """Return the state that a reply of `pool_status.lua` tells.

    Args:
        reply: The reply.
        orphan_ttl: Seconds for which an orphan stays counted.
        now: The present time on this process's clock.
    """
    items = iter(reply.items)
    leases, waiting, processes, faults = (_section(items, width) for width in (4, 4, 3, 1))

    def since(moment: str) -> float:
        return (reply.now - int(moment)) / 1000

    expiries = {name: -since(expiry) for name, expiry, _ in processes}
    names = {name: label for name, _, label in processes}
    replica = Replica()
    replica.update(list(items), now - reply.now / 1000)
    holders = [
        PoolHolder(
            lease_id=lease.removeprefix(ADOPTED),
            jobid=_key(lease),
            channel=channel,
            process=holder,
            name=names.get(holder, "unknown"),
            age=since(begun),
            orphan=(expires := expiries.get(holder, 0.0)) <= 0,
            expires=expires + orphan_ttl if expires <= 0 else None,
        )
        for lease, holder, begun, channel in leases
    ]
    return PoolStatus(
        snapshot=replica.snapshot(now),
        holders=tuple(sorted(holders, key=lambda holder: -holder.age)),
        waiters=tuple(
            PoolWaiter(wanted or None, holder, names.get(holder, "unknown"), since(begun))
            for _, holder, begun, wanted in waiting
        ),
        processes=tuple(
            PoolProcess(
                id=name,
                name=label,
                alive=expiries[name] > 0,
                expires=expiries[name],
                holds=sum(holder == name for _, holder, _, _ in leases),
                waits=sum(holder == name for _, holder, _, _ in waiting),
            )
            for name, _, label in sorted(processes, key=lambda row: row[2])
        ),
        learning=max(0.0, (reply.learning - reply.now) / 1000),
        faults=tuple(fault for (fault,) in faults),
    )


def read_orphans(reply: Reply) -> tuple[Orphan, ...]:
    """Return the orphans that a reply of `orphans.lua` lists."""
    rows = (reply.items[at : at + 3] for at in range(0, len(reply.items), 3))
    return tuple(
        Orphan(
            lease_id=lease.removeprefix(ADOPTED),
            key=_key(lease),
            channel=channel,
            dead_for=(reply.now - int(since)) / 1000,
            dead_since=int(since),
        )
        for lease, channel, since in rows
    )


def server_name(holder: PoolHolder | Orphan) -> str:
    """Return the server's name of the lease."""
    key = holder.key if isinstance(holder, Orphan) else holder.jobid
    return holder.lease_id if key is None else ADOPTED + key


def _key(lease: str) -> str | None:
    return lease.removeprefix(ADOPTED) if lease.startswith(ADOPTED) else None


def _section(items: Iterator[str], width: int) -> list[list[str]]:
    return [[next(items) for _ in range(width)] for _ in range(int(next(items)))]


@attrs.frozen
class Repair:
    """Result of `RedisStore.repair`."""

    given_up: tuple[str, ...]
    """Ids of the orphaned leases whose slots were freed."""
    mended: tuple[str, ...]
    """The faults that were corrected."""


def read_repair(reply: Reply) -> Repair:
    """Return the result that a reply of `repair.lua` tells."""
    end = 1 + int(reply.items[0])
    return Repair(tuple(name.removeprefix(ADOPTED) for name in reply.items[1:end]), tuple(reply.items[end:]))
