"""Cost of `async with balancer.lease()`, compared with `asyncio.Semaphore`, alone and with many tasks."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.measure import ROUNDS, Row, Subject, compare, count, left_out, peer
from pika_balancer import Account, Balancer

SLOTS = 5
Slot = Callable[[], AbstractAsyncContextManager[Any]]


def semaphore() -> Slot:
    """Return a function that enters a semaphore with that many slots."""
    semaphore = asyncio.Semaphore(SLOTS)
    return lambda: semaphore


def lease() -> Slot:
    """Return a function that takes a lease of one account with that many slots."""
    return Balancer([Account("1", SLOTS)]).lease


def lease_in_time() -> Slot:
    """Return the same with a time limit on the wait."""
    balancer = Balancer([Account("1", SLOTS)])
    return lambda: balancer.lease(timeout=30)


def uncontended(make: Callable[[], Slot], turns: int = 20_000) -> Subject:
    """Return a round of one task that always finds a free slot."""

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
    """Return a round of many tasks on few slots, each held for one iteration of the loop."""

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


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure and return the rows."""
    makers = {"Semaphore": semaphore, "lease": lease, "lease with timeout": lease_in_time}
    alone = compare(
        "lease",
        {f"{name}, uncontended": uncontended(make) for name, make in makers.items()},
        "Semaphore, uncontended",
        rounds=rounds,
        aims={"lease, uncontended": 2},
    )
    crowd = compare(
        "lease",
        {f"{name}, 50 tasks on 5 slots": contended(make) for name, make in makers.items()},
        "Semaphore, 50 tasks on 5 slots",
        rounds=rounds,
        aims={"lease, 50 tasks on 5 slots": 2},
    )
    peers = others()
    beside = compare(
        "lease",
        {
            f"{name}, uncontended": uncontended(make, 2000)
            for name, make in ({"lease": lease} | peers).items()
        },
        "lease, uncontended",
        rounds=rounds,
    )[1:]
    thousand = compare(
        "lease",
        {
            f"{name}, 1,000 waiters": contended(make, tasks=1000, turns=2)
            for name, make in (makers | peers).items()
            if name != "aiolimiter"
        },
        "Semaphore, 1,000 waiters",
        rounds=rounds,
    )
    missing = [
        left_out("lease", name, f"{name} is not installed; pip install 'pika-balancer[bench]'")
        for name in ("anyio", "aiolimiter")
        if peer(name) is None
    ]
    return [*alone, *crowd, *beside, *thousand, *missing, *storms()]


def others() -> dict[str, Callable[[], Slot]]:
    """Return the peers that are installed, by name."""
    found: dict[str, Callable[[], Slot]] = {}
    if (anyio := peer("anyio")) is not None:
        found["CapacityLimiter"] = lambda: _same(anyio.CapacityLimiter(SLOTS))
    if (aiolimiter := peer("aiolimiter")) is not None:
        # Limits a rate, not a number of holders: only its uncontended cost compares.
        found["aiolimiter"] = lambda: _same(aiolimiter.AsyncLimiter(10**9, 1))
    return found


def _same(slot: AbstractAsyncContextManager[Any]) -> Slot:
    return lambda: slot


def storms(cancels: int = 2000) -> list[Row]:
    """Return how many slots each can still grant after many cancellations."""
    makers = {"Semaphore": semaphore, "lease": lease} | others()
    makers.pop("aiolimiter", None)
    return [
        count(
            "lease",
            f"{name}: of {SLOTS} slots obtainable after {cancels:,} cancellations",
            asyncio.run(survivors(make(), cancels)),
            "slots",
        )
        for name, make in makers.items()
    ]


async def survivors(slot: Slot, cancels: int) -> int:
    """Cancel tasks while they wait or hold; return how many can hold a slot at once afterwards."""
    chance = random.Random(7)
    struck = 0

    async def one() -> None:
        async with slot():
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)

    async def worker() -> None:
        nonlocal struck
        while struck < cancels:
            task = asyncio.create_task(one())
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            struck += task.cancel()
            await asyncio.wait([task])

    await asyncio.gather(*(worker() for _ in range(20)))
    inside = 0

    async def stay() -> None:
        nonlocal inside
        async with slot():
            inside += 1
            await asyncio.Event().wait()

    staying = [asyncio.create_task(stay()) for _ in range(SLOTS + 1)]
    for _ in range(20):
        await asyncio.sleep(0)
    for task in staying:
        task.cancel()
    await asyncio.gather(*staying, return_exceptions=True)
    return inside
