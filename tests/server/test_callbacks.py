"""Callbacks at real receivers: once, after the answer, in the documented form, harmless when they fail."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web

from pika_balancer._util import network
from pika_balancer.server import LocalServer, parse_accounts
from pika_balancer.testing import ManualClock, settle, wait_until
from tests.server.conftest import FIRST, Rig, running


@attrs.define
class Receiver:
    """A raw HTTP receiver that keeps what came and answers as told."""

    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    hold: bool = False
    url: str = ""
    heads: list[bytes] = attrs.field(factory=list[bytes])
    bodies: list[Any] = attrs.field(factory=list[Any])
    closed: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.bodies.append(json.loads(await reader.readexactly(length)))
                self.heads.append(head)
                writer.write(self.answer)
                if self.hold:
                    await reader.read()
                    break
        self.closed += 1
        writer.close()


@contextlib.asynccontextmanager
async def receiver(**options: Any) -> AsyncGenerator[Receiver, None]:
    made = Receiver(**options)
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listener.close()
        await wait_until(lambda: made.closed >= bool(made.heads))


async def test_the_end_is_posted_once_as_the_job_object_with_the_reference_verbatim() -> None:
    reference = '{"a": "ü ☃", "b": "\r\n"}'
    async with receiver() as hook, running() as rig:
        job = (await rig.submit(replyUrl=hook.url + "/hook?x=1", replyRef=reference)).body
        await rig.clock.advance(9.9)
        await settle()
        assert hook.bodies == []
        await rig.clock.advance(0.1)
        await wait_until(lambda: bool(hook.bodies))
        [body], [head] = hook.bodies, hook.heads
        assert head.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
        assert b"content-type: application/json\r\n" in head.lower()
        assert body == await rig.job(job["jobid"])
        assert (body["status"], body["replyRef"], body["replyUrl"]) == (
            "completed",
            reference,
            hook.url + "/hook?x=1",
        )
        async with rig.session.get(body["attachments"][0]["url"]) as response:
            assert response.status == 200
        await rig.clock.advance(100)
        await settle()
        assert len(hook.bodies) == 1


async def test_a_reply_url_without_a_path_is_called_at_its_root() -> None:
    async with receiver() as hook, running() as rig:
        await rig.submit(replyUrl=hook.url)
        await rig.clock.advance(10)
        await wait_until(lambda: bool(hook.heads))
        assert hook.heads[0].startswith(b"POST / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("fault", "status"), [("fail", "failed"), ("moderated", "moderated"), ("cancel", "cancelled")]
)
async def test_a_bad_end_is_posted_too(fault: str, status: str) -> None:
    async with receiver() as hook, running(faults=[f"{fault}:1"]) as rig:
        await rig.submit(replyUrl=hook.url)
        await rig.clock.advance(10)
        await wait_until(lambda: bool(hook.bodies))
        assert hook.bodies[0]["status"] == status


async def test_the_callback_waits_for_the_submits_own_answer() -> None:
    async with receiver() as hook, running(faults=["slow:1:60s"]) as rig:
        submit = asyncio.create_task(rig.submit(replyUrl=hook.url))
        await wait_until(lambda: rig.server.statistics().jobs == 1)
        await rig.clock.advance(59)
        await settle(200)
        assert rig.server.statistics().completed == 1
        assert not submit.done()
        assert hook.bodies == []
        await rig.clock.advance(1)
        assert (await submit).body["status"] == "started"
        await wait_until(lambda: bool(hook.bodies))


async def test_the_answer_leaves_first_even_where_an_outer_application_holds_it_back() -> None:
    gate, order = asyncio.Event(), list[str]()

    @web.middleware
    async def hold(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response = await handler(request)
        await gate.wait()
        return response

    clock = ManualClock()
    server = LocalServer(parse_accounts("1"), service="fixed:0s", clock=clock)
    outer = web.Application(middlewares=[hold])
    outer.add_subapp("/outer", server.app())
    runner = web.AppRunner(outer, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with receiver() as hook, aiohttp.ClientSession() as session:
        rig = Rig(server, clock, f"http://127.0.0.1:{runner.addresses[0][1]}/outer/v1/pika", session)
        submit = asyncio.create_task(rig.submit(replyUrl=hook.url))
        submit.add_done_callback(lambda _: order.append("answer"))
        await wait_until(lambda: bool(order or hook.bodies))
        assert order == ["answer"]
        await wait_until(lambda: bool(hook.bodies))
        gate.set()
        await runner.cleanup()


@pytest.mark.parametrize("fault", ["500-but-accepted", "drop-accepted"])
async def test_an_accepted_job_calls_back_although_its_submit_failed(fault: str) -> None:
    async with receiver() as hook, running(faults=[f"{fault}:1"]) as rig:
        with contextlib.suppress(aiohttp.ServerDisconnectedError):
            await rig.submit(replyUrl=hook.url)
        await rig.clock.advance(10)
        await wait_until(lambda: bool(hook.bodies))
        assert hook.bodies[0]["status"] == "completed"


async def test_a_caller_that_left_before_its_answer_still_gets_its_callback() -> None:
    async with receiver() as hook, running(faults=["slow:1:5s"]) as rig:
        submit = asyncio.create_task(rig.submit(replyUrl=hook.url))
        await wait_until(lambda: rig.server.statistics().jobs == 1)
        submit.cancel()
        await asyncio.gather(submit, return_exceptions=True)
        await rig.clock.advance(10)
        await wait_until(lambda: bool(hook.bodies))


async def test_a_lost_job_never_calls_back() -> None:
    async with receiver() as hook, running(faults=["504:0.5"], accounts="10") as rig:
        statuses = [(await rig.submit(replyUrl=hook.url)).status for _ in range(10)]
        await rig.clock.advance(200)
        await wait_until(lambda: len(hook.bodies) == statuses.count(200))
        await settle(200)
        assert len(hook.bodies) == statuses.count(200) < 10


async def test_a_receiver_that_is_not_there_harms_nobody_and_is_logged_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="pika_balancer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/secret-path"
    async with running() as rig:
        jobid = (await rig.submit(replyUrl=url)).body["jobid"]
        await rig.clock.advance(10)
        await wait_until(lambda: "was not delivered" in caplog.text)
        assert (await rig.job(jobid))["status"] == "completed"
        assert (await rig.submit()).status == 200
    [record] = [record for record in caplog.records if "not delivered" in record.message]
    assert record.levelno == logging.INFO
    assert "secret-path" not in caplog.text


async def test_a_receiver_that_talks_nonsense_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pika_balancer")
    async with receiver(answer=b"nonsense\r\n\r\n", hold=True) as hook, running() as rig:
        await rig.submit(replyUrl=hook.url)
        await rig.clock.advance(10)
        await wait_until(lambda: "was not delivered" in caplog.text)


async def test_a_redirect_is_not_followed() -> None:
    async with receiver() as target:
        away = f"HTTP/1.1 307 Away\r\nLocation: {target.url}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with receiver(answer=away) as hook, running() as rig:
            await rig.submit(replyUrl=hook.url)
            await rig.clock.advance(10)
            await wait_until(lambda: bool(hook.bodies))
            await settle(200)
        assert target.bodies == []


@pytest.mark.parametrize("allow", [False, True])
async def test_no_connection_is_made_to_an_address_that_is_not_allowed_whatever_the_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, allow: bool
) -> None:
    caplog.set_level(logging.INFO, logger="pika_balancer")
    asked: list[str] = []

    def scope(address: str) -> network.Scope:
        asked.append(address)
        return "link-local" if allow else "private"

    async with receiver() as hook, running(allow_remote_callbacks=allow) as rig:
        # As if the name had come to mean another machine since it was checked.
        monkeypatch.setattr(network, "scope", scope)
        await rig.submit(replyUrl=hook.url.replace("127.0.0.1", "localhost"))
        await rig.clock.advance(10)
        await wait_until(lambda: "was not delivered: ClientConnectorError" in caplog.text)
        assert "127.0.0.1" in asked
        assert hook.heads == []


async def test_where_remote_ones_are_allowed_they_go_where_they_lead() -> None:
    async with receiver() as hook, running(allow_remote_callbacks=True) as rig:
        await rig.submit(replyUrl=hook.url.replace("//", "//user:password@"))
        await rig.clock.advance(10)
        await wait_until(lambda: bool(hook.bodies))


async def test_delivered_is_when_the_status_line_is_here_though_the_body_never_ends() -> None:
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx"
    async with receiver(answer=endless, hold=True) as hook, running() as rig:
        await rig.submit(replyUrl=hook.url)
        await rig.clock.advance(10)
        await wait_until(lambda: hook.closed == 1)


async def test_many_ends_at_once_are_all_posted() -> None:
    async with receiver() as hook, running("10x10") as rig:
        jobs = [(await submit_one(rig, hook.url, number)) for number in range(100)]
        await rig.clock.advance(10)
        await wait_until(lambda: len(hook.bodies) == 100)
        assert sorted(body["replyRef"] for body in hook.bodies) == sorted(jobs)


async def submit_one(rig: Rig, url: str, number: int) -> str:
    answer = await rig.submit(replyUrl=url, replyRef=str(number))
    assert answer.status == 200
    return str(number)


async def test_stopping_gives_up_callbacks_under_way() -> None:
    async with receiver(answer=b"", hold=True) as hook:
        async with running() as rig:
            await rig.submit(replyUrl=hook.url, channel=FIRST)
            await rig.clock.advance(10)
            await wait_until(lambda: bool(hook.bodies))
        await wait_until(lambda: hook.closed == 1)
