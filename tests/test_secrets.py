"""No secret shows: canary tokens are sent through every path and searched for in all output."""

import argparse
import asyncio
import base64
import builtins
import copy
import faulthandler
import hmac
import json
import logging
import os
import pickle
import re
import stat
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

import attrs
import pytest
from prometheus_client import CollectorRegistry, generate_latest

import pika_balancer
from pika_balancer import (
    Account,
    Balancer,
    Dispatcher,
    PikaClient,
    Selector,
    dispatch,
    errors,
    events,
    server,
)
from pika_balancer.cli import COMMANDS, build_parser, download, exit_codes
from pika_balancer.cli.submit_journal import Journal
from pika_balancer.client import requests
from pika_balancer.client.error_map import Answer
from pika_balancer.dispatch.webhook import Webhook
from pika_balancer.errors import InvalidArgument
from pika_balancer.events import Event
from pika_balancer.metrics import Metrics
from pika_balancer.models import Job, Secret
from pika_balancer.server import LocalServer, ServerAccount
from pika_balancer.server.params import check_submit
from pika_balancer.store import Store
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import ManualClock, wait_until
from tests.canaries import API, DISCORD, PASSWORD, PATH, REPLY_URL, WEBHOOK, as_data, leaks, reached
from tests.raw_server import Connection, RawServer, reply
from tests.redis_servers import Servers, free_port

pytestmark = pytest.mark.no_cover  # by the hundred what other tests run once

PACKAGE: Final = Path(pika_balancer.__file__).parent
CHANNEL: Final = "1100000000000000001"
SAID: Final = (
    f"{API} / Bearer {base64.b64encode(f'Bearer {API}'.encode()).decode()} / {quote(API)} / "
    f"{json.dumps(DISCORD)} {DISCORD!r} {DISCORD[:20]}… / {REPLY_URL} {REPLY_URL.partition('@')[2]}"
)
"""An error text of a service that quotes everything it was sent, in many encodings."""
HOSTILE: Final = {
    "error": SAID,
    "errorDetails": SAID[::-1] + SAID,
    "jobid": API,
    "channel": DISCORD,
    "discord": DISCORD,
    "code": 7,
    "executingJobs": [API, DISCORD, "job:1"],
    DISCORD: {API: DISCORD},
}
VALUES: Final[dict[str, Any]] = {
    "channel": CHANNEL,
    "discord": DISCORD,
    "max_jobs": 3,
    "reply_url": REPLY_URL,
    "reply_ref": "ref",
}

Scenario = Callable[[Path], Awaitable[list[Exception] | None]]
SCENARIOS: dict[str, Scenario] = {}
"""Raises each class of error, with every secret in use."""
INSIDE: Final = {
    "_TooLargeError": "transport makes InvalidResponse of it",
    "_TooLarge": "the receiver answers with it",
    "Refusal": "the local server answers with it",
    "ServerRefused": "the store makes StoreUnavailable of it",
    "Away": "the store makes StoreUnavailable of it",
    "_Refused": "download makes DownloadFailed of it",
    "_TwiceError": "jobfile makes BadJobFile of it",
}
"""Internal error classes, and how each is handled."""


def raises(*names: str) -> Callable[[Scenario], Scenario]:
    def register(scenario: Scenario) -> Scenario:
        SCENARIOS.update(dict.fromkeys(names, scenario))
        return scenario

    return register


async def answered(answer: bytes, call: Callable[[PikaClient], Awaitable[object]]) -> None:
    """Make a call that gets these bytes as its answer."""

    async def script(connection: Connection) -> None:
        await connection.request()
        if answer:
            await connection.send(answer)

    async with RawServer(script) as server, PikaClient(API, base_url=server.url, retries=0) as client:
        await call(client)


async def create(client: PikaClient) -> None:
    await client.create("a cat", **VALUES)


def status(name: str, number: int, **more: Any) -> None:
    body = json.dumps(HOSTILE | more).encode()

    @raises(name)
    async def scenario(_folder: Path) -> None:
        await answered(reply(number, body, headers={"X": API}), create)


