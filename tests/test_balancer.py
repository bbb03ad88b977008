"""What a balancer adds to its store: leases, time limits, refresh, drain and leak detection."""

import asyncio
import gc
import logging
import random
import sys
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from pika_balancer import events
from pika_balancer.balancer.balancer import Balancer
from pika_balancer.errors import Closed, ForeignLease, InvalidArgument, NoCapacity, PikaError, UnknownChannel
from pika_balancer.models import Account, Lease
from pika_balancer.store import MemoryStore
from pika_balancer.testing import ManualClock, settle, wait_until


def accounts(*caps: int) -> list[Account]:
    return [Account(str(i), cap) for i, cap in enumerate(caps)]


class Source:
    """An account map that can change and fail."""

    def __init__(self, *caps: int) -> None:
        self.map = {account.channel: account for account in accounts(*caps)}
        self.failure: BaseException | None = None
        self.reads = 0

    async def accounts(self) -> Mapping[str, Account]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return self.map


async def test_a_lease_holds_a_slot_for_as_long_as_the_block() -> None:
    balancer = Balancer(accounts(1))
    async with balancer.lease() as lease:
        assert (lease.channel, lease.account.max_jobs, lease.held) == ("0", 1, True)
        assert balancer.snapshot().in_flight == 1
    assert not lease.held
    assert balancer.snapshot().in_flight == 0


async def test_a_lease_comes_back_when_the_block_raises() -> None:
    balancer = Balancer(accounts(1))
    with pytest.raises(ZeroDivisionError):
        async with balancer.lease():
            raise ZeroDivisionError
    assert balancer.snapshot().in_flight == 0


async def test_no_capacity_in_time_says_why_and_for_which_channel() -> None:
    clock = ManualClock()
    balancer = Balancer(accounts(1, 1), clock=clock)
    async with balancer.lease("0"):
        with pytest.raises(NoCapacity) as caught:
            async with balancer.lease("0", timeout=0):
                pass
        assert (caught.value.reason, caught.value.channel) == ("full", "0")
        late = asyncio.create_task(balancer.acquire("0", timeout=3))
        await clock.advance(3)
        with pytest.raises(NoCapacity):
            await late
    assert balancer.statistics().waiters == ()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
async def test_a_timeout_that_is_none_is_refused_even_while_slots_are_free(timeout: float) -> None:
    balancer = Balancer(accounts(1))
    for ask in (balancer.lease, balancer.acquire):
        with pytest.raises(InvalidArgument) as caught:
            ask(timeout=timeout)
        assert caught.value.field == "timeout"
    with pytest.raises(InvalidArgument):
        await balancer.drain(timeout=timeout)
    assert balancer.snapshot().in_flight == 0
    async with balancer.lease(timeout=sys.float_info.max) as lease:
        assert lease.held


async def test_a_policy_is_refused_if_a_store_is_passed() -> None:
    either: list[dict[str, Any]] = [{"policy": "weighted"}, {"rng": random.Random(1)}]
    for options in either:
        with pytest.raises(InvalidArgument) as caught:
            Balancer(accounts(1), store=MemoryStore(), **options)
        assert caught.value.field == "store"


async def test_from_client_passes_every_argument_on() -> None:
    clock, told, source = ManualClock(50.0), list[events.Event](), Source(5, 1)

    async def picks(**options: Any) -> str:
        async with await Balancer.from_client(Source(*[1] * 20), **options) as balancer:
            return "".join([(await balancer.acquire()).channel for _ in range(20)])

    assert await picks(rng=random.Random(3)) == await picks(rng=random.Random(3))
    assert await picks(rng=random.Random(3)) != await picks(rng=random.Random(4))
    async with await Balancer.from_client(
        source, policy="weighted", clock=clock, observer=told.append
    ) as balancer:
        assert [e.probability for e in balancer.explain().values()] == pytest.approx([5 / 6, 1 / 6])
        await balancer.cool_down("0", 10)
        await balancer.refresh()
        assert [event.at for event in told] == [50.0, 50.0]
        assert source.reads == 2
    store = MemoryStore()
    async with await Balancer.from_client(source, store=store) as balancer:
        assert (balancer.store, store.snapshot().capacity) == (store, 6)


async def test_an_empty_map_fails_at_once_instead_of_waiting_for_ever() -> None:
    with pytest.raises(NoCapacity) as caught:
        await Balancer().acquire()
    assert caught.value.reason == "never"


async def test_an_unknown_channel_fails_at_once() -> None:
    balancer = Balancer(accounts(1))
    for _ in range(2):
        with pytest.raises(UnknownChannel):
            await balancer.acquire("9")


