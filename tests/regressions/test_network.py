"""Regressions of the way to the service and back."""

import asyncio
import gzip
import json
import math
import traceback
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest

from pika_balancer import (
    ConnectFailed,
    InvalidResponse,
    PikaClient,
    PikaError,
    RequestTimeout,
    Unauthorized,
    UnexpectedStatus,
    WrongLoop,
)
from pika_balancer.client.responses import read_accounts
from tests.raw_server import Connection, RawServer, Script, reply

TOKEN = "user:canary-of-the-api"
DISCORD = "MTAw.canary.of-discord"
FORM = {"prompt": "a cat", "discord": DISCORD}


@asynccontextmanager
async def both(
    script: Script, *, timeout: float = 60.0, retries: int = 0, max_body: int = 2**20
) -> AsyncGenerator[tuple[RawServer, aiohttp.ClientSession, PikaClient]]:
    """Yield a server with that script, a plain session of aiohttp and a client, both with its address."""
    async with RawServer(script) as server:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            aiohttp.ClientSession(server.url, headers=headers) as session,
            PikaClient(
                TOKEN, base_url=server.url, timeout=timeout, retries=retries, max_body=max_body
            ) as client,
        ):
            yield server, session, client


async def error_of(call: Awaitable[object]) -> BaseException:
    """Return what was raised."""
    try:
        await call
    except Exception as error:  # noqa: BLE001 - the test checks which one
        return error
    raise AssertionError("nothing was raised")


async def takes_the_job_and_resets(connection: Connection) -> None:
    await connection.request()
    connection.reset()


async def test_a_post_repeated_is_a_second_billed_job() -> None:
    async with both(takes_the_job_and_resets, retries=2) as (server, session, client):

        async def naive() -> None:
            for _ in range(3):
                try:
                    async with session.post("/create", data=FORM):
                        return
                except aiohttp.ClientError:
                    continue

        await naive()
        assert server.methods == ["POST"] * 3
        server.requests.clear()
        assert isinstance(await error_of(client.create("a cat", discord=DISCORD)), PikaError)
        assert server.methods == ["POST"]


def says(*pieces: bytes, stay: bool = False) -> Script:
    """Return a script that answers every request with these bytes."""

    async def script(connection: Connection) -> None:
        await connection.request()
        for piece in pieces:
            await connection.send(piece)
        if stay:
            await connection.gone()

    return script


async def test_client_error_is_not_all_that_can_be_raised() -> None:
    """A timeout, bad encoding, deep nesting and an empty body raise no `ClientError` in aiohttp."""

    async def naive(session: aiohttp.ClientSession, seconds: float) -> object:
        async with session.get("/jobs", timeout=aiohttp.ClientTimeout(total=seconds)) as response:
            return await response.json(content_type=None)

    answers: dict[str, tuple[Script, type[BaseException] | None]] = {
        "silence": (says(stay=True), TimeoutError),
        "no UTF-8": (says(reply(200, b'"\xff"')), UnicodeError),
        "no JSON": (says(reply(200, b"<html>")), ValueError),
        "depth": (says(reply(200, b"[" * 100_000)), RecursionError),
        "nothing": (says(reply(200, b"")), None),
    }
    for name, (script, foreign) in answers.items():
        seconds = 0.2 if name == "silence" else 60
        async with both(script, timeout=seconds) as (_, session, client):
            if foreign is None:
                assert await naive(session, seconds) is None, name
            else:
                error = await error_of(naive(session, seconds))
                assert isinstance(error, foreign), name
                assert not isinstance(error, aiohttp.ClientError), name
            assert isinstance(await error_of(client.jobs()), PikaError), name
    assert isinstance(await error_of(_with_a_line_break()), PikaError)


async def _with_a_line_break() -> None:
    PikaClient("token\r\nX-Evil: 1", base_url="http://127.0.0.1:1")


