"""Workers: one dispatcher after the other, and its callers."""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from pika_balancer import Balancer, Dispatcher, JobHandle
from pika_balancer.dispatch.webhook import Webhook
from pika_balancer.errors import PikaError, RequestTimeout, SubscriptionRequired
from tests.soak.ledger import Entry
from tests.soak.server import CAPS

if TYPE_CHECKING:
    from tests.soak.whole import Soak

CALLERS: Final = 14
"""Jobs of each worker that wait or run: together more than there are slots."""
DOOMED: Final = 0.03
"""Share of callers that are cancelled."""
ENTRIES: Final = 50
"""How often a worker tries to enter a dispatcher while the service answers too late."""


class Worker:
    """One dispatcher after the other over one balancer, and its callers."""

    def __init__(self, name: str, soak: "Soak", balancer: Balancer, webhook: Webhook | None) -> None:
        self.name = name
        self.soak = soak
        self.balancer = balancer
        self.webhook = webhook
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
            for handle in await dispatcher.resume(self._unended(records)):
                self._spawn(self._follow(handle, self.soak.ledger.entries[handle.reply_ref]))
            callers = [asyncio.create_task(self._call(dispatcher)) for _ in range(CALLERS)]
            why = await self._until(callers)
            self.lives[why] += 1
            records = await self._end(dispatcher, why)
            await asyncio.gather(*callers)
            await asyncio.gather(*self.followers)
            self.mine = {ref: entry for ref, entry in self.mine.items() if entry.open}
        self.soak.left += records

    def _unended(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the records without those of jobs whose end was told on a way in that came to nothing."""
        goes_on = list[dict[str, Any]]()
        for record in records:
            entry = self.soak.ledger.entries.get(record["reply_ref"])
            if entry is not None and entry.open:
                goes_on.append(record)
            elif entry is not None and entry.ends:
                entry.told.append(entry.ends[-1])
            elif entry is not None:
                self.soak.complain(f"a record of a job that the service does not have: {entry}")
        return goes_on

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
            webhook=self.webhook,
            rng=self.rng,
            clock=self.soak.clock,
        )
        self.soak.dispatchers.add(dispatcher)
        return dispatcher

    async def _until(self, callers: list[asyncio.Task[None]]) -> str:
        """Return why this life ends."""
        planned = asyncio.create_task(self.soak.clock.sleep(self.rng.uniform(*self.soak.life)))
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
            # As a journal would have them.
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
        timeout = {"enough": None, "refused": 0.0}.get(why, self.rng.choice([0.0, 5.0, 60.0]))
        records = await dispatcher.drain(timeout)
        self.soak.check_empty(dispatcher)
        return records

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.followers.add(task)
        task.add_done_callback(self.followers.discard)

    async def _follow(self, handle: JobHandle, entry: Entry) -> None:
        entry.holders += 1
        try:
            entry.told.append((await handle).status)
        except PikaError as error:
            entry.told.append(self._heard(error))
        entry.holders -= 1

    def _heard(self, error: PikaError) -> str:
        if isinstance(error, SubscriptionRequired):
            self.stopped.set()
        return type(error).__name__

    async def _call(self, dispatcher: Dispatcher) -> None:
        """Have job after job done, until there are enough or the dispatcher is over."""
        while not (self.soak.enough or self.stopped.is_set() or "open" not in repr(dispatcher)):
            verb, values = self._order()
            ref = f"{self.name}.{next(self.refs)}"
            entry = self.mine[ref] = self.soak.ledger.begin(ref, verb)
            entry.holders += 1
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
            entry.holders -= 1
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


async def _through_map(dispatcher: Dispatcher, request: dict[str, Any]) -> str:
    """Have one job done as a batch of one; return its status."""
    async with contextlib.aclosing(dispatcher.map([request])) as outcomes:
        outcome = await anext(outcomes)
    if outcome.job is None:
        raise outcome.error or AssertionError("an outcome without job and error")
    return outcome.job.status


async def _when(event: asyncio.Event) -> None:
    await event.wait()


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)
