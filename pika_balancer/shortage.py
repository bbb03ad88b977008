"""Why nothing can be had: full now, resting for a while, or never; as a sentence with what to do next."""

from collections.abc import Iterable

from pika_balancer.books import Books
from pika_balancer.models import Shortage


def shortage_of(books: Iterable[Books], channel: str | None) -> Shortage | None:
    """Return why none of the accounts can take a job, or None if one can; stops at the first full one.

    Args:
        books: The accounts that would do, none of which is open unless it is the only one.
        channel: The only channel that was asked for; None for any.
    """
    subject = "every account" if channel is None else f"channel {channel!r}"
    rests: list[float] = []
    known = False
    for one in books:
        known = True
        obstacle = one.obstacle()
        if obstacle is None:
            return None
        if obstacle == "full":
            full = "no account has a free slot now" if channel is None else f"{subject} is full now"
            return Shortage("full", None, f"{full}; wait for a job to end, or add an account")
        if obstacle == "resting":
            rests.append(one.rest_until)
    if rests:
        return Shortage("resting", min(rests), f"{subject} rests or is paused; wait for a rest to end")
    return Shortage("never", None, _never(subject, channel, known=known))


def _never(subject: str, channel: str | None, *, known: bool) -> str:
    if known:
        return f"{subject} is paused; resume one"
    if channel is None:
        return "there are no accounts; configure one"
    return f"no account has {subject}; name a configured one"
