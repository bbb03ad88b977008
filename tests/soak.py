"""A soak: three dispatchers in one process, a server with every fault switched on, and a ledger of each job.

`python -m tests.soak --jobs 10000 --seed 7 --mode shared` prints what happened and what should not have.

Workers come to an end all the time, by a refused subscription, by a planned drain or by a rude close, and the
next dispatcher takes over their jobs from records. Callers are cancelled at random moments. A person answers
the moderation messages of paused accounts.
"""

import argparse
import asyncio
import contextlib
import functools
import gc
import itertools
import os
import random
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args

import attrs

from pika_balancer import Account, Balancer, Dispatcher, Job, JobHandle, Lease, PikaClient
from pika_balancer.callbacks import Callbacks
from pika_balancer.errors import PikaError, RequestTimeout, SubscriptionRequired
from pika_balancer.events import (
    Ended,
    Event,
    Failed,
    JobEvent,
    LetGo,
    Paused,
    Refused,
    Submitted,
    Submitting,
    Uncertain,
)
from pika_balancer.store import MemoryStore, Store
from pika_balancer.store.redis import RedisStore
from tests.redis_servers import Server, make
from tests.soak_server import CAPS, ScaledClock, ServerProcess, server_process

Mode = Literal["shared", "one", "apart", "redis"]
"""What the workers have in common: a store with a balancer each, one balancer, nothing, a shared server."""

WORKERS: Final = 3
CALLERS: Final = 14
"""How many jobs each worker has on their way or in line: together more than there are slots."""
DOOMED: Final = 0.03
"""The share of callers that are cancelled."""
ENTRIES: Final = 5
"""How often a worker tries to begin while the service does not tell in time what executes."""
MAY_BE_SENT_AGAIN: Final = {"ChannelFull", "RateLimited", "AccountBlocked", "ConnectFailed", "RequestTimeout"}
"""Errors that say for certain that the service does not have the job, and may have it later.

A `RequestTimeout` among them ran out before anything was sent, as it does on a busy machine; one that ran out
later is `Uncertain` instead of `Refused`. Were they confused, the server would see a reference twice.
"""
SETTLED: Final = 0.3
"""The share of the way after which nothing should grow any more."""
KEPT_PER_JOB: Final = 2 * 1024
"""Bytes that the ledger may keep of each job: an entry, its strings and lists, its place in a dict."""
MEMORY_SLACK: Final = 6 * 2**20
"""Bytes by which the allocator may differ; a leak of 1 kB for each of 10,000 jobs would be more."""
OBJECTS_AT_MOST: Final = 400
"""Objects of one kind at any time: a few for each of 42 callers, 27 slots and 3 dispatchers."""
_STUCK_AFTER: Final = 15.0


class SharedStore(RedisStore):
    """A pool in the machine's time, since its server is no part of the service; called in service time."""

    def __init__(self, server: Server, scaled: ScaledClock, rng: random.Random) -> None:
        super().__init__(server.url, "soak", first_start=True, rng=rng)
        self._scaled = scaled

    async def acquire(self, channel: str | None, deadline: float | None) -> Lease:
        """Wait in line for a slot."""
        return await super().acquire(channel, None if deadline is None else self._here(deadline))

    async def rest(self, channel: str, until: float) -> None:
        """Give the channel no new job before `until`."""
        await super().rest(channel, self._here(until))

    def _here(self, moment: float) -> float:
        return self._clock.now() + (moment - self._scaled.now()) / self._scaled.speed


@attrs.frozen
class Weight:
    """How much there was at one moment."""

    share: float
    """Of all jobs, those taken."""
    jobs: int
    """Jobs begun."""
    memory: int
    """Bytes of the process in memory."""
    census: Counter[str]
    """Objects of the kinds that come and go with jobs."""

    def __str__(self) -> str:
        return f"at {self.share:4.0%}: {self.memory / 2**20:.1f} MiB, {dict(self.census)}"


