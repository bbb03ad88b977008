"""`pika-balancer watch`: accounts and running jobs of a service or of a shared pool, shown until Ctrl-C."""

import argparse
import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from pika_balancer.cli.exit_codes import INTERRUPTED, OK, Interrupted, sentence
from pika_balancer.cli.jobs import running_jobs
from pika_balancer.cli.options import (
    Subparsers,
    add_command,
    add_service,
    add_store,
    connect,
    duration,
    open_store,
)
from pika_balancer.cli.output import Output
from pika_balancer.cli.views import View, WatchView, pool_view, service_view
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.errors import (
    InvalidResponse,
    LostTrack,
    NotFound,
    RateLimited,
    ServiceError,
    StoreUnavailable,
    TransportError,
)

_POLL: Final = 10.0
_TRANSIENT: Final = (
    TransportError,
    ServiceError,
    LostTrack,
    RateLimited,
    InvalidResponse,
    StoreUnavailable,
)


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "watch",
        summary="watch accounts and running jobs, live",
        description="Show accounts and running jobs of all clients, and poll again until Ctrl-C; errors of "
        "the network and the service are shown and polling goes on. With --store, show a pool that "
        "processes share: its leases with their processes and ages, its waiters, and the orphans of dead "
        "processes. With --json, print one document and leave.",
        examples="  pika-balancer watch\n"
        "  pika-balancer watch --poll 30s --base-url http://127.0.0.1:8080/v1/pika\n"
        "  pika-balancer watch --once --json\n"
        "  pika-balancer watch --store redis://127.0.0.1:6379/0 --pool default",
    )
    parser.add_argument(
        "--poll",
        type=duration,
        default=_POLL,
        metavar="SECONDS",
        help="pause between two polls (default: %(default)gs; the service asks for no less)",
    )
    parser.add_argument("--once", action="store_true", help="poll once and leave")
    add_service(parser)
    add_store(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    out = Output(as_json=args.json)
    source = _pool if args.store is not None else _service
    async with source(args) as take:
        try:
            # Outside the loop that tolerates errors: a wrong address or token ends the command at once.
            first = await take()
        except asyncio.CancelledError:
            raise Interrupted("interrupted") from None
        if args.json:
            out.document(first.document)
        elif args.once:
            first.show(out)
        else:
            try:
                await follow(take, WatchView(out, args.poll), first, poll=args.poll, clock=SystemClock())
            except asyncio.CancelledError:
                return INTERRUPTED
    return OK


async def follow(
    take: Callable[[], Awaitable[View]], shown: WatchView, view: View, *, poll: float, clock: Clock
) -> None:
    """Show a first view, then further ones until cancelled.

    Args:
        take: Returns the next view.
        shown: Shows the views.
        view: The first one.
        poll: Seconds from one view to the next call of `take`.
        clock: Measures them.

    Raises:
        PikaError: The service refuses, and asking again cannot help.
    """
    with shown:
        shown.show(view)
        while True:
            await clock.sleep(poll)
            try:
                view, trouble = await take(), None
            except _TRANSIENT as error:
                trouble = f"{_now():%H:%M:%S}  {sentence(error)}"
            shown.show(view, trouble)


@contextlib.asynccontextmanager
async def _service(args: argparse.Namespace) -> AsyncGenerator[Callable[[], Awaitable[View]]]:
    async with connect(args) as client:
        yield lambda: take_service(client)


async def take_service(client: PikaClient) -> View:
    """Ask the service for its accounts and for every running job once."""
    try:
        accounts = await client.accounts()
    except NotFound:  # the service has no accounts yet, but may run jobs
        accounts = {}
    return service_view(accounts.values(), await running_jobs(client), _now())


@contextlib.asynccontextmanager
async def _pool(args: argparse.Namespace) -> AsyncGenerator[Callable[[], Awaitable[View]]]:
    store = open_store(args)

    async def take() -> View:
        return pool_view(await store.pool_status(), _now())

    try:
        yield take
    finally:
        await store.close()


def _now() -> dt.datetime:
    return dt.datetime.fromtimestamp(time.time(), dt.UTC).astimezone()
