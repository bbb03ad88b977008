"""When the poller polls, in what order, and how many at once."""

import asyncio
import itertools
import random

from pika_balancer.dispatch.poller import AT_ONCE, Poller
from pika_balancer.testing import ManualClock, settle
from tests.dispatch.conftest import Loaded


class Looks:
    """A poller with the shortest possible intervals, and the times and keys of its polls."""

    def __init__(self, every: float) -> None:
        self.clock = ManualClock()
        self.seen: list[tuple[float, str]] = []
        self.works = True
        self.under_way = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.poller = Poller(self.look, every=every, rng=Loaded(min), clock=self.clock)

    async def look(self, key: str) -> bool:
        self.seen.append((self.clock.now(), key))
        self.under_way += 1
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        return self.works


async def test_polls_due_at_once_run_in_order_a_few_at_a_time() -> None:
    looks = Looks(10.0)
    keys = [str(number) for number in range(3 * AT_ONCE + 1)]
    for key in keys:
        looks.poller.add(key)
    looks.gate.clear()
    await looks.clock.advance(8.0)
    assert looks.seen == [(8.0, key) for key in keys[:AT_ONCE]]
    looks.gate.set()
    await settle()
    assert looks.seen == [(8.0, key) for key in keys]
    await looks.poller.close()


async def test_the_first_poll_comes_after_the_interval_unless_it_is_wanted_soon() -> None:
    looks = Looks(100.0)
    looks.poller.add("later")
    looks.poller.add("soon", soon=True)
    await looks.clock.advance(160.0)
    assert looks.seen == [(0.0, "soon"), (80.0, "later"), (80.0, "soon"), (160.0, "later"), (160.0, "soon")]
    await looks.poller.close()


async def test_a_key_added_again_is_polled_once_per_interval_without_failures() -> None:
    looks = Looks(10.0)
    looks.works = False
    looks.poller.add("a")
    await looks.clock.advance(8.0)
    looks.poller.remove("a")
    looks.poller.add("a")
    looks.poller.remove("a")
    looks.poller.add("a")
    await looks.clock.advance(24.0)
    assert [moment for moment, _ in looks.seen] == [8.0, 16.0, 32.0]
    await looks.poller.close()


async def test_a_closed_poller_polls_nothing() -> None:
    looks = Looks(10.0)
    for number in range(2 * AT_ONCE):
        looks.poller.add(str(number))
    looks.gate.clear()
    await looks.clock.advance(8.0)
    await looks.poller.close()
    assert looks.under_way == 0
    looks.poller.add("late")
    await looks.clock.advance(100.0)
    assert (len(looks.seen), looks.clock.sleeping) == (AT_ONCE, 0)


async def test_polls_are_spread_and_never_many_at_once() -> None:
    clock, running, most, looks = ManualClock(), 0, 0, list[tuple[float, str]]()

    async def look(key: str) -> bool:
        nonlocal running, most
        looks.append((clock.now(), key))
        running += 1
        most = max(most, running)
        await clock.sleep(0.01)
        running -= 1
        return True

    poller = Poller(look, every=15.0, rng=random.Random(4), clock=clock)
    for number in range(100):
        poller.add(str(number), soon=number < 50)
    await clock.advance(150)
    assert most <= AT_ONCE
    for number in range(100):
        moments = [moment for moment, key in looks if key == str(number)]
        assert 8 <= len(moments) <= 13
        assert all(12 <= later - one <= 18.1 for one, later in itertools.pairwise(moments))
        poller.remove(str(number))
    looks.clear()
    await clock.advance(100)
    assert (looks, clock.sleeping) == ([], 0)
    await poller.close()


async def test_the_interval_doubles_with_each_failure_in_a_row_up_to_eight_times() -> None:
    looks = Looks(10.0)
    looks.works = False
    looks.poller.add("a")
    await looks.clock.advance(184.0)
    looks.works = True
    await looks.clock.advance(72.0)
    assert [moment for moment, _ in looks.seen] == [8.0, 24.0, 56.0, 120.0, 184.0, 248.0, 256.0]
    await looks.poller.close()
