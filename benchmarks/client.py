"""Time and memory of fetching the account map, compared with bare aiohttp and `json.loads`.

The server runs in a process of its own and answers with fixed bytes. Bare checks nothing and keeps a dict.
"""

import asyncio
import json
import multiprocessing
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any, Final

import aiohttp
from aiohttp import web

from benchmarks.measure import ROUNDS, Row, Subject, compare, count
from benchmarks.parse import body
from pika_balancer import PikaClient, Selector
from pika_balancer.client.responses import read_accounts

SIZES: Final = (10, 100, 1000, 10_000)
TOKEN: Final = "user:1-benchmark"  # noqa: S105 - opens nothing but the server started here
TURNS: Final = 20


def serve(pipe: Connection) -> None:
    """Answer `/N/account` with a map of N accounts, until killed; report the port."""
    bodies = {str(size): body(size) for size in SIZES}

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=bodies[request.match_info["size"]], content_type="application/json")

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/{size}/account", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


def of(runner: asyncio.Runner, work: Callable[[], Awaitable[Any]], turns: int) -> Subject:
    """Return a round of fetches, one after the other; seconds per fetch."""

    async def fetches() -> float:
        begin = time.perf_counter()
        for _ in range(turns):
            await work()
        return (time.perf_counter() - begin) / turns

    return lambda: runner.run(fetches())


def bare(session: aiohttp.ClientSession, url: str) -> Callable[[], Awaitable[Any]]:
    """Return a GET and `json.loads`, without a check."""

    async def fetch() -> Any:
        async with session.get(url, headers={"Authorization": f"Bearer {TOKEN}"}) as response:
            response.raise_for_status()
            return json.loads(await response.read())

    return fetch


def weight(make: Callable[[], object]) -> int:
    """Return the memory that the result of `make` occupies, in bytes."""
    make()
    tracemalloc.start()
    try:
        kept = make()
        size, _ = tracemalloc.get_traced_memory()
        del kept
    finally:
        tracemalloc.stop()
    return size


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure and return the rows."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,), daemon=True)
    server.start()
    found: list[Row] = []
    try:
        address = f"http://127.0.0.1:{here.recv()}"
        with asyncio.Runner() as runner:
            for size in SIZES:
                found += at(runner, f"{address}/{size}", size, rounds)
    finally:
        server.terminate()
        server.join()
    data = body(10_000)
    plain = count("client", "json.loads, memory of 10,000 accounts", weight(lambda: json.loads(data)), "B")
    accounts = weight(lambda: read_accounts(data))
    selector = weight(lambda: Selector(read_accounts(data).values()))
    return [
        *found,
        plain,
        count("client", "read_accounts, memory of 10,000 accounts", accounts, "B", plain),
        count("client", "with a Selector over them", selector, "B", plain),
    ]


def at(runner: asyncio.Runner, url: str, size: int, rounds: int) -> list[Row]:
    """Measure a map of one size."""
    session, client = runner.run(_open(url))
    plain, ours = f"aiohttp + json.loads, {size:,} accounts", f"PikaClient.accounts, {size:,} accounts"
    turns = max(1, TURNS * 10 // (10 + size // 100))
    try:
        return compare(
            "client",
            {
                plain: of(runner, bare(session, f"{url}/account"), turns),
                ours: of(runner, client.accounts, turns),
            },
            plain,
            rounds=rounds,
        )
    finally:
        runner.run(session.close())
        runner.run(client.close())


async def _open(url: str) -> tuple[aiohttp.ClientSession, PikaClient]:
    return aiohttp.ClientSession(), PikaClient(TOKEN, base_url=url)
