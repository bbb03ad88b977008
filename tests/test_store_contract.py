"""What every store promises, run against each of them."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pika_balancer.clock import SystemClock
from pika_balancer.errors import Closed, ForeignLease, InvalidArgument, NoCapacity, UnknownChannel, WrongLoop
from pika_balancer.models import Account, Lease
from pika_balancer.selection.policy import Candidate
from pika_balancer.store import MemoryStore, Store
from pika_balancer.testing import ManualClock, settle
from tests.depth import examples, sized
from tests.redis_pool import Pool, advance, quiet, until
from tests.redis_servers import Servers, kinds

Make = Callable[..., Awaitable[Store]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


WHOLE = {"memory", "valkey", "by-url"}
"""The stores that keep every promise of this file in each run; the others keep all of them with `--deep`."""
EVERYWHERE: set[str] = set()
"""The tests that run against every store in each run."""
Test = TypeVar("Test", bound=Callable[..., object])


def everywhere(test: Test) -> Test:
    """Have the test run against every store in each run: together these use every script."""
    EVERYWHERE.add(test.__name__)
    return test


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "make" not in metafunc.fixturenames:
        return
    cases: list[object] = []
    for kind in ("memory", *kinds()):
        if kind in WHOLE or metafunc.function.__name__ in EVERYWHERE:
            cases.append(kind)
        elif sized(short=False, deep=True):
            cases.append(pytest.param(kind, marks=pytest.mark.deep))
    metafunc.parametrize("make", cases, indirect=True)


@pytest.fixture
async def make(request: pytest.FixtureRequest, servers: Servers, clock: ManualClock) -> AsyncGenerator[Make]:
    """Return a factory of stores over accounts 0, 1, … with the given caps; each store has its own pool."""
    pools: list[Pool] = []

    async def make_store(*caps: int) -> Store:
        accounts = [Account(str(i), cap) for i, cap in enumerate(caps)]
        if request.param == "memory":
            return MemoryStore(accounts, rng=random.Random(1), clock=clock)
        pools.append(Pool(servers[request.param], clock))
        store = pools[-1].open(rng=random.Random(1))
        await store.update(accounts)
        await until(lambda: pools[-1].listeners() == 1)
        return store

    yield make_store
    for pool in pools:
        await pool.end(in_use=True)


async def released(store: Store, lease: Lease) -> None:
    owed = store.release(lease)
    if owed is not None:
        await owed


async def take(store: Store, clock: ManualClock, channel: str | None = None) -> Lease | None:
    """Return a lease of a free slot."""
    try:
        return await store.acquire(channel, clock.now())
    except NoCapacity:
        return None


def wait(store: Store, channel: str | None = None, deadline: float | None = None) -> asyncio.Task[Lease]:
    return asyncio.create_task(store.acquire(channel, deadline))


@everywhere
async def test_a_free_slot_is_granted_at_once(make: Make, clock: ManualClock) -> None:
    store = await make(1)
    lease = await store.acquire(None, None)
    assert (lease.channel, store.snapshot().in_flight) == ("0", 1)
    assert await take(store, clock) is None
    await released(store, lease)
    assert store.snapshot().in_flight == 0


@everywhere
async def test_a_released_slot_goes_to_the_first_waiter(make: Make) -> None:
    store = await make(1)
    lease = await store.acquire(None, None)
    waiters: list[asyncio.Task[Lease]] = []
    for _ in range(5):
        waiters.append(wait(store))
        await quiet(store)
    for waiter in waiters:
        await released(store, lease)
        await quiet(store)
        assert [w.done() for w in waiters] == [
            w is waiter or waiters.index(w) < waiters.index(waiter) for w in waiters
        ]
        lease = waiter.result()


async def test_a_newcomer_passes_no_waiter_between_release_and_wake_up(
    make: Make, clock: ManualClock
) -> None:
    store = await make(1)
    lease = await store.acquire(None, None)
    waiter = wait(store)
    await quiet(store)
    await released(store, lease)
    # The slot belongs to the waiter from the release on, though its task has not run yet.
    assert await take(store, clock) is None
    assert (await waiter).held


@everywhere
async def test_a_pinned_waiter_blocks_no_other_and_is_not_overtaken_on_its_channel(make: Make) -> None:
    store = await make(1, 1)
    held = {lease.channel: lease for lease in [await store.acquire(c, None) for c in "01"]}
    pinned = wait(store, "0")
    await quiet(store)
    anyone = wait(store)
    await quiet(store)
    await released(store, held["1"])
    await quiet(store)
    assert (pinned.done(), anyone.done()) == (False, True)
    late = wait(store)
    await quiet(store)
    await released(store, held["0"])
    await quiet(store)
    assert (pinned.done(), late.done()) == (True, False)
    await released(store, pinned.result())
    assert (await late).channel == "0"


async def test_a_waiter_before_a_pinned_waiter_is_served_first(make: Make) -> None:
    store = await make(1)
    lease = await store.acquire(None, None)
    anyone = wait(store)
    await quiet(store)
    pinned = wait(store, "0")
    await quiet(store)
    await released(store, lease)
    await quiet(store)
    assert (anyone.done(), pinned.done()) == (True, False)
    await released(store, anyone.result())
    assert (await pinned).channel == "0"


@everywhere
async def test_the_deadline_ends_the_wait_with_the_reason(make: Make, clock: ManualClock) -> None:
    store = await make(1)
    lease = await store.acquire(None, None)
    waiter = wait(store, deadline=clock.now() + 5)
    await advance(clock, 4.9, store)
    assert not waiter.done()
    await advance(clock, 0.2, store)
    with pytest.raises(NoCapacity, match="free slot") as caught:
        await waiter
    assert caught.value.reason == "full"
    await released(store, lease)
    assert await take(store, clock) is not None


async def test_a_wait_that_ends_early_leaves_no_timer(make: Make, clock: ManualClock) -> None:
    store = await make(1)
    lease = await store.acquire(None, None)
    idle = clock.sleeping
    served, cancelled = wait(store, deadline=clock.now() + 5), wait(store, deadline=clock.now() + 5)
    await quiet(store)
    assert clock.sleeping == idle + 2
    cancelled.cancel()
    await released(store, lease)
    await served
    await quiet(store)
    assert clock.sleeping == idle


async def test_a_deadline_in_the_past_takes_what_is_free_or_fails(make: Make, clock: ManualClock) -> None:
    store = await make(1)
    lease = await store.acquire(None, clock.now())
    idle = clock.sleeping
    with pytest.raises(NoCapacity):
        await store.acquire(None, clock.now())
    await released(store, lease)
    assert store.snapshot().in_flight == 0
    assert clock.sleeping == idle


@everywhere
async def test_a_cooldown_ends_by_itself(make: Make, clock: ManualClock) -> None:
    store = await make(1)
    await store.cool_down("0", clock.now() + 10)
    waiter = wait(store)
    short = wait(store, deadline=clock.now() + 1)
    await advance(clock, 9.9, store)
    with pytest.raises(NoCapacity) as caught:
        await short
    assert (caught.value.reason, caught.value.until) == ("cooling_down", 10.0)
    assert not waiter.done()
    await advance(clock, 0.2, store)
    assert (await waiter).channel == "0"


async def test_a_second_cooldown_never_shortens_the_first_and_resume_ends_both(
    make: Make, clock: ManualClock
) -> None:
    store = await make(1, 1)
    idle = clock.sleeping
    for channel in "01":
        await store.cool_down(channel, clock.now() + 100)
    first, second = wait(store, "0"), wait(store, "1")
    await store.cool_down("0", clock.now() + 1)
    await store.resume("1")
    await quiet(store)
    assert (first.done(), second.done()) == (False, True)
    await advance(clock, 99, store)
    assert not first.done()
    await advance(clock, 1, store)
    assert first.done()
    assert clock.sleeping == idle


@everywhere
async def test_a_pause_holds_the_queue_and_resume_serves_it(make: Make) -> None:
    store = await make(2)
    await store.pause("0")
    waiters = [wait(store) for _ in range(3)]
    await quiet(store)
    assert not any(w.done() for w in waiters)
    await store.resume("0")
    await quiet(store)
    assert [w.done() for w in waiters] == [True, True, False]
    await released(store, waiters[0].result())
    await waiters[2]


@everywhere
async def test_an_update_serves_the_queue_by_what_is_free_not_by_what_changed(make: Make) -> None:
    store = await make(3)
    held = [await store.acquire(None, None) for _ in range(3)]
    waiters = [wait(store) for _ in range(3)]
    await quiet(store)
    await store.update([Account("0", 1)])
    await store.update([Account("0", 4)])
    await quiet(store)
    assert [w.done() for w in waiters] == [True, False, False]
    await store.update([Account("0", 4), Account("1", 1)])
    await quiet(store)
    assert [w.done() for w in waiters] == [True, True, False]
    await released(store, held[0])
    assert (await waiters[2]).channel == "0"


@everywhere
async def test_a_request_for_a_removed_account_fails(make: Make) -> None:
    store = await make(1, 1)
    for channel in "01":
        await store.acquire(channel, None)
    pinned, anyone = wait(store, "0"), wait(store)
    await quiet(store)
    await store.update([Account("1", 1)])
    with pytest.raises(NoCapacity) as caught:
        await pinned
    assert (caught.value.reason, caught.value.channel) == ("never", "0")
    assert not anyone.done()
    await store.update([])
    with pytest.raises(NoCapacity) as caught:
        await anyone
    assert caught.value.reason == "never"
    with pytest.raises(NoCapacity, match="no accounts"):
        await store.acquire(None, None)


async def test_a_cooldown_ends_without_waiters(make: Make, clock: ManualClock) -> None:
    store = await make(1, 5)
    await store.cool_down("0", clock.now() + 10)
    await advance(clock, 10, store)
    assert await take(store, clock, "0") is not None


@pytest.mark.parametrize("read", ["snapshot", "explain", "why_unavailable"])
async def test_reading_the_counts_when_a_cooldown_ends_passes_no_waiter(
    make: Make, clock: ManualClock, read: str
) -> None:
    store = await make(1)
    # At the moment of the cooldown's end, before the store's own alarm.
    clock.call_later(10, getattr(store, read))
    await store.cool_down("0", clock.now() + 10)
    waiter = wait(store)
    await quiet(store)
    await advance(clock, 10, store)
    assert await take(store, clock) is None
    assert (await waiter).channel == "0"


async def test_a_cooldown_ends_though_its_balancer_has_been_closed(make: Make, clock: ManualClock) -> None:
    store = await make(1)
    await store.cool_down("0", clock.now() + 10)
    await store.close()
    waiter = wait(store)
    await advance(clock, 10, store)
    assert (await waiter).channel == "0"


def test_a_cooldown_ends_in_a_second_event_loop() -> None:
    store = MemoryStore([Account("0", 1)])

    async def acquire_in_time() -> Lease:
        return await store.acquire(None, SystemClock().now() + 5)

    asyncio.run(store.cool_down("0", SystemClock().now() + 0.02))
    assert asyncio.run(acquire_in_time()).channel == "0"


async def test_a_time_out_in_the_tick_of_a_cancellation_stays_a_cancellation(
    make: Make, clock: ManualClock
) -> None:
    store = await make(1)
    await store.acquire(None, None)
    waiter = wait(store, deadline=clock.now() + 1)
    await quiet(store)
    waiter.cancel()
    store.fail_waiters(lambda: Closed("over"))
    await asyncio.wait([waiter])
    assert waiter.cancelled()


def never_zero(candidates: Sequence[Candidate]) -> list[float]:
    """A user's rule that gives one account no weight, and so fails if it is the only one."""
    return [float(candidate.channel != "0") for candidate in candidates]


