"""The errors of a store, each a sentence with what to do next."""

from pika_balancer.errors import InvalidArgument, NoCapacity, StoreUnavailable, UnknownChannel
from pika_balancer.models import Unavailability


def no_capacity(why_unavailable: Unavailability | None, channel: str | None, now: float) -> NoCapacity:
    """Return the error for whoever got no slot in time, on the channel or at all."""
    if why_unavailable is None:
        # Only for a wish that gave up before it could join the line.
        return NoCapacity("no slot in time; allow a longer timeout", channel=channel)
    left = "" if why_unavailable.until is None else f" in {max(0.0, why_unavailable.until - now):.1f} s"
    return NoCapacity(
        f"no slot in time: {why_unavailable.message}{left}",
        reason=why_unavailable.reason,
        until=why_unavailable.until,
        channel=channel,
    )


def unknown_channel(channel: str | None) -> UnknownChannel:
    """Return the error for a channel that is not in the map."""
    return UnknownChannel(
        f"no account has channel {channel!r}; fetch the account map again or name a configured one",
        field="channel",
        channel=channel,
    )


def adopted_elsewhere(key: str, counted: str, channel: str) -> InvalidArgument:
    """Return the error for a job that is counted on another channel."""
    return InvalidArgument(
        f"{key!r} is already adopted on channel {counted!r}; release that lease first",
        field="key",
        channel=channel,
    )


def unavailable(address: str, why: str, away: float | None, channel: str | None) -> StoreUnavailable:
    """Return the error for whoever cannot be served without the server."""
    return StoreUnavailable(
        f"the store at {address} cannot be reached ({why or 'no answer'}); "
        "see to it that it runs and is reachable, or allow a longer timeout",
        address=address,
        why=why or None,
        away=away,
        channel=channel,
    )
