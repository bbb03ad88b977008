"""A dispatcher behind a network with every fault: each job ends once, runs once at most, and frees its slot.

Down the faults of `tests.fault_matrix`, across what they befall:

- `submit`: the sending of a job, once;
- `polls`: everything for some seconds, after the service has taken the job;
- `looks`: everything for some seconds, after the reply to the submit was lost;
- `entry`: everything, while a dispatcher is entered that had a job before; then the same, once;
- `cancel`: the sending, whose caller is cancelled then; what became of the job is told by events;
- `drain`: the sending, and the dispatcher drains then; a second one resumes from the records.

`python -m tests.dispatch.test_faults` prints the matrix.
A cell says what the job ended in, or what entering raised, and how many jobs the service took. `Unknown` is a
`SubmissionUnknown`, the others are as in `tests.fault_matrix`. A reply that never comes takes all the time
that a call has: who enters then is told, while polls and looks come again by themselves.
"""

import asyncio
import gc
import json
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import attrs
import pytest

from pika_balancer import Account, Balancer, Dispatcher, Job, JobHandle, PikaClient, PikaError
from pika_balancer.dispatch.webhook import Webhook
from pika_balancer.events import Ended, Event, Failed
from pika_balancer.testing import ManualClock, settle, wait_until
from tests.connection_faults import (
    BlackHole,
    Cut,
    Delay,
    Drop,
    Fault,
    HalfClose,
    Injection,
    Reorder,
    Reset,
    Stall,
)
from tests.depth import sized
from tests.fault_matrix import ONE, ROWS, Hasty, Row, Server, Sizes, filled, grid, open_files, short, strike
from tests.fault_proxy import FaultProxy

pytestmark = pytest.mark.no_cover  # by the hundred what other tests run once

TIMEOUT: Final = 4.0
POLL_EVERY: Final = 3.0
SEARCH_FOR: Final = 8.0
SERVICE: Final = "fixed:12s"
"""A job outlasts its submit, and two looks after that, as real ones do by far."""
TURNS: Final = 25
"""Turns of the loop in which whatever was sent is answered."""


