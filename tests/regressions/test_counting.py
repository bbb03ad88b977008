"""Regressions of the pick of an account and of its count."""

import asyncio
import contextlib
import itertools
import math
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest

from pika_balancer import Account, Balancer, InvalidArgument, Lease, NoCapacity, Selector, UnknownChannel
from pika_balancer.testing import ManualClock, settle
from tests.depth import sized
from tests.dispatch.conftest import ONE, Answer, World, begin
from tests.dispatch.conftest import clock as clock  # noqa: PLC0414 - a fixture of another room
from tests.dispatch.conftest import world as world  # noqa: PLC0414 - the same


async def peak_of_twenty(enter: Callable[[], AbstractAsyncContextManager[object]]) -> int:
    """Return how many of twenty tasks were inside at once."""
    inside = peak = 0

    async def work() -> None:
        nonlocal inside, peak
        async with enter():
            inside += 1
            peak = max(peak, inside)
            await settle(3)
            inside -= 1

    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(20))), 60)
    return peak


async def test_decide_then_count() -> None:
    in_flight = 0

    @asynccontextmanager
    async def naive() -> AsyncGenerator[None]:
        nonlocal in_flight
        while in_flight >= 3:
            await settle(1)
        await asyncio.sleep(0)  # any work between the decision and the count
        in_flight += 1
        yield
        in_flight -= 1

    balancer = Balancer([Account("1", 3)])
    assert await peak_of_twenty(naive) > 3
    assert await peak_of_twenty(balancer.lease) == 3


def test_deterministic_best_herds() -> None:
    accounts = [Account(str(number), 3) for number in range(10)]
    naive = Counter(min(accounts, key=lambda _: 0).channel for _ in range(30))
    replicas = (Selector(accounts, policy="least_loaded", rng=random.Random(seed)) for seed in range(30))
    ours = Counter(replica.try_acquire().channel for replica in replicas)  # type: ignore[union-attr] # none is full
    assert naive == {"0": 30}
    assert max(ours.values()) < 10


def test_draw_then_test_full() -> None:
    """One of ten accounts has capacity: a draw before the check fails most of the time."""
    rng = random.Random(5)
    selector = Selector([Account(str(number), 1) for number in range(10)], rng=rng)
    held = [selector.try_acquire() for _ in range(9)]
    (free,) = (channel for channel in map(str, range(10)) if not selector.in_flight(channel))
    assert None not in held
    naive = sum(str(rng.randrange(10)) != free for _ in range(100))
    refused = 0
    for _ in range(100):
        lease = selector.try_acquire()
        refused += lease is None
        if lease is not None:
            selector.release(lease)
    assert naive > 50
    assert refused == 0


def test_double_release() -> None:
    def naive() -> int:
        count = 0
        count += 1
        count -= 1
        count -= 1
        return 1 - count  # free slots of an account with one

    selector = Selector([Account("1", 1)])
    lease = selector.try_acquire()
    assert lease is not None
    assert [selector.release(lease), selector.release(lease)] == [True, False]
    assert selector.in_flight() == 0
    got = [selector.try_acquire(), selector.try_acquire()]
    assert naive() == 2
    assert sum(lease is not None for lease in got) == 1


def test_a_refresh_resets_the_counts() -> None:
    def jobs_at_once(accept: Callable[[], object], refresh: Callable[[Iterable[Account]], None]) -> int:
        taken = 0
        for _ in range(3):
            while accept():
                taken += 1
            refresh([Account("1", 2)])
        return taken

    books: dict[str, list[int]] = {"1": [0, 2]}

    def naive_accept() -> bool:
        if books["1"][0] >= books["1"][1]:
            return False
        books["1"][0] += 1
        return True

    selector = Selector([Account("1", 2)])
    leases = list[Lease]()

    def accept() -> bool:
        lease = selector.try_acquire()
        if lease is None:
            return False
        leases.append(lease)
        return True

    def rebuild(accounts: Iterable[Account]) -> None:
        books.update({account.channel: [0, account.max_jobs] for account in accounts})

    assert jobs_at_once(naive_accept, rebuild) == 6
    assert jobs_at_once(accept, selector.update) == 2
    selector.update([])
    selector.update([Account("1", 3)])
    assert selector.in_flight("1") == 2
    assert len(leases) == 2


async def test_a_cap_changed_at_run_time() -> None:
    """With three of three in flight the cap falls to one and rises to three again: no waiter gets a slot."""

    def naive(running: int, before: int, after: int) -> int:
        return running + max(0, after - before)  # wakes as many waiters as the cap rose by

    balancer = Balancer([Account("1", 3)])
    held = [await balancer.acquire() for _ in range(3)]
    waiters = [asyncio.create_task(balancer.acquire()) for _ in range(3)]
    await settle()
    await balancer.update([Account("1", 1)])
    await balancer.update([Account("1", 3)])
    await settle()
    assert naive(3, before=1, after=3) == 5
    assert balancer.snapshot().in_flight == 3
    assert not any(waiter.done() for waiter in waiters)
    for lease in held:
        await balancer.release(lease)
    for lease in await asyncio.gather(*waiters):
        await balancer.release(lease)


