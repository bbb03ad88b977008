"""All errors of this library, in one tree under `PikaError`.

Facts are attributes; the common ones exist on every error and are None or empty if unknown. No message,
attribute or repr holds an API or Discord token.

    PikaError
    ├── InvalidArgument        wrong input; `field` names the argument
    │   └── UnknownChannel     no account has that channel
    ├── NoCapacity             no slot was free in time; `reason` says why
    ├── StoreUnavailable       the shared store is unreachable or refuses; `why` says how
    ├── ForeignLease           a lease was released where it was not granted
    ├── SubmissionUnknown      it is unknown whether the service has the job `reply_ref`
    ├── Closed                 the balancer, client or dispatcher is closed or draining
    ├── WrongLoop              an object of one event loop was used in another
    ├── ApiError               the service answered with an error status
    │   ├── BadRequest 400   Unauthorized 401   SubscriptionRequired 402   NotFound 404   PromptRejected 422
    │   ├── ChannelFull 429 (with executing jobs)   RateLimited 429 (without)
    │   ├── LostTrack 504   AccountSuspended 596   ServiceError other 5xx
    │   └── UnexpectedStatus   anything else that is not a success, redirects included
    ├── TransportError         no complete answer; `maybe_sent` says if the service may have seen the request
    │   └── ConnectFailed   ConnectionLost   RequestTimeout
    └── InvalidResponse        an answer that breaks the contract; `faults` lists each by path
"""

from typing import Final, Literal, TypedDict, Unpack

import attrs

from pika_balancer._util.text import printable

Reason = Literal["full", "cooling_down", "never"]
"""Why no slot is free: full now, cooling down until a known time, or never (no accounts, all paused)."""
_LONGEST: Final = 2000


class Facts(TypedDict, total=False):
    """Facts that any error can have."""

    status: int | None
    """HTTP status of the answer."""
    code: int | None
    """The `code` of the service's error body; usually equal to `status`."""
    channel: str | None
    """The channel that the call was about."""
    jobid: str | None
    """Id of the job concerned, even if the rest of the answer was broken."""
    retry_after: float | None
    """Seconds to wait before the next attempt, as the service said."""
    executing_jobs: tuple[str, ...]
    """Ids of the jobs that hold the channel's slots, as the service said."""


class PikaError(Exception):
    """The root of every error that this library raises on purpose.

    The `Facts` are attributes, None or empty if unknown.

    Attributes:
        message: One sentence that says what to do next; at most 2000 characters, unprintable ones escaped.
    """

    def __init__(self, message: str = "", **facts: Unpack[Facts]) -> None:
        # A message may quote anything: a file name, an option, a header.
        message = printable(message, _LONGEST)
        # Only the message goes to `args`: an error then survives pickle and copy with its attributes.
        super().__init__(message)
        self.message = message
        self.status = facts.get("status")
        self.code = facts.get("code")
        self.channel = facts.get("channel")
        self.jobid = facts.get("jobid")
        self.retry_after = facts.get("retry_after")
        self.executing_jobs = facts.get("executing_jobs", ())


class InvalidArgument(PikaError, ValueError):
    """An argument cannot work; `field` names it."""

    def __init__(self, message: str = "", *, field: str | None = None, **facts: Unpack[Facts]) -> None:
        super().__init__(message, **facts)
        self.field = field


class UnknownChannel(InvalidArgument):
    """No account has the named channel."""


class NoCapacity(PikaError):
    """No account had a free slot in time.

    Attributes:
        reason: `"full"`, `"cooling_down"` or `"never"`.
        until: End of the first cooldown, on the balancer's clock, for `"cooling_down"`.
    """

    def __init__(
        self,
        message: str = "",
        *,
        reason: Reason = "full",
        until: float | None = None,
        **facts: Unpack[Facts],
    ) -> None:
        super().__init__(message, **facts)
        self.reason: Reason = reason
        self.until = until


