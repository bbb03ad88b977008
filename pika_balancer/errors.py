"""Everything that can go wrong, as one tree under `PikaError`.

Facts are attributes, so that a caller never parses a message. Every attribute exists on every error; it is
`None` (or empty) where the fact is not known. No message, attribute or repr holds an API or Discord token.

    PikaError
    ├── InvalidArgument        the caller's own input, `field` names it
    │   └── UnknownChannel     no account has that channel
    ├── NoCapacity             no slot in time, `reason` says why
    ├── StoreUnavailable       the shared store cannot be reached, or refuses; `why` says how
    ├── ForeignLease           a lease given to somebody who did not grant it
    ├── SubmissionUnknown      nobody knows whether the service has the job, `reply_ref` names it
    ├── Closed                 the balancer, client or dispatcher has been closed or is draining
    ├── WrongLoop              an object made in one event loop was used in another
    ├── ApiError               the service answered with an error status
    │   ├── BadRequest 400   Unauthorized 401   SubscriptionRequired 402   NotFound 404   PromptRejected 422
    │   ├── ChannelFull 429 (with executing jobs)   RateLimited 429 (without)
    │   ├── LostTrack 504   AccountBlocked 596   ServiceError other 5xx
    │   └── UnexpectedStatus   anything else that is not a success, redirects included
    ├── TransportError         no complete answer; `maybe_sent` says if the service may have seen the request
    │   └── ConnectFailed   ConnectionLost   RequestTimeout
    └── InvalidResponse        an answer that breaks the contract, `faults` lists each by path
"""

from typing import Final, Literal

import attrs

from pika_balancer._util.text import printable

Reason = Literal["full", "cooling_down", "never"]
"""Why nothing can be had: full now, resting until a known moment, or never (no accounts, all paused)."""
_LONGEST: Final = 2000


class PikaError(Exception):
    """The root of every error that this library raises on purpose.

    Attributes:
        message: One sentence, with what to do next; already safe to print: what was not printable in it is
            escaped, and its end cut off above 2000 characters.
        status: HTTP status, where an answer had one.
        code: The `code` of the service's error body; usually equal to `status`.
        channel: The channel that the call was about.
        retry_after: Seconds to wait before trying again, where the service said so.
        executing_jobs: Ids of the jobs that hold the channel's slots, where the service said so.
        jobid: Id of the job that the error is about, where it is known: an accepted job is never lost to
            a broken connection or a malformed field beside it.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        code: int | None = None,
        channel: str | None = None,
        jobid: str | None = None,
        retry_after: float | None = None,
        executing_jobs: tuple[str, ...] = (),
    ) -> None:
        # Here and nowhere else, since a message may quote anything: a file's name, an option, a header.
        message = printable(message, _LONGEST)
        # Only the message goes to `args`: an error then survives pickle and copy, its facts with it.
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.channel = channel
        self.jobid = jobid
        self.retry_after = retry_after
        self.executing_jobs = executing_jobs


class InvalidArgument(PikaError, ValueError):
    """The caller passed something that cannot work; `field` names the argument."""

    def __init__(self, message: str = "", *, field: str | None = None, channel: str | None = None) -> None:
        super().__init__(message, channel=channel)
        self.field = field


class UnknownChannel(InvalidArgument):
    """No account has the named channel."""


class NoCapacity(PikaError):
    """No account had a free slot in time.

    Attributes:
        reason: `"full"`, `"cooling_down"` or `"never"`.
        until: When the first rest ends, on the balancer's clock, for `"cooling_down"`.
    """

    def __init__(
        self,
        message: str = "",
        *,
        reason: Reason = "full",
        until: float | None = None,
        channel: str | None = None,
    ) -> None:
        super().__init__(message, channel=channel)
        self.reason: Reason = reason
        self.until = until


class StoreUnavailable(PikaError):
    """The shared store could not be reached in time, or refuses; whether a slot is free is not known.

    Attributes:
        address: Where the store is, without credentials.
        why: What went wrong, in a few words.
        away: Seconds for which it has been away; None where it never was reached.
    """

    def __init__(
        self,
        message: str = "",
        *,
        address: str | None = None,
        why: str | None = None,
        away: float | None = None,
        channel: str | None = None,
    ) -> None:
        super().__init__(message, channel=channel)
        self.address = address
        self.why = why
        self.away = away


class SubmissionUnknown(PikaError):
    """A submit whose fate could not be found out: the service may have the job, or not.

    It is never sent again by itself. Its cause (`__cause__`) is the error that the submit ended with.

    Attributes:
        verb: What was asked for.
        reply_ref: The reference under which it was sent; a job that carries it is this one.
        slot_held: Whether its slot stays taken, because the service could not be asked what executes.
    """

    def __init__(
        self,
        message: str = "",
        *,
        verb: str | None = None,
        reply_ref: str | None = None,
        slot_held: bool = False,
        status: int | None = None,
        channel: str | None = None,
        jobid: str | None = None,
    ) -> None:
        super().__init__(message, status=status, channel=channel, jobid=jobid)
        self.verb = verb
        self.reply_ref = reply_ref
        self.slot_held = slot_held


class ForeignLease(PikaError):
    """A lease came back to a selector, store or balancer that never granted it."""


class Closed(PikaError):
    """The object has been closed, or is draining and takes nothing new."""


class WrongLoop(PikaError):
    """An object that belongs to one event loop was used in another; make one per loop."""


class ApiError(PikaError):
    """The service answered with an error status."""


class BadRequest(ApiError):
    """400: a parameter is missing or wrong; the job's own fault, the account is unharmed."""


