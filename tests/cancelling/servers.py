"""Servers, clocks and waits: no socket stays open, and after a cancellation they can be used again."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp

from pika_balancer._util.tasks import shielded
from pika_balancer.clock import SystemClock, alarm
from pika_balancer.dispatch.webhook import Webhook
from pika_balancer.loadtest.server_process import serve
from pika_balancer.server import LocalServer
from pika_balancer.testing import ManualClock, settle, wait_until
from tests.cancelling.cancel_point import CancelledRun, about
from tests.dispatch.conftest import ONE

TOKEN = {"Authorization": "Bearer canary"}


@asynccontextmanager
async def visitor() -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=TOKEN) as session:
        yield session


async def asks(
    session: aiohttp.ClientSession, url: str, status: int, body: dict[str, str] | None = None
) -> None:
    """Make one request; shield it: asyncio loses a connection that arrives while a server closes."""
    form = None if body is None else aiohttp.FormData(body, default_to_multipart=True)
    async with session.request("GET" if body is None else "POST", url, data=form) as answer:
        assert answer.status == status, await answer.text()


@about("LocalServer.run")
async def local_server(run: CancelledRun) -> None:
    server = LocalServer({ONE: 2}, service="fixed:60s")

    async def visit(session: aiohttp.ClientSession) -> None:
        async with server.run() as url:
            await shielded(asks(session, f"{url}/jobs/", 200))

    async with visitor() as session:
        await run.through(visit(session))
        await visit(session)


@about("LocalServer.run")
async def local_server_that_still_reports(run: CancelledRun) -> None:
    connected: list[asyncio.StreamWriter] = []
    server = LocalServer({ONE: 2}, service="fixed:0s")
    before = asyncio.all_tasks()
    receiver = await asyncio.start_server(lambda _, writer: connected.append(writer), "127.0.0.1", 0)
    port = receiver.sockets[0].getsockname()[1]

    async def visit(session: aiohttp.ClientSession) -> None:
        async with server.run() as url:
            form = {"prompt": "a cat", "replyUrl": f"http://127.0.0.1:{port}/", "replyRef": "mine"}
            await shielded(asks(session, f"{url}/create", 200, form))
            # The report has been sent, and its receiver does not answer.
            await shielded(wait_until(lambda: bool(connected)))

    async with visitor() as session:
        await run.through(visit(session))
        # A second cancellation interrupts the cleanup; the next run finishes it.
        if run.how != "twice":
            assert asyncio.all_tasks() <= before, "a report goes on without its server"
        receiver.close()
        for writer in connected:
            writer.close()
    async with server.run():
        pass


@about("Webhook.run")
async def callbacks(run: CancelledRun) -> None:
    receiver = Webhook()

    async def visit(session: aiohttp.ClientSession) -> None:
        async with receiver.run() as url:
            await shielded(asks(session, url, 400, {}))

    async with visitor() as session:
        await run.through(visit(session))
        await visit(session)
    assert "an unknown address" in repr(receiver)


@about("serve")
async def serving(run: CancelledRun) -> None:
    settings = {"accounts": {ONE: 1}, "token": "canary", "service": "fixed:1s", "faults": [], "seed": "7"}
    told: list[str] = []
    lines = iter(["statistics", ""])

    async def asked() -> str:
        await asyncio.sleep(0)
        return next(lines)

    await run.through(serve(settings, asked, told.append))
    lines = iter(["statistics", ""])
    told.clear()
    await serve(settings, asked, told.append)
    assert len(told) == 2


@about("ManualClock.sleep")
async def manual_sleep(run: CancelledRun) -> None:
    clock = ManualClock()
    run.begin(clock.sleep(5))
    await clock.advance(5)
    await run.end()
    assert (clock.now(), clock.sleeping) == (5, 0)


@about("ManualClock.advance")
async def manual_advance(run: CancelledRun) -> None:
    clock = ManualClock()
    rung: list[float] = []
    for moment in (1, 2):
        clock.call_later(moment, lambda: rung.append(clock.now()))
    await run.through(clock.advance(2))
    await clock.advance(2 - min(clock.now(), 2))
    assert (rung, clock.now()) == ([1, 2], 2)


@about("settle")
async def settling(run: CancelledRun) -> None:
    await run.through(settle(3))


@about("wait_until")
async def waiting(run: CancelledRun) -> None:
    over = asyncio.Event()
    run.begin(wait_until(over.is_set))
    await settle(3)
    over.set()
    await run.end()


@about("SystemClock.sleep")
async def system_sleep(run: CancelledRun) -> None:
    await run.through(SystemClock().sleep(0.001))


@about("alarm")
async def alarms(run: CancelledRun) -> None:
    clock = ManualClock()

    async def watched() -> None:
        async with asyncio.timeout(None) as window, alarm(window, clock, 5):
            await asyncio.sleep(0)

    await run.through(watched())
    assert clock.sleeping == 0
