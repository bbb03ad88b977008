"""Compares a job through `Dispatcher` with a bare aiohttp POST of the same body.

The local server runs in a child process, with service times of 0. The bare subject is one POST and its JSON.
Ours acquires a slot, checks the request and the answer, learns of the end by a callback or a poll, and
releases the slot: two HTTP exchanges instead of one. Bare aiohttp with a callback, or with a GET of the job,
is measured, too.
"""

import asyncio
import contextlib
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Final

import aiohttp
from aiohttp import web

from benchmarks.measure import ROUNDS, Row, Subject, compare
from pika_balancer import Balancer, Dispatcher, PikaClient
from pika_balancer.client import requests
from pika_balancer.dispatch.webhook import Webhook

CONCURRENCY: Final = 32
JOBS: Final = 320
TOKEN: Final = "user:1-benchmark"  # noqa: S105 - only for the server started here
AIM: Final = 2.0
"""Twice the time per job."""

Work = Callable[[], Awaitable[Any]]
Ended = dict[str, asyncio.Future[Any]]


@contextlib.contextmanager
def server() -> Generator[str]:
    """Run the local server with 100 slots in a child process, and yield its base URL."""
    command = [sys.executable, "-m", "pika_balancer", "serve", "--port", "0"]
    options = ["--accounts", "10x10", "--service", "fixed:0s"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            greeting = process.stdout.readline() if process.stdout is not None else ""
            found = re.search(r"http://\S+", greeting)
            if found is None:
                raise RuntimeError(f"the server printed no address: {greeting!r}")
            yield found[0]
        finally:
            process.terminate()
            process.communicate()


def bare_post(session: aiohttp.ClientSession, url: str, reply_url: str | None = None) -> Work:
    """Return a POST of the body that the client would send, with the JSON of its answer."""
    numbers, channels = itertools.count(), itertools.cycle(_channels())

    async def post() -> Any:
        ref = f"bare.{next(numbers):032x}"
        values = {"prompt": "a cat", "channel": next(channels), "reply_ref": ref, "reply_url": reply_url}
        content_type, body = requests.submit("create", values).encode("0" * 32) or ("", b"")
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": content_type}
        async with session.post(f"{url}/create", data=body, headers=headers) as response:
            response.raise_for_status()
            return json.loads(await response.read())

    return post


def bare_post_and_get(session: aiohttp.ClientSession, url: str) -> Work:
    """Return a POST, and then a GET of the job."""
    post = bare_post(session, url)

    async def both() -> Any:
        job = await post()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with session.get(f"{url}/jobs/", params={"jobid": job["jobid"]}, headers=headers) as response:
            response.raise_for_status()
            return json.loads(await response.read())

    return both


def bare_post_and_callback(session: aiohttp.ClientSession, url: str, reply_url: str, ended: Ended) -> Work:
    """Return a POST, and then the wait for its callback in `ended`."""
    post = bare_post(session, url, reply_url)

    async def both() -> Any:
        job = await post()
        # The callback may arrive before the answer is read.
        return await ended.setdefault(job["jobid"], asyncio.get_running_loop().create_future())

    return both


@contextlib.asynccontextmanager
async def receiver(ended: Ended) -> AsyncGenerator[str]:
    """Run a minimal receiver of callbacks, and yield its URL."""

    async def take(request: web.Request) -> web.Response:
        job = json.loads(await request.read())
        ended.setdefault(job["jobid"], asyncio.get_running_loop().create_future()).set_result(job)
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def create(client: PikaClient) -> Work:
    """Return a submit by the client alone."""
    numbers, channels = itertools.count(), itertools.cycle(_channels())
    return lambda: client.create("a cat", channel=next(channels), reply_ref=f"client.{next(numbers):032x}")


def run(dispatcher: Dispatcher) -> Work:
    """Return a job through the dispatcher."""
    return lambda: dispatcher.run("create", prompt="a cat")


def at_once(runner: asyncio.Runner, work: Work) -> Subject:
    """Return a round of `CONCURRENCY` jobs at a time; seconds per job."""

    async def turns() -> float:
        left = iter(range(JOBS))

        async def one() -> None:
            for _ in left:
                await work()

        begin = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(CONCURRENCY)))
        return (time.perf_counter() - begin) / JOBS

    return lambda: runner.run(turns())


@contextlib.asynccontextmanager
async def subjects(url: str) -> AsyncGenerator[dict[str, Work]]:
    """Open all subjects, and yield them by name."""
    async with (
        aiohttp.ClientSession() as session,
        PikaClient(TOKEN, base_url=url) as client,
        await Balancer.from_client(client) as balancer,
        await Balancer.from_client(client) as other,
    ):
        callbacks, ended = Webhook(), Ended()
        async with (
            callbacks.run(),
            receiver(ended) as reply_url,
            Dispatcher(client, balancer, webhook=callbacks) as called,
            Dispatcher(client, other, poll_every=0.01) as asking,
        ):
            yield {
                "POST": bare_post(session, url),
                "POST + callback": bare_post_and_callback(session, url, reply_url, ended),
                "POST + GET": bare_post_and_get(session, url),
                "PikaClient.create": create(client),
                "Dispatcher, callbacks": run(called),
                "Dispatcher, asking": run(asking),
            }


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure and return the rows."""
    with server() as url, asyncio.Runner() as runner:
        opened = subjects(url)
        measured = {name: at_once(runner, work) for name, work in runner.run(opened.__aenter__()).items()}
        try:
            found: list[Row] = []
            for against, ours in (
                ("POST", ("PikaClient.create", "Dispatcher, callbacks", "Dispatcher, asking")),
                ("POST + callback", ("Dispatcher, callbacks",)),
                ("POST + GET", ("Dispatcher, asking",)),
            ):
                taking_turns = {name: measured[name] for name in (against, *ours)}
                aims = {name: AIM for name in ours if against == "POST" and name.startswith("Dispatcher")}
                found += compare("dispatch", taking_turns, against, rounds=rounds, aims=aims)
            return found
        finally:
            runner.run(opened.__aexit__(None, None, None))


def _channels() -> list[str]:
    return [str(1_100_000_000_000_000_001 + place) for place in range(10)]
