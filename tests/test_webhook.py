"""The receiver of callbacks on real sockets: told at once, never lost, and harmless whatever is sent."""

import asyncio
import copy
import gzip
import hmac
import io
import json
import logging
import os
import pickle
import re
import socket
import time
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web
from aiohttp.http_exceptions import TransferEncodingError
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from pika_balancer.client.client import PikaClient
from pika_balancer.client.responses import read_job
from pika_balancer.dispatch.webhook import READ_TIMEOUT, Webhook, WebhookStatistics
from pika_balancer.errors import ChannelFull, InvalidArgument, InvalidResponse
from pika_balancer.models import Job, Secret
from pika_balancer.testing import LocalServer, ManualClock, settle, wait_until
from tests.depth import examples

SECRET = "canary-of-the-address_0"
LIMIT = 2**20
JOB: dict[str, Any] = {"jobid": "job:1", "status": "completed", "replyRef": "ref 1", "channel": "55"}
GOOD = json.dumps(JOB).encode()


@attrs.frozen
class Reply:
    """What a sender gets back."""

    status: int
    headers: dict[str, str]
    body: Any


@attrs.frozen
class Rig:
    """A receiver that runs, and what its first subscriber was told."""

    receiver: Webhook
    url: str
    told: list[Job]
    session: aiohttp.ClientSession
    stack: AsyncExitStack
    """Ends when the receiver has ended."""

    async def post(self, body: bytes = GOOD, *, path: str | None = None, method: str = "POST") -> Reply:
        """Send a body as a good sender does, to another path of the same server if one is given."""
        url = URL(self.url if path is None else str(URL(self.url).origin()) + path, encoded=True)
        async with self.session.request(method, url, data=io.BytesIO(body)) as response:
            return Reply(response.status, dict(response.headers), await response.json() if body else None)

    async def open(self, head: str = "", *, target: str | None = None) -> "Wire":
        """Begin a request by hand; `head` has its further lines."""
        url = URL(self.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        self.stack.callback(writer.close)
        lines = [f"POST {target or url.raw_path} HTTP/1.1", "Host: here", *head.split("\n")]
        wire = Wire(reader, writer)
        await wire.send("\r\n".join([*filter(None, lines), "", ""]).encode("latin-1"))
        return wire


@attrs.frozen
class Wire:
    """A sender's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        start, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers["Content-Length"]))
        return Reply(int(start.split()[1]), headers, json.loads(body))

    async def ended(self) -> bool:
        """Return whether the other side hangs up, having said nothing more."""
        return not await self.reader.read(1)

    def close(self) -> None:
        self.writer.close()


def keeping(told: list[Any], answer: Any = True, entry: Any = None) -> Callable[[Job], bool]:  # noqa: FBT002 - what it says
    """Return a subscriber that notes the job, or `entry` in its place, and says `answer`."""

    def take(job: Job) -> bool:
        told.append(job if entry is None else entry)
        result: bool = answer
        return result

    return take


@asynccontextmanager
async def rig(*, mounted: bool = False, takes: bool = True, **options: Any) -> AsyncGenerator[Rig]:
    """Run a receiver, alone or within another server, with one subscriber that takes all jobs or none."""
    told: list[Job] = []
    async with AsyncExitStack() as last, AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        receiver = Webhook(secret=SECRET, **options)
        if mounted:
            app = web.Application(client_max_size=16)
            app.add_subapp("/pika", receiver.app())
            base = await stack.enter_async_context(serving(app))
            url = f"{base}/pika/{SECRET}"
        else:
            url = await stack.enter_async_context(receiver.run())
        receiver.subscribe(keeping(told, takes))
        yield Rig(receiver, url, told, session, last)


@asynccontextmanager
async def serving(app: web.Application, sock: socket.socket | None = None) -> AsyncGenerator[str]:
    """Run a server of the embedder's own; `sock` where its address has to be known before."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.25)
    try:
        await runner.setup()
        site = web.SockSite(runner, sock) if sock else web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncGenerator[None]:
    """Hold every test here to leaving no task, socket or other file behind."""
    before = open_files()
    yield
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await wait_until(lambda: open_files() == before, timeout=60)


def open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, of what is no directory elsewhere
    except OSError:
        return 0


both = pytest.mark.parametrize("mounted", [False, True], ids=["alone", "mounted"])

# --- good callbacks ------------------------------------------------------------------------------------


@both
async def test_a_callback_is_told_as_a_job_and_answered_with_an_empty_object(mounted: bool) -> None:  # noqa: FBT001 - a case
    async with rig(mounted=mounted) as at:
        reply = await at.post()
        assert (reply.status, reply.body) == (200, {})
        assert reply.headers["Content-Type"].startswith("application/json")
        assert at.told == [Job("job:1", "completed", reply_ref="ref 1", channel="55")]
        assert at.receiver.statistics() == WebhookStatistics(matched=1)


async def test_the_sender_cannot_tell_known_jobs_from_unknown_ones_and_duplicates() -> None:
    async with rig() as known, rig(takes=False) as unknown:
        replies = [await known.post(), await known.post(), await unknown.post()]
        assert len({(reply.status, str(reply.body), *sorted(reply.headers)) for reply in replies}) == 1
        assert len(known.told) == 2
        assert known.receiver.statistics() == WebhookStatistics(matched=2)
        assert unknown.receiver.statistics() == WebhookStatistics(unmatched=1)


async def test_a_callback_without_subscribers_is_answered_too() -> None:
    receiver = Webhook()
    async with receiver.run() as url, aiohttp.ClientSession() as session:
        async with session.post(url, data=GOOD) as response:
            assert (response.status, await response.json()) == (200, {})
        assert receiver.statistics() == WebhookStatistics(unmatched=1)
        assert receiver.statistics().received == 1


@pytest.mark.parametrize(
    "head",
    [
        "",
        "Content-Type: text/plain",
        "Content-Type: %",
        "Content-Encoding: Identity",
        "Connection: Upgrade\nUpgrade: h2c",
    ],
)
async def test_what_else_the_head_says_does_not_matter(head: str) -> None:
    async with rig() as at:
        wire = await at.open(f"{head}\nContent-Length: {len(GOOD)}")
        await wire.send(GOOD)
        assert (await wire.reply()).status == 200
        assert len(at.told) == 1
        wire.close()


async def test_a_body_in_chunks_and_one_announced_by_an_expectation_are_read() -> None:
    async with rig() as at:
        wire = await at.open("Transfer-Encoding: chunked")
        for part in (GOOD[:10], GOOD[10:], b""):
            await wire.send(b"%x\r\n%b\r\n" % (len(part), part))
        assert (await wire.reply()).status == 200
        wire.close()
        wire = await at.open(f"Content-Length: {len(GOOD)}\nExpect: 100-continue")
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await wire.send(GOOD)
        assert (await wire.reply()).status == 200
        wire.close()


@both
async def test_an_unknown_expectation_is_refused(mounted: bool) -> None:  # noqa: FBT001 - a case
    async with rig(mounted=mounted) as at:
        for expectation in (b"200-ok", b"\xff"):
            wire = await at.open(f"Content-Length: {len(GOOD)}\nExpect: {expectation.decode('latin-1')}")
            reply = await wire.reply()
            assert (reply.status, reply.body) == (
                417,
                {"error": "only 100-continue may be expected", "code": 417},
            )
            wire.close()
        wire = await at.open(f"Content-Length: {len(GOOD)}\nExpect: 100-continue")
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await wire.send(GOOD)
        assert (await wire.reply()).status == 200
        assert len(at.told) == 1


async def test_an_expectation_where_there_is_nothing_is_refused_as_well() -> None:
    async with rig() as at:
        wire = await at.open("Expect: \xff", target="/no/where")
        reply = await wire.reply()
        assert (reply.status, reply.body) == (417, {"error": "Expectation Failed", "code": 417})


async def test_fields_that_are_null_count_as_absent() -> None:
    async with rig() as at:
        assert (
            await at.post(json.dumps(JOB | {"content": None, "attachments": None}).encode())
        ).status == 200
        assert (at.told[0].content, at.told[0].attachments) == (None, ())


async def test_the_answer_waits_for_nothing_that_a_subscriber_has_begun() -> None:
    async with rig(takes=False) as at:
        held = asyncio.Event()
        begun: list[asyncio.Task[bool]] = []

        def take(_job: Job) -> bool:
            begun.append(asyncio.create_task(held.wait()))
            return True

        at.receiver.subscribe(take)
        assert (await at.post()).status == 200
        assert not begun[0].done()
        held.set()
        await begun[0]


async def test_a_connection_brings_one_callback_after_the_other() -> None:
    async with rig() as at:
        request = f"Content-Length: {len(GOOD)}"
        wire = await at.open(request)
        await wire.send(GOOD)
        assert (await wire.reply()).status == 200
        head = f"POST {URL(at.url).raw_path} HTTP/1.1\r\nHost: here\r\n{request}\r\n\r\n".encode()
        await wire.send((head + GOOD) * 3)
        assert [(await wire.reply()).status for _ in range(3)] == [200] * 3
        assert len(at.told) == 4
        wire.close()


async def test_two_hundred_at_once_are_all_told() -> None:
    async with rig() as at:
        bodies = [json.dumps(JOB | {"jobid": f"job:{number}"}).encode() for number in range(200)]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def post(body: bytes) -> int:
                async with session.post(at.url, data=body) as response:
                    return response.status

            assert await asyncio.gather(*map(post, bodies)) == [200] * 200
        assert {job.jobid for job in at.told} == {f"job:{number}" for number in range(200)}
        assert at.receiver.statistics() == WebhookStatistics(matched=200)


# --- bodies that are no job ----------------------------------------------------------------------------

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"\$: is empty"),
    "cut off": (GOOD[:-1], "is not JSON"),
    "HTML": (b"<html>", "is HTML or XML"),
    "not UTF-8": (b'{"jobid": "\xff"}', "Invalid UTF-8"),
    "very deep": (b"[" * 100_000, "must be an object, not a list"),
    "an array": (b"[%b]" % GOOD, r"\$: must be an object, not a list"),
    "jobid null": (b'{"jobid": null}', r"\$.jobid: must be a string, not null"),
    "jobid a number": (b'{"jobid": 7}', r"\$.jobid: must be a string, not a whole number"),
    "four faults": (b'{"jobid": 1, "status": 2, "verb": 3, "channel": 4}', r"\$.jobid: must be a string"),
}


