"""`JobHandle`: one job of a dispatcher, to await or to watch."""

import asyncio
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from typing import Any, Final, cast

import attrs

from pika_balancer._util.text import encodable
from pika_balancer.errors import InvalidArgument, PikaError
from pika_balancer.models import Job, Lease

VERSION: Final = 1
"""Version of the records that `JobHandle.record` returns."""

REFERENCE: Final = "ref "
"""Prefix of a slot's key while the job's id is unknown; no id starts with it."""

UNKNOWN: Final = "unknown"
"""Status of a job before the service has reported one."""


@attrs.define(eq=False, repr=False)
class JobHandle:
    """A job from its submit to its end; made by a `Dispatcher`.

    Await it for the ended job, or iterate over it for each change of status. A cancelled waiter, or a handle
    that is dropped, does not affect the job: the dispatcher follows it to its end.
    """

    verb: str
    """The kind of job: `create`, `animate`, …"""
    reply_ref: str
    """The reference of the last submit; a job of the service with this reference is this job."""
    earlier_refs: list[str] = attrs.field(init=False, factory=list[str])
    """The references of earlier submits that may have arrived; used only where a job may be sent again."""
    channel: str | None = attrs.field(init=False, default=None)
    """The channel of the job; None until a slot was granted."""
    jobid: str | None = attrs.field(init=False, default=None)
    """The service's id of the job; None until it is known."""
    job: Job | None = attrs.field(init=False, default=None)
    """The job as last reported by the service."""
    error: PikaError | None = attrs.field(init=False, default=None)
    """The error that awaiting the handle raises."""
    done: bool = attrs.field(init=False, default=False)
    """Whether awaiting the handle returns, or raises, at once."""
    lease: Lease | None = attrs.field(init=False, default=None)
    """The slot of the job; the dispatcher releases it."""
    sent: bool = attrs.field(init=False, default=False)
    """Whether the service may have the job; False again once it has refused it."""
    abandoned: bool = attrs.field(init=False, default=False)
    """Whether the submitter was cancelled, so that the job is not sent again."""
    doubt: PikaError | None = attrs.field(init=False, default=None)
    """The error of the submit, until the service is known to have the job all the same."""
    since: float = attrs.field(init=False, default=0.0)
    """Time of the accepting answer, on the dispatcher's clock."""
    missing_since: float | None = attrs.field(init=False, default=None)
    """Time of the first 404 in a row for the job; None while the service knows it."""
    found: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)
    """Set once the service is known to have the job, or the job is over."""
    _changed: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)

    @property
    def status(self) -> str:
        """The job's status as last reported; `unknown` before the first report."""
        return self.job.status if self.job is not None else UNKNOWN

    @property
    def key(self) -> str:
        """The key under which the balancer counts the slot once the job was sent.

        It is the id only if the service is known to have the job: another process that does not find the id
        among the executing jobs frees the slot.
        """
        return self.jobid if self.jobid and self.doubt is None else REFERENCE + self.reply_ref

    def __await__(self) -> Generator[Any, None, Job]:
        """Return the ended job: completed, moderated, failed or cancelled.

        Raises:
            SubmissionUnknown: It is unknown whether the service has the job.
            LostTrack, NotFound: The service no longer knows the job.
            Unauthorized, SubscriptionRequired: The service refuses all calls.
            Closed: The dispatcher was closed first; the job runs on, see `Dispatcher.drain`.
        """
        while not self.done:
            yield from self._changed.wait().__await__()
        return self._result()

    async def __aiter__(self) -> AsyncIterator[Job]:
        """Yield the job as it is now, then after each change of its status, last as it ended.

        A reader slower than the job misses intermediate statuses. Raises as `await` does.
        """
        reported: str | None = None
        while True:
            job = self.job
            if job is not None and job.status != reported:
                reported = job.status
                yield job
            elif self.done:
                self._result()
                return
            else:
                await self._changed.wait()

    def record(self) -> dict[str, Any]:
        """Return what `Dispatcher.resume` needs, as plain JSON without secrets."""
        return {
            "version": VERSION,
            "verb": self.verb,
            "reply_ref": self.reply_ref,
            "jobid": self.jobid,
            "channel": self.channel,
            "status": self.status,
        }

    def renew(self) -> None:
        """Take a new reference if the last submit may have arrived; called by the dispatcher."""
        if self.doubt is not None:
            self.doubt = None
            self.earlier_refs.append(self.reply_ref)
            self.reply_ref = f"{self.earlier_refs[0]}.{len(self.earlier_refs) + 1}"

    def update(self, job: Job | None, *, done: bool = False, error: PikaError | None = None) -> None:
        """Store a report of the service, or how the job ended, and wake the waiters; for the dispatcher."""
        self.job = job or self.job
        self.done, self.error = done, error
        # Each event wakes the waiters of one change.
        self._changed.set()
        self._changed = asyncio.Event()

    def _result(self) -> Job:
        if self.error is not None:
            raise self.error.with_traceback(None)
        return cast("Job", self.job)

    def __repr__(self) -> str:
        return f"<JobHandle {self.verb} {self.jobid or self.reply_ref!r} on {self.channel!r}: {self.status}>"


def read_records(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the records after checking all of them.

    Raises:
        InvalidArgument: A record is not as `JobHandle.record` returns it; the message gives its position.
    """
    if not isinstance(records, Iterable):
        raise InvalidArgument("records must be a list of what `drain` returned", field="records")
    checked: list[dict[str, Any]] = []
    for number, entry in enumerate(records):
        record = dict(cast("Mapping[str, Any]", entry)) if isinstance(entry, Mapping) else {}
        record.setdefault("jobid", None)
        problem = _problem(record)
        if problem is not None:
            raise InvalidArgument(f"record {number}: {problem}", field="records")
        checked.append(record)
    return checked


def _problem(record: dict[str, Any]) -> str | None:
    if type(version := record.get("version")) is not int or version != VERSION:
        return f"is not of version {VERSION}; pass what `drain` returned"
    for name in ("verb", "reply_ref", "channel", "jobid"):
        value = record.get(name)
        if name == "jobid" and value is None:
            continue
        if not isinstance(value, str) or not value or not encodable(value):
            return f"{name} must be a non-empty string{', or null if unknown' if name == 'jobid' else ''}"
    return None