async def test_a_slot_does_not_expire_before_its_job() -> None:
    """A count in a cache with a lifetime of ten minutes frees the slot of a job that takes an hour."""
    clock = ManualClock()
    cache = {"job:1": clock.now() + 600}

    def naive() -> int:
        return sum(forgotten_at > clock.now() for forgotten_at in cache.values())

    assert naive() == 1
    balancer = Balancer([Account("1", 1)], clock=clock)
    lease = await balancer.acquire()
    await clock.advance(3600)
    assert naive() == 0
    assert balancer.snapshot().in_flight == 1
    with pytest.raises(NoCapacity):
        await balancer.acquire(timeout=0)
    await balancer.release(lease)


async def test_every_way_to_acquire_checks_eligibility() -> None:
    """A pick by name that does not check whether the account is eligible."""
    states: dict[str, Callable[[Selector], object]] = {
        "full": lambda selector: selector.try_acquire("1"),
        "paused": lambda selector: selector.pause("1"),
        "cooling_down": lambda selector: selector.cool_down("1", until=1e9),
        "removed": lambda selector: selector.update([Account("2", 1)]),
    }
    ways: dict[str, Callable[[Selector], Lease | None]] = {
        "any": Selector.try_acquire,
        "by name": lambda selector: selector.try_acquire("1"),
    }

    def naive(usable: list[str], channel: str | None = None) -> str:
        return channel or usable[0]

    assert [naive(["2"]), naive(["2"], "1")] == ["2", "1"]
    for (state, bring_about), (way, acquire) in itertools.product(states.items(), ways.items()):
        for policy in ("random", "least_loaded", "two_choices", "round_robin", "weighted"):
            selector = Selector([Account("1", 1), Account("2", 1)], policy=policy, rng=random.Random(3))
            bring_about(selector)
            before = selector.in_flight("1") if state != "removed" else 0
            granted = None
            with contextlib.suppress(UnknownChannel):  # correct for a removed account
                granted = acquire(selector)
            assert granted is None or granted.channel == "2", (state, way, policy)
            if state != "removed":
                assert selector.in_flight("1") == before, (state, way, policy)
                assert not selector.explain()["1"].eligible, (state, way, policy)


async def test_a_wait_without_a_slot_gives_the_account_no_cooldown(world: World) -> None:
    """Timeouts in the wait queue and cancelled callers are no failures of the account."""
    async with begin(world, 1) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        errors = 0
        for _ in range(20):
            with pytest.raises(NoCapacity):
                await dispatcher.submit("create", prompt="a dog", timeout=0)
            errors += 1
        given_up = [asyncio.create_task(dispatcher.submit("create", prompt="a fox")) for _ in range(20)]
        await settle()
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        world.service.script.append(Answer(400, {"error": "no such prompt", "code": 400}))
        world.service.end_all()
        await world.pass_time(120, lambda: handle.done)
        with pytest.raises(Exception, match="prompt"):
            await dispatcher.submit("create", prompt="a bad one")
        assert errors >= 5  # in a row: enough for a naive count to eject the account
        assert world.cooling_down() is None
        assert world.in_flight() == 0
        assert world.service.channels[-1] == ONE


@attrs.frozen
class Extreme:
    """A random number generator that always draws the same number."""

    draw: float

    def random(self) -> float:
        return self.draw


@pytest.mark.deep
def test_edge_arithmetic() -> None:
    largest = math.nextafter(1.0, 0.0)

    def naive(weights: list[float], draw: float) -> int:
        left = draw * sum(weights)
        for index, weight in enumerate(weights):
            if left < weight:
                return index
            left -= weight
        return len(weights) - 1

    assert naive([0.0, 0.0], 0.5) == 1  # an account without weight

    two = [Account("1", 3), Account("2", 3)]
    weightless = Selector(two, policy=lambda candidates: [0.0] * len(candidates))
    with pytest.raises(InvalidArgument, match="not all 0"):
        weightless.try_acquire()
    assert weightless.in_flight() == 0

    for count, draw in itertools.product(sized((1, 3, 10, 1000), (1, 3, 10, 1000, 10_000)), (0.0, largest)):
        accounts = [Account(str(number), 1) for number in range(count)]
        for policy in ("random", "two_choices", "weighted", "least_loaded"):
            selector = Selector(accounts, policy=policy, rng=Extreme(draw))  # type: ignore[arg-type] # draws, no more
            lease = selector.try_acquire()
            assert lease is not None, (policy, count, draw)

    last = Selector(two, policy=lambda candidates: [float(c.channel == "1") for c in candidates])
    assert [lease and lease.channel for lease in (last.try_acquire() for _ in range(3))] == ["1"] * 3

    # An off-by-one error shows at the cap itself.
    exact = Selector([Account("1", 3)])
    assert [exact.try_acquire() is not None for _ in range(4)] == [True, True, True, False]
