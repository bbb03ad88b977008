"""`pika-balancer accounts`: the account map."""

import argparse
from typing import Any, Final

from pika_balancer.cli.options import Subparsers, add_command, add_service, connect
from pika_balancer.cli.output import Output
from pika_balancer.models import Account, Secret

_SHOWN: Final = 3
_LONG_ENOUGH: Final = 12


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "accounts",
        summary="list the configured accounts",
        description="List the configured accounts with their caps; Discord tokens are masked.",
        examples="  pika-balancer accounts\n"
        "  pika-balancer accounts --base-url http://127.0.0.1:8080/v1/pika --json",
    )
    add_service(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    out = Output(as_json=args.json)
    async with connect(args) as client:
        accounts = await client.accounts()
    if args.json:
        out.document({channel: as_wire(account) for channel, account in accounts.items()})
    elif accounts:
        rows = [(a.channel, a.max_jobs, _hint(a.discord) or "-") for a in accounts.values()]
        out.table(("channel", "max jobs", "discord"), rows)
    else:
        out.say("no accounts are configured")
    return 0


def as_wire(account: Account) -> dict[str, Any]:
    """Return the account by the names of the wire, its token masked."""
    hint = _hint(account.discord)
    return {
        "channel": account.channel,
        **({} if hint is None else {"discord": hint}),
        "maxJobs": account.max_jobs,
    }


def _hint(secret: Secret | None) -> str | None:
    if secret is None:
        return None
    if len(secret.reveal()) < _LONG_ENOUGH:
        return str(secret)
    return f"{secret.reveal()[:_SHOWN]}…{secret.reveal()[-_SHOWN:]}"
