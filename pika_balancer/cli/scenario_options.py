"""The options of `simulate` and `plan` that describe a scenario, and the scenario that they describe."""

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import attrs

from pika_balancer._util.units import parse_duration
from pika_balancer.cli.exit_codes import MissingExtra, Usage
from pika_balancer.cli.options import above_zero, reads, seed
from pika_balancer.distributions import DISTRIBUTION_FORMS, Distribution, parse_distribution
from pika_balancer.errors import InvalidArgument, InvalidResponse
from pika_balancer.selection.policy import POLICIES
from pika_balancer.simulate import notation
from pika_balancer.simulate.arrivals import Arrivals
from pika_balancer.simulate.report import check_name, drawable
from pika_balancer.simulate.scenario import Scenario, SimulatedAccount, accounts_of
from pika_balancer.simulate.trace import read_trace

T = TypeVar("T")

_ARRIVALS: Final = (
    "poisson:500/h, regular:500/h, bursty:500/h,cv=3, onoff:busy_rate=900/h,busy=10min,quiet=30min, or "
    "daily: and the jobs of each hour from midnight on"
)
_RULES: Final = "loss, queue, queue:limit=50,patience=5min, or retry:15s,80,jitter=20%%"
_ALL: Final = "all"
_SHOWN: Final = 8
_HIGHEST_CAP: Final = 1_000_000
_FAILURES: Final = "all:mean_up=8h,mean_down=30min"


@attrs.frozen
class Work:
    """The jobs of the options."""

    arrivals: Arrivals
    """When they arrive."""
    service: Distribution
    """How long they run."""
    notes: tuple[str, ...] = ()
    """What was assumed about a trace, as sentences."""


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the options for the jobs: when they arrive, how long they run, what they do when all is full."""
    group = parser.add_argument_group("jobs")
    add = group.add_argument
    when = group.add_mutually_exclusive_group(required=True)
    when.add_argument(
        "--arrivals",
        type=reads(notation.parse_arrivals),
        metavar="ARRIVALS",
        help=f"when jobs arrive: {_ARRIVALS}",
    )
    when.add_argument("--trace", type=Path, metavar="FILE", help="read them from this CSV or Parquet file")
    add("--time-scale", type=above_zero, default=1.0, metavar="K", help="multiply the trace's arrival times")
    add("--arrival-column", metavar="NAME", help="the trace's column of arrivals (default: by name)")
    add("--duration-column", metavar="NAME", help="its column of durations (default: by name)")
    add(
        "--service",
        type=reads(parse_distribution),
        metavar="DISTRIBUTION",
        help=f"how long jobs run: {DISTRIBUTION_FORMS} (default: the durations of the trace)",
    )
    add(
        "--when-full",
        type=reads(notation.parse_when_full),
        default="loss",
        metavar="RULE",
        help=f"what a job does if every account is full: {_RULES} (default: %(default)s)",
    )
    add("--policy", choices=POLICIES, default="random", help="how to choose accounts (default: %(default)s)")


def add_trouble(parser: argparse.ArgumentParser, *, by_account: bool) -> None:
    """Add the options for outages, slow accounts and faults; `by_account`: those of single accounts, too."""
    add = parser.add_argument_group("trouble").add_argument
    if by_account:
        for option, read, form, example, text in (
            ("--account-speed", above_zero, "FACTOR", "2:0.33 or all:1.2", "work so many times as fast"),
            ("--outage", _span, "FROM..TO", "2:1h..90min, or 2:1h.. for good", "get no jobs in this time"),
            ("--failures", reads(notation.parse_failures), "UP,DOWN", _FAILURES, "have random outages"),
        ):
            add(
                option,
                type=_of_account(read, example),
                action="append",
                default=[],
                metavar=f"CHANNEL:{form}",
                help=f"let an account {text}: {example}",
            )
    add(
        "--slowdown",
        type=reads(notation.parse_slowdown),
        metavar="RULE",
        help="accounts slow down: above=3,each=20%% longer for each job above 3 at once",
    )
    add(
        "--poll",
        type=reads(parse_duration),
        default=0.0,
        metavar="PERIOD",
        help="period of the poll that detects ends and frees slots (default: 0s; the service: 15s to 60s)",
    )
    add(
        "--faults",
        type=reads(notation.parse_faults),
        default="rate_limited=0%",
        metavar="SHARES",
        help="submits that fail despite a free slot: rate_limited=1%%,accepted=0.5%% (the job runs, but the "
        "answer is 5xx)",
    )


def add_run(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """Add `--seed` and `--report`, and return their group."""
    group = parser.add_argument_group("run")
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of all chance (default: 0)")
    group.add_argument(
        "--report",
        type=_report,
        metavar="FILE",
        help="write a report with pictures to this HTML file",
    )
    return group


def work_of(args: argparse.Namespace) -> Work:
    """Return the jobs of the options.

    Raises:
        Usage: Options are missing or contradict each other, or the trace cannot be read.
        MissingExtra: The trace is Parquet, and no reader of Parquet is installed.
    """
    if args.trace is None:
        for option in ("time_scale", "arrival_column", "duration_column"):
            if getattr(args, option) not in {None, 1.0}:
                raise Usage(f"--{option.replace('_', '-')} goes with --trace")
        if args.service is None:
            raise Usage("state how long jobs run: --service, such as exp:180s")
        return Work(args.arrivals, args.service)
    try:
        with extras():
            recording = read_trace(
                args.trace,
                arrival=args.arrival_column,
                duration=args.duration_column,
                time_scale=args.time_scale,
            )
    except OSError as error:
        raise Usage(
            f"--trace: {(args.trace.name or '.')!r:.60} cannot be read: {error.strerror or error}",
            field="trace",
        ) from None
    except InvalidArgument as error:
        raise Usage(f"--trace: {error.message}", field=error.field) from None
    service = args.service or recording.durations
    if service is None:
        raise Usage(
            f"{args.trace.name} does not say how long jobs run: name its column with --duration-column, "
            "or state --service",
            field="service",
        )
    return Work(recording.arrivals, service, recording.notes)


def scenario_of(
    args: argparse.Namespace,
    work: Work,
    accounts: Sequence[SimulatedAccount],
    *,
    warm_up: float | None = None,
) -> Scenario:
    """Return the scenario of the options, with these jobs and accounts.

    Raises:
        InvalidArgument: A value is wrong for the scenario.
    """
    return Scenario(
        accounts=accounts,
        arrivals=work.arrivals,
        service=work.service,
        when_full=args.when_full,
        policy=args.policy,
        slowdown=args.slowdown,
        poll_period=args.poll,
        faults=args.faults,
        warm_up=warm_up,
    )


def accounts_by(args: argparse.Namespace) -> tuple[SimulatedAccount, ...]:
    """Return the accounts of the options.

    Raises:
        Usage: An option names an account that does not exist.
    """
    made = {account.channel: account for account in args.accounts}
    for channel, speed in args.account_speed:
        for name in _named(made, channel, "account-speed"):
            made[name] = attrs.evolve(made[name], speed=speed)
    for channel, outage in args.outage:
        for name in _named(made, channel, "outage"):
            made[name] = attrs.evolve(made[name], outages=[*made[name].outages, outage])
    for channel, failures in args.failures:
        for name in _named(made, channel, "failures"):
            made[name] = attrs.evolve(made[name], failures=failures)
    return tuple(made.values())


def read_accounts_option(text: str) -> tuple[SimulatedAccount, ...]:
    """Read accounts from a text of caps, or from the named file with an account map, `-` for stdin."""
    if text != "-" and not text.endswith(".json"):
        return reads(notation.parse_accounts)(text)
    from pika_balancer.client.responses import read_accounts  # noqa: PLC0415 - slow to import, for few command lines

    name = "stdin" if text == "-" else Path(text).name
    try:
        body = sys.stdin.buffer.read() if text == "-" else Path(text).read_bytes()
        return accounts_of(read_accounts(body.removeprefix(b"\xef\xbb\xbf"), cap_range=(1, _HIGHEST_CAP)))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be read: {error.strerror}") from None
    except InvalidResponse as error:
        faults = "; ".join(str(fault) for fault in error.faults[:3])
        raise argparse.ArgumentTypeError(
            f"{name} is no account map as `pika-balancer accounts --json` prints it: {faults}"
        ) from None
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(f"{name}: {error.message}") from None


@contextlib.contextmanager
def extras() -> Generator[None]:
    """Raise `MissingExtra` instead of an `ImportError`."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra(str(error)) from None


