"""The stores by themselves, as code built on them uses them."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from pika_balancer import Lease, NoCapacity, Secret
from pika_balancer.clock import SystemClock
from pika_balancer.store import MemoryStore, Store
from pika_balancer.store.redis.connection import Connection
from pika_balancer.store.redis.endpoint import Endpoint
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import settle
from tests.cancelling.balancer import ACCOUNTS, in_memory, on_server
from tests.cancelling.cancel_point import CancelledRun, about

Steps = Callable[[CancelledRun, Store], Awaitable[None]]
SOON = 60.0
now = SystemClock().now


def on_each_store(name: str) -> Callable[[Steps], Steps]:
    """Register a scenario for the method of that name of both stores."""

    def register(steps: Steps) -> Steps:
        async def memory(run: CancelledRun) -> None:
            async with in_memory(run) as store:
                await steps(run, store)

        async def shared(run: CancelledRun) -> None:
            async with on_server(run) as store:
                await steps(run, store)

        memory.__name__, shared.__name__ = f"memory_{name}", f"redis_{name}"
        if hasattr(MemoryStore, name) and name != "release":
            about(f"MemoryStore.{name}")(memory)
        about(f"RedisStore.{name}", again=True)(shared)
        return steps

    return register


async def give_back(store: Store, lease: Lease) -> None:
    if (owed := store.release(lease)) is not None:
        await owed


async def both_free(store: Store) -> None:
    """Assert that the store still works, and that exactly its two slots can be had."""
    await settle()
    await store.update(ACCOUNTS)
    leases = [await store.acquire(None, now() + SOON) for _ in ACCOUNTS]
    with suppress(NoCapacity):
        raise AssertionError(await store.acquire(None, now()))
    for lease in leases:
        await give_back(store, lease)


@on_each_store("acquire")
async def acquire(run: CancelledRun, store: Store) -> None:
    await store.update(ACCOUNTS)
    held = [await store.acquire(None, None) for _ in ACCOUNTS]
    run.begin(store.acquire(None, now() + 30))
    await settle(3)
    for lease in held:
        await give_back(store, lease)
    if await run.end():
        await give_back(store, run.result)
    await both_free(store)


@on_each_store("release")
async def release(run: CancelledRun, store: Store) -> None:
    await store.update(ACCOUNTS)
    lease = await store.acquire(None, None)
    owed = store.release(lease)
    assert owed is not None
    await run.through(owed)
    assert not lease.held
    await both_free(store)


@on_each_store("adopt")
async def adopt(run: CancelledRun, store: Store) -> None:
    await store.update(ACCOUNTS)
    if await run.through(store.adopt("0", "job:9")):
        await give_back(store, run.result)
    await both_free(store)
    await give_back(store, await store.adopt("0", "job:9"))


@on_each_store("update")
async def update(run: CancelledRun, store: Store) -> None:
    await run.through(store.update(ACCOUNTS))
    await both_free(store)


@on_each_store("pause")
async def pause(run: CancelledRun, store: Store) -> None:
    await store.update(ACCOUNTS)
    await run.through(store.pause("0"))
    await store.resume("0")
    await both_free(store)


@on_each_store("cool_down")
async def cool_down(run: CancelledRun, store: Store) -> None:
    await store.update(ACCOUNTS)
    await run.through(store.cool_down("0", now() + 3600))
    await store.resume("0")
    await both_free(store)


@on_each_store("resume")
async def resume(run: CancelledRun, store: Store) -> None:
    await store.update(ACCOUNTS)
    await store.pause("0")
    await run.through(store.resume("0"))
    await store.resume("0")
    await both_free(store)


@on_each_store("orphans")
async def orphans(run: CancelledRun, store: Store) -> None:
    await run.through(store.orphans())
    assert tuple(await store.orphans()) == ()
    await both_free(store)


@on_each_store("give_up")
async def give_up(run: CancelledRun, store: Store) -> None:
    await run.through(store.give_up(()))
    await both_free(store)


@on_each_store("close")
async def close(run: CancelledRun, store: Store) -> None:
    await store.update(ACCOUNTS)
    lease = await store.acquire(None, None)
    # It is on its way when the store begins to close, and arrives.
    store.release(lease)
    await run.through(store.close())
    if run.point:
        await run.nothing_runs()
    await store.close()
    await both_free(store)


@about("RedisStore.pool_status")
async def pool_status(run: CancelledRun) -> None:
    async with on_server(run) as store:
        assert isinstance(store, RedisStore)
        await run.through(store.pool_status())
        assert (await store.pool_status()).holders == ()
        await both_free(store)


@about("RedisStore.settled")
async def settled(run: CancelledRun) -> None:
    async with on_server(run) as store:
        assert isinstance(store, RedisStore)
        await store.update(ACCOUNTS)
        store.release(await store.acquire(None, None))
        await run.through(store.settled())
        await both_free(store)


@about("RedisStore.repair")
async def repair(run: CancelledRun) -> None:
    async with on_server(run) as store:
        assert isinstance(store, RedisStore)
        await run.through(store.repair())
        assert (await store.repair()).mended == ()
        await both_free(store)


async def connecting(run: CancelledRun) -> None:
    """A connection of a program that ends while it is made."""
    endpoint = Endpoint(Secret(run.server.url), "empty", timeout=SOON)
    connection = Connection(endpoint)
    await run.through(connection.connect(refresh=True))
    await connection.disconnect()
    await connection.connect(refresh=True)
    await connection.disconnect()
    await endpoint.close()


async def listening(run: CancelledRun) -> None:
    """The same for the connection on which messages arrive."""
    endpoint = Endpoint(Secret(run.server.url), "empty", timeout=SOON)
    connection = Connection(endpoint)

    async def listen() -> None:
        await connection.connect(refresh=False)
        connection.send("SUBSCRIBE", "empty")
        await connection.receive()

    await run.through(listen())
    await connection.disconnect()
    await endpoint.close()


INSIDE = (connecting, listening)
"""Not public, and cancelled all the same: by `asyncio.run`, when a program ends without closing its store."""
