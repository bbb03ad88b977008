"""A server that is away, stalls, forgets its scripts or its memory, or is replaced by its replica."""

import asyncio
import logging
import random
import traceback
from collections.abc import AsyncGenerator, Iterator

import pytest
import redis.asyncio
import valkey.asyncio

from pika_balancer import Account, Balancer, InvalidArgument, NoCapacity, StoreUnavailable
from pika_balancer.events import Event, StoreAway, StoreBack
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import ManualClock, settle
from tests.depth import sized
from tests.redis_pool import LIMIT, Pool, give_back, is_away, quiet, until
from tests.redis_servers import Server, make

SECRET = "canary-hunter2"  # not a password of anything


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server that the test may stop and start."""
    server = make("valkey").start()
    yield server
    server.remove()


@pytest.fixture
async def own_pool(server: Server) -> AsyncGenerator[Pool]:
    """Return a pool on it."""
    pool = Pool(server)
    yield pool
    await pool.end()


async def test_an_unreachable_server_is_reported_in_time_and_without_credentials(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    store = RedisStore(f"redis://user:{SECRET}@127.0.0.1:1/0", "p")
    async with Balancer([Account("0", 1)], store=store, observer=events.append) as balancer:
        with pytest.raises(StoreUnavailable) as at_once:
            await balancer.acquire(timeout=0)
        with pytest.raises(StoreUnavailable) as later:
            await balancer.acquire(timeout=0.05)
    assert at_once.value.why == "ConnectionError"
    assert later.value.address is not None
    assert later.value.address.startswith("redis://127.0.0.1:")
    assert [type(event) for event in events if isinstance(event, StoreAway)] == [StoreAway]
    shown = [*map(str, events), caplog.text, repr(store), repr(balancer)]
    for error in (at_once, later):
        shown += traceback.format_exception(error.value)
    assert SECRET not in "".join(shown)


async def test_a_wrong_password_is_refused_at_once_even_without_a_time_limit(server: Server) -> None:
    with server.client() as client:
        client.config_set("requirepass", "right")
        client.execute_command("AUTH", "right")
        store = RedisStore(f"redis://:{SECRET}@127.0.0.1:{server.port}", "p")
        with pytest.raises(StoreUnavailable, match="refuses") as caught:
            await store.acquire(None, None)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        await store.close()
        client.config_set("requirepass", "")


@pytest.mark.parametrize("url", [f"redis://:{SECRET}@host:port/0", f"http://{SECRET}@host", "host:6379"])
def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        RedisStore(url)
    assert caught.value.field == "url_or_client"
    assert SECRET not in "".join(traceback.format_exception(caught.value))


async def test_releases_and_adoptions_of_an_outage_reach_the_server_later(
    server: Server, own_pool: Pool
) -> None:
    server.options["appendonly"] = "yes"
    server.restart()
    events: list[Event] = []
    store = own_pool.open()
    async with Balancer([Account("0", 2)], store=store, observer=events.append) as balancer:
        kept, given_back = await balancer.acquire(), await balancer.acquire()
        waiter = asyncio.create_task(balancer.acquire())
        await quiet(store)
        server.kill()
        await until(lambda: is_away(store))
        # None of these waits for the server.
        await balancer.release(given_back)
        job = await balancer.adopt("0", "job:1")
        await balancer.cool_down("0", 0.5)
        with pytest.raises(StoreUnavailable):
            await balancer.acquire(timeout=0)
        server.start()
        await until(lambda: not is_away(store))
        await quiet(store)
        assert [type(event) for event in events if isinstance(event, StoreAway | StoreBack)] == [
            StoreAway,
            StoreBack,
        ]
        fleet = await store.pool_status()
        assert fleet.snapshot.accounts[0].in_flight == 2
        assert fleet.snapshot.accounts[0].cooldown_until is not None
        assert [(holder.jobid, holder.orphan) for holder in fleet.holders] == [
            (None, False),
            ("job:1", False),
        ]
        await balancer.release(job)
        await balancer.release(await asyncio.wait_for(waiter, LIMIT))
        await balancer.release(kept)


async def test_a_restart_without_persistence_grants_nothing_twice(server: Server, own_pool: Pool) -> None:
    stores = [own_pool.open(lease_ttl=1.5, first_start=False) for _ in range(2)]
    await stores[0].update([Account(str(i), 5) for i in range(4)])
    held = [await stores[i % 2].acquire(None, None) for i in range(20)]
    server.kill()
    await until(lambda: all(map(is_away, stores)))
    server.start()
    await until(lambda: not any(map(is_away, stores)))
    await stores[1].update([Account(str(i), 5) for i in range(4)])
    loop = asyncio.get_running_loop()
    with pytest.raises(NoCapacity):
        await stores[0].acquire(None, loop.time() + 2)
    fleet = await stores[1].pool_status()
    assert (fleet.snapshot.in_flight, len(fleet.holders), fleet.faults) == (20, 20, ())
    assert all(lease.held and not lease.revoked for lease in held)
    await give_back(*held)


async def test_a_replica_that_takes_over_learns_what_it_missed(server: Server) -> None:
    replica = make("valkey")
    replica.options["replicaof"] = f"127.0.0.1 {server.port}"
    replica.start()
    try:
        with replica.client() as client, server.client() as primary:
            await until(lambda: client.info("replication")["master_link_status"] == "up")
            pool = Pool(server)
            store = pool.open()
            await store.update([Account("0", 10)])
            before = [await store.acquire(None, None) for _ in range(4)]
            primary.execute_command("WAIT", 1, 1000)
            # From here on the replica gets no more writes.
            client.execute_command("REPLICAOF", "NO", "ONE")
            after = [await store.acquire(None, None) for _ in range(3)]
            server.kill()
            assert client.hlen(f"pika:{{{pool.name}}}:leases") == 4
            await until(lambda: is_away(store))
            # The replica takes over the address.
            client.config_set("port", server.port)
            await quiet(store)
            await until(lambda: client.hlen(f"pika:{{{pool.name}}}:leases") == 7)
            fleet = await store.pool_status()
            assert (fleet.snapshot.in_flight, fleet.faults) == (7, ())
            await give_back(*before, *after)
            assert (await store.pool_status()).snapshot.in_flight == 0
            await store.close()
    finally:
        replica.remove()


async def test_scripts_that_the_server_lost_are_sent_again(server: Server, own_pool: Pool) -> None:
    store = own_pool.open()
    await store.update([Account("0", 1)])
    with server.client() as client:
        for _ in range(3):
            client.script_flush()
            lease = await store.acquire(None, None)
            client.script_flush()
            await give_back(lease)
    assert (await store.pool_status()).snapshot.in_flight == 0


async def test_a_stalled_server_counts_as_away_and_nothing_is_taken_twice(
    server: Server, own_pool: Pool
) -> None:
    store = own_pool.open(lease_ttl=1.0)
    await store.update([Account("0", 5)])
    await quiet(store)
    server.pause()
    stalled = [asyncio.create_task(store.acquire(None, None)) for _ in range(3)]
    cancelled = stalled.pop()
    # Long enough for the call to be sent, and too short for it to be given up.
    await settle()
    assert not is_away(store)
    cancelled.cancel()
    await until(lambda: is_away(store))
    server.go_on()
    leases = await asyncio.wait_for(asyncio.gather(*stalled), LIMIT)
    await quiet(store)
    fleet = await store.pool_status()
    assert {holder.lease_id for holder in fleet.holders} == {lease.id for lease in leases}
    await give_back(*leases)


@pytest.mark.deep
async def test_a_storm_of_cancellations_leaves_nothing(own_pool: Pool) -> None:
    store = own_pool.open()
    await store.update([Account(str(i), 5) for i in range(10)])
    chance = random.Random(3)
    held = [await store.acquire(None, None) for _ in range(25)]

    async def one() -> None:
        task = asyncio.create_task(store.acquire(None, None))
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        if chance.random() < 0.1 and held:
            await give_back(held.pop())
        task.cancel()
        try:
            lease = await task
        except asyncio.CancelledError:
            return
        await give_back(lease)

    for _ in range(sized(4, 20)):
        await asyncio.gather(*(one() for _ in range(500)))
    await quiet(store)
    fleet = await store.pool_status()
    assert (fleet.snapshot.in_flight, fleet.waiters, fleet.faults) == (len(held), (), ())
    await give_back(*held)


async def test_clocks_that_are_hours_apart_do_not_matter(own_pool: Pool) -> None:
    early, late = ManualClock(0.0), ManualClock(7 * 3600.0)
    one, two = own_pool.open(clock=early), own_pool.open(clock=late)
    await two.update([Account("0", 1)])
    await quiet(one, two)
    await one.update([Account("0", 2), Account("1", 1)])
    await one.cool_down("1", early.now() + 100)
    lease = await one.acquire("0", None)
    assert (await two.pool_status()).snapshot.capacity == 3
    await quiet(one, two)
    with pytest.raises(NoCapacity) as caught:
        await two.acquire("1", late.now())
    assert caught.value.until == pytest.approx(late.now() + 100, abs=2)
    assert not (await two.pool_status()).orphans
    await give_back(lease)


@pytest.mark.parametrize("library", [redis.asyncio, valkey.asyncio], ids=["redis", "valkey"])
async def test_a_given_client_is_used_and_stays_open(own_pool: Pool, library: object) -> None:
    # The store does not need a free connection of the client's pool.
    name = "Redis" if library is redis.asyncio else "Valkey"
    pool_of_one = getattr(library, "BlockingConnectionPool").from_url(  # noqa: B009 - one of two modules
        own_pool.server.url, max_connections=1, timeout=0.1, decode_responses=True
    )
    client = getattr(library, name)(connection_pool=pool_of_one)
    busy = client.pubsub()
    await busy.subscribe("something")
    store = own_pool.open(client)
    await store.update([Account("0", 1)])
    await give_back(await store.acquire(None, None))
    await store.close()
    await busy.aclose()
    assert await client.ping()
    await client.aclose()
    await pool_of_one.disconnect()
