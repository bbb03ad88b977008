"""Starting, stopping, running again, mounting: nothing is left behind, nothing is forgotten."""

import asyncio
import contextlib
import datetime as dt
import errno
import logging
import pickle
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pika_balancer.errors import InvalidArgument
from pika_balancer.server import LocalServer, parse_accounts
from pika_balancer.server.timeline import Timeline
from pika_balancer.testing import ManualClock, settle, wait_until
from tests.server.conftest import EPOCH, FIRST, PNG, Rig, Upload, form, running


async def tasks_left() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_stopping_leaves_no_task_timer_or_socket_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    before = await tasks_left()
    clock = ManualClock()
    server = LocalServer(parse_accounts("5x6"), clock=clock, faults=["slow:0.5:1h"])
    async with server.run() as base, aiohttp.ClientSession() as session:
        headers = {"Authorization": "Bearer any"}
        posts = [
            asyncio.create_task(
                session.post(base + "/create", data=form(prompt="x", replyUrl=base), headers=headers)
            )
            for _ in range(20)
        ]
        await wait_until(lambda: server.statistics().jobs == 20)
        port = int(base.split(":")[2].split("/")[0])
    answers = await asyncio.gather(*posts, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, aiohttp.ClientResponse):
            answer.close()
    await settle()
    assert await tasks_left() <= before
    assert clock.sleeping == 0
    assert caplog.records == []
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_stopping_does_not_wait_for_a_caller_that_never_finishes() -> None:
    before = await tasks_left()
    async with asyncio.timeout(5):
        async with running() as rig:
            _reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(
                b"POST /v1/pika/create HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any\r\n"
                b"Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: 1000\r\n\r\n--XX"
            )
            await wait_until(lambda: rig.server.statistics().submits == 1)
        writer.close()
        await writer.wait_closed()
    assert await tasks_left() <= before


async def test_stopping_answers_slow_submits_instead_of_cutting_them() -> None:
    server = LocalServer(parse_accounts("1"), clock=ManualClock(), faults=["slow:1:1h"])
    headers = {"Authorization": "Bearer any"}
    async with aiohttp.ClientSession() as session:
        async with server.run() as base:
            post = asyncio.create_task(session.post(base + "/create", data=form(prompt="x"), headers=headers))
            await wait_until(lambda: server.statistics().jobs == 1)
        async with await post as response:
            assert response.status == 200
            assert (await response.json())["status"] == "started"


async def test_cancelling_a_run_stops_it_and_passes_through() -> None:
    started = asyncio.Event()

    async def serve() -> None:
        async with LocalServer().run():
            started.set()
            await asyncio.Event().wait()

    before = await tasks_left()
    task = asyncio.create_task(serve())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await tasks_left() <= before


async def test_a_server_run_again_still_has_its_jobs_and_ends_those_that_are_due() -> None:
    clock = ManualClock()
    server = LocalServer(parse_accounts("2"), clock=clock, service="fixed:10s")
    async with server.run() as base, aiohttp.ClientSession() as session:
        rig = Rig(server, clock, base, session)
        early = (await rig.submit()).body["jobid"]
        await clock.advance(5)
        late = (await rig.submit()).body["jobid"]
    await clock.advance(5)
    assert server.statistics().completed == 0
    async with server.run() as base, aiohttp.ClientSession() as session:
        rig = Rig(server, clock, base, session)
        await settle()
        assert await rig.executing() == [late]
        assert (await rig.job(early))["status"] == "completed"
        await clock.advance(5)
        assert await rig.executing() == []


def test_a_server_may_run_in_one_event_loop_after_another() -> None:
    server = LocalServer(parse_accounts("1"), service="fixed:0s")

    async def once() -> None:
        async with server.run() as base, aiohttp.ClientSession() as session:
            rig = Rig(server, ManualClock(), base, session)
            assert (await rig.submit(replyUrl=base)).status == 200
            await wait_until(lambda: server.statistics().in_flight == 0)

    for _ in range(2):
        asyncio.run(once())
    assert server.statistics().completed == 2


async def test_one_server_runs_once_at_a_time() -> None:
    async with running() as rig:
        with pytest.raises(RuntimeError, match="already running"):
            async with rig.server.run():
                pass
        assert (await rig.submit()).status == 200


async def test_a_port_in_use_is_an_oserror_and_leaves_the_server_usable() -> None:
    async with running() as rig:
        other = LocalServer()
        with pytest.raises(OSError, match="address already in use") as caught:
            async with other.run(port=rig.port):
                pass
        assert caught.value.errno == errno.EADDRINUSE
        async with other.run() as base:
            assert base.endswith("/v1/pika")