@both
@pytest.mark.parametrize("name", BAD)
async def test_a_body_that_is_no_job_is_refused_and_not_published(
    name: str,
    mounted: bool,  # noqa: FBT001 - a case
) -> None:
    body, problem = BAD[name]
    async with rig(mounted=mounted) as at:
        wire = await at.open(f"Content-Length: {len(body)}")
        await wire.send(body)
        reply = await wire.reply()
        assert reply.status == reply.body["code"] == 400
        assert reply.headers["Content-Type"].startswith("application/json")
        assert re.search(problem, reply.body["error"])
        assert reply.body["error"].startswith("the body is not a job: ")
        wire.close()
        assert at.told == []
        assert at.receiver.statistics() == WebhookStatistics(broken=1)
        assert (await at.post()).status == 200


async def test_a_refusal_repeats_no_secret() -> None:
    discord = "canary-of-a-discord-token"
    body = json.dumps({"jobid": "j", "discord": discord, "attachments": [{SECRET: discord}]})
    async with rig() as at:
        reply = await at.post(body.encode())
        assert reply.status == 400
        assert "$.attachments[0].url: is missing" in reply.body["error"]
        assert "canary" not in str(reply)


# --- size, time and the wire ---------------------------------------------------------------------------


@both
async def test_a_body_too_large_by_its_length_is_refused_unread(mounted: bool) -> None:  # noqa: FBT001 - a case
    async with rig(mounted=mounted) as at:
        wire = await at.open(f"Content-Length: {10 * LIMIT}")
        reply = await wire.reply()
        assert (reply.status, reply.body) == (
            413,
            {"error": "the body is larger than 1048576 bytes", "code": 413},
        )
        assert reply.headers["Connection"] == "close"
        wire.close()
        assert at.receiver.statistics() == WebhookStatistics(broken=1)