async def test_a_failing_policy_fails_the_waiter_and_not_the_releaser() -> None:
    store = MemoryStore([Account("0", 1), Account("1", 1)], policy=never_zero)
    anyone, pinned = await store.acquire(None, None), await store.acquire("0", None)
    asker = wait(store)
    await quiet(store)
    behind = wait(store, "0")
    await quiet(store)
    store.release(pinned)
    with pytest.raises(InvalidArgument):
        await asker
    assert (await behind).channel == "0"
    store.release(anyone)
    assert store.snapshot().in_flight == 1


@everywhere
async def test_unknown_channels_and_foreign_leases_are_refused(make: Make) -> None:
    store, other = await make(1), await make(1)
    with pytest.raises(UnknownChannel):
        await store.acquire("9", None)
    if isinstance(store, MemoryStore):  # a shared store has to ask
        with pytest.raises(UnknownChannel):
            store.try_acquire("9")
    lease = await other.acquire(None, None)
    with pytest.raises(ForeignLease):
        await released(store, lease)


@everywhere
async def test_a_double_release_serves_the_queue_once(make: Make) -> None:
    store = await make(1)
    lease = await store.acquire(None, None)
    first, second = wait(store), wait(store)
    await quiet(store)
    await released(store, lease)
    await released(store, lease)
    await quiet(store)
    assert (first.done(), second.done()) == (True, False)
    second.cancel()


