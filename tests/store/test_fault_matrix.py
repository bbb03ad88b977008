"""Every fault of the network × every call of the shared store: what it comes to, and what the server counts.

The fault befalls one request or one reply. Nobody gets a slot above a cap, none is lost or taken twice, and
what was to be said has been said in the end, though a caller who cannot be told so soon does not wait for it:
for him it is done. Only who asks the server something is told that there is no answer.
"""

import asyncio
import inspect
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import pytest

from pika_balancer import Account, PikaError
from pika_balancer.models import Lease, Orphan
from pika_balancer.store.redis.pool_status import PoolStatus
from pika_balancer.store.redis.store import RedisStore
from tests.connection_faults import Cut, Drop, HalfClose, Injection, StreamFault
from tests.depth import sized
from tests.fault_proxy import FaultProxy
from tests.redis_pool import LIMIT, Pool, give_back, quiet, until
from tests.redis_servers import Servers

pytestmark = pytest.mark.no_cover  # by the hundred what other tests run once

ONE, TWO = "1001", "1002"
CAPS: Final = {ONE: 3, TWO: 2}
SCRIPT = b"EVALSHA"
"""In every call of the store's own, and not in what opens a connection or subscribes."""
TTL: Final = 6.0
"""Lease life in seconds: an answer is waited for a third of it, and a busy machine does not count as dead."""
AT_ONCE: Final = 30

FAULTS: Final[tuple[StreamFault, ...]] = (
    Drop(on="requests"),
    Cut(40, on="requests"),
    Drop(),
    Cut(),
    Cut(reset=True),
    HalfClose(5),
)


@attrs.define
class World:
    """A pool, a store on it behind a proxy, and another one past the proxy."""

    pool: Pool
    proxy: FaultProxy
    store: RedisStore
    other: RedisStore
    held: list[Lease] = attrs.Factory(list[Lease])
    orphans: tuple[Orphan, ...] = ()
    struck: Injection | None = None

    async def pool_status(self) -> PoolStatus:
        fleet = await self.other.pool_status()
        assert not fleet.faults
        for account in fleet.snapshot.accounts:
            assert account.in_flight <= CAPS[account.channel]
        return fleet

    async def said(self) -> None:
        """Return once everything has been said that there was to say."""
        await quiet(self.store)

    async def take(self, number: int) -> None:
        self.held += [await self.store.acquire(None, None) for _ in range(number)]

    async def bequeath(self) -> None:
        """Leave two orphans, one with a key."""
        dead = self.pool.open(lease_ttl=TTL)
        await dead.adopt(ONE, "job:dead")
        await dead.acquire(TWO, None)
        await dead.close()


async def nothing(here: World) -> None:
    pass


@attrs.frozen
class Case:
    """One call."""

    make: Callable[[World], Awaitable[Any]]
    counts: dict[str, int] | int
    """How many slots are taken after it: by channel, or altogether."""
    error: str | None = None
    """The error that its caller gets."""
    before: Callable[[World], Awaitable[None]] = nothing
    check: Callable[[PoolStatus], bool] = lambda _: True
    """Whether the server has done it."""
    leaves: bool = False
    """Whether leases are left when all stores are closed: those of the dead."""


async def acquire(here: World) -> None:
    here.held.append(await here.store.acquire(None, None))
    assert here.held[-1].held


async def adopt(here: World) -> None:
    here.held.append(await here.store.adopt(ONE, "job:1"))


async def wait_in_queue(here: World) -> None:
    """Wait for a slot that comes free during the fault."""
    waiting = asyncio.create_task(here.store.acquire(ONE, None))
    await asyncio.sleep(0)
    await give_back(here.held.pop())
    here.held.append(await waiting)


