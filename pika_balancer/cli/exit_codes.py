"""Exit codes of the commands: one table from error classes to exit codes and advice.

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
    """An extra that the command needs is not installed."""


class BadJobFile(Usage):
    """A file of jobs has faults; `faults` lists them by line."""

    def __init__(self, message: str = "", *, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(message, field="jobs_file")
        self.faults = faults


class JournalError(PikaError):
    """The journal of a run cannot be read or written."""


class JournalInUse(JournalError):
    """Another run uses the same journal now."""


class Interrupted(PikaError):
    """A signal ended the command early."""


class NotCompleted(PikaError):
    """The job has ended, but not as completed; `job` has its known facts."""

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
    """The job has not ended within the time limit, and runs on."""


class DownloadFailed(PikaError):
    """The job is completed, but its result could not be fetched or saved."""


@attrs.frozen
class Exit:
    """Exit code and advice for one class of errors."""

    code: int
    advice: str = ""
    """What the user can do, if the message alone may not say so; without a full stop."""


_ADDRESS: Final = "check --base-url or PIKA_BASE_URL; `pika-balancer serve` runs the API on this machine"
_RUNNING_JOBS: Final = "`pika-balancer jobs` lists what runs"

EXITS: Final[Mapping[type[BaseException], Exit]] = {
    PikaError: Exit(FAILURE),
    errors.InvalidArgument: Exit(USAGE),
    errors.UnknownChannel: Exit(USAGE, "`pika-balancer accounts` lists the channels"),
    errors.NoCapacity: Exit(NO_CAPACITY, _RUNNING_JOBS),
    errors.StoreUnavailable: Exit(NETWORK, "check --store or PIKA_STORE_URL"),
    errors.SubmissionUnknown: Exit(NETWORK, _RUNNING_JOBS),
    errors.Unauthorized: Exit(REFUSED, "or name the file of another token with --token-file"),
    errors.SubscriptionRequired: Exit(REFUSED, "renew it, or use another token"),
    errors.ChannelFull: Exit(NO_CAPACITY, _RUNNING_JOBS),
    errors.RateLimited: Exit(NO_CAPACITY, "try again in half a minute"),
    errors.LostTrack: Exit(NETWORK, _RUNNING_JOBS),
    errors.AccountSuspended: Exit(FAILURE, "until then, name another with --channel"),
    errors.ServiceError: Exit(NETWORK, _RUNNING_JOBS),
    errors.UnexpectedStatus: Exit(BAD_ANSWER, _ADDRESS),
    errors.TransportError: Exit(NETWORK),
    errors.ConnectFailed: Exit(NETWORK, _ADDRESS),
    errors.InvalidResponse: Exit(BAD_ANSWER, _ADDRESS),
    Interrupted: Exit(INTERRUPTED),
    StillRunning: Exit(NETWORK),
    DownloadFailed: Exit(NETWORK),
    OSError: Exit(FAILURE),
    Exception: Exit(FAILURE, "this is a bug in pika-balancer"),
}
"""By class; a class that is not listed has the entry of its nearest base."""


def exit_for(error: BaseException) -> Exit:
    """Return exit code and advice for an error."""
    return next(EXITS[cls] for cls in type(error).__mro__ if cls in EXITS)


def sentence(error: BaseException) -> str:
    """Return what went wrong and what to do, in one line without secrets; not yet escaped."""
    message = _message(error).rstrip(".")
    if isinstance(error, PikaError) and error.jobid is not None and error.jobid not in message:
        message += f" (job {error.jobid})"
    advice = exit_for(error).advice
    return f"{message}; {advice}" if advice and advice not in message else message


def error_document(error: BaseException) -> dict[str, Any]:
    """Return the error for `--json`; unknown facts are left out."""
    facts: dict[str, Any] = {
        "type": type(error).__name__,
        "message": sentence(error),
        "exit_code": exit_for(error).code,
    }
    if isinstance(error, PikaError):
        facts |= {
            key: value for key, value in vars(error).items() if key not in facts and value not in (None, ())
        }
    if isinstance(error, errors.InvalidResponse | BadJobFile):
        facts["faults"] = [attrs.asdict(fault) for fault in error.faults]
    return {"error": facts}


def _message(error: BaseException) -> str:
    if isinstance(error, PikaError):
        return error.message or type(error).__name__
    if isinstance(error, OSError):
        where = f": {Path(error.filename).name}" if isinstance(error.filename, str) else ""
        return f"{error.strerror or type(error).__name__}{where}"
    # The place, but not the message, which may hold a secret.
    trace = extract_tb(error.__traceback__)
    where = f" at {Path(trace[-1].filename).name}:{trace[-1].lineno}" if trace else ""
    return f"unexpected {type(error).__name__}{where}"
