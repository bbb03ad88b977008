"""`watch`: what a view shows, and that polling goes on."""

import asyncio
import datetime as dt
import itertools
import os
import re
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pika_balancer import Account, Job, PikaClient
from pika_balancer.cli import build_parser
from pika_balancer.cli.jobs import running_jobs
from pika_balancer.cli.output import Output
from pika_balancer.cli.views import View, WatchView, duration, service_view
from pika_balancer.cli.watch import follow, take_service
from pika_balancer.errors import (
    ConnectFailed,
    InvalidResponse,
    LostTrack,
    NotFound,
    RateLimited,
    RequestTimeout,
    ServiceError,
    SubscriptionRequired,
    Unauthorized,
    UnexpectedStatus,
)
from pika_balancer.testing import LocalServer, ManualClock, settle, wait_until
from tests.cli.conftest import (
    CANARY,
    FIRST,
    PATIENCE,
    SECOND,
    THIRD,
    Run,
    Serve,
    Spawn,
    group_lives,
    read_until,
)

NOON = dt.datetime(2026, 1, 2, 12, 0, 0, tzinfo=dt.UTC)


def job(jobid: str, **facts: Any) -> Job:
    defaults: dict[str, Any] = {"status": "progress", "channel": FIRST}
    return Job(jobid, **(defaults | facts))


# --- one view -------------------------------------------------------------------------------------------


def test_once_shows_accounts_and_jobs_newest_first(cli: Run, serve: Serve) -> None:
    service = serve("2,1", service="fixed:1h")
    first, second = service.submit("a cat"), service.submit("a  dog\x1b[2J\nand more" + " words" * 20)
    ran = cli("watch", "--once")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  2 of 3 slots taken, 2 jobs running", lines[0])
    assert lines[1].split() == ["channel", "cap", "in", "flight", "free"]
    slots = [line.split() for line in lines[2:4]]
    assert [(row[0], row[1]) for row in slots] == [(FIRST, "2"), (SECOND, "1")]
    assert sum(int(row[2]) for row in slots) == 2
    assert all(int(row[1]) == int(row[2]) + int(row[3]) for row in slots)
    assert lines[4] == ""
    assert lines[5].split() == ["job", "status", "channel", "verb", "age", "prompt"]
    rows = [re.split(r" {2,}", line) for line in lines[6:]]
    assert {row[0] for row in rows} == {first, second}
    assert {(row[1], row[3]) for row in rows} == {("started", "create")}
    assert {row[2] for row in rows} <= {FIRST, SECOND}
    assert all(re.fullmatch(r"\ds", row[4]) for row in rows)
    prompts = {row[0]: row[5] for row in rows}
    assert prompts[first] == "a cat"
    assert prompts[second].startswith("a dog\\x1b[2J and more words")
    assert prompts[second].endswith("…")
    assert len(prompts[second]) == 60


def test_json_is_one_document(cli: Run, serve: Serve) -> None:
    service = serve("2,1", service="fixed:1h")
    jobid = service.submit("a cat " * 40)
    for options in (["--json"], ["--once", "--json"]):
        ran = cli("watch", *options)
        assert (ran.code, ran.err) == (0, "")
        document = ran.document
        assert list(document) == ["at", "accounts", "jobs"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["at"])
        assert [(row["channel"], row["max_jobs"]) for row in document["accounts"]] == [
            (FIRST, 2),
            (SECOND, 1),
        ]
        assert all(row["free"] == row["max_jobs"] - row["in_flight"] for row in document["accounts"])
        (running,) = document["jobs"]
        assert list(running) == ["jobid", "status", "channel", "verb", "age_s", "prompt"]
        assert (running["jobid"], running["status"], running["verb"]) == (jobid, "started", "pika-create")
        assert running["prompt"].strip() == ("a cat " * 40).strip()
        assert 0 <= running["age_s"] < 20


def test_idle_service_says_so(cli: Run, serve: Serve) -> None:
    serve("2")
    ran = cli("watch", "--once")
    assert ran.out.splitlines()[0].endswith("  0 of 2 slots taken, 0 jobs running")
    assert "job  " not in ran.out


def test_jobs_on_a_channel_that_is_not_configured_have_a_row_of_their_own(cli: Run, serve: Serve) -> None:
    service = serve("1", service="fixed:1h")
    service.submit("a cat")
    service.delete_account(FIRST)
    ran = cli("watch", "--once")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].endswith("  0 of 0 slots taken, 1 job running")
    assert lines[2].split() == [FIRST, "-", "1", "-"]
    assert cli("watch", "--json").document["accounts"] == [{"channel": FIRST, "in_flight": 1}]


def test_service_without_accounts_can_be_watched(cli: Run, serve: Serve) -> None:
    service = serve("1")
    service.delete_account(FIRST)
    ran = cli("watch", "--once")
    assert ran.code == 0
    assert ran.out.splitlines()[1:] == ["no accounts are configured"]


