"""`pika-balancer store doctor`: what is wrong in a shared pool, and its repair."""

import argparse
import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final

import attrs

from pika_balancer.cli.exit_codes import FAILURE, OK, Interrupted
from pika_balancer.cli.jobs import running_jobs
from pika_balancer.cli.options import Subparsers, add_command, add_service, add_store, connect, open_store
from pika_balancer.cli.output import Output
from pika_balancer.cli.views import as_facts, count, duration, holders_section
from pika_balancer.client.client import PikaClient
from pika_balancer.models import Job
from pika_balancer.store.redis.pool_status import PoolHolder, PoolStatus, Repair

_LONG: Final = 3600.0


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "store",
        summary="check a shared pool, and repair it",
        description="doctor: examine a pool that processes share for inconsistent entries, orphans (slots "
        "of dead processes, whose jobs may still run) and slots held for over an hour. With an API token, "
        "ask the service what really runs and report the difference. Without --repair nothing is changed; "
        "slots of living processes never are. Exit with 1 while something is wrong.",
        examples="  pika-balancer store doctor --store redis://127.0.0.1:6379/0\n"
        "  pika-balancer store doctor --store --pool default --repair\n"
        "  pika-balancer store doctor --repair --orphans --json",
    )
    parser.add_argument("action", choices=("doctor",), help="what to do")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="mend inconsistent entries, and give up orphans whose jobs have ended according to the service",
    )
    parser.add_argument(
        "--orphans", action="store_true", help="give up all orphans, even if their jobs may still run"
    )
    add_store(parser)
    add_service(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    out = Output(as_json=args.json)
    store = open_store(args)
    try:
        # The pool first: a job that the service still runs of what is found there is then in its list, too.
        pool = await store.pool_status()
        async with _service(args) as client:
            running = None if client is None else await running_jobs(client)
        findings = Findings.of(pool, running, all_orphans=args.orphans)
        repair = await store.repair(findings.over) if args.repair else None
    except asyncio.CancelledError:
        raise Interrupted("interrupted") from None
    finally:
        await store.close()
    out.document(findings.document(repair))
    if not args.json:
        findings.show(out, repair)
    return OK if findings.is_healthy(repair) else FAILURE


@contextlib.asynccontextmanager
async def _service(args: argparse.Namespace) -> AsyncGenerator[PikaClient | None]:
    if args.token is None and not os.environ.get("USEAPI_TOKEN") and args.base_url is None:
        yield None
        return
    async with connect(args) as client:
        yield client


@attrs.frozen
class Findings:
    """The result of an examination."""

    pool: PoolStatus
    running: Counter[str | None] | None
    """Jobs that the service runs, by channel; None if it was not asked."""
    over: tuple[PoolHolder, ...]
    """Orphans that a repair gives up."""

    @classmethod
    def of(cls, pool: PoolStatus, jobs: Iterable[Job] | None, *, all_orphans: bool) -> "Findings":
        """Compare a pool with the jobs that the service runs.

        An orphan is over if its job is known and does not run, or if nothing runs on its channel at all.

        Args:
            pool: The pool.
            jobs: What the service runs, asked after the pool; None if it was not asked.
            all_orphans: Whether every orphan is to be given up.
        """
        if jobs is None:
            return cls(pool, None, pool.orphans if all_orphans else ())
        running = [job for job in jobs if not job.ended]
        ids = {job.jobid for job in running}
        counts = Counter(job.channel for job in running)

        def is_over(holder: PoolHolder) -> bool:
            gone = holder.jobid is not None and holder.jobid not in ids
            # A job without a channel may run on any.
            return gone or not (counts[holder.channel] or counts[None])

        return cls(pool, counts, tuple(o for o in pool.orphans if all_orphans or is_over(o)))

    @property
    def drift(self) -> dict[str, tuple[int, int]]:
        """Channels where pool and service differ: how many the pool counts, and how many run."""
        if self.running is None:
            return {}
        counted = Counter(holder.channel for holder in self.pool.holders)
        channels = sorted({*counted, *(channel for channel in self.running if channel is not None)})
        return {
            channel: (counted[channel], self.running[channel])
            for channel in channels
            if counted[channel] != self.running[channel]
        }

    @property
    def old(self) -> tuple[PoolHolder, ...]:
        """Slots that living processes have held for over an hour."""
        return tuple(h for h in self.pool.holders if not h.orphan and h.age > _LONG)

    def is_healthy(self, repair: Repair | None) -> bool:
        """Return whether nothing is wrong, or nothing is left that was.

        Slots held for long and drift are no fault: a living process is responsible for them.
        """
        orphans = len(self.pool.orphans) - (0 if repair is None else len(repair.given_up))
        return orphans <= 0 and (repair is not None or not self.pool.faults)

    def document(self, repair: Repair | None) -> dict[str, Any]:
        """Return the findings for `--json`."""
        return {
            "healthy": self.is_healthy(repair),
            "slots_taken": self.pool.snapshot.in_flight,
            "faults": list(self.pool.faults),
            "orphans": [as_facts(orphan) | {"over": orphan in self.over} for orphan in self.pool.orphans],
            "held_long": [as_facts(holder) for holder in self.old],
            "service_asked": self.running is not None,
            "drift": [
                {"channel": channel, "counted": counted, "running": running}
                for channel, (counted, running) in self.drift.items()
            ],
            "repaired": None
            if repair is None
            else {"given_up": list(repair.given_up), "mended": list(repair.mended)},
        }

    def show(self, out: Output, repair: Repair | None) -> None:
        """Print the findings, and what was or can be done about them."""
        pool = self.pool
        alive = sum(process.alive for process in pool.processes)
        out.say(
            f"{count(pool.snapshot.in_flight, 'slot')} taken of {pool.snapshot.capacity}, "
            f"{count(alive, 'process', 'processes')} alive, {len(pool.waiters)} waiting"
        )
        for fault in pool.faults:
            out.say(f"fault: {fault}")
        if pool.orphans:
            out.say(f"{count(len(pool.orphans), 'orphan')} of dead processes")
            out.show(holders_section(pool.orphans).render(out))
        for holder in self.old:
            out.say(f"held for {duration(holder.age)}: {holder.lease_id} by {holder.name}, which is alive")
        for channel, (counted, running) in self.drift.items():
            out.say(f"drift on {channel}: the pool counts {counted}, the service runs {running}")
        if self.running is None and pool.orphans:
            out.say("the service was not asked what runs: that needs USEAPI_TOKEN or --token-file")
        self._show_repair(out, repair)
        out.say("healthy" if self.is_healthy(repair) else "not healthy")

    def _show_repair(self, out: Output, repair: Repair | None) -> None:
        pool = self.pool
        if repair is not None:
            out.say(
                f"repaired: {count(len(repair.mended), 'fault')} mended, "
                f"{count(len(repair.given_up), 'orphan')} given up"
            )
            for lease_id in repair.given_up:
                out.say(f"  gave up {lease_id}")
            left = len(pool.orphans) - len(repair.given_up)
            if left > 0:
                out.say(f"  kept {count(left, 'orphan')}, whose jobs may still run")
        elif pool.faults or self.over:
            out.say(
                f"--repair would mend {count(len(pool.faults), 'fault')} "
                f"and give up {count(len(self.over), 'orphan')}"
            )
            for holder in self.over:
                out.say(f"  {holder.lease_id} on {holder.channel}")
