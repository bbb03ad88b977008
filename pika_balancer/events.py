"""Typed events about slots and jobs, passed to an observer and to the log.

Pass `observer=` to a `Balancer`; a `Dispatcher` over it reports its events to the same observer. An observer
is called in the middle of the bookkeeping: it must be quick and must not call back. An exception of an
observer is logged and suppressed. Times are readings of the clock that was passed in; durations are float
seconds.
"""

import logging
from collections.abc import Callable
from typing import ClassVar, Final

import attrs

from pika_balancer.errors import PikaError

log = logging.getLogger("pika_balancer")
# Silent until the embedding program configures logging.
log.addHandler(logging.NullHandler())


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Event:
    """Base class of all events. Events compare by identity."""

    level: ClassVar[int] = logging.DEBUG
    """Level of its log record."""
    words: ClassVar[str] = ""
    """Format of its log message from its fields; empty for a plain list of the fields."""

    at: float
    """Time of the event on the reporting object's clock."""
    channel: str | None = None
    """The channel concerned; None if there is none."""

    # One method for all classes: generated ones would be most of the import cost of this module.
    def __repr__(self) -> str:
        facts = ", ".join(f"{key}={value!r}" for key, value in attrs.asdict(self, recurse=False).items())
        return f"{type(self).__name__}({facts})"


