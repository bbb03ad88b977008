"""Jobs start at their moments, or so many at a time, and a stall counts for each job that it delays."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncGenerator, Callable, Iterator

import aiohttp
import attrs
import pytest

from pika_balancer import Account, Balancer, Dispatcher, PikaClient, PikaError, Unauthorized
from pika_balancer.distributions import Constant, Distribution
from pika_balancer.loadtest.driver import Driver, LoadPlan
from pika_balancer.loadtest.generators import Reason, closed_loop, open_loop
from pika_balancer.loadtest.recorder import Recorder
from pika_balancer.loadtest.server_process import ServerProcess, ServerSettings, serve
from pika_balancer.models import Secret
from pika_balancer.server import LocalServer
from pika_balancer.simulate.arrivals import Trace
from pika_balancer.testing import ManualClock, settle, wait_until
from tests.cli.conftest import FIRST

RNG = random.Random(1)
TWICE_A_SECOND = Trace([number / 2 for number in range(100)])


def even(rate: float) -> Iterator[float]:
    return (number / rate for number in itertools.count())


def stall(clock: ManualClock, seconds: float) -> None:
    """Let time pass while no task runs, as if one had held the event loop up."""
    moving = clock.advance(seconds)
    with contextlib.suppress(StopIteration):
        while True:
            moving.send(None)


class Work:
    """Jobs on a clock moved by hand."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.begun: list[tuple[float, float]] = []
        self.under_way = 0
        self.most = 0
        self.reasons: list[tuple[Reason, float]] = []

    async def job(self, intended: float) -> None:
        self.begun.append((intended, self.clock.now()))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.clock.sleep(self.seconds)
        finally:
            self.under_way -= 1

    def offered(self, reason: Reason) -> None:
        self.reasons.append((reason, self.clock.now()))


async def test_open_loop_starts_each_job_at_its_moment_however_long_they_take() -> None:
    clock = ManualClock(start=1000.0)
    work = Work(clock, seconds=7.0)
    task = asyncio.create_task(
        open_loop(even(4.0), work.job, seconds=2.0, most=99, clock=clock, offered=work.offered)
    )
    await clock.advance(3)
    assert work.begun == [(1000 + n / 4, 1000 + n / 4) for n in range(8)]
    assert work.reasons == [("duration", 1002.0)]
    assert (work.under_way, task.done()) == (8, False)
    await clock.advance(7)
    await task
    assert work.under_way == 0


async def test_start_that_comes_late_is_not_left_out_and_knows_when_it_was_meant() -> None:
    clock = ManualClock()
    work = Work(clock, seconds=0.0)

    async def stalls(intended: float) -> None:
        await work.job(intended)
        if intended == 0.5:
            stall(clock, 1.25)

    task = asyncio.create_task(
        open_loop(even(4.0), stalls, seconds=3.0, most=99, clock=clock, offered=work.offered)
    )
    await clock.advance(3)
    await task
    assert [intended for intended, _ in work.begun] == [n / 4 for n in range(12)]
    lags = {intended: begun - intended for intended, begun in work.begun}
    assert [lags[at] for at in (0.5, 0.75, 1.0, 1.75, 2.0)] == [0.0, 1.0, 0.75, 0.0, 0.0]


async def test_open_loop_stops_at_so_many_jobs_and_when_too_many_are_under_way() -> None:
    clock = ManualClock()
    few, flood = Work(clock, 1.0), Work(clock, 100.0)
    task = asyncio.create_task(
        open_loop(even(1.0), few.job, seconds=99, most=3, clock=clock, offered=few.offered)
    )
    await clock.advance(4)
    await task
    assert (len(few.begun), few.reasons) == (3, [("jobs", 2.0)])
    limits = {"most": 99, "most_under_way": 5}
    task = asyncio.create_task(
        open_loop(even(1.0), flood.job, seconds=99, clock=clock, offered=flood.offered, **limits)
    )
    await clock.advance(10)
    assert (flood.under_way, flood.reasons[0][0]) == (5, "backlog")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert flood.under_way == 0


