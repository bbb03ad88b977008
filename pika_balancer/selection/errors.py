"""Errors that the selector and every store raise in the same words."""

from pika_balancer.errors import InvalidArgument, UnknownChannel


def unknown_channel(channel: str | None) -> UnknownChannel:
    return UnknownChannel(
        f"no account has channel {channel!r}; fetch the account map again or name a configured one",
        field="channel",
        channel=channel,
    )


def adopted_elsewhere(key: str, counted: str, channel: str) -> InvalidArgument:
    """Return the error for adopting a job on `channel` that is counted on the channel `counted`."""
    return InvalidArgument(
        f"{key!r} is already adopted on channel {counted!r}; release that lease first",
        field="key",
        channel=channel,
    )
