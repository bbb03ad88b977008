"""Pools of the shared store, made for one test each, and looked at when it is over."""

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any

from pika_balancer.models import Lease
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import ManualClock, settle, wait_until
from tests.redis_servers import Server

_serial = itertools.count()


class Pool:
    """One pool on a server, with all the stores that a test opens on it.

    Args:
        server: The server.
        clock: Moved by hand: the server's clock follows it. None for real time.
    """

    def __init__(self, server: Server, clock: ManualClock | None = None) -> None:
        self.server = server
        self.name = f"{os.getpid()}-{next(_serial)}"
        self.clock = clock
        self.stores: list[RedisStore] = []

    def open(self, source: object = None, **options: Any) -> RedisStore:
        """Return a store on the pool, which is closed at the end; another process, as it were."""
        clock = self.clock
        if clock is not None:
            options = {"clock": clock, "server_time": lambda: round(clock.now() * 1000)} | options
        options = {"first_start": True} | options
        store = RedisStore(self.server.url if source is None else source, self.name, **options)
        self.stores.append(store)
        return store

    def keys(self) -> dict[str, int]:
        """Return the pool's keys, without their common prefix, with the milliseconds they have to live."""
        with self.server.client() as client:
            return self._keys(client)

    def delete(self) -> dict[str, int]:
        """Remove the pool; return what there was, as `keys` does."""
        with self.server.client() as client:
            found = self._keys(client)
            if found:
                client.delete(*(self._prefix + key for key in found))
            return found

    @property
    def _prefix(self) -> str:
        return f"pika:{{{self.name}}}:"

    def _keys(self, client: Any) -> dict[str, int]:
        found = client.scan_iter(f"{self._prefix}*", count=1000)
        return {key.removeprefix(self._prefix): client.pttl(key) for key in found}

    async def end(self, *, in_use: bool = False) -> None:
        """Close the stores, check that they left nothing behind, and remove the pool.

        Args:
            in_use: Whether leases may be left, as those of a process that has ended are.
        """
        for store in self.stores:
            await store.close()
        left = self.delete()
        eternal = {key for key, ttl in left.items() if ttl < 0}
        assert not eternal, f"no time to live: {eternal}"
        superfluous = {"line", "waits"} if in_use else {"line", "waits", "slots", "held", "procs"}
        assert not left.keys() & superfluous, f"left behind: {left.keys() & superfluous}"


async def quiet(*stores: object) -> None:
    """Return once everything that was under way between the stores and their server has arrived."""
    shared = [
        store for store in stores if isinstance(store, RedisStore) and store._pipeline._task is not None
    ]
    await settle(5)
    # What one hears may make another speak.
    for _ in range(2):
        for store in shared:
            await wait_until(lambda store=store: store._pipeline.is_idle)  # type: ignore[misc]  # a bound loop variable
            await _all_heard(store)
            await settle(3)


async def _all_heard(store: RedisStore) -> None:
    """Return once every message has arrived that the server has sent to the store so far."""
    subscriber, connection = store._session._subscriber, store._connection
    if not subscriber.is_listening:
        return
    mark = os.urandom(8).hex()
    heard = asyncio.Event()
    usual: Callable[[str], object] = subscriber._heard

    def hear(text: str) -> None:
        if text == mark:
            heard.set()
        else:
            usual(text)

    subscriber._heard = hear
    try:
        channel = f"{connection._prefix}to:{store._session._process}"
        command = "SPUBLISH" if connection.is_cluster else "PUBLISH"
        try:
            await connection._client.execute_command(command, channel, mark)
        except connection._away:
            # A connection of before the server was started anew.
            await connection._client.execute_command(command, channel, mark)
        await asyncio.wait_for(heard.wait(), 10)
    finally:
        subscriber._heard = usual


async def advance(clock: ManualClock, seconds: float, *stores: object) -> None:
    """Move the clock on from alarm to alarm, and let come about what each of them brings."""
    target = clock.now() + seconds
    await quiet(*stores)
    while True:
        due = min((at for at, _, alarm in clock._alarms if alarm.callback is not None), default=target)
        await clock.advance(max(0.0, min(due, target) - clock.now()))
        await quiet(*stores)
        if due >= target:
            # Whatever was set meanwhile for this very moment.
            await clock.advance(0)
            await quiet(*stores)
            return


async def give_back(*leases: Lease) -> None:
    """Release leases of shared stores, and wait until the server knows."""
    for lease in leases:
        store = lease.grantor
        assert isinstance(store, RedisStore)
        owed = store.release(lease)
        if owed is not None:
            await owed
