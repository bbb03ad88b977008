"""`pika-balancer bench`: load on a server, and what it does to latencies, refusals and throughput."""

import argparse
import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from pika_balancer._util.units import parse_share
from pika_balancer.balancer.balancer import Balancer
from pika_balancer.cli.bench_report import BenchReport, Side, Watch
from pika_balancer.cli.bench_setting import (
    SETTINGS,
    Setting,
    arrivals,
    change,
    policy,
)
from pika_balancer.cli.exit_codes import Interrupted, Usage
from pika_balancer.cli.options import (
    Subparsers,
    add_command,
    add_service,
    connect,
    duration,
    rate,
    reads,
    whole,
)
from pika_balancer.cli.output import Output
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import SystemClock
from pika_balancer.dispatch import Dispatcher
from pika_balancer.dispatch.webhook import Webhook
from pika_balancer.distributions import DISTRIBUTION_FORMS, format_distribution, parse_distribution
from pika_balancer.errors import InvalidArgument, PikaError
from pika_balancer.loadtest.compare import PAIRS, turns
from pika_balancer.loadtest.driver import Load, LoadPlan
from pika_balancer.loadtest.latency import histogram
from pika_balancer.loadtest.picture import check_picture, draw
from pika_balancer.loadtest.recorder import Recorder
from pika_balancer.loadtest.server_process import ServerSettings, server_apart
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
_PATIENCE: Final = 5.0
_LONGEST_WARM_UP: Final = 0.9


def register(subparsers: Subparsers) -> None:
    """Add the parser of `bench`."""
    parser = add_command(
        subparsers,
        "bench",
        summary="load a server and measure latencies, refusals and throughput",
        description="Start the API in a process of its own, send it jobs through the balancer, and tell how "
        "long they took to be accepted and to end. Durations are measured from the moment at which a job was "
        "meant to start, so that a server that stalls cannot hide behind the jobs that it kept from being "
        "sent. "
        "Needs the extra `load`, and for a picture `plot`.",
        examples="  pika-balancer bench --rate 200/s --duration 30s\n"
        "  pika-balancer bench --closed 50 --accounts 5x6 --service fixed:100ms --json\n"
        "  pika-balancer bench --rate 100/s --vs policy=least_loaded --seed 7 --picture bench.png\n"
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
        metavar="LAW",
        help=f"how long its jobs run: {DISTRIBUTION_FORMS} (default: {_SERVICE})",
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
        help="confirm that the service of --base-url may be loaded, and that its jobs may cost money",
    )
    parser.set_defaults(run=run)


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("the load")
    loop = load.add_mutually_exclusive_group()
    loop.add_argument(
        "--rate",
        type=rate,
        metavar="RATE",
        help=f"open loop: so many jobs start, however the server does: 200/s, 90/min (default: {_RATE})",
    )
    loop.add_argument(
        "--closed",
        type=whole(1),
        metavar="N",
        help="closed loop: N jobs under way, a new one whenever one has ended",
    )
    load.add_argument(
        "--duration", type=duration, help=f"for how long jobs start: 30s, 5min (default: {_SECONDS})"
    )
    load.add_argument("--jobs", type=whole(1), metavar="N", help="start N jobs at most")
    load.add_argument(
        "--arrivals",
        type=arrivals,
        metavar="LAW",
        help="schedule of the open loop: poisson, regular, bursty:cv=3 at --rate, or any other --arrivals of "
        "`simulate` (default: poisson)",
    )
    load.add_argument(
        "--warm-up",
        type=reads(parse_share),
        default=0.1,
        metavar="SHARE",
        help="share of the run that counts in no measure (default: 10%%)",
    )
    load.add_argument(
        "--grace", type=duration, help="for how long the last jobs may end (default: by their service times)"
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
        help=f"ask after jobs so often (default: be called back; with --base-url {_POLL_EVERY:g}s)",
    )
    load.add_argument(
        "--vs",
        type=change,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"compare with another setting of {', '.join(SETTINGS)}; the two take turns, {PAIRS} each, on "
        "a server each, with the same arrivals; may be repeated to change several at once",
    )
    load.add_argument(
        "--seed", type=int, metavar="N", help="make chance repeatable (default: a new one, shown)"
    )
    load.add_argument("--picture", type=Path, metavar="FILE", help="draw it to FILE.png, .svg or .pdf")


