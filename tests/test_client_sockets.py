"""The client on sockets that stall, break and send wrong bytes: typed errors, one POST, bounded memory."""

import asyncio
import gzip
import json
import logging
import random
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pika_balancer.client import transport as transport_module
from pika_balancer.client.client import PikaClient
from pika_balancer.client.requests import Upload
from pika_balancer.errors import (
    ChannelFull,
    Closed,
    ConnectFailed,
    ConnectionLost,
    InvalidResponse,
    PikaError,
    RateLimited,
    RequestTimeout,
    TransportError,
    Unauthorized,
    UnexpectedStatus,
)
from pika_balancer.models import Secret
from pika_balancer.testing import ManualClock, settle, wait_until
from tests.leaks import CANARIES, DISCORD, STORED, TOKEN, found_in, leaks
from tests.raw_server import Connection, RawServer, Script, reply

JOB = b'{"jobid": "job:1", "status": "started"}'
OK = b"HTTP/1.1 200 OK\r\n"

Call = Callable[[PikaClient], Awaitable[Any]]
ONCE: dict[str, Call] = {
    "create": lambda client: client.create("a cat", channel="55", discord=DISCORD, max_jobs=3),
    "animate": lambda client: client.animate(b"x" * 200_000, discord=Secret(DISCORD)),
    "put_account": lambda client: client.put_account("55", discord=DISCORD, max_jobs=3),
    "delete_account": lambda client: client.delete_account("55"),
}


def say(*pieces: bytes, close: bool = True) -> Script:
    """Return a script that reads one request, answers these bytes, and hangs up or waits."""

    async def script(connection: Connection) -> None:
        await connection.request()
        for piece in pieces:
            await connection.send(piece)
        if not close:
            await connection.gone()

    return script


async def resets(connection: Connection) -> None:
    await connection.request()
    connection.reset()


async def resets_at_once(connection: Connection) -> None:
    connection.reset()


async def resets_in_the_head(connection: Connection) -> None:
    await connection.request(body=False)
    connection.reset()


async def hangs_up_at_once(_connection: Connection) -> None:
    return


async def resets_in_the_body(connection: Connection) -> None:
    await connection.request()
    await connection.send(reply(200, JOB, length=1000))
    await asyncio.sleep(0.02)  # lets the head arrive: a reset discards unread bytes
    connection.reset()


async def stalls(connection: Connection) -> None:
    await connection.request()
    await connection.gone()


async def stalls_in_the_body(connection: Connection) -> None:
    await connection.request()
    await connection.send(reply(200, JOB, length=1000))
    await connection.gone()


async def drips_the_head(connection: Connection) -> None:
    await connection.request()
    await connection.send(OK)
    await connection.drip(b"X: y\r\n")