@everywhere
async def test_adopted_jobs_hold_the_queue_until_released(make: Make) -> None:
    store = await make(1)
    first, second = await store.adopt("0", "job:a"), await store.adopt("0", "job:b")
    waiter = wait(store)
    await quiet(store)
    await released(store, first)
    await quiet(store)
    assert not waiter.done()
    await released(store, second)
    assert (await waiter).channel == "0"


async def test_fail_waiters_gives_each_waiter_its_own_error(make: Make) -> None:
    store = await make(1)
    lease = await store.acquire(None, None)
    waiters = [wait(store), wait(store, "0")]
    await quiet(store)
    store.fail_waiters(lambda: Closed("over"))
    if isinstance(store, MemoryStore):  # the queue is empty at once, before the waiters' tasks run
        store.release(lease)
        assert store.try_acquire() is not None
    errors: list[Any] = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(error) for error in errors] == [Closed, Closed]
    assert errors[0] is not errors[1]
    await store.close()


async def test_waiters_of_another_event_loop_are_not_mixed_up(make: Make) -> None:
    store = await make(1)
    await store.acquire(None, None)
    stuck = wait(store)
    await quiet(store)
    with pytest.raises(WrongLoop, match="another event loop"):
        await asyncio.to_thread(asyncio.run, store.acquire(None, None))
    stuck.cancel()
    await quiet(store)