async def test_errors_hold_the_bearer_token() -> None:
    refusal = json.dumps({"error": f"no such token {TOKEN}", "code": 401}).encode()
    async with both(says(reply(401, refusal))) as (_, session, client):

        async def naive() -> None:
            async with session.get("/jobs") as response:
                response.raise_for_status()

        def told(error: BaseException) -> str:
            seen = traceback.TracebackException.from_exception(error, capture_locals=True)
            request = getattr(error, "request_info", None)
            return "".join([*seen.format(), repr(error), repr(error.args), repr(request and request.headers)])

        error = await error_of(client.jobs())
        assert isinstance(error, Unauthorized)
        assert TOKEN in told(await error_of(naive()))
        assert TOKEN not in told(error)


async def test_a_redirect_is_sent_the_body_again() -> None:
    async with RawServer(says(reply(200, b'{"jobid": "evil"}'))) as elsewhere:
        script = says(reply(307, headers={"Location": f"{elsewhere.url}/create"}))
        async with both(script) as (_, session, client):
            async with session.post("/create", data=FORM):
                pass
            assert DISCORD.encode() in elsewhere.requests.pop().body
            assert isinstance(await error_of(client.create("a cat", discord=DISCORD)), UnexpectedStatus)
            assert elsewhere.requests == []


async def test_a_small_gzip_becomes_a_large_body() -> None:
    bomb = gzip.compress(b"[" + b" " * 30_000_000 + b"]")
    assert len(bomb) < 40_000

    async def peak(call: Callable[[], Awaitable[object]]) -> int:
        tracemalloc.start()
        try:
            await call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    async with both(says(reply(200, bomb, headers={"Content-Encoding": "gzip"}))) as (_, session, client):

        async def naive() -> None:
            async with session.get("/jobs") as response:
                await response.read()

        async def ours() -> None:
            assert isinstance(await error_of(client.jobs()), InvalidResponse)

        assert await peak(naive) > 30_000_000
        assert await peak(ours) < 4 * 2**20


async def test_a_drip_outlasts_the_time_limit_of_a_read() -> None:
    async def drips(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n")
        await connection.drip(b" ")

    async with both(drips, timeout=1.2) as (_, session, client):

        async def naive() -> None:
            async with session.get(
                "/jobs", timeout=aiohttp.ClientTimeout(total=None, sock_read=1)
            ) as response:
                await response.read()

        endless = asyncio.create_task(naive())
        async with asyncio.timeout(60):  # the whole answer takes longer
            assert isinstance(await error_of(client.jobs()), RequestTimeout)
        await asyncio.sleep(0)
        assert not endless.done()
        endless.cancel()
        await asyncio.gather(endless, return_exceptions=True)


def test_no_value_is_converted_to_its_type() -> None:
    assert msgspec.json.decode('{"cap": "7"}', type=dict[str, int], strict=False) == {"cap": 7}
    assert math.isnan(json.loads('{"x": NaN}')["x"])
    for entry in (
        '{"channel": null, "maxJobs": 1}',
        '{"channel": 1, "maxJobs": 1}',
        '{"maxJobs": true}',
        '{"maxJobs": "7"}',
        '{"maxJobs": 7.0}',
        '{"maxJobs": 18446744073709551616}',
        '{"maxJobs": NaN}',
        '{"maxJobs": Infinity}',
    ):
        body = f'{{"1": {entry}}}'.encode()
        with pytest.raises(InvalidResponse):
            read_accounts(body)


def test_a_session_of_one_event_loop_dies_in_the_next() -> None:
    async def begin() -> tuple[aiohttp.ClientSession, PikaClient]:
        client = PikaClient(TOKEN, base_url="http://127.0.0.1:1", retries=0)
        assert isinstance(await error_of(client.jobs()), ConnectFailed)
        return aiohttp.ClientSession(), client

    async def naive(session: aiohttp.ClientSession) -> None:
        async with asyncio.timeout(60), session.get("http://127.0.0.1:1"):
            pass

    with asyncio.Runner() as home, asyncio.Runner() as away:
        session, client = home.run(begin())
        assert not isinstance(away.run(error_of(naive(session))), PikaError)
        error = away.run(error_of(client.jobs()))
        assert isinstance(error, WrongLoop)
        assert "event loop" in str(error)
        home.run(session.close())
        home.run(client.close())
