"""What happens to slots and jobs, told as it happens: one hook, typed events, and the log.

Pass `observer=` to a `Balancer`; a `Dispatcher` over it tells its own events to the same one. An observer is
called in the middle of the bookkeeping: it must be quick and must not call back. What it raises is logged and
goes no further. Moments are readings of the clock that was passed in, durations float seconds.
"""

import logging
from collections.abc import Callable
from typing import ClassVar, Final

import attrs

from pika_balancer.errors import PikaError

log = logging.getLogger("pika_balancer")
# Quiet until the program that embeds this configures logging.
log.addHandler(logging.NullHandler())


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Event:
    """Something that happened. Compared by identity: it happened once."""

    level: ClassVar[int] = logging.DEBUG
    """At which it is logged."""
    words: ClassVar[str] = ""
    """How it is logged, as a format of its facts; empty for a plain list of them."""

    at: float
    """When, on the clock of whoever tells it."""
    channel: str | None = None
    """The channel that it is about; None where it is about none."""

    # One for all: making it, and comparing, for each of them would be most of the cost of importing this.
    def __repr__(self) -> str:
        facts = ", ".join(f"{key}={value!r}" for key, value in attrs.asdict(self, recurse=False).items())
        return f"{type(self).__name__}({facts})"


Observer = Callable[[Event], object]
"""What is told every event."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Acquired(Event):
    """A slot was granted."""

    lease_id: int | str
    """Names the lease."""
    waited: float
    """Seconds in line; 0 where a slot was free."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Unserved(Event):
    """Somebody left the line without a slot; `channel` is the one that was wished for."""

    waited: float
    """Seconds in line."""
    why: str
    """The error's class: `NoCapacity`, `CancelledError`, …"""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Released(Event):
    """A slot was given back."""

    lease_id: int | str
    """Names the lease."""
    held: float
    """Seconds from the grant."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Leaked(Event):
    """A lease was dropped without a release; its slot was taken back, which `Released` tells next."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = (
        "lease {lease_id!r} on channel {channel!r} was dropped without a release after {held:.1f} s; "
        "it was taken at {place} and its slot is free again"
    )

    lease_id: int | str
    """Names the lease."""
    held: float
    """Seconds from the grant."""
    place: str
    """Where in the source it was taken, as `file:line in function`."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Adopted(Event):
    """A job that runs already was counted.

    So a dispatcher names the slot of an accepted job by the job's id: the slot's numbered lease is released
    right after that.
    """

    jobid: str
    """The key it was adopted by: the job's id, or its reference while the id is unknown."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CoolingDown(Event):
    """An account gets no new job for a while."""

    level: ClassVar[int] = logging.INFO

    seconds: float
    """For how long, from now."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Paused(Event):
    """An account gets no new job until it is resumed."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = "channel {channel!r} is paused and gets no new job until it is resumed"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Resumed(Event):
    """A pause or rest of an account was ended."""

    level: ClassVar[int] = logging.INFO


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Refreshed(Event):
    """The account map was taken over."""

    accounts: int
    """How many accounts it has."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RefreshFailed(Event):
    """The account map could not be read; the old one stays."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = "refresh of the account map failed, the old one stays: {why}"

    failures: int
    """Failures since the last read that worked."""
    why: str
    """What went wrong; holds no token."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LeaseRevoked(Event):
    """A lease that is held here is not counted any more: while the store was away, or by a repair."""

    level: ClassVar[int] = logging.ERROR
    words: ClassVar[str] = (
        "lease {lease_id!r} on channel {channel!r} is counted no more: {why}; "
        "its slot may be given to somebody else while its job runs"
    )

    lease_id: int | str
    """Names the lease."""
    why: str
    """How that came about."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StoreAway(Event):
    """The shared store cannot be reached, or refuses; what is owed to it is kept until it is back."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = "the store at {address} is away ({why}); it is tried again until it is back"

    address: str
    """Where it is, without credentials."""
    why: str
    """What went wrong, in a few words."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StoreBack(Event):
    """The shared store answers again."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = "the store at {address} is back after {away:.1f} s"

    address: str
    """Where it is, without credentials."""
    away: float
    """For how many seconds it was away."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class JobEvent(Event):
    """Something that happened to a job."""

    verb: str
    """What was asked for: `create`, `animate`, …"""
    reply_ref: str
    """The reference under which it was submitted."""
    jobid: str | None = None
    """The service's id of it; None while that is not known."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Submitting(JobEvent):
    """A job is about to be sent, on a slot of `channel`."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Submitted(JobEvent):
    """The service has the job."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Refused(JobEvent):
    """The service does not have the job: a submit was answered with an error, or never arrived."""

    level: ClassVar[int] = logging.INFO

    error: str
    """The error's class: `ChannelFull`, `RateLimited`, `PromptRejected`, …"""
    status: int | None
    """HTTP status, where there was an answer."""
    again: bool
    """Whether it will be sent again."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Uncertain(JobEvent):
    """Nobody knows whether the service has the job; its slot stays taken while it is looked for."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = (
        "after {error} nobody knows whether the service has job {reply_ref!r}; "
        "its slot on channel {channel!r} stays taken while it is looked for"
    )

    error: str
    """The error's class: `ServiceError`, `ConnectionLost`, `LostTrack`, …"""
    status: int | None
    """HTTP status, where there was an answer."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Changed(JobEvent):
    """A running job's status has changed."""

    status: str
    """The new one."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Ended(JobEvent):
    """A job has ended, well or badly."""

    level: ClassVar[int] = logging.INFO

    status: str
    """`completed`, `moderated`, `failed` or `cancelled`."""
    elapsed: float
    """Seconds since it was accepted, as far as this process knows."""
    told_by: str
    """`answer`, `poll` or `callback`, whichever came first."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Failed(JobEvent):
    """A job was given up: its submit failed for good, its fate stayed unknown, or it was lost from sight."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = "job {reply_ref!r} ({jobid}) was given up: {error}"

    error: str
    """The error's class."""
    status: int | None
    """HTTP status, where there was an answer."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Detached(JobEvent):
    """A job is followed no more, because its dispatcher ends; it runs on and keeps its slot."""

    level: ClassVar[int] = logging.INFO

    error: str
    """The class of what its handle raises."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Stopped(Event):
    """The dispatcher submits nothing any more: the token or subscription is refused, or its client closed."""

    level: ClassVar[int] = logging.ERROR
    words: ClassVar[str] = "nothing is submitted any more: {why}"

    why: str
    """The service's refusal; holds no token."""


_TAKEN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class Reporter:
    """Tells events to an observer and to the log.

    Args:
        observer: Is told everything; None for nobody.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.observer = observer

    def tell(self, event: Event) -> None:
        """Log the event, with its facts as `extra`, and hand it to the observer; raises nothing."""
        if log.isEnabledFor(event.level):
            facts = attrs.asdict(event, recurse=False)
            plain = " ".join([type(event).__name__, *(f"{key}={value}" for key, value in facts.items())])
            extra = {key: value for key, value in facts.items() if key not in _TAKEN}
            words = event.words.format_map(facts) if event.words else plain
            log.log(event.level, "%s", words, extra=extra | {"event": type(event).__name__})
        if self.observer is not None:
            try:
                self.observer(event)
            except Exception as error:  # noqa: BLE001 - whoever watches must not stop the work
                log.error("an observer failed on %s: %s", type(event).__name__, _safe(error))  # noqa: TRY400 - a traceback's locals may hold tokens


def _safe(error: Exception) -> str:
    # Only our own errors are known to hold no token.
    return str(error) if isinstance(error, PikaError) else type(error).__name__
