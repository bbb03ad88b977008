"""A fleet of real processes whose clocks are hours apart: kills, caps as the service counts, and turns."""

import asyncio
import itertools
import json
import logging
import random
import statistics
import sys
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pika_balancer import PikaClient
from pika_balancer.cli.jobs import running_jobs
from pika_balancer.cli.store import Findings
from pika_balancer.server import LocalServer
from tests.children import default_signals
from tests.depth import sized
from tests.redis_pool import LIMIT, Pool, until

pytestmark = pytest.mark.deep

PROCESSES = sized(4, 8)
JOBS = sized(120, 2000)
SEEDS = sized([1], [1, 2, 3])
TURNS = sized(20, 200)
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
            preexec_fn=default_signals,
        )
        assert process.stdout is not None
        worker = cls(process)
        assert await asyncio.wait_for(process.stdout.readline(), LIMIT) == b"ready\n"
        return worker

    async def enough(self) -> None:
        """Return once it says that it has done enough."""
        assert self._process.stdout is not None
        assert await asyncio.wait_for(self._process.stdout.readline(), LIMIT) == b"enough\n"

    async def kill(self) -> None:
        """End it as a power cut would."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> Any:
        """Ask it to end, and return what it says that it did."""
        self._process.terminate()
        out, _ = await asyncio.wait_for(self._process.communicate(), LIMIT)
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


@pytest.mark.parametrize("seed", SEEDS)
async def test_with_half_of_its_processes_killed_a_fleet_passes_no_cap_and_loses_no_slot(
    pool: Pool, seed: int
) -> None:
    chance = random.Random(seed)
    server = LocalServer(CAPS, service="exp:0.1s", rng=random.Random(seed))
    observer = pool.open(name="onlooker")
    killed = 0

    async with (
        server.run() as base_url,
        fleet(pool, PROCESSES, task="jobs", workers=8, base_url=base_url) as workers,
        PikaClient("user:1-fleet", base_url=base_url) as client,
    ):
        chance.shuffle(workers)
        for at in sorted(chance.sample(range(JOBS // 10, JOBS * 3 // 4), PROCESSES // 2)):
            await until(lambda at=at: server.statistics().completed >= at)  # type: ignore[misc]  # a bound loop variable
            await workers.pop().kill()
            killed += 1
        await until(lambda: server.statistics().completed >= JOBS)
        done = [await worker.stop() for worker in workers]
        await until(lambda: server.statistics().in_flight == 0)

        seen = server.statistics()
        assert seen.attempts_when_full == 0
        assert {
            c: channel.peak_in_flight <= CAPS[c] for c, channel in seen.channels.items()
        } == dict.fromkeys(CAPS, True)
        assert max(channel.peak_in_flight for channel in seen.channels.values()) > 1
        assert seen.duplicate_reply_refs == 0
        assert killed == PROCESSES // 2
        assert all(number > 0 for number in done)

        # Only slots of killed processes are still counted, and no entries disagree.
        state = await observer.pool_status()
        assert state.faults == ()
        assert state.waiters == ()
        assert state.snapshot.in_flight == len(state.holders)
        async with asyncio.timeout(LIMIT):
            while any(not holder.orphan for holder in state.holders):
                await asyncio.sleep(0.05)
                state = await observer.pool_status()
        assert {p.id for p in state.processes if p.holds} == {holder.process for holder in state.orphans}
        assert len({holder.process for holder in state.orphans}) <= killed

        # The service runs no job any more, so all orphans have ended.
        running = await running_jobs(client)
        over = Findings.of(state, running, all_orphans=False).over
        assert over == state.orphans
        repair = await observer.repair(over)
        assert set(repair.given_up) == {holder.lease_id for holder in over}
        assert (await observer.pool_status()).snapshot.in_flight == 0


async def test_turns_across_processes_are_fair_and_follow_each_other_closely(pool: Pool) -> None:
    """All waiters of all processes on one slot: alike, none starves, and the slot is hardly ever idle."""
    what: dict[str, Any] = {"task": "turns", "workers": 12 // PROCESSES, "accounts": [["1001", 1]]}
    async with fleet(pool, PROCESSES, **what, hold=0.002, turns=TURNS) as workers:
        await asyncio.gather(*(worker.enough() for worker in workers))
        notes = await asyncio.gather(*(worker.stop() for worker in workers))
    waiters = [waiter for process in notes for waiter in process]
    begun = max(waiter[0][0] for waiter in waiters)
    ended = min(waiter[-1][2] for waiter in waiters)
    turns = sorted(
        (got, gave, asked, known)
        for waiter in waiters
        for asked, got, gave, known in waiter
        if begun < asked and gave < ended
    )
    shares = [sum(begun < asked and gave < ended for asked, _, gave, _ in waiter) for waiter in waiters]
    assert len(turns) > TURNS * len(waiters) / 3
    # Never two at a time, whatever each process's own clock says.
    assert all(gave <= got for (_, gave, _, _), (got, _, _, _) in itertools.pairwise(turns))
    assert jain(shares) >= 0.97, shares
    begins = [got for got, _, _, _ in turns]
    passed = [bisect_left(begins, got) - bisect_right(begins, asked) for got, _, asked, _ in turns]
    # In the queue each other waiter passes at most once; before that the request has to reach the server.
    assert max(passed) < 3 * len(waiters)
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(turns)]
    answers = [known - gave for _, gave, _, known in turns]
    logging.getLogger(__name__).info(
        "gap p50 %.2f ms, answer p50 %.2f ms, Jain index %.4f, at most %d passed, %d turns",
        *(statistics.median(gaps) * 1000, statistics.median(answers) * 1000, jain(shares), max(passed)),
        len(turns),
    )
    # From a release to the next grant it takes a call and a message, no polling and no pause.
    assert statistics.median(gaps) < 5 * statistics.median(answers)


def jain(shares: list[int]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))
