"""One process of a fleet, controlled by JSON on its command line; prints its results.

`jobs` runs jobs on a server until SIGTERM; `turns` takes and gives back slots in a loop and notes when.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from pika_balancer import Balancer, Dispatcher, PikaClient
from pika_balancer.clock import SystemClock, Timer
from pika_balancer.errors import PikaError
from pika_balancer.models import Account
from pika_balancer.store.redis.store import RedisStore


class WrongClock:
    """The machine's clock, so many seconds off."""

    def __init__(self, offset: float) -> None:
        self._system = SystemClock()
        self._offset = offset

    def now(self) -> float:
        return self._system.now() + self._offset

    async def sleep(self, seconds: float) -> None:
        await self._system.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return self._system.call_later(seconds, callback)


async def jobs(store: RedisStore, clock: WrongClock, what: dict[str, Any], stop: asyncio.Event) -> int:
    """Run jobs, so many at once, until stopped; return how many were done."""
    done = 0
    async with (
        PikaClient("user:1-fleet", base_url=what["base_url"], clock=clock) as client,
        await Balancer.from_client(client, store=store, clock=clock) as balancer,
        Dispatcher(client, balancer, poll_every=0.3, reconcile=False, clock=clock) as dispatcher,
    ):

        async def work() -> None:
            nonlocal done
            while not stop.is_set():
                await dispatcher.run("create", prompt="a job of a fleet")
                done += 1

        workers = [asyncio.create_task(work()) for _ in range(what["workers"])]
        stopping = asyncio.create_task(stop.wait())
        ended, _ = await asyncio.wait([*workers, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in ended - {stopping}:
            task.result()  # nothing but the signal is to end it
        await dispatcher.drain(60)
        for result in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, PikaError):
                raise result
    return done


async def turns(store: RedisStore, what: dict[str, Any], stop: asyncio.Event) -> list[list[list[float]]]:
    """Take a slot, hold it, give it back, over and over, and say once every waiter has had its turns.

    Returns per waiter and turn when it asked, got, gave, and knew that the server knew.
    """
    await store.update([Account(*account) for account in what["accounts"]])
    notes: list[list[list[float]]] = [[] for _ in range(what["workers"])]

    async def work(mine: list[list[float]]) -> None:
        while not stop.is_set():
            asked = time.monotonic()
            lease = await store.acquire(None, None)
            got = time.monotonic()
            await asyncio.sleep(what["hold"])
            gave = time.monotonic()
            owed = store.release(lease)
            if owed is not None:
                await owed
            mine.append([asked, got, gave, time.monotonic()])
            if len(mine) == what["turns"] and all(len(others) >= what["turns"] for others in notes):
                print("enough", flush=True)

    await asyncio.gather(*map(work, notes))
    return notes


async def main(what: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    clock = WrongClock(what["clock_offset"])
    store = RedisStore(
        what["store"], what["pool"], lease_ttl=what["lease_ttl"], first_start=True, clock=clock
    )
    print("ready", flush=True)
    try:
        if what["task"] == "jobs":
            result: object = await jobs(store, clock, what, stop)
        else:
            result = await turns(store, what, stop)
    finally:
        await store.close()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
