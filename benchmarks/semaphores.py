"""Published semaphores on Redis, compared with a lease of the shared store.

A semaphore has one limit; a lease also picks an account, has a wait queue and detects dead processes. Two
figures: the time to acquire and release a free slot, and the time from the release of a slot to the grant to
a waiter. For a library that polls, the releases are spread evenly over its poll interval.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from benchmarks.measure import Row, Subject, compare, left_out, peer
from pika_balancer import Account, Balancer
from pika_balancer.store.redis.store import RedisStore

SLOTS: Final = 8
TURNS: Final = 100
HANDOVERS: Final = 5
POLL: Final = 0.1
"""Poll interval in seconds, the default of the other library."""
OURS: Final = "lease"

Slot = Callable[[], AbstractAsyncContextManager[Any]]
"""Returns the context manager that holds a slot."""
Slots = Callable[[int], Slot]
"""Returns a `Slot` for a number of slots."""


def peers(client: Any) -> dict[str, Slots]:
    """Return the libraries that are installed, by name."""
    found: dict[str, Slots] = {}
    if (polling := peer("redis_semaphore")) is not None:
        for mode in ("POLLING", "BLPOP"):
            found[f"py-redis-semaphore, {mode.lower()}"] = _py_redis_semaphore(polling, client, mode)
    if (blocking := peer("steindamm")) is not None:
        found["steindamm, blpop"] = lambda slots: (
            lambda: blocking.AsyncRedisSemaphore(connection=client, name=f"bench-{slots}", capacity=slots)
        )
    return found


def _py_redis_semaphore(module: Any, client: Any, mode: str) -> Slots:
    def slots_of(slots: int) -> Slot:
        config = module.SemaphoreConfig(
            name=f"bench-{mode}-{slots}",
            limit=slots,
            acquire_mode=getattr(module.AcquireMode, mode),
            retry_interval=POLL,
        )
        return lambda: module.Semaphore(client, config)

    return slots_of


def uncontended(slot: Slot, runner: asyncio.Runner) -> Subject:
    """Return a round of one task that always finds a free slot; seconds per acquire and release."""

    async def work() -> float:
        begin = time.perf_counter()
        for _ in range(TURNS):
            async with slot():
                pass
        return (time.perf_counter() - begin) / TURNS

    return lambda: runner.run(work())


def handover(slot: Slot, runner: asyncio.Runner) -> Subject:
    """Return a round in which a waiter gets the only slot; seconds from the release to the grant."""

    async def one(delay: float) -> float:
        async def waiter() -> float:
            async with slot():
                return time.perf_counter()

        async with slot():
            waiting = asyncio.create_task(waiter())
            await asyncio.sleep(delay)
            begin = time.perf_counter()
        return await waiting - begin

    async def work() -> float:
        return sum([await one(POLL * (turn + 0.5) / HANDOVERS) for turn in range(HANDOVERS)]) / HANDOVERS

    return lambda: runner.run(work())


def rows(client: Any, runner: asyncio.Runner, rounds: int) -> list[Row]:
    """Measure and return the rows; ratios are the other libraries' times divided by ours."""
    balancers: list[Balancer] = []

    def leases(slots: int) -> Slot:
        store = RedisStore(client, f"bench-peers-{slots}", first_start=True)
        balancers.append(Balancer([Account("1", slots)], store=store))
        return balancers[-1].lease

    candidates = {OURS: leases} | peers(client)
    table: list[Row] = []
    for label, slots, how in (
        ("acquire + release", SLOTS, uncontended),
        ("from release to grant", 1, handover),
    ):
        subjects = {f"{name}: {label}": how(make(slots), runner) for name, make in candidates.items()}
        table += compare("store", subjects, f"{OURS}: {label}", rounds=rounds)
    for balancer in balancers:
        runner.run(balancer.close())
    return table + [
        left_out("store", name, f"{name} is not installed; pip install 'pika-balancer[bench]'")
        for name, module in (("py-redis-semaphore", "redis_semaphore"), ("steindamm", "steindamm"))
        if peer(module) is None
    ]