async def test_closed_loop_holds_exactly_so_many() -> None:
    clock = ManualClock()
    work = Work(clock, seconds=1.0)
    task = asyncio.create_task(
        closed_loop(5, work.job, seconds=3.0, most=99, clock=clock, offered=work.offered)
    )
    for _ in range(5):
        await clock.advance(0.5)
        assert work.under_way == 5
    await clock.advance(0.5)
    await task
    assert (work.most, len(work.begun), work.reasons) == (5, 15, [("duration", 3.0)])
    assert all(intended == begun for intended, begun in work.begun)


async def test_closed_loop_stops_at_so_many_jobs() -> None:
    clock = ManualClock()
    work = Work(clock, seconds=1.0)
    task = asyncio.create_task(
        closed_loop(4, work.job, seconds=99.0, most=6, clock=clock, offered=work.offered)
    )
    await clock.advance(2)
    await task
    assert (len(work.begun), work.reasons) == (6, [("jobs", 1.0)])


async def test_what_a_job_raises_ends_the_load_as_it_is() -> None:
    clock = ManualClock()

    async def job(_intended: float) -> None:
        raise Unauthorized("no")

    with pytest.raises(Unauthorized):
        await closed_loop(3, job, seconds=1, most=9, clock=clock, offered=lambda _: None)


class Requests:
    """Counts the requests of a session that wait for their answers."""

    def __init__(self) -> None:
        self.under_way = 0
        self.trace = aiohttp.TraceConfig()
        self.trace.on_request_start.append(self.started)
        self.trace.on_request_end.append(self.ended)
        self.trace.on_request_exception.append(self.ended)

    async def started(self, *_: object) -> None:
        self.under_way += 1

    async def ended(self, *_: object) -> None:
        self.under_way -= 1


@attrs.frozen
class Loaded:
    """A load on a local server, both on one clock moved by hand."""

    driver: Driver
    dispatcher: Dispatcher
    clock: ManualClock
    requests: Requests

    async def turn(
        self, recorder: Recorder, plan: LoadPlan, watch: Callable[[], object] = lambda: None
    ) -> Reason:
        return await self.driver.run(self.dispatcher, plan, recorder, rng=RNG, watch=watch, interval=0.25)

    async def end(self, task: "asyncio.Task[Reason]") -> Reason:
        """Move the clock until the load is over; it stands still while a request is on a socket."""
        async with asyncio.timeout(120):
            while not task.done():
                await self.clock.advance(0.05)
                while self.requests.under_way:
                    await asyncio.sleep(0.001)
                    await settle()
        return await task


class StallOnce(Constant):
    """Durations of which the first ones are given."""

    def __init__(self, first: list[float], then: float) -> None:
        super().__init__(then)
        self.__dict__["first"] = first

    def one(self, rng: random.Random) -> Callable[[], float]:  # noqa: ARG002 - the signature of a method
        durations = iter(self.__dict__["first"])
        return lambda: next(durations, self.mean)


@contextlib.asynccontextmanager
async def loaded(service: str | Distribution = "fixed:1s") -> AsyncGenerator[Loaded]:
    """Run a load while the context lasts."""
    clock, requests = ManualClock(), Requests()
    server = LocalServer({FIRST: 1}, service=service, clock=clock, rng=random.Random(1))
    driver = Driver(clock)
    balancer = Balancer([Account(FIRST, 1)], clock=clock, observer=driver.observe)
    async with (
        server.run() as url,
        aiohttp.ClientSession(trace_configs=[requests.trace]) as session,
        PikaClient("any", base_url=url, session=session) as client,
        balancer,
    ):
        dispatcher = Dispatcher(client, balancer, poll_every=0.05, clock=clock)
        yield Loaded(driver, dispatcher, clock, requests)
        await dispatcher.close()


def plan(**changes: object) -> LoadPlan:
    values: dict[str, object] = {"seconds": 5.0, "warm_up": 0.0, "most": 99, "grace": 60.0}
    return LoadPlan(**(values | changes))  # type: ignore[arg-type] # each as its field is