async def test_a_large_body_is_refused_by_an_answer_that_arrives() -> None:
    async with rig() as at:
        assert (await at.post(bytes(10 * LIMIT))).status == 413


@both
async def test_a_body_in_endless_chunks_is_refused_once_it_is_too_large(mounted: bool) -> None:  # noqa: FBT001 - a case
    async with rig(mounted=mounted, body_limit=100_000) as at:
        wire = await at.open("Transfer-Encoding: chunked")
        chunk = b"1000\r\n" + bytes(0x1000) + b"\r\n"
        for _ in range(24):
            await wire.send(chunk)
        await settle()
        assert at.receiver.statistics().received == 0
        await wire.send(chunk)
        assert (await wire.reply()).status == 413
        wire.close()


@pytest.mark.parametrize(("extra", "status"), [(0, 200), (1, 413)])
async def test_the_limit_itself_is_allowed(extra: int, status: int) -> None:
    async with rig(body_limit=len(GOOD) + 100) as at:
        body = GOOD + b" " * (100 + extra)
        assert (await at.post(body)).status == status
        wire = await at.open("Transfer-Encoding: chunked")
        await wire.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert (await wire.reply()).status == status
        wire.close()


@both
@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("deflate", 15)])
async def test_a_compressed_body_is_refused_in_bounded_memory(
    encoding: str,
    bits: int,
    mounted: bool,  # noqa: FBT001 - a case
) -> None:
    packer = zlib.compressobj(9, wbits=bits)
    packed = b"".join(packer.compress(bytes(10**6)) for _ in range(30)) + packer.flush()
    async with rig(mounted=mounted) as at:
        for target in (None, "/pika/wrong-secret-wrong-secret"):
            tracemalloc.start()
            try:
                wire = await at.open(
                    f"Content-Encoding: {encoding}\nContent-Length: {len(packed)}", target=target
                )
                await wire.send(packed)
                reply = await wire.reply()
                await settle()
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert reply.status == (404 if target else 415)
            assert peak < 8 * LIMIT
            wire.close()
        assert at.receiver.statistics() == WebhookStatistics(broken=1)
        good = gzip.compress(GOOD)
        async with at.session.post(at.url, data=good, headers={"Content-Encoding": "gzip"}) as response:
            assert (await response.json())["error"] == "the body must not be compressed"
        assert at.told == []


async def test_a_bomb_does_not_hold_up_the_others() -> None:
    member = gzip.compress(bytes(10**7))
    packed = member * 100
    costs: list[float] = []
    for _ in range(3):
        before = time.process_time()
        gzip.decompress(member)
        costs.append(time.process_time() - before)
    async with rig() as at:
        wire = await at.open(f"Content-Encoding: gzip\nContent-Length: {len(packed)}", target="/wrong")
        before = time.process_time()
        await wire.send(packed)
        assert (await wire.reply()).status == 404
        assert (await at.post()).status == 200
        # Much less than to unpack all of it, on whatever machine.
        assert time.process_time() - before < 50 * min(costs)
        wire.close()


