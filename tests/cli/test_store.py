"""`watch --store` and `store doctor`: what a shared pool shows, and what a repair does and leaves alone."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from pika_balancer import Account, Job
from pika_balancer.cli.store import Findings
from pika_balancer.models import Lease
from pika_balancer.store.redis.store import RedisStore
from tests.cli.conftest import FIRST, PATIENCE, SECOND, Ran, Run, Serve, Spawn, group_lives
from tests.redis_pool import Pool
from tests.redis_servers import Servers

ACCOUNTS = [Account(FIRST, 2), Account(SECOND, 1)]


@attrs.frozen
class SharedPool:
    """A pool with two processes, of which one can die, and the commands that look at it."""

    pool: Pool
    here: RedisStore
    dying: RedisStore
    cli: Run

    async def run(self, *argv: str) -> Ran:
        return await asyncio.to_thread(self.cli, *argv, "--pool", self.pool.name)

    async def bury(self) -> None:
        await self.dying.close()

    async def waits(self) -> None:
        """Return as soon as the pool shows a waiter."""
        async with asyncio.timeout(PATIENCE):
            while not (await self.here.pool_status()).waiters:  # noqa: ASYNC110 - no event tells what others see
                await asyncio.sleep(0.01)


@pytest.fixture
async def shared(servers: Servers, cli: Run, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SharedPool]:
    pool = Pool(servers["valkey"])
    monkeypatch.setenv("PIKA_STORE_URL", pool.server.url)
    here, dying = pool.open(name="worker-here"), pool.open(name="worker-gone")
    await here.update(ACCOUNTS)
    yield SharedPool(pool, here, dying, cli)
    await pool.end(in_use=True)


async def give_back(store: RedisStore, *leases: Lease) -> None:
    for lease in leases:
        if (owed := store.release(lease)) is not None:
            await owed


# --- watch ----------------------------------------------------------------------------------------------


async def test_watch_shows_who_holds_what_who_waits_and_what_died(shared: SharedPool) -> None:
    lease = await shared.here.acquire(FIRST, None)
    await shared.dying.acquire(SECOND, None)
    await shared.dying.adopt(FIRST, "job-of-the-dead")
    waiting = asyncio.create_task(shared.here.acquire(SECOND, None))
    await shared.waits()
    await shared.bury()
    ran = await shared.run("watch", "--store", "--once")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].endswith("  3 of 3 slots taken, 2 orphans, 1 waiting, 1 process")
    assert [line.split() for line in lines[2:4]] == [
        [FIRST, "2", "2", "0", "open"],
        [SECOND, "1", "1", "0", "open"],
    ]
    rows = {line.split()[0]: line.split()[1:] for line in lines[6:9]}
    assert rows[str(lease.id)][:2] == [FIRST, "worker-here"]
    assert rows[str(lease.id)][3] == "alive"
    assert rows["job-of-the-dead"][:2] == [FIRST, "worker-gone"]
    assert rows["job-of-the-dead"][3:] in (["orphan", "29m59s"], ["orphan", "30m00s"])
    assert lines[-1].split()[:2] == [SECOND, "worker-here"]
    waiting.cancel()
    await give_back(shared.here, lease)


async def test_watch_as_json_is_one_document(shared: SharedPool) -> None:
    lease = await shared.here.acquire(FIRST, None)
    await shared.here.pause(SECOND)
    ran = await shared.run("watch", "--store", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = ran.document
    assert list(document) == ["at", "accounts", "holders", "waiters", "processes", "learning_s", "faults"]
    assert document["accounts"] == [
        {"channel": FIRST, "max_jobs": 2, "in_flight": 1, "free": 1, "state": "open"},
        {"channel": SECOND, "max_jobs": 1, "in_flight": 0, "free": 1, "state": "paused"},
    ]
    (holder,) = document["holders"]
    assert (holder["lease_id"], holder["name"], holder["orphan"]) == (lease.id, "worker-here", False)
    assert (document["waiters"], document["faults"], document["learning_s"]) == ([], [], 0)
    assert [(p["name"], p["alive"], p["holds"]) for p in document["processes"]] == [("worker-here", True, 1)]
    await give_back(shared.here, lease)


async def test_looking_takes_no_part(shared: SharedPool) -> None:
    await shared.run("watch", "--store", "--once")
    await shared.run("store", "doctor")
    assert [process.name for process in (await shared.here.pool_status()).processes] == ["worker-here"]


async def test_a_pool_that_nobody_uses_yet_says_so(shared: SharedPool) -> None:
    ran = await asyncio.to_thread(shared.cli, "watch", "--store", "--once", "--pool", "nobody")
    assert ran.code == 0
    assert "the pool has no accounts yet" in ran.out


def test_watch_goes_on_until_ctrl_c(spawn: Spawn, servers: Servers) -> None:
    process = spawn("watch", "--store", servers["valkey"].url, "--poll", "0.05", "--pool", "nobody")
    assert process.stdout is not None
    looks = [line for line in (process.stdout.readline() for _ in range(6)) if "slots taken" in line]
    assert len(looks) >= 2
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "")
    assert not group_lives(process)


# --- where the store is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [("watch", "--store", "--once"), ("store", "doctor")])
def test_no_store_is_a_usage_error(cli: Run, argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIKA_STORE_URL", raising=False)
    ran = cli(*argv)
    assert ran.code == 2
    assert "no store: set PIKA_STORE_URL, or name one with --store" in ran.err


@pytest.mark.parametrize(
    ("url", "code"),
    [("redis://user:canary0secret@127.0.0.1:1/0", 5), ("nonsense://:canary0secret@host", 2)],
)
@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("argv", [("watch", "--once"), ("store", "doctor")])
def test_a_store_that_cannot_be_used_is_told_without_its_password(
    cli: Run, argv: tuple[str, ...], options: tuple[str, ...], url: str, code: int
) -> None:
    ran = cli(*argv, "--store", url, *options)  # `cli` itself looks for the canary
    assert ran.code == code
    if options:
        assert ran.error["exit_code"] == code


# --- doctor ---------------------------------------------------------------------------------------------


async def test_doctor_finds_nothing_wrong_in_a_pool_at_work(shared: SharedPool) -> None:
    lease = await shared.here.acquire(FIRST, None)
    ran = await shared.run("store", "doctor")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "1 slot taken of 3, 1 process alive, 0 waiting\nhealthy\n"
    await give_back(shared.here, lease)


async def test_doctor_tells_of_orphans_and_changes_nothing_unasked(shared: SharedPool) -> None:
    orphan = await shared.dying.acquire(SECOND, None)
    await shared.bury()
    for _ in range(2):
        ran = await shared.run("store", "doctor")
        assert ran.code == 1
        assert "1 orphan of dead processes" in ran.out
        assert str(orphan.id) in ran.out
        assert "the service was not asked" in ran.out
        assert ran.out.endswith("not healthy\n")


async def test_repair_without_the_service_keeps_orphans_unless_told_to_give_them_up(
    shared: SharedPool,
) -> None:
    lease = await shared.here.acquire(FIRST, None)
    orphan = await shared.dying.acquire(SECOND, None)
    await shared.bury()
    ran = await shared.run("store", "doctor", "--repair")
    assert ran.code == 1
    assert "repaired: 0 faults mended, 0 orphans given up" in ran.out
    assert "kept 1 orphan, whose jobs may still run" in ran.out
    ran = await shared.run("store", "doctor", "--orphans")
    assert "--repair would mend 0 faults and give up 1 orphan" in ran.out
    assert [holder.lease_id for holder in (await shared.here.pool_status()).orphans] == [orphan.id]
    ran = await shared.run("store", "doctor", "--repair", "--orphans")
    assert ran.code == 0
    assert f"gave up {orphan.id}" in ran.out
    # Not a slot of the living, whatever was asked.
    assert [holder.lease_id for holder in (await shared.here.pool_status()).holders] == [lease.id]
    await give_back(shared.here, lease)


async def test_faults_are_told_and_mended(shared: SharedPool) -> None:
    with shared.pool.server.client() as client:
        client.zadd(f"pika:{{{shared.pool.name}}}:slots", {f"{FIRST}\nghost": 0})
    ran = await shared.run("store", "doctor")
    assert ran.code == 1
    assert ran.out.count("fault: ") == 1
    assert "--repair would mend 1 fault and give up 0 orphans" in ran.out
    assert "fault: " in (await shared.run("watch", "--store", "--once")).out
    ran = await shared.run("store", "doctor", "--repair", "--json")
    assert ran.code == 0
    assert len(ran.document["repaired"]["mended"]) == 1
    assert (await shared.run("store", "doctor")).code == 0


async def test_with_the_service_a_repair_gives_up_what_is_over_and_keeps_what_runs(
    shared: SharedPool, serve: Serve
) -> None:
    service = serve("2,1", service="fixed:1h")
    running = await asyncio.to_thread(service.submit, "a cat", channel=FIRST)
    await shared.dying.adopt(FIRST, running)
    await shared.dying.adopt(FIRST, "a-job-that-has-ended")
    unnamed = await shared.dying.acquire(SECOND, None)
    await shared.bury()
    ran = await shared.run("store", "doctor", "--json")
    assert ran.code == 1
    assert ran.document["service_asked"]
    assert {orphan["lease_id"]: orphan["over"] for orphan in ran.document["orphans"]} == {
        running: False,
        "a-job-that-has-ended": True,
        unnamed.id: True,  # nothing at all runs on its channel
    }
    assert ran.document["drift"] == [
        {"channel": FIRST, "counted": 2, "running": 1},
        {"channel": SECOND, "counted": 1, "running": 0},
    ]
    ran = await shared.run("store", "doctor", "--repair")
    assert ran.code == 1
    assert f"drift on {FIRST}: the pool counts 2, the service runs 1" in ran.out
    assert "2 orphans given up" in ran.out
    assert "kept 1 orphan, whose jobs may still run" in ran.out
    assert [holder.jobid for holder in (await shared.here.pool_status()).orphans] == [running]


async def test_a_job_on_a_channel_that_the_service_does_not_tell_may_be_anybodys(shared: SharedPool) -> None:
    orphan = await shared.dying.acquire(SECOND, None)
    await shared.bury()
    state = await shared.here.pool_status()
    assert [holder.lease_id for holder in Findings.of(state, [], all_orphans=False).over] == [orphan.id]
    somewhere = Job("j", status="progress", channel=None)
    assert Findings.of(state, [somewhere], all_orphans=False).over == ()


async def test_slots_held_for_very_long_are_told_and_left_alone(shared: SharedPool) -> None:
    lease = await shared.here.acquire(FIRST, None)
    state = await shared.here.pool_status()
    old = attrs.evolve(state, holders=tuple(attrs.evolve(one, age=7500.0) for one in state.holders))
    findings = Findings.of(old, [], all_orphans=True)
    document: dict[str, Any] = json.loads(json.dumps(findings.document(None)))
    assert [(held["lease_id"], held["age_s"]) for held in document["held_long"]] == [(lease.id, 7500.0)]
    assert findings.over == ()
    assert findings.is_healthy(None)
    await give_back(shared.here, lease)
