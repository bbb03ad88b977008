"""A connection to the server that is down, breaks again and again, or loses a message."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

import pytest

from pika_balancer import Account, StoreUnavailable
from pika_balancer.models import Lease
from pika_balancer.store.redis.store import RedisStore
from tests.connection_faults import Cut, Drop
from tests.depth import sized
from tests.fault_proxy import FaultProxy
from tests.redis_pool import LIMIT, Pool, quiet, until

ACCOUNTS = [Account("1001", 3), Account("1002", 2)]
SLOTS = 5
SCRIPT = b"EVALSHA"
"""In every call of the store's own, and not in what opens a connection or subscribes."""
TTL = 0.9
"""Lease life in seconds, so that an answer is waited for a third of it."""


@pytest.fixture
async def proxy(pool: Pool) -> AsyncGenerator[FaultProxy]:
    async with FaultProxy("127.0.0.1", pool.server.port) as proxy:
        yield proxy
        # The pool is checked for leaks next: pending releases have to reach the server.
        proxy.heal()
        for store in pool.stores:
            await store.close()


@pytest.fixture
async def store(pool: Pool, proxy: FaultProxy) -> RedisStore:
    """Return a store behind the proxy, which has its accounts and its connections."""
    store = pool.open(f"redis://127.0.0.1:{proxy.port}", lease_ttl=TTL)
    await store.update(ACCOUNTS)
    return store


async def counted(pool: Pool) -> Counter[str]:
    """Return how many slots the server counts per channel, asked past the proxy."""
    fleet = await pool.open().pool_status()
    assert not fleet.faults
    return Counter(holder.channel for holder in fleet.holders)


async def give_back(store: RedisStore, *leases: Lease) -> None:
    owed = [waiting for lease in leases if (waiting := store.release(lease)) is not None]
    await asyncio.gather(*owed)


@pytest.mark.deep
async def test_work_on_a_line_that_breaks_again_and_again_passes_no_cap_and_loses_nothing(
    pool: Pool, proxy: FaultProxy
) -> None:
    store = pool.open(f"redis://127.0.0.1:{proxy.port}", lease_ttl=30.0)
    await store.update(ACCOUNTS)
    most = 0
    in_flight: Counter[str] = Counter()

    numbers = iter(range(sized(60, 600)))

    async def work() -> None:
        nonlocal most
        for number in numbers:
            if number % 20 == 0:
                proxy.inject(Cut(), times=1)
            elif number % 20 == 10:
                proxy.inject(Cut(on="requests"), matching=SCRIPT, times=1)
            lease = await store.acquire(None, None)
            in_flight[lease.channel] += 1
            most = max(most, in_flight.total())
            assert all(in_flight[account.channel] <= account.max_jobs for account in ACCOUNTS)
            await asyncio.sleep(0)
            in_flight[lease.channel] -= 1
            await give_back(store, lease)

    async with asyncio.timeout(LIMIT):
        await asyncio.gather(*(work() for _ in range(8)))
    proxy.heal()
    assert most > 1
    await quiet(store)
    assert await counted(pool) == {}


async def test_an_outage_is_waited_out_until_the_deadline(
    pool: Pool, proxy: FaultProxy, store: RedisStore
) -> None:
    held = [await store.acquire(None, None) for _ in range(SLOTS)]
    async with proxy.outage():
        patient = asyncio.create_task(store.acquire(None, None))
        with pytest.raises(StoreUnavailable) as caught:
            await store.acquire(None, asyncio.get_running_loop().time() + 0.05)
        assert caught.value.address == f"redis://127.0.0.1:{proxy.port}"
        # Released during the outage: the caller does not wait, and the slot stays counted.
        await asyncio.wait_for(give_back(store, *held[:2]), LIMIT)
        assert (await counted(pool)).total() == SLOTS
        assert not patient.done()
    lease = await asyncio.wait_for(patient, LIMIT)
    assert (await counted(pool)).total() == SLOTS - 1
    await give_back(store, lease, *held[2:])
    await quiet(store)
    assert await counted(pool) == {}


@pytest.mark.parametrize("fault", ["message lost", "connection cut"])
async def test_a_waiter_whose_grant_is_lost_is_served_by_its_own_heartbeat(
    pool: Pool, proxy: FaultProxy, fault: str
) -> None:
    # So long that only the heartbeats of a waiting process, every few seconds, can help.
    waits = pool.open(f"redis://127.0.0.1:{proxy.port}", lease_ttl=3.0 if fault == "message lost" else 30.0)
    await waits.update([Account("1001", 1)])
    await until(lambda: pool.listeners() == 1)
    other = pool.open()
    lease = await other.acquire(None, None)
    waiting = asyncio.create_task(waits.acquire(None, None))
    await until(lambda: pool.waiters() == 1)
    if fault == "message lost":
        lost = proxy.inject(Drop(), matching=b"message")
        await give_back(other, lease)
        await until(lambda: lost.hits > 0)
        assert not waiting.done()
    else:
        proxy.cut()
        await give_back(other, lease)
    mine = await asyncio.wait_for(waiting, LIMIT)
    assert await counted(pool) == {"1001": 1}
    await give_back(waits, mine)
