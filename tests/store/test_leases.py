"""How long leases live: orphans, an empty server, revoked leases."""

import asyncio

import pytest

from pika_balancer import Account, Balancer, NoCapacity
from pika_balancer.events import Event, LeaseRevoked
from pika_balancer.testing import ManualClock
from tests.connection_faults import Stall
from tests.fault_proxy import FaultProxy
from tests.redis_pool import LIMIT, Pool, advance, give_back, is_away, quiet, until


async def test_leases_of_a_dead_process_are_counted_until_the_deadline(
    slow_pool: Pool, clock: ManualClock
) -> None:
    dead = slow_pool.open(lease_ttl=30, orphan_ttl=100, name="dead")
    await dead.update([Account("0", 2)])
    await dead.acquire(None, None)
    await dead.adopt("0", "job:1")
    alive = slow_pool.open(lease_ttl=30, orphan_ttl=100)
    waiter = asyncio.create_task(alive.acquire(None, None))
    await quiet(dead, alive)
    slow_pool.kill(dead)
    await advance(clock, 31, alive)
    fleet = await alive.pool_status()
    assert [(h.jobid, h.orphan, h.name) for h in fleet.holders] == [
        (None, True, "dead"),
        ("job:1", True, "dead"),
    ]
    assert fleet.orphans[0].expires == pytest.approx(99, abs=5)
    await advance(clock, 95, alive)
    assert not waiter.done()
    await advance(clock, 10, alive)
    assert (await waiter).held
    assert (await alive.pool_status()).orphans == ()
    await give_back(waiter.result())


async def test_an_orphan_is_taken_over_by_its_jobs_id(slow_pool: Pool, clock: ManualClock) -> None:
    dead, heir = slow_pool.open(lease_ttl=30, orphan_ttl=100), slow_pool.open(lease_ttl=30, orphan_ttl=100)
    await dead.update([Account("0", 1)])
    await dead.adopt("0", "job:1")
    slow_pool.kill(dead)
    await advance(clock, 40, heir)
    lease = await heir.adopt("0", "job:1")
    await advance(clock, 500, heir)
    fleet = await heir.pool_status()
    assert [(h.jobid, h.orphan) for h in fleet.holders] == [("job:1", False)]
    await give_back(lease)
    assert (await heir.pool_status()).snapshot.in_flight == 0


async def test_a_process_that_was_only_slow_keeps_its_leases(slow_pool: Pool, clock: ManualClock) -> None:
    slow, other = slow_pool.open(lease_ttl=30, orphan_ttl=100), slow_pool.open(lease_ttl=30, orphan_ttl=100)
    await slow.update([Account("0", 1)])
    lease = await slow.acquire(None, None)
    slow_pool.silence(slow)
    await other.pool_status()
    await advance(clock, 60, slow)
    assert [h.orphan for h in (await other.pool_status()).holders] == [True]
    slow_pool.wake(slow)
    await advance(clock, 1, slow)
    assert [h.orphan for h in (await other.pool_status()).holders] == [False]
    assert lease.held
    await give_back(lease)


async def test_a_lease_that_was_given_up_while_its_process_was_away_is_revoked(
    slow_pool: Pool, clock: ManualClock
) -> None:
    events: list[Event] = []
    store = slow_pool.open(lease_ttl=30, orphan_ttl=100)
    other = slow_pool.open(lease_ttl=30, orphan_ttl=100)
    async with Balancer([Account("0", 1)], store=store, clock=clock, observer=events.append) as balancer:
        lease = await balancer.acquire()
        slow_pool.silence(store)
        await advance(clock, 40, store)
        fleet = await other.pool_status()
        assert (await other.repair(fleet.orphans)).given_up == (lease.id,)
        assert not lease.revoked
        slow_pool.wake(store)
        await advance(clock, 1, store)
        assert (lease.revoked, lease.held) == (True, False)
        assert [event.lease_id for event in events if isinstance(event, LeaseRevoked)] == [lease.id]
        await balancer.release(lease)
        assert balancer.statistics().holders == ()


async def test_a_repair_takes_nothing_from_the_living(slow_pool: Pool, clock: ManualClock) -> None:
    store, other = slow_pool.open(lease_ttl=30), slow_pool.open(lease_ttl=30)
    await store.update([Account("0", 1)])
    lease = await store.acquire(None, None)
    holders = (await other.pool_status()).holders
    assert (await other.repair(holders)).given_up == ()
    await give_back(lease)


async def test_an_empty_server_learns_from_living_processes_before_it_grants(
    slow_pool: Pool, clock: ManualClock
) -> None:
    holder, newcomer = slow_pool.open(lease_ttl=30), slow_pool.open(lease_ttl=30, first_start=False)
    await holder.update([Account("0", 2)])
    held = [await holder.acquire(None, None) for _ in range(2)]
    slow_pool.delete()
    await newcomer.update([Account("0", 2)])
    with pytest.raises(NoCapacity) as caught:
        await newcomer.acquire(None, clock.now())
    # The holder hears at once that the pool is empty and may have stated its leases already.
    if caught.value.reason != "full":
        assert "learns" in str(caught.value)
        assert caught.value.reason == "cooling_down"
        assert caught.value.until == pytest.approx(clock.now() + 30)
    waiter = asyncio.create_task(newcomer.acquire(None, None))
    await quiet(newcomer)
    await advance(clock, 29, holder, newcomer)
    fleet = await newcomer.pool_status()
    assert fleet.snapshot.in_flight == 2
    assert fleet.learning == pytest.approx(1)
    await advance(clock, 2, holder, newcomer)
    assert not waiter.done()
    for lease in held:
        await give_back(lease)
    lease = await waiter
    await give_back(lease)


