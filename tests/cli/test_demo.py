"""`demo`: every account fills to its cap and never above, and the exit code tells."""

import asyncio
import os
import random
import re
import signal
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import attrs
import pytest

from pika_balancer import POLICIES, Account, Balancer, Job, PikaClient
from pika_balancer.cli import workers as workload_room
from pika_balancer.cli.demo_report import DemoReport, Seen, pause_between_looks
from pika_balancer.cli.demo_view import DemoFrame, PlainView, Row
from pika_balancer.cli.output import Output
from pika_balancer.cli.workers import Workers
from pika_balancer.clock import SystemClock
from pika_balancer.errors import ConnectFailed
from pika_balancer.server import LocalServer
from pika_balancer.testing import ManualClock, wait_until
from tests.cli.conftest import FIRST, PATIENCE, SECOND, Limit, Run, Spawn, group_lives, read_until
from tests.depth import sized

FAST = ("--speed", "400")


class SignalAt(Protocol):
    def __call__(
        self, *conditions: Callable[[DemoFrame], bool], number: signal.Signals = signal.SIGINT
    ) -> list[DemoFrame]: ...


@pytest.mark.deep
def test_defaults_fill_every_account(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainView, "interval", 0.05)
    ran = cli("demo", *sized(("--speed", "50"), ()), "--json")
    assert ran.code == 0
    report = ran.document
    assert list(report) == [
        *("jobs", "completed", "refusals", "elapsed_s", "accounts", "interrupted", "seed", "policy")
    ]
    assert (report["jobs"], report["completed"], report["refusals"]) == (60, 60, 0)
    assert isinstance(report["elapsed_s"], float)
    # Jobs of 30 s on average, six for each slot, at a speed of 20: 9 s and more.
    assert report["elapsed_s"] > sized(3, 8)
    assert [(seen["max_jobs"], seen["peak_in_flight"]) for seen in report["accounts"]] == [
        (5, 5),
        (3, 3),
        (2, 2),
    ]
    assert sum(seen["jobs"] for seen in report["accounts"]) == 60
    assert re.search(r"in flight 5/5 3/3 2/2  5 in line", ran.err)


def test_plain_view_shows_a_line_each_second() -> None:
    assert PlainView.interval == 1.0


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_the_caps(cli: Run, policy: str) -> None:
    ran = cli("demo", "--policy", policy, "--accounts", "2x2,1", "--jobs", "25", *FAST, "--json")
    assert ran.code == 0
    assert ran.document["policy"] == policy
    assert ran.document["completed"] == 25
    assert [seen["max_jobs"] for seen in ran.document["accounts"]] == [2, 2, 1]
    assert all(seen["peak_in_flight"] <= seen["max_jobs"] for seen in ran.document["accounts"])


def test_summary_is_for_people(cli: Run) -> None:
    ran = cli("demo", "--accounts", "2,1", "--jobs", "9", "--workers", "5", "--seed", "7", *FAST)
    assert ran.code == 0
    assert ran.err == ""
    lines = ran.out.splitlines()
    assert lines[0] == "2 accounts with 3 slots, 9 jobs, 5 workers; policy random, seed 7; Ctrl-C stops"
    rows = [line.split() for line in lines if line.startswith((FIRST, SECOND))]
    assert [(row[0], row[2], row[3]) for row in rows] == [(FIRST, "2", "2"), (SECOND, "1", "1")]
    assert sum(int(row[1]) for row in rows) == 9
    assert re.fullmatch(r"9 of 9 jobs completed in \d+\.\d s \(\d+\.\d jobs/s\)", lines[-2])
    assert lines[-1] == (
        "by the server's count: 0 submits refused (0 expected), 0 accounts above their cap (0 expected)"
    )


def test_one_job_for_many_workers(cli: Run) -> None:
    ran = cli("demo", "--accounts", "1", "--jobs", "1", "--workers", "20", *FAST, "--json")
    assert (ran.code, ran.document["completed"]) == (0, 1)


def test_seed_fixes_the_service_times_and_the_first_choices(cli: Run) -> None:
    # One worker: then nothing depends on which answer arrives first.
    options = (
        "--accounts",
        "3,3,3",
        "--jobs",
        "12",
        "--workers",
        "1",
        "--speed",
        "3000",
        "--seed",
        "5",
        "--json",
    )
    spread = [[seen["jobs"] for seen in cli("demo", *options).document["accounts"]] for _ in range(2)]
    assert spread[0] == spread[1]