async def test_one_context_used_twice_at_once_is_refused_and_gives_back() -> None:
    balancer = Balancer(accounts(2))
    context = balancer.lease()
    assert context.channel == ""
    async with context:
        assert context.channel == "0"
        with pytest.raises(InvalidArgument):
            await context.__aenter__()
        assert balancer.snapshot().in_flight == 1
    async with context:
        assert balancer.snapshot().in_flight == 1
    assert balancer.snapshot().in_flight == 0


async def test_one_context_waiting_twice_is_refused_and_loses_nothing() -> None:
    balancer = Balancer(accounts(1))
    holder = await balancer.acquire()
    context = balancer.lease()

    async def use() -> None:
        async with context:
            await settle()

    first, second = asyncio.create_task(use()), asyncio.create_task(use())
    await settle()
    await balancer.release(holder)
    told = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome) for outcome in told] == [type(None), InvalidArgument]
    assert balancer.snapshot().in_flight == 0


async def test_a_store_keeps_its_own_map_when_the_balancer_brings_none() -> None:
    store = MemoryStore(accounts(2))
    async with Balancer(store=store).lease(timeout=0):
        assert store.snapshot().capacity == 2


async def test_a_lease_goes_back_to_the_balancer_that_granted_it_even_on_a_shared_store() -> None:
    store = MemoryStore(accounts(1))
    first, second = Balancer(store=store), Balancer(store=store)
    lease = await first.acquire()
    with pytest.raises(ForeignLease):
        await second.release(lease)
    await first.release(lease)
    del lease
    gc.collect()
    await settle()
    assert (store.snapshot().in_flight, first.statistics().leaked) == (0, 0)


async def test_a_release_skips_waiters_that_left_or_failed_in_that_tick() -> None:
    failing = False

    def policy(candidates: Sequence[object]) -> list[float]:
        nonlocal failing
        if failing:
            failing = False
            raise ZeroDivisionError
        return [1.0] * len(candidates)

    store = MemoryStore(accounts(1), policy=policy)
    held = await store.acquire(None, None)
    cancelled, failed, served, waiting = [asyncio.create_task(store.acquire(None, None)) for _ in range(4)]
    await settle()
    cancelled.cancel()
    failing = True
    store.release(held)
    await settle()
    assert cancelled.cancelled()
    assert isinstance(failed.exception(), ZeroDivisionError)
    assert (served.done(), waiting.done()) == (True, False)
    store.release(served.result())
    store.release(await waiting)
    assert store.snapshot().in_flight == 0


async def test_adopting_again_does_not_make_a_job_younger() -> None:
    clock = ManualClock()
    balancer = Balancer(accounts(1), clock=clock)
    lease = await balancer.adopt("0", "job:a")
    await clock.advance(60)
    assert await balancer.adopt("0", "job:a") is lease
    (holder,) = balancer.statistics().holders
    assert holder.age == 60
    assert holder.place.endswith(" in test_adopting_again_does_not_make_a_job_younger")


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
async def test_a_cooldown_without_a_length_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await Balancer(accounts(1)).cool_down("0", seconds)
    assert caught.value.field == "seconds"


async def test_forty_workers_never_exceed_a_cap_and_all_are_served() -> None:
    balancer = Balancer(accounts(1, 2, 3), rng=random.Random(4))
    peak = dict.fromkeys("012", 0)
    running = dict.fromkeys("012", 0)
    order: list[int] = []

    async def worker(number: int) -> None:
        async with balancer.lease() as lease:
            order.append(number)
            running[lease.channel] += 1
            peak[lease.channel] = max(peak[lease.channel], running[lease.channel])
            await settle(number % 5)
            running[lease.channel] -= 1

    await asyncio.gather(*(worker(n) for n in range(400)))
    assert peak == {"0": 1, "1": 2, "2": 3}
    assert order == list(range(400))


async def test_statistics_list_leases_and_waiters_with_their_ages() -> None:
    clock = ManualClock(100)
    balancer = Balancer(accounts(1, 1), clock=clock)
    first = await balancer.acquire("0")
    await clock.advance(5)
    async with balancer.lease("1"):
        waiter = asyncio.create_task(balancer.acquire("0"))
        await clock.advance(2)
        told = balancer.statistics()
        assert [(h.lease_id, h.channel, h.age) for h in told.holders] == [(1, "0", 7.0), (2, "1", 2.0)]
        assert [(w.channel, w.age) for w in told.waiters] == [("0", 2.0)]
        for place in (*(h.place for h in told.holders), *(w.place for w in told.waiters)):
            assert "test_balancer.py:" in place
            assert "test_statistics_list" in place
        assert (told.snapshot.in_flight, told.leaked, told.refresh_failures) == (2, 0, 0)
        assert repr(balancer) == "<Balancer of 2 accounts, 2 of 2 in flight, 1 waiting>"
    await balancer.release(first)
    await balancer.release(await waiter)
    assert (balancer.statistics().holders, balancer.statistics().waiters) == ((), ())


