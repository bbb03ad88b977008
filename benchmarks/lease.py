"""What does `async with balancer.lease()` cost against `asyncio.Semaphore`, alone and in a crowd?"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.measure import Row, Subject, compare
from pika_balancer import Account, Balancer

SLOTS = 5
Slot = Callable[[], AbstractAsyncContextManager[Any]]


def semaphore() -> Slot:
    """Return how to enter a semaphore of as many slots."""
    semaphore = asyncio.Semaphore(SLOTS)
    return lambda: semaphore


def lease() -> Slot:
    """Return how to take a lease of one account with as many slots."""
    return Balancer([Account("1", SLOTS)]).lease


def lease_in_time() -> Slot:
    """Return the same with a time limit on the wait."""
    balancer = Balancer([Account("1", SLOTS)])
    return lambda: balancer.lease(timeout=30)


def uncontended(make: Callable[[], Slot], turns: int = 20_000) -> Subject:
    """Return a round of one task that finds a slot free each time."""

    async def work() -> float:
        slot = make()
        async with slot():
            pass
        begin = time.perf_counter()
        for _ in range(turns):
            async with slot():
                pass
        return (time.perf_counter() - begin) / turns

    return lambda: asyncio.run(work())


def contended(make: Callable[[], Slot], tasks: int = 50, turns: int = 100) -> Subject:
    """Return a round of many tasks that take turns at few slots, each held for one turn of the loop."""

    async def work() -> float:
        slot = make()

        async def one() -> None:
            for _ in range(turns):
                async with slot():
                    await asyncio.sleep(0)

        begin = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(tasks)))
        return (time.perf_counter() - begin) / turns / tasks

    return lambda: asyncio.run(work())


def rows(rounds: int = 15) -> list[Row]:
    """Measure and return the rows."""
    makers = {"Semaphore": semaphore, "lease": lease, "lease with timeout": lease_in_time}
    alone = compare(
        "lease",
        {f"{name}, uncontended": uncontended(make) for name, make in makers.items()},
        "Semaphore, uncontended",
        rounds=rounds,
        aims={"lease, uncontended": 3},
    )
    crowd = compare(
        "lease",
        {f"{name}, 50 tasks on 5 slots": contended(make) for name, make in makers.items()},
        "Semaphore, 50 tasks on 5 slots",
        rounds=rounds,
        aims={"lease, 50 tasks on 5 slots": 2},
    )
    return [*alone, *crowd]
