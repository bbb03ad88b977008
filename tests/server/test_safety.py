"""What keeps a local tool harmless: host and token checks, limits, JSON always, no token anywhere."""

import asyncio
import contextlib
import json
import logging
import traceback
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from pika_balancer.errors import InvalidArgument
from pika_balancer.server import LocalServer, local
from pika_balancer.server.answers import Refusal
from pika_balancer.server.app import check_host
from pika_balancer.server.form import READ_WITHIN
from pika_balancer.testing import wait_until
from tests.server.conftest import PNG, Rig, Upload, form, running

CANARY = "user:1234-c4n4ry-of-the-api-token"
DISCORD = "d1sc0rd-c4n4ry-token"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:{port}",
        "LOCALHOST",
        "127.0.0.1:{port}",
        "127.1.2.3",
        "[::1]:{port}",
        "my.box:80",
    ],
)
async def test_names_of_this_machine_are_served(host: str) -> None:
    async with running(allowed_hosts=["My.Box"]) as rig:
        answer = await rig.call("GET", "/jobs", headers={"Host": host.format(port=rig.port)})
        assert answer.status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "",
        "a b",
    ],
)
@pytest.mark.parametrize("path", ["/account", "/nowhere", "/files/a/b.mp4"])
async def test_another_name_is_refused_before_anything_else(rig: Rig, host: str, path: str) -> None:
    answer = await rig.call("GET", path, headers={"Host": host})
    assert (answer.status, answer.body["code"]) == (403, 403)


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("10.1.2.3:8080", True),
        ("[fd00::1]", True),
        ("localhost", True),
        ("pika:8080", True),
        ("my.box", True),
        ("evil.example:8080", False),
        ("10.1.2.3.evil.example", False),
    ],
)
async def test_on_an_address_that_others_reach_no_web_page_has_a_name_for_it(
    host: str, *, good: bool
) -> None:
    transport = Mock()
    transport.get_extra_info = lambda name, default=None: ("10.1.2.3", 80) if name == "sockname" else default
    request = make_mocked_request("GET", "/v1/pika/nowhere", {"Host": host}, transport=transport)
    refused = contextlib.nullcontext() if good else pytest.raises(Refusal, match="not allowed here")
    with refused:
        check_host(request, {"my.box"})


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer  ", "Basic dXNlcg==", "token", f"bearer{CANARY}"]
)
async def test_without_a_bearer_token_every_api_call_is_401(rig: Rig, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path in (
        ("GET", "/account"),
        ("GET", "/account/1"),
        ("POST", "/account/1"),
        ("DELETE", "/account/1"),
        ("GET", "/jobs"),
        ("GET", "/jobs/?jobid=1"),
        ("POST", "/create"),
        ("POST", "/button"),
    ):
        answer = await rig.call(method, path, token=None, headers=headers)
        assert (answer.status, answer.body) == (401, {"error": "Unauthorized", "code": 401})
    assert rig.server.statistics().submits == 0


async def test_with_a_configured_token_no_other_will_do() -> None:
    async with running(token=CANARY) as rig:
        assert (await rig.call("GET", "/jobs", token=CANARY)).status == 200
        assert (
            await rig.call("GET", "/jobs", token=None, headers={"Authorization": f"bearer {CANARY}"})
        ).status == 200
        for wrong in (CANARY[:-1], CANARY + "x", CANARY.upper(), "any", "caf\udce9"):
            assert (
                await rig.call(
                    "GET", "/jobs", token=wrong.encode("utf-8", "surrogateescape").decode("latin-1")
                )
            ).status == 401


async def test_a_large_body_is_413_before_and_while_it_is_read() -> None:
    async with running(body_limit=10_000) as rig:
        big = Upload(data=PNG + bytes(10_000))
        refusal = (413, {"error": "Request body is larger than 10000 bytes", "code": 413})
        answers = [await rig.submit("animate", image=big)]
        answers.append(await rig.call("POST", "/create", data={"prompt": "x" * 10_000}))
        answers.append(await rig.call("POST", "/account/12345678901234567", data=b'"' + b"x" * 10_000 + b'"'))
        body = b"".join(
            [
                b'--XX\r\nContent-Disposition: form-data; name="%c"\r\n\r\n%s\r\n' % (n, b"y" * 3000)
                for n in b"abcd"
            ]
        )
        chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body, b"--XX--\r\n"))
        raw = await rig.raw(
            b"POST /v1/pika/create HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any\r\n"
            b"Content-Type: multipart/form-data; boundary=XX\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunked
            + b"0\r\n\r\n"
        )
        assert [(answer.status, answer.body) for answer in answers] == [refusal] * 3
        head, _, content = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert json.loads(content) == refusal[1]
        assert rig.server.statistics().jobs == 0
        assert (await rig.submit("animate", image=Upload(data=bytes(9000)))).status == 200


