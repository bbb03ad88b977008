"""The load test: after a cancellation none of its jobs runs, and the next run can start."""

import asyncio
import itertools
import random

from pika_balancer import Account, Balancer, Dispatcher, PikaClient, Secret
from pika_balancer.clock import SystemClock
from pika_balancer.loadtest.driver import Driver, LoadPlan
from pika_balancer.loadtest.generators import closed_loop, open_loop, together
from pika_balancer.loadtest.recorder import Recorder
from pika_balancer.loadtest.server_process import ServerProcess, ServerSettings
from pika_balancer.testing import LocalServer, settle
from tests.cancelling.cancel_point import CancelledRun, about, eventually
from tests.dispatch.conftest import ONE

TICK = 0.002


class Jobs:
    """Counts short jobs."""

    def __init__(self) -> None:
        self.begun = self.running = 0

    async def __call__(self, _intended: float) -> None:
        self.begun += 1
        self.running += 1
        try:
            await asyncio.sleep(TICK)
        finally:
            self.running -= 1


@about("open_loop")
async def opened(run: CancelledRun) -> None:
    jobs = Jobs()
    arrivals = (TICK * number for number in itertools.count())
    work = open_loop(arrivals, jobs, seconds=1, most=2, clock=SystemClock(), offered=lambda _: None)
    done = await run.through(work)
    assert jobs.running == 0
    assert jobs.begun == 2 or not done


@about("closed_loop")
async def closed(run: CancelledRun) -> None:
    jobs = Jobs()
    work = closed_loop(2, jobs, seconds=1, most=4, clock=SystemClock(), offered=lambda _: None)
    done = await run.through(work)
    assert jobs.running == 0
    assert jobs.begun == 4 or not done


@about("together")
async def grouped(run: CancelledRun) -> None:
    jobs = Jobs()

    async def two() -> None:
        async with together() as group:
            group.create_task(jobs(0))
            group.create_task(jobs(0))
            await asyncio.sleep(0)

    await run.through(two())
    assert jobs.running == 0


@about("Driver.run")
async def stretch(run: CancelledRun) -> None:
    server = LocalServer({ONE: 2}, service="fixed:1ms")
    driver = Driver(SystemClock())
    plan = LoadPlan(closed=2, seconds=5, warm_up=0, most=3, grace=5)

    async with server.run() as url, PikaClient("canary", base_url=url) as client:
        balancer = Balancer([Account(ONE, max_jobs=2)], observer=driver.observe)
        async with balancer, Dispatcher(client, balancer, poll_every=0.01, reconcile=False) as dispatcher:

            async def once() -> str:
                recorder = Recorder(seconds=plan.seconds)
                return await driver.run(
                    dispatcher, plan, recorder, rng=random.Random(1), watch=lambda: None, interval=TICK
                )

            await run.through(once())
            # The dispatcher follows the running jobs to their end.
            await eventually(lambda: not dispatcher.handles)
            assert await once() == "jobs"


class Process:
    """The pipes of a server process, answered by the test."""

    def __init__(self) -> None:
        self.stdout = asyncio.StreamReader()
        self.stdin = self
        self.asked: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.asked.append(line)

    async def drain(self) -> None:
        await asyncio.sleep(0)


@about("ServerProcess.ask", "ServerProcess.statistics")
async def asking(run: CancelledRun) -> None:
    process = Process()
    server = ServerProcess(process)  # type: ignore[arg-type]  # as much of a process as it uses

    async def answer() -> None:
        await settle(3)
        for number in range(answered, len(process.asked)):
            process.stdout.feed_data(b"%d\n" % (number + 1))

    answered = 0
    run.begin(server.statistics())
    await answer()
    answered = len(process.asked)
    await run.end()
    again = asyncio.create_task(server.ask("statistics"))
    await answer()
    # An unread answer must not answer the next question.
    assert await again == len(process.asked)


@about("ServerProcess.run")
async def apart(run: CancelledRun) -> None:
    settings = ServerSettings(accounts={ONE: 1}, service="fixed:1s", seed="7", token=Secret("canary"))

    async def use() -> None:
        async with ServerProcess.run(settings) as server:
            assert server.url.startswith("http://127.0.0.1")

    await run.through(use())