async def run(args: argparse.Namespace) -> int:
    """Load the server; the exit code says whether the load was as asked."""
    out = Output(as_json=args.json)
    settings = _settings(args)
    _prepare(args, settings)
    seed: int = secrets.randbelow(1_000_000) if args.seed is None else args.seed
    names = list(dict(args.vs))
    report = BenchReport(settings, names, seconds=args.duration, seed=seed, foreign=args.base_url is not None)
    try:
        await _perform(args, report, out)
    except (asyncio.CancelledError, Interrupted):
        if not report.measured:
            raise Interrupted("interrupted") from None
        report.interrupted = True
    except PikaError as error:
        if not report.measured:
            raise
        report.error = error
    if args.picture is not None and report.measured:
        draw(args.picture, [(side.label, side.total) for side in report.sides], slots=report.slots)
    report.print(out)
    return report.exit_code


def _settings(args: argparse.Namespace) -> list[Setting]:
    """Return the sides, one or two, and fill in what depends on the kind of server.

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
        if args.picture is not None:
            check_picture(args.picture)
    except ImportError as error:
        raise PikaError(str(error)) from None
    except InvalidArgument as error:
        raise Usage(str(error), field=error.field) from None


async def _perform(args: argparse.Namespace, report: BenchReport, out: Output) -> None:
    """Load the sides in turns, and have the report take it all down."""
    async with contextlib.AsyncExitStack() as stack:
        for side in report.sides:
            await stack.enter_async_context(_open(args, side, report.seed))
        report.greet(out)
        compared = len(report.sides) > 1
        order = turns() if compared else iter([(0, 0)])
        seconds = args.duration / (PAIRS if compared else 1)
        with Watch(out, report) as watch:
            for pair, turn in order:
                side = report.sides[turn]
                plan = _plan(args, side.setting, seconds, pair, PAIRS if compared else 1)
                tally = Recorder(seconds=seconds, warm_up=plan.warm_up)
                side.turns.append(tally)
                # The same arrivals for both sides of a pair.
                rng = random.Random(f"arrivals {report.seed} {pair}")  # noqa: S311 - not cryptography
                try:
                    side.ended_by = await side.load.run(
                        plan, tally, rng=rng, watch=watch.show, interval=watch.interval
                    )
                finally:
                    await side.ask()
                side.whole.append(tally)
                if side.ended_by == "backlog":
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
async def _open(args: argparse.Namespace, side: Side, seed: int) -> AsyncGenerator[None]:
    """Open all that is loaded, and what loads it, for one side."""
    setting, clock = side.setting, SystemClock()
    load = side.load = Load(clock)
    async with contextlib.AsyncExitStack() as stack:
        client, callbacks = None, None
        if args.base_url is None:
            token = Secret(secrets.token_urlsafe(24))
            side.server = await stack.enter_async_context(
                server_apart(
                    ServerSettings(
                        accounts={account.channel: account.max_jobs for account in setting.accounts},
                        service=format_distribution(setting.service),
                        faults=args.fault,
                        seed=f"server {seed}",
                        token=token,
                    )
                )
            )
            side.url = side.server.url
            client = await stack.enter_async_context(PikaClient(token, base_url=side.url, clock=clock))
            if setting.poll is None:
                callbacks = Webhook(clock=clock)
                await stack.enter_async_context(callbacks.run())
        else:
            side.url = args.base_url
            client = await stack.enter_async_context(connect(args))
        balancer = await Balancer.from_client(
            client,
            policy=setting.policy,
            rng=random.Random(seed),  # noqa: S311 - balancing, not cryptography
            clock=clock,
            observer=load.observe,
        )
        await stack.enter_async_context(balancer)
        side.accounts = balancer.snapshot().accounts
        poll_every = setting.poll or _POLL_EVERY
        load.dispatcher = Dispatcher(
            client, balancer, callbacks=callbacks, poll_every=poll_every, clock=clock
        )
        try:
            await load.dispatcher.reconcile()
            yield
        finally:
            # What is on its way to a service that bills it is seen through.
            await load.dispatcher.drain(0.0 if side.server else _PATIENCE)


def _fault(text: str) -> str:
    reads(parse_fault)(text)
    return text
