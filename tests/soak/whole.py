"""The whole of a soak: the service, the store, the balancers, the workers, and everything that is counted."""

import asyncio
import contextlib
import functools
import gc
import random
import time
import weakref
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, Literal

from pika_balancer import Account, Balancer, Dispatcher, Lease, PikaClient
from pika_balancer.dispatch.webhook import Webhook
from pika_balancer.events import Ended, Event, Paused
from pika_balancer.store import MemoryStore, Store
from pika_balancer.store.redis.store import RedisStore
from tests.redis_servers import Server, make
from tests.soak.account_churn import REFRESH_EVERY, AccountChurn
from tests.soak.audit import check_empty, check_slots
from tests.soak.ledger import Ledger
from tests.soak.server import CAPS, ScaledClock, ServerProcess, server_process
from tests.soak.weight import WEIGHED, Weight, open_files, take_census, too_heavy, weigh
from tests.soak.worker import Worker

Mode = Literal["shared", "one", "apart", "redis"]
"""What the workers have in common: a store with a balancer each, one balancer, nothing, a shared server."""

WORKERS: Final = 3
NEWS_EVERY: Final = 1800.0
"""How often the server is asked what it has taken, in service time: longer than any answer of it takes."""
LIFE: Final = (200.0, 3000.0)
"""How long a dispatcher lives unless told otherwise, in service time."""
LEASE_TTL: Final = 10.0
"""For the shared store, in the machine's time: what it keeps for so long is in balance soon."""
_STUCK_AFTER: Final = 120.0


class SharedStore(RedisStore):
    """A pool in the machine's time, since its server is no part of the service; called in service time."""

    def __init__(self, server: Server, scaled: ScaledClock, rng: random.Random) -> None:
        super().__init__(server.url, "soak", first_start=True, lease_ttl=LEASE_TTL, rng=rng)
        self._scaled = scaled

    async def acquire(self, channel: str | None, deadline: float | None) -> Lease:
        """Wait for a slot."""
        return await super().acquire(channel, None if deadline is None else self._here(deadline))

    async def cool_down(self, channel: str, until: float) -> None:
        """Give the channel no new job before `until`."""
        await super().cool_down(channel, self._here(until))

    def _here(self, moment: float) -> float:
        return self._clock.now() + (moment - self._scaled.now()) / self._scaled.speed


