"""What an error of a submit means for the job, its slot and its account: one table, from error to verdict."""

from enum import Enum
from typing import Final

from pika_balancer.errors import (
    AccountBlocked,
    ApiError,
    ChannelFull,
    Closed,
    InvalidResponse,
    LostTrack,
    NotFound,
    PikaError,
    RateLimited,
    ServiceError,
    SubscriptionRequired,
    TransportError,
    Unauthorized,
    WrongLoop,
)


class Verdict(Enum):
    """What to do about a submit that failed."""

    OWN_FAULT = "own fault"
    """The job's own fault: the slot is free, the account unharmed, the caller is told."""
    FULL = "full"
    """Others' jobs fill the channel, which is no fault of the account: another one is tried."""
    LIMITED = "limited"
    """The account has to rest; another one is tried."""
    BLOCKED = "blocked"
    """The account waits for a person and is paused; another one is tried."""
    GONE = "gone"
    """The service does not know the account any more, or else what the job names: another account is tried,
    if there is one that will do; otherwise it is the job's own fault."""
    REFUSED = "refused"
    """The token, the subscription, or a client that is closed: no account can help, everything stops."""
    NOT_SENT = "not sent"
    """The request cannot have reached the service: it is sent again after a pause."""
    LOST = "lost"
    """Queued upstream but lost from sight: it takes a slot for some minutes and is never sent again."""
    UNKNOWN = "unknown"
    """Nobody knows whether the service has it: the slot stays taken while it is looked for."""


_TABLE: Final[dict[type[PikaError], Verdict]] = {
    ChannelFull: Verdict.FULL,
    RateLimited: Verdict.LIMITED,
    AccountBlocked: Verdict.BLOCKED,
    NotFound: Verdict.GONE,
    Unauthorized: Verdict.REFUSED,
    SubscriptionRequired: Verdict.REFUSED,
    Closed: Verdict.REFUSED,
    WrongLoop: Verdict.REFUSED,
    LostTrack: Verdict.LOST,
    ServiceError: Verdict.UNKNOWN,
    InvalidResponse: Verdict.UNKNOWN,
    TransportError: Verdict.UNKNOWN,
    PikaError: Verdict.OWN_FAULT,
}
_REFUSALS: Final = range(300, 500)
"""Statuses that say of a request that nothing was done about it."""


def verdict(error: PikaError) -> Verdict:
    """Return what `error`, with which a submit ended, means."""
    if isinstance(error, TransportError) and not error.maybe_sent:
        return Verdict.NOT_SENT
    if isinstance(error, ApiError) and type(error) not in _TABLE:
        # A class of answers that says nothing of the kind. A status below 200 is no last word.
        return Verdict.OWN_FAULT if error.status in _REFUSALS else Verdict.UNKNOWN
    return next(_TABLE[cls] for cls in type(error).__mro__ if cls in _TABLE)