def test_interrupt_drains_tells_and_leaves_nothing(spawn: Spawn) -> None:
    process = spawn("demo", "--speed", "40")
    read_until(process.stdout, "in flight 5/5 3/3 2/2")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err == ""
    assert "stopping" in out
    done = re.search(r"stopped early: (\d+) of 60 jobs completed", out)
    assert done is not None
    # What ran was waited for: at this speed every job ends within the patience.
    jobs = sum(int(line.split()[1]) for line in out.splitlines() if line.startswith("11000000"))
    assert int(done[1]) == jobs >= 10
    assert not group_lives(process)


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> SignalAt:
    """Send this process a signal, or more than one, when a frame is shown that fulfils the condition."""
    frames: list[DemoFrame] = []

    def at(
        *conditions: Callable[[DemoFrame], bool], number: signal.Signals = signal.SIGINT
    ) -> list[DemoFrame]:
        really = PlainView.show
        left = list(conditions)

        def show(self: PlainView, frame: DemoFrame) -> None:
            really(self, frame)
            frames.append(frame)
            if left and left[0](frame):
                left.pop(0)
                os.kill(os.getpid(), number)

        monkeypatch.setattr(PlainView, "show", show)
        monkeypatch.setattr(PlainView, "interval", 0.05)
        return frames

    return at


def is_full(frame: DemoFrame) -> bool:
    return all(row.in_flight == row.max_jobs for row in frame.rows)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_as_orderly_in_this_process_and_json_stays_one_document(
    cli: Run, signal_at: SignalAt, number: signal.Signals
) -> None:
    frames = signal_at(is_full, number=number)
    ran = cli("demo", "--speed", "100", "--json")
    assert ran.code == 130
    assert ran.document["interrupted"] is True
    assert 10 <= ran.document["completed"] < 60
    assert ran.document["refusals"] == 0
    assert frames[-1].stopping
    # Everything that was submitted has been waited for.
    assert sum(seen["jobs"] for seen in ran.document["accounts"]) == ran.document["completed"]


def test_second_signal_does_not_wait(cli: Run, signal_at: SignalAt, limit: Limit) -> None:
    limit("drain of the demo", PATIENCE)
    frames = signal_at(lambda frame: frame.rows[0].in_flight > 0, lambda frame: frame.stopping)
    ran = cli("demo", "--accounts", "2", "--service", "fixed:1h", "--speed", "1", "--json")
    assert (ran.code, ran.document["interrupted"], ran.document["completed"]) == (130, True, 0)
    assert frames[-1].elapsed < PATIENCE


def test_interrupt_before_the_first_job(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(_self: PikaClient) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    monkeypatch.setattr(PikaClient, "accounts", interrupted)
    ran = cli("demo", "--json")
    assert (ran.code, ran.error["type"]) == (130, "Interrupted")


class Quiet:
    """A view that keeps what it is shown."""

    interval = 0.01

    def __init__(self) -> None:
        self.frames: list[DemoFrame] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, frame: DemoFrame) -> None:
        self.frames.append(frame)


async def perform(
    believed: Sequence[Account], *, view: Any, jobs: int = 12, **settings: Any
) -> tuple[LocalServer, Workers]:
    """Run a workload that believes in these accounts, on a server whose one account has cap 2."""
    defaults: dict[str, Any] = {"service": "fixed:0.02s", "rng": random.Random(1)}
    server = LocalServer({FIRST: 2}, **(defaults | settings))
    async with server.run() as url, PikaClient("any", base_url=url) as client, Balancer(believed) as balancer:
        workload = Workers(
            client, balancer, clock=SystemClock(), jobs=jobs, workers=6, every=0.005, stagger=0.0
        )
        await workload.run(view)
    return server, workload


def verdict(server: LocalServer, workload: Workers, jobs: int = 12) -> DemoReport:
    return DemoReport.of(server.statistics(), workload, jobs=jobs, interrupted=False)


async def test_caller_who_believes_in_too_many_slots_is_found_out() -> None:
    server, workload = await perform([Account(FIRST, 5)], view=Quiet())
    report = verdict(server, workload)
    assert report.refusals > 0
    assert report.completed == 12
    assert report.exit_code == 1


async def test_jobs_that_fail_are_counted_as_not_completed() -> None:
    server, workload = await perform([Account(FIRST, 2)], view=Quiet(), faults=["fail:0.5"])
    report = verdict(server, workload)
    assert 0 < report.completed < 12
    assert report.completed == workload.completed
    assert (report.refusals, report.exit_code) == (0, 1)


async def test_submits_that_fail_cost_their_job_and_no_other() -> None:
    server, workload = await perform([Account(FIRST, 2)], view=Quiet(), faults=["422:0.5"])
    statistics = server.statistics()
    assert statistics.submits == 12
    assert workload.completed == statistics.jobs == 12 - statistics.faults["422"] < 12
    assert verdict(server, workload).exit_code == 1


