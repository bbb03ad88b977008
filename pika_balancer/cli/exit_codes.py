"""What the commands exit with: one table from error classes to exit codes and advice.

0 ok, 1 failure, 2 usage, 3 no capacity, 4 token or subscription refused, 5 network, service or timeout,
6 bad answer, 130 interrupted.
"""

from collections.abc import Mapping
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final

import attrs

from pika_balancer import errors
from pika_balancer.errors import Fault, InvalidArgument, PikaError

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
NO_CAPACITY: Final = 3
REFUSED: Final = 4
NETWORK: Final = 5
BAD_ANSWER: Final = 6
INTERRUPTED: Final = 130


class Usage(InvalidArgument):
    """The command line itself is wrong."""


class MissingExtra(PikaError):
    """Something was asked for that needs an extra which is not installed."""


class BadJobFile(Usage):
    """A file of jobs is wrong; `faults` lists all of it by line."""

    def __init__(self, message: str = "", *, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(message, field="jobs")
        self.faults = faults


class JournalError(PikaError):
    """The journal of a run cannot be read, or not be kept any longer."""


class JournalInUse(JournalError):
    """Another run keeps the same journal now."""


class Interrupted(PikaError):
    """A signal ended the command before it was through."""


class NotCompleted(PikaError):
    """The job has ended, but not as completed; `job` is what is known of it."""

    def __init__(
        self,
        message: str = "",
        *,
        job: Mapping[str, Any] | None = None,
        jobid: str | None = None,
        channel: str | None = None,
    ) -> None:
        super().__init__(message, jobid=jobid, channel=channel)
        self.job = job


class StillRunning(PikaError):
    """The job had not ended in the time that was allowed; it goes on."""


class DownloadFailed(PikaError):
    """The job is completed, but its result could not be fetched or kept."""


@attrs.frozen
class Exit:
    """How a command ends for one class of errors."""

    code: int
    """The exit code."""
    advice: str = ""
    """What the user can do, where the message alone may not say so; without a full stop."""


_ADDRESS: Final = "check --base-url or PIKA_BASE_URL; `pika-balancer serve` runs the API on this machine"
_WHAT_RUNS: Final = "`pika-balancer jobs` lists what runs"

EXITS: Final[Mapping[type[BaseException], Exit]] = {
    PikaError: Exit(FAILURE),
    errors.InvalidArgument: Exit(USAGE),
    errors.UnknownChannel: Exit(USAGE, "`pika-balancer accounts` lists the channels"),
    errors.NoCapacity: Exit(NO_CAPACITY, _WHAT_RUNS),
    errors.StoreUnavailable: Exit(NETWORK, "check --store or PIKA_STORE_URL"),
    errors.SubmissionUnknown: Exit(NETWORK, _WHAT_RUNS),
    errors.ForeignLease: Exit(FAILURE),
    errors.Closed: Exit(FAILURE),
    errors.WrongLoop: Exit(FAILURE),
    errors.ApiError: Exit(FAILURE),
    errors.BadRequest: Exit(FAILURE),
    errors.Unauthorized: Exit(REFUSED, "or name the file of another token with --token-file"),
    errors.SubscriptionRequired: Exit(REFUSED, "renew it, or use another token"),
    errors.NotFound: Exit(FAILURE),
    errors.PromptRejected: Exit(FAILURE),
    errors.ChannelFull: Exit(NO_CAPACITY, _WHAT_RUNS),
    errors.RateLimited: Exit(NO_CAPACITY, "try again in half a minute"),
    errors.LostTrack: Exit(NETWORK, _WHAT_RUNS),
    errors.AccountSuspended: Exit(FAILURE, "until then, name another with --channel"),
    errors.ServiceError: Exit(NETWORK, _WHAT_RUNS),
    errors.UnexpectedStatus: Exit(BAD_ANSWER, _ADDRESS),
    errors.TransportError: Exit(NETWORK),
    errors.ConnectFailed: Exit(NETWORK, _ADDRESS),
    errors.ConnectionLost: Exit(NETWORK),
    errors.RequestTimeout: Exit(NETWORK),
    errors.InvalidResponse: Exit(BAD_ANSWER, _ADDRESS),
    Usage: Exit(USAGE),
    MissingExtra: Exit(FAILURE),
    BadJobFile: Exit(USAGE),
    JournalError: Exit(FAILURE),
    JournalInUse: Exit(FAILURE),
    Interrupted: Exit(INTERRUPTED),
    NotCompleted: Exit(FAILURE),
    StillRunning: Exit(NETWORK),
    DownloadFailed: Exit(NETWORK),
    OSError: Exit(FAILURE),
    Exception: Exit(FAILURE, "this is a bug in pika-balancer"),
}
"""By class; a class that is not listed goes by the nearest of its bases that is."""


def exit_for(error: BaseException) -> Exit:
    """Return how a command that failed with `error` ends."""
    return next(EXITS[cls] for cls in type(error).__mro__ if cls in EXITS)


def sentence(error: BaseException) -> str:
    """Return what went wrong and what to do, in one line that holds no secret; not yet escaped."""
    message = _message(error).rstrip(".")
    if isinstance(error, PikaError) and error.jobid is not None and error.jobid not in message:
        message += f" (job {error.jobid})"
    advice = exit_for(error).advice
    return f"{message}; {advice}" if advice and advice not in message else message


def error_document(error: BaseException) -> dict[str, Any]:
    """Return the error as `--json` shows it: facts that are not known are left out."""
    facts: dict[str, Any] = {
        "type": type(error).__name__,
        "message": sentence(error),
        "exit_code": exit_for(error).code,
    }
    if isinstance(error, PikaError):
        facts |= {key: value for key, value in vars(error).items() if key not in facts and _tells(value)}
    if isinstance(error, errors.InvalidResponse | BadJobFile):
        facts["faults"] = [attrs.asdict(fault) for fault in error.faults]
    return {"error": facts}


def _tells(value: object) -> bool:
    return value is not None and value != ()


def _message(error: BaseException) -> str:
    if isinstance(error, PikaError):
        return error.message or type(error).__name__
    if isinstance(error, OSError):
        where = f": {Path(error.filename).name}" if isinstance(error.filename, str) else ""
        return f"{error.strerror or type(error).__name__}{where}"
    # The place, but not the message: the values in it are anybody's guess.
    trace = extract_tb(error.__traceback__)
    where = f" at {Path(trace[-1].filename).name}:{trace[-1].lineno}" if trace else ""
    return f"unexpected {type(error).__name__}{where}"
