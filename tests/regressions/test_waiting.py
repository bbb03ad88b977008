"""Traps in the line of those who wait."""

import asyncio
from collections import deque

import pytest

from pika_balancer import Account, Balancer, Lease, NoCapacity
from pika_balancer.testing import settle


class Naive:
    """A line as one writes it first; `lets_pass` frees the slot and wakes a waiter, who looks again."""

    def __init__(self, slots: int, *, lets_pass: bool = False, looks_first: bool = False) -> None:
        self.free = slots
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.lets_pass = lets_pass
        self.looks_first = looks_first

    async def acquire(self, channel: str | None = None, timeout: float | None = None) -> object:
        del channel  # there is but one
        while self.free == 0:
            if timeout == 0:
                raise NoCapacity("full")
            if self.looks_first:
                await asyncio.sleep(0)  # between "full?" and the place in line
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiters.append(woken)
            await woken
            if not self.lets_pass:
                return object()
        self.free -= 1
        return object()

    async def release(self, lease: object) -> None:
        del lease  # a number is all that it keeps
        while self.waiters:
            woken = self.waiters.popleft()
            if not woken.done():
                woken.set_result(None)
                if self.lets_pass:
                    self.free += 1
                return
        self.free += 1


class Ours:
    """A balancer by the same two calls."""

    def __init__(self, slots: int) -> None:
        self.balancer = Balancer([Account("1", slots)])

    async def acquire(self, channel: str | None = None, timeout: float | None = None) -> Lease:
        return await self.balancer.acquire(channel, timeout)

    async def release(self, lease: object) -> None:
        assert isinstance(lease, Lease)
        await self.balancer.release(lease)


async def a_slot_survives(line: Naive | Ours) -> bool:
    """Cancel a waiter in the very tick of its grant; return whether the slot can still be had."""
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
    """Let one wait, release, and have a newcomer ask before the waiter has run; return who came when."""
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
    # A newcomer that runs at once, as one does that never had to wait: before the patient one is resumed.
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
    """Release so many turns of the loop after a task has begun to ask; return whether it is served."""
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


async def test_wishes_easy_to_grant_starve_others() -> None:
    """Who waits for one channel of two is served by its next free slot, however many take any slot at all."""
    line = Balancer([Account("1", 1), Account("2", 1)])
    one, two = await line.acquire("1"), await line.acquire("2")
    naive = min(["1"] + ["any"] * 10, key=lambda wish: wish != "any")  # a heap with the easiest wishes on top
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
