"""The client's calls, arguments, retries and lifetime, with a mocked aiohttp and a manual clock."""

import asyncio
import copy
import gc
import json
import logging
import math
import pickle
import random
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aioresponses import aioresponses
from yarl import URL

from pika_balancer.client import client as client_module
from pika_balancer.client.client import PikaClient
from pika_balancer.client.requests import Upload
from pika_balancer.errors import (
    Closed,
    ConnectFailed,
    ConnectionLost,
    InvalidArgument,
    InvalidResponse,
    NotFound,
    PikaError,
    RateLimited,
    RequestTimeout,
    ServiceError,
    TransportError,
    WrongLoop,
)
from pika_balancer.models import Account, JobStatus, Secret
from pika_balancer.testing import ManualClock, settle, wait_until

SAMPLES = Path(__file__).parent / "samples"
BASE = "https://pika.test/v1/pika"
TOKEN = "user:1234-canary"
DISCORD = "MTAw.canary.discord"
CHANNEL = "1193054500145942538"
JOBID = "job:20240115021440711-user:1234-channel:1193054500145942538"

Call = Callable[[PikaClient], Awaitable[Any]]
GETS: dict[str, tuple[str, Call]] = {
    "accounts": ("/account", lambda client: client.accounts()),
    "account": (f"/account/{CHANNEL}", lambda client: client.account(CHANNEL)),
    "jobs": ("/jobs", lambda client: client.jobs()),
    "job": ("/jobs/?jobid=j1", lambda client: client.job("j1")),
}
ONCE: dict[str, tuple[str, str, Call]] = {
    "create": ("POST", "/create", lambda client: client.create("a cat")),
    "animate": ("POST", "/animate", lambda client: client.animate(b"png")),
    "encrypt_text": ("POST", "/encrypt_text", lambda client: client.encrypt_text("hi", "a cat")),
    "encrypt_image": ("POST", "/encrypt_image", lambda client: client.encrypt_image(b"png", "a cat")),
    "button": ("POST", "/button", lambda client: client.button("j1")),
    "put_account": (
        "POST",
        f"/account/{CHANNEL}",
        lambda client: client.put_account(CHANNEL, discord=DISCORD, max_jobs=3),
    ),
    "delete_account": ("DELETE", f"/account/{CHANNEL}", lambda client: client.delete_account(CHANNEL)),
}


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.json").read_bytes()


def make(**options: Any) -> PikaClient:
    return PikaClient(TOKEN, base_url=BASE, rng=random.Random(7), **options)


def sent(mocked: aioresponses) -> list[tuple[str, str]]:
    """Return method and path of everything that was sent."""
    requests = cast("dict[tuple[str, URL], list[Any]]", mocked.requests)
    return [(method, str(url).removeprefix(BASE)) for (method, url), calls in requests.items() for _ in calls]


def the_call(mocked: aioresponses) -> dict[str, Any]:
    """Return the keyword arguments of the only request."""
    ((call,),) = cast("dict[Any, list[Any]]", mocked.requests).values()
    return cast("dict[str, Any]", call.kwargs)


# --- calls ---------------------------------------------------------------------------------------------