def _named(made: Iterable[str], channel: str, option: str) -> Sequence[str]:
    known = list(made)
    if channel == _ALL:
        return known
    if channel not in known:
        some = ", ".join([*known[:_SHOWN], *(["…"] if len(known) > _SHOWN else [])])
        raise Usage(
            f"argument --{option}: there is no account {channel!r:.40}; there are {some}", field=option
        )
    return [channel]


def _of_account(read: Callable[[str], T], example: str) -> Callable[[str], tuple[str, T]]:
    """Return a reader of a channel, a colon, and what `read` reads."""

    def both(text: str) -> tuple[str, T]:
        channel, colon, rest = text.partition(":")
        if not (channel and colon and rest):
            raise argparse.ArgumentTypeError(f"{text!r:.60} names no account; write it as {example}")
        return channel, read(rest)

    return both


def _span(text: str) -> tuple[float, float]:
    begin, dots, end = text.partition("..")
    if not dots:
        raise argparse.ArgumentTypeError(
            f"{text!r:.60} is no span of time; write it as 1h..90min, or 1h.. for good"
        )
    read = reads(parse_duration)
    span = read(begin), read(end) if end else math.inf
    if span[0] >= span[1]:
        raise argparse.ArgumentTypeError(f"{text!r:.60} ends before it begins")
    return span


def _report(text: str) -> Path:
    path = writable(text)
    reads(check_name)(text)
    if not drawable():
        raise argparse.ArgumentTypeError("reports need matplotlib: pip install 'pika-balancer[plot]'")
    return path


def writable(text: str) -> Path:
    """Read the name of a file to write, in a directory that exists."""
    path = Path(text)
    try:
        is_directory, has_directory = path.is_dir(), path.parent.is_dir()
    except OSError as error:  # the name is too long
        raise argparse.ArgumentTypeError(f"{text!r:.60} cannot be written: {error.strerror}") from None
    if not has_directory:
        raise argparse.ArgumentTypeError(f"there is no directory {str(path.parent)!r:.60}")
    if is_directory:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is a directory")
    return path