@attrs.define(eq=False)
class Entry:
    """What became of one job, from all that was told of it."""

    reply_ref: str
    verb: str
    jobid: str | None = None
    channel: str | None = None
    submitting: int = 0
    refused: int = 0
    full: int = 0
    uncertain: int = 0
    let_go: int = 0
    ends: list[str] = attrs.Factory(list[str])
    """Statuses and errors of `Ended` and `Failed`: there should be one."""
    told: list[str] = attrs.Factory(list[str])
    """What the caller, and then whoever followed a handle of it, was told: the last one counts."""
    cancelled: bool = False

    @property
    def open(self) -> bool:
        """Whether the service may have it and nobody has told its end."""
        return self.submitting > self.refused and not self.ends


class Ledger:
    """Every job by its reference, kept by events; an observer."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.events: Counter[str] = Counter()
        self.again: Counter[str] = Counter()
        self.accepted = 0

    again: Counter[str]
    """Errors after which a job was to be sent again."""
    accepted: int
    """Jobs that the service is known to have taken."""

    def observe(self, event: Event) -> None:
        """Note an event."""
        self.events[type(event).__name__] += 1
        if not isinstance(event, JobEvent):
            return
        entry = self.entries.get(event.reply_ref)
        if entry is None:
            # Nobody's: whatever it is, it shows as a complaint.
            entry = self.entries[event.reply_ref] = Entry(event.reply_ref, event.verb)
        entry.channel = event.channel
        match event:
            case Submitting():
                entry.submitting += 1
            case Refused():
                entry.refused += 1
                entry.full += event.error == "ChannelFull"
                self.again[event.error] += event.again
            case Submitted():
                self.accepted += entry.jobid is None
                entry.jobid = event.jobid
            case Uncertain():
                entry.uncertain += 1
            case LetGo():
                entry.let_go += 1
            case Ended():
                entry.ends.append(event.status)
            case Failed():
                entry.ends.append(event.error)
            case _:
                pass


class Worker:
    """One dispatcher after the other over one balancer, and those who call it."""

    def __init__(self, name: str, soak: "Soak", balancer: Balancer, callbacks: Callbacks | None) -> None:
        self.name = name
        self.soak = soak
        self.balancer = balancer
        self.callbacks = callbacks
        self.rng = random.Random(f"{soak.seed} {name}")
        self.stopped = asyncio.Event()
        self.lives = Counter[str]()
        self.mine: dict[str, Entry] = {}
        self.followers: set[asyncio.Task[None]] = set()
        self.refs = itertools.count()

    async def work(self) -> None:
        """Live until there are jobs enough, then until all have ended."""
        records: list[dict[str, Any]] = []
        why = ""
        while why != "enough":
            self.stopped.clear()
            dispatcher = await self._entered()
            for handle in await dispatcher.resume(records):
                self._spawn(self._follow(handle))
            callers = [asyncio.create_task(self._call(dispatcher)) for _ in range(CALLERS)]
            why = await self._until(callers)
            self.lives[why] += 1
            records = await self._end(dispatcher, why)
            await asyncio.gather(*callers)
            await asyncio.gather(*self.followers)
            self.mine = {ref: entry for ref, entry in self.mine.items() if entry.open}
        self.soak.left += records

    async def _entered(self) -> Dispatcher:
        """Return a dispatcher that has counted what executes; on a busy machine that may take a few tries."""
        tries = 1
        while True:
            try:
                return await self._dispatcher().__aenter__()
            except RequestTimeout:
                if tries == ENTRIES:
                    raise
                tries += 1

    def _dispatcher(self) -> Dispatcher:
        dispatcher = Dispatcher(
            self.soak.client,
            self.balancer,
            name=self.name,
            callbacks=self.callbacks,
            rng=self.rng,
            clock=self.soak.clock,
        )
        self.soak.dispatchers.append(weakref.ref(dispatcher))
        return dispatcher

    async def _until(self, callers: list[asyncio.Task[None]]) -> str:
        """Return why this life ends."""
        planned = asyncio.create_task(self.soak.clock.sleep(self.rng.uniform(200, 3000)))
        refused = asyncio.create_task(_when(self.stopped))
        enough = asyncio.create_task(_all(callers))
        ways = (planned, refused, enough)
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for task in ways:
            task.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        if enough in done and self.soak.enough:
            return "enough"
        return "refused" if refused in done else self.rng.choice(["planned", "planned", "rude"])

    async def _end(self, dispatcher: Dispatcher, why: str) -> list[dict[str, Any]]:
        """End the dispatcher and return the records of what still runs."""
        if why == "rude":
            await dispatcher.close()
            # As a journal would have them, written by somebody else.
            return [
                {
                    "version": 1,
                    "verb": entry.verb,
                    "reply_ref": entry.reply_ref,
                    "jobid": entry.jobid,
                    "channel": entry.channel,
                }
                for entry in self.mine.values()
                if entry.open
            ]
        patience = {"enough": None, "refused": 0.0}.get(why, self.rng.choice([0.0, 5.0, 60.0]))
        records = await dispatcher.drain(patience)
        self.soak.check_empty(dispatcher)
        return records

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.followers.add(task)
        task.add_done_callback(self.followers.discard)

    async def _follow(self, handle: JobHandle) -> None:
        entry = self.soak.ledger.entries[handle.reply_ref]
        try:
            entry.told.append((await handle).status)
        except PikaError as error:
            entry.told.append(self._heard(error))

    def _heard(self, error: PikaError) -> str:
        if isinstance(error, SubscriptionRequired):
            self.stopped.set()
        return type(error).__name__

    async def _call(self, dispatcher: Dispatcher) -> None:
        """Have job after job done, until there are enough or the dispatcher is over."""
        while not (self.soak.enough or self.stopped.is_set() or "open" not in repr(dispatcher)):
            verb, values = self._order()
            ref = f"{self.name}.{next(self.refs)}"
            entry = self.mine[ref] = self.soak.ledger.entries[ref] = Entry(ref, verb)
            caller = asyncio.create_task(self._one(dispatcher, entry, values))
            doom = None
            if self.rng.random() < DOOMED:
                doom = self.soak.clock.call_later(self.rng.expovariate(1 / 60), caller.cancel)
            await asyncio.wait([caller])
            if doom is not None:
                doom.cancel()
            if caller.cancelled():
                entry.cancelled = True
            else:
                entry.told.append(caller.result())
            if not entry.open:
                del self.mine[ref]

    async def _one(self, dispatcher: Dispatcher, entry: Entry, values: dict[str, Any]) -> str:
        """Have one job done, in one of the ways; return its status or the error's class."""
        values["reply_ref"] = entry.reply_ref
        if self.rng.random() < 0.1:
            values["timeout"] = self.rng.choice([0, 30.0, 300.0])
        verb: Any = entry.verb
        way = self.rng.random()
        try:
            if way < 0.1:
                return await _through_map(dispatcher, {"verb": verb, **values})
            if way < 0.6:
                return (await dispatcher.run(verb, **values)).status
            handle = await dispatcher.submit(verb, **values)
            if way < 0.8:
                return (await handle).status
            statuses = [job.status async for job in handle]
            return statuses[-1]
        except PikaError as error:
            return self._heard(error)

    def _order(self) -> tuple[str, dict[str, Any]]:
        rng = self.rng
        image = b"\x89PNG\r\n\x1a\n" + rng.randbytes(rng.randint(100, 3000))
        finished = self.soak.finished
        (verb,) = rng.choices(
            ["create", "animate", "encrypt_text", "encrypt_image", "button"], [50, 15, 15, 10, 10]
        )
        if verb == "button" and not finished:
            verb = "create"
        known: dict[str, dict[str, Any]] = {
            "create": {"prompt": "a cat"},
            "animate": {"image": image},
            "encrypt_text": {"message": "hello", "prompt": "in the sand"},
            "encrypt_image": {"message": image, "prompt": "in the clouds"},
            "button": {"jobid": rng.choice(finished or ["none"])},
        }
        values = known[verb]
        if verb != "button" and rng.random() < 0.1:
            values["channel"] = rng.choice(list(CAPS))
        return verb, values