async def test_a_compressed_body_is_limited_by_what_it_unpacks_to() -> None:
    async with running(body_limit=10_000) as rig:
        answer = await rig.call("POST", "/create", data={"prompt": "x" * 1_000_000}, compress="gzip")
        assert answer.status == 413


async def test_a_sender_that_expects_100_continue_gets_it_and_a_hopeless_one_is_spared_the_body() -> None:
    async with running(body_limit=3_000_000) as rig:
        answer = await rig.call(
            "POST", "/animate", data=form(image=Upload(data=bytes(2_000_000))), expect100=True
        )
        assert (answer.status, answer.body["image"]["size"]) == (200, 2_000_000)
        head = (
            b"POST /v1/pika/create HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any\r\n"
            b"Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: %d\r\nExpect: %s\r\n\r\n"
        )
        for expectation in (b"Expect: 100-continue", b"X: no expectation"):
            raw = await rig.raw(head.replace(b"Expect: %s", expectation) % 4_000_000)
            assert raw.startswith(b"HTTP/1.1 413 ")
        body = b'--XX\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--XX--\r\n'
        raw = await rig.raw((head % (len(body), b"100-Continue")).replace(b"HTTP/1.1", b"HTTP/1.0") + body)
        assert raw.startswith(b"HTTP/1.0 200 ")
        raw = await rig.raw(head % (0, b"200-ok"))
        assert raw.startswith(b"HTTP/1.1 417 ")
        assert json.loads(raw.partition(b"\r\n\r\n")[2])["code"] == 417


async def test_unknown_routes_and_methods_are_answered_in_json(rig: Rig) -> None:
    for path in ("", "/", "/nowhere", "/create/x", "/account/1/2"):
        answer = await rig.call("GET", path, token=None)
        assert (answer.status, answer.body) == (404, {"error": "Not Found", "code": 404})
    for method, path, allow in (
        ("PUT", "/account", "GET"),
        ("GET", "/create", "POST"),
        ("DELETE", "/jobs", "GET"),
    ):
        answer = await rig.call(method, path, token=None)
        assert (answer.status, answer.body) == (405, {"error": "Method Not Allowed", "code": 405})
        assert answer.headers["Allow"] == allow


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/pika/jobs HTTP/9.9\r\n\r\n",
        b"GET /v1/pika/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
        + CANARY.encode()
        + b"\x01\r\n\r\n",
        b"POST /v1/pika/create HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /v1/pika/jobs HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_in_json_and_not_quoted(
    rig: Rig, caplog: pytest.LogCaptureFixture, request_bytes: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    raw = await rig.raw(request_bytes)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    assert json.loads(body)["code"] == int(head.split()[1]) == 400
    assert CANARY.encode() not in raw
    assert CANARY not in caplog.text