async def test_a_new_pool_grants_at_once_with_first_start(slow_pool: Pool) -> None:
    store = slow_pool.open(first_start=True)
    await store.update([Account("0", 1)])
    await give_back(await store.acquire(None, None))


async def test_a_shared_adopted_lease_ends_in_every_process_when_one_releases_it(
    slow_pool: Pool, clock: ManualClock
) -> None:
    one, two = slow_pool.open(lease_ttl=30), slow_pool.open(lease_ttl=30)
    await one.update([Account("0", 1)])
    mine, theirs = await one.adopt("0", "job:1"), await two.adopt("0", "job:1")
    assert one.snapshot().in_flight == 1
    await give_back(mine)
    await advance(clock, 11, one, two)
    assert (theirs.held, theirs.revoked) == (False, False)
    assert (await two.pool_status()).snapshot.in_flight == 0


async def test_a_waiter_is_told_at_once_that_another_process_removed_its_account(slow_pool: Pool) -> None:
    one, two = slow_pool.open(), slow_pool.open()
    await one.update([Account("0", 1), Account("1", 1)])
    await until(lambda: slow_pool.listeners() == 1)
    lease = await one.acquire("1", None)
    waiter = asyncio.create_task(one.acquire("1", None))
    await quiet(one)
    await two.update([Account("0", 1)])
    await quiet(one, two)
    # The clock stands still: no heartbeat was due.
    with pytest.raises(NoCapacity) as caught:
        await asyncio.wait_for(waiter, LIMIT)
    assert caught.value.reason == "never"
    await give_back(lease)


async def test_a_newer_map_is_not_undone_by_an_older_one(slow_pool: Pool, clock: ManualClock) -> None:
    late, other = slow_pool.open(), slow_pool.open()
    await late.update([Account("0", 1)])
    slow_pool.kill(late)
    await until(lambda: is_away(late))
    # It sends this update a minute later, when it is connected again.
    await late.update([Account("0", 3)])
    await advance(clock, 60, other)
    await other.update([Account("0", 5)])
    slow_pool.wake(late)
    await quiet(late)
    assert (await other.pool_status()).snapshot.capacity == 5


async def test_a_killed_process_leaves_no_waiter_that_is_granted_a_slot(pool: Pool) -> None:
    dead, alive = pool.open(), pool.open()
    await dead.update([Account("0", 1)])
    lease = await alive.acquire(None, None)
    stuck = asyncio.create_task(dead.acquire(None, None))
    await quiet(dead, alive)
    waiter = asyncio.create_task(alive.acquire(None, None))
    await quiet(dead, alive)
    pool.kill(dead)
    await until(lambda: is_away(dead) and pool.listeners() == 1)
    await give_back(lease)
    # The dead process has the first waiter, and does not listen.
    granted = await asyncio.wait_for(waiter, LIMIT)
    await give_back(granted)
    stuck.cancel()
    await asyncio.wait([stuck])
    pool.wake(dead)  # it comes back to life, to clear up after itself
    await quiet(dead)


async def test_a_heartbeat_right_after_an_adoption_states_it(slow_pool: Pool, clock: ManualClock) -> None:
    other = slow_pool.open()
    async with FaultProxy("127.0.0.1", slow_pool.server.port) as proxy:
        # A heartbeat is due every three seconds.
        store = slow_pool.open(f"redis://127.0.0.1:{proxy.port}", lease_ttl=9)
        await store.update([Account("1001", 1)])
        await advance(clock, 2, store)
        late = proxy.inject(Stall(), times=1)
        adopting = asyncio.create_task(store.adopt("1001", "a job"))
        await until(lambda: late.hits == 1)
        # The heartbeat is due before the reply arrives, and is sent before the adopter resumes.
        await clock.advance(1)
        late.withdraw()
        lease = await adopting
        await quiet(store)
        assert [holder.jobid for holder in (await other.pool_status()).holders] == ["a job"]
        await give_back(lease)
        await store.close()


async def test_a_cancelled_adoption_is_not_stated(slow_pool: Pool, clock: ManualClock) -> None:
    async with FaultProxy("127.0.0.1", slow_pool.server.port) as proxy:
        store = slow_pool.open(f"redis://127.0.0.1:{proxy.port}")
        await store.update([Account("1001", 1)])
        late = proxy.inject(Stall(), times=1)
        adopting = asyncio.create_task(store.adopt("1001", "a job"))
        await until(lambda: late.hits == 1)
        adopting.cancel()
        await asyncio.wait([adopting])
        late.withdraw()
        await quiet(store)
        await advance(clock, 60, store)
        assert (await store.pool_status()).holders == ()
        await store.close()


async def test_a_revoked_adopted_lease_can_be_adopted_again(slow_pool: Pool, clock: ManualClock) -> None:
    events: list[Event] = []
    slow, other = slow_pool.open(lease_ttl=30), slow_pool.open(lease_ttl=30)
    async with Balancer([Account("0", 2)], store=slow, clock=clock, observer=events.append) as balancer:
        lease = await balancer.adopt("0", "job:1")
        slow_pool.silence(slow)
        await clock.advance(31)
        # An operator frees the slot by mistake.
        await other.repair((await other.pool_status()).orphans)
        slow_pool.wake(slow)
        await quiet(slow)
        assert (lease.revoked, lease.held, balancer.adopted()) == (True, False, {})
        assert [event.lease_id for event in events if isinstance(event, LeaseRevoked)] == ["job:1"]
        again = await balancer.adopt("0", "job:1")
        # The revoked lease does not release the new one.
        await balancer.release(lease)
        assert balancer.adopted() == {"job:1": again}
        assert (await other.pool_status()).snapshot.in_flight == 1
        await balancer.release(again)
        assert (await other.pool_status()).snapshot.in_flight == 0
