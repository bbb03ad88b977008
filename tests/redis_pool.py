"""Pools of the shared store for tests, checked for leaks when a test ends."""

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from pika_balancer.clock import Clock, SystemClock, Timer
from pika_balancer.errors import StoreUnavailable
from pika_balancer.models import Lease
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import ManualClock, settle, wait_until
from tests.redis_servers import Cluster, Server

LIMIT = 60.0
"""Seconds after which a test that waits for something gives up; only a hang takes that long."""

_serial = itertools.count()


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds."""
    await wait_until(condition, timeout=LIMIT)


class _Alarm:
    """A scheduled call of an `OwnClock`."""

    timer: Timer

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None
        self.timer.cancel()


class OwnClock:
    """The clock of one process. It follows another clock; while it is stopped, none of its alarms rings."""

    def __init__(self, base: Clock | None = None) -> None:
        self._base = base or SystemClock()
        self._pending: set[_Alarm] = set()
        self._missed: list[_Alarm] = []
        self._runs = True

    def now(self) -> float:
        return self._base.now()

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await self._base.sleep(seconds)
            return
        rung = asyncio.Event()
        alarm = self.call_later(seconds, rung.set)
        try:
            await rung.wait()
        finally:
            alarm.cancel()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> _Alarm:
        alarm = _Alarm(self.now() + seconds, callback)
        alarm.timer = self._base.call_later(seconds, lambda: self._ring(alarm))
        self._pending.add(alarm)
        return alarm

    @property
    def next_due(self) -> float | None:
        """The moment of the first alarm to come; None if there is none."""
        self._pending = {alarm for alarm in self._pending if alarm.callback is not None}
        return min((alarm.due for alarm in self._pending), default=None)

    def stop(self) -> None:
        """Ring no alarm until `go_on`."""
        self._runs = False

    def go_on(self) -> None:
        """Ring every alarm that was missed, and all others in time."""
        self._runs = True
        missed, self._missed = self._missed, []
        for alarm in missed:
            self._ring(alarm)

    def _ring(self, alarm: _Alarm) -> None:
        self._pending.discard(alarm)
        if not self._runs:
            self._missed.append(alarm)
        elif alarm.callback is not None:
            callback, alarm.callback = alarm.callback, None
            callback()


_clocks: "WeakKeyDictionary[RedisStore, OwnClock]" = WeakKeyDictionary()
"""The clocks of the stores that pools have opened."""


class Pool:
    """One pool on a server, with all the stores that a test opens on it: each stands for a process.

    Args:
        server: The server.
        clock: Moved by hand: the server's clock follows it. None for real time.
    """

    def __init__(self, server: Server, clock: ManualClock | None = None) -> None:
        self.server = server
        self.name = f"{os.getpid()}-{next(_serial)}"
        self.clock = clock
        self.stores: list[RedisStore] = []
        self._names: dict[RedisStore, str] = {}

    def open(self, source: object = None, **options: Any) -> RedisStore:
        """Return a store on the pool, which is closed at the end; it stands for another process."""
        clock = self.clock
        if clock is not None:
            options = {"server_time": lambda: round(clock.now() * 1000)} | options
        name = f"store-{next(_serial)}"
        defaults: dict[str, Any] = {"first_start": True, "name": name, "clock": OwnClock(clock)}
        options = defaults | options
        if source is None:
            source = self.server.url
            if not isinstance(self.server, Cluster):
                # The server lists the connections of the store by this name.
                source = f"{source}{'&' if '?' in self.server.url else '?'}client_name={name}"
        store = RedisStore(source, self.name, **options)
        if isinstance(options["clock"], OwnClock):
            _clocks[store] = options["clock"]
        self.stores.append(store)
        self._names[store] = name
        return store

    def silence(self, store: RedisStore) -> None:
        """Stop the heartbeats of the store."""
        _clocks[store].stop()

    def wake(self, store: RedisStore) -> None:
        """Let the store go on: it connects again if needed, and states what it holds."""
        _clocks[store].go_on()

    def disconnect(self, store: RedisStore) -> None:
        """End the store's connections; it connects again when its clock says so."""
        client: Any = self.server.watch
        for connection in client.client_list():
            if connection["name"] == self._names[store]:
                client.client_kill_filter(_id=connection["id"])

    def kill(self, store: RedisStore) -> None:
        """Stop the store and its connections, as if its process had been killed."""
        self.silence(store)
        self.disconnect(store)

    def listeners(self) -> int:
        """Return how many stores receive messages."""
        channel = f"{self._prefix}news"
        if isinstance(self.server, Cluster):
            client: Any = self.server.watch
            node = client.get_redis_connection(client.get_node_from_key(channel))
            return int(node.execute_command("PUBSUB", "SHARDNUMSUB", channel)[1])
        return int(self.server.watch.pubsub_numsub(channel)[0][1])

    def waiters(self) -> int:
        """Return how many requests wait in the queue."""
        return int(self.server.watch.zcard(f"{self._prefix}queue"))

    def keys(self) -> dict[str, int]:
        """Return the pool's keys, without their common prefix, with the milliseconds they have to live."""
        client: Any = self.server.watch
        found = client.scan_iter(f"{self._prefix}*", count=1000)
        return {key.removeprefix(self._prefix): client.pttl(key) for key in found}

    def delete(self) -> dict[str, int]:
        """Remove the pool; return what there was, as `keys` does."""
        found = self.keys()
        if found:
            self.server.watch.delete(*(self._prefix + key for key in found))
        return found

    @property
    def _prefix(self) -> str:
        return f"pika:{{{self.name}}}:"

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
        superfluous = {"queue", "waiters"} if in_use else {"queue", "waiters", "slots", "leases", "processes"}
        assert not left.keys() & superfluous, f"left behind: {left.keys() & superfluous}"


def is_away(store: RedisStore) -> bool:
    """Return whether the store reports that it cannot reach its server."""
    return ", away," in repr(store)


async def quiet(*stores: object) -> None:
    """Return once nothing is under way between the stores and their server."""
    shared = [store for store in stores if isinstance(store, RedisStore)]
    await settle(5)
    # A message to one store may make it send a command.
    for _ in range(2):
        for store in shared:
            await _settled(store)
            await settle(3)


async def _settled(store: RedisStore) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                await store.settled()
            except StoreUnavailable:
                await asyncio.sleep(0.005)
            else:
                return


async def advance(clock: ManualClock, seconds: float, *stores: object) -> None:
    """Move the clock on from alarm to alarm of the stores, and wait for the effects of each."""
    target = clock.now() + seconds
    clocks = [_clocks[store] for store in stores if isinstance(store, RedisStore)]
    await quiet(*stores)
    while True:
        due = min((at for own in clocks if (at := own.next_due) is not None), default=target)
        await clock.advance(max(0.0, min(due, target) - clock.now()))
        await quiet(*stores)
        if due >= target:
            # An alarm may have been set meanwhile for this very moment.
            await clock.advance(0)
            await quiet(*stores)
            return


async def give_back(*leases: Lease) -> None:
    """Release leases of shared stores, and wait until the server has them."""
    for lease in leases:
        store = lease.grantor
        assert isinstance(store, RedisStore)
        owed = store.release(lease)
        if owed is not None:
            await owed
