"""`JobHandle`: one job in a dispatcher's care, to be awaited or watched."""

import asyncio
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from typing import Any, Final, cast

from pika_balancer._util.text import encodable
from pika_balancer.errors import Closed, InvalidArgument, PikaError
from pika_balancer.models import Job, Lease

VERSION: Final = 1
"""Of the records that `JobHandle.record` makes."""

REFERENCE: Final = "ref "
"""Begins the key by which the books have the slot of a job whose id is not known; no id begins so."""

UNKNOWN: Final = "unknown"
"""The status of a job of which the service has not told anything yet."""


class JobHandle:
    """A job from its submit to its end.

    Await it for the ended job, iterate over it for each change of its status. Neither holds the job: who
    stops waiting, or drops the handle, leaves the job to the dispatcher, which follows it all the same.

    Made by a `Dispatcher`, never by hand.
    """

    def __init__(self, verb: str, reply_ref: str) -> None:
        self.verb = verb
        self.reply_ref = reply_ref
        self.refs = [reply_ref]
        self.channel: str | None = None
        self.jobid: str | None = None
        self.job: Job | None = None
        self.lease: Lease | None = None
        self.sent = False
        self.abandoned = False
        self.over = False
        self.doubt: PikaError | None = None
        self.since = 0.0
        self.missing_since: float | None = None
        self.found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended: Job | None = None
        self._error: PikaError | None = None
        self._waiters: list[asyncio.Future[None]] = []

    verb: str
    """What was asked for: `create`, `animate`, …"""
    reply_ref: str
    """The reference under which it was sent last; a job of the service that carries it is this one."""
    refs: list[str]
    """Every reference under which it was sent: more than one only where sending it again was allowed."""
    channel: str | None
    """The channel that runs it; None until one has been chosen."""
    jobid: str | None
    """The service's id of it; None while the service has not told one."""
    job: Job | None
    """The job as the service told it last."""
    lease: Lease | None
    """The slot that it takes; the dispatcher's to give back."""
    sent: bool
    """Whether the service may have it: no longer once it has refused it, until it is sent again."""
    abandoned: bool
    """Whether its submitter was cancelled, so that nobody would send it again."""
    over: bool
    """Whether the dispatcher is done with it, though its slot may be on its way back yet."""
    doubt: PikaError | None
    """The error that its submit was answered with, until the service is known to have it all the same."""
    since: float
    """When it was accepted, as far as this process knows, on the dispatcher's clock."""
    missing_since: float | None
    """When the service first said that it does not know it; None while it does."""
    found: asyncio.Future[None]
    """Done once the service is known to have it."""

    @property
    def status(self) -> str:
        """The job's status as told last; `unknown` before anything was told."""
        return self.job.status if self.job is not None else UNKNOWN

    @property
    def key(self) -> str:
        """The key by which the books have its slot, once it was sent.

        Not the id while it is in doubt whether the service knows it: others would find it nowhere, and free
        the slot.
        """
        return self.jobid if self.jobid and self.doubt is None else REFERENCE + self.reply_ref

    @property
    def done(self) -> bool:
        """Whether awaiting it would return, or raise, at once."""
        return self._ended is not None or self._error is not None

    def __await__(self) -> Generator[Any, None, Job]:
        """Return the ended job, however it ended; raise what it was given up with.

        Raises:
            SubmissionUnknown: Nobody knows whether the service has it.
            LostTrack, NotFound: The service knows nothing of it any more.
            Unauthorized, SubscriptionRequired: The service refuses to tell.
            Closed: The dispatcher was closed first; the job goes on, see `Dispatcher.drain`.
        """
        while not self.done:
            yield from self._change().__await__()
        return self._result()

    async def __aiter__(self) -> AsyncIterator[Job]:
        """Yield the job as it stands, then after each change of its status, at last as it ended.

        A reader that is slower than the job misses what is no longer so. Raises as `await` does.
        """
        told: str | None = None
        while True:
            job = self.job
            if job is not None and job.status != told:
                told = job.status
                yield job
            elif self.done:
                self._result()
                return
            else:
                await self._change()

    def record(self) -> dict[str, Any]:
        """Return what a later process needs to take it over, as plain JSON without secrets."""
        return {
            "version": VERSION,
            "verb": self.verb,
            "reply_ref": self.reply_ref,
            "jobid": self.jobid,
            "channel": self.channel,
            "status": self.status,
        }

    def renew(self) -> None:
        """Take a new reference if the old one may have arrived after all; for the dispatcher."""
        if self.doubt is not None:
            self.doubt = None
            self.reply_ref = f"{self.refs[0]}.{len(self.refs) + 1}"
            self.refs.append(self.reply_ref)

    def tell(self, job: Job) -> None:
        """Take note of what the service says; for the dispatcher."""
        self.job = job
        self._notify()

    def end(self, job: Job) -> None:
        """Let whoever waits have the ended job; for the dispatcher."""
        self.job = self._ended = job
        self._notify()

    def fail(self, error: PikaError) -> None:
        """Let whoever waits have the error; for the dispatcher."""
        self._error = error
        self._notify()

    def _result(self) -> Job:
        if self._ended is None:
            raise (self._error or Closed()).with_traceback(None)
        return self._ended

    async def _change(self) -> None:
        """Return after the next thing that happens to the job."""
        # A future for each who waits: a cancelled one concerns nobody else.
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<JobHandle {self.verb} {self.jobid or self.reply_ref!r} on {self.channel!r}: {self.status}>"


def read_records(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the records, checked before any of them is acted on.

    Raises:
        InvalidArgument: A record is not as `JobHandle.record` makes them; the message says where.
    """
    checked: list[dict[str, Any]] = []
    if not isinstance(records, Iterable):
        raise InvalidArgument("records must be a list of what `drain` returned", field="records")
    for number, entry in enumerate(records):
        record = dict(cast("Mapping[str, Any]", entry)) if isinstance(entry, Mapping) else {}
        if type(version := record.get("version")) is not int or version != VERSION:
            raise _wrong(number, f"is not of version {VERSION}; pass what `drain` returned")
        for name in ("verb", "reply_ref", "channel"):
            if not _is_name(record.get(name)):
                raise _wrong(number, f"{name} must be a non-empty string")
        jobid = record.setdefault("jobid", None)
        if jobid is not None and not _is_name(jobid):
            raise _wrong(number, "jobid must be a non-empty string, or null while it is not known")
        checked.append(record)
    return checked


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and encodable(value)


def _wrong(number: int, problem: str) -> InvalidArgument:
    return InvalidArgument(f"record {number}: {problem}", field="records")