for name, number in {
    "BadRequest": 400,
    "Unauthorized": 401,
    "SubscriptionRequired": 402,
    "NotFound": 404,
    "PromptRejected": 422,
    "ChannelFull": 429,
    "LostTrack": 504,
    "AccountSuspended": 596,
    "ServiceError": 500,
    "UnexpectedStatus": 307,
}.items():
    status(name, number)
status("RateLimited", 429, executingJobs=[])


@raises("InvalidResponse")
async def malformed(_folder: Path) -> None:
    await answered(reply(200, json.dumps(HOSTILE | {"jobid": 7, "attachments": [API]}).encode()), create)


@raises("ConnectFailed")
async def nobody(_folder: Path) -> None:
    async with PikaClient(API, base_url=f"http://127.0.0.1:{free_port()}", retries=0) as client:
        await create(client)


@raises("ConnectionLost")
async def cut(_folder: Path) -> None:
    await answered(b"", create)


@raises("RequestTimeout")
async def slow(_folder: Path) -> None:
    clock = ManualClock()

    async def script(connection: Connection) -> None:
        await connection.request()
        await clock.advance(30)
        await connection.gone()

    async with (
        RawServer(script) as server,
        PikaClient(API, base_url=server.url, retries=0, clock=clock) as client,
    ):
        await create(client)


@asynccontextmanager
async def dispatching(answer: bytes = b"", **options: Any) -> AsyncGenerator[tuple[Dispatcher, Balancer]]:
    """Yield a dispatcher of a service that answers every submit with these bytes."""

    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            await connection.send(answer if request.method == "POST" else reply(200, b"[]"))
            if request.method == "POST" and not answer:
                return

    async with (
        RawServer(script) as server,
        PikaClient(API, base_url=server.url, retries=0) as client,
        Balancer([Account(CHANNEL, 1, DISCORD)]) as balancer,
        Dispatcher(client, balancer, **options) as dispatcher,
    ):
        yield dispatcher, balancer


@raises("NoCapacity")
async def full(_folder: Path) -> None:
    async with dispatching() as (dispatcher, balancer):
        await balancer.acquire()
        await dispatcher.run("create", prompt="x", reply_url=REPLY_URL, timeout=0)


@raises("UnknownChannel")
async def unknown(_folder: Path) -> None:
    async with dispatching() as (dispatcher, _):
        await dispatcher.run("create", prompt="x", reply_url=REPLY_URL, channel="another")


@raises("InvalidArgument")
async def wrong(_folder: Path) -> list[Exception]:
    receiver = Webhook("https://h", secret=PATH)
    async with dispatching(webhook=receiver) as (dispatcher, _):
        caught: list[Exception] = []
        mistakes: tuple[dict[str, Any], ...] = (
            {"prompt": "x" * 1501},
            {"prompt": "x", "discord": DISCORD},
            {"prompt": "x", "reply_url": REPLY_URL},
        )
        for values in mistakes:
            with pytest.raises(errors.InvalidArgument) as error:
                await dispatcher.run("create", **values)
            caught.append(error.value)
            async for outcome in dispatcher.map([values]):
                assert outcome.error is not None
                caught += [outcome.error]
    secret_url = f"redis://worker:{PASSWORD}@"
    for make in (
        lambda: PikaClient(API, base_url=f"https://bot:{WEBHOOK}@host"),
        lambda: PikaClient(API, timeout=0),
        lambda: PikaClient(f"{API}\n"),
        lambda: Webhook(f"https://h/?x={PATH}", secret=PATH),
        lambda: Webhook("https://h", secret=f"{PATH}!"),
        lambda: Account(7, 1, DISCORD),  # type: ignore[arg-type]  # as from an untyped caller
        lambda: RedisStore(f"{secret_url}host:port/0"),
        lambda: RedisStore(f"{secret_url}host", lease_ttl=0),
        lambda: RedisStore(f"nonsense{secret_url}host"),
        lambda: Balancer([Account("1", 1, DISCORD)] * 2),
        lambda: Dispatcher(PikaClient(API), Balancer([Account("1", 1, DISCORD)]), poll_every=0),
    ):
        with pytest.raises(errors.InvalidArgument) as error:
            make()
        caught.append(error.value)
    return caught