class Soak:
    """The whole, with everything that is counted.

    Args:
        mode: What the workers have in common.
        jobs: How many jobs the service has to have taken before no new one is begun.
        seed: Draws what happens, as far as that is not up to the machine's speed.
        speed: Service time over the machine's.
        minutes: If given, how long new jobs are begun, whatever their number.
        life: The shortest and the longest time for which a dispatcher lives, in service time.
    """

    def __init__(
        self,
        *,
        mode: Mode,
        jobs: int,
        seed: int,
        speed: float,
        minutes: float | None,
        life: tuple[float, float],
    ) -> None:
        self.mode: Mode = mode
        self.jobs = jobs
        self.seed = seed
        self.speed = speed
        self.minutes = minutes
        self.life = life
        self.began = time.monotonic()
        self.clock = ScaledClock(speed)
        self.rng = random.Random(seed)
        self.ledger = Ledger(self.complain, self._excuses)
        self.client: PikaClient
        self.patient: PikaClient
        self.service: ServerProcess
        self.account_churn: AccountChurn
        self.shared: Server | None = None
        self.workers: list[Worker] = []
        self.balancers: list[Balancer] = []
        self.dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()
        self.left: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self.finished: deque[str] = deque(maxlen=200)
        self.weights: list[Weight] = []
        self.statistics: dict[str, Any] = {}
        self.resumed = 0
        self.seconds = 0.0
        self._census = take_census()
        self._persons: set[asyncio.Task[None]] = set()

    @property
    def lives(self) -> int:
        """How many dispatchers there were, one after the other."""
        return sum(worker.lives.total() for worker in self.workers)

    @property
    def share(self) -> float:
        """Of the way, what lies behind: 1 when no new job should be begun."""
        if self.minutes is not None:
            return (time.monotonic() - self.began) / (60 * self.minutes)
        return self.ledger.accepted / self.jobs

    @property
    def enough(self) -> bool:
        """Whether no new job should be begun."""
        return self.share >= 1

    def complain(self, what: str) -> None:
        """Record a violation."""
        self.complaints.append(what)

    def observe(self, place: int, event: Event) -> None:
        """Record an event of the balancer in that place, and resume paused accounts later."""
        self.ledger.observe(event)
        match event:
            case Ended(status="completed", jobid=str(jobid)):
                self.finished.append(jobid)
            case Paused(channel=str(channel)):
                task = asyncio.create_task(self._answer(self.balancers[place], channel))
                self._persons.add(task)
                task.add_done_callback(self._persons.discard)
            case _:
                pass

    async def run(self) -> None:
        """Run it, and note what should not have happened."""
        async with server_process(speed=self.speed, seed=self.seed) as self.service:
            # A first request, so that what is made once is there before anything is counted.
            async with PikaClient("user:1-soak", base_url=self.service.url) as client:
                await client.jobs()
            files, tasks = open_files(), len(asyncio.all_tasks())
            async with contextlib.AsyncExitStack() as stack:
                await self._set_up(stack)
                self.began = time.monotonic()
                await self._work()
                self.seconds = time.monotonic() - self.began
                await self._clear()
                await self._hear()
                for balancer in self.balancers:
                    if await _in_flight(balancer) or balancer.statistics().waiters:
                        self.complain(f"at the end {balancer!r}")
            await asyncio.sleep(0.1)  # closed sockets go in the next turns of the loop
            if len(asyncio.all_tasks()) != tasks:
                self.complain(f"tasks are left: {asyncio.all_tasks()}")
            if open_files() > files:
                self.complain(f"files are left: {open_files()} instead of {files}")
        gc.collect()
        for alive in self.dispatchers:
            self.complain(f"still in memory: {alive!r}")
        if self.left:
            self.complain(f"records are left after a drain without end: {self.left}")
        self.ledger.settle(at_last=True)
        for complaint in (*check_slots(self), *too_heavy(self.weights)):
            self.complain(complaint)

    async def _set_up(self, stack: contextlib.AsyncExitStack) -> None:
        self.client = await stack.enter_async_context(
            # Its time runs with the service's, but long enough for a machine that has other things to do.
            PikaClient("user:1-soak", base_url=self.service.url, timeout=400, clock=self.clock)
        )
        # Other callers wait in the machine's time.
        self.patient = await stack.enter_async_context(PikaClient("user:1-soak", base_url=self.service.url))
        accounts = [Account(channel, cap) for channel, cap in CAPS.items()]
        chances = [random.Random(self.seed + place) for place in range(WORKERS)]
        stores: list[Store]
        if self.mode == "redis":
            self.shared = make("valkey").start()
            stack.callback(self.shared.remove)
            stores = [SharedStore(self.shared, self.clock, rng) for rng in chances]
            await stores[0].update(accounts)
        else:
            count = WORKERS if self.mode == "apart" else 1
            stores = [MemoryStore(accounts, rng=rng, clock=self.clock) for rng in chances[:count]]
        for place in range(1 if self.mode == "one" else WORKERS):
            balancer = Balancer(
                store=stores[place % len(stores)],
                source=self.client,
                refresh_every=REFRESH_EVERY,
                clock=self.clock,
                observer=functools.partial(self.observe, place),
            )
            self.balancers.append(await stack.enter_async_context(balancer))
        self.account_churn = AccountChurn(
            self.patient, self.balancers, clock=self.clock, rng=self.rng, complain=self.complain
        )
        for place in range(WORKERS):
            webhook = None
            if place == 0:
                # Its deadline for reading is no time of the service.
                webhook = Webhook()
                await stack.enter_async_context(webhook.run())
            balancer = self.balancers[place % len(self.balancers)]
            self.workers.append(Worker(f"w{place}", self, balancer, webhook))

    async def _work(self) -> None:
        """Let the workers live, and end with them, or with whatever else ends."""
        parts: tuple[Coroutine[Any, Any, None], ...]
        parts = (self._live(), self._watch(), self._listen(), self.account_churn.work())
        tasks = [asyncio.create_task(part) for part in parts]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _live(self) -> None:
        await asyncio.gather(*(worker.work() for worker in self.workers))

    async def _watch(self) -> None:
        """Weigh the process now and then; raise if nothing happens any more."""
        seen, since = -1, time.monotonic()
        while True:
            await asyncio.sleep(0.1)
            total = self.ledger.events.total()
            if total != seen:
                seen, since = total, time.monotonic()
            if time.monotonic() - since > _STUCK_AFTER:
                raise TimeoutError(f"{self} is stuck: {self._state()}")
            if len(self.weights) / WEIGHED <= self.share < 1:
                self._weigh()

    def _weigh(self) -> None:
        keys = contents = 0
        if self.shared is not None:
            keys, contents = self.shared.contents()
        seconds = time.monotonic() - self.began
        self.weights.append(
            weigh(
                self.share,
                seconds,
                self.ledger.begun,
                server=self.service.process,
                keys=(keys, contents),
                before=self._census,
            )
        )

    async def _listen(self) -> None:
        """Hear now and then what the server has taken, and forget what is over."""
        while True:
            await self.clock.sleep(NEWS_EVERY)
            await self._hear()

    async def _hear(self) -> None:
        report = await self.service.report()
        self.statistics = report["statistics"]
        self.ledger.learn(report["jobs"])
        self.ledger.settle()

    async def _answer(self, balancer: Balancer, channel: str) -> None:
        """Resume a paused account a little later, as a person would."""
        await self.clock.sleep(self.rng.uniform(20, 120))
        await balancer.resume(channel)
        self.resumed += 1

    async def _clear(self) -> None:
        """Wait for persons; count once more what executes, until nothing does."""
        if self._persons:
            await asyncio.wait(self._persons)
        for balancer in self.balancers:
            async with Dispatcher(self.patient, balancer, clock=self.clock) as last:
                for _ in range(100):
                    if not await _in_flight(balancer):
                        break
                    await self.clock.sleep(15)
                    await last.reconcile()

    def check_empty(self, dispatcher: Dispatcher) -> None:
        """Complain of what a dispatcher that is over still has in it."""
        for complaint in check_empty(dispatcher):
            self.complain(complaint)

    def _excuses(self, channel: str, since: float) -> bool:
        return self.account_churn.excuses(channel, since)

    def _state(self) -> str:
        """Return the state of everything, for the error of a soak that is stuck."""
        lines = [repr(balancer.statistics()) for balancer in self.balancers]
        lines += [f"{dispatcher!r} {dispatcher.handles}" for dispatcher in self.dispatchers]
        lines += [repr(task) for task in asyncio.all_tasks()]
        return "\n".join(lines)

    def __str__(self) -> str:
        length = f"--jobs {self.jobs}" if self.minutes is None else f"--minutes {self.minutes:g}"
        return f"soak --mode {self.mode} {length} --seed {self.seed} --speed {self.speed:g}"


async def _in_flight(balancer: Balancer) -> int:
    """Return how many slots are taken; a shared store is asked, and has to be whole."""
    if not isinstance(balancer.store, RedisStore):
        return balancer.snapshot().in_flight
    fleet = await balancer.store.pool_status()
    return fleet.snapshot.in_flight + len(fleet.faults)


async def soak(
    *,
    mode: Mode,
    jobs: int,
    seed: int,
    speed: float = 800.0,
    minutes: float | None = None,
    life: tuple[float, float] = LIFE,
) -> Soak:
    """Run a soak and return it, with its complaints; the arguments are those of `Soak`."""
    whole = Soak(mode=mode, jobs=jobs, seed=seed, speed=speed, minutes=minutes, life=life)
    await whole.run()
    return whole
