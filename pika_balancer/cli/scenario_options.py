"""The options that describe a scenario, shared by `simulate` and `plan`, and what they lead to."""

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import attrs

from pika_balancer.cli.exit_codes import MissingExtra, Usage
from pika_balancer.cli.options import above_zero, reads, whole
from pika_balancer.distributions import DISTRIBUTION_FORMS, Distribution
from pika_balancer.errors import InvalidArgument, InvalidResponse
from pika_balancer.selection.policy import POLICIES
from pika_balancer.simulate import notation
from pika_balancer.simulate.arrivals import Arrivals
from pika_balancer.simulate.report import FORMS, drawable, form_of
from pika_balancer.simulate.scenario import Failures, Scenario, SimulatedAccount, accounts_of
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
    """What the options say of the jobs."""

    arrivals: Arrivals
    """When they come."""
    service: Distribution
    """How long they run."""
    notes: tuple[str, ...] = ()
    """What a trace left to be assumed, as sentences."""


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which jobs come, and what they do when every account is full."""
    group = parser.add_argument_group("jobs")
    add = group.add_argument
    add(
        "--arrivals",
        type=reads(notation.parse_arrivals),
        metavar="LAW",
        help=f"when jobs come: {_ARRIVALS}",
    )
    add("--trace", type=Path, metavar="FILE", help="or as recorded in this CSV or Parquet file")
    add("--time-scale", type=above_zero, default=1.0, metavar="K", help="multiply the trace's arrival times")
    add("--arrival-column", metavar="NAME", help="its column of arrivals (default: found by its name)")
    add("--duration-column", metavar="NAME", help="its column of durations (default: the same)")
    add(
        "--service",
        type=reads(notation.parse_distribution),
        metavar="LAW",
        help=f"how long they run: {DISTRIBUTION_FORMS} (default: what the trace says)",
    )
    add(
        "--when-full",
        type=reads(notation.parse_when_full),
        default="loss",
        metavar="RULE",
        help=f"what a job does that finds every account full: {_RULES} (default: %(default)s)",
    )
    add("--policy", choices=POLICIES, default="random", help="how accounts are chosen (default: %(default)s)")


def add_trouble(parser: argparse.ArgumentParser, *, by_account: bool) -> None:
    """Add the options that say what may go wrong.

    Args:
        parser: Gets them.
        by_account: Whether single accounts can be named.
    """
    group = parser.add_argument_group("trouble")
    add = group.add_argument
    if by_account:
        for name, read, metavar, text in (
            ("--account-speed", _speed, "CHANNEL:FACTOR", "an account works so much faster: 2:0.33"),
            (
                "--outage",
                _outage,
                "CHANNEL:FROM..TO",
                "it gets no jobs then: 2:1h..90min, or 2:1h.. for good",
            ),
            ("--failures", _failures, "CHANNEL:UP,DOWN", f"or at random: {_FAILURES}"),
        ):
            add(name, type=read, action="append", default=[], metavar=metavar, help=text)
    add(
        "--slowdown",
        type=reads(notation.parse_slowdown),
        metavar="RULE",
        help="accounts slow down: above=3,each=20%% longer for each job above 3 at once",
    )
    add(
        "--poll",
        type=reads(notation.parse_duration),
        default=0.0,
        metavar="PERIOD",
        help="period of the poll that notices ends and frees slots (default: 0; the service: 15s to 60s)",
    )
    add(
        "--faults",
        type=reads(notation.parse_faults),
        default="rate_limited=0%",
        metavar="SHARES",
        help="submits that fail with a slot free: rate_limited=1%%,accepted=0.5%% (taken, but answered 5xx)",
    )


def add_run(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """Add the options that say how to compute it, and return their group."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "--seed", type=whole(0, 10**12), default=0, metavar="N", help="fixes all chance (default: 0)"
    )
    group.add_argument(
        "--report",
        type=_report,
        metavar="FILE",
        help=f"write a report with pictures to this file: {', '.join(FORMS)}",
    )
    return group


def work_of(args: argparse.Namespace) -> Work:
    """Return which jobs come by the options.

    Raises:
        Usage: Options are missing, or do not go together; or there is no such trace.
        InvalidArgument: The trace cannot be understood.
        MissingExtra: It is Parquet, and there is nothing to read it with.
    """
    if (args.arrivals is None) == (args.trace is None):
        raise Usage("state when jobs come: either --arrivals, such as poisson:500/h, or --trace FILE")
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
    """Return the scenario by the options, with these jobs and accounts.

    Raises:
        InvalidArgument: The options make none.
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
    """Return the accounts by the options.

    Raises:
        Usage: An option names an account that is not there.
    """
    made = {account.channel: account for account in args.accounts}
    outages: dict[str, list[tuple[float, float]]] = {}
    for channel, speed in args.account_speed:
        for name in _named(made, channel, "account-speed"):
            made[name] = attrs.evolve(made[name], speed=speed)
    for channel, outage in args.outage:
        for name in _named(made, channel, "outage"):
            outages.setdefault(name, []).append(outage)
            made[name] = attrs.evolve(made[name], outages=outages[name])
    for channel, failures in args.failures:
        for name in _named(made, channel, "failures"):
            made[name] = attrs.evolve(made[name], failures=failures)
    return tuple(made.values())


def read_accounts_option(text: str) -> tuple[SimulatedAccount, ...]:
    """Read accounts: their caps, or the name of a file with an account map, `-` for stdin."""
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
    """Turn the lack of an extra into an error with advice."""
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


def _by_account(text: str, example: str) -> tuple[str, str]:
    channel, colon, rest = text.partition(":")
    if not (channel and colon and rest):
        raise argparse.ArgumentTypeError(f"{text!r:.60} names no account; write it as {example}")
    return channel, rest


def _speed(text: str) -> tuple[str, float]:
    channel, rest = _by_account(text, "2:0.33 or all:1.2")
    return channel, above_zero(rest)


def _outage(text: str) -> tuple[str, tuple[float, float]]:
    channel, rest = _by_account(text, "2:1h..90min, or 2:1h.. for good")
    begin, dots, end = rest.partition("..")
    if not dots:
        raise argparse.ArgumentTypeError(
            f"{rest!r:.60} is no span of time; write it as 1h..90min, or 1h.. for good"
        )
    duration = reads(notation.parse_duration)
    span = duration(begin), duration(end) if end else math.inf
    if span[0] >= span[1]:
        raise argparse.ArgumentTypeError(f"{rest!r:.60} ends before it begins")
    return channel, span


def _failures(text: str) -> tuple[str, Failures]:
    channel, rest = _by_account(text, _FAILURES)
    return channel, reads(notation.parse_failures)(rest)


def _report(text: str) -> Path:
    path = writable(text)
    _checked(lambda: form_of(path))
    if not drawable():
        raise argparse.ArgumentTypeError("reports need matplotlib: pip install 'pika-balancer[plot]'")
    return path


def writable(text: str) -> Path:
    """Read the name of a file to be written, in a directory that is there."""
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


def _checked(make: Callable[[], T]) -> T:
    try:
        return make()
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(error.message) from None
