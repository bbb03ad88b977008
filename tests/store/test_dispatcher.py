"""Dispatchers of several processes on one shared store, against the local server.

A process is a store, a balancer and a dispatcher here. One clock, moved by hand, is the clock of
the service, the shared server and the processes.
"""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from pika_balancer import Account, Balancer, Dispatcher, NotFound, PikaClient, StoreUnavailable
from pika_balancer.events import Event, LeaseRevoked, StoreAway, StoreBack
from pika_balancer.models import Job
from pika_balancer.server import LocalServer, ServerStatistics
from pika_balancer.store import MemoryStore
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import ManualClock, settle
from tests.fault_proxy import FaultProxy
from tests.redis_pool import LIMIT, OwnClock, Pool, is_away, quiet, until
from tests.redis_servers import Servers, make

ONE, TWO = "100000000000000001", "100000000000000002"
TTL = 30.0
ORPHAN_TTL = 100_000.0
"""Longer than any test: what is free again before was given up for a reason."""
_STEP: Final = 2.5
_TURNS: Final = 60


class Worker:
    """One process."""

    def __init__(self, site: "Site", name: str, of_store: dict[str, Any], **options: Any) -> None:
        self.name = name
        self.events: list[Event] = []
        # Everything in the process follows this clock: stopped, it does nothing more by itself.
        self._clock = clock = OwnClock(site.clock)
        self._pool = site.pool
        self.store = site.pool.open(clock=OwnClock(clock), name=name, **of_store)
        self.balancer = Balancer(
            [Account(channel, cap) for channel, cap in site.caps.items()],
            store=self.store,
            clock=clock,
            observer=self.events.append,
        )
        self.dispatcher = Dispatcher(site.client, self.balancer, clock=clock, rng=random.Random(1), **options)

    def fall_silent(self) -> None:
        """Have the process do nothing any more, and say nothing to the store, as if it had been killed."""
        self._clock.stop()
        self._pool.disconnect(self.store)

    def lose_its_voice(self) -> None:
        """Have no sign of life of the process reach the store any more."""
        self._pool.silence(self.store)

    def find_its_voice(self) -> None:
        """Have the process state to the store what it holds."""
        self._pool.wake(self.store)

    async def end(self) -> None:
        """End it, in whatever state it is."""
        await self.dispatcher.close()
        await self.balancer.close()

    def events_of(self, kind: type[Event]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


class Site:
    """A service, a pool on a shared server, and the processes."""

    def __init__(self, pool: Pool, clock: ManualClock) -> None:
        self.pool = pool
        self.clock = clock
        self.caps = {ONE: 2}
        self.service: LocalServer
        self.client: PikaClient
        self.workers: list[Worker] = []
        self._dead: list[Worker] = []
        self._stack = AsyncExitStack()

    async def open(self, caps: dict[str, int] | None = None, **options: Any) -> None:
        """Begin to serve."""
        self.caps = caps or {ONE: 2}
        settings: dict[str, Any] = {"service": "fixed:60s", "rng": random.Random(1)} | options
        self.service = LocalServer(self.caps, clock=self.clock, **settings)
        url = await self._stack.enter_async_context(self.service.run())
        client = PikaClient("user:canary-token", base_url=url, timeout=LIMIT, retries=0)
        self.client = await self._stack.enter_async_context(client)

    async def worker(self, *, of_store: dict[str, Any] | None = None, **options: Any) -> Worker:
        """Start a process."""
        of_store = {"lease_ttl": TTL, "orphan_ttl": ORPHAN_TTL} | (of_store or {})
        worker = Worker(self, f"worker {len(self.workers) + len(self._dead)}", of_store, **options)
        await worker.balancer.__aenter__()
        self.workers.append(worker)
        await worker.dispatcher.__aenter__()
        await until(lambda: self.pool.listeners() == len(self.workers))
        return worker

    async def kill(self, worker: Worker) -> None:
        """End a process as `kill -9` would."""
        self.workers.remove(worker)
        self._dead.append(worker)
        worker.fall_silent()
        await until(lambda: is_away(worker.store))

    async def stop(self, worker: Worker, timeout: float | None = 0.0) -> list[dict[str, Any]]:
        """End a process in good order; return its records."""
        records = await worker.dispatcher.drain(timeout)
        await worker.balancer.close()
        self.workers.remove(worker)
        return records

    async def close(self) -> None:
        """End what is left."""
        for worker in [*self.workers, *self._dead]:
            await worker.end()
        await self._stack.aclose()

    async def pass_time(self, seconds: float, condition: Callable[[], bool] | None = None) -> None:
        """Move the clock step by step until the condition holds; fail if it does not in that time."""
        stores = [worker.store for worker in self.workers]
        for _ in range(math.ceil(seconds / _STEP)):
            # Client and service are in this event loop: what they say takes turns of it, and no time.
            await settle(_TURNS)
            await quiet(*stores)
            if condition is not None and condition():
                return
            await self.clock.advance(_STEP)
        await quiet(*stores)
        if condition is not None:
            await until(condition)

    async def counted(self) -> int:
        """Ask the store how many slots are taken."""
        return (await self.workers[-1].store.pool_status()).snapshot.in_flight

    @property
    def seen(self) -> ServerStatistics:
        """What the service saw."""
        return self.service.statistics()

    def check(self) -> None:
        """Hold the service's own counts against the rules."""
        seen = self.seen
        assert (seen.duplicate_reply_refs, seen.attempts_when_full) == (0, 0)
        for channel in seen.channels.values():
            assert channel.peak_in_flight <= (channel.max_jobs or 0)


@pytest.fixture
async def site(slow_pool: Pool, clock: ManualClock) -> AsyncGenerator[Site]:
    """Return a service and a pool without processes; closed, and looked at for leaks, at the end."""
    site = Site(slow_pool, clock)
    yield site
    await site.close()


def begin(worker: Worker, channel: str | None = None) -> "asyncio.Task[Job]":
    return asyncio.create_task(worker.dispatcher.run("create", prompt="a cat", channel=channel))


async def running(site: Site, worker: Worker, count: int = 1) -> "list[asyncio.Task[Job]]":
    """Have so many jobs more executing at the service, with their slots named by their ids."""
    before = site.seen.in_flight
    tasks = [begin(worker) for _ in range(count)]
    await until(lambda: site.seen.in_flight == before + count)
    await until(lambda: all(h.jobid in worker.balancer.adopted() for h in worker.dispatcher.handles))
    await quiet(worker.store)
    return tasks


async def is_back(store: RedisStore, clock: ManualClock) -> None:
    """Move the clock on until the store has reached its server again."""
    async with asyncio.timeout(LIMIT):
        while is_away(store):
            await clock.advance(1)
            await asyncio.sleep(0.01)


# --- lives of jobs -----------------------------------------------------------------------------------------


async def test_the_jobs_of_two_processes_share_the_slots_and_give_them_all_back(site: Site) -> None:
    await site.open({ONE: 2, TWO: 1})
    here, there = await site.worker(), await site.worker()
    jobs = [begin(worker) for worker in (here, there) for _ in range(6)]
    await site.pass_time(600, lambda: all(job.done() for job in jobs))
    assert [job.result().status for job in jobs] == ["completed"] * 12
    assert {channel: seen.peak_in_flight for channel, seen in site.seen.channels.items()} == {ONE: 2, TWO: 1}
    assert await site.counted() == 0
    site.check()


async def test_a_job_that_two_dispatchers_see_takes_one_slot(site: Site) -> None:
    await site.open({ONE: 3})
    here = await site.worker()
    [job] = await running(site, here)
    # Entering counts what executes: the same job, by the same name.
    there = await site.worker()
    assert list(here.balancer.adopted()) == list(there.balancer.adopted())
    assert await site.counted() == 1
    await site.pass_time(40)
    assert await site.counted() == 1
    await site.pass_time(60, job.done)
    assert await site.counted() == 0
    assert not [*here.events_of(LeaseRevoked), *there.events_of(LeaseRevoked)]
    site.check()


async def test_strangers_that_fill_a_channel_are_counted_once_by_all(site: Site) -> None:
    await site.open({ONE: 2, TWO: 1}, service="fixed:120s")
    here, there = await site.worker(), await site.worker()
    for number in range(2):
        await site.client.create("a stranger's", channel=ONE, reply_ref=f"stranger {number}")
    pinned = [begin(worker, ONE) for worker in (here, there)]
    # Each may knock once, and once more if it had not heard yet that the other gave its own slot back.
    await site.pass_time(20, lambda: site.seen.attempts_when_full > 0)
    await site.pass_time(30)
    assert site.seen.attempts_when_full <= 4
    assert await site.counted() == 2
    await site.pass_time(300, lambda: all(job.done() for job in pinned))
    assert site.seen.channels[ONE].peak_in_flight == 2
    assert site.seen.duplicate_reply_refs == 0
    await site.pass_time(20)
    assert await site.counted() == 0


async def test_a_drained_process_hands_its_jobs_and_slots_to_the_next(site: Site) -> None:
    await site.open({ONE: 2})
    first = await site.worker()
    await running(site, first, 2)
    records = await site.stop(first)
    second = await site.worker()
    handles = await second.dispatcher.resume(records)
    assert await site.counted() == 2
    waiting = begin(second)
    await site.pass_time(40)
    assert (waiting.done(), site.seen.jobs) == (False, 2)
    await site.pass_time(60, lambda: all(handle.done for handle in handles))
    assert [(await handle).status for handle in handles] == ["completed"] * 2
    await site.pass_time(90, waiting.done)
    assert await site.counted() == 0
    site.check()


# --- deaths ------------------------------------------------------------------------------------------------


async def test_the_jobs_of_a_killed_process_are_counted_until_they_end_and_not_for_longer(site: Site) -> None:
    await site.open({ONE: 2}, service="fixed:300s")
    # Before there are any jobs, so that it looks after none: it has to learn of the orphans by itself.
    alive = await site.worker(poll_every=10.0)
    dead = await site.worker()
    await running(site, dead, 2)
    assert not alive.balancer.adopted()
    await site.kill(dead)
    waiting = begin(alive)
    await site.pass_time(TTL + 20)
    fleet = await alive.store.pool_status()
    assert [(holder.name, holder.orphan) for holder in fleet.holders] == [(alive.name, False)] * 2
    await site.pass_time(200)
    assert (waiting.done(), site.seen.jobs, await site.counted()) == (False, 2, 2)
    ended_at = 1000.0 + 300
    await site.pass_time(60, lambda: site.seen.jobs == 3)
    assert site.clock.now() - ended_at < 15
    await site.pass_time(320, waiting.done)
    assert await site.counted() == 0
    site.check()


async def test_jobs_that_ended_unnoticed_free_their_slots_at_the_next_reconciliation(site: Site) -> None:
    await site.open({ONE: 1}, service="fixed:5s")
    dead = await site.worker()
    await running(site, dead)
    await site.kill(dead)
    await site.clock.advance(3600)
    late = await site.worker()
    assert await site.counted() == 0
    waiting = begin(late)
    await site.pass_time(30, waiting.done)
    site.check()


async def test_a_slot_without_a_name_is_kept_as_long_as_a_job_in_doubt(site: Site) -> None:
    await site.open({ONE: 3}, service="fixed:1000s")
    dead = await site.worker()
    await dead.balancer.acquire()
    alive = await site.worker(search_for=100.0)
    await site.kill(dead)
    await site.pass_time(TTL + 90)
    assert [(orphan.key, orphan.channel) for orphan in await alive.store.orphans()] == [(None, ONE)]
    await site.pass_time(40)
    assert await site.counted() == 0
    # Nothing of the dead process is left.
    assert len((await alive.store.pool_status()).processes) == 1


async def test_a_job_that_was_taken_as_its_process_died_is_counted_all_the_same(site: Site) -> None:
    await site.open({ONE: 2}, service="fixed:500s", faults=["slow:1:600s"])
    dead = await site.worker()
    sending = begin(dead)
    await until(lambda: site.seen.in_flight == 1)
    await site.kill(dead)
    alive = await site.worker(search_for=50.0)
    # Once by its id, and for a while by the slot that it was sent on.
    assert await site.counted() == 2
    await site.pass_time(TTL + 100)
    assert await site.counted() == 1
    assert not await alive.store.orphans()
    await site.pass_time(500, lambda: site.seen.in_flight == 0)
    await site.pass_time(40)
    assert await site.counted() == 0
    sending.cancel()
    site.check()


@pytest.mark.parametrize("broken", ["not listed", "without a channel"])
async def test_a_slot_without_a_name_stays_while_any_job_may_be_its(
    site: Site, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    await site.open({ONE: 3}, service="fixed:300s")
    dead = await site.worker()
    await dead.balancer.acquire()
    stranger = await site.client.create("a stranger's", channel=ONE, reply_ref="stranger")
    ask = site.client.job

    async def job(jobid: str) -> Job:
        if broken == "not listed":
            raise NotFound("unknown", status=404)
        return Job((await ask(jobid)).jobid, status="progress")

    monkeypatch.setattr(site.client, "job", job)
    alive = await site.worker(search_for=50.0)
    await site.kill(dead)
    await site.pass_time(TTL + 100)
    assert len(await alive.store.orphans()) == 1
    monkeypatch.undo()
    await site.pass_time(20)
    assert (await alive.store.orphans(), list(alive.balancer.adopted())) == ((), [stranger.jobid])
    await site.pass_time(200, lambda: not alive.balancer.adopted())


async def test_a_slot_that_is_kept_by_a_reference_goes_once_the_job_is_counted_by_its_id(site: Site) -> None:
    await site.open({ONE: 3}, service="fixed:300s", faults=["500-but-accepted:1"])
    dead = await site.worker()
    job = begin(dead)
    await until(lambda: any(key.startswith("ref ") for key in dead.balancer.adopted()))
    await quiet(dead.store)
    # The reply told no id, and the process died before it could search for the job.
    await site.kill(dead)
    job.cancel()
    alive = await site.worker()
    await site.pass_time(TTL + 20)
    assert await site.counted() == 1
    [jobid] = alive.balancer.adopted()
    assert not jobid.startswith("ref ")
    await site.pass_time(300, lambda: not alive.balancer.adopted())
    site.check()


async def test_two_survivors_that_look_at_once_leave_one_slot_for_each_job(site: Site) -> None:
    await site.open({ONE: 5}, service="fixed:200s")
    dead = await site.worker()
    await running(site, dead, 2)
    await dead.balancer.acquire()
    survivors = [await site.worker(search_for=20.0, reconcile=False) for _ in range(2)]
    await site.kill(dead)
    await site.pass_time(TTL + 10)
    await asyncio.gather(*(worker.dispatcher.reconcile() for worker in survivors))
    assert await site.counted() == 3
    await site.pass_time(20)
    await asyncio.gather(*(worker.dispatcher.reconcile() for worker in survivors))
    assert await site.counted() == 2
    await site.pass_time(200, lambda: site.seen.in_flight == 0)
    await asyncio.gather(*(worker.dispatcher.reconcile() for worker in survivors))
    assert await site.counted() == 0
    assert not [event for worker in survivors for event in worker.events_of(LeaseRevoked)]


async def test_a_job_that_is_not_listed_yet_is_asked_after_before_it_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.open({ONE: 2}, service="fixed:200s")
    dead = await site.worker()
    await running(site, dead)
    list_jobs = site.client.jobs

    async def none() -> list[str]:
        return []

    monkeypatch.setattr(site.client, "jobs", none)
    await site.kill(dead)
    alive = await site.worker(poll_every=5.0)
    await site.pass_time(TTL + 60)
    assert await site.counted() == 1
    monkeypatch.setattr(site.client, "jobs", list_jobs)
    await site.pass_time(200, lambda: not alive.balancer.adopted())
    assert (site.seen.in_flight, await site.counted()) == (0, 0)


# --- those who come back -----------------------------------------------------------------------------------


async def test_a_process_that_comes_back_shares_its_jobs_with_the_process_that_adopted_them(
    site: Site,
) -> None:
    await site.open({ONE: 2}, service="fixed:200s")
    slow, other = await site.worker(), await site.worker(poll_every=5.0)
    [job] = await running(site, slow)
    slow.lose_its_voice()
    await site.pass_time(TTL + 10)
    assert (await other.store.pool_status()).holders[0].name == other.name
    slow.find_its_voice()
    await site.pass_time(20)
    assert (await site.counted(), slow.events_of(LeaseRevoked)) == (1, [])
    await site.pass_time(200, job.done)
    assert job.result().status == "completed"
    await site.pass_time(20)
    assert await site.counted() == 0
    site.check()


async def test_a_process_that_comes_back_between_question_and_verdict_keeps_its_slot(
    slow_pool: Pool, clock: ManualClock
) -> None:
    slow, other = slow_pool.open(lease_ttl=TTL), slow_pool.open(lease_ttl=TTL)
    await slow.update([Account(ONE, 2)])
    lease = await slow.acquire(None, None)
    for dies_again in (False, True):
        slow_pool.silence(slow)
        await clock.advance(TTL + 1)
        [orphan] = await other.orphans()
        assert orphan.lease_id == lease.id
        assert orphan.dead_for == pytest.approx(1, abs=0.1)
        slow_pool.wake(slow)
        await quiet(slow)
        if dies_again:
            slow_pool.silence(slow)
            await clock.advance(TTL + 1)
        await other.give_up([orphan])
        assert (await other.pool_status()).snapshot.in_flight == 1
    [orphan] = await other.orphans()
    await other.give_up([orphan, orphan])
    await other.give_up([orphan])
    assert (await other.pool_status()).snapshot.in_flight == 0
    slow_pool.wake(slow)
    await quiet(slow)
    assert (lease.revoked, lease.held) == (True, False)


async def test_a_slot_that_was_freed_while_its_job_runs_is_counted_again_and_reported(site: Site) -> None:
    await site.open({ONE: 1}, service="fixed:300s")
    worker, other = await site.worker(), await site.worker(reconcile=False, poll_every=10_000.0)
    [job] = await running(site, worker)
    worker.lose_its_voice()
    await site.pass_time(TTL + 5)
    # An operator frees the slot by mistake.
    repaired = await other.store.repair((await other.store.pool_status()).orphans)
    assert len(repaired.given_up) == 1
    worker.find_its_voice()
    await quiet(worker.store)
    assert [event.lease_id for event in worker.events_of(LeaseRevoked)] == list(repaired.given_up)
    await site.pass_time(20, lambda: bool(worker.balancer.adopted()))
    await site.pass_time(1)
    assert await site.counted() == 1
    await site.pass_time(300, job.done)
    assert (job.result().status, await site.counted()) == ("completed", 0)
    site.check()


# --- outages -----------------------------------------------------------------------------------------------


async def test_an_outage_in_the_middle_of_a_submit_loses_and_doubles_nothing(
    servers: Servers, clock: ManualClock
) -> None:
    server = make("valkey")
    server.options["appendonly"] = "yes"
    server.start()
    pool = Pool(server, clock)
    site = Site(pool, clock)
    try:
        await site.open({ONE: 2}, service="fixed:60s", faults=["slow:1:10s"])
        worker = await site.worker()
        job = begin(worker)
        await until(lambda: site.seen.in_flight == 1)
        server.kill()
        await until(lambda: is_away(worker.store))
        await clock.advance(15)
        await until(lambda: [handle.jobid is not None for handle in worker.dispatcher.handles] == [True])
        with pytest.raises(StoreUnavailable):
            await worker.dispatcher.submit("create", prompt="a cat", timeout=0)
        server.start()
        await is_back(worker.store, clock)
        await quiet(worker.store)
        fleet = await worker.store.pool_status()
        assert [holder.jobid for holder in fleet.holders] == [worker.dispatcher.handles[0].jobid]
        assert (len(worker.events_of(StoreAway)), len(worker.events_of(StoreBack))) == (1, 1)
        await site.pass_time(90, job.done)
        assert (job.result().status, await site.counted(), site.seen.jobs) == ("completed", 0, 1)
        site.check()
        await site.close()
        await pool.end()
    finally:
        server.remove()


async def test_a_store_that_is_away_has_no_orphans_and_keeps_no_questions(
    servers: Servers, clock: ManualClock
) -> None:
    async with FaultProxy("127.0.0.1", servers["valkey"].port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}", "empty", clock=clock)
        proxy.refuse()
        for _ in range(20):
            assert await store.orphans() == ()
            await store.give_up(())
        await proxy.listen()
        before = proxy.requests
        await is_back(store, clock)
        await quiet(store)
        # The first of them was asked before anybody knew that the store is away.
        assert proxy.requests - before < 10
        await store.close()


async def test_a_store_of_one_process_has_no_orphans() -> None:
    store = MemoryStore([Account(ONE, 1)])
    lease = await store.acquire(None, None)
    assert (store.shared, await store.orphans()) == (False, ())
    await store.give_up(())
    assert lease.held