@raises("SubmissionUnknown")
async def uncertain(_folder: Path) -> None:
    async with dispatching(search_for=0.01, poll_every=0.01) as (dispatcher, _):
        await dispatcher.run("create", prompt="x", reply_url=REPLY_URL)


@raises("Closed")
async def closed(_folder: Path) -> None:
    async with dispatching() as (dispatcher, _):
        await dispatcher.close()
        await dispatcher.run("create", prompt="x", reply_url=REPLY_URL)


@raises("ForeignLease")
async def foreign(_folder: Path) -> None:
    here, there = Balancer([Account("1", 1, DISCORD)]), Balancer([Account("1", 1, DISCORD)])
    await there.release(await here.acquire())


@raises("WrongLoop")
async def elsewhere(_folder: Path) -> None:
    client = PikaClient(API, base_url=f"http://127.0.0.1:{free_port()}", retries=0)
    with pytest.raises(errors.ConnectFailed):
        await create(client)
    try:
        await asyncio.to_thread(lambda: asyncio.run(create(client)))
    finally:
        await client.close()


@raises("StoreUnavailable")
async def away(_folder: Path) -> None:
    async def script(connection: Connection) -> None:
        # A server or proxy without AUTH quotes the arguments of the command.
        await connection.send(
            f"-ERR unknown command 'AUTH', with args beginning with: {PASSWORD}\r\n".encode()
        )
        await connection.gone()

    async with RawServer(script) as server:
        url = server.url.replace("http://", f"redis://worker:{quote(PASSWORD, safe='')}@")
        store = RedisStore(url, "p")
        try:
            await store.acquire(None, None)
        finally:
            await store.close()


@raises("InvalidArgument")
async def misconfigured(folder: Path) -> list[Exception]:
    file = folder / "accounts.json"
    caught: list[Exception] = []
    entry = {"channel": CHANNEL, "discord": DISCORD, "maxJobs": 1}
    for text in (json.dumps({CHANNEL: entry}) + "}", json.dumps({CHANNEL: entry | {"maxJobs": 99}})):
        file.write_text(text)
        with pytest.raises(InvalidArgument) as error:
            LocalServer(token=API, accounts_file=file)
        caught.append(error.value)
    file.write_text(json.dumps({DISCORD: entry}))
    with pytest.raises(InvalidArgument) as error:
        LocalServer(token=API, accounts_file=file)
    with pytest.raises(OSError, match="No such file") as unwritten:
        LocalServer([ServerAccount(CHANNEL, 1, DISCORD)], accounts_file=folder / "nowhere" / "file")
    return [*caught, error.value, unwritten.value]


# --- the commands ------------------------------------------------------------------------------------------


async def command(*argv: str) -> int:
    """Run a command in this event loop; raise what it raises."""
    args = build_parser([argv[0]]).parse_args(argv)
    code: int = await args.run(args)
    return code


@asynccontextmanager
async def at_hand(**settings: Any) -> AsyncGenerator[None]:
    """Run a local server, with its address and token in the environment."""
    accounts = [ServerAccount(CHANNEL, 2, DISCORD)]
    settings = {"service": "fixed:0s"} | settings
    server = LocalServer(accounts, token=API, allow_remote_callbacks=True, **settings)
    async with server.run() as url:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("USEAPI_TOKEN", API)
            patch.setenv("PIKA_BASE_URL", url)
            patch.setenv(
                "PIKA_STORE_URL", f"redis://worker:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}"
            )
            yield


def told(error: Exception) -> Exception:
    """Return the output of `main` for an error whose frames hold what the user typed."""
    error.__traceback__ = error.__context__ = None
    return error


SUBMIT: Final = ("submit", "a cat", "--reply-url", REPLY_URL, "--poll", "0.01")


