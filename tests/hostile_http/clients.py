"""Sends malformed requests to `Webhook` and the local server, and checks what must hold.

Each gets an answer below 500, or the end of the connection, in bounded time. No answer shows a token or the
address, the next good request is served, and no connection is left when the client has disconnected.
"""

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import attrs
from yarl import URL

from pika_balancer.client.client import PikaClient
from pika_balancer.dispatch.webhook import Webhook
from pika_balancer.models import Job
from pika_balancer.server import LocalServer, ServerAccount
from pika_balancer.testing import ManualClock, wait_until
from tests.hostile_http.requests import INJECTED, Ask, Raw
from tests.hostile_http.servers import Tally, listening
from tests.leaks import DISCORD, STORED, TOKEN

BODY_LIMIT: Final = 100_000
CHANNEL: Final = "11000000000000000"
OTHER: Final = "12000000000000000"
_QUIET: Final = 0.03
_HANGS: Final = 20.0
_FLOOD: Final = 2**17
_PIECE: Final = 50_000
_DRIPPED: Final = 100
_STATUS: Final = re.compile(rb"HTTP/\d\.\d (\d{3}) ")


@attrs.frozen
class Victim:
    """A server under attack."""

    port: int
    asks: dict[str, Ask]
    """Well-formed requests, by name."""
    secrets: tuple[bytes, ...]
    """Bytes that no answer may show."""
    check: Callable[[], Awaitable[str]]
    """Sends good requests, and returns what was wrong; empty if nothing was."""


@asynccontextmanager
async def receiver() -> AsyncGenerator[Victim]:
    """Run `Webhook`, with a canary as the secret in its address."""
    secret = re.sub(r"[^\w-]", "-", TOKEN)
    told: list[str] = []
    receiver = Webhook(secret=secret, body_limit=BODY_LIMIT, clock=ManualClock())

    def take(job: Job) -> bool:
        told.append(job.jobid)
        return True

    receiver.subscribe(take)
    async with receiver.run() as url:
        path, port = URL(url).raw_path.encode(), URL(url).port or 0
        body = b'{"jobid": "job:good", "status": "completed"}'
        good = Ask(b"POST", path, (b"Content-Type: application/json",), body)

        async def check() -> str:
            before = told.count("job:checked")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(good.with_body(body.replace(b"good", b"checked")).raw(b"Connection: close"))
                answer = await reader.read()
            finally:
                writer.close()
            if not answer.startswith(b"HTTP/1.1 200 ") or told.count("job:checked") == before:
                return f"a good callback gets {answer!r:.200}"
            return ""

        yield Victim(port, {"callback": good}, (secret.encode(),), check)


@asynccontextmanager
async def service() -> AsyncGenerator[Victim]:
    """Run the local server, with accounts whose Discord tokens are canaries."""
    accounts = [ServerAccount(CHANNEL, 10, STORED)]
    accounts += [ServerAccount(str(int(OTHER) + n), 10, f"another {n}") for n in range(9)]
    clock = ManualClock()
    server = LocalServer(
        accounts, token=TOKEN, service="fixed:0s", body_limit=BODY_LIMIT, clock=clock, rng=random.Random(1)
    )
    bearer = b"Authorization: Bearer " + TOKEN.encode()
    json_type = b"Content-Type: application/json"
    form = b"".join(
        b'--XX\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % field
        for field in ((b"prompt", b"a cat"), (b"channel", CHANNEL.encode()), (b"replyRef", b"ref"))
    )
    multipart = b"Content-Type: multipart/form-data; boundary=XX"
    account = json.dumps({"channel": CHANNEL, "discord": DISCORD, "maxJobs": 10}).encode()
    async with (
        server.run() as base,
        # It keeps no connection, so that each one that is left is one of a bad client.
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        PikaClient(TOKEN, base_url=base, session=session, clock=ManualClock()) as client,
    ):
        root = URL(base).raw_path.encode()

        async def check() -> str:
            accounts = await client.accounts()
            job = await client.create("checked")
            if OTHER not in accounts or job.prompt != "checked":
                return f"a good client gets {list(accounts)} and {job}"
            await client.jobs()
            return "" if (await client.job(job.jobid)).prompt == "checked" else "a job is another"

        yield Victim(
            URL(base).port or 0,
            {
                "create": Ask(b"POST", root + b"/create", (bearer, multipart), form + b"--XX--\r\n"),
                "put account": Ask(
                    b"POST", root + b"/account/" + CHANNEL.encode(), (bearer, json_type), account
                ),
                "jobs": Ask(b"GET", root + b"/jobs", (bearer,)),
                "file": Ask(b"GET", root + b"/files/job:1/1.mp4", (b"Range: bytes=0-1",)),
            },
            (TOKEN.encode(), STORED.encode(), DISCORD.encode()),
            check,
        )


