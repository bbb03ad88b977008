"""The values that the rooms hand to each other: accounts, jobs, leases, and what the books look like.

Durations are float seconds; ids are strings, because Discord's exceed 2**53.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Never, Protocol

import attrs

from pika_balancer.errors import InvalidArgument, Reason
from pika_balancer.secret import Secret, guarded, hidden

__all__ = [
    "DEFAULT_MAX_JOBS",
    "Account",
    "AccountState",
    "Attachment",
    "Explanation",
    "Grantor",
    "Job",
    "JobStatus",
    "Lease",
    "Orphan",
    "Secret",
    "Snapshot",
    "Unavailability",
    "guarded",
    "hidden",
    "hide",
]

DEFAULT_MAX_JOBS: Final = 10
"""The cap that the service assumes where an account states none."""


def hide(values: dict[str, Any], reply_url: str | Secret | None = None) -> Secret | None:
    """Put a job's arguments that are secrets into `Secret`s, in their place; return `reply_url` in one."""
    for name in values.keys() & {"discord", "reply_url"}:
        values[name] = hidden(values[name])
    return hidden(reply_url)


def _check_channel(_account: object, attribute: "attrs.Attribute[str]", value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(
            f"{attribute.name} must be a non-empty string (a Discord channel id is one, not an int)",
            field=attribute.name,
        )


def _check_cap(_account: object, attribute: "attrs.Attribute[int]", value: Any) -> None:
    if type(value) is not int or value < 1:
        raise InvalidArgument(f"{attribute.name} must be a whole number of at least 1", field=attribute.name)


@attrs.frozen(init=False)
class Account:
    """One Discord channel that can run jobs."""

    channel: str = attrs.field(validator=_check_channel)
    """Discord channel id, or whatever a sibling service keys its accounts by; never empty."""
    max_jobs: int = attrs.field(default=DEFAULT_MAX_JOBS, validator=_check_cap)
    """How many jobs may run at once; at least 1 (the service itself allows 1–10)."""
    discord: Secret | None = None
    """The Discord token, a full credential of the account; None where the service does not tell it."""

    def __init__(
        self, channel: str, max_jobs: int = DEFAULT_MAX_JOBS, discord: str | Secret | None = None
    ) -> None:
        # By hand: what attrs makes has the plain token in its frame, and so in the traceback of an error.
        discord = hidden(discord)
        good = discord is None or isinstance(discord, Secret)
        discord = discord if good else None  # it may be a token all the same
        for name, value in (("channel", channel), ("max_jobs", max_jobs), ("discord", discord)):
            object.__setattr__(self, name, value)
        if not good:
            raise InvalidArgument("discord must be a string or a Secret", field="discord")
        attrs.validate(self)


class JobStatus(StrEnum):
    """The words that the service uses for where a job stands."""

    CREATED = "created"
    STARTED = "started"
    PROGRESS = "progress"
    COMPLETED = "completed"
    MODERATED = "moderated"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the job has ended, well or badly, and its slot is free."""
        return self in _ENDED


_ENDED: Final = frozenset({JobStatus.COMPLETED, JobStatus.MODERATED, JobStatus.FAILED, JobStatus.CANCELLED})


@attrs.frozen
class Attachment:
    """A file that a job produced."""

    url: str
    """Where to fetch it, without authorisation."""
    filename: str | None = None
    """Its name, with extension."""
    content_type: str | None = None
    """Usually `video/mp4`."""
    size: int | None = None
    """In bytes."""
    proxy_url: str | None = None
    """A second address of the same file."""


@attrs.frozen
class Job:
    """A job as the service describes it. Fields that the service left out are None, or empty."""

    jobid: str
    """The service's id of the job."""
    status: str = JobStatus.CREATED
    """A `JobStatus` where the word is known, else the service's own word, which counts as running."""
    verb: str | None = None
    """What was asked for: `pika-create`, `pika-animate`, …"""
    created: str | None = None
    """When it was accepted: ISO 8601, milliseconds, UTC."""
    updated: str | None = None
    """When it last changed: ISO 8601, milliseconds, UTC."""
    prompt: str | None = None
    """The prompt that was sent."""
    channel: str | None = None
    """The channel that runs it."""
    max_jobs: int | None = None
    """The cap that the service applied to the channel."""
    discord: str | None = None
    """The first 3 and last 3 characters of the Discord token; never the whole."""
    message_id: str | None = None
    """Discord's id of the message that carries the job."""
    content: str | None = None
    """Text of that message."""
    timestamp: str | None = None
    """Discord's time of that message."""
    buttons: tuple[str, ...] = ()
    """What a `button` call may name; only `retry` exists."""
    attachments: tuple[Attachment, ...] = ()
    """The results; empty until completed."""
    embeds: tuple[Mapping[str, Any], ...] = ()
    """Discord embeds, as they came."""
    image: Mapping[str, Any] | None = None
    """Size and type of the image that was sent."""
    reply_url: str | None = attrs.field(default=None, repr=False)
    """Where the service will report the end. Not in the repr, since whoever knows it may report there; dumps
    of the job (`attrs.asdict`, a pickle) have it."""
    reply_ref: str | None = None
    """The caller's own reference, returned verbatim."""
    code: int | None = None
    """HTTP-like code of the job."""
    error: str | None = None
    """What went wrong, in the service's words."""
    error_details: str | None = None
    """More of the same."""

    @property
    def ended(self) -> bool:
        """Whether the job has ended. An unknown status word counts as running."""
        return self.status in _ENDED


class Grantor(Protocol):
    """Whoever grants leases and keeps the books behind them."""

    def account_at(self, row: int) -> Account:
        """Return the account whose slot stands in that row of the books, as configured now."""
        ...


class Lease:
    """A held slot: the right to run one job on one channel, until it is given back.

    Made by a selector, store or balancer, never by hand. Compared by identity. Give it back to whoever
    granted it; a second time does nothing.
    """

    # A row instead of the account: holding the account would cost every grant a visit to cold memory.
    __slots__ = ("__weakref__", "grantor", "held", "id", "row")

    def __init__(self, grantor: Grantor, row: int, lease_id: int | str) -> None:
        self.grantor = grantor
        self.row = row
        self.id = lease_id
        self.held = True

    grantor: Grantor
    """Who granted it, and takes it back."""
    row: int
    """Where the grantor's books have its account."""
    id: int | str
    """Names the lease: a number, or for an adopted job the key that it was adopted by."""
    held: bool
    """Whether the slot is still taken; False once released."""

    @property
    def revoked(self) -> bool:
        """Whether the store stopped counting it without a release, which only a shared store can."""
        return False

    @property
    def account(self) -> Account:
        """The account that the slot belongs to, as it is configured now."""
        return self.grantor.account_at(self.row)

    @property
    def channel(self) -> str:
        """The channel on which the job may run."""
        return self.account.channel

    def __repr__(self) -> str:
        return f"<Lease {self.id!r} on {self.channel!r}, {'held' if self.held else 'released'}>"

    def __reduce__(self) -> Never:
        raise TypeError("a lease belongs to the process that holds it and cannot be pickled or copied")


@attrs.frozen
class Orphan:
    """A slot whose process is dead. Its job may run on, so it stays counted until somebody knows better."""

    lease_id: str
    """Names the lease."""
    key: str | None
    """The key by which it can be adopted, usually the id of its job; None if it never had one."""
    channel: str
    """Where the slot is."""
    dead_for: float
    """Seconds since its process counts as dead."""
    dead_since: int
    """The moment that began, on the store's own clock: its process has been heard of since if it changes."""


@attrs.frozen
class AccountState:
    """How one account stands at one moment."""

    channel: str
    """The account's channel."""
    max_jobs: int
    """Its cap."""
    in_flight: int
    """Jobs that hold a slot; above `max_jobs` only by adoption or after the cap was lowered."""
    paused: bool
    """Whether it is paused until resumed."""
    cooldown_until: float | None
    """When its rest ends, on the clock whose `now` was passed in; None when it does not rest."""
    removed: bool
    """Whether the account is gone from the map and only drains."""

    @property
    def free(self) -> int:
        """Free slots, paused or resting notwithstanding; 0 for a removed account."""
        return 0 if self.removed else max(0, self.max_jobs - self.in_flight)


@attrs.frozen
class Snapshot:
    """The books at one moment; later changes do not show in it."""

    accounts: tuple[AccountState, ...]
    """In the order of the account map, removed accounts that still drain last."""

    @property
    def in_flight(self) -> int:
        """Slots taken, over all accounts."""
        return sum(account.in_flight for account in self.accounts)

    @property
    def capacity(self) -> int:
        """Sum of the caps of the accounts in the map."""
        return sum(account.max_jobs for account in self.accounts if not account.removed)


@attrs.frozen
class Explanation:
    """What the next pick would make of one account."""

    channel: str
    """The account's channel."""
    eligible: bool
    """Whether it can take a job now; a rule may still give it the probability 0."""
    why: str
    """In words: `eligible`, `full`, `paused`, `cooling_down` or `removed`."""
    free: int
    """Free slots under its cap."""
    probability: float
    """Exact probability that the next unpinned pick chooses it, 0 to 1."""


@attrs.frozen
class Unavailability:
    """Why nothing can be had right now."""

    reason: Reason
    """`full` (a release helps), `cooling_down` (time helps) or `never` (only `resume` or `update` helps)."""
    until: float | None
    """When the first rest ends; only for `cooling_down`."""
    message: str
    """The same as a sentence with what to do next."""
