"""A fleet of real processes whose clocks are hours apart: kills, caps as the service counts, and turns.

`FLEET_JOBS=2000` goes on for longer, `FLEET_SEED=2` kills others.
"""

import asyncio
import itertools
import json
import logging
import os
import random
import statistics
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pika_balancer import PikaClient
from pika_balancer.cli.fetch_jobs import ask
from pika_balancer.cli.store import Findings
from pika_balancer.server import LocalServer
from pika_balancer.testing import wait_until
from tests.pools import Pool

JOBS = int(os.environ.get("FLEET_JOBS", "300"))
SEED = int(os.environ.get("FLEET_SEED", "1"))
CAPS = {str(100_000_000_000_000_001 + place): cap for place, cap in enumerate((10, 8, 6, 4, 2))}
HOURS_APART = 5 * 3600.0
LEASE_TTL = 2.0


class Worker:
    """A process of the fleet."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, pool: Pool, number: int, **what: Any) -> "Worker":
        order = {
            "store": pool.server.url,
            "pool": pool.name,
            "lease_ttl": LEASE_TTL,
            "clock_offset": number * HOURS_APART,
        } | what
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.store.fleet_worker", json.dumps(order)),
            stdout=asyncio.subprocess.PIPE,
            limit=2**27,
        )
        assert process.stdout is not None
        worker = cls(process)
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        return worker

    async def kill(self) -> None:
        """End it as a power cut would."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> Any:
        """Ask it to end, and return what it says that it did."""
        self._process.terminate()
        out, _ = await asyncio.wait_for(self._process.communicate(), 30)
        assert self._process.returncode == 0
        return json.loads(out)


@asynccontextmanager
async def fleet(pool: Pool, size: int, **what: Any) -> AsyncGenerator[list[Worker]]:
    workers = await asyncio.gather(*(Worker.start(pool, number, **what) for number in range(size)))
    try:
        yield list(workers)
    finally:
        for worker in workers:
            await worker.kill()


async def test_three_of_six_processes_killed_pass_no_cap_and_lose_no_slot(pool: Pool) -> None:
    chance = random.Random(SEED)
    server = LocalServer(CAPS, service="exp:0.1s", rng=random.Random(SEED))
    look = pool.open(name="onlooker")
    killed = 0

    async with (
        server.run() as base_url,
        fleet(pool, 6, task="jobs", workers=8, base_url=base_url) as workers,
        PikaClient("user:1-fleet", base_url=base_url) as client,
    ):
        chance.shuffle(workers)
        for at in sorted(chance.sample(range(JOBS // 10, JOBS * 3 // 4), 3)):
            await wait_until(lambda at=at: server.statistics().completed >= at, timeout=60)  # type: ignore[misc]  # a bound loop variable
            await workers.pop().kill()
            killed += 1
        await wait_until(lambda: server.statistics().completed >= JOBS, timeout=120)
        done = [await worker.stop() for worker in workers]
        await wait_until(lambda: server.statistics().in_flight == 0, timeout=30)

        seen = server.statistics()
        assert seen.attempts_when_full == 0
        assert {
            c: channel.peak_in_flight <= CAPS[c] for c, channel in seen.channels.items()
        } == dict.fromkeys(CAPS, True)
        assert max(channel.peak_in_flight for channel in seen.channels.values()) > 1
        assert seen.duplicate_reply_refs == 0
        assert killed == 3
        assert all(number > JOBS / 50 for number in done)

        # Whatever is counted still was held by a process that was killed, and nothing else is wrong.
        state = await look.pool_status()
        assert state.faults == ()
        assert state.waiters == ()
        assert state.snapshot.in_flight == len(state.holders)
        while any(not holder.orphan for holder in state.holders):
            await asyncio.sleep(0.05)
            state = await look.pool_status()
        assert {p.id for p in state.processes if p.holds} == {holder.process for holder in state.orphans}
        assert len({holder.process for holder in state.orphans}) <= killed

        # The service runs nothing any more, and with that all of them are known to be over.
        running = await ask(client, await client.jobs())
        over = Findings.of(state, running, all_orphans=False).over
        assert over == state.orphans
        repair = await look.repair(over)
        assert set(repair.given_up) == {holder.lease_id for holder in over}
        assert (await look.pool_status()).snapshot.in_flight == 0


async def test_turns_across_processes_are_fair_and_follow_each_other_closely(pool: Pool) -> None:
    """Twelve waiters in four processes on one slot: alike, none starves, and the slot is hardly ever idle."""
    what: dict[str, Any] = {"task": "turns", "workers": 3, "accounts": [["1001", 1]], "hold": 0.002}
    async with fleet(pool, 4, **what) as workers:
        await asyncio.sleep(2)
        notes = await asyncio.gather(*(worker.stop() for worker in workers))
    waiters = [waiter for process in notes for waiter in process]
    begun = max(waiter[0][0] for waiter in waiters)
    ended = min(waiter[-1][2] for waiter in waiters)
    turns = sorted(
        (got, gave, asked)
        for waiter in waiters
        for asked, got, gave in waiter
        if begun < asked and gave < ended
    )
    shares = [sum(begun < asked and gave < ended for asked, _, gave in waiter) for waiter in waiters]
    assert len(turns) > 200
    # Never two at a time, whoever's clock is asked.
    assert all(gave <= got for (_, gave, _), (got, _, _) in itertools.pairwise(turns))
    assert jain(shares) >= 0.99, shares
    waits = [got - asked for got, _, asked in turns]
    # Whoever waits lets eleven others pass; thrice that is not yet starving on a machine that has other work.
    assert max(waits) < max(1.0, 36 * statistics.fmean(gave - got for got, gave, _ in turns) * 2)
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(turns)]
    logging.getLogger(__name__).info(
        "gap p50 %.2f ms, Jain index %.4f, longest wait %.0f ms, %d turns",
        *(statistics.median(gaps) * 1000, jain(shares), max(waits) * 1000, len(turns)),
    )
    assert statistics.median(gaps) < 0.01


def jain(shares: list[int]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def test_jain_tells_alike_from_unlike() -> None:
    assert jain([5, 5, 5]) == pytest.approx(1)
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
