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
from pika_balancer.cli.fetch_jobs import ask
from pika_balancer.cli.options import Subparsers, add_command, add_service, add_store, connect, open_store
from pika_balancer.cli.output import Output
from pika_balancer.cli.pool_view import as_facts, count, show_holders
from pika_balancer.cli.views import duration
from pika_balancer.client.client import PikaClient
from pika_balancer.models import Job
from pika_balancer.store.redis.pool_status import PoolHolder, PoolStatus, Repair

_LONG: Final = 3600.0


def register(subparsers: Subparsers) -> None:
    """Add the parser of `store`."""
    parser = add_command(
        subparsers,
        "store",
        summary="check a shared pool, and repair it",
        description="doctor: look for what is wrong in a pool that processes share: entries that do not "
        "agree, orphans (slots of processes that died, whose jobs may still run), and slots held for very "
        "long. With an API token it asks the service what really runs, and tells the difference. Nothing is "
        "changed without --repair, and slots of living processes never are. "
        "Exits with 1 while there is something wrong.",
        examples="  pika-balancer store doctor --store redis://127.0.0.1:6379/0\n"
        "  pika-balancer store doctor --store --pool default --repair\n"
        "  pika-balancer store doctor --repair --orphans --json",
    )
    parser.add_argument("action", choices=("doctor",), help="what to do")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="mend entries that do not agree, and give up orphans whose jobs the service says are over",
    )
    parser.add_argument(
        "--orphans",
        action="store_true",
        help="give up all orphans, also where nobody knows whether their jobs still run",
    )
    add_store(parser)
    add_service(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    """Examine a pool, and repair it if asked to."""
    out = Output(as_json=args.json)
    store = open_store(args)
    try:
        # The pool first: whatever the service runs of what is found there, it then still tells.
        fleet = await store.pool_status()
        async with _service(args) as client:
            running = None if client is None else await ask(client, dict.fromkeys(await client.jobs()))
        findings = Findings.of(fleet, running, all_orphans=args.orphans)
        done = await store.repair(findings.over) if args.repair else None
    except asyncio.CancelledError:
        raise Interrupted("interrupted") from None
    finally:
        await store.close()
    out.document(findings.document(done))
    if not args.json:
        findings.show(out, done)
    return OK if findings.is_healthy(done) else FAILURE


@contextlib.asynccontextmanager
async def _service(args: argparse.Namespace) -> AsyncGenerator[PikaClient | None]:
    if args.token is None and not os.environ.get("USEAPI_TOKEN") and args.base_url is None:
        yield None
        return
    async with connect(args) as client:
        yield client


@attrs.frozen
class Findings:
    """What an examination has found."""

    pool_status: PoolStatus
    """The pool as it was."""
    running: Counter[str | None] | None
    """Jobs that the service runs, by channel; None if it was not asked."""
    over: tuple[PoolHolder, ...]
    """Orphans that a repair gives up."""

    @classmethod
    def of(cls, fleet: PoolStatus, jobs: Iterable[Job] | None, *, all_orphans: bool) -> "Findings":
        """Return what a pool and what the service runs come to.

        An orphan is over if its job is known and does not run, or if nothing runs on its channel at all.

        Args:
            fleet: The pool.
            jobs: What the service runs, asked after the pool; None if it was not.
            all_orphans: Whether every orphan shall be given up.
        """
        if jobs is None:
            return cls(fleet, None, fleet.orphans if all_orphans else ())
        running = [job for job in jobs if not job.ended]
        ids = {job.jobid for job in running}
        counts = Counter(job.channel for job in running)

        def is_over(holder: PoolHolder) -> bool:
            gone = holder.jobid is not None and holder.jobid not in ids
            # A job of which the service does not tell where it runs may be anybody's.
            return gone or not (counts[holder.channel] or counts[None])

        return cls(fleet, counts, tuple(o for o in fleet.orphans if all_orphans or is_over(o)))

    @property
    def drift(self) -> dict[str, tuple[int, int]]:
        """Channels where pool and service differ: how many the pool counts, and how many run."""
        if self.running is None:
            return {}
        counted = Counter(holder.channel for holder in self.pool_status.holders)
        channels = sorted({*counted, *(channel for channel in self.running if channel is not None)})
        return {
            channel: (counted[channel], self.running[channel])
            for channel in channels
            if counted[channel] != self.running[channel]
        }

    @property
    def old(self) -> tuple[PoolHolder, ...]:
        """Slots that living processes have held for very long."""
        return tuple(h for h in self.pool_status.holders if not h.orphan and h.age > _LONG)

    def is_healthy(self, done: Repair | None) -> bool:
        """Return whether nothing is wrong, or nothing is left that was.

        Slots held for long and drift alone are no illness: a living process sees to them.
        """
        orphans = len(self.pool_status.orphans) - (0 if done is None else len(done.given_up))
        return orphans <= 0 and (done is not None or not self.pool_status.faults)

    def document(self, done: Repair | None) -> dict[str, Any]:
        """Return the findings as `--json` shows them."""
        return {
            "healthy": self.is_healthy(done),
            "slots_taken": self.pool_status.snapshot.in_flight,
            "faults": list(self.pool_status.faults),
            "orphans": [
                as_facts(orphan) | {"over": orphan in self.over} for orphan in self.pool_status.orphans
            ],
            "held_long": [as_facts(holder) for holder in self.old],
            "service_asked": self.running is not None,
            "drift": [
                {"channel": channel, "counted": counted, "running": running}
                for channel, (counted, running) in self.drift.items()
            ],
            "repaired": None
            if done is None
            else {"given_up": list(done.given_up), "mended": list(done.mended)},
        }

    def show(self, out: Output, done: Repair | None) -> None:
        """Print the findings, and what was or can be done about them."""
        fleet = self.pool_status
        alive = sum(process.alive for process in fleet.processes)
        out.say(
            f"{count(fleet.snapshot.in_flight, 'slot')} taken of {fleet.snapshot.capacity}, "
            f"{count(alive, 'process', 'processes')} alive, {len(fleet.waiters)} in line"
        )
        for fault in fleet.faults:
            out.say(f"fault: {fault}")
        if fleet.orphans:
            out.say(f"{count(len(fleet.orphans), 'orphan')}: no living process answers for")
            show_holders(fleet.orphans, out)
        for holder in self.old:
            out.say(f"held for {duration(holder.age)}: {holder.lease_id} by {holder.name}, which is alive")
        for channel, (counted, running) in self.drift.items():
            out.say(f"drift on {channel}: the pool counts {counted}, the service runs {running}")
        if self.running is None and fleet.orphans:
            out.say("the service was not asked what runs: that needs USEAPI_TOKEN or --token-file")
        self._show_repair(out, done)
        out.say("healthy" if self.is_healthy(done) else "not healthy")

    def _show_repair(self, out: Output, done: Repair | None) -> None:
        if done is not None:
            out.say(
                f"repaired: {count(len(done.mended), 'fault')} mended, "
                f"{count(len(done.given_up), 'orphan')} given up"
            )
            for lease_id in done.given_up:
                out.say(f"  gave up {lease_id}")
            kept = len(self.pool_status.orphans) - len(done.given_up)
            if kept > 0:
                out.say(f"  kept {count(kept, 'orphan')}, whose jobs may still run")
        elif self.pool_status.faults or self.over:
            out.say(
                f"--repair would mend {count(len(self.pool_status.faults), 'fault')} "
                f"and give up {count(len(self.over), 'orphan')}"
            )
            for holder in self.over:
                out.say(f"  {holder.lease_id} on {holder.channel}")
