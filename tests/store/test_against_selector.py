"""The shared store gives the selector's answers: both are driven side by side with the same chance."""

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import ClassVar

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pika_balancer.errors import NoCapacity, UnknownChannel
from pika_balancer.models import Account, AccountState, Lease, Snapshot
from pika_balancer.selection.policy import POLICIES
from pika_balancer.selection.selector import Selector
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import ManualClock
from tests.depth import examples
from tests.redis_pool import Pool, advance, quiet
from tests.redis_servers import Servers

CHANNELS = ("a", "b", "c", "d")


class Chance(random.Random):
    """The server's random numbers for one pick: the caller's, then Park and Miller's sequence."""

    first: float
    seed_: float | None

    def begin(self, first: float) -> None:
        """Begin a pick."""
        self.first, self.seed_ = first, None

    def random(self) -> float:
        """Return the next draw."""
        drawn = self.first
        self.seed_ = (int(drawn * 2147483646) + 1 if self.seed_ is None else self.seed_) * 16807 % 2147483647
        self.first = (self.seed_ - 1) / 2147483646
        return drawn


def comparable(snapshot: Snapshot) -> tuple[list[AccountState], list[AccountState]]:
    """Return the accounts in the map, and those not any more: their order and cap do not matter."""
    removed = [attrs.evolve(account, max_jobs=1) for account in snapshot.accounts if account.removed]
    return [account for account in snapshot.accounts if not account.removed], sorted(removed, key=str)


