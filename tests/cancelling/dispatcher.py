"""`Dispatcher` on a real socket: a job is sent at most once, and followed with its slot if it was sent."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from pika_balancer import Account, Balancer, Closed, Dispatcher, JobHandle, PikaClient
from pika_balancer.store import Store
from pika_balancer.testing import settle
from tests.cancelling.balancer import in_memory, on_server
from tests.cancelling.cancel_point import CancelledRun, about, eventually
from tests.dispatch.conftest import ONE, Answer, Service

RECORD = {"version": 1, "verb": "create", "reply_ref": "w.1", "channel": ONE}


class Desk:
    """A service, and a new dispatcher over one account with two slots."""

    def __init__(self, service: Service, client: PikaClient, store: Store) -> None:
        self.service = service
        self.client = client
        self.balancer = Balancer([Account(ONE, max_jobs=2)], store=store)
        self.dispatcher = self.another()

    def another(self) -> Dispatcher:
        return Dispatcher(
            self.client, self.balancer, name="w", poll_every=0.01, search_for=0.05, rng=random.Random(1)
        )

    @property
    def in_flight(self) -> int:
        return self.balancer.snapshot().in_flight

    async def calm(self) -> None:
        """Return once every request has its answer."""
        await settle(5)
        await eventually(
            lambda: (
                not self.balancer.statistics().waiters
                and all(handle.jobid is not None for handle in self.dispatcher.handles)
                and self.in_flight == len(self.service.executing)
            )
        )
        await settle(5)

    async def works(self, dispatcher: Dispatcher | None = None) -> None:
        """Assert that every sent job is followed with its slot, and that another job can run."""
        dispatcher = dispatcher or self.dispatcher
        running = self.service.executing
        await eventually(lambda: sorted(str(h.jobid) for h in dispatcher.handles) == sorted(running))
        await eventually(lambda: self.in_flight == len(running))
        self.service.end_all()
        await eventually(lambda: not dispatcher.handles)
        await eventually(lambda: self.in_flight == 0)
        sent = len(self.service.posts)
        handle = await dispatcher.submit("create", prompt="a cat", timeout=60)
        self.service.end_all()
        assert (await handle).status == "completed"
        assert len(self.service.posts) == sent + 1
        await eventually(lambda: self.in_flight == 0)


@asynccontextmanager
async def desk(run: CancelledRun, *, shared: bool) -> AsyncGenerator[Desk]:
    """Open everything but the dispatcher; the caller enters and leaves it."""
    service = Service()
    async with (
        service.run() as url,
        PikaClient("user:canary", base_url=url, retries=0) as client,
        (on_server if shared else in_memory)(run) as store,
    ):
        desk = Desk(service, client, store)
        async with desk.balancer:
            yield desk
            await desk.dispatcher.close()


Steps = Callable[[CancelledRun, Desk], Awaitable[None]]


def at_each_desk(*names: str) -> Callable[[Steps], Steps]:
    """Register a scenario twice: in memory, and with the counts on a server."""

    def register(steps: Steps) -> Steps:
        def at(where: str) -> None:
            async def scenario(run: CancelledRun) -> None:
                async with desk(run, shared=where == "shared") as opened:
                    await steps(run, opened)

            scenario.__name__ = f"{steps.__name__}_{where}"
            about(*names, again=where == "shared")(scenario)

        at("alone")
        at("shared")
        return steps

    return register


@at_each_desk("Dispatcher.submit")
async def submit(run: CancelledRun, desk: Desk) -> None:
    async with desk.dispatcher:
        if await run.through(desk.dispatcher.submit("create", prompt="a cat")):
            assert len(desk.service.posts) == 1
        await desk.calm()
        assert len(desk.service.posts) <= 1
        await desk.works()


@at_each_desk("Dispatcher.submit")
async def submit_in_line(run: CancelledRun, desk: Desk) -> None:
    async with desk.dispatcher:
        held = [await desk.balancer.acquire() for _ in range(2)]
        run.begin(desk.dispatcher.submit("button", jobid=desk.service.take(), timeout=30))
        await eventually(lambda: run.is_over or bool(desk.balancer.statistics().waiters))
        desk.service.end_all()
        for lease in held:
            await desk.balancer.release(lease)
        await run.end()
        await desk.calm()
        assert len(desk.service.posts) <= 1
        await desk.works()


@at_each_desk("Dispatcher.submit")
async def submit_that_is_refused(run: CancelledRun, desk: Desk) -> None:
    # First the submit fails, then its answer is lost: the job is found and not sent again.
    desk.service.script += [
        Answer(429, {"error": "full", "executingJobs": []}, {"Retry-After": "0"}),
        Answer(200, accepted=True, drop=True),
    ]
    async with desk.dispatcher:
        await desk.balancer.update([Account(ONE, max_jobs=2), Account(str(int(ONE) + 1), max_jobs=2)])
        await run.through(desk.dispatcher.submit("create", prompt="a cat", timeout=60))
        await desk.calm()
        assert len(desk.service.posts) <= 2
        desk.service.script.clear()
        for channel in (ONE, str(int(ONE) + 1)):
            await desk.balancer.resume(channel)
        await desk.works()


@at_each_desk("Dispatcher.run")
async def run(run: CancelledRun, desk: Desk) -> None:
    async with desk.dispatcher:
        run.begin(desk.dispatcher.run("create", prompt="a cat"))
        await eventually(lambda: run.is_over or bool(desk.dispatcher.handles))
        await desk.calm()
        if desk.dispatcher.handles:
            desk.service.end_all()
        if await run.end():
            assert run.result.status == "completed"
        await desk.calm()
        assert len(desk.service.posts) <= 1
        await desk.works()


@at_each_desk("JobHandle.__await__")
async def handle_awaited(run: CancelledRun, desk: Desk) -> None:
    async with desk.dispatcher:
        handle = await desk.dispatcher.submit("create", prompt="a cat")
        run.begin(handle)
        await settle(3)
        desk.service.end_all()
        await run.end()
        assert (await handle).status == "completed"
        await desk.works()


@at_each_desk("JobHandle.__aiter__")
async def handle_read(run: CancelledRun, desk: Desk) -> None:
    async def read(handle: JobHandle) -> list[str]:
        return [job.status async for job in handle]

    async with desk.dispatcher:
        handle = await desk.dispatcher.submit("create", prompt="a cat")
        run.begin(read(handle))
        await settle(3)
        desk.service.end_all()
        await run.end()
        assert (await read(handle))[-1] == "completed"
        await desk.works()


@at_each_desk("Batch.__anext__")
async def batch(run: CancelledRun, desk: Desk) -> None:
    async def consume() -> int:
        async with aclosing(desk.dispatcher.map({"prompt": str(number)} for number in range(3))) as outcomes:
            return len([outcome async for outcome in outcomes])

    async with desk.dispatcher:
        run.begin(consume())
        while not run.is_over:
            desk.service.end_all()
            await asyncio.sleep(0.001)
        if await run.end():
            assert run.result == len(desk.service.posts) == 3
        await desk.calm()
        assert len(desk.service.refs) == len(set(desk.service.refs)) <= 3
        await desk.works()


@at_each_desk("Batch.aclose")
async def batch_closed(run: CancelledRun, desk: Desk) -> None:
    async def source() -> AsyncGenerator[dict[str, Any]]:
        yield {"prompt": "first"}
        yield {"prompt": "second"}
        await asyncio.Event().wait()

    async with desk.dispatcher:
        outcomes = desk.dispatcher.map(source(), concurrency=3)
        first = asyncio.ensure_future(anext(outcomes))
        await eventually(lambda: len(desk.dispatcher.handles) == 2)
        await desk.calm()
        desk.service.end(desk.service.executing[0])
        await first
        await run.through(outcomes.aclose())
        await outcomes.aclose()
        assert len(desk.service.posts) == 2
        await desk.works()


@at_each_desk("Dispatcher.reconcile")
async def reconcile(run: CancelledRun, desk: Desk) -> None:
    theirs, ours = desk.service.take(), desk.service.take(ref="w.1")
    told = []
    if await run.through(desk.dispatcher.reconcile()):
        told += run.result
    # The next call returns what a cancelled one found.
    told += await desk.dispatcher.reconcile()
    assert [handle.jobid for handle in told] == [ours]
    assert desk.in_flight == 2
    desk.service.end(theirs)
    await desk.dispatcher.reconcile()
    await desk.works()


@at_each_desk("Dispatcher.resume")
async def resume(run: CancelledRun, desk: Desk) -> None:
    records = [
        RECORD | {"jobid": desk.service.take(ref="w.1")},
        RECORD | {"jobid": None, "reply_ref": "w.2"},
    ]
    second = desk.service.take(ref="w.2")
    await run.through(desk.dispatcher.resume(records))
    handles = await desk.dispatcher.resume(records)
    assert [handle.reply_ref for handle in handles] == ["w.1", "w.2"]
    await eventually(lambda: handles[1].jobid == second)
    assert set(handles) == set(desk.dispatcher.handles)
    await desk.works()


@at_each_desk("Dispatcher.drain")
async def drain(run: CancelledRun, desk: Desk) -> None:
    await desk.dispatcher.submit("create", prompt="a cat")
    run.begin(desk.dispatcher.drain())
    await settle(5)
    desk.service.end_all()
    await run.end()
    assert await desk.dispatcher.drain() == []
    await eventually(lambda: desk.in_flight == 0)


@at_each_desk("Dispatcher.drain")
async def drain_of_what_runs_on(run: CancelledRun, desk: Desk) -> None:
    handle = await desk.dispatcher.submit("create", prompt="a cat")
    waiting = asyncio.create_task(_outcome(handle))
    await run.through(desk.dispatcher.drain(timeout=0))
    records = await desk.dispatcher.drain(timeout=0)
    assert [record["jobid"] for record in records] == desk.service.executing
    assert isinstance(await waiting, Closed)
    # The renaming of the slot may still be in progress.
    await eventually(lambda: desk.in_flight == 1)
    desk.dispatcher = desk.another()
    async with desk.dispatcher:
        await desk.dispatcher.resume(records)
        await desk.works()


@at_each_desk("Dispatcher.close")
async def close(run: CancelledRun, desk: Desk) -> None:
    handle = await desk.dispatcher.submit("create", prompt="a cat")
    waiting = asyncio.create_task(_outcome(handle))
    # Its jobs are followed, and a job of unknown fate is searched for.
    desk.service.take()
    await desk.dispatcher.reconcile()
    await desk.dispatcher.resume([RECORD | {"jobid": None}])
    polls = len(desk.service.gets)
    await run.through(desk.dispatcher.close())
    if run.point:
        # A cancelled close leaves no task.
        await eventually(waiting.done)
        await desk.client.close()
        await settle(5)
        assert not desk.dispatcher.handles
        assert len(desk.service.gets) <= polls + 2
    await desk.dispatcher.close()
    assert isinstance(await waiting, Closed)
    await eventually(lambda: desk.in_flight == 3)
    for lease in desk.balancer.adopted().values():
        await desk.balancer.release(lease)


@at_each_desk("Dispatcher.__aenter__", "Dispatcher.__aexit__")
async def context(run: CancelledRun, desk: Desk) -> None:
    desk.service.take()

    async def use() -> None:
        async with desk.dispatcher as dispatcher:
            await dispatcher.submit("create", prompt="a cat")
            desk.service.end_all()

    await run.through(use())
    await desk.dispatcher.close()
    desk.service.end_all()
    desk.dispatcher = desk.another()
    async with desk.dispatcher:
        await eventually(lambda: desk.in_flight == 0)
        await desk.works()


async def _outcome(handle: JobHandle) -> object:
    try:
        return await handle
    except Closed as error:
        return error
