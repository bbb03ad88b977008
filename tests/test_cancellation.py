"""No cancellation loses or doubles a slot, not even in the tick of the grant."""

import asyncio
import random
from itertools import product

import pytest

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.models import Account
from pika_balancer.testing import settle
from tests.cancelling.balancer import all_obtainable
from tests.depth import sized

CAPS = (2, 3)


def make(*caps: int) -> Balancer:
    return Balancer([Account(str(i), cap) for i, cap in enumerate(caps)], rng=random.Random(1))


@pytest.mark.parametrize(
    ("cancel_at", "release_at", "style"), list(product(range(5), range(5), ["lease", "acquire", "timed"]))
)
async def test_a_waiter_cancelled_around_its_grant_gives_the_slot_on(
    cancel_at: int, release_at: int, style: str
) -> None:
    balancer = make(1)
    holder = await balancer.acquire()
    entered = 0

    async def waits() -> None:
        nonlocal entered
        if style == "lease":
            async with balancer.lease():
                entered += 1
                await settle(3)
        else:
            lease = await balancer.acquire(timeout=30 if style == "timed" else None)
            entered += 1
            try:
                await settle(3)
            finally:
                await balancer.release(lease)

    first, second = asyncio.create_task(waits()), asyncio.create_task(waits())
    for turn in range(6):
        if turn == release_at:
            await balancer.release(holder)
        if turn == cancel_at:
            first.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([first, second], timeout=60)
    assert second.done()
    assert not second.cancelled()
    assert entered >= 1
    await all_obtainable(balancer, 1)


@pytest.mark.parametrize("victim", range(3))
async def test_two_cancelled_in_one_tick_do_not_keep_the_third_from_its_slot(victim: int) -> None:
    balancer = make(1)
    holder = await balancer.acquire()
    waiters = [asyncio.create_task(balancer.acquire()) for _ in range(3)]
    await settle()
    await balancer.release(holder)
    doomed = [w for i, w in enumerate(waiters) if i != victim]
    for waiter in doomed:
        waiter.cancel()
    lease = await waiters[victim]
    await balancer.release(lease)
    await all_obtainable(balancer, 1)


async def storm(balancer: Balancer, workers: int, cancels: int, chance: random.Random) -> None:
    """Start, cancel, grant and release at random until so many tasks have been cancelled."""
    struck = 0

    async def one() -> None:
        timeout = chance.choice([None, 60.0])
        async with balancer.lease(chance.choice([None, None, "0"]), timeout=timeout):
            await settle(chance.randrange(3))

    async def worker() -> None:
        nonlocal struck
        while struck < cancels:
            task = asyncio.create_task(one())
            await settle(chance.randrange(6))
            if task.cancel():
                struck += 1
            await asyncio.wait([task])

    await asyncio.gather(*(worker() for _ in range(workers)))


@pytest.mark.deep
@pytest.mark.no_cover  # thousands of times the same few lines
async def test_a_storm_of_cancellations_loses_no_slot() -> None:
    balancer = make(*CAPS)
    await storm(balancer, workers=40, cancels=sized(3000, 100_000), chance=random.Random(7))
    await all_obtainable(balancer, sum(CAPS))


@pytest.mark.deep
async def test_a_waiter_without_a_limit_is_served_among_many_newcomers() -> None:
    balancer = make(1)
    served_before = 0
    holder = await balancer.acquire()
    ahead = [asyncio.create_task(balancer.acquire()) for _ in range(3)]
    await settle()
    patient = asyncio.create_task(balancer.acquire())
    await settle()
    crowd = asyncio.create_task(storm(balancer, 40, sized(200, 2000), random.Random(3)))
    await settle()
    await balancer.release(holder)
    for task in ahead:
        assert not patient.done()
        await balancer.release(await task)
        served_before += 1
    await balancer.release(await patient)
    assert served_before == 3
    await crowd
    await all_obtainable(balancer, 1)


async def test_a_task_group_that_fails_gives_everything_back() -> None:
    balancer = make(*CAPS)

    async def holds() -> None:
        async with balancer.lease():
            await asyncio.sleep(3600)

    async def fails() -> None:
        await settle()
        raise ZeroDivisionError

    async def group_of_all() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(holds())
            group.create_task(fails())

    with pytest.raises(ExceptionGroup):
        await group_of_all()
    await all_obtainable(balancer, sum(CAPS))


async def test_asyncios_own_time_limits_lose_nothing() -> None:
    balancer = make(1)
    for _ in range(50):
        holder = await balancer.acquire()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.0005):
                await balancer.acquire()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(balancer.acquire(), 0.0005)
        await balancer.release(holder)
    await all_obtainable(balancer, 1)
