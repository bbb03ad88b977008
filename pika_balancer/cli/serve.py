"""`pika-balancer serve`: a local server of the documented API."""

import argparse
import asyncio
import contextlib
import errno
import random
from pathlib import Path
from typing import Final

import attrs

from pika_balancer._util.units import parse_duration
from pika_balancer.cli.exit_codes import FAILURE, Usage, error_document
from pika_balancer.cli.options import Subparsers, above_zero, add_command, read_token, reads, whole
from pika_balancer.cli.output import Output
from pika_balancer.distributions import DISTRIBUTION_FORMS, parse_distribution
from pika_balancer.errors import InvalidArgument, PikaError
from pika_balancer.models import Secret
from pika_balancer.server import (
    FAULTS,
    LocalServer,
    ServerStatistics,
    parse_accounts,
    parse_fault,
)
from pika_balancer.server.app import is_loopback

_EXAMPLES: Final = """\
  pika-balancer serve --accounts 6,6,4 --service lognormal:mean=180s,cv=0.7 --speed 60 --fault 504:0.02

faults of job submits; at most one meets a submit, so their probabilities add up to at most 1:
"""
_HIGHEST_PORT: Final = 65535


def register(subparsers: Subparsers) -> None:
    """Add the parser of `serve`."""
    faults = "\n".join(f"  {name:<18}{kind.meaning}" for name, kind in FAULTS.items())
    parser = add_command(
        subparsers,
        "serve",
        summary="serve the documented API on this machine",
        description="Serve the documented API on this machine until Ctrl-C, then print statistics.",
        examples=_EXAMPLES + faults,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to bind (default: %(default)s, this machine only)")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="extra Host name with a dot to accept, for other machines; may be repeated",
    )
    add(
        "--allow-remote-callbacks",
        action="store_true",
        help="allow a replyUrl on another machine (default: this one only)",
    )
    add(
        "--port",
        type=whole(0, _HIGHEST_PORT),
        default=8080,
        help="port to bind, 0 for a free one (default: %(default)s)",
    )
    add(
        "--accounts",
        type=reads(parse_accounts),
        default="2,1",
        metavar="CAPS",
        help="made-up accounts by their caps: 2,1 or 5x6 for five with cap 6 (default: %(default)s)",
    )
    add(
        "--accounts-file",
        type=Path,
        metavar="FILE",
        help="store accounts in this JSON file; if it exists, --accounts is ignored",
    )
    add(
        "--service",
        type=reads(parse_distribution),
        default="exp:30s",
        metavar="DISTRIBUTION",
        help=f"service times of jobs: {DISTRIBUTION_FORMS} (default: %(default)s)",
    )
    add("--speed", type=above_zero, default=1.0, help="divide all times by this (default: 1)")
    add(
        "--poll",
        type=reads(parse_duration),
        default=0.0,
        metavar="DURATION",
        help="how often the service checks for ended jobs (default: 0, at once; the real one: 15s to 60s)",
    )
    add(
        "--fault",
        type=reads(parse_fault),
        action="append",
        default=[],
        metavar="NAME:PROB[:PARAM]",
        help="let a share of submits fail, 10%% or 0.1, see below; may be repeated",
    )
    add("--seed", type=int, help="seed of all chance (default: random)")
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token",
        type=_token,
        help="API token to require; never a real one, as others can read it here "
        "(default: any bearer token is accepted)",
    )
    token.add_argument(
        "--token-file", dest="token", type=read_token, metavar="FILE", help="read that token from a file"
    )
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    """Serve until cancelled, then print the statistics; return 1 if the address cannot be bound.

    Raises:
        CancelledError: The end of every run that could start.
        Usage: Options contradict each other, or the accounts file is invalid.
        OSError: The accounts file cannot be made.
    """
    out = Output(as_json=args.json)
    token: Secret | None = args.token
    try:
        server = LocalServer(
            args.accounts,
            token=token.reveal() if token is not None else None,
            service=args.service,
            speed=args.speed,
            notice=args.poll,
            faults=args.fault,
            rng=random.Random(args.seed),  # noqa: S311 - service times and balancing, not cryptography
            accounts_file=args.accounts_file,
            allowed_hosts=args.allow_host,
            allow_remote_callbacks=args.allow_remote_callbacks,
        )
    except InvalidArgument as error:
        raise Usage(str(error), field=error.field) from None
    try:
        async with contextlib.AsyncExitStack() as stack:
            try:
                base_url = await stack.enter_async_context(server.run(args.host, args.port))
            except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
                problem = PikaError(_cannot_bind(args.host, args.port, error))
                out.document(error_document(problem))
                out.note(f"pika-balancer: {problem.message}")
                return FAILURE
            _greet(out, base_url, args.host, server.statistics(), token_known=token is not None)
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        _show(out, server.statistics())
        raise
    return 0


def _greet(out: Output, base_url: str, host: str, statistics: ServerStatistics, *, token_known: bool) -> None:
    caps = [channel.max_jobs or 0 for channel in statistics.channels.values()]
    out.say(f"Pika API on {base_url} ({len(caps)} accounts, {sum(caps)} slots); Ctrl-C stops it")
    token = "$USEAPI_TOKEN" if token_known else "any"
    out.say(f'curl -H "Authorization: Bearer {token}" -F prompt="a cat" {base_url}/create')
    if host != "localhost" and not is_loopback(host):
        opens = "" if token_known else " and any token is accepted: consider --token-file"
        out.note(f"other machines can reach this server{opens}")


def _show(out: Output, statistics: ServerStatistics) -> None:
    totals = {"jobs": statistics.jobs, "in_flight": statistics.in_flight}
    out.document(totals | attrs.asdict(statistics))
    if out.as_json:
        return
    rows = [
        (seen.channel, seen.jobs, seen.in_flight, seen.peak_in_flight, seen.max_jobs or "-", seen.refused)
        for seen in statistics.channels.values()
    ]
    out.table(("channel", "jobs", "in flight", "peak", "cap", "refused"), rows)
    out.say(
        f"{statistics.submits} submits, {statistics.completed} jobs completed, "
        f"{statistics.attempts_when_full} attempts when full, "
        f"{statistics.duplicate_reply_refs} duplicate replyRefs"
    )
    if statistics.faults:
        out.say("faults: " + ", ".join(f"{name} {count}" for name, count in statistics.faults.items()))


def _cannot_bind(host: str, port: int, error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return f"cannot serve on {host!r:.60}: it is no host name"
    why = "it is in use" if error.errno == errno.EADDRINUSE else (error.strerror or type(error).__name__)
    return f"cannot serve on port {port} of {host}: {why}; --port 0 takes a free port"


def _token(text: str) -> Secret:
    # No message quotes the value: it may be a real token.
    if not (text.isascii() and text.isprintable() and text) or " " in text:
        raise argparse.ArgumentTypeError("a token is one word of printable ASCII characters")
    return Secret(text)