@attrs.define
class World:
    """One cell's own service, network, client and books, with one slot."""

    clock: ManualClock
    server: Server
    proxy: FaultProxy
    client: PikaClient
    balancer: Balancer
    events: list[Event]

    def dispatcher(self, **options: Any) -> Dispatcher:
        settings: dict[str, Any] = {
            "name": "worker",
            "poll_every": POLL_EVERY,
            "search_for": SEARCH_FOR,
        } | options
        return Dispatcher(self.client, self.balancer, rng=random.Random(7), clock=self.clock, **settings)

    async def pass_time(self, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let so many seconds pass, or fewer if it is done before, and the network keep up with the clock."""
        end = self.clock.now() + seconds
        await self.catch_up()
        while self.clock.now() < end and not done():
            await self.clock.advance(1.0)
            await self.catch_up()

    async def catch_up(self) -> None:
        """Let whatever was sent be answered, even where the system is late to deliver it."""
        for _ in range(2):
            await settle(TURNS)
            await asyncio.sleep(0.0005)
        await settle()

    async def end(self, work: "asyncio.Future[Any]") -> str:
        """Return what the work comes to, within two minutes of the clock."""
        await self.pass_time(120.0, work.done)
        assert work.done(), "it does not end"
        error = work.exception()
        assert error is None or isinstance(error, PikaError), repr(error)
        return work.result().status if error is None else short(error)

    async def befall(self, row: Row, sizes: Sizes, times: int | None = None) -> None:
        """Bring the fault about; unless it is one of kept connections, none of these is left."""
        await self.before(row)
        strike(row, sizes, self.proxy, times)

    async def before(self, row: Row) -> None:
        """Leave only connections on which the fault can strike."""
        if not row.kept:
            self.proxy.cut()
            await settle()

    async def recover(self) -> None:
        """End the fault."""
        await self.proxy.listen()
        self.proxy.heal()

    @property
    def ends(self) -> list[str]:
        """What jobs have ended in, by the events."""
        told = [event for event in self.events if isinstance(event, Ended | Failed)]
        return [event.status if isinstance(event, Ended) else short(event.error) for event in told]


@asynccontextmanager
async def world(*, cap: int = 1) -> AsyncGenerator[World]:
    clock, events = ManualClock(), list[Event]()
    server = Server(clock, cap, SERVICE)
    async with (
        server.run() as url,
        FaultProxy.before(url, clock=clock) as proxy,
        PikaClient("token", base_url=proxy.url, timeout=TIMEOUT, rng=Hasty(7), clock=clock) as client,
        Balancer([Account(ONE, cap)], clock=clock, observer=events.append) as balancer,
    ):
        yield World(clock, server, proxy, client, balancer, events)
        await client.close()
        await wait_until(lambda: proxy.open == 0)


async def free_again(here: World) -> int:
    """Return how many jobs the service took, having seen that the next one gets the slot once all is well."""
    await here.recover()
    taken = here.server.statistics().jobs
    async with here.dispatcher(name="next") as dispatcher:
        assert await here.end(start(dispatcher)) == "completed"
    told = here.server.statistics()
    assert (told.duplicate_reply_refs, told.in_flight, told.channels[ONE].peak_in_flight) == (0, 0, 1)
    assert here.balancer.snapshot().in_flight == 0
    return taken


def start(dispatcher: Dispatcher, strike: Callable[[], None] | None = None) -> "asyncio.Task[Any]":
    """Begin a job, with the fault brought about as it is sent the first time."""
    pending = [] if strike is None else [strike]

    def before_send(_channel: str, _reply_ref: str) -> None:
        if pending:
            pending.pop()()

    return asyncio.create_task(dispatcher.run("create", prompt="a cat", before_send=before_send))


async def ended(handle: JobHandle) -> Job:
    return await handle


async def struck(here: World, dispatcher: Dispatcher, row: Row, sizes: Sizes) -> "asyncio.Task[Any]":
    """Begin a job that the fault befalls as it is sent."""
    await here.before(row)
    return start(dispatcher, lambda: strike(row, sizes, here.proxy, times=1))


async def submit(here: World, row: Row, sizes: Sizes) -> str:
    async with here.dispatcher() as dispatcher:
        return await here.end(await struck(here, dispatcher, row, sizes))


async def polls(here: World, row: Row, sizes: Sizes) -> str:
    async with here.dispatcher() as dispatcher:
        work = start(dispatcher)
        await here.pass_time(1.0)
        await here.befall(row, sizes)
        await here.pass_time(8.0, work.done)
        await here.recover()
        return await here.end(work)


async def looks(here: World, row: Row, sizes: Sizes) -> str:
    async with here.dispatcher() as dispatcher:
        lost: list[Injection] = []
        work = start(dispatcher, lambda: lost.append(here.proxy.inject(Cut(), times=1)))
        await wait_until(lambda: bool(lost) and lost[0].hits == 1)
        await here.befall(row, sizes)
        await here.pass_time(4.0, work.done)
        await here.recover()
        return await here.end(work)


async def entry(here: World, row: Row, sizes: Sizes) -> str:
    async with here.dispatcher() as dispatcher:
        before = start(dispatcher)
        await here.pass_time(1.0)
        await dispatcher.close()
    assert await here.end(before) == "Closed"
    told: list[str] = []
    for times in (None, 1):
        await here.befall(row, sizes, times=times)
        dispatcher = here.dispatcher()
        entering = asyncio.create_task(dispatcher.__aenter__())
        await here.pass_time(60.0, entering.done)
        error = entering.exception()
        assert error is None or isinstance(error, PikaError), repr(error)
        told.append("ok" if error is None else short(error))
        await here.recover()
        handles = [asyncio.create_task(ended(handle)) for handle in dispatcher.handles]
        told += [await here.end(handle) for handle in handles]
        await dispatcher.close()
    return ", ".join(told)


async def cancel(here: World, row: Row, sizes: Sizes) -> str:
    async with here.dispatcher() as dispatcher:
        work = await struck(here, dispatcher, row, sizes)
        await here.pass_time(2.0)
        work.cancel()
        await here.pass_time(90.0, lambda: not dispatcher.handles)
        return ", ".join(here.ends) or "not sent"


async def drain(here: World, row: Row, sizes: Sizes) -> str:
    async with here.dispatcher() as dispatcher:
        work = await struck(here, dispatcher, row, sizes)
        await here.pass_time(2.0)
        records = json.loads(json.dumps(await dispatcher.drain(0)))
        assert await here.end(work) == "Closed"
    await here.recover()
    async with here.dispatcher() as dispatcher:
        handles = await dispatcher.resume(records)
        return (
            ", ".join([await here.end(asyncio.create_task(ended(handle))) for handle in handles])
            or "not sent"
        )


COLUMNS: Final = {call.__name__: call for call in (submit, polls, looks, entry, cancel, drain)}
ASKED: Final = {"polls": "job", "looks": "jobs", "entry": "jobs"}
"""The calls whose sizes count, for those that are not submits."""


async def sizes_of() -> dict[str, Sizes]:
    """Return the sizes of a submit, of a poll and of a look at what executes."""
    async with world() as here:
        proxy, told = here.proxy, dict[str, Sizes]()

        async def note(name: str, work: "asyncio.Task[Any]") -> None:
            before = (proxy.request_bytes, proxy.reply_bytes)
            await here.pass_time(1.0)
            told[name] = Sizes(proxy.request_bytes - before[0], proxy.reply_bytes - before[1])

        async with here.dispatcher() as dispatcher:
            work = start(dispatcher)
            await note("create", work)
            await note("jobs", asyncio.create_task(here.client.jobs()))
            await note("job", asyncio.create_task(here.client.job(dispatcher.handles[0].jobid or "")))
            await here.end(work)
        return told


async def cell(row: Row, column: str, sizes: Sizes) -> str:
    async with world() as here:
        text = await COLUMNS[column](here, row, sizes)
        ends = here.ends
        assert len(ends) <= 1, "it ended twice"
        if column != "entry":  # which closes dispatchers, whose jobs then keep their slots
            await settle()
            assert here.balancer.snapshot().in_flight == 0, "the slot is not free"
        if column in {"submit", "polls", "looks"}:
            assert ends == [text], "it ended, and was told to have ended differently"
        return f"{text.replace('completed', 'done')} {await free_again(here)}"


async def matrix(names: Sequence[str], depth: int = len(COLUMNS)) -> dict[str, dict[str, str]]:
    """Return the rows of that name; with less depth, so many cells of each, on diagonals."""
    rows = [row for row in ROWS if row.name in names]
    sizes = await sizes_of()
    told: dict[str, dict[str, str]] = {row.name: {} for row in rows}
    for place, column in enumerate(COLUMNS):
        chosen = [row for number, row in enumerate(rows) if (place - number) % len(COLUMNS) < depth]
        cells = await filled(
            chosen, [column], lambda row, column: cell(row, column, sizes[ASKED.get(column, "create")])
        )
        for name, one in cells.items():
            told[name] |= one
    return told


EXPECTED = """
fault                             | submit    | polls  | looks  | entry              | cancel     | drain
connection refused                | Failed 0  | done 1 | done 1 | Failed, Failed 1   | not sent 0 | not sent 0
connection reset                  | Unknown 0 | done 1 | done 1 | Lost, ok, done 1 | Unknown 0  | Unknown 0
connection never answered         | Unknown 0 | done 1 | done 1 | Timeout, Timeout 1 | Unknown 0  | Unknown 0
connections reordered             | done 1    | done 1 | done 1 | Timeout, Timeout 1 | done 1     | done 1
kept: closed unnoticed while idle | Unknown 0 | done 1 | done 1 | ok, done, ok 1     | Unknown 0  | Unknown 0
request dropped                   | Unknown 0 | done 1 | done 1 | Timeout, Timeout 1 | Unknown 0  | Unknown 0
request cut at start              | Unknown 0 | done 1 | done 1 | Lost, ok, done 1 | Unknown 0  | Unknown 0
request stalls at last byte       | Unknown 0 | done 1 | done 1 | Timeout, Timeout 1 | Unknown 0  | done 1
request cut at end                | done 1    | done 1 | done 1 | Lost, ok, done 1 | done 1     | done 1
reply delayed                     | done 1    | done 1 | done 1 | ok, done, ok 1     | done 1     | done 1
reply dropped                     | done 1    | done 1 | done 1 | Timeout, Timeout 1 | done 1     | done 1
reply cut at start                | done 1    | done 1 | done 1 | Lost, ok, done 1 | done 1     | done 1
reply stalls at last byte         | done 1    | done 1 | done 1 | Timeout, Timeout 1 | done 1     | done 1
"""


def read(expected: str) -> dict[str, dict[str, str]]:
    """Return the cells of the matrix by row and column."""
    lines = [[text.strip() for text in line.split(" | ")] for line in expected.strip().splitlines()]
    return {name: dict(zip(COLUMNS, cells, strict=True)) for name, *cells in lines[1:]}


async def as_told(expected: Sequence[str]) -> list[str]:
    """Return the matrix with the rows of that one."""
    rows = [line.split(" | ")[0].strip() for line in expected]
    return grid(await matrix(rows), {name: (name,) for name in COLUMNS})


@pytest.mark.deep
async def test_a_job_under_each_fault_ends_once_and_frees_its_slot() -> None:
    gc.collect()
    tasks, files = asyncio.all_tasks(), open_files()
    expected = read(EXPECTED)
    told = await matrix(list(expected), sized(2, len(COLUMNS)))
    assert told == {
        name: {column: cells[column] for column in told[name]} for name, cells in expected.items()
    }
    assert asyncio.all_tasks() == tasks
    await wait_until(lambda: open_files() <= files)


class Through(Webhook):
    """A webhook as the service sees it: behind a proxy."""

    def __init__(self, receiver: Webhook, proxy: FaultProxy) -> None:
        super().__init__()
        self._receiver = receiver
        self._proxy = proxy

    @property
    def reply_url(self) -> str:
        return self._proxy.url

    def subscribe(self, subscriber: Callable[[Job], bool]) -> Callable[[], object]:
        return self._receiver.subscribe(subscriber)


CALLBACKS: Final[dict[str, tuple[Fault | None, str]]] = {
    "none": (None, "callback"),
    "delayed": (Delay(1.0, on="requests"), "callback"),
    "delayed for longer than a poll takes": (Delay(20.0, on="requests"), "poll"),
    "dropped": (Drop(on="requests"), "poll"),
    "cut at start": (Cut(on="requests"), "poll"),
    "cut in the middle": (Cut(300, on="requests"), "poll"),
    "half-closed": (HalfClose(300, on="requests"), "poll"),
    "stalled in the middle": (Stall(300, on="requests"), "poll"),
    "reset at the door": (Reset(), "poll"),
    "never answered": (BlackHole(), "poll"),
    "reordered": (Reorder(2), "callback"),
    "answer lost": (Drop(), "callback"),
    "answer cut": (Cut(reset=True), "callback"),
}
"""What befalls callbacks, and who then tells of the end of the job."""


async def called_back(name: str, fault: Fault | None, told_by: str) -> None:
    receiver = Webhook()
    async with world(cap=2) as here, receiver.run() as reply_url:
        proxy = FaultProxy.before(reply_url, clock=here.clock)
        async with proxy:
            if fault is not None:
                proxy.inject(fault)
            async with here.dispatcher(webhook=Through(receiver, proxy)) as dispatcher:
                jobs = [start(dispatcher) for _ in range(2)]
                assert [await here.end(job) for job in jobs] == ["completed"] * 2
                ended = [event for event in here.events if isinstance(event, Ended)]
                assert [event.told_by for event in ended] == [told_by] * 2, name
                # A late or repeated callback fits no job.
                proxy.heal()
                await here.pass_time(1.0)
                before = receiver.statistics()
                headers = {"Authorization": "Bearer token"}
                async with aiohttp.ClientSession(headers=headers) as session:
                    for event in ended:
                        async with session.get(
                            f"{here.proxy.url}/jobs/", params={"jobid": event.jobid or ""}
                        ) as found:
                            late = await found.json()
                        assert late["status"] == "completed"
                        async with session.post(reply_url, json=late) as answer:
                            assert answer.status == 200
                assert receiver.statistics().matched == before.matched
            assert here.ends == ["completed"] * 2
            told = here.server.statistics()
            assert (told.jobs, told.in_flight, told.duplicate_reply_refs) == (2, 0, 0)
            assert here.balancer.snapshot().in_flight == 0


async def test_a_callback_that_is_lost_late_or_doubled_ends_no_job_twice_and_none_never() -> None:
    await asyncio.gather(*(called_back(name, *case) for name, case in CALLBACKS.items()))


if __name__ == "__main__":
    print("\n".join(asyncio.run(as_told(EXPECTED.strip().splitlines()))))