async def test_an_upload_that_breaks_off_takes_nothing_and_is_not_an_error_here(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    _reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(
        b"POST /v1/pika/create HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any\r\n"
        b"Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: 1000\r\n\r\n"
        b'--XX\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na c'
    )
    await wait_until(lambda: rig.server.statistics().submits == 1)
    writer.close()
    await writer.wait_closed()
    assert (await rig.submit()).status == 200
    assert rig.server.statistics().jobs == 1
    assert caplog.records == []


HEAD = (
    b"POST /v1/pika/%s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any\r\n"
    b"Content-Type: multipart/form-data; boundary=%s\r\nContent-Length: 1000\r\n"
)


@pytest.mark.parametrize("path", [b"create", b"account/12345678901234567"])
async def test_a_body_that_does_not_arrive_in_time_is_given_up(rig: Rig, path: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(HEAD % (path, b"XX") + b"\r\n--XX")
    await wait_until(lambda: rig.clock.sleeping == 1)
    await rig.clock.advance(READ_WITHIN - 0.1)
    assert rig.clock.sleeping == 1
    await rig.clock.advance(0.2)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read(65_536)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body) == {"error": "Request body did not arrive within 120 s", "code": 408}
    writer.close()
    await writer.wait_closed()
    assert rig.server.statistics().jobs == 0


@pytest.mark.parametrize("start", [b"", b"GET /v1/pika/jobs HTTP/1.1\r\nHost: loc"])
async def test_a_connection_without_a_whole_request_is_closed_after_a_while(
    start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "IDLE", 0.05)
    async with running() as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(start)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_a_sender_that_had_gone_before_its_body_was_read_is_no_error_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = LocalServer({"12345678901234567": 1})
    gone = asyncio.Event()

    @web.middleware
    async def late(request: web.Request, handler: Any) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        await wait_until(lambda: request.transport is None)
        request.content._exception = None  # as between two requests
        try:
            response: web.StreamResponse = await handler(request)
            return response
        finally:
            gone.set()

    app = server.app()
    app.middlewares.insert(0, late)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        _reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(HEAD % (b"create", b"XX") + b"\r\n--XX")
        await gone.wait()
        writer.close()
    finally:
        await runner.cleanup()
    assert server.statistics().jobs == 0
    assert caplog.records == []


@pytest.mark.parametrize("boundary", [b"", b'""', b'"'])
async def test_a_form_without_a_boundary_is_refused(rig: Rig, boundary: bytes) -> None:
    raw = await rig.raw(HEAD % (b"create", boundary) + b"\r\n" + b"x" * 1000)
    assert raw.startswith(b"HTTP/1.1 400 ")
    assert b"with a boundary" in raw


@pytest.mark.parametrize("path", [b"create", b"no/where", b"jobs"])
async def test_an_expectation_of_bytes_is_refused(rig: Rig, path: bytes) -> None:
    raw = await rig.raw(HEAD % (path, b"XX") + b"Expect: \xff\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 417 ")
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["code"] == 417


async def test_tokens_appear_nowhere_but_in_the_account_calls(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    channel = "12345678901234567"
    seen: list[object] = []
    async with running("1", token=CANARY, faults=["500:0.2", "504:0.2", "fail:0.2"]) as rig:
        sent = {"discord": DISCORD, "channel": channel, "maxJobs": 10}
        seen.append(await rig.call("POST", f"/account/{channel}", token=CANARY, json=sent | {"maxJobs": 11}))
        seen.append(await rig.call("POST", f"/account/{channel}", token=CANARY, json=sent))
        other = sent | {"channel": channel[::-1]}
        seen.append(await rig.call("POST", f"/account/{channel[::-1]}", token=CANARY, json=other))
        for n in range(12):
            extra = {"discord": DISCORD, "channel": channel} if n % 2 else {}
            seen.append(await rig.submit(token=CANARY, **extra))
        await rig.clock.advance(200)
        seen.append(await rig.call("GET", "/jobs", token=CANARY))
        seen.append(await rig.call("GET", "/jobs", token=CANARY + "x"))
        seen += [rig.server, rig.server.statistics(), vars(rig.server), rig.server.app()]
        assert DISCORD in json.dumps((await rig.call("GET", "/account", token=CANARY)).body)
    text = repr(seen) + caplog.text
    assert "d1s…ken" in text
    assert CANARY not in text
    assert DISCORD not in text


async def test_a_short_discord_token_is_not_shown_by_its_ends() -> None:
    async with running(()) as rig:
        answer = await rig.submit(channel="12345678901234567", discord="abcdef")
        assert answer.body["discord"] == "…"


def test_a_refused_setting_does_not_carry_the_token_in_its_traceback() -> None:
    with pytest.raises(InvalidArgument) as caught:
        LocalServer(token=CANARY, speed=0)
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb)][1:]
    assert frames
    assert CANARY not in repr([frame.f_locals for frame in frames])


def test_a_server_binds_this_machine_alone_by_default() -> None:
    async def bound() -> str:
        async with LocalServer().run() as base:
            return base

    assert asyncio.run(bound()).startswith("http://127.0.0.1:")
