"""Everything that a shared pool knows: who holds what since when, who waits, which processes there are."""

from collections.abc import Iterator
from typing import Final

import attrs

from pika_balancer.models import Orphan, Snapshot
from pika_balancer.store.redis.pipeline import Reply
from pika_balancer.store.redis.replica import Replica, read_survey


@attrs.frozen
class PoolProcess:
    """A process that takes part."""

    id: str
    """Names it on the server."""
    name: str
    """Names it for people: what it was given, or host and process id."""
    alive: bool
    """Whether it has been heard of within its `lease_ttl`; a process that has left is not alive."""
    expires: float
    """Seconds until it counts as dead if nothing more is heard of it; negative since when it does."""
    holds: int
    """How many leases it holds."""
    waits: int
    """How many wait in it."""


@attrs.frozen
class PoolHolder:
    """A slot that is taken."""

    lease_id: str
    """Names the lease."""
    jobid: str | None
    """The key it was adopted by, usually the id of its job; None while that is not known."""
    channel: str
    """Where the slot is."""
    process: str
    """Id of the process that answers for it."""
    name: str
    """The same for people."""
    age: float
    """Seconds since it was granted or adopted."""
    orphan: bool
    """Whether its process is dead. Its job may still run, so it is counted until somebody tells otherwise."""
    expires: float | None
    """Seconds until it is counted no longer; only for an orphan."""


@attrs.frozen
class PoolWaiter:
    """Somebody who waits in line."""

    channel: str | None
    """The only channel that will do; None for any."""
    process: str
    """Id of the process in which it waits."""
    name: str
    """The same for people."""
    age: float
    """Seconds in line."""


@attrs.frozen
class PoolStatus:
    """A pool at one moment, as the server told it."""

    snapshot: Snapshot
    """The accounts and their counts."""
    holders: tuple[PoolHolder, ...]
    """Who holds what, longest first."""
    waiters: tuple[PoolWaiter, ...]
    """The line, first come first."""
    processes: tuple[PoolProcess, ...]
    """Who takes part, by name."""
    learning: float
    """Seconds for which the server still only counts, because it was empty; 0 if it does not."""
    faults: tuple[str, ...]
    """What in the pool does not agree with the rest; `repair` sets it right. Always empty, one hopes."""

    @property
    def orphans(self) -> tuple[PoolHolder, ...]:
        """The slots whose process is dead."""
        return tuple(holder for holder in self.holders if holder.orphan)


ADOPTED: Final = "="
"""Begins the server's name of an adopted job's lease."""


def read_pool_status(answer: Reply, *, orphan_ttl: float, offset: float, here: float) -> PoolStatus:
    """Return what the server told.

    Args:
        answer: The answer of `fleet.lua`.
        orphan_ttl: Seconds for which an orphan is counted.
        offset: This process's clock minus the server's, in seconds.
        here: Now, on this process's clock.
    """
    items = iter(answer.items)
    leases, waiting, processes, faults = (_section(items, width) for width in (4, 4, 3, 1))

    def since(moment: str) -> float:
        return (answer.now - int(moment)) / 1000

    expiries = {name: -since(expiry) for name, expiry, _ in processes}
    names = {name: label for name, _, label in processes}
    replica = Replica()
    replica.take_over(read_survey(list(items)), offset)
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
        snapshot=replica.snapshot(here),
        holders=tuple(sorted(holders, key=lambda holder: -holder.age)),
        waiters=tuple(
            PoolWaiter(wish or None, holder, names.get(holder, "unknown"), since(begun))
            for _, holder, begun, wish in waiting
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
        learning=max(0.0, (answer.learning - answer.now) / 1000),
        faults=tuple(fault for (fault,) in faults),
    )


def read_orphans(answer: Reply) -> tuple[Orphan, ...]:
    """Return what the server told, three fields each."""
    rows = (answer.items[at : at + 3] for at in range(0, len(answer.items), 3))
    return tuple(
        Orphan(
            lease_id=lease.removeprefix(ADOPTED),
            key=_key(lease),
            channel=channel,
            dead_for=(answer.now - int(since)) / 1000,
            dead_since=int(since),
        )
        for lease, channel, since in rows
    )


def server_name(holder: PoolHolder | Orphan) -> str:
    """Return what the server calls the lease."""
    key = holder.key if isinstance(holder, Orphan) else holder.jobid
    return holder.lease_id if key is None else ADOPTED + key


def _key(lease: str) -> str | None:
    return lease.removeprefix(ADOPTED) if lease.startswith(ADOPTED) else None


def _section(items: Iterator[str], width: int) -> list[list[str]]:
    return [[next(items) for _ in range(width)] for _ in range(int(next(items)))]


@attrs.frozen
class Repair:
    """What a repair has set right."""

    given_up: tuple[str, ...]
    """Ids of the orphaned leases that are counted no more."""
    mended: tuple[str, ...]
    """The faults that there were."""


def read_repair(answer: Reply) -> Repair:
    """Return what the server told."""
    end = 1 + int(answer.items[0])
    return Repair(
        tuple(name.removeprefix(ADOPTED) for name in answer.items[1:end]), tuple(answer.items[end:])
    )