async def test_the_accounts_come_in_the_servers_order(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/account", body=sample("accounts-200"))
    async with make() as client:
        accounts = await client.accounts()
    assert list(accounts) == [CHANNEL, "1187062548362145800", "98765432109876543"]
    assert accounts[CHANNEL].max_jobs == 3
    headers = the_call(mocked)["headers"]
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert the_call(mocked)["allow_redirects"] is False


async def test_no_accounts_is_not_found_or_an_empty_map(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/account", status=404, body="Not found")
    mocked.get(f"{BASE}/account", body=b"{}")
    async with make() as client:
        with pytest.raises(NotFound):
            await client.accounts()
        assert await client.accounts() == {}


async def test_an_account_is_read_written_and_removed(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/account/{CHANNEL}", body=sample("account-200"))
    mocked.post(f"{BASE}/account/{CHANNEL}", status=204, repeat=True)
    mocked.delete(f"{BASE}/account/{CHANNEL}", status=204)
    async with make() as client:
        account = await client.account(CHANNEL)
        await client.put_account(account)
        await client.put_account(account, max_jobs=9)
        await client.put_account(CHANNEL, discord=DISCORD, max_jobs=10)
        await client.delete_account(CHANNEL)
    posts = cast("dict[Any, list[Any]]", mocked.requests)["POST", URL(f"{BASE}/account/{CHANNEL}")]
    bodies = [json.loads(call.kwargs["data"].decode()) for call in posts]
    assert account.discord is not None
    assert bodies == [
        {"channel": CHANNEL, "discord": account.discord.reveal(), "maxJobs": 3},
        {"channel": CHANNEL, "discord": account.discord.reveal(), "maxJobs": 9},
        {"channel": CHANNEL, "discord": DISCORD, "maxJobs": 10},
    ]


async def test_an_account_without_its_token_cannot_be_written(mocked: aioresponses) -> None:
    async with make() as client:
        with pytest.raises(InvalidArgument, match="discord"):
            await client.put_account(Account(CHANNEL))
    assert sent(mocked) == []


@pytest.mark.parametrize("name", ["create", "animate", "encrypt_text", "encrypt_image", "button"])
async def test_a_submit_returns_the_accepted_job(mocked: aioresponses, name: str) -> None:
    method, path, call = ONCE[name]
    mocked.post(BASE + path, body=sample("job-200-started"))
    async with make() as client:
        job = await call(client)
    assert (job.jobid, job.status) == (JOBID, JobStatus.STARTED)
    assert sent(mocked) == [(method, path)]
    assert the_call(mocked)["data"].content_type.startswith("multipart/form-data; boundary=")


async def test_every_parameter_of_a_submit_reaches_the_form(mocked: aioresponses) -> None:
    mocked.post(f"{BASE}/encrypt_text", body=sample("job-200-started"))
    async with make() as client:
        await client.encrypt_text(
            "hi",
            "a cat",
            font="RETRO",
            image=Upload("cat.png", b"png", "image/png"),
            channel=CHANNEL,
            discord=DISCORD,
            max_jobs=4,
            reply_url="https://example.com/cb",
            reply_ref="r1",
        )
    form = the_call(mocked)["data"].decode()
    for name, value in {
        "message": "hi",
        "prompt": "a cat",
        "font": "RETRO",
        "channel": CHANNEL,
        "discord": DISCORD,
        "maxJobs": "4",
        "replyUrl": "https://example.com/cb",
        "replyRef": "r1",
    }.items():
        assert f'name="{name}"\r\n\r\n{value}\r\n' in form
    assert 'name="image"; filename="cat.png"\r\nContent-Type: image/png\r\n\r\npng\r\n' in form


async def test_images_come_as_bytes_path_or_upload(mocked: aioresponses, tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    file.write_bytes(b"from a file")
    mocked.post(f"{BASE}/encrypt_image", body=sample("job-200-started"))
    async with make() as client:
        await client.encrypt_image(file, "a cat", image=b"as bytes")
    form = the_call(mocked)["data"].decode()
    assert (
        'name="message"; filename="cat.png"\r\nContent-Type: application/octet-stream\r\n\r\nfrom a file'
        in form
    )
    assert 'name="image"; filename="blob"\r\nContent-Type: application/octet-stream\r\n\r\nas bytes' in form


async def test_a_prepared_submit_is_read_and_checked_once_and_can_be_sent_twice(
    mocked: aioresponses, tmp_path: Path
) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(b"the picture")
    mocked.post(f"{BASE}/create", body=sample("job-200-started"), repeat=True)
    async with make() as client:
        with pytest.raises(InvalidArgument):
            await client.prepare("create", prompt="")
        prepared = await client.prepare("create", prompt="a cat", image=image)
        image.unlink()
        assert sent(mocked) == []
        for number in "12":
            job = await client.send(prepared, channel=CHANNEL, reply_ref=f"ref {number}")
            assert job.status == "started"
    [posts] = cast("dict[Any, list[Any]]", mocked.requests).values()
    bodies = [call.kwargs["data"].decode() for call in posts]
    assert ["ref 1" in body for body in bodies] == [True, False]
    assert all("the picture" in body and CHANNEL in body for body in bodies)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty file", "no bytes", "zero in path"])
async def test_an_image_that_cannot_be_read_is_refused_by_name(
    mocked: aioresponses, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "empty").touch()
    images: dict[str, bytes | Path] = {
        "missing": tmp_path / "missing.png",
        "folder": tmp_path,
        "empty file": tmp_path / "empty",
        "no bytes": b"",
        "zero in path": Path("a\0b"),
    }
    async with make() as client:
        with pytest.raises(InvalidArgument) as caught:
            await client.animate(images[kind])
    assert caught.value.field == "image"
    assert sent(mocked) == []


async def test_a_huge_file_is_refused_before_it_is_read(mocked: aioresponses, tmp_path: Path) -> None:
    image = tmp_path / "huge.png"
    with image.open("wb") as file:
        file.truncate(5 << 30)
    async with make() as client:
        with pytest.raises(InvalidArgument, match="larger than 100 MiB") as caught:
            await client.animate(image)
    assert caught.value.field == "image"


async def test_an_unreadable_image_is_refused_with_the_cause(
    mocked: aioresponses, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    (tmp_path / "cat.png").touch()
    async with make() as client:
        with pytest.raises(InvalidArgument, match="image cannot be read: Permission denied"):
            await client.animate(tmp_path / "cat.png")
    assert sent(mocked) == []


async def test_a_file_that_takes_too_long_ends_the_call(
    mocked: aioresponses, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate = asyncio.Event()

    async def stuck(*_: Any) -> None:
        await gate.wait()

    monkeypatch.setattr(asyncio, "to_thread", stuck)
    clock = ManualClock()
    async with make(clock=clock, timeout=5) as client:
        task = asyncio.create_task(client.animate(tmp_path / "x"))
        await settle()
        await clock.advance(5)
        with pytest.raises(RequestTimeout) as caught:
            await task
    assert caught.value.maybe_sent is False
    assert sent(mocked) == []


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client: client.create(""), "prompt"),
        (lambda client: client.create("x" * 1501), "prompt"),
        (lambda client: client.create(None), "prompt"),
        (lambda client: client.create("x", image="cat.png"), "image"),
        (lambda client: client.create("x", channel=""), "channel"),
        (lambda client: client.create("x", max_jobs=11), "max_jobs"),
        (lambda client: client.create("x", discord=""), "discord"),
        (lambda client: client.create("x", reply_ref="x" * 1025), "reply_ref"),
        (lambda client: client.animate("cat.png"), "image"),
        (lambda client: client.encrypt_text("x" * 21, "x"), "message"),
        (lambda client: client.encrypt_text("x", "x", font="Comic Sans"), "font"),
        (lambda client: client.encrypt_image("text", "x"), "message"),
        (lambda client: client.button(""), "jobid"),
        (lambda client: client.job(""), "jobid"),
        (lambda client: client.account(".."), "channel"),
        (lambda client: client.delete_account(""), "channel"),
        (lambda client: client.put_account("5", discord=DISCORD), "max_jobs"),
        (lambda client: client.put_account("5", max_jobs=3), "discord"),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    mocked: aioresponses, call: Call, field: str
) -> None:
    async with make() as client:
        with pytest.raises(InvalidArgument) as caught:
            await call(client)
    assert caught.value.field == field
    assert sent(mocked) == []


async def test_a_channel_in_a_path_is_quoted(mocked: aioresponses) -> None:
    mocked.get(URL(f"{BASE}/account/..%2Fjobs%3Fx%23y%20%25", encoded=True), body=b"{}")
    async with make() as client:
        assert (await client.account("../jobs?x#y %")).channel == "../jobs?x#y %"


async def test_the_base_url_may_have_a_path_and_a_last_slash(mocked: aioresponses) -> None:
    mocked.get("http://localhost:8080/a/b/jobs", body=b"[]")
    async with PikaClient(TOKEN, base_url="http://localhost:8080/a/b/") as client:
        assert await client.jobs() == []


async def test_html_with_status_200_is_an_invalid_response(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/account", body="<html>Welcome</html>", content_type="text/html", repeat=True)
    async with make() as client:
        with pytest.raises(InvalidResponse, match="HTML"):
            await client.accounts()
    assert len(sent(mocked)) == 1


async def test_a_broken_acceptance_keeps_the_job_id(mocked: aioresponses) -> None:
    mocked.post(f"{BASE}/create", body=b'{"jobid": "job:1", "status": 7}')
    async with make() as client:
        with pytest.raises(InvalidResponse) as caught:
            await client.create("x", channel="55")
    assert (caught.value.jobid, caught.value.channel, caught.value.status) == ("job:1", "55", 200)


async def test_a_wider_range_of_caps_is_accepted_and_sent(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/account", body=b'{"5": {"maxJobs": 50}}')
    mocked.post(f"{BASE}/account/5", status=204)
    async with make(cap_range=(1, 100)) as client:
        assert (await client.accounts())["5"].max_jobs == 50
        await client.put_account("5", discord=DISCORD, max_jobs=100)


# --- retries -------------------------------------------------------------------------------------------

PASSING: dict[str, tuple[dict[str, Any], type[PikaError]]] = {
    "refused": (
        {"exception": aiohttp.ClientConnectorError(cast("Any", None), OSError(111, "x"))},
        ConnectFailed,
    ),
    "lost": ({"exception": aiohttp.ServerDisconnectedError()}, ConnectionLost),
    "timeout": ({"timeout": True}, RequestTimeout),
    "500": ({"status": 500}, ServiceError),
    "502": ({"status": 502}, ServiceError),
    "503": ({"status": 503}, ServiceError),
    "504": ({"status": 504}, PikaError),
    "429": ({"status": 429}, RateLimited),
}
LASTING: dict[str, dict[str, Any]] = {
    **{str(status): {"status": status} for status in (301, 307, 400, 401, 402, 403, 404, 422, 501, 596, 999)},
    "full": {"status": 429, "body": sample("error-429-full")},
    "broken": {"status": 200, "body": b"{"},
    "strange": {"exception": RuntimeError("strange")},
}


async def finish(clock: ManualClock, task: "asyncio.Task[Any]") -> None:
    """Move the clock until the task is done."""
    while not task.done():
        await clock.advance(0.1)


@pytest.mark.parametrize("name", GETS)
@pytest.mark.parametrize("fault", PASSING)
async def test_a_get_is_repeated_after_a_temporary_failure(
    mocked: aioresponses, name: str, fault: str
) -> None:
    path, call = GETS[name]
    good = {"accounts": b"{}", "account": b"{}", "jobs": b"[]", "job": b'{"jobid": "j1"}'}[name]
    for _ in range(2):
        mocked.get(BASE + path, **PASSING[fault][0])
    mocked.get(BASE + path, body=good)
    clock = ManualClock()
    async with make(clock=clock) as client:
        task = asyncio.ensure_future(call(client))
        await finish(clock, task)
        await task
    assert sent(mocked) == [("GET", path)] * 3


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("fault", PASSING)
async def test_a_get_is_repeated_no_more_often_than_allowed(
    mocked: aioresponses, fault: str, retries: int
) -> None:
    options, cls = PASSING[fault]
    mocked.get(f"{BASE}/jobs", **options, repeat=True)
    clock = ManualClock()
    async with make(clock=clock, retries=retries) as client:
        task = asyncio.create_task(client.jobs())
        await finish(clock, task)
        with pytest.raises(cls):
            await task
    assert len(sent(mocked)) == 1 + retries


@pytest.mark.parametrize("fault", LASTING)
async def test_a_get_is_not_repeated_after_a_permanent_failure(mocked: aioresponses, fault: str) -> None:
    mocked.get(f"{BASE}/jobs", **LASTING[fault], repeat=True)
    async with make() as client:
        with pytest.raises(PikaError):
            await client.jobs()
    assert len(sent(mocked)) == 1


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("fault", [*PASSING, *LASTING])
async def test_nothing_but_a_get_is_ever_repeated(mocked: aioresponses, name: str, fault: str) -> None:
    method, path, call = ONCE[name]
    mocked.add(
        BASE + path, method, **(PASSING[fault][0] if fault in PASSING else LASTING[fault]), repeat=True
    )
    async with make(retries=10) as client:
        with pytest.raises(PikaError):
            await call(client)
    assert sent(mocked) == [(method, path)]


async def test_pauses_grow_with_full_jitter_from_the_rng(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/jobs", status=503, repeat=True)
    clock = ManualClock()
    expected = random.Random(7)
    due = 0.0
    async with make(clock=clock, retries=8, timeout=1000) as client:
        task = asyncio.create_task(client.jobs())
        for attempt, top in enumerate([0.5, 1, 2, 4, 8, 8, 8, 8], start=1):
            await settle()
            assert len(sent(mocked)) == attempt
            due += expected.uniform(0, top)
            await clock.advance(due - clock.now() - 1e-6)
            assert len(sent(mocked)) == attempt
            await clock.advance(2e-6)
        with pytest.raises(ServiceError):
            await task
    assert len(sent(mocked)) == 9


async def test_a_retry_waits_as_long_as_the_service_asks(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/jobs", status=429, headers={"Retry-After": "12"})
    mocked.get(f"{BASE}/jobs", body=b"[]")
    clock = ManualClock()
    async with make(clock=clock) as client:
        task = asyncio.create_task(client.jobs())
        await settle()
        await clock.advance(11.9)
        assert len(sent(mocked)) == 1
        await clock.advance(0.2)
        assert await task == []


async def test_a_retry_date_is_compared_with_the_wall_clock(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/jobs", status=429, body=sample("error-429-rate"))
    async with make(retries=0, wall=lambda: 1_705_284_900.0) as client:
        with pytest.raises(RateLimited) as caught:
            await client.jobs()
    assert caught.value.retry_after == 10.0


async def test_a_wait_that_does_not_fit_the_deadline_raises_the_real_error_at_once(
    mocked: aioresponses,
) -> None:
    mocked.get(f"{BASE}/jobs", status=429, headers={"Retry-After": "30"}, repeat=True)
    async with make(clock=ManualClock(), timeout=30) as client:
        with pytest.raises(RateLimited) as caught:
            await client.jobs()
    assert caught.value.retry_after == 30.0
    assert len(sent(mocked)) == 1


async def test_retries_are_logged_at_debug(mocked: aioresponses, caplog: pytest.LogCaptureFixture) -> None:
    mocked.get(f"{BASE}/jobs", status=503)
    mocked.get(f"{BASE}/jobs", body=b"[]")
    clock = ManualClock()
    with caplog.at_level(logging.DEBUG, "pika_balancer"):
        async with make(clock=clock) as client:
            task = asyncio.create_task(client.jobs())
            await finish(clock, task)
    (record,) = caplog.records
    assert record.name == "pika_balancer.client.client"
    assert record.getMessage() == "GET /jobs failed: ServiceError; retry 1 in 0.16 s"


# --- construction --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token", ["", "a\nb", "a\r\n", "tab\tbed", "with space", "ключ", "é", "\x7f", 5, b"x"]
)
def test_a_token_that_cannot_be_a_header_is_refused_unquoted(token: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        PikaClient(token)
    assert caught.value.field == "token"
    assert not token or str(token) not in caught.value.message


def test_a_pickled_secret_is_no_token() -> None:
    with pytest.raises(PikaError):
        PikaClient(pickle.loads(pickle.dumps(Secret("x"))))


def test_a_missing_token_names_the_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USEAPI_TOKEN", raising=False)
    with pytest.raises(InvalidArgument, match="USEAPI_TOKEN") as caught:
        PikaClient()
    assert caught.value.field == "token"


async def test_token_and_base_url_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, mocked: aioresponses
) -> None:
    monkeypatch.setenv("USEAPI_TOKEN", "from-env")
    monkeypatch.setenv("PIKA_BASE_URL", "http://localhost:9/")
    mocked.get("http://localhost:9/jobs", body=b"[]")
    async with PikaClient() as client:
        monkeypatch.delenv("USEAPI_TOKEN")
        await client.jobs()
    assert the_call(mocked)["headers"]["Authorization"] == "Bearer from-env"
    monkeypatch.delenv("PIKA_BASE_URL")
    assert repr(PikaClient("x")) == "<PikaClient https://api.useapi.net/v1/pika>"


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "ftp://host/",
        "api.useapi.net",
        "//host",
        "http://",
        "http://:80",
        "http://user:hunter2@host/",
        "http://host/?q=hunter2",
        "http://host/#hunter2",
        "http://host/a b",
        "http://host/\r\nX: hunter2",
        "http://host\\@evil",
        "http://host:99999/",
        "http://host:0/",
        "http://host:x/",
        "http://[::1",
        "http://{]][::",
        "http://a..b/",
        "http://" + "a" * 64 + "/",
        "http://bücher.example/",
        5,
    ],
)
def test_a_base_url_that_cannot_be_used_is_refused_unquoted(base_url: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        PikaClient("x", base_url=base_url)
    assert caught.value.field == "base_url"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("timeout", [0, -1, math.nan, math.inf, "30", True, None]),
        ("retries", [-1, 11, 1.0, True, None]),
        ("max_body", [0, -1, 1.5, None]),
        ("cap_range", [(0, 10), (5, 4), (1, "x"), (True, 10)]),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidArgument) as caught:
            PikaClient("x", **{option: value})
        assert caught.value.field == option


async def test_a_client_shows_its_base_url_and_cannot_be_pickled_or_copied() -> None:
    client = make()
    assert repr(client) == f"<PikaClient {BASE}>"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(client)
    await client.close()
    assert repr(client) == f"<PikaClient {BASE}, closed>"


def session_of(client: PikaClient) -> aiohttp.ClientSession | None:
    return client._transport._session


# --- lifetime ------------------------------------------------------------------------------------------


async def test_a_session_of_its_own_is_made_once_and_closed(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/jobs", body=b"[]", repeat=True)
    client = make()
    assert session_of(client) is None
    await asyncio.gather(client.jobs(), client.jobs())
    session = session_of(client)
    assert session is not None
    assert not session.trust_env
    assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
    await client.jobs()
    assert session_of(client) is session
    await client.close()
    await client.close()
    assert session.closed


async def test_a_callers_session_is_used_and_left_open(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/jobs", body=b"[]")
    async with aiohttp.ClientSession() as session:
        async with make(session=session) as client:
            await client.jobs()
            assert session_of(client) is session
        assert not session.closed


@pytest.mark.parametrize("name", [*GETS, *ONCE])
async def test_a_closed_client_refuses_every_call(mocked: aioresponses, name: str) -> None:
    client = make()
    await client.close()
    call = (GETS | {key: value[1:] for key, value in ONCE.items()})[name][-1]
    with pytest.raises(Closed):
        await call(client)
    assert sent(mocked) == []


async def test_a_closed_session_of_the_caller_is_named() -> None:
    session = aiohttp.ClientSession()
    await session.close()
    async with make(session=session) as client:
        with pytest.raises(Closed, match="session"):
            await client.jobs()


def test_another_event_loop_is_refused_clearly(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/jobs", body=b"[]", repeat=True)
    client = make()
    with asyncio.Runner() as home, asyncio.Runner() as away:
        home.run(client.jobs())
        with pytest.raises(WrongLoop, match="event loop"):
            away.run(client.jobs())
        with pytest.raises(WrongLoop, match="event loop"):
            away.run(client.close())
        assert home.run(client.jobs()) == []
        home.run(client.close())


def test_a_session_from_another_event_loop_is_refused_at_its_first_use(mocked: aioresponses) -> None:
    async def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    with asyncio.Runner() as home, asyncio.Runner() as away:
        made = home.run(session())
        client = make(session=made)
        with pytest.raises(WrongLoop, match="session"):
            away.run(client.jobs())
        away.run(client.close())
        home.run(made.close())
    assert sent(mocked) == []


async def test_a_client_that_is_dropped_open_warns(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/jobs", body=b"[]")
    client = make()
    await client.jobs()
    session = session_of(client)
    assert session is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del client
        gc.collect()
    assert [str(warning.message) for warning in caught] == [f"<PikaClient {BASE}> was never closed"]
    assert caught[0].category is ResourceWarning
    await session.close()


async def test_a_client_that_was_never_used_or_never_made_warns_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
        with pytest.raises(InvalidArgument):
            PikaClient("\n")
        gc.collect()
    assert caught == []


async def test_an_error_does_not_keep_itself_alive(mocked: aioresponses) -> None:
    mocked.get(f"{BASE}/jobs", status=401)
    async with make() as client:
        gc.disable()
        try:
            with pytest.raises(PikaError) as caught:
                await client.jobs()
            frames: list[Any] = []
            trace = caught.value.__traceback__
            while trace is not None:
                frames.append(trace.tb_frame)
                trace = trace.tb_next
            ours = [frame for frame in frames if frame.f_code.co_filename == client_module.__file__]
            assert len(ours) == 2
            assert not any(caught.value is value for frame in ours for value in frame.f_locals.values())
        finally:
            gc.enable()


@pytest.mark.parametrize(
    "exception",
    [
        aiohttp.ClientError("x"),
        aiohttp.ClientPayloadError("x"),
        aiohttp.InvalidURL("x"),
        aiohttp.ClientResponseError(cast("Any", None), ()),
        aiohttp.ClientConnectionResetError("x"),
        aiohttp.ServerTimeoutError("x"),
        aiohttp.ConnectionTimeoutError("x"),
        TimeoutError("x"),
        OSError(5, "x"),
        OSError("x"),
        UnicodeError("x"),
        ValueError("x"),
        TypeError("x"),
        RuntimeError("x"),
        RecursionError("x"),
        MemoryError("x"),
        AssertionError("x"),
        StopAsyncIteration("x"),
        LookupError("x"),
    ],
    ids=lambda exception: type(exception).__name__,
)
@pytest.mark.parametrize("name", ["jobs", "create"])
async def test_no_other_exception_than_ours_escapes(
    mocked: aioresponses, exception: Exception, name: str
) -> None:
    mocked.get(f"{BASE}/jobs", exception=exception, repeat=True)
    mocked.post(f"{BASE}/create", exception=exception, repeat=True)
    async with make(retries=0) as client:
        with pytest.raises(PikaError) as caught:
            await (client.jobs() if name == "jobs" else client.create("x", channel="55"))
    error = caught.value
    assert (error.__context__, error.__cause__) == (None, None)
    assert isinstance(error, TransportError | InvalidResponse)
    assert error.channel == (None if name == "jobs" else "55")
    assert exception.args != ("x",) or "'x'" not in repr(error)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_an_exit_of_the_program_passes_through(mocked: aioresponses, stop: type[BaseException]) -> None:
    mocked.get(f"{BASE}/jobs", exception=cast("Any", stop("now")), repeat=True)
    async with make() as client:
        with pytest.raises(stop) as caught:
            await client.jobs()
    assert caught.value.args == ("now",)
    assert len(sent(mocked)) == 1


async def test_a_call_can_be_cancelled_between_retries(
    mocked: aioresponses,
) -> None:
    mocked.get(f"{BASE}/jobs", status=503)
    mocked.get(f"{BASE}/jobs", body=b"[]")
    clock = ManualClock()
    async with make(clock=clock) as client:
        task = asyncio.create_task(client.jobs())
        await wait_until(lambda: clock.sleeping == 1 and len(sent(mocked)) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clock.sleeping == 0
        assert await client.jobs() == []