async def test_a_dropped_lease_is_reported_with_its_place_and_taken_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    balancer = Balancer(accounts(1))
    waiter: asyncio.Task[Lease] | None = None

    async def careless() -> None:
        nonlocal waiter
        await balancer.acquire()
        waiter = asyncio.create_task(balancer.acquire())
        await settle()

    with caplog.at_level(logging.WARNING):
        await careless()
        gc.collect()
        assert waiter is not None
        lease = await waiter
    assert "test_balancer.py" in caplog.text
    assert "careless" in caplog.text
    assert balancer.statistics().leaked == 1
    assert balancer.snapshot().in_flight == 1
    await balancer.release(lease)
    del lease, waiter
    gc.collect()
    await settle()
    assert balancer.statistics().leaked == 1


async def test_a_lease_dropped_after_its_release_is_no_leak() -> None:
    balancer = Balancer(accounts(1))
    await balancer.release(await balancer.acquire())
    async with balancer.lease():
        pass
    gc.collect()
    await settle()
    assert balancer.statistics().leaked == 0


async def test_an_abandoned_block_gives_its_slot_back() -> None:
    balancer = Balancer(accounts(1))

    async def worker() -> None:
        async with balancer.lease():
            await asyncio.get_running_loop().create_future()

    coroutine = worker()
    coroutine.send(None)
    assert balancer.snapshot().in_flight == 1
    coroutine.close()
    assert balancer.snapshot().in_flight == 0


async def test_a_lease_of_another_balancer_is_refused() -> None:
    ours, theirs = Balancer(accounts(1)), Balancer(accounts(1))
    lease = await theirs.acquire()
    with pytest.raises(ForeignLease) as caught:
        await ours.release(lease)
    assert caught.value.channel == "0"
    await theirs.release(lease)
    await theirs.release(lease)


async def test_pause_cool_down_resume_adopt_and_update_reach_the_store() -> None:
    clock = ManualClock()
    balancer = Balancer(accounts(1), clock=clock)
    await balancer.cool_down("0", seconds=10)
    waiter = asyncio.create_task(balancer.acquire())
    await clock.advance(10)
    await balancer.release(await waiter)
    await balancer.pause("0")
    told = balancer.why_unavailable()
    assert told is not None
    assert told.reason == "never"
    await balancer.resume("0")
    adopted = await balancer.adopt("0", "job:a")
    assert await balancer.adopt("0", "job:a") is adopted
    assert [h.channel for h in balancer.statistics().holders] == ["0"]
    assert not balancer.explain()["0"].eligible
    await balancer.release(adopted)
    await balancer.update(accounts(1, 1))
    assert balancer.snapshot().capacity == 2


async def test_a_store_that_is_passed_gets_the_accounts_before_the_first_lease() -> None:
    store = MemoryStore()
    balancer = Balancer(accounts(1), store=store)
    async with balancer.lease("0") as lease:
        assert store.snapshot().in_flight == 1
        assert lease.channel == "0"


class FarStore(MemoryStore):
    """A store whose releases take I/O."""

    def __init__(self, *caps: int) -> None:
        super().__init__(accounts(*caps))
        self.arrived = 0

    def release(self, lease: Lease) -> Awaitable[None]:  # type: ignore[override]  # the protocol allows it
        async def travel() -> None:
            await settle(3)
            self.arrived += 1
            super(FarStore, self).release(lease)

        return travel()


async def test_a_release_that_takes_io_is_awaited() -> None:
    store = FarStore(1)
    balancer = Balancer(accounts(1), store=store)
    async with balancer.lease():
        pass
    await balancer.release(await balancer.acquire())
    assert (store.arrived, store.snapshot().in_flight) == (2, 0)


async def test_a_cancelled_release_still_reaches_the_store() -> None:
    store = FarStore(1)
    balancer = Balancer(accounts(1), store=store)
    lease = await balancer.acquire()
    releasing = asyncio.create_task(balancer.release(lease))
    await settle(2)
    releasing.cancel()
    await asyncio.wait([releasing])
    gc.collect()
    await balancer.close()
    assert (releasing.cancelled(), store.snapshot().in_flight) == (True, 0)