@pytest.mark.parametrize("options", [[], ["--once"], ["--json"]])
def test_wrong_token_exits_4(cli: Run, serve: Serve, options: list[str]) -> None:
    serve(token="another")
    ran = cli("watch", *options)
    assert ran.code == 4
    assert "check USEAPI_TOKEN" in ran.err


@pytest.mark.parametrize("options", [[], ["--once"], ["--json"]])
def test_wrong_address_is_told_at_once(cli: Run, serve: Serve, options: list[str]) -> None:
    serve()
    ran = cli("watch", *options, "--base-url", "http://127.0.0.1:1")
    assert ran.code == 5
    assert "Connection refused; check --base-url" in ran.err


def test_interrupt_during_the_first_poll_is_told(
    cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()

    async def interrupted(_self: PikaClient) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    monkeypatch.setattr(PikaClient, "jobs", interrupted)
    ran = cli("watch", "--json")
    assert (ran.code, ran.error["type"]) == (130, "Interrupted")


@pytest.mark.parametrize(("value", "right"), [("10", True), ("0.1", True), ("0", False), ("-1", False)])
def test_pause_is_above_zero_and_ten_seconds_unless_said_otherwise(
    cli: Run, value: str, *, right: bool
) -> None:
    assert build_parser(["watch"]).parse_args(["watch"]).poll == 10
    if right:
        assert build_parser(["watch"]).parse_args(["watch", "--poll", value]).poll == float(value)
    else:
        assert "argument --poll: " in cli("watch", "--poll", value).err


# --- what a view makes of the answers -------------------------------------------------------------------


def rows(view: View, section: int) -> list[tuple[object, ...]]:
    return list(view.sections[section].rows)


def test_view_counts_what_runs_and_nothing_else() -> None:
    jobs = [
        job("ended", status="completed"),
        job("old", created="2026-01-02T10:00:00.000Z"),
        job("ageless"),
        job("new", status="brewing", created="2026-01-02T11:59:58.500Z"),
        job("elsewhere", channel=THIRD, created="2026-01-02T11:00:00.000Z"),
        job("nowhere", channel=None, created="2026-01-02T11:30:00.000Z"),
    ]
    view = service_view([Account(FIRST, 2), Account(SECOND, 1)], jobs, NOON)
    assert [row[0] for row in rows(view, 1)] == ["new", "nowhere", "elsewhere", "old", "ageless"]
    assert rows(view, 0) == [
        (FIRST, 2, 3, 0),
        (SECOND, 1, 0, 1),
        (THIRD, "-", 1, "-"),
        ("-", "-", 1, "-"),
    ]
    assert view.summary == "12:00:00  3 of 3 slots taken, 5 jobs running"
    assert view.document["jobs"][-1] == {"jobid": "ageless", "status": "progress", "channel": FIRST}
    assert view.document["accounts"][-1] == {"in_flight": 1}


@pytest.mark.parametrize(
    ("created", "age"),
    [
        ("2026-01-02T11:59:00.500Z", 59.5),
        ("2026-01-02T11:59:00.500", 59.5),
        ("2026-01-02T13:59:00.500+02:00", 59.5),
        ("2026-01-02T12:00:07.000Z", 0.0),
        ("0001-01-01T00:00:00.000+23:59", 63903038340.0),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_age_is_told_from_when_the_job_was_created(created: str | None, age: float | None) -> None:
    view = service_view([], [job("1", created=created)], NOON)
    assert view.document["jobs"][0].get("age_s") == age


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.99, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86399, "23h59m"),
        (86400, "1d00h"),
        (31 * 86400 + 3700, "31d01h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_running_jobs_are_asked_for_once_and_few_at_a_time_and_none_is_left_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    at_once: list[int] = []
    busy = 0
    forgotten: Exception = NotFound("gone")

    async def listed(_self: PikaClient) -> list[str]:
        return [f"job:{number % 50}" for number in range(100)]

    async def one(_self: PikaClient, jobid: str) -> Job:
        nonlocal busy
        asked.append(jobid)
        busy += 1
        at_once.append(busy)
        await settle(3)
        busy -= 1
        if jobid == "job:7":
            raise forgotten
        return job(jobid)

    monkeypatch.setattr(PikaClient, "jobs", listed)
    monkeypatch.setattr(PikaClient, "job", one)
    async with PikaClient("token") as client:
        running = await running_jobs(client)
        assert asked == [f"job:{number}" for number in range(50)]
        assert [job.jobid for job in running] == [jobid for jobid in asked if jobid != "job:7"]
        assert 1 < max(at_once) <= 8
        before = asyncio.all_tasks()
        forgotten = Unauthorized("no")
        with pytest.raises(Unauthorized):
            await running_jobs(client)
        assert asyncio.all_tasks() == before


# --- polling again --------------------------------------------------------------------------------------


class Bench:
    """A server, a client of it, and a watch by a clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = LocalServer({FIRST: 2}, token=CANARY, service="fixed:1h")
        self.clock = ManualClock()
        self.shown: list[tuple[View, str | None]] = []

        def show(_self: WatchView, view: View, trouble: str | None = None) -> None:
            self.shown.append((view, trouble))

        monkeypatch.setattr(WatchView, "show", show)

    async def watching(self, client: PikaClient) -> "asyncio.Task[None]":
        first = await take_service(client)
        watch = WatchView(Output(), 10)
        task = asyncio.create_task(
            follow(lambda: take_service(client), watch, first, poll=10, clock=self.clock)
        )
        await settle()
        return task

    async def advance(self, seconds: float) -> tuple[View, str | None]:
        """Let so much time pass, after which exactly one more view must come; return it."""
        before = len(self.shown)
        await self.clock.advance(seconds)
        await wait_until(lambda: len(self.shown) > before, timeout=PATIENCE)
        assert len(self.shown) == before + 1
        return self.shown[-1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_polls_come_no_faster_than_said(bench: Bench) -> None:
    async with bench.server.run() as base_url, PikaClient(CANARY, base_url=base_url) as client:
        task = await bench.watching(client)
        assert [view.document["jobs"] for view, _ in bench.shown] == [[]]
        await client.create("a cat")
        await bench.clock.advance(9.9)
        assert len(bench.shown) == 1
        view, trouble = await bench.advance(0.1)
        assert ([job["prompt"] for job in view.document["jobs"]], trouble) == (["a cat"], None)
        await bench.clock.advance(9.9)
        assert len(bench.shown) == 2
        await end(task)


async def test_service_that_goes_away_and_comes_back(bench: Bench) -> None:
    async with bench.server.run() as base_url:
        port = int(base_url.split(":")[2].split("/")[0])
        client = PikaClient(CANARY, base_url=base_url, retries=0)
        task = await bench.watching(client)
    async with client:
        first, _ = bench.shown[0]
        view, trouble = await bench.advance(10)
        assert view is first
        assert trouble is not None
        assert re.match(r"\d\d:\d\d:\d\d  no connection to 127\.0\.0\.1:\d+: .*refused", trouble)
        assert CANARY not in trouble
        async with bench.server.run(port=port):
            view, trouble = await bench.advance(10)
            assert view is not first
            assert trouble is None
            await end(task)


def replies(*errors: Exception) -> Callable[[PikaClient], Coroutine[Any, Any, dict[str, Account]]]:
    """Return an `accounts` that works once and then fails like this, again and again."""
    calls = 0

    async def accounts(_self: PikaClient) -> dict[str, Account]:
        nonlocal calls
        calls += 1
        if calls == 1:
            return {FIRST: Account(FIRST, 2)}
        raise errors[(calls - 2) % len(errors)]

    return accounts


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Type Ctrl-C once something has been shown so many times."""

    def after(count: int) -> None:
        really = WatchView.show
        shown = itertools.count(1)

        def show(self: WatchView, view: View, trouble: str | None = None) -> None:
            really(self, view, trouble)
            if next(shown) == count:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(WatchView, "show", show)

    return after


PASSING = [
    ConnectFailed("no connection"),
    RequestTimeout("no answer in time"),
    ServiceError("the service failed", status=503),
    LostTrack("lost track", status=504),
    RateLimited("too fast", status=429),
    InvalidResponse("the answer is broken"),
]


def test_passing_trouble_is_a_line_and_the_watch_goes_on(
    cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch, stop_after: Callable[[int], None]
) -> None:
    serve("2")
    monkeypatch.setattr(PikaClient, "accounts", replies(*PASSING))
    stop_after(len(PASSING) + 1)
    ran = cli("watch", "--poll", "0.01")
    assert (ran.code, ran.err) == (130, "")
    blocks = ran.out.split("\n\n")
    assert len(blocks) == len(PASSING) + 2
    assert blocks[0].splitlines()[1].startswith("channel")
    for block, error in zip(blocks[1:], PASSING, strict=False):
        assert re.fullmatch(rf"\d\d:\d\d:\d\d  {error.message}.*", block)
    assert blocks[-1] == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unauthorized("refused", status=401), 4),
        (SubscriptionRequired("expired", status=402), 4),
        (UnexpectedStatus("moved", status=301), 6),
    ],
)
def test_refusal_ends_the_watch(
    cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    serve("2")
    monkeypatch.setattr(PikaClient, "accounts", replies(error))
    ran = cli("watch", "--poll", "0.01")
    assert ran.code == code
    assert ran.err.startswith(f"pika-balancer: {error}")
    assert ran.out.count("slots taken") == 1


def test_plain_watch_prints_a_block_per_poll_until_ctrl_c(serve: Serve, spawn: Spawn) -> None:
    service = serve("2,1", service="fixed:1h")
    service.submit("a cat")
    process = spawn("watch", "--poll", "0.05")
    for _ in range(3):
        block = read_until(process.stdout, "a cat")
        assert "1 of 3 slots taken, 1 job running" in block
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "")
    assert "\x1b" not in out
    assert not group_lives(process)
