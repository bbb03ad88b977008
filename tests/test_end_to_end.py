"""Client, balancer and local server together: two implementations of one contract must agree."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web

from pika_balancer import (
    AccountSuspended,
    BadRequest,
    Balancer,
    ChannelFull,
    ConnectFailed,
    ConnectionLost,
    Dispatcher,
    InvalidResponse,
    Job,
    LostTrack,
    NotFound,
    PikaClient,
    PikaError,
    PromptRejected,
    RateLimited,
    Secret,
    ServiceError,
    SubscriptionRequired,
    Unauthorized,
)
from pika_balancer.server import LocalServer
from pika_balancer.testing import wait_until

ONE, TWO = "100000000000000001", "100000000000000002"
TOKEN = "user:1234-local"


@asynccontextmanager
async def at(server: LocalServer, token: str = TOKEN) -> AsyncGenerator[PikaClient]:
    async with server.run() as base_url, PikaClient(token, base_url=base_url, timeout=10) as client:
        yield client


async def ended(client: PikaClient, job: Job) -> Job:
    while not job.ended:
        await asyncio.sleep(0.002)
        job = await client.job(job.jobid)
    return job


async def test_accounts_are_read_written_and_removed() -> None:
    async with at(LocalServer({ONE: 6}, token=TOKEN)) as client:
        await client.put_account(TWO, discord="discord-token-of-two", max_jobs=3)
        accounts = await client.accounts()
        assert {channel: account.max_jobs for channel, account in accounts.items()} == {ONE: 6, TWO: 3}
        assert accounts[TWO].discord == Secret("discord-token-of-two")
        assert await client.account(TWO) == accounts[TWO]
        await client.delete_account(TWO)
        with pytest.raises(NotFound):
            await client.account(TWO)
        with pytest.raises(BadRequest, match="valid Discord channel id") as caught:
            await client.put_account("7", discord="x" * 30, max_jobs=3)
        assert (caught.value.status, caught.value.code) == (400, 400)


async def test_every_kind_of_job_is_accepted_and_its_file_can_be_fetched() -> None:
    async with at(LocalServer({ONE: 10}, service="fixed:5ms")) as client:
        image = b"\x89PNG\r\n\x1a\n" + bytes(64)
        jobs = [
            await client.create("a cat", channel=ONE, reply_ref="ref 1"),
            await client.animate(image, prompt="it moves"),
            await client.encrypt_text("hello", "in the clouds", font="RETRO"),
            await client.encrypt_image(image, "in the sand", image=image),
        ]
        assert jobs[0].reply_ref == "ref 1"
        done = [await ended(client, job) for job in jobs]
        again = await ended(client, await client.button(done[0].jobid))
        assert again.channel == done[0].channel == ONE
        for job, verb in zip(
            [*done, again], ["create", "animate", "encrypt_text", "encrypt_image", "button"], strict=True
        ):
            assert (job.status, job.verb, job.channel) == ("completed", f"pika-{verb}", ONE)
            async with ClientSession() as plain, plain.get(job.attachments[0].url) as response:
                assert response.status == 200
                assert (await response.read())[4:8] == b"ftyp"
        assert await client.jobs() == []


async def test_many_workers_fill_every_account_without_a_429() -> None:
    server = LocalServer({ONE: 2, TWO: 3}, service="exp:10ms", rng=random.Random(3))
    async with at(server) as client, await Balancer.from_client(client) as balancer:

        async def work(number: int) -> Job:
            async with balancer.lease() as lease:
                job = await client.create(f"job {number}", channel=lease.channel, reply_ref=str(number))
                return await ended(client, job)

        jobs = await asyncio.gather(*(work(number) for number in range(120)))
    seen = server.statistics()
    assert {job.status for job in jobs} == {"completed"}
    assert {channel: seen.channels[channel].peak_in_flight for channel in (ONE, TWO)} == {ONE: 2, TWO: 3}
    assert sum(account.refused for account in seen.channels.values()) == 0
    assert (seen.submits, seen.duplicate_reply_refs) == (120, 0)
    assert balancer.snapshot().in_flight == 0


async def test_a_full_channel_lists_its_jobs() -> None:
    async with at(LocalServer({ONE: 1}, service="fixed:1h")) as client:
        job = await client.create("first")
        assert await client.jobs() == [job.jobid]
        with pytest.raises(ChannelFull) as caught:
            await client.create("second", channel=ONE)
        assert (caught.value.status, caught.value.channel) == (429, ONE)
        assert caught.value.executing_jobs == (job.jobid,)


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        ("402:1", SubscriptionRequired, 402),
        ("422:1", PromptRejected, 422),
        ("429:1", RateLimited, 429),
        ("500:1", ServiceError, 500),
        ("502:1", ServiceError, 502),
        ("503:1", ServiceError, 503),
        ("500-but-accepted:1", ServiceError, 500),
        ("504:1", LostTrack, 504),
        ("596:1", AccountSuspended, 596),
        ("html:1", ServiceError, 500),
        ("drop:1", ConnectionLost, None),
        ("drop-accepted:1", ConnectionLost, None),
    ],
)
async def test_every_fault_of_the_server_is_an_error_of_the_client(
    fault: str, error: type[PikaError], status: int | None
) -> None:
    server = LocalServer({ONE: 5}, service="fixed:1h", faults=[fault])
    async with at(server) as client:
        with pytest.raises(error) as caught:
            await client.create("a cat", channel=ONE)
        assert type(caught.value) is error
        assert (caught.value.status, caught.value.channel) == (status, ONE)
        if error is RateLimited:
            assert caught.value.retry_after is not None
            assert caught.value.executing_jobs == ()
    assert server.statistics().submits == 1


async def test_a_wrong_token_an_unknown_job_and_no_accounts() -> None:
    async with at(LocalServer({ONE: 1}, token=TOKEN), token="user:wrong") as client:
        with pytest.raises(Unauthorized):
            await client.accounts()
    async with at(LocalServer()) as client:
        with pytest.raises(NotFound):
            await client.job("job:unknown")
        with pytest.raises(NotFound):
            await client.create("a cat")


async def test_jobs_go_to_another_account_if_theirs_was_removed() -> None:
    async with (
        at(LocalServer({ONE: 5, TWO: 5}, service="fixed:5ms")) as client,
        await Balancer.from_client(client, rng=random.Random(1)) as balancer,
        Dispatcher(client, balancer, poll_every=0.02) as dispatcher,
    ):
        await client.delete_account(ONE)
        jobs = await asyncio.gather(*(dispatcher.run("create", prompt="a cat") for _ in range(8)))
        assert {(job.status, job.channel) for job in jobs} == {("completed", TWO)}


async def test_without_a_server_nothing_was_sent() -> None:
    async with LocalServer().run() as base_url:
        pass
    async with PikaClient(TOKEN, base_url=base_url, retries=0) as client:
        with pytest.raises(ConnectFailed) as caught:
            await client.create("a cat")
    assert caught.value.maybe_sent is False


async def test_the_client_reads_the_servers_callback() -> None:
    told: list[dict[str, object]] = []

    async def receive(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/reply", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        async with at(LocalServer({ONE: 1}, service="fixed:5ms")) as client:
            job = await client.create("a cat", reply_url=f"http://{host}:{port}/reply", reply_ref="mine")
            await wait_until(lambda: bool(told))
            assert (told[0]["jobid"], told[0]["replyRef"], told[0]["status"]) == (
                job.jobid,
                "mine",
                "completed",
            )
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "broken",
    [lambda entry: {**entry, "maxJobs": 11}, lambda entry: {**entry, "maxJobs": "6"}],
)
async def test_a_map_beyond_the_contract_is_refused_by_path(
    broken: Callable[[dict[str, object]], dict[str, object]],
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({ONE: broken({"channel": ONE, "maxJobs": 6})})

    app = web.Application()
    app.router.add_get("/v1/pika/account", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        async with PikaClient(TOKEN, base_url=f"http://{host}:{port}/v1/pika") as client:
            with pytest.raises(InvalidResponse) as caught:
                await client.accounts()
        assert [fault.path for fault in caught.value.faults] == [f"$['{ONE}'].maxJobs"]
    finally:
        await runner.cleanup()
