"""The demo with several processes that share the accounts through a store."""

import argparse
import contextlib
import os
import secrets
from collections.abc import AsyncGenerator
from typing import Final

import attrs

from pika_balancer.cli.crew import Crew, CrewEnd
from pika_balancer.cli.crew_member import Share
from pika_balancer.cli.demo_report import (
    START_WITHIN,
    DemoReport,
    pause_between_looks,
    seen_by,
    server_of,
    watched,
)
from pika_balancer.cli.exit_codes import FAILURE, INTERRUPTED, OK, MissingExtra
from pika_balancer.cli.output import Output
from pika_balancer.cli.pool_view import count
from pika_balancer.cli.valkey import embedded_server
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import SystemClock
from pika_balancer.models import Secret
from pika_balancer.store.redis.store import RedisStore

_PROCESSES: Final = 3
_LEASE_TTL: Final = 5.0
_GRACE: Final = 1.0


async def perform(
    args: argparse.Namespace, out: Output, *, seed: int, slots: int, jobs: int, workers: int
) -> "FleetReport":
    """Start a store if none is named, the server and the processes, show them, and return how it went.

    Raises:
        MissingExtra: Something that it takes is not installed.
        StoreUnavailable: The store cannot be reached.
    """
    # A name that nobody has: the accounts of the demo must not get into a pool that is in use.
    pool = f"demo-{secrets.token_hex(4)}"
    clock = SystemClock()
    token = Secret(secrets.token_urlsafe(24))
    mean = args.service.mean / args.speed
    processes: int = args.processes or _PROCESSES
    server = server_of(args, token, seed, clock)
    async with _address(args, out, pool) as url, _onlooker(url, pool) as store:
        # Before anything else is started: a store that is not there is told at once.
        await store.pool_status()
        async with server.run() as base_url, PikaClient(token, base_url=base_url, clock=clock) as client:
            crew = Crew(server, client, store, clock=clock)
            try:
                await crew.start(
                    Share(
                        number=number,
                        base_url=base_url,
                        token=token,
                        store=url,
                        pool=pool,
                        lease_ttl=_LEASE_TTL,
                        policy=args.policy,
                        seed=f"{seed} {number}",
                        jobs=_part(jobs, number, processes),
                        workers=max(1, _part(workers, number, processes)),
                        every=pause_between_looks(mean, slots),
                        stagger=START_WITHIN * mean,
                    )
                    for number in range(1, processes + 1)
                )
                interrupted = await watched(crew, out)
            finally:
                await crew.end()
        left = await crew.clear(_LEASE_TTL + _GRACE)
    statistics = server.statistics()
    return FleetReport(
        jobs=jobs,
        completed=statistics.completed,
        refusals=statistics.attempts_when_full,
        elapsed_s=round(crew.elapsed, 3),
        accounts=seen_by(statistics),
        interrupted=interrupted,
        doubled=statistics.duplicate_reply_refs,
        processes=tuple(map(CrewEnd.of, crew.members)),
        pool=pool,
        slots_left=left,
    )


@contextlib.asynccontextmanager
async def _address(args: argparse.Namespace, out: Output, pool: str) -> AsyncGenerator[Secret]:
    named = Secret(args.store or os.environ.get("PIKA_STORE_URL", ""))
    if named.reveal():
        out.say(f"pool {pool}; see it with `pika-balancer watch --store URL --pool {pool}`")
        yield named
        return
    async with embedded_server() as url:
        out.say(f"a Valkey server of its own; see it with `pika-balancer watch --store {url} --pool {pool}`")
        yield Secret(url)


@contextlib.asynccontextmanager
async def _onlooker(url: Secret, pool: str) -> AsyncGenerator[RedisStore]:
    try:
        store = RedisStore(url, pool)
    except ImportError as error:
        raise MissingExtra(str(error)) from None
    try:
        yield store
    finally:
        await store.close()


def _part(whole: int, number: int, parts: int) -> int:
    """Return how much of it the part of that number gets, from 1, where all get alike."""
    return whole // parts + (number <= whole % parts)


@attrs.frozen(kw_only=True)
class FleetReport(DemoReport):
    """How the demo went with several processes."""

    doubled: int
    """Jobs that the server got twice."""
    processes: tuple[CrewEnd, ...]
    """In their order."""
    pool: str
    """The pool that they shared."""
    slots_left: int | None
    """Slots that the pool still counts at the end; None if the store could not be asked."""

    @property
    def exit_code(self) -> int:
        """0 only if all of a demo's promises are kept, every process ended well, and the pool is empty."""
        if self.interrupted:
            return INTERRUPTED
        well = all(process.exit_code == OK for process in self.processes)
        return super().exit_code if well and not self.doubled and self.slots_left == 0 else FAILURE

    def show(self, out: Output) -> None:
        """Print the report."""
        super().show(out)
        out.say()
        rows = [
            (process.process, process.jobs, process.completed, how_it_ended(process))
            for process in self.processes
        ]
        out.table(("process", "jobs", "completed", "ended"), rows)
        out.say()
        if self.slots_left is None:
            out.say(f"the store cannot be reached any more; pool {self.pool} may still count some slots")
        elif self.slots_left:
            out.say(
                f"pool {self.pool} still counts {count(self.slots_left, 'slot')}; "
                f"`pika-balancer store doctor --store URL --pool {self.pool} --repair --orphans` frees them"
            )
        else:
            out.say(f"{count(self.doubled, 'job')} sent twice (0 expected), no slot left taken in the pool")


def how_it_ended(process: CrewEnd) -> str:
    """Return it in words."""
    code = process.exit_code
    if code == OK:
        return "well"
    if code == INTERRUPTED:
        return "stopped"
    if code is not None and code < 0:
        return f"died by signal {-code}"
    return f"died with exit code {code}"
