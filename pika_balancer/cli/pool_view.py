"""What commands show of a shared pool: accounts, who holds what since when, the line, and what died."""

import argparse
import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any, Final

import attrs

from pika_balancer.cli.exit_codes import INTERRUPTED, OK, Interrupted, sentence
from pika_balancer.cli.options import open_store
from pika_balancer.cli.output import Output
from pika_balancer.cli.views import duration, time_of_day
from pika_balancer.clock import Clock
from pika_balancer.errors import StoreUnavailable
from pika_balancer.store.redis.pool_status import PoolHolder, PoolStatus
from pika_balancer.store.redis.store import RedisStore

_NOBODY: Final = "-"


async def watch(args: argparse.Namespace, out: Output, *, clock: Clock, wall: Callable[[], float]) -> int:
    """Show how a pool stands, once or until cancelled.

    Args:
        args: Which pool, and how often.
        out: Prints it.
        clock: Measures the pauses.
        wall: Seconds since 1970, for the time of day.

    Raises:
        StoreUnavailable: It cannot be reached at the first look; later ones only tell so.
        Interrupted: Cancelled before there was anything to show.
    """
    store = open_store(args)
    try:
        try:
            look = FleetLook(_moment(wall), await store.pool_status())
        except asyncio.CancelledError:
            raise Interrupted("interrupted") from None
        if args.json:
            out.document(look.document())
            return OK
        look.show(out)
        try:
            while not args.once:
                await clock.sleep(args.poll)
                out.say()
                await _look_again(store, out, wall)
        except asyncio.CancelledError:
            return INTERRUPTED
    finally:
        await store.close()
    return OK


async def _look_again(store: RedisStore, out: Output, wall: Callable[[], float]) -> None:
    try:
        look = FleetLook(_moment(wall), await store.pool_status())
    except StoreUnavailable as error:
        out.say(f"{time_of_day(_moment(wall))}  {sentence(error)}")
    else:
        look.show(out)


def _moment(wall: Callable[[], float]) -> dt.datetime:
    return dt.datetime.fromtimestamp(wall(), dt.UTC).astimezone()


@attrs.frozen
class FleetLook:
    """What a look at a pool showed."""

    at: dt.datetime
    """When, with its time zone."""
    pool_status: PoolStatus
    """What the server told."""

    @property
    def summary(self) -> str:
        """When and how much, in one line."""
        fleet, books = self.pool_status, self.pool_status.snapshot
        orphans = f", {count(len(fleet.orphans), 'orphan')}" if fleet.orphans else ""
        alive = sum(process.alive for process in fleet.processes)
        learning = f", counting only for {fleet.learning:.0f} s more" if fleet.learning else ""
        return (
            f"{time_of_day(self.at)}  {books.in_flight} of {books.capacity} slots taken{orphans}, "
            f"{len(fleet.waiters)} in line, {count(alive, 'process', 'processes')}{learning}"
        )

    def show(self, out: Output) -> None:
        """Print the look, whole."""
        fleet = self.pool_status
        out.say(self.summary)
        if fleet.snapshot.accounts:
            rows = [
                (a.channel, a.max_jobs, a.in_flight, a.free, _state(a.paused, a.cooldown_until, a.removed))
                for a in fleet.snapshot.accounts
            ]
            out.table(("channel", "cap", "in flight", "free", "state"), rows)
        else:
            out.say("the pool has no accounts yet; the first process that uses it brings them")
        if fleet.holders:
            out.say()
            show_holders(fleet.holders, out)
        if fleet.waiters:
            out.say()
            out.table(
                ("waits for", "in", "for"),
                [(w.channel or "any channel", w.name, duration(w.age)) for w in fleet.waiters],
            )
        for fault in fleet.faults:
            out.say(f"fault: {fault}; `pika-balancer store doctor` can mend it")

    def document(self) -> dict[str, Any]:
        """Return the look as `--json` shows it: facts that are not known are left out."""
        fleet = self.pool_status
        return {
            "at": self.at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "accounts": [
                {
                    "channel": account.channel,
                    "max_jobs": account.max_jobs,
                    "in_flight": account.in_flight,
                    "free": account.free,
                    "state": _state(account.paused, account.cooldown_until, account.removed),
                }
                for account in fleet.snapshot.accounts
            ],
            "holders": [as_facts(holder) for holder in fleet.holders],
            "waiters": [as_facts(waiter) for waiter in fleet.waiters],
            "processes": [as_facts(process) for process in fleet.processes],
            "learning_s": round(fleet.learning, 3),
            "faults": list(fleet.faults),
        }


def show_holders(holders: tuple[PoolHolder, ...], out: Output) -> None:
    """Print who holds what since when."""
    rows = [
        (holder.jobid or holder.lease_id, holder.channel, holder.name, duration(holder.age), life(holder))
        for holder in holders
    ]
    out.table(("job or lease", "channel", "held by", "for", "state"), rows)


def life(holder: PoolHolder) -> str:
    """Return whether somebody answers for the slot, or how long it will still be counted."""
    if holder.expires is None:
        return "alive"
    return f"orphan {duration(max(0.0, holder.expires))}"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return so many of something in words."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def as_facts(thing: Any) -> dict[str, Any]:
    """Return a part of the fleet as `--json` shows it."""
    facts = {name: value for name, value in attrs.asdict(thing).items() if value is not None}
    return {
        f"{name}_s" if name in {"age", "expires"} else name: round(value, 3)
        if type(value) is float
        else value
        for name, value in facts.items()
    }


def _state(paused: bool, cooldown_until: float | None, removed: bool) -> str:  # noqa: FBT001 - three columns
    if removed:
        return "removed"
    if paused:
        return "paused"
    return "open" if cooldown_until is None else "cooling down"
