"""`PikaClient` on a real socket: after a cancellation it can make the next call and be closed."""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from pika_balancer import PikaClient
from tests.cancelling.cancel_point import CancelledRun, Scenario, about
from tests.raw_server import Connection, RawServer, reply

JOB: Final = b'{"jobid": "job:1", "status": "started", "channel": "100000000000000001"}'
ACCOUNT: Final = b'{"channel": "100000000000000001", "maxJobs": 2, "discord": "a.b.c"}'
CHANNEL: Final = "100000000000000001"


async def answers(connection: Connection) -> None:
    """Answer in two pieces, so that a call awaits head and body."""
    while True:
        request = await connection.request()
        body = b"[]"
        if "/account" in request.target:
            body = ACCOUNT if CHANNEL in request.target else b'{"%s": %s}' % (CHANNEL.encode(), ACCOUNT)
        elif request.method == "POST" or "jobid=" in request.target:
            body = JOB
        head = reply(200, b"", length=len(body))
        await connection.send(head)
        await connection.send(body)


@asynccontextmanager
async def service() -> AsyncGenerator[RawServer]:
    async with RawServer(answers) as server:
        yield server


def client_of(server: RawServer, address: str = "") -> PikaClient:
    return PikaClient("user:canary", base_url=address or server.url, retries=0, rng=random.Random(1))


Call = Callable[[PikaClient], Awaitable[Any]]
PICTURE: Final = b"\x89PNG a picture"
FILE: Final = Path(__file__)
CALLS: Final[dict[str, Call]] = {
    "accounts": lambda client: client.accounts(),
    "account": lambda client: client.account(CHANNEL),
    "put_account": lambda client: client.put_account(CHANNEL, discord="a.b.c", max_jobs=2),
    "delete_account": lambda client: client.delete_account(CHANNEL),
    "create": lambda client: client.create("a cat"),
    "animate": lambda client: client.animate(FILE, prompt="a cat"),
    "encrypt_text": lambda client: client.encrypt_text("hush", "a cat"),
    "encrypt_image": lambda client: client.encrypt_image(PICTURE, "a cat", image=PICTURE),
    "button": lambda client: client.button("job:1"),
    "prepare": lambda client: client.prepare("animate", image=FILE),
    "jobs": lambda client: client.jobs(),
    "job": lambda client: client.job("job:1"),
}


def call(name: str) -> Scenario:
    async def scenario(run: CancelledRun) -> None:
        async with service() as server, client_of(server) as client:
            await run.through(CALLS[name](client))
            posts = server.methods.count("POST")
            assert posts <= 1
            assert await client.jobs() == []

    return scenario


for name in CALLS:
    about(f"PikaClient.{name}")(call(name))


@about("PikaClient.send")
async def send(run: CancelledRun) -> None:
    async with service() as server, client_of(server) as client:
        prepared = await client.prepare("create", prompt="a cat")
        await run.through(client.send(prepared, reply_ref="mine"))
        assert server.methods.count("POST") <= 1
        # A prepared submit can still be sent.
        assert (await client.send(prepared, reply_ref="another")).jobid == "job:1"


@about("PikaClient.close")
async def close(run: CancelledRun) -> None:
    async with service() as server:
        client = client_of(server)
        await client.jobs()
        await run.through(client.close())
        if run.point:
            assert "closed" in repr(client)
        await client.close()
        assert "closed" in repr(client)


@about("PikaClient.__aenter__", "PikaClient.__aexit__")
async def context(run: CancelledRun) -> None:
    async with service() as server:
        client = client_of(server)

        async def use() -> None:
            async with client:
                await client.jobs()

        await run.through(use())
        assert ("closed" in repr(client)) == (run.point > 0)
        await client.close()