class Unauthorized(ApiError):
    """401: the API token was refused; no account can help."""


class SubscriptionRequired(ApiError):
    """402: the API account has no subscription or it has expired; no account can help."""


class NotFound(ApiError):
    """404: no accounts are configured, or the named account or job is unknown."""


class PromptRejected(ApiError):
    """422: the prompt was moderated or is invalid; the job's own fault, the account is unharmed."""


class ChannelFull(ApiError):
    """429 with `executing_jobs`: every slot of the channel is taken, perhaps by somebody else's jobs."""


class RateLimited(ApiError):
    """429 without executing jobs: Discord limits the account's rate; let it rest `retry_after` or 10–30 s."""


class LostTrack(ApiError):
    """504: queued upstream but lost from sight; the job still takes a slot for about three minutes."""


class AccountSuspended(ApiError):
    """596: the Discord account has a pending moderation message; it rests until a person resets it."""


class ServiceError(ApiError):
    """500, 502, 503 or another 5xx: the service failed; whether it took the job is unknown."""


class UnexpectedStatus(ApiError):
    """A status outside the contract; redirects are not followed and end here."""


class TransportError(PikaError):
    """The network failed before a complete answer arrived.

    Attributes:
        maybe_sent: False when the request cannot have reached the service; True when it may have.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        channel: str | None = None,
        jobid: str | None = None,
        maybe_sent: bool = True,
    ) -> None:
        super().__init__(message, status=status, channel=channel, jobid=jobid)
        self.maybe_sent = maybe_sent


class ConnectFailed(TransportError):
    """No connection came about (refused, unreachable, unknown host, TLS): nothing was sent."""


class ConnectionLost(TransportError):
    """The connection broke after the request may have been sent."""


class RequestTimeout(TransportError):
    """No complete answer within the call's time."""


@attrs.frozen
class Fault:
    """One way in which an answer breaks the contract."""

    path: str
    """Where, as a JSON path such as `$['123'].maxJobs`; `$` is the whole body."""
    problem: str
    """What is wrong there; never quotes a value that could be a secret."""

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class InvalidResponse(PikaError):
    """The service's answer breaks the contract.

    Attributes:
        faults: Every fault found, in the order of the body.
    """

    def __init__(
        self,
        message: str = "",
        *,
        faults: tuple[Fault, ...] = (),
        jobid: str | None = None,
        status: int | None = None,
        channel: str | None = None,
    ) -> None:
        super().__init__(message, status=status, channel=channel, jobid=jobid)
        self.faults = faults