@both
async def test_a_body_that_drips_is_given_up_in_time(mounted: bool) -> None:  # noqa: FBT001 - a case
    clock = ManualClock()
    async with rig(mounted=mounted, clock=clock) as at:
        wire = await at.open("Content-Length: 1000")
        for _ in range(30):
            await wire.send(b"x")
            await wait_until(lambda: clock.sleeping == 1)
            await clock.advance(READ_TIMEOUT / 30 - 0.001)
        assert at.receiver.statistics().received == 0
        await clock.advance(0.04)
        reply = await wire.reply()
        assert (reply.status, reply.body) == (
            408,
            {"error": "the body did not arrive within 30 s", "code": 408},
        )
        assert reply.headers["Connection"] == "close"
        assert at.receiver.statistics() == WebhookStatistics(broken=1)
        # The sender goes on; it has had its answer and is cut off.
        loop = asyncio.get_running_loop()
        start = loop.time()
        await wire.send(b"x")
        await clock.advance(1)
        assert await wire.ended()
        assert loop.time() - start < 5
        assert clock.sleeping == 0
        wire.close()


async def test_a_body_shorter_than_its_length_is_waited_for_no_longer_than_the_limit() -> None:
    clock = ManualClock()
    async with rig(clock=clock) as at:
        wire = await at.open(f"Content-Length: {len(GOOD) + 1}")
        await wire.send(GOOD)
        await wait_until(lambda: clock.sleeping == 1)
        await clock.advance(READ_TIMEOUT)
        assert (await wire.reply()).status == 408
        assert at.told == []
        wire.close()


@both
@pytest.mark.parametrize("rest", [b"}\r\n\r\n", b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"])
async def test_a_body_longer_than_its_length_counts_as_far_as_that_goes(rest: bytes, mounted: bool) -> None:  # noqa: FBT001 - a case
    async with rig(mounted=mounted) as at:
        wire = await at.open(f"Content-Length: {len(GOOD) - 1}")
        await wire.send(GOOD[:-1])
        assert (await wire.reply()).status == 400
        await wire.send(rest)
        wire.writer.write_eof()
        # The rest is no request that could be let in; how that is said is the parser's business.
        assert re.match(rb"(HTTP/1\.[01] (400|404) |$)", await wire.reader.read())
        assert at.told == []
        wire.close()


@both
@pytest.mark.parametrize("reset", [False, True])
async def test_a_sender_that_leaves_within_its_body_leaves_nothing_behind(
    mounted: bool,  # noqa: FBT001 - a case
    reset: bool,  # noqa: FBT001 - a case
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    async with rig(mounted=mounted, clock=clock) as at:
        wire = await at.open("Content-Length: 1000")
        await wire.send(GOOD)
        await wait_until(lambda: clock.sleeping == 1)
        if reset:
            wire.writer.transport.abort()
        wire.close()
        await wait_until(lambda: at.receiver.statistics() == WebhookStatistics(broken=1))
        assert clock.sleeping == 0
        await settle()
        assert at.told == []
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@both
async def test_broken_chunks_are_given_up(mounted: bool) -> None:  # noqa: FBT001 - a case
    clock = ManualClock()
    async with rig(mounted=mounted, clock=clock) as at:
        wire = await at.open("Transfer-Encoding: chunked")
        await wire.send(b"%x\r\n%b\r\n" % (len(GOOD), GOOD))
        await wait_until(lambda: clock.sleeping == 1)
        await wire.send(b"zz\r\n")
        await settle()
        await clock.advance(READ_TIMEOUT)
        await clock.advance(1)
        assert re.match(rb"(HTTP/1\.[01] (400|408) |$)", await wire.reader.read())
        assert at.told == []
        wire.close()


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        web.RequestPayloadError("x"),
        TransferEncodingError("x"),
        RuntimeError("Connection closed."),  # of a sender that had gone before anybody began to read
    ],
    ids=repr,
)
async def test_whatever_breaks_a_body_off_it_is_refused(error: Exception) -> None:
    # Which of them comes depends on the parser that aiohttp was built with.
    @web.middleware
    async def breaks(request: web.Request, handler: Any) -> web.StreamResponse:
        request.content.set_exception(error)
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[breaks])
    receiver = Webhook(secret=SECRET)
    app.add_subapp("/pika", receiver.app())
    told = {"error": "the body broke off, or its chunks are broken", "code": 400}
    async with (
        serving(app) as base,
        aiohttp.ClientSession() as session,
        session.post(f"{base}/pika/{SECRET}", data=GOOD) as response,
    ):
        assert (response.status, await response.json()) == (400, told)
    assert receiver.statistics() == WebhookStatistics(broken=1)


# --- other addresses and methods -----------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        f"/{SECRET}x",
        f"/{SECRET[:-1]}",
        f"/{SECRET.upper()}",
        f"/{SECRET}/",
        f"/{SECRET}/x",
        f"//{SECRET}",
        f"/x/{SECRET}",
        "/%ff",
        "/%ed%a0%80",
        "/%C3%BC",
        "/%00",
        "/a%2Fb",
        "/" + "x" * 5000,
    ],
)
async def test_any_other_path_is_not_found(path: str, mounted: bool) -> None:  # noqa: FBT001 - a case
    if not mounted and not path:
        path = "/"
    async with rig(mounted=mounted) as at:
        reply = await at.post(path=("/pika" if mounted else "") + path)
        assert (reply.status, reply.body) == (404, {"error": "Not Found", "code": 404})
        assert at.told == []
        assert at.receiver.statistics() == WebhookStatistics()


