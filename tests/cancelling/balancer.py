"""`Balancer` over either store: no slot is lost or doubled, no waiter is left, and it still works."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from pika_balancer import Account, Balancer, Closed, NoCapacity
from pika_balancer.store import MemoryStore, Store
from pika_balancer.testing import settle
from tests.cancelling.cancel_point import CancelledRun, about, eventually
from tests.redis_pool import Pool

ACCOUNTS = [Account("0", max_jobs=1), Account("1", max_jobs=1)]


async def all_obtainable(balancer: Balancer, capacity: int) -> None:
    """Assert that there is no waiter and that every slot can be acquired."""
    await settle()
    told = balancer.statistics()
    assert (told.holders, told.waiters) == ((), ())
    # A shared store may not know of the last release yet.
    patience = 60.0 if balancer.store.shared else 0.0
    if not patience:
        assert told.snapshot.in_flight == 0
    leases = [await balancer.acquire(timeout=patience) for _ in range(capacity)]
    with pytest.raises(NoCapacity):
        await balancer.acquire(timeout=0)
    for lease in leases:
        await balancer.release(lease)


class Source:
    """Returns the account map after one iteration of the loop."""

    async def accounts(self) -> dict[str, Account]:
        await asyncio.sleep(0)
        return {account.channel: account for account in ACCOUNTS}


@asynccontextmanager
async def in_memory(_turn: CancelledRun) -> AsyncGenerator[Store]:
    """Open a store in memory."""
    yield MemoryStore(rng=random.Random(1))


@asynccontextmanager
async def on_server(run: CancelledRun) -> AsyncGenerator[Store]:
    """Open a store on a server; no key of it may be left there at the end."""
    pool = Pool(run.server)
    yield pool.open()
    await pool.end()


Open = Callable[[CancelledRun], AbstractAsyncContextManager[Store]]
Steps = Callable[[CancelledRun, Balancer], Awaitable[None]]


def on_each_store(*names: str) -> Callable[[Steps], Steps]:
    """Register a scenario twice: with a new balancer over each store."""

    def register(steps: Steps) -> Steps:
        def on(opened: Open) -> None:
            async def scenario(run: CancelledRun) -> None:
                async with opened(run) as store:
                    balancer = Balancer(
                        ACCOUNTS, store=store, source=Source(), refresh_every=60, observer=lambda _: None
                    )
                    await steps(run, balancer)
                    await balancer.close()

            scenario.__name__ = f"{steps.__name__}_{opened.__name__}"
            about(*names, again=opened is on_server)(scenario)

        on(in_memory)
        on(on_server)
        return steps

    return register


@on_each_store("Balancer.acquire")
async def acquire(run: CancelledRun, balancer: Balancer) -> None:
    if await run.through(balancer.acquire()):
        await balancer.release(run.result)
    await all_obtainable(balancer, 2)


@on_each_store("Balancer.acquire")
async def acquire_after_waiting(run: CancelledRun, balancer: Balancer) -> None:
    held = [await balancer.acquire() for _ in ACCOUNTS]
    run.begin(balancer.acquire(timeout=30))
    await eventually(lambda: run.is_over or bool(balancer.statistics().waiters))
    behind = asyncio.create_task(balancer.acquire(timeout=30))
    await settle(3)
    for lease in held:
        await balancer.release(lease)
    if await run.end():
        await balancer.release(run.result)
    await balancer.release(await behind)
    await all_obtainable(balancer, 2)


@on_each_store("Balancer.release")
async def release(run: CancelledRun, balancer: Balancer) -> None:
    lease = await balancer.acquire()
    await run.through(balancer.release(lease))
    assert lease.held == (run.point == 0)
    await balancer.release(lease)
    await all_obtainable(balancer, 2)


@on_each_store("Balancer.adopt")
async def adopt(run: CancelledRun, balancer: Balancer) -> None:
    if await run.through(balancer.adopt("0", "job:9")):
        await balancer.release(run.result)
    await all_obtainable(balancer, 2)
    lease = await balancer.adopt("0", "job:9")
    await balancer.release(lease)


@on_each_store("Balancer.pause")
async def pause(run: CancelledRun, balancer: Balancer) -> None:
    await run.through(balancer.pause("0"))
    await balancer.resume("0")
    await all_obtainable(balancer, 2)


@on_each_store("Balancer.cool_down")
async def cool_down(run: CancelledRun, balancer: Balancer) -> None:
    await run.through(balancer.cool_down("0", 3600))
    await balancer.resume("0")
    await all_obtainable(balancer, 2)


@on_each_store("Balancer.resume")
async def resume(run: CancelledRun, balancer: Balancer) -> None:
    await balancer.pause("0")
    await run.through(balancer.resume("0"))
    await balancer.resume("0")
    await all_obtainable(balancer, 2)


@on_each_store("Balancer.update")
async def update(run: CancelledRun, balancer: Balancer) -> None:
    await run.through(balancer.update(ACCOUNTS))
    await all_obtainable(balancer, 2)


@on_each_store("Balancer.refresh")
async def refresh(run: CancelledRun, balancer: Balancer) -> None:
    await run.through(balancer.refresh())
    await all_obtainable(balancer, 2)
    await balancer.refresh()


@on_each_store("Balancer.drain")
async def drain(run: CancelledRun, balancer: Balancer) -> None:
    lease = await balancer.acquire()
    run.begin(balancer.drain())
    await settle(5)
    assert not run.result
    await balancer.release(lease)
    if await run.end():
        assert run.result is True
    if run.point:
        with pytest.raises(Closed):
            await balancer.acquire()
    assert await balancer.drain(timeout=60)


@on_each_store("Balancer.close")
async def close(run: CancelledRun, balancer: Balancer) -> None:
    lease, _other = await balancer.acquire(), await balancer.acquire()
    waiting = asyncio.create_task(balancer.acquire())
    await eventually(lambda: bool(balancer.statistics().waiters))
    balancer.release_nowait(lease)
    balancer.release_nowait(_other)
    await run.through(balancer.close())
    if run.point:
        await run.nothing_runs()
    await balancer.close()
    outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
    if not isinstance(outcome, Closed):
        await balancer.release(outcome)  # type: ignore[arg-type]  # a lease, or the test fails here


@on_each_store("Balancer.__aenter__", "Balancer.__aexit__")
async def context(run: CancelledRun, balancer: Balancer) -> None:
    async def use() -> None:
        async with balancer:
            balancer.release_nowait(await balancer.acquire())

    await run.through(use())
    await run.nothing_runs()


@on_each_store("Balancer.from_client")
async def from_client(run: CancelledRun, balancer: Balancer) -> None:
    if await run.through(Balancer.from_client(Source(), store=balancer.store, refresh_every=60)):
        await run.result.close()
    # There is no balancer to close.
    await run.nothing_runs()


@on_each_store("LeaseContext.__aenter__", "LeaseContext.__aexit__")
async def lease_context(run: CancelledRun, balancer: Balancer) -> None:
    async def use() -> None:
        async with balancer.lease(timeout=30):
            await asyncio.sleep(0)

    held = [await balancer.acquire() for _ in ACCOUNTS]
    run.begin(use())
    await eventually(lambda: run.is_over or bool(balancer.statistics().waiters))
    for lease in held:
        await balancer.release(lease)
    await run.end()
    await all_obtainable(balancer, 2)