async def test_stall_counts_for_every_job_that_it_delays() -> None:
    # One slot, jobs of 0.2 s twice a second: no job would wait, if the first did not take four seconds.
    recorder = Recorder(seconds=5.0)
    async with loaded(StallOnce([4.0], then=0.2)) as run:
        task = asyncio.create_task(run.turn(recorder, plan(arrivals=TWICE_A_SECOND)))
        reason = await run.end(task)
    assert (reason, recorder.jobs, recorder.statuses) == ("duration", 10, {"completed": 10})
    # Half of all jobs waited for more than two seconds, though only one was ever served slowly.
    median, lowest = recorder.ended.quantiles([0.5, 0.1])
    assert 2.0 < median < 4.0
    assert lowest < 2.0
    assert recorder.ended.max >= 4.0


async def test_load_that_is_held_up_itself_counts_from_the_intended_start_and_says_so() -> None:
    recorder = Recorder(seconds=4.0)
    how = plan(arrivals=TWICE_A_SECOND, seconds=4.0)
    async with loaded() as run:
        task = asyncio.create_task(run.turn(recorder, how))
        await run.clock.advance(1.1)
        stall(run.clock, 1.5)
        await run.end(task)
    assert recorder.jobs == 8
    assert recorder.lag.max >= 1.0
    assert recorder.accepted.max >= recorder.lag.max


async def test_jobs_that_do_not_end_in_time_are_cut_and_count_as_long_as_they_took() -> None:
    recorder = Recorder(seconds=2.0)
    how = plan(arrivals=TWICE_A_SECOND, seconds=2.0, grace=0.5)
    async with loaded() as run:
        task = asyncio.create_task(run.turn(recorder, how))
        await run.end(task)
    assert (recorder.jobs, recorder.unfinished, recorder.waiting) == (4, 4 - recorder.statuses.total(), 0)
    assert recorder.unfinished >= 1
    assert (recorder.ended.count, recorder.accepted.count) == (4, 4)
    assert recorder.samples[-1][1:] == (0, 0)


async def test_watcher_that_fails_ends_the_load_and_leaves_nothing() -> None:
    def watch() -> None:
        raise BrokenPipeError

    recorder = Recorder(seconds=5.0)
    with pytest.raises(BrokenPipeError):
        async with loaded() as run:
            await run.turn(recorder, plan(closed=2), watch)
    assert (recorder.waiting, recorder.in_flight) == (0, 0)


async def test_server_process_runs_answers_and_ends(capfd: pytest.CaptureFixture[str]) -> None:
    settings = ServerSettings(
        accounts={FIRST: 2}, service="fixed:0s", seed="1", token=Secret("user:1234-canary0canary0canary0")
    )
    assert "canary0" not in repr(settings)
    async with ServerProcess.run(settings) as server:
        async with PikaClient(settings.token, base_url=server.url) as client:
            await client.create("a cat", channel=FIRST)
        statistics = await server.statistics()
        assert (statistics["submits"], statistics["channels"][FIRST]["peak_in_flight"]) == (1, 1)
    with pytest.raises(PikaError, match="has ended"):
        await server.statistics()
    assert capfd.readouterr().err == ""


async def test_server_ends_with_its_stdin() -> None:
    told: list[str] = []
    lines: asyncio.Queue[str] = asyncio.Queue()
    settings = {"accounts": {FIRST: 1}, "token": "t", "service": "exp:1s", "faults": ["429:0.1"], "seed": "1"}
    task = asyncio.create_task(serve(settings, lines.get, told.append))
    await wait_until(lambda: len(told) == 1, timeout=60)
    assert told[0].startswith('"http://127.0.0.1:')
    lines.put_nowait("statistics\n")
    await wait_until(lambda: len(told) == 2, timeout=60)
    assert '"submits": 0' in told[1]
    lines.put_nowait("")
    await task
    await settle()