class Queue(RuleBasedStateMachine):
    """Random operations: no request waits that could be served, none is passed, no slot is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.waiting: list[tuple[str | None, asyncio.Task[Lease]]] = []
        self.held: list[Lease] = []

    @initialize(caps=st.lists(st.integers(1, 2), min_size=1, max_size=3), seed=st.integers(0, 3))
    def begin(self, caps: list[int], seed: int) -> None:
        self.caps = {str(i): cap for i, cap in enumerate(caps)}
        self.store = MemoryStore(self.accounts(), rng=random.Random(seed), clock=self.clock)

    def accounts(self) -> list[Account]:
        return [Account(channel, cap) for channel, cap in self.caps.items()]

    def run(self, *steps: Awaitable[object]) -> None:
        async def all_steps() -> None:
            for step in steps:
                await step
            await settle(4)

        self.runner.run(all_steps())
        for position, (_, task) in enumerate(self.waiting):
            if task.done() and not task.cancelled() and task.exception() is None:
                lease = task.result()
                passed = [
                    w for w, t in self.waiting[:position] if not t.done() and w in {None, lease.channel}
                ]
                assert not passed, f"{lease} passed {passed}"
                self.held.append(lease)
        self.waiting = [(wanted, task) for wanted, task in self.waiting if not task.done()]

    @rule(
        wanted=st.none() | st.sampled_from("012"),
        limit=st.none() | st.integers(1, 3),
        turns=st.integers(0, 3),
    )
    def join(self, wanted: str | None, limit: int | None, turns: int) -> None:
        if wanted is not None and wanted not in self.caps:
            return
        deadline = None if limit is None else self.clock.now() + limit

        async def start() -> None:
            self.waiting.append((wanted, wait(self.store, wanted, deadline)))
            await settle(turns)

        self.run(start())

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), releases=st.integers(0, 2), turns=st.integers(0, 2))
    def cancel_around_releases(self, data: st.DataObject, releases: int, turns: int) -> None:
        index = data.draw(st.integers(0, len(self.waiting) - 1))

        async def race() -> None:
            for _ in range(min(releases, len(self.held))):
                self.store.release(self.held.pop())
            await settle(turns)
            self.waiting[index][1].cancel()

        self.run(race())

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.run(released(self.store, lease))

    @rule(caps=st.lists(st.integers(1, 3), min_size=0, max_size=3))
    def update(self, caps: list[int]) -> None:
        self.caps = {str(i): cap for i, cap in enumerate(caps)}
        self.run(self.store.update(self.accounts()))

    @rule(channel=st.sampled_from("012"), what=st.sampled_from(["pause", "resume", "cool_down"]))
    def toggle(self, channel: str, what: str) -> None:
        if channel in self.caps:
            args = (self.clock.now() + 2,) if what == "cool_down" else ()
            self.run(getattr(self.store, what)(channel, *args))

    @rule()
    def time_passes(self) -> None:
        self.run(self.clock.advance(1))

    @invariant()
    def no_request_waits_that_could_be_served(self) -> None:
        if not hasattr(self, "store"):
            return
        roomy = {channel for channel, e in self.store.explain().items() if e.eligible}
        for wanted, _ in self.waiting:
            assert not (roomy if wanted is None else roomy & {wanted})
        assert self.store.snapshot().in_flight == len(self.held)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            tasks = [task for _, task in self.waiting]
            for task in tasks:
                task.cancel()
            self.run()
            for lease in self.held:
                self.store.release(lease)
            assert self.store.snapshot().in_flight == 0
            self.run(self.store.update([Account("0", 1)]), self.store.resume("0"))
            # The queue is empty, so this passes no waiter.
            assert self.store.try_acquire() is not None
        self.runner.close()


Queue.TestCase.settings = examples(30, 300, stateful_step_count=30)
TestQueue = pytest.mark.deep(Queue.TestCase)
