"""Other event loops, two at once, and the end of one: everything works there, or is refused with a reason."""

import asyncio
import gc
import importlib.util
import logging
import random
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pika_balancer import Account, Balancer, ConnectFailed, Dispatcher, Lease, PikaClient, WrongLoop
from pika_balancer.clock import Timer
from pika_balancer.store import MemoryStore
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import LocalServer, ManualClock, settle, wait_until
from tests.cancelling import SCENARIOS
from tests.cancelling.balancer import all_obtainable
from tests.cancelling.cancel_point import How, Scenario, at_every_await, every_way, one_way_each
from tests.children import default_signals
from tests.depth import sized
from tests.redis_pool import Pool
from tests.redis_servers import Servers
from tests.test_cancellation import make, storm

pytestmark = pytest.mark.no_cover  # by the hundred what other tests run once

ACCOUNTS = [Account("100000000000000001", max_jobs=2)]

REPRESENTATIVE = {
    "Balancer.acquire",
    "Balancer.close",
    "LeaseContext.__aenter__",
    "PikaClient.animate",
    "Dispatcher.__aenter__",
    "Dispatcher.submit",
    "Dispatcher.drain",
    "Batch.__anext__",
    "RedisStore.acquire",
    "Webhook.run",
    "LocalServer.run",
    "Driver.run",
}
"""Together they run every module that uses an event loop."""


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]  # from 3.12
    return loop


def patient_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    # Debug mode logs callbacks that take longer; on a busy machine any callback may.
    loop.slow_callback_duration = 30.0
    return loop


def other_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - not on every system

    return uvloop.new_event_loop()


KINDS: dict[str, tuple[Callable[[], asyncio.AbstractEventLoop], bool, bool]] = {
    "debug": (patient_loop, True, True),
    "uvloop": (other_loop, False, importlib.util.find_spec("uvloop") is not None),
    "eager": (eager_loop, False, sys.version_info >= (3, 12)),
}
"""Factory of the loop, whether in debug mode, and whether it is available."""


