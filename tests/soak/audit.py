"""What a soak finds in a dispatcher that is over, and in the server's counts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from pika_balancer import Dispatcher

if TYPE_CHECKING:
    from tests.soak.whole import Soak

MAY_BE_SENT_AGAIN: Final = {
    "NotFound",
    "ChannelFull",
    "RateLimited",
    "AccountSuspended",
    "ConnectFailed",
    "RequestTimeout",
}
"""Errors that say for certain that the service does not have the job, and may have it later.

A `RequestTimeout` among them ran out before anything was sent, as it does on a busy machine; one that ran out
later is `Uncertain` instead of `Refused`. Were they confused, the server would see a reference twice.
"""


def check_empty(dispatcher: Dispatcher) -> Iterator[str]:
    """Yield what a dispatcher that is over still has in it."""
    if dispatcher.handles:
        yield f"a dispatcher that is over still has {dispatcher.handles}"


def check_slots(soak: "Soak") -> Iterator[str]:
    """Yield what the server counted against the rules."""
    statistics: dict[str, Any] = soak.statistics
    ledger = soak.ledger
    if statistics["duplicate_reply_refs"]:
        yield f"{statistics['duplicate_reply_refs']} references were accepted twice"
    if ledger.taken != sum(channel["jobs"] for channel in statistics["channels"].values()):
        yield f"the server told of {ledger.taken} jobs, and counts others: {statistics['channels']}"
    for channel in statistics["channels"].values():
        if channel["peak_in_flight"] > soak.account_churn.highest[channel["channel"]] or channel["in_flight"]:
            yield f"slots of the server: {channel}"
    if {*+ledger.again} - MAY_BE_SENT_AGAIN:
        yield f"jobs were sent again after {dict(ledger.again)}"
    # Workers that count together never knock at a full channel, but for one whose cap has just been lowered.
    # Those that count apart meet each other's jobs all the time. All are told so unless they hung up first.
    untold = statistics["attempts_when_full"] - ledger.full
    hung_up = ledger.hung_up if soak.mode == "apart" else ledger.hung_up_excused
    if (soak.mode != "apart" and ledger.knocks) or not 0 <= untold <= hung_up:
        yield (
            f"{ledger.full} attempts when full, {ledger.knocks} of them without an excuse, "
            f"and {untold} that were not told, where {hung_up} may have been"
        )
