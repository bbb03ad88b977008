"""`pika-balancer watch`: accounts and jobs of a service, looked at again and again."""

import argparse
import asyncio
import datetime as dt
import time
from collections.abc import Callable
from typing import Final, Self

from pika_balancer._util.text import printable
from pika_balancer.cli import pool_view
from pika_balancer.cli.exit_codes import INTERRUPTED, OK, sentence
from pika_balancer.cli.fetch_jobs import ask
from pika_balancer.cli.options import Subparsers, add_command, add_service, add_store, connect, duration
from pika_balancer.cli.output import Output
from pika_balancer.cli.views import (
    JOBS_HEADER,
    NO_ACCOUNTS,
    SLOTS_HEADER,
    Look,
    LookView,
    job_cells,
    slots_cells,
    time_of_day,
)
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.errors import (
    InvalidResponse,
    LostTrack,
    NotFound,
    RateLimited,
    ServiceError,
    TransportError,
)

_EVERY: Final = 10.0
_LONGEST_PROMPT: Final = 60
_PASSING: Final = (TransportError, ServiceError, LostTrack, RateLimited, InvalidResponse)


def register(subparsers: Subparsers) -> None:
    """Add the parser of `watch`."""
    parser = add_command(
        subparsers,
        "watch",
        summary="watch accounts and running jobs, live",
        description="Show accounts and running jobs, by whomever they were submitted, and look again every "
        "few seconds until Ctrl-C. Trouble of the network or the service is shown, and the next look comes "
        "all the same. With --store: the same for a pool that processes share, with who holds what since "
        "when, who waits in line, and what dead processes have left. With --json there is one look.",
        examples="  pika-balancer watch\n"
        "  pika-balancer watch --poll 30s --base-url http://127.0.0.1:8080/v1/pika\n"
        "  pika-balancer watch --once --json\n"
        "  pika-balancer watch --store redis://127.0.0.1:6379/0 --pool default",
    )
    parser.add_argument(
        "--poll",
        type=duration,
        default=_EVERY,
        metavar="SECONDS",
        help="pause between two looks; the service asks for 10 or more (default: %(default)g)",
    )
    parser.add_argument("--once", action="store_true", help="look once and leave")
    add_service(parser)
    add_store(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    """Show how the service stands, once or until cancelled."""
    out = Output(as_json=args.json)
    if args.store is not None:
        return await pool_view.watch(args, out, clock=SystemClock(), wall=time.time)
    async with connect(args) as client:
        # Outside the loop that shrugs off trouble: a wrong address or token is told at once.
        first = await take(client, time.time)
        if args.json:
            out.document(first.document())
        elif args.once:
            show(first, out)
        else:
            view = PlainLooks(out) if out.terminal is None else out.terminal.looks(args.poll)
            try:
                await follow(client, view, first, every=args.poll, clock=SystemClock(), wall=time.time)
            except asyncio.CancelledError:
                return INTERRUPTED
    return OK


async def follow(
    client: PikaClient,
    view: LookView,
    look: Look,
    *,
    every: float,
    clock: Clock,
    wall: Callable[[], float],
) -> None:
    """Show a first look, then further ones until cancelled.

    Args:
        client: Asks the service.
        view: Shows the looks.
        look: The first one.
        every: Seconds from the end of one look to the beginning of the next.
        clock: Measures them.
        wall: Seconds since 1970, from which ages are told.

    Raises:
        PikaError: The service refuses, and will not do otherwise by itself.
    """
    with view:
        view.show(look)
        while True:
            await clock.sleep(every)
            try:
                look, trouble = await take(client, wall), None
            except _PASSING as error:
                trouble = f"{time_of_day(moment(wall))}  {sentence(error)}"
            view.show(look, trouble)


async def take(client: PikaClient, wall: Callable[[], float]) -> Look:
    """Look at the accounts and ask for every running job once.

    Args:
        client: Asks the service.
        wall: Seconds since 1970, from which ages are told.

    Raises:
        PikaError: The service cannot be reached or understood.
    """
    try:
        accounts = await client.accounts()
    except NotFound:  # the service has no accounts yet, but may run jobs
        accounts = {}
    jobs = await ask(client, dict.fromkeys(await client.jobs()))
    return Look.of(accounts.values(), jobs, moment(wall))


def moment(wall: Callable[[], float]) -> dt.datetime:
    """Return the moment that `wall` tells, in the zone of this machine."""
    return dt.datetime.fromtimestamp(wall(), dt.UTC).astimezone()


class PlainLooks:
    """A block of lines per look, and a line per trouble."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, look: Look, trouble: str | None = None) -> None:
        """Print the block, or the line."""
        if trouble is None:
            show(look, self._out)
        else:
            self._out.say(trouble)
        self._out.say()


def show(look: Look, out: Output) -> None:
    """Print one look, whole."""
    out.say(look.summary)
    if look.accounts:
        out.table(SLOTS_HEADER, [slots_cells(slots) for slots in look.accounts])
    else:
        out.say(NO_ACCOUNTS)
    if look.jobs:
        out.say()
        rows = [job_cells(job) for job in look.jobs]
        out.table(JOBS_HEADER, [(*cells, printable(prompt, _LONGEST_PROMPT)) for *cells, prompt in rows])