async def test_a_lease_dropped_on_a_shared_store_is_released_too() -> None:
    store = FarStore(1)
    balancer = Balancer(accounts(1), store=store)
    for times in (1, 2):
        await balancer.acquire()
        gc.collect()
        await settle()
        assert (balancer.statistics().leaked, store.snapshot().in_flight) == (times, 0)


async def test_refresh_keeps_counts_and_serves_waiters() -> None:
    clock, source = ManualClock(), Source(1)
    balancer = await Balancer.from_client(source, refresh_every=60, clock=clock)
    lease = await balancer.acquire()
    waiter = asyncio.create_task(balancer.acquire())
    await settle()
    source.map = {account.channel: account for account in accounts(1, 1)}
    await clock.advance(59)
    assert not waiter.done()
    await clock.advance(1)
    assert (await waiter).channel == "1"
    assert (source.reads, balancer.snapshot().in_flight) == (2, 2)
    await balancer.release(lease)
    await balancer.release(waiter.result())
    await balancer.close()
    await clock.advance(1000)
    assert source.reads == 2


@pytest.mark.parametrize("failure", [PikaError("the service is away"), OSError("hidden detail")])
async def test_a_failing_refresh_keeps_the_old_map_and_is_reported(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    clock, source = ManualClock(), Source(2)
    async with await Balancer.from_client(source, refresh_every=60, clock=clock) as balancer:
        source.failure = failure
        with caplog.at_level(logging.WARNING):
            await clock.advance(120)
        assert balancer.statistics().refresh_failures == 2
        assert ("the service is away" if isinstance(failure, PikaError) else "OSError") in caplog.text
        assert "hidden detail" not in caplog.text
        assert balancer.snapshot().capacity == 2
        with pytest.raises(type(failure)):
            await balancer.refresh()
        source.failure = None
        await clock.advance(60)
        assert balancer.statistics().refresh_failures == 0


async def test_refresh_without_a_source_and_impossible_intervals_are_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        await Balancer(accounts(1)).refresh()
    assert caught.value.field == "source"
    with pytest.raises(InvalidArgument) as caught:
        Balancer(accounts(1), refresh_every=5)
    assert caught.value.field == "source"
    for every in (0, -1, float("nan")):
        with pytest.raises(InvalidArgument) as caught:
            Balancer(accounts(1), source=Source(1), refresh_every=every)
        assert caught.value.field == "refresh_every"


async def test_drain_waits_for_held_leases_and_grants_nothing_more() -> None:
    balancer = Balancer(accounts(2))
    lease, other = await balancer.acquire(), await balancer.acquire()
    waiter = asyncio.create_task(balancer.acquire())
    await settle()
    drained = asyncio.create_task(balancer.drain())
    await settle()
    await balancer.release(other)
    await settle()
    assert isinstance(waiter.exception(), Closed)
    with pytest.raises(Closed, match="is draining"):
        await balancer.acquire()
    assert not drained.done()
    await balancer.release(lease)
    assert await drained is True
    assert await balancer.drain(timeout=0) is True


async def test_drain_waits_for_a_grant_that_its_waiter_has_not_received() -> None:
    balancer = Balancer(accounts(1))
    holder = await balancer.acquire()
    waiter = asyncio.create_task(balancer.acquire())
    await settle()

    async def give_back() -> None:
        await balancer.release(await waiter)

    giving_back = asyncio.create_task(give_back())
    await balancer.release(holder)
    assert await balancer.drain() is True
    assert balancer.snapshot().in_flight == 0
    await giving_back


async def test_drain_checks_again_after_every_release() -> None:
    balancer = Balancer(accounts(2))
    one, two = await balancer.acquire(), await balancer.acquire()
    waiter = asyncio.create_task(balancer.acquire())
    await settle()
    releasing = asyncio.create_task(balancer.release(two))
    await balancer.release(one)
    drained = asyncio.create_task(balancer.drain())
    await settle()
    assert (releasing.done(), drained.done()) == (True, False)
    await balancer.release(await waiter)
    assert await drained is True


async def test_drain_waits_until_the_store_has_confirmed_the_releases() -> None:
    store = FarStore(1)
    balancer = Balancer(accounts(1), store=store)
    lease = await balancer.acquire()
    releasing = asyncio.create_task(balancer.release(lease))
    await asyncio.sleep(0)
    assert await balancer.drain() is True
    assert store.snapshot().in_flight == 0
    await releasing


async def test_a_drained_balancer_does_not_read_the_map(caplog: pytest.LogCaptureFixture) -> None:
    clock, source = ManualClock(), Source(1)
    balancer = await Balancer.from_client(source, refresh_every=60, clock=clock)
    await balancer.drain()
    await clock.advance(600)
    assert (source.reads, balancer.statistics().refresh_failures, caplog.text) == (1, 0, "")


async def test_a_cancellation_inside_the_source_is_a_failed_refresh() -> None:
    clock, source = ManualClock(), Source(1)
    async with await Balancer.from_client(source, refresh_every=60, clock=clock) as balancer:
        source.failure = asyncio.CancelledError()
        await clock.advance(60)
        assert balancer.statistics().refresh_failures == 1
        source.failure = None
        await clock.advance(60)
        assert (source.reads, balancer.statistics().refresh_failures) == (3, 0)


async def test_a_late_old_answer_does_not_undo_a_newer_one() -> None:
    class Slow(Source):
        def __init__(self) -> None:
            super().__init__(1)
            self.caps = [2, 3]

        async def accounts(self) -> Mapping[str, Account]:
            cap = self.caps.pop(0)
            await settle(10 if cap == 2 else 0)
            return {"0": Account("0", cap)}

    balancer = Balancer(accounts(1), source=Slow())
    await asyncio.gather(balancer.refresh(), balancer.refresh())
    assert balancer.snapshot().capacity == 3


async def test_a_balancer_closed_while_it_opens_grants_nothing() -> None:
    class SlowStore(MemoryStore):
        async def update(self, accounts: Iterable[Account]) -> None:
            await settle(5)
            await super().update(accounts)

    store = SlowStore()
    balancer = Balancer(accounts(1), store=store)
    asker = asyncio.create_task(balancer.acquire())
    await settle(2)
    await balancer.close()
    with pytest.raises(Closed):
        await asker
    assert store.snapshot().in_flight == 0


async def test_an_abandoned_block_on_a_shared_store_gives_its_slot_back() -> None:
    store = FarStore(1)
    balancer = Balancer(accounts(1), store=store)
    await balancer.update(accounts(1))

    async def worker() -> None:
        async with balancer.lease():
            await asyncio.get_running_loop().create_future()

    coroutine = worker()
    coroutine.send(None)
    coroutine.close()
    await settle()
    assert store.snapshot().in_flight == 0


async def test_drain_gives_up_after_its_timeout() -> None:
    clock = ManualClock()
    balancer = Balancer(accounts(2), clock=clock)
    lease = await balancer.acquire()
    hasty, patient = asyncio.create_task(balancer.drain(timeout=5)), asyncio.create_task(balancer.drain())
    await clock.advance(5)
    assert hasty.done()
    assert hasty.result() is False
    assert not patient.done()
    await balancer.release(lease)
    assert await patient is True
    assert clock.sleeping == 0


async def test_close_fails_waiters_accepts_releases_and_can_be_repeated() -> None:
    async with Balancer(accounts(1)) as balancer:
        lease = await balancer.acquire()
        waiter = asyncio.create_task(balancer.acquire(timeout=30))
        await settle()
    await asyncio.wait([waiter])
    assert isinstance(waiter.exception(), Closed)
    await balancer.release(lease)
    assert balancer.snapshot().in_flight == 0
    await balancer.close()
    with pytest.raises(Closed, match="closed"):
        async with balancer.lease():
            pass
    with pytest.raises(Closed):
        async with balancer:
            pass
    assert repr(balancer) == "<Balancer is closed 1 accounts, 0 of 1 in flight, 0 waiting>"


async def test_nothing_is_left_running_after_close() -> None:
    before = asyncio.all_tasks()
    balancer = await Balancer.from_client(Source(1), refresh_every=1)
    await balancer.close()
    assert asyncio.all_tasks() == before


def test_a_balancer_serves_one_event_loop_after_another() -> None:
    balancer = Balancer(accounts(1))

    async def use() -> None:
        async with balancer.lease():
            waiter = asyncio.create_task(balancer.acquire())
            await settle()
        await balancer.release(await waiter)

    asyncio.run(use())
    asyncio.run(use())


async def test_a_real_clock_ends_a_wait() -> None:
    balancer = Balancer(accounts(1))
    async with balancer.lease():
        with pytest.raises(NoCapacity):
            await balancer.acquire(timeout=0.01)
        await balancer.cool_down("0", 0.01)
    await wait_until(lambda: balancer.why_unavailable() is None)