async def drips_the_body(connection: Connection) -> None:
    await connection.request()
    await connection.send(OK + b"Content-Length: 60000\r\n\r\n")
    await connection.drip(b" ")


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FAULTS: dict[str, tuple[Script, type[PikaError]]] = {
    "reset": (resets, ConnectionLost),
    "reset at once": (resets_at_once, ConnectionLost),
    "reset in the request": (resets_in_the_head, ConnectionLost),
    "reset in the body": (resets_in_the_body, ConnectionLost),
    "closed": (say(), ConnectionLost),
    "closed at once": (hangs_up_at_once, ConnectionLost),
    "closed in the status line": (say(b"HTTP/1.1 20"), ConnectionLost),
    "closed in the head": (say(OK + b"Content-"), ConnectionLost),
    "half a body": (say(reply(200, JOB, length=100)), ConnectionLost),
    "cut chunks": (say(CHUNKED + b"27\r\n" + JOB + b"\r\n"), ConnectionLost),
    "bad chunks": (say(CHUNKED, b"zz\r\n" + JOB, close=False), PikaError),
    "bad chunks at once": (say(CHUNKED + b"zz\r\n" + JOB, close=False), InvalidResponse),
    "no HTTP": (say(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", close=False), InvalidResponse),
    "length of letters": (say(OK + b"Content-Length: abc\r\n\r\n{}"), InvalidResponse),
    "negative length": (say(OK + b"Content-Length: -1\r\n\r\n{}"), InvalidResponse),
    "two lengths": (say(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}"), InvalidResponse),
    "huge head": (say(OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n{}"), InvalidResponse),
    "null in the head": (say(OK + b"X: \0\r\n\r\n{}"), InvalidResponse),
    "two digits": (say(b"HTTP/1.1 99 X\r\n\r\n"), InvalidResponse),
    "strange status": (say(b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n"), UnexpectedStatus),
    "switching protocols": (say(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), PikaError),
    "no gzip": (say(reply(200, b"no gzip", headers={"Content-Encoding": "gzip"})), InvalidResponse),
    "half a gzip": (
        say(reply(200, gzip.compress(JOB)[:-12], headers={"Content-Encoding": "gzip"})),
        InvalidResponse,
    ),
    "half a deflate": (
        say(reply(200, zlib.compress(JOB)[:-8], headers={"Content-Encoding": "deflate"})),
        InvalidResponse,
    ),
    "not UTF-8": (say(reply(200, b"\xff\xfe{}")), InvalidResponse),
    "HTML": (say(reply(200, b"<html>", headers={"Content-Type": "text/html"})), InvalidResponse),
    "too large": (say(reply(200, b" " * 70_000)), InvalidResponse),
    "too large by its length": (say(reply(200, JOB, length=10**9), close=False), InvalidResponse),
    "endless": (say(OK + b"\r\n", *[b" " * 10_000] * 10), InvalidResponse),
    "redirect": (say(reply(307, headers={"Location": "/elsewhere"})), UnexpectedStatus),
    "stall": (stalls, RequestTimeout),
    "stall in the body": (stalls_in_the_body, RequestTimeout),
    "drip of the head": (drips_the_head, RequestTimeout),
    "drip of the body": (drips_the_body, RequestTimeout),
}


@asynccontextmanager
async def talking(script: Script, **options: Any) -> AsyncGenerator[tuple[RawServer, PikaClient], None]:
    async with RawServer(script) as server:
        base_url = options.pop("base_url", server.url)
        settings: dict[str, Any] = {"timeout": 0.3, "max_body": 65_536, "rng": random.Random(7)} | options
        async with PikaClient(TOKEN, base_url=base_url, **settings) as client:
            yield server, client


async def fail(awaitable: Awaitable[Any], cls: type[PikaError] = PikaError) -> PikaError:
    with pytest.raises(cls) as caught:
        await awaitable
    return caught.value


# --- every fault, every call ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ONCE)
async def test_a_post_or_delete_is_sent_once_and_fails_with_a_typed_error(name: str, fault: str) -> None:
    script, cls = FAULTS[fault]
    if name in {"put_account", "delete_account"} and fault == "too large":
        cls = InvalidResponse
    async with talking(script, retries=10) as (server, client):
        error = await fail(ONCE[name](client), cls)
        assert (error.__context__, error.__cause__) == (None, None)
        if isinstance(error, TransportError):
            assert error.maybe_sent
        assert server.accepted == 1
        assert len(server.requests) <= 1
        assert leaks(error) == []


@pytest.mark.parametrize("fault", [name for name, (_, cls) in FAULTS.items() if cls is ConnectionLost])
async def test_a_get_is_repeated_exactly_as_often_as_allowed(fault: str) -> None:
    clock = ManualClock()
    async with talking(FAULTS[fault][0], retries=2, clock=clock, timeout=60) as (server, client):
        task = asyncio.create_task(client.job("job:1"))
        while not task.done():
            await asyncio.sleep(0.001)
            await clock.advance(0.05)
        await fail(task, ConnectionLost)
        assert server.accepted == 3


async def test_a_get_succeeds_once_the_server_recovers() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        if connection.number < 2:
            connection.reset()
        else:
            await connection.send(reply(200, JOB))

    async with talking(script, timeout=10) as (server, client):
        assert (await client.job("job:1")).jobid == "job:1"
        assert server.methods == ["GET"] * 3


@pytest.mark.parametrize("name", [*ONCE, "jobs"])
async def test_a_kept_connection_that_breaks_under_a_request_does_not_repeat_it(name: str) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(reply(200, b"[]"))
        await connection.request()

    call: Call = (ONCE | {"jobs": lambda client: client.jobs()})[name]
    async with talking(script, retries=0) as (server, client):
        await client.jobs()
        error = await fail(call(client), ConnectionLost)
        assert isinstance(error, ConnectionLost)
        assert error.maybe_sent
        assert server.accepted == 1
        assert len(server.requests) == 2


ROGUE = reply(200, b'{"jobid": "job:rogue", "status": "started"}')


@pytest.mark.parametrize("rogue", [ROGUE, ROGUE[:-5], b"HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n", b"H", b""])
@pytest.mark.parametrize("read", [True, False])
async def test_a_kept_connection_with_stray_bytes_is_not_reused(rogue: bytes, read: bool) -> None:  # noqa: FBT001 - a case
    asked_for, sent = asyncio.Event(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(reply(200, JOB))
        if connection.number == 0:
            await asked_for.wait()
            await connection.send(rogue)
            sent.set()
            if not rogue:
                return
        await connection.request()
        await connection.send(reply(200, JOB))

    async with talking(script, timeout=10) as (server, client):
        await client.create("x")
        asked_for.set()
        await sent.wait()
        await settle(20 if read or not rogue else 0)
        assert (await client.create("x")).jobid == "job:1"
        assert (await client.create("x")).jobid == "job:1"
        assert (server.accepted, server.methods) == (2, ["POST"] * 3)


async def test_any_bytes_from_the_server_give_a_value_or_a_typed_error() -> None:
    rng = random.Random(11)
    good = reply(200, JOB, headers={"Connection": "close"})

    def mutant() -> bytes:
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 3)] = rng.choice(
                [b"", b"\r\n", b"\0", b"\xff", b":", b'"', rng.randbytes(3), b"chunked", b"9" * 30]
            )
        return bytes(data)

    bodies = [mutant() for _ in range(150)] + [rng.randbytes(rng.randint(0, 200)) for _ in range(50)]

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(bodies[connection.number])

    async with talking(script, retries=0, timeout=5) as (server, client):
        outcomes: set[str] = set()
        while server.accepted < len(bodies):
            try:
                outcomes.add(type(await client.job("job:1")).__name__)
            except PikaError as error:
                outcomes.add(type(error).__name__)
    assert outcomes >= {"Job", "InvalidResponse", "ConnectionLost"}


# --- connecting ----------------------------------------------------------------------------------------


async def test_a_refused_connection_sent_nothing() -> None:
    async with RawServer(say()) as server:
        url = server.url
    async with PikaClient(TOKEN, base_url=url) as client:
        error = await fail(client.create("x"), ConnectFailed)
    assert isinstance(error, ConnectFailed)
    assert not error.maybe_sent
    assert error.message == f"no connection to {url.removeprefix('http://')}: Connection refused"


async def test_a_server_without_tls_is_a_failed_connection() -> None:
    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await connection.gone()

    async with (
        RawServer(script) as server,
        PikaClient(TOKEN, base_url=server.url.replace("http", "https")) as client,
    ):
        error = await fail(client.create("x"), ConnectFailed)
    assert not getattr(error, "maybe_sent", None)


@pytest.mark.parametrize("own", [True, False])
async def test_a_timeout_before_the_body_says_so_in_the_own_session(own: bool) -> None:  # noqa: FBT001 - a case
    async def script(connection: Connection) -> None:
        await connection.gone()

    clock = ManualClock()
    async with RawServer(script) as server:
        url = server.url.replace("http", "https")
        async with aiohttp.ClientSession() as session:
            client = PikaClient(TOKEN, base_url=url, clock=clock, session=None if own else session)
            task = asyncio.create_task(client.create("x"))
            await wait_until(lambda: server.open == 1)
            await clock.advance(30)
            error = await fail(task, RequestTimeout)
            await client.close()
    assert isinstance(error, RequestTimeout)
    assert error.maybe_sent != own


async def test_an_unknown_host_is_a_failed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: Any, **__: Any) -> Any:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    async with PikaClient(TOKEN, base_url="http://pika.invalid") as client:
        error = await fail(client.create("x"), ConnectFailed)
    assert error.message == "no connection to pika.invalid: Name or service not known"


# --- time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [stalls, stalls_in_the_body, drips_the_head, drips_the_body])
async def test_the_deadline_ends_a_call_at_any_stage(script: Script) -> None:
    clock = ManualClock()
    async with talking(script, clock=clock, timeout=30) as (server, client):
        task = asyncio.create_task(client.create("x"))
        await wait_until(lambda: len(server.requests) == 1)
        await clock.advance(29.9)
        assert not task.done()
        await clock.advance(0.2)
        error = await fail(task, RequestTimeout)
        assert isinstance(error, RequestTimeout)
        assert error.maybe_sent
        await wait_until(lambda: server.open == 0)
        assert clock.sleeping == 0


async def test_the_deadline_counts_retries_and_pauses_together() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        if connection.number == 0:
            await connection.send(reply(503, headers={"Retry-After": "20", "Connection": "close"}))
        else:
            await connection.gone()

    clock = ManualClock()
    async with talking(script, clock=clock, timeout=30) as (server, client):
        task = asyncio.create_task(client.jobs())
        await wait_until(lambda: clock.sleeping == 1 and server.open == 0)
        await clock.advance(20)
        await wait_until(lambda: len(server.requests) == 2)
        await clock.advance(9.9)
        assert not task.done()
        await clock.advance(0.2)
        await fail(task, RequestTimeout)


async def test_an_upload_that_the_server_does_not_read_ends_at_the_deadline() -> None:
    async def script(connection: Connection) -> None:
        await connection.request(body=False)
        await connection.silence()

    clock = ManualClock()
    async with talking(script, clock=clock) as (server, client):
        task = asyncio.create_task(client.animate(b"x" * 30_000_000))
        await wait_until(lambda: len(server.requests) == 1)
        await clock.advance(0.3)
        error = await fail(task, RequestTimeout)
        assert isinstance(error, RequestTimeout)
        assert error.maybe_sent


async def test_an_answer_before_the_end_of_the_upload_is_returned_at_once() -> None:
    async def script(connection: Connection) -> None:
        await connection.request(body=False)
        await connection.send(reply(401, b'{"error": "Unauthorized", "code": 401}'))
        await connection.silence()

    async with talking(script, clock=ManualClock()) as (server, client):
        await fail(client.animate(b"x" * 30_000_000), Unauthorized)
        assert len(server.requests) == 1


# --- bodies --------------------------------------------------------------------------------------------


async def test_a_large_upload_arrives_whole(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(3_000_000)
    (tmp_path / "cat.png").write_bytes(content)
    async with talking(say(reply(200, JOB)), timeout=10) as (server, client):
        await client.animate(tmp_path / "cat.png", prompt="ü")
    (request,) = server.requests
    assert request.headers["content-length"] == str(len(request.body))
    assert b"\r\n\r\n" + content + b"\r\n" in request.body
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert "cookie" not in request.headers


@pytest.mark.parametrize("fault", ["half a body", "reset in the body", "stall in the body", "cut chunks"])
async def test_the_id_of_an_accepted_job_survives_a_broken_connection(fault: str) -> None:
    async with talking(FAULTS[fault][0]) as (_, client):
        error = await fail(client.create("x", channel="55"))
    assert (error.status, error.jobid, error.channel) == (200, "job:1", "55")


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_an_error_status_counts_even_if_its_body_breaks_off(status: int) -> None:
    async with talking(say(reply(status, b'{"error": ', length=100))) as (_, client):
        error = await fail(client.create("x"))
    assert error.status == status
    assert not isinstance(error, TransportError)


async def test_a_full_channel_differs_from_a_rate_limit() -> None:
    body = json.dumps({"error": "full", "executingJobs": ["job:7"]}).encode()
    async with talking(say(reply(429, body))) as (_, client):
        error = await fail(client.create("x"), ChannelFull)
        assert error.executing_jobs == ("job:7",)
    async with talking(say(reply(429, b"{}", headers={"Retry-After": "5"}))) as (_, client):
        error = await fail(client.create("x"), RateLimited)
        assert error.retry_after == 5.0


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_answer_is_read_with_any_session(encoding: str, compress: Any) -> None:
    script = say(reply(200, compress(JOB), headers={"Content-Encoding": encoding}), close=True)
    async with (
        aiohttp.ClientSession(auto_decompress=False, raise_for_status=True) as session,
        talking(script, session=session) as (_, client),
    ):
        assert (await client.create("x")).jobid == "job:1"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("own", [True, False])
async def test_a_decompression_bomb_is_refused_in_bounded_memory(encoding: str, own: bool) -> None:  # noqa: FBT001 - a case
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    packed = b"".join([packer.compress(b"[")] + [packer.compress(b" " * 10**6) for _ in range(100)])
    packed += packer.flush()
    limit = 2**20
    session = None if own else aiohttp.ClientSession(read_bufsize=2**30, auto_decompress=False)
    script = say(reply(200, packed, headers={"Content-Encoding": encoding}), close=False)
    async with talking(script, session=session, max_body=limit, timeout=10) as (server, client):
        tracemalloc.start()
        try:
            error = await fail(client.accounts(), InvalidResponse)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert error.message.endswith("$: is larger than 1048576 bytes")
        assert peak < 3 * limit
        await wait_until(lambda: server.open == 0)
    if session is not None:
        await session.close()


async def test_a_body_as_large_as_allowed_is_read() -> None:
    body = b" " * (65_536 - 2) + b"[]"
    async with talking(say(reply(200, body))) as (_, client):
        assert await client.jobs() == []


async def test_an_answer_with_too_large_a_content_length_is_not_read() -> None:
    async with talking(FAULTS["too large by its length"][0], clock=ManualClock()) as (server, client):
        await fail(client.jobs(), InvalidResponse)
        await wait_until(lambda: server.open == 0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_its_target_not_quoted(status: int) -> None:
    async with RawServer(say(reply(200, JOB))) as trap:
        location = {"Location": f"{trap.url}/{TOKEN}"}
        async with talking(say(reply(status, headers=location))) as (server, client):
            error = await fail(client.create("x", discord=DISCORD), UnexpectedStatus)
        assert error.status == status
        assert trap.url.removeprefix("http://") not in error.message
        assert server.methods == ["POST"]
        assert trap.accepted == 0


# --- sessions of the caller ----------------------------------------------------------------------------


async def test_the_middlewares_of_a_callers_session_still_run() -> None:
    seen: list[str] = []

    async def middleware(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        seen.append(request.method)
        return await handler(request)

    async with (
        aiohttp.ClientSession(middlewares=(middleware,)) as session,
        talking(say(reply(200, JOB)), session=session) as (_, client),
    ):
        await client.create("x")
    assert seen == ["POST"]


async def test_a_callers_session_that_raises_for_a_status_changes_no_error() -> None:
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        talking(say(reply(401, b'{"error": "Unauthorized"}')), session=session) as (_, client),
    ):
        error = await fail(client.create("x", discord=DISCORD), Unauthorized)
        assert leaks(error) == []


async def test_the_timeout_of_a_callers_session_is_ignored() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await asyncio.sleep(0.1)
        await connection.send(reply(200, JOB))

    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.02)) as session,
        talking(script, session=session, timeout=10) as (_, client),
    ):
        assert (await client.create("x")).jobid == "job:1"


async def test_a_callers_session_that_cannot_be_used_is_a_typed_error() -> None:
    with pytest.warns(DeprecationWarning, match="auth"):
        session = aiohttp.ClientSession(auth=aiohttp.BasicAuth("user", "pass"))
    async with session, talking(say(reply(200, JOB)), session=session) as (server, client):
        error = await fail(client.create("x"), TransportError)
        assert error.message.endswith("failed: ValueError")
        assert server.requests == []


async def test_a_callers_session_closed_under_a_call_ends_it() -> None:
    async with talking(stalls, timeout=5) as (server, client):
        session = aiohttp.ClientSession()
        theirs = PikaClient(TOKEN, base_url=server.url, session=session)
        task = asyncio.create_task(theirs.create("x"))
        await wait_until(lambda: len(server.requests) == 1)
        await session.close()
        await fail(task, ConnectionLost)
        await fail(theirs.create("x"), Closed)
        assert client is not theirs


async def test_closing_the_client_ends_its_calls() -> None:
    async with talking(stalls, timeout=5) as (server, client):
        post = asyncio.create_task(client.create("x"))
        get = asyncio.create_task(client.jobs())
        await wait_until(lambda: len(server.requests) == 2)
        await client.close()
        error = await fail(post, ConnectionLost)
        assert isinstance(error, ConnectionLost)
        assert error.maybe_sent
        await fail(get, Closed)


# --- cancellation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [stalls, stalls_in_the_body, drips_the_head, drips_the_body])
async def test_a_cancelled_call_leaves_no_task_and_no_connection_and_the_client_usable(
    script: Script,
) -> None:
    async def first_bad(connection: Connection) -> None:
        await (script if connection.number == 0 else say(reply(200, JOB)))(connection)

    async with talking(first_bad, timeout=10) as (server, client):
        task = asyncio.create_task(client.create("x", discord=DISCORD))
        await wait_until(lambda: len(server.requests) == 1)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(lambda: server.open == 0)
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (await client.create("x")).jobid == "job:1"


async def test_cancelled_at_any_tick_a_call_sends_at_most_once_and_the_client_stays_usable() -> None:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(reply(200, JOB))

    ended = 0
    async with talking(script, timeout=10) as (server, client):
        for ticks in range(60):
            before = len(server.requests)
            task = asyncio.create_task(client.create("x", discord=DISCORD))
            await settle(ticks)
            task.cancel()
            try:
                await task
                ended += 1
            except asyncio.CancelledError:
                pass
            assert (await client.create("x")).jobid == "job:1"
            assert len(server.requests) - before <= 2
    assert 0 < ended < 60


# --- secrets -------------------------------------------------------------------------------------------


def test_the_search_for_leaks_finds_them() -> None:
    class Holder:
        __slots__ = ("inner",)

        def __init__(self, inner: Any) -> None:
            self.inner = inner

    for value in (
        TOKEN,
        [{"a": (DISCORD,)}],
        {DISCORD: 1},
        Holder(Holder(TOKEN.encode())),
        Exception(STORED),
    ):
        assert any(canary in text for text in found_in(value, set()) for canary in CANARIES)
    assert leaks(PikaError(TOKEN))
    assert not leaks(PikaError("harmless"))


def echo(*tokens: str) -> bytes:
    """Return an error body with tokens in every field."""
    return json.dumps(
        {
            "error": f"refused {' and '.join(tokens)}",
            "errorDetails": tokens[0],
            "discord": STORED,
            "channel": tokens[-1],
            "jobid": TOKEN,
            "executingJobs": list(tokens),
        }
    ).encode()


CALLS: dict[str, Call] = ONCE | {
    "accounts": lambda client: client.accounts(),
    "job": lambda client: client.job("job:1"),
    "bad create": lambda client: client.create("", discord=DISCORD),
    "bad token": lambda client: client.create("x", discord=DISCORD + "\ud800"),
    "bad put_account": lambda client: client.put_account("55", discord=DISCORD, max_jobs=99),
    "bad upload": lambda client: client.animate(Path("/nowhere"), discord=DISCORD),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [200, 307, 400, 401, 402, 404, 418, 422, 429, 500, 504, 596, 999])
async def test_no_error_shows_a_token_that_the_service_echoes(name: str, status: int) -> None:
    # A token of no known shape, in no known field, cannot be recognised.
    known = (TOKEN, STORED) if name in {"delete_account", "accounts", "job"} else (TOKEN, STORED, DISCORD)
    body = echo(*known)
    if status == 200:
        accounts = {"1": {"discord": STORED, "maxJobs": 0}, **dict.fromkeys(known, 5)}
        body = (
            b"<html>" + body if name in {"put_account", "delete_account"} else json.dumps(accounts).encode()
        )
    async with talking(say(reply(status, body)), retries=0) as (_, client):
        error = await fail(CALLS[name](client))
        assert leaks(error) == []


async def test_a_good_call_leaves_no_token_in_the_client() -> None:
    body = json.dumps({"1": {"discord": STORED}}).encode()
    async with talking(say(reply(200, body))) as (_, client):
        await client.accounts()
        texts = list(found_in(client, set()))
        assert len(texts) > 50
        assert not [text for text in texts if TOKEN in text or STORED in text]


@pytest.mark.parametrize("script", [stalls, stalls_in_the_body])
@pytest.mark.parametrize("name", ["create", "put_account", "job"])
async def test_a_cancellation_carries_no_token_in_its_frames(name: str, script: Script) -> None:
    caught: list[BaseException] = []

    async def cancelled(client: PikaClient) -> None:
        try:
            await CALLS[name](client)
        except asyncio.CancelledError as error:
            caught.append(error)
            raise

    async with talking(script, timeout=10) as (server, client):
        task = asyncio.create_task(cancelled(client))
        await wait_until(lambda: len(server.requests) == 1)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (error,) = caught
        assert leaks(error) == []
        files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)}
        assert not [file for file in files if "aiohttp" in file or file == transport_module.__file__]


class Hurried(random.Random):
    """Draws pauses of 0."""

    def uniform(self, a: float, b: float) -> float:
        return min(a, b)


async def test_no_log_at_any_level_shows_a_token(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    try:
        with caplog.at_level(logging.DEBUG):
            for fault in ("reset", "half a body", "bad chunks", "stall", "no gzip", "redirect", "too large"):
                async with talking(FAULTS[fault][0], timeout=0.2, rng=Hurried()) as (_, client):
                    for name in ("create", "put_account", "accounts"):
                        await fail(CALLS[name](client))
    finally:
        loop.set_debug(False)
    texts = [record.getMessage() + repr(vars(record)) for record in caplog.records]
    assert {record.name for record in caplog.records} >= {"asyncio", "pika_balancer.client.client"}
    assert not [text for text in texts for canary in (TOKEN, DISCORD) if canary in text]


async def test_an_upload_is_not_shown_whole() -> None:
    assert "canary" not in repr(Upload("a.png", b"canary"))