Observer = Callable[[Event], object]
"""Function that is called with every event."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Acquired(Event):
    """A slot was granted."""

    lease_id: int | str
    """Id of the lease."""
    waited: float
    """Seconds waited; 0 if a slot was free."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Unserved(Event):
    """A waiter got no slot; `channel` is the only one it would take, if any."""

    waited: float
    """Seconds waited."""
    why: str
    """The error's class: `NoCapacity`, `CancelledError`, …"""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Released(Event):
    """A slot was released."""

    lease_id: int | str
    """Id of the lease."""
    held: float
    """Seconds since the grant."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Leaked(Event):
    """A lease was garbage-collected unreleased; `Released` follows for its slot."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = (
        "lease {lease_id!r} on channel {channel!r} was dropped unreleased after {held:.1f} s; "
        "it was acquired at {place}; its slot is free again"
    )

    lease_id: int | str
    """Id of the lease."""
    held: float
    """Seconds since the grant."""
    place: str
    """Source position of the acquire, as `file:line in function`."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Adopted(Event):
    """A job that the service already executes was counted.

    A dispatcher also does this for each accepted job, to name its slot by the job's id; the slot's first
    lease is released right after that.
    """

    jobid: str
    """The job's id, or its reference while the id is unknown."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CoolingDown(Event):
    """An account gets no new job for some time."""

    level: ClassVar[int] = logging.INFO

    seconds: float
    """Length of the cooldown from now."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Paused(Event):
    """An account gets no new job until it is resumed."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = "channel {channel!r} is paused and gets no new job until it is resumed"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Resumed(Event):
    """A pause or cooldown of an account was ended by `resume`."""

    level: ClassVar[int] = logging.INFO


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Refreshed(Event):
    """A new account map was applied."""

    accounts: int
    """Number of accounts in it."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RefreshFailed(Event):
    """The account map could not be read; the old one stays in use."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = "refresh of the account map failed, the old one stays in use: {why}"

    failures: int
    """Failures since the last success."""
    why: str
    """The cause; holds no token."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LeaseRevoked(Event):
    """The store stopped counting a lease that is held here: while it was away, or by a repair."""

    level: ClassVar[int] = logging.ERROR
    words: ClassVar[str] = (
        "lease {lease_id!r} on channel {channel!r} is no longer counted: {why}; "
        "its slot may go to another job while its job runs"
    )

    lease_id: int | str
    """Id of the lease."""
    why: str
    """The cause."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StoreAway(Event):
    """The shared store is unreachable or refuses commands; pending releases are sent when it is back."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = "the store at {address} is away ({why}); retrying until it is back"

    address: str
    """Address without credentials."""
    why: str
    """The cause in a few words."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StoreBack(Event):
    """The shared store answers again."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = "the store at {address} is back after {away:.1f} s"

    address: str
    """Address without credentials."""
    away: float
    """Seconds that it was away."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class JobEvent(Event):
    """Base class of events about a job."""

    verb: str
    """The request: `create`, `animate`, …"""
    reply_ref: str
    """The reference that the submit carries."""
    jobid: str | None = None
    """The service's id; None while it is unknown."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Submitting(JobEvent):
    """A job is about to be sent on a slot of `channel`."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Submitted(JobEvent):
    """The service accepted the job."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Refused(JobEvent):
    """The service did not accept the job: it answered with an error, or the submit never arrived."""

    level: ClassVar[int] = logging.INFO

    error: str
    """The error's class: `ChannelFull`, `RateLimited`, `PromptRejected`, …"""
    status: int | None
    """HTTP status, if there was an answer."""
    again: bool
    """Whether the job will be sent again."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Uncertain(JobEvent):
    """It is unknown whether the service has the job; its slot stays taken during the search."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = (
        "after {error} it is unknown whether the service has job {reply_ref!r}; "
        "its slot on channel {channel!r} stays taken during the search"
    )

    error: str
    """The error's class: `ServiceError`, `ConnectionLost`, `LostTrack`, …"""
    status: int | None
    """HTTP status, if there was an answer."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Changed(JobEvent):
    """The status of a running job changed."""

    status: str
    """The new status."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Ended(JobEvent):
    """A job ended, successfully or not."""

    level: ClassVar[int] = logging.INFO

    status: str
    """`completed`, `moderated`, `failed` or `cancelled`."""
    elapsed: float
    """Seconds since this process learned that it was accepted."""
    told_by: str
    """Source of the news: `answer`, `poll` or `callback`."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Failed(JobEvent):
    """A job was given up: its submit failed for good, or its fate stayed unknown."""

    level: ClassVar[int] = logging.WARNING
    words: ClassVar[str] = "job {reply_ref!r} ({jobid}) was given up: {error}"

    error: str
    """The error's class."""
    status: int | None
    """HTTP status, if there was an answer."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Detached(JobEvent):
    """The dispatcher ends and stops following a job; the job runs on and keeps its slot."""

    level: ClassVar[int] = logging.INFO

    error: str
    """Class of the error that its handle raises."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Stopped(Event):
    """The dispatcher submits nothing more: token or subscription was refused, or the client is closed."""

    level: ClassVar[int] = logging.ERROR
    words: ClassVar[str] = "the dispatcher submits nothing more: {why}"

    why: str
    """The cause; holds no token."""


_TAKEN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class Reporter:
    """Passes events to the observer, if any, and to the log."""

    def __init__(self, observer: Observer | None = None) -> None:
        self.observer = observer

    def report(self, event: Event) -> None:
        """Log the event with its fields as `extra`, and call the observer; raises nothing."""
        if log.isEnabledFor(event.level):
            facts = attrs.asdict(event, recurse=False)
            plain = " ".join([type(event).__name__, *(f"{key}={value}" for key, value in facts.items())])
            extra = {key: value for key, value in facts.items() if key not in _TAKEN}
            words = event.words.format_map(facts) if event.words else plain
            log.log(event.level, "%s", words, extra=extra | {"event": type(event).__name__})
        if self.observer is not None:
            try:
                self.observer(event)
            except Exception as error:  # noqa: BLE001 - an observer must not stop the work
                log.error("an observer failed on %s: %s", type(event).__name__, _safe(error))  # noqa: TRY400 - a traceback's locals may hold tokens


def _safe(error: Exception) -> str:
    # Only this library's errors are known to hold no token.
    return str(error) if isinstance(error, PikaError) else type(error).__name__
