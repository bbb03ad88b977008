"""Constructors of the errors that stores raise."""

from pika_balancer.errors import NoCapacity, StoreUnavailable
from pika_balancer.models import Unavailability


def no_capacity(why_unavailable: Unavailability | None, channel: str | None, now: float) -> NoCapacity:
    """Return the error for a wait that ended without a slot."""
    if why_unavailable is None:
        # Only if the time limit passed before the request joined the wait queue.
        return NoCapacity("no slot in time; allow a longer timeout", channel=channel)
    left = "" if why_unavailable.until is None else f" in {max(0.0, why_unavailable.until - now):.1f} s"
    return NoCapacity(
        f"no slot in time: {why_unavailable.message}{left}",
        reason=why_unavailable.reason,
        until=why_unavailable.until,
        channel=channel,
    )


def unavailable(address: str, why: str, away: float | None, channel: str | None) -> StoreUnavailable:
    """Return the error for a request that needs the unreachable server."""
    return StoreUnavailable(
        f"the store at {address} cannot be reached ({why or 'no answer'}); "
        "start it, check the address, or allow a longer timeout",
        address=address,
        why=why or None,
        away=away,
        channel=channel,
    )