async def send(victim: Victim, raw: Raw) -> tuple[bytes, bool]:
    """Send a malformed request; return the answer, and whether the connection ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", victim.port)
    answer = bytearray()
    ended = False
    try:
        with contextlib.suppress(OSError):
            writer.write(raw.start)
            if raw.reset:
                await asyncio.sleep(0)
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return b"", True
            await _flood(writer, raw)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_QUIET):
                    answer += await reader.read(65_536)
            writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HANGS):
                with contextlib.suppress(OSError):
                    while piece := await reader.read(65_536):
                        answer += piece
                ended = True
    finally:
        writer.close()
    return bytes(answer), ended


async def _flood(writer: asyncio.StreamWriter, raw: Raw) -> None:
    sent = 0
    much = raw.more * (_PIECE // (len(raw.more) or 1) + 1)
    while raw.more and sent < (_DRIPPED if raw.drip else _FLOOD) and not writer.is_closing():
        piece = bytes([raw.more[sent % len(raw.more)]]) if raw.drip else much
        writer.write(piece)
        sent += len(piece)
        try:
            async with asyncio.timeout(_QUIET):
                await writer.drain()
        except TimeoutError:
            return
        await asyncio.sleep(0)


def judged(victim: Victim, answer: bytes, *, ended: bool) -> Iterable[str]:
    """Yield what is wrong with an answer."""
    if not ended:
        yield "the connection stays open"
    if any(status >= b"500" for status in _STATUS.findall(answer)):
        yield f"a failure of the server: {answer!r:.200}"
    if answer and not _STATUS.match(answer):
        yield f"no HTTP answer: {answer!r:.200}"
    if b"\n" + INJECTED in answer:
        yield f"an injected header: {answer!r:.300}"
    for secret in victim.secrets:
        if secret in answer:
            yield f"shows {secret!r}: {answer!r:.300}"


async def attack(
    victim: Victim, requests: Iterable[tuple[str, Raw]], tally: Tally, *, group: str, at_once: int = 24
) -> None:
    """Send all requests, `at_once` at a time, and count the outcomes."""
    left = iter(requests)

    async def work() -> None:
        for name, raw in left:
            answer, ended = await send(victim, raw)
            complaints = list(judged(victim, answer, ended=ended))
            if wrong := await _checked(victim):
                complaints.append(wrong)
            first = _STATUS.search(answer)
            kind = first[1].decode() if first else "no answer"
            tally.add(group, kind, f"{name} → {group} {raw!r:.600}", complaints)

    async with listening(tally, names=("pika_balancer", "aiohttp.access")), asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(work())
    try:
        await wait_until(lambda: served() == 0)
    except TimeoutError:
        tally.escapes.append(f"{served()} connections are left")


async def _checked(victim: Victim) -> str:
    try:
        async with asyncio.timeout(_HANGS):
            return await victim.check()
    except Exception as error:  # noqa: BLE001 - any error is a failure of the server
        return f"a good client fails with {error!r:.200}"


def served() -> int:
    """Return how many connections aiohttp's servers serve now."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return names.count("RequestHandler.start")