async def test_the_api_can_be_mounted_and_its_results_are_fetched_below_the_mount() -> None:
    clock = ManualClock()
    server = LocalServer(parse_accounts("1"), clock=clock, service="fixed:10s")
    outer = web.Application()
    outer.add_subapp("/mock", server.app())
    runner = web.AppRunner(outer, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        rig = Rig(server, clock, f"http://127.0.0.1:{port}/mock/v1/pika", session)
        jobid = (await rig.submit()).body["jobid"]
        await clock.advance(10)
        url = (await rig.job(jobid))["attachments"][0]["url"]
        assert url.startswith(rig.base + "/files/")
        async with session.get(url) as response:
            assert response.status == 200
        answer = await rig.call("GET", "/nowhere")
        assert (answer.status, answer.body["code"]) == (404, 404)
        answer = await rig.call("GET", "/jobs", headers={"Host": "evil.example"})
        assert answer.status == 403


async def test_a_connection_that_is_not_from_this_machines_network_needs_no_name_of_it(
    tmp_path: Path,
) -> None:
    runner = web.AppRunner(LocalServer(parse_accounts("1")).app(), shutdown_timeout=0.1)
    await runner.setup()
    path = str(tmp_path / "socket")
    await web.UnixSite(runner, path).start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path))
        )
        server, clock = LocalServer(), ManualClock()
        answer = await Rig(server, clock, "http://behind.a.proxy/v1/pika", session).submit()
        assert answer.status == 200


@pytest.mark.parametrize("host", ["::1", "localhost"])
async def test_other_loopback_addresses_work_where_the_machine_has_them(host: str) -> None:
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError:
        pytest.skip(f"this machine has no {host}")
    server = LocalServer(parse_accounts("1"))
    async with server.run(host) as base, aiohttp.ClientSession() as session:
        assert (
            await Rig(server, ManualClock(), base, session).submit("animate", image=Upload(PNG))
        ).status == 200


async def test_everywhere_is_told_as_an_address_that_can_be_called() -> None:
    async with LocalServer(parse_accounts("1")).run("0.0.0.0") as base:  # noqa: S104 - a test of just that
        assert base.startswith("http://127.0.0.1:")


async def test_stamps_are_utc_and_move_with_the_clock() -> None:
    moment = dt.datetime(2030, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    async with running(epoch=moment, clock=ManualClock(1000.0)) as rig:
        await rig.clock.advance(1.5)
        job = (await rig.submit(channel=FIRST)).body
        assert job["created"] == "2030-01-01T00:00:01.500Z"
        assert job["jobid"].startswith("job:20300101000001500-")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"token": ""}, "token"),
        ({"token": "  "}, "token"),
        ({"speed": 0}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"speed": float("inf")}, "speed"),
        ({"notice": -1}, "notice"),
        ({"service": "often"}, "service"),
        ({"faults": ["flood:1"]}, "faults"),
        ({"epoch": dt.datetime(2030, 1, 1)}, "epoch"),  # noqa: DTZ001 - the very mistake
        ({"accounts": {"123": 1}}, "accounts"),
        ({"accounts": {FIRST: 0}}, "accounts"),
        ({"accounts": {FIRST: 11}}, "accounts"),
        ({"accounts": {FIRST: True}}, "accounts"),
        ({"accounts": [(FIRST, 1), (FIRST, 2)]}, "accounts"),
        ({"accounts": [(int(FIRST), 1)]}, "accounts"),
        ({"retain": -1}, "retain"),
        ({"body_limit": 0}, "body_limit"),
    ],
)
def test_a_setting_that_cannot_work_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field.removesuffix("s")) as caught:
        LocalServer(**settings)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (caught.value.field, copy.field, str(copy)) == (field, field, str(caught.value))


async def test_a_timeline_calls_in_order_and_re_arms_for_what_comes_sooner() -> None:
    clock, called = ManualClock(), list[str]()
    timeline = Timeline(clock, EPOCH)
    timeline.at(3, lambda: called.append("third"))
    timeline.start()
    timeline.at(1, lambda: called.append("first"))
    timeline.at(1, lambda: called.append("second"))
    timeline.at(0, lambda: called.append("now"))
    assert called == []
    await settle()
    assert called == ["now"]
    await clock.advance(0.9)
    assert called == ["now"]
    await clock.advance(0.1)
    assert called == ["now", "first", "second"]
    timeline.stop()
    await clock.advance(10)
    assert called == ["now", "first", "second"]
    timeline.start()
    await settle()
    assert called[3:] == ["third"]
    timeline.stop()
    assert clock.sleeping == 0


async def test_a_delay_that_a_stop_ended_is_not_ended_again() -> None:
    clock = ManualClock()
    timeline = Timeline(clock, EPOCH)
    timeline.start()
    delay = asyncio.create_task(timeline.delay(10))
    await settle()
    timeline.stop()
    await delay
    timeline.start()
    await clock.advance(10)
    timeline.stop()


async def test_a_delay_on_a_stopped_timeline_does_not_wait() -> None:
    await asyncio.wait_for(Timeline(ManualClock(), EPOCH).delay(1e9), 1)