class StoreUnavailable(PikaError):
    """The shared store was not reachable in time, or refuses; whether a slot is free is unknown.

    Attributes:
        address: Address of the store without credentials.
        why: The cause in a few words.
        away: Seconds since it became unreachable; None if it never was reached.
    """

    def __init__(
        self,
        message: str = "",
        *,
        address: str | None = None,
        why: str | None = None,
        away: float | None = None,
        **facts: Unpack[Facts],
    ) -> None:
        super().__init__(message, **facts)
        self.address = address
        self.why = why
        self.away = away


class SubmissionUnknown(PikaError):
    """The fate of a submit stayed unknown: the service may have the job, or not.

    The job is not sent again. `__cause__` is the error that ended the submit.

    Attributes:
        verb: The request: `create`, `animate`, …
        reply_ref: The reference of the submit; a job that carries it is this one.
        slot_held: Whether its slot stays taken, because the service could not say what it executes.
    """

    def __init__(
        self,
        message: str = "",
        *,
        verb: str | None = None,
        reply_ref: str | None = None,
        slot_held: bool = False,
        **facts: Unpack[Facts],
    ) -> None:
        super().__init__(message, **facts)
        self.verb = verb
        self.reply_ref = reply_ref
        self.slot_held = slot_held


class ForeignLease(PikaError):
    """A lease was released to a selector, store or balancer that did not grant it."""


class Closed(PikaError):
    """The object is closed, or is draining and accepts nothing new."""


class WrongLoop(PikaError):
    """An object that belongs to one event loop was used in another; make one per loop."""


class ApiError(PikaError):
    """The service answered with an error status."""


class BadRequest(ApiError):
    """400: a parameter is missing or wrong; other jobs of the account are not affected."""


class Unauthorized(ApiError):
    """401: the API token was refused; all accounts are affected."""


class SubscriptionRequired(ApiError):
    """402: the API account has no valid subscription; all accounts are affected."""


class NotFound(ApiError):
    """404: no accounts are configured, or the named account or job is unknown."""


class PromptRejected(ApiError):
    """422: the prompt was moderated or is invalid; other jobs of the account are not affected."""


class ChannelFull(ApiError):
    """429 with `executing_jobs`: every slot of the channel is taken, perhaps by jobs of others."""


class RateLimited(ApiError):
    """429 without executing jobs: Discord limits the account's rate; wait `retry_after`, or 10–30 s."""


class LostTrack(ApiError):
    """504: the service queued the job but lost track of it; it holds a slot for about three minutes."""


class AccountSuspended(ApiError):
    """596: the Discord account has a pending moderation message; a person must resolve it."""


class ServiceError(ApiError):
    """500, 502, 503 or another 5xx: the service failed; whether it accepted the job is unknown."""


class UnexpectedStatus(ApiError):
    """A status outside the contract; redirects are not followed."""


class TransportError(PikaError):
    """The network failed before a complete answer arrived.

    Attributes:
        maybe_sent: Whether the request may have reached the service.
    """

    def __init__(self, message: str = "", *, maybe_sent: bool = True, **facts: Unpack[Facts]) -> None:
        super().__init__(message, **facts)
        self.maybe_sent = maybe_sent


class ConnectFailed(TransportError):
    """No connection was made (refused, unreachable, unknown host, TLS); nothing was sent."""


class ConnectionLost(TransportError):
    """The connection broke after the request may have been sent."""


class RequestTimeout(TransportError):
    """No complete answer arrived within the time limit."""


@attrs.frozen
class Fault:
    """One violation of the contract in an answer."""

    path: str
    """JSON path such as `$['123'].maxJobs`; `$` is the whole body."""
    problem: str
    """What is wrong there; quotes no value that could be a secret."""

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class InvalidResponse(PikaError):
    """The service's answer breaks the contract.

    Attributes:
        faults: The violations, in the order of the body; at most 1000.
    """

    def __init__(self, message: str = "", *, faults: tuple[Fault, ...] = (), **facts: Unpack[Facts]) -> None:
        super().__init__(message, **facts)
        self.faults = faults