class Both(RuleBasedStateMachine):
    """Random operations on a store and a selector, which agree after every step."""

    servers: ClassVar[Servers]
    kind: ClassVar[str] = "valkey"

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.held: list[tuple[Lease, Lease]] = []
        self.adopted: dict[str, tuple[Lease, Lease]] = {}

    @initialize(policy=st.sampled_from(POLICIES), caps=st.lists(st.integers(1, 3), max_size=4))
    def begin(self, policy: str, caps: list[int]) -> None:
        self.policy = policy
        self.pool = Pool(self.servers[self.kind], self.clock)
        self.chance = random.Random(7)
        # Two processes: what one does, the other sees.
        self.stores = [self.pool.open(policy=policy, rng=self.chance) for _ in range(2)]
        self.oracle = Chance()
        self.selector = Selector(rng=self.oracle, policy=policy)
        # The server picks among candidates in map order, so the selector has to keep that order, too.
        self.selector._uniform, self.selector._rule.ordered = False, True
        self.update(caps)

    def run(self, step: Awaitable[object]) -> object:
        async def one() -> object:
            answer = await step
            await quiet(*self.stores)
            return answer

        return self.runner.run(one())

    def pick(self, store: RedisStore, channel: str | None) -> tuple[Lease | None, Lease | None]:
        """Take a slot of each, with the same chance."""
        twin = random.Random()
        twin.setstate(self.chance.getstate())
        drawn = twin.random()
        self.oracle.begin(drawn)
        expected = self.selector.try_acquire(channel, now=self.clock.now())

        async def take() -> Lease | None:
            try:
                return await store.acquire(channel, self.clock.now())
            except NoCapacity:
                return None

        got = self.run(take())
        assert got is None or isinstance(got, Lease)
        return got, expected

    @rule(who=st.integers(0, 1), channel=st.none() | st.sampled_from(CHANNELS))
    def acquire(self, who: int, channel: str | None) -> None:
        try:
            got, expected = self.pick(self.stores[who], channel)
        except UnknownChannel:
            with pytest.raises(UnknownChannel):
                self.run(self.stores[who].acquire(channel, self.clock.now()))
            return
        assert (got and got.channel) == (expected and expected.channel)
        if got is not None and expected is not None:
            self.held.append((got, expected))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        got, expected = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.give_back(got, expected)

    def give_back(self, got: Lease, expected: Lease) -> None:
        store = got.grantor
        assert isinstance(store, RedisStore)

        async def one() -> None:
            owed = store.release(got)
            if owed is not None:
                await owed
            assert store.release(got) is None

        self.run(one())
        assert self.selector.release(expected)

    @rule(who=st.integers(0, 1), channel=st.sampled_from(CHANNELS), key=st.sampled_from("xy"))
    def adopt(self, who: int, channel: str, key: str) -> None:
        if key in self.adopted and self.adopted[key][1].channel != channel:
            with pytest.raises(ValueError, match="already adopted"):
                self.selector.adopt(channel, key)
            with pytest.raises(ValueError, match="already adopted"):
                self.run(self.stores[who].adopt(channel, key))
            return
        expected = self.selector.adopt(channel, key)
        got = self.run(self.stores[who].adopt(channel, key))
        assert isinstance(got, Lease)
        assert (got.channel, got.id) == (channel, key)
        self.adopted[key] = got, expected

    @precondition(lambda self: self.adopted)
    @rule(data=st.data())
    def end_adopted(self, data: st.DataObject) -> None:
        got, expected = self.adopted.pop(data.draw(st.sampled_from(sorted(self.adopted))))
        self.give_back(got, expected)

    @rule(caps=st.lists(st.integers(1, 3), max_size=4), order=st.permutations(CHANNELS))
    def change(self, caps: list[int], order: Sequence[str]) -> None:
        self.update(caps, order)

    def update(self, caps: list[int], order: Sequence[str] = CHANNELS) -> None:
        self.accounts = [Account(channel, cap) for channel, cap in zip(order, caps, strict=False)]
        self.selector.update(self.accounts)
        self.run(self.stores[0].update(self.accounts))

    @rule(
        who=st.integers(0, 1),
        channel=st.sampled_from(CHANNELS),
        what=st.sampled_from(["pause", "resume", "cool_down"]),
        seconds=st.integers(1, 3),
    )
    def bar(self, who: int, channel: str, what: str, seconds: int) -> None:
        arguments = (self.clock.now() + seconds,) if what == "cool_down" else ()
        self.selector.wake(self.clock.now())
        try:
            getattr(self.selector, what)(channel, *arguments)
        except UnknownChannel:
            with pytest.raises(UnknownChannel):
                self.run(getattr(self.stores[who], what)(channel, *arguments))
        else:
            self.run(getattr(self.stores[who], what)(channel, *arguments))

    @rule(seconds=st.integers(1, 2))
    def time_passes(self, seconds: int) -> None:
        self.run(advance(self.clock, seconds, *self.stores))

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "stores"):
            return
        now = self.clock.now()
        fleet = self.runner.run(self.stores[1].pool_status())
        assert fleet.faults == ()

        assert comparable(fleet.snapshot) == comparable(self.selector.snapshot(now=now))
        for store in self.stores:
            # A process does not hear of every change that others make; an update brings all of them.
            self.run(store.update(self.accounts))
            assert comparable(store.snapshot()) == comparable(fleet.snapshot)
            assert store.explain().keys() == self.selector.explain(now=now).keys()
            assert store.explain() == self.selector.explain(now=now) or self.policy == "round_robin"
            for channel in (None, *CHANNELS):
                expected = self.selector.why_unavailable(channel, now=now)
                found = store.why_unavailable(channel)
                assert (found and found.reason) == (expected and expected.reason)

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for got, expected in [*self.held, *self.adopted.values()]:
                self.give_back(got, expected)
            self.runner.run(self.pool.end())
        self.runner.close()


@pytest.mark.no_cover  # walk after walk; other tests run the same lines
@pytest.mark.deep
@pytest.mark.parametrize("kind", ["valkey"])
def test_the_store_answers_as_the_selector_does(kind: str, servers: Servers) -> None:
    machine = type("OnServer", (Both,), {"servers": servers, "kind": kind})
    run_state_machine_as_test(machine, settings=examples(12, 100, stateful_step_count=25))
