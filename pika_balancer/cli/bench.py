"""`pika-balancer bench`: load a server, and measure latencies, refusals and throughput."""

import argparse
import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncGenerator
from typing import Final

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.cli.bench_report import BenchProgress, BenchReport, Side
from pika_balancer.cli.bench_setting import SETTINGS, Setting, arrivals, change, policy
from pika_balancer.cli.exit_codes import Interrupted, Usage
from pika_balancer.cli.options import (
    Subparsers,
    add_command,
    add_service,
    connect,
    duration,
    rate,
    reads,
    share,
    whole,
)
from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import LiveLine
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import SystemClock
from pika_balancer.dispatch import Dispatcher
from pika_balancer.dispatch.webhook import Webhook
from pika_balancer.distributions import DISTRIBUTION_FORMS, format_distribution, parse_distribution
from pika_balancer.errors import PikaError
from pika_balancer.loadtest.compare import PAIRS, turns
from pika_balancer.loadtest.driver import Driver, LoadPlan
from pika_balancer.loadtest.latency import histogram
from pika_balancer.loadtest.server_process import ServerProcess, ServerSettings
from pika_balancer.models import Secret
from pika_balancer.selection.policy import POLICIES
from pika_balancer.server import parse_accounts, parse_fault

_ACCOUNTS: Final = "10x10"
_SERVICE: Final = "exp:250ms"
_RATE: Final = "100/s"
_SECONDS: Final = "10s"
_MOST: Final = 1_000_000
_GRACE: Final = 5.0
_MEANS_OF_GRACE: Final = 10
_FOREIGN_GRACE: Final = 600.0
_POLL_EVERY: Final = 15.0
_DRAIN_WITHIN: Final = 5.0
_LONGEST_WARM_UP: Final = 0.9


def register(subparsers: Subparsers) -> None:
    """Add the parser of `bench`."""
    parser = add_command(
        subparsers,
        "bench",
        summary="load a server and measure latencies, refusals and throughput",
        description="Start the API in a child process, send it jobs through the balancer, and print how long "
        "they took to be accepted and to end. Durations start at the intended start of each job, so that the "
        "delays that a slow server causes for later jobs are measured, too. Needs the extra `load`.",
        examples="  pika-balancer bench --rate 200/s --duration 30s\n"
        "  pika-balancer bench --closed 50 --accounts 5x6 --service fixed:100ms --json\n"
        "  pika-balancer bench --rate 100/s --vs policy=least_loaded --seed 7\n"
        "  pika-balancer bench --base-url http://127.0.0.1:8080/v1/pika --rate 1/s --duration 1min "
        "--jobs 20 --jobs-are-billed\n",
    )
    _add_load(parser)
    local = parser.add_argument_group("the local server")
    local.add_argument(
        "--accounts",
        type=reads(parse_accounts),
        metavar="CAPS",
        help=f"caps of its accounts: 6,6,4, or 5x6 for five with cap 6 (default: {_ACCOUNTS})",
    )
    local.add_argument(
        "--service",
        type=reads(parse_distribution),
        metavar="DISTRIBUTION",
        help=f"service times of its jobs: {DISTRIBUTION_FORMS} (default: {_SERVICE})",
    )
    local.add_argument(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="NAME:PROB[:PARAM]",
        help="let submits fail, as in `serve`; may be repeated",
    )
    add_service(parser, otherwise="a local server, started and stopped by this command")
    parser.add_argument(
        "--jobs-are-billed",
        action="store_true",
        help="confirm that you may load the service of --base-url, and that its jobs may cost money",
    )
    parser.set_defaults(run=run)


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("the load")
    loop = load.add_mutually_exclusive_group()
    loop.add_argument(
        "--rate",
        type=rate,
        metavar="RATE",
        help=f"open loop: start jobs at this rate, however slow the server is: 200/s (default: {_RATE})",
    )
    loop.add_argument(
        "--closed", type=whole(1), metavar="N", help="closed loop: N jobs under way, a new one as one ends"
    )
    load.add_argument(
        "--duration", type=duration, help=f"for how long to start jobs: 30s, 5min (default: {_SECONDS})"
    )
    load.add_argument("--jobs", type=whole(1), metavar="N", help="start N jobs at most")
    load.add_argument(
        "--arrivals",
        type=arrivals,
        metavar="ARRIVALS",
        help="schedule of the open loop: poisson, regular, bursty:cv=3 at --rate, or any other --arrivals of "
        "`simulate` (default: poisson)",
    )
    load.add_argument(
        "--warm-up",
        type=share,
        default=0.1,
        metavar="SHARE",
        help="share of the duration, at its beginning, that is not measured (default: 10%%)",
    )
    load.add_argument(
        "--grace",
        type=duration,
        help="how long to wait for unfinished jobs (default: 5s and ten service times; "
        "with --base-url 10min)",
    )
    load.add_argument(
        "--policy",
        type=policy,
        default="random",
        metavar="NAME",
        help=f"how accounts are chosen: {', '.join(POLICIES)} (default: %(default)s)",
    )
    load.add_argument(
        "--poll",
        type=duration,
        metavar="DURATION",
        help=f"how often to ask for running jobs (default: use callbacks; with --base-url {_POLL_EVERY:g}s)",
    )
    load.add_argument(
        "--vs",
        type=change,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"compare with another setting of {', '.join(SETTINGS)}, in {PAIRS} alternating turns each, "
        "with the same arrivals and a server each; repeat it to change several settings",
    )
    load.add_argument("--seed", type=int, metavar="N", help="seed of all chance (default: random, printed)")


