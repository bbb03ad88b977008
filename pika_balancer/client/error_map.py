"""Maps an error answer, its status, headers and body, to one error of the library."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, cast

import attrs

from pika_balancer.client.responses import read_anything
from pika_balancer.errors import (
    AccountSuspended,
    ApiError,
    BadRequest,
    ChannelFull,
    LostTrack,
    NotFound,
    PromptRejected,
    RateLimited,
    ServiceError,
    SubscriptionRequired,
    Unauthorized,
    UnexpectedStatus,
)
from pika_balancer.models import Secret
from pika_balancer.secret import Redactor

_FULL: Final = 429
_LONGEST_WAIT: Final = 3600.0
_SECONDS: Final = re.compile(r"\d+(\.\d+)?", re.ASCII)
_ERRORS: Final[dict[int, tuple[type[ApiError], str]]] = {
    400: (BadRequest, "a parameter is missing or wrong"),
    401: (Unauthorized, "the API token was refused; check USEAPI_TOKEN"),
    402: (SubscriptionRequired, "the API account has no subscription, or it has expired"),
    404: (NotFound, "nothing of that name: no account is configured, or the account or job is unknown"),
    422: (PromptRejected, "the prompt was moderated or is invalid; change it"),
    429: (RateLimited, "the account's rate is limited; wait before the next job"),
    504: (LostTrack, "the service lost track of the job, which still takes a slot; do not submit it again"),
    596: (AccountSuspended, "the Discord account has a pending moderation message; answer it in Discord"),
}


@attrs.frozen
class Answer:
    """An answer of the service."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    """The whole body, decompressed."""


def error_of(
    answer: Answer,
    *,
    now: float,
    channel: str | None = None,
    jobid: str | None = None,
    secrets: Sequence[Secret] = (),
) -> ApiError:
    """Return the error for an answer without success.

    Args:
        answer: The answer; its body may be anything.
        now: Wall time in seconds since 1970, for a `Retry-After` date if the answer has no `Date`.
        channel: The channel that the call named.
        jobid: The job that the call named.
        secrets: Tokens that no message may quote; Discord tokens in the body are never quoted either.
    """
    body, discords = read_anything(answer.body)
    redactor = Redactor(secrets, discords)
    status = answer.status
    cls, meaning = _ERRORS.get(status) or _class_of(status)
    executing = body.get("executingJobs")
    jobs: tuple[str, ...] = ()
    if status == _FULL and isinstance(executing, list) and executing:
        cls, meaning = ChannelFull, "every slot of the channel is taken"
        facts = (redactor.fact(job) for job in cast("list[object]", executing))
        jobs = tuple(job for job in facts if job)
    said = (body.get("error"), body.get("errorDetails"))
    words = redactor.words(": ".join(text for text in said if isinstance(text, str) and text))
    code = body.get("code")
    return cls(
        f"{meaning} (HTTP {status})" + (f"; the service says: {words}" if words else ""),
        status=status,
        code=code if type(code) is int else None,
        channel=channel or redactor.fact(body.get("channel")),
        jobid=redactor.fact(body.get("jobid")) or jobid,
        retry_after=_retry_after(answer.headers, body.get("retryAfter"), now),
        executing_jobs=jobs,
    )


def _class_of(status: int) -> tuple[type[ApiError], str]:
    if 500 <= status < 600:  # noqa: PLR2004 - the class of server errors
        return ServiceError, "the service failed; whether it took the request is unknown"
    if 300 <= status < 400:  # noqa: PLR2004 - the class of redirects
        return UnexpectedStatus, "a redirect, which is not followed; check the base URL"
    return UnexpectedStatus, "a status that the service does not document"


def _retry_after(headers: Mapping[str, str], moment: object, now: float) -> float | None:
    """Return the seconds to wait, 0 to 3600; None if the service states none that is valid."""
    fields = {name.lower(): value.strip() for name, value in headers.items()}
    header = fields.get("retry-after", "")
    if _SECONDS.fullmatch(header):
        return min(float(header), _LONGEST_WAIT)
    until = _timestamp(parsedate_to_datetime, header) or _timestamp(datetime.fromisoformat, moment)
    if until is None:
        return None
    # Prefer the answer's own date: the two clocks may disagree.
    start = _timestamp(parsedate_to_datetime, fields.get("date")) or now
    return min(max(0.0, until - start), _LONGEST_WAIT)


def _timestamp(parse: Callable[[str], datetime], text: object) -> float | None:
    if not isinstance(text, str) or not text:
        return None
    try:
        moment = parse(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