class Soak:
    """The whole, with everything that is counted."""

    def __init__(
        self, *, mode: Mode, jobs: int, seed: int, speed: float, minutes: float | None = None
    ) -> None:
        self.mode = mode
        self.jobs = jobs
        self.seed = seed
        self.speed = speed
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.clock = ScaledClock(speed)
        self.ledger = Ledger()
        self.client: PikaClient
        self.workers: list[Worker] = []
        self.balancers: list[Balancer] = []
        self.dispatchers: list[weakref.ref[Dispatcher]] = []
        self.left: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self.finished: deque[str] = deque(maxlen=200)
        self.weights: list[Weight] = []
        self.resumed = 0
        self.seconds = 0.0
        self._before = _census()
        self.server: dict[str, Any] = {}
        self.rng = random.Random(seed)
        self._persons: set[asyncio.Task[None]] = set()

    @property
    def lives(self) -> int:
        """How many dispatchers there were, one after the other."""
        return len(self.dispatchers)

    @property
    def _name(self) -> str:
        return f"soak --mode {self.mode} --jobs {self.jobs} --seed {self.seed} --speed {self.speed:g}"

    @property
    def enough(self) -> bool:
        """Whether no new job should be begun."""
        if self.deadline is not None:
            return time.monotonic() > self.deadline
        return self.ledger.accepted >= self.jobs

    def complain(self, what: str) -> None:
        """Note something that should not have happened."""
        self.complaints.append(what)

    def observe(self, place: int, event: Event) -> None:
        """Note an event of the balancer in that place, and see to paused accounts."""
        self.ledger.observe(event)
        match event:
            case Ended(status="completed", jobid=str(jobid)):
                self.finished.append(jobid)
            case Paused(channel=str(channel)):
                self._spawn(self._answer(self.balancers[place], channel))
            case _:
                pass

    async def _answer(self, balancer: Balancer, channel: str) -> None:
        """Be the person who sees to a paused account a little later."""
        await self.clock.sleep(self.rng.uniform(20, 120))
        await balancer.resume(channel)
        self.resumed += 1

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._persons.add(task)
        task.add_done_callback(self._persons.discard)

    def check_empty(self, dispatcher: Dispatcher) -> None:
        """Complain of what a dispatcher that is over still has in it."""
        left = _sizes(dispatcher._roster) | _sizes(dispatcher._poller) | _sizes(dispatcher._lookout)
        task = dispatcher._lookout._task
        left["looking"] = int(task is not None and not task.done())
        few = {name: left.pop(name, 0) for name in ("_line", "_asked", "_kept_since", "_inherited")}
        if dispatcher.handles or any(left.values()) or max(few.values()) > OBJECTS_AT_MOST:
            self.complain(f"a dispatcher that is over still has {dispatcher.handles}, {left}, {few}")

    async def run(self) -> None:
        """Run it, and note what should not have happened."""
        began = time.monotonic()
        async with server_process(speed=self.speed, seed=self.seed) as server:
            # A first request, so that what is made once is there before anything is counted.
            async with PikaClient("user:1-soak", base_url=server.url) as client:
                await client.jobs()
            files, tasks = _files(), len(asyncio.all_tasks())
            async with contextlib.AsyncExitStack() as stack:
                await self._set_up(server, stack)
                await self._work()
                self.seconds = time.monotonic() - began
                await self._settle()
                self.server = await server.report()
                for balancer in self.balancers:
                    if await _in_flight(balancer) or balancer.statistics().waiters:
                        self.complain(f"at the end {balancer!r}")
            await asyncio.sleep(0.1)  # closed sockets go in the next turns of the loop
            if len(asyncio.all_tasks()) != tasks:
                self.complain(f"tasks are left: {asyncio.all_tasks()}")
            if _files() > files:
                self.complain(f"files are left: {_files()} instead of {files}")
        gc.collect()
        for alive in self.dispatchers:
            if alive() is not None:
                self.complain(f"still in memory: {alive()!r}")
        self._check_slots()
        self._check_jobs()
        self._check_weight()

    async def _set_up(self, server: ServerProcess, stack: contextlib.AsyncExitStack) -> None:
        self.client = await stack.enter_async_context(
            # Its time runs with the service's, but long enough for a machine that has other things to do.
            PikaClient("user:1-soak", base_url=server.url, timeout=400, clock=self.clock)
        )
        accounts = [Account(channel, cap) for channel, cap in CAPS.items()]
        chances = [random.Random(self.seed + place) for place in range(WORKERS)]
        stores: list[Store]
        if self.mode == "redis":
            shared = make("valkey").start()
            stack.callback(shared.remove)
            stores = [SharedStore(shared, self.clock, rng) for rng in chances]
            await stores[0].update(accounts)
        else:
            count = WORKERS if self.mode == "apart" else 1
            stores = [MemoryStore(accounts, rng=rng, clock=self.clock) for rng in chances[:count]]
        for place in range(1 if self.mode == "one" else WORKERS):
            balancer = Balancer(
                store=stores[place % len(stores)],
                clock=self.clock,
                observer=functools.partial(self.observe, place),
            )
            self.balancers.append(await stack.enter_async_context(balancer))
        for place in range(WORKERS):
            callbacks = None
            if place == 0:
                # Its deadline for reading is no time of the service.
                callbacks = Callbacks()
                await stack.enter_async_context(callbacks.run())
            balancer = self.balancers[place % len(self.balancers)]
            self.workers.append(Worker(f"w{place}", self, balancer, callbacks))

    async def _work(self) -> None:
        watch = asyncio.create_task(self._watch())
        lives = asyncio.create_task(self._live())
        done, _ = await asyncio.wait([watch, lives], return_when=asyncio.FIRST_COMPLETED)
        for task in (watch, lives):
            task.cancel()
        await asyncio.gather(watch, lives, return_exceptions=True)
        for task in done:
            task.result()

    async def _live(self) -> None:
        await asyncio.gather(*(worker.work() for worker in self.workers))

    async def _watch(self) -> None:
        """Weigh the process now and then; raise if nothing happens any more."""
        seen, since = -1, time.monotonic()
        weighed = 0.0
        while True:
            await asyncio.sleep(0.2)
            total = self.ledger.events.total()
            if total != seen:
                seen, since = total, time.monotonic()
            if time.monotonic() - since > _STUCK_AFTER:
                raise TimeoutError(f"{self._name} is stuck: {self._state()}")
            share = self.ledger.accepted / self.jobs
            if share >= weighed and not self.enough:
                self.weights.append(
                    Weight(share, len(self.ledger.entries), _memory(), _census() - self._before)
                )
                weighed += 0.1

    def _state(self) -> str:
        """Return how everything stands, for whoever wonders why nothing happens."""
        alive = [dispatcher for ref in self.dispatchers if (dispatcher := ref()) is not None]
        lines = [repr(balancer.statistics()) for balancer in self.balancers]
        lines += [f"{dispatcher!r} {dispatcher.handles}" for dispatcher in alive]
        lines += [repr(task) for task in asyncio.all_tasks()]
        return "\n".join(lines)

    async def _settle(self) -> None:
        """Wait for persons; count once more what executes, until nothing does."""
        if self._persons:
            await asyncio.wait(self._persons)
        for balancer in self.balancers:
            async with Dispatcher(self.client, balancer, clock=self.clock) as last:
                for _ in range(100):
                    if not await _in_flight(balancer):
                        break
                    await self.clock.sleep(15)
                    await last.reconcile()

    # --- the audit -------------------------------------------------------------------------------------

    def _check_slots(self) -> None:
        """Complain of what the server counted against the rules."""
        statistics = self.server["statistics"]
        if statistics["duplicate_reply_refs"]:
            self.complain(f"{statistics['duplicate_reply_refs']} references were accepted twice")
        for channel in statistics["channels"].values():
            if channel["peak_in_flight"] > channel["max_jobs"] or channel["in_flight"]:
                self.complain(f"slots of the server: {channel}")
        # Workers that count together never knock at a full channel. Those that count apart meet each other's
        # jobs all the time, and are told so unless they hung up meanwhile.
        entries = self.ledger.entries.values()
        told = sum(entry.full for entry in entries)
        hung_up = sum(entry.let_go > 0 and entry.jobid is None for entry in entries)
        if {*+self.ledger.again} - MAY_BE_SENT_AGAIN:
            self.complain(f"jobs were sent again after {dict(self.ledger.again)}")
        untold = statistics["attempts_when_full"] - told
        if (self.mode != "apart" and told + untold) or not 0 <= untold <= hung_up:
            self.complain(f"{told} attempts when full, and {untold} that were not told")

    def _check_jobs(self) -> None:
        """Complain of jobs whose account is not that of the server, or not whole."""
        if self.left:
            self.complain(f"records are left after a drain without end: {self.left}")
        for ref, jobid, outcome in self.server["jobs"]:
            entry = self.ledger.entries.get(ref)
            if entry is None:
                self.complain(f"a job of nobody's: {ref} {jobid}")
            elif entry.jobid not in (None, jobid):
                self.complain(f"another job than told: {jobid}, {entry}")
            elif entry.ends != [outcome] and not _excused(entry, outcome):
                self.complain(f"the server had it end as {outcome}: {entry}")
        taken = {ref for ref, _, _ in self.server["jobs"]}
        for entry in self.ledger.entries.values():
            for problem in _problems(entry, taken=entry.reply_ref in taken):
                self.complain(f"{problem}: {entry}")

    def _check_weight(self) -> None:
        """Complain if more is kept towards the end than after a third of the way."""
        grown = [weight for weight in self.weights if weight.share >= SETTLED]
        if not grown or self.deadline is not None:
            return
        first, last = grown[0], grown[-1]
        allowed = first.memory + KEPT_PER_JOB * (last.jobs - first.jobs) + MEMORY_SLACK
        if last.memory > allowed:
            self.complain(f"memory grew from {first} to {last}")
        for kind in last.census:
            # What comes and goes with jobs is bounded by callers and slots, however long it goes on.
            if max(weight.census[kind] for weight in grown) > OBJECTS_AT_MOST:
                self.complain(f"ever more {kind}: {[weight.census[kind] for weight in self.weights]}")

    def report(self) -> str:
        """Return what happened, in some lines."""
        entries = self.ledger.entries.values()
        statistics = dict(self.server["statistics"])
        channels = statistics.pop("channels").values()
        jobs = self.server["jobs"]
        told = Counter(entry.told[-1] if entry.told else "cancelled" for entry in entries)
        ends = Counter(entry.ends[-1] for entry in entries if entry.ends)
        silent = Counter(
            outcome for ref, _, outcome in jobs if [outcome] != list(self.ledger.entries[ref].ends)
        )
        rate = len(jobs) / self.seconds
        hours = self.clock.now() / 3600
        peaks = ", ".join(f"{channel['peak_in_flight']}/{channel['max_jobs']}" for channel in channels)
        lines = (
            self._name,
            f"{len(entries)} jobs begun, {len(jobs)} taken in {self.seconds:.1f} s: {rate:.0f}/s",
            f"{hours:.1f} h of service time; peaks {peaks}",
            f"server: {statistics}",
            f"events: {dict(self.ledger.events)}",
            f"callers were told: {_plain(told)}",
            f"ends: {_plain(ends)}",
            f"taken, and reported as unknown, by outcome: {dict(silent)}",
            f"lives: {dict(sum((worker.lives for worker in self.workers), Counter[str]()))}",
            f"pauses ended by a person: {self.resumed}",
            *map(str, self.weights),
            f"{len(self.complaints)} complaints",
            *self.complaints[:40],
        )
        return "\n".join(lines)


