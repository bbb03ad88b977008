"""Across processes: each account alike, first come first served, woken at once, with few commands."""

import asyncio
import random
import statistics
from collections import Counter

import pytest

from pika_balancer import Account
from pika_balancer.store.redis.store import RedisStore
from tests.chi_square import p_value
from tests.depth import sized
from tests.redis_pool import LIMIT, Pool, give_back, quiet, until


@pytest.mark.deep
async def test_each_account_is_picked_alike_by_every_process(pool: Pool) -> None:
    stores = [pool.open(rng=random.Random(seed)) for seed in range(4)]
    # Most slots free or few: each account counts once.
    await stores[0].update([Account(str(i), 1 + 3 * i) for i in range(6)])
    picked: Counter[str] = Counter()

    async def one(store: RedisStore) -> None:
        lease = await store.acquire(None, None)
        picked[lease.channel] += 1
        await give_back(lease)

    rounds = sized(120, 500)
    for _ in range(rounds):
        for store in stores:
            await one(store)
    counts = [picked[str(i)] for i in range(6)]
    assert sum(counts) == 4 * rounds
    assert p_value(counts, [4 * rounds / 6] * 6) > 1e-4


async def test_all_processes_share_one_wait_queue(pool: Pool) -> None:
    stores = [pool.open() for _ in range(5)]
    await stores[0].update([Account("0", 1)])
    first = await stores[0].acquire(None, None)
    await quiet(*stores)
    served: list[int] = []

    async def one(number: int) -> None:
        lease = await stores[number % 5].acquire(None, None)
        served.append(number)
        await give_back(lease)

    tasks: list[asyncio.Task[None]] = []
    for number in range(30):
        tasks.append(asyncio.create_task(one(number)))
        await until(lambda number=number: pool.waiters() == number + 1)  # type: ignore[misc]  # a bound loop variable
    await give_back(first)
    await asyncio.wait_for(asyncio.gather(*tasks), LIMIT)
    assert served == list(range(30))


@pytest.mark.deep
async def test_no_waiter_starves_and_a_grant_costs_two_commands(pool: Pool) -> None:
    stores = [pool.open() for _ in range(5)]
    await stores[0].update([Account("0", 1), Account("1", 1)])
    for store in stores:
        await give_back(await store.acquire(None, None))
    await quiet(*stores)
    grants: Counter[int] = Counter()
    enough = sized(600, 2000)
    over = asyncio.Event()

    async def one(number: int) -> None:
        while not over.is_set():
            lease = await stores[number % 5].acquire(None, None)
            grants[number] += 1
            await asyncio.sleep(0)
            await give_back(lease)
            if sum(grants.values()) >= enough:
                over.set()

    with pool.server.client() as client:
        client.config_resetstat()
        await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(50))), LIMIT)
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    total = sum(grants.values())
    shares = [grants[number] for number in range(50)]
    jain = sum(shares) ** 2 / (50 * sum(share**2 for share in shares))
    assert jain >= 0.99
    assert calls <= 2 * total + 50


async def test_a_freed_slot_is_taken_at_once(pool: Pool) -> None:
    stores = pool.open(), pool.open()
    await stores[0].update([Account("0", 1), Account("1", 1)])
    held = await stores[0].acquire("0", None)
    await quiet(*stores)
    loop = asyncio.get_running_loop()
    ratios: list[float] = []
    for turn in range(60):
        wanted = asyncio.create_task(stores[1 - turn % 2].acquire("0", None))
        await until(lambda: pool.waiters() == 1)
        begin = loop.time()
        await give_back(await stores[turn % 2].acquire("1", None))
        two_calls = loop.time() - begin
        begin = loop.time()
        owed = give_back(held)
        held, _ = await asyncio.gather(wanted, owed)
        ratios.append((loop.time() - begin) / two_calls)
    await give_back(held)
    # One call and one message: polling would take longer.
    assert statistics.median(ratios) < 5
