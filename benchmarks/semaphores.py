"""Semaphores on Redis that others have published, beside a lease of the shared store.

Each counts to one number, where a lease also picks the account, keeps a line and knows dead processes. Two
figures: what it costs to go in and out while a slot is free, and how long a freed slot stays idle before
somebody who waits for it has it. Who polls is let wait for moments spread evenly over its interval.
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
"""Seconds between two looks of who polls: the other library's default."""
OURS: Final = "lease"

Slot = Callable[[], AbstractAsyncContextManager[Any]]
"""Returns what a task enters to hold a slot."""
Slots = Callable[[int], Slot]
"""Returns that for so many slots in all."""


def peers(client: Any) -> dict[str, Slots]:
    """Return those that are installed, by name."""
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
    """Return a round of one task that finds a slot free each time; seconds per acquire and release."""

    async def work() -> float:
        begin = time.perf_counter()
        for _ in range(TURNS):
            async with slot():
                pass
        return (time.perf_counter() - begin) / TURNS

    return lambda: runner.run(work())


def handover(slot: Slot, runner: asyncio.Runner) -> Subject:
    """Return a round of giving the only slot to who waits; seconds from the release to the grant."""

    async def one(patience: float) -> float:
        async def waiter() -> float:
            async with slot():
                return time.perf_counter()

        async with slot():
            waiting = asyncio.create_task(waiter())
            await asyncio.sleep(patience)
            begin = time.perf_counter()
        return await waiting - begin

    async def work() -> float:
        return sum([await one(POLL * (turn + 0.5) / HANDOVERS) for turn in range(HANDOVERS)]) / HANDOVERS

    return lambda: runner.run(work())


def rows(client: Any, runner: asyncio.Runner, rounds: int) -> list[Row]:
    """Measure and return the rows; the ratios are those of the others' times to ours."""
    balancers: list[Balancer] = []

    def leases(slots: int) -> Slot:
        store = RedisStore(client, f"bench-peers-{slots}", first_start=True)
        balancers.append(Balancer([Account("1", slots)], store=store))
        return balancers[-1].lease

    contestants = {OURS: leases} | peers(client)
    table: list[Row] = []
    for label, slots, how in (
        ("acquire + release", SLOTS, uncontended),
        ("from release to grant", 1, handover),
    ):
        subjects = {f"{name}: {label}": how(make(slots), runner) for name, make in contestants.items()}
        table += compare("store", subjects, f"{OURS}: {label}", rounds=rounds)
    for balancer in balancers:
        runner.run(balancer.close())
    return table + [
        left_out("store", name, f"{name} is not installed; pip install 'pika-balancer[bench]'")
        for name, module in (("py-redis-semaphore", "redis_semaphore"), ("steindamm", "steindamm"))
        if peer(module) is None
    ]