@raises("Usage")
async def misused(folder: Path) -> list[Exception]:
    token = folder / "token"
    token.write_text(f"{API}\n{API}")
    caught: list[Exception] = []
    for argv in (
        ["accounts", "--token-file", API],
        ["jobs", "--token-file", str(token)],
        [*SUBMIT, "--verb", "x"],
    ):
        with pytest.raises(exit_codes.Usage) as error:
            await command(*argv)
        caught.append(error.value)
    return list(map(told, caught))


@raises("MissingExtra")
async def without_the_extra(_folder: Path) -> None:
    async with at_hand():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "redis.asyncio", None)
            patch.setitem(sys.modules, "valkey.asyncio", None)
            await command("demo", "--processes", "2")


@raises("BadJobFile")
async def bad_jobs(folder: Path) -> list[Exception]:
    jobs = folder / "jobs.jsonl"
    jobs.write_text(
        "\n".join(map(json.dumps, ({"prompt": 7}, {"prompt": "x", "discord": DISCORD}, API, [DISCORD])))
    )
    async with at_hand():
        with pytest.raises(exit_codes.BadJobFile) as error:
            await command("submit", "--jobs-file", str(jobs))
    return [told(error.value)]


@raises("JournalError")
async def damaged(folder: Path) -> None:
    jobs = folder / "jobs.jsonl"
    jobs.write_text('{"prompt": "a cat"}')
    (folder / "jobs.jsonl.journal.jsonl").write_text("{}\n")
    async with at_hand():
        await command("submit", "--jobs-file", str(jobs), "--reply-url", REPLY_URL)


@raises("JournalInUse")
async def in_use(folder: Path) -> None:
    jobs = folder / "jobs.jsonl"
    jobs.write_text('{"prompt": "a cat"}')
    path = folder / "jobs.jsonl.journal.jsonl"
    path.unlink(missing_ok=True)
    with Journal(path, file="jobs.jsonl", digest="d"):
        async with at_hand():
            await command("submit", "--jobs-file", str(jobs), "--reply-url", REPLY_URL)


@raises("Interrupted")
async def interrupted(_folder: Path) -> None:
    async with at_hand(service="fixed:1h"):
        task = asyncio.create_task(command(*SUBMIT))
        await wait_until(lambda: task.done() or any("_work" in repr(each) for each in asyncio.all_tasks()))
        task.cancel()
        await task


@raises("NotCompleted")
async def failed(_folder: Path) -> None:
    async with at_hand(faults=["fail:1"]):
        await command(*SUBMIT)


@raises("StillRunning")
async def still_running(_folder: Path) -> None:
    async with at_hand(service="fixed:1h"):
        await command(*SUBMIT, "--timeout", "0.2")


@raises("DownloadFailed")
async def not_saved(folder: Path) -> None:
    async with at_hand():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(download, "_LARGEST", 1)
            await command(*SUBMIT, "--output", str(folder / "videos"))


# --- every class of error ------------------------------------------------------------------------------


def error_classes() -> set[str]:
    """Return the names of all classes of errors in the package, imported or not."""
    bases: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name, above in re.findall(r"^ *class (\w+)\(([^)]*)\)", path.read_text(), re.MULTILINE):
            bases.setdefault(name, set()).update(re.findall(r"\w+(?=,|$)", above))
    known = {name for name, thing in vars(builtins).items() if _is_error(thing)} | {"HTTPClientError"}
    while more := {name for name, above in bases.items() if above & known} - known:
        known |= more
    return known & bases.keys()


def _is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseException)


def test_every_class_of_errors_has_a_scenario() -> None:
    abstract = {"PikaError", "ApiError", "TransportError"}
    assert error_classes() == SCENARIOS.keys() | INSIDE.keys() | abstract