async def run(args: argparse.Namespace) -> int:
    """Load the server; the exit code says whether the load was as asked."""
    out = Output(as_json=args.json)
    settings = _settings(args)
    _prepare(args, settings)
    seed: int = secrets.randbelow(1_000_000) if args.seed is None else args.seed
    report = BenchReport(seconds=args.duration, seed=seed, foreign=args.base_url is not None)
    try:
        await _perform(args, settings, report, out)
    except (asyncio.CancelledError, PikaError) as error:
        ended_by = error if isinstance(error, PikaError) else Interrupted("interrupted")
        if not report.measured:
            raise ended_by from None
        report.end_early(ended_by)
    report.print(out)
    return report.exit_code


def _settings(args: argparse.Namespace) -> list[Setting]:
    """Return one setting, or two to compare, with the defaults for the kind of server.

    Raises:
        Usage: Options do not go together.
    """
    if args.base_url is not None:
        _check_foreign(args)
    if args.arrivals is not None and args.closed is not None:
        raise Usage(
            "--arrivals is for the open loop: a closed one starts a job when one ends", field="arrivals"
        )
    args.duration = args.duration or duration(_SECONDS)
    local = args.base_url is None
    setting = Setting(
        policy=args.policy,
        rate=args.rate or (rate(_RATE) if args.closed is None else None),
        closed=args.closed,
        arrivals=args.arrivals or "poisson",
        poll=args.poll or (None if local else _POLL_EVERY),
        accounts=(args.accounts or parse_accounts(_ACCOUNTS)) if local else (),
        service=args.service or parse_distribution(_SERVICE),
    )
    if args.rate is not None and setting.schedule is not None and setting.schedule.rate != args.rate:
        raise Usage("--arrivals has its own rate: leave out --rate", field="rate")
    if args.vs and args.jobs is not None and args.jobs < PAIRS:
        raise Usage(f"--vs needs {PAIRS} --jobs at least, one for each turn", field="jobs")
    return [setting, setting.changed(args.vs)] if args.vs else [setting]


def _check_foreign(args: argparse.Namespace) -> None:
    for option in ("accounts", "service", "fault", "vs"):
        if getattr(args, option):
            raise Usage(f"--{option} is for the local server, not for one of --base-url", field=option)
    if args.jobs is None or args.duration is None:
        raise Usage("jobs of a service cost money: bound them with both --jobs and --duration", field="jobs")
    if not args.jobs_are_billed:
        raise Usage(
            f"up to {args.jobs} jobs would be sent to the service of --base-url, and billed there: confirm "
            "that with --jobs-are-billed",
            field="jobs_are_billed",
        )