@both
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_another_method_is_refused_alike_whatever_the_secret(method: str, mounted: bool) -> None:  # noqa: FBT001 - a case
    async with rig(mounted=mounted) as at:
        prefix = "/pika" if mounted else ""
        for secret in (SECRET, "wrong-wrong-wrong-wrong"):
            body = b"" if method == "HEAD" else GOOD
            reply = await at.post(body, path=f"{prefix}/{secret}", method=method)
            assert (reply.status, reply.headers["Allow"]) == (405, "POST")
            assert reply.body in (None, {"error": "Method Not Allowed", "code": 405})
        assert at.told == []


async def test_the_secret_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def spy(mine: bytes, theirs: bytes) -> bool:
        compared.append((mine, theirs))
        return compare(mine, theirs)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    async with rig() as at:
        await at.post()
        await at.post(path="/wrong")
    assert {frozenset(pair) for pair in compared} == {
        frozenset({SECRET.encode()}),
        frozenset({SECRET.encode(), b"wrong"}),
    }


# --- subscribers ---------------------------------------------------------------------------------------


async def test_subscribers_are_called_in_order_until_one_returns_true() -> None:
    async with rig(takes=False) as at:
        asked: list[str] = []
        for name, answer in [("no", False), ("none", None), ("truthy", 1), ("yes", True), ("late", True)]:
            at.receiver.subscribe(keeping(asked, answer, name))
        await at.post()
        assert asked == ["no", "none", "truthy", "yes"]
        assert at.receiver.statistics() == WebhookStatistics(matched=1)


async def test_a_subscriber_that_raises_is_logged_without_values_and_the_others_are_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with rig() as at:
        asked: list[Job] = []

        def take(error: Exception) -> Callable[[Job], bool]:
            def raises(job: Job) -> bool:
                asked.append(job)
                raise error

            return raises

        first = Webhook()
        for error in (ValueError(f"canary {SECRET}"), TimeoutError(), ChannelFull("every slot is taken")):
            first.subscribe(take(error))
        told: list[Job] = []
        first.subscribe(keeping(told))
        async with first.run() as url, at.session.post(url, data=GOOD) as response:
            assert (response.status, await response.json()) == (200, {})
        assert len(asked) == 3
        assert len(told) == 1
        assert first.statistics() == WebhookStatistics(matched=1, failed=3)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage().strip() for record in errors] == [
        "a subscriber failed on a callback: ValueError",
        "a subscriber failed on a callback: TimeoutError",
        "a subscriber failed on a callback: ChannelFull every slot is taken",
    ]
    assert "canary" not in caplog.text
    assert not [record for record in errors if record.exc_info]


async def test_a_subscriber_that_only_raises_leaves_the_callback_unmatched() -> None:
    async with rig(takes=False) as at:

        def take(_job: Job) -> bool:
            raise KeyError

        at.receiver.subscribe(take)
        assert (await at.post()).status == 200
        assert at.receiver.statistics() == WebhookStatistics(unmatched=1, failed=1)


async def test_an_ended_subscription_is_not_called_even_within_a_callback() -> None:
    receiver = Webhook(secret=SECRET)
    asked: list[str] = []
    ends: dict[str, Callable[[], object]] = {}

    def subscriber(name: str, *end: str) -> Callable[[Job], bool]:
        def take(_job: Job) -> bool:
            asked.append(name)
            for other in end:
                ends[other]()
            return False

        return take

    def late(_job: Job) -> bool:
        asked.append("late")
        ends["new"] = receiver.subscribe(subscriber("new"))
        return False

    for name, end in {"a": (), "b": ("b", "c"), "c": (), "d": ("a",)}.items():
        ends[name] = receiver.subscribe(subscriber(name, *end))
    ends["late"] = receiver.subscribe(late)
    async with receiver.run() as url, aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(url, data=GOOD) as response:
                assert response.status == 200
    assert asked == ["a", "b", "d", "late", "d", "late", "new"]


async def test_the_same_function_may_subscribe_twice_and_each_time_ends_by_itself() -> None:
    async with rig(takes=False) as at:
        asked: list[Job] = []
        take = keeping(asked, answer=False)
        first, second = at.receiver.subscribe(take), at.receiver.subscribe(take)
        for end, count in ((None, 2), (first, 3), (first, 4), (second, 4)):
            if end:
                end()
            await at.post()
            assert len(asked) == count