async def _through_map(dispatcher: Dispatcher, request: dict[str, Any]) -> str:
    """Have one job done as a batch of one; return its status."""
    async with contextlib.aclosing(dispatcher.map([request])) as outcomes:
        outcome = await anext(outcomes)
    if outcome.job is None:
        raise outcome.error or AssertionError("an outcome without job and error")
    return outcome.job.status


async def _in_flight(balancer: Balancer) -> int:
    """Return how many slots are taken; a shared store is asked, and has to be whole."""
    if not isinstance(balancer.store, RedisStore):
        return balancer.snapshot().in_flight
    fleet = await balancer.store.fleet()
    return fleet.snapshot.in_flight + len(fleet.faults)


def _plain(counts: Counter[str]) -> dict[str, int]:
    return {str(word): count for word, count in counts.items()}


def _excused(entry: Entry, outcome: str) -> bool:
    """Return whether it is right that the job's end at the server was not told as such."""
    if entry.ends != ["SubmissionUnknown"]:
        return False
    # Either nobody can see it, or it came and went before anybody could look: its caller knows that much.
    return outcome == "lost" or entry.uncertain + entry.let_go > 0


def _problems(entry: Entry, *, taken: bool) -> Iterator[str]:
    """Yield what is wrong with the account of a job's life."""
    sent = entry.submitting - entry.refused
    told = entry.told[-1] if entry.told else None
    if not 0 <= sent <= 1:
        yield f"sent {entry.submitting} times, of which {entry.refused} were refused"
    if len(entry.ends) > 1:
        yield "ended more than once"
    if sent and not entry.ends:
        yield "sent, and nobody told its end"
    if taken and not sent:
        yield "the server has it, and it counts as refused"
    if entry.ends and told not in (*entry.ends, None):
        yield f"the caller was told {told}"
    if told is None and not entry.cancelled:
        yield "the caller was told nothing"