def _prepare(args: argparse.Namespace, settings: list[Setting]) -> None:
    """Refuse what would fail later, before anything is loaded."""
    if args.warm_up > _LONGEST_WARM_UP:
        raise Usage(f"--warm-up must be at most {_LONGEST_WARM_UP:.0%}", field="warm_up")
    for setting in settings:
        offered = 0.0 if setting.schedule is None else setting.schedule.rate * args.duration
        if args.jobs is None and offered > _MOST:
            raise Usage(
                f"that would be {offered:,.0f} jobs, and {_MOST:,} are the most: "
                "shorten --duration, lower --rate, or bound them with --jobs",
                field="rate",
            )
    try:
        histogram()
    except ImportError as error:
        raise PikaError(str(error)) from None


async def _perform(
    args: argparse.Namespace, settings: list[Setting], report: BenchReport, out: Output
) -> None:
    compared = len(settings) > 1
    pairs = PAIRS if compared else 1
    async with contextlib.AsyncExitStack() as stack:
        for setting in settings:
            side = await stack.enter_async_context(_open(args, setting, report.seed))
            report.sides.append(side)
        report.greet(out)
        with LiveLine(out) as line:
            progress = BenchProgress(line, report, often=out.console.is_interactive)
            for pair, turn in turns() if compared else [(0, 0)]:
                side = report.sides[turn]
                plan = _plan(args, side.setting, report.seconds / pairs, pair, pairs)
                # The same arrivals for both sides of a pair.
                rng = random.Random(f"arrivals {report.seed} {pair}")  # noqa: S311 - not cryptography
                reason = await side.run_turn(plan, rng, watch=progress.show, interval=progress.interval)
                if reason == "backlog":
                    return


def _plan(args: argparse.Namespace, setting: Setting, seconds: float, pair: int, pairs: int) -> LoadPlan:
    jobs: int = args.jobs or _MOST
    grace = _GRACE + _MEANS_OF_GRACE * setting.service.mean if setting.accounts else _FOREIGN_GRACE
    return LoadPlan(
        arrivals=setting.schedule,
        closed=setting.closed,
        seconds=seconds,
        warm_up=seconds * args.warm_up,
        most=jobs * (pair + 1) // pairs - jobs * pair // pairs,
        grace=args.grace or grace,
    )


@contextlib.asynccontextmanager
async def _open(args: argparse.Namespace, setting: Setting, seed: int) -> AsyncGenerator[Side]:
    """Start the server of one side, unless it has a base URL, and what sends it jobs."""
    clock = SystemClock()
    driver = Driver(clock)
    async with contextlib.AsyncExitStack() as stack:
        server, callbacks = None, None
        url: str = args.base_url
        if args.base_url is None:
            token = Secret(secrets.token_urlsafe(24))
            settings = ServerSettings(
                accounts={account.channel: account.max_jobs for account in setting.accounts},
                service=format_distribution(setting.service),
                faults=args.fault,
                seed=f"server {seed}",
                token=token,
            )
            server = await stack.enter_async_context(ServerProcess.run(settings))
            url = server.url
            client = await stack.enter_async_context(PikaClient(token, base_url=url, clock=clock))
            if setting.poll is None:
                callbacks = Webhook(clock=clock)
                await stack.enter_async_context(callbacks.run())
        else:
            client = await stack.enter_async_context(connect(args))
        balancer = await Balancer.from_client(
            client,
            policy=setting.policy,
            rng=random.Random(seed),  # noqa: S311 - balancing, not cryptography
            clock=clock,
            observer=driver.observe,
        )
        await stack.enter_async_context(balancer)
        dispatcher = Dispatcher(
            client, balancer, webhook=callbacks, poll_every=setting.poll or _POLL_EVERY, clock=clock
        )
        try:
            await dispatcher.reconcile()
            yield Side(
                setting=setting,
                label=setting.told(dict(args.vs)),
                url=url,
                accounts=balancer.snapshot().accounts,
                driver=driver,
                dispatcher=dispatcher,
                server=server,
            )
        finally:
            # A job may already be billed: wait for its answer.
            await dispatcher.drain(_DRAIN_WITHIN if server is None else 0.0)


def _fault(text: str) -> str:
    reads(parse_fault)(text)
    return text
