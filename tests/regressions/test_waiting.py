"""Regressions of the wait queue."""

import asyncio
from collections import deque

import pytest

from pika_balancer import Account, Balancer, Lease, NoCapacity
from pika_balancer.testing import settle


class Naive:
    """A naive wait queue; `lets_pass` makes a release free the slot and wake a waiter to check again."""

    def __init__(self, slots: int, *, lets_pass: bool = False, looks_first: bool = False) -> None:
        self.free = slots
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.lets_pass = lets_pass
        self.looks_first = looks_first

    async def acquire(self, channel: str | None = None, timeout: float | None = None) -> object:
        del channel  # there is only one
        while self.free == 0:
            if timeout == 0:
                raise NoCapacity("full")
            if self.looks_first:
                await asyncio.sleep(0)  # between the check and the queue
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiters.append(woken)
            await woken
            if not self.lets_pass:
                return object()
        self.free -= 1
        return object()

    async def release(self, lease: object) -> None:
        del lease  # it keeps only a number
        while self.waiters:
            woken = self.waiters.popleft()
            if not woken.done():
                woken.set_result(None)
                if self.lets_pass:
                    self.free += 1
                return
        self.free += 1


class Ours:
    """A balancer with the same two calls."""

    def __init__(self, slots: int) -> None:
        self.balancer = Balancer([Account("1", slots)])

    async def acquire(self, channel: str | None = None, timeout: float | None = None) -> Lease:
        return await self.balancer.acquire(channel, timeout)

    async def release(self, lease: object) -> None:
        assert isinstance(lease, Lease)
        await self.balancer.release(lease)


async def a_slot_survives(line: Naive | Ours) -> bool:
    """Cancel a waiter in the tick of its grant; return whether the slot can still be acquired."""
    held = await line.acquire()
    waiter = asyncio.create_task(line.acquire())
    await settle()
    await line.release(held)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    try:
        await line.acquire(timeout=0)
    except NoCapacity:
        return False
    return True


async def test_cancelled_between_grant_and_return() -> None:
    assert not await a_slot_survives(Naive(1))
    assert await a_slot_survives(Ours(1))


async def order_of_service(line: Naive | Ours) -> list[str]:
    """Release a slot to a waiter, and acquire before the waiter has run; return the order of the grants."""
    served = list[str]()

    async def ask(name: str) -> None:
        lease = await line.acquire()
        served.append(name)
        await settle(3)
        await line.release(lease)

    held = await line.acquire()
    patient = asyncio.create_task(ask("patient"))
    await settle()
    await line.release(held)
    newcomer = asyncio.create_task(ask("newcomer"))
    # A newcomer that does not have to wait runs before the waiter is resumed.
    try:
        lease = await line.acquire(timeout=0)
    except NoCapacity:
        pass
    else:
        served.append("barger")
        await settle(3)
        await line.release(lease)
    await asyncio.wait_for(asyncio.gather(patient, newcomer), 60)
    return served


async def test_barging() -> None:
    assert (await order_of_service(Naive(1, lets_pass=True)))[0] == "barger"
    assert await order_of_service(Ours(1)) == ["patient", "newcomer"]


async def served_whenever(line: Naive | Ours, tick: int) -> bool:
    """Release some iterations after a task has begun to acquire; return whether it is served."""
    held = await line.acquire()
    asking = asyncio.create_task(line.acquire())
    for _ in range(tick):
        await asyncio.sleep(0)
    await line.release(held)
    await settle()
    served = asking.done()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return served


async def test_lost_wake_ups() -> None:
    assert not all([await served_whenever(Naive(1, looks_first=True), tick) for tick in range(6)])
    assert all([await served_whenever(Ours(1), tick) for tick in range(6)])


async def test_unpinned_waiters_do_not_starve_pinned_ones() -> None:
    """A waiter for one channel of two gets its next free slot, however many accept any channel."""
    line = Balancer([Account("1", 1), Account("2", 1)])
    one, two = await line.acquire("1"), await line.acquire("2")
    naive = min(["1"] + ["any"] * 10, key=lambda pin: pin != "any")  # a heap with unpinned waiters on top
    choosy = asyncio.create_task(line.acquire("1"))
    await settle()
    easy = [asyncio.create_task(line.acquire()) for _ in range(10)]
    await settle()
    await line.release(two)
    await settle()
    assert [task.done() for task in easy] == [True] + [False] * 9
    await line.release(one)
    await settle()
    assert naive == "any"
    assert choosy.done()
    assert [task.done() for task in easy] == [True] + [False] * 9
    for task in easy[1:]:
        task.cancel()
    await asyncio.gather(*easy[1:], return_exceptions=True)
    with pytest.raises(NoCapacity):
        await line.acquire(timeout=0)