async def test_what_cannot_take_a_job_is_refused() -> None:
    async def waits(_job: Job) -> bool:
        return True

    for wrong in (waits, None, "take"):
        with pytest.raises(InvalidArgument) as caught:
            Webhook().subscribe(wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert caught.value.field == "subscriber"


# --- where it is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("public", "told"),
    [
        ("https://worker.example/pika", "https://worker.example/pika/"),
        ("https://worker.example/pika/", "https://worker.example/pika/"),
        ("HTTP://worker.example:8080", "http://worker.example:8080/"),
        ("http://[::1]:8080/a/b", "http://[::1]:8080/a/b/"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC/"),
    ],
)
async def test_the_reply_url_is_made_of_the_public_one(public: str, told: str) -> None:
    receiver = Webhook(public, secret=SECRET)
    assert receiver.reply_url == told + SECRET
    async with receiver.run() as url:
        assert url == receiver.reply_url == told + SECRET


@pytest.mark.parametrize(
    "public",
    [
        "",
        "worker.example",
        "/pika",
        "ftp://worker.example",
        "http://",
        "http:///pika",
        "http://h:0",
        "http://h:x",
        "http://h:99999",
        "http://[::1",
        "http://canary:pass@h",
        "http://h/?a=canary",
        "http://h/#canary",
        "http://h/a b",
        "http://h\r\n.x/",
        "http://h/\ud800",
        "https://worker.example/" + "x" * 1000,
        7,
        b"http://worker.example",
    ],
)
def test_a_public_url_that_cannot_be_called_is_refused(public: Any) -> None:
    with pytest.raises(InvalidArgument, match="public_url") as caught:
        Webhook(public)
    assert caught.value.field == "public_url"
    assert "canary" not in caught.value.message


def test_a_reply_url_may_be_as_long_as_the_service_takes_it() -> None:
    base = "https://worker.example/"
    receiver = Webhook(base + "x" * (1024 - len(base) - 1 - len(SECRET)), secret=SECRET)
    assert len(receiver.reply_url) == 1024
    with pytest.raises(InvalidArgument, match="more than 1024 characters"):
        Webhook(base + "x" * (1024 - len(base) - len(SECRET)), secret=SECRET)


async def test_without_a_public_url_it_is_known_while_it_runs() -> None:
    receiver = Webhook(secret=SECRET)
    with pytest.raises(InvalidArgument, match=r"pass public_url, or read it within") as caught:
        _ = receiver.reply_url
    assert caught.value.field == "public_url"
    async with receiver.run() as first:
        assert receiver.reply_url == first
        async with receiver.run() as second:
            assert receiver.reply_url == second != first
        assert receiver.reply_url == first
    with pytest.raises(InvalidArgument):
        _ = receiver.reply_url


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])  # noqa: S104 - the case
async def test_to_bind_all_addresses_takes_a_public_url(host: str) -> None:
    with pytest.raises(InvalidArgument, match="host stands for all addresses") as caught:
        async with Webhook().run(host):
            pass
    assert caught.value.field == "public_url"
    async with Webhook("https://worker.example", secret=SECRET).run(host) as url:
        assert url == f"https://worker.example/{SECRET}"


async def test_a_port_can_be_chosen_and_one_that_is_taken_is_an_error() -> None:
    receiver = Webhook(secret=SECRET)
    async with receiver.run() as url:
        port = URL(url).port
        assert port
        with pytest.raises(OSError, match="in use"):
            async with Webhook().run(port=port):
                pass
    async with receiver.run("localhost", port) as again:
        assert URL(again).port == port


async def test_an_ipv6_address_is_bracketed() -> None:
    async with Webhook(secret=SECRET).run("::1") as url, aiohttp.ClientSession() as session:
        assert url.startswith("http://[::1]:")
        async with session.post(url, data=GOOD) as response:
            assert response.status == 200


async def test_mounted_it_reads_what_a_middleware_around_it_has_read_already() -> None:
    @web.middleware
    async def reads(request: web.Request, handler: Any) -> web.StreamResponse:
        await request.read()
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[reads])
    receiver = Webhook(secret=SECRET, body_limit=len(GOOD))
    told: list[Job] = []
    receiver.subscribe(keeping(told))
    app.add_subapp("/a", receiver.app())
    app.add_subapp("/b", receiver.app())

    async def in_chunks(*parts: bytes) -> AsyncGenerator[bytes]:
        for part in parts:
            yield part

    async with serving(app) as base, aiohttp.ClientSession() as session:
        statuses: list[int] = []
        for prefix, parts in (("a", (GOOD,)), ("b", (GOOD,)), ("b", (GOOD, b" "))):
            async with session.post(f"{base}/{prefix}/{SECRET}", data=in_chunks(*parts)) as response:
                statuses.append(response.status)
    assert statuses == [200, 200, 413]
    assert len(told) == 2


# --- the end of a run ----------------------------------------------------------------------------------


async def test_the_end_is_quick_whatever_is_under_way() -> None:
    clock = ManualClock()
    loop = asyncio.get_running_loop()
    wires: list[Wire] = []
    async with rig(clock=clock) as at:
        await at.post()
        for head in ("Content-Length: 1000", "Transfer-Encoding: chunked", f"Content-Length: {10 * LIMIT}"):
            wires.append(await at.open(head))
            await wires[-1].send(b"5\r\nabcde\r\n")
        idle = await at.open(f"Content-Length: {len(GOOD)}")
        await idle.send(GOOD)
        await idle.reply()
        wires.append(idle)
        await wait_until(lambda: clock.sleeping == 3)
        start = loop.time()
    assert loop.time() - start < 3
    assert clock.sleeping == 0
    with pytest.raises(OSError, match=r"(?i)connect"):
        await asyncio.open_connection(URL(at.url).host, URL(at.url).port)


async def test_a_receiver_runs_again_and_keeps_its_counts_and_subscribers() -> None:
    receiver = Webhook(secret=SECRET)
    told: list[Job] = []
    receiver.subscribe(keeping(told))
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with receiver.run() as url, session.post(url, data=GOOD) as response:
                assert response.status == 200
    assert len(told) == 2
    assert receiver.statistics() == WebhookStatistics(matched=2)


# --- secrets -------------------------------------------------------------------------------------------