@pytest.mark.deep
@pytest.mark.parametrize("kind", KINDS)
def test_everything_works_on_another_kind_of_loop(
    kind: str, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    factory, debug, is_there = KINDS[kind]
    if not is_there:
        pytest.skip("not to be had with this Python, or on this system")
    named = [SCENARIOS[name] for name in sorted(REPRESENTATIVE)]
    # The short form runs one scenario of each, alternately in memory and on a server.
    wanted: dict[Scenario, None] = sized(
        {scenarios[place % len(scenarios)]: None for place, scenarios in enumerate(named)},
        {scenario: None for scenarios in named for scenario in scenarios},
    )
    runs = sized(one_way_each, every_way)
    hows: list[How] = sized(["same tick", "at once"], ["same tick"])

    struck: Counter[How] = Counter()

    async def everything() -> None:
        for scenario in wanted:
            struck.update(await at_every_await(scenario, servers["valkey"], runs(hows)))
        assert struck.total() > len(wanted)
        balancer = make(2, 3)
        await storm(balancer, workers=20, cancels=sized(300, 3000), chance=random.Random(5))
        await all_obtainable(balancer, 5)

    with (
        caplog.at_level(logging.WARNING, "asyncio"),
        asyncio.Runner(debug=debug, loop_factory=factory) as runner,
    ):
        runner.run(everything())
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def test_what_belongs_to_one_loop_says_so_in_another(servers: Servers) -> None:
    pool = Pool(servers["valkey"])
    balancer, store = Balancer(ACCOUNTS), pool.open()
    client = PikaClient("user:canary", base_url="http://127.0.0.1:9", retries=0, timeout=60)

    async def first() -> None:
        await balancer.release(await balancer.acquire())
        with pytest.raises(ConnectFailed):
            await client.jobs()
        await store.update(ACCOUNTS)
        held.extend([await store.acquire(None, None), await store.acquire(None, None)])
        waiting.append(asyncio.create_task(store.acquire(None, None)))
        await settle()

    async def second() -> None:
        # Objects without I/O work in the next loop.
        await balancer.release(await balancer.acquire(timeout=60))
        with pytest.raises(WrongLoop, match="make one per loop"):
            await client.jobs()
        with pytest.raises(WrongLoop, match="close it there"):
            await client.close()
        for use in (store.update(ACCOUNTS), store.close(), _enter(Balancer(ACCOUNTS, store=store))):
            with pytest.raises(WrongLoop, match="close it there"):
                await use

    async def first_again() -> None:
        # The refused calls changed nothing.
        for lease in held:
            store.release(lease)
        store.release(await waiting[0])
        await client.close()
        await pool.end()

    held: list[Lease] = []
    waiting: list[asyncio.Task[Lease]] = []
    with asyncio.Runner() as here:
        here.run(first())
        with asyncio.Runner() as there:
            there.run(second())
        here.run(first_again())


async def _enter(balancer: Balancer) -> None:
    async with balancer:
        pass


async def test_a_loop_in_another_thread_gets_no_slot_of_the_waiters_here(servers: Servers) -> None:
    pool = Pool(servers["valkey"])
    ours, shared = MemoryStore(ACCOUNTS), pool.open()
    held = [await ours.acquire(None, None) for _ in range(2)]
    waiting = asyncio.create_task(ours.acquire(None, None))
    await shared.update(ACCOUNTS)
    await settle()

    async def elsewhere() -> None:
        for store in (ours, shared):
            with pytest.raises(WrongLoop):
                await store.acquire(None, None)
        # Another store of the same pool counts as another process.
        own = RedisStore(pool.server.url, pool.name)
        async with Balancer(store=own) as balancer, balancer.lease(timeout=60) as lease:
            assert lease.channel == ACCOUNTS[0].channel

    await asyncio.to_thread(asyncio.run, elsewhere())
    for lease in held:
        ours.release(lease)
    ours.release(await waiting)
    assert ours.snapshot().in_flight == 0
    await pool.end()


HELD_AT_THE_END = """
import asyncio, sys
from pika_balancer import Account, Balancer, Dispatcher, PikaClient
from pika_balancer.store.redis import RedisStore
from pika_balancer.testing import LocalServer

channel = "100000000000000001"
accounts = [Account(channel, max_jobs=9)]

class Source:
    async def accounts(self):
        return {channel: accounts[0]}

async def main():
    store = RedisStore(sys.argv[1], sys.argv[2], first_start=True)
    server = LocalServer({channel: 9}, service="fixed:60s")
    async with server.run() as url, PikaClient("user:canary", base_url=url) as client:
        alone = await Balancer.from_client(Source(), refresh_every=9)
        for balancer in (Balancer(accounts, store=store), alone):
            left.append(await balancer.acquire())
            dispatcher = await Dispatcher(client, balancer).__aenter__()
            left.append(await dispatcher.submit("create", prompt="a cat"))
            left.extend(asyncio.create_task(balancer.acquire(timeout=600)) for _ in range(20))
            left.append(asyncio.create_task(dispatcher.run("create", prompt="a dog")))
            await balancer.cool_down(channel, 600)
            left.append(dispatcher)
        await asyncio.sleep(0.05)
        if sys.argv[3] == "exit":
            sys.exit(3)
        if sys.argv[3] == "interrupt":
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(60)
            print("no interrupt arrived")

import signal
left = []
asyncio.run(main())
print("the end")
"""


@pytest.mark.parametrize(
    ("flags", "how", "code"),
    [(["-X", "dev", "-W", "error"], "return", 0), ([], "exit", 3), ([], "interrupt", -2)],
)
def test_a_program_that_ends_with_everything_held_ends(
    flags: list[str], how: str, code: int, servers: Servers
) -> None:
    pool = Pool(servers["valkey"])
    done = subprocess.run(
        [sys.executable, *flags, "-c", HELD_AT_THE_END, pool.server.url, pool.name, how],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=default_signals,
    )
    pool.delete()
    noise = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    if how == "interrupt":
        # Only Python's own traceback of the interrupt.
        assert noise[0].startswith("Traceback")
        assert noise[-1] == "KeyboardInterrupt"
        assert not [line for line in noise if "never" in line or "pending" in line or "Unclosed" in line]
    else:
        assert noise == []
    assert (done.returncode, done.stdout) == (code, "the end\n" if how == "return" else "")


async def test_dropped_objects_free_their_slots_without_a_warning(servers: Servers) -> None:
    """Cycles included: leases, a balancer with waiters, a dispatcher, a handle without an awaiter."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    balancer = Balancer(ACCOUNTS)
    leases = [await balancer.acquire() for _ in range(2)]
    waiters = [asyncio.create_task(balancer.acquire()) for _ in range(3)]
    waiters[1].cancel()
    await settle()
    gone = weakref.ref(balancer)
    del balancer, leases
    gc.collect()
    # Dropped leases went to the waiters, which dropped them, too.
    await wait_until(lambda: all(waiter.done() for waiter in waiters))
    waiters.clear()
    await settle()
    gc.collect()
    assert gone() is None

    async with LocalServer({ACCOUNTS[0].channel: 2}, service="fixed:60s").run() as url:
        client = PikaClient("user:canary", base_url=url)
        async with Balancer(ACCOUNTS) as balancer:
            dispatcher = Dispatcher(client, balancer)
            handle = await dispatcher.submit("create", prompt="a cat")
            await dispatcher.close()
            gone_too = weakref.ref(dispatcher)
            # It failed with `Closed`, which no code has read.
            del dispatcher, handle
            gc.collect()
            assert gone_too() is None
        await client.close()
    await settle()
    assert asyncio.all_tasks() == before
    assert complaints == []
    loop.set_exception_handler(None)


class EndingClock:
    """A manual clock that cancels all tasks in the tick of one alarm, as `asyncio.run` does at its end."""

    def __init__(self, ends_at: float) -> None:
        self.hand = ManualClock()
        self.now, self.sleep = self.hand.now, self.hand.sleep
        self.ends_at = ends_at
        self.spared = asyncio.all_tasks()
        self.cancelled: set[asyncio.Task[Any]] = set()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        def ring() -> None:
            callback()
            if self.now() >= self.ends_at and not self.cancelled:
                self.cancelled = asyncio.all_tasks() - self.spared
                for task in self.cancelled:
                    task.cancel()

        return self.hand.call_later(seconds, ring)


async def test_a_store_ends_though_its_call_times_out_while_the_program_ends(servers: Servers) -> None:
    """Two cancellations in one tick arrive as one exception; the second must not be lost."""
    clock = EndingClock(ends_at=15)
    pool = Pool(servers["valkey"])
    store = pool.open(lease_ttl=60, clock=clock)
    await store.update(ACCOUNTS)
    servers["valkey"].pause()
    try:
        asyncio.create_task(store.pool_status())  # noqa: RUF006 - the clock cancels it
        await settle()
        # The alarm after a third of `lease_ttl` times out the unanswered call.
        await clock.hand.advance(25)
        assert clock.cancelled
        await asyncio.wait(clock.cancelled, timeout=60)
        assert [task for task in clock.cancelled if not task.done()] == []
    finally:
        servers["valkey"].go_on()
    pool.delete()
