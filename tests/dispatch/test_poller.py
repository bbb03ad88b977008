"""Looks at many things again and again: when, in what order, and how many at once."""

import asyncio

from pika_balancer.dispatch.poller import AT_ONCE, Poller
from pika_balancer.testing import ManualClock, settle
from tests.dispatch.conftest import Loaded


class Looks:
    """A poller whose chance always falls on the shorter side, and what it looked at, and when."""

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


async def test_what_is_due_at_once_has_its_turn_in_the_order_in_which_it_came_and_so_many_at_a_time() -> None:
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


async def test_the_first_look_is_as_far_off_as_each_later_one_unless_it_is_wanted_soon() -> None:
    looks = Looks(100.0)
    looks.poller.add("later")
    looks.poller.add("soon", soon=True)
    await looks.clock.advance(160.0)
    assert looks.seen == [(0.0, "soon"), (80.0, "later"), (80.0, "soon"), (160.0, "later"), (160.0, "soon")]
    await looks.poller.close()


async def test_what_is_added_anew_is_looked_at_once_a_turn_and_has_no_failures_yet() -> None:
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


async def test_a_closed_poller_looks_at_nothing_however_much_was_due() -> None:
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