def test_the_secret_is_drawn_anew_for_each_receiver() -> None:
    urls = {Webhook("https://worker.example").reply_url for _ in range(10)}
    assert len(urls) == 10
    assert min(map(len, urls)) >= len("https://worker.example/") + 43


def test_a_secret_may_be_given_as_one() -> None:
    assert Webhook("https://h", secret=Secret(SECRET)).reply_url == f"https://h/{SECRET}"


@pytest.mark.parametrize(
    "secret",
    ["", "x" * 15, "x" * 257, "canary/canary/canary", "canary canary canary", "canary-ü-canary-ü", 7],
)
def test_a_secret_that_is_none_is_refused_and_not_shown(secret: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Webhook(secret=secret)
    assert caught.value.field == "secret"
    last = list(traceback.walk_tb(caught.value.__traceback__))[-1][0]
    seen = {name: value for name, value in last.f_locals.items() if name != "self"}
    assert "canary" not in repr(seen) + caught.value.message


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None])
def test_a_limit_that_is_none_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Webhook(body_limit=limit)
    assert caught.value.field == "body_limit"


async def test_the_secret_shows_in_no_representation_and_cannot_be_pickled() -> None:
    receiver = Webhook(secret=SECRET)
    assert repr(receiver) == "<Webhook at an unknown address, subscribers: 0>"
    async with receiver.run() as url:
        assert repr(receiver) == f"<Webhook at {url.removesuffix('/' + SECRET)}, subscribers: 0>"
        assert SECRET not in repr(vars(receiver))
    assert "https://h/p," in repr(Webhook("https://h/p"))
    for copies in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            copies(receiver)


GARBAGE: list[bytes] = [
    f"POST /{SECRET}\x00 HTTP/1.1\r\n\r\n".encode(),
    f"POST /{SECRET} HTP/1.1\r\nHost: x\r\n\r\n".encode(),
    f"P\x01ST /{SECRET} HTTP/1.1\r\n\r\n".encode(),
    f"POST /{SECRET} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".encode(),
    f"POST /{SECRET} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".encode(),
    f"POST /{SECRET} HTTP/1.1\r\nReferer: /{SECRET}\r\nbad\x00: {SECRET}\r\n\r\n".encode(),
    f"POST /{SECRET} HTTP/1.1\r\nHost: x\r\nX: {SECRET * 1000}\r\n\r\n".encode(),
    f"POST /{SECRET} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{SECRET}\r\n".encode(),
    f"POST http://[/{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    b"\x16\x03\x01" + SECRET.encode() + b"\r\n\r\n",
]


async def test_no_log_at_any_level_shows_the_secret_url(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    try:
        with caplog.at_level(logging.DEBUG):
            async with rig() as at:

                def fails(_job: Job) -> bool:
                    raise ValueError(at.url)

                for body in (GOOD, b"", json.dumps({SECRET: {SECRET: "\ud800"}}).encode(), bytes(2 * LIMIT)):
                    await at.post(body)
                await at.post(method="GET")
                await at.post(path="/wrong")
                at.receiver.subscribe(fails)
                address = URL(at.url)
                for garbage in GARBAGE:
                    reader, writer = await asyncio.open_connection(address.host, address.port)
                    wire = Wire(reader, writer)
                    await wire.send(garbage)
                    reply = await wire.reply()
                    # Not quoted: an answer passes through logs of others.
                    assert (reply.status, reply.body) == (400, {"error": "Bad Request", "code": 400}), garbage
                    wire.close()
    finally:
        loop.set_debug(False)
    texts = [record.getMessage() + repr(vars(record)) for record in caplog.records]
    assert {record.name for record in caplog.records} >= {"asyncio", "pika_balancer.dispatch.webhook"}
    assert not [text for text in texts if SECRET in text]
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]
    told = {record.getMessage() for record in caplog.records}
    assert "a callback was refused with 400: the body is not a job: $: is empty" in told
    assert [text for text in told if text.startswith("Error handling request from 127.0.0.1: ")]