@pytest.mark.parametrize("name", sorted(SCENARIOS))
async def test_no_error_holds_a_secret(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    try:
        raised = await SCENARIOS[name](tmp_path)
    except Exception as error:  # noqa: BLE001 - any error is searched
        raised = [error]
    assert raised
    assert name in {type(error).__name__ for error in raised}
    assert leaks(*raised) == []
    told = [str(exit_codes.error_document(error)) + exit_codes.sentence(error) for error in raised]
    copies = [copy.copy(error) for error in raised] + pickle.loads(pickle.dumps(raised))
    assert leaks(told, copies, *capsys.readouterr(), *(vars(record) for record in caplog.records)) == []


# --- all objects and output ----------------------------------------------------------------------------


@attrs.define
class Life:
    """All objects of a worker with a job in progress."""

    objects: list[object] = attrs.Factory(list)
    """An instance of every public class."""
    told: list[object] = attrs.Factory(list)
    """Output: events, metrics, records."""


@asynccontextmanager
async def living(store: Store | None = None) -> AsyncGenerator[Life]:
    """Yield a worker with ended jobs, one in progress, a webhook, and every secret in use."""
    life = Life()
    registry = CollectorRegistry()
    metrics = Metrics(registry)

    def observe(event: Event) -> None:
        metrics(event)
        life.told.append(event)

    server = LocalServer([ServerAccount(CHANNEL, 2, DISCORD)], token=API, service="fixed:0.02s")
    receiver = Webhook(secret=PATH)
    unsubscribe = receiver.subscribe(lambda job: 1 // 0 > 0)  # fails while it holds the job
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        await enter(receiver.run())
        client = await enter(PikaClient(API, base_url=await enter(server.run())))
        with pytest.raises(errors.BadRequest):
            await client.put_account(CHANNEL[::-1], discord=DISCORD, max_jobs=2)
        options: dict[str, Any] = {} if store is None else {"store": store}
        balancer = await enter(
            await Balancer.from_client(client, observer=observe, refresh_every=60, **options)
        )
        metrics.watch(balancer)
        dispatcher = Dispatcher(client, balancer, webhook=receiver, poll_every=0.05)
        async with dispatcher:
            batch = dispatcher.map([{"prompt": str(number)} for number in range(4)])
            outcomes = [outcome async for outcome in batch]
            handle = await dispatcher.submit("create", prompt="the last")
            lease = await balancer.acquire()
            made = requests.submit("create", VALUES | {"prompt": "x", "discord": Secret(DISCORD)})
            life.objects += [
                client,
                balancer,
                dispatcher,
                receiver,
                metrics,
                server,
                handle,
                lease,
                made,
                batch,
            ]
            life.objects += [*outcomes, *(await client.accounts()).values(), balancer.store, made.secrets]
            life.objects += [
                balancer.snapshot(),
                balancer.explain(),
                receiver.statistics(),
                server.statistics(),
            ]
            life.objects += [
                server.app(),
                receiver.app(),
                asyncio.all_tasks(),
                Selector([Account("1", 1, DISCORD)]),
            ]
            life.told += [batch.progress, handle.record(), generate_latest(registry).decode()]
            yield life
            await balancer.release(lease)
            await handle
            life.told += await dispatcher.drain()
        unsubscribe()
        life.told += [repr(await client.job(handle.jobid or ""))]


SURFACE: Final = (pika_balancer, dispatch, server)
"""Modules whose public classes are searched."""
NO_INSTANCES: Final = {"Fault", "ScriptedFault", "Distribution", "JobStatus", "Attachment", "Secret"}
"""Public classes without secrets, and `Secret` itself."""


def test_an_order_of_the_local_server_shows_no_secret() -> None:
    form = {"prompt": "x", "channel": CHANNEL, "discord": DISCORD, "replyUrl": REPLY_URL}
    order = check_submit("create", dict(form), allow_remote=True)
    assert order.discord == Secret(DISCORD)
    assert leaks(order, *as_data(order), pickle.dumps(order)) == []


def test_the_error_text_of_a_job_quotes_no_secret() -> None:
    request = requests.submit("create", {"prompt": "x", "discord": Secret(DISCORD), "reply_url": REPLY_URL})
    body = json.dumps({"jobid": "j", "status": "failed", "error": SAID, "errorDetails": f"no: {DISCORD}"})
    job = requests.outcome(request, Answer(200, {}, body.encode()), now=0, secrets=(Secret(API),))
    assert isinstance(job, Job)
    assert leaks(job) == []
    assert job.error_details == "no: ***"


async def test_a_whole_life_in_debug_mode_shows_no_secret(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(enabled=True)
    loop.slow_callback_duration = 0  # logs every callback with its arguments
    async with living() as life:
        assert leaks(*life.objects) == []
        assert leaks(*(dump for thing in life.objects for dump in as_data(thing))) == []
        assert leaks(*filter(None, map(travelled, life.objects))) == []
        stacks = tmp_path / "stacks"
        with stacks.open("w") as file:
            faulthandler.dump_traceback(file)
        life.told += [stacks.read_text(), *map(repr, asyncio.all_tasks()), *map(str, asyncio.all_tasks())]
        seen = {cls.__name__ for cls in reached(*life.objects)}
    assert leaks(*life.told) == []
    assert len(caplog.records) > 100
    formatter = logging.Formatter()
    assert leaks(*(formatter.format(record) for record in caplog.records)) == []
    assert leaks(*(repr(vars(record)) for record in caplog.records)) == []
    assert {record.name.partition(".")[0] for record in caplog.records} >= {
        "asyncio",
        "aiohttp",
        "pika_balancer",
    }
    assert any("a subscriber failed" in record.getMessage() for record in caplog.records)
    public = {name: getattr(room, name) for room in SURFACE for name in room.__all__}
    classes = {name for name, thing in public.items() if isinstance(thing, type) and not _is_error(thing)}
    assert classes - seen <= NO_INSTANCES, "`living` must make an instance of every public class"


def travelled(thing: object) -> list[object]:
    """Return the copies and the pickle of an object, if it allows them."""
    arrived: list[object] = []
    loop = asyncio.get_running_loop()
    deep = partial(copy.deepcopy, memo={id(loop): loop})  # a copied loop complains of not being closed
    # As documented, the pickle of a job has its reply URL.
    ways = (copy.copy, deep) if isinstance(thing, dispatch.Outcome) else (copy.copy, deep, pickle.dumps)
    for way in ways:
        with suppress(TypeError, AttributeError, pickle.PicklingError, NotImplementedError, RecursionError):
            arrived.append(way(thing))
    return arrived


def test_events_can_carry_nothing_but_plain_facts() -> None:
    classes = [
        thing for thing in vars(events).values() if isinstance(thing, type) and issubclass(thing, Event)
    ]
    assert len(classes) > 20
    kinds = {str(field.type) for cls in classes for field in attrs.fields(cls)}
    assert kinds <= {
        f"{kind}{none}"
        for kind in (
            "<class 'str'>",
            "str",
            "float",
            "int",
            "bool",
            "int | str",
            "<class 'float'>",
            "<class 'int'>",
            "<class 'bool'>",
        )
        for none in ("", " | None")
    }


async def test_the_store_keeps_counts_and_no_secret(servers: Servers) -> None:
    server = servers["valkey"]
    heard: list[object] = []
    with server.client() as client, client.monitor() as monitor:
        client.acl_setuser(
            "worker",
            enabled=True,
            passwords=[f"+{PASSWORD}"],
            keys=["*"],
            channels=["*"],
            categories=["+@all"],
        )
        store = RedisStore(
            f"redis://worker:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}", "secrets", first_start=True
        )
        async with living(store) as life:
            kept = list(client.scan_iter("pika:{secrets}:*"))
            assert len(kept) >= 6
            heard += kept
            for key in kept:
                heard += (
                    client.hgetall(key).items() if client.type(key) == "hash" else client.zrange(key, 0, -1)
                )
            assert leaks(*life.objects, store, await store.pool_status(), await store.orphans()) == []
        for key in kept:
            client.delete(key)
        client.acl_deluser("worker")
        client.set("the", "end")
        client.delete("the")
        listening = monitor.listen()
        while heard[-1:] != ["DEL the"]:
            heard.append(str((next(listening) or {})["command"]))
    assert any("EVAL" in str(line) for line in heard)
    assert leaks(*heard, *life.told) == []


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (f"redis://worker:{quote(PASSWORD, safe='')}@h:1/0", "redis://h:1/0"),
        (f"redis://h:1/0?password={quote(PASSWORD, safe='')}", "redis://h:1/0"),
        ("redis://:12?c4n4ry-passw0rd@h:1/0", "redis://"),
        ("redis://h:1/0?password=p@c4n4ry-passw0rd", "redis://"),
        (
            f"redis+sentinel://w:{quote(PASSWORD, safe='')}@h:1,i:2/name?sentinel_password=c4n4ry-passw0rd",
            "redis+sentinel://h:1,i:2/name",
        ),
        ("unix:///run/redis.sock?password=c4n4ry-passw0rd", "unix:///run/redis.sock"),
    ],
)
def test_the_address_of_a_store_shows_no_password_wherever_it_stands(url: str, address: str) -> None:
    store = RedisStore(url)
    assert repr(store) == f"<RedisStore {address}, 0 held here>"


# --- the output of the commands ----------------------------------------------------------------------------


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_no_command_shows_a_secret_whatever_it_prints_or_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    videos, jobs = tmp_path / "videos", tmp_path / "jobs.jsonl"
    jobs.write_text('{"prompt": "a cat"}\n{"prompt": "a dog", "id": "dog"}\n')
    lines: list[list[str]] = [
        ["accounts"],
        [*SUBMIT, "--no-wait"],
        [*SUBMIT, "--output", str(videos)],
        ["submit", "--jobs-file", str(jobs), "--output", str(videos), *SUBMIT[2:]],
        ["jobs"],
        ["watch", "--once"],
        ["watch", "--once", "--store"],
        ["store", "doctor"],
    ]
    old = os.umask(0)
    try:
        async with at_hand(service="fixed:0.01s"):
            for argv in lines:
                for extra in ([], ["--json"]):
                    with suppress(errors.StoreUnavailable):
                        await command(*argv, *extra)
    finally:
        os.umask(old)
    written = [path for path in files_below(tmp_path) if path.suffix != ".mp4"]
    assert {path.suffix for path in written} == {".jsonl"}
    assert leaks(*capsys.readouterr(), *(path.read_bytes() for path in written)) == []
    assert leaks(*(record.getMessage() for record in caplog.records)) == []
    [journal] = videos.glob("*.jsonl")
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    helps = "".join(build_parser([name]).format_help() for name in COMMANDS)
    assert leaks(helps) == []


def test_the_simulator_never_gets_a_secret() -> None:
    # A report could only show one that got there: `tests.test_surface` has what these rooms may import.
    for path in (PACKAGE / "simulate").rglob("*.py"):
        assert not re.search(r"environ|Secret|reveal|getenv", path.read_text()), path


def test_the_only_option_for_a_token_warns_that_others_can_read_it() -> None:
    for name in COMMANDS:
        [parsers] = [action for action in build_parser([name])._actions if isinstance(action.choices, dict)]
        parser: argparse.ArgumentParser = cast("Any", parsers.choices)[name]
        taking = [
            action
            for action in parser._actions
            if {"--token", "--password", "--api-key"} & {*action.option_strings}
        ]
        assert [action.option_strings for action in taking] == ([["--token"]] if name == "serve" else [])
        assert all("others can read it" in str(action.help) for action in taking)
        if any("--store" in action.option_strings for action in parser._actions):
            assert "PIKA_STORE_URL" in parser.format_help()


async def test_warnings_about_unclosed_objects_show_no_secret() -> None:
    async with at_hand():
        client = PikaClient()
        await client.accounts()
        session = client._transport._session
        assert session is not None
        kept = [client]
        del client
        with pytest.warns(ResourceWarning, match="never closed") as caught:
            kept.clear()
        # aiohttp's own warning shows the repr of these two.
        said = [repr(session), repr(session.connector), *(repr(vars(warning)) for warning in caught)]
        assert leaks(*said) == []
        await session.close()


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(mine: bytes, theirs: bytes) -> bool:
        compared.append((mine, theirs))
        return mine == theirs

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert Secret(API) != Secret(API[:-1])
    assert Secret(API) == Secret(API)
    assert len(compared) == 2
