"""A result becomes a file: whole or not at all, and nowhere else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pika_balancer._util.network import scope
from pika_balancer.cli.download import download, safe_name
from pika_balancer.cli.exit_codes import DownloadFailed
from pika_balancer.models import Attachment, Job
from tests.cli.conftest import Limit

JOB = Job("job:1-user:2-channel:3")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
async def host() -> AsyncIterator[Serve]:
    servers: list[TestServer] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_get("/{name:.*}", handler)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        return str(server.make_url("/a/video.mp4"))

    yield start
    for server in servers:
        await server.close()


@pytest.mark.parametrize(
    ("filename", "url", "name"),
    [
        ("cat.mp4", "http://h/x", "cat.mp4"),
        (None, "http://h/a/b/cat.mp4?ex=1&is=2", "cat.mp4"),
        (None, "http://h/a/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "passwd.mp4"),
        ("../../etc/passwd", "http://h/x", "passwd.mp4"),
        ("..\\..\\boot.ini", "http://h/x", "boot.ini"),
        ("/etc/cron.d/job.mp4", "http://h/x", "job.mp4"),
        ("..", "http://h/x", "job-1-user-2-channel-3.mp4"),
        (".bashrc", "http://h/x", "bashrc.mp4"),
        (".mp4", "http://h/x", "mp4.mp4"),
        ("-rf.mp4", "http://h/x", "rf.mp4"),
        ("a\x00b\nc\x1b.mp4", "http://h/x", "a_b_c.mp4"),
        ("кот 1.mp4", "http://h/x", "1.mp4"),
        ("x" * 500 + ".mp4", "http://h/x", "x" * 80 + ".mp4"),
        ("a." + "y" * 500, "http://h/x", "a." + "y" * 12),
        ("", "http://h/", "job-1-user-2-channel-3.mp4"),
    ],
)
def test_name_is_one_plain_component(filename: str | None, url: str, name: str) -> None:
    made = safe_name(Attachment(url, filename), JOB.jobid)
    assert made == name
    assert Path(made).name == made


async def test_file_that_exists_is_never_replaced(host: Serve, tmp_path: Path) -> None:
    url = await host(new)
    (tmp_path / "video.mp4").write_bytes(b"old")
    saved = await asyncio.gather(*(download(JOB, Attachment(url), tmp_path) for _ in range(3)))
    assert {path.name for path in saved} == {"video-2.mp4", "video-3.mp4", "video-4.mp4"}
    assert files(tmp_path) == {
        "video.mp4": b"old",
        "video-2.mp4": b"new",
        "video-3.mp4": b"new",
        "video-4.mp4": b"new",
    }


async def test_no_credentials_go_along(host: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USEAPI_TOKEN", "secret")
    seen: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return web.Response(body=b"x")

    await download(JOB, Attachment(await host(handler)), tmp_path)
    assert "Authorization" not in seen[0]
    assert seen[0]["Accept-Encoding"] == "identity"


async def new(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"new")


async def half(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"x" * 500)
    assert request.transport is not None
    request.transport.close()
    return response


async def missing(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=404, text="\x1b[2Jgone")


async def empty(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"")


async def bomb(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"x" * 100_000)


async def silent(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await asyncio.sleep(3600)
    return response


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (missing, "HTTP 404"),
        (half, "ClientPayloadError"),
        (empty, "it is empty"),
        (bomb, "it is larger than"),
        (silent, "no answer in time"),
    ],
)
async def test_failure_leaves_nothing_behind_and_names_the_job(
    host: Serve, tmp_path: Path, limit: Limit, handler: Handler, why: str
) -> None:
    limit("size of a result", 50_000)
    if handler is silent:
        limit("silence of a download", 0.2)
    with pytest.raises(DownloadFailed, match=why) as caught:
        await download(JOB, Attachment(await host(handler)), tmp_path)
    assert caught.value.jobid == JOB.jobid
    assert "the job is completed" in caught.value.message
    assert files(tmp_path) == {}


@pytest.mark.parametrize("url", ["file:///etc/passwd", "not a url", "http://127.0.0.1:1/x", "http://[", ""])
async def test_url_that_leads_nowhere_is_a_failed_download(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadFailed):
        await download(JOB, Attachment(url, "x.mp4"), tmp_path)
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("service", "where", "good"),
    [
        ("http://localhost:1/v1/pika", None, True),
        ("http://192.0.2.1/v1/pika", None, False),
        ("http://8.8.8.8/v1/pika", None, False),
        ("http://127.0.0.1:1/v1/pika", "http://169.254.169.254/latest", False),
        ("http://127.0.0.1:1/v1/pika", "http://[::ffff:10.0.0.1]/", False),
        ("http://127.0.0.1:1/v1/pika", "file:///etc/passwd", False),
        ("http://127.0.0.1:1/v1/pika", "/other.mp4", True),
    ],
)
async def test_a_result_leads_into_no_network_but_the_services_own(
    host: Serve, tmp_path: Path, service: str, where: str | None, *, good: bool
) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.path)
        if where is not None and len(seen) == 1:
            return web.Response(status=302, headers={"Location": where})
        return web.Response(body=b"x")

    work = download(JOB, Attachment(await host(handler)), tmp_path, service=service)
    if good:
        assert (await work).read_bytes() == b"x"
    else:
        with pytest.raises(DownloadFailed, match=r"not allowed|NonHttpUrl"):
            await work
        assert files(tmp_path) == {}
        assert len(seen) == (where is not None)


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.0.9", "loopback"),
        ("0.0.0.0", "loopback"),  # noqa: S104 - a destination here
        ("::1", "loopback"),
        ("::", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%1", "link-local"),
        ("10.0.0.1", "private"),
        ("::ffff:10.0.0.1", "private"),
        ("2002:0a00:0001::", "private"),
        ("172.16.9.9", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("192.0.2.1", "private"),
        ("224.0.0.1", "private"),
        ("255.255.255.255", "private"),
        ("fd00::1", "private"),
        ("ff02::1", "private"),
        ("8.8.8.8", "public"),
        ("64:ff9b::808:808", "public"),
        ("2606:4700::1111", "public"),
    ],
)
def test_an_address_is_where_it_leads_however_it_is_written(address: str, where: str) -> None:
    assert scope(address) == where


async def test_cancelled_download_leaves_nothing_behind(host: Serve, tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x" * 70_000)
        begun.set()
        await asyncio.sleep(3600)
        return response

    task = asyncio.create_task(download(JOB, Attachment(await host(slow)), tmp_path))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(tmp_path) == {}