# --- anything at all -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(list(JOB)) | st.text(), inner)
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a job with some of its bytes replaced."""
    start = draw(st.integers(0, len(GOOD)))
    end = draw(st.integers(start, min(start + 3, len(GOOD))))
    return GOOD[:start] + draw(st.binary(max_size=4)) + GOOD[end:]


BODIES = (
    st.binary(max_size=200)
    | damaged()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(["status", "prompt", "code", "embeds", "image", "discord"]), JSON).map(
        lambda fields: json.dumps(JOB | fields).encode()
    )
)


def in_one_loop(start: Callable[[], Any], steps: Callable[[asyncio.Runner, Rig], None]) -> None:
    """Run examples of a property one after the other against one rig, in one event loop."""
    with asyncio.Runner() as runner:
        context = start()
        at = runner.run(context.__aenter__())
        try:
            steps(runner, at)
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.mark.deep
def test_whatever_the_body_the_answer_is_200_or_400_and_only_jobs_are_told() -> None:
    seen: set[int] = set()

    def steps(runner: asyncio.Runner, at: Rig) -> None:
        @examples(60, 300)
        @given(BODIES)
        def check(body: bytes) -> None:
            at.told.clear()
            try:
                expected = [read_job(body)]
            except InvalidResponse:
                expected = []
            reply = runner.run(at.post(body or b" "))
            assert reply.status == (200 if expected else 400)
            assert at.told == expected
            assert all(type(job) is Job for job in at.told)
            seen.add(reply.status)

        check()

    in_one_loop(rig, steps)
    assert seen == {200, 400}


@pytest.mark.deep
def test_whatever_the_bytes_on_the_wire_there_is_no_server_error() -> None:
    good = (
        f"POST /{SECRET} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GOOD)}\r\nX-Y: z\r\n\r\n".encode() + GOOD
    )

    async def send(at: Rig, data: bytes) -> bytes:
        address = URL(at.url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(data)
        writer.write_eof()
        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    def steps(runner: asyncio.Runner, at: Rig) -> None:
        @examples(60, 300)
        @given(st.integers(0, len(good)), st.integers(0, 4), st.binary(max_size=6))
        def check(start: int, cut: int, put: bytes) -> None:
            answers = runner.run(send(at, good[:start] + put + good[start + cut :]))
            statuses = re.findall(rb"HTTP/1\.[01] (\d)\d\d ", answers)
            assert not set(statuses) - {b"2", b"4"}
            assert all(type(job) is Job for job in at.told)

        check()

    in_one_loop(rig, steps)


# --- the local server ----------------------------------------------------------------------------------

ONE = "100000000000000001"


@asynccontextmanager
async def reporting(
    *, mounted: bool, **options: Any
) -> AsyncGenerator[tuple[PikaClient, Webhook, list[Job]]]:
    """Run the local server, a client of it, and a receiver that it can reach; the list has what was told."""
    told: list[Job] = []
    async with AsyncExitStack() as stack:
        if mounted:
            free = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            receiver = Webhook(f"http://127.0.0.1:{free.getsockname()[1]}/pika")
            app = web.Application()
            app.add_subapp("/pika", receiver.app())
            await stack.enter_async_context(serving(app, free))
        else:
            receiver = Webhook()
            await stack.enter_async_context(receiver.run())
        receiver.subscribe(keeping(told))
        server = LocalServer({ONE: 10}, **options)
        url = await stack.enter_async_context(server.run())
        client = await stack.enter_async_context(PikaClient("user:1-x", base_url=url))
        yield client, receiver, told


@both
async def test_the_local_server_reports_each_end_once_with_the_reference_verbatim(mounted: bool) -> None:  # noqa: FBT001 - a case
    async with reporting(mounted=mounted, service="fixed:5ms") as (client, receiver, told):
        references = [f'{number} ü ☃ \r\n"' for number in range(10)]
        jobs = await asyncio.gather(
            *(client.create("x", reply_url=receiver.reply_url, reply_ref=ref) for ref in references)
        )
        await wait_until(lambda: len(told) == 10)
        assert {job.jobid for job in told} == {job.jobid for job in jobs}
        assert {job.reply_ref for job in told} == set(references)
        assert {job.status for job in told} == {"completed"}
        assert told[0].attachments[0].filename == told[0].attachments[0].url.rpartition("/")[2]
        assert told[0] == await client.job(told[0].jobid)
        assert receiver.statistics() == WebhookStatistics(matched=10)


@both
async def test_a_callback_in_the_very_moment_of_the_submits_answer_is_not_lost(mounted: bool) -> None:  # noqa: FBT001 - a case
    async with reporting(mounted=mounted, service="fixed:0s") as (client, receiver, told):
        for number in range(50):
            job = await client.create("x", reply_url=receiver.reply_url, reply_ref=str(number))
            await wait_until(lambda: len(told) == number + 1)  # noqa: B023 - waited for here
            assert (told[-1].jobid, told[-1].reply_ref) == (job.jobid, str(number))
            assert told[-1].ended
        assert receiver.statistics() == WebhookStatistics(matched=50)


async def test_a_callback_that_comes_before_the_submits_own_answer_is_told_at_once() -> None:
    held = asyncio.Event()

    async def submit(request: web.Request) -> web.Response:
        form = await request.post()
        async with aiohttp.ClientSession() as session:
            body = JOB | {"replyRef": str(form["replyRef"])}
            async with session.post(str(form["replyUrl"]), json=body) as response:
                assert response.status == 200
        await held.wait()
        return web.json_response(body | {"status": "started"})

    app = web.Application()
    app.router.add_post("/create", submit)
    receiver = Webhook()
    told: list[Job] = []
    receiver.subscribe(keeping(told))
    async with receiver.run() as reply_url, serving(app) as base, PikaClient("x", base_url=base) as client:
        task = asyncio.create_task(client.create("x", reply_url=reply_url, reply_ref="early"))
        await wait_until(lambda: len(told) == 1)
        assert not task.done()
        assert (told[0].reply_ref, told[0].ended) == ("early", True)
        held.set()
        assert (await task).jobid == told[0].jobid


async def test_a_job_that_fails_is_reported_as_well() -> None:
    clock = ManualClock()
    options: dict[str, Any] = {"service": "fixed:10s", "clock": clock, "faults": ["fail:1"]}
    async with reporting(mounted=False, **options) as (client, receiver, told):
        await client.create("x", reply_url=receiver.reply_url)
        await clock.advance(10)
        await wait_until(lambda: len(told) == 1)
        assert (told[0].status, told[0].reply_ref) == ("failed", None)