async def test_rate_is_that_of_the_last_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    lasts = iter([0, 0, 0, 0, 2, 3600])

    class Paced:
        """A dispatcher whose jobs last as planned."""

        def __init__(self, *_: object, **_options: object) -> None:
            pass

        async def run(self, *_: object, **_options: object) -> Job:
            await clock.sleep(next(lasts))
            return Job("j", "completed", channel="1")

        async def drain(self, _timeout: float) -> None:
            pass

        async def close(self) -> None:
            pass

    monkeypatch.setattr(workload_room, "Dispatcher", Paced)
    async with PikaClient("any", base_url="http://127.0.0.1:1/v1") as client:
        workload = Workers(client, Balancer(), clock=clock, jobs=9, workers=1, every=1.0, stagger=0.0)
        task = asyncio.create_task(workload.run(Quiet()))
        await wait_until(lambda: workload.completed == 4, timeout=PATIENCE)
        await clock.advance(2)
        assert workload.frame().rate == pytest.approx(5 / 2)
        await clock.advance(2)
        assert workload.frame().rate == pytest.approx(1 / 3)
        await clock.advance(2)
        assert workload.frame().rate == 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_frames_add_up() -> None:
    view = Quiet()
    await perform([Account(FIRST, 2)], view=view)
    first, last = view.frames[0], view.frames[-1]
    assert (first.completed, first.rows) == (0, (Row(FIRST, 2, 0, 0),))
    assert (last.completed, last.waiting, last.rows) == (12, 0, (Row(FIRST, 2, 0, 12),))
    assert any(frame.waiting == 4 and frame.rows[0].in_flight == 2 for frame in view.frames)
    assert all(row.in_flight <= row.max_jobs for frame in view.frames for row in frame.rows)
    assert last.rate > 0


async def test_view_that_fails_leaves_no_worker() -> None:
    class Broken(Quiet):
        def show(self, frame: DemoFrame) -> None:
            super().show(frame)
            if len(self.frames) == 3:
                raise BrokenPipeError

    before = asyncio.all_tasks()
    with pytest.raises(BrokenPipeError):
        await perform([Account(FIRST, 2)], view=Broken())
    await wait_until(lambda: asyncio.all_tasks() == before, timeout=PATIENCE)


async def test_drain_is_bounded(limit: Limit) -> None:
    limit("drain of the demo", 0.2)
    view = Quiet()
    before = asyncio.all_tasks()
    task = asyncio.create_task(perform([Account(FIRST, 2)], view=view, service="fixed:1h"))
    await wait_until(lambda: bool(view.frames) and view.frames[-1].waiting == 4, timeout=PATIENCE)
    begun = SystemClock().now()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert SystemClock().now() - begun >= 0.2
    assert (view.frames[-1].stopping, view.frames[-1].waiting, view.frames[-1].completed) == (True, 0, 0)
    await wait_until(lambda: asyncio.all_tasks() == before, timeout=PATIENCE)


async def test_service_that_cannot_be_reached_ends_the_workload() -> None:
    clock = ManualClock()
    async with PikaClient("any", base_url="http://127.0.0.1:1/v1", retries=0) as client:
        balancer = Balancer([Account("1", 2)])
        workload = Workers(client, balancer, clock=clock, jobs=5, workers=3, every=1.0, stagger=0.0)
        task = asyncio.create_task(workload.run(Quiet()))
        while not task.done():  # it is tried more than once, with pauses
            await clock.advance(1)
        with pytest.raises(ConnectFailed):
            await task
        assert balancer.snapshot().in_flight == 0


GOOD = DemoReport(10, 10, 0, 1.5, (Seen("1", 2, 10, 2),), interrupted=False)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"completed": 9}, 1),
        ({"refusals": 1}, 1),
        ({"accounts": (Seen("1", 2, 10, 3),)}, 1),
        ({"interrupted": True, "completed": 5}, 130),
    ],
)
def test_verdict(changes: dict[str, Any], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    report = attrs.evolve(GOOD, **changes)
    assert report.exit_code == code
    report.show(Output())
    shown = capsys.readouterr().out
    assert f"{report.refusals} submits refused" in shown
    assert f"{report.exceeded} accounts above their cap" in shown


@pytest.mark.parametrize(
    ("mean", "slots", "pause"),
    [(1.5, 10, 0.075), (0.0, 1, 0.02), (100.0, 10, 1.0), (1.5, 1000, 4.0)],
)
def test_pause_between_looks_is_short_but_the_requests_stay_few(
    mean: float, slots: int, pause: float
) -> None:
    assert pause_between_looks(mean, slots) == pytest.approx(pause)


def test_plain_line_stays_short_with_many_accounts(capsys: pytest.CaptureFixture[str]) -> None:
    rows = tuple(Row(str(number), 10, 10, 0) for number in range(1000))
    frame = DemoFrame(12.34, 5000, 7, 33, 5.5, rows, stopping=False)
    PlainView(Output().say).show(frame)
    line = capsys.readouterr().out
    assert line.startswith(" 12.3 s     7 of 5000 done    5.5 jobs/s  in flight 10/10 ")
    assert line.endswith("10/10 …  33 in line\n")
    assert len(line) < 130