async def cancelled(here: World) -> None:
    waiting = asyncio.create_task(here.store.acquire(None, None))
    await until(lambda: here.struck is not None and here.struck.hits == 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    if not waiting.cancelled():
        await give_back(waiting.result())


async def others_fill(here: World) -> None:
    here.held = [await here.other.acquire(ONE, None) for _ in range(CAPS[ONE])]


async def inherit(here: World) -> None:
    await here.bequeath()
    here.orphans = tuple(await here.store.orphans())


def state(fleet: PoolStatus, channel: str = ONE) -> Any:
    return next(account for account in fleet.snapshot.accounts if account.channel == channel)


async def release_and_settle(here: World) -> None:
    here.store.release(here.held.pop())
    await here.store.settled()


async def list_orphans(here: World) -> None:
    assert len(await here.store.orphans()) in (0, 2)


CALLS: Final[dict[str, Case]] = {
    "acquire": Case(acquire, 1),
    "acquire in the queue": Case(wait_in_queue, {ONE: 3}, before=others_fill),
    "acquire cancelled": Case(cancelled, 0),
    "release": Case(lambda here: give_back(here.held.pop()), 4, before=lambda here: here.take(5)),
    "adopt": Case(
        adopt,
        {ONE: 1},
        check=lambda fleet: [holder.jobid for holder in fleet.holders] == ["job:1"],
    ),
    "orphans": Case(list_orphans, {ONE: 1, TWO: 1}, before=World.bequeath, leaves=True),
    "give_up": Case(lambda here: here.store.give_up(here.orphans), 0, before=inherit),
    "update": Case(
        lambda here: here.store.update([Account(ONE, 1), Account(TWO, 1)]),
        0,
        check=lambda fleet: fleet.snapshot.capacity == 2,
    ),
    "pause": Case(lambda here: here.store.pause(ONE), 0, check=lambda fleet: state(fleet).paused),
    "cool_down": Case(
        lambda here: here.store.cool_down(ONE, asyncio.get_running_loop().time() + 100),
        0,
        check=lambda fleet: state(fleet).cooldown_until is not None,
    ),
    "resume": Case(
        lambda here: here.store.resume(ONE),
        0,
        before=lambda here: here.other.pause(ONE),
        check=lambda fleet: not state(fleet).paused,
    ),
    "pool_status": Case(
        lambda here: here.store.pool_status(), 2, "StoreUnavailable", lambda here: here.take(2)
    ),
    "repair": Case(lambda here: here.store.repair(), 2, "StoreUnavailable", lambda here: here.take(2)),
    "settled": Case(release_and_settle, 1, "StoreUnavailable", before=lambda here: here.take(2)),
    "close": Case(lambda here: here.store.close(), 2, before=lambda here: here.take(2), leaves=True),
}


GRID: Final = list(itertools.product(CALLS, FAULTS))
CELLS: Final = sized([cell for at, cell in enumerate(GRID) if (at + at // len(FAULTS)) % 3 == 0], GRID)
"""In each run a third of the grid: two faults for each call, and each fault for a third of the calls."""


async def cell(servers: Servers, name: str, fault: StreamFault) -> None:
    case, pool = CALLS[name], Pool(servers["valkey"])
    async with FaultProxy("127.0.0.1", pool.server.port) as proxy:
        here = World(pool, proxy, pool.open(f"redis://127.0.0.1:{proxy.port}", lease_ttl=TTL), pool.open())
        await here.store.update([Account(channel, cap) for channel, cap in CAPS.items()])
        await here.said()
        await case.before(here)
        await here.said()
        here.struck = proxy.inject(fault, matching=SCRIPT if fault.on == "requests" else b"", times=1)
        raised: str | None = None
        try:
            await asyncio.wait_for(case.make(here), LIMIT)
        except PikaError as error:
            raised = type(error).__name__
        assert here.struck.hits == 1, "the fault befell nothing"
        assert raised == case.error
        if name != "close":
            await here.said()
        proxy.heal()
        fleet = await here.pool_status()
        counted = Counter(holder.channel for holder in fleet.holders)
        assert (counted.total() if isinstance(case.counts, int) else counted) == case.counts
        assert case.check(fleet), "the call has no effect"
        await give_back(*here.held)
        await pool.end(in_use=case.leaves)


def test_every_call_that_asks_the_server_is_in_the_matrix() -> None:
    asks = {name for name, thing in vars(RedisStore).items() if inspect.iscoroutinefunction(thing)}
    assert {name for name in asks if name[0] != "_"} | {"release"} == {name.split()[0] for name in CALLS}


@pytest.mark.deep
async def test_each_call_comes_to_the_same_under_each_fault(servers: Servers) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, fault: StreamFault) -> None:
        async with limit:
            try:
                await cell(servers, name, fault)
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(f"{name}, {fault}: {error}") from error

    await asyncio.gather(*(one(name, fault) for name, fault in CELLS))