def _sizes(part: object) -> dict[str, int]:
    """Return how much is in each container of an object."""
    return {name: len(value) for name, value in vars(part).items() if isinstance(value, dict | set | list)}


async def _when(event: asyncio.Event) -> None:
    await event.wait()


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


def _files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _census() -> Counter[str]:
    """Return how many objects there are of the kinds that come and go with jobs."""
    gc.collect()
    kinds = (JobHandle, Job, Lease, Dispatcher, asyncio.Task, asyncio.Future, asyncio.TimerHandle)
    counts = Counter(type(thing) for thing in gc.get_objects())
    return Counter({kind.__name__: counts[kind] for kind in kinds})


async def soak(
    *, mode: Mode, jobs: int, seed: int, speed: float = 800.0, minutes: float | None = None
) -> Soak:
    """Run a soak and return it, with its complaints."""
    whole = Soak(mode=mode, jobs=jobs, seed=seed, speed=speed, minutes=minutes)
    await whole.run()
    return whole


def main() -> int:
    """Run a soak as the command line says, print its report, and return 1 if there are complaints."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs to have accepted")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--mode", choices=get_args(Mode), default="shared")
    parser.add_argument("--speed", type=float, default=800.0, help="service time over wall time")
    parser.add_argument("--minutes", type=float, help="go on for so long, whatever the number of jobs")
    args = parser.parse_args()
    sys.stdout.write(f"seed {args.seed}\n")
    whole = asyncio.run(soak(**vars(args)))
    sys.stdout.write(whole.report() + "\n")
    return bool(whole.complaints)


if __name__ == "__main__":
    sys.exit(main())
